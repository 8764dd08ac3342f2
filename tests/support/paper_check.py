"""``check`` asserts of a paper what a training would not notice, on noise and a small network."""

import random
import re
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from networks import FACE, frames_table, small_settings
from safetensors.torch import load_model, save_model
from torch import Tensor

from dfnb.data.loading import FrameDataset, prepared
from dfnb.papers import backbones, contract


def check(paper, settings=None):
    """Assert that a paper keeps the contract, see :mod:`dfnb.papers.contract`.

    A network with random weights makes a training step on noise, then scores and maps. Random
    numbers that are drawn here do not count for what follows.

    Args:
        paper: Its module.
        settings: None: small ones.
    """
    generators = global_generators()
    check_names(paper)
    paper.Settings.check(
        paper.Settings().model_dump(mode="json", warnings=False), "the defaults of Settings"
    )
    settings = settings or small_settings(paper)
    before = settings.before()
    assert isinstance(before, contract.Settings | None), f"before returns {before}, no Settings"
    new = partial(paper.Network, settings.model_copy(update={"pretrained": False}))
    with torch.random.fork_rng(devices=[]):
        batch = noise(settings)
        network = trained(new(), settings, batch)
        check_scores(network, new(), batch["image"])
        check_maps(network, batch["image"])
    fixed = "no seed fixes random and numpy.random; draw from torch"
    assert global_generators() == generators, fixed


def global_generators():
    """The state of the global generators of Python and numpy, which no training seeds."""
    return str([random.getstate(), np.random.get_state()])  # noqa: NPY002


def check_names(paper):
    """No name is almost that of a hook and used by nothing in the paper's file."""
    source = Path(paper.__file__).read_text(encoding="utf-8")
    for base, more in ((contract.Settings, ()), (contract.Network, ("forward", "localise"))):
        own = vars(paper)[base.__name__]
        declared = {*vars(own), *own.__annotations__}
        known = {*vars(base), *base.__annotations__, *more}
        hooks = [name for name in known - declared if not name.startswith("_")]
        for name in sorted(declared - known - {*dir(base)}):
            if not name.startswith("_") and not re.search(rf"\.{name}\b", source):
                near = " or ".join(get_close_matches(name, hooks, 1, 0.75))
                assert not near, f"nothing uses {base.__name__}.{name}; did you mean {near}?"


def noise(settings):
    """A batch of four images of noise, as the training loads it; of fakes the upper half is forged.

    It is loaded three times: its seed must fix it.
    """
    side = settings.image_size
    brightest = np.reshape([64, 128, 192, 256], (4, 1, 1, 1))  # so that the scores differ
    crops = np.random.default_rng(0).integers(0, brightest, (4, side, side, 3), np.uint8)
    frames = frames_table(["0", "1", "2", "3"], [0, 1, 0, 1])
    frames["landmarks"] = [(FACE * side).flatten().tolist()] * len(frames)
    # A copy, because a paper may change the image that it gets.
    data = FrameDataset(frames, settings, 0, read=lambda path: crops[int(path)].copy())
    item, *others = [data[[(0, row, row) for row in range(4)]] for _ in range(3)]
    for name, channels in {"image": 3, "mask": 1}.items():
        found = f"{item[name].dtype} {tuple(item[name].shape)}"
        expected = f"torch.uint8 {(4, channels, side, side)}"
        assert found == expected, f"{name}s are {found}, not uint8 of image_size"
        is_same = all(torch.equal(item[name], other[name]) for other in others)
        assert is_same, f"one seed gives two {name}s; draw from torch"
    batch = prepared(item, settings)
    batch["mask"][batch["label"] == 1, :, : side // 2] = 1
    has_mask = torch.ones(4, dtype=torch.bool)
    return {**batch, "has_mask": has_mask, "epoch": 0, "partner": None, "weight": 1.0}


def trained(network, settings, batch):
    """The network after one training step, whose losses are finite."""
    network.train()
    optimisers, schedule = settings.optimisation(network, 10)
    mixed = {**batch, "partner": torch.tensor([1, 2, 3, 0]), "weight": 0.3}
    for each in [batch, mixed] if settings.mixup_probability else [batch]:
        outputs = {name: value.float() for name, value in network(each["image"]).items()}
        losses = network.losses(outputs, each)
        for name, loss in losses.items():
            is_number = loss.ndim == 0 and bool(loss.isfinite())
            assert is_number, f"the loss {name} is {loss.tolist()}; return a finite mean"
        (losses["total"] + losses.get("adversary", 0)).backward()
    for each in [*optimisers, schedule]:
        each.step()
    return network


def check_scores(network, loaded, images):
    """P(fake) depends on the image and the saved weights alone.

    ``loaded`` is another network of the paper, which gets the weights.
    """
    outputs = contract.outputs_of(network.eval(), images)
    if type(network).log_odds is contract.Network.log_odds:
        shape = tuple(outputs["cls"].shape)
        assert shape == (4, 2), f"cls has shape {shape} for 4 images; return (B, 2)"
    log_odds = network.log_odds(outputs)
    is_so = log_odds.shape == (4,) and bool(log_odds.isfinite().all())
    assert is_so, f"log_odds is {log_odds.tolist()} for 4 images; return finite (B,)"
    is_so = torch.allclose(network.score(outputs).double(), log_odds.double().sigmoid(), atol=1e-5)
    assert is_so, "score is not the sigmoid of log_odds, which tables show; define that"
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "weights.safetensors"))
        save_model(network, file)
        load_model(loaded, file)
    alone = [network.log_odds(contract.outputs_of(network, image[None])) for image in images]
    others = {
        "it is scored again": network.log_odds(contract.outputs_of(network, images)),
        "it is scored alone": torch.cat(alone),
        "the weights are saved and loaded": loaded.log_odds(
            contract.outputs_of(loaded.eval(), images)
        ),
    }
    # Of twelve networks, rounding in a batch of another size changed none by a tenth of this.
    tolerance = 1e-6 + 3e-5 * log_odds.abs().max()
    for when, other in others.items():
        is_so = bool((other - log_odds).abs().max() <= tolerance)
        assert is_so, f"the score of an image changes when {when}"


def check_maps(network, images):
    """Each map of a network can be made."""
    declared = network.maps()
    for name, origin in declared.items():
        sentence = f"the map {name!r} is of {origin!r}"
        if isinstance(origin, tuple):
            others = declared.keys() - {name}
            assert {*origin} <= others, f"{sentence}; other maps are {[*others]}"
        elif callable(origin):
            shape = tuple(origin(network, images).shape)
            assert len(shape) == 3, f"{sentence}, which returns {shape}; return (B, h, w)"
        elif origin != "localise":
            is_map = makes_map(network, network.get_submodule(origin), images)
            assert is_map, f"{sentence}, where forward makes no map; name another part"
    if hasattr(network, "localise") or "localise" in declared.values():
        located = network.localise(contract.outputs_of(network, images))
        is_so = located.ndim == 3 and bool(((located >= 0) & (located <= 1)).all())
        shape = tuple(located.shape)
        assert is_so, f"localise returns {shape}; return maps (B, h, w) in [0, 1]"


def makes_map(network, part, images):
    """Whether forward calls a part of the network, and Grad-CAM can be taken at its output."""
    outputs = []
    part = backbones.last_map(part) or part
    with part.register_forward_hook(lambda *call: outputs.append(call[-1])):
        contract.outputs_of(network, images)
    return bool(outputs) and isinstance(outputs[-1], Tensor) and outputs[-1].ndim in (3, 4)
