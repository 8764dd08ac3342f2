"""Backbones: cut into stages, random where the network is away, and said so."""

import logging
import re
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dfnb import core, papers
from dfnb.core import DfnbError
from dfnb.papers import backbones, xception


def test_stages_of_xception_have_the_released_sizes():
    stages, channels, strides = backbones.stages("legacy_xception", pretrained=False)
    assert channels == [64, 128, 256, 728, 728, 728, 2048] and strides == [2, 4, 8, 16, 16, 16, 32]
    x, sizes = torch.zeros(1, 3, 299, 299), []
    with torch.no_grad():
        for stage in stages.eval():
            x = stage(x)
            sizes.append(x.shape[-1])
    assert sizes == [150, 75, 38, 19, 19, 19, 10]


def test_stages_together_are_the_backbone():
    torch.manual_seed(1)
    whole = backbones.create("dfnb_plain7", pretrained=False).eval()
    torch.manual_seed(1)
    stages, _, _ = backbones.stages("dfnb_plain7", pretrained=False)
    image = torch.randn(2, 3, 96, 96)
    assert stages.training and torch.equal(nn.Sequential(*stages.eval())(image), whole.forward_features(image))


def test_plain7_is_a_timm_model():
    model = timm.create_model("dfnb_plain7", num_classes=2, in_chans=6)
    assert sum(p.numel() for p in model.parameters()) < 0.1e6
    assert model(torch.randn(2, 6, 96, 96)).shape == (2, 2)
    assert model.forward_features(torch.randn(2, 6, 96, 96)).shape == (2, model.num_features, 12, 12)
    assert timm.create_model("dfnb_plain7", num_classes=0)(torch.randn(2, 3, 96, 96)).shape == (2, model.num_features)


def test_without_a_network_the_weights_are_random_and_the_log_says_so(monkeypatch, caplog):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(backbones, "download_from_hf", offline)
    with caplog.at_level(logging.WARNING):
        torch.manual_seed(3)
        network = xception.Network(xception.Settings(backbone="resnet18"))
    assert network.weights_from == "random weights"
    assert [record.message for record in caplog.records if record.name.startswith("dfnb")] == [
        "No pretrained weights for resnet18 (URLError: <urlopen error no route to host>): starting from random weights."
    ]
    torch.manual_seed(3)
    plain = xception.Network(xception.Settings(backbone="resnet18", pretrained=False))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """The file that the hub would give for any model: weights of timm's smallest."""
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    monkeypatch.setattr(backbones, "download_from_hf", lambda repository, name: str(path))
    return path


def test_fetched_weights_are_reported_with_their_hash(fetched, caplog):
    network, source = xception.Network(xception.Settings(backbone="test_resnet")), load_file(fetched)
    assert network.weights_from == "ImageNet" and not caplog.records
    loaded = {name: value for name, value in network.backbone.state_dict().items() if "fc" not in name}
    assert loaded and all(torch.equal(value, source[name]) for name, value in loaded.items())
    facts = {"from": "ImageNet", "tag": "test_resnet.r160_in1k", "sha256": core.sha256(fetched)}
    assert backbones.start("test_resnet", True) == facts
    assert backbones.create("resnetblur18", pretrained=True).weights_from == "random weights"
    assert "No pretrained weights for resnetblur18 (timm has none for it)" in caplog.text


@pytest.mark.parametrize("damage", ["another byte", "truncated", "empty"])
def test_weights_that_are_not_the_pinned_ones_are_refused_before_they_are_read(fetched, monkeypatch, damage):
    pins, content = core.read_yaml(backbones.TABLE)["sha256"], fetched.read_bytes()
    of_xception = timm.get_pretrained_cfg("legacy_xception.tf_in1k").url
    assert f"-{pins['legacy_xception.tf_in1k']}." in of_xception and all(map(timm.is_model_pretrained, pins))
    table = fetched.with_name("table.yaml")
    core.write_bytes(table, f"sha256: {{test_resnet.r160_in1k: '{core.sha256(fetched)}'}}".encode())
    monkeypatch.setattr(backbones, "TABLE", table)
    assert backbones.start("test_resnet", True)["from"] == "ImageNet"
    ends = {"another byte": bytes([content[-1] ^ 1]), "truncated": b"", "empty": b""}
    fetched.write_bytes((b"" if damage == "empty" else content[:-1]) + ends[damage])
    with pytest.raises(DfnbError, match=r"model\.safetensors is damaged or not timm's r160_in1k; delete it"):
        backbones.start("test_resnet", True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: backbones.create("legacy_xceptoin", False), "no backbone 'legacy_xceptoin'; timm.list_models() lists"),
        (lambda: backbones.stages("resnet18", False), "use legacy_xception or dfnb_plain7"),
        (lambda: papers.module("locate"), "there is no paper 'locate'"),
    ],
)
def test_bad_names_are_explained(call, message):
    with pytest.raises(DfnbError, match=re.escape(message)):
        call()
