"""Draw the finding of README: what each paper, and longer training, add to a plain classifier.

``python scripts/finding_figure.py [TARGET.png]`` reads the committed results of both studies.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from dfnb.files import atomic
from dfnb.report import figures

CHECKOUT = Path(__file__).resolve().parent.parent
STUDIES = {"study-bed": "drawn faces", "study-photographs": "photographs"}  # report -> trained on
BASELINE = "Baseline"
LONGER = f"{BASELINE}, controls: twice the budget"
NAMES = {LONGER: "plain classifier,\ntwice the training"}


def differences(study: str) -> pd.DataFrame:
    """The paired differences in video AUC to the plain classifier in a study.

    Each main detector is compared with the baseline, and the baseline with twice the budget, where
    the study has it, with the baseline on the same seeds. The column ``place`` is "within" or
    "across", the mean over other datasets; :func:`dfnb.report.measure` explains the others.
    """
    results = pd.read_parquet(CHECKOUT / "reports" / study / "results.parquet")
    results = results.query("minus == @BASELINE and place in ['within', 'across']")
    return results.query("table == 'differences' or detector == @LONGER")


def forest(axes: Axes, rows: pd.DataFrame, detectors: list[str]) -> None:
    """Draw one difference with its interval per line, the first of the detectors at the top.

    ``rows`` has the columns ``detector``, ``value``, ``low`` and ``high``; the line of a detector
    without a row stays empty.
    """
    for row in rows.itertuples():
        place = detectors.index(row.detector)
        colour = "C1" if row.detector == LONGER else "C0"
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        axes.plot(row.value, place, "o", color=colour)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(detectors)), [NAMES.get(name, name) for name in detectors])
    axes.set_ylim(len(detectors) - 0.5, -0.5)  # the place 0 at the top
    axes.xaxis.set_major_locator(MultipleLocator(0.1))


def main(target: Path) -> None:
    """Save the picture as PNG, with two panels for each study."""
    figures.style()
    rows_by_study = {study: differences(study) for study in STUDIES}
    # In the order of the first study, which has all detectors.
    detectors = list(rows_by_study["study-bed"]["detector"].unique())
    figure, panels = plt.subplots(1, 4, sharex=True, sharey=True, figsize=(7.6, 2.5))
    place = iter(panels)
    for study, rows in rows_by_study.items():
        for panel, of_panel in rows.groupby("place", sort=False):
            axes = next(place)
            forest(axes, of_panel, detectors)
            sets = of_panel["sets"].iloc[0]
            where = "own dataset" if panel == "within" else f"{sets} other datasets"
            axes.set_title(f"{STUDIES[study]}:\n{where}", size=9)
    figure.supxlabel("difference in video AUC to the plain classifier, with 95 % interval", size=8)
    with atomic(target) as temporary:
        # Without the name of matplotlib's version, the same picture has the same bytes.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/finding.png"))
