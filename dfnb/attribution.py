"""Where a detector looks: maps (n, H, W) in [0, 1] for frames, from captum."""

from collections.abc import Callable

import numpy as np
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
