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

    Args:
        gradient: Shape of the gradient by the convolution's output, (B, out, h, w).
        images: Shape of its input.
        weight: Shape of its weight, (out, in / groups, kernel height, kernel width).
        rest: Other arguments of ``aten.convolution_backward``; the last says which gradients are
            computed: by input, weight and bias.
    """
    by_images, by_weight, _ = rest[-1]
    # A value of the output takes one multiplication and one addition per weight of its filter.
    forward = 2 * math.prod(gradient) * math.prod(weight[1:])
    return forward * (bool(by_images) + bool(by_weight))


class Attention(nn.Module):
    """LFGA, the attention of Locate and Verify: one map says where another one's values come from.

    Its weights are named as ours, from which they are loaded.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """ReLU(γ V A + y), V of y and A = softmax(QᵀK) of x; both are (B, C, h, w)."""
        query = self.query(x).flatten(2)  # (B, c, hw), like the key
        key = self.key(x).flatten(2)
        value = self.value(y).flatten(2)  # (B, C, hw)
        attention = torch.bmm(query.transpose(1, 2), key).softmax(-1)  # (B, hw, hw)
        gathered = torch.bmm(value, attention.transpose(1, 2)).view_as(y)
        return F.relu(self.gamma * gathered + y)


class LocateAndVerify(nn.Module):
    """Locate and Verify as its description reads.

    It saves nothing: it has two whole backbones, though nothing uses the last stage of the
    localising one, writes cosine and attention out, and tiles x5 to the size of every map in MPFF.
    :mod:`dfnb.papers.locate_and_verify` explains the paper and the names of its parts.
    """

    def __init__(self, settings: lv.Settings) -> None:
        super().__init__()
        self.rgb, channels, strides = backbones.stages(settings.backbone, pretrained=False)
        self.srm, _, _ = backbones.stages(settings.backbone, pretrained=False)
        self.register_buffer("kernel", lv.SRM.repeat(1, 3, 1, 1), persistent=False)
        self.lfga = nn.ModuleList(Attention(c, settings.attention_reduction) for c in channels[3:6])
        width = settings.mpff_width
        hidden = settings.fusion_width
        out = settings.fusion_out
        projections = []
        for c in channels[:6]:
            layers = [nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            projections.append(nn.Sequential(*layers))
        self.mpff = nn.ModuleDict({"project": nn.ModuleList(projections)})
        # How many positions of each finer map lie on one position of map 5, per axis.
        self.windows = [strides[5] // stride for stride in strides[:5]]
        # Each finer map gives one channel per position in the window.
        patch = channels[5] + sum(k * k for k in self.windows)
        self.seg_head = nn.Sequential(
            nn.BatchNorm2d(patch), nn.ReLU(), nn.Conv2d(patch, 2, 1, bias=False)
        )
        finer = sum(channels[i] for i in (0, 1, 2, 3, 5))  # not map 4, as in the released code
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
        localising, deciding = self._streams(images)
        cls = self._decide(deciding)
        return {"cls": cls, "seg": self.seg_head(self._patches(localising))}

    def _streams(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The seven maps of each stream, RGB and SRM, after they have exchanged features."""
        x = images
        y = F.conv2d(images, self.kernel, padding=2).clamp(-3, 3)  # the noise that SRM filters keep
        xs = []
        ys = []
        for i in range(7):
            if i == 3:  # from here on both streams go on from the sum
                x = y = x + y
            x = self.rgb[i](x)
            y = self.srm[i](y)
            if i < 3:
                s = F.cosine_similarity(x, y, dim=1).unsqueeze(1)  # (B, 1, h, w)
                x = x + s * y
                y = y + s * x  # of the new x, as in the released code
                x = F.relu(x)
                y = F.relu(y)
            elif i < 6:
                y = self.lfga[i - 3](x, y)
            xs.append(x)
            ys.append(y)
        return xs, ys

    def _decide(self, maps: list[Tensor]) -> Tensor:
        """HBFusion: logits (B, 2) from the SRM stream, its finer maps fused with the last one."""
        grid = maps[6].shape[-2:]
        pooled = []
        for y in (*maps[:4], maps[5]):  # not map 4, as in the released code
            kernel = [-(-size // n) for size, n in zip(y.shape[2:], grid)]  # rounded up
            padded = self._padded(y, kernel[0] * grid[0], kernel[1] * grid[1])
            pooled.append(F.max_pool2d(padded, kernel))
        a = torch.cat(pooled, 1).flatten(2).transpose(1, 2)  # (B, positions, channels), like b
        b = maps[6].flatten(2).transpose(1, 2)
        product = torch.tanh(self.fusion["a"](a) * self.fusion["b"](b))
        fused = self.fusion["out"](self.dropout(product))
        return self.cls_head(F.relu(self.cls_norm(fused.transpose(1, 2))).mean(2))

    def _patches(self, maps: list[Tensor]) -> Tensor:
        """MPFF: map 5 of the RGB stream, with one channel per position of the finer maps on it."""
        height, width = maps[5].shape[-2:]
        patch = self.mpff["project"][5](maps[5])
        fused = []
        for x, project, k in zip(maps[:5], self.mpff["project"], self.windows):
            x = self._padded(project(x), height * k, width * k)
            tiled = F.interpolate(patch, size=x.shape[-2:], mode="nearest")
            product = torch.tanh(x * tiled).sum(1, keepdim=True)
            fused.append(F.pixel_unshuffle(product, k))  # k × k positions become k² channels
        return torch.cat([*fused, maps[5]], 1)

    @staticmethod
    def _padded(x: Tensor, height: int, width: int) -> Tensor:
        """The map with its border repeated on all sides, up to the given height and width."""
        down = height - x.shape[2]
        right = width - x.shape[3]
        sides = (right // 2, right - right // 2, down // 2, down - down // 2)
        return F.pad(x, sides, mode="replicate")

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropies of images and patches, and their sum."""
        height, width = outputs["seg"].shape[-2:]
        kernel = (batch["mask"].shape[2] // height, batch["mask"].shape[3] // width)
        # A patch is forged if any of its pixels is.
        patches = (F.max_pool2d(batch["mask"], kernel)[:, 0, :height, :width] > 0).long()
        cls = F.cross_entropy(outputs["cls"], batch["label"])
        seg = F.cross_entropy(outputs["seg"], patches)
        return {"cls": cls, "seg": seg, "total": cls + seg}


class ExposingTheDeception(nn.Module):
    """Exposing the Deception as its description reads.

    :mod:`dfnb.papers.exposing_the_deception` explains the paper and the names of its parts.
    """

    def __init__(self, settings: etd.Settings) -> None:
        super().__init__()
        n = settings.branches
        first, second, third = settings.fusion_widths
        p = settings.dropout
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
            values = torch.tensor(getattr(settings, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), red first, to the logits of all heads.

        ``cls`` and ``joint`` are (B, 2), ``left_out`` is (n, B, 2): head i sees all branches but i.
        """
        # The released networks get blue first, but mean and deviation are those of red first.
        swapped = (images * self.std + self.mean)[:, [2, 1, 0]]
        images = (swapped - self.mean) / self.std
        local = []
        for branch in self.branches:
            local.append(branch(images))
        left_out = []
        for i, head in enumerate(self.left_out_heads):
            others = local[:i] + local[i + 1 :]
            left_out.append(head(torch.cat(others, 1)))
        joint = self.joint_head(torch.cat(local, 1))
        cls = self.cls_head(self.fusion(torch.cat(local, 1)))
        return {"cls": cls, "joint": joint, "left_out": torch.stack(left_out)}

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Cross-entropies of all heads, GIL and LIL, and their total with learned weights."""
        label = batch["label"]
        teacher = F.softmax(outputs["joint"] / self.temperature, dim=1).detach()
        ce = F.cross_entropy(outputs["cls"], label) + F.cross_entropy(outputs["joint"], label)
        gil = self._divergence(outputs["cls"], teacher)
        difference = 0.0  # sum over the heads that leave one branch out; LIL rewards a large one
        for logits in outputs["left_out"]:
            ce = ce + F.cross_entropy(logits, label)
            difference = difference + self._divergence(logits, teacher)
        terms = {"ce": ce, "gil": gil, "lil": torch.exp(-difference)}
        total = 0.0
        # A large s makes a term count less; the logarithm limits how large it gets.
        for s, term in zip(self.balance, terms.values()):
            total = total + (term / (2 * s**2) + torch.log(1 + s**2))
        return {**terms, "total": total}

    def _divergence(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Half the KL divergence of a head from the joint head, both at the set temperature."""
        softened = F.softmax(logits / self.temperature, dim=1)
        # The mean also divides by the two classes, as in the released code: hence half.
        return F.kl_div(teacher.log(), softened, reduction="mean")


TRANSCRIPTIONS = {
    "locate_and_verify": LocateAndVerify,
    "exposing_the_deception": ExposingTheDeception,
}
# Ours in a precision should be at least so many times as fast as the transcription in float32, and
# take at most such a share of its peak memory.
REQUIRED = {
    "locate_and_verify": {"float32": 1.8, "bfloat16": 3.0, "memory": 0.8},
    "exposing_the_deception": {"float32": 1.0, "bfloat16": 2.0, "memory": 1.0},
}


CHECKED_PX = 107  # side of the compared images: small, as float64 is slow; odd, to need all padding
QUARTILES = {"median": 0.5, "q1": 0.25, "q3": 0.75}


@dataclass
class Contender:
    """A network in the precision and memory format in which its step is measured."""

    name: str  # such as "ours bfloat16"
    network: nn.Module
    precision: torch.dtype
    memory_format: torch.memory_format

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, losses, backward and zero_grad, as the training loop does them.

        Returns the losses by name.
        """
        images = batch["image"].contiguous(memory_format=self.memory_format)
        is_bfloat16 = self.precision is torch.bfloat16
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_bfloat16):
            outputs = self.network(images)
        in_float32 = {name: value.float() for name, value in outputs.items()}
        losses = self.network.losses(in_float32, batch)
        # LAE trains an adversary, too, with gradients of its own.
        objective = losses["total"] + losses.get("adversary", 0)
        objective.backward()
        self.network.zero_grad()
        return losses

    def seconds(self, batch: Batch) -> float:
        """Wall time of one step, in seconds."""
        gc.collect()  # so that it does not happen during the step
        _finish(batch)
        start = time.perf_counter()
        self.step(batch)
        _finish(batch)
        return time.perf_counter() - start

    def peak_mib(self, batch: Batch) -> float:
        """Peak of tensor memory in a step, MiB: this contender's weights and all that it allocates.

        On both devices this is the allocator's own count, which the rest of the process does not
        touch: on CUDA its peak, on the CPU the running sum of what the profiler saw allocated and
        freed. (The resident memory of a process also includes what malloc keeps of earlier steps,
        and oneDNN's and Python's code.)
        """
        own_bytes = 0
        for tensor in [*self.network.parameters(), *self.network.buffers()]:
            own_bytes += tensor.numel() * tensor.element_size()
        gc.collect()
        if batch["image"].is_cuda:
            _finish(batch)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step(batch)
            _finish(batch)
            step_bytes = torch.cuda.max_memory_allocated() - before
        else:
            step_bytes = self._peak_bytes_on_cpu(batch)
        return (own_bytes + step_bytes) / 2**20

    def _peak_bytes_on_cpu(self, batch: Batch) -> int:
        """The most memory that a step uses at once, by the profiler's list of allocations."""
        with tempfile.TemporaryDirectory() as folder:
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                self.step(batch)
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


def _finish(batch: Batch) -> None:
    """Wait until the GPU, if the batch is on one, has done what it was given."""
    if batch["image"].is_cuda:
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


def measure(
    contenders: list[Contender],
    batch: Batch,
    rounds: int,
    warmup: int,
    echo: Callable[[str], object],
) -> pd.DataFrame:
    """Seconds per step, one row per round and one column per contender; they take turns.

    ``warmup`` more rounds go first and are left out. ``echo`` gets a line about each round.
    """
    table = []
    for place in range(warmup + rounds):
        table.append({contender.name: contender.seconds(batch) for contender in contenders})
        times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in table[-1].items())
        title = "warm-up" if place < warmup else f"round {place - warmup + 1} of {rounds}"
        echo(f"{title}: {times}")
    return pd.DataFrame(table[warmup:])


def rows(
    contenders: list[Contender], seconds: pd.DataFrame, peaks: list[float], **condition: Any
) -> pd.DataFrame:
    """One row per contender; the last contender is the transcription.

    Columns are the ``condition``, median and quartiles of the step's seconds and of how many times
    as fast as the transcription it was, round by round, and its peak memory, in MiB and as a share
    of the transcription's.
    """
    table = []
    for contender, peak in zip(contenders, peaks):
        times = seconds[contender.name]
        ratios = seconds["transcription"] / times
        row = {
            **condition,
            "contender": contender.name,
            "precision": str(contender.precision).removeprefix("torch."),
            "memory_format": str(contender.memory_format).removeprefix("torch."),
            "rounds": len(seconds),
        }
        for name, values in (("step_s", times), ("times_as_fast", ratios)):
            for label, share in QUARTILES.items():
                row[f"{name}_{label}"] = round(values.quantile(share), 4)
        row["peak_memory_mib"] = round(peak, 1)
        row["peak_memory_share"] = round(peak / peaks[-1], 4)
        table.append(row)
    return pd.DataFrame(table)


def verdicts(paper: str, table: pd.DataFrame) -> list[str]:
    """Each requirement, what was measured and whether it is met; of all rows but the last.

    The last is the transcription, for which nothing is required.
    """
    lines = []
    for row in table[:-1].itertuples():
        least_speed = REQUIRED[paper][row.precision]
        most_memory = REQUIRED[paper]["memory"]
        quartiles = f"{row.times_as_fast_q1:.2f} to {row.times_as_fast_q3:.2f}"
        speed = f"{row.times_as_fast_median:.2f} ({quartiles})"
        is_fast = row.times_as_fast_median >= least_speed
        is_small = row.peak_memory_share <= most_memory
        requirements = {
            f"at least {least_speed} times as fast: {speed}": is_fast,
            f"at most {most_memory} of the peak memory: {row.peak_memory_share:.3f}": is_small,
        }
        for requirement, is_met in requirements.items():
            verdict = "met" if is_met else "not met"
            lines.append(f"{row.contender}, {requirement}: {verdict}")
    return lines


def device_model(device: str) -> str:
    """A device's name, such as cpu x86_64, on Linux with the processor's model before it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {device}" if device.startswith("cpu") and names else device


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
    out: Annotated[Path, typer.Option(help="folder of the row files")] = Path("reports/benchmarks"),
) -> None:
    """Measure a training step of a paper's network beside a transcription of its description.

    Writes one row per contender to OUT/step-PAPER-BACKBONE-SIZEpx-batchN-DEVICE-Nthreads.csv. The
    times decide no exit code: it is 1 when the two do not compute the same.
    """
    if paper not in TRANSCRIPTIONS:
        raise typer.BadParameter(f"{paper!r} is none of {', '.join(TRANSCRIPTIONS)}")
    # torch warns of kl_div's "mean", see ExposingTheDeception._divergence.
    warnings.filterwarnings("ignore", message="reduction: 'mean'")
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
    measured_on = environment()
    condition = {
        "paper": paper,
        "backbone": settings.backbone,
        "size_px": settings.image_size,
        "batch": batch,
        "device": device,
        "device_model": device_model(measured_on["device"]),
        "threads": torch.get_num_threads(),
        "torch": measured_on["packages"]["torch"],
        "timm": measured_on["packages"]["timm"],
        "commit": measured_on["commit"],
    }
    peaks = [contender.peak_mib(images) for contender in contenders]
    table = rows(contenders, seconds, peaks, **condition)
    threads_text = f"{torch.get_num_threads()}threads"
    size_and_place = f"{settings.image_size}px-batch{batch}-{device}-{threads_text}"
    name = f"step-{paper}-{settings.backbone}-{size_and_place}"
    with atomic(out / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False)
    shown = table.drop(columns=list(condition))
    shown = shown.rename(columns=lambda column: column.replace("_", " "))
    typer.echo(shown.to_string(index=False))
    typer.echo("\n".join(["", *verdicts(paper, table), "", f"written: {name}.csv in {out}"]))


if __name__ == "__main__":
    try:
        typer.run(main)
    except (DfnbError, AssertionError) as error:
        sys.exit(f"step: {error}")
