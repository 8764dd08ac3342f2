"""The detectors of a report: which of its runs belong together, and what tables call them.

A run has the names that the parameter ``variant`` of its calls gives it: ``main``, the detector of
its paper; ``modules: without CMCE``, an ablation and its variant; ``ResNet-50``, a detector beside
the papers'. Runs of one name are one detector where they differ in their seed alone; else what
differs between them is in the names of their detectors: ``Baseline, lr 0.0005``.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

import pandas as pd

from dfnb.store import scores
from dfnb.store.reports import score_files
from dfnb.store.runs import StoredRun
from facesets.files import stored_report

FOLD = r"-fold-\d+$"  # how the name of a fold of a cross-fitted dataset ends
MAIN = "main"  # a paper's own detector; of an ablation, what its other variants are compared with
THIS_RUN = "this run"  # the name of the detector whose notebook is open
# What tells detectors apart without standing in their names, because no reader could read it.
DIGESTS = ("data", "start_weights", "version", "numbers")


class Detector(NamedTuple):
    """Trainings that differ in their seed alone."""

    name: str  # in tables, unique in a report
    paper: str
    ablation: str  # both are empty for main detectors
    variant: str
    train_set: str  # that of the runs; bed-{seed} where each seed has its own
    runs: tuple[StoredRun, ...]  # in the order of their seeds and folds
    is_beside: bool = False  # whether it stands beside the papers' own, as ResNet-50 does


def split(name: str) -> tuple[str, str]:
    """Ablation and variant of a run's name such as ``modules: without CMCE``.

    The ablation is empty for a main detector, such as ``ResNet-50``; so is the variant of MAIN.
    """
    ablation, colon, variant = name.partition(": ")
    return (ablation, variant) if colon else ("", "" if name == MAIN else name)


def name_of(title: str, name: str) -> str:
    """What tables call a detector of the paper ``title`` whose runs have this name."""
    if name == MAIN:
        return title
    return f"{title}, {name}" if split(name)[0] else name


def detectors(report: str) -> list[Detector]:
    """The detectors of a report: main ones in the order of their notebooks, then variants.

    Where two would have one name in tables, each has the end of the id of its first run there:
    variants of two papers' notebooks, or runs that only :data:`DIGESTS` tell apart.
    """
    rows = _table_of_runs(report)
    order = ["is_ablation", "notebook", "ablation", "is_beside", "name"]
    found = [
        detector
        for _, of_name in (rows.groupby(order) if len(rows) else ())
        for detector in _detectors_of_name(of_name)
    ]
    count = Counter(each.name for each in found)
    return [
        each._replace(name=f"{each.name} ({each.runs[0].id.rpartition('-')[2]})")
        if count[each.name] > 1
        else each
        for each in found
    ]


def _table_of_runs(report: str) -> pd.DataFrame:
    """A row per run of a report and name of it: its place in a table, and what was trained."""
    rows = []
    for path in score_files(stored_report(report)):
        about = scores.read_about(path)
        run = StoredRun(path.stem, about.record)
        for name in about.variants or [MAIN]:
            ablation, variant = split(name)
            place = {
                "is_ablation": bool(ablation),
                "notebook": run.record.detector.notebook,
                "ablation": ablation,
                "is_beside": bool(variant) and not ablation,
                "name": name,
            }
            rows.append({"run": run, **place, "trained": _facts(run)})
    table = pd.DataFrame(rows)
    return table.assign(train_set=_pooled_train_sets(table["run"])) if rows else table


def _facts(run: StoredRun) -> dict[str, str]:
    """What was trained but for the seed, by name: settings, and what else identifies it."""
    own = {"seed", "train_set", "settings"}
    values: dict[str, Any] = {**run.parameters.model_dump(exclude=own), **run.parameters.settings}
    return {name: str(value).replace("'", "") for name, value in values.items()}


def _pooled_train_sets(runs: pd.Series) -> pd.Series:
    """The training set of each run, under one name where each seed or fold has its own.

    It is ``bed-{seed}`` for bed-30 of seed 30 if another of the runs has, for example, bed-31 of
    seed 31, and ``hidf-sample-fold-{fold}`` for the folds of a cross-fitted dataset. A single set
    that happens to end so is a set like any other.
    """
    own = runs.map(lambda run: run.train_set)
    pooled = runs.map(
        lambda run: re.sub(
            rf"(?<=-){run.seed}$", "{seed}", re.sub(FOLD, "-fold-{fold}", run.train_set)
        )
    )
    return pooled.where(own.groupby(pooled).transform("nunique") > 1, own)


def _detectors_of_name(rows: pd.DataFrame) -> list[Detector]:
    """The detectors whose runs have one name: one for all runs that differ in their seed alone."""
    facts = pd.DataFrame([*rows["trained"]], index=rows.index)
    facts.insert(0, "train_set", rows["train_set"])
    own_set = rows["run"].map(lambda run: run.train_set)
    # Each seed's own set has other data; only two versions of one set are two things to train on.
    versions = facts.groupby(own_set)["data"].transform("nunique")
    facts["data"] = facts["data"].where(versions > 1, "")
    # nunique ignores NaN: a setting that is newer than one of the runs is no difference.
    differ = [name for name in facts if facts[name].nunique() > 1]
    found = []
    for _, same in facts.fillna("").groupby(differ or "train_set"):
        runs = sorted(rows.loc[same.index, "run"], key=lambda run: (run.seed, run.train_set))
        first = rows.loc[same.index[0]]
        name = name_of(runs[0].record.detector.title, first["name"])
        words = [f"{key} {same[key].iloc[0]}" for key in differ if key not in DIGESTS]
        variant = split(first["name"])[1] if first["is_ablation"] else ""
        found.append(
            Detector(
                ", ".join([name, *words]),
                runs[0].parameters.paper,
                first["ablation"],
                variant,
                first["train_set"],
                tuple(runs),
                bool(first["is_beside"]),
            )
        )
    return found
