"""Prepare a tree of DeepfakeBench: ``python scripts/deepfakebench.py FILE.json NAME --root FOLDER``.

Its crops and masks are used where they lie. NAME becomes a dataset like those of ``dfnb prepare``.
"""

import sys
from itertools import product
from pathlib import Path

import typer

from dfnb import core
from dfnb.cli import Links, tell
from dfnb.core import DfnbError
from dfnb.data import prepare, sources
from dfnb.data.sources import Found, Source


def listed(file: Path, root: Path, compression: str = "c23", links: bool = False) -> Found:
    """The videos that a JSON of DeepfakeBench lists, with its crops and masks below ``root``, and what is missing.

    Its form is {dataset: {label: {split: {video: {"frames": [...], "masks": [...]}}}}}, for FaceForensics++ with the
    compression between split and video; a label that ends with "real" is real. A video that it lists in several splits
    (its validation is its test split, its training split of Celeb-DF holds all) is a test video here. A path that leads
    out of ``root`` is refused, unless it does so by a link and ``links`` are wanted.
    """
    root, videos, missing, lists = Path(root).resolve(), {}, [], sources.load("faceforensics-c23").lists
    named = sources.read_list(lists["originals"], {}) | sources.read_list(lists["fakes"], {})
    pair_of = {video: f"{row['a']}_{row['b']}" for video, row in named.items()}  # such as 071_054

    def found(entry: dict, what: str) -> list[Path]:
        files = [root / path.replace("\\", "/") for path in entry.get(what, [])]
        inside = [path for path in files if path.is_relative_to(root) and ".." not in path.parts]
        return [path for path in inside if path.is_file() and (links or path.resolve().is_relative_to(root))]

    kinds = {kind: splits for dataset in core.read_json(file).values() for kind, splits in dataset.items()}
    for kind, split in product(kinds, ("train", "val", "test")):  # the last list that names a video counts
        entries, fake = kinds[kind].get(split, {}), not kind.lower().endswith("real")
        for name, entry in entries.get(compression, entries).items():
            video, images = f"{kind}/{name}", found(entry, "frames")
            if len(images) < len(entry["frames"]):
                missing.append(f"{video}: {len(images)} of {len(entry['frames'])} frames are below {root.name}")
            masks = {mask.stem: mask for mask in found(entry, "masks") if fake}
            crops = tuple((image, masks.get(image.stem)) for image in images)
            identity, method = name.split("_")[0] if name in pair_of else "", kind if fake else "real"
            cluster = pair_of.get(name, video)
            videos[video] = Source(video, root, int(fake), method, split, cluster, identity, crops=crops)
    usable = [source for source in videos.values() if source.crops]
    if not usable:
        raise DfnbError(f"{file} lists no frame below {root}; name the folder that its paths begin in as root")
    return usable, list(dict.fromkeys(missing))


def main(file: Path, name: str, root: Path, links: Links = False) -> None:
    """Use the crops that FILE.json lists, below the folder in which its paths begin. Exits with 2 when some are missing."""
    try:
        found, missing = listed(file, root, links=links)
        people = sources.load("faceforensics-c23").people
        tell(prepare.prepare(name, found, missing=missing, people=people), name)
    except DfnbError as error:
        sys.exit(f"dfnb: {error}")


if __name__ == "__main__":
    typer.run(main)
