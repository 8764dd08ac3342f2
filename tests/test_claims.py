"""Verdicts on claims, from rows of results that are made by hand."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from dfnb.metrics import CROSS_DATASET_MEAN, interval_text
from scipy.stats import t

from dfnb import claims
from dfnb.settings import DfnbError

HEAD = {
    "delta": {"within": 0.01, "cross": 0.02, "accuracy": 0.03, "localisation": 0.05},
    "registered": "2026-01-01",
    "datasets": {},
    "assumed": {},
}
KEPT = {"collapsed": "0 of 10", "collapsed_included": False, "refused": ""}


def number(value, low, high, detector="Ours", minus="Plain", **columns):
    """A row of the results on the dataset trained on, unless ``columns`` say otherwise."""
    return {
        "detector": detector,
        "minus": minus,
        "train_set": "here",
        "test_set": "here",
        "within": columns.get("test_set", "here") == "here",
        "method": "all",
        "paired_methods": False,
        "corruption": "",
        "severity": 0,
        "map": "",
        "sanity": False,
        "level": "video",
        "metric": "AUC",
        "value": value,
        "low": low,
        "high": high,
        "error": (high - low) / 2 / t.ppf(0.975, 20),
        "degrees": 20.0,
        "without_seed": [],
        "mean_over": "",
        "seeds": 10,
        "clusters": 60.0,
        **KEPT,
        **columns,
    }


def test_a_claim_on_any_metric_says_why_it_was_refused(judge):
    refused = number(np.nan, np.nan, np.nan) | {"refused": "a reason"}
    judged = judge([refused], {"metric": "pixel_ap", "method": "swap"})
    assert judged["verdict"].tolist() == ["not testable: a reason"]


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Judges claims, each given by what differs from a gain of Ours over Plain."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    path = tmp_path / "data_manifest" / "claims" / "claims.yaml"
    path.parent.mkdir(parents=True)

    def judge(numbers, *changes):
        listed = []
        for place, changed in enumerate(changes):
            claim = {"id": f"c{place}", "paper": "ours", "says": f"Claim {place}.", "source": "us"}
            claim |= {"kind": "gain", "metric": "AUC", "detector": "Ours", "against": "Plain"}
            listed.append({**claim, "sets": ["within"], **changed})
        path.write_text(yaml.safe_dump({**HEAD, "claims": listed}), encoding="utf-8")
        return claims.judge(pd.DataFrame(numbers)).reset_index()

    return judge


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("gain", -0.08, -0.02, "worse"),
        ("gain", -0.008, -0.002, "worse, below material size"),
        ("gain", -0.012, -0.002, "worse"),
        ("gain", 0.02, 0.08, "supported"),
        ("gain", 0.002, 0.008, "supported, below material size"),
        ("gain", -0.004, 0.008, "no material gain"),
        ("gain", -0.01, 0.05, "undecided"),
        ("no worse", -0.009, 0.1, "supported"),
        ("no worse", -0.1, -0.02, "worse"),
        ("no worse", -0.02, 0.02, "undecided"),
    ],
)
def test_the_verdict_of_an_interval(judge, kind, low, high, expected):
    value = (low + high) / 2
    for numbers in (number(value, low, high), number(-value, -high, -low, "Plain", "Ours")):
        judged = judge([numbers], {"kind": kind})
        assert judged["verdict"].tolist() == [expected]
        assert judged["ours"].tolist() == [interval_text(value, low, high)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"seeds": 4}, "exploratory: fewer than 5 seeds"),
        ({"mean_over": "b, c"}, "exploratory: a mean over fewer than 3 test sets"),
        ({"low": np.nan}, "undecided: no interval"),
        ({"collapsed": "3 of 10"}, "not judged: 3 of 10 runs collapsed"),
        ({"collapsed": "1 of 1"}, "not judged: 1 of 1 runs collapsed"),
        ({"value": np.nan, "refused": "a reason"}, "not testable: a reason"),
        ({"metric": "EER"}, "not testable: no AUC of Ours minus Plain"),
        ({"paired_methods": True}, "not testable: no AUC of Ours minus Plain"),
    ],
)
def test_numbers_without_a_verdict(judge, columns, expected):
    judged = judge([number(**{"value": 0.05, "low": 0.02, "high": 0.08, **columns})], {})
    assert judged["verdict"].tolist() == [expected]
    assert judged["p"].tolist() == judged["p, Holm"].tolist() == ["–"]


def test_what_is_material_depends_on_metric_and_test_set(judge):
    numbers = [number(0.012, 0.009, 0.015), number(0.04, 0.035, 0.045, metric="energy")]
    numbers.append(number(0.012, 0.009, 0.015, test_set=CROSS_DATASET_MEAN))
    judged = judge(numbers, {"sets": ["within", "cross"]}, {"metric": "energy"})
    small = "supported, below material size"
    assert judged["on"].tolist() == ["here", CROSS_DATASET_MEAN, "here"]
    assert judged["verdict"].tolist() == ["supported", small, small]


def test_each_hypothesis_is_adjusted_in_its_own_family(judge):
    numbers = [number(0.03, 0.0, 0.06), number(0.01, -0.03, 0.05, metric="accuracy")]
    no_worse = {"kind": "no worse", "metric": "accuracy"}
    judged = judge(numbers, {}, no_worse, {"paper": "control", "family": False})
    # One-sided: above 0, and above -delta; below these for "worse"; below delta.
    gain = [t.sf(0.03 / 0.03 * t.ppf(0.975, 20), 20), t.sf(0.04 / 0.04 * t.ppf(0.975, 20), 20)]
    assert judged["p"].tolist() == [f"{p:.3f}" for p in [*gain, gain[0]]]
    assert judged["p, Holm"].tolist() == ["0.050", "0.050", "–"]
    assert judged["p worse, Holm"].tolist() == ["1.000", "1.000", "–"]
    small = t.sf((0.01 - 0.03) / 0.03 * t.ppf(0.975, 20), 20)
    assert judged["p small, Holm"].tolist() == [f"{small:.3f}", "–", "–"]
    # p = .025 alone decides; as one of two it does not.
    numbers = [number(0.03, 0.001, 0.059), number(0.0, -0.05, 0.05, metric="accuracy")]
    assert judge(numbers, {})["verdict"].tolist() == ["supported"]
    assert judge(numbers, {}, {"metric": "accuracy"})["verdict"].tolist() == ["undecided"] * 2


def test_a_verdict_that_one_seed_decides_is_fragile(judge):
    steady = [[0.05, 0.01, 10], [0.04, 0.01, 10]]
    for without_seed, expected in [
        (steady, "supported"),
        ([*steady, [0.01, 0.02, 3]], "supported, fragile"),
    ]:
        one = number(0.05, 0.02, 0.08, without_seed=without_seed)
        assert judge([one], {})["verdict"].tolist() == [expected]
        losses = [[-value, *spread] for value, *spread in without_seed]
        turned = number(-0.05, -0.08, -0.02, "Plain", "Ours", without_seed=losses)
        assert judge([turned], {})["verdict"].tolist() == [expected]


@pytest.mark.parametrize(
    ("low", "expected"), [(0.02, "supported"), (-0.05, "not judged: c0 is not supported")]
)
def test_a_claim_waits_for_its_premise(judge, low, expected):
    numbers = [number(0.05, low, 0.1, minus="Nothing"), number(0.0, -0.005, 0.005)]
    replaced = {"kind": "no worse", "only_if": "c0"}
    judged = judge(numbers, {"against": "Nothing", "family": False}, replaced)
    assert judged["verdict"].iloc[1] == expected


@pytest.mark.parametrize(
    ("value", "word"), [(-0.01, "not supported: the sign"), (0.01, "supported")]
)
def test_nothing_is_supported_where_collapsed_runs_turn_the_sign(judge, value, word):
    every = number(value, -0.1, 0.1, collapsed_included=True)
    (verdict,) = judge([number(0.05, 0.02, 0.08), every], {})["verdict"]
    assert verdict.startswith(word)


def test_a_published_figure_is_inside_our_interval_or_outside(judge):
    alone = number(0.9, 0.88, 0.92, minus="")
    changes = {"kind": "figure", "against": ""}
    judged = judge([alone], {**changes, "published": 0.9}, {**changes, "published": 0.95})
    assert judged["verdict"].tolist() == [
        "published figure inside our interval",
        "published figure outside our interval",
    ]
    assert judged["published"].tolist() == ["0.900", "0.950"]


@pytest.mark.parametrize("changed", [{"kind": "gains"}, {"line": "x"}, {"sets": []}, {"level": 3}])
def test_a_mistyped_claim_is_named(judge, changed):
    with pytest.raises(DfnbError, match=rf"claims\.yaml: .*claims\.0\.{next(iter(changed))}"):
        judge([number(0.05, 0.02, 0.08)], changed)


@pytest.mark.parametrize("name", ["claims", "claims-bed", "claims-photographs"])
def test_the_committed_claims_have_ids_of_their_own_and_published_figures(
    checkout, monkeypatch, name
):
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    content = claims.content(name)
    ids = [claim.id for claim in content.claims]
    assert len(set(ids)) == len(ids)
    for place, claim in enumerate(content.claims):
        assert not claim.only_if or claim.only_if in ids[:place]
        if claim.kind == "figure":
            figures = claims.published([claim.detector])
            names = [name for test_set in claim.sets for name in content.datasets[test_set]]
            of_sets = figures[figures["test_set"].isin(names)]
            assert claim.published in of_sets.loc[of_sets["level"] == claim.level, "value"].tolist()


def test_ours_stands_beside_what_was_published_for_the_backbone(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    shutil.copytree(checkout / "data_manifest", tmp_path / "data_manifest")
    columns = {"train_set": "faceforensics-c23", "test_set": "celeb-df-v1", "level": "frame"}
    numbers = [number(0.8, 0.7, 0.9, published_as="Xception (Xception)", **columns)]
    numbers.append(number(0.8, 0.7, 0.9, published_as="", **columns))
    columns |= {"published_as": "Locate and Verify", "test_set": "dfd"}
    numbers.append(number(0.8, 0.7, 0.9, **columns))
    for test_set in ("faceforensics-c40", "faceshifter", "deeperforensics", "uadfv"):
        columns |= {"published_as": "Xception (Xception)", "test_set": test_set}
        numbers.append(number(0.8, 0.7, 0.9, **columns))
    table = claims.with_published(pd.DataFrame(numbers))
    figures = ["0.779", "", "0.955", "0.826", "0.625", "0.834", "0.938"]
    assert table["published"].tolist() == figures
    assert table["assumed"].notna().tolist() == [False, False, True, *[False] * 4]
    assert table["assumed"][2] == "compression not stated; c23 assumed"
