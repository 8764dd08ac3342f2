"""Metrics against hand-computed cases, scikit-learn and simulation."""

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm, t
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, jaccard_score, roc_auc_score

from dfnb import metrics
from dfnb.core import DfnbError, rng


def table(score, label, cluster=None, video=None) -> pd.DataFrame:
    """One frame a video unless ``video`` says otherwise; a cluster a video unless ``cluster`` does."""
    n = len(score)
    video = np.arange(n).astype(str) if video is None else np.asarray(video)
    label = np.asarray(label)
    return pd.DataFrame(
        {
            "video": video,
            "track": 0,
            "frame": np.arange(n),
            "cluster": video if cluster is None else cluster,
            "label": label,
            "method": np.where(label == 1, "FaceSwap", "real"),
            "score": np.asarray(score, float),
        }
    )


def simulated(key: int, clusters: int, frames: int, auc: float, shared: float = 0.6) -> pd.DataFrame:
    """``clusters`` of each class with ``frames`` frames that share a part of their variance; frame AUC as asked."""
    random = rng(key)
    label = np.repeat([1, 0], clusters * frames)
    group = np.repeat(np.arange(2 * clusters), frames)
    noise = np.sqrt(shared) * random.normal(size=2 * clusters)[group]
    noise += np.sqrt(1 - shared) * random.normal(size=len(label))
    return table(expit(noise + np.sqrt(2) * norm.ppf(auc) * label - 1), label, video=group.astype(str))


def values(scores: pd.DataFrame, level: str = "frame") -> pd.Series:
    found = metrics.metrics(scores)
    return found[found.level == level].set_index("metric").value


# Fakes .9 .8 .8 .2, reals .8 .4 .3 .1: 16 pairs, won 4 + 3 + 3 + 1, tied 0 + 1 + 1 + 0.
HAND = table([0.9, 0.8, 0.8, 0.2, 0.8, 0.4, 0.3, 0.1], [1, 1, 1, 1, 0, 0, 0, 0])


def test_by_hand():
    found = values(HAND)
    assert found["AUC"] == (11 + 2 * 0.5) / 16  # a tie is half a win
    # ROC (FPR, TPR): (0, .25), (.25, .75), then level: FPR = 1 - TPR at (.25, .75).
    assert found["EER"] == pytest.approx(0.25)
    # Recall .25 at precision 1, .75 at 3/4 (the tied real counts), 1 at 4/7.
    assert found["AP"] == pytest.approx(0.25 + 0.5 * 3 / 4 + 0.25 * 4 / 7)
    # Up to FPR .1 TPR rises from .25 to .45: area .035; McClish: 1/2 (1 + (.035 - .005) / (.1 - .005)).
    assert found["pAUC at 10% FPR"] == pytest.approx(0.5 * (1 + 0.03 / 0.095))
    # Without a false positive only the threshold .9 is left.
    assert found["TPR at 1% FPR"] == found["TPR at 5% FPR"] == 0.25
    assert found["accuracy"] == 6 / 8
    assert found["Brier"] == pytest.approx((0.01 + 0.04 + 0.04 + 0.64 + 0.64 + 0.16 + 0.09 + 0.01) / 8)
    # Bins .1: (.1|0), (.2|1), (.3|0), (.4|0), (.8|2 of 3), (.9|1).
    assert found["ECE"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.4 + 3 * abs(0.8 - 2 / 3) + 0.1) / 8)


def test_eer_between_two_points():
    # ROC (0, 0), (0, .5), (1/3, .5), (1/3, 1) ...: the vertical step from .5 to 1 at FPR 1/3 holds FPR = 1 - TPR.
    assert values(table([0.9, 0.4, 0.6, 0.3, 0.2], [1, 1, 0, 0, 0]))["EER"] == pytest.approx(1 / 3)
    # All tied: the line from (0, 0) to (1, 1).
    assert values(table([0.5] * 4, [1, 1, 0, 0]))["EER"] == pytest.approx(0.5)


def test_tpr_is_what_a_threshold_attains():
    # 20 reals: one false positive is 5 %, which is allowed; 1 % allows none.
    reals = [0.7, *np.linspace(0, 0.3, 19)]
    found = values(table([0.9, 0.6, 0.2, 0.65, *reals], [1, 1, 1, 1, *[0] * 20]))
    assert (found["TPR at 1% FPR"], found["TPR at 5% FPR"]) == (0.25, 0.75)


def test_a_score_of_one_half_says_real():
    assert values(table([0.5, 0.5, 0.5, 0.4], [1, 1, 0, 0]))["accuracy"] == 0.5


def test_agrees_with_scikit_learn():
    scores = simulated(1, 40, 5, 0.8)
    scores["score"] = scores.score.round(2)  # ties
    found, y, s = values(scores), scores.label, scores.score
    assert found["AUC"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert found["AP"] == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert found["pAUC at 10% FPR"] == pytest.approx(roc_auc_score(y, s, max_fpr=0.1), abs=1e-12)
    assert found["Brier"] == pytest.approx(brier_score_loss(y, s), abs=1e-12)
    curve = metrics.reliability(scores)
    share, mean = calibration_curve(y, s + 1e-9, n_bins=10)
    np.testing.assert_allclose(curve.fake, share)
    np.testing.assert_allclose(curve.score, mean, atol=1e-8)
    assert curve.n.sum() == len(scores)


def test_replicates_of_weight_one_are_the_estimates(monkeypatch):
    scores = metrics.units(simulated(2, 30, 5, 0.8).assign(score=lambda x: x.score.round(2)), "frame")
    design = metrics._Design(scores.label, scores.cluster)
    monkeypatch.setattr(metrics._Design, "resample", lambda self, generator, n: np.ones((n, self.clusters)))
    replicates, found = metrics._bootstrap(scores.score.to_numpy(), design, 0), values(scores)
    for metric, replicate in replicates.items():
        np.testing.assert_allclose(replicate, found[metric], atol=1e-12, err_msg=metric)


def test_replicates_with_shared_thresholds_have_the_same_spread(monkeypatch):
    scores = metrics.metrics(simulated(3, 60, 10, 0.85))
    monkeypatch.setattr(metrics, "MOST_THRESHOLDS", 300)
    coarse = metrics.metrics(simulated(3, 60, 10, 0.85))
    np.testing.assert_allclose(coarse.low, scores.low, atol=0.005)
    np.testing.assert_array_equal(coarse.value, scores.value)


def test_resampling_is_unbiased_and_keeps_to_the_strata():
    label, cluster = np.repeat([0, 1], 8), np.r_[0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 4, 4, 5, 5, 1, 1]
    design = metrics._Design(label, cluster)
    weights = design.resample(rng(0), 20000)
    kind = design.holds[0] + 2 * design.holds[1]
    for name, size in ((1, 2), (2, 2), (3, 2)):
        np.testing.assert_allclose(weights[:, kind == name].sum(axis=1), size)
    # A stratum's mean has bootstrap variance s^2 / k, here (0.5)^2 * 2 / 2 with values 0 and 1.
    assert weights[:, np.flatnonzero(kind == 1)[0]].var() / 4 == pytest.approx(0.25, rel=0.02)


def test_video_score_is_the_mean_over_the_full_video_name():
    # Two methods share the file name 000_003; grouping by it would merge them.
    video = ["FaceSwap/000_003"] * 2 + ["Deepfakes/000_003"] * 2 + ["real/000"] * 2 + ["real/001"]
    scores = table([0.9, 0.1, 0.8, 0.6, 0.4, 0.2, 0.6], [1, 1, 1, 1, 0, 0, 0], cluster=[0] * 6 + [1], video=video)
    by_video = metrics.units(scores, "video").set_index("video").score
    assert by_video.to_dict() == pytest.approx(
        {"Deepfakes/000_003": 0.7, "FaceSwap/000_003": 0.5, "real/000": 0.3, "real/001": 0.6}
    )
    row = metrics.auc(scores, "video")
    assert (row["value"], row["n"], row["n_real"], row["n_fake"], row["clusters"]) == (0.75, 4, 2, 2, 2)


def test_row_order_changes_nothing():
    scores = simulated(4, 20, 3, 0.8).assign(iou=lambda x: np.where(x.label == 1, x.score, np.nan))
    shuffled = scores.sample(frac=1, random_state=np.random.RandomState(0))
    pd.testing.assert_frame_equal(metrics.metrics(shuffled), metrics.metrics(scores))


def test_delong_without_clusters_is_the_textbook_formula():
    scores = simulated(5, 30, 1, 0.8)
    fake, real = (scores.score[scores.label == kind].to_numpy() for kind in (1, 0))
    wins = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
    variance = wins.mean(axis=1).var(ddof=1) / 30 + wins.mean(axis=0).var(ddof=1) / 30
    value, influence = metrics._auc(scores.score.to_numpy(), scores.label.to_numpy(bool))
    assert value == pytest.approx(wins.mean())
    assert metrics._Design(scores.label, scores.cluster).covariance(influence, influence) == pytest.approx(variance)


def test_clusters_of_both_classes_by_hand():
    # Obuchowski 1997 by its sums: K = 3 clusters, two with fakes and all with reals.
    score = np.array([0.9, 0.7, 0.4, 0.8, 0.3, 0.5, 0.1])
    label = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    cluster = np.array([0, 0, 1, 0, 1, 2, 2])
    # Fakes win 4, 3 and 2 of 4; reals lose to 1, 3, 2 and 3 of 3. AUC = 9 / 12.
    v10, v01, auc = np.array([1, 0.75, 0.5]), np.array([1 / 3, 1, 2 / 3, 1]), 0.75
    e10 = np.array([v10[0] + v10[1] - 2 * auc, v10[2] - auc, 0]) / 3
    e01 = np.array([v01[0] - auc, v01[1] - auc, v01[2] + v01[3] - 2 * auc]) / 4
    expected = 2 / 1 * (e10**2).sum() + 3 / 2 * (e01**2).sum() + 2 * 3 / 2 * (e10 * e01).sum()
    value, influence = metrics._auc(score, label)
    assert value == auc
    assert metrics._Design(label, cluster).covariance(influence, influence) == pytest.approx(expected)


def test_correlated_frames_widen_every_interval():
    scores = simulated(6, 210, 5, 0.8, shared=0.9)
    scores["iou"] = np.where(scores.label == 1, scores.score, np.nan)
    clustered = metrics.metrics(scores).query("level == 'frame'").set_index("metric")
    naive = metrics.metrics(scores.assign(cluster=np.arange(len(scores)), video=np.arange(len(scores))))
    naive = naive[naive.level == "frame"].set_index("metric")
    ratio = ((clustered.high - clustered.low) / (naive.high - naive.low)).drop("ECE")
    assert set(ratio.index) == set(clustered.index) - {"ECE"}
    assert (ratio.drop("TPR at 1% FPR") > 1.6).all(), ratio  # sqrt(1 + 4 * .9) = 2.1 for a mean
    assert ratio["TPR at 1% FPR"] > 1.2


@pytest.mark.parametrize("auc", [0.7, 0.97])
def test_coverage_of_the_clustered_auc_interval(auc):
    hits = []
    for key in range(1500):
        random = rng(7, key)
        label = np.repeat([True, False], 200)
        cluster = np.repeat(np.arange(100), 4)
        noise = np.sqrt(0.6) * random.normal(size=100)[cluster] + np.sqrt(0.4) * random.normal(size=400)
        value, influence = metrics._auc(noise + np.sqrt(2) * norm.ppf(auc) * label, label)
        design = metrics._Design(label, cluster)
        low, high = design.interval(value, design.covariance(influence, influence), 0.95, design.pairs)
        hits.append(low <= auc <= high)
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize("auc", [0.7, 0.97])
def test_coverage_of_the_clustered_paired_difference(auc):
    """1,000 simulations of two detectors on 50 clusters a class that share half of their errors; the second is better."""
    label, cluster = np.repeat([True, False], 200), np.repeat(np.arange(100), 4)
    better = norm.cdf(norm.ppf(auc) * 1.15)
    design, hits = metrics._Design(label, cluster), []
    for key in range(1000):
        random = rng(19, key)
        noise = np.sqrt(0.5) * random.normal(size=(3, 100))[:, cluster] + np.sqrt(0.5) * random.normal(size=(3, 400))
        scores = [(noise[0] + noise[k]) / np.sqrt(2) for k in (1, 2)]
        shift = np.sqrt(2) * norm.ppf(auc) * label
        (a, of_a), (b, of_b) = (metrics._auc(score + by * shift, label) for score, by in zip(scores, (1, 1.15)))
        half = t.ppf(0.975, design.scarcest - 1) * np.sqrt(design.covariance(of_b - of_a, of_b - of_a))
        hits.append(abs(b - a - (better - auc)) <= half)
    assert 0.93 <= np.mean(hits) <= 0.97


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04: times 4, 3, 2, 1, never falling.
    np.testing.assert_allclose(metrics.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(metrics.holm([0.3, np.nan, 0.9]), [0.9, np.nan, 1.0])  # an untestable row counts
    assert len(metrics.holm([])) == 0


def test_power_is_that_of_tests_as_large():
    """Fresh data of the size that is said to have 80 % power: the difference is found in about so many of 200 draws."""

    def pair(key, clusters, gain):
        random = rng(20, key)
        label, cluster = np.tile([0, 1], clusters), np.repeat(np.arange(clusters), 2)
        shared = random.normal(size=2 * clusters)
        scores = [expit(shared + 0.7 * random.normal(size=2 * clusters) + by * label) for by in (1.2, 1.2 + gain)]
        return [table(score, label, cluster) for score in scores]

    power = metrics.power(*pair(0, 400, 0.0), 0.03)
    assert power.is_monotonic_increasing and power.iloc[2] == pytest.approx(0.8, abs=0.05)
    deviation = np.sqrt(2 * 1.49)  # of a fake minus a real score before expit: AUC = Phi(shift / deviation)
    gain = deviation * norm.ppf(norm.cdf(1.2 / deviation) + 0.03) - 1.2
    draws = [metrics.paired_difference(*pair(1 + k, power.index[2] // 2, gain)[::-1])["low"] > 0 for k in range(200)]
    assert np.mean(draws) == pytest.approx(power.iloc[2], abs=0.1)
    assert metrics.power(*pair(0, 400, 0.0), 0.015).index[2] == pytest.approx(4 * power.index[2], abs=4)
    with pytest.raises(DfnbError, match="no sample size follows"):
        metrics.power(HAND, HAND)


def test_other_metrics_are_compared_in_the_same_way():
    a = simulated(21, 40, 3, 0.8).assign(iou=lambda x: np.where((x.label == 1) & (x.frame % 3 > 0), x.score, np.nan))
    b = a.assign(score=a.score * 0.9, iou=a.iou / 2)
    right = [((x.score > 0.5) == (x.label == 1)) for x in (a, b)]
    found = metrics.paired_difference(a, b, "frame", metric="accuracy")
    assert found["value"] == pytest.approx(right[0].mean() - right[1].mean())
    assert found["low"] < found["value"] < found["high"]
    balanced = [(x[a.label == 0].mean() + x[a.label == 1].mean()) / 2 for x in right]
    unequal = a[(a.label == 0) | (a.frame % 3 == 0)]
    one = metrics.auc(unequal, "frame", metric="balanced accuracy")
    assert one["value"] == pytest.approx(
        (right[0][a.label == 0].mean() + right[0][(a.label == 1) & (a.frame % 3 == 0)].mean()) / 2
    )
    assert metrics.paired_difference(a, b, "frame", metric="balanced accuracy")["value"] == pytest.approx(
        balanced[0] - balanced[1]
    )
    iou = metrics.paired_difference(a, b, "frame", metric="iou")
    assert iou["value"] == pytest.approx(a.iou.mean() / 2) and iou["n"] == a.iou.notna().sum()
    with pytest.raises(DfnbError, match="no energy, at frame level"):
        metrics.auc(a, "frame", metric="energy")


def test_one_score_a_video_has_no_frame_level():
    by_video = simulated(22, 20, 1, 0.8).assign(frame=-1)
    assert set(metrics.metrics(by_video).level) == {"video"}
    with pytest.raises(DfnbError, match="one score a video: no frame level"):
        metrics.auc(by_video, "frame")


def test_perfect_and_inverted_scores_have_a_defined_interval():
    perfect = table([0.9] * 50 + [0.1] * 60, [1] * 50 + [0] * 60)
    row = metrics.auc(perfect)
    assert (row["value"], row["high"]) == (1, 1)
    assert row["low"] == pytest.approx(0.025 ** (1 / 50))
    inverted = metrics.auc(perfect.assign(score=1 - perfect.score))
    assert (inverted["low"], inverted["high"]) == pytest.approx((0, 1 - 0.025 ** (1 / 50)))
    # 10 clusters that all hold both classes make 5 independent pairs, not 10.
    shared = perfect.assign(cluster=np.arange(110) % 10)
    assert metrics.auc(shared)["low"] == pytest.approx(0.025 ** (1 / 5))
    found = metrics.metrics(perfect).query("level == 'frame'").set_index("metric")
    assert found.low["accuracy"] == pytest.approx(0.025 ** (1 / 110))
    assert (found.value["EER"], found.low["EER"]) == (0, 0)


def test_what_has_no_interval():
    rows = metrics.metrics(table([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], cluster=[0, 0, 1, 2]))
    assert rows.low.isna().all()
    assert rows.high.isna().all()
    found = metrics.metrics(simulated(8, 50, 2, 0.8)).query("level == 'frame'").set_index("metric")
    assert set(found.index[found.low.isna()]) == {
        "ECE",
        "TPR at 1% FPR",
    }  # 50 clusters of reals: enough for 5 %, not for 1 %
    assert set(found.index[found.method_of_interval == "none"]) == {"ECE", "TPR at 1% FPR"}


def test_localisation_means_skip_the_unknown():
    scores = HAND.assign(iou=[0.5, np.nan, 1.0, 0.0] + [np.nan] * 4, pointing=[1.0] * 4 + [np.nan] * 4)
    found = metrics.metrics(scores).set_index("metric")
    assert found.loc["IoU", ["value", "n", "n_fake", "n_real", "level"]].to_list() == [0.5, 3, 3, 0, "frame"]
    assert found.loc["pointing game", ["value", "high", "n"]].to_list() == [1, 1, 4]
    # The variance of a plain mean where each frame is a cluster.
    mean, of = metrics._mean(np.array([0.5, 1.0, 0.0]), np.ones(3, bool))
    assert (mean, metrics._Design(np.ones(3), np.arange(3)).covariance(of, of)) == pytest.approx((0.5, 0.25 / 3))


def test_the_class_shares_count_as_fixed():
    # All fakes right, all reals wrong: what varies is only which class, and that is fixed.
    values, label = np.array([1.0, 1, 1, 0, 0]), np.array([1, 1, 1, 0, 0], bool)
    mean, of = metrics._mean(values, label)
    assert (mean, metrics._Design(label, np.arange(5)).covariance(of, of)) == (0.6, 0)


def test_paired_difference_against_a_brute_force_bootstrap():
    a = simulated(9, 60, 3, 0.85)
    b = a.assign(score=expit(0.6 * np.log(a.score / (1 - a.score)) + rng(10).normal(size=len(a))))
    found = metrics.paired_difference(a, b, "frame")
    label, cluster = a.label.to_numpy(), a.cluster.to_numpy().astype(int)
    draws = []
    for key in range(400):
        random = rng(11, key)
        chosen = np.r_[random.integers(0, 60, 60), random.integers(60, 120, 60)]
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in chosen])
        draws.append(roc_auc_score(label[rows], a.score[rows]) - roc_auc_score(label[rows], b.score[rows]))
    assert found["value"] == pytest.approx(roc_auc_score(label, a.score) - roc_auc_score(label, b.score))
    assert found["high"] - found["low"] == pytest.approx(4 * np.std(draws), rel=0.1)
    assert (found["p"] < 0.05) == (found["low"] > 0)
    # Pairing matters: apart, the two intervals say less.
    apart = [metrics.auc(x, "frame") for x in (a, b)]
    assert found["high"] - found["low"] < np.hypot(*[row["high"] - row["low"] for row in apart])
    swapped = metrics.paired_difference(b, a, "frame")
    assert (swapped["low"], swapped["p"]) == pytest.approx((-found["high"], found["p"]))


def test_paired_difference_of_equal_and_of_perfect_models():
    scores = simulated(12, 30, 2, 0.8)
    same = metrics.paired_difference(scores, scores.assign(score=scores.score / 2))
    assert same["value"] == same["low"] == same["high"] == 0
    assert same["p"] == 1
    perfect = scores.assign(score=scores.label * 0.8 + 0.1)
    found = metrics.paired_difference(perfect, perfect)
    assert found["low"] == pytest.approx(-(1 - 0.025 ** (1 / 30)))
    assert np.isnan(found["p"])
    assert metrics.paired_difference(perfect, scores)["low"] > 0


def test_paired_difference_refuses_other_units():
    scores = simulated(13, 10, 2, 0.8)
    fewer = scores[scores.video != "3"]
    with pytest.raises(DfnbError, match=r"1 videos are in only one of them \(first: 3\)"):
        metrics.paired_difference(scores, fewer)
    metrics.paired_difference(scores, scores.iloc[1:])  # the videos are the same
    with pytest.raises(DfnbError, match="1 frames are in only one"):
        metrics.paired_difference(scores, scores.iloc[1:], "frame")
    with pytest.raises(DfnbError, match="cluster differs"):
        metrics.paired_difference(scores, scores.assign(cluster="one"))


def test_several_seeds():
    seeds = [simulated(14, 40, 2, 0.8)]
    seeds += [seeds[0].assign(score=expit(np.log(seeds[0].score) + rng(15, k).normal(size=160))) for k in range(2)]
    single = [metrics.auc(scores) for scores in seeds]
    together = metrics.auc(seeds)
    assert together["value"] == pytest.approx(np.mean([row["value"] for row in single]))
    assert together["n"] == 80
    # On the same videos: no wider than the widest, and not narrower by sqrt(3) as independent videos would be.
    widths = [row["high"] - row["low"] for row in single]
    assert max(widths) >= together["high"] - together["low"] > np.mean(widths) / np.sqrt(3)
    assert metrics.auc([seeds[0]]) == single[0]
    by_seed = [metrics.paired_difference(scores, seeds[0])["value"] for scores in seeds]
    assert metrics.paired_difference(seeds, seeds[0])["value"] == pytest.approx(np.mean(by_seed))


def test_over_seeds_by_hand():
    found = metrics.over_seeds([0.7, 0.8, 0.9])
    assert (found["mean"], found["sd"], found["n"]) == pytest.approx((0.8, 0.1, 3))
    assert found["high"] == pytest.approx(0.8 + 4.302653 * 0.1 / np.sqrt(3), abs=1e-6)
    assert np.isnan(metrics.over_seeds([0.7])["low"])


def test_chance():
    assert metrics.chance(simulated(16, 40, 3, 0.5))
    assert not metrics.chance(simulated(16, 40, 3, 0.8))
    assert not metrics.chance(simulated(16, 40, 3, 0.2))  # wrong way round, but not chance
    assert metrics.chance(simulated(16, 40, 3, 0.8).assign(score=0.69))
    assert metrics.chance(table([0.9, 0.1], [1, 0]))


def test_localisation_by_hand():
    mask = np.zeros((2, 4), bool)
    mask[:, 2:] = True
    found = metrics.localisation(np.array([[0.9, 0.1, 0.8, 0.6], [0.1, 0.2, 0.7, 0.3]]), mask)
    assert found["iou"] == 3 / 5
    assert found["pixel_auc"] == 12 / 16  # .8 .7 .6 .3 each win 3 of 4
    assert found["pixel_ap"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4 + 4 / 5) / 4)
    assert found["pointing"] == 0
    assert found["energy"] == pytest.approx(2.4 / 3.7)


def test_localisation_agrees_with_scikit_learn_on_a_resized_map():
    np.testing.assert_allclose(cv2.resize(np.array([[0.0, 1.0]]), (4, 1)), [[0, 0.25, 0.75, 1]])  # half-pixel centres
    probability, mask = rng(17).random((6, 6)), rng(18).random((48, 64)) < 0.3
    resized = cv2.resize(probability.astype(np.float32), (64, 48)).round(6)
    found = metrics.localisation(probability, mask)
    assert found["pixel_auc"] == pytest.approx(roc_auc_score(mask.ravel(), resized.ravel()), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(mask.ravel(), resized.ravel()), abs=1e-12)
    assert found["iou"] == pytest.approx(jaccard_score(mask.ravel(), resized.ravel() > 0.5), abs=1e-12)
    assert found["pointing"] == mask[np.unravel_index(resized.argmax(), mask.shape)]


@pytest.mark.parametrize("value", [0.0, 0.3, 0.8])
def test_a_constant_map_scores_what_chance_does(value):
    mask = np.zeros((96, 96), bool)
    mask[10:40, 20:70] = True
    found = metrics.localisation(np.full((7, 7), value), mask)
    share = mask.mean()
    expected = {"iou": share if value > 0.5 else 0, "pixel_auc": 0.5, "pixel_ap": share}
    assert found == pytest.approx({**expected, "pointing": share, "energy": share, "best_iou": share})


def test_localisation_of_perfect_full_and_empty_masks():
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    assert metrics.localisation(mask.astype(float), mask) == dict.fromkeys([*metrics.LOCALISATION, "best_iou"], 1)
    full = metrics.localisation(mask.astype(float), np.ones((8, 8), bool))
    assert full == pytest.approx(
        {"iou": 0.5, "pixel_auc": np.nan, "pixel_ap": 1, "pointing": 1, "energy": 1, "best_iou": 1}, nan_ok=True
    )
    assert np.isnan(list(metrics.localisation(mask.astype(float), np.zeros((8, 8), bool)).values())).all()
    with pytest.raises(DfnbError, match=r"outside \[0, 1\]"):
        metrics.localisation(mask * np.nan, mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.drop(columns="cluster"), "lacks the columns cluster"),
        (lambda x: x.assign(cluster=None), "8 rows with no cluster"),
        (
            lambda x: x.assign(score=[np.nan, *x.score[1:]]),
            r"1 rows with a score that is NaN .* video 0, track 0, frame 0",
        ),
        (lambda x: x.assign(score=x.score + 0.2), r"outside \[0, 1\]"),
        (lambda x: x.assign(label=x.label + 1), "a label other than 0 and 1"),
        (lambda x: x.assign(label=1 - x.label), "a label that contradicts the method"),
        (lambda x: pd.concat([x, x]), "8 rows with a .* that was there before"),
        (lambda x: x.assign(video="a"), "more than one label"),
        (lambda x: x.assign(video=x.label, cluster=x.frame), "more than one cluster"),
        (lambda x: x[x.label == 1], "only fake frames; score a test set that holds real and fake"),
        (lambda x: x[:0], "no rows"),
        (lambda x: x.assign(iou=0.5), "4 rows with iou outside"),
        (lambda x: x.assign(energy=[1.5] + [np.nan] * 7), "1 rows with energy outside"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(change, message):
    with pytest.raises(DfnbError, match=message) as error:
        metrics.check_scores(change(HAND), "runs/r/scores/t.parquet")
    assert str(error.value).startswith("runs/r/scores/t.parquet ")
    assert "\n" not in str(error.value)


def test_tables_are_written_checked_and_read_back(tmp_path):
    path = tmp_path / "scores" / "home.parquet"
    scores = HAND.assign(iou=[0.5] * 3 + [np.nan] * 5)
    metrics.write_scores(path, scores)
    pd.testing.assert_frame_equal(metrics.read_scores(path), scores)
    with pytest.raises(DfnbError, match="outside"):
        metrics.write_scores(path, scores.assign(score=2.0))
    pd.testing.assert_frame_equal(metrics.read_scores(path), scores)
    with pytest.raises(DfnbError, match="score the run on this test set first"):
        metrics.read_scores(tmp_path / "none.parquet")


def test_a_measure_that_some_frames_lack_is_compared_on_the_others():
    table = pd.DataFrame({"video": [f"v{i}" for i in range(8)], "track": 0, "frame": 0, "label": 1, "score": 0.9})
    table = table.assign(cluster=[f"c{i // 2}" for i in range(8)], method="swap", energy=np.linspace(0.1, 0.8, 8))
    lacking = table.assign(energy=table["energy"].where(table["video"] != "v0") / 2)
    found = metrics.paired_difference(table, lacking, "frame", metric="energy")
    assert found["n"] == 7 and found["value"] == pytest.approx(table["energy"][1:].mean() / 2)
