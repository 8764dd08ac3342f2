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
    """By paper and group: trainings, images seen, and hours of one process; last row the sum.

    A phase that several arms share is counted once. An estimate: drawing, preparing, maps and notebooks are not in it.
    Nothing is trained and no weights are fetched.
    """
    rows: dict[str, dict] = {}
    for job in trainings(profile):
        for place, (phase, (images, seconds)) in enumerate(_phases(job.parameters).items()):
            row = {"paper": job.parameters.paper, "group": job.group or "main", "trainings": int(place == 0)}
            rows.setdefault(phase, row | {"images": images, "hours": seconds / 3600})
    table = pd.DataFrame(rows.values()).groupby(["paper", "group"], sort=False).sum()
    table.loc[("all", ""), :] = table.sum()
    return table.astype({"trainings": int, "images": int}).round({"hours": 2})


def _phases(p: TrainingParameters) -> dict[str, tuple[int, float]]:
    """Of each phase of a training, by a digest of what identifies it, the images that it trains on and its seconds.

    The last phase, which comes first, scores the test sets.
    """
    frames, validation = (frames_of(p.train_set, split, tuple(p.seen_methods or ())) for split in ("train", "val"))
    scored, phase, found = sum(frames_of(name, "test") for name in p.test_sets), p.settings(), {}
    while phase is not None:
        key = core.digest([p.paper, p.train_set, p.seed, p.seen_methods, phase.model_dump(mode="json")])
        timed = phase.model_copy(update={"lr": 1e-3, "epochs": 1, "pretrained": False})
        images = phase.epochs * min(phase.images_per_epoch or frames, frames)
        judged = SCORING * (phase.epochs * validation + scored)
        found[key] = images, step_s(p.paper, timed.model_dump_json()) * (images + judged) / phase.batch_size
        scored, phase = 0, phase.before()
    return found


@cache
def frames_of(name: str, split: str, seen_methods: tuple[str, ...] = ()) -> int:
    """Frames of a split: of a prepared dataset counted, of one of the embedded benchmark by its settings."""
    if name not in core.described("synth"):
        return len(select(load_frames(name), split, seen_methods or None))
    settings = synth.preset(name)
    share = len(seen_methods or settings.methods) / len(settings.methods)
    return round(settings.identities.get(split, 0) * settings.videos * settings.frames * (1 + share))


@cache
def step_s(paper: str, settings: str) -> float:
    """Seconds of one training step of a paper with these settings (JSON), without the loader."""
    module = papers.module(paper)
    chosen = module.Settings.model_validate_json(settings)
    step = Step(module.Network(chosen)).to(DEVICE).train()
    optimiser = torch.optim.AdamW(step.parameters())
    batch, started = _batch(chosen), 0.0
    for i in range(STEPS + 1):
        started = time.monotonic() if i == 1 else started
        losses = step(batch)
        (losses["total"] + losses.get("adversary", 0)).backward()
        optimiser.step()
        optimiser.zero_grad()
    return (time.monotonic() - started) / STEPS


def _batch(settings: papers.Settings) -> dict[str, Tensor]:
    n, side = settings.batch_size, settings.image_size
    draw = torch.Generator().manual_seed(0)
    batch = {"image": torch.randn(n, 3, side, side, generator=draw), "label": torch.arange(n) % 2}
    batch |= {"mask": torch.ones(n, 1, side, side) * batch["label"].view(-1, 1, 1, 1), "has_mask": torch.ones(n) > 0}
    batch["landmarks"] = side * torch.rand(n, 5, 2, generator=draw)
    return {name: value.to(DEVICE) for name, value in batch.items()} | {"epoch": 0, "partner": None, "weight": 1.0}
