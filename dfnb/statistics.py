"""One interval for everything: resample what varied, and compute again.

How far would a number move if other people had been filmed, or the training repeated with other
seeds? :func:`cluster_weights` draws people: how often each cluster (videos that share people)
counts in each of :data:`REPLICATES` replicates. The metrics here are computed under every row of
such weights at once; the first row is all ones, so the first value is that of the sample itself.
:func:`interval` makes an interval of the standard deviation of the replicates. A *unit* is what has
one score: a video or a frame.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logit, stdtr, stdtrit

from facesets.files import digest
from facesets.seeds import rng

REPLICATES = 1000
THRESHOLD_REPLICATES = 200  # of a threshold; a training's record keeps them
VALUES_AT_ONCE = 10**5  # units times replicates that auc() holds in memory
NAN = float("nan")
Array = np.ndarray


# ---------------------------------------------------------------- what is drawn


def draws(count: int, key: str, replicates: int = REPLICATES) -> Array:
    """How often each of ``count`` things counts in the sample and in each replicate.

    Returns (1 + replicates, count): a row of ones, then a row per replicate: how often each thing
    is among count - 1 draws with replacement, times count / (count - 1). With this factor the
    variance of a mean is unbiased (Rao and Wu, JASA 83:231, 1988). One thing alone is not
    resampled. An equal ``key`` gives equal draws.
    """
    weights = np.ones((1 + replicates, count))
    if count > 1:
        equal = np.full(count, 1 / count)
        times_drawn = rng("bootstrap", key).multinomial(count - 1, equal, replicates)
        weights[1:] = times_drawn * count / (count - 1)
    return weights


def cluster_weights(
    names: Sequence[str],
    stratum: Array,
    replicates: int = REPLICATES,
) -> Array:
    """Bootstrap weights (1 + replicates, clusters), see :func:`draws`.

    Clusters are drawn within their strata: those with real units only, with fake units only, and
    with both. So each replicate has both classes. If a stratum has a single cluster, all form one
    stratum, and a replicate may lack a class. A stratum's names, in their order, determine its
    weights: two test sets that show the same people in the same strata are resampled together.

    Args:
        names: Those of the clusters.
        stratum: (clusters,) int, the number of the stratum of each.
        replicates: How many.
    """
    if 1 in np.bincount(stratum):
        stratum = np.zeros_like(stratum)
    weights = np.empty((1 + replicates, len(names)))
    for number in np.unique(stratum):
        inside = np.flatnonzero(stratum == number)
        key = digest([names[place] for place in inside])
        weights[:, inside] = draws(len(inside), key, replicates)
    return weights


# ---------------------------------------------------------------- metrics under weights


def weighted_auc(
    score: Array,
    label: Array,
    cluster: Array,
    weights: Array,
    fold: Array | None = None,
) -> Array:
    """The AUC (R,) under each row of ``weights`` (R, clusters); NaN where nothing is compared.

    Let K[i, j] be how many comparisons the fakes of cluster i win over the reals of cluster j (a
    tie is half of one), and N[i, j] how many there are. Under weights w of the clusters the AUC is
    wᵀKw / wᵀNw.

    With ``fold``, each fold is scored by a network of its own. Scores of two networks differ in
    their scale and are never compared: K and N are sums over folds. Nor are a fake and a real of
    one cluster, the diagonal, since a fake and its own original are told apart more easily than
    other pairs, and in a small fold they are many.

    Args:
        score: (n,) of the units.
        label: (n,) bool, True for fake.
        cluster: (n,) int, the column of ``weights`` that each unit belongs to.
        weights: See :func:`cluster_weights`.
        fold: (n,) of the units.
    """
    # Of each set of units that are compared: 1, or -1 where its comparisons do not count.
    if fold is None:
        signs = [(np.full(len(score), True), 1)]
    else:
        signs = [(fold == each, 1) for each in np.unique(fold)]
        signs += [(is_in & (cluster == each), -1) for is_in, _ in signs for each in set(cluster)]
    compared = [(sign, *_ordered(score, label, cluster, is_in)) for is_in, sign in signs]
    values = []
    step = max(1, VALUES_AT_ONCE // len(score))
    for start in range(0, len(weights), step):  # some replicates at a time, to bound the memory
        of_clusters = weights[start : start + step].T.copy()  # (clusters, step), contiguous
        won = made = 0
        for sign, of_real, of_fake, below, below_or_tied in compared:
            # K would be as large as the clusters squared. Kw is what each fake beats: of the reals
            # in their order, the weight of those below it.
            fakes, up_to = of_clusters[of_fake], of_clusters[of_real].cumsum(axis=0)
            up_to = np.vstack([np.zeros_like(of_clusters[:1]), up_to])
            won = won + sign * (fakes * (up_to[below] + up_to[below_or_tied]) / 2).sum(axis=0)
            made = made + sign * fakes.sum(axis=0) * up_to[-1]
        with np.errstate(invalid="ignore"):
            values.append(won / made)
    return np.concatenate(values)


def _ordered(score: Array, label: Array, cluster: Array, is_in: Array) -> tuple[Array, ...]:
    """The units ``is_in`` as :func:`weighted_auc` compares them.

    The clusters of the reals, by ascending score, and of the fakes; and for each fake how many
    reals are below it, and how many below it or tied.
    """
    reals, fakes = np.flatnonzero(is_in & ~label), np.flatnonzero(is_in & label)
    reals = reals[np.argsort(score[reals])]
    places = (np.searchsorted(score[reals], score[fakes], side) for side in ("left", "right"))
    return cluster[reals], cluster[fakes], *places


def mean(
    values: Array,
    cluster: Array,
    weights: Array,
    thresholds: Array | None = None,
) -> Array:
    """The mean of ``values`` (n,) under each row of ``weights``, see :func:`weighted_auc`.

    With ``thresholds`` (R,), one per row, it is the share of values above the row's threshold. A
    single row of weights counts for all thresholds, and a single threshold for all rows.
    """
    clusters = weights.shape[1]
    sums = np.bincount(cluster, values, clusters)  # (clusters,); with thresholds, a row for each
    if thresholds is not None:
        distinct, place = np.unique(thresholds, return_inverse=True)
        above = [np.bincount(cluster, values > threshold, clusters) for threshold in distinct]
        sums = np.array(above)[place]
    units = weights @ np.bincount(cluster, minlength=clusters)
    with np.errstate(invalid="ignore"):
        return (weights * sums).sum(axis=1) / units


def eer(
    score: Array,
    label: Array,
    cluster: Array,
    weights: Array,
) -> Array:
    """The equal error rate (R,) under each row of ``weights``, see :func:`weighted_auc`.

    It is where FPR = 1 - TPR on the points of the ROC curve, joined by lines; NaN where a class is
    not drawn.
    """
    curves = _roc_curves(score, label, cluster, weights)
    # fpr + tpr - 1 rises from -1 to 1 along the curve.
    return np.array([np.interp(0, fpr + tpr - 1, fpr) if len(fpr) else NAN for fpr, tpr in curves])


def tpr_at(
    score: Array,
    label: Array,
    cluster: Array,
    weights: Array,
    fpr: float,
) -> Array:
    """The TPR (R,) at this ``fpr``, on the ROC curve of :func:`eer`; arguments as there."""
    curves = _roc_curves(score, label, cluster, weights)
    return np.array([np.interp(fpr, *curve) if len(curve[0]) else NAN for curve in curves])


def _roc_curves(
    score: Array,
    label: Array,
    cluster: Array,
    weights: Array,
) -> Iterator[tuple[Array, Array]]:
    """FPR and TPR, (points,) from 0 to 1, under each row of ``weights``.

    Both are empty where a class is not drawn. Arguments as in :func:`weighted_auc`.
    """
    order = np.argsort(-score, kind="stable")
    is_fake = label[order]
    # The curve has a point after the last unit of each distinct score.
    is_last = np.append(score[order][1:] != score[order][:-1], True)
    for of_clusters in weights:
        weight = of_clusters[cluster[order]]
        false_positives = (weight * ~is_fake).cumsum()[is_last]
        true_positives = (weight * is_fake).cumsum()[is_last]
        if false_positives[-1] and true_positives[-1]:
            fpr = np.append(0, false_positives / false_positives[-1])
            yield fpr, np.append(0, true_positives / true_positives[-1])
        else:
            yield np.array([]), np.array([])


# ---------------------------------------------------------------- intervals and tests


def interval(
    value: float,
    error: float,
    degrees: float,
    bounded: bool = False,
    independent: int = 1,
) -> tuple[float, float]:
    """The 95 % interval value ± t · error; NaN where the error is.

    Args:
        value: The estimate.
        error: Its standard error.
        degrees: Degrees of freedom of the error, and so of t.
        bounded: Whether the value is in [0, 1]. Then the interval is made on the logit scale, where
            it cannot leave [0, 1]. A value of exactly 1 has an error of 0: its interval is
            [.025^(1/k), 1], because a share below that bound gives k successes out of k with a
            probability below .025. For 0 it is mirrored.
        independent: k, the number of independent observations; of an AUC, how many pairs of a real
            and a fake there are at once in which no cluster occurs twice.
    """
    half_width = stdtrit(degrees, 0.975) * error
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
    """One-sided p: a small one shows that the true difference is above 0; NaN where the error is.

    ``error`` is the standard error of ``difference``, with ``degrees`` of freedom.
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
