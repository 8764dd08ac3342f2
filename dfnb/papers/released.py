"""What the augmentations of the authors' released codes have in common: albumentations' changes of colour.

Their geometry is torchvision's own; here is what ``torchvision.transforms.v2`` lacks, with the arithmetic of albumentations
and torch's random numbers. Their checkpoints are read by ``scripts/released_weights.py``.
"""

from collections.abc import Callable
from functools import partial

import cv2
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


def recolour(change: Callable[[Tensor], Tensor]) -> v2.Transform:
    """Changes the image alone, not masks and landmarks: ``change`` gets and gives pixels (3, H, W), float32 in [0, 255]."""
    return v2.Lambda(partial(_recoloured, change), tv_tensors.Image)


def _recoloured(change: Callable[[Tensor], Tensor], image: tv_tensors.Image) -> tv_tensors.Image:
    return tv_tensors.wrap(change(image.as_subclass(Tensor).float()).round().clamp(0, 255).byte(), like=image)


def in_turn(*steps: tuple[float, v2.Transform]) -> v2.Transform:
    """The transforms one after the other, each with its probability."""
    return v2.Compose([v2.RandomApply([transform], p=probability) for probability, transform in steps])


def one_colour(limit: float = 0.2) -> v2.Transform:
    """One of: brightness and contrast, each by up to ``limit``; PCA lighting; hue, saturation and value."""
    changes = (partial(brightness_contrast, limit=limit), pca_lighting, hue_saturation_value)
    return v2.RandomChoice([recolour(change) for change in changes])


def blur(size: int) -> v2.Transform:
    """Gaussian blur over ``size`` × ``size`` pixels, with the deviation that OpenCV derives from the size."""
    return v2.GaussianBlur(size, sigma=0.15 * size + 0.35)


def affine(degrees: float, shift: float) -> v2.Transform:
    """Turn by up to ``degrees``, shift by up to a share of the side, scale by 0.8 to 1.2; outside is black."""
    return v2.RandomAffine(degrees, (shift, shift), (0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR)


def brightness_contrast(pixels: Tensor, limit: float) -> Tensor:
    """Multiply by 1 ± ``limit`` and add up to ± ``limit`` of the range."""
    return (1 + _uniform(limit)) * pixels + 255 * _uniform(limit)


def noise(pixels: Tensor) -> Tensor:
    """Add Gaussian noise, its variance drawn from 10 to 50."""
    return pixels + (30 + _uniform(20)) ** 0.5 * torch.randn_like(pixels)


def pca_lighting(pixels: Tensor) -> Tensor:
    """Add α · Σ_i λ_i v_i: λ_i and v_i are variances and axes of the image's own colours, α ~ N(0, 0.1).

    Krizhevsky et al., NeurIPS 2012; one α for the three axes, as in albumentations.
    """
    variances, axes = torch.linalg.eigh(torch.cov(pixels.flatten(1) / 255))
    return pixels + 255 * (axes @ variances)[:, None, None] * 0.1 * torch.randn(())


def hue_saturation_value(pixels: Tensor) -> Tensor:
    """Add up to ± 40° to the hue, up to ± 30 to the saturation and ± 20 to the value, both of 255."""
    hsv = cv2.cvtColor(pixels.permute(1, 2, 0).numpy() / 255, cv2.COLOR_RGB2HSV)  # in [0, 360), [0, 1] and [0, 1]
    hsv += [_uniform(40), _uniform(30 / 255), _uniform(20 / 255)]
    hsv[..., 0] %= 360
    rgb = cv2.cvtColor(hsv.clip(0, (360, 1, 1)).astype("float32"), cv2.COLOR_HSV2RGB)
    return torch.from_numpy(255 * rgb).permute(2, 0, 1)


def _uniform(limit: float) -> float:
    return torch.empty(()).uniform_(-limit, limit).item()
