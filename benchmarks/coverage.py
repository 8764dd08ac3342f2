"""How often the 95 % interval over videos and seeds holds the true value, by simulation.

Clusters of one real and one fake video, which share a part of their noise; trainings whose strength varies. The truth is
the mean over many trainings and videos. The null difference is that of two sets of trainings of the same kind. Away is the
mean AUC over three test sets with other people. Each training has its own threshold, from VALIDATION clusters.

python benchmarks/coverage.py --repetitions 2000 --clusters 50 --seeds 5 --spread 0.3
"""

import argparse

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb import compare, core, metrics

METRICS = [*(metric for metric in metrics.METRICS if metric != "TPR at 1% FPR"), metrics.AT_THRESHOLD]
FURTHER = ("away mean of AUC", "null difference of AUC", "null difference away")
VALIDATION, AWAY = metrics.FEWEST_VALIDATION, 3


def drawn(key: str, seeds: int, clusters: int, strength: float, spread: float) -> metrics.Units:
    """The scores of ``seeds`` trainings on the videos of so many clusters."""
    random = core.rng("coverage", key)
    label, cluster = np.tile([0, 1], clusters), np.repeat(np.arange(clusters), 2)
    shared = 0.6 * random.normal(size=clusters)[cluster] + 0.6 * random.normal(size=2 * clusters)
    noise = shared + 0.6 * random.normal(size=(seeds, 2 * clusters))
    strengths = strength + spread * core.rng("trainings", key.split(" away")[0]).normal(size=(seeds, 1))
    columns = {"score": expit(noise + strengths * (label - 0.5))}
    validation = 0.85 * random.normal(size=VALIDATION) + 0.6 * random.normal(size=(seeds, VALIDATION))
    thresholds = expit(np.quantile(validation - strengths / 2, 0.95, axis=1, keepdims=True))
    columns[metrics.AT_THRESHOLD] = ((columns["score"] > thresholds) == label).astype(float)
    return metrics.Units(pd.DataFrame(), metrics.Design(label, cluster), columns, [None] * seeds, VALIDATION)


def coverage(repetitions: int, clusters: int, seeds: int, strength: float = 1.5, spread: float = 0.3) -> pd.Series:
    """The share of intervals that hold the truth, by metric, and for what FURTHER names."""
    how = {"strength": strength, "spread": spread}
    large = [drawn(f"truth {i}", 5, 5000, **how) for i in range(40)]
    truth = {metric: np.mean([_values(data, metric).mean() for data in large]) for metric in METRICS}
    covered: dict[str, list[bool]] = {metric: [] for metric in [*METRICS, *FURTHER]}
    for i in range(repetitions):
        data = drawn(f"{i}", seeds, clusters, **how)
        for metric in METRICS:
            found = compare.summary(compare.outcome([metrics.measure(data, metric)]))
            covered[metric].append(found["low"] <= truth[metric] <= found["high"])
        away = [drawn(f"{i} away {k}", 2 * seeds, clusters, **how) for k in range(AWAY)]
        halves = [[metrics.measure(units.tables(half), "AUC") for half in _halves(seeds)] for units in away]
        found = compare.summary(*(compare.outcome([first]) for first, _ in halves))
        covered["away mean of AUC"].append(found["low"] <= truth["AUC"] <= found["high"])
        nulls = [compare.outcome([first], [second]) for first, second in halves]
        for name, outcomes in {"null difference of AUC": nulls[:1], "null difference away": nulls}.items():
            found = compare.summary(*outcomes)
            covered[name].append(found["low"] <= 0 <= found["high"])
    return pd.Series({metric: np.mean(hits) for metric, hits in covered.items()}, name="coverage")


def _halves(seeds: int) -> tuple[range, range]:
    return range(seeds), range(seeds, 2 * seeds)


def _values(data: metrics.Units, metric: str) -> np.ndarray:
    """The values (tables,) without the bootstrap, which takes long for many videos."""
    if metric in metrics.CURVES:
        return np.array([metrics.curve_values(score, data.design.label)[metric] for score in data.columns["score"]])
    return metrics.measure(data, metric).values


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
