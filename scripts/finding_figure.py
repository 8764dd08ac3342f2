"""Draw what each paper adds to a plain classifier, the picture of docs/results.md.

``python scripts/finding_figure.py [TARGET.png]`` reads the committed results of a study, and saves
a PDF beside the PNG.
"""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from dfnb.results import claims, figures
from facesets.files import atomic

CHECKOUT = Path(__file__).resolve().parent.parent
STUDY = "study-portraits"
BASELINE = "Baseline"
# How the places of its tables are called in the picture.
PLACES = {
    "in-dataset": "portraits",
    "cross-dataset": "portraits,\n12 simulated cameras",
    "ff-like-160": "photographs\nof real people",
}


def differences() -> pd.DataFrame:
    """The paired differences in video AUC from the plain classifier, a row per place and detector.

    Detectors are the papers' and, as controls, means of several baselines. ``judged`` says whether
    a preregistered claim on the difference was tested; :func:`dfnb.results.measure` explains the
    other columns.
    """
    results = pd.read_parquet(CHECKOUT / "reports" / STUDY / "results.parquet")
    of_claims = results.query("table == 'claims' and against == @BASELINE and p_gain.notna()")
    judged = {*zip(of_claims["detector"], of_claims["on"])}
    papers = results.query("table == 'differences' and minus == @BASELINE")
    # The table has baseline - mean of several; the picture shows the mean - baseline.
    means = results.query("table == 'equal_size' and detector == @BASELINE")
    turned = {"detector": means["minus"], "value": -means["value"]}
    turned |= {"low": -means["high"], "high": -means["low"]}
    rows = pd.concat([papers, means.assign(**turned)])
    return rows.assign(judged=[pair in judged for pair in zip(rows["detector"], rows["place"])])


def forest(axes: Axes, rows: pd.DataFrame, detectors: list[str], material: float) -> None:
    """Draw one difference with its interval per line, the first of the detectors at the top.

    The point of a judged claim is filled; a band shows differences below the ``material`` one.
    """
    axes.axvspan(-material, material, color="0.92", linewidth=0)
    axes.axvline(0, color="black", linewidth=1)
    for row in rows.itertuples():
        place = detectors.index(row.detector)
        colour = "C1" if row.detector.startswith(BASELINE) else "C0"
        # A line of plot would get the next line style, dashed for every second interval.
        axes.hlines(place, row.low, row.high, color=colour, linewidth=1.5)
        axes.plot([row.low, row.high], [place, place], "|", ms=7, mew=1.5, color=colour)
        face = colour if row.judged else "white"
        axes.plot(row.value, place, "o", ms=4, mec=colour, mew=1, color=face)
    axes.set_yticks(range(len(detectors)), detectors)
    axes.set_ylim(len(detectors) - 0.5, -0.5)  # the place 0 at the top
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.xaxis.set_major_formatter("{x:.2f}")
    axes.grid(visible=False, axis="y")


def main(target: Annotated[Path, typer.Argument()] = Path("reports/finding.png")) -> None:
    """Save the picture as PNG and PDF, with a panel for each place."""
    figures.style()
    rows = differences()
    detectors = list(rows["detector"].unique())
    delta = claims.read_claims("claims-portraits").delta
    size = (figures.width(), 2.2)
    figure, panels = plt.subplots(1, len(PLACES), sharex=True, sharey=True, figsize=size)
    for axes, (place, title) in zip(panels, PLACES.items()):
        material = delta.within if place == "in-dataset" else delta.cross
        forest(axes, rows[rows["place"] == place], detectors, material)
        axes.set_title(title)
    figure.supxlabel(
        f"difference in video AUC from the {BASELINE}, with 95 % interval, over five seeds\n"
        "(filled: judged claim; green: means of several baselines; band: too small to be material)",
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
