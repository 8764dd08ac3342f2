"""The rule of the golden weights and inputs (tests/golden/README.md), shared by the tests and the benchmark of a GPU."""

import json
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfnb import papers
from dfnb.papers import locate_and_verify as lv

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
import released_weights

GOLDEN = Path(os.environ.get("DFNB_GOLDEN", Path(__file__).parent / "golden"))
GRADIENTS = 1e-6  # relative; both sides are float64
OUTPUTS = 1e-5  # relative; the golden outputs are float32


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float64."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def golden_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
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


def golden_weights(kind: str) -> dict[str, Tensor]:
    """The state_dict of ``lv``, ``lv_semi`` or ``etd`` under its released names."""
    shapes = json.loads((GOLDEN / f"{kind}_shapes.json").read_text(encoding="utf-8"))
    return {name: golden_tensor(name, shape) for name, shape in shapes.items()}


def golden_batch(seed: int, label: list[int], size: int, mask: Tensor | None = None) -> papers.Batch:
    """Noise of the golden rule with these labels; without a ``mask`` nothing is forged."""
    n = len(label)
    batch = {
        "image": torch.tensor(normal(seed, n, 3, size, size), dtype=torch.float32),
        "label": torch.tensor(label),
        "mask": torch.zeros(n, 1, size, size) if mask is None else mask,
        "has_mask": torch.ones(n, dtype=torch.bool),
        "landmarks": torch.full((n, 5, 2), torch.nan),
    }
    return batch | {"epoch": 9, "partner": None, "weight": 1.0}


def forged(seed: int) -> Tensor:
    """The golden masks of Locate and Verify."""
    return torch.tensor(normal(seed + 1, 2, 1, 299, 299) > 2.5).float()


def loaded(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network with released weights, in evaluation mode."""
    released_weights.load(network, weights, sys.modules[type(network).__module__])
    return network.eval()


def run(
    network: nn.Module, batch: papers.Batch, precision: torch.dtype = torch.float64, backward: bool = True
) -> tuple[dict, dict]:
    """Outputs and losses, and after ``backward`` the gradients in the network.

    In float64 the order of sums decides nothing, and the golden gradients are of float64.
    """
    typed = {k: v.to(precision) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
    network = network.to(precision)
    network.zero_grad()
    outputs = network(typed["image"])
    losses = network.losses(outputs, typed)
    if backward:
        losses["total"].backward()
    return outputs, losses


def off(ours: Any, golden: np.ndarray) -> float:
    """The largest difference as a share of the largest golden value."""
    ours = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    assert ours.shape == golden.shape, f"{ours.shape} is not {golden.shape}"
    return float(np.abs(ours - golden).max() / np.abs(golden).max())


def pairs(kind: str, batch: papers.Batch, outputs: dict, losses: dict, golden: Mapping[str, np.ndarray]) -> dict:
    """Of ``lv`` or ``etd``: each quantity of ours with its golden value."""
    if kind == "lv":
        ours = {"srm": lv.srm_residual(batch["image"].to(outputs["cls"].dtype))[:, :, ::23, ::23]}
        ours |= {"cls": outputs["cls"], "seg": outputs["seg"], "loss_ce": losses["cls"], "loss_seg": losses["seg"]}
        return {name: (value, golden[name]) for name, value in ours.items()}
    ours = {"z": outputs["cls"], "all": outputs["joint"], "loo": outputs["left_out"], "total_auto": losses["total"]}
    terms = zip(("ce", "gil", "lil"), golden["losses_kl"])
    return {name: (value, golden[name]) for name, value in ours.items()} | {n: (losses[n], v) for n, v in terms}


def gradients_off(network: nn.Module, paper: ModuleType, file: Path) -> dict[str, float]:
    """How far the norm of each parameter's gradient is from the golden one, relative to it.

    A hundredth is added to the golden norm, so that :data:`GRADIENTS` allows a difference of 1e-8 where it is zero.
    """
    golden = json.loads(file.read_text(encoding="utf-8"))
    gradients = {released_weights.released_name(name, paper): p.grad for name, p in network.named_parameters()}
    ours = {name: gradient.norm().item() for name, gradient in gradients.items() if gradient is not None}
    ours.pop("balance", None)  # the released code keeps it apart from the network
    assert ours.keys() == golden.keys()
    return {name: abs(ours[name] - norm) / (norm + 0.01) for name, norm in golden.items()}
