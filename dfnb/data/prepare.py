"""From videos to crops: decode, detect, follow one face per person, cut out at a fixed scale.

Faces are detected on every k-th frame by YuNet (Wu et al., Machine Intelligence Research 2023; OpenCV Zoo), on every
4k-th while they keep still, and their boxes and landmarks interpolated in between. Frames are decoded once, in
presentation order, and held only until the detections around them are known, so that memory does not grow with the
length of a video. Real and fake frames pass through the same geometry. What gives no usable face ends in a quarantine
list, with its reason. An image is a video of one frame, and crops that others have made are used where they lie.
"""

import hashlib
import itertools
import logging
import math
import multiprocessing
import os
import re
import shutil
import tempfile
import threading
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pandas as pd
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou
from tqdm import tqdm

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.data import sources as manifest
from dfnb.data.sources import Source

log = logging.getLogger(__name__)

YUNET = "face_detection_yunet_2023mar.onnx"
YUNET_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

TREE = "tree"  # in a dataset's folder: a link to the folder whose crops are used where they lie
# closed lists: without them FFmpeg opens a text as ANSI art, and follows playlists to other files and hosts
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,asf,ogg,mxf,h264,hevc,m4v"
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
ALLOWED = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
OVERLAP = 0.2  # intersection over union from which two detections in a row may be one person
BRIDGED = 1  # missed detections in a row between which a face is still interpolated
REMEMBERED = 10  # missed detections in a row after which a person who comes back is a new track
AHEAD = 4  # while faces keep still, detections that are a look ahead; what is between two looks is interpolated
DIFFERENT = 25  # grey levels between a fake and its original from which a pixel is forged
CUT = 12.0  # a cut: the mean grey value changes by more than this from one frame to the next

# Locate and Verify's released code: the crop's side by the mask's height, pixels added to left, top, right, bottom
RELEASED = {
    "real": (2.46, 0, -5, 5, 0),
    "Deepfakes": (2.46, 6, 0, 0, -10),
    "Face2Face": (1.6, 0, 0, 0, 0),
    "FaceSwap": (1.48, 0, 5, 0, 10),
    "NeuralTextures": (1.55, 5, -3, 0, 0),
}
HEADER = 128  # bytes before the pixels of a .npy file
COUNTS = ("decoded", "frames", "without_face", "detections", "tracks", "tracks_left_out")  # of a video, to be summed


class Settings(BaseModel):
    """What the crops of a dataset depend on beside the videos and the detector; another setting is another dataset."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: int = Field(256, ge=32, le=1024, description="side of a crop in pixels")
    scale: float = Field(1.3, ge=1, le=4, description="side of a crop, by the longer side of the face's box")
    frames_per_video: int | None = Field(None, ge=1, description="evenly spaced; None: all")
    stride: int = Field(1, ge=1, description="every n-th frame, before frames_per_video")
    detect_every: int = Field(5, ge=1, le=30, description="k: faces are detected on every k-th frame at most")
    still: float = Field(0.04, ge=0, le=0.5, description="what a face may move, by its side, to be detected less often")
    detect_side: int = Field(640, ge=128, description="the detector sees half the frame, but 400 to this of a side")
    min_score: float = Field(0.7, ge=0.3, le=1, description="confidence from which a detection is a face")
    min_face: int = Field(32, ge=8, description="longer side of the smallest face in source pixels")
    min_detections: int = Field(3, ge=1, description="a track with fewer is spurious, unless its shot has fewer")
    mask_threshold: int = Field(127, ge=0, le=254, description="a mask pixel above it is forged")
    geometry: Literal["", "locate_and_verify_released"] = Field("", description="crops by the mask; scale is not used")


class Unusable(Exception):
    """Why a video goes into quarantine."""


# ---------------------------------------------------------------- detector


def detector_path() -> Path:
    """YuNet's weights: ``$DFNB_DETECTOR``, else ``models/`` under the home, fetched when missing.

    Raises :class:`DfnbError` when the file has another sha256 than the pinned one, or cannot be downloaded.
    """
    if given := os.environ.get("DFNB_DETECTOR"):
        if not Path(given).is_file():
            raise DfnbError(f"DFNB_DETECTOR names {given}, which is no file; correct it, or unset it to download one")
        return manifest.verified(Path(given), YUNET_SHA256)
    return manifest.fetch(YUNET_URL, core.home() / "models" / YUNET, YUNET_SHA256)


class YuNet:
    """The detector of OpenCV; one network a process, built on its first image.

    Whatever else is callable like it, survives pickling and has a ``sha256`` of its weights can take its place.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.sha256 = str(path), core.sha256(path)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Faces (n, 15) in an image (H, W, 3) uint8 BGR: x, y, width, height; five landmarks as x, y; score."""
        network = _network(self.path)
        network.setInputSize((image.shape[1], image.shape[0]))
        found = network.detect(image)[1]
        return np.zeros((0, 15)) if found is None else found.astype(np.float64)


@cache
def _network(path: str) -> cv2.FaceDetectorYN:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its own defaults
    return cv2.FaceDetectorYN.create(path, "", (1, 1), 0.3, 0.3, 5000)


# ---------------------------------------------------------------- decoding


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; raises :class:`Unusable` for what FFmpeg cannot read."""
    if not file.is_file() or not file.stat().st_size:
        raise Unusable("the file is empty" if file.is_file() else "there is no such file")
    try:
        with av.open(str(file.resolve()), options=ALLOWED) as container:
            if not container.streams.video:
                raise Unusable("there is no video stream in the file")
            stream = container.streams.video[0]
            stream.codec_context.thread_type = "NONE"  # videos are what runs in parallel
            yield container, stream
    except av.FFmpegError as error:
        raise Unusable(f"not a video, or truncated or damaged ({error.strerror})") from None


def count_frames(file: Path) -> int:
    """The number of frames of a video, by its packets, without decoding them.

    Raises :class:`Unusable` for what is empty, no video, or ends before its announced end. Where a container announces
    none (MPEG streams), :func:`decode` sees a frame that was cut off, and nobody a cut exactly between two frames.
    """
    if file.suffix.lower() in IMAGES and file.is_file():
        return 1
    count, shown, end, cut_off = 0, 0, 0.0, False
    with _opened(file) as (container, stream):
        matroska = container.format.name.startswith("matroska")
        for packet in container.demux():
            cut_off |= packet.is_corrupt
            if matroska and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            of_video = packet.size > 0 and packet.stream is stream
            count += of_video
            shown += of_video and not packet.is_discard  # an edit list hides frames that the file holds
        cut_off |= count < stream.frames
        # only Matroska's duration is never an estimate, and a GIF announces nothing but has an end mark
        announced = (container.duration or 0) / av.time_base
        cut_off |= matroska and end < announced - 0.5
        cut_off |= container.format.name == "gif" and not file.read_bytes().rstrip(b"\0").endswith(b";")
    if cut_off:
        raise Unusable(f"truncated or damaged after {count} frames")
    return shown


def decode(file: Path) -> Iterator[av.VideoFrame]:
    """The frames of a video in presentation order; raises :class:`Unusable` at the first that is not whole."""
    if file.suffix.lower() in IMAGES and file.is_file():
        yield av.VideoFrame.from_ndarray(read_image(file), format="rgb24")
        return
    with _opened(file) as (container, stream):
        for count, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise Unusable(f"truncated or damaged after {count} frames")
            yield frame


def read_image(file: Path) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB, upright; raises :class:`Unusable` for what is none, or truncated, or a bomb."""
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bit of grey, which Pillow would cut at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unusable(f"not an image, or truncated or damaged ({error.__class__.__name__})") from None


def difference(fake: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Where a fake differs from its original, both (H, W, 3) uint8: a mask (H, W) of 0 and 255.

    The largest difference of the channels, its median over 5 by 5 pixels above :data:`DIFFERENT`, small gaps closed.
    """
    apart = cv2.medianBlur(cv2.absdiff(fake, original).max(axis=2), 5) > DIFFERENT
    return cv2.morphologyEx(apart.astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))


class Converter:
    """Turns decoded frames into arrays; keeps its scaling context, since a new one for each frame takes 3 ms."""

    def __init__(self, kind: str, interpolation: str = "BICUBIC") -> None:
        self.kind, self.interpolation, self._context = kind, interpolation, VideoReformatter()

    def __call__(self, frame: av.VideoFrame, width: int | None = None, height: int | None = None) -> np.ndarray:
        how = {"interpolation": self.interpolation, "threads": 1}  # videos are what runs in parallel
        array = self._context.reformat(frame, width, height, self.kind, **how).to_ndarray()
        return np.rot90(array, frame.rotation // 90) if frame.rotation else array


# ---------------------------------------------------------------- following


@dataclass
class Track:
    """One person in one shot: where the detector saw the face, and what was cut out."""

    shot: int
    keys: list[int] = field(default_factory=list)  # the frames of the detections
    faces: list[np.ndarray] = field(default_factory=list)  # (13,) each, as of :meth:`place`, not smoothed
    last: np.ndarray = field(default_factory=lambda: np.zeros(15))  # the last detection, as :class:`YuNet` gives it
    rows: list[dict] = field(default_factory=list)  # with the place of the crop and the mask among all that were cut
    forged: float = 0.0  # sum of the share of each crop that is masked

    def see(self, number: int, face: np.ndarray) -> None:
        """Note a detection (15,), as :class:`YuNet` gives it, or what stands for one."""
        self.keys.append(number)
        self.faces.append(np.array([*face[:2] + face[2:4] / 2, face[2:4].max(), *face[4:14]]))
        self.last = face

    def place(self, frame: int, every: int) -> np.ndarray | None:
        """Centre x, y, longer side and five landmarks of the face in a frame (13,), in source pixels; None if away.

        Linear between two detections, and beyond the outer ones for half a detection interval.
        """
        keys, before = self.keys, bisect_right(self.keys, frame) - 1
        near = min((max(before, 0), min(before + 1, len(keys) - 1)), key=lambda i: abs(frame - keys[i]))
        close = abs(frame - keys[near]) <= every // 2
        for i in (before, near - 1, near) if close else (before,):
            if 0 <= i < len(keys) - 1 and (span := keys[i + 1] - keys[i]) <= (BRIDGED + 1) * every:
                share = (frame - keys[i]) / span
                return (1 - share) * self._smooth(i) + share * self._smooth(i + 1)
        return self._smooth(near) if close else None

    def _smooth(self, i: int) -> np.ndarray:
        """Detection ``i``, its box averaged as 1-2-1 with both neighbours where these are equally near."""
        face = self.faces[i].copy()
        if 0 < i < len(self.keys) - 1 and self.keys[i] * 2 == self.keys[i - 1] + self.keys[i + 1]:
            face[:3] = face[:3] / 2 + (self.faces[i - 1][:3] + self.faces[i + 1][:3]) / 4
        return face


def associate(last: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) of boxes ``last`` (m, 4) and ``found`` (n, 4), x y width height, that overlap most in all."""
    a, b = (box_convert(torch.from_numpy(boxes.reshape(-1, 4)), "xywh", "xyxy") for boxes in (last, found))
    overlap = box_iou(a, b).numpy()
    overlap[overlap < OVERLAP] = 0
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(-overlap)) if overlap[i, j] > 0]


class Follower:
    """Follows the faces of a video, shot by shot; holds the frames of eight detection intervals at most."""

    def __init__(self, settings: Settings, detector: YuNet) -> None:
        self.settings, self.detector, self.decoded, self.detections, self.looked = settings, detector, 0, 0, 0
        self.tracks: list[Track] = []
        self.live: list[Track] = []  # those that a face of this shot may continue
        self.shots: list[int] = []  # detections a shot, with those that were interpolated since nothing moved
        self._bgr, self._grey = Converter("bgr24", "AREA"), Converter("gray", "AREA")

    def follow(self, pairs: Iterator[tuple[av.VideoFrame, Any]], wanted: Container[int]) -> Iterator[tuple]:
        """Wanted frames: number, frame, what came with it, and each :class:`Track` with its :meth:`Track.place`."""
        every, middle = self.settings.detect_every, self.settings.detect_every // 2
        held: deque[tuple[int, av.VideoFrame, Any]] = deque()
        waiting: list[tuple[int, av.VideoFrame]] = []
        start, thumb, last = 0, None, None

        def ready(until: int) -> Iterator[tuple]:
            while held and held[0][0] <= until:
                item = held.popleft()
                yield *item, [(track, face) for track in self.live if (face := track.place(item[0], every)) is not None]

        def ended() -> Iterator[tuple]:
            if 0 < (self.decoded - start) % every <= middle:
                waiting.append((self.decoded - 1, last))  # each frame is within k // 2 of a detection
            self._settle(waiting)
            yield from ready(self.decoded)

        for number, (frame, beside) in enumerate(pairs):
            before, thumb = thumb, self._grey(frame, 32, 32).astype(np.int16)
            if before is None or np.abs(thumb - before).mean() > CUT:
                yield from ended()
                start, self.live, waiting = number, [], []
                self.shots.append(0)
            self.decoded, last = number + 1, frame
            if number in wanted:
                held.append((number, frame, beside))
            if (number - start) % every == middle:
                waiting.append((number, frame))
                if len(waiting) == AHEAD or not self.shots[-1]:
                    self._settle(waiting)
                    waiting = []
                    yield from ready(number - (BRIDGED + 2) * every)
        yield from ended()

    def _detect(self, frame: av.VideoFrame) -> np.ndarray:
        """The faces (n, 15) of a frame that are large and certain enough, in source pixels."""
        longer = max(frame.width, frame.height)
        ratio = min(longer, self.settings.detect_side, max(400, longer / 2)) / longer
        image = self._bgr(frame, max(1, round(frame.width * ratio)), max(1, round(frame.height * ratio)))
        faces = np.array(self.detector(np.ascontiguousarray(image)), np.float64).reshape(-1, 15)
        faces[:, :14] /= ratio
        self.detections += 1
        large = faces[:, 2:4].max(axis=1, initial=0) >= self.settings.min_face
        return faces[large & (faces[:, 14] >= self.settings.min_score)]

    def _settle(self, points: list[tuple[int, av.VideoFrame]], faces: np.ndarray | None = None) -> None:
        """Find the faces of frames: ``faces`` of the last, and of those before it only if something moved meanwhile."""
        if not points:
            return
        (end, frame), half = points[-1], len(points) // 2
        faces = self._detect(frame) if faces is None else faces
        still = self._still(faces) if half else []
        if half and not still:
            self._settle(points[:half])
            return self._settle(points[half:], faces)
        for track, face in still:
            before, start = track.last, self.looked
            for number, _ in points[:-1]:
                track.see(number, before + (face - before) * (number - start) / (end - start))
        self.shots[-1] += len(points)
        self._give(end, faces)

    def _still(self, faces: np.ndarray) -> list[tuple[Track, np.ndarray]]:
        """Each face with its track; empty unless at the last look the same ones were there, and have hardly moved."""
        seen = [track for track in self.live if track.keys[-1] == self.looked]
        pairs = [(seen[i], faces[j]) for i, j in associate(np.array([track.last[:4] for track in seen]), faces[:, :4])]
        moved = [np.abs(face - track.last)[:14].max() > self.settings.still * face[2:4].max() for track, face in pairs]
        return pairs if len(pairs) == len(seen) == len(faces) and not any(moved) else []

    def _give(self, number: int, faces: np.ndarray) -> None:
        """Give each face of a frame to the track that it continues, or to a new one."""
        self.looked, far = number, REMEMBERED * self.settings.detect_every
        self.live = live = [track for track in self.live if number - track.keys[-1] <= far]
        taken = {j: live[i] for i, j in associate(np.array([track.last[:4] for track in live]), faces[:, :4])}
        new = {j: Track(len(self.shots) - 1) for j in range(len(faces)) if j not in taken}
        self.tracks += new.values()
        self.live += new.values()
        for j, track in (taken | new).items():
            track.see(number, faces[j])

    def kept(self) -> list[Track]:
        """Tracks with crops that were seen often enough to be believed: the most forged first, then the longest."""
        least = [min(self.settings.min_detections, detections) for detections in self.shots]
        kept = [track for track in self.tracks if track.rows and len(track.keys) >= least[track.shot]]
        return sorted(kept, key=lambda track: (-track.forged, -len(track.rows)))


def crop(image: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """A box (left, top, right, bottom) of an image (H, W[, 3]) uint8 as (size, size[, 3]); beyond the border the edge is
    repeated."""
    (height, width), (left, top, right, bottom) = image.shape[:2], box
    patch = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    pads = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
    if any(pads):
        patch = cv2.copyMakeBorder(patch, *pads, cv2.BORDER_REPLICATE)
    return cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA if bottom - top > size else cv2.INTER_CUBIC)


def square_box(face: np.ndarray, scale: float, shape: tuple[int, ...]) -> list[int]:
    """Left, top, right, bottom of a square about a face (:meth:`Track.place`) in a frame of this shape (H, W, ...)."""
    side, centre = max(1, round(face[2] * scale)), np.clip(face[:2], 0, [shape[1] - 1, shape[0] - 1])
    left, top = (round(float(middle) - side / 2) for middle in centre)
    return [left, top, left + side, top + side]


def released_box(mask: np.ndarray, method: str) -> list[int] | None:
    """Left, top, right, bottom of the crop that Locate and Verify's released code takes; None where nothing is masked.

    Of the ``mask`` (H, W) uint8 the contour with the largest sum of width and height: its centroid, and its height by
    :data:`RELEASED`. Scale and offsets differ by ``method``, which gives the label away. What the released code does
    beyond the border of a frame is not known; here the edge is repeated.
    """
    otsu = method != "Face2Face" and cv2.THRESH_OTSU
    contours = cv2.findContours(
        cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY | otsu)[1], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )[0]
    largest = max(contours, key=lambda contour: sum(cv2.boundingRect(contour)[2:]), default=None)
    if largest is None or not (moments := cv2.moments(largest))["m00"]:
        return None
    scale, *offsets = RELEASED[method]
    half, centre = cv2.boundingRect(largest)[3] * scale / 2, np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    return (np.round([*(centre - half), *(centre + half)]).astype(int) + offsets).tolist()


# ---------------------------------------------------------------- one video


def _one(source: Source, given: dict, folder: Path, settings: Settings, detector: YuNet) -> dict:
    """Prepare one video into ``folder/videos/<video>``; returns its facts, with a ``reason`` if it goes to quarantine.

    A video that is there is kept when it was made of what is ``given``, and removed otherwise.
    """
    place, size = folder / "videos" / source.video, settings.size
    if (place / "video.json").exists():
        if (known := core.read_json(place / "video.json")).get("given") == given:
            return known | {"rows": None}
        shutil.rmtree(place)
    try:
        if source.crops:
            return _in_place(source, folder, given)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".scratch") as scratch:
            rows, facts = _cut(source, folder.name, settings, detector, Path(scratch))
            masked = facts["masked_by"] != "none"
            if not rows:
                return facts | {"reason": f"no face {'under the mask ' * masked}in {facts['frames']} frames"}
            order = [row.pop("place") for row in rows]
            crops = _gathered(Path(scratch, "crops"), order, (size, size, 3))
            masks = _gathered(Path(scratch, "masks"), order, (size, -(-size // 8))) if masked else None
            frames.write_video(place, rows, crops, masks, **facts, mask_threshold=settings.mask_threshold, given=given)
            return facts
    except (Unusable, av.FFmpegError, cv2.error, ValueError, MemoryError) as error:
        return {"reason": str(error)}
    except OSError as error:
        raise DfnbError(f"{folder} cannot be written ({error.strerror}); mend it and start again") from None


def _cut(source: Source, dataset: str, settings: Settings, detector: YuNet, scratch: Path) -> tuple[list[dict], dict]:
    """Rows of one video, each with its place in the two files of ``scratch`` (crops, packed masks), and facts."""
    total, released = count_frames(source.file), settings.geometry
    if released and not (source.mask and source.method in RELEASED):
        known = ", ".join(RELEASED)
        raise Unusable(f"the geometry {released} crops {known} by a mask video; real by that of Deepfakes")
    if source.mask and (n := count_frames(source.mask)) != total:
        if source.label:
            raise Unusable(f"the mask has {n} frames, the video {total}")
        total = min(n, total)
    beside = source.mask
    if source.original and not beside and _alike(source.file, source.original, total):
        beside = source.original
    every = range(0, total, settings.stride)
    n = min(settings.frames_per_video or total, len(every))
    wanted = {every[(2 * i + 1) * len(every) // (2 * n)] for i in range(n)}  # the middles of n equal parts
    follower, size, places = Follower(settings, detector), settings.size, itertools.count()
    rgb, grey = Converter("rgb24"), Converter("gray")
    others = decode(beside) if beside else itertools.repeat(None)
    with (scratch / "crops").open("wb") as crops, (scratch / "masks").open("wb") as masks:
        crops.seek(HEADER), masks.seek(HEADER)
        for number, frame, other, faces in follower.follow(zip(decode(source.file), others), wanted):
            image = rgb(frame)
            region = grey(other) if source.mask else difference(image, rgb(other)) if beside else None
            if region is not None and region.shape != image.shape[:2]:
                raise Unusable(f"the mask has {region.shape[::-1]} pixels, the video {image.shape[1::-1]}")
            by_mask = released_box(region, source.method) if released else None
            for track, face in faces:
                if not (box := by_mask if released else square_box(face, settings.scale, image.shape)):
                    continue
                crops.write(crop(image, box, size))
                if region is not None:
                    masked = crop(region, box, size) > settings.mask_threshold
                    track.forged += float(masked.mean())
                    masks.write(np.packbits(masked, axis=-1).tobytes())
                ratio = size / np.subtract(box[2:], box[:2])
                landmarks = np.round((face[3:].reshape(5, 2) - box[:2]) * ratio, 3).ravel().tolist()
                where = {"landmarks": landmarks, "crop_box": box, "scale": float(ratio[0])}
                track.rows.append({"place": next(places), "frame": number, **where})
    kept = follower.kept()
    if beside:  # of several people the one under the mask
        kept = [track for track in kept[:1] if track.forged]
    seen = {number for number in wanted if number < follower.decoded}
    without_face = sorted(seen - {row["frame"] for track in kept for row in track.rows})
    facts = {"decoded": follower.decoded, "frames": len(seen), "without_face": len(without_face)}
    facts |= {"frames_without_face": without_face, "shots": len(follower.shots), "detections": follower.detections}
    masked_by = "given" if source.mask else "difference of fake and original" if beside else "none"
    facts["masked_by"] = masked_by if source.label else "none"
    facts |= {"tracks": len(kept), "tracks_left_out": len(follower.tracks) - len(kept)}
    known = {key: getattr(source, key) for key in ("split", "cluster", "identity", "source", "method", "label")}
    rows = [{"dataset": dataset, **known, "track": i, **row} for i, track in enumerate(kept) for row in track.rows]
    return rows, facts


def _alike(fake: Path, original: Path, total: int) -> bool:
    """Whether an original has as many frames as the fake, and of the same size: else they cannot be compared."""
    with suppress(Unusable):
        first, other = (next(decode(file)) for file in (fake, original))
        return count_frames(original) == total and (first.width, first.height) == (other.width, other.height)
    return False


def _in_place(source: Source, folder: Path, given: dict) -> dict:
    """Write the rows of crops that are used where they lie, below ``source.file``; returns the facts.

    An image that cannot be read is left out and counted as a frame without a face.
    """
    known = {key: getattr(source, key) for key in ("split", "cluster", "identity", "source", "method", "label")}
    known |= {"dataset": folder.name, "track": 0, **dict.fromkeys(("landmarks", "crop_box", "scale"))}
    rows, hashes, lost = [], [], []
    numbered = [(int((re.findall(r"\d+", crop[0].stem) or [0])[-1]), crop) for crop in source.crops]
    numbered.sort(key=lambda pair: (pair[0], pair[1][0].name))
    if len({number for number, _ in numbered}) < len(numbered):
        numbered = [(place, crop) for place, (_, crop) in enumerate(numbered)]  # names that number nothing
    for number, crop in numbered:
        try:
            read_image(crop[0])
        except Unusable:
            lost.append(number)
            continue
        path, mask = (f"{TREE}/{file.relative_to(source.file).as_posix()}" if file else "" for file in crop)
        rows.append({**known, "frame": number, "path": path, "mask": mask})
        hashes.append([core.sha256(file) if file else "" for file in crop])
    n, masked = len(source.crops), any(row["mask"] for row in rows)
    facts = {"decoded": n, "frames": n, "masked_by": "given" if masked else "none"}
    facts |= {"without_face": len(lost), "frames_without_face": lost}
    if not rows:
        return facts | {"reason": f"none of {n} images can be read"}
    with core.atomic_folder(folder / "videos" / source.video) as temporary:
        content = {**facts, "crops_hash": core.digest(hashes, 64), "given": given, "rows": rows}
        core.write_json(temporary / "video.json", content, indent=None)
    return facts


def _gathered(path: Path, order: list[int], shape: tuple[int, ...]) -> Path:
    """A .npy file of some of the uint8 arrays that lie in a file after room for a header, without reading it whole."""
    if order != list(range(len(order))):
        arrays, path = np.memmap(path, np.uint8, "r", HEADER).reshape(-1, *shape), path.with_suffix(".npy")
        with path.open("wb") as file:
            file.seek(HEADER)
            file.writelines(arrays[place] for place in order)
    with path.open("rb+") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(order), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(HEADER + len(order) * math.prod(shape))
    return path


# ---------------------------------------------------------------- a dataset


def folder_sources(root: Path, label: str | None = None, split: str = "test", crops: bool = False) -> list[Source]:
    """All files below a folder as sources; what is no video or image will be listed in the quarantine.

    Without a ``label`` the sub-folders ``real/`` and ``fake/`` give it, ``fake/<method>/`` the method and ``mask/<path
    below fake>`` the mask video; with one (``real`` or ``fake``) all files have it. A video is named by its path
    without the suffix, with it where two would have the same name. With ``crops`` the files are images of faces, to be
    used where they lie: a folder of them is a video, and so is each that lies right below ``real/`` or
    ``fake/<method>/``. Raises :class:`DfnbError` when no file is there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DfnbError(f"{root} is no folder; give the folder that holds the videos")
    if parts := [part for part in frames.SPLITS if (root / part).is_dir()]:
        below = [(part, each) for part in parts for each in folder_sources(root / part, label, part, crops)]
        named = [(f"{part}/{each.video}", each) for part, each in below]
        return [replace(s, video=name, cluster=name, file=root if crops else s.file) for name, s in named]
    if label not in (None, "real", "fake"):
        raise DfnbError(f"the label of {root} must be real or fake, not {label!r}")
    files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    kinds = {path: label or path.parts[0] for path in files}
    if loose := [path for path in files if kinds[path] not in ("real", "fake", "mask")]:
        log.warning("%s: %d files outside real/, fake/ and mask/ are left out, %s", root, len(loose), loose[0])
    masks = {path.relative_to("mask").with_suffix(""): root / path for path in files if kinds[path] == "mask"}
    files = [path for path in files if kinds[path] in ("real", "fake")]
    if not files:
        raise DfnbError(f"{root} holds no file to prepare; sort videos into real/ and fake/, or say label real or fake")
    names = Counter(path.with_suffix("") for path in files)
    names.update({parent for path in files for parent in path.parents})
    sources = []
    for path in files:
        name = (path if names[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix()
        kind, below = kinds[path], path if label else path.relative_to(path.parts[0])
        method = below.parts[0] if kind == "fake" and not label and len(below.parts) > 1 else kind
        mask = masks.get(below.with_suffix("")) if kind == "fake" else None
        sources.append(Source(name, root / path, int(kind == "fake"), method, split, cluster=name, mask=mask))
    return _by_folder(sources, root, label is None) if crops else sources


def _by_folder(sources: list[Source], root: Path, sorted_in: bool) -> list[Source]:
    """Images as the frames of the videos whose folders they lie in."""
    videos: dict[str, Source] = {}
    for each in sources:
        if each.file.suffix.lower() in IMAGES:
            folder = Path(each.video).parent
            alone = len(folder.parts) <= sorted_in * (1 + (each.method not in ("real", "fake")))
            name = each.video if alone else folder.as_posix()
            old = videos.setdefault(name, replace(each, video=name, cluster=name, file=root, mask=None))
            videos[name] = replace(old, crops=(*old.crops, (each.file, each.mask)))
    return list(videos.values())


def deepfakebench_sources(file: Path, root: Path, compression: str = "c23") -> tuple[list[Source], list[str]]:
    """The videos that a JSON of DeepfakeBench lists, with its crops and masks below ``root``, and what is missing.

    Its form is {dataset: {label: {split: {video: {"frames": [...], "masks": [...]}}}}}, for FaceForensics++ with the
    compression between split and video; a label that ends with "real" is real. A video that it lists in several splits
    (its validation is its test split, its training split of Celeb-DF holds all) is a test video here.
    """
    root, said, sources, pairs = Path(root).resolve(), [], {}, manifest.pairs()

    def listed(node: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, dict]]:
        for name, below in node.items():
            if isinstance(below, dict) and "frames" not in below:
                yield from listed(below, (*above, name))
            elif isinstance(below, dict) and (len(above) < 4 or above[3] == compression):
                yield above, name, below

    entries = sorted(listed(core.read_json(file)), key=lambda entry: ("test", "val", "train").index(entry[0][2]))
    for (_, kind, split, *_), name, entry in entries:
        label, video = int(not kind.lower().endswith("real")), f"{kind}/{name}"
        if video in sources:
            continue
        images, masks = ([p.replace("\\", "/") for p in entry.get(what, [])] for what in ("frames", "masks"))
        masked = {Path(path).stem: there for path in masks if label and (there := manifest.below(root, path))}
        crops = [(there, masked.get(there.stem)) for path in images if (there := manifest.below(root, path))]
        if len(crops) < len(images):
            said.append(f"{video}: {len(images) - len(crops)} of {len(images)} frames are not below {root.name}")
        if crops:
            known = {"cluster": pairs.get(name, video), "identity": name.split("_")[0] if name in pairs else ""}
            sources[video] = Source(video, root, label, kind if label else "real", split, **known, crops=tuple(crops))
    if not sources:
        raise DfnbError(f"{file} lists no frame below {root}; name the folder that its paths begin in as root")
    return list(sources.values()), said


def prepare(
    name: str | Path,
    sources: Sequence[Source],
    settings: Settings | None = None,
    detector: YuNet | None = None,
    workers: int | None = None,
    progress: bool = True,
    missing: Sequence[str] = (),
) -> dict:
    """Prepare videos into ``datasets/<name>``; returns its record, whose ``quarantine`` lists what could not be used.

    One folder a video appears complete or not at all: a killed run goes on where it was, and the result has the same
    bytes for any number of ``workers`` (None: one a processor). A dataset that is done returns at once. Drop-outs and
    quarantined videos are counted by split and method in ``faces``; ``quarantine.csv`` has the list to read. What is
    known to be ``missing`` of the dataset is kept in the record. The space and time it takes are told beforehand.
    Raises :class:`DfnbError` when the folder holds other settings or other videos, when the space does not suffice, or when
    no video has a face.
    """
    settings, detector, clock = settings or Settings(), detector or YuNet(detector_path()), core.Clock()
    folder = frames.dataset_folder(name)
    _check_names(sources)
    parameters = settings.model_dump() | {"detector_sha256": detector.sha256}
    if not parameters["geometry"]:
        del parameters["geometry"]  # datasets made before there was a choice stay what they are
    else:  # real videos are cropped by the mask of their Deepfakes
        guides = {source.identity: source.mask for source in sources if source.method == "Deepfakes"}
        sources = [each if each.label else replace(each, mask=guides.get(each.identity)) for each in sources]
    made = core.digest(parameters)
    given = {source.video: _given(source, made) for source in sources}
    fingerprint = core.digest([given, missing], digits=16)
    with core.locked(folder):
        _link(folder, sources)
        if record := core.read_record(folder):
            keys, old = parameters | record["parameters"], record["parameters"]
            if others := ", ".join(key for key in keys if old.get(key) != parameters.get(key)):
                raise DfnbError(f"{folder} was made with another {others}; give the new dataset another name")
            if record["sources"] == fingerprint:
                return record
        for pattern in ("record.json", ".scratch*", "videos/**/.*.partial*", ".*.parquet.*", ".*.json.*", ".*.csv.*"):
            for left_over in list(folder.glob(pattern)):  # of a killed run
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        videos = folder / "videos"
        there = {file.parent.relative_to(videos).as_posix() for file in videos.rglob("video.json")}
        if others := sorted(there - given.keys()):
            raise DfnbError(f"{folder} holds another video, {others[0]!r}; give the new dataset another name")
        new = [each for each in sources if each.video not in there and not each.crops]
        _check_space(folder, new, settings, detector, workers)
        job = partial(_one, folder=folder, settings=settings, detector=detector)
        table = _table(sources, _run(job, sources, given, folder, workers, progress))
        unused = table.loc[table["quarantined"], ["video", "file", "method", "reason"]]
        with core.atomic(folder / "quarantine.csv") as temporary:
            unused.to_csv(temporary, index=False)
        faces = table.groupby(table["split"] + "/" + table["method"]).sum(numeric_only=True).to_dict("index")
        used = table[~table["quarantined"]]
        masks = (used["method"] + ": " + used["masked_by"]).value_counts().sort_index().to_dict()
        found = {"sources": fingerprint, "missing": list(missing), "quarantine": unused.to_dict("records")}
        found |= {"faces": faces, "masks": masks}
        return frames.write_dataset(folder, parameters, **found, **clock.facts())


def dropouts(record: dict) -> pd.DataFrame:
    """Of a prepared dataset, by split and method: videos, those not used, wanted frames, and the share without a face.

    A detector that fails on fakes more than on real videos is a bias: what is left are the easier fakes.
    """
    table = pd.DataFrame(record["faces"]).T[["videos", "quarantined", "frames", "without_face"]].astype(int)
    share = (table["without_face"] / table["frames"].clip(lower=1)).round(4)
    return table.assign(share=share).rename_axis("split/method")


def _link(folder: Path, sources: Sequence[Source]) -> None:
    """Let ``folder/tree`` lead to the folder whose crops are used in place."""
    roots, tree = sorted({each.file.resolve() for each in sources if each.crops}), folder / TREE
    if len(roots) > 1:
        raise DfnbError(f"{folder} would use crops of {roots[0]} and {roots[1]} in place; give one folder above both")
    if roots and (not tree.is_symlink() or tree.resolve() != roots[0]):
        tree.unlink(missing_ok=True)
        tree.symlink_to(roots[0], target_is_directory=True)


def _check_space(folder: Path, sources: list[Source], settings: Settings, detector: YuNet, workers: int | None) -> None:
    """Tell what is ahead, judged by a few videos: their lengths, and the time that their first frames take.

    Raises :class:`DfnbError` when the disk is too small for the crops and masks.
    """
    workers, lengths, seconds = min(workers or os.cpu_count() or 1, max(1, len(sources))), [], []
    for source in sources[:: max(1, len(sources) // 3)][:3]:
        with suppress(Unusable, av.FFmpegError):
            lengths.append(count_frames(source.file))
            start, first = time.monotonic(), zip(itertools.islice(decode(source.file), 5), itertools.repeat(None))
            n = sum(1 for _ in Follower(settings, detector).follow(first, range(5)))
            seconds.append((time.monotonic() - start) / n * lengths[-1])
    if not seconds:
        return
    n = np.mean([min(settings.frames_per_video or n, -(-n // settings.stride)) for n in lengths]) * len(sources)
    masked = np.mean([bool(source.mask or source.original) for source in sources])
    size, free = n * settings.size**2 * (3 + masked / 8), shutil.disk_usage(folder).free
    needed = f"about {size / 1e9:.2g} GB for {n:,.0f} frames of {len(sources):,} videos"
    if size > free:
        raise DfnbError(f"{folder} needs {needed}, and {free / 1e9:.2g} GB are free; free some, or take fewer frames")
    takes = timedelta(seconds=round(np.mean(seconds) * len(sources) / workers))
    log.info(f"{folder.name}: {needed} (free: {free / 1e9:.0f} GB), about {takes} with {workers} processes")


def _check_names(sources: Sequence[Source]) -> None:
    names = Counter(source.video for source in sources)
    for name, times in names.items():
        parts = name.split("/")
        if any(not part or part.startswith(".") for part in parts) or "\\" in name:
            raise DfnbError(f"{name!r} cannot name a video; its parts must not be empty nor begin with a dot")
        if times > 1 or any("/".join(parts[:i]) in names for i in range(1, len(parts))):
            raise DfnbError(f"two videos are named {name!r}, or one begins with the other's name and /; rename one")


def _given(source: Source, made: str) -> dict:
    """What a prepared video depends on, wherever its files lie: another description means that it is made anew."""
    files = {name: path and _stamp(path) for name, path in vars(source).items() if name in ("mask", "original")}
    crops = [[f.relative_to(source.file), f.stat().st_size] for f in sorted(f for c in source.crops for f in c if f)]
    files["file"] = core.digest(crops, 64) if crops else _stamp(source.file)
    return {**vars(source), **files, "crops": len(source.crops), "made": made}


def _stamp(file: Path) -> list:
    """Name, bytes and a hash of the first megabyte of a file: enough to see that it was exchanged or repaired."""
    try:
        with file.open("rb") as opened:
            return [file.name, file.stat().st_size, hashlib.sha256(opened.read(1 << 20)).hexdigest()[:16]]
    except OSError:
        return [file.name]


def _run(job: partial, sources: Sequence, given: dict, folder: Path, workers: int | None, progress: bool) -> list[dict]:
    """The facts of the videos, prepared in this process or in several."""
    workers = min(workers or os.cpu_count() or 1, len(sources))
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of PyTorch and OpenCV
    with ProcessPoolExecutor(workers, context, _begin_worker) if workers > 1 else nullcontext() as pool:
        found = (pool.map if pool else map)(job, sources, given.values())
        try:
            return list(tqdm(found, folder.name, len(sources), unit="video", mininterval=10, disable=not progress))
        except BrokenExecutor:
            raise DfnbError(f"a worker was killed, perhaps for want of memory; prepare {folder} with fewer") from None


def _begin_worker() -> None:
    """A worker has one thread, and ends with its parent: it would wait for work for ever if that were killed."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _table(sources: Sequence[Source], facts: list[dict]) -> pd.DataFrame:
    """One row a video, in the order of their names: what became of it, and how many frames have no face (drop-outs)."""
    empty = {"reason": "", "masked_by": "none", **dict.fromkeys(COUNTS, 0)}
    rows = [{**vars(source), "file": source.file.name, **empty, **found} for source, found in zip(sources, facts)]
    table = pd.DataFrame(rows, columns=["split", "method", "video", "file", *empty]).sort_values("video")
    return table.assign(videos=1, quarantined=table["reason"] != "")
