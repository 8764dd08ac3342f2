"""A result is a groupby: a metric of each group of a table of scores, with its interval.

:func:`measure` resamples people (clusters) and seeds together, and test sets where a mean is over
three or more; :mod:`dfnb.report.statistics` has the metrics and the interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dfnb.files import digest
from dfnb.report import statistics
from dfnb.report.scores import NO_SEED
from dfnb.report.statistics import NAN, REPLICATES, Array
from dfnb.settings import DfnbError, suggestion

FEWEST_SETS = 3  # test sets of a mean, for an interval that covers other test sets
AT_THRESHOLD = "accuracy at 5% validation FPR"  # balanced, of the two classes
FALSE_ALARMS = "false alarms"  # the share of real frames above the validation threshold
CALLED = "called fake"  # the share of all frames above it
WITH_THRESHOLD = (AT_THRESHOLD, FALSE_ALARMS, CALLED)
TWO_CLASSES = ("AUC", "EER", "balanced accuracy", AT_THRESHOLD)  # need real and fake units
METRICS = (*TWO_CLASSES, "Brier", FALSE_ALARMS, CALLED)  # any other is the mean of a column
# Metrics that are one column minus another; "deletion 0" is P(fake) before any deletion.
GAIN = "gain in pixel AP"  # over the mean training mask
LOST = "lost under deletion"  # how far P(fake) falls, as a mean over the deletion curve
DIFFERENCES = {GAIN: ("pixel_ap", "constant pixel_ap"), LOST: ("deletion 0", "deletion")}
Names = str | Sequence[str]
Thresholds = Mapping[tuple[str, int], Array]


class Estimate(NamedTuple):
    """A metric of one group at each of its seeds, in the sample and in each replicate."""

    seeds: list[int]
    collapsed: Array  # (seeds,) bool, which trainings learned nothing
    values: Array  # (seeds, 1 + REPLICATES): the first is that of the sample
    counts: Array  # (3,) real units, fake units, clusters
    fewest: int  # clusters of the scarcer class
    pairs: int  # independent observations behind a value of exactly 0 or 1
    has_interval: bool = True


def measure(
    scores: pd.DataFrame,
    metric: str,
    by: Names,
    mean_over: Names = (),
    minus: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    thresholds: Thresholds | None = None,
) -> pd.DataFrame:
    """A metric of each group of scores, with its 95 % interval over people and seeds.

    Args:
        scores: Rows of :func:`dfnb.report.scores.scores` or ``maps``.
        metric: One of :data:`METRICS` or :data:`DIFFERENCES`, or a column: its mean over the fakes
            that have a value. AUC, EER and Brier are those of ``score``; balanced accuracy is at
            one half.
        by: The columns that name a group. Of ``by="method"`` each manipulation method is measured
            against all real units.
        mean_over: Columns whose values are averaged. The test sets of a mean over FEWEST_SETS or
            more are resampled, too: the interval is for other test sets. Groups that lack one of
            the averaged values are left out.
        minus: What is subtracted from each group: the same group with another value of one or more
            columns, ``{"method": "composite"}``. A text is the value of ``detector``. Several are
            subtracted one after the other: differences of differences.
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
    names = [*by, *_listed(mean_over)]
    minus = [{"detector": minus}] if isinstance(minus, str) else minus
    minus = [minus] if isinstance(minus, Mapping) else minus
    _check(scores, metric, names)
    test_sets = scores["test_set"].unique()
    is_random = "test_set" in mean_over and len(test_sets) >= FEWEST_SETS
    by_set = [rows for _, rows in scores.groupby("test_set", observed=True)]
    people = {digest(sorted(rows["cluster"].unique())) for rows in by_set}
    # People who are the same on all test sets move them together. If each set has its own, the
    # differences between sets contain the people's part already.
    resamples_people = not is_random or len(people) == 1
    estimates = {}
    for rows in by_set:
        estimates.update(_of_test_set(rows, metric, names, thresholds or {}, resamples_people))
    for part in minus:
        estimates = _subtracted(estimates, names, part)
    rows = []
    for group, parts in _averaged(estimates, by, names).items():
        row = _summary(parts, is_random, bool(minus) or metric in DIFFERENCES)
        rows.append({**dict(zip(by, group)), "metric": metric, "minus": _text(minus), **row})
    table = pd.DataFrame(rows, columns=[*by, "metric", "minus", *SUMMARY])
    table = table.astype(SUMMARY)  # also of a table without rows, which others are added to
    return table.assign(p_holm=statistics.holm(table["p"]))


def _listed(names: Names) -> list[str]:
    """One name or several as a list."""
    return [names] if isinstance(names, str) else list(names)


def _text(minus: Sequence[Mapping[str, Any]]) -> str:
    """What is subtracted, for the column of that name: the texts of its values."""
    texts = [str(value) for part in minus for value in part.values() if isinstance(value, str)]
    return ", ".join(filter(None, texts))


def columns_of(metric: str) -> Sequence[str]:
    """The columns of a table of scores that a metric is computed from."""
    return ["score"] if metric in METRICS else DIFFERENCES.get(metric, [metric])


def _check(scores: pd.DataFrame, metric: str, names: Sequence[str]) -> None:
    """Raise :class:`DfnbError` where the table lacks a column that is asked for."""
    for column in [*names, *columns_of(metric)]:
        if column not in scores:
            known = [*scores, *METRICS, *DIFFERENCES]
            raise DfnbError(f"the scores have no column {column!r}{suggestion(column, known)}")


# ---------------------------------------------------------------- one test set


def _of_test_set(
    scores: pd.DataFrame,
    metric: str,
    names: Sequence[str],
    thresholds: Thresholds,
    resamples_people: bool,
) -> dict[tuple, Estimate]:
    """The estimate of every group of one test set, by its values in the columns ``names``."""
    if metric in DIFFERENCES:
        first, second = DIFFERENCES[metric]
        scores = scores.assign(**{metric: scores[first] - scores[second]})
    if metric not in METRICS:
        scores = scores.dropna(subset=metric)
    if metric == FALSE_ALARMS:
        scores = scores[scores["label"] == 0]
    cluster, clusters = pd.factorize(scores["cluster"].astype(object), sort=True)
    label = scores["label"].to_numpy() == 1
    weights = np.ones((1, len(clusters)))
    if resamples_people:
        reals = np.bincount(cluster[~label], minlength=len(clusters))
        fakes = np.bincount(cluster[label], minlength=len(clusters))
        weights = statistics.cluster_weights(list(clusters), reals, fakes)
    estimates = {}
    for key, rows in _groups(scores, metric, names):
        of_group = scores.iloc[rows]
        is_incomplete = metric in TWO_CLASSES and len({*label[rows]}) < 2
        if len(rows) and not is_incomplete:
            estimates[key] = _estimate(
                of_group, metric, label[rows], cluster[rows], weights, thresholds
            )
    return estimates


def _groups(
    scores: pd.DataFrame, metric: str, names: Sequence[str]
) -> Iterator[tuple[tuple, Array]]:
    """The values in the columns ``names`` of each group, and the places of its rows.

    A metric that compares fakes with real units takes the same real units for each method.
    """
    shares_reals = "method" in names and (metric in TWO_CLASSES or metric == "Brier")
    grouped = [name for name in names if name != "method"] if shares_reals else list(names)
    groups = {(): np.arange(len(scores))}
    if grouped:
        groups = scores.groupby(grouped, observed=True, sort=False).indices
    for values, rows in groups.items():
        key = values if isinstance(values, tuple) else (values,)
        if not shares_reals:
            yield key, rows
            continue
        method = scores["method"].iloc[rows].to_numpy()
        for name in pd.unique(method[method != "real"]):
            key_of_method = list(key)
            key_of_method.insert(list(names).index("method"), name)
            yield tuple(key_of_method), rows[(method == name) | (method == "real")]


def _estimate(
    group: pd.DataFrame,
    metric: str,
    label: Array,
    cluster: Array,
    weights: Array,
    thresholds: Thresholds,
) -> Estimate:
    """The metric of one group at each of its seeds; ``label`` and ``cluster`` are of its rows."""
    column = group["score" if metric in METRICS else metric].to_numpy()
    detector = group["detector"].iloc[0]
    seed = group["seed"].to_numpy()
    collapsed = group["collapsed"].to_numpy()
    has_interval = True
    values = []
    seeds = np.unique(seed)
    for number in seeds:
        rows = seed == number
        threshold = None
        if metric in WITH_THRESHOLD:
            threshold = thresholds[detector, number]
            has_interval &= len(threshold) > 1
            # Each replicate of the people gets a replicate of the threshold, in turn.
            replicates = np.resize(threshold[1:] if has_interval else threshold, REPLICATES)
            threshold = np.append(threshold[0], replicates)
        of_seed = _values(metric, column[rows], label[rows], cluster[rows], weights, threshold)
        values.append(np.broadcast_to(of_seed, 1 + REPLICATES))
    label, cluster = label[rows], cluster[rows]  # every seed has the same units
    per_class = [len(np.unique(cluster[label == is_fake])) for is_fake in (False, True)]
    present = [count for count in per_class if count]
    clusters = len(np.unique(cluster))
    pairs = clusters
    if metric in TWO_CLASSES:  # a pair takes its real and its fake unit from two clusters
        pairs = min(*per_class, clusters // 2)
    return Estimate(
        seeds=seeds.tolist(),
        collapsed=np.array([collapsed[seed == number][0] for number in seeds]),
        values=np.array(values),
        counts=np.array([np.sum(~label), np.sum(label), clusters]),
        fewest=min(present),
        pairs=pairs,
        has_interval=has_interval,
    )


def _values(
    metric: str,
    column: Array,
    label: Array,
    cluster: Array,
    weights: Array,
    threshold: Array | None,
) -> Array:
    """The metric of one group at one seed, under each row of ``weights``."""
    if metric == "AUC":
        return statistics.auc(column, label, cluster, weights)
    if metric == "EER":
        return statistics.eer(column, label, cluster, weights)
    if metric == "Brier":
        return statistics.mean((column - label) ** 2, cluster, weights)
    if metric == "balanced accuracy":
        is_right = (column > 0.5) == label
        of_classes = [
            statistics.mean(is_right[rows], cluster[rows], weights) for rows in (label, ~label)
        ]
        return np.mean(of_classes, axis=0)
    if metric in (FALSE_ALARMS, CALLED):
        return statistics.share_above(column, threshold, cluster, weights)
    if metric == AT_THRESHOLD:
        false_alarms, found = (
            statistics.share_above(column[rows], threshold, cluster[rows], weights)
            for rows in (~label, label)
        )
        return (1 - false_alarms + found) / 2
    return statistics.mean(column, cluster, weights)


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

    Seeds that both have are paired with themselves; if there are none, the first with the first and
    so on. That of a tool without a seed is paired with each. A pair with a collapsed run has
    learned nothing, either.
    """
    pairs = [(seed, seed) for seed in first.seeds if seed in second.seeds]
    if NO_SEED in (*first.seeds, *second.seeds):
        pairs = list(product(first.seeds, second.seeds))
    pairs = pairs or list(zip(first.seeds, second.seeds))
    of_first = [first.seeds.index(seed) for seed, _ in pairs]
    of_second = [second.seeds.index(seed) for _, seed in pairs]
    # A side of exactly 0 or 1 has no error: the interval would be too narrow.
    is_exact = {first.values[:, 0].mean(), second.values[:, 0].mean()} & {0.0, 1.0}
    return first._replace(
        seeds=[max(pair) for pair in pairs],  # NO_SEED is below all seeds
        collapsed=first.collapsed[of_first] | second.collapsed[of_second],
        values=first.values[of_first] - second.values[of_second],
        fewest=min(first.fewest, second.fewest),
        has_interval=first.has_interval and second.has_interval and not is_exact,
    )


def _averaged(
    estimates: Mapping[tuple, Estimate],
    by: Sequence[str],
    names: Sequence[str],
) -> dict[tuple, list[Estimate]]:
    """The estimates of each group on each of its test sets, at the seeds that all of them have.

    Other columns than ``test_set`` that are averaged have fixed values: their mean is taken here.
    """
    groups = {}  # group -> test set, if it is averaged -> estimates
    averaged = {}  # group -> the values that are averaged, in order
    for key, estimate in estimates.items():
        group, rest = key[: len(by)], key[len(by) :]
        averaged.setdefault(group, []).append(rest)
        test_set = dict(zip(names[len(by) :], rest)).get("test_set")
        groups.setdefault(group, {}).setdefault(test_set, []).append(estimate)
    wanted = {rest for of_group in averaged.values() for rest in of_group}
    means = {}
    for group, by_set in groups.items():
        parts = [part for of_set in by_set.values() for part in of_set]
        seeds = [seed for seed in parts[0].seeds if all(seed in part.seeds for part in parts)]
        if len(averaged[group]) == len(wanted) and seeds:
            means[group] = [_mean(of_set, seeds) for of_set in by_set.values()]
    return means


def _mean(parts: Sequence[Estimate], seeds: Sequence[int]) -> Estimate:
    """The mean of estimates on one test set, at these seeds."""
    values = []
    collapsed = []
    for part in parts:
        places = [part.seeds.index(seed) for seed in seeds]
        values.append(part.values[places])
        collapsed.append(part.collapsed[places])
    return parts[0]._replace(
        seeds=list(seeds),
        values=np.mean(values, axis=0),
        collapsed=np.any(collapsed, axis=0),
        fewest=min(part.fewest for part in parts),
        has_interval=all(part.has_interval for part in parts),
    )


SUMMARY = {
    **dict.fromkeys(["value", "low", "high", "error", "degrees", "p"], float),
    **dict.fromkeys(["n_real", "n_fake", "clusters", "seeds", "collapsed", "sets"], int),
}


def _summary(parts: Sequence[Estimate], is_random: bool, is_signed: bool) -> dict[str, Any]:
    """The mean over seeds and test sets, with its interval; ``parts``: one per test set."""
    collapsed = np.any([part.collapsed for part in parts], axis=0)
    kept = ~collapsed if not collapsed.all() else collapsed
    values = np.array([part.values[kept] for part in parts])  # (sets, seeds, 1 + REPLICATES)
    sets, seeds, _ = values.shape
    weights_of_seeds = statistics.draws(seeds, "seeds")
    weights_of_sets = np.ones((1 + REPLICATES, sets))
    if is_random:
        weights_of_sets = statistics.draws(sets, "test sets")
    replicates = np.einsum("rs,rk,skr->r", weights_of_sets, weights_of_seeds, values)
    replicates = replicates / (sets * seeds)
    value = float(replicates[0])
    fewest = sets if is_random else min(part.fewest for part in parts)
    has_interval = (any if is_random else all)(part.has_interval for part in parts) and fewest > 1
    total = float(np.nanvar(replicates[1:], ddof=1)) if has_interval else NAN
    # Satterthwaite: the seeds' part of the variance has seeds - 1 degrees of freedom, the rest
    # those of the test sets or, without them, of the clusters of the scarcer class.
    of_seeds = values[:, :, 0].mean(axis=0).var(ddof=1) / seeds if seeds > 1 else 0.0
    rest = max(total - of_seeds, 0.0) if has_interval else NAN
    degrees = statistics.satterthwaite([of_seeds, rest], [max(seeds - 1, 1), max(fewest - 1, 1)])
    error = total**0.5
    is_signed = is_signed or bool(np.abs(values[:, :, 0] - 0.5).max() > 0.5)
    pairs = sum(part.pairs for part in parts)
    low, high = statistics.interval(value, error, degrees, not is_signed, pairs)
    p = 2 * statistics.p_above(abs(value), error, degrees) if is_signed else NAN
    counts = np.sum([part.counts for part in parts], axis=0)
    lost = int(collapsed.sum())
    return dict(zip(SUMMARY, [value, low, high, error, degrees, p, *counts, seeds, lost, sets]))
