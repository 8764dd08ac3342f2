"""Metrics of score tables against hand-computed cases and scikit-learn."""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from dfnb.statistics import THRESHOLD_REPLICATES, summary
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from dfnb import metrics
from dfnb.seeds import rng
from dfnb.settings import DfnbError
from dfnb.trainer import threshold_of


def table(score, label, video=None, cluster=None):
    """A table of one frame per video and one video per cluster, unless they are named."""
    scores = pd.DataFrame({"score": np.asarray(score, float), "label": label})
    scores["frame"] = np.arange(len(scores))
    scores["track"] = 0
    scores["video"] = scores["frame"].astype(str) if video is None else video
    scores["cluster"] = scores["video"] if cluster is None else cluster
    scores["method"] = np.where(scores["label"] == 1, "swap", "real")
    return scores


def simulated(key, clusters=30, frames=3, shared=0.6):
    """One video per cluster; the frames of a video share a part of their noise."""
    random = rng("simulated", key)
    video = np.repeat(np.arange(2 * clusters), frames)
    of_videos = random.normal(size=2 * clusters)[video]
    noise = np.sqrt(shared) * of_videos + np.sqrt(1 - shared) * random.normal(size=len(video))
    label = video % 2
    return table(expit(noise + 1.2 * label - 1), label, video.astype(str))


def values(scores, level="frame"):
    data = metrics.align([scores], level)
    return {name: metrics.measure(data, name).values[0] for name in metrics.METRICS}


def variance(estimates):
    return estimates.outcome().over_videos.variance


# Fakes .9 .8 .8 .2, reals .8 .4 .3 .1: 16 pairs, won 4 + 3 + 3 + 1, tied 0 + 1 + 1 + 0.
HAND = table([0.9, 0.8, 0.8, 0.2, 0.8, 0.4, 0.3, 0.1], [1, 1, 1, 1, 0, 0, 0, 0])


# ---------------------------------------------------------------- metrics


def test_metrics_by_hand():
    measured = values(HAND)
    assert measured["AUC"] == (11 + 2 * 0.5) / 16  # a tie is half a win
    # ROC (FPR, TPR): (0, .25), (.25, .75), then level: FPR = 1 - TPR at (.25, .75).
    assert measured["EER"] == pytest.approx(0.25)
    assert measured["balanced accuracy"] == 6 / 8
    squares = [0.01, 0.04, 0.04, 0.64, 0.64, 0.16, 0.09, 0.01]
    assert measured["Brier"] == pytest.approx(np.mean(squares))


def test_at_the_threshold_of_the_validation_split():
    scores = HAND[1:]
    replicates = [0.35, 0.15] * (THRESHOLD_REPLICATES // 2)
    scores.attrs = {"threshold": 0.35, "threshold_clusters": 99}
    scores.attrs["threshold_replicates"] = replicates
    few = metrics.measure(metrics.align([scores], "frame"), metrics.AT_THRESHOLD)
    assert few.values == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert np.isnan(variance(few))  # the threshold itself is too uncertain
    scores.attrs["threshold_clusters"] = 100
    data = metrics.align([scores], "frame")
    assert variance(metrics.measure(data, metrics.AT_THRESHOLD)) > 0
    assert metrics.measure(data, metrics.CALLED).values == 4 / 7
    alarms = metrics.measure(data, metrics.FALSE_ALARMS)
    assert (alarms.values, alarms.outcome().counts[0]) == (2 / 4, 4)  # of the real units alone
    # From .35 to .15 one of three fakes and one of four reals are called fake, too.
    for metric, step in [
        (metrics.AT_THRESHOLD, (1 / 3 - 1 / 4) / 2),
        (metrics.FALSE_ALARMS, 1 / 4),
        (metrics.CALLED, 2 / 7),
    ]:
        moved = metrics.measure(data, metric).outcome().at_thresholds
        assert np.ptp(moved) == pytest.approx(step) and np.unique(moved.round(9)).size == 2
    known = metrics.measure(data, metrics.AT_THRESHOLD)
    assert known.minus(few).values == 0 and np.isnan(variance(known.minus(few)))
    on_two_sets = summary([known.outcome(), replace(known.outcome(), at_thresholds=())])
    assert on_two_sets["low"] < on_two_sets["value"]


def test_intervals_at_a_threshold_cover_other_validation_people():
    """The threshold rests on 100 people, the test set has 60 others; two frames of each class."""
    limit = norm.ppf(0.95)  # real scores have variance 1: .3 of people, .7 of frames
    true = {metrics.AT_THRESHOLD: (0.95 + norm.sf(limit - 2)) / 2, metrics.FALSE_ALARMS: 0.05}
    person = np.arange(160).repeat(4)
    label = np.tile([0, 0, 1, 1], 160)
    is_validation = person < 100
    covered = []
    for key in range(250):
        noise = rng("thresholds", key).normal(size=(2, 640))
        score = np.sqrt(0.3) * noise[0][person] + np.sqrt(0.7) * noise[1] + 2 * label
        frames = table(expit(score), label, cluster=person)
        tested = frames[~is_validation].reset_index(drop=True)
        tested.attrs = threshold_of(frames[is_validation])
        data = metrics.align([tested], "frame")
        row = []
        for metric, value in true.items():
            outcome = metrics.measure(data, metric).outcome()
            fixed = replace(outcome, at_thresholds=())
            for number in map(summary, ([outcome], [fixed])):
                row.append(number["low"] <= value <= number["high"])
        covered.append(row)
    accuracy, accuracy_fixed, alarms, alarms_fixed = np.mean(covered, axis=0)
    assert 0.92 <= accuracy <= 0.98 and 0.92 <= alarms <= 0.98
    assert accuracy_fixed < accuracy and alarms_fixed < alarms


# ---------------------------------------------------------------- units


def test_a_video_has_the_mean_score_of_its_frames():
    # Two methods share the file name 000_003.
    names = ["swap/000_003", "warp/000_003", "real/000", "real/001"]
    video = np.repeat(names, [2, 2, 2, 1])
    score = [0.9, 0.1, 0.8, 0.6, 0.4, 0.2, 0.6]
    scores = table(score, [1, 1, 1, 1, 0, 0, 0], video, [0] * 6 + [1])
    data = metrics.align([scores], "video")
    means = dict(zip(data.index["video"], data.columns["score"][0]))
    assert [means[name] for name in names] == pytest.approx([0.5, 0.7, 0.3, 0.6])
    auc = metrics.measure(data, "AUC")
    assert auc.values == 0.75
    assert auc.outcome().counts.tolist() == [4, 2, 2, 2]


@pytest.mark.parametrize("level", metrics.LEVELS)
def test_the_order_of_rows_changes_nothing(level):
    scores = simulated(2)
    assert values(scores.sample(frac=1, random_state=0), level) == values(scores, level)


def test_tables_of_other_units_are_not_aligned():
    scores = simulated(3, 5, 2)
    with pytest.raises(DfnbError, match=r"1 rows of unit, .* \(first: 3, 3, 1, swap\)"):
        metrics.align([scores, scores[scores["video"] != "3"]], "video")
    metrics.align([scores, scores[1:]], "video")  # the videos are the same
    with pytest.raises(DfnbError, match="1 rows of unit"):
        metrics.align([scores, scores[1:]], "frame")
    for name in ("cluster", "method"):
        with pytest.raises(DfnbError, match="20 rows of unit"):
            metrics.align([scores, scores.assign(**{name: "one"})], "video")


# ---------------------------------------------------------------- estimates


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_each_table_is_measured_as_if_it_were_alone(metric):
    tables = [simulated(key) for key in (4, 5)]
    together = metrics.measure(metrics.align(tables, "frame"), metric)
    for place, scores in enumerate(tables):
        alone = metrics.measure(metrics.align([scores], "frame"), metric)
        assert together.values[place] == pytest.approx(alone.values[0], abs=1e-12)
        np.testing.assert_allclose(together.spread[place], alone.spread[0], atol=1e-12)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_correlated_frames_widen_every_interval(metric):
    scores = simulated(6, 210, 5, shared=0.9)
    independent = scores.assign(cluster=scores["frame"])
    clustered = variance(metrics.measure(metrics.align([scores], "frame"), metric))
    naive = variance(metrics.measure(metrics.align([independent], "frame"), metric))
    # The variance of a mean grows 1 + 4 · .9 = 4.6 times.
    assert clustered / naive > 2.5


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_differences_are_paired(metric):
    scores = simulated(7, 200, 1)
    noise = 0.2 * rng("noise").normal(size=400)
    noisy = scores.assign(score=expit(logit(scores["score"]) + noise))
    first = metrics.measure(metrics.align([scores], "frame"), metric)
    second = metrics.measure(metrics.align([noisy], "frame"), metric)
    difference = second.minus(first)
    assert difference.values == second.values - first.values
    assert 0 < variance(difference) < 0.6 * (variance(first) + variance(second))
    assert variance(first.minus(first)) == 0


def test_a_difference_from_a_perfect_detector_has_no_interval():
    scores = simulated(8)
    perfect = scores.assign(score=scores["label"] / 2 + scores["score"] / 2.1)
    first, second = [
        metrics.measure(metrics.align([table], "frame"), "AUC") for table in (perfect, scores)
    ]
    assert first.values == 1 and second.values < 1
    for difference in (first.minus(second), second.minus(first), first.minus(first)):
        assert difference.how == "none" and np.isnan(variance(difference))


def test_a_gain_over_the_mean_mask_is_the_mean_of_differences():
    fakes = HAND[:4].assign(pixel_ap=[0.4, 0.4, 0.6, 0.9])
    fakes[f"{metrics.CONSTANT}pixel_ap"] = [0.3, 0.3, 0.4, 0.5]
    gain = metrics.measure(metrics.align([fakes], "frame"), metrics.GAIN)
    assert gain.values == pytest.approx(0.2)
    assert variance(gain) == pytest.approx(np.var([0.1, 0.1, 0.2, 0.4], ddof=1) / 4)
    assert not gain.bounded  # others may be negative


# ---------------------------------------------------------------- localisation


def test_localisation_by_hand():
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    probability = np.array([[0.9, 0.1, 0.8, 0.6], [0.1, 0.2, 0.7, 0.3]])
    measured = metrics.localisation(probability, mask)
    assert measured["iou"] == 3 / 5
    assert measured["pixel_auc"] == 12 / 16  # .8 .7 .6 .3 each win 3 of 4
    assert measured["pixel_ap"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4 + 4 / 5) / 4)
    assert measured["pointing"] == 0
    assert measured["energy"] == pytest.approx(2.4 / 3.7)


def test_localisation_agrees_with_scikit_learn_on_a_resized_map():
    probability = rng("map").random((6, 6)).round(1)
    mask = rng("mask").random((48, 64)) < 0.3
    resized = cv2.resize(probability.astype(np.float32), (64, 48)).round(6).ravel()
    measured = metrics.localisation(probability, mask)
    forged = mask.ravel()
    area = roc_auc_score(forged, resized)
    precision = average_precision_score(forged, resized)
    assert measured["pixel_auc"] == pytest.approx(area, abs=1e-12)
    assert measured["pixel_ap"] == pytest.approx(precision, abs=1e-12)
    assert measured["iou"] == pytest.approx(jaccard_score(forged, resized > 0.5))


@pytest.mark.parametrize("value", [0.0, 0.3, 0.8])
def test_a_constant_map_scores_what_chance_does(value):
    mask = np.zeros((96, 96), bool)
    mask[10:40, 20:70] = True
    share = mask.mean()
    expected = dict.fromkeys(("pixel_ap", "pointing", "energy"), share)
    expected["pixel_auc"] = 0.5
    expected["iou"] = share if value > 0.5 else 0
    assert metrics.localisation(np.full((7, 7), value), mask) == pytest.approx(expected)


def test_localisation_on_perfect_full_and_empty_masks():
    mask = np.zeros((8, 8))
    mask[:4] = 1
    perfect = metrics.localisation(mask, mask)
    assert set(perfect.values()) == {1}
    full = metrics.localisation(mask, np.ones((8, 8)))
    assert np.isnan(full["pixel_auc"])
    assert full["iou"] == 0.5
    assert full["pixel_ap"] == full["pointing"] == full["energy"] == 1
    empty = metrics.localisation(mask, np.zeros((8, 8)))
    assert np.isnan(list(empty.values())).all()
    with pytest.raises(DfnbError, match=r"outside \[0, 1\]"):
        metrics.localisation(mask * np.nan, mask)


# ---------------------------------------------------------------- refusals and texts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": None}, "8 rows with no video, track, frame, cluster"),
        ({"score": np.nan}, "8 rows with a score that is NaN .* video 0, track 0, frame 0"),
        ({"score": 1.2}, r"outside \[0, 1\]"),
        ({"label": 1 - HAND["label"]}, "8 rows with a label that is not 0 real and 1 fake"),
        ({"video": "a", "frame": 1}, "occurs twice"),
        ({"video": "a"}, "a video of more than one label"),
        (
            {"video": HAND["label"], "cluster": HAND["frame"]},
            "a video of more than one label or cluster",
        ),
        ({"label": 1, "method": "swap"}, "lacks real or fake frames"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(changes, message):
    with pytest.raises(DfnbError, match=message) as error:
        metrics.check_scores(HAND.assign(**changes), "scores/t.parquet")
    assert str(error.value).startswith("scores/t.parquet ")
    assert "\n" not in str(error.value)


def test_numbers_as_tables_print_them():
    assert metrics.p_texts([np.nan, 0.0004, 0.0312]) == ["–", "< 0.001", "0.031"]
    assert metrics.interval_text(0.8531, 0.8123, 0.8887) == "0.853 [0.812, 0.889]"
    assert metrics.interval_text(0.1, -0.05, 0.25, "+") == "+0.10 [-0.05, +0.25]"
    assert metrics.interval_text(0.5, np.nan, np.nan) == "0.500"
