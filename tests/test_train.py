"""The training loop: the same numbers again, after a kill too; a diverging run stops; scores are made once."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dfnb import papers, store, train
from dfnb.evaluate import read_scores
from dfnb.frames import load_frames
from dfnb.papers import locate_and_verify
from dfnb.store import DfnbError

SMALL = {
    "backbone": "dfnb_plain7", "pretrained": False, "image_size": 96, "batch_size": 16, "optimiser": "adamw",
    "lr": 2e-3, "schedule": "onecycle", "augmentation": "light", "epochs": 2,
}  # fmt: skip
NARROW = {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16}


def settings(paper, **changes):
    own = NARROW if paper == "locate_and_verify" else {}
    return papers.module(paper).Settings(**{**SMALL, **own, **changes})


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from dfnb import store, train
from dfnb.papers import locate_and_verify

train.CHECKPOINT_MINUTES = 1e-6  # a checkpoint after every step
last, seen, real = int(sys.argv[1]), 0, store.torch_seed

def counted(purpose, *key):
    global seen
    seen += purpose == "dropout"
    if seen == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(purpose, *key)

store.torch_seed = counted
settings = locate_and_verify.Settings.check(__SETTINGS__, "test")
print(train.train("locate_and_verify", "smoke-a", settings, seed=5).folder)
"""


def test_killed_at_any_step_a_run_ends_in_the_same_weights(home, tmp_path, monkeypatch):
    """Two epochs of four steps: killed before steps 3 (in an epoch), 5 (between epochs) and 8, then left alone."""
    plain = settings("locate_and_verify").model_dump(mode="json")
    straight = train.train(
        "locate_and_verify", "smoke-a", settings("locate_and_verify"), seed=5, echo=lambda line: None
    )
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(home / "datasets")
    script = tmp_path / "train.py"
    script.write_text(KILLED.replace("__SETTINGS__", repr(plain)))
    for kill, status in ((3, -signal.SIGKILL), (3, -signal.SIGKILL), (4, -signal.SIGKILL), (99, 0)):
        done = subprocess.run([sys.executable, str(script), str(kill)], capture_output=True, text=True, env=os.environ)
        assert done.returncode == status, done.stderr
    assert "resumed in epoch 2" in done.stdout
    resumed = train.Run.open(straight.folder.name)
    assert resumed.folder.parent.parent == tmp_path
    for name in ("best.safetensors", "last.ckpt"):
        one, two = (
            load_file(run.folder / name) if name.endswith("tensors") else torch.load(run.folder / name)["network"]
            for run in (straight, resumed)
        )
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    exact = ["epoch", "loss_cls", "loss_seg", "loss_total", "lr", "validation_auc"]
    pd.testing.assert_frame_equal(straight.log[exact], resumed.log[exact], check_exact=True)


def test_a_run_is_trained_once_and_depends_on_seed_settings_and_data(home):
    lines = []
    first = train.train("xception", "smoke-a", settings("xception", epochs=1), echo=lines.append)
    again = train.train("xception", "smoke-a", settings("xception", epochs=1), echo=lines.append)
    assert first.folder == again.folder and lines[-1].endswith("trained before, loaded")
    assert first.record["n"]["train"] == len(load_frames("smoke-a").query("split == 'train'"))
    other = train.train("xception", "smoke-a", settings("xception", epochs=1), seed=1, echo=lines.append)
    assert other.folder != first.folder
    assert (
        other.record["chosen"] != first.record["chosen"]
        or not (other.log["loss_total"] == first.log["loss_total"]).all()
    )


def test_a_diverging_run_stops_and_keeps_its_checkpoint(home):
    with pytest.raises(DfnbError, match=r"the (loss became|weights are no longer finite).*lower lr \(now 1e\+18\)"):
        train.train("xception", "smoke-a", settings("xception", lr=1e18, schedule="constant", epochs=3), seed=7)
    folder = next(home.glob("runs/xception-smoke-a-s7-*"))
    assert store.read_record(folder) is None
    kept = folder / "last.ckpt"
    if kept.exists():
        assert all(torch.isfinite(value).all() for value in torch.load(kept)["network"].values())


def test_nan_keeps_the_last_good_checkpoint(home, monkeypatch):
    """The loss turns NaN in the second epoch: the checkpoint of the first stays, whole, and training can go on from it."""
    real = locate_and_verify.Network.losses

    def broken(self, outputs, batch):
        terms = real(self, outputs, batch)
        return {name: value * float("nan") for name, value in terms.items()} if batch["epoch"] == 1 else terms

    monkeypatch.setattr(locate_and_verify.Network, "losses", broken)
    with pytest.raises(DfnbError, match="the loss became nan in epoch 2, step 1"):
        train.train("locate_and_verify", "smoke-a", settings("locate_and_verify"), seed=8)
    folder = next(home.glob("runs/locate_and_verify-smoke-a-s8-*"))
    kept = torch.load(folder / "last.ckpt")
    assert kept["epoch"] == 1 and all(torch.isfinite(value).all() for value in kept["network"].values())
    monkeypatch.setattr(locate_and_verify.Network, "losses", real)
    assert len(train.train("locate_and_verify", "smoke-a", settings("locate_and_verify"), seed=8).log) == 2


def test_a_second_writer_is_refused(home, monkeypatch):
    monkeypatch.setattr(train, "LOCK_SECONDS", 0)
    monkeypatch.setattr(train._Loop, "run", lambda loop: pytest.fail("trained while another one held the run"))
    parameters = settings("xception", epochs=4)
    holder = f"import time\nfrom dfnb import store\nwith store.locked({str(home)!r} + '/runs/held'):\n print('held', flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        monkeypatch.setattr(train, "run_folder", lambda parameters: home / "runs" / "held")
        with pytest.raises(DfnbError, match="is being written by another process"):
            train.train("xception", "smoke-a", parameters)
    finally:
        process.kill()
        process.wait()


def test_the_best_epoch_is_the_one_with_the_best_validation_auc(home):
    run = train.train("xception", "smoke-a", settings("xception", epochs=3), seed=2, epoch_tests=["smoke-b"])
    log = run.log
    assert run.record["chosen"]["epoch"] == log.loc[log["validation_auc"].idxmax(), "epoch"]
    epoch = run.folder / "epochs" / f"{run.record['chosen']['epoch']:03d}" / "smoke-b.parquet"
    chosen = read_scores(train.score(run, "smoke-b"))
    np.testing.assert_allclose(read_scores(epoch)["score"], chosen["score"], atol=1e-6)


def test_scores_are_made_once_and_again_for_other_weights(home, monkeypatch):
    run = train.train("locate_and_verify", "smoke-a", settings("locate_and_verify", epochs=1), seed=3)
    path = train.score(run, "smoke-b")
    table = read_scores(path)
    fake = table["label"] == 1
    assert table["iou"][fake].notna().all() and table["iou"][~fake].isna().all()
    written = path.stat().st_mtime_ns
    assert train.score(run, "smoke-b").stat().st_mtime_ns == written
    outputs = {**run.record["outputs"], "best.safetensors": "of another training"}
    train.score(train.Run(run.folder, {**run.record, "outputs": outputs}), "smoke-b")
    assert path.stat().st_mtime_ns != written


def test_mixup_happens_as_often_as_asked_and_follows_the_seed(home):
    drawn = []

    class Fabric:
        global_rank, device = 0, torch.device("cpu")

    loop = train._Loop.__new__(train._Loop)
    loop.fabric, loop.seed = Fabric(), 0
    loop.settings = settings("locate_and_verify", mixup_probability=0.5)
    batch = {"image": torch.arange(4.0).view(4, 1, 1, 1), "partner": None, "weight": 1.0}
    for place in range(400):
        mixed = loop._mixed(batch, place)
        drawn.append(mixed["partner"] is not None)
        if drawn[-1]:
            expected = mixed["weight"] * batch["image"] + (1 - mixed["weight"]) * batch["image"][mixed["partner"]]
            assert torch.equal(mixed["image"], expected)
    assert 160 < sum(drawn) < 240
    assert [loop._mixed(batch, place)["partner"] is not None for place in range(400)] == drawn


def test_two_processes_train_as_one(home):
    """DDP on the CPU: a run by two processes ends, and is loaded like any other."""
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "from dfnb import train\nfrom dfnb.papers import locate_and_verify\n"
        "if __name__ == '__main__':\n"
        f"    s = locate_and_verify.Settings.check({settings('locate_and_verify', epochs=1).model_dump(mode='json')!r}, 'test')\n"
        "    print(train.train('locate_and_verify', 'smoke-a', s, seed=9, devices=2).folder.name)\n"
    )
    path = home / "ddp.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = train.Run.open(done.stdout.split()[-1])
    assert run.record["n"]["train"] == 64 and np.isfinite(run.log["loss_total"]).all()
