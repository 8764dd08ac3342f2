"""Eight corruptions of the frames of a test set, in five severities each.

All frames of a video are corrupted together, because a video codec needs them all. The same video,
corruption and severity always give the same frames.
"""

import math

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms.v2 import functional

from facesets import codecs
from facesets.frames import read_crop
from facesets.seeds import rng

# Every function of CORRUPTIONS gets a clip, which is the frames of a video (n, 3, H, W) uint8 RGB,
# and the strength of the corruption, and returns the corrupted clip, uint8, too. Those of RANDOM
# also get a random stream.


def jpeg(clip: Tensor, quality: int) -> Tensor:
    """JPEG compression of every frame; the strength is the quality, 1 to 100."""
    compressed = [codecs.jpeg(frame, quality) for frame in _as_frames(clip)]
    return _as_clip(np.stack(compressed))


def h264(clip: Tensor, crf: int) -> Tensor:
    """H.264 compression of the video; the strength is the constant rate factor, 0 (best) to 51."""
    decoded = codecs.h264(_as_frames(clip), crf, repeatable=True)  # same bytes on all processors
    return _as_clip(decoded)


def blur(clip: Tensor, percent: float) -> Tensor:
    """Gaussian blur; the strength is the standard deviation in per cent of the width."""
    deviation = percent / 100 * clip.shape[-1]
    radius = math.ceil(3 * deviation)  # the kernel is cut off where it is nearly zero
    return functional.gaussian_blur(clip, 2 * radius + 1, deviation)


def noise(clip: Tensor, deviation: float, draw: Generator) -> Tensor:
    """Gaussian noise, independent in every pixel and channel.

    The strength is the standard deviation on the scale of 0 black to 255 white.
    """
    added = draw.normal(0, deviation, clip.shape)
    noisy = clip + torch.from_numpy(added)  # float64
    return noisy.round().clamp(0, 255).byte()


def resize(clip: Tensor, percent: float) -> Tensor:
    """Smaller frames; the strength is the length of their sides in per cent of the original."""
    shorter_side = min(clip.shape[-2:])
    # torchvision takes the new length of the shorter side, and keeps the aspect ratio.
    return functional.resize(clip, round(shorter_side * percent / 100))


def occlusion(clip: Tensor, percent: float, draw: Generator) -> Tensor:
    """A grey block, at the same random place in all frames.

    The block has the aspect ratio of the frame; the strength is its area in per cent of the frame.
    """
    height, width = clip.shape[-2:]
    share_of_side = (percent / 100) ** 0.5  # an area is the product of two sides
    block_height = round(height * share_of_side)
    block_width = round(width * share_of_side)
    # integers leaves out its upper limit, so + 1: the block may touch the lower or right edge.
    top = int(draw.integers(0, height - block_height + 1))
    left = int(draw.integers(0, width - block_width + 1))
    grey = torch.tensor(128)
    return functional.erase(clip, top, left, block_height, block_width, grey)


CORRUPTIONS = {  # by name: the function, and its strengths at severities 1 to 5
    "JPEG": (jpeg, (80, 60, 40, 20, 10)),
    "H.264": (h264, (23, 28, 33, 38, 43)),
    "blur": (blur, (0.5, 1, 1.5, 2, 3)),
    "noise": (noise, (4, 8, 16, 24, 32)),
    "resize": (resize, (75, 50, 35, 25, 15)),
    # Factors: 0 leaves only the mean grey of each frame, or no colour.
    "contrast": (functional.adjust_contrast, (0.8, 0.6, 0.4, 0.3, 0.2)),
    "saturation": (functional.adjust_saturation, (0.8, 0.6, 0.4, 0.2, 0)),
    "occlusion": (occlusion, (2, 5, 10, 20, 30)),
}
RANDOM = ("noise", "occlusion")  # those that draw random numbers


def _as_frames(clip: Tensor) -> np.ndarray:
    """A clip (n, 3, H, W) as an array of frames (n, H, W, 3)."""
    return clip.permute(0, 2, 3, 1).numpy()


def _as_clip(frames: np.ndarray) -> Tensor:
    """An array of frames (n, H, W, 3) as a clip (n, 3, H, W)."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


class Corrupted:
    """Reads crops and corrupts them, video by video; takes the place of ``frames.read_crop``.

    Args:
        frames: A frames table of one dataset, with all frames that are scored: a codec compresses
            those of a video together.
        name: One of :data:`CORRUPTIONS`.
        severity: 1 to 5.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        name: str,
        severity: int,
    ) -> None:
        self.name = name
        self.severity = severity
        # The video of each path; in the order of the frames, as a codec needs those of a video.
        self.video_of = frames.sort_values("row").set_index("path")["video"]
        # The corrupted crops of the video that was read last, by path: usually the next crop is
        # from the same video.
        self.last_crops = {}

    def __call__(self, path: str) -> np.ndarray:
        """One corrupted crop (H, W, 3) uint8 RGB; "resize" makes it smaller.

        The loader then resizes it to the network's input, like any crop, but details are lost.
        """
        if path not in self.last_crops:
            video = self.video_of[path]
            paths = self.video_of.index[self.video_of == video]
            crops = [read_crop(other) for other in paths]
            # Crops that others have cut may differ in size: all get that of the first.
            height, width = crops[0].shape[:2]
            alike = [cv2.resize(crop, (width, height)) for crop in crops]
            clip = _as_clip(np.stack(alike))
            corrupt, strengths = CORRUPTIONS[self.name]
            arguments = [strengths[self.severity - 1]]
            if self.name in RANDOM:
                # Seeded by the video, so that all detectors see equal pixels. Its frames were in a
                # file of this name when the committed scores were made: another would change them.
                file = f"videos/{video}/frames.npy"
                arguments.append(rng("corruption", self.name, self.severity, file))
            corrupted = _as_frames(corrupt(clip, *arguments))
            self.last_crops = dict(zip(paths, corrupted))
        return self.last_crops[path].copy()  # contiguous, as a crop from a file
