"""The detectors of a report: which of its runs belong together, and what tables call them.

A run has the names that its parameter ``variant`` gives it, see :func:`split`: ``main``, the
detector of its paper; ``modules: without CMCE``, an ablation and its variant; ``ResNet-50``, a
detector beside the papers'. Without any, runs that differ in the seed alone are a detector, which
is named by what differs among those of its paper.
"""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from dfnb.checks import DfnbError
from dfnb.files import stored_report
from dfnb.store import scores
from dfnb.store.reports import score_files
from dfnb.store.runs import StoredRun

FOLD = r"-fold-\d+$"  # how the name of a fold of a cross-fitted dataset ends
MAIN = "main"  # a paper's own detector; of an ablation, what its other variants are compared with
THIS_RUN = "this run"  # the name of the detector whose notebook is open
LONGEST_NAME = 60  # letters of what a name says about settings
# What follows from other parameters, or from the code.
DERIVED = {"data", "start_weights", "version", "numbers"}


class Detector(NamedTuple):
    """Trainings that differ in their seed alone."""

    name: str  # in tables, unique in a report
    paper: str
    ablation: str  # both are empty for main detectors
    variant: str
    train_set: str  # that of the runs; bed-{seed} where each seed has its own
    runs: tuple[StoredRun, ...]  # in the order of their seeds and folds
    is_beside: bool = False  # whether it stands beside the papers' own, as ResNet-50 does


def split(variant: str) -> tuple[str, str]:
    """Ablation and variant of a name such as ``modules: without CMCE``.

    The ablation is empty for a main detector, such as ``ResNet-50``; so is the variant of MAIN.
    """
    ablation, colon, name = variant.partition(": ")
    if colon:
        return ablation, name
    return "", "" if variant == MAIN else variant


def detectors(report: str) -> list[Detector]:
    """The detectors of a report: main ones in the order of their notebooks, then variants.

    Raises :class:`DfnbError` when a detector has a seed twice, and when main detectors that are
    named by ``variant`` have different training sets.
    """
    folder = stored_report(report)
    variants = {}  # run -> the names under which it is shown
    for path in score_files(folder):
        about = scores.read_about(path)
        variants[StoredRun(path.stem, about.record)] = about.variants
    train_sets = pooled_train_sets(variants)
    groups = defaultdict(list)  # runs by what identifies and sorts their detector
    for run, names in variants.items():
        notebook, train_set = run.record.detector.notebook, train_sets[run]
        for ablation, variant in map(split, names):
            groups[bool(ablation), notebook, ablation, variant, train_set, ""].append(run)
        if not names:
            groups[False, notebook, "", "", train_set, _without_seed(run)].append(run)
    in_order = attrgetter("seed", "train_set")
    found = {key: tuple(sorted(groups[key], key=in_order)) for key in sorted(groups)}
    _check_seeds(folder, found.values())
    _check_train_sets(folder, found)
    names = {key: name_of(runs[0].record.detector.title, *key[2:4]) for key, runs in found.items()}
    names.update(_names_of_unnamed(found, train_sets))
    names = _made_unique(names, found)
    return [
        Detector(
            names[key],
            runs[0].parameters.paper,
            *(key[2:4] if key[0] else ("", "")),
            key[4],
            runs,
            not key[0] and bool(key[3]),
        )
        for key, runs in found.items()
    ]


def name_of(title: str, ablation: str, variant: str) -> str:
    """The name of a detector of the paper ``title`` that ``variant`` names, see :func:`split`."""
    return f"{title}, {ablation}: {variant}" if ablation else variant or title


def _without_seed(run: StoredRun) -> str:
    """What identifies a run among those of its paper and training set, but for the seed."""
    # Without ``data``, the identity of the training set: another seed may draw another set.
    options = run.parameters.model_dump(mode="json", exclude={"train_set", "seed", "data"})
    return repr(sorted(options.items()))


def _check_seeds(folder: Path, groups: Iterable[Sequence[StoredRun]]) -> None:
    """Raise :class:`DfnbError` where a detector has a seed twice on one training set.

    ``groups`` are the runs of each detector. The two may differ in the version of their training
    set, for example, or have one ``variant`` and different settings. Metrics would take the scores
    of both for those of one training.
    """
    for runs in groups:
        by_seed = {}  # and fold, of which each has its own training set
        for run in runs:
            other = by_seed.setdefault((run.seed, run.train_set), run)
            if other is not run:
                raise DfnbError(
                    f"{folder} has two runs of one detector and seed, {other.id} and {run.id}, "
                    f"perhaps on two versions of {run.train_set}; move the score file of one away"
                )


def _check_train_sets(folder: Path, groups: Mapping[tuple, Sequence[StoredRun]]) -> None:
    """Raise :class:`DfnbError` where named main detectors differ in their training sets."""
    train_sets = sorted({key[4] for key in groups if not key[0] and not key[5]})
    if len(train_sets) > 1:
        raise DfnbError(
            f"{folder} has main detectors of several training sets, {', '.join(train_sets)}; give "
            "each a report of its own"
        )


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


def _names_of_unnamed(
    groups: Mapping[tuple, Sequence[StoredRun]],
    train_sets: Mapping[StoredRun, str],
) -> dict[tuple, str]:
    """By key: the name of each detector without a ``variant``.

    It is its title, then what differs among the main detectors of its paper. A setting that an
    earlier version of the package did not have counts as different.
    """
    values = {
        key: _stated(runs[0], train_sets[runs[0]]) for key, runs in groups.items() if not key[0]
    }
    names = {}
    for key in (key for key in values if key[5]):
        of_paper = [other for other in values.values() if other["paper"] == values[key]["paper"]]
        differing = [
            f"{name} {_in_words(value)}"
            for name, value in values[key].items()
            if any(name not in other or other[name] != value for other in of_paper)
        ]
        text = textwrap.shorten(", ".join(differing), LONGEST_NAME, placeholder=" …")
        names[key] = ", ".join(filter(None, [groups[key][0].record.detector.title, text]))
    return names


def _made_unique(
    names: Mapping[tuple, str],
    groups: Mapping[tuple, Sequence[StoredRun]],
) -> dict[tuple, str]:
    """The names, with the end of the run's id after those that two detectors have.

    As when two papers' notebooks have a variant ``ResNet-50``, or only the version of the code
    differs.
    """
    count = Counter(names.values())
    return {
        key: f"{name} ({groups[key][0].id.rpartition('-')[2]})" if count[name] > 1 else name
        for key, name in names.items()
    }


def _stated(run: StoredRun, train_set: str) -> dict[str, Any]:
    """The parameters of a run that a reader sets, but the seed; ``train_set`` is the pooled one."""
    values = run.parameters.model_dump(mode="json", exclude={"settings", "seed", *DERIVED})
    return {**values, "train_set": train_set, **run.parameters.settings}


def _in_words(value: Any) -> str:
    """A parameter's value in a name: lists as their elements."""
    if isinstance(value, list):
        return " + ".join(map(_in_words, value)) or "none"
    return "none" if value is None else str(value)
