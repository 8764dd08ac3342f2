"""Metrics of score tables.

A score table has one row per frame: video, track, frame, cluster, label, method and ``score``,
which is P(fake); and the columns :data:`LOCALISATION` where a detector localises and the frame is
a fake with a mask (NaN elsewhere). Nothing here knows a model or a file.

:func:`align` brings the tables of several seeds to the same units, frames or videos;
:func:`measure` gives a metric of each table and what its variance over clusters follows from, in
one of four ways (column ``interval_method`` of the results):

- ``delong``: AUC;
- ``linearised``: means over units: accuracies, Brier score, localisation;
- ``bootstrap``: EER and AP;
- ``none``: no interval would cover. A class with a single cluster; an accuracy at a validation
  threshold that rests on fewer than :data:`FEWEST_VALIDATION` clusters; a difference of which one
  side is exactly 0 or 1, and so has no standard error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

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
    bootstrap_curve_metrics,
    class_mean,
    curve_metrics,
)

Level = Literal["frame", "video"]
KEYS = ["video", "track", "frame", "cluster", "label", "method"]
# The columns that name a unit.
LEVELS: dict[Level, list[str]] = {
    "frame": KEYS,
    "video": ["video", "cluster", "label", "method"],
}
CROSS_DATASET_MEAN = "cross-dataset mean"  # stands as a test set
PLACEBOS = ("edges", "random")  # maps that look at no network
LOCALISATION = {
    "iou": "IoU",
    "pixel_auc": "pixel AUC",
    "pixel_ap": "pixel AP",
    "pointing": "pointing game",
    "energy": "energy in mask",
}
CONSTANT = "constant "  # a measure of the mean training mask in the place of the map
CURVE_METRICS = ("EER", "AP")
METRICS = ("AUC", *CURVE_METRICS, "accuracy", "balanced accuracy", "Brier")
AT_THRESHOLD = "accuracy at 5% FPR"  # balanced; at the threshold of the validation split
CALLED = "called fake"  # whether a frame's score is above that threshold
GAIN = "gain in pixel AP"  # over the mean training mask
LOST = "lost under deletion"  # P(fake) lost, in the mean over the deletion curve
DIFFERENCES = {GAIN: ("pixel_ap", f"{CONSTANT}pixel_ap"), LOST: ("deletion 0", "deletion")}
FEWEST_VALIDATION = 100  # clusters, for an interval at the validation threshold
# A map fails its sanity check where one of these means reaches its limit: the rank correlation with
# the map of random weights, and the share of empty maps.
SANITY_LIMITS = {"all": 0.5, "empty": 0.5}


def check_scores(scores: pd.DataFrame, source: object) -> pd.DataFrame:
    """Return a score table if it is sound; else raise DfnbError with ``source`` and the remedy."""
    label = scores["label"]
    videos = scores[["video", "label", "cluster"]].drop_duplicates()
    ambiguous = videos.loc[videos["video"].duplicated(), "video"]
    wrong = {
        "no video, track, frame, cluster, label or method": scores[KEYS].isna().any(axis=1),
        "a score that is NaN or outside [0, 1]": ~scores["score"].between(0, 1),
        "a label that is not 0 real and 1 fake": label != (scores["method"] != "real"),
        "a (video, track, frame) that occurs twice": scores.duplicated(["video", "track", "frame"]),
        "a video of more than one label or cluster": scores["video"].isin(ambiguous),
    }
    for problem, is_wrong in wrong.items():
        if is_wrong.any():
            first = scores[is_wrong.to_numpy()].iloc[0]
            raise DfnbError(
                f"{source} has {is_wrong.sum()} rows with {problem} (first: video {first.video}, "
                f"track {first.track}, frame {first.frame}); correct them, then score again"
            )
    if label.nunique() < 2:
        raise DfnbError(
            f"{source} lacks real or fake frames; score a test set with real and fake videos"
        )
    return scores


# ---------------------------------------------------------------- the units of several tables


@dataclass(eq=False)
class Units:
    """What several score tables, such as those of a detector's seeds, say of the same n units.

    Attributes:
        index: One row per unit: its key, cluster, label and method, sorted by key.
        columns: Name to values (tables, n): the score; at frame level also every further column
            of numbers, :data:`DIFFERENCES` of two of them, CALLED, and AT_THRESHOLD, which says
            whether the threshold puts a unit on the right side.
        seeds: The seed of each table; None where it has none.
        validation_clusters: On how many clusters the thresholds rest, the fewest of any table.
    """

    index: pd.DataFrame
    columns: dict[str, Array]
    seeds: list[int | None]
    validation_clusters: int = 0

    @cached_property
    def design(self) -> Design:
        """The labels and clusters of the n units."""
        return Design(self.index["label"], self.index["cluster"])

    def rows(self, chosen: Array) -> "Units":
        """The chosen units of all tables: (n,) bool, or their places in the wanted order."""
        columns = {name: values[:, chosen] for name, values in self.columns.items()}
        return replace(self, index=self.index.iloc[chosen], columns=columns)

    @cached_property
    def curves(self) -> tuple[pd.DataFrame, list[dict[str, Array]]]:
        """The curve metrics, a row per table, and each table's replicates (REPLICATES,)."""
        values = []
        replicates = []
        for score in self.columns["score"]:
            values.append(curve_metrics(score, self.design.label))
            replicates.append(bootstrap_curve_metrics(score, self.design))
        return pd.DataFrame(values), replicates


def align(tables: Sequence[pd.DataFrame], level: Level) -> Units:
    """Several score tables on the same units.

    The ``attrs`` of a table may have its ``seed``, its ``threshold`` and ``threshold_clusters``.
    Raises :class:`DfnbError` when units, labels, methods or clusters differ.
    """
    parts = [_of_level(table, level) for table in tables]
    index = parts[0][LEVELS[level]]
    for part in parts:
        check_same_units(index, part[LEVELS[level]])
    data = pd.concat(parts, join="inner").dropna(axis=1, how="all")
    columns = {}
    for name in _measures(data):
        values = data[name].to_numpy(float)
        columns[name] = values.reshape(len(tables), -1)
    for name, (first, second) in DIFFERENCES.items():
        if first in columns and second in columns:
            columns[name] = columns[first] - columns[second]
    thresholds = [table.attrs.get("threshold") for table in tables]
    if level == "frame" and "score" in columns and None not in thresholds:
        called = columns["score"] > np.array(thresholds)[:, None]
        is_right = called == index["label"].to_numpy()
        columns[AT_THRESHOLD] = is_right.astype(float)
        columns[CALLED] = called.astype(float)
    seeds = [table.attrs.get("seed") for table in tables]
    validation_clusters = [table.attrs.get("threshold_clusters", 0) for table in tables]
    return Units(index, columns, seeds, min(validation_clusters))


def _of_level(table: pd.DataFrame, level: Level) -> pd.DataFrame:
    """A table of frames, or of videos with the means of its numbers.

    Sorted, so that the order of rows changes nothing.
    """
    frames = table.sort_values(KEYS, ignore_index=True)
    if level == "video":
        means = frames.groupby(LEVELS["video"], observed=True)[_measures(frames)].mean()
        # Rounding, because the noise of float64 must not rank videos whose means are equal.
        return means.round(12).reset_index()
    if (frames["frame"] < 0).any():
        raise DfnbError("a score table has one score per video: no frame level")
    return frames


def _measures(table: pd.DataFrame) -> list[str]:
    """The columns of numbers that describe a unit and do not name it."""
    numbers = table.select_dtypes("number")
    return list(numbers.drop(columns=[*KEYS, "log_odds"], errors="ignore"))


def check_same_units(first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Raise :class:`DfnbError` unless two indices of :class:`Units` are equal."""
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
        values: (tables,).
        spread: What the variance over clusters follows from: influences (tables, n), or bootstrap
            replicates (tables, REPLICATES) where ``how`` is ``bootstrap``.
        design: The labels and clusters of the n units.
        how: The way to the interval, see the head of this module.
        independent: The number of independent observations behind an estimate of exactly 0 or 1.
        bounded: Whether the metric lies in [0, 1].
    """

    values: Array
    spread: Array
    design: Design
    how: Literal["delong", "linearised", "bootstrap", "none"]
    independent: int
    bounded: bool = True

    def has_clusters_of(self, other: "Estimates") -> bool:
        """Whether both are of units of the same clusters, in the same order."""
        return np.array_equal(self.design.names, other.design.names)

    def minus(self, other: "Estimates") -> "Estimates":
        """The difference on the same units, table by table."""
        is_exact = self.values.mean() in (0, 1) or other.values.mean() in (0, 1)
        return replace(
            self,
            values=self.values - other.values,
            spread=self.spread - other.spread,
            how="none" if is_exact or other.how == "none" else self.how,
            bounded=False,
        )

    def outcome(self) -> Outcome:
        """What the estimates of all seeds come to; the seeds share the videos."""
        spread = self.spread.mean(axis=0)
        variance = NAN
        if self.how == "bootstrap":
            variance = float(np.nanvar(spread, ddof=1))
        elif self.how != "none":
            variance = self.design.variance(spread)
        return Outcome(
            self.values,
            Spread(variance, self.design.fewest - 1),
            self.bounded,
            self.independent,
            self.how,
            self.design.counts,
        )


def mean(estimates: Sequence[Estimates]) -> Estimates:
    """The mean of estimates of the same seeds on the same units, such as under several conditions.

    All are bounded and have their variance from influences.
    """
    values = np.mean([part.values for part in estimates], axis=0)
    spread = np.mean([part.spread for part in estimates], axis=0)
    return replace(estimates[0], values=values, spread=spread)


def measure(data: Units, metric: str) -> Estimates | None:
    """A metric of :data:`METRICS`, or the mean of a column of values, of each table.

    All of METRICS lie in [0, 1]; of EER and Brier, lower is better. Accuracy: a score above .5 says
    fake, as the argmax of two logits does. Balanced accuracy, and accuracy at a threshold, are the
    mean of both classes' accuracies. The mean of a column is over the units that have a value in
    every table; None where there is none.
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
        values, influence = auc(column, design.label)
        return Estimates(
            values,
            influence,
            design,
            how="delong",
            independent=design.pairs,
        )
    if metric in CURVE_METRICS:
        values, replicates = data.curves
        spread = np.array([of_table[metric] for of_table in replicates])
        how = "bootstrap" if design.fewest > 1 else "none"
        return Estimates(
            values[metric].to_numpy(),
            spread,
            design,
            how=how,
            independent=design.pairs,
        )
    if metric == "Brier":
        column = (column - design.label) ** 2
    elif metric in METRICS:
        is_right = (column > 0.5) == design.label
        column = is_right.astype(float)
    balanced = metric in ("balanced accuracy", AT_THRESHOLD)
    values, influence = class_mean(column, design.label, balanced)
    rests_on_few = data.validation_clusters < FEWEST_VALIDATION
    is_uncertain = metric in (AT_THRESHOLD, CALLED) and rests_on_few
    is_share = column.min() >= 0 and column.max() <= 1
    return Estimates(
        values,
        influence,
        design,
        how="none" if is_uncertain else "linearised",
        independent=design.pairs if balanced else design.clusters,
        bounded=is_share and metric not in DIFFERENCES,
    )


def localisation(probability: Array, mask: Array) -> dict[str, float]:
    """How well a map finds the forged pixels of a frame: LOCALISATION, in [0, 1].

    - IoU of the pixels above .5; pixel AUC and AP;
    - pointing game: whether the highest pixel is forged (Zhang et al., ECCV 2016); tied pixels
      share the hit;
    - energy: the share of the map's sum that lies on forged pixels (Wang et al., CVPR-W 2020, sec.
      4.2); the forged share of the frame for an empty map.

    So a constant map scores what chance does. A mask without forged pixels gives NaN throughout, a
    full mask NaN for pixel AUC, and 1 for AP, pointing and energy.

    Args:
        probability: (h, w) in [0, 1]; resized to the mask bilinearly.
        mask: (H, W), non-zero where forged.

    Raises :class:`DfnbError` for a map with NaN or values outside [0, 1].
    """
    if not (np.min(probability) >= 0 and np.max(probability) <= 1):
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
    energy = forged.mean()
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
    """p values as tables print them."""
    texts = pd.Series(p, dtype=float).map("{:.3f}".format)
    return texts.replace({"nan": "–", "0.000": "< 0.001"}).to_list()


def interval_text(
    value: float,
    low: float,
    high: float,
    sign: str = "",
) -> str:
    """A value with its interval as tables print it, ``0.853 [0.812, 0.889]``.

    ``sign``: "+" to print that of positive values, too. An interval wider than a tenth has two
    decimals; a value without an interval (NaN) is printed alone.
    """
    digits = 2 if high - low > 0.1 else 3
    number = f"{sign}.{digits}f"
    if np.isnan(low):
        return f"{value:{number}}"
    return f"{value:{number}} [{low:{number}}, {high:{number}}]"
