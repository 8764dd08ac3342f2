"""How often the 95 % interval of :func:`dfnb.results.metrics.measure` has the true value in it.

    python benchmarks/coverage.py --repetitions 2000 --people 50

Studies are drawn from a model in which the AUC is known: two detectors with SEEDS trainings each
score two real and two fake videos per person, on one test set, or on several that show other people
or the same. Scores are normal, with the standard deviations below.
"""

from typing import Annotated

import numpy as np
import pandas as pd
import typer
from scipy.stats import norm

from dfnb.results.metrics import measure
from dfnb.statistics import REPLICATES
from facesets.files import atomic, home
from facesets.seeds import rng

SEEDS = 5
STRENGTHS = {"A": 1.5, "B": 1.2}  # how much higher the scores of fakes are, by detector
# Standard deviations of what is added to a score: by a person, one number for their real videos and
# another for their fake ones; by a video; and by a training on a video. Detectors share the first
# two.
PERSON, VIDEO, OWN = 0.6, 0.6, 0.6
# Of what is added to the strength: of a training, of a test set, and of a training on a test set.
TRAINING, SET, BOTH = 0.3, 0.3, 0.1
SETS = 6
CHUNK = 100  # studies that are drawn at once
# name: test sets, whether they show the same people, and arguments of measure()
CASES = {
    "one set": (1, False, {}),
    "difference on one set": (1, False, {"minus": "B"}),
    "mean over sets": (SETS, False, {"mean_over": "test_set"}),
    "difference of means": (SETS, False, {"mean_over": "test_set", "minus": "B"}),
    "mean, same people": (SETS, True, {"mean_over": "test_set"}),
    "difference of means, same people": (SETS, True, {"mean_over": "test_set", "minus": "B"}),
}


def studies(count: int, sets: int, same_people: bool, people: int, key: int = 0) -> pd.DataFrame:
    """The scores of simulated studies, with the columns that :func:`measure` needs and ``study``.

    Args:
        count: The number of studies.
        key: Of the random stream; studies of another key are independent of these.
        sets: The number of test sets of each; one alone has no effect on the strength.
        same_people: Whether all test sets show the same people.
        people: Their number on each test set; each has two real and two fake videos.
    """
    random = rng("coverage", key, sets, int(same_people))
    names = ["study", "test_set", "detector", "seed", "person", "video"]
    values = [range(count), range(sets), list(STRENGTHS), range(SEEDS), range(people), range(4)]
    shape = [len(values_of_axis) for values_of_axis in values]

    def normal(*axes: int) -> np.ndarray:
        """Normal numbers that vary along these axes and are the same along all others.

        Axis 0 is that of the first of ``names``, the studies, and so on.
        """
        size = [length if axis in axes else 1 for axis, length in enumerate(shape)]
        return random.normal(size=size)

    label = np.array([0, 0, 1, 1])
    strength = np.reshape(list(STRENGTHS.values()), (1, 1, -1, 1, 1, 1))
    strength = strength + TRAINING * normal(0, 2, 3)
    if sets > 1:
        strength = strength + SET * normal(0, 1) + BOTH * normal(0, 1, 2, 3)
    of_person = normal(0, 4, 5) if same_people else normal(0, 1, 4, 5)
    of_person[..., [1, 3]] = of_person[..., [0, 2]]  # the same for both videos of a class
    noise = PERSON * of_person + VIDEO * normal(0, 1, 4, 5) + OWN * normal(*range(6))
    table = pd.MultiIndex.from_product(values, names=names).to_frame(index=False)
    table["log_odds"] = (noise + strength * label).ravel()
    table["label"] = label[table["video"]]
    table["video"] += len(label) * table["person"]
    table["cluster"] = table["person"]
    if not same_people:
        table["cluster"] += people * table["test_set"]
    return table.assign(method="", collapsed=False)


def true_auc(detector: str, sets: int) -> float:
    """The AUC of a detector as a mean over all people, trainings and, of several, test sets."""
    variance = 2 * (PERSON**2 + VIDEO**2 + OWN**2) + TRAINING**2
    if sets > 1:
        variance += SET**2 + BOTH**2
    return float(norm.cdf(STRENGTHS[detector] / variance**0.5))


def coverage(
    case: str,
    repetitions: int,
    people: int,
    replicates: int = REPLICATES,
) -> float:
    """The share of studies whose interval of an AUC, or of a difference, has the truth in it."""
    sets, same_people, options = CASES[case]
    truth = true_auc("A", sets)
    if "minus" in options:
        truth -= true_auc(options["minus"], sets)
    rows = []
    for first in range(0, repetitions, CHUNK):
        count = min(CHUNK, repetitions - first)
        scores = studies(count, sets, same_people, people, first)
        if "minus" not in options:
            scores = scores[scores["detector"] == "A"]
        rows.append(measure(scores, "AUC", ["study", "detector"], replicates=replicates, **options))
    numbers = pd.concat(rows).query("detector == 'A'")
    is_covered = (numbers["low"] <= truth) & (truth <= numbers["high"])
    return float(is_covered.mean())


def main(
    repetitions: Annotated[int, typer.Option(min=1, help="studies of each case")] = 2000,
    people: Annotated[int, typer.Option(min=2, help="on each test set")] = 50,
) -> None:
    """Print the share of each case, and write all to ``reports/benchmarks/coverage-….csv``."""
    shares = {}
    for case in CASES:
        shares[case] = coverage(case, repetitions, people)
        print(f"{case}: {shares[case]:.3f}")
    name = f"coverage-{repetitions}repetitions-{people}people.csv"
    with atomic(home() / "reports" / "benchmarks" / name) as temporary:
        pd.Series(shares, name="coverage").to_csv(temporary, index_label="case")


if __name__ == "__main__":
    typer.run(main)
