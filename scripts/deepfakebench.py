"""Use the crops and masks of DeepfakeBench: ``deepfakebench.py FILE.json NAME --root FOLDER``.

NAME becomes a dataset like those of ``dfnb prepare``, whose files are copies of these.
"""

import posixpath
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from facesets import prepare, published
from facesets.checks import DfnbError
from facesets.files import read_json
from facesets.videos import Video

COMPRESSIONS = ("raw", "c23", "c40")


def listed(file: Path, root: Path, compression: str = "c23") -> tuple[list[Video], list[str]]:
    """The videos that a JSON of DeepfakeBench lists, and sentences about what is missing.

    The form of the file is {dataset: {kind: {split: {video: {"frames": [...], "masks": [...]}}}}},
    for FaceForensics++ with the compression between split and video; a kind that ends with "real"
    is real. DeepfakeBench also validates on the test split, and lists all videos of Celeb-DF in the
    training split: a video that is listed in several splits is here in the last of train, val and
    test. A mask that is not there counts as unknown.

    Args:
        file: The JSON.
        root: The folder in which its paths begin, see :func:`_below`.
        compression: One of COMPRESSIONS; only FaceForensics++ has several.

    Raises :class:`DfnbError` if no video is listed in this compression, or no frame is there.
    """
    root = root.resolve()
    pairs = _pairs()
    videos = {}  # by name; a later split replaces an earlier one
    missing = []
    for kind, split, name, entry in _entries(read_json(file), compression):
        is_fake = not kind.lower().endswith("real")
        video = f"{kind}/{name}"
        found = {written: _below(root, written) for written in entry["frames"]}
        images = [image for image in found.values() if image]
        nowhere = [written for written, image in found.items() if not image]
        if nowhere:
            missing.append(
                f"{video}: {len(images)} of {len(found)} frames are below {root.name}, and not "
                f"{nowhere[0]}"
            )
        masks = {}
        if is_fake:
            for written in entry.get("masks", []):
                mask = _below(root, written)
                masks[Path(mask).stem] = root / mask if mask else None
        videos[video] = Video(
            name=video,
            path=root / next(iter(images), ""),
            label=int(is_fake),
            method=kind if is_fake else "real",
            split=split,
            # In other datasets the people are not known: each video is its own cluster.
            cluster=pairs.get(name, video),
            identity=name.split("_")[0] if name in pairs else "",
            crops=True,
            # A mask has the file name of its frame.
            frames=tuple((root / image, masks.get(Path(image).stem)) for image in images),
        )
    if not videos:
        raise DfnbError(f"{file} lists no video, or none in {compression}; give its --compression")
    usable = [video for video in videos.values() if video.frames]
    if not usable:
        raise DfnbError(
            f"{file} lists no frame below {root}; name the folder that its paths begin in as root; "
            f"{'; '.join(missing[:1])}"
        )
    return usable, list(dict.fromkeys(missing))  # once where a video is in several splits


def _pairs() -> dict[str, str]:
    """The pair of people, such as 071_054, of each video of FaceForensics++, by the video's name.

    The name is that of a real video, 071, or of a fake, 071_054 (target and source).
    """
    listing = published.load_manifest("faceforensics-c23").rules[0].list
    rows = published.read_listing(
        listing, {}
    )  # a row per video, with the people a and b of its pair
    return {video: f"{row['a']}_{row['b']}" for video, row in rows.items()}


def _entries(
    content: dict[str, Any], compression: str
) -> Iterator[tuple[str, str, str, dict[str, list[str]]]]:
    """Kind, split, name and entry of each video, the test split last."""
    for kinds in content.values():
        for kind, splits in kinds.items():
            for split in ("train", "val", "test"):
                entries = splits.get(split, {})
                if not entries.keys().isdisjoint(COMPRESSIONS):  # FaceForensics++ alone has these
                    entries = entries.get(compression, {})
                for name, entry in entries.items():
                    yield kind, split, name, entry


def _below(root: Path, written: str) -> str:
    """The path of a file below ``root``; empty if there is no such file. Links are followed.

    The JSON may have been written on another machine: backslashes separate folders, too, and the
    folders that lead to its root, as in /data/rgb/ or ../rgb/, are left out.
    """
    normal = posixpath.normpath(written.replace("\\", "/"))
    parts = [part for part in normal.split("/") if part not in ("", "..")]
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        if (root / path).is_file():
            return path
    return ""


def main(
    file: Path,
    name: str,
    root: Annotated[Path, typer.Option(help="the folder in which the paths in FILE.json begin")],
    one_class: Annotated[bool, typer.Option("--one-class", help="accept one class alone")] = False,
    compression: Annotated[
        str, typer.Option(help=f"of FaceForensics++: {', '.join(COMPRESSIONS)}")
    ] = "c23",
) -> None:
    """Make a dataset of the crops that FILE.json lists; those that are missing are printed."""
    try:
        videos, missing = listed(file, root, compression)
        record = prepare.prepare(name, videos, one_class=one_class)
    except DfnbError as error:
        sys.exit(f"deepfakebench.py: {error}")
    typer.echo(prepare.dropouts(record).to_string())
    for sentence in missing:
        typer.echo(f"missing: {sentence}", err=True)
    for sentence in prepare.reasons_of(record["quarantine"]):
        typer.echo(sentence, err=True)


if __name__ == "__main__":
    typer.run(main)
