"""Where the faces of a video are: decoding, detection, and tracks that follow each person.

Faces are detected by YuNet (Wu et al., Machine Intelligence Research 2023; OpenCV Zoo) on every
k-th frame; boxes and landmarks are interpolated in between. A cut or a dissolve ends all
tracks. Never more than two frames are held, so that memory does not grow with a video's length.
"""

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou

from dfnb.files import home, sha256, verified
from dfnb.settings import explained

YUNET = "face_detection_yunet_2023mar.onnx"
YUNET_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# Without these closed lists FFmpeg opens a text as ANSI art, and follows playlists to other hosts.
OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,"
    "asf,ogg,mxf,h264,hevc,m4v",
    "protocol_whitelist": "file",
}

DETECTION_SIDES = (400, 640)  # fewest and most pixels of the longer side of what the detector sees
CUT = 12.0  # a cut: the mean absolute change of grey values, in one step or in a steady drift
STEADY = 0.4  # share of pixels that change in the same direction as before, less the others' share
OVERLAP = 0.2  # intersection over union from which two successive detections may be one person
FEWEST_DETECTIONS = 3  # a track with fewer is spurious, unless the video was searched less often
REMEMBERED = 10  # a person who was missed in this many searches in a row starts a new track

# One person between two cuts: number of the search -> the detection (15,) as YuNet gives it.
Track = dict[int, np.ndarray]
# The frames that show a person (m,), and where the face is in them (m, 13): see interpolate.
Places = tuple[np.ndarray, np.ndarray]


class Search(NamedTuple):
    """What the detector found in one frame."""

    frame: int  # its number in the video
    shot: int  # the number of cuts before it
    faces: np.ndarray  # (n, 15)


class Unusable(Exception):
    """The reason why a video goes into quarantine."""


# ---------------------------------------------------------------- detector


def detector_path() -> Path:
    """Path of YuNet's weights, which are downloaded when they are missing.

    The place is ``$DFNB_DETECTOR``, else ``models/`` in the home. Raises :class:`DfnbError` when
    the file is not the released one, or cannot be downloaded.
    """
    default = home() / "models" / YUNET
    path = Path(os.environ.get("DFNB_DETECTOR", default))
    if not path.exists():
        with explained("the face detector", "here", f"get {YUNET_URL} and put it at {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(YUNET_URL, str(path), hash_prefix=YUNET_SHA256)
    return verified(path, YUNET_SHA256, "is not the released face detector; delete it")


class YuNet:
    """The face detector of OpenCV, loaded in each process at its first image.

    Any other callable that can be pickled and has the ``sha256`` of its weights can replace it.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.sha256 = sha256(path)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Detect the faces (n, 15) in an image (H, W, 3) uint8 BGR.

        A face is x, y, width, height; x and y of five landmarks; score.
        """
        network = _network(self.path)
        height, width = image.shape[:2]
        network.setInputSize((width, height))
        _, faces = network.detect(image)
        if faces is None:
            return np.zeros((0, 15))
        return faces.astype(np.float64)


@cache
def _network(path: str) -> cv2.FaceDetectorYN:
    cv2.utils.logging.setLogLevel(2)  # errors alone: OpenCV 5 warns about its own defaults
    return cv2.FaceDetectorYN.create(
        path,
        "",
        (1, 1),
        score_threshold=0.3,
        nms_threshold=0.3,
    )


# ---------------------------------------------------------------- decoding


def decode(file: Path) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3) uint8 RGB of a video, upright; of an image its one frame.

    Raises :class:`Unusable` where the file is damaged or cut off. MPEG, WebM and GIF do not
    announce their number of frames: in them a cut exactly between two frames goes unnoticed.
    """
    if file.suffix.lower() in IMAGES:
        yield read_image(file)
        return
    try:
        with av.open(str(file.resolve()), options=OPEN_OPTIONS) as container:
            yield from _frames(container)
    except (av.FFmpegError, IndexError) as error:
        reason = getattr(error, "strerror", "no video stream")
        raise Unusable(f"not a video, or truncated or damaged ({reason})") from None


def _frames(container: av.container.InputContainer) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    stream.codec_context.thread_type = "NONE"  # several videos are decoded in parallel instead
    # One converter for all frames: making a new one takes 3 ms.
    converter = av.video.reformatter.VideoReformatter()
    packets = 0  # and not frames, some of which an edit list may hide
    for packet in container.demux(stream):
        if packet.size:
            packets += 1
        for frame in packet.decode():
            if frame.is_corrupt or packet.is_corrupt:
                raise Unusable("truncated or damaged")
            rgb = converter.reformat(frame, format="rgb24", threads=1)
            turns = frame.rotation // 90
            yield np.rot90(rgb.to_ndarray(), turns)
    if packets < stream.frames:
        raise Unusable("truncated or damaged")


def read_image(file: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 RGB, turned upright as its EXIF data say.

    Raises :class:`Unusable` for what is no image, truncated, or a decompression bomb.
    """
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = type(error).__name__
        raise Unusable(f"not an image, or truncated or damaged ({problem})") from None


# ---------------------------------------------------------------- searching


def with_cuts(images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield each frame (H, W, 3) uint8, and whether it begins another shot.

    Cuts and dissolves are noticed in thumbnails of 32 by 32 pixels.
    """
    previous = None
    change = np.zeros((32, 32, 3))
    drift = np.zeros((32, 32, 3))
    for image in images:
        small = cv2.resize(image[::4, ::4], (32, 32), interpolation=cv2.INTER_AREA)
        thumbnail = small.astype(float)
        if previous is not None:
            # In a dissolve most pixels go on getting brighter, or darker, from frame to frame.
            last_change = change
            change = thumbnail - previous
            directions = np.sign(last_change * change)
            steady = directions.mean() > STEADY
            drift = change + drift * steady
        previous = thumbnail
        cut = np.abs(drift).mean() > CUT
        if cut:
            drift = np.zeros((32, 32, 3))
        yield image, cut


def search(images: Iterable[np.ndarray], settings: Any, detector: YuNet) -> list[Search]:
    """Detect the faces in every k-th frame (H, W, 3) uint8 RGB of a video.

    Both sides of a cut are searched, too, and the last frame. The settings are
    :class:`dfnb.data.prepare.Settings`.
    """
    searches = []
    shot = 0
    due = 0  # number of the next frame that is searched
    previous = None

    def search_frame(number: int, image: np.ndarray) -> None:
        if not searches or searches[-1].frame < number:
            searches.append(Search(number, shot, detect(image, settings, detector)))

    for number, (image, cut) in enumerate(with_cuts(images)):
        if cut:
            search_frame(number - 1, previous)
            shot += 1
            due = number
        if number == due:
            search_frame(number, image)
            due += settings.detect_every
        previous = image
    if previous is None:
        raise Unusable("there is no frame in the file")
    search_frame(number, previous)
    return searches


def detect(image: np.ndarray, settings: Any, detector: YuNet) -> np.ndarray:
    """The faces (n, 15) of a frame that are large and certain enough, in its pixels."""
    fewest, most = DETECTION_SIDES
    longer = max(image.shape)
    half = max(fewest, longer / 2)
    side = min(longer, most, half)
    ratio = side / longer
    small = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    faces = detector(bgr)
    faces[:, :14] /= ratio
    large = faces[:, 2:4].max(axis=1, initial=0) >= settings.min_face
    certain = faces[:, 14] >= settings.min_score
    return faces[large & certain]


# ---------------------------------------------------------------- following


def follow(searches: list[Search], wanted: np.ndarray) -> list[Places]:
    """Follow each person of a video through its searches, and place them in the ``wanted`` frames.

    The person who is seen longest comes first. Left out are those who are not seen in these
    frames, or were detected too rarely to be believed.
    """
    fewest = min(FEWEST_DETECTIONS, len(searches))
    searched = np.array([search.frame for search in searches])
    people = []
    for track in tracks_of(searches):
        shown, places = interpolate(track, wanted, searched)
        if len(track) >= fewest and len(shown):
            people.append((shown, places))
    return sorted(people, key=lambda person: len(person[0]), reverse=True)


def tracks_of(searches: list[Search]) -> list[Track]:
    """Link the detections of a video to tracks: each continues the track it fits, or starts one."""
    tracks = []
    for index, search in enumerate(searches):
        live = []
        for track in tracks:
            last = max(track)
            same_shot = searches[last].shot == search.shot
            if same_shot and index - last <= REMEMBERED:
                live.append(track)
        last_faces = np.array([track[max(track)] for track in live]).reshape(-1, 15)
        continued = match(last_faces, search.faces)
        for i, face in enumerate(search.faces):
            if i in continued:
                track = live[continued[i]]
                track[index] = face
            else:
                tracks.append({index: face})
    return tracks


def match(last_faces: np.ndarray, faces: np.ndarray) -> dict[int, int]:
    """Which of the last faces (m, 15) each of the faces (n, 15) continues: face -> last face.

    The pairs are those whose boxes overlap most in total.
    """
    last_boxes = box_convert(torch.from_numpy(last_faces[:, :4]), "xywh", "xyxy")
    boxes = box_convert(torch.from_numpy(faces[:, :4]), "xywh", "xyxy")
    overlap = box_iou(last_boxes, boxes).numpy()
    overlap[overlap < OVERLAP] = 0
    continued = {}
    for last, face in zip(*linear_sum_assignment(-overlap)):
        if overlap[last, face] >= OVERLAP:
            continued[face] = last
    return continued


def interpolate(track: Track, wanted: np.ndarray, searched: np.ndarray) -> Places:
    """The numbers (m,) of those ``wanted`` frames that show a track's face, and its places (m, 13).

    A place is the centre's x and y, the longer side of the box, and x and y of five landmarks, in
    pixels of the video; it is linear between detections. A frame shows the face if the nearest of
    the ``searched`` frames does. One missed search between two detections counts as a detection.
    """
    searches = list(track)
    detections = np.stack(list(track.values()))
    detected = np.isin(np.arange(len(searched)), searches)
    detected[1:-1] |= detected[:-2] & detected[2:]
    middles = (searched[1:] + searched[:-1]) / 2
    nearest_search = np.searchsorted(middles, wanted)
    shown = wanted[detected[nearest_search]]
    centres = detections[:, :2] + detections[:, 2:4] / 2
    sides = detections[:, 2:4].max(axis=1)
    places = np.column_stack([centres, sides, detections[:, 4:14]])
    columns = []
    for column in places.T:
        columns.append(np.interp(shown, searched[searches], column))
    return shown, np.column_stack(columns)
