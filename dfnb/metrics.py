"""Scores to metrics: frame and video level, localisation, each with an interval that respects the clusters.

The input is always a scores table, one row a frame (:data:`COLUMNS`, and :data:`LOCALISATION` where the model localises
and the frame is fake with a known mask, NaN elsewhere). Nothing here knows a model.

All metrics lie in [0, 1], and all their intervals have one form: the estimate and its standard error carried to the
logit scale, a t quantile with (clusters of the scarcer class - 1) degrees of freedom, and back. Only the standard error
differs (column ``method_of_interval``):

- ``delong``: AUC, from DeLong's components summed within clusters, which may hold both classes
  (Obuchowski, Biometrics 53:567, 1997);
- ``linearised``: means over units (accuracy, Brier, localisation), the same sums over deviations from the class's mean;
- ``bootstrap``: EER, AP, pAUC, TPR, from clusters resampled within strata (only real, only fake, both), one fewer than
  there are and weighted up, which makes the variance of a mean unbiased (Rao & Wu, JASA 83:231, 1988);
- ``none``: ECE, whose upward bias resampling adds once more (Brier carries the interval), and a TPR with fewer than
  2/FPR clusters of real videos: its threshold is an extrapolation, biased upwards, and no interval covers.

tests/test_evaluate.py simulates the coverage of the AUC's interval; that of the others is not tested there.

The class shares of a test set count as fixed. A class with a single cluster has no interval (NaN).
An estimate of exactly 1 has standard error 0; its interval is [(alpha/2)^(1/k), 1], k the number of disjoint pairs of
one fake and one real from different clusters (for a mean: of clusters). For AUC it is conservative: perfect separation
needs all k independent pairs in order, and that has probability AUC^k. For 0 it is mirrored.
Any other estimate without variation, such as the AUC .5 or the accuracy of a constant score, has an interval of width 0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm, rankdata, t
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from dfnb.core import DfnbError, atomic, rng

Level = Literal["frame", "video"]
Tables = pd.DataFrame | Sequence[pd.DataFrame]
COLUMNS = ("video", "track", "frame", "cluster", "label", "method", "score")
LOCALISATION = {
    "iou": "IoU",
    "pixel_auc": "pixel AUC",
    "pixel_ap": "pixel AP",
    "pointing": "pointing game",
    "energy": "energy in mask",
}
RATES = ("AUC", "accuracy", "balanced accuracy")  # any other metric is the mean of a column
KEY = {"frame": ["video", "track", "frame"], "video": ["video"]}
REPLICATES = 1000
MOST_THRESHOLDS = 2000
FEWEST_REAL = {"TPR at 1% FPR": 200, "TPR at 5% FPR": 40}


def check_scores(scores: pd.DataFrame, source: str | Path) -> pd.DataFrame:
    """Return ``scores`` unchanged if they are sound; else :class:`DfnbError`, naming ``source`` and the mend."""
    missing = [name for name in COLUMNS if name not in scores]
    if missing:
        raise DfnbError(f"{source} lacks the columns {', '.join(missing)}; score the run again")

    def refuse(wrong: pd.Series, what: str, mend: str = "score the run again") -> None:
        if wrong.any():
            row = scores[wrong.to_numpy()].iloc[0]
            example = f"first: video {row.video}, track {row.track}, frame {row.frame}"
            raise DfnbError(f"{source} has {wrong.sum()} rows with {what} ({example}); {mend}")

    for name in COLUMNS[:-1]:
        refuse(scores[name].isna(), f"no {name}")
    refuse(~scores.score.between(0, 1), "a score that is NaN or outside [0, 1]", "score the run again, as P(fake)")
    prepare = "mend the label in frames.parquet (0 real, 1 fake) and score again"
    refuse(~scores.label.isin([0, 1]), "a label other than 0 and 1", prepare)
    refuse((scores.method == "real") != (scores.label == 0), "a label that contradicts the method", prepare)
    unique = "make video unique by method and name together and score again"
    refuse(scores.duplicated(KEY["frame"]), "a (video, track, frame) that was there before", unique)
    for name in ("label", "cluster"):
        several = scores.groupby("video", observed=True)[name].transform("nunique") > 1
        refuse(several, f"a video that has more than one {name}", unique)
    for name in (name for name in LOCALISATION if name in scores):
        wrong = scores[name].notna() & (~scores[name].between(0, 1) | (scores.label == 0))
        refuse(wrong, f"{name} outside [0, 1] or at a real frame")
    if scores.label.nunique() < 2:
        what = "no rows" if scores.empty else f"only {'fake' if scores.label.iloc[0] else 'real'} frames"
        raise DfnbError(f"{source} has {what}; score a test set that holds real and fake videos")
    return scores


def read_scores(path: Path) -> pd.DataFrame:
    """The scores table of a parquet file; raises :class:`DfnbError` where it is missing or unsound."""
    if not Path(path).exists():
        raise DfnbError(f"there is no {path}; score the run on this test set first")
    return check_scores(pd.read_parquet(path), path)


def read_other(path: Path, like: pd.DataFrame) -> pd.DataFrame:
    """The scores of another tool: CSV or parquet with ``video, label, score``, a row a frame (``frame``) or a video.

    ``like`` is a table of ours on the same test set, which says its videos, labels, clusters and methods. A column
    ``fingerprint``, where there is one, must be the dataset's (``like.attrs``). :class:`DfnbError` for anything else.
    """
    try:
        found = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"video": str})
        found = found.astype({"video": str, "label": float, "score": float})
    except (OSError, ValueError, KeyError) as error:
        what = f"cannot be read ({str(error.args[-1]).splitlines()[0]})"
        raise DfnbError(f"{path} {what}; it needs video, label (0 real, 1 fake) and score, as CSV or parquet") from None
    known = like.astype({"video": str}).drop_duplicates("video").set_index("video")[["cluster", "label", "method"]]
    odd, version = known.index.symmetric_difference(found["video"]), like.attrs.get("fingerprint")
    wrong = found["label"].to_numpy() != known["label"].reindex(found["video"]).to_numpy()
    for bad, what in (
        ("fingerprint" in found and (found["fingerprint"] != version).any(), f"is of another version than {version}"),
        (len(odd), f"and the test set do not have the same videos, {len(odd)} differ (first: {', '.join(odd[:1])})"),
        (wrong.any(), f"has {wrong.sum()} labels that are not the test set's, where 0 is real and 1 fake"),
    ):
        if bad:
            raise DfnbError(f"{path} {what}; score the test set as it is")
    table = found[["video", "score"]].join(known, on="video")
    table = table.assign(track=found.get("track", 0), frame=found.get("frame", -1))
    table.attrs = {"fingerprint": version, "file": str(path)}
    return check_scores(table, path)


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Check ``scores`` and write them as parquet, complete or not at all."""
    plain = check_scores(scores, path).copy()
    plain.attrs = {}  # where the frames lie is no part of the scores
    for name in plain.select_dtypes("category"):
        plain[name] = plain[name].cat.remove_unused_categories()
    with atomic(path) as temporary:
        plain.to_parquet(temporary, index=False, compression="zstd")


def units(scores: pd.DataFrame, level: Level) -> pd.DataFrame:
    """The frames, or one row a video with the mean score of its frames; sorted, so that row order changes nothing."""
    video = scores["video"]
    if isinstance(video.dtype, pd.CategoricalDtype) and not video.cat.categories.is_monotonic_increasing:
        scores = scores.assign(video=video.astype(str))  # or two tables of the same videos would be sorted differently
    frames = scores.sort_values(KEY["frame"], ignore_index=True)
    if level == "frame":
        if (frames["frame"] < 0).any():
            raise DfnbError(f"{scores.attrs.get('file', 'a score table')} has one score a video: no frame level")
        return frames
    videos = frames.drop_duplicates("video")[["video", "cluster", "label", "method"]]
    return videos.assign(score=frames.groupby("video", observed=True)["score"].mean().to_numpy()).reset_index(drop=True)


class _Design:
    """What follows from the label and the cluster of the n units alone: who is resampled with whom."""

    def __init__(self, label: np.ndarray, cluster: np.ndarray) -> None:
        self.label = np.asarray(label, bool)
        self.cluster, names = pd.factorize(np.asarray(cluster))
        self.clusters = len(names)
        self.holds = self.sums(np.ones(len(self.label))) > 0
        self.per_class = self.holds.sum(axis=1)
        self.scarcest = int(self.per_class[self.per_class > 0].min())
        # A fake and a real of one cluster are not independent: a pair takes two clusters.
        self.pairs = int(min(*self.per_class, self.clusters // 2))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Values (n,) summed by class, real first, and cluster: (2, clusters)."""
        return np.stack(
            [np.bincount(self.cluster, values * (self.label == fake), self.clusters) for fake in (False, True)]
        )

    def covariance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Covariance of two estimates from the influences (n,) of the units, which sum to 0 in each class.

        Obuchowski 1997, S10, S01 and S11 in one sum; NaN if a class has only one cluster.
        """
        if self.scarcest < 2:
            return float("nan")
        factor = np.full((2, 2), self.clusters / (self.clusters - 1))
        np.fill_diagonal(factor, self.per_class / np.maximum(self.per_class - 1, 1))
        return float((factor * (self.sums(a) @ self.sums(b).T)).sum())

    def interval(self, value: float, variance: float, confidence: float, independent: int) -> tuple[float, float]:
        """The interval of a value in [0, 1]; ``independent`` is the k of the module's head."""
        alpha = 1 - confidence
        if np.isnan(variance):
            return float("nan"), float("nan")
        if value in (0, 1):
            bound = (alpha / 2) ** (1 / independent)
            return (bound, 1.0) if value == 1 else (0.0, 1 - bound)
        half = t.ppf(1 - alpha / 2, self.scarcest - 1) * np.sqrt(variance) / (value * (1 - value))
        return float(expit(logit(value) - half)), float(expit(logit(value) + half))

    def resample(self, generator: np.random.Generator, replicates: int, times: float | None = None) -> np.ndarray:
        """Weights (replicates, clusters) of clusters drawn within strata; in one stratum if one has a lone cluster.

        So many ``times`` the clusters there are, each of weight 1, or one fewer than there are, weighted up.
        """
        stratum = self.holds[0] + 2 * self.holds[1]
        if 1 in np.bincount(stratum):
            stratum = np.zeros_like(stratum)
        weights = np.empty((replicates, self.clusters))
        for name in np.unique(stratum):
            k = np.count_nonzero(stratum == name)
            drawn, weight = (k - 1, k / (k - 1)) if times is None else (max(1, round(k * times)), 1)
            weights[:, stratum == name] = generator.multinomial(drawn, np.full(k, 1 / k), replicates) * weight
        return weights


def _auc(score: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """AUC, ties counting half, and each unit's influence (n,) on it: DeLong's components, found by ranks.

    Sun & Xu, IEEE Signal Processing Letters 21:1389, 2014, eq. 5-6.
    """
    fake, real, rank = score[label], score[~label], rankdata(score)
    component = np.empty(len(score))
    component[label] = (rank[label] - rankdata(fake)) / len(real)
    component[~label] = 1 - (rank[~label] - rankdata(real)) / len(fake)
    value = float(component[label].mean())
    return value, (component - value) / np.where(label, len(fake), len(real))


def _eer(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Where FPR = 1 - TPR on the ROC points (..., T) joined by lines."""
    excess = fpr + tpr - 1
    after = np.argmax(excess >= 0, axis=-1)[..., None]
    (x1, x0), (e1, e0) = (
        [np.take_along_axis(values, after - back, -1)[..., 0] for back in (0, 1)] for values in (fpr, excess)
    )
    return x0 + (x1 - x0) * e0 / (e0 - e1)


def _tpr_at(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> np.ndarray:
    """The highest TPR (...) of a threshold with FPR <= limit among the ROC points (..., T), nothing interpolated."""
    return np.max(np.where(fpr <= limit + 1e-9, tpr, 0), axis=-1)


def _curves(fake: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (B,) of B curves at once from the weights (B, T) that fakes and reals have at T scores, highest first.

    The same definitions as scikit-learn's, which is too slow for thousands of replicates or masks.
    """
    tp, fp = (np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0))) for weights in (fake, real))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = tp / tp[:, -1:], fp / fp[:, -1:]
        step = np.diff(fpr)
        inside = np.diff(np.minimum(fpr, 0.1))
        share = np.where(inside > 0, inside / step, 0)
        precision = np.where(tp + fp > 0, tp / (tp + fp), 0)
    partial = (inside * (tpr[:, :-1] + np.diff(tpr) * share / 2)).sum(axis=1)
    return {
        "AUC": (step * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2,
        "EER": _eer(fpr, tpr),
        "AP": (np.diff(tpr) * precision[:, 1:]).sum(axis=1),
        "pAUC at 10% FPR": (1 + (partial - 0.005) / (0.1 - 0.005)) / 2,
        "TPR at 1% FPR": _tpr_at(fpr, tpr, 0.01),
        "TPR at 5% FPR": _tpr_at(fpr, tpr, 0.05),
    }


def _bootstrap(score: np.ndarray, design: _Design, seed: int) -> dict[str, np.ndarray]:
    """Replicates (B,) of the curve metrics. With more distinct scores than MOST_THRESHOLDS, neighbours share one."""
    place = np.unique(-score, return_inverse=True)[1]
    distinct = int(place.max()) + 1
    thresholds = min(distinct, MOST_THRESHOLDS)
    cell = design.cluster * thresholds + place * thresholds // distinct
    real, fake = (
        np.bincount(cell, design.label == kind, design.clusters * thresholds).reshape(design.clusters, thresholds)
        for kind in (False, True)
    )
    weights = design.resample(rng(seed), REPLICATES)
    return _curves(weights @ fake, weights @ real)


def reliability(scores: pd.DataFrame, level: Level = "frame", bins: int = 10) -> pd.DataFrame:
    """The reliability curve: mean score, share of fakes and n of the equal bins of [0, 1] that are not empty."""
    data = units(scores, level)
    place = np.minimum((data.score * bins).astype(int), bins - 1)
    return data.groupby(place).agg(score=("score", "mean"), fake=("label", "mean"), n=("label", "size"))


def _mean(values: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """The mean of values (n,) and each unit's influence (n,) on it: the deviation from the mean of the unit's own class.

    ``weight`` (n,) of the units, in sum 1; all the same by default.
    """
    of_class = [values[label == fake].mean() if (label == fake).any() else 0 for fake in (False, True)]
    deviation = values - np.take(of_class, label.astype(int))
    return float(np.average(values, weights=weight)), deviation * (1 / len(values) if weight is None else weight)


class _Estimate(NamedTuple):
    metric: str
    value: float
    variance: float
    method: str
    design: _Design
    independent: int

    def row(self, level: Level, confidence: float) -> dict[str, Any]:
        """The tidy row of this estimate."""
        fakes = int(self.design.label.sum())
        low, high = self.design.interval(self.value, self.variance, confidence, self.independent)
        return {
            "metric": self.metric,
            "level": level,
            "value": self.value,
            "low": low,
            "high": high,
            "n": len(self.design.label),
            "n_real": len(self.design.label) - fakes,
            "n_fake": fakes,
            "clusters": self.design.clusters,
            "method_of_interval": self.method,
        }


def _linearised(metric: str, value: float, influence: np.ndarray, design: _Design) -> _Estimate:
    return _Estimate(metric, value, design.covariance(influence, influence), "linearised", design, design.clusters)


def _curve_estimates(score: np.ndarray, design: _Design, seed: int) -> list[_Estimate]:
    fpr, tpr, _ = roc_curve(design.label, score, drop_intermediate=False)
    values = {
        "EER": _eer(fpr, tpr),
        "AP": average_precision_score(design.label, score),
        "pAUC at 10% FPR": roc_auc_score(design.label, score, max_fpr=0.1),
        "TPR at 1% FPR": _tpr_at(fpr, tpr, 0.01),
        "TPR at 5% FPR": _tpr_at(fpr, tpr, 0.05),
    }
    replicates = _bootstrap(score, design, seed) if design.scarcest > 1 else {}
    estimates = []
    for metric, value in values.items():
        known = bool(replicates) and design.per_class[0] >= FEWEST_REAL.get(metric, 2)
        variance = float(np.nanvar(replicates[metric], ddof=1)) if known else float("nan")
        method = "bootstrap" if known else "none"
        estimates.append(_Estimate(metric, float(value), variance, method, design, design.pairs))
    return estimates


def metrics(scores: pd.DataFrame, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """All metrics of a sound scores table, one row each, in [0, 1]; lower is better for EER, Brier and ECE.

    Columns: ``metric, level, value, low, high, n, n_real, n_fake, clusters, method_of_interval``.

    At both levels: AUC; EER; AP; pAUC at 10 % FPR as scikit-learn's ``max_fpr=0.1`` gives it (McClish, Medical Decision
    Making 9:190, 1989: .5 for chance, 1 for perfect); TPR at 1 % and 5 % FPR; accuracy, where a score above .5 says
    fake, as the argmax of two logits does; Brier; ECE with 10 equal bins (Guo et al., ICML 2017, eq. 3). At frame
    level the mean of each localisation column there is, over the frames that have a value; n counts those.
    For one manipulation method pass its rows together with the real ones. ``seed`` feeds the bootstrap.
    A table of one score a video (:func:`read_other`) has the video level alone.
    """
    rows = []
    levels = ["video"] if (scores["frame"] < 0).any() else list(KEY)
    for level in levels:
        data = units(scores, level)
        score, label = data.score.to_numpy(float), data.label.to_numpy(bool)
        design = _Design(label, data.cluster)
        right = ((score > 0.5) == label).astype(float)
        curve = reliability(scores, level)
        ece = float(np.average((curve.score - curve.fake).abs(), weights=curve.n))
        estimates = [
            *_curve_estimates(score, design, seed),
            _linearised("accuracy", *_mean(right, label), design),
            _linearised("Brier", *_mean((score - label) ** 2, label), design),
            _Estimate("ECE", ece, float("nan"), "none", design, design.clusters),
        ]
        rows += [auc(scores, level, confidence)] + [estimate.row(level, confidence) for estimate in estimates]
    return pd.DataFrame([*rows, *(located(scores, confidence) if "frame" in levels else [])])


def located(scores: Tables, confidence: float = 0.95) -> list[dict[str, Any]]:
    """The localisation rows of :func:`metrics`; for the tables of several seeds on the same frames the means over them."""
    tables = [scores] if isinstance(scores, pd.DataFrame) else list(scores)
    known = [name for name in LOCALISATION if all(name in table and table[name].notna().any() for table in tables)]
    return [auc(tables, "frame", confidence, name) | {"metric": LOCALISATION[name]} for name in known]


def _measured(table: pd.DataFrame, metric: str) -> tuple[float, np.ndarray]:
    """The AUC, (balanced) accuracy or mean of a localisation column of units, and each unit's influence (n,) on it."""
    score, label = table["score"].to_numpy(float), table["label"].to_numpy(bool)
    if metric == "AUC":
        return _auc(score, label)
    if metric not in RATES:
        return _mean(table[metric].to_numpy(float), label)
    right = ((score > 0.5) == label).astype(float)
    balance = np.where(label, 0.5 / label.sum(), 0.5 / (~label).sum()) if metric == "balanced accuracy" else None
    return _mean(right, label, balance)


def _compared(
    *sides: Tables, level: Level, metric: str = "AUC"
) -> tuple[_Design, list[tuple[float, np.ndarray]], list[list[pd.DataFrame]]]:
    """The design that all tables share; metric and influences (n,) of each side, averaged over the side's tables."""
    lists = [[side] if isinstance(side, pd.DataFrame) else list(side) for side in sides]
    aligned = [[units(table, level).set_index(KEY[level]) for table in tables] for tables in lists]
    if metric not in RATES and any(metric not in table for tables in aligned for table in tables):
        raise DfnbError(f"a score table has no {metric}, at {level} level; compare detectors that localise, at frames")
    first = aligned[0][0]
    for table in [table for tables in aligned for table in tables][1:]:
        differing = () if first.index.equals(table.index) else first.index.symmetric_difference(table.index)
        if len(differing):
            what = f"{len(differing)} {level}s are in only one of them (first: {differing[0]})"
            raise DfnbError(f"two score tables cannot be compared, {what}; score both on the same test set")
        for name in ("label", "cluster"):
            if not np.array_equal(first[name], table[name]):
                raise DfnbError(f"two score tables cannot be compared, {name} differs; score both on the same test set")
    if metric not in RATES:  # only where all tables have a value: of an empty map some measures do not exist
        known = np.all([table[metric].notna() for tables in aligned for table in tables], axis=0)
        aligned = [[table[known] for table in tables] for tables in aligned]
        first = aligned[0][0]
    label = first.label.to_numpy(bool)
    found = [[_measured(table, metric) for table in side] for side in aligned]
    means = [(float(np.mean([v for v, _ in side])), np.mean([i for _, i in side], axis=0)) for side in found]
    return _Design(label, first.cluster), means, aligned


def auc(scores: Tables, level: Level = "video", confidence: float = 0.95, metric: str = "AUC") -> dict[str, Any]:
    """The AUC's row of :func:`metrics`. For the tables of several seeds on the same units: their mean AUC, with the
    interval over videos from their averaged influences. It says nothing of the spread over seeds: :func:`over_seeds`.
    ``metric`` may be one of :data:`RATES` or a column of values in [0, 1] instead, the latter at frame level.
    """
    design, [(value, influence)], _ = _compared(scores, level=level, metric=metric)
    variance = design.covariance(influence, influence)
    how = "delong" if metric == "AUC" else "linearised"
    return _Estimate(metric, value, variance, how, design, _independent(design, metric)).row(level, confidence)


def _independent(design: _Design, metric: str) -> int:
    return design.pairs if metric in ("AUC", "balanced accuracy") else design.clusters


def balanced_accuracy(scores: Tables, confidence: float = 0.95) -> dict[str, Any]:
    """The mean of the accuracies on real and on fake frames, as a row of :func:`metrics`: 1/2 for chance in any mixture."""
    return auc(scores, "frame", confidence, "balanced accuracy") | {"metric": "accuracy"}


def paired_difference(
    a: Tables, b: Tables, level: Level = "video", confidence: float = 0.95, metric: str = "AUC"
) -> dict[str, Any]:
    """AUC(a) - AUC(b) on the same units, either side a table or those of several seeds (their mean AUC).

    Returns ``a, b, value, low, high, p, n, clusters``: Wald interval and two-sided p with DeLong's clustered covariance
    and t with (clusters of the scarcer class - 1) degrees. An AUC of exactly 0 or 1 has no standard error: then the two models' own intervals are combined without their correlation (Newcombe,
    Statistics in Medicine 17:873, 1998, method 10) and p is NaN. Only videos vary here, not seeds. ``metric`` as for
    :func:`auc`. Raises :class:`DfnbError` when the tables do not hold the same units, labels and clusters.
    """
    design, [(auc_a, of_a), (auc_b, of_b)], _ = _compared(a, b, level=level, metric=metric)
    value, p = auc_a - auc_b, float("nan")
    if {auc_a, auc_b} & {0.0, 1.0}:
        (low_a, high_a), (low_b, high_b) = (
            design.interval(mean, design.covariance(of, of), confidence, _independent(design, metric))
            for mean, of in ((auc_a, of_a), (auc_b, of_b))
        )
        low = value - np.hypot(auc_a - low_a, high_b - auc_b)
        high = value + np.hypot(high_a - auc_a, auc_b - low_b)
    else:
        error, degrees = np.sqrt(design.covariance(of_a - of_b, of_a - of_b)), design.scarcest - 1
        half = t.ppf((1 + confidence) / 2, degrees) * error
        low, high = value - half, value + half
        p = 1.0 if abs(value) < 1e-12 else float(2 * t.sf(abs(value) / max(error, 1e-12), degrees))
    facts = {"n": len(design.label), "clusters": design.clusters}
    return {"a": auc_a, "b": auc_b, "value": value, "low": float(low), "high": float(high), "p": p, **facts}


def holm(p: Sequence[float]) -> np.ndarray:
    """The p values (m,) corrected for their number (Holm, Scandinavian Journal of Statistics 6:65, 1979).

    NaN stays NaN and counts as a comparison.
    """
    given = np.asarray(p, float)
    order = np.argsort(given)  # NaN last
    corrected = np.full(len(given), np.nan)
    corrected[order] = np.fmin(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return np.where(np.isnan(given), np.nan, corrected)


def power(
    a: Tables, b: Tables, difference: float = 0.01, wanted: float = 0.8, simulations: int = 1000, seed: int = 0
) -> pd.Series:
    """How many test videos it takes to see a difference in video AUC between two such detectors, by simulation.

    Clusters are drawn with replacement from those of the tables until there are n videos. The difference that is found,
    moved so that its mean is ``difference``, is seen where it is more than 1.96 of its deviations from zero. Power in
    [0, 1] by n, around the n at which the formula has the power ``wanted``.
    """
    design, [(_, of_a), (_, of_b)], sides = _compared(a, b, level="video")
    label, variance = design.label, design.covariance(of_a - of_b, of_a - of_b)
    if not variance > 0:
        raise DfnbError("two score tables do not differ, or are of one cluster: no sample size follows; compare others")
    wins = 0.0
    for table, share in ((table, sign / len(side)) for sign, side in zip((1, -1), sides) for table in side):
        score = table["score"].to_numpy(float)
        wins = wins + share * (1 + np.sign(score[label][:, None] - score[~label])) / 2
    enough = variance * ((norm.ppf(0.975) + norm.ppf(wanted)) / difference) ** 2
    rows = {}
    for part, factor in enumerate((0.25, 0.5, 1, 2)):
        weights = design.resample(rng("power", seed, part), simulations, factor * enough)
        fakes, reals = (weights[:, design.cluster[label == kind]] for kind in (True, False))
        found = ((fakes @ wins) * reals).sum(1) / (fakes.sum(1) * reals.sum(1))
        seen = np.abs(found - found.mean() + difference) > 1.96 * found.std()
        rows[round(factor * enough * len(label))] = np.mean(seen)
    return pd.Series(rows, name="power").rename_axis("videos")


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval as tables print it, ``0.853 [0.812, 0.889]``; alone where there is no interval."""
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Mean, standard deviation (n - 1) and t interval over seeds: ``mean, sd, low, high, n``; NaN from one value."""
    of_seed = np.asarray(values, float)
    n = len(of_seed)
    sd = float(of_seed.std(ddof=1)) if n > 1 else float("nan")
    half = float(t.ppf((1 + confidence) / 2, n - 1) * sd / n**0.5) if n > 1 else float("nan")
    mean = float(of_seed.mean())
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def chance(scores: pd.DataFrame) -> bool:
    """Whether nothing shows that the run left chance: the 95 % interval of its video AUC holds .5, or there is none."""
    row = auc(scores, "video")
    return not (row["low"] > 0.5 or row["high"] < 0.5)


def localisation(probability: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """How well a map finds the forged pixels of one frame; the keys are those of :data:`LOCALISATION`, and ``best_iou``, all in [0, 1].

    ``probability`` (h, w) in [0, 1], resized to the mask bilinearly; ``mask`` (H, W), non-zero where forged.
    IoU of the pixels above .5, and the best of any threshold; pixel AUC and AP; pointing game, whether the highest pixel is forged (Zhang et al., ECCV
    2016; tied pixels share the hit); energy, the share of the map's sum on forged pixels (Wang et al., CVPR-W 2020,
    sec. 4.2; the forged share of the frame for an empty map). So a constant map scores what chance does.
    A mask without forged pixels gives NaN throughout, a full one NaN for pixel AUC and 1 for AP, pointing and energy.
    Raises :class:`DfnbError` for a map with NaN or values outside [0, 1].
    """
    if not (np.min(probability) >= 0 and np.max(probability) <= 1):
        raise DfnbError("a localisation map has NaN or values outside [0, 1]; pass it through a sigmoid or a softmax")
    forged = np.asarray(mask, bool)
    if not forged.any():
        return dict.fromkeys([*LOCALISATION, "best_iou"], float("nan"))
    size = forged.shape[::-1]
    # Rounded, since the noise of float32 interpolation would break ties, differently on each machine.
    resized = cv2.resize(np.asarray(probability, np.float32), size, interpolation=cv2.INTER_LINEAR).round(6)
    levels, place = np.unique(-resized.ravel(), return_inverse=True)
    fake, real = (np.bincount(place, forged.ravel() == kind, len(levels))[None] for kind in (True, False))
    curves = _curves(fake, real)
    total = float(resized.sum(dtype=float))
    return {
        "iou": float(((resized > 0.5) & forged).sum() / ((resized > 0.5) | forged).sum()),
        "pixel_auc": float(curves["AUC"][0]),
        "pixel_ap": float(curves["AP"][0]),
        "pointing": float(forged[resized == resized.max()].mean()),
        "energy": float(resized[forged].sum(dtype=float) / total if total else forged.mean()),
        "best_iou": float((fake.cumsum() / (forged.sum() + real.cumsum())).max()),
    }
