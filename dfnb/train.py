"""One training loop for all papers.

A run is a folder ``runs/<id>`` with ``config.json``, ``last.ckpt``, ``best.safetensors``, its scores and, written last,
``record.json``. Killed at any step and started again, it ends in the same weights: what an epoch shows comes from
(seed, epoch, position), dropout and mixup from (seed, step), and the checkpoint holds everything else.
"""

import builtins
import hashlib
import io
import os
import signal
import time
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.data import AttributeDict
from safetensors.torch import save
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from dfnb import core, metrics, papers
from dfnb.core import DfnbError
from dfnb.data import frames as datasets
from dfnb.data.frames import EpochSampler, FrameDataset, Pixels, in_order, load_frames, loader, select
from dfnb.papers import Run, backbones

VERSION = 3  # part of every run's identity: raise it when the same settings give other weights
CHANCE = {"loss_cls": 0.95 * np.log(2), "loss_latent": 0.8}  # above it the output head has learned nothing
FALSE_ALARMS = 0.05  # of the real validation frames, by which a run sets its threshold
CHECKPOINT_S = 300
# In errors that are no fault of the code: memory that is out, a loader's worker or another process that was ended.
LOST = ("MemoryError", "of memory", "allocate memory", "DataLoader worker", "ProcessExitedException")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = True  # on GPUs, as cuDNN's convolutions do by default
WORKERS = min(8, os.cpu_count() or 1) if DEVICE == "cuda" else 0  # on the CPU they would compete with the training


def train(
    paper: str,
    train_set: str,
    settings: papers.Settings,
    seed: int = 0,
    seen_methods: Sequence[str] | None = None,
    epoch_tests: Sequence[str] = (),
    devices: int = 1,
    shuffled_labels: bool = False,
    wait_s: float = 30,
    allow_random: bool = True,
    frames_per_video: int | None = None,
) -> Run:
    """Train a paper on the train split of a dataset, or load the run when it was trained before.

    The chosen checkpoint is that of the epoch with the highest frame AUC on the validation split of ``train_set``, or of
    the last one where the paper's ``Settings.chosen`` says so. Of a split in which the paper leaves one class
    (``Settings.visible``), the samples are judged that it makes of these frames. Where the settings have a phase before
    (``Settings.before``), that phase is trained first, with the same data and seed, or loaded.

    Args:
        paper: Module name of the paper.
        train_set: Name of a prepared dataset with the splits train and val.
        settings: An instance of the paper's ``Settings``.
        seed: Of the weights, the order of the images, the augmentation, mixup and dropout.
        seen_methods: Manipulation methods to train on; all where None.
        epoch_tests: Test sets that are scored after every epoch, for the selection on the test set of published codes.
        devices: More than one trains with DDP, one process per device; not inside a notebook.
        shuffled_labels: Train on labels exchanged between videos, the control that shows what a map owes to learning.
        allow_random: Whether pretrained weights that cannot be fetched may be replaced by random ones.
        frames_per_video: Of each video in train and val at most so many frames, evenly spaced; all where None.
        wait_s: How long to wait for another process that trains the same run; below zero without end.

    Raises :class:`DfnbError` when a dataset is missing, the train or val split has fewer than two clusters of a class that
    the paper does not make itself, or the loss is no longer finite.
    """
    table = load_frames(train_set)
    parameters = {"paper": paper, "version": versions(paper), "seed": seed}
    parameters |= {"train_set": train_set, "data": datasets.identity(table.attrs["record"]), "devices": devices}
    parameters |= {"seen_methods": sorted(seen_methods) if seen_methods else None, "shuffled_labels": shuffled_labels}
    parameters["epoch_tests"] = {name: datasets.identity(load_frames(name).attrs["record"]) for name in epoch_tests}
    parameters |= {"frames_per_video": frames_per_video} if frames_per_video else {}
    parameters["settings"] = settings.model_dump(mode="json")
    parameters["weights"] = backbones.start(settings.backbone, settings.pretrained)
    if settings.pretrained and parameters["weights"]["from"] == "random weights" and not allow_random:
        raise DfnbError(f"{settings.backbone}: its pretrained weights cannot be fetched; get them, or set allow_random")
    folder = core.home() / "runs" / f"{paper}-{train_set}-s{seed}-{core.digest(parameters, 8)}"
    if settings.batch_size % (devices * settings.samples_per_frame) or settings.batch_size < 2 * devices:
        raise DfnbError(f"batch_size {settings.batch_size} gives {devices} devices unequal shares or single images")
    splits = {}
    for split in ("train", "val"):
        splits[split] = datasets.thinned(select(table, split, seen_methods), frames_per_video)
        datasets.both_classes(splits[split], split, made=settings.samples_per_frame > 1)
    if shuffled_labels:
        splits["train"] = _shuffled(splits["train"], seed)
    with core.locked(folder, wait_s):
        if "weights_sha256" not in (core.read_record(folder) or {}):  # a record of an older form is written again
            before, given = settings.before(), (seed, seen_methods, (), devices, shuffled_labels, -1)
            start = train(paper, train_set, before, *given, frames_per_video=frames_per_video) if before else None
            always = settings.always(splits["train"], seed, start)
            splits = {split: settings.visible(frames, seed, start) for split, frames in splits.items()}
            _launch(_Loop(folder, parameters, settings, splits, always, start))
    return Run.open(folder)


def versions(paper: str) -> list[int]:
    """The versions of the training loop and of a paper."""
    return [VERSION, papers.module(paper).VERSION]


def _shuffled(frames: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The frames with method and label exchanged between videos; what is now real has no mask."""
    videos = frames.astype({"video": str, "method": str}).groupby("video")[["method", "label"]].first()
    order = core.rng("shuffled labels", seed).permutation(len(videos))
    exchanged = videos.iloc[order].set_axis(videos.index).loc[frames["video"].astype(str)].set_axis(frames.index)
    return frames.assign(**exchanged, mask=frames["mask"].astype(str).where(exchanged["label"] == 1, ""))


@dataclass
class _Loop:
    """The training of one run: made in the process that calls, called in each that trains; a checkpoint holds ``state``."""

    folder: Path
    parameters: dict[str, Any]
    settings: papers.Settings
    splits: dict[str, pd.DataFrame]  # train and val, as the paper may see them
    always: Sequence[int]  # positions in the train split of frames that every batch shows some of
    start: Run | None  # the phase before
    asked_to_end: int = 0  # the number of the signal

    def __call__(self, fabric: Fabric) -> None:
        """Train from the start or from the last checkpoint to the end, and write the record."""
        self.fabric, self.clock, self.saved = fabric, core.Clock(), time.monotonic()
        self.seed, self.checkpoint = self.parameters["seed"], self.folder / "last.ckpt"
        self.made = self.splits["val"]["label"].nunique() == 1  # the paper makes the other class itself
        resumed = self.checkpoint.exists()
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(core.torch_seed("init", self.seed))
        self._set_up(resumed)
        if resumed:
            check_checkpoint(self.checkpoint, self.state.run)
            fabric.load(self.checkpoint, self.state, weights_only=True)
        place = f"epoch {self.state.epoch + 1}, step {self.state.step}"
        self._tell(f"resumed in {place}" if resumed else f"training from {self.state.weights_from} on {fabric.device}")
        with ExitStack() as restored:
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(ValueError):  # Python hands signals to the main thread alone
                    restored.callback(signal.signal, number, signal.signal(number, self._ask_to_end))
            while self.state.epoch < self.settings.epochs:
                self._train_epoch()
                self._judge_epoch()
        if fabric.is_global_zero:
            self._finish()

    def _ask_to_end(self, number: int, _frame: object) -> None:
        """Ctrl-C and SIGTERM end the training as soon as its state is saved; a second one ends it at once."""
        if self.asked_to_end:
            raise KeyboardInterrupt
        self.asked_to_end = number

    def _tell(self, text: str) -> None:
        self.fabric.print(f"{self.parameters['paper']} on {self.parameters['train_set']}, seed {self.seed}: {text}")

    def _set_up(self, resumed: bool) -> None:
        """Network, loader, optimisers and the state of a training that has not begun."""
        fabric, settings, frames = self.fabric, self.settings, self.splits["train"]
        loaded = {"pretrained": False} if resumed or self.start else {}
        network = papers.module(self.parameters["paper"]).Network(settings.model_copy(update=loaded))
        if self.start:
            network.load_state_dict(self.start.network().state_dict())
            network.weights_from = self.start.record["weights_from"]
        network.to(memory_format=torch.channels_last)
        limits = settings.images_per_epoch, settings.oversampling, settings.samples_per_frame
        self.sampler = EpochSampler(frames, settings.batch_size, self.seed, *limits, self.always)
        self.sampler.rank, self.sampler.world = fabric.global_rank, fabric.world_size
        self.steps = len(self.sampler)
        self.loader = loader(FrameDataset(frames, settings, self.seed), self.sampler, WORKERS, pin=DEVICE == "cuda")
        optimiser, scheduler = _optimisation(network, settings, self.steps)
        adversary = getattr(network, "adversary", None)
        others = [torch.optim.Adam(adversary.parameters(), settings.adversary_lr)] if adversary else []
        self.step, *optimisers = fabric.setup(Step(network), optimiser, *others)
        self.network = self.step.module.network
        self.state = AttributeDict(network=self.network, scheduler=scheduler, weights_from=network.weights_from)
        self.state |= dict(zip(("optimiser", "adversary"), optimisers)) | {"epoch": 0, "step": 0, "sums": {}, "log": []}
        self.state |= {"chosen": {"epoch": 0, "auc": -1.0}, "validation_threshold": {}, "weights_sha256": ""}
        self.state |= {"run": self.folder.name}

    def _train_epoch(self) -> None:
        state = self.state
        if self.settings.optimiser_restarts == "released" and state.epoch and not state.step:
            optimiser, state.scheduler = _optimisation(self.network, self.settings, self.steps)
            state.optimiser = self.fabric.setup_optimizers(optimiser)
        self.step.train()
        self.sampler.epoch, self.sampler.skip = state.epoch, state.step
        started = time.monotonic()
        for batch in self.loader:
            self._train_step(batch)
            # one clock decides for all processes
            if self.fabric.broadcast(self.asked_to_end > 0 or time.monotonic() - self.saved > CHECKPOINT_S):
                self._tell(f"epoch {state.epoch + 1}, step {state.step}: loss {state.sums['total'] / state.step:.3f}")
                self._save()
        self.images_per_s = (self.steps - self.sampler.skip) * self.settings.batch_size / (time.monotonic() - started)

    def _train_step(self, batch: dict[str, Tensor]) -> None:
        """One step of all optimisers; raises :class:`DfnbError` when the loss is not finite."""
        state, place = self.state, self.state.epoch * self.steps + self.state.step
        batch = self._mixed(self._on_device(batch), place)
        losses = self._backward(batch, place)
        if moved := self.network.moved():
            with moved:
                self._backward(batch, place)
        for optimiser in [state[name] for name in ("optimiser", "adversary") if name in state]:
            optimiser.step()
            optimiser.zero_grad()
        state.scheduler.step()
        state.step += 1
        state.sums = {name: state.sums.get(name, 0.0) + value.item() for name, value in losses.items()}

    def _backward(self, batch: papers.Batch, place: int) -> dict[str, Tensor]:
        """The losses of a batch, whose gradients are added to those that there are."""
        torch.manual_seed(core.torch_seed("dropout", self.seed, place, self.fabric.global_rank))
        losses = self.step(batch)
        self._check_finite([losses["total"].detach()], "loss")
        self.fabric.backward(losses["total"] + losses.get("adversary", 0))  # their gradients are disjoint
        return losses

    def _on_device(self, batch: dict[str, Tensor]) -> papers.Batch:
        return {**self.fabric.to_device(batch), "epoch": self.state.epoch, "partner": None, "weight": 1.0}

    def _mixed(self, batch: papers.Batch, place: int) -> papers.Batch:
        """Mixup (Zhang et al., ICLR 2018): images here, targets by :func:`dfnb.papers.cross_entropy`."""
        draw = core.rng("mixup", self.seed, place, self.fabric.global_rank)
        if draw.random() >= self.settings.mixup_probability:
            return batch
        weight = float(draw.beta(self.settings.mixup_alpha, self.settings.mixup_alpha))
        partner = torch.from_numpy(draw.permutation(len(batch["image"]))).to(self.fabric.device)
        image = weight * batch["image"] + (1 - weight) * batch["image"][partner]
        return {**batch, "image": image, "partner": partner, "weight": weight}

    def _check_finite(self, values: Iterable[Tensor], what: str) -> None:
        """All processes stop together, else the others would wait for ever."""
        lost = not all(torch.isfinite(value).all() for value in values)
        if self.fabric.all_reduce(torch.tensor(float(lost), device=self.fabric.device), reduce_op="sum"):
            place = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}; lower lr (now {self.settings.lr})"
            raise DfnbError(f"{self.folder}: the {what} is no longer finite in {place}")

    def _judge_epoch(self) -> None:
        """Score the validation split and the epoch's test sets, keep the best weights, log, save the checkpoint."""
        self._check_finite(self.network.parameters(), "network")
        state, epoch = self.state, self.state.epoch + 1
        validation = self._judged(self.splits["val"], self.made)
        auc = float(roc_auc_score(validation["label"], validation["score"]))
        if auc > state.chosen["auc"] or self.settings.chosen == "last":
            state.chosen = {"epoch": epoch, "auc": auc}
            state.validation_threshold = _threshold(validation)
            if self.fabric.is_global_zero:
                content = save({name: value.contiguous() for name, value in self.network.state_dict().items()})
                core.write_bytes(self.folder / "best.safetensors", content)
                state.weights_sha256 = hashlib.sha256(content).hexdigest()
        for test_set in self.parameters["epoch_tests"]:
            frames = select(load_frames(test_set), "test")
            table = metrics.check_scores(self._judged(frames), test_set)
            if self.fabric.is_global_zero:
                facts = score_facts(self.folder.name, test_set, f"epoch {epoch}", frames.attrs["record"], None)
                core.write_table(shard(self.folder, test_set, f"epoch {epoch}"), table, facts)
        row = {"epoch": epoch, **{f"loss_{name}": value / self.steps for name, value in state.sums.items()}}
        row |= {"lr": state.scheduler.get_last_lr()[0], "validation_auc": auc, "images_per_s": self.images_per_s}
        row |= {f"validation_{name}": round(float(value), 4) for name, value in self._monitored().items()}
        state |= {"epoch": epoch, "step": 0, "sums": {}, "log": [*state.log, row]}
        self._save()
        result = f"loss {row['loss_total']:.3f}, validation AUC {auc:.3f}, {self.images_per_s:.0f} images/s"
        self._tell(f"epoch {epoch} of {self.settings.epochs}: {result}")

    def _judged(self, frames: pd.DataFrame, made: bool = False) -> pd.DataFrame:
        """The scores of frames, or of the samples ``made`` of them; each process scores its share, and all get the whole."""
        world = self.fabric.world_size
        own = frames.iloc[np.array_split(np.arange(len(frames)), world)[self.fabric.global_rank]]
        shares = [predict(self.network, own, self.settings, locate=False, seed=self.seed if made else None)] * world
        if world > 1:
            torch.distributed.all_gather_object(shares, shares[0])
        return pd.concat(shares, ignore_index=True)

    @torch.inference_mode()
    def _monitored(self) -> dict[str, float]:
        """What the paper follows (``Network.monitor``), on one balanced batch of the validation split, at most 256 frames."""
        frames = self.splits["val"]
        sampler = EpochSampler(frames, min(len(frames), 256), self.seed)
        batch = self._on_device(next(iter(loader(FrameDataset(frames, self.settings), sampler))))
        with self.fabric.autocast():
            outputs = self.network(batch["image"])
        return self.network.monitor(outputs, batch)

    def _save(self) -> None:
        """Write the checkpoint, then end where a signal asked for it; weights that are not finite replace no good ones."""
        self._check_finite(self.network.parameters(), "network")
        if self.fabric.is_global_zero:
            content, parts = io.BytesIO(), dict(self.state)
            parts |= {name: part.state_dict() for name, part in parts.items() if hasattr(part, "state_dict")}
            torch.save(parts, content)
            core.write_bytes(self.checkpoint, content.getbuffer())
        self.saved = time.monotonic()
        if number := self.fabric.broadcast(self.asked_to_end):
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _finish(self) -> None:
        judged = "the paper's own samples of the validation split" if self.made else "the validation split"
        best = f"highest frame AUC on {judged} of {self.parameters['train_set']}"
        facts = {"kind": "training", "rule": "the last epoch" if self.settings.chosen == "last" else best}
        from_state = ("chosen", "validation_threshold", "weights_from", "log", "weights_sha256")
        facts |= {name: self.state[name] for name in from_state} | self.clock.facts()
        facts |= {"collapsed": collapsed(facts), "n": {split: len(frames) for split, frames in self.splits.items()}}
        if core.sha256(self.folder / "best.safetensors") != self.state.weights_sha256:
            raise DfnbError(f"{self.folder}: best.safetensors was altered; delete the folder and train again")
        facts["start"] = self.start.id if self.start else None
        before = self.start.record["images_seen"] if self.start else 0
        facts["images_seen"] = before + self.settings.epochs * self.steps * self.settings.batch_size
        names = [self.parameters["train_set"], *self.parameters["epoch_tests"]]
        facts["fingerprints"] = {name: load_frames(name).attrs["fingerprint"] for name in names}
        core.write_record(self.folder, self.parameters, ["config.json", "best.safetensors"], **facts)


def check_checkpoint(path: Path, run: str) -> None:
    """Raise :class:`DfnbError` unless a file is a whole checkpoint of a run: torch itself compares no checksums."""
    fits = False
    # whatever zipfile, pickle and torch raise for bytes that are not theirs
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        fits = archive.testzip() is None and torch.load(path, weights_only=True, mmap=True)["run"] == run
    if not fits:
        raise DfnbError(f"{path} is damaged or of another training; delete it, and the training begins anew")


def _threshold(validation: pd.DataFrame) -> dict[str, float]:
    """The score that :data:`FALSE_ALARMS` of the real frames exceed at most, and how many clusters these are from."""
    real = validation[validation["label"] == 0]
    threshold = np.quantile(real["score"], 1 - FALSE_ALARMS, method="inverted_cdf")
    return {"threshold": float(threshold), "threshold_clusters": real["cluster"].nunique()}


def collapsed(record: dict[str, Any]) -> bool:
    """Whether a run learned nothing, by the ``record`` of its training alone and never by a test set.

    It did not if in the last epoch the loss of its output head was about that of a coin (:data:`CHANCE`; LAE's is the latent
    loss), or if the AUC on its own validation split was below .6 in the chosen epoch.
    """
    at_chance = any(record["log"][-1].get(name, 0) > limit for name, limit in CHANCE.items())
    return at_chance or record["chosen"]["auc"] < 0.6


def _launch(loop: _Loop) -> None:
    """Train in this process or, on several devices, in one process for each, started from here."""
    core.write_json(loop.folder / "config.json", loop.parameters)
    devices, strategy = loop.parameters["devices"], "auto"
    if devices > 1:
        if hasattr(builtins, "__IPYTHON__"):
            raise DfnbError(f"a notebook cannot train on {devices} devices; use `dfnb train` and load the run here")
        # its processes wait half an hour for one another before they give up
        strategy = DDPStrategy(find_unused_parameters=True, start_method="spawn")
    fabric = Fabric(accelerator=DEVICE, strategy=strategy, devices=devices, precision=loop.settings.precision)
    try:
        fabric.launch(loop)
    except Exception as error:
        # what another process or a loader's worker raised is the last line of its traceback, which is the text of the error
        kind, _, reason = f"{type(error).__name__}: {error}".strip(": \n").splitlines()[-1].partition(": ")
        if kind.endswith("DfnbError"):
            raise DfnbError(reason) from None
        if not any(lost in f"{kind}: {reason}" for lost in LOST):
            raise
        mend = "start again, it goes on from its last checkpoint; where memory is short, free some or lower batch_size"
        raise DfnbError(f"{loop.folder}: {reason or kind}; {mend}") from None


class Step(nn.Module):
    """Forward pass and losses as one module: DDP must see every use of a parameter in a step as part of one call."""

    def __init__(self, network: papers.Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: papers.Batch) -> dict[str, Tensor]:
        """The losses by name, in float32 whatever the precision of the network."""
        outputs = self.network(batch["image"].contiguous(memory_format=torch.channels_last))
        with torch.autocast(batch["image"].device.type, enabled=False):
            return self.network.losses({name: value.float() for name, value in outputs.items()}, batch)


def _optimisation(network: papers.Network, settings: papers.Settings, steps: int) -> tuple[Optimizer, LRScheduler]:
    """The optimiser and its schedule, which is stepped after every batch; ``steps`` is the length of an epoch."""
    sgd, total = partial(torch.optim.SGD, momentum=0.9), steps * settings.epochs
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": sgd}[settings.optimiser]
    optimiser = kind(network.parameter_groups(settings.weight_decay), lr=settings.lr)
    if settings.schedule == "onecycle":
        return optimiser, OneCycleLR(optimiser, [group["lr"] for group in optimiser.param_groups], total_steps=total)
    if settings.schedule == "cosine":
        return optimiser, CosineAnnealingLR(optimiser, settings.cosine_steps or total)
    factor = settings.step_factor if settings.schedule == "step" else 1.0
    return optimiser, LambdaLR(optimiser, lambda step: factor ** (step // steps // settings.step_epochs))


@torch.inference_mode()
def predict(
    network: papers.Network,
    frames: pd.DataFrame,
    settings: papers.Settings,
    pixels: Pixels | None = None,
    constant: np.ndarray | None = None,
    locate: bool = True,
    seed: int | None = None,
) -> pd.DataFrame:
    """Scores of frames, one row per frame: P(fake), and how well the forged region is located where it is known.

    With a ``seed`` the samples that the paper makes of each frame are scored instead, one row per sample.

    On the network's device and in the precision of the training. The columns of ``metrics.LOCALISATION`` are NaN for real
    frames and for fakes without a mask, and absent where the paper has no ``localise`` or ``locate`` is false. ``pixels`` are
    read instead of the table's own, corrupted ones, and then nothing is located. With a ``constant`` map see :func:`region`.
    """
    network = network.eval().to(memory_format=torch.channels_last)
    device = next(network.parameters()).device
    localise = locate and pixels is None and hasattr(network, "localise")
    scores, labels, regions = [], [], []
    for batch in in_order(frames, settings, workers=WORKERS, pixels=pixels, seed=seed, split="val"):
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            outputs = papers.outputs_of(network, batch["image"].to(device, memory_format=torch.channels_last))
        scores += network.score(outputs).tolist()
        labels += batch["label"].tolist()
        if localise:
            maps = network.localise(outputs).cpu().numpy()
            known, masks = batch["has_mask"] & (batch["label"] == 1), batch["mask"][:, 0].numpy() > 0.5
            regions += [region(*pair, constant) if ok else {} for *pair, ok in zip(maps, masks, known)]
    rows = np.arange(len(frames)).repeat(1 if seed is None else settings.samples_per_frame)
    table = frames[list(metrics.COLUMNS[:-1])].iloc[rows].reset_index(drop=True)
    table = table.assign(label=np.array(labels, table["label"].dtype), score=scores)
    measures = [*metrics.LOCALISATION, *(f"constant {name}" for name in metrics.LOCALISATION if constant is not None)]
    return table.join(pd.DataFrame(regions, columns=measures)) if localise else table


def region(located: np.ndarray, mask: np.ndarray, constant: np.ndarray | None) -> dict[str, float]:
    """The measures of a located map (h, w) against the mask (H, W).

    With a ``constant`` map (k, l), the mean mask of the training, its measures stand beside them as ``constant <measure>``: what
    is met without looking at the frame.
    """
    met = {} if constant is None else metrics.localisation(constant, mask)
    return metrics.localisation(located, mask) | {f"constant {name}": value for name, value in met.items()}


def shard(folder: Path, test_set: str, condition: str = "") -> Path:
    """Where a run keeps its table on a test set: ``<folder>/scores/<test set>[@<condition>].parquet``."""
    return folder / "scores" / f"{test_set}{'@' * bool(condition)}{core.slug(condition)}.parquet"


def score_facts(run: str, test_set: str, condition: str, dataset: dict, weights: str | None) -> dict[str, Any]:
    """What a table of scores depends on: the record of its ``dataset``, the checkpoint's sha256 (None: not kept), ..."""
    facts = {"run": run, "test_set": test_set, "condition": condition, "weights": weights, "version": VERSION}
    facts["compression"] = dataset.get("compression", "as delivered")
    return facts | {"fingerprint": datasets.identity(dataset)}
