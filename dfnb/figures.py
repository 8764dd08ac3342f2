"""The figures of a report, in one style; they draw rows of the results and need no network."""

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import display, get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image as Picture

from dfnb.files import atomic, report_folder, write_bytes
from dfnb.store import Detector, StoredRun

WIDTH = 7.0  # inches: the text width of an A4 page, and of a JupyterLab column
# Keywords of imshow for attribution maps.
MAP = {"cmap": "cividis", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
JPEG = {"quality": 70}
SCREEN = (840, 4000)  # pixels, the most of a picture in a notebook
# For detectors without a look of their own: safe for the colour-blind, and no paper's.
COLOURS = ("#d55e00", "#cc78bc", "#56b4e9", "#ca9161", "#ece133", "#fbafe4")
MARKERS = "vP*Xph<>d"
DASHES = ("-", "--", ":", "-.", (0, (1, 4)), (0, (8, 2)))
Looks = Mapping[str, dict[str, str]]  # colour and marker by the name of a detector


# ---------------------------------------------------------------- style and files


def style() -> None:
    """Give all figures one look, that of ``figures.mplstyle``, and show tables in full."""
    pd.set_option("display.max_colwidth", 300)
    pd.set_option("display.max_columns", 40)
    pd.set_option("display.max_rows", 200)
    plt.style.use(["seaborn-v0_8-paper", "seaborn-v0_8-whitegrid", "seaborn-v0_8-colorblind"])
    plt.style.use(Path(__file__).with_suffix(".mplstyle"))
    if get_ipython():  # a panel of frames as JPEG has a tenth of the size of its PNG
        set_matplotlib_formats("jpeg", pil_kwargs=JPEG)


def save(figure: Figure, profile: str, name: str, caption: str) -> list[Path]:
    """Save a figure as PNG and PDF, and its caption as text; returns the three paths.

    The same figure gives the same bytes. The PNG has 256 colours, which is a third of the size.
    """
    folder = report_folder(profile) / "figures"
    png = folder / f"{name}.png"
    with atomic(png) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
        picture = Picture.open(temporary)
        small = picture.convert("RGB").quantize()
        small.save(temporary, optimize=True, dpi=picture.info["dpi"])
    pdf = folder / f"{name}.pdf"
    with atomic(pdf) as temporary:
        changing = dict.fromkeys(("CreationDate", "Producer", "Creator"))
        figure.savefig(temporary, metadata=changing)
    text = write_bytes(folder / f"{name}.txt", f"{caption}\n".encode())
    return [png, pdf, text]


def shown(paths: Sequence[Path]) -> display.Image:
    """The files of :func:`save` as a notebook shows them, the caption as alternative text."""
    plt.close("all")
    picture = Picture.open(paths[0]).convert("RGB")
    picture.thumbnail(SCREEN)
    content = io.BytesIO()
    picture.save(content, "JPEG", **JPEG)
    caption = paths[2].read_text(encoding="utf-8").strip()
    return display.Image(content.getvalue(), format="jpeg", alt=caption)


def source(code: type | Callable) -> display.Markdown:
    """The source of a class or function, as a notebook shows it: displayed, never retyped."""
    return display.Markdown(f"```python\n{inspect.getsource(code)}```")


def with_legend(figure: Figure) -> Figure:
    """Add a legend of all labels above all axes; the figure grows by its height."""
    handles = {}
    for axes in figure.axes:
        handles_of_axes, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, handles_of_axes))
    longest = max(len(label) for label in handles)
    columns = max(1, 125 // (longest + 10))  # a line has 125 characters, a handle takes 10
    rows = ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * rows)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    return figure


# ---------------------------------------------------------------- trainings


def training_curves(runs: Sequence[StoredRun]) -> Figure:
    """Loss terms, and validation AUC with the chosen epoch, by epoch.

    A training that starts from another of these ``runs`` goes on where that one ended.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    for number, run in enumerate(runs):
        colour = f"C{number}"
        earlier_epochs = sum(len(other.log) for other in runs if other.id == run.record["start"])
        epochs = run.log["epoch"] + earlier_epochs
        losses = run.log.filter(like="loss_")
        for dash, (name, values) in zip(cycle(DASHES), losses.items()):
            left.plot(epochs, values, marker=".", linestyle=dash, color=colour, label=name)
        label = f"{run.detector['title']}, seed {run.seed}"
        if earlier_epochs:
            label = f"{label}, second phase"
        right.plot(epochs, run.log["validation_auc"], "o-", color=colour, markersize=3, label=label)
        chosen = run.record["chosen"]
        star = {"color": colour, "markersize": 13, "markeredgecolor": "white"}
        right.plot(chosen["epoch"] + earlier_epochs, chosen["auc"], "*", **star)
    left.set(title="training loss", xlabel="epoch", ylim=(0, None))
    right.set(title="validation AUC, star: chosen epoch", xlabel="epoch", ylim=(0.45, 1.01))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return with_legend(figure)


# ---------------------------------------------------------------- rows of the results


def looks(detectors: Sequence[Detector]) -> Looks:
    """Colour and marker of every detector, the same in all figures.

    The main detector of a paper, and the main variant of an ablation, have the look that the paper
    declares; all others take colours and markers in turn.
    """
    looks = {}
    taken = set()
    further = zip(cycle(COLOURS), cycle(MARKERS))
    for detector in detectors:
        role = (detector.paper, detector.ablation)
        if detector.runs and detector.variant in ("", "main") and role not in taken:
            taken.add(role)
            colour = detector.runs[0].detector["colour"]
            marker = detector.runs[0].detector["marker"]
        else:
            colour, marker = next(further)
        looks[detector.name] = {"color": colour, "marker": marker}
    return looks


def _draw_row(axes: Axes, row: Mapping[str, Any], place: float, look: Mapping[str, str]) -> None:
    """Draw a value with its interval, and a dot per seed, at a place of the vertical axis."""
    error = np.array([[row["value"] - row["low"]], [row["high"] - row["value"]]])
    error = np.nan_to_num(error).clip(0)
    bar = {"linestyle": "", "capsize": 3, "label": row["detector"]}
    axes.errorbar(row["value"], place, xerr=error, **look, **bar)
    seeds = [float(text) for text in row["by_seed"].split(", ")]
    axes.plot(seeds, [place] * len(seeds), ".", color="0.25", markersize=3, zorder=3)


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, … of the vertical axis, from top to bottom."""
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


def forest(rows: pd.DataFrame, column: str, looks: Looks) -> Figure:
    """The first metric of the rows, per detector and per value of a column like the test set."""
    rows = rows[rows["metric"] == rows["metric"].iloc[0]]
    names = list(rows[column].unique())
    detectors = list(rows["detector"].unique())
    height = max(0.4, 0.13 * len(detectors))
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + height * len(names)))
    step = 0.8 / max(len(detectors), 4)
    for row in rows.to_dict("records"):
        position = detectors.index(row["detector"]) - (len(detectors) - 1) / 2
        place = names.index(row[column]) + position * step
        _draw_row(axes, row, place, looks[row["detector"]])
    axes.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
    _name_places(axes, names)
    label = f"{rows['level'].iloc[0]} {rows['metric'].iloc[0]}"
    axes.set_xlabel(f"{label}, 95 % interval, a dot per seed (dotted: chance)")
    axes.set_xlim(min(0.4, rows["low"].min() - 0.02), 1.0)
    return with_legend(figure)


def strip(rows: Sequence[Mapping[str, Any]], looks: Looks) -> Figure:
    """A small picture of one value per detector, or of differences of two."""
    figure, axes = plt.subplots(figsize=(WIDTH / 2, 0.55 + 0.25 * len(rows)))
    names = []
    for place, row in enumerate(rows):
        _draw_row(axes, row, place, looks[row["detector"]])
        name = row["detector"]
        if row["minus"]:
            name = f"{name}\n− {row['minus']}"
            axes.axvline(0, color="0.4", linestyle=":", linewidth=1)
        names.append(name)
    _name_places(axes, names)
    return figure
