"""The scores of a run: ``runs/<id>/scores.parquet``, one row per frame and condition.

The file grows: a test set, a corruption or a map that a later step asks for is added to it. Its
metadata have the fingerprint of each test set; rows of another version of a test set are replaced.
Reports hold copies, see :mod:`dfnb.store.reports`.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pandas as pd

from dfnb.checks import DfnbError
from dfnb.files import locked, read_metadata, read_table, run_folder, write_table

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
VALIDATION = "validation of {}"  # the test set of a training set's validation split
# test set -> dfnb.data.test_sets.metadata of it and, of a run, ``shared_crops``: how many of its
# frames have a crop of the run's train or val split, and of how many; None where it is not known.
About = Mapping[str, Mapping[str, Any]]


class Condition(NamedTuple):
    """The conditions of a table of scores or measures: test set, corruption and map."""

    test_set: str
    corruption: str = ""  # one of dfnb.data.corrupt.CORRUPTIONS; empty: the frames as they are
    severity: int = 0  # 1 to 5; 0: no corruption
    map: str = ""  # the attribution map that is measured; empty: none
    sanity: bool = False  # whether the map is compared with that of random weights


CONDITION = list(Condition._fields)
Tables = Mapping[Condition, pd.DataFrame]  # see dfnb.store.reports.write_scores


def add_scores(run_id: str, tables: Tables, about: About) -> None:
    """Add tables to the scores of a run, in place of those of the same condition.

    ``about`` describes the test sets of the tables. Where it has another version of a test set than
    the stored file, all stored rows of this test set are dropped. Two processes may add at the same
    time.
    """
    path = run_folder(run_id) / "scores.parquet"
    with locked(path.parent, wait_s=-1):  # without limit, while another process adds
        known = read_metadata(path)["test_sets"] if path.exists() else {}
        unchanged = [name for name in known if is_same(name, known, about)]
        stored, _ = read_scores(run_id, unchanged)
        parts = []
        for condition, table in {**stored, **tables}.items():
            parts.append(slim(table.astype(KEY_TYPES)).assign(**condition._asdict()))
        metadata = {"test_sets": {**known, **about}}
        write_table(path, pd.concat(parts, ignore_index=True), metadata)


def is_same(name: str, known: About, about: About) -> bool:
    """Whether what is stored of a test set, see ``known``, stays valid when ``about`` is added.

    It does where ``about`` has the same version (fingerprint), or lacks the test set.
    """
    return about.get(name, known[name])["fingerprint"] == known[name]["fingerprint"]


def read_scores(
    run_id: str,
    test_sets: Collection[str],
) -> tuple[dict[Condition, pd.DataFrame], dict[str, Any]]:
    """The tables of a run in ``runs/`` on these test sets, and their metadata, see ``About``.

    Both are empty where the run has no scores, and lack the test sets on which it has none.
    """
    path = run_folder(run_id) / "scores.parquet"
    if not path.exists():
        return {}, {}
    known = read_metadata(path)["test_sets"]
    about = {name: known[name] for name in test_sets if name in known}
    return by_condition(read_table(path), about), about


def by_condition(rows: pd.DataFrame, names: Collection[str]) -> dict[Condition, pd.DataFrame]:
    """The rows of the test sets ``names`` as a table per condition.

    A table lacks the columns that are NaN throughout, such as measures of other conditions.
    """
    tables = {}
    for values, table in rows[rows["test_set"].isin(names)].groupby(CONDITION, sort=False):
        table = table.drop(columns=CONDITION).dropna(axis=1, how="all")
        tables[Condition(*values)] = table.reset_index(drop=True)
    return tables


def slim(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is stored: without ``score``, which log-odds give.

    Log-odds and measures become float32, which is finer than any difference that matters, and half
    as large.
    """
    table = table.drop(columns="score", errors="ignore")
    floats = [name for name in table.select_dtypes("number") if name not in KEYS]
    return table.astype(dict.fromkeys(floats, "float32"))


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
    tables = [rows for _, rows in scores.groupby(parts, observed=True)] if parts else [scores]
    if min(rows["label"].nunique() for rows in tables) < 2:
        raise DfnbError(
            f"{source} lacks real or fake frames; score a test set with real and fake videos"
        )
