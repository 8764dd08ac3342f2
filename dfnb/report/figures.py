"""The figures of a report, in one style: of numbers and training logs, without any network."""

import inspect
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image as Picture

from dfnb.files import report_folder, write_bytes
from dfnb.store import reports
from dfnb.store.runs import StoredRun

WIDTH = 7.0  # inches: the text width of an A4 page, and of a JupyterLab column
# Keywords of imshow for attribution maps.
MAP = {"cmap": "Blues_r", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}


# ---------------------------------------------------------------- style and files


def style() -> None:
    """Give all figures the look of ``figures.mplstyle``, and let notebooks show tables in full."""
    pd.set_option("display.max_colwidth", 300, "display.max_columns", 40, "display.max_rows", 200)
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


def show(
    figure: Figure,
    report: str,
    name: str,
    caption: str,
    run: StoredRun | None = None,
) -> list[Path]:
    """Display a figure with its caption, and save it as PNG and PDF; returns the paths.

    The same figure gives the same bytes. The PNG has 256 colours, which makes it a third as large;
    it is what is displayed, with the caption as alternative text. The figure is closed. Where this
    process may not write to the report, it is only displayed. ``run``: this run, if the figure is
    of it alone, see :func:`dfnb.store.reports.file_name`.
    """
    # Pillow chooses 256 colours better without transparency (alpha). The PNG that it writes also
    # lacks matplotlib's metadata, which depend on the version.
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    png = io.BytesIO()
    Picture.open(drawn).convert("RGB").quantize().save(png, "png", optimize=True)
    display(Image(png.getvalue(), alt=caption), Markdown(f"*{caption}*"))
    saved = []
    if reports.is_writable(report):
        # The PDF takes over the layout of the PNG, because computing one takes long.
        figure.set_layout_engine("none")
        pdf = io.BytesIO()
        # These entries would change with the time or the versions of libraries; None omits them.
        metadata = dict.fromkeys(["CreationDate", "Producer", "Creator"])
        figure.savefig(pdf, format="pdf", metadata=metadata)
        path = report_folder(report) / "figures" / reports.file_name(report, name, run)
        for suffix, content in ((".png", png), (".pdf", pdf)):
            saved.append(write_bytes(Path(f"{path}{suffix}"), content.getvalue()))
    plt.close(figure)  # else the notebook would show it a second time
    return saved


def source(code: type | Callable) -> Markdown:
    """The source of a class or function, folded, so that no cell of a notebook repeats it."""
    text = f"```python\n{inspect.getsource(code)}```"
    return Markdown(f"<details><summary>{code.__name__}</summary>\n\n{text}\n</details>")


# ---------------------------------------------------------------- trainings


def training_curves(run: StoredRun) -> Figure:
    """Each loss term and the validation AUC by epoch of a training; dotted: the chosen epoch."""
    log = run.log.set_index("epoch").filter(regex="loss_|validation_auc")
    panels = log.plot(
        subplots=True,  # a panel for each, as terms differ in size and some are equal
        layout=(-1, 4),
        figsize=(WIDTH, 1 + 0.4 * len(log.columns)),
        title=list(log),
        legend=False,
        marker=".",
        color="C0",
    )
    for axis in panels.flat:
        axis.axvline(run.record.chosen.epoch, linestyle=":")
    return panels.flat[0].figure


# ---------------------------------------------------------------- numbers


def forest(
    numbers: pd.DataFrame,
    by_seed: pd.DataFrame | None = None,
    across: str = "place",
    material: float = 0,
) -> Figure:
    """A forest plot: each value with its interval, and one grey dot per seed below it.

    Args:
        numbers: Of :func:`dfnb.report.measure.measure`, all of one metric.
        by_seed: The same numbers with a row per seed; None draws no dots.
        across: There is one panel per value of this column; each has one line per detector.
        material: Of differences: a band from -material to material is grey; 0: none.
    """
    lines = list(numbers["detector"].unique())
    figure, axes = plt.subplots(
        1,
        numbers[across].nunique(),
        figsize=(WIDTH, 0.7 + 0.25 * len(lines)),
        sharey=True,
        squeeze=False,
    )
    subtracted = numbers["minus"].iloc[0]  # of differences, else empty
    panels = numbers.groupby(across, sort=False, observed=True)
    for axis, (panel, rows) in zip(axes[0], panels):
        if subtracted:
            axis.axvline(0, color="0.3", linewidth=0.8)
            axis.axvspan(-material, material, color="0.92", linewidth=0)
        height = [lines.index(name) for name in rows["detector"]]
        if by_seed is not None:
            dots = by_seed[by_seed[across] == panel]
            dot_height = [lines.index(name) + 0.25 for name in dots["detector"]]
            axis.plot(dots["value"], dot_height, ".", color="0.6", markersize=3)
        axis.hlines(height, rows["low"], rows["high"])
        axis.plot(rows["value"], height, "o")
        axis.set_title(panel.replace(" ", "\n"))
        axis.locator_params(axis="x", nbins=3)
    axes[0, 0].set_yticks(range(len(lines)), lines)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # downwards, with half a line of margin
    what = numbers["metric"].iloc[0]
    figure.supxlabel(f"difference in {what}" if subtracted else what, fontsize="medium")
    return figure


def by_severity(curves: pd.DataFrame) -> Figure:
    """The AUC of each detector without corruption and at each severity, a panel per corruption.

    Args:
        curves: Of :func:`dfnb.report.measure.measure` by detector, corruption and severity, which
            are "" and 0 for the frames as they are.
    """
    clean = curves[curves["severity"] == 0]
    panels = curves[curves["severity"] > 0].groupby("corruption", sort=False, observed=True)
    lines = -(-panels.ngroups // 2)  # two panels in a line
    figure = plt.figure(figsize=(WIDTH, 2.2 * lines))
    axes = figure.subplots(lines, 2, sharey=True, squeeze=False)
    ticks = ["clean", *map(str, sorted(curves["severity"].unique())[1:])]
    names = list(clean["detector"])
    for axis, (corruption, of_panel) in zip(axes.flat, panels):
        points = pd.concat([clean, of_panel])
        for place, name in enumerate(names):
            rows = points[points["detector"] == name]
            # Side by side, so that no bar hides another.
            x = np.arange(len(rows)) + 0.12 * (place - (len(names) - 1) / 2)
            error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            axis.errorbar(x, rows["value"], error, fmt="o", ms=3, label=name)
        axis.axhline(0.5, color="0.4", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(ticks)), ticks)
        axis.set(title=corruption, xlabel="severity")
    for axis in axes.flat[panels.ngroups :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("video AUC")
    legend = axes.flat[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=3)
    return figure
