"""The table of videos that a dataset is prepared from: one :class:`Video` per row.

A user's own videos are listed in a CSV, which :func:`read_csv` reads, and which :func:`write_csv`
makes of a sorted folder. Published datasets give the same table (:mod:`dfnb.data.published`).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from dfnb.files import write_bytes
from dfnb.settings import Closed, DfnbError, Title, explained

LABELS = {"0": 0, "real": 0, "1": 1, "fake": 1}
SORTED = re.compile(r"(?:(train|val|test)/)?(real|fake)/(?:([^/]+)/)?.+")
TEXTS = ("", ".csv", ".json", ".md", ".pdf", ".txt")  # a README may lie beside the videos
UNUSED = (
    "no video or image of real/ or fake/, no mask or original of one, no file, or not named in "
    "UTF-8; left out"
)

Files = Mapping[str, Path]  # a path below some folder -> the file
Problems = Mapping[str, Sequence[str]]  # what is wrong -> the paths of files with which it is


@dataclass(frozen=True)
class Video:
    """One video of a dataset, and what is known of it; an image is a video of one frame.

    Attributes:
        name: Its name in the dataset, a path without suffix such as ``FaceSwap/000_003``.
        path: The file; with ``crops`` the folder below which all crops of the dataset lie.
        label: 0 real, 1 fake.
        method: ``real``, or the name of the manipulation method.
        split: train, val or test.
        cluster: What must be resampled together, such as all videos of a person.
        identity: The person who is shown; in a fake the target.
        source: The donor of a fake.
        mask: A video that is white where the fake is forged, frame by frame.
        original: The real video that the fake was made from, frame by frame. Without a mask the
            fake is forged where the two differ.
        crops: Images of faces that are used where they lie, each with its mask or "": paths below
            ``path``.
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
    original: Path | None = None
    crops: tuple[tuple[str, str], ...] = ()

    @property
    def mask_file(self) -> Path | None:
        """The mask, or else the original; None where there is neither."""
        return self.mask or self.original


class Row(Closed):
    """One line of a user's CSV; what is missing or empty has the default."""

    path: str  # of a video or an image, from the folder of the CSV
    label: Literal["real", "fake", "0", "1"]
    method: Title = "fake"  # the manipulation method of a fake
    split: Literal["train", "val", "test"] = "test"
    identity: str = ""  # the person who is shown
    cluster: str = ""  # what must be resampled together; default: the identity, else the video
    mask: str = ""  # path of a video or an image, white where the fake is forged
    original: str = ""  # path of the video that a fake without a mask was made from


def read_csv(file: Path, root: Path) -> list[Video]:
    """Read the videos that a user's CSV lists; its columns are the fields of :class:`Row`.

    Paths in it begin in its own folder, and videos are named by their paths below ``root``. Raises
    :class:`DfnbError`, which names the line, for what cannot be.
    """
    folder = file.parent.absolute()
    root = root.absolute()
    remedy = "write a table in UTF-8 whose first line names columns, such as path and label"
    with explained(file, "CSV", remedy):
        table = pd.read_csv(
            file,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,  # so that lines have their numbers
            encoding="utf-8-sig",
        )
    videos = []
    for number, cells in enumerate(table.to_dict("records"), 2):
        filled = {column: cell for column, cell in cells.items() if cell}
        if not filled:
            continue
        row = Row.check(filled, f"{file}, line {number}")
        path = folder / row.path
        if not path.is_relative_to(root):
            raise DfnbError(
                f"{file}, line {number}: {path} lies outside {root}; move it into this folder, or "
                "name one above all videos by --root"
            )
        name = path.relative_to(root).with_suffix("").as_posix()
        label = LABELS[row.label]
        video = Video(
            name=name,
            path=path,
            label=label,
            method=row.method if label == 1 else "real",
            split=row.split,
            cluster=row.cluster or row.identity or name,
            identity=row.identity,
            mask=folder / row.mask if row.mask else None,
            original=folder / row.original if row.original else None,
        )
        videos.append(video)
    return videos


def write_csv(file: Path, root: Path) -> list[str]:
    """Write the CSV of a folder ``[train|val|test/]{real,fake,mask,original}[/<method>]/``.

    The mask of a fake has the same path below ``mask/`` as the fake below ``fake/``, and its
    original the same below ``original/``. What lies in no folder of a split is of the test split.
    The paths in the CSV are absolute.

    Returns sentences about files that were left out. Raises :class:`DfnbError` when there is
    nothing to prepare.
    """
    files, unused = files_below(root)
    by_stem = {Path(name).with_suffix(""): path for name, path in files.items()}
    rows = []
    used = set()
    for name, path in files.items():
        match = SORTED.fullmatch(name)
        if not match:
            continue
        split, label, method = match.groups()
        row = {"path": path, "label": label, "split": split}
        if label == "fake":
            row["method"] = method
            for column in ("mask", "original"):
                twin = Path(name.replace("fake/", f"{column}/", 1))
                row[column] = by_stem.get(twin.with_suffix(""))
        rows.append(row)
        used.update(row.values())
    if not rows:
        raise DfnbError(
            f"{root} holds no file to prepare; sort its files into real/ and fake/<method>/, list "
            "them in a CSV"
        )
    text = pd.DataFrame(rows, columns=list(Row.model_fields)).to_csv(index=False)
    write_bytes(file, text.encode())
    for name, path in files.items():
        if path not in used and path.suffix.lower() not in TEXTS:
            unused.append(name)
    return sentences({UNUSED: sorted(unused)}) if unused else []


# ---------------------------------------------------------------- files


def files_below(root: Path) -> tuple[Files, list[str]]:
    """The files below a folder by their paths in it, and the paths of what was left out.

    Hidden files do not count. Left out are names that are not UTF-8, and what is no file, such as
    a pipe, which could be read for ever. Links are followed, except one to a folder in which it
    lies itself, where the way would never end. Raises :class:`DfnbError` where there is no such
    folder.
    """
    if not root.is_dir():
        raise DfnbError(f"{root} is no folder; say where the files are")
    root = root.absolute()
    files = {}
    left_out = []
    for place, folders, names in os.walk(root, followlinks=True):
        here = Path(place)
        if any(map(here.samefile, here.parents)):
            folders.clear()
            continue
        for name in names:
            path = here / name
            inner = path.relative_to(root).as_posix()
            if "/." in f"/{inner}":
                continue
            shown = inner.encode(errors="backslashreplace").decode()
            # Path.is_file raises an error for a link into a folder that may not be entered.
            if os.path.isfile(path) and inner == shown:  # noqa: PTH113
                files[inner] = path
            else:
                left_out.append(shown)
    return dict(sorted(files.items())), left_out


def sentences(problems: Problems) -> list[str]:
    """One sentence per problem: how many files have it, and the names of the first three."""
    lines = []
    for problem, names in problems.items():
        lines.append(f"{problem}: {len(names)} ({', '.join(names[:3])})")
    return lines
