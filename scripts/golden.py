"""Compute the golden files of tests/golden again, by the codes that the papers' authors released.

``python scripts/golden.py lv CHECKOUT OUT`` for Locate and Verify, ``etd`` for Exposing the
Deception; CHECKOUT is a folder with the released code. Without it, the code is cloned from GitHub.
The released networks, losses, optimisers and training loops run as they are, in float64 and on a
CPU; what stands in the place of something is in PATCHES. No line of them is in this repository.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import cv2
import numpy as np
import timm.optim
import torch
import yaml
from torch import Tensor, nn

RELEASED = {
    "lv": ("https://github.com/sccsok/Locate-and-Verify", "bb13f08"),
    "etd": ("https://github.com/QingyuLiu/Exposing-the-Deception", "c361f1c"),
}
# What PATCHES hand to the released code.
GIVEN: dict[str, Any] = {"network": None, "loader": None}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # in etd of blue, green, red
HALF = (0.5, 0.5, 0.5)  # both in lv
SAVE = torch.save  # which PATCHES replace


def given(name: str) -> Callable[..., Any]:
    """A function that takes any arguments and returns what ``GIVEN`` has under a name."""
    return lambda *_, **__: GIVEN[name]


def nothing(*_: Any, **__: Any) -> None:
    """Stands in the place of functions whose effect is not wanted."""


# Modules that the released codes import: (name, why their content does not matter).
STUBS = [
    ("wandb", "keeps a log on a server"),
    ("torch.utils.tensorboard", "keeps a log"),
    ("tkinter", "lends a function to a metric of test data"),
    ("util", "ff_all_semi.py, which reads pictures, takes datasets/util.py for it"),
    ("albumentations", "augments pictures; here all batches are stated"),
    ("albumentations.pytorch", "the same"),
    ("albumentations.pytorch.functional", "the same"),
    ("albumentations.pytorch.transforms", "the same"),
]
# (name, what stands in its place, why), in this order.
PATCHES = {
    "both": [
        ("torch.utils.model_zoo.load_url", MagicMock(), "ImageNet's weights are not needed"),
        ("torch.nn.Module.load_state_dict", nothing, "nor loaded; all are those of the rule"),
        ("torch.utils.data.DataLoader", given("loader"), "the batches are stated"),
        ("torch.save", nothing, "a checkpoint of each epoch would be 1.3 GB"),
        ("torch.randperm", lambda *_: GIVEN["partners"].pop(0), "partners of mixup are stated"),
        ("numpy.random.beta", lambda *_: GIVEN["shares"].pop(0), "as are the shares"),
    ],
    "lv": [
        ("numpy.random.rand", lambda *_: GIVEN["mixed"].pop(0), "and whether a batch is mixed"),
        ("torch.autograd.set_detect_anomaly", nothing, "it only checks, and takes half the time"),
        ("torch.cuda.LongTensor", torch.LongTensor, "there is no GPU"),
        ("torch.cuda.set_device", nothing, "the same"),
        (
            "timm.optim.optim_factory.add_weight_decay",
            timm.optim.param_groups_weight_decay,
            "timm has renamed it",
        ),
        ("utils.utils.AverageMeter.update", lambda *call: heard(*call), "losses are noted"),
        *(
            (f"{loop}.{name}", replacement, reason)
            for loop in ("train", "train_semi")
            for name, replacement, reason in [
                ("Two_Stream_Net", given("network"), "its weights are those of the rule"),
                ("FaceForensics", MagicMock(), "there are no pictures"),
                ("validate", lambda *_: (0, 0, 0), "nor any to validate on"),
                ("checkpoint_pth", ".", "train.py uses this name without having it"),
            ]
        ),
    ],
    "etd": [
        ("torch.Tensor.cuda", lambda tensor, *_: tensor, "there is no GPU"),
        ("torch.nn.Module.cuda", lambda module, *_: module, "the same"),
        ("sys.argv", ["training.py", "--gpu_num", "0"], "its options are the default ones"),
        ("training.MI_Net", given("network"), "its weights are those of the rule"),
        ("training.ReadDataset", MagicMock(), "there are no pictures"),
        ("training.MyDataset", MagicMock(), "the same"),
        ("training.train_and_test_model.test", nothing, "nor any to test on"),
        ("training.plt_tensorboard", MagicMock(), "keeps a log"),
        ("training.args", None, "a global that is set only where training.py is executed"),
    ],
}


def patch_all(paper: str) -> None:
    """Make the released code of a paper importable, and put PATCHES in place."""
    sys.modules.update({name: MagicMock() for name, _ in STUBS})
    for target, replacement, _ in PATCHES["both"] + PATCHES[paper]:
        patch(target, replacement, create=True).start()


# ---------------------------------------------------------------- the rule of weights and inputs


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, float64."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def golden_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of float32 that a state_dict holds under a released name."""
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


def probes(name: str, value: Tensor) -> list[float]:
    """The norm of a tensor, and its products with three random ones that its name seeds.

    Their elements are drawn evenly from [-1, 1). A product changes with each element, with its
    sign and with its place; the norm does not feel the last two.
    """
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(f"probes of {name}".encode())))
    value = value.detach().cpu().double().numpy().ravel()
    products = []
    for _ in range(3):
        drawn = draw.random(value.size, np.float32)  # float32 takes a third of the time
        products.append(value @ (2 * drawn.astype(np.float64) - 1))
    return [float(number) for number in (np.linalg.norm(value), *products)]


def by_rule(network: nn.Module) -> nn.Module:
    """A released network with the weights of the rule, in float64 and without dropout."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name != "srm_conv0.kernel":  # three fixed filters
                tensor.copy_(golden_tensor(name, tuple(tensor.shape)))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network.double()


# ---------------------------------------------------------------- what is written


def write(path: Path, content: Any) -> None:
    """Write JSON; each list of numbers has a line."""
    text = json.dumps(content, indent=0)
    text = re.sub(r"\[[^][{}]*\]", lambda numbers: numbers[0].replace("\n", ""), text)
    path.write_text(f"{text}\n", encoding="utf-8")


def write_outputs(stem: Path, network: nn.Module, arrays: dict[str, Tensor]) -> None:
    """After a backward pass: shapes, outputs with losses, and gradients where there is one."""
    kind = stem.name.rpartition("_")[0]
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    write(stem.with_name(f"{kind}_shapes.json"), shapes)
    arrays = {name: torch.as_tensor(value).detach().numpy() for name, value in arrays.items()}
    np.savez_compressed(f"{stem}.npz", **arrays)
    found = {n: probes(n, p.grad) for n, p in network.named_parameters() if p.grad is not None}
    write(stem.with_name(f"{stem.name}_gradients.json"), found)


class Loader:
    """Stands for the loader of a released training loop: stated batches, in epochs.

    After each batch it notes the losses, and what the steps so far have changed of the tensors.
    ``tensors`` returns these by name.
    """

    def __init__(self, epochs: list[list], tensors: Callable[[], dict[str, Tensor]]) -> None:
        self.epochs, self.tensors = iter(epochs), tensors
        self.losses: dict[str, float] = {}  # of the present batch
        self.steps: list[dict[str, Any]] = []
        GIVEN["loader"] = self

    def __len__(self) -> int:
        return 1  # the loops print it

    def __iter__(self) -> Iterator[list]:
        if not self.steps:
            self.start = {name: tensor.clone() for name, tensor in self.tensors().items()}
        for batch in next(self.epochs):
            images = list(batch[0].shape)
            yield batch  # the loop goes on here when it has made its step
            changes = {name: value - self.start[name] for name, value in self.tensors().items()}
            found = {n: probes(n, v) for n, v in changes.items() if "num_batches" not in n}
            step = {"images": images, "losses": self.losses.copy(), "updates": found}
            self.steps.append(step)


def heard(meter: Any, value: float, n: int = 1) -> None:
    """Note a loss that a loop of Locate and Verify hands to one of its meters."""
    if meter.name.startswith("Loss"):
        GIVEN["loader"].losses[meter.name] = value


def finished(loader: Loader) -> list[dict[str, Any]]:
    """The steps of a loader, after which it, the network and the optimiser leave the memory."""
    steps = loader.steps
    del loader.tensors, loader.start
    GIVEN.update(network=None, loader=None)
    gc.collect()
    return steps


# ---------------------------------------------------------------- Locate and Verify


def lv(checkout: Path, out: Path, options: argparse.Namespace) -> None:
    """Outputs, gradients and steps of both networks of Locate and Verify."""
    for kind, model, loop in (
        ("lv", "model.LVNet", "train"),
        ("lv_semi", "model.LVNet_semi", "train_semi"),
    ):
        new = import_module(model).Two_Stream_Net
        stem = out / f"{kind}_{options.seed}"
        lv_outputs(stem, by_rule(new()).eval(), options.seed)
        steps = lv_steps(loop, by_rule(new()), checkout, options.seed)
        write(out / f"{stem.name}_steps_299.json", steps)
    if options.save:
        lv_save(out, by_rule(import_module("model.LVNet").Two_Stream_Net()).float())


def lv_outputs(stem: Path, network: nn.Module, seed: int) -> None:
    """Outputs, losses and gradients for two images of noise, without and with SSPSL."""
    images = torch.tensor(normal(seed, 2, 3, 299, 299)).float().double()
    mask = torch.tensor(normal(seed + 1, 2, 1, 299, 299) > 2.5).double()
    label = torch.tensor([0, 1])
    cls, seg, *projection, mask = network(images, mask)
    found = {"cls": cls, "seg": seg, "mask": mask, "loss_ce": nn.CrossEntropyLoss()(cls, label)}
    found["srm"] = network.srm_conv0(images)[:, :, ::23, ::23]
    found["loss_seg"] = import_module("loss.seg_loss").FSCELoss()(seg, mask)
    total = found["loss_ce"] + found["loss_seg"]
    if projection:
        loss_of = import_module("loss.patch_unsup_loss").sspsl_loss
        loss, targets = loss_of(seg, projection[0], label, mask)
        directions = nn.functional.normalize(projection[0], dim=1)
        found |= {"sspsl_loss": loss, "sspsl_targets": targets}
        found["projection"] = torch.tensor(probes("projection", directions), dtype=torch.float64)
        total = found["loss_ce"] + loss
    total.backward()
    write_outputs(stem, network, found)


def lv_steps(loop: str, network: nn.Module, checkout: Path, seed: int) -> list[dict]:
    """The steps of a released loop: two of ``train``, one of ``train_semi``."""
    batches = []
    for step in range(2 if loop == "train" else 1):
        noise = np.random.default_rng(100 * seed + 30 + step).standard_normal((2, 3, 299, 299))
        mask = torch.zeros(2, 1, 299, 299)
        mask[1 - step, :, 90:210, 80:200] = 255
        batch = [torch.tensor(noise), torch.tensor([step, 1 - step]), mask]
        if loop == "train_semi":
            batch.append(mask.clone())  # the reference region
        batches.append(batch)
    GIVEN.update(network=network, mixed=[1.0, 0.0], shares=[0.35])
    GIVEN["partners"] = [torch.tensor([1, 0]), torch.tensor([1, 0])]
    loader = Loader([batches], network.state_dict)
    options = yaml.safe_load((checkout / "config/FF++.yml").read_text(encoding="utf-8"))
    with TemporaryDirectory() as folder:
        options["train"] |= {"epoch": options["train"]["start_epoch"] + 1, "save_path": folder}
        args = SimpleNamespace(gpu="cpu", device=None, distributed=False, mixup=True)
        import_module(loop).main_worker("cpu", 0, args, options)
    return finished(loader)


@torch.no_grad()
def lv_save(out: Path, network: nn.Module) -> None:
    """Save the network by the released function, and P(fake) of pictures."""
    loop = import_module("train")
    optimiser = torch.optim.Adam(network.parameters())
    state = {"epoch": 1, "state_dict": network.state_dict(), "optimizer": optimiser.state_dict()}
    with patch("torch.save", SAVE):
        loop.save_checkpoint(state, is_best=False, epoch=0, file=str(out))
    (out / "checkpoint-00.pth.tar").replace(out / "lv.pth")
    pixels = [picture[..., ::-1] for picture in pictures(out / "lv_crops", 299)]  # red first
    images = normalised(pixels, HALF, HALF)
    write_scores(out / "lv_scores.json", network.eval()(images)[0])


# ---------------------------------------------------------------- Exposing the Deception


def etd(checkout: Path, out: Path, options: argparse.Namespace) -> None:
    """Outputs, gradients and steps of the network of Exposing the Deception."""
    training = import_module("training")
    training.args = training.parse_args()
    etd_outputs(out / f"etd_{options.seed}", training, options.seed)
    published, small = (224, 4, 1), (96, 6, 3)
    sizes = [(options.size, options.batch, 1)] if options.size else [published, small]
    for size, n, steps in sizes:
        found = etd_steps(training, size, n, steps, options.seed)
        write(out / f"etd_{options.seed}_steps_{size}.json", found)
    if options.save:
        etd_save(out, training)


def etd_run(training: Any) -> Any:
    """The released object that trains, with the weights of the rule."""
    GIVEN["network"] = None  # the last one leaves the memory first
    gc.collect()
    GIVEN["network"] = by_rule(import_module("models.MI_Net").MI_Net(model=training.args.model))
    run = training.train_and_test_model(training.args)
    run.loss_function.balance_loss.double()
    run.device = torch.device("cpu")
    return run


def etd_outputs(stem: Path, training: Any, seed: int) -> None:
    """Outputs, all forms of the losses, and gradients, for four images of noise."""
    run = etd_run(training)
    network, losses = run.net.eval(), run.loss_function
    transport = training.loss_functions(
        "mi", "w", losses.temperature, gil_loss=True, lil_loss=True, device="cpu"
    )
    images = torch.tensor(normal(seed, 4, 3, 224, 224)).float().double()
    label = torch.tensor([0, 1, 1, 0])
    outputs = network(images)
    terms = losses.criterion(outputs, label)
    total = losses.balance_mult_loss(terms)
    total.backward()
    found = {
        "z": outputs["p_y_given_z"],
        "all": outputs["p_y_given_f_all"],
        "loo": torch.stack(outputs["p_y_given_f1_fn_list"]),
        "losses_kl": torch.stack(terms),
        "losses_w": torch.stack(transport.criterion(outputs, label)),
        "total_auto": total,
        "awl_grad": losses.balance_loss.params.grad,
    }
    losses.bml_method = "hyper"
    found["total_hyper"] = losses.balance_mult_loss(terms)
    write_outputs(stem, network, found)


def etd_steps(training: Any, size: int, n: int, steps: int, seed: int) -> list[dict]:
    """Steps of the released loop; the third is the first of another epoch."""
    mean, std = np.reshape([MEAN, STD], (2, 3, 1, 1))
    batches, partners = [], []
    for step in range(steps):
        draw = np.random.default_rng(100 * seed + 10 + step)
        pixels = draw.integers(0, 256, (n, 3, size, size)) / 255  # blue first
        label = torch.tensor(np.resize([0, 1, 1, 0, 1, 0], n))
        batches.append([torch.tensor((pixels - mean) / std), label])
        draw = np.random.default_rng(100 * seed + 20 + step)
        partners.append(torch.tensor(draw.permutation(n)))
    GIVEN.update(shares=[0.3, 0.8, 0.55], partners=partners)
    run = etd_run(training)
    balance = run.loss_function.balance_loss.params
    epochs = [batches[:2], batches[2:]] if steps > 2 else [batches]
    run.train_loader = loader = Loader(
        epochs, lambda: {**run.net.state_dict(), "balance": balance.detach()}
    )
    run.args.epoch = len(epochs)
    mix, weigh = training.mixup_criterion, run.loss_function.balance_mult_loss

    def mixed(*arguments: Any) -> list[Tensor]:
        terms = mix(*arguments)
        loader.losses.update(zip(("ce", "gil", "lil"), [term.item() for term in terms]))
        return terms

    def weighed(terms: list[Tensor]) -> Tensor:
        total = weigh(terms)
        loader.losses["total"] = total.item()
        return total

    run.loss_function.balance_mult_loss = weighed
    with patch("training.mixup_criterion", mixed):
        run.train()
    return finished(loader)


@torch.no_grad()
def etd_save(out: Path, training: Any) -> None:
    """Save the network by the released function, and P(fake) of pictures."""
    run = etd_run(training)
    network = run.net.float().eval()
    run.args.save_path, run.args.name = str(out.parent), out.name
    with patch("torch.save", SAVE):
        run.save_model(1, best=True)
    (out / "model_best.pth").replace(out / "etd.pth")
    images = normalised(pictures(out / "etd_crops", 224), MEAN, STD)
    write_scores(out / "etd_scores.json", network(images)["p_y_given_z"])


# ---------------------------------------------------------------- saved weights


def pictures(folder: Path, size: int) -> list[np.ndarray]:
    """Eight smooth pictures with noise, saved as PNG and read by OpenCV, blue first."""
    folder.mkdir(exist_ok=True)
    found = []
    for i in range(8):
        draw = np.random.default_rng(i)
        smooth = cv2.resize(draw.uniform(0, 255, (9, 9, 3)), (size, size))
        pixels = smooth + draw.normal(0, 8, smooth.shape)
        file = str(folder / f"{i}.png")
        cv2.imwrite(file, pixels.clip(0, 255).astype(np.uint8))
        found.append(cv2.imread(file))
    return found


def normalised(pixels: list[np.ndarray], mean: tuple, std: tuple) -> Tensor:
    """Pictures (H, W, 3) as the released codes give them to their networks, (n, 3, H, W)."""
    images = torch.from_numpy(np.stack(pixels)).float() / 255
    return ((images - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def write_scores(path: Path, logits: Tensor) -> None:
    """Write P(fake) of the pictures."""
    scores = logits.detach().double().softmax(1)[:, 1].tolist()
    write(path, {f"{i}.png": score for i, score in enumerate(scores)})


# ---------------------------------------------------------------- the command


def clone(paper: str, folder: str) -> Path:
    """Clone the released code of a paper at its commit."""
    address, commit = RELEASED[paper]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # GitHub may ask for a name
    try:
        for command in (["clone", "-q", address, folder], ["-C", folder, "checkout", "-q", commit]):
            subprocess.run(["git", *command], check=True, capture_output=True, env=environment)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(
            f"{address} cannot be cloned here; name a folder with its commit {commit}: "
            f"python scripts/golden.py {paper} CHECKOUT OUT"
        )
    return Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", choices=RELEASED)
    parser.add_argument("folders", nargs="+", type=Path, help="[CHECKOUT] OUT")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--size", type=int, help="pixels, of a step of Exposing the Deception")
    parser.add_argument("--batch", type=int, default=4, help="images of this step")
    parser.add_argument("--save", action="store_true", help="also weights and P(fake) of pictures")
    options = parser.parse_intermixed_args()
    *checkouts, out = [folder.resolve() for folder in options.folders]
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        checkout = checkouts[0] if checkouts else clone(options.paper, folder)
        sys.path.insert(0, str(checkout))
        patch_all(options.paper)
        {"lv": lv, "etd": etd}[options.paper](checkout, out, options)


if __name__ == "__main__":
    main()
