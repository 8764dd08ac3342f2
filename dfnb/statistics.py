"""Intervals and tests, as pure functions of arrays.

How far would a number move if other people had been filmed? That is what an interval here answers.
Clusters (videos that share people) are independent of each other; frames of a cluster are not. So
every variance is over clusters. A unit is a frame or a video. Its influence on an estimate is about
how far the estimate would move if the unit were there twice. :meth:`Design.variance` sums
influences within clusters, because only these sums are independent:

- AUC: the influences are DeLong's components (:func:`auc`); a cluster may have units of both
  classes (Obuchowski, Biometrics 53:567, 1997);
- means: they are deviations from the mean of the unit's class (:func:`class_mean`);
- the EER has no such formula: bootstrap replicates (:meth:`Design.resampled`) draw one cluster
  fewer than there are, with a weight that makes up for it. This makes the variance of a mean
  unbiased (Rao and Wu, JASA 83:231, 1988).

The shares of the classes in a test set are treated as fixed. A class with a single cluster has no
variance (NaN).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit, stdtr, stdtrit

from dfnb.seeds import rng

REPLICATES = 1000
THRESHOLD_REPLICATES = 200  # of a threshold; a run's record keeps them
MOST_THRESHOLDS = 400  # of the ROC curve of a bootstrap replicate; more would cost memory
NAN = float("nan")
COUNTS = ("n", "n_real", "n_fake", "clusters")  # of units and of clusters
FEWEST_SETS = 3  # test sets of a mean, for an interval that covers other test sets
Array = np.ndarray


# ---------------------------------------------------------------- clusters


class Design:
    """The labels and clusters of n units: all that a variance needs beside the influences.

    It is made from ``label`` and ``names``.

    Attributes:
        label: (n,) bool, True for fake.
        names: (n,) the name of each unit's cluster.
        distinct_names: (clusters,) each name once.
        cluster: (n,) int, the place of each unit's cluster in ``distinct_names``.
        clusters: The number of clusters.
        has_class: (2, clusters) bool, which clusters have real and which have fake units.
        clusters_per_class: (2,) int, the numbers of clusters with real and with fake units.
        fewest: The number of clusters of the scarcer class; of the only class where one is absent.
        counts: (4,) the numbers that COUNTS names.
        pairs: How many pairs of a real and a fake unit can be formed so that no two units are from
            one cluster. Such pairs are independent of each other.
    """

    def __init__(self, label: Array, names: Array) -> None:
        self.label = np.asarray(label, bool)
        self.names = np.asarray(names)
        self.cluster, self.distinct_names = pd.factorize(self.names)
        self.clusters = len(self.distinct_names)
        reals = self._sums(~self.label)  # the number of real units of each cluster
        fakes = self._sums(self.label)
        self.counts = np.array([len(self.label), reals.sum(), fakes.sum(), self.clusters])
        self.has_class = np.array([reals, fakes]) > 0
        self.clusters_per_class = self.has_class.sum(axis=1)
        is_present = self.clusters_per_class > 0
        self.fewest = int(self.clusters_per_class[is_present].min())
        scarcer = self.clusters_per_class.min()  # 0 where a class is absent
        # A pair takes its real unit from one cluster and its fake unit from another.
        self.pairs = int(min(scarcer, self.clusters // 2))

    def _sums(self, values: Array) -> Array:
        """The sum of values (n,) over the units of each cluster, (clusters,)."""
        return np.bincount(self.cluster, values, self.clusters)

    def variance(self, influence: Array) -> float:
        """The variance over clusters of an estimate, from each unit's influence (n,) on it.

        The influences must sum to 0 in each class. R_k and F_k are the sums over the real and the
        fake units of cluster k. The variance (Obuchowski 1997) is

            K_R/(K_R-1) Σ R_k² + K_F/(K_F-1) Σ F_k² + 2 K/(K-1) Σ R_k F_k,

        where K_R, K_F and K are the numbers of clusters with real units, with fake units, and of
        all clusters; the factors K/(K-1) correct the bias of few clusters. The last term is there
        because a cluster with both classes moves both at once. NaN where a class has one cluster.
        """
        if self.fewest < 2:
            return NAN
        real = self._sums(influence * ~self.label)
        fake = self._sums(influence * self.label)
        k = np.array([*self.clusters_per_class, self.clusters])
        # max: an absent class has k = 0. Its factor is 0, as are its sums.
        real_factor, fake_factor, both_factor = k / np.maximum(k - 1, 1)  # the three K/(K-1)
        real_term = real_factor * real @ real
        fake_term = fake_factor * fake @ fake
        covariance_term = 2 * both_factor * real @ fake
        return float(real_term + fake_term + covariance_term)

    def moves(self, influence: Array) -> Array:
        """How far each cluster moves an estimate, (clusters,), from the influences (n,).

        The sum of the squares is :meth:`variance`, if each cluster has both classes or if there is
        one class only. So the sum of products is the covariance of two estimates.
        """
        sums = self._sums(influence)
        # Two moves are multiplied, so each has the square root of :meth:`variance`'s K/(K-1).
        return sums * (self.clusters / max(self.clusters - 1, 1)) ** 0.5

    @cached_property
    def resampled(self) -> Array:
        """Bootstrap weights (REPLICATES, clusters), the same for every table of this design.

        A row is a replicate: how often each cluster counts in it. There are three strata: clusters
        with real units only, with fake units only, and with both, so that every replicate has about
        as many real and fake units as the test set. In a stratum of k clusters, k - 1 draws with
        replacement each add k / (k - 1) to the weight of a cluster: the weights sum to k. If a
        stratum would have a single cluster, and so no draw, all clusters form one stratum.
        """
        has_real, has_fake = self.has_class
        stratum = has_real + 2 * has_fake  # 1 real only, 2 fake only, 3 both
        if 1 in np.bincount(stratum):  # some stratum has a single cluster
            stratum = np.zeros_like(stratum)
        generator = rng("bootstrap")
        weights = np.empty((REPLICATES, self.clusters))
        for number in np.unique(stratum):
            is_inside = stratum == number
            k = np.count_nonzero(is_inside)
            probabilities = np.full(k, 1 / k)
            # (REPLICATES, k): how often each cluster is among the draws of a replicate
            times_drawn = generator.multinomial(k - 1, probabilities, REPLICATES)
            # max: with a single cluster there is no draw, and its weight is 0.
            weights[:, is_inside] = times_drawn * k / max(k - 1, 1)
        return weights


# ---------------------------------------------------------------- estimates


def auc(score: Array, label: Array) -> tuple[Array, Array]:
    """AUC (tables,) of scores (tables, n), and each unit's influence (tables, n) on it.

    A table has the scores of one seed. ``label`` is (n,) bool and has both classes. The component
    of a fake unit is the share of real units with a lower score; that of a real unit is the share
    of fake units with a higher score. Ties count half. AUC is the mean component of either class
    (DeLong; computed from ranks as by Sun and Xu, IEEE Signal Processing Letters 21:1389, 2014,
    eq. 5 and 6).
    """
    from scipy.stats import rankdata  # takes a second to import, and most processes need none

    fakes = np.count_nonzero(label)
    reals = len(label) - fakes
    # Rank among all minus rank in the own class: how many of the other class are below. Tied units
    # share their mean rank, so that a tie counts half.
    others_below = rankdata(score, axis=1)
    for is_of_class in (label, ~label):
        rank_in_class = rankdata(score[:, is_of_class], axis=1)
        others_below[:, is_of_class] -= rank_in_class
    component = np.where(
        label,
        others_below / reals,
        1 - others_below / fakes,
    )
    values = component[:, label].mean(axis=1)
    deviation = component - values[:, None]
    # AUC is the mean component of the fakes, and also that of the reals, so a unit's weight is 1
    # divided by the units of its class.
    units_of_class = np.where(label, fakes, reals)
    return values, deviation / units_of_class


def class_mean(
    column: Array,
    label: Array,
    balanced: bool = False,
) -> tuple[Array, Array]:
    """The mean (tables,) of values (tables, n), and each unit's influence (tables, n) on it.

    ``label`` is (n,) bool. ``balanced``: the mean of the means of the two classes, both of which
    must occur then. A unit deviates from the mean of its class, not of all units, because the
    shares of the classes are fixed.
    """
    influence = np.empty(column.shape)
    means = []
    for is_of_class in (label, ~label):
        if is_of_class.any():
            values = column[:, is_of_class]
            mean = values.mean(axis=1)
            means.append(mean)
            # How much a single unit counts in the estimate; each class counts half if balanced.
            weight = 0.5 / is_of_class.sum() if balanced else 1 / len(label)
            influence[:, is_of_class] = (values - mean[:, None]) * weight
    if balanced:
        return np.mean(means, axis=0), influence
    return column.mean(axis=1), influence


def curve_metrics(score: Array, label: Array) -> dict[str, float]:
    """AUC, AP and EER of scores (n,) and labels (n,) bool.

    They are NaN where a label does not occur, except that AP is 1 where only label 0 is absent. AUC
    and AP are those of scikit-learn, which is too slow for thousands of masks.
    """
    # Which of the distinct scores each unit has, (n,) int; 0 is the highest, hence the minus.
    _, rank = np.unique(-score, return_inverse=True)
    # How many units have at least each distinct score; first none, where the curves begin.
    true_positives = np.append(0, np.bincount(rank, label).cumsum())
    false_positives = np.append(0, np.bincount(rank, ~label).cumsum())
    with np.errstate(invalid="ignore"):
        tpr = true_positives / true_positives[-1]
        fpr = false_positives / false_positives[-1]
    positives = true_positives + false_positives
    precision = true_positives[1:] / positives[1:]
    return {
        "AUC": float(np.trapezoid(tpr, fpr)),
        "AP": float(np.diff(tpr) @ precision),  # the precision at each gain in recall
        "EER": float(equal_error_rates(false_positives[None], true_positives[None])[0]),
    }


def equal_error_rates(false_positives: Array, true_positives: Array) -> Array:
    """EER (B,) of B ROC curves: where FPR = 1 - TPR on their points, joined by lines.

    NaN where a curve has no real or no fake units, as a bootstrap replicate may.

    Args:
        false_positives: (B, T) the weight of the real units above each of T thresholds, which
            fall: the first is above every score, the last below.
        true_positives: (B, T) the same of the fake units.
    """
    with np.errstate(invalid="ignore"):
        fpr = false_positives / false_positives[:, -1:]
        tpr = true_positives / true_positives[:, -1:]
    excess = fpr + tpr - 1  # rises from -1 to 1 along a curve; 0 at the EER
    curve = np.arange(len(fpr))  # (B,), to take one point of each curve
    # At least 1, because the first point has -1; 0 for a curve of NaN, which gives NaN anyway.
    first_past = np.argmax(excess >= 0, axis=1)
    after = (curve, first_past)
    before = (curve, first_past - 1)
    change = excess[before] - excess[after]
    share = excess[before] / change  # of the line from before to after, up to where excess is 0
    width = fpr[after] - fpr[before]
    return fpr[before] + width * share


def bootstrap_eer(score: Array, design: Design) -> Array:
    """Bootstrap replicates (REPLICATES,) of the EER of scores (n,).

    Where there are more than MOST_THRESHOLDS distinct scores, neighbouring scores count as equal.
    """
    distinct_scores, rank = np.unique(-score, return_inverse=True)  # rank 0: the highest score
    distinct = len(distinct_scores)
    thresholds = min(distinct, MOST_THRESHOLDS)
    threshold = rank * thresholds // distinct  # bins of about equally many distinct scores
    # Units by class (real, fake), cluster and bin. Bin 0 stays empty, because curves begin there.
    counts = np.zeros((2, design.clusters, 1 + thresholds))
    place = (design.label.astype(int), design.cluster, 1 + threshold)
    np.add.at(counts, place, 1)
    above = counts.cumsum(axis=2)  # the units of each cluster above each threshold
    # (REPLICATES, clusters) @ (2, clusters, 1 + thresholds): the sum over clusters, each weighted
    # as in a replicate.
    false_positives, true_positives = design.resampled @ above
    return equal_error_rates(false_positives, true_positives)


def bootstrap_quantile(
    values: Array,
    cluster: Array,
    share: float,
) -> Array:
    """Bootstrap replicates (THRESHOLD_REPLICATES,) of a quantile of values (n,).

    ``cluster``: the name of each value's cluster. ``share``: the share of the values that are at
    most as high as the quantile. A replicate is the quantile of the weighted values, with the
    weights of :meth:`Design.resampled`. These are equal for equal clusters in equal order, so the
    replicates of two detectors on the same frames are paired.
    """
    values = np.asarray(values)
    order = np.argsort(values)
    design = Design(np.zeros(len(values)), cluster)  # one class
    cluster_weights = design.resampled[:THRESHOLD_REPLICATES]
    # (THRESHOLD_REPLICATES, n): the weight of each value and all below it, in ascending order.
    weights_up_to = cluster_weights[:, design.cluster[order]].cumsum(axis=1)
    # Of the total weight in the last column; 1e-9 less, because sums are rounded.
    limit = (share - 1e-9) * weights_up_to[:, -1:]
    # As many values are below the limit as the place of the first value that reaches it.
    place = (weights_up_to < limit).sum(axis=1)
    return values[order][place]


# ---------------------------------------------------------------- intervals and tests


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate, and the degrees of freedom of that variance.

    The variance is itself estimated, from few clusters or seeds. The degrees of freedom, about
    their number minus 1, say how well; with few, the t quantile makes intervals wider.
    """

    variance: float
    degrees: float

    @property
    def error(self) -> float:
        """The standard error."""
        return self.variance**0.5

    def plus(self, other: "Spread") -> "Spread":
        """The spread of a sum of two independent estimates: the sum of their variances.

        The degrees of freedom are Satterthwaite's (Biometrics Bulletin 2:110, 1946). The variance
        is NaN where one of the two is.
        """
        total = self.variance + other.variance
        if not total > 0:  # 0, which would be divided by, or NaN
            return Spread(total, self.degrees)
        # The degrees of the larger variance count most.
        share = self.variance**2 / self.degrees
        other_share = other.variance**2 / other.degrees
        degrees = total**2 / (share + other_share)
        return Spread(total, degrees)

    def interval(self, value: float) -> tuple[float, float]:
        """The 95 % interval of a value that may have any sign (Wald)."""
        half_width = t_quantile(self.degrees) * self.error
        return value - half_width, value + half_width


def t_quantile(degrees: float, probability: float = 0.975) -> float:
    """The t quantile; by default that of a two-sided 95 % interval."""
    quantile = stdtrit(degrees, probability)
    return float(quantile)


def bounded_interval(value: float, spread: Spread, independent: int) -> tuple[float, float]:
    """The 95 % interval of a value in [0, 1]: on the logit scale, with a t quantile, and back.

    On that scale the interval cannot leave [0, 1], and near 1 it is longer downwards.

    A value of exactly 1 has a variance of 0. Its interval is [.025^(1/k), 1], k = ``independent``
    being the number of independent observations: a share below the bound would give k successes out
    of k with a probability of less than .025. An AUC of 1 has k independent pairs in order, besides
    all others, so for AUC this is conservative. For 0 it is mirrored. NaN where the variance is.
    """
    if np.isnan(spread.variance):
        return NAN, NAN
    if min(value, 1 - value) < 1e-12:  # exactly 0 or 1, but for rounding
        bound = 0.025 ** (1 / independent)
        if value > 0.5:
            return bound, 1.0
        return 0.0, 1 - bound
    slope = value * (1 - value)  # d value / d logit: an error on the logit scale is error / slope
    quantile = t_quantile(spread.degrees)
    half_width = quantile * np.sqrt(spread.variance) / slope
    middle = logit(value)
    low = expit(middle - half_width)
    high = expit(middle + half_width)
    return float(low), float(high)


def p_value(difference: float, spread: Spread) -> float:
    """Two-sided p of a difference; 1 without any difference, NaN where the variance is."""
    return 2 * p_above(abs(difference), spread)


def p_above(difference: float, spread: Spread) -> float:
    """One-sided p of the test whether the true difference is above 0; NaN where the variance is.

    A small p speaks for a difference above 0.
    """
    error = np.maximum(spread.error, 1e-9)  # no division by 0; unlike max(), it keeps NaN
    return float(stdtr(spread.degrees, -difference / error))


def crossed_spread(
    values: Array,
    planned: tuple[int, int] | None = None,
) -> Spread:
    """The spread of the mean of values (test sets, seeds): over other test sets and other seeds.

    The model has two random effects: value = mean + effect of the set + effect of the seed + noise.
    So the variance of the mean of all values is

        var(means of seeds) / seeds + var(means of sets) / sets - noise / (sets * seeds).

    The means of seeds and those of sets both include the noise, so it is subtracted once; a
    variance that is below 0 without its noise counts as 0. The clusters of a test set shift its
    mean at every seed, so the sets' variance includes theirs. Where each seed trains on its own
    people, these shift the seed's mean on every set, so the seeds' variance includes theirs. One
    seed says nothing about other seeds: then the spread is over the test sets of ``values`` alone.
    Where all sets show the same people, :func:`shared_spread` must be added.

    ``planned``: the numbers of test sets and of seeds of a study that is planned from ``values``.

    Of several seeds, ``values`` must have at least two test sets.
    """
    of_sets = values.mean(axis=1)
    of_seeds = values.mean(axis=0)
    if len(of_seeds) < 2:
        return _spread_of_mean(of_sets)
    sets, seeds = planned or values.shape
    # The mean square of what neither the set nor the seed explains. These variances divide by the
    # number of values, so that the parts add up: all = sets + seeds + residual.
    residual = values.var() - of_sets.var() - of_seeds.var()
    degrees = (len(of_sets) - 1) * (len(of_seeds) - 1)
    noise = residual * values.size / degrees  # the unbiased variance of a single value's noise
    # The noise of a mean is divided by the number of averaged values.
    noise_of_seed = noise / len(of_sets)
    noise_of_set = noise / len(of_seeds)
    seed_variance = max(of_seeds.var(ddof=1) - noise_of_seed, 0)
    set_variance = max(of_sets.var(ddof=1) - noise_of_set, 0)
    over_seeds = Spread(seed_variance / seeds, seeds - 1)
    # The sum must include the noise once: here, as the noise of a set's mean over all seeds.
    set_variance += noise / seeds
    over_sets = Spread(set_variance / sets, sets - 1)
    return over_seeds.plus(over_sets)


def shared_spread(outcomes: Sequence["Outcome"]) -> Spread:
    """What the people add to the spread of a mean over test sets that all show the same people.

    They move all sets together, so the differences between sets or seeds do not show their effect.
    The variance is the covariance of two sets over clusters, averaged over all pairs of sets. It is
    0 unless all sets show the same people: their clusters have the same names in the same order.
    """
    # An outcome without an interval (``how`` is "none") has no moves.
    moving = [outcome for outcome in outcomes if len(outcome.moves)]
    groups_of_people = {tuple(outcome.clusters) for outcome in moving}  # equal ones count once
    if len(groups_of_people) != 1 or len(moving) < 2:
        return Spread(0.0, 1)  # any degrees but 0: Spread.plus divides by them
    moves = np.array([outcome.moves for outcome in moving])  # (sets, m)
    covariances = moves @ moves.T  # (sets, sets), the variances of the sets on the diagonal
    is_of_two = ~np.eye(len(moves), dtype=bool)
    covariance = covariances[is_of_two].mean()
    degrees = outcomes[0].over_videos.degrees
    return Spread(max(covariance, 0.0), degrees)


def _spread_of_mean(values: Array) -> Spread:
    """The spread of the mean of independent values; NaN for one value, which shows no variance."""
    count = len(values)
    if count < 2:
        return Spread(NAN, 0)
    variance = float(values.var(ddof=1))
    return Spread(variance / count, count - 1)


@dataclass(frozen=True)
class Outcome:
    """A metric on one test set, or its difference between two detectors, at every seed.

    Attributes:
        values: (seeds,), one of each seed.
        over_videos: How the mean of ``values`` varies over videos, more exactly over clusters.
        bounded: Whether the metric lies in [0, 1].
        independent: The number of independent observations behind a value of exactly 0 or 1.
        how: The method by which ``over_videos`` was estimated, see :mod:`dfnb.metrics`.
        counts: (4,) the numbers that COUNTS names.
        at_thresholds: The mean of ``values`` at each replicate of the threshold, see
            :func:`bootstrap_quantile`, up to a constant; empty for a metric without a threshold.
        clusters: The names of the clusters, each once.
        moves: (m,) how the mean of ``values`` moves with each cluster, or with each bootstrap
            replicate of clusters. The sum of its products with those of another outcome on the
            same clusters is their covariance.
    """

    values: Array
    over_videos: Spread
    bounded: bool
    independent: int
    how: str
    counts: Array
    at_thresholds: Array = ()
    clusters: Array = ()
    moves: Array = ()


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The mean over seeds with its intervals; of several outcomes, also the mean over test sets.

    The outcomes are of one metric at the same seeds, on test sets that share no video. For the
    spread, see :func:`_spreads`.

    Returns:
        The columns of :class:`dfnb.results.ResultRow` from ``value`` to ``interval_method``,
        ``by_seed`` and ``without_seed``. The counts are summed over the test sets.
    """
    first = outcomes[0]
    values = np.mean([outcome.values for outcome in outcomes], axis=0)
    value = float(values.mean())
    seeds = len(values)
    by_suffix = _spreads(outcomes)
    total = by_suffix[""]
    counts = sum(outcome.counts for outcome in outcomes)
    columns = {
        **dict(zip(COUNTS, counts)),
        "value": value,
        "sd": (by_suffix["_seeds"].variance * seeds) ** 0.5,  # of the values, not of their mean
        "p": NAN if first.bounded else p_value(value, total),  # bounded: no test against 0
        "error": total.error,
        "degrees": total.degrees,
        "seeds": seeds,
        "interval_method": "none" if np.isnan(total.variance) else first.how,
        "by_seed": ", ".join(f"{of_seed:.4f}" for of_seed in values),
        "without_seed": [] if first.bounded else _without_seeds(outcomes),
    }
    independent = sum(outcome.independent for outcome in outcomes)
    for suffix, spread in by_suffix.items():
        low, high = spread.interval(value)
        if first.bounded:
            low, high = bounded_interval(value, spread, independent)
        columns[f"low{suffix}"] = low
        columns[f"high{suffix}"] = high
    return columns


def _spreads(outcomes: Sequence[Outcome]) -> dict[str, Spread]:
    """The spreads of the mean over seeds and test sets, by the suffix of their columns.

    - ``_videos``: over the clusters of these test sets and, for a metric with a threshold, of the
      frames that the threshold was chosen on;
    - ``_seeds``: the variance of the seeds' values divided by their number;
    - no suffix: the sum of both; over videos alone where there is one seed. From FEWEST_SETS test
      sets on it is that of :func:`crossed_spread`, which also covers other test sets. The mean of
      fewer has an interval for these sets alone: two sets do not show how much sets differ.
    """
    values = np.array([outcome.values for outcome in outcomes])  # (sets, seeds)
    sets = len(outcomes)
    over_seeds = _spread_of_mean(values.mean(axis=0))
    spreads = [outcome.over_videos for outcome in outcomes]
    # The variance of a mean over sets is a sum divided by sets²: the sum of their variances and,
    # where they show the same people, of the covariances of all sets * (sets - 1) ordered pairs.
    terms = [Spread(spread.variance / sets**2, spread.degrees) for spread in spreads]
    shared = shared_spread(outcomes)
    covarying = Spread(shared.variance * (sets - 1) / sets, shared.degrees)
    over_videos = reduce(Spread.plus, [*terms, covarying])
    total = over_videos if np.isnan(over_seeds.variance) else over_videos.plus(over_seeds)
    # A set without an interval, such as one where a detector is always right, still has values,
    # and crossed_spread needs only these.
    if sets >= FEWEST_SETS and any(outcome.how != "none" for outcome in outcomes):
        total = crossed_spread(values).plus(shared)
    # Empty for a metric without a threshold. A set without an interval has no shifts, either.
    shifts = [outcome.at_thresholds for outcome in outcomes if len(outcome.at_thresholds)]
    if shifts:
        # Another threshold moves the values on all sets at once, so their shifts are averaged
        # replicate by replicate.
        mean_shift = np.sum(shifts, axis=0) / sets
        # A variance of so many replicates has about as many degrees of freedom.
        over_threshold = Spread(mean_shift.var(), THRESHOLD_REPLICATES)
        over_videos = over_videos.plus(over_threshold)
        total = total.plus(over_threshold)
    return {"": total, "_videos": over_videos, "_seeds": over_seeds}


def _without_seeds(outcomes: Sequence[Outcome]) -> list[Array]:
    """For each seed (value, error, degrees), (3,), of the mean over the other seeds.

    Empty with two seeds or one: at least two must be left for a variance over seeds.
    """
    seeds = len(outcomes[0].values)
    estimates = []
    for place in range(seeds if seeds > 2 else 0):
        rest = []
        for outcome in outcomes:
            # Only the values lose a seed. How they vary over videos, and with the threshold, is
            # taken from all seeds, where it is nearly the same.
            values = np.delete(outcome.values, place)
            rest.append(replace(outcome, values=values))
        value = np.mean([outcome.values for outcome in rest])
        total = _spreads(rest)[""]  # over videos and seeds together
        # Rounded to float32 to save space, because a table has thousands of them.
        estimates.append(np.float32([value, total.error, total.degrees]))
    return estimates


def holm(p: Sequence[float]) -> Array:
    """p values (m,) adjusted for their number (Holm, Scandinavian J. of Statistics 6:65, 1979).

    The smallest is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one
    before it, or larger than 1. NaN, a comparison without an interval, stays NaN but counts in m.
    """
    ascending = pd.Series(np.asarray(p, float)).sort_values()  # NaN last
    multiplied = ascending * np.arange(len(ascending), 0, -1)
    adjusted = multiplied.cummax().clip(upper=1)
    return adjusted.sort_index().to_numpy()  # in the order of p again


def least_detectable_difference(
    spread: Spread,
    power: float = 0.8,
    tests: int = 1,
) -> float:
    """The true difference that a two-sided 5 % test with this spread detects with this power.

    For planning: the spread comes from development runs, scaled to the planned numbers of seeds
    and clusters, or test sets (:func:`crossed_spread`). The test rejects beyond ``threshold``
    standard errors. A true difference must be ``margin`` errors above that, so that its estimate
    falls below it in 1 - power of all cases. With several ``tests``, which Holm's rule adjusts, the
    level is that of its first and strictest step: 5 % divided by ``tests``.
    """
    threshold = t_quantile(spread.degrees, 1 - 0.025 / tests)
    margin = t_quantile(spread.degrees, power)
    return (threshold + margin) * spread.error
