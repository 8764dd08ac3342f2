"""The table of videos that a dataset is prepared from: one :class:`Video` per row.

Users list their files in a CSV, which :func:`read_csv` reads, or sort them into folders, which
:func:`read_folder` turns into the same list. Each has one form, and anything else is refused: what
a file is, is never guessed. Published datasets give the same table
(:mod:`facesets.published`).
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd

from facesets.checks import Closed, DfnbError, explained
from facesets.decode import IMAGE, MEDIA
from facesets.pictures import Unusable

# The path of a real or fake file in a sorted folder.
SORTED = re.compile(
    r"((?P<split>train|val|test)/)?(real|(?P<fake>fake)(/(?P<method>[^/]+))?)/(?P<below>.+)",
    re.DOTALL,
)
LAYOUT = (
    "[train|val|test/]real/ and [train|val|test/]fake/<method>/, the images of a clip in a folder "
    "of its own, masks at the same path below mask/, originals below original/"
)
PATHS = ("path", "mask", "original")  # the columns of a list that name files
RECIPE = "docs/your-data.md, 'A list from anything else', has the lines of pandas that write it"

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

    @property
    def region_file(self) -> Path | None:
        """The mask, else the original, which gives the forged region.

        None: real, not known, or of ``crops``, whose masks are in ``frames``.
        """
        return self.mask or self.original


class Row(Closed):
    """One line of a list; a missing column or an empty cell means the default."""

    path: str  # of a video, an image or a folder of images, relative to the folder of the list
    label: Literal["real", "fake"]
    # The name of the video that an image is a frame of; default: its path below root, no suffix.
    video: str = ""
    method: str = "fake"  # the manipulation method of a fake
    split: Literal["train", "val", "test"] = "test"
    identity: str = ""  # the person who is shown
    # See Video; default: the identity, else the video; of a fake that of its original in the list.
    cluster: str = ""
    # Of a fake; those of a real video are ignored.
    mask: str = ""  # path of a video, an image or a folder of images, white where it is forged
    original: str = ""  # path of what the fake was made from; without a mask, compared with it


# ---------------------------------------------------------------- a list


def read_csv(file: Path, root: Path) -> list[Video]:
    """Read the videos that a user's CSV lists; its columns are the fields of :class:`Row`.

    It is in UTF-8, with commas. Paths are relative to its folder, or absolute. A video is named by
    its column ``video`` or else by its path below ``root``, without the suffix. Images with the
    same ``video`` are the frames of one video.

    Raises :class:`DfnbError` for another form, naming the line of impossible values and missing
    files, for a ``path`` outside ``root``, for files that are listed twice, and for frames of one
    video that disagree.
    """
    with explained(file, "as a list of videos", f"correct it or --root; {RECIPE}"):
        table = pd.read_csv(
            file,
            encoding="utf-8-sig",
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,  # so that lines are numbered as an editor does
        )
        # pandas takes the first cells for an index where lines have more cells than the first one.
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("a line has more cells than there are columns")
        rows = []
        for line, cells in enumerate(table.to_dict("records"), 2):
            cells = {column: _cell(column, text) for column, text in cells.items()}
            if given := {column: text for column, text in cells.items() if text}:
                rows.append(Row.check(given, f"{file}, line {line}"))
                _refuse_missing(rows[-1], file.parent, f"{file}, line {line}")
        if not rows:
            raise ValueError("it lists nothing")
        return _videos(rows, absolute(file.parent), absolute(root))


def _cell(column: str, text: str) -> str:
    """A cell of a list without blanks around it, which would make two methods or people of one."""
    # Names that look alike are equal; a path must stay as the file system has it.
    return text.strip() if column in PATHS else _composed(text.strip())


def _composed(text: str) -> str:
    """A text in Unicode's composed form, NFC, by which names that look alike are equal."""
    return unicodedata.normalize("NFC", text)


def _refuse_missing(row: Row, folder: Path, place: str) -> None:
    """Raise :class:`DfnbError`, which begins with ``place``, where a file of a row is not there."""
    for path in (folder / cell for cell in (row.path, row.mask, row.original) if cell):
        if not path.exists():
            raise DfnbError(
                f"{place}: there is no {path}; correct it (an accent is one letter or two, by its "
                "form of Unicode), or remove the line"
            )


def _videos(rows: Iterable[Row], folder: Path, root: Path) -> list[Video]:
    """The videos that rows describe; their paths are relative to ``folder``, names to ``root``.

    Raises OSError or ValueError for a file in two rows or outside ``root``, for rows of one video
    that disagree, and for a folder without images, or without a mask or original of one.
    """
    rows_of_video = defaultdict(list)
    for row in rows:
        rows_of_video[row.video or absolute(folder / row.path)].append(row)
    videos = [_video(group, folder, root) for group in rows_of_video.values()]
    real_of = {}  # the path of a real video, or of one of its frames -> its cluster
    for video, group in zip(videos, rows_of_video.values()):
        if not video.label:
            real_of |= {absolute(folder / row.path): video.cluster for row in group}
    for number, (video, group) in enumerate(zip(videos, rows_of_video.values())):
        if video.original in real_of and not (group[0].cluster or group[0].identity):
            videos[number] = replace(video, cluster=real_of[video.original])
    times = Counter(chain(*([image for image, _ in each.frames] or [each.path] for each in videos)))
    if repeated := [file for file, n in times.items() if n > 1]:
        raise ValueError(f"{repeated[0]} is listed twice")
    return videos


def _video(rows: Sequence[Row], folder: Path, root: Path) -> Video:
    """The video of a row, or of the rows that have its frames; raises as :func:`_videos`."""

    def place(cell: str) -> Path | None:
        return absolute(folder / cell) if cell and is_fake else None

    first = rows[0]
    is_fake = first.label == "fake"
    path = absolute(folder / first.path)
    own_name = path.relative_to(root)
    own_name = (own_name if path.is_dir() else own_name.with_suffix("")).as_posix()
    name = first.video or own_name
    if len({row.model_copy(update=dict.fromkeys(PATHS)) for row in rows}) > 1:
        raise ValueError(f"the lines of the video {name!r} differ in more than their files")
    masks = [place(row.mask) for row in rows]
    originals = [place(row.original) for row in rows]
    frames = []
    if len(rows) > 1 or path.is_dir() or (IMAGE.fullmatch(path.name) and name != own_name):
        # In a video with masks, an original does not stand in for a missing mask.
        for row, region in zip(rows, masks if any(masks) else originals):
            frames += _frames(absolute(folder / row.path), region)
        frames.sort(key=lambda pair: pair[0])
    return Video(
        name=name,
        path=frames[0][0] if frames else path,
        label=int(is_fake),
        method=first.method if is_fake else "real",
        split=first.split,
        cluster=first.cluster or first.identity or name,  # the name: independent of others
        identity=first.identity,
        mask=next(filter(None, masks), None),
        original=next(filter(None, originals), None),
        frames=tuple(frames),
    )


def _frames(path: Path, region: Path | None) -> list[tuple[Path, Path | None]]:
    """An image with its mask or original, or all of a folder with those of their names."""
    if not path.is_dir():
        return [(path, region)]
    # Videos, too: the reason why the clip is unusable then names them.
    images, others = (
        [file for file in sorted(each.iterdir()) if MEDIA.fullmatch(file.name)] if each else []
        for each in (path, region)
    )
    regions = {_composed(file.stem): file for file in others}
    frames = [(image, regions.get(_composed(image.stem))) for image in images]
    if not images or (region and not any(other for _, other in frames)):
        raise ValueError(f"no image in {region or path} has the name of a frame in {path}")
    return frames


# ---------------------------------------------------------------- sorted folders


def read_folder(root: Path) -> list[Video]:
    """The videos of a folder that is sorted as :data:`LAYOUT` says: it becomes a list of its files.

    A fake and the real video at the same path below real/ are one clip: they share a cluster.
    A file that is no image is a video. The images of a tree are either frames, each clip in a
    folder of its own, or all lie directly in real/ or fake/<method>/: then each is a video by
    itself. A file directly in fake/ has the method "fake". A line is printed that counts the files
    that are neither videos nor images by their suffix.

    Raises :class:`DfnbError` where ``root`` is no folder, for videos and images that are sorted
    otherwise, and where only some lie in a split, or only some images in folders of clips.
    """
    files = files_below(root)
    media = [name for name in files if MEDIA.fullmatch(name)]
    if other := sorted({*files} - {*media}):
        names = ", ".join(map(printable, other[:3]))
        print(f"not read: {len(other)} files that are no videos or images, such as {names}")
    name_of_stem = {_stem(name): name for name in media}
    matches = {name: match for name in media if (match := SORTED.fullmatch(name))}
    rows = {}  # path of a video -> cells of its row
    read = []
    for name, match in matches.items():
        cells = {"path": name}
        for kind in ("mask", "original") if match["fake"] else ():
            if region := name_of_stem.get(_stem(name).replace("fake/", f"{kind}/", 1)):
                cells[kind] = region
        read += cells.values()
        is_frame = IMAGE.fullmatch(name) and "/" in match["below"]
        if is_frame:  # its folder is the video
            cells = {kind: PurePosixPath(path).parent.as_posix() for kind, path in cells.items()}
        real = match["fake"] and name_of_stem.get(_stem(f"{match[1] or ''}real/{match['below']}"))
        if real:  # the same clip: its cluster has the name of the real video
            path = PurePosixPath(real)
            cells["cluster"] = (path.parent if is_frame else path.with_suffix("")).as_posix()
        label = match["fake"] or "real"
        method = _composed(match["method"] or label)
        facts = {"label": label, "method": method, "split": match["split"] or "test"}
        rows.setdefault(cells["path"], facts).update(cells)
    refuse_unread(root, media, read, LAYOUT)
    _refuse_mixture(root, matches)
    if not rows:
        raise DfnbError(f"{root} contains no video or image that is sorted so: {LAYOUT}")
    # Not checked as a user's cells: prepare refuses names that are not UTF-8.
    made = [Row.model_construct(**cells) for cells in rows.values()]
    with explained(root, "as a sorted folder", f"sort it so: {LAYOUT}"):
        return _videos(made, absolute(root), absolute(root))


def _refuse_mixture(root: Path, matches: Mapping[str, re.Match]) -> None:
    """Raise :class:`DfnbError` where only some files lie in a split, or some images in clips."""
    in_split = {name: bool(match["split"]) for name, match in matches.items()}
    in_clip = {name: "/" in matches[name]["below"] for name in filter(IMAGE.fullmatch, matches)}
    for what, is_in in {"split": in_split, "clip": in_clip}.items():
        examples = {inside: printable(name) for name, inside in is_in.items()}
        if len(examples) == 2:
            raise DfnbError(
                f"{root}: {examples[True]} lies in the folder of a {what}, and {examples[False]} "
                "does not; sort all alike, or write a list of them"
            )


def _stem(name: str) -> str:
    """A path without its suffix, in one form of Unicode."""
    return PurePosixPath(_composed(name)).with_suffix("").as_posix()


def summary(videos: Sequence[Video]) -> str:
    """How many videos are given as images, of how many frames, and how many as one file each.

    And of how many nobody knows who is in them.
    """
    lengths = [len(video.frames) for video in videos if video.frames]
    names = {video.name for video in videos}
    n_files = len(videos) - len(lengths)
    parts = []
    if lengths:
        parts.append(f"{len(lengths)} videos of {sum(lengths)} frames")
    if n_files or not lengths:
        parts.append(f"{n_files} files that are a video each")
    unknown = [video for video in videos if not video.identity and video.cluster in names]
    text = f"; nobody knows who is in {len(unknown)} of them: each counts as a person of its own"
    return ", ".join(parts) + (text if unknown else "")


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
            name = path.relative_to(root).as_posix()
            is_hidden = "/." in f"/{name}"  # itself, or a folder that it is in
            # A link to what is not there counts, so that it is listed as unusable.
            if not is_hidden and (path.is_symlink() or path.is_file()):
                files[name] = path
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
    if unread := sorted({*filter(MEDIA.fullmatch, files)} - {*read}):
        raise DfnbError(
            f"{root} contains {len(unread)} videos or images that are not read, such as "
            f"{printable(unread[0])}; move them elsewhere, or sort them: {layout}"
        )


def sentences(problems: Problems) -> list[str]:
    """One sentence per problem, with the number of its files and the first three, if it has any."""
    lines = []
    for problem, names in problems.items():
        files = f": {len(names)} ({', '.join(names[:3])})" if names else ""
        lines.append(problem + files)
    return lines


def printable(name: str) -> str:
    """A name of a file for a message: bytes that are not UTF-8 are written as \\xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")


def frame_numbers(names: Sequence[str]) -> list[int]:
    """The numbers of a video's frames, from the ``names`` of their images, which are sorted.

    The last number in a name is that of the frame or, in names such as ``10_0`` of which all end
    alike, the one before. Where two images have the same number, or one is too large, all are
    numbered in their order, from 0.

    Raises :class:`Unusable` where names end in the number of a face, as ``10_0`` and ``10_1``: each
    face is another person, and of a fake perhaps one alone is forged.
    """
    # The zeros are for names with fewer numbers.
    found = [re.findall(r"\d+", f"0 0 {PurePosixPath(name).stem}")[-2:] for name in names]
    before, last = (list(map(int, numbers)) for numbers in zip(*found))
    is_face = len(set(last)) < len(last) and len({*zip(before, last)}) == len(last)
    if is_face and len(set(last)) > 1:
        raise Unusable(
            f"its images are named by frame and face, such as {names[0]} and {names[-1]}: give "
            "each face a folder of its own, with the label of that face"
        )
    numbers = before if is_face else last
    if len(set(numbers)) < len(numbers) or max(numbers) >= 2**31:  # stored as int32
        return [*range(len(names))]
    return numbers
