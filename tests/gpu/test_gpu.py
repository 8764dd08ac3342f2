"""The collection on a GPU: ``make test-gpu`` runs this, ``make test`` does not.

``DFNB_TEST_DEVICE=cpu`` runs it on a CPU, with ``CUDA_VISIBLE_DEVICES=`` where there is a GPU: it
proves the tests, and takes about an hour on two cores.
"""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import joblib
import miniature
import networks
import numpy as np
import pytest
import torch
from conftest import CHECKOUT
from interrupted import kill
from typer.testing import CliRunner

import notebooks
from dfnb import auc, cli, device, papers
from dfnb.attribution import maps
from dfnb.running.planning import plan
from dfnb.training import scoring, train
from facesets import embedded, sources
from facesets.files import read_json
from facesets.frames import load_frames, select
from facesets.records import environment

WANTED = os.environ.get("DFNB_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    device.DEVICE != WANTED, reason="there is no GPU; DFNB_TEST_DEVICE=cpu runs this on a CPU"
)
sys.path.append(str(CHECKOUT / "benchmarks"))
DATASET = "smoke-a"  # the number of its people is changed
MAPS = (
    1e-5  # the mean difference of maps in [0, 1]; single pixels differ more, where a ReLU switches
)


def run_profile(name, home):
    """Run a profile as a user does, and check what it leaves behind."""
    words = ["run", name, "--cores", str(joblib.cpu_count())]
    environ = {**os.environ, "DFNB_HOME": str(home)}
    command = [sys.executable, "-m", "dfnb.cli", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    planned = plan(name)
    for call in planned.shown:
        notebooks.check_executed(home / f"reports/{name}/notebooks/{call.name}.ipynb")
        record = read_json(home / call.record)
        assert record["environment"]["device"] == environment()["device"]
    for call in planned.trainings:
        record = read_json(home / f"runs/{call.name}/record.json")
        assert record["environment"]["device"] == environment()["device"]


def small_dataset(**people):
    """Make the dataset with so many people per split, one real and one forged video each."""
    embedded.build(DATASET, sources.preset(DATASET, identities=people, videos=1), workers=1)


# ---------------------------------------------------------------- profiles


def test_the_smoke_profile_runs_by_papermill(empty_home):
    run_profile("smoke", empty_home)


@pytest.mark.usefixtures("detector")
def test_published_networks_go_from_downloads_to_the_table_of_published_figures(empty_home):
    """With the published sizes, except for the number of images."""
    side = 224
    videos = miniature.download(empty_home / "downloads", side, frames=5)
    for words in miniature.commands(empty_home / "downloads"):
        done = CliRunner().invoke(cli.commands, words)
        assert done.exit_code == 0, done.output
    miniature.check_prepared(videos, side)
    miniature.write_profile(empty_home, batch_size=8, images_per_epoch=16)
    run_profile("paper", empty_home)
    miniature.check_published(empty_home, [*miniature.PUBLISHED])


# ---------------------------------------------------------------- trainings


@pytest.mark.parametrize("paper", papers.modules())
def test_a_killed_training_of_published_size_ends_in_the_same_weights(
    paper, tmp_path, monkeypatch, capsys
):
    """At the fourth loss: of LAE in phase two."""
    module = papers.module(paper)
    # The weights that are kept are those after the last step.
    monkeypatch.setattr(module.Settings, "chosen", "last")
    short = {"pretrained": False, "epochs": 2, "batch_size": 4, "images_per_epoch": 8}
    short |= {"precision": "tf32"}  # as in the profile paper
    if paper == "lae":
        short |= {"representation_epochs": 1, "perceptual_weight": 0.0, "clusters": 2}
    runs = {}
    for home in ("uninterrupted", "killed", "twin"):
        (tmp_path / home).mkdir()
        monkeypatch.setenv("DFNB_HOME", str(tmp_path / home))
        small_dataset(train=6, val=4)
        training = train.make_training(paper, DATASET, module.Settings(**short))
        if home == "killed":
            kill(4, training)
            capsys.readouterr()
        run = train.train(training)
        runs[home] = run.record.weights_sha256
        if home == "killed":
            assert "resumed in epoch" in capsys.readouterr().out
            if runs["killed"] == runs["uninterrupted"]:
                return
    assert runs["twin"] == runs["uninterrupted"], "two uninterrupted trainings differ, too"
    assert runs["killed"] == runs["uninterrupted"]


def trained_auc(home):
    """The AUC of test videos, with its interval, of a short training of the demo's baseline."""
    os.environ["DFNB_HOME"] = str(home)
    home.mkdir()
    small_dataset(train=48, val=12, test=48)
    settings = plan("demo").trainings[0].parameters.settings()
    changes = {"epochs": 4, "images_per_epoch": None, "precision": "32-true"}
    settings = settings.model_copy(update=changes)
    run = train.train(train.make_training("xception", DATASET, settings))
    frames = select(load_frames(DATASET), "test")
    scores = scoring.predict_frames(run.network().to(device.DEVICE), frames, settings)
    return auc(scores)[["value", "low", "high"]].astype(float).tolist()


def test_the_auc_lies_within_the_interval_of_that_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", os.environ.get("DFNB_HOME", ""))  # is restored
    value, _, _ = trained_auc(tmp_path / "here")
    # A process that has not begun to use CUDA sees no GPU.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        on_cpu, low, high = pool.submit(trained_auc, tmp_path / "cpu").result()
    assert low > 0.5  # it has learned
    assert low <= value <= high, on_cpu


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("paper", papers.modules())
@torch.backends.cudnn.flags(allow_tf32=False)
def test_every_map_of_notebook_08_is_that_of_float64_on_a_cpu(paper):
    torch.manual_seed(0)
    network = networks.small(paper).eval()
    images = networks.batch_of()["image"]
    names = [*network.maps(), *maps.EXPLAINERS]
    expected = {name: maps.compute(network.double(), images.double(), name) for name in names}
    network = network.float().to(device.DEVICE)
    for name in names:
        made = maps.compute(network, images.to(device.DEVICE), name)
        assert np.abs(made - expected[name]).mean() < MAPS, name


def test_the_profiler_sees_what_the_gpu_computes():
    import step

    rows = torch.ones(1000, 1000, device=device.DEVICE)
    assert step.busy_seconds(lambda: rows @ rows, device.DEVICE == "cuda") > 0


@pytest.mark.parametrize("kind", ["lv", "etd"])
def test_the_released_codes_golden_values_are_met(kind):
    import gpu

    rows = list(gpu.golden(kind, gradients=True))
    assert len(rows) == 2 and all(row["met"] for row in rows), rows
