"""The benchmark of a training step: it compares what is the same, and writes what it measured."""

import importlib.util
import subprocess
import sys

import pandas as pd
import pytest
import torch

from dfnb import papers


@pytest.fixture(scope="module")
def step(checkout):
    spec = importlib.util.spec_from_file_location("step", checkout / "benchmarks" / "step.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["step"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["step"]


SMALL = {"locate_and_verify": "dfnb_plain7", "exposing_the_deception": "resnet10t"}


@pytest.mark.parametrize(
    "paper,wrong", [("locate_and_verify", "lfga.1.key.weight"), ("exposing_the_deception", "balance")]
)
@pytest.mark.filterwarnings("ignore:reduction")
def test_both_compute_the_same_until_one_weight_differs(step, paper, wrong):
    settings = papers.module(paper).Settings(backbone=SMALL[paper], pretrained=False, image_size=75)
    ours, transcription = step.networks(paper, settings)
    batch = step.random_batch(75, 2, "cpu")
    step.check_equal(ours, transcription, batch)
    assert set(step.REQUIRED[paper]) == {"float32", "bfloat16", "memory"}
    with torch.no_grad():
        transcription.get_parameter(wrong).view(-1)[0] *= 3
    with pytest.raises(AssertionError, match="differ in"):
        step.check_equal(ours, transcription, batch)
    assert all(p.dtype == torch.float32 and p.grad is None for p in ours.parameters())


def test_it_writes_a_row_a_contender_with_the_condition_in_the_name(checkout, tmp_path):
    command = [sys.executable, str(checkout / "benchmarks" / "step.py"), "locate_and_verify", "--batch", "2"]
    command += ["--rounds", "1", "--warmup", "0", "--size", "64", "--backbone", "dfnb_plain7", "--threads", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (written,) = tmp_path.iterdir()
    assert written.name == f"step-locate_and_verify-dfnb_plain7-64px-batch2-{device}-1threads.csv"
    table = pd.read_csv(written)
    assert list(table["contender"]) == ["ours float32", "ours bfloat16", "transcription"]
    assert list(table["precision"]) == ["float32", "bfloat16", "float32"]
    assert list(table["memory_format"]) == ["channels_last", "channels_last", "contiguous_format"]
    measured = ["step_s", "times_as_fast"]
    columns = [f"{name}_{part}" for name in measured for part in ("median", "q1", "q3")] + ["peak_memory_mib"]
    assert (table[columns] > 0).all(axis=None) and (table["rounds"] == 1).all()
    assert table["times_as_fast_median"].iloc[-1] == table["peak_memory_share"].iloc[-1] == 1
    assert {"device_model", "threads", "torch", "timm", "commit", "size_px", "batch"} <= set(table)
    assert done.stdout.count(": met") + done.stdout.count(": not met") == 4
    assert str(tmp_path) not in written.read_text()


def test_the_peak_is_what_a_step_holds_at_once(step):
    """A weight of 1 MiB and two maps of 4 MiB; the next two maps come only when those are gone."""

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2**18))  # 1 MiB

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
