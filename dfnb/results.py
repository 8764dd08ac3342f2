"""The long table of a report: one number per row. Tables, figures and claims read nothing else.

:class:`ResultRow` documents the columns. On each test set and under each :class:`View`, every
detector is measured, then the differences of two detectors, on the same units and at the same
seeds; cross-dataset means and the movement of the losses in training follow.

One rule makes every interval, at 95 %. The variance over videos is that of :mod:`dfnb.metrics`; the
variance over seeds is that of the seeds' values, divided by their number. The two are added, with
Satterthwaite's degrees of freedom. A value in [0, 1] is carried to the logit scale and back; a
difference or a signed value has a Wald interval. The p value is from the same error and degrees.

``python -m dfnb.results PROFILE`` makes the table of a report.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce
from itertools import chain, combinations, product
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from dfnb import claims
from dfnb.claims import ALL_CORRUPTIONS, CROSS_DATASET_MEAN
from dfnb.files import find, read_facts, read_table, sha256, write_table
from dfnb.metrics import (
    AT_THRESHOLD,
    CALLED,
    CONSTANT,
    LEVELS,
    METRICS,
    Estimates,
    Level,
    Units,
    align,
    check_same_units,
    measure,
)
from dfnb.settings import DfnbError
from dfnb.statistics import NAN, Spread, bounded_interval, p_value
from dfnb.store import Condition, Detector, Report

ALL_METHODS = "all"
ROBUSTNESS = "robustness"  # the mean AUC over the severities of one or of all corruptions
ROBUSTNESS_KEPT = "robustness kept"  # the same minus the AUC without corruption
BEST_EPOCH = -1
VERSUS = " − "  # between two methods that are compared
MAIN = "main"  # the variant with which the others of its ablation are compared


@dataclass(frozen=True)
class Outcome:
    """A metric on one test set, or a difference, before it becomes a row.

    Attributes:
        values: (seeds,).
        over_videos: How the mean over seeds varies with the videos.
        bounded: Whether the value lies in [0, 1].
        independent: The number of independent observations behind a value of exactly 0 or 1.
        how: As ``ResultRow.interval_method``.
        counts: Of units and clusters, see :meth:`dfnb.statistics.Design.counts`.
        left_chance: As ``ResultRow.left_chance``.
    """

    values: np.ndarray
    over_videos: Spread
    bounded: bool
    independent: int
    how: str
    counts: dict[str, int]
    left_chance: float


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
    selection: str = "validation"  # the split that chose the epoch; "test": the test set itself
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
    left_chance: float = NAN  # seeds whose own interval of AUC, over videos, does not hold .5
    interval_method: str = ""  # how the variance over videos was made, see dfnb.metrics
    rule: str = ""  # that chose the epoch
    backbone: str = ""
    weights_from: str = ""  # what the training started from
    compression: str = ""  # of the test set
    fingerprint: str = ""  # of the test set
    seeds_list: str = ""
    by_seed: str = ""  # the value of each seed
    collapsed: str = ""  # as "1 of 5": runs that learned nothing, left out unless all did
    refused: str = ""  # why there is no number
    outcomes: tuple[Outcome, ...] = ()  # what the number is the mean of; not in the table


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
    accuracy and localisation.
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
    return _table(rows)


def _table(rows: Sequence[ResultRow]) -> pd.DataFrame:
    table = []
    for row in rows:
        columns = vars(row).copy()
        outcomes = columns.pop("outcomes")
        if outcomes:
            columns.update(summary(outcomes))
        table.append(columns)
    return pd.DataFrame(table)


def between(first: str, second: str) -> pd.DataFrame:
    """Clean video AUC of the detectors of one report minus that of the same ones in another.

    Raises :class:`DfnbError` when a test set differs, or when no detector and test set is in both.
    """
    report = Report(first)
    other = Report(second)
    twins = {detector.name: detector for detector in other.detectors()}
    rows = []
    for detector in report.detectors():
        twin = twins.get(detector.name)
        for test_set in report.test_sets(detector):
            if twin is None or test_set not in other.test_sets(twin):
                continue
            if report.test_set(test_set).attrs != other.test_set(test_set).attrs:
                raise DfnbError(f"{first} and {second} saw different data as {test_set}")
            clean = Condition(test_set)
            side = Side(report.read, detector, "video", clean, [clean])
            rows += _compare(side, Side(other.read, twin, "video", clean, [clean]))
    if not rows:
        raise DfnbError(f"{first} and {second} share no detector and test set")
    table = _table(rows).assign(minus=f"in {second}")
    return table[(table["metric"] == "AUC") & (table["method"] == ALL_METHODS)]


# ---------------------------------------------------------------- one number


def difference(units: Sequence[Units], metric: str, conditions: int = 1) -> Estimates | None:
    """A metric of the first, minus that of the second if there are two.

    Args:
        units: One or two; units without a value in one of the tables are left out.
        metric: One of METRICS or a column of values.
        conditions: Over how many the metric is averaged, see :meth:`Estimates.over_conditions`.

    Returns:
        None where no unit has a value.
    """
    if metric not in METRICS:
        if not all(metric in side.columns for side in units):
            return None
        columns = np.concatenate([side.columns[metric] for side in units])
        has_value = ~np.isnan(columns).any(axis=0)
        if not has_value.any():
            return None
        units = [side.rows(has_value) for side in units]
    estimates = [measure(side, metric).over_conditions(conditions) for side in units]
    return reduce(Estimates.minus, estimates)


def outcome(estimates: Estimates) -> Outcome:
    """What the estimates of all seeds come to."""
    degrees = estimates.design.fewest - 1
    left_chance = NAN
    if estimates.how == "delong" and not estimates.signed:
        left_chance = 0.0
        for value, spread in zip(estimates.values, estimates.spread):
            low, high = Spread(estimates.variance(spread), degrees).interval(value)
            left_chance += low > 0.5 or high < 0.5
    return Outcome(
        values=estimates.values,
        over_videos=Spread(estimates.variance(estimates.spread.mean(axis=0)), degrees),
        bounded=estimates.bounded,
        independent=estimates.independent,
        how=estimates.how,
        counts=estimates.design.counts(),
        left_chance=left_chance,
    )


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The columns of a row from ``value`` to ``interval_method``, and ``by_seed``.

    The value is the mean over seeds and, of several outcomes, over test sets, which share no video.
    """
    first = outcomes[0]
    sets = len(outcomes)
    values = np.mean([of_set.values for of_set in outcomes], axis=0)
    value = float(values.mean())
    seeds = len(values)
    shares = []
    for of_set in outcomes:
        shares.append(Spread(of_set.over_videos.variance / sets**2, of_set.over_videos.degrees))
    over_videos = reduce(Spread.plus, shares)
    over_seeds = Spread(NAN, 0)
    over_both = over_videos
    if seeds > 1:
        over_seeds = Spread(values.var(ddof=1) / seeds, seeds - 1)
        over_both = over_videos.plus(over_seeds)
    columns = {
        "value": value,
        "sd": (over_seeds.variance * seeds) ** 0.5,
        "p": NAN if first.bounded else p_value(value, over_both),
        "error": over_both.error,
        "degrees": over_both.degrees,
        "seeds": seeds,
        "left_chance": first.left_chance if sets == 1 else NAN,
        "interval_method": "none" if np.isnan(over_videos.variance) else first.how,
        "by_seed": ", ".join(f"{of_seed:.4f}" for of_seed in values),
    }
    independent = sum(of_set.independent for of_set in outcomes)
    for name, spread in {"": over_both, "_videos": over_videos, "_seeds": over_seeds}.items():
        low, high = spread.interval(value)
        if first.bounded:
            low, high = bounded_interval(value, spread, independent)
        columns[f"low{name}"] = low
        columns[f"high{name}"] = high
    for name in first.counts:
        columns[name] = sum(of_set.counts[name] for of_set in outcomes)
    return columns


# ---------------------------------------------------------------- what is compared


@dataclass(eq=False)
class Side:
    """The scores of a detector under a condition, at one level; one side of a comparison.

    Attributes:
        read: Reads its tables, see :meth:`dfnb.store.Report.read`.
        condition: It may be made of several ``stored`` ones: severity 0 is the mean over all
            severities, and BEST_EPOCH the one that is best on the test set.
    """

    read: Callable[[Detector, Condition], list[pd.DataFrame]]
    detector: Detector
    level: Level
    condition: Condition
    stored: list[Condition]

    @cached_property
    def units(self) -> Units:
        """The tables of all seeds, one stored condition after the other; or of the best epochs."""
        tables = []
        for condition in self.stored:
            tables += self.read(self.detector, condition)
        units = align(tables, self.level)
        if self.condition.epoch != BEST_EPOCH:
            return units
        auc = pd.Series(measure(units, "AUC").values)
        return units.tables(auc.groupby(units.seeds).idxmax())

    @property
    def averaged(self) -> int:
        """The number of conditions over which a metric is averaged."""
        return 1 if self.condition.epoch == BEST_EPOCH else len(self.stored)

    @property
    def seeds(self) -> list[int | None]:
        """The seeds that have all stored conditions; None for another tool."""
        seeds = self.units.seeds
        return [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) == self.averaged]

    @property
    def collapsed(self) -> set[int]:
        """The seeds whose run learned nothing."""
        return {run.seed for run in self.detector.runs if run.collapsed}

    @cached_property
    def clean(self) -> "Side":
        """The same detector's scores without corruption, by the usual selection."""
        clean = Condition(self.condition.test_set)
        return replace(self, condition=clean, stored=[clean])

    def of_seeds(self, seeds: Sequence[int | None]) -> Units:
        """The tables of these seeds."""
        places = [place for place, seed in enumerate(self.units.seeds) if seed in seeds]
        return self.units.tables(places)


def _conditions_with(stored: Condition) -> list[Condition]:
    """The conditions of the table that scores under a stored condition are part of."""
    if stored.epoch:
        return [Condition(stored.test_set, epoch=BEST_EPOCH)]
    conditions = [stored]
    if stored.corruption:
        conditions.append(stored._replace(severity=0))
        conditions.append(Condition(stored.test_set, ALL_CORRUPTIONS))
    return conditions


def _differences(detectors: Sequence[Detector]) -> list[tuple[str, str]]:
    """Which detectors are compared, by name; the second is subtracted from the first.

    With one training set: every two main detectors; every variant and the variant MAIN of its
    ablation, or else the main detector of its paper; the variants MAIN of ablations of one name.
    Besides, other tools and all main detectors, and what a claim compares.
    """
    mains = [detector for detector in detectors if detector.variant in ("", MAIN)]
    pairs = []
    for second, first in combinations(mains, 2):
        train_sets = {first.train_set, second.train_set} - {""}
        if first.ablation == second.ablation and len(train_sets) < 2:
            pairs.append((first.name, second.name))
    for variant in detectors:
        bases = []
        for main in mains:
            is_same = (main.paper, main.train_set) == (variant.paper, variant.train_set)
            if is_same and main.ablation in ("", variant.ablation):
                bases.append(main)
        if variant not in mains and bases:
            own_ablation_first = max(bases, key=attrgetter("ablation"))
            pairs.append((variant.name, own_ablation_first.name))
    names = defaultdict(list)
    for detector in detectors:
        names[detector.paper, detector.ablation, detector.variant].append(detector)
    for first_identity, second_identity in claims.compared():
        for first, second in product(names[first_identity], names[second_identity]):
            pair = (first.name, second.name)
            is_new = pair not in pairs and pair[::-1] not in pairs
            if is_new and first.train_set == second.train_set:
                pairs.append(pair)
    return pairs


def _of_test_set(report: Report, detectors: Sequence[Detector], test_set: str) -> list[ResultRow]:
    """The rows of one test set: of each condition those of the detectors, then the differences."""
    read = cache(report.read)  # both levels and several conditions read the same tables
    by_condition = defaultdict(dict)
    for detector in detectors:
        for stored in report.conditions(detector, test_set):
            for condition, level in product(_conditions_with(stored), LEVELS):
                if level == "frame" or not condition.map:
                    side = Side(read, detector, level, condition, [])
                    sides = by_condition[condition, level]
                    sides.setdefault(detector.name, side).stored.append(stored)
    differences = _differences(detectors)
    rows = []
    for sides in by_condition.values():
        for side in sides.values():
            rows += _compare(side)
        for first, second in differences:
            if first in sides and second in sides:
                rows += _compare(sides[first], sides[second])
        for side in sides.values():
            if side.condition.epoch:  # what the choice on the test set gains
                rows += _compare(side, side.clean)
    return rows


def _compare(*sides: Side) -> list[ResultRow]:
    """The rows of a side, or of the first minus the second; or one that says why there are none."""
    first = sides[0]
    test_set, corruption, severity, epoch, map_name, sanity = first.condition
    row = replace(
        _blank(first.detector),
        minus=sides[1].detector.name if len(sides) > 1 else "",
        train_set=first.detector.train_set or sides[-1].detector.train_set,
        test_set=test_set,
        corruption=corruption,
        severity=severity,
        map=map_name,
        sanity=sanity,
        selection="test" if epoch else "validation",
        level=first.level,
    )
    try:
        return list(_rows(sides, row))
    except DfnbError as error:
        return [replace(row, refused=str(error))]


def _blank(detector: Detector) -> ResultRow:
    """A row of a detector without a number."""
    name, paper, ablation, variant, runs = detector
    if not runs:
        return ResultRow(name, rule=f"that of {name}", backbone=name, weights_from="elsewhere")
    return ResultRow(
        name,
        paper,
        ablation,
        variant,
        train_set=detector.train_set,
        rule=runs[0].record["rule"],
        backbone=runs[0].parameters["settings"]["backbone"],
        weights_from=runs[0].record["weights_from"],
    )


def _rows(sides: Sequence[Side], row: ResultRow) -> Iterator[ResultRow]:
    """The rows of a comparison; none where the sides share neither seeds nor severities.

    Collapsed runs are left out, unless all collapsed; with them, everything is measured again.
    """
    if row.corruption and sides[0].stored != sides[-1].stored:
        return
    check_same_units(sides[0].units.index, sides[-1].units.index)
    collapsed = sides[0].collapsed | sides[-1].collapsed
    shared = _shared_seeds(sides)
    kept = [seeds for seeds in shared if collapsed.isdisjoint(seeds)]
    facts = sides[0].read(sides[0].detector, sides[0].stored[0])[0].attrs
    row = replace(
        row,
        paired_methods=bool(facts["contrasts"]),
        compression=facts["compression"],
        fingerprint=facts["fingerprint"],
        collapsed=f"{len(shared) - len(kept)} of {len(shared)}",
    )
    cases = {False: kept or shared}
    if len(kept) < len(shared):
        cases[True] = shared
    for collapsed_included, pairs in cases.items():
        units = [side.of_seeds(seeds) for side, seeds in zip(sides, zip(*pairs))]
        seeds = sorted(set(chain(*pairs)) - {None})
        for method, metric, estimates in _measured(sides, units, facts["contrasts"]):
            if estimates is None:
                continue
            yield replace(
                row,
                minus=row.detector if VERSUS in method else row.minus,
                method=method,
                metric=metric,
                collapsed_included=collapsed_included,
                seeds_list=", ".join(map(str, seeds)),
                outcomes=(outcome(estimates),),
            )


def _shared_seeds(sides: Sequence[Side]) -> list[tuple[int | None, ...]]:
    """The seeds that are compared, one of each side.

    Those that both sides have; where they share none, all in their order. The one table of another
    tool is compared with every seed.
    """
    seeds = [side.seeds for side in sides]
    if [None] in seeds:
        return list(product(*seeds))
    shared = [seed for seed in seeds[0] if seed in seeds[-1]]
    if shared:
        seeds = [shared for _ in sides]
    return list(zip(*seeds))


Measured = Iterator[tuple[str, str, Estimates]]  # method, metric, and its estimates


def _measured(
    sides: Sequence[Side], units: Sequence[Units], contrasts: Sequence[Sequence[str]]
) -> Measured:
    """Everything that is measured of ``units``, which are those of the sides."""
    condition = sides[0].condition
    index = units[0].index
    if contrasts:
        if len(sides) == 1 and condition == sides[0].clean.condition and "frame" in index:
            yield from _contrasted(units[0], contrasts)
        return
    if condition.corruption and not condition.severity:
        robust = difference(units, "AUC", sides[0].averaged)
        yield ALL_METHODS, ROBUSTNESS, robust
        clean = [side.clean.of_seeds(own.seeds).only(index) for side, own in zip(sides, units)]
        yield ALL_METHODS, ROBUSTNESS_KEPT, robust.minus(difference(clean, "AUC"))
        return
    of_all, of_methods = _metrics(sides, units[0].columns)
    for metric in of_all:
        yield ALL_METHODS, metric, difference(units, metric)
    for method in sorted(set(index["method"]) - {"real"}):
        is_chosen = index["method"].isin(["real", method]).to_numpy()
        chosen = [side.rows(is_chosen) for side in units]
        for metric in of_methods:
            yield method, metric, difference(chosen, metric)


def _metrics(sides: Sequence[Side], columns: Iterable[str]) -> tuple[list[str], list[str]]:
    """The metrics of all methods together, and those of single methods."""
    condition = sides[0].condition
    if condition.corruption or condition.epoch:
        return ["AUC"], []
    is_alone = len(sides) == 1
    measures = []
    for name in columns:
        if name not in ("score", CALLED) and (is_alone or not name.startswith(CONSTANT)):
            measures.append(name)
    is_main = is_alone and not sides[0].detector.ablation
    if condition.map:  # the points of curves are of main detectors only
        without_curves = [name for name in measures if not name[-1].isdigit()]
        return (measures if is_main else without_curves), []
    if sides[0].level == "frame":
        measures = ["balanced accuracy", AT_THRESHOLD]  # localisation is averaged over videos
    few = ["AUC", *measures]
    return (list(dict.fromkeys([*METRICS, *few])) if is_main else few), few


def _contrasted(units: Units, contrasts: Sequence[Sequence[str]]) -> Measured:
    """AUC and share called fake of each method, and the differences of contrasted methods.

    The AUC is against the same real frames. A share is also that of the real frames. The units of
    two methods follow one another alike, so that the variance over clusters of a difference is that
    of differences within people.
    """
    places = units.index.groupby("method").indices
    methods = [name for name in dict.fromkeys(chain(*contrasts)) if name in places]
    real = places["real"]
    for metric, shown, beside in (("AUC", methods, real), (CALLED, ["real", *methods], real[:0])):
        parts = {name: units.rows(np.append(beside, places[name])) for name in shown}
        for name, part in parts.items():
            yield name, metric, difference([part], metric)
        for pair in contrasts:
            if parts.keys() >= set(pair):
                compared = [parts[name] for name in pair]
                clusters = [part.index["cluster"] for part in compared]
                if clusters[0].equals(clusters[1]):
                    yield VERSUS.join(pair), metric, difference(compared, metric)


# ---------------------------------------------------------------- over test sets, and in training


def _cross_dataset_means(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The means over test sets that were not trained on.

    The means of a training set are over the same test sets: those on which its main detectors have
    scores under the condition, or its variants where no main detector has. What lacks one of them
    has no mean. Maps and test sets with contrasts have none.
    """
    numbers = defaultdict(list)
    test_sets = defaultdict(set)
    for row in rows:
        is_cross = row.train_set and row.test_set != row.train_set
        if is_cross and row.method == ALL_METHODS and not row.map and not row.paired_methods:
            scope = (row.train_set, row.corruption, row.severity, row.selection, row.level)
            compared = (row.detector, row.minus, row.collapsed_included)
            numbers[scope, compared, row.metric].append(row)
            test_sets[scope, compared].add(row.test_set)
            if not row.minus and not row.refused:
                test_sets[scope, "variants" if row.ablation else "main"].add(row.test_set)
    means = []
    for (scope, compared, _), of_number in numbers.items():
        wanted = test_sets[scope, "main"] or test_sets[scope, "variants"]
        parts = [row for row in of_number if row.test_set in wanted]
        if parts and wanted <= test_sets[scope, compared]:
            means += _mean(parts, wanted)
    return means


def _mean(parts: Sequence[ResultRow], test_sets: set[str]) -> list[ResultRow]:
    """The mean of one number; nothing where it is not measured on all of the test sets."""
    refused = [row.refused for row in parts if row.refused]
    if len({row.seeds_list for row in parts}) > 1:
        refused.append("other seeds on one test set than on another; score all runs on all of them")
    if not refused and len(parts) < len(test_sets):
        return []
    mean = replace(
        parts[0],
        test_set=CROSS_DATASET_MEAN,
        mean_over=", ".join(sorted(test_sets)),
        compression="",
        fingerprint="",
    )
    if refused:
        return [replace(mean, refused=refused[0], outcomes=())]
    return [replace(mean, outcomes=tuple(chain(*(row.outcomes for row in parts))))]


def _losses(detector: Detector) -> list[ResultRow]:
    """How far each loss term moved in training: the mean over the first epoch minus the last.

    A term that ends before the last epoch, such as that of a warm-up, has no row.
    """
    moved = []
    for run in detector.runs:
        if not run.collapsed and len(run.log) > 1:
            terms = run.log.filter(regex="^loss_")
            moved.append(terms.iloc[0] - terms.iloc[-1])
    rows = []
    for term, values in pd.DataFrame(moved).dropna(axis=1).items():
        row = replace(_blank(detector), test_set=detector.train_set, metric=term)
        rows.append(replace(row, value=values.mean(), sd=values.std(), seeds=len(values)))
    return rows


if __name__ == "__main__":
    load(sys.argv[1])
