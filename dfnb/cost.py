"""What the trainings of a profile take on this machine, estimated from ten steps per detector."""

import os
import time

import pandas as pd
import torch

from dfnb import files, jobs, papers, records, synth
from dfnb.data.frames import SPLITS, load_frames, select, thinned
from dfnb.papers.contract import Batch
from dfnb.parameters import TrainingParameters
from dfnb.scoring import DEVICE, single_thread
from dfnb.trainer import Step

STEPS = 10
SCORING = 1 / 3  # scoring an image costs about a third of a training step: no backward pass
CPU_PIXELS = 300_000  # of a timed batch on the CPU, where a published batch would take minutes
GIB = 2**30


def report(profile: str) -> str:
    """Trainings, images, hours and memory per detector, and the disk space of drawn datasets.

    A variant is taken to be as fast as its detector, and a dataset that is not built to be trained
    on as a whole. Drawing, loading, maps and notebooks are not counted.
    """
    rows: dict[str, dict[str, float]] = {}
    drawn = set()
    for job in jobs.plan(profile):
        if job.kind == "training":
            p = job.parameters
            drawn.update(name for name in (p.train_set, *p.test_sets) if _is_drawn(name))
            if p.paper not in rows:
                rows[p.paper] = {"trainings": 0, "images": 0, **_measured(p)}
            rows[p.paper]["trainings"] += 1
            rows[p.paper]["images"] += images(p)
    table = pd.DataFrame(rows).T.astype({"trainings": int, "images": int})
    table["hours"] = table["images"] / table["images per s"] / 3600
    at_once = torch.cuda.device_count() or os.cpu_count() or 1
    disk = 0
    for name in drawn:
        frames = sum(sum(_frames(name, split)) for split in SPLITS)
        disk += 3 * synth.preset(name).size ** 2 * frames
    hours = table["hours"].sum() / at_once
    return (
        f"{table.round(2).to_string()}\n"
        f"about {hours:.1f} h with {at_once} trainings at once on {DEVICE}; "
        f"{disk / GIB:.1f} GiB of disk for drawn datasets"
    )


def images(p: TrainingParameters) -> float:
    """The images that a training is shown; one that is only scored counts :data:`SCORING`."""
    real, fake = _frames(p.train_set, "train", p)
    validation = sum(_frames(p.train_set, "val", p))
    total = SCORING * sum(sum(_frames(name, "test")) for name in p.test_sets)
    settings = p.settings()
    while settings is not None:
        epoch = real * (settings.oversampling or 1) + fake
        shown = min(settings.images_per_epoch or epoch, epoch)
        total += settings.epochs * (shown + SCORING * validation)
        settings = settings.before()
    return total


def _is_drawn(name: str) -> bool:
    return name in files.described("synth")


def _frames(name: str, split: str, p: TrainingParameters | None = None) -> tuple[int, int]:
    """Real and fake frames of a split, of a training those that it uses."""
    if _is_drawn(name):
        preset = synth.preset(name)
        real = preset.identities.get(split, 0) * preset.videos * preset.frames
        return real, real
    frames = select(load_frames(name), split, p and p.seen_methods)
    frames = thinned(frames, p and p.frames_per_video)
    fake = int(frames["label"].sum())
    return len(frames) - fake, fake


@single_thread()
def _measured(p: TrainingParameters) -> dict[str, float]:
    """Images per second of training steps without the loader, and the peak memory."""
    settings = p.settings().model_copy(update={"pretrained": False})
    step = Step(papers.module(p.paper).Network(settings)).to(DEVICE).train()
    optimiser = torch.optim.AdamW(step.parameters())
    size = settings.batch_size // p.devices
    if DEVICE == "cpu":
        size = min(size, max(2, CPU_PIXELS // settings.image_size**2))
    batch = _noise(size, settings.image_size)
    for number in range(STEPS + 1):
        if number == 1:  # the first step is slower
            start = time.perf_counter()
        _backward(step, batch, settings.precision)
        moved = step.network.moved()
        if moved is not None:
            with moved:
                _backward(step, batch, settings.precision)
        optimiser.step()
        optimiser.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    memory = records.Clock().facts()["peak_memory_mb"] / 1024
    if DEVICE == "cuda":
        memory = torch.cuda.max_memory_allocated() / GIB
    return {"images per s": STEPS * size / seconds, "memory GiB": memory}


def _backward(step: Step, batch: Batch, precision: str) -> None:
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16-mixed"):
        losses = step(batch)
    (losses["total"] + losses.get("adversary", 0)).backward()


def _noise(size: int, side: int) -> Batch:
    """A batch of noise: every second image is fake, and forged everywhere."""
    label = torch.arange(size, device=DEVICE) % 2
    return {
        "image": torch.randn(size, 3, side, side, device=DEVICE),
        "label": label,
        "mask": label.float().view(-1, 1, 1, 1).expand(-1, 1, side, side),
        "has_mask": label >= 0,
        "landmarks": side * torch.rand(size, 5, 2, device=DEVICE),
        "epoch": 0,
        "partner": None,
        "weight": 1.0,
    }
