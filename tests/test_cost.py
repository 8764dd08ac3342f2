"""What a profile costs is told from its settings and a few timed steps."""

import os

import cost
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from dfnb import jobs, papers
from dfnb.cli import app
from dfnb.core import DfnbError
from dfnb.data import frames

SMOKE = {"train": 64, "val": 32, "test": 48}  # frames: real and fake, of 16, 8 and 12 people with a video of two frames
TASK = {"train": 64, "val": 32, "test": 72}  # the same with three videos of one frame, forged by one method of three


@pytest.fixture
def three_hours(monkeypatch):
    """Three hours for an image that is trained on, and so one for an image scored; a quarter GiB per image beside one."""
    monkeypatch.setattr(cost, "measured", lambda paper, settings, n: (3 * 3600.0, 1.0 + n / 4))


@pytest.mark.parametrize("split", SMOKE)
@pytest.mark.parametrize("methods", [(), ("swap",), ("resynthesis", "mouth")])
@pytest.mark.parametrize("per_video", [None, 1, 5])
def test_frames_are_counted_as_they_are_drawn(home, split, methods, per_video):
    table = frames.load_frames("smoke-a")
    labels = frames.thinned(frames.select(table, split, methods or None), per_video)["label"].value_counts()
    assert cost.frames_of("smoke-a", split, methods, per_video) == (labels[0], labels[1])


def test_frames_of_published_sets_are_counted_or_told_by_the_manifest(home, tmp_path):
    assert cost.frames_of("faceforensics-c40", "train") == (720 * 94, 2880 * 94)
    assert cost.frames_of("faceforensics-c23", "val", ("Deepfakes",), 32) == (140 * 32, 140 * 32)
    with pytest.raises(
        DfnbError, match="how many videos the split train of dfdc has is not known before it is prepared"
    ):
        cost.frames_of("dfdc", "train")
    (home / "datasets/celeb-df-v1").symlink_to(home / "datasets/smoke-a")
    cost.frames_of.cache_clear()
    assert cost.frames_of("celeb-df-v1", "test", (), 1) == (24 // 2, 24 // 2)
    (home / "datasets/celeb-df-v1").unlink()
    cost.frames_of.cache_clear()


def test_the_steps_of_an_epoch_are_those_of_the_released_codes(three_hours, tmp_path, monkeypatch):
    """Locate and Verify: 184,320 images at 32 frames per video; Exposing the Deception's lists: 264,598 and 4 × 73,649."""
    monkeypatch.setattr(cost, "frames_of", cost.frames_of.__wrapped__)
    main = {job.notebook: job.parameters for job in jobs.trainings("paper") if not job.group}
    phases = cost._phases(main["04_locate_and_verify"])
    assert [phase["images"] for phase in phases.values()] == [30 * 184_320]
    # judging an epoch takes less than a tenth of its time
    assert cost.SCORING * sum(cost.frames_of("faceforensics-c23", "val", (), 32)) < 0.1 * 184_320
    assert cost.SCORING * sum(cost.frames_of("faceforensics-c23", "val")) < 0.1 * 2184 * 256
    real = lambda name, split, *shown: (73_649, 264_598) if split == "train" else (0, 0)  # noqa: E731
    monkeypatch.setattr(cost, "frames_of", real)
    p = main["05_exposing_the_deception"]
    (phase,) = cost._phases(p).values()
    assert p.frames_per_video is None and phase["images"] // 20 // p.batch_size == 2184
    table = pd.DataFrame({"label": [0] * 73_649 + [1] * 264_598, "method": "x"})
    sampler = frames.EpochSampler(table, p.batch_size, p.seed, p.images_per_epoch, p.oversampling)
    assert len(sampler) == 2184 and sampler.n // 2 - 1000 < np.bincount(table["label"][sampler.order(0)])[0]


def test_the_hours_follow_from_images_and_steps(three_hours):
    table = cost.cost("smoke")
    row = table.loc["xception", "main"]
    assert (row["trainings"], row["images"]) == (1, SMOKE["train"])
    tests = 2 * 2 * SMOKE["test"]  # two sets, after the only epoch and at the end
    assert row["scored"] == SMOKE["val"] + tests and row["hours"] == 3 * row["images"] + row["scored"]
    assert row["memory GiB"] == 1 + 16 / 4
    phases = table.loc["lae", "main"]  # two, and the last alone scores the test sets, at the end
    assert (phases["trainings"], phases["images"]) == (1, 2 * SMOKE["train"])
    assert phases["hours"] == 2 * (3 * SMOKE["train"] + SMOKE["val"]) + 2 * SMOKE["test"]
    *columns, memory = table.columns
    assert table[columns].iloc[-1].tolist() == table[columns].iloc[:-1].sum().tolist()
    assert memory == "memory GiB" and table[memory].iloc[-1] == table[memory].iloc[:-1].max()
    assert table.loc[("all", ""), "trainings"] == len(jobs.trainings("smoke"))


def test_a_phase_that_arms_share_counts_once_and_seen_methods_make_fewer_frames(three_hours):
    row = cost.cost("smoke").loc["lae", "face swap"]
    assert row["trainings"] == 3  # one epoch each, after one epoch that all share
    assert row["images"] == (3 + 1) * TASK["train"]
    assert row["hours"] == (3 + 1) * (3 * TASK["train"] + TASK["val"]) + 3 * 2 * TASK["test"]


def test_crops_take_the_disk_that_is_told(home):
    stored = sum(file.stat().st_size for file in (home / "datasets/smoke-a").rglob("frames.npy"))
    assert cost.disk("smoke")["smoke-a"] == pytest.approx(stored / 2**30, rel=0.01)
    assert cost.disk("paper")["faceforensics-c23"] == pytest.approx(5 * 1000 * 94 * 300**2 * 3 / 2**30, abs=0.1)


def test_the_memory_of_a_step_is_that_of_its_tensors(monkeypatch):
    kept = torch.empty(0)

    def forward():
        nonlocal kept
        kept = torch.ones(1 << 20)
        return (kept + 1).sum()

    assert cost._peak(forward) == pytest.approx(2 * 4 * 2**20, rel=0.01)


def test_the_command_times_real_steps_and_adds_up(monkeypatch):
    measured = cost.measured

    def slow(*given):  # so that all lines have hours
        image_s, gib = measured(*given)
        return 1e5 * image_s, gib

    monkeypatch.setattr(cost, "measured", slow)
    done = CliRunner().invoke(app, ["cost", "smoke"])
    assert done.exit_code == 0, done.output
    *table, how, said, crops = done.output.splitlines()
    *of_lines, total = (float(line.split()[-2]) for line in table[2:])
    memory = [float(line.split()[-1]) for line in table[2:]]
    assert how.startswith("hours = (images + 0.33 scored)") and 0 < max(memory) == memory[-1] < 5
    assert crops.startswith("crops, GiB: smoke-a 0.0, smoke-b 0.0; in all")
    assert "locate_and_verify" in done.output and min(of_lines) > 0
    assert total == pytest.approx(sum(of_lines), abs=0.005 * (len(of_lines) + 1))  # each rounded to two digits
    slots = torch.cuda.device_count() or os.cpu_count()
    assert said.startswith(f"about {total / slots:.1f} hours with {slots} trainings side by side on ")


@pytest.mark.parametrize(("sharpness", "per_step"), [(0.0, 1), (0.05, 2)])
def test_a_second_pass_over_a_batch_is_timed(monkeypatch, sharpness, per_step):
    """Sharpness-aware minimisation doubles the passes, and so nearly the hours."""
    sbi, passes, steps = papers.module("self_blended_images"), [], []
    losses, moved = sbi.Network.losses, torch.optim.AdamW.step
    monkeypatch.setattr(sbi.Network, "losses", lambda *given: passes.append(1) or losses(*given))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *given: steps.append(1) or moved(*given))
    small = {"backbone": "dfnb_plain7", "pretrained": False, "image_size": 32, "batch_size": 4}
    settings = sbi.Settings(**small, sharpness=sharpness).model_dump_json()
    cost.measured.__wrapped__("self_blended_images", settings, 4)
    assert len(passes) == per_step * len(steps) + 1 > 2  # and once for the memory
