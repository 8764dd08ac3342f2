"""Finished trainings as their records describe them; :mod:`dfnb.training.runs` adds the network."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pydantic import Field

from dfnb.checks import Closed, Name
from dfnb.store.thresholds import Threshold


class TrainingOptions(Closed):
    """What a reader may choose of any training, besides the settings of its paper.

    Attributes:
        paper: Module name of the paper.
        train_set: A dataset with the splits train and val.
        seed: Of the weights, the order of the images, augmentation, mixup and dropout.
        seen_methods: Manipulation methods to train on; None: all.
        frames_per_video: Use at most this many frames per video, evenly spaced; None: all.
    """

    paper: Name
    train_set: Name
    seed: int = Field(0, ge=0)
    seen_methods: list[str] | None = Field(None, min_length=1)
    frames_per_video: int | None = Field(None, ge=1)


class RunParameters(TrainingOptions):
    """Everything that identifies a training; :func:`dfnb.training.train.run_parameters` makes them.

    Attributes:
        data: A digest that identifies the frames of the training set; empty for released weights.
        settings: Of the paper, whose schema checks them.
        start_weights: sha256 of the pretrained or released weights; empty: random ones.
        version: Of the paper, raised when its code gives other numbers.
        numbers: Of all other code, likewise: :data:`dfnb.training.train.NUMBERS`.
    """

    data: str
    settings: dict[str, Any]
    start_weights: str
    version: int
    numbers: int


class TrainedPaper(Closed):
    """The names of a paper, see :class:`dfnb.papers.contract.Paper`, and its published settings."""

    title: str
    notebook: str
    published: str
    defaults: dict[str, Any]  # of its Settings


class Chosen(Closed):
    """The epoch whose weights the run keeps, counted from 1, and its AUC of validation frames."""

    epoch: int
    auc: float


class TrainingRecord(Closed, extra="ignore"):
    """All that a report says about a training; the trainer writes it at the end.

    Entries that only earlier records have are ignored.
    """

    parameters: RunParameters
    faces: dict[str, Any]  # how they were cut, see dfnb.data.frames.faces_of
    detector: TrainedPaper
    rule: str  # by which the epoch was chosen
    chosen: Chosen | None = None  # None, like the threshold, for released weights
    validation_threshold: Threshold | None = None
    weights_from: str  # what the training started from, in words
    weights_sha256: str
    log: list[dict[str, int | float]] = Field([])  # one row per epoch
    n: dict[str, int] = Field({})  # frames per split
    collapsed: bool = False  # whether it learned nothing
    start: str | None = None  # id of the run of the phase before; None: there was none
    images_seen: int = 0  # in all phases, also before a resume
    wall_s: float  # seconds of this phase; of a process that was killed, to its last checkpoint
    environment: dict[str, Any]
    outputs: dict[str, str]  # sha256 by file name


@dataclass(frozen=True)
class StoredRun:
    """A finished training as its record describes it."""

    id: str
    record: TrainingRecord = field(compare=False, repr=False)

    @property
    def parameters(self) -> RunParameters:
        """Paper, training set, seed, settings, and whatever else identifies the training."""
        return self.record.parameters

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.parameters.seed

    @property
    def limit(self) -> float:
        """P(fake) above which a frame is called fake: the run's validation threshold.

        Released weights, of which it is not known, have .5.
        """
        threshold = self.record.validation_threshold
        return threshold.threshold if threshold else 0.5

    @property
    def train_set(self) -> str:
        """The training set."""
        return self.parameters.train_set

    @property
    def log(self) -> pd.DataFrame:
        """One row per epoch, as :meth:`dfnb.training.trainer.Trainer.end_epoch` writes it."""
        return pd.DataFrame(self.record.log)
