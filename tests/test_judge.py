"""Another tool's scores: exported, filled in, judged; by their page and results."""

import html
import re
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import planted
import pytest
import yaml
from dfnb.judge import judge
from sklearn.metrics import roc_auc_score

from dfnb import results, store, test_sets
from dfnb.data.frames import read_crop
from dfnb.files import report_folder
from dfnb.settings import DfnbError

A, B = planted.SETS
CODE = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
from dfnb.cli import app
app()
"""


def dfnb(folder, *words):
    """What a command prints, in a process of its own; its last line: whether it needed torch."""
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr


def videos(report, **wanted):
    """The results of a report that have these values; of videos, unless another level is named."""
    made = results.load(report).query("method == 'all'")
    for column, value in {"level": "video", **wanted}.items():
        made = made[made[column] == value]
    return made


def page_of(path):
    return html.unescape(path.read_text(encoding="utf-8")).replace("\u00a0", " ")


def scores_of(path, names, **options):
    """A file of scores of these planted test sets, by video and frame."""
    parts = []
    for name in names:
        table = planted.table(name, key=path.stem, **options)
        table["score"] = table["log_odds"]  # no probabilities
        parts.append(table[["video", "frame", "score"]].assign(test_set=name))
    pd.concat(parts).to_csv(path, index=False)
    return path


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A home with the reports ``hand`` and ``large``, and without any dataset."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    planted.write_all("hand")
    for name in planted.SETS:
        large = planted.table(name, clusters=100).assign(score=0.5)
        store.write_tool_scores("large", "nobody", name, large)
    return tmp_path


def test_export_fill_in_and_judge(own_home):
    printed = dfnb(own_home, "export", "smoke-a", "smoke-b", "theirs")
    assert "fill in the column score of theirs/frames.csv" in printed and "Traceback" not in printed
    table = pd.read_csv(own_home / "theirs" / "frames.csv")
    assert list(table) == ["test_set", "id", "video", "frame", "score"]
    assert table["id"].is_monotonic_increasing and table["score"].isna().all()
    content = (own_home / "theirs" / "frames.csv").read_text()
    ours = []  # the same frames by their own names, with the scores of whoever knows
    for name in ("smoke-a", "smoke-b"):
        frames = test_sets.load(name)
        assert not any(video.split("/")[-1] in content for video in frames["video"].unique())
        frames["test_set"] = name
        fingerprint = test_sets.metadata(name)["fingerprint"]
        ids = []
        for row in frames.itertuples():
            ids.append(store.exported_id(fingerprint, row.video, row.track, row.frame))
        first = frames.iloc[0]
        crop = read_crop(first["path"])
        exported = cv2.imread(str(own_home / "theirs" / "crops" / f"{ids[0]}.png"))
        np.testing.assert_array_equal(exported[..., ::-1], crop)
        ours.append(frames[["test_set", "video", "frame", "label"]].assign(id=ids))
    ours = pd.concat(ours)
    assert len(ours) == len(list((own_home / "theirs" / "crops").iterdir()))
    noise = np.random.default_rng(0).normal(size=len(ours)) / 2
    ours["score"] = 1 / (1 + np.exp(0.5 - ours["label"] + noise))
    filled = table.drop(columns="score").merge(ours[["id", "score"]])
    filled.to_csv(own_home / "exported.csv", index=False)
    ours[["test_set", "video", "frame", "score"]].to_csv(own_home / "named.csv", index=False)
    on = ["--on", "smoke-a", "--on", "smoke-b"]
    printed = dfnb(own_home, "judge", "exported.csv", "named.csv", *on)
    assert "judged-exported/index.html" in printed and printed.endswith("False\n")
    real = ours.query("label == 0").groupby("test_set")["score"]
    threshold = np.quantile(real.get_group("smoke-a"), 0.95, method="inverted_cdf")
    for name, rows in ours.groupby("test_set"):
        means = rows.groupby("video")[["label", "score"]].mean()
        auc = roc_auc_score(means["label"], means["score"])
        judged = videos("judged-exported", test_set=name, metric="AUC", minus="")
        assert judged["value"].tolist() == [pytest.approx(auc)] * 2
        assert videos("judged-exported", test_set=name, metric="Brier")["value"].notna().all()
        wanted = {"test_set": name, "metric": "false alarms", "level": "frame", "minus": ""}
        alarms = (real.get_group(name) > threshold).mean()
        judged = videos("judged-exported", **wanted)
        assert judged["value"].tolist() == [pytest.approx(alarms)] * 2
    text = page_of(report_folder("judged-exported") / "index.html")
    assert "Made by `dfnb judge`; the first test set, smoke-a, sets the threshold." in text
    assert 'id="claims"' not in text
    assert "exists, and may hold scores" in dfnb(own_home, "export", "smoke-a", "theirs")


def test_labels_and_paired_differences_come_from_a_report(stored):
    scores_of(stored / "mine.csv", [A, B, planted.KINDS])
    on = [f"--on={name}" for name in (A, B, planted.KINDS)]
    printed = dfnb(stored, "judge", "mine.csv", *on, "--report", "hand")
    assert printed.endswith("judged-mine/index.html\nFalse\n")
    text = page_of(report_folder("judged-mine") / "index.html")
    for name in (A, B):
        table = planted.table(name, key="mine")
        store.write_tool_scores("hand", "mine", name, table.assign(score=table["log_odds"]))
        for against in ("Baseline", "Locate and Verify"):
            wanted = {"detector": "mine", "minus": against, "test_set": name, "metric": "AUC"}
            columns = ["value", "low", "high", "collapsed_included"]
            judged, expected = (
                videos(report, **wanted)[columns] for report in ("judged-mine", "hand")
            )
            assert len(judged) and judged.to_numpy().tolist() == expected.to_numpy().tolist()
        auc = videos("judged-mine", detector="mine", minus="", metric="AUC", test_set=name)["value"]
        assert f"On {name}, mine has a video AUC of {auc.item():.2f} [" in text
        assert f"<td>{name}</td>" in text
        alarms = videos("judged-mine", metric="false alarms", level="frame", test_set=name)
        share = alarms.query("detector == 'mine' and minus == ''")["value"].item()
        assert f"mine calls this share of the real frames of {name} fake: {share:.3f}" in text
    assert text.index("mine has a video AUC") < text.index("mine calls this share")
    verdicts = re.findall(r"C \(([-\w ]+)\), mine minus Baseline is ([a-z ]+): ([-+.\d]+)", text)
    assert [test_set for test_set, _, _ in verdicts] == [A, "cross-dataset mean"]
    for _, verdict, difference in verdicts:
        wrong = "above zero" if difference.startswith("-") else "below zero"
        assert verdict in {"undecided", "above zero", "below zero"} - {wrong}
    assert "Its Brier score is unknown" in text
    assert videos("judged-mine", detector="mine", metric="Brier").empty  # no probabilities
    assert all(f'<a href="tables/{name}.md">' in text for name in ("differences", "kinds"))


def test_a_test_set_that_the_report_counts_as_within_stays_so(stored):
    profile = yaml.safe_dump({"grid": {"test_sets": [A, B], "within": [B]}})
    (report_folder("hand") / "profile.yaml").write_text(profile, encoding="utf-8")
    scores_of(stored / "mine.csv", [A, B])
    dfnb(stored, "judge", "mine.csv", f"--on={A}", f"--on={B}", "--report", "hand")
    judged = videos("judged-mine", detector="Baseline", minus="", metric="AUC", test_set=B)
    assert judged["within"].all() and len(judged)


@pytest.mark.parametrize("level", ["frame", "video"])
def test_half_a_percent_may_be_missing_and_two_percent_may_not(stored, level):
    path = scores_of(stored / "mine.csv", [A, B], clusters=100)
    whole = pd.read_csv(path)
    if level == "video":
        whole = whole.groupby(["test_set", "video"], as_index=False)["score"].mean()
    per_set = len(whole) // 2
    whole.drop(index=range(per_set // 200)).to_csv(path, index=False)
    text = page_of(judge([path], [A, B], "large"))
    missing = per_set // 200 * 600 // per_set
    assert f"mine.csv has no score of {missing} of 600 frames of {A}: they count with" in text
    whole.loc[: per_set // 50 - 1, "score"] = np.nan
    whole.to_csv(path, index=False)
    with pytest.raises(DfnbError, match=r"of 12 of 600 frames, such as .* and 1 % may be missing"):
        judge([path], [A, B], "large")
    assert judge([path], [B], "large").exists()


def test_a_constant_is_no_better_than_chance(stored):
    path = scores_of(stored / "flat.csv", [A, planted.KINDS])
    pd.read_csv(path).assign(score=0.3).to_csv(path, index=False)
    judge([path], [A, planted.KINDS], "hand")
    flat = videos("judged-flat", detector="flat", minus="", test_set=A).set_index("metric")
    assert flat.loc["AUC", ["value", "low", "high"]].tolist() == [0.5] * 3
    made = results.load("judged-flat").query("detector == 'flat' and method == 'swap − warp'")
    assert made[["value", "low", "high"]].to_numpy().tolist() == [[0.0] * 3]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.drop(columns="score"), r"mine\.csv is not valid as a table of scores"),
        (lambda table: table.drop(columns="test_set"), "KeyError: 'test_set'"),
        (lambda table: pd.concat([table, table]), "each video, or frame, once"),
        (lambda table: table.assign(label=2), "of 90 of 90 frames, such as of video"),
        (lambda table: table.assign(video="x" + table["video"]), "of 90 of 90 frames, such as of"),
    ],
)
def test_a_bad_file_is_explained_in_one_sentence(stored, change, problem):
    path = scores_of(stored / "mine.csv", [A])
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(DfnbError, match=problem) as error:
        judge([path], [A], "hand")
    assert "\n" not in str(error.value) and not report_folder("judged-mine").exists()
    with pytest.raises(DfnbError, match="the same name"):
        judge([path, path], [A])
    with pytest.raises(DfnbError, match="no finished dataset"):
        judge([path], [A])


def test_a_refused_file_does_not_cost_the_report_of_before(stored):
    path = scores_of(stored / "mine.csv", [A])
    page = judge([path], [A], "hand")
    for name in ("Baseline.csv", "<b>.csv"):
        other = path.with_name(name)
        other.write_bytes(path.read_bytes())
        with pytest.raises(DfnbError, match=r"name of a detector|title"):
            judge([path, other], [A], "hand")
    alike = path.with_name("mine_.csv")  # its report would take the place of judged-mine, too
    alike.write_bytes(path.read_bytes())
    for other in (path, alike):
        with pytest.raises(DfnbError, match="name of a detector of report judged-mine"):
            judge([other], [A], "judged-mine")
    assert page.exists()
