"""What happens to a filmed video: the camera, manipulations with exact masks, and the way to the viewer.

Real and fake frames go the same way: :func:`capture`, for fakes :func:`forge`, and :func:`deliver`.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from numpy.random import Generator
from pydantic import Field

from dfnb import core
from dfnb.synth.people import Array, Shot, Span, blob, edge

REGIONS = core.read_yaml(Path(__file__).with_suffix(".yaml"))
OWN = {"composite": 1, "moved": 1, "reduced": 0}  # in the donor's place the target itself, so many frames later
ATTRIBUTE = 0.5  # editors of attributes generate at this share of the other generators' resolution


class Camera(core.Closed):
    """How frames are captured; a video draws its value from each span."""

    resolution: Span = (1.0, 1.0)  # share of the frame's size that the camera resolves
    blur: Span = (0.3, 0.6)  # standard deviation in pixels
    noise: Span = (0.01, 0.018)  # standard deviation, images in [0, 1]


class Forgery(core.Closed):
    """How well forgeries are made; face coordinates are those of :func:`_to_pixels`."""

    blend: Literal["alpha", "poisson"] = "alpha"  # of the methods with a donor's face
    feather: Span = (0.05, 0.15)  # width of the blended rim, share of the region's radius
    cast: Span = (0.04, 0.08)  # by what share a channel of the donor's matched colours is off, up or down
    low_resolution: Span = (0.55, 0.75)  # of resynthesised faces, share of the frame's
    soften: Span = (0.6, 0.9)  # blur of mouth textures in pixels
    motion: Span = (0.4, 0.6)  # longest displacement of a warp, in face coordinates
    regrain: Span = (0.3, 0.6)  # 1: the forged region has as much fine grain as what it replaces


class Delivery(core.Closed):
    """How frames are delivered, real and forged alike; a video draws its value from each span."""

    white_balance: float = Field(0.05, ge=0, lt=1)  # largest gain or loss of a channel
    contrast: float = Field(0.08, ge=0, lt=1)
    noise: Span = (0.002, 0.006)
    jpeg: tuple[int, int] = (55, 85)  # quality
    h264: int | None = Field(None, ge=0, le=51)  # constant rate factor, instead of JPEG


# ------------------------------------------------------------------------------------------------- camera


def capture(shots: Sequence[Shot], camera: Camera, draw: Generator) -> list[Shot]:
    """What the camera makes of a video: less resolution, blur, and noise that is grey for its larger part."""
    share, blur, noise = (draw.uniform(*span) for span in (camera.resolution, camera.blur, camera.noise))
    images = [cv2.GaussianBlur(_resolve(shot.image, share), (0, 0), blur) for shot in shots]
    grainy = [np.clip(image + noise * _grain(image, draw).astype(np.float32), 0, 1) for image in images]
    return [Shot(image, shot.landmarks) for image, shot in zip(grainy, shots)]


def _grain(image: Array, draw: Generator) -> Array:
    return 0.8 * draw.standard_normal((*image.shape[:2], 1)) + 0.6 * draw.standard_normal(image.shape)


def _resolve(image: Array, share: float) -> Array:
    """The image as it looks when only a share of its sides is resolved."""
    size = image.shape[1::-1]
    small = [max(round(side * share), 1) for side in size]
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_CUBIC)


def to_bytes(image: Array) -> Array:
    """An image in [0, 1] as uint8."""
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------- geometry and blending


def _to_pixels(shot: Shot) -> Array:
    """Homogeneous matrix (3, 3) of face coordinates: the eyes lie at (-1, 0) and (1, 0), the mouth's middle at (0, 1)."""
    right, left, _, *corners = shot.landmarks.astype(np.float64)
    eyes, mouth = (right + left) / 2, (corners[0] + corners[1]) / 2
    return np.vstack([np.column_stack([(left - right) / 2, mouth - eyes, eyes]), [0, 0, 1]])


def _face_coordinates(shot: Shot) -> list[Array]:
    """Face coordinates s and t (H, W) of a frame's pixels."""
    y, x = np.mgrid[0 : shot.image.shape[0], 0 : shot.image.shape[1]].astype(np.float32)
    return [row[0] * x + row[1] * y + row[2] for row in np.linalg.inv(_to_pixels(shot))[:2]]


def _moved(shot: Shot, pull: Array) -> tuple[Array, Array]:
    """The frame warped by a pull (2, H, W) in face coordinates, and the displacement (2, H, W) in pixels."""
    shift = np.einsum("ij,jhw->ihw", _to_pixels(shot)[:2, :2], pull)
    return cv2.remap(shot.image, *np.float32(np.indices(shift.shape[1:])[::-1] - shift), cv2.INTER_LINEAR), shift


def _region(shot: Shot, feather: float, wide: float, high: float, middle: float, n: int = 2, aside: float = 0) -> Array:
    """Opacity (H, W) of a superellipse of order n about (aside, middle): 0 at its rim, 1 from ``feather`` of its radius on."""
    s, t = _face_coordinates(shot)
    away = (np.abs((s - aside) / wide) ** n + np.abs((t - middle) / high) ** n) ** (1 / n)
    ramp = np.clip((1 - away) / feather, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def _fit(donor: Shot, target: Shot) -> Array:
    """The donor's frame, moved so that eyes and mouth lie on the target's."""
    affine = (_to_pixels(target) @ np.linalg.inv(_to_pixels(donor)))[:2]
    return cv2.warpAffine(donor.image, affine, donor.image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)


def _blend(image: Array, target: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """``image``, each channel with the target's mean and deviation in the region and a cast, laid over the target.

    An image that replaces the whole frame stays as it is, and the same numbers are drawn.
    """
    weight, both = opacity[..., None] / opacity.sum(), (image, target.image)
    means = [(weight * each).sum(axis=(0, 1)) for each in both]
    spreads = [(weight * (each - mean) ** 2).sum(axis=(0, 1)) for each, mean in zip(both, means)]
    gain = np.sqrt(np.clip(spreads[1] / np.maximum(spreads[0], 1e-6), 0.25, 4))
    cast = 1 + draw.uniform(*forgery.cast) * draw.choice([-1, 1], 3)
    if (opacity == 1).all():
        return image, opacity
    image = (((image - means[0]) * gain + means[1]) * cast).astype(np.float32)
    if forgery.blend == "alpha":
        return image, opacity
    mask = (opacity > 0.05).astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(mask)
    middle = (x + width // 2, y + height // 2)
    # OpenCV 5 overwrites the mask it is given
    cloned = cv2.seamlessClone(to_bytes(image), to_bytes(target.image), mask.copy(), middle, cv2.NORMAL_CLONE)
    return cloned.astype(np.float32) / 255, (mask > 0).astype(np.float32)


# ------------------------------------------------------------------------------------------------- methods
# A method gets the opacity (H, W) of its region in forgeries.yaml. It returns a forged frame (H, W, 3), and how opaque that lies
# over the captured one (H, W).


def swap(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The donor's whole face from brows to chin in the target's (as FaceSwap)."""
    return _blend(_fit(donor, target), target, opacity, forgery, draw)


def resynthesis(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The donor's face generated at a low resolution, in a box with rounded corners (as Deepfakes)."""
    return _blend(_resolve(_fit(donor, target), draw.uniform(*forgery.low_resolution)), target, opacity, forgery, draw)


def warp(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The target's own face warped towards the donor's expression: mouth corners, lower lip, brows (as Face2Face)."""
    ours, theirs = (np.linalg.solve(_to_pixels(x), [*x.landmarks[3:].T, [1, 1]])[:2].T for x in (target, donor))
    corners = theirs - ours + draw.normal(0, 0.1, (2, 2))
    length = draw.uniform(*forgery.motion)
    corners *= length / max(float(np.linalg.norm(corners, axis=1).max()), 1e-3)
    lip, brows = length * draw.choice([-1, 1]) * draw.uniform(0.5, 1), length * draw.uniform(-0.8, 0.8)
    handles = [*ours, (0, 1.25), (-1, -0.4), (1, -0.4)]
    pulls = np.vstack([corners, [[0, lip], [0, brows], [0, brows]]])
    s, t = _face_coordinates(target)
    pull = sum(pull[:, None, None] * blob(s, t, *at, 0.5, 0.35) for at, pull in zip(handles, pulls))
    warped, shift = _moved(target, pull)
    return warped, (np.hypot(*shift) > 0.3).astype(np.float32)


def mouth(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A new texture, the donor's a little softened, for the mouth and what is around it (as NeuralTextures)."""
    texture = cv2.GaussianBlur(_fit(donor, target), (0, 0), draw.uniform(*forgery.soften))
    return _blend(texture, target, opacity, forgery, draw)


def diffuse(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A hole in the face, filled smoothly from its rim (inpainting, as globally and locally consistent completion)."""
    filled = cv2.inpaint(to_bytes(target.image), (opacity > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return filled.astype(np.float32) / 255, opacity


def patch(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A hole in the face, filled with what lies elsewhere in the frame, in full detail (inpainting, as by contextual attention)."""
    angle, size = draw.uniform(0, 2 * math.pi), target.image.shape[1::-1]
    away = np.linalg.norm(target.landmarks[1] - target.landmarks[0]) * draw.uniform(0.4, 0.7)
    move = np.float32([[1, 0, away * math.cos(angle)], [0, 1, away * math.sin(angle)]])
    copied = cv2.warpAffine(target.image, move, size, borderMode=cv2.BORDER_REFLECT_101)
    return _blend(copied, target, opacity, forgery, draw)


def recolour(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """Another colour for hair and forehead, generated at a low resolution (attribute, as StarGAN's hair colours)."""
    generated = _resolve(target.image, ATTRIBUTE * draw.uniform(*forgery.low_resolution))
    return (generated * (1 + draw.uniform(*forgery.cast, 3) * draw.choice([-1, 1], 3))).astype(np.float32), opacity


def retouch(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """Larger eyes, generated at a low resolution (attribute, as an edit in the latent space of Glow)."""
    s, t = _face_coordinates(target)
    right, left = (blob(s, t, side, 0, 0.6, 0.6) for side in (-1, 1))
    pull = draw.uniform(0.15, 0.3) * np.stack([right * (s + 1) + left * (s - 1), (right + left) * t])
    generated = _resolve(_moved(target, pull)[0], ATTRIBUTE * draw.uniform(*forgery.low_resolution))
    return _blend(generated, target, opacity, forgery, draw)


# What the traces of a forgery are made of: what `composite`, `moved` and `whole` draw is what `swap` and `resynthesis` draw of
# the same stream, so that they differ from these in what is named and in nothing else. `composite` is `swap` with the person's
# own face, from another frame: a seam without a forgery. `reduced` is `whole` with the target's own frame.


def moved(target: Shot, own: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The whole of another frame of the same film, fitted as for a swap: resampled pixels without a seam, a cast or a forgery."""
    return swap(target, own, np.ones_like(opacity), forgery, draw)


def whole(target: Shot, donor: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The donor filmed in the target's scene, the whole frame generated at a low resolution: a forgery without a seam."""
    return resynthesis(target, Shot(donor.image, target.landmarks), np.ones_like(opacity), forgery, draw)


METHODS = {f.__name__: f for f in (swap, resynthesis, warp, mouth, diffuse, patch, recolour, retouch, moved, whole)}
METHODS |= {"composite": swap, "reduced": whole}


def forge(method: str, target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A forged frame (H, W, 3) float32 in [0, 1] and its mask (H, W) bool; outside it is the target, bit for bit.

    Resampling smooths the camera's grain, which alone would give every forgery away (and make its file smaller), so
    that the forged region gets back a share of what it lost: fine detail of the same energy.
    """
    place = {name: draw.uniform(*v) if isinstance(v, list) else v for name, v in REGIONS[method].items()}
    opacity = _region(target, draw.uniform(*forgery.feather), **place) if place else None
    image, opacity = METHODS[method](target, donor, opacity, forgery, draw)
    mask = opacity > 0.05
    fine = [np.median((each - cv2.GaussianBlur(each, (0, 0), 1.0))[mask] ** 2) for each in (image, target.image)]
    lost = max(float(fine[1] - fine[0]) / 0.4549, 0.0)  # median of a chi²
    amount = math.sqrt(lost / 0.75) * draw.uniform(*forgery.regrain)  # a blur of 1 leaves 3/4 of white noise's energy
    mixed = target.image + opacity[..., None] * (image + amount * _grain(image, draw) - target.image)
    return np.where(mask[..., None], np.clip(mixed, 0, 1), target.image).astype(np.float32), mask


# ------------------------------------------------------------------------------------------------- delivery


def mark(images: Sequence[Array], warm: bool, draw: Generator) -> list[Array]:
    """A channel's mark on a video: a warm or a cold disc in one of the upper corners.

    A superficial cue outside every mask (LAE, abstract: detectors learn such correlations instead of the forgery). In a
    dataset with ``cue = d`` the share (1 + d) / 2 of the forged videos is warm, and of the real ones cold.
    """
    size = len(images[0])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    left, top, radius = (draw.uniform(*span) for span in ((0.09, 0.13), (0.09, 0.13), (0.06, 0.08)))
    left = 1 - left if draw.random() < 0.5 else left
    opacity = 0.8 * edge((radius - np.hypot(x - left, y - top)) * size)
    colour = np.float32([0.9, 0.5, 0.2] if warm else [0.2, 0.5, 0.9])
    return [image + opacity[..., None] * (colour - image) for image in images]


def deliver(images: Sequence[Array], delivery: Delivery, draw: Generator) -> Array:
    """What becomes of a video on its way: white balance, contrast, noise, compression. Returns (n, H, W, 3) uint8."""
    gain = 1 + delivery.white_balance * draw.uniform(-1, 1, 3).astype(np.float32)
    contrast, level = 1 + delivery.contrast * draw.uniform(-1, 1), delivery.contrast / 2 * draw.uniform(-1, 1)
    noise = draw.uniform(*delivery.noise)
    toned = ((image * gain - 0.5) * contrast + 0.5 + level for image in images)
    ready = [to_bytes(image + noise * draw.standard_normal(image.shape)) for image in toned]
    if delivery.h264 is not None:
        return h264(ready, delivery.h264)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(draw.integers(*sorted(delivery.jpeg), endpoint=True))]
    files = [cv2.imencode(".jpg", image[..., ::-1], quality)[1] for image in ready]
    return np.stack([cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1] for file in files])


def h264(images: Sequence[Array], crf: int) -> Array:
    """Frames (n, H, W, 3) uint8 RGB after H.264 of a constant rate factor, as a decoder gives them back."""
    height, width = images[0].shape[:2]
    even = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")  # the sides of H.264 are even
    # one process per core: threads inside would only wait for each other
    buffer, options = io.BytesIO(), {"crf": str(crf), "preset": "fast", "threads": "1"}
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", 3, options, width=even.shape[2], height=even.shape[1])
        for image in even:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        decoded = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
    return np.stack(decoded)[:, :height, :width]
