"""A training step of a paper's network, beside a straightforward transcription of its computation.

    python benchmarks/step.py locate_and_verify --batch 4 --threads 2

*Ours* is the network of :mod:`dfnb.papers`; the *transcription* computes the same, line by line as
the paper describes it, without any care for speed. Each of them in one precision is a *contender*.
Both have the same weights, see the same batch and run in one process. Before anything is timed,
both must give the same logits and losses. Every round times each contender once, so that what else
the machine does meets all of them; the first rounds are thrown away. A step is forward, losses,
backward and zero_grad, without an optimiser.
"""

import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transcriptions import TRANSCRIPTIONS

from dfnb import papers
from dfnb.device import precision, reproducible
from dfnb.papers.contract import Batch, Settings
from facesets.checks import DfnbError
from facesets.files import atomic
from facesets.records import environment
from facesets.seeds import rng, torch_seed

OUT = Path("reports/benchmarks")
CHECKED_PX = 107  # side of the compared images: small, as float64 is slow; odd, to need all padding
QUARTILES = {"median": 0.5, "q1": 0.25, "q3": 0.75}


@dataclass
class Contender:
    """A network in the arithmetic and memory format in which its step is measured."""

    name: str  # such as "ours bfloat16"
    network: nn.Module
    precision: str  # as ``Settings.precision``
    memory_format: torch.memory_format
    deterministic: bool = False

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, losses, backward and zero_grad, as the training loop does them.

        Returns the losses by name.
        """
        images = batch["image"].contiguous(memory_format=self.memory_format)
        is_mixed = self.precision == "bf16-mixed"
        with precision(self.precision), reproducible(self.deterministic):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=is_mixed):
                outputs = self.network(images)
            in_float32 = {name: value.float() for name, value in outputs.items()}
            losses = self.network.losses(in_float32, batch)
            # LAE also trains an adversary. The two losses reach different weights, so one backward
            # pass through their sum gives both gradients.
            objective = losses["total"] + losses.get("adversary", 0)
            objective.backward()
        self.network.zero_grad()
        return losses

    def seconds(self, batch: Batch) -> float:
        """Wall time of one step, in seconds."""
        gc.collect()  # so that it does not happen during the step
        finish(batch["image"].is_cuda)
        start = time.perf_counter()
        self.step(batch)
        finish(batch["image"].is_cuda)
        return time.perf_counter() - start

    def peak_mib(self, batch: Batch) -> float:
        """Peak of tensor memory in a step, MiB: this contender's weights and all that it allocates.

        See :func:`peak_mib`.
        """
        held = [*self.network.parameters(), *self.network.buffers()]
        return peak_mib(lambda: self.step(batch), held, batch["image"].is_cuda)


def peak_mib(function: Callable[[], Any], held: Iterable[Tensor], on_gpu: bool) -> float:
    """Peak of tensor memory in a call, MiB: the tensors that are ``held``, and all it allocates.

    On both devices this is the allocator's own count, which the rest of the process does not touch:
    on CUDA its peak, on the CPU the running sum of what the profiler saw allocated and freed. (The
    resident memory of a process also includes what malloc keeps of earlier steps, and oneDNN's and
    Python's code.)
    """
    held_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    gc.collect()
    if on_gpu:
        finish(on_gpu)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        finish(on_gpu)
        call_bytes = torch.cuda.max_memory_allocated() - before
    else:
        call_bytes = _peak_bytes_on_cpu(function)
    return (held_bytes + call_bytes) / 2**20


def _peak_bytes_on_cpu(function: Callable[[], Any]) -> int:
    """The most memory that a call uses at once, by the profiler's list of allocations."""
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            function()
        # Only the exported trace has the allocations in their order.
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    allocations = [event["args"] for event in events if event.get("name") == "[memory]"]
    allocations.sort(key=lambda allocation: allocation["Ev Idx"])
    held = 0
    peak = 0
    for allocation in allocations:
        held += allocation["Bytes"]  # negative: freed
        peak = max(peak, held)
    return peak


def busy_seconds(function: Callable[[], Any], on_gpu: bool) -> float:
    """How long the device computes for a call, by the profiler: the sum of all kernels and copies.

    On the CPU it is the sum of all operators.
    """
    finish(on_gpu)
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        function()
        finish(on_gpu)
    microseconds = 0.0
    for event in profiler.key_averages():
        if not on_gpu:
            microseconds += event.self_cpu_time_total
        # Annotations, such as of an optimiser's step, span the kernels that are counted anyway.
        elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            microseconds += event.self_device_time_total
    return microseconds / 1e6


def finish(on_gpu: bool) -> None:
    """Wait until the GPU, if there is one, has done what it was given."""
    if on_gpu:
        torch.cuda.synchronize()


def networks(paper: str, settings: Settings) -> tuple[nn.Module, nn.Module]:
    """Ours, channels-last, and the transcription, in the default layout, with the same weights.

    Weights that start at zero (γ, biases) get other values, since a factor of zero would hide a
    difference in what it multiplies.

    Raises:
        AssertionError: The transcription's weights are not ours, but for the unused stage.
    """
    torch.manual_seed(torch_seed("benchmark"))
    ours = papers.module(paper).Network(settings)
    with torch.no_grad():
        for parameter in ours.parameters():
            if not parameter.any():
                parameter.uniform_(0.1, 0.5)
    transcription = TRANSCRIPTIONS[paper](settings)
    missing, unexpected = transcription.load_state_dict(ours.state_dict(), strict=False)
    # The last stage of the localising backbone, which nothing uses, is only in the transcription.
    missing = [name for name in missing if not name.startswith("rgb.6.")]
    if unexpected or missing:
        raise AssertionError(f"the weights differ: missing {missing}, unexpected {unexpected}")
    return ours.to(memory_format=torch.channels_last), transcription


def random_batch(size: int, count: int, device: str) -> Batch:
    """A batch of noise: every second image is fake, with a part of its left half forged.

    Args:
        size: Side of the images, in pixels.
        count: The number of images.
        device: Where the tensors lie.
    """
    random = rng("benchmark", size, count)
    label = torch.arange(count) % 2
    mask = torch.zeros(count, 1, size, size)
    for fake in label.nonzero()[:, 0]:
        forged_rows = int(random.integers(1, size))
        mask[fake, :, :forged_rows, : size // 2] = 1
    noise = random.standard_normal((count, 3, size, size))
    tensors = {
        "image": torch.tensor(noise, dtype=torch.float32),
        "label": label,
        "mask": mask,
        "has_mask": torch.ones(count, dtype=torch.bool),
        "landmarks": torch.full((count, 5, 2), torch.nan),
    }
    batch = {name: value.to(device) for name, value in tensors.items()}
    # What the training loop adds to a batch.
    return {**batch, "epoch": 0, "partner": None, "weight": 1.0}


def check_equal(ours: nn.Module, transcription: nn.Module, batch: Batch) -> None:
    """Check that both compute the same logits, losses and gradients.

    They are in training mode, but without dropout, because its random numbers would differ. They
    compute in float64: in float32, a batch norm over few images amplifies rounding errors, and two
    correct networks may differ by more than a correct and a wrong one.

    Raises:
        AssertionError: An output, a loss, or the gradient of the total loss by the images, differs
            by more than a thousandth of its largest value.
    """
    results = _results(ours, batch)
    for name, expected in _results(transcription, batch).items():
        difference = (results[name] - expected).abs().max()
        limit = 1e-3 * expected.abs().max()
        if not difference <= limit:  # NaN is not
            raise AssertionError(
                f"ours and the transcription differ in {name} by {difference:.2g}; "
                f"{limit:.2g} is allowed"
            )


def _results(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """A network's outputs, losses and the gradient of the total loss by the images, in float64."""
    network.double().train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    images = batch["image"].double().requires_grad_()
    outputs = network(images)
    losses = network.losses(outputs, batch)
    (gradient,) = torch.autograd.grad(losses["total"], images)
    results = {"gradient": gradient}
    for name, value in losses.items():
        results[f"loss {name}"] = value.detach()
    for name, value in outputs.items():
        results[f"output {name}"] = value.detach()
    network.float().train()
    return results


def measure(contenders: list[Contender], batch: Batch, rounds: int, warmup: int) -> pd.DataFrame:
    """Seconds per step, one row per round and one column per contender; they take turns.

    ``warmup`` more rounds go first and are left out.
    """
    table = []
    for _ in range(warmup + rounds):
        table.append({contender.name: contender.seconds(batch) for contender in contenders})
    return pd.DataFrame(table[warmup:])


def rows(
    contenders: list[Contender], seconds: pd.DataFrame, peaks: list[float], reference: str
) -> list[dict[str, Any]]:
    """A row per contender, whose columns ``benchmarks/README.md`` explains.

    ``reference`` is the contender with which the others are compared, if it has been measured.
    """
    peak_by_name = {contender.name: peak for contender, peak in zip(contenders, peaks)}
    table = []
    for contender in contenders:
        times = seconds[contender.name]
        row = {
            "contender": contender.name,
            "precision": contender.precision,
            "memory_format": str(contender.memory_format).removeprefix("torch."),
            "rounds": len(seconds),
        }
        values = {"step_s": times}
        if reference in seconds:
            values["times_as_fast"] = seconds[reference] / times
        for name, of_rounds in values.items():
            for label, share in QUARTILES.items():
                row[f"{name}_{label}"] = round(of_rounds.quantile(share), 4)
        peak = peak_by_name[contender.name]
        row["peak_memory_mib"] = round(peak, 1)
        if reference in seconds:
            row["peak_memory_share"] = round(peak / peak_by_name[reference], 4)
        table.append(row)
    return table


def device_model(device: str) -> str:
    """A device's name, such as cpu x86_64, on Linux with the processor's model before it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {device}" if device.startswith("cpu") and names else device


def conditions() -> dict[str, Any]:
    """Where and with what is measured: columns of every row."""
    measured_on = environment()
    return {
        "device_model": device_model(measured_on["device"]),
        "threads": torch.get_num_threads(),
        "torch": measured_on["packages"]["torch"],
        "timm": measured_on["packages"]["timm"],
        "commit": measured_on["commit"],
    }


def main(
    paper: Annotated[str, typer.Argument(help=f"one of {', '.join(TRANSCRIPTIONS)}")],
    batch: Annotated[int, typer.Option(min=2, help="images per step")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="rounds that count")] = 8,
    warmup: Annotated[int, typer.Option(min=0, help="rounds before them that do not")] = 2,
    size: Annotated[
        int | None, typer.Option(help="side of the images in pixels; default: the paper's")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="timm name; default: the paper's")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads on the CPU; default: one, as in a training")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = OUT,
) -> None:
    """Measure a training step of a paper's network beside a transcription of its description.

    Writes one row per contender to OUT/step-PAPER-BACKBONE-SIZEpx-batchN-DEVICE-Nthreads.csv. The
    times decide no exit code: it is 1 when the two do not compute the same.
    """
    if paper not in TRANSCRIPTIONS:
        raise typer.BadParameter(f"{paper!r} is none of {', '.join(TRANSCRIPTIONS)}")
    # torch warns of kl_div's "mean", see ExposingTheDeception._divergence.
    warnings.filterwarnings("ignore", message="reduction: 'mean'")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {"pretrained": False, "image_size": size, "backbone": backbone}
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = papers.module(paper).Settings.check(changes, "the options")
    ours, transcription = (network.to(device) for network in networks(paper, settings))
    torch.set_num_threads(threads or 1)
    images = random_batch(settings.image_size, batch, device)
    check_equal(ours, transcription, random_batch(min(settings.image_size, CHECKED_PX), 2, device))
    typer.echo("both compute the same logits, losses and gradients; now the times")
    contenders = [
        Contender("ours float32", ours, "32-true", torch.channels_last),
        Contender("ours bfloat16", ours, "bf16-mixed", torch.channels_last),
        Contender("transcription", transcription, "32-true", torch.contiguous_format),
    ]
    seconds = measure(contenders, images, rounds, warmup)
    peaks = [contender.peak_mib(images) for contender in contenders]
    condition = {
        "paper": paper,
        "backbone": settings.backbone,
        "size_px": settings.image_size,
        "batch": batch,
        "device": device,
        **conditions(),
    }
    measured = rows(contenders, seconds, peaks, "transcription")
    table = pd.DataFrame([condition | row for row in measured])
    threads_text = f"{torch.get_num_threads()}threads"
    size_and_place = f"{settings.image_size}px-batch{batch}-{device}-{threads_text}"
    name = f"step-{paper}-{settings.backbone}-{size_and_place}"
    with atomic(out / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    typer.echo(pd.DataFrame(measured).to_string(index=False))
    typer.echo(f"written: {name}.csv in {out}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (DfnbError, AssertionError) as error:
        sys.exit(f"step: {error}")
