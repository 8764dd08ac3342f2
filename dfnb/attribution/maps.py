"""Maps of what speaks for fake: one (h, w) in [0, 1] per frame.

The methods here explain any network. A paper declares maps of its own in ``Network.maps``; nothing
here knows a paper.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from captum.attr import FeatureAblation, IntegratedGradients
from skimage.segmentation import slic
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb.data.loading import in_order
from dfnb.papers.contract import Network, Settings, outputs_of
from dfnb.runs import Run
from dfnb.scoring import DEVICE, single_thread
from dfnb.seeds import rng
from dfnb.settings import DfnbError

PIXELS = 600_000  # of the images explained at once: 65 of 96², 6 of 299²


def evidence(network: Network) -> Callable[[Tensor], Tensor]:
    """The number that maps explain: images (n, 3, H, W) to the log-odds of fake, (n,).

    P(fake) itself would not do, because its gradient vanishes where a detector is sure.
    """

    def log_odds(images: Tensor) -> Tensor:
        outputs = network(images)
        return network.log_odds(outputs).to(images.dtype)

    return log_odds


# ---------------------------------------------------------------- methods


def grad_cam(network: Network, images: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM of the log-odds (Selvaraju et al., ICCV 2017, eq. 1-2).

    It is taken at the last map within ``layer`` that has more than one position and changes the
    decision. captum's LayerGradCam gives the same, but has to be told the layer.

    Args:
        network: A detector.
        images: (n, 3, H, W), normalised.
        layer: A part of the network; by default the whole.

    Returns:
        Maps (n, H, W), 0 or more.

    Raises:
        DfnbError: The layer has no such map.
    """
    outputs: list[Tensor] = []
    parts = set((layer or network).modules())

    def remember(part: nn.Module, inputs: tuple, output: object) -> None:
        if part in parts and _is_map(output):
            outputs.append(output)

    watched_images = images.clone().requires_grad_()
    with nn.modules.module.register_module_forward_hook(remember):
        log_odds = evidence(network)(watched_images).sum()
    for output in reversed(outputs):
        (gradient,) = torch.autograd.grad(
            log_odds,
            output,
            retain_graph=True,
            allow_unused=True,
        )
        if gradient is not None:  # else the map lies beside the way to the decision
            weights = gradient.mean((2, 3), keepdim=True)  # α_k, eq. 1
            weighted_sum = (weights * output).sum(1, keepdim=True)
            maps = weighted_sum.relu().detach()  # ReLU(Σ_k α_k A_k), eq. 2
            size = images.shape[-2:]
            resized = F.interpolate(maps, size, mode="bilinear")
            return resized[:, 0]
    raise DfnbError(
        "this part of the network has no map with an effect on the decision; choose another layer"
    )


def _is_map(output: object) -> bool:
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    height, width = output.shape[-2:]
    return output.requires_grad and height > 1 and width > 1


def integrated_gradients(network: Network, images: Tensor) -> Tensor:
    """Integrated Gradients from grey in 24 steps (Sundararajan et al., ICML 2017).

    Images (n, 3, H, W) to maps (n, H, W), summed over the channels. The sum over a frame is the
    log-odds of the frame minus those of a grey one.
    """
    method = IntegratedGradients(evidence(network))
    attributions = method.attribute(
        images,
        n_steps=24,
        internal_batch_size=len(images),
    )
    return attributions.sum(1).detach()


def superpixels(network: Network, images: Tensor) -> Tensor:
    """The log-odds lost when one superpixel at a time is made grey (feature ablation).

    Images (n, 3, H, W) to maps (n, H, W).
    """
    feature_mask = segments(images).expand_as(images)
    method = FeatureAblation(evidence(network))
    attributions = method.attribute(images, feature_mask=feature_mask)
    return attributions.mean(1)


def segments(images: Tensor) -> Tensor:
    """About 64 superpixels of each image (n, 3, H, W), numbered from 0: (n, 1, H, W) int64.

    SLIC: Achanta et al., TPAMI 2012.
    """
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    numbers = []
    for picture in pictures:
        of_picture = slic(picture, n_segments=64, sigma=1, start_label=0)
        numbers.append(of_picture)
    segmented = torch.from_numpy(np.stack(numbers))
    return segmented[:, None].long().to(images.device)


def edges(network: Network, images: Tensor) -> Tensor:
    """The gradient of the grey value: a control that ignores the network.

    The sanity test must find that it does. Images (n, 3, H, W) to maps (n, H, W).
    """
    grey = images.mean(1)
    gradients = torch.gradient(grey, dim=(1, 2))
    return torch.linalg.vector_norm(torch.stack(gradients), dim=0)


EXPLAINERS = {
    "Grad-CAM": grad_cam,
    "Integrated Gradients": integrated_gradients,
    "superpixels": superpixels,
    "edges": edges,
}
METHODS = (*EXPLAINERS, "random")


# ---------------------------------------------------------------- maps of frames


def compute(network: Network, images: Tensor, name: str) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of images: what speaks for fake, divided by its maximum.

    A map is zero throughout where nothing speaks for fake. A paper's ``localise`` is taken as it
    is.

    Args:
        network: A detector, in evaluation mode.
        images: (n, 3, H, W), normalised, on the device of the network.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``.

    Raises:
        DfnbError: The network has no map of this name.
    """
    declared = network.maps().get(name)  # by the paper
    if isinstance(declared, tuple):
        parts = [compute(network, images, part) for part in declared]
        return np.max(parts, axis=0)
    if declared == "localise":
        outputs = outputs_of(network, images)
        return network.localise(outputs).cpu().numpy()
    if declared:
        values = grad_cam(network, images, network.get_submodule(declared))
    elif name in EXPLAINERS:
        values = EXPLAINERS[name](network, images)
    else:
        available = ", ".join([*network.maps(), *METHODS])
        raise DfnbError(f"the network has no map {name!r}; it has {available}")
    return _scaled(values).cpu().numpy()


def _scaled(values: Tensor) -> Tensor:
    positive = values.clamp(min=0)
    highest = positive.amax((1, 2), keepdim=True)
    return positive / highest.clamp(min=1e-12)


def at_once(settings: Settings) -> int:
    """How many frames are explained together."""
    pixels_per_frame = settings.image_size**2
    return max(1, PIXELS // pixels_per_frame)


@single_thread()
def explain(
    network: Network,
    settings: Settings,
    frames: pd.DataFrame,
    name: str,
) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a network for the rows of a frames table.

    ``name`` is one of :data:`METHODS` or of ``network.maps()``.
    """
    if name == "random":
        return random(frames, settings.image_size)
    network = network.to(DEVICE)
    maps = []
    for batch in in_order(frames, settings, at_once(settings)):
        images = batch["image"].to(DEVICE)
        maps.append(compute(network, images, name))
    return np.concatenate(maps)


def random(frames: pd.DataFrame, side: int) -> np.ndarray:
    """Random blocks, 8 by 8, for each row of a frames table: a control that shows chance.

    The maps (n, side, side) in [0, 1] are drawn from video, track and frame.
    """
    draws = []
    for key in zip(frames["video"], frames["track"], frames["frame"]):
        draw = rng("random map", *key)
        blocks = draw.random((1, 8, 8))
        draws.append(blocks)
    small = torch.from_numpy(np.stack(draws)).float()
    maps = F.interpolate(small, (side, side), mode="nearest")
    return _scaled(maps[:, 0]).numpy()


@torch.inference_mode(False)  # a panel is drawn without gradients, which maps need
def of(run: Run, frames: pd.DataFrame, name: str) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a run for the rows of a frames table.

    They are float32 numbers of half precision, so that what the arithmetic of another processor
    changes in the last digits decides no tie.
    """
    maps = explain(run.network(), run.settings, frames, name)
    return maps.astype(np.float16).astype(np.float32)
