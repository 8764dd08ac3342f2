"""The benchmarks run at small sizes, and compare what is the same."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SMALL = {"locate_and_verify": "dfnb_plain7", "exposing_the_deception": "resnet10t"}


def run(name, out, *words):
    """Run a benchmark; its rows by file, and what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "DFNB_HOME"}
    command = [sys.executable, FOLDER / f"{name}.py", *words, "--out", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {}
    for path in sorted(out.iterdir()):
        assert str(out) not in path.read_text(encoding="utf-8")
        rows[path.stem] = pd.read_csv(path)
    return rows, done.stdout


@pytest.fixture(scope="module")
def step():
    sys.path.append(str(FOLDER))
    import step

    yield step
    sys.path.remove(str(FOLDER))


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


def test_a_step_is_measured_in_a_row_per_contender(tmp_path):
    words = ["locate_and_verify", "--backbone", "dfnb_plain7", "--size", "64", "--batch", "2"]
    rows, printed = run("step", tmp_path, *words, "--rounds", "1", "--warmup", "0")
    (table,) = rows.values()
    assert list(table["contender"]) == ["ours float32", "ours bfloat16", "transcription"]
    assert (table[["step_s_median", "peak_memory_mib"]] > 0).all(axis=None)
    assert table["times_as_fast_median"].iloc[-1] == 1
    assert printed.count(": met") + printed.count(": not met") == 4


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

    toy = step.Contender("toy", Toy(), torch.float32, torch.contiguous_format)
    assert toy.peak_mib({"image": torch.zeros(1, 3, 8, 8)}) == pytest.approx(9, abs=0.1)


def test_the_benchmark_of_a_gpu_runs_at_tiny_sizes(tmp_path):
    words = ["--tiny", "--minutes", "30", "--backend", "eager", "--paper", "locate_and_verify"]
    rows, printed = run("gpu", tmp_path, *words)
    assert len(rows) == 4
    for table in rows.values():
        assert (table["outcome"] == "measured").all(), table[["contender", "outcome"]]
    golden = next(table for name, table in rows.items() if name.startswith("gpu-golden"))
    assert golden["met"].all() and (golden["difference"] < 1e-4).all()
    training = next(table for name, table in rows.items() if name.startswith("gpu-training"))
    assert (training["low"] <= training["auc"]).all() and (training["videos"] == 8).all()
    assert "golden parity" in printed


SIZES = {
    "table": ["--rows", "3200", "--rounds", "1"],
    "writing": ["--videos", "20", "--per-video", "3"],
    "loading": ["--steps", "2", "--batch", "4", "--size", "64", "--workers", "0"],
}


@pytest.mark.parametrize("command", SIZES)
def test_reading_is_measured(command, tmp_path):
    rows, printed = run("data", tmp_path, command, *SIZES[command])
    (table,) = rows.values()
    assert len(table) >= 1 and table.notna().any(axis=None)
    assert "met" in printed
