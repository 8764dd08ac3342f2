"""Stand-ins of datasets that are not there: their published size, made of a few drawn frames.

With them ``dfnb cost`` measures a profile before anything is downloaded or built: number of videos,
splits, methods and size of the crops are right, and every frame repeats one of a few pictures.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from dfnb import files, manifests, synth
from dfnb.data import published
from dfnb.data.frames import COLUMNS, Extent, load_frames
from dfnb.records import read_record

DRAWN_LIKE = "smoke-a"  # the dataset of the benchmark whose people are drawn, at another size
PEOPLE = {"train": 2, "val": 0, "test": 0}
FRAMES = 4  # of each drawn video: with one real and one forged per person, 16 pictures
LINKS = 1000  # to the folder of the pictures, in itself


@contextmanager
def of_missing(datasets: Iterable[str]) -> Iterator[dict[str, Extent]]:
    """A context in which those of these datasets that are not there have a stand-in.

    Yields how large these are. A published dataset of which no numbers are published has none. In
    the context nothing can be made in ``datasets/``.
    """
    missing = {}
    for name in datasets:
        if read_record(files.dataset_folder(name)) is None:
            is_drawn = name in manifests.dataset_names("synth")
            extent = synth.extent(name) if is_drawn else published.extent(name)
            if extent:
                missing[name] = extent
    with tempfile.TemporaryDirectory(prefix="dfnb-") as temporary:
        folders = {name: Path(temporary, name) for name in missing}
        pictures = {extent.size: f"drawn-{extent.size}" for extent in missing.values()}
        folders |= {name: Path(temporary, name) for name in pictures.values()}
        with files.datasets_elsewhere(folders):
            for size, name in pictures.items():
                _draw(name, size)
            for name, extent in missing.items():
                _write(folders[name], extent, load_frames(pictures[extent.size]))
            yield missing


def _draw(name: str, size: int) -> None:
    """Make a dataset of a few drawn people, whose frames have this size."""
    settings = synth.preset(DRAWN_LIKE, size=size, identities=PEOPLE, frames=FRAMES, videos=1)
    synth.build(name, settings, workers=1)
    # By two of these links, one after the other, a picture has a million paths.
    for number in range(LINKS):
        (files.dataset_folder(name) / str(number)).symlink_to(".", target_is_directory=True)


def _write(folder: Path, extent: Extent, drawn: pd.DataFrame) -> None:
    """Write a stand-in as a dataset: a table of frames that repeat the drawn ones, and a record.

    Each frame has a path of its own, as in any dataset.
    """
    place_of_drawn = files.dataset_folder(drawn["dataset"].iloc[0])
    for column in ("path", "mask"):  # relative to the folder of the drawn dataset
        drawn[column] = [path and os.path.relpath(path, place_of_drawn) for path in drawn[column]]
    parts = []
    counts = {}
    for method, videos_per_split in extent.videos.items():
        label = int(method != "real")
        pictures = drawn[drawn["label"] == label]
        for split, videos in videos_per_split.items():
            places = np.arange(videos * extent.frames)
            video, row = np.divmod(places, extent.frames)
            facts = {
                "split": split,
                "method": method,
                "video": [f"{method}/{split}-{number}" for number in video],
                "cluster": [f"{split}-{number}" for number in video],
                "row": row,
                "frame": row,
            }
            parts.append(pictures.iloc[places % len(pictures)].assign(**facts))
            counts[f"{split}/{method}"] = {"frames": len(places), "videos": videos}
    table = pd.concat(parts).assign(dataset=folder.name, identity="", source="", original="")
    first, second = np.divmod(np.arange(len(table)), LINKS)
    links = [f"../{place_of_drawn.name}/{a}/{b}/" for a, b in zip(first, second)]
    table["path"] = links + table["path"]
    has_mask = (table["mask"] != "") & extent.has_masks
    table["mask"] = (links + table["mask"]).where(has_mask, "")
    folder.mkdir()
    rows = pa.Table.from_pandas(table, pa.schema(COLUMNS), preserve_index=False)
    parquet.write_table(rows, folder / "frames.parquet")
    fingerprints = dict.fromkeys(table["split"].unique(), "a stand-in")
    record = {"parameters": {"size": extent.size}, "fingerprints": fingerprints, "n": counts}
    files.write_json(folder / "record.json", {**record, "outputs": {}})
