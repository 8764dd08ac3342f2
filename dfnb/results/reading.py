"""The scores of a report as one table, and those of this run beside it.

Which runs are a detector: :mod:`dfnb.results.detectors`; how scores are stored:
:mod:`dfnb.store.scores`.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from scipy.special import expit

from dfnb.results.detectors import FOLD, THIS_RUN, Detector, detectors
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from dfnb.store.scores import (
    CONDITION,
    TEXTS,
    About,
    Condition,
    Found,
    State,
    about_of,
    find_scores,
    read_about,
    read_rows,
    rows_of,
    state_of,
)
from dfnb.store.units import KEYS, UNITS, people_or_videos, per_video
from facesets.checks import DfnbError, suggestion
from facesets.files import read_table, run_folder, stored_report

Level = Literal["video", "frame"]
# Columns of a table of scores: the fields of a Detector, but its runs, and the rule by which their
# checkpoints were chosen.
DETECTOR_COLUMNS = ("detector", "paper", "ablation", "variant", "train_set", "rule")
# Columns that are one measure minus another; "deletion 0" is P(fake) before any deletion.
GAIN = "gain in pixel AP"  # over the mean training mask
LOST = "lost under deletion"  # how far P(fake) falls, as a mean over the deletion curve
DIFFERENCES = {GAIN: ("pixel_ap", "constant pixel_ap"), LOST: ("deletion 0", "deletion")}


class Source(NamedTuple):
    """The scores of a run, and whose they are: of a score file or, of this run, of several."""

    detector: Detector
    run: StoredRun
    path: Path  # of this run the folder of its scores
    state: State  # of the file: a table of files that are as before is remembered
    found: dict[Condition, Found] | None = None  # of this run: where its scores are
    apart: tuple[str, ...] | None = None  # what the profile leaves out of means; None: manifests

    @property
    def about(self) -> About:
        """What is known of the scores."""
        return about_of(self.found) if self.found else read_about(self.path)

    def rows(self) -> pd.DataFrame:
        """The scores, a row per frame and condition, with TEXTS as categories."""
        return rows_of(self.found) if self.found else read_rows(self.path)


def scores(
    report: str,
    run: StoredRun | None = None,
    test_sets: Collection[str] = (),
    level: Level = "video",
    of_maps: bool = False,
) -> pd.DataFrame:
    """All scores of a report as one table: a row per detector, seed, condition and video or frame.

    A condition is a test set with its corruption and severity or, of maps, with a map.

    If the scores are of videos, the sentences of :func:`leak_sentences` and :func:`gap_sentences`
    are printed, because tables of AUC follow.

    Args:
        report: Name of the report.
        run: This run: its own scores come first, as the detector ``this run``, wherever it is
            stored. Then the report, which need not exist, is context.
        test_sets: Those of this run; the table has no others. Without a run, all by default.
        level: "video" or "frame".
        of_maps: Whether to read the measures of maps in place of scores, see :func:`maps`.

    Returns a table with the columns

    - ``detector``, its name, which no other one in the table has; its ``paper``, ``ablation`` and
      ``variant``, the last two empty where it is a main one; ``train_set``; ``rule``, by which
      its checkpoints were chosen; ``seed``; ``collapsed``, whether the training learned nothing;
    - ``test_set``; ``place``: "in-dataset" for a test set like the one trained on,
      "cross-dataset" for those that a mean over other datasets averages, else the name of the
      test set, also where the table has only some of those that the report averages: one word
      means one set; of folds, that of their dataset, whatever was trained on; ``corruption`` and
      ``severity``, empty and 0 for the frames as they are; ``map`` and ``sanity``, empty and False
      but for :func:`maps`;
    - ``video``, ``cluster``, ``label`` and ``method``; of frames also ``track`` and ``frame``;
      ``cluster_of``, what a cluster of the test set is one of, "people" or "videos";
    - ``score``, P(fake), of a video the mean over its frames; where a detector locates, the
      measures of :func:`dfnb.training.localisation.localisation`, the same of the mean training
      mask as ``constant <name>``, and :data:`DIFFERENCES`, NaN where there is no mask.

    Raises :class:`DfnbError` where there are no scores (of maps, the table is empty), where a file
    has a frame twice, where two files disagree on the label, method or cluster of a frame, and
    where :func:`detectors` does.
    """
    files = sources(report, run)
    wanted = tuple(test_sets) if run or test_sets else None
    _check_versions(files, wanted)
    own = [source for source in files if source.detector.name == THIS_RUN]
    parts = _read_parts(own, wanted, level, of_maps)
    # Apart from this run: so the table is remembered for all runs that are shown beside it.
    of_report = _table_of(tuple(files[len(own) :]), wanted, level, of_maps)
    table = _in_order([part for part in (*parts, of_report) if len(part)])
    if table.empty and not of_maps:
        raise DfnbError(f"{stored_report(report)} has no scores of a test set; {_remedy(report)}")
    if table.empty:  # no map was measured
        names = [*DETECTOR_COLUMNS, *CONDITION, *KEYS, "place", "seed"]
        return pd.DataFrame(columns=names).astype({"sanity": bool})
    _refuse_disagreement(table, files)
    if wanted:
        table = _named_unless_whole(table, files[len(own) :])
    known = table["test_set"].unique()
    if unknown := [name for name in test_sets if name not in known and not of_maps]:
        raise DfnbError(f"no score of the test set {unknown[0]!r}{suggestion(unknown[0], known)}")
    if level == "video" and not of_maps:
        for sentence in [*leak_sentences(files, table["test_set"].unique()), *gap_sentences(table)]:
            print(sentence)
    return table


def sources(report: str, run: StoredRun | None = None) -> list[Source]:
    """The scores of a report by run, in the order of its detectors; before them, of this run."""
    files = []
    listed = reports.profile_of(report).get("apart")
    apart = None if listed is None else tuple(listed)
    for detector in detectors(report):
        for each in detector.runs:
            path = reports.score_path(stored_report(report), each.id)
            files.append(Source(detector, each, path, state_of(path), apart=apart))
    if run and (found := find_scores(run, report)):
        this = Detector(THIS_RUN, run.parameters.paper, "", "", run.train_set, (run,))
        folder = run_folder(run.id) / "scores"
        files.insert(0, Source(this, run, folder, (0, 0, 0), found, apart))
    return files


def of_file(run: StoredRun, path: Path) -> pd.DataFrame:
    """The scores of videos in the score file of a run, as those of :func:`scores`."""
    this = Detector(THIS_RUN, run.parameters.paper, "", "", run.train_set, (run,))
    return _in_order(_read_parts([Source(this, run, path, state_of(path))], None, "video", False))


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
    if not reports.score_files(stored_report(report)):
        # The columns by which callers select rows.
        return pd.DataFrame(columns=[*DETECTOR_COLUMNS, "method"])
    table = scores(report, level=level, of_maps=of_maps)
    return table[table["ablation"].isin(names) & (table["corruption"] == "")]


def leak_sentences(files: Iterable[Source], test_sets: Collection[str]) -> list[str]:
    """A sentence for each pair of a training set and a test set with the same crops in both.

    ``files`` are those of :func:`sources`. Nothing is said of pairs of which it is not known.
    """
    most = {}  # of all runs, because some may use only a part of their training set
    for source in files:
        for name, kept in source.about.test_sets.items():
            if name in test_sets and kept.shared_crops:  # neither None nor 0
                pair = (source.run.train_set, name)
                most[pair] = max((kept.shared_crops, kept.n), most.get(pair, (0, 0)))
    return [
        f"Leak: {shared} of {frames} frames of {test_set} are also in the training set "
        f"{train_set}, pixel by pixel. AUC there shows what was learned by heart."
        for (train_set, test_set), (shared, frames) in most.items()
    ]


def gap_sentences(scores: pd.DataFrame) -> list[str]:
    """A sentence for each main detector that lacks test sets of the cross-dataset mean.

    :func:`dfnb.results.metrics.measure` has no mean for it where another detector has more of them.
    ``scores`` are those of :func:`scores`.
    """
    main = scores[(scores["ablation"] == "") & (scores["corruption"] == "")]
    rows = main[["detector", "test_set", "place"]].drop_duplicates()
    elsewhere = rows[rows["place"] == "cross-dataset"]
    counts = elsewhere["detector"].value_counts()
    sentences = []
    for detector in rows["detector"].unique():
        known = {*rows.loc[rows["detector"] == detector, "test_set"]}  # also those of other places
        lacking = [name for name in elsewhere["test_set"].unique() if name not in known]
        if lacking:
            is_blank = counts.get(detector, 0) < counts.max()
            what = "no cross-dataset mean" if is_blank else "another cross-dataset mean than others"
            sentences.append(f"{detector} has {what}: it has no scores of {', '.join(lacking)}.")
    return sentences


def _remedy(report: str) -> str:
    """How a report gets scores."""
    if reports.has_profile(report):
        made = f"`dfnb run {report}` makes them, a study's in hours"
        return f"{made}; a clone of the repository has those of the studies, no installed package"
    return f"execute notebooks of papers with `-p report {report} -p save True` first"


def stored(report: str, table: str) -> pd.DataFrame:
    """The numbers of one table of a report, such as "claims", as ``dfnb report`` has stored them.

    A row is one of :func:`dfnb.results.metrics.measure`; of claims one of
    :func:`dfnb.results.claims.judge`. Raises :class:`DfnbError` where the report was never made.
    """
    _, rows = read_table(stored_report(report) / "results.parquet")
    # The report's other tables have columns that this one lacks.
    return rows[rows["table"] == table].dropna(axis=1, how="all")


def made(*names: str) -> list[str]:
    """Those of these reports that ``dfnb report`` has made; a line names the others.

    So a notebook shows a study of several, of which one is in training.
    """
    there = [name for name in names if (stored_report(name) / "results.parquet").exists()]
    for name in names:
        if name not in there:
            print(f"{name} is left out until its report is made.")
    return there


def maps(
    report: str,
    run: StoredRun | None = None,
    test_sets: Collection[str] = (),
) -> pd.DataFrame:
    """The measures of attribution maps, a row per detector, seed, map and forged frame.

    Arguments and columns are those of :func:`scores`: ``map``, the name of the map; ``sanity``,
    whether it was compared with those of random networks; and in place of ``score`` the measures,
    of :func:`dfnb.attribution.measures.compare_with_random` where ``sanity``, else of ``measure``
    there.
    """
    return scores(report, run, test_sets, "frame", of_maps=True)


def thresholds(report: str, run: StoredRun | None = None) -> dict[tuple[str, int], np.ndarray]:
    """By detector and seed: the threshold, then its replicates, see ``Threshold.with_replicates``.

    Released weights, which have no threshold, are left out, and so are cross-fitted detectors, of
    which every fold has its own.
    """
    limits = {}
    for source in sources(report, run):
        threshold = source.run.record.validation_threshold
        if threshold is not None and "{fold}" not in source.detector.train_set:
            limits[source.detector.name, source.run.seed] = threshold.with_replicates()
    return limits


# ---------------------------------------------------------------- reading


def _check_versions(files: Iterable[Source], test_sets: Collection[str] | None) -> None:
    """Raise :class:`DfnbError` where two files have scores of different versions of a test set.

    That is one of ``test_sets``, or of all.
    """
    first_with = {}  # test set -> the first file that has it, and the fingerprint there
    for source in files:
        for name, kept in source.about.test_sets.items():
            path, fingerprint = first_with.setdefault(name, (source.path, kept.fingerprint))
            if kept.fingerprint != fingerprint and (test_sets is None or name in test_sets):
                raise DfnbError(
                    f"{path} and {source.path} have scores of different versions of {name}; move "
                    "the older one away, then run what made it again"
                )


def _refuse_disagreement(table: pd.DataFrame, files: Iterable[Source]) -> None:
    """Raise :class:`DfnbError` where two files disagree on a unit: its label, method or cluster.

    So these are one table for the whole report, to which each file adds its scores.
    """
    unit = [name for name in ("test_set", "video", "track", "frame") if name in table]
    known = table.drop_duplicates([*unit, "label", "method", "cluster"])
    differ = known[known.duplicated(unit)]
    for first in differ.head(1).to_dict("records"):
        name, key = first["test_set"], (first["detector"], first["seed"])
        path = next(
            source.path
            for source in files
            if (source.detector.name, source.run.seed) == key and name in source.about.test_sets
        )
        raise DfnbError(
            f"{path} disagrees with the scores before it on {len(differ)} labels, methods or "
            f"clusters of {name} (first: video {first['video']}, label {first['label']}, method "
            f"{first['method']}, cluster {first['cluster']}); move it away, then score again"
        )


@lru_cache(maxsize=8)  # a notebook asks for the same table several times
def _table_of(
    files: tuple[Source, ...],
    test_sets: tuple[str, ...] | None,
    level: Level,
    of_maps: bool,
) -> pd.DataFrame:
    """:func:`_read_parts` as one table, remembered until one of the files is written again."""
    return _in_order(_read_parts(files, test_sets, level, of_maps))


def _read_parts(
    files: Iterable[Source],
    test_sets: Collection[str] | None,
    level: Level,
    of_maps: bool,
) -> list[pd.DataFrame]:
    """The scores in these files on these test sets, or on all, a table per file that has some."""
    parts = []
    clusters = {}  # of a test set: the same in all files
    for source in files:
        metadata = source.about
        if test_sets is not None and metadata.test_sets.keys().isdisjoint(test_sets):
            continue  # without reading the rows
        rows = source.rows()
        # Of all rows: those of maps are of fakes alone, and a cluster may be named by a real video.
        for name in metadata.test_sets.keys() - clusters.keys():
            clusters[name] = people_or_videos(rows[rows["test_set"] == name])
        is_wanted = (rows["map"] != "") == of_maps
        if test_sets is not None:
            is_wanted &= rows["test_set"].isin(test_sets)
        rows = rows[is_wanted].dropna(axis=1, how="all")  # without measures of other rows
        frames = rows[rows.duplicated([*CONDITION, "video", "track", "frame"])]
        if len(frames):
            raise DfnbError(
                f"{source.path} has {len(frames)} frames twice (first: frame "
                f"{frames['frame'].iloc[0]} of {frames['video'].iloc[0]} of "
                f"{frames['test_set'].iloc[0]}); move it away, then score again"
            )
        if len(rows):
            table = _described(_means(rows, level), source, metadata)
            sets = table["test_set"].cat
            of_sets = pd.Categorical([clusters[name] for name in sets.categories])
            parts.append(table.assign(cluster_of=of_sets[sets.codes]))
    return parts


def _in_order(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables as one, without columns of only NaN; empty if there is none.

    Texts are categories, which become the same in all rows: of DETECTOR_COLUMNS in the order in
    which they appear, of places in the order of a printed table (in-dataset, cross-dataset, the
    rest), all others by name.
    """
    if not parts:
        return pd.DataFrame()
    categories = {}
    # Joined apart from the other columns: pd.concat would make texts of those whose categories
    # differ, which takes most of the time.
    for name in (*DETECTOR_COLUMNS, "place", "cluster_of", *TEXTS):
        is_sorted = name in TEXTS
        joined = union_categoricals([part[name] for part in parts], sort_categories=is_sorted)
        categories[name] = joined.remove_unused_categories()
    places = dict.fromkeys(["in-dataset", "cross-dataset", *categories["place"].categories])
    categories["place"] = categories["place"].set_categories([*places])
    numbers = pd.concat([part.drop(columns=[*categories]) for part in parts], ignore_index=True)
    table = numbers.dropna(axis=1, how="all").assign(**categories)
    order = dict.fromkeys(name for part in parts for name in part)  # that of the parts
    return table[[name for name in order if name in table]]


def _means(rows: pd.DataFrame, level: Level) -> pd.DataFrame:
    """A row per unit and condition: the mean of its frames that have a value.

    Args:
        rows: Of a score file.
        level: Of the units.
    """
    if "log_odds" in rows:  # rows of maps have none
        log_odds = rows["log_odds"].astype(float)
        rows = rows.assign(log_odds=log_odds, score=expit(log_odds))
    by = [*CONDITION, *UNITS[level]]
    values = [name for name in rows if name not in {*KEYS, *CONDITION, "log_odds"}]
    if level == "video":
        means = per_video(rows, by, values)
    else:  # each row is a unit
        means = rows[[*by, *rows.columns.difference(by, sort=False)]]
        means = means.assign(**means[values].round(12))
    for name, (first, second) in DIFFERENCES.items():
        if first in means and second in means:
            means[name] = means[first] - means[second]
    return means


def _place(source: Source, metadata: About, test_set: str) -> str:
    """The ``place`` of a test set, see :func:`scores`."""
    kept = metadata.test_sets[test_set]
    if re.search(FOLD, test_set):
        return re.sub(FOLD, "", test_set)
    is_apart = kept.apart if source.apart is None else test_set in source.apart
    if is_apart and test_set != source.run.train_set:
        return test_set
    return "in-dataset" if kept.domain == metadata.train_domain else "cross-dataset"


def _named_unless_whole(table: pd.DataFrame, files: Iterable[Source]) -> pd.DataFrame:
    """The table, with test sets by name for "cross-dataset" where it lacks some of the report's.

    ``files`` are those of the report.
    """
    averaged = set()  # by the report
    for source in files:
        metadata = source.about
        of_file = metadata.test_sets
        averaged |= {name for name in of_file if _place(source, metadata, name) == "cross-dataset"}
    is_elsewhere = table["place"] == "cross-dataset"
    if averaged <= {*table.loc[is_elsewhere, "test_set"]}:
        return table
    place = table["place"].astype(str).where(~is_elsewhere, table["test_set"].astype(str))
    order = dict.fromkeys(["in-dataset", *place.unique()])
    return table.assign(place=pd.Categorical(place, [*order]))


def _described(means: pd.DataFrame, source: Source, metadata: About) -> pd.DataFrame:
    """The rows of :func:`_means` with DETECTOR_COLUMNS, ``place``, ``seed`` and ``collapsed``."""
    places = {name: _place(source, metadata, name) for name in means["test_set"].unique()}
    # The rule names the seed's own set, ff-like-30; named ff-like-{seed}, all seeds have one rule.
    rule = source.run.record.rule.replace(source.run.train_set, source.detector.train_set)
    constants = {
        name: pd.Categorical([value]).repeat(len(means))
        for name, value in zip(DETECTOR_COLUMNS, (*source.detector[:5], rule))
    }
    return means.assign(
        **constants,
        place=means["test_set"].map(places).astype("category"),
        seed=source.run.seed,
        collapsed=source.run.record.collapsed,
    )
