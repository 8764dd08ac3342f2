"""The long table of a report: one number per row. Tables, figures and claims read nothing else.

:class:`ResultRow` documents the columns. On each test set and under each condition, every detector
is measured, then the differences of two detectors, on the same units and at the same seeds;
cross-dataset means and the movement of the losses in training follow.

One rule makes every interval, at 95 %. The variance over videos is that of :mod:`dfnb.metrics`; the
variance over seeds is that of the seeds' values, divided by their number. The two are added, with
Satterthwaite's degrees of freedom. A value in [0, 1] is carried to the logit scale and back; a
difference or a signed value has a Wald interval. The p value is from the same error and degrees.

``python -m dfnb.results PROFILE`` makes the table of a report.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, combinations, product
from operator import attrgetter

import numpy as np
import pandas as pd

from dfnb import claims
from dfnb.files import find, read_facts, read_table, sha256, write_table
from dfnb.metrics import CROSS_DATASET_MEAN, LEVELS, Level, check_same_units
from dfnb.settings import DfnbError
from dfnb.sides import ALL_METHODS, VERSUS, Side
from dfnb.statistics import NAN, Outcome, summary
from dfnb.store import Condition, Detector, Report

ALL_CORRUPTIONS = "all corruptions"
MAIN = "main"  # the variant with which the others of its ablation are compared
SeedPairs = list[tuple[int | None, int | None]]


@dataclass(frozen=True)
class ResultRow:
    """One number of a report.

    Where a column does not apply, a text is empty and a number NaN. Units are videos or frames.
    """

    # What the number is of.
    detector: str  # its name in tables
    paper: str  # the module of its paper; empty for another tool
    ablation: str  # empty for main detectors
    variant: str
    minus: str = ""  # the detector that is subtracted, which may be the same one
    train_set: str = ""  # empty for another tool
    test_set: str = ""  # or CROSS_DATASET_MEAN, the mean over sets that were not trained on
    mean_over: str = ""  # the test sets of that mean
    method: str = ALL_METHODS  # or one manipulation method, with the same real units
    paired_methods: bool = False  # the test set has every method of every person, and methods are
    # compared, as in "swap − composite"; such a test set enters no mean
    corruption: str = ""  # or ALL_CORRUPTIONS
    severity: int = 0  # 1 to 5; 0: no corruption, or the mean over severities
    map: str = ""  # the attribution map that is measured
    sanity: bool = False  # whether the map is compared with those of other weights
    collapsed_included: bool = False  # whether runs that learned nothing count
    level: Level = "frame"
    metric: str = "AUC"  # of metrics.METRICS, a column of a score table, ROBUSTNESS,
    # ROBUSTNESS_KEPT, or loss_...: its mean over the first epoch minus that over the last
    # The mean over seeds, and its 95 % interval.
    value: float = NAN
    low: float = NAN  # over videos and seeds; over videos alone where there is one seed
    high: float = NAN
    low_videos: float = NAN
    high_videos: float = NAN
    low_seeds: float = NAN
    high_seeds: float = NAN
    sd: float = NAN  # over seeds
    p: float = NAN  # of a difference or signed value against 0
    error: float = NAN  # the standard error over videos and seeds
    degrees: float = NAN  # its degrees of freedom
    # What it rests on.
    n: float = NAN  # units with a value
    n_real: float = NAN
    n_fake: float = NAN
    clusters: float = NAN  # of videos that share people
    seeds: int = 0
    interval_method: str = ""  # how the variance over videos was made, see dfnb.metrics
    rule: str = ""  # that chose the epoch
    backbone: str = ""
    weights_from: str = ""  # what the training started from
    published_as: str = ""  # the name in published.csv, where the backbone is the published one
    compression: str = ""  # of the test set
    fingerprint: str = ""  # of the test set
    seeds_list: str = ""
    by_seed: str = ""  # the value of each seed
    collapsed: str = ""  # as "1 of 5": runs that learned nothing, left out unless all did
    refused: str = ""  # why there is no number
    outcomes: Sequence[Outcome] = ()  # what the number is the mean of; not in the table


# ---------------------------------------------------------------- the table


def load(profile: str) -> pd.DataFrame:
    """The table of a report, ``reports/<profile>/results.parquet``.

    It is made again when a score file or the claims have changed. Scores that cannot be used raise
    nothing: they are rows that say why.
    """
    report = Report(profile)
    path = report.folder / "results.parquet"
    facts = {"claims": sha256(find("data_manifest") / "claims.yaml")}
    for pattern in ("scores/*.parquet", "test_sets/*.parquet", "other/*/*"):
        for source in sorted(report.folder.glob(pattern)):
            facts[str(source.relative_to(report.folder))] = sha256(source)
    if not path.exists() or read_facts(path) != facts:
        write_table(path, make(report), facts)
    return read_table(path)


def make(report: Report) -> pd.DataFrame:
    """The table of a report; its columns are the fields of :class:`ResultRow` but ``outcomes``.

    Main detectors have all metrics; variants, differences and single methods have AUC, balanced
    accuracy and localisation. Under corruptions there is the AUC of videos alone.
    """
    detectors = report.detectors()
    test_sets = []
    for detector in detectors:
        test_sets += report.test_sets(detector)
    rows = []
    for test_set in dict.fromkeys(test_sets):
        rows += _of_test_set(report, detectors, test_set)
    if not rows:
        raise DfnbError(f"{report.folder} has no scores; run dfnb run {report.folder.name} first")
    rows += _cross_dataset_means(rows)
    for detector in detectors:
        rows += _losses(detector)
    return pd.DataFrame([vars(row) for row in rows]).drop(columns="outcomes")


# ---------------------------------------------------------------- what is compared


def _of_test_set(report: Report, detectors: Sequence[Detector], test_set: str) -> list[ResultRow]:
    """The rows of one test set: of each condition those of the detectors, then the differences."""
    differences = _differences(detectors)
    rows = []
    for sides in _sides(report, detectors, test_set):
        for side in sides.values():
            rows += _compare(side)
        for first, second in differences:
            both_have_scores = first in sides and second in sides
            if both_have_scores and not sides[first].facts["contrasts"]:
                rows += _compare(sides[first], sides[second])
    return rows


def _sides(
    report: Report, detectors: Sequence[Detector], test_set: str
) -> list[dict[Detector, Side]]:
    """The sides of all detectors on one test set; those of one condition and level together."""
    facts = report.test_set(test_set).attrs
    read = cache(report.read)  # both levels and several conditions read the same tables
    usual = Condition(test_set)
    by_condition = defaultdict(dict)
    for detector in detectors:
        parts = defaultdict(list)
        for stored in report.conditions(detector, test_set):
            for condition in _conditions_with(stored):
                parts[condition].append(stored)
        clean = {}
        for level in LEVELS:
            clean[level] = Side(read, detector, level, facts, usual, [usual])
        for condition, stored in parts.items():
            for level in _levels(condition, facts["contrasts"]):
                side = clean[level]
                if condition != usual:
                    side = replace(side, condition=condition, stored=stored, clean=side)
                by_condition[condition, level][detector] = side
    return list(by_condition.values())


def _conditions_with(stored: Condition) -> list[Condition]:
    """The conditions of the table that scores under a stored condition are part of."""
    if not stored.corruption:
        return [stored]
    return [stored, stored._replace(severity=0), Condition(stored.test_set, ALL_CORRUPTIONS)]


def _levels(condition: Condition, contrasts: Sequence[Sequence[str]]) -> list[Level]:
    """The levels at which scores under a condition are measured."""
    if condition.map or contrasts:
        return ["frame"]
    return ["video"] if condition.corruption else list(LEVELS)


def _differences(detectors: Sequence[Detector]) -> list[tuple[Detector, Detector]]:
    """Which detectors are compared; the second is subtracted from the first.

    With one training set: every two main detectors; every variant and the variant MAIN of its
    ablation, or else the main detector of its paper; the variants MAIN of ablations of one name.
    Besides, other tools and all main detectors, and what a claim compares.
    """
    mains = [detector for detector in detectors if detector.variant in ("", MAIN)]
    pairs = []
    for second, first in combinations(mains, 2):
        train_sets = {first.train_set, second.train_set} - {""}
        if first.ablation == second.ablation and len(train_sets) < 2:
            pairs.append((first, second))
    for variant in detectors:
        bases = []
        for main in mains:
            is_same = (main.paper, main.train_set) == (variant.paper, variant.train_set)
            if is_same and main.ablation in ("", variant.ablation):
                bases.append(main)
        if variant not in mains and bases:
            own_ablation_first = max(bases, key=attrgetter("ablation"))
            pairs.append((variant, own_ablation_first))
    by_name = {}
    for detector in detectors:
        plain_name = detector.name.removesuffix(f", {detector.train_set}")
        by_name[plain_name, detector.train_set] = detector
    for name, against in claims.compared():
        for train_set in dict.fromkeys(detector.train_set for detector in detectors):
            pair = (by_name.get((name, train_set)), by_name.get((against, train_set)))
            if None not in pair and pair not in pairs and pair[::-1] not in pairs:
                pairs.append(pair)
    return pairs


def _compare(*sides: Side) -> list[ResultRow]:
    """The rows of a side, or of the first minus the second; or one that says why there are none."""
    first = sides[0]
    row = replace(
        _blank(first.detector),
        **first.condition._asdict(),
        minus=sides[1].detector.name if len(sides) > 1 else "",
        train_set=first.detector.train_set or sides[-1].detector.train_set,
        paired_methods=bool(first.facts["contrasts"]),
        level=first.level,
    )
    try:
        return list(_rows(sides, row))
    except DfnbError as error:
        return [replace(row, refused=str(error))]


def _rows(sides: Sequence[Side], row: ResultRow) -> Iterator[ResultRow]:
    """The rows of a comparison; none where the sides share neither seeds nor severities.

    Collapsed runs are left out, unless all collapsed; each number has a second row that includes
    them.
    """
    first = sides[0]
    last = sides[-1]
    pairs = _seed_pairs(first.seeds, last.seeds)
    has_other_severities = row.corruption and first.stored != last.stored
    if has_other_severities or not pairs:
        return
    check_same_units(first.units.index, last.units.index)
    collapsed = first.detector.collapsed | last.detector.collapsed
    kept = [pair for pair in pairs if collapsed.isdisjoint(pair)]
    row = replace(
        row,
        compression=first.facts["compression"],
        fingerprint=first.facts["fingerprint"],
        collapsed=f"{len(pairs) - len(kept)} of {len(pairs)}",
    )
    yield from _numbers(sides, kept or pairs, row)
    if len(kept) < len(pairs):
        yield from _numbers(sides, pairs, replace(row, collapsed_included=True))


def _numbers(sides: Sequence[Side], pairs: SeedPairs, row: ResultRow) -> Iterator[ResultRow]:
    """The rows of a comparison at these seeds."""
    first = sides[0]
    last = sides[-1]
    seeds = sorted(set(chain(*pairs)) - {None})
    row = replace(row, seeds_list=_listing(seeds))
    places = [first.seeds.index(seed) for seed, _ in pairs]
    places_of_last = [last.seeds.index(seed) for _, seed in pairs]
    not_compared = first.metrics[1] if row.minus else []
    for (method, metric), estimates in first.estimates.items():
        subtrahend = last.estimates.get((method, metric))
        if metric in not_compared or not (estimates and subtrahend):
            continue
        number = estimates.tables(places)
        if row.minus:
            has_same_units = np.array_equal(estimates.design.cluster, subtrahend.design.cluster)
            if not has_same_units:
                continue
            number = number.minus(subtrahend.tables(places_of_last))
        outcomes = [number.outcome()]
        yield replace(
            row,
            method=method,
            metric=metric,
            minus=row.detector if VERSUS in method else row.minus,
            outcomes=outcomes,
            **summary(outcomes),
        )


def _listing(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _seed_pairs(first: Sequence[int | None], second: Sequence[int | None]) -> SeedPairs:
    """Which seeds are compared: those that both have; where they share none, all in their order.

    The one table of another tool is compared with every seed.
    """
    if None in (*first, *second):
        return list(product(first, second))
    shared = [seed for seed in first if seed in second]
    return list(zip(shared or first, shared or second))


def _blank(detector: Detector) -> ResultRow:
    """A row of a detector without a number."""
    name, paper, ablation, variant, runs = detector
    row = ResultRow(name, paper, ablation, variant, train_set=detector.train_set)
    if not runs:
        return replace(row, rule=f"that of {name}", backbone=name, weights_from="elsewhere")
    run = runs[0]
    backbone = run.parameters["settings"]["backbone"]
    has_published_backbone = backbone == run.detector["defaults"]["backbone"]
    return replace(
        row,
        rule=run.record["rule"],
        backbone=backbone,
        weights_from=run.record["weights_from"],
        published_as=run.detector["published"] if has_published_backbone else "",
    )


# ---------------------------------------------------------------- over test sets, and in training


def _cross_dataset_means(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The means over test sets that were not trained on.

    The means of a training set are over the same test sets: those on which its main detectors have
    scores under the condition, or its variants where no main detector has. What lacks one of them,
    or has other seeds there, has no mean. Maps and test sets with contrasts have none.
    """
    numbers = defaultdict(dict)
    test_sets = defaultdict(set)
    for row in rows:
        is_cross = row.train_set and row.test_set != row.train_set
        if is_cross and row.method == ALL_METHODS and not row.map and not row.paired_methods:
            scope = (row.train_set, row.corruption, row.severity, row.level)
            number = (row.detector, row.minus, row.collapsed_included, row.metric)
            numbers[scope, number][row.test_set] = row
            if not row.minus:
                test_sets[scope, bool(row.ablation)].add(row.test_set)
    means = []
    for (scope, _), by_set in numbers.items():
        wanted = sorted(test_sets[scope, False] or test_sets[scope, True])
        parts = [by_set[name] for name in wanted if name in by_set and not by_set[name].refused]
        if len(parts) == len(wanted) and len({row.seeds_list for row in parts}) == 1:
            outcomes = [part.outcomes[0] for part in parts]
            mean = replace(
                parts[0],
                test_set=CROSS_DATASET_MEAN,
                mean_over=", ".join(wanted),
                compression="",
                fingerprint="",
                outcomes=outcomes,
                **summary(outcomes),
            )
            means.append(mean)
    return means


def _losses(detector: Detector) -> list[ResultRow]:
    """How far each loss term moved in training: the mean over the first epoch minus the last.

    A term that ends before the last epoch, such as that of a warm-up, has no row.
    """
    moved = {}
    for run in detector.runs:
        if not run.collapsed and len(run.log) > 1:
            terms = run.log.filter(regex="^loss_")
            moved[run.seed] = terms.iloc[0] - terms.iloc[-1]
    rows = []
    for term, values in pd.DataFrame(moved).T.dropna(axis=1).items():
        row = replace(
            _blank(detector),
            test_set=detector.train_set,
            metric=term,
            value=values.mean(),
            sd=values.std(),
            seeds=len(values),
            seeds_list=_listing(moved),
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    load(sys.argv[1])
