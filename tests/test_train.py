"""The training loop: the same numbers again, after a kill too; a diverging run stops; scores are made once."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dfnb import core, papers, train
from dfnb.core import DfnbError
from dfnb.data.frames import load_frames
from dfnb.metrics import read_scores
from dfnb.papers import locate_and_verify, xception

SMALL = {
    "backbone": "dfnb_plain7", "pretrained": False, "image_size": 96, "batch_size": 16, "optimiser": "adamw",
    "lr": 2e-3, "schedule": "onecycle", "augmentation": "light", "epochs": 2,
}  # fmt: skip
NARROW = {
    "xception": {},
    "locate_and_verify": {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16},
    "exposing_the_deception": {"branches": 2, "fusion_widths": (16, 16, 12)},
    "lae": {
        "decoder_widths": (16, 8, 8),
        "adversary_widths": (8, 8),
        "perceptual_weight": 0.0,
        "annotated": 0.1,
        "representation_epochs": 1,
    },
}
SSPSL = {"sspsl": True, "annotated": 0.5, "mixup_probability": 0.0}


def settings(paper, **changes):
    return papers.module(paper).Settings(**{**SMALL, **NARROW[paper], **changes})


def trained_weights(run):
    """The weights after the last step, which need not be the chosen ones."""
    return torch.load(run.folder / "last.ckpt")["network"]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from dfnb import core, train
from dfnb.papers import locate_and_verify

train.CHECKPOINT_MINUTES = 1e-6  # a checkpoint after every step
last, seen, real = int(sys.argv[1]), 0, core.torch_seed

def counted(purpose, *key):
    global seen
    seen += purpose == "dropout"
    if seen == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(purpose, *key)

core.torch_seed = counted
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
    assert same(trained_weights(straight), trained_weights(resumed))
    assert same(*(load_file(run.folder / "best.safetensors") for run in (straight, resumed)))
    exact = ["epoch", "loss_cls", "loss_seg", "loss_total", "lr", "validation_auc"]
    pd.testing.assert_frame_equal(straight.log[exact], resumed.log[exact], check_exact=True)


RESTARTED = {"optimiser_restarts": "released", "schedule": "cosine", "cosine_steps": 4, "optimiser": "adam"}


def test_a_restarted_optimiser_is_another_from_the_second_epoch_on(home):
    def weights(how, epochs):
        own = settings("xception", **RESTARTED | {"optimiser_restarts": how, "epochs": epochs})
        run = train.train("xception", "smoke-a", own, seed=11, echo=lambda line: None)
        return trained_weights(run), run.log["lr"].tolist()

    once = [weights(how, 1) for how in ("released", "corrected")]
    assert same(once[0][0], once[1][0]) and once[0][1] == once[1][1]
    (released, rates), (corrected, other_rates) = (weights(how, 2) for how in ("released", "corrected"))
    assert not same(released, corrected)
    # An epoch is half a period of the cosine: begun anew each falls to zero, run through the second rises again.
    assert rates == pytest.approx([0, 0]) and other_rates == pytest.approx([0, 2e-3])


def test_a_killed_run_restarts_its_optimiser_where_an_unbroken_one_does(home, tmp_path, monkeypatch):
    """Two epochs of four steps, broken off before the first and before the third step of the second."""
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 1e-6)  # a checkpoint after every step
    own = settings("xception", **RESTARTED)
    straight = train.train("xception", "smoke-a", own, seed=12, echo=lambda line: None)
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(home / "datasets")
    real, lines = xception.Network.losses, []
    for steps in (4, 2):
        left = iter(range(steps))

        def broken(self, outputs, batch, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(self, outputs, batch)

        monkeypatch.setattr(xception.Network, "losses", broken)
        with pytest.raises(KeyboardInterrupt):
            train.train("xception", "smoke-a", own, seed=12, echo=lines.append)
    monkeypatch.setattr(xception.Network, "losses", real)
    resumed = train.train("xception", "smoke-a", own, seed=12, echo=lines.append)
    places = [line.rpartition(" resumed in ")[2] for line in lines if " resumed in " in line]
    assert places == ["epoch 2, step 0", "epoch 2, step 2"]
    assert resumed.folder.parent.parent == tmp_path
    assert same(trained_weights(straight), trained_weights(resumed))
    exact = ["epoch", "loss_cls", "loss_total", "lr", "validation_auc"]
    pd.testing.assert_frame_equal(straight.log[exact], resumed.log[exact], check_exact=True)


def test_the_log_follows_localisation_and_pseudo_labels(home):
    supervised = train.train("locate_and_verify", "smoke-a", settings("locate_and_verify", epochs=1), seed=3).log
    semi = settings("locate_and_verify", warmup_epochs=1, **SSPSL)
    log = train.train("locate_and_verify", "smoke-a", semi, seed=3, echo=lambda line: None).log
    pseudo = ["validation_pseudo_iou", "validation_pseudo_precision", "validation_pseudo_recall"]
    assert log[["validation_iou", *pseudo]].stack().between(0, 1).all() and len(log) == 2
    assert (log[pseudo] > 0).all(axis=None)  # the region is where the synthetic fakes are forged
    assert (log["validation_pseudo_iou"] <= log[pseudo[1:]].min(axis=1)).all()
    assert log["loss_warm"].notna().tolist() == [True, False]
    assert supervised["validation_iou"].between(0, 1).all()
    assert not {"loss_warm", *pseudo} & set(supervised.columns)
    plain = train.train("xception", "smoke-a", settings("xception", epochs=1), echo=lambda line: None).log
    assert not [name for name in plain.columns if name.startswith("validation_") and name != "validation_auc"]


def test_hidden_masks_are_never_opened(home, tmp_path, monkeypatch):
    """The masks of the fakes to train on are gone: that goes unnoticed without them, and not with them."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    folder = tmp_path / "datasets" / "smoke-a"
    shutil.copytree(home / "datasets" / "smoke-a", folder)
    frames = load_frames("smoke-a")
    gone = frames[(frames["split"] == "train") & (frames["label"] == 1)]["mask"].unique()
    assert len(gone) and all(gone)
    for path in gone:
        (folder / path).unlink()
    few = {**SSPSL, "epochs": 1, "images_per_epoch": 32}
    blind = settings("locate_and_verify", **few | {"annotated": 0.0})
    run = train.train("locate_and_verify", "smoke-a", blind, echo=lambda line: None)
    assert np.isfinite(run.log["loss_seg"]).all() and run.log["validation_iou"].notna().all()
    with pytest.raises(FileNotFoundError, match=r"masks\.npy"):
        train.train("locate_and_verify", "smoke-a", settings("locate_and_verify", **few | {"annotated": 1.0}))


def test_what_cannot_be_trained_is_refused_before_it_starts(home, monkeypatch):
    monkeypatch.setattr(train, "_fit", lambda **arguments: pytest.fail("started"))
    monkeypatch.setattr(train, "_apart", lambda *arguments: pytest.fail("started"))
    before = set((home / "runs").glob("*"))
    for size, devices in ((2, 2), (16, 3)):
        with pytest.raises(DfnbError, match=f"batch_size {size} cannot be shared by {devices} devices"):
            train.train("xception", "smoke-a", settings("xception", batch_size=size), seed=13, devices=devices)
    with pytest.raises(DfnbError, match=r"the share 0\.001 of them is none") as error:
        train.train("locate_and_verify", "smoke-a", settings("locate_and_verify", annotated=0.001), seed=13)
    assert "\n" not in str(error.value) and set((home / "runs").glob("*")) == before


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
    assert core.read_record(folder) is None
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
    holder = f"import time\nfrom dfnb import store\nwith core.locked({str(home)!r} + '/runs/held'):\n print('held', flush=True)\n time.sleep(60)"
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
    """DDP on the CPU: runs by two processes end, and are loaded like any other; anchors and learned weights are shared."""
    own = {"locate_and_verify": SSPSL, "exposing_the_deception": {}, "lae": {}}
    plain = {paper: settings(paper, epochs=1, **changes).model_dump(mode="json") for paper, changes in own.items()}
    path = home / "ddp.py"
    path.write_text(
        "import torch; torch.set_num_threads(1)\n"
        "from dfnb import papers, train\n"
        "if __name__ == '__main__':\n"
        f"    for paper, values in {plain!r}.items():\n"
        "        s = papers.module(paper).Settings.check(values, 'test')\n"
        "        print('made', train.train(paper, 'smoke-a', s, seed=9, devices=2).folder.name)\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = [train.Run.open(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("made ")]
    assert [run.paper for run in runs] == list(own)
    for run in runs:
        assert run.record["n"]["train"] == 64 and np.isfinite(run.log["loss_total"]).all()
    assert "validation_pseudo_iou" in runs[0].log
    assert (trained_weights(runs[1])["balance"] != 1).all()
