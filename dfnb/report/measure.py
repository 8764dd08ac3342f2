"""A result is a groupby: a metric of each group of a table of scores, with its interval.

:func:`measure` resamples people (clusters) and seeds together, and test sets where a mean is over
three or more; :mod:`dfnb.report.statistics` has the metrics and the interval.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dfnb.report import statistics
from dfnb.report.scores import DIFFERENCES, NO_SEED
from dfnb.report.statistics import NAN, REPLICATES, Array
from dfnb.settings import DfnbError, suggestion

FEWEST_SETS = 3  # test sets of a mean, for an interval that covers other test sets
AT_THRESHOLD = "accuracy at 5% validation FPR"  # balanced, of the two classes
FALSE_ALARMS = "false alarms"  # the share of real frames above the validation threshold
CALLED = "called fake"  # the share of all frames above it
WITH_THRESHOLD = (AT_THRESHOLD, FALSE_ALARMS, CALLED)
TWO_CLASSES = ("AUC", "EER", AT_THRESHOLD)  # need real and fake units
METRICS = (*TWO_CLASSES, FALSE_ALARMS, CALLED)  # any other is the mean of a column
Names = str | Sequence[str]
Thresholds = Mapping[tuple[str, int], Array]


class Estimate(NamedTuple):
    """A metric of one group at each of its seeds, in the sample and in each replicate."""

    values: Array  # (seeds, 1 + REPLICATES): the first is that of the sample
    collapsed: Array  # (seeds,) bool, which trainings learned nothing
    has_seeds: bool  # not so another tool
    counts: Array  # (3,) real units, fake units, clusters
    fewest: int  # clusters of the scarcer class
    independent: int  # independent observations behind a value of exactly 0 or 1
    has_interval: bool


SUMMARY = {
    "value": float,
    "low": float,
    "high": float,
    "error": float,
    "degrees": float,
    "p": float,
    "n_real": int,
    "n_fake": int,
    "clusters": int,
    "seeds": int,
    "collapsed": int,
    "sets": int,
}


def measure(
    scores: pd.DataFrame,
    metric: str,
    by: Names,
    mean_over: Names = (),
    minus: str | Sequence[Mapping[str, Any]] = (),
    thresholds: Thresholds | None = None,
) -> pd.DataFrame:
    """A metric of each group of scores, with its 95 % interval over people and seeds.

    Args:
        scores: Rows of :func:`dfnb.report.scores.scores` or ``maps``.
        metric: One of :data:`METRICS`, which are those of ``score``, or a column: its mean over the
            fakes that have a value.
        by: The columns that name a group. Of ``by="method"`` each manipulation method is measured
            against all real units.
        mean_over: Columns whose values are averaged. The test sets of a mean over FEWEST_SETS or
            more are resampled, too: the interval is for other test sets. Groups that lack one of
            the averaged values are left out.
        minus: What is subtracted from each group: the same group with another value of one or more
            columns, ``[{"method": "composite"}]``. Several are subtracted one after the other:
            differences of differences. A text is the value of ``detector``.
        thresholds: Of :func:`dfnb.report.scores.thresholds`, for a metric WITH_THRESHOLD.

    Returns:
        A row per group: its columns; ``metric``; ``minus``, what is subtracted; ``value``;
        ``low`` and ``high``, NaN without an interval; ``error`` and ``degrees`` of freedom; ``p``,
        two-sided, of a difference or signed value, and ``p_holm`` for the rows of this table;
        ``n_real``, ``n_fake`` (units) and ``clusters``, summed over averaged test sets; ``seeds``;
        ``collapsed``, how many runs learned nothing and are left out, in pairs; ``sets``.

    Example::

        measure(scores, "AUC", by="detector", mean_over="test_set", minus="Baseline")
    """
    by = _listed(by)
    averaged = _listed(mean_over)
    names = [*by, *averaged]
    minus = [{"detector": minus}] if isinstance(minus, str) else minus
    column = "score" if metric in METRICS else metric
    for name in [*names, column]:
        if name not in scores:
            known = suggestion(name, [*scores, *METRICS])
            raise DfnbError(f"the scores have no column {name!r}{known}")
    scores = scores.assign(value=scores[column]).dropna(subset="value")
    by_set = [rows for _, rows in scores.groupby("test_set", observed=True)]
    is_random = "test_set" in averaged and len(by_set) >= FEWEST_SETS
    people = {frozenset(rows["cluster"].unique()) for rows in by_set}
    # People who are the same on all test sets move them together. If each set has its own, the
    # differences between sets contain the people's part already.
    resamples_people = not is_random or len(people) == 1
    estimates = {}
    for rows in by_set:
        estimates.update(_of_test_set(rows, metric, names, thresholds or {}, resamples_people))
    for part in minus:
        estimates = _subtracted(estimates, names, part)
    rows = []
    for group, parts in _averaged(estimates, by, averaged).items():
        row = dict(zip(by, group))
        row.update(_summary(parts, is_random, bool(minus) or metric in DIFFERENCES))
        rows.append(row)
    # Types, so that a table without rows can be added to another one.
    table = pd.DataFrame(rows, columns=[*by, *SUMMARY]).astype(SUMMARY)
    values = [str(value) for part in minus for value in part.values() if value not in ("", 0)]
    table = table.assign(metric=metric, minus=", ".join(values))
    return table.assign(p_holm=statistics.holm(table["p"]))


def _listed(names: Names) -> list[str]:
    """One name or several as a list."""
    return [names] if isinstance(names, str) else list(names)


# ---------------------------------------------------------------- one test set


def _of_test_set(
    scores: pd.DataFrame,
    metric: str,
    names: Sequence[str],
    thresholds: Thresholds,
    resamples_people: bool,
) -> dict[tuple, Estimate]:
    """The estimate of every group of one test set, by its values in the columns ``names``."""
    if metric in WITH_THRESHOLD:
        scores = scores[scores["detector"].isin([name for name, _ in thresholds])]
    if metric == FALSE_ALARMS:
        scores = scores[scores["label"] == 0]
    scores = scores.assign(label=scores["label"] == 1)
    scores["cluster"], clusters = pd.factorize(scores["cluster"].astype(object), sort=True)
    weights = np.ones((1, len(clusters)))
    if resamples_people:
        is_fake = scores["label"]
        reals = np.bincount(scores["cluster"][~is_fake], minlength=len(clusters))
        fakes = np.bincount(scores["cluster"][is_fake], minlength=len(clusters))
        weights = statistics.cluster_weights(clusters, reals, fakes)
    estimates = {}
    for key, group in _groups(scores, metric, names):
        has_both = group["label"].nunique() == 2
        if has_both or (metric not in TWO_CLASSES and len(group)):
            estimates[key] = _estimate(group, metric, weights, thresholds)
    return estimates


def _groups(
    scores: pd.DataFrame,
    metric: str,
    names: Sequence[str],
) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """The values in the columns ``names`` of each group, and its rows.

    A metric that compares fakes with real units takes the same real units for each method.
    """
    is_shared = "method" in names and metric in TWO_CLASSES
    methods = [name for name in scores["method"].unique() if name != "real"]
    for method in methods if is_shared else [None]:
        rows = scores
        if is_shared:
            is_real = scores["method"] == "real"
            is_forged = scores["method"] == method
            rows = scores[is_real | is_forged].assign(method=method)
        yield from rows.groupby(list(names), observed=True, sort=False)


def _estimate(
    group: pd.DataFrame,
    metric: str,
    weights: Array,
    thresholds: Thresholds,
) -> Estimate:
    """The metric of one group at each of its seeds, under each row of ``weights``."""
    values = []
    collapsed = []
    has_interval = True
    for seed, rows in group.groupby("seed"):
        threshold = None
        if metric in WITH_THRESHOLD:
            threshold = thresholds[rows["detector"].iloc[0], seed]
            has_interval &= len(threshold) > 1
        of_seed = _values(metric, rows, weights, threshold)
        values.append(np.broadcast_to(of_seed, 1 + REPLICATES))
        collapsed.append(rows["collapsed"].iloc[0])
    # Every seed has the same units: those of the last are counted.
    clusters = rows["cluster"].nunique()
    per_class = rows.groupby("label")["cluster"].nunique()
    independent = clusters
    if metric in TWO_CLASSES:  # a pair takes its real and its fake unit from two clusters
        independent = min(per_class.min(), clusters // 2)
    n_fake = int(rows["label"].sum())
    return Estimate(
        values=np.array(values),
        collapsed=np.array(collapsed),
        has_seeds=seed != NO_SEED,
        counts=np.array([len(rows) - n_fake, n_fake, clusters]),
        fewest=int(per_class.min()),
        independent=int(independent),
        has_interval=has_interval,
    )


def _values(
    metric: str,
    rows: pd.DataFrame,
    weights: Array,
    threshold: Array | None,
) -> Array:
    """The metric of one group at one seed, under each row of ``weights``."""
    value = rows["value"].to_numpy()
    label = rows["label"].to_numpy()
    cluster = rows["cluster"].to_numpy()
    if metric == "AUC":
        return statistics.auc(value, label, cluster, weights)
    if metric == "EER":
        return statistics.eer(value, label, cluster, weights)
    if metric not in WITH_THRESHOLD:
        return statistics.mean(value, cluster, weights)
    if metric in (FALSE_ALARMS, CALLED):
        return statistics.share_above(value, threshold, cluster, weights)
    above = []
    for of_class in (~label, label):
        score, of_unit = value[of_class], cluster[of_class]
        above.append(statistics.share_above(score, threshold, of_unit, weights))
    false_alarms, found = above
    return (1 - false_alarms + found) / 2


# ---------------------------------------------------------------- differences and means


def _subtracted(
    estimates: Mapping[tuple, Estimate],
    names: Sequence[str],
    minus: Mapping[str, Any],
) -> dict[tuple, Estimate]:
    """Each estimate minus that of the same group with the values of ``minus``; others leave."""
    differences = {}
    for key, first in estimates.items():
        other = tuple(minus.get(name, value) for name, value in zip(names, key))
        if other != key and other in estimates:
            differences[key] = _difference(first, estimates[other])
    return differences


def _difference(first: Estimate, second: Estimate) -> Estimate:
    """The first estimate minus the second, replicate by replicate: a paired comparison.

    Seeds are paired by their order; a tool without a seed is subtracted from each. A pair with a
    collapsed run counts as collapsed.
    """
    seeds = None  # all: those of one side, or the same of both
    if first.has_seeds and second.has_seeds:
        seeds = min(len(first.values), len(second.values))
    # A side of exactly 0 or 1 has no error: the interval would be too narrow.
    of_sample = [side.values[:, 0].mean() for side in (first, second)]
    is_exact = 0 in of_sample or 1 in of_sample
    return first._replace(
        values=first.values[:seeds] - second.values[:seeds],
        collapsed=first.collapsed[:seeds] | second.collapsed[:seeds],
        has_seeds=first.has_seeds or second.has_seeds,
        fewest=min(first.fewest, second.fewest),
        has_interval=first.has_interval and second.has_interval and not is_exact,
    )


def _averaged(
    estimates: Mapping[tuple, Estimate],
    by: Sequence[str],
    averaged: Sequence[str],
) -> dict[tuple, list[Estimate]]:
    """The estimates of each group, one per test set that is averaged, at the same seeds.

    Other columns that are averaged have fixed values: their mean is taken here.
    """
    groups = defaultdict(dict)  # group -> the values that are averaged -> estimate
    for key, estimate in estimates.items():
        groups[key[: len(by)]][key[len(by) :]] = estimate
    most = max(map(len, groups.values()), default=0)
    means = {}
    for group, parts in groups.items():
        if len(parts) < most:  # the group lacks one of the averaged values
            continue
        seeds = min(len(part.values) for part in parts.values())
        by_set = defaultdict(list)
        for values, part in parts.items():
            test_set = dict(zip(averaged, values)).get("test_set")
            by_set[test_set].append(part)
        means[group] = [_mean(of_set, seeds) for of_set in by_set.values()]
    return means


def _mean(parts: Sequence[Estimate], seeds: int) -> Estimate:
    """The mean of estimates on one test set, at the first seeds."""
    return parts[0]._replace(
        values=np.mean([part.values[:seeds] for part in parts], axis=0),
        collapsed=np.any([part.collapsed[:seeds] for part in parts], axis=0),
        fewest=min(part.fewest for part in parts),
        has_interval=all(part.has_interval for part in parts),
    )


def _summary(
    parts: Sequence[Estimate],
    is_random: bool,
    is_signed: bool,
) -> dict[str, Any]:
    """The mean over seeds and test sets, with its interval; ``parts``: one per test set."""
    collapsed = np.any([part.collapsed for part in parts], axis=0)
    kept = collapsed if collapsed.all() else ~collapsed
    values = np.array([part.values[kept] for part in parts])  # (sets, seeds, 1 + REPLICATES)
    sets, seeds, _ = values.shape
    of_sample = values[:, :, 0]
    value = float(of_sample.mean())
    fewest = sets if is_random else min(part.fewest for part in parts)
    has_interval = (any if is_random else all)(part.has_interval for part in parts)
    variance = of_seeds = NAN
    if has_interval and fewest > 1:
        variance, of_seeds = _variance(values, is_random)
    # Satterthwaite: the seeds' part of the variance has seeds - 1 degrees of freedom, the rest
    # those of the test sets or, without them, of the clusters of the scarcer class.
    rest = max(variance - of_seeds, 0.0)
    degrees = statistics.satterthwaite(of_seeds, seeds - 1, rest, fewest - 1)
    error = variance**0.5
    is_signed = is_signed or bool(np.abs(of_sample - 0.5).max() > 0.5)  # not in [0, 1]
    independent = sum(part.independent for part in parts)
    low, high = statistics.interval(value, error, degrees, not is_signed, independent)
    p = 2 * statistics.p_above(abs(value), error, degrees) if is_signed else NAN
    counts = np.sum([part.counts for part in parts], axis=0)
    n_collapsed = int(collapsed.sum())
    shown = [value, low, high, error, degrees, p, *counts, seeds, n_collapsed, sets]
    return dict(zip(SUMMARY, shown))


def _variance(values: Array, is_random: bool) -> tuple[float, float]:
    """The variance of the mean of values (sets, seeds, 1 + REPLICATES), and the seeds' part of it.

    Seeds, people (in the replicates of ``values``) and, where ``is_random``, test sets are
    resampled. What two of them do together, an interaction, is resampled with each alone and, three
    times, with both; it must count once, so twice the sum of the two minus both is taken.
    """
    sets, seeds, _ = values.shape
    ones_of_seeds = np.ones((1 + REPLICATES, seeds))
    ones_of_sets = np.ones((1 + REPLICATES, sets))
    draws_of_seeds = statistics.draws(seeds, "seeds")
    draws_of_sets = statistics.draws(sets, "test sets") if is_random else ones_of_sets
    sample = np.broadcast_to(values[:, :, :1], values.shape)

    def variance(set_weights: Array, seed_weights: Array, values: Array) -> float:
        """The variance of the mean over its replicates, under these weights."""
        sums = np.einsum("rs,rk,skr->r", set_weights, seed_weights, values)
        return float(np.nanvar(sums[1:] / (sets * seeds), ddof=1))

    of_seeds = variance(ones_of_sets, draws_of_seeds, sample)
    of_sets = variance(draws_of_sets, ones_of_seeds, sample)
    of_people = variance(ones_of_sets, ones_of_seeds, values)
    of_rest = variance(draws_of_sets, ones_of_seeds, values)  # people and test sets
    of_all = variance(draws_of_sets, draws_of_seeds, values)
    rest = 2 * (of_sets + of_people) - of_rest
    total = of_seeds + rest - (of_all - of_seeds - of_rest)
    # A difference of estimates may fall below one of its parts.
    total = max(total, of_seeds, of_sets, of_people)
    return total, of_seeds
