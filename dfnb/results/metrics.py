"""A result is a groupby: a metric of each group of a table of scores, with its interval.

:func:`measure` resamples clusters (people or, where nobody knows these, videos) and seeds together,
and test sets where a mean is over three or more; :mod:`dfnb.statistics` has the metrics and the
interval.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dfnb import statistics
from dfnb.results.detectors import FOLD
from dfnb.results.reading import DIFFERENCES
from dfnb.statistics import NAN, REPLICATES, Array
from dfnb.store.units import KEY, as_table
from facesets.checks import DfnbError, suggestion

FEWEST_SEEDS = 5  # for a verdict; fewer are exploratory
FEWEST_CLUSTERS = 3  # for pairs of two clusters in each replicate
# The share of clusters that two test sets have in common by chance: the names of those of drawn
# faces are numbers, of which two sets of other people share one or two in a hundred.
MOST_BY_CHANCE = 0.1
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
RANKED = ("AUC", "EER", TPR)  # of the order of scores alone
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


class Compared(NamedTuple):
    """The units of a group, and of those that are subtracted from it: the same at each seed."""

    signs: Sequence[int]  # 1, or -1 for what is subtracted; of differences of differences, both
    sides: Sequence[pd.DataFrame]  # of _groups
    unpaired: int  # units that are left out, because not all sides have them


class Estimate(NamedTuple):
    """A metric of one group on one test set, in the sample and in each replicate."""

    test_set: str
    of_sets: tuple[str, ...]
    trainings: tuple[Trainings, ...]  # of a difference: both
    seeds: Array  # (seeds,) int, ascending
    # (seeds, 1 + replicates): the first is that of the sample, alone where no people are drawn
    values: Array
    collapsed: Array  # (seeds,) bool, which trainings learned nothing
    # (4,) real units, fake units, clusters, independent observations; in a mean also unpaired ones
    counts: Array
    fewest: int  # clusters of the scarcer class; 1 where there is no interval
    cluster_of: str  # see dfnb.store.units.people_or_videos

    def of_seeds(self, seeds: Array) -> "Estimate":
        """The same of these seeds alone, which it must have."""
        is_kept = np.isin(self.seeds, seeds)
        return self._replace(
            seeds=seeds, values=self.values[is_kept], collapsed=self.collapsed[is_kept]
        )


NUMBER = ("value", "low", "high", "error", "degrees")
# What a number is, in this order; the last six say what it is of, from which captions are made.
SUMMARY = (
    *NUMBER,
    "n_real",
    "n_fake",
    "clusters",
    "unpaired",
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
        scores: A table for :func:`dfnb.store.units.as_table`, such as that of
            :func:`dfnb.results.reading.scores` or ``maps``: each row is a unit.
        metric: One of :data:`METRICS`, computed from ``score`` or, where RANKED, ``log_odds``; or
            the name of a column, whose mean is taken over the units that have a value. Measures of
            masks and maps have none for real frames, so these are left out. Or a function
            ``f(scores, is_fake, weights)``, which gets arrays (n,) of the units of a group, is
            called for the sample, where all weights are 1, and for each replicate, and returns a
            number. It compares real with fake units, like TWO_CLASSES, unless its attribute
            ``two_classes`` is False. Its name is the metric's.
        by: The columns that name a group. With "method" among them, the metrics TWO_CLASSES
            compare each manipulation method with all real units; for others, "real" is a group.
        mean_over: Columns whose values are averaged. The test sets of a mean over FEWEST_SETS or
            more are resampled, too: the interval is for other test sets. Groups that lack one of
            the averaged values are left out. The folds of a dataset, each tested by a network of
            its own, are one test set of which a seed has all: their AUC compares within folds, see
            :func:`dfnb.statistics.weighted_auc`, and any other metric is the mean of those of the
            folds. The trained networks are held fixed: the interval does not cover other training
            people.
        minus: What is subtracted from each group: the same group with another value of one or more
            columns, ``[{"method": "swap"}]``. Several are subtracted one after the other:
            differences of differences. A text is short for ``[{"detector": text}]``. The columns
            must be in ``by`` or ``mean_over``. Compared are the units of one KEY that both sides
            have at a seed, unless the columns are a part of the KEY.
        thresholds: Of :func:`dfnb.results.reading.thresholds`, for a metric WITH_THRESHOLD.
        replicates: Of the bootstrap. With 1,000 the standard error itself has an error of 4 %,
            which is too much for the p of a claim, which is compared with a limit.

    Returns:
        A row per group, without those that are subtracted: its columns; ``metric``; ``minus``, the
        name of what is subtracted, such as "Baseline", or "clean" where it is the frames without
        corruption, else empty; ``value``; ``low`` and ``high``, NaN without an interval; ``error``
        (standard error) and ``degrees`` of freedom; ``n_real``, ``n_fake`` (units) and
        ``clusters``, summed over averaged test sets; ``unpaired``, units that one side of a
        difference lacks, so that it is not of them;
        ``collapsed``, how many runs (of differences: pairs of runs) learned nothing; ``seeds``, how
        many the value is a mean of, without collapsed runs unless all are (a seed with folds has
        collapsed if all of its runs have); ``sets``, of how many test sets. What it is of:
        ``of_trainings``, of differences all; ``of_seeds``, and ``seed_values`` at these;
        ``of_sets``, the names of the test sets; ``unit``, "videos" or "frames"; ``over``, what was
        resampled for the interval, in words, empty without one: "videos" where nobody knows who is
        in them, and a cluster is a video with the fakes that were made from it.

    Raises :class:`DfnbError` for columns that are missing, where several test sets are neither
    told apart nor averaged, and as :func:`as_table`, for a KEY that is twice in a group, say.

    Example::

        measure(scores, "AUC", by="detector", mean_over="test_set", minus="Baseline")
    """
    by = [by] if isinstance(by, str) else list(by)
    averaged = [mean_over] if isinstance(mean_over, str) else list(mean_over)
    names = [*by, *averaged]
    minus = [{"detector": minus}] if isinstance(minus, str) else minus
    _refuse_unknown(scores, metric, names, minus, thresholds)
    if scores.empty:
        return pd.DataFrame(columns=[*by, *SUMMARY, "metric", "minus"])
    units, clusters = _units(scores, metric, names, averaged, thresholds or {})
    groups = _groups(units, metric, names)
    parts = defaultdict(list)
    for key in groups:
        if compared := _compared(key, groups, names, minus, metric):
            parts[key[: len(by)]].append(compared)
    complete = max(map(len, parts.values()), default=0)
    people = _People(units, clusters, replicates)
    # The replicates of a threshold are fewer, and repeat.
    limits = {
        key: np.append(limit[:1], np.resize(limit[1:], replicates if len(limit) > 1 else 0))
        for key, limit in (thresholds or {}).items()
    }
    is_signed = bool(minus) or metric in (*DIFFERENCES, CORRELATION)
    rows = []
    known = {}
    for group, of_group in parts.items():
        if len(of_group) == complete:
            resampled, estimates = _estimates(of_group, metric, people, limits, known)
            number = _summary(estimates, resampled, is_signed, replicates)
            rows.append({**dict(zip(by, group)), **number})
    table = pd.DataFrame(rows, columns=[*by, *SUMMARY])
    table["unit"] = "frames" if "frame" in scores else "videos"
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
    names: Sequence[str],
    minus: Sequence[Mapping[str, Any]],
    thresholds: Thresholds | None,
) -> None:
    """Raise :class:`DfnbError` for a call of :func:`measure` that would give an empty table.

    ``names`` are the columns of groups and of what is averaged.
    """
    for name, value in chain(*(counterpart.items() for counterpart in minus)):
        if name not in names:
            raise DfnbError(f"what is subtracted has another {name}: add {name} to by or mean_over")
        known = [*scores[name].astype("category").cat.categories]  # also of rows not selected
        if value not in known and len(scores):
            raise DfnbError(f"there is no {name} {value!r}{suggestion(str(value), known)}")
    if metric in WITH_THRESHOLD and thresholds is None:
        raise DfnbError(f"{metric} needs thresholds: pass those of results.thresholds(NAME)")


def above_original(scores: pd.DataFrame, originals: Mapping[str, str]) -> pd.DataFrame:
    """The scores with a column that says whether a fake scores above the video it was made from.

    The column ``above its original`` is 1 if it does, by the same detector and seed on the same
    test set, .5 for a tie, else 0; NaN for real videos and without the original.

    Args:
        scores: Rows of :func:`dfnb.results.reading.scores` of videos.
        originals: The original's name by that of the fake.
    """
    keys = ["detector", "seed", "test_set", "video"]
    real = scores[scores["label"] == 0].set_index(keys)["log_odds"]
    of_original = scores.assign(video=scores["video"].map(originals))[keys]
    there = real.reindex(pd.MultiIndex.from_frame(of_original)).to_numpy()
    above = np.sign(scores["log_odds"] - there) / 2 + 0.5
    return scores.assign(**{"above its original": above.where(scores["label"] == 1)})


# ---------------------------------------------------------------- groups of units


def _needs_two_classes(metric: str | Function) -> bool:
    """Whether a metric compares real with fake units."""
    return getattr(metric, "two_classes", True) if callable(metric) else metric in TWO_CLASSES


def _units(
    scores: pd.DataFrame,
    metric: str | Function,
    names: Sequence[str],
    averaged: Sequence[str],
    thresholds: Thresholds,
) -> tuple[pd.DataFrame, Array]:
    """The units that are measured, and the names of clusters.

    The table has the columns ``names``, of Trainings, ``seed`` and ``collapsed``; ``unit``, a
    number for each KEY; ``value``, the score or measure; ``label``, True for fake; ``cluster``, a
    number; ``test_set``, of folds that are averaged the name of their dataset; ``of_set``, the name
    of the fold, ``fold``, its number, and ``folds``, how many there are. The arguments are those of
    :func:`measure`.
    """
    column = "score" if callable(metric) or metric in METRICS else metric
    table = as_table(scores, [column, *names], [*names, "seed"])
    table["value"] = table["log_odds" if metric in RANKED else column]
    table["unit"] = table.groupby([name for name in KEY if name in table], observed=True).ngroup()
    if metric in WITH_THRESHOLD:
        table = table[table["detector"].isin([name for name, _ in thresholds])]
    if metric == FALSE_POSITIVE_RATE:
        table = table[table["label"] == 0]
    # Other columns are dropped, because selecting a group copies all columns.
    kept = {*names, *Trainings._fields, "test_set", "seed", "method", "collapsed"}
    kept |= {"cluster", "cluster_of", "label", "unit", "value"}
    units = table[[name for name in table if name in kept]].dropna(subset="value")
    units["of_set"] = units["test_set"] = units["test_set"].astype(str)
    sets = units["of_set"].unique()
    if len(sets) > 1 and "test_set" not in names:
        raise DfnbError(f"{len(sets)} test sets: add test_set to by or mean_over")
    if "test_set" in averaged:
        units["test_set"] = units["of_set"].map({name: re.sub(FOLD, "", name) for name in sets})
    units["fold"] = pd.factorize(units["of_set"])[0]
    units["folds"] = units.groupby("test_set")["fold"].transform("nunique")
    # Sorted, because test sets with the same people must be resampled alike, see cluster_weights;
    # as texts, because categories would be sorted in an order of their own.
    units["cluster"], clusters = pd.factorize(units["cluster"].astype(object), sort=True)
    units["label"] = units["label"] == 1
    if "method" in names and _needs_two_classes(metric):  # the same real units for each method
        is_real = units["method"] == "real"
        parts = [units.head(0)]  # there may be no method
        for method in units.loc[~is_real, "method"].unique():
            of_method = units[is_real | (units["method"] == method)]
            parts.append(of_method.assign(method=method))
        units = pd.concat(parts)
    return units, clusters


def _groups(
    units: pd.DataFrame,
    metric: str | Function,
    names: Sequence[str],
) -> dict[tuple, pd.DataFrame]:
    """The units of each group by its values of ``names``, with seed and ``unit`` as their index."""
    whole = _whole(units, metric, [*names, "seed"]).sort_values("test_set", kind="stable")
    grouped = whole.set_index(["seed", "unit"]).groupby(names, observed=True, sort=False)
    return dict(iter(grouped))


def _whole(units: pd.DataFrame, metric: str | Function, by: Sequence[str]) -> pd.DataFrame:
    """The units without seeds that lack a fold of their dataset, or one of two classes."""
    of_seed = units.groupby(by, observed=True)
    is_whole = of_seed["of_set"].transform("nunique") == units["folds"]
    if _needs_two_classes(metric):
        is_whole &= of_seed["label"].transform("nunique") == 2
    return units[is_whole]


def _compared(
    key: tuple,
    groups: Mapping[tuple, pd.DataFrame],
    names: Sequence[str],
    minus: Sequence[Mapping[str, Any]],
    metric: str | Function,
) -> Compared | None:
    """A group and its counterparts: the same group, but with the values of ``minus``.

    They are joined on seed and unit: what not all of them have is left out. None where the group is
    its own counterpart, where it has none, or nothing in common with it.
    """
    terms = [(1, key)]
    for counterpart in minus:
        terms += [
            (-sign, tuple(counterpart.get(name, value) for name, value in zip(names, each)))
            for sign, each in terms
        ]
    signs, keys = zip(*terms)
    if len({*keys}) < len(keys) or not groups.keys() >= {*keys}:
        return None
    sides = [groups[each] for each in keys]
    unpaired = set()
    # Two methods, for example, are tried on different videos: these are joined on the seed alone.
    if {*chain(*minus)}.isdisjoint(KEY):
        common = reduce(pd.Index.intersection, [side.index for side in sides])
        seeds = {*common.get_level_values("seed")}
        left_out = chain(*(side.index.difference(common) for side in sides))
        unpaired = {unit for seed, unit in left_out if seed in seeds}
        if unpaired:
            sides = [side[side.index.isin(common)] for side in sides]
            sides = [_whole(side, metric, ["seed"]) for side in sides]
    seeds = reduce(pd.Index.intersection, [side.index.unique("seed") for side in sides])
    return Compared(signs, sides, len(unpaired)) if len(seeds) else None


# ---------------------------------------------------------------- a number of each group


class _People:
    """How often each cluster of test sets counts in a replicate; people are so wherever they occur.

    Args:
        units: Of :func:`_units`.
        names: Of the clusters, by number.
        replicates: Of the bootstrap.
    """

    def __init__(self, units: pd.DataFrame, names: Array, replicates: int) -> None:
        of_cluster = units.groupby(["test_set", "cluster"])["label"]
        self.is_fake = of_cluster.agg(["any", "all"])  # some of its units, all of its units
        self.names = names
        self.replicates = replicates
        self.known = {}

    def are_shared(self, sets: Sequence[str]) -> bool:
        """Whether two of these test sets share people."""
        people = [{*self.is_fake.loc[name].index} for name in sets]
        return any(
            len(one & other) > MOST_BY_CHANCE * min(len(one), len(other))
            for one, other in combinations(people, 2)
        )

    def weights(self, sets: tuple[str, ...]) -> pd.DataFrame:
        """Weights for the sample and each replicate, a column per cluster in these sets."""
        if sets not in self.known:
            of_cluster = self.is_fake.loc[[*sets]].groupby("cluster")
            # 0: the cluster has real units only, 1: both, 2: fake units only.
            stratum = of_cluster["any"].any().astype(int) + of_cluster["all"].all()
            names = self.names[stratum.index]
            drawn = statistics.cluster_weights(names, stratum.to_numpy(), self.replicates)
            self.known[sets] = pd.DataFrame(drawn, columns=stratum.index)
        return self.known[sets]


def _estimates(
    parts: Sequence[Compared],
    metric: str | Function,
    people: _People,
    thresholds: Thresholds,
    known: dict[tuple, Estimate],
) -> tuple[tuple[str, ...], list[Estimate]]:
    """What is resampled beside seeds for the mean of these parts, and the estimate of each.

    ``known`` are the estimates that were made before: many groups have one counterpart.
    """
    sets = tuple(dict.fromkeys(part.sides[0]["test_set"].iloc[0] for part in parts))
    are_shared = people.are_shared(sets)
    # Where test sets are resampled, their spread contains already that of the people who are in one
    # set only.
    resampled = ("people", "test sets") if are_shared else ("test sets",)
    if len(sets) < FEWEST_SETS:
        resampled = ("people",)
    estimates = []
    for part in parts:
        drawn = sets if are_shared else (part.sides[0]["test_set"].iloc[0],)
        weights = people.weights(drawn)
        weights = weights if "people" in resampled else weights.head(1)
        keys = [(id(side), drawn, len(weights)) for side in part.sides]
        for key, side in zip(keys, part.sides):
            if key not in known:
                known[key] = _estimate(side, metric, weights, thresholds)
        sides = [known[key] for key in keys]
        estimates.append(_difference(sides, part.signs, part.unpaired))
    return resampled, estimates


def _estimate(
    units: pd.DataFrame,
    metric: str | Function,
    weights: pd.DataFrame,
    thresholds: Thresholds,
) -> Estimate:
    """The metric of one group at each of its seeds, under each row of ``weights``.

    Args:
        units: Of :func:`_groups`.
        metric: For :func:`measure`.
        weights: Of :class:`_People` or, where people are not resampled, its first row.
        thresholds: For :func:`measure`, with as many replicates as the bootstrap.
    """
    first = units.iloc[0]  # all are of one detector and test set
    is_folded = first["of_set"] != first["test_set"]
    two_classes = _needs_two_classes(metric)
    seed, unit = (units.index.get_level_values(name).to_numpy() for name in units.index.names)
    columns = [units[name].to_numpy() for name in ("value", "label", "fold", "cluster")]
    column_of = pd.Index(weights.columns).get_indexer(columns[-1])  # of the weights
    values, collapsed, fewest = [], [], []
    for each in np.unique(seed):
        value, label, fold, cluster, column = (
            of_all[seed == each] for of_all in (*columns, column_of)
        )
        limit = thresholds[first["detector"], each] if metric in WITH_THRESHOLD else None
        is_fixed = limit is not None and len(limit) == 1  # too uncertain for an interval
        values.append(
            _value(metric, value, label, fold, column, weights.to_numpy(), limit, is_folded)
        )
        # A seed with folds has collapsed if all of their trainings have.
        collapsed.append(units["collapsed"].to_numpy()[seed == each].all())
        by_label = [_distinct(cluster[is_in]) for is_in in (label, ~label) if is_in.any()]
        is_too_few = two_classes and _distinct(cluster) < FEWEST_CLUSTERS
        fewest.append(1 if is_too_few or is_fixed else min(by_label))
    _, place = np.unique(unit, return_index=True)  # each unit once
    _, label, fold, cluster = (column[place] for column in columns)
    independent = _distinct(cluster)
    if two_classes:  # a pair takes its real and its fake unit from two clusters
        independent = 0
        for each in np.unique(fold):
            parts = [cluster[is_in & (fold == each)] for is_in in (label, ~label)]
            independent += min(*map(_distinct, parts), _distinct(np.concatenate(parts)) // 2)
    return Estimate(
        test_set=first["test_set"],
        of_sets=tuple(units["of_set"].unique()),
        trainings=(Trainings(*(str(first.get(name, "")) for name in Trainings._fields)),),
        seeds=np.unique(seed),
        values=np.array(values),
        collapsed=np.array(collapsed),
        counts=np.array([(~label).sum(), label.sum(), _distinct(cluster), independent]),
        fewest=min(fewest),
        cluster_of=str(first["cluster_of"]),
    )


def _distinct(values: Array) -> int:
    """How many different values there are."""
    return len(np.unique(values))


def _value(
    metric: str | Function,
    value: Array,
    label: Array,
    fold: Array,
    cluster: Array,
    weights: Array,
    threshold: Array | None,
    is_folded: bool,
) -> Array:
    """The metric of the units of a seed, (rows of weights,); of folds, but for the AUC, their mean.

    Args:
        metric: For :func:`measure`.
        value: (n,), the scores or measures of the units.
        label: (n,) bool, True for fake.
        fold: (n,) int.
        cluster: (n,), the column of ``weights`` of each.
        weights: (1 + replicates, clusters), or (1, clusters).
        threshold: (1 + replicates,), or (1,) if it is fixed; for a metric WITH_THRESHOLD.
        is_folded: Whether each fold is tested by a network of its own.
    """
    if metric == "AUC":
        return statistics.weighted_auc(value, label, cluster, weights, fold if is_folded else None)
    if is_folded:
        columns = value, label, fold, cluster
        folds = [[column[fold == each] for column in columns] for each in np.unique(fold)]
        values = [_value(metric, *of_fold, weights, threshold, False) for of_fold in folds]
        return pd.DataFrame(values).mean().to_numpy()  # without folds that lack a class in a draw
    if callable(metric):
        return np.array([metric(value, label, row[cluster]) for row in weights], dtype=float)
    if metric == "EER":
        return statistics.eer(value, label, cluster, weights)
    if metric == TPR:
        return statistics.tpr_at(value, label, cluster, weights, 0.05)
    if metric in (ACCURACY, AT_THRESHOLD):
        threshold = np.array([0.5]) if metric == ACCURACY else threshold
        fpr = statistics.mean(value[~label], cluster[~label], weights, threshold)
        tpr = statistics.mean(value[label], cluster[label], weights, threshold)
        return (1 - fpr + tpr) / 2
    return statistics.mean(value, cluster, weights, threshold)


def _difference(sides: Sequence[Estimate], signs: Sequence[int], unpaired: int) -> Estimate:
    """The sum of estimates with these signs, replicate by replicate and seed by seed.

    A pair with a collapsed run counts as collapsed. The counts are those of the first.
    """
    seeds = reduce(np.intersect1d, [side.seeds for side in sides])
    sides = [side.of_seeds(seeds) for side in sides]
    collapsed = np.any([side.collapsed for side in sides], axis=0)
    # A side that is 0 or 1 at every seed is so in every replicate, too, as if it had no error: the
    # interval would be too narrow.
    is_counted = _counted(collapsed)
    at_bound = len(sides) > 1 and any(_are_at_bound(side.values[is_counted, 0]) for side in sides)
    return sides[0]._replace(
        trainings=tuple(dict.fromkeys(chain(*(side.trainings for side in sides)))),
        values=sum(sign * side.values for sign, side in zip(signs, sides)),
        collapsed=collapsed,
        counts=np.append(sides[0].counts, unpaired),
        fewest=1 if at_bound else min(side.fewest for side in sides),  # 1: no interval
    )


# ---------------------------------------------------------------- means


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
        resampled: What is resampled, in words, such as "people".
        is_signed: Whether the value may be below 0. Values outside [0, 1] show this themselves.
        replicates: Of the bootstrap.
    """
    # The seeds that all parts have, so that each part counts with the same ones.
    seeds = reduce(np.intersect1d, [each.seeds for each in parts])
    common = [each.of_seeds(seeds) for each in parts]
    collapsed = np.any([each.collapsed for each in common], axis=0)
    counted = seeds[_counted(collapsed)]
    estimates = [each.of_seeds(counted) for each in common]
    counts = defaultdict(list)
    for each in estimates:
        counts[each.test_set].append(each.counts)
    # Each set counts once.
    totals = sum(np.max(of_set, axis=0) for of_set in counts.values()).tolist()
    n_real, n_fake, clusters, independent, unpaired = totals
    sets = tuple(dict.fromkeys(chain(*(each.of_sets for each in estimates))))
    number = _mean(estimates, resampled, is_signed, replicates, independent)
    cluster_of = " or ".join(dict.fromkeys(each.cluster_of for each in estimates))
    over = [cluster_of if name == "people" else name for name in resampled]
    over += ["seeds"] if len(counted) > 1 else []
    return {
        **number,
        "n_real": n_real,
        "n_fake": n_fake,
        "clusters": clusters,
        "unpaired": unpaired,
        "seeds": len(counted),
        "collapsed": collapsed.sum(),
        "sets": len(counts),
        "of_trainings": tuple(dict.fromkeys(chain(*(each.trainings for each in estimates)))),
        "of_seeds": tuple(counted.tolist()),
        "seed_values": tuple(np.mean([each.values[:, 0] for each in estimates], axis=0).tolist()),
        "of_sets": sets,
        "over": "" if np.isnan(number["low"]) else ", ".join(over),
    }


def _mean(
    estimates: Sequence[Estimate],
    resampled: Sequence[str],
    is_signed: bool,
    replicates: int,
    independent: int,
) -> dict[str, float]:
    """The mean of estimates with the same seeds: ``value``, its interval and error.

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
    return dict(zip(NUMBER, (value, low, high, error, degrees)))


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
        values: (parts, seeds, 1 + replicates), where a part is one of the averaged values, such as
            a test set's; people are resampled in the replicates.
        set_weights: (parts, 1, 1 + replicates), of the test set of each part; (1, 1, 1) where test
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
