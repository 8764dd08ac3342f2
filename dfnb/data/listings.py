"""Read what users write about their videos: labels and splits, in tables or as names of folders.

The CSVs of ``dfnb prepare``, and the folders of ``dfnb prepare FOLDER`` and of ``face-crops`` are
all read by these functions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from dfnb.checks import DfnbError

LABELS = {"real": 0, "0": 0, "0.0": 0, "false": 0, "fake": 1, "1": 1, "1.0": 1, "true": 1}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# The path of a file in a sorted folder. The split and the folders below the kind are optional.
SORTED_PATH = re.compile(
    rf"((?P<split>{'|'.join(SPLITS)})/)?(?P<kind>real|fake|mask|original)/(?P<folders>.+/)?[^/]+",
    re.IGNORECASE,
)
# Images, which may be frames of a video. Other media are videos by themselves.
IMAGE = re.compile(r".*\.(png|jpe?g|bmp|webp|tiff?)", re.IGNORECASE)


# ---------------------------------------------------------------- tables


def label_of(text: str) -> int:
    """0 for real, 1 for fake, in any of the forms of LABELS; raises ValueError for another text."""
    label = LABELS.get(text.strip().lower())
    if label is None:
        raise ValueError(f"label = {text!r}: write real or fake, or 0 (real) or 1 (fake)")
    return label


def split_of(text: str) -> str:
    """train, val or test, for any of the names in SPLITS; raises ValueError for another text."""
    split = SPLITS.get(text.strip().lower())
    if split is None:
        raise ValueError(f"split = {text!r}: write train, val or test")
    return split


def read_listing(path: Path, columns: Mapping[str, Sequence[str]], example: str) -> pd.DataFrame:
    """The rows of a user's CSV as texts; an empty field is NaN, and blank lines are left out.

    Fields are separated by commas, semicolons or tabs. The names of columns are in the first line,
    in any order and case. The index is the number of the line in the file, from 2 on.

    Args:
        path: The CSV, in UTF-8.
        columns: The required columns, each with the other names that it may have in the file.
        example: A first line that is right, for error messages.

    Raises :class:`DfnbError` where the file cannot be read, has no rows, or has a column twice, or
    lacks a required one.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            table = pd.read_csv(
                file,
                sep=separator,
                header=None,  # so that a column that occurs twice is seen
                dtype=str,
                keep_default_na=False,  # a method may be called NA
                na_values=[""],
                skip_blank_lines=False,  # so that messages can name the number of a line
            )
    except (OSError, ValueError):
        raise DfnbError(
            f"{path} is missing or cannot be read as a table; save it as CSV in UTF-8, with the "
            "names of columns in the first line, and no more fields in any other"
        ) from None
    names = table.loc[0].str.strip().str.lower()
    for name, others in columns.items():
        present = [other for other in (name, *others) if other in names.values]
        names = names.replace(dict.fromkeys(present[:1], name))  # the first that is there
    # A missing required column counts 0.
    counts = names.value_counts().reindex([*columns, *names.dropna()], fill_value=0)
    for name, count in counts.items():
        if count != 1:
            raise DfnbError(
                f"{path} has {count} columns {name} in place of one; its first line must name the "
                f"columns, such as {example}, with commas, semicolons or tabs between them"
            )
    is_named = names.notna()  # a line may end with a separator
    table = table.loc[1:, is_named].set_axis(names[is_named], axis=1)
    table = table.set_axis(table.index + 1).dropna(how="all")  # lines are numbered from 1
    if table.empty:
        raise DfnbError(f"{path} has no rows; write one per video or frame")
    return table


# ---------------------------------------------------------------- folders


def sorted_rows(names: Iterable[str]) -> list[dict[str, str]]:
    """Read label, split and method from paths: one row per real or fake file, in the given order.

    ``names`` are paths ``[train|val|test/]{real,fake,mask,original}/[<method>/][<clip>/]<file>``. A
    row has ``path``; ``label``, real or fake; and ``video``, the name of its video. Where it is
    known, it has ``split``, and for a fake ``method``, ``mask`` and ``original``. The last two are
    paths: that of the fake with another folder in place of fake/, and any suffix.

    **What is a video.** A file that is no image is a video. The images in a folder below real/ or
    fake/<method>/ are the frames of one video, and an image directly in real/, fake/ or
    fake/<method>/ is a video by itself. A folder fake/<name>/ may be a method or a clip: it is a
    clip where there are real images, all in folders, and it has no folders of images itself.
    """
    matches = {name: SORTED_PATH.fullmatch(name) for name in names}
    name_of_key = {_key(match): name for name, match in matches.items() if match}
    # The folders of images below real/ and fake/, each as a tuple, which is () for none.
    folders = {"real": set(), "fake": set()}
    for name, match in matches.items():
        if match and match["kind"].lower() in folders and IMAGE.fullmatch(name):
            folders[match["kind"].lower()].add(_folders(match))
    all_real_in_folders = bool(folders["real"]) and () not in folders["real"]
    methods = {parts[0] for parts in folders["fake"] if len(parts) > 1}  # with folders of images
    rows = []
    for name, match in matches.items():
        kind = match["kind"].lower() if match else ""
        if kind not in folders:  # else a mask, an original, or a file outside these folders
            continue
        parts = _folders(match)
        has_method = kind == "fake" and bool(parts)
        is_image = IMAGE.fullmatch(name)
        if is_image and len(parts) == 1 and parts[0] not in methods and all_real_in_folders:
            has_method = False  # the folder is a clip
        path = PurePosixPath(name)
        is_frame = is_image and len(parts) > has_method  # in a folder besides that of the method
        video = path.parent if is_frame else path.with_suffix("")
        row = {"path": name, "label": kind, "video": video.as_posix()}
        if match["split"]:
            row["split"] = split_of(match["split"])
        if has_method:
            row["method"] = parts[0]
        if kind == "fake":
            for column in ("mask", "original"):
                # The first "fake/" is the folder of the label, as SORTED_PATH demands.
                key = _key(match).replace("fake/", f"{column}/", 1)
                if key in name_of_key:
                    row[column] = name_of_key[key]
        rows.append(row)
    return rows


def _folders(match: re.Match) -> tuple[str, ...]:
    """The folders between that of the label and the file: swap and a of fake/swap/a/1.png.

    ``match``, here and below, is of SORTED_PATH.
    """
    return PurePosixPath(match["folders"] or "").parts


def _key(match: re.Match) -> str:
    """A path without suffix, its split and kind in lower case: by it a fake finds its mask."""
    start = match.end("kind")
    path = match.string
    return PurePosixPath(path[:start].lower() + path[start:]).with_suffix("").as_posix()


def frame_numbers(names: Sequence[str]) -> list[int]:
    """The numbers of a video's frames, from the ``names`` of their images, which are sorted.

    The last number in a name is that of the frame. Where two images have the same number, or one is
    too large, all are numbered in their order, from 0.
    """
    # The 0 is for names without any digit.
    numbers = [int(re.findall(r"\d+", f"0{PurePosixPath(name).stem}")[-1]) for name in names]
    if len(set(numbers)) < len(numbers) or max(numbers) >= 2**31:  # stored as int32
        return [*range(len(names))]
    return numbers
