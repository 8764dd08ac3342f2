"""Draw the finding of README: what each paper, and longer training, add to a plain classifier.

``python scripts/finding_figure.py [TARGET.png]`` reads the committed results of the study. Longer
training is shown only if they contain it.
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
RESULTS = CHECKOUT / "reports" / "study-bed" / "results.parquet"
BASELINE = "Baseline"
LONGER = f"{BASELINE}, controls: twice the budget"
TITLES = {  # of the panels, by test set
    "bed": "dataset trained on",
    "cross-dataset mean": "24 other datasets",
    "photographs": "photographs",
}


def differences() -> pd.DataFrame:
    """The rows of paired differences in video AUC to the plain classifier.

    Each main detector is compared with the baseline, and the baseline with twice the budget with
    the baseline on the same seeds. :class:`dfnb.results.ResultRow` explains the columns.
    """
    results = pd.read_parquet(RESULTS)
    # Runs that learned nothing are left out; all methods together; no corruption, no map.
    results = results.query(
        "metric == 'AUC' and level == 'video' and not collapsed_included"
        " and method == 'all' and corruption == '' and map == ''"
    )
    papers = results.query("minus == @BASELINE and ablation == ''")
    longer = results.query("detector == @LONGER and minus == @BASELINE")
    return pd.concat([papers, longer])


def forest(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """Draw one difference with its interval per line, the first row at the top.

    ``rows`` has the columns ``detector``, ``value``, ``low`` and ``high``.
    """
    for place, row in enumerate(rows.itertuples()):
        colour = "C1" if row.detector == LONGER else "C0"
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        axes.plot(row.value, place, "o", color=colour)
    axes.axvline(0, color="black", linewidth=1)
    names = rows["detector"].replace({LONGER: "plain classifier,\ntwice the training"})
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the place 0 at the top
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.set_title(title)


def main(target: Path) -> None:
    """Save the picture as PNG, with a panel for each kind of test set."""
    figures.style()
    rows = differences()
    figure, panels = plt.subplots(1, len(TITLES), sharex=True, sharey=True, figsize=(7.2, 2.4))
    for axes, (test_set, title) in zip(panels, TITLES.items()):
        forest(axes, rows[rows["test_set"] == test_set], title)
    figure.supxlabel("difference in video AUC to the plain classifier, with 95 % interval", size=8)
    with atomic(target) as temporary:
        # Without the name of matplotlib's version, the same picture has the same bytes.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/finding.png"))
