"""A few steps of the package's training, for tests that compare or count them."""

from pathlib import Path

import torch

from dfnb import device
from dfnb.training.trainer import Trainer


def few_steps(training, frames, batches):
    """A ``Trainer`` after a step on each of these batches of ``frames``; writes no file."""
    splits = {"train": frames, "val": frames}  # only train is used
    with torch.random.fork_rng(), device.fixed_threads(), device.reproducible():
        trainer = Trainer(Path("a few steps"), training, splits, None)
        trainer.begin_epoch()
        for item in batches:
            trainer.train_step(item)
    return trainer
