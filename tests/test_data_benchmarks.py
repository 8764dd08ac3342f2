"""The benchmark of preparing and reading data writes what it measured."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


def call(checkout, tmp_path, *words):
    command = [sys.executable, str(checkout / "benchmarks" / "data.py"), *words, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(checkout)})
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("*.csv")
    assert str(tmp_path) not in written.read_text()
    assert (
        done.stdout.count(": met")
        + done.stdout.count(": not met")
        + done.stdout.count(", met")
        + done.stdout.count(", not met")
        == {"prepare": 1, "table": 4, "writing": 1, "loading": 1}[words[0]]
    )
    return written.name, pd.read_csv(written)


def test_both_pipelines_crop_all_frames_of_the_same_clips(checkout, tmp_path):
    name, table = call(
        checkout, tmp_path, "prepare", "--rounds", "1", "--length", "10", "--detector", "none", "--size", "64"
    )
    assert name == "prepare-drawn-64px-none-1process.csv"
    assert table["contender"].tolist() == ["ours", "plain"] and (table["frames"] == 20).all()
    assert (table["frames_per_cpu_s_median"] > 0).all() and table["times_as_fast_median"].iloc[1] == 1
    assert {"device_model", "load_before", "commit", "videos"} <= set(table)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_table_is_opened_and_selected(checkout, tmp_path):
    name, table = call(checkout, tmp_path, "table", "--rows", "3200", "--rounds", "1")
    assert name == "table-3200rows.csv" and table["rows"].tolist() == [3200]
    assert (table[[f"{what}_median" for what in ("open_cpu_s", "select_split_cpu_s", "epoch_order_cpu_s")]] > 0).all(
        axis=None
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_large_dataset_is_gathered(checkout, tmp_path):
    name, table = call(checkout, tmp_path, "writing", "--videos", "30", "--per-video", "4")
    assert name == "writing-120rows.csv" and table["rows"].tolist() == [120]
    assert table["process_mb"].iloc[0] >= table["process_mb_before"].iloc[0] > 0 and table["cpu_s"].iloc[0] >= 0


def test_the_wait_for_batches_is_a_share(checkout, tmp_path):
    words = ("loading", "--steps", "2", "--batch", "2", "--size", "32", "--workers", "0", "--threads", "1")
    name, table = call(checkout, tmp_path, *words)
    assert name.startswith("loading-dfnb_plain7-32px-batch2-") and name.endswith("-0workers.csv")
    assert 0 < table["waiting_share"].iloc[0] < 1 and table["images_per_s"].iloc[0] > 0
