"""The networks, losses and training steps beside the golden files of the released codes.

tests/golden/README.md has the rule of weights and inputs. Without ``DFNB_GOLDEN``, a folder of
golden files, those of tests/golden are compared: one seed, one training step of each kind at
published size, and three steps of Exposing the Deception with smaller images.
"""

import copy
import json
import os
import sys
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from networks import batch_of, frames_table
from torch import Tensor

from dfnb import device
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify as lv
from dfnb.papers import released_weights
from dfnb.store.runs import Training
from dfnb.training import scoring
from dfnb.training.trainer import Trainer, mixed

PAPERS = {"lv": lv, "lv_semi": lv, "etd": etd}  # by kind of golden files
COMMITTED = Path(__file__).parent.parent / "golden"
sys.path.append(str(COMMITTED.parent.parent / "scripts"))

from golden import golden_tensor, normal, probes  # noqa: E402

GOLDEN = Path(os.environ.get("DFNB_GOLDEN", COMMITTED))
IS_WHOLE = "DFNB_GOLDEN" in os.environ  # all seeds and steps are compared
UNMASKED = {"has_mask": torch.tensor([True, False])}  # the fake is the second image
# Largest differences in float64; of a tensor's norm and products as shares of its norm.
OUTPUTS = 1e-12
GRADIENTS = 1e-9
UPDATES = 1e-6
UPDATE_NORMS = 1e-7  # of the norm alone
STEP_LOSSES = 1e-9
# Norms below these are rounding: no gradient reaches the biases of a softmax's keys, and Adam
# divides such a gradient by itself.
NO_GRADIENT = 1e-12
NO_UPDATE = 1e-10


def read_json(path):
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def seeds(kind):
    """The seeds of the golden files of a kind, ``lv_0.npz`` and so on, that are compared."""
    found = sorted(int(file.stem.rpartition("_")[2]) for file in GOLDEN.glob(f"{kind}_[0-9]*.npz"))
    return found if IS_WHOLE else found[:1]


def sizes(kind):
    """The seed and the size in pixels of each file of golden steps that is compared."""
    files = [path.stem.split("_") for path in GOLDEN.glob(f"{kind}_[0-9]*_steps_*.json")]
    found = sorted((int(seed), -int(size)) for *_, seed, _, size in files)
    first = [each for each in found if each[0] == found[0][0]]
    return [(seed, -size) for seed, size in (found if IS_WHOLE else first)]


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


def to_device(batch):
    """A batch on the device of trainings."""
    return {
        name: value.to(device.DEVICE) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def forged(seed):
    """The golden masks of Locate and Verify."""
    return torch.tensor(normal(seed + 1, 2, 1, 299, 299) > 2.5).float()


def loaded(network, weights):
    """The network with weights from a file as the authors would release it, in evaluation mode."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "released.pth"
        torch.save(dict(weights), file)
        released_weights.load_file(network, str(file), sys.modules[type(network).__module__])
    return network.eval()


@contextmanager
def exact():
    """What is built here is of float64, as are the constants of a network."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def settings_of(kind, **changes):
    """The published settings of ``lv``, ``lv_semi`` or ``etd``, but for these changes."""
    if kind == "lv_semi":
        changes |= {"sspsl": True, "mixup_probability": 0.0}
    return PAPERS[kind].Settings(pretrained=False, **changes)


def network_of(kind):
    """The network of ``lv``, ``lv_semi`` or ``etd``, in float64, with the golden weights."""
    with exact():
        network = PAPERS[kind].Network(settings_of(kind))
    return loaded(network, golden_weights(kind))


def red_first(images):
    """Images (B, 3, H, W) as Exposing the Deception normalises them, from the released ones.

    These are blue first, and blue is normalised by the mean and deviation of red.
    """
    settings = etd.Settings()
    mean, std = torch.tensor([settings.mean, settings.std], dtype=torch.float64).view(2, 3, 1, 1)
    pixels = (images.double() * std + mean).flip(1)
    return (pixels - mean) / std


def released(kind, seed):
    """The paper of ``lv``, ``lv_semi`` or ``etd``, its golden network, and the golden batch.

    For ``lv_semi`` the batch has a ``region``, which SSPSL takes for its reference region; the
    released code took the patches of the masks.
    """
    if kind == "lv":
        return lv, network_of(kind), golden_batch(seed, [0, 1], 299, forged(seed))
    if kind == "lv_semi":
        region = lv.patch_labels(forged(seed), (19, 19)) == 1
        batch = golden_batch(seed, [0, 1], 299)
        return lv, network_of(kind), {**batch, **UNMASKED, "region": region}
    batch = golden_batch(seed, [0, 1, 1, 0], 224)
    return etd, network_of(kind), {**batch, "image": red_first(batch["image"])}


def typed(batch, precision):
    """A batch with its numbers in this precision."""
    typed = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            typed[name] = value.to(precision)
    return typed


def stated_region(batch):
    """A context in which SSPSL takes the ``region`` of a batch that has one."""
    if "region" in batch:
        return patch.object(lv, "reference_region", lambda *_: batch["region"])
    return nullcontext()


def run(network, batch, precision=torch.float64, backward=True):
    """Outputs and losses, and after ``backward`` the gradients in the network.

    In float64 the order of sums decides nothing, and the golden gradients are of float64.
    """
    batch = typed(batch, precision)
    network = network.to(precision)
    network.zero_grad()
    outputs = network(batch["image"])
    with stated_region(batch):
        losses = network.losses(outputs, batch)
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
    """Each quantity of ``lv``, ``lv_semi`` or ``etd``, ours and golden."""
    if kind == "etd":
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
    images = batch["image"].to(outputs["cls"].dtype)
    ours = {
        "srm": lv.srm_residual(images)[:, :, ::23, ::23],
        "cls": outputs["cls"],
        "seg": outputs["seg"],
        "loss_ce": losses["cls"],
    }
    if kind == "lv_semi":
        ours["sspsl_loss"] = losses["seg"]
        ours["projection"] = np.array(probes("projection", outputs["projection"]))
    else:
        ours["loss_seg"] = losses["seg"]
    return {name: (value, golden[name]) for name, value in ours.items()}


def elements_off(ours, paper, golden, nothing):
    """How far tensors are from the golden ones: a table with a row per released name.

    ``ours`` are tensors by our names, ``golden`` what ``probes`` made of the released ones. The
    columns ``norm`` and ``products`` are differences as shares of the golden norm; where this is
    below ``nothing``, they are 0 if our norm is, too, and else infinite. ``elements`` counts those
    of the tensor.
    """
    rows = {}
    for name, (norm, *products) in golden.items():
        tensor = ours[released_weights.our_name(name, paper)]
        our_norm, *our_products = probes(name, tensor)
        far = np.abs(np.subtract([our_norm, *our_products], [norm, *products]))
        if norm < nothing:
            far = np.full(4, 0.0 if our_norm < nothing else np.inf)
        else:
            far /= norm
        rows[name] = {"norm": far[0], "products": far[1:].max(), "elements": tensor.numel()}
    return pd.DataFrame.from_dict(rows, orient="index")


def gradients_off(network, paper, stem):
    """:func:`elements_off` of the gradients of a network, for golden files ``stem``."""
    gradients = {}
    for name, parameter in network.named_parameters():
        # the released code keeps the weights of its losses apart from the network
        if parameter.grad is not None and name != "balance":
            gradients[name] = parameter.grad
    golden = read_json(GOLDEN / f"{stem}_gradients.json")
    assert gradients.keys() == {released_weights.our_name(name, paper) for name in golden}
    return elements_off(gradients, paper, golden, NO_GRADIENT)


def network_off(kind, seed):
    """How far the golden network of ``lv``, ``lv_semi`` or ``etd`` is from the released one.

    Returns a table of outputs and losses with the columns ``difference`` (see :func:`off`) and
    ``elements``, the gradients (:func:`elements_off`), and differences of what the golden files
    have besides: patch labels, or the other forms of the losses.
    """
    golden = np.load(GOLDEN / f"{kind}_{seed}.npz")
    paper, network, batch = released(kind, seed)
    outputs, losses = run(network, batch)
    rows = {}
    for name, pair in pairs(kind, batch, outputs, losses, golden).items():
        rows[name] = {"difference": off(*pair), "elements": pair[1].size}
    gradients = gradients_off(network, paper, f"{kind}_{seed}")
    if kind == "lv":
        labels = lv.patch_labels(forged(seed), (19, 19))
        others = {"patch labels": off(labels, golden["mask"][:, 0])}
    elif kind == "lv_semi":
        labels = lv.pseudo_labels(outputs["projection"], batch["label"], batch["region"])
        others = {"pseudo-labels": off(labels.flatten(), golden["sspsl_targets"])}
    else:
        others = other_losses_off(network, batch, outputs, golden)
    return pd.DataFrame.from_dict(rows, orient="index"), gradients, others


def other_losses_off(network, batch, outputs, golden):
    """Of Exposing the Deception: learned weights, fixed ones, and the optimal transport."""
    learned = off(network.balance.grad, golden["awl_grad"])
    settings = network.settings
    network.settings = settings.model_copy(update={"estimator": "sinkhorn"})
    transport = network.losses(outputs, batch)
    network.settings = settings
    ce, gil, lil = golden["losses_w"]
    # the exponent of LIL, which is near exp(-30)
    compared = {"gil": (transport["gil"], gil), "lil": (transport["lil"].log(), np.log(lil))}
    others = {f"transport {name}": off(*pair) for name, pair in compared.items()}
    outputs.pop("balance")  # without learned weights, the fixed ones of the settings count
    fixed = network.losses(outputs, batch)["total"]
    return {
        "weights": learned,
        "fixed": off(fixed, golden["total_hyper"]),
        "ce": off(transport["ce"], ce),
        **others,
    }


def saved_scores(folder, kind, settings):
    """P(fake) of the pictures that ``golden.py --save`` drew: ours and the released network's.

    Ours has the saved weights, and reads the pictures as the project scores any others.
    """
    released_scores = read_json(folder / f"{kind}_scores.json")
    network = PAPERS[kind].Network(settings)
    released_weights.load_file(network, str(folder / f"{kind}.pth"), PAPERS[kind])
    files = [str(folder / f"{kind}_crops" / name) for name in released_scores]
    scores = scoring.predict_frames(network.eval(), frames_table(files, 0), settings)["score"]
    return scores.to_numpy(), np.array([*released_scores.values()])


# ---------------------------------------------------------------- training steps


def noise_batch(seed, step, shape):
    """The batch of a step of Locate and Verify."""
    noise = np.random.default_rng(100 * seed + 30 + step).standard_normal(shape)
    mask = torch.zeros(2, 1, 299, 299)
    mask[1 - step, :, 90:210, 80:200] = 1
    label = torch.tensor([step, 1 - step])
    batch = batch_of(2, 299, image=torch.tensor(noise), label=label, mask=mask)
    return batch if step else mixed(batch, torch.tensor([1, 0]), 0.35)


def unmasked_batch(seed, step, shape):
    """The batch of a step of SSPSL, which takes the mask for its reference region."""
    noise = np.random.default_rng(100 * seed + 30 + step).standard_normal(shape)
    mask = torch.zeros(2, 1, 299, 299)
    batch = batch_of(2, 299, image=torch.tensor(noise), mask=mask.clone(), **UNMASKED)
    mask[1, :, 90:210, 80:200] = 1
    return {**batch, "region": lv.patch_labels(mask, (19, 19)) == 1}


def pixel_batch(seed, step, shape):
    """The batch of a step of Exposing the Deception."""
    n, _, size, _ = shape
    pixels = np.random.default_rng(100 * seed + 10 + step).integers(0, 256, shape) / 255
    settings = etd.Settings()
    mean, std = np.reshape([settings.mean, settings.std], (2, 3, 1, 1))
    image = torch.tensor((pixels[:, ::-1] - mean) / std)
    label = torch.tensor(np.resize([0, 1, 1, 0, 1, 0], n))
    batch = batch_of(n, size, image=image, label=label)
    partner = torch.tensor(np.random.default_rng(100 * seed + 20 + step).permutation(n))
    return mixed(batch, partner, (0.3, 0.8, 0.55)[step])


# By kind of golden steps: the batch of a step, and our names of the losses of the released code.
STEPS = {
    "lv": (noise_batch, {"Loss_ce": "cls", "Loss_seg": "seg", "Loss": "total"}),
    "lv_semi": (unmasked_batch, {"Loss_ce": "cls", "Loss_seg": "seg", "Loss": "total"}),
    "etd": (pixel_batch, {name: name for name in ("ce", "gil", "lil", "total")}),
}


def released_trainer(kind, images):
    """The Trainer of ``lv``, ``lv_semi`` or ``etd``, in float64, with the golden weights.

    The settings are the published ones but for dropout, which draws other random numbers. Its
    frames only say how many steps an epoch has: two of the golden batches, (B, 3, H, W) ``images``.
    """
    settings = settings_of(kind, dropout=0.0, batch_size=images[0], images_per_epoch=2 * images[0])
    training = Training(
        paper=PAPERS[kind].__name__.rpartition(".")[2],
        train_set="golden",
        seed=0,
        seen_methods=None,
        frames_per_video=None,
        data="",
        settings=settings,
        start_weights="",
        version=0,
        numbers=0,
    )
    labels = np.arange(2 * images[0]) % 2
    frames = frames_table([""] * len(labels), labels)
    with exact():
        trainer = Trainer(Path("golden"), training, {"train": frames, "val": frames}, None)
    loaded(trainer.network, golden_weights(kind)).to(memory_format=torch.contiguous_format)
    return trainer


@contextmanager
def as_golden(batch):
    """A step on a golden batch, whose region of reference may be stated, in float64.

    In float64 a depthwise convolution with channels last takes four times as long.
    """
    with stated_region(batch), patch.object(device, "LAYOUT", torch.contiguous_format):
        yield


def released_steps(kind, seed, size):
    """Per training step of the released code: shape of the images, differences of the losses and
    of the changes of all tensors since the start, see :func:`elements_off`.
    """
    batch_of_step, names = STEPS[kind]
    steps = read_json(GOLDEN / f"{kind}_{seed}_steps_{size}.json")
    trainer = released_trainer(kind, steps[0]["images"])
    before = copy.deepcopy(trainer.network.state_dict())
    for step, golden in enumerate(steps):
        trainer.progress.epoch = step // 2
        if step % 2 == 0:
            trainer.begin_epoch()
        batch = typed(batch_of_step(seed, step, golden["images"]), torch.float64)
        with as_golden(batch):
            losses = trainer.step([to_device(batch)])
        off_losses = {
            name: abs(losses[ours] / golden["losses"][name] - 1) for name, ours in names.items()
        }
        yield golden["images"], off_losses, updates_off(trainer.network, before, kind, golden)


def compared_steps(kind, seed, size):
    """The :func:`released_steps` that are compared, as a list: of the published sizes the first.

    Those of smaller images are all compared: these see the schedule and the start of an epoch.
    """
    steps = released_steps(kind, seed, size)
    is_published = size == settings_of(kind).image_size
    return [*(islice(steps, 1) if is_published and not IS_WHOLE else steps)]


def updates_off(network, before, kind, golden):
    """:func:`elements_off` of what has changed in a network since its tensors were ``before``."""
    changes = {name: tensor - before[name] for name, tensor in network.state_dict().items()}
    golden_updates, compared = {}, set()
    for name, numbers in golden["updates"].items():
        ours = released_weights.our_name(name, PAPERS[kind])
        if ours in changes:  # else the released code has it without using it
            golden_updates[name] = numbers
            compared.add(ours)
    assert compared == {name for name in changes if "num_batches_tracked" not in name}
    return elements_off(changes, PAPERS[kind], golden_updates, NO_UPDATE)
