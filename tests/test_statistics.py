"""Intervals and tests against hand-computed cases, scikit-learn and simulation."""

from dataclasses import replace

import numpy as np
import pytest
from dfnb.statistics import Design, Outcome, Spread
from scipy.special import expit
from scipy.stats import nct, norm, t, ttest_1samp
from sklearn.metrics import average_precision_score, roc_auc_score

from dfnb import statistics
from dfnb.seeds import rng


def clustered_noise(random, tables, cluster, shared):
    """Noise (tables, n) of variance 1, of which clusters share a part."""
    of_clusters = random.normal(size=(tables, cluster.max() + 1))[:, cluster]
    of_units = random.normal(size=(tables, len(cluster)))
    return np.sqrt(shared) * of_clusters + np.sqrt(1 - shared) * of_units


# ---------------------------------------------------------------- variances over clusters


def test_clusters_of_both_classes_by_hand():
    score = np.array([0.9, 0.7, 0.4, 0.8, 0.3, 0.5, 0.1])
    label = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    cluster = np.array([0, 0, 1, 0, 1, 2, 2])
    # The fakes win 4, 3 and 2 of 4 pairs, the reals lose 1, 3, 2 and 3 of 3: AUC = 9 / 12.
    # Sums over the three clusters of component - AUC (Obuchowski 1997):
    fakes = np.array([(1 - 0.75) + (0.75 - 0.75), 0.5 - 0.75, 0]) / 3
    reals = np.array([1 / 3 - 0.75, 1 - 0.75, (2 / 3 - 0.75) + (1 - 0.75)]) / 4
    # Two clusters have fakes, three have reals.
    expected = 2 / 1 * fakes @ fakes + 3 / 2 * reals @ reals + 2 * 3 / 2 * fakes @ reals
    values, influence = statistics.auc(score[None], label)
    assert values[0] == 0.75
    assert Design(label, cluster).variance(influence[0]) == pytest.approx(expected)


def test_the_variance_of_a_mean_by_hand():
    fakes = np.ones(3, bool)
    values, influence = statistics.class_mean(np.array([[0.5, 1.0, 0.0]]), fakes)
    assert values[0] == 0.5
    assert Design(fakes, np.arange(3)).variance(influence[0]) == pytest.approx(0.25 / 3)
    # The classes' shares are fixed: all fakes right and all reals wrong does not vary.
    label = np.array([1, 1, 1, 0, 0], bool)
    values, influence = statistics.class_mean(label[None].astype(float), label)
    assert values[0] == 0.6
    assert Design(label, np.arange(5)).variance(influence[0]) == 0


def test_a_balanced_mean_weighs_both_classes_alike():
    label = np.array([1, 1, 1, 1, 0, 0, 0], bool)
    column = np.array([[1.0, 0, 1, 1, 0, 0, 0]])
    values, influence = statistics.class_mean(column, label, balanced=True)
    assert values[0] == 0.375
    # The fakes' mean has variance .25 / 4, and half the weight.
    assert Design(label, np.arange(7)).variance(influence[0]) == pytest.approx(0.25 / 4 / 4)
    one_real_cluster = Design(label, [0, 1, 2, 3, 4, 4, 4])
    assert np.isnan(one_real_cluster.variance(influence[0]))


# ---------------------------------------------------------------- curves and the bootstrap


def test_curves_agree_with_scikit_learn():
    random = rng("curves")
    for _ in range(5):
        score = random.integers(0, 12, 60) / 12  # many are tied
        label = random.integers(0, 2, 60).astype(bool)
        curve = statistics.curve_metrics(score, label)
        assert curve["AUC"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
        assert curve["AP"] == pytest.approx(average_precision_score(label, score), abs=1e-12)


def test_a_replicate_has_the_eer_of_the_units_drawn():
    random = rng("replicates")
    score = random.integers(0, 12, 60) / 12
    label = np.tile([False, True], 30)
    design = Design(label, np.repeat(np.arange(10), 6))  # each cluster has both classes
    replicates = statistics.bootstrap_eer(score, design)
    # k - 1 = 9 clusters are drawn, each with the weight k / (k - 1).
    draws = (design.resampled * 9 / 10).round().astype(int)
    for eer, times_drawn in zip(replicates[:20], draws):
        units = np.repeat(np.arange(60), times_drawn[design.cluster])
        drawn = statistics.curve_metrics(score[units], label[units])
        assert eer == pytest.approx(drawn["EER"], abs=1e-12)


def test_eer_lies_on_the_lines_between_points_of_the_curve():
    # ROC (0, 0), (0, .5), (1/3, .5), (1/3, 1): the step up at FPR 1/3 crosses FPR = 1 - TPR.
    score = np.array([0.9, 0.4, 0.6, 0.3, 0.2])
    label = np.array([1, 1, 0, 0, 0], bool)
    assert statistics.curve_metrics(score, label)["EER"] == pytest.approx(1 / 3)
    # All tied: the line from (0, 0) to (1, 1).
    assert statistics.curve_metrics(np.full(5, 0.5), label)["EER"] == pytest.approx(0.5)


def test_resampling_is_unbiased_and_keeps_to_the_strata(monkeypatch):
    monkeypatch.setattr(statistics, "REPLICATES", 20000)
    # Two clusters of reals only (2, 3), two of fakes only (4, 5), two of both (0, 1).
    label = np.repeat([0, 1], 8)
    cluster = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 4, 4, 5, 5, 1, 1])
    weights = Design(label, cluster).resampled
    for first in (0, 2, 4):
        np.testing.assert_allclose(weights[:, first : first + 2].sum(axis=1), 2)
    # With values 0 and 1, a mean over k = 2 clusters has variance s²/k = .5/2.
    assert (weights[:, 2] / 2).var() == pytest.approx(0.25, rel=0.02)


# ---------------------------------------------------------------- intervals and tests


def test_the_interval_of_a_value_by_hand():
    # 2.228139 is the t quantile; on the logit scale .8 is ln 4, with error .04 / (.8 · .2).
    half = 2.228139 * 0.04 / 0.16
    expected = [expit(np.log(4) - half), expit(np.log(4) + half)]
    interval = statistics.bounded_interval(0.8, Spread(0.0016, 10), 50)
    assert interval == pytest.approx(expected, abs=1e-6)
    bound = 0.025 ** (1 / 50)
    exact = Spread(0, 10)
    assert statistics.bounded_interval(1, exact, 50) == pytest.approx((bound, 1))
    assert statistics.bounded_interval(0, exact, 50) == pytest.approx((0, 1 - bound))
    assert statistics.bounded_interval(0.5, exact, 50) == (0.5, 0.5)
    assert np.isnan(statistics.bounded_interval(0.5, Spread(np.nan, 10), 50)).all()


def test_a_mean_has_the_interval_and_p_of_the_t_test():
    sample = rng("t").normal(0.5, 1, 12)
    spread = Spread(sample.var(ddof=1) / 12, 11)
    test = ttest_1samp(sample, 0)
    expected = test.confidence_interval()
    assert spread.interval(sample.mean()) == pytest.approx((expected.low, expected.high))
    assert statistics.p_value(sample.mean(), spread) == pytest.approx(test.pvalue)
    assert statistics.p_value(0, Spread(0, 11)) == 1
    assert np.isnan(statistics.p_value(1, Spread(np.nan, 11)))


def test_two_variances_add_up_with_the_degrees_of_satterthwaite():
    total = Spread(2, 10).plus(Spread(1, 4))
    assert total.variance == 3
    assert total.degrees == pytest.approx(9 / (4 / 10 + 1 / 4))
    assert np.isnan(Spread(np.nan, 10).plus(Spread(1, 4)).variance)
    assert Spread(0, 10).plus(Spread(0, 4)).variance == 0


def test_holm_by_hand():
    # Ascending .01 .02 .03 .04: times 4, 3, 2, 1, never falling.
    np.testing.assert_allclose(statistics.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    # A comparison without p counts.
    np.testing.assert_allclose(statistics.holm([0.3, np.nan, 0.9]), [0.9, np.nan, 1.0])
    assert len(statistics.holm([])) == 0


@pytest.mark.parametrize("power", [0.8, 0.95])
def test_the_least_detectable_difference_has_its_power(power):
    spread = Spread(0.01**2, 20)
    difference = statistics.least_detectable_difference(spread, power)
    detected = nct.sf(t.ppf(0.975, 20), 20, difference / spread.error)
    assert detected == pytest.approx(power, abs=0.01)
    of_ten = statistics.least_detectable_difference(spread, power, tests=10)
    assert nct.sf(t.ppf(0.9975, 20), 20, of_ten / 0.01) == pytest.approx(power, abs=0.02)


def test_a_planned_spread_is_that_of_the_planned_study():
    """Of 400 sets and 300 seeds the variances are known: .04 of seeds, .09 of sets, .01 of both."""
    random = rng("planned")
    of_sets = 0.3 * random.normal(size=(400, 1))
    values = of_sets + 0.2 * random.normal(size=300) + 0.1 * random.normal(size=(400, 300))
    planned = statistics.crossed_spread(values, planned=(24, 5))
    assert planned.variance == pytest.approx(0.04 / 5 + 0.09 / 24 + 0.01 / 120, rel=0.1)
    assert 4 < planned.degrees < 27
    # Without a plan, the sum of the two variances of means minus the residual, here by hand.
    few = values[:6, :5]
    residual = few - few.mean(axis=0) - few.mean(axis=1, keepdims=True) + few.mean()
    over_both = few.mean(axis=0).var(ddof=1) / 5 + few.mean(axis=1).var(ddof=1) / 6
    expected = over_both - (residual**2).sum() / 20 / 30
    assert statistics.crossed_spread(few).variance == pytest.approx(expected)


@pytest.mark.parametrize("true_auc", [0.7, 0.97])
def test_clustered_intervals_cover(true_auc):
    """Of an AUC, and of the difference to a better detector that shares half of the errors."""
    label = np.repeat([True, False], 200)
    cluster = np.repeat(np.arange(100), 4)
    design = Design(label, cluster)
    gap = norm.ppf(true_auc) * np.sqrt(2) * np.array([[1], [1.15]])
    difference = norm.cdf(norm.ppf(true_auc) * 1.15) - true_auc
    covered = []
    for key in range(1000):
        noise = clustered_noise(rng("coverage", key), 3, cluster, shared=0.5)
        scores = (noise[0] + noise[1:]) / np.sqrt(2) + gap * label
        values, influence = statistics.auc(scores, label)
        spread = Spread(design.variance(influence[0]), design.fewest - 1)
        low, high = statistics.bounded_interval(values[0], spread, design.pairs)
        paired = Spread(design.variance(influence[1] - influence[0]), design.fewest - 1)
        least, most = paired.interval(values[1] - values[0])
        covered.append([low <= true_auc <= high, least <= difference <= most])
    of_auc, of_difference = np.mean(covered, axis=0)
    assert 0.93 <= of_auc <= 0.97
    assert 0.93 <= of_difference <= 0.97


# ---------------------------------------------------------------- means over test sets and seeds


def world(random, seeds, sets, of_seeds, of_sets, noise, clusters=40, of_people=0):
    """The outcomes on each test set: effects of seeds, of sets, of clusters, of both, and noise.

    ``of_people``: of clusters that are the same in all sets; 0: each set has its own.
    """
    seed = of_seeds * random.normal(size=seeds)
    people = of_people * random.normal(size=clusters)
    of_world = of_sets * random.normal(size=sets)
    outcomes = []
    for effect in of_world:
        of_clusters = 0.5 * random.normal(size=clusters)
        of_both = noise * random.normal(size=(seeds, 1))
        values = seed[:, None] + effect + of_clusters + of_both + people
        values = values + 0.3 * random.normal(size=values.shape)
        of_seeds_mean = values.mean(axis=0)
        influence = (of_seeds_mean - of_seeds_mean.mean()) / clusters
        names = np.arange(clusters) if of_people else random.random(clusters)
        design = Design(np.ones(clusters), names)
        spread = Spread(design.variance(influence), clusters - 1)
        moves = design.moves(influence)
        means = values.mean(axis=1)
        how = "linearised"
        outcomes.append(Outcome(means, spread, False, clusters, how, np.zeros(4), (), names, moves))
    return outcomes


@pytest.mark.parametrize(
    ("sets", "of_seeds", "of_sets", "noise"),
    [(3, 1, 1, 1), (3, 1, 3, 1), (6, 1, 0, 0.3), (24, 1, 1, 1)],
)
def test_intervals_of_cross_dataset_means_cover_other_sets_and_seeds(
    sets, of_seeds, of_sets, noise
):
    covered = []
    for key in range(500):
        differences = world(rng("world", sets, key), 5, sets, of_seeds, of_sets, noise)
        number = statistics.summary(differences)
        shares = [
            replace(part, values=0.85 + 0.02 * part.values, bounded=True) for part in differences
        ]
        share = statistics.summary(shares)
        covered.append(
            [number["low"] <= 0 <= number["high"], share["low"] <= 0.85 <= share["high"]]
        )
    assert (np.mean(covered, axis=0) >= 0.92).all() and (np.mean(covered, axis=0) <= 0.98).all()


@pytest.mark.parametrize(("sets", "of_sets"), [(2, 0), (3, 0.2), (12, 0.2)])
def test_intervals_cover_other_people_where_all_test_sets_show_the_same(sets, of_sets):
    covered = []
    for key in range(500):
        outcomes = world(rng("people", sets, key), 5, sets, 0.1, of_sets, 0.1, 40, of_people=1)
        others = [replace(part, clusters=np.full(40, place)) for place, part in enumerate(outcomes)]
        inside = []
        for parts in (outcomes, others):
            number = statistics.summary(parts)
            inside.append(number["low"] <= 0 <= number["high"])
        covered.append(inside)
    as_one, as_independent = np.mean(covered, axis=0)
    assert 0.92 <= as_one <= 0.98
    assert as_independent < 0.91


def test_few_test_sets_or_seeds():
    parts = world(rng("few"), 5, 3, 1, 1, 1)
    # The sets' means vary; two of them have an interval for these two alone.
    two = statistics.summary(parts[:2])
    over_videos = sum(part.over_videos.variance for part in parts[:2]) / 4
    over_seeds = np.mean([part.values for part in parts[:2]], axis=0).var(ddof=1) / 5
    assert two["error"] == pytest.approx((over_videos + over_seeds) ** 0.5)
    # One seed: a t test over the sets.
    one_seed = [replace(part, values=part.values[:1]) for part in parts]
    number = statistics.summary(one_seed)
    test = ttest_1samp([part.values[0] for part in one_seed], 0)
    assert number["p"] == pytest.approx(test.pvalue)
    # Sets of other people, and of other numbers of people.
    other = world(rng("few"), 5, 3, 1, 1, 1, clusters=30)
    assert statistics.shared_spread([parts[0], other[0]]).variance == 0
    # A set without an interval of its own, such as one where a detector is always right, counts.
    moved = [replace(part, at_thresholds=rng("moved").normal(size=200)) for part in parts]
    exact = replace(parts[0], over_videos=Spread(np.nan, 39), how="none")
    assert statistics.summary([exact, *parts[1:]])["error"] == statistics.summary(parts)["error"]
    assert statistics.summary([exact, *moved[1:]])["error"] > statistics.summary(parts)["error"]
    nothing = [replace(part, over_videos=Spread(np.nan, 39), how="none") for part in parts]
    assert np.isnan(statistics.summary(nothing)["low"])
    # Without a seed, the number is that of the other seeds.
    rest = statistics.summary([replace(part, values=part.values[1:]) for part in parts])
    without = statistics.summary(parts)["without_seed"]
    expected = [rest["value"], rest["error"], rest["degrees"]]
    assert len(without) == 5
    assert without[0].tolist() == pytest.approx(expected, rel=1e-5)
