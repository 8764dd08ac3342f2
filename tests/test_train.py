"""Training: the same weights after a kill, and a refusal of what cannot be trained."""

import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import profiles
import pytest
import torch
import toy
from interrupted import before_loss, kill
from networks import recipe
from safetensors.torch import load_file

import notebooks
from dfnb import device, papers, results
from dfnb.data import loading
from dfnb.data.loading import EpochSampler, FrameDataset, loader, prepared
from dfnb.papers import contract, released_weights, xception
from dfnb.running import measuring
from dfnb.running.planning import plan
from dfnb.store import reports
from dfnb.store.runs import Training, TrainingRecord
from dfnb.training import progress, runs, scoring, train, trainer
from dfnb.training.runs import Run, with_weights
from facesets import frames, records
from facesets.checks import DfnbError
from facesets.files import (
    locked,
    read_metadata,
    run_folder,
    sha256,
    write_bytes,
    write_json,
    write_table,
)
from facesets.seeds import torch_seed

SMALL = {
    "image_size": 64,
    "batch_size": 16,
    "optimiser": "adamw",
    "lr": 2e-3,
    "schedule": "onecycle",
    "augmentation": "light",
    "epochs": 2,
    "images_per_epoch": 64,  # four steps
}
OF_PAPER = {
    "xception": {"oversampling": None},
    "locate_and_verify": {},
    "lae": {"annotated": 0.1, "representation_epochs": 1},
}
RESTARTED = {"optimiser_restarts": "released", "schedule": "cosine", "cosine_steps": 4}


def settings(paper="xception", **changes):
    return recipe(paper, **{**SMALL, **OF_PAPER[paper], **changes})


def training(paper="xception", changes=None, train_set="smoke-a", **options):
    return train.make_training(paper, train_set, settings(paper, **(changes or {})), **options)


def trained(paper="xception", seed=0, changes=None, **options):
    return train.train(training(paper, changes, seed=seed, **options))


@pytest.fixture
def new_home(home, tmp_path, monkeypatch):
    """A home with the same datasets and no runs."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "datasets").symlink_to(home / "datasets")
        monkeypatch.setenv("DFNB_HOME", str(folder))
        return folder

    make("first")
    return make


@pytest.fixture(scope="module")
def plain(smoke_home):
    """Two epochs of the baseline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(smoke_home))
        return trained(seed=20)


@pytest.fixture
def last_chosen(monkeypatch):
    """The weights that a training keeps are those after its last step."""
    for paper in OF_PAPER:
        monkeypatch.setattr(papers.module(paper).Settings, "chosen", "last")


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "arguments",
    [{"paper": "locate_and_verify"}, {"paper": "xception", "changes": RESTARTED}],
    ids=["mixup", "restarts"],
)
def test_killed_at_any_step_a_training_ends_in_the_same_weights(
    new_home, last_chosen, monkeypatch, capsys, arguments
):
    """Killed in step 3, broken off in steps 5 and 8, then left alone; a checkpoint every step.

    The record has the time that the checkpoint has, once.
    """
    straight = trained(**arguments)
    log = (straight.folder / "log.csv").read_bytes()
    home = new_home("second")
    kill(3, training(**arguments))
    (checkpoint,) = home.glob("runs/*/last.ckpt")
    state = torch.load(checkpoint)
    assert state["progress"]["seconds"] > 0
    state["progress"]["seconds"] = 1000.0
    torch.save(state, checkpoint)
    monkeypatch.setattr(records, "time", SimpleNamespace(monotonic=lambda: 0.0))  # stands still
    monkeypatch.setattr(trainer, "CHECKPOINT_S", 0)
    for step in (3, 4):  # of those that are left
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            before_loss(patch, papers.module(arguments["paper"]).Network, step, interrupt)
            trained(**arguments)
    capsys.readouterr()
    resumed = trained(**arguments)
    printed = capsys.readouterr().out
    assert "resumed in epoch 2, step 3" in printed and "\repoch 2 of 2: 100%" in printed
    assert resumed.record.wall_s == 1000
    assert straight.record.weights_sha256 == resumed.record.weights_sha256
    pd.testing.assert_frame_equal(straight.log, resumed.log, check_exact=True)
    assert (resumed.folder / "log.csv").read_bytes() == log
    assert not (resumed.folder / "last.ckpt").exists()  # the record is there


def test_the_log_grows_while_it_trains_and_a_resumed_one_ends_at_the_checkpoint(
    new_home, monkeypatch, capsys
):
    """Broken off in epoch 2; the log then loses what is not in the checkpoint."""
    monkeypatch.setattr(progress, "PRINTED_S", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_loss(patch, xception.Network, 5, interrupt)
        trained()
    lines = [line for line in capsys.readouterr().out.split("\r") if line.startswith("epoch")]
    assert lines[0].startswith("epoch 1 of 2:  12%|") and " 16/128 [00:0" in lines[0]
    assert " images/s, " in lines[0] and " GiB, loss 0." in lines[0]
    assert "validation AUC" not in lines[0] and ", validation AUC 0." in lines[-1]
    (path,) = run_folder("").glob("*/log.csv")
    assert len(pd.read_csv(path)) == 1
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_loss(patch, xception.Network, 1, interrupt)
        trained()
    assert len(pd.read_csv(path)) == 1
    run = trained()
    pd.testing.assert_frame_equal(pd.read_csv(path), run.log)


class Linear(contract.Network):
    """A network without batch normalisation, and a loss that is a mean over images."""

    def __init__(self, settings):
        super().__init__()
        self.layer = torch.nn.Linear(3 * settings.image_size**2, 2)

    def forward(self, images):
        return {"cls": self.layer(images.flatten(1))}

    def losses(self, outputs, batch):
        return {"total": contract.cross_entropy(outputs["cls"], batch["label"], batch)}


def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole(new_home, monkeypatch):
    monkeypatch.setattr(xception, "Network", Linear)
    changes = {"optimiser": "sgd", "lr": 1e-3, "schedule": "constant"}
    batch_sizes = []
    losses = Linear.losses

    def noted(self, outputs, batch):
        batch_sizes.append(len(batch["image"]))
        return losses(self, outputs, batch)

    monkeypatch.setattr(Linear, "losses", noted)
    whole = trained(changes=changes)
    assert {*batch_sizes} == {16}
    batch_sizes.clear()
    parts = trained(changes={**changes, "accumulate": 4})
    assert {*batch_sizes} == {4} and len(batch_sizes) == 2 * 4 * 4
    for name, weights in whole.network().state_dict().items():
        torch.testing.assert_close(parts.network().state_dict()[name], weights)
    assert whole.id != parts.id and parts.record.images_seen == whole.record.images_seen
    pd.testing.assert_frame_equal(whole.log, parts.log, rtol=1e-4)


def test_killed_between_two_parts_of_a_batch_a_training_ends_in_the_same_weights(
    new_home, last_chosen
):
    arguments = {"changes": {"accumulate": 2, "mixup_probability": 0.5}}
    straight = trained(**arguments)
    new_home("second")
    kill(4, training(**arguments))  # in the second half of the second batch
    resumed = trained(**arguments)
    assert straight.record.weights_sha256 == resumed.record.weights_sha256
    pd.testing.assert_frame_equal(straight.log, resumed.log, check_exact=True)


def test_parts_of_a_batch_take_its_frames_in_turn():
    for changes, expected in (
        ({}, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ({"accumulate": 1}, [[*range(8)]]),
    ):
        chosen = settings(**{"batch_size": 8, "accumulate": 2, **changes})
        parts = trainer.Trainer._parts(SimpleNamespace(settings=chosen), {"image": torch.arange(8)})
        assert [part["image"].tolist() for part in parts] == expected
    with pytest.raises(ValueError, match="batch_size must be a multiple of 3"):
        settings(batch_size=8, accumulate=3)


def test_a_part_has_two_images_or_more():
    with pytest.raises(ValueError, match="two images in each part"):
        settings(batch_size=8, accumulate=8)


def test_a_released_schedule_begins_anew_in_every_epoch(new_home):
    """An epoch is half a period of the cosine: begun anew it falls to zero, else it rises again."""
    rates = {}
    for restarts in ("released", "corrected"):
        log = trained(changes={**RESTARTED, "optimiser_restarts": restarts}).log
        rates[restarts] = log["lr"].tolist()
    assert rates["released"] == pytest.approx([0, 0])
    assert rates["corrected"] == pytest.approx([0, SMALL["lr"]])


def test_damaged_checkpoints_and_weights_are_refused(new_home, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_loss(patch, xception.Network, 5, interrupt)
        trained()
    checkpoint = next(run_folder("").glob("*/last.ckpt"))
    content = checkpoint.read_bytes()
    for damaged in (b"", content[: len(content) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(DfnbError, match=r"last\.ckpt is not valid as a checkpoint") as error:
            trained()
        assert "\n" not in str(error.value)
    checkpoint.unlink()
    run = trained()
    assert len(run.log) == 2
    weights = run.folder / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(DfnbError, match="is missing or is not what the record describes"):
        run.network()
    assert Run.find("unknown") is None


def test_threads_change_no_weights_and_stay_as_they_were(new_home, plain):
    torch.set_num_threads(2)
    try:
        run = trained(seed=20)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert run.record.weights_sha256 == plain.record.weights_sha256


def test_workers_change_no_weights_and_stay_for_the_next_validation(new_home, plain, monkeypatch):
    monkeypatch.setenv("DFNB_WORKERS", "1")
    iterators = []
    end_epoch = trainer.Trainer.end_epoch

    def look(self):
        end_epoch(self)
        iterators.append(self.validation_loader._iterator)

    monkeypatch.setattr(trainer.Trainer, "end_epoch", look)
    assert trained(seed=20).record.weights_sha256 == plain.record.weights_sha256
    assert iterators[0] is iterators[1] is not None


def test_a_record_has_the_number_of_threads_and_a_training_keeps_it(new_home, plain, monkeypatch):
    assert plain.record.environment["threads"] == 1
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_loss(patch, xception.Network, 5, interrupt)
        trained(seed=20)
    monkeypatch.setenv("DFNB_THREADS", "2")
    resumed = trained(seed=20)
    assert resumed.record.environment["threads"] == 1
    assert resumed.record.weights_sha256 == plain.record.weights_sha256
    monkeypatch.setenv("DFNB_THREADS", "2")
    run = trained(seed=1, changes={"images_per_epoch": 16})
    assert run.record.environment["threads"] == 2


@pytest.mark.parametrize(("variable", "cores"), [("", 7), ("3", 3)])
def test_a_training_takes_all_cores_unless_it_is_told_otherwise(variable, cores, monkeypatch):
    monkeypatch.setenv("DFNB_THREADS", variable)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 7)
    assert records.threads() == cores


@pytest.mark.parametrize(("variable", "has_mps", "kind"), [("", True, "mps"), ("cpu", True, "cpu")])
def test_a_record_has_the_device_that_computes(variable, has_mps, kind, monkeypatch):
    monkeypatch.setenv("DFNB_DEVICE", variable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: variable == "cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert records.device() == kind
    assert records.environment()["device"].startswith(f"{kind} (")


def test_a_float64_step_has_the_numbers_of_this_version(tmp_path):
    """Where this fails on purpose, raise ``train.NUMBERS``: trainings have other weights now."""
    table = toy.table(tmp_path)
    recipe = settings(image_size=toy.SIZE, batch_size=8, epochs=1)
    torch.manual_seed(torch_seed("init", 1))
    network = xception.Network(recipe).double()
    sampler = EpochSampler(table, recipe, seed=1)
    [optimiser], schedule = recipe.optimisation(network, len(sampler))
    for item in loader(FrameDataset(table, recipe, seed=1), sampler):
        batch = prepared(item, recipe)
        outputs = network(batch["image"].double())
        losses = network.losses(outputs, {**batch, "epoch": 0, "partner": None, "weight": 1.0})
        losses["total"].backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    weights = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    projection = weights @ torch.linspace(0, 1000, len(weights), dtype=torch.float64).cos()
    assert projection.item() == pytest.approx(46.16440, rel=1e-4)  # other data change it by .004
    assert len(sampler) == 2


# ---------------------------------------------------------------- what is trained


def run_id(changes=None, **options):
    return training("xception", changes, **options).id


def test_an_id_follows_seed_settings_data_and_start(home, monkeypatch):
    ids = {
        run_id(),
        run_id(seed=1),
        run_id({"lr": 1e-3}),
        run_id({"pretrained": True}),
        run_id(seen_methods=["Deepfakes-like"]),
        run_id(frames_per_video=2),
        run_id(train_set="smoke-b"),
    }
    assert len(ids) == 7 and run_id(seen_methods=["b", "a"]) == run_id(seen_methods=["a", "b"])
    assert run_id({"step_epochs": settings().step_epochs}) in ids  # a published value
    monkeypatch.setattr(xception, "PAPER", dataclasses.replace(xception.PAPER, version=2))
    assert run_id() not in ids
    monkeypatch.undo()
    monkeypatch.setenv("DFNB_HOME", str(home))
    monkeypatch.setattr(train, "NUMBERS", train.NUMBERS + 1)
    assert run_id() not in ids


def test_committed_runs_have_the_ids_of_their_files(checkout):
    """Runs of every paper."""
    seen = set()
    for path in sorted(checkout.glob("reports/*/scores/*.parquet")):
        record = TrainingRecord.check(read_metadata(path)["record"], path)
        if record.parameters.paper not in papers.modules():  # its settings are known no more
            continue
        again = Run(path.stem, record).training
        assert again.id == path.stem
        seen.add(again.paper)
    assert seen == {*papers.modules()}


ODD = [
    (
        "xception-bed-s2-5d80d696",
        {"seed": 2, "frames_per_video": 3, "start_weights": ""},
        {"backbone": "dfnb_plain7", "lr": 1, "pretrained": False, "step_factor": 1},
    ),
    # With released weights images are resized without antialias.
    ("locate_and_verify-bed-s0-0c0bf787", {"data": ""}, {"released": "a.pth", "pretrained": False}),
    (
        "lae-bed-s1-a0c2c526",
        {"seed": 1, "frames_per_video": 2, "seen_methods": ["a", "b"]},
        {"backbone": "resnet18.a1_in1k", "masks": 5},
    ),
    ("exposing_the_deception-bed-s0-b123d428", {"version": 2}, {"branches": 2, "accumulate": 2}),
]


@pytest.mark.parametrize(("expected", "facts", "changes"), ODD)
def test_odd_settings_are_hashed_as_ever(expected, facts, changes):
    paper = expected.partition("-")[0]
    values = {"paper": paper, "train_set": "bed", "seed": 0, "data": "d", "start_weights": "w"}
    values |= {"seen_methods": None, "frames_per_video": None, "version": 1, "numbers": 3}
    chosen = papers.module(paper).Settings.check(changes, "test")
    assert Training(**{**values, **facts, "settings": chosen}).id == expected


def test_what_cannot_be_trained_is_refused(new_home, monkeypatch):
    with pytest.raises(DfnbError, match=r"annotated = 0\.001 is none"):
        trained("locate_and_verify", changes={"annotated": 0.001})
    table = frames.load_frames("smoke-a")
    for split in ("train", "val"):
        one_class = table[(table["split"] != split) | (table["label"] == 1)]
        monkeypatch.setattr(runs, "load_frames", {"smoke-a": one_class}.get)
        with pytest.raises(DfnbError, match=f"split '{split}' has 0 clusters of real frames"):
            trained()
    assert not list(run_folder("").glob("*/last.ckpt"))


def test_another_process_that_trains_the_run_is_waited_for(new_home):
    with ThreadPoolExecutor() as pool:
        with locked(run_folder(run_id())):
            training = pool.submit(trained)
            time.sleep(1)
            assert not training.done() and not (run_folder(run_id()) / "best.safetensors").exists()
        assert training.result().id == run_id()


def test_hidden_masks_are_never_opened(new_home, monkeypatch):
    table = frames.select(frames.load_frames("smoke-a"), "train")
    masks_of_training = set(table["mask"]) - {""}
    opened = set()

    def remembered(path, shape):
        opened.add(path)
        return frames.read_mask(path, shape)

    monkeypatch.setattr(loading, "read_mask", remembered)
    few = {"sspsl": True, "mixup_probability": 0.0, "epochs": 1, "images_per_epoch": 32}
    log = trained("locate_and_verify", changes={**few, "annotated": 0.0}).log
    assert opened and not opened & masks_of_training and np.isfinite(log["loss_seg"]).all()
    trained("locate_and_verify", changes={**few, "annotated": 1.0})
    assert opened & masks_of_training


def shown(monkeypatch, **arguments):
    """The batches that a training of the baseline hands to the losses of its network."""
    batches = []
    losses = xception.Network.losses

    def remembered(self, outputs, batch):
        batches.append(batch)
        return losses(self, outputs, batch)

    with monkeypatch.context() as patch:
        patch.setattr(xception.Network, "losses", remembered)
        trained(**arguments)
    return batches


def test_mixup_mixes_images_as_often_as_it_should(new_home, monkeypatch):
    mixed = shown(monkeypatch, changes={"epochs": 3, "mixup_probability": 0.5})
    plain = shown(monkeypatch, changes={"epochs": 3})
    both = [pair for pair in zip(mixed, plain, strict=True) if pair[0]["partner"] is not None]
    assert 2 <= len(both) <= 10
    for batch, original in both:
        partner = original["image"][batch["partner"]]
        mixture = batch["weight"] * original["image"] + (1 - batch["weight"]) * partner
        assert torch.equal(batch["image"], mixture)


@pytest.mark.parametrize(("alpha", "variance"), [(0.5, 1 / 8), (1.0, 1 / 12)])
def test_shares_of_mixup_are_of_the_beta_distribution(alpha, variance):
    """Beta(α, α) has the mean ½ and the variance 1 / (4 (2 α + 1))."""
    mixing = settings(mixup_probability=0.75, mixup_alpha=alpha)
    item = {"image": torch.zeros(4, 3, 8, 8).byte(), "mask": torch.zeros(4, 1, 8, 8).byte()}
    state = SimpleNamespace(settings=mixing, training=SimpleNamespace(seed=3))
    state.progress = trainer.Progress()
    batches = [trainer.Trainer._mixed(state, item, 0) for state.global_step in range(1500)]
    shares = np.array([batch["weight"] for batch in batches if batch["partner"] is not None])
    assert len(shares) / len(batches) == pytest.approx(0.75, abs=0.05)
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(variance, rel=0.1)


# ---------------------------------------------------------------- epochs and records


def test_weights_in_half_precision_are_those_that_are_judged(new_home, monkeypatch):
    """Training goes on with those of float32, so the losses of both trainings are the same."""
    judged = []

    def predict(*arguments, **options):
        judged.append(scoring.predict_frames(*arguments, **options)["log_odds"])
        return scoring.predict_frames(*arguments, **options)

    monkeypatch.setattr(trainer, "predict_frames", predict)
    half = trained(changes={"half_weights": True})
    whole = trained()
    assert half.id != whole.id and "half_weights" not in whole.record.parameters.settings
    tensors = load_file(half.weights())
    assert {value.dtype for value in tensors.values()} == {torch.float16, torch.int64}
    assert half.weights().stat().st_size < 0.6 * whole.weights().stat().st_size
    assert half.log["loss_total"].equals(whole.log["loss_total"])
    network = half.network()
    assert next(network.parameters()).dtype == torch.float32
    val = runs.frames_of(half.parameters, "val")
    again = scoring.predict_frames(network, val, half.settings)["log_odds"]
    assert again.equals(judged[half.record.chosen.epoch - 1])
    assert not again.equals(judged[half.record.chosen.epoch + 1])  # of the whole training's


def test_frozen_statistics_are_those_of_the_start(new_home):
    run = trained(changes={"freeze_batchnorm": True, "epochs": 1})
    means = [v for name, v in load_file(run.weights()).items() if "running_mean" in name]
    assert means and not any(value.any() for value in means)


def test_a_linear_probe_learns_its_classifier_alone(new_home):
    probe = {"trunk_lr": 0, "freeze_batchnorm": True, "weight_decay": 0.1}
    short, long = (load_file(trained(changes={**probe, "epochs": n}).weights()) for n in (1, 2))
    differ = [name for name in short if not torch.equal(short[name], long[name])]
    assert {*differ} == {"backbone.fc.weight", "backbone.fc.bias"}


def test_the_record_says_what_a_report_needs(home, plain):
    record = plain.record
    assert record.images_seen == 2 * 64 and record.n == {"train": 64, "val": 32}
    assert record.detector.title == xception.PAPER.title
    assert record.detector.defaults["lr"] == xception.Settings().lr
    assert record.weights_from == "random weights"
    assert plain.settings == settings()
    validation = frames.select(frames.load_frames("smoke-a"), "val")
    scores = scoring.predict_frames(plain.network(), validation, plain.settings)
    real = scores[scores["label"] == 0]
    threshold = record.validation_threshold
    assert threshold.threshold_clusters == real["cluster"].nunique() > 1
    above = [(real["score"] > threshold.threshold + shift).mean() for shift in (1e-6, -1e-6)]
    assert above[0] <= 0.05 < above[1]


def test_the_chosen_epoch_is_the_best_on_validation_or_the_last(home, plain, monkeypatch):
    best = plain.log.loc[plain.log["validation_auc"].idxmax(), "epoch"]
    assert plain.record.chosen.epoch == best
    monkeypatch.setattr(xception.Settings, "chosen", "last")
    run = trained(seed=15)
    assert run.record.chosen.epoch == 2 and run.record.rule == "the last epoch"


def test_a_phase_before_is_trained_once_and_started_from(new_home, monkeypatch):
    run = trained("lae", changes={"epochs": 1}, frames_per_video=1)
    first = Run.find(run.record.start)
    assert first.settings == run.settings.before() and first.record.start is None
    assert run.record.images_seen == first.record.images_seen + 32
    assert first.record.n == run.record.n == {"train": 32, "val": 16}
    assert "loss_adversary" in run.log
    written = (first.folder / "record.json").stat().st_mtime_ns
    other = trained("lae", changes={"epochs": 1, "attention_weight": 2.0}, frames_per_video=1)
    assert other.record.start == first.id and other.id != run.id
    assert (first.folder / "record.json").stat().st_mtime_ns == written
    table = frames.thinned(frames.select(frames.load_frames("smoke-a"), "train"), 1)
    np.testing.assert_array_equal(run.mean_mask(), frames.mean_mask(table))
    # Not of another version of the training set; and no report has the mask.
    monkeypatch.setattr("dfnb.training.runs.data_identity", lambda *_: "another")
    assert type(run).mean_mask.__wrapped__(run) is None
    reports.keep_weights("mine", run)
    shutil.rmtree(first.folder)
    assert run.phase_before == first and first.network()  # by the report's copies


def test_a_training_computes_as_its_settings_say(new_home, monkeypatch):
    found = []
    end_epoch = trainer.Trainer.end_epoch

    @contextmanager
    def noted(name):
        found.append(name)
        yield

    def look(self):
        found.append(torch.are_deterministic_algorithms_enabled())
        end_epoch(self)

    monkeypatch.setattr(trainer.device, "precision", noted)
    monkeypatch.setattr(trainer.Trainer, "end_epoch", look)
    for precision, deterministic in (("tf32", True), ("bf16-mixed", False)):
        changes = {"images_per_epoch": 16, "epochs": 1, "deterministic": deterministic}
        run = trained(changes={**changes, "precision": precision})
        assert run.parameters.settings["precision"] == precision
    assert found == ["tf32", True, "bf16-mixed", False]
    assert not torch.are_deterministic_algorithms_enabled()


def test_precision_sets_the_flags_of_cuda_and_restores_them(monkeypatch):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for name in ("32-true", "tf32", "bf16-mixed"):
        with monkeypatch.context() as patch:
            patch.setattr(device, "DEVICE", "cuda")
            with device.precision(name):
                assert [flag.allow_tf32 for flag in flags] == [name != "32-true"] * 2
        assert [flag.allow_tf32 for flag in flags] == before


@pytest.mark.parametrize("what", ["loss", "validation score"])
def test_a_training_that_diverges_is_stopped(new_home, monkeypatch, what):
    changes = {"images_per_epoch": 16}  # one step
    losses = xception.Network.losses

    def diverging(self, outputs, batch):
        terms = losses(self, outputs, batch)
        if batch["epoch"] == 1 and what == "loss":
            terms["total"] = terms["total"] * float("nan")
        if batch["epoch"] == 1 and what == "validation score":
            next(self.parameters()).data.fill_(float("inf"))
        return terms

    monkeypatch.setattr(xception.Network, "losses", diverging)
    with pytest.raises(DfnbError, match=f"the {what} is no longer finite in epoch 2.*lower lr"):
        trained(changes=changes)
    checkpoint = torch.load(next(run_folder("").glob("*/last.ckpt")), weights_only=True)
    assert checkpoint["progress"]["epoch"] == 1


def test_a_collapsed_run_is_told_by_its_validation(new_home, monkeypatch):
    for auc, seed in ((0.59, 1), (0.61, 2)):
        monkeypatch.setattr("sklearn.metrics.roc_auc_score", lambda *_, auc=auc: auc)
        run = trained(seed=seed, changes={"images_per_epoch": 16})
        assert run.record.collapsed == (auc < 0.6)


# ---------------------------------------------------------------- released weights

ETD = "05_exposing_the_deception"
SIZES = {"branches": 2, "fusion_widths": [16, 16, 12]}
RELEASED_NAMES = {
    "branches.0.": "region_model1.",
    "branches.1.": "region_model2.",
    "left_out_heads.0.": "local_linear1.",
    "left_out_heads.1.": "local_linear2.",
    "joint_head.": "baseline_linear.",
    "fusion.": "bottleneck.model.",
    "cls_head.1.": "linear.1.",
}


@pytest.fixture
def released(own_home):
    """A network, its weights as the authors' code would save them, and a profile that names them.

    Left out are the weights of the losses, and a part without an effect is added.
    """
    small = {**profiles.SETTINGS, **SIZES, "pretrained": False, "mixup_probability": 0.0}
    variants = {ETD: {"Exposing, released": {"released": "weights/etd.pth"}}}
    profiles.write_profile(own_home, notebooks={ETD: small}, variants=variants)
    torch.manual_seed(5)
    paper = papers.module("exposing_the_deception")
    network = paper.Network(paper.Settings.check({**small, "lr": 0.1}, "a test")).eval()
    weights = {"region_model1.fc.bias": torch.zeros(1000)}
    for name, tensor in network.state_dict().items():
        for ours, theirs in RELEASED_NAMES.items():
            if name.startswith(ours):
                weights[name.replace(ours, theirs)] = tensor
    (own_home / "weights").mkdir()
    return network, weights, own_home / "weights" / "etd.pth"


def test_released_weights_are_scored_and_not_trained(released):
    network, weights, file = released
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}}, file)
    call = plan("mine").trainings[-1]
    run = measuring.open_or_train(call.parameters)
    stored = results.scores("mine", level="frame").query("test_set == 'smoke-b'")
    assert {*stored["detector"]} == {"Exposing, released"}
    test_frames = frames.select(frames.load_frames("smoke-b"), "test")
    expected = scoring.predict_frames(network, test_frames, run.settings)["score"]
    np.testing.assert_allclose(stored["score"], expected, atol=1e-6)  # stored in float32
    record = run.record
    assert record.parameters.settings["released"] == "weights/etd.pth"
    assert record.parameters.start_weights == sha256(file)
    assert record.images_seen == 0 and record.weights_from == "the authors' weights"
    assert "authors' choice" in record.rule and record.validation_threshold is None
    assert run.limit == 0.5


def test_released_weights_that_do_not_fit_are_refused(released):
    _, weights, file = released
    with pytest.raises(DfnbError, match=r"etd\.pth.* correct the parameter released"):
        plan("mine")
    del weights["linear.1.weight"]
    for change, sentence in [
        ({"linear.1.bias": torch.zeros(3)}, "size mismatch for cls_head.1.bias"),
        ({"extra": torch.zeros(3)}, r"2 tensors are .*\['cls_head.1.weight', 'extra'\]"),
    ]:
        torch.save({**weights, **change}, file)
        with pytest.raises(DfnbError, match=rf"etd\.pth is not valid.*{sentence}"):
            measuring.open_or_train(plan("mine").trainings[-1].parameters)
    file.write_bytes(b"PK and no more")
    with pytest.raises(DfnbError, match=r"etd\.pth is not valid as weights of Exposing"):
        measuring.open_or_train(plan("mine").trainings[-1].parameters)
    with pytest.raises(DfnbError, match=r"lae\.yaml.*leave the parameter released out"):
        released_weights.released_start(str(file), papers.module("lae"))


@pytest.mark.usefixtures("figures_without_a_screen")
def test_the_profile_published_scores_what_its_patterns_match(own_home):
    """Here miniature weights, on a drawn test set. No training set is needed."""
    small = {**profiles.SETTINGS, "pretrained": False}
    shared = {"like": "published", "test_sets": ["smoke-b"]}
    profiles.write_profile(own_home, shared, {profiles.BASELINE: small})
    with pytest.raises(DfnbError, match=r"nothing to score: put weights into weights/xception/\*"):
        plan("mine")
    (own_home / "weights" / "xception").mkdir(parents=True)
    paper = papers.module("xception")
    network = paper.Network(paper.Settings(backbone="dfnb_plain7", pretrained=False))
    for name in ("first", "second"):
        torch.save(network.state_dict(), own_home / "weights" / "xception" / f"{name}.pth")
    assert plan("mine", main=True).trainings == plan("mine").trainings
    planned = profiles.trained()
    assert [call.name for call in planned.shown] == ["10_report"] and len(planned.trainings) == 2
    shown, _ = notebooks.execute("10_report", own_home, **profiles.injected(planned.shown[0]))
    assert "Baseline, second" in "".join(shown) and planned.shown[0].done
    scores = results.scores("mine", level="frame")
    assert [*scores["detector"].unique()] == ["Baseline, first", "Baseline, second"]
    limits = results.thresholds("mine")
    assert limits == {}  # nobody has published one
    assert results.measure(scores, "false positive rate", "detector", thresholds=limits).empty


# ---------------------------------------------------------------- what a run was made of


def test_a_run_is_compared_with_what_is_asked_for(own_home):
    small = {"epochs": 1, "batch_size": 4, "images_per_epoch": 8, "image_size": 64}
    training = train.make_training("xception", "smoke-a", recipe("xception", **small))
    run = train.train(training)

    def opened(**changes):
        content = run.record.model_copy(update=changes).model_dump(mode="json")
        content["parameters"]["code"] = ""  # as earlier records have it
        write_json(run.folder / "record.json", content)
        return Run.find(training)

    assert opened().training == training
    # A default of the paper was another one, which its id does not have.
    stored = {**run.parameters.settings, "lr": 0.5}
    with pytest.raises(DfnbError, match=r"was trained with lr = 0.5, and 0.0002 is asked for"):
        opened(parameters=run.parameters.model_copy(update={"settings": stored}))
    del stored["lr"]  # a setting that is newer than the run
    assert opened(parameters=run.parameters.model_copy(update={"settings": stored})) == run


def test_record_and_weights_belong_together(own_home):
    """A report has the same run from another machine: other weights, and their record."""
    small = {"epochs": 1, "batch_size": 4, "images_per_epoch": 8, "image_size": 64}
    training = train.make_training("xception", "smoke-a", recipe("xception", **small))
    run = train.train(training)
    weights = (run.folder / "best.safetensors").read_bytes()
    there = own_home / "reports" / "theirs"
    write_bytes(there / "weights" / f"{run.id}.safetensors", weights)
    record = run.record.model_copy(update={"wall_s": -1.0}).model_dump(mode="json")
    table = pd.DataFrame({"log_odds": [0.0]})
    write_table(there / "scores" / f"{run.id}.parquet", table, {"record": record})
    other = run.record.model_copy(update={"weights_sha256": "0" * 64}).model_dump(mode="json")
    write_json(run.folder / "record.json", other)
    assert Run.find(run.id).record.wall_s == -1
    write_bytes(there / "weights" / f"{run.id}.safetensors", b"damaged")
    write_bytes(run.folder / "best.safetensors", b"damaged")
    found = Run.find(run.id)
    assert found.record.weights_sha256 == "0" * 64 and not found.has_weights
    assert with_weights([found]) == []
