"""Attribution maps, (h, w) in [0, 1], one per frame: which pixels speak for fake.

A map's height and width are those of the input images (H, W), except where a paper's own network
makes the map: then they can be smaller.

The methods here explain any network. A paper declares its own maps in ``Network.maps``; nothing
here depends on a paper.
"""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb.data.loading import in_order
from dfnb.papers import backbones
from dfnb.papers.contract import Network, outputs_of
from dfnb.runs import Run
from dfnb.scoring import DEVICE, single_thread
from dfnb.seeds import rng
from dfnb.settings import DfnbError

AT_ONCE = 8  # frames per batch, fewer than for scores because gradients need memory


def evidence(network: Network, images: Tensor) -> Tensor:
    """The number that maps explain: log(P(fake) / P(real)), (n,), of images (n, 3, H, W).

    P(fake) itself would not do, because its gradient vanishes where a detector is sure.
    """
    log_odds = network.log_odds(network(images))
    return log_odds.to(images.dtype)  # log_odds computes in float64


class Unmeasurable(DfnbError):
    """A network has no such map on these frames, or a dataset no frame to measure it on."""


# ---------------------------------------------------------------- methods


def grad_cam(network: Network, images: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM of the log-odds (Selvaraju et al., ICCV 2017, eq. 1-2).

    It uses the last feature map computed within ``layer`` that has more than one position and an
    effect on the decision. captum's LayerGradCam gives the same, but needs the name of the layer.
    What counts as a feature map: :func:`as_feature_map`.

    For the channels A_k (n, h, w) of that feature map and the log-odds s, the map is
    ReLU(sum over k of α_k A_k), where α_k is the mean of ∂s/∂A_k over the positions.

    Args:
        network: A detector.
        images: (n, 3, H, W), normalised, H = W.
        layer: A part of the network; by default the whole or, of a vision transformer, the first
            norm of its last block, because after that block the class token alone may count.

    Returns:
        Maps (n, H, W), 0 or more, enlarged bilinearly from (n, h, w); not yet scaled to [0, 1].

    Raises:
        Unmeasurable: The layer has no such feature map.
    """
    transformer = vision_transformer(network)
    patch = None
    if transformer is not None:
        patch = backbones.patch_side(transformer)
        layer = layer or getattr(transformer.blocks[-1], "norm1", transformer.blocks[-1])
    to_map = partial(as_feature_map, size=images.shape, patch=patch)
    all_features = []  # tensors, in the order in which they are computed
    parts = set((layer or network).modules())  # the layer itself and all within it

    def remember(part: nn.Module, inputs: tuple, output: object) -> None:
        """Keep what a part of the layer returns, if it is a feature map; called after each part."""
        is_watched = part in parts and isinstance(output, Tensor) and output.requires_grad
        if is_watched and to_map(output) is not None:
            all_features.append(output)

    # Outputs of frozen layers then have gradients, too.
    watched_images = images.clone().requires_grad_()
    # This hook is called after every module of the process, hence the test for ``parts``. Which
    # feature map is the last is known only after the pass.
    with nn.modules.module.register_module_forward_hook(remember):
        # The gradient of the sum is that of each image, as images do not influence each other.
        log_odds = evidence(network, watched_images).sum()
    for features in reversed(all_features):
        (gradient,) = torch.autograd.grad(
            log_odds,
            features,
            retain_graph=True,  # for the next feature map, if this one has no effect
            allow_unused=True,  # None instead of an error
        )
        if gradient is not None:  # else these features have no effect on the decision
            weights = to_map(gradient).mean((2, 3), keepdim=True)  # (n, channels, 1, 1): α_k, eq. 1
            weighted_sum = (weights * to_map(features)).sum(1, keepdim=True)
            maps = weighted_sum.relu().detach()  # ReLU(Σ_k α_k A_k), eq. 2
            resized = F.interpolate(maps, images.shape[2:], mode="bilinear")
            return resized[:, 0]
    raise Unmeasurable(
        "this part of the network has no map with an effect on the decision; choose another layer"
    )


def vision_transformer(network: nn.Module) -> nn.Module | None:
    """The first part of a network with timm's ``patch_embed`` and ``blocks``; None: there is none.

    Transformers that keep one token per patch in all blocks have both. Swin, whose maps shrink, has
    no such part. Hiera has one although it pools its tokens: :func:`as_feature_map` refuses them.
    """
    for part in network.modules():
        if hasattr(part, "blocks") and hasattr(part, "patch_embed"):
            return part
    return None


def as_feature_map(features: Tensor, size: Sequence[int], patch: int | None) -> Tensor | None:
    """A layer's output as a feature map (n, channels, s, s) with s > 1; None where it is not one.

    Args:
        features: A map with the channels first or last, (n, s, s, channels), as Swin's; or tokens
            (n, N, channels). The last tokens are the patches, row by row. Those before them, such
            as class and register tokens, have no position and are left out.
        size: The shape of the images, (n, 3, H, H).
        patch: The side of a patch in pixels; None: the network has no tokens on a grid.
    """
    n, _, height, _ = size
    if patch and features.ndim == 3:
        side = height // patch  # patches per row, and rows of patches
        if features.shape[1] < side**2:  # too few tokens: not one per patch
            return None
        features = features[:, -(side**2) :].unflatten(1, (side, side))
    # The first axis is not n where Swin computes attention: it counts windows, several per image.
    if features.ndim != 4 or len(features) != n:
        return None
    _, first, second, last = features.shape
    if first == second != last:  # (n, s, s, channels): the channels are last
        features = features.permute(0, 3, 1, 2)
    is_map = features.shape[2] == features.shape[3] > 1
    return features if is_map else None


def integrated_gradients(network: Network, images: Tensor) -> Tensor:
    """Integrated Gradients from one colour in 24 steps (Sundararajan et al., ICML 2017).

    For an image x, the image x' of zeros and the log-odds s, a pixel's value is
    (x - x') ∫ ∂s/∂x(x' + t (x - x')) dt for t from 0 to 1, summed over the three channels. The sum
    of a map is about s(x) - s(x').

    Images (n, 3, H, W), normalised, give maps (n, H, W) of positive and negative values.
    """
    from captum.attr import IntegratedGradients  # takes a second, and most processes need none

    # The baseline x' is captum's default of zeros: in normalised images the colour ``mean`` of the
    # settings, mostly grey. captum sends each of the 24 steps through the network as one batch; all
    # steps in one would need too much memory.
    method = IntegratedGradients(partial(evidence, network))
    attributions = method.attribute(
        images,
        n_steps=24,
        internal_batch_size=len(images),
    )
    return attributions.sum(1).detach()


def edges(network: Network, images: Tensor) -> Tensor:
    """How steeply the grey value changes at each pixel: a control.

    It ignores the network, so it must fail the sanity check; ``network`` is there only because all
    methods get it. Images (n, 3, H, W) give maps (n, H, W), 0 or more.
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

    Negative values, which speak for real, become 0. Each map is divided by its own maximum, so it
    shows where, not how much; it is zero everywhere if nothing speaks for fake. The output of
    ``Network.localise`` is not divided: its values in [0, 1] mean something, such as P(forged).

    Args:
        network: A detector, in evaluation mode.
        images: (n, 3, H, W), normalised, on the device of the network.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``, where a paper declares how each of
            its maps is made: "localise", the name of a layer, or a tuple of maps (their maximum).

    Raises:
        DfnbError: The network has no map of this name.
    """
    declared = network.maps().get(name)  # by the paper; None: a method of this module
    if isinstance(declared, tuple):  # the map is the maximum of these maps
        parts = [compute(network, images, part) for part in declared]
        return np.max(parts, axis=0)  # pixel by pixel
    if declared == "localise":
        outputs = outputs_of(network, images)
        return network.localise(outputs).cpu().numpy()
    if declared:  # the name of a layer
        values = grad_cam(network, images, network.get_submodule(declared))
    elif name in EXPLAINERS:
        values = EXPLAINERS[name](network, images)
    else:
        # "random" needs no network, so the caller of this function makes it.
        available = ", ".join([*network.maps(), *EXPLAINERS, "random"])
        raise DfnbError(f"the network has no map {name!r}; it has {available}")
    positive = values.clamp(min=0)
    highest = positive.amax((1, 2), keepdim=True)
    scaled = positive / highest.clamp(min=1e-12)  # a map of zeros stays zero; 0 / 0 would be NaN
    return scaled.cpu().numpy()


def random(frames: pd.DataFrame, side: int) -> np.ndarray:
    """Maps of 8 × 8 random blocks for the rows of a frames table: a control that shows chance.

    Blocks rather than pixels, since most maps are coarse, too. Video, track and frame are the seed
    of a map, so a frame has the same one for every detector. ``side`` is that of the maps in
    pixels; returns (n, side, side) in [0, 1].
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
    """The maps (n, h, w) in [0, 1] of a run for the rows of a frames table, see :func:`compute`.

    The values are rounded to half precision: pixels that differ only by the rounding of a processor
    nearly always become equal, so their order is the same on every machine.

    Args:
        run: A finished training.
        frames: The table.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``, or ``random``.
        network: The network to explain, in evaluation mode; it is moved to DEVICE. By default that
            of the run. The sanity check passes one with random weights.
    """
    if name == "random":
        maps = random(frames, run.settings.image_size)
    else:
        network = (network or run.network()).to(DEVICE)
        batches = []
        for batch in in_order(frames, run.settings, AT_ONCE):  # frames as stored, not augmented
            images = batch["image"].to(DEVICE)
            batches.append(compute(network, images, name))
        maps = np.concatenate(batches)
    return maps.astype(np.float16).astype(np.float32)
