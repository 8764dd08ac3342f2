"""Checks for flaws that make results worthless: leaks between splits, and shortcuts.

A shortcut is anything that predicts the label without the face, such as a border that only fakes
have.
"""

import re
from collections.abc import Mapping

import cv2
import numpy as np
import pandas as pd

from dfnb.data.codecs import jpeg_file
from dfnb.data.frames import read_crop
from dfnb.data.listings import SPLITS

# Shortcuts are looked for in at least so many frames and up to twice as many, or in all of a
# smaller dataset.
PROBED_FRAMES = 1500
BORDER = 4  # width of the border of a crop in pixels
JPEG_QUALITY = 75  # for the feature "file size": a crop with more detail has a larger file
FOLDS = 10  # the clusters are divided into so many parts for cross-validation
# Our choice, with 0.5 as chance:
SHORTCUT_AUC = 0.55  # a shortcut when the whole interval is above
CLEAR_AUC = 0.65  # without a shortcut, the whole interval must be below
TOO_FEW = "too few videos to tell"
UNKNOWN = "not known"
# A name that contains that of a split, such as train/real/7: it cannot be in two splits.
WITH_SPLIT = re.compile(rf"(.*[/_])?({'|'.join(SPLITS)})([/_].*)?", re.IGNORECASE)


# ---------------------------------------------------------------- leaks


def audit(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Counts that must be zero, the last only where a paper needs masks; NaN: not known.

    A person in two splits counts, whether as the target or as the donor of a fake, and so do equal
    crops, pixel by pixel. With two splits or more, a count is NaN if nothing was found and some
    frames cannot be checked: for people, frames without an identity; for clusters, frames whose
    cluster is named by their video or split; for crops, frames without a hash, prepared by an
    earlier version.

    ``tables`` are frames tables by the name of their dataset. Returns one row per check, one column
    per dataset; the type is object, so that counts are whole numbers beside NaN.
    """
    counts = {}
    for name, frames in tables.items():
        fakes = frames[frames["label"] == 1]
        people = frames["identity"].astype(str)
        # As text: pandas refuses to compare two columns of different categories.
        clusters = frames["cluster"].astype(str)
        # Such a name cannot be in two splits, whoever is shown.
        is_named_by_video = clusters == frames["video"].astype(str)
        cannot_repeat = is_named_by_video | clusters.str.fullmatch(WITH_SPLIT)
        counts[name] = {
            "people in more than one split": _count_shared(
                frames, ["identity", "source"], people == ""
            ),
            "clusters in more than one split": _count_shared(frames, ["cluster"], cannot_repeat),
            "crops in more than one split": _count_shared(
                frames, ["crop_hash"], frames["crop_hash"] == ""
            ),
            "fake frames without a mask": int((fakes["mask"] == "").sum()),
        }
    columns = {name: pd.Series(values, dtype=object) for name, values in counts.items()}
    return pd.DataFrame(columns).rename_axis("check")


def _count_shared(frames: pd.DataFrame, columns: list[str], is_unknown: pd.Series) -> float:
    """How many names (or hashes) appear in more than one split, in any of the ``columns``.

    ``is_unknown``, a bool per frame, marks frames that cannot be checked. NaN: no such name was
    found, but there are such frames, and two splits or more.
    """
    rows = frames[["split", *columns]].drop_duplicates().astype(str)  # categories may not be melted
    # melt puts the names of all columns into one, "value"; an empty name means that there is none.
    named = rows.melt("split").query("value != ''")
    n_splits = named.groupby("value")["split"].nunique()
    count = int((n_splits > 1).sum())
    is_known = not is_unknown.any() or frames["split"].nunique() < 2
    return count if count or is_known else np.nan


def leaks(checks: pd.DataFrame) -> dict[str, int | str]:
    """The leaks of each dataset in a table of :func:`audit`: their number, or UNKNOWN.

    The number is that of people, clusters and crops together; masks do not count. UNKNOWN is the
    answer where no leak was found, and one of the checks could not be made.
    """
    between_splits = checks[checks.index.str.contains("split")]  # not the one of masks
    totals = {}
    for name, counts in between_splits.items():
        total = int(counts.sum())  # without NaN
        totals[name] = total if total or counts.notna().all() else UNKNOWN
    return totals


def shared_crops(train: pd.DataFrame, test: pd.DataFrame) -> int | None:
    """How many frames of a test set have a crop that a training set has, too, pixel by pixel.

    Both are frames tables. None where it is not known: none was found, and one of the tables has
    crops from an earlier version, which kept no hashes.
    """
    known = set(train["crop_hash"]) - {""}
    count = int(test["crop_hash"].isin(known).sum())
    is_unknown = (train["crop_hash"] == "").any() or (test["crop_hash"] == "").any()
    return count if count or not is_unknown else None


# ---------------------------------------------------------------- shortcuts


def shortcuts(frames: pd.DataFrame) -> pd.DataFrame:
    """How well the label is predicted without looking at the face: frame AUC, and a verdict.

    For each of the :func:`features`, a logistic regression is cross-validated. Its ten folds divide
    the clusters, so that no cluster is in both training and test. The AUC is the mean over the
    folds, with their 95 % t interval. There are too few videos when a class has fewer than two
    clusters per fold.

    Returns one row per feature: ``frame AUC`` with its interval and ``verdict``, both as text, and
    the number of ``clusters`` of both classes.
    """
    # They take a second to import, and most processes need none.
    from scipy.stats import sem, t
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    step = len(frames) // PROBED_FRAMES  # 0 where there are fewer frames
    probed = frames.iloc[:: max(1, step)]
    labels = probed["label"]
    clusters = probed["cluster"].astype(str)
    n_clusters = clusters.groupby(labels).nunique()  # of each class
    too_few = len(n_clusters) < 2 or n_clusters.min() < 2 * FOLDS
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    # Strongly regularised, because the border gives about as many columns as frames are probed.
    classifier = LogisticRegression(C=0.01, max_iter=200)
    model = make_pipeline(StandardScaler(), classifier)
    rows = {}
    for name, values in features(probed).items():
        interval = "–"  # replaced where there are enough videos
        verdict = TOO_FEW
        if not too_few:
            options = {"groups": clusters, "scoring": "roc_auc", "cv": folds}
            aucs = cross_val_score(model, values, labels, **options)
            auc = aucs.mean()
            # sem: its standard error; 0 where every AUC is 1.
            low, high = auc + t.ppf([0.025, 0.975], FOLDS - 1) * sem(aucs)
            interval = f"{auc:.3f} [{low:.3f}, {high:.3f}]"
            verdict = _verdict(low, high)
        rows[name] = [interval, verdict, clusters.nunique()]
    table = pd.DataFrame.from_dict(rows, "index", columns=["frame AUC", "verdict", "clusters"])
    return table.rename_axis("the label by")


def _verdict(low: float, high: float) -> str:
    """The verdict on a shortcut, by the 95 % interval of its AUC; 0.5 is chance."""
    if low > SHORTCUT_AUC:
        return "given away"
    if low > 0.5:
        return "slight"
    if high < CLEAR_AUC:
        return "nothing in sight"
    return TOO_FEW  # the interval includes chance, and is too wide to exclude a shortcut


def features(frames: pd.DataFrame) -> dict[str, np.ndarray]:
    """What could predict the label without the face: name -> values (n, columns) of n frames.

    The columns are the same for all frames: 6 for place and size, 6 for colours, 1 for the size of
    the file, and for the border as many as :func:`_border` gives.
    """
    rows = []
    # Crops that others have made have a null instead of a box, and may differ in size.
    has_box = frames["crop_box"].notna()
    size = None
    for path, box, is_known in zip(frames["path"], frames["crop_box"], has_box):
        crop = read_crop(path)
        height, width = crop.shape[:2]
        corners = box if is_known else [0, 0, 0, 0]  # of the crop, in the source's pixels
        # All get the size of the first crop, so that every frame has as many border pixels.
        size = size or (width, height)
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        colours = cv2.meanStdDev(crop)  # mean and standard deviation of each channel: two (3, 1)
        row = {
            "place and size": [height, width, *corners],
            "border pixels": _border(crop),
            "colour statistics": np.ravel(colours),
            "file size": [len(jpeg_file(crop, JPEG_QUALITY))],  # in bytes
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    return {name: np.stack(values) for name, values in table.items()}


def _border(crop: np.ndarray) -> np.ndarray:
    """The channels of every sixth pixel of the border of a crop (H, W, 3) uint8, in one vector.

    It is a row of features for the classifier that tries to predict the label, see
    :func:`shortcuts`. The 4032 border pixels of a crop of 256 by 256 would be 12096 columns, many
    more than there are frames.
    """
    is_border = np.ones(crop.shape[:2], bool)
    is_border[BORDER:-BORDER, BORDER:-BORDER] = False
    return crop[is_border][::6].ravel()
