"""The figures of a report, in one style; they draw rows of the results and need no network."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path

import matplotlib.pyplot as plt
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
# For detectors without a look of their own: safe for the colour-blind, and no paper's.
COLOURS = ("#d55e00", "#cc78bc", "#56b4e9", "#ca9161", "#ece133", "#fbafe4")
MARKERS = "vP*Xph<>d"
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
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 70})


def save(
    figure: Figure,
    profile: str,
    name: str,
    caption: str,
) -> list[Path]:
    """Save a figure as PNG and PDF, and its caption as text; returns the three paths.

    The same figure gives the same bytes. The PNG has 256 colours, which is a third of the size.
    """
    folder = report_folder(profile) / "figures"
    png = folder / f"{name}.png"
    with atomic(png) as temporary:
        figure.savefig(temporary)
        picture = Picture.open(temporary).convert("RGB")
        picture.quantize().save(temporary, optimize=True)
    pdf = folder / f"{name}.pdf"
    with atomic(pdf) as temporary:
        changing = ("CreationDate", "Producer", "Creator")
        figure.savefig(temporary, metadata=dict.fromkeys(changing))
    text = folder / f"{name}.txt"
    write_bytes(text, f"{caption}\n".encode())
    return [png, pdf, text]


def shown(paths: Sequence[Path]) -> display.Image:
    """The files of :func:`save` as a notebook shows them, the caption as alternative text."""
    plt.close("all")
    png, _, text = paths
    caption = text.read_text(encoding="utf-8").strip()
    return display.Image(filename=png, alt=caption)


def source(code: type | Callable) -> display.Markdown:
    """The source of a class or function, as a notebook shows it: displayed, never retyped."""
    return display.Markdown(f"```python\n{inspect.getsource(code)}```")


def with_legend(figure: Figure) -> Figure:
    """Add a legend of all labels above all axes; the figure grows by its height."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles[label] = handle
    longest = max(len(label) for label in handles)
    columns = max(1, 125 // (longest + 10))  # a line has 125 characters, a handle takes 10
    rows = ceil(len(handles) / columns)
    height = figure.get_figheight() + 0.16 * rows
    figure.set_figheight(height)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=columns,
    )
    return figure


# ---------------------------------------------------------------- trainings


def training_curves(phases: Sequence[StoredRun]) -> Figure:
    """Loss terms, and validation AUC with the chosen epochs, by epoch.

    Args:
        phases: A training, after those from which it started.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    log = pd.concat([run.log for run in phases], ignore_index=True)
    log.index += 1
    log.filter(like="loss_").plot(ax=left, marker=".", colormap="tab10", legend=False)
    log["validation_auc"].plot(ax=right, marker=".")
    earlier_epochs = 0
    for run in phases:
        chosen = run.record["chosen"]
        epoch = earlier_epochs + chosen["epoch"]
        right.plot(epoch, chosen["auc"], "*", markersize=13)
        earlier_epochs += len(run.log)
    left.set(title="training loss", xlabel="epoch", ylim=(0, None))
    right.set(title="validation AUC, star: chosen epoch", xlabel="epoch")
    for axes in (left, right):
        axes.locator_params("x", integer=True)
    return with_legend(figure)


# ---------------------------------------------------------------- rows of the results


def looks(detectors: Sequence[Detector]) -> Looks:
    """Colour and marker of every detector, the same in all figures.

    Main detectors have the look that their paper declares; all others take colours and markers in
    turn.
    """
    looks = {}
    further = zip(cycle(COLOURS), cycle(MARKERS))
    for detector in detectors:
        look = None
        if detector.runs and not detector.variant:
            described = detector.runs[0].detector
            look = {
                "color": described["colour"],
                "marker": described["marker"],
            }
        if look is None or look in looks.values():
            colour, marker = next(further)
            look = {"color": colour, "marker": marker}
        looks[detector.name] = look
    return looks


def forest(rows: pd.DataFrame, column: str, looks: Looks) -> Figure:
    """The first metric of the rows, per detector and per value of a column like the test set."""
    metric = rows["metric"].iloc[0]
    level = rows["level"].iloc[0]
    rows = rows[rows["metric"] == metric]
    names = rows[column].unique()
    lowest = rows["low"].min()
    by_detector = rows.groupby("detector", sort=False)
    step = 0.8 / len(by_detector)  # neighbours of a test set have a distance of 1
    offset = step / 2 - 0.4
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + 0.2 * len(rows)))
    for detector, of_detector in by_detector:
        places = pd.Index(names).get_indexer(of_detector[column]) + offset
        _draw(axes, of_detector, places, looks[detector])
        offset += step
    axes.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes.set(
        xlabel=f"{level} {metric}, 95 % interval, a dot per seed (dotted: chance)",
        xlim=(min(0.4, lowest - 0.02), 1.0),
        yticks=range(len(names)),
        yticklabels=names,
        ylim=(len(names) - 0.5, -0.5),
    )
    return with_legend(figure)


def _draw(
    axes: Axes,
    rows: pd.DataFrame,
    places: Sequence[float],
    look: Mapping[str, str],
) -> None:
    """Draw a detector's values, intervals and seeds at places of the vertical axis."""
    values = rows["value"]
    below = (values - rows["low"]).clip(lower=0)
    above = (rows["high"] - values).clip(lower=0)
    axes.errorbar(
        values,
        places,
        xerr=[below, above],
        linestyle="",
        capsize=3,
        label=rows["detector"].iloc[0],
        **look,
    )
    for by_seed, place in zip(rows["by_seed"], places):
        seeds = [float(value) for value in by_seed.split(", ")]
        heights = [place] * len(seeds)
        axes.plot(seeds, heights, ".", color="0.25", markersize=3, zorder=3)
