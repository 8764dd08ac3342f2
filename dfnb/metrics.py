"""Metrics of score tables, and how far each would vary with other videos.

A score table has one row per frame (:data:`COLUMNS`, and :data:`LOCALISATION` where the model localises and the frame is
fake with a known mask, NaN elsewhere). Nothing here knows a model or a file.

:func:`align` brings the tables of several seeds to the same units (frames or videos); :func:`measure` gives a metric of
each table, with what the variance over videos follows from. Clusters of videos are what varies; frames are never treated
as independent (column ``interval_method`` of a report's results):

- ``delong``: AUC, from DeLong's components summed within clusters, which may hold both classes
  (Obuchowski, Biometrics 53:567, 1997);
- ``linearised``: means over units (accuracies, Brier, localisation), the same sums over deviations from the class's mean;
- ``bootstrap``: EER, AP, TPR, from clusters resampled within strata (only real, only fake, both), one fewer than
  there are and weighted up, which makes the variance of a mean unbiased (Rao & Wu, JASA 83:231, 1988);
- ``none``: no interval would cover. A TPR with fewer than 2/FPR clusters of real videos, whose threshold is an
  extrapolation; accuracy at a validation threshold that rests on fewer than :data:`FEWEST_VALIDATION` clusters.

The class shares of a test set count as fixed. A class with a single cluster has no interval (NaN).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit, logit, stdtrit
from scipy.stats import rankdata

from dfnb.core import DfnbError, rng

Level = Literal["frame", "video"]
COLUMNS = ("video", "track", "frame", "cluster", "label", "method", "score")
LOCALISATION = {"iou": "IoU", "pixel_auc": "pixel AUC", "pixel_ap": "pixel AP"}
LOCALISATION |= {"pointing": "pointing game", "energy": "energy in mask"}
CURVES = ("EER", "AP", "TPR at 1% FPR", "TPR at 5% FPR")  # of the ROC or precision-recall curve
METRICS = ("AUC", *CURVES, "accuracy", "balanced accuracy", "Brier")  # any other name is a column of values
AT_THRESHOLD = "accuracy at 5% FPR"  # balanced; at the threshold that 5 % of the real validation frames exceed
CALLED = "called fake"  # of a frame, whether its score is above that threshold
GAINS = {"gain in pixel AP": ("pixel_ap", "constant pixel_ap"), "lost under deletion": ("deletion 0", "deletion")}
KEY = {"frame": ["video", "track", "frame"], "video": ["video"]}
REPLICATES = 1000
MOST_THRESHOLDS = 400  # of the bootstrap
FEWEST_REAL = {"TPR at 1% FPR": 200, "TPR at 5% FPR": 40}
FEWEST_VALIDATION = 100


def check_scores(scores: pd.DataFrame, source: object) -> pd.DataFrame:
    """Return ``scores`` unchanged if they are sound; else :class:`DfnbError`, naming ``source`` and the mend."""
    again, mend = "score the run again, as P(fake)", "mend the label in frames.parquet (0 real, 1 fake) and score again"
    unique = "make video unique by method and name together and score again"
    videos, located, fake = scores.groupby("video", observed=True), scores.filter(LOCALISATION), scores["label"]
    checks = [
        *((scores[name].isna(), f"no {name}", again) for name in COLUMNS[:-1]),
        (~scores["score"].between(0, 1), "a score that is NaN or outside [0, 1]", again),
        (scores["label"] != (scores["method"] != "real"), "a label that is not 0 where real and 1 where fake", mend),
        (scores.duplicated(KEY["frame"]), "a (video, track, frame) that was there before", unique),
        (videos["label"].transform("nunique") > 1, "a video of more than one label", unique),
        (videos["cluster"].transform("nunique") > 1, "a video of more than one cluster", unique),
        *((~located[x].fillna(0).between(0, fake), f"a {x} outside [0, 1] or at a real frame", again) for x in located),
    ]
    for wrong, what, remedy in checks:
        if wrong.any():
            row = scores[wrong.to_numpy()].iloc[0]
            example = f"first: video {row.video}, track {row.track}, frame {row.frame}"
            raise DfnbError(f"{source} has {wrong.sum()} rows with {what} ({example}); {remedy}")
    if scores["label"].nunique() < 2:
        raise DfnbError(f"{source} lacks real or fake frames; score a test set that holds real and fake videos")
    return scores


# ------------------------------------------------------------------------------------------------- units and their design


def units(scores: pd.DataFrame, level: Level) -> pd.DataFrame:
    """The frames, or one row per video with the means of its frames' numbers; sorted, so that row order changes nothing.

    A column ``table`` tells the rows of several tables apart, and ``seed`` is no number.
    """
    keys = [name for name in ("table", *KEY["frame"]) if name in scores]
    types = dict.fromkeys(("video", "cluster", "method"), str) | dict.fromkeys(("track", "frame", "label"), int)
    frames = scores.astype(types).sort_values(keys, ignore_index=True)
    if level == "frame":
        if (frames["frame"] < 0).any():
            raise DfnbError("a score table has one score per video: no frame level")
        return frames
    keys = keys[:-2]
    videos = frames[[*keys, "cluster", "label", "method"]].drop_duplicates(keys, ignore_index=True)
    numbers = frames.select_dtypes("number").columns.difference([*KEY["frame"], "table", "label", "seed"], sort=False)
    return videos.join(frames.groupby(keys)[list(numbers)].mean().reset_index(drop=True))


class Design:
    """The labels and clusters of n units: who is resampled with whom, and how many clusters an interval rests on.

    Attributes:
        label: (n,) bool, True for fake.
        cluster: (n,) int, from 0.
        holds: (2, clusters) bool, which clusters hold real and which hold fake units.
        fewest: the number of clusters of the scarcer class that there is.
        pairs: the number of disjoint pairs of a fake and a real from different clusters, which are independent.
    """

    def __init__(self, label: np.ndarray, cluster: np.ndarray) -> None:
        self.label = np.asarray(label, bool)
        self.cluster, names = pd.factorize(np.asarray(cluster))
        self.clusters = len(names)
        self.holds = np.array([np.isin(range(self.clusters), self.cluster[kind]) for kind in (~self.label, self.label)])
        self.per_class = self.holds.sum(axis=1)
        self.fewest = int(self.per_class[self.per_class > 0].min(initial=self.clusters))
        self.pairs = int(min(*self.per_class, self.clusters // 2))

    def variance(self, influence: np.ndarray) -> float:
        """The variance over clusters of an estimate from the influence (n,) of each unit, which sums to 0 in each class.

        Obuchowski 1997. With R_k and F_k, the sums over the real and the fake units of cluster k:
        K_R/(K_R-1) Σ R_k² + K_F/(K_F-1) Σ F_k² + 2 K/(K-1) Σ R_k F_k, where K_R, K_F and K count the clusters with real
        units, with fake units, and all. NaN where a class has only one cluster.
        """
        if self.fewest < 2:
            return float("nan")
        real = np.bincount(self.cluster, influence * ~self.label, self.clusters)
        fake = np.bincount(self.cluster, influence * self.label, self.clusters)
        of_real, of_fake, of_all = (k / max(k - 1, 1) for k in (*self.per_class, self.clusters))
        return float(of_real * real @ real + of_fake * fake @ fake + 2 * of_all * real @ fake)

    def counts(self) -> dict[str, int]:
        """The numbers of units, of real and of fake ones, and of clusters."""
        n, fakes = len(self.label), int(self.label.sum())
        return {"n": n, "n_real": n - fakes, "n_fake": fakes, "clusters": self.clusters}

    @cached_property
    def resampled(self) -> np.ndarray:
        """Weights (REPLICATES, clusters): k - 1 of the k clusters of each stratum drawn, each weighted by k / (k - 1).

        All clusters are one stratum where a stratum has a lone cluster. The same for every table of this design.
        """
        stratum = self.holds[0] + 2 * self.holds[1]
        if 1 in np.bincount(stratum):
            stratum = np.zeros_like(stratum)
        generator, weights = rng("bootstrap"), np.empty((REPLICATES, self.clusters))
        for name in np.unique(stratum):
            k = np.count_nonzero(stratum == name)
            weights[:, stratum == name] = generator.multinomial(k - 1, np.full(k, 1 / k), REPLICATES) * k / (k - 1)
        return weights


@dataclass(eq=False)
class Units:
    """What several score tables, such as those of a line's seeds, say of the same n units.

    Attributes:
        index: one row per unit before any choice of :meth:`rows`: key columns, cluster, label and method, sorted by key.
        design: of the n units.
        columns: name to values (tables, n): the score and, at frame level, every further column of numbers, the differences
            :data:`GAINS` of two columns, CALLED, whether the score is above its table's threshold, and AT_THRESHOLD, whether
            it is on the right side.
        seeds: of each table, None where its ``attrs`` do not say.
        validation_clusters: that the thresholds rest on, the fewest of any table.
    """

    index: pd.DataFrame
    design: Design
    columns: dict[str, np.ndarray]
    seeds: list[int | None]
    validation_clusters: int = 0

    def rows(self, chosen: np.ndarray) -> "Units":
        """The chosen units of all tables: (n,) bool, or their places in the order that is wanted."""
        columns = {name: values[:, chosen] for name, values in self.columns.items()}
        return replace(self, design=Design(self.design.label[chosen], self.design.cluster[chosen]), columns=columns)

    def only(self, index: pd.DataFrame) -> "Units":
        """The units that the ``index`` of other units has too."""
        own, wanted = (pd.MultiIndex.from_frame(each.filter(KEY["frame"])) for each in (self.index, index))
        return self.rows(own.isin(wanted))

    def tables(self, places: Sequence[int]) -> "Units":
        """All units of the tables at these places."""
        columns = {name: values[list(places)] for name, values in self.columns.items()}
        return replace(self, columns=columns, seeds=[self.seeds[place] for place in places])

    @cached_property
    def curves(self) -> list[tuple[dict[str, float], dict[str, np.ndarray]]]:
        """Of each table the curve metrics, and their bootstrap replicates (REPLICATES,)."""
        label = self.design.label
        return [(curve_values(score, label), _replicates(score, self.design)) for score in self.columns["score"]]


def align(tables: Sequence[pd.DataFrame], level: Level) -> Units:
    """Several score tables on the same units; :class:`DfnbError` when units, labels, methods or clusters differ."""
    data = units(pd.concat([table.assign(table=i) for i, table in enumerate(tables)], join="inner"), level)
    names = [*KEY[level], "cluster", "label", "method"]
    parts = [part[names].reset_index(drop=True) for _, part in data.groupby("table")]
    for part in parts:
        same_units(parts[0], part)
    numbers = [name for name in data.select_dtypes("number") if name not in (*names, "table", "seed")]
    columns = {name: data[name].to_numpy(float).reshape(len(tables), -1) for name in numbers}
    columns |= {gain: columns[a] - columns[b] for gain, (a, b) in GAINS.items() if {a, b} <= set(columns)}
    design = Design(parts[0]["label"].to_numpy(), parts[0]["cluster"].to_numpy())
    facts = [table.attrs for table in tables]
    if level == "frame" and design.per_class.all() and all(of_table.get("threshold") is not None for of_table in facts):
        called = columns["score"] > np.array([[of_table["threshold"]] for of_table in facts])
        columns |= {AT_THRESHOLD: (called == design.label).astype(float), CALLED: called.astype(float)}
    clusters = min(of_table.get("threshold_clusters", 0) for of_table in facts)
    return Units(parts[0], design, columns, [of_table.get("seed") for of_table in facts], clusters)


def same_units(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Raise :class:`DfnbError` when the ``index`` of two :class:`Units` differ in unit, cluster, label or method."""
    if not a.equals(b):
        differing = pd.concat([a, b]).drop_duplicates(keep=False)
        what = f"{len(differing)} rows of unit, cluster, label and method are in one of them alone"
        first = ", ".join(map(str, differing.iloc[0]))
        raise DfnbError(f"two score tables cannot be compared: {what} (first: {first}); score both on one test set")


# ---------------------------------------------------------------------------------------------------------- the metrics


class Estimates(NamedTuple):
    """A metric of several tables on one design.

    Attributes:
        values: (tables,).
        spread: what the variance over clusters follows from: influences (tables, n), or bootstrap replicates
            (tables, REPLICATES) where ``how`` is ``bootstrap``.
        column: (tables, n) the values that the metric was computed from.
        independent: how many independent observations an estimate of exactly 0 or 1 rests on.
        signed: whether the metric may be negative, whatever its values are here.
    """

    values: np.ndarray
    spread: np.ndarray
    column: np.ndarray
    design: Design
    how: Literal["delong", "linearised", "bootstrap", "none"]
    independent: int
    signed: bool = False

    def over_conditions(self, conditions: int) -> "Estimates":
        """The mean over conditions, where the tables are those of the first condition, then those of the next, and so on."""
        shape = conditions, len(self.values) // conditions, -1
        values, spread = (part.reshape(shape).mean(axis=0) for part in (self.values, self.spread))
        return self._replace(values=values[:, 0], spread=spread)

    @property
    def bounded(self) -> bool:
        """Whether the metric lies in [0, 1]."""
        return not self.signed and self.column.min() >= 0 and self.column.max() <= 1

    def variance(self, spread: np.ndarray) -> float:
        """The variance over clusters of an estimate with this spread (n,) or (REPLICATES,)."""
        if self.how == "none" or self.design.fewest < 2:
            return float("nan")
        return float(np.nanvar(spread, ddof=1)) if self.how == "bootstrap" else self.design.variance(spread)


def measure(data: Units, metric: str) -> Estimates:
    """A metric of :data:`METRICS`, or the mean of a column of values, of each table. All of :data:`METRICS` lie in [0, 1].

    Lower is better for EER and Brier. Accuracy: a score above .5 says fake, as the argmax of two logits does; balanced, and
    at a threshold: the mean of both classes' accuracies. Units without a value (NaN) must be left out before.
    """
    design, score = data.design, data.columns["score"]
    if metric == "AUC":
        return Estimates(*auc(score, design.label), score, design, "delong", design.pairs)
    if metric in CURVES:
        pairs = [(value[metric], replicates[metric]) for value, replicates in data.curves]
        values, replicates = map(np.array, zip(*pairs))
        how = "bootstrap" if design.per_class[0] >= FEWEST_REAL.get(metric, 2) else "none"
        return Estimates(values, replicates, score, design, how, design.pairs)
    right = ((score > 0.5) == design.label).astype(float)
    computed = {"accuracy": right, "balanced accuracy": right, "Brier": (score - design.label) ** 2}
    column = (data.columns | computed)[metric]
    balanced = metric in ("balanced accuracy", AT_THRESHOLD)
    values, influence = mean(column, design.label, balanced)
    independent = design.pairs if balanced else design.clusters
    compared = score if metric in METRICS else column
    how = "none" if metric in (AT_THRESHOLD, CALLED) and data.validation_clusters < FEWEST_VALIDATION else "linearised"
    return Estimates(values, influence, compared, design, how, independent, metric in GAINS)


def auc(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC (tables,) of scores (tables, n), ties counting half, and each unit's influence (tables, n) on it.

    DeLong's components, found by ranks (Sun & Xu, IEEE Signal Processing Letters 21:1389, 2014, eq. 5-6).
    """
    fakes, reals = np.count_nonzero(label), np.count_nonzero(~label)
    rank = rankdata(score, axis=1)
    component = np.empty(score.shape)
    component[:, label] = (rank[:, label] - rankdata(score[:, label], axis=1)) / reals
    component[:, ~label] = 1 - (rank[:, ~label] - rankdata(score[:, ~label], axis=1)) / fakes
    values = component[:, label].mean(axis=1)
    return values, (component - values[:, None]) / np.where(label, fakes, reals)


def mean(column: np.ndarray, label: np.ndarray, balanced: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The mean (tables,) of values (tables, n), and each unit's influence (tables, n): its deviation from its class's mean.

    ``balanced``: the mean of the two classes' means.
    """
    deviation, of_class = np.empty(column.shape), []
    for kind in (label, ~label):
        if kind.any():
            of_class.append(column[:, kind].mean(axis=1))
            share = 0.5 / np.count_nonzero(kind) if balanced else 1 / len(label)
            deviation[:, kind] = (column[:, kind] - of_class[-1][:, None]) * share
    return np.mean(of_class, axis=0) if balanced else column.mean(axis=1), deviation


def curve_values(score: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The metrics of :func:`_curves` of scores (n,)."""
    thresholds, place = np.unique(-score, return_inverse=True)
    fake, real = (np.bincount(place, kind, len(thresholds)) for kind in (label, ~label))
    return {name: float(values[0]) for name, values in _curves(fake[None], real[None]).items()}


def _replicates(score: np.ndarray, design: Design) -> dict[str, np.ndarray]:
    """Bootstrap replicates (B,) of the curve metrics. Of more than MOST_THRESHOLDS distinct scores neighbours share one."""
    distinct, place = np.unique(-score, return_inverse=True)
    thresholds = min(len(distinct), MOST_THRESHOLDS)
    real, fake = counts = np.zeros((2, design.clusters, thresholds))
    np.add.at(counts, (design.label.astype(int), design.cluster, place * thresholds // len(distinct)), 1)
    return _curves(design.resampled @ fake, design.resampled @ real)


def _curves(fake: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (B,) of B curves at once from the weights (B, T) that fakes and reals have at T scores, highest first.

    The same definitions as scikit-learn's, which is too slow for thousands of replicates or masks. The TPR at a limit is the
    highest of a threshold with at most that FPR, nothing interpolated. ``best IoU``: of those above any threshold and the
    fakes.
    """
    tp, fp = (np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0))) for weights in (fake, real))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr, iou = tp / tp[:, -1:], fp / fp[:, -1:], tp / (tp[:, -1:] + fp)
        precision = np.where(tp + fp > 0, tp / (tp + fp), 0)
    found = {f"TPR at {k}% FPR": np.where(fpr <= k / 100 + 1e-9, tpr, 0).max(axis=1) for k in (1, 5)}
    found["AUC"] = (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2
    found["AP"] = (np.diff(tpr) * precision[:, 1:]).sum(axis=1)
    found["best IoU"] = iou.max(axis=1)
    excess = fpr + tpr - 1  # the EER is where FPR = 1 - TPR on the ROC points (B, T) joined by lines
    curve, after = np.arange(len(fpr)), np.argmax(excess >= 0, axis=1)
    before = after - 1
    share = excess[curve, before] / (excess[curve, before] - excess[curve, after])
    return found | {"EER": fpr[curve, before] + (fpr[curve, after] - fpr[curve, before]) * share}


# ------------------------------------------------------------------------------------------------------------ intervals


def quantile(degrees: float) -> float:
    """The t quantile of a two-sided 95 % interval."""
    return float(stdtrit(degrees, 0.975))


def bounded_interval(value: float, variance: float, degrees: float, independent: int) -> tuple[float, float]:
    """The 95 % interval of a value in [0, 1]: value and standard error on the logit scale, a t quantile, and back.

    A value of exactly 1 has standard error 0. Its interval is [.025^(1/k), 1], k the number of ``independent``
    observations. For AUC that is conservative: all k independent pairs are in order with probability AUC^k. For 0 it is
    mirrored. NaN where the variance is.
    """
    if np.isnan(variance):
        return float("nan"), float("nan")
    if min(value, 1 - value) < 1e-12:
        bound = 0.025 ** (1 / independent)
        return (bound, 1.0) if value > 0.5 else (0.0, 1 - bound)
    half = quantile(degrees) * np.sqrt(variance) / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def holm(p: Sequence[float]) -> np.ndarray:
    """The p values (m,) corrected for their number (Holm, Scandinavian Journal of Statistics 6:65, 1979).

    NaN stays NaN and counts as a comparison.
    """
    ascending = pd.Series(p, dtype=float).sort_values()  # NaN last
    return (ascending * np.arange(len(ascending), 0, -1)).cummax().clip(upper=1).sort_index().to_numpy()


def p_texts(p: Iterable[float]) -> list[str]:
    """p values as tables print them."""
    return ["–" if np.isnan(value) else f"{value:.3f}".replace("0.000", "< 0.001") for value in p]


def interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A value with its interval as tables print it, ``0.853 [0.812, 0.889]``; alone where there is none. Sign: "" or "+".

    An interval wider than a tenth has two decimals.
    """
    number = f"{sign}.{2 if high - low > 0.1 else 3}f"
    return f"{value:{number}}" if np.isnan(low) else f"{value:{number}} [{low:{number}}, {high:{number}}]"


def localisation(probability: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """How well a map finds the forged pixels of one frame: :data:`LOCALISATION` and ``best_iou``, all in [0, 1].

    ``probability`` (h, w) in [0, 1], resized to the mask bilinearly; ``mask`` (H, W), non-zero where forged.
    IoU of the pixels above .5, and the best of any threshold; pixel AUC and AP; pointing game, whether the highest pixel
    is forged (Zhang et al., ECCV 2016; tied pixels share the hit); energy, the share of the map's sum on forged pixels
    (Wang et al., CVPR-W 2020, sec. 4.2; the forged share of the frame for an empty map). So a constant map scores what
    chance does. A mask without forged pixels gives NaN throughout, a full one NaN for pixel AUC and 1 for AP, pointing
    and energy. Raises :class:`DfnbError` for a map with NaN or values outside [0, 1].
    """
    if not (np.min(probability) >= 0 and np.max(probability) <= 1):
        raise DfnbError("a localisation map has NaN or values outside [0, 1]; pass it through a sigmoid or a softmax")
    forged = np.asarray(mask, bool)
    if not forged.any():
        return dict.fromkeys([*LOCALISATION, "best_iou"], float("nan"))
    # Rounded, since the noise of float32 interpolation would break ties, differently on each machine.
    resized = cv2.resize(np.float32(probability), forged.shape[::-1], interpolation=cv2.INTER_LINEAR).round(6)
    curve, total = curve_values(resized.ravel(), forged.ravel()), float(resized.sum(dtype=float))
    return {
        "iou": float(((resized > 0.5) & forged).sum() / ((resized > 0.5) | forged).sum()),
        "pixel_auc": curve["AUC"],
        "pixel_ap": min(curve["AP"], 1.0),  # a sum of steps, which rounding can lift above one
        "pointing": float(forged[resized == resized.max()].mean()),
        "energy": float(resized[forged].sum(dtype=float) / total if total else forged.mean()),
        "best_iou": curve["best IoU"],
    }
