"""What a profile will cost: hours of its trainings on this machine, from a few timed steps of each network."""

import time
from functools import cache

import pandas as pd
import torch
from torch import Tensor

from dfnb import core, papers, synth
from dfnb.data.frames import load_frames, select
from dfnb.jobs import TrainingParameters, trainings
from dfnb.train import DEVICE, Step

STEPS = 3  # timed, after one that warms up
SCORING = 1 / 3  # of a training step: a forward pass costs about half of a backward pass


def cost(profile: str) -> pd.DataFrame:
    """By paper and group: trainings, images that they train on and score, and hours of one process, last row the sum.

    An estimate: drawing, preparing, maps and notebooks are not in it. Nothing is trained and no weights are fetched.
    """
    rows = {}
    for job in trainings(profile):
        trained, scored, seconds = _work(job.parameters)
        row = {"paper": job.parameters.paper, "group": job.group or "main", "trainings": 1}
        rows[job.id] = row | {"images trained on": trained, "images scored": scored, "hours": seconds / 3600}
    table = pd.DataFrame(rows.values()).groupby(["paper", "group"], sort=False).sum()
    table.loc[("all", ""), :] = table.sum()
    return table.astype({"trainings": int, "images trained on": int, "images scored": int}).round({"hours": 2})


def _work(p: TrainingParameters) -> tuple[int, int, float]:
    """Images that a training with all its phases trains on, those that it scores, and the seconds of both."""
    trained, scored, seconds, phase = 0, sum(frames_of(name, "test") for name in p.test_sets), 0.0, p.settings()
    while phase is not None:
        images = phase.epochs * (phase.images_per_epoch or frames_of(p.train_set, "train"))
        judged = phase.epochs * frames_of(p.train_set, "val") + (scored if trained == 0 else 0)
        timed = phase.model_copy(update={"lr": 1e-3, "epochs": 1, "pretrained": False})
        step = step_s(p.paper, timed.model_dump_json())
        seconds += step * (images + SCORING * judged) / phase.batch_size
        trained, scored, phase = trained + images, scored + phase.epochs * frames_of(p.train_set, "val"), phase.before()
    return trained, scored, seconds


@cache
def frames_of(name: str, split: str) -> int:
    """Frames of a split: of a prepared dataset counted, of one of the embedded benchmark by its settings."""
    if name in core.described("synth"):
        settings = synth.preset(name)
        return 2 * settings.identities.get(split, 0) * settings.videos * settings.frames
    return len(select(load_frames(name), split))


@cache
def step_s(paper: str, settings: str) -> float:
    """Seconds of one training step of a paper with these settings (JSON), without the loader."""
    module = papers.module(paper)
    chosen = module.Settings.model_validate_json(settings)
    step = Step(module.Network(chosen)).to(DEVICE).train()
    batch, started = _batch(chosen), 0.0
    for i in range(STEPS + 1):
        started = time.monotonic() if i == 1 else started
        step(batch)["total"].backward()
        step.zero_grad()
    return (time.monotonic() - started) / STEPS


def _batch(settings: papers.Settings) -> dict[str, Tensor]:
    n, side = settings.batch_size, settings.image_size
    draw = torch.Generator().manual_seed(0)
    batch = {"image": torch.randn(n, 3, side, side, generator=draw), "label": torch.arange(n) % 2}
    batch |= {"mask": torch.ones(n, 1, side, side) * batch["label"].view(-1, 1, 1, 1), "has_mask": torch.ones(n) > 0}
    batch["landmarks"] = side * torch.rand(n, 5, 2, generator=draw)
    return {name: value.to(DEVICE) for name, value in batch.items()} | {"epoch": 0, "partner": None, "weight": 1.0}
