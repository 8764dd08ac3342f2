"""What a profile costs is told from its settings and a few timed steps."""

import pytest
from typer.testing import CliRunner

from dfnb import cost, jobs, synth
from dfnb.cli import app


@pytest.fixture
def one_hour(monkeypatch):
    monkeypatch.setattr(cost, "step_s", lambda paper, settings: 3600.0)


def test_the_hours_follow_from_images_and_steps(one_hour):
    table = cost.cost("smoke")
    row = table.loc["xception", "main"]
    known = synth.preset("smoke-a"), synth.preset("smoke-b")
    train, val = (2 * known[0].identities[split] * known[0].videos * known[0].frames for split in ("train", "val"))
    test = sum(2 * each.identities["test"] * each.videos * each.frames for each in known)
    assert row["trainings"] == 1 and row["images"] == train
    assert row["hours"] == pytest.approx((train + (val + test) / 3) / 16, abs=0.005)  # rounded to two digits
    assert table.loc[("all", ""), "trainings"] == len(jobs.trainings("smoke"))
    phases = table.loc["lae", "main"]
    assert phases["images"] == 2 * train


def test_a_phase_that_arms_share_counts_once_and_seen_methods_make_fewer_frames(one_hour):
    task = synth.preset("smoke-tasks")
    people, methods = task.identities["train"] * task.videos * task.frames, len(task.methods)
    seen = people * (1 + 1 / methods)  # all real frames, and the forged ones of one method
    row = cost.cost("smoke").loc["lae", "face swap"]
    assert row["trainings"] == 3  # one epoch each, after one epoch that all share
    assert row["images"] == pytest.approx((3 + 1) * seen, abs=4)


def test_the_command_times_real_steps_and_adds_up(monkeypatch):
    monkeypatch.setattr(cost, "STEPS", 1)
    done = CliRunner().invoke(app, ["cost", "smoke"])
    assert done.exit_code == 0, done.output
    assert "locate_and_verify" in done.output and "hours with" in done.output
