"""A result is a groupby: a metric of each group of a table of scores, with its interval.

:func:`measure` resamples people (clusters) and seeds together, and test sets where a mean is over
three or more; :mod:`dfnb.statistics` has the metrics and the interval.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dfnb import statistics
from dfnb.report.detectors import FOLD
from dfnb.report.reading import DIFFERENCES
from dfnb.statistics import NAN, REPLICATES, Array
from facesets.checks import DfnbError, suggestion

FEWEST_SEEDS = 5  # for a verdict; fewer are exploratory
FEWEST_SETS = 3  # test sets of a mean, for an interval that covers other test sets
# Both accuracies are balanced: the mean of those of real and of fake units. Where the two classes
# are equally many, as in the papers' test sets of a single method, that is the share called right.
ACCURACY = "accuracy"  # at P(fake) = .5, where the two halves of LAE's z are equally active
AT_THRESHOLD = "accuracy at 5% validation FPR"
# The share of real frames above the threshold that 5 % of the validation's real frames exceed.
FALSE_POSITIVE_RATE = "false positive rate"
CALLED = "called fake"  # the share of all frames above it
WITH_THRESHOLD = (AT_THRESHOLD, FALSE_POSITIVE_RATE, CALLED)
TPR = "TPR at 5% FPR"  # of the test set itself
TWO_CLASSES = ("AUC", "EER", TPR, ACCURACY, AT_THRESHOLD)  # need real and fake units
LESS_IS_BETTER = ("EER", FALSE_POSITIVE_RATE, CALLED)
CORRELATION = "rank correlation"  # in [-1, 1]
METRICS = (*TWO_CLASSES, FALSE_POSITIVE_RATE, CALLED)  # any other is the mean of a column
# Of a reader: (scores, is_fake, weights), each (n,) of the units of a group, to a number.
Function = Callable[[Array, Array, Array], float]
Names = str | Sequence[str]
# By detector and seed, see Threshold.with_replicates: (1 + replicates,), or (1,) without them.
Thresholds = Mapping[tuple[str, int], Array]


class Trainings(NamedTuple):
    """What a caption says of a detector's trainings; empty where the scores do not say it."""

    detector: str
    train_set: str
    rule: str  # by which their checkpoints were chosen


class Estimate(NamedTuple):
    """A metric of one group on one test set, in the sample and in each replicate."""

    test_set: str
    trainings: tuple["Trainings", ...]  # of a difference: both
    seeds: Array  # (seeds,) int, ascending
    # (seeds, 1 + replicates): the first is that of the sample, alone where no people are drawn
    values: Array
    collapsed: Array  # (seeds,) bool, which trainings learned nothing
    counts: Array  # (4,) real units, fake units, clusters, independent observations
    fewest: int  # clusters of the scarcer class; 1 where there is no interval

    def of_seeds(self, seeds: Array) -> "Estimate":
        """The same of these seeds alone, which it must have."""
        is_kept = np.isin(self.seeds, seeds)
        return self._replace(
            seeds=seeds, values=self.values[is_kept], collapsed=self.collapsed[is_kept]
        )


UNIT = ("cluster", "label", "method")
NUMBER = ("value", "low", "high", "error", "degrees", "p")
# What a number is, in this order; the last six say what it is of, from which captions are made.
SUMMARY = (
    *NUMBER,
    "n_real",
    "n_fake",
    "clusters",
    "seeds",
    "collapsed",
    "sets",
    "of_trainings",
    "of_seeds",
    "seed_values",
    "of_sets",
    "unit",
    "over",
)


def measure(
    scores: pd.DataFrame,
    metric: str | Function,
    by: Names,
    mean_over: Names = (),
    minus: str | Sequence[Mapping[str, Any]] = (),
    thresholds: Thresholds | None = None,
    replicates: int = REPLICATES,
) -> pd.DataFrame:
    """A metric of each group of scores, with its 95 % interval over people, seeds and test sets.

    Args:
        scores: Rows of :func:`dfnb.report.reading.scores` or ``maps``.
        metric: One of :data:`METRICS`, computed from ``score``, or the name of a column, whose mean
            is taken over the units that have a value. Measures of masks and maps have none for real
            frames, so these are left out. Or a function ``f(scores, is_fake, weights)``, which gets
            arrays (n,) of the units of a group, is called for the sample, where all weights are 1,
            and for each replicate, and returns a number. It compares real with fake units, like
            TWO_CLASSES, unless its attribute ``two_classes`` is False. Its name is the metric's.
        by: The columns that name a group. With "method" among them, the metrics TWO_CLASSES
            compare each manipulation method with all real units; for others, "real" is a group.
        mean_over: Columns whose values are averaged. The test sets of a mean over FEWEST_SETS or
            more are resampled, too: the interval is for other test sets. Groups that lack one of
            the averaged values are left out. Of the folds of a dataset the AUC is
            :func:`cross_fitted`, where test_set alone is averaged and no method is told apart.
        minus: What is subtracted from each group: the same group with another value of one or more
            columns, ``[{"method": "swap"}]``. Several are subtracted one after the other:
            differences of differences. A text is short for ``[{"detector": text}]``. The columns
            must be in ``by`` or ``mean_over``.
        thresholds: Of :func:`dfnb.report.reading.thresholds`, for a metric WITH_THRESHOLD.
        replicates: Of the bootstrap. With 1,000 the standard error itself has an error of 4 %,
            which is too much for a p that is compared with a limit.

    Returns:
        A row per group, without those that are subtracted: its columns; ``metric``; ``minus``, the
        name of what is subtracted, such as "Baseline", or "clean" where it is the frames without
        corruption, else empty; ``value``; ``low`` and ``high``, NaN without an interval; ``error``
        (standard error) and ``degrees`` of freedom; ``p``, two-sided, of a difference or signed
        value; ``n_real``, ``n_fake`` (units) and ``clusters``, summed over averaged test sets;
        ``collapsed``, how many runs (of differences: pairs of runs) learned nothing; ``seeds``, how
        many the value is a mean of, without collapsed runs unless all are; ``sets``, of how many
        test sets. What it is of: ``of_trainings``, of differences all; ``of_seeds``, and
        ``seed_values`` at these; ``of_sets``, the names of the test sets; ``unit``, "videos" or
        "frames"; ``over``, what was resampled for the interval, in words, empty without one.

    Raises :class:`DfnbError` for columns that are missing, and where several test sets are neither
    told apart nor averaged.

    Example::

        measure(scores, "AUC", by="detector", mean_over="test_set", minus="Baseline")
    """
    by = [by] if isinstance(by, str) else list(by)
    averaged = [mean_over] if isinstance(mean_over, str) else list(mean_over)
    names = [*by, *averaged]
    minus = [{"detector": minus}] if isinstance(minus, str) else minus
    column = "score" if callable(metric) or metric in METRICS else metric
    _refuse_unknown(scores, metric, [*names, column], minus, thresholds)
    folds = {name for name in scores["test_set"].unique() if re.search(FOLD, str(name))}
    if folds and metric == "AUC" and averaged == ["test_set"] and "method" not in by:
        is_fold = scores["test_set"].isin(folds)
        others = scores[~is_fold]
        parts = [measure(others, metric, by, averaged, minus, None, replicates)]
        parts.append(cross_fitted(scores[is_fold], by, minus))
        return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    # Other columns are dropped, because selecting a group copies all columns.
    unit = "frames" if "frame" in scores else "videos"
    needed = {*names, *Trainings._fields, "test_set", "seed", "collapsed", *UNIT}
    scores = scores[[name for name in scores if name in needed]].assign(value=scores[column])
    scores = scores.dropna(subset="value")
    by_set = [rows for _, rows in scores.groupby("test_set", observed=True)]
    if len(by_set) > 1 and "test_set" not in names:
        raise DfnbError(f"{len(by_set)} test sets: add test_set to by or mean_over")
    grouped = partial(_groups, by_set, metric, by, averaged, minus, thresholds or {}, replicates)
    # Whether every set has exactly the same people, who are then resampled beside the sets.
    same_people = len({frozenset(rows["cluster"]) for rows in by_set}) == 1
    # Without people first: it takes a thousandth of the time, and shows which sets each group has.
    groups = grouped(with_people=False)
    resampled = {group: _resampled(parts, same_people) for group, parts in groups.items()}
    if any("people" in each for each in resampled.values()):
        with_people = grouped(with_people=True)
        groups |= {group: with_people[group] for group in groups if "people" in resampled[group]}
    is_signed = bool(minus) or metric in (*DIFFERENCES, CORRELATION)
    rows = []
    for group, parts in groups.items():
        number = _summary(parts, resampled[group], is_signed, replicates)
        rows.append({**dict(zip(by, group)), **number})
    table = pd.DataFrame(rows, columns=[*by, *SUMMARY])
    table["unit"] = unit
    if metric in WITH_THRESHOLD:
        table["over"] = table["over"].where(table["over"] == "", table["over"] + ", threshold")
    name = metric.__name__ if callable(metric) else metric
    return table.assign(metric=name, minus=_named(minus))


def _named(minus: Sequence[Mapping[str, Any]]) -> str:
    """The name of what is subtracted: "clean" where it is the frames without corruption."""
    # "" and 0 are the corruption and the severity of clean frames.
    values = [str(value) for each in minus for value in each.values() if value not in ("", 0)]
    return ", ".join(values) or ("clean" if minus else "")


def _refuse_unknown(
    scores: pd.DataFrame,
    metric: str | Function,
    columns: Sequence[str],
    minus: Sequence[Mapping[str, Any]],
    thresholds: Thresholds | None,
) -> None:
    """Raise :class:`DfnbError` for a call of :func:`measure` that would give an empty table.

    ``columns`` are those that the scores need: of groups, of what is averaged, of the metric.
    """
    for name in columns:
        if name not in scores:
            raise DfnbError(f"there is no column {name!r}{suggestion(name, [*scores, *METRICS])}")
    for name, value in chain(*(counterpart.items() for counterpart in minus)):
        if name not in columns:
            raise DfnbError(f"what is subtracted has another {name}: add {name} to by or mean_over")
        known = [*scores[name].astype("category").cat.categories]  # also of rows not selected
        if value not in known and len(scores):
            raise DfnbError(f"there is no {name} {value!r}{suggestion(str(value), known)}")
    needed = ("test_set", "seed", "collapsed", "cluster", "label")
    lacking = [name for name in needed if name not in scores]
    if lacking and len(scores):
        have = ", ".join(map(str, scores))
        raise DfnbError(
            f"the scores lack {', '.join(lacking)} (they have {have}); dfnb.measure takes a table "
            "of your own, and completes it"
        )
    if metric in WITH_THRESHOLD and thresholds is None:
        raise DfnbError(f"{metric} needs thresholds: pass those of report.thresholds(NAME)")


def _groups(
    by_set: Sequence[pd.DataFrame],
    metric: str | Function,
    by: Sequence[str],
    averaged: Sequence[str],
    minus: Sequence[Mapping[str, Any]],
    thresholds: Thresholds,
    replicates: int,
    with_people: bool,
) -> dict[tuple, list[Estimate]]:
    """The parts of each group's mean, by the group's values of ``by``.

    Groups that lack one of the averaged values are left out. The arguments are those of
    :func:`measure`, ``by_set`` its scores of each test set.
    """
    names = [*by, *averaged]
    people = replicates if with_people else 0
    limits = {}
    for key, limit in thresholds.items():  # the replicates of a threshold are fewer, and repeat
        repeated = np.resize(limit[1:], replicates) if len(limit) > 1 else []
        limits[key] = np.append(limit[:1], repeated)
    estimates = {}
    for rows in by_set:
        estimates |= _of_test_set(rows, metric, names, limits, people)
    for counterpart in minus:
        estimates = _subtracted(estimates, names, counterpart)
    groups = defaultdict(list)
    for key, estimate in estimates.items():
        groups[key[: len(by)]].append(estimate)
    complete = max(map(len, groups.values()), default=0)
    return {group: parts for group, parts in groups.items() if len(parts) == complete}


# ---------------------------------------------------------------- one test set


def _needs_two_classes(metric: str | Function) -> bool:
    """Whether a metric compares real with fake units."""
    return getattr(metric, "two_classes", True) if callable(metric) else metric in TWO_CLASSES


def _of_test_set(
    scores: pd.DataFrame,
    metric: str | Function,
    names: Sequence[str],
    thresholds: Thresholds,
    people: int,
) -> dict[tuple, Estimate]:
    """The estimate of every group of one test set, keyed by its values in the columns ``names``.

    ``scores`` are those of :func:`measure` with the column ``value``: the score or measure, and
    ``people`` the number of replicates in which people are drawn. Groups without a threshold, or
    without both classes, are left out where the metric needs them.
    """
    if metric in WITH_THRESHOLD:
        scores = scores[scores["detector"].isin([name for name, _ in thresholds])]
    if metric == FALSE_POSITIVE_RATE:
        scores = scores[scores["label"] == 0]
    scores = scores.assign(label=scores["label"] == 1)
    # Sorted, because test sets with the same people must be resampled alike, see cluster_weights;
    # as texts, because categories would be sorted in an order of their own.
    scores["cluster"], clusters = pd.factorize(scores["cluster"].astype(object), sort=True)
    weights = np.ones((1, len(clusters)))  # the sample alone
    if people:
        # 0: the cluster has real units only, 1: both, 2: fake units only.
        stratum = scores.groupby("cluster")["label"].agg(["any", "all"]).sum(axis=1)
        weights = statistics.cluster_weights(clusters, stratum, people)
    if "method" in names and _needs_two_classes(metric):  # the same real units for each method
        is_real = scores["method"] == "real"
        parts = [scores.head(0)]  # there may be no method
        for method in scores.loc[~is_real, "method"].unique():
            of_method = scores[is_real | (scores["method"] == method)]
            parts.append(of_method.assign(method=method))
        scores = pd.concat(parts)
    estimates = {}
    for key, group in scores.groupby(list(names), observed=True, sort=False):
        if not _needs_two_classes(metric) or group["label"].nunique() == 2:
            estimates[key] = _estimate(group, metric, weights, thresholds)
    return estimates


def _estimate(
    group: pd.DataFrame,
    metric: str | Function,
    weights: Array,
    thresholds: Thresholds,
) -> Estimate:
    """The metric of one group at each of its seeds, under each row of ``weights``.

    Args:
        group: Rows of a group of :func:`_of_test_set`: ``value`` is the score or measure, ``label``
            True for fake, ``cluster`` the number of a column of ``weights``. For
            FALSE_POSITIVE_RATE they are real ones alone.
        metric: For :func:`measure`.
        weights: (1 + replicates, clusters) or, where people are not resampled, (1, clusters).
        thresholds: For :func:`measure`.
    """
    values = []
    collapsed = []
    threshold = None
    has_interval = True
    columns = [group[name].to_numpy() for name in ("value", "label", "cluster", "collapsed")]
    seed_of_unit = group["seed"].to_numpy()
    seeds = np.unique(seed_of_unit)
    for seed in seeds:
        is_of_seed = seed_of_unit == seed
        value, label, cluster, is_collapsed = (column[is_of_seed] for column in columns)
        if metric in WITH_THRESHOLD:
            threshold = thresholds[group["detector"].iloc[0], seed]
            has_interval &= len(threshold) > 1  # it has replicates
        if callable(metric):
            of_seed = np.array([metric(value, label, row[cluster]) for row in weights], dtype=float)
        elif metric == "AUC":
            of_seed = statistics.auc(value, label, cluster, weights)
        elif metric == "EER":
            of_seed = statistics.eer(value, label, cluster, weights)
        elif metric == TPR:
            of_seed = statistics.tpr_at(value, label, cluster, weights, 0.05)
        elif metric in (ACCURACY, AT_THRESHOLD):
            threshold = np.array([0.5]) if metric == ACCURACY else threshold
            fpr = statistics.mean(value[~label], cluster[~label], weights, threshold)
            tpr = statistics.mean(value[label], cluster[label], weights, threshold)
            of_seed = (1 - fpr + tpr) / 2
        else:
            of_seed = statistics.mean(value, cluster, weights, threshold)
        values.append(of_seed)
        collapsed.append(is_collapsed[0])
    first = group.iloc[0]  # of a group, all rows are of one detector and test set
    # Every seed has the same units: those of the last are counted.
    n_fake = label.sum()
    clusters = independent = len(np.unique(cluster))
    by_label = [cluster[label], cluster[~label]]
    fewest = min(len(np.unique(of_label)) for of_label in by_label if len(of_label))
    if _needs_two_classes(metric):  # a pair takes its real and its fake unit from two clusters
        independent = min(fewest, clusters // 2)
    return Estimate(
        test_set=str(first["test_set"]),
        trainings=(Trainings(*(str(first.get(name, "")) for name in Trainings._fields)),),
        seeds=seeds,
        values=np.array(values),
        collapsed=np.array(collapsed),
        counts=np.array([len(label) - n_fake, n_fake, clusters, independent]),
        fewest=fewest if has_interval else 1,
    )


# ---------------------------------------------------------------- cross-fitted test sets


def cross_fitted(
    scores: pd.DataFrame,
    by: Names = "detector",
    minus: Sequence[Mapping[str, Any]] = (),
) -> pd.DataFrame:
    """The AUC of each group over folds of few people, each fold scored by a network of its own.

    Compared are a fake and a real of *different clusters*, within a fold and a seed. The
    comparisons that the fake wins (a tie is half of one) are summed over the folds and divided by
    the number of comparisons; the value is the mean over seeds. Scores of two networks are never
    compared, since they differ in their scale. A fake and a real of one cluster are not, since a
    fake and its own original are told apart more easily than other pairs, and in a small fold they
    are many.

    The interval is of delete-one-cluster pseudo-values, which lie around the value as the clusters
    do, and of the seeds. The trained networks are held fixed: it does not cover other training
    people. Collapsed runs count, and ``collapsed`` is 0: with the few people of a fold a low
    validation AUC is no proof of a collapse, and a mean without such a run would look better.

    Args:
        scores: Rows of :func:`dfnb.report.reading.scores`; each test set is a fold.
        by: The columns that name a group.
        minus: As for :func:`measure`. Both sides must have the same clusters.

    Returns a table as :func:`measure` does; seeds that lack a fold of their dataset are left out,
    and groups without any whole seed. Raises :class:`DfnbError` for a cluster in two folds.
    """
    by = [by] if isinstance(by, str) else list(by)
    _refuse_unknown(scores, "AUC", [*by, "score"], minus, None)
    fold = scores["test_set"].astype(str)
    scores = scores.assign(test_set=fold, dataset=fold.str.replace(FOLD, "", regex=True))
    folds_of = scores.groupby(["dataset", "cluster"], observed=True)["test_set"].nunique()
    if len(folds_of) and folds_of.max() > 1:
        raise DfnbError(f"the cluster {folds_of.idxmax()[1]!r} is in two folds; name folds alone")
    all_folds = scores.groupby("dataset")["test_set"].nunique()
    estimates = {}
    for key, group in scores.groupby(by, observed=True, sort=False):
        expected = all_folds[group["dataset"].unique()].sum()
        whole = group[group.groupby("seed")["test_set"].transform("nunique") == expected]
        if whole["label"].nunique() == 2:
            estimates[key] = _of_folds(whole)
    for counterpart in minus:
        estimates = _subtracted(estimates, by, counterpart)
    rows = [
        {**dict(zip(by, group)), **_jackknifed(estimate, bool(minus))}
        for group, estimate in estimates.items()
    ]
    table = pd.DataFrame(rows, columns=[*by, *SUMMARY])
    unit = "frames" if "frame" in scores else "videos"
    return table.assign(unit=unit, metric="AUC", minus=_named(minus))


def _of_folds(group: pd.DataFrame) -> Estimate:
    """The cross-fitted AUC of one group at each seed: of all clusters, then without each of them.

    Every seed has all folds, and so the same videos.
    """
    cluster, names = pd.factorize(group["cluster"].astype(str), sort=True)
    group = group.assign(cluster=cluster, label=group["label"] == 1)
    values = {}
    for seed, rows in group.groupby("seed"):
        won = np.zeros(1 + len(names))  # comparisons that the fake wins: all, then those of each
        made = np.zeros(1 + len(names))
        independent = 0  # pairs of a fake and a real at once in which no cluster occurs twice
        for _, of_fold in rows.groupby("test_set"):
            fakes, reals = of_fold[of_fold["label"]], of_fold[~of_fold["label"]]
            fake, real = fakes["score"].to_numpy()[:, np.newaxis], reals["score"].to_numpy()
            pairs = fakes["cluster"].to_numpy()[:, np.newaxis], reals["cluster"].to_numpy()
            is_compared = pairs[0] != pairs[1]  # (fakes, reals)
            wins = is_compared * ((fake > real) + (fake == real) / 2)
            for sums, each in ((won, wins), (made, is_compared)):
                sums[0] += each.sum()
                sums[1:] += np.bincount(fakes["cluster"], each.sum(axis=1), len(names))
                sums[1:] += np.bincount(reals["cluster"], each.sum(axis=0), len(names))
            clusters = [side["cluster"].nunique() for side in (fakes, reals, of_fold)]
            independent += min(*clusters[:2], clusters[2] // 2)
        won[1:], made[1:] = won[0] - won[1:], made[0] - made[1:]
        values[seed] = won / made
    is_fake = rows["label"]
    first = group.iloc[0]
    return Estimate(
        test_set=", ".join(sorted(group["test_set"].unique())),
        trainings=(Trainings(*(str(first.get(name, "")) for name in Trainings._fields)),),
        seeds=np.array([*values]),
        values=np.array([*values.values()]),
        collapsed=np.zeros(len(values), bool),
        counts=np.array([(~is_fake).sum(), is_fake.sum(), len(names), independent]),
        fewest=len(names),
    )


def _jackknifed(estimate: Estimate, is_signed: bool) -> dict[str, Any]:
    """The SUMMARY, but for ``unit``, of the mean over seeds of what :func:`_of_folds` gives."""
    of_seeds = estimate.values[:, 0]
    value = of_seeds.mean()
    n_real, n_fake, clusters, independent = estimate.counts.tolist()
    seeds = len(of_seeds)
    pseudo_values = clusters * value - (clusters - 1) * estimate.values[:, 1:].mean(axis=0)
    of_people = pseudo_values.var(ddof=1) / clusters
    between_seeds = of_seeds.var(ddof=1) / seeds if seeds > 1 else 0.0
    error, degrees = NAN, clusters - 1
    if estimate.fewest > 1:
        error = (of_people + between_seeds) ** 0.5
        if between_seeds:  # Satterthwaite's, as in _error
            parts = of_people**2 / (clusters - 1) + between_seeds**2 / (seeds - 1)
            degrees = error**4 / parts
    low, high = statistics.interval(value, error, degrees, not is_signed, independent)
    p = 2 * statistics.p_above(abs(value), error, degrees) if is_signed else NAN
    over = "people, seeds" if seeds > 1 else "people"
    folds = estimate.test_set.split(", ")
    return {
        **dict(zip(NUMBER, (value, low, high, error, degrees, p))),
        "n_real": n_real,
        "n_fake": n_fake,
        "clusters": clusters,
        "seeds": seeds,
        "collapsed": 0,
        "sets": len(folds),
        "of_trainings": estimate.trainings,
        "of_seeds": tuple(estimate.seeds.tolist()),
        "seed_values": tuple(of_seeds.tolist()),
        "of_sets": tuple(folds),
        "over": "" if np.isnan(low) else over,
    }


def above_original(scores: pd.DataFrame, originals: Mapping[str, str]) -> pd.DataFrame:
    """The scores with a column that says whether a fake scores above the video it was made from.

    The column ``above its original`` is 1 if it does, by the same detector and seed on the same
    test set, .5 for a tie, else 0; NaN for real videos and without the original.

    Args:
        scores: Rows of :func:`dfnb.report.reading.scores` of videos.
        originals: The original's name by that of the fake.
    """
    keys = ["detector", "seed", "test_set", "video"]
    real = scores[scores["label"] == 0].set_index(keys)["score"]
    of_original = scores.assign(video=scores["video"].map(originals))[keys]
    there = real.reindex(pd.MultiIndex.from_frame(of_original)).to_numpy()
    above = np.sign(scores["score"] - there) / 2 + 0.5
    return scores.assign(**{"above its original": above.where(scores["label"] == 1)})


# ---------------------------------------------------------------- differences and means


def _subtracted(
    estimates: Mapping[tuple, Estimate],
    names: Sequence[str],
    minus: Mapping[str, Any],
) -> dict[tuple, Estimate]:
    """Each estimate minus its counterpart: the same group, but with the values of ``minus``.

    The keys are a group's values of ``names``. Groups without a counterpart are left out. The
    comparison is paired: replicates are subtracted one by one, and each seed from the same seed.
    Seeds that one side lacks are left out. A pair with a collapsed run counts as collapsed. The
    counts are those of the estimate subtracted from.
    """
    differences = {}
    for key, first in estimates.items():
        second_key = tuple(minus.get(name, value) for name, value in zip(names, key))
        if second_key == key or second_key not in estimates:
            continue
        second = estimates[second_key]
        seeds = np.intersect1d(first.seeds, second.seeds)
        if not len(seeds):
            continue
        first, second = first.of_seeds(seeds), second.of_seeds(seeds)
        collapsed = first.collapsed | second.collapsed
        sides = (first.values[:, 0], second.values[:, 0])
        # A side that is 0 or 1 at every seed is so in every replicate, too, as if it had no error:
        # the interval would be too narrow.
        at_bound = any(_are_at_bound(of_side[_counted(collapsed)]) for of_side in sides)
        differences[key] = first._replace(
            trainings=tuple(dict.fromkeys([*first.trainings, *second.trainings])),
            values=first.values - second.values,
            collapsed=collapsed,
            fewest=1 if at_bound else min(first.fewest, second.fewest),  # 1: no interval
        )
    return differences


def _resampled(parts: Sequence[Estimate], same_people: bool) -> tuple[str, ...]:
    """What is resampled beside seeds for the mean of these parts: "people", "test sets" or both.

    Where test sets are resampled, their spread contains already that of the people who are in one
    set only. ``same_people`` says whether all are in every set.
    """
    if len({part.test_set for part in parts}) < FEWEST_SETS:
        return ("people",)
    return ("people", "test sets") if same_people else ("test sets",)


def _counted(collapsed: Array) -> Array:
    """Which runs, or pairs of runs, count: those that did not collapse or, if all did, all.

    Both arrays are (seeds,) bool.
    """
    return collapsed if collapsed.all() else ~collapsed


def _are_at_bound(values: Array) -> bool:
    """Whether all values are 0, or all are 1: the lowest and the highest share or AUC."""
    return any((values == bound).all() for bound in (0, 1))


def _summary(
    parts: Sequence[Estimate],
    resampled: Sequence[str],
    is_signed: bool,
    replicates: int,
) -> dict[str, Any]:
    """The SUMMARY of the mean over seeds and ``parts``, but for ``unit``.

    Args:
        parts: Those of the same test set differ in other averaged columns, such as severity.
        resampled: Of :func:`_resampled`.
        is_signed: Whether the value may be below 0, and so is tested against 0. Values outside
            [0, 1] show this themselves.
        replicates: Of the bootstrap.
    """
    # The seeds that all parts have, so that each part counts with the same ones.
    seeds = reduce(np.intersect1d, [each.seeds for each in parts])
    common = [each.of_seeds(seeds) for each in parts]
    collapsed = np.any([each.collapsed for each in common], axis=0)
    counted = seeds[_counted(collapsed)]
    estimates = [each.of_seeds(counted) for each in common]
    counts = {each.test_set: each.counts for each in estimates}  # each set counts once
    n_real, n_fake, clusters, independent = sum(counts.values())
    number = _mean(estimates, resampled, is_signed, replicates, independent)
    over = [*resampled, "seeds"] if len(counted) > 1 else resampled
    return {
        **number,
        "n_real": n_real,
        "n_fake": n_fake,
        "clusters": clusters,
        "seeds": len(counted),
        "collapsed": collapsed.sum(),
        "sets": len(counts),
        "of_trainings": tuple(dict.fromkeys(chain(*(each.trainings for each in estimates)))),
        "of_seeds": tuple(counted.tolist()),
        "seed_values": tuple(np.mean([each.values[:, 0] for each in estimates], axis=0).tolist()),
        "of_sets": tuple(counts),
        "over": "" if np.isnan(number["low"]) else ", ".join(over),
    }


def _mean(
    estimates: Sequence[Estimate],
    resampled: Sequence[str],
    is_signed: bool,
    replicates: int,
    independent: int,
) -> dict[str, float]:
    """The mean of estimates with the same seeds: ``value``, its interval, error and p.

    ``independent`` is the number of independent observations in all test sets; for the others see
    :func:`_summary`.
    """
    values = np.array([each.values for each in estimates])
    values = np.broadcast_to(values, (*values.shape[:2], 1 + replicates))
    test_sets = [each.test_set for each in estimates]
    sets = len({*test_sets})
    set_weights = np.ones((1, 1, 1))
    if "test sets" in resampled:
        set_of_part = [list(dict.fromkeys(test_sets)).index(name) for name in test_sets]
        set_weights = statistics.draws(sets, "test sets", replicates).T[set_of_part, np.newaxis]
    of_sample = values[:, :, 0]
    value = of_sample.mean()
    fewest = [each.fewest for each in estimates]
    # How many are drawn beside seeds: test sets or, without them, clusters of the scarcer class.
    drawn = sets if "test sets" in resampled else min(fewest)
    error, degrees = NAN, drawn - 1
    # In a mean over test sets that are drawn, one part with an interval suffices.
    if drawn > 1 and max(fewest) > 1:
        error, degrees = _error(values, set_weights, drawn - 1)
    is_signed = is_signed or np.abs(of_sample - 0.5).max() > 0.5  # not in [0, 1]
    low, high = statistics.interval(
        value, error, degrees, bounded=not is_signed, independent=independent
    )
    p = 2 * statistics.p_above(abs(value), error, degrees) if is_signed else NAN
    return dict(zip(NUMBER, (value, low, high, error, degrees, p)))


def _error(
    values: Array,
    set_weights: Array,
    degrees: int,
) -> tuple[float, float]:
    """The standard error of the mean over parts and seeds, and its degrees of freedom.

    Seeds, test sets and people are resampled, each alone and all together, which gives three single
    variances and a joint one. A main effect, such as that of the seeds alone, is once in its own
    single variance and once in the joint one. An interaction of two of the three is once in each of
    their two single variances, and three times in the joint one (Owen, Annals of Applied Statistics
    1:386, 2007). So twice the sum of the single variances minus the joint one counts each of them
    once: 2 · 1 - 1 and 2 · (1 + 1) - 3. The interaction of all three is left out of account.

    The seeds' part of the variance has seeds - 1 degrees of freedom, and the rest has ``degrees``.
    Their sum has the degrees of F. E. Satterthwaite, Biometrics Bulletin 2:110, 1946.

    Args:
        values: (parts, seeds, 1 + REPLICATES), where a part is one of the averaged values, such as
            a test set's; people are resampled in the replicates.
        set_weights: (parts, 1, 1 + REPLICATES), of the test set of each part; (1, 1, 1) where test
            sets are not resampled.
        degrees: Those of the test sets or, if they are not resampled, of the clusters of the
            scarcer class.
    """
    seeds = values.shape[1]
    sample = np.broadcast_to(values[:, :, :1], values.shape)
    seed_weights = statistics.draws(seeds, "seeds", values.shape[2] - 1).T
    variances = []
    for resampled in (
        sample * seed_weights,
        sample * set_weights,
        values,
        values * seed_weights * set_weights,
    ):
        means = resampled.mean(axis=(0, 1))  # NaN in a replicate without one of the classes
        variances.append(np.nanvar(means[1:], ddof=1))
    of_seeds, of_sets, of_people, of_all = variances
    total = 2 * (of_seeds + of_sets + of_people) - of_all
    # A difference of estimates may fall below one of its parts.
    total = max(total, of_seeds, of_sets, of_people)
    rest = total - of_seeds
    # max(): one seed has a variance of 0, whatever divides it.
    divisor = of_seeds**2 / max(seeds - 1, 1) + rest**2 / degrees
    return total**0.5, total**2 / divisor if divisor > 0 else degrees
