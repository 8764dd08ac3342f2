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
    """What a training takes, or one of its phases.

    Attributes:
        training, validation: hours of all epochs.
        memory: bytes of a step's tensors; NaN where the batch does not fit.
        weights: bytes of the weights, which are kept.
        checkpoint: bytes of the checkpoint, which is deleted at the end.
    """

    training: float
    validation: float
    memory: float
    weights: int
    checkpoint: int


def report(profile: str, main: bool = False) -> str:
    """A text: trainings, hours and memory by paper, then disk, and what is not counted.

    Raises :class:`DfnbError` where :func:`dfnb.running.jobs.plan` does, as for a training set that
    is not prepared and whose size nobody has published.

    Args:
        profile: Its name.
        main: Whether to leave out the trainings of all ablations.
    """
    names = _datasets_of(jobs.profile(profile))
    with backbones.random_weights(), stand_ins.of_missing(names) as missing:
        trainings = jobs.plan(profile, main).trainings
        table, phases = _measure_all(trainings)
        disk = _bytes_of_datasets(trainings, missing)
    is_estimated = ", estimated from a small batch" if device.DEVICE == "cpu" else ""
    paragraphs = [
        _on_missing(missing, names),
        _by_paper(table).to_string(float_format="{:,.2f}".format, na_rep=""),
        _on_disk(disk, phases),
        f"Hours: one training after the other on this machine ({device.name()}). GiB: the tensors "
        f"of a step{is_estimated}. A corrupted frame counts as much as any other. Not counted: "
        "downloads, preparing, the scores of the validation split, attribution maps, notebooks.",
    ]
    return "\n\n".join(filter(None, paragraphs))


# ---------------------------------------------------------------- all trainings


def _datasets_of(content: jobs.Profile) -> list[str]:
    """The known datasets that a profile names; ``{seed}`` stands for each of its seeds."""
    text = content.model_dump_json()
    numbers = {*re.findall(r"\d+", text)}  # all seeds are among them
    texts = "".join(text.replace("{seed}", number) for number in numbers)
    known = {*manifests.dataset_names("synth"), *manifests.dataset_names("real")}
    return sorted(known & {*re.findall(r'"([^"]*)"', texts)})


def _measure_all(trainings: Sequence[jobs.Training]) -> tuple[pd.DataFrame, list[Phase]]:
    """A table with a row per training, of its hours and its bytes of memory; and all phases.

    A phase that several trainings start from is trained once, and so counts once. Trainings that
    differ by the seed alone are measured once.
    """
    measured = {}  # phases by their parameters without the seed
    phases = {}  # by the id of the run
    scoring = {}  # hours, by the detector and what it is scored on
    tables = {name: test_sets.load(name) for job in trainings for name in _tested(job)}
    rows = []
    # First, so that nothing is timed in vain; with random weights, little is left to fetch.
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
            row["memory"] = np.fmax(row["memory"], measured[key].memory)
        key = (_without_seed(job.run), *_tested(job))
        if key not in scoring:
            scoring[key] = _hours_of_scoring(job, tables)
        rows.append({**row, "scoring": scoring[key]})
    return pd.DataFrame(rows), [*phases.values()]


def _phases(run: RunParameters) -> Iterator[RunParameters]:
    """The phases of a training from the last to the first; none with released weights."""
    settings = settings_of(run)
    while settings is not None and not settings.released:
        yield run.model_copy(update={"settings": settings.model_dump(mode="json")})
        settings = settings.before()


def _without_seed(run: RunParameters) -> str:
    """A text that is equal for runs that differ by the seed, and the training set of that seed."""
    train_set = run.train_set.replace(str(run.seed), "{seed}")
    changes = {"seed": 0, "data": "", "train_set": train_set}
    return run.model_copy(update=changes).model_dump_json()


def _tested(job: jobs.Training) -> list[str]:
    """The datasets that a training is scored on; one that is corrupted, too, is named again."""
    corrupted = [job.corruptions.test_set] if job.corruptions else []
    return [*job.test_sets, *(name for name in corrupted if is_available(name, "test"))]


# ---------------------------------------------------------------- training


@device.single_thread()
def _measure(run: RunParameters) -> Phase:
    """Measure one phase: its first steps, and its validation of some frames."""
    settings = settings_of(run)
    splits = train.visible_splits(run, settings, None)  # None: the phase before is not trained
    with device.precision(settings.precision), device.reproducible(settings.deterministic):
        trainer, seconds = _start(run, splits)
        weights = _bytes_of(trainer.network.state_dict().values())
        states = [state for optimiser in trainer.optimisers for state in optimiser.state.values()]
        checkpoint = weights + sum(_bytes_of(state.values()) for state in states)
        memory = _memory(trainer, settings.batch_size, weights + checkpoint)
    # As the trainer validates: the samples that the paper makes, where they are of both classes.
    seed = run.seed if settings.makes_other_class else None
    of_frame = _seconds_per_frame(trainer.network, splits["val"], settings, locate=False, seed=seed)
    return Phase(
        training=trainer.steps * settings.epochs * seconds / 3600,
        validation=len(splits["val"]) * settings.epochs * of_frame / 3600,
        memory=memory,
        weights=weights,
        checkpoint=checkpoint,
    )


def _start(run: RunParameters, splits: Mapping[str, pd.DataFrame]) -> tuple[Trainer, float]:
    """A training after some steps, and the seconds that each of them took.

    Its batches are smaller on a CPU, see :data:`PIXELS`, and are halved until they fit the memory:
    an epoch then has more steps. Raises :class:`DfnbError` where about FEW images do not fit.
    """
    settings = settings_of(run)
    size = settings.batch_size
    if device.DEVICE == "cpu":
        size = min(size, max(FEW, PIXELS // settings.image_size**2))
    smallest = min(size, FEW)
    while size >= smallest:
        trainer = None  # one that did not fit gives its memory back
        # OneCycleLR fails after its last step, so the learning rate is constant.
        changes = {"batch_size": size, "schedule": "constant"}
        changed = settings.model_copy(update=changes).model_dump(mode="json")
        try:
            with redirect_stdout(io.StringIO()):  # it says on standard output that it starts
                trainer = Trainer(
                    Path(run.paper),  # nothing is written to this path
                    run.model_copy(update={"settings": changed}),
                    splits,
                    start=None,  # random weights
                )
            return trainer, _seconds_per_step(trainer)
        except torch.OutOfMemoryError:
            print(f"{run.paper}: {size} images do not fit the memory, timing {size // 2}")
            size //= 2
    raise DfnbError(f"{run.paper} does not fit the memory of {device.DEVICE}")


def _seconds_per_step(trainer: Trainer) -> float:
    """The mean of some steps, with the loading of their batches."""
    if device.DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    workers = trainer.loader.num_workers
    batches = chain.from_iterable(repeat(trainer.loader))  # one epoch after the other
    # The first steps choose kernels and make the optimiser's state. Batches that the workers have
    # made meanwhile would hide how slow loading is, so they are used up.
    for batch in islice(batches, 2 + workers * (trainer.loader.prefetch_factor or 0)):
        trainer.train_step(batch)
    steps = 0
    start = time.monotonic()
    while steps < max(STEPS, workers) and time.monotonic() - start < LONG_ENOUGH:
        trainer.train_step(next(batches))  # waits for the GPU: it reads the losses
        steps += 1
    return (time.monotonic() - start) / steps


def _memory(trainer: Trainer, batch_size: int, constant: int) -> float:
    """The bytes that the tensors of a step with ``batch_size`` images take, after some steps.

    On a GPU they are measured; NaN where the batch does not fit. On a CPU they are estimated:
    ``constant`` bytes of weights, gradients and the optimiser's state, and for each image those
    that the forward pass saves for the backward pass.
    """
    size = trainer.settings.batch_size
    if device.DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() if size == batch_size else np.nan
    item = next(iter(trainer.loader))
    batch = {"epoch": 0, "partner": None, "weight": 1.0, **prepared(item, trainer.settings)}
    saved = {}  # bytes by address: several operations may save one tensor

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        losses_of(trainer.network, batch, trainer.settings.precision)
    for weight in trainer.network.parameters():  # they do not grow with the batch
        saved.pop(weight.untyped_storage().data_ptr(), None)
    return constant + sum(saved.values()) / size * batch_size


def _bytes_of(tensors: Iterable[Any]) -> int:
    """The bytes of those that are tensors."""
    return sum(each.nbytes for each in tensors if torch.is_tensor(each))


# ---------------------------------------------------------------- scoring


def _hours_of_scoring(job: jobs.Training, tables: Mapping[str, pd.DataFrame]) -> float:
    """The hours in which a training's test sets are scored, corrupted ones included.

    Some frames of them are timed as they are, with their masks; all others are taken to be as fast.
    """
    count = sum(len(tables[name]) for name in job.test_sets)
    corruptions = job.corruptions
    if corruptions and corruptions.test_set in tables:
        corrupted = first_clusters(tables[corruptions.test_set], corruptions.videos)
        count += len(corrupted) * len(corruptions.conditions())
    if not count:  # no test set is there
        return 0.0
    frames = pd.concat([tables[name] for name in _tested(job)], ignore_index=True)
    # The mean training mask is measured beside what the network locates. Any map takes as long.
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
    """The seconds in which some of the frames are scored, per frame, without those of the start.

    ``options`` are those of :func:`dfnb.training.scoring.predict`.
    """

    def seconds(some: pd.DataFrame) -> float:
        start = time.monotonic()
        predict(network, some, settings, **options)
        return time.monotonic() - start

    frames = frames.sample(frac=1, random_state=0)  # the first ones are of all classes and datasets
    few = frames.head(FEW)
    seconds(few)  # slower than the second time: it chooses kernels
    of_few = seconds(few)
    count = int(np.clip(FEW * LONG_ENOUGH / 3 / of_few, 2 * FEW, SCORED))
    if device.DEVICE == "cuda":  # so many batches of 64 frames that all workers are busy
        count = 64 * max(STEPS, 2 * device.workers())
    more = frames.head(count)
    return max(0.0, seconds(more) - of_few) / max(1, len(more) - len(few))


# ---------------------------------------------------------------- disk


def _bytes_of_datasets(
    trainings: Sequence[jobs.Training],
    missing: Sequence[str],
) -> dict[str, float]:
    """The bytes of the crops and masks of each dataset, in the splits that are used.

    Datasets that are ``missing`` have a stand-in, whose frames are as many and as large.
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
        # The stand-in is drawn, and drawings take fewer bytes than photographs; masks take few.
        if name in missing and name in manifests.dataset_names("real"):
            nbytes[name] = len(frames) * faces_of(name)["size"] ** 2 * max(BYTES_PER_PIXEL)
            continue
        some = frames.iloc[np.linspace(0, len(frames) - 1, WEIGHED).astype(int)]
        paths = [path for path in [*some["path"], *some["mask"]] if path]
        nbytes[name] = len(frames) * sum(Path(path).stat().st_size for path in paths) / WEIGHED
    return nbytes


# ---------------------------------------------------------------- the text


def _on_missing(missing: Sequence[str], names: Sequence[str]) -> str:
    """Which datasets are not there, and what was measured in their place; empty if none."""
    texts = []
    if missing:
        texts.append(
            f"Not prepared: {_some(missing)}. The numbers of their videos are those in "
            "data_manifest; drawn frames of the same size are timed in place of theirs."
        )
    unknown = [name for name in names if not is_available(name) and name not in missing]
    if unknown:
        texts.append(f"Left out, neither prepared nor of known size: {_some(unknown)}.")
    return "\n".join(texts)


def _by_paper(table: pd.DataFrame) -> pd.DataFrame:
    """Trainings, hours and GiB of each paper, and of all."""
    hours = ["training", "validation", "scoring"]
    by_paper = table.groupby("paper", sort=False)
    result = by_paper[hours].sum()
    result.insert(0, "trainings", by_paper.size())
    result["hours"] = result[hours].sum(axis=1)
    total = result.sum().to_frame("all").T.astype({"trainings": int})
    result["GiB"] = by_paper["memory"].max() / 2**30
    total["GiB"] = result["GiB"].max()
    return pd.concat([result, total]).rename_axis(None)


def _on_disk(nbytes: Mapping[str, float], phases: Sequence[Phase]) -> str:
    """How much disk the datasets and the trainings need."""
    largest = sorted(nbytes, key=nbytes.get, reverse=True)
    each = [f"{name} {size_in_words(nbytes[name])}" for name in largest]
    text = f"Disk: {size_in_words(sum(nbytes.values()))} of frames ({_some(each)})"
    if phases:
        weights = sum(phase.weights for phase in phases)
        checkpoint = max(phase.checkpoint for phase in phases)
        text += f", {size_in_words(weights)} of weights, and while one trains up to "
        text += f"{size_in_words(checkpoint)} of its checkpoint"
    return f"{text}."


def _some(texts: Sequence[str]) -> str:
    """The first few, and how many others there are."""
    others = f" and {len(texts) - NAMED} others" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + others
