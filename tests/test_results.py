"""The long table of reports written through the store, against numbers made another way."""

import numpy as np
import pandas as pd
import pytest
import yaml
from dfnb.store import KEYS, Condition, Report, write_scores
from scipy.special import expit
from scipy.stats import t
from sklearn.metrics import brier_score_loss, roc_auc_score

from dfnb import metrics, results, statistics
from dfnb.seeds import rng
from dfnb.settings import DfnbError

HOME, B, C = "home", "set-b", "set-c"  # trained on the first
TITLES = {"xception": "Plain", "lae": "Other"}


def table(key, strength=1.5, test_set=HOME, methods=("swap", "warp"), contrasts=()):
    """In each of 40 clusters a real video and one of each method, two frames each."""
    kinds = ["real", *methods]
    made = pd.DataFrame({"cluster": np.arange(40).repeat(2 * len(kinds)).astype(str)})
    made["method"] = np.tile(np.repeat(kinds, 2), 40)
    made["frame"] = np.tile([0, 5], 40 * len(kinds))
    made["track"] = 0
    made["video"] = made["method"] + "/" + made["cluster"]
    made["label"] = (made["method"] != "real").astype(int)
    shared = rng("videos", test_set).normal(size=40 * len(kinds)).repeat(2)
    own = rng("seed", key, test_set).normal(size=len(made))
    made["log_odds"] = strength * made["label"] + shared + own / 2
    made.attrs = {"fingerprint": "f", "compression": "JPEG", "contrasts": list(contrasts)}
    made.attrs["crop"] = ""
    return made


def write(profile, tables, paper="xception", seed=0, role=("", ""), **facts):
    """Write a run with tables by condition; ``facts`` change its record."""
    record = {
        "parameters": {
            "paper": paper,
            "train_set": HOME,
            "seed": seed,
            "settings": {"backbone": "small", "image_size": 96},
        },
        "detector": {
            "title": TITLES[paper],
            "notebook": paper,
            "published": "Printed",
            "defaults": {"backbone": "small"},
        },
        "rule": "best epoch",
        "weights_from": "random weights",
        "weights_sha256": "",
        "collapsed": False,
        "validation_threshold": {"threshold": 0.6, "threshold_clusters": 9},
        "log": [{"epoch": 1, "loss_cls": 0.7}],
        **facts,
    }
    write_scores(profile, record, "-".join([paper, *role, str(seed)]), [role], tables)


def clean(key, strength=1.5, sets=(HOME, B)):
    return {Condition(name): table(key, strength, name) for name in sets}


def rows(made, **wanted):
    usual = {"minus": "", "method": "all", "corruption": "", "map": "", "level": "video"}
    usual |= {"metric": "AUC", "test_set": HOME}
    for column, value in {**usual, "collapsed_included": False, **wanted}.items():
        made = made[made[column] == value]
    return made


def row(made, **wanted):
    (number,) = rows(made, **wanted).to_dict("records")
    return number


def scored(frames):
    """The frames with the scores that the store gives back."""
    return frames.assign(score=expit((frames["log_odds"] / 0.02).round() * 0.02))


def video_auc(frames):
    videos = scored(frames).groupby("video")[["label", "score"]].mean().round(12)
    return roc_auc_score(videos["label"], videos["score"])


def made_of(profile):
    return results.make(Report(profile))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, checkout):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "data_manifest").symlink_to(checkout / "data_manifest")
    return tmp_path


# ---------------------------------------------------------------- one detector


def test_the_values_are_those_of_the_scores():
    for seed in (0, 1):
        write("p", clean(seed), seed=seed)
    made = made_of("p")
    tables = [table(seed) for seed in (0, 1)]
    number = row(made, detector="Plain")
    assert number["value"] == pytest.approx(np.mean([video_auc(frames) for frames in tables]))
    counts = {"n": 120, "n_real": 40, "n_fake": 80, "clusters": 40, "seeds": 2}
    assert {name: number[name] for name in counts} == counts
    texts = {"seeds_list": "0, 1", "collapsed": "0 of 2", "published_as": "Printed"}
    assert {name: number[name] for name in texts} == texts
    brier = [
        brier_score_loss(scored(frames)["label"], scored(frames)["score"]) for frames in tables
    ]
    assert row(made, level="frame", metric="Brier")["value"] == pytest.approx(np.mean(brier))
    of_swap = [video_auc(frames[frames["method"] != "warp"]) for frames in tables]
    assert row(made, method="swap")["value"] == pytest.approx(np.mean(of_swap))
    assert not made.duplicated(list(made.columns[: list(made.columns).index("value")])).any()


def test_intervals_over_videos_and_seeds_by_hand():
    first = [table(f"a{seed}", 2.0) for seed in range(4)]
    second = [table(f"b{seed}", 1.5) for seed in range(4)]
    sides = [
        metrics.align([scored(frames) for frames in side], "video") for side in (first, second)
    ]
    minuend, subtrahend = (metrics.measure(side, "AUC") for side in sides)
    number = statistics.summary([minuend.minus(subtrahend).outcome()])
    differences = [video_auc(one) - video_auc(other) for one, other in zip(first, second)]
    assert number["value"] == pytest.approx(np.mean(differences))
    over_seeds = np.var(differences, ddof=1) / 4
    half = t.ppf(0.975, 3) * over_seeds**0.5
    assert number["high_seeds"] == pytest.approx(number["value"] + half)
    over_videos = ((number["high_videos"] - number["value"]) / t.ppf(0.975, 39)) ** 2
    error = (over_videos + over_seeds) ** 0.5
    degrees = error**4 / (over_videos**2 / 39 + over_seeds**2 / 3)
    assert number["high"] == pytest.approx(number["value"] + t.ppf(0.975, degrees) * error)
    assert number["p"] == pytest.approx(2 * t.sf(number["value"] / error, degrees))
    turned = statistics.summary([subtrahend.minus(minuend).outcome()])
    assert (turned["low"], turned["p"]) == pytest.approx((-number["high"], number["p"]))


def test_robustness_is_the_mean_over_severities_within_a_seed():
    corrupted = {}
    for kind in ("JPEG", "blur"):
        for severity in (1, 5):
            frames = table(f"{kind}{severity}", 1.5 / severity)
            corrupted[kind, severity] = frames[frames["cluster"].astype(int) < 20]
    tables = {Condition(HOME, *key): frames for key, frames in corrupted.items()}
    write("p", {**clean(0), **tables})
    made = made_of("p")
    aucs = {key: video_auc(frames) for key, frames in corrupted.items()}
    assert row(made, corruption="JPEG", severity=5)["value"] == pytest.approx(aucs["JPEG", 5])
    of_jpeg = row(made, corruption="JPEG", metric="robustness")
    assert of_jpeg["severity"] == 0
    assert of_jpeg["value"] == pytest.approx((aucs["JPEG", 1] + aucs["JPEG", 5]) / 2)
    listed = made.loc[made["metric"] == "robustness", "corruption"].unique().tolist()
    assert listed == ["JPEG", "blur", results.ALL_CORRUPTIONS]
    over_all = {"corruption": results.ALL_CORRUPTIONS}
    mean = np.mean(list(aucs.values()))
    assert row(made, metric="robustness", **over_all)["value"] == pytest.approx(mean)
    of_same_videos = video_auc(table(0)[table(0)["cluster"].astype(int) < 20])
    kept = row(made, metric="robustness kept", **over_all)["value"]
    assert kept == pytest.approx(mean - of_same_videos)


def test_maps_are_measured_on_forged_frames():
    forged = table(0).query("label == 1").drop(columns="log_odds")
    energy = rng("energy").random(len(forged)).round(4)
    curve = {"energy": energy, "deletion 0": 0.9, "deletion": 0.5, "constant energy": 0.25}
    maps = {
        Condition(HOME, map="Grad-CAM"): forged.assign(**curve),
        Condition(HOME, map="Grad-CAM", sanity=True): forged.assign(all=-0.1),
    }
    write("p", {**clean(0), **maps})
    made = made_of("p")
    of_map = {"map": "Grad-CAM", "level": "frame"}
    number = row(made, detector="Plain", metric="energy", **of_map)
    assert (number["value"], number["n"]) == (pytest.approx(energy.mean()), 160)
    assert row(made, detector="Plain", metric=metrics.LOST, **of_map)["value"] == pytest.approx(0.4)
    assert row(made, detector="Plain", metric="all", **of_map)["sanity"]


def test_maps_may_be_measured_on_a_set_whose_methods_are_compared():
    compared = table(0, contrasts=[["swap", "warp"]])
    forged = compared[compared["label"] == 1].drop(columns="log_odds").assign(energy=0.4)
    corrupted = Condition(HOME, "JPEG", 1)
    write("p", {Condition(HOME): compared, Condition(HOME, map="CAM"): forged, corrupted: compared})
    made = made_of("p")
    number = row(made, detector="Plain", map="CAM", metric="energy", level="frame")
    assert number["value"] == pytest.approx(0.4) and not number["refused"]
    assert set(made.query("corruption != ''")["severity"]) == {1}  # and no mean over severities


# ---------------------------------------------------------------- differences


def test_what_is_compared_with_what():
    for paper in TITLES:
        write("p", clean(paper), paper)
        write("p", clean(f"{paper} main"), paper, role=("task", "main"))
    write("p", clean("less"), "lae", role=("task", "less"))
    write("p", clean("narrow"), "lae", role=("width", "narrow"))
    differences = made_of("p").query("minus != '' and level == 'video' and test_set == @HOME")
    pairs = set(zip(differences["detector"], differences["minus"]))
    sets = [set(pair) for pair in pairs]
    assert {"Plain", "Other"} in sets and {"Plain, task: main", "Other, task: main"} in sets
    assert ("Other, task: less", "Other, task: main") in pairs
    assert ("Other, width: narrow", "Other") in pairs and len(pairs) == 4


@pytest.mark.parametrize(
    ("seeds", "compared", "named"),
    [([1, 2], [(1, 1)], "1"), ([5, 6], [(0, 5), (1, 6)], "0, 1, 5, 6")],
)
def test_differences_are_at_shared_seeds_else_in_their_order(seeds, compared, named):
    for seed in (0, 1):
        write("p", clean(f"main {seed}"), seed=seed)
    for seed in seeds:
        write("p", clean(f"variant {seed}", 2.0), seed=seed, role=("width", "narrow"))
    number = row(made_of("p"), detector="Plain, width: narrow", minus="Plain")
    gains = []
    for main, variant in compared:
        auc = video_auc(table(f"variant {variant}", 2.0))
        gains.append(auc - video_auc(table(f"main {main}")))
    assert (number["value"], number["seeds_list"]) == (pytest.approx(np.mean(gains)), named)


def test_another_tool_is_compared_with_every_seed(home):
    for seed in (0, 1):
        write("p", clean(seed), seed=seed)
    folder = home / "reports/p/other/sometool"
    folder.mkdir(parents=True)
    videos = scored(table("tool", 1.0)).groupby("video")[["label", "score"]].mean()
    videos.to_csv(folder / f"{HOME}.csv")
    made = made_of("p")
    auc = video_auc(table("tool", 1.0))
    assert row(made, detector="sometool")["value"] == pytest.approx(auc)
    difference = row(made, detector="sometool", minus="Plain")
    expected = auc - np.mean([video_auc(table(seed)) for seed in (0, 1)])
    assert (difference["value"], difference["seeds"]) == (pytest.approx(expected), 2)
    of_frames = row(made, detector="sometool", level="frame")  # all frames have their video's score
    assert of_frames["value"] == pytest.approx(auc)


def test_collapsed_runs_are_left_out_and_have_rows_that_include_them():
    for seed in range(3):
        write("p", clean(seed, 0.1 if seed == 1 else 1.5), seed=seed, collapsed=seed == 1)
        write("p", clean(f"lae {seed}"), "lae", seed)
    made = made_of("p")
    kept = row(made, detector="Plain")
    assert (kept["collapsed"], kept["seeds_list"]) == ("1 of 3", "0, 2")
    every = row(made, detector="Plain", collapsed_included=True)
    aucs = [video_auc(table(seed, 0.1 if seed == 1 else 1.5)) for seed in range(3)]
    assert every["value"] == pytest.approx(np.mean(aucs)) and every["seeds"] == 3
    assert rows(made, detector="Other", collapsed_included=True).empty
    differences = made[(made["minus"] != "") & ~made["collapsed_included"]]
    assert set(differences["seeds_list"]) == {"0, 2"}


# ---------------------------------------------------------------- over test sets


def test_a_cross_dataset_mean_by_hand():
    for seed in (0, 1):
        write("p", clean(seed, sets=(HOME, B, C)), seed=seed)
    made = made_of("p")
    mean, b, c = (row(made, test_set=name) for name in (results.CROSS_DATASET_MEAN, B, C))
    assert mean["value"] == pytest.approx((b["value"] + c["value"]) / 2)
    assert (mean["n"], mean["clusters"], mean["mean_over"]) == (240, 80, f"{B}, {C}")
    assert mean["high_videos"] - mean["low_videos"] < b["high_videos"] - b["low_videos"]


def test_means_are_over_the_sets_of_the_main_detectors():
    write("p", clean("main", sets=(HOME, B, C)))
    write("p", clean("few", sets=(HOME, B)), role=("width", "few"))
    write("p", clean("more", sets=(HOME, B, C, "set-d")), role=("width", "more"))
    write("p", clean("other", sets=(HOME, B)), "lae")
    made = made_of("p")
    means = rows(made, test_set=results.CROSS_DATASET_MEAN)
    assert set(means["detector"]) == {"Plain", "Plain, width: more"}
    assert set(means["mean_over"]) == {f"{B}, {C}"}


def test_methods_of_one_person_are_compared_within_people():
    methods = ["swap", "moved"]
    for seed in (0, 1):
        kinds = table(seed, 1.5, "kinds", methods, [methods])
        write("p", {**clean(seed), Condition("kinds"): kinds}, seed=seed)
    made = made_of("p")
    of_kinds = {"test_set": "kinds", "level": "frame"}
    number = row(made, method="swap − moved", minus="Plain", **of_kinds)
    gains = []
    for seed in (0, 1):
        frames = scored(table(seed, 1.5, "kinds", methods))
        aucs = []
        for method in methods:
            chosen = frames[frames["method"].isin(["real", method])]
            aucs.append(roc_auc_score(chosen["label"], chosen["score"]))
        gains.append(aucs[0] - aucs[1])
    assert number["value"] == pytest.approx(np.mean(gains)) and number["paired_methods"]
    called = row(made, method="real", metric=metrics.CALLED, **of_kinds)
    assert 0 < called["value"] < 1 and called["interval_method"] == "none"
    assert set(made[made["test_set"] == "kinds"]["level"]) == {"frame"}
    assert set(made["mean_over"]) == {"", B}


# ---------------------------------------------------------------- files


def test_the_table_is_made_again_only_when_scores_change(home):
    write("p", clean(0))
    first = results.load("p")
    path = home / "reports/p/results.parquet"
    written = path.stat().st_mtime_ns
    pd.testing.assert_frame_equal(results.load("p"), first)
    assert path.stat().st_mtime_ns == written
    write("p", clean(1), seed=1)
    assert row(results.load("p"))["seeds"] == 2


def test_scores_on_other_frames_are_rows_that_say_why():
    forged = table(0).query("label == 1")[list(KEYS)].assign(energy=0.5)
    forged.attrs = table(0).attrs
    write("p", {**clean(0), Condition(HOME, map="Grad-CAM"): forged})
    fewer = forged.iloc[4:]
    write("p", {**clean(1), Condition(HOME, map="Grad-CAM"): fewer}, "lae")
    made = made_of("p").query("map != '' and minus != ''")
    assert len(made) == 1 and "cannot be compared" in made["refused"].item()
    with pytest.raises(DfnbError, match="has no scores; run dfnb run empty"):
        made_of("empty")


def test_each_seed_may_have_a_training_set_of_its_own(home):
    """One detector, trained on two sets; the profile says which test set is within-dataset."""
    sets = ["bed", B, C, "photographs"]
    grid = {"within": ["bed"], "not_averaged": ["photographs"]}
    report = Report("mine")
    for seed in (30, 31):
        settings = {"backbone": "small", "image_size": 96}
        parameters = {"paper": "xception", "seed": seed, "settings": settings}
        tables = {Condition(name): table(seed, test_set=name) for name in sets}
        own = {"parameters": {**parameters, "train_set": f"bed-{seed}"}, "rule": f"on bed-{seed}"}
        write("mine", tables, seed=seed, train_set="bed-{seed}", **own)
    (report.folder / "profile.yaml").write_text(yaml.safe_dump({"grid": grid}))
    rows = results.load("mine").query("level == 'video' and metric == 'AUC'")
    assert set(rows["train_set"]) == {"bed-{seed}"} and set(rows["rule"]) == {"on bed-{seed}"}
    assert set(rows["seeds_list"]) == {"30, 31"}
    assert set(rows.loc[rows["within"], "test_set"]) == {"bed"}
    means = rows[rows["mean_over"] != ""].set_index("method")
    assert set(means["mean_over"]) == {f"{B}, {C}"}
    for method in ("all", "swap", "warp"):  # of one method, too: it may be unseen in training
        of_sets = rows[rows["test_set"].isin([B, C]) & (rows["method"] == method)]
        assert means["value"][method] == pytest.approx(of_sets["value"].mean())
