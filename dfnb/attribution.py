"""Where a detector looks: maps (n, H, W) in [0, 1] for frames, from captum."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F


def grad_cam(network: nn.Module, images: Tensor, layer: nn.Module | None = None) -> np.ndarray:
    """Grad-CAM of the logit of P(fake), the difference of the two logits (Selvaraju et al., ICCV 2017, eq. 1-2).

    Images (n, 3, H, W), normalised, to maps (n, H, W) in [0, 1], each divided by its own maximum; a map without any
    positive evidence is zero throughout. ``layer`` defaults to the last one whose output is a map.
    """

    def evidence(batch: Tensor) -> Tensor:
        real, fake = network(batch)["cls"].unbind(1)
        return (fake - real)[:, None]  # of the score itself the gradient vanishes where a detector is sure

    with torch.enable_grad():
        cam = LayerGradCam(evidence, layer or last_map(network, evidence, images[:1]))
        maps = cam.attribute(images.clone().requires_grad_(), target=0, relu_attributions=True).detach()
    maps = F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()


def branch_maps(network: nn.Module, images: Tensor) -> np.ndarray:
    """Grad-CAM of each branch of Exposing the Deception, of the fused output by the branch's own last map.

    Images (n, 3, H, W) to (branches, n, H, W) in [0, 1].
    """
    layers = [last_map(branch, lambda batch, b=branch: b(batch), images[:1]) for branch in network.branches]
    return np.stack([grad_cam(network, images, layer) for layer in layers])


def branch_likeness(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """How alike each two branches of Exposing the Deception are on images (n, 3, H, W); one row a pair, in [0, 1].

    ``CKA`` of their local features, 1 for the same up to rotation and scale (linear, Kornblith et al., ICML 2019, sec. 3;
    networks trained apart share no axes, so cosines between features would say nothing); ``map overlap``, the mean
    over images of Σ min / Σ max of their maps. An image for which neither has any evidence is left out.
    """
    parts = images.split(32)  # of a large network not all activations at once
    with torch.no_grad():
        local = torch.cat([network(part)["local"].double() for part in parts], 1)
    local -= local.mean(1, keepdim=True)
    maps = np.concatenate([branch_maps(network, part) for part in parts], axis=1)
    rows = {}
    for i, j in combinations(range(len(local)), 2):
        shared, own, others = (
            torch.linalg.norm(a.T @ b) for a, b in ((local[i], local[j]), (local[i],) * 2, (local[j],) * 2)
        )
        both = np.minimum(maps[i], maps[j]).sum((1, 2)), np.maximum(maps[i], maps[j]).sum((1, 2))
        overlap = both[0] / np.where(both[1] > 0, both[1], np.nan)
        rows[i + 1, j + 1] = {"CKA": (shared**2 / (own * others)).item(), "map overlap": float(np.nanmean(overlap))}
    return pd.DataFrame(rows).T


def last_map(network: nn.Module, evidence: Callable[[Tensor], Tensor], image: Tensor) -> nn.Module:
    """The last layer executed whose output is a map larger than one position and has an effect on ``evidence``."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1
        if is_map and output.requires_grad and not getattr(layer, "inplace", False):
            found.append((layer, output))

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in leaves]
    value = evidence(image).sum()
    for hook in hooks:
        hook.remove()
    effects = torch.autograd.grad(value, [output for _, output in found], allow_unused=True)
    return [layer for (layer, _), effect in zip(found, effects) if effect is not None][-1]


@torch.inference_mode()
def attention(network: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """LAE's own maps (n, h, w) in [0, 1], each divided by its maximum, and P(fake) (n,) of images (n, 3, H, W)."""
    outputs = network(images)
    return network.localise(outputs).numpy(), network.score(outputs).numpy()
