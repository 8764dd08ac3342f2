"""What would make a result on a dataset worthless: leaks between splits, and shortcuts that give the label away."""

import itertools

import cv2
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfnb import metrics
from dfnb.data.frames import Pixels

BORDER = 4  # pixels at each edge of the crop
JPEG_QUALITY = 75
MOST = 4000  # frames that the probes look at, evenly spaced over the table
HASHED = 3  # frames of a video that are compared with those of other splits
WAVES = 16  # a hash has 16² - 1 bits
NEAR = 24  # bits in which two frames of one scene may differ
GIVEN_AWAY = 0.55  # AUC: a shortcut when the whole interval is above
CLEAR = 0.65  # and none in sight when it is below
FOLDS = 5  # of the cross-validation; with fewer clusters of a class there is none
TOO_FEW = "too few videos to tell"


def audit(frames: pd.DataFrame) -> pd.Series:
    """Checks of a frames table: counts that must all be zero, then the share of fake frames by split.

    People count as shared when they appear in two splits as target or as donor.
    """
    text = frames[["split", "video", "identity", "source", "cluster"]].astype(str).drop_duplicates()
    people = pd.concat([text[["split", "identity"]], text[["split", "source"]].set_axis(["split", "identity"], axis=1)])
    people = people[people["identity"] != ""]
    fakes = frames["label"] == 1
    counts = {
        "people in more than one split": _shared(people, "identity"),
        "clusters in more than one split": _shared(text, "cluster"),
        "videos in more than one split": _shared(text, "video"),
        "videos that look like one of another split": len(set(duplicates(frames)["video"])),
        "frames listed twice": int(frames.duplicated(["video", "track", "frame"]).sum()),
        "videos with both labels": int((frames.groupby("video", observed=True)["label"].nunique() > 1).sum()),
        "fake frames without a mask": int((frames["mask"].astype(str)[fakes] == "").sum()),
    }
    shares = fakes.groupby(frames["split"], observed=True).mean()
    found = counts | {f"share of fake frames, {split}": f"{value:.2f}" for split, value in shares.items()}
    return pd.Series(found, name="found").rename_axis("check")


def _shared(table: pd.DataFrame, column: str) -> int:
    return int((table.groupby(column)["split"].nunique() > 1).sum())


def duplicates(frames: pd.DataFrame) -> pd.DataFrame:
    """Pairs of videos in different splits that show nearly the same: ``video, split, other, other_split, distance``.

    A frame's hash is the sign, about their median, of the lowest 16 by 16 cosine waves of its brightness, after Zauner
    (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), which has 8 by 8. ``distance`` is the smallest
    number of bits in which any of a few frames of the two differ. A mirrored or strongly shifted copy is not found.
    """
    place = frames.groupby(["video", "track"], observed=True).cumcount()
    n = frames.groupby(["video", "track"], observed=True)["row"].transform("size")
    step = (n // HASHED).clip(lower=1)
    few = frames[(place % step == 0) & (place // step < HASHED) & (frames["split"].nunique() > 1)]
    pixels = Pixels(frames.attrs["folder"])
    bits = np.array([_bits(pixels.crop(path, row)) for path, row in zip(few["path"], few["row"])], np.float32)
    video, split = few["video"].astype(str).to_numpy(), few["split"].astype(str).to_numpy()
    found: dict[tuple, int] = {}
    for one, other in itertools.combinations(sorted(set(split)), 2):
        ours, theirs = np.flatnonzero(split == one), np.flatnonzero(split == other)
        for start in range(0, len(ours), 256):
            part = ours[start : start + 256]
            apart = (bits.shape[1] - bits[part] @ bits[theirs].T) / 2
            for i, j in np.argwhere(apart <= NEAR):
                key = video[part[i]], one, video[theirs[j]], other
                found[key] = min(int(apart[i, j]), found.get(key, WAVES**2))
    names = ["video", "split", "other", "other_split", "distance"]
    return pd.DataFrame([(*key, distance) for key, distance in sorted(found.items())], columns=names)


def _bits(crop: np.ndarray) -> np.ndarray:
    """The hash of a crop (H, W, 3) as (255,) of -1 and 1."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(grey.astype(np.float32))[:WAVES, :WAVES].ravel()[1:]
    return np.where(waves > np.median(waves), 1, -1)


def features(frames: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a shortcut could hang on, per frame: border pixels (n, d), colour statistics (n, 6), compressed size (n, 1),
    and place and size (n, 6): height and width of the crop, its four borders in source pixels; 0 where unknown."""
    pixels = Pixels(frames.attrs["folder"])
    border, colour, size, shapes = [], [], [], []
    for path, row in zip(frames["path"], frames["row"]):
        crop = pixels.crop(path, row)
        shapes.append(crop.shape[:2])
        if shapes[-1] != shapes[0]:  # images used in place
            crop = cv2.resize(crop, shapes[0][::-1], interpolation=cv2.INTER_AREA)
        inner = np.ones(crop.shape[:2], bool)
        inner[BORDER:-BORDER, BORDER:-BORDER] = False
        border.append(crop[inner][::3].ravel())
        colour.append([*crop.mean((0, 1)), *crop.std((0, 1))])
        size.append([len(cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])])
    boxes = [[0] * 4 if box is None or box is pd.NA else box for box in frames["crop_box"]]
    return {
        "border pixels": np.asarray(border, np.float32),
        "colour statistics": np.asarray(colour, np.float32),
        "compressed size": np.asarray(size, np.float32),
        "place and size": np.column_stack([shapes, boxes]).astype(np.float32),
    }


def shortcuts(frames: pd.DataFrame) -> pd.DataFrame:
    """What tells the label without looking at the face: frame AUC with its 95 % interval, and a verdict.

    First of a logistic regression on each of :func:`features`, cross-validated by cluster; then of single values alone,
    with their medians among real and fake frames. The label is ``given away`` where the interval excludes chance clearly
    (:data:`GIVEN_AWAY`), nothing is ``in sight`` where it is narrow and low (:data:`CLEAR`); else there are too few videos.
    """
    seen = frames.iloc[:: max(1, len(frames) // MOST)].reset_index(drop=True)
    groups, label = seen["cluster"].astype(str).to_numpy(), seen["label"].to_numpy().astype(int)
    least = min(len(set(groups[label == i])) for i in (0, 1))
    folds, rows, values = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0), {}, features(seen)
    for name, x in values.items():
        rows[f"a linear classifier on {name}"] = {"verdict": TOO_FEW}
        if least < FOLDS:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        score = cross_val_predict(model, x, label, groups=groups, cv=folds, method="predict_proba")[:, 1]
        rows[f"a linear classifier on {name}"] = _row(seen, score)
    colour, size, place = (values[name] for name in ("colour statistics", "compressed size", "place and size"))
    alone = {"brightness": colour[:, :3].mean(1), "contrast": colour[:, 3:].mean(1), "compressed size": size[:, 0]}
    alone["face scale, source pixels"] = place[:, 4] - place[:, 2]
    for name, x in alone.items():
        medians = {f"median of {who}": f"{np.median(x[label == i]):.1f}" for i, who in enumerate(("real", "fake"))}
        rows[f"{name} alone"] = (_row(seen, x, alone=True) if least > 1 else {"verdict": TOO_FEW}) | medians
    return pd.DataFrame(rows).T.fillna("–").rename_axis("the label by")


def _row(frames: pd.DataFrame, score: np.ndarray, alone: bool = False) -> dict:
    columns = frames[["video", "track", "frame", "cluster", "label", "method"]]
    row = metrics.auc(columns.assign(score=score.astype(float)), "frame")
    low, high = row["low"], row["high"]
    if alone:  # a value that is lower on fakes gives them away as well
        low, high = max(low, 1 - high), max(high, 1 - low)
    clear = low > 1 - CLEAR and high < CLEAR
    verdict = "given away" if low > GIVEN_AWAY else "nothing in sight" if clear else TOO_FEW
    cell = metrics.interval(row["value"], row["low"], row["high"])
    return {"frame AUC": cell, "n frames": row["n"], "clusters": row["clusters"], "verdict": verdict}
