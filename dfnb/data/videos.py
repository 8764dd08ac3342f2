"""The table of videos that a dataset is prepared from: one :class:`Video` per row.

Users list their own videos in a CSV, which :func:`read_csv` reads. For videos that are sorted into
folders, :func:`write_csv` writes this CSV. Published datasets give the same table
(:mod:`dfnb.data.published`).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from dfnb.files import write_bytes
from dfnb.settings import Closed, DfnbError, Title, explained

LABELS = {"0": 0, "real": 0, "1": 1, "fake": 1}
# The path of a video in a sorted folder: the split is optional, as is the method, which fakes have.
SORTED_PATH = re.compile(
    r"((?P<split>train|val|test)/)?(?P<label>real|fake)/((?<=fake/)(?P<method>[^/]+)/)?.+"
)
# Videos and images are found by their suffixes. Formats that cannot be read are among them, so that
# their files are reported. A name that begins with a point is hidden.
MEDIA = re.compile(
    r"(?!\.).*\.(avif|bmp|gif|hei[cf]|jpe?g|png|tiff?|webp|3g[2p]|asf|avi|flv|h264|hevc|m2ts|m4v|mkv|mov|mp4|"
    r"mpe?g|mts|mxf|og[gv]|ts|vob|webm|wmv)",
    re.IGNORECASE,
)

Files = Mapping[str, Path]  # path relative to a folder -> full path
Problems = dict[str, list[str]]  # description of a problem -> files that have it


@dataclass(frozen=True)
class Video:
    """One video of a dataset, and what is known about it; an image is a video of one frame.

    Attributes:
        name: Its name in the dataset, a path without suffix such as ``FaceSwap/000_003``.
        path: The file. With ``crops``: the folder that contains all crops of the dataset.
        label: 0 real, 1 fake.
        method: ``real``, or the name of the manipulation method.
        split: train, val or test.
        cluster: The name of a group of dependent videos, such as all those of a person. Confidence
            intervals resample whole clusters.
        identity: The person who is shown; in a fake the target.
        source: The donor of a fake.
        mask: A video that is white where the fake is forged, frame by frame.
        mask_threshold: A pixel of the mask is forged where its grey level, 0 to 255, is above this.
        original: The real video that the fake was made from, frame by frame. A fake without a mask
            is forged where it differs from it.
        crops: Images of faces that are used in place, as pairs of an image and its mask, or "" for
            no mask. All are paths below ``path``.
    """

    name: str
    path: Path
    label: int
    method: str
    split: str = "test"
    cluster: str = ""
    identity: str = ""
    source: str = ""
    mask: Path | None = None
    mask_threshold: int = 127
    original: Path | None = None
    crops: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a fake whose method is called real: tables would count it among the real."""
        if self.label == 1 and self.method.lower() == "real":
            raise DfnbError(
                f"{self.path} is a fake of the method {self.method!r}; give this method, or its "
                "folder in fake/, another name"
            )

    @property
    def region_file(self) -> Path | None:
        """The video that gives the forged region: the mask, else the original; None: unknown."""
        return self.mask or self.original


class Row(Closed):
    """One line of a user's CSV; a missing column or an empty cell means the default."""

    path: str  # of a video or an image, relative to the folder of the CSV
    label: Literal["real", "fake", "0", "1"]
    method: Title = "fake"  # the manipulation method of a fake
    split: Literal["train", "val", "test"] = "test"
    identity: str = ""  # the person who is shown
    cluster: str = ""  # see Video; default: the identity, else the video
    # Of a fake; those of a real video are ignored.
    mask: str = ""  # path of a video or an image, white where the fake is forged
    original: str = ""  # path of the video that a fake without a mask was made from


def read_csv(file: Path, root: Path) -> list[Video]:
    """Read the videos that a user's CSV lists; its columns are the fields of :class:`Row`.

    Its paths are relative to its own folder, or absolute. Each video is named by its path below
    ``root``, without the suffix. Raises :class:`DfnbError` for a file that cannot be read as CSV
    and, naming the line, for impossible values and for paths outside ``root``.
    """
    folder = file.parent.absolute()
    root = root.absolute()
    remedy = "write a table in UTF-8, with commas; its first line names columns: path, label"
    with explained(file, "CSV", remedy):  # turns any error into a DfnbError with the remedy
        table = pd.read_csv(
            file,
            dtype=str,
            keep_default_na=False,  # an empty cell is "", and a method may be called NA
            skip_blank_lines=False,  # so that messages can name the number of a line
            encoding="utf-8-sig",
        )
    videos = []
    for number, cells in enumerate(table.to_dict("records"), 2):  # line 1 names the columns
        filled = {column: cell for column, cell in cells.items() if cell}
        if not filled:  # a blank line
            continue
        row = Row.check(filled, f"{file}, line {number}")
        path = folder / row.path  # row.path itself where that is absolute
        if not path.is_relative_to(root):
            raise DfnbError(
                f"{file}, line {number}: {path} is outside {root}; move it into this folder, or "
                "name one above all videos by --root"
            )
        name = path.relative_to(root).with_suffix("").as_posix()
        label = LABELS[row.label]
        video = Video(
            name=name,
            path=path,
            label=label,
            method=row.method if label else "real",
            split=row.split,
            cluster=row.cluster or row.identity or name,  # the name: independent of all others
            identity=row.identity,
            mask=folder / row.mask if label and row.mask else None,
            original=folder / row.original if label and row.original else None,
        )
        videos.append(video)
    return videos


def write_csv(file: Path, root: Path) -> None:
    """Write the CSV of a folder ``[train|val|test/]{real,fake,mask,original}[/<method>]/``.

    The mask of ``fake/<path>`` is ``mask/<path>``, and its original is ``original/<path>``, with
    any suffix. A file outside the folders of the splits belongs to the test split. The paths in the
    CSV are absolute. Files that are neither videos nor images by their suffix are ignored.

    Raises :class:`DfnbError` when ``root`` is no folder or has nothing to prepare, and for videos
    and images that the CSV does not name.
    """
    files = files_below(root)
    media = [name for name in files if MEDIA.fullmatch(name)]
    # A mask may have another suffix than its fake, such as .png beside .jpg.
    by_path_without_suffix = {Path(name).with_suffix(""): name for name in media}
    rows = []
    for name in media:
        match = SORTED_PATH.fullmatch(name)
        if match:  # else a mask, an original, or a file outside these folders
            row = {"path": name, **match.groupdict()}
            if row["label"] == "fake":
                for column in ("mask", "original"):
                    # The first "fake/" is the folder of the label, as SORTED_PATH demands.
                    counterpart = Path(name.replace("fake/", f"{column}/", 1))
                    row[column] = by_path_without_suffix.get(counterpart.with_suffix(""))
            rows.append(row)
    if not rows:
        raise DfnbError(
            f"{root} contains no file to prepare; sort its videos and images into real/ and "
            "fake/<method>/, or list them in a CSV, which accepts files of any suffix"
        )
    read = []
    for row in rows:
        for column in ("path", "mask", "original"):
            name = row.get(column)
            read.append(name)
            row[column] = files.get(name)
    layout = "[train|val|test/]{real,fake,mask,original}/[<method>/]; a mask has its fake's path"
    refuse_unread(root, media, read, layout)
    # None becomes an empty cell: the default of Row.
    table = pd.DataFrame(rows, columns=list(Row.model_fields))
    # A name that is not UTF-8 is escaped: no such file is there, and the quarantine lists it.
    write_bytes(file, table.to_csv(index=False).encode(errors="backslashreplace"))


# ---------------------------------------------------------------- files


def files_below(root: Path) -> Files:
    """The files below a folder, by their paths relative to it, in the order of these.

    Hidden files are ignored, and what is no file: a pipe, for example, could be read for ever.
    Links are followed, except into a folder that contains the link itself, which would never end.
    Raises :class:`DfnbError` where ``root`` is no folder.
    """
    if not root.is_dir():
        raise DfnbError(f"{root} is no folder; say where the files are")
    root = root.absolute()
    files = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        if any(map(here.samefile, here.parents)):  # a link has led back to a folder above itself
            subfolders.clear()  # so os.walk goes no deeper
            continue
        for path in map(here.joinpath, names):
            relative = path.relative_to(root).as_posix()
            is_hidden = "/." in f"/{relative}"  # itself, or a folder that it is in
            # isfile, because Path.is_file raises an error for a link into a forbidden folder.
            if not is_hidden and os.path.isfile(path):  # noqa: PTH113
                files[relative] = path
    return dict(sorted(files.items()))


def media_in(paths: Iterable[Path]) -> list[Path]:
    """The paths, each folder replaced by the images and videos directly in it, by their suffixes.

    Raises :class:`DfnbError` for a folder without any, and where none of the files exists.
    """
    found = []
    for path in paths:
        media = [path]
        if path.is_dir():
            media = sorted(file for file in path.iterdir() if MEDIA.fullmatch(file.name))
        if not media:
            raise DfnbError(f"{path} contains no image or video; name files, or another folder")
        found += media
    if not any(file.is_file() for file in found):
        raise DfnbError(f"there is no file {found[0]}")
    return found


def refuse_unread(root: Path, files: Iterable[str], read: Iterable[str], layout: str) -> None:
    """Raise :class:`DfnbError` for videos and images in ``root`` that are not in ``read``."""
    unread = sorted({*filter(MEDIA.fullmatch, files)} - {*read})
    if unread:
        folders = ", ".join(sorted({name.split("/")[0] for name in unread}))
        raise DfnbError(
            f"{root} contains {len(unread)} videos or images that are not read, such as "
            f"{unread[0]}, in {folders}; move them elsewhere, or sort them: {layout}"
        )


def sentences(problems: Problems) -> list[str]:
    """One sentence per problem; with its files, if there are any: their number, the first three."""
    lines = []
    for problem, names in problems.items():
        files = f": {len(names)} ({', '.join(names[:3])})" if names else ""
        lines.append(problem + files)
    return lines
