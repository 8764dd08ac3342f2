"""An annotation round by a person: LAE's candidates as a folder of pictures, and the masks painted for them back.

:func:`export` writes ``0001.png``, … and ``index.csv``; a person paints ``0001_mask.png``, … in any editor, white where
forged, and :func:`load` checks them and puts them under ``annotations/``, from where ``annotations = "<name>"`` of LAE's
settings takes them. No mask of the dataset itself is read.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data.frames import Pixels, keep_masks, load_frames, select
from dfnb.papers import lae
from dfnb.train import Run

MOST_GREY = 0.01  # share of a mask's pixels that may be neither black nor white: soft rims of a brush


def export(run: str | Path, folder: Path, share: float) -> pd.DataFrame:
    """Write the first candidates of a LAE run, so many that their masks are ``share`` of the training frames.

    Returns the index: ``image``, ``mask`` (the file to paint), ``video``, ``track``, ``frame`` and the candidate's cluster.
    Raises :class:`DfnbError` when the run is not one of LAE or the folder holds something.
    """
    opened = Run.open(run)
    start = Run.open(opened.record["parameters"]["start"]["run"]) if "start" in opened.record["parameters"] else opened
    if start.paper != "lae":
        raise DfnbError(f"{opened.folder} is a run of {start.paper}; only LAE chooses candidates for annotation")
    if folder.exists() and any(folder.iterdir()):
        raise DfnbError(f"{folder} is not empty; give a new folder, so that no painted mask is overwritten")
    parameters = start.record["parameters"]
    table = select(load_frames(parameters["train_set"]), "train", parameters["seen_methods"])
    budget = round(share * len(table))
    order = lae.candidates(start, table, opened.settings.clusters).iloc[:budget]
    if order.empty:
        raise DfnbError(f"share = {share:g} of {len(table)} training frames is no frame; raise it")
    chosen = keep_masks(table, []).iloc[order["row"]]
    names = [f"{place:04d}" for place in range(1, len(chosen) + 1)]
    index = pd.DataFrame({"image": [f"{name}.png" for name in names], "mask": [f"{name}_mask.png" for name in names]})
    for column in ("video", "track", "frame"):
        index[column] = chosen[column].to_numpy()
    index["cluster"] = order["cluster"].to_numpy()
    pixels = Pixels(table.attrs["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for image, row in zip(index["image"], chosen.itertuples()):
        cv2.imwrite(str(folder / image), cv2.cvtColor(pixels.crop(row.path, row.row), cv2.COLOR_RGB2BGR))
    facts = {"train_set": parameters["train_set"], "fingerprint": table.attrs["fingerprint"], "run": start.folder.name}
    core.write_json(folder / "export.json", facts)
    index.to_csv(folder / "index.csv", index=False)
    return index


def load(folder: Path) -> tuple[str, int, int]:
    """Check the painted masks of an exported folder and import them: name under ``annotations/``, how many, of how many.

    Pictures without a mask are left out. Raises :class:`DfnbError` that names every unusable mask; nothing is imported then.
    """
    for needed in ("index.csv", "export.json"):
        if not (folder / needed).exists():
            raise DfnbError(f"{folder / needed} does not exist; give a folder that `dfnb annotate export` wrote")
    facts, index = core.read_json(folder / "export.json"), pd.read_csv(folder / "index.csv", dtype={"video": str})
    if load_frames(facts["train_set"]).attrs["fingerprint"] != facts["fingerprint"]:
        raise DfnbError(f"{folder} was exported from another version of {facts['train_set']}; export it again")
    painted = index[[(folder / name).exists() for name in index["mask"]]]
    if painted.empty:
        raise DfnbError(f"{folder} has none of the {len(index)} masks, such as {index['mask'].iloc[0]}; paint some")
    masks, wrong = {}, []
    for row in painted.itertuples():
        mask = _checked(folder / row.mask, folder / row.image)
        if isinstance(mask, str):
            wrong.append(f"{row.mask} {mask}")
        else:
            masks[row.mask] = mask
    if wrong:
        raise DfnbError(f"{folder}: {'; '.join(wrong)}; mend them and import again")
    content = [facts["fingerprint"], painted[["video", "frame"]].to_csv(), *(m.tobytes().hex() for m in masks.values())]
    name = f"{facts['train_set']}-{core.digest(content, 8)}"
    target = core.home() / "annotations" / name
    with core.atomic_folder(target) as temporary:
        for file, mask in masks.items():
            cv2.imwrite(str(temporary / file), mask)
        painted.drop(columns="image").to_csv(temporary / "index.csv", index=False)
    core.write_record(target, facts, ["index.csv"], fingerprint=facts["fingerprint"], n=len(masks))
    return name, len(masks), len(index)


def _checked(path: Path, image: Path) -> np.ndarray | str:
    """The mask as 0 and 255, or what is wrong with it."""
    mask, shown = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), cv2.imread(str(image))
    if mask is None:
        return "cannot be read as an image"
    if shown is None:
        return f"belongs to {image.name}, which cannot be read"
    if mask.shape != shown.shape[:2]:
        return f"is {mask.shape[1]} × {mask.shape[0]} pixels, its picture {shown.shape[1]} × {shown.shape[0]}"
    if (grey := ((mask > 25) & (mask < 230)).mean()) > MOST_GREY:
        return f"is not black and white: {grey:.0%} of its pixels are grey"
    if not (mask > 127).any():
        return "is empty: nothing is white"
    if (mask > 127).all():
        return "is white throughout"
    return np.where(mask > 127, 255, 0).astype(np.uint8)
