"""Draw the finding of README: what each paper, and longer training, add to a plain classifier.

``python scripts/finding_figure.py [TARGET.png]`` reads the committed results of the study.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from dfnb import figures
from dfnb.files import atomic

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / "reports" / "study" / "results.parquet"
BASELINE = "Baseline"
LONGER = f"{BASELINE}, controls: twice the budget"


def differences() -> pd.DataFrame:
    """The rows of paired differences in video AUC to the plain classifier.

    They are those of the main detectors to the baseline, and of the baseline with twice the budget
    to itself on the same seeds.
    """
    results = pd.read_parquet(RESULTS)
    results = results.query(
        "metric == 'AUC' and level == 'video' and not collapsed_included"
        " and method == 'all' and corruption == '' and map == ''"
    )
    papers = results.query("minus == @BASELINE and ablation == ''")
    longer = results.query("detector == @LONGER and minus.str.endswith('controls: main')")
    return pd.concat([papers, longer])


def forest(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """Draw differences with their intervals, one per line, the first at the top."""
    for place, row in enumerate(rows.itertuples()):
        colour = "C1" if row.detector == LONGER else "C0"
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        axes.plot(row.value, place, "o", color=colour)
    axes.axvline(0, color="black", linewidth=1)
    names = rows["detector"].replace({LONGER: "plain classifier,\ntwice the training"})
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.set_title(title)


def main(target: Path) -> None:
    """Save the picture as PNG: on the dataset of training, and the mean over other datasets."""
    figures.style()
    rows = differences()
    figure, (within, across) = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(5.2, 2.6))
    forest(within, rows[rows["test_set"] == rows["train_set"]], "dataset trained on")
    forest(across, rows[rows["test_set"] == "cross-dataset mean"], "three other datasets")
    figure.supxlabel("difference in video AUC to the plain classifier, with 95 % interval", size=8)
    with atomic(target) as temporary:
        # Without the name of matplotlib's version, the same picture has the same bytes.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/finding.png"))
