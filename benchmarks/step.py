"""One training step of a paper's network, side by side with a straightforward transcription of its
computation.

Both hold the same weights, see the same batch and run in one process. Before anything is timed,
both must give the same logits and losses. Every round times each contender once, so that what else
the machine does meets all of them; the first rounds are thrown away. A step is forward, losses,
backward and zero_grad, without an optimiser.
"""

import gc
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import timm
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dfnb import papers
from dfnb.files import atomic
from dfnb.papers import backbones
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify as lv
from dfnb.papers.contract import Batch, Settings
from dfnb.records import environment
from dfnb.seeds import rng, torch_seed
from dfnb.settings import DfnbError

# Dense peaks in TFLOP/s from the makers' data sheets: float32 without tensor cores, TF32, bf16. The
# first name that fits counts; a name with MIG is a slice of a device and has no known peak.
PEAKS = {
    r"H100 NVL": (60.0, 417.5, 835.0),
    r"H100 PCIe": (51.0, 378.0, 756.0),
    r"GH200|H200|H100": (67.0, 494.5, 989.0),
    r"A100": (19.5, 156.0, 312.0),
    r"L40S": (91.6, 183.0, 362.0),
    r"L4\b": (30.3, 60.0, 121.0),
    r"A10\b": (31.2, 62.5, 125.0),
    r"RTX 4090": (82.6, 82.6, 165.2),
    r"RTX 3090": (35.6, 35.6, 71.0),
}


def convolution_backward_flops(
    gradient: list[int], images: list[int], weight: list[int], *rest: Any, **_: Any
) -> int:
    """Operations of a convolution's backward pass: each gradient costs what the forward pass does.

    torch's own formula ignores groups, and counts an Xception, most of whose convolutions are
    depthwise, 3.5 times.
    """
    wanted = rest[-1]  # which gradients, of images, weight and bias
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * (bool(wanted[0]) + bool(wanted[1]))


class Attention(nn.Module):
    """LFGA: V of the second map, gathered by softmax(QᵀK) of the first."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query, key, value = (
            self.query(x).flatten(2),
            self.key(x).flatten(2),
            self.value(y).flatten(2),
        )
        attention = torch.bmm(query.transpose(1, 2), key).softmax(-1)
        return F.relu(self.gamma * torch.bmm(value, attention.transpose(1, 2)).view_as(y) + y)


class LocateAndVerify(nn.Module):
    """Locate and Verify as its description reads; see :mod:`dfnb.papers.locate_and_verify` for the
    paper and names.

    Two whole backbones with the last stage of the localising one computed for nothing, the cosine
    and the attention written out, and MPFF with x5 tiled to the size of every map.
    """

    def __init__(self, settings: lv.Settings) -> None:
        super().__init__()
        self.rgb, channels, strides = backbones.stages(settings.backbone, pretrained=False)
        self.srm, _, _ = backbones.stages(settings.backbone, pretrained=False)
        self.register_buffer("kernel", lv.SRM.repeat(1, 3, 1, 1), persistent=False)
        self.lfga = nn.ModuleList(Attention(c, settings.attention_reduction) for c in channels[3:6])
        width, hidden, out = settings.mpff_width, settings.fusion_width, settings.fusion_out
        projections = [
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for c in channels[:6]
        ]
        self.mpff = nn.ModuleDict({"project": nn.ModuleList(projections)})
        self.windows = [strides[5] // stride for stride in strides[:5]]
        patch = channels[5] + sum(k * k for k in self.windows)
        self.seg_head = nn.Sequential(
            nn.BatchNorm2d(patch), nn.ReLU(), nn.Conv2d(patch, 2, 1, bias=False)
        )
        finer = sum(channels[i] for i in (0, 1, 2, 3, 5))
        self.fusion = nn.ModuleDict(
            {
                "a": nn.Linear(finer, hidden),
                "b": nn.Linear(channels[6], hidden),
                "out": nn.Linear(hidden, out),
            }
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.cls_norm = nn.BatchNorm1d(out)
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(out, 2))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to the logits ``cls`` (B, 2) and ``seg`` (B, 2, g, g)."""
        x, y = images, F.conv2d(images, self.kernel, padding=2).clamp(-3, 3)
        xs, ys = [], []
        for i in range(7):
            if i == 3:
                x = y = x + y
            x, y = self.rgb[i](x), self.srm[i](y)
            if i < 3:
                s = F.cosine_similarity(x, y, dim=1).unsqueeze(1)
                x = x + s * y
                y = y + s * x
                x, y = F.relu(x), F.relu(y)
            elif i < 6:
                y = self.lfga[i - 3](x, y)
            xs.append(x)
            ys.append(y)
        grid = ys[6].shape[-2:]
        finer = []
        for y in (*ys[:4], ys[5]):
            kernel = [-(-size // n) for size, n in zip(y.shape[2:], grid)]
            finer.append(
                F.max_pool2d(self._padded(y, kernel[0] * grid[0], kernel[1] * grid[1]), kernel)
            )
        a = torch.cat(finer, 1).flatten(2).transpose(1, 2)
        b = ys[6].flatten(2).transpose(1, 2)
        fused = self.fusion["out"](
            self.dropout(torch.tanh(self.fusion["a"](a) * self.fusion["b"](b)))
        )
        cls = self.cls_head(F.relu(self.cls_norm(fused.transpose(1, 2))).mean(2))
        return {"cls": cls, "seg": self.seg_head(self._patches(xs))}

    def _patches(self, maps: list[Tensor]) -> Tensor:
        height, width = maps[5].shape[-2:]
        patch = self.mpff["project"][5](maps[5])
        fused = []
        for x, project, k in zip(maps[:5], self.mpff["project"], self.windows):
            x = self._padded(project(x), height * k, width * k)
            tiled = F.interpolate(patch, size=x.shape[-2:], mode="nearest")
            fused.append(F.pixel_unshuffle(torch.tanh(x * tiled).sum(1, keepdim=True), k))
        return torch.cat([*fused, maps[5]], 1)

    @staticmethod
    def _padded(x: Tensor, height: int, width: int) -> Tensor:
        down, right = height - x.shape[2], width - x.shape[3]
        return F.pad(
            x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate"
        )

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropies of images and patches, and their sum."""
        height, width = outputs["seg"].shape[-2:]
        kernel = (batch["mask"].shape[2] // height, batch["mask"].shape[3] // width)
        patches = (F.max_pool2d(batch["mask"], kernel)[:, 0, :height, :width] > 0).long()
        cls, seg = (
            F.cross_entropy(outputs["cls"], batch["label"]),
            F.cross_entropy(outputs["seg"], patches),
        )
        return {"cls": cls, "seg": seg, "total": cls + seg}


class ExposingTheDeception(nn.Module):
    """Exposing the Deception as its description reads; see
    :mod:`dfnb.papers.exposing_the_deception` for the names.
    """

    def __init__(self, settings: etd.Settings) -> None:
        super().__init__()
        n, (first, second, third), p = settings.branches, settings.fusion_widths, settings.dropout
        self.branches = nn.ModuleList(
            timm.create_model(settings.backbone, num_classes=0) for _ in range(n)
        )
        width = self.branches[0].num_features
        self.joint_head = nn.Linear(n * width, 2)
        self.left_out_heads = nn.ModuleList(nn.Linear((n - 1) * width, 2) for _ in range(n))
        self.fusion = nn.Sequential(
            *(nn.Linear(n * width, first), nn.BatchNorm1d(first), nn.ReLU(), nn.Dropout(p)),
            *(nn.Linear(first, second), nn.BatchNorm1d(second), nn.ReLU(), nn.Dropout(p)),
            nn.Linear(second, third),
        )
        self.cls_head = nn.Sequential(nn.Dropout(p), nn.Linear(third, 2))
        self.balance = nn.Parameter(torch.ones(3))
        self.temperature = settings.temperature
        for name in ("mean", "std"):
            self.register_buffer(
                name, torch.tensor(getattr(settings, name)).view(3, 1, 1), persistent=False
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), red first, to the logits ``cls`` and ``joint`` (B, 2) and
        ``left_out`` (n, B, 2).
        """
        swapped = (images * self.std + self.mean)[
            :, [2, 1, 0]
        ]  # blue first, but normalised as if red were
        images = (swapped - self.mean) / self.std
        local = []
        for branch in self.branches:
            local.append(branch(images))
        left_out = []
        for i, head in enumerate(self.left_out_heads):
            left_out.append(head(torch.cat([f for j, f in enumerate(local) if j != i], 1)))
        joint = self.joint_head(torch.cat(local, 1))
        cls = self.cls_head(self.fusion(torch.cat(local, 1)))
        return {"cls": cls, "joint": joint, "left_out": torch.stack(left_out)}

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Cross-entropies of all heads, GIL and LIL, and their total with learned weights."""
        label = batch["label"]
        teacher = F.softmax(outputs["joint"] / self.temperature, dim=1).detach()
        ce = F.cross_entropy(outputs["cls"], label) + F.cross_entropy(outputs["joint"], label)
        gil, difference = self._divergence(outputs["cls"], teacher), 0.0
        for logits in outputs["left_out"]:
            ce = ce + F.cross_entropy(logits, label)
            difference = difference + self._divergence(logits, teacher)
        terms = {"ce": ce, "gil": gil, "lil": torch.exp(-difference)}
        total = sum(
            term / (2 * s**2) + torch.log(1 + s**2) for s, term in zip(self.balance, terms.values())
        )
        return terms | {"total": total}

    def _divergence(self, logits: Tensor, teacher: Tensor) -> Tensor:
        return F.kl_div(
            teacher.log(), F.softmax(logits / self.temperature, dim=1), reduction="mean"
        )


TRANSCRIPTIONS = {
    "locate_and_verify": LocateAndVerify,
    "exposing_the_deception": ExposingTheDeception,
}
# How many times as fast as the transcription ours should be, by the precision of ours, and its
# share of the memory
REQUIRED = {
    "locate_and_verify": {"float32": 1.8, "bfloat16": 3.0, "memory": 0.8},
    "exposing_the_deception": {"float32": 1.0, "bfloat16": 2.0, "memory": 1.0},
}


CHECKED_PX = 107  # float64 is slow; odd, so that every padding is met
QUARTILES = {"median": 0.5, "q1": 0.25, "q3": 0.75}


@dataclass
class Contender:
    """A network in the condition in which its step is measured."""

    name: str
    network: nn.Module
    precision: torch.dtype
    memory_format: torch.memory_format

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, losses, backward and zero_grad, as the training loop does them; returns the
        losses.
        """
        images = batch["image"].contiguous(memory_format=self.memory_format)
        with torch.autocast(
            images.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16
        ):
            outputs = self.network(images)
        losses = self.network.losses(
            {name: value.float() for name, value in outputs.items()}, batch
        )
        (
            losses["total"] + losses.get("adversary", 0)
        ).backward()  # LAE's second optimiser has its own gradients
        self.network.zero_grad()
        return losses

    def seconds(self, batch: Batch) -> float:
        """Wall time of one step."""
        gc.collect()
        _finish(batch)
        start = time.perf_counter()
        self.step(batch)
        _finish(batch)
        return time.perf_counter() - start

    def peak_mib(self, batch: Batch) -> float:
        """Peak of tensor memory in a step, MiB: the weights of this contender and all that the step
        allocates.

        On both devices the allocator's own count, which the rest of the process does not touch: on
        CUDA its peak, on the CPU the running sum of what the profiler saw allocated and freed. (The
        resident memory of a process also holds what malloc keeps of earlier steps, and oneDNN's and
        Python's code.)
        """
        own = sum(
            t.numel() * t.element_size()
            for t in [*self.network.parameters(), *self.network.buffers()]
        )
        gc.collect()
        if batch["image"].is_cuda:
            _finish(batch)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step(batch)
            _finish(batch)
            return (own + torch.cuda.max_memory_allocated() - before) / 2**20
        with tempfile.TemporaryDirectory() as folder:
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                self.step(batch)
            trace = Path(folder) / "trace.json"
            seen.export_chrome_trace(str(trace))
            events = [
                event
                for event in json.loads(trace.read_text())["traceEvents"]
                if event.get("name") == "[memory]"
            ]
        held = peak = 0
        for event in sorted(events, key=lambda event: event["args"]["Ev Idx"]):
            held += event["args"]["Bytes"]
            peak = max(peak, held)
        return (own + peak) / 2**20


def _finish(batch: Batch) -> None:
    if batch["image"].is_cuda:
        torch.cuda.synchronize()


def networks(paper: str, settings: Settings) -> tuple[nn.Module, nn.Module]:
    """Ours, channels-last, and the transcription, in the default layout, with the same weights.

    Weights that start at zero (γ, biases) are moved from it, since they would hide a difference
    behind them.
    """
    torch.manual_seed(torch_seed("benchmark"))
    ours = papers.module(paper).Network(settings)
    with torch.no_grad():
        for parameter in ours.parameters():
            if not parameter.any():
                parameter.uniform_(0.1, 0.5)
    transcription = TRANSCRIPTIONS[paper](settings)
    missing, unexpected = transcription.load_state_dict(ours.state_dict(), strict=False)
    if unexpected or not all(
        name.startswith("rgb.6.") for name in missing
    ):  # only the stage that nothing uses
        raise AssertionError(f"the weights differ: missing {missing}, unexpected {unexpected}")
    return ours.to(memory_format=torch.channels_last), transcription


def random_batch(size: int, count: int, device: str) -> Batch:
    """Noise, every second image fake with the left half of a random height forged."""
    random = rng("benchmark", size, count)
    label = torch.arange(count) % 2
    mask = torch.zeros(count, 1, size, size)
    for place in label.nonzero()[:, 0]:
        mask[place, :, : int(random.integers(1, size)), : size // 2] = 1
    batch = {
        "image": torch.tensor(random.standard_normal((count, 3, size, size)), dtype=torch.float32)
    }
    batch |= {"label": label, "mask": mask, "has_mask": torch.ones(count, dtype=torch.bool)}
    batch |= {"landmarks": torch.full((count, 5, 2), torch.nan)}
    return {name: value.to(device) for name, value in batch.items()} | {
        "epoch": 0,
        "partner": None,
        "weight": 1.0,
    }


def check_equal(ours: nn.Module, transcription: nn.Module, batch: Batch) -> None:
    """Both compute the same logits, losses and gradients, in training mode but without dropout.

    In float64, where the order of a sum decides nothing: in float32 a batch norm over few images
    makes two correct networks differ more than two different ones.

    Raises: AssertionError: an output, a loss, or the gradient of the total loss by the images,
        differs by more than a thousandth of its largest value.
    """
    found = []
    for network in (ours, transcription):
        for module in network.double().train().modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        images = batch["image"].double().requires_grad_()
        outputs = network(images)
        losses = network.losses(outputs, batch)
        (gradient,) = torch.autograd.grad(losses["total"], images)
        found.append(
            {
                **{f"loss {name}": value.detach() for name, value in losses.items()},
                "gradient": gradient,
            }
        )
        found[-1] |= {f"output {name}": value.detach() for name, value in outputs.items()}
        network.float().train()
    for name, theirs in found[1].items():
        off, limit = (found[0][name] - theirs).abs().max(), 1e-3 * theirs.abs().max()
        if not off <= limit:
            raise AssertionError(
                f"ours and the transcription differ in {name} by {off:.2g}; {limit:.2g} is allowed"
            )


def measure(
    contenders: list[Contender], batch: Batch, rounds: int, warmup: int, echo: Callable
) -> pd.DataFrame:
    """Seconds a step: one row a round, one column a contender, which take turns; ``warmup``
    rounds go first unseen.
    """
    rows = []
    for place in range(warmup + rounds):
        rows.append({contender.name: contender.seconds(batch) for contender in contenders})
        times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in rows[-1].items())
        echo(
            f"{'warm-up' if place < warmup else f'round {place - warmup + 1} of {rounds}'}: {times}"
        )
    return pd.DataFrame(rows[warmup:])


def rows(
    contenders: list[Contender], seconds: pd.DataFrame, peaks: list[float], **condition: Any
) -> pd.DataFrame:
    """One row a contender: its condition, median and quartiles of its times and of its rounds'
    ratios, its memory.
    """
    table = []
    for contender, peak in zip(contenders, peaks):
        times, ratios = seconds[contender.name], seconds["transcription"] / seconds[contender.name]
        row = condition | {
            "contender": contender.name,
            "precision": str(contender.precision).removeprefix("torch."),
            "memory_format": str(contender.memory_format).removeprefix("torch."),
            "rounds": len(seconds),
        }
        for name, values in (("step_s", times), ("times_as_fast", ratios)):
            row |= {
                f"{name}_{label}": round(values.quantile(q), 4) for label, q in QUARTILES.items()
            }
        table.append(
            row
            | {"peak_memory_mib": round(peak, 1), "peak_memory_share": round(peak / peaks[-1], 4)}
        )
    return pd.DataFrame(table)


def verdicts(paper: str, table: pd.DataFrame) -> list[str]:
    """Each requirement, what was measured and whether it is met."""
    lines = []
    for row in table[:-1].itertuples():
        speed, memory = REQUIRED[paper][row.precision], REQUIRED[paper]["memory"]
        quartiles = f"{row.times_as_fast_q1:.2f} to {row.times_as_fast_q3:.2f}"
        spread = f"{row.times_as_fast_median:.2f} ({quartiles})"
        for requirement, met in (
            (f"at least {speed} times as fast: {spread}", row.times_as_fast_median >= speed),
            (
                f"at most {memory} of the peak memory: {row.peak_memory_share:.3f}",
                row.peak_memory_share <= memory,
            ),
        ):
            lines.append(f"{row.contender}, {requirement}: {'met' if met else 'not met'}")
    return lines


def device_model(device: str) -> str:
    """The processor's model beside the architecture, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {device}" if device.startswith("cpu") and names else device


def main(
    paper: Annotated[str, typer.Argument(help=f"one of {', '.join(TRANSCRIPTIONS)}")],
    batch: Annotated[int, typer.Option(min=2, help="images a step")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="rounds that count")] = 8,
    warmup: Annotated[int, typer.Option(min=0, help="rounds before them that do not")] = 2,
    size: Annotated[
        int | None, typer.Option(help="side of the images in pixels; default: the paper's")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="timm name; default: the paper's")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="threads on the CPU; default: one, as in a training")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the row files")] = Path("reports/benchmarks"),
) -> None:
    """Measure a training step of a paper's network against a transcription of its description, side
    by side.

    Writes one row a contender to OUT/step-PAPER-BACKBONE-SIZEpx-batchN-DEVICE-Nthreads.csv. The
    times decide no exit code: it is 1 when the two do not compute the same.
    """
    if paper not in TRANSCRIPTIONS:
        raise typer.BadParameter(f"{paper!r} is none of {', '.join(TRANSCRIPTIONS)}")
    warnings.filterwarnings(
        "ignore", message="reduction: 'mean'"
    )  # half of the divergence is what is described
    torch.backends.cudnn.allow_tf32 = False  # float32 shall be float32 for both
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
        Contender("ours float32", ours, torch.float32, torch.channels_last),
        Contender("ours bfloat16", ours, torch.bfloat16, torch.channels_last),
        Contender("transcription", transcription, torch.float32, torch.contiguous_format),
    ]
    seconds = measure(contenders, images, rounds, warmup, typer.echo)
    facts = environment()
    condition = {
        "paper": paper,
        "backbone": settings.backbone,
        "size_px": settings.image_size,
        "batch": batch,
    }
    condition |= {
        "device": device,
        "device_model": device_model(facts["device"]),
        "threads": facts["threads"],
    }
    condition |= {
        "torch": facts["packages"]["torch"],
        "timm": facts["packages"]["timm"],
        "commit": facts["commit"],
    }
    table = rows(
        contenders, seconds, [contender.peak_mib(images) for contender in contenders], **condition
    )
    size_and_place = f"{settings.image_size}px-batch{batch}-{device}-{facts['threads']}threads"
    name = f"step-{paper}-{settings.backbone}-{size_and_place}"
    with atomic(out / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    shown = [column for column in table if column not in condition]
    typer.echo(
        table[shown].rename(columns=lambda column: column.replace("_", " ")).to_string(index=False)
    )
    typer.echo("\n".join(["", *verdicts(paper, table), "", f"written: {name}.csv in {out}"]))


if __name__ == "__main__":
    try:
        typer.run(main)
    except (DfnbError, AssertionError) as error:
        sys.exit(f"step: {error}")
