"""Metrics against hand-computed cases, scikit-learn and simulation."""

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm
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


def values(scores: pd.DataFrame, level: str = "frame") -> dict[str, float]:
    data = metrics.align([scores], level)
    return {metric: float(metrics.measure(data, metric).values[0]) for metric in metrics.METRICS}


def variance(value_and_influence, label, cluster) -> float:
    return metrics.Design(label, cluster).variance(value_and_influence[1][0])


# Fakes .9 .8 .8 .2, reals .8 .4 .3 .1: 16 pairs, won 4 + 3 + 3 + 1, tied 0 + 1 + 1 + 0.
HAND = table([0.9, 0.8, 0.8, 0.2, 0.8, 0.4, 0.3, 0.1], [1, 1, 1, 1, 0, 0, 0, 0])


def test_by_hand():
    found = values(HAND)
    assert found["AUC"] == (11 + 2 * 0.5) / 16  # a tie is half a win
    # ROC (FPR, TPR): (0, .25), (.25, .75), then level: FPR = 1 - TPR at (.25, .75).
    assert found["EER"] == pytest.approx(0.25)
    # Recall .25 at precision 1, .75 at 3/4 (the tied real counts), 1 at 4/7.
    assert found["AP"] == pytest.approx(0.25 + 0.5 * 3 / 4 + 0.25 * 4 / 7)
    # Without a false positive only the threshold .9 is left.
    assert found["TPR at 1% FPR"] == found["TPR at 5% FPR"] == 0.25
    assert found["accuracy"] == 6 / 8
    assert found["Brier"] == pytest.approx((0.01 + 0.04 + 0.04 + 0.64 + 0.64 + 0.16 + 0.09 + 0.01) / 8)


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
    assert found["Brier"] == pytest.approx(brier_score_loss(y, s), abs=1e-12)


def test_replicates_of_weight_one_are_the_estimates():
    scores = simulated(2, 30, 5, 0.8).assign(score=lambda x: x.score.round(2))
    data = metrics.align([scores], "frame")
    data.design.resampled = np.ones((1, data.design.clusters))
    for metric in metrics.CURVES:
        found = metrics.measure(data, metric)
        np.testing.assert_allclose(found.spread[0], found.values, atol=1e-12, err_msg=metric)


def test_replicates_with_shared_thresholds_have_the_same_spread(monkeypatch):
    data = metrics.align([simulated(3, 60, 10, 0.85)], "frame")
    fine = {metric: metrics.measure(data, metric) for metric in metrics.CURVES}
    monkeypatch.setattr(metrics, "MOST_THRESHOLDS", 200)
    again = metrics.align([simulated(3, 60, 10, 0.85)], "frame")
    for metric, estimates in fine.items():
        coarse = metrics.measure(again, metric)
        assert coarse.values == estimates.values
        assert coarse.spread.std() == pytest.approx(estimates.spread.std(), rel=0.06), metric


def test_resampling_is_unbiased_and_keeps_to_the_strata(monkeypatch):
    monkeypatch.setattr(metrics, "REPLICATES", 20000)
    label, cluster = np.repeat([0, 1], 8), np.r_[0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 4, 4, 5, 5, 1, 1]
    design = metrics.Design(label, cluster)
    kind = design.holds[0] + 2 * design.holds[1]
    for name, size in ((1, 2), (2, 2), (3, 2)):
        np.testing.assert_allclose(design.resampled[:, kind == name].sum(axis=1), size)
    # A stratum's mean has bootstrap variance s^2 / k, here (0.5)^2 * 2 / 2 with values 0 and 1.
    assert design.resampled[:, np.flatnonzero(kind == 1)[0]].var() / 4 == pytest.approx(0.25, rel=0.02)


def test_video_score_is_the_mean_over_the_full_video_name():
    # Two methods share the file name 000_003; grouping by it would merge them.
    video = ["FaceSwap/000_003"] * 2 + ["Deepfakes/000_003"] * 2 + ["real/000"] * 2 + ["real/001"]
    scores = table([0.9, 0.1, 0.8, 0.6, 0.4, 0.2, 0.6], [1, 1, 1, 1, 0, 0, 0], cluster=[0] * 6 + [1], video=video)
    by_video = metrics.units(scores, "video").set_index("video").score
    assert by_video.to_dict() == pytest.approx(
        {"Deepfakes/000_003": 0.7, "FaceSwap/000_003": 0.5, "real/000": 0.3, "real/001": 0.6}
    )
    data = metrics.align([scores], "video")
    assert metrics.measure(data, "AUC").values == 0.75
    assert data.design.counts() == {"n": 4, "n_real": 2, "n_fake": 2, "clusters": 2}


def test_row_order_changes_nothing():
    scores = simulated(4, 20, 3, 0.8)
    shuffled = scores.sample(frac=1, random_state=np.random.RandomState(0))
    for level in ("frame", "video"):
        assert values(shuffled, level) == values(scores, level)


def test_delong_without_clusters_is_the_textbook_formula():
    scores = simulated(5, 30, 1, 0.8)
    fake, real = (scores.score[scores.label == kind].to_numpy() for kind in (1, 0))
    wins = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
    expected = wins.mean(axis=1).var(ddof=1) / 30 + wins.mean(axis=0).var(ddof=1) / 30
    found = metrics.auc(scores.score.to_numpy()[None], scores.label.to_numpy(bool))
    assert found[0] == pytest.approx(wins.mean())
    assert variance(found, scores.label, scores.cluster) == pytest.approx(expected)


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
    found = metrics.auc(score[None], label)
    assert found[0] == auc
    assert variance(found, label, cluster) == pytest.approx(expected)


def test_several_tables_at_once_are_the_tables_one_by_one():
    tables = [simulated(key, 30, 3, 0.8) for key in (31, 32)]
    together = metrics.align(tables, "frame")
    for metric in metrics.METRICS:
        for place, alone in enumerate(metrics.measure(metrics.align([table], "frame"), metric) for table in tables):
            both = metrics.measure(together, metric)
            assert both.values[place] == pytest.approx(alone.values[0], abs=1e-12), metric
            np.testing.assert_allclose(both.spread[place], alone.spread[0], atol=1e-12)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_correlated_frames_widen_every_interval(metric):
    scores = simulated(6, 210, 5, 0.8, shared=0.9)
    naive = scores.assign(cluster=np.arange(len(scores)), video=np.arange(len(scores)))
    found = [metrics.measure(metrics.align([table], "frame"), metric) for table in (scores, naive)]
    ratio = np.sqrt(found[0].variance(found[0].spread[0]) / found[1].variance(found[1].spread[0]))
    assert ratio > (1.2 if metric == "TPR at 1% FPR" else 1.6)  # sqrt(1 + 4 * .9) = 2.1 for a mean


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04: times 4, 3, 2, 1, never falling.
    np.testing.assert_allclose(metrics.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(metrics.holm([0.3, np.nan, 0.9]), [0.9, np.nan, 1.0])  # an untestable row counts
    assert len(metrics.holm([])) == 0


def test_one_score_per_video_has_no_frame_level():
    by_video = simulated(22, 20, 1, 0.8).assign(frame=-1)
    assert values(by_video, "video")["AUC"] == values(simulated(22, 20, 1, 0.8), "video")["AUC"]
    with pytest.raises(DfnbError, match="one score per video: no frame level"):
        metrics.align([by_video], "frame")


def test_the_variance_of_a_mean():
    # That of a plain mean where each frame is a cluster.
    found = metrics.mean(np.array([[0.5, 1.0, 0.0]]), np.ones(3, bool))
    assert (found[0], variance(found, np.ones(3), np.arange(3))) == pytest.approx((0.5, 0.25 / 3))
    # All fakes right, all reals wrong: what varies is only which class, and that is fixed.
    label = np.array([1, 1, 1, 0, 0], bool)
    found = metrics.mean(label[None].astype(float), label)
    assert (found[0], variance(found, label, np.arange(5))) == (0.6, 0)
    # Balanced: each class by itself.
    values = np.array([[1.0, 0, 1, 1, 0, 0, 0]])
    label = np.array([1, 1, 1, 1, 0, 0, 0], bool)
    found = metrics.mean(values, label, balanced=True)
    assert (found[0], variance(found, label, np.arange(7))) == pytest.approx((0.375, 0.25 / 4 / 4))
    assert np.isnan(variance(found, label, [0, 1, 2, 3, 4, 4, 4]))  # a class with one cluster


def test_the_interval_of_a_value_by_hand():
    low, high = metrics.bounded_interval(0.8, 0.0016, 10, 50)
    half = 2.228139 * 0.04 / 0.16  # on the logit scale, where .8 is ln 4
    assert (low, high) == pytest.approx((expit(np.log(4) - half), expit(np.log(4) + half)), abs=1e-6)
    assert metrics.bounded_interval(1, 0.0, 10, 50) == (pytest.approx(0.025 ** (1 / 50)), 1)
    assert metrics.bounded_interval(0, 0.0, 10, 50) == (0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert metrics.bounded_interval(0.5, 0.0, 10, 50) == (0.5, 0.5)
    assert np.isnan(metrics.bounded_interval(0.5, np.nan, 10, 50)).all()
    # 10 clusters that all hold both classes make 5 independent pairs, not 10.
    assert metrics.Design(np.arange(20) % 2, np.arange(20) // 2).pairs == 5


def test_tables_that_differ_are_not_aligned():
    scores = simulated(13, 10, 2, 0.8)
    with pytest.raises(DfnbError, match=r"1 rows of unit, .* \(first: 3, 3, 1, FaceSwap\)"):
        metrics.align([scores, scores[scores.video != "3"]], "video")
    metrics.align([scores, scores.iloc[1:]], "video")  # the videos are the same
    with pytest.raises(DfnbError, match="1 rows of"):
        metrics.align([scores, scores.iloc[1:]], "frame")
    for name in ("cluster", "method"):
        with pytest.raises(DfnbError, match="40 rows of"):
            metrics.align([scores, scores.assign(**{name: "one"})], "video")


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


def test_localisation_has_the_areas_of_the_curve_to_the_last_bit():
    """Coarse maps have many ties."""
    for key in range(60):
        random = rng("areas", key)
        probability, mask = random.random(random.integers(1, 30, 2)), random.random(random.integers(2, 70, 2)) < 0.3
        mask[0, :2] = True, False
        probability = probability.round(1) if key % 2 else probability
        resized = cv2.resize(probability.astype(np.float32), mask.shape[::-1]).round(6).ravel()
        found, order = metrics.localisation(probability, mask), metrics.curve_values(resized, mask.ravel())
        assert (found["pixel_auc"], found["pixel_ap"]) == (order["AUC"], order["AP"])
        overlaps = [(mask.ravel() & (resized >= t)).sum() / (mask.ravel() | (resized >= t)).sum() for t in set(resized)]
        assert found["best_iou"] == max(overlaps)


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
        (lambda x: x.assign(cluster=None), "8 rows with no cluster"),
        (
            lambda x: x.assign(score=[np.nan, *x.score[1:]]),
            r"1 rows with a score that is NaN .* video 0, track 0, frame 0",
        ),
        (lambda x: x.assign(score=x.score + 0.2), r"outside \[0, 1\]"),
        (lambda x: x.assign(label=x.label + 1), "8 rows with a label that is not 0 where real and 1 where fake"),
        (lambda x: x.assign(label=1 - x.label), "8 rows with a label that is not 0 where real and 1 where fake"),
        (lambda x: pd.concat([x, x]), "8 rows with a .* that was there before"),
        (lambda x: x.assign(video="a"), "a video of more than one label"),
        (lambda x: x.assign(video=x.label, cluster=x.frame), "a video of more than one cluster"),
        (lambda x: x[x.label == 1], "lacks real or fake frames; score a test set that holds"),
        (lambda x: x[:0], "lacks real or fake frames"),
        (lambda x: x.assign(iou=[-0.1] + [np.nan] * 7), r"1 rows with a iou outside \[0, 1\]"),
        (lambda x: x.assign(energy=[1.5] + [np.nan] * 7), r"1 rows with a energy outside .* video 0, track 0, frame 0"),
        (lambda x: x.assign(pixel_ap=0.5), "4 rows with a pixel_ap .* or at a real frame"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(change, message):
    with pytest.raises(DfnbError, match=message) as error:
        metrics.check_scores(change(HAND), "runs/r/scores/t.parquet")
    assert str(error.value).startswith("runs/r/scores/t.parquet ")
    assert "\n" not in str(error.value)


def test_sound_tables_are_returned_as_they_are():
    scored = HAND.assign(iou=[0, 0.5, 1] + [np.nan] * 5, energy=np.nan)
    assert metrics.check_scores(scored, "x") is scored


@pytest.mark.parametrize("auc", [0.7, 0.97])
def test_coverage_of_the_clustered_auc_interval(auc):
    label, cluster = np.repeat([True, False], 200), np.repeat(np.arange(100), 4)
    design, hits = metrics.Design(label, cluster), []
    for key in range(1500):
        random = rng(7, key)
        noise = np.sqrt(0.6) * random.normal(size=100)[cluster] + np.sqrt(0.4) * random.normal(size=400)
        value, influence = metrics.auc((noise + np.sqrt(2) * norm.ppf(auc) * label)[None], label)
        variance = design.variance(influence[0])
        low, high = metrics.bounded_interval(value[0], variance, design.fewest - 1, design.pairs)
        hits.append(low <= auc <= high)
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize("auc", [0.7, 0.97])
def test_coverage_of_the_clustered_paired_difference(auc):
    """1,000 simulations of two detectors on 50 clusters a class that share half of their errors; the second is better."""
    label, cluster = np.repeat([True, False], 200), np.repeat(np.arange(100), 4)
    better = norm.cdf(norm.ppf(auc) * 1.15)
    design, hits = metrics.Design(label, cluster), []
    for key in range(1000):
        random = rng(19, key)
        noise = np.sqrt(0.5) * random.normal(size=(3, 100))[:, cluster] + np.sqrt(0.5) * random.normal(size=(3, 400))
        scores = np.stack([(noise[0] + noise[k]) / np.sqrt(2) for k in (1, 2)])
        shift = np.sqrt(2) * norm.ppf(auc) * label * np.array([[1], [1.15]])
        values, influences = metrics.auc(scores + shift, label)
        half = metrics.quantile(design.fewest - 1) * np.sqrt(design.variance(influences[1] - influences[0]))
        hits.append(abs(values[1] - values[0] - (better - auc)) <= half)
    assert 0.93 <= np.mean(hits) <= 0.97


def test_no_rounding_lifts_pixel_ap_above_one(monkeypatch):
    """Of a full mask the sum of the steps was 1 + 2e-16 now and then, and such scores are refused."""
    curve = {"AUC": np.nan, "AP": np.nextafter(1, 2), "best IoU": 1.0}
    monkeypatch.setattr(metrics, "curve_values", lambda *given: curve)
    assert metrics.localisation(np.full((4, 4), 0.6), np.ones((8, 8), np.uint8))["pixel_ap"] == 1
