"""Score files: ``runs/<id>/scores.parquet``, and parts of them in reports.

Both have one form, which pandas alone reads: a row per frame and condition. Its columns are
CONDITION (``test_set``, ``corruption``, ``severity``, ``map``, ``sanity``), KEYS (``video``,
``track``, ``frame``, ``cluster``, ``label``, ``method``), ``log_odds`` of P(fake), and the measures
of where a detector looks, NaN in rows that have none. The metadata are an :class:`About`.

The file of a run grows: a test set, a corruption or a map that a later step asks for is added to
it. A report takes the rows of the conditions that it shows, see :mod:`dfnb.store.reports`.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import Field

from dfnb.checks import Closed, DfnbError
from dfnb.files import in_reports, locked, read_metadata, read_table, run_folder, write_table
from dfnb.store.runs import StoredRun, TrainingRecord

# What identifies a frame of a test set, and what is known of it; dfnb.data.frames explains them.
KEY_TYPES = {
    "video": str,
    "track": int,
    "frame": int,
    "cluster": str,
    "label": int,
    "method": str,
}
KEYS = tuple(KEY_TYPES)


class Condition(NamedTuple):
    """The conditions of a table of scores or measures: test set, corruption and map."""

    test_set: str
    corruption: str = ""  # one of dfnb.data.corrupt.CORRUPTIONS; empty: the frames as they are
    severity: int = 0  # 1 to 5; 0: no corruption
    map: str = ""  # the attribution map that is measured; empty: none
    sanity: bool = False  # whether the map is compared with those of random networks


CONDITION = list(Condition._fields)
CONDITION_TYPES = Condition.__annotations__  # each is a type of a column, too
TEXT_CONDITIONS = ("test_set", "corruption", "map")  # the texts among CONDITION


class StoredSet(Closed):
    """What a score file keeps about a test set, so that tables need neither it nor its manifest.

    Attributes:
        fingerprint: Identifies its frames, see ``frames.data_identity``.
        domain: Datasets of one domain are made alike, see ``sources.domain_of``.
        apart: Whether means over datasets leave it out, see there.
        compression: In words, for captions.
        crop: How faces were cut, in words.
        n: Frames that are scored where no corruption or map takes a part of them.
        shared_crops: How many of them have a crop of the run's train or val split; None: not known.
    """

    fingerprint: str
    domain: str
    apart: bool
    compression: str
    crop: str
    n: int
    shared_crops: int | None = None


class About(Closed):
    """The metadata of a score file.

    Attributes:
        record: Of the run.
        train_domain: The domain of its training set, see :class:`StoredSet`.
        test_sets: By name, what is kept about each.
        variants: The names under which the report shows the run, see
            :mod:`dfnb.report.detectors`; none in ``runs/``, and where a reader gave none.
    """

    record: TrainingRecord
    train_domain: str
    test_sets: dict[str, StoredSet]
    variants: list[str] = Field([])


State = tuple[int, int, int]  # of a file, see state_of
_REMEMBERED: dict[Path, tuple[State, About]] = {}  # by file: its metadata in the last state


# ---------------------------------------------------------------- reading and writing a file


def read_about(path: Path) -> About:
    """The metadata of a score file, remembered until the file is written again.

    A notebook asks for those of a hundred files several times. Raises :class:`DfnbError` where the
    file is damaged.
    """
    state = state_of(path)
    if path not in _REMEMBERED or _REMEMBERED[path][0] != state:
        _REMEMBERED[path] = state, About.check(read_metadata(path), path)
    return _REMEMBERED[path][1]


def state_of(path: Path) -> State:
    """What differs after a file was written again: its time, size and place on the disk."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


class Size(NamedTuple):
    """How many frames and videos a score file has under a condition."""

    frames: int
    videos: int


def sizes_of(path: Path) -> dict[Condition, Size]:
    """The conditions of which a score file has rows; none where there is no file."""
    if not path.exists():
        return {}
    rows = read_table(path, (*TEXT_CONDITIONS, "video"))
    sizes = rows.groupby(CONDITION, observed=True, sort=False)["video"].agg(["size", "nunique"])
    return {Condition(*key): Size(*map(int, size)) for key, *size in sizes.itertuples()}


def conditions_of(path: Path) -> list[Condition]:
    """The conditions of which a score file has rows, each once; none where there is no file."""
    return [*sizes_of(path)]


def select(rows: pd.DataFrame, wanted: Iterable[Condition]) -> pd.DataFrame:
    """The rows of these conditions, in their order; ``rows`` are those of a score file."""
    return rows.merge(_table_of(wanted))


def write(path: Path, rows: pd.DataFrame, metadata: About) -> None:
    """Write a score file: log-odds and measures as float32.

    That is finer than any difference that matters, and half as large as float64. Without any row,
    the file still proves that the run was scored.
    """
    # Without ``score``, which log-odds give.
    values = [name for name in rows if name not in (*CONDITION, *KEYS, "score")]
    types = {**CONDITION_TYPES, **KEY_TYPES, **dict.fromkeys(values, "float32")}
    rows = rows.reindex(columns=[*types]).astype(types)
    write_table(path, rows, metadata.model_dump(mode="json"))


def has(path: Path, metadata: About, sizes: Mapping[Condition, Size]) -> bool:
    """Whether a file has as many rows under these conditions, and what ``metadata`` say of them.

    ``sizes`` are those of the scores of the same run elsewhere, see :func:`sizes_of`.
    """
    if not path.exists():
        return False
    known, there = read_about(path), sizes_of(path)
    return (
        known.record.weights_sha256 == metadata.record.weights_sha256
        and known.variants == metadata.variants
        and all(known.test_sets.get(name) == kept for name, kept in metadata.test_sets.items())
        and all(there.get(each) == size for each, size in sizes.items())
    )


def add(path: Path, rows: pd.DataFrame, metadata: About) -> None:
    """Add rows to a score file, in place of those of the same conditions.

    ``metadata`` describe the rows. Where the file has another version of one of their test sets,
    all its rows of this test set are dropped. A file of other weights is moved away, see
    :func:`set_others_aside`. Two processes may add at the same time.
    """
    with _locked(path):
        _merge(path, rows, metadata)


def _locked(path: Path) -> AbstractContextManager:
    """Lock the folder of all runs or of the report: that of a run is locked while it trains."""
    return locked(path.parent.parent, wait_s=600)


def _merge(path: Path, rows: pd.DataFrame, metadata: About) -> None:
    """:func:`add`, where the file is locked already."""
    set_others_aside(path, metadata.record)
    if path.exists():
        known = read_about(path)
        new = [Condition(*values) for values in rows[CONDITION].drop_duplicates().to_numpy()]
        stored = read_table(path).merge(_table_of(new), how="left_anti")
        changed = [
            name
            for name in known.test_sets
            if not is_same(name, known.test_sets, metadata.test_sets)
        ]
        rows = pd.concat([stored[~stored["test_set"].isin(changed)], rows], ignore_index=True)
        metadata = metadata.model_copy(update={"test_sets": _joined(known, metadata)})
    write(path, rows, metadata)


def _joined(known: About, new: About) -> dict[str, StoredSet]:
    """The test sets of a file after ``new`` was added to what it knows."""
    joined = dict(known.test_sets)
    if new.train_domain != known.train_domain:  # it has another name in the manifests of today
        for name, kept in joined.items():
            if kept.domain == known.train_domain:
                joined[name] = kept.model_copy(update={"domain": new.train_domain})
    for name, kept in new.test_sets.items():
        # A count that cannot be made any more, as the training set is not here, is not lost.
        is_lost = kept.shared_crops is None and is_same(name, known.test_sets, new.test_sets)
        if is_lost and name in joined:
            kept = kept.model_copy(update={"shared_crops": joined[name].shared_crops})
        joined[name] = kept
    return joined


def set_others_aside(path: Path, record: TrainingRecord) -> None:
    """Move a score file away that is by other weights than those of ``record``, and say so.

    These are of a training of the same id, on another machine or before its weights were lost.
    """
    if path.exists() and read_about(path).record.weights_sha256 != record.weights_sha256:
        aside = path.parent / "replaced" / path.name
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
        print(f"{path} has scores by other weights: it is now {aside}")


def is_same(name: str, known: Mapping[str, StoredSet], new: Mapping[str, StoredSet]) -> bool:
    """Whether rows of a test set that ``known`` describes fit those that ``new`` describes.

    They do where both have one version of it (fingerprint), and where one of the two lacks it.
    """
    return name not in {*known} & {*new} or known[name].fingerprint == new[name].fingerprint


def _table_of(wanted: Iterable[Condition]) -> pd.DataFrame:
    """The conditions as a table, to be merged with rows of scores."""
    return pd.DataFrame(list(wanted), columns=CONDITION).astype(CONDITION_TYPES)


# ---------------------------------------------------------------- the scores of a run


def collect(run: StoredRun, report: str = "") -> Path:
    """Add to ``runs/<id>/scores.parquet`` what only reports have of the run; return this path.

    So the scores of a run are in one file, also in a checkout whose trainings were done elsewhere.
    Copies in ``report`` come first. Scores by other weights are left out, and so are those of
    another version of a test set than the file has. Without any scores there is no file.
    """
    path = run_folder(run.id) / "scores.parquet"
    copies = in_reports(f"scores/{run.id}.parquet")  # the home's first
    copies.sort(key=lambda copy: copy.parent.parent.name != report)
    set_others_aside(path, run.record)
    for copy in copies:
        of_copy = read_about(copy)
        is_same_run = of_copy.record.weights_sha256 == run.record.weights_sha256
        if is_same_run and _only_in(copy, path):
            with _locked(path):
                missing = _only_in(copy, path)  # again: another process may have added them
                names = {condition.test_set for condition in missing}
                kept = {name: about for name, about in of_copy.test_sets.items() if name in names}
                update = {"test_sets": kept, "variants": []}
                rows = select(read_table(copy), missing)
                _merge(path, rows, of_copy.model_copy(update=update))
    return path


def _only_in(copy: Path, path: Path) -> list[Condition]:
    """The conditions of ``copy`` that a score file lacks, of test sets whose versions fit."""
    there = {*conditions_of(path)}
    known = read_about(path).test_sets if path.exists() else {}
    of_copy = read_about(copy).test_sets
    return [
        condition
        for condition in conditions_of(copy)
        if condition not in there and is_same(condition.test_set, known, of_copy)
    ]


def check_scores(scores: pd.DataFrame, source: object) -> None:
    """Raise :class:`DfnbError`, with ``source`` and the remedy, for a table of scores with errors.

    Args:
        scores: A row per video or, with the columns ``track`` and ``frame``, per frame. It needs
            the other KEYS and ``score``. A table of several test sets, conditions, detectors or
            seeds has the columns of :func:`dfnb.report.scores` that tell them apart.
        source: What the sentence calls the table, such as the name of its file.
    """
    for name in ("video", "cluster", "label", "method", "score"):
        if name not in scores:
            raise DfnbError(f"{source} has no column {name}; add it")
    keys = [name for name in KEYS if name in scores]
    parts = [name for name in ("detector", "seed", *CONDITION) if name in scores]
    unit = [name for name in ("video", "track", "frame") if name in scores]
    video = [name for name in ("test_set", "video") if name in scores]
    # A video with one label and one cluster has one row here.
    videos = scores[[*video, "label", "cluster"]].drop_duplicates()
    ambiguous = videos[videos.duplicated(video)].set_index(video).index
    numbers = pd.to_numeric(scores["score"], errors="coerce")  # NaN for a text
    problems = {  # what is wrong: (rows,) bool, which rows have this problem
        "a score that is NaN or outside [0, 1]": ~numbers.between(0, 1),
        f"no {', '.join(keys[:-1])} or {keys[-1]}": scores[keys].isna().any(axis=1),
        # A bool is compared as 0 or 1, so any other label, such as 2, is wrong, too.
        "a label that does not fit the method, 0 for real, else 1": scores["label"]
        != (scores["method"] != "real"),
        f"a {unit[-1]} that occurs twice": scores.duplicated([*parts, *unit]),
        "a video of more than one label or cluster": scores.set_index(video).index.isin(ambiguous),
    }
    for problem, is_wrong in problems.items():
        if is_wrong.any():
            first = scores[is_wrong].iloc[0]
            place = ", ".join(f"{name} {first[name]}" for name in unit)
            raise DfnbError(
                f"{source} has {is_wrong.sum()} rows with {problem} (first: {place}); correct "
                "them, then score again"
            )
    # dropna=False: a CSV has no text where a condition is empty.
    groups = scores.groupby(parts, observed=True, dropna=False) if parts else [(None, scores)]
    tables = [rows for _, rows in groups]
    if min((rows["label"].nunique() for rows in tables), default=0) < 2:
        raise DfnbError(
            f"{source} lacks real or fake frames; score a test set with real and fake videos"
        )
