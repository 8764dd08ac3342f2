"""Where faces are in a video: read its frames, detect faces on some of them, follow one face per person.

Faces are detected by YuNet (Wu et al., Machine Intelligence Research 2023; OpenCV Zoo) on every k-th frame; boxes and
landmarks are interpolated in between. A cut or a dissolve ends all tracks. No more than two frames are held, so that memory
does not grow with the length of a video.
"""

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou

from dfnb import core

YUNET = "face_detection_yunet_2023mar.onnx"
YUNET_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# closed lists: without them FFmpeg opens a text as ANSI art, and follows playlists to other files and hosts
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,asf,ogg,mxf,h264,hevc,m4v"
ALLOWED = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}

DETECT_SIDE = 640  # the detector sees half the frame, but 400 to this many pixels of its longer side
CUT = 12.0  # a cut: grey values change by more than this in the mean, at once or steadily
STEADY = 0.4  # of the pixels, those that change as in the frame before less those that change the other way
OVERLAP = 0.2  # intersection over union from which two detections in a row may be one person
FEWEST = 3  # detections of a person below which a track is spurious, unless faces were looked for less often
REMEMBERED = 10  # missed detections in a row after which a person who comes back is a new track

Track = dict[int, np.ndarray]  # one person between two cuts: look for faces -> what it found (15,), as YuNet gives it


class Unusable(Exception):
    """Why a video goes into quarantine."""


# ---------------------------------------------------------------- detector


def detector_path() -> Path:
    """YuNet's weights: ``$DFNB_DETECTOR``, else ``models/`` under the home; downloaded when the file is missing.

    Raises :class:`DfnbError` when the file has another sha256 than the pinned one, or cannot be downloaded.
    """
    path = Path(os.environ.get("DFNB_DETECTOR") or core.home() / "models" / YUNET)
    if not path.exists():
        with core.reading("the face detector", "here", f"get {YUNET_URL} and put it at {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(YUNET_URL, str(path), hash_prefix=YUNET_SHA256)
    return core.verified(path, YUNET_SHA256)


class YuNet:
    """The detector of OpenCV; one network per process, built on its first image.

    Any other callable that survives pickling and has the ``sha256`` of its weights can take its place.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.sha256 = str(path), core.sha256(path)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Faces (n, 15) in an image (H, W, 3) uint8 BGR: x, y, width, height; five landmarks as x, y; score."""
        network = _network(self.path)
        network.setInputSize((image.shape[1], image.shape[0]))
        faces = network.detect(image)[1]
        return np.zeros((0, 15)) if faces is None else faces.astype(np.float64)


@cache
def _network(path: str) -> cv2.FaceDetectorYN:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about its own defaults
    cv2.setNumThreads(1)  # several videos are prepared in parallel instead
    return cv2.FaceDetectorYN.create(path, "", (1, 1), 0.3, 0.3, 5000)


# ---------------------------------------------------------------- reading


def decode(file: Path) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB of a video, or of an image one; :class:`Unusable` where it is damaged or cut off.

    MPEG, WebM and GIF do not announce their number of frames: of them a cut exactly between two frames is not seen.
    """
    if file.suffix.lower() in IMAGES and file.is_file():
        yield read_image(file)
        return
    # one converter for all: a new one for each frame takes 3 ms
    packets, damaged, converter = 0, False, av.video.reformatter.VideoReformatter()
    try:
        with av.open(str(file.resolve()), options=ALLOWED) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_type = "NONE"  # several videos are decoded in parallel instead
            for packet in container.demux(stream):
                packets += packet.size > 0  # and not frames, some of which an edit list may hide
                for frame in packet.decode():
                    damaged |= frame.is_corrupt or packet.is_corrupt
                    image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    yield np.rot90(image, frame.rotation // 90) if frame.rotation else image
            if damaged or packets < stream.frames:
                raise Unusable("truncated or damaged")
    except (av.FFmpegError, IndexError) as error:
        reason = getattr(error, "strerror", "no video stream")
        raise Unusable(f"not a video, or truncated or damaged ({reason})") from None


def read_image(file: Path) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB, upright; raises :class:`Unusable` for what is none, or truncated, or a bomb."""
    try:
        with Image.open(file) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unusable(f"not an image, or truncated or damaged ({error.__class__.__name__})") from None


# ---------------------------------------------------------------- following


def interpolate(track: Track, wanted: np.ndarray, looked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (m,) of those ``wanted`` frames that show the face of a track, and where it is (m, 13).

    A place is centre x, y, longer side and five landmarks in source pixels, linear between the detections in the frames
    ``looked`` at. A frame shows the face if the nearest look found it, or missed it between two that found it.
    """
    looks, faces = list(track), np.stack(list(track.values()))
    found = np.isin(np.arange(len(looked)), looks)
    found[1:-1] |= found[:-2] & found[2:]
    shown = wanted[found[np.searchsorted((looked[1:] + looked[:-1]) / 2, wanted)]]
    centres, sides = faces[:, :2] + faces[:, 2:4] / 2, faces[:, 2:4].max(axis=1)
    values = np.column_stack([centres, sides, faces[:, 4:14]])
    return shown, np.column_stack([np.interp(shown, looked[looks], column) for column in values.T])


class Follower:
    """Follows the faces of one video; ``settings`` are those of :class:`dfnb.data.prepare.Settings`."""

    def __init__(self, settings: core.Closed, detector: YuNet) -> None:
        self.settings, self.detector = settings, detector
        self.looked: list[int] = []  # the frames in which faces were looked for
        self.tracks: list[Track] = []
        self.first = 0  # the first look after the last cut

    def follow(self, images: Iterable[np.ndarray]) -> int:
        """Follow the faces through all frames (H, W, 3) uint8 RGB of a video; returns their number.

        Besides every k-th frame, faces are looked for in the last frame and on both sides of a cut.
        """
        before = last = None
        change = drift = np.zeros((32, 32, 3))
        for number, image in enumerate(images):
            thumbnail = cv2.resize(image[::4, ::4], (32, 32), interpolation=cv2.INTER_AREA).astype(float)
            if last is not None:
                # in a dissolve most pixels go on getting brighter, or darker, from frame to frame
                steady = np.sign(change * (thumbnail - before)).mean() > STEADY
                change = thumbnail - before
                drift = change + drift * steady
            if np.abs(drift).mean() > CUT:
                self._look(number - 1, last)
                self.first, drift = len(self.looked), 0 * drift
            if self.first == len(self.looked) or number - self.looked[-1] >= self.settings.detect_every:
                self._look(number, image)
            before, last = thumbnail, image
        if last is None:
            raise Unusable("there is no frame in the file")
        self._look(number, last)
        return number + 1

    def _look(self, number: int, image: np.ndarray) -> None:
        """Give each face of a frame to the track that it continues, or to a new one."""
        if number in self.looked[-1:]:
            return
        look, faces = len(self.looked), self._detect(image)
        self.looked.append(number)
        live = [track for track in self.tracks if max(track) >= max(self.first, look - REMEMBERED)]
        last = np.array([track[max(track)] for track in live]).reshape(-1, 15)
        a, b = (box_convert(torch.from_numpy(boxes[:, :4]), "xywh", "xyxy") for boxes in (last, faces))
        overlap = box_iou(a, b).numpy()
        overlap[overlap < OVERLAP] = 0
        # the pairs of boxes that overlap most in all
        pairs = {i: j for i, j in zip(*linear_sum_assignment(-overlap)) if overlap[i, j] > 0}
        for i, j in pairs.items():
            live[i][look] = faces[j]
        self.tracks += [{look: face} for j, face in enumerate(faces) if j not in pairs.values()]

    def _detect(self, image: np.ndarray) -> np.ndarray:
        """The faces (n, 15) of a frame that are large and certain enough, in source pixels."""
        longer = max(image.shape)
        ratio = min(longer, DETECT_SIDE, max(400, longer / 2)) / longer
        small = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        faces = np.array(self.detector(cv2.cvtColor(small, cv2.COLOR_RGB2BGR)), np.float64).reshape(-1, 15)
        faces[:, :14] /= ratio
        large = faces[:, 2:4].max(axis=1, initial=0) >= self.settings.min_face
        return faces[large & (faces[:, 14] >= self.settings.min_score)]

    def places(self, wanted: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """:func:`interpolate` for each person, seen longest first; who was seen too rarely to be believed is left out."""
        fewest, looked = min(FEWEST, len(self.looked)), np.array(self.looked)
        tracks = [interpolate(track, wanted, looked) for track in self.tracks if len(track) >= fewest]
        return sorted((track for track in tracks if len(track[0])), key=lambda track: -len(track[0]))
