"""The benchmarks run at small sizes, and compare what is the same."""

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


def test_the_benchmark_of_a_gpu_runs_at_tiny_sizes(step, tmp_path):
    import gpu

    gpu.main(minutes=30, paper=["locate_and_verify"], tiny=True, out=tmp_path)
    parts = {}
    for path in tmp_path.iterdir():
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        parts[path.name.split("-")[1]] = table = pd.read_csv(path)
        assert (table["outcome"] == "measured").all(), table[["contender", "outcome"]]
    assert parts.keys() == set(gpu.PARTS)
    assert parts["golden"]["met"].all() and (parts["golden"]["difference"] < 1e-4).all()
    assert (parts["training"]["low"] <= parts["training"]["auc"]).all()
    assert parts["loader"]["waiting_share"].between(0, 1).all()
