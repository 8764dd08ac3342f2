"""One interval for everything: resample what varied, and compute again.

How far would a number move if other people had been filmed, or the training repeated with other
seeds? :func:`cluster_weights` draws people: how often each cluster (videos that share people)
counts in each of :data:`REPLICATES` replicates. The metrics here are computed under every row of
such weights at once; the first row is all ones, so the first value is that of the sample itself.
:func:`interval` makes an interval of the standard deviation of the replicates.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logit, stdtr, stdtrit

from dfnb.files import digest
from dfnb.seeds import rng

REPLICATES = 1000
THRESHOLD_REPLICATES = 200  # of a threshold; a training's record keeps them
LEVEL = 0.95  # of intervals
NAN = float("nan")
Array = np.ndarray


# ---------------------------------------------------------------- what is drawn


def draws(count: int, key: str) -> Array:
    """How often each of ``count`` things counts in the sample and in each replicate.

    Returns (1 + REPLICATES, count): first a row of ones, then of each replicate count - 1 draws
    with replacement, each with the weight count / (count - 1). With this weight the variance of a
    mean is unbiased (Rao and Wu, JASA 83:231, 1988). One thing alone is not resampled.
    """
    weights = np.ones((1 + REPLICATES, count))
    if count > 1:
        equal = np.full(count, 1 / count)
        times_drawn = rng("bootstrap", key).multinomial(count - 1, equal, REPLICATES)
        weights[1:] = times_drawn * count / (count - 1)
    return weights


def cluster_weights(names: Sequence[str], reals: Array, fakes: Array) -> Array:
    """Bootstrap weights (1 + REPLICATES, clusters), see :func:`draws`.

    There are three strata, clusters with real units only, with fake units only, and with both, so
    that each replicate has both classes. If a stratum has a single cluster, all form one stratum.
    Equal names give equal weights: two test sets that show the same people are resampled together.

    Args:
        names: Of the clusters.
        reals: (clusters,) the number of real units of each.
        fakes: (clusters,) the number of fake units of each.
    """
    stratum = (reals > 0) + 2 * (fakes > 0)
    if 1 in np.bincount(stratum):
        stratum = np.zeros_like(stratum)
    weights = np.empty((1 + REPLICATES, len(names)))
    for number in np.unique(stratum):
        inside = np.flatnonzero(stratum == number)
        key = digest([names[place] for place in inside])
        weights[:, inside] = draws(len(inside), key)
    return weights


# ---------------------------------------------------------------- metrics under weights


def auc(
    score: Array,
    label: Array,
    cluster: Array,
    weights: Array,
) -> Array:
    """The AUC (R,) under each row of ``weights`` (R, clusters); NaN where a class is not drawn.

    With K[i, j], how often a fake of cluster i has a higher score than a real of cluster j (ties
    count half), and f and r, the numbers of fakes and reals of each cluster,

        AUC(w) = wᵀ K w / (wᵀ f · wᵀ r).

    Args:
        score: (n,) of the units.
        label: (n,) bool, True for fake.
        cluster: (n,) int, the column of ``weights`` that each unit belongs to.
        weights: See :func:`cluster_weights`.
    """
    clusters = weights.shape[1]
    fakes = np.bincount(cluster[label], minlength=clusters)
    reals = np.bincount(cluster[~label], minlength=clusters)
    wins = _wins(score, label, cluster, clusters)
    won = np.einsum("ri,ri->r", weights @ wins, weights)
    pairs = (weights @ fakes) * (weights @ reals)
    with np.errstate(invalid="ignore"):
        return won / pairs


def _wins(
    score: Array,
    label: Array,
    cluster: Array,
    clusters: int,
) -> Array:
    """K (clusters, clusters) of :func:`auc`."""
    fakes = score[label]
    reals = score[~label]
    cluster_of_real = cluster[~label]
    wins = np.zeros((clusters, clusters))
    for number in np.unique(cluster_of_real):
        of_cluster = np.sort(reals[cluster_of_real == number])
        won = np.searchsorted(of_cluster, fakes, "left")  # the reals below each fake
        won_or_tied = np.searchsorted(of_cluster, fakes, "right")
        wins[:, number] = np.bincount(cluster[label], (won + won_or_tied) / 2, clusters)
    return wins


def mean(values: Array, cluster: Array, weights: Array) -> Array:
    """The mean of ``values`` (n,) under each row of ``weights``; arguments as in :func:`auc`."""
    clusters = weights.shape[1]
    sums = np.bincount(cluster, values, clusters)
    counts = np.bincount(cluster, minlength=clusters)
    total = weights @ sums
    units = weights @ counts
    with np.errstate(invalid="ignore"):
        return total / units


def share_above(
    score: Array,
    thresholds: Array,
    cluster: Array,
    weights: Array,
) -> Array:
    """The share of units above ``thresholds[r]`` under ``weights[r]``, for every r.

    ``thresholds`` is (1 + REPLICATES,); ``weights`` may have one row, which then counts for all.
    """
    clusters = weights.shape[1]
    distinct, place = np.unique(thresholds, return_inverse=True)
    above = [np.bincount(cluster, score > threshold, clusters) for threshold in distinct]
    counts = np.bincount(cluster, minlength=clusters)
    total = (weights * np.array(above)[place]).sum(axis=1)
    units = weights @ counts
    with np.errstate(invalid="ignore"):
        return total / units


def eer(
    score: Array,
    label: Array,
    cluster: Array,
    weights: Array,
) -> Array:
    """The equal error rate (R,) under each row of ``weights``; arguments as in :func:`auc`.

    It is where FPR = 1 - TPR on the points of the ROC curve, joined by lines; NaN where a class is
    not drawn.
    """
    order = np.argsort(-score, kind="stable")
    is_fake = label[order]
    # A curve has its points between distinct scores.
    is_last = np.append(np.diff(score[order]) != 0, True)
    rates = []
    for of_clusters in weights:
        weight = of_clusters[cluster[order]]
        false_positives = (weight * ~is_fake).cumsum()[is_last]
        true_positives = (weight * is_fake).cumsum()[is_last]
        with np.errstate(invalid="ignore"):
            fpr = np.append(0, false_positives / false_positives[-1])
            tpr = np.append(0, true_positives / true_positives[-1])
        excess = fpr + tpr - 1  # rises from -1 to 1 along the curve, or is NaN
        rates.append(np.interp(0, excess, fpr) if excess[-1] == 1 else NAN)
    return np.array(rates)


def curve_metrics(score: Array, label: Array) -> dict[str, float]:
    """AUC and AP of scores (n,) and labels (n,) bool.

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
    }


def threshold_replicates(
    score: Array,
    cluster: Array,
    share: float,
) -> tuple[float, Array]:
    """The lowest score that at most ``share`` of the units exceed, and replicates of it.

    A replicate is the same of weighted scores, so with the weights of equal clusters those of two
    detectors are paired.

    Args:
        score: (n,) of real frames.
        cluster: (n,) the name of each one's cluster.
        share: In [0, 1].
    """
    order = np.argsort(score, kind="stable")
    code, names = pd.factorize(np.asarray(cluster))
    reals = np.bincount(code)
    weights = cluster_weights(names, reals, 0 * reals)[: 1 + THRESHOLD_REPLICATES]
    # (1 + THRESHOLD_REPLICATES, n): the weight of each score and all below it, in ascending order.
    up_to = weights[:, code[order]].cumsum(axis=1)
    # Of the total weight in the last column; 1e-9 less, because sums are rounded.
    limit = (1 - share - 1e-9) * up_to[:, -1:]
    place = (up_to < limit).sum(axis=1)
    thresholds = np.asarray(score)[order][place]
    return float(thresholds[0]), thresholds[1:]


# ---------------------------------------------------------------- intervals and tests


def satterthwaite(
    first: float,
    first_degrees: float,
    second: float,
    second_degrees: float,
) -> float:
    """The degrees of freedom of the sum of two estimated variances.

    F. E. Satterthwaite, Biometrics Bulletin 2:110, 1946. A variance of 0 has no part in them.
    """
    total = first + second
    parts = 0.0
    for variance, degrees in ((first, first_degrees), (second, second_degrees)):
        if variance > 0 and degrees > 0:
            parts += variance**2 / degrees
    return total**2 / parts if parts else second_degrees


def interval(
    value: float,
    error: float,
    degrees: float,
    bounded: bool = False,
    independent: int = 1,
) -> tuple[float, float]:
    """The 95 % interval value ± t · error; NaN where the error is.

    ``bounded``: the value is in [0, 1]. Then the interval is made on the logit scale, where it
    cannot leave [0, 1]. A value of exactly 1 has an error of 0: its interval is [.025^(1/k), 1],
    k = ``independent`` being the number of independent observations (of AUC: pairs), because a
    share below that bound gives k successes out of k with a probability below .025. For 0 it is
    mirrored.
    """
    half_width = stdtrit(degrees, (1 + LEVEL) / 2) * error if degrees > 0 else NAN
    if not bounded or np.isnan(half_width):
        return value - half_width, value + half_width
    if min(value, 1 - value) < 1e-12:  # exactly 0 or 1, but for rounding
        bound = 0.025 ** (1 / max(independent, 1))
        return (bound, 1.0) if value > 0.5 else (0.0, 1 - bound)
    slope = value * (1 - value)  # d value / d logit: an error on the logit scale is error / slope
    middle = logit(value)
    ends = expit([middle - half_width / slope, middle + half_width / slope])
    return float(ends[0]), float(ends[1])


def p_above(difference: float, error: float, degrees: float) -> float:
    """One-sided p of the test whether the true difference is above 0; NaN where the error is.

    A small p speaks for a difference above 0.
    """
    error = np.maximum(error, 1e-9)  # no division by 0; unlike max(), it keeps NaN
    return float(stdtr(degrees, -difference / error))


def holm(p: Sequence[float]) -> Array:
    """p values (m,) adjusted for their number (Holm, Scandinavian J. of Statistics 6:65, 1979).

    The smallest is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one
    before it, or larger than 1. NaN, a comparison without an interval, stays NaN but counts in m.
    """
    ascending = pd.Series(np.asarray(p, float)).sort_values()  # NaN last
    multiplied = ascending * np.arange(len(ascending), 0, -1)
    adjusted = multiplied.cummax().clip(upper=1)
    return adjusted.sort_index().to_numpy()  # in the order of p again
