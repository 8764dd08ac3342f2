"""The figures of a report, in one style: of numbers and training logs, without any network."""

import inspect
import io
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from dfnb.files import report_folder, write_bytes
from dfnb.store import reports
from dfnb.store.runs import StoredRun

# Widths of a figure in inches: one column of a paper, or two, the text width of an A4 page and of a
# JupyterLab column.
WIDTHS = {"one": 3.3, "two": 7.0}
DPI = 300  # of the saved PNG, and of the pictures in the PDF
REAL, FAKE = "C0", "C2"  # colours of real and fake frames
MARKERS = "os^Dv*"  # of detectors, so that black and white tell them apart


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
    # In notebooks: a panel of frames as JPEG is a tenth as large as its PNG.
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 70})


def width() -> float:
    """The width of figures in inches, see :func:`style`."""
    return plt.rcParams["figure.figsize"][0]


def show(
    figure: Figure,
    report: str,
    name: str,
    caption: str,
    run: StoredRun | None = None,
) -> list[Path]:
    """Display a figure with its caption, and save it as PNG and PDF; returns the paths.

    A saved figure carries its caption, and the same figure gives the same bytes. The figure is
    closed. Where this process may not write to the report, it is only displayed. ``run``: this run,
    if the figure is of it alone, see :func:`dfnb.store.reports.file_name`.
    """
    _display(figure, caption)  # first: the saved figure will have its caption inside
    saved = []
    if reports.is_writable(report):
        path = report_folder(report) / "figures" / reports.file_name(report, name, run)
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
    figure, axes = plt.subplots(
        1,
        numbers[across].nunique(),
        figsize=(width(), 0.7 + 0.25 * len(lines)),
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
    axes[0, 0].set_yticks(range(len(lines)), lines)
    axes[0, 0].set_ylim(len(lines) - 0.5, -0.5)  # downwards, with half a line of margin
    what = numbers["metric"].iloc[0]
    if is_difference:
        same = len(subtracted) == 1
        what = f"{what} minus that of {subtracted[0]}" if same else f"difference in {what}"
    figure.supxlabel(what, fontsize="medium")
    return figure


def distributions(scores: pd.DataFrame, thresholds: Mapping[tuple[str, int], np.ndarray]) -> Figure:
    """Histograms of P(fake) of real and fake units, a panel per place, for one detector.

    Args:
        scores: Of :func:`dfnb.report.reading.scores`, of one detector, all its seeds.
        thresholds: Of :func:`dfnb.report.reading.thresholds`. A dashed line is at the mean of the
            detector's thresholds over its seeds.
    """
    places = scores.groupby("place", observed=True)
    figure, axes = plt.subplots(
        1, places.ngroups, figsize=(width(), 1.8), sharex=True, sharey=True, squeeze=False
    )
    name = scores["detector"].iloc[0]
    # values[0] is the threshold itself, before its replicates.
    limits = [values[0] for (detector, _), values in thresholds.items() if detector == name]
    for axis, (place, rows) in zip(axes[0], places):
        # By label, 0 and 1: an area and a line, which black and white tell apart, too.
        looks = {
            "real": {"color": REAL, "histtype": "stepfilled"},
            "fake": {"color": "black", "histtype": "step", "linestyle": "-"},
        }
        for label, (name_of_label, look) in enumerate(looks.items()):
            values = rows.loc[rows["label"] == label, "score"]
            weights = np.full(len(values), 1 / max(len(values), 1))  # so that heights are shares
            bins = np.linspace(0, 1, 26)
            axis.hist(values, bins, weights=weights, label=name_of_label, alpha=0.7, **look)
        if limits:
            axis.axvline(np.mean(limits), color="0.4", linestyle="--", label="threshold")
        axis.set(title=place, xlabel="P(fake)")
    axes[0, 0].set_ylabel("share")
    axes[0, 0].legend()
    return figure


def roc(scores: pd.DataFrame) -> Figure:
    """ROC curves of each detector with a logarithmic axis of false alarms, a panel per place.

    Few false alarms are what matters where most videos are real. ``scores`` are those of
    :func:`dfnb.report.reading.scores`; the units of all seeds and test sets of a place are ranked
    together.
    """
    from sklearn.metrics import roc_curve  # takes a second to import; most notebooks need none

    places = scores.groupby("place", observed=True)
    figure, axes = plt.subplots(
        1, places.ngroups, figsize=(width(), 2.4), sharex=True, sharey=True, squeeze=False
    )
    # A detector looks the same in all panels: colour and line of the style's cycle, and a marker.
    cycle = list(plt.rcParams["axes.prop_cycle"])
    looks = {
        name: {**cycle[number % len(cycle)], "marker": MARKERS[number % len(MARKERS)]}
        for number, (name, _) in enumerate(scores.groupby("detector", observed=True))
    }
    handles = {}  # one per name
    for axis, (place, rows) in zip(axes[0], places):
        for name, of_detector in rows.groupby("detector", observed=True):
            false_alarms, found, _ = roc_curve(of_detector["label"], of_detector["score"])
            # markevery: the distance of two markers, as a share of the panel's diagonal.
            [handles[name]] = axis.plot(false_alarms, found, ms=3, markevery=0.15, **looks[name])
        shares = np.geomspace(0.005, 1, 50)  # from the left end: a logarithmic axis has no 0
        [chance] = axis.plot(shares, shares, ":", color="0.5")
        axis.set(title=place, xscale="log", xlim=(0.005, 1), ylim=(0, 1), xlabel="false alarms")
    axes[0, 0].set_ylabel("fakes found")
    handles["chance"] = chance  # last in the legend
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def deletion_curves(maps: pd.DataFrame) -> Figure:
    """Mean P(fake) while the pixels that each map ranks first are hidden, a panel per detector.

    The grey band is the 95 % interval, over frames, of the mean where random blocks are hidden. A
    map is faithful if its curve is below the band. Only seeds for which random blocks were measured
    count.

    Args:
        maps: Rows of :func:`dfnb.report.reading.maps` that are not of the sanity check, some of
            them of random blocks. The column "deletion 30" is P(fake) with 30 % hidden, see
            :func:`dfnb.attribution.measures.deletion`.
    """
    with_random = maps.loc[maps["map"] == "random", ["detector", "seed"]].drop_duplicates()
    maps = maps.merge(with_random)
    with_curve = maps[~maps["map"].isin(["random", "edges"])]  # a map of edges ignores the detector
    names = list(with_curve["map"].astype(str).unique())
    detectors = maps.groupby("detector", observed=True)
    lines = -(-detectors.ngroups // 3)  # three panels in a line, rounded up
    figure, axes = plt.subplots(
        lines, 3, figsize=(width(), 0.5 + 1.7 * lines), sharex=True, sharey=True, squeeze=False
    )
    shares = list(range(0, 101, 10))
    columns = [f"deletion {share}" for share in shares]
    for axis in axes.flat[detectors.ngroups :]:
        axis.set_axis_off()
    handles = {}  # one per name: a map looks the same in all panels
    for axis, (detector, rows) in zip(axes.flat, detectors):
        for name, of_map in rows.groupby("map", observed=True, sort=False):
            mean = of_map[columns].mean()
            if name == "random":
                error = 1.96 * of_map[columns].sem()
                band = axis.fill_between(shares, mean - error, mean + error, color="0.8")
                handles["random blocks"] = band
            elif name in names:
                # As many colours as markers, first with a solid line and then with a dashed one.
                round_of_looks, place = divmod(names.index(name), len(MARKERS))
                look = {"color": f"C{place}", "marker": MARKERS[place], "markersize": 3}
                style = ("-", "--")[round_of_looks % 2]
                handles[name] = axis.plot(shares, mean, linestyle=style, **look)[0]
        axis.set_title(detector)
    for axis in axes.flat[: detectors.ngroups][-3:]:  # the lowest one of each column
        axis.set_xlabel("% of pixels hidden")
        axis.tick_params(labelbottom=True)  # also where an empty panel is below
    for axis in axes[:, 0]:
        axis.set_ylabel("P(fake)")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def by_severity(curves: pd.DataFrame) -> Figure:
    """The AUC of each detector without corruption and at each severity, a panel per corruption.

    Args:
        curves: Of :func:`dfnb.report.metrics.measure` by detector, corruption and severity, which
            are "" and 0 for the frames as they are.
    """
    clean = curves[curves["severity"] == 0]
    panels = curves[curves["severity"] > 0].groupby("corruption", sort=False, observed=True)
    lines = -(-panels.ngroups // 2)  # two panels in a line, rounded up
    figure = plt.figure(figsize=(width(), 2.2 * lines))
    axes = figure.subplots(lines, 2, sharey=True, squeeze=False)
    severities = sorted(curves["severity"].unique())
    ticks = ["clean", *map(str, severities[1:])]  # in place of 0
    names = list(clean["detector"])
    for axis, (corruption, of_panel) in zip(axes.flat, panels):
        points = pd.concat([clean, of_panel])
        for place, name in enumerate(names):
            rows = points[points["detector"] == name]
            ranks = np.array([severities.index(severity) for severity in rows["severity"]])
            # Side by side, so that no bar hides another.
            x = ranks + 0.12 * (place - (len(names) - 1) / 2)
            error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            marker = MARKERS[place % len(MARKERS)]
            axis.errorbar(x, rows["value"], error, fmt=marker, ms=3.5, label=name)
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
