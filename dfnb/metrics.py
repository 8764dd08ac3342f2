"""Metrics of score tables.

A score table has one row per frame: video, track, frame, cluster, label, method and ``score``,
which is P(fake). The table of a detector that localises also has the columns :data:`LOCALISATION`,
which are NaN except on fakes with a mask. This module needs no model and no file.

:func:`align` brings the tables of several seeds to the same units, frames or videos.
:func:`measure` computes a metric of each table, and prepares its variance over clusters (of videos
that share people) by one of four methods (column ``interval_method`` of the results):

- ``delong``: AUC (see :func:`dfnb.statistics.auc`);
- ``linearised``: means over units: accuracies, Brier score, localisation;
- ``bootstrap``: EER;
- ``none``: there is no interval, because it would cover the truth in fewer than 95 % of cases. A
  class has a single cluster; or an accuracy is at a validation threshold from fewer than
  :data:`FEWEST_VALIDATION` clusters; or one side of a difference is exactly 0 or 1, and so has a
  standard error of 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd

from dfnb.settings import DfnbError
from dfnb.statistics import (
    NAN,
    Array,
    Design,
    Outcome,
    Spread,
    auc,
    bootstrap_eer,
    bootstrap_quantile,
    class_mean,
    curve_metrics,
)

Level = Literal["frame", "video"]
KEYS = ["video", "track", "frame", "cluster", "label", "method"]
# The columns that name a unit.
LEVELS = {
    "frame": KEYS,
    "video": ["video", "cluster", "label", "method"],
}
CROSS_DATASET_MEAN = "cross-dataset mean"  # in the column test_set
PLACEBOS = ("edges", "random")  # maps that are made without a network
LOCALISATION = {
    "iou": "IoU",
    "pixel_auc": "pixel AUC",
    "pixel_ap": "pixel AP",
    "pointing": "pointing game",
    "energy": "energy in mask",
}
CONSTANT = "constant "  # prefix: the measure, with the mean training mask as the map
RANKED = ("AUC", "EER")  # need no more of scores than their order
METRICS = (*RANKED, "balanced accuracy", "Brier")
FALSE_ALARM_RATE = 0.05  # the share of real frames above a detector's threshold, see threshold_of
# Balanced accuracy at the threshold that 5 % of the detector's own real validation frames exceed;
# that of another tool is of the real frames of its first test set.
AT_THRESHOLD = "accuracy at 5% validation FPR"
FALSE_ALARMS = "false alarms"  # the share of this test set's real frames above that threshold
CALLED = "called fake"  # the share of all frames above it
GAIN = "gain in pixel AP"  # over the mean training mask
LOST = "lost under deletion"  # how far P(fake) falls, as a mean over the deletion curve
# "deletion 0" is P(fake) before any deletion, "deletion" the mean over the curve.
DIFFERENCES = {GAIN: ("pixel_ap", f"{CONSTANT}pixel_ap"), LOST: ("deletion 0", "deletion")}
# Clusters of the validation split, for an interval at its threshold. With fewer, the bootstrap of
# the threshold is too narrow.
FEWEST_VALIDATION = 100
# A map fails its sanity check where one of these means reaches its limit: "all", the rank
# correlation with the map of a network with random weights in all layers; "empty", the share of
# empty maps.
SANITY_LIMITS = {"all": 0.5, "empty": 0.5}


def check_scores(scores: pd.DataFrame, source: object) -> None:
    """Raise :class:`DfnbError`, with ``source`` and the remedy, for a score table with errors."""
    label = scores["label"]
    # A video with one label and one cluster has one row here.
    videos = scores[["video", "label", "cluster"]].drop_duplicates()
    ambiguous = videos.loc[videos["video"].duplicated(), "video"]
    problems = {  # what is wrong: (rows,) bool, which rows have this problem
        "no video, track, frame, cluster, label or method": scores[KEYS].isna().any(axis=1),
        "a score that is NaN or outside [0, 1]": ~scores["score"].between(0, 1),
        # A bool is compared as 0 or 1, so any other label, such as 2, is wrong, too.
        "a label that is not 0 real and 1 fake": label != (scores["method"] != "real"),
        "a (video, track, frame) that occurs twice": scores.duplicated(["video", "track", "frame"]),
        "a video of more than one label or cluster": scores["video"].isin(ambiguous),
    }
    for problem, is_wrong in problems.items():
        if is_wrong.any():
            first = scores[is_wrong].iloc[0]
            raise DfnbError(
                f"{source} has {is_wrong.sum()} rows with {problem} (first: video {first.video}, "
                f"track {first.track}, frame {first.frame}); correct them, then score again"
            )
    if label.nunique() < 2:
        raise DfnbError(
            f"{source} lacks real or fake frames; score a test set with real and fake videos"
        )


def threshold_of(frames: pd.DataFrame) -> dict[str, Any]:
    """The lowest score that at most :data:`FALSE_ALARM_RATE` of the real frames exceed.

    Returns, for the ``attrs`` of other score tables: ``threshold``; ``threshold_clusters``, the
    number of clusters (people, mostly) that the real frames come from; and
    ``threshold_replicates``, what the threshold might have been on other clusters: as many values
    as :data:`dfnb.statistics.THRESHOLD_REPLICATES` says.
    """
    real = frames[frames["label"] == 0]
    # "inverted_cdf" takes one of the scores; a value between two of them could be exceeded by more.
    threshold = np.quantile(real["score"], 1 - FALSE_ALARM_RATE, method="inverted_cdf")
    replicates = bootstrap_quantile(real["score"], real["cluster"], 1 - FALSE_ALARM_RATE)
    return {
        "threshold": float(threshold),
        "threshold_clusters": real["cluster"].nunique(),
        "threshold_replicates": replicates.tolist(),
    }


# ---------------------------------------------------------------- the units of several tables


@dataclass(eq=False)  # the arrays have no == that is one bool
class Units:
    """The values of the same n units in several score tables, such as those of a detector's seeds.

    Attributes:
        index: One row per unit: its key, cluster, label and method, sorted by key.
        columns: Name to values (tables, n): the score, every further column of numbers, and
            :data:`DIFFERENCES` of two of them. At frame level also CALLED, 1 where the score is
            above the threshold, and AT_THRESHOLD, 1 where that is right; else 0. FALSE_ALARMS is
            CALLED of real units, NaN of fakes. These three need a threshold of each table.
        seeds: The seed of each table; None for the table of another tool.
        validation_clusters: How many clusters a threshold was chosen on; the fewest of any table,
            and 0 where a table has none.
        thresholds: What the threshold of each table might have been on other validation clusters,
            (THRESHOLD_REPLICATES,) each; empty for a table without a threshold.
    """

    index: pd.DataFrame
    columns: dict[str, Array]
    seeds: list[int | None]
    validation_clusters: int = 0
    thresholds: Sequence[Sequence[float]] = ()

    @cached_property
    def design(self) -> Design:
        """The labels and clusters of the n units."""
        return Design(self.index["label"], self.index["cluster"])

    def rows(self, chosen: Array) -> "Units":
        """The chosen units of all tables: (n,) bool, or their places in the wanted order."""
        columns = {name: values[:, chosen] for name, values in self.columns.items()}
        return replace(self, index=self.index.iloc[np.asarray(chosen)], columns=columns)


def align(tables: Sequence[pd.DataFrame], level: Level) -> Units:
    """Several score tables on the same units.

    The ``attrs`` of a table may have its ``seed``, its ``threshold`` (the score above which a frame
    is called fake), ``threshold_replicates``, see :func:`dfnb.statistics.bootstrap_quantile`, and
    ``threshold_clusters``, the number of clusters that the threshold was chosen on. Columns that
    not all tables have are left out.

    Raises :class:`DfnbError` when units, labels, methods or clusters differ.
    """
    parts = [_of_level(table, level) for table in tables]
    index = parts[0][LEVELS[level]]  # the same of every part, as is checked now
    for part in parts:
        check_same_units(index, part[LEVELS[level]])
    # "inner" keeps the columns that all tables have; those without any value are dropped.
    data = pd.concat(parts, join="inner").dropna(axis=1, how="all")
    columns = {}
    for name in _measures(data):
        values = data[name].to_numpy(float)
        columns[name] = values.reshape(len(tables), -1)  # every table has n rows, in one order
    for name, (first, second) in DIFFERENCES.items():
        if first in columns and second in columns:
            columns[name] = columns[first] - columns[second]
    thresholds = [table.attrs.get("threshold") for table in tables]
    # The threshold is of frame scores; for means over a video it would mean nothing. Maps have no
    # score, and a table from outside a report has no threshold.
    if level == "frame" and "score" in columns and None not in thresholds:
        called = columns["score"] > np.array(thresholds)[:, None]  # (tables, n) bool
        is_right = called == index["label"].to_numpy()
        columns[AT_THRESHOLD] = is_right.astype(float)
        columns[CALLED] = called.astype(float)
        columns[FALSE_ALARMS] = np.where(index["label"], NAN, called)
    seeds = [table.attrs.get("seed") for table in tables]
    validation_clusters = [table.attrs.get("threshold_clusters", 0) for table in tables]
    replicates = [table.attrs.get("threshold_replicates", []) for table in tables]
    return Units(index, columns, seeds, min(validation_clusters), replicates)


def _of_level(table: pd.DataFrame, level: Level) -> pd.DataFrame:
    """The rows of a score table at frame level; at video level one row of means per video.

    A mean is over the video's frames that have a value, as not every frame has a mask. Rows are
    sorted, so that their order in ``table`` changes nothing.
    """
    frames = table.copy(deep=False)
    frames.attrs = {}  # pandas would copy them with every sorting and selection
    frames = frames.sort_values(KEYS[:3], ignore_index=True)  # by video, track and frame
    if level == "video":
        means = frames.groupby(LEVELS["video"], observed=True)[_measures(frames)].mean()
        # Rounding, because the noise of float64 must not rank videos whose means are equal.
        return means.round(12).reset_index()
    return frames


def _measures(table: pd.DataFrame) -> list[str]:
    """The columns of numbers to measure: not those that name a unit, nor the score's log-odds."""
    numbers = table.select_dtypes("number")
    return list(numbers.drop(columns=[*KEYS, "log_odds"], errors="ignore"))


def check_same_units(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Raise :class:`DfnbError` unless two ``index`` tables of :class:`Units` are equal."""
    if first.equals(second):
        return
    differing = pd.concat([first, second]).drop_duplicates(keep=False)
    example = ", ".join(map(str, differing.iloc[0]))
    raise DfnbError(
        f"two score tables cannot be compared: {len(differing)} rows of unit, cluster, label and "
        f"method are in only one of them (first: {example}); score both on one test set"
    )


# ---------------------------------------------------------------- the metrics


@dataclass(frozen=True)
class Estimates:
    """A metric of several tables on one design, or the difference of two.

    Attributes:
        values: (tables,), the metric of each.
        spread: What the variance over clusters is computed from: bootstrap replicates (tables,
            REPLICATES) where ``how`` is ``bootstrap``; else influences (tables, n). For a metric
            with a threshold, THRESHOLD_REPLICATES columns follow: the value at other thresholds.
        design: The labels and clusters of the n units.
        how: The method of the interval, see the head of this module.
        independent: The number of independent observations behind an estimate of exactly 0 or 1;
            its interval needs them, because its variance is 0.
        bounded: Whether the metric lies in [0, 1].
    """

    values: Array
    spread: Array
    design: Design
    how: Literal["delong", "linearised", "bootstrap", "none"]
    independent: int
    bounded: bool = True

    def has_clusters_of(self, other: "Estimates") -> bool:
        """Whether unit i of both has the same cluster, for every i, so that they can be paired."""
        return np.array_equal(self.design.names, other.design.names)

    def minus(self, other: "Estimates") -> "Estimates":
        """The difference, table by table; the units must pair up, see :meth:`has_clusters_of`.

        The influences, or replicates, of the two sides are subtracted: a paired comparison. What is
        hard for both detectors cancels, so the interval is narrower than from two variances.
        """
        # A side of exactly 0 or 1 has a standard error of 0: the interval would be too narrow. The
        # mean over tables is 0 or 1 only if each table's value is.
        is_exact = self.values.mean() in (0, 1) or other.values.mean() in (0, 1)
        # For a metric with a threshold, one side may lack the columns with the values at other
        # thresholds: another tool, on the test set that gave its threshold.
        same_columns = self.spread.shape == other.spread.shape
        has_interval = same_columns and not is_exact and other.how != "none"
        return replace(
            self,
            values=self.values - other.values,
            # Where the columns differ, there is no interval, and nothing uses the spread.
            spread=self.spread - other.spread if same_columns else self.spread,
            how=self.how if has_interval else "none",
            bounded=False,
        )

    def outcome(self) -> Outcome:
        """The values, and the variance over clusters of their mean.

        All tables have the same clusters, so they are not independent: the influences, or
        replicates, are averaged over the tables before the variance is computed.
        """
        spread = self.spread.mean(axis=0)
        design = self.design
        variance = NAN  # without an interval it stays so, and the next two stay empty
        moves = ()
        at_thresholds = ()
        if self.how == "bootstrap":
            # A replicate is NaN if it drew no cluster of one class.
            variance = float(np.nanvar(spread, ddof=1))
            deviation = spread - np.nanmean(spread)
            # Divided so that the sum of their squares is about the variance.
            moves = np.nan_to_num(deviation) / len(spread) ** 0.5
        elif self.how != "none":
            # First the influences of the n units, then, for a metric with a threshold, the values
            # at other thresholds.
            influence, at_thresholds = np.split(spread, [len(design.label)])
            variance = design.variance(influence)
            moves = design.moves(influence)
        return Outcome(
            values=self.values,
            over_videos=Spread(variance, design.fewest - 1),  # clusters of the scarcer class
            bounded=self.bounded,
            independent=self.independent,
            how=self.how,
            counts=design.counts,
            at_thresholds=at_thresholds,
            clusters=design.distinct_names,
            moves=moves,
        )


def mean(estimates: Sequence[Estimates]) -> Estimates:
    """The mean of estimates of the same seeds on the same units, such as under several conditions.

    All must be of one metric that is bounded and has influences as its ``spread``. The influence
    on a mean is the mean of the influences.
    """
    values = np.mean([part.values for part in estimates], axis=0)
    spread = np.mean([part.spread for part in estimates], axis=0)
    return replace(estimates[0], values=values, spread=spread)


def measure(data: Units, metric: str) -> Estimates | None:
    """A metric of :data:`METRICS`, or the mean of a column of values, of each table.

    All of METRICS are in [0, 1]; lower is better for EER and Brier. Balanced accuracy, and the
    column AT_THRESHOLD, are the mean of the accuracies of the two classes, not of all units. For
    balanced accuracy a score above .5 means fake, as with the argmax of two logits. The mean of a
    column is over the units that have a value in every table, so that all tables have one design.
    None if there is no such unit or no such column.
    """
    if metric not in METRICS:
        if metric not in data.columns:
            return None
        has_value = ~np.isnan(data.columns[metric]).any(axis=0)
        if not has_value.any():
            return None
        data = data.rows(has_value)
    design = data.design
    column = data.columns["score" if metric in METRICS else metric]
    if metric == "AUC":
        values, influence = auc(column, design.label)  # (tables,) and (tables, n)
        return Estimates(
            values,
            influence,
            design,
            how="delong",
            # AUC compares a real with a fake unit; such pairs are independent of each other.
            independent=design.pairs,
        )
    if metric == "EER":
        return _measure_eer(column, design)
    return _measure_mean(data, metric, column)


def _measure_eer(column: Array, design: Design) -> Estimates:
    """The equal error rate of scores (tables, n), with bootstrap replicates as the spread."""
    values = []
    replicates = []
    for score in column:
        values.append(curve_metrics(score, design.label)["EER"])
        replicates.append(bootstrap_eer(score, design))
    return Estimates(
        np.array(values),
        np.array(replicates),
        design,
        how="bootstrap" if design.fewest > 1 else "none",
        independent=design.pairs,
    )


def _measure_mean(data: Units, metric: str, column: Array) -> Estimates:
    """The mean of a column (tables, n) without NaN, for :func:`measure`.

    For Brier and balanced accuracy the column has scores, which are transformed first.
    """
    design = data.design
    if metric == "Brier":
        column = (column - design.label) ** 2  # P(fake) against 1 for fake, 0 for real
    elif metric == "balanced accuracy":
        is_right = (column > 0.5) == design.label
        column = is_right.astype(float)
    # The column of AT_THRESHOLD is 0 or 1 already, see Units.
    balanced = metric in ("balanced accuracy", AT_THRESHOLD)
    values, influence = class_mean(column, design.label, balanced)
    rests_on_few = data.validation_clusters < FEWEST_VALIDATION
    has_validation_threshold = metric in (AT_THRESHOLD, CALLED, FALSE_ALARMS)
    if has_validation_threshold and not rests_on_few:
        # The further columns of :attr:`Estimates.spread`.
        moved = _moved_by_thresholds(data, balanced)
        influence = np.hstack([influence, moved])
    is_share = column.min() >= 0 and column.max() <= 1  # not so a correlation, for example
    return Estimates(
        values,
        influence,
        design,
        how="none" if has_validation_threshold and rests_on_few else "linearised",
        # A balanced accuracy of exactly 1 needs the real and the fake unit of a pair to be right.
        # Any other mean is over single units, of which one per cluster is independent.
        independent=design.pairs if balanced else design.clusters,
        # A difference may be positive throughout here, but below 0 on another test set.
        bounded=is_share and metric not in DIFFERENCES,
    )


def _moved_by_thresholds(data: Units, balanced: bool) -> Array:
    """The share of units called fake, or the balanced accuracy, at each of ``data.thresholds``.

    Returns (tables, THRESHOLD_REPLICATES). The balanced accuracy lacks a constant, which does not
    change its variance.
    """
    label = data.design.label
    # How much the result changes when a unit is called fake.
    weight = np.full(len(label), 1 / len(label))
    if balanced:
        # (TPR + 1 - FPR) / 2: a fake unit adds .5 / fakes, a real one takes away .5 / reals.
        units_of_class = np.where(label, label.sum(), (~label).sum())
        weight = (label - 0.5) / units_of_class
    moved = []
    for score, limits in zip(data.columns["score"], data.thresholds):
        moved.append([weight @ (score > limit) for limit in limits])
    return np.array(moved)


def localisation(probability: Array, mask: Array) -> dict[str, float]:
    """How well a map finds the forged pixels of a frame: LOCALISATION, in [0, 1].

    - IoU of the pixels above .5; pixel AUC and AP;
    - pointing game: whether the highest pixel is forged (Zhang et al., ECCV 2016); if several
      pixels are the highest, the share of them that is forged;
    - energy: the sum of the map over forged pixels, divided by its sum over all pixels (Wang et
      al., CVPR-W 2020, sec. 4.2); for an empty map, the forged share of the frame.

    So a constant map has the AUC, AP, pointing and energy of chance. A mask without forged pixels
    gives NaN throughout; a full mask gives NaN for pixel AUC, and 1 for AP, pointing and energy.

    Args:
        probability: (h, w) in [0, 1]; resized to the mask bilinearly.
        mask: (H, W), non-zero where forged.

    Raises :class:`DfnbError` for a map with NaN or values outside [0, 1].
    """
    if not (np.min(probability) >= 0 and np.max(probability) <= 1):  # so that NaN fails, too
        raise DfnbError("a map has NaN or values outside [0, 1]; use a sigmoid or a softmax")
    forged = np.asarray(mask, bool)
    if not forged.any():
        return dict.fromkeys(LOCALISATION, NAN)
    height, width = forged.shape
    resized = cv2.resize(np.float32(probability), (width, height))  # bilinearly
    # The noise of float32 interpolation would break ties, differently on every machine.
    resized = resized.round(6)
    curve = curve_metrics(resized.ravel(), forged.ravel())
    above = resized > 0.5
    intersection = (above & forged).sum()
    union = (above | forged).sum()
    is_highest = resized == resized.max()
    energy = forged.mean()  # of an empty map: no pixel is preferred
    total = float(resized.sum(dtype=float))
    if total > 0:
        energy = resized[forged].sum(dtype=float) / total
    return {
        "iou": float(intersection / union),
        "pixel_auc": curve["AUC"],
        "pixel_ap": min(curve["AP"], 1.0),  # a sum of steps, which rounding can lift above 1
        "pointing": float(forged[is_highest].mean()),
        "energy": float(energy),
    }


# ---------------------------------------------------------------- as text


def p_texts(p: Iterable[float]) -> list[str]:
    """p values as tables print them: ``0.031``, ``< 0.001`` below .0005, or a dash for NaN."""
    texts = pd.Series(p, dtype=float).map("{:.3f}".format)
    return texts.replace({"nan": "–", "0.000": "< 0.001"}).to_list()


def interval_text(
    value: float,
    low: float,
    high: float,
    sign: str = "",
) -> str:
    """A value with its interval as tables print it, ``0.853 [0.812, 0.889]``.

    ``sign``: "+" to print the sign of positive values, too. Numbers have three decimals, but two
    where the interval is wider than a tenth. A value without an interval (NaN) is printed alone.
    """
    # A comparison with NaN is False, so a value without an interval has three decimals.
    digits = 2 if high - low > 0.1 else 3
    number = f"{sign}.{digits}f"
    if np.isnan(low):
        return f"{value:{number}}"
    return f"{value:{number}} [{low:{number}}, {high:{number}}]"
