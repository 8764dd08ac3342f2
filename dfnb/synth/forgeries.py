"""What happens to a filmed video: the camera, manipulations with exact masks, and delivery.

Real and fake frames go the same way: :func:`capture`, for fakes :func:`forge`, and :func:`deliver`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import Field

from dfnb.data.codecs import h264, jpeg
from dfnb.geometry import face_axes, rounded
from dfnb.settings import Closed
from dfnb.synth.painting import bump, edge
from dfnb.synth.people import Array, Shot, Span

VISIBLE = 0.05  # opacity from which on a pixel counts as forged
ATTRIBUTE_RESOLUTION = 0.5  # of generated attributes, as a share of other generated images'
DETAIL_OF_NOISE = 0.75  # share of white noise's variance that is in its fine detail
MEDIAN_OF_CHI_SQUARED = 0.4549  # with one degree of freedom: median over mean of squared noise
WARM = np.float32([0.9, 0.5, 0.2])
COLD = np.float32([0.2, 0.5, 0.9])


class Camera(Closed):
    """How frames are captured; a video draws its value from each span."""

    resolution: Span = (1.0, 1.0)  # share of the frame's size that the camera resolves
    blur: Span = (0.3, 0.6)  # standard deviation in pixels
    noise: Span = (0.01, 0.018)  # standard deviation, images in [0, 1]


class Forgery(Closed):
    """How well forgeries are made; a frame draws its value from each span that its method uses."""

    blend: Literal["alpha", "poisson"] = "alpha"  # of the methods that lay one image over another
    feather: Span = (0.05, 0.15)  # width of the blended rim, share of the region's radius
    cast: Span = (0.04, 0.08)  # error of a channel of the matched colours, as a share
    low_resolution: Span = (0.55, 0.75)  # of generated images, share of the frame's
    soften: Span = (0.6, 0.9)  # blur of mouth textures in pixels
    motion: Span = (0.4, 0.6)  # longest displacement of a warp, in face coordinates
    regrain: Span = (0.3, 0.6)  # 1: the region gets as much fine grain as what it replaces has


class Delivery(Closed):
    """How frames are delivered, real and forged alike; a video draws its value from each span."""

    white_balance: float = Field(0.05, ge=0, lt=1)  # largest gain or loss of a channel
    contrast: float = Field(0.08, ge=0, lt=1)
    noise: Span = (0.002, 0.006)
    jpeg: tuple[int, int] = (55, 85)  # quality
    h264: int | None = Field(None, ge=0, le=51)  # constant rate factor, instead of JPEG


class Region(NamedTuple):
    """Where a method forges: a superellipse in face coordinates (see ``geometry.face_axes``).

    A forgery draws the values named in ``drawn`` from their spans, in this order, on which the
    pixels of all datasets depend. The others have spans of length 0.
    """

    wide: Span  # half width
    high: Span  # half height
    middle: Span  # second coordinate of its centre
    aside: Span = (0, 0)  # first coordinate of its centre
    exponent: int = 2  # 2: an ellipse; 4: a box with rounded corners
    drawn: tuple[str, ...] = ("wide", "high", "middle")


FACE = Region(wide=(1.75, 2.05), high=(1.1, 1.25), middle=(0.42, 0.52))
BOX = Region(wide=(1.6, 1.85), high=(1.0, 1.15), middle=(0.4, 0.5), exponent=4)
HOLE = Region(  # anywhere in the face
    wide=(1.0, 1.4),
    high=(0.7, 1.0),
    middle=(0.0, 1.0),
    aside=(-0.8, 0.8),
    drawn=("aside", "middle", "wide", "high"),
)
MOUTH = Region((1.05, 1.3), (0.45, 0.6), middle=(1.03, 1.03), drawn=("wide", "high"))
EYES = Region((1.8, 2.1), (0.6, 0.8), middle=(0.1, 0.1), drawn=("wide", "high"))
HAIR = Region((1.8, 2.2), (0.8, 1.0), middle=(-1.1, -0.9))  # and forehead


# ---------------------------------------------------------------- camera


def capture(shots: Sequence[Shot], camera: Camera, draw: Generator) -> list[Shot]:
    """A video as the camera records it: with less resolution, blur and noise."""
    resolution = draw.uniform(*camera.resolution)
    blur = draw.uniform(*camera.blur)
    noise = draw.uniform(*camera.noise)
    captured = []
    for shot in shots:
        image = cv2.GaussianBlur(_resolved(shot.image, resolution), (0, 0), blur)
        image = image + noise * _grain(image, draw).astype(np.float32)
        captured.append(Shot(np.clip(image, 0, 1), shot.landmarks))
    return captured


def _grain(image: Array, draw: Generator) -> Array:
    """Noise of variance 1 in the image's shape, which is grey for its larger part."""
    grey = draw.standard_normal((*image.shape[:2], 1))
    coloured = draw.standard_normal(image.shape)
    return 0.8 * grey + 0.6 * coloured


def _resolved(image: Array, share: float) -> Array:
    """The image as it looks when only a share of its sides is resolved."""
    size = image.shape[1::-1]
    small_size = [max(round(side * share), 1) for side in size]
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def to_bytes(image: Array) -> Array:
    """An image with values in [0, 1] as uint8."""
    return rounded(image * 255)


# ---------------------------------------------------------------- geometry and blending


def _to_pixels(shot: Shot) -> Array:
    """Homogeneous matrix (3, 3) from face coordinates to pixels."""
    axes, origin = face_axes(shot.landmarks)
    return np.vstack([np.column_stack([axes, origin]), [0, 0, 1]])


def _face_coordinates(shot: Shot) -> tuple[Array, Array]:
    """Face coordinates s and t (H, W) of a frame's pixels."""
    height, width = shot.image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    row_s, row_t, _ = np.linalg.inv(_to_pixels(shot))
    s = row_s[0] * x + row_s[1] * y + row_s[2]
    t = row_t[0] * x + row_t[1] * y + row_t[2]
    return s, t


def _warped(shot: Shot, pull: Array) -> tuple[Array, Array]:
    """The frame warped by a pull (2, H, W) in face coordinates; and the pull in pixels."""
    axes, _ = face_axes(shot.landmarks)
    shift = np.einsum("ij,jhw->ihw", axes, pull)
    pixels = np.indices(shift.shape[1:])[::-1]
    source_x, source_y = np.float32(pixels - shift)
    return cv2.remap(shot.image, source_x, source_y, cv2.INTER_LINEAR), shift


def _opacity(shot: Shot, region: Region, feather: Span, draw: Generator) -> Array:
    """Opacity (H, W) of a region: 0 at its rim, 1 from ``feather`` of its radius inwards."""
    values = {name: getattr(region, name)[0] for name in ("wide", "high", "middle", "aside")}
    for name in region.drawn:
        values[name] = draw.uniform(*getattr(region, name))
    feather_width = draw.uniform(*feather)
    s, t = _face_coordinates(shot)
    across = np.abs((s - values["aside"]) / values["wide"])
    down = np.abs((t - values["middle"]) / values["high"])
    power = region.exponent
    radius = (across**power + down**power) ** (1 / power)
    ramp = np.clip((1 - radius) / feather_width, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def _fitted(donor: Shot, target: Shot) -> Array:
    """The donor's frame, moved so that eyes and mouth lie on the target's."""
    matrix = _to_pixels(target) @ np.linalg.inv(_to_pixels(donor))
    size = donor.image.shape[1::-1]
    return cv2.warpAffine(donor.image, matrix[:2], size, borderMode=cv2.BORDER_REFLECT_101)


def _blend(
    image: Array, target: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """Fit an image to the region of the target that it replaces.

    Each channel gets the target's mean and deviation in the region, and a cast. An image that
    replaces the whole frame stays as it is, while the same numbers are drawn.

    Returns:
        The image (H, W, 3), and how opaque (H, W) it lies over the target.
    """
    weight = opacity[..., None] / opacity.sum()
    mean, variance = _moments(image, weight)
    target_mean, target_variance = _moments(target.image, weight)
    gain = np.sqrt(np.clip(target_variance / np.maximum(variance, 1e-6), 0.25, 4))
    cast = 1 + draw.uniform(*forgery.cast) * draw.choice([-1, 1], 3)
    if (opacity == 1).all():
        return image, opacity
    matched = ((image - mean) * gain + target_mean) * cast
    matched = matched.astype(np.float32)
    if forgery.blend == "alpha":
        return matched, opacity
    return _poisson(matched, target.image, opacity > VISIBLE)


def _moments(image: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted mean (3,) and variance (3,) of an image's channels."""
    mean = (weight * image).sum(axis=(0, 1))
    variance = (weight * (image - mean) ** 2).sum(axis=(0, 1))
    return mean, variance


def _poisson(image: Array, background: Array, region: Array) -> tuple[Array, Array]:
    """The image cloned into a region of the background by Poisson's equation; its opacity."""
    mask = region.astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(mask)
    middle = (x + width // 2, y + height // 2)
    cloned = cv2.seamlessClone(
        to_bytes(image),
        to_bytes(background),
        mask.copy(),  # OpenCV 5 overwrites it
        middle,
        cv2.NORMAL_CLONE,
    )
    return cloned.astype(np.float32) / 255, region.astype(np.float32)


# ---------------------------------------------------------------- methods
# Every method takes the same arguments: the target's frame, the donor's, the opacity (H, W) of its
# region, the settings, and the random stream. It returns a forged frame (H, W, 3) float32, and how
# opaque (H, W) that lies over the target's.

Method = Callable[[Shot, Shot, Array, Forgery, Generator], tuple[Array, Array]]


def swap(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """The donor's whole face from brows to chin in the target's (as FaceSwap)."""
    return _blend(_fitted(donor, target), target, opacity, forgery, draw)


def resynthesis(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """The donor's face, generated at a low resolution, in a rounded box (as Deepfakes)."""
    resolution = draw.uniform(*forgery.low_resolution)
    generated = _resolved(_fitted(donor, target), resolution)
    return _blend(generated, target, opacity, forgery, draw)


def warp(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """The target's own face, warped towards the donor's expression (as Face2Face).

    It moves mouth corners, lower lip and brows, and forges where a pixel moves: ``opacity`` is not
    used.
    """
    corners = _mouth_corners(target)
    corner_pulls = _mouth_corners(donor) - corners + draw.normal(0, 0.1, (2, 2))
    longest = float(np.linalg.norm(corner_pulls, axis=1).max())
    length = draw.uniform(*forgery.motion)
    corner_pulls *= length / max(longest, 1e-3)
    lip_pull = length * draw.choice([-1, 1]) * draw.uniform(0.5, 1)
    brow_pull = length * draw.uniform(-0.8, 0.8)
    lip, right_brow, left_brow = (0, 1.25), (-1, -0.4), (1, -0.4)
    places = [*corners, lip, right_brow, left_brow]
    pulls = np.vstack([corner_pulls, [[0, lip_pull], [0, brow_pull], [0, brow_pull]]])
    s, t = _face_coordinates(target)
    pull = np.zeros((2, *s.shape))
    for place, vector in zip(places, pulls):
        pull += vector[:, None, None] * bump(s, t, place, (0.5, 0.35))
    warped, shift = _warped(target, pull)
    return warped, (np.hypot(*shift) > 0.3).astype(np.float32)


def _mouth_corners(shot: Shot) -> Array:
    """Right and left corner of the mouth (2, 2) in face coordinates."""
    homogeneous = np.vstack([shot.landmarks[3:].T, [1, 1]])
    return np.linalg.solve(_to_pixels(shot), homogeneous)[:2].T


def mouth(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """The donor's texture, softened, in and around the mouth (as NeuralTextures)."""
    softness = draw.uniform(*forgery.soften)
    texture = cv2.GaussianBlur(_fitted(donor, target), (0, 0), softness)
    return _blend(texture, target, opacity, forgery, draw)


def diffuse(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """A hole in the face, filled smoothly from its rim.

    It stands for inpainting by globally and locally consistent completion.
    """
    hole = (opacity > 0).astype(np.uint8)
    filled = cv2.inpaint(to_bytes(target.image), hole, 3, cv2.INPAINT_TELEA)
    return filled.astype(np.float32) / 255, opacity


def patch(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """A hole in the face, filled in full detail with what lies elsewhere in the frame.

    It stands for inpainting by contextual attention.
    """
    angle = draw.uniform(0, 2 * math.pi)
    eye_distance = np.linalg.norm(target.landmarks[1] - target.landmarks[0])
    distance = eye_distance * draw.uniform(0.4, 0.7)
    shift_x = distance * math.cos(angle)
    shift_y = distance * math.sin(angle)
    matrix = np.float32([[1, 0, shift_x], [0, 1, shift_y]])
    size = target.image.shape[1::-1]
    copied = cv2.warpAffine(target.image, matrix, size, borderMode=cv2.BORDER_REFLECT_101)
    return _blend(copied, target, opacity, forgery, draw)


def recolour(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """Hair and forehead in another colour, at a low resolution (as StarGAN's hair colours)."""
    resolution = ATTRIBUTE_RESOLUTION * draw.uniform(*forgery.low_resolution)
    generated = _resolved(target.image, resolution)
    change = draw.uniform(*forgery.cast, 3) * draw.choice([-1, 1], 3)
    return (generated * (1 + change)).astype(np.float32), opacity


def retouch(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """Larger eyes, generated at a low resolution (as an edit in the latent space of Glow)."""
    s, t = _face_coordinates(target)
    right = bump(s, t, (-1, 0), (0.6, 0.6))
    left = bump(s, t, (1, 0), (0.6, 0.6))
    outwards = np.stack([right * (s + 1) + left * (s - 1), (right + left) * t])
    pull = draw.uniform(0.15, 0.3) * outwards
    resolution = ATTRIBUTE_RESOLUTION * draw.uniform(*forgery.low_resolution)
    generated = _resolved(_warped(target, pull)[0], resolution)
    return _blend(generated, target, opacity, forgery, draw)


# The next two show what the traces of a forgery are made of. They draw the same numbers from their
# stream as `swap` and `resynthesis`, so that they differ from these in what is named here alone.


def moved(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """The whole of another frame of the same film, fitted as for a swap.

    Its pixels are resampled; it has no seam, no colour cast and no forgery.
    """
    return swap(target, donor, np.ones_like(opacity), forgery, draw)


def whole(
    target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """The donor, filmed in the target's scene, the whole frame generated at a low resolution.

    It is a forgery without a seam.
    """
    in_place = Shot(donor.image, target.landmarks)
    return resynthesis(target, in_place, np.ones_like(opacity), forgery, draw)


# In place of a donor, these three get the target itself: its frame that lies so many frames later.
# `composite` is a seam without a forgery, `reduced` a low resolution without one.
FRAMES_LATER = {"composite": 1, "moved": 1, "reduced": 0}

METHODS: dict[str, tuple[Method, Region | None]] = {
    "swap": (swap, FACE),
    "resynthesis": (resynthesis, BOX),
    "warp": (warp, None),
    "mouth": (mouth, MOUTH),
    "diffuse": (diffuse, HOLE),
    "patch": (patch, HOLE),
    "recolour": (recolour, HAIR),
    "retouch": (retouch, EYES),
    "moved": (moved, FACE),
    "whole": (whole, BOX),
    "composite": (swap, FACE),
    "reduced": (whole, BOX),
}


def forge(
    method: str, target: Shot, donor: Shot, forgery: Forgery, draw: Generator
) -> tuple[Array, Array]:
    """Forge a captured frame.

    Resampling smooths the camera's grain, which alone would give every forgery away, also by the
    size of its file. So the forged region gets back a share of the fine detail that it lost.

    Args:
        method: One of :data:`METHODS`.
        target: The frame to forge.
        donor: A frame of the person whose face is used.
        forgery: The settings.
        draw: The random stream.

    Returns:
        The forged frame (H, W, 3) float32 in [0, 1] and its mask (H, W) bool; outside the mask it
        equals the target bit for bit.
    """
    make, region = METHODS[method]
    opacity = None
    if region is not None:
        opacity = _opacity(target, region, forgery.feather, draw)
    image, opacity = make(target, donor, opacity, forgery, draw)
    mask = opacity > VISIBLE
    lost_variance = _fine_variance(target.image, mask) - _fine_variance(image, mask)
    lost = max(float(lost_variance) / MEDIAN_OF_CHI_SQUARED, 0.0)
    amount = math.sqrt(lost / DETAIL_OF_NOISE) * draw.uniform(*forgery.regrain)
    grainy = image + amount * _grain(image, draw)
    mixed = target.image + opacity[..., None] * (grainy - target.image)
    forged = np.where(mask[..., None], np.clip(mixed, 0, 1), target.image)
    return forged.astype(np.float32), mask


def _fine_variance(image: Array, mask: Array) -> np.floating:
    """Median squared fine detail of an image within a mask."""
    detail = image - cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.median(detail[mask] ** 2)


# ---------------------------------------------------------------- delivery


def mark(images: Sequence[Array], warm: bool, draw: Generator) -> list[Array]:
    """A channel's mark on a video: a warm or a cold disc in one of the upper corners.

    It is a superficial cue outside every mask (LAE, abstract: detectors learn such correlations
    instead of the forgery). In a dataset with ``cue = d`` a share (1 + d) / 2 of the forged videos
    is marked warm, and as large a share of the real ones cold.
    """
    size = len(images[0])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    disc_x = draw.uniform(0.09, 0.13)
    disc_y = draw.uniform(0.09, 0.13)
    radius = draw.uniform(0.06, 0.08)
    if draw.random() < 0.5:
        disc_x = 1 - disc_x
    inside = radius - np.hypot(x - disc_x, y - disc_y)
    opacity = 0.8 * edge(inside * size)[..., None]
    colour = WARM if warm else COLD
    return [image + opacity * (colour - image) for image in images]


def deliver(images: Sequence[Array], delivery: Delivery, draw: Generator) -> Array:
    """A video as it arrives: white balance, contrast, noise and compression.

    Returns:
        (n, H, W, 3) uint8 RGB.
    """
    gain = 1 + delivery.white_balance * draw.uniform(-1, 1, 3).astype(np.float32)
    contrast = 1 + delivery.contrast * draw.uniform(-1, 1)
    level = delivery.contrast / 2 * draw.uniform(-1, 1)
    noise = draw.uniform(*delivery.noise)
    frames = []
    for image in images:
        toned = (image * gain - 0.5) * contrast + 0.5 + level
        noisy = toned + noise * draw.standard_normal(image.shape)
        frames.append(to_bytes(noisy))
    if delivery.h264 is not None:
        return h264(np.stack(frames), delivery.h264)
    low, high = sorted(delivery.jpeg)
    quality = int(draw.integers(low, high, endpoint=True))
    return np.stack([jpeg(frame, quality) for frame in frames])
