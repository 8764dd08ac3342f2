"""Eight corruptions of the frames of a test set, in five severities each.

A corruption takes the frames of a stored video together, (n, 3, H, W) uint8, because a video codec does; the same video,
severity and corruption give the same bytes. Only scores are taken under a corruption, so that masks are not read.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dfnb.core import DfnbError, rng
from dfnb.data.frames import Pixels
from dfnb.synth import h264

VERSION = 1  # raise it when a corruption gives other pixels


def _h264(clip: Tensor, factor: int, draw: np.random.Generator) -> Tensor:
    return torch.from_numpy(h264(clip.permute(0, 2, 3, 1).numpy(), factor)).permute(0, 3, 1, 2)


def _blur(clip: Tensor, percent: float, draw: np.random.Generator) -> Tensor:
    deviation = percent / 100 * clip.shape[-1]
    return TF.gaussian_blur(clip, 2 * int(np.ceil(3 * deviation)) + 1, deviation)


def _noise(clip: Tensor, deviation: float, draw: np.random.Generator) -> Tensor:
    return (clip + torch.from_numpy(draw.normal(0, deviation, clip.shape))).round().clamp(0, 255).byte()


def _resize(clip: Tensor, percent: float, draw: np.random.Generator) -> Tensor:
    return TF.resize(clip, [max(8, round(side * percent / 100)) for side in clip.shape[-2:]])


def _occlude(clip: Tensor, percent: float, draw: np.random.Generator) -> Tensor:
    sides = [round(side * (percent / 100) ** 0.5) for side in clip.shape[-2:]]
    top, left = (int(draw.integers(0, whole - side + 1)) for whole, side in zip(clip.shape[-2:], sides))
    return TF.erase(clip, top, left, *sides, torch.tensor(128))


# Unit of the parameter, its values at severities 1 to 5, and what becomes of a clip: (clip, value, random stream).
CORRUPTIONS = {
    "JPEG": ("quality", (80, 60, 40, 20, 10), lambda clip, q, draw: torch.stack([TF.jpeg(frame, q) for frame in clip])),
    "H.264": ("constant rate factor", (23, 28, 33, 38, 43), _h264),
    "blur": ("deviation, % of the width", (0.5, 1, 1.5, 2, 3), _blur),
    "noise": ("deviation, of 255", (4, 8, 16, 24, 32), _noise),
    "resize": ("side left, %", (75, 50, 35, 25, 15), _resize),
    "contrast": ("factor", (0.8, 0.6, 0.4, 0.3, 0.2), lambda clip, factor, draw: TF.adjust_contrast(clip, factor)),
    "saturation": ("factor", (0.8, 0.6, 0.4, 0.2, 0), lambda clip, factor, draw: TF.adjust_saturation(clip, factor)),
    "occlusion": ("area under a grey block, %", (2, 5, 10, 20, 30), _occlude),
}


class Corrupted(Pixels):
    """The pixels of a frames table under a corruption of :data:`CORRUPTIONS` at a severity, 1 to 5.

    Raises :class:`DfnbError` for another one.
    """

    def __init__(self, frames: pd.DataFrame, name: str, severity: int) -> None:
        super().__init__(frames.attrs["folder"])
        if name not in CORRUPTIONS or severity not in range(1, 6):
            raise DfnbError(f"there is no corruption {name} {severity}; {', '.join(CORRUPTIONS)} go from 1 to 5")
        _, values, self.apply = CORRUPTIONS[name]
        self.key, self.value = ("corruption", name, severity), values[severity - 1]
        self.last = "", torch.empty(0)  # path and corrupted clip of the video read last

    def crop(self, path: str, row: int) -> np.ndarray:
        """One corrupted crop (H, W, 3) uint8 RGB; smaller where the corruption is a resize."""
        stored = path.endswith(".npy")
        if self.last[0] != path:
            clip = torch.from_numpy(super().crop(path) if stored else super().crop(path)[None])
            self.last = path, self.apply(clip.permute(0, 3, 1, 2), self.value, rng(*self.key, path))
        return self.last[1][row if stored else 0].permute(1, 2, 0).contiguous().numpy()

    def mask(self, path: str, row: int, shape: tuple[int, int]) -> np.ndarray:
        """All False: nothing is located under a corruption."""
        return np.zeros(shape, bool)
