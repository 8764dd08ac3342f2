"""Verdicts on claims, from numbers that are made by hand, and from a planted report."""

import re
import shutil

import numpy as np
import pandas as pd
import planted
import pytest
import yaml
from scipy.stats import t

from dfnb import papers, results
from dfnb.results import claims
from dfnb.running import measuring, planning
from dfnb.store.reports import profile_of, score_path
from dfnb.store.scores import Condition, read_about, write
from dfnb.training.runs import Run
from facesets.checks import DfnbError, read_yaml
from facesets.files import find, write_bytes

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


def test_each_hypothesis_is_adjusted_for_all_registered_claims():
    """Two of the family are judged and one is not, which counts; a control and a row shown do not.

    By Holm's rule the smallest p of three is multiplied by three, the next by two.
    """
    rows = {"family": [True, True, False, True, True], "kind": ["gain"] * 4 + ["shown"]}
    rows["verdict"] = ["", "", "", "not judged", "not judged"]
    rows |= {"p_gain": [0.012, 0.006, 0.02, np.nan, np.nan], "p_worse": [0.5, 0.9] + [np.nan] * 3}
    rows |= {"p_small_gain": np.nan, "limit": 0.0, "error": 0.01, "degrees": 20.0}
    decided = claims._decided(pd.DataFrame(rows))
    assert decided["p_gain"].tolist()[:3] == pytest.approx([0.024, 0.018, 0.02])
    assert decided["p_worse"].tolist()[:2] == [1.0, 1.0]
    assert decided["verdict"].tolist() == ["better"] * 3 + ["not judged"] * 2
    rows["p_gain"][1] = 0.009  # .027 of three; it would be .018 of the two that are judged
    decided = claims._decided(pd.DataFrame(rows))
    alone = t.ppf(0.975, 20) + t.ppf(0.8, 20)
    first_of_three = t.ppf(1 - 0.025 / 3, 20) + t.ppf(0.8, 20)
    detectable = [0.01 * first_of_three] * 2 + [0.01 * alone]
    assert decided["detectable"].tolist()[:3] == pytest.approx(detectable)
    assert decided["verdict"].tolist() == ["undecided"] * 2 + ["better"] + ["not judged"] * 2


# ---------------------------------------------------------------- a report


@pytest.fixture
def judge(empty_home):
    """Judges claims on a planted report: LAE has stronger scores than Baseline on all sets."""
    for seed in range(5):
        more = {Condition("synth-c"): planted.table("synth-c", 3, f"l{seed}")}
        more[Condition("synth-b", "blur", 1)] = planted.table("synth-b", 1, f"blur{seed}")
        planted.write("demo", "lae", seed, strength=3, more=more)
        more[Condition("synth-c")] = planted.table("synth-c", 1, f"x{seed}")
        planted.write("demo", "xception", seed, strength=1, more=more)
    content = "claims: mine\n"
    write_bytes(empty_home / "reports/demo/profile.yaml", content.encode())
    path = empty_home / "data_manifest/claims/mine.yaml"

    def judge(*changes, paper=""):
        usual = {"paper": "control", "detector": "LAE", "against": "Baseline"}
        listed = [claim(**{"id": f"c{n}", **usual, **each}) for n, each in enumerate(changes)]
        head = {"delta": DELTA, "registered": "2026-01-01"}
        write_bytes(path, yaml.safe_dump({**head, "claims": listed}).encode())
        return claims.judge("demo", paper)

    return judge


def test_claims_are_judged_on_each_place_they_name(judge):
    changes = [
        {"sets": ["within", "cross", "synth-a"], "method": "swap"},
        {"metric": claims.ROBUSTNESS_KEPT, "sets": ["synth-b"], "family": False},
        {"sets": ["synth-a"], "seeds": [0, 1, 2, 3, 9]},
        {"kind": "shown", "sets": ["synth-b"]},
    ]
    rows = judge(*changes).set_index(["id", "on"])
    assert rows.loc["c0"].index.tolist() == ["in-dataset", "cross-dataset", "synth-a"]
    verdicts = rows["verdict"]
    assert verdicts["c0", "in-dataset"] == verdicts["c0", "synth-a"] == "better"
    assert verdicts["c0", "cross-dataset"] == "exploratory: a mean over fewer than 3 test sets"
    # The blurred scores are the same, so LAE loses what it is better by.
    lost = rows.loc[("c1", "synth-b")]
    assert lost["verdict"] == "worse" and lost["value"] < -0.1
    # A claim without its seeds is listed, and has no number; what is shown has no p.
    assert verdicts["c2", "synth-a"] == "not judged: 4 of 5 seeds of LAE, without [9]"
    assert rows.loc["c2", ["value", "p_gain"]].isna().all(axis=None)
    assert verdicts["c3", "synth-b"] == "not judged" and rows.loc[("c3", "synth-b"), "value"] > 0
    assert rows.loc["c3", [*claims.VERDICT_OF_P]].isna().all(axis=None) and "p" not in rows
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


MALFORMED = [
    ({"kind": "gains"}, "kind = 'gains'"),
    ({"metric": "AUCC"}, "metric = 'AUCC'"),
    ({"metric": "seed"}, "metric = 'seed'"),
    ({"level": "videos"}, "level = 'videos'"),
    ({"map": "CAM"}, "no parameter .*map"),
    ({"only_if": "c9"}, "only_if: no 'c9'"),
    ({"against": "LAE"}, "against is the detector itself"),
    ({"seeds": [0, 1, 1]}, r"seeds: \[0, 1, 1\]"),
    ({"sets": ["cross", "cross"]}, "sets: .*cross"),
    ({"id": "c0"}, "this id occurs twice"),
]


@pytest.mark.parametrize(("change", "problem"), MALFORMED)
def test_a_malformed_claim_is_refused(judge, change, problem):
    with pytest.raises(DfnbError, match=rf"mine\.yaml: .*{problem}"):
        judge({}, change)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ({"registered": "yesterday"}, "registered = 'yesterday'"),
        ({"registered": "2026-11-35"}, "registered = '2026-11-35'"),
        ({"registered": "2026-12-01"}, "claim c: write its seeds"),
        ({"delta": {**DELTA, "cross": 0.2}}, "delta.cross = 0.2"),  # for .02
        ({"delta": {**DELTA, "cross": -0.02}}, "delta.cross"),
        ({"delta": {"within": 0.01}}, "delta.cross is missing"),
    ],
)
def test_a_malformed_head_is_refused(empty_home, head, problem):
    path = empty_home / "data_manifest/claims/mine.yaml"
    content = {"delta": DELTA, "registered": "2026-01-01", "claims": [claim()], **head}
    write_bytes(path, yaml.safe_dump(content).encode())
    with pytest.raises(DfnbError, match=rf"mine\.yaml: .*{problem}"):
        claims.read_claims("mine")


# A word that the plan or the report does not know.
UNKNOWN = [
    ({"detector": "Lae"}, "no detector 'Lae'; known are "),
    ({"against": "Basline"}, "no detector 'Basline'; did you mean Baseline"),
    ({"paper": "lea"}, "LAE is of lae, not of 'lea'"),
    ({"seeds": [0, 1, 7]}, r"2 of 3 seeds of LAE, without \[7\]"),
    ({"sets": ["withn"]}, "no test set 'withn'; did you mean within"),
    ({"sets": ["synth-*"]}, r"no test set 'synth-\*'; did you mean"),
    ({"method": "swao"}, "no method 'swao'; did you mean swap"),
    ({"sets": ["synth-a"], "method": "warpp"}, "no method 'warpp'; did you mean warp"),
    ({"metric": "iou"}, "(?:LAE|Baseline) has no iou"),
]


@pytest.mark.parametrize(("change", "problem"), UNKNOWN)
def test_a_claim_that_the_profile_could_never_judge_is_refused(empty_home, change, problem):
    path = empty_home / "data_manifest/claims/mine.yaml"
    entries = claim(paper="lae", detector="LAE", against="Baseline", sets=["cross", "synth-a"])
    made = claims.Known(
        {"LAE": "lae", "Baseline": "xception"},
        {"LAE": [0, 1], "Baseline": [0, 1]},
        ["LAE"],
        {"synth-a": ["real", "swap", "warp"]},
    )
    for listed in (entries, {**entries, **change}):
        content = {"delta": DELTA, "registered": "2026-01-01", "claims": [listed]}
        write_bytes(path, yaml.safe_dump(content).encode())
        if listed is entries:
            claims.check_plan("mine", made, ["lae", "xception"])
    with pytest.raises(DfnbError, match=f"mine, claim c, .*: .*{problem}"):
        claims.check_plan("mine", made, ["lae", "xception"])
    unprepared = made._replace(methods_of={"synth-a": [], "synth-b": ["swap"]})
    if "method" in change:  # that of a test set that is not there cannot be known
        claims.check_plan("mine", unprepared, ["lae", "xception"])


# A report may come before all trainings of its plan, which knows the detector.
IN_TRAINING = [
    ({"detector": "Lae"}, "Lae has no scores yet"),
    ({"against": "Basline"}, "Basline has no scores yet"),
]


@pytest.mark.parametrize(("change", "problem"), [*IN_TRAINING, *UNKNOWN[2:]])
def test_of_a_report_it_is_listed_and_counts(judge, change, problem):
    """The other claim of the family keeps its p: it is one of two, whatever the other one says."""
    expected = judge({}, {})
    rows = judge({}, change)
    assert re.match(f"not judged: .*{problem}", rows["verdict"].iloc[1])
    assert rows["p_gain"].isna().tolist() == [False, True]
    assert rows["p_gain"].iloc[0] == expected["p_gain"].iloc[0]


def test_a_detector_that_lacks_a_registered_seed_is_in_no_table(judge, capsys):
    judge({"seeds": [0, 1, 2, 3, 4]}, {"detector": "Baseline", "against": "", "seeds": [0, 9]})
    table = results.scores("demo")
    kept = claims.complete("demo", table)
    assert {*kept["detector"]} == {"LAE"} and {*table["detector"]} == {"LAE", "Baseline"}
    assert "Baseline is left out until all seeds of its claims are in." in capsys.readouterr().out


# ---------------------------------------------------------------- what is committed

REPORTS = ["study-ff-like", "study-recipe"]
# What decides nothing: the text of a claim, and its name where no other claim rests on it.
FREE = {"id", "says", "source"}


@pytest.fixture
def committed(checkout, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    return checkout


def mistyped(value):
    """A value with one letter or digit replaced, in the first entry of a list."""
    if isinstance(value, list):
        return [mistyped(value[0]), *value[1:]]
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 7
    text = str(value).lower() if isinstance(value, bool) else value
    middle = len(text) // 2
    return f"{text[:middle]}{'q' if text[middle] != 'q' else 'z'}{text[middle + 1 :]}"


def mistakes(name):
    """A file of claims with one letter wrong in one field of one claim: claim, field, content."""
    content = read_yaml(find(f"data_manifest/claims/{name}.yaml"))
    content["registered"] = str(content["registered"])
    for number, listed in enumerate(content["claims"]):
        for field, value in listed.items():
            if value != "":
                changed = [*content["claims"]]
                changed[number] = {**listed, field: mistyped(value)}
                yield number, field, {**content, "claims": changed}


def outlines(report_name):
    """The scores of a report without most of their rows, but with all that claims may name."""
    found = {}
    for level in ("video", "frame"):
        table = results.scores(report_name, level=level)
        table = table[~table["test_set"].astype(str).str.contains("world-(?!01)")]
        table = table.assign(energy=table["energy"].notna().map({True: 1.0, False: np.nan}))
        names = ["detector", "paper", "seed", "test_set", "place", "method", "corruption", "energy"]
        found[level] = table[names].drop_duplicates()
    return found


@pytest.mark.parametrize("name", REPORTS)
def test_one_wrong_letter_is_refused_or_leaves_the_other_claims_alone(committed, monkeypatch, name):
    """Whatever is mistyped: it counts like a claim that shows nothing, so no other p falls."""
    of_scores = outlines(name)
    file = profile_of(name)["claims"]
    registered = claims.read_claims(file)
    now = {"content": registered}
    monkeypatch.setattr(claims, "read_claims", lambda _: now["content"])
    monkeypatch.setattr(claims, "thresholds", lambda _: {})
    # The p of a claim depends on its detector, and is near the limit of the correction.
    monkeypatch.setattr(
        claims, "_number", lambda claim, *_: number(0.0005 * len(claim.against), 0.06)
    )
    columns = [*claims.VERDICT_OF_P]
    expected = claims.judge(name, **of_scores)
    assert expected.loc[expected["family"], "p_gain"].notna().any()
    sizes = [len(each.sets) for each in registered.claims]
    for place, field, content in mistakes(file):
        try:
            now["content"] = claims.Content.check(content, file)
        except DfnbError:
            continue
        judged = claims.judge(name, **of_scores)
        own = range(sum(sizes[:place]), sum(sizes[: place + 1]))
        others = judged.drop(own)
        assert not (others[columns] < expected[columns].drop(own) - 1e-12).any(axis=None), field
        detectable = expected["detectable"].drop(own)  # at the first step, for as many claims
        pd.testing.assert_series_equal(others["detectable"], detectable)
        if field not in FREE:
            assert judged["verdict"][own].str.startswith("not judged: ").all(), (place, field)


def test_a_paper_that_has_left_is_read_and_judged_by_what_is_stored(committed, capsys):
    """By the name in its records; nothing opens its weights."""
    title, paper = "Self-Blended Images", "self_blended_images"
    assert paper not in papers.modules()
    (detector,) = [each for each in results.detectors("study-ff-like") if each.paper == paper]
    assert detector.name == title and [run.seed for run in detector.runs] == [30, 31, 32, 33, 34]
    table = results.scores("study-ff-like")
    assert table.query("detector == @title")["test_set"].nunique() == 13
    judged = claims.judge("study-ff-like", video=table).set_index("id")
    assert judged.loc["sbi-ff-like", "value"].notna().all()
    first = Run.find(detector.runs[0].id)
    folder = committed / "reports/study-ff-like"
    assert score_path(folder, first.id).exists() and not first.has_weights
    assert title not in measuring.first_runs("study-ff-like")
    with pytest.raises(DfnbError, match=f"there is no paper '{paper}'"):
        first.network(folder / "a.safetensors")
    planning.plan("study-ff-like")
    said = capsys.readouterr().err
    assert f"claims-ff-like, claim sbi-ff-like: the paper {paper} is not here" in said


def test_the_family_of_claims_that_were_never_run_is_fixed_too(committed):
    def size(content):
        return sum(len(claim.sets) for claim in content.claims if claim.is_primary)

    expected = size(claims.read_claims("claims-published"))
    for place, field, content in mistakes("claims-published"):
        try:
            checked = claims.Content.check(content, "claims-published")
        except DfnbError:
            continue
        assert size(checked) == expected, (place, field)


@pytest.fixture
def copied(checkout, empty_home):
    """A committed report and its claims as those of the home, whose files may be changed."""
    for folder in ("reports/study-recipe/scores", "data_manifest/claims"):
        shutil.copytree(checkout / folder, empty_home / folder)
    profile = "reports/study-recipe/profile.yaml"
    shutil.copy(checkout / profile, empty_home / profile)
    return empty_home / "reports/study-recipe/scores"


@pytest.mark.parametrize("fault", ["away", "of another seed", "damaged"])
def test_a_claim_is_not_judged_without_one_of_its_runs(copied, fault):
    paths = copied.glob("exposing_the_deception-ff-like-31-s31-*.parquet")
    (path,) = [path for path in paths if read_about(path).variants == ["main"]]
    about = read_about(path)
    if fault == "away":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(DfnbError, match=path.name):
            claims.judge("study-recipe")
        return
    else:
        other = {"seed": 39, "train_set": "ff-like-39"}
        parameters = about.record.parameters.model_copy(update=other)
        record = about.record.model_copy(update={"parameters": parameters})
        write(path, pd.read_parquet(path), about.model_copy(update={"record": record}))
    judged = claims.judge("study-recipe").set_index("id")
    assert judged.loc["etd-across-recipe", "verdict"] == "not judged: 4 of 5 seeds"
    assert judged.loc["etd-across-recipe", ["value", "p_gain"]].isna().all()
    assert judged.loc["lv-across-recipe", ["value", "p_gain"]].notna().all()
