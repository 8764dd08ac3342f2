"""A caption says which trainings, seeds and test sets the rows of its table are of: all of them."""

import re
from collections import defaultdict
from functools import partial
from itertools import chain

import pandas as pd
import planted
import pytest
import yaml
from numpy import nan

import notebooks
from dfnb import report, statistics
from dfnb.report import claims, reading, tables
from dfnb.store.scores import Condition, read_about
from facesets import files

A, B = planted.SETS
SENTENCES = (
    r"Trained on: (?P<train_set>.*?)\. Seeds: (?P<seed>.*?)\. Checkpoint: (?P<rule>.*?)\. "
    r"Tested on: (?P<test_sets>.*?)\. Each number is of (?P<counts>.*?)\. "
    r"(?:A video's score is the mean over its frames\. )?Intervals: (?P<intervals>.*?)\."
)
COUNTS = (
    r"(?:(?P<real>[\d, to]*) real)?(?: and )?(?:(?P<fake>[\d, to]*|as many) fake)? "
    r"(?:videos|frames|videos or frames) in (?P<clusters>.*) clusters"
)
# Tables that are of datasets, records or published figures, not of the scores of trainings.
OF_NO_SCORES = {"audit", "compared", "published", "shortcuts", "test_sets"}


# ---------------------------------------------------------------- what a caption says


def expanded(text):
    """The names of a range such as bed, world-01 to world-24."""
    names = set()
    for part in text.split(", "):
        first, _, last = part.partition(" to ")
        prefix, digits = re.fullmatch(r"(.*?)(\d*)", first).groups()
        end = int(last.removeprefix(prefix)) if last else int(digits or 0)
        width = len(digits)
        numbers = range(int(digits or 0), end + 1)
        names |= {f"{prefix}{number:0{width}}" if width else prefix for number in numbers}
    return names


def is_called(detector, words):
    """Whether words such as "all of LAE", "all with masks: 0 %" or its whole name are of it."""
    if words.startswith("all of "):
        whole = words.removeprefix("all of ")
        return detector == whole or detector.startswith((f"{whole}, ", f"{whole}: "))
    if words.startswith("all with "):
        whole = words.removeprefix("all with ")
        variant = detector.partition(", ")[2]
        return variant == whole or variant.startswith(f"{whole}: ")
    return detector == words


def values_of(text, detector):
    """What "30 to 34 (30 to 32 for LAE; 30 for all with masks)" says of a detector."""
    most, others = re.fullmatch(r"(.*?)(?: \((.* for .*)\))?", text).groups()
    found = []
    for each in others.split("; ") if others else ():
        value, names = each.split(" for ", 1)
        if any(is_called(detector, words) for words in names.split(" / ")):
            found.append(value)
    assert len(found) < 2, (text, detector)
    return {*(found or [most])[0].split(" or ")}


def span(text):
    """The numbers of "400 to 4,800"."""
    return {int(each.replace(",", "")) for each in text.split(" to ")}


def check(text, expected):
    """That a caption says of each detector, and of the table, exactly what is expected.

    ``expected``: train_set, seed and rule by detector, as sets; test_sets; and the lowest and the
    highest number of real and fake units and of clusters.
    """
    said = re.search(SENTENCES, text)
    assert said, text
    for fact in ("train_set", "rule"):
        for detector, values in expected[fact].items():
            assert values_of(said[fact], detector) == values, (fact, detector, text)
    for detector, values in expected["seed"].items():
        stated = {frozenset(expanded(each)) for each in values_of(said["seed"], detector)}
        if {*map(len, values)} == {1}:  # a row per seed
            values = {frozenset().union(*values)}
        assert stated == values, (detector, text)
    names, count = re.fullmatch(r"(.*?)(?: \(\[?(\d+) test sets.*\))?", said["test_sets"]).groups()
    assert expanded(names) == expected["test_sets"], text
    assert (count is not None) == (len(expected["test_sets"]) > tables.FEW_SETS)
    assert int(count or 0) in (0, len(expected["test_sets"]))
    counts = re.fullmatch(COUNTS, said["counts"])
    for kind in ("real", "fake", "clusters"):
        is_same = counts[kind] == "as many"
        stated = span(counts["real"] if is_same else counts[kind]) if counts[kind] else set()
        assert stated == expected["counts"][kind], (kind, text)
    is_one = any(len(of_row) == 1 for values in expected["seed"].values() for of_row in values)
    assert ("of one training" in text) == is_one


# ---------------------------------------------------------------- what it must say


def of_scores(numbers, read):
    """The same from the rows of scores that each number is of, of which no caption knows.

    ``read`` gives these for a number: all that it compares and averages, without collapsed runs.
    """
    found = {name: defaultdict(set) for name in ("train_set", "rule", "seed")}
    test_sets, counts = set(), defaultdict(set)
    for number in numbers.to_dict("records"):
        rows = read(number)
        rows = rows[~rows["collapsed"]] if not rows["collapsed"].all() else rows
        names = [
            name for name in (number["detector"], number["minus"]) if name in {*rows["detector"]}
        ]
        of_each = {name: rows[rows["detector"] == name] for name in names}
        common = set.intersection(
            *({*zip(each["seed"], each["test_set"])} for each in of_each.values())
        )
        seeds, sets = {str(seed) for seed, _ in common}, {name for _, name in common}
        test_sets |= sets
        found["seed"][number["detector"]].add(frozenset(seeds))
        for name, each in of_each.items():
            found["train_set"][name] |= {*each["train_set"]}
            found["rule"][name] |= {
                rule.removesuffix(f" of {train_set}")
                for rule, train_set in zip(each["rule"], each["train_set"])
            }
        first = of_each[number["detector"]]
        first = first[first["seed"].astype(str).isin([min(seeds)]) & first["test_set"].isin(sets)]
        key = ["test_set", *(name for name in reading.UNITS["frame"] if name in first)]
        units = first[key].drop_duplicates()
        for kind, is_kind in (("real", units["label"] == 0), ("fake", units["label"] == 1)):
            counts[kind].add(is_kind.sum())
        counts["clusters"].add(len(units[["test_set", "cluster"]].drop_duplicates()))
    ends = {}
    for kind, values in counts.items():
        known = values - {0}
        ends[kind] = {min(known), max(known)} if known else set()
    return {**found, "test_sets": test_sets, "counts": ends}


# ---------------------------------------------------------------- all kinds of tables

CLAIM = {
    "paper": "locate_and_verify",
    "source": "us",
    "kind": "gain",
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
        patch.setattr(tables, "measure", partial(report.measure, replicates=20))
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
            "kind": "shown",
        }
        third = {
            "detector": "Baseline",
            "metric": "energy",
            "map": "shape",
            "sets": [A],
            "kind": "shown",
        }
        listed = [{**CLAIM, "id": str(i), **each} for i, each in enumerate((first, second, third))]
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
    every = report.scores("hand")
    scores = every[every["corruption"] == ""]
    corrupted = every[every["corruption"] != ""]
    main = tables.main(scores)
    frames = report.scores("hand", level="frame").query("corruption == ''")
    maps = report.maps("hand")
    located = maps[~maps["sanity"]]
    by = ["detector", "map", "test_set"]
    averaged = notebooks.cells("_report", "averaged")["averaged"]
    few = partial(report.measure, replicates=20)
    limits = {"thresholds": report.thresholds("hand")}
    of_scores = partial(rows_of, scores)
    three = pd.concat(
        [main.astype({"detector": str}), averaged(main[main["detector"] == "Baseline"])]
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
    judged = claims.judge("hand", video=every, maps=maps)
    judged = judged[judged["value"].notna()].assign(minus=judged["against"])
    assert {*judged["id"]} == {"0", "1", "2"}

    def of_claim(number):
        if number["map"]:
            return rows_of(located, number)
        return rows_of(scores, number)

    yield "claims", judged, of_claim


def test_a_caption_says_what_its_rows_are_of():
    for kind, numbers, read in kinds():
        assert len(numbers), kind
        print(kind)
        check(tables.caption(numbers, "test_sets.md"), of_scores(numbers, read))


# ---------------------------------------------------------------- committed tables


STUDIES = ["study-bed", "study-ff-like", "study-hidf", "study-papers", "study-recipe"]
PLACES = {"in-dataset", "cross-dataset"}
CONDITION = ["test_set", "corruption", "map", "sanity"]


@pytest.fixture
def committed(checkout, monkeypatch):
    """The committed reports as those of the home."""
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    return checkout / "reports"


def measured(name):
    """What was scored, by detector: its training sets, rules and places, and the seeds by set.

    The last has a key per test set, whether it was corrupted, and map; units and clusters are in
    a second table, by test set: the number of real and of fake videos and frames.
    """
    detectors, units = {}, {}
    for detector, run, path, *_ in reading.sources(name):
        facts = detectors.setdefault(detector.name, {"places": {}, "seeds": defaultdict(set)})
        rule = run.record.rule.replace(run.train_set, detector.train_set)
        facts |= {"train_set": detector.train_set, "collapsed": facts.get("collapsed", set())}
        facts["rule"] = rule.removesuffix(f" of {detector.train_set}")
        about = read_about(path)
        rows = pd.read_parquet(path, columns=CONDITION).drop_duplicates()
        if run.record.collapsed:
            facts["collapsed"] |= {(run.seed, test_set) for test_set in rows["test_set"]}
        for row in rows.itertuples():
            kept = about.test_sets[row.test_set]
            place = "in-dataset" if kept.domain == about.train_domain else "cross-dataset"
            is_apart = kept.apart and row.test_set != run.train_set
            facts["places"][row.test_set] = row.test_set if is_apart else place
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


def stated(rows):
    """What the caption must say of rows of ``results.parquet``, as of :func:`of_scores`."""
    facts = {name: defaultdict(set) for name in ("train_set", "rule", "seed")}
    for trainings, seeds in zip(rows["of_trainings"], rows["of_seeds"]):
        for detector, train_set, rule in trainings:
            facts["train_set"][detector].add(train_set)
            facts["rule"][detector].add(rule.removesuffix(f" of {train_set}"))
        facts["seed"][trainings[0][0]].add(frozenset(map(str, seeds)))
    ends = {}
    for kind, name in (("real", "n_real"), ("fake", "n_fake"), ("clusters", "clusters")):
        known = rows.loc[rows[name] > 0, name].astype(int)
        ends[kind] = {known.min(), known.max()} if len(known) else set()
    return {**facts, "test_sets": {*chain(*rows["of_sets"])}, "counts": ends}


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


def check_file(table, text, detectors, units):
    """A caption says nothing of the detectors and test sets of its table but what was scored."""
    said = re.search(SENTENCES, text)
    assert said, text
    sets = expanded(said["test_sets"].partition(" (")[0])
    assert sets <= {*units}, text
    shown = {*table.columns, *table.to_numpy().ravel()}
    datasets = {re.sub(r"-fold-\d+$", "", each) for each in sets}  # folds may stand under its name
    named = shown & {*units, *datasets}
    assert named <= sets | datasets, text
    assert shown & PLACES or not named or named in (sets, datasets), text
    for name in detectors.keys() & {*table.get("detector", ()), *table.get("minus", ())}:
        facts = detectors[name]
        assert values_of(said["train_set"], name) == {facts["train_set"]}, (name, text)
        assert values_of(said["rule"], name) == {facts["rule"]}, (name, text)
        own = {*chain(*facts["seeds"].values())}
        for each in values_of(said["seed"], name):
            assert {*map(int, expanded(each))} <= own, (name, text)
    if "seeds" in table:
        texts = {re.split(":|, exploratory", each)[0] for each in table["seeds"]}
        said_of = [values_of(said["seed"], name) for name in table["detector"]]
        assert {*chain(*map(expanded, texts))} == {*chain(*map(expanded, chain(*said_of)))}, text
    counts = re.fullmatch(COUNTS, said["counts"])
    for label, kind in enumerate(("real", "fake")):
        most = sum(units[test_set]["frames"][label] for test_set in sets)
        if counts[kind] and counts[kind] != "as many":
            assert 0 < min(span(counts[kind])) <= max(span(counts[kind])) <= most, text


def test_committed_tables_say_what_they_are_of(committed):
    for name in STUDIES:
        detectors, units = measured(name)
        results = pd.read_parquet(committed / name / "results.parquet")
        results = results[results["of_seeds"].notna()]
        results = results.reindex(columns=results.columns.union(["map", "method"]))
        listed = dict(tuple(results.groupby("table")))
        files_of = {path.stem: path for path in (committed / name / "tables").glob("*.md")}
        assert {*listed} <= {*files_of}
        for stem, path in files_of.items():
            *_, table, text = path.read_text(encoding="utf-8").strip().split("\n\n")
            assert len(text) > 20, path
            if stem in OF_NO_SCORES:
                continue
            if stem in listed:
                check(text, stated(listed[stem]))
            lines = [
                [cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()
            ]
            check_file(pd.DataFrame(lines[2:], columns=lines[0]), text, detectors, units)
        check_rows(results, detectors, units)
