"""The start of the small network: made reproducibly from drawn faces, registered with timm, used where it should be."""

import json
import subprocess
import sys
from urllib.error import URLError

import joblib
import numpy as np
import pretrain
import pytest
import timm
import torch
from networks import small
from safetensors.torch import load_file

from dfnb import core, papers
from dfnb.core import DfnbError
from dfnb.papers import backbones

TINY = {"seed": 7, "faces": 96, "size": 64, "epochs": 2, "batch_size": 32}
TAGS = ["drawn_faces", "home_faces", "second_start"]


def test_a_start_is_learned_and_comes_out_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TESTED", 64)
    chosen, lines = pretrain.Settings(**TINY), []
    before = torch.get_num_threads()
    paths = [pretrain.pretrain("tiny", tmp_path / "a", chosen, lines.append)]
    with joblib.parallel_config("threading"):  # faces drawn in processes or, sooner, in threads are the same
        paths.append(pretrain.pretrain("tiny", tmp_path / "b", chosen, lines.append))
        other = pretrain.pretrain("other", tmp_path, chosen.model_copy(update={"seed": 8}), lines.append)
    torch.set_num_threads(before)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    losses = [float(line.split()[-1]) for line in lines if "loss" in line]
    assert losses[1] < losses[0]
    record = core.read_json(paths[0].with_suffix(".json"))
    assert record["sha256"] == core.sha256(paths[0]) and list(record["r2"]) == list(pretrain.TARGETS)
    assert other.read_bytes() != paths[0].read_bytes()


def test_a_face_is_what_its_targets_say(monkeypatch):
    """Each target, by its name, is what the face was drawn, captured and delivered with."""
    steps = {}

    def watched(function):
        def call(*given):
            steps[function.__name__] = given, function(*given)
            return steps[function.__name__][1]

        return call

    monkeypatch.setattr(pretrain.people, "render", watched(pretrain.people.render))
    monkeypatch.setattr(pretrain, "capture", watched(pretrain.capture))
    monkeypatch.setattr(pretrain, "deliver", watched(pretrain.deliver))
    chosen = pretrain.Settings(seed=3)
    image, target = pretrain.face(chosen, 5)
    (look, pose, *_), shot = steps["render"]
    camera, delivery = steps["capture"][0][1], steps["deliver"][0][1]
    expected = vars(pose) | {"quality": delivery.jpeg[0], "blur": camera.blur[0], "noise": camera.noise[0]}
    for part in ("skin", "hair"):
        expected |= {f"{part} {colour}": value for colour, value in zip(("red", "green", "blue"), getattr(look, part))}
    for point, places in zip(pretrain.POINTS, shot.landmarks / 96):
        expected |= {f"{point} {axis}": place for axis, place in zip("xy", places)}
    known = dict(zip(pretrain.TARGETS, target, strict=True))
    assert len(known) == 27 and known == {name: np.float32(expected[name]) for name in known}
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8 and (image == steps["deliver"][1][0]).all()
    assert known["right eye x"] < known["left eye x"] and known["nose tip y"] < known["left mouth corner y"]
    again, same = pretrain.face(chosen, 5)
    assert (again == image).all() and (same == target).all()
    assert (pretrain.face(chosen, 6)[0] != image).any()
    fixed = {"blur": (0.5, 0.5), "noise": (0.02, 0.02), "jpeg": (70, 70)}  # a range of one value is that value
    [blur, noise, quality] = pretrain.face(pretrain.Settings(seed=3, **fixed), 5)[1][:3]
    assert (blur, noise, quality) == (np.float32(0.5), np.float32(0.02), 70)
    drawn = np.array([pretrain.face(chosen, number)[1][:3] for number in range(20)]).T
    for values, (low, high) in zip(drawn, (chosen.blur, chosen.noise, chosen.jpeg)):
        assert low <= values.min() < (low + high) / 2 < values.max() <= high


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
    assert stored.keys() == {name for name in model.state_dict() if name.startswith("features.")} != set()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in stored.items())
    assert backbones.start(f"{backbones.SMALL}.{tag}", True)["sha256"] == record["sha256"]


def test_pretrained_means_the_drawn_faces(monkeypatch):
    assert timm.get_pretrained_cfg(backbones.SMALL).tag == "drawn_faces"
    assert backbones.start(backbones.SMALL, True)["from"] == "drawn faces"
    assert backbones.start(backbones.SMALL, False) == {"from": "random weights"}

    def unreachable(*given):
        raise URLError("no route to host")

    monkeypatch.setattr(backbones, "download_from_hf", unreachable)
    tag = timm.get_pretrained_cfg("resnet18").tag
    assert backbones.start("resnet18", True) == {"from": "random weights", "tag": f"resnet18.{tag}"}


@pytest.mark.parametrize("paper", papers.names())
def test_every_line_starts_from_it_in_all_its_parts(paper):
    network = small(paper, pretrained=True)
    assert network.weights_from == "drawn faces"
    last = load_file(backbones.STARTS / "drawn_faces.safetensors")["features.3.conv.weight"]
    convolutions = [value for name, value in network.named_parameters() if value.shape == last.shape]
    expected = {"locate_and_verify": 2, "exposing_the_deception": 3}.get(paper, 1)
    assert sum(torch.equal(value, last) for value in convolutions) == expected


def test_an_unknown_start_and_a_lost_one_are_told(monkeypatch, tmp_path):
    command = [sys.executable, pretrain.__file__, "nobody"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "no start 'nobody'" in done.stderr and len(done.stderr.splitlines()) == 1
    known = timm.get_pretrained_cfg(backbones.SMALL)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: known)
    monkeypatch.setattr(known, "file", str(tmp_path / "lost.safetensors"))
    with pytest.raises(DfnbError, match=r"make it with `python scripts/pretrain\.py drawn_faces`"):
        backbones.start(backbones.SMALL, True)
