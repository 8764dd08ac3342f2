"""Checks for flaws that make results worthless: what is in two splits, and fakes without a mask."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

UNKNOWN = "not known"
# A name that contains that of a split, such as train/real/7: it cannot be in two splits.
SPLIT_WORDS = "train|training|val|valid|validation|test|testing"
WITH_SPLIT = re.compile(rf"(.*[/_])?({SPLIT_WORDS})([/_].*)?", re.IGNORECASE)


def audit(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Counts that must be zero, the last only where a paper needs masks; NaN: not known.

    A person in two splits counts, whether as the target or as the donor of a fake, and so do equal
    crops, pixel by pixel. Where each file of a folder of photographs counts as a person, only those
    that show nearly the same picture are known to show one person. With two splits or more, a count
    is NaN if nothing was found and some frames cannot be checked: for people, frames without an
    identity; for clusters, frames whose cluster is named by their video or split; for crops, frames
    without a hash, prepared by an earlier version.

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


def shared_crops(train: pd.DataFrame, test: pd.DataFrame) -> int | None:
    """How many frames of a test set have a crop that a training set has, too, pixel by pixel.

    Both are frames tables. None where it is not known: none was found, and one of the tables has
    crops from an earlier version, which kept no hashes.
    """
    known = set(train["crop_hash"]) - {""}
    count = int(test["crop_hash"].isin(known).sum())
    is_unknown = (train["crop_hash"] == "").any() or (test["crop_hash"] == "").any()
    return count if count or not is_unknown else None
