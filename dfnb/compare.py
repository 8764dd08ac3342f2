"""The one comparator: any metric of a line or of a difference of two lines, over videos, over seeds, and over both.

Every interval is a 95 % interval, and there is one rule for all. The variance over videos is that of :mod:`dfnb.metrics`;
the variance over seeds is that of the seeds' values, divided by their number; ``low`` and ``high`` are over both: the two
variances are added, with Satterthwaite's degrees of freedom. A value in [0, 1] is carried to the logit scale and back; a
difference and a signed value get a Wald interval. p is from the same error and degrees of freedom. With one seed ``low``
and ``high`` are over videos alone, and there is nothing over seeds (NaN).

:func:`results` is the long table of a report, one number per row. Tables, figures and :func:`judge` read nothing else:

- ``line``, ``paper``, ``group``, ``arm``: of the :class:`dfnb.scores.Line`; ``minus``: the line that is subtracted, on
  the same units at shared seeds, or empty;
- ``method``: ``all``, or one manipulation method together with the real frames;
- ``test_set``: a test set, or ``away``: the mean over those that the line was not trained on (``mean_over``), the same for
  all lines of a training dataset: a line that lacks one of them has no mean. They hold other people, so their variances
  over videos add;
- ``condition``: empty (clean), ``JPEG 3``, ``JPEG`` and ``all corruptions`` (means over severities), ``map Grad-CAM``,
  ``sanity Grad-CAM``, ``chosen on test``. A line minus itself ``chosen on test`` is what that choice gains. ``with
  collapsed`` (clean) or ``with collapsed, JPEG``: the same with the collapsed runs in, which all other rows leave out;
- ``metric``: one of :data:`dfnb.metrics.METRICS`, ``robustness``, ``robustness kept`` (robustness minus the clean AUC, so a
  loss is negative), a column of values (``iou``, ``energy``), or a column that :func:`dfnb.metrics.align` derives;
- ``error`` and ``degrees``: the standard error over videos and seeds, and its degrees of freedom;
- ``n`` counts units (frames or videos) that have a value; ``sd`` is over seeds; ``by_seed``: the value of each, as text;
- ``left_chance``: of an AUC, for how many seeds its own interval over videos does not hold .5;
- ``condition`` ``first minus last epoch``, of a loss term: how far it moved in training;
- ``condition`` ``seams``, of a test set whose name begins so: on it every person has every method, and ``method`` is one of them,
  against the same real frames, or ``swap − composite``, a line minus itself: the difference of two, on the same people;
- ``collapsed``: how many seeds are left out, of how many, since a run collapsed;
- ``refused``: why a line has no number here; else empty.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import chain, combinations, permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr

from dfnb import core, metrics, papers, scores

DECLARED = core.read_yaml(Path(__file__).with_suffix(".yaml"))
KEYS, INTERVALS, COUNTS, FACTS = DECLARED["columns"].values()
COLUMNS = (*KEYS, *INTERVALS, *COUNTS, *FACTS)
VERSION = 8  # raised when the same scores give other numbers
ON_TEST, ALL_CORRUPTIONS, WITH_COLLAPSED, TRAINING, SEAMS, AWAY = DECLARED["names"].values()
CONTRASTS = DECLARED["contrasts"]


# ---------------------------------------------------------------------------------------------------------- one comparison


def estimates(sides: Sequence[metrics.Units], metric: str) -> list[metrics.Estimates]:
    """The metric of each side, on the units that have a value in every table; empty where there is none.

    ``metric`` is one of :data:`dfnb.metrics.METRICS` or a column of values.
    """
    if metric in metrics.METRICS:
        return [metrics.measure(data, metric) for data in sides]
    if not all(metric in data.columns for data in sides):
        return []
    known = ~np.isnan(np.concatenate([data.columns[metric] for data in sides])).any(axis=0)
    return [metrics.measure(data.rows(known), metric) for data in sides] if known.any() else []


class Spread(NamedTuple):
    """A variance of an estimate and its degrees of freedom."""

    variance: float
    degrees: float

    def plus(self, other: "Spread") -> "Spread":
        """The sum of two independent variances (Satterthwaite, Biometrics Bulletin 2:110, 1946)."""
        total = self.variance + other.variance  # NaN where one is
        if not total > 0:
            return Spread(total, self.degrees)
        return Spread(total, total**2 / (self.variance**2 / self.degrees + other.variance**2 / other.degrees))


class Outcome(NamedTuple):
    """A number of a line on a test set, or of the difference of two: of each seed, and how it varies over the videos.

    ``bounded``: in [0, 1]. ``independent``: how many independent observations an exact 0 or 1 rests on.
    """

    values: np.ndarray
    over_videos: Spread
    bounded: bool
    independent: int
    how: str
    counts: dict[str, int]
    left_chance: float


def outcome(added: Sequence[metrics.Estimates], subtracted: Sequence[metrics.Estimates] = ()) -> Outcome:
    """The sum of the estimates that are added minus those subtracted, all on the same units, table by table.

    A single table, such as another tool's scores, is compared with each table of the others.
    """
    sides, signs = [*added, *subtracted], [1] * len(added) + [-1] * len(subtracted)
    first, alone = sides[0], len(sides) == 1
    values = sum(sign * each.values for sign, each in zip(signs, sides))
    spread = sum(sign * each.spread for sign, each in zip(signs, sides))
    degrees, chance = first.design.fewest - 1, float("nan")
    # an exact 0 or 1 has no standard error: unless all have the same scores, that of a difference is then at least the
    # width of the interval of such an estimate
    variance = float("nan") if "none" in {side.how for side in sides} else first.variance(spread.mean(axis=0))
    exact = {0.0, 1.0} & {float(side.values.mean()) for side in sides}
    if exact and first.bounded and not all(np.array_equal(first.column, side.column) for side in sides):
        low, high = metrics.bounded_interval(1.0, variance, np.nan, first.independent)
        variance = max(variance, ((high - low) / metrics.quantile(degrees)) ** 2)
    if alone and first.how == "delong":
        errors = np.array([first.variance(influence) for influence in spread]) ** 0.5
        chance = float((np.abs(values - 0.5) > metrics.quantile(degrees) * errors).sum())
    bounded, counts = alone and first.bounded, first.design.counts()
    return Outcome(values, Spread(variance, degrees), bounded, first.independent, first.how, counts, chance)


def summary(*outcomes: Outcome) -> dict[str, Any]:
    """Value, intervals, p and counts of the mean over seeds of an outcome, or of the mean of several that share no video.

    Returns the columns of :func:`results` from ``value`` to ``interval_method``.
    """
    values, bounded = np.mean([each.values for each in outcomes], axis=0), outcomes[0].bounded
    value, seeds = float(values.mean()), len(values)
    sd = float(values.std(ddof=1)) if seeds > 1 else float("nan")
    over_seeds = Spread(sd**2 / seeds, seeds - 1)
    shares = [Spread(each.over_videos.variance / len(outcomes) ** 2, each.over_videos.degrees) for each in outcomes]
    over_videos = reduce(Spread.plus, shares)
    over_both = over_videos.plus(over_seeds) if seeds > 1 else over_videos
    row = {"value": value, "sd": sd, "p": float("nan") if bounded else p_value(value, *over_both)}
    row |= {"error": over_both.variance**0.5, "degrees": over_both.degrees}
    for name, spread in {"": over_both, "_videos": over_videos, "_seeds": over_seeds}.items():
        half = metrics.quantile(spread.degrees) * spread.variance**0.5
        limits = value - half, value + half
        if bounded:
            limits = metrics.bounded_interval(value, *spread, sum(each.independent for each in outcomes))
        row |= {f"low{name}": limits[0], f"high{name}": limits[1]}
    row |= {name: sum(each.counts[name] for each in outcomes) for name in outcomes[0].counts}
    chance = outcomes[0].left_chance if len(outcomes) == 1 else float("nan")
    how = "none" if np.isnan(over_videos.variance) else outcomes[0].how
    by_seed = ", ".join(f"{each:.4f}" for each in values)
    return row | {"left_chance": chance, "seeds": seeds, "by_seed": by_seed, "interval_method": how}


def p_value(difference: float, variance: float, degrees: float) -> float:
    """Two-sided p of a difference with this variance and degrees of freedom; 1 for no difference at all."""
    if np.isnan(variance) or abs(difference) < 1e-12:
        return 1.0 if variance >= 0 else float("nan")
    return float(2 * stdtr(degrees, -abs(difference) / max(variance**0.5, 1e-12)))


# ------------------------------------------------------------------------------------------------------- the long table

Row = dict[str, Any]  # of the long table, and under "outcome" what it summarises, unless it is refused


def results(report: scores.Report) -> pd.DataFrame:
    """The long table of a report (:data:`COLUMNS`), made once and kept in ``reports/<profile>/results.parquet``.

    Main lines have all metrics. Arms, differences and single methods have AUC, balanced accuracy and localisation.
    Differences: of every two main lines; of every arm and the ``main`` of its group, or else of its paper; of the ``main``
    arms of groups of one name; of two arms that a claim compares. Refused scores raise nothing: they are rows that say why.
    """
    paths = [report.folder / "runs.json", *report.folder.glob("scores/*.parquet"), *report.folder.glob("other/*/*")]
    files = {str(path.relative_to(report.folder)): core.sha256(path) for path in paths if path.exists()}
    facts = {"version": VERSION, "files": core.digest(files)}
    return core.cached(report.folder / "results.parquet", facts, lambda: _results(report))


def _results(report: scores.Report) -> pd.DataFrame:
    lines, found = report.lines(), []
    for test_set in dict.fromkeys(test_set for line in lines for test_set in report.test_sets(line)):
        found += _of_test_set(report, [line for line in lines if test_set in report.test_sets(line)], test_set)
    if not found:
        raise core.DfnbError(f"{report.folder} holds no scores; run the profile first: dfnb run {report.folder.name}")
    table = pd.DataFrame([*found, *_away(lines, found), *_training(lines)])
    table = table.merge(pd.DataFrame([_facts(line) for line in lines]), on="line").reindex(columns=COLUMNS)
    texts = ["interval_method", *FACTS]
    return table.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))


def _away(lines: Sequence[scores.Line], found: Sequence[Row]) -> Iterator[Row]:
    """The rows of :data:`AWAY`: of every number that there is on each of the test sets a line was not trained on.

    Means are compared, so all are over the same sets: those on which the main lines of a home have the condition (its arms
    where no main line has it). A line that was tested on fewer has no mean.
    """
    homes = {"": ""} | {line.name: _home(line) for line in lines}
    heads = {line.name for line in lines if not line.group}
    by_number, test_sets, tested = defaultdict(list), defaultdict(set), defaultdict(set)
    for row in found:
        home, condition = homes[row["line"]] or homes[row["minus"]], row["condition"]
        condition = condition.removeprefix(WITH_COLLAPSED).removeprefix(", ")  # tested on the same sets
        if (
            home
            and row["test_set"] != home
            and row["method"] == "all"
            and not condition.startswith(("map ", "sanity "))
        ):
            compared, of = (row["line"], row["minus"], row["condition"], row["level"]), (home, condition, row["level"])
            test_sets[compared].add(row["test_set"])
            by_number[(*of, *compared, row["metric"])].append(row)
            if homes[row["line"]] and not row["minus"]:
                tested[*of, row["line"] in heads].add(row["test_set"])
    for (*of, line, minus, of_condition, level, _), numbers in by_number.items():
        wanted = tested[*of, True] or tested[*of, False]
        parts = [part for part in numbers if part["test_set"] in wanted]
        if not parts or not wanted <= test_sets[line, minus, of_condition, level]:
            continue
        row, refused = parts[0], [part["refused"] for part in parts if "refused" in part]
        if not refused and len({part["seeds_list"] for part in parts}) > 1:
            refused = ["other seeds on one test set than on another; score all runs on all test sets"]
        keys = {name: row[name] for name in ("line", "minus", "method", "condition", "level", "metric")}
        keys |= {"test_set": AWAY, "mean_over": ", ".join(sorted(wanted))}
        if refused:
            yield keys | {"refused": refused[0]}
        elif len(parts) == len(wanted):
            facts = {name: row[name] for name in ("seeds_list", "collapsed")}
            yield keys | summary(*(part["outcome"] for part in parts)) | facts


def named_sets(rows: pd.DataFrame) -> pd.Series:
    """The test sets of these rows as tables and figures name them: means over unlike sets are told apart by their sets."""
    if rows.loc[rows["mean_over"] != "", "mean_over"].nunique() < 2:
        return rows["test_set"]
    return rows["test_set"].where(rows["mean_over"] == "", rows["test_set"] + ": " + rows["mean_over"])


def _training(lines: Sequence[scores.Line]) -> Iterator[Row]:
    """How far each loss term moved in training: its mean over the first epoch minus that over the last, over seeds.

    Of a term that ends before, such as the warm-up of SSPSL, nothing is said.
    """
    for line in lines:
        logs = [run.log for run in line.runs if len(run.log) > 1 and not run.record["collapsed"]]
        moved = pd.DataFrame([log.iloc[0] - log.iloc[-1] for log in logs]).filter(regex="^loss_").dropna(axis=1)
        for term, values in moved.items():
            keys = {"line": line.name, "minus": "", "test_set": _home(line), "method": "all", "level": "frame"}
            facts = {"value": values.mean(), "seeds": len(values), "sd": values.std()}  # NaN of one seed
            yield keys | {"condition": TRAINING, "metric": term} | facts


def _facts(line: scores.Line) -> dict[str, str]:
    """What every number of a line must carry, whatever the test set."""
    facts = {"line": line.name, "paper": line.paper, "group": line.group, "arm": line.arm, "train_set": _home(line)}
    if not line.runs:
        return facts | {"rule": f"that of {line.name}", "backbone": line.name, "weights_from": "elsewhere"}
    known = line.runs[0].record | {"backbone": line.runs[0].settings.backbone}
    return facts | {name: known[name] for name in ("rule", "backbone", "weights_from")}


def _home(line: scores.Line) -> str:
    """The dataset trained on; empty for another tool."""
    return line.runs[0].parameters["train_set"] if line.runs else ""


@dataclass(eq=False)
class Side:
    """The scores of a line on a test set at one level, under a condition that is made from stored ones."""

    report: scores.Report
    line: scores.Line
    test_set: str
    condition: str
    sources: Sequence[str]
    level: metrics.Level

    @cached_property
    def collapsed(self) -> set[int]:
        """The seeds whose run collapsed, as its record says."""
        return {run.parameters["seed"] for run in self.line.runs if run.record["collapsed"]}

    @cached_property
    def data(self) -> metrics.Units:
        """For each source the aligned tables of the seeds that have all sources; chosen on test: of each seed's best epoch."""
        tables = [table for source in self.sources for table in self.report.read(self.line, self.test_set, source)]
        data = metrics.align(tables, self.level)
        if self.condition == ON_TEST:
            epochs = pd.DataFrame({"seed": data.seeds, "auc": metrics.measure(data, "AUC").values})
            return data.tables(epochs.groupby("seed")["auc"].idxmax())
        return data.tables([i for i, seed in enumerate(data.seeds) if data.seeds.count(seed) == len(self.sources)])

    def measured(self, every: bool) -> tuple[list[str], list[str]]:
        """The metrics of this condition, all or a few, and those of each manipulation method."""
        columns = [name for name in self.data.columns if name not in ("score", metrics.CALLED)]
        if self.condition == "":  # the store keeps localisation per video
            columns = [name for name in columns if (name == metrics.AT_THRESHOLD) == (self.level == "frame")]
            few = ["AUC", *columns] if self.level == "video" else ["AUC", "balanced accuracy", *columns]
            return ([*metrics.METRICS, *columns] if every else few), few
        if self.condition.startswith(("map ", "sanity ")):
            whole = [name for name in columns if not name[-1].isdigit()]  # not the points of a curve
            return (columns if every else whole), whole
        return ["AUC"] if self.condition in (ON_TEST, *self.sources) else ["robustness", "robustness kept"], []

    def seeds(self) -> list[int | None]:
        """The seeds in order, as far as all sources have them; None for another tool."""
        return list(dict.fromkeys(self.data.seeds))

    def at(self, seeds: Sequence[int | None]) -> metrics.Units:
        """The tables of these seeds, source by source."""
        own = self.seeds()
        if not set(seeds) <= set(own):
            raise core.DfnbError(f"{self.line.name} lacks a seed on {self.test_set}; score all its runs and pack again")
        sources = range(0, len(self.data.seeds), len(own))  # where the tables of each begin
        return self.data.tables([start + own.index(seed) for start in sources for seed in seeds])

    @cached_property
    def clean(self) -> "Side":
        """The scores without corruption, once for each source."""
        return Side(self.report, self.line, self.test_set, "", [""] * len(self.sources), self.level)


def _of_test_set(report: scores.Report, lines: Sequence[scores.Line], test_set: str) -> Iterator[Row]:
    """The rows of one test set: of each condition and level those of its lines, then those of their differences."""
    stored = [(line, _conditions(report, line, test_set)) for line in lines]
    for condition, level in product(dict.fromkeys(name for _, sources in stored for name in sources), metrics.KEY):
        if level == "video" and condition.startswith(("map ", "sanity ", SEAMS)):
            continue  # these are measured on frames
        having = [(line, sources[condition]) for line, sources in stored if condition in sources]
        sides = [Side(report, line, test_set, condition, sources, level) for line, sources in having]
        compared = [*((side, None) for side in sides), *_pairs(sides)]
        if condition == ON_TEST:  # what that choice gains
            compared += [(side, Side(report, side.line, test_set, "", [""], level)) for side in sides]
        for a, b in compared:
            minus = b.line.name if b else ""
            keys = {"line": a.line.name, "minus": minus, "test_set": test_set, "condition": condition, "level": level}
            try:
                yield from (keys | row for row in _rows(a, b))
            except core.DfnbError as error:
                yield keys | {"method": "all", "metric": "AUC", "refused": str(error)}


def _conditions(report: scores.Report, line: scores.Line, test_set: str) -> dict[str, list[str]]:
    """The conditions of the results by the stored ones that each is made from."""
    if test_set.startswith(SEAMS):
        return {SEAMS: [""]}
    sources = defaultdict(list, {"": [""]})
    with suppress(core.DfnbError):  # reading the clean scores will say what is wrong
        for name in filter(None, dict.fromkeys(each.attrs["condition"] for each in report.tables(line, test_set))):
            kind, _, number = name.rpartition(" ")
            made = [ON_TEST] if kind == "epoch" else [name]
            if number.isdigit() and not name.startswith(("epoch ", "map ", "sanity ")):
                made += [kind, ALL_CORRUPTIONS]
            for condition in made:
                sources[condition].append(name)
    return sources


def _pairs(sides: Sequence[Side]) -> list[tuple[Side, Side]]:
    """What is compared, first minus second; see :func:`results`."""
    heads = [side for side in sides if side.line.arm == "main" or not side.line.group]
    pairs = [(b, a) for a, b in combinations(heads, 2) if a.line.group == b.line.group]
    arms = [side for side in sides if side not in heads]
    for side in arms:
        paper, groups = side.line.paper, (side.line.group, "")
        bases = [head for head in heads if head.line.paper == paper and head.line.group in groups]
        pairs += [(side, head) for head in sorted(bases, key=lambda head: groups.index(head.line.group))[:1]]
    named = {side: f"{side.line.paper}:{side.line.group}/{side.line.arm}" for side in arms}
    listed = [(each["paper"], (each["line"], each["against"]), each["where"]) for each in claims()[1]]
    asked = [tuple(f"{paper}:{arm}" for arm in pair) for paper, *compared in listed for pair in compared]
    pairs += [(a, b) for a, b in permutations(arms, 2) if (named[a], named[b]) in asked]
    return [(a, b) for a, b in pairs if len({_home(a.line), _home(b.line)} - {""}) < 2 and a.condition != SEAMS]


def between(a: scores.Report, b: scores.Report) -> pd.DataFrame:
    """Clean video AUC of the lines of one report minus that of the lines of the same name in another, as in :func:`results`.

    Raises :class:`core.DfnbError` where a test set differs, or no line and test set is in both.
    """
    others, found = {line.name: line for line in b.lines()}, []
    for line, other in [(line, others[line.name]) for line in a.lines() if line.name in others]:
        both = [name for name in a.test_sets(line) if name in b.test_sets(other)]
        for test_set in [name for name in both if not name.startswith(SEAMS)]:
            versions = [each.read(of, test_set)[0].attrs["fingerprint"] for each, of in ((a, line), (b, other))]
            if versions[0] != versions[1]:
                raise core.DfnbError(f"{a.folder} and {b.folder} saw different data as {test_set}; score one again")
            sides = Side(a, line, test_set, "", [""], "video"), Side(b, other, test_set, "", [""], "video")
            keys = {"line": line.name, "minus": f"in {b.folder.name}", "test_set": test_set, "condition": ""}
            found += [keys | row for row in _rows(*sides) if (row["metric"], row["method"]) == ("AUC", "all")]
    if not found:
        raise core.DfnbError(f"{a.folder} and {b.folder} share no line, test set and seeds; dfnb run makes a report")
    return pd.DataFrame(found).assign(group="", level="video", refused="").reindex(columns=COLUMNS)


def _seed_pairs(a: Side, b: Side | None) -> list[tuple[int | None, int | None]]:
    """The seeds of both sides that are compared; a line's own seeds where there is one side.

    Lines are compared at the seeds that they share; the same training at other seeds by position in the order of seeds. The
    one table of another tool is compared with every seed.
    """
    first, second = a.seeds(), b.seeds() if b else a.seeds()
    if [None] in (first, second):
        return list(product(first, second))
    shared = [(seed, seed) for seed in first if seed in second]
    trainings = [{**side.line.runs[0].parameters, "seed": None} for side in (a, b or a)]
    return list(zip(first, second)) if not shared and trainings[0] == trainings[1] else shared


def _rows(a: Side, b: Side | None) -> Iterator[Row]:
    """The rows of a line, or of ``a`` minus ``b``; none where there is nothing to compare.

    Collapsed runs are left out; with them, all is said again under ``with collapsed``.
    """
    pairs = _seed_pairs(a, b)
    if not pairs or (b and a.condition != ON_TEST and a.sources != b.sources):
        return
    other = b or a
    metrics.same_units(a.data.index, other.data.index)
    kept = [pair for pair in pairs if pair[0] not in a.collapsed and pair[1] not in other.collapsed]
    attrs = a.report.read(a.line, a.test_set, a.sources[0])[0].attrs
    facts = {name: attrs[name] for name in ("compression", "fingerprint")}
    facts["collapsed"] = f"{len(pairs) - len(kept)} of {len(pairs)}"
    if len(kept) < len(pairs):
        yield from (row | facts | {"condition": with_collapsed(a.condition)} for row in _numbers(a, b, pairs))
    # where all of them collapsed there is nothing else to show, and nothing is judged
    yield from (row | facts for row in _numbers(a, b, kept or pairs))


def with_collapsed(condition: str) -> str:
    """The condition of the rows that hold the collapsed runs too."""
    return f"{WITH_COLLAPSED}, {condition}" if condition else WITH_COLLAPSED


def _numbers(a: Side, b: Side | None, pairs: Sequence[tuple[int | None, int | None]]) -> Iterator[Row]:
    """Every metric of ``a``, or of ``a`` minus ``b``, at these seeds, and of single methods."""
    signed = [(1, a, [pair[0] for pair in pairs])] + ([(-1, b, [pair[1] for pair in pairs])] if b else [])
    facts = {"seeds_list": ", ".join(map(str, sorted({seed for _, _, seeds in signed for seed in seeds} - {None})))}
    data = [(sign, side.at(seeds)) for sign, side, seeds in signed]
    if a.condition == SEAMS:
        yield from (row | facts for row in _contrasts(a.line.name, data[0][1]))
        return
    whole, of_method = a.measured(every=b is None and not a.line.group)
    index = data[0][1].index
    # what robustness is compared with
    clean = [(-sign, side.clean.at(seeds).only(index)) for sign, side, seeds in signed if "robustness kept" in whole]
    methods = index["method"].to_numpy()
    for method in ["all", *sorted({*methods} - {"real"})]:
        chosen = data
        if method != "all":
            chosen = [(sign, units.rows(np.isin(methods, ["real", method]))) for sign, units in data]
        for metric in whole if method == "all" else of_method:
            terms = chosen + clean if metric == "robustness kept" else chosen
            found = estimates([units for _, units in terms], "AUC" if metric.startswith("robustness") else metric)
            means = [each.over_conditions(len(each.values) // len(pairs)) for each in found]
            if means and not (b and metric.startswith("constant ")):
                sides = [[mean for mean, (sign, _) in zip(means, terms) if sign == wanted] for wanted in (1, -1)]
                number = outcome(*sides)
                yield {"method": method, "metric": metric, "outcome": number} | summary(number) | facts


def _contrasts(line: str, data: metrics.Units) -> Iterator[Row]:
    """AUC and share called fake of each method of a test set of :data:`SEAMS`, and their differences, the :data:`CONTRASTS`.

    A share needs thresholds, and is also that of the real frames. Units of two methods follow one another alike, so that the
    variance over clusters of a difference is that of differences within people.
    """
    methods, cluster = data.index["method"].to_numpy(), data.design.cluster
    kinds = [method for method in dict.fromkeys(chain(*CONTRASTS)) if method in {*methods}]
    places = {method: np.flatnonzero(methods == method) for method in ("real", *kinds)}
    for metric, shown, beside in (("AUC", kinds, places["real"]), (metrics.CALLED, places, places["real"][:0])):
        found = {method: estimates([data.rows(np.append(beside, places[method]))], metric) for method in shown}
        pairs = [pair for pair in CONTRASTS if {*pair} <= {*found}]
        pairs = [pair for pair in pairs if np.array_equal(*(cluster[places[method]] for method in pair))]
        for compared in [*zip(found), *pairs] if all(found.values()) else ():
            number = outcome(*(found[method] for method in compared))
            keys = {"method": " − ".join(compared), "minus": line if compared in pairs else "", "metric": metric}
            yield keys | {"outcome": number} | summary(number)


# ------------------------------------------------------------------------------------------------------------ the claims

KINDS, NEEDED, OPTIONAL = DECLARED["claim"].values()
FEWEST_SEEDS = 5
MOST_COLLAPSED = 2  # runs that may be left out of a verdict
POWER = float(ndtri([0.975, 0.8]).sum()) ** 2  # of 80 %, in squared standard errors


def claims() -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """How ``published.csv`` names the datasets, and the claims of ``data_manifest/claims.yaml``, all fields filled in."""
    path = core.find("data_manifest") / "claims.yaml"
    with core.reading(path, "as a list of claims", "correct it"):
        content = core.read_yaml(path)
        listed = [OPTIONAL | {x: content[x] for x in ("delta", "registered")} | each for each in content["claims"]]
        usual = {name: value for name, value in (NEEDED | OPTIONAL).items() if value is not None}
        for claim in listed:
            odd = {*claim} ^ {*NEEDED, *OPTIONAL} or {x for x in usual if not isinstance(claim[x], type(usual[x]))}
            if odd or claim["kind"] not in KINDS:
                raise core.DfnbError(f"{path}: claim {claim.get('id')}: correct {', '.join(sorted(odd)) or 'kind'}")
        return {name: [*known] for name, known in content["datasets"].items()}, listed


def mapped(paper: str, group: str) -> list[str]:
    """The maps that claims about a paper compare of the arms of a group."""
    about = [claim for claim in claims()[1] if claim["map"] and claim["paper"] == paper]
    pairs = [(claim["map"], claim[side].rpartition("/")[0]) for claim in about for side in ("line", "against")]
    return sorted({name for name, compared in pairs if compared == group})


def judge(table: pd.DataFrame, listed: Sequence[dict[str, Any]] | None = None) -> pd.DataFrame:
    """Every claim, or those given, on every dataset it names, from :func:`results`: published, ours, verdict, as text.

    The rules stand in the head of ``claims.yaml``. ``p`` is against no difference (no worse: against a difference of -delta);
    Holm's is corrected for the claims that are judged. ``to decide``: the seeds and clusters of videos of a study that
    decides with 80 % power, if the estimate and its variance stay as they are. Single test sets beside ``away`` and controls
    are in no family of Holm's.
    """
    rows = {}
    for claim in claims()[1] if listed is None else listed:
        paper = "control" if claim["control"] else claim["paper"]
        for test_set, primary in _test_sets(claim["sets"], _measured(claim, table)):
            on_set = claim if primary or claim["kind"] == "share" else claim | {"kind": "shown"}
            rows[paper, claim["says"], test_set] = _judged(on_set, table[table["test_set"] == test_set])
    judged = pd.DataFrame(rows).T.rename_axis(["paper", "claim", "on"])
    p = judged.pop("p").astype(float)
    family = p.notna() & (p.index.get_level_values("paper") != "control")
    corrected = p.where(family)
    corrected[family] = metrics.holm(p[family].to_numpy())
    return judged.assign(**{"p": metrics.p_texts(p), "p, Holm": metrics.p_texts(corrected)}).fillna("–")


def _measured(claim: dict[str, Any], table: pd.DataFrame, collapsed: bool = False) -> pd.DataFrame:
    """The rows of a claim, one per test set; of a difference that is there the other way round the negative.

    ``collapsed``: the rows that hold the collapsed runs too. Of a share the rows of the line alone.
    """
    robust, of_loss = claim["metric"].startswith("robustness"), claim["metric"].startswith("loss_")
    condition = f"map {claim['map']}" if claim["map"] else ALL_CORRUPTIONS * robust + TRAINING * of_loss
    condition = with_collapsed(condition) if collapsed else condition
    level = "frame" if claim["map"] or of_loss else claim["level"]
    minus = "" if claim["kind"] == "share" else _line(claim["against"], claim["paper"], table)
    line = _line(claim["line"], claim["paper"], table)
    wanted = {"condition": condition, "level": level, "method": claim["method"], "metric": claim["metric"]}
    table = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    found = table[(table["line"] == line) & (table["minus"] == minus)]
    turned = table[(table["line"] == minus) & (table["minus"] == line)]
    return found if len(found) else turned.assign(value=-turned["value"], low=-turned["high"], high=-turned["low"])


def _line(name: str, paper: str, table: pd.DataFrame) -> str:
    """The name in the results of ``main``, a paper, an arm ``group/arm``, or another paper's arm ``paper:group/arm``."""
    other, _, arm = name.rpartition(":")
    group, _, arm = arm.rpartition("/")
    if not other:
        other = paper if group or arm == "main" else arm
    found = table[(table["paper"] == other) & (table["group"] == group) & ((table["arm"] == arm) | (group == ""))]
    return found["line"].iloc[0] if name and len(found) else name


def _test_sets(names: Sequence[str], found: pd.DataFrame) -> Iterator[tuple[str, bool]]:
    """The test sets of these names that have a row, and whether the claim is judged on it.

    Beside ``away``, the mean, stand the single sets, which are not judged. A name that none fits stays, as not testable.
    """
    home = (found["test_set"] == found["train_set"]).to_numpy()
    for name in names:
        fitting = fnmatch.filter(found["test_set"], name) if name != "home" else list(found["test_set"][home])
        yield from ((test_set, True) for test_set in fitting or [name])
        if name == AWAY:
            yield from ((test_set, False) for test_set in found["test_set"][~home] if test_set != AWAY)


def _judged(claim: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """What a claim's rule says of the results on a test set, of which it has one or none; ``p`` is NaN where it is not judged."""
    found = _measured(claim, table)
    row = {"source": claim["source"], "registered": str(claim["registered"]), "kind": claim["kind"], "p": np.nan}
    row["published"] = f"{claim['published']:.3f}".replace("nan", "–")
    if found["value"].isna().all():
        what = f"no {claim['metric']} of {' minus '.join(filter(None, (claim['line'], claim['against'])))}"
        return row | {"verdict": f"not testable: {''.join(found['refused']) or what}"}
    (of,) = found.itertuples()
    row["ours"] = metrics.interval(of.value, of.low, of.high)
    row |= {"seeds": f"{of.seeds:.0f}", "clusters": f"{of.clusters:.0f}", "collapsed": of.collapsed}
    if claim["kind"] == "share":
        whole = _measured(claim | {"line": claim["against"]}, table)["value"].mean()
        row["ours"] = f"{of.value:.3f} of {whole:.3f}: {of.value / whole:.2f}"
    if claim["kind"] in ("share", "shown"):
        return row | {"verdict": "not judged"}
    left_out, runs = map(int, of.collapsed.split(" of "))
    if left_out == runs or left_out > MOST_COLLAPSED:
        return row | {"verdict": f"not judged: {of.collapsed} runs collapsed"}
    if of.seeds < FEWEST_SEEDS:
        return row | {"verdict": f"exploratory: fewer than {FEWEST_SEEDS} seeds"}
    if np.isnan(of.low):
        return row | {"verdict": "undecided: no interval, too few clusters"}
    if claim["kind"] == "figure":
        where = "inside" if of.low <= claim["published"] <= of.high else "outside"
        return row | {"verdict": f"published figure {where} our interval (± {(of.high - of.low) / 2:.3f})"}
    limit = -_delta(claim, of) if claim["kind"] == "no worse" else 0.0
    if claim["where"]:
        line, against = claim["where"]
        gain = claim | {"kind": "gain", "line": line, "against": against, "where": ()}
        if not _judged(gain, table)["verdict"].startswith("supported"):
            return row | {"verdict": f"not judged: {line} was not shown to beat {against}"}
    verdict = _verdict(claim, of, limit)
    if verdict.startswith("supported") and (_measured(claim, table, collapsed=True)["value"] <= limit).any():
        verdict = "not supported: the sign turns with the collapsed runs in"
    if verdict == "undecided":
        # to the bound that decides first as the interval shrinks: of those that it will leave, the farthest
        bounds = [limit] if claim["kind"] == "no worse" else [limit, _delta(claim, of)]
        gap = max(1e-9, of.value - limit, *(bound - of.value for bound in bounds))  # above the limit, or below a bound
        more = max(1.0, of.error**2 * POWER / gap**2)
        row["to decide"] = f"{np.ceil(more * of.seeds):.0f} seeds, {np.ceil(more * of.clusters):.0f} clusters"
    return row | {"verdict": verdict, "p": p_value(of.value - limit, of.error**2, of.degrees)}


def _verdict(claim: dict[str, Any], of: Any, limit: float) -> str:
    """The rule for a gain, or for no worse than ``limit``, on both ends of the interval."""
    gain, delta = claim["kind"] == "gain", _delta(claim, of)
    if of.high < limit:
        return "worse, below material size" if gain and of.low > -delta else "worse"
    small = gain and of.high < delta
    if of.low > limit:
        return "supported, below material size" if small else "supported"
    return "no material gain" if small else "undecided"


def _delta(claim: dict[str, Any], of: Any) -> float:
    """What counts as material: the claim's own, or that of its metric and of home or away."""
    if not isinstance(claim["delta"], dict):
        return claim["delta"]
    if claim["metric"] == "AUC" or claim["metric"].startswith("robustness"):
        return claim["delta"]["home" if of.test_set == of.train_set else "away"]
    return claim["delta"]["accuracy" if "accuracy" in claim["metric"] else "localisation"]


def published() -> pd.DataFrame:
    """What ``published.csv`` has of the papers here, as it is printed; ``paper`` by module name."""
    modules = {papers.module(name).PAPER.published: name for name in papers.names()}
    with core.reading("data_manifest/published.csv", "as a table of figures", "correct it"):
        table = pd.read_csv(core.find("data_manifest") / "published.csv", dtype={"value": float})
        table["paper"] = table["paper"].str.extract(f"^({'|'.join(modules)})", expand=False).map(modules)
        others = table["paper"].isna() | ((table["paper"] == "xception") & (table["method"] != "Xception (Xception)"))
        return table[~others].rename(columns={"level(frame/video/image)": "level"})


def with_published(results: pd.DataFrame) -> pd.DataFrame:
    """The results with the AUC that was ``published`` for the same paper, backbone, datasets and level, and Δ, ours minus it.

    Both are texts, with the figure's ``source`` and ``confidence``; ``published`` is empty where no figure is known.
    """
    names = {theirs: ours for ours, listed in claims()[0].items() for theirs in listed}
    known = published().query("metric == 'AUC' and not method.str.startswith('previous best')")
    known = known.replace({"train_set": names, "test_set": names}).rename(columns={"value": "published"})
    known["backbone"] = [papers.module(name).Settings().backbone for name in known["paper"]]
    keys = ["paper", "backbone", "train_set", "test_set", "level"]
    known = known.drop_duplicates(keys)[[*keys, "published", "source", "confidence"]]
    results = results.merge(known, on=keys, how="left")
    shift = results[["value", "low", "high"]].sub(results["published"], axis=0)
    texts = results["published"].map("{:.3f}".format).replace("nan", "")
    return results.assign(published=texts, Δ=[metrics.interval(*row) for row in shift.to_numpy()])
