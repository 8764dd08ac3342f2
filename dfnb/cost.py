"""What the trainings of a profile take on this machine, estimated from ten steps per detector."""

from timeit import timeit

import pandas as pd
import torch

from dfnb import files, jobs, papers, records
from dfnb.data.frames import load_frames, select, thinned
from dfnb.data.loading import as_batch
from dfnb.papers.contract import Batch
from dfnb.parameters import TrainingParameters
from dfnb.scoring import DEVICE, single_thread
from dfnb.trainer import Step

STEPS = 10
CPU_PIXELS = 300_000  # of a timed batch on the CPU, where a published batch would take minutes
GIB = 2**30


def report(profile: str) -> str:
    """Trainings, images, hours and memory per detector, and the disk space of the datasets.

    Drawn datasets are built first. A variant is taken to be as fast as its detector. Loading,
    scores, maps and notebooks are not counted.
    """
    rows: dict[str, dict[str, float]] = {}
    datasets = set()
    for job in jobs.plan(profile):
        if job.kind == "training":
            p = job.parameters
            datasets.update([p.train_set, *p.test_sets])
            jobs.datasets(*datasets)
            if p.paper not in rows:
                rows[p.paper] = {"trainings": 0, "images": 0, **_measured(p)}
            rows[p.paper]["trainings"] += 1
            rows[p.paper]["images"] += images(p)
    table = pd.DataFrame(rows).T.astype({"trainings": int, "images": int})
    table["hours"] = table["images"] / table["images per s"] / 3600
    disk = 0
    for name in datasets:
        disk += sum(path.stat().st_size for path in files.dataset_folder(name).rglob("*.*"))
    return (
        f"{table.round(2).to_string()}\n"
        f"{table['hours'].sum():.1f} hours of training on one {DEVICE}, and "
        f"{disk / GIB:.1f} GiB of disk for the datasets"
    )


def images(p: TrainingParameters) -> int:
    """The images that a training is shown, in all of its phases."""
    frames = select(load_frames(p.train_set), "train", p.seen_methods)
    labels = thinned(frames, p.frames_per_video)["label"]
    fake = int(labels.sum())
    real = len(labels) - fake
    total = 0
    settings = p.settings()
    while settings is not None:
        epoch = real * (settings.oversampling or 1) + fake
        total += settings.epochs * min(settings.images_per_epoch or epoch, epoch)
        settings = settings.before()
    return total


@single_thread()
def _measured(p: TrainingParameters) -> dict[str, float]:
    """Images per second of training steps without the loader, and the peak memory."""
    settings = p.settings().model_copy(update={"pretrained": False})
    step = Step(papers.module(p.paper).Network(settings)).to(DEVICE).train()
    optimiser = torch.optim.AdamW(step.parameters())
    size = settings.batch_size // p.devices
    if DEVICE == "cpu":
        size = min(size, max(2, CPU_PIXELS // settings.image_size**2))
    frames = select(load_frames(p.train_set), "train", p.seen_methods)
    stored = as_batch(frames.groupby("label").head(size // 2), settings)
    batch = {name: value.to(DEVICE) for name, value in stored.items()}
    batch = {**batch, "epoch": 0, "partner": None, "weight": 1.0}

    def train_step() -> None:
        _backward(step, batch)
        moved = step.network.moved()
        if moved is not None:
            with moved:
                _backward(step, batch)
        optimiser.step()
        optimiser.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    train_step()  # the first step is slower
    seconds = timeit(train_step, number=STEPS)
    memory = records.Clock().facts()["peak_memory_mb"] / 1024
    if DEVICE == "cuda":
        memory = torch.cuda.max_memory_allocated() / GIB
    return {"images per s": STEPS * len(batch["label"]) / seconds, "memory GiB": memory}


def _backward(step: Step, batch: Batch) -> None:
    losses = step(batch)
    (losses["total"] + losses.get("adversary", 0)).backward()
