"""What would make a result on a dataset worthless: leaks between splits, and shortcuts that give the label away."""

import itertools

import cv2
import numpy as np
import pandas as pd
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfnb.data.frames import Pixels

BORDER = 4  # pixels at each edge of the crop
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 75]
MOST = 4000  # frames that the probes look at, evenly spaced over the table
HASHED = 3  # frames of a video that are compared with those of other splits
WAVES = 16  # a hash has 16² - 1 bits
NEAR = 24  # bits in which two frames of one scene may differ
GIVEN_AWAY = 0.55  # AUC: a shortcut when the whole interval is above, or for a single value below 1 - GIVEN_AWAY
CLEAR = 0.65  # no shortcut in sight when the whole interval lies between 1 - CLEAR and CLEAR
FOLDS = 10  # of clusters
TOO_FEW = "too few videos to tell"


def audit(frames: pd.DataFrame) -> pd.Series:
    """Checks of a frames table: counts that must all be zero, then the share of fake frames by split.

    People count as shared when they appear in two splits as target or as donor.
    """
    text = frames[["split", "video", "identity", "source", "cluster"]].astype(str).drop_duplicates()
    donors = text[["split", "source"]].set_axis(["split", "identity"], axis=1)
    people = pd.concat([text[["split", "identity"]], donors])
    fakes = frames["label"] == 1
    findings: dict[str, int | str] = {
        "people in more than one split": _shared(people[people["identity"] != ""], "identity"),
        "clusters in more than one split": _shared(text, "cluster"),
        "videos in more than one split": _shared(text, "video"),
        "videos that look like one of another split": duplicates(frames)["video"].nunique(),
        "frames listed twice": int(frames.duplicated(["video", "track", "frame"]).sum()),
        "videos with both labels": int((frames.groupby("video", observed=True)["label"].nunique() > 1).sum()),
        "fake frames without a mask": int((frames["mask"].astype(str)[fakes] == "").sum()),
    }
    for split, share in fakes.groupby(frames["split"], observed=True).mean().items():
        findings[f"share of fake frames, {split}"] = f"{share:.2f}"
    return pd.Series(findings, name="found").rename_axis("check")


def _shared(table: pd.DataFrame, column: str) -> int:
    return int((table.groupby(column)["split"].nunique() > 1).sum())


def duplicates(frames: pd.DataFrame) -> pd.DataFrame:
    """Pairs of videos in different splits that show nearly the same: ``video, split, other, other_split, distance``.

    A frame's hash is the sign, about their median, of the lowest 16 by 16 cosine waves of its brightness, after Zauner
    (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), which has 8 by 8. ``distance`` is the smallest
    number of bits in which any of a few frames of the two differ. A mirrored or strongly shifted copy is not found.
    """
    tracks = frames.groupby(["video", "track"], observed=True)["row"]
    place, step = tracks.cumcount(), (tracks.transform("size") // HASHED).clip(lower=1)
    few = frames[(place % step == 0) & (place // step < HASHED)].astype({"video": str, "split": str})
    pixels = Pixels(frames.attrs["folder"])
    bits = np.array([_bits(pixels.crop(path, row)) for path, row in zip(few["path"], few["row"])], np.float32)
    names, pairs = ["video", "split", "other", "other_split", "distance"], []
    for one, other in itertools.combinations(sorted(set(few["split"])), 2):
        ours, theirs = np.flatnonzero(few["split"] == one), np.flatnonzero(few["split"] == other)
        for part in np.array_split(ours, len(ours) // 256 + 1):
            distance = (bits.shape[1] - bits[part] @ bits[theirs].T) / 2
            i, j = np.nonzero(distance <= NEAR)
            videos = few["video"].to_numpy()[part[i]], one, few["video"].to_numpy()[theirs[j]], other
            pairs.append(pd.DataFrame(dict(zip(names, [*videos, distance[i, j].astype(int)]))))
    table = pd.concat(pairs) if pairs else pd.DataFrame(columns=names)
    return table.groupby(names[:4], as_index=False)["distance"].min()


def _bits(crop: np.ndarray) -> np.ndarray:
    """The hash of a crop (H, W, 3) as (255,) of -1 and 1."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(grey.astype(np.float32))[:WAVES, :WAVES].ravel()[1:]
    return np.where(waves > np.median(waves), 1, -1)


def features(frames: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a shortcut could hang on, per frame: border pixels (n, d), mean and deviation of the colours (n, 6), place and
    size (n, 6: height and width of the crop, its borders in source pixels, 0 where unknown), and single values (n, 1)."""
    pixels, rows = Pixels(frames.attrs["folder"]), []
    for path, row, box in zip(frames["path"], frames["row"], frames["crop_box"]):
        crop = pixels.crop(path, row)
        place = [*crop.shape[:2], *([0] * 4 if box is None or box is pd.NA else box)]
        if rows:  # images used in place may differ in size
            crop = cv2.resize(crop, tuple(rows[0][2][1::-1]), interpolation=cv2.INTER_AREA)
        rim = np.pad(np.zeros(np.subtract(crop.shape[:2], 2 * BORDER), bool), BORDER, constant_values=True)
        size = len(cv2.imencode(".jpg", crop[..., ::-1], JPEG)[1])
        rows.append((crop[rim][::3].ravel(), [*crop.mean((0, 1)), *crop.std((0, 1))], place, [size]))
    border, colour, place, size = (np.array(values, np.float32) for values in zip(*rows))
    values = {"border pixels": border, "colour statistics": colour, "place and size": place}
    values |= {"brightness": colour[:, :3].mean(1, keepdims=True), "contrast": colour[:, 3:].mean(1, keepdims=True)}
    return values | {"compressed size": size, "face scale, source pixels": place[:, [4]] - place[:, [2]]}


def shortcuts(frames: pd.DataFrame) -> pd.DataFrame:
    """What tells the label without looking at the face: frame AUC with its 95 % interval, and a verdict.

    Of the :func:`features`, a logistic regression on those with several columns, fitted to the clusters of the other
    folds; single values alone, with their medians among real and fake frames. The AUC is the mean over :data:`FOLDS` folds
    of clusters, with a t interval over them. The label is ``given away`` where the interval excludes chance clearly
    (:data:`GIVEN_AWAY`; a single value may also be lower on fakes), and ``nothing in sight`` where it is narrow about
    chance (:data:`CLEAR`); else, and with fewer than two clusters of a class per fold, there are too few videos.
    """
    seen = frames.iloc[:: max(1, len(frames) // MOST)].reset_index(drop=True)
    label, cluster = seen["label"].to_numpy().astype(int), seen["cluster"].astype(str).to_numpy()
    folds, rows = [], {}
    if min(len(set(cluster[label == i])) for i in (0, 1)) >= 2 * FOLDS:
        folds = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(label, label, cluster))
    labels = [label[fold] for _, fold in folds]
    for name, x in features(seen).items():
        if x.shape[1] > 1:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
            scores = [model.fit(x[rest], label[rest]).decision_function(x[fold]) for rest, fold in folds]
            rows[f"a linear classifier on {name}"] = _judged(scores, labels)
        else:
            row = _judged([x[fold, 0] for _, fold in folds], labels, either_way=True)
            medians = pd.Series(x[:, 0]).groupby(label).median().round(1)
            rows[f"{name} alone"] = row | medians.rename({0: "median of real", 1: "median of fake"}).to_dict()
    columns = {"n frames": len(seen), "clusters": len(set(cluster))}
    return pd.DataFrame(rows).T.assign(**columns).fillna("–").rename_axis("the label by")


def _judged(scores: list[np.ndarray], labels: list[np.ndarray], either_way: bool = False) -> dict[str, str]:
    """AUC of the scores by fold, with its interval, and the verdict."""
    if not scores:
        return {"frame AUC": "–", "verdict": TOO_FEW}
    areas = [roc_auc_score(label, score) for label, score in zip(labels, scores)]
    auc, half = np.mean(areas), t.ppf(0.975, FOLDS - 1) * np.std(areas, ddof=1) / np.sqrt(FOLDS)
    low, high = max(auc - half, 0), min(auc + half, 1)
    verdict = "nothing in sight" if low > 1 - CLEAR and high < CLEAR else TOO_FEW
    if low > GIVEN_AWAY or (either_way and high < 1 - GIVEN_AWAY):
        verdict = "given away"
    return {"frame AUC": f"{auc:.3f} [{low:.3f}, {high:.3f}]", "verdict": verdict}
