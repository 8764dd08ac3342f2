"""Eight corruptions of the frames of a test set, in five severities each.

A corruption takes all frames of a stored video together, because a video codec does. The same
video, severity and corruption give the same frames.
"""

import math

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional

from dfnb.data import codecs
from dfnb.data.frames import Pixels
from dfnb.seeds import rng

# Every function of CORRUPTIONS takes the frames of a video (n, 3, H, W) uint8 and its strength, and
# returns the frames corrupted. Those of RANDOM take a random stream, too.


def jpeg(clip: Tensor, quality: int) -> Tensor:
    """Every frame after JPEG; the strength is the quality, 1 to 100."""
    compressed = [codecs.jpeg(frame, quality) for frame in _frames(clip)]
    return _clip(np.stack(compressed))


def h264(clip: Tensor, crf: int) -> Tensor:
    """The video after H.264; the strength is the constant rate factor."""
    decoded = codecs.h264(_frames(clip), crf, repeatable=True)
    return _clip(decoded)


def blur(clip: Tensor, percent: float) -> Tensor:
    """Gaussian blur; the strength is the standard deviation in per cent of the width."""
    deviation = percent / 100 * clip.shape[-1]
    radius = math.ceil(3 * deviation)
    return functional.gaussian_blur(clip, 2 * radius + 1, deviation)


def noise(clip: Tensor, deviation: float, draw: Generator) -> Tensor:
    """Gaussian noise, independent in every pixel and channel.

    The strength is the standard deviation, where white is 255.
    """
    noise = draw.normal(0, deviation, clip.shape)
    noisy = clip + torch.from_numpy(noise)
    return noisy.round().clamp(0, 255).byte()


def resize(clip: Tensor, percent: float) -> Tensor:
    """Smaller frames; the strength is what is left of their sides, in per cent."""
    shorter_side = min(clip.shape[-2:])
    return functional.resize(clip, round(shorter_side * percent / 100))


def occlusion(clip: Tensor, percent: float, draw: Generator) -> Tensor:
    """A grey block, at the same random place in all frames.

    The strength is the part of the area under the block, in per cent.
    """
    height, width = clip.shape[-2:]
    share_of_side = (percent / 100) ** 0.5
    block_height = round(height * share_of_side)
    block_width = round(width * share_of_side)
    top = int(draw.integers(0, height - block_height + 1))
    left = int(draw.integers(0, width - block_width + 1))
    grey = torch.tensor(128)
    return functional.erase(clip, top, left, block_height, block_width, grey)


CORRUPTIONS = {  # by name the function, and its strengths at severities 1 to 5
    "JPEG": (
        jpeg,
        (80, 60, 40, 20, 10),
    ),
    "H.264": (
        h264,
        (23, 28, 33, 38, 43),
    ),
    "blur": (
        blur,
        (0.5, 1, 1.5, 2, 3),
    ),
    "noise": (
        noise,
        (4, 8, 16, 24, 32),
    ),
    "resize": (
        resize,
        (75, 50, 35, 25, 15),
    ),
    "contrast": (
        functional.adjust_contrast,  # a factor; 0 leaves only the mean grey of each frame
        (0.8, 0.6, 0.4, 0.3, 0.2),
    ),
    "saturation": (
        functional.adjust_saturation,  # a factor; 0 leaves no colour
        (0.8, 0.6, 0.4, 0.2, 0),
    ),
    "occlusion": (
        occlusion,
        (2, 5, 10, 20, 30),
    ),
}
RANDOM = ("noise", "occlusion")


def _frames(clip: Tensor) -> np.ndarray:
    """(n, 3, H, W) as (n, H, W, 3)."""
    return clip.permute(0, 2, 3, 1).numpy()


def _clip(frames: np.ndarray) -> Tensor:
    """(n, H, W, 3) as (n, 3, H, W)."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


class Corrupted(Pixels):
    """The crops of a frames table under a corruption, to be read in place of its dataset's.

    The column ``mask`` of the table that is read must be empty, because a mask would be corrupted
    like a crop.

    Args:
        frames: The table.
        name: One of :data:`CORRUPTIONS`.
        severity: 1 to 5.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        name: str,
        severity: int,
    ) -> None:
        super().__init__(frames.attrs["folder"])
        self.name = name
        self.severity = severity
        self.last_frames = {}  # by the path that was read last: its corrupted frames

    def crop(self, path: str, row: int) -> np.ndarray:
        """One corrupted crop (H, W, 3) uint8 RGB; smaller where the corruption is a resize."""
        is_video = path.endswith(".npy")
        if path not in self.last_frames:
            frames = super().crop(path)
            if not is_video:
                frames = frames[None]
            corrupt, strengths = CORRUPTIONS[self.name]
            arguments = [_clip(frames), strengths[self.severity - 1]]
            if self.name in RANDOM:
                draw = rng("corruption", self.name, self.severity, path)
                arguments.append(draw)
            clip = corrupt(*arguments)
            self.last_frames = {path: _frames(clip)}
        frame = self.last_frames[path][row if is_video else 0]
        return frame.copy()
