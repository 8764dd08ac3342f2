"""The rule of the golden weights and inputs (tests/golden/README.md), for tests and benchmarks."""

import json
import os
import sys
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from networks import batch_of
from torch import Tensor

from dfnb.papers import locate_and_verify as lv
from dfnb.papers import released_weights

GOLDEN = Path(os.environ.get("DFNB_GOLDEN", Path(__file__).parent.parent / "golden"))
GRADIENTS = 1e-6  # relative; both sides are float64
OUTPUTS = 1e-5  # relative; the golden outputs are float32


def read_json(path):
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def normal(seed, *shape):
    """Standard normal numbers, float64."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def golden_tensor(name, shape):
    """The tensor that a state_dict holds under a released name."""
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        value = np.zeros(shape)
    elif name.endswith("running_var"):
        value = draw.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        value = 0.1 * draw.standard_normal(shape)
    elif name.endswith("gamma"):
        value = np.full(shape, 0.5)
    elif len(shape) > 1:
        value = draw.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = draw.uniform(0.5, 1.2, shape)
    else:
        value = 0.1 * draw.standard_normal(shape)
    return torch.tensor(value, dtype=torch.float32)


def golden_weights(kind):
    """The state_dict of ``lv``, ``lv_semi`` or ``etd`` under its released names."""
    shapes = read_json(GOLDEN / f"{kind}_shapes.json")
    return {name: golden_tensor(name, shape) for name, shape in shapes.items()}


def golden_batch(seed, label, size, mask=None):
    """Noise of the golden rule with these labels; without a ``mask`` nothing is forged."""
    n = len(label)
    image = torch.tensor(normal(seed, n, 3, size, size), dtype=torch.float32)
    if mask is None:
        mask = torch.zeros(n, 1, size, size)
    return batch_of(n, size, image=image, label=torch.tensor(label), mask=mask, epoch=9)


def forged(seed):
    """The golden masks of Locate and Verify."""
    return torch.tensor(normal(seed + 1, 2, 1, 299, 299) > 2.5).float()


def loaded(network, weights):
    """The network with weights from a file as the authors would release it, in evaluation mode."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "released.pth"
        torch.save(dict(weights), file)
        released_weights.load(network, str(file), sys.modules[type(network).__module__])
    return network.eval()


def run(network, batch, precision=torch.float64, backward=True):
    """Outputs and losses, and after ``backward`` the gradients in the network.

    In float64 the order of sums decides nothing, and the golden gradients are of float64.
    """
    typed = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            typed[name] = value.to(precision)
    network = network.to(precision)
    network.zero_grad()
    outputs = network(typed["image"])
    losses = network.losses(outputs, typed)
    if backward:
        losses["total"].backward()
    return outputs, losses


def off(ours, golden):
    """The largest difference as a share of the largest golden value."""
    if isinstance(ours, Tensor):
        ours = ours.detach().cpu().numpy()
    assert np.shape(ours) == golden.shape, f"{np.shape(ours)} is not {golden.shape}"
    return float(np.abs(ours - golden).max() / np.abs(golden).max())


def pairs(kind, batch, outputs, losses, golden):
    """Each quantity of ``lv`` or ``etd``, ours and golden."""
    if kind == "lv":
        images = batch["image"].to(outputs["cls"].dtype)
        ours = {
            "srm": lv.srm_residual(images)[:, :, ::23, ::23],
            "cls": outputs["cls"],
            "seg": outputs["seg"],
            "loss_ce": losses["cls"],
            "loss_seg": losses["seg"],
        }
        return {name: (value, golden[name]) for name, value in ours.items()}
    ce, gil, lil = golden["losses_kl"]
    return {
        "z": (outputs["cls"], golden["z"]),
        "all": (outputs["joint"], golden["all"]),
        "loo": (outputs["left_out"], golden["loo"]),
        "total_auto": (losses["total"], golden["total_auto"]),
        "ce": (losses["ce"], ce),
        "gil": (losses["gil"], gil),
        "lil": (losses["lil"], lil),
    }


def gradients_off(network, paper, file):
    """How far the norm of each parameter's gradient is from the golden one, relative to it.

    A hundredth is added to the golden norm, so that :data:`GRADIENTS` allows a difference of 1e-8
    where it is zero.
    """
    ours = {}
    for name, parameter in network.named_parameters():
        # the released code keeps the weights of its losses apart from the network
        if parameter.grad is not None and name != "balance":
            ours[name] = parameter.grad.norm().item()
    golden = by_our_names(read_json(file), paper)
    assert ours.keys() == golden.keys()
    return {name: abs(ours[name] - norm) / (norm + 0.01) for name, norm in golden.items()}


def by_our_names(values, paper):
    """Values by the released names of tensors, by our names."""
    return {released_weights.our_name(name, paper): value for name, value in values.items()}
