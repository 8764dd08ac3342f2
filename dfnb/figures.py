"""The figures of a report and of the notebooks, in one style; those of results draw rows of ``results.parquet``."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython import display, get_ipython
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image as Picture
from sklearn.metrics import roc_curve

from dfnb import compare, core, metrics, papers, scores
from dfnb.attribution import maps
from dfnb.data.frames import Pixels, as_batch, load_frames, pictures, select
from dfnb.papers import Run

WIDTH = 7.0  # inches: the text width of an A4 page, and of a JupyterLab column
# For lines that are no paper's main line: safe for the colour-blind, and no paper's own.
COLOURS = ("#d55e00", "#cc78bc", "#56b4e9", "#ca9161", "#ece133", "#fbafe4")
MARKERS = "vP*Xph<>d"
MAP = {"cmap": "cividis", "vmin": 0, "vmax": 1}
JPEG = {"quality": 70}
SCREEN = 0.6  # the width of a picture in a notebook, as a share of the saved one's
Maps = Sequence[str] | Mapping[str, np.ndarray]
Looks = Mapping[str, dict[str, str]]  # colour and marker by line


def style() -> None:
    """One look for all figures, that of ``figures.mplstyle``; and tables that a notebook does not cut."""
    pd.set_option("display.max_colwidth", 300, "display.max_columns", 40, "display.max_rows", 200)
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind")
    plt.style.use(Path(__file__).with_suffix(".mplstyle"))
    if get_ipython():  # a panel of frames as JPEG has a tenth of the size of its PNG
        set_matplotlib_formats("jpeg", pil_kwargs=JPEG)


def save(figure: Figure, profile: str, name: str, caption: str) -> list[Path]:
    """Save a figure as PNG (in 256 colours: a third of the bytes) and PDF with its caption; the same figure, the same bytes."""
    folder = scores.report_folder(profile) / "figures"
    hidden = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    for suffix, metadata in hidden.items():
        with core.atomic(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, metadata=metadata)
            if suffix == "png":
                picture = Picture.open(temporary)
                picture.convert("RGB").quantize().save(temporary, optimize=True, dpi=picture.info["dpi"])
    core.write_bytes(folder / f"{name}.txt", f"{caption}\n".encode())
    return [folder / f"{name}.{suffix}" for suffix in (*hidden, "txt")]


def described(paths: Sequence[Path]) -> display.Image:
    """What :func:`save` saved, as a notebook shows it: the picture, its caption the alternative text."""
    plt.close("all")
    picture = cv2.resize(cv2.imread(str(paths[0])), None, fx=SCREEN, fy=SCREEN, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG["quality"]])
    return display.Image(content.tobytes(), format="jpeg", alt=paths[2].read_text(encoding="utf-8").strip())


def source(code: type | Callable) -> display.Markdown:
    """The source of a class or function, as a notebook shows it: displayed, never retyped."""
    return display.Markdown(f"```python\n{inspect.getsource(code)}```")


# ---------------------------------------------------------------- of frames


def panel_frames(name: str, columns: int = 6) -> pd.DataFrame:
    """Test frames for a panel, the middle one of each method's first videos, real last, about ``columns`` in all."""
    test = select(load_frames(name), "test")
    videos = test.groupby("video", sort=False, observed=True)
    middle = test[videos.cumcount() == videos["row"].transform("size") // 2]
    chosen = middle.groupby("method", observed=True).head(max(1, columns // test["method"].nunique()))
    return chosen.sort_values(["label", "method"], ascending=[False, True], key=lambda column: column.astype(str))


def panel(rows: Sequence[tuple[str, Sequence, Sequence, Mapping]], titles: Sequence[str] = ()) -> Figure:
    """Pictures in rows, their true masks outlined; the last row has a colour bar if it is of maps.

    ``rows``: name, pictures (n, h, w) or (n, H, W, 3), masks (n, H, W), keywords of ``imshow``.
    """
    columns = max(len(images) for _, images, _, _ in rows)
    side = WIDTH / (max(columns, 5) + 0.6)
    figure, axes = plt.subplots(len(rows), columns, figsize=(WIDTH, len(rows) * side + 0.35), squeeze=False)
    for line, (name, images, masks, keywords) in zip(axes, rows):
        for axis, image, mask in zip(line, images, masks):
            if image.ndim == 2:
                image = cv2.resize(image.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            axis.imshow(image, **keywords)
            for colour, width in (("black", 2.2), ("white", 1.0)) if mask.any() and not mask.all() else ():
                axis.contour(mask, levels=[0.5], colors=[colour], linewidths=width)
        line[0].set_ylabel(name.replace(" ", "\n"), fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=bool(axis.images))
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=7, fontweight="normal")
    if keywords is MAP:
        bar = figure.colorbar(axes[-1, -1].images[0], ax=axes, shrink=0.9 / len(rows), anchor=(0, 0), aspect=12)
        bar.ax.tick_params(labelsize=6)
    return figure


@torch.inference_mode()
def frames_panel(run: Run, frames: pd.DataFrame, given: Maps = (), network: papers.Network | None = None) -> Figure:
    """Frames with their true masks and P(fake), what the network itself shows of them, and attribution maps.

    Rows: the frames; ``Network.panel``; the network's own map; the maps ``given``: names for
    :func:`dfnb.attribution.maps.of`, or maps (n, h, w) in [0, 1] by name. ``network`` is the run's where not given.
    """
    network = network or run.network()
    batch = as_batch(frames, run.settings)
    outputs, masks = papers.outputs_of(network, batch["image"]), batch["mask"][:, 0].numpy()
    rows = [("frame, true mask", pictures(batch, run.settings), masks, {})]
    for name, values in network.panel(outputs, batch).items():
        grey = {"cmap": "gray", "vmin": 0, "vmax": float(np.nanquantile(values, 0.99)) or 1}
        rows.append((name, values.float().numpy(), masks, grey))
    own = [name for name, where in network.maps().items() if where == "localise"]
    found = {name: network.localise(outputs).float().numpy() for name in own}
    found |= given if isinstance(given, Mapping) else {name: maps.of(run, frames, name) for name in given}
    rows += [(name, values, masks, MAP) for name, values in found.items()]
    shares = [f"\n{mask.mean():.0%} forged" if mask.any() else "" for mask in masks]  # what a blind map would hit
    shown = zip(frames["method"], network.score(outputs).numpy(), shares)
    return panel(rows, [f"{method}\nP(fake) {p:.2f}{share}".replace("$", r"\$") for method, p, share in shown])


def sample_grid(name: str, split: str = "test", columns: int = 8) -> Figure:
    """Frames of a dataset, one row per method, the exact mask outlined; chosen evenly over the videos."""
    frames = select(load_frames(name), split).drop_duplicates("video")
    pixels, rows = Pixels(frames.attrs["folder"]), []
    for method, videos in sorted(frames.groupby(frames["method"].astype(str)), key=lambda group: group[0] != "real"):
        chosen = videos.iloc[np.unique(np.linspace(0, len(videos) - 1, columns).round().astype(int))]
        crops = [pixels.crop(*place) for place in zip(chosen["path"], chosen["row"])]
        places = zip(chosen["mask"], chosen["row"], (crop.shape[:2] for crop in crops))
        rows.append((method, crops, [pixels.mask(*place) for place in places], {}))
    return panel(rows)


# ---------------------------------------------------------------- of results


def with_legend(figure: Figure) -> Figure:
    """The figure with a legend of all labels above all axes, in as many columns as fit; it grows by the legend's rows."""
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    columns = max(1, int(125 / (max(map(len, handles)) + 10)))  # in characters of 7 points, 10 for the handle
    figure.set_figheight(figure.get_figheight() + 0.16 * np.ceil(len(handles) / columns))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    return figure


def looks(results: pd.DataFrame) -> Looks:
    """Colour and marker of every line: its paper's for the main line, others in order for the rest of a group."""
    found, lines = {}, results.drop_duplicates("line")
    pools = lines["group"].where(lines["group"] == "", lines["paper"] + "/" + lines["group"])
    for _, pool in lines.groupby(pools, sort=False):
        taken, further = set(), zip(cycle(COLOURS), cycle(MARKERS))
        for row in pool.itertuples():
            own = row.arm in ("", "main") and row.paper in papers.names() and row.paper not in taken
            colour, marker = papers.module(row.paper).PAPER[-2:] if own else next(further)
            taken.add(row.paper)
            found[row.line] = {"color": colour, "marker": marker}
    return found


def training_curves(runs: Sequence[Run]) -> Figure:
    """Loss terms, and validation AUC with the chosen epoch, by epoch; a phase goes on where the one before it ended."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    terms = dict.fromkeys(name for run in runs for name in run.log if name.startswith("loss_"))
    dashes = dict(zip(terms, cycle(("-", "--", ":", "-.", (0, (1, 4)), (0, (8, 2))))))
    for run, colour in zip(runs, cycle(sns.color_palette("colorblind"))):
        log, chosen = run.log, run.record["chosen"]
        before = sum(len(other.log) for other in runs if other.id == run.record["start"])
        epochs = log["epoch"] + before
        for term in log.columns.intersection(dashes, sort=False):
            label = term.removeprefix("loss_")
            left.plot(epochs, log[term], linestyle=dashes[term], color=colour, marker=".", label=label)
        phase = ", second phase" if before else ""
        label = f"{papers.module(run.parameters['paper']).PAPER.title}, seed {run.parameters['seed']}{phase}"
        right.plot(epochs, log["validation_auc"], "o-", color=colour, markersize=3, label=label)
        right.plot(chosen["epoch"] + before, chosen["auc"], "*", color=colour, markersize=13, markeredgecolor="white")
    left.set(title="training loss", xlabel="epoch", ylim=(0, None))
    right.set(title="validation AUC, star: chosen epoch", xlabel="epoch", ylim=(0.45, 1.01))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return with_legend(figure)


def forest(rows: pd.DataFrame, look: Looks, report: scores.Report) -> Figure:
    """A value of each line on each test set, or of each method, with its interval and a dot per seed; of one metric."""
    names = compare.named_sets(rows) if "all" in {*rows["method"]} else rows["method"]
    lines, shown = list(rows["line"].unique()), list(names.unique())
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + len(shown) * max(0.4, 0.13 * len(lines))))
    for i, line in enumerate(lines):
        found = rows[rows["line"] == line]
        places = names[found.index].map(shown.index) + (i - (len(lines) - 1) / 2) * 0.8 / max(len(lines), 4)
        error = np.nan_to_num([found["value"] - found["low"], found["high"] - found["value"]]).clip(0)
        axes.errorbar(found["value"], places, xerr=error, **look[line], linestyle="", capsize=3, label=line)
        for place, seeds in zip(places, found["by_seed"].str.split(", ")):
            axes.plot(np.asarray(seeds, float), [place] * len(seeds), ".", color="0.25", markersize=2.5)
    axes.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes.set(yticks=range(len(shown)), yticklabels=shown, ylim=(len(shown) - 0.5, -0.5))
    axes.set(xlabel=f"{rows['level'].iloc[0]} {rows['metric'].iloc[0]}, 95 % interval (dotted: chance)")
    axes.set_xlim(min(0.4, rows["low"].min() - 0.02), 1.0)
    return with_legend(figure)


def strip(rows: pd.DataFrame, look: Looks) -> Figure:
    """A small picture of one value per line, or of one difference, with its interval and a dot per seed."""
    figure, axes = plt.subplots(figsize=(WIDTH / 2, 0.55 + 0.25 * len(rows)))
    for place, row in enumerate(rows.itertuples()):
        error = [[row.value - row.low], [row.high - row.value]]
        axes.errorbar(row.value, place, xerr=np.nan_to_num(error), **look[row.line], linestyle="", capsize=3)
        seeds = np.asarray(row.by_seed.split(", "), float)
        axes.plot(seeds, [place] * len(seeds), ".", color="0.25", markersize=3)
    if rows["minus"].any():
        axes.axvline(0, color="0.4", linestyle=":", linewidth=1)
    names = rows["line"].where(rows["minus"] == "", rows["line"] + "\n− " + rows["minus"])
    axes.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
    return figure


def roc(rows: pd.DataFrame, look: Looks, report: scores.Report) -> Figure:
    """ROC over videos, one panel per test set, one thin curve per seed of the lines of these results."""
    rows = rows[rows["mean_over"] == ""]  # a mean over test sets has no curve
    test_sets, lines = rows["test_set"].unique(), {line.name: line for line in report.lines()}
    figure, panels = plt.subplots(1, len(test_sets), figsize=(WIDTH, 2.4), sharey=True, squeeze=False)
    diagonal = np.geomspace(0.005, 1)
    for axes, test_set in zip(panels[0], test_sets):
        for name, seeds in rows.loc[rows["test_set"] == test_set, ["line", "seeds_list"]].itertuples(index=False):
            tables = report.read(lines[name], test_set)
            for table in [each for each in tables if str(each.attrs["seed"]) in ("None", *seeds.split(", "))]:
                videos = metrics.units(table, "video")
                fpr, tpr, _ = roc_curve(videos["label"], videos["score"])
                axes.plot(fpr, tpr, color=look[name]["color"], linewidth=1, label=name)
        axes.plot(diagonal, diagonal, ":", color="0.5", linewidth=0.8)
        axes.set(title=test_set, xlabel="FPR, log scale", xscale="log", xlim=(0.005, 1), ylim=(-0.01, 1.01))
    panels[0, 0].set_ylabel("TPR")
    return with_legend(figure)


def curves(panels: Mapping[str, pd.DataFrame], look: Looks, columns: int, x: str, y: str) -> Figure:
    """Curves with bands in panels by title; the tables have columns x, label, value, low and high."""
    size = (int(np.ceil(len(panels) / columns)), min(columns, len(panels)))
    figure, axes = plt.subplots(*size, figsize=(WIDTH, 1.8 * size[0]), sharex=True, sharey=True, squeeze=False)
    for axis, (title, rows) in zip(axes.flat, panels.items()):
        for label, curve in rows.sort_values("x", kind="stable").groupby("label", sort=False):
            axis.plot(curve["x"], curve["value"], **look[label], markersize=3, label=label)
            axis.fill_between("x", "low", "high", data=curve, color=look[label]["color"], alpha=0.15, linewidth=0)
        axis.set_title(title)
    plt.setp(axes.flat[len(panels) :], visible=False)
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
    return with_legend(figure)


def robustness_curves(rows: pd.DataFrame, look: Looks, report: scores.Report) -> Figure | None:
    """Video AUC against severity, 0 without corruption; one panel per corruption, first test set that was corrupted."""
    condition = rows["condition"].str.rpartition(" ")
    rows = rows.assign(label=rows["line"], corruption=condition[0], x=pd.to_numeric(condition[2]).fillna(0))
    corrupted = rows[rows["x"] > 0]
    if corrupted.empty:
        return None
    rows = rows[rows["line"].isin(corrupted["line"]) & (rows["test_set"] == corrupted["test_set"].iloc[0])]
    panels = {name: rows[rows["corruption"].isin(["", name])] for name in corrupted["corruption"].unique()}
    return curves(panels, look, 4, "severity", "video AUC")


def deletion_curves(rows: pd.DataFrame, look: Looks, report: scores.Report) -> Figure:
    """Mean P(fake) while pixels are deleted or inserted in the order of each map; two panels per line, first test set."""
    rows = rows[rows["test_set"] == rows["test_set"].iloc[0]]
    step = rows["metric"].str.partition(" ")
    rows = rows.assign(label=rows["condition"].str.removeprefix("map "), x=step[2].astype(int))
    places = [(line, kind) for line in rows["line"].unique() for kind in ("deletion", "insertion")]
    panels = {f"{line}, {kind}": rows[(rows["line"] == line) & (step[0] == kind)] for line, kind in places}
    further = zip(cycle(sns.color_palette("colorblind").as_hex()), cycle(MARKERS))
    styles = {name: dict(zip(("color", "marker"), next(further))) for name in rows["label"].unique()}
    styles |= {name: {"color": "0.5", "linestyle": dashes} for name, dashes in zip(maps.CONTROLS, (":", "--"))}
    return curves(panels, styles, 2, "pixels, %", "P(fake)")
