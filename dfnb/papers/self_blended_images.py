"""Detecting Deepfakes with Self-Blended Images (SBI).

Shiohara, Yamasaki, CVPR 2022, arXiv 2204.08376. This is a documented interpretation. Of the text,
only the abstract was available. The licence of the released code allows neither commercial use nor
redistribution of derived work, so nothing here follows its source; only its README and one
configuration file were read. A letter says how each fact is known: [A] the abstract, [T] the
authors' README, configuration or answers in its issues, [S] a secondary source, [R] recalled and
not verified, [O] our own choice.

A classifier is trained on real frames alone [A]. From each frame it gets the frame and a
*self-blended image*: two versions of the frame, source and target, blended inside the face [A].
Source and target are almost alike, so only the traces of blending are left: a boundary, and
statistics that differ across it [A].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from pydantic import Field, model_validator
from torch import nn

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
# The ellipse in face coordinates (see face_coordinates).
HALF_WIDTH = (1.6, 2.2)
TOP = (-0.8, -0.4)  # the brows
BOTTOM = (1.4, 1.8)  # the chin
SOFTENING = (0.02, 0.12)  # deviations of the mask's two blurs, as shares of the eye distance
VISIBLE = 0.05  # opacity from which a pixel counts as blended; below it the target is left as it is
SATURATION = 0.3  # largest gain and loss
CONTRAST = 0.1  # largest gain and loss
LEVELS = 20.0  # the most by which a channel is raised or lowered, of 255
SELDOM = 0.3  # probability of a change of contrast, and of the levels; saturation always changes
SHARPENING = (0.2, 0.5)  # share of the fine detail that is added
RESIZE = 0.05  # largest change of the source's size
SHIFT = (0.03, 0.015)  # largest shift of the source in x and y, as shares of the image's sides
QUALITY = (40, 100)  # of JPEG

Transform = Literal["colour", "frequency", "geometry"]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Settings(contract.Settings):
    """The training of the README and the configuration; the rest is this interpretation's.

    Fixed without a setting: the constants at the head of the module [R for the ranges, O for the
    ellipse]; the mask lies on the target's face and does not move with the source [O]; the real
    sample is the target as it was transformed, so that a pair differs by the blend alone [R];
    source and target are equally likely to be the transformed one [R].

    Attributes:
        transforms: the differences between source and target: colour (levels, contrast,
            saturation), frequency (sharpened, or reduced in resolution) and geometry (the source
            resized and shifted) [A in kind].
        reduction: the frequency transform divides the resolution by a value from this range [R].
        deformation: largest displacement of the mask's outline, as a share of the eye distance [O].
        ratios: the blending ratio is drawn from these: the opacity of the source where the mask is
            one [R].
        jpeg_probability: how often a pair is compressed as JPEG, both images alike [R].
        sharpness: how far the weights move up their gradient before the gradient that trains them
            is taken (SAM, which doubles the passes) [R]; 0 turns it off.
    """

    samples_per_frame: ClassVar[int] = 2

    backbone: str = "efficientnet_b4.ra2_in1k"  # EfficientNet-B4 [T], with timm's weights
    image_size: contract.ImageSize = 380  # [T]
    mean: contract.Colour = (0.485, 0.456, 0.406)  # those of the weights [O]
    std: contract.Colour = (0.229, 0.224, 0.225)
    epochs: contract.Epochs = 100  # [T]
    # [T]; here it counts images, and a frame and its blend are two [O]
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 32
    optimiser: contract.Optimiser = "sgd"  # under SAM [R], with momentum 0.9 [S]
    lr: contract.LearningRate = 0.001  # DeepfakeBench's entry for SAM [S]
    weight_decay: contract.WeightDecay = 5e-4  # DeepfakeBench's, there with Adam [S]
    schedule: contract.Schedule = "cosine"  # [O]; the paper: constant, then linearly to zero [R]
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = (
        "colour",
        "frequency",
        "geometry",
    )
    reduction: tuple[float, float] = (2.0, 4.0)
    deformation: contract.Probability = 0.15
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
    jpeg_probability: contract.Probability = 0.5
    sharpness: Annotated[float, Field(ge=0, le=10)] = 0.05

    @model_validator(mode="after")
    def _check_reduction(self) -> Self:
        smallest, largest = self.reduction
        if not 1 <= smallest <= largest <= 16:
            raise ValueError("reduction must be two numbers from 1 to 16, the smaller one first")
        return self

    def visible(self, frames: pd.DataFrame, seed: int, start: Run | None) -> pd.DataFrame:
        """The real frames alone, in training and in validation."""
        return frames[frames["label"] == 0]

    def samples(self, sample: Sample, draw: Generator) -> list[Sample]:
        """The target as a real sample, and the blend as a fake one, forged where the mask lies."""
        target, blend, opacity = self_blended(sample.image, sample.landmarks, self, draw)
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
        transformed = recoloured(transformed, draw)
    if "frequency" in settings.transforms:
        transformed = refocused(transformed, settings.reduction, draw)
    if draw.random() < 0.5:
        source = transformed
        target = image
    else:
        source = frame
        target = rounded(transformed)
    if "geometry" in settings.transforms:
        source = displaced(source, draw)
    mask = soft_mask(landmarks, image.shape[:2], settings.deformation, draw)
    opacity = mask * draw.choice(settings.ratios)
    blend = target + opacity[..., None] * (source - target)  # I = M · source + (1 − M) · target
    return target, rounded(blend), opacity


def recoloured(image: np.ndarray, draw: Generator) -> np.ndarray:
    """An image (H, W, 3) in [0, 255] with another saturation, at times contrast or levels too."""
    grey = image.mean(axis=2, keepdims=True)
    saturation = 1 + SATURATION * draw.uniform(-1, 1)
    image = grey + saturation * (image - grey)
    if draw.random() < SELDOM:
        level = image.mean(axis=(0, 1))
        contrast = 1 + CONTRAST * draw.uniform(-1, 1)
        image = level + contrast * (image - level)
    if draw.random() < SELDOM:
        image = image + LEVELS * draw.uniform(-1, 1, 3)
    return image.astype(np.float32)


def refocused(image: np.ndarray, reduction: tuple[float, float], draw: Generator) -> np.ndarray:
    """An image (H, W, 3) with stronger fine detail or, as often, with less resolution."""
    if draw.random() < 0.5:
        strength = draw.uniform(*SHARPENING)
        fine_detail = image - cv2.GaussianBlur(image, (0, 0), 1.0)
        return image + strength * fine_detail
    height, width = image.shape[:2]
    factor = draw.uniform(*reduction)
    small_width = max(1, round(width / factor))
    small_height = max(1, round(height / factor))
    small_size = (small_width, small_height)
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def displaced(image: np.ndarray, draw: Generator) -> np.ndarray:
    """An image (H, W, 3) resized about its centre and shifted, both a little; reflected outside."""
    height, width = image.shape[:2]
    scale = draw.uniform(1 - RESIZE, 1 / (1 - RESIZE))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, scale)
    size = (width, height)
    shift = draw.uniform(-1, 1, 2) * SHIFT * np.array(size)
    matrix[:, 2] += shift
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101)


# ---------------------------------------------------------------- the mask


class Outline(NamedTuple):
    """The shape of a mask before it is laid on a face; lengths are shares of the eye distance."""

    half_width: float  # the ellipse in face coordinates
    top: float
    bottom: float
    # Displacements in x and y at the nodes of a coarse grid, (2, 4, 4) in [-1, 1]
    waves: np.ndarray
    displacement: float  # of a wave of one
    blurs: np.ndarray  # (2,), the deviations of the two blurs


def drawn_outline(deformation: float, draw: Generator) -> Outline:
    """A random outline that is displaced by at most ``deformation`` eye distances."""
    half_width = draw.uniform(*HALF_WIDTH)
    top = draw.uniform(*TOP)
    bottom = draw.uniform(*BOTTOM)
    waves = draw.uniform(-1, 1, (2, 4, 4))
    return Outline(
        half_width=half_width,
        top=top,
        bottom=bottom,
        waves=waves.astype(np.float32),
        displacement=deformation * draw.random(),
        blurs=draw.uniform(*SOFTENING, 2),
    )


def soft_mask(
    landmarks: np.ndarray,
    shape: tuple[int, int],
    deformation: float,
    draw: Generator,
) -> np.ndarray:
    """A mask (H, W) in [0, 1]: an ellipse from brows to chin, deformed and softened.

    Landmarks (5, 2) that are unknown, that span no face or whose face lies outside the image are
    replaced by those of an average crop (:data:`AVERAGE_FACE`).
    """
    outline = drawn_outline(deformation, draw)
    mask = mask_on_face(outline, landmarks, shape)
    if not mask.any():
        size = np.float32(shape[::-1])
        mask = mask_on_face(outline, AVERAGE_FACE * size, shape)
    return mask


def mask_on_face(outline: Outline, landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of an outline on the face with these landmarks; zero without a face."""
    s, t = face_coordinates(landmarks, shape)
    middle = (outline.top + outline.bottom) / 2
    half_height = (outline.bottom - outline.top) / 2
    # (s / a)² + ((t − t_0) / b)² < 1
    radius = np.hypot(s / outline.half_width, (t - middle) / half_height)
    ellipse = radius < 1
    if not ellipse.any():
        return np.zeros(shape, np.float32)
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    length = outline.displacement * eye_distance
    mask = deformed(ellipse.astype(np.float32), length, outline.waves)
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


def deformed(mask: np.ndarray, length: float, waves: np.ndarray) -> np.ndarray:
    """A mask (H, W) under a smooth displacement of ``length`` pixels times the ``waves``.

    The waves (2, n, n) in [-1, 1] are interpolated between the nodes of their grid.
    """
    size = mask.shape[::-1]
    shifts = []
    for wave in waves:
        smooth_wave = cv2.resize(wave, size, interpolation=cv2.INTER_CUBIC)
        shifts.append(length * smooth_wave)
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
        super().__init__(settings)
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
