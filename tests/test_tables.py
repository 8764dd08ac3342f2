"""Tables of a planted report: their numbers, made in another way, and their captions."""

import re

import numpy as np
import pandas as pd
import planted
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from dfnb import tables
from dfnb.store import Report

A, B = planted.SETS
MEAN = "cross-dataset mean"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the planted report ``hand``."""
    home = tmp_path_factory.mktemp("hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        planted.write_all("hand")
        yield home


@pytest.fixture
def report(home):
    return tables.Report("hand")


def video_auc(frames):
    frames = frames.assign(score=expit(frames["log_odds"]))
    videos = frames.groupby("video")[["label", "score"]].mean()
    return roc_auc_score(videos["label"], videos["score"])


def value(text):
    """The number before an interval, and its sign."""
    return float(re.match(r"[-+]?[\d.]+", text).group())


def test_the_main_table_has_the_mean_auc_of_the_seeds(report):
    table = report.table("cross_dataset")
    assert list(table.index) == ["Baseline", "Locate and Verify"]
    assert list(table.columns) == ["within", "across", "range", "collapsed"]
    matrix = report.table("cross_dataset_matrix")
    assert list(matrix.index) == [*planted.SETS, MEAN]
    assert matrix["Baseline"].tolist()[::2] == table.loc["Baseline", ["within", "across"]].tolist()
    for test_set in planted.SETS:
        of_seeds = [planted.table(test_set, 3, f"xception---{seed}") for seed in (0, 1)]
        mean = np.mean([video_auc(frames) for frames in of_seeds])
        assert value(matrix.loc[test_set, "Baseline"]) == pytest.approx(mean, abs=0.006)
    low, high = table.loc["Baseline", "range"].split(" – ")
    assert low == high and float(low) == pytest.approx(mean, abs=0.0006)  # of one other set
    assert list(table["collapsed"]) == ["0 of 2", "1 of 2"]


def test_differences_are_paired_and_corrected(report):
    table = report.table("differences")
    row = table.loc["Locate and Verify", "Baseline", MEAN]  # over B alone
    aucs = []
    for strength, run_id in ((1.5, "locate_and_verify---0"), (3, "xception---0")):
        aucs.append(video_auc(planted.table(B, strength, run_id)))
    assert value(row["difference"]) == pytest.approx(aucs[0] - aucs[1], abs=0.006)
    p = table["p"].str.removeprefix("< ").astype(float)
    adjusted = table["p, Holm"].str.removeprefix("< ").astype(float)
    assert (adjusted >= p).all() and (adjusted > p).any()
    high = float(re.search(r"(\S+)\]", row["difference"]).group(1))
    assert row["verdict"] == ("below zero" if high < 0 else "undecided")


@pytest.mark.parametrize(
    ("name", "index", "columns"),
    [
        ("within_dataset", ["Baseline", "Locate and Verify"], ["all", "swap", "warp"]),
        ("robustness", [("Baseline", A), ("Baseline", B)], ["JPEG", "all corruptions"]),
        ("kinds", ["Baseline"], ["swap", "warp"]),
        ("kinds_called", ["Baseline"], ["swap", "warp", "real"]),
        ("kind_differences", [("Baseline", "swap − warp")], ["difference", "seeds"]),
        (
            "locate_and_verify_quirks_differences",
            [("Locate and Verify, quirks: update", "Locate and Verify", A)],
            ["p", "verdict"],
        ),
        ("overview", [("Baseline", 0), ("Baseline", 1)], ["start", "images seen"]),
        ("lae_face_swap", ["LAE, face swap: main", "LAE, face swap: 0 %"], [A, MEAN]),
        ("lae_variants", ["face swap: main − LAE, face swap: 0 %"], ["within", "across"]),
        (
            "lae_face_swap_by_method",
            [(A, "swap", "LAE, face swap: main"), (A, "warp", "LAE, face swap: main")],
            ["balanced accuracy"],
        ),
    ],
)
def test_tables_are_the_choices_that_are_declared(report, name, index, columns):
    table = report.table(name)
    assert set(index) <= set(table.index) and set(columns) <= set(table.columns)
    names = {path.name for path in report.saved}
    assert names == {f"{name}.{suffix}" for suffix in ("csv", "html", "md", "tex", "txt")}


def test_a_page_has_eight_columns_at_most_and_the_csv_has_all(report, monkeypatch):
    for name in report.tables:
        table = report.table(name)
        if table.empty:
            continue
        path = report.store.folder / "tables" / f"{name}.md"
        shown = path.read_text(encoding="utf-8").splitlines()[0].strip("|").split("|")
        assert len(shown) <= 8, name
        assert list(pd.read_csv(path.with_suffix(".csv"))) == list(table.reset_index())
    displayed = []
    monkeypatch.setattr(tables, "display", displayed.append)
    report.show("differences")
    assert list(displayed[0]) == ["difference", "p, Holm", "verdict", "seeds"]
    assert "p" in report.table("differences")


def test_by_method_are_only_ablations_that_saw_some_methods(report):
    assert "lae_face_swap_by_method" in report.tables
    assert "locate_and_verify_quirks" in report.tables
    assert "locate_and_verify_quirks_by_method" not in report.tables


def test_captions_count_collapsed_runs(report):
    caption = tables.provenance(report.rows("cross_dataset"), "hand")
    assert "Collapsed runs, left out: 1 of 2 of Locate and Verify." in caption
    rows = report.rows("cross_dataset").assign(collapsed="2 of 2", detector="Baseline")
    caption = tables.provenance(rows, "hand")
    assert "All runs collapsed, and are shown: Baseline." in caption and "left out" not in caption


def test_the_overview_tells_versions_of_a_paper_apart(home):
    for seed, version in enumerate(("one", "two")):
        planted.write("versions", "xception", seed, parameters={"paper_source": version})
    assert tables.Report("versions").table("overview")["code"].tolist() == ["one", "two"]


def test_the_mean_mask_stands_beside_the_maps(report):
    row = report.table("attribution").loc[("Baseline", "shape", A)]
    assert value(row["energy in mask"]) == pytest.approx(0.7, abs=0.01)
    assert value(row["constant energy in mask"]) == pytest.approx(0.4, abs=0.01)


def test_a_map_fails_by_its_own_measures_and_not_by_differences(report):
    verdicts = report.table("attribution_sanity").loc["Baseline", "verdict"]
    assert dict(verdicts) == {"Grad-CAM": "passes", "shape": "fails", "edges": "passes"}
    results = report.results.drop(
        columns=["verdict", "published", "assumed", "source", "confidence"]
    )
    own = results[results["sanity"] & (results["map"] == "Grad-CAM")].assign(value=0.9)
    difference = tables.extended(pd.concat([results, own.assign(minus="LAE")]))
    assert set(difference.loc[difference["map"] == "Grad-CAM", "verdict"]) == {"passes"}
    failing = tables.extended(pd.concat([results, own]))
    assert set(failing.loc[failing["map"] == "Grad-CAM", "verdict"]) == {"fails"}


def test_means_take_the_place_of_the_sets_in_them(report):
    results = report.results
    assert list(tables.chosen(results, {})["test_set"].unique()) == [A, MEAN]
    assert list(tables.chosen(results, {"place": "any"})["test_set"].unique()) == [A, B, MEAN]


def test_captions_name_the_conditions_and_what_is_refused(report):
    chosen = tables.chosen(report.results, {"place": "any"})
    text = tables.provenance(chosen, "hand")
    assert "Trained on: synth-a. Seeds: 0; 0, 1." in text
    assert "Backbone and input: small 128 px; small 96 px. Started" in text
    units = "synth-b synth-b, 15 real and 30 fake videos, 15 clusters, JPEG"
    assert f"{units}, 2 frames per video on average, {planted.CROP}." in text
    assert "A video's score is the mean over its frames." in text
    assert "frames per video" not in report.caption("attribution")
    assert "Cross-dataset mean: synth-b." in text and "Refused" not in text
    refused = chosen.assign(refused="the reason", value=np.nan)
    assert "Refused: the reason." in tables.provenance(refused, "hand")


def test_what_a_report_has_nothing_for_is_one_sentence(report, monkeypatch):
    shown = []
    monkeypatch.setattr(tables, "display", shown.append)
    report.show("lae_inpainting_located")
    report.show("published_and_ours")
    assert [item.data for item in shown] == [tables.NOTHING.data] * 2
    assert report.figure("lae_inpainting") is tables.NOTHING and not report.saved
    report.show("cross_dataset")
    assert len(shown) == 3 and shown[2].shape[0] == 2


def test_a_table_is_saved_for_spreadsheets_markdown_and_latex(home):
    table = pd.DataFrame({"a_b": ["50 % & #1", None]}, index=pd.Index(["r", "s"], name="row"))
    files = tables.save(table, "hand", "hard", "A caption_with 5 %.")
    csv, markdown, tex, page, caption = (path.read_text(encoding="utf-8") for path in files)
    assert "<td>50 % &amp; #1</td>" in page
    assert csv == "row,a_b\nr,50 % & #1\ns,–\n" and caption == "A caption_with 5 %.\n"
    assert "| r     | 50 % & #1 |" in markdown and markdown.endswith("A caption_with 5 %.\n")
    assert tex.startswith("\\begin{tabular}") and r"50 \% \& \#1" in tex


def test_what_deviates_from_the_published_settings(home):
    run = Report("hand").detectors()[0].runs[0]
    table = tables.deviations(run)
    assert table.loc["backbone"].tolist() == ["large", "small"] and "lr" not in table.index
    assert table.loc["initial weights", "this run"] == "random weights"
