"""Backbones: cut into stages, and what they start from, with and without a network."""

import re
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dfnb.papers import backbones
from dfnb.papers.contract import Settings
from facesets.checks import DfnbError
from facesets.files import sha256


def test_stages_together_are_the_backbone():
    torch.manual_seed(1)
    whole = backbones.create("dfnb_plain7", pretrained=False).eval()
    torch.manual_seed(1)
    stages, _, _ = backbones.stages("dfnb_plain7", pretrained=False)
    image = torch.randn(2, 3, 96, 96)
    assert torch.equal(nn.Sequential(*stages.eval())(image), whole.forward_features(image))


def test_without_a_network_pretrained_weights_are_refused_and_the_hub_is_asked_once(monkeypatch):
    asked = []

    def offline(url):
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(backbones, "get_hf_file_metadata", offline)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repository, name: None)
    message = r"weights of resnet18 cannot be fetched \(<urlopen error no route to host>\)"
    with pytest.raises(DfnbError, match=message):
        backbones.create("resnet18", pretrained=True)
    assert len(asked) == 1
    assert backbones.create("resnet18", pretrained=False).weights_from == "random weights"


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """The file that the hub gives for any model: weights of timm's smallest."""
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repository, name: str(path))
    return path


def test_fetched_weights_are_loaded_and_reported(fetched, monkeypatch):
    model = backbones.create("test_resnet", pretrained=True)
    assert model.weights_from == "ImageNet"
    for name, value in load_file(fetched).items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert backbones.start("test_resnet", True).sha256 == sha256(fetched)
    with pytest.raises(DfnbError, match="timm has none for it"):
        backbones.start("resnetblur18", True)
    assert backbones.start("dfnb_plain7", True).weights_from == "drawn faces"
    # The hub's note that it has no such file is an object, and no path.
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: object())
    with pytest.raises(DfnbError, match=r"cannot be fetched \((?!.*PathLike)"):
        backbones.start("test_resnet", True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("rename", [str, lambda name: f"of_another_package.{name}"])
def test_a_file_of_weights_is_loaded_by_name_or_in_order(suffix, rename, tmp_path):
    weights = timm.create_model("test_resnet").state_dict()
    file = tmp_path / f"mine{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    # The format of safetensors sorts names; torch.save keeps the order.
    write({rename(name): value for name, value in weights.items()}, file)
    if suffix == ".safetensors" and rename is not str:
        with pytest.raises(DfnbError, match=r"mine.safetensors is not valid as weights"):
            backbones.create("test_resnet", str(file))
        return
    model = backbones.create("test_resnet", str(file), num_classes=2)
    assert model.weights_from == file.name and model.fc.weight.shape[0] == 2
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, weights[name]), name
    assert backbones.start("test_resnet", str(file)).sha256 == sha256(file)


def test_a_file_of_another_network_is_refused(fetched):
    with pytest.raises(DfnbError, match=r"model.safetensors is not valid as weights of resnet18"):
        backbones.create("resnet18", str(fetched))
    with pytest.raises(DfnbError, match=r"no.pth is not valid as a file of weights"):
        backbones.start("resnet18", str(fetched.parent / "no.pth"))


@pytest.mark.parametrize("content", ["text", {"state_dict": {}}, [1], torch.zeros(3), {"a": 1}])
def test_a_file_without_tensors_by_name_is_refused_in_one_sentence(content, tmp_path):
    file = tmp_path / "mine.pth"
    file.write_text("abc") if isinstance(content, str) else torch.save(content, file)
    with pytest.raises(DfnbError, match=r"mine.pth is not valid as weights of test_resnet \(it "):
        backbones.create("test_resnet", str(file))


def test_damaged_weights_are_refused(fetched):
    fetched.write_bytes(fetched.read_bytes()[:-1])
    with pytest.raises(DfnbError, match=f"from {fetched}, is not valid"):
        backbones.create("test_resnet", pretrained=True)


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        (backbones.create, "legacy_xceptoin", "backbone 'legacy_xceptoin' is not valid for timm"),
        (backbones.stages, "resnet18", "use legacy_xception or dfnb_plain7"),
    ],
)
def test_unusable_names_are_explained(call, name, message):
    with pytest.raises(DfnbError, match=re.escape(message)):
        call(name, pretrained=False)


def test_another_backbone_brings_the_input_of_its_weights():
    vit = Settings.check({"backbone": "vit_small_patch14_dinov2.lvd142m"}, "profile.yaml")
    assert vit.mean == (0.485, 0.456, 0.406) and vit.interpolation == "bicubic"
    stated = Settings(backbone="resnet18.tv_in1k", mean=(0.5, 0.5, 0.5))
    assert stated.mean == stated.std == (0.5, 0.5, 0.5) and stated.interpolation == "bilinear"
    small = Settings(backbone="dfnb_plain7")  # as the study's trainings, which keep their names
    assert small.model_dump(exclude_defaults=True) == {"backbone": "dfnb_plain7"}
    assert Settings(backbone="no_such_network").mean == (0.5, 0.5, 0.5)
