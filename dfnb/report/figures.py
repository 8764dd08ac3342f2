"""The figures of a report, in one style: of numbers and training logs, without any network."""

import inspect
import io
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from dfnb.files import write_bytes
from dfnb.store import reports
from dfnb.store.runs import StoredRun

if TYPE_CHECKING:
    from seaborn import FacetGrid

# Widths of a figure in inches: one column of a paper, or two, the text width of an A4 page and of a
# JupyterLab column.
WIDTHS = {"one": 3.3, "two": 7.0}
DPI = 300  # of the saved PNG, and of the pictures in the PDF
LINE = 44  # letters of a line of a long name
MANY = 8  # detectors; the lines of more are not told apart in one panel
REAL, FAKE = "C0", "C2"  # colours of real and fake frames


# ---------------------------------------------------------------- style and files


def style(columns: Literal["one", "two"] = "two") -> None:
    """Give all figures the look of ``figures.mplstyle``, and let notebooks show tables in full.

    Args:
        columns: How many columns of a paper a figure spans. Letters have the same size in both.
    """
    pd.set_option("display.max_colwidth", 600, "display.max_columns", 40, "display.max_rows", 200)
    styles = [
        "seaborn-v0_8-paper",
        "seaborn-v0_8-whitegrid",
        "seaborn-v0_8-colorblind",
        Path(__file__).with_suffix(".mplstyle"),
    ]
    plt.style.use(styles)
    plt.rcParams["figure.figsize"] = (WIDTHS[columns], WIDTHS[columns] / 2)
    # seaborn changes the layout of its grids, which arranged() changes back.
    warnings.filterwarnings("ignore", "The figure layout has changed to tight")
    # In notebooks: a panel of frames as JPEG is a tenth as large as its PNG.
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 70})


def width() -> float:
    """The width of figures in inches, see :func:`style`."""
    return plt.rcParams["figure.figsize"][0]


def wrapped(name: str) -> str:
    """A name in lines of at most LINE letters, as that of a detector without ``variant``."""
    return textwrap.fill(name, LINE)


def arranged(grid: "FacetGrid", height: float, legend_columns: int = 4) -> Figure:
    """The figure of a seaborn grid in the style of all others, ``height`` inches high.

    It is as wide as the text. The value of a facet is its title, and wraps where it is wider than
    the panel. The legend has no title and stands above the panels: seaborn would put it at the
    right, and make the figure wider for it. Long names wrap and have fewer ``legend_columns``; the
    figure is higher for it.
    """
    from seaborn import move_legend  # takes a second to import; most notebooks need none

    for name, axis in grid.axes_dict.items():
        panels_in_a_line = axis.get_gridspec().ncols
        title = ", ".join(name) if isinstance(name, tuple) else str(name)  # row and column
        # About 10 bold letters to an inch.
        axis.set_title(textwrap.fill(title, int(10 * width() / panels_in_a_line)))
    if grid.axes_dict:
        lines = max(axis.get_title().count("\n") + 1 for axis in grid.axes_dict.values())
        height += 0.15 * max(0, lines - 2) * axis.get_gridspec().nrows
    if grid.legend:
        names = [wrapped(text.get_text()) for text in grid.legend.texts]
        letters = max(len(line) for name in names for line in name.splitlines())
        # About 18 letters to an inch; beside a name stand its line and a space, of 8 letters.
        columns = max(1, min(legend_columns, int(18 * width() / (letters + 8))))
        planned = -(-len(names) // legend_columns)
        lines = -(-sum(name.count("\n") + 1 for name in names) // columns)
        height += 0.14 * max(0, lines - planned)
        move_legend(grid, "outside upper center", ncols=columns, title="")
        for text, name in zip(grid.figure.legends[0].texts, names):
            text.set_text(name)
    grid.figure.set_size_inches(width(), height)
    grid.figure.set_layout_engine("constrained")
    return grid.figure


def show(
    figure: Figure,
    folder: Path | None,
    name: str,
    caption: str,
    run: StoredRun | None = None,
) -> list[Path]:
    """Display a figure with its caption, and save it as PNG and PDF; returns the paths.

    A saved figure carries its caption, and the same figure gives the same bytes. The figure is
    closed.

    Args:
        figure: Of matplotlib.
        folder: Of the report, as a notebook's ``p.folder``; None: it is only displayed.
        name: Of the files.
        caption: What the figure shows, and how it was made.
        run: This run, if the figure is of it alone, see :func:`dfnb.store.reports.file_name`.
    """
    _display(figure, caption)  # first: the saved figure will have its caption inside
    saved = []
    if folder:
        path = reports.pictures_folder(folder.name) / "figures"
        path /= reports.file_name(folder.name, name, run)
        # About 15 letters to an inch at this size.
        text = textwrap.fill(caption, int(15 * figure.get_figwidth()))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the caption stands below what is drawn already
        # Below the figure's edge: savefig.bbox is tight in figures.mplstyle, so it is saved, too.
        figure.text(0, 0, f"\n{text}", fontsize=7, va="top")
        # Entries that would change with the time or the versions of libraries; None omits them.
        omitted = {"png": ["Software"], "pdf": ["CreationDate", "Producer", "Creator"]}
        for suffix, names in omitted.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, dpi=DPI, metadata=dict.fromkeys(names))
            saved.append(write_bytes(Path(f"{path}.{suffix}"), content.getvalue()))
    plt.close(figure)  # else the notebook would show it a second time
    return saved


def display_captioned(figure: Figure, caption: str) -> None:
    """Display a figure with its caption, which is also its alternative text, and close it."""
    _display(figure, caption)
    plt.close(figure)


def _display(figure: Figure, caption: str) -> None:
    """Display a figure with its caption below, and leave it open."""
    # Whichever of these formats the notebook shows has the alternative text.
    metadata = {kind: {"alt": caption} for kind in ("image/jpeg", "image/png")}
    display(figure, metadata=metadata)
    display(Markdown(f"*{caption}*"))


def stored(path: Path) -> Image:
    """A PNG that :func:`show` has saved, small enough for a notebook: a JPEG."""
    from PIL import Image as Picture

    with Picture.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((900, 4000))  # the largest width and height in pixels
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    return Image(content.getvalue(), format="jpeg", alt=path.stem.replace("_", " "))


def source(code: type | Callable) -> Markdown:
    """The source of a class or function, folded, so that no cell of a notebook repeats it."""
    text = f"```python\n{inspect.getsource(code)}```"
    return Markdown(f"<details><summary>{code.__name__}</summary>\n\n{text}\n</details>")


# ---------------------------------------------------------------- trainings


def training_curves(run: StoredRun) -> Figure:
    """Each loss term and the validation AUC by epoch of a training; dotted: the chosen epoch.

    The total loss has a panel of its own unless it equals one of its terms. ``run`` needs a log,
    which released weights do not have.
    """
    log = run.log.set_index("epoch").filter(regex="loss_|validation_auc")
    terms = [name for name in log if name != "loss_total"]
    if not any(log["loss_total"].equals(log[name]) for name in terms):
        terms.insert(-1, "loss_total")  # before the validation, which is last
    lines = -(-len(terms) // 4)  # four panels in a line, rounded up
    figure, axes = plt.subplots(
        lines, min(len(terms), 4), figsize=(width(), 1.5 * lines), sharex=True, squeeze=False
    )
    for axis in axes.flat[len(terms) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, terms):
        axis.plot(log.index, log[name], ".-", color="C0", markersize=4)
        axis.axvline(run.record.chosen.epoch, linestyle=":")
        is_loss = name.startswith("loss_")
        axis.set_title(name.removeprefix("loss_") if is_loss else "validation")
        axis.set_ylabel("loss" if is_loss else "frame AUC")
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True)
    for axis in axes.flat[: len(terms)][-4:]:  # the lowest one of each column
        axis.tick_params(labelbottom=True)  # also where an empty panel is below
    return figure


# ---------------------------------------------------------------- numbers


def forest(
    numbers: pd.DataFrame,
    by_seed: pd.DataFrame | None = None,
    across: str = "place",
    material: float = 0,
) -> Figure:
    """A forest plot: each value with its interval, and one grey dot per seed below it.

    Args:
        numbers: Of :func:`dfnb.report.metrics.measure`, all of one metric. Where their ``minus`` is
            not the same in all panels, the values of ``across`` should say what is subtracted.
        by_seed: The same numbers with a row per seed; None draws no dots.
        across: There is one panel per value of this column, such as ``place`` of
            :func:`dfnb.report.reading.scores`; each panel has one line per detector.
        material: Of differences: a band from -material to material is grey; 0: none.
    """
    lines = list(numbers["detector"].unique())
    labels = [wrapped(name) for name in lines]
    highest = max(label.count("\n") for label in labels)  # lines of a label, after its first
    figure, axes = plt.subplots(
        1,
        numbers[across].nunique(),
        figsize=(width(), 0.7 + (0.25 + 0.1 * highest) * len(lines)),
        sharex=True,  # what differs between the panels is the message
        sharey=True,
        squeeze=False,
    )
    subtracted = numbers["minus"].unique()  # of differences; else only the empty text
    is_difference = any(subtracted)
    panels = numbers.groupby(across, sort=False, observed=True)
    for axis, (panel, rows) in zip(axes[0], panels):
        if is_difference:
            axis.axvline(0, color="0.3", linewidth=0.8)
            axis.axvspan(-material, material, color="0.92", linewidth=0)
        height = [lines.index(name) for name in rows["detector"]]
        if by_seed is not None:
            dots = by_seed[by_seed[across] == panel]
            dot_height = [lines.index(name) + 0.25 for name in dots["detector"]]
            axis.plot(dots["value"], dot_height, ".", color="0.6", markersize=3)
        axis.hlines(height, rows["low"], rows["high"])
        axis.plot(rows["value"], height, "o", markersize=3)  # a larger one hides short intervals
        axis.set_title(panel.replace(" ", "\n"))
        axis.locator_params(axis="x", nbins=3)
    axes[0, 0].set_yticks(range(len(lines)), labels)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # downwards, with half a line of margin
    what = numbers["metric"].iloc[0]
    if is_difference:
        same = len(subtracted) == 1
        what = f"{what} minus that of {subtracted[0]}" if same else f"difference in {what}"
        what = textwrap.fill(what, 2 * LINE)
    figure.supxlabel(what, fontsize="medium")
    return figure
