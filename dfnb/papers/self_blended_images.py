"""Detecting Deepfakes with Self-Blended Images (SBI).

Shiohara, Yamasaki, CVPR 2022, arXiv 2204.08376. A documented interpretation: of the text the abstract alone was at hand, and
of the released code its README and one configuration file, since its licence allows neither commercial use nor redistribution
of what is derived from it. So nothing here follows its source. How each fact is known: [A] the abstract, [T] the
authors' README, configuration or answers in its issues, [S] a secondary source, [R] recalled and not verified, [O] ours.

A classifier is trained on real frames alone [A]. Of each frame it gets the frame and a *self-blended image*: two versions of
the frame, the source and the target, blended inside the face [A]. Source and target are nearly alike, so the traces that are
left are those of blending: a boundary, and statistics that differ across it [A].
"""

from typing import Annotated, ClassVar, Literal, Self

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator
from pydantic import Field, model_validator
from torch import Tensor

from dfnb import papers
from dfnb.data.frames import Sample
from dfnb.papers import backbones

PAPER = papers.Paper("Self-Blended Images", "10_self_blended_images", "Self-Blended Images", "#882255", "H")
VERSION = 1

# Eyes, nose tip and mouth corners as shares of a crop's sides, for a frame without usable landmarks.
AVERAGE_FACE = np.float32([[0.39, 0.46], [0.61, 0.46], [0.5, 0.59], [0.41, 0.71], [0.59, 0.71]])
# The ellipse in face coordinates (see face_coordinates): half its width, its top at the brows, its bottom at the chin.
WIDTH, TOP, BOTTOM = (1.6, 2.2), (-0.8, -0.4), (1.4, 1.8)
SOFTENING = (0.02, 0.12)  # standard deviations of the mask's two blurs, as shares of the distance of the eyes
VISIBLE = 0.05  # opacity from which a pixel counts as blended; below it the target is left as it is
SATURATION, CONTRAST = 0.3, 0.1  # largest gains and losses
LEVELS = 20.0  # by which a channel is raised or lowered at most, of 255
SELDOM = 0.3  # how often the contrast is changed, and how often the channels are; the saturation always is
SHARPENING = (0.2, 0.5)  # share of the fine detail that is added
RESIZE = 0.05  # largest change of the source's size
SHIFT = (0.03, 0.015)  # its largest shift in x and y, shares of the image's sides
QUALITY = (40, 100)  # of JPEG

Transform = Literal["colour", "frequency", "geometry"]


@papers.published(
    backbone="efficientnet_b4.ra2_in1k",  # EfficientNet-B4 [T], with timm's weights
    image_size=380,  # [T]
    epochs=100,  # [T]
    batch_size=32,  # [T]; here images, a frame and its blend being two [O]
    optimiser="sgd",  # under SAM [R]; with momentum 0.9 [S]
    lr=0.001,  # [S]: DeepfakeBench's entry for SAM
    weight_decay=5e-4,  # DeepfakeBench's, there with Adam [S]
    schedule="cosine",  # [O]; constant, then linearly to zero [R]
    mean=(0.485, 0.456, 0.406),  # those of the weights [O]
    std=(0.229, 0.224, 0.225),
)
class Settings(papers.Settings):
    """Training by the README and the configuration where they say something, else this interpretation's values.

    Fixed without a setting: the constants at the head of the module [R for the ranges, O for the ellipse]; the mask lies on the
    target's face and does not move with the source [O]; the real sample is the target as it was transformed, so that a pair
    differs by the blend alone [R]; source and target are equally likely to be the transformed one [R].

    Attributes:
        transforms: which differences between source and target there are: colour (channels, contrast, saturation), frequency
            (sharpened, or reduced in resolution) and geometry (the source resized and shifted) [A in kind].
        reduction: by what the frequency transform divides the resolution; a value is drawn from this span [R].
        deformation: longest displacement of the mask's outline, as a share of the distance of the eyes [O].
        ratios: the blending ratio is drawn from these: how opaque the source is where the mask is one [R].
        jpeg_probability: how often the pair is compressed as JPEG, both images with the same quality [R].
        sharpness: how far the weights are moved up their gradient before the gradient that trains them is taken (SAM, which
            doubles the passes) [R]; 0 turns it off.
    """

    samples_per_frame: ClassVar[int] = 2

    batch_size: int = Field(16, ge=2, multiple_of=2)
    transforms: tuple[Transform, ...] = Field(("colour", "frequency", "geometry"), min_length=1)
    reduction: tuple[float, float] = (2.0, 4.0)
    deformation: float = Field(0.15, ge=0, le=1)
    ratios: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.25, 0.5, 0.75, 1.0, 1.0, 1.0), min_length=1)
    jpeg_probability: float = Field(0.5, ge=0, le=1)
    sharpness: float = Field(0.05, ge=0, le=10)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 1 <= self.reduction[0] <= self.reduction[1] <= 16:
            raise ValueError("reduction must be two numbers from 1 to 16, the smaller one first")
        return self

    def visible(self, frames: pd.DataFrame, seed: int, start: papers.Run | None) -> pd.DataFrame:
        """The real frames alone, in training and in validation."""
        return frames[frames["label"] == 0]

    def samples(self, sample: Sample, draw: Generator) -> list[Sample]:
        """The target as a real sample, and the blend as a fake one with the mask of where it was blended."""
        target, blend, opacity = self_blended(sample.image, sample.landmarks, self, draw)
        if draw.random() < self.jpeg_probability:
            quality = int(draw.integers(*QUALITY, endpoint=True))
            target, blend = (recompressed(image, quality) for image in (target, blend))
        real = sample._replace(image=target)
        return [real, real._replace(image=blend, mask=opacity > 0, label=1, has_mask=True)]


# ------------------------------------------------------------- the blend


def self_blended(
    image: np.ndarray, landmarks: np.ndarray, settings: Settings, draw: Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target and blend (H, W, 3) uint8 of a real frame, and the opacity (H, W) in [0, 1] with which the source lies over it.

    Where the opacity is zero, target and blend are the same.
    """
    frame = changed = image.astype(np.float32)
    changed = recoloured(changed, draw) if "colour" in settings.transforms else changed
    changed = refocused(changed, settings.reduction, draw) if "frequency" in settings.transforms else changed
    source, target = (changed, image) if draw.random() < 0.5 else (frame, to_bytes(changed))
    source = displaced(source, draw) if "geometry" in settings.transforms else source
    opacity = soft_mask(landmarks, image.shape[:2], settings.deformation, draw) * draw.choice(settings.ratios)
    blend = target + opacity[..., None] * (source - target)  # I = M * source + (1 - M) * target
    return target, to_bytes(blend), opacity


def recoloured(image: np.ndarray, draw: Generator) -> np.ndarray:
    """An image (H, W, 3) in [0, 255] with another saturation, and now and then another contrast or other levels of its channels."""
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (1 + SATURATION * draw.uniform(-1, 1)) * (image - grey)
    if draw.random() < SELDOM:
        level = image.mean(axis=(0, 1))
        image = level + (1 + CONTRAST * draw.uniform(-1, 1)) * (image - level)
    if draw.random() < SELDOM:
        image = image + LEVELS * draw.uniform(-1, 1, 3)
    return image.astype(np.float32)


def refocused(image: np.ndarray, reduction: tuple[float, float], draw: Generator) -> np.ndarray:
    """An image (H, W, 3) with stronger fine detail or, as often, with less resolution."""
    if draw.random() < 0.5:
        return image + draw.uniform(*SHARPENING) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    size, factor = image.shape[1::-1], draw.uniform(*reduction)
    small = [max(1, round(side / factor)) for side in size]
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_LINEAR)


def displaced(image: np.ndarray, draw: Generator) -> np.ndarray:
    """An image (H, W, 3) a little larger or smaller about its middle, and shifted; mirrored at its rim."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, draw.uniform(1 - RESIZE, 1 / (1 - RESIZE)))
    matrix[:, 2] += draw.uniform(-1, 1, 2) * SHIFT * np.array([width, height])
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)


def soft_mask(landmarks: np.ndarray, shape: tuple[int, int], deformation: float, draw: Generator) -> np.ndarray:
    """The mask (H, W) in [0, 1]: an ellipse from brows to chin, its outline deformed and softened; zero outside the face.

    Landmarks (5, 2) that are unknown, that span no face, or whose face lies outside the image are replaced by those of an
    average crop (:data:`AVERAGE_FACE`).
    """
    wide, top, bottom = (draw.uniform(*span) for span in (WIDTH, TOP, BOTTOM))
    waves = draw.uniform(-1, 1, (2, 4, 4)).astype(np.float32)  # at the nodes of a coarse grid
    strength, blurs = deformation * draw.random(), draw.uniform(*SOFTENING, 2)
    for points in (landmarks, AVERAGE_FACE * np.float32(shape[::-1])):
        s, t = face_coordinates(points, shape)
        ellipse = np.hypot(s / wide, (t - (top + bottom) / 2) / ((bottom - top) / 2)) < 1
        if ellipse.any():
            eyes = float(np.linalg.norm(points[1] - points[0]))
            mask = softened(deformed(ellipse.astype(np.float32), strength * eyes, waves), blurs * eyes)
            if mask.any():
                break
    return mask


def face_coordinates(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Coordinates s and t (2, H, W) of an image's pixels in which the eyes lie at (-1, 0) and (1, 0), the mouth at (0, 1).

    NaN where the landmarks (5, 2) are unknown, or span less than a thousandth of the image.
    """
    right, left, _, *corners = landmarks.astype(float)
    eyes, mouth = (right + left) / 2, (corners[0] + corners[1]) / 2
    (a, b), (c, d) = axes = np.column_stack([(left - right) / 2, mouth - eyes])
    if not abs(a * d - b * c) > shape[0] * shape[1] / 1000:  # not true of NaN either
        return np.full((2, *shape), np.nan)
    pixels = np.indices(shape)[::-1] - eyes[:, None, None]
    return np.einsum("ij,jhw->ihw", np.linalg.inv(axes), pixels)


def deformed(mask: np.ndarray, length: float, waves: np.ndarray) -> np.ndarray:
    """A mask (H, W) under a smooth displacement of at most about ``length`` pixels: ``waves`` (2, n, n) in [-1, 1], interpolated."""
    shift = [length * cv2.resize(wave, mask.shape[::-1], interpolation=cv2.INTER_CUBIC) for wave in waves]
    return cv2.remap(mask, *np.float32(np.indices(mask.shape)[::-1] + shift), cv2.INTER_LINEAR)


def softened(mask: np.ndarray, blurs: np.ndarray) -> np.ndarray:
    """A mask (H, W) blurred twice, and only what is nearly one after the first blur kept in between.

    The first blur takes as much from the outline as its width; the second gives back as much as its own. So the mask is
    smaller than it was where the first is the wider one, else larger.
    """
    first, second = (float(max(blur, 0.3)) for blur in blurs)
    kept = cv2.GaussianBlur(mask, (0, 0), first) > 1 - VISIBLE
    mask = cv2.GaussianBlur(kept.astype(np.float32), (0, 0), second)
    return np.where(mask > VISIBLE, mask.clip(max=1), 0)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """An image in [0, 255] as uint8."""
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB after JPEG of a quality."""
    _, file = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


# ------------------------------------------------------------- the classifier


class Network(papers.Network):
    """A classifier from timm: images (B, 3, H, W), normalised, to ``{"cls": (B, 2) logits}``. All that is new lies in the data."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.backbone = backbones.create(settings.backbone, settings.pretrained, num_classes=2)
        self.weights_from = self.backbone.weights_from

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits, real first."""
        return {"cls": self.backbone(images)}

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """The cross-entropy ``cls``, which is all of ``total``."""
        cls = papers.cross_entropy(outputs["cls"], batch["label"], batch)
        return {"cls": cls, "total": cls}
