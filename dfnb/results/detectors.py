"""The detectors of a report: which of its runs belong together, and what tables call them.

A run has the names that the parameter ``variant`` of its calls gives it: ``main``, the detector of
its paper; ``modules: without CMCE``, an ablation and its variant; ``ResNet-50``, a detector beside
the papers'. Runs of one name are one detector where they differ in their seed alone; else what
differs between them is in the names of their detectors: ``Baseline, lr 0.0005``.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import NamedTuple

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
    train_set: str  # that of the runs; ff-like-{seed} where each seed has its own
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
    runs_of = defaultdict(list)  # by their name
    for path in score_files(stored_report(report)):
        about = scores.read_about(path)
        for name in about.variants or [MAIN]:
            run = StoredRun(path.stem, about.record)
            runs_of[_named(run, name)].append(run)
    train_sets = _pooled_train_sets(chain(*runs_of.values()))
    found = [
        detector
        for named in sorted(runs_of)
        for detector in _detectors_of(named, runs_of[named], train_sets)
    ]
    count = Counter(each.name for each in found)
    return [
        each._replace(name=f"{each.name} ({each.runs[0].id.rpartition('-')[2]})")
        if count[each.name] > 1
        else each
        for each in found
    ]


class _Named(NamedTuple):
    """What runs of one name have in common, in the order of tables."""

    is_ablation: bool
    notebook: str
    ablation: str
    is_beside: bool
    name: str


def _named(run: StoredRun, name: str) -> _Named:
    """What a run has in common with others of this name."""
    ablation, variant = split(name)
    notebook = run.record.detector.notebook
    return _Named(bool(ablation), notebook, ablation, bool(variant) and not ablation, name)


def _detectors_of(
    named: _Named, runs: Sequence[StoredRun], train_sets: Mapping[StoredRun, str]
) -> Iterator[Detector]:
    """The detectors whose runs have one name: one for all runs that differ in their seed alone."""
    versions = defaultdict(set)  # of each training set
    for run in runs:
        versions[run.train_set].add(run.parameters.data)
    facts = {}
    for run in runs:
        # Each seed's own set has other data; only two versions of one set are two to train on.
        data = run.parameters.data if len(versions[run.train_set]) > 1 else ""
        facts[run] = {"train_set": train_sets[run], "data": data, **_facts(run)}
    # A setting that is newer than one of the runs is no difference.
    values_of = defaultdict(set)
    for name, value in chain(*(each.items() for each in facts.values())):
        values_of[name].add(value)
    differ = [name for name, values in values_of.items() if len(values) > 1]
    groups = defaultdict(list)
    for run in sorted(runs, key=attrgetter("seed", "train_set")):
        groups[tuple(facts[run].get(name, "") for name in differ)].append(run)
    for values, same in sorted(groups.items(), key=itemgetter(0)):
        words = [f"{name} {value}" for name, value in zip(differ, values) if name not in DIGESTS]
        title = name_of(same[0].record.detector.title, named.name)
        yield Detector(
            name=", ".join([title, *words]),
            paper=same[0].parameters.paper,
            ablation=named.ablation,
            variant=split(named.name)[1] if named.is_ablation else "",
            train_set=train_sets[same[0]],
            runs=tuple(same),
            is_beside=named.is_beside,
        )


def _facts(run: StoredRun) -> dict[str, str]:
    """What was trained but for seed and training set, by name: settings, and what else counts."""
    p = run.parameters
    names = ("seen_methods", "frames_per_video", "start_weights", "version", "numbers")
    values = {name: getattr(p, name) for name in names} | p.settings
    return {name: str(value).replace("'", "") for name, value in values.items()}


def _pooled_train_sets(runs: Iterable[StoredRun]) -> dict[StoredRun, str]:
    """The training set of each run, under one name where each seed or fold has its own.

    It is ``ff-like-{seed}`` for ff-like-30 of seed 30 if another of the runs has, for example,
    ff-like-31 of seed 31, and ``hidf-sample-fold-{fold}`` for the folds of a cross-fitted dataset.
    A single set that happens to end so is a set like any other.
    """
    own_sets = defaultdict(set)  # name with {seed} or {fold} -> the training sets it stands for
    pooled = {}
    for run in runs:
        of_fold = re.sub(FOLD, "-fold-{fold}", run.train_set)
        pooled[run] = re.sub(rf"(?<=-){run.seed}$", "{seed}", of_fold)
        own_sets[pooled[run]].add(run.train_set)
    return {run: name if len(own_sets[name]) > 1 else run.train_set for run, name in pooled.items()}
