"""Score files: ``runs/<id>/scores/<condition>.parquet``, and what reports show of them.

All have one form, which pandas alone reads: a row per frame and condition. Its columns are
CONDITION (``test_set``, ``corruption``, ``severity``, ``map``, ``sanity``), KEYS (``video``,
``track``, ``frame``, ``cluster``, ``label``, ``method``), ``log_odds`` of P(fake), and the measures
of where a detector looks, NaN in rows that have none. The metadata are an :class:`About`.

A file in ``runs/`` is of one condition, and is there or not. A report has one file per run, with
the conditions that it shows, made of these files, see :func:`dfnb.store.reports.keep`.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.store.runs import StoredRun, TrainingRecord
from dfnb.store.units import KEY_TYPES, KEYS, as_table
from facesets.checks import Closed, DfnbError
from facesets.files import (
    digest,
    in_reports,
    read_metadata,
    read_table,
    run_folder,
    write_table,
)


class Condition(NamedTuple):
    """The conditions of a table of scores or measures: test set, corruption and map."""

    test_set: str
    corruption: str = ""  # one of dfnb.data.corrupt.CORRUPTIONS; empty: the frames as they are
    severity: int = 0  # 1 to 5; 0: no corruption
    map: str = ""  # the attribution map that is measured; empty: none
    sanity: bool = False  # whether the map is compared with those of random networks

    @property
    def kind(self) -> str:
        """The condition without the test set: JPEG-5, Grad-CAM, Grad-CAM.sanity; empty: none."""
        corruption = f"{self.corruption}-{self.severity}" if self.corruption else ""
        return ".".join(filter(None, [corruption, self.map, "sanity" if self.sanity else ""]))


CONDITION = list(Condition._fields)
CONDITION_TYPES = Condition.__annotations__  # each is a type of a column, too
# Read as categories, because pandas compares and groups texts a hundred times slower.
TEXTS = ("test_set", "corruption", "map", "video", "cluster", "method")


class StoredSet(Closed):
    """What a score file keeps about a test set, so that tables need neither it nor its manifest.

    Attributes:
        fingerprint: Identifies its frames, see ``frames.data_identity``.
        domain: Datasets of one domain are made alike, see ``manifests.domain_of``.
        apart: Whether its manifest leaves it out of means over datasets. A report whose profile has
            ``apart`` decides by that.
        compression: In words, for captions.
        crop: How faces were cut, in words.
        n: Frames that are scored where no corruption or map takes a part of them.
        shared_crops: How many of them have a crop of the run's train or val split; None: not known.
        asked: By :attr:`Condition.kind`, how many frames (of a map) or videos (corrupted ones) were
            asked for. The test set may have fewer.
    """

    fingerprint: str
    domain: str
    apart: bool
    compression: str
    crop: str
    n: int
    shared_crops: int | None = None
    asked: dict[str, int] = Field({})


class About(Closed):
    """The metadata of a score file.

    Attributes:
        record: Of the run.
        train_domain: The domain of its training set, see :class:`StoredSet`.
        test_sets: By name, what is kept about each.
        variants: The names under which the report shows the run, see
            :mod:`dfnb.results.detectors`; none in ``runs/``, and where a reader gave none.
    """

    record: TrainingRecord
    train_domain: str
    test_sets: dict[str, StoredSet]
    variants: list[str] = Field([])


State = tuple[int, int, int]  # of a file, see state_of
REMEDY = "take it from a copy, or delete it and score again"


# ---------------------------------------------------------------- reading and writing a file


def read_about(path: Path) -> About:
    """The metadata of a score file; raises :class:`DfnbError` where it is damaged."""
    return _read_about(path, state_of(path))


@functools.lru_cache(maxsize=1024)  # a notebook asks for those of a hundred files several times
def _read_about(path: Path, state: State) -> About:
    return _checked(read_metadata(path), path)[0]


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of a score file, of these columns or of all, with TEXTS as categories.

    Raises :class:`DfnbError` where the file is damaged.
    """
    return read_scores(path, columns)[1]


def read_scores(path: Path, columns: Sequence[str] | None = None) -> tuple[About, pd.DataFrame]:
    """The metadata and rows of a score file, as :func:`read_about` and :func:`read_rows`.

    Both are of one version of the file, which another process may write again meanwhile.
    """
    texts = [name for name in TEXTS if columns is None or name in columns]
    content, rows = read_table(path, texts, columns)
    about, sha256 = _checked(content, path)  # no sha256 in a file of an earlier version
    expected = {name: value for name, value in sha256.items() if columns is None or name in columns}
    if sha256 and {name: _column_sha256(rows[name]) for name in rows} != expected:
        raise DfnbError(f"{path} is damaged: its rows are not those written; {REMEDY}")
    return about, rows


def _checked(content: dict[str, Any], path: Path) -> tuple[About, dict[str, str]]:
    """What :func:`write` put into the metadata of a score file: About, and the sha256 of columns.

    Raises :class:`DfnbError` where the file is damaged.
    """
    sha256 = content.pop("sha256", {})
    if sha256 and sha256.pop("") != digest(content, 64):
        raise DfnbError(f"{path} is damaged: its metadata are not those written; {REMEDY}")
    return About.check(content, path), sha256


def _column_sha256(column: pd.Series) -> str:
    """The sha256 of a column's values, the same for a column of texts and one of categories."""
    names = []
    if not pd.api.types.is_numeric_dtype(column):
        values, names = pd.factorize(column)
    else:
        values = column.to_numpy(copy=True)
        if values.dtype.kind == "f":
            values[np.isnan(values)] = np.nan  # there are several NaN
    return digest([hashlib.sha256(values.tobytes()).hexdigest(), [*names]], 64)


def state_of(path: Path) -> State:
    """What differs after a file was written again: its time, size and place on the disk."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


class Size(NamedTuple):
    """How many frames and videos a score file has under a condition."""

    frames: int
    videos: int


def read_sizes(path: Path) -> tuple[About, dict[Condition, Size]]:
    """The metadata of a score file, and the conditions of which it has rows."""
    about, rows = read_scores(path, [*CONDITION, "video"])
    sizes = rows.groupby(CONDITION, observed=True, sort=False)["video"].agg(["size", "nunique"])
    return about, {Condition(*key): Size(*map(int, size)) for key, *size in sizes.itertuples()}


def write(path: Path, rows: pd.DataFrame, metadata: About) -> None:
    """Write a score file: log-odds and measures as float32, and the sha256 of all.

    That is finer than any difference that matters, and half as large as float64.
    """
    # Without ``score``, which log-odds give.
    values = [name for name in rows if name not in (*CONDITION, *KEYS, "score")]
    types = {**CONDITION_TYPES, **KEY_TYPES, **dict.fromkeys(values, "float32")}
    rows = rows.reindex(columns=[*types]).astype(types)
    content = metadata.model_dump(mode="json")
    sha256 = {
        "": digest(content, 64),
        **{name: _column_sha256(rows[name]) for name in rows},
    }  # "": of content
    write_table(path, rows, {**content, "sha256": sha256})


# ---------------------------------------------------------------- the scores of a run


class Found(NamedTuple):
    """Where the scores of a run under a condition are, and on how much they were made."""

    frames: int
    asked: int  # see StoredSet.asked; where this does not say it, the frames or videos there
    path: Path


def own_path(run_id: str, condition: Condition, fingerprint: str) -> Path:
    """The file in ``runs/`` of a condition, on the test set with this fingerprint."""
    parts = [condition.test_set, fingerprint, quote(condition.kind, safe=" ")]
    return run_folder(run_id) / "scores" / f"{'.'.join(filter(None, parts))}.parquet"


def find_scores(run: StoredRun, report: str = "") -> dict[Condition, Found]:
    """The scores of a run and its weights, in ``runs/`` and in reports, by condition.

    They are of one version of each test set: that in ``run.versions``, else that of the first file,
    where the copy in ``report`` precedes ``runs/``, and this other reports. Of several files with a
    condition the one with the most frames counts.
    """
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    own = run_folder(run.id).glob("scores/[!.]*.parquet")
    as_written = sorted(own, key=lambda path: (path.stat().st_mtime_ns, path.name))
    paths = [*as_written, *in_reports(f"scores/{run.id}.parquet")]  # of the home's reports first
    found, versions = {}, dict(run.versions)
    for path in sorted(paths, key=lambda path: path.parent.parent.name != report):
        about, sizes = read_sizes(path)
        if about.record.weights_sha256 != run.record.weights_sha256:
            continue
        for condition, size in sizes.items():
            kept = about.test_sets[condition.test_set]
            there = size.videos if condition.corruption else size.frames
            new = Found(size.frames, kept.asked.get(condition.kind, there), path)
            version = versions.setdefault(condition.test_set, kept.fingerprint)
            if version == kept.fingerprint and new[:2] > found.get(condition, (0, 0))[:2]:
                found[condition] = new
    return found


def about_of(found: Mapping[Condition, Found]) -> About:
    """The metadata of a file with these scores of :func:`find_scores`."""
    first = read_about(next(iter(found.values())).path)
    test_sets, asked = {}, {}
    for condition, each in found.items():
        name = condition.test_set
        about = read_about(each.path)
        kept = about.test_sets[name]
        if condition.kind in kept.asked:
            asked.setdefault(name, {})[condition.kind] = each.asked
        shared = test_sets[name].shared_crops if name in test_sets else None
        facts = {
            # The domain of the training set may have another name in the manifests of today.
            "domain": first.train_domain if kept.domain == about.train_domain else kept.domain,
            # They are not known of rows that were made where the training set was not.
            "shared_crops": kept.shared_crops if shared is None else shared,
            "asked": asked.get(name, {}),
        }
        test_sets[name] = test_sets.get(name, kept).model_copy(update=facts)
    return first.model_copy(update={"test_sets": test_sets, "variants": []})


def rows_of(found: Mapping[Condition, Found]) -> pd.DataFrame:
    """The rows of these scores of :func:`find_scores`, in their order."""
    by_path = {}
    for path in {each.path for each in found.values()}:
        rows = read_rows(path)
        by_path[path] = dict(iter(rows.groupby(CONDITION, observed=True, sort=False)))
    parts = [by_path[each.path][condition] for condition, each in found.items()]
    return pd.concat(parts, ignore_index=True).astype(dict.fromkeys(TEXTS, "category"))


def check_scores(scores: pd.DataFrame, source: object) -> None:
    """Raise :class:`DfnbError`, with ``source`` and the remedy, for a table of scores with errors.

    Args:
        scores: A row per video or, with the columns ``track`` and ``frame``, per frame. It needs
            the other KEYS and ``score``. A table of several test sets, conditions, detectors or
            seeds has the columns of :func:`dfnb.results.scores` that tell them apart.
        source: What the sentence calls the table, such as the name of its file.
    """
    parts = [name for name in ("detector", "seed", *CONDITION) if name in scores]
    table = as_table(scores, ("video", "cluster", "method", "score"), parts, source)
    # dropna=False: a CSV has no text where a condition is empty.
    groups = table.groupby(parts or "detector", observed=True, dropna=False)["label"]
    if groups.nunique().min() < 2:
        raise DfnbError(
            f"{source} lacks real or fake frames; score a test set with real and fake videos"
        )
