"""Draw the finding of README: what each paper's method adds to a plain classifier.

``python scripts/finding_figure.py [TARGET.png]`` reads the committed results of two studies, and
saves a PDF beside the PNG.
"""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from dfnb.results import figures
from facesets.files import atomic

CHECKOUT = Path(__file__).resolve().parent.parent
STUDY = "study-ff-like"
RECIPES = "study-recipe"  # compares with two classifiers
BASELINE = "Baseline"
WIDE = "Wide baseline"
ENSEMBLE = f"{BASELINE} × 3"
CONTROLS = (WIDE, ENSEMBLE)  # they are green
NAMES = {ENSEMBLE: "three Baselines averaged"}  # what the figure calls them
MATERIAL = 0.02  # the difference across datasets that the claims call material


def differences() -> pd.DataFrame:
    """The paired differences in video AUC from the plain classifier in STUDY.

    Each main detector is compared with the baseline, and each control with the baseline on the same
    seeds. The column ``place`` is "in-dataset" or "cross-dataset", the mean over other datasets;
    ``judged`` says whether a claim on the difference was preregistered and tested;
    :func:`dfnb.results.measure` explains the others.
    """
    results = pd.read_parquet(CHECKOUT / "reports" / STUDY / "results.parquet")
    claims = results.query("table == 'claims' and against == @BASELINE and p_gain.notna()")
    judged = set(zip(claims["detector"], claims["on"]))
    results = results.query("place in ['in-dataset', 'cross-dataset']")
    # This table has the difference baseline - ensemble; the figure shows ensemble - baseline.
    turned = results.query("table == 'equal_size' and detector == @BASELINE")
    turned = turned.assign(detector=ENSEMBLE, value=-turned["value"])
    turned = turned.assign(low=-turned["high"], high=-turned["low"])
    rows = results.query("minus == @BASELINE and table == 'differences'")
    rows = pd.concat([rows, turned])
    return rows.assign(judged=[pair in judged for pair in zip(rows["detector"], rows["place"])])


def of_recipes() -> pd.DataFrame:
    """The differences in study-recipe, with the columns of :func:`differences`.

    ``detector`` names what is subtracted, too: the paper's recipe without its idea, or a smaller
    classifier with the recipe of DeepfakeBench.
    """
    results = pd.read_parquet(CHECKOUT / "reports" / RECIPES / "results.parquet")
    rows = results.query("table == 'claims'").assign(judged=lambda rows: rows["p_gain"].notna())
    is_smaller = rows["against"] == BASELINE
    what = is_smaller.map({True: "smaller classifier", False: "same recipe"})
    return rows.assign(place=rows["on"], detector=rows["detector"].astype(str) + " − " + what)


def forest(axes: Axes, rows: pd.DataFrame, detectors: list[str]) -> None:
    """Draw one difference with its interval per line, the first of the detectors at the top.

    ``rows`` has the columns ``detector``, ``value``, ``low``, ``high`` and ``judged``: the point of
    a preregistered claim is filled.
    """
    axes.axvspan(-MATERIAL, MATERIAL, color="0.92", linewidth=0)
    axes.axvline(0, color="black", linewidth=1)
    for row in rows.itertuples():
        place = detectors.index(row.detector)
        colour = "C1" if row.detector in CONTROLS else "C0"
        # A line of plot would get the next line style, dashed for every second interval.
        axes.hlines(place, row.low, row.high, color=colour, linewidth=1.5)
        axes.plot([row.low, row.high], [place, place], "|", ms=7, mew=1.5, color=colour)
        face = colour if row.judged else "white"
        axes.plot(row.value, place, "o", ms=4, mec=colour, mew=1, color=face)
    axes.set_yticks(range(len(detectors)), [NAMES.get(name, name) for name in detectors])
    axes.set_ylim(len(detectors) - 0.5, -0.5)  # the place 0 at the top
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.xaxis.set_major_formatter("{x:.2f}")
    axes.grid(visible=False, axis="y")


def main(target: Annotated[Path, typer.Argument()] = Path("reports/finding.png")) -> None:
    """Save the picture as PNG and PDF, with a row of two panels for each study."""
    figures.style()
    rows_by_title = {
        "forged photographs": differences(),
        "released recipes, photographs": of_recipes(),
    }
    lines = [rows["detector"].nunique() for rows in rows_by_title.values()]
    figure, panels = plt.subplots(
        len(lines),
        2,
        sharex=True,
        sharey="row",
        figsize=(figures.width(), 3.4),
        height_ratios=lines,
    )
    for axes_of_study, (title, rows) in zip(panels, rows_by_title.items()):
        detectors = list(rows["detector"].unique())
        for axes, place in zip(axes_of_study, ("in-dataset", "cross-dataset")):
            of_place = rows[rows["place"] == place]
            forest(axes, of_place, detectors)
            sets = of_place["sets"].iloc[0]
            of_sets = "" if place == "in-dataset" else f", {sets:g} others"
            axes.set_title(f"{title}:\n{place}{of_sets}")
    figure.supxlabel(
        "difference in video AUC, with 95 % interval, over five seeds: minus the Baseline;\n"
        "with released recipes, minus the classifier that is named "
        f"(filled: judged claim; green: control; band: ±{MATERIAL:g})",
        fontsize="small",
    )
    # Without the time and the versions of libraries, the same picture has the same bytes.
    metadata = {".png": {"Software": None}, ".pdf": dict.fromkeys(["CreationDate", "Producer"])}
    for suffix, without in metadata.items():
        with atomic(target.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=200, metadata=without)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
