"""Intervals and tests, as pure functions of arrays.

What varies is the cluster (videos that share people), never the frame. An estimate comes with the
influence of every unit on it, from which :meth:`Design.variance` makes the variance over clusters:

- AUC: DeLong's components (:func:`auc`), summed within clusters, which may hold both classes
  (Obuchowski, Biometrics 53:567, 1997);
- means: deviations from the mean of the unit's class (:func:`class_mean`), summed alike;
- EER and AP have no influence: clusters are resampled (:meth:`Design.resampled`), one fewer
  than there are and weighted up, which makes the variance of a mean unbiased (Rao and Wu, JASA
  83:231, 1988).

The shares of the classes in a test set count as fixed. A class with a single cluster has no
variance (NaN).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit, stdtr, stdtrit
from scipy.stats import rankdata

from dfnb.seeds import rng

REPLICATES = 1000
MOST_THRESHOLDS = 400  # of a bootstrap replicate
NAN = float("nan")
COUNTS = ("n", "n_real", "n_fake", "clusters")  # of units and of clusters
Array = np.ndarray


# ---------------------------------------------------------------- clusters


class Design:
    """Labels and clusters of n units, which decide what is resampled together.

    Attributes:
        label: (n,) bool, True for fake.
        names: (n,) the name of each unit's cluster.
        cluster: (n,) int, from 0.
        clusters: The number of clusters.
        has_class: (2, clusters) bool, which clusters have real and which have fake units.
        clusters_per_class: (2,) int, the numbers of clusters with real and with fake units.
        fewest: The number of clusters of the scarcer class, of the classes that there are.
        counts: (4,) the numbers that COUNTS names.
        pairs: The number of disjoint pairs of a fake and a real unit from different clusters, which
            are independent of each other.
    """

    def __init__(self, label: Array, cluster: Array) -> None:
        self.label = np.asarray(label, bool)
        self.names = np.asarray(cluster)
        self.cluster, distinct_names = pd.factorize(self.names)
        self.clusters = len(distinct_names)
        reals = self._sums(~self.label)
        fakes = self._sums(self.label)
        counts = [
            len(self.label),
            reals.sum(),
            fakes.sum(),
            self.clusters,
        ]
        self.counts = np.array(counts)
        self.has_class = np.array([reals, fakes]) > 0
        self.clusters_per_class = self.has_class.sum(axis=1)
        is_present = self.clusters_per_class > 0
        self.fewest = int(self.clusters_per_class[is_present].min())
        scarcer = self.clusters_per_class.min()
        self.pairs = int(min(scarcer, self.clusters // 2))

    def _sums(self, values: Array) -> Array:
        """The sum over the units of each cluster, of values (n,)."""
        return np.bincount(self.cluster, values, self.clusters)

    def variance(self, influence: Array) -> float:
        """The variance over clusters of an estimate, from each unit's influence (n,) on it.

        The influences sum to 0 in each class. With R_k and F_k the sums over the real and the fake
        units of cluster k (Obuchowski 1997), the variance is

            K_R/(K_R-1) Σ R_k² + K_F/(K_F-1) Σ F_k² + 2 K/(K-1) Σ R_k F_k,

        where K_R, K_F and K count the clusters with real units, with fake units, and all. NaN where
        a class has a single cluster.
        """
        if self.fewest < 2:
            return NAN
        real = self._sums(influence * ~self.label)
        fake = self._sums(influence * self.label)
        k = np.array([*self.clusters_per_class, self.clusters])
        for_real, for_fake, for_both = k / np.maximum(k - 1, 1)
        of_real = for_real * real @ real
        of_fake = for_fake * fake @ fake
        of_both = 2 * for_both * real @ fake
        return float(of_real + of_fake + of_both)

    @cached_property
    def resampled(self) -> Array:
        """Bootstrap weights (REPLICATES, clusters), the same for every table of this design.

        Of each stratum (clusters with real units only, with fake units only, with both) k - 1 of
        the k clusters are drawn, each weighted by k / (k - 1). All clusters form one stratum where
        a stratum would have a single cluster.
        """
        has_real, has_fake = self.has_class
        stratum = has_real + 2 * has_fake
        if 1 in np.bincount(stratum):
            stratum = np.zeros_like(stratum)
        generator = rng("bootstrap")
        weights = np.empty((REPLICATES, self.clusters))
        for name in np.unique(stratum):
            is_inside = stratum == name
            k = np.count_nonzero(is_inside)
            probabilities = np.full(k, 1 / k)
            draws = generator.multinomial(k - 1, probabilities, REPLICATES)
            weights[:, is_inside] = draws * k / (k - 1)
        return weights


# ---------------------------------------------------------------- estimates


def auc(score: Array, label: Array) -> tuple[Array, Array]:
    """AUC (tables,) of scores (tables, n), and each unit's influence (tables, n) on it.

    Ties count half. DeLong's components, by ranks (Sun and Xu, IEEE Signal Processing Letters
    21:1389, 2014, eq. 5 and 6).
    """
    fakes = np.count_nonzero(label)
    reals = len(label) - fakes
    others_below = rankdata(score, axis=1)
    for of_class in (label, ~label):
        rank_in_class = rankdata(score[:, of_class], axis=1)
        others_below[:, of_class] -= rank_in_class
    component = np.where(
        label,
        others_below / reals,
        1 - others_below / fakes,
    )
    values = component[:, label].mean(axis=1)
    deviation = component - values[:, None]
    units_of_class = np.where(label, fakes, reals)
    return values, deviation / units_of_class


def class_mean(
    column: Array,
    label: Array,
    balanced: bool = False,
) -> tuple[Array, Array]:
    """The mean (tables,) of values (tables, n), and each unit's influence (tables, n) on it.

    ``balanced``: the mean of the means of the two classes.
    """
    influence = np.empty(column.shape)
    means = []
    for of_class in (label, ~label):
        if of_class.any():
            values = column[:, of_class]
            mean = values.mean(axis=1)
            means.append(mean)
            weight = 0.5 / of_class.sum() if balanced else 1 / len(label)
            influence[:, of_class] = (values - mean[:, None]) * weight
    if balanced:
        return np.mean(means, axis=0), influence
    return column.mean(axis=1), influence


def curve_metrics(score: Array, label: Array) -> dict[str, float]:
    """The metrics of :func:`curve_metrics_of_weights` for scores (n,) and labels (n,) bool."""
    _, place = np.unique(-score, return_inverse=True)
    fake = np.bincount(place, label)
    real = np.bincount(place, ~label)
    metrics = curve_metrics_of_weights(fake[None], real[None])
    return {name: float(values[0]) for name, values in metrics.items()}


def bootstrap_curve_metrics(score: Array, design: Design) -> dict[str, Array]:
    """Bootstrap replicates (REPLICATES,) of the metrics of :func:`curve_metrics_of_weights`.

    Of more than MOST_THRESHOLDS distinct scores, neighbours share a threshold.
    """
    distinct_scores, place = np.unique(-score, return_inverse=True)
    distinct = len(distinct_scores)
    thresholds = min(distinct, MOST_THRESHOLDS)
    threshold = place * thresholds // distinct
    counts = np.zeros((2, design.clusters, thresholds))
    place = (design.label.astype(int), design.cluster, threshold)
    np.add.at(counts, place, 1)
    real, fake = design.resampled @ counts
    return curve_metrics_of_weights(fake, real)


def curve_metrics_of_weights(
    fake: Array,
    real: Array,
) -> dict[str, Array]:
    """Metrics (B,) of B ROC and precision-recall curves at once.

    The definitions are scikit-learn's, which is too slow for thousands of replicates or masks.

    Args:
        fake: Weights (B, T) of the fake units at T scores, the highest score first.
        real: The same of the real units.
    """
    before_the_first = [(0, 0), (1, 0)]
    true_positives = np.pad(fake.cumsum(axis=1), before_the_first)
    false_positives = np.pad(real.cumsum(axis=1), before_the_first)
    positives = true_positives + false_positives
    fakes = true_positives[:, -1:]
    reals = false_positives[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = true_positives / fakes
        fpr = false_positives / reals
        precision = true_positives / positives
    precision[positives == 0] = 0
    trapezia = np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1])
    steps = np.diff(tpr) * precision[:, 1:]
    return {
        "AUC": trapezia.sum(axis=1) / 2,
        "AP": steps.sum(axis=1),
        "EER": _equal_error_rate(fpr, tpr),
    }


def _equal_error_rate(fpr: Array, tpr: Array) -> Array:
    """EER (B,): where FPR = 1 - TPR on the ROC points (B, T), joined by lines."""
    excess = fpr + tpr - 1
    curve = np.arange(len(fpr))
    point = np.argmax(excess >= 0, axis=1)
    after = (curve, point)
    before = (curve, point - 1)
    drop = excess[before] - excess[after]
    share = excess[before] / drop
    width = fpr[after] - fpr[before]
    return fpr[before] + width * share


# ---------------------------------------------------------------- intervals and tests


@dataclass(frozen=True)
class Spread:
    """A variance of an estimate, and its degrees of freedom."""

    variance: float
    degrees: float

    @property
    def error(self) -> float:
        """The standard error."""
        return self.variance**0.5

    def plus(self, other: "Spread") -> "Spread":
        """The sum of two independent variances (Satterthwaite, Biometrics Bulletin 2:110, 1946).

        NaN where one of the two is.
        """
        total = self.variance + other.variance
        if not total > 0:
            return Spread(total, self.degrees)
        share = self.variance**2 / self.degrees
        other_share = other.variance**2 / other.degrees
        degrees = total**2 / (share + other_share)
        return Spread(total, degrees)

    def interval(self, value: float) -> tuple[float, float]:
        """The 95 % interval of a value that may have any sign (Wald)."""
        half = t_quantile(self.degrees) * self.error
        return value - half, value + half


def t_quantile(degrees: float, probability: float = 0.975) -> float:
    """The t quantile; by default that of a two-sided 95 % interval."""
    quantile = stdtrit(degrees, probability)
    return float(quantile)


def bounded_interval(value: float, spread: Spread, independent: int) -> tuple[float, float]:
    """The 95 % interval of a value in [0, 1]: on the logit scale, with a t quantile, and back.

    A value of exactly 1 has no standard error. Its interval is [.025^(1/k), 1] with k =
    ``independent``, the number of independent observations; for AUC this is conservative, since all
    k independent pairs are in order with probability AUC^k. For 0 it is mirrored. NaN where the
    variance is.
    """
    if np.isnan(spread.variance):
        return NAN, NAN
    if min(value, 1 - value) < 1e-12:
        bound = 0.025 ** (1 / independent)
        if value > 0.5:
            return bound, 1.0
        return 0.0, 1 - bound
    slope = value * (1 - value)  # of the logistic function
    quantile = t_quantile(spread.degrees)
    half = quantile * np.sqrt(spread.variance) / slope
    middle = logit(value)
    low = expit(middle - half)
    high = expit(middle + half)
    return float(low), float(high)


def p_value(difference: float, spread: Spread) -> float:
    """Two-sided p of a difference; 1 where there is no difference at all, NaN without variance."""
    error = np.maximum(spread.error, 1e-9)  # no division by 0; keeps NaN
    t = abs(difference) / error
    one_sided = stdtr(spread.degrees, -t)
    return float(2 * one_sided)


@dataclass(frozen=True)
class Outcome:
    """A metric on one test set, or a difference of two detectors, at every seed.

    Attributes:
        values: (seeds,).
        over_videos: How their mean varies over videos.
        bounded: Whether the metric lies in [0, 1].
        independent: The number of independent observations behind a value of exactly 0 or 1.
        how: The way to ``over_videos``, see :mod:`dfnb.metrics`.
        counts: (4,) the numbers that COUNTS names.
    """

    values: Array
    over_videos: Spread
    bounded: bool
    independent: int
    how: str
    counts: Array


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The mean over seeds and, of several outcomes, over test sets that share no video.

    Returns:
        The columns of :class:`dfnb.results.ResultRow` from ``value`` to ``interval_method``, and
        ``by_seed``. The variance over seeds, that of the values divided by their number, is added
        to that over videos; with one seed, the interval is over videos alone.
    """
    first = outcomes[0]
    sets = len(outcomes)
    values = np.mean([outcome.values for outcome in outcomes], axis=0)
    value = float(values.mean())
    seeds = len(values)
    spreads = [outcome.over_videos for outcome in outcomes]
    shares = [Spread(spread.variance / sets**2, spread.degrees) for spread in spreads]
    over_videos = reduce(Spread.plus, shares)
    over_seeds = Spread(NAN, 0)
    over_both = over_videos
    if seeds > 1:
        over_seeds = Spread(values.var(ddof=1) / seeds, seeds - 1)
        over_both = over_videos.plus(over_seeds)
    counts = sum(outcome.counts for outcome in outcomes)
    columns = {
        **dict(zip(COUNTS, counts)),
        "value": value,
        "sd": (over_seeds.variance * seeds) ** 0.5,
        "p": NAN if first.bounded else p_value(value, over_both),
        "error": over_both.error,
        "degrees": over_both.degrees,
        "seeds": seeds,
        "interval_method": "none" if np.isnan(over_videos.variance) else first.how,
        "by_seed": ", ".join(f"{of_seed:.4f}" for of_seed in values),
    }
    independent = sum(outcome.independent for outcome in outcomes)
    spreads = {
        "": over_both,
        "_videos": over_videos,
        "_seeds": over_seeds,
    }
    for name, spread in spreads.items():
        low, high = spread.interval(value)
        if first.bounded:
            low, high = bounded_interval(value, spread, independent)
        columns[f"low{name}"] = low
        columns[f"high{name}"] = high
    return columns


def holm(p: Sequence[float]) -> Array:
    """p values (m,) adjusted for their number (Holm, Scandinavian J. of Statistics 6:65, 1979).

    NaN stays NaN and counts as a comparison.
    """
    ascending = pd.Series(np.asarray(p, float)).sort_values()  # NaN last
    multiplied = ascending * np.arange(len(ascending), 0, -1)
    adjusted = multiplied.cummax().clip(upper=1)
    return adjusted.sort_index().to_numpy()


def least_detectable_difference(spread: Spread, power: float = 0.8) -> float:
    """The true difference that a two-sided 5 % test with this spread detects with this power.

    For planning: the spread comes from development runs, scaled to the planned numbers of seeds
    and clusters.
    """
    threshold = t_quantile(spread.degrees)
    margin = t_quantile(spread.degrees, power)
    return (threshold + margin) * spread.error
