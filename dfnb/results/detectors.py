"""The detectors of a report: which of its runs belong together, and what tables call them.

A run has the names that its parameter ``variant`` gives it: ``main``, the detector of its paper;
``modules: without CMCE``, an ablation and its variant; ``ResNet-50``, a detector beside the
papers'. Without any it is ``main``, too, with what its reader changed: ``main, lr 0.0005``.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from dfnb.store import scores
from dfnb.store.reports import score_files
from dfnb.store.runs import StoredRun
from facesets.checks import DfnbError
from facesets.files import stored_report

FOLD = r"-fold-\d+$"  # how the name of a fold of a cross-fitted dataset ends
MAIN = "main"  # a paper's own detector; of an ablation, what its other variants are compared with
THIS_RUN = "this run"  # the name of the detector whose notebook is open


class Detector(NamedTuple):
    """Trainings that differ in their seed alone."""

    name: str  # in tables, unique in a report
    paper: str
    ablation: str  # both are empty for main detectors
    variant: str
    train_set: str  # that of the runs; bed-{seed} where each seed has its own
    runs: tuple[StoredRun, ...]  # in the order of their seeds and folds
    is_beside: bool = False  # whether it stands beside the papers' own, as ResNet-50 does


def is_main(name: str) -> bool:
    """Whether a run is called ``main``, perhaps with what was changed; "": it has no name."""
    return name in ("", MAIN) or name.startswith(f"{MAIN}, ")


def split(name: str) -> tuple[str, str]:
    """Ablation and variant of a run's name such as ``modules: without CMCE``.

    The ablation is empty for a main detector, such as ``ResNet-50``; so is the variant of MAIN.
    """
    if is_main(name):
        return "", ""
    ablation, colon, variant = name.partition(": ")
    return (ablation, variant) if colon else ("", name)


def name_of(title: str, name: str) -> str:
    """What tables call a detector of the paper ``title`` whose runs have this name."""
    if is_main(name):
        return ", ".join(filter(None, [title, name.partition(", ")[2]]))
    return f"{title}, {name}" if split(name)[0] else name


def detectors(report: str) -> list[Detector]:
    """The detectors of a report: main ones in the order of their notebooks, then variants.

    Where two would have one name in tables, each has the end of the id of its first run there: they
    have one seed, for example, or a variant of two papers' notebooks. Raises :class:`DfnbError`
    when main detectors that are named by ``variant`` have different training sets.
    """
    folder = stored_report(report)
    run_names = {}  # run -> the names under which it is shown
    for path in score_files(folder):
        about = scores.read_about(path)
        run_names[StoredRun(path.stem, about.record)] = about.variants or [""]
    train_sets = pooled_train_sets(run_names)
    groups = defaultdict(list)
    for run, names in run_names.items():
        for name in names:
            groups[_key(run, name, train_sets[run])].append(run)
    _check_train_sets(folder, groups)
    mains = {key.train_set for key in groups if not key.is_ablation}
    found = [
        _detector(key, runs, len(mains) > 1)
        for key in sorted(groups)
        for runs in _once_per_seed(groups[key])
    ]
    count = Counter(each.name for each in found)
    return [
        each._replace(name=f"{each.name} ({each.runs[0].id.rpartition('-')[2]})")
        if count[each.name] > 1
        else each
        for each in found
    ]


class _Key(NamedTuple):
    """What identifies and sorts a detector."""

    is_ablation: bool
    notebook: str
    ablation: str
    is_beside: bool
    name: str
    train_set: str
    settings: str  # of runs whose reader gave no name; else empty


def _key(run: StoredRun, name: str, train_set: str) -> _Key:
    """The detector of a run by one of its names; ``train_set`` is the pooled one."""
    ablation, variant = split(name)
    # Nobody said that runs without a name are one detector: their settings must be the same.
    settings = _without_seed(run) if is_main(name) and name != MAIN else ""
    is_beside = bool(variant) and not ablation
    notebook = run.record.detector.notebook
    return _Key(bool(ablation), notebook, ablation, is_beside, name, train_set, settings)


def _detector(key: _Key, runs: Sequence[StoredRun], names_train_set: bool) -> Detector:
    """The detector of these runs; ``names_train_set``: where its reader gave no name."""
    name = name_of(runs[0].record.detector.title, key.name)
    name += f", train_set {key.train_set}" if key.settings and names_train_set else ""
    paper, variant = runs[0].parameters.paper, split(key.name)[1] if key.is_ablation else ""
    return Detector(name, paper, key.ablation, variant, key.train_set, tuple(runs), key.is_beside)


def _check_train_sets(folder: Path, groups: Iterable[_Key]) -> None:
    """Raise :class:`DfnbError` where named main detectors differ in their training sets."""
    named = {key.train_set for key in groups if not key.is_ablation and not key.settings}
    if len(named) > 1:
        raise DfnbError(
            f"{folder} has main detectors of several training sets, {', '.join(sorted(named))}; "
            "give each a report of its own"
        )


def _once_per_seed(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """The runs of one name as detectors: together, but for those whose seed another one has, too.

    Each fold of a dataset has its own run of a seed. Others may differ in the version of their
    training set, for example. Together, metrics would take the scores of both for those of one
    training.
    """
    training = attrgetter("seed", "train_set")
    count = Counter(map(training, runs))
    ordered = sorted(runs, key=training)
    together = [run for run in ordered if count[training(run)] == 1]
    return [*filter(None, [together]), *([run] for run in ordered if count[training(run)] > 1)]


def _without_seed(run: StoredRun) -> str:
    """What identifies a run among those of its paper and training set, but for the seed."""
    # Without ``data``, the identity of the training set: another seed may draw another set.
    options = run.parameters.model_dump(mode="json", exclude={"train_set", "seed", "data"})
    return repr(sorted(options.items()))


def pooled_train_sets(runs: Iterable[StoredRun]) -> dict[StoredRun, str]:
    """The training set of each run, under one name where each seed or fold has its own.

    It is ``bed-{seed}`` for bed-30 of seed 30 if another of the runs has, for example, bed-31 of
    seed 31, and ``hidf-sample-fold-{fold}`` for the folds of a cross-fitted dataset. A single set
    that happens to end so is a set like any other.
    """
    own_sets = defaultdict(set)  # name with {seed} or {fold} -> the training sets it stands for
    pooled = {}
    for run in runs:
        of_fold = re.sub(FOLD, "-fold-{fold}", run.train_set)
        pooled[run] = re.sub(rf"(?<=-){run.seed}$", "{seed}", of_fold)
    for run, name in pooled.items():
        own_sets[name].add(run.train_set)
    return {run: name if len(own_sets[name]) > 1 else run.train_set for run, name in pooled.items()}
