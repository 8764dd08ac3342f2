"""Score files: a report reads what was written into it, and refuses what does not fit."""

import numpy as np
import pandas as pd
import planted
import pytest
from scipy.special import expit

from dfnb.files import read_metadata, report_folder, write_bytes
from dfnb.report.scores import (
    FEWEST_VALIDATION,
    GAIN,
    KEYS,
    NO_SEED,
    Condition,
    check_scores,
    detectors,
    maps,
    remove_replaced,
    score_path,
    scores,
    threshold_of,
    thresholds,
    weights_path,
    write_scores,
)
from dfnb.settings import DfnbError

A, B = planted.SETS


pytestmark = pytest.mark.usefixtures("empty_home")


def profile(text):
    write_bytes(report_folder("demo") / "profile.yaml", text.encode())


def names():
    return [detector.name for detector in detectors("demo")]


def test_frames_are_read_as_they_were_written():
    far = planted.table(A, 1.5, "far").iloc[::-1].assign(log_odds=np.linspace(20, 40, 90))
    far["pixel_ap"] = np.where(far["label"] == 1, 0.5, np.nan)
    far["constant pixel_ap"] = 0.25
    more = {Condition(B, "JPEG", 3): far, Condition(A, map="CAM"): planted.measured(A, energy=0.3)}
    run_id = planted.write("demo", "xception", seed=3, more=more, collapsed=True)
    table = scores("demo", "frame")
    facts = {"detector": "Baseline", "paper": "xception", "ablation": "", "seed": 3}
    for name, value in {**facts, "collapsed": True, "train_set": A, "map": ""}.items():
        assert (table[name] == value).all()
    assert len(table) == 3 * 90
    rows = table[table["corruption"] == "JPEG"]
    assert (rows["severity"] == 3).all() and (rows["test_set"] == B).all()
    far = far.iloc[::-1]  # the rows are in the order of the test set
    for name in [*KEYS, "pixel_ap"]:
        np.testing.assert_array_equal(rows[name].tolist(), far[name].tolist())
    np.testing.assert_array_equal(rows[GAIN], far["pixel_ap"] - 0.25)
    np.testing.assert_allclose(rows["score"], expit(far["log_odds"]), atol=1e-9)
    measures = maps("demo")
    assert len(measures) == 60 and not measures["sanity"].any()
    assert measures["energy"].between(0.2, 0.4).all() and {*measures["map"]} == {"CAM"}
    (detector,) = detectors("demo")
    assert detector.runs[0].id == run_id and detector.runs[0].log["loss_cls"].tolist() == [1, 0.5]


def test_a_video_has_the_mean_probability_of_its_frames():
    planted.write("demo", "xception")
    table = scores("demo").query("test_set == @A").set_index("video")["score"]
    frames = planted.table(A, 1.5, "xception---0").assign(p=lambda rows: expit(rows["log_odds"]))
    means = frames.groupby("video")["p"].mean()
    np.testing.assert_allclose(table, means[table.index], atol=1e-6)
    assert table.index.is_unique and len(table) == 45


def test_places_follow_the_profile():
    sets = ["home", "c", "far", planted.KINDS]
    more = {Condition(name): planted.table(name) for name in sets}
    planted.write("demo", "xception", more=more, train_set="bed-{seed}")
    averaged = f"[{A}, c, far, {planted.KINDS}]"
    profile(f"grid: {{test_sets: {averaged}, within: [home], not_averaged: [far]}}")
    table = scores("demo")
    places = table.groupby("test_set", observed=True)["place"].unique().explode().to_dict()
    expected = {A: "across", B: B, "home": "within", "c": "across", "far": "far"}
    assert places == {**expected, planted.KINDS: "kinds"}


def test_detectors_stand_in_the_order_of_notebooks_and_names():
    planted.write("demo", "lae", 10)
    planted.write("demo", "lae", 2)
    planted.write("demo", "lae", role=("masks", "0 %"))
    planted.write("demo", "lae", role=("masks", "100 %"))
    planted.write("demo", "xception")
    planted.write("demo", "xception", role=("baselines", "ResNet"))
    tool = planted.table(A).assign(score=0.5).drop(columns="log_odds")
    about = planted.metadata([Condition(A)])
    write_scores("demo", "tool", {Condition(A): tool}, about, threshold={})
    expected = ["Baseline", "ResNet", "LAE", "LAE, masks: 0 %", "LAE, masks: 100 %", "tool"]
    assert names() == expected
    assert [run.seed for run in detectors("demo")[2].runs] == [2, 10]
    table = scores("demo")
    assert table["detector"].cat.categories.tolist() == expected
    assert {*table.loc[table["detector"] == "tool", "seed"]} == {NO_SEED}
    planted.write("demo", "xception", 1, train_set="b")
    with pytest.raises(DfnbError, match="several training sets, b, synth-a"):
        names()


def test_what_a_notebook_adds_is_read_with_the_run():
    run_id = planted.write("demo", "xception")
    added = {Condition(A, map="edges"): planted.measured(A, energy=0.5)}
    write_scores("demo", f"{run_id}@attribution", added, planted.metadata(added))
    assert names() == ["Baseline"] and (maps("demo")["map"] == "edges").all()
    planted.write("demo", "xception")  # scored once more
    assert len(maps("demo")) == 60


def test_a_training_replaces_the_older_one_of_its_role_and_seed():
    folder = report_folder("demo")
    old = planted.write("demo", "xception", 1)
    other_seed = planted.write("demo", "xception", 0)
    variant = planted.write("demo", "xception", 1, ("loss", "CE"))
    added = {Condition(A, map="edges"): planted.measured(A, energy=0.5)}
    write_scores("demo", f"{old}@attribution", added, planted.metadata(added))
    write_bytes(weights_path(folder, old), b"weights")
    record = planted.record("xception", 1)
    facts = {"record": record.model_dump(mode="json"), "roles": [("", "")]}
    write_scores("demo", "new", {}, {}, **facts)
    remove_replaced("demo", "new")
    assert {path.stem for path in folder.glob("scores/*")} == {"new", other_seed, variant}
    assert not weights_path(folder, old).exists()
    assert read_metadata(score_path(folder, "new"))["roles"] == [["", ""]]


def test_another_version_of_a_test_set_is_refused():
    planted.write("demo", "xception")
    tables = {Condition(A): planted.table(A)}
    about = planted.metadata(tables)
    about[A]["fingerprint"] = "second"
    with pytest.raises(DfnbError, match=rf"{A}\.parquet is of another version of {A}; move"):
        write_scores("demo", "other", tables, about)
    for path in report_folder("demo").glob("test_sets/*.parquet"):
        path.unlink()
    write_scores("demo", "other", tables, about, threshold={})
    with pytest.raises(DfnbError, match=rf"xception.*parquet is of another version of {A}"):
        scores("demo")


def test_what_a_killed_writer_left_is_not_read_and_an_empty_report_says_so():
    with pytest.raises(DfnbError, match="has no scores of a test set; run `dfnb run demo` first"):
        scores("demo")
    run_id = planted.write("demo", "xception")
    for folder in ("scores", "test_sets"):
        write_bytes(report_folder("demo") / folder / f".{run_id}.parquet.01.parquet", b"half")
    assert names() == ["Baseline"] and len(scores("demo"))
    assert maps("demo").empty and {"map", "sanity", "detector"} <= {*maps("demo")}


def test_thresholds_rest_on_enough_people_or_have_no_replicates():
    people = np.arange(200).repeat(2).astype(str)
    frames = pd.DataFrame({"cluster": people, "label": 0, "score": np.arange(400) / 400})
    fakes = frames.head(50).assign(label=1, score=1.0)
    many = threshold_of(pd.concat([frames, fakes]).sample(frac=1, random_state=0))
    threshold = many["threshold"]
    assert threshold == 379 / 400 and many["threshold_clusters"] == 200
    assert (frames["score"] > threshold).mean() == 0.05
    few = {**many, "threshold_clusters": FEWEST_VALIDATION - 1}
    planted.write("demo", "xception", 0, validation_threshold=many)
    planted.write("demo", "xception", 1, validation_threshold=few)
    limits = thresholds("demo")
    replicates = many["threshold_replicates"]
    assert len(replicates) == 200 and min(replicates) < threshold < max(replicates)
    assert limits["Baseline", 0].tolist() == [threshold, *5 * replicates]  # in turn
    assert limits["Baseline", 1].tolist() == [threshold]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": None}, "90 rows with no video, track, frame, cluster"),
        ({"score": np.nan}, "90 rows with a score that is NaN .* video real/0, track 0, frame 0"),
        ({"score": 1.2}, r"outside \[0, 1\]"),
        ({"label": 2}, "90 rows with a label that is not 0 real and 1 fake"),
        ({"frame": 0}, "occurs twice"),
        ({"cluster": lambda rows: rows.index}, "a video of more than one label or cluster"),
        ({"label": 1, "method": "swap"}, "lacks real or fake frames"),
    ],
)
def test_bad_scores_are_refused_in_one_sentence(changes, message):
    table = planted.table(A).assign(score=0.5).assign(**changes)
    with pytest.raises(DfnbError, match=message) as error:
        check_scores(table, "the scores of x")
    assert str(error.value).startswith("the scores of x ") and "\n" not in str(error.value)
