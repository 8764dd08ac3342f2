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


@contextmanager
def of_missing(datasets: Iterable[str]) -> Iterator[list[str]]:
    """A context in which the missing ones of these datasets have stand-ins in a temporary folder.

    Yields the names of those that have one: a dataset whose size is not published gets none.
    """
    missing = {}  # name -> Extent
    for name in datasets:
        if read_record(files.dataset_folder(name)) is None:
            is_drawn = name in manifests.dataset_names("synth")
            extent = synth.extent(name) if is_drawn else published.extent(name)
            if extent:
                missing[name] = extent
    # One small drawn dataset per size of the crops, from which all stand-ins of this size are made.
    sizes = {f"drawn-{extent.size}": extent.size for extent in missing.values()}
    with tempfile.TemporaryDirectory(prefix="dfnb-") as temporary:
        folders = {name: Path(temporary, name) for name in (*missing, *sizes)}
        with files.datasets_elsewhere(folders):
            for name, size in sizes.items():
                changes = {"size": size, "identities": PEOPLE, "frames": FRAMES, "videos": 1}
                synth.build(name, synth.preset(DRAWN_LIKE, **changes), workers=1)
            for name, extent in missing.items():
                _write(folders[name], extent, load_frames(f"drawn-{extent.size}"))
            yield [*missing]


def _write(folder: Path, extent: Extent, drawn: pd.DataFrame) -> None:
    """Write a stand-in as a dataset: a table of frames that repeat the drawn ones, and a record.

    ``drawn`` is the frames table of a small drawn dataset; its columns path and mask are changed.
    """
    for column in ("path", "mask"):  # a dataset names its files relative to its folder
        drawn[column] = [path and os.path.relpath(path, folder) for path in drawn[column]]
    if not extent.has_masks:
        drawn["mask"] = ""
    parts = []
    counts = {}
    for method, videos_per_split in extent.videos.items():
        pictures = drawn[drawn["label"] == int(method != "real")]
        for split, videos in videos_per_split.items():
            positions = np.arange(videos * extent.frames)
            video, row = np.divmod(positions, extent.frames)
            columns = {
                "split": split,
                "method": method,
                "video": [f"{method}/{split}-{number}" for number in video],
                # A real video and its forgeries share a cluster, as they share a person.
                "cluster": [f"{split}-{number}" for number in video],
                "row": row,
                "frame": row,
            }
            repeated = pictures.iloc[positions % len(pictures)]
            parts.append(repeated.assign(**columns))
            counts[f"{split}/{method}"] = {"frames": len(positions), "videos": videos}
    table = pd.concat(parts).assign(dataset=folder.name, identity="", source="", original="")
    folder.mkdir()
    rows = pa.Table.from_pandas(table, pa.schema(COLUMNS), preserve_index=False)
    parquet.write_table(rows, folder / "frames.parquet")
    fingerprints = dict.fromkeys(table["split"].unique(), "a stand-in")
    about = {"parameters": {"size": extent.size}, "fingerprints": fingerprints, "n": counts}
    # Without outputs to check, the record alone makes the dataset count as finished.
    files.write_json(folder / "record.json", {**about, "outputs": {}})
