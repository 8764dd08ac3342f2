"""From videos to crops: decode, detect, follow one face per person, cut out at a fixed scale.

Faces are detected on every k-th frame by YuNet (Wu et al., Machine Intelligence Research 2023; OpenCV Zoo) and their
boxes and landmarks interpolated in between. Frames are decoded once, in presentation order, and held only until the
detections around them are known, so that memory does not grow with the length of a video. Real and fake frames pass
through the same geometry. What gives no usable face ends in a quarantine list, with its reason.
"""

import hashlib
import io
import logging
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import av
import av.logging
import cv2
import numpy as np
import pandas as pd
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment
from tqdm.auto import tqdm

from dfnb import frames, manifest, store
from dfnb.store import DfnbError

log = logging.getLogger(__name__)

YUNET = "face_detection_yunet_2023mar.onnx"
YUNET_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# a closed list: without it FFmpeg opens a text as ANSI art, and follows playlists to other files and hosts
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,asf,ogg,mxf,h264,hevc,m4v"
# what FFmpeg says, and does not count as an error, when it fills in pixels that the file does not hold
DAMAGE = re.compile(
    r"partial file|ended prematurely|corrupt|damaged|concealing|decode failed|error while decoding|Error at MB|"
    r"Invalid NAL unit size|moov atom not found",
    re.IGNORECASE,
)
# a clean process to start workers from, where there is one: the long imports are then done once, not once a worker
START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
OVERLAP = 0.2  # intersection over union from which two detections in a row may be one person
BRIDGED = 1  # missed detections in a row between which a face is still interpolated
REMEMBERED = 10  # missed detections in a row after which a person who comes back is a new track
CUT = 8.0  # a cut: the mean grey value changes by more than this from one frame to the next, and ...
CUT_RATIO = 4.0  # ... by more than this many times the change usual in the shot


class Settings(BaseModel):
    """What the crops of a dataset depend on beside the videos and the detector; another setting is another dataset."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: int = Field(256, ge=32, le=1024, description="side of a crop in pixels")
    scale: float = Field(1.3, ge=1, le=4, description="side of a crop, by the longer side of the face's box")
    frames_per_video: int | None = Field(None, ge=1, description="evenly spaced; None: all")
    stride: int = Field(1, ge=1, description="every n-th frame, before frames_per_video")
    detect_every: int = Field(5, ge=1, le=30, description="k: faces are detected on every k-th frame at most")
    detect_side: int = Field(640, ge=128, description="longer side of the image the detector sees; never enlarged")
    min_score: float = Field(0.7, ge=0.3, le=1, description="confidence from which a detection is a face")
    min_face: int = Field(32, ge=8, description="longer side of the smallest face in source pixels")
    min_detections: int = Field(3, ge=1, description="a track with fewer is spurious, unless its shot has fewer")
    mask_threshold: int = Field(127, ge=0, le=254, description="a mask pixel above it is forged")


@dataclass(frozen=True)
class Source:
    """One video: its name in the dataset, its file, what is known of it, and its mask video (same frame numbering)."""

    video: str
    file: Path
    label: int  # 0 real, 1 fake
    method: str  # real, or the manipulation's name
    split: str = "test"
    cluster: str = ""
    identity: str = ""
    source: str = ""
    mask: Path | None = None


class Detector(Protocol):
    """Finds faces; must survive pickling. ``sha256`` of its weights goes into the record."""

    sha256: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Faces (n, 15) in an image (H, W, 3) uint8 BGR: x, y, width, height; five landmarks as x, y; score."""


class Unusable(Exception):
    """Why a video goes into quarantine; ``facts`` is what is known of it nevertheless."""

    def __init__(self, reason: str, facts: dict | None = None) -> None:
        super().__init__(reason)
        self.facts = facts or {}


# ---------------------------------------------------------------- detector


def detector_path() -> Path:
    """YuNet's weights: ``$DFNB_DETECTOR``, else ``models/`` under the home, fetched when missing.

    Raises :class:`DfnbError` when the file has another sha256 than the pinned one, or cannot be downloaded.
    """
    if given := os.environ.get("DFNB_DETECTOR"):
        if not Path(given).is_file():
            raise DfnbError(
                f"DFNB_DETECTOR names {given}, which is no file; correct it or unset it to download {YUNET}"
            )
        return manifest.verified(Path(given), YUNET_SHA256)
    return manifest.fetch(YUNET_URL, store.home() / "models" / YUNET, YUNET_SHA256)


class YuNet:
    """The :class:`Detector` of OpenCV; one network a process, built on its first image."""

    def __init__(self, path: Path) -> None:
        self.path, self.sha256 = Path(path), store.sha256(path)
        self._net: Any = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_net": None}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self._net is None:
            level = cv2.utils.logging.setLogLevel(
                cv2.utils.logging.LOG_LEVEL_ERROR
            )  # a new engine's notice, every time
            self._net = cv2.FaceDetectorYN.create(str(self.path), "", (1, 1), 0.3, 0.3, 5000)
            cv2.utils.logging.setLogLevel(level)
        self._net.setInputSize((image.shape[1], image.shape[0]))
        found = self._net.detect(image)[1]
        return np.zeros((0, 15)) if found is None else found.astype(np.float64)


# ---------------------------------------------------------------- decoding


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; raises :class:`Unusable` when there is none."""
    if not file.is_file():
        raise Unusable("there is no such file")
    if file.stat().st_size == 0:
        raise Unusable("the file is empty")
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    with av.logging.Capture() as said:
        try:
            container = av.open(str(file.resolve()), options=options)
        except av.FFmpegError as error:
            damage = _damage(said)
            raise Unusable(f"truncated or damaged: {damage}" if damage else f"not a video ({error.strerror})") from None
        damage = _damage(said)
    with closing(container):
        if damage:
            raise Unusable(f"truncated or damaged: {damage}")
        if not container.streams.video:
            raise Unusable("there is no video stream in the file")
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"  # videos are what runs in parallel; messages stay in this thread
        yield container, stream


def _damage(said: list[tuple[int, str, str]]) -> str | None:
    """What FFmpeg said of damage since it was asked last."""
    found = next((text.strip() for _, _, text in said if DAMAGE.search(text)), None)
    said.clear()
    return found


def count_frames(file: Path) -> int:
    """The number of frames of a video, by its packets, without decoding them.

    Raises :class:`Unusable` for what is empty, no video, or truncated; a file cut off exactly between two frames of a
    container that knows neither its length nor an end mark (MPEG streams) cannot be told from a whole one.
    """
    count, shown, damage = 0, 0, None
    with av.logging.Capture() as said, _opened(file) as (container, stream):
        try:
            for packet in container.demux():
                if packet.size and packet.stream is stream:
                    count += 1
                    shown += not packet.is_discard  # an edit list hides frames that the file holds
                damage = damage or (packet.is_corrupt and "a packet is cut off") or _damage(said)
        except av.FFmpegError as error:
            damage = error.strerror
        if container.format.name == "gif":
            with file.open("rb") as opened:
                opened.seek(max(-1024, -file.stat().st_size), os.SEEK_END)
                damage = damage or (b"\x3b" not in opened.read().rstrip(b"\0")[-1:] and "the GIF has no end mark")
        elif container.format.name.startswith(("mov", "avi")) and count < stream.frames:
            damage = damage or f"{stream.frames} are announced"
    if damage:
        raise Unusable(f"truncated or damaged after {count} frames: {damage}")
    if not shown:
        raise Unusable("there is no frame in the file")
    return shown


def decode(file: Path) -> Iterator[VideoFrame]:
    """The frames of a video in presentation order; raises :class:`Unusable` at the first that is not whole."""
    count = 0
    with av.logging.Capture() as said, _opened(file) as (container, stream):
        try:
            for frame in container.decode(stream):
                if damage := (frame.is_corrupt and "a frame is not whole") or _damage(said):
                    raise Unusable(f"truncated or damaged after {count} frames: {damage}")
                count += 1
                yield frame
        except av.FFmpegError as error:
            raise Unusable(f"truncated or damaged after {count} frames: {error.strerror}") from None


class Converter:
    """Turns decoded frames into arrays; keeps its scaling context, since a new one for each frame takes 3 ms."""

    def __init__(self, kind: str, interpolation: str = "BICUBIC") -> None:
        self.kind, self.interpolation, self._context = kind, interpolation, VideoReformatter()

    def __call__(self, frame: VideoFrame, width: int | None = None, height: int | None = None) -> np.ndarray:
        array = self._context.reformat(frame, width, height, self.kind, interpolation=self.interpolation).to_ndarray()
        return np.rot90(array, frame.rotation // 90) if frame.rotation else array


# ---------------------------------------------------------------- following


@dataclass
class Track:
    """One person in one shot: the frames where the detector saw the face, and how."""

    number: int
    shot: int
    keys: list[int] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)  # (15,) each, in source pixels

    def place(self, frame: int, every: int) -> np.ndarray | None:
        """Centre x, y, longer side and five landmarks of the face in a frame (13,), in source pixels; None if away.

        Linear between two detections, and beyond the outer ones for half a detection interval.
        """
        n, before = len(self.keys), bisect_right(self.keys, frame) - 1
        near = min((max(before, 0), min(before + 1, n - 1)), key=lambda i: abs(frame - self.keys[i]))
        close = abs(frame - self.keys[near]) <= every // 2
        for i in (before, near - 1, near):
            if 0 <= i < n - 1 and (i == before or close):
                span = self.keys[i + 1] - self.keys[i]
                if span <= (BRIDGED + 1) * every:
                    share = (frame - self.keys[i]) / span
                    return (1 - share) * self._smooth(i) + share * self._smooth(i + 1)
        return self._smooth(near) if close else None

    def _smooth(self, i: int) -> np.ndarray:
        """Detection ``i``, its box averaged as 1-2-1 with both neighbours where these are equally near."""
        box, landmarks = self._square(i), self.faces[i][4:14]
        if 0 < i < len(self.keys) - 1 and self.keys[i] * 2 == self.keys[i - 1] + self.keys[i + 1]:
            box = box / 2 + (self._square(i - 1) + self._square(i + 1)) / 4
        return np.concatenate([box, landmarks])

    def _square(self, i: int) -> np.ndarray:
        x, y, width, height = self.faces[i][:4]
        return np.array([x + width / 2, y + height / 2, max(width, height)])


def associate(last: np.ndarray, found: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) of boxes ``last`` (m, 4) and ``found`` (n, 4), x y width height, that overlap most in all."""
    if not len(last) or not len(found):
        return []
    a, b = last[:, None], found[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., :2] + a[..., 2:4], b[..., :2] + b[..., 2:4])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    overlap = common / (np.prod(a[..., 2:4], axis=-1) + np.prod(b[..., 2:4], axis=-1) - common)
    overlap[overlap < OVERLAP] = 0
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(-overlap)) if overlap[i, j] > 0]


class Follower:
    """Follows the faces of a video, shot by shot; holds the frames of three to four detection intervals at most."""

    def __init__(self, settings: Settings, detector: Detector) -> None:
        self.settings, self.detector = settings, detector
        self.tracks: list[Track] = []
        self.decoded = self.detections = self.small = 0
        self.shots: list[int] = []  # detections a shot
        self._bgr, self._grey = Converter("bgr24", "AREA"), Converter("gray", "AREA")

    def follow(
        self, pairs: Iterator[tuple[VideoFrame, Any]], wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, VideoFrame, Any, list[tuple[Track, np.ndarray]]]]:
        """Wanted frames with their number, what came with them, and the place of each face (:meth:`Track.place`)."""
        every, middle = self.settings.detect_every, self.settings.detect_every // 2
        held: deque[tuple[int, VideoFrame, Any]] = deque()
        live: list[Track] = []
        start, thumb, usual, last = 0, None, 0.0, None

        def ready(until: float) -> Iterator[tuple[int, VideoFrame, Any, list[tuple[Track, np.ndarray]]]]:
            while held and held[0][0] <= until:
                number, frame, beside = held.popleft()
                places = [(track, track.place(number, every)) for track in live]
                yield number, frame, beside, [(track, place) for track, place in places if place is not None]

        for number, (frame, beside) in enumerate(pairs):
            self.decoded += 1
            before, thumb = thumb, self._grey(frame, 32, 32).astype(np.int16)
            change = 0.0 if before is None else float(np.abs(thumb - before).mean())
            if number == 0 or change > max(CUT, CUT_RATIO * usual):
                if number and 0 < (number - start) % every <= middle:
                    self._detect(number - 1, last, live)
                yield from ready(number)
                start, usual, live = number, 0.0, []
                self.shots.append(0)
            else:
                usual = change if number == start + 1 else 0.8 * usual + 0.2 * change
            if wanted(number):
                held.append((number, frame, beside))
            if (number - start) % every == middle:
                live = [track for track in live if number - track.keys[-1] <= REMEMBERED * every]
                self._detect(number, frame, live)
                yield from ready(number - (BRIDGED + 2) * every)
            last = frame
        if last is not None and 0 < (self.decoded - start) % every <= middle:
            self._detect(self.decoded - 1, last, live)  # every frame is within k // 2 of a detection
        yield from ready(np.inf)

    def _detect(self, number: int, frame: VideoFrame, live: list[Track]) -> None:
        """Detect faces in a frame, give each to the track it continues, and begin tracks (added to ``live``)."""
        ratio = min(1.0, self.settings.detect_side / max(frame.width, frame.height))
        image = self._bgr(frame, max(1, round(frame.width * ratio)), max(1, round(frame.height * ratio)))
        faces = np.array(self.detector(np.ascontiguousarray(image)), np.float64).reshape(-1, 15)
        faces[:, :14] /= ratio
        faces = faces[faces[:, 14] >= self.settings.min_score]
        large = faces[:, 2:4].max(axis=1, initial=0) >= self.settings.min_face
        self.small += int((~large).sum())
        faces = faces[large]
        self.detections += 1
        self.shots[-1] += 1
        taken = {j: live[i] for i, j in associate(np.array([t.faces[-1][:4] for t in live]), faces[:, :4])}
        for j, face in enumerate(faces):
            if j not in taken:
                taken[j] = Track(len(self.tracks), len(self.shots) - 1)
                self.tracks.append(taken[j])
                live.append(taken[j])
            taken[j].keys.append(number)
            taken[j].faces.append(face)

    def spurious(self, track: Track) -> bool:
        """Whether a track was seen too seldom to be believed."""
        return len(track.keys) < min(self.settings.min_detections, self.shots[track.shot])


def crop(image: np.ndarray, left: int, top: int, side: int, size: int) -> np.ndarray:
    """A square of an image (H, W[, 3]) uint8 as (size, size[, 3]); beyond the border the edge is repeated."""
    height, width = image.shape[:2]
    patch = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    pads = max(-top, 0), max(top + side - height, 0), max(-left, 0), max(left + side - width, 0)
    if any(pads):
        patch = cv2.copyMakeBorder(patch, *pads, cv2.BORDER_REPLICATE)
    return cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


# ---------------------------------------------------------------- one video


def _one(source: Source, folder: Path, settings: Settings, detector: Detector) -> dict[str, Any]:
    """Prepare one video into ``folder/videos/<video>``; returns its facts, or its ``reason`` for the quarantine."""
    given = _describe(source)
    try:
        with _quiet(), tempfile.TemporaryDirectory(dir=folder, prefix=".scratch") as scratch:
            try:
                rows, crops, masks, facts = _cut(source, folder.name, settings, detector, Path(scratch))
            except (av.FFmpegError, cv2.error, ValueError, MemoryError) as error:
                raise Unusable(f"it cannot be decoded ({error})") from error
            frames.write_video(folder / "videos" / source.video, rows, crops, masks, **facts, given=given)
            return facts
    except Unusable as reason:
        return {**reason.facts, "reason": str(reason)}
    except OSError as error:
        raise DfnbError(f"{folder} cannot be written ({error.strerror}); mend it and start again") from None


def _cut(
    source: Source, dataset: str, settings: Settings, detector: Detector, scratch: Path
) -> tuple[list[dict], Path, Path | None, dict[str, Any]]:
    """Rows, crops and packed masks (.npy files in ``scratch``) and facts of one video."""
    total = count_frames(source.file)
    if source.mask and (n := count_frames(source.mask)) != total:
        raise Unusable(f"the mask has {n} frames, the video {total}")
    wanted = _wanted(total, settings)
    follower, size = Follower(settings, detector), settings.size
    rgb, grey = Converter("rgb24"), Converter("gray")
    rows: dict[int, list[dict]] = {}
    forged: Counter[int] = Counter()  # sum of the share of the face's box that is masked, a track
    seen = []
    with closing(decode(source.file)) as video, closing(_mask_frames(source.mask)) as beside:
        for number, frame, mask, places in follower.follow(zip(video, beside), wanted):
            seen.append(number)
            image = rgb(frame)
            region = None if mask is None else grey(mask)
            if region is not None and region.shape != image.shape[:2]:
                raise Unusable(f"the mask has {region.shape[::-1]} pixels, the video {image.shape[1::-1]}")
            for track, place in places:
                side = max(1, round(place[2] * settings.scale))
                centre = np.clip(place[:2], 0, [image.shape[1] - 1, image.shape[0] - 1])
                left, top = (round(float(middle) - side / 2) for middle in centre)
                _append(scratch / f"{track.number}.crops", crop(image, left, top, side, size))
                if region is not None:
                    masked = crop(region, left, top, side, size) > settings.mask_threshold
                    forged[track.number] += float(masked.mean())
                    _append(scratch / f"{track.number}.masks", np.packbits(masked, axis=-1))
                landmarks = (place[3:] - np.tile([left, top], 5)) * (size / side)
                rows.setdefault(track.number, []).append(
                    {
                        "frame": number,
                        "landmarks": np.round(landmarks, 3).tolist(),
                        "crop_box": [left, top, left + side, top + side],
                        "scale": size / side,
                    }
                )
    kept = [track.number for track in follower.tracks if track.number in rows and not follower.spurious(track)]
    if source.mask:  # of several people the one under the mask
        kept = sorted((number for number in kept if forged[number]), key=lambda number: -forged[number])[:1]
    kept.sort(key=lambda number: (-len(rows[number]), number))
    with_face = {row["frame"] for number in kept for row in rows[number]}
    without_face = [number for number in seen if number not in with_face]
    facts = {
        "decoded": follower.decoded,
        "frames": len(seen),
        "without_face": len(without_face),
        "frames_without_face": without_face,
        "shots": len(follower.shots),
        "detections": follower.detections,
        "small_faces": follower.small,
        "tracks": len(kept),
        "tracks_left_out": len(follower.tracks) - len(kept),
    }
    if not kept:
        raise Unusable(f"{'the mask meets no' if source.mask and rows else 'no'} face in {len(seen)} frames", facts)
    known = {key: getattr(source, key) for key in ("split", "cluster", "identity", "source", "method", "label")}
    result = [
        {"dataset": dataset, **known, "track": track, **row}
        for track, number in enumerate(kept)
        for row in rows[number]
    ]
    crops = _joined([scratch / f"{number}.crops" for number in kept], (len(result), size, size, 3))
    if not source.mask:
        return result, crops, None, facts
    facts["mask_threshold"] = settings.mask_threshold
    packed = (len(result), size, -(-size // 8))
    return result, crops, _joined([scratch / f"{number}.masks" for number in kept], packed), facts


def _wanted(total: int, settings: Settings) -> Callable[[int], bool]:
    """Which frames to cut out: every ``stride``-th, and of these the middles of ``frames_per_video`` equal parts."""
    if settings.frames_per_video is None:
        return range(0, sys.maxsize, settings.stride).__contains__
    every = range(0, total, settings.stride)
    n = min(settings.frames_per_video, len(every))
    return {every[(2 * i + 1) * len(every) // (2 * n)] for i in range(n)}.__contains__


def _mask_frames(file: Path | None) -> Iterator[VideoFrame | None]:
    while file is None:
        yield None
    yield from decode(file)


def _header(shape: tuple[int, ...]) -> bytes:
    """The start of a .npy file of uint8; its length does not depend on the first number, for which numpy leaves room."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _append(path: Path, array: np.ndarray) -> None:
    with path.open("ab") as file:
        file.write((b"" if file.tell() else _header((0, *array.shape))) + array.tobytes())


def _joined(paths: list[Path], shape: tuple[int, ...]) -> Path:
    """One .npy file of all, in this order: the others are appended to the first, so that one track is not copied."""
    header = _header(shape)
    with paths[0].open("r+b") as whole:
        whole.write(header)
        whole.seek(0, os.SEEK_END)
        for path in paths[1:]:
            with path.open("rb") as part:
                part.seek(len(header))
                shutil.copyfileobj(part, whole, 1 << 20)
    return paths[0]


# ---------------------------------------------------------------- a dataset


def folder_sources(root: Path, label: str | None = None, split: str = "test") -> list[Source]:
    """All files below a folder as sources; what is no video will be listed in the quarantine.

    With sub-folders ``real/`` or ``fake/`` these give the label, ``fake/<method>/`` the method and ``mask/<path below
    fake>`` the mask video; otherwise all have the ``label`` ``real`` or ``fake``. A video is named by its path without
    the suffix, with it where two would have the same name. Raises :class:`DfnbError` when no label or no file is there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DfnbError(f"{root} is no folder; give the folder that holds the videos")
    if label not in (None, "real", "fake"):
        raise DfnbError(f"the label of {root} must be real or fake, not {label!r}")
    files = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    masks = {}
    if (root / "real").is_dir() or (root / "fake").is_dir():
        masks = {path.relative_to("mask").with_suffix(""): root / path for path in files if path.parts[0] == "mask"}
        if loose := [path for path in files if path.parts[0] not in ("real", "fake", "mask")]:
            log.warning("%s: %d files outside real/, fake/ and mask/ are left out, %s", root, len(loose), loose[0])
        files = [path for path in files if path.parts[0] in ("real", "fake")]
    elif label is None and files:
        raise DfnbError(
            f"{root} has no sub-folders real/ and fake/; sort the videos into them or say label real or fake"
        )
    if not files:
        raise DfnbError(f"{root} holds no file; give the folder that holds the videos")
    names = Counter(path.with_suffix("") for path in files)
    folders = {parent for path in files for parent in path.parents}
    sources = []
    for path in files:
        plain = path.with_suffix("")
        name = (path if names[plain] > 1 or plain in folders else plain).as_posix()
        kind = label or path.parts[0]
        below = Path(*path.parts[1:]) if label is None else path
        method = kind if kind == "real" or label or len(below.parts) < 2 else below.parts[0]
        mask = masks.get(below.with_suffix("")) if kind == "fake" else None
        sources.append(Source(name, root / path, int(kind == "fake"), method, split, cluster=name, mask=mask))
    return sources


def prepare(
    name: str | Path,
    sources: Sequence[Source],
    settings: Settings | None = None,
    detector: Detector | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict:
    """Prepare videos into ``datasets/<name>``; returns its record, whose ``quarantine`` lists what could not be used.

    One folder a video appears complete or not at all: a killed run goes on where it was, and the result has the same
    bytes for any number of ``workers`` (None: one a processor). A dataset that is done returns at once. Drop-outs and
    quarantined videos are counted by split and method in ``faces``; ``quarantine.csv`` has the list to read.
    Raises :class:`DfnbError` when the folder holds other settings or other videos, or when no video has a face.
    """
    settings, clock = settings or Settings(), store.Clock()
    detector = detector or YuNet(detector_path())
    folder = frames.dataset_folder(name)
    _check_names(sources)
    parameters = {**settings.model_dump(), "detector_sha256": detector.sha256}
    with store.locked(folder):
        _claim(folder, parameters)
        described = {source.video: _describe(source) for source in sources}
        fingerprint = store.digest(described, digits=16)
        record = store.read_record(folder)
        if record and record.get("sources") == fingerprint:
            return record
        (folder / "record.json").unlink(missing_ok=True)
        for pattern in (".scratch*", "videos/**/.*.partial*", ".*.parquet.*", ".*.json.*", ".*.csv.*"):
            for left_over in list(folder.glob(pattern)):  # of a killed run
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        facts = _finished(folder, described)
        pending = [source for source in sources if source.video not in facts]
        facts |= _run(
            pending, folder, partial(_one, folder=folder, settings=settings, detector=detector), workers, progress
        )
        table = _table(sources, facts)
        quarantine = table.loc[table["quarantined"], ["video", "file", "method", "reason"]]
        with store.atomic(folder / "quarantine.csv") as temporary:
            quarantine.to_csv(temporary, index=False)
        return frames.write_dataset(
            folder,
            parameters,
            sources=fingerprint,
            quarantine=quarantine.to_dict("records"),
            faces=table.groupby(table["split"] + "/" + table["method"]).sum(numeric_only=True).to_dict("index"),
            **clock.facts(),
        )


def _check_names(sources: Sequence[Source]) -> None:
    names = Counter(source.video for source in sources)
    for name, times in names.items():
        parts = name.split("/")
        if any(not part or part.startswith(".") for part in parts) or "\\" in name:
            raise DfnbError(f"{name!r} cannot name a video; its parts must not be empty nor begin with a dot")
        if times > 1:
            raise DfnbError(f"{times} videos are named {name!r}; give each its own name")
        if inside := next((up for i in range(1, len(parts)) if (up := "/".join(parts[:i])) in names), None):
            raise DfnbError(f"the video {name!r} would lie inside the folder of {inside!r}; rename one of them")


def _claim(folder: Path, parameters: dict) -> None:
    """Mark a folder as made with these parameters; raises :class:`DfnbError` when it was made with others."""
    marker = folder / "prepare.json"
    if marker.exists():
        before = store.read_json(marker)
        if others := [key for key in parameters | before if before.get(key) != parameters.get(key)]:
            was = ", ".join(f"{key} {before.get(key)} and not {parameters.get(key)}" for key in others)
            raise DfnbError(f"{folder} was prepared with {was}; give the new dataset another name or delete the folder")
    elif (folder / "videos").exists() or (folder / "record.json").exists():
        raise DfnbError(f"{folder} holds a dataset that was not prepared from videos; give the new one another name")
    else:
        store.write_json(marker, parameters)


def _describe(source: Source) -> dict:
    """A source without where it lies: two runs agree on it when they were given the same videos."""
    return {**asdict(source), "file": _stamp(source.file), "mask": source.mask and _stamp(source.mask)}


def _stamp(file: Path) -> list:
    """Name, bytes and a hash of both ends of a file: enough to see that it was exchanged or repaired."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            ends = hashlib.sha256(opened.read(1 << 16))
            opened.seek(max(0, size - (1 << 16)))
            ends.update(opened.read())
    except OSError:
        return [file.name, None, None]
    return [file.name, size, ends.hexdigest()[:16]]


def _finished(folder: Path, described: dict[str, dict]) -> dict[str, dict]:
    """The facts of the videos done already; a video whose source has changed is removed.

    Raises :class:`DfnbError` when there are videos that are not asked for.
    """
    facts: dict[str, dict] = {}
    for file in sorted((folder / "videos").rglob("video.json")):
        video = file.parent.relative_to(folder / "videos").as_posix()
        if video not in described:
            raise DfnbError(
                f"{folder} holds the video {video!r}, which is not among those to prepare; "
                "give the new dataset another name or delete the folder"
            )
        known = store.read_json(file)
        if known["given"] == described[video]:
            facts[video] = known | {"rows": None}
        else:
            shutil.rmtree(file.parent)
    return facts


def _run(
    pending: Sequence[Source], folder: Path, job: Callable[[Source], dict], workers: int | None, progress: bool
) -> dict[str, dict]:
    """The facts of the pending videos, prepared in this process or in several."""
    workers = min(workers or os.cpu_count() or 1, len(pending))
    facts, decoded, clock = {}, 0, store.Clock()
    with ExitStack() as stack:
        run: Callable = map
        if workers > 1:
            context = multiprocessing.get_context(START)
            if START == "forkserver":
                context.set_forkserver_preload([__name__])
            run = stack.enter_context(ProcessPoolExecutor(workers, context, _end_with_parent)).map
        bar = tqdm(total=len(pending), unit="video", desc=folder.name, mininterval=2, disable=not progress)
        stack.enter_context(bar)
        try:
            for source, fresh in zip(pending, run(job, pending)):
                facts[source.video] = fresh
                decoded += fresh.get("decoded", 0)
                bar.set_postfix_str(f"{decoded / max(clock.facts()['wall_s'], 0.01):.0f} frames/s", refresh=False)
                bar.update()
        except BrokenProcessPool:
            raise DfnbError(
                f"a worker was killed while preparing {folder}, perhaps for want of memory; "
                "start again with fewer workers to go on where it was"
            ) from None
    return facts


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: it ends as well."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread a process for OpenCV, and all that FFmpeg says within reach of :func:`_damage`."""
    threads, level, skip = cv2.getNumThreads(), av.logging.get_level(), av.logging.get_skip_repeated()
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


def _table(sources: Sequence[Source], facts: dict[str, dict]) -> pd.DataFrame:
    """One row a video, in the order of their names: what became of it, and how many frames have no face (drop-outs)."""
    counts = ("decoded", "frames", "without_face", "detections", "tracks", "tracks_left_out", "small_faces")
    rows = []
    for source in sorted(sources, key=lambda source: source.video):
        known = facts[source.video]
        row = {"split": source.split, "method": source.method, "video": source.video, "file": source.file.name}
        row |= {"reason": known.get("reason", ""), "videos": 1, "quarantined": "reason" in known}
        rows.append(row | {key: known.get(key, 0) for key in counts})
    return pd.DataFrame(rows)
