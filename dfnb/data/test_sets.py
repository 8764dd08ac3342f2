"""Which frames of a test set are scored, and what reports keep about it. No torch is needed."""

from typing import Any

import pandas as pd

from dfnb.data.frames import TREE, data_identity, dataset_record, load_frames, select, thinned
from dfnb.files import dataset_folder

TEST_FRAMES = 32  # per test video at most, evenly spaced: as in DeepfakeBench


def load(name: str) -> pd.DataFrame:
    """The test split of a dataset as a frames table, thinned to TEST_FRAMES per video.

    Raises :class:`DfnbError` when the dataset is not prepared or has no test split.
    """
    return thinned(select(load_frames(name), "test"), TEST_FRAMES)


def metadata(name: str, split: str = "test") -> dict[str, Any]:
    """What reports keep about a test set, or about another split of a dataset.

    The ``fingerprint`` is the one that reports compare, see :func:`dfnb.data.frames.data_identity`.
    ``compression`` and ``crop`` are words for captions.
    Raises :class:`DfnbError` when the dataset is not prepared.
    """
    record = dataset_record(name)
    made_with = record["parameters"]
    # How the frames were cut, for captions. ``scale`` is side of a crop / side of the face box.
    # Datasets of dfnb.synth have no such parameter: a face fills the frames that they draw.
    cut = f"face box × {made_with['scale']}" if "scale" in made_with else "uncut"
    crop = f"{cut}, {made_with['size']} pixels"
    if (dataset_folder(name) / TREE).is_symlink():  # images of others are used in place
        crop = "crops as delivered"
    return {
        "fingerprint": data_identity(record, [split]),
        "compression": record.get("compression", "as delivered"),  # only dfnb.synth records it
        "crop": crop,
    }
