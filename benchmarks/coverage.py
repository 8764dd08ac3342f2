"""How often the 95 % interval of :func:`dfnb.report.measure.measure` has the true value in it.

    python benchmarks/coverage.py --repetitions 2000 --people 50

Studies are drawn from a model in which the truth is known: two detectors with SEEDS trainings each
score two real and two fake videos per person, on one test set, or on several that show other or
the same people. Scores are normal, with the standard deviations below. Of metrics other than AUC
the truth is the mean over all studies, so that a bias of the estimate itself is not seen.
"""

import numpy as np
import pandas as pd
from scipy.stats import norm

from dfnb.report.measure import measure
from dfnb.seeds import rng

SEEDS = 5
STRENGTHS = {"A": 1.5, "B": 1.2}  # how much higher the scores of fakes are, by detector
# Standard deviations of what is added to a score. A person's real and fake videos differ.
PERSON, VIDEO, OWN = 0.6, 0.6, 0.6  # OWN: of a training on a video; detectors share the others
# Of what is added to the strength: of a training, of a test set, and of a training on a test set.
TRAINING, SET, BOTH = 0.3, 0.3, 0.1
SETS = 8
# name: test sets, whether they show the same people, and arguments of measure()
CASES = {
    "one set": (1, False, {}),
    "difference on one set": (1, False, {"minus": "B"}),
    "mean over sets": (SETS, False, {"mean_over": "test_set"}),
    "difference of means over sets": (SETS, False, {"mean_over": "test_set", "minus": "B"}),
    "mean over sets of the same people": (SETS, True, {"mean_over": "test_set"}),
    "difference of means over sets of the same people": (
        SETS,
        True,
        {"mean_over": "test_set", "minus": "B"},
    ),
}


def study(key: int, sets: int, same_people: bool, people: int) -> pd.DataFrame:
    """The scores of a simulated study, with the columns that :func:`measure` needs.

    Args:
        key: Of the random stream; another key is another study.
        sets: The number of test sets; one alone has no effect on the strength.
        same_people: Whether all test sets show the same people.
        people: Their number on each test set.
    """
    random = rng("coverage", key, sets, int(same_people))
    label = np.tile([0, 0, 1, 1], people)
    person = np.arange(people).repeat(4)
    training = TRAINING * random.normal(size=(len(STRENGTHS), SEEDS))
    of_same = random.normal(size=(people, 2))  # of each person's real and fake videos
    tables = []
    for test_set in range(sets):
        of_people = of_same if same_people else random.normal(size=(people, 2))
        shared = PERSON * of_people[person, label] + VIDEO * random.normal(size=len(label))
        of_set = SET * random.normal() if sets > 1 else 0.0
        for number, (detector, strength) in enumerate(STRENGTHS.items()):
            for seed in range(SEEDS):
                both = BOTH * random.normal() if sets > 1 else 0.0
                distance = strength + training[number, seed] + of_set + both
                noise = shared + OWN * random.normal(size=len(label))
                table = pd.DataFrame({"label": label, "score": noise + distance * label})
                table["cluster"] = person if same_people else person + people * test_set
                tables.append(table.assign(detector=detector, seed=seed, test_set=test_set))
    return pd.concat(tables, ignore_index=True).assign(collapsed=False)


def true_auc(detector: str, sets: int) -> float:
    """The AUC of a detector as a mean over all people, trainings and, of several, test sets."""
    variance = 2 * (PERSON**2 + VIDEO**2 + OWN**2) + TRAINING**2
    if sets > 1:
        variance += SET**2 + BOTH**2
    return float(norm.cdf(STRENGTHS[detector] / variance**0.5))


def coverage(case: str, repetitions: int, people: int) -> float:
    """The share of studies whose interval of an AUC, or of a difference, has the truth in it."""
    sets, same_people, options = CASES[case]
    truth = true_auc("A", sets)
    if "minus" in options:
        truth -= true_auc(options["minus"], sets)
    covered = []
    for key in range(repetitions):
        scores = study(key, sets, same_people, people)
        row = measure(scores, "AUC", "detector", **options).set_index("detector").loc["A"]
        covered.append(row["low"] <= truth <= row["high"])
    return float(np.mean(covered))
