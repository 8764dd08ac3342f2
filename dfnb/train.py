"""Trainings: how one is identified, which data it uses, and how it is started.

A training is a folder ``runs/<id>`` with its parameters (``config.json``), a checkpoint, the
weights of the chosen epoch and, written last, ``record.json``. The loop itself is in
:mod:`dfnb.trainer`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from dfnb import papers, synth
from dfnb.data.frames import check_classes, dataset_record, identity, load_frames, select, thinned
from dfnb.files import dataset_names, digest, locked, run_folder, write_json
from dfnb.papers import backbones, released_weights
from dfnb.papers.contract import Settings
from dfnb.records import read_record
from dfnb.runs import Run
from dfnb.scoring import DEVICE
from dfnb.settings import DfnbError
from dfnb.trainer import Trainer

# Part of every run's id. A change of code outside the papers' files that changes the numbers of a
# training must increase it.
NUMBERS = 3


def train(
    paper: str,
    train_set: str,
    settings: Settings,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Train a paper, resume its training where it was interrupted, or load the finished run.

    The chosen checkpoint is that of the epoch with the highest frame AUC on the validation split of
    ``train_set``, or the last one if the paper's ``Settings.chosen`` says so. A paper that leaves
    one class out of that split (``Settings.visible``) makes samples of both classes from the class
    that it keeps, such as fakes from real frames; then the AUC is that of these samples. If the
    training starts from the weights of a previous phase (``Settings.before``), that phase is
    trained first, with the same data and seed. While another process trains the same run, this one
    waits, and then loads it.

    Args:
        paper: Module name of the paper.
        train_set: A dataset with the splits train and val.
        settings: The paper's settings.
        seed: Of the weights, the order of the images, augmentation, mixup and dropout.
        **options: The other arguments of :func:`run_parameters`.

    Raises :class:`DfnbError` when a dataset is missing or cannot be trained on, when required
    pretrained weights cannot be fetched, when the devices cannot share a batch equally, or when the
    loss or a validation score is no longer finite.
    """
    parameters = run_parameters(paper, train_set, settings, seed, **options)
    folder = run_folder(run_id(parameters))
    with locked(folder, wait_s=-1):  # waits without end
        if read_record(folder) is None:  # not trained to the end yet
            start = None  # the run of the previous phase
            before = settings.before()
            if before is not None:
                start = train(paper, train_set, before, seed, **options)
            _launch(folder, parameters, settings, start)
    return Run.open(folder.name)


def run_parameters(
    paper: str,
    train_set: str,
    settings: Settings,
    seed: int = 0,
    seen_methods: Sequence[str] | None = None,
    devices: int = 1,
    allow_random: bool = True,
    frames_per_video: int | None = None,
) -> dict[str, Any]:
    """Everything that identifies a training.

    Args:
        paper: Module name of the paper.
        train_set: A dataset; one of the embedded benchmark need not be built yet.
        settings: The paper's settings.
        seed: See :func:`train`.
        seen_methods: Manipulation methods to train on; None: all.
        devices: More than one trains with DDP, one process per device; not inside a notebook.
        allow_random: Whether random weights may replace pretrained ones that cannot be fetched.
        frames_per_video: Use at most this many frames per video, evenly spaced; None: all.

    Raises :class:`DfnbError` when a dataset is missing, or pretrained weights that are required.
    """
    # The authors' weights replace all others, and are not trained: the one "epoch" only scores the
    # validation split.
    if settings.released:
        settings = settings.model_copy(update={"pretrained": False, "epochs": 1})
        weights = released_weights.start(settings.released, papers.module(paper))
    else:
        weights = backbones.start(settings.backbone, settings.pretrained)
    # No file: random weights take the place of pretrained ones that cannot be fetched.
    if settings.pretrained and weights.file is None and not allow_random:
        raise DfnbError(
            f"the pretrained weights of {settings.backbone} cannot be fetched; run this once "
            "with an internet connection, or set allow_random in the profile"
        )
    if seen_methods is not None:
        seen_methods = sorted(seen_methods)  # their order does not change the training
    # A digest that identifies the frames. That of the embedded benchmark is computed from the
    # settings of its generator, so the frames need not exist yet.
    if train_set in dataset_names("synth"):
        data = synth.identity(train_set)
    else:
        data = identity(dataset_record(train_set))
    return {
        "paper": paper,
        "train_set": train_set,
        "data": data,
        "seed": seed,
        "seen_methods": seen_methods,
        "devices": devices,
        "frames_per_video": frames_per_video,
        "settings": settings.model_dump(mode="json"),
        "start_weights": weights.sha256,  # empty: random
        "paper_source": papers.source_digest(paper),
        "numbers": NUMBERS,
    }


def run_id(parameters: dict[str, Any]) -> str:
    """``<paper>-<train set>-s<seed>-<hash>`` of :func:`run_parameters`.

    The hash is of all parameters, but of the settings only those that differ from their defaults: a
    setting that is added to :class:`dfnb.papers.contract.Settings` renames no run that leaves it at
    its default. Nor does a changed default rename them: then increase :data:`NUMBERS`. A change of
    the paper's own file renames all its runs, by ``paper_source``.
    """
    paper = parameters["paper"]
    settings = papers.module(paper).Settings.check(parameters["settings"], paper)
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    hashed = digest({**parameters, "settings": changed}, 8)  # 8 hexadecimal digits
    return f"{paper}-{parameters['train_set']}-s{parameters['seed']}-{hashed}"


def _launch(
    folder: Path,
    parameters: dict[str, Any],
    settings: Settings,
    start: Run | None,
) -> None:
    """Check the batch size and the frames, write ``config.json``, and run a :class:`Trainer`.

    It trains in this process or, on several devices, in one process per device. ``start`` is the
    finished run of the previous phase; None: there is none.
    """
    devices = parameters["devices"]
    size = settings.batch_size
    # A frame's images, and a fake and its original, stay on one device.
    images_together = settings.images_per_frame * (2 if settings.pairs else 1)
    if size % (devices * images_together):
        raise DfnbError(
            f"batch_size {size} gives {devices} devices unequal shares; it must be a multiple of "
            f"{devices * images_together}"
        )
    splits = _splits(parameters, settings, start)
    write_json(folder / "config.json", parameters)
    strategy = "auto"
    if devices > 1:
        # Not every loss uses every weight, and CUDA does not survive a fork.
        strategy = DDPStrategy(find_unused_parameters=True, start_method="spawn")
    fabric = Fabric(
        accelerator=DEVICE,
        strategy=strategy,
        devices=devices,
        precision=settings.precision,
    )
    # launch calls the Trainer with the fabric, here or in each process that it starts.
    fabric.launch(Trainer(folder, parameters, splits, start))


def _splits(
    parameters: dict[str, Any], settings: Settings, start: Run | None
) -> dict[str, pd.DataFrame]:
    """The frames of train and val, as the paper may see them.

    Raises :class:`DfnbError` where :func:`dfnb.data.frames.check_classes` refuses a split.
    """
    table = load_frames(parameters["train_set"])
    splits = {}
    for split in ("train", "val"):
        frames = select(table, split, parameters["seen_methods"])
        frames = thinned(frames, parameters["frames_per_video"])
        visible = settings.visible(frames, parameters["seed"], start)
        check_classes(visible, split, settings.makes_other_class)
        splits[split] = visible
    return splits
