"""Numbers of a reader's own table of scores: ``dfnb.measure`` and ``dfnb.auc``.

Nothing here needs torch, a model or a dataset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dfnb.results import metrics
from dfnb.store.units import DEFAULTS, UNITS, as_table, per_video
from facesets.checks import DfnbError


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
            and ``score`` = P(fake) in [0, 1], or ``log_odds`` of being fake. A video is named by
            ``video``, ``method`` and ``test_set`` together; without ``video`` each row is one. Its
            score is the mean over its frames, which the column ``frame`` numbers. Videos that share
            people must have one value of ``cluster``, by which intervals are made; without it each
            video is its own, and a warning says so. ``detector``, ``seed`` and any other column may
            group the rows.
        metric: AUC, EER, accuracy, a column or a function, see :func:`dfnb.results.measure`, as for
            the rest and for the table that is returned.
        by: The columns that name a group.
        mean_over: Columns whose values are averaged.
        minus: What is subtracted, such as the name of a detector.

    Raises :class:`DfnbError` as :func:`dfnb.store.units.as_table`.

    Example::

        dfnb.measure({"label": [0, 0, 1, 1], "score": [0.2, 0.6, 0.4, 0.9]})
    """
    groups = [
        name for names in (by, mean_over) for name in ([names] if isinstance(names, str) else names)
    ]
    own = [metric] if isinstance(metric, str) and metric in table else []
    return metrics.measure(videos(table, groups, own), metric, by, mean_over, minus)


def auc(
    table: pd.DataFrame | Mapping[str, Sequence],
    minus: pd.DataFrame | None = None,
) -> pd.Series:
    """The AUC of videos with its 95 % interval over clusters, or the difference of two AUCs.

    Args:
        table: As of :func:`measure`.
        minus: The scores of another detector for the same videos, in such a table: its AUC is
            subtracted. What is hard for both cancels, so that the interval is narrower than from
            two AUCs.

    Returns:
        ``value`` in [0, 1], of a difference in [-1, 1]; ``low`` and ``high``, the ends of the
        interval, NaN where a class has a single cluster and, of a difference, where one of the
        AUCs is exactly 0 or 1 (it is so in every resample, too, as if it had no error: the interval
        would be too narrow); and the number of ``clusters``. There is no p: only a claim that was
        registered before its scores were known has one.

    Raises :class:`DfnbError` as :func:`measure`, and when the videos, labels or clusters of the two
    tables differ.

    Example::

        dfnb.auc(dfnb.predict(network, dataset), minus=dfnb.predict(detector, dataset))
    """
    rows = videos(table).assign(detector="a")
    if minus is not None:
        rows = pd.concat([rows, videos(minus).assign(detector="b")], ignore_index=True)
        # A video of both tables has two rows with the same name, cluster and label.
        unmatched = rows[~rows.duplicated(UNITS["video"], keep=False)]
        if len(unmatched):
            raise DfnbError(
                f"the two tables cannot be compared: {len(unmatched)} videos with their label and "
                f"cluster are in only one of them (first: {unmatched['video'].iloc[0]}); score "
                "both on one test set"
            )
    # One row: the detector "a" or, where there is a second table, "a" minus "b".
    numbers = metrics.measure(rows, "AUC", "detector", minus=() if minus is None else "b")
    return numbers[["value", "low", "high", "clusters"]].astype(float).iloc[0]


def videos(
    table: pd.DataFrame | Mapping[str, Sequence],
    groups: Sequence[str] = (),
    values: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per video of a table of scores, see :func:`dfnb.store.units.as_table`.

    A row is of one value of the columns ``groups``, and the mean over a video's frames of ``score``
    and of the columns ``values``.
    """
    rows = as_table(table, ["score", *groups, *values], ["detector", "seed", *groups])
    if "frame" not in rows:
        return rows
    by = dict.fromkeys([*DEFAULTS, *UNITS["video"], *groups])
    return per_video(rows, by, [*dict.fromkeys(["score", *values])])
