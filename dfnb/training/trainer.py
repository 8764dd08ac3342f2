"""The training loop of all papers, on one device.

Interrupted at any step and started again, a training ends in the same weights, unless its setting
``deterministic`` is off: the images of an epoch are drawn from (seed, epoch, position), dropout and
mixup from (seed, step), and the checkpoint contains everything else.
"""

import copy
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_model
from torch import Tensor
from tqdm import tqdm

from dfnb import device, papers
from dfnb.data.loading import EpochSampler, FrameDataset, loader, loader_in_order, prepared
from dfnb.papers import backbones, released_weights
from dfnb.papers.contract import Batch, Network
from dfnb.store.runs import Training
from dfnb.store.thresholds import threshold_of
from dfnb.training.progress import bar
from dfnb.training.runs import Run
from dfnb.training.scoring import predict_frames
from facesets import records
from facesets.checks import DfnbError, explained
from facesets.files import atomic, sha256, write_bytes
from facesets.frames import faces_of
from facesets.records import Clock, write_record
from facesets.seeds import rng, torch_seed

CHECKPOINT_S = 300  # seconds between checkpoints
LEARNED_AUC = 0.6  # with a lower validation AUC a training counts as collapsed


@dataclass
class Progress:
    """The progress of a training; a checkpoint has it beside weights, optimisers and schedule."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch that is under way
    images_seen: int = 0  # of all epochs
    seconds: float = 0  # of all processes that trained, each up to its last checkpoint
    sums: dict[str, float] = field(default_factory=dict)  # loss -> its sum over ``step`` steps
    threads: int = 1  # that torch computed with; another number would change the weights
    log: list[dict[str, float]] = field(default_factory=list)  # one row per finished epoch
    chosen: dict[str, float] = field(default_factory=dict)  # epoch and validation AUC, once judged
    # Of the chosen epoch's weights, see :func:`threshold_of`; empty before the first is judged.
    validation_threshold: dict[str, Any] = field(default_factory=dict)


@device.fixed_threads()  # the rounding of sums depends on the number of threads
def fit(
    folder: Path,
    training: Training,
    splits: dict[str, pd.DataFrame],
    start: Run | None,
) -> None:
    """Train to the end, from the start or from the checkpoint, and write the record.

    The arguments are those of :class:`Trainer`.
    """
    settings = training.settings
    if settings.precision == "bf16-mixed" and device.emulates_bf16():
        print("this processor emulates bf16; with precision = 32-true it would train faster")
    with device.precision(settings.precision), device.reproducible(settings.deterministic):
        trainer = Trainer(folder, training, splits, start)
        source = start.id if start else trainer.network.weights_from
        print(f"{folder.name}: starting from {source} on {device.name()}")
        trainer.load()
        trainer.write_log()
        images = settings.epochs * trainer.steps * settings.batch_size
        done = trainer.progress.images_seen
        with bar(total=images, initial=done, unit=" images") as line:
            while trainer.progress.epoch < settings.epochs:
                trainer.train_epoch(line)
                trainer.end_epoch()
                trainer.show(line)
    trainer.write_record()
    trainer.checkpoint.unlink()  # the record is there, so nothing will be resumed


class Trainer:
    """The state of a training, and its steps; :func:`fit` takes them to the end.

    Args:
        folder: Of the run.
        training: What is trained.
        splits: The frames of train and val, as the paper may see them.
        start: The run of the phase before, whose weights the network starts from; None: there is
            no such phase.

    Attributes:
        settings: Of the paper.
        progress: How far the training is.
        sampler: The batches of an epoch in their order.
        loader: Loads them.
        validation_loader: Loads the validation split.
        steps: Batches per epoch.
        network: The network, on the device.
        optimisers, scheduler: See :meth:`dfnb.papers.contract.Settings.optimisation`.
        checkpoint: Its file.
        saved_at: When the checkpoint was last written, by the clock ``time.monotonic``.
        clock: Measures the time of the training, with that of processes that were stopped.
    """

    def __init__(
        self,
        folder: Path,
        training: Training,
        splits: dict[str, pd.DataFrame],
        start: Run | None,
    ) -> None:
        self.folder = folder
        self.training = training
        self.splits = splits
        self.start = start
        self.clock = Clock()
        self.settings = training.settings
        self.progress = Progress(threads=records.threads())
        # Data.
        self.sampler = EpochSampler(splits["train"], self.settings, training.seed)
        self.steps = len(self.sampler)  # of a whole epoch; a resumed one will skip some
        data = FrameDataset(splits["train"], self.settings, training.seed)
        self.loader = loader(data, self.sampler, device.workers())
        self.validation_loader = loader_in_order(
            splits["val"], self.settings, workers=device.workers()
        )
        # Network.
        torch.manual_seed(torch_seed("init", training.seed))
        network = papers.module(training.paper).Network(self.settings)
        if start:  # its network has the same layers
            network.load_state_dict(start.network().state_dict())
        self.network = network.to(device.DEVICE, memory_format=device.LAYOUT)
        # Optimisers.
        self.optimisers, self.scheduler = self.settings.optimisation(self.network, self.steps)
        # Checkpoint.
        self.checkpoint = folder / "last.ckpt"
        self.saved_at = time.monotonic()  # now, so that the first is due after CHECKPOINT_S

    # ------------------------------------------------------------ an epoch

    def train_epoch(self, line: tqdm) -> None:
        """Train on the rest of an epoch, show it in ``line``, and save from time to time."""
        self.begin_epoch()
        for item in self.loader:
            self.train_step(item)
            self.show(line)
            line.update(self.settings.batch_size)
            if time.monotonic() - self.saved_at > CHECKPOINT_S:
                self.save()

    def begin_epoch(self) -> None:
        """Make network, optimisers and sampler ready for the steps of an epoch, or for its rest."""
        progress = self.progress
        # One released code makes optimisers and schedule anew in every epoch. An epoch that is
        # resumed after its first step (step > 0) goes on with those of the checkpoint.
        if self.settings.optimiser_restarts == "released" and progress.step == 0:
            self.optimisers, self.scheduler = self.settings.optimisation(self.network, self.steps)
        self.network.train()
        if self.settings.freeze_batchnorm:
            backbones.freeze_statistics(self.network)
        self.sampler.epoch = progress.epoch
        self.sampler.skip = progress.step

    def train_step(self, item: dict[str, Tensor]) -> None:
        """One step of all optimisers, for a batch as the loader gives it, and its count.

        Raises :class:`DfnbError` when the loss is not finite.
        """
        progress = self.progress
        losses = self.step([self._mixed(part, i) for i, part in enumerate(self._parts(item))])
        for name, value in losses.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        progress.step += 1
        progress.images_seen += self.settings.batch_size

    def step(self, batches: list[Batch]) -> dict[str, float]:
        """One step of all optimisers and the schedule, for the parts of a batch; its losses.

        The parts are prepared and mixed. The losses, by name, are means over the parts. Raises
        :class:`DfnbError` when their total is not finite.
        """
        losses = self._backward(batches)
        # Read all at once: each value that is read waits for the GPU.
        values = dict(zip(losses, torch.stack([*losses.values()]).tolist()))
        self._check_finite(values["total"], "loss")
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.scheduler.step()
        return values

    @property
    def global_step(self) -> int:
        """The number of the step in the whole training, from 0: it seeds mixup and dropout."""
        return self.progress.epoch * self.steps + self.progress.step

    def _parts(self, item: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """A batch of the loader in ``accumulate`` parts, to which its frames go in turn.

        So each part has as many of the frames with which a batch begins, see
        :class:`EpochSampler`.
        """
        count = self.settings.accumulate
        return [
            {name: tensor[part::count] for name, tensor in item.items()} for part in range(count)
        ]

    def _mixed(self, item: dict[str, Tensor], part: int) -> Batch:
        """A part of a batch, on the device; with ``mixup_probability`` its images are mixed.

        The number of the part seeds the draws beside that of the step; λ ~ Beta(α, α).
        """
        batch = {"epoch": self.progress.epoch, "partner": None, "weight": 1.0}
        batch.update(prepared(item, self.settings, device.DEVICE))
        draw = rng("mixup", self.training.seed, self.global_step, part)
        if draw.random() >= self.settings.mixup_probability:
            return batch
        alpha = self.settings.mixup_alpha
        weight = float(draw.beta(alpha, alpha))  # λ
        partner = torch.from_numpy(draw.permutation(len(batch["image"])))
        return mixed(batch, partner.to(batch["image"].device, non_blocking=True), weight)

    def _backward(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Compute the losses of a batch's parts and add their gradients to those of the weights.

        Returns the losses by name, means over the parts: scalars without a graph.
        """
        losses_of_parts = []
        for part, batch in enumerate(batches):
            torch.manual_seed(torch_seed("dropout", self.training.seed, self.global_step, part))
            losses = losses_of(self.network, batch, self.settings.precision)
            # total and adversary (the loss of a discriminator, where a paper has one) have disjoint
            # gradients, so one backward pass serves both.
            ((losses["total"] + losses.get("adversary", 0)) / len(batches)).backward()
            losses_of_parts.append({name: value.detach() for name, value in losses.items()})
        return {
            name: torch.stack([losses[name] for losses in losses_of_parts]).mean()
            for name in losses_of_parts[0]
        }

    def _check_finite(self, value: float, what: str) -> None:
        """Raise :class:`DfnbError` unless the value is finite; the message calls it ``what``."""
        if not math.isfinite(value):
            raise DfnbError(
                f"{self.folder}: the {what} is no longer finite in epoch "
                f"{self.progress.epoch + 1}; lower lr (now {self.settings.lr})"
            )

    def show(self, line: tqdm) -> None:
        """Put into the line what docs/reference.md explains under *The progress line*."""
        progress = self.progress
        last = progress.log[-1] if progress.log else {}
        loss = progress.sums["total"] / progress.step if progress.step else last["loss_total"]
        memory = device.peak_memory()
        text = f"{memory / 2**30:.1f} GiB, " if memory else ""
        text += f"loss {loss:.3f}"
        if last:
            text += f", validation AUC {last['validation_auc']:.3f}"
        epoch = progress.epoch + bool(progress.step)
        line.set_description_str(f"epoch {epoch} of {self.settings.epochs}", refresh=False)
        line.set_postfix_str(text, refresh=False)

    # ------------------------------------------------------------ after an epoch

    def end_epoch(self) -> None:
        """Score the validation split, keep the weights if chosen, log, begin the next epoch, save.

        Raises :class:`DfnbError` when a score is not finite.
        """
        from sklearn.metrics import roc_auc_score  # takes a second to import; notebooks need none

        progress = self.progress
        epoch = progress.epoch + 1
        network = self.network
        if self.settings.half_weights:
            network = copy.deepcopy(network).half().float()
        validation = predict_frames(
            network,
            self.splits["val"],
            self.settings,
            locate=False,
            loader=self.validation_loader,
        )
        # One NaN or infinite score makes the sum NaN or infinite, too.
        self._check_finite(validation["log_odds"].sum(skipna=False), "validation score")
        auc = float(roc_auc_score(validation["label"], validation["log_odds"]))  # of frames
        # -1: nothing is chosen yet. With "last", each epoch takes the place of the one before.
        if auc > progress.chosen.get("auc", -1) or self.settings.chosen == "last":
            progress.chosen = {"epoch": epoch, "auc": auc}
            progress.validation_threshold = threshold_of(validation).model_dump()
            with atomic(self.folder / "best.safetensors") as temporary:
                kept = network.half() if self.settings.half_weights else network
                save_model(kept, str(temporary))
        # Means over the epoch's steps.
        losses = {f"loss_{name}": value / self.steps for name, value in progress.sums.items()}
        rate = self.scheduler.get_last_lr()[0]  # the rate after the epoch, of the first group
        progress.log.append({"epoch": epoch, **losses, "lr": rate, "validation_auc": auc})
        progress.epoch = epoch
        progress.step = 0
        progress.sums = {}
        self.save()
        self.write_log()

    # ------------------------------------------------------------ checkpoint and record

    def save(self) -> None:
        """Write the checkpoint."""
        self.saved_at = time.monotonic()
        self.progress.seconds = self.clock.usage()["wall_s"]
        state = {
            "progress": asdict(self.progress),
            "network": self.network.state_dict(),
            "others": [part.state_dict() for part in (self.scheduler, *self.optimisers)],
        }
        with atomic(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises :class:`DfnbError` when it is damaged.
        """
        if not self.checkpoint.exists():
            return
        remedy = "delete it, and the training starts again"
        with explained(self.checkpoint, "as a checkpoint of this training", remedy):
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            progress = Progress(**state["progress"])
            self.network.load_state_dict(state["network"])
            parts = (self.scheduler, *self.optimisers)
            for part, values in zip(parts, state["others"], strict=True):
                part.load_state_dict(values)
        # Another number would change the weights: also validation and the record have this one.
        os.environ["DFNB_THREADS"] = str(progress.threads)
        torch.set_num_threads(progress.threads)
        self.progress = progress
        self.clock.start -= self.progress.seconds  # so that it counts the processes before, too
        print(f"resumed in epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def write_log(self) -> None:
        """Write ``log.csv``, a row per finished epoch; without any, remove that of a lost start."""
        path = self.folder / "log.csv"
        if self.progress.log:
            write_bytes(path, pd.DataFrame(self.progress.log).to_csv(index=False).encode())
        else:
            path.unlink(missing_ok=True)

    def write_record(self) -> None:
        """Write the record, a :class:`dfnb.store.runs.TrainingRecord`."""
        progress = self.progress
        images_before = self.start.record.images_seen if self.start else 0
        _write_record(
            self.folder,
            self.training,
            self.clock,
            faces=faces_of(self.training.train_set),  # to score pictures without the dataset
            rule=self._rule(),
            chosen=progress.chosen,
            validation_threshold=progress.validation_threshold,
            weights_from=self.network.weights_from,
            log=progress.log,
            n={split: len(frames) for split, frames in self.splits.items()},
            collapsed=progress.chosen["auc"] < LEARNED_AUC,
            start=self.start.id if self.start else None,
            images_seen=images_before + progress.images_seen,
        )

    def _rule(self) -> str:
        """How the epoch was chosen, in words."""
        if self.settings.chosen == "last":
            return "the last epoch"
        return f"highest frame AUC on the validation split of {self.training.train_set}"


def mixed(batch: Batch, partner: Tensor, weight: float) -> Batch:
    """Mixup (Zhang et al., ICLR 2018): the images become λ x + (1 − λ) x_partner.

    ``partner`` (B,) has the index of each image's partner, ``weight`` is λ. The targets are mixed
    by ``contract.cross_entropy``.
    """
    image = weight * batch["image"] + (1 - weight) * batch["image"][partner]
    return {**batch, "image": image, "partner": partner, "weight": weight}


def losses_of(network: Network, batch: Batch, precision: str) -> dict[str, Tensor]:
    """The losses of a batch by name, in float32 also where the forward pass is in bfloat16."""
    images = batch["image"].contiguous(memory_format=device.LAYOUT)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        outputs = network(images)
    for name, value in outputs.items():
        if value.dtype == torch.bfloat16:
            outputs[name] = value.float()
    return network.losses(outputs, batch)


def _write_record(folder: Path, training: Training, clock: Clock, **values: Any) -> None:
    """Write the record of a run, after its weights; ``values`` are the record's other entries."""
    paper = papers.module(training.paper)
    defaults = paper.Settings().model_dump(mode="json")  # these are the published values
    weights = folder / "best.safetensors"
    write_record(
        folder / "record.json",
        training.model_dump(mode="json"),
        [weights],
        detector={
            "title": paper.PAPER.title,
            "notebook": paper.PAPER.notebook,
            "published": paper.PAPER.published,  # its name in published.csv
            "defaults": defaults,
        },
        weights_sha256=sha256(weights),  # by it copies in reports, of other names, are recognised
        **clock.usage(),
        **values,
    )


def adopt(folder: Path, training: Training) -> None:
    """Make a run in ``folder`` from the authors' released weights, the file ``settings.released``.

    Nothing is trained, and no dataset is needed.
    """
    clock = Clock()
    settings = training.settings
    paper = papers.module(training.paper)
    network = paper.Network(settings)
    released_weights.load_file(network, settings.released, paper)
    with atomic(folder / "best.safetensors") as temporary:
        save_model(network, str(temporary))
    _write_record(
        folder,
        training,
        clock,
        faces={},  # they trained on photographs; how these were cut is not known
        rule="the authors' choice, perhaps on test sets",  # by which the epoch was chosen
        weights_from=network.weights_from,
    )
