"""The cost of a profile's trainings on this machine, estimated from ten steps per detector."""

import time
from itertools import cycle, islice
from pathlib import Path

import pandas as pd

from dfnb import files, jobs, train
from dfnb.data.loading import EpochSampler
from dfnb.records import RunParameters
from dfnb.runs import frames_of, settings_of
from dfnb.scoring import DEVICE, single_thread
from dfnb.trainer import Trainer

STEPS = 10
CPU_BATCH = 4  # of the timed steps on the CPU, where a published batch would take minutes


def report(profile: str) -> str:
    """A text: trainings, images and hours by paper; the disk space of all datasets.

    Drawn datasets that are missing are built first: the steps and the number of images need frames,
    and the disk space counts the test sets, too. A variant is taken to be as fast as its detector.
    Scores, maps and notebooks are not counted.
    """
    rows = {}  # by paper
    for job in jobs.plan(profile).trainings:
        run = job.run
        jobs.ensure_datasets(run.train_set, *job.test_sets)
        if run.paper not in rows:
            rows[run.paper] = {"trainings": 0, "images": 0, "images per s": _images_per_s(run)}
        row = rows[run.paper]
        row["trainings"] += 1
        row["images"] += images_shown(run)
        row["hours"] = row["images"] / row["images per s"] / 3600
    table = pd.DataFrame.from_dict(rows, orient="index").round(2)
    # The empty name gives the folder that all datasets are in.
    n_bytes = sum(path.stat().st_size for path in files.dataset_folder("").rglob("*"))
    return f"{table.to_string()}\nAll datasets take {n_bytes / 2**30:.1f} GiB of disk."


def images_shown(run: RunParameters) -> int:
    """How many images a training is shown, in all of its phases; none with released weights."""
    frames = frames_of(run, "train")
    total = 0
    settings = settings_of(run)  # of the last phase; before() gives those of the phase before
    while settings is not None and not settings.released:
        # What this phase may see. None in place of the run of the phase before: there is none yet.
        visible = settings.visible(frames, run.seed, None)
        # The sampler is made for its n alone, the number of frames in an epoch.
        sampler = EpochSampler(visible, settings, run.seed)
        total += settings.epochs * sampler.n * settings.images_per_frame
        settings = settings.before()
    return total


@single_thread()  # as in a training
def _images_per_s(run: RunParameters) -> float:
    """Images that a training on one device takes per second, loading included."""
    # Random weights are as fast as pretrained ones, and need no download.
    changes = {"pretrained": False, "schedule": "constant", "images_per_epoch": None}
    if DEVICE == "cpu":
        changes["batch_size"] = CPU_BATCH
    settings = settings_of(run).model_copy(update=changes)
    run = run.model_copy(update={"settings": settings.model_dump(mode="json")})
    splits = train.visible_splits(run, settings, None)
    trainer = Trainer(train.fabric(settings, 1), Path(run.paper), run, splits, None)
    batches = cycle(trainer.loader)
    trainer.train_step(next(batches))  # the first one is slower
    start = time.monotonic()
    for batch in islice(batches, STEPS):
        trainer.train_step(batch)
    return STEPS * settings.batch_size / (time.monotonic() - start)
