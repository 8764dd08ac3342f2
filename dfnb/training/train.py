"""Trainings: how one is identified, which data it uses, and how it is started.

A training is a folder ``runs/<id>`` with a checkpoint until it ends, the weights of the chosen
epoch and, written last, ``record.json``. The loop itself is in :mod:`dfnb.training.trainer`.
"""

from typing import Any

import pandas as pd

from dfnb import papers, synth
from dfnb.data.frames import check_classes, data_identity, dataset_record
from dfnb.files import digest, locked, run_folder
from dfnb.manifests import dataset_names
from dfnb.papers import backbones, released_weights
from dfnb.papers.contract import Settings
from dfnb.records import read_record
from dfnb.store.runs import RunParameters
from dfnb.training.runs import Run, frames_of, settings_of
from dfnb.training.trainer import adopt, fit

# Part of every run's id: raise it when a change of code outside the papers' files changes the
# numbers of a training. A paper's own file has Paper.version. tests/test_golden.py finds out who
# forgets.
NUMBERS = 3


def train(parameters: RunParameters) -> Run:
    """Train a paper, resume its training where it was interrupted, or load the finished run.

    The chosen checkpoint is that of the epoch with the highest frame AUC on the validation split of
    the training set, or the last one if the paper's ``Settings.chosen`` says so. If a paper makes
    samples of both classes (``Settings.makes_other_class``), such as fakes from real frames, the
    AUC is that of these samples. If the training starts from the weights of a previous phase
    (``Settings.before``), that phase is trained first, with the same data and seed. While another
    process trains the same run, this one waits, and then loads it. Released weights
    (``Settings.released``) are not trained: see :func:`dfnb.training.trainer.adopt`.

    Example::

        settings = papers.module("xception").Settings(image_size=96, epochs=2)
        run = train(run_parameters("xception", "synth-a", settings, seed=1))

    Args:
        parameters: Made by :func:`run_parameters`, perhaps by another process.

    Raises :class:`DfnbError` when a dataset is missing or cannot be trained on, and when the loss
    or a validation score is no longer finite.
    """
    folder = run_folder(run_id(parameters))
    with locked(folder, wait_s=-1):  # waits without end
        settings = settings_of(parameters)
        if read_record(folder) is None and settings.released:
            adopt(folder, parameters)
        elif read_record(folder) is None:  # not trained to the end yet
            settings.fetch()
            start = None  # the run of the previous phase
            before = settings.before()  # settings of the previous phase
            if before is not None:
                other_settings = {"settings": before.model_dump(mode="json")}
                start = train(parameters.model_copy(update=other_settings))
            fit(folder, parameters, visible_splits(parameters, settings, start), start)
    return Run.open(folder.name)


def run_parameters(
    paper: str,
    train_set: str,
    settings: Settings,
    **options: Any,
) -> RunParameters:
    """Everything that identifies a training.

    Args:
        paper: Module name of the paper.
        train_set: A dataset; one of the embedded benchmark need not be built yet.
        settings: The paper's settings.
        **options: ``seed``, ``seen_methods`` in any order, and ``frames_per_video``, see
            :class:`dfnb.store.runs.TrainingOptions`.

    Raises :class:`DfnbError` when the dataset or pretrained weights are missing.
    """
    if settings.released:  # the authors' weights replace all others, and are not trained
        settings = settings.model_copy(update={"pretrained": False})
        weights = released_weights.start(settings.released, papers.module(paper))
    else:
        weights = backbones.start(settings.backbone, settings.pretrained)
    # A digest that identifies the frames. That of the embedded benchmark is computed from the
    # settings of its generator, so the frames need not exist yet.
    if settings.released:
        data = ""  # none is needed
    elif train_set in dataset_names("synth"):
        data = synth.preset_identity(train_set)
    else:
        data = data_identity(dataset_record(train_set, "train", "val"), ("train", "val"))
    if options.get("seen_methods"):  # their order does not change the training
        options["seen_methods"] = sorted(options["seen_methods"])
    return RunParameters(
        paper=paper,
        train_set=train_set,
        data=data,
        settings=settings.model_dump(mode="json"),
        start_weights=weights.sha256,  # empty: random
        version=papers.module(paper).PAPER.version,
        numbers=NUMBERS,
        **options,
    )


def run_id(parameters: RunParameters) -> str:
    """``<paper>-<train set>-s<seed>-<hash>`` of :func:`run_parameters`.

    The hash is of all parameters, but of the settings only those that differ from their defaults.
    So a setting that is added to :class:`dfnb.papers.contract.Settings` renames no run that leaves
    it at its default. Nor does a changed default, although it changes what such a run does: then
    raise :data:`NUMBERS`. The source is not hashed: renaming a variable renames no run.
    """
    p = parameters
    changed = settings_of(p).model_dump(mode="json", exclude_defaults=True)
    hashed = digest({**p.model_dump(), "settings": changed}, 8)  # 8 hexadecimal digits
    return f"{p.paper}-{p.train_set}-s{p.seed}-{hashed}"


def visible_splits(
    parameters: RunParameters,
    settings: Settings,
    start: Run | None,
) -> dict[str, pd.DataFrame]:
    """The frames of train and val that the paper may see, with the masks that it may see.

    Args:
        parameters: Of the run.
        settings: Of its paper, whose ``visible`` hides the rest.
        start: The finished run of the phase before, which may choose the frames that get masks;
            None: there is none.

    Raises :class:`DfnbError` where a split has fewer than two clusters of real frames or of fakes.
    The class that the paper makes itself may have fewer.
    """
    splits = {}
    for split in ("train", "val"):
        visible = settings.visible(frames_of(parameters, split), parameters.seed, start)
        check_classes(visible, split, settings.makes_other_class)
        splits[split] = visible
    return splits
