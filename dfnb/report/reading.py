"""The scores of a report as one table, and those of this run beside it.

Which runs a report has, and how their scores are stored: :mod:`dfnb.store.reports`.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from scipy.special import expit

from dfnb.checks import DfnbError
from dfnb.files import read_metadata, read_table, report_folder
from dfnb.manifests import domain_of
from dfnb.store import reports
from dfnb.store.reports import THIS_RUN, Detector, detectors
from dfnb.store.runs import StoredRun
from dfnb.store.scores import CONDITION, KEYS, VALIDATION

Level = Literal["video", "frame"]
UNITS = {
    "video": ["video", "cluster", "label", "method"],
    "frame": list(KEYS),
}
NAMES_OF_CONDITIONS = ("test_set", "corruption", "map")  # the texts among CONDITION
# The fields of a Detector, but its runs, as the columns of a table of scores.
DETECTOR_COLUMNS = ("detector", "paper", "ablation", "variant", "train_set")
MAIN = "main"  # the variant with which the others of its ablation are compared
# Columns that are one measure minus another; "deletion 0" is P(fake) before any deletion.
GAIN = "gain in pixel AP"  # over the mean training mask
LOST = "lost under deletion"  # how far P(fake) falls, as a mean over the deletion curve
DIFFERENCES = {GAIN: ("pixel_ap", "constant pixel_ap"), LOST: ("deletion 0", "deletion")}


def scores(
    report: str,
    run: StoredRun | None = None,
    test_sets: Collection[str] = (),
    level: Level = "video",
    of_maps: bool = False,
) -> pd.DataFrame:
    """All scores of a report as one table: a row per detector, seed, condition and video or frame.

    A condition is a test set with its corruption and severity or, of maps, with a map.

    If the scores are of videos, the sentences of :func:`leaks` are printed, because tables of AUC
    follow.

    Args:
        report: Name of the report.
        run: This run: its own scores come first, as the detector ``this run``, wherever it is
            stored. Then the report, which need not exist, is context.
        test_sets: Those of this run; the table has no others. Without a run, all by default.
        level: "video" or "frame".
        of_maps: Whether to read the measures of maps in place of scores, see :func:`maps`.

    Returns a table with the columns

    - ``detector``, its name, which no other one in the table has; its ``paper``, ``ablation`` and
      ``variant``, the last two empty where it is a main one; ``train_set``; ``seed``;
      ``collapsed``, whether the training learned nothing;
    - ``test_set``; ``place``: "within" for a test set like the one trained on, "across" for those
      that a mean over other datasets averages, else the name of the test set; ``corruption`` and
      ``severity``, empty and 0 for the frames as they are; ``map`` and ``sanity``, empty and False
      but for :func:`maps`;
    - ``video``, ``cluster``, ``label`` and ``method``; of frames also ``track`` and ``frame``;
    - ``score``, P(fake), of a video the mean over its frames; where a detector locates, the
      measures of :func:`dfnb.training.localisation.localisation`, the same of the mean training
      mask as ``constant <name>``, and :data:`DIFFERENCES`, NaN where there is no mask.

    Raises :class:`DfnbError` where there are no scores (of maps, the table is empty), and where
    :func:`detectors` does.
    """
    parts = []
    if run:
        parts.append(_scores_of_run(run, report, test_sets, level, of_maps))
    if reports.score_files(report_folder(report)):
        # In scores/ and test_sets/: after a change of either, the remembered table is not used.
        files = sorted(report_folder(report).glob("*/[!.]*.parquet"))
        versions = tuple((path, path.stat().st_mtime_ns) for path in files)
        names = tuple(test_sets) if run or test_sets else None
        parts.append(_scores_of_report(report, names, level, of_maps, versions))
    parts = [part for part in parts if len(part)]
    if not parts and not of_maps:
        raise DfnbError(f"{report_folder(report)} has no scores of a test set; {_remedy(report)}")
    if not parts:  # no map was measured
        names = [*DETECTOR_COLUMNS, *CONDITION, *KEYS, "place", "seed"]
        return pd.DataFrame(columns=names).astype({"sanity": bool})
    # Each part is in order already. A copy, because the report's is remembered.
    table = parts[0].copy() if len(parts) == 1 else _in_order(parts)
    if level == "video" and not of_maps:
        for sentence in leaks(report, run, table["test_set"].unique()):
            print(sentence)
    return table


def ablations(
    report: str,
    *names: str,
    level: Level = "video",
    of_maps: bool = False,
) -> pd.DataFrame:
    """The scores of the variants of these ablations on frames as they are, see :func:`scores`.

    An empty name stands for the main detectors. Perhaps no row: where the report, or the ablation
    in it, was not trained.
    """
    if not reports.score_files(report_folder(report)):
        # The columns by which callers select rows.
        return pd.DataFrame(columns=[*DETECTOR_COLUMNS, "method"])
    table = scores(report, level=level, of_maps=of_maps)
    return table[table["ablation"].isin(names) & (table["corruption"] == "")]


def shared_crops(
    report: str,
    run: StoredRun | None,
    test_sets: Collection[str],
) -> dict[tuple[str, str], tuple[int, int]]:
    """Training set and test set -> how many test frames have a crop of the training, of how many.

    Pairs of which it is not known are left out. ``run`` is this run, beside those of the report.
    """
    by_run = []  # the training set of each run, and its shared_crops by test set
    for path in reports.score_files(report_folder(report)):
        metadata = read_metadata(path)
        if "shared_crops" in metadata:  # else it is not known
            train_set = metadata["record"]["parameters"]["train_set"]
            by_run.append((train_set, metadata["shared_crops"]))
    if run:
        about = reports.read_tables(run, test_sets, report)[1]
        of_run = {name: each.get("shared_crops") for name, each in about.items()}
        by_run.append((run.train_set, of_run))
    most = {}  # of all runs, because some may use only a part of their training set
    for train_set, by_test_set in by_run:
        for test_set in test_sets:
            counts = tuple(by_test_set.get(test_set) or ())
            if counts:
                most[train_set, test_set] = max(counts, most.get((train_set, test_set), (0, 0)))
    return most


def leaks(report: str, run: StoredRun | None, test_sets: Collection[str]) -> list[str]:
    """A sentence for each pair of a training set and a test set with the same crops in both."""
    sentences = []
    for (train_set, test_set), (shared, frames) in shared_crops(report, run, test_sets).items():
        if shared:
            sentences.append(
                f"Leak: {shared} of {frames} frames of {test_set} are also in the training set "
                f"{train_set}, pixel by pixel. AUC there shows what was learned by heart."
            )
    return sentences


def _remedy(report: str) -> str:
    """How a report gets scores."""
    if reports.is_closed(report):
        return f"run `dfnb run {report}` first"
    return f"execute notebooks of papers with `-p report {report}` first"


def maps(
    report: str,
    run: StoredRun | None = None,
    test_sets: Collection[str] = (),
) -> pd.DataFrame:
    """The measures of attribution maps, a row per detector, seed, map and forged frame.

    Arguments and columns are those of :func:`scores`: ``map``, the name of the map; ``sanity``,
    whether it was compared with that of random weights; and in place of ``score`` the measures, of
    :func:`dfnb.attribution.measures.sanity` where ``sanity``, else of ``measure`` there.
    """
    return scores(report, run, test_sets, "frame", of_maps=True)


def thresholds(report: str, run: StoredRun | None = None) -> dict[tuple[str, int], np.ndarray]:
    """By detector and seed: the threshold, then its replicates, see ``Threshold.with_replicates``.

    Detectors without a threshold are left out.
    """
    candidates = detectors(report)
    if run:
        candidates.append(Detector(THIS_RUN, runs=(run,)))
    limits = {}
    for detector in candidates:
        stored = {each.seed: each.record.validation_threshold for each in detector.runs}
        for seed, of_seed in stored.items():
            if of_seed is not None:  # of released weights it is None
                limits[detector.name, seed] = of_seed.with_replicates()
    return limits


# ---------------------------------------------------------------- reading


def _scores_of_run(
    run: StoredRun,
    report: str,
    test_sets: Collection[str],
    level: Level,
    of_maps: bool,
) -> pd.DataFrame:
    """The scores of this run on these test sets, as the detector THIS_RUN, see :func:`scores`.

    With ``of_maps``, the measures of its maps instead: of the rows whose condition names a map.
    Empty, without columns, where there is none.
    """
    tables, _ = reports.read_tables(run, test_sets, report)
    parts = [table.assign(**condition._asdict()) for condition, table in tables.items()]
    if not parts:
        return pd.DataFrame()
    detector = Detector(THIS_RUN, run.parameters.paper, train_set=run.train_set, runs=(run,))
    rows = pd.concat(parts)
    rows = rows[(rows["map"] != "") == of_maps]
    if rows.empty:  # only maps were measured, or none
        return pd.DataFrame()
    return _in_order([_described(_means(rows, level), detector, run)])


@lru_cache(maxsize=8)  # a notebook asks for the same table several times
def _scores_of_report(
    report: str,
    test_sets: tuple[str, ...] | None,
    level: Level,
    of_maps: bool,
    versions: tuple[tuple[Path, int], ...],
) -> pd.DataFrame:
    """The scores of all detectors of a report on these test sets, or on all.

    ``versions`` of its files, the times of their last change, are a part of the key under which the
    table is remembered. For the other arguments and the columns see :func:`scores`.
    """
    folder = report_folder(report)
    about = {}  # the metadata of each test set
    frames = []
    for path in sorted(folder.glob("test_sets/[!.]*.parquet")):
        about[path.stem] = read_metadata(path)
        is_validation = path.stem.startswith(VALIDATION.format(""))
        if not is_validation and (test_sets is None or path.stem in test_sets):
            keys = read_table(path)
            frames.append(keys.assign(test_set=path.stem, frame_row=range(len(keys))))
    if not frames:  # of a training without test sets, only the validation is scored
        return pd.DataFrame()
    # Categories, because pandas compares and groups texts a hundred times slower.
    texts = ["video", "cluster", "method", "test_set"]
    frames = pd.concat(frames).astype(dict.fromkeys(texts, "category"))
    parts = []
    for detector in detectors(report):
        for run in detector.runs:
            rows = _stored_rows(reports.score_path(folder, run.id), about)
            is_wanted = rows["test_set"].isin(frames["test_set"].cat.categories)
            is_wanted &= (rows["map"] != "") == of_maps
            if not is_wanted.any():
                continue
            rows = rows[is_wanted].dropna(axis=1, how="all")  # without measures of other rows
            rows = rows.astype({"test_set": frames["test_set"].dtype})
            rows = frames.merge(rows)  # on test_set and frame_row
            means = _means(rows.drop(columns="frame_row"), level)
            parts.append(_described(means, detector, run))
    parts = [part for part in parts if len(part)]
    return _in_order(parts) if parts else pd.DataFrame()


def _in_order(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables as one, without columns of only NaN.

    The columns that name detectors and conditions are categories, which become the same in all
    rows: of DETECTOR_COLUMNS in the order in which they appear, of conditions by name, of places in
    the order of a printed table: within, across, the rest.
    """
    categories = {}
    # Joined apart from the other columns: pd.concat would make texts of those whose categories
    # differ, which takes most of the time.
    for name in (*DETECTOR_COLUMNS, "place", *NAMES_OF_CONDITIONS):
        is_sorted = name in NAMES_OF_CONDITIONS
        joined = union_categoricals([part[name] for part in parts], sort_categories=is_sorted)
        categories[name] = joined.remove_unused_categories()
    places = dict.fromkeys(["within", "across", *categories["place"].categories])
    categories["place"] = categories["place"].set_categories([*places])
    numbers = pd.concat([part.drop(columns=[*categories]) for part in parts], ignore_index=True)
    table = numbers.dropna(axis=1, how="all").assign(**categories)
    order = dict.fromkeys(name for part in parts for name in part)  # that of the parts
    return table[[name for name in order if name in table]]


def _stored_rows(path: Path, about: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of a score file, with the columns of :mod:`dfnb.store.reports`.

    ``about`` is the metadata of each test set of the report. Raises :class:`DfnbError` where the
    file is of other frames than the stored test sets.
    """
    for name, fingerprint in read_metadata(path)["fingerprints"].items():
        if about.get(name, {}).get("fingerprint") != fingerprint:
            raise DfnbError(
                f"{path} is of another version of {name} than the report; delete it, then run what "
                "made it again"
            )
    return read_table(path, NAMES_OF_CONDITIONS)


def _means(rows: pd.DataFrame, level: Level) -> pd.DataFrame:
    """A row per unit and condition: the mean of its frames that have a value.

    Args:
        rows: KEYS, CONDITION, and log_odds, scores or measures of frames.
        level: Of the units.
    """
    if "log_odds" in rows:  # else they are measures alone
        rows = rows.assign(score=expit(rows["log_odds"].astype(float))).drop(columns="log_odds")
    by = [*CONDITION, *UNITS[level]]
    values = [name for name in rows if name not in {*KEYS, *CONDITION}]
    means = rows[[*by, *values]]
    if level == "video":  # of frames, each row is a unit
        means = means.groupby(by, sort=False, observed=True)[values].mean().reset_index()
    # Rounding, because the noise of float64 must not rank videos whose means are equal.
    means = means.assign(**means[values].round(12))
    for name, (first, second) in DIFFERENCES.items():
        if first in means and second in means:
            means[name] = means[first] - means[second]
    return means


def _described(
    means: pd.DataFrame,
    detector: Detector,
    run: StoredRun,
) -> pd.DataFrame:
    """The rows with DETECTOR_COLUMNS, ``place``, ``seed`` and ``collapsed``, see :func:`scores`.

    Args:
        means: Of :func:`_means`, for one run.
        detector: Its detector.
        run: The run.
    """
    names = means["test_set"].unique()
    places = {name: _place(name, run.train_set) for name in names}
    constants = {
        name: pd.Categorical([value]).repeat(len(means))
        for name, value in zip(DETECTOR_COLUMNS, detector)
    }
    described = means.assign(
        **constants,
        place=means["test_set"].map(places),
        seed=run.seed,
        collapsed=run.record.collapsed,
    )
    return described.astype(dict.fromkeys(["place", *NAMES_OF_CONDITIONS], "category"))


def _place(test_set: str, train_set: str) -> str:
    """The ``place`` of a test set, see :func:`scores`.

    "within" is a test set of the training set's domain, unless it is apart and another one, see
    :func:`dfnb.manifests.domain_of`.
    """
    domain, is_apart = domain_of(test_set)
    if is_apart and test_set != train_set:
        return test_set
    return "within" if domain == domain_of(train_set)[0] else "across"
