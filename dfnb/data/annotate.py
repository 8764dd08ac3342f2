"""Masks painted by a person: frames as a folder of pictures, and the masks painted for them back.

:func:`export` writes ``0001.png``, … and ``index.csv``; a person paints ``0001_mask.png``, … in any editor, white where
forged; :func:`load` checks them and keeps them as ``annotations/<name>``, from where :func:`painted` puts them into a
frames table.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data.frames import Pixels

MOST_GREY = 0.01  # share of a mask's pixels that may be neither black nor white: soft rims of a brush
KEY = ["video", "track", "frame"]


def export(frames: pd.DataFrame, rows: Sequence[int], folder: Path, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Write the pictures of some ``rows`` (positions) of a frames table; returns the index, in the order of the rows.

    Its columns are ``image``, ``mask`` (the file to paint), dataset, video, track and frame of the picture, the dataset's
    ``fingerprint``, and ``facts``: one value for all rows or one per row. No mask of the dataset is read. Raises
    :class:`DfnbError` when there is no row or the folder holds something.
    """
    if not len(rows) or (folder.exists() and any(folder.iterdir())):
        raise DfnbError(f"{folder} is not empty, or no frame is chosen; give a new folder and at least one frame")
    chosen, numbers = frames.iloc[rows], range(1, len(rows) + 1)
    files = {"image": [f"{i:04d}.png" for i in numbers], "mask": [f"{i:04d}_mask.png" for i in numbers]}
    index = pd.DataFrame(files).join(chosen[["dataset", *KEY]].reset_index(drop=True))
    index = index.assign(fingerprint=frames.attrs["fingerprint"], **facts)
    pixels = Pixels(frames.attrs["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for image, row in zip(index["image"], chosen.itertuples()):
        cv2.imwrite(str(folder / image), cv2.cvtColor(pixels.crop(row.path, row.row), cv2.COLOR_RGB2BGR))
    index.to_csv(folder / "index.csv", index=False)
    return index


def load(folder: Path) -> tuple[str, int, int]:
    """Check the painted masks of an exported folder and import them: name under ``annotations/``, how many, of how many.

    Pictures without a mask are left out. Raises :class:`DfnbError` that names every unusable mask; nothing is imported then.
    """
    index = _index(folder)
    painted = index[[(folder / name).exists() for name in index["mask"]]]
    if painted.empty:
        raise DfnbError(f"{folder} has none of the {len(index)} masks, such as {index['mask'].iloc[0]}; paint some")
    problems = [_problem(folder / mask, folder / image) for image, mask in zip(painted["image"], painted["mask"])]
    if any(problems):
        raise DfnbError(f"{folder}: {'; '.join(filter(None, problems))}; mend them and import again")
    content = [painted.to_csv(), *(core.sha256(folder / file) for file in painted["mask"])]
    name = f"{Path(index['dataset'].iloc[0]).name}-{core.digest(content, 8)}"
    with core.atomic(core.home() / "annotations" / name) as temporary:
        temporary.mkdir()
        for file in painted["mask"]:
            shutil.copyfile(folder / file, temporary / file)
        painted.to_csv(temporary / "index.csv", index=False)
    return name, len(painted), len(index)


def painted(name: str, frames: pd.DataFrame) -> pd.DataFrame:
    """The frames table with the masks of ``annotations/<name>``, imported by :func:`load`, and no others.

    Raises :class:`DfnbError` when the annotations are not there, or not of these frames.
    """
    folder = core.home() / "annotations" / name
    index = _index(folder)
    if index["fingerprint"].iloc[0] != frames.attrs["fingerprint"]:
        raise DfnbError(f"{folder} was painted on other data than {frames.attrs['folder']}; export its frames again")
    masks = {tuple(key): str(folder / mask) for mask, *key in index[["mask", *KEY]].itertuples(index=False)}
    keys = list(zip(frames["video"].astype(str), frames["track"], frames["frame"]))
    if masks.keys().isdisjoint(keys):
        raise DfnbError(f"{folder} has no mask of the chosen frames; choose its split and methods")
    return frames.assign(mask=[masks.get(key, "") for key in keys])


def _index(folder: Path) -> pd.DataFrame:
    """The index of a folder of pictures; raises :class:`DfnbError` where it is missing or leads outside."""
    if not (folder / "index.csv").exists():
        raise DfnbError(f"{folder} has no index.csv; give what `dfnb annotate export` wrote or `import` named")
    index = pd.read_csv(folder / "index.csv", dtype={"video": str, "dataset": str})
    if any((folder / name).resolve().parent != folder.resolve() for name in [*index["image"], *index["mask"]]):
        raise DfnbError(f"{folder / 'index.csv'} names files outside its folder; correct it")
    return index


def _problem(file: Path, image: Path) -> str:
    """What is wrong with the mask painted for an image; empty if nothing."""
    mask, picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), cv2.imread(str(image))
    if mask is None or picture is None:
        return f"{file.name} or {image.name} cannot be read as an image"
    if mask.shape != picture.shape[:2]:
        return f"{file.name} has {mask.shape[::-1]} pixels, its picture {picture.shape[1::-1]}"
    painted = ((mask > 25) & (mask < 230)).mean() <= MOST_GREY and 0 < (mask > 127).mean() < 1
    return "" if painted else f"{file.name} is not black and white, with both"
