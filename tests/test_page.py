"""The page of planted reports, also with scores of other tools."""

import html
import re
import time

import planted
import pytest
from scipy.special import expit

from dfnb import page, tables
from dfnb.files import report_folder, sha256
from dfnb.settings import DfnbError

A, B = planted.SETS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the planted report ``hand`` and its page."""
    home = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        planted.write_all("hand")
        page.rebuild("hand")
        yield home


def text_of(path):
    text = html.unescape(path.read_text(encoding="utf-8"))
    return text.replace("\u00a0", " ")


def test_the_page_has_an_answer_the_leaderboard_and_every_table(home):
    folder = home / "reports" / "hand"
    text = text_of(folder / "index.html")
    assert "Baseline is first" in text
    assert text.index("<th>Baseline</th>") < text.index("<th>Locate and Verify</th>")
    looks = text[text.index("Where does it look?") : text.index('id="claims"')]
    assert "<th>shape</th>" in looks and "<td>fails</td>" in looks
    for path in folder.glob("tables/*.md"):
        assert f'href="tables/{path.name}"' in text
    for link in re.findall(r'(?:href|src)="([^"#]+)"', text):
        assert (folder / link).exists()


def test_the_same_scores_give_the_same_bytes_anywhere(home, monkeypatch):
    folder = home / "reports" / "hand"

    def hashes():
        return {path.name: sha256(path) for path in folder.rglob("*.*") if path.is_file()}

    before = hashes()
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    page.rebuild("hand")
    monkeypatch.undo()
    time.tzset()
    monkeypatch.setenv("DFNB_HOME", str(home))
    assert hashes() == before


def test_the_answer_names_only_those_that_cannot_be_told_apart(home):
    report = tables.Report("hand")
    report.results = report.results.assign(low=-0.2, high=-0.1, seeds=3)
    assert page.answer(report, "Baseline").endswith("from all others exclude zero.")
    report.results = report.results.assign(seeds=1)
    assert "with one seed each" in page.answer(report, "Baseline")
    report.results = report.results[report.results["mean_over"] == ""]
    assert "compared with no other" in page.answer(report, "Baseline")


def their(kind, profile, tool="Their tool"):
    """A report of one detector, and another tool's scores of one test set; returns their file."""
    for seed in (0, 1):
        planted.write(profile, "xception", seed)
    frames = planted.table(A, 1, "tool")[["video", "frame", "label", "log_odds"]]
    frames = frames.rename(columns={"log_odds": "score"})
    frames["score"] = expit(frames["score"])
    if kind != "frames":
        frames = frames.groupby("video", as_index=False)[["label", "score"]].mean()
    if kind == "unknown":
        frames["video"] = frames["video"].replace("real/0", "nobody/0")
    path = report_folder(profile) / "other" / tool / f"{A}.csv"
    path.parent.mkdir(parents=True)
    frames.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", ["videos", "frames", "unknown"])
def test_the_page_is_made_with_the_scores_of_another_tool(home, kind):
    their(kind, kind)
    text = text_of(page.rebuild(kind))
    leaderboard = text[text.index('id="leaderboard"') : text.index('id="claims"')]
    report = tables.Report(kind)
    shown = report.table("cross_dataset").loc["Their tool", A]
    if kind == "unknown":
        assert shown == "–" and "Refused: only one of" in leaderboard
    else:
        assert f"{shown.replace(chr(0xA0), ' ')}</td>" in leaderboard


def test_a_report_without_main_detectors_has_a_page(home):
    planted.write("variants", "lae", 0, ("face swap", "main"))
    planted.write("variants", "lae", 0, ("face swap", "0 %"))
    assert "This report has no main detectors." in text_of(page.rebuild("variants"))
    assert tables.overview([]).empty


def test_a_tool_with_the_name_of_a_detector_is_refused(home):
    path = their("videos", "stolen", tool="baseline")
    with pytest.raises(DfnbError, match="baseline has the name of a detector"):
        page.rebuild("stolen")
    path.parent.rename(path.parent.with_name("their baseline"))
    assert page.rebuild("stolen").exists()
