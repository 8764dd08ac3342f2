"""The long table of a report: one number per row. Tables, figures and claims read nothing else.

:class:`ResultRow` documents the columns. On each test set and under each condition, every detector
is measured, then the differences of two detectors, on the same units and at the same seeds. Means
over test sets follow.

Every 95 % interval follows one rule. The variance over videos is that of :mod:`dfnb.metrics`; the
variance over seeds is the variance of the seeds' values divided by their number. The two are added,
with Satterthwaite's degrees of freedom. The mean over three or more test sets has an interval for
other test sets, too, see :func:`dfnb.statistics.crossed_spread`. The interval of a value in [0, 1]
is computed on the logit scale; a difference or a signed value has a Wald interval. The p value has
the same standard error and degrees of freedom.

``python -m dfnb.results PROFILE`` makes the table of a report.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, combinations, product

import pandas as pd

from dfnb import claims
from dfnb.files import find, read_metadata, read_table, sha256, write_table
from dfnb.metrics import CROSS_DATASET_MEAN, LEVELS, Level, check_same_units
from dfnb.runs import Run
from dfnb.settings import DfnbError
from dfnb.sides import ALL_METHODS, VERSUS, Side, is_compared
from dfnb.statistics import NAN, Outcome, summary
from dfnb.store import Condition, Detector, Report

ALL_CORRUPTIONS = "all corruptions"
MAIN = "main"  # the variant with which the others of its ablation are compared
SeedPairs = list[tuple[int | None, int | None]]  # of two detectors; None: another tool has no seed


@dataclass(frozen=True)
class ResultRow:
    """One number of a report.

    Where a column does not apply, a text is empty and a number NaN. Units are videos or frames.
    """

    # What is measured, and under which condition; _compare fills this part.
    detector: str  # its name in tables
    paper: str  # the module of its paper; empty for another tool
    ablation: str  # empty for main detectors
    variant: str
    minus: str = ""  # the detector that is subtracted, which may be the same one
    train_set: str = ""  # of the detector, else of ``minus``; empty where both are other tools
    test_set: str = ""  # or CROSS_DATASET_MEAN, the mean over sets that were not trained on
    within: bool = False  # whether the test set is the one trained on, or the profile says so
    mean_over: str = ""  # the test sets of that mean, as "a, b"
    range: str = ""  # their lowest and highest value, as text
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
    # or ROBUSTNESS_KEPT
    # The mean over seeds, and its 95 % interval; statistics.summary fills these and the counts.
    value: float = NAN
    low: float = NAN  # over videos and seeds; over videos alone where there is one seed;
    # of a mean over three or more test sets also over test sets
    high: float = NAN
    low_videos: float = NAN  # these two over videos alone, the next two over seeds alone
    high_videos: float = NAN
    low_seeds: float = NAN
    high_seeds: float = NAN
    sd: float = NAN  # over seeds
    p: float = NAN  # of a difference or signed value against 0
    error: float = NAN  # the standard error over videos and seeds
    degrees: float = NAN  # its degrees of freedom
    # The units, seeds and trainings behind it; the trainings described are those of ``detector``.
    n: float = NAN  # units with a value
    n_real: float = NAN
    n_fake: float = NAN
    clusters: float = NAN  # of videos that share people
    seeds: int = 0
    interval_method: str = ""  # how the variance over videos was estimated, see dfnb.metrics
    rule: str = ""  # by which the epoch was chosen
    backbone: str = ""
    weights_from: str = ""  # what the training started from
    image_size: str = ""  # side of the network's input, as "96 px"; empty: another tool
    published_as: str = ""  # the name in published.csv, where the backbone is the published one
    compression: str = ""  # of the test set
    fingerprint: str = ""  # of the test set
    crop: str = ""  # how the test set's frames were cut; empty: scored before this was stored
    frames_per_video: float = NAN  # mean of the test set; NaN for maps, which are of some frames
    seeds_list: str = ""
    by_seed: str = ""  # the value of each seed
    # Value, error and degrees without each seed; empty for a metric in [0, 1], for one or two
    # seeds, and where there is no number.
    without_seed: Sequence[Sequence[float]] = ()
    collapsed: str = ""  # as "1 of 5": runs that learned nothing, left out unless all did
    refused: str = ""  # why there is no number
    outcome: Outcome | None = None  # from which the number was computed; not in the table


# ---------------------------------------------------------------- the table


def load(profile: str) -> pd.DataFrame:
    """The table of a report, ``reports/<profile>/results.parquet``.

    It is made again when a score file, a test set, the claims or the columns have changed. Scores
    that cannot be used do not raise an error: they get a row with the reason in ``refused``. Raises
    :class:`DfnbError` for a report without scores, and as :meth:`dfnb.store.Report.detectors` does.
    """
    report = Report(profile)
    path = report.folder / "results.parquet"
    # The metadata of the table keep what it was made from: hashes of the files, the columns of this
    # version of the code, and the grid, which says which test sets are within, which enter no mean,
    # and on which one the threshold of another tool is chosen. The claims are among the files,
    # because they name further pairs of detectors to compare.
    claims_hash = sha256(find(f"data_manifest/claims/{report.claims}.yaml"))
    hashes = {
        "claims": claims_hash,
        "columns": list(ResultRow.__annotations__),
        "grid": report.grid,
    }
    # [!.] leaves out temporary files of another process, whose names begin with a dot.
    for pattern in ("scores/[!.]*.parquet", "test_sets/[!.]*.parquet", "other/[!.]*/[!.]*"):
        for source in sorted(report.folder.glob(pattern)):
            hashes[str(source.relative_to(report.folder))] = sha256(source)
    if not path.exists() or read_metadata(path) != hashes:
        write_table(path, make(report), hashes)
    return read_table(path)


def make(report: Report) -> pd.DataFrame:
    """The table of a report; its columns are the fields of :class:`ResultRow` except ``outcome``.

    Main detectors have all metrics. Variants, differences and single methods have AUC and balanced
    accuracy at one half; at frame level also accuracy and false alarms at the validation threshold;
    at video level also localisation. Frames of single methods are measured for variants only. Under
    corruptions, only the AUC at video level is measured. :class:`dfnb.sides.Side` says what is
    measured of maps and of test sets with contrasts.

    Raises :class:`DfnbError` for a report without scores.
    """
    detectors = report.detectors()
    test_sets = []
    for detector in detectors:
        test_sets += [condition.test_set for condition in report.conditions(detector)]
    rows = []
    for test_set in dict.fromkeys(test_sets):  # each once, in order
        rows += _of_test_set(report, detectors, test_set)
    if not rows:
        raise DfnbError(f"{report.folder} has no scores; run dfnb run {report.folder.name} first")
    rows += _cross_dataset_means(rows, report.grid.get("not_averaged", []))
    table = pd.DataFrame([vars(row) for row in rows]).drop(columns="outcome")
    # Reasons name files of the report, relative to the home: a table has no path of a machine.
    home = f"{report.folder.parents[1]}/"
    return table.assign(refused=table["refused"].str.replace(home, "", regex=False))


# ---------------------------------------------------------------- what is compared


def _of_test_set(report: Report, detectors: Sequence[Detector], test_set: str) -> list[ResultRow]:
    """The rows of one test set: at each level those of the detectors, then the differences.

    A test set may declare ``contrasts``, pairs of manipulation methods. On such a test set each
    detector's numbers on two methods are compared, but not two detectors.
    """
    frames = report.test_set(test_set)
    facts = {**frames.attrs, "frames_per_video": len(frames) / frames["video"].nunique()}
    facts["within"] = test_set in report.grid.get("within", [])
    read = cache(report.read)  # both levels read the same tables
    differences = [] if facts["contrasts"] else _differences(detectors, report.claims)
    rows = []
    for level in LEVELS:
        sides = {}  # detector -> what _sides returns
        for detector in detectors:
            clean = Side(read, detector, level, facts, Condition(test_set))  # reads nothing yet
            sides[detector] = _sides(clean, report.conditions(detector))
            for side in sides[detector].values():
                rows += _compare(side, side)  # the detector alone
        for first, second in differences:
            for key, side in sides[first].items():
                if key in sides[second]:
                    rows += _compare(side, sides[second][key])
    return rows


def _sides(clean: Side, conditions: Sequence[Condition]) -> dict[tuple[Condition, ...], Side]:
    """The sides of a detector under those ``conditions`` that are measured here.

    They are on the test set of ``clean``, the side without corruption, and at its level: corrupted
    scores are measured at video level only; maps, and test sets with contrasts, which compare kinds
    of frames, at frame level only. For each corruption, and for all together, a side is added that
    averages the severities; a test set with contrasts has no such means.

    Two sides are compared only if their keys are equal. The key of a side is its condition. That of
    a mean over severities, which has severity 0, also lists the conditions averaged: two means of
    different severities are not comparable.
    """
    sides = {}
    parts_by_mean = defaultdict(list)  # condition of a mean -> the sides that it averages
    for condition in conditions:
        levels = ["video"] if condition.corruption else LEVELS
        if condition.map or clean.facts["contrasts"]:
            levels = ["frame"]
        if clean.level not in levels or condition.test_set != clean.condition.test_set:
            continue
        side = clean  # the same object, because it keeps its estimates for the means below
        if condition != clean.condition:
            side = replace(clean, condition=condition)
        sides[(condition,)] = side
        if condition.corruption and not clean.facts["contrasts"]:
            for corruption in (condition.corruption, ALL_CORRUPTIONS):
                mean = condition._replace(corruption=corruption, severity=0)
                parts_by_mean[mean].append(side)
    # The mean over all corruptions comes last (False before True); the others keep their order.
    for mean in sorted(parts_by_mean, key=lambda mean: mean.corruption == ALL_CORRUPTIONS):
        parts = parts_by_mean[mean]
        key = (mean, *[side.condition for side in parts])
        # With the clean side, from which the mean's loss under corruption is computed.
        sides[key] = replace(clean, condition=mean, parts=parts, clean=clean)
    return sides


def _differences(
    detectors: Sequence[Detector],
    claims_file: str,
) -> list[tuple[Detector, Detector]]:
    """The pairs of detectors that are compared; the second is subtracted from the first.

    Of detectors with the same training set, these are compared:

    - every two main detectors;
    - a variant with the variant MAIN of its ablation, or else with the main detector of its paper;
    - the variants MAIN of two papers' ablations with the same name;
    - two detectors that a claim of ``claims_file`` compares, in its direction unless they are
      a pair already.

    Another tool, whose training set is unknown, is compared with all main detectors and tools.
    """
    # Main detectors, other tools, which have no variant either, and the variants MAIN.
    mains = [detector for detector in detectors if detector.variant in ("", MAIN)]
    names = {detector.name for detector in detectors}
    # Further pairs that are compared, by name; the second is subtracted.
    registry = claims.content(claims_file)
    wanted = [(claim.detector, claim.against) for claim in registry.claims]
    for variant in detectors:
        if variant not in mains:
            title = variant.runs[0].record.detector.title
            main_of_ablation = f"{title}, {variant.ablation}: {MAIN}"
            base = main_of_ablation if main_of_ablation in names else title
            wanted.append((variant.name, base))
    differences = []
    # Later detectors minus earlier ones: papers minus the baseline, which comes first.
    for second, first in combinations(detectors, 2):
        if first.runs and second.runs and first.train_set != second.train_set:
            continue
        # Equal ablations: both "" or, of two papers' variants MAIN, the same name.
        are_mains = first in mains and second in mains and first.ablation == second.ablation
        if are_mains or (first.name, second.name) in wanted:
            differences.append((first, second))
        elif (second.name, first.name) in wanted:
            differences.append((second, first))
    return differences


def _compare(first: Side, second: Side) -> list[ResultRow]:
    """The rows of the first side minus the second; of the side itself where both are the same.

    If the scores cannot be used: one row with the reason in ``refused``, and no value.
    """
    detector = first.detector
    train_set = detector.train_set or second.detector.train_set  # another tool has none
    row = ResultRow(
        *detector[:4],  # name, paper, ablation and variant
        **first.condition._asdict(),
        minus=second.detector.name if second is not first else "",
        train_set=train_set,
        within=first.facts["within"] or first.condition.test_set == train_set,
        paired_methods=bool(first.facts["contrasts"]),
        level=first.level,
        compression=first.facts["compression"],
        fingerprint=first.facts["fingerprint"],
        crop=first.facts.get("crop", ""),
        frames_per_video=NAN if first.condition.map else first.facts["frames_per_video"],
    )
    if detector.runs:
        row = replace(row, **_training_columns(detector.runs[0]))
    try:
        return list(_rows(first, second, row))  # a list, so that errors are raised here
    except DfnbError as error:
        return [replace(row, refused=str(error))]


def _training_columns(run: Run) -> dict[str, str]:
    """The columns that describe a detector's trainings, which are the same for each of its runs."""
    settings = run.parameters.settings
    backbone = settings["backbone"]
    # ``published`` is the paper's name in published.csv, whose figures are those of the default
    # backbone alone.
    has_published_backbone = backbone == run.record.detector.defaults["backbone"]
    return {
        # How the epoch was chosen. The text names the training set, here as the profile does
        # (``bed-{seed}``, not ``bed-3``), so that it is the same for every run.
        "rule": run.record.rule.replace(run.parameters.train_set, run.train_set),
        "backbone": backbone,
        "image_size": f"{settings['image_size']} px",
        "weights_from": run.record.weights_from,
        "published_as": run.record.detector.published if has_published_backbone else "",
    }


def _rows(first: Side, second: Side, row: ResultRow) -> Iterator[ResultRow]:
    """The rows of a comparison: copies of ``row``, each with a number.

    Collapsed runs are left out, unless all collapsed; a difference leaves out the pairs that have a
    collapsed run. Where a run collapsed, each number has a second row that includes all runs.
    """
    # A difference is paired, so both sides need the same videos or frames.
    check_same_units(first.units.index, second.units.index)
    pairs = _seed_pairs(first.seeds, second.seeds)
    # One set of seeds serves both sides. If they share seeds, each is paired with itself, so that a
    # collapse on either side drops the pair; if they share none, a seed belongs to one side alone.
    collapsed = first.detector.collapsed | second.detector.collapsed
    kept = [pair for pair in pairs if collapsed.isdisjoint(pair)]
    row = replace(row, collapsed=f"{len(pairs) - len(kept)} of {len(pairs)}")
    yield from _numbers(first, second, kept or pairs, row)
    if len(kept) < len(pairs):
        yield from _numbers(first, second, pairs, replace(row, collapsed_included=True))


def _numbers(first: Side, second: Side, pairs: SeedPairs, row: ResultRow) -> Iterator[ResultRow]:
    """The rows of a comparison at these seeds, one per method and metric that both sides have.

    Where ``row.minus`` is empty, ``second`` is ``first``, and nothing is subtracted.
    """
    seeds = sorted(set(chain(*pairs)) - {None})  # those of both sides; another tool has none
    row = replace(row, seeds_list=", ".join(map(str, seeds)))
    for (method, metric), estimates in first.estimates.items():
        subtrahend = second.estimates.get((method, metric))
        if not (estimates and subtrahend):
            continue
        number = first.at([seed for seed, _ in pairs], estimates)
        if row.minus:
            # Each side left out its units without a value, so the two may now have different ones.
            # Their influences are subtracted unit by unit, which needs the same clusters in order.
            if not (is_compared(metric) and estimates.has_clusters_of(subtrahend)):
                continue
            number = number.minus(second.at([seed for _, seed in pairs], subtrahend))
        outcome = number.outcome()
        yield replace(
            row,
            method=method,
            metric=metric,
            # "swap − composite" is the difference of a detector on two methods. On test sets with
            # such contrasts no two detectors are compared, so ``row.minus`` is empty there.
            minus=row.detector if VERSUS in method else row.minus,
            outcome=outcome,  # for the mean over test sets, see _cross_dataset_means
            **summary([outcome]),
        )


def _seed_pairs(first: Sequence[int | None], second: Sequence[int | None]) -> SeedPairs:
    """The pairs of seeds that are compared: each seed that both sides have, with itself.

    If they share none, the first seed is compared with the first, the second with the second, and
    so on while both have one. The one table of another tool is compared with every seed.
    """
    if None in (*first, *second):
        return list(product(first, second))
    shared = [seed for seed in first if seed in second]
    return list(zip(shared or first, shared or second))


# ---------------------------------------------------------------- over test sets


def _cross_dataset_means(
    rows: Sequence[ResultRow],
    not_averaged: Sequence[str],
) -> list[ResultRow]:
    """The means over all test sets with scores of main detectors, except those within-dataset.

    A detector or difference has a mean only if it has a number on each of these test sets, at the
    same seeds; on a single manipulation method, only if all of them have the method. Corruptions,
    maps, test sets with contrasts and those ``not_averaged`` enter no mean.
    """
    rows_by_quantity = defaultdict(dict)  # what is averaged -> test set -> row
    main_sets = set()  # the test sets to average
    for row in rows:
        if row.test_set not in not_averaged and _is_clean_and_cross(row):
            compared = (row.detector, row.minus, row.collapsed_included)
            quantity = (*compared, row.method, row.level, row.metric)
            rows_by_quantity[quantity][row.test_set] = row
            if not row.minus and not row.ablation:
                main_sets.add(row.test_set)
    means = []
    for row_by_set in rows_by_quantity.values():
        parts = [row_by_set[name] for name in sorted(main_sets) if name in row_by_set]
        has_all_sets = len(parts) == len(main_sets)
        # With other seeds on one set, the values of the sets could not be averaged seed by seed.
        distinct_seeds = {part.seeds_list for part in parts}
        if has_all_sets and len(distinct_seeds) == 1:
            means.append(_mean(parts))
    return means


def _is_clean_and_cross(row: ResultRow) -> bool:
    """Whether a row has a number of clean scores, on a dataset not trained on."""
    is_left_out = row.within or row.corruption or row.map or row.paired_methods or row.refused
    # Only another tool has no training set: nobody knows its training data.
    return bool(row.train_set) and not is_left_out


def _mean(parts: Sequence[ResultRow]) -> ResultRow:
    """The row of the mean over several test sets; ``parts`` has the row of each set.

    What describes a single test set is emptied; the other columns are the same in all ``parts``.
    """
    values = [part.value for part in parts]
    return replace(
        parts[0],
        test_set=CROSS_DATASET_MEAN,
        mean_over=", ".join(part.test_set for part in parts),
        range=f"{min(values):.3f} – {max(values):.3f}",
        compression="",
        fingerprint="",
        crop="",
        frames_per_video=NAN,
        **summary([part.outcome for part in parts]),
    )


if __name__ == "__main__":
    load(sys.argv[1])
