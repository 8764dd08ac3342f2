"""What a profile takes on this machine: hours, memory and disk, from a few steps of each training.

Nothing need be downloaded or prepared: networks have random weights, which are as fast, and a
dataset that is not there has a stand-in of drawn frames (:mod:`dfnb.running.stand_ins`).
"""

import io
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.autograd.graph import saved_tensors_hooks
from tqdm import tqdm

from dfnb import device, manifests, papers
from dfnb.checks import DfnbError
from dfnb.data import test_sets
from dfnb.data.frames import faces_of, first_clusters, load_frames, masked_positions, mean_mask
from dfnb.data.loading import prepared
from dfnb.data.prepare import BYTES_PER_PIXEL
from dfnb.files import size_in_words
from dfnb.papers import backbones
from dfnb.papers.contract import Network, Settings
from dfnb.running import jobs, stand_ins
from dfnb.running.datasets import is_available
from dfnb.store.runs import RunParameters
from dfnb.training import train
from dfnb.training.runs import settings_of
from dfnb.training.scoring import predict
from dfnb.training.trainer import Trainer, losses_of

STEPS = 10  # timed of each training, or fewer where they take LONG_ENOUGH
LONG_ENOUGH = 10.0  # seconds
# A batch on a CPU has at most so many pixels, but FEW images or more: 32 images of 96 x 96. A whole
# batch of the published settings would take minutes, and more memory than a laptop has.
PIXELS = 300_000
FEW = 4
SCORED = 64  # frames whose scoring is timed on a CPU, or fewer in a third of LONG_ENOUGH
WEIGHED = 100  # crops whose files are looked at, to know how much disk those of a dataset take
NAMED = 5  # datasets that a sentence names


class Phase(NamedTuple):
    """What one phase of a training takes; most trainings have a single phase.

    Attributes:
        training, validation: hours of all epochs.
        memory: bytes of a step's tensors; NaN where the batch does not fit.
        weights: bytes on disk of the weights, which are kept.
        checkpoint: bytes on disk of weights and optimiser state, deleted at the end.
    """

    training: float
    validation: float
    memory: float
    weights: int
    checkpoint: int


def report(profile: str, main: bool = False) -> str:
    """A text: trainings, hours and memory by paper, then disk, and what is not counted.

    Raises :class:`DfnbError` for a profile without trainings, and where
    :func:`dfnb.running.jobs.plan` does, as for a training set that is not prepared and whose size
    nobody has published.

    Args:
        profile: Its name.
        main: Whether to leave out the trainings of all ablations.
    """
    names = _datasets_of(jobs.profile(profile))
    with backbones.random_weights(), stand_ins.of_missing(names) as missing:
        trainings = jobs.plan(profile, main).trainings
        if not trainings:
            raise DfnbError(f"profile {profile} trains and scores nothing: choose another profile")
        table, phases = _measure_all(trainings)
        disk = _bytes_of_datasets(trainings, missing)
    how_measured = ", estimated from a small batch" if device.DEVICE == "cpu" else ""
    paragraphs = [
        _missing_text(missing, names),
        _by_paper(table).to_string(float_format="{:,.2f}".format, na_rep=""),
        _disk_text(disk, phases),
        f"Hours: one training after the other on this machine ({device.name()}). GiB: the tensors "
        f"of a step{how_measured}. A corrupted frame counts as much as any other. Not counted: "
        "downloads, preparing, the scores of the validation split, attribution maps, notebooks.",
    ]
    return "\n\n".join(filter(None, paragraphs))


# ---------------------------------------------------------------- all trainings


def _datasets_of(content: jobs.Profile) -> list[str]:
    """The datasets of ``data_manifest`` that a profile names anywhere, each seed for ``{seed}``."""
    text = content.model_dump_json()
    # Each number of the profile is tried as a seed: names made with one that is no seed are hardly
    # ever known, and so drop out.
    numbers = {*re.findall(r"\d+", text)}
    texts = "".join(text.replace("{seed}", number) for number in numbers)
    quoted = {*re.findall(r'"([^"]*)"', texts)}
    known = {*manifests.dataset_names("synth"), *manifests.dataset_names("real")}
    return sorted(known & quoted)


def _measure_all(trainings: Sequence[jobs.Training]) -> tuple[pd.DataFrame, list[Phase]]:
    """A table with a row per training, and a list of what each distinct phase takes.

    The columns are paper, training, validation and scoring (hours), and memory (bytes). A phase
    that several trainings start from is trained once, and so counts once. Trainings that differ by
    the seed alone are measured once.
    """
    measured = {}  # parameters without the seed -> Phase
    phases = {}  # run id -> Phase
    scoring = {}  # (parameters without the seed, *test sets) -> hours
    tested = {name for job in trainings for name in _tested(job)}  # each once: trainings share them
    tables = {name: test_sets.load(name) for name in sorted(tested)}
    rows = []
    # What cannot be downloaded raises here, before anything is timed. With random weights, little
    # is left to download.
    for job in trainings:
        for run in _phases(job.run):
            settings_of(run).fetch()
    # Shown on a terminal only; ncols, because some terminals do not state their width.
    for job in tqdm(trainings, "timed", unit=" trainings", disable=None, ncols=80):
        row = {"paper": job.run.paper, "training": 0.0, "validation": 0.0, "memory": np.nan}
        for run in _phases(job.run):
            key = _without_seed(run)
            if key not in measured:
                measured[key] = _measure(run)
            if train.run_id(run) not in phases:
                phases[train.run_id(run)] = measured[key]
                row["training"] += measured[key].training
                row["validation"] += measured[key].validation
            row["memory"] = np.fmax(row["memory"], measured[key].memory)  # the most; NaN is ignored
        scored = (_without_seed(job.run), *_tested(job))
        if scored not in scoring:
            scoring[scored] = _hours_of_scoring(job, tables)
        rows.append({**row, "scoring": scoring[scored]})
    return pd.DataFrame(rows), [*phases.values()]


def _phases(run: RunParameters) -> Iterator[RunParameters]:
    """The parameters of each phase, from the last to the first; none for released weights."""
    settings = settings_of(run)
    while settings is not None and not settings.released:
        yield run.model_copy(update={"settings": settings.model_dump(mode="json")})
        settings = settings.before()


def _without_seed(run: RunParameters) -> str:
    """A text that is equal for runs that differ in the seed alone.

    So it leaves out what follows from the seed: bed-30 of seed 30, and the digest of its frames.
    """
    train_set = re.sub(rf"-{run.seed}$", "-{seed}", run.train_set)
    changes = {"seed": 0, "data": "", "train_set": train_set}
    return run.model_copy(update=changes).model_dump_json()


def _tested(job: jobs.Training) -> list[str]:
    """The test sets of a training, then that of its corrupted frames if it can be had.

    The latter may be among the others: it is then named twice, because it is scored more often.
    """
    corrupted = [job.corruptions.test_set] if job.corruptions else []
    return [*job.test_sets, *(name for name in corrupted if is_available(name, "test"))]


# ---------------------------------------------------------------- training


@device.single_thread()  # as a training runs
def _measure(run: RunParameters) -> Phase:
    """Measure one phase: its first steps, and its validation of some frames."""
    settings = settings_of(run)
    splits = train.visible_splits(run, settings, None)  # None: the phase before is not trained
    with device.precision(settings.precision), device.reproducible(settings.deterministic):
        trainer, seconds_per_step = _start(run, splits)
        weights = _bytes_of(trainer.network.state_dict().values())
        states = [state for optimiser in trainer.optimisers for state in optimiser.state.values()]
        checkpoint = weights + sum(_bytes_of(state.values()) for state in states)
        constant = weights + checkpoint  # gradients are as large as the weights
        memory = _memory(trainer, settings.batch_size, constant)
    frames = splits["val"]
    # As the trainer validates: with a seed, the samples are scored that the paper makes of a frame.
    seed = run.seed if settings.makes_other_class else None
    seconds_per_frame = _seconds_per_frame(
        trainer.network, frames, settings, locate=False, seed=seed
    )
    return Phase(
        training=trainer.steps * settings.epochs * seconds_per_step / 3600,
        validation=len(frames) * settings.epochs * seconds_per_frame / 3600,
        memory=memory,
        weights=weights,
        checkpoint=checkpoint,
    )


def _start(run: RunParameters, splits: Mapping[str, pd.DataFrame]) -> tuple[Trainer, float]:
    """A trainer that has done some steps, and the mean seconds of a step.

    On a CPU its batches are smaller, see :data:`PIXELS`. Batches that do not fit the memory are
    halved. An epoch of smaller batches has more steps. Raises :class:`DfnbError` where about FEW
    images do not fit.
    """
    settings = settings_of(run)
    per_frame = settings.images_per_frame  # the size of a batch is a multiple of it
    size = settings.batch_size
    if device.DEVICE == "cpu":
        frames = PIXELS // settings.image_size**2 // per_frame
        size = min(size, max(FEW, frames * per_frame))
    smallest = min(size, FEW)
    while size >= smallest:
        trainer = None  # one that did not fit gives its memory back
        # Timing may take more steps than the training has, and OneCycleLR fails after the last one.
        changes = {"batch_size": size, "schedule": "constant"}
        changed_settings = settings.model_copy(update=changes).model_dump(mode="json")
        try:
            with redirect_stdout(io.StringIO()):  # drops the line with which it starts
                trainer = Trainer(
                    Path(run.paper),  # nothing is written to this path
                    run.model_copy(update={"settings": changed_settings}),
                    splits,
                    start=None,  # random weights
                )
            return trainer, _seconds_per_step(trainer)
        except torch.OutOfMemoryError:
            print(f"{run.paper}: {size} images do not fit the memory")
            size = size // 2 // per_frame * per_frame
    raise DfnbError(f"{run.paper} does not fit the memory of {device.DEVICE}")


def _seconds_per_step(trainer: Trainer) -> float:
    """The mean seconds of some training steps, with the loading of their batches."""
    if device.DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()  # _memory reads the peak of these steps
    workers = trainer.loader.num_workers
    batches = chain.from_iterable(repeat(trainer.loader))  # one epoch after the other
    # Not timed: the first two steps, which choose kernels and make the optimiser's state, and those
    # with the batches that workers have made meanwhile, which would hide how slow loading is.
    for batch in islice(batches, 2 + workers * (trainer.loader.prefetch_factor or 0)):
        trainer.train_step(batch)
    steps = 0
    start = time.monotonic()
    # At least one batch of each worker, because they make them at the same time; but no more than
    # LONG_ENOUGH, where a step is slow.
    while steps < max(STEPS, workers) and time.monotonic() - start < LONG_ENOUGH:
        trainer.train_step(next(batches))  # waits for the GPU: it reads the losses
        steps += 1
    return (time.monotonic() - start) / steps


def _memory(trainer: Trainer, batch_size: int, constant: int) -> float:
    """The bytes that the tensors of a step with ``batch_size`` images take.

    On a GPU this is the peak of the steps that ``trainer`` has done; NaN where its batches had to
    be smaller. On a CPU it is estimated: ``constant`` bytes of weights, gradients and optimiser
    state, and for each image what the forward pass saves for the backward pass.
    """
    if device.DEVICE == "cuda":
        is_whole = trainer.settings.batch_size == batch_size
        return torch.cuda.max_memory_allocated() if is_whole else np.nan
    item = next(iter(trainer.loader))
    # Without mixup: no partner, and weight 1.
    batch = {"epoch": 0, "partner": None, "weight": 1.0, **prepared(item, trainer.settings)}
    saved = {}  # address -> bytes: a tensor that several operations save counts once

    def note_size(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note_size, lambda tensor: tensor):
        losses_of(trainer.network, batch, trainer.settings.precision)
    for weight in trainer.network.parameters():  # they do not grow with the batch
        saved.pop(weight.untyped_storage().data_ptr(), None)
    return constant + sum(saved.values()) / len(batch["image"]) * batch_size


def _bytes_of(values: Iterable[Any]) -> int:
    """The bytes of the tensors among these values."""
    return sum(value.nbytes for value in values if torch.is_tensor(value))


# ---------------------------------------------------------------- scoring


def _hours_of_scoring(job: jobs.Training, tables: Mapping[str, pd.DataFrame]) -> float:
    """The hours in which a training's test sets are scored, corrupted ones included.

    Some of their frames are timed, without corruption; all others are taken to be as fast.
    ``tables`` has the frames of each test set by its name.
    """
    count = sum(len(tables[name]) for name in job.test_sets)
    corruptions = job.corruptions
    if corruptions and corruptions.test_set in tables:
        corrupted = first_clusters(tables[corruptions.test_set], corruptions.videos)
        count += len(corrupted) * len(corruptions.conditions())
    if not count:  # the training names no test set, or none is there
        return 0.0
    frames = pd.concat([tables[name] for name in _tested(job)], ignore_index=True)
    # Scoring compares the network's maps with the mean training mask. Any map takes as long as it.
    constant = mean_mask(frames.iloc[masked_positions(frames)].head(8))
    settings = settings_of(job.run)
    network = papers.module(job.run.paper).Network(settings).to(device.DEVICE)
    return count * _seconds_per_frame(network, frames, settings, constant=constant) / 3600


def _seconds_per_frame(
    network: Network,
    frames: pd.DataFrame,
    settings: Settings,
    **options: Any,
) -> float:
    """The seconds that scoring takes per frame, without the time before its first frame.

    It is the difference between scoring few and scoring more frames, divided by how many more they
    are. ``options`` are those of :func:`dfnb.training.scoring.predict`.
    """

    def seconds_for(subset: pd.DataFrame) -> float:
        start = time.monotonic()
        predict(network, subset, settings, **options)
        return time.monotonic() - start

    frames = frames.sample(frac=1, random_state=0)  # shuffled: all classes and datasets are timed
    few = frames.head(FEW)
    seconds_for(few)  # slower than the second time: it chooses kernels
    seconds_for_few = seconds_for(few)
    if device.DEVICE == "cuda":
        # At least STEPS batches of predict's 64 frames, and two of each worker: then all are busy.
        count = 64 * max(STEPS, 2 * device.workers())
    else:  # as many frames as a third of LONG_ENOUGH allows: scoring is the lesser part of a cost
        count = int(np.clip(FEW * LONG_ENOUGH / 3 / seconds_for_few, 2 * FEW, SCORED))
    more = frames.head(count)
    return max(0.0, seconds_for(more) - seconds_for_few) / max(1, len(more) - len(few))


# ---------------------------------------------------------------- disk


def _bytes_of_datasets(
    trainings: Sequence[jobs.Training],
    missing: Sequence[str],
) -> dict[str, float]:
    """The bytes of the crops and masks of each dataset, in the splits that are used.

    They are estimated from about WEIGHED crops. Datasets that are ``missing`` have a stand-in,
    whose frames are as many and as large; if they are published, the size of the crops counts, and
    masks do not.
    """
    used = defaultdict(set)
    for job in trainings:
        if job.run.data:  # empty for released weights, which need no training set
            used[job.run.train_set] |= {"train", "val"}
        for name in _tested(job):
            used[name].add("test")
    nbytes = {}
    for name, splits in used.items():
        frames = load_frames(name)
        frames = frames[frames["split"].isin(splits)]
        # The files of a stand-in would mislead: drawings take fewer bytes than photographs. Masks
        # take few.
        if name in missing and name in manifests.dataset_names("real"):
            nbytes[name] = len(frames) * faces_of(name)["size"] ** 2 * max(BYTES_PER_PIXEL)
            continue
        weighed = frames.iloc[np.linspace(0, len(frames) - 1, WEIGHED).astype(int)]
        paths = [path for path in [*weighed["path"], *weighed["mask"]] if path]
        nbytes[name] = len(frames) * sum(Path(path).stat().st_size for path in paths) / WEIGHED
    return nbytes


# ---------------------------------------------------------------- the text


def _missing_text(missing: Sequence[str], names: Sequence[str]) -> str:
    """Which datasets are not there, and what was measured in their place; empty if none.

    ``names`` are all datasets of the profile; those that are ``missing`` have a stand-in.
    """
    texts = []
    if missing:
        texts.append(
            f"Not prepared: {_shortened(missing)}. The numbers of their videos are those in "
            "data_manifest; drawn frames of the same size are timed in place of theirs."
        )
    unknown = [name for name in names if not is_available(name) and name not in missing]
    if unknown:
        texts.append(f"Left out, neither prepared nor of known size: {_shortened(unknown)}.")
    return "\n".join(texts)


def _by_paper(table: pd.DataFrame) -> pd.DataFrame:
    """Trainings, hours and GiB of each paper, and of all. Hours add up; of GiB the most counts.

    ``table`` is that of :func:`_measure_all`, whose ``memory`` is in bytes.
    """
    hours = ["training", "validation", "scoring"]
    by_paper = table.groupby("paper", sort=False)
    result = by_paper[hours].sum()
    result.insert(0, "trainings", by_paper.size())
    result["hours"] = result[hours].sum(axis=1)
    total = result.sum().to_frame("all").T.astype({"trainings": int})
    result["GiB"] = by_paper["memory"].max() / 2**30
    total["GiB"] = result["GiB"].max()
    return pd.concat([result, total]).rename_axis(None)


def _disk_text(nbytes: Mapping[str, float], phases: Sequence[Phase]) -> str:
    """How much disk the datasets and the trainings need."""
    largest = sorted(nbytes, key=nbytes.get, reverse=True)
    sizes = [f"{name} {size_in_words(nbytes[name])}" for name in largest]
    text = f"Disk: {size_in_words(sum(nbytes.values()))} of frames ({_shortened(sizes)})"
    if phases:
        weights = sum(phase.weights for phase in phases)
        checkpoint = max(phase.checkpoint for phase in phases)
        text += f", {size_in_words(weights)} of weights, and while one trains up to "
        text += f"{size_in_words(checkpoint)} of its checkpoint"
    return f"{text}."


def _shortened(texts: Sequence[str]) -> str:
    """The first NAMED of these texts, and how many others there are."""
    if len(texts) <= NAMED + 1:  # not "and 1 others"
        return ", ".join(texts)
    return f"{', '.join(texts[:NAMED])} and {len(texts) - NAMED} others"
