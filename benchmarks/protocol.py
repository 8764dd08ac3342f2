"""How far the AUC of a training moves with the way it is judged.

    python benchmarks/protocol.py study-ff-like --worlds 3

The first detector of a profile is trained again at each seed, and scores its test sets after every
epoch. Then it is judged as papers judge: by few frames of a video or many, by their mean, median or
maximum, on tighter crops, and at the epoch that the validation chose, the last, or the best one on
the test set.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import joblib
import pandas as pd
import typer
from safetensors.torch import load_model
from sklearn.metrics import roc_auc_score

from dfnb import device, synth
from dfnb.data import test_sets
from dfnb.files import atomic, digest, home, read_table, write_table
from dfnb.manifests import domain_of
from dfnb.report import tables
from dfnb.report.reading import UNITS
from dfnb.running import jobs
from dfnb.running.datasets import ensure_datasets
from dfnb.training import scoring, train
from dfnb.training.trainer import Trainer

FRAMES = 8
# By how much crops are tighter. Photographs have hardly a pixel outside the usual crop.
TIGHTER = (1.3, 1.6)
REPORT = "as in the report"
LONG = f"{FRAMES} frames"
VIDEO = ["seed", "test_set", *UNITS["video"]]  # the columns that identify a video's score
NUMBERS = ["place", "protocol", "minus", "value", "low", "high", "seeds", "sets"]


def variants(name: str) -> dict[str, str]:
    """Build an embedded test set again with the same people and scenes: longer, and closer.

    Returns the names of the datasets by protocol: ``LONG``, and "crop / 1.3" for each of TIGHTER.
    """
    settings = synth.preset(name)
    changes = {LONG: {"frames": FRAMES}}
    for times in TIGHTER:
        zoom = [times * end for end in settings.crop.zoom]  # a larger head in the same frame
        crop = {"zoom": zoom, "shift": settings.crop.shift}
        changes[f"crop / {times}"] = {"crop": crop}
    names = {}
    for number, (protocol, changed) in enumerate(changes.items()):
        names[protocol] = f"{name}-protocol-{number}"
        people_of = settings.people_of or name
        synth.build(names[protocol], synth.preset(name, people_of=people_of, **changed))
    return names


def scored(job: jobs.Training, datasets: dict[str, dict[str, str]]) -> pd.DataFrame:
    """Train, score the test sets after every epoch, and their variants by the chosen weights.

    Args:
        job: The training.
        datasets: What :func:`variants` returns, by test set.

    Returns a row per frame with the columns ``test_set``; ``variant``, empty or that of the
    dataset; ``epoch``; ``chosen``, the epoch that the validation chose; and ``seed``; beside those
    of :func:`dfnb.training.scoring.predict`. They are kept in ``runs/``: a training that was scored
    on these test sets before is only read.
    """
    path = kept_scores(job, datasets)
    if path.exists():
        return read_table(path)
    settings = train.settings_of(job.run)
    splits = train.visible_splits(job.run, settings, None)
    usual = {name: test_sets.load(name) for name in datasets}
    parts = []
    with TemporaryDirectory() as folder, device.single_thread(), device.reproducible():
        trainer = Trainer(Path(folder) / job.name, job.run, splits, None)
        for epoch in range(1, settings.epochs + 1):
            trainer.train_epoch()
            trainer.end_epoch()
            for name, frames in usual.items():
                table = scoring.predict(trainer.network, frames, settings, locate=False)
                parts.append(table.assign(test_set=name, variant="", epoch=epoch))
        load_model(trainer.network, trainer.folder / "best.safetensors")
    chosen = trainer.progress.chosen["epoch"]
    for name, by_variant in datasets.items():
        for variant, dataset in by_variant.items():
            frames = test_sets.load(dataset)
            # There every method forges every film; in the usual test set, perhaps one alone.
            frames = frames[frames["video"].isin(usual[name]["video"])]
            table = scoring.predict(trainer.network, frames, settings, locate=False)
            parts.append(table.assign(test_set=name, variant=variant, epoch=chosen))
    table = pd.concat(parts, ignore_index=True).assign(seed=job.run.seed, chosen=chosen)
    write_table(path, table, {})
    return table


def kept_scores(job: jobs.Training, datasets: dict[str, dict[str, str]]) -> Path:
    """The file in which :func:`scored` keeps its table; other datasets have another file."""
    return home() / "runs" / f"{job.name}-protocol-{digest(datasets, digits=8)}.parquet"


def videos(frames: pd.DataFrame, statistic: str = "mean") -> pd.DataFrame:
    """A row per seed, test set and video: a statistic of the scores of its frames."""
    scores = frames.groupby(VIDEO, sort=False, observed=True)["score"].agg(statistic)
    # Rounding, because the noise of float64 must not rank videos whose means are equal.
    return scores.round(12).reset_index()


def at_best_epoch(frames: pd.DataFrame) -> pd.DataFrame:
    """The scores of videos at the epoch with the highest AUC on them, per seed and test set."""
    parts = []
    for _, of_set in frames.groupby(["seed", "test_set"], observed=True):
        by_epoch = [videos(of_epoch) for _, of_epoch in of_set.groupby("epoch")]
        aucs = [roc_auc_score(rows["label"], rows["score"]) for rows in by_epoch]
        parts.append(by_epoch[aucs.index(max(aucs))])
    return pd.concat(parts)


def protocols(frames: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each protocol: its name, that of the one that it is compared with, and its scores.

    ``frames`` is what :func:`scored` returns.
    """
    usual = frames[frames["variant"] == ""]
    chosen = usual[usual["epoch"] == usual["chosen"]]
    long = frames[frames["variant"] == LONG]
    first = long.groupby(VIDEO, sort=False, observed=True).head(1)
    yield REPORT, "", videos(chosen)
    yield "frames, not videos", REPORT, chosen
    yield LONG, "", videos(long)
    yield "the first of them", LONG, videos(first)
    yield "their median", LONG, videos(long, "median")
    yield "their maximum", LONG, videos(long, "max")
    for variant, rows in frames[~frames["variant"].isin(["", LONG])].groupby("variant"):
        yield variant, REPORT, videos(rows)
    yield "last epoch", REPORT, videos(usual[usual["epoch"] == usual["epoch"].max()])
    yield "best epoch on the test set", REPORT, at_best_epoch(usual)


def main(
    profile: Annotated[str, typer.Argument(help="of the embedded benchmark")] = "study-ff-like",
    worlds: Annotated[int, typer.Option(min=1, help="how many other test sets")] = 3,
) -> None:
    """Write ``reports/benchmarks/protocol-<profile>.csv``: each AUC, and differences of two."""
    grid = jobs.profile(profile).grid
    trainings = jobs.plan(profile, main=True).trainings[: len(grid.seeds)]  # of the first detector
    own, _ = domain_of(trainings[0].run.train_set)
    # False: means over datasets do not leave it out. Of each other domain, only the dataset that
    # gives it its name is taken.
    within = [name for name in grid.test_sets if domain_of(name) == (own, False)]
    others = [name for name in grid.test_sets if domain_of(name) == (name, False)]
    names = [*within, *[name for name in others if name not in within][:worlds]]
    ensure_datasets(*names, *(job.run.train_set for job in trainings))
    datasets = {name: variants(name) for name in names}
    # Not joblib's processes: the loaders of a training start processes of their own.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(joblib.cpu_count(), spawn) as processes:
        frames = pd.concat(processes.map(partial(scored, datasets=datasets), trainings))
    parts = []
    scores = {}
    for protocol, compared_with, rows in protocols(frames):
        place = rows["test_set"].isin(within).map({True: "within", False: "across"})
        rows = rows.assign(protocol=protocol, place=place, collapsed=False)
        scores[protocol] = rows
        parts.append(tables.by_place(rows, by=["protocol"]))
        if compared_with:
            both = pd.concat([scores[compared_with], rows])
            minus = [{"protocol": compared_with}]
            parts.append(tables.by_place(both, by=["protocol"], minus=minus))
    with atomic(home() / "reports" / "benchmarks" / f"protocol-{profile}.csv") as temporary:
        pd.concat(parts)[NUMBERS].round(4).to_csv(temporary, index=False)


if __name__ == "__main__":
    typer.run(main)
