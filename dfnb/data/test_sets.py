"""Which frames of a test set are scored, and what score files keep about it, without torch."""

import pandas as pd

from dfnb.checks import Closed
from dfnb.data.frames import TREE, data_identity, dataset_record, load_frames, select, thinned
from dfnb.data.sources import domain_of
from dfnb.files import dataset_folder

TEST_FRAMES = 32  # per test video at most, evenly spaced: as in DeepfakeBench


class StoredSet(Closed):
    """What a score file keeps about a test set, so that tables need neither it nor its manifest.

    Attributes:
        fingerprint: Identifies its frames, see :func:`dfnb.data.frames.data_identity`.
        domain: Datasets of one domain are made alike, see :func:`dfnb.data.sources.domain_of`.
        apart: Whether means over datasets leave it out, see there.
        compression: In words, for captions.
        crop: How faces were cut, in words.
        n: Frames that are scored where no corruption or map takes a part of them.
        shared_crops: How many of them have a crop of the run's train or val split; None: not known.
    """

    fingerprint: str
    domain: str
    apart: bool
    compression: str
    crop: str
    n: int
    shared_crops: int | None = None


def load(name: str) -> pd.DataFrame:
    """The test split of a dataset as a frames table, thinned to TEST_FRAMES per video.

    Raises :class:`DfnbError` when the dataset is not prepared or has no test split.
    """
    return thinned(select(load_frames(name), "test"), TEST_FRAMES)


def describe(name: str, shared_crops: int | None = None) -> StoredSet:
    """What score files keep about a test set; ``shared_crops`` is of the run that was scored.

    Raises :class:`DfnbError` when the dataset is not prepared or has no test split.
    """
    record = dataset_record(name)
    made_with = record["parameters"]
    # How the frames were cut, for captions. ``scale`` is side of a crop / side of the face box.
    # Embedded datasets have no such parameter: a face fills the frames that they draw.
    cut = f"face box × {made_with['scale']}" if "scale" in made_with else "uncut"
    crop = f"{cut}, {made_with['size']} pixels"
    if (dataset_folder(name) / TREE).is_symlink():  # images of others are used in place
        crop = "crops as delivered"
    domain, is_apart = domain_of(name)
    return StoredSet(
        fingerprint=data_identity(record, ["test"]),
        domain=domain,
        apart=is_apart,
        compression=record.get("compression", "as delivered"),  # only embedded datasets' have it
        crop=crop,
        n=len(load(name)),
        shared_crops=shared_crops,
    )
