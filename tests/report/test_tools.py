"""Other tools' scores: what of a CSV is read, what is refused, and the report that is made."""

import pandas as pd
import planted
import pytest
import yaml

from dfnb import report
from dfnb.files import read_metadata, report_folder
from dfnb.report import tools
from dfnb.report.scores import FALSE_ALARM_RATE, NO_SEED, Condition, score_path, write_scores
from dfnb.settings import DfnbError

A, B = planted.SETS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home with the report ``hand``, and without any dataset."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    planted.write("hand", "xception")


def their(path, names=(A,), by="frame", **options):
    """A CSV with scores of these test sets, by video and frame or by video; no probabilities."""
    parts = []
    for name in names:
        table = planted.table(name, key=path.stem, **options).assign(test_set=name)
        parts.append(table[["test_set", "video", "frame", "label", "log_odds"]])
    table = pd.concat(parts).rename(columns={"log_odds": "score"})
    if by == "video":
        table = table.groupby(["test_set", "video", "label"], as_index=False)["score"].mean()
    table.to_csv(path, index=False)
    return path


def test_scores_by_frame_are_kept_and_the_report_is_one_of_a_tool(tmp_path):
    paths = [their(tmp_path / name, [A, B]) for name in ("Their tool.csv", "other.csv")]
    name = tools.judged(paths, [A, B], "hand")
    assert name == "judged-their-tool"
    assert [each.name for each in report.detectors(name)] == ["Their tool", "other"]
    frames = report.scores(name, "frame").query("detector == 'other' and test_set == @B")
    expected = planted.table(B, key="other")
    assert frames["score"].tolist() == pytest.approx(expected["log_odds"].tolist())
    assert frames["video"].tolist() == expected["video"].tolist()
    assert {*frames["seed"]} == {NO_SEED} and {*frames["place"]} == {B}
    # The threshold is that of the first test set.
    real = planted.table(A, key="other").query("label == 0")["log_odds"]
    threshold = read_metadata(score_path(report_folder(name), "other"))["threshold"]["threshold"]
    assert (real > threshold).sum() == int(FALSE_ALARM_RATE * len(real))
    profile = yaml.safe_load((report_folder(name) / "profile.yaml").read_text(encoding="utf-8"))
    assert profile == {"grid": {"test_sets": [A, B]}, "compared": "hand"}


def test_a_video_s_score_counts_for_its_frames(tmp_path):
    name = tools.judged([their(tmp_path / "mine.csv", by="video")], [A], "hand")
    scores = report.scores(name, "frame").set_index(["video", "frame"])["score"]
    assert len(scores) == 90 and (scores.unstack().nunique(axis=1) == 1).all()


def test_differences_from_a_detector_are_those_on_the_same_videos(tmp_path):
    name = tools.judged([their(tmp_path / "mine.csv")], [A], "hand")
    both = pd.concat([report.scores(name), report.scores("hand").query("test_set == @A")])
    number = report.measure(both, "AUC", "detector", minus="Baseline").iloc[0]
    frames = planted.table(A, key="mine").assign(score=lambda rows: rows["log_odds"])
    videos = frames.groupby(["video", "cluster", "label"], as_index=False)["score"].mean()
    about = {"detector": "mine", "seed": 0, "test_set": A, "collapsed": False, "method": ""}
    ours = report.scores("hand").query("test_set == @A")
    expected = report.measure(pd.concat([videos.assign(**about), ours]), "AUC", "detector")
    expected = expected.set_index("detector")["value"]
    assert number["value"] == pytest.approx(expected["mine"] - expected["Baseline"])
    assert 0 < number["error"] < 0.2 and number["seeds"] == 1


@pytest.mark.parametrize("level", ["frame", "video"])
def test_half_a_percent_may_be_missing_and_two_percent_may_not(tmp_path, level):
    table = planted.table(A, clusters=100).drop(columns="log_odds").assign(score=0.5)
    about = planted.metadata([Condition(A)])
    write_scores("large", "nobody", {Condition(A): table}, about, threshold={})
    path = their(tmp_path / "mine.csv", by=level, clusters=100)
    whole = pd.read_csv(path)
    whole.drop(index=range(len(whole) // 200)).to_csv(path, index=False)
    scores = report.scores(tools.judged([path], [A], "large"), "frame")["score"]
    given = scores[scores != scores.median()]
    assert len(scores) == 600 and scores.notna().all() and len(given) >= 590
    whole.loc[: len(whole) // 50 - 1, "score"] = None
    whole.to_csv(path, index=False)
    with pytest.raises(DfnbError, match=r"of 12 of 600 frames .* and 1 % may be missing"):
        tools.judged([path], [A], "large")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.drop(columns="score"), r"mine\.csv is not valid as a table of scores"),
        (lambda table: table.drop(columns="test_set"), "KeyError: 'test_set'"),
        (lambda table: table.assign(score="high"), "could not convert string to float"),
        (lambda table: pd.concat([table, table]), "each video, or frame, once"),
        (lambda table: table.assign(label=1 - table["label"]), "90 of 90 .* video real/0 with la"),
        (lambda table: table.assign(test_set="other"), "of 90 of 90 frames of synth-a, such as of"),
        (lambda table: table.assign(video="x" + table["video"]), "of 90 of 90 frames"),
    ],
)
def test_a_bad_file_is_explained_in_one_sentence_and_costs_no_earlier_report(
    tmp_path, change, problem
):
    path = their(tmp_path / "mine.csv")
    name = tools.judged([path], [A], "hand")
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(DfnbError, match=problem) as error:
        tools.judged([path], [A], "hand")
    assert "\n" not in str(error.value) and len(report.scores(name)) == 45


def test_names_that_would_be_mistaken_for_others_are_refused(tmp_path):
    path = their(tmp_path / "mine.csv")
    for other in ("baseline.csv", "mine_.csv", "<b>.csv"):
        alike = path.with_name(other)
        alike.write_bytes(path.read_bytes())
        with pytest.raises(DfnbError, match=r"name of another detector; rename it|use letters"):
            tools.judged([path, alike], [A], "hand")
    name = tools.judged([path], [A], "hand")
    with pytest.raises(DfnbError, match="name of another detector"):
        tools.judged([path], [A], name)
    with pytest.raises(DfnbError, match="no finished dataset"):
        tools.judged([path], [A])
    with pytest.raises(DfnbError, match=r"there is no .*nowhere\.parquet"):
        tools.judged([path], ["nowhere"], "hand")
