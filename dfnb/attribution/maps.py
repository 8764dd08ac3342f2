"""Attribution maps: which pixels of a frame speak for fake. A frame has one (h, w) in [0, 1].

The methods here explain any network. A paper declares its own maps in ``Network.maps``; nothing
here depends on a paper.
"""

from functools import partial

import cv2
import numpy as np
import pandas as pd
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb.data.loading import in_order
from dfnb.papers.contract import Network, outputs_of
from dfnb.runs import Run
from dfnb.scoring import DEVICE, single_thread
from dfnb.seeds import rng
from dfnb.settings import DfnbError

AT_ONCE = 8  # frames per batch, fewer than for scores because gradients need memory


def evidence(network: Network, images: Tensor) -> Tensor:
    """The number that maps explain: the log-odds of fake (n,) of images (n, 3, H, W).

    P(fake) itself would not do, because its gradient vanishes where a detector is sure.
    """
    log_odds = network.log_odds(network(images))
    return log_odds.to(images.dtype)  # from float64


# ---------------------------------------------------------------- methods


def grad_cam(network: Network, images: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM of the log-odds (Selvaraju et al., ICCV 2017, eq. 1-2).

    It uses the last feature map computed within ``layer`` that has more than one position and an
    effect on the decision. captum's LayerGradCam gives the same, but needs the name of the layer.

    Args:
        network: A detector.
        images: (n, 3, H, W), normalised.
        layer: A part of the network; by default the whole.

    Returns:
        Maps (n, H, W), 0 or more.

    Raises:
        DfnbError: The layer has no such feature map.
    """
    feature_maps: list[Tensor] = []  # in the order in which they are computed
    parts = set((layer or network).modules())

    def remember(part: nn.Module, inputs: tuple, output: object) -> None:
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1
        if part in parts and is_map and output.requires_grad:
            feature_maps.append(output)

    # Outputs of frozen layers then have gradients, too.
    watched_images = images.clone().requires_grad_()
    with nn.modules.module.register_module_forward_hook(remember):
        log_odds = evidence(network, watched_images).sum()
    for features in reversed(feature_maps):
        (gradient,) = torch.autograd.grad(
            log_odds,
            features,
            retain_graph=True,
            allow_unused=True,
        )
        if gradient is not None:  # else these features have no effect on the decision
            weights = gradient.mean((2, 3), keepdim=True)  # α_k, eq. 1
            weighted_sum = (weights * features).sum(1, keepdim=True)
            maps = weighted_sum.relu().detach()  # ReLU(Σ_k α_k A_k), eq. 2
            resized = F.interpolate(maps, images.shape[2:], mode="bilinear")
            return resized[:, 0]
    raise DfnbError(
        "this part of the network has no map with an effect on the decision; choose another layer"
    )


def integrated_gradients(network: Network, images: Tensor) -> Tensor:
    """Integrated Gradients from grey in 24 steps (Sundararajan et al., ICML 2017).

    Images (n, 3, H, W) give maps (n, H, W), which are sums over the channels. The sum of a map is
    about the log-odds of its image minus those of the grey image.
    """
    # The baseline is captum's default of zeros, which are grey in normalised images. A step is one
    # batch, because all steps together would need too much memory.
    method = IntegratedGradients(partial(evidence, network))
    attributions = method.attribute(
        images,
        n_steps=24,
        internal_batch_size=len(images),
    )
    return attributions.sum(1).detach()


def edges(network: Network, images: Tensor) -> Tensor:
    """The gradient of the grey value: a control.

    It ignores the network, so it must fail the sanity check. Images (n, 3, H, W) give maps
    (n, H, W).
    """
    grey = images.mean(1)
    down, across = torch.gradient(grey, dim=(1, 2))
    return torch.hypot(down, across)


EXPLAINERS = {
    "Grad-CAM": grad_cam,
    "Integrated Gradients": integrated_gradients,
    "edges": edges,
}


# ---------------------------------------------------------------- maps of frames


def compute(network: Network, images: Tensor, name: str) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of images: what speaks for fake, divided by its maximum.

    A map is zero everywhere if nothing speaks for fake. The output of ``Network.localise`` is not
    divided.

    Args:
        network: A detector, in evaluation mode.
        images: (n, 3, H, W), normalised, on the device of the network.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``.

    Raises:
        DfnbError: The network has no map of this name.
    """
    declared = network.maps().get(name)  # by the paper; None: a method of this module
    if isinstance(declared, tuple):  # the map is the maximum of these maps
        parts = [compute(network, images, part) for part in declared]
        return np.max(parts, axis=0)
    if declared == "localise":
        outputs = outputs_of(network, images)
        return network.localise(outputs).cpu().numpy()
    if declared:  # the name of a layer
        values = grad_cam(network, images, network.get_submodule(declared))
    elif name in EXPLAINERS:
        values = EXPLAINERS[name](network, images)
    else:
        available = ", ".join([*network.maps(), *EXPLAINERS, "random"])
        raise DfnbError(f"the network has no map {name!r}; it has {available}")
    positive = values.clamp(min=0)
    highest = positive.amax((1, 2), keepdim=True)
    scaled = positive / highest.clamp(min=1e-12)
    return scaled.cpu().numpy()


def random(frames: pd.DataFrame, side: int) -> np.ndarray:
    """Maps of 8 × 8 random blocks for the rows of a frames table: a control that shows chance.

    Video, track and frame are the seed of a map. Returns (n, side, side) in [0, 1].
    """
    maps = []
    for key in zip(frames["video"], frames["track"], frames["frame"]):
        blocks = rng("random map", *key).random((8, 8))
        scaled = blocks / blocks.max()
        frame_map = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_NEAREST)
        maps.append(frame_map)
    return np.stack(maps)


@torch.inference_mode(False)  # maps need gradients, also for callers in inference mode
@single_thread()
def of(
    run: Run,
    frames: pd.DataFrame,
    name: str,
    network: Network | None = None,
) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a run for the rows of a frames table.

    The float32 values are rounded to half precision: pixels that differ only by the rounding of a
    processor become equal, so their order is the same on every machine.

    Args:
        run: A finished training.
        frames: The table.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``, or ``random``.
        network: The network to explain; by default that of the run.
    """
    if name == "random":
        maps = random(frames, run.settings.image_size)
    else:
        network = (network or run.network()).to(DEVICE)
        batches = []
        for batch in in_order(frames, run.settings, AT_ONCE):
            images = batch["image"].to(DEVICE)
            batches.append(compute(network, images, name))
        maps = np.concatenate(batches)
    return maps.astype(np.float16).astype(np.float32)
