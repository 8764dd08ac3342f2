"""Small networks of the papers and a batch for them, shared by their tests."""

import pandas as pd
import torch

from dfnb import papers
from dfnb.papers import backbones

# Eyes, nose tip and mouth corners in shares of the image's side.
FACE = torch.tensor([[0.35, 0.35], [0.65, 0.35], [0.5, 0.5], [0.4, 0.7], [0.6, 0.7]])


def small_settings(module, **changes):
    """Settings of a paper's module for the small backbone, with random weights."""
    values = {"backbone": backbones.SMALL, "pretrained": False, "image_size": 96}
    return module.Settings(**{**values, **module.PAPER.small, **changes})


def recipe(paper, **changes):
    """The same of a paper by its name."""
    return small_settings(papers.module(paper), **changes)


def small(paper, **changes):
    """A small network of a paper."""
    return papers.module(paper).Network(recipe(paper, **changes))


def frames_table(paths, labels):
    """A frames table of crops, each of which counts as a video."""
    names = [str(number) for number in range(len(paths))]
    table = pd.DataFrame({"video": names, "track": 0, "frame": 0, "cluster": names})
    return table.assign(label=labels, method="", path=paths, mask="", landmarks=None)


def batch_of(n=4, size=96, **changes):
    """Noise; every second image is fake, its upper half forged."""
    label = torch.arange(n) % 2
    mask = torch.zeros(n, 1, size, size)
    mask[label == 1, :, : size // 2] = 1
    batch = {
        "image": torch.randn(n, 3, size, size),
        "label": label,
        "mask": mask,
        "has_mask": torch.ones(n, dtype=torch.bool),
        "landmarks": torch.full((n, 5, 2), torch.nan),
        "epoch": 0,
        "partner": None,
        "weight": 1.0,
    }
    return {**batch, **changes}
