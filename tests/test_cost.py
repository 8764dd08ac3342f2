"""The estimate of what a profile takes: hours, memory, disk."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from profiles import BASELINE, GRID, SETTINGS, write_profile

from dfnb import synth
from dfnb.checks import DfnbError
from dfnb.data.frames import dataset_record, load_frames
from dfnb.running import cost, jobs
from dfnb.training import train
from dfnb.training.runs import settings_of

A_SECOND = cost.Phase(training=1.0, validation=0.0, memory=2**30, weights=8, checkpoint=24)


def row(text, paper):
    """The numbers of a paper, or of all, in a report."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{paper} ")]
    names = ("trainings", "training", "validation", "scoring", "hours", "GiB")
    return dict(zip(names, map(float, line.replace(",", "").split()[1:])))


@pytest.fixture
def clockless(monkeypatch):
    """A step takes 36 s, and a frame that is scored 3.6 s."""
    monkeypatch.setattr(cost, "_seconds_per_step", lambda trainer: 36.0)
    monkeypatch.setattr(cost, "_seconds_per_frame", lambda *given, **options: 3.6)


def test_everything_is_timed_in_every_detector_and_nothing_is_left(own_home, monkeypatch):
    monkeypatch.setattr(cost, "STEPS", 1)
    monkeypatch.setattr(cost, "SCORED", 4)
    text = cost.report("smoke", main=True)
    assert row(text, "all")["trainings"] == 5
    for paper in ("xception", "lae", "locate_and_verify", "exposing_the_deception"):
        assert row(text, paper)["GiB"] > 0
    assert not (own_home / "runs").exists() and not (own_home / "reports").exists()


def test_hours_are_those_of_all_epochs_and_of_all_frames(own_home, clockless):
    changes = {"epochs": 3, "batch_size": 4, "images_per_epoch": 32}
    corruptions = {"test_set": "smoke-a", "names": ["JPEG", "blur"], "severities": [1, 5]}
    write_profile(
        own_home, {**GRID, "corruptions": corruptions}, {BASELINE: {**SETTINGS, **changes}}
    )
    found = row(cost.report("mine"), "xception")
    assert found["training"] == pytest.approx(3 * 8 * 36 / 3600, abs=0.01)
    of = {name: load_frames(name)["split"].value_counts() for name in ("smoke-a", "smoke-b")}
    assert found["validation"] == pytest.approx(3 * of["smoke-a"]["val"] / 1000, abs=0.01)
    scored = of["smoke-b"]["test"] + 2 * 2 * of["smoke-a"]["test"]
    assert found["scoring"] == pytest.approx(scored / 1000, abs=0.01)
    parts = ("training", "validation", "scoring")
    assert found["hours"] == pytest.approx(sum(found[part] for part in parts), abs=0.02)


def test_a_profile_that_trains_nothing_has_no_cost(own_home):
    write_profile(own_home, notebooks={"01_data": None})
    with pytest.raises(DfnbError, match="profile mine trains and scores nothing"):
        cost.report("mine")


def test_a_phase_that_trainings_share_counts_once(own_home, monkeypatch):
    monkeypatch.setattr(cost, "_measure", lambda run: A_SECOND)
    monkeypatch.setattr(cost, "_hours_of_scoring", lambda job, tables: 0.0)
    text = cost.report("smoke")
    # LAE's main training has two phases; its two variants have one each, and a common first one.
    assert row(text, "lae") == {
        **{"trainings": 3, "training": 5, "hours": 5, "GiB": 1},
        **{"validation": 0, "scoring": 0},
    }
    assert row(text, "all")["training"] == 1 + 5 + 2 + 2 + 1
    assert "of weights, and while one trains" in text


def test_what_has_to_be_fetched_is_fetched_before_anything_is_timed(own_home, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("DFNB_DETECTOR", str(own_home / "detector.onnx"))
    monkeypatch.setattr(cost, "_measure", None)  # nothing is timed
    changes = {**SETTINGS, "region": "hull"}
    write_profile(own_home, notebooks={BASELINE: SETTINGS, "06_self_blended_images": changes})
    with pytest.raises(DfnbError, match="the face mesh could not be downloaded"):
        cost.report("mine")


def test_seeds_are_measured_once(own_home, monkeypatch):
    measured = []
    monkeypatch.setattr(cost, "_measure", lambda run: measured.append(run) or A_SECOND)
    monkeypatch.setattr(cost, "_hours_of_scoring", lambda job, tables: 0.0)
    write_profile(own_home, {**GRID, "train_set": "bed-{seed}", "seeds": [30, 31, 32]})
    assert row(cost.report("mine"), "xception")["training"] == 3
    assert len(measured) == 1


def test_published_datasets_count_before_they_are_prepared(empty_home, clockless, monkeypatch):
    """Xception as DeepfakeBench trains it: 115,200 images in each of 11 epochs."""
    small = {**SETTINGS, "image_size": 32, "images_per_epoch": None, "oversampling": 1}
    changes = {"batch_size": 32, "epochs": 11, "frames_per_video": 32}
    sets = ["faceforensics-c23", "celeb-df-v2", "wilddeepfake"]
    grid = {**GRID, "train_set": "faceforensics-c23", "test_sets": sets}
    write_profile(empty_home, grid, {BASELINE: {**small, **changes}})
    text = cost.report("mine")
    assert "Not prepared: celeb-df-v2, faceforensics-c23. " in text
    assert "Left out, neither prepared nor of known size: wilddeepfake." in text
    found = row(text, "xception")
    assert found["training"] == 11 * 115_200 / 32 * 36 / 3600
    assert found["validation"] == pytest.approx(11 * 140 * 5 * 32 / 1000)
    assert found["scoring"] == pytest.approx((140 * 5 * 32 + 518 * 32) / 1000, abs=0.01)
    # 180 kB per crop of 300 pixels: every fifth frame of 2.35 million, and 32 of 518 videos.
    assert "88 GB of frames (faceforensics-c23 85 GB, celeb-df-v2 3.0 GB)" in text
    assert not (empty_home / "datasets").exists()
    with pytest.raises(DfnbError, match="faceforensics-c23 contains no finished dataset"):
        jobs.plan("mine")


def test_an_embedded_dataset_is_as_large_as_it_says(home):
    extent = synth.extent("smoke-a")
    counts = dataset_record("smoke-a")["n"]
    for split in ("train", "val", "test"):
        frames = {
            label: sum(
                each["frames"]
                for kind, each in counts.items()
                if kind.startswith(f"{split}/") and (kind.endswith("/real") == (label == "real"))
            )
            for label in ("real", "fake")
        }
        videos = {method: each[split] for method, each in extent.videos.items()}
        assert videos.pop("real") * extent.frames == frames["real"]
        assert sum(videos.values()) * extent.frames == frames["fake"]


def test_on_a_cpu_a_batch_of_large_crops_is_small_and_more_steps_count(own_home, monkeypatch):
    monkeypatch.setattr(cost, "_seconds_per_step", lambda trainer: 1.0)
    monkeypatch.setattr(cost, "PIXELS", 8 * 96**2)
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "images_per_epoch": 32}})
    (training,) = jobs.plan("mine").trainings
    splits = train.visible_splits(training.run, settings_of(training.run), None)
    trainer, _ = cost._start(training.run, splits)
    assert trainer.settings.batch_size == 8 and trainer.steps == 4


def test_the_memory_of_a_large_batch_follows_from_that_of_a_small_one(monkeypatch):
    """On a CPU: what the backward pass needs of each image, beside what no batch changes."""
    weight = torch.ones(1000, requires_grad=True)

    def losses_of(network, batch, precision):
        first = weight * batch["image"]  # saves both; no batch changes the size of the weight
        return {"total": (first.exp() * batch["image"]).sum()}  # saves exp's result, and the image

    monkeypatch.setattr(cost, "losses_of", losses_of)
    monkeypatch.setattr(cost, "prepared", lambda item, settings: item)
    trainer = SimpleNamespace(
        settings=SimpleNamespace(batch_size=4, precision="32-true"),
        loader=[{"image": torch.zeros(4, 1000)}],
        network=SimpleNamespace(parameters=lambda: [weight]),
    )
    assert cost._memory(trainer, 32, constant=500) == 500 + 32 * 2 * 4000


def test_a_batch_that_does_not_fit_the_memory_is_halved(own_home, monkeypatch, capsys):
    room = 8

    def trainer(folder, run, splits, start):
        if run.settings["batch_size"] > room:
            raise torch.OutOfMemoryError
        return SimpleNamespace(settings=settings_of(run))

    monkeypatch.setattr(cost.device, "DEVICE", "cuda")
    monkeypatch.setattr(cost.torch.cuda, "max_memory_allocated", lambda: 1)
    monkeypatch.setattr(cost, "_seconds_per_step", lambda trainer: 1.0)
    monkeypatch.setattr(cost, "Trainer", trainer)
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "batch_size": 32}})
    (training,) = jobs.plan("mine").trainings
    started, _ = cost._start(training.run, {})
    assert started.settings.batch_size == room
    assert np.isnan(cost._memory(started, 32, constant=0)) and cost._memory(started, room, 0) == 1
    assert "32 images do not fit the memory\n" in capsys.readouterr().out
    room = 1
    with pytest.raises(DfnbError, match="xception does not fit the memory of cuda"):
        cost._start(training.run, {})


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_of_pairs_stay_pairs(own_home, monkeypatch, kind):
    """Of a paper that makes two images of a frame, however small they become."""
    sizes = []

    def trainer(folder, run, splits, start):
        sizes.append(settings_of(run).batch_size)  # refuses an odd one
        if len(sizes) < 3 and kind == "cuda":
            raise torch.OutOfMemoryError
        return SimpleNamespace(settings=settings_of(run))

    monkeypatch.setattr(cost.device, "DEVICE", kind)
    monkeypatch.setattr(cost, "PIXELS", 5 * 96**2)
    monkeypatch.setattr(cost, "_seconds_per_step", lambda trainer: 1.0)
    monkeypatch.setattr(cost, "Trainer", trainer)
    notebook = "06_self_blended_images"
    write_profile(own_home, notebooks={notebook: {**SETTINGS, "batch_size": 20, "image_size": 96}})
    (training,) = jobs.plan("mine").trainings
    cost._start(training.run, {})
    assert sizes == ([4] if kind == "cpu" else [20, 10, 4])
