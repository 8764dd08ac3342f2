"""Portraits, photographs with one face: which are usable, and how they are set in motion."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from facesets.camera import Array, Pose, Shot
from facesets.faces import Detection

MIN_CONFIDENCE = 0.8  # of a detected face in a portrait
DETECTOR_SIZE = 640  # longest side of a portrait for YuNet, which finds faces of up to 300 pixels
# Least distance of the eyes in pixels of the portrait, divided by a frame's side in pixels: a
# smaller face would be enlarged.
MIN_EYE_DISTANCE = 0.18
# A photograph is grey if, on average over its pixels, the largest of the channels (0 to 255) is
# less than this above the smallest. Of 879 portraits, 60 have 0 and the others 23 or more.
GREY = 4
# Largest share of a frame that may lie beside the photograph, where its outermost pixels are
# repeated as streaks. The head is upright, in the middle of the frame, and of the usual size.
MAX_BESIDE = 0.5
# That pose; its light has no effect on the share.
UPRIGHT = Pose(**{**dict.fromkeys(Pose.__annotations__, 0), "scale": 1})
BRIGHTNESS_OF_BGR = np.float64([0.114, 0.587, 0.299])  # ITU-R BT.601


class Portrait(NamedTuple):
    """A photograph with one face."""

    path: str
    landmarks: Array  # (5, 2) in pixels of the photograph, in the order of Shot's
    mesh: Array  # (468, 2) in pixels of the photograph, see facesets.forge
    brightness: float  # mean over the face, 0 dark to 255 light
    likeness: Array  # (256,), from the function _likeness
    thumbnail: Array  # (768,), from the function thumbnail
    is_grey: bool = False  # if so, its forgeries are grey, too


def inspect(
    path: Path,
    landmarks_of: Callable[[Array], Array | str],
    mesh_of: Callable[[Array, Array], Array],
    size: int,
) -> Portrait | str:
    """The portrait in an image file, or the reason why frames of ``size`` cannot be made of it.

    Args:
        path: An image file.
        landmarks_of: An image (H, W, 3) uint8 BGR to the landmarks (5, 2) of its face, or to the
            reason why it has none that can be used, such as :func:`landmarks_of_one_face`.
        mesh_of: An image (H, W, 3) uint8 RGB and these landmarks to the mesh (468, 2) of the face,
            such as :func:`facesets.faces.face_mesh`.
        size: Side of the frames that are to be made, in pixels.
    """
    image = _photograph(path)
    if image is None:
        return "not readable as an image"
    landmarks = landmarks_of(image)
    if isinstance(landmarks, str):
        return landmarks
    height, width = image.shape[:2]
    if (landmarks < 0).any() or (landmarks >= (width, height)).any():
        return "the face is cut by the frame"
    eye_distance = np.linalg.norm(landmarks[1] - landmarks[0])
    if eye_distance < MIN_EYE_DISTANCE * size:
        return f"the face is too small for frames of {size} pixels"
    if _beside(landmarks, width, height) > MAX_BESIDE:
        return "it is cut so close to the face that more than half of a frame would lie beside it"
    return Portrait(
        str(path),
        landmarks,
        mesh=mesh_of(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), landmarks),
        brightness=_brightness(image, landmarks),
        likeness=_likeness(image),
        thumbnail=thumbnail(landmarks, pixels(path)),
        is_grey=bool(np.ptp(image, axis=2).mean() < GREY),
    )


def landmarks_of_one_face(image: Array, detect: Callable[[Array], list[Detection]]) -> Array | str:
    """The landmarks (5, 2) of the only face in an image, or the reason why there is no such face.

    Args:
        image: (H, W, 3) uint8 BGR.
        detect: An image like this to its faces, such as :class:`facesets.faces.YuNet`.
    """
    shrink = min(1, DETECTOR_SIZE / max(image.shape))  # a small photograph stays as it is
    if min(image.shape[:2]) * shrink < 1:  # a thin line; resize raises if nothing is left of it
        return "no face found"
    small = cv2.resize(
        image,
        None,
        fx=shrink,
        fy=shrink,
        interpolation=cv2.INTER_AREA,
    )
    faces = [face for face in detect(small) if face.score >= MIN_CONFIDENCE]
    if not faces:
        return "no face found"
    areas = np.array([face.width * face.height for face in faces])
    # Much smaller faces are treated as people in the background.
    n_faces = (areas > areas.max() / 4).sum()
    if n_faces > 1:
        return f"{n_faces} faces found, one is needed"
    face = faces[areas.argmax()]
    return np.float32(face.landmarks) / shrink  # in pixels of the photograph


def _beside(landmarks: Array, width: int, height: int) -> float:
    """The share of a frame, the head UPRIGHT, that lies beside a photograph of this size."""
    matrix, shift, _ = _placement(landmarks, UPRIGHT, size=1)
    corners = np.float32([(0, 0), (width, 0), (width, height), (0, height)])
    frame = np.float32([(0, 0), (1, 0), (1, 1), (0, 1)])
    covered, _ = cv2.intersectConvexConvex(np.float32(corners @ matrix.T + shift), frame)
    return 1 - covered


def _brightness(image: Array, landmarks: Array) -> float:
    """Mean brightness, 0 to 255, inside the convex hull of landmarks (5, 2), x and y in pixels.

    The image is (H, W, 3) uint8 BGR.
    """
    mask = np.zeros(image.shape[:2], np.uint8)
    hull = cv2.convexHull(landmarks.astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 1)
    mean = cv2.mean(image, mask)[0:3]  # blue, green, red; OpenCV adds a fourth channel, 0
    return float(mean @ BRIGHTNESS_OF_BGR)


def _likeness(image: Array) -> Array:
    """A photograph (H, W, 3) uint8 BGR as 16 x 16 grey pixels (256,), with mean 0 and length 1.

    The product of two is the correlation of the two pictures: 1 for copies, also resized ones.
    """
    grey = np.float32(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    pixels_left = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).ravel()
    deviations = pixels_left - pixels_left.mean()
    return deviations / max(np.linalg.norm(deviations), 1e-6)  # of one colour: 0


def _photograph(path: str | Path) -> Array | None:
    """The pixels (H, W, 3) uint8 BGR of an image file; None if it is no image."""
    content = np.fromfile(path, np.uint8)  # cv2.imread crashes at a name that is not UTF-8
    if not content.size:  # imdecode raises for an empty file; for another that is no image, None
        return None
    return cv2.imdecode(content, cv2.IMREAD_COLOR)


def pixels(path: str | Path) -> Array:
    """The photograph (H, W, 3) float32 RGB in [0, 1]."""
    image = cv2.cvtColor(_photograph(path), cv2.COLOR_BGR2RGB)
    return image.astype(np.float32) / 255


def thumbnail(landmarks: Array, image: Array) -> Array:
    """The face as 16 x 16 RGB pixels, flattened (768,), by which similar people are found.

    Eyes and mouth are at the same places in all faces. The image is the portrait's :func:`pixels`.
    """
    here = np.float32([*landmarks[:2], landmarks[3:].mean(axis=0)])
    there = np.float32([(5, 5), (11, 5), (8, 11)])
    # The eyes come to lie 6 pixels apart, so this blurs by half a pixel, against aliasing.
    image = cv2.GaussianBlur(image, (0, 0), math.dist(here[0], here[1]) / 12)
    return cv2.warpAffine(image, cv2.getAffineTransform(here, there), (16, 16)).ravel()


def move(
    landmarks: Array,
    image: Array,
    poses: Sequence[Pose],
    size: int,
) -> list[Shot]:
    """A portrait in motion: shifted, rolled, scaled, narrowed by yaw and pitch, in changing light.

    Args:
        landmarks: (5, 2) of the portrait.
        image: Its :func:`pixels`, perhaps forged.
        poses: One per frame.
        size: Side of the frames in pixels.

    Returns one shot (``size``, ``size``, 3) per pose.
    """
    x = np.linspace(-1, 1, size, dtype=np.float32)  # of the frame's columns, from left to right
    shots = []
    for pose in poses:
        frame = placed(landmarks, image, pose, size)
        darkness = 0.3 * (0.6 - pose.ambient)  # about 0 to 0.06: less ambient light, darker
        from_the_side = 0.12 * math.sin(pose.azimuth)  # positive: brighter on the image's right
        # (W,), one factor per column, from 0.92 to 1.22. 1.1 was chosen by eye: on average the
        # frame is a little brighter than the photograph. Another value would change the pixels.
        light = 1.1 - darkness + from_the_side * x
        frame = np.clip(frame * light[:, None], 0, 1)
        matrix, shift, _ = _placement(landmarks, pose, size)
        shots.append(Shot(frame, landmarks @ matrix.T + shift))
    return shots


def placed(
    landmarks: Array,
    image: Array,
    pose: Pose,
    size: int,
) -> Array:
    """A photograph's pixels (H, W, 3), or opacity (H, W), as they lie in a frame of that pose."""
    matrix, shift, zoom = _placement(landmarks, pose, size)
    # A pixel of the frame spans 1 / zoom pixels of the photograph. If that is more than two,
    # warping without a blur would alias. The blur's deviation is 0.4 pixels of the frame.
    if zoom < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    return cv2.warpAffine(
        image,
        np.column_stack([matrix, shift]),
        (size, size),
        borderMode=cv2.BORDER_REPLICATE,  # beside the photograph, its outermost pixels
    )


def _placement(landmarks: Array, pose: Pose, size: int) -> tuple[Array, Array, float]:
    """Map from a portrait's pixels p to a frame's, ``matrix @ p + shift``, for a pose.

    At ``pose.scale`` = 1, the mouth is 0.22 of the frame's side below the eyes. The middle between
    eyes and mouth comes to x = 0.5 and y = 0.52 of the side, plus the pose's shift.

    Returns:
        The matrix (2, 2), the shift (2,) in the frame's pixels, and the number of the frame's
        pixels per pixel of the portrait.
    """
    eyes = landmarks[:2].mean(axis=0)
    mouth = landmarks[3:].mean(axis=0)
    down = mouth - eyes
    length = np.linalg.norm(down)
    zoom = 0.22 * size * pose.scale / length
    # Rotation that turns the direction from the eyes to the mouth straight down:
    # upright @ down = (0, length).
    upright = np.float32([[down[1], -down[0]], [down[0], down[1]]]) / length
    sin = math.sin(pose.roll)
    cos = math.cos(pose.roll)
    roll = np.float32([[cos, -sin], [sin, cos]])
    # A face that turns or nods looks narrower or shorter by the cosine of the angle. The product
    # below applies this last, along the frame's axes, which nearly are the face's: roll is small.
    narrowing = np.diag([math.cos(pose.yaw), math.cos(pose.pitch)]).astype(np.float32)
    matrix = zoom * narrowing @ roll @ upright
    middle_of_face = eyes + down / 2
    centre = size * np.float32([0.5 + pose.shift_x, 0.52 + pose.shift_y])
    shift = centre - matrix @ middle_of_face
    return matrix, shift, zoom
