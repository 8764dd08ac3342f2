"""A table says which trainings, seeds and units its rows are of: all of them."""

import re
from collections import defaultdict
from functools import partial

import pandas as pd
import planted
import pytest
import yaml
from numpy import nan

import notebooks
from dfnb import results, statistics
from dfnb.results import claims, reading, tables
from dfnb.results.metrics import Trainings
from dfnb.statistics import NAN
from dfnb.store.scores import Condition
from facesets import files

A, B = planted.SETS
# ---------------------------------------------------------------- what it must say


def expected_facts(number, rows):
    """The same from the rows of scores that a number is of, of which no table knows.

    These are all that it compares and averages. Runs that collapsed are left out.
    """
    rows = rows[~rows["collapsed"]] if not rows["collapsed"].all() else rows
    names = [name for name in (number["detector"], number["minus"]) if name in {*rows["detector"]}]
    of_each = {name: rows[rows["detector"] == name] for name in names}
    common = set.intersection(
        *({*zip(each["seed"], each["test_set"])} for each in of_each.values())
    )
    first = of_each[number["detector"]]
    pairs = [*zip(first["seed"], first["test_set"])]
    of_one_seed = first[[pair in common and pair[0] == min(common)[0] for pair in pairs]]
    key = ["test_set", *(name for name in reading.UNITS["frame"] if name in first)]
    units = of_one_seed[key].drop_duplicates()
    counts = [f"{(units['label'] == label).sum():,}" for label in (0, 1)]
    train_sets = [name for each in of_each.values() for name in each["train_set"].unique()]
    return {
        "trained on": " / ".join(dict.fromkeys(train_sets)),
        "seeds": {seed for seed, _ in common},
        "original/forged": "/".join(counts),
        "clusters": f"{len(units[['test_set', 'cluster']].drop_duplicates()):,}",
    }


# ---------------------------------------------------------------- all kinds of tables

CLAIM = {
    "paper": "control",
    "source": "us",
    "kind": "shown",
    "metric": "AUC",
    "says": "S.",
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A report with each kind of scores, and claims on its detectors."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("captions")
        patch.setenv("DFNB_HOME", str(folder))
        for module in (claims, statistics):
            patch.setattr(module, "REPLICATES", 20)
        patch.setattr(tables, "measure", partial(results.measure, replicates=20))
        planted.write_all("hand")
        for seed in (2, 3, 4):  # a detector of three seeds, with maps of its first
            located = {Condition(name): planted.table(name).assign(pixel_ap=0.4) for name in (A, B)}
            measures = planted.measured(A, seed, energy=0.5, **{"constant energy": 0.4})
            more = {Condition(A, map="shape"): measures} if seed == 2 else {}
            planted.write("hand", "locate_and_verify", seed, "masks: 0 %", more={**located, **more})
            planted.write(
                "hand", "xception", seed, "masks: 0 %", train_set=B, rule="the last epoch"
            )
            planted.write("hand", "xception", seed, strength=3)
        text = {"delta": dict.fromkeys(["within", "cross", "accuracy", "localisation"], 0.02)}
        first = {
            "detector": "Locate and Verify",
            "against": "Baseline",
            "sets": ["within", "cross"],
        }
        second = {
            "detector": "LAE, face swap: main",
            "sets": [B],
            "method": "swap",
        }
        listed = [{**CLAIM, "id": str(i), **each} for i, each in enumerate((first, second))]
        text |= {"registered": "2026-01-01", "claims": listed}
        path = folder / "data_manifest" / "claims" / "mine.yaml"
        files.write_bytes(path, yaml.safe_dump(text).encode())
        patch.setattr(claims, "profile_of", lambda name: {"claims": "mine"})
        yield


def rows_of(table, number, **also):
    """The rows of scores that agree with a number in these columns, of its detector and minus."""
    rows = table[table["detector"].isin([number["detector"], number["minus"]])]
    place = number.get("place") or number.get("on")
    if isinstance(place, str) and place:
        named = place.split(", ")
        rows = rows[(rows["place"] == place) | rows["test_set"].isin(named)]
    for name in ("test_set", "map", "corruption", "severity", "seed"):
        if name in number and name not in also:
            rows = rows[rows[name] == number[name]]
    if number.get("method") not in (None, "all", nan):
        rows = rows[rows["method"].isin([number["method"], "real"])]
    return rows


def kinds():
    """By kind of table: its numbers, and what gives the scores that a number is of."""
    every = results.scores("hand")
    scores = every[every["corruption"] == ""]
    corrupted = every[every["corruption"] != ""]
    main = tables.main(scores)
    frames = results.scores("hand", level="frame").query("corruption == ''")
    maps = results.maps("hand")
    located = maps[~maps["sanity"]]
    by = ["detector", "map", "test_set"]
    averaged = notebooks.cells("_report", "averaged")["averaged"]
    few = partial(results.measure, replicates=20)
    limits = {"thresholds": results.thresholds("hand")}
    of_scores = partial(rows_of, scores)
    three = pd.concat(
        [main.astype({"detector": str}), averaged(main[main["detector"] == "Baseline"], 3)]
    )
    by_method = tables.by_place(scores, by=["detector", "method"])
    yield "main", tables.by_place(main), of_scores
    yield "pairs", tables.pairs(main), of_scores
    yield "ensemble", tables.by_place(three, minus="Baseline × 3"), partial(rows_of, three)
    yield "variants", tables.variants(scores), of_scores
    yield "methods", by_method, of_scores
    of_one = scores[scores["test_set"] == A]
    yield "by seed", few(of_one, "AUC", ["detector", "seed"]), partial(rows_of, of_one)
    names = ["AUC", "false positive rate", "EER"]
    yield "frames", tables.by_place(frames, names[:1], **limits), partial(rows_of, frames)
    real = frames[frames["label"] == 0]
    yield (
        "false positive rate",
        tables.by_place(frames, names[1:2], **limits),
        partial(rows_of, real),
    )
    masked = scores.dropna(subset="pixel_ap")
    yield "located", tables.by_place(scores, ["pixel_ap"]), partial(rows_of, masked)
    shares = [few(located, name, by) for name in ("energy", "constant energy")]
    yield "maps", pd.concat(shares), partial(rows_of, located)
    against = few(located, "energy", by, minus=[{"map": "edges"}])
    yield "maps minus another", against, partial(rows_of, located)
    checked = maps[maps["sanity"] & (maps["seed"] == 0)]  # of the first training
    yield "sanity", tables.sanity(maps), partial(rows_of, checked)
    means = few(corrupted, "AUC", ["detector", "corruption"], ["test_set", "severity"])
    yield "robustness", means, partial(rows_of, corrupted)
    judged = claims.judge("hand", video=every)
    judged = judged[judged["value"].notna()].assign(minus=judged["against"])
    assert {*judged["id"]} == {"0", "1"}
    yield "claims", judged, of_scores


def test_a_table_says_what_its_numbers_are_of():
    for kind, numbers, read in kinds():
        facts = tables.facts(numbers)
        assert len(facts) == len(numbers) > 0, kind
        names = {name.partition(" videos")[0].partition(" frames")[0]: name for name in facts}
        for place, number in enumerate(numbers.to_dict("records")):
            expected = expected_facts(number, read(number))
            assert {*number["of_seeds"]} == expected.pop("seeds"), (kind, number)
            for name, value in expected.items():
                assert facts[names[name]].iloc[place] == value, (kind, name, number)


def made(**columns):
    """Two numbers of one training set, made by hand, but for some columns."""
    usual = {"detector": ["A", "B"], "place": "in-dataset", "n_real": 4, "n_fake": 2000}
    usual |= {"clusters": 3, "seeds": 5, "collapsed": 0, "unit": "videos", "over": "people, seeds"}
    table = pd.DataFrame({**usual, **columns})
    each = {
        "of_trainings": (Trainings("A", "ff-like-{seed}", "last"),),
        "of_seeds": (1, 2, 3, 4, 5),
    }
    each["of_sets"] = ("ff-like",)
    for name, value in each.items():
        if name not in table:
            table[name] = [value] * len(table)
    return table


def described(numbers, index="detector"):
    """The columns that a table of these numbers gets, and the sentence."""
    table, text = tables.described(pd.DataFrame(index=numbers.set_index(index).index), numbers)
    return table.to_dict("list"), text


def test_what_all_rows_share_is_one_sentence_and_the_rest_columns():
    shared = "Trained on ff-like-{seed}; seeds 1 to 5; original/forged videos 4/2,000; clusters 3; "
    shared += "95 % intervals over people and seeds."
    assert described(made()) == ({}, shared)
    columns, text = described(made(clusters=[3, 1200], of_seeds=[(7,), (7, 8)], collapsed=[0, 1]))
    assert columns == {
        "seeds": ["7: one training", "7, 8, exploratory"],
        "collapsed": ["", "1"],
        "clusters": ["3", "1,200"],
    }
    end = "original/forged videos 4/2,000; 95 % intervals over people and seeds."
    assert text == f"Trained on ff-like-{{seed}}; {end}"
    # A row with two numbers has the facts of both.
    both = made(detector="A", place=["in-dataset", "cross-dataset"], clusters=[3, 9])
    both["over"] = ["people, seeds", ""]
    assert described(both, "place")[0] == {"clusters": ["3", "9"]}
    assert tables.caption(both).endswith(
        "clusters 3 or 9; 95 % intervals over people and seeds, where there is one."
    )
    assert tables.caption(both[1:]).endswith("clusters 9; no interval.")  # a threshold has none
    few = both[1:].assign(clusters=2)
    assert tables.caption(few).endswith("clusters 2; no interval, which needs three clusters.")


def test_networks_of_one_fold_are_called_so():
    """Of folds all are tested; other sets by the networks of a single one."""
    folds = (Trainings("A", "clips-fold-{fold}", "last"),)
    numbers = made(
        of_trainings=[folds] * 2, of_sets=[("clips-fold-1", "clips-fold-2"), ("ff-like",)]
    )
    columns, _ = described(numbers)
    assert columns == {"trained on": ["clips without the fold tested", "clips without one fold"]}


def test_a_claim_without_a_number_has_dashes():
    numbers = made(detector=["A", "B", "C"], clusters=[3, 4, 9], seeds=[5, NAN, 5])
    columns, text = described(numbers)
    assert columns == {"clusters": ["3", "–", "9"]} and text.startswith(
        "Trained on ff-like-{seed}; "
    )
    assert described(numbers[1:2]) == ({}, "")


# ---------------------------------------------------------------- committed tables


STUDIES = ["study-ff-like", "study-hidf", "study-recipe"]
CONDITION = ["test_set", "corruption", "map", "sanity"]


@pytest.fixture
def committed(checkout, monkeypatch):
    """The committed reports as those of the home."""
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    return checkout / "reports"


def measured(name):
    """What was scored, by detector: its training sets and rules, and the seeds by set.

    The last has a key per test set, whether it was corrupted, and map; units and clusters are in
    a second table, by test set: the number of real and of fake videos and frames.
    """
    detectors, units = {}, {}
    for detector, run, path, *_ in reading.sources(name):
        facts = detectors.setdefault(detector.name, {"seeds": defaultdict(set)})
        rule = run.record.rule.replace(run.train_set, detector.train_set)
        facts |= {"train_set": detector.train_set, "collapsed": facts.get("collapsed", set())}
        facts["rule"] = rule.removesuffix(f" of {detector.train_set}")
        rows = pd.read_parquet(path, columns=CONDITION).drop_duplicates()
        if run.record.collapsed:
            facts["collapsed"] |= {(run.seed, test_set) for test_set in rows["test_set"]}
        for row in rows.itertuples():
            facts["seeds"][row.test_set, row.corruption != "", row.map].add(run.seed)
        new = {*rows.loc[rows["map"] == "", "test_set"]} - {*units}
        if new:
            columns = [*CONDITION, "video", "cluster", "label", "track", "frame"]
            every = pd.read_parquet(path, columns=columns).query("map == '' and corruption == ''")
            for test_set, of_set in every[every["test_set"].isin(new)].groupby("test_set"):
                videos = of_set.drop_duplicates("video")
                units[test_set] = {
                    "videos": [(videos["label"] == label).sum() for label in (0, 1)],
                    "frames": [(of_set["label"] == label).sum() for label in (0, 1)],
                    "clusters": videos["cluster"].nunique(),
                }
    return detectors, units


def check_rows(rows, detectors, units):
    """The rows of ``results.parquet`` are of all trainings that have their test sets scored."""
    for row in rows.to_dict("records"):
        if not any(train_set for _, train_set, _ in row["of_trainings"]):
            continue  # of a control that is no training
        names = [name.removesuffix(" × 3") for name, *_ in row["of_trainings"]]
        key = "" if not isinstance(row["map"], str) else row["map"]
        # In a mean over folds collapsed runs count, unless all of a seed are, see measure.
        is_fold = row["metric"] == "AUC" and len(row["of_sets"]) > 1
        is_fold &= all("-fold-" in test_set for test_set in row["of_sets"])
        scored = [
            {
                seed
                for seed in detectors[name]["seeds"][test_set, False, key]
                if is_fold or (seed, test_set) not in detectors[name]["collapsed"]
            }
            for name in names
            for test_set in row["of_sets"]
        ]
        assert {*row["of_seeds"]} == set.intersection(*scored), row
        for name, (_, train_set, rule) in zip(names, row["of_trainings"]):
            assert detectors[name]["train_set"] == train_set, row
            assert detectors[name]["rule"] == rule.removesuffix(f" of {train_set}"), row
        if row["metric"] == "AUC" and not isinstance(row["method"], str):
            counted = [units[test_set] for test_set in row["of_sets"]]
            for label, kind in enumerate(("n_real", "n_fake")):
                assert row[kind] == sum(each[row["unit"]][label] for each in counted), row
            assert row["clusters"] == sum(each["clusters"] for each in counted), row


def test_committed_numbers_are_of_all_that_was_scored(committed):
    for name in STUDIES:
        results = pd.read_parquet(committed / name / "results.parquet")
        results = results[results["of_seeds"].notna()]
        results = results.reindex(columns=results.columns.union(["map", "method"]))
        check_rows(results, *measured(name))


def test_only_registered_claims_have_a_p(committed):
    """In the tables for spreadsheets, and in what all of them are joined to."""
    files = list(committed.glob("study-*/tables/*.csv"))
    assert len(files) > 30
    for path in files:
        names = {*pd.read_csv(path, nrows=0).columns}
        p_values = {name for name in names if re.fullmatch("p|p_.*", name)}
        assert p_values == ({*claims.VERDICT_OF_P} if path.stem == "claims" else set()), path
    for path in committed.glob("study-*/results.parquet"):
        table = pd.read_parquet(path)
        p_values = table.filter(regex="^p(_|$)")
        assert p_values[table["table"] != "claims"].isna().all(axis=None) and "p" not in table


def test_intervals_are_over_videos_where_nobody_knows_who_is_in_them():
    """A cluster then has the name of a real video, also among maps, which are of fakes alone."""

    def named(table):
        return table.assign(cluster="real/" + table["cluster"])

    more = {Condition(name): named(planted.table(name)) for name in planted.SETS}
    more[Condition(A, map="Grad-CAM")] = named(planted.measured(A, energy=0.5))
    planted.write("unknown", "xception", more=more)
    scores = results.scores("unknown")
    assert {*tables.by_place(scores)["over"]} == {"videos"}
    assert tables.caption(tables.by_place(scores)).endswith("; 95 % intervals over videos.")
    assert {*results.measure(results.maps("unknown"), "energy", "map")["over"]} == {"videos"}
    own = scores.drop(columns="cluster_of")  # as a reader's own table
    both = pd.concat([scores, own.assign(detector="own")])
    for table in (own, both):
        assert {*results.measure(table, "AUC", ["detector", "test_set"])["over"]} == {"videos"}
    known = tables.by_place(tables.main(results.scores("hand")))["over"]
    assert known.str.contains("people").all() and not known.str.contains("videos").any()
