"""Test sets for another tool: their crops, under ids that do not show the labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from dfnb.data import test_sets
from dfnb.data.frames import read_crop
from dfnb.files import atomic, digest
from dfnb.settings import DfnbError

LIST = "frames.csv"


def exported_id(fingerprint: str, *unit: Any) -> str:
    """An opaque name of a video, or of a (video, track, frame): it does not show the label.

    ``fingerprint`` is that of the test set. The name has 16 hexadecimal digits.
    """
    return digest([fingerprint, *unit], 16)


def export(names: Sequence[str], folder: Path) -> pd.DataFrame:
    """Write the frames on which test sets are scored into a new folder; returns their list.

    The list, ``frames.csv``, has a row per frame: ``test_set``, ``id``, ``video``, ``frame``, and
    ``score``, to be filled in. The crop is ``crops/<id>.png``. The values of ``id`` and ``video``
    are those of :func:`exported_id`, and rows are sorted by ``id``, so that
    neither names nor order show a label. This prevents accidents, not cheating: whoever has the
    dataset can compute the names.

    Raises :class:`DfnbError` when the folder exists, perhaps with scores in its list, and when a
    dataset is not prepared.
    """
    if folder.exists():
        raise DfnbError(f"{folder} exists, and may hold scores; name a folder that does not exist")
    rows = []
    with atomic(folder) as temporary:
        (temporary / "crops").mkdir(parents=True)
        for name in names:
            fingerprint = test_sets.metadata(name)["fingerprint"]
            for frame in test_sets.load(name).itertuples():
                frame_id = exported_id(fingerprint, frame.video, frame.track, frame.frame)
                video_id = exported_id(fingerprint, frame.video)
                rows.append((name, frame_id, video_id, frame.frame))
                crop = Image.fromarray(read_crop(frame.path))
                crop.save(temporary / "crops" / f"{frame_id}.png")
        table = pd.DataFrame(rows, columns=["test_set", "id", "video", "frame"])
        table = table.assign(score="").sort_values("id", ignore_index=True)
        table.to_csv(temporary / LIST, index=False)
    return table
