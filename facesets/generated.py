"""The generated portraits (Stable Diffusion 3, CC0) that ship with the project.

``data_manifest/portraits/README.md`` says where they come from. Each is a crop around the face of
somebody who does not exist, with stored points, so that no face detector and no mesh model is
needed.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from facesets.files import digest, find, sha256
from facesets.seeds import rng

FOLDER = "data_manifest/portraits"
PER_PIXEL = 16  # points are stored in 1/16 pixel


def people() -> pd.DataFrame:
    """The people, one row per portrait, indexed by name, such as ``female-0``.

    ``split`` and ``stratum`` are texts; donors are of one stratum. ``complexion`` is an angle in
    degrees, high in light skin. Those who are left out are not among them: ``people.csv`` has them,
    with the reason.

    A small dataset takes the first people of a split: first two women and two men of each age and
    complexion, in an order of these that was drawn, then the next ones.
    """
    table = pd.read_csv(find(f"{FOLDER}/people.csv"), index_col="name")
    used = table[table["left_out"].isna()].drop(columns="left_out")
    sex, kind = used["stratum"].str.split("-", n=1, expand=True).to_numpy().T
    kinds = sorted({*kind})
    turns = dict(zip(kinds, rng("generated portraits", "order").permutation(len(kinds))))
    pair = used.groupby(["split", "stratum"]).cumcount() // 2
    order = pd.DataFrame({"pair": pair, "turn": [turns[each] for each in kind], "sex": sex})
    return used.loc[order.sort_values([*order], kind="stable").index]


def crops() -> Path:
    """The folder of the portraits' files, such as ``female-0.webp``: at most 384 pixels a side."""
    return find(f"{FOLDER}/crops")


def hashes() -> dict[str, str]:
    """By file, a hash of what a dataset depends on: pixels, points, split and stratum."""
    points = sha256(find(f"{FOLDER}/points.npz"))
    return {
        f"{row.Index}.webp": digest([row.sha256_crop, points, row.split, row.stratum], 16)
        for row in people().itertuples()
    }


def landmarks(name: str) -> np.ndarray:
    """Eyes, nose tip and mouth corners (5, 2) float32 in pixels of the crop.

    Their order is that of :func:`facesets.frames.face_axes`.
    """
    names, points, _ = _points(find(f"{FOLDER}/points.npz"))
    return np.float32(points[names.index(name)]) / PER_PIXEL


def mesh(name: str) -> np.ndarray:
    """The mesh of the face (468, 2) float32 in pixels of the crop, as faces.face_mesh gives it."""
    names, _, points = _points(find(f"{FOLDER}/points.npz"))
    return np.float32(points[names.index(name)]) / PER_PIXEL


@cache  # a dataset asks for the points of each of its people
def _points(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names, their landmarks (n, 5, 2) and meshes (n, 468, 2), in 1 / PER_PIXEL pixels."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["names"].tolist(), stored["landmarks"], stored["mesh"]
