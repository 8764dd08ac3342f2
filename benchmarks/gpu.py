"""What a GPU gives: parity with the released codes, a training step at full size, the wait for
data, a short training.

One command of a few minutes, without network. Every row is written as soon as it is measured; what
the time did not allow is a row that says so.
"""

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import data
import numpy as np
import pandas as pd
import step
import timm
import torch
import typer
from step import PEAKS, convolution_backward_flops
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from dfnb import metrics, papers, scoring, statistics, synth, train, trainer
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import EpochSampler, FrameDataset, loader
from dfnb.files import atomic, slug
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import lae
from dfnb.papers import locate_and_verify as lv
from dfnb.papers.contract import Batch, Settings
from dfnb.records import environment
from dfnb.seeds import torch_seed
from dfnb.settings import DfnbError, read_yaml

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
import goldens  # noqa: E402

PARTS = ("golden", "steps", "loader", "training")
PARITY = 1e-4  # of outputs and losses in float32, as a share of the largest golden value
FASTER = 3.0  # times, Locate and Verify in bf16 against its transcription in float32
WAITS = data.WAITS
OVER = "not measured: its time was up"
ECHOED = (
    "difference",
    "images_per_s",
    "times_as_fast_median",
    "mfu",
    "peak_memory_mib",
    "waiting_share",
    "auc",
)


class Precision(NamedTuple):
    """The arithmetic of a contender; TF32 is off unless it is what is measured."""

    dtype: torch.dtype
    tf32: bool = False
    compiled: bool = False


PRECISIONS = {
    "float32": Precision(torch.float32),
    "TF32": Precision(torch.float32, tf32=True),
    "bf16": Precision(torch.bfloat16),
    "bf16 compiled": Precision(torch.bfloat16, compiled=True),
}


@dataclass(frozen=True)
class Sizes:
    """How large everything is that is measured."""

    changes: Mapping[str, Mapping[str, Any]]  # of each paper's published settings
    rounds: int
    warmup: int
    videos: int  # of the crops that the loader reads
    frames: int  # in each of them
    steps: int  # of the loader's epoch
    people: Mapping[str, int]  # of the short training
    epochs: int
    gradients: bool  # whether the golden ones are compared, in float64


PAPERS = ("locate_and_verify", "exposing_the_deception", "xception", "lae")
FULL = Sizes(
    changes={paper: {} for paper in PAPERS},
    **{"rounds": 8, "warmup": 2, "videos": 40, "frames": 16, "steps": 60},
    **{"people": {"train": 160, "val": 40, "test": 100}, "epochs": 8, "gradients": True},
)
_small = {"backbone": "dfnb_plain7", "image_size": 32, "batch_size": 2}
TINY = Sizes(
    changes={
        "locate_and_verify": _small | {"mpff_width": 8, "fusion_width": 16, "fusion_out": 16},
        "exposing_the_deception": _small
        | {"backbone": "resnet10t", "branches": 2, "fusion_widths": [8, 8, 8]},
        "xception": _small,
        "lae": _small
        | {"decoder_widths": [8, 8], "adversary_widths": [8, 8], "comparator": "resnet10t"},
    },
    **{"rounds": 2, "warmup": 0, "videos": 4, "frames": 4, "steps": 3},
    **{"people": {"train": 8, "val": 4, "test": 4}, "epochs": 1, "gradients": False},
)


# ---------------------------------------------------------------- jobs, rows and the time they have


class OutOfTime(BaseException):
    """The minutes are over; no Exception, since libraries catch those."""


@dataclass
class Job:
    """Rows of one part that are measured together; ``contenders`` names those that are promised."""

    part: str  # of the file's name: one of PARTS, and for steps the paper
    contenders: list[str]
    rows: Callable[[], Iterator[dict[str, Any]]]  # each row with its ``contender``
    condition: dict[str, Any] = field(default_factory=dict)
    # it may take its share of the time that is left, so that one compilation does not take all
    shares: bool = False


@dataclass
class Table:
    """The rows of all parts, of which each has a file that is written anew with every row."""

    out: Path
    device: str  # as part of the files' names
    where: dict[str, Any]  # machine, versions, commit and date: the same in every row
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Keep a row, write the file of its part and say what was measured."""
        self.rows.setdefault(part, []).append(row)
        with atomic(self.path(part)) as temporary:
            # counts stay whole
            table = pd.DataFrame([each | self.where for each in self.rows[part]]).convert_dtypes()
            table.to_csv(temporary, index=False)
        part = f"golden, {row['paper']}" if part == "golden" else part
        numbers = ", ".join(
            f"{name} {row[name]:.4g}" for name in ECHOED if row.get(name) is not None
        )
        typer.echo(f"{part}, {row['contender']}: {numbers or row['outcome']}")

    def path(self, part: str) -> Path:
        """The file of a part."""
        return self.out / f"gpu-{part}-{self.device}.csv"


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` when the block takes longer."""

    def ring(*_: Any) -> None:
        raise OutOfTime

    if seconds <= 0:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, ring)
    # again and again: Python drops what is raised in a destructor
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work(jobs: list[Job], table: Table, deadline: float) -> None:
    """Do the jobs in their order; every contender gets a row: its numbers, or why there are
    none.
    """
    for place, job in enumerate(jobs):
        missing, outcome, rows = list(job.contenders), "not measured", job.rows()
        left = deadline - time.monotonic()
        until = deadline - left + left / len(jobs[place:]) if job.shares else deadline
        try:
            while True:
                with alarm(until - time.monotonic()):
                    row = next(rows, None)
                if row is None:
                    break
                table.add(
                    job.part,
                    job.condition | {"contender": row["contender"], "outcome": "measured"} | row,
                )
                missing.remove(row["contender"])
        except OutOfTime:
            outcome = OVER
        except Exception as error:  # one failure must not cost the other rows
            outcome = reason(error)
        for contender in missing:
            table.add(job.part, job.condition | {"contender": contender, "outcome": outcome})
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # compiled code holds its network
        free()


def reason(error: Exception) -> str:
    """Why there are no numbers: the first line of an error, without the folders of this machine."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+", "", lines[0] if lines else "")
    return f"failed: {type(error).__name__}: {text}"[:300].removesuffix(": ")


def attempt(contender: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of a contender: its numbers, or why there are none."""
    try:
        return {"contender": contender} | measure()
    except Exception as error:
        return {"contender": contender, "outcome": reason(error)}


def free() -> None:
    """Give memory back that a failed or finished measurement held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def arithmetic(tf32: bool = False) -> Iterator[None]:
    """TF32 on or off, and afterwards all flags as they were: a training also makes torch
    deterministic.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    deterministic = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


# ---------------------------------------------------------------- golden parity


def golden_jobs(sizes: Sizes, device: str) -> list[Job]:
    """Outputs and losses in float32, and the gradients of all parameters in float64, against the
    released codes.
    """
    kinds = {"lv": "locate_and_verify", "etd": "exposing_the_deception"}
    names = ["float32", *(["float64 gradients"] if sizes.gradients else [])]
    return [
        Job("golden", names, partial(golden, kind, names, device), {"paper": paper})
        for kind, paper in kinds.items()
    ]


def golden(kind: str, names: list[str], device: str) -> Iterator[dict[str, Any]]:
    """The largest difference from the golden values of a paper, and what it is the difference
    of.
    """
    if kind == "lv":
        network, batch = (
            lv.Network(lv.Settings(pretrained=False)),
            goldens.golden_batch(0, [0, 1], 299, goldens.forged(0)),
        )
    else:
        network = etd.Network(etd.Settings(pretrained=False, channel_order="corrected"))
        batch = goldens.golden_batch(0, [0, 1, 1, 0], 224)
    network = goldens.loaded(network, goldens.golden_weights(kind)).to(
        device, memory_format=torch.channels_last
    )
    batch = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    condition = {"batch": len(batch["label"]), "size_px": batch["image"].shape[-1]}
    for name in names:
        precision, gradients = (
            torch.float64 if "float64" in name else torch.float32,
            "gradients" in name,
        )
        with arithmetic(tf32=False), torch.set_grad_enabled(gradients):
            outputs, losses = goldens.run(network, batch, precision, gradients)
        if gradients:
            paper = {"lv": lv, "etd": etd}[kind]
            differences = goldens.gradients_off(
                network, paper, goldens.GOLDEN / f"{kind}_0_gradnorm.json"
            )
        else:
            pairs = goldens.pairs(
                kind, batch, outputs, losses, np.load(goldens.GOLDEN / f"{kind}_0.npz")
            )
            differences = {quantity: goldens.off(*pair) for quantity, pair in pairs.items()}
        yield (
            {"contender": name}
            | condition
            | judged(differences, goldens.GRADIENTS if gradients else PARITY)
        )


def judged(differences: Mapping[str, float], limit: float) -> dict[str, Any]:
    """The largest of the differences beside its limit; NaN is the largest of all."""
    name = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    found = {
        "quantities": len(differences),
        "largest_in": name,
        "difference": differences[name],
        "limit": limit,
    }
    return found | {"met": bool(differences[name] <= limit)}


# ---------------------------------------------------------------- training steps


@dataclass
class Contender(step.Contender):
    """A network, or the compiled form of it, under the flags of its precision."""

    tf32: bool = False

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The step of :class:`step.Contender` with TF32 on or off."""
        with arithmetic(self.tf32):
            return super().step(batch)


def step_jobs(paper: str, sizes: Sizes, device: str, backend: str) -> dict[str, Job]:
    """The steps of a paper as torch runs them, and compiled."""
    settings = settings_of(paper, sizes)
    who = ["ours", "transcription"] if paper in step.TRANSCRIPTIONS else ["ours"]
    condition = {"paper": paper, "backbone": settings.backbone}
    condition |= {"batch": settings.batch_size, "size_px": settings.image_size}
    jobs = {}
    for kind, compiled in (("eager", False), ("compiled", True)):
        names = [
            f"{each} {name}"
            for name, chosen in PRECISIONS.items()
            if chosen.compiled is compiled
            for each in who
        ]
        rows = partial(steps, paper, settings, names, sizes, device, backend)
        jobs[kind] = Job(f"steps-{paper}", names, rows, condition, shares=compiled)
    return jobs


def settings_of(paper: str, sizes: Sizes) -> Settings:
    """The published settings of a paper in the given size, without pretrained weights, on which
    no time depends.
    """
    return papers.module(paper).Settings.check({**sizes.changes[paper], "pretrained": False}, paper)


def networks(paper: str, settings: Settings, device: str) -> dict[str, nn.Module]:
    """Ours and, where there is one, the transcription, after both have computed the same; ready
    for training.
    """
    if paper in step.TRANSCRIPTIONS:
        ours, transcription = (network.to(device) for network in step.networks(paper, settings))
        step.check_equal(
            ours,
            transcription,
            step.random_batch(min(settings.image_size, step.CHECKED_PX), 2, device),
        )
        return {"ours": ours, "transcription": transcription}
    torch.manual_seed(torch_seed("benchmark"))
    return {
        "ours": papers.module(paper)
        .Network(settings)
        .to(device, memory_format=torch.channels_last)
        .train()
    }


def untrained_comparator(name: str, device: torch.device) -> nn.Module:
    """LAE's comparator with random weights: the same arithmetic without a download."""
    features = timm.create_model(name, pretrained=False, features_only=True)
    normalise = v2.Normalize(features.pretrained_cfg["mean"], features.pretrained_cfg["std"])
    return nn.Sequential(normalise, features).eval().requires_grad_(False).to(device)


def contender_of(name: str, found: Mapping[str, nn.Module], backend: str) -> Contender:
    """The contender of a name such as ``ours bf16 compiled``."""
    who, _, precision = name.partition(" ")
    chosen = PRECISIONS[precision]
    layout = torch.channels_last if who == "ours" else torch.contiguous_format
    network = (
        torch.compile(found[who], backend=backend, dynamic=False) if chosen.compiled else found[who]
    )
    return Contender(name, network, chosen.dtype, layout, chosen.tf32)


def flops_of(contender: Contender, batch: Batch) -> float:
    """Floating point operations of a step, NaN where they cannot be counted; attention counts as
    its two products.
    """
    formulas = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False, custom_mapping=formulas) as counter,
        ):
            contender.step(batch)
        return float(counter.get_total_flops())
    except Exception as error:  # the times are worth more than the count
        typer.echo(f"{contender.name}: operations not counted, {reason(error)}")
        return float("nan")


def steps(
    paper: str, settings: Settings, names: list[str], sizes: Sizes, device: str, backend: str
) -> Iterator[dict[str, Any]]:
    """A row for each contender: those that run take turns; why another does not run is said at
    once.
    """
    # half of the divergence is what is described
    warnings.filterwarnings("ignore", message="reduction: 'mean'")
    with mock.patch.object(lae, "comparator", cache(untrained_comparator)):
        found = networks(paper, settings, device)
        batch = step.random_batch(settings.image_size, settings.batch_size, device)
        flops = {who: flops_of(contender_of(f"{who} bf16", found, backend), batch) for who in found}
        reference = ["transcription float32"] if "transcription" in found else []
        peaks, first, running = {}, {}, []
        # the reference takes its turn in every job
        for name in dict.fromkeys([*names, *reference]):
            candidate = contender_of(name, found, backend)
            try:
                first[name] = candidate.seconds(batch)  # compiles and chooses kernels
                peaks[name] = candidate.peak_mib(batch)
                running.append(candidate)
            except Exception as error:
                if name in names:
                    yield {"contender": name, "outcome": reason(error)}
            free()
        seconds = step.measure(running, batch, sizes.rounds, sizes.warmup, lambda text: None)
    model = model_of(device)
    layouts = {each.name: each.memory_format for each in running}
    for name in names:
        if name in seconds:
            row = {"contender": name, "memory_format": str(layouts[name]).removeprefix("torch.")}
            row |= speed(name, seconds, settings.batch_size, flops[name.partition(" ")[0]], model)
            yield row | {
                "first_step_s": round(first[name], 2),
                "peak_memory_mib": round(peaks[name], 1),
            }


def speed(name: str, seconds: pd.DataFrame, batch: int, flops: float, model: str) -> dict[str, Any]:
    """What follows from the seconds of all contenders, one row per round, for the contender
    ``name``.

    Ratios are taken round by round: to the transcription in float32, and to the one in the same
    precision.
    """
    precision, median = name.partition(" ")[2], float(seconds[name].median())
    row = {"precision": precision, "rounds": len(seconds), "images_per_s": round(batch / median, 2)}
    row |= data.spread("step_s", seconds[name])
    for column, against in (
        ("times_as_fast", "float32"),
        ("times_as_fast_same_precision", precision),
    ):
        if f"transcription {against}" in seconds:
            row |= data.spread(column, seconds[f"transcription {against}"] / seconds[name])
    peak = peak_tflops(model, precision)
    row |= {
        "tflop_per_step": round(flops / 1e12, 6),
        "tflop_per_s": round(flops / median / 1e12, 6),
    }
    return row | {
        "peak_tflop_per_s": peak,
        "mfu": round(flops / median / peak / 1e12, 4) if peak else None,
    }


def peak_tflops(model: str, precision: str) -> float | None:
    """The device's dense peak for a precision; None where it is not known."""
    known = (
        () if "MIG" in model else (peaks for name, peaks in PEAKS.items() if re.search(name, model))
    )
    return next(
        (peaks[("float32", "TF32", "bf16").index(precision.split()[0])] for peaks in known), None
    )


# ---------------------------------------------------------------- the wait for data


def loader_job(sizes: Sizes, device: str) -> Job:
    """How long the training of Locate and Verify waits for the real loader, and how fast that is
    alone.
    """
    settings = settings_of("locate_and_verify", sizes)
    condition = {
        "paper": "locate_and_verify",
        "backbone": settings.backbone,
        "batch": settings.batch_size,
    }
    condition |= {
        "size_px": settings.image_size,
        "crop_px": settings.image_size + 1,
        "workers": scoring.WORKERS,
    }
    condition |= {"augmentation": settings.augmentation, "steps": sizes.steps}
    names = ["ours bf16", "ours float32", "loader alone"]
    return Job("loader", names, partial(waiting, names, settings, sizes, device), condition)


def waiting(
    names: list[str], settings: Settings, sizes: Sizes, device: str
) -> Iterator[dict[str, Any]]:
    """The share of a short epoch that passes in waiting, for each contender."""
    with tempfile.TemporaryDirectory() as scratch:
        side = settings.image_size + 1  # as the released data: a crop loses its last row and column
        crops = data.drawn_crops(Path(scratch, "crops"), sizes.videos, sizes.frames, side)
        for name in names:
            yield attempt(name, partial(waiting_of, name, crops, settings, sizes.steps, device))
            free()


def waiting_of(
    name: str, crops: pd.DataFrame, settings: Settings, count: int, device: str
) -> dict[str, Any]:
    """The share of waiting and the images per second of one contender."""
    warmup = 2 * scoring.WORKERS + 4  # the batches that wait in the queues at the start
    limit = settings.batch_size * (warmup + count)
    sampler = EpochSampler(crops, settings.batch_size, 0, limit, settings.oversampling)
    batches = loader(
        FrameDataset(crops, settings, seed=0), sampler, scoring.WORKERS, pin=device == "cuda"
    )
    run = (
        training_step(settings, PRECISIONS[name.removeprefix("ours ")], device)
        if "ours" in name
        else lambda one: None
    )
    with arithmetic(tf32=False):
        seconds = data.waits(batches, run, device, count, warmup)
    whole = seconds["whole_s"].sum()
    row = {"images_per_s": round(float(settings.batch_size * count / whole), 2)}
    return row | (
        {"waiting_share": round(float(seconds["wait_s"].sum() / whole), 4)}
        if "ours" in name
        else {}
    )


def training_step(settings: Settings, precision: Precision, device: str) -> Callable[[Batch], None]:
    """A step of Locate and Verify as the training loop does it, with its optimiser."""
    network = (
        trainer.Step(lv.Network(settings)).to(device, memory_format=torch.channels_last).train()
    )
    optimiser = torch.optim.Adam(
        network.network.parameter_groups(settings.weight_decay), settings.lr
    )

    def run(batch: Batch) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision.dtype is torch.bfloat16):
            losses = network(batch)
        losses["total"].backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


# ---------------------------------------------------------------- a short training


def training_job(sizes: Sizes, device: str) -> Job:
    """The baseline of the demo, trained shortly in float32 and bf16, and on the CPU beside the
    GPU.
    """
    names = [f"{device} float32", f"{device} bf16", *(["cpu float32"] if device != "cpu" else [])]
    settings = baseline(sizes.epochs, "float32")
    condition = {"paper": "xception", "backbone": settings.backbone, "batch": settings.batch_size}
    condition |= {"size_px": settings.image_size, "epochs": settings.epochs}
    return Job("training", names, partial(training, names, sizes), condition)


def baseline(epochs: int, precision: str) -> Settings:
    """The settings of the demo's baseline for so many epochs."""
    profile = read_yaml(ROOT / "notebooks" / "profiles" / "demo.yaml")
    values = {**profile["notebooks"]["02_xception_baseline"], "epochs": epochs}
    values |= {"precision": "bf16-mixed" if precision == "bf16" else "32-true"}
    known = papers.module("xception").Settings
    return known.check(
        {name: value for name, value in values.items() if name in known.model_fields}, "demo.yaml"
    )


def training(names: list[str], sizes: Sizes) -> Iterator[dict[str, Any]]:
    """A training for each contender, on the same drawn people, each in a home of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        with data.patched_home(scratch):
            synth.build("smoke-a", synth.preset("smoke-a", identities=dict(sizes.people)))
        for name in names:
            home = Path(scratch, slug(name))
            home.mkdir()
            (home / "datasets").symlink_to(Path(scratch, "datasets"))
            with data.patched_home(str(home)):
                row = attempt(name, partial(trained, *name.split(), sizes.epochs))
            yield row
            free()


def trained(device: str, precision: str, epochs: int) -> dict[str, Any]:
    """AUC of the test videos with its interval, of the validation frames, and how long the
    training took.
    """
    settings, started = baseline(epochs, precision), time.monotonic()
    workers = scoring.WORKERS if device == "cuda" else 0
    with (
        mock.patch.object(train, "DEVICE", device),
        mock.patch.multiple(trainer, DEVICE=device, WORKERS=workers),
        arithmetic(tf32=False),
        redirect_stdout(None),
    ):
        run = train.train("xception", "smoke-a", settings)
        seconds = time.monotonic() - started
        frames = select(load_frames("smoke-a"), "test")
        scores = scoring.predict(run.network().to(device), frames, settings)
    videos = metrics.align([scores], "video")
    found = statistics.summary([metrics.measure(videos, "AUC").outcome()])
    row = {
        "precision": precision,
        "train_s": round(seconds, 2),
        "images_seen": run.record["images_seen"],
    }
    row |= {
        "images_per_s": round(run.record["images_seen"] / run.record["wall_s"], 2),
        "videos": found["n"],
    }
    row |= {"validation_auc": round(float(run.log["validation_auc"].iloc[-1]), 4)}
    return row | {
        name: round(found[key], 4)
        for name, key in (("auc", "value"), ("low", "low"), ("high", "high"))
    }


# ---------------------------------------------------------------- verdicts


def parity_holds(table: Table) -> bool:
    """Whether all golden values were met, and ours and the transcriptions, where compared,
    computed the same.
    """
    rows = [row for part in table.rows.values() for row in part]
    differing = any(row["outcome"].startswith("failed: AssertionError") for row in rows)
    return not differing and all(row.get("met", False) for row in table.rows.get("golden", []))


def left_out(table: Table, minutes: float) -> list[str]:
    """Which rows have no numbers since the time was up."""
    rows = [
        (part, row) for part, rows in table.rows.items() for row in rows if row["outcome"] == OVER
    ]
    names = [f"{part}, {row['contender']}" for part, row in rows]
    return (
        [f"missing, since their time was up ({minutes:g} minutes for all): {'; '.join(names)}"]
        if names
        else []
    )


def verdicts(table: Table) -> list[str]:
    """Each target, what was measured, and whether it is met."""
    return [*_golden(table), *_steps(table), *_loader(table), *_training(table)]


def _verdict(target: str, found: str, met: bool) -> str:
    return (
        f"{target}: {found}, {'met' if met else 'not met'}" if found else f"{target}: not measured"
    )


def _golden(table: Table) -> Iterator[str]:
    for row in table.rows.get("golden", []):
        target = f"golden parity, {row['paper']}, {row['contender']}"
        found = (
            f"off by {row['difference']:.2g} in {row['largest_in']}, {row['limit']:g} allowed"
            if "met" in row
            else ""
        )
        yield _verdict(target, found, row.get("met", False))


def _steps(table: Table) -> Iterator[str]:
    rows = {row["contender"]: row for row in table.rows.get("steps-locate_and_verify", [])}
    targets = [("bf16", "times_as_fast", FASTER, "the transcription in float32")]
    targets += [
        (name, "times_as_fast_same_precision", 1.0, f"the transcription in {name}")
        for name in PRECISIONS
    ]
    for precision, column, least, against in targets if rows else []:
        row = rows.get(f"ours {precision}", {})
        ratio = row.get(f"{column}_median")
        factor = f"at least {least:g} times" if least > 1 else "at least"
        target = f"Locate and Verify, ours in {precision} {factor} as fast as {against}"
        found = (
            f"{ratio:.2f} ({row[f'{column}_q1']:.2f} to {row[f'{column}_q3']:.2f})" if ratio else ""
        )
        yield _verdict(target, found, bool(ratio) and ratio >= least)


def _loader(table: Table) -> Iterator[str]:
    for row in table.rows.get("loader", []):
        share = row.get("waiting_share")
        if row["contender"] != "loader alone":
            found = "" if share is None else f"{share:.1%}"
            yield _verdict(
                f"{row['contender']}, waiting for data under {WAITS:.0%}",
                found,
                found and share < WAITS,
            )


def _training(table: Table) -> Iterator[str]:
    rows = {row["contender"]: row for row in table.rows.get("training", [])}
    for name, row in rows.items():
        if name.endswith(" bf16"):
            other = rows[name.replace("bf16", "float32")]
            target, known = (
                f"{name}, AUC inside the interval of float32",
                "auc" in row and "auc" in other,
            )
            found = (
                f"{row['auc']:.3f} in [{other['low']:.3f}, {other['high']:.3f}]" if known else ""
            )
            yield _verdict(target, found, known and other["low"] <= row["auc"] <= other["high"])


# ---------------------------------------------------------------- the command


def jobs_of(
    parts: Sequence[str], names: Sequence[str], sizes: Sizes, device: str, backend: str
) -> list[Job]:
    """All jobs of the parts, with the steps of the papers ``names``, in the order of their
    importance.

    Compiling takes longest and comes last, the small networks first.
    """
    of_paper = [step_jobs(paper, sizes, device, backend) for paper in PAPERS if paper in names]
    eager, compiled = ([jobs[kind] for jobs in of_paper] for kind in ("eager", "compiled"))
    jobs = [
        *golden_jobs(sizes, device),
        *eager[:1],
        loader_job(sizes, device),
        training_job(sizes, device),
    ]
    return [
        job
        for job in [*jobs, *eager[1:], *reversed(compiled)]
        if job.part.partition("-")[0] in parts
    ]


def conditions(commit: str | None) -> dict[str, Any]:
    """Where, with what and when."""
    facts = environment()
    where = {
        "device_model": step.device_model(facts["device"]),
        "cores": os.cpu_count(),
        "threads": facts["threads"],
    }
    where |= {"load_before": round(os.getloadavg()[1], 1), "torch": facts["packages"]["torch"]}
    where |= {"timm": facts["packages"]["timm"], "cuda": torch.version.cuda, "driver": driver()}
    return where | {"commit": commit or facts["commit"], "date": time.strftime("%Y-%m-%d")}


def model_of(device: str) -> str:
    """The name of the GPU, or cpu."""
    return torch.cuda.get_device_name(0) if device == "cuda" else device


def driver() -> str | None:
    """The version of NVIDIA's driver, where the system tells."""
    if not (torch.cuda.is_available() and shutil.which("nvidia-smi")):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return next(
        iter(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()),
        None,
    )


def main(
    minutes: Annotated[float, typer.Option(min=0, help="from the start of the command")] = 8.0,
    part: Annotated[
        list[str] | None, typer.Option(help=f"of {', '.join(PARTS)}; several times; default: all")
    ] = None,
    paper: Annotated[
        list[str] | None, typer.Option(help=f"whose steps, of {', '.join(PAPERS)}; default: all")
    ] = None,
    tiny: Annotated[
        bool, typer.Option(help="small networks and data, also on the CPU: proves that it runs")
    ] = False,
    backend: Annotated[str, typer.Option(help="of torch.compile")] = "inductor",
    commit: Annotated[
        str | None, typer.Option(help="the commit, where the checkout is a copy without git")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = data.OUT,
) -> None:
    """Measure what a GPU gives, the most important first, and write OUT/gpu-PART-DEVICE.csv.

    Speed decides no exit code: it is 1 when the networks do not give the golden values.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for chosen, known in ((part, PARTS), (paper, PAPERS)):
        if unknown := ", ".join(sorted(set(chosen or ()) - set(known))):
            raise typer.BadParameter(f"{unknown} is none of {', '.join(known)}")
    if device == "cpu" and not tiny:
        raise DfnbError("there is no GPU here; --tiny runs the same on the CPU")
    torch.set_num_threads(1)  # as every network of ours does
    where, sizes = conditions(commit), TINY if tiny else FULL
    table = Table(out, f"{slug(model_of(device))}{'-tiny' * tiny}", where)
    gc.freeze()  # garbage collection between steps need not look at the imported modules
    jobs = jobs_of(part or PARTS, paper or PAPERS, sizes, device, backend)
    work(jobs, table, STARTED + 60 * minutes)
    typer.echo("\n".join(["", *verdicts(table), "", *left_out(table, minutes)]))
    typer.echo(f"written: {', '.join(table.path(each).name for each in table.rows)} in {out}")
    if not parity_holds(table):
        raise AssertionError(
            "golden parity does not hold: see the rows of golden, and those that failed"
        )


if __name__ == "__main__":
    try:
        typer.run(main)
    except (DfnbError, AssertionError) as error:
        sys.exit(f"gpu: {error}")
