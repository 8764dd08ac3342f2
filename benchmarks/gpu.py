"""What a GPU gives: parity with the released codes, training steps, the training loop, a training.

    python benchmarks/gpu.py    # about fifteen minutes, without network

It has four parts, each with CSV files of its own: ``golden`` compares networks with the outputs of
the released codes, ``steps`` measures training steps at full size, ``end-to-end`` the training loop
with its loader, and ``training`` trains the demo's baseline. Every row is written as soon as it is
measured; its ``contender`` says which network, or in which arithmetic.
"""

import gc
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args
from unittest import mock

import numpy as np
import pandas as pd
import step
import timm
import torch
import typer
from torch import Tensor, nn
from torchvision.transforms import v2

from dfnb import auc, device, papers
from dfnb.device import DEVICE
from dfnb.papers import lae
from dfnb.papers.contract import Settings
from dfnb.running.planning import plan
from dfnb.training import scoring, train
from dfnb.training.trainer import Trainer
from facesets import embedded, sources
from facesets.checks import DfnbError
from facesets.files import atomic
from facesets.frames import load_frames, select
from facesets.records import environment
from facesets.seeds import torch_seed

STARTED = time.monotonic()  # the minutes of the command count from here
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))
import goldens  # noqa: E402

PARTS = ("golden", "steps", "end-to-end", "training")
PAPERS = ("locate_and_verify", "exposing_the_deception", "xception", "lae")
# Embedded datasets; how many people they have, and how large their images are, is changed.
TRAIN_SET = "smoke-a"  # of the part "training"
LOOP_SET = "smoke-b"  # of the part "end-to-end"
# The largest difference that outputs and losses in float32 may have, as a share of the largest
# golden value.
PARITY = 1e-4
NO_MEMORY = "out of memory"
PRECISIONS = get_args(Settings.model_fields["precision"].annotation)
PROFILED = 3  # further steps of the loop, in torch's profiler


@dataclass(frozen=True)
class Sizes:
    """How large everything is that is measured."""

    changes: Mapping[str, Mapping[str, Any]]  # of each paper's published settings
    rounds: int  # in which each contender takes a step
    warmup: int  # rounds before these
    steps: int  # of the loop, after those in which its workers start
    workers: tuple[int, ...]  # processes that load for the loop, see loops()
    crop: int  # pixels of the loop's images
    people: Mapping[str, int]  # by split, or as many as there are
    epochs: int  # of the short training
    gradients: bool  # whether the golden ones are compared, in float64


FULL = Sizes(
    changes={paper: {} for paper in PAPERS},
    rounds=8,
    warmup=2,
    steps=30,
    workers=(1, 4, 8, 16),
    crop=300,  # as FaceForensics++ is prepared
    people={"train": 160, "val": 40, "test": 100},
    epochs=8,
    gradients=True,
)
_small = {"backbone": "dfnb_plain7", "image_size": 64, "batch_size": 2}
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
    steps=3,
    workers=(1, 0),  # each takes seconds to start
    crop=65,
    people={"train": 8, "val": 4, "test": 6},
    epochs=1,
    gradients=False,
)


@dataclass
class Job:
    """Rows of one part that are measured together; each row has its ``contender``."""

    part: str  # one of PARTS
    rows: Callable[[], Iterator[dict[str, Any]]]
    condition: dict[str, Any] = field(default_factory=dict)  # columns that all rows have

    @property
    def file(self) -> str:
        """The part in the name of the file; of the steps with the paper, as steps-lae."""
        return f"steps-{self.condition['paper']}" if self.part == "steps" else self.part


@dataclass
class Table:
    """The rows of all parts; the file of a part is written again with every row."""

    out: Path
    device: str  # as part of the files' names
    where: dict[str, Any]  # machine, versions, commit and date: the same in every row
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by file

    def add(self, job: Job, row: dict[str, Any]) -> None:
        """Keep a row, write the file of its part and print what was measured."""
        load = round(os.getloadavg()[0], 1)  # of the last minute
        row = {**job.condition, "outcome": "measured", **row, "load": load}
        self.rows.setdefault(job.file, []).append(row)
        # convert_dtypes keeps counts whole in columns that have gaps.
        table = pd.DataFrame([one | self.where for one in self.rows[job.file]]).convert_dtypes()
        path = self.out / f"gpu-{job.file}-{self.device}.csv"
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False)
        typer.echo(f"{path.name}: {row}")

    @property
    def failures(self) -> int:
        """The number of rows that failed or missed the golden values.

        Rows without numbers for lack of memory do not count.
        """
        count = 0
        for rows in self.rows.values():
            for row in rows:
                count += row["outcome"].startswith("failed") or not row.get("met", True)
        return count


def work(jobs_in_order: Sequence[Job], table: Table, deadline: float) -> None:
    """Do the jobs in their order; none begins after the deadline, a value of ``time.monotonic``."""
    for job in jobs_in_order:
        if time.monotonic() > deadline:
            typer.echo(f"{job.part} {job.condition}: not measured, its time was up")
            continue
        try:
            for row in job.rows():
                table.add(job, row)
        except Exception as error:  # it ends this job, but not those after it
            table.add(job, {"contender": "all others", "outcome": reason(error)})
        free()


def reason(error: Exception) -> str:
    """Why there are no numbers: the first line of an error, without the folders of this machine."""
    if isinstance(error, torch.OutOfMemoryError):
        return NO_MEMORY
    first_line = str(error).strip().partition("\n")[0]
    text = re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+", "", first_line)  # /a/b/c.py becomes c.py
    return f"failed: {type(error).__name__}: {text}"


def free() -> None:
    """Give memory back that a failed or finished measurement held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------- golden parity


def golden(kind: str, gradients: bool) -> Iterator[dict[str, Any]]:
    """A row each for outputs with losses, in float32, and for gradients, in float64.

    ``kind`` is ``lv``, Locate and Verify, or ``etd``, Exposing the Deception, as in the names of
    the golden files. A row has the largest difference from a golden value, and in what it is.
    """
    paper, network, batch = goldens.released(kind, 0)
    network = network.to(DEVICE, memory_format=torch.channels_last)
    for name, value in batch.items():
        if isinstance(value, Tensor):
            batch[name] = value.to(DEVICE)
    if gradients:  # first, because float32 rounds constants of the network
        goldens.run(network, batch)
        off = goldens.gradients_off(network, paper, f"{kind}_0")[["norm", "products"]]
        differences = off.max(axis=1).to_dict()
        yield {"contender": "float64 gradients", **judged(differences, goldens.GRADIENTS)}
    with torch.no_grad(), device.precision("32-true"):
        outputs, losses = goldens.run(network, batch, torch.float32, backward=False)
    expected = np.load(goldens.GOLDEN / f"{kind}_0.npz")
    pairs = goldens.pairs(kind, batch, outputs, losses, expected)
    differences = {quantity: goldens.off(*pair) for quantity, pair in pairs.items()}
    yield {"contender": "float32", **judged(differences, PARITY)}


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


def settings_of(paper: str, sizes: Sizes) -> Settings:
    """The published settings of a paper in the given size.

    Without pretrained weights, which would be downloaded, and on which no time depends.
    """
    return papers.module(paper).Settings.check({**sizes.changes[paper], "pretrained": False}, paper)


def networks(paper: str, settings: Settings) -> dict[str, nn.Module]:
    """``ours`` and, where there is one, the ``transcription``, ready for training.

    It is checked first that both compute the same.
    """
    if paper in step.TRANSCRIPTIONS:
        ours, transcription = (network.to(DEVICE) for network in step.networks(paper, settings))
        side = min(settings.image_size, step.CHECKED_PX)
        step.check_equal(ours, transcription, step.random_batch(side, 2, DEVICE))
        return {"ours": ours, "transcription": transcription}
    torch.manual_seed(torch_seed("benchmark"))
    network = papers.module(paper).Network(settings)
    return {"ours": network.to(DEVICE, memory_format=torch.channels_last).train()}


def untrained_comparator(name: str, device: torch.device) -> nn.Module:
    """LAE's comparator with random weights: the same arithmetic without a download."""
    features = timm.create_model(name, pretrained=False, features_only=True)
    normalise = v2.Normalize(features.pretrained_cfg["mean"], features.pretrained_cfg["std"])
    return nn.Sequential(normalise, features).eval().requires_grad_(False).to(device)


def steps(paper: str, settings: Settings, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """A row for each network in each precision; those that fit in memory take turns.

    Ours also with deterministic algorithms, as a training has them.
    """
    running = []
    peaks = []
    busy_s = {}
    # LAE's own comparator would be downloaded; it is cached, because every step needs it.
    with mock.patch.object(lae, "comparator", cache(untrained_comparator)):
        batch = step.random_batch(settings.image_size, settings.batch_size, DEVICE)
        for contender in contenders(networks(paper, settings)):
            take_step = partial(contender.step, batch)
            try:
                take_step()  # chooses kernels
                peaks.append(contender.peak_mib(batch))
                busy_s[contender.name] = step.busy_seconds(take_step, DEVICE == "cuda")
                running.append(contender)
            except torch.OutOfMemoryError:
                yield {"contender": contender.name, "outcome": NO_MEMORY}
            free()
        seconds = step.measure(running, batch, sizes.rounds, sizes.warmup)
    for row in step.rows(running, seconds, peaks, "transcription 32-true"):
        yield {**row, "busy": round(busy_s[row["contender"]] / row["step_s_median"], 3)}


def contenders(by_name: Mapping[str, nn.Module]) -> Iterator[step.Contender]:
    """Each network, ``ours`` or ``transcription``, in each precision."""
    for name, network in by_name.items():
        layout = torch.channels_last if name == "ours" else torch.contiguous_format
        for precision in PRECISIONS:
            title = f"{name} {precision}"
            yield step.Contender(title, network, precision, layout)
            if name == "ours":
                title += " deterministic"
                yield step.Contender(title, network, precision, layout, deterministic=True)


# ---------------------------------------------------------------- the training loop


class Loop(NamedTuple):
    """How a training runs."""

    precision: str  # as ``Settings.precision``
    deterministic: bool
    workers: int  # processes that load batches


def loops(sizes: Sizes) -> list[Loop]:
    """The loops to measure, each once.

    First that of the profile ``paper`` with the most workers; then the most workers in each
    precision, deterministic and not; then that of the profile with fewer workers.
    """
    *fewer, most = sizes.workers
    as_in_profile = Loop("tf32", True, most)
    in_precisions = []
    for precision in PRECISIONS:
        in_precisions += [Loop(precision, True, most), Loop(precision, False, most)]
    with_fewer = [as_in_profile._replace(workers=count) for count in fewer]
    return list(dict.fromkeys([as_in_profile, *in_precisions, *with_fewer]))


def end_to_end(paper: str, settings: Settings, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """A row for each of the :func:`loops` of the phase of a paper that has these settings."""
    people = {"train": sizes.people["train"], "val": 4}
    embedded.build(LOOP_SET, sources.preset(LOOP_SET, identities=people, size=sizes.crop))
    with mock.patch.object(lae, "comparator", cache(untrained_comparator)):
        for loop in loops(sizes):
            about = {"deterministic": loop.deterministic, "workers": loop.workers}
            row = {"contender": loop.precision, **about}
            try:
                with (
                    device.fixed_threads(),
                    device.precision(loop.precision),
                    device.reproducible(loop.deterministic),
                ):
                    columns = in_loop(paper, settings, loop, sizes.steps)
                yield {**row, **columns}
            except torch.OutOfMemoryError:
                yield {**row, "outcome": NO_MEMORY}
            free()


def in_loop(paper: str, settings: Settings, loop: Loop, count: int) -> dict[str, Any]:
    """Columns of a row: speed, wait, use of the device and memory of ``count`` steps of a training.

    The batches before them, while workers start and fill their queues, are not counted.
    """
    warmup = 2 * loop.workers + 4
    trainer = trainer_of(paper, settings, loop, warmup + count + PROFILED + 1)
    on_gpu = DEVICE == "cuda"
    batches = iter(trainer.loader)
    trainer.network.train()
    wait_s = []
    for number in range(warmup + count):
        if number == warmup:
            step.finish(on_gpu)
            started = time.perf_counter()
        wait_began = time.perf_counter()
        batch = next(batches)
        wait_s.append(time.perf_counter() - wait_began)
        trainer.train_step(batch)
    step.finish(on_gpu)
    seconds = time.perf_counter() - started

    def take_steps() -> None:
        for _ in range(PROFILED):
            trainer.train_step(batch)

    busy_s = step.busy_seconds(take_steps, on_gpu) / PROFILED
    held = [*trainer.network.parameters(), *trainer.network.buffers()]
    for optimiser in trainer.optimisers:
        for state in optimiser.state.values():
            held += [value for value in state.values() if isinstance(value, Tensor)]
    return {
        "images_per_s": round(settings.batch_size * count / seconds, 2),
        "step_s": round(seconds / count, 4),
        "waiting_share": round(sum(wait_s[warmup:]) / seconds, 4),
        "busy": round(busy_s * count / seconds, 3),
        "peak_memory_mib": round(step.peak_mib(lambda: trainer.train_step(batch), held, on_gpu), 1),
    }


def trainer_of(paper: str, settings: Settings, loop: Loop, steps: int) -> Trainer:
    """A training of at least so many steps: the frames of the dataset are repeated.

    It starts from random weights, also LAE's second phase: those of the first take the same time.
    """
    changes = {"precision": loop.precision, "deterministic": loop.deterministic}
    settings = settings.model_copy(update={**changes, "schedule": "constant"})
    training = train.make_training(paper, LOOP_SET, settings)
    splits = train.visible_splits(training, None)
    times = math.ceil(steps * settings.batch_size / len(splits["train"]))
    splits["train"] = pd.concat([splits["train"]] * times, ignore_index=True)
    with mock.patch.object(device, "workers", lambda: loop.workers):
        return Trainer(Path("loop"), training, splits, None)


# ---------------------------------------------------------------- a training


def trainings(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """A row per precision: the demo's baseline, shortly trained on portraits."""
    embedded.build(TRAIN_SET, sources.preset(TRAIN_SET, identities=dict(sizes.people), size=96))
    for precision in PRECISIONS:
        yield {"contender": precision, **trained(precision, sizes.epochs)}


def trained(precision: str, epochs: int) -> dict[str, Any]:
    """Columns of a row: seconds and speed of a training, AUC of test videos with its interval."""
    settings = plan("demo").trainings[0].parameters.settings()
    settings = settings.model_copy(update={"epochs": epochs, "precision": precision})
    started = time.monotonic()
    run = train.train(train.make_training("xception", TRAIN_SET, settings))
    seconds = time.monotonic() - started
    frames = select(load_frames(TRAIN_SET), "test")
    network = run.network().to(DEVICE)
    result = auc(scoring.predict_frames(network, frames, settings))
    return {
        "train_s": round(seconds, 2),
        "images_per_s": round(run.record.images_seen / run.record.wall_s, 2),
        "auc": round(float(result["value"]), 4),
        "low": round(float(result["low"]), 4),
        "high": round(float(result["high"]), 4),
    }


# ---------------------------------------------------------------- the command


def all_jobs(names: Sequence[str], sizes: Sizes) -> list[Job]:
    """All jobs in the order in which they run; steps and loops are of the papers ``names``."""
    in_order = []
    for kind, paper in {"lv": "locate_and_verify", "etd": "exposing_the_deception"}.items():
        rows = partial(golden, kind, sizes.gradients)
        in_order.append(Job("golden", rows, {"paper": paper}))
    loops_of_papers = []
    for paper in names:
        settings = settings_of(paper, sizes)
        condition = {
            "paper": paper,
            "backbone": settings.backbone,
            "batch": settings.batch_size,
            "size_px": settings.image_size,
        }
        rows = partial(steps, paper, settings, sizes)
        in_order.append(Job("steps", rows, condition))
        phase = "last"
        while settings is not None:
            rows = partial(end_to_end, paper, settings, sizes)
            loops_of_papers.append(Job("end-to-end", rows, {**condition, "phase": phase}))
            settings = settings.before()  # of the phase that is trained first; None without one
            phase = "before"
    return [
        *in_order,
        *loops_of_papers,
        Job("training", partial(trainings, sizes), {"epochs": sizes.epochs}),
    ]


def main(
    minutes: Annotated[float, typer.Option(min=0, help="after which nothing more begins")] = 15.0,
    part: Annotated[
        list[str] | None, typer.Option(help=f"of {', '.join(PARTS)}; several times; default: all")
    ] = None,
    paper: Annotated[
        list[str] | None, typer.Option(help=f"only these, of {', '.join(PAPERS)}; default: all")
    ] = None,
    tiny: Annotated[
        bool, typer.Option(help="small networks and data, also on the CPU: proves that it runs")
    ] = False,
    commit: Annotated[
        str | None, typer.Option(help="the commit, where the checkout is a copy without git")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = step.OUT,
) -> None:
    """Measure what a GPU gives, and write OUT/gpu-PART-DEVICE.csv.

    Speed decides no exit code: it is 1 when something fails or misses the golden values.
    """
    for chosen, known in ((part, PARTS), (paper, PAPERS)):
        if unknown := ", ".join(sorted(set(chosen or ()) - set(known))):
            raise typer.BadParameter(f"{unknown} is none of {', '.join(known)}")
    if DEVICE == "cpu" and not tiny:
        raise DfnbError("there is no GPU here; --tiny runs the same on the CPU")
    # torch warns of kl_div's "mean", which also divides by the two classes. The released code of
    # Exposing the Deception does so, too.
    warnings.filterwarnings("ignore", message="reduction: 'mean'")
    torch.set_num_threads(1)  # as every network of ours does
    gc.freeze()  # collections between steps need not look at the imported modules
    model = torch.cuda.get_device_name(0) if DEVICE == "cuda" else DEVICE
    where = {**step.conditions(), "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d")}
    where["commit"] = commit or environment()["commit"]
    name = re.sub(r"[^a-z0-9.]+", "-", model.lower()).strip("-")
    table = Table(out, name + tiny * "-tiny", where)
    chosen_jobs = []
    for job in all_jobs(paper or PAPERS, TINY if tiny else FULL):
        if job.part in (part or PARTS):
            chosen_jobs.append(job)
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, DFNB_HOME=home):
        work(chosen_jobs, table, STARTED + 60 * minutes)
    if table.failures:
        raise AssertionError(f"rows that failed or missed the golden values: {table.failures}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (DfnbError, AssertionError) as error:
        sys.exit(f"gpu: {error}")
