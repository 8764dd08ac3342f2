"""Verdicts on claims, from numbers that are made by hand, and from a planted report."""

import numpy as np
import pandas as pd
import planted
import pytest
import yaml
from scipy.stats import t

from dfnb.report import claims
from dfnb.store.scores import Condition
from facesets.checks import DfnbError
from facesets.files import write_bytes

DELTA = {"within": 0.01, "cross": 0.02, "accuracy": 0.03, "localisation": 0.05}
USUAL = {"seeds": 10, "collapsed": 0, "sets": 1, "degrees": 20.0}


def claim(**changes):
    """A claim that Ours has a higher AUC than Plain within the dataset, but for ``changes``."""
    entries = {"id": "c", "paper": "ours", "says": "A claim.", "source": "us", "kind": "gain"}
    entries |= {"metric": "AUC", "detector": "Ours", "against": "Plain", "sets": ["within"]}
    return {**entries, **changes}


def judged(number, within=True, **changes):
    """The row of one claim with the number that it is about, its verdict included."""
    checked = claims.Claim.check(claim(**changes), "test")
    row = claims._of_number(checked, number, within, claims.Delta.check(DELTA, "test"))
    row = {**claims.WITHOUT_NUMBER, "family": True, "kind": checked.kind, **row}
    return claims._decided(pd.DataFrame([row])).iloc[0]


def number(low, high, **columns):
    """A number with this interval, symmetric with 20 degrees of freedom."""
    error = (high - low) / 2 / t.ppf(0.975, 20)
    made = {"value": (low + high) / 2, "low": low, "high": high, "error": error}
    return {**made, **USUAL, **columns}


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("gain", -0.08, -0.02, "worse"),
        ("gain", 0.002, 0.008, "better"),
        ("gain", -0.004, 0.008, "no material gain"),
        ("gain", -0.01, 0.05, "undecided"),
        ("no worse", -0.009, 0.1, "not worse"),
        ("no worse", -0.1, -0.02, "worse"),
        ("no worse", -0.02, 0.02, "undecided"),
        ("shown", 0.02, 0.08, "not judged"),
    ],
)
def test_the_verdict_of_an_interval(kind, low, high, expected):
    assert judged(number(low, high), kind=kind)["verdict"] == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"seeds": 4}, "exploratory: fewer than 5 seeds"),
        ({"sets": 2}, "exploratory: a mean over fewer than 3 test sets"),
        ({"low": np.nan}, "undecided: no interval"),
        ({"collapsed": 3}, "not judged: 3 runs collapsed"),
        ({"collapsed": 1, "seeds": 1}, "not judged: 1 runs collapsed"),
        ({"collapsed": 2}, "better"),
    ],
)
def test_numbers_without_a_verdict(columns, expected):
    row = judged({**number(0.02, 0.08), **columns})
    assert row["verdict"] == expected and np.isnan(row["p_gain"]) == (expected != "better")


def test_what_is_material_depends_on_metric_and_place():
    small = number(-0.004, 0.015)  # the upper end decides: below .02, not below .01
    assert judged(small)["verdict"] == "undecided"
    for place in ({"within": False}, {"metric": "accuracy"}, {"metric": "energy"}):
        assert judged(small, **place)["verdict"] == "no material gain"


def test_a_claim_on_a_metric_of_which_less_is_better_is_refused():
    with pytest.raises(DfnbError, match="metric = 'EER': Input should be 'AUC'"):
        claims.Claim.check(claim(metric="EER"), "test")


def test_p_values_are_one_sided():
    row = judged(number(0.0, 0.06))
    assert row["p_gain"] == pytest.approx(0.025) and row["p_worse"] == pytest.approx(0.975)
    error = 0.03 / t.ppf(0.975, 20)
    assert row["p_small_gain"] == pytest.approx(t.cdf((0.03 - 0.01) / error, 20))


def test_each_hypothesis_is_adjusted_for_the_claims_of_the_family():
    rows = {"family": [True, True, False, True], "verdict": ["", "", "", "not judged"]}
    rows |= {"p_gain": [0.02, 0.01, 0.02, np.nan], "p_worse": [0.5, 0.9, 0.5, np.nan]}
    rows["p_small_gain"] = [np.nan] * 4
    rows |= {"kind": "gain", "limit": 0.0, "error": 0.01, "degrees": 20.0}
    decided = claims._decided(pd.DataFrame(rows))
    assert decided["p_gain"].tolist()[:3] == [0.02, 0.02, 0.02]
    assert decided["p_worse"].tolist()[:3] == [1.0, 1.0, 0.5]
    assert decided["verdict"].tolist() == ["better"] * 3 + ["not judged"]
    rows["p_gain"][1] = 0.03  # as one of two, .02 decides nothing
    decided = claims._decided(pd.DataFrame(rows))
    alone = t.ppf(0.975, 20) + t.ppf(0.8, 20)
    first_of_two = t.ppf(1 - 0.025 / 2, 20) + t.ppf(0.8, 20)
    detectable = [0.01 * first_of_two] * 2 + [0.01 * alone]
    assert decided["detectable"].tolist()[:3] == pytest.approx(detectable)
    assert decided["verdict"].tolist() == ["undecided"] * 2 + ["better", "not judged"]


# ---------------------------------------------------------------- a report


@pytest.fixture
def judge(empty_home):
    """Judges claims on a planted report: LAE has stronger scores than Baseline on both sets."""
    for seed in range(5):
        more = {Condition("synth-c"): planted.table("synth-c", 3, f"l{seed}")}
        more[Condition("synth-b", "blur", 1)] = planted.table("synth-b", 1, f"blur{seed}")
        more[Condition("synth-a", map="CAM")] = planted.measured("synth-a", seed, energy=0.6)
        planted.write("demo", "lae", seed, strength=3, more=more)
        more[Condition("synth-c")] = planted.table("synth-c", 1, f"x{seed}")
        planted.write("demo", "xception", seed, strength=1, more=more)
    content = "claims: mine\n"
    write_bytes(empty_home / "reports/demo/profile.yaml", content.encode())
    path = empty_home / "data_manifest/claims/mine.yaml"

    def judge(*changes, paper=""):
        usual = {"detector": "LAE", "against": "Baseline"}
        listed = [claim(**{"id": f"c{n}", **usual, **each}) for n, each in enumerate(changes)]
        head = {"delta": DELTA, "registered": "2026-01-01"}
        write_bytes(path, yaml.safe_dump({**head, "claims": listed}).encode())
        return claims.judge("demo", paper)

    return judge


def test_claims_are_judged_on_each_place_they_name(judge):
    changes = [
        {"sets": ["within", "cross", "synth-*"], "method": "swap"},
        {"metric": "energy", "map": "CAM", "level": "frame"},
        {"metric": claims.ROBUSTNESS_KEPT, "sets": ["synth-b"], "family": False},
        {"metric": "iou"},
        {"detector": "Other", "kind": "no worse"},
        {"sets": ["synth-a"], "seeds": [0, 1, 2, 3, 9]},
    ]
    rows = judge(*changes).set_index(["id", "on"])
    on = ["in-dataset", "cross-dataset", "synth-a", "synth-b", "synth-c"]
    assert rows.loc["c0"].index.tolist() == on
    verdicts = rows["verdict"]
    assert verdicts["c0", "in-dataset"] == verdicts["c0", "synth-a"] == "better"
    assert verdicts["c0", "cross-dataset"] == "exploratory: a mean over fewer than 3 test sets"
    assert verdicts["c1", "in-dataset"] == "no material gain"  # both look at the same places
    # The blurred scores are the same, so LAE loses what it is better by.
    lost = rows.loc[("c2", "synth-b")]
    assert lost["verdict"] == "worse" and lost["value"] < -0.1
    # What was not measured, and what was not trained, is listed, and has no number.
    waiting = ["not measured", "Other was not trained", "4 of 5 seeds"]
    assert verdicts[["c3", "c4", "c5"]].tolist() == [f"not judged: {each}" for each in waiting]
    assert rows.loc[["c3", "c4", "c5"], ["value", "p_gain"]].isna().all(axis=None)
    assert {*rows["minus"]} == {"Baseline", ""}
    assert {*rows["registered"]} == {"2026-01-01"}
    assert judge(*changes, paper="theirs").empty


@pytest.mark.parametrize("premise", ["LAE", "Baseline"])
def test_a_claim_waits_for_its_premise(judge, premise):
    other = {"LAE": "Baseline", "Baseline": "LAE"}[premise]
    replaced = {"detector": "Baseline", "against": "LAE", "only_if": "c0"}
    rows = judge({"detector": premise, "against": other, "family": False}, replaced)
    expected = "worse" if premise == "LAE" else "not judged: c0 is not shown"
    assert rows["verdict"].iloc[1] == expected


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "gains"},
        {"metric": "AUCC"},
        {"metric": "seed"},
        {"sets": ["withn"]},
        {"method": "swapp"},
        {"map": "CAMM", "metric": "energy"},
        {"only_if": "c9"},
    ],
)
def test_a_mistyped_claim_is_named(judge, change):
    (name, word), *_ = change.items()
    with pytest.raises(DfnbError, match=f"claim.*{name}.*{word}"):
        judge({}, change)


def test_a_mistyped_detector_is_named_and_listed(judge, capsys):
    assert judge({"detector": "Lae"})["verdict"].tolist() == ["not judged: Lae was not trained"]
    assert "claim c0: demo has no 'Lae'; known are Baseline, LAE" in capsys.readouterr().out


def test_a_claim_without_its_seeds_holds_up_no_other(judge):
    alone = judge({})["p_worse"].item()
    waiting = judge({"seeds": [0, 1, 9]}, {"detector": "Other"}, {})
    assert waiting["p_worse"].iloc[2] == alone and waiting["p_worse"].isna()[:2].all()


@pytest.mark.parametrize("delta", [{"within": 0.01}, {**DELTA, "cross": -0.02}])
def test_what_is_material_is_stated_for_each_kind(empty_home, delta):
    path = empty_home / "data_manifest/claims/mine.yaml"
    content = {"delta": delta, "registered": "2026-01-01", "claims": [claim()]}
    write_bytes(path, yaml.safe_dump(content).encode())
    with pytest.raises(DfnbError, match=r"mine\.yaml: delta\.cross"):
        claims.content("mine")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"detector": "Lae"}, "the profile trains no 'Lae'; known are LAE"),
        ({"against": "Basline"}, "the profile trains no 'Basline'"),
        ({"seeds": [0, 7]}, r"does not train LAE with \[7\]"),
        ({"seeds": []}, "write its seeds"),
        ({"sets": ["world-*"]}, r"there is no 'world-\*'"),
    ],
)
def test_a_claim_that_the_profile_could_never_judge_is_refused(empty_home, change, problem):
    path = empty_home / "data_manifest/claims/mine.yaml"
    entries = claim(detector="LAE", against="Baseline", seeds=[0, 1], sets=["cross", "smoke-*"])
    trainings = {"LAE": [0, 1], "Baseline": [0, 1]}
    for listed in (entries, {**entries, **change}):
        content = {"delta": DELTA, "registered": "2026-12-01", "claims": [listed]}
        write_bytes(path, yaml.safe_dump(content).encode())
        if listed is entries:
            claims.check_plan("mine", trainings, ["smoke-a"])
    with pytest.raises(DfnbError, match=f"mine, claim c: .*{problem}"):
        claims.check_plan("mine", trainings, ["smoke-a"])


# ---------------------------------------------------------------- what is committed


@pytest.mark.parametrize("name", ["bed", "ff-like", "papers", "published"])
def test_the_committed_claims_have_ids_of_their_own(checkout, monkeypatch, name):
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    listed = claims.content(f"claims-{name}").claims
    ids = [claim.id for claim in listed]
    assert len(set(ids)) == len(ids)
    for place, claim in enumerate(listed):
        assert not claim.only_if or claim.only_if in ids[:place]
