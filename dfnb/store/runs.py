"""Trainings, and finished ones as their records describe them.

:mod:`dfnb.training.train` makes a :class:`Training`; :mod:`dfnb.training.runs` adds the network.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd
from pydantic import Field

from dfnb.store.thresholds import Threshold
from facesets.checks import Closed, Name
from facesets.files import digest

Settings = TypeVar("Settings")


class Training(Closed, Generic[Settings], extra="ignore"):
    """Everything that identifies a training; :func:`dfnb.training.train.make_training` makes one.

    Its JSON is the entry ``parameters`` of the record. What only earlier records have is ignored.

    Attributes:
        paper: Module name of the paper.
        train_set: A dataset with the splits train and val.
        seed: Of the weights, the order of the images, augmentation, mixup and dropout.
        seen_methods: Manipulation methods to train on, sorted; None: all.
        frames_per_video: Use at most this many frames per video, evenly spaced; None: all.
        data: A digest that identifies the frames of the training set; empty for released weights.
        settings: An instance of the paper's Settings. Where a record is read without the paper's
            code, it is a dict, as JSON has them: a ``Training[dict[str, Any]]``.
        start_weights: sha256 of the pretrained or released weights; empty: random ones.
        version: Of the paper, see :func:`dfnb.papers.version`.
        numbers: Of all other code, raised when it gives other numbers:
            :data:`dfnb.training.train.NUMBERS`.
    """

    paper: Name
    train_set: Name
    seed: int
    seen_methods: list[str] | None
    frames_per_video: int | None
    data: str
    settings: Settings
    start_weights: str
    version: int | str
    numbers: int

    @property
    def id(self: "Training[Closed]") -> str:
        """``<paper>-<train set>-s<seed>-<hash>``, the id of the run.

        The hash is of everything, but of the settings only those that differ from their defaults.
        So a setting that is added to :class:`dfnb.papers.contract.Settings` renames no run that
        leaves it at its default. Nor does a changed default, which
        :meth:`dfnb.training.runs.Run.find` sees.
        """
        changed = self.settings.model_dump(mode="json", exclude_defaults=True)
        others = self.model_dump(exclude={"settings"})
        hashed = digest({**others, "settings": changed}, 8)
        return f"{self.paper}-{self.train_set}-s{self.seed}-{hashed}"


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

    parameters: Training[dict[str, Any]]
    faces: dict[str, Any]  # how they were cut, see facesets.frames.faces_of
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
    """A finished training as its record describes it.

    ``versions`` are the fingerprints of the test sets on which it was to be scored in this process:
    then scores of other versions do not count.
    """

    id: str
    record: TrainingRecord = field(compare=False, repr=False)
    versions: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def parameters(self) -> Training[dict[str, Any]]:
        """What identifies the training, with the settings as the record has them."""
        return self.record.parameters

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.record.parameters.seed

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
        return self.record.parameters.train_set

    @property
    def log(self) -> pd.DataFrame:
        """One row per epoch, as :meth:`dfnb.training.trainer.Trainer.end_epoch` writes it.

        Without rows and columns where the authors' weights were adopted.
        """
        return pd.DataFrame(self.record.log)
