"""The benchmarks run at small sizes, and compare what is the same."""

import os
from itertools import product

import pandas as pd
import pytest
import torch

from dfnb.training.train import make_training, train

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


def tiny_benchmark(out):
    """The benchmark of a GPU at tiny sizes, but for its golden networks of published size."""
    import gpu

    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # joblib's workers would live on for five minutes
    gpu.PROFILED = 1  # the profiler takes seconds for each step
    # On a busy machine its fifteen minutes would leave parts out.
    gpu.main(paper=["xception"], tiny=True, out=out, minutes=60)


def test_the_benchmark_of_a_gpu_runs_at_tiny_sizes(step, tmp_path, apart):
    import gpu

    apart(tiny_benchmark, tmp_path)
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
    """The readings of LAE at sizes that take seconds: two epochs of phase two, or one."""
    monkeypatch.syspath_prepend(checkout / "benchmarks")
    import lae_readings

    small = {"images_per_epoch": 64, "epochs": 2, "representation_epochs": 1}
    settings_of = lae_readings.settings_of
    monkeypatch.setattr(
        lae_readings,
        "settings_of",
        lambda reading, **changes: settings_of(reading, **{**small, **changes}),
    )
    monkeypatch.setattr(lae_readings, "SHORT", {"epochs": 1})
    monkeypatch.setattr(lae_readings, "DATASET", "smoke-tasks")
    monkeypatch.setattr(lae_readings, "SWAP", ["FaceSwap-like"])
    monkeypatch.setattr(lae_readings, "OUT", tmp_path)
    lae_readings.phase_one.cache_clear()
    return lae_readings


def losses_by_hand(attention, mask):
    """The attention loss of one real frame and one annotated fake, by reading."""
    real, fake = attention[0], attention[1, 1]
    scaled = fake.clamp(min=0) / fake.max()
    squares = ((real[0] - 1) ** 2).mean() / 2 + (real[1] ** 2).mean() / 2
    inside = scaled.clamp(1e-6, 1 - 1e-6)
    of_zero = -(1 - real[1].sigmoid()).log().mean()
    of_sigmoid = -(mask * fake.sigmoid().log() + (1 - mask) * (1 - fake.sigmoid()).log()).mean()
    return {
        "squares, weights of study-papers": ((scaled - mask) ** 2).mean() + squares,
        "absolute differences": (scaled - mask).abs().mean() + squares,
        "squares, not divided by the maximum": ((fake.clamp(0, 1) - mask) ** 2).mean() + squares,
        "cross-entropy": -(mask * inside.log() + (1 - mask) * (1 - inside).log()).mean() + squares,
        "cross-entropy of a sigmoid": of_sigmoid + ((real[0] - 1) ** 2).mean() / 2 + of_zero / 2,
    }


def test_readings_of_lae_have_the_losses_that_they_are_called_by(readings):
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 12, 12)
    batch = {"label": torch.tensor([0, 1]), "has_mask": torch.tensor([False, True]), "mask": mask}
    outputs = {"attention": torch.randn(2, 2, 12, 12)}
    settings = readings.settings_of(readings.Reading())
    by_hand = losses_by_hand(outputs["attention"], mask[1, 0])
    for name, expected in by_hand.items():
        reading = readings.READINGS[name]
        network = readings.Network(readings.settings_of(reading), reading)
        torch.testing.assert_close(network.attention_loss(outputs, batch), expected / 2)
    committed = readings.lae.Network(settings).attention_loss(outputs, batch)
    torch.testing.assert_close(committed, by_hand["squares, weights of study-papers"] / 2)
    fine = readings.Network(settings, readings.READINGS["squares, 24 × 24"])
    assert fine(torch.rand(1, 3, 96, 96))["attention"].shape == (1, 2, 24, 24)


def test_the_readings_with_the_best_maps_are_trained_to_the_end(readings, monkeypatch):
    names = [*readings.COMMITTED, "absolute differences", "cross-entropy, 24 × 24"]
    monkeypatch.setattr(readings, "READINGS", {name: readings.READINGS[name] for name in names})
    monkeypatch.setattr(readings, "CHOSEN", 1)
    readings.main()
    table = pd.read_csv(readings.OUT / "lae-readings.csv")
    short, full = table[:4], table[4:]
    best = short[2:].sort_values("gain")["reading"].iloc[-1]
    assert [*short["reading"]] == names and [*full["reading"]] == [*readings.COMMITTED, best]
    assert {*zip(short["people"], short["epochs"])} == {("val", 1)}
    assert {*zip(full["people"], full["epochs"])} == {("test", 2)}
    gain = table["pixel_ap"] - table["constant pixel_ap"]  # each cluster has as many swaps
    assert gain.tolist() == pytest.approx(table["gain"].tolist(), abs=2e-4)
    reconstructs = table["to_reconstruction"] < table["to_average_face"]
    assert [*table["passes"]] == [*((table["gain_low"] > 0) & reconstructs)]


def test_a_reading_without_changes_is_trained_as_the_package_trains_lae(readings):
    readings.sources.ensure_datasets("smoke-tasks")
    reading = readings.Reading()
    settings = readings.settings_of(reading)
    ours = readings.trained(reading, settings, readings.phase_one(False, settings.before()))
    run = train(make_training("lae", "smoke-tasks", settings, readings.SEED, readings.SWAP))
    packaged = run.network().state_dict()
    assert packaged.keys() == ours.state_dict().keys()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight.contiguous(), packaged[name], rtol=0, atol=0)
