"""Which frames of a test set are scored, and what reports keep about it. No torch is needed."""

from typing import Any

import pandas as pd

from dfnb.data.frames import identity, load_frames, select, thinned

TEST_FRAMES = 32  # per test video at most, evenly spaced: as in DeepfakeBench


def load(name: str) -> pd.DataFrame:
    """The test split of a dataset as a frames table, thinned to TEST_FRAMES per video.

    :func:`metadata` is added to its ``attrs``: their ``fingerprint`` is then the one that reports
    compare, see :func:`dfnb.data.frames.identity`. Raises :class:`DfnbError` when the dataset is
    not prepared or has no test split.
    """
    frames = thinned(select(load_frames(name), "test"), TEST_FRAMES)
    frames.attrs.update(metadata(frames))
    return frames


def metadata(frames: pd.DataFrame) -> dict[str, Any]:
    """What reports keep about the test set of a frames table: ``store.TEST_SET_METADATA``.

    The ``attrs`` of ``frames`` must have the dataset's ``record``.
    """
    record = frames.attrs["record"]
    return {
        "fingerprint": identity(record),
        "compression": record.get("compression", "as delivered"),
        "contrasts": record.get("contrasts", []),  # pairs of methods that results compare
        "crop": _crop(frames, record["parameters"]),
    }


def _crop(frames: pd.DataFrame, made_with: dict[str, Any]) -> str:
    """How the frames were cut, for captions.

    ``made_with``: the parameters in the record of the dataset.
    """
    if frames["scale"].isna().all():  # images that are used in place: their scale is unknown
        return "crops as delivered"
    # ``scale`` is the side of a crop, in sides of the face box. The embedded benchmark has no such
    # parameter: a face fills the frames that it draws, and nothing is cut.
    cut = f"face box × {made_with['scale']}" if "scale" in made_with else "uncut"
    return f"{cut}, {made_with['size']} pixels"
