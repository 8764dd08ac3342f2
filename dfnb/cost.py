"""The cost of a profile's trainings on this machine, estimated from ten steps per detector."""

import pandas as pd
import torch
from torch.utils.benchmark import Timer

from dfnb import files, jobs, papers
from dfnb.data.frames import load_frames
from dfnb.data.loading import EpochSampler, as_batch
from dfnb.records import RunParameters
from dfnb.runs import frames_of, settings_of
from dfnb.scoring import DEVICE
from dfnb.trainer import Step

STEPS = 10
CPU_BATCH = 4  # of the timed steps on the CPU, where a published batch would take minutes


def report(profile: str) -> str:
    """A text: trainings, images, hours and memory by paper; the disk space of all datasets.

    Drawn datasets that are missing are built first: the steps and the number of images need frames,
    and the disk space counts the test sets, too. A variant is taken to be as fast as its detector.
    Loading, scores, maps and notebooks are not counted, and the steps are in float32.
    """
    rows = {}  # by paper
    for job in jobs.plan(profile).trainings:
        run = job.run
        jobs.ensure_datasets(run.train_set, *job.test_sets)
        if run.paper not in rows:
            rows[run.paper] = {"trainings": 0, "images": 0, **_measured(run)}
        row = rows[run.paper]
        row["trainings"] += 1
        row["images"] += images_shown(run)
        row["hours"] = row["images"] / row["images per s"] / 3600
    table = pd.DataFrame.from_dict(rows, orient="index").round(2)
    # The empty name gives the folder that all datasets are in.
    n_bytes = sum(path.stat().st_size for path in files.dataset_folder("").rglob("*"))
    return f"{table.to_string()}\nAll datasets take {n_bytes / 2**30:.1f} GiB of disk."


def images_shown(run: RunParameters) -> int:
    """How many images a training is shown, in all of its phases; none with released weights."""
    frames = frames_of(run, "train")
    total = 0
    settings = settings_of(run)  # of the last phase; before() gives those of the phase before
    while settings is not None and not settings.released:
        # What this phase may see. None in place of the run of the phase before: there is none yet.
        visible = settings.visible(frames, run.seed, None)
        # The sampler is made for its n alone, the number of frames in an epoch.
        sampler = EpochSampler(visible, settings, run.seed)
        total += settings.epochs * sampler.n * settings.images_per_frame
        settings = settings.before()
    return total


def _measured(run: RunParameters) -> dict[str, float]:
    """Images per second of forward and backward passes, and on a GPU their peak memory in GiB.

    The memory is without the optimiser's state.
    """
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()  # so that the peak is this detector's own
    # Random weights are as fast as pretrained ones, and need no download.
    settings = settings_of(run).model_copy(update={"pretrained": False})
    step = Step(papers.module(run.paper).Network(settings))
    step.to(DEVICE).train()
    size = settings.batch_size if DEVICE == "cuda" else CPU_BATCH
    # Any frames of the dataset; with replacement, as it may have fewer than a batch.
    frames = load_frames(run.train_set).sample(size, replace=True, random_state=0)
    # What the losses of a training get besides the tensors of frames; see papers.contract.Batch.
    batch = {"epoch": 0, "partner": None, "weight": 1.0}  # no mixup
    for name, value in as_batch(frames, settings).items():
        batch[name] = value.to(DEVICE)

    def forward_and_backward() -> None:
        losses = step(batch)
        # A paper that trains against an adversary minimises the adversary's loss, too.
        loss = losses["total"] + losses.get("adversary", 0)
        loss.backward()

    # Timer uses one thread on the CPU, like a training; it warms up, and waits for the GPU. It
    # takes code as a text, and looks up the names in it in ``globals``.
    timer = Timer("forward_and_backward()", globals=locals())
    seconds = timer.timeit(STEPS).mean  # per call
    if step.network.moved() is not None:  # a training then passes twice over each batch, as in SAM
        seconds *= 2
    row = {"images per s": size / seconds}
    if DEVICE == "cuda":
        row["memory GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return row
