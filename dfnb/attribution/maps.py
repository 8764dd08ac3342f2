"""Maps of what speaks for fake: one (h, w) in [0, 1] per frame, by methods that explain any network, or by a paper's own.

A paper declares its own maps in ``Network.maps``; nothing here knows a paper. Maps are kept in
``runs/<id>/attribution``; a file's name holds a digest of all that the maps depend on.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from captum.attr import FeatureAblation, IntegratedGradients
from skimage.segmentation import slic
from torch import Tensor, nn
from torch.nn import functional as F

from dfnb import core, metrics, papers
from dfnb.data.frames import identity, in_order
from dfnb.train import DEVICE, Run

VERSION = 3  # raise it when a method gives other maps, or a measure other values
PIXELS = 600_000  # of the images explained at once: 65 of 96², 6 of 299²


def evidence(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The explained number: images (n, 3, H, W) to the logit of P(fake), (n,).

    P(fake) itself would not do: its gradient vanishes where a detector is sure.
    """
    return lambda images: network(images)["cls"].diff(dim=1)[:, 0]


def grad_cam(network: nn.Module, images: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM of the logit of P(fake) (Selvaraju et al., ICCV 2017, eq. 1-2): images (n, 3, H, W) to maps (n, H, W), ≥ 0.

    Taken at the last output within ``layer``, by default within the whole network, that is a map of more than one position
    and changes the decision; :class:`DfnbError` where there is none.
    """
    outputs: list[Tensor] = []

    def remember(layer: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1 and output.requires_grad:
            outputs.append(output)

    hooks = [part.register_forward_hook(remember) for part in (layer or network).modules()]
    logit = evidence(network)(images.clone().requires_grad_()).sum()
    for hook in hooks:
        hook.remove()
    for output in reversed(outputs):
        gradient = torch.autograd.grad(logit, output, retain_graph=True, allow_unused=True)[0]
        if gradient is not None:
            weights = gradient.mean((2, 3), keepdim=True)  # eq. 1
            maps = (weights * output).sum(1, keepdim=True).relu().detach()  # eq. 2
            return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    raise core.DfnbError("this part of the network has no map with an effect on the decision; choose another layer")


def integrated_gradients(network: nn.Module, images: Tensor) -> Tensor:
    """Integrated Gradients from grey (Sundararajan et al., ICML 2017), 24 steps, summed over channels: (n, H, W).

    The sum over a frame is the logit of the frame minus that of grey.
    """
    explained = IntegratedGradients(evidence(network)).attribute(images, n_steps=24, internal_batch_size=len(images))
    return explained.sum(1).detach()


def superpixels(network: nn.Module, images: Tensor) -> Tensor:
    """The logit lost when one superpixel is made grey, each in turn (feature ablation)."""
    return FeatureAblation(evidence(network)).attribute(images, feature_mask=segments(images).expand_as(images)).mean(1)


def segments(images: Tensor) -> Tensor:
    """About 64 superpixels of each image (n, 3, H, W) as numbers from 0, (n, 1, H, W) int64: SLIC (Achanta et al., TPAMI 2012)."""
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    labels = [slic(picture, n_segments=64, sigma=1, start_label=0) for picture in pictures]
    return torch.from_numpy(np.stack(labels)).long()[:, None].to(images.device)


def edges(network: nn.Module, images: Tensor) -> Tensor:
    """The gradient of the grey value, which ignores the network: a control that the sanity test must find."""
    return torch.linalg.vector_norm(torch.stack(torch.gradient(images.mean(1), dim=(1, 2))), dim=0)


def random(images: Tensor, keys: Sequence[tuple]) -> Tensor:
    """Random blocks, 8 by 8, drawn from the key (video, track, frame) of each image: a control that shows chance."""
    blocks = np.stack([core.rng("random map", *key).random((1, 8, 8)) for key in keys])
    return F.interpolate(torch.from_numpy(blocks).float().to(images.device), images.shape[-2:], mode="nearest")[:, 0]


EXPLAINERS = {"Grad-CAM": grad_cam, "Integrated Gradients": integrated_gradients, "superpixels": superpixels}
EXPLAINERS |= {"edges": edges}
METHODS = (*EXPLAINERS, "random")
CONTROLS = ("edges", "random")


def compute(network: papers.Network, images: Tensor, name: str, keys: Sequence[tuple] = ()) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of images (n, 3, H, W), normalised, on the network's device.

    What speaks for fake, divided by its maximum; zero throughout where nothing does. A paper's ``localise`` is taken as it
    is. ``keys`` are (video, track, frame) of each image, for the random control. Raises :class:`DfnbError` for an unknown map.
    """
    own = network.maps().get(name)
    if isinstance(own, tuple):
        return np.max([compute(network, images, part) for part in own], axis=0)
    if own == "localise":
        return network.localise(papers.outputs_of(network, images)).cpu().numpy()
    explainers = EXPLAINERS | {"random": lambda network, images: random(images, keys)}
    if own:
        explainers[name] = lambda network, images: grad_cam(network, images, network.get_submodule(own))
    if name not in explainers:
        raise core.DfnbError(f"the network has no map {name!r}; it has {', '.join([*network.maps(), *METHODS])}")
    values = explainers[name](network, images).clamp(min=0)
    return (values / values.amax((1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy()


def batches(frames: pd.DataFrame, settings: papers.Settings) -> Iterator[dict[str, Tensor]]:
    """The frames as a network sees them, as many at once as are explained together."""
    return in_order(frames, settings, max(1, PIXELS // settings.image_size**2))


def explain(network: papers.Network, settings: papers.Settings, frames: pd.DataFrame, name: str) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a network for the rows of a frames table."""
    keys = list(frames[metrics.KEY["frame"]].astype({"video": str}).itertuples(index=False, name=None))
    network, found = network.to(DEVICE), []
    for batch in batches(frames, settings):
        images = batch["image"].to(DEVICE)
        found += list(compute(network, images, name, keys[len(found) : len(found) + len(images)]))
    return np.stack(found)


def describe(run: Run, frames: pd.DataFrame) -> dict:
    """What maps of these rows depend on beside their name: the facts under which they and their measures are kept."""
    facts = {"maps": VERSION, "weights": run.record["weights_sha256"], "data": identity(frames.attrs["record"])}
    return facts | {"frames": core.digest(frames[metrics.KEY["frame"]].astype(str).to_numpy().tolist())}


@torch.inference_mode(False)  # a panel is drawn without gradients, which maps need
def of(run: Run, frames: pd.DataFrame, name: str) -> np.ndarray:
    """The maps (n, h, w) in [0, 1] of a run for the rows of a frames table, computed once and then read from its folder."""
    path = run.folder / "attribution" / f"{name}-{core.digest(describe(run, frames) | {'map': name})}.npz"
    if not path.exists():
        with core.atomic(path) as temporary:
            np.savez(temporary, explain(run.network(), run.settings, frames, name).astype(np.float16))
    with core.reading(path, "as maps", "delete it, and they are made again"):
        return np.load(path)["arr_0"].astype(np.float32)
