"""Detecting Deepfakes with Self-Blended Images (SBI).

Shiohara, Yamasaki, CVPR 2022, arXiv 2204.08376. This is a documented interpretation. Of the text,
only the abstract was available. The licence of the released code allows neither commercial use nor
redistribution of derived work, so nothing here follows its source; only its README and one
configuration file were read. Brackets say how a fact is known: [abstract]; [README], also the
configuration and the authors' answers in issues; [measured] on images that the released code made;
[secondary], a source that cites the paper; [recalled], not verified; [ours], our own choice.

A classifier is trained on real frames alone. From each frame it gets the frame and a *self-blended
image*: two versions of the frame, source and target, blended inside the face. Source and target are
almost alike, so only the traces of blending are left: a boundary, and statistics that differ across
it [abstract].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from pydantic import Field
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torchvision.transforms import v2

from dfnb.data.loading import Sample
from dfnb.papers import contract, xception
from drawnfaces.codecs import jpeg
from facesets import faces
from facesets.frames import face_axes, rounded

PAPER = contract.Paper(
    title="Self-Blended Images",
    notebook="06_self_blended_images",
    published="Self-Blended Images",
    small={"dropout": 0.0, "drop_path": 0.0},  # the small backbone has neither
)

# Eyes, nose tip and mouth corners, (5, 2), x and y as shares of a crop's sides, for frames without
# a known face.
AVERAGE_FACE = np.float32(
    [
        [0.39, 0.46],
        [0.61, 0.46],
        [0.5, 0.59],
        [0.41, 0.71],
        [0.59, 0.71],
    ]
)
# A pair is the range from which a number is drawn, unless its comment says otherwise.
# The ellipse of the mask, in the units of face_coordinates [ours].
HALF_WIDTH = (1.6, 2.2)
FOREHEAD = (-1.6, -1.2)  # upper end of masks with the forehead
BROWS = (-0.8, -0.4)  # upper end of the other masks
BOTTOM = (1.4, 1.8)  # lower end, at the chin
WITH_FOREHEAD = 0.75  # probability that a mask has the forehead; some masks have none [measured]
SOFTENING = (0.02, 0.12)  # deviations of two blurs, as shares of the eye distance [recalled]
# Where the softened mask is not above this value, it is set to zero: there is no blend [ours].
VISIBLE = 0.05
# The largest changes of colour, up or down, in levels of 0 to 255 unless another unit is named.
BRIGHTNESS = 25.5  # [measured]
CONTRAST = 0.1  # as a share of each level [measured]
LEVELS = 20.0  # of each channel on its own [measured]
HUE_SATURATION_VALUE = (20.0, 30.0, 20.0)  # three limits; that of hue in degrees [ours]
SELDOM = 0.3  # probability of a change of colour that is not always made [measured]
SHARPENING = (1.0, 2.5)  # the fine detail is added so many times [measured]
# Lengths in pixels are given for a crop of this side and scaled to others; levels are not [ours].
REFERENCE_SIDE = 380
FINE_DETAIL = 1.0  # standard deviation of the Gaussian that removes it, in such pixels [measured]
RESIZE = 0.05  # the source is scaled by 1 - RESIZE at least and 1 / (1 - RESIZE) at most [recalled]
SHIFT = (0.03, 0.015)  # largest shifts of the source in x and y, as shares of the sides [recalled]
MARGIN = 0.1  # largest share of the side [ours] that a pair loses [measured] at each edge
QUALITY = (40, 100)  # of JPEG [measured]

Transform = Literal["colour", "frequency", "geometry"]
Ratio = Annotated[float, Field(gt=0, le=1)]
Reduction = Annotated[float, Field(ge=1, le=16)]


class Settings(contract.Settings):
    """The training of the README and the configuration; the rest is this interpretation's.

    Fixed without a setting: the constants at the head of the module; the source moves together with
    its mask, and is black where it has no pixels [measured]; the real sample is the target,
    transformed or not, so that a pair differs by the blend alone [recalled]; either source or
    target is the transformed version of the frame, with equal probability [recalled].

    The released code differs in two ways [README]. Its frames may have several faces, and a test
    frame without a face scores .5; here a frame has one face, and a frame without a face is left
    out when the data are prepared. It blends a crop at the size that the face has in the video;
    here the crop is blended at the size at which the dataset stores it. Both resize it afterwards.

    Attributes:
        transforms: the differences between source and target: colour (brightness and contrast
            always, at times levels and hue), frequency (sharpened, or reduced in resolution) and
            geometry (the source resized and shifted) [abstract, in kind].
        reduction: the frequency transform divides the resolution by one of these, and enlarges
            again, both by nearest neighbours [measured].
        region: what the mask covers before it is deformed: ``hull``, the hull of the face's mesh,
            for photographs (the released code takes the hull of 81 landmarks [README]); or
            ``ellipse``, from forehead or brows to chin, placed by five landmarks, which drawn
            faces have [ours].
        deformation: standard deviation of the displacements that deform the mask, in pixels of a
            crop of 380 [measured].
        ratios: the blending ratio, the opacity of the source where the mask is one, is drawn from
            these with equal probability, so a repeated value is more likely [recalled].
        jpeg_probability: how often a pair is compressed as JPEG, both images alike [measured].
        dropout, drop_path: shares of the classifier's features, and of its residual branches, that
            are dropped in training [README].
        head_start: as of :class:`dfnb.papers.xception.Settings`; the package of the released code,
            efficientnet_pytorch, draws it as torch.
        sharpness: ρ of sharpness-aware minimisation (SAM): how far the weights move up their
            gradient, to where the gradient that trains them is computed [recalled]. SAM doubles the
            passes over a batch; 0 turns it off.
    """

    makes_other_class: ClassVar[bool] = True

    backbone: str = "tf_efficientnet_b4.ap_in1k"  # EfficientNet-B4 with AdvProp's weights [README]
    image_size: contract.ImageSize = 380  # [README]
    mean: contract.Colour = (0.0, 0.0, 0.0)  # images in [0, 1] [README]; the weights saw [-1, 1]
    std: contract.Colour = (1.0, 1.0, 1.0)
    epochs: contract.Epochs = 100  # [README]
    # [README]; here it counts images, and a frame and its blend are two images [ours]
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 32
    optimiser: contract.Optimiser = "sgd"  # under SAM [recalled], with momentum 0.9 [secondary]
    lr: contract.LearningRate = 0.001  # DeepfakeBench's entry for SAM [secondary]
    weight_decay: contract.WeightDecay = 0.0  # [README]
    # Constant, then linearly to zero over the last quarter [README]
    schedule: contract.Schedule | Literal["last_quarter"] = "last_quarter"
    augmentation: contract.Augmentation = "released"  # the mirror [recalled]
    transforms: Annotated[tuple[Transform, ...], Field(min_length=1)] = (
        "colour",
        "frequency",
        "geometry",
    )
    reduction: Annotated[tuple[Reduction, ...], Field(min_length=1)] = (2.0, 4.0)
    region: Literal["hull", "ellipse"] = "ellipse"
    deformation: Annotated[float, Field(ge=0, le=40)] = 1.2
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
    jpeg_probability: contract.Probability = 0.5
    dropout: contract.Probability = 0.4
    drop_path: contract.Probability = 0.2
    sharpness: Annotated[float, Field(ge=0, le=10)] = 0.05
    head_start: xception.HeadStart = "timm"

    def fetch(self) -> None:
        """Download the weights of the face mesh, if the mask covers the mesh's hull."""
        if self.region == "hull":
            faces.mesh_path()  # downloads a missing file

    def visible(
        self,
        frames: pd.DataFrame,
        seed: int,
        start: contract.Network | None,
    ) -> pd.DataFrame:
        """The real frames alone, in training and in validation."""
        return frames[frames["label"] == 0]

    def optimisation(
        self,
        network: Network,
        steps: int,
    ) -> tuple[list[Optimizer], LRScheduler]:
        """The optimiser and its schedule, which may be the paper's ``last_quarter``."""
        optimisers, schedule = super().optimisation(network, steps)
        if self.schedule == "last_quarter":  # for which super() has made a constant one
            total_steps = steps * self.epochs
            quarter = total_steps / 4
            # The learning rate times 1, and in the last quarter times (steps left) / quarter.
            schedule = LambdaLR(optimisers[0], lambda step: min(1, (total_steps - step) / quarter))
        return optimisers, schedule

    def released_transform(self) -> v2.Transform:
        """The mirror alone [recalled]; colours, margins and JPEG are part of :meth:`samples`."""
        return v2.RandomHorizontalFlip()

    def samples(self, sample: Sample, draw: Generator) -> list[Sample]:
        """The target as a real sample, and the blend as a fake one, forged where it is blended.

        Both get the same change of colours and the same JPEG, so that neither betrays the label.
        """
        sample = without_margins(sample, draw)
        # Two images (H, W, 3) uint8, and M (H, W), the source's share in the blend
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
    """Crop the sample by a random margin at each edge, at most :data:`MARGIN` of the side.

    The face detector's crops have the face always in the middle and of about the same size; these
    crops do not. They need not be square: resizing to ``image_size`` stretches them.
    """
    height, width = sample.mask.shape
    left, right = np.int32(MARGIN * width * draw.random(2))  # whole pixels
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
    image: np.ndarray,
    landmarks: np.ndarray,
    settings: Settings,
    draw: Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make target, blend and opacity of a real frame (H, W, 3) uint8.

    One of source and target begins as the frame, the other as a recoloured version of it, sharpened
    or reduced; then source and mask are displaced together. Each of these changes (colour,
    frequency, geometry) is made only if ``settings.transforms`` names it. ``landmarks`` are (5, 2)
    in pixels. The blend is M · source + (1 − M) · target, with the opacity M (H, W) in [0, 1].
    Target and blend have the shape and type of the frame.
    """
    frame = image.astype(np.float32)
    transformed = frame
    if "colour" in settings.transforms:
        # 1: contrast and brightness always change
        transformed = recoloured(transformed, drawn_colours(draw, 1.0))
    if "frequency" in settings.transforms:
        transformed = sharpened_or_reduced(transformed, settings.reduction, draw)
    if draw.random() < 0.5:
        source = transformed
        target = frame
    else:
        source = frame
        target = transformed
    mask = soft_mask(landmarks, image, settings, draw)
    if "geometry" in settings.transforms:
        source, mask = displaced(source, mask, draw)
    opacity = mask * draw.choice(settings.ratios)  # M: the mask times one blending ratio
    blend = target + opacity[..., None] * (source - target)  # = M · source + (1 − M) · target
    return rounded(target), rounded(blend), opacity


class Colours(NamedTuple):
    """A change of colours, in levels of 0 to 255."""

    levels: np.ndarray  # (3,), added to red, green and blue
    hue_saturation_value: np.ndarray  # (3,), added; the hue in degrees
    contrast: float  # factor
    brightness: float  # added


def drawn_colours(draw: Generator, probability: float) -> Colours:
    """Draw three random changes of colours, as :class:`Colours` has them.

    They are a shift of red, green and blue; one of hue, saturation and value; and one of contrast
    and brightness. Each of the first two is made with probability :data:`SELDOM`, the third with
    ``probability``. A change that is not made is drawn, too, and then multiplied by zero, so that
    whether it is made does not move the draws that follow.
    """
    levels = draw.uniform(-LEVELS, LEVELS, 3)
    hue_saturation_value = draw.uniform(-1, 1, 3) * HUE_SATURATION_VALUE
    contrast = draw.uniform(-CONTRAST, CONTRAST)
    brightness = draw.uniform(-BRIGHTNESS, BRIGHTNESS)
    is_made = draw.random(3) < (SELDOM, SELDOM, probability)
    return Colours(
        levels * is_made[0],
        hue_saturation_value * is_made[1],
        1 + contrast * is_made[2],
        brightness * is_made[2],
    )


def recoloured(image: np.ndarray, colours: Colours) -> np.ndarray:
    """Change the colours of an RGB image (H, W, 3) in [0, 255]: float32, clipped to that range."""
    image = np.float32(image + colours.levels).clip(0, 255)
    if colours.hue_saturation_value.any():  # zero if the change is not made
        # OpenCV's HSV of float images: hue in [0, 360), saturation and value in [0, 1]
        hsv = cv2.cvtColor(image / 255, cv2.COLOR_RGB2HSV)
        # The hue stays in degrees; saturation and value go from levels to [0, 1].
        hsv += colours.hue_saturation_value / np.array([1, 255, 255])
        hsv[..., 0] %= 360
        hsv[..., 1:] = hsv[..., 1:].clip(0, 1)
        image = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    image = colours.contrast * image + colours.brightness
    return np.float32(image).clip(0, 255)


def sharpened_or_reduced(
    image: np.ndarray,
    reduction: Sequence[float],
    draw: Generator,
) -> np.ndarray:
    """Sharpen an image (H, W, 3) float32 in [0, 255], or, as often [ours], reduce its resolution.

    Sharpening adds a multiple of the fine detail: the image less its Gaussian blur. The resolution
    is divided by one of the factors in ``reduction``; the size stays the same.
    """
    height, width = image.shape[:2]
    if draw.random() < 0.5:
        strength = draw.uniform(*SHARPENING)
        # Small crops get at least half a pixel: a narrower Gaussian would blur nothing.
        deviation = max(0.5, FINE_DETAIL * width / REFERENCE_SIDE)
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
    """Resize and shift a source (H, W, 3) and its mask (H, W) a little, both alike.

    Pixels that come from outside the image are zero in both.
    """
    height, width = mask.shape
    scale = draw.uniform(1 - RESIZE, 1 / (1 - RESIZE))  # the largest undoes the smallest
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, scale)  # turns by 0°
    size = (width, height)
    shift = draw.uniform(-1, 1, 2) * SHIFT * np.array(size)
    matrix[:, 2] += shift  # the matrix scales about the middle, its last column shifts
    return cv2.warpAffine(source, matrix, size), cv2.warpAffine(mask, matrix, size)


# ---------------------------------------------------------------- the mask


class Outline(NamedTuple):
    """The random numbers that define a mask: an ellipse, its deformation and its softening."""

    half_width: float  # of the ellipse; in face coordinates, as are top and bottom
    top: float  # t of its upper end, at the forehead or brows
    bottom: float  # t of its lower end, at the chin
    # (2, 4, 4), displacements in x and y at the nodes of a coarse grid. Only their shape counts:
    # deformed() scales them to pixels.
    waves: np.ndarray
    blurs: np.ndarray  # (2,), standard deviations of the two blurs, as shares of the eye distance


def drawn_outline(draw: Generator) -> Outline:
    """Draw the numbers of an outline, none of them in pixels: they fit a face of any size."""
    top_range = BROWS
    if draw.random() < WITH_FOREHEAD:
        top_range = FOREHEAD
    return Outline(
        half_width=draw.uniform(*HALF_WIDTH),
        top=draw.uniform(*top_range),
        bottom=draw.uniform(*BOTTOM),
        waves=draw.normal(size=(2, 4, 4)).astype(np.float32),
        blurs=draw.uniform(*SOFTENING, 2),
    )


def soft_mask(
    landmarks: np.ndarray,
    image: np.ndarray,
    settings: Settings,
    draw: Generator,
) -> np.ndarray:
    """Draw a mask (H, W) in [0, 1] on the face of an image (H, W, 3) uint8: deformed and softened.

    If the landmarks (5, 2) give no mask, because they are unknown, span no face or put it outside
    the image, those of an average crop (:data:`AVERAGE_FACE`) replace them.
    """
    outline = drawn_outline(draw)
    mask = mask_on_face(outline, landmarks, image, settings)
    if not mask.any():
        height, width = image.shape[:2]
        mask = mask_on_face(outline, AVERAGE_FACE * np.float32([width, height]), image, settings)
    return mask


def mask_on_face(
    outline: Outline,
    landmarks: np.ndarray,
    image: np.ndarray,
    settings: Settings,
) -> np.ndarray:
    """The mask (H, W) in [0, 1] of an outline on the face in an image (H, W, 3) uint8.

    It is all zero without a face: where the landmarks (5, 2), in pixels, are NaN.
    """
    # Made for the hull, too: if the ellipse is empty, these landmarks cannot place the hull either.
    region = ellipse(outline, landmarks, image.shape[:2])
    if not region.any():  # unknown landmarks, or a face outside the image
        return np.zeros(image.shape[:2], np.float32)
    if settings.region == "hull":
        region = hull(image, landmarks)
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))  # in pixels
    deviation = settings.deformation * image.shape[1] / REFERENCE_SIDE  # in pixels
    mask = deformed(region.astype(np.float32), deviation, outline.waves)
    return softened(mask, outline.blurs * eye_distance)


def ellipse(outline: Outline, landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The ellipse of an outline on a face: (H, W) bool."""
    s, t = face_coordinates(landmarks, shape)  # each (H, W)
    middle = (outline.top + outline.bottom) / 2
    half_height = (outline.bottom - outline.top) / 2
    # Inside the ellipse, (s / half width)² + ((t − middle) / half height)² < 1; NaN is outside.
    radius = np.hypot(s / outline.half_width, (t - middle) / half_height)
    return radius < 1


def hull(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The convex hull of the mesh of a face: (H, W) bool."""
    corners = cv2.convexHull(faces.face_mesh(image, landmarks))
    filled = np.zeros(image.shape[:2], np.uint8)
    return cv2.fillConvexPoly(filled, corners.round().astype(np.int32), 1) > 0


def face_coordinates(landmarks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The face coordinates (s, t) of every pixel, (2, H, W).

    The eyes are at (-1, 0) and (1, 0), the middle of the mouth at (0, 1). All are NaN if the
    landmarks (5, 2) are unknown (NaN), or if the unit square of (s, t) has at most a thousandth of
    the image's area, as with landmarks that span no face.
    """
    axes, origin = face_axes(landmarks)  # pixel = axes @ (s, t) + origin
    (a, b), (c, d) = axes
    area = abs(a * d - b * c)  # |det(axes)|, in pixels; numpy's det would warn of NaN
    smallest = shape[0] * shape[1] / 1000
    if np.isnan(area) or area <= smallest:
        return np.full((2, *shape), np.nan)
    columns_and_rows = np.indices(shape)[::-1]  # x and y of every pixel, (2, H, W)
    pixels = columns_and_rows - origin[:, None, None]
    # (s, t) = axes⁻¹ @ (pixel − origin)
    return np.einsum("ij,jhw->ihw", np.linalg.inv(axes), pixels)


def deformed(mask: np.ndarray, deviation: float, waves: np.ndarray) -> np.ndarray:
    """Displace the pixels of a mask (H, W) smoothly in x and y, which bends its outline.

    The displacements are ``waves`` (2, n, n), interpolated between the nodes of their grid and
    scaled to the standard deviation ``deviation``, in pixels.
    """
    size = mask.shape[::-1]
    shifts = []
    for wave in waves:  # in x, in y
        smooth_wave = cv2.resize(wave, size, interpolation=cv2.INTER_CUBIC)
        shifts.append(deviation * smooth_wave / smooth_wave.std())  # pixels
    columns_and_rows = np.indices(mask.shape)[::-1]  # x and y of every pixel, (2, H, W)
    # Each pixel gets the value that the mask has at the displaced place.
    columns, rows = np.float32(columns_and_rows + np.stack(shifts))
    return cv2.remap(mask, columns, rows, cv2.INTER_LINEAR)


def softened(mask: np.ndarray, blurs: np.ndarray) -> np.ndarray:
    """Blur a mask (H, W), set its core to 1 and the rest to 0, and blur the core.

    The core is what is above 1 - VISIBLE; of the result, what is not above VISIBLE becomes 0. So
    the first blur makes the mask smaller, and the second makes it larger: the wider the blur, the
    more. ``blurs`` (2,) are their standard deviations in pixels.
    """
    first_blur, second_blur = np.maximum(blurs, 0.3)  # OpenCV needs a deviation above zero
    mask = cv2.GaussianBlur(mask, (0, 0), first_blur)
    # A blurred straight edge is 1 - VISIBLE at 1.64 deviations inside, and VISIBLE as far outside:
    # with these two thresholds, equal blurs leave the mask's size about as it is.
    core = np.float32(mask > 1 - VISIBLE)
    mask = cv2.GaussianBlur(core, (0, 0), second_blur)
    return np.where(mask > VISIBLE, mask.clip(max=1), 0)  # rounding may give more than 1


# ---------------------------------------------------------------- the classifier


class Network(xception.Network):
    """The baseline's classifier with dropout; only the data and the training are new."""

    def __init__(self, settings: Settings) -> None:
        rates = {"drop_rate": settings.dropout, "drop_path_rate": settings.drop_path}
        # A rate of zero is left out, because not every timm model accepts these options.
        timm_options = {name: rate for name, rate in rates.items() if rate}
        super().__init__(settings, **timm_options)
        self.sharpness = settings.sharpness

    def moved(self) -> AbstractContextManager | None:
        """SAM's second pass: the weights moved up their gradient; None if ``sharpness`` is 0."""
        if self.sharpness == 0:
            return None
        return climbed(self, self.sharpness)


@contextmanager
def climbed(network: nn.Module, distance: float) -> Iterator[None]:
    """Move the weights by ``distance`` = ρ up their gradient g; on leaving, put the weights back.

    After the move the gradient is cleared. A backward pass inside the context then leaves that of
    sharpness-aware minimisation (SAM; Foret et al., ICLR 2021): the gradient at ``w + ρ · g / |g|``
    instead of w.
    """
    trained = [weight for weight in network.parameters() if weight.grad is not None]
    gradients = [weight.grad for weight in trained]
    originals = [weight.detach().clone() for weight in trained]
    length = nn.utils.get_total_norm(gradients)  # |g|, of all weights together
    step = float(distance / (length + 1e-12))  # eq. 2 of Foret et al.: ρ · g / |g|
    with torch.no_grad():
        for weight, gradient in zip(trained, gradients):
            weight.add_(gradient, alpha=step)
    network.zero_grad()
    try:
        yield  # the body of the with statement, in which the caller makes the second pass
    finally:
        with torch.no_grad():
            for weight, original in zip(trained, originals):
                weight.copy_(original)
