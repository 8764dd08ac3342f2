"""Augmentations that the authors' released codes share.

The geometric ones only set the parameters of torchvision's transforms. The changes of colour are
missing from torchvision: they follow the arithmetic of albumentations, which the released codes
use, but draw from torch's random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from facesets import codecs


def of_pixels(change: Callable[[Tensor], Tensor]) -> v2.Transform:
    """Make a transform from a change of colours; it leaves masks and landmarks as they are.

    ``change`` maps pixels (3, H, W), float32 in [0, 255], to new ones, which are then rounded and
    clipped to uint8.
    """
    return v2.Lambda(partial(_recoloured, change), tv_tensors.Image)


def _recoloured(
    change: Callable[[Tensor], Tensor],
    image: tv_tensors.Image,
) -> tv_tensors.Image:
    """A uint8 image (3, H, W) after the change, see :func:`of_pixels`.

    Defined at the level of the module, because workers cannot pickle an inner function.
    """
    pixels = change(image.as_subclass(Tensor).float())
    return tv_tensors.wrap(pixels.round().clamp(0, 255).byte(), like=image)


def in_turn(*steps: tuple[float, v2.Transform]) -> v2.Transform:
    """A transform that applies steps in turn, each given as (its probability, its transform)."""
    transforms = []
    for probability, transform in steps:
        transforms.append(v2.RandomApply([transform], p=probability))
    return v2.Compose(transforms)


def one_colour(limit: float = 0.2) -> v2.Transform:
    """A transform that changes the colours in one of three ways, drawn with equal probability.

    It changes brightness and contrast (by up to ``limit``), or it adds PCA lighting, or it changes
    hue, saturation and value.
    """
    brightness = partial(brightness_contrast, limit=limit)
    changes = [brightness, pca_lighting, hue_saturation_value]
    return v2.RandomChoice([of_pixels(change) for change in changes])


def jpeg(lowest: int) -> v2.Transform:
    """Compression by OpenCV's JPEG, with a quality drawn from ``lowest`` to 100."""
    return of_pixels(partial(_compressed, lowest))


def _compressed(lowest: int, pixels: Tensor) -> Tensor:
    """Pixels (3, H, W) in [0, 255], compressed as :func:`jpeg` says; the result is uint8."""
    quality = int(torch.randint(lowest, 101, ()))
    # byte() loses nothing, because of_pixels passes whole numbers.
    image = pixels.byte().permute(1, 2, 0).numpy()
    return torch.from_numpy(codecs.jpeg(image, quality)).permute(2, 0, 1)


def blur(size: int) -> v2.Transform:
    """Gaussian blur by ``size`` × ``size`` pixels, with about the kernel of OpenCV.

    The standard deviation is that of OpenCV's formula, 0.3 · ((size - 1) / 2 - 1) + 0.8. Up to 7
    pixels OpenCV itself takes fixed kernels, whose weights differ by at most .022.
    """
    return v2.GaussianBlur(size, sigma=0.15 * size + 0.35)  # the formula above, simplified


def affine(degrees: float, shift: float) -> v2.Transform:
    """Rotation by up to ± ``degrees``, shift by up to ± ``shift`` of the side, scale 0.8 to 1.2.

    Pixels that come from outside the image are black, and in the mask not forged.
    """
    return v2.RandomAffine(
        degrees,
        translate=(shift, shift),
        scale=(0.8, 1.2),
        interpolation=v2.InterpolationMode.BILINEAR,
    )


def brightness_contrast(pixels: Tensor, limit: float) -> Tensor:
    """Multiply pixels (3, H, W) in [0, 255] by a factor and add a value.

    The factor is drawn from 1 ± ``limit``, the value from ± ``limit`` · 255. :func:`of_pixels`
    clips the result.
    """
    contrast = 1 + _uniform(limit)
    brightness = 255 * _uniform(limit)
    return contrast * pixels + brightness


def noise(pixels: Tensor) -> Tensor:
    """Add Gaussian noise, of a variance drawn from 10 to 50, to pixels (3, H, W) in [0, 255]."""
    variance = 30 + _uniform(20)
    return pixels + variance**0.5 * torch.randn_like(pixels)


def pca_lighting(pixels: Tensor) -> Tensor:
    """Add α · Vᵀλ, one colour (3,), to all pixels (3, H, W) in [0, 255].

    λ (3,) are the variances of the image's colours along their principal axes, the columns of V.
    They are computed with colours in [0, 1], so α · Vᵀλ is multiplied by 255.

    Krizhevsky et al., NeurIPS 2012, add Vλ. Albumentations, which the released codes use, adds Vᵀλ,
    with the largest variance first and one α ~ N(0, 0.1²) for the three axes.
    """
    covariance = torch.cov(pixels.flatten(1) / 255)  # (3, 3), of colours in [0, 1]
    variances, axes = torch.linalg.eigh(covariance)  # the smallest variance first
    largest_first = [2, 1, 0]
    shift = axes[:, largest_first].T @ variances[largest_first]
    shift = shift[:, None, None]
    return pixels + 255 * shift * 0.1 * torch.randn(())  # α = 0.1 · randn


def hue_saturation_value(pixels: Tensor) -> Tensor:
    """Change hue, saturation and value of pixels (3, H, W) in [0, 255].

    Up to ± 40° are added to the hue, ± 30 of 255 to the saturation and ± 20 of 255 to the value.
    The limit of the hue is 20 in albumentations, which counts it in steps of 2°.
    """
    # OpenCV's HSV of float images: hue in [0, 360), saturation and value in [0, 1]
    image = pixels.permute(1, 2, 0).numpy()
    hsv = cv2.cvtColor(image / 255, cv2.COLOR_RGB2HSV)
    hsv += [
        _uniform(40),
        _uniform(30 / 255),
        _uniform(20 / 255),
    ]
    hsv[..., 0] %= 360
    hsv = hsv.clip(0, (360, 1, 1)).astype("float32")  # upper limits of hue, saturation, value
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return torch.from_numpy(255 * rgb).permute(2, 0, 1)


def _uniform(limit: float) -> float:
    """A number drawn from [-limit, limit)."""
    return torch.empty(()).uniform_(-limit, limit).item()
