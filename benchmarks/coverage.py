"""How often the 95 % interval over videos and seeds contains the true value, by simulation.

    python benchmarks/coverage.py --repetitions 2000 --clusters 50 --seeds 5 --spread 0.3

Scores are drawn from a model in which the true values are known. Clusters have one real and one
fake video, which share a part of their noise; the strength of the trainings varies. The truth is
the mean over many trainings and videos. A null difference is that of two sets of trainings of the
same kind, so the truth is 0; the cross-dataset mean is over three test sets with other people. Each
training has its own threshold, from VALIDATION clusters. Forged videos have columns of values
beside their scores: one in [0, 1], an IoU, and one signed, a gain over a constant map. Robustness
is the mean AUC under the noise of each of CORRUPTIONS.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb import metrics, sides, statistics
from dfnb.files import atomic, home
from dfnb.seeds import rng

METRICS = [*metrics.METRICS, metrics.AT_THRESHOLD]
COLUMNS = ["iou", metrics.GAIN]
ROBUST = [sides.ROBUSTNESS, sides.ROBUSTNESS_KEPT]
COMPARED = ["AUC", *COLUMNS, *ROBUST]
VALIDATION = metrics.FEWEST_VALIDATION
TEST_SETS = 3
CORRUPTIONS = (0.7, 1.5)  # how strong their noise is, in logits
# The truth is a mean over 40 draws, each of five trainings on 2,500 clusters.
TRUTH_CLUSTERS = 2500
TRUTH_REPETITIONS = 40
CROSS_DATASET = "cross-dataset mean of AUC"


def validation_scores(strengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """P(fake) (trainings, VALIDATION) of real validation videos, each of another cluster.

    Like real test videos they have a mean of minus half the strength and noise of the same
    variance: 0.85 squared is twice 0.6 squared, of cluster and video.

    Args:
        strengths: Of each training, (trainings, 1), see :func:`drawn`.
        random: The stream that the noise is drawn from.
    """
    shared = 0.85 * random.normal(size=VALIDATION)  # by all trainings
    noise = shared + 0.6 * random.normal(size=(len(strengths), VALIDATION))
    return expit(noise - strengths / 2)


def values_of_forged(
    strengths: np.ndarray, cluster: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """An IoU, and a gain over a constant map, (trainings, videos), as if all videos were forged.

    All numbers are arbitrary: the values need only vary with clusters, videos and trainings.

    Args:
        strengths: Of each training, (trainings, 1), see :func:`drawn`.
        cluster: The cluster of each video, (videos,), from 0; each has two videos.
        random: The stream that the noise is drawn from.
    """
    videos = len(cluster)
    # Both values have noise of the cluster and of the video, which all trainings share.
    overlap, of_map = random.normal(size=(2, videos // 2))[:, cluster]
    own_overlap, own_of_map = random.normal(size=(2, videos))
    overlap = overlap + own_overlap
    of_map = of_map + own_of_map
    of_training = 0.6 * random.normal(size=(len(strengths), videos))
    iou = expit(strengths - 1 + 0.6 * overlap + of_training)
    of_constant_map = expit(0.4 * overlap + 0.6 * of_map)
    return {"iou": iou, metrics.GAIN: iou**0.8 - of_constant_map}


def drawn(key: str, seeds: int, clusters: int, strength: float, spread: float) -> metrics.Units:
    """The scores of ``seeds`` trainings on the videos of so many clusters.

    Units have columns (seeds, videos): ``score``, whether the call at the threshold is right, the
    values of forged videos (NaN for real ones), and ``score <level>`` under each corruption.

    Args:
        key: Of the random stream; what follows " away" changes the videos, not the trainings.
        seeds: The number of trainings.
        clusters: The number of clusters, each of a real and a fake video.
        strength: The mean distance of fake and real scores, in logits.
        spread: The standard deviation of that distance over the trainings.
    """
    videos = 2 * clusters
    label = np.tile([0, 1], clusters)  # (videos,): real and fake in turn
    cluster = np.repeat(np.arange(clusters), 2)
    random = rng("coverage", key)
    # Noise that all trainings share: of a cluster, and of a video. The rest is a training's own.
    of_cluster = 0.6 * random.normal(size=clusters)[cluster]
    shared = of_cluster + 0.6 * random.normal(size=videos)
    noise = shared + 0.6 * random.normal(size=(seeds, videos))
    # The same trainings on every test set.
    training = rng("trainings", key.split(" away")[0])
    strengths = strength + spread * training.normal(size=(seeds, 1))
    frailties = training.normal(size=(seeds, 1))  # how sensitive to corruptions a training is
    log_odds = noise + strengths * (label - 0.5)  # (seeds, videos)
    columns = {"score": expit(log_odds)}
    # A threshold per training, at 5 % false alarms on real validation videos.
    validation = validation_scores(strengths, random)
    threshold = np.quantile(validation, 0.95, axis=1, keepdims=True, method="inverted_cdf")
    is_called_fake = columns["score"] > threshold
    columns[metrics.AT_THRESHOLD] = (is_called_fake == label).astype(float)
    # What each threshold might have been on other validation videos, each a cluster of its own.
    people = np.arange(VALIDATION)
    replicates = [statistics.bootstrap_quantile(scores, people, 0.95) for scores in validation]
    for name, values in values_of_forged(strengths, cluster, random).items():
        columns[name] = np.where(label, values, np.nan)  # real videos have no forged region
    for level in CORRUPTIONS:
        damage = random.normal(size=videos)  # shared by all trainings
        damage = damage + 0.6 * random.normal(size=(seeds, videos))
        columns[f"score {level}"] = expit(log_odds + level * np.exp(spread * frailties) * damage)
    index = pd.DataFrame({"cluster": cluster, "label": label})
    # None: these trainings have no seeds that could be named.
    return metrics.Units(index, columns, [None] * seeds, VALIDATION, replicates)


def trainings(units: metrics.Units, chosen: slice) -> metrics.Units:
    """The units with some of their trainings, the first axis of every column."""
    columns = {name: values[chosen] for name, values in units.columns.items()}
    return replace(units, columns=columns, seeds=units.seeds[chosen])


def estimate(units: metrics.Units, name: str) -> metrics.Estimates:
    """A metric, a column of values, or robustness, of all trainings.

    Robustness is the mean AUC over the corruptions; robustness kept is that minus the AUC without.
    """
    if name == sides.ROBUSTNESS:
        parts = []
        for level in CORRUPTIONS:
            corrupted = replace(units, columns={"score": units.columns[f"score {level}"]})
            parts.append(metrics.measure(corrupted, "AUC"))
        return metrics.mean(parts)
    if name == sides.ROBUSTNESS_KEPT:
        return estimate(units, sides.ROBUSTNESS).minus(estimate(units, "AUC"))
    return metrics.measure(units, name)


def truth(strength: float, spread: float) -> dict[str, float]:
    """The true value of every metric: its mean over many trainings and videos.

    Arguments are those of :func:`drawn`. The EER is computed directly, since ``estimate`` would add
    a slow bootstrap.
    """
    values = defaultdict(list)
    for repetition in range(TRUTH_REPETITIONS):
        units = drawn(f"truth {repetition}", 5, TRUTH_CLUSTERS, strength, spread)
        for score in units.columns["score"]:
            values["EER"].append(statistics.curve_metrics(score, units.design.label)["EER"])
        for name in [*METRICS, *COLUMNS, *ROBUST]:
            if name != "EER":
                values[name] += list(estimate(units, name).values)
    return {name: float(np.mean(numbers)) for name, numbers in values.items()}


def coverage(
    repetitions: int, clusters: int, seeds: int, strength: float = 1.5, spread: float = 0.3
) -> pd.Series:
    """The share of intervals that contain the truth, by metric; 0.95 is what they promise.

    Args:
        repetitions: How many studies are simulated; each has one interval per metric.
        clusters: Clusters of each test set.
        seeds: Trainings of each detector.
        strength: The mean distance of fake and real scores, in logits.
        spread: The standard deviation of that distance over the trainings.
    """
    true = truth(strength, spread)
    covered = defaultdict(list)

    def judge(name: str, estimates: Sequence[metrics.Estimates], value: float) -> None:
        """Note whether the interval of the mean over test sets contains the true value."""
        row = statistics.summary([of_set.outcome() for of_set in estimates])
        covered[name].append(row["low"] <= value <= row["high"])

    for repetition in range(repetitions):
        units = drawn(f"{repetition}", seeds, clusters, strength, spread)
        for name in [*METRICS, *COLUMNS, *ROBUST]:
            judge(name, [estimate(units, name)], true[name])
        # On each test set, two detectors that are equal but for chance: halves of the trainings.
        detectors = []
        for place in range(TEST_SETS):
            key = f"{repetition} away {place}"
            both = drawn(key, 2 * seeds, clusters, strength, spread)
            detectors.append([trainings(both, slice(seeds)), trainings(both, slice(seeds, None))])
        for name in COMPARED:
            first, second = (estimate(detector, name) for detector in detectors[0])
            judge(f"null difference of {name}", [first.minus(second)], 0.0)
        # One estimate per test set; judge takes their mean.
        first = [estimate(detector, "AUC") for detector, _ in detectors]
        second = [estimate(detector, "AUC") for _, detector in detectors]
        judge(CROSS_DATASET, first, true["AUC"])
        differences = [one.minus(other) for one, other in zip(first, second)]
        judge(f"null difference of {CROSS_DATASET}", differences, 0.0)
    shares = {name: np.mean(hits) for name, hits in covered.items()}
    return pd.Series(shares, name="coverage")


def main(options: Mapping[str, float]) -> None:
    """Print the shares, and write them to ``reports/benchmarks``; options are coverage's."""
    shares = coverage(**options)
    print(shares.round(3).to_string())
    name = "-".join(f"{option}{value}" for option, value in options.items())
    with atomic(home() / "reports" / "benchmarks" / f"coverage-{name}.csv") as temporary:
        shares.to_csv(temporary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strength", type=float, default=1.5, help="fake minus real, in logits")
    parser.add_argument("--spread", type=float, default=0.3, help="its deviation over seeds")
    main(vars(parser.parse_args()))
