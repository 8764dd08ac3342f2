"""The page of planted reports, also with scores of other tools."""

import html
import re
import time

import planted
import pytest
from scipy.special import expit

from dfnb import page, tables
from dfnb.files import report_folder, sha256, write_bytes
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


def test_the_page_has_its_finding_the_leaderboard_and_every_table(home):
    folder = home / "reports" / "hand"
    text = text_of(folder / "index.html")
    assert "<h1>No detector is shown to generalise better than a plain classifier</h1>" in text
    assert text.index("<td>Baseline</td>") < text.index("<td>Locate and Verify</td>")
    looks = text[text.index("Where does it look?") : text.index('id="claims"')]
    assert "<td>Grad-CAM</td>" in looks and "shape" not in looks
    for name in ("cross_dataset", "cross_dataset_matrix", "kinds", "lae_variants"):
        assert f'src="figures/{name}.png"' in text
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


def test_the_title_names_the_papers_whose_claim_is_supported(home):
    report = tables.Report("hand")
    report.judged["verdict"] = "supported, fragile"
    # Those without a detector here have no title.
    papers = "Locate and Verify, exposing_the_deception, self_blended_images"
    better = "generalise better than a plain classifier"
    assert page.finding(report) == f"Shown to {better}: {papers}"


def test_the_leaderboard_is_ranked_and_has_what_a_training_did_not_see(home):
    for paper, strength in (("xception", 1), ("lae", 3)):
        for role in (("", ""), ("without warp", "main")):
            planted.write("unseen", paper, 0, role, strength)
    report = tables.Report("unseen")
    table = page.leaderboard(report)
    assert list(table.index) == ["LAE", "Baseline"]
    assert list(table.columns[:3]) == ["within", "across", "unseen: warp"]
    assert list(table["unseen: warp"] != "–") == [True, False]  # only LAE saw swap alone
    ranges = report.table("cross_dataset")["range"]  # of the main detectors
    assert table["range"].to_dict() == ranges.to_dict()


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
    write_bytes(report_folder(kind) / "figures" / "scores.txt", b"What moved.\n")
    text = text_of(page.rebuild(kind))
    leaderboard = text[text.index('id="leaderboard"') : text.index('id="claims"')]
    assert 'src="figures/scores.png"' in leaderboard and "<p>What moved." in leaderboard
    report = tables.Report(kind)
    shown = report.table("cross_dataset").loc["Their tool", A]
    if kind == "unknown":
        assert shown == "–" and f"reports/unknown/other/Their tool/{A}.csv has no" in leaderboard
        assert str(home) not in text
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
