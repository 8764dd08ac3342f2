"""Maps of what speaks for fake: one (h, w) in [0, 1] per frame.

The methods here explain any network. A paper declares maps of its own in ``Network.maps``; nothing
here knows a paper.
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

AT_ONCE = 8  # so many frames are explained together


def evidence(network: Network, images: Tensor) -> Tensor:
    """The number that maps explain: of images (n, 3, H, W) the log-odds of fake, (n,).

    P(fake) itself would not do, because its gradient vanishes where a detector is sure.
    """
    log_odds = network.log_odds(network(images))
    return log_odds.to(images.dtype)


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
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1
        if part in parts and is_map and output.requires_grad:
            outputs.append(output)

    watched_images = images.clone().requires_grad_()
    with nn.modules.module.register_module_forward_hook(remember):
        log_odds = evidence(network, watched_images).sum()
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
            resized = F.interpolate(maps, images.shape[2:], mode="bilinear")
            return resized[:, 0]
    raise DfnbError(
        "this part of the network has no map with an effect on the decision; choose another layer"
    )


def integrated_gradients(network: Network, images: Tensor) -> Tensor:
    """Integrated Gradients from grey in 24 steps (Sundararajan et al., ICML 2017).

    Images (n, 3, H, W) to maps (n, H, W), summed over the channels. The sum over a frame is the
    log-odds of the frame minus those of a grey one.
    """
    method = IntegratedGradients(partial(evidence, network))
    attributions = method.attribute(
        images,
        n_steps=24,
        internal_batch_size=len(images),
    )
    return attributions.sum(1).detach()


def edges(network: Network, images: Tensor) -> Tensor:
    """The gradient of the grey value: a control that ignores the network.

    The sanity test must find that it does. Images (n, 3, H, W) to maps (n, H, W).
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
        available = ", ".join([*network.maps(), *EXPLAINERS, "random"])
        raise DfnbError(f"the network has no map {name!r}; it has {available}")
    positive = values.clamp(min=0)
    highest = positive.amax((1, 2), keepdim=True)
    scaled = positive / highest.clamp(min=1e-12)
    return scaled.cpu().numpy()


def random(frames: pd.DataFrame, side: int) -> np.ndarray:
    """Random blocks, 8 by 8, for each row of a frames table: a control that shows chance.

    The maps (n, side, side) in [0, 1] are drawn from video, track and frame.
    """
    maps = []
    for key in zip(frames["video"], frames["track"], frames["frame"]):
        blocks = rng("random map", *key).random((8, 8))
        scaled = blocks / blocks.max()
        frame_map = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_NEAREST)
        maps.append(frame_map)
    return np.stack(maps)


@torch.inference_mode(False)  # a panel is drawn without gradients, which maps need
@single_thread()
def of(
    run: Run,
    frames: pd.DataFrame,
    name: str,
    network: Network | None = None,
) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a run for the rows of a frames table.

    They are float32 numbers of half precision, so that what the arithmetic of another processor
    changes in the last digits decides no tie.

    Args:
        run: A finished training.
        frames: The table.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``, or ``random``.
        network: Is explained in place of the run's own network.
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
