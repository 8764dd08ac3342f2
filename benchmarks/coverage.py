"""How often the 95 % interval over videos and seeds holds the true value, by simulation.

Clusters of one real and one fake video, which share a part of their noise; trainings whose strength varies. The truth is
the mean over many trainings and videos. The null difference is that of two sets of trainings of the same kind. Away is the
mean AUC over three test sets with other people. Each training has its own threshold, from VALIDATION clusters. Forged
videos have columns of values, in [0, 1] and signed. Robustness is the mean AUC under the noise of each of CORRUPTIONS.

python benchmarks/coverage.py --repetitions 2000 --clusters 50 --seeds 5 --spread 0.3
"""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb import compare, core, metrics

METRICS = [*(metric for metric in metrics.METRICS if metric != "TPR at 1% FPR"), metrics.AT_THRESHOLD]
COLUMNS, ROBUST = ("iou", "gain in pixel AP"), ("robustness", "robustness kept")
ALONE, COMPARED = (*METRICS, *COLUMNS, *ROBUST), ("AUC", *COLUMNS, *ROBUST)
FURTHER = ("away mean of AUC", *(f"null difference of {metric}" for metric in COMPARED), "null difference away")
VALIDATION, AWAY = metrics.FEWEST_VALIDATION, 3
CORRUPTIONS = (0.7, 1.5)  # how strong their noise is, in logits; trainings differ in how much of it they take

Measured = dict[str, metrics.Estimates]


def drawn(key: str, seeds: int, clusters: int, strength: float, spread: float) -> metrics.Units:
    """The scores of ``seeds`` trainings on the videos of so many clusters."""
    random = core.rng("coverage", key)
    label, cluster = np.tile([0, 1], clusters), np.repeat(np.arange(clusters), 2)
    shared = 0.6 * random.normal(size=clusters)[cluster] + 0.6 * random.normal(size=2 * clusters)
    noise = shared + 0.6 * random.normal(size=(seeds, 2 * clusters))
    trainings = core.rng("trainings", key.split(" away")[0])
    strengths, frailties = strength + spread * trainings.normal(size=(seeds, 1)), trainings.normal(size=(seeds, 1))
    columns = {"score": expit(noise + strengths * (label - 0.5))}
    validation = 0.85 * random.normal(size=VALIDATION) + 0.6 * random.normal(size=(seeds, VALIDATION))
    thresholds = expit(np.quantile(validation - strengths / 2, 0.95, axis=1, keepdims=True))
    columns[metrics.AT_THRESHOLD] = ((columns["score"] > thresholds) == label).astype(float)
    overlap, of_map = random.normal(size=(2, clusters))[:, cluster] + random.normal(size=(2, 2 * clusters))
    columns["iou"] = expit(strengths - 1 + 0.6 * overlap + 0.6 * random.normal(size=(seeds, 2 * clusters)))
    columns["gain in pixel AP"] = columns["iou"] ** 0.8 - expit(0.4 * overlap + 0.6 * of_map)
    columns |= {name: np.where(label, columns[name], np.nan) for name in COLUMNS}
    for level in CORRUPTIONS:
        damage = random.normal(size=2 * clusters) + 0.6 * random.normal(size=(seeds, 2 * clusters))
        columns[f"score {level}"] = expit(
            noise + strengths * (label - 0.5) + level * np.exp(spread * frailties) * damage
        )
    return metrics.Units(pd.DataFrame(), metrics.Design(label, cluster), columns, [None] * seeds, VALIDATION)


def coverage(repetitions: int, clusters: int, seeds: int, strength: float = 1.5, spread: float = 0.3) -> pd.Series:
    """The share of intervals that hold the truth, by metric, and for what FURTHER names."""
    how = {"strength": strength, "spread": spread}
    large = pd.DataFrame(_values(drawn(f"truth {i}", 5, 2500, **how)) for i in range(40))
    truth = large.mean().to_dict() | dict.fromkeys(FURTHER, 0.0)
    truth |= {"robustness kept": truth["robustness"] - truth["AUC"], "away mean of AUC": truth["AUC"]}
    covered: dict[str, list[bool]] = {metric: [] for metric in [*ALONE, *FURTHER]}
    for i in range(repetitions):
        line = measured(drawn(f"{i}", seeds, clusters, **how), ALONE)
        outcomes = {metric: [compare.outcome(*_terms(metric, line))] for metric in ALONE}
        away = [drawn(f"{i} away {k}", 2 * seeds, clusters, **how) for k in range(AWAY)]
        first, *others = ([units.tables(half) for half in _halves(seeds)] for units in away)
        halves = [[measured(half, COMPARED) for half in first]]
        halves += [[measured(half, ["AUC"]) for half in both] for both in others]
        for metric in COMPARED:
            outcomes[f"null difference of {metric}"] = [compare.outcome(*_terms(metric, *halves[0]))]
        outcomes["away mean of AUC"] = [compare.outcome(*_terms("AUC", line)) for line, _ in halves]
        outcomes["null difference away"] = [compare.outcome(*_terms("AUC", *both)) for both in halves]
        for name, of_sets in outcomes.items():
            found = compare.summary(*of_sets)
            covered[name].append(found["low"] <= truth[name] <= found["high"])
    return pd.Series({metric: np.mean(hits) for metric, hits in covered.items()}, name="coverage")


def _halves(seeds: int) -> tuple[range, range]:
    return range(seeds), range(seeds, 2 * seeds)


def measured(data: metrics.Units, names: Sequence[str]) -> Measured:
    """These metrics and columns of values of a line; for ROBUST its mean AUC under CORRUPTIONS."""
    found = {metric: compare.estimates([data], metric)[0] for metric in names if metric not in ROBUST}
    if "robustness" in names:
        scores = np.concatenate([data.columns[f"score {level}"] for level in CORRUPTIONS])
        of_all = metrics.measure(dataclasses.replace(data, columns={"score": scores}), "AUC")
        found["robustness"] = of_all.over_conditions(len(CORRUPTIONS))
    return found


def _terms(metric: str, *lines: Measured) -> tuple[list[metrics.Estimates], list[metrics.Estimates]]:
    """What is added and what is subtracted for a line, or for the first line minus the second."""
    if metric != "robustness kept":
        return [lines[0][metric]], [line[metric] for line in lines[1:]]
    robust, clean = ([line[name] for line in lines] for name in ("robustness", "AUC"))
    return robust[:1] + clean[1:], clean[:1] + robust[1:]


def _values(data: metrics.Units) -> dict[str, float]:
    """The mean over tables of every metric, without the bootstrap, which takes long for many videos."""
    found = measured(data, [metric for metric in ALONE if metric not in metrics.CURVES])
    curves = pd.DataFrame(metrics.curve_values(score, data.design.label) for score in data.columns["score"])
    return {metric: estimate.values.mean() for metric, estimate in found.items()} | curves.mean().to_dict()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strength", type=float, default=1.5, help="mean distance of fake and real scores, in logits")
    parser.add_argument("--spread", type=float, default=0.3, help="standard deviation of that distance over seeds")
    options = vars(parser.parse_args())
    shares = coverage(**options)
    print(shares.round(3).to_string())
    name = "-".join(f"{name}{value}" for name, value in options.items())
    path = core.home() / "reports" / "benchmarks" / f"coverage-{name}.csv"
    with core.atomic(path) as temporary:
        shares.to_csv(temporary)
