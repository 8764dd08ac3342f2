"""The table of videos that a dataset is prepared from: one :class:`Video` per row.

Users list their own videos in a CSV, which :func:`read_csv` reads. For videos that are sorted into
folders, :func:`write_csv` writes this CSV, and :func:`in_place` uses their crops as they are.
Published datasets give the same table (:mod:`dfnb.data.published`). How paths, labels and splits
are read is in :mod:`dfnb.data.listings`.
"""

import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BeforeValidator

from dfnb.checks import Closed, DfnbError, Title
from dfnb.data.listings import IMAGE, label_of, read_listing, sorted_rows, split_of
from dfnb.files import sha256, write_bytes

# Videos and images are found by their suffixes. Formats that cannot be read are among them, so that
# their files are reported. A name that begins with a dot is hidden, and does not match.
MEDIA = re.compile(
    r"(?!\.).*\.(avif|bmp|gif|hei[cf]|jpe?g|png|tiff?|webp|3g[2p]|asf|avi|flv|h264|hevc|m2ts|m4v|mkv|mov|mp4|"
    r"mpe?g|mts|mxf|og[gv]|ts|vob|webm|wmv)",
    re.IGNORECASE,
)
LAYOUT = "[train|val|test/]{real,fake,mask,original}/[<method>/][<clip>/], a mask as its fake"

Files = Mapping[str, Path]  # path relative to a folder -> full path
Problems = dict[str, list[str]]  # description of a problem -> files that have it


@dataclass(frozen=True)
class Video:
    """One video of a dataset, and what is known about it; an image is a video of one frame.

    Attributes:
        name: Its name in the dataset, a path without suffix such as ``FaceSwap/000_003``.
        path: The file; with ``frames`` the first of them. With ``crops``: the folder that contains
            all crops of the dataset.
        label: 0 real, 1 fake.
        method: ``real``, or the name of the manipulation method.
        split: train, val or test.
        cluster: The name of a group of dependent videos, such as all those of a person. Confidence
            intervals resample whole clusters.
        identity: The person who is shown; in a fake the target.
        source: The donor of a fake.
        mask: A video that is white where the fake is forged, frame by frame; with ``frames`` one of
            their masks or the folder of them, if there is any.
        mask_threshold: A pixel of the mask is forged where its grey level, 0 to 255, is above this.
        original: The real video that the fake was made from, frame by frame. A fake without a mask
            is forged where it differs from it. With ``frames`` one of their originals or the
            folder of them.
        crops: Images of faces that are used in place, as pairs of an image and its mask, or "" for
            no mask. All are paths below ``path``.
        frames: The images that are the frames of a video, each with its mask or, in a video
            without any mask, its original; None where it has none.
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
    frames: tuple[tuple[Path, Path | None], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a fake whose method is called real: tables would count it among the real."""
        if self.label == 1 and self.method.lower() == "real":
            raise DfnbError(
                f"{self.name} is a fake of the method {self.method!r}; give this method, or its "
                "folder in fake/, another name"
            )

    @property
    def region_file(self) -> Path | None:
        """The mask, else the original, which gives the forged region.

        None: real, not known, or given in ``crops``.
        """
        return self.mask or self.original


class Row(Closed):
    """One line of a user's CSV; a missing column or an empty cell means the default."""

    path: str  # of a video, an image or a folder of images, relative to the folder of the CSV
    label: Annotated[int, BeforeValidator(label_of)]
    # The name of the video that an image is a frame of; default: its path below root, no suffix.
    video: str = ""
    method: Title = "fake"  # the manipulation method of a fake
    split: Annotated[Literal["train", "val", "test"], BeforeValidator(split_of)] = "test"
    identity: str = ""  # the person who is shown
    cluster: str = ""  # see Video; default: the identity, else the video
    # Of a fake; those of a real video are ignored.
    mask: str = ""  # path of a video, an image or a folder of images, white where it is forged
    original: str = ""  # path of what the fake was made from; without a mask, compared with it


# ---------------------------------------------------------------- a CSV


def read_csv(file: Path, root: Path) -> list[Video]:
    """Read the videos that a user's CSV lists; its columns are the fields of :class:`Row`.

    ``path`` may be called ``filename`` or ``file``. Paths are relative to the folder of the CSV, or
    absolute. A video is named by its column ``video`` or else by its path below ``root``, without
    the suffix. Images with the same ``video`` are the frames of one video.

    Raises :class:`DfnbError` for a file that cannot be read as CSV and, naming the line, for
    impossible values, for a ``path`` outside ``root``, and for frames of one video that disagree.
    For a folder without images the message names the folder instead.
    """
    folder = absolute(file.parent)
    root = absolute(root)
    table = read_listing(file, {"path": ("filename", "file"), "label": ()}, "path,label")
    rows_of_video = defaultdict(list)  # name or path of a video -> pairs (place of a row, Video)
    for line, cells in table.iterrows():
        place = f"{file}, line {line}"
        row = Row.check(cells.dropna().to_dict(), place)
        path = absolute(folder / row.path)  # row.path itself where that is absolute
        if not path.is_relative_to(root):
            raise DfnbError(
                f"{place}: {path} is outside {root}; move it into this folder, or "
                "name one above all videos by --root"
            )
        relative = path.relative_to(root)
        own_name = (relative if path.is_dir() else relative.with_suffix("")).as_posix()
        video = _row_video(row, own_name, folder)
        # Rows are joined by the column ``video``, unless it repeats the row's own path, as
        # :func:`write_csv` fills it in for a video of one file. So a.jpg and a.mp4 stay two videos
        # named "a", which :func:`dfnb.data.prepare.prepare` refuses.
        key = video.name if video.name != own_name else path
        rows_of_video[key].append((place, video))
    return [_joined(rows) for rows in rows_of_video.values()]


def _row_video(row: Row, own_name: str, folder: Path) -> Video:
    """The video of one row; where the row is one frame of a video, a video of this frame alone.

    ``own_name`` is the path of the row's file below the root of :func:`read_csv`, without suffix:
    the name of a video without another one. ``folder`` is that of the CSV.
    """
    path = absolute(folder / row.path)
    name = row.video or own_name
    mask = absolute(folder / row.mask) if row.label and row.mask else None
    original = absolute(folder / row.original) if row.label and row.original else None
    frames = ()
    if path.is_dir():
        region = mask or original
        # A mask or original has the name of its image, with any suffix.
        regions = {file.stem: file for file in _images(region)} if region else {}
        frames = tuple((image, regions.get(image.stem)) for image in _images(path))
        path = frames[0][0]
    elif name != own_name and IMAGE.fullmatch(path.name):  # one image of the video ``row.video``
        frames = ((path, mask or original),)
    return Video(
        name=name,
        path=path,
        label=row.label,
        method=row.method if row.label else "real",
        split=row.split,
        cluster=row.cluster or row.identity or name,  # the name: independent of all others
        identity=row.identity,
        mask=mask,
        original=original,
        frames=frames,
    )


def _images(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted; raises :class:`DfnbError` where there are none.

    Where a video is a folder of images, its masks and its original must be folders of them, too.
    """
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208
    # IMAGE alone would match hidden files, too.
    images = [folder / name for name in names if MEDIA.fullmatch(name) and IMAGE.fullmatch(name)]
    if not images:
        raise DfnbError(f"{folder} is no folder of images; name one, also for masks or originals")
    return images


def _joined(rows: Sequence[tuple[str, Video]]) -> Video:
    """Join the rows of one video, as pairs (place in the CSV, Video); a single one stays as it is.

    Raises :class:`DfnbError`, naming the place, for rows that cannot be frames of one video.
    """
    _, first = rows[0]
    if len(rows) == 1:
        return first
    masks = [video.mask for _, video in rows if video.mask]
    originals = [video.original for _, video in rows if video.original]
    frames = {}
    for place, video in rows:
        for field in ("label", "method", "split", "cluster", "identity"):
            if getattr(video, field) != getattr(first, field):
                raise DfnbError(
                    f"{place}: {video.path} is a frame of {first.name!r} with another {field} "
                    f"than {first.path}; correct it, or the column video"
                )
        # A video file, or an image that is listed twice, perhaps once by the name of its folder.
        repeated = [image for image, _ in video.frames if image in frames]
        if not video.frames or repeated:
            image = repeated[0] if repeated else video.path
            raise DfnbError(
                f"{place}: {image} is no other image of the video {first.name!r}; list each "
                "image once, and give a video file a name of its own in the column video"
            )
        for image, region in video.frames:
            # In a video with masks, an original does not stand in for a missing mask.
            frames[image] = region if video.mask or not masks else None
    return replace(
        first,
        path=min(frames),
        mask=next(iter(masks), None),
        original=next(iter(originals), None),
        frames=tuple(sorted(frames.items())),
    )


# ---------------------------------------------------------------- sorted folders


def write_csv(file: Path, root: Path, command: str) -> None:
    """Write the CSV of a folder that is sorted as :func:`dfnb.data.listings.sorted_rows` says.

    A file outside the folders of the splits belongs to the test split. The paths in the CSV are
    absolute. Files that are neither videos nor images by their suffix are ignored. The sha256 of
    what was written is kept beside ``file``: a file that the user has corrected is recognised by
    it, and is overwritten only where it says the same as the folder.

    Raises :class:`DfnbError` when ``root`` is no folder or has nothing to prepare, for videos and
    images that the CSV does not name, and where a corrected ``file`` differs from the folder. Then
    the message names ``command``, which prepares the corrected file.
    """
    files, rows = _files_and_rows(root)
    for row in rows:
        for column in ("path", "mask", "original"):
            row[column] = files.get(row.get(column))  # the full path; None where there is none
    # None becomes an empty cell: the default of Row.
    table = pd.DataFrame(rows, columns=list(Row.model_fields), dtype=object)
    # A name that is not UTF-8 is escaped. No file has the escaped name, so `dfnb prepare` will list
    # it as unusable.
    content = table.to_csv(index=False).encode(errors="backslashreplace")
    hash_file = file.with_name(f"{file.name}.sha256")
    if file.is_file() and file.read_bytes() != content:
        # In the form of the program sha256sum: the hash, then the name.
        written_hash = hash_file.read_text().split()[:1] if hash_file.is_file() else []
        if written_hash != [sha256(file)]:  # the user has corrected it
            # All as texts, an empty field too, as _differences makes them of the corrected file; a
            # method may be called NA.
            listed = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
            differences = _differences(file, listed)
            if differences:
                raise DfnbError(
                    f"{file} was corrected, and is not overwritten; it differs from {root}: "
                    f"{differences}; prepare it by `{command}`, or move it away to list the folder "
                    "again"
                )
    write_bytes(file, content)
    write_bytes(hash_file, f"{sha256(file)}  {file.name}\n".encode())


def _differences(file: Path, of_folder: pd.DataFrame) -> str:
    """How a corrected CSV differs from the table of the folder, in words; empty: it does not.

    ``of_folder`` is what :func:`write_csv` would write now, all as texts, one row per path.
    Columns that the CSV lacks do not count: an earlier version may have written it.
    """
    corrected = read_listing(file, {"path": ("filename", "file")}, "path,label").fillna("")
    # One row per path, because rows are compared by it: of a path that is listed twice, the first.
    corrected = corrected.drop_duplicates("path").set_index("path")
    of_folder = of_folder.set_index("path")
    of_folder = of_folder[[column for column in of_folder if column in corrected]]
    corrected = corrected[[*of_folder]]  # the same columns in the same order
    in_both = of_folder.index.intersection(corrected.index)
    differs = corrected.loc[in_both] != of_folder.loc[in_both]  # (paths, columns) bool
    changed = [
        f"{Path(path).name} ({', '.join(differs.columns[differs.loc[path]])})"
        for path in in_both[differs.any(axis=1)]
    ]
    problems = {
        "other values": changed,
        "not in the folder": [*corrected.index.difference(of_folder.index)],
        "not in the CSV": [*of_folder.index.difference(corrected.index)],
    }
    return "; ".join(sentences({problem: paths for problem, paths in problems.items() if paths}))


def in_place(root: Path) -> list[Video]:
    """The crops of a folder that is sorted like that of :func:`write_csv`, used as they are.

    Raises :class:`DfnbError` for a folder without images, and for videos, images of other formats
    and masks that :func:`dfnb.data.listings.sorted_rows` does not place.
    """
    _, rows = _files_and_rows(root, IMAGE)
    videos = {}
    for row in rows:
        name = row["video"]
        crop = (row["path"], row.get("mask", ""))
        # The name of a video is the path of its folder, or of its one image without suffix.
        is_frame = row["path"].startswith(f"{name}/")
        key = name if is_frame else row["path"]  # a.jpg and a.png stay two, and are refused later
        if key in videos:
            videos[key] = replace(videos[key], crops=(*videos[key].crops, crop))
            continue
        videos[key] = Video(
            name=name,
            path=absolute(root),
            label=label_of(row["label"]),
            method=row.get("method", row["label"]),  # "real", or "fake" for an unknown method
            split=row.get("split", "test"),
            cluster=name,  # independent of all others
            crops=(crop,),
        )
    return list(videos.values())


def _files_and_rows(root: Path, pattern: re.Pattern = MEDIA) -> tuple[Files, list[dict[str, str]]]:
    """All files below a folder, and the ``sorted_rows`` of the media that match the pattern.

    Raises :class:`DfnbError` where there are no rows, and for media that no row names.
    """
    files = files_below(root)
    media = [name for name in files if MEDIA.fullmatch(name)]
    rows = sorted_rows(filter(pattern.fullmatch, media))
    if not rows:
        if pattern is IMAGE:
            raise DfnbError(f"{root} contains no image to prepare; sort images into it: {LAYOUT}")
        raise DfnbError(
            f"{root} contains no file to prepare; sort its videos and images into real/ and "
            "fake/<method>/, or list them in a CSV, which accepts files of any suffix"
        )
    named = [row.get(column) for row in rows for column in ("path", "mask", "original")]
    refuse_unread(root, media, named, LAYOUT)
    return files, rows


def summary(videos: Sequence[Video]) -> str:
    """How many videos are given as images, of how many frames, and how many as one file each."""
    lengths = [len(video.crops or video.frames) for video in videos if video.crops or video.frames]
    n_files = len(videos) - len(lengths)
    parts = []
    if lengths:
        parts.append(f"{len(lengths)} videos of {sum(lengths)} frames")
    if n_files or not lengths:
        parts.append(f"{n_files} files that are a video each")
    return ", ".join(parts)


# ---------------------------------------------------------------- files


def absolute(path: Path) -> Path:
    """The path from the root of the file system, without ``..``; links in it stay."""
    return Path(os.path.normpath(path.absolute()))


def files_below(root: Path) -> Files:
    """The files below a folder, by their paths relative to it, sorted by these paths.

    Hidden files are ignored, and what is no file: a pipe, for example, could be read for ever.
    Links are followed, except into a folder that contains the link itself, which would never end.
    Raises :class:`DfnbError` where ``root`` is no folder.
    """
    if not root.is_dir():
        raise DfnbError(f"{root} is no folder; say where the files are")
    root = absolute(root)
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


def refuse_unread(root: Path, files: Iterable[str], read: Iterable[str], layout: str) -> None:
    """Raise :class:`DfnbError` for videos and images of ``files`` that are not in ``read``.

    All paths are relative to ``root``; ``files`` has no hidden ones. ``layout`` ends the message:
    how files should be sorted.
    """
    unread = sorted({*filter(MEDIA.fullmatch, files)} - {*read})
    if unread:
        tops = {name.split("/")[0] if "/" in name else "the folder itself" for name in unread}
        folders = ", ".join(sorted(tops))
        raise DfnbError(
            f"{root} contains {len(unread)} videos or images that are not read, such as "
            f"{unread[0]}, in {folders}; move them elsewhere, or sort them: {layout}"
        )


def sentences(problems: Problems) -> list[str]:
    """One sentence per problem, with the number of its files and the first three, if it has any."""
    lines = []
    for problem, names in problems.items():
        files = f": {len(names)} ({', '.join(names[:3])})" if names else ""
        lines.append(problem + files)
    return lines
