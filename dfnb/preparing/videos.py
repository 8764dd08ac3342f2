"""The table of videos that a dataset is prepared from: one :class:`Video` per row.

Users sort their own files into folders, which :func:`read_folder` reads, or list them in a CSV,
which :func:`read_csv` reads. Each has one form, and anything else is refused: what a file is, is
never guessed. Published datasets give the same table (:mod:`dfnb.preparing.published`).
"""

import csv
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator

from dfnb.checks import Closed, DfnbError, Title, suggestion
from dfnb.preparing.decode import IMAGE, MEDIA

# The path of a real or fake file in a sorted folder.
SORTED = re.compile(
    r"((?P<split>train|val|test)/)?(real|(?P<fake>fake)(/(?P<method>[^/]+))?)/(?P<below>.+)",
    re.DOTALL,
)
LAYOUT = (
    "[train|val|test/]real/ and [train|val|test/]fake/<method>/, the images of a clip in a folder "
    "of its own, masks at the same path below mask/, originals below original/"
)
PATHS = ("path", "mask", "original")  # the columns of a CSV that name files
# What begins or ends a cell without being seen, and control characters anywhere in it.
INVISIBLE = re.compile(r"^[\s\ufeff\u200b-\u200f]|[\s\ufeff\u200b-\u200f]$|[\x00-\x1f\x7f]")
RECIPE = "docs/own.md, under 'A list from anything else', has the lines of pandas that write it"

Files = Mapping[str, Path]  # path relative to a folder -> full path
Problems = dict[str, list[str]]  # description of a problem -> files that have it


@dataclass(frozen=True)
class Video:
    """One video of a dataset, and what is known about it; an image is a video of one frame.

    Attributes:
        name: Its name in the dataset, a path without suffix such as ``FaceSwap/000_003``.
        path: The file; with ``frames`` the first of them.
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
        difference: How the forged region is found by the original: the ``pixels`` that differ, or
            their convex ``hull`` in the face.
        crops: Whether the ``frames`` are faces that others have cut out, and become frames of the
            dataset as they are. Then they have masks or None, and ``mask`` and ``original`` are
            None.
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
    difference: Literal["pixels", "hull"] = "pixels"
    crops: bool = False
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

        None: real, not known, or of ``crops``, whose masks are in ``frames``.
        """
        return self.mask or self.original


def label_of(text: str) -> int:
    """0 for real, 1 for fake; raises ValueError for another text."""
    if text not in {"real", "fake"}:
        raise ValueError(f"label = {text!r}: write real or fake")
    return int(text == "fake")


class Row(Closed):
    """One line of a user's CSV; a missing column or an empty cell means the default."""

    path: str  # of a video, an image or a folder of images, relative to the folder of the CSV
    label: Annotated[int, BeforeValidator(label_of)]
    # The name of the video that an image is a frame of; default: its path below root, no suffix.
    video: str = ""
    method: Title = "fake"  # the manipulation method of a fake
    split: Literal["train", "val", "test"] = "test"
    identity: str = ""  # the person who is shown
    cluster: str = ""  # see Video; default: the identity, else the video
    # Of a fake; those of a real video are ignored.
    mask: str = ""  # path of a video, an image or a folder of images, white where it is forged
    original: str = ""  # path of what the fake was made from; without a mask, compared with it


# ---------------------------------------------------------------- a CSV


def read_csv(file: Path, root: Path) -> list[Video]:
    """Read the videos that a user's CSV lists; its columns are the fields of :class:`Row`.

    Paths are relative to the folder of the CSV, or absolute. A video is named by its column
    ``video`` or else by its path below ``root``, without the suffix. Images with the same ``video``
    are the frames of one video.

    Raises :class:`DfnbError`, naming the line, for anything that :func:`_rows` refuses, for
    impossible values, for files that are missing or listed twice, for a ``path`` outside ``root``,
    and for frames of one video that disagree.
    """
    folder = absolute(file.parent)
    root = absolute(root)
    line_of_path = {}
    rows_of_video = defaultdict(list)  # name or path of a video -> pairs (place of a row, Video)
    for line, cells in _rows(file):
        place = f"{file}, line {line}"
        row = Row.check(cells, place)
        path = absolute(folder / row.path)  # row.path itself where that is absolute
        if not path.is_relative_to(root):
            raise DfnbError(
                f"{place}: {path} is outside {root}; move it into this folder, or "
                "name one above all videos by --root"
            )
        if path in line_of_path:
            raise DfnbError(f"{place}: {path} is in line {line_of_path[path]}, too; list it once")
        line_of_path[path] = line
        for column in PATHS:
            if given := getattr(row, column):
                _refuse_missing(folder / given, f"{place}, {column}")
        relative = path.relative_to(root)
        own_name = (relative if path.is_dir() else relative.with_suffix("")).as_posix()
        video = _row_video(row, own_name, folder, place)
        # Rows are joined by the column ``video``, unless it repeats the row's own path. So a.jpg
        # and a.mp4 stay two videos named "a", which :func:`dfnb.preparing.prepare.prepare` refuses.
        key = video.name if video.name != own_name else path
        rows_of_video[key].append((place, video))
    return [_joined(rows) for rows in rows_of_video.values()]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV, each with the number of its line, without their empty cells.

    A CSV is in UTF-8, with or without a byte order mark; commas separate its cells, and its first
    line has the names of the columns. Blank lines are left out. Raises :class:`DfnbError` for
    anything else, and for a cell that begins or ends with a blank.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            numbered = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DfnbError(f"{file} is no CSV in UTF-8 ({error}); {RECIPE}") from None
    if len(numbered) < 2:
        raise DfnbError(f"{file} lists nothing; {RECIPE}")
    line, columns = numbered[0]
    _check_columns(columns, f"{file}, line {line}")
    for line, cells in numbered[1:]:
        place = f"{file}, line {line}"
        if len(cells) != len(columns):
            raise DfnbError(
                f"{place} has {len(cells)} cells for the {len(columns)} columns of the first line; "
                'write one per column, and a text with a comma in quotes, as in "a, b"'
            )
        for column, cell in zip(columns, cells):
            if INVISIBLE.search(cell):
                raise DfnbError(
                    f"{place}: {column} = {cell!a}: remove the blank or invisible character"
                )
        # Names that look alike are equal; a path must stay as the file system has it.
        yield (
            line,
            {
                column: cell if column in PATHS else _composed(cell)
                for column, cell in zip(columns, cells)
                if cell
            },
        )


def _check_columns(columns: Sequence[str], place: str) -> None:
    """Raise :class:`DfnbError` for columns that are not those of :class:`Row`, each at most once.

    ``place`` begins the message.
    """
    known = [*Row.model_fields]
    unknown = [column for column in columns if column not in known]
    if unknown or len({*columns}) < len(columns) or not {"path", "label"} <= {*columns}:
        hint = suggestion(unknown[0], known) if unknown else ""
        raise DfnbError(
            f"{place}: the columns are {','.join(columns)!r}; write path,label and any others of "
            f"{','.join(known[2:])}, each once and with commas between them; {RECIPE}{hint}"
        )


def _refuse_missing(path: Path, place: str) -> None:
    """Raise :class:`DfnbError` where a file that a CSV names is not there; ``place`` begins it."""
    if path.exists():
        return
    nearby = path.parent.iterdir() if path.parent.is_dir() else ()
    for other in nearby:
        if _composed(other.name) == _composed(path.name):
            raise DfnbError(
                f"{place}: {path} is not there, but a file whose name has the same letters in "
                "another form of Unicode, NFC or NFD (as a Mac writes it); write both in one form"
            )
    raise DfnbError(f"{place}: there is no {path}; correct it, or remove the line")


def _composed(text: str) -> str:
    """A text in Unicode's composed form, NFC, by which names that look alike are equal."""
    return unicodedata.normalize("NFC", text)


def _row_video(row: Row, own_name: str, folder: Path, place: str) -> Video:
    """The video of one row; where the row is one frame of a video, a video of this frame alone.

    ``own_name`` is the path of the row's file below the root of :func:`read_csv`, without suffix:
    the name of a video without another one. ``folder`` is that of the CSV. Raises
    :class:`DfnbError`, which begins with ``place``, for a folder without images.
    """
    path = absolute(folder / row.path)
    name = row.video or own_name
    mask = absolute(folder / row.mask) if row.label and row.mask else None
    original = absolute(folder / row.original) if row.label and row.original else None
    frames = ()
    if path.is_dir():
        region = mask or original
        # A mask or original has the name of its image, with any suffix.
        regions = {_composed(file.stem): file for file in _images(region, place)} if region else {}
        frames = tuple(
            (image, regions.get(_composed(image.stem))) for image in _images(path, place)
        )
        if region and not any(other for _, other in frames):
            raise DfnbError(
                f"{place}: no image in {region} has the name of a frame in {path}; name masks and "
                "originals as the frames, with any suffix"
            )
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


def _images(folder: Path, place: str) -> list[Path]:
    """The images directly in a folder, sorted; raises :class:`DfnbError` where there are none.

    Where a video is a folder of images, its masks and its original must be folders of them, too.
    """
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208
    media = [name for name in names if MEDIA.fullmatch(name)]  # so no hidden file
    images = [folder / name for name in media if IMAGE.fullmatch(name)]
    if others := [name for name in media if not IMAGE.fullmatch(name)]:
        raise DfnbError(
            f"{place}: {shown(others[0])} in {folder} cannot be a frame; save it as PNG, or move it"
        )
    if not images:
        raise DfnbError(
            f"{place}: {folder} is no folder of images; name one, also for masks or originals"
        )
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


def read_folder(root: Path) -> list[Video]:
    """The videos of a folder that is sorted as :data:`LAYOUT` says.

    A file that is no image is a video. The images of a tree are either frames, each clip in a
    folder of its own, or all lie directly in real/ or fake/<method>/: then each is a video by
    itself. A file directly in fake/ has the method "fake". Files that are neither videos nor images
    by their suffix are not read; a line is printed that names them.

    Raises :class:`DfnbError` where ``root`` is no folder, as :func:`_sorted_files`, and where some
    images lie in folders of clips, and others do not.
    """
    files = files_below(root)
    matches, regions = _sorted_files(root, files)
    for sentence in sentences(_ignored(files)):
        print(sentence)
    is_frame = {  # image -> whether it is a frame of a clip, in whose folder it lies
        name: "/" in match["below"] for name, match in matches.items() if IMAGE.fullmatch(name)
    }
    _refuse_mixture(root, "in the folder of a clip", is_frame)
    names_of_video = defaultdict(list)
    for name in matches:
        # A file keeps its suffix here: so a.jpg and a.png are two videos, which prepare refuses.
        key = PurePosixPath(name).parent.as_posix() if is_frame.get(name) else name
        names_of_video[key].append(name)
    videos = []
    for key, names in names_of_video.items():
        match = matches[names[0]]
        name = key if is_frame.get(names[0]) else PurePosixPath(key).with_suffix("").as_posix()
        video = Video(
            name=name,
            path=files[names[0]],
            label=1 if match["fake"] else 0,
            method=_composed(match["method"] or match["fake"] or "real"),
            split=match["split"] or "test",
            cluster=name,  # independent of all others
        )
        # Of each file: itself, its mask and its original; None for one that is not there.
        paths = [[files.get(path) for path in (name, *regions[name])] for name in names]
        videos.append(_with_regions(video, paths, is_clip=name == key))
    return videos


def _sorted_files(
    root: Path, files: Files
) -> tuple[dict[str, re.Match], dict[str, tuple[str, str]]]:
    """The real and fake files among ``files``: path -> match of SORTED, and path -> _regions.

    Raises :class:`DfnbError` where there are none, for videos and images that are not sorted as
    :data:`LAYOUT` says, and where some lie in a split, and others do not.
    """
    media = [name for name in files if MEDIA.fullmatch(name)]
    matches = {}
    for name in media:
        if match := SORTED.fullmatch(name):
            matches[name] = match
    if not matches:
        raise DfnbError(
            f"{root} contains no video or image that is sorted so: {LAYOUT}; or write a CSV"
        )
    regions = _regions(matches, media)
    refuse_unread(root, media, chain(matches, *regions.values()), LAYOUT)
    splits = {name: bool(match["split"]) for name, match in matches.items()}
    _refuse_mixture(root, "in the folder of a split", splits)
    return matches, regions


def _regions(matches: Mapping[str, re.Match], media: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The paths of the mask and of the original of each real or fake file, "" where it has none.

    They have the path of the fake with another folder in place of fake/, and any suffix. Paths are
    compared in one form of Unicode.
    """

    def key(name: str) -> str:
        return PurePosixPath(_composed(name)).with_suffix("").as_posix()

    name_of_key = {key(name): name for name in media}
    regions = {}
    for name, match in matches.items():
        before, _, below = f"/{key(name)}".partition("/fake/")
        keys = [f"{before}/{kind}/{below}".removeprefix("/") for kind in ("mask", "original")]
        mask, original = (name_of_key.get(each, "") for each in keys)
        regions[name] = (mask, original) if match["fake"] else ("", "")
    return regions


def _ignored(files: Files) -> Problems:
    """The files that are not read because they are no videos or images by their names."""
    problems = defaultdict(list)
    for name, path in files.items():
        if not MEDIA.fullmatch(name):
            kind = PurePosixPath(name).suffix or "names without a suffix"
            # A link may lead to a folder of videos that is not mounted.
            what = f"not read: {kind}" if path.exists() else "not read: links to what is not there"
            problems[what].append(shown(name))
    return problems


def _refuse_mixture(root: Path, what: str, is_so: Mapping[str, bool]) -> None:
    """Raise :class:`DfnbError` where only some of the files, relative to ``root``, lie ``what``."""
    if len({*is_so.values()}) == 2:
        yes, no = (
            shown(next(name for name in is_so if is_so[name] is value)) for value in (True, False)
        )
        raise DfnbError(
            f"{root}: {yes} lies {what}, and {no} does not; sort all alike, or list them in a CSV: "
            f"{RECIPE}"
        )


def _with_regions(video: Video, paths: Sequence[Sequence[Path | None]], is_clip: bool) -> Video:
    """Add to a video of a sorted folder its mask and original and, to a clip, its frames.

    ``paths`` are its files, each with its mask and its original, or None.
    """
    masks = [mask for _, mask, _ in paths if mask]
    originals = [original for _, _, original in paths if original]
    # In a video with masks, an original does not stand in for a missing mask.
    frames = sorted((image, mask if masks else original) for image, mask, original in paths)
    return replace(
        video,
        mask=next(iter(masks), None),
        original=next(iter(originals), None),
        frames=tuple(frames) if is_clip else (),
    )


def summary(videos: Sequence[Video]) -> str:
    """How many videos are given as images, of how many frames, and how many as one file each."""
    lengths = [len(video.frames) for video in videos if video.frames]
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
    Raises :class:`DfnbError` where ``root`` is no folder, or a folder in it may not be read.
    """
    if not root.is_dir():
        raise DfnbError(f"{root} is no folder; say where the files are")
    root = absolute(root)
    files = {}
    for folder, subfolders, names in os.walk(root, onerror=_refuse_closed, followlinks=True):
        here = Path(folder)
        if any(map(here.samefile, here.parents)):  # a link has led back to a folder above itself
            subfolders.clear()  # so os.walk goes no deeper
            continue
        for path in map(here.joinpath, names):
            relative = path.relative_to(root).as_posix()
            is_hidden = "/." in f"/{relative}"  # itself, or a folder that it is in
            # isfile, because Path.is_file raises an error for a link into a forbidden folder. A
            # link to a file that is not there counts, so that it is listed as unusable.
            is_dangling = path.is_symlink() and not os.path.exists(path)  # noqa: PTH110
            if not is_hidden and (is_dangling or os.path.isfile(path)):  # noqa: PTH113
                files[relative] = path
    return dict(sorted(files.items()))


def _refuse_closed(error: OSError) -> None:
    """Raise :class:`DfnbError` for a folder that cannot be listed."""
    raise DfnbError(
        f"{error.filename} cannot be read ({error.strerror}); allow it, or move it away"
    )


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
            f"{shown(unread[0])}, in {shown(folders)}; move them elsewhere, or sort them: {layout}"
        )


def sentences(problems: Problems) -> list[str]:
    """One sentence per problem, with the number of its files and the first three, if it has any."""
    lines = []
    for problem, names in problems.items():
        files = f": {len(names)} ({', '.join(names[:3])})" if names else ""
        lines.append(problem + files)
    return lines


def shown(name: str) -> str:
    """A name of a file for a message: bytes that are not UTF-8 are written as \\xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")


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
