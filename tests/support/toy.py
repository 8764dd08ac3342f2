"""A small dataset of noise, written as any other, and what a loader needs of a paper's settings."""

import numpy as np

from facesets.frames import load_frames, write_dataset, write_video

SIZE = 37  # not a multiple of 8: what is hashed of masks is packed along the row
VIDEOS = [("a", "real", 3), ("b", "real", 3), ("c", "swap", 4), ("d", "warp", 8)]


class Settings:
    """Frames are shown as they are stored."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    interpolation = "bilinear"
    antialias = True

    def __init__(self, image_size=SIZE, transform=None, augmentation="none"):
        self.image_size = image_size
        self.augmentation = augmentation
        self.given_transform = transform

    def transform(self):
        return self.given_transform

    def sample(self, stored):
        return stored


def rows(n, video, method, split="train"):
    label = int(method != "real")
    row = {
        "dataset": "toy",
        "split": split,
        "track": 0,
        "cluster": video,
        "identity": video,
        "source": "donor" if label else "",
        "method": method,
        "label": label,
        "landmarks": [10, 12, 26, 12, 18, 18, 13, 26, 24, 26],
        "crop_box": [0, 0, SIZE, SIZE],
        "scale": 1.0,
    }
    return [{**row, "frame": 10 * i} for i in range(n)]


def pixels(video, method, n, seed=0):
    """Crops and masks of a video."""
    draw = np.random.default_rng([seed, ord(video)])
    crops = draw.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
    if method == "real":
        return crops, None
    return crops, draw.random((n, SIZE, SIZE)) > 0.7


def write(folder, videos=VIDEOS, seed=0, originals=None):
    """Write the dataset and return its record."""
    for video, method, n in videos:
        crops, masks = pixels(video, method, n, seed)
        place = folder / "videos" / method / video
        write_video(place, rows(n, video, method), crops, masks)
    return write_dataset(folder, {"made": "by a test"}, originals)


def table(folder, videos=VIDEOS):
    """The frames of the dataset: 6 real, 4 swap, 8 warp."""
    write(folder, videos)
    return load_frames(folder)
