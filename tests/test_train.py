"""The training loop: the same numbers again, after a kill too; a diverging run stops; what cannot work is refused first."""

import builtins
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from dfnb import core, jobs, papers, scores, train
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.papers import lae, locate_and_verify, xception

SMALL = {
    "backbone": "dfnb_plain7", "pretrained": False, "image_size": 64, "batch_size": 16, "optimiser": "adamw",
    "lr": 2e-3, "schedule": "onecycle", "augmentation": "light", "epochs": 2, "images_per_epoch": 64,
}  # fmt: skip
OWN = {
    "xception": {},
    "locate_and_verify": {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16},
    "lae": {
        "decoder_widths": (16, 8, 8),
        "adversary_widths": (8, 8),
        "perceptual_weight": 0.0,
        "annotated": 0.1,
        "representation_epochs": 1,
    },
}
SSPSL = {"sspsl": True, "annotated": 0.5, "mixup_probability": 0.0}
RESTARTED = {"optimiser_restarts": "released", "schedule": "cosine", "cosine_steps": 4, "optimiser": "adam"}


def settings(paper, **changes):
    return papers.module(paper).Settings(**{**SMALL, **OWN[paper], **changes})


def trained(paper="xception", seed=0, changes=None, **options):
    return train.train(paper, "smoke-a", settings(paper, **(changes or {})), seed, **options)


@pytest.fixture(scope="module")
def plain(smoke_home):
    """Two epochs of the baseline, with scores of a test set after each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(smoke_home))
        return trained(seed=20, epoch_tests=["smoke-b"])


@pytest.fixture
def other_home(home, tmp_path, monkeypatch):
    """A home with the same datasets and no runs."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(home / "datasets")
    return tmp_path


def last_weights(run):
    """The weights after the last step, which need not be the chosen ones."""
    return torch.load(run.folder / "last.ckpt")["network"]


def assert_same_training(one, two):
    for pair in (map(last_weights, (one, two)), (load_file(run.folder / "best.safetensors") for run in (one, two))):
        a, b = pair
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    logs = [run.log.drop(columns="images_per_s") for run in (one, two)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


# a forked process has imported everything already; CUDA does not survive a fork
START = "spawn" if torch.cuda.is_available() else "fork"


def killed(step):
    """A training that is killed before a step, after a checkpoint of each step before."""
    train.CHECKPOINT_S = 0
    steps, real = [], core.torch_seed

    def counted(purpose, *key):
        steps.append(purpose == "dropout")
        if sum(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(purpose, *key)

    core.torch_seed = counted
    trained("locate_and_verify", seed=5)


def interrupted(monkeypatch, network, steps, *arguments, **options):
    """A training that is interrupted after so many steps."""
    real, left = network.losses, iter(range(steps))

    def losses(self, outputs, batch):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(self, outputs, batch)

    with monkeypatch.context() as patch:
        patch.setattr(network, "losses", losses)
        with pytest.raises(KeyboardInterrupt):
            trained(*arguments, **options)


def test_killed_at_any_step_a_run_ends_in_the_same_weights(home, other_home, monkeypatch, capsys):
    """Two epochs of four steps: killed before the third step, broken off before the fifth and the eighth, then left alone."""
    with monkeypatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        straight = trained("locate_and_verify", seed=5)
    process = multiprocessing.get_context(START).Process(target=killed, args=(3,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(train, "CHECKPOINT_S", 0)
    for steps in (2, 3):
        interrupted(monkeypatch, locate_and_verify.Network, steps, "locate_and_verify", seed=5)
    resumed = trained("locate_and_verify", seed=5)
    lines = capsys.readouterr().out.splitlines()
    places = [line.rpartition(" resumed in ")[2] for line in lines if " resumed in " in line]
    assert places == ["epoch 1, step 2", "epoch 2, step 0", "epoch 2, step 3"]
    assert resumed.id == straight.id and resumed.folder.parent.parent == other_home
    assert_same_training(straight, resumed)


def asked_to_end(step, number):
    """A training that gets a signal within a step, and saves nothing by itself."""
    steps, real = [], core.torch_seed

    def counted(purpose, *key):
        steps.append(purpose == "dropout")
        if purpose == "dropout" and sum(steps) == step:
            signal.raise_signal(number)
        return real(purpose, *key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "torch_seed", counted)
        trained("locate_and_verify", seed=5)


def test_asked_to_end_a_training_saves_its_state_and_the_status_says_so(home, other_home, monkeypatch):
    """By SIGTERM before its third step, by Ctrl-C before its sixth; then left alone, it ends in the same weights."""
    with monkeypatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        straight = trained("locate_and_verify", seed=5)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    places = {}
    for number, step, error in ((signal.SIGTERM, 3, SystemExit), (signal.SIGINT, 3, KeyboardInterrupt)):
        with pytest.raises(error) as ended:
            asked_to_end(step, number)
        assert ended.value.args == ((128 + signal.SIGTERM,) if error is SystemExit else ())
        saved = torch.load(next(other_home.glob("runs/*/last.ckpt")), weights_only=True)
        places[number] = saved["epoch"], saved["step"]
        assert {number: signal.getsignal(number) for number in before} == before
    assert places == {signal.SIGTERM: (0, 3), signal.SIGINT: (1, 2)}
    assert_same_training(straight, trained("locate_and_verify", seed=5))


def test_a_second_signal_ends_a_training_at_once():
    loop = train._Loop(*[None] * 6)
    loop._ask_to_end(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        loop._ask_to_end(signal.SIGTERM, None)


def test_a_signal_while_an_epoch_is_judged_ends_it_when_it_is_saved(other_home, monkeypatch):
    with monkeypatch.context() as patch:
        real = train.predict
        patch.setattr(
            train,
            "predict",
            lambda *given, **options: (signal.raise_signal(signal.SIGTERM), real(*given, **options))[1],
        )
        with pytest.raises(SystemExit):
            trained(seed=5)
    saved = torch.load(next(other_home.glob("runs/*/last.ckpt")), weights_only=True)
    assert (saved["epoch"], saved["step"]) == (1, 0)


def damaged(content, kind):
    if kind == "truncated":
        return content[: len(content) // 2]
    if kind.startswith("byte"):
        place = int(len(content) * float(kind.removeprefix("byte at ")))
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    return {"empty": b"", "foreign": b"PK and no more" * 100}[kind]


def test_a_checkpoint_that_is_not_the_trainings_is_refused(other_home, monkeypatch):
    """Found by the checksums in the file, which torch does not compare."""
    interrupted(monkeypatch, xception.Network, 5, seed=5)
    interrupted(monkeypatch, xception.Network, 5, seed=6)
    path, other = (next(other_home.glob(f"runs/*-s{seed}-*/last.ckpt")) for seed in (5, 6))
    content, refused = path.read_bytes(), 0
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda each: each.file_size)
    within = largest.header_offset / len(content) + largest.file_size / len(content) / 2
    for kind in ("truncated", "empty", "foreign", f"byte at {within}"):
        path.write_bytes(damaged(content, kind))
        with pytest.raises(DfnbError, match=r"last\.ckpt is damaged or of another training; delete it") as error:
            trained(seed=5)
        assert "\n" not in str(error.value)
    path.write_bytes(other.read_bytes())
    with pytest.raises(DfnbError, match=r"last\.ckpt is damaged or of another training; delete it"):
        trained(seed=5)
    for place in np.linspace(0.01, 0.99, 25):  # what no checksum covers is no number
        path.write_bytes(damaged(content, f"byte at {place}"))
        try:
            train.check_checkpoint(path, path.parent.name)
        except DfnbError:
            refused += 1
            continue
        pair = [torch.load(each, weights_only=True)["network"] for each in (path, write(other_home / "whole", content))]
        assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[1])
    assert refused > 15
    path.unlink()
    assert len(trained(seed=5).log) == 2


def write(path, content):
    path.write_bytes(content)
    return path


def test_weights_that_were_altered_while_the_run_trained_end_in_no_record(other_home, monkeypatch):
    """The second epoch is no better, so that the altered weights would be the chosen ones."""
    areas = iter([0.9, 0.5])
    monkeypatch.setattr(train, "roc_auc_score", lambda *given: next(areas))
    interrupted(monkeypatch, xception.Network, 5, seed=5)
    path = next(other_home.glob("runs/*/best.safetensors"))
    path.write_bytes(damaged(path.read_bytes(), "byte at 0.9"))
    with pytest.raises(DfnbError, match=r"best\.safetensors was altered; delete the folder and train again"):
        trained(seed=5)
    assert core.read_record(path.parent) is None


@pytest.mark.parametrize("kind", ["truncated", "empty", "foreign", "byte at 0.9"])
def test_weights_that_are_not_the_runs_are_refused(plain, tmp_path, kind):
    path = write(tmp_path / "best.safetensors", damaged((plain.folder / "best.safetensors").read_bytes(), kind))
    with pytest.raises(DfnbError, match="is not what the record describes; delete its folder and train"):
        plain.network(path)


def on_a_full_disk(answers):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        trained(seed=5)
    except DfnbError as error:
        answers.put(str(error))


def test_on_a_full_disk_a_checkpoint_stays_whole_and_the_training_goes_on_afterwards(other_home, monkeypatch):
    interrupted(monkeypatch, xception.Network, 5, seed=5)
    path = next(other_home.glob("runs/*/last.ckpt"))
    before, context = {each: each.read_bytes() for each in path.parent.glob("*.*")}, multiprocessing.get_context(START)
    answers = context.SimpleQueue()
    process = context.Process(target=on_a_full_disk, args=(answers,))
    process.start()
    process.join()
    assert re.fullmatch(r"\S+ cannot be written \(.*\): make room, .*", answers.get())
    assert {each: each.read_bytes() for each in path.parent.glob("*.*")} == before
    assert len(trained(seed=5).log) == 2


def test_a_restarted_optimiser_is_another_from_the_second_epoch_on(home):
    runs = {
        how: trained(seed=11, changes={**RESTARTED, "optimiser_restarts": how}) for how in ("released", "corrected")
    }
    first, second = (runs[how].log for how in runs)
    assert first.loc[0, "loss_total"] == second.loc[0, "loss_total"] != first.loc[1, "loss_total"]
    assert not all(torch.equal(*pair) for pair in zip(*(last_weights(run).values() for run in runs.values())))
    # An epoch is half a period of the cosine: begun anew each falls to zero, run through the second rises again.
    assert first["lr"].tolist() == pytest.approx([0, 0]) and second["lr"].tolist() == pytest.approx([0, 2e-3])


def test_a_killed_run_restarts_its_optimiser_where_an_unbroken_one_does(home, other_home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        straight = trained(seed=11, changes=RESTARTED)
    monkeypatch.setattr(train, "CHECKPOINT_S", 0)
    for steps in (4, 2):
        interrupted(monkeypatch, xception.Network, steps, seed=11, changes=RESTARTED)
    assert_same_training(straight, trained(seed=11, changes=RESTARTED))


def test_the_log_follows_what_the_paper_monitors(home, plain):
    log = trained("locate_and_verify", seed=3, changes={"warmup_epochs": 1, **SSPSL}).log
    pseudo = ["validation_pseudo_iou", "validation_pseudo_precision", "validation_pseudo_recall"]
    assert log[pseudo].stack().between(0, 1).all() and len(log) == 2
    assert (log["validation_pseudo_iou"] <= log[pseudo[1:]].min(axis=1)).all()
    assert "validation_iou" not in log  # an epoch is judged by scores alone: nothing is located
    assert log["loss_warm"].notna().tolist() == [True, False]
    assert [name for name in plain.log if name.startswith("validation_")] == ["validation_auc"]


def test_hidden_masks_are_never_opened(home, tmp_path, monkeypatch):
    """The masks of the fakes to train on are gone: that goes unnoticed without them, and not with them."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    folder = tmp_path / "datasets" / "smoke-a"
    shutil.copytree(home / "datasets" / "smoke-a", folder)
    table = frames.load_frames("smoke-a")
    gone = table[(table["split"] == "train") & (table["label"] == 1)]["mask"].unique()
    assert len(gone) and all(gone)
    for path in gone:
        (folder / path).unlink()
    few = {**SSPSL, "epochs": 1, "images_per_epoch": 32}
    log = trained("locate_and_verify", changes={**few, "annotated": 0.0}).log
    assert np.isfinite(log["loss_seg"]).all()
    with pytest.raises(DfnbError, match=r"masks\.npy cannot be read"):
        trained("locate_and_verify", changes={**few, "annotated": 1.0})


def test_what_cannot_be_trained_is_refused_before_it_starts(home, monkeypatch):
    monkeypatch.setattr(train, "_launch", lambda loop: pytest.fail("started"))
    before = set((home / "runs").glob("*"))
    for size, devices in ((2, 2), (16, 3)):
        with pytest.raises(DfnbError, match=f"batch_size {size} gives {devices} devices unequal shares"):
            trained(seed=13, changes={"batch_size": size}, devices=devices)
    real = frames.load_frames("smoke-a")
    for split in ("train", "val"):
        for label, kind in enumerate(("fake", "real")):
            one_class = real[(real["split"] != split) | (real["label"] == label)]
            monkeypatch.setattr(train, "load_frames", lambda name, table=one_class: table)
            with pytest.raises(DfnbError, match=f"split '{split}' has .*{kind} frames") as error:
                trained(seed=13)
            assert "\n" not in str(error.value)
        monkeypatch.setattr(train, "load_frames", lambda name, split=split: real[real["split"] != split])
        with pytest.raises(DfnbError, match=f"no frame of split '{split}'"):
            trained(seed=13)
    assert set((home / "runs").glob("*")) == before
    monkeypatch.undo()
    monkeypatch.setenv("DFNB_HOME", str(home))
    with pytest.raises(DfnbError, match=r"annotated = 0\.001 is none"):
        trained("locate_and_verify", seed=13, changes={"annotated": 0.001})
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    with pytest.raises(DfnbError, match="a notebook cannot train on 2 devices"):
        trained(seed=13, devices=2)


@pytest.fixture
def pairing(monkeypatch):
    """The baseline as a paper that leaves the fakes out and makes a grey one of every real frame."""

    def samples(self, sample, draw):
        return [sample, sample._replace(image=np.full_like(sample.image, draw.integers(256)), label=1)]

    monkeypatch.setattr(xception.Settings, "samples_per_frame", 2)
    monkeypatch.setattr(xception.Settings, "samples", samples)
    monkeypatch.setattr(xception.Settings, "visible", lambda self, frames, *_: frames[frames["label"] == 0])


def test_the_samples_of_a_frame_are_not_shared_out_among_devices(home, pairing, monkeypatch):
    monkeypatch.setattr(train, "_launch", lambda loop: pytest.fail("started"))
    for size, devices in ((6, 2), (7, 1)):
        with pytest.raises(DfnbError, match=f"batch_size {size} gives {devices} devices unequal shares"):
            trained(seed=13, changes={"batch_size": size}, devices=devices)


def test_real_films_alone_are_enough_where_the_paper_makes_its_fakes(home, pairing, monkeypatch):
    table = frames.load_frames("smoke-a")
    monkeypatch.setattr(train, "load_frames", lambda name: table[table["label"] == 0])
    monkeypatch.setattr(train, "_launch", lambda loop: pytest.fail("started"))
    with pytest.raises(pytest.fail.Exception, match="started"):
        trained(seed=13)
    monkeypatch.setattr(xception.Settings, "samples_per_frame", 1)
    with pytest.raises(DfnbError, match="training needs two clusters of each"):
        trained(seed=13)


def test_made_samples_are_judged_alike_by_any_number_of_processes(home, pairing, tmp_path, monkeypatch):
    table = frames.select(frames.load_frames("smoke-a"), "val")
    table, network = table[table["label"] == 0].head(5), papers.module("xception").Network(settings("xception"))

    def judged(world):
        loop, shares = train._Loop(tmp_path, {}, settings("xception"), {}, [], None), {}
        loop.seed, loop.network, loop.fabric = 4, network, SimpleNamespace(world_size=world)

        def gather(found, own):
            shares[loop.fabric.global_rank] = own
            found[:] = [shares.get(rank, own) for rank in range(world)]

        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        for loop.fabric.global_rank in (*range(world), 0):  # the first process again, now that all shares are there
            found = loop._judged(table, made=True)
        return found

    one, two = judged(1), judged(2)
    assert one["label"].tolist() == [0, 1] * 5 and one["frame"].tolist() == np.repeat(table["frame"], 2).tolist()
    assert one["score"][1::2].nunique() > 1  # each frame has draws of its own
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)
    assert train._threshold(one)["threshold"] in one["score"][::2].tolist()


def test_a_run_is_trained_once_and_depends_on_seed_settings_data_and_labels(home, plain, monkeypatch):
    table = frames.select(frames.load_frames("smoke-a"), "train")
    assert plain.record["n"]["train"] == len(table) and len(plain.log) == 2
    plans = []
    monkeypatch.setattr(train, "_launch", plans.append)
    monkeypatch.setattr(train.Run, "open", lambda folder: folder)
    assert trained(seed=20, epoch_tests=["smoke-b"]) == plain.folder and not plans
    changed = [
        {},
        {"seed": 21},
        {"changes": {"lr": 1e-3}},
        {"seen_methods": [sorted(set(table["method"]) - {"real"})[0]]},
        {"shuffled_labels": True},
    ]
    folders = {trained(**{"seed": 20, **change}) for change in changed}
    assert len(plans) == len(folders) == len(changed) and plain.folder not in folders
    shown, shuffled = (plans[place].splits["train"] for place in (0, -1))
    assert sorted(shown["label"]) == sorted(shuffled["label"]) and not (shown["label"] == shuffled["label"]).all()
    assert shuffled.groupby("video", observed=True)["label"].nunique().max() == 1
    assert (shuffled["mask"][shuffled["label"] == 0] == "").all() and (shuffled["mask"] != "").any()
    assert ((shuffled["method"] == "real") == (shuffled["label"] == 0)).all()
    assert plans[0].splits["val"].equals(plans[-1].splits["val"])


def test_drawn_data_and_initial_weights_identify_a_run(home, plain, monkeypatch):
    """Not the bytes of the data, which stand beside; a phase and the one before it follow alike."""
    assert plain.record["fingerprints"] == {
        name: frames.load_frames(name).attrs["fingerprint"] for name in ("smoke-a", "smoke-b")
    }
    monkeypatch.setattr(train, "_launch", lambda loop: None)
    monkeypatch.setattr(train.Run, "open", lambda folder: folder)
    real = frames.load_frames

    def with_record(name, **changes):
        table = real(name)
        parameters = table.attrs["record"]["parameters"] | changes
        table.attrs |= {"fingerprint": "other bytes", "record": table.attrs["record"] | {"parameters": parameters}}
        return table

    monkeypatch.setattr(train, "load_frames", with_record)
    assert trained(seed=20, epoch_tests=["smoke-b"]) == plain.folder
    monkeypatch.setattr(lae.Settings, "always", lambda *given: [])
    monkeypatch.setattr(lae.Settings, "visible", lambda self, table, *given: table)
    both = [(trained("lae", seed=30), trained("lae", seed=30, changes={"phase": "representation"}))]
    monkeypatch.setattr(train, "load_frames", lambda name: with_record(name, generator=99))
    both.append((trained("lae", seed=30), trained("lae", seed=30, changes={"phase": "representation"})))
    monkeypatch.setattr(train.backbones, "start", lambda name, pretrained: {"from": "drawn faces", "sha256": name})
    both.append((trained("lae", seed=30), trained("lae", seed=30, changes={"phase": "representation"})))
    assert len({folder for folders in both for folder in folders}) == 6
    assert trained(seed=20, epoch_tests=["smoke-b"]) != plain.folder


@pytest.mark.parametrize("before", [1, 2])
def test_the_weights_do_not_depend_on_the_threads_before(home, other_home, before):
    """A process of its own, since what OpenMP reads of its environment it reads once."""
    code = (
        "import sys, torch, test_train; torch.set_num_threads(int(sys.argv[1])); print(test_train.trained(seed=17).id)"
    )
    tests = os.fspath(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": str(before), "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, "-c", code, str(before)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    other = train.Run.open(done.stdout.splitlines()[-1])
    assert other.record["environment"]["threads"] == 1
    torch.set_num_threads(2)
    (other_home / "here").mkdir()
    (other_home / "here" / "datasets").symlink_to(home / "datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(other_home / "here"))
        assert_same_training(trained(seed=17), other)
    assert torch.get_num_threads() == 1


LN2 = float(np.log(2))


@pytest.mark.parametrize(
    ("last", "auc", "expected"),
    [
        ({"loss_cls": 0.94 * LN2}, 0.61, False),
        ({"loss_cls": 0.96 * LN2}, 0.9, True),
        ({"loss_cls": 0.1}, 0.59, True),
        ({"loss_latent": 0.79, "loss_total": 5.0}, 0.9, False),
        ({"loss_latent": 0.81}, 0.9, True),
        ({"loss_ce": 2.0, "loss_cls": 0.4}, 0.9, False),
    ],
)
def test_a_collapsed_run_is_told_by_its_last_loss_and_its_validation(last, auc, expected):
    log = [{"epoch": 1, "loss_cls": 2.0, "loss_latent": 2.0}, {"epoch": 2, **last}]
    assert train.collapsed({"log": log, "chosen": {"epoch": 1, "auc": auc}}) is expected


def test_five_percent_of_the_real_frames_exceed_the_threshold():
    """Of 100 real frames five exceed it, and six are not below it; fakes do not count."""
    score = np.concatenate([core.rng("real").permutation(100), np.full(50, 100)]) / 100
    table = pd.DataFrame({"label": np.repeat([0, 1], (100, 50)), "score": score, "cluster": np.arange(150) // 4})
    assert train._threshold(table) == {"threshold": 0.94, "threshold_clusters": 25}


def test_the_record_has_the_threshold_the_images_seen_and_whether_the_run_collapsed(home, plain):
    assert plain.record["images_seen"] == 2 * 64 and plain.record["collapsed"] is train.collapsed(plain.record)
    assert plain.record["chosen"].keys() == {"epoch", "auc"}
    validation = frames.select(frames.load_frames("smoke-a"), "val")
    table = train.predict(plain.network(), validation, plain.settings)
    real = table[table["label"] == 0]
    kept = plain.record["validation_threshold"]
    assert kept["threshold_clusters"] == real["cluster"].nunique() > 1
    exceeding = [(real["score"] > kept["threshold"] + shift).mean() for shift in (1e-6, -1e-6)]
    assert exceeding[0] <= 0.05 < exceeding[1]
    scored = scores.score(plain, "smoke-b")
    assert {name: scored.attrs[name] for name in kept} == kept
    two_phases = trained("lae", seed=2, changes={"epochs": 1})
    assert (
        two_phases.record["images_seen"] == 128 == train.Run.open(two_phases.record["start"]).record["images_seen"] + 64
    )


def test_a_phase_is_trained_under_the_lock_of_who_needs_it(home):
    """Phase two starts from phase one; another training of phase two finds it there."""
    run = trained("lae", seed=2, changes={"epochs": 1})
    first = train.Run.open(run.record["start"])
    assert first.settings == run.settings.before() and first.record["start"] is None
    assert run.record["weights_from"] == first.record["weights_from"] == "random weights"
    written = (first.folder / "record.json").stat().st_mtime_ns
    other = trained("lae", seed=2, changes={"epochs": 1, "attention_weight": 2.0})
    assert other.record["start"] == first.id and other.folder != run.folder
    assert (first.folder / "record.json").stat().st_mtime_ns == written
    assert "loss_adversary" in run.log and first.network().training is False


def test_a_diverging_run_stops_and_keeps_its_checkpoint(home, monkeypatch):
    def groups(network, weight_decay):
        return [{"params": network.parameters(), "lr": 1e18}]

    monkeypatch.setattr(xception.Network, "parameter_groups", groups)
    with pytest.raises(DfnbError, match=r"the (loss|network) is no longer finite.*lower lr \(now 0\.002\)"):
        trained(seed=7, changes={"schedule": "constant", "epochs": 3})
    folder = next(home.glob("runs/xception-smoke-a-s7-*"))
    kept = folder / "last.ckpt"
    assert core.read_record(folder) is None
    assert not kept.exists() or all(torch.isfinite(value).all() for value in torch.load(kept)["network"].values())


def test_nan_keeps_the_last_good_checkpoint(home, monkeypatch):
    real = xception.Network.losses

    def broken(self, outputs, batch):
        terms = real(self, outputs, batch)
        return {name: value * float("nan") for name, value in terms.items()} if batch["epoch"] == 1 else terms

    with monkeypatch.context() as patch:
        patch.setattr(xception.Network, "losses", broken)
        with pytest.raises(DfnbError, match="the loss is no longer finite in epoch 2, step 1"):
            trained(seed=8)
    kept = torch.load(next(home.glob("runs/xception-smoke-a-s8-*")) / "last.ckpt")
    assert kept["epoch"] == 1 and all(torch.isfinite(value).all() for value in kept["network"].values())
    assert len(trained(seed=8).log) == 2


def test_a_second_writer_is_refused(other_home, monkeypatch):
    monkeypatch.setattr(train, "_launch", lambda loop: pytest.fail("trained while another process held the run"))
    monkeypatch.setattr(core, "digest", lambda content, digits=12: "held")
    with (
        core.locked(other_home / "runs" / "xception-smoke-a-s0-held"),
        pytest.raises(DfnbError, match="another process"),
    ):
        trained(wait_s=0)


def test_the_chosen_epoch_is_the_best_on_validation_and_its_weights_are_checked(plain, home, tmp_path):
    log, chosen = plain.log, plain.record["chosen"]["epoch"]
    assert (
        chosen == log.loc[log["validation_auc"].idxmax(), "epoch"] and plain.record["weights_from"] == "random weights"
    )
    of_epoch = core.read_table(train.shard(plain.folder, "smoke-b", f"epoch {chosen}"))
    again = train.predict(plain.network(), frames.select(frames.load_frames("smoke-b"), "test"), plain.settings)
    np.testing.assert_allclose(of_epoch["score"], again["score"], atol=1e-6)
    copy = tmp_path / "copy.safetensors"
    content = bytearray((plain.folder / "best.safetensors").read_bytes())
    copy.write_bytes(content)
    assert plain.network(copy).training is False
    content[-1] ^= 1
    copy.write_bytes(content)
    for path in (copy, tmp_path / "missing"):
        with pytest.raises(DfnbError, match=f"{path} is not what the record .* delete its folder") as error:
            plain.network(path)
        assert "\n" not in str(error.value)


def test_the_last_epoch_is_chosen_where_the_paper_says_so(home, monkeypatch):
    monkeypatch.setattr(xception.Settings, "chosen", "last")
    run = trained(seed=15)
    assert run.record["chosen"]["epoch"] == 2 and run.record["rule"] == "the last epoch"


def test_mixup_happens_as_often_as_asked_and_follows_the_seed(tmp_path):
    class Fabric:
        global_rank, device = 0, torch.device("cpu")

    mixing = settings("locate_and_verify", mixup_probability=0.5)
    loop = train._Loop(tmp_path, {}, mixing, {}, [], None)
    loop.fabric, loop.seed, drawn = Fabric(), 0, []
    batch = {"image": torch.arange(4.0).view(4, 1, 1, 1), "partner": None, "weight": 1.0}
    for place in range(400):
        mixed = loop._mixed(batch, place)
        drawn.append(mixed["partner"] is not None)
        if drawn[-1]:
            expected = mixed["weight"] * batch["image"] + (1 - mixed["weight"]) * batch["image"][mixed["partner"]]
            assert torch.equal(mixed["image"], expected)
    assert 160 < sum(drawn) < 240
    assert [loop._mixed(batch, place)["partner"] is not None for place in range(400)] == drawn


def test_fewer_frames_per_video_hold_for_all_phases_and_are_part_of_the_identity(home):
    few, whole = (trained("lae", seed=18, changes={"epochs": 1}, frames_per_video=n) for n in (1, None))
    first = train.Run.open(few.record["start"])
    assert few.record["n"] == first.record["n"] == {"train": 32, "val": 16} and whole.record["n"]["train"] == 64
    assert first.parameters["frames_per_video"] == 1 and "frames_per_video" not in whole.parameters
    table = frames.select(frames.load_frames("smoke-a"), "train")
    np.testing.assert_array_equal(few.mean_mask(), frames.mean_mask(frames.thinned(table, 1)))
    assert (few.mean_mask() != whole.mean_mask()).any()


@pytest.fixture
def several(monkeypatch):
    """DDP on the CPU with gloo, in processes that start faster."""
    strategy = train.DDPStrategy
    monkeypatch.setattr(train, "DDPStrategy", lambda **options: strategy(**{**options, "start_method": START}))


def test_two_processes_train_as_one(home, several, monkeypatch):
    """A run by two processes is loaded like any other."""
    loops, launch = [], train._launch
    monkeypatch.setattr(train, "_launch", lambda loop: loops.append(loop) or launch(loop))
    changes = {"epochs": 1, **SSPSL}
    run = trained("locate_and_verify", seed=9, changes=changes, epoch_tests=["smoke-b"], devices=2)
    assert run.record["n"]["train"] == 64 and np.isfinite(run.log["loss_total"]).all()
    assert "validation_pseudo_iou" in run.log and len(core.read_table(train.shard(run.folder, "smoke-b", "epoch 1")))
    alone = trained("locate_and_verify", seed=9, changes=changes, epoch_tests=["smoke-b"])
    assert run.folder != alone.folder and run.log["lr"].equals(alone.log["lr"])
    # as it is sent to processes that are not forked
    assert pickle.loads(pickle.dumps(loops[0])).settings == loops[0].settings


def test_two_processes_reach_the_weights_of_one_without_batch_norm(home, several):
    """Batch norm differs, since each process has statistics of its own half of a batch, as in the released codes."""
    plain = {"backbone": "test_convnext", "optimiser": "adamw", "lr": 1e-4, "epochs": 1, "images_per_epoch": 64}
    one, two = (trained(seed=9, changes=plain, devices=devices, epoch_tests=["smoke-b"]) for devices in (1, 2))
    a, b = (load_file(run.folder / "best.safetensors") for run in (one, two))
    assert not any("running" in name for name in a)
    moved = torch.cat([(a[name] - weights).flatten() for name, weights in _untrained(plain).items()])
    apart = torch.cat([(a[name] - b[name]).flatten() for name in a])
    # rounding: Adam divides a gradient near zero by itself, so single weights may differ by more than their mean
    assert moved.norm() > 0 and apart.norm() < 1e-3 * moved.norm()
    epochs = [core.read_table(train.shard(run.folder, "smoke-b", "epoch 1")) for run in (one, two)]
    assert epochs[0].drop(columns="score").equals(epochs[1].drop(columns="score"))
    np.testing.assert_allclose(epochs[0]["score"], epochs[1]["score"], atol=1e-6)


def _untrained(changes):
    torch.manual_seed(core.torch_seed("init", 9))
    return papers.module("xception").Network(settings("xception", **changes)).state_dict()


def test_a_process_that_is_killed_ends_the_others_with_one_sentence_and_the_run_goes_on(
    home, other_home, several, monkeypatch
):
    """Killed before its third step with a checkpoint after each, and started again: the weights of an unbroken run."""
    with monkeypatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        straight = trained(seed=19, devices=2)
    monkeypatch.setattr(train, "CHECKPOINT_S", 0)
    real = core.torch_seed

    def killed(purpose, *key):
        if (purpose, *key[1:]) == ("dropout", 2, 1):  # step, rank
            os.kill(os.getpid(), signal.SIGKILL)
        return real(purpose, *key)

    with monkeypatch.context() as patch:
        patch.setattr(core, "torch_seed", killed)
        with pytest.raises(
            DfnbError, match=r"runs/xception-\S+: process 1 terminated with signal SIGKILL; start again"
        ):
            trained(seed=19, devices=2)
    resumed = trained(seed=19, devices=2)
    assert resumed.id == straight.id and resumed.folder.parent.parent == other_home
    assert_same_training(straight, resumed)


def test_an_error_of_another_process_is_one_sentence(other_home, monkeypatch):
    def launch(fabric, loop):
        trace = (
            "\n\n-- Process 1 terminated\nTraceback (most recent call last):\ndfnb.core.DfnbError: the loss is lost\n"
        )
        raise torch.multiprocessing.ProcessRaisedException(trace, 1, 99)

    monkeypatch.setattr(train.Fabric, "launch", launch)
    with pytest.raises(DfnbError, match=r"^the loss is lost$"):
        trained(devices=2)


def test_out_of_memory_the_last_checkpoint_is_kept_and_the_training_goes_on_afterwards(other_home, monkeypatch):
    real = xception.Network.losses

    def losses(self, outputs, batch):
        if batch["epoch"] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, outputs, batch)

    with monkeypatch.context() as patch:
        patch.setattr(xception.Network, "losses", losses)
        with pytest.raises(
            DfnbError, match=r"^\S+/xception-\S+: CUDA out of memory\. .*; start again, .*; .* lower batch_size$"
        ):
            trained(seed=40)
    assert torch.load(next(other_home.glob("runs/xception-smoke-a-s40-*")) / "last.ckpt")["epoch"] == 1
    assert len(trained(seed=40).log) == 2


WORKER = "in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x, line 1\n"
LOST = [
    (MemoryError(), r"\S+: MemoryError; start again, it goes on from its last checkpoint"),
    (MemoryError("Unable to allocate 9 GiB for an array"), "Unable to allocate 9 GiB for an array; start again"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "9 bytes; start again"),
    (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "exited unexpectedly; start again"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "Killed.; start again"),
    (DfnbError(f"Caught DfnbError {WORKER}dfnb.core.DfnbError: x.npy is damaged; delete it"), "^x.npy is damaged; delete it$"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "sentence"), LOST)
def test_what_ends_a_training_from_outside_is_one_sentence(other_home, monkeypatch, error, sentence):
    def launch(fabric, loop):
        raise error

    monkeypatch.setattr(train.Fabric, "launch", launch)
    with pytest.raises(DfnbError, match=sentence) as told:
        trained(seed=41)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), RuntimeError(f"Caught ValueError {WORKER}ValueError: x")]
)
def test_an_error_of_the_code_keeps_its_traceback(other_home, monkeypatch, error):
    def launch(fabric, loop):
        raise error

    monkeypatch.setattr(train.Fabric, "launch", launch)
    with pytest.raises(RuntimeError) as told:
        trained(seed=41)
    assert told.value is error


def test_a_profile_may_refuse_random_weights_in_the_place_of_pretrained_ones(home, monkeypatch):
    monkeypatch.setattr(train.backbones, "start", lambda *given: {"from": "random weights"})
    with pytest.raises(
        DfnbError, match="dfnb_plain7: its pretrained weights cannot be fetched; get them, or set allow_"
    ):
        train.train("xception", "smoke-a", settings("xception", pretrained=True), allow_random=False)
    assert not jobs.profile("paper").allow_random and jobs.profile("demo").allow_random
