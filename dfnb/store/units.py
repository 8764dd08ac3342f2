"""A table of scores: what identifies a row of it, and the one door through which it comes.

Every number is computed from a table of :func:`as_table`, whether its rows come from the score
files of a report or from a reader. A *unit* is what has one score: a video or a frame.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, log_expit, logit

from facesets.checks import DfnbError

log = logging.getLogger(__name__)

# What identifies a unit, of whatever detector and seed; a row per video has the first three.
KEY = ("test_set", "method", "video", "track", "frame")
# What identifies a frame of a test set, and what is known of it; facesets.frames explains them.
KEY_TYPES = {
    "video": str,
    "track": int,
    "frame": int,
    "cluster": str,
    "label": int,
    "method": str,
}
KEYS = tuple(KEY_TYPES)
UNITS = {"video": ["video", "cluster", "label", "method"], "frame": list(KEYS)}
# Columns that tell tables apart, and what a table without them has.
DEFAULTS = {"detector": "the table", "test_set": "the table", "seed": 0, "collapsed": False}
REMEDY = "label: 0 real, 1 fake; score: P(fake) in [0, 1], or log_odds of being fake"


def as_table(
    data: pd.DataFrame | Mapping[str, Sequence],
    needed: Sequence[str] = (),
    apart: Sequence[str] = ("detector", "seed"),
    source: object = "the table",
) -> pd.DataFrame:
    """A table of scores that has a row per KEY, made of any table with labels.

    Args:
        data: A table; or columns by name, of which values in one position form a row: an index,
            such as that of a pandas Series, says nothing. It needs ``label``, 0 real and 1 fake.
        needed: The other columns that it needs.
        apart: The columns whose values are tables of their own: a KEY occurs once in each.
        source: What a sentence calls the table, such as the name of its file.

    Returns the table with columns of DEFAULTS, KEYS (``track`` and ``frame`` only if it had them),
    ``cluster_of``, see :func:`people_or_videos`, and, if it had one of them, ``log_odds``, by which
    units are ranked, and ``score`` = P(fake). A row without a video is one; a video without a
    cluster is one, and a warning says so.

    Raises :class:`DfnbError`, with the value at fault, for columns that are missing or contradict
    each other, for labels and scores that are none, and for a KEY that occurs twice; ValueError for
    texts in place of numbers.
    """
    table = data if isinstance(data, pd.DataFrame) else _by_position(data)
    if {*table.index.names} & {*KEYS}:  # as after set_index or groupby
        table = table.reset_index()
    table = table.reset_index(drop=True)
    there = ", ".join(map(str, table))
    table = _with_both_scores(table)
    table = table.assign(**{name: each for name, each in DEFAULTS.items() if name not in table})
    # Without names the rows of two detectors cannot be paired.
    is_one = len(table[["detector", "seed"]].drop_duplicates()) < 2
    needed = dict.fromkeys(["label", *needed, *([] if is_one else ["video"])])
    if lacking := [name for name in needed if name not in table]:
        raise DfnbError(
            f"{source} has no column {' and no '.join(lacking)}; it has {there}: rename them "
            f"({REMEDY}), or add what is missing"
        )
    table = _completed(table.assign(label=table["label"].astype(float)))
    _check(table, [name for name in dict.fromkeys(apart) if name not in KEY], source)
    return table


def people_or_videos(table: pd.DataFrame) -> str:
    """What the clusters of a test set are: "people" or, where nobody knows these, "videos".

    A cluster of a video of unknown people has the name of this video, or of the real one in it.
    """
    return "videos" if {*table["cluster"].unique()} <= {*table["video"].unique()} else "people"


def per_video(frames: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """A row per video of a table of frames: the means of the columns ``values``.

    The columns ``by`` identify a video. Its ``log_odds``, where frames have them, are those of the
    mean P(fake).
    """
    groups = frames.groupby([*by], sort=False, observed=True, dropna=False)
    # Rounded, because the noise of float64 must not rank videos whose means are equal.
    means = groups[[*values]].mean().round(12)
    if "log_odds" in frames:
        video = groups.ngroup().to_numpy()
        order = np.argsort(video, kind="stable")
        first = np.searchsorted(video[order], range(len(means)))
        frame = frames["log_odds"].to_numpy(float)[order]
        # log P is never rounded to 0, as P is to 1; the number of frames cancels.
        log_fake, log_real = (
            np.logaddexp.reduceat(log_expit(each), first) if len(first) else first
            for each in (frame, -frame)
        )
        means["log_odds"] = (log_fake - log_real).round(12)
    return means.reset_index()


# ---------------------------------------------------------------- steps of as_table


def _by_position(columns: Mapping[str, Any]) -> pd.DataFrame:
    """The table with these columns, such as arrays, Series and tensors; a shorter one has NaN."""
    table = {}
    for name, values in columns.items():
        values = values.detach().cpu() if hasattr(values, "detach") else values  # of torch
        table[name] = pd.Series(values).reset_index(drop=True)
    return pd.DataFrame(table)


def _with_both_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``log_odds`` and ``score``, of which either gives the other."""
    if not {"log_odds", "score"} & {*table}:
        return table
    both = table.reindex(columns=["log_odds", "score"]).astype(float)
    score = both["score"].fillna(expit(both["log_odds"]))
    return table.assign(log_odds=both["log_odds"].fillna(logit(score)), score=score)


def _completed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with all columns of KEYS, but for ``track`` and ``frame`` that it has not."""
    if "video" not in table:
        table["video"] = table.index.astype(str)
    if "cluster" not in table or table["cluster"].isna().all():
        log.warning("The table has no clusters: each video counts as independent of all others.")
        table["cluster"] = table["video"]
    # Some rows lack it where a reader's own were added to those of a report.
    known = table.get("cluster_of", pd.Series(np.nan, table.index)).astype(object)
    table["cluster_of"] = known.fillna(people_or_videos(table))
    without = [name for name in ("track", "frame") if name in table and table[name].isna().all()]
    table = table.drop(columns=without)
    if "track" in table:
        table["track"] = table["track"].fillna(0)
    # What is real is said by the label, which may have been assigned later than the method.
    is_real = table["label"] == 0
    if "method" not in table:
        table["method"] = np.where(is_real, "real", "fake")
    elif (table["method"][is_real] != "real").any():
        table["method"] = table["method"].astype(object).mask(is_real, "real")
    return table


def _check(table: pd.DataFrame, apart: Sequence[str], source: object) -> None:
    """Raise :class:`DfnbError` for the first kind of error in a completed table."""
    key = [name for name in KEY if name in table]
    video = ["test_set", "method", "video"]
    clusters = table[[*video, "cluster"]].drop_duplicates()
    in_two = clusters.loc[clusters.duplicated(video), "video"]
    label = table["label"]
    problems = [  # a column, what is wrong with it, and in which rows
        ("label", "no label", label.isna()),
        ("label", "a label other than 0 for real and 1 for fake", ~label.isin([0, 1])),
        (
            "method",
            "a label that does not fit the method",
            label.eq(1) & table["method"].eq("real"),
        ),
        *((name, f"no {name}", table[name].isna()) for name in (*key, "cluster")),
        ("cluster", "a video of more than one cluster", table["video"].isin(in_two)),
        (key[-1], f"a {key[-1]} that occurs twice", table.duplicated([*apart, *key])),
    ]
    if "score" in table:
        score, log_odds = table["score"], table["log_odds"]
        differ = (score - expit(log_odds)).abs() > 1e-6
        problems += [
            ("score", "a score that is NaN or outside [0, 1]", ~score.between(0, 1)),
            ("log_odds", "log_odds that are not those of the score", differ),
        ]
    for column, problem, is_wrong in problems:
        if is_wrong.any():
            first = table[is_wrong].iloc[0]
            place = ", ".join(f"{name} {first[name]}" for name in dict.fromkeys([column, *key]))
            raise DfnbError(
                f"{source} has {is_wrong.sum()} rows with {problem} (first: {place}); correct "
                f"them ({REMEDY})"
            )
