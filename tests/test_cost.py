"""The estimate of what a profile takes."""

import pytest
from profiles import BASELINE, GRID, LOCATE, SETTINGS, write_profile

from dfnb.running import cost, jobs


def test_a_report_has_a_row_per_detector(own_home, monkeypatch):
    write_profile(own_home, {**GRID, "seeds": [1, 2]}, {BASELINE: SETTINGS, LOCATE: SETTINGS})
    hours = {"xception": 0.25, "locate_and_verify": 1.5}
    monkeypatch.setattr(cost, "hours", lambda run: hours[run.paper])
    rows = {line.split()[0]: line.split()[1:] for line in cost.report("mine").splitlines()}
    assert rows["xception"] == ["2", "0.5"] and rows["locate_and_verify"] == ["2", "3.0"]


def test_all_phases_count_and_released_weights_take_no_time(own_home, monkeypatch):
    monkeypatch.setattr(cost, "_hours_of_phase", lambda run, settings: 1.0)
    by_paper = {job.run.paper: job.run for job in jobs.plan("smoke", main=True).trainings}
    assert cost.hours(by_paper["xception"]) == 1 and cost.hours(by_paper["lae"]) == 2
    run = by_paper["exposing_the_deception"]
    released = run.settings | {"released": "weights/etd.pth", "mixup_probability": 0.0}
    assert cost.hours(run.model_copy(update={"settings": released})) == 0


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
