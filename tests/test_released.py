"""Released weights in the files that training scripts write."""

import argparse
import os

import numpy as np
import pytest
import torch

from dfnb.papers import released_weights, xception
from facesets.checks import DfnbError

SETTINGS = xception.Settings(backbone="dfnb_plain7", pretrained=False, image_size=96)


@pytest.fixture
def source():
    """A network with weights of its own, and the weights."""
    torch.manual_seed(1)
    return xception.Network(SETTINGS).state_dict()


def halved(weights):
    return {name: tensor / 2 for name, tensor in weights.items()}


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


FORMS = {
    "alone": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "net": lambda weights: {"net": weights, "epoch": 3},
    "model_state_dict": lambda weights: {"model_state_dict": weights},
    "nested": lambda weights: {"checkpoint": {"model": weights}},
    "module.": lambda weights: {"model": prefixed("module.", weights)},
    "module.net.": lambda weights: prefixed("module.net.", weights),
    "_orig_mod.": lambda weights: prefixed("_orig_mod.", weights),
    "average": lambda weights: {"model_ema": halved(weights), "model": weights},
    "average alone": lambda weights: {"state_dict_ema": weights},
    "optimiser": lambda weights: {
        "state_dict": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "discriminator": lambda weights: {"d": {"conv.weight": torch.zeros(3)}, "g": weights},
    "numpy": lambda weights: {
        "state_dict": weights,
        "best": np.float64(0.97),
        "step": np.int64(3),
        "done": np.bool_(True),
        "history": np.zeros(4, np.float32),
    },
    "options": lambda weights: {"model": weights, "args": argparse.Namespace(lr=0.1)},
    "old": lambda weights: {
        name: tensor for name, tensor in weights.items() if "num_batches" not in name
    },
    "doubles": lambda weights: {name: tensor.to(torch.float64) for name, tensor in weights.items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_old", [False, True])
def test_weights_are_found_under_any_key(tmp_path, source, form, is_old):
    file = tmp_path / "a.pth"
    torch.save(FORMS[form](source), file, _use_new_zipfile_serialization=not is_old)
    torch.manual_seed(2)
    network = xception.Network(SETTINGS)
    released_weights.load_file(network, str(file), xception)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source[name]), name


class Command:
    """Executed by whatever unpickles it."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


REFUSED = {
    "code": (lambda weights: {"model": weights, "x": Command()}, r"mkdir.*save the weights alone"),
    "module": (
        lambda _: torch.nn.Sequential(torch.nn.Linear(2, 2)),
        r"torch\.nn\.modules.*save the weights alone: torch\.save",
    ),
    "two": (
        lambda weights: {"first": weights, "second": halved(weights)},
        "both first and second in it fit",
    ),
    "none": (lambda _: {"epoch": 3, "loss": 0.1}, r"contains no tensors, but \['epoch', 'loss'\]"),
    "list": (lambda weights: [*weights.values()], "contains no tensors, but list"),
    "others": (
        lambda _: {"net": {"a": torch.zeros(1)}, "epoch": 3},
        r"tensors are missing or unexpected: .*; the file has \['net', 'epoch'\]",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_other_files_are_refused_by_what_they_contain(tmp_path, source, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    make, sentence = REFUSED[form]
    torch.save(make(source), tmp_path / "a.pth")
    with pytest.raises(DfnbError, match=rf"a\.pth .*{sentence}"):
        released_weights.load_file(xception.Network(SETTINGS), str(tmp_path / "a.pth"), xception)
    assert not (tmp_path / "executed").exists()


def test_what_torch_has_not_saved_is_refused_in_our_words(tmp_path):
    """Torch's would advise to execute what the file contains."""
    (tmp_path / "a.pth").write_text("abc")
    with pytest.raises(DfnbError, match="it is damaged, or no file of weights") as error:
        released_weights.load_file(xception.Network(SETTINGS), str(tmp_path / "a.pth"), xception)
    assert "weights_only" not in str(error.value)
