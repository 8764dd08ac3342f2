"""Where a detector looks: maps (n, H, W) in [0, 1] for frames, from captum."""

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F


def grad_cam(network: nn.Module, images: Tensor, layer: nn.Module | None = None) -> np.ndarray:
    """Grad-CAM of the logit of P(fake) (Selvaraju et al., ICCV 2017, eq. 1-2).

    Images (n, 3, H, W), normalised, to maps (n, H, W) in [0, 1], each divided by its own maximum; a map without any
    positive evidence is zero throughout. ``layer`` defaults to the last one whose output is a map.
    """

    def evidence(batch: Tensor) -> Tensor:
        return torch.logit(network.score(network(batch)), eps=1e-6)[:, None]

    cam = LayerGradCam(evidence, layer or last_map(network, images[:1]))
    with torch.enable_grad():
        maps = cam.attribute(images.clone().requires_grad_(), target=0, relu_attributions=True).detach()
    maps = F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()


@torch.no_grad()
def last_map(network: nn.Module, image: Tensor) -> nn.Module:
    """The last layer of a network, in the order of execution, that puts out a map larger than one position."""
    found: list[nn.Module] = []

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1
        if is_map and not getattr(layer, "inplace", False):
            found.append(layer)

    leaves = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in leaves]
    network(image)
    for hook in hooks:
        hook.remove()
    return found[-1]
