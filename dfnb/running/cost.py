"""The hours that a profile's trainings take on this machine, estimated from ten steps of each."""

import time
from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import torch

from dfnb.device import DEVICE, single_thread
from dfnb.papers.contract import Settings
from dfnb.running import jobs
from dfnb.running.datasets import ensure_datasets
from dfnb.settings import DfnbError
from dfnb.store.runs import RunParameters
from dfnb.training import train
from dfnb.training.runs import settings_of
from dfnb.training.trainer import Trainer

STEPS = 10
CPU_BATCH = 4  # of the timed steps on the CPU, where a published batch would take minutes


def report(profile: str) -> str:
    """A text: trainings and hours by paper.

    Drawn datasets that are missing are built first, because the steps need frames. Scores, maps and
    notebooks are not counted.
    """
    rows = []
    # Random weights are as fast as pretrained ones, and need no download.
    for job in jobs.plan(profile, pretrained=False).trainings:
        if job.run.data:  # empty for released weights, which need no training set
            ensure_datasets(job.run.train_set)
        rows.append({"paper": job.run.paper, "hours": hours(job.run)})
    by_paper = pd.DataFrame(rows).groupby("paper", sort=False)["hours"]
    return by_paper.agg(trainings="count", hours="sum").round(2).to_string()


def hours(run: RunParameters) -> float:
    """The hours of all phases of a training; 0 with released weights."""
    total = 0.0
    settings = settings_of(run)  # of the last phase; before() gives those of the phase before
    while settings is not None and not settings.released:
        total += _hours_of_phase(run, settings)
        settings = settings.before()
    return total


def _hours_of_phase(run: RunParameters, settings: Settings) -> float:
    """The hours of one phase; smaller batches are timed where the published ones do not fit."""
    # A schedule may refuse more steps than the training has.
    settings = settings.model_copy(update={"schedule": "constant"})
    if DEVICE == "cpu":
        settings = settings.model_copy(update={"batch_size": CPU_BATCH})
    while True:
        try:
            return _timed(run, settings)
        except torch.OutOfMemoryError:
            smaller = settings.batch_size // 2
        if smaller < CPU_BATCH:
            raise DfnbError(f"{run.paper} does not fit the memory of {DEVICE}")
        print(f"{run.paper}: {settings.batch_size} images do not fit the memory, timing {smaller}")
        settings = settings.model_copy(update={"batch_size": smaller})


@single_thread()  # as in a training
def _timed(run: RunParameters, settings: Settings) -> float:
    """The hours of one phase with these settings, loading included."""
    run = run.model_copy(update={"settings": settings.model_dump(mode="json")})
    splits = train.visible_splits(run, settings, None)
    # Nothing is written to this path, and the phase before is not trained: None in its place.
    trainer = Trainer(Path(run.paper), run, splits, None)
    batches = cycle(trainer.loader)
    trainer.train_step(next(batches))  # the first one is slower
    start = time.monotonic()
    for batch in islice(batches, STEPS):
        trainer.train_step(batch)
    seconds_per_step = (time.monotonic() - start) / STEPS
    return settings.epochs * trainer.steps * seconds_per_step / 3600
