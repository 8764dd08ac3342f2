"""The page of planted reports, also with scores of other tools."""

import html
import re
import time

import pandas as pd
import planted
import pytest
from scipy.special import expit

from dfnb import figures, page, tables
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


def test_the_page_has_answers_leaderboard_claims_and_every_table(home):
    folder = home / "reports" / "hand"
    text = text_of(folder / "index.html")
    assert "Baseline has the highest mean video AUC on datasets not trained on." in text
    assert "Locate and Verify minus Baseline on the same videos: -" in text
    report = tables.Report("hand")
    for rows in page.leaderboard(report.results).values():
        best = tables.cell(rows[0]).replace("\u00a0", " ")
        assert f"<td class=best>{best}</td>" in text
    for path in folder.glob("tables/*.md"):
        assert f'href="tables/{path.name}"' in text
    for link in re.findall(r'(?:href|src)="([^"#]+)"', text):
        assert link.startswith("data:") or (folder / link).exists()


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


def test_a_leaderboard_ranks_and_says_who_cannot_be_told_apart(home):
    results = tables.Report("hand").results
    board = page.leaderboard(results)
    assert list(board) == ["cross-dataset mean", A, B]
    for test_set, (best, second) in board.items():
        assert best["value"] > second["value"] and best["tied"]
        chosen = tables.chosen(results, {"minus": "some"})
        [difference] = chosen[chosen["test_set"] == test_set].to_dict("records")
        assert second["against"]["value"] == difference["value"]
        assert second["tied"] == (difference["low"] <= 0 <= difference["high"])


def energies(**maps):
    """Rows of energy and chance of maps, each a value and a verdict."""
    rows = []
    for name, (value, verdict) in maps.items():
        for metric, of_metric in (("energy", value), ("chance", 0.2)):
            row = {"map": name, "metric": metric, "value": of_metric, "verdict": verdict}
            rows.append({**row, "detector": "a", "low": of_metric - 0.1, "high": 1.0})
    mask = {"detector": tables.MEAN_MASK, "map": "none", "metric": "energy", "value": 0.57}
    table = pd.DataFrame([*rows, {**mask, "verdict": "", "low": 0.5, "high": 0.6}])
    return table.assign(test_set=A, minus="", refused="")


def test_only_a_map_that_passed_is_shown_with_the_mean_mask_beside_it(home):
    maps = energies(best=(0.9, "fails"), second=(0.7, "passes"), random=(1, "passes"), new=(1, ""))
    card = page.best_map(maps, "a", home)
    assert card.number.startswith("0.70") and card.verdict == "decided" and not card.picture
    text = " ".join(card.sentences)
    assert "1 of 2 maps of a passed" in text and "share of second" in text
    assert "By chance it would be 0.200" in text and "looks at no picture, has 0.570" in text
    near = page.best_map(energies(second=(0.6, "passes")), "a", home)
    assert near.verdict == "undecided"  # above chance, not above the mean mask
    failed = page.best_map(energies(best=(0.9, "fails"), edges=(1, "passes")), "a", home)
    assert failed.number == "no map to trust" and "0 of 1 maps" in failed.sentences[0]
    assert page.best_map(maps, "b", home).number == "not measured"


def test_a_report_without_a_cross_dataset_mean_answers_nothing():
    cards = page.answers(None, {A: [{"mean_over": ""}]})
    assert [card.number for card in cards] == ["not measured"] * 2


def test_what_holms_correction_leaves_is_a_sentence():
    p = ["0.010", "0.300", "< 0.001", "–"]
    verdicts = ["supported", "supported, below material size", "undecided", "supported"]
    judged = pd.DataFrame({"verdict": verdicts, "p, Holm": p})
    assert page.corrected(judged).startswith("1 of 2 supported claims of papers keep p < .05")
    assert page.corrected(judged.tail(2)) == ""


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
        assert shown == "refused" and "Refused: only one of" in leaderboard
    else:
        assert f"{shown.replace(chr(0xA0), ' ')}</td>" in leaderboard
        ranked = page.leaderboard(report.results)[A]
        assert figures.strip(ranked, figures.looks(report.detectors)).axes


def test_a_tool_with_the_name_of_a_detector_is_refused(home):
    path = their("videos", "stolen", tool="baseline")
    with pytest.raises(DfnbError, match="baseline has the name of a detector"):
        page.rebuild("stolen")
    path.parent.rename(path.parent.with_name("their baseline"))
    assert page.rebuild("stolen").exists()
