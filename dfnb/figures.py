"""The figures of a report, in one style: of results and training logs, without any network."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython import display, get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image as Picture

from dfnb.files import atomic, report_folder, write_bytes
from dfnb.store import StoredRun

WIDTH = 7.0  # inches: the text width of an A4 page, and of a JupyterLab column
# Keywords of imshow for attribution maps.
MAP = {"cmap": "cividis", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}


# ---------------------------------------------------------------- style and files


def style() -> None:
    """Give all figures the look of ``figures.mplstyle``, and let notebooks show tables in full."""
    pd.set_option("display.max_colwidth", 300)
    pd.set_option("display.max_columns", 40)
    pd.set_option("display.max_rows", 200)
    styles = [
        "seaborn-v0_8-paper",
        "seaborn-v0_8-whitegrid",
        "seaborn-v0_8-colorblind",
        Path(__file__).with_suffix(".mplstyle"),
    ]
    plt.style.use(styles)
    # In notebooks: a panel of frames as JPEG is a tenth as large as its PNG.
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 70})


def save(figure: Figure, profile: str, name: str, caption: str) -> list[Path]:
    """Save a figure as PNG and PDF, and its caption as text; returns the three paths.

    The same figure gives the same bytes. The PNG has 256 colours, which is a third of the size.
    """
    folder = report_folder(profile) / "figures"
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "pdf", "txt")]
    changing = ("CreationDate", "Producer", "Creator")  # with the time or versions of libraries
    metadata = dict.fromkeys(changing)  # None: matplotlib leaves the entry out
    for path in paths[:2]:
        with atomic(path) as temporary:
            figure.savefig(temporary, metadata=metadata)  # its format is that of the suffix
            if path.suffix == ".png":
                # Without alpha, for which Pillow has a coarser choice of colours only. The PNG
                # that is written anew lacks matplotlib's metadata.
                picture = Picture.open(temporary).convert("RGB")
                picture.quantize().save(temporary, optimize=True)
    write_bytes(paths[2], f"{caption}\n".encode())
    return paths


def shown(paths: Sequence[Path]) -> display.Image:
    """The saved figure for display in a notebook, with its caption as alternative text.

    Args:
        paths: Those that :func:`save` returned.
    """
    plt.close("all")  # else the notebook would show the figure a second time
    png, _, text = paths
    caption = text.read_text(encoding="utf-8").strip()
    return display.Image(filename=png, alt=caption)


def source(code: type | Callable) -> display.Markdown:
    """The source of a class or function for display in a notebook, so that no cell repeats it."""
    return display.Markdown(f"```python\n{inspect.getsource(code)}```")


def with_legend(figure: Figure) -> Figure:
    """Put the legend of the first axes above all axes."""
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside upper center",  # the style's constrained layout makes room for it
        ncols=3,
    )
    return figure


# ---------------------------------------------------------------- trainings


def training_curves(phases: Sequence[StoredRun]) -> Figure:
    """Loss terms by epoch, and validation AUC by epoch with the chosen epoch of the last phase.

    Args:
        phases: One training, or several in order, each started from the weights of the one before.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3))
    log = pd.concat([run.log for run in phases], ignore_index=True)
    log.index += 1  # the first epoch is 1; those of later phases go on where the earlier ended
    # One line per loss term; its legend is drawn above both axes.
    log.filter(like="loss_").plot(ax=left, marker=".", colormap="tab10", legend=False)
    log["validation_auc"].plot(ax=right, marker=".")
    last = phases[-1]
    earlier_epochs = len(log) - len(last.log)
    chosen = last.record["chosen"]  # its epoch is counted from 1 within the phase
    right.axvline(earlier_epochs + chosen["epoch"], linestyle=":")
    left.set_title("training loss by epoch")
    right.set_title("validation AUC, dotted: chosen epoch")
    for axes in (left, right):
        axes.locator_params("x", integer=True)
    return with_legend(figure)


# ---------------------------------------------------------------- rows of the results


def forest(rows: pd.DataFrame, column: str) -> Figure:
    """A forest plot of the metric of the first row: each detector's mean with its interval.

    Args:
        rows: Rows of the results.
        column: There is one panel per value of this column, such as the test set. A panel has one
            line per detector.
    """
    first = rows.iloc[0]  # the figure has one metric, the table may have several
    rows = rows[rows["metric"] == first["metric"]]
    panels = rows.groupby(column, sort=False)
    heights = panels.size() + 1  # of each panel, in lines: one per row and one title
    # In inches: a line has 0.2, and the label below the panels 0.6.
    figure, _ = plt.subplots(
        len(panels),
        sharex=True,
        figsize=(WIDTH, 0.6 + 0.2 * heights.sum()),
        height_ratios=heights,
    )
    for axis, (name, of_panel) in zip(figure.axes, panels):
        _draw_panel(axis, of_panel)
        axis.set_title(name)
    figure.supxlabel(f"{first['level']} {first['metric']}, 95 % interval, dots: seeds")
    return figure


def _draw_panel(axis: Axes, rows: pd.DataFrame) -> None:
    """Draw each detector's value, interval and values per seed; the first detector is on top."""
    names = rows["detector"]  # categories on the y axis: the first is at 0, the next at 1
    axis.plot(rows["value"], names, "o")
    axis.hlines(names, rows["low"], rows["high"])
    for name, by_seed in zip(names, rows["by_seed"]):  # by_seed: a text, "0.812, 0.834"
        values = [float(value) for value in by_seed.split(", ")]
        same_line = [name] * len(values)
        axis.plot(values, same_line, ".", color="0.25", markersize=3)
    axis.axvline(0.5, color="0.4", linestyle=":")  # the AUC of chance
    axis.set_ylim(names.nunique() - 0.5, -0.5)  # downwards, with half a line of margin
