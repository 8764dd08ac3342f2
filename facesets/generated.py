"""The generated portraits (Stable Diffusion 3, CC0) that ship with the project.

``data_manifest/portraits/README.md`` says where they come from. Each is a crop around the face of
somebody who does not exist, with stored points, so that no face detector and no mesh model is
needed.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from facesets.files import digest, find
from facesets.seeds import rng

FOLDER = "data_manifest/portraits"
PER_PIXEL = 16  # points are stored in 1/16 pixel


def people() -> pd.DataFrame:
    """The people, one row per portrait, indexed by name, such as ``female-0``.

    ``split`` and ``stratum`` are texts; a donor is of the same stratum, but where a small dataset
    has one person alone of it. ``complexion`` is an angle in degrees, high in light skin. Those who
    are left out are not among them: ``people.csv`` has them, with the reason.

    A small dataset takes the first people of a split: first two women and two men of each age and
    complexion, in an order of these that was drawn, then the next ones.
    """
    table = pd.read_csv(find(f"{FOLDER}/people.csv"), index_col="name")
    used = table[table["left_out"].isna()].drop(columns="left_out")
    sex, kind = used["stratum"].str.split("-", n=1, expand=True).to_numpy().T
    kinds = sorted({*kind})
    turn_of = dict(zip(kinds, rng("generated portraits", "order").permutation(len(kinds))))
    pair = used.groupby(["split", "stratum"]).cumcount() // 2
    order = pd.DataFrame({"pair": pair, "turn": [turn_of[each] for each in kind], "sex": sex})
    return used.loc[order.sort_values(["pair", "turn", "sex"], kind="stable").index]


def crops() -> Path:
    """The folder of the portraits' files, such as ``female-0.webp``: at most 384 pixels a side."""
    return find(f"{FOLDER}/crops")


def hashes() -> dict[str, str]:
    """By file, a hash of what a dataset depends on: the table's sha256, points, split, stratum."""
    found = {}
    for row in people().itertuples():
        points = landmarks(row.Index).tobytes() + mesh(row.Index).tobytes()
        described = [row.sha256_crop, sha256(points).hexdigest(), row.split, row.stratum]
        found[f"{row.Index}.webp"] = digest(described, 16)
    return found


def landmarks(name: str) -> np.ndarray:
    """Eyes, nose tip and mouth corners (5, 2) float32 in pixels of the crop.

    Their order is that of :class:`facesets.faces.Detection`.
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
