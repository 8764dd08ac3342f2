"""The figures of a report, in one style: of numbers and training logs, without any network.

:func:`show` saves a figure twice: as PNG for the page of the report, and as PDF and SVG for a
paper, in one or two columns.
"""

import ast
import inspect
import io
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import Image, Markdown, display
from matplotlib import get_data_path
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.transforms import Bbox
from matplotlib_inline.backend_inline import set_matplotlib_formats

from dfnb.results.tables import tex
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from facesets.files import write_bytes

if TYPE_CHECKING:
    from seaborn import FacetGrid

# Widths of a figure in inches: of two columns of a paper, which are as wide as the text of an A4
# page and a JupyterLab column, and of one.
TWO_COLUMNS = 7.16
ONE_COLUMN = 3.3
# What is different in one column.
IN_ONE_COLUMN = {"figure.figsize": (ONE_COLUMN, ONE_COLUMN / 2), "font.size": 7} | dict.fromkeys(
    ["axes.titlesize", "axes.labelsize", "figure.labelsize", "xtick.labelsize", "ytick.labelsize"],
    7,
)
DPI = 300  # of the saved PNG, and of the pictures in PDF and SVG
# Entries of a file that would change with the time or the versions of libraries; None omits them.
OMITTED = {
    "png": ["Software"],
    "pdf": ["CreationDate", "Producer", "Creator"],
    "svg": ["Date", "Creator"],
}
CAPTION = "Description"  # the entry of a PNG that has the figure's caption
LINE = 6.2  # letters of a line of a long name, per inch of the figure
WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}
MANY = 8  # detectors; the lines of more are not told apart in one panel
REAL, FAKE = "C0", "C2"  # colours of real and fake frames
VALUE, TRAINED, LOSS = "white", "#d7e8f7", "#fde0cc"  # colours of a diagram's boxes


# ---------------------------------------------------------------- style and files


def style() -> None:
    """Give all figures the look of ``figures.mplstyle``, and let notebooks show tables in full."""
    _list_shipped_fonts()
    pd.set_option("display.max_colwidth", 600, "display.max_columns", 40, "display.max_rows", 200)
    styles = [
        "seaborn-v0_8-paper",
        "seaborn-v0_8-whitegrid",
        "seaborn-v0_8-colorblind",
        Path(__file__).with_suffix(".mplstyle"),
    ]
    plt.style.use(styles)
    plt.rcParams["figure.figsize"] = (TWO_COLUMNS, TWO_COLUMNS / 2)
    # seaborn changes the layout of its grids, which arranged() changes back.
    warnings.filterwarnings("ignore", "The figure layout has changed to tight")
    # In notebooks: a panel of frames as JPEG is a tenth as large as its PNG.
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 70})


def _list_shipped_fonts() -> None:
    """Let matplotlib find the fonts that it ships: DejaVu Sans, and those of formulas.

    Its list of fonts is in the user's cache, for all environments with its version. One whose fonts
    were missing when the list was made leaves them out, and each formula warns of 21 of them.
    """
    shipped = {*Path(get_data_path(), "fonts", "ttf").glob("*.ttf")}
    for path in sorted(shipped - {Path(font.fname) for font in fontManager.ttflist}):
        fontManager.addfont(path)


def width() -> float:
    """The width of figures in inches: of two columns, or of one where :func:`show` draws that."""
    return plt.rcParams["figure.figsize"][0]


def wrapped(name: str) -> str:
    """A name in short lines, as that of a detector without ``variant``."""
    return textwrap.fill(name, int(LINE * width()))


def arranged(grid: "FacetGrid", height: float) -> Figure:
    """The figure of a seaborn grid, as wide as all others and ``height`` inches high.

    seaborn would make it wider for its legend, which here takes its room from the panels: at their
    right or, in one column, above them. The value of a facet is its title.
    """
    from seaborn import move_legend  # takes a second to import; most notebooks need none

    for name, axis in grid.axes_dict.items():
        title = ", ".join(name) if isinstance(name, tuple) else str(name)  # row and column
        axis.set_title(textwrap.fill(title, int(8 * width() / axis.get_gridspec().ncols)))
    if grid.legend:
        place = "center right" if width() > ONE_COLUMN else "upper center"
        move_legend(grid, f"outside {place}", title="")
    grid.figure.set_size_inches(width(), height)
    grid.figure.set_layout_engine("constrained")
    return grid.figure


def show(
    figure: Figure | Callable[[], Figure],
    folder: Path | None,
    name: str,
    caption: str,
    run: StoredRun | None = None,
    has_frames: bool = True,
) -> list[Path]:
    """Display a figure with its caption, and save it; returns the path of its PNG.

    The PNG is in the report's ``figures/``. ``paper/figures/``, see
    :func:`dfnb.store.reports.paper_folder`, gets it as PDF and SVG in two columns and, if it
    is a function, in one column, and the caption as TeX. The same figure gives the same bytes. It
    is closed.

    Args:
        figure: Of matplotlib, or a function that draws it as wide as :func:`width` says.
        folder: Of the report, as a notebook's ``p.folder``; None: it is only displayed.
        name: Of the files.
        caption: What the figure shows, and how it was made.
        run: This run, if the figure is of it alone, see :func:`dfnb.store.reports.file_name`.
        has_frames: Whether it shows frames, perhaps of real people, see
            :func:`dfnb.store.reports.pictures_folder`; else numbers.
    """
    drawn = figure if isinstance(figure, Figure) else figure()
    caption = _with_label(drawn, caption)
    _display(drawn, caption)
    saved = []
    if folder:
        name = reports.file_name(folder.name, name, run)
        place = reports.pictures_folder(folder.name) if has_frames else folder
        saved.append(_save(drawn, place / "figures" / f"{name}.png", {CAPTION: caption}))
        paper = reports.paper_folder(folder.name) / "figures"
        write_bytes(paper / f"{name}-caption.tex", tex(f"{caption}\n").encode())
        for suffix in ("pdf", "svg"):
            _save(drawn, paper / f"{name}.{suffix}")
        if callable(figure):
            with plt.rc_context(IN_ONE_COLUMN):  # also while it is saved, which draws its ticks
                narrow = figure()
                for suffix in ("pdf", "svg"):
                    _save(narrow, paper / f"{name}-one-column.{suffix}")
                plt.close(narrow)
    plt.close(drawn)  # else the notebook would show it a second time
    return saved


def _save(figure: Figure, path: Path, entries: dict[str, str] | None = None) -> Path:
    """Save a figure with these ``entries`` of the file, as wide as it is and as high as it needs.

    The format is the suffix of ``path``, which is returned.
    """
    kind = path.suffix.removeprefix(".")
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    margin = 0.03  # inches
    box = Bbox([[0, drawn.y0 - margin], [figure.get_figwidth(), drawn.y1 + margin]])
    metadata = {**dict.fromkeys(OMITTED[kind]), **(entries or {})}
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=DPI, bbox_inches=box, metadata=metadata)
    return write_bytes(path, content.getvalue())


def display_captioned(figure: Figure, caption: str) -> None:
    """Display a figure with its caption, which is also its alternative text, and close it."""
    _display(figure, _with_label(figure, caption))
    plt.close(figure)


def _with_label(figure: Figure, caption: str) -> str:
    """The caption of a figure, with the figure's own label, which says where its faces are from."""
    return f"{caption} {figure.get_label()}".strip()


def _display(figure: Figure, caption: str) -> None:
    """Display a figure with its caption below, and leave it open."""
    # Whichever of these formats the notebook shows has the alternative text.
    metadata = {kind: {"alt": caption} for kind in ("image/jpeg", "image/png")}
    display(figure, metadata=metadata)
    display(Markdown(f"*{caption}*"))


def display_stored(path: Path) -> None:
    """Display a PNG that :func:`show` has saved, small enough for a notebook, and its caption."""
    from PIL import Image as Picture

    with Picture.open(path) as picture:
        caption = picture.info.get(CAPTION, "")
        small = picture.convert("RGB")
    small.thumbnail((900, 4000))  # the largest width and height in pixels
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    display(Image(content.getvalue(), format="jpeg", alt=caption or path.stem.replace("_", " ")))
    if caption:
        display(Markdown(f"*{caption}*"))


def source(code: type | Callable, folded: bool = True) -> Markdown:
    """The source of a class or function, so that no cell of a notebook repeats it.

    Folded it is whole. Open it lacks its docstring: the notebook's own text explains it.
    """
    text = textwrap.dedent(inspect.getsource(code))
    if folded:
        block = f"```python\n{text}```"
        return Markdown(f"<details><summary>{code.__name__}</summary>\n\n{block}\n</details>")
    docstring = ast.parse(text).body[0].body[0]
    lines = text.splitlines()
    del lines[docstring.lineno - 1 : docstring.end_lineno]
    return Markdown("\n".join(["```python", *lines, "```"]))


def diagram(
    boxes: Mapping[str, tuple[float, float, str, str]], arrows: str, height: float
) -> Figure:
    """Boxes with texts, and arrows between them.

    Args:
        boxes: By name: column, row (upwards), text and colour.
        arrows: The names of the start and the end of each, as in "x f, f z".
        height: Of the figure in inches.
    """
    figure, axes = plt.subplots(figsize=(width(), height))
    patches = {}
    for name, (column, row, text, colour) in boxes.items():
        look = {"facecolor": colour, "boxstyle": "round"}
        drawn = axes.text(column, row, text, bbox=look, fontsize=7, ha="center", va="center")
        patches[name] = drawn.get_bbox_patch()
    for start, end in map(str.split, arrows.split(", ")):
        look = {"arrowstyle": "->", "patchA": patches[start], "patchB": patches[end]}
        axes.annotate("", boxes[end][:2], boxes[start][:2], arrowprops=look)
    columns, rows, *_ = zip(*boxes.values())
    axes.set(xlim=(min(columns) - 0.5, max(columns) + 0.6))
    axes.set(ylim=(min(rows) - 0.4, max(rows) + 0.4))
    axes.set_axis_off()
    return figure


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
        numbers: Of :func:`dfnb.results.metrics.measure`, all of one metric, unless ``across`` is
            "metric". Where their ``minus`` is not the same in all panels, the values of ``across``
            should say what is subtracted.
        by_seed: The same numbers with a row per seed; None draws no dots.
        across: There is one panel per value of this column, such as ``place`` of
            :func:`dfnb.results.reading.scores`; each panel has one line per detector.
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
        axis.set_title(textwrap.fill(panel, int(2 * width()), **WHOLE_WORDS))
        axis.locator_params(axis="x", nbins=3 if width() > ONE_COLUMN else 2)
    axes[0, 0].set_yticks(range(len(lines)), labels)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # downwards, with half a line of margin
    what = "" if across == "metric" else numbers["metric"].iloc[0]
    if is_difference:
        same = len(subtracted) == 1
        what = f"{what} minus that of {subtracted[0]}" if same else f"difference in {what}"
        what = textwrap.fill(what, int(2 * LINE * width()))
    figure.supxlabel(what, fontsize="medium")
    return figure
