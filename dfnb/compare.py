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
- ``condition``: empty (clean), ``JPEG 3``, ``JPEG`` and ``all corruptions`` (means over severities), ``map Grad-CAM``,
  ``sanity Grad-CAM``, ``chosen on test``. A line minus itself ``chosen on test`` is what that choice gains;
- ``metric``: one of :data:`dfnb.metrics.METRICS`, ``robustness``, or the name of a column of values (``iou``, ``energy``);
- ``n`` counts units (frames or videos) that have a value; ``sd`` is over seeds;
- ``left_chance``: of an AUC, for how many seeds its own interval over videos does not hold .5;
- ``refused``: why a line has no number here; else empty.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtr

from dfnb import core, metrics, papers
from dfnb.core import DfnbError
from dfnb.metrics import METRICS, Estimates, Level, Units, interval
from dfnb.scores import Line, Report

KEYS = ("line", "paper", "group", "arm", "minus", "train_set", "test_set", "method", "condition", "level", "metric")
INTERVALS = ("value", "low", "high", "low_videos", "high_videos", "low_seeds", "high_seeds", "sd", "p")
COUNTS = ("n", "n_real", "n_fake", "clusters", "seeds", "left_chance", "interval_method")
FACTS = ("rule", "backbone", "weights_from", "compression", "fingerprint", "seeds_list", "refused")
COLUMNS = KEYS + INTERVALS + COUNTS + FACTS
VERSION = 1  # raised when the same scores give other numbers
ON_TEST = "chosen on test"
ALL_CORRUPTIONS = "all corruptions"


# ---------------------------------------------------------------------------------------------------------- one comparison


def compare(a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame] = (), *, level: Level, metric: str) -> dict[str, Any]:
    """A metric of the score tables of one line's seeds, or of ``a`` minus ``b``, paired table by table.

    ``metric`` is one of :data:`dfnb.metrics.METRICS` or a column of values; units without a value in any table are left
    out. Returns the columns of :func:`results` from ``value`` to ``interval_method``. A single table, such as another
    tool's scores, is compared with each table of the other side. :class:`DfnbError` when the tables do not hold the same
    units, labels and clusters, or the two sides cannot be paired.
    """
    if len(b) and len(a) != len(b) and 1 not in (len(a), len(b)):
        raise DfnbError(f"{len(a)} score tables cannot be paired with {len(b)}; give the seeds that both lines share")
    sides = [metrics.align(tables, level) for tables in (a, b) if len(tables)]
    metrics.same_units(sides[0].index, sides[-1].index)
    estimates = _estimates(sides, metric)
    if not estimates:
        raise DfnbError(f"no {level} has a value of {metric} in every score table; compare lines that have it")
    return summary(*estimates)


def _estimates(sides: Sequence[Units], metric: str) -> list[Estimates]:
    """The metric of each side, on the units that have a value in every table; empty where there is none."""
    if metric in METRICS:
        return [metrics.measure(data, metric) for data in sides]
    if not all(metric in data.columns for data in sides):
        return []
    known = ~np.isnan(np.concatenate([data.columns[metric] for data in sides])).any(axis=0)
    return [metrics.measure(data.rows(known, ["score", metric]), metric) for data in sides] if known.any() else []


class Spread(NamedTuple):
    """A variance of an estimate and its degrees of freedom."""

    variance: float
    degrees: float

    def plus(self, other: "Spread") -> "Spread":
        """The sum of two independent variances (Satterthwaite, Biometrics Bulletin 2:110, 1946)."""
        total = self.variance + other.variance
        if not total > 0:
            return Spread(total, self.degrees)
        parts = self.variance**2 / self.degrees + other.variance**2 / other.degrees
        return Spread(total, total**2 / parts)


def summary(a: Estimates, b: Estimates | None = None) -> dict[str, Any]:
    """Value, intervals, p and counts of the mean over tables of ``a``, or of ``a`` minus ``b`` on the same units."""
    values = a.values if b is None else a.values - b.values
    value, seeds, degrees = float(values.mean()), len(values), a.design.fewest - 1
    sd = float(values.std(ddof=1)) if seeds > 1 else float("nan")
    over_seeds = Spread(sd**2 / seeds, seeds - 1)
    over_videos = Spread(_variance_over_videos(a, b), degrees)
    over_both = over_videos.plus(over_seeds) if seeds > 1 else over_videos
    row = {"value": value, "sd": sd, "p": float("nan") if b is None else _p(value, over_both)}
    for name, spread in {"": over_both, "_videos": over_videos, "_seeds": over_seeds}.items():
        half = metrics.quantile(spread.degrees) * spread.variance**0.5
        limits = value - half, value + half
        if b is None and a.bounded:
            limits = metrics.bounded_interval(value, *spread, a.independent)
        row |= {f"low{name}": limits[0], f"high{name}": limits[1]}
    if a.how == "delong":
        errors = np.array([a.variance(influence) for influence in a.spread]) ** 0.5
        row["left_chance"] = int((np.abs(a.values - 0.5) > metrics.quantile(degrees) * errors).sum())
    interval_method = "none" if np.isnan(over_videos.variance) else a.how
    return row | a.design.counts() | {"seeds": seeds, "interval_method": interval_method}


def _variance_over_videos(a: Estimates, b: Estimates | None) -> float:
    """The variance over videos of the mean over tables, or of the difference of two means.

    An estimate of exactly 0 or 1 has no standard error. Unless both sides have the same scores, that of the difference is
    then at least the width of the interval of such an estimate.
    """
    if b is None:
        return a.variance(a.spread.mean(axis=0))
    variance = a.variance((a.spread - b.spread).mean(axis=0))
    exact = {0.0, 1.0} & {float(a.values.mean()), float(b.values.mean())}
    if exact and a.bounded and not np.array_equal(a.column, b.column):
        low, high = metrics.bounded_interval(1.0, variance, np.nan, a.independent)
        variance = max(variance, ((high - low) / metrics.quantile(a.design.fewest - 1)) ** 2)
    return variance


def _p(difference: float, spread: Spread) -> float:
    if np.isnan(spread.variance) or abs(difference) < 1e-12:
        return 1.0 if spread.variance >= 0 else float("nan")
    return float(2 * stdtr(spread.degrees, -abs(difference) / max(spread.variance**0.5, 1e-12)))


# ------------------------------------------------------------------------------------------------------- the long table


def results(report: Report) -> pd.DataFrame:
    """The long table of a report (:data:`COLUMNS`), made once and kept in ``reports/<profile>/results.parquet``.

    Main lines have all metrics. Arms, differences and single methods have AUC, balanced accuracy and localisation.
    Differences: of every two main lines; of every arm and the ``main`` of its group, or else of its paper; of the ``main``
    arms of groups of one name. Refused scores raise nothing: they are rows that say why.
    """
    paths = [report.folder / "runs.json", *report.folder.glob("scores/*.parquet"), *report.folder.glob("other/*/*")]
    files = {str(path.relative_to(report.folder)): core.sha256(path) for path in paths if path.exists()}
    facts = {"version": VERSION, "files": core.digest(files)}
    return core.cached(report.folder / "results.parquet", facts, lambda: _results(report))


def _results(report: Report) -> pd.DataFrame:
    lines, rows = report.lines(), []
    for test_set in dict.fromkeys(test_set for line in lines for test_set in report.test_sets(line)):
        rows += _of_test_set(report, [line for line in lines if test_set in report.test_sets(line)], test_set)
    if not rows:
        raise DfnbError(f"{report.folder} holds no scores; run the profile first: dfnb run {report.folder.name}")
    facts = pd.DataFrame([_facts(line) for line in lines])
    table = pd.DataFrame(rows).merge(facts, on="line").reindex(columns=COLUMNS)
    texts = ["interval_method", *FACTS]
    table[texts] = table[texts].astype(object).fillna("")
    return table


def _facts(line: Line) -> dict[str, str]:
    """What every number of a line must carry, whatever the test set."""
    facts = {"line": line.name, "paper": line.paper, "group": line.group, "arm": line.arm, "train_set": _home(line)}
    if not line.runs:
        return facts | {"rule": f"that of {line.name}", "backbone": line.name, "weights_from": "elsewhere"}
    record = line.runs[0].record
    backbone = record["parameters"]["settings"]["backbone"]
    return facts | {"rule": record["rule"], "backbone": backbone, "weights_from": record["weights_from"]}


def _home(line: Line) -> str:
    """The dataset trained on; empty for another tool."""
    return line.runs[0].parameters["train_set"] if line.runs else ""


@dataclass(eq=False)
class Side:
    """The scores of a line on a test set at one level, under a condition that is made from stored ones."""

    report: Report
    line: Line
    test_set: str
    condition: str
    sources: Sequence[str]
    level: Level

    @cached_property
    def data(self) -> Units:
        """For each source the aligned tables of the seeds that have all sources; chosen on test: of each seed's best epoch."""
        tables = [table for source in self.sources for table in self.report.read(self.line, self.test_set, source)]
        data = metrics.align(tables, self.level)
        if self.condition == ON_TEST:
            epochs = pd.DataFrame({"seed": data.seeds, "auc": metrics.measure(data, "AUC").values})
            return data.tables(epochs.groupby("seed")["auc"].idxmax())
        complete = [place for place, seed in enumerate(data.seeds) if data.seeds.count(seed) == len(self.sources)]
        return data.tables(complete)

    def metrics(self, every: bool) -> tuple[list[str], list[str]]:
        """The metrics of this condition, all or a few, and those of each manipulation method."""
        columns = [name for name in self.data.columns if name != "score"]
        few = ["AUC"] if self.level == "video" else ["AUC", "balanced accuracy", *columns]
        if self.condition == "":
            return ([*METRICS, *columns] if every else few), few
        if self.condition.startswith(("map ", "sanity ")):
            whole = [name for name in columns if not name[-1].isdigit()]  # not the points of a curve
            return (columns if every else whole), whole
        return ["AUC" if self.condition in (ON_TEST, *self.sources) else "robustness"], []


def _of_test_set(report: Report, lines: Sequence[Line], test_set: str) -> Iterator[dict[str, Any]]:
    """The rows of one test set: of each condition and level those of its lines, then those of their differences."""
    stored = [(line, _conditions(report, line, test_set)) for line in lines]
    for condition, level in product(dict.fromkeys(name for _, sources in stored for name in sources), metrics.KEY):
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
            except DfnbError as error:
                yield keys | {"method": "all", "metric": "AUC", "refused": str(error)}


def _conditions(report: Report, line: Line, test_set: str) -> dict[str, list[str]]:
    """The conditions of the results by the stored ones that each is made from."""
    sources = defaultdict(list, {"": [""]})
    with suppress(DfnbError):  # reading the clean scores will say what is wrong
        for name in report.conditions(line, test_set):
            kind, _, number = name.rpartition(" ")
            if kind == "epoch":
                sources[ON_TEST].append(name)
                continue
            sources[name] = [name]
            if number.isdigit() and not name.startswith(("map ", "sanity ")):
                sources[kind].append(name)
                sources[ALL_CORRUPTIONS].append(name)
    return dict(sources)


def _pairs(sides: Sequence[Side]) -> list[tuple[Side, Side]]:
    """What is compared, first minus second; see :func:`results`."""
    heads = [side for side in sides if side.line.arm == "main" or not side.line.group]
    pairs = [(b, a) for a, b in combinations(heads, 2) if a.line.group == b.line.group]
    for side in (side for side in sides if side not in heads):
        of_paper = [head for head in heads if head.line.paper == side.line.paper]
        own = [head for head in of_paper if head.line.group == side.line.group]
        plain = [head for head in of_paper if not head.line.group]
        pairs += [(side, head) for head in (own or plain)[:1]]
    return [(a, b) for a, b in pairs if _home(a.line) == _home(b.line) or "" in (_home(a.line), _home(b.line))]


def _rows(a: Side, b: Side | None) -> Iterator[dict[str, Any]]:
    """The rows of a line, or of ``a`` minus ``b``, at the seeds that both have; none where nothing is shared."""
    sides = [side.data for side in (a, b) if side]
    seeds = [set(side.seeds) for side in sides if side.seeds != [None]] or [{None}]
    shared = set.intersection(*seeds)
    if not shared or (b and a.condition != ON_TEST and a.sources != b.sources):
        return
    metrics.same_units(sides[0].index, sides[-1].index)
    places = [[i for i, seed in enumerate(side.seeds) if seed is None or seed in shared] for side in sides]
    data = [side.tables(chosen) for side, chosen in zip(sides, places)]
    conditions = 1 if a.condition == ON_TEST else len(a.sources)
    attrs = a.report.read(a.line, a.test_set, a.sources[0])[0].attrs
    facts = {"compression": attrs["compression"], "fingerprint": attrs["fingerprint"]}
    facts["seeds_list"] = ", ".join(str(seed) for seed in sorted(shared) if seed is not None)
    whole, of_method = a.metrics(every=b is None and not a.line.group)
    methods = data[0].index["method"].to_numpy()
    for method in ["all", *sorted({*methods} - {"real"})]:
        chosen = data if method == "all" else [units.rows(np.isin(methods, ["real", method])) for units in data]
        for metric in whole if method == "all" else of_method:
            estimates = _estimates(chosen, "AUC" if metric == "robustness" else metric)
            means = [estimate.over_conditions(conditions) for estimate in estimates]
            if means:
                yield {"method": method, "metric": metric} | summary(*means) | facts


# ------------------------------------------------------------------------------------------------------------ the claims

Claim = dict[str, Any]  # an entry of claims.yaml, whose head says what each field means
OPTIONAL = {"level": "video", "line": "main", "against": "", "method": "all", "map": "", "published": float("nan")}
FIELDS = {"id", "paper", "says", "source", "metric", "sets", "reproduced", "partly", *OPTIONAL}
VERDICTS = ("not reproduced", "partly", "reproduced")


def claims() -> tuple[dict[str, list[str]], list[Claim]]:
    """How ``published.csv`` names the datasets, and the claims of ``data_manifest/claims.yaml``, all fields filled in."""
    path = core.find("data_manifest") / "claims.yaml"
    content = core.read_yaml(path)
    listed = [OPTIONAL | entry for entry in content["claims"]]
    for claim in listed:
        if set(claim) != FIELDS or claim["partly"] >= claim["reproduced"]:
            fields = ", ".join(sorted(FIELDS))
            raise DfnbError(
                f"{path}: claim {claim.get('id')} must have partly below reproduced and the fields {fields}"
            )
    return content["datasets"], listed


def judge(table: pd.DataFrame, listed: Sequence[Claim] | None = None) -> pd.DataFrame:
    """Every claim, or those given, on every dataset it names, from :func:`results`: published, ours, verdict, as text.

    ``clusters to decide``: how many clusters of videos it takes for the interval to lie within one verdict, if the
    estimate stays where it is.
    """
    rows = {}
    for claim in claims()[1] if listed is None else listed:
        found = _measured(claim, table)
        for test_set in _test_sets(claim["sets"], found):
            row = _judged(claim, found[found["test_set"] == test_set])
            rows[claim["paper"], claim["says"], test_set] = {"source": claim["source"], **row}
    return pd.DataFrame(rows).T.rename_axis(["paper", "claim", "on"]).fillna("–")


def _measured(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a claim, one per test set; of a difference that is there the other way round the negative."""
    condition = ALL_CORRUPTIONS if claim["metric"] == "robustness" else ""
    condition = f"map {claim['map']}" if claim["map"] else condition
    level = claim["level"] if claim["metric"] in (*METRICS, "robustness") else "frame"
    line, minus = (_line(claim[side], claim["paper"], table) for side in ("line", "against"))
    wanted = {"condition": condition, "level": level, "method": claim["method"], "metric": claim["metric"]}
    table = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    found = table[(table["line"] == line) & (table["minus"] == minus)]
    turned = table[(table["line"] == minus) & (table["minus"] == line)].copy()
    if len(found):
        return found
    for over in ("", "_videos", "_seeds"):
        turned[f"low{over}"], turned[f"high{over}"] = -turned[f"high{over}"], -turned[f"low{over}"]
    return turned.assign(value=-turned["value"])


def _line(name: str, paper: str, table: pd.DataFrame) -> str:
    """The name in the results of ``main``, a paper, an arm ``group/arm``, or another paper's arm ``paper:group/arm``."""
    other, _, arm = name.rpartition(":")
    group, _, arm = arm.rpartition("/")
    if not other:
        other = paper if group or arm == "main" else arm
    found = table[(table["paper"] == other) & (table["group"] == group) & ((table["arm"] == arm) | (group == ""))]
    return found["line"].iloc[0] if name and len(found) else name


def _test_sets(names: Sequence[str], found: pd.DataFrame) -> list[str]:
    """The test sets of these names that have a row, each once; a name that none fits stays, as not testable."""
    home = found["test_set"] == found["train_set"]
    groups = {"home": found["test_set"][home], "away": found["test_set"][~home]}
    fitting = []
    for name in names:
        fitting += list(groups.get(name, [each for each in found["test_set"] if fnmatch(each, name)])) or [name]
    return list(dict.fromkeys(fitting))


def _judged(claim: Claim, found: pd.DataFrame) -> dict[str, str]:
    """What a claim's rule says of its row on a test set, of which there is one or none."""
    rules, published = [claim["reproduced"], claim["partly"]], claim["published"]
    row = {
        "published": "–" if np.isnan(published) else f"{published:.3f}",
        "rule": "≥ {:g}, partly ≥ {:g}".format(*rules),
    }
    if found["value"].isna().all():
        what = f"no {claim['metric']} of {' minus '.join(filter(None, (claim['line'], claim['against'])))}"
        return row | {"verdict": f"not testable: {''.join(found['refused']) or what}"}
    (of,) = found.itertuples()
    row |= {"ours": interval(of.value, of.low, of.high), "seeds": f"{of.seeds:.0f}", "clusters": f"{of.clusters:.0f}"}
    if not np.isnan(published):
        row["ours − published"] = interval(of.value - published, of.low - published, of.high - published)
    worst, best = (VERDICTS[sum(bound >= rule for rule in rules)] for bound in (of.low, of.high))
    if worst == best:
        return row | {"verdict": "undecided at this n (no interval)" if np.isnan(of.low) else worst}
    gap = min(abs(of.value - rule) for rule in rules if of.low < rule <= of.high)
    videos, seeds = (of.high_videos - of.low_videos) / 2, np.nan_to_num(of.high_seeds - of.low_seeds) / 2
    clusters = f"{of.clusters * videos**2 / (gap**2 - seeds**2):.0f}" if gap > seeds else "more seeds"
    return row | {"verdict": f"undecided at this n ({worst} to {best})", "clusters to decide": clusters}


def published() -> pd.DataFrame:
    """What ``published.csv`` has of the papers here, ``paper`` by module name; per cents as fractions."""
    table = pd.read_csv(core.find("data_manifest") / "published.csv")
    table = table.rename(columns={"level(frame/video/image)": "level"})
    table = table[~table["paper"].str.startswith("DeepfakeBench") | (table["method"] == "Xception (Xception)")].copy()
    for name in papers.names():
        table.loc[table["paper"].str.startswith(papers.module(name).PAPER.published), "paper"] = name
    table["value"] = table["value"].where(~table["metric"].str.contains("%"), table["value"] / 100)
    table["metric"] = table["metric"].str.replace(" (%)", "")
    return table[table["paper"].isin(papers.names())]


def published_and_ours(table: pd.DataFrame) -> pd.DataFrame:
    """Published AUC and ours by both rules for the checkpoint, of the main lines on real test sets, as text.

    "not known" where ``published.csv`` has no figure of the paper's own backbone on these datasets.
    """
    datasets, known = claims()[0], published()
    names = {theirs: ours for ours, listed in datasets.items() for theirs in listed}
    known = known[(known["metric"] == "AUC") & ~known["method"].str.startswith("previous best")]
    known = known.assign(train_set=known["train_set"].map(names), test_set=known["test_set"].map(names))
    known["backbone"] = [papers.module(name).Settings().backbone for name in known["paper"]]
    keys = ["paper", "backbone", "train_set", "test_set", "level"]
    ours = table.query("group == '' and minus == '' and method == 'all' and metric == 'AUC' and refused == ''")
    ours = ours[ours["train_set"].isin(datasets) & ours["test_set"].isin(datasets)]
    rows: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for of in ours.merge(known.drop_duplicates(keys), "left", keys, suffixes=("", "_published")).itertuples():
        row = rows[of.line, of.test_set, of.level]
        if of.condition == ON_TEST:
            row["ours, chosen on test"] = interval(of.value, of.low, of.high)
        elif of.condition == "":
            row |= {"published": "not known", "ours": interval(of.value, of.low, of.high)}
            if not np.isnan(of.value_published):
                row |= {"published": f"{of.value_published:.3f}", "source": of.source, "confidence": of.confidence}
                row["Δ"] = interval(*(limit - of.value_published for limit in (of.value, of.low, of.high)))
    return pd.DataFrame(rows).T.rename_axis(["line", "test set", "level"]).fillna("–") if rows else pd.DataFrame()
