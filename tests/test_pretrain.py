"""The start of the small network: learned repeatably from drawn faces; detectors use it."""

import re

import joblib
import numpy as np
import pretrain
import pytest
import torch
from networks import small
from safetensors.torch import load_file

from dfnb import papers
from dfnb.papers import backbones
from drawnfaces import people
from facesets.files import read_json, sha256
from facesets.seeds import rng

TINY = {"faces": 96, "size": 64, "epochs": 2, "batch_size": 32}


def test_a_start_is_learned_and_comes_out_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "TESTED", 64)
    weights = {}
    with joblib.parallel_config("threading"):
        for name, seed in (("first", 7), ("again", 7), ("other", 8)):
            settings = pretrain.Settings(seed=seed, **TINY)
            path = pretrain.pretrain(name, tmp_path, settings)
            weights[name] = path.read_bytes()
            record = read_json(path.with_suffix(".json"))
            assert record["sha256"] == sha256(path)
            assert list(record["r2"]) == list(pretrain.TARGETS)
    assert weights["first"] == weights["again"] != weights["other"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "first: epoch" in line]
    losses = [float(line.split()[-1]) for line in lines]
    assert losses[1] < losses[0]


def test_a_face_is_what_its_targets_say():
    """Each target, by its name, is what the face was drawn, captured and delivered with."""
    settings = pretrain.Settings(seed=3, blur=(0.5, 0.5), noise=(0.02, 0.02), jpeg=(70, 70))
    image, values = pretrain.face(settings, 5)
    assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
    # The same stream gives the same person and pose once more.
    draw = rng("pretext", 3, 5)
    look = people.person(draw, draw.uniform(0, 4))
    [pose] = people.motion(draw, draw, 1)
    expected = {"blur": 0.5, "noise": 0.02, "quality": 70}
    for name in pretrain.POSE:
        expected[name] = getattr(pose, name)
    for i, colour in enumerate(("red", "green", "blue")):
        expected[f"skin {colour}"] = look.skin[i]
        expected[f"hair {colour}"] = look.hair[i]
    targets = dict(zip(pretrain.TARGETS, values, strict=True))
    for name, value in expected.items():
        assert targets[name] == np.float32(value), name
    assert targets["right eye x"] < targets["nose tip x"] < targets["left eye x"]
    assert targets["left eye y"] < targets["nose tip y"] < targets["left mouth corner y"]


@pytest.mark.parametrize("name", ["drawn_faces", "drawn_faces_wide"])
def test_the_committed_start_is_what_its_record_says(name):
    path = backbones.STARTS / f"{name}.safetensors"
    record = read_json(path.with_suffix(".json"))
    assert record["sha256"] == sha256(path)
    assert record["parameters"] == pretrain.settings_of(name).model_dump(mode="json")
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
