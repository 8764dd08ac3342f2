"""The store: a report reads what was written into it, and refuses unsound scores."""

import shutil

import numpy as np
import pandas as pd
import pytest
from dfnb.store import Condition, Report
from scipy.special import expit

from dfnb import store
from dfnb.files import read_metadata, report_folder
from dfnb.settings import DfnbError

KEYS = list(store.KEYS)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    return tmp_path


def record(seed=0, notebook="02_xception_baseline", title="Baseline", train_set="a"):
    return {
        "parameters": {"paper": title.lower(), "train_set": train_set, "seed": seed},
        "detector": {"title": title, "notebook": notebook},
        "weights_sha256": "w",
        "collapsed": False,
        "log": [{"epoch": 1, "loss_total": 0.7}],
        "validation_threshold": {"threshold": 0.75, "threshold_clusters": 9},
    }


def scores(seed=0, fingerprint="first"):
    """Scores of four real and four fake videos of three frames each, far beyond saturation, too."""
    table = pd.DataFrame({"video": np.repeat(list("abcdefgh"), 3), "track": 0})
    table["frame"] = np.tile([0, 5, 10], 8)
    table["cluster"] = "person " + table["video"]
    table["label"] = np.repeat([0, 1], 12)
    table["method"] = np.where(table["label"] == 1, "swap", "real")
    table["log_odds"] = np.random.default_rng(seed).normal(0, 20, 24)
    table.attrs = {"fingerprint": fingerprint, "compression": "c23", "contrasts": []}
    table.attrs["crop"] = ""
    return table


def write(run_id, run_record, roles=(("", ""),), tables=None, what=""):
    tables = {Condition("a"): scores()} if tables is None else tables
    return store.write_scores("demo", run_record, run_id, roles, tables, what)


def test_a_table_is_read_as_it_was_written():
    clean = scores(1)
    clean["iou"] = np.where(clean["label"] == 1, 0.5, np.nan)
    corrupted = scores(2).iloc[::-1].head(20)
    measures = scores()[KEYS][12:].assign(**{"deletion 10": 0.12344})
    measures.attrs = clean.attrs
    tables = {
        Condition("a"): clean,
        Condition("a", "JPEG", 3): corrupted,
        Condition("b", map="Grad-CAM"): measures,
    }
    write("x-1", record(seed=3), tables=tables)
    report = Report("demo")
    (detector,) = report.detectors()
    assert detector.runs[0].id == "x-1" and detector.runs[0].log["loss_total"].tolist() == [0.7]
    assert report.conditions(detector) == list(tables)
    for condition, written in tables.items():
        (table,) = report.read(detector, condition)
        frames = written[KEYS].reset_index(drop=True)
        pd.testing.assert_frame_equal(table[KEYS].astype(frames.dtypes), frames)
        assert table.attrs["fingerprint"] == "first" and table.attrs["compression"] == "c23"
        assert table.attrs["seed"] == 3 and table.attrs["threshold"] == 0.75
        if condition.map:
            assert table["deletion 10"].tolist() == [0.1234] * 12 and table["score"].isna().all()
            continue
        log_odds = written["log_odds"].to_numpy()
        np.testing.assert_allclose(table["log_odds"], log_odds, atol=store.LOG_ODDS_STEP / 2 + 1e-9)
        np.testing.assert_allclose(table["score"], expit(table["log_odds"]))
        assert table["log_odds"].nunique() == len(table)  # nothing ties because it is saturated
        assert ("iou" in table) == (condition == Condition("a"))
    with pytest.raises(DfnbError, match="has no scores of Baseline"):
        report.read(detector, Condition("a", "JPEG", 5))


def test_an_addition_is_read_with_the_run():
    write("x-1", record())
    more = {Condition("a", map="edges"): scores()[12:]}
    write("x-1", record(), tables=more, what="attribution")
    (detector,) = Report("demo").detectors()
    assert Condition("a", map="edges") in Report("demo").conditions(detector)
    write("x-1", record())  # scored once more
    assert len(Report("demo").conditions(detector)) == 2


def test_detectors_stand_in_the_order_of_notebooks_and_of_the_profile():
    lae = {"notebook": "03_lae", "title": "LAE"}
    write("lae-2", record(seed=10, **lae))
    write("lae-1", record(seed=2, **lae))
    write("x-1", record(), roles=[("", ""), ("loss", "CE")])
    write("lae-3", record(**lae), roles=[("masks", "0 %")])
    write("lae-4", record(**lae), roles=[("masks", "100 %")])
    write("x-2", record(), roles=[("baselines", "ResNet")])
    write("x-3", record(), roles=[], tables={})
    profile = "ablations:\n  03_lae:\n    masks: {100 %: {}, 0 %: {}}\n"
    (report_folder("demo") / "profile.yaml").write_text(profile, encoding="utf-8")
    detectors = Report("demo").detectors()
    assert [detector.name for detector in detectors] == [
        "Baseline",
        "ResNet",
        "LAE",
        "Baseline, loss: CE",
        "LAE, masks: 100 %",
        "LAE, masks: 0 %",
    ]
    assert [run.seed for run in detectors[2].runs] == [2, 10]
    write("x-4", record(train_set="b"))
    with pytest.raises(DfnbError, match="several training sets, a, b"):
        Report("demo").detectors()


def test_a_training_replaces_the_older_one_of_its_role_and_seed():
    for seed in (0, 1):
        write(f"old-{seed}", record(seed))
    write("old-1", record(1), roles=[], what="attribution")
    weights = store.weights_path(report_folder("demo"), "old-1")
    weights.parent.mkdir()
    weights.touch()
    write("variant", record(1), roles=[("loss", "CE")])
    write("other-train-set", record(1, train_set="b"))
    write("new", record(1))
    names = sorted(path.stem for path in report_folder("demo").glob("scores/*"))
    assert names == ["new", "old-0", "other-train-set", "variant"] and not weights.exists()
    assert read_metadata(store.score_path(report_folder("demo"), "new"))["roles"] == [["", ""]]


def test_what_a_killed_writer_left_is_not_read():
    path = write("x-1", record())
    path.with_name(".x-2.parquet.0123abcd.parquet").write_bytes(b"half a file")
    (detector,) = Report("demo").detectors()
    assert [run.id for run in detector.runs] == ["x-1"]


def test_another_version_of_a_test_set_is_refused():
    write("x-1", record())
    second = {Condition("a"): scores(fingerprint="second")}
    with pytest.raises(DfnbError, match=r"a\.parquet is of another version of a; move"):
        write("x-2", record(1), tables=second)
    for path in report_folder("demo").glob("test_sets/*.parquet"):
        path.unlink()
    write("x-2", record(1), tables=second)
    report = Report("demo")
    with pytest.raises(DfnbError, match="the scores of x-1 are of another version of a"):
        report.read(report.detectors()[0], Condition("a"))


@pytest.mark.parametrize("wrong", [{"log_odds": np.nan}, {"label": 0, "method": "real"}])
def test_nan_and_a_single_class_are_refused(wrong):
    write("x-1", record(), tables={Condition("a"): scores().assign(**wrong)})
    report = Report("demo")
    with pytest.raises(DfnbError, match="x-1"):
        report.read(report.detectors()[0], Condition("a"))


def their(table, folder="their tool"):
    """Scores of another tool, as a report reads them."""
    path = report_folder("demo") / "other" / folder / "a.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    report = Report("demo")
    tool = report.detectors()[-1]
    assert (tool.name, tool.runs, report.conditions(tool)) == (folder, (), [Condition("a")])
    return report.read(tool, Condition("a"))[0]


def test_scores_of_another_tool_are_read_per_frame_and_per_video():
    write("x-1", record())
    ours = scores().assign(score=0.3)
    per_frame = their(ours[["video", "track", "frame", "label", "score"]])
    pd.testing.assert_frame_equal(per_frame[KEYS].astype(ours[KEYS].dtypes), ours[KEYS])
    assert per_frame.attrs["seed"] is None and per_frame.attrs["fingerprint"] == "first"
    videos = ours.drop_duplicates("video")[["video", "label", "score"]]
    per_video = their(videos.assign(score=range(8)))
    assert per_video["frame"].tolist() == ours["frame"].tolist()
    means = per_video.groupby("video", observed=True)["score"]
    assert means.max().equals(means.min()) and means.ngroups == 8
    exported = videos["video"].map(lambda video: store.exported_id("first", video))
    unnamed = their(videos[["score"]].assign(video=exported, score=30.0))
    assert unnamed[["label", "video"]].equals(per_frame[["label", "video"]])
    unsound = [
        (videos.iloc[1:], "such as of video a with label 0"),
        (videos.replace({"video": {"c": "unknown"}}), "such as of video c"),
        (videos.assign(label=1 - videos["label"]), "of 24 of 24 frames, such as of video a"),
        (videos.drop(columns="score"), "needs the columns video and score"),
        (videos.assign(score="high"), "could not convert string to float"),
        (pd.concat([videos, videos]), "each video, or frame, once"),
    ]
    for table, problem in unsound:
        with pytest.raises(DfnbError, match=problem) as error:
            their(table)
        assert "\n" not in str(error.value)
    with pytest.raises(DfnbError, match="baseline has the name of a detector"):
        their(videos, folder="baseline")
    shutil.move(report_folder("demo") / "other" / "baseline", report_folder("demo") / "other" / "b")
    unknown = report_folder("demo") / "other" / "b" / "nowhere.csv"
    unknown.touch()
    with pytest.raises(DfnbError, match="has the name of no test set of this report"):
        Report("demo").detectors()
