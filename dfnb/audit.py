"""What would make a result on a dataset worthless: leaks between splits, and shortcuts that give the label away."""

import cv2
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfnb import evaluate
from dfnb.frames import Pixels

BORDER = 4  # pixels at each edge of the crop
JPEG_QUALITY = 75


def audit(frames: pd.DataFrame) -> pd.Series:
    """Checks of a frames table: counts that must all be zero, then the share of fake frames by split.

    People count as shared when they appear in two splits as target or as donor.
    """
    text = frames[["split", "video", "identity", "source", "cluster"]].astype(str)
    people = pd.concat([text[["split", "identity"]], text[["split", "source"]].set_axis(["split", "identity"], axis=1)])
    people = people[people["identity"] != ""]
    fakes = frames["label"] == 1
    counts = {
        "people in more than one split": _shared(people, "identity"),
        "clusters in more than one split": _shared(text, "cluster"),
        "videos in more than one split": _shared(text, "video"),
        "frames listed twice": int(frames.duplicated(["video", "track", "frame"]).sum()),
        "videos with both labels": int((frames.groupby("video", observed=True)["label"].nunique() > 1).sum()),
        "fake frames without a mask": int((frames["mask"].astype(str)[fakes] == "").sum()),
    }
    shares = fakes.groupby(frames["split"], observed=True).mean()
    found = counts | {f"share of fake frames, {split}": f"{value:.2f}" for split, value in shares.items()}
    return pd.Series(found, name="found").rename_axis("check")


def _shared(table: pd.DataFrame, column: str) -> int:
    return int((table.groupby(column)["split"].nunique() > 1).sum())


def features(frames: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a shortcut could hang on, per frame: border pixels (n, d), colour statistics (n, 6), compressed size (n, 1)."""
    pixels = Pixels(frames.attrs["folder"])
    border, colour, size = [], [], []
    for path, row in zip(frames["path"], frames["row"]):
        crop = pixels.crop(path, row)
        inner = np.ones(crop.shape[:2], bool)
        inner[BORDER:-BORDER, BORDER:-BORDER] = False
        border.append(crop[inner][::3].ravel())
        colour.append([*crop.mean((0, 1)), *crop.std((0, 1))])
        size.append([len(cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])])
    return {
        "border pixels": np.asarray(border, np.float32),
        "colour statistics": np.asarray(colour, np.float32),
        "compressed size": np.asarray(size, np.float32),
    }


def shortcuts(frames: pd.DataFrame) -> pd.DataFrame:
    """Frame AUC with its 95 % interval of a logistic regression on each of :func:`features`, cross-validated by cluster.

    Where the upper limit is low, the label cannot be told without looking at the face.
    """
    groups, label = frames["cluster"].astype(str).to_numpy(), frames["label"].to_numpy().astype(int)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    rows = {}
    for name, values in features(frames).items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        score = cross_val_predict(model, values, label, groups=groups, cv=folds, method="predict_proba")[:, 1]
        columns = frames[["video", "track", "frame", "cluster", "label", "method"]].reset_index(drop=True)
        row = evaluate.auc(columns.assign(score=score.astype(float)), "frame")
        cell = evaluate.interval(row["value"], row["low"], row["high"])
        rows[name] = {"frame AUC": cell, "n frames": row["n"], "clusters": row["clusters"]}
    return pd.DataFrame(rows).T.rename_axis("a linear classifier on")
