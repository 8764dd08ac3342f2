"""What a GPU gives: parity with the released codes, the speed of training steps, a short training.

    python benchmarks/gpu.py    # about eight minutes, without network

It has four parts, each with CSV files of its own: ``golden`` compares networks with the outputs of
the released codes, ``steps`` measures training steps at full size, ``loader`` the wait for data,
and ``training`` trains the demo's baseline. Every row is written as soon as it is measured. What
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

from dfnb import papers, synth
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import EpochSampler, FrameDataset, loader
from dfnb.files import atomic, slug
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import lae
from dfnb.papers import locate_and_verify as lv
from dfnb.papers.contract import Batch, Settings
from dfnb.records import environment
from dfnb.report.measure import measure
from dfnb.report.scores import UNITS
from dfnb.seeds import torch_seed
from dfnb.settings import DfnbError, read_yaml
from dfnb.training import scoring, train, trainer

STARTED = time.monotonic()  # the minutes of the command count from here
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))
import goldens  # noqa: E402

PARTS = ("golden", "steps", "loader", "training")
PARITY = 1e-4  # of outputs and losses in float32, as a share of the largest golden value
FASTER = 3.0  # times, Locate and Verify in bf16 against its transcription in float32
WAITS = data.WAITS
OVER = "not measured: its time was up"
# Columns that are printed as soon as a row is measured, where it has them.
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
    """The arithmetic of a contender.

    TF32 rounds the factors of float32 products to 10 bits; it is off unless it is what is measured.
    """

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
    rounds: int  # in which each contender takes a step
    warmup: int  # rounds before these
    videos: int  # of the crops that the loader reads
    frames: int  # in each of them
    steps: int  # of the loader's epoch
    people: Mapping[str, int]  # of the short training, by split
    epochs: int
    gradients: bool  # whether the golden ones are compared, in float64


PAPERS = ("locate_and_verify", "exposing_the_deception", "xception", "lae")
FULL = Sizes(
    changes={paper: {} for paper in PAPERS},
    rounds=8,
    warmup=2,
    videos=40,
    frames=16,
    steps=60,
    people={"train": 160, "val": 40, "test": 100},
    epochs=8,
    gradients=True,
)
_small = {"backbone": "dfnb_plain7", "image_size": 32, "batch_size": 2}
TINY = Sizes(
    changes={
        "locate_and_verify": {**_small, "mpff_width": 8, "fusion_width": 16, "fusion_out": 16},
        "exposing_the_deception": {
            **_small,
            "backbone": "resnet10t",
            "branches": 2,
            "fusion_widths": [8, 8, 8],
        },
        "xception": _small,
        "lae": {
            **_small,
            "decoder_widths": [8, 8],
            "adversary_widths": [8, 8],
            "comparator": "resnet10t",
        },
    },
    rounds=2,
    warmup=0,
    videos=4,
    frames=4,
    steps=3,
    people={"train": 8, "val": 4, "test": 4},
    epochs=1,
    gradients=False,
)


# ---------------------------------------------------------------- jobs, rows and the time they have


class OutOfTime(BaseException):
    """The minutes are over; no Exception, since libraries catch those."""


@dataclass
class Job:
    """Rows of one part that are measured together."""

    part: str  # of the file's name: one of PARTS, and for steps with the paper, as steps-lae
    contenders: list[str]  # names of its rows; a row that is missing is added, with the reason
    rows: Callable[[], Iterator[dict[str, Any]]]  # measures; each row has its ``contender``
    condition: dict[str, Any] = field(default_factory=dict)  # columns that all rows have
    # Whether it may take only its share of the time that is left. A compilation would else take
    # all of it.
    shares: bool = False


@dataclass
class Table:
    """The rows of all parts; the file of a part is written again with every row."""

    out: Path
    device: str  # as part of the files' names
    where: dict[str, Any]  # machine, versions, commit and date: the same in every row
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by part

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Keep a row, write the file of its part and say what was measured."""
        self.rows.setdefault(part, []).append(row)
        # convert_dtypes keeps counts whole in columns that have gaps.
        table = pd.DataFrame([one | self.where for one in self.rows[part]]).convert_dtypes()
        with atomic(self.path(part)) as temporary:
            table.to_csv(temporary, index=False)
        title = f"golden, {row['paper']}" if part == "golden" else part
        numbers = [f"{name} {row[name]:.4g}" for name in ECHOED if row.get(name) is not None]
        typer.echo(f"{title}, {row['contender']}: {', '.join(numbers) or row['outcome']}")

    def path(self, part: str) -> Path:
        """The file of a part."""
        return self.out / f"gpu-{part}-{self.device}.csv"


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` when the block takes longer."""

    def ring(*_: Any) -> None:
        """What the signal calls; its arguments do not matter."""
        raise OutOfTime

    if seconds <= 0:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, ring)
    # Then again every 5 seconds, because Python ignores an exception raised in a destructor.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work(jobs: list[Job], table: Table, deadline: float) -> None:
    """Do the jobs in their order until the deadline, a value of ``time.monotonic``.

    Every contender gets a row: its numbers, or why there are none.
    """
    for place, job in enumerate(jobs):
        jobs_left = len(jobs) - place
        now = time.monotonic()
        until = now + (deadline - now) / jobs_left if job.shares else deadline
        missing, outcome = _do(job, table, until)
        for contender in missing:
            table.add(job.part, {**job.condition, "contender": contender, "outcome": outcome})
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # compiled code keeps its network
        free()


def _do(job: Job, table: Table, until: float) -> tuple[list[str], str]:
    """Measure a job; returns the contenders without a row, and why they have none."""
    missing = list(job.contenders)
    rows = job.rows()
    try:
        while True:
            with alarm(until - time.monotonic()):
                row = next(rows, None)
            if row is None:
                return missing, "not measured"
            first = {"contender": row["contender"], "outcome": "measured"}
            table.add(job.part, {**job.condition, **first, **row})
            missing.remove(row["contender"])
    except OutOfTime:
        return missing, OVER
    except Exception as error:  # one failure must not cost the other rows
        return missing, reason(error)


def reason(error: Exception) -> str:
    """Why there are no numbers: the first line of an error, without the folders of this machine."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first_line = lines[0] if lines else ""
    text = re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+", "", first_line)  # /a/b/c.py becomes c.py
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
    """TF32 on or off, and afterwards all flags as they were.

    Among them is that of deterministic algorithms, which a training sets and which makes steps
    slower.
    """
    matmul = torch.backends.cuda.matmul
    cudnn = torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    matmul.allow_tf32 = tf32
    cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


# ---------------------------------------------------------------- golden parity


def golden_jobs(sizes: Sizes, device: str) -> list[Job]:
    """Outputs and losses in float32, and the gradients of all parameters in float64, against the
    released codes.
    """
    names = ["float32"]
    if sizes.gradients:
        names.append("float64 gradients")
    jobs = []
    for kind, paper in {"lv": "locate_and_verify", "etd": "exposing_the_deception"}.items():
        jobs.append(Job("golden", names, partial(golden, kind, names, device), {"paper": paper}))
    return jobs


def golden(kind: str, names: list[str], device: str) -> Iterator[dict[str, Any]]:
    """A row per name: the largest difference from the golden values of a paper, and in what.

    ``kind`` is ``lv``, Locate and Verify, or ``etd``, Exposing the Deception, as in the names of
    the golden files.
    """
    # Each batch has the golden files' seed, 0, labels, side in pixels, and masks if there are any.
    if kind == "lv":
        network = lv.Network(lv.Settings(pretrained=False))
        batch = goldens.golden_batch(0, [0, 1], 299, goldens.forged(0))
    else:
        network = etd.Network(etd.Settings(pretrained=False, channel_order="corrected"))
        batch = goldens.golden_batch(0, [0, 1, 1, 0], 224)
    network = goldens.loaded(network, goldens.golden_weights(kind))
    network = network.to(device, memory_format=torch.channels_last)
    for name, value in batch.items():
        if isinstance(value, Tensor):
            batch[name] = value.to(device)
    condition = {"batch": len(batch["label"]), "size_px": batch["image"].shape[-1]}
    for name in names:
        gradients = "gradients" in name
        precision = torch.float64 if gradients else torch.float32
        with arithmetic(tf32=False), torch.set_grad_enabled(gradients):
            outputs, losses = goldens.run(network, batch, precision, gradients)
        if gradients:
            paper = {"lv": lv, "etd": etd}[kind]
            path = goldens.GOLDEN / f"{kind}_0_gradnorm.json"
            differences = goldens.gradients_off(network, paper, path)
            limit = goldens.GRADIENTS
        else:
            expected = np.load(goldens.GOLDEN / f"{kind}_0.npz")
            pairs = goldens.pairs(kind, batch, outputs, losses, expected)
            differences = {quantity: goldens.off(*pair) for quantity, pair in pairs.items()}
            limit = PARITY
        yield {"contender": name, **condition, **judged(differences, limit)}


def judged(differences: Mapping[str, float], limit: float) -> dict[str, Any]:
    """Columns of a row: the largest of the differences beside its limit, and whether it is met.

    ``differences`` are by quantity; NaN counts as the largest of all.
    """
    largest_in = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    difference = differences[largest_in]
    return {
        "quantities": len(differences),
        "largest_in": largest_in,
        "difference": difference,
        "limit": limit,
        "met": bool(difference <= limit),
    }


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
    """Two jobs of a paper: its steps as torch runs them, "eager", and "compiled".

    Contenders are ``ours`` and, where there is one, the ``transcription`` (see :mod:`step`), in
    each of PRECISIONS.
    """
    settings = settings_of(paper, sizes)
    networks_measured = ["ours"]
    if paper in step.TRANSCRIPTIONS:
        networks_measured.append("transcription")
    condition = {
        "paper": paper,
        "backbone": settings.backbone,
        "batch": settings.batch_size,
        "size_px": settings.image_size,
    }
    jobs = {}
    for kind, compiled in (("eager", False), ("compiled", True)):
        names = []
        for name, precision in PRECISIONS.items():
            if precision.compiled is compiled:
                names += [f"{network} {name}" for network in networks_measured]
        rows = partial(steps, paper, settings, names, sizes, device, backend)
        jobs[kind] = Job(f"steps-{paper}", names, rows, condition, shares=compiled)
    return jobs


def settings_of(paper: str, sizes: Sizes) -> Settings:
    """The published settings of a paper in the given size.

    Without pretrained weights, which would be downloaded, and on which no time depends.
    """
    return papers.module(paper).Settings.check({**sizes.changes[paper], "pretrained": False}, paper)


def networks(paper: str, settings: Settings, device: str) -> dict[str, nn.Module]:
    """``ours`` and, where there is one, the ``transcription``, ready for training.

    It is checked first that both compute the same.
    """
    if paper in step.TRANSCRIPTIONS:
        ours, transcription = (network.to(device) for network in step.networks(paper, settings))
        side = min(settings.image_size, step.CHECKED_PX)
        step.check_equal(ours, transcription, step.random_batch(side, 2, device))
        return {"ours": ours, "transcription": transcription}
    torch.manual_seed(torch_seed("benchmark"))
    network = papers.module(paper).Network(settings)
    return {"ours": network.to(device, memory_format=torch.channels_last).train()}


def untrained_comparator(name: str, device: torch.device) -> nn.Module:
    """LAE's comparator with random weights: the same arithmetic without a download."""
    features = timm.create_model(name, pretrained=False, features_only=True)
    normalise = v2.Normalize(features.pretrained_cfg["mean"], features.pretrained_cfg["std"])
    return nn.Sequential(normalise, features).eval().requires_grad_(False).to(device)


def contender_of(name: str, by_name: Mapping[str, nn.Module], backend: str) -> Contender:
    """The contender of a name such as ``ours bf16 compiled``, of the network ``ours``."""
    network_name, _, precision_name = name.partition(" ")
    precision = PRECISIONS[precision_name]
    layout = torch.channels_last if network_name == "ours" else torch.contiguous_format
    network = by_name[network_name]
    if precision.compiled:
        network = torch.compile(network, backend=backend, dynamic=False)
    return Contender(name, network, precision.dtype, layout, precision.tf32)


def flops_of(contender: Contender, batch: Batch) -> float:
    """Floating point operations of a step, NaN where they cannot be counted."""
    formulas = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),  # attention as two products, which are counted
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
    """A row for each contender: those that run take turns.

    A contender that fails gets its row, with the reason, at once. ``names`` are those of the
    contenders, such as ``ours bf16``; ``backend`` is torch.compile's.
    """
    # torch warns of kl_div's "mean", which also divides by the two classes. The released code of
    # Exposing the Deception does so, too.
    warnings.filterwarnings("ignore", message="reduction: 'mean'")
    first_seconds = {}  # of the first step, which compiles and chooses kernels
    peaks = {}
    running = []
    # LAE's own comparator would be downloaded; it is cached, because every step needs it.
    with mock.patch.object(lae, "comparator", cache(untrained_comparator)):
        by_name = networks(paper, settings, device)
        batch = step.random_batch(settings.image_size, settings.batch_size, device)
        flops = {}  # by network: the precision does not change how many operations a step has
        for network_name in by_name:
            contender = contender_of(f"{network_name} bf16", by_name, backend)
            flops[network_name] = flops_of(contender, batch)
        # The reference takes its turn in every job: times are compared within a round.
        reference = ["transcription float32"] if "transcription" in by_name else []
        for name in dict.fromkeys([*names, *reference]):  # without repetitions
            contender = contender_of(name, by_name, backend)
            try:
                first_seconds[name] = contender.seconds(batch)
                peaks[name] = contender.peak_mib(batch)
                running.append(contender)
            except Exception as error:
                if name in names:
                    yield {"contender": name, "outcome": reason(error)}
            free()
        seconds = step.measure(running, batch, sizes.rounds, sizes.warmup, lambda text: None)
    model = model_of(device)
    for contender in running:
        name = contender.name
        if name in names:
            network_name = name.partition(" ")[0]
            yield {
                "contender": name,
                "memory_format": str(contender.memory_format).removeprefix("torch."),
                **speed(name, seconds, settings.batch_size, flops[network_name], model),
                "first_step_s": round(first_seconds[name], 2),
                "peak_memory_mib": round(peaks[name], 1),
            }


def speed(name: str, seconds: pd.DataFrame, batch: int, flops: float, model: str) -> dict[str, Any]:
    """What follows from the seconds per step for the contender ``name``.

    Ratios are taken round by round: to the transcription in float32, and to the one in the same
    precision.

    Args:
        name: Such as ``ours bf16 compiled``.
        seconds: One row per round, one column per contender.
        batch: Images per step.
        flops: Floating point operations per step.
        model: The device's name.
    """
    precision = name.partition(" ")[2]
    median = float(seconds[name].median())
    row = {"precision": precision, "rounds": len(seconds), "images_per_s": round(batch / median, 2)}
    row.update(data.spread("step_s", seconds[name]))
    compared = {"times_as_fast": "float32", "times_as_fast_same_precision": precision}
    for column, reference in compared.items():
        if f"transcription {reference}" in seconds:
            ratios = seconds[f"transcription {reference}"] / seconds[name]
            row.update(data.spread(column, ratios))
    peak = peak_tflops(model, precision)
    tflop_per_s = flops / median / 1e12
    row["tflop_per_step"] = round(flops / 1e12, 6)
    row["tflop_per_s"] = round(tflop_per_s, 6)
    row["peak_tflop_per_s"] = peak
    row["mfu"] = round(tflop_per_s / peak, 4) if peak else None  # model FLOPs utilisation
    return row


def peak_tflops(model: str, precision: str) -> float | None:
    """The device's dense peak for a precision, in TFLOP/s; None where it is not known."""
    if "MIG" in model:  # a slice of a device
        return None
    place = ("float32", "TF32", "bf16").index(precision.split()[0])
    for pattern, peaks in PEAKS.items():
        if re.search(pattern, model):
            return peaks[place]
    return None


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
        "size_px": settings.image_size,
        "crop_px": settings.image_size + 1,
        "workers": scoring.WORKERS,
        "augmentation": settings.augmentation,
        "steps": sizes.steps,
    }
    names = ["ours bf16", "ours float32", "loader alone"]
    return Job("loader", names, partial(waiting, names, settings, sizes, device), condition)


def waiting(
    names: list[str], settings: Settings, sizes: Sizes, device: str
) -> Iterator[dict[str, Any]]:
    """The share of a short epoch that passes in waiting, for each contender."""
    with tempfile.TemporaryDirectory() as scratch:
        side = settings.image_size + 1  # as the released crops, which lose the last row and column
        crops = data.drawn_crops(Path(scratch, "crops"), sizes.videos, sizes.frames, side)
        for name in names:
            yield attempt(name, partial(waiting_of, name, crops, settings, sizes.steps, device))
            free()


def waiting_of(
    name: str, crops: pd.DataFrame, settings: Settings, count: int, device: str
) -> dict[str, Any]:
    """The images per second of one contender in ``count`` steps, and its share of waiting.

    ``loader alone`` takes batches without a training, so it has no such share.
    """
    is_alone = name == "loader alone"
    warmup = 2 * scoring.WORKERS + 4  # more than the batches that the queues hold at the start
    limit = settings.batch_size * (warmup + count)
    limited = settings.model_copy(update={"images_per_epoch": limit})
    sampler = EpochSampler(crops, limited, 0)
    dataset = FrameDataset(crops, settings, seed=0)
    batches = loader(dataset, sampler, scoring.WORKERS, pin=device == "cuda")

    def take(batch: Batch) -> None:
        """Do nothing with a batch."""

    run = take
    if not is_alone:
        run = training_step(settings, PRECISIONS[name.removeprefix("ours ")], device)
    with arithmetic(tf32=False):
        seconds = data.waits(batches, run, device, count, warmup)
    whole_s = float(seconds["whole_s"].sum())
    row = {"images_per_s": round(settings.batch_size * count / whole_s, 2)}
    if not is_alone:
        row["waiting_share"] = round(float(seconds["wait_s"].sum()) / whole_s, 4)
    return row


def training_step(settings: Settings, precision: Precision, device: str) -> Callable[[Batch], None]:
    """A step of Locate and Verify as the training loop does it, with its optimiser."""
    network = trainer.Step(lv.Network(settings))
    network = network.to(device, memory_format=torch.channels_last).train()
    groups = network.network.parameter_groups(settings.weight_decay)
    optimiser = torch.optim.Adam(groups, settings.lr)
    is_bfloat16 = precision.dtype is torch.bfloat16

    def run(batch: Batch) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=is_bfloat16):
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
    names = [f"{device} float32", f"{device} bf16"]
    if device != "cpu":
        names.append("cpu float32")
    settings = baseline(sizes.epochs, "float32")
    condition = {
        "paper": "xception",
        "backbone": settings.backbone,
        "batch": settings.batch_size,
        "size_px": settings.image_size,
        "epochs": settings.epochs,
    }
    return Job("training", names, partial(training, names, sizes), condition)


def baseline(epochs: int, precision: str) -> Settings:
    """The settings of the demo's baseline for so many epochs, in ``float32`` or ``bf16``."""
    profile = read_yaml(ROOT / "notebooks" / "profiles" / "demo.yaml")
    model = papers.module("xception").Settings
    values = {}
    for name, value in profile["notebooks"]["02_xception_baseline"].items():
        if name in model.model_fields:  # other parameters are the notebook's
            values[name] = value
    values["epochs"] = epochs
    values["precision"] = "bf16-mixed" if precision == "bf16" else "32-true"
    return model.check(values, "demo.yaml")


def training(names: list[str], sizes: Sizes) -> Iterator[dict[str, Any]]:
    """A training for each contender, on the same drawn people.

    Each has a home of its own, since a training that is there already would not be repeated.
    """
    with tempfile.TemporaryDirectory() as scratch:
        with data.patched_home(scratch):
            synth.build("smoke-a", synth.preset("smoke-a", identities=dict(sizes.people)))
        for name in names:
            home = Path(scratch, slug(name))
            home.mkdir()
            (home / "datasets").symlink_to(Path(scratch, "datasets"))
            device, precision = name.split()
            with data.patched_home(str(home)):
                row = attempt(name, partial(trained, device, precision, sizes.epochs))
            yield row
            free()


def trained(device: str, precision: str, epochs: int) -> dict[str, Any]:
    """The row of one training: its seconds, the AUC of the validation frames, and that of the test
    videos with its 95 % interval.
    """
    settings = baseline(epochs, precision)
    workers = scoring.WORKERS if device == "cuda" else 0
    started = time.monotonic()
    with (
        mock.patch.object(train, "DEVICE", device),
        mock.patch.multiple(trainer, DEVICE=device, WORKERS=workers),
        arithmetic(tf32=False),
        redirect_stdout(None),  # the training's own lines
    ):
        run = train.train(train.run_parameters("xception", "smoke-a", settings))
        seconds = time.monotonic() - started
        frames = select(load_frames("smoke-a"), "test")
        scores = scoring.predict(run.network().to(device), frames, settings)
    videos = scores.groupby(UNITS["video"], as_index=False)["score"].mean()
    videos = videos.assign(detector="baseline", test_set="smoke-a", seed=0, collapsed=False)
    result = measure(videos, "AUC", "detector").iloc[0]
    images = run.record.images_seen
    return {
        "precision": precision,
        "train_s": round(seconds, 2),
        "images_seen": images,
        "images_per_s": round(images / run.record.wall_s, 2),
        "videos": len(videos),
        "validation_auc": round(float(run.log["validation_auc"].iloc[-1]), 4),
        "auc": round(result["value"], 4),
        "low": round(result["low"], 4),
        "high": round(result["high"], 4),
    }


# ---------------------------------------------------------------- verdicts


def parity_holds(table: Table) -> bool:
    """Whether the networks compute what they should.

    All golden values were met, and no transcription differed from ours: step.check_equal raises
    AssertionError, which is the reason in a row.
    """
    for rows in table.rows.values():
        if any(row["outcome"].startswith("failed: AssertionError") for row in rows):
            return False
    return all(row.get("met", False) for row in table.rows.get("golden", []))


def left_out(table: Table, minutes: float) -> list[str]:
    """A line that names the rows without numbers since the time was up; none if there are none."""
    names = []
    for part, rows in table.rows.items():
        names += [f"{part}, {row['contender']}" for row in rows if row["outcome"] == OVER]
    if not names:
        return []
    allowed = f"({minutes:g} minutes for all)"
    return [f"missing, since their time was up {allowed}: {'; '.join(names)}"]


def verdicts(table: Table) -> list[str]:
    """A line per target: what was measured, and whether it is met."""
    return [*_golden(table), *_steps(table), *_loader(table), *_training(table)]


def _verdict(target: str, measured: str, met: bool) -> str:
    """The line of a target; ``measured`` is empty where there is no number."""
    if not measured:
        return f"{target}: not measured"
    return f"{target}: {measured}, {'met' if met else 'not met'}"


def _golden(table: Table) -> Iterator[str]:
    """A line per golden row: how far it is from the released code's values."""
    for row in table.rows.get("golden", []):
        measured = ""
        if "met" in row:
            difference = f"off by {row['difference']:.2g} in {row['largest_in']}"
            measured = f"{difference}, {row['limit']:g} allowed"
        target = f"golden parity, {row['paper']}, {row['contender']}"
        yield _verdict(target, measured, row.get("met", False))


def _steps(table: Table) -> Iterator[str]:
    """Locate and Verify against its transcription: in float32, then in the same precision."""
    rows = {row["contender"]: row for row in table.rows.get("steps-locate_and_verify", [])}
    if not rows:
        return
    targets = [("bf16", "times_as_fast", FASTER, "the transcription in float32")]
    for name in PRECISIONS:
        targets.append((name, "times_as_fast_same_precision", 1.0, f"the transcription in {name}"))
    for precision, column, least, reference in targets:
        row = rows.get(f"ours {precision}", {})
        ratio = row.get(f"{column}_median")
        measured = ""
        if ratio:
            measured = f"{ratio:.2f} ({row[f'{column}_q1']:.2f} to {row[f'{column}_q3']:.2f})"
        factor = f"at least {least:g} times" if least > 1 else "at least"
        target = f"Locate and Verify, ours in {precision} {factor} as fast as {reference}"
        yield _verdict(target, measured, bool(ratio) and ratio >= least)


def _loader(table: Table) -> Iterator[str]:
    """A line per training: the share of its time that it waits for data."""
    for row in table.rows.get("loader", []):
        if row["contender"] == "loader alone":
            continue
        share = row.get("waiting_share")
        target = f"{row['contender']}, waiting for data under {WAITS:.0%}"
        if share is None:
            yield _verdict(target, "", False)
        else:
            yield _verdict(target, f"{share:.1%}", share < WAITS)


def _training(table: Table) -> Iterator[str]:
    """A line per device: whether bf16 reaches the AUC of float32."""
    rows = {row["contender"]: row for row in table.rows.get("training", [])}
    for name, row in rows.items():
        if not name.endswith(" bf16"):
            continue
        target = f"{name}, AUC inside the interval of float32"
        other = rows[name.replace("bf16", "float32")]
        if "auc" in row and "auc" in other:
            low = other["low"]
            high = other["high"]
            measured = f"{row['auc']:.3f} in [{low:.3f}, {high:.3f}]"
            yield _verdict(target, measured, low <= row["auc"] <= high)
        else:
            yield _verdict(target, "", False)


# ---------------------------------------------------------------- the command


def jobs_of(
    parts: Sequence[str], names: Sequence[str], sizes: Sizes, device: str, backend: str
) -> list[Job]:
    """All jobs of the parts, with the steps of the papers ``names``, the most important first.

    Compiling takes longest and comes last, the small networks first.
    """
    eager = []
    compiled = []
    for paper in PAPERS:
        if paper in names:
            jobs = step_jobs(paper, sizes, device, backend)
            eager.append(jobs["eager"])
            compiled.insert(0, jobs["compiled"])  # PAPERS begins with the largest networks
    in_order = [
        *golden_jobs(sizes, device),
        *eager[:1],
        loader_job(sizes, device),
        training_job(sizes, device),
        *eager[1:],
        *compiled,
    ]
    return [job for job in in_order if job.part.partition("-")[0] in parts]


def conditions(commit: str | None) -> dict[str, Any]:
    """Where, with what and when: columns of every row."""
    measured_on = environment()
    return {
        "device_model": step.device_model(measured_on["device"]),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[1], 1),  # mean of the last five minutes
        "torch": measured_on["packages"]["torch"],
        "timm": measured_on["packages"]["timm"],
        "cuda": torch.version.cuda,
        "driver": driver(),
        "commit": commit or measured_on["commit"],
        "date": time.strftime("%Y-%m-%d"),
    }


def model_of(device: str) -> str:
    """The name of the GPU, or cpu."""
    return torch.cuda.get_device_name(0) if device == "cuda" else device


def driver() -> str | None:
    """The version of NVIDIA's driver, where the system reports it."""
    if not (torch.cuda.is_available() and shutil.which("nvidia-smi")):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = finished.stdout.split()  # one per GPU
    return lines[0] if lines else None


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
    sizes = TINY if tiny else FULL
    device_name = slug(model_of(device))
    if tiny:
        device_name += "-tiny"  # a file of its own: its numbers are no measurements
    table = Table(out, device_name, conditions(commit))
    gc.freeze()  # garbage collection between steps need not look at the imported modules
    jobs = jobs_of(part or PARTS, paper or PAPERS, sizes, device, backend)
    work(jobs, table, STARTED + 60 * minutes)
    typer.echo("\n".join(["", *verdicts(table), "", *left_out(table, minutes)]))
    written = [table.path(part_name).name for part_name in table.rows]
    typer.echo(f"written: {', '.join(written)} in {out}")
    if not parity_holds(table):
        raise AssertionError("golden parity failed: see the rows of golden, and those that failed")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (DfnbError, AssertionError) as error:
        sys.exit(f"gpu: {error}")
