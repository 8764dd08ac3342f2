"""Detecting Deepfakes with Self-Blended Images (SBI).

Shiohara, Yamasaki, CVPR 2022, arXiv 2204.08376. This is a documented interpretation. Of the text,
only the abstract was available. The licence of the released code allows neither commercial use nor
redistribution of derived work, so nothing here follows its source; only its README and one
configuration file were read. A letter says how each fact is known: [A] the abstract, [T] the
authors' README, configuration or answers in its issues, [M] measured on images that the released
code made, [S] a secondary source, [R] recalled and not verified, [O] our own choice.

A classifier is trained on real frames alone [A]. From each frame it gets the frame and a
*self-blended image*: two versions of the frame, source and target, blended inside the face [A].
Source and target are almost alike, so only the traces of blending are left: a boundary, and
statistics that differ across it [A].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from pydantic import Field
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from dfnb.data.codecs import jpeg
from dfnb.data.frames import face_axes, rounded
from dfnb.data.loading import Sample
from dfnb.papers import contract, xception

if TYPE_CHECKING:
    from dfnb.runs import Run

PAPER = contract.Paper("Self-Blended Images", "06_self_blended_images", "Self-Blended Images")

# Eyes, nose tip and mouth corners as shares of a crop's sides, for frames without a known face.
AVERAGE_FACE = np.float32(
    [
        [0.39, 0.46],
        [0.61, 0.46],
        [0.5, 0.59],
        [0.41, 0.71],
        [0.59, 0.71],
    ]
)
# The ellipse in face coordinates (see face_coordinates) [O]; its lower end is the chin.
HALF_WIDTH = (1.6, 2.2)
FOREHEAD = (-1.6, -1.2)  # its upper end in three of four masks
BROWS = (-0.8, -0.4)  # its upper end in the others
BOTTOM = (1.4, 1.8)
WITH_FOREHEAD = 0.75
SOFTENING = (0.02, 0.12)  # deviations of the mask's two blurs, as shares of the eye distance [R]
VISIBLE = 0.05  # opacity from which a pixel counts as blended; below it the target is left as it is
# The largest changes of colour, of 255: grey levels do not depend on the size of an image.
BRIGHTNESS = 25.5  # [M]
CONTRAST = 0.1  # gain or loss [M]
LEVELS = 20.0  # of each channel [M]
HUE_SATURATION_VALUE = (20.0, 30.0, 20.0)  # degrees; of 255 [O]
SELDOM = 0.3  # probability of each change of colour but where it is certain [M]
SHARPENING = (1.0, 2.5)  # times the fine detail that is added [M]
LENGTHS_AT = 380  # the side of a crop, in pixels, for which the lengths below are given
FINE_DETAIL = 1.0  # deviation of the Gaussian that removes it, in pixels [M]
RESIZE = 0.05  # largest change of the source's size [R]
SHIFT = (0.03, 0.015)  # largest shift of the source in x and y, as shares of the image's sides [R]
MARGIN = 0.1  # largest margin that a pair loses at each edge, as a share of the side [O]
QUALITY = (40, 100)  # of JPEG [M]

Transform = Literal["colour", "frequency", "geometry"]
Ratio = Annotated[float, Field(gt=0, le=1)]
Reduction = Annotated[float, Field(ge=1, le=16)]


class Settings(contract.Settings):
    """The training of the README and the configuration; the rest is this interpretation's.

    Fixed without a setting: the constants at the head of the module; the source moves together with
    its mask, and is black beyond its rim [M]; the real sample is the target as it was transformed,
    so that a pair differs by the blend alone [R]; source and target are equally likely to be the
    transformed one [R].

    It deviates from the released code in that a frame has one face, and one without a face is left
    out when the data are prepared; there a test frame without a face scores .5 [T].

    Attributes:
        transforms: the differences between source and target: colour (brightness and contrast
            always, at times levels and hue), frequency (sharpened, or reduced in resolution) and
            geometry (the source resized and shifted) [A in kind].
        reduction: the frequency transform divides the resolution by one of these, to nearest
            neighbours [M].
        deformation: deviation of the displacement of the mask's outline, in pixels of a crop of
            380 [M].
        ratios: the blending ratio is drawn from these: the opacity of the source where the mask is
            one [R].
        jpeg_probability: how often a pair is compressed as JPEG, both images alike [M].
        dropout, drop_path: shares of the classifier's features, and of its residual branches, that
            are dropped in training [T].
        sharpness: how far the weights move up their gradient before the gradient that trains them
            is taken (SAM, which doubles the passes) [R]; 0 turns it off.
    """

    samples_per_frame: ClassVar[int] = 2

    backbone: str = "tf_efficientnet_b4.ap_in1k"  # EfficientNet-B4 with AdvProp's weights [T]
    image_size: contract.ImageSize = 380  # [T]
    mean: contract.Colour = (0.0, 0.0, 0.0)  # images in [0, 1] [T]; the weights saw [-1, 1]
    std: contract.Colour = (1.0, 1.0, 1.0)
    epochs: contract.Epochs = 100  # [T]
    # [T]; here it counts images, and a frame and its blend are two [O]
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 32
    optimiser: contract.Optimiser = "sgd"  # under SAM [R], with momentum 0.9 [S]
    lr: contract.LearningRate = 0.001  # DeepfakeBench's entry for SAM [S]
    weight_decay: contract.WeightDecay = 0.0  # [T]
    # Constant, then linearly to zero over the last quarter [T]
    schedule: contract.Schedule | Literal["last_quarter"] = "last_quarter"
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = (
        "colour",
        "frequency",
        "geometry",
    )
    reduction: Annotated[tuple[Reduction, ...], Field(min_length=1)] = (2.0, 4.0)
    deformation: Annotated[float, Field(ge=0, le=40)] = 1.2
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
    jpeg_probability: contract.Probability = 0.5
    dropout: contract.Probability = 0.4
    drop_path: contract.Probability = 0.2
    sharpness: Annotated[float, Field(ge=0, le=10)] = 0.05

    def visible(self, frames: pd.DataFrame, seed: int, start: Run | None) -> pd.DataFrame:
        """The real frames alone, in training and in validation."""
        return frames[frames["label"] == 0]

    def optimisation(self, network: Network, steps: int) -> tuple[list[Optimizer], LRScheduler]:
        """The optimiser and its schedule, which may be the paper's ``last_quarter``."""
        optimisers, schedule = super().optimisation(network, steps)
        if self.schedule == "last_quarter":
            total_steps = steps * self.epochs
            quarter = total_steps / 4
            schedule = LambdaLR(optimisers[0], lambda step: min(1, (total_steps - step) / quarter))
        return optimisers, schedule

    def samples(self, sample: Sample, draw: Generator) -> list[Sample]:
        """The target as a real sample, and the blend as a fake one, forged where the mask lies."""
        sample = without_margins(sample, draw)
        target, blend, opacity = self_blended(sample.image, sample.landmarks, self, draw)
        colours = drawn_colours(draw, SELDOM)
        target = rounded(recoloured(target, colours))
        blend = rounded(recoloured(blend, colours))
        if draw.random() < self.jpeg_probability:
            quality = int(draw.integers(*QUALITY, endpoint=True))
            target = jpeg(target, quality)
            blend = jpeg(blend, quality)
        real = sample._replace(image=target)
        fake = real._replace(
            image=blend,
            mask=opacity > 0,
            label=1,
            has_mask=True,
        )
        return [real, fake]


def without_margins(sample: Sample, draw: Generator) -> Sample:
    """The sample without a random margin at each edge, at most :data:`MARGIN` of the side."""
    height, width = sample.mask.shape
    left, right = np.int32(MARGIN * width * draw.random(2))
    top, bottom = np.int32(MARGIN * height * draw.random(2))
    rows = slice(top, height - bottom)
    columns = slice(left, width - right)
    return sample._replace(
        image=sample.image[rows, columns],
        mask=sample.mask[rows, columns],
        landmarks=sample.landmarks - np.float32([left, top]),
    )


# ---------------------------------------------------------------- source, target and blend


def self_blended(
    image: np.ndarray, landmarks: np.ndarray, settings: Settings, draw: Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target, blend and opacity, made of a real frame (H, W, 3) uint8.

    Target and blend have the shape and type of the frame. The opacity (H, W) in [0, 1] is the share
    of the source in the blend; where it is zero, target and blend are equal.
    """
    frame = image.astype(np.float32)
    transformed = frame
    if "colour" in settings.transforms:
        transformed = recoloured(transformed, drawn_colours(draw, 1.0))
    if "frequency" in settings.transforms:
        transformed = refocused(transformed, settings.reduction, draw)
    if draw.random() < 0.5:
        source = transformed
        target = frame
    else:
        source = frame
        target = transformed
    mask = soft_mask(landmarks, image.shape[:2], settings.deformation, draw)
    if "geometry" in settings.transforms:
        source, mask = displaced(source, mask, draw)
    opacity = mask * draw.choice(settings.ratios)
    blend = target + opacity[..., None] * (source - target)  # I = M · source + (1 − M) · target
    return rounded(target), rounded(blend), opacity


class Colours(NamedTuple):
    """A change of colours; grey levels are those of 255."""

    levels: np.ndarray  # (3,), added to red, green and blue
    hue_saturation_value: np.ndarray  # (3,), added; the hue in degrees
    contrast: float  # factor
    brightness: float  # added


def drawn_colours(draw: Generator, probability: float) -> Colours:
    """A change of colours; that of brightness and contrast has this ``probability``.

    Those of the levels, and of hue, saturation and value, have :data:`SELDOM`.
    """
    levels = draw.uniform(-LEVELS, LEVELS, 3)
    hue_saturation_value = draw.uniform(-1, 1, 3) * HUE_SATURATION_VALUE
    contrast = draw.uniform(-CONTRAST, CONTRAST)
    brightness = draw.uniform(-BRIGHTNESS, BRIGHTNESS)
    happens = draw.random(3) < (SELDOM, SELDOM, probability)
    return Colours(
        levels * happens[0],
        hue_saturation_value * happens[1],
        1 + contrast * happens[2],
        brightness * happens[2],
    )


def recoloured(image: np.ndarray, colours: Colours) -> np.ndarray:
    """An image (H, W, 3) in [0, 255] under a change of colours: float32, clipped to that range."""
    image = np.float32(image + colours.levels).clip(0, 255)
    if colours.hue_saturation_value.any():
        # OpenCV's HSV of float images: hue in [0, 360), saturation and value in [0, 1]
        hsv = cv2.cvtColor(image / 255, cv2.COLOR_RGB2HSV)
        hsv += colours.hue_saturation_value / np.array([1, 255, 255])
        hsv[..., 0] %= 360
        hsv[..., 1:] = hsv[..., 1:].clip(0, 1)
        image = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    image = colours.contrast * image + colours.brightness
    return np.float32(image).clip(0, 255)


def refocused(image: np.ndarray, reduction: Sequence[float], draw: Generator) -> np.ndarray:
    """An image (H, W, 3) in [0, 255] with stronger fine detail or, as often, less resolution."""
    height, width = image.shape[:2]
    if draw.random() < 0.5:
        strength = draw.uniform(*SHARPENING)
        deviation = max(0.5, FINE_DETAIL * width / LENGTHS_AT)  # below .5 nothing would be removed
        fine_detail = image - cv2.GaussianBlur(image, (0, 0), deviation)
        return np.clip(image + strength * fine_detail, 0, 255)
    factor = draw.choice(reduction)
    small_width = max(1, round(width / factor))
    small_height = max(1, round(height / factor))
    small_size = (small_width, small_height)
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def displaced(
    source: np.ndarray, mask: np.ndarray, draw: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A source (H, W, 3) and its mask (H, W), together resized and shifted a little.

    Both are zero beyond their rim.
    """
    height, width = mask.shape
    scale = draw.uniform(1 - RESIZE, 1 / (1 - RESIZE))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, scale)
    size = (width, height)
    shift = draw.uniform(-1, 1, 2) * SHIFT * np.array(size)
    matrix[:, 2] += shift
    return cv2.warpAffine(source, matrix, size), cv2.warpAffine(mask, matrix, size)


# ---------------------------------------------------------------- the mask


class Outline(NamedTuple):
    """The shape of a mask before it is laid on a face."""

    half_width: float  # the ellipse in face coordinates
    top: float
    bottom: float
    waves: np.ndarray  # displacements in x and y at the nodes of a coarse grid, (2, 4, 4)
    blurs: np.ndarray  # (2,), the deviations of the two blurs, as shares of the eye distance


def drawn_outline(draw: Generator) -> Outline:
    """A random outline."""
    top = BROWS
    if draw.random() < WITH_FOREHEAD:
        top = FOREHEAD
    return Outline(
        half_width=draw.uniform(*HALF_WIDTH),
        top=draw.uniform(*top),
        bottom=draw.uniform(*BOTTOM),
        waves=draw.normal(size=(2, 4, 4)).astype(np.float32),
        blurs=draw.uniform(*SOFTENING, 2),
    )


def soft_mask(
    landmarks: np.ndarray,
    shape: tuple[int, int],
    deformation: float,
    draw: Generator,
) -> np.ndarray:
    """A mask (H, W) in [0, 1]: an ellipse from forehead or brows to chin, deformed and softened.

    The deviation of the ``deformation`` is in pixels of a crop of :data:`LENGTHS_AT`.

    Landmarks (5, 2) that are unknown, that span no face or whose face lies outside the image are
    replaced by those of an average crop (:data:`AVERAGE_FACE`).
    """
    outline = drawn_outline(draw)
    deviation = deformation * shape[1] / LENGTHS_AT
    mask = mask_on_face(outline, landmarks, shape, deviation)
    if not mask.any():
        size = np.float32(shape[::-1])
        mask = mask_on_face(outline, AVERAGE_FACE * size, shape, deviation)
    return mask


def mask_on_face(
    outline: Outline,
    landmarks: np.ndarray,
    shape: tuple[int, int],
    deviation: float,
) -> np.ndarray:
    """The mask (H, W) of an outline on the face with these landmarks; zero without a face.

    ``deviation`` is that of its displacement, in pixels.
    """
    s, t = face_coordinates(landmarks, shape)
    middle = (outline.top + outline.bottom) / 2
    half_height = (outline.bottom - outline.top) / 2
    # (s / a)² + ((t − t_0) / b)² < 1
    radius = np.hypot(s / outline.half_width, (t - middle) / half_height)
    ellipse = radius < 1
    if not ellipse.any():
        return np.zeros(shape, np.float32)
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    mask = deformed(ellipse.astype(np.float32), deviation, outline.waves)
    return softened(mask, outline.blurs * eye_distance)


def face_coordinates(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The coordinates (s, t) of every pixel in the frame of the face, (2, H, W).

    The eyes lie at (-1, 0) and (1, 0), the middle of the mouth at (0, 1). NaN where landmarks
    (5, 2) are unknown, or where they span less than a thousandth of the image.
    """
    axes, origin = face_axes(landmarks)
    (a, b), (c, d) = axes
    area = abs(a * d - b * c)  # the determinant; numpy's would warn of NaN
    smallest = shape[0] * shape[1] / 1000
    if np.isnan(area) or area <= smallest:
        return np.full((2, *shape), np.nan)
    columns_and_rows = np.indices(shape)[::-1]
    pixels = columns_and_rows - origin[:, None, None]
    return np.einsum("ij,jhw->ihw", np.linalg.inv(axes), pixels)


def deformed(mask: np.ndarray, deviation: float, waves: np.ndarray) -> np.ndarray:
    """A mask (H, W) under smooth displacements in x and y of a standard deviation in pixels.

    The displacements are ``waves`` (2, n, n), interpolated between the nodes of their grid.
    """
    size = mask.shape[::-1]
    shifts = []
    for wave in waves:
        smooth_wave = cv2.resize(wave, size, interpolation=cv2.INTER_CUBIC)
        shifts.append(deviation * smooth_wave / smooth_wave.std())
    columns_and_rows = np.indices(mask.shape)[::-1]
    columns, rows = np.float32(columns_and_rows + np.stack(shifts))
    return cv2.remap(mask, columns, rows, cv2.INTER_LINEAR)


def softened(mask: np.ndarray, blurs: np.ndarray) -> np.ndarray:
    """A mask (H, W) blurred twice; between the blurs, only what is nearly one is kept.

    The first blur takes as much from the outline as its width, the second gives back as much as
    its own. So the mask shrinks if the first blur is the wider one, and otherwise grows.
    """
    first_blur, second_blur = np.maximum(blurs, 0.3)
    mask = cv2.GaussianBlur(mask, (0, 0), first_blur)
    core = np.float32(mask > 1 - VISIBLE)
    mask = cv2.GaussianBlur(core, (0, 0), second_blur)
    return np.where(mask > VISIBLE, mask.clip(max=1), 0)


# ---------------------------------------------------------------- the classifier


class Network(xception.Network):
    """The baseline's classifier; everything new lies in the data, and in how it is trained."""

    def __init__(self, settings: Settings) -> None:
        rates = {"drop_rate": settings.dropout, "drop_path_rate": settings.drop_path}
        wanted = {name: rate for name, rate in rates.items() if rate}  # not all models have them
        super().__init__(settings, **wanted)
        self.sharpness = settings.sharpness

    def moved(self) -> AbstractContextManager | None:
        """SAM's second pass: the weights moved up their gradient; None if ``sharpness`` is 0."""
        if self.sharpness == 0:
            return None
        return climbed(self, self.sharpness)


@contextmanager
def climbed(network: nn.Module, distance: float) -> Iterator[None]:
    """Move the weights by ``distance`` up their gradient and clear it; at the end, put them back.

    The gradient in between is that of sharpness-aware minimisation (SAM; Foret et al., ICLR 2021).
    """
    trained = [weight for weight in network.parameters() if weight.grad is not None]
    gradients = [weight.grad for weight in trained]
    originals = [weight.detach().clone() for weight in trained]
    length = nn.utils.get_total_norm(gradients)
    step = float(distance / (length + 1e-12))  # equation 2: ε = ρ · g / |g|
    with torch.no_grad():
        for weight, gradient in zip(trained, gradients):
            weight.add_(gradient, alpha=step)
    network.zero_grad()
    yield
    with torch.no_grad():
        for weight, original in zip(trained, originals):
            weight.copy_(original)
