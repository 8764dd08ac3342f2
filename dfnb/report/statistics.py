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
MOST_BINS = 1000  # of the ROC curve of a replicate; more would cost memory
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
    of_fake, fakes = np.unique(cluster[label], return_counts=True)
    of_real, reals = np.unique(cluster[~label], return_counts=True)
    wins = _wins(score, label, cluster)  # K without the rows and columns that are 0
    fake_weights = weights[:, of_fake]
    real_weights = weights[:, of_real]
    won = np.einsum("ri,ri->r", fake_weights @ wins, real_weights)
    pairs = (fake_weights @ fakes) * (real_weights @ reals)
    with np.errstate(invalid="ignore"):
        return won / pairs


def _wins(score: Array, label: Array, cluster: Array) -> Array:
    """K (clusters with fakes, clusters with reals) of :func:`auc`."""
    reals = score[~label]
    order = np.argsort(reals, kind="stable")
    reals = reals[order]
    cluster_of_real = cluster[~label][order]
    of_real, column = np.unique(cluster_of_real, return_inverse=True)
    # Row k: of each cluster, how many of its units are among the k lowest reals.
    n = len(reals)
    lowest = np.zeros((1 + n, len(of_real)), np.int32)
    lowest[1 + np.arange(n), column] = 1
    lowest = lowest.cumsum(axis=0, dtype=np.int32)
    fakes = score[label]
    below = np.searchsorted(reals, fakes, "left")
    not_above = np.searchsorted(reals, fakes, "right")
    _, row = np.unique(cluster[label], return_inverse=True)
    wins = []
    for number in range(row.max() + 1):  # one cluster at a time, which saves memory
        mine = row == number
        won = lowest[below[mine]].sum(axis=0)
        won_or_tied = lowest[not_above[mine]].sum(axis=0)
        wins.append((won + won_or_tied) / 2)
    return np.array(wins)


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

    Replicates with more than MOST_BINS distinct scores take neighbouring scores as equal; the
    first value, that of the sample itself, is exact.
    """
    distinct, rank = np.unique(-score, return_inverse=True)  # rank 0: the highest score
    bins = min(len(distinct), MOST_BINS)
    # Units by class (real, fake), cluster and bin. Bin 0 stays empty, because curves begin there.
    counts = np.zeros((2, weights.shape[1], 1 + bins))
    place = 1 + rank * bins // len(distinct)
    np.add.at(counts, (label.astype(int), cluster, place), 1)
    false_positives, true_positives = weights @ counts.cumsum(axis=2)
    rates = equal_error_rates(false_positives, true_positives)
    rates[0] = curve_metrics(score, label)["EER"]
    return rates


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


def t_quantile(degrees: float, probability: float = (1 + LEVEL) / 2) -> float:
    """The t quantile; by default that of a two-sided 95 % interval."""
    return float(stdtrit(degrees, probability))


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
    half_width = t_quantile(degrees) * error if degrees > 0 else NAN
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


def least_detectable_difference(
    error: float,
    degrees: float,
    tests: int = 1,
    power: float = 0.8,
) -> float:
    """The true difference that a two-sided 5 % test detects with this power.

    For planning, from the ``error`` and ``degrees`` of a difference of development runs of the
    planned size. The test rejects beyond ``threshold`` standard errors; a true difference must be
    ``margin`` errors above that, so that its estimate falls below it in 1 - power of all cases.
    With several ``tests``, the level is that of Holm's first and strictest step, 5 % / ``tests``.
    """
    threshold = t_quantile(degrees, 1 - 0.025 / tests)
    margin = t_quantile(degrees, power)
    return (threshold + margin) * error
