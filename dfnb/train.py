"""One training loop for all papers.

A run is a folder ``runs/<id>`` with ``config.json``, ``last.ckpt``, ``best.safetensors``, its scores and, written last,
``record.json``. Killed at any step and started again, it ends in the same weights: what an epoch shows comes from
(seed, epoch, position), dropout and mixup from (seed, step), and the checkpoint holds everything else.
"""

import builtins
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.data import AttributeDict
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from dfnb import core, metrics, papers
from dfnb.core import DfnbError
from dfnb.data.frames import EpochSampler, FrameDataset, Pixels, both_classes, in_order, load_frames, loader, select

VERSION = 2  # part of every run's identity: raise it when the same settings give other weights
CHECKPOINT_S = 300
MONITORED = 256  # validation frames that a paper's ``monitor`` sees after each epoch
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORKERS = min(8, os.cpu_count() or 1) if DEVICE == "cuda" else 0  # on the CPU they would compete with the training


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, which need not exist where the record comes from a report, and its record."""

    folder: Path
    record: dict = field(compare=False, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder, or with an id under ``runs/``; raises :class:`DfnbError` when it is not finished."""
        folder = Path(folder) if Path(folder).is_dir() else core.home() / "runs" / folder
        record = core.read_record(folder)
        if record is None:
            raise DfnbError(f"{folder} holds no finished run (no record.json, or an output is gone); train it again")
        return cls(folder, record)

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def parameters(self) -> dict[str, Any]:
        """All that identifies it: paper, versions, training set, seed, settings and so on."""
        return self.record["parameters"]

    @property
    def paper(self) -> str:
        """The module name of its paper."""
        return self.parameters["paper"]

    @property
    def settings(self) -> papers.Settings:
        """The settings of its training."""
        return papers.module(self.paper).Settings.check(self.parameters["settings"], self.folder)

    @property
    def log(self) -> pd.DataFrame:
        """One row per epoch: mean loss terms, learning rate, validation AUC, what the paper follows, seconds."""
        return pd.DataFrame(self.record["log"])

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the chosen checkpoint."""
        return self.record["outputs"]["best.safetensors"]

    def network(self, path: Path | None = None) -> papers.Network:
        """The network with the chosen checkpoint, in evaluation mode, on the CPU; ``path`` is another copy of it.

        Raises :class:`DfnbError` when the file is missing or is not what the record describes.
        """
        path = path or self.folder / "best.safetensors"
        if not path.exists() or core.sha256(path) != self.weights_sha256:
            raise DfnbError(f"{path} is not what the record of the run describes; delete its folder and train it again")
        network = papers.module(self.paper).Network(self.settings.model_copy(update={"pretrained": False}))
        network.load_state_dict(load_file(path))
        return network.eval()

    def before(self) -> "Run | None":
        """The run of the phase that this one started from; None where there is none."""
        return Run.open(self.record["start"]) if self.record["start"] else None

    def phase(self) -> papers.Phase:
        """This run as the phase that another one starts from."""
        return papers.Phase(self.network(), self.parameters["seed"], self.folder)


def train(
    paper: str,
    train_set: str,
    settings: papers.Settings,
    seed: int = 0,
    seen_methods: Sequence[str] | None = None,
    epoch_tests: Sequence[str] = (),
    devices: int = 1,
    workers: int = WORKERS,
    shuffled_labels: bool = False,
    echo: Callable[[str], None] = print,
    wait_s: float = 30,
) -> Run:
    """Train a paper on the train split of a dataset, or load the run when it was trained before.

    The chosen checkpoint is that of the epoch with the highest frame AUC on the validation split of ``train_set``, or of
    the last one where the paper's ``Settings.chosen`` says so. Where the settings have a phase before
    (``Settings.before``), that phase is trained first, with the same data and seed, or loaded.

    Args:
        paper: Module name of the paper.
        train_set: Name of a prepared dataset with the splits train and val.
        settings: An instance of the paper's ``Settings``.
        seed: Of the weights, the order of the images, the augmentation, mixup and dropout.
        seen_methods: Manipulation methods to train on; all where None.
        epoch_tests: Test sets that are scored after every epoch, for the selection on the test set of published codes.
        devices: More than one trains with DDP, one process per device; not inside a notebook.
        workers: Processes of the loader.
        shuffled_labels: Train on labels exchanged between videos, the control that shows what a map owes to learning.
        echo: Called with one line of progress now and then.
        wait_s: How long to wait for another process that trains the same run; below zero without end.

    Raises :class:`DfnbError` when a dataset is missing, the train or val split has one class only, or the loss is no
    longer finite.
    """
    table = load_frames(train_set)
    parameters = {
        "paper": paper,
        "version": [VERSION, papers.module(paper).VERSION],
        "train_set": train_set,
        "fingerprint": table.attrs["fingerprint"],
        "seed": seed,
        "seen_methods": sorted(seen_methods) if seen_methods else None,
        "devices": devices,
        "epoch_tests": {name: load_frames(name).attrs["fingerprint"] for name in epoch_tests},
        "shuffled_labels": shuffled_labels,
        "settings": settings.model_dump(mode="json"),
    }
    folder = core.home() / "runs" / f"{paper}-{train_set}-s{seed}-{core.digest(parameters, 8)}"
    if settings.batch_size % devices or settings.batch_size < 2 * devices:
        raise DfnbError(f"batch_size {settings.batch_size} does not give {devices} devices the same two images or more")
    splits = {split: select(table, split, seen_methods) for split in ("train", "val")}
    for split, frames in splits.items():
        both_classes(frames, split)
    if shuffled_labels:
        splits["train"] = _shuffled(splits["train"], seed)
    with core.locked(folder, wait_s):
        if core.read_record(folder):
            return Run.open(folder)
        before, further = settings.before(), (devices, workers, shuffled_labels, echo, -1)
        start = train(paper, train_set, before, seed, seen_methods, (), *further) if before else None
        phase = start.phase() if start else None
        splits = {split: settings.visible(frames, seed, phase) for split, frames in splits.items()}
        _launch(_Loop(folder, parameters, settings, splits, start, workers, echo))
    return Run.open(folder)


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
    start: Run | None  # the phase before
    workers: int
    echo: Callable[[str], None]

    def __call__(self, fabric: Fabric) -> None:
        """Train from the start or from the last checkpoint to the end, and write the record."""
        self.fabric, self.clock, self.saved = fabric, core.Clock(), time.monotonic()
        self.seed, self.checkpoint = self.parameters["seed"], self.folder / "last.ckpt"
        resumed = self.checkpoint.exists()
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(core.torch_seed("init", self.seed))
        self._set_up(resumed)
        if resumed:
            fabric.load(self.checkpoint, self.state, weights_only=True)
        place = f"epoch {self.state.epoch + 1}, step {self.state.step}"
        self._tell(f"resumed in {place}" if resumed else f"training from {self.state.weights_from} on {fabric.device}")
        while self.state.epoch < self.settings.epochs:
            self._train_epoch()
            self._judge_epoch()
        if fabric.is_global_zero:
            self._finish()

    def _tell(self, text: str) -> None:
        if self.fabric.is_global_zero:
            self.echo(f"{self.parameters['paper']} on {self.parameters['train_set']}, seed {self.seed}: {text}")

    def _set_up(self, resumed: bool) -> None:
        """Network, loader, optimisers and the state of a training that has not begun."""
        fabric, settings, frames = self.fabric, self.settings, self.splits["train"]
        loaded = {"pretrained": False} if resumed or self.start else {}
        network = papers.module(self.parameters["paper"]).Network(settings.model_copy(update=loaded))
        if self.start:
            network.load_state_dict(self.start.network().state_dict())
            network.weights_from = self.start.record["weights_from"]
        network.to(memory_format=torch.channels_last)
        samples = settings.samples_per_frame  # a paper that makes its own fakes may train on real frames alone
        limits = settings.images_per_epoch, settings.oversampling, samples
        self.sampler = EpochSampler(frames, settings.batch_size, self.seed, *limits, one_class=samples > 1)
        self.sampler.rank, self.sampler.world = fabric.global_rank, fabric.world_size
        self.steps = len(self.sampler)
        data = FrameDataset(frames, settings, self.seed)
        self.loader = loader(data, self.sampler, self.workers, pin=fabric.device.type == "cuda")
        optimiser, scheduler = _optimisation(network, settings, self.steps)
        others = [torch.optim.Adam(network.adversary.parameters(), settings.adversary_lr)] if network.adversary else []
        self.step, *optimisers = fabric.setup(_Step(network), optimiser, *others)
        self.network = self.step.module.network
        self.state = AttributeDict(network=self.network, scheduler=scheduler, weights_from=network.weights_from)
        self.state |= dict(zip(("optimiser", "adversary"), optimisers))
        self.state |= {"epoch": 0, "step": 0, "sums": {}, "log": [], "chosen": {"epoch": 0, "auc": -1.0}}

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
            if self.fabric.broadcast(
                time.monotonic() - self.saved > CHECKPOINT_S
            ):  # one clock decides for all processes
                self._save()
                loss = state.sums["total"] / state.step
                self._tell(f"epoch {state.epoch + 1}, step {state.step} of {self.steps}: loss {loss:.3f}")
        images = (self.steps - self.sampler.skip) * self.settings.batch_size
        self.images_per_s = images / (time.monotonic() - started)

    def _train_step(self, batch: dict[str, Tensor]) -> None:
        """One step of all optimisers; raises :class:`DfnbError` when the loss is not finite."""
        state, place = self.state, self.state.epoch * self.steps + self.state.step
        torch.manual_seed(core.torch_seed("dropout", self.seed, place, self.fabric.global_rank))
        batch = self._mixed(self._on_device(batch), place)
        losses = self.step(batch)
        self._check_finite([losses["total"].detach()], "loss")
        self.fabric.backward(losses["total"] + losses.get("adversary", 0))  # their gradients are disjoint
        for optimiser in [state[name] for name in ("optimiser", "adversary") if name in state]:
            optimiser.step()
            optimiser.zero_grad()
        state.scheduler.step()
        state.step += 1
        for name, value in losses.items():
            state.sums[name] = state.sums.get(name, 0.0) + value.item()

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
            place = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"
            mend = f"the last good checkpoint is kept; lower lr (now {self.settings.lr})"
            raise DfnbError(f"{self.folder}: the {what} is no longer finite in {place}; {mend}")

    def _judge_epoch(self) -> None:
        """Score the validation split and the epoch's test sets, keep the best weights, log, save the checkpoint."""
        self._check_finite(self.network.parameters(), "network")
        state, epoch = self.state, self.state.epoch + 1
        validation = predict(self.network, self.splits["val"], self.settings)
        auc = float(roc_auc_score(validation["label"], validation["score"]))
        if auc > state.chosen["auc"] or self.settings.chosen == "last":
            state.chosen = {"epoch": epoch, "auc": auc}
            self._keep_weights()
        self._score_tests(f"epoch {epoch}")
        row = {"epoch": epoch, **{f"loss_{name}": value / self.steps for name, value in state.sums.items()}}
        row |= {"lr": state.scheduler.get_last_lr()[0], "validation_auc": auc, "images_per_s": self.images_per_s}
        located = validation.filter(list(metrics.LOCALISATION)).mean().to_dict()
        for name, value in (located | self._monitored()).items():
            row[f"validation_{name}"] = round(float(value), 4)
        state |= {"epoch": epoch, "step": 0, "sums": {}, "log": [*state.log, row]}
        self._save()
        result = f"loss {row['loss_total']:.3f}, validation AUC {auc:.3f}, {self.images_per_s:.0f} images/s"
        self._tell(f"epoch {epoch} of {self.settings.epochs}: {result}")

    def _keep_weights(self) -> None:
        if self.fabric.is_global_zero:
            with core.atomic(self.folder / "best.safetensors") as temporary:
                save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, temporary)

    def _score_tests(self, condition: str) -> None:
        for test_set in self.parameters["epoch_tests"]:
            frames = select(load_frames(test_set), "test")
            table = predict(self.network, frames, self.settings)
            if self.fabric.is_global_zero:
                facts = score_facts(self.folder.name, test_set, condition, frames.attrs["record"], None)
                core.write_table(shard(self.folder, test_set, condition), metrics.check_scores(table, test_set), facts)

    @torch.inference_mode()
    def _monitored(self) -> dict[str, float]:
        """What the paper follows (``Network.monitor``), on one balanced batch of the validation split."""
        frames = self.splits["val"]
        sampler = EpochSampler(frames, min(len(frames), MONITORED), self.seed, one_class=True)
        batch = self._on_device(next(iter(loader(FrameDataset(frames, self.settings), sampler))))
        with self.fabric.autocast():
            outputs = self.network(batch["image"])
        return self.network.monitor(outputs, batch)

    def _save(self) -> None:
        """Write the checkpoint; weights that are not finite never replace the last good one."""
        self._check_finite(self.network.parameters(), "network")
        partial = self.folder / ".last.ckpt.partial"
        self.fabric.save(partial, self.state)  # one process writes while the others wait
        self.saved = time.monotonic()
        if self.fabric.is_global_zero:
            with core.atomic(self.checkpoint) as temporary:
                partial.replace(temporary)

    def _finish(self) -> None:
        best = f"highest frame AUC on the validation split of {self.parameters['train_set']}"
        facts = {"kind": "training", "rule": "the last epoch" if self.settings.chosen == "last" else best}
        facts |= {name: self.state[name] for name in ("chosen", "weights_from", "log")}
        facts |= {"start": self.start.id if self.start else None} | self.clock.facts()
        n = {split: len(frames) for split, frames in self.splits.items()}
        core.write_record(self.folder, self.parameters, ["config.json", "best.safetensors"], n=n, **facts)


def _launch(loop: _Loop) -> None:
    """Train in this process or, on several devices, in one process for each, started from here."""
    core.write_json(loop.folder / "config.json", loop.parameters)
    devices, strategy = loop.parameters["devices"], "auto"
    if devices > 1:
        if hasattr(builtins, "__IPYTHON__"):
            raise DfnbError(f"a notebook cannot train on {devices} devices; use `dfnb train` and load the run here")
        loop.echo = print  # other processes can be sent no function of a caller
        strategy = DDPStrategy(find_unused_parameters=True, start_method="spawn")
    fabric = Fabric(accelerator=DEVICE, strategy=strategy, devices=devices, precision=loop.settings.precision)
    try:
        fabric.launch(loop)
    except torch.multiprocessing.ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise DfnbError(reason.removeprefix("dfnb.core.DfnbError: ")) from None


class _Step(nn.Module):
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
    kind, total = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser], steps * settings.epochs
    optimiser = kind(network.parameter_groups(settings.weight_decay), lr=settings.lr)
    if settings.schedule == "onecycle":
        return optimiser, OneCycleLR(optimiser, [group["lr"] for group in optimiser.param_groups], total_steps=total)
    if settings.schedule == "cosine":
        return optimiser, CosineAnnealingLR(optimiser, settings.cosine_steps or total)
    factor = settings.step_factor if settings.schedule == "step" else 1.0
    return optimiser, LambdaLR(optimiser, lambda step: factor ** (step // steps // settings.step_epochs))


@torch.inference_mode()
def predict(
    network: papers.Network, frames: pd.DataFrame, settings: papers.Settings, pixels: Pixels | None = None
) -> pd.DataFrame:
    """Scores of frames, one row per frame: P(fake), and how well the forged region is located where it is known.

    On the network's device and in the precision of the training. The columns of ``metrics.LOCALISATION`` are NaN for real
    frames and for fakes without a mask, and absent where the paper has no ``localise``. ``pixels`` are read instead of the
    table's own, corrupted ones, and then nothing is located.
    """
    network = network.eval().to(memory_format=torch.channels_last)
    device = next(network.parameters()).device
    localise = pixels is None and hasattr(network, "localise")
    scores, regions = [], []
    for batch in in_order(frames, settings, workers=WORKERS, pixels=pixels):
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            outputs = network(batch["image"].to(device, memory_format=torch.channels_last))
        outputs = {name: value.float() for name, value in outputs.items()}
        scores += network.score(outputs).tolist()
        if localise:
            maps = network.localise(outputs).float().cpu().numpy()
            known, masks = batch["has_mask"] & (batch["label"] == 1), batch["mask"][:, 0].numpy() > 0.5
            regions += [metrics.localisation(*pair) if ok else {} for *pair, ok in zip(maps, masks, known)]
    table = frames[list(metrics.COLUMNS[:-1])].reset_index(drop=True).assign(score=scores)
    return table.join(pd.DataFrame(regions, columns=list(metrics.LOCALISATION))) if localise else table


def shard(folder: Path, test_set: str, condition: str = "") -> Path:
    """Where a run keeps its table on a test set: ``<folder>/scores/<test set>[@<condition>].parquet``."""
    return folder / "scores" / f"{test_set}{'@' * bool(condition)}{core.slug(condition)}.parquet"


def score_facts(run: str, test_set: str, condition: str, dataset: dict, weights: str | None) -> dict[str, Any]:
    """What a table of scores depends on: the record of its ``dataset``, the checkpoint's sha256 (None: not kept), ..."""
    facts = {"run": run, "test_set": test_set, "condition": condition, "weights": weights, "version": VERSION}
    compression = dataset.get("compression", "as delivered")
    return {**facts, "fingerprint": dataset["fingerprint"], "compression": compression}
