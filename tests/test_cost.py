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
    assert row["trainings"] == 1 and row["images trained on"] == train and row["images scored"] == val + test
    assert row["hours"] == pytest.approx((train + (val + test) / 3) / 16, abs=0.005)  # rounded to two digits
    assert table.loc[("all", ""), "trainings"] == len(jobs.trainings("smoke"))
    phases = table.loc["lae", "main"]
    assert phases["images trained on"] == 2 * train


def test_the_command_times_real_steps_and_adds_up(monkeypatch):
    monkeypatch.setattr(cost, "STEPS", 1)
    done = CliRunner().invoke(app, ["cost", "smoke"])
    assert done.exit_code == 0, done.output
    assert "locate_and_verify" in done.output and "hours with" in done.output
