"""The estimate of what a profile takes."""

from profiles import BASELINE, GRID, LOCATE, SETTINGS, write_profile

from dfnb.data.frames import load_frames, select
from dfnb.running import cost, jobs


def test_images_are_counted_as_they_are_shown(own_home):
    settings = {**SETTINGS, "images_per_epoch": None, "epochs": 3, "oversampling": 2}
    write_profile(own_home, notebooks={BASELINE: settings})
    labels = select(load_frames("smoke-a"), "train")["label"]
    epoch = 2 * (labels == 0).sum() + (labels == 1).sum()
    epoch -= epoch % SETTINGS["batch_size"]
    (training,) = jobs.plan("mine").trainings
    assert cost.images_shown(training.run) == 3 * epoch


def test_images_of_hidden_classes_are_not_counted(own_home):
    few = {"image_size": 96, "batch_size": 16, "epochs": 1}
    write_profile(own_home, notebooks={"06_self_blended_images": few})
    (training,) = jobs.plan("mine").trainings
    reals = (select(load_frames("smoke-a"), "train")["label"] == 0).sum()
    assert cost.images_shown(training.run) == 2 * (reals - reals % 8)


def test_a_report_has_a_row_per_detector_and_sums(own_home, monkeypatch):
    small = {**SETTINGS, "mpff_width": 8, "fusion_width": 16, "fusion_out": 16}
    write_profile(own_home, {**GRID, "seeds": [1, 2]}, {BASELINE: SETTINGS, LOCATE: small})
    speeds = {"xception": 0.01, "locate_and_verify": 0.02}
    monkeypatch.setattr(cost, "_images_per_s", lambda run: speeds[run.paper])
    report = cost.report("mine")
    rows = {line.split()[0]: line.split()[1:] for line in report.splitlines()}
    # trainings, images, images per s, hours: 64 images / .01 per s = 6400 s
    assert rows["xception"] == ["2", "64", "0.01", "1.78"]
    assert rows["locate_and_verify"] == ["2", "64", "0.02", "0.89"]
    assert "GiB of disk" in report and not (own_home / "runs").exists()


def test_the_speed_of_every_detector_is_measured_without_a_training(own_home):
    for job in jobs.plan("smoke", []).trainings:
        assert cost._images_per_s(job.run) > 0
    assert not (own_home / "runs").exists()
