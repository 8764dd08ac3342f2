"""The benchmarks run at small sizes, and compare what is the same."""

from itertools import product

import pandas as pd
import pytest
import torch

SMALL = {"locate_and_verify": "dfnb_plain7", "exposing_the_deception": "resnet10t"}


@pytest.fixture
def step(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout / "benchmarks")
    import step

    return step


@pytest.mark.parametrize("paper", SMALL)
@pytest.mark.filterwarnings("ignore:reduction")
def test_the_transcription_computes_the_same_until_a_weight_differs(step, paper):
    settings = step.papers.module(paper).Settings(
        backbone=SMALL[paper], pretrained=False, image_size=75
    )
    ours, transcription = step.networks(paper, settings)
    batch = step.random_batch(75, 2, "cpu")
    step.check_equal(ours, transcription, batch)
    with torch.no_grad():
        transcription.cls_head[-1].weight *= 3
    with pytest.raises(AssertionError, match="differ in"):
        step.check_equal(ours, transcription, batch)


def test_a_step_is_measured_in_a_row_per_contender(step, tmp_path):
    size = {"batch": 2, "size": 64, "rounds": 1, "warmup": 0, "threads": 1}
    step.main("locate_and_verify", backbone="dfnb_plain7", out=tmp_path, **size)
    (path,) = tmp_path.iterdir()
    table = pd.read_csv(path)
    assert list(table["contender"]) == ["ours float32", "ours bfloat16", "transcription"]
    assert (table[["step_s_median", "peak_memory_mib"]] > 0).all(axis=None)
    assert table["times_as_fast_median"].iloc[-1] == 1


def test_the_peak_is_what_a_step_holds_at_once(step):
    """A weight of 1 MiB and two maps of 4 MiB; the next two maps come when those are gone."""

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2**18))

        def forward(self, images):
            for _ in range(2):
                first = torch.zeros(2**20)
                second = first + 1
                del first, second
            return {"cls": self.weight}

        def losses(self, outputs, batch):
            return {"total": outputs["cls"].sum()}

    toy = step.Contender("toy", Toy(), "32-true", torch.contiguous_format)
    assert toy.peak_mib({"image": torch.zeros(1, 3, 8, 8)}) == pytest.approx(9, abs=0.1)


def test_the_benchmark_of_a_gpu_runs_at_tiny_sizes(step, tmp_path, monkeypatch):
    import gpu

    monkeypatch.setattr(gpu, "PROFILED", 1)  # the profiler takes seconds for each step
    gpu.main(paper=["xception"], tiny=True, out=tmp_path)
    parts = {}
    for path in tmp_path.iterdir():
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        part = path.stem.removeprefix("gpu-").removesuffix("-cpu-tiny")
        parts[part] = table = pd.read_csv(path)
        assert (table["outcome"] == "measured").all(), table[["contender", "outcome"]]
    assert parts.keys() == {"golden", "steps-xception", "end-to-end", "training"}
    assert parts["golden"]["met"].all() and (parts["golden"]["difference"] < 1e-4).all()
    assert (parts["training"]["low"] <= parts["training"]["auc"]).all()
    loops = parts["end-to-end"]
    modes = {*zip(loops["contender"], loops["deterministic"])}
    assert modes == {*product(gpu.PRECISIONS, (True, False))}
    assert {*loops["workers"]} == {*gpu.TINY.workers}
    assert loops["waiting_share"].between(0, 1).all()
    per_step = loops["images_per_s"] * loops["step_s"]
    assert per_step.tolist() == pytest.approx([2] * len(loops), rel=0.02)  # both are rounded


@pytest.fixture
def readings(checkout, monkeypatch, tmp_path):
    """The readings of LAE at sizes that take seconds."""
    monkeypatch.syspath_prepend(checkout / "benchmarks")
    import lae_readings

    small = {"images_per_epoch": 64, "epochs": 1, "representation_epochs": 1}
    settings_of = lae_readings.settings_of
    monkeypatch.setattr(
        lae_readings, "settings_of", lambda reading, **_: settings_of(reading, **small)
    )
    monkeypatch.setattr(lae_readings, "DATASET", "smoke-tasks")
    monkeypatch.setattr(lae_readings, "OUT", tmp_path / "readings.csv")
    lae_readings.phase_one.cache_clear()
    return lae_readings


def test_a_reading_that_changes_nothing_is_the_package_s_lae(readings):
    committed = readings.Reading()
    settings = readings.settings_of(committed)
    network = committed.network(settings)
    batch = {
        "label": torch.tensor([0, 1, 1]),
        "has_mask": torch.tensor([False, True, False]),
        "mask": torch.rand(3, 1, 96, 96),
    }
    outputs = network(torch.rand(3, 3, 96, 96))
    as_packaged = readings.lae.Network.attention_loss(network, outputs, batch)
    torch.testing.assert_close(network.attention_loss(outputs, batch), as_packaged)
    sigmoid = readings.READINGS["cross-entropy of a sigmoid"].network(settings)
    assert not torch.allclose(sigmoid.attention_loss(outputs, batch), as_packaged)


def test_the_readings_with_the_best_maps_are_trained_to_the_end(readings, monkeypatch):
    names = [*readings.COMMITTED, "absolute differences", "cross-entropy, 24 × 24"]
    monkeypatch.setattr(readings, "READINGS", {name: readings.READINGS[name] for name in names})
    monkeypatch.setattr(readings, "CHOSEN", 1)
    readings.main()
    table = pd.read_csv(readings.OUT)
    assert (
        list(table["reading"][:4]) == names and list(table["people"]) == ["val"] * 4 + ["test"] * 3
    )
    best = table[2:4].sort_values("gain")["reading"].iloc[-1]
    assert list(table["reading"][4:]) == [*readings.COMMITTED, best]
    gain = table["pixel_ap"] - table["mean_mask_pixel_ap"]  # each cluster has as many frames
    assert gain.tolist() == pytest.approx(table["gain"].tolist(), abs=2e-4)
    assert (table["gain_low"] < table["gain"]).all()
