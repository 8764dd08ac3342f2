"""Eight corruptions of the frames of a test set, in five severities each.

A corruption takes all frames of a stored video together, because a video codec does. The same
video, severity and corruption give the same frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional

from dfnb.data import codecs
from dfnb.data.frames import Pixels
from dfnb.seeds import rng

# Every function below takes the frames of a video (n, 3, H, W) uint8, the strength at a severity,
# and a random stream, and returns the frames corrupted.


def jpeg(clip: Tensor, quality: int, draw: Generator) -> Tensor:
    """Every frame after JPEG of a quality."""
    frames = clip.permute(0, 2, 3, 1).numpy()
    compressed = np.stack([codecs.jpeg(frame, quality) for frame in frames])
    return torch.from_numpy(compressed).permute(0, 3, 1, 2)


def h264(clip: Tensor, crf: int, draw: Generator) -> Tensor:
    """The video after H.264 of a constant rate factor."""
    frames = clip.permute(0, 2, 3, 1).numpy()
    decoded = codecs.h264(frames, crf, repeatable=True)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2)


def blur(clip: Tensor, percent: float, draw: Generator) -> Tensor:
    """Gaussian blur of a standard deviation in per cent of the width."""
    width = clip.shape[-1]
    deviation = percent / 100 * width
    radius = math.ceil(3 * deviation)
    return functional.gaussian_blur(clip, 2 * radius + 1, deviation)


def noise(clip: Tensor, deviation: float, draw: Generator) -> Tensor:
    """Gaussian noise of a standard deviation, independent in every pixel and channel."""
    noise = draw.normal(0, deviation, clip.shape)
    noisy = clip + torch.from_numpy(noise)
    return noisy.round().clamp(0, 255).byte()


def resize(clip: Tensor, percent: float, draw: Generator) -> Tensor:
    """The frames reduced to a share of their sides."""
    shorter_side = min(clip.shape[-2:])
    return functional.resize(clip, round(shorter_side * percent / 100))


def contrast(clip: Tensor, factor: float, draw: Generator) -> Tensor:
    """Every frame drawn towards its mean grey; 0 would leave nothing else."""
    return functional.adjust_contrast(clip, factor)


def saturation(clip: Tensor, factor: float, draw: Generator) -> Tensor:
    """Colours drawn towards grey; 0 leaves grey alone."""
    return functional.adjust_saturation(clip, factor)


def occlusion(clip: Tensor, percent: float, draw: Generator) -> Tensor:
    """A grey block over a share of the area, at the same random place in all frames."""
    height, width = clip.shape[-2:]
    share_of_side = (percent / 100) ** 0.5
    block_height = round(height * share_of_side)
    block_width = round(width * share_of_side)
    top = int(draw.integers(0, height - block_height + 1))
    left = int(draw.integers(0, width - block_width + 1))
    clip = clip.clone()
    clip[..., top : top + block_height, left : left + block_width] = 128
    return clip


@dataclass(frozen=True)
class Corruption:
    """A corruption and how strong it is."""

    unit: str  # of the values
    values: tuple[float, ...]  # the strength at severities 1 to 5
    apply: Callable[[Tensor, float, Generator], Tensor]


CORRUPTIONS = {
    "JPEG": Corruption(
        "quality",
        (80, 60, 40, 20, 10),
        jpeg,
    ),
    "H.264": Corruption(
        "constant rate factor",
        (23, 28, 33, 38, 43),
        h264,
    ),
    "blur": Corruption(
        "deviation, % of the width",
        (0.5, 1, 1.5, 2, 3),
        blur,
    ),
    "noise": Corruption(
        "deviation, of 255",
        (4, 8, 16, 24, 32),
        noise,
    ),
    "resize": Corruption(
        "side left, %",
        (75, 50, 35, 25, 15),
        resize,
    ),
    "contrast": Corruption(
        "factor",
        (0.8, 0.6, 0.4, 0.3, 0.2),
        contrast,
    ),
    "saturation": Corruption(
        "factor",
        (0.8, 0.6, 0.4, 0.2, 0),
        saturation,
    ),
    "occlusion": Corruption(
        "area under a grey block, %",
        (2, 5, 10, 20, 30),
        occlusion,
    ),
}


class Corrupted(Pixels):
    """The pixels of a frames table under a corruption, to be read in place of its dataset's.

    Args:
        frames: The table.
        name: One of :data:`CORRUPTIONS`.
        severity: 1 to 5.
    """

    def __init__(self, frames: pd.DataFrame, name: str, severity: int) -> None:
        super().__init__(frames.attrs["folder"])
        self.name = name
        self.severity = severity
        self.corruption = CORRUPTIONS[name]
        self.strength = self.corruption.values[severity - 1]
        self.last_path = ""
        self.last_clip = torch.empty(0)  # the corrupted frames of the last path

    def crop(self, path: str, row: int) -> np.ndarray:
        """One corrupted crop (H, W, 3) uint8 RGB; smaller where the corruption is a resize."""
        is_video = path.endswith(".npy")
        if path != self.last_path:
            frames = super().crop(path)
            if not is_video:
                frames = frames[None]
            clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
            draw = rng("corruption", self.name, self.severity, path)
            self.last_clip = self.corruption.apply(clip, self.strength, draw)
            self.last_path = path
        frame = self.last_clip[row if is_video else 0]
        return frame.permute(1, 2, 0).contiguous().numpy()

    def mask(self, path: str, row: int, shape: tuple[int, int]) -> np.ndarray:
        """All False: nothing is located under a corruption."""
        return np.zeros(shape, bool)
