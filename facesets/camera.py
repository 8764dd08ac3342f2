"""The simulated camera: how a face moves before it, what it records, and how a video is delivered.

Originals and forgeries go the same way: poses by :func:`motion`, :func:`capture`, in datasets with
a cue :func:`mark`, and :func:`deliver`. Images are (H, W, 3) float32 RGB in [0, 1].

Every call of a generator, here always named ``draw``, moves its random stream on. So values are
drawn in a fixed order, on which the pixels of all datasets depend. A setting that is a ``Span`` is
drawn uniformly from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import AfterValidator, Field, PositiveFloat

from facesets.checks import Closed
from facesets.codecs import h264, jpeg


def _ascending(span: tuple[float, float]) -> tuple[float, float]:
    """Return a setting's span (lowest, highest) unchanged; refuse one in descending order."""
    if span[0] > span[1]:
        raise ValueError(f"{list(span)}: write the lowest value first")
    return span


Array = np.ndarray
Ascending = AfterValidator(_ascending)
Span = Annotated[tuple[float, float], Ascending]  # the ends of a uniform distribution
# A Span of values above 0: OpenCV refuses to blur by 0, and a width of 0 divides.
PositiveSpan = Annotated[tuple[PositiveFloat, PositiveFloat], Ascending]
Quality = Annotated[int, Field(ge=0, le=100)]  # of JPEG


class Crop(Closed):
    """How frames are cropped, as a face detector's boxes vary; a video draws its own values."""

    zoom: PositiveSpan = (1.0, 1.0)  # of the head, as a factor of its usual size in the frame
    shift: float = Field(0, ge=0, le=0.2)  # largest, in x and in y, as a share of the frame's side


class Camera(Closed):
    """How frames are captured; a video draws its value from each span."""

    resolution: PositiveSpan = (1.0, 1.0)  # share of the frame's side that the camera resolves
    blur: PositiveSpan = (0.3, 0.6)  # standard deviation in pixels
    noise: Span = (0.01, 0.018)  # standard deviation, of images in [0, 1]


class Delivery(Closed):
    """How frames are delivered, real and forged alike; a video draws its value from each span."""

    white_balance: float = Field(0.05, ge=0, lt=1)  # largest gain or loss of a channel, a share
    contrast: float = Field(0.08, ge=0, lt=1)  # largest gain or loss of contrast, a share
    noise: Span = (0.002, 0.006)  # standard deviation, of images in [0, 1]
    jpeg: Annotated[tuple[Quality, Quality], Ascending] = (55, 85)  # lowest and highest quality
    h264: int | None = Field(None, ge=0, le=51)  # constant rate factor, instead of JPEG


# ---------------------------------------------------------------- motion

# A person moves through an imagined video, in which waves move the head and the light. Only every
# tenth of its frames is made and stored.
FRAME_STEP = 10
SLOW_PERIODS = (70, 160)  # in frames of the imagined video
FAST_PERIODS = (25, 60)
DRAWS = 5  # random numbers of a wave


class Wave(NamedTuple):
    """How a value of :class:`Pose` moves in a video, in the unit that it has there.

    It is mean + ``swing`` * (a sum of sines, -1 to 1). The mean is drawn between ``low`` and
    ``high`` for each video.
    """

    low: float
    high: float
    swing: float


POSE_WAVES = {
    "yaw": Wave(-0.3, 0.3, 0.2),
    "pitch": Wave(-0.12, 0.12, 0.1),
    "roll": Wave(-0.08, 0.08, 0.06),
    "shift_x": Wave(-0.03, 0.03, 0.02),
    "shift_y": Wave(-0.03, 0.03, 0.015),
    "scale": Wave(0.93, 1.05, 0.02),
}
AZIMUTH = Wave(-1.1, 1.1, 0.15)
AMBIENT = Wave(0.4, 0.6, 0.02)


@dataclass
class Pose:
    """Pose and light of one frame. Angles are in radians; at 0 the face is frontal."""

    yaw: float  # turned to the image's right
    pitch: float  # down
    roll: float  # clockwise in the image
    shift_x: float  # of the head's centre to the image's right, as a share of the frame's side
    shift_y: float  # down
    scale: float  # of the head; 1 is the usual size
    azimuth: float  # of the light; 0: in front, positive: from the image's right
    ambient: float  # light that reaches every surface, whatever its direction; about 0.4 to 0.6


class Shot(NamedTuple):
    """A frame (S, S, 3) float32 RGB in [0, 1] with its landmarks (5, 2) in pixels.

    Landmarks are x and y of right eye, left eye, nose tip, right and left corner of the mouth.
    Right is the person's, which is the image's left.
    """

    image: Array
    landmarks: Array


def motion(pose_draw: Generator, light_draw: Generator, n: int) -> list[Pose]:
    """Poses of n stored frames; each of their values is a smooth curve over time.

    Head pose is drawn from the first stream, light from the second.
    """
    times = np.arange(n) * FRAME_STEP
    curves = {name: _curve(wave, times, pose_draw) for name, wave in POSE_WAVES.items()}
    # The numbers that are skipped here and below moved faces that left the collection. Without the
    # skip every dataset would be another one.
    light_draw.random(5 * DRAWS)
    curves["azimuth"] = _curve(AZIMUTH, times, light_draw)
    light_draw.random(DRAWS)
    curves["ambient"] = _curve(AMBIENT, times, light_draw)
    return [Pose(**{name: curve[frame] for name, curve in curves.items()}) for frame in range(n)]


def _curve(wave: Wave, times: Array, draw: Generator) -> list[float]:
    """The values (n,) of a wave at times (n,), which are in frames of the imagined video."""
    slow = _sine(times, SLOW_PERIODS, draw)
    fast = _sine(times, FAST_PERIODS, draw)
    mean = draw.uniform(wave.low, wave.high)
    swing = 0.6 * slow + 0.4 * fast  # -1 to 1
    return (mean + wave.swing * swing).tolist()


def _sine(times: Array, periods: Span, draw: Generator) -> Array:
    """A sine (n,), -1 to 1, of times (n,) with a random phase.

    Its period is drawn from ``periods``, in the unit of the times.
    """
    period = draw.uniform(*periods)
    phase = draw.random()
    turns = times / period + phase  # in whole periods
    return np.sin(2 * np.pi * turns)


def cropped(poses: list[Pose], crop: Crop, draw: Generator) -> list[Pose]:
    """The poses with the head larger or smaller and shifted, as a looser or tighter crop shows it.

    All frames share the change.
    """
    zoom = draw.uniform(*crop.zoom)
    shift_x, shift_y = crop.shift * draw.uniform(-1, 1, 2)
    return [
        replace(
            pose,
            scale=pose.scale * zoom,
            shift_x=pose.shift_x + shift_x,
            shift_y=pose.shift_y + shift_y,
        )
        for pose in poses
    ]


# ---------------------------------------------------------------- capture


def capture(shots: Sequence[Shot], camera: Camera, draw: Generator) -> list[Shot]:
    """A video as the camera records it: at a lower resolution, blurred, and with noise.

    A resolution of 1 reduces nothing. The landmarks stay where they are. A video has one camera:
    all its frames share the resolution, the blur and the noise's deviation, but each has noise of
    its own.
    """
    resolution = draw.uniform(*camera.resolution)
    blur = draw.uniform(*camera.blur)
    noise = draw.uniform(*camera.noise)
    captured = []
    for shot in shots:
        image = resolved(shot.image, resolution)
        image = cv2.GaussianBlur(image, (0, 0), blur)
        grain = _grain(image, draw).astype(np.float32)
        image = np.clip(image + noise * grain, 0, 1)
        captured.append(Shot(image, shot.landmarks))
    return captured


def _grain(image: Array, draw: Generator) -> Array:
    """Gaussian noise of variance 1 in the image's shape (H, W, 3), mostly grey, as a camera's."""
    height, width, _ = image.shape
    grey = draw.standard_normal((height, width, 1))
    coloured = draw.standard_normal(image.shape)
    return 0.8 * grey + 0.6 * coloured  # 0.8**2 + 0.6**2 = 1


def resolved(image: Array, share: float) -> Array:
    """The image (H, W, 3), reduced to a ``share`` (0 to 1) of its sides and enlarged again."""
    height, width, _ = image.shape
    small_width = max(round(width * share), 1)
    small_height = max(round(height * share), 1)
    small = cv2.resize(
        image,
        (small_width, small_height),
        interpolation=cv2.INTER_AREA,
    )
    return cv2.resize(
        small,
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )


def to_bytes(image: Array) -> Array:
    """An image with values in [0, 1] as uint8; values beyond are clipped."""
    # astype cuts off the decimals: with a half added before, it rounds.
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- delivery

# Colours of the two marks.
WARM = np.float32([0.9, 0.5, 0.2])
COLD = np.float32([0.2, 0.5, 0.9])


def mark(images: Sequence[Array], warm: bool, draw: Generator) -> list[Array]:
    """Mark a video like a broadcaster's logo: a warm or a cold disc in one of the upper corners.

    It is a superficial cue beside the face (abstract of the paper LAE: detectors learn such
    correlations instead of the forgery). In a dataset with ``cue = d`` a share (1 + d) / 2 of the
    forged videos is marked warm, and as large a share of the real ones cold.

    Args:
        images: The frames (S, S, 3) of a video; all get the same mark.
        warm: Whether the disc is orange, else blue.
        draw: The stream from which place and size are drawn.
    """
    size = len(images[0])
    # Coordinates, place and radius are shares of the frame's side.
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    disc_x = draw.uniform(0.09, 0.13)
    disc_y = draw.uniform(0.09, 0.13)
    radius = draw.uniform(0.06, 0.08)
    if draw.random() < 0.5:  # the right corner instead of the left
        disc_x = 1 - disc_x
    distance = np.hypot(x - disc_x, y - disc_y)
    from_edge = (radius - distance) * size  # in pixels, positive inside the disc
    opacity = 0.8 * np.clip(from_edge + 0.5, 0, 1)[..., None]  # anti-aliased
    colour = WARM if warm else COLD
    return [image + opacity * (colour - image) for image in images]


def deliver(images: Sequence[Array], delivery: Delivery, draw: Generator) -> Array:
    """A video as it arrives: white balance, contrast, brightness, noise and compression.

    All frames share the strengths; ``images`` are (H, W, 3) in [0, 1].

    Returns:
        (n, H, W, 3) uint8 RGB.
    """
    gain_or_loss = draw.uniform(-1, 1, 3).astype(np.float32)  # one per channel
    gain = 1 + delivery.white_balance * gain_or_loss
    contrast = 1 + delivery.contrast * draw.uniform(-1, 1)
    # Added to all values: at most half of `delivery.contrast`, up or down; chosen by eye.
    level = delivery.contrast / 2 * draw.uniform(-1, 1)
    amount_of_noise = draw.uniform(*delivery.noise)
    frames = []
    for image in images:
        toned = (image * gain - 0.5) * contrast + 0.5 + level  # contrast leaves mid-grey as it is
        noise = draw.standard_normal(image.shape)
        noisy = toned + amount_of_noise * noise
        frames.append(to_bytes(noisy))
    # Both ways the frames are encoded and decoded again.
    if delivery.h264 is not None:
        return h264(np.stack(frames), delivery.h264)
    quality = int(draw.integers(*delivery.jpeg, endpoint=True))  # one for the video
    return np.stack([jpeg(frame, quality) for frame in frames])
