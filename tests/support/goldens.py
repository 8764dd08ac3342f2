"""The rule of the golden weights and inputs (tests/golden/README.md), for tests and benchmarks."""

import copy
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

from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify as lv
from dfnb.papers import released_weights

GOLDEN = Path(os.environ.get("DFNB_GOLDEN", Path(__file__).parent.parent / "golden"))
GRADIENTS = 1e-6  # relative; both sides are float64
OUTPUTS = 1e-5  # relative; the golden outputs are float32
NO_UPDATE = 1e-10  # of a bias without an effect, whose gradient is rounding


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


def released(kind):
    """The paper of ``lv`` or ``etd``, its network with the golden weights, and the golden batch."""
    if kind == "lv":
        paper, settings = lv, lv.Settings(pretrained=False)
        batch = golden_batch(0, [0, 1], 299, forged(0))
    else:
        # The golden images are what the released network's branches see: blue is first already.
        paper, settings = etd, etd.Settings(pretrained=False, channel_order="corrected")
        batch = golden_batch(0, [0, 1, 1, 0], 224)
    return paper, loaded(paper.Network(settings), golden_weights(kind)), batch


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


# ---------------------------------------------------------------- training steps


def noise_batch(step):
    """The batch of a step of Locate and Verify."""
    image = torch.tensor(np.random.default_rng(30 + step).standard_normal((2, 3, 299, 299)))
    mask = torch.zeros(2, 1, 299, 299)
    mask[1 - step, :, 90:210, 80:200] = 1
    label = torch.tensor([step, 1 - step])
    batch = batch_of(2, 299, image=image, label=label, mask=mask)
    return batch if step else mixed(batch, torch.tensor([1, 0]), 0.35)


def pixel_batch(step):
    """The batch of a step of Exposing the Deception, blue first."""
    pixels = np.random.default_rng(10 + step).integers(0, 256, (6, 3, 96, 96)) / 255
    settings = etd.Settings()
    mean, std = np.reshape([settings.mean, settings.std], (2, 3, 1, 1))
    image = torch.tensor((pixels - mean) / std)
    batch = batch_of(6, 96, image=image, label=torch.tensor([0, 1, 1, 0, 1, 0]))
    partner = torch.tensor(np.random.default_rng(20 + step).permutation(6))
    return mixed(batch, partner, (0.3, 0.8, 0.55)[step])


def mixed(batch, partner, weight):
    image = weight * batch["image"] + (1 - weight) * batch["image"][partner]
    return {**batch, "image": image, "partner": partner, "weight": weight}


def released_steps(kind):
    """Per training step of the released code: our losses and its own, our updates and its own.

    Losses are a list; updates are the norms of the changes of all tensors, by our names. All are of
    float64, with the published settings but for dropout, which draws other random numbers.
    """
    paper, changes, batch_of_step, terms = {
        "lv": (lv, {}, noise_batch, ("cls", "seg")),
        "etd": (etd, {"channel_order": "corrected"}, pixel_batch, ("ce", "gil", "lil", "total")),
    }[kind]
    settings = paper.Settings(pretrained=False, dropout=0.0, **changes)
    network = loaded(paper.Network(settings), golden_weights(kind)).double().train()
    before = copy.deepcopy(network.state_dict())
    for step, golden in enumerate(read_json(GOLDEN / f"{kind}_steps.json")):
        if step in (0, 2):  # the released Exposing the Deception starts again in each epoch
            [optimiser], schedule = settings.optimisation(network, 10)
        _, losses = run(network, batch_of_step(step))
        optimiser.step()
        schedule.step()
        norms = by_our_names(golden["update_norms"], paper)
        updates = {
            name: (tensor - before[name]).norm().item()
            for name, tensor in network.state_dict().items()
            if "num_batches_tracked" not in name
        }
        expected = {name: norms[name] for name in updates}
        yield [losses[term].item() for term in terms], golden["losses"], updates, expected
