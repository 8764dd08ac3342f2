"""What the trainings of a profile take on this machine, estimated from ten steps per detector."""

from timeit import timeit

import pandas as pd
import torch

from dfnb import files, jobs, papers, records
from dfnb.data.frames import load_frames, select, thinned
from dfnb.data.loading import as_batch
from dfnb.parameters import TrainingParameters
from dfnb.scoring import DEVICE, single_thread
from dfnb.trainer import Step

STEPS = 10
CPU_BATCH = 4  # of the timed steps on the CPU, where a published batch would take minutes
GIB = 2**30


def report(profile: str) -> str:
    """Trainings, images, hours and memory per detector, and the disk space of the datasets.

    Drawn datasets are built first. A variant is taken to be as fast as its detector. Loading,
    scores, maps and notebooks are not counted.
    """
    rows = {}
    datasets = set()
    for job in jobs.plan(profile):
        if job.kind == "training":
            p = job.parameters
            names = [p.train_set, *p.test_sets]
            jobs.ensure_datasets(*names)
            datasets.update(names)
            if p.paper not in rows:
                rows[p.paper] = _measured(p)
            row = rows[p.paper]
            row["trainings"] += 1
            row["images"] += images(p)
            row["hours"] = row["images"] / row["images per s"] / 3600
    table = pd.DataFrame.from_dict(rows, orient="index").round(2)
    disk = 0
    for name in datasets:
        for path in files.dataset_folder(name).rglob("*"):
            disk += path.stat().st_size
    return f"{table.to_string()}\nThe datasets take {disk / GIB:.1f} GiB of disk."


def images(p: TrainingParameters) -> int:
    """The images that a training is shown, in all of its phases."""
    frames = select(load_frames(p.train_set), "train", p.seen_methods)
    labels = thinned(frames, p.frames_per_video)["label"]
    n_fake = int(labels.sum())
    n_real = len(labels) - n_fake
    total = 0
    settings = p.settings()
    while settings is not None:
        epoch = n_fake + n_real * (settings.oversampling or 1)
        total += settings.epochs * min(settings.images_per_epoch or epoch, epoch)
        settings = settings.before()
    return total


@single_thread()
def _measured(p: TrainingParameters) -> dict[str, float]:
    """The row of a detector, before any training is counted.

    Its images per second are those of forward and backward passes; its memory is the peak.
    """
    settings = p.settings().model_copy(update={"pretrained": False})
    step = Step(papers.module(p.paper).Network(settings)).to(DEVICE).train()
    size = CPU_BATCH
    if DEVICE == "cuda":
        size = settings.batch_size // p.devices
    frames = load_frames(p.train_set).sample(size, replace=True, random_state=0)
    batch = {"epoch": 0, "partner": None, "weight": 1.0}
    for name, value in as_batch(frames, settings).items():
        batch[name] = value.to(DEVICE)

    def both_passes() -> None:
        losses = step(batch)
        loss = losses["total"] + losses.get("adversary", 0)
        loss.backward()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    both_passes()  # the first time is slower
    seconds = timeit(both_passes, number=STEPS)
    if step.network.moved() is not None:  # it passes twice over a batch
        seconds *= 2
    memory = records.Clock().facts()["peak_memory_mb"] / 1024
    if DEVICE == "cuda":
        memory = torch.cuda.max_memory_allocated() / GIB
    return {
        "trainings": 0,
        "images": 0,
        "images per s": STEPS * size / seconds,
        "memory GiB": memory,
    }
