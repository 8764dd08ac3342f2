"""The estimate of what a profile takes."""

import pytest
import torch
from profiles import BASELINE, SETTINGS, write_profile

from dfnb.running import cost, jobs
from dfnb.settings import DfnbError


def test_hours_of_all_phases_are_added_by_detector(own_home, monkeypatch):
    monkeypatch.setattr(cost, "_timed", lambda run, settings: 1.0)
    rows = {line.split()[0]: line.split()[1:] for line in cost.report("smoke").splitlines()}
    assert rows["xception"] == ["1", "1.0"] and rows["lae"] == ["3", "6.0"]


def test_a_batch_that_does_not_fit_the_memory_is_halved(own_home, monkeypatch, capsys):
    monkeypatch.setattr(cost, "DEVICE", "cuda")
    room = 8

    def timed(run, settings):
        if settings.batch_size > room:
            raise torch.OutOfMemoryError
        return settings.batch_size

    monkeypatch.setattr(cost, "_timed", timed)
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "batch_size": 32}})
    (training,) = jobs.plan("mine").trainings
    assert cost.hours(training.run) == room
    assert "32 images do not fit the memory, timing 16\n" in capsys.readouterr().out
    room = 1
    with pytest.raises(DfnbError, match="xception does not fit the memory of cuda"):
        cost.hours(training.run)


def test_hours_of_every_detector_are_measured_without_a_training(own_home, monkeypatch):
    monkeypatch.setattr(cost, "STEPS", 1)
    for job in jobs.plan("smoke", main=True).trainings:
        assert cost.hours(job.run) > 0
    assert not (own_home / "runs").exists()


def test_hours_are_those_of_all_epochs(own_home, monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(cost.time, "monotonic", lambda: 36.0 * next(ticks))
    monkeypatch.setattr(cost, "STEPS", 2)
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "epochs": 3, "batch_size": 4}})
    (training,) = jobs.plan("mine").trainings
    # One tick for two steps is 18 s per step; an epoch has 32 / 4 steps.
    assert cost.hours(training.run) == pytest.approx(3 * 8 * 18 / 3600)
