"""The start of the small network: made reproducibly from drawn faces, registered with timm, used where it should be."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dfnb import core, papers, pretrain
from dfnb.cli import app
from dfnb.core import DfnbError
from dfnb.papers import backbones

TINY = {"seed": 7, "faces": 96, "size": 64, "epochs": 2, "batch_size": 32}
TAGS = ["drawn_faces", "home_faces", "second_start"]


def test_a_start_is_learned_and_comes_out_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TESTED", 64)
    chosen, lines = pretrain.Settings(**TINY), []
    before = torch.get_num_threads()
    paths = [pretrain.pretrain("tiny", tmp_path / side, chosen, lines.append) for side in "ab"]
    torch.set_num_threads(before)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    losses = [float(line.split()[-1]) for line in lines if "loss" in line]
    assert losses[1] < losses[0]
    record = core.read_json(paths[0].with_suffix(".json"))
    assert record["sha256"] == core.sha256(paths[0]) and list(record["r2"]) == list(pretrain.TARGETS)
    other = pretrain.pretrain("other", tmp_path, chosen.model_copy(update={"seed": 8}), lines.append)
    assert other.read_bytes() != paths[0].read_bytes()


def test_a_face_is_what_its_targets_say():
    chosen = pretrain.Settings(seed=3)
    image, target = pretrain.face(chosen, 5)
    known = dict(zip(pretrain.TARGETS, target))
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8 and target.shape == (27,)
    assert chosen.blur[0] <= known["blur"] <= chosen.blur[1] and 30 <= known["quality"] <= 95
    assert known["right eye x"] < known["left eye x"] and known["nose tip y"] < known["left mouth corner y"]
    again, same = pretrain.face(chosen, 5)
    assert (again == image).all() and (same == target).all()
    assert (pretrain.face(chosen, 6)[0] != image).any()


@pytest.mark.parametrize("tag", TAGS)
def test_the_committed_starts_are_what_their_records_say(tag):
    path = backbones.STARTS / f"{tag}.safetensors"
    record = core.read_json(path.with_suffix(".json"))
    assert path.stat().st_size < 400_000
    assert record["sha256"] == core.sha256(path)
    assert record["parameters"] == json.loads(pretrain.settings(tag).model_dump_json())
    assert min(record["r2"][name] for name in ("blur", "noise", "quality", "yaw", "skin red", "left eye x")) > 0.5
    model = backbones.create(f"{backbones.SMALL}.{tag}", True, num_classes=2)
    assert model.weights_from == tag.replace("_", " ")
    stored = load_file(path)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items() if name in stored)
    assert backbones.start(f"{backbones.SMALL}.{tag}", True)["sha256"] == record["sha256"]


def test_pretrained_means_the_drawn_faces():
    assert timm.get_pretrained_cfg(backbones.SMALL).tag == "drawn_faces"
    assert backbones.start(backbones.SMALL, True)["from"] == "drawn faces"
    assert backbones.start(backbones.SMALL, False) == {"from": "random weights"}
    assert backbones.start("resnet34", True)["tag"].startswith("resnet34.")


SIZES = {"image_size": 64, "mixup_probability": 0.0}
SMALLER = {
    "xception": {},
    "lae": {"decoder_widths": (8, 4), "perceptual_weight": 0.0},
    "locate_and_verify": {"mpff_width": 4, "fusion_width": 8, "fusion_out": 8},
    "exposing_the_deception": {"branches": 3, "fusion_widths": (8, 8, 8)},
}


@pytest.mark.parametrize("paper", SMALLER)
def test_every_line_starts_from_it_in_all_its_parts(paper):
    module = papers.module(paper)
    network = module.Network(module.Settings(backbone=backbones.SMALL, **SIZES, **SMALLER[paper]))
    assert network.weights_from == "drawn faces"
    last = load_file(backbones.STARTS / "drawn_faces.safetensors")["features.3.conv.weight"]
    convolutions = [value for name, value in network.named_parameters() if value.shape == last.shape]
    expected = {"xception": 1, "lae": 1, "locate_and_verify": 2, "exposing_the_deception": 3}[paper]
    assert sum(torch.equal(value, last) for value in convolutions) == expected


def test_an_unknown_start_and_a_lost_one_are_told(monkeypatch, tmp_path):
    done = CliRunner().invoke(app, ["pretrain", "nobody"])
    assert done.exit_code == 1 and "no start 'nobody'" in done.output and "drawn_faces" in done.output
    known = timm.get_pretrained_cfg(backbones.SMALL)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: known)
    monkeypatch.setattr(known, "file", str(tmp_path / "lost.safetensors"))
    with pytest.raises(DfnbError, match="make it with `dfnb pretrain drawn_faces`"):
        backbones.start(backbones.SMALL, True)
