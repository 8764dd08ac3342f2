"""Other tools' scores: what of a CSV is read and what is refused, and how they are judged."""

import re
import subprocess
import sys

import nbformat
import pandas as pd
import planted
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss, roc_auc_score

from dfnb import report
from dfnb.checks import DfnbError
from dfnb.cli import app
from dfnb.files import report_folder
from dfnb.report import judging, other_tools
from dfnb.store.reports import write_scores
from dfnb.store.scores import Condition

A, B = planted.SETS
OWN = "video,label,score\na,0,.1\nb,1,.9\nc,0,.3\nd,1,.2\n"


@pytest.fixture(autouse=True)
def home(empty_home):
    """A home with the report ``hand``, and without any dataset."""
    planted.write("hand", "xception")


def their(path, names=(A,), by="frame"):
    """A CSV with scores of these test sets, by video and frame or by video; no probabilities."""
    parts = []
    for name in names:
        table = planted.table(name, key=path.stem).assign(test_set=name)
        parts.append(table[["test_set", "video", "frame", "label", "log_odds"]])
    table = pd.concat(parts).rename(columns={"log_odds": "score"})
    if by == "video":
        table = table.groupby(["test_set", "video", "label"], as_index=False)["score"].mean()
    table.to_csv(path, index=False)
    return path


def own(path, content=OWN):
    """A CSV that has its own labels."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def judge(monkeypatch, capsys):
    """What ``dfnb judge`` prints, by lines; and the status with which it ends."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dfnb", "judge", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            app()
        return capsys.readouterr().out.splitlines(), end.value.code

    return run


def test_the_command_and_the_notebook_show_the_same_sections(tmp_path, judge, checkout):
    cells = nbformat.read(checkout / "notebooks" / f"{judging.NOTEBOOK}.ipynb", 4).cells
    headings = [re.match("## (.*)", cell.source) for cell in cells]
    shown = [re.search(r"judging\.(\w+)\(scores\)", cell.source) for cell in cells]
    headings = [found[1] for found in headings if found]
    assert headings == [*judging.SECTIONS]
    names = [function.__name__ for function in judging.SECTIONS.values()]
    assert [found[1] for found in shown if found] == names
    lines, _ = judge(own(tmp_path / "mine.csv"))
    assert [line[3:] for line in lines if line.startswith("## ")] == headings
    assert "Metrics of videos" in lines and not any("IPython" in line for line in lines)


# ---------------------------------------------------------------- with labels of a test set


def test_scores_are_those_of_the_frames_or_videos_of_the_test_sets(tmp_path):
    paths = [their(tmp_path / name, [A, B]) for name in ("Their tool.csv", "other.csv")]
    paths.append(their(tmp_path / "by video.csv", [A, B], "video"))
    frames, _ = other_tools.scored_frames(paths, [A, B], "hand")
    assert frames["detector"].unique().tolist() == ["Their tool", "other", "by video"]
    frames = frames[frames["test_set"] == B]
    of_frames = frames[frames["detector"] == "other"]
    expected = planted.table(B, key="other")
    assert of_frames["score"].tolist() == pytest.approx(expected["log_odds"].tolist())
    assert of_frames["cluster"].tolist() == expected["cluster"].tolist()
    of_videos = frames[frames["detector"] == "by video"].pivot(
        index="video", columns="frame", values="score"
    )
    assert of_videos.size == 90 and (of_videos.nunique(axis=1) == 1).all()


def test_differences_from_a_detector_are_those_on_the_same_videos(tmp_path, judge):
    path = their(tmp_path / "mine.csv")
    pd.read_csv(path)[10:].to_csv(path, index=False)
    lines, _ = judge(path, "--on", A, "--report", "hand", "--missing", "drop")
    frames, _ = other_tools.scored_frames([path], [A], "hand", "drop")
    both = frames.merge(
        report.scores("hand", level="frame"), on=other_tools.FRAME, suffixes=("", "_hand")
    )
    both = both.groupby(["video", "label"], as_index=False)[["score", "score_hand"]].mean()
    aucs = [roc_auc_score(both["label"], both[name]) for name in ("score", "score_hand")]
    (row,) = [line for line in lines if line.startswith("mine     Baseline")]
    assert len(frames) == 80 and f"{aucs[0] - aucs[1]:+.2f}" in row


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": [1] * 90}, "for 30 of 90 frames, such as of video real/0, which has 0"),
        ({"test_set": "SYNTH-A"}, "no row of the test set synth-a; known are SYNTH-A"),
        ({"test_set": "synth-a1"}, r"set synth-a; did you mean synth-a1\?"),
        ({"video": "x"}, "has 88 videos or frames twice"),
        ({"frame": range(90)}, "no score of 88 of 90 frames"),
    ],
)
def test_a_file_that_does_not_fit_the_test_set_is_explained(tmp_path, change, problem):
    path = their(tmp_path / "mine.csv")
    pd.read_csv(path).assign(**change).to_csv(path, index=False)
    with pytest.raises(DfnbError, match=problem):
        other_tools.scored_frames([path], [A], "hand")


def test_a_blank_frame_is_frame_0_and_no_frame_has_two_scores(tmp_path):
    path = their(tmp_path / "mine.csv")
    table = pd.read_csv(path)
    expected, _ = other_tools.scored_frames([path], [A], "hand")
    blank = table["frame"].mask(table["frame"] == 0)
    more = table.head(3).assign(frame=[0, 5, 7])  # the first two again, and an unknown frame
    both = pd.concat([table.assign(frame=blank), more])
    both.to_csv(path, index=False)
    frames, remarks = other_tools.scored_frames([path], [A], "hand")
    pd.testing.assert_frame_equal(frames, expected)
    assert remarks[-1] == "mine has 1 rows of other videos or frames, which are left out."
    both.assign(score=range(93)).to_csv(path, index=False)
    with pytest.raises(DfnbError, match=r"has 2 videos or frames twice, .* real/0 in line 92"):
        other_tools.scored_frames([path], [A], "hand")


@pytest.mark.parametrize(
    ("other", "names", "source", "problem"),
    [
        ("mine", [A], "hand", "mine.csv has the name of another detector; rename it"),
        ("Baseline", [A], "hand", "Baseline.csv has the name of another detector; rename it"),
        ("other", [], "hand", "say by --on which test sets"),
        ("other", [A], "", "no finished dataset"),
        ("other", ["nowhere"], "hand", r"there is no .*nowhere\.parquet"),
    ],
)
def test_names_that_mean_nothing_or_two_things_are_refused(tmp_path, other, names, source, problem):
    paths = [their(tmp_path / f"{name}.csv") for name in ("mine", other)]
    with pytest.raises(DfnbError, match=problem):
        other_tools.scored_frames(paths, names, source)


def test_a_tool_has_its_own_scores_alone():
    tables = {Condition(A): planted.table(A)}
    for name in ("tool", "tool.2"):
        write_scores("hand", name, tables, planted.metadata(tables), threshold={})
    shown = report.scores("hand")["detector"].value_counts()
    assert shown["tool"] == shown["tool.2"] == 45


# ---------------------------------------------------------------- with labels of their own


def test_files_with_labels_are_judged_without_a_dataset_and_without_torch(tmp_path):
    rows = planted.table(A, clusters=30).assign(score=lambda table: expit(table["log_odds"]))
    rows.to_csv(tmp_path / "mine.csv", index=False)
    rows.assign(score=1 - rows["score"]).drop(columns="label").to_csv(tmp_path / "b.csv")
    code = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
from dfnb.cli import app
app()
"""
    words = ["judge", "mine.csv", "b.csv", "--over-frames", "max"]
    command = [sys.executable, "-W", "error", "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("False\n"), done.stderr
    videos = rows.groupby(["video", "label"], as_index=False)["score"].max()
    auc = roc_auc_score(videos["label"], videos["score"])
    brier = brier_score_loss(videos["label"], videos["score"])
    assert f"On own labels, mine has an AUC of {auc:.2f}\u00a0[" in done.stdout
    assert f" {brier:.3f}\u00a0[" in done.stdout and "below one half: the sign" in done.stdout
    saved = {path.stem for path in report_folder("judged-mine").glob("tables/*.csv")}
    assert saved == {"calibration", "called_fake", "differences", "judged", "methods"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OWN, "probabilities"),
        ("\ufeffid;Label;SCORE\na;REAL;0,1\nb;Fake;0,9\nc;0.0;0,3\nd;1.0;0,2", "probabilities"),
        ('score\tlabel\tvideo\n\n.1\t0\t"a\tb"\n.9\t1\tb\n.3\t0\t01\n.2\t1\t1', "probabilities"),
        (f"{OWN} a , 0 ,.10,,\n".replace("score", "score,,"), "probabilities"),
        (OWN.replace(".9", "1.0000001").replace(".1", "-1e-9"), "probabilities"),
        (OWN.replace(".9", "1.00001"), "numbers of an unknown scale"),
        (OWN.replace(".", "50."), "numbers of an unknown scale"),
        (OWN.replace(".1", "-9e-1"), "numbers of an unknown scale"),
        (OWN.replace(",0,", ",False,").replace(",1,", ",TRUE,"), "probabilities"),
        (OWN.replace("video", "filename"), "probabilities"),
        ("video;label;score\na;0;-0,3\nb;1;4,321\nc;0;-0,1\nd;1;-0,2", "numbers"),
    ],
)
def test_the_same_scores_are_read_from_many_forms(tmp_path, text, kind):
    frames, remarks = other_tools.scored_frames([own(tmp_path / "mine.csv", text)])
    assert remarks[0].startswith("Without the column cluster, each video is a cluster of its own")
    (remark,) = remarks[1:]
    assert remark.startswith(f"The scores of mine are taken for {kind}")
    assert ("convert percent or logits to P(fake)" in remark) == ("numbers" in kind)
    assert frames["is_probability"].eq("probabilities" in kind).all()
    assert frames["label"].tolist() == [0, 1, 0, 1] and frames["cluster"].is_unique
    assert frames["score"].rank().tolist() == [1, 4, 3, 2]


def test_logits_are_ranked_but_have_no_brier_score_and_no_calibration(tmp_path):
    """Also where the scores of all videos are in [0, 1]: means of frames that are not."""
    scores = pd.DataFrame({"video": [*"aabbccdd"], "frame": [1, 2] * 4, "label": [0, 0, 1, 1] * 2})
    scores["score"] = [-0.5, 0.7, 0.5, 1.3, -0.2, 0.8, 0.1, 0.3]
    path = own(tmp_path / "mine.csv", scores.to_csv(index=False))
    loaded = judging.load([path])
    assert loaded.videos["score"].tolist() == pytest.approx([0.1, 0.9, 0.3, 0.2])
    assert "only ranked" in loaded.caption
    ranking = judging.metrics(loaded)
    assert [*ranking.table] == ["AUC", "EER"] and "an AUC of 0.75" in ranking.sentences[0]
    sentences = judging.calibration(loaded).sentences
    assert sentences == ["No detector has scores that are probabilities."]
    assert judging.false_alarms(loaded).sentences == ["The threshold of mine is 0.8."]


@pytest.mark.parametrize("reverse", [False, True])
def test_scores_of_the_other_class_are_told(tmp_path, reverse):
    rows = planted.table(A, clusters=30).assign(score=lambda table: expit(table["log_odds"]))
    scores = 1 - rows["score"] if reverse else rows["score"]
    rows.assign(score=scores).to_csv(tmp_path / "mine.csv", index=False)
    _, remarks = other_tools.scored_frames([tmp_path / "mine.csv"])
    assert any("its scores may be P(real)" in remark for remark in remarks) == reverse


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot be read as a table"),
        (OWN.encode("utf-16"), "cannot be read as a table; save it as CSV in UTF-8"),
        (OWN.replace("a", "ä").encode("latin-1"), "cannot be read as a table"),
        ("video,score", "has no rows"),
        ("video,label,score\na,0,0,1\nb,1,0,9", "cannot be read as a table"),
        ("video|label|score\na|0|.1", "has 0 columns video in place of one; .* commas, semicolons"),
        ("video,Video,label,score\na,a,0,.1", "has 2 columns video in place of one"),
        ("video,truth,score\na,0,.1\nb,1,.9", "no label in 2 of 2 rows; fill in .* --on"),
        ("video,label,score\na,spoof,.1", "line 2: label = 'spoof': write real or fake, or 0"),
        ("video,label,score\na,2,.1", "line 2: label = '2': write real or fake, or 0"),
        ("video,label,score,method\na,1,.1,Real", "line 2: a fake of the method real; give"),
        ('video,label,score\na,0,"1,5"\nb,1,2.5', "line 3: score = '2.5' can be read in two"),
        ("video;label;score\na;0;998\nb;1;4,321", "line 3: score = '4,321' can be read in two"),
        ("video;label;score\na;0;-1,234\nb;1;5", "line 2: score = '-1,234' can be read in two"),
        ("video;label;score\na;0;1,234,567\nb;1;5", "line 2: score = '1,234,567' can be read"),
        ("video,label,score\na,1,.1", ", test set own labels, lacks real or fake frames"),
        ("video,label,score\na,0,.1\n\nb,1,high", "line 4: score = 'high' is no finite number"),
        ("video,label,score\na,0,inf", "line 2: score = 'inf' is no finite number"),
        ("video,label,score\na, ,.1\nb,1,.9", "no label in 1 of 2 rows; fill in .* --on"),
        ("video,label,score\na,0,.1\nb,1,", "no score of 1 of 2 frames, such as of video b of own"),
        (f"{OWN}a,0,.2", "has 1 videos or frames twice, .* such as a in line 6; keep one row of"),
        (f"{OWN}a,1,.1", "has 1 videos or frames twice, .* such as a in line 6; keep one row of"),
        (f"{OWN},1,.1", ", test set own labels, has 1 rows with no video"),
        (OWN.replace(".3", "-1"), "has 1 scores of -1 among probabilities"),
        (OWN.replace(".3", "-1").replace(".9", ""), "has 1 scores of -1 among probabilities"),
        (OWN.replace(".9", "90%"), "line 3: score = '90%' is no finite number"),
        ("video,label,score,test_set\na,0,.1,x\nb,1,.9,", "line 3: the test_set is missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence_and_costs_no_earlier_tables(
    tmp_path, judge, content, problem
):
    path = own(tmp_path / "mine.csv")
    assert judge(path)[1] == 0
    kept = sorted(report_folder("judged-mine").rglob("*"))
    message = judge(own(path, content))[1]
    assert re.match(f"dfnb: {tmp_path}/mine.csv.*{problem}", message)
    assert "\n" not in message and "Error" not in message
    assert kept and sorted(report_folder("judged-mine").rglob("*")) == kept


def test_frames_are_averaged_where_the_first_file_scores_videos(tmp_path):
    videos = own(tmp_path / "videos.csv")
    rows = pd.DataFrame({"video": [*"abcdeabcde"], "frame": [1] * 5 + [2] * 5})
    rows["score"] = [0.2, 0.7, 0.3, 0.2, 0.5, 0.3, 0.8, 0.4, 0.3, 0.5]
    other = own(tmp_path / "frames.csv", rows.to_csv(index=False))
    frames, remarks = other_tools.scored_frames([videos, other])
    assert frames["score"][4:].tolist() == pytest.approx([0.25, 0.75, 0.35, 0.25])
    assert "frames has 2 rows of other videos or frames, which are left out." in remarks


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("drop", [0.1, 0.9, 0.2]), ("real", [0.1, 0.9, 0.1, 0.2]), ("fake", [0.1, 0.9, 0.9, 0.2])],
)
def test_missing_scores_are_counted_and_treated_as_asked(tmp_path, missing, expected):
    whole = own(tmp_path / "whole.csv")
    lacking = own(tmp_path / "mine.csv", OWN.replace(".3", ""))
    frames, remarks = other_tools.scored_frames([whole, lacking], missing=missing)
    assert frames.query("detector == 'mine'")["score"].tolist() == expected
    assert len(frames) == 2 * len(expected)  # the same videos of both
    assert remarks[-1].startswith("mine has no score of 1 of 4 frames, which ")


def test_a_test_set_without_any_score_cannot_be_filled_in(tmp_path):
    path = own(tmp_path / "mine.csv", "video,label,score\na,0,\nb,1,\n")
    sentence = "no score at all of one of its test sets .* write its scores, or leave"
    with pytest.raises(DfnbError, match=sentence):
        other_tools.scored_frames([path], missing="real")


def test_one_percent_of_the_scores_may_be_missing(tmp_path):
    rows = [f"{number},{number % 2},.{number}" for number in range(100, 397)]
    text = "\n".join(["video,label,score", *rows, "a,0,", "b,0,", "c,0,"])
    frames, remarks = other_tools.scored_frames([own(tmp_path / "mine.csv", text)])
    assert len(frames) == 297 and remarks[-1] == (
        "mine has no score of 3 of 300 frames, which are left out for all detectors."
    )
    with pytest.raises(DfnbError, match=r"no score of 4 of 301 frames, .* and 1 % of a test set"):
        other_tools.scored_frames([own(tmp_path / "mine.csv", f"{text}\nd,0,")])
