"""What a profile costs is told from its settings and a few timed steps."""

import os

import pytest
from typer.testing import CliRunner

from dfnb import cost, jobs
from dfnb.cli import app
from dfnb.data import frames

SMOKE = {"train": 64, "val": 32, "test": 48}  # frames: real and fake, of 16, 8 and 12 people with a video of two frames
TASK = {"train": 64, "val": 32, "test": 72}  # the same with three videos of one frame, forged by one method of three


@pytest.fixture
def three_hours(monkeypatch):
    """A step of 16 images takes 48 hours: three for an image that is trained on, and so one for an image scored."""
    monkeypatch.setattr(cost, "step_s", lambda paper, settings: 48 * 3600.0)


@pytest.mark.parametrize("split", SMOKE)
@pytest.mark.parametrize("methods", [(), ("swap",), ("resynthesis", "mouth")])
def test_frames_are_counted_as_they_are_drawn(home, split, methods):
    table = frames.load_frames("smoke-a")
    assert cost.frames_of("smoke-a", split, methods) == len(frames.select(table, split, methods or None))


def test_the_hours_follow_from_images_and_steps(three_hours):
    table = cost.cost("smoke")
    row = table.loc["xception", "main"]
    assert (row["trainings"], row["images"]) == (1, SMOKE["train"])
    assert row["hours"] == 3 * SMOKE["train"] + SMOKE["val"] + 2 * SMOKE["test"]
    phases = table.loc["lae", "main"]  # two, and the last alone scores the test sets
    assert (phases["trainings"], phases["images"]) == (1, 2 * SMOKE["train"])
    assert phases["hours"] == 2 * (3 * SMOKE["train"] + SMOKE["val"]) + 2 * SMOKE["test"]
    assert table.iloc[-1].tolist() == table.iloc[:-1].sum().tolist()
    assert table.loc[("all", ""), "trainings"] == len(jobs.trainings("smoke"))


def test_a_phase_that_arms_share_counts_once_and_seen_methods_make_fewer_frames(three_hours):
    row = cost.cost("smoke").loc["lae", "face swap"]
    assert row["trainings"] == 3  # one epoch each, after one epoch that all share
    assert row["images"] == (3 + 1) * TASK["train"]
    assert row["hours"] == (3 + 1) * (3 * TASK["train"] + TASK["val"]) + 3 * 2 * TASK["test"]


def test_the_command_times_real_steps_and_adds_up(monkeypatch):
    step_s = cost.step_s
    monkeypatch.setattr(cost, "STEPS", 1)
    monkeypatch.setattr(cost, "step_s", lambda *given: 1e5 * step_s(*given))  # so that all lines have hours
    done = CliRunner().invoke(app, ["cost", "smoke"])
    assert done.exit_code == 0, done.output
    *table, said = done.output.splitlines()
    *of_lines, total = (float(line.split()[-1]) for line in table[2:])
    assert "locate_and_verify" in done.output and min(of_lines) > 0
    assert total == pytest.approx(sum(of_lines), abs=0.005 * (len(of_lines) + 1))  # each rounded to two digits
    assert said.startswith(f"about {total / os.cpu_count():.1f} hours with {os.cpu_count()} trainings")
