"""Tables of a planted report: which numbers they have, and how these are printed."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import planted
import pytest

import notebooks
from dfnb import results
from dfnb.results import tables
from dfnb.statistics import NAN
from dfnb.store.scores import Condition
from facesets.checks import DfnbError
from facesets.files import report_folder

A, B = planted.SETS


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(tmp_path_factory.mktemp("hand")))
        planted.write_all("hand")
        yield


@pytest.fixture(scope="module")
def scores():
    return results.scores("hand")


def test_differences_wholly_outside_a_band_are_named():
    rows = {"Wide": (0.021, 0.05), "LAE": (-0.05, -0.021), "Near": (-0.019, 0.5)}
    table = pd.DataFrame.from_dict(rows, "index", columns=["low", "high"])
    table = table.rename_axis("detector").reset_index()
    table = table.assign(place="cross-dataset", minus="A", metric="AUC", seeds=5)
    two = pd.concat([table, table.assign(detector="B", place="old", seeds=1)])
    both = "Wide and Near are more than 0.02 above A; LAE is more than 0.02 below A in AUC."
    table.loc[2, "low"] = 0.03
    assert tables.finding(table, 0.02) == f"Cross-dataset, {both}"
    nothing = "no detector is shown to differ from A by more than 0.6 in AUC"
    two = two[two["detector"].isin(["Wide", "B"])]
    once = f"Cross-dataset, {nothing}. On old, {nothing} (one training each)."
    assert tables.finding(two, 0.6) == once and tables.finding(table.head(0), 0.02) == ""


def test_numbers_as_tables_print_them():
    assert tables.cell(0.8531, 0.8123, 0.8887) == "0.853\u00a0[0.812,\u00a00.889]"
    assert tables.cell(0.1, -0.05, 0.25, "Baseline") == "+0.10\u00a0[-0.05,\u00a0+0.25]"
    assert tables.cell(0.5, NAN, NAN) == "0.500" and tables.cell(NAN, NAN, NAN) == "–"


def test_the_main_table_is_in_the_order_of_detectors_and_places(scores):
    numbers = tables.by_place(tables.main(scores))
    table = tables.pivot(numbers)
    assert table.index.tolist() == ["Baseline", "Locate and Verify"]
    assert table.columns.tolist() == ["in-dataset", "cross-dataset"]
    measured = results.measure(tables.main(scores), "AUC", ["detector", "test_set"])
    expected = tables.pivot(measured, columns="test_set")  # the first set is that of training
    assert table.to_numpy().tolist() == expected[[A, B]].to_numpy().tolist()
    assert table.loc["Baseline", "cross-dataset"].startswith(f"{numbers['value'].iloc[-2]:.3f}")


def test_the_baseline_is_found_by_its_paper():
    """In a report of one's own it has no name of its own: the first of its paper is subtracted."""
    for lr in (0.01, 0.1):
        settings = {"backbone": "small", "lr": lr, "image_size": 96}
        planted.write("own", "xception", 0, "", 3, settings=settings, name=f"x-{lr}")
    planted.write("own", "lae", strength=1)
    scores = results.scores("own")
    run = scores[scores["paper"] == "lae"].assign(detector="this run")
    both = pd.concat([run, scores[scores["paper"] != "lae"].astype({"detector": str})])
    numbers = tables.pairs(tables.with_baseline(both))
    assert {*numbers["minus"]} == {"Baseline, lr 0.01"} and (numbers["value"] < 0).all()
    assert {*numbers["detector"]} == {"this run"}
    assert numbers["place"].tolist() == ["in-dataset", "cross-dataset"]
    assert tables.pairs(tables.with_baseline(run)).empty


def test_differences_subtract_the_plain_classifier_that_shares_seeds():
    """Not the first in the table, nor one beside it; without any, one of the first paper."""
    rows = pd.DataFrame(
        [
            ("Baseline, lr 0.01", "xception", 1),
            ("Baseline, lr 0.1", "xception", 0),
            ("ResNet-50", "xception", 0),
            ("LAE", "lae", 0),
        ],
        columns=["detector", "paper", "seed"],
    )
    assert tables.plain(rows) == "Baseline, lr 0.1"
    assert tables.plain(rows[rows["detector"] != "Baseline, lr 0.1"]) == "Baseline, lr 0.01"
    assert tables.plain(rows[rows["paper"] == "lae"]) == "LAE"
    assert tables.plain(rows[:0]) == ""


def test_a_detector_that_shares_no_seed_is_said_to_be_not_compared():
    rows = pd.DataFrame(
        [("A", 0, A), ("A", 1, A), ("B", 1, A), ("C", 2, A), ("D", 1, B)],
        columns=["detector", "seed", "test_set"],
    )
    expected = "Not compared with A: C (no shared seed), D (no shared test set)."
    assert tables.not_compared(rows, "A") == expected
    assert tables.not_compared(rows[:3], "A") == ""
    for alone, minus in ((rows[:2], "A"), (rows[:2], ""), (rows[:0], "")):
        assert tables.not_compared(alone, minus) == "There is no other detector to compare with."


def test_a_control_stands_once_as_of_no_network():
    rows = {"detector": ["A", "A", "B", "B"], "map": ["Grad-CAM", "edges"] * 2, "value": range(4)}
    once = tables.controls_once(pd.DataFrame(rows))
    assert once["detector"].tolist() == ["A", "B", tables.NO_NETWORK]
    assert once["value"].tolist() == [0, 2, 1]


def test_a_detector_without_a_mean_across_is_named_with_the_test_sets_it_lacks(capsys):
    """Its cell is a dash; the other detectors keep theirs."""
    more = {Condition("smoke-b"): planted.table("smoke-b")}
    planted.write("gaps", "xception", more=more)
    planted.write("gaps", "locate_and_verify")
    scores = results.scores("gaps")
    table = tables.pivot(tables.by_place(tables.main(scores)))
    assert table["cross-dataset"].tolist()[1] == "–" != table["cross-dataset"].tolist()[0]
    printed = capsys.readouterr().out
    assert "Locate and Verify has no cross-dataset mean" in printed and "smoke-b." in printed


def test_a_test_set_in_no_mean_has_a_place_of_its_own():
    more = {
        Condition(name): planted.table(name) for name in (B, "face-swap-unseen", "portraits-val")
    }
    planted.write("aside", "xception", more=more)
    scores = tables.main(results.scores("aside"))
    places = ["in-dataset", "cross-dataset", "face-swap-unseen", "portraits-val"]
    assert tables.by_place(scores)["place"].tolist() == places
    kept = tables.test_sets("aside")["in the mean"].to_dict()
    assert kept == {
        A: "in-dataset",
        B: "cross-dataset",
        "face-swap-unseen": "none",
        "portraits-val": "none",
    }


def test_the_table_of_test_sets_counts_what_was_scored():
    row = tables.test_sets("hand").loc[B]
    columns = ["real videos", "fake videos", "clusters", "frames"]
    assert row[columns].tolist() == [15, 30, 15, 90]
    assert row[["compression", "crop"]].tolist() == ["JPEG", planted.CROP]
    assert row["fingerprint"] == B


def test_every_two_detectors_are_compared_once(scores):
    numbers = tables.pairs(tables.main(scores))
    assert {*zip(numbers["detector"], numbers["minus"])} == {("Locate and Verify", "Baseline")}
    listed = tables.listed(numbers, ["detector", "place"])
    assert listed["difference"].str.match(r"-0\.\d+\s\[-").all()
    alone = scores[scores["detector"] == "Baseline"]
    assert tables.pairs(alone).empty


def test_a_difference_of_few_seeds_is_called_so():
    """The seeds themselves, and of two to four also their values; nothing is a verdict."""
    rows = {"of_seeds": [(7,), (7, 8), (1, 2, 3, 4, 5)], "minus": "B", "value": 0.1}
    rows |= {"seed_values": [(0.1,), (0.15, -0.05), (0.1,) * 5], "low": 0.08, "high": 0.12}
    listed = tables.listed(pd.DataFrame(rows).assign(detector=[*"acd"]), ["detector"])
    assert listed.columns.tolist() == ["difference", "seeds"]
    seeds = ["7: one training", "7, 8, exploratory: +0.150, -0.050", "1 to 5"]
    assert listed["seeds"].tolist() == seeds


def test_an_ensemble_has_the_mean_log_odds_of_three_seeds_in_turn():
    log_odds = np.array([[0, 1, 5, -2], [3, 2, -9, 4.0]])  # of two videos at four seeds
    rows = pd.DataFrame({"score": np.nan, "log_odds": log_odds.ravel(), "seed": [4, 5, 6, 7] * 2})
    facts = {"detector": "A", "test_set": "a", "collapsed": False}
    rows = rows.assign(video=["x"] * 4 + ["y"] * 4, **facts)
    averaged = notebooks.cells("_report", "averaged")["averaged"]
    ensembles = averaged(rows, 3).pivot(index="video", columns="seed", values="log_odds")
    cyclic = [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]]
    expected = log_odds[:, cyclic].mean(axis=2)
    np.testing.assert_allclose(ensembles, expected)
    assert {*averaged(rows, 3)["detector"]} == {"A × 3"}
    collapsed = rows.assign(collapsed=rows["seed"] < 6)  # the other two are too few
    assert averaged(collapsed, 3).empty


def test_variants_are_compared_with_main_or_with_the_paper_s_detector(scores):
    numbers = tables.variants(scores[scores["corruption"] == ""])
    pairs = {*zip(numbers["paper"], numbers["detector"], numbers["minus"])}
    assert pairs == {
        ("lae", "LAE, face swap: 0 %", "LAE, face swap: main"),
        ("locate_and_verify", "Locate and Verify, quirks: update", "Locate and Verify"),
    }
    assert {*numbers["place"]} == {"in-dataset", "cross-dataset"}
    none = tables.variants(tables.main(scores))
    assert tables.listed(none, ["detector", "minus", "place"]).empty


def test_a_run_under_two_names_is_no_variant_of_itself():
    """As the runs of a fold, which stand with further test sets among those of their detector."""
    for seed in (0, 1):
        same = {Condition(name): planted.table(name, 2, f"seed {seed}") for name in planted.SETS}
        planted.write("twice", "xception", seed, more=same)
        planted.write("twice", "xception", seed, "copies: the same", more=same)
        planted.write("twice", "xception", seed, "copies: other", strength=3)
    numbers = tables.variants(results.scores("twice"))
    assert {*numbers["detector"]} == {"Baseline, copies: other"} and len(numbers)


def test_a_mean_over_a_part_of_the_other_datasets_is_not_called_across():
    """The variant was trained on one of those of its reference: they share a single one."""
    planted.write("parts", "xception", more={Condition("synth-c"): planted.table("synth-c")})
    more = {Condition("synth-c"): planted.table("synth-c", key="other")}
    planted.write("parts", "xception", 0, "training set: other", more=more, train_set=B)
    numbers = tables.variants(results.scores("parts"))
    assert numbers["place"].tolist() == ["synth-c"]
    assert numbers["of_sets"].tolist() == [("synth-c",)]


def shares(maps):
    """What the cell of the report's notebook measures of these maps."""
    own = SimpleNamespace(maps=lambda _: maps, measure=results.measure)
    p = SimpleNamespace(report="hand")
    return notebooks.cells("_report", "shares", results=own, p=p, scores=maps)["looks"]


def sanity(maps):
    """The sanity check of the maps of the detector that has some."""
    return tables.sanity(maps).set_index(["detector", "map"]).loc["Baseline"]


def test_the_sanity_check_says_how_alike_maps_of_random_networks_are():
    """An estimate with its interval and the seeds; no verdict."""
    table = sanity(results.maps("hand"))
    assert table.index.tolist() == ["Grad-CAM", "shape", "edges"] and "verdict" not in table
    assert table["value"].tolist() == pytest.approx([0.1, 0.9, 0.1], abs=0.01)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    assert table["grey"].tolist() == pytest.approx([0.2] * 3)
    assert table["blank"].tolist() == [0, 0, 0]
    assert {*table["of_seeds"]} == {(0,)}
    assert tables.caption(table).endswith("95 % intervals over people and random networks.")


def test_random_networks_are_resampled_with_people():
    """Three draws that differ widely decide less than three that agree."""
    maps = results.maps("hand")
    spread = maps.assign(**{"random 1": maps["random 1"] + 0.6, "random 2": maps["random 2"] - 0.1})
    table = sanity(spread)
    assert table.loc["Grad-CAM", "value"] == pytest.approx(0.1 + 0.5 / 3, abs=0.01)
    assert table.loc["Grad-CAM", "high"] > 0.5 and table.loc["Grad-CAM", "low"] < 0


def test_pairs_with_a_blank_map_are_counted_and_have_no_correlation():
    maps = results.maps("hand")
    is_shape = maps["map"] == "shape"
    maps["random 3"] = maps["random 3"].where(~is_shape)
    is_edges = maps["map"] == "edges"
    for number in (1, 2, 3):
        name = f"random {number}"
        maps[name] = maps[name].where(~is_edges)
    table = sanity(maps)
    assert table["blank"].tolist() == pytest.approx([0, 1 / 3, 1])
    assert table["value"].isna().tolist() == [False, False, True]
    texts = tables.pivot(table.reset_index(), ["map"], "metric")
    assert texts.loc["edges"].tolist() == ["–"]
    assert tables.caption(table).startswith(f"Trained on {A}; seeds 0: one training; ")


def test_a_map_with_negative_values_is_checked_twice():
    maps = results.maps("hand")
    is_shape = maps["map"] == "shape"
    signed = {f"signed {draw}": (maps["random 1"] - 0.95).where(is_shape) for draw in (1, 2)}
    table = sanity(maps.assign(**signed))
    values = {"Grad-CAM": 0.1, "shape": 0.9, "shape (signed)": -0.05, "edges": 0.1}
    assert table["value"].to_dict() == pytest.approx(values, abs=0.01)
    assert table.index.tolist() == [*values]


def test_maps_are_shown_beside_their_check_whatever_it_says():
    table = tables.pivot(shares(results.maps("hand")), ["detector", "map", "test_set"], "metric")
    of_baseline = table.loc["Baseline"]
    assert of_baseline.index.tolist() == [(name, A) for name in ("Grad-CAM", "shape")]
    assert table.columns.tolist() == [tables.TITLES[name] for name in ("energy", "constant energy")]
    control = table.loc[(tables.NO_NETWORK, "edges", A)]
    assert control["relevance mass in the mask"].startswith("0.898")
    assert tables.pivot(shares(results.maps("hand").head(0))).empty


def test_each_clip_stands_with_its_score_by_each_detector(scores):
    rows = tables.main(scores)
    table = tables.clips(rows[rows["test_set"] == A])
    assert len(table) == 45 and table.columns.tolist() == ["Baseline", "Locate and Verify"]
    first = rows[(rows["detector"] == "Baseline") & (rows["test_set"] == A)]
    means = first.groupby("video", observed=True)["score"].mean()
    for (_, video, _), text in table["Baseline"].items():
        assert text == f"{means[video]:.3f}"
    by_both = table.astype(float).mean(axis=1)
    assert by_both.iloc[0] > 0.9 > by_both.iloc[-1] and tables.clips(rows.head(0)).empty


def test_trainings_in_tables():
    compared = tables.trainings("hand")
    numbers = compared.loc["Baseline", ["images", "seconds", "seeds", "device"]]
    assert numbers.tolist() == [200, 1, 2, "cpu"]
    assert compared.loc["Baseline", "network"] == "small, 96 px"
    deviations = tables.deviations(results.detectors("hand")[0].runs[0])
    assert deviations.loc["backbone"].tolist() == ["large", "small"]
    assert "lr" not in deviations.index and "published" not in deviations
    assert deviations.loc["initial weights"].tolist() == ["ImageNet", "random weights"]


@pytest.mark.parametrize(
    ("pretrained", "start"), [(True, "ImageNet"), (False, "random weights"), ("a.file", "a.file")]
)
def test_the_default_start_is_that_of_the_paper_s_file(pretrained, start):
    run = results.detectors("hand")[0].runs[0]
    record = run.record.model_copy(deep=True)
    record.detector.defaults["pretrained"] = pretrained
    run = SimpleNamespace(record=record.model_copy(update={"weights_from": "w"}))
    table = tables.deviations(run)
    assert table.loc["initial weights"].tolist() == [start, "w"]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [([30, 31, 34], "30, 31, 34"), ([9, 8, 10, 8], "8 to 10"), ([7], "7"), ([1, 2], "1, 2")],
)
def test_seeds_without_a_gap_are_a_range(seeds, text):
    assert tables.ranges(seeds) == text


def test_claims_have_what_was_detectable_beside_a_verdict():
    rows = {"detector": ["A", "B"], "claim": "S.", "on": "bed", "minus": "C", "value": 0.1}
    rows |= {"low": 0.05, "high": 0.15, "detectable": 0.0384, "registered": "2026-11-23"}
    rows |= {"p_gain": [0.0001, NAN], "p_worse": [0.9, NAN], "verdict": ["better", "not judged"]}
    table = tables.claims(pd.DataFrame(rows))
    assert table["detectable"].tolist() == ["0.038", "–"]
    assert table["p_gain"].tolist() == ["< 0.001", "–"]
    assert table["verdict"].tolist() == rows["verdict"]


def test_crops_that_train_and_test_share_are_said_where_they_are_known(capsys):
    """Two trainings: of one it is known for both test sets, of the other for the second alone."""
    for seed, known in enumerate(({A: 7, B: 0}, {A: None, B: 0})):
        planted.write("leaky", "xception", seed, shared=known)
    results.scores("leaky")
    leak = f"7 of 90 frames of {A} are also in the training set {A}, pixel by pixel"
    assert capsys.readouterr().out.count(leak) == 1


def test_many_methods_are_rows(scores):
    numbers = results.measure(tables.main(scores), "AUC", ["detector", "test_set", "method"])
    table = tables.pivot(numbers, ["detector", "test_set"], "method")
    assert table.columns.tolist() == ["swap", "warp"]
    many = [numbers.assign(method=numbers["method"].astype(str) + str(i)) for i in range(7)]
    turned = tables.pivot(pd.concat(many), ["detector", "test_set"], "method")
    assert turned.columns[0] == f"Baseline, {A}" and len(turned) == 14
    assert turned.loc["warp6"].tolist() == table["warp"].tolist()


def test_a_column_that_numbers_do_not_have_is_no_row_or_column_of_their_table(scores):
    """Pandas would take the list of names for those of the rows, where it is as long."""
    rows = scores[(scores["detector"] == "Baseline") & (scores["test_set"] == A)]
    numbers = results.measure(tables.main(rows), "AUC", "method")
    sentence = "there is no column {} for rows or columns; name some of method, metric, minus"
    for index, name in ((["detector"], "'detector'"), (["method"], "'place'")):
        with pytest.raises(DfnbError, match=sentence.format(name)):
            tables.pivot(numbers, index)
    assert tables.pivot(numbers, ["method"], "metric").index.tolist() == ["swap", "warp"]


def test_a_table_is_shown_and_saved_for_spreadsheets_and_as_markdown(monkeypatch):
    displayed = []
    monkeypatch.setattr(tables, "display", lambda *shown: displayed.extend(shown))
    table = pd.DataFrame({"a_b": ["50 % & #1", None]}, index=pd.Index(["r", "s"], name="row"))
    (file,) = tables.show(table, "A caption_with 5 %.", report_folder("hand"), "hard", "A title")
    markdown = file.read_text(encoding="utf-8")
    assert markdown.startswith("# A title\n\n| row") and markdown.endswith(
        "A caption_with 5 %. [All columns, unrounded](hard.csv)\n"
    )
    assert "| r     | 50 % & #1 |" in markdown
    paper = report_folder("hand") / "paper" / "tables"
    assert file.with_suffix(".csv").read_text(encoding="utf-8") == "row,a_b\nr,50 % & #1\ns,\n"
    assert (paper / "hard-caption.tex").read_text("utf-8") == "A title. A caption\\_with 5 \\%.\n"
    assert tables.show(pd.DataFrame(), "", report_folder("hand"), "none", "Nothing") == []
    assert displayed[0].data == "**A title**" and displayed[1] is table
    assert "no numbers for a table “Nothing”" in displayed[3].data


def test_the_numbers_of_a_table_are_saved_as_measured(scores):
    measured = tables.by_place(tables.main(scores))
    (file,) = tables.save(tables.pivot(measured), measured, report_folder("hand"), "n", "N")
    assert f"\n\n{tables.caption(measured)} [" in file.read_text(encoding="utf-8")
    read = pd.read_csv(file.with_suffix(".csv"))
    assert {*read["trained_on"]} == {A} and {*read["checkpoint"]} == {"best epoch"}
    assert "p" not in read and "of_trainings" not in read
    for name in ("value", "low", "high", "n_real", "n_fake", "clusters", "seeds"):
        assert read[name].tolist() == measured[name].tolist(), name
    assert read["detector"].tolist() == measured["detector"].tolist()


def test_a_table_in_latex_needs_no_special_fonts():
    row = ["JPEG 45-75 & 5 %", tables.cell(-0.1, -0.2, 0.3, "B"), "< 0.001", "A_b × 3 − {c}"]
    table = pd.DataFrame(
        [row, ["[x]", "–", "a > b | c…", "~"]], columns=["a_b", "difference", "p", 5]
    )
    lines = tables.latex(table).splitlines()
    assert lines[0] == r"\begin{tabular}{llll}" and lines[-1] == r"\end{tabular}"
    assert lines[2] == r"a\_b & difference & p & 5 \\"
    assert lines[4].startswith(r"JPEG 45-75 \& 5 \% & $-0.10$~[$-0.20$,~$+0.30$] & $<0.001$ & ")
    assert lines[4].endswith(r"A\_b $\times$ 3 $-$ \{c\} \\")
    # A bracket at the beginning of a row would be an argument of the line break before it.
    assert lines[5] == r"{[}x] & -- & a $>$ b $|$ c\ldots{} & \textasciitilde{} \\"
    assert tables.latex(table[1:]).splitlines()[4].startswith("{[}x]")  # or of the rule
    for line in lines:  # math mode ends where it begins; braces are in pairs
        bare = re.sub(r"\\[\\&%_{}]", "", line)
        assert bare.count("$") % 2 == 0 and bare.count("{") == bare.count("}")
        outside = "".join(bare.split("$")[::2])
        assert outside.isascii() and not {*outside} & {*'<>|"'}
