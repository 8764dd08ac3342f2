"""One training loop for all papers, and the scores of what it trained.

A run is a folder ``runs/<id>`` with ``config.yaml``, ``log.csv``, ``last.ckpt``, ``best.safetensors`` and, written
last, ``record.json``. Killed at any step and started again it ends in the same weights: what an epoch shows comes from
(seed, epoch, position), dropout and mixup from (seed, step), and the checkpoint holds everything else.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import timm.optim
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from dfnb import core, metrics, papers
from dfnb.core import DfnbError
from dfnb.data.frames import EpochSampler, FrameDataset, Pixels, load_frames, select

VERSION = 1  # part of every run's identity: raise it when the same settings give other weights
CHECKPOINT_MINUTES = 5
PROGRESS_SECONDS = 20
LOADED = "trained before, loaded"
MONITORED = 256  # validation frames that a paper's ``monitor`` sees each epoch
LOCK_SECONDS = 30  # the kernel of a killed workflow may take a moment to notice


@dataclass(frozen=True)
class Run:
    """A finished training run: its folder, and its record."""

    folder: Path
    record: dict

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder, or with an id under ``runs/``; raises :class:`DfnbError` when it is not finished."""
        folder = Path(folder) if Path(folder).is_dir() else core.home() / "runs" / folder
        record = core.read_record(folder)
        if record is None:
            raise DfnbError(f"{folder} holds no finished run (no record.json, or an output is gone); train it again")
        return cls(folder, record)

    @property
    def paper(self) -> str:
        return self.record["parameters"]["paper"]

    @property
    def settings(self) -> papers.Settings:
        return papers.module(self.paper).Settings.check(self.record["parameters"]["settings"], self.folder)

    @property
    def log(self) -> pd.DataFrame:
        """One row an epoch: mean loss terms, learning rate, validation AUC, images a second."""
        return pd.read_csv(self.folder / "log.csv")

    def network(self) -> nn.Module:
        """The network with the chosen checkpoint's weights, in evaluation mode, on the CPU."""
        settings = self.settings.model_copy(update={"pretrained": False})
        network = papers.module(self.paper).Network(settings)
        network.load_state_dict(load_file(self.folder / "best.safetensors"))
        return network.eval()


def train(
    paper: str,
    train_set: str | Path,
    settings: papers.Settings,
    seed: int = 0,
    seen_methods: Sequence[str] | None = None,
    epoch_tests: Sequence[str] = (),
    devices: int = 1,
    workers: int | None = None,
    echo: Callable[[str], None] = print,
) -> Run:
    """Train a paper on the train split of a dataset, or load the run when it was trained before.

    The checkpoint is the epoch with the highest frame AUC on the validation split of ``train_set``, or the last one where the
    paper's ``Settings.chosen`` says so. ``epoch_tests`` are
    further test sets whose scores are kept for every epoch, for the selection on the test set that the published codes
    use. ``devices`` > 1 trains with DDP; ``workers`` are the loader's processes (default: none on the CPU).

    Where the settings have a phase before (``Settings.before``), that phase is trained first, with the same data and
    seed, or found, and this one starts from its chosen weights.

    Raises :class:`DfnbError` when a dataset is missing, has one class only, or the loss is no longer finite.
    """
    before = settings.before()
    start = train(paper, train_set, before, seed, seen_methods, (), devices, workers, _news(echo)) if before else None
    frames = load_frames(train_set)
    parameters = {
        "paper": paper,
        "version": [VERSION, papers.module(paper).VERSION],
        "train_set": Path(train_set).name,
        "fingerprint": frames.attrs["fingerprint"],
        "seed": seed,
        "seen_methods": sorted(seen_methods) if seen_methods else None,
        "devices": devices,
        "epoch_tests": {Path(name).name: load_frames(name).attrs["fingerprint"] for name in epoch_tests},
        "settings": settings.model_dump(mode="json"),
    }
    if start:
        parameters["start"] = {"run": start.folder.name, "weights": start.record["outputs"]["best.safetensors"]}
    folder = run_folder(parameters)
    if core.read_record(folder):
        echo(f"{folder.name}: {LOADED}")
        return Run.open(folder)
    if settings.batch_size % devices or settings.batch_size < 2 * devices:
        raise DfnbError(
            f"batch_size {settings.batch_size} cannot be shared by {devices} devices; make it a multiple, and at least "
            "two images each, of which batch normalisation takes the deviation"
        )
    settings.visible(select(frames, "train", seen_methods), seed, start)  # refuses what it cannot use
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if torch.cuda.is_available() else 0
    with core.locked(folder, LOCK_SECONDS):
        if core.read_record(folder):  # the process that was waited for has finished it
            return Run.open(folder)
        for left_over in folder.glob(".*.*"):  # of a killed writer
            left_over.unlink()
        (folder / "config.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        arguments = {"folder": str(folder), "parameters": parameters, "train_set": str(train_set)}
        arguments |= {"epoch_tests": [str(name) for name in epoch_tests], "devices": devices, "workers": workers}
        if devices > 1:
            _apart(arguments, echo)
        else:
            _fit(echo=echo, **arguments)
    return Run.open(folder)


def _news(echo: Callable[[str], None]) -> Callable[[str], None]:
    """``echo`` without the line that says that nothing was to do."""
    return lambda line: None if line.endswith(LOADED) else echo(line)


def _apart(arguments: dict, echo: Callable[[str], None]) -> None:
    """Train in a process of its own, which starts one for each device: a notebook's kernel cannot."""
    code = "import json, sys; from dfnb.train import _fit; _fit(**json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            last = line.strip() or last
            if line.startswith(arguments["parameters"]["paper"]):
                echo(line.rstrip())
    if process.returncode:
        raise DfnbError(last.removeprefix("dfnb.core.DfnbError: "))


def _fit(
    folder: str,
    parameters: dict,
    train_set: str,
    epoch_tests: list[str],
    devices: int,
    workers: int,
    echo: Callable[[str], None] = print,
) -> None:
    settings = papers.module(parameters["paper"]).Settings.check(parameters["settings"], folder)
    strategy = DDPStrategy(find_unused_parameters=True, start_method="spawn") if devices > 1 else "auto"
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=settings.precision)
    fabric.launch(_launched, Path(folder), parameters, settings, load_frames(train_set), epoch_tests, workers, echo)


def run_folder(parameters: dict) -> Path:
    """``runs/<paper>-<train set>-s<seed>-<hash of all parameters and fingerprints>`` under the home."""
    name = f"{parameters['paper']}-{parameters['train_set']}-s{parameters['seed']}-{core.digest(parameters, 8)}"
    return core.home() / "runs" / name


def _launched(fabric: Fabric, *arguments: Any) -> None:
    _Loop(fabric, *arguments).run()


class _Loop:
    """The training of one run in one process; ``state`` is what a checkpoint holds."""

    def __init__(
        self,
        fabric: Fabric,
        folder: Path,
        parameters: dict,
        settings: papers.Settings,
        frames: pd.DataFrame,
        epoch_tests: list[str],
        workers: int,
        echo: Callable[[str], None],
    ) -> None:
        self.fabric, self.folder, self.parameters, self.settings = fabric, folder, parameters, settings
        self.echo = echo if fabric.is_global_zero else lambda line: None
        self.clock, self.seed = core.Clock(), parameters["seed"]
        self.name = f"{parameters['paper']} on {parameters['train_set']}, seed {self.seed}"
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.manual_seed(core.torch_seed("init", self.seed))
        self.checkpoint = folder / "last.ckpt"
        if self.checkpoint.exists():
            settings = settings.model_copy(update={"pretrained": False})
        start = Run.open(parameters["start"]["run"]) if "start" in parameters else None
        if start:
            settings = settings.model_copy(update={"pretrained": False})
        network = papers.module(parameters["paper"]).Network(settings).to(memory_format=torch.channels_last)
        if start:
            network.load_state_dict(load_file(start.folder / "best.safetensors"))
        seen = {split: select(frames, split, parameters["seen_methods"]) for split in ("train", "val")}
        self.shown = settings.visible(seen["train"], self.seed, start)
        self.judged = {"validation": settings.visible(seen["val"], self.seed, start)}
        self.judged |= {Path(name).name: select(load_frames(name), "test") for name in epoch_tests}
        chosen = settings.images_per_epoch, settings.oversampling
        self.sampler = EpochSampler(self.shown, settings.batch_size, self.seed, *chosen)
        self.sampler.rank, self.sampler.world = fabric.global_rank, fabric.world_size
        self.steps = len(self.sampler)
        optimiser = _optimiser(network, settings)
        scheduler = _scheduler(optimiser, settings, self.steps)
        adversary = getattr(network, "adversary", None)
        in_turn = [torch.optim.Adam(adversary.parameters(), settings.adversary_lr)] if adversary else []
        self.step, self.optimiser, *in_turn = fabric.setup(_Step(network), optimiser, *in_turn)
        self.network = self.step.module.network
        data = FrameDataset(
            self.shown, settings.image_size, settings.mean, settings.std, settings.augmentation, self.seed
        )
        self.loader = DataLoader(
            data,
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=fabric.device.type == "cuda",
        )
        self.state: dict[str, Any] = {
            "network": self.network,
            "optimiser": self.optimiser,
            "scheduler": scheduler,
            "epoch": 0,
            "step": 0,
            "sums": {},
            "log": [],
            "best": {"epoch": 0, "auc": -1.0},
            "weights_from": "ImageNet" if getattr(network, "pretrained_loaded", False) else "random weights",
            "seconds": 0.0,
        }
        if start:
            self.state["weights_from"] = start.record["weights_from"]
        if in_turn:
            self.state["adversary"] = in_turn[0]

    def run(self) -> None:
        if self.checkpoint.exists():
            self.fabric.load(self.checkpoint, self.state)
            self.echo(f"{self.name}: resumed in epoch {self.state['epoch'] + 1}, step {self.state['step']}")
        else:
            self.echo(
                f"{self.name}: {self.settings.epochs} epochs of {self.steps * self.settings.batch_size} images "
                f"on {self.fabric.device}, from {self.state['weights_from']}"
            )
        while self.state["epoch"] < self.settings.epochs:
            self._epoch()
            self._judge()
        if self.fabric.is_global_zero:
            self._finish()
        self.fabric.barrier()

    def _epoch(self) -> None:
        state, settings = self.state, self.settings
        if settings.optimiser_restarts == "released" and state["epoch"] and not state["step"]:
            optimiser = _optimiser(self.network, settings)
            state["scheduler"] = _scheduler(optimiser, settings, self.steps)
            state["optimiser"] = self.optimiser = self.fabric.setup_optimizers(optimiser)
        self.step.train()
        self.sampler.epoch, self.sampler.skip = state["epoch"], state["step"]
        started = saved = said = time.monotonic()
        before = state["seconds"]
        for batch in self.loader:
            place = state["epoch"] * self.steps + state["step"]
            torch.manual_seed(core.torch_seed("dropout", self.seed, place, self.fabric.global_rank))
            batch |= {"epoch": state["epoch"], "partner": None, "weight": 1.0}
            batch = self._mixed(self.fabric.to_device(batch), place)
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
            losses = self.step(batch)
            lost = (~torch.isfinite(losses["total"].detach())).float()
            if self.fabric.all_reduce(lost, reduce_op="sum"):  # all processes stop, or one would wait for ever
                raise DfnbError(
                    f"{self.folder}: the loss became {losses['total'].item()} in epoch {state['epoch'] + 1}, step "
                    f"{state['step'] + 1}; the last good checkpoint is kept; lower lr (now {settings.lr})"
                )
            optimisers = [self.optimiser, *([state["adversary"]] if "adversary" in state else [])]
            for optimiser in optimisers:
                optimiser.zero_grad()
            self.fabric.backward(losses["total"] + losses.get("adversary", 0))  # neither reaches what the other trains
            for optimiser in optimisers:
                optimiser.step()
            state["scheduler"].step()
            state["step"] += 1
            for name, value in losses.items():
                state["sums"][name] = state["sums"].get(name, 0.0) + value.item()
            now = time.monotonic()
            state["seconds"] = before + now - started
            if self.fabric.broadcast(now - saved > CHECKPOINT_MINUTES * 60):  # one clock decides for all processes
                self._save()
                saved = now
            if now - said > PROGRESS_SECONDS:
                todo, done = settings.epochs * self.steps - place - 1, state["step"] - self.sampler.skip
                left = todo * (now - started) / done
                total = state["sums"]["total"] / state["step"]
                self.echo(
                    f"{self.name}: epoch {state['epoch'] + 1}/{settings.epochs}, step {state['step']}/{self.steps}: "
                    f"loss {total:.3f}, about {left:.0f} s left"
                )
                said = now

    def _mixed(self, batch: papers.Batch, place: int) -> papers.Batch:
        """Mixup (Zhang et al. 2018): images here, targets by :func:`dfnb.papers.cross_entropy`."""
        draw = core.rng("mixup", self.seed, place, self.fabric.global_rank)
        if draw.random() >= self.settings.mixup_probability:
            return batch
        weight = float(draw.beta(self.settings.mixup_alpha, self.settings.mixup_alpha))
        partner = torch.from_numpy(draw.permutation(len(batch["image"]))).to(self.fabric.device)
        image = weight * batch["image"] + (1 - weight) * batch["image"][partner]
        return {**batch, "image": image, "partner": partner, "weight": weight}

    def _judge(self) -> None:
        """Score the validation split (and the test sets asked for), keep the best weights, save the checkpoint."""
        self._check_finite()
        state, epoch = self.state, self.state["epoch"] + 1
        auc, judged = 0.0, {}
        if self.fabric.is_global_zero:
            where = self.settings, self.fabric.device
            scores = {name: predict(self.network, frames, *where) for name, frames in self.judged.items()}
            for name, table in scores.items() if len(scores) > 1 else ():
                metrics.write_scores(self.folder / "epochs" / f"{epoch:03d}" / f"{name}.parquet", table)
            auc = float(roc_auc_score(scores["validation"]["label"], scores["validation"]["score"]))
            located = scores["validation"].columns.intersection(list(metrics.LOCALISATION))
            judged = {**scores["validation"][located].mean(), **self._monitored()}
            if auc > state["best"]["auc"] or self.settings.chosen == "last":
                state["best"] = {"epoch": epoch, "auc": auc}
                with core.atomic(self.folder / "best.safetensors") as temporary:
                    weights = {name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}
                    save_file(weights, temporary)
        terms = {f"loss_{name}": value / self.steps for name, value in state["sums"].items()}
        state["log"].append(
            {
                "epoch": epoch,
                **terms,
                "lr": state["scheduler"].get_last_lr()[0],
                "validation_auc": auc,
                **{f"validation_{name}": round(float(value), 4) for name, value in judged.items()},
                "seconds": round(state["seconds"], 1),
                "images_per_s": round(self.steps * self.settings.batch_size / state["seconds"], 1),
            }
        )
        self.echo(
            f"{self.name}: epoch {epoch}/{self.settings.epochs} done: loss {terms['loss_total']:.3f}, "
            f"validation AUC {auc:.3f}, {state['log'][-1]['images_per_s']:.0f} images/s"
        )
        state |= {"epoch": epoch, "step": 0, "sums": {}, "seconds": 0.0}
        self._save()

    @torch.inference_mode()
    def _monitored(self) -> dict[str, float]:
        """The means of what the paper wants followed (``monitor``), over balanced batches of the validation split."""
        network, settings = self.network, self.settings
        if not hasattr(network, "monitor"):
            return {}
        frames = self.judged["validation"]
        size = min(settings.batch_size, len(frames), MONITORED)
        data = FrameDataset(frames, settings.image_size, settings.mean, settings.std)
        seen = []
        for batch in DataLoader(data, batch_sampler=EpochSampler(frames, size, self.seed, MONITORED)):
            batch = self.fabric.to_device(batch) | {"epoch": self.state["epoch"], "partner": None, "weight": 1.0}
            with self.fabric.autocast():
                outputs = network(batch["image"])
            seen.append(network.monitor(outputs, batch))
            if not seen[0]:
                return {}
        return dict(pd.DataFrame(seen).mean())

    def _check_finite(self) -> None:
        if not all(torch.isfinite(value).all() for value in self.network.parameters()):
            raise DfnbError(
                f"{self.folder}: the weights are no longer finite in epoch {self.state['epoch'] + 1}; the last good "
                f"checkpoint is kept; lower lr (now {self.settings.lr})"
            )

    def _save(self) -> None:
        self._check_finite()
        partial = self.folder / ".last.ckpt.partial"
        self.fabric.save(partial, self.state)  # by one process, while the others wait
        if not self.fabric.is_global_zero:
            return
        with core.atomic(self.checkpoint) as temporary:
            partial.replace(temporary)
        if self.state["log"]:
            with core.atomic(self.folder / "log.csv") as temporary:
                pd.DataFrame(self.state["log"]).to_csv(temporary, index=False)

    def _finish(self) -> None:
        log = pd.DataFrame(self.state["log"])
        best = self.judged["validation"]
        core.write_record(
            self.folder,
            self.parameters,
            ["config.yaml", "log.csv", "best.safetensors"],
            kind="training",
            rule="the last epoch"
            if self.settings.chosen == "last"
            else f"highest frame AUC on the validation split of {self.parameters['train_set']}",
            chosen=self.state["best"],
            weights_from=self.state["weights_from"],
            n={
                "train": len(self.shown),
                "train_videos": self.shown["video"].nunique(),
                "validation": len(best),
                "validation_videos": best["video"].nunique(),
            },
            images_per_s=float(log["images_per_s"].median()),
            training_s=float(log["seconds"].sum()),
            **self.clock.facts(),
        )


class _Step(nn.Module):
    """Forward pass and losses as one module: DDP must see every use of a parameter in a step as part of one call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: papers.Batch) -> dict[str, torch.Tensor]:
        """The losses by name, in float32 whatever the precision of the network."""
        outputs = self.network(batch["image"])
        with torch.autocast(batch["image"].device.type, enabled=False):
            outputs = {name: value.float() for name, value in outputs.items()}
            return self.network.losses(outputs, batch)


def _optimiser(network: nn.Module, settings: papers.Settings) -> torch.optim.Optimizer:
    """Of all of the network but ``adversary``, which has its own."""
    groups = timm.optim.param_groups_weight_decay(network, settings.weight_decay)
    other = {id(value) for name, value in network.named_parameters() if name.startswith("adversary.")}
    for group in groups:
        group["params"] = [value for value in group["params"] if id(value) not in other]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
    return kind(groups, lr=settings.lr)


def _scheduler(optimiser: torch.optim.Optimizer, settings: papers.Settings, steps: int) -> LRScheduler:
    total = steps * settings.epochs
    if settings.schedule == "onecycle":
        return OneCycleLR(optimiser, settings.lr, total_steps=total)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimiser, settings.cosine_steps or total)
    factor = settings.step_factor if settings.schedule == "step" else 1.0
    return LambdaLR(optimiser, lambda step: factor ** (step // steps // settings.step_epochs))


@torch.inference_mode()
def predict(
    network: nn.Module,
    frames: pd.DataFrame,
    settings: papers.Settings,
    device: torch.device | str = "cpu",
    pixels: Pixels | None = None,
) -> pd.DataFrame:
    """Scores of frames, one row each: P(fake), and how well the forged region is located where that is known.

    In the precision of the training. The localisation columns are NaN for real frames, for fakes without a mask, and
    absent where the paper has no map. ``pixels`` are read instead of the table's own, which is how corrupted ones are scored.
    """
    network = network.eval().to(memory_format=torch.channels_last)
    data = FrameDataset(frames, settings.image_size, settings.mean, settings.std)
    data.pixels = pixels or data.pixels
    order = [(0, place, place) for place in range(len(data))]
    scores, regions = [], []
    for batch in DataLoader(data, sampler=order, batch_size=64):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            outputs = network(batch["image"].to(device, memory_format=torch.channels_last))
        outputs = {name: value.float() for name, value in outputs.items()}
        scores.append(network.score(outputs).float().cpu())
        if hasattr(network, "localise"):
            maps = network.localise(outputs).float().cpu().numpy()
            known = (batch["has_mask"] & (batch["label"] == 1)).numpy()
            masks = batch["mask"][:, 0].numpy() > 0.5
            regions += [metrics.localisation(*pair) if ok else {} for *pair, ok in zip(maps, masks, known)]
    table = frames[["video", "track", "frame", "cluster", "label", "method"]].reset_index(drop=True)
    table["score"] = torch.cat(scores).double().numpy()
    if regions:
        table = table.join(pd.DataFrame(regions, columns=list(metrics.LOCALISATION)))
    return table


def score(run: Run, test_set: str | Path, split: str = "test") -> Path:
    """Score a split of a dataset with a run's chosen checkpoint, or find the scores when they were made before.

    Returns ``runs/<id>/scores/<test_set>.parquet``; the ``.json`` beside it, written last, is its record.
    """
    frames = select(load_frames(test_set), split)
    path = run.folder / "scores" / f"{Path(test_set).name}.parquet"
    weights = run.record["outputs"]["best.safetensors"]
    facts = {"fingerprint": frames.attrs["fingerprint"], "split": split, "weights": weights}
    record = path.with_suffix(".json")
    if record.exists() and path.exists() and facts.items() <= core.read_json(record).items():
        return path
    clock = core.Clock()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    record.unlink(missing_ok=True)  # it must not vouch for what is written now
    metrics.write_scores(path, predict(run.network().to(device), frames, run.settings, device))
    core.write_json(
        record,
        {
            **facts,
            "run": run.folder.name,
            "test_set": Path(test_set).name,
            "n": len(frames),
            "videos": int(frames["video"].nunique()),
            "sha256": core.sha256(path),
            **clock.facts(),
        },
    )
    return path
