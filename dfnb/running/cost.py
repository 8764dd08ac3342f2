"""What a profile takes on this machine: hours, memory and disk, from a few steps of each training.

Nothing need be downloaded or prepared: networks have random weights, which are as fast, and a
dataset that is not there has a stand-in of drawn frames (:mod:`dfnb.running.stand_ins`).
"""

import gc
import io
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dfnb import device, manifests, papers
from dfnb.checks import DfnbError
from dfnb.data import test_sets
from dfnb.data.corrupt import CORRUPTIONS, Corrupted
from dfnb.data.frames import (
    Extent,
    dataset_record,
    first_clusters,
    load_frames,
    masked_positions,
    mean_mask,
)
from dfnb.data.loading import Tensors
from dfnb.data.prepare import BYTES_PER_PIXEL
from dfnb.files import size_in_words
from dfnb.papers import backbones
from dfnb.running import jobs, stand_ins
from dfnb.running.datasets import is_available
from dfnb.store.runs import RunParameters
from dfnb.training import train
from dfnb.training.runs import settings_of
from dfnb.training.scoring import predict
from dfnb.training.trainer import Trainer

STEPS = 10  # timed of each training, if they take less than LONG_ENOUGH
LONG_ENOUGH = 10.0  # seconds
# On a CPU the steps of a batch of 4 are timed first, and only they are where one of the whole batch
# would take longer than 2 seconds.
SMALL_BATCH = 4
SLOW_STEP = 2.0
SCORED = 64  # frames whose scoring is timed, or less in a third of LONG_ENOUGH; beside a GPU more
WEIGHED = 100  # crops whose files are looked at, to know how much disk all of a dataset take
NAMED = 5  # datasets that a sentence names


class Phase(NamedTuple):
    """What a training takes, or one of its phases.

    Attributes:
        training, validation: hours of all epochs.
        memory: bytes of a step's tensors at their peak; NaN where the batch does not fit.
        weights: bytes of the weights, which are kept.
        checkpoint: bytes of the checkpoint, which is deleted at the end.
    """

    training: float
    validation: float
    memory: float
    weights: int
    checkpoint: int


class Memory(NamedTuple):
    """The bytes of a step's tensors: at their peak, and when the backward pass begins.

    The latter grow with the batch by so much per image: they are what is saved for this pass. The
    peak of a small batch may be that of the optimiser instead.
    """

    peak: float
    saved: float


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
    paragraphs = [
        _on_missing(missing, names),
        _by_paper(table).to_string(float_format="{:,.2f}".format, na_rep=""),
        _on_disk(disk, phases),
        f"Hours: one training after the other on this machine ({device.name()}). GiB: the tensors "
        "of a step. Not counted: downloads, preparing, attribution maps, notebooks.",
    ]
    return "\n\n".join(filter(None, paragraphs))


# ---------------------------------------------------------------- all trainings


def _datasets_of(content: jobs.Profile) -> list[str]:
    """The known datasets that a profile names; ``{seed}`` stands for each of its seeds."""
    known = {*manifests.dataset_names("synth"), *manifests.dataset_names("real")}
    text = content.model_dump_json()
    numbers = re.findall(r"\d+", text)  # all seeds are among them
    named = {
        each.replace("{seed}", number)
        for each in re.findall(r'"([^"]*)"', text)
        for number in numbers
    }
    return sorted(named & known)


def _measure_all(trainings: Sequence[jobs.Training]) -> tuple[pd.DataFrame, list[Phase]]:
    """A table with a row per training, of its hours and its bytes of memory; and all phases.

    A phase that several trainings start from is trained once, and so counts once. Trainings that
    differ by the seed alone are measured once.
    """
    measured = {}  # phases by what they depend on
    phases = {}  # by the id of the run
    rates = defaultdict(dict)  # seconds per frame of what is scored, by what they depend on
    tables = {name: test_sets.load(name) for job in trainings for name in _tested(job)}
    rows = []
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
        row["scoring"] = _hours_of_scoring(job, tables, rates[_without_seed(job.run)])
        rows.append(row)
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
    """The datasets that a training is scored on, corrupted or not."""
    corrupted = [job.corruptions.test_set] if job.corruptions else []
    return [*job.test_sets, *(name for name in corrupted if is_available(name, "test"))]


# ---------------------------------------------------------------- training


@device.single_thread()
@device.reproducible()
def _measure(run: RunParameters) -> Phase:
    """Measure one phase: its first steps, and its validation of some frames."""
    settings = settings_of(run)
    settings.fetch()  # with random weights, little is left to fetch
    splits = train.visible_splits(run, settings, None)  # None: the phase before is not trained
    size = settings.batch_size
    is_small = device.DEVICE == "cpu" and size > SMALL_BATCH
    trainer, batches, memory = _start(run, splits, SMALL_BATCH if is_small else size)
    seconds = _seconds_per_step(trainer, batches)
    if is_small and seconds * size / SMALL_BATCH < SLOW_STEP:
        trainer, batches, memory = _start(run, splits, size)
        seconds = _seconds_per_step(trainer, batches)
    elif is_small:
        _, _, of_half = _start(run, splits, SMALL_BATCH // 2)
        per_image = (memory.saved - of_half.saved) / (SMALL_BATCH - SMALL_BATCH // 2)
        memory = memory._replace(peak=memory.peak + per_image * (size - SMALL_BATCH))
    steps = trainer.steps * settings.epochs

    def validate(frames: pd.DataFrame) -> None:
        seed = run.seed if settings.makes_other_class else None
        predict(trainer.network, frames, settings, locate=False, seed=seed)

    frames = len(splits["val"]) * settings.epochs
    weights = _bytes_of(trainer.network.state_dict().values())
    state = [values for optimiser in trainer.optimisers for values in optimiser.state.values()]
    return Phase(
        training=steps * seconds / 3600,
        validation=frames * _seconds_per_frame(validate, splits["val"]) / 3600,
        memory=memory.peak,
        weights=weights,
        checkpoint=weights + sum(_bytes_of(values.values()) for values in state),
    )


def _start(
    run: RunParameters,
    splits: Mapping[str, pd.DataFrame],
    size: int,
) -> tuple[Trainer, Iterator[Tensors], Memory]:
    """A training after its first steps, the batches that follow, and the memory of a step.

    ``size`` is that of a batch; where it does not fit, it is halved, and the peak is NaN.
    """
    wanted = size
    while size >= min(SMALL_BATCH, wanted):
        # OneCycleLR fails after its last step, so the learning rate is constant.
        changes = {"batch_size": size, "schedule": "constant"}
        settings = settings_of(run).model_copy(update=changes).model_dump(mode="json")
        try:
            # It says on standard output that it starts.
            with redirect_stdout(io.StringIO()), _profiler() as profiler:
                trainer, batches, marks = _first_steps(
                    run.model_copy(update={"settings": settings}), splits
                )
            memory = _memory(profiler, marks[-1])
            return trainer, batches, memory if size == wanted else Memory(np.nan, np.nan)
        except torch.OutOfMemoryError:
            print(f"{run.paper}: {size} images do not fit the memory, timing {size // 2}")
            size //= 2
    raise DfnbError(f"{run.paper} does not fit the memory of {device.DEVICE}")


def _first_steps(
    run: RunParameters,
    splits: Mapping[str, pd.DataFrame],
) -> tuple[Trainer, Iterator[Tensors], list[int]]:
    """A training after its first steps, the batches that follow, and when each backward pass began.

    The second step has the state of the optimiser, too. Batches that the loader has made meanwhile
    would hide how slow it is, so they are used up. Times are nanoseconds of the system's clock.
    """
    trainer = Trainer(Path(run.paper), run, splits, None)  # nothing is written to this path
    marks = []
    losses = trainer.network.losses

    def marked(*arguments: Any) -> dict[str, Tensor]:
        of_batch = losses(*arguments)
        marks.append(time.time_ns())
        return of_batch

    trainer.network.losses = marked
    batches = _endless(trainer.loader)
    waiting = trainer.loader.num_workers * (trainer.loader.prefetch_factor or 0)
    for batch in islice(batches, 2 + waiting):
        trainer.train_step(batch)
    del trainer.network.losses
    return trainer, batches, marks


def _endless(loader: DataLoader) -> Iterator[Tensors]:
    """The batches of one epoch after the other."""
    while True:
        yield from loader


def _seconds_per_step(trainer: Trainer, batches: Iterator[Tensors]) -> float:
    """The mean of some steps, with the loading of their batches."""
    steps = max(STEPS, trainer.loader.num_workers)
    taken = 0
    start = time.monotonic()
    while taken < steps and time.monotonic() - start < LONG_ENOUGH:
        trainer.train_step(next(batches))
        taken += 1
    _wait()
    return (time.monotonic() - start) / taken


def _wait() -> None:
    """Wait until the GPU, if there is one, has done what it was given."""
    if device.DEVICE == "cuda":
        torch.cuda.synchronize()


@contextmanager
def _profiler() -> Iterator[torch.profiler.profile | None]:
    """A context that observes how much memory tensors take, see :func:`_memory`.

    On a CPU by torch's profiler: the memory of the process has what malloc keeps of earlier
    trainings, too, and does not fall.
    """
    if device.DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield None
        return
    gc.collect()  # what is freed within the context would be taken off
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells the user of its start
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        yield profiler


def _memory(profiler: torch.profiler.profile | None, mark: int) -> Memory:
    """The memory that was observed; what is saved at the time ``mark`` is not known of a GPU."""
    if profiler is None:
        return Memory(torch.cuda.max_memory_allocated(), np.nan)
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    times, nbytes = zip(*sorted(changes))  # negative: freed
    held = np.cumsum(nbytes)
    return Memory(held.max(), held[np.searchsorted(times, mark) - 1])


def _bytes_of(tensors: Iterable[Any]) -> int:
    """The bytes of those that are tensors."""
    return sum(each.nbytes for each in tensors if torch.is_tensor(each))


# ---------------------------------------------------------------- scoring


def _hours_of_scoring(
    job: jobs.Training,
    tables: Mapping[str, pd.DataFrame],
    rates: dict[str, float],
) -> float:
    """The hours in which a training's test sets are scored, corrupted ones included.

    ``rates`` are the seconds per frame of what was timed before of such a detector: of a test set
    with masks and of one without, and of each corruption. What is missing is timed and added.
    """
    frames_per_kind = defaultdict(int)
    examples = {}
    for name in job.test_sets:
        kind = "masks" if len(masked_positions(tables[name])) else "no masks"
        frames_per_kind[kind] += len(tables[name])
        examples.setdefault(kind, tables[name])
    if job.corruptions and job.corruptions.test_set in tables:
        frames = first_clusters(tables[job.corruptions.test_set], job.corruptions.videos)
        for kind in job.corruptions.names:
            frames_per_kind[kind] = len(frames) * len(job.corruptions.severities)
            examples[kind] = frames
    settings = settings_of(job.run)
    missing = examples.keys() - rates.keys()
    network = papers.module(job.run.paper).Network(settings).to(device.DEVICE) if missing else None
    for kind in missing:
        masked = examples[kind].iloc[masked_positions(examples[kind])]
        constant = mean_mask(masked.head(8))  # its localisation is measured beside the network's

        def score(frames: pd.DataFrame, kind: str = kind, constant: Any = constant) -> None:
            if kind in CORRUPTIONS:
                corrupted = Corrupted(frames, kind, severity=3)
                predict(network, frames.assign(mask=""), settings, corrupted)
            else:
                predict(network, frames, settings, constant=constant)

        rates[kind] = _seconds_per_frame(score, examples[kind])
    return sum(n * rates[kind] for kind, n in frames_per_kind.items()) / 3600


def _seconds_per_frame(call: Callable[[pd.DataFrame], None], frames: pd.DataFrame) -> float:
    """The seconds that a call takes per frame of a table, without those that it takes to start."""
    few = _some_videos(frames, 2).groupby("label").head(1)
    call(few)  # chooses kernels
    of_few = _seconds(call, few)
    wanted = np.clip(len(few) * LONG_ENOUGH / 3 / of_few, 4, SCORED)
    if device.DEVICE == "cuda":  # so many batches of 64 frames until all loaders are busy
        wanted = 64 * max(STEPS, 2 * device.workers())
    videos = frames["video"].nunique()
    sample = _some_videos(frames, max(2, round(wanted * videos / len(frames))))
    sample = sample.groupby("label").head(int(wanted))
    return max(0.0, _seconds(call, sample) - of_few) / max(1, len(sample) - len(few))


def _some_videos(frames: pd.DataFrame, count: int) -> pd.DataFrame:
    """The frames of so many videos, or of all, evenly spaced in the table."""
    videos = frames["video"].unique()
    places = np.linspace(0, len(videos) - 1, min(len(videos), count)).astype(int)
    return frames[frames["video"].isin(videos[places])]


def _seconds(call: Callable[[pd.DataFrame], None], frames: pd.DataFrame) -> float:
    """How long a call takes."""
    start = time.monotonic()
    call(frames)
    return time.monotonic() - start


# ---------------------------------------------------------------- disk


def _bytes_of_datasets(
    trainings: Sequence[jobs.Training],
    missing: Mapping[str, Extent],
) -> dict[str, float]:
    """The bytes of the crops and masks of each dataset, in the splits that are used."""
    used = defaultdict(set)
    for job in trainings:
        if job.run.data:  # empty for released weights, which need no training set
            used[job.run.train_set] |= {"train", "val"}
        for name in _tested(job):
            used[name].add("test")
    nbytes = {}
    for name, splits in used.items():
        counts = dataset_record(name)["n"].items()
        n = sum(each["frames"] for kind, each in counts if kind.split("/")[0] in splits)
        if name in missing and name in manifests.dataset_names("real"):
            nbytes[name] = n * missing[name].size ** 2 * max(BYTES_PER_PIXEL)
            continue
        frames = load_frames(name)
        some = frames.iloc[np.linspace(0, len(frames) - 1, WEIGHED).astype(int)]
        paths = [path for path in [*some["path"], *some["mask"]] if path]
        nbytes[name] = n * sum(Path(path).stat().st_size for path in paths) / WEIGHED
    return nbytes


# ---------------------------------------------------------------- the text


def _on_missing(missing: Mapping[str, Extent], names: Sequence[str]) -> str:
    """Which datasets are not there, and what was measured in their place; empty if none."""
    texts = []
    if missing:
        texts.append(
            f"Not prepared: {_some([*missing])}. The numbers of their videos are those in "
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
