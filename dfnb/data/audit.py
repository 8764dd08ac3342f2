"""What would make a result on a dataset worthless: leaks between splits, and shortcuts.

A shortcut predicts the label without looking at the face, such as a border of fakes alone.
"""

from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.neighbors import radius_neighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfnb.data.frames import Pixels, thinned

HASHED_FRAMES = 3  # of a video, compared with those of other splits and datasets
WAVES = 16  # cosine waves per direction; a hash has 16² - 1 bits
MOST_BITS = 24  # in which the hashes of two frames of one scene may differ
PROBED_FRAMES = 4000  # frames that the shortcut probes look at, evenly spaced over the table
BORDER = 4  # pixels at each edge of the crop
JPEG_QUALITIES = (50, 75, 95)  # the sizes of the files show how much detail there is
FOLDS = 10  # of clusters
SHORTCUT_AUC = 0.55  # a shortcut when the whole interval lies above
CLEAR_AUC = 0.65  # nothing in sight when the whole interval lies below, and above 1 - CLEAR_AUC
TOO_FEW = "too few videos to tell"

Folds = list[tuple[np.ndarray, np.ndarray]]  # rows to fit and rows to score; [] where too few


# ---------------------------------------------------------------- leaks


def audit(frames: pd.DataFrame) -> pd.Series:
    """Checks of a frames table: counts that must be zero, then the share of fake frames per split.

    A person is shared between splits who appears in both, as target or as donor.
    """
    columns = ["split", "video", "identity", "source", "cluster"]
    videos = frames[columns].astype(str).drop_duplicates()
    people = videos.melt("split", ["identity", "source"], value_name="person")
    people = people[people["person"] != ""]
    is_fake = frames["label"] == 1
    has_mask = frames["mask"].astype(str) != ""
    labels = frames.groupby("video", observed=True)["label"].nunique()
    checks = {
        "people in more than one split": _shared(people, "person"),
        "clusters in more than one split": _shared(videos, "cluster"),
        "videos in more than one split": _shared(videos, "video"),
        "videos that look like one of another split": duplicates(frames)["video"].nunique(),
        "frames listed twice": int(frames.duplicated(["video", "track", "frame"]).sum()),
        "videos with both labels": int((labels > 1).sum()),
        "fake frames without a mask": int((is_fake & ~has_mask).sum()),
    }
    shares = is_fake.groupby(frames["split"].astype(str)).mean()
    for split, share in shares.items():
        checks[f"share of fake frames, {split}"] = f"{share:.2f}"
    return pd.Series(checks, name="found", dtype=object).rename_axis("check")


def _shared(table: pd.DataFrame, column: str) -> int:
    """How many values of a column appear in more than one split."""
    splits = table.groupby(column)["split"].nunique()
    return int((splits > 1).sum())


def between(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """What the test split of one dataset shares with training and validation of another.

    People are compared by name, as target or donor, and only when the records of both datasets name
    the same numbering of ``people`` (the manifest states it): most datasets number their people for
    themselves, so "000" of one is not "000" of another. Otherwise their count is "–", and only the
    videos that look alike (:func:`duplicates`) count.
    """
    training = train[train["split"] != "test"]
    testing = test[test["split"] == "test"]
    people: Any = "–"
    numbering = train.attrs["record"].get("people")
    if numbering and numbering == test.attrs["record"].get("people"):
        people = len(_people(training) & _people(testing))
    alike = duplicates(training, testing)["other_video"].nunique()
    return {"people of the same name": people, "videos that look alike": alike}


def _people(frames: pd.DataFrame) -> set[str]:
    return {*frames["identity"].unique(), *frames["source"].unique()} - {""}


def duplicates(*tables: pd.DataFrame) -> pd.DataFrame:
    """Pairs of videos that show nearly the same: video, split, other_video, other_split, distance.

    The pairs are in different splits of one frames table, or in different tables where there are
    several. ``distance`` is the number of bits in which the hashes of the most similar frames
    differ. A mirrored or strongly shifted copy is not detected.
    """
    parts = []
    for number, table in enumerate(tables):
        part = _hashes(table)
        part["part"] = number if len(tables) > 1 else part["split"]
        parts.append(part)
    videos = pd.concat(parts, ignore_index=True)
    bits = np.stack(videos.pop("bits")).astype(np.float32)
    # The squared Euclidean distance of two vectors of bits is the number of bits that differ.
    near = radius_neighbors_graph(bits, np.sqrt(MOST_BITS + 0.5), mode="distance").tocoo()
    pairs = videos.iloc[near.row].reset_index(drop=True)
    others = videos.iloc[near.col].reset_index(drop=True)
    pairs = pairs.join(others.add_prefix("other_"))
    pairs["distance"] = (near.data**2).round().astype(int)
    pairs = pairs[pairs["part"] < pairs["other_part"]]
    columns = ["video", "split", "other_video", "other_split"]
    return pairs.groupby(columns, as_index=False)["distance"].min()


def _hashes(frames: pd.DataFrame) -> pd.DataFrame:
    """The hashes of a few frames of each video: ``video, split, bits``."""
    few = thinned(frames, HASHED_FRAMES)
    pixels = Pixels(frames.attrs["folder"])
    hashes = []
    for path, row in zip(few["path"], few["row"]):
        hashes.append(_hash(pixels.crop(path, row)))
    return few[["video", "split"]].astype(str).assign(bits=hashes)


def _hash(crop: np.ndarray) -> np.ndarray:
    """The perceptual hash (255,) bool of a crop (H, W, 3).

    The bits say which of the lowest 16 by 16 cosine waves of the brightness are above their median,
    after Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), who
    takes 8 by 8.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(grey.astype(np.float32))
    waves = waves[:WAVES, :WAVES].ravel()[1:]  # without the first, the mean brightness
    return waves > np.median(waves)


# ---------------------------------------------------------------- shortcuts


def shortcuts(frames: pd.DataFrame) -> pd.DataFrame:
    """How well the label is predicted without looking at the face: frame AUC, and a verdict.

    Of the :func:`features`, those with several columns are judged by a logistic regression fitted
    to the clusters of the other folds. A single value is judged by itself, with its medians among
    real and fake frames. The AUC is the mean over ten folds of clusters, with a 95 % t interval
    over them. There are too few videos when a class has fewer than two clusters per fold.
    """
    step = max(1, len(frames) // PROBED_FRAMES)
    probed = frames.iloc[::step]
    label = probed["label"].to_numpy()
    cluster = probed["cluster"].astype(str).to_numpy()
    folds = _folds(label, cluster)
    rows = {}
    for name, values in features(probed).items():
        row = _judged(values, label, folds)
        if values.shape[1] == 1:
            single = pd.Series(values[:, 0], dtype=float)
            medians = single.groupby(label).median().round(1)
            row["median of real"] = medians.get(0)
            row["median of fake"] = medians.get(1)
        rows[name] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "the label by"
    table["n frames"] = len(probed)
    table["clusters"] = len(np.unique(cluster))
    return table.astype(object).fillna("–")


def features(frames: pd.DataFrame) -> dict[str, np.ndarray]:
    """What could predict the label without the face, by name: (n frames, columns) float32."""
    pixels = Pixels(frames.attrs["folder"])
    border, colour, place, sizes = [], [], [], []
    common_size = None
    boxes = frames["crop_box"]
    for path, row, box, has_box in zip(frames["path"], frames["row"], boxes, boxes.notna()):
        crop = pixels.crop(path, row)
        corners = box if has_box else (0, 0, 0, 0)
        place.append([*crop.shape[:2], *corners])
        # Images that are used in place may differ in size: all get that of the first one.
        common_size = common_size or crop.shape[1::-1]
        crop = cv2.resize(crop, common_size, interpolation=cv2.INTER_AREA)
        border.append(_border(crop))
        mean = crop.mean(axis=(0, 1))
        deviation = crop.std(axis=(0, 1))
        colour.append([*mean, *deviation])
        sizes.append([_jpeg_size(crop, quality) for quality in JPEG_QUALITIES])
    lists = (border, colour, place, sizes)
    border, colour, place, sizes = [np.array(values, np.float32) for values in lists]
    return {
        "a linear classifier on border pixels": border,
        "a linear classifier on colour statistics": colour,
        "a linear classifier on place and size": place,
        "a linear classifier on three file sizes": sizes,
        "brightness alone": colour[:, :3].mean(1, keepdims=True),
        "contrast alone": colour[:, 3:].mean(1, keepdims=True),
        "compressed size alone": sizes[:, [1]],
        "face scale, source pixels alone": place[:, [4]] - place[:, [2]],
    }


def _border(crop: np.ndarray) -> np.ndarray:
    """The channels of every third pixel along the edges of a crop."""
    rim = np.ones(crop.shape[:2], bool)
    rim[BORDER:-BORDER, BORDER:-BORDER] = False
    return crop[rim][::3].ravel()


def _jpeg_size(crop: np.ndarray, quality: int) -> int:
    """Bytes of a crop (H, W, 3) RGB as JPEG."""
    bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return len(encoded)


def _folds(label: np.ndarray, cluster: np.ndarray) -> Folds:
    for value in (0, 1):
        if len(np.unique(cluster[label == value])) < 2 * FOLDS:
            return []
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    return list(splitter.split(label, label, cluster))


def _judged(values: np.ndarray, label: np.ndarray, folds: Folds) -> dict[str, Any]:
    """The AUC of values (n, d) over the folds with its interval, and the verdict."""
    if not folds:
        return {"frame AUC": "–", "verdict": TOO_FEW}
    single = values.shape[1] == 1
    if single:
        areas = [roc_auc_score(label[scored], values[scored]) for _, scored in folds]
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        areas = cross_val_score(model, values, label, cv=folds, scoring="roc_auc")
    auc = np.mean(areas)
    error = np.std(areas, ddof=1) / np.sqrt(FOLDS)
    half = t.ppf(0.975, FOLDS - 1) * error
    low = max(auc - half, 0)
    high = min(auc + half, 1)
    verdict = _verdict(low, high, single)
    return {"frame AUC": f"{auc:.3f} [{low:.3f}, {high:.3f}]", "verdict": verdict}


def _verdict(low: float, high: float, single: bool) -> str:
    """What an interval of the AUC means; a single value may also be lower on fakes."""
    if low > SHORTCUT_AUC or (single and high < 1 - SHORTCUT_AUC):
        return "given away"
    if 1 - CLEAR_AUC < low <= 0.5 <= high < CLEAR_AUC:
        return "nothing in sight"
    if low > 0.5 or high < 0.5:
        return "slight"
    return TOO_FEW
