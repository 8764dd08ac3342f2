"""Small networks of the papers and a batch for them, shared by their tests."""

import torch

from dfnb import papers

SMALL = {
    "locate_and_verify": {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16},
    "exposing_the_deception": {"branches": 3, "fusion_widths": (16, 16, 12)},
    "lae": {"decoder_widths": (16, 8, 8), "adversary_widths": (8, 8), "perceptual_weight": 0.0},
    "self_blended_images": {"dropout": 0.0, "drop_path": 0.0},
}


def recipe(paper, **changes):
    """Settings of a paper for the small backbone, with random weights."""
    values = {"backbone": "dfnb_plain7", "pretrained": False, "image_size": 96}
    values.update(SMALL.get(paper, {}))
    values.update(changes)
    return papers.module(paper).Settings(**values)


def small(paper, **changes):
    """A small network of a paper."""
    return papers.module(paper).Network(recipe(paper, **changes))


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
