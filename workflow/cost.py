"""What a profile will cost on this machine: hours, memory and disk, from a few timed steps of each network."""

import os
from collections.abc import Callable
from functools import cache
from timeit import Timer

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from dfnb import core, jobs, papers, synth
from dfnb.data import frames, prepare, sources
from dfnb.train import DEVICE, Step

SCORING = 1 / 3  # of a training step: a forward pass costs about half of a backward pass
PIXELS = 180_000  # of the images of a timed step on the CPU, where a published batch would take minutes
GIB = 2**30
FREE = {"epochs": 1, "lr": 1e-3, "oversampling": None, "pretrained": False}  # settings that change no step


def tell(profile: str) -> None:
    """Print what a profile costs; `dfnb cost` calls it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler talks
    table, crops = cost(profile), disk(profile)
    typer.echo(table.to_string())
    slots = torch.cuda.device_count() or os.cpu_count() or 1
    typer.echo(f"hours = (images + {SCORING:.2f} scored) × seconds per image; memory: of each training")
    typer.echo(f"about {table['hours'].iloc[-1] / slots:.1f} hours with {slots} trainings side by side on {DEVICE}")
    sizes = ", ".join(f"{name} {size:.1f}" for name, size in crops.items())
    typer.echo(f"crops, GiB: {sizes}; in all {crops.sum():.1f}")


def cost(name: str) -> pd.DataFrame:
    """By paper and group: trainings, images seen, hours of one process, and the most memory of one; last row the whole.

    Hours are (images trained on + a third of the images scored) × seconds per image. A phase that several arms share is
    counted once. Loader, drawing, preparing, maps and notebooks are not in it. Nothing is trained, and no weights are fetched but
    those of LAE's comparator, where its settings want it.
    """
    rows: dict[str, dict] = {}
    for job in jobs.trainings(name):
        for place, (phase, values) in enumerate(_phases(job.parameters).items()):
            row = {"paper": job.parameters.paper, "group": job.group or "main", "trainings": int(place == 0)}
            rows.setdefault(phase, row | values)
    sums = dict.fromkeys(("trainings", "images", "scored", "hours"), "sum") | {"memory GiB": "max"}
    groups = pd.DataFrame(rows.values()).groupby(["paper", "group"], sort=False).agg(sums)
    groups.loc[("all", ""), :] = groups.agg(sums)
    return groups.astype({"trainings": int, "images": int, "scored": int}).round({"hours": 2, "memory GiB": 1})


def disk(name: str) -> pd.Series:
    """GiB of the crops of a profile's datasets, as they lie on disk; a split of which nothing is known is left out."""
    grid, found = jobs.profile(name).grid, {}
    for each in sorted({*grid.train_sets, *grid.test_sets} & {*core.described("synth"), *core.described("real")}):
        drawn = synth.preset(each) if each in core.described("synth") else None
        side = drawn.size if drawn else sources.load(each).prepare.get("size", prepare.Settings().size)
        splits = drawn.identities if drawn else sources.load(each).videos
        found[each] = sum(sum(frames_of(each, split)) for split in splits) * 3 * side**2 / GIB
    return pd.Series(found)


def _phases(p: jobs.TrainingParameters) -> dict[str, dict[str, float]]:
    """Of each phase of a training, by a digest of what identifies it: images trained on and scored, hours, and memory.

    The last phase, which comes first, scores the test sets: once, and after every epoch where that is asked for.
    """
    shown = tuple(p.seen_methods or ()), p.frames_per_video
    (real, fake), validation = frames_of(p.train_set, "train", *shown), sum(frames_of(p.train_set, "val", *shown))
    tests, phase, found = sum(sum(frames_of(name, "test")) for name in p.test_sets), p.settings(), {}
    while phase is not None:
        key = core.digest([p.paper, p.train_set, p.seed, *shown, phase.model_dump(mode="json")])
        image_s, gib = measured(p.paper, phase.model_copy(update=FREE).model_dump_json(), phase.batch_size // p.devices)
        epoch = real * (phase.oversampling or 1) + fake
        images = phase.epochs * min(phase.images_per_epoch or epoch, epoch)
        scored = phase.epochs * validation + tests * (1 + phase.epochs * p.epoch_scores)
        hours = image_s * (images + SCORING * scored) / 3600
        found[key] = {"images": images, "scored": scored, "hours": hours, "memory GiB": gib}
        tests, phase = 0, phase.before()
    return found


@cache
def frames_of(name: str, split: str, seen: tuple[str, ...] = (), per_video: int | None = None) -> tuple[int, int]:
    """Real and fake frames of a split, the fakes of the methods ``seen`` (all where empty), at most ``per_video`` per video.

    Counted where a dataset is prepared; else by the settings of the embedded benchmark, or by the published numbers of videos
    in a manifest. Raises :class:`DfnbError` where nothing says how many there are.
    """
    if name in core.described("synth"):
        settings = synth.preset(name)
        videos = settings.identities.get(split, 0) * settings.videos
        each, methods, real, fake = settings.frames, settings.methods, videos, videos
    elif core.read_record(core.home() / "datasets" / name):
        label = frames.thinned(frames.select(frames.load_frames(name), split, seen or None), per_video)["label"]
        return int((label == 0).sum()), int((label == 1).sum())
    else:
        manifest = sources.load(name)
        if split not in manifest.videos:
            raise core.DfnbError(f"how many videos the split {split} of {name} has is not known before it is prepared")
        each, methods = manifest.frames, [method for rule in manifest.rules for method in rule.methods]
        real, fake = manifest.videos[split]
    each = min(each, per_video or each)
    return real * each, round(fake * each * (len(seen) / len(methods) if seen else 1))


@cache
def measured(paper: str, settings: str, batch_size: int) -> tuple[float, float]:
    """Seconds per image, and GiB, of a training step of a paper with these settings (JSON), without the loader.

    Timed is a whole batch on a GPU, a part of one on a CPU. The memory is that of the weights, their gradients, the
    optimiser's two moments, and of what the forward pass of a batch needs and keeps for the backward pass. Raises
    :class:`DfnbError` where a batch does not fit on the GPU.
    """
    module = papers.module(paper)
    chosen = module.Settings.model_validate_json(settings)
    torch.use_deterministic_algorithms(True, warn_only=True)  # as in a training
    step = Step(module.Network(chosen)).to(DEVICE, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(step.parameters())
    n = min(batch_size, max(2, PIXELS // chosen.image_size**2)) if DEVICE == "cpu" else batch_size
    batch = _batch(chosen, n)

    def loss() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=chosen.precision == "bf16-mixed"):
            losses = step(batch)
        return losses["total"] + losses.get("adversary", 0)

    def once() -> None:
        loss().backward()
        if moved := step.network.moved():
            with moved:
                loss().backward()
        optimiser.step()
        optimiser.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    try:
        once()
    except torch.OutOfMemoryError:
        raise core.DfnbError(f"{paper}: this GPU holds no batch of {n}; lower batch_size, or raise devices") from None
    steps, seconds = Timer(once).autorange()
    weights = 4 * sum(value.numel() for value in step.parameters())
    return seconds / steps / n, (4 * weights + batch_size * _peak(loss) / n) / GIB


def _peak(forward: Callable[[], object]) -> int:
    """Bytes of tensors that a forward pass, with what its backward pass needs, adds at most to those there are."""
    with torch.profiler.profile(profile_memory=True) as seen:
        forward()
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"]).max())


def _batch(settings: papers.Settings, n: int) -> dict[str, Tensor]:
    side = settings.image_size
    batch = {"image": torch.randn(n, 3, side, side), "label": torch.arange(n) % 2}
    batch |= {"mask": torch.ones(n, 1, side, side) * batch["label"].view(-1, 1, 1, 1), "has_mask": torch.ones(n) > 0}
    batch["landmarks"] = side * torch.rand(n, 5, 2)
    return {name: value.to(DEVICE) for name, value in batch.items()} | {"epoch": 0, "partner": None, "weight": 1.0}
