"""From videos to a dataset of crops: find the faces, cut them out alike, list what failed.

Faces are looked for in evenly spaced frames of a video. How many frames it has is guessed from its
number of packets; where the guess is wrong, the video is decoded twice. Real and fake faces are cut
by the same geometry. A video without a usable face goes to a quarantine list with its reason. Crops
that others have made become frames as they are. On demand all videos are encoded again alike
before, so that their compression does not tell real from fake.
"""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count, product, repeat
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

import cv2
import joblib
import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from facesets import codecs
from facesets.checks import TITLE, Closed, DfnbError, check_name
from facesets.decode import (
    IMAGE,
    decode,
    explained_as_unusable,
    guess_length,
    read_image,
)
from facesets.faces import Detection, YuNet, detect
from facesets.files import (
    TEMPORARY,
    dataset_folder,
    digest,
    explain_writing,
    locked,
    read_json,
    write_bytes,
)
from facesets.frames import (
    OWN_MARK,
    crop_hash,
    half_of_two_levels,
    read_crop,
    refuse_foreign_dataset,
    refuse_foreign_files,
    refuse_overlap,
    remove_video,
    write_dataset,
    write_video,
)
from facesets.pictures import Unusable
from facesets.videos import Video, frame_numbers, printable, sentences
from facesets.workers import in_parallel

DIFFERENCE_THRESHOLD = 25  # grey levels; a pixel is forged where it differs more from its original
LEAST_DIFFERENCE = 6  # grey levels; the threshold of a hull is between this and the one above
FORGED_OVAL = 1.1  # of a hull: the oval in which it is, in widths and heights of the detected face
FACE_OVAL = 1.5  # in the same unit: what is outside of this oval is beside the face
# Of a video's frames: where fewer show several faces, the others count as mistakes of the detector
# and passers-by, and each frame gives its largest face.
SEVERAL_PEOPLE = 0.25
MOST_PEOPLE = 4  # of a frame with more faces, so many of the largest are cut out and followed
MOST_BESIDE = 0.01  # share of the pixels beside the face that may differ in a pair of videos
MIN_SIZE = 32  # side of a crop in pixels
REENCODED_RATE = 25  # frames per second; one for all videos, because it changes the compression
VIDEO_COLUMNS = ("split", "cluster", "identity", "source", "method", "label")  # one value per video
# Folder names that are neither empty nor hidden nor too long for a file system, joined by slashes.
VIDEO_NAME = re.compile(r"[^/.][^/]{0,200}(/[^/.][^/]{0,200})*")


class Settings(Closed):
    """How crops are cut; the videos and the detector decide the rest."""

    # Side of a crop in pixels. The limit is that of forged frames: prepare_picture cuts alike.
    size: int = Field(256, ge=MIN_SIZE, le=2048)
    scale: float = Field(1.3, ge=1, le=4)  # side of a crop / longer side of the face
    stride: int = Field(1, ge=1)  # only every stride-th frame is used
    frames_per_video: int | None = Field(None, ge=1)  # of these at most, evenly spaced; None: all
    min_face: int = Field(32, ge=8)  # a face's longer side has at least so many source pixels
    # Videos are encoded again as H.264 at this constant rate factor before faces are found and cut;
    # None: they are not. Masks come from the files as they are. Recorded only where it is set, as
    # older datasets lack it.
    reencode: int | None = Field(None, ge=0, le=51, exclude_if=lambda crf: crf is None)


class NoFace(Unusable):
    """No usable face was found in any of the wanted frames of a video; ``frames`` counts these."""

    def __init__(self, reason: str, frames: int) -> None:
        super().__init__(reason)
        self.frames = frames


# ---------------------------------------------------------------- geometry


class Face(NamedTuple):
    """One face, cut out of a frame of a video. Its pixels are in a file, see :func:`kept`."""

    frame: int  # the number of the frame in the source video
    is_alone: bool  # whether it is the only usable face in the frame
    box: list[int]  # the square that was cut out: left, top, right, bottom in the frame's pixels
    scale: float  # crop pixels per pixel of the frame
    landmarks: np.ndarray  # (5, 2) x and y in crop pixels, in the order of faces.Detection
    has_region: bool  # whether it is known which region of the frame is forged
    # Share of the crop that is forged, 0 to 1, without the hull that may be in ``mask``; 0: unknown
    covered: float = 0.0
    beside: float = 0.0  # share of the pixels beside the face that differ from the original's
    crop: Callable[[], np.ndarray] | None = None  # reads (size, size, 3) uint8 RGB
    # Reads (size, size) bool, True where forged, all False where that is unknown in the frame; None
    # in a video without a mask and an original.
    mask: Callable[[], np.ndarray] | None = None

    @property
    def side(self) -> int:
        """The side of the square in pixels of the frame."""
        return self.box[2] - self.box[0]


def crop(image: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """Cut a box out of an image (H, W[, 3]) uint8, and resize it to (size, size[, 3]).

    The box (left, top, right, bottom) is a square, in pixels; right and bottom are not in it, as in
    a slice. Where it extends beyond the image, the pixels at the image's edge are repeated.
    """
    left, top, right, bottom = box
    # mode="clip" takes the nearest row or column for one beyond the edge.
    rows = image.take(range(top, bottom), 0, mode="clip")
    patch = rows.take(range(left, right), 1, mode="clip")
    interpolation = cv2.INTER_CUBIC
    if bottom - top > size:  # averaging over areas avoids aliasing in a patch that is shrunk
        interpolation = cv2.INTER_AREA
    return cv2.resize(patch, (size, size), interpolation=interpolation)


def kept(image: np.ndarray, scratch: BinaryIO) -> Callable[[], np.ndarray]:
    """Write an image to the end of an open file; the returned function reads it again.

    Which faces of a video are used is known at its end. In memory, all those of a talk of 20
    minutes would need 16 GB.
    """
    place = scratch.seek(0, os.SEEK_END)
    np.save(scratch, image)

    def read() -> np.ndarray:
        scratch.seek(place)
        return np.load(scratch)

    return read


class Tools(NamedTuple):
    """What faces are cut out of a video with."""

    settings: Settings
    detector: YuNet
    scratch: BinaryIO  # an open file for their pixels, see kept


# ---------------------------------------------------------------- one video


def cut_faces(video: Video, tools: Tools) -> tuple[list[Face], int]:
    """Cut one face out of each wanted frame of a video, wherever the detector finds a usable one.

    In a fake it is the face that the forged region covers most; where this region is unknown, and
    in a real video, it is that :func:`of_one_person`. Frames without this face are left out.

    Also returns the number of wanted frames, with a face or without. The pixels can be read as long
    as the file ``tools.scratch`` is open. Raises :class:`NoFace` where no face can be cut out,
    :class:`Unusable` where a fake does not agree with its original frame by frame, and as
    :func:`frame_pairs` does.
    """
    faces, n_wanted = faces_in(video, tools)
    if not faces:
        reason = f"no face of {tools.settings.min_face} pixels or more in {n_wanted} frames"
        raise NoFace(reason, n_wanted)
    beside = np.mean([face.beside for face in faces])
    # As where the two have other frame rates. A single picture may be edited beside the face.
    if beside > MOST_BESIDE and n_wanted > 1:
        raise Unusable("it does not agree with its original frame by frame")
    faces = forged_faces(video, faces)
    if not faces:
        # Only a mask is named: where the region comes from an original, make_crops cuts the faces
        # again without the original, and so without a mask.
        raise NoFace("no face under the mask, which is white where the fake is forged", n_wanted)
    return faces, n_wanted


def forged_faces(video: Video, faces: Sequence[Face]) -> list[Face]:
    """Of a video's faces, one per frame, keep those that can be the forged one.

    Where the detector missed the forged face, another one was cut out, which is real but would have
    the label fake. A face is therefore kept only where ``covered``, the share of its crop that is
    forged, is above a quarter of the largest share in the video. There are two exceptions. A face
    that is alone in its frame is kept where it differs at all from the original, because the
    forgery may be faint there. And a face is kept where the forged region is unknown.
    """
    if not video.region_file:
        return list(faces)
    limit = max(face.covered for face in faces) / 4
    forged = []
    for face in faces:
        is_faint = not video.mask and face.is_alone and face.covered > 0
        if face.covered > limit or is_faint or not face.has_region:
            forged.append(face)
    return forged


def faces_in(video: Video, tools: Tools) -> tuple[list[Face], int]:
    """One face, see :func:`of_one_person`, per wanted frame that has a usable one.

    Also returns how many frames are wanted.
    """
    # The shorter file counts: the video, or that of its mask or original. Its true length is known
    # only when all of it is decoded. If the guess was wrong, other frames are wanted, and the video
    # is decoded again.
    files = filter(None, (video.path, video.region_file))
    guess = len(video.frames) or min(map(guess_length, files))
    wanted = wanted_frames(guess, tools.settings)
    frames, length = faces_in_frames(video, wanted, tools)
    if length != guess:
        wanted = wanted_frames(length, tools.settings)
        tools.scratch.truncate(0)
        frames, _ = faces_in_frames(video, wanted, tools)
    return of_one_person(frames, tools.settings.scale), len(wanted)


def faces_in_frames(
    video: Video, wanted: Collection[int], tools: Tools
) -> tuple[list[list[Face]], int]:
    """The faces of each of the ``wanted`` frames of a video, and how many frames it has.

    ``wanted`` are places, from 0. Frames beyond the end of its mask or original do not count.
    """
    numbers = [number for number, _ in numbered_frames(video)] if video.frames else count()
    crf = tools.settings.reencode
    images = repeat(None) if crf is None else encoded_again(video.path, crf)
    frames = []
    length = 0
    for number, (source, other), image in zip(numbers, frame_pairs(video, {*wanted}), images):
        length += 1
        if source is not None:
            frames.append(faces_in_frame(video, number, source, other, image, tools))
    return frames, length


def faces_in_frame(
    video: Video,
    number: int,
    source: np.ndarray,
    other: np.ndarray | None,
    image: np.ndarray | None,
    tools: Tools,
) -> list[Face]:
    """Cut the usable faces out of a frame, the largest first, and of them :data:`MOST_PEOPLE`.

    Where the forged region is known, it is the one face that this region covers most. A crop is a
    square around the middle of the detected box, ``settings.scale`` times as wide as its longer
    side.

    ``number`` is that of the frame, ``source`` its pixels, and ``other`` the same frame of the mask
    or of the original, None without either: see :func:`forged_region`. ``image`` is the frame after
    its video was encoded again, None where it was not. All are (H, W, 3) uint8 RGB.
    """
    # How much each pixel differs from the original; None where there is a mask or neither. Both are
    # compared as they are in the files: another compression would hide faint forgeries.
    difference = None if other is None or video.mask else difference_of(source, other)
    image = source if image is None else image
    region = forged_region(video, other, difference)
    settings = tools.settings
    detections = detect(image, settings.min_face, tools.detector)
    found = []
    for detection in detections:
        side = round(max(detection.width, detection.height) * settings.scale)
        left = round(detection.left + detection.width / 2 - side / 2)
        top = round(detection.top + detection.height / 2 - side / 2)
        face = Face(
            frame=number,
            is_alone=len(detections) == 1,
            box=[left, top, left + side, top + side],
            scale=settings.size / side,
            landmarks=((detection.landmarks - [left, top]) * (settings.size / side)).round(3),
            has_region=region is not None,
        )
        found.append(with_mask(face, video, detection, region, difference, settings.size))
    found.sort(key=lambda pair: (pair[0].covered, pair[0].side), reverse=True)
    return [
        face._replace(
            crop=kept(crop(image, face.box, settings.size), tools.scratch),
            mask=kept(mask, tools.scratch) if video.region_file else None,
        )
        for face, mask in found[: MOST_PEOPLE if region is None else 1]
    ]


def with_mask(
    face: Face,
    video: Video,
    detection: Detection,
    region: np.ndarray | None,
    difference: np.ndarray | None,
    size: int,
) -> tuple[Face, np.ndarray]:
    """A face with what of it is forged, ``covered`` and ``beside``, and its mask (size, size) bool.

    The mask is all False where the :func:`forged_region` of the frame, ``region``, is unknown;
    ``difference`` is the :func:`difference_of` the original, None where it is not compared.
    """
    if region is None:
        return face, np.zeros((size, size), bool)
    # Resizing blurs the edge of the forged region to levels between 0 and 255: cut at half.
    mask = crop(region, face.box, size) > 127
    face = face._replace(covered=mask.mean())
    if difference is None:
        return face, mask
    beside = difference[~oval(difference.shape, detection, FACE_OVAL)]
    if video.difference == "hull":
        mask = crop(hull_of_difference(difference, beside, detection), face.box, size) > 127
    share = np.mean(beside > DIFFERENCE_THRESHOLD) if beside.size else 0.0
    return face._replace(beside=share), mask


def of_one_person(frames: Iterable[Sequence[Face]], scale: float) -> list[Face]:
    """One face per frame: the largest; in a video of several people that of one of them throughout.

    There are several people where more than :data:`SEVERAL_PEOPLE` of the frames show several
    faces. The one with the largest area over the video is shown. Whoever is seen beside this person
    is somebody else: a frame that shows nobody but these gives no face. A person who jumps, as at a
    cut, counts as a new one, who may be the one that is shown: such faces are kept.

    ``frames`` are those of :func:`faces_in_frame` in their order; ``scale`` is that of Settings.
    """
    people = followed(frames, scale)
    sizes = defaultdict(lambda: np.zeros(2))  # by person; what a mask covers comes first
    for faces in people:
        for person, face in faces.items():
            sizes[person] += [face.covered, face.side**2]
    beside = set()
    if sum(len(faces) > 1 for faces in people) > SEVERAL_PEOPLE * len(people):
        shown_most = max(sizes, key=lambda person: tuple(sizes[person]))
        beside = {person for faces in people if shown_most in faces for person in faces}
        beside -= {shown_most}
    chosen = []
    for faces in people:
        candidates = [face for person, face in faces.items() if person not in beside]
        if candidates:
            chosen.append(max(candidates, key=lambda face: face.side))
    return chosen


def followed(frames: Iterable[Sequence[Face]], scale: float) -> list[dict[int, Face]]:
    """The faces of each frame by person; people have numbers.

    A face is that of the person who was last seen nearest to its place, less than the longer side
    of a face away; otherwise that of a new person.
    """
    numbers = count()
    last_seen = {}
    people = []
    for faces in frames:
        pairs = []  # distance in sides of a face, place in ``faces``, person
        for (place, face), (person, seen) in product(enumerate(faces), last_seen.items()):
            corners = np.subtract(face.box, seen.box)  # their mean is the way of the middle
            way = np.hypot(*(corners[:2] + corners[2:]) / 2)
            pairs.append((scale * way / max(face.side, seen.side), place, person))
        found = {}  # by place in ``faces``
        for distance, place, person in sorted(pairs):
            if distance < 1 and place not in found and person not in found.values():
                found[place] = person
        here = {
            found[place] if place in found else next(numbers): face
            for place, face in enumerate(faces)
        }
        last_seen.update(here)
        people.append(here)
    return people


def frame_pairs(
    video: Video, wanted: Container[int]
) -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
    """The frames of a video, each with that of its mask or original, to the end of the shorter.

    Both are None where the place of the frame is not among the ``wanted``; the second of a pair is
    None where the video has neither. Raises :class:`Unusable` when a file cannot be decoded, and
    when wanted frames differ in size.
    """
    if video.frames:
        pairs = (
            read_pair(*files) if place in wanted else (None, None)
            for place, (_, files) in enumerate(numbered_frames(video))
        )
    else:
        others = decode_region(video.region_file, wanted) if video.region_file else repeat(None)
        pairs = zip(decode(video.path, wanted), others)
    for image, other in pairs:
        if image is not None and other is not None and image.shape != other.shape:
            raise Unusable("the pictures of its mask or original have another size")
        yield image, other


def read_pair(path: Path, region: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The image of a frame, and that of its mask or original; raises as :func:`frame_pairs`."""
    with explained_by(f"its frame {path.name}"):
        image = read_image(path)
    # Decoded as a video of one frame, so that an error names the mask or original.
    return image, next(decode_region(region)) if region else None


def encoded_again(file: Path, crf: int) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB of a video after H.264 at a constant rate factor ``crf``.

    Of odd sides the last pixel is left out. Raises :class:`Unusable` when the file cannot be
    decoded, and when its frames differ in size.
    """

    def frames() -> Iterator[np.ndarray]:
        shape = None
        for image in decode(file):
            shape = shape or image.shape
            if image.shape != shape:
                raise Unusable("its frames differ in size, so it cannot be encoded again")
            yield image

    with explained_as_unusable():
        yield from codecs.h264_frames(frames(), crf, REENCODED_RATE, repeatable=True)


def decode_region(file: Path, wanted: Container[int] | None = None) -> Iterator[np.ndarray | None]:
    """The frames of a mask or an original, as of :func:`decode`; errors say that it is one."""
    with explained_by(f"its mask or original {file.name}"):
        yield from decode(file, wanted)


@contextmanager
def explained_by(what: str) -> Iterator[None]:
    """Begin the reason of an :class:`Unusable` with ``what``."""
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{printable(what)}: {error}") from None


def wanted_frames(length: int, settings: Settings) -> list[int]:
    """The numbers of the frames in which faces are looked for, in a video of ``length`` frames."""
    strided = np.arange(0, length, settings.stride)
    n = min(settings.frames_per_video or length, len(strided))
    # These are divided into n equal parts, and the middle frame of each is taken: that of part i is
    # at (i + 1/2) / n of the whole, computed in whole numbers.
    middles = (2 * np.arange(n) + 1) * len(strided) // (2 * n)
    return strided[middles].tolist()


def difference_of(image: np.ndarray, original: np.ndarray) -> np.ndarray:
    """How much a frame differs from that of its original, in grey levels: (H, W) uint8.

    Both are (H, W, 3) uint8. It is the difference of the channel that differs most; a median over 5
    by 5 pixels removes specks of compression.
    """
    return cv2.medianBlur(cv2.absdiff(image, original).max(axis=2), 5)


def oval(shape: tuple[int, int], detection: Detection, growth: float) -> np.ndarray:
    """The oval in the box of a detected face, ``growth`` times as wide and high: (H, W) bool."""
    left, top, width, height = detection[:4]
    middle = round(left + width / 2), round(top + height / 2)
    axes = round(width / 2 * growth), round(height / 2 * growth)
    return cv2.ellipse(np.zeros(shape, np.uint8), middle, axes, 0, 0, 360, 1, -1) > 0


def forged_region(
    video: Video,
    other: np.ndarray | None,
    difference: np.ndarray | None,
) -> np.ndarray | None:
    """Where a frame is forged: (H, W) uint8, 0 or 255; None without ``other``.

    ``other`` is the same frame of the mask or, without a mask, of the original, from which
    ``difference`` is the :func:`difference_of`. ``other`` is None where the video has neither.
    Raises :class:`Unusable` for a picture that is no mask.

    By a mask, a pixel is forged where the mask's grey level is above ``video.mask_threshold``. A
    darker mask of only two levels gets a lower threshold, half of its brighter level.

    By an original, a pixel is forged where its difference exceeds :data:`DIFFERENCE_THRESHOLD`.
    """
    if other is None:
        return None
    if video.mask:
        grey = cv2.cvtColor(other, cv2.COLOR_RGB2GRAY)
        # For a mask of more levels, half_of_two_levels is 127, the default of mask_threshold.
        threshold = min(video.mask_threshold, half_of_two_levels(grey))
        return np.uint8(grey > threshold) * 255
    return without_gaps(difference > DIFFERENCE_THRESHOLD)


def without_gaps(region: np.ndarray) -> np.ndarray:
    """A region (H, W) bool as uint8, 0 or 255; gaps narrower than 9 pixels are closed."""
    return cv2.morphologyEx(np.uint8(region) * 255, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))


def hull_of_difference(
    difference: np.ndarray, beside: np.ndarray, detection: Detection
) -> np.ndarray:
    """The forged region of a face whose forgery differs from the original in scraps alone.

    It is the convex hull of the pixels in the face's oval that differ more than 999 of 1,000 pixels
    ``beside`` the face do; (H, W) uint8, 0 or 255. ``difference`` is a :func:`difference_of`.
    """
    noise = np.percentile(beside, 99.9) if beside.size else DIFFERENCE_THRESHOLD
    threshold = np.clip(noise, LEAST_DIFFERENCE, DIFFERENCE_THRESHOLD)
    region = without_gaps(difference > threshold)
    region[~oval(region.shape, detection, FORGED_OVAL)] = 0
    points = cv2.findNonZero(region)  # None: there are none
    if points is not None:
        cv2.fillConvexPoly(region, cv2.convexHull(points), 255)
    # A crop repeats the edge of the frame, and what is beyond it is not forged.
    region[[0, -1]] = 0
    region[:, [0, -1]] = 0
    return region


def cut_crops(video: Video, tools: Tools) -> dict:
    """Cut the crops of a video, see :func:`cut_faces`, whose errors it raises.

    Returns ``rows``, ``crops`` and ``masks`` as :func:`facesets.frames.write_video` takes them,
    the number of wanted ``frames``, with a face or without, and of those rows whose frame shows
    ``several_faces``. The rows still lack what is the same for the whole video, which
    :func:`prepare_video` adds.
    """
    faces, n_wanted = cut_faces(video, tools)
    return {
        "rows": [row_of(face, video) for face in faces],
        "crops": (face.crop() for face in faces),
        "masks": (face.mask() for face in faces) if video.region_file else None,
        "frames": n_wanted,
        "several_faces": sum(not face.is_alone for face in faces),
    }


def row_of(face: Face, video: Video) -> dict:
    """The columns of the frames table, :data:`facesets.frames.COLUMNS`, that a face fills."""
    row = {
        "frame": face.frame,
        "landmarks": face.landmarks.ravel(),
        "crop_box": face.box,
        "scale": face.scale,
    }
    if video.region_file and not face.has_region:
        row["mask"] = ""  # unknown in this frame, though known in others
    return row


def delivered_crops(video: Video) -> dict:
    """The frames of a video that are faces as others have cut them: each is the whole picture.

    An image that cannot be used, or whose mask cannot, counts as a frame without a face.

    Returns ``rows`` and ``frames`` as :func:`cut_crops` does; ``files`` and ``crop_hashes`` as
    :func:`facesets.frames.write_video` takes them; and ``reason``, why the last of the unusable
    images cannot be used, None where all can. Raises :class:`Unusable` where none can.
    """
    content = {"rows": [], "files": [], "crop_hashes": []}
    reason = None
    for number, (image, mask) in numbered_frames(video):
        try:
            with explained_by(f"images that cannot be used, such as {image.name}"):
                pixels = as_in_training(image)
                if min(pixels.shape[:2]) < MIN_SIZE:
                    raise Unusable(f"a crop has fewer than {MIN_SIZE} x {MIN_SIZE} pixels")
                if mask:  # a damaged one is found now, and not in the middle of a training
                    with explained_by("its mask"):
                        as_in_training(mask)
        except Unusable as error:
            reason = str(error)
            continue
        content["rows"].append({"frame": number})
        content["files"].append((image, mask))
        content["crop_hashes"].append(crop_hash(pixels))
    if not content["rows"]:
        raise Unusable(reason)
    return {**content, "frames": len(video.frames), "reason": reason}


def as_in_training(image: Path) -> np.ndarray:
    """A plain image (H, W, 3) uint8 RGB by training's decoder, which reads some files otherwise.

    Decoders of JPEG differ by a level or two, and OpenCV refuses a PNG that Pillow completes.
    Raises :class:`Unusable` where either cannot read it.
    """
    read_image(image)
    try:
        return read_crop(str(image))
    except DfnbError:
        raise Unusable("training cannot read it; save it as PNG again") from None


def numbered_frames(video: Video) -> list[tuple[int, tuple[Path, Path | None]]]:
    """The images of a video's frames, each with its mask or original, by their numbers."""
    frames = sorted(video.frames, key=lambda pair: pair[0])
    return sorted(zip(frame_numbers([image.name for image, _ in frames]), frames))


def make_crops(video: Video, tools: Tools) -> dict:
    """Cut or list the crops of a video, see :func:`cut_crops` and :func:`delivered_crops`.

    A fake that cannot be compared with its original, frame by frame, has no mask; the ``reason``
    says so. Raises what the two functions do.
    """
    if video.crops:
        return delivered_crops(video)
    try:
        return cut_crops(video, tools)
    except (Unusable, cv2.error) as error:
        if video.mask or not video.original:  # the video was not compared with an original
            raise
        # The original may be the cause, so try again without it, and so without a mask. The inputs
        # still contain it: when its file changes, the video is prepared again.
        without_originals = tuple((image, None) for image, _ in video.frames)
        video = replace(video, original=None, frames=without_originals)
        content = cut_crops(video, tools)
        cause = "no face differs from the original" if isinstance(error, NoFace) else error
        return {**content, "reason": f"without a mask: {cause}"}


def prepare_video(
    video: Video,
    inputs: str,
    folder: Path,
    settings: Settings,
    detector: YuNet,
) -> dict:
    """Prepare one video into ``folder/videos/<name>``.

    A video that was prepared before is kept if it was made from the same ``inputs`` (its
    :func:`inputs_digest`), and prepared again otherwise; then it is removed where it has become
    unusable.

    Returns the name of the ``video``; its ``kind``, "split/method"; the number of wanted
    ``frames``, how many of them are ``without_face``, both 0 where the video cannot be read; from
    how many frames with ``several_faces`` one was taken; and the ``reason`` why it or some of its
    crops are unusable, or None.
    """
    result = {"video": video.name, "kind": f"{video.split}/{video.method}", "several_faces": 0}
    video_folder = folder / "videos" / video.name
    file = video_folder / "video.json"
    content = read_json(file) if file.exists() else {}  # what write_video wrote
    if content.get("inputs") != inputs:
        try:
            with explain_writing(video_folder), TemporaryFile(dir=folder) as scratch:
                content = make_crops(video, Tools(settings, detector, scratch))
                video_values = {column: getattr(video, column) for column in VIDEO_COLUMNS}
                for row in content["rows"]:
                    # One face per frame, so one track.
                    row.update(video_values, dataset=folder.name, track=0)
                write_video(video_folder, inputs=inputs, **content)
        except (Unusable, cv2.error) as error:  # cv2.error: OpenCV failed on a picture
            remove_video(video_folder)
            frames = error.frames if isinstance(error, NoFace) else 0
            return {**result, "frames": frames, "without_face": frames, "reason": str(error)}
    frames = content["frames"]
    result["reason"] = content.get("reason")
    result["several_faces"] = content.get("several_faces", 0)  # crops of others do not say it
    return {**result, "frames": frames, "without_face": frames - len(content["rows"])}


# ---------------------------------------------------------------- a dataset


def prepare(
    name: str,
    videos: Sequence[Video],
    settings: Settings | None = None,
    detector: YuNet | None = None,
    workers: int | None = None,
    one_class: bool = False,
    splits: Collection[str] = (),
    source: Path | None = None,
) -> dict:
    """Prepare videos into ``datasets/<name>``.

    The folder of a video appears complete or not at all, so a call after a killed one continues it.
    The result has the same bytes for any number of workers.

    A dataset consists of the splits of the call that finished it, and not of what other calls left:
    so a call gives the same dataset whatever was killed before, and a split of which a killed call
    made only some videos is never taken for a whole one. The videos of other splits stay in the
    folder: a call for more splits finds no face in them again.

    Args:
        name: The name of the dataset.
        videos: The videos of all splits, also of those that are not prepared now.
        settings: How to cut; default: ``Settings()``.
        detector: The face detector; default: YuNet.
        workers: Number of processes; default: one per processor.
        one_class: Whether a dataset may lack real videos, or fake ones.
        splits: The splits of the dataset; none: all.
        source: The folder in which the videos were found; None: they come from a list.

    Returns:
        The record. Its ``quarantine`` lists the videos that could not be used, or only in part, as
        the file ``quarantine.csv`` does; ``crops`` counts what is used of each. Its ``faces``
        counts, for each split and method, what :func:`dropouts` lists.

    Raises :class:`DfnbError` for impossible names or splits, for images that are to be encoded
    again, when the folder has a finished dataset of other settings, or other videos, when another
    process is writing it, when real or fake videos are missing, when no file is there or none has a
    face, when the dataset and what it is made from contain one another, and when files of others
    are in its way.
    """
    folder = dataset_folder(check_name(name, "dfnb prepare"))
    settings = settings or Settings()
    check_names(videos)
    check_reencoding(name, videos, settings)
    sources = chain([source] if source else [], *map(files_of, videos))
    refuse_overlap(folder, sources, [video.name for video in videos])
    refuse_foreign_dataset(folder)
    chosen = in_splits(name, videos, splits)
    check_classes(name, chosen, one_class)
    # Else finished videos would be removed where a disk is not mounted.
    if not any(video.path.exists() for video in videos):
        raise DfnbError(f"none of the {len(videos)} files is there, such as {videos[0].path}")
    if not all(video.crops for video in videos):  # crops need no detector
        detector = detector or YuNet()
    # Without a detector, the hash is that of the class: an instance would download the weights.
    parameters = {**settings.model_dump(), "detector_sha256": (detector or YuNet).sha256}
    with locked(folder, wait_s=1):  # a run that was just killed may still be ending
        for video in chosen:
            refuse_foreign_files(folder / "videos" / video.name)
        (folder / OWN_MARK).touch()
        remove_leftovers(folder, videos, parameters)
        job = joblib.delayed(prepare_video)
        inputs = [inputs_digest(video, parameters) for video in chosen]
        jobs = [job(*pair, folder, settings, detector) for pair in zip(chosen, inputs)]
        # Shown on a terminal only; ncols, because some terminals do not state their width.
        looks = {"unit": "video", "disable": None, "ncols": 80}
        bar = tqdm(in_parallel(jobs, workers, in_order=True), name, len(jobs), **looks)
        results = pd.DataFrame(list(bar))  # a row per video
        results["crops"] = results["frames"] - results["without_face"]  # number per video
        quarantine = results[["video", "crops", "reason"]].dropna()
        write_bytes(folder / "quarantine.csv", quarantine.to_csv(index=False).encode())
        unusable = quarantine.to_dict("records")
        used = [video for video, n in zip(chosen, results["crops"]) if n]
        check_classes(name, used, one_class, reasons_of(unusable))
        about = {"faces": losses(results).to_dict("index"), "quarantine": unusable}
        if any(video.crops for video in videos):
            about["crops"] = "as delivered"
        if settings.reencode is not None:
            about["compression"] = f"encoded again as H.264 crf {settings.reencode}"
        chosen_names = {video.name for video in chosen}
        return write_dataset(folder, parameters, originals_of(videos), chosen_names, **about)


def originals_of(videos: Sequence[Video]) -> dict[str, str]:
    """By video: the name of its original, also of one whose split is not prepared yet.

    Empty for an original that is not among ``videos``, or that is given as a folder of frames.
    """
    names = {video.path: video.name for video in videos}
    return {video.name: names.get(video.original, "") for video in videos}


def in_splits(name: str, videos: Sequence[Video], splits: Collection[str]) -> list[Video]:
    """The videos of these splits, without ``splits`` all; raises DfnbError for one without any."""
    known = {video.split for video in videos}
    if missing := {*splits} - known:
        raise DfnbError(
            f"{name} has no video of the split {' or '.join(sorted(missing))}, but of "
            f"{', '.join(sorted(known))}"
        )
    return [video for video in videos if not splits or video.split in splits]


def check_classes(
    name: str,
    videos: Iterable[Video],
    one_class: bool,
    reasons: Sequence[str] = (),
) -> None:
    """Raise :class:`DfnbError` where real or fake videos are missing.

    With ``one_class``, one of the two may be missing: it is raised only where there is no video.
    Its message contains ``reasons``, sentences on why other videos are not used.
    """
    kinds = {"fake" if video.label else "real" for video in videos}
    if len(kinds) < 2 - one_class:  # so kinds has one element, or none
        there = "".join(f"{kind} videos alone" for kind in kinds) or "no video at all"
        remedy = "add others" if one_class else "add others, or allow one class by --one-class"
        raise DfnbError("; ".join([f"{name} can use {there}", *reasons, remedy]))


def check_names(videos: Sequence[Video]) -> None:
    """Raise :class:`DfnbError` for names, of videos or methods, that one dataset cannot have."""
    names = {PurePosixPath(video.name): video for video in videos}
    for video in videos:
        if video.name != printable(video.name):
            raise DfnbError(f"{printable(video.name)} is a name that is not UTF-8; rename the file")
        # Tables must be able to show it, and would count a fake called real among the real.
        check_name(video.method, f"{video.path}, its method", TITLE)
        if video.label and video.method.lower() == "real":
            raise DfnbError(
                f"{video.name} is a fake of the method {video.method!r}; give this method, or its "
                "folder in fake/, another name"
            )
        if not VIDEO_NAME.fullmatch(video.name):
            raise DfnbError(
                f"{video.name!r} cannot name {video.path}: a part of the name is empty, hidden or "
                "too long; rename it"
            )
        path = PurePosixPath(video.name)
        for other in filter(None, map(names.get, (path, *path.parents))):
            if other is not video:
                raise DfnbError(
                    f"{video.path} and {other.path} cannot both be used: both would be, or be in, "
                    f"{other.name!r} (names have no suffixes); rename one"
                )


def check_reencoding(name: str, videos: Iterable[Video], settings: Settings) -> None:
    """Raise :class:`DfnbError` where images are to be encoded again: H.264 compresses videos."""
    if settings.reencode is None:
        return
    for video in videos:
        if video.frames or IMAGE.fullmatch(video.path.name):
            raise DfnbError(
                f"{name} has images, such as {printable(video.path.name)}, and only videos can be "
                "encoded again; leave reencode out, or prepare the videos alone"
            )


def inputs_digest(video: Video, parameters: Mapping) -> str:
    """A digest of all that a prepared video depends on: it changes when the video must be redone.

    ``parameters`` are those of the dataset: how its crops are cut, and the detector's hash. A file
    is represented by its name, size and time of change, because hashing it would be slow.
    """
    stamps = []
    for file in files_of(video):
        if file.is_file():
            stat = file.stat()
            stamps.append([file.name, stat.st_size, stat.st_mtime_ns])
    # Paths are left out, because the folders may be moved: the stamps stand for them. ``frames``
    # are tuples of paths.
    fields = {name: value for name, value in vars(video).items() if name != "frames"}
    fields["crops"] = [True] if video.crops else []  # a list, as of what is prepared already
    if video.difference == "pixels":  # videos that were prepared before there was another way
        del fields["difference"]
    values = [value for value in fields.values() if not isinstance(value, Path)]
    return digest([parameters, values, stamps])


def files_of(video: Video) -> list[Path]:
    """The files that a video is made from."""
    # region_file is the mask or, without one, the original, which the fake is compared with.
    files = [video.path, video.region_file, *chain(*video.frames)]
    return [file for file in files if file]  # a missing mask is None


def remove_leftovers(folder: Path, videos: Sequence[Video], parameters: Mapping) -> None:
    """Remove the table of a dataset, which :func:`prepare` writes anew, and a killed call's files.

    Without its table a dataset counts as unfinished; the record stays until then, for the
    parameters in it. Raises :class:`DfnbError` where they are others, and for a folder with a video
    that is not among ``videos``. Without a record, videos of other parameters are not refused: they
    have another :func:`inputs_digest`, so :func:`prepare_video` prepares them again.
    """
    record = folder / "record.json"
    made_with = read_json(record).get("parameters", {}) if record.exists() else parameters
    for key in {**made_with, **parameters}:
        old, new = made_with.get(key), parameters.get(key)
        if old != new:
            raise DfnbError(
                f"{folder} was made with {key} = {old}, not {new}; use that again, or give the new "
                "dataset another name"
            )
    # A list, because removing changes the tree that rglob walks.
    for path in list(folder.rglob(".*.dfnb-*")):
        if TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)  # does nothing to a file
            path.unlink(missing_ok=True)
    root = folder / "videos"
    expected = {root / video.name for video in videos}
    for file in root.rglob("video.json"):
        if file.parent not in expected:
            raise DfnbError(
                f"{folder} contains another video, {file.parent.relative_to(root).as_posix()!r}; "
                "give the new dataset another name"
            )
    (folder / "frames.parquet").unlink(missing_ok=True)


def losses(results: pd.DataFrame) -> pd.DataFrame:
    """The columns of :func:`dropouts` but ``share``, one row per "split/method".

    ``results`` has one row per video, as :func:`prepare_video` returns it.
    """
    return results.groupby("kind").agg(
        videos=("video", "size"),
        quarantined=("reason", "count"),  # without those that are None
        frames=("frames", "sum"),
        without_face=("without_face", "sum"),
        several_faces=("several_faces", "sum"),
    )


def reasons_of(quarantine: Iterable[Mapping]) -> list[str]:
    """One sentence per reason in the ``quarantine`` of a record: how many files have it, and which.

    Of the files, the first three are named. An entry names a ``video``, perhaps with the number of
    its ``crops`` that are used, or, in a dataset of photographs, the ``file`` of one. A portrait
    that is left out although nothing is wrong with it is marked ``usable``, and is not listed.
    """
    files_by_problem = defaultdict(list)
    for entry in quarantine:
        if not entry.get("usable"):
            file = entry.get("video") or entry["file"]
            problem = "used in part" if entry.get("crops") else "not used"
            files_by_problem[f"{problem}: {entry['reason']}"].append(file)
    return sentences(files_by_problem)


def dropouts(record: Mapping) -> pd.DataFrame:
    """The losses of a dataset by split and method, from its record.

    Columns: ``videos``; ``quarantined``, how many of them could not be used, or only in part;
    ``frames``, the wanted frames of all videos that can be read; ``without_face``, how many of them
    show no face, nobody but other people, or cannot be used; ``several_faces``, out of how many
    frames one of several faces was cut; and ``share``, without_face / frames, NaN where no video
    can be read. A face detector that fails on fakes more often than on real videos biases the
    dataset: only the easier fakes remain.
    """
    table = pd.DataFrame(record["faces"]).T  # recorded as {split/method: {column: number}}
    return table.assign(share=table["without_face"] / table["frames"])


# ---------------------------------------------------------------- a single picture


def prepare_picture(
    path: str | Path, faces: Mapping, frames: int = 1
) -> tuple[pd.DataFrame, Callable[[str], np.ndarray]]:
    """The face in a user's own picture or clip: a frames table with a ``label`` of NaN, its crops.

    It is cut as ``dfnb prepare`` cuts a video: of several faces in a frame, the largest. No file is
    written but the face detector's weights, which are fetched once. In the returned table,
    ``video`` and ``cluster`` are the path of the picture, with ``~`` expanded; ``method`` is the
    name of its file; and ``path`` is no file, but a key by which the returned function
    finds the crop (H, W, 3) uint8 RGB in memory.

    Args:
        path: An image or a video.
        faces: How the faces of a training set were cut: ``size`` and ``scale``, as in
            :class:`Settings`. The picture is cut alike; a missing value is the default.
        frames: Of a clip, look for faces in at most so many, evenly spaced; 1: that in the middle.

    Raises :class:`DfnbError` where there is no file, no picture or no face, or no face detector.
    """
    geometry = {name: faces[name] for name in ("size", "scale") if name in faces}
    settings = Settings(frames_per_video=frames, **geometry)
    path = Path(path).expanduser()
    # Whether it is fake is unknown: the label is a placeholder, and has no effect on the crops.
    video = Video("picture", path, label=0, method="real")
    try:
        with TemporaryFile() as scratch:
            found, _ = cut_faces(video, Tools(settings, YuNet(), scratch))
            crops = {str(number): face.crop() for number, face in enumerate(found)}
    except (Unusable, cv2.error) as error:  # cv2.error: OpenCV failed on a picture
        raise DfnbError(f"{path}: {error}") from None
    table = pd.DataFrame(
        {
            "frame": [face.frame for face in found],
            "landmarks": [face.landmarks.ravel() for face in found],
            "path": [*crops],
            "video": str(path),
            "cluster": str(path),
            "label": np.nan,
            "method": path.name,  # panels show it above the frame
            "mask": "",
            "track": 0,
        }
    )
    return table, crops.__getitem__
