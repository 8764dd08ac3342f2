"""Metrics under weights, intervals and tests: by hand, against scikit-learn and by simulation."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import ttest_1samp
from sklearn.metrics import roc_auc_score, roc_curve

from dfnb import statistics
from dfnb.statistics import NAN
from facesets.seeds import rng

# Fakes .9 .8 .8 .2, reals .8 .4 .3 .1: of 16 pairs 11 are won and 2 tied.
SCORE = np.array([0.9, 0.8, 0.8, 0.2, 0.8, 0.4, 0.3, 0.1])
LABEL = np.repeat([True, False], 4)
ALONE = np.arange(8)  # each unit is a cluster
ONCE = np.ones((1, 8))


def clustered(clusters=12):
    """Scores with ties, labels and clusters of five units each, and bootstrap weights."""
    score = rng("clustered").integers(0, 12, 5 * clusters) / 12
    label = np.tile([True, False, True, False, False], clusters)
    cluster = np.arange(clusters).repeat(5)
    weights = statistics.cluster_weights(list("abcdefghijkl"), np.zeros(12, int))
    return score, label, cluster, weights


# ---------------------------------------------------------------- metrics


def test_auc_and_eer_by_hand():
    assert statistics.weighted_auc(SCORE, LABEL, ALONE, ONCE) == 12 / 16  # a tie is half a win
    # ROC (FPR, TPR): (0, .25), (.25, .75), then level: FPR = 1 - TPR at (.25, .75).
    assert statistics.eer(SCORE, LABEL, ALONE, ONCE) == pytest.approx(0.25)
    # The fake .2 alone wins one of four pairs, and twice the fake .9 wins all.
    weights = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [2, 0, 0, 1, 1, 1, 1, 1]])
    auc = statistics.weighted_auc(SCORE, LABEL, ALONE, weights)
    np.testing.assert_allclose(auc, [1 / 4, 9 / 12])
    for metric in (statistics.weighted_auc, statistics.eer):
        assert np.isnan(metric(SCORE, LABEL, ALONE, ONCE * ~LABEL))  # no fake is drawn


def test_a_replicate_is_what_scikit_learn_computes_with_the_weights():
    score, label, cluster, weights = clustered()
    aucs = statistics.weighted_auc(score, label, cluster, weights)
    means = statistics.mean(score, cluster, weights)
    thresholds = np.arange(1001) / 1000
    shares = statistics.mean(score, cluster, weights, thresholds)
    eers = statistics.eer(score, label, cluster, weights)
    rates = statistics.tpr_at(score, label, cluster, weights, 0.05)
    for place in (0, 1, 500, 1000):  # .5 is a threshold and a score
        of_units = weights[place][cluster]
        expected = roc_auc_score(label, score, sample_weight=of_units)
        assert aucs[place] == pytest.approx(expected, abs=1e-12)
        assert means[place] == pytest.approx(np.average(score, weights=of_units))
        is_above = score > thresholds[place]
        assert shares[place] == pytest.approx(np.average(is_above, weights=of_units))
        fpr, tpr, _ = roc_curve(label, score, sample_weight=of_units)
        assert eers[place] == pytest.approx(np.interp(0, fpr + tpr - 1, fpr), abs=1e-12)
        assert rates[place] == pytest.approx(np.interp(0.05, fpr, tpr), abs=1e-12)


@pytest.mark.parametrize("clusters", [1, 7, 40])
@pytest.mark.parametrize("levels", [2, 9, 10**9])  # nearly all scores tied, some, none
def test_the_auc_is_that_of_scikit_learn_however_many_replicates_are_held(
    monkeypatch, clusters, levels
):
    draw = rng("forms", clusters, levels)
    n = 5 * clusters
    score = draw.integers(0, levels, n) / levels
    label = draw.random(n) < 0.4
    label[:2] = True, False  # both classes
    cluster = draw.integers(0, clusters, n)
    weights = draw.multinomial(clusters, np.full(clusters, 1 / clusters), 50) * 1.1
    for replicates in (100, 7, 0):  # at once: all of them, some, one
        monkeypatch.setattr(statistics, "VALUES_AT_ONCE", replicates * n)
        values = statistics.weighted_auc(score, label, cluster, weights)
        for of_clusters, value in zip(weights, values, strict=True):
            of_units = of_clusters[cluster]
            if of_units[label].any() and of_units[~label].any():
                expected = roc_auc_score(label, score, sample_weight=of_units)
                assert value == pytest.approx(expected, abs=1e-12)
            else:
                assert np.isnan(value)


def test_the_auc_of_folds_is_of_pairs_of_two_clusters_within_a_fold():
    """Pair by pair on thirty rows: the sums over folds, with ties."""
    draw = rng("folds")
    score, label, fold = draw.integers(0, 6, 30) / 6, draw.random(30) < 0.5, np.arange(30) % 3
    cluster = draw.integers(0, 8, 30)  # some are in two folds
    weights = statistics.cluster_weights(list("abcdefgh"), np.zeros(8, int), 20)
    values = statistics.weighted_auc(score, label, cluster, weights, fold)
    for of_clusters, value in zip(weights, values, strict=True):
        won = made = 0
        for fake in np.flatnonzero(label):
            for real in np.flatnonzero(~label):
                if fold[fake] == fold[real] and cluster[fake] != cluster[real]:
                    weight = of_clusters[cluster[fake]] * of_clusters[cluster[real]]
                    tie = (score[fake] == score[real]) / 2
                    won += weight * ((score[fake] > score[real]) + tie)
                    made += weight
        assert value == pytest.approx(won / made, abs=1e-12)


# ---------------------------------------------------------------- what is drawn


def test_strata_keep_both_classes_in_every_replicate():
    weights = statistics.cluster_weights(list("abcdefg"), np.array([0, 0, 1, 1, 1, 2, 2]))
    assert (weights[0] == 1).all() and weights.shape == (1 + statistics.REPLICATES, 7)
    for stratum in (slice(2), slice(2, 5), slice(5, 7)):
        clusters = weights[:, stratum]
        np.testing.assert_allclose(clusters.sum(axis=1), clusters.shape[1])
        assert clusters.std() > 0
    # A cluster that would be alone in its stratum is drawn with the others.
    weights = statistics.cluster_weights(list("abc"), np.array([0, 0, 1]))
    np.testing.assert_allclose(weights.sum(axis=1), 3)
    assert weights[:, 2].std() > 0


def test_equal_people_are_drawn_together_and_others_are_not():
    one_stratum = np.zeros(6, int)
    weights, again = (statistics.cluster_weights(list("abcdef"), one_stratum) for _ in range(2))
    np.testing.assert_array_equal(weights, again)
    assert (weights != statistics.cluster_weights(list("ghijkl"), one_stratum)).any()
    assert (statistics.draws(1, "alone") == 1).all()  # one thing alone does not vary


@pytest.mark.parametrize("count", [2, 5])
def test_the_variance_of_a_mean_is_unbiased(count):
    values = rng("values").normal(size=count)
    means = statistics.draws(count, "variance", 40000)[1:] @ values / count
    assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.03)


# ---------------------------------------------------------------- intervals and tests


def test_the_interval_of_a_value_by_hand():
    # 2.228139 is the t quantile; on the logit scale .8 is ln 4, with error .04 / (.8 · .2).
    half = 2.228139 * 0.04
    assert statistics.interval(0.8, 0.04, 10) == pytest.approx((0.8 - half, 0.8 + half))
    expected = expit([np.log(4) - half / 0.16, np.log(4) + half / 0.16])
    assert statistics.interval(0.8, 0.04, 10, bounded=True) == pytest.approx(tuple(expected))
    bound = 0.025 ** (1 / 50)
    assert statistics.interval(1, 0, 10, True, 50) == (bound, 1)
    assert statistics.interval(0, 0, 10, True, 50) == (0, 1 - bound)
    assert statistics.interval(0.5, 0, 10, True, 50) == pytest.approx((0.5, 0.5))
    assert logit(statistics.interval(0.999, 0.01, 4, True)).all()  # never 0 or 1
    for bounded in (True, False):
        assert np.isnan(statistics.interval(0.5, NAN, 10, bounded)).all()


def test_a_mean_has_the_interval_and_p_of_the_t_test():
    sample = rng("t").normal(0.5, 1, 12)
    error = sample.std(ddof=1) / 12**0.5
    test = ttest_1samp(sample, 0)
    low, high = test.confidence_interval()
    assert statistics.interval(sample.mean(), error, 11) == pytest.approx((low, high))
    one_sided = ttest_1samp(sample, 0, alternative="greater")
    assert statistics.p_above(sample.mean(), error, 11) == pytest.approx(one_sided.pvalue)
    assert statistics.p_above(0, 0, 11) == 0.5
    assert np.isnan(statistics.p_above(1, NAN, 11))


def test_holm_by_hand():
    # Ascending .01 .02 .03 .04: times 4, 3, 2, 1, never falling.
    np.testing.assert_allclose(statistics.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    # A comparison without p counts.
    np.testing.assert_allclose(statistics.holm([0.3, NAN, 0.9]), [0.9, NAN, 1.0])
    assert len(statistics.holm([])) == 0
