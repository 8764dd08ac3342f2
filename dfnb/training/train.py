"""Trainings: how one is identified, which data it uses, and how it is started.

A training is a folder ``runs/<id>`` with a checkpoint until it ends, the weights of the chosen
epoch and, written last, ``record.json``. The loop itself is in :mod:`dfnb.training.trainer`.
"""

import pandas as pd

from dfnb import papers
from dfnb.papers import backbones, released_weights
from dfnb.papers.contract import Settings
from dfnb.store.runs import Training
from dfnb.training.runs import Run, frames_of
from dfnb.training.trainer import adopt, fit
from facesets import sources
from facesets.files import locked, run_folder
from facesets.frames import check_clusters
from facesets.records import read_record

# Part of every run's id: raise it when a change of code outside the papers' files changes the
# numbers of a training. A paper's own file has Paper.version. tests/test_golden.py finds out who
# forgets.
NUMBERS = 3


def train(training: Training) -> Run:
    """Train a paper, resume its training where it was interrupted, or load the finished run.

    The chosen checkpoint is that of the epoch with the highest frame AUC on the validation split of
    the training set, or the last one if the paper's ``Settings.chosen`` says so. If the training
    starts from the weights of a previous phase (``Settings.before``), that phase is trained first,
    with the same data and seed. While another process trains the same run, this one waits, and then
    loads it. Released weights (``Settings.released``) are not trained: see
    :func:`dfnb.training.trainer.adopt`.

    Example::

        settings = papers.module("xception").Settings(image_size=96, epochs=2)
        run = train(make_training("xception", "synth-a", settings, seed=1))

    Raises :class:`DfnbError` when a dataset is missing or cannot be trained on, and when the loss
    or a validation score is no longer finite.
    """
    folder = run_folder(training.id)
    with locked(folder, wait_s=-1):  # waits without end
        settings = training.settings
        if read_record(folder) is None and settings.released:
            adopt(folder, training)
        elif read_record(folder) is None:  # not trained to the end yet
            settings.fetch()
            start = None  # the run of the previous phase
            before = settings.before()  # settings of the previous phase
            if before is not None:
                start = train(training.model_copy(update={"settings": before}))
            fit(folder, training, visible_splits(training, start), start)
    return Run.find(training)


def make_training(
    paper: str,
    train_set: str,
    settings: Settings,
    seed: int = 0,
    seen_methods: list[str] | None = None,
    frames_per_video: int | None = None,
) -> Training:
    """A training with all that identifies it; nothing is trained yet.

    The arguments are attributes of :class:`dfnb.store.runs.Training`; ``seen_methods`` may have any
    order, and a dataset of the embedded benchmark need not be built yet.

    Raises :class:`DfnbError` when the dataset or pretrained weights are missing.
    """
    if settings.released:  # the authors' weights replace all others, and are not trained
        settings = settings.model_copy(update={"pretrained": False})
        weights = released_weights.released_start(settings.released, papers.module(paper))
    else:
        weights = backbones.find_start(settings.backbone, settings.pretrained)
    # A digest that identifies the frames. That of the embedded benchmark is computed from the
    # settings of its generator, so the frames need not exist yet.
    # Released weights need no frames.
    data = "" if settings.released else sources.identity(train_set, "train", "val")
    return Training(
        paper=paper,
        train_set=train_set,
        seed=seed,
        seen_methods=sorted(seen_methods) if seen_methods else None,
        frames_per_video=frames_per_video,
        data=data,
        settings=settings,
        start_weights=weights.sha256,  # empty: random
        version=papers.version(paper),
        numbers=NUMBERS,
    )


def visible_splits(training: Training, start: Run | None) -> dict[str, pd.DataFrame]:
    """The frames of train and val that the paper may see, with the masks that it may see.

    ``start`` is the finished run of the phase before, whose network may choose the frames that get
    masks; None: there is none.

    Raises :class:`DfnbError` where a split has fewer than two clusters of real frames or of fakes.
    """
    network = start.network() if start else None
    splits = {}
    for split in ("train", "val"):
        frames = frames_of(training, split)
        visible = training.settings.visible(frames, training.seed, network)
        check_clusters(visible, split)
        splits[split] = visible
    return splits
