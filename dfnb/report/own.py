"""Numbers of a reader's own table of scores: ``dfnb.measure`` and ``dfnb.auc``.

Nothing here needs torch, a model or a dataset.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from dfnb.report import metrics
from dfnb.report.reading import UNITS
from dfnb.store.scores import KEY_TYPES, KEYS, check_scores
from facesets.checks import DfnbError

log = logging.getLogger(__name__)

# Names of other libraries for the columns that a table needs.
ALSO_CALLED = {"label": ("y_true",), "score": ("y_score", "logit", "logits", "log_odds")}
# Columns that metrics.measure groups by, and what a table without them has.
DEFAULTS = {"detector": "the table", "test_set": "the table", "seed": 0, "collapsed": False}


def measure(
    table: pd.DataFrame | Mapping[str, Sequence],
    metric: str | metrics.Function = "AUC",
    by: metrics.Names = "detector",
    mean_over: metrics.Names = (),
    minus: str | Sequence[Mapping[str, Any]] = (),
) -> pd.DataFrame:
    """A metric of each group of the videos in a table of scores, with its 95 % interval.

    Args:
        table: Of :func:`dfnb.predict`, or any other with the columns ``label`` (0 real, 1 fake),
            also called ``y_true``, and ``score`` = P(fake) in [0, 1], also ``y_score``; or logits
            of being fake, called ``logit``, ``logits`` or ``log_odds``. It may have ``video``: the
            score of a video is the mean over its rows; else each row is a video. Videos that share
            people must have one value of ``cluster``, by which intervals are made; without it each
            video is its own, and a warning says so. ``detector``, ``seed``, ``test_set``,
            ``method`` and any other column may group the rows.
        metric: AUC, EER, accuracy, a column or a function, see :func:`dfnb.report.measure`, as for
            the rest and for the table that is returned.
        by: The columns that name a group.
        mean_over: Columns whose values are averaged.
        minus: What is subtracted, such as the name of a detector.

    Raises :class:`DfnbError` for columns that are missing, and for labels and scores that are none.

    Example::

        dfnb.measure({"y_true": [0, 0, 1, 1], "y_score": [0.2, 0.6, 0.4, 0.9]})
    """
    groups = [
        name for names in (by, mean_over) for name in ([names] if isinstance(names, str) else names)
    ]
    own = [metric] if isinstance(metric, str) and metric in pd.DataFrame(table) else []
    return metrics.measure(videos(table, groups, own), metric, by, mean_over, minus)


def auc(
    table: pd.DataFrame | Mapping[str, Sequence] | Sequence[int],
    scores: Sequence[float] | None = None,
    *,
    minus: pd.DataFrame | None = None,
) -> pd.Series:
    """The AUC of videos with its 95 % interval over clusters, or the difference of two AUCs.

    Args:
        table: As of :func:`measure`; or labels, 0 real and 1 fake, with their ``scores`` beside it,
            as scikit-learn takes them.
        scores: P(fake), if ``table`` is labels.
        minus: The scores of another detector for the same videos, in such a table: its AUC is
            subtracted. What is hard for both cancels, so that the interval is narrower than from
            two AUCs.

    Returns:
        ``value`` in [0, 1], of a difference in [-1, 1]; ``low`` and ``high``, the ends of the
        interval, NaN where a class has a single cluster and, of a difference, where one of the
        AUCs is exactly 0 or 1 (it is so in every resample, too, as if it had no error: the interval
        would be too narrow); ``p``, two-sided, of the test for no difference, NaN without an
        interval or without ``minus``; and the number of ``clusters``.

    Raises :class:`DfnbError` as :func:`measure`, and when the videos, labels or clusters of the two
    tables differ.

    Example::

        dfnb.auc(dfnb.predict(network, dataset), minus=dfnb.predict(detector, dataset)).p
    """
    table = table if scores is None else {"label": table, "score": scores}
    rows = videos(table).assign(detector="a")
    if minus is not None:
        rows = pd.concat([rows, videos(minus).assign(detector="b")], ignore_index=True)
        # A video of both tables has two rows with the same name, cluster and label; the method
        # follows from the label.
        unmatched = rows[~rows.duplicated(UNITS["video"], keep=False)]
        if len(unmatched):
            raise DfnbError(
                f"the two tables cannot be compared: {len(unmatched)} videos with their label and "
                f"cluster are in only one of them (first: {unmatched['video'].iloc[0]}); score "
                "both on one test set"
            )
    # One row: the detector "a" or, where there is a second table, "a" minus "b".
    numbers = metrics.measure(rows, "AUC", "detector", minus=() if minus is None else "b")
    return numbers[["value", "low", "high", "p", "clusters"]].astype(float).iloc[0]


def videos(
    table: pd.DataFrame | Mapping[str, Sequence],
    groups: Sequence[str] = (),
    values: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per video of a table of scores, with all columns that :func:`metrics.measure` reads.

    A row is of one value of the columns ``groups``, and the mean over a video's rows of ``score``
    and of the columns ``values``. Raises :class:`DfnbError` for a table with errors.
    """
    frames = pd.DataFrame(table)
    if {*frames.index.names} & {*KEYS}:  # as after set_index or groupby
        frames = frames.reset_index()
    frames = _completed(frames.reset_index(drop=True), groups)
    others = [name for name in groups if name not in {*DEFAULTS, *KEYS}]
    parts = frames.groupby(others, observed=True, dropna=False) if others else [(None, frames)]
    for _, rows in parts:
        check_scores(rows, "the table, which needs labels, 0 real and 1 fake,")
    keys = dict.fromkeys([*DEFAULTS, *UNITS["video"], *groups])
    means = frames.astype(KEY_TYPES).groupby([*keys], observed=True)[["score", *values]].mean()
    # Rounded, because the noise of float64 must not rank videos whose means are equal.
    return means.round(12).reset_index()


def _completed(table: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
    """The table with a column for all of DEFAULTS, KEYS and ``score``; raises as :func:`videos`."""
    there = [*table]
    for name, others in ALSO_CALLED.items():
        other = next((other for other in others if other in table), None)
        if name not in table and other:
            values = table[other]
            table = table.assign(**{name: expit(values) if "log" in other else values})
    for name, value in DEFAULTS.items():
        table = table if name in table else table.assign(**{name: value})
    # Without names the rows of two detectors cannot be paired.
    is_one = len(table[["detector", "seed"]].drop_duplicates()) < 2
    needed = ["label", "score", *groups, *([] if is_one else ["video"])]
    if lacking := [name for name in dict.fromkeys(needed) if name not in table]:
        raise DfnbError(
            f"the table has no column {' and no '.join(lacking)}; it has {', '.join(there)}: "
            "rename them (label: 0 real, 1 fake; score: P(fake) in [0, 1]; logits: logit), or add "
            "what is missing"
        )
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in ("label", "score")}
    table = table.assign(**numbers)
    if "video" not in table:
        table["video"] = table.index.astype(str)
    if "cluster" not in table or table["cluster"].isna().all():
        log.warning("The table has no clusters: each video counts as independent of all others.")
        table["cluster"] = table["video"]
    if "frame" not in table or table["frame"].isna().all():
        table["frame"] = table.groupby(["video", *DEFAULTS]).cumcount()
    table["track"] = table["track"].fillna(0) if "track" in table else 0
    # What is real is said by the label, which may have been assigned later than the method.
    fakes = table["method"].astype(object) if "method" in groups else "fake"
    table["method"] = np.where(table["label"] == 0, "real", fakes)
    return table
