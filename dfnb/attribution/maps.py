"""Attribution maps, (h, w) in [0, 1], one per frame: which pixels speak for fake.

A map's height and width are those of the input images (H, W), except where a paper's own network
makes the map: then they can be smaller.

The methods here explain any module that returns logits. A paper declares its own maps in
``Network.maps``; nothing here depends on a paper.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb.data.loading import Read, in_order
from dfnb.device import DEVICE, fixed_threads, to_numpy
from dfnb.papers import backbones
from dfnb.papers.contract import Network, outputs_of
from dfnb.training.runs import Run
from facesets.checks import TITLE, DfnbError, check_name
from facesets.frames import read_crop
from facesets.seeds import rng

AT_ONCE = 8  # frames per batch, fewer than for scores because gradients need memory


def evidence(network: nn.Module, images: Tensor) -> Tensor:
    """The number that maps explain: log(P(fake) / P(real)), (n,), of images (n, 3, H, W).

    P(fake) itself would not do, because its gradient vanishes where a detector is sure. Raises
    :class:`DfnbError` for outputs of another shape than :func:`logits` says.
    """
    # A copy, because a network may change its input in place: torch forbids that where gradients
    # begin.
    values = logits(network, images.clone())
    count = len(images)
    if count == 1 and isinstance(values, Tensor):  # squeeze() at a network's end leaves no batch
        values = values.reshape(1, -1)
    shape = tuple(getattr(values, "shape", ()))
    if shape in ((count,), (count, 1)):
        return values.flatten()
    if shape == (count, 2):
        return values[:, 1] - values[:, 0]
    raise DfnbError(
        f"the detector returns {type(values).__name__} of shape {shape} for {count} images; return "
        "logits: (B,) or (B, 1) of being fake, or (B, 2), real first"
    )


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """The logits of images (n, 3, H, W); for a paper's network, its log-odds (n,).

    Any other module should return logits: (n,) or (n, 1) of being fake, or (n, 2), real first. It
    may also return a dict or an object that has them as ``logits`` or ``cls``. Shapes are not
    checked here.
    """
    outputs = network(images)
    if isinstance(network, Network):
        return network.log_odds(outputs).to(images.dtype)  # log_odds computes in float64
    if isinstance(outputs, Mapping):
        outputs = SimpleNamespace(**outputs)
    return getattr(outputs, "logits", getattr(outputs, "cls", outputs))


# ---------------------------------------------------------------- methods


def _with_gradients(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a method compute gradients for callers in inference mode, too."""

    @wraps(method)
    @torch.inference_mode(False)
    def wrapped(network: nn.Module, images: Tensor, *rest: Any, **named: Any) -> Tensor:
        return method(network, images.detach().clone(), *rest, **named)

    return wrapped


@_with_gradients
def grad_cam(network: nn.Module, images: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM of the log-odds at a layer (Selvaraju et al., ICCV 2017, eq. 1-2), by captum.

    For the channels A_k (n, h, w) of the layer's output and the log-odds s, the map is
    ReLU(sum over k of α_k A_k), where α_k is the mean of ∂s/∂A_k over the positions. It is zero if
    the output has no effect on s.

    Args:
        network: A detector, see :func:`evidence`.
        images: (n, 3, H, W), normalised, H = W.
        layer: The part of the network at which the map is taken. If it contains a timm backbone,
            the map is taken at the backbone's last feature map instead, see
            :func:`dfnb.papers.backbones.last_map`. None: the backbone is looked for in the whole
            network. :func:`pass_through` says what a layer may return. If it is called several
            times, the last output counts.

    Returns:
        Maps (n, H, W), 0 or more, enlarged bilinearly from (n, h, w); not yet scaled to [0, 1].

    Raises:
        DfnbError: The layer returns no such map; there is neither a layer nor a backbone; or the
            images are not square.
    """
    from captum.attr import LayerGradCam  # takes a second, and most processes need none

    height, width = images.shape[-2:]
    if height != width:  # pass_through recognises layouts by equal sides
        raise DfnbError(f"Grad-CAM needs square images, not {height} × {width}; resize them")
    # last_map gives None where there is no backbone: then the map is that of the layer itself.
    layer = backbones.last_map(network if layer is None else layer) or layer
    if layer is None:
        raise DfnbError(
            f"{type(network).__name__} does not say which layer makes its last feature map: name "
            "it as layer=, such as 'layer4' for a ResNet of torchvision"
        )
    grid = nn.Identity()  # the layer that captum observes: its output has the channels first

    def show_to_captum(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        return pass_through(grid, output)  # what a hook returns replaces the layer's output

    method = LayerGradCam(partial(evidence, network), grid)
    with layer.register_forward_hook(show_to_captum):
        zeros = {"materialize_grads": True}  # for an output without effect, instead of an error
        images.requires_grad_()  # where the layer is frozen, gradients begin here
        maps = method.attribute(images, relu_attributions=True, grad_kwargs=zeros)
    return F.interpolate(maps.detach(), images.shape[2:], mode="bilinear")[:, 0]


def pass_through(grid: nn.Module, output: Tensor) -> Tensor:
    """Pass the map in a layer's output through ``grid``, and return the output in its own layout.

    ``grid`` changes nothing: captum observes it, to see every map in one layout. It gets (n,
    channels, s, s), as images are square. The output may be such a map; or (n, s, s, channels), as
    Swin's; or tokens (n, N, channels). The last s² tokens are the patches, row by row. Those before
    them, such as class and register tokens, have no position and do not pass. There must be fewer
    than 2s + 1 of them.
    """
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        kind = f"{type(output).__name__} {tuple(getattr(output, 'shape', ()))}"
        raise DfnbError(f"Grad-CAM needs a layer that returns a map, not {kind}")
    if output.ndim == 3:  # tokens
        side = math.isqrt(output.shape[1])
        others, patches = output.tensor_split([-(side**2)], dim=1)
        patches = pass_through(grid, patches.unflatten(1, (side, side)))
        return torch.cat([others, patches.flatten(1, 2)], 1)
    _, first, second, last = output.shape
    if first == second != last:  # the channels are last
        return grid(output.movedim(3, 1)).movedim(1, 3)
    return grid(output)


@_with_gradients
def integrated_gradients(network: nn.Module, images: Tensor) -> Tensor:
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


def edges(network: nn.Module, images: Tensor) -> Tensor:
    """How steeply the grey value changes at each pixel: a control.

    It ignores the network, so the sanity check
    (:func:`dfnb.attribution.measures.compare_with_random`) must find it *similar*; ``network`` is
    there only because all methods get it. Images (n, 3, H, W) give maps (n, H, W), 0 or more.
    """
    grey = images.mean(1)
    down, across = torch.gradient(grey, dim=(1, 2))
    return torch.hypot(down, across)


Explainer = Callable[[nn.Module, Tensor], Tensor]  # images (n, 3, H, W) to maps (n, h, w)
EXPLAINERS: dict[str, Explainer] = {
    "Grad-CAM": grad_cam,
    "Integrated Gradients": integrated_gradients,
    "edges": edges,
}


def register(name: str, explainer: Explainer) -> None:
    """Add a method of your own to the EXPLAINERS: :func:`compute` and notebook 08 know its name.

    Args:
        name: What tables call its maps.
        explainer: A function that takes a network in evaluation mode and images (n, 3, H, W),
            normalised, and returns maps (n, h, w); positive values speak for fake, and
            :func:`compute` scales them. :func:`evidence` is the number to explain.

    Raises :class:`DfnbError` for a name that tables cannot show, or that another method has.
    """
    check_name(name, "maps", TITLE)
    known = EXPLAINERS.get(name)
    # The same function again is no other one: a cell may be executed twice.
    if name == "random" or (known and known.__qualname__ != explainer.__qualname__):
        raise DfnbError(f"there is a map {name!r} already; choose another name")
    EXPLAINERS[name] = explainer


# ---------------------------------------------------------------- maps of frames


def measured_names(network: Network) -> list[str]:
    """The maps that are measured of each run of a paper: its own, and Grad-CAM.

    Grad-CAM is left out if the network has no backbone whose last map is known.
    """
    own_maps = list(network.maps())
    return [*own_maps, "Grad-CAM"] if backbones.last_map(network) else own_maps


def compute(
    network: nn.Module,
    images: Tensor,
    name: str = "Grad-CAM",
    layer: str | None = None,
    signed: bool = False,
) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of images: what speaks for fake, divided by its maximum.

    Negative values, which speak for real, become 0. Each map is divided by its own maximum, so it
    shows where, not how much; it is zero everywhere if nothing speaks for fake. The output of
    ``Network.localise`` is not divided: its values in [0, 1] mean something, such as P(forged).

    Args:
        network: A paper's network or any other detector, see :func:`evidence`, in evaluation mode.
        images: (n, 3, H, W), normalised, on the device of the network; H = W for Grad-CAM.
        name: One of :data:`EXPLAINERS` or of ``network.maps()``, where a paper declares how each of
            its maps is made.
        layer: The name of the part of the network at which Grad-CAM is taken, see :func:`grad_cam`.
        signed: Whether negative values stay. A map is then divided by its highest absolute value,
            and is in [-1, 1]; of the EXPLAINERS, only Integrated Gradients has negative values.

    Raises:
        DfnbError: The layer or the images are unfit for Grad-CAM, or there is a layer for another
            map.
        KeyError: The network has no map of this name.

    Example::

        >>> import timm, torch
        >>> network = timm.create_model("test_resnet", num_classes=2).eval()
        >>> compute(network, torch.randn(4, 3, 96, 96), layer="layer4").shape
        (4, 96, 96)
    """
    if layer and name != "Grad-CAM":
        raise DfnbError(f"layer={layer!r} is for Grad-CAM alone, and the map is {name!r}; omit it")
    declared = network.maps() if isinstance(network, Network) else {}
    # "localise", the name of a layer, a tuple of maps or a function; None: made by a method here.
    origin = declared.get(name)
    if isinstance(origin, tuple):  # the map is the maximum of these maps
        parts = [compute(network, images, part) for part in origin]
        return np.max(parts, axis=0)  # pixel by pixel
    if origin == "localise":
        outputs = outputs_of(network, images)
        return to_numpy(network.localise(outputs))
    layer = layer or (None if callable(origin) else origin)
    if layer:
        values = grad_cam(network, images, network.get_submodule(layer))
    else:
        explainer = origin if callable(origin) else EXPLAINERS[name]
        values = explainer(network, images)
    values = to_numpy(values if signed else values.clamp(min=0))
    highest = np.abs(values).max((1, 2), keepdims=True)
    return values / np.maximum(highest, 1e-12)  # a map of zeros stays zero; 0 / 0 would be NaN


def random(frames: pd.DataFrame, side: int) -> np.ndarray:
    """Maps of 8 × 8 random blocks for the rows of a frames table: a control that shows chance.

    Blocks rather than pixels, since most maps are coarse, too. Video, track and frame are the seed
    of a map, so a frame has the same one for every detector. ``side`` is that of the maps in
    pixels; returns (n, side, side) in [0, 1].
    """
    maps = []
    for key in zip(frames["video"], frames["track"], frames["frame"]):
        blocks = rng("random map", *key).random((8, 8))
        maps.append(cv2.resize(blocks, (side, side), interpolation=cv2.INTER_NEAREST))
    maps = np.stack(maps)
    return maps / maps.max((1, 2), keepdims=True)  # the highest value is 1, as in other maps


@torch.inference_mode(False)  # maps need gradients, also for callers in inference mode
@fixed_threads()
def of(
    run: Run,
    frames: pd.DataFrame,
    name: str,
    network: Network | None = None,
    read: Read = read_crop,
    signed: bool = False,
) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a run for the rows of a frames table, see :func:`compute`.

    The values are rounded to half precision: pixels that differ only by the rounding of a processor
    nearly always become equal, so their order is nearly always the same on every machine.

    Args:
        run: A finished training.
        frames: The table.
        name: A map's name, see :func:`compute`, or ``random``.
        network: The network to explain, in evaluation mode; it is moved to DEVICE. By default that
            of the run. The sanity check passes random ones.
        read: Reads a crop.
        signed: As of :func:`compute`.
    """
    if name == "random":
        maps = random(frames, run.settings.image_size)
    else:
        network = (network or run.network()).to(DEVICE)
        # Frames as stored, not augmented.
        batches = in_order(frames, run.settings, AT_ONCE, read=read, device=DEVICE)
        maps = [compute(network, batch["image"], name, signed=signed) for batch in batches]
        maps = np.concatenate(maps)
    return maps.astype(np.float16).astype(np.float32)
