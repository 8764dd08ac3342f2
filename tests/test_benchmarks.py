"""The benchmarks run at small sizes, and compare what is the same."""

import os
from itertools import product

import pandas as pd
import pytest
import torch
from profiles import SETTINGS, trained, write_profile

from dfnb import papers
from facesets.frames import load_frames

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


def test_a_reading_of_lae_is_measured_on_validation_people(checkout, own_home, monkeypatch):
    monkeypatch.syspath_prepend(checkout / "benchmarks")
    import lae_readings

    (own_home / "datasets").unlink()  # the link to those of others
    small = {**papers.module("lae").PAPER.small, "representation_epochs": 1, "annotated": 1.0}
    shared = {"train_set": "smoke-tasks", "test_sets": ["smoke-tasks"], "seeds": [0]}
    notebooks = {"03_lae": {**SETTINGS, **small, "seen_methods": ["FaceSwap-like"]}}
    few = {"other: few masks": {"annotated": 0.5}}
    write_profile(own_home, shared, notebooks, variants={"03_lae": few})
    trained()
    monkeypatch.setattr(lae_readings, "OUT", own_home)
    lae_readings.main("mine")
    (row,) = pd.read_csv(own_home / "lae-readings-mine.csv").to_dict("records")  # with all masks
    assert [row[name] for name in ("reading", "people", "dataset")] == ["LAE", "val", "smoke-tasks"]
    frames = load_frames("smoke-tasks").query("split == 'val'")
    forged = frames[frames["method"] == "FaceSwap-like"]
    assert (row["forged_frames"], row["clusters"]) == (len(forged), forged["cluster"].nunique())
    # Each cluster has as many swaps.
    assert row["gain"] == pytest.approx(row["pixel_ap"] - row["constant pixel_ap"], abs=2e-4)
    assert row["gain_low"] < row["gain"] < row["gain_high"]
    reconstructs = row["to_reconstruction"] < row["to_average_face"]
    assert row["passes"] == (row["gain_low"] > 0 and reconstructs)
