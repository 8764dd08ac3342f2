"""A report is a set of runs: the rows of their scores that it shows, and what tables need beside.

::

    reports/<name>/profile.yaml                 the profile's entries; only of a closed report
                   scores/<run id>.parquet      of a run, see dfnb.store.scores
                   weights/<run id>.safetensors of the main detectors' first seeds
                   weights/<run id>-mean-mask.png  their mean masks, see mean_mask_path
                   records/<notebook>.json      says that a notebook was executed, see finish

A report is *closed* if there is a profile of its name. Then only ``dfnb run`` and ``dfnb report``
write there, its runs have ``roles`` (main detector, or variant of an ablation), and a notebook by
hand only reads it. Any other report is *open*: each notebook adds its run.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dfnb.checks import DfnbError, read_yaml
from dfnb.files import find, home, locked, read_table, report_folder
from dfnb.records import Clock, write_record
from dfnb.store import scores
from dfnb.store.runs import StoredRun
from dfnb.store.scores import Condition, Role

STANDING_ALONE = "baselines"  # the ablation whose variants stand beside the papers' main detectors
THIS_RUN = "this run"  # the name of the detector whose notebook is open
WRITER = "DFNB_WRITES"  # environment variable: the closed report that this process may write to


def is_closed(report: str) -> bool:
    """Whether there is a profile of this name."""
    return find(f"notebooks/profiles/{report}.yaml").is_file()


def is_writable(report: str) -> bool:
    """Whether this process saves figures, tables and records there; see the head of the module."""
    return not is_closed(report) or os.environ.get(WRITER) == report


def score_path(folder: Path, name: str) -> Path:
    """The score file of a run in a report's ``folder``."""
    return folder / "scores" / f"{name}.parquet"


def weights_path(folder: Path, run_id: str) -> Path:
    """The weights file of a run in a report's ``folder``; not every run has one."""
    return folder / "weights" / f"{run_id}.safetensors"


def mean_mask_path(folder: Path, run_id: str) -> Path:
    """The mean mask of a run's training fakes, beside its weights: 16-bit grey, PNG."""
    return folder / "weights" / f"{run_id}-mean-mask.png"


def profile_of(report: str) -> dict[str, Any]:
    """The profile as the last ``dfnb run`` copied it; empty for a report that has none."""
    path = report_folder(report) / "profile.yaml"
    return read_yaml(path) if path.exists() else {}


def score_files(folder: Path) -> list[Path]:
    """The score files in a report or in a folder of reports."""
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    return sorted(folder.rglob("scores/[!.]*.parquet"))


# ---------------------------------------------------------------- writing


def keep(
    report: str,
    run: StoredRun,
    shown: Iterable[Condition],
    roles: Sequence[Role] | None = None,
) -> Path:
    """Put the scores of a run under the conditions ``shown`` into a report; returns the file.

    What the report has under other conditions stays, see :func:`dfnb.store.scores.add`. ``roles``
    are those of a closed report.
    """
    source = scores.collect(run, report)
    with locked(source.parent.parent, wait_s=600):  # rows and metadata of one moment
        rows = scores.select(read_table(source), shown)
        about = scores.read_about(source)
    names = {*rows["test_set"]}
    test_sets = {name: kept for name, kept in about.test_sets.items() if name in names}
    path = score_path(report_folder(report), run.id)
    update = {"test_sets": test_sets, "roles": roles}
    scores.add(path, rows, about.model_copy(update=update))
    return path


def write_roles(path: Path, roles: Sequence[Role]) -> None:
    """Replace the roles in a score file's metadata, where a change of its profile changed them.

    A file from an open report, to which a profile was added, has none yet.
    """
    metadata = scores.read_about(path)
    if metadata.roles != list(roles):
        scores.write(path, read_table(path), metadata.model_copy(update={"roles": list(roles)}))


def set_replaced_aside(report: str, run: StoredRun) -> None:
    """Move what the scores of a new run replace to the report's folder ``replaced``, and say so.

    In a closed report, that are scores, weights and mean mask of the runs of the same notebook and
    seed all of whose roles the new run has; they had other settings or data. A run that keeps a
    role stays, without the others.
    """
    folder = report_folder(report)
    new = {*scores.read_about(score_path(folder, run.id)).roles}
    for path in score_files(folder):
        about = scores.read_about(path)
        other = StoredRun(path.stem, about.record)
        is_of_one = about.record.detector.notebook == run.record.detector.notebook
        shared = new & {*(about.roles or ())}
        if other.id == run.id or not (is_of_one and other.seed == run.seed and shared):
            continue
        if left := [role for role in about.roles if role not in new]:
            write_roles(path, left)
            continue
        aside = folder / "replaced"
        for old in (path, weights_path(folder, other.id), mean_mask_path(folder, other.id)):
            if old.exists():
                (aside / old.parent.name).mkdir(parents=True, exist_ok=True)
                old.replace(aside / old.parent.name / old.name)
        print(f"{run.id} replaces {other.id}, whose files are now in {aside}")


# ---------------------------------------------------------------- which detectors there are


class Detector(NamedTuple):
    """Trainings that differ in their seed alone."""

    name: str  # in tables, unique in a report
    paper: str
    ablation: str  # both are empty for main detectors
    variant: str
    train_set: str  # that of the runs; bed-{seed} where each seed has its own
    runs: tuple[StoredRun, ...]  # in the order of their seeds


def detectors(report: str) -> list[Detector]:
    """The detectors of a report: main ones in the order of their notebooks, then variants.

    In a closed report, the roles of the runs name the detectors, and variants are ordered by
    notebook and name. In an open report, runs that differ in the seed alone form a detector. All
    are main ones; where a paper has several, their names state the parameters in which they differ.

    Raises :class:`DfnbError` when main detectors of a closed report have different training sets,
    when a detector of an open report has a seed twice, and for files of both kinds of report.
    """
    folder = report_folder(report)
    roles = {}  # run -> its ablations and variants; None in an open report
    for path in score_files(folder):
        metadata = scores.read_about(path)
        roles[StoredRun(path.stem, metadata.record)] = metadata.roles
    without = [run for run, its_roles in roles.items() if its_roles is None]
    if without and len(without) < len(roles):  # two detectors might have one name
        raise DfnbError(
            f"{folder} has score files of a profile and others, such as that of {without[0].id}; "
            "move those of one kind away"
        )
    train_sets = pooled_train_sets(roles)
    if without:
        return _of_parameters(folder, train_sets)
    return _of_roles(folder, roles, train_sets)


def _of_roles(
    folder: Path,
    roles: Mapping[StoredRun, Sequence[Role]],
    train_sets: Mapping[StoredRun, str],
) -> list[Detector]:
    """The :func:`detectors` of a closed report; ``train_sets`` of :func:`pooled_train_sets`."""
    by_role = defaultdict(list)  # runs by what identifies and sorts their detector
    for run, its_roles in roles.items():
        for ablation, variant in its_roles:
            # The variants of STANDING_ALONE are main detectors, too, named by the variant.
            is_variant = ablation not in ("", STANDING_ALONE)
            notebook = run.record.detector.notebook
            by_role[is_variant, notebook, ablation, variant, train_sets[run]].append(run)
    found = []
    for key in sorted(by_role):
        is_variant, _, ablation, variant, train_set = key
        runs = tuple(sorted(by_role[key], key=lambda run: run.seed))
        title = runs[0].record.detector.title
        role = (ablation, variant) if is_variant else ("", "")
        name = f"{title}, {ablation}: {variant}" if is_variant else variant or title
        found.append(Detector(name, runs[0].record.parameters.paper, *role, train_set, runs))
    main_sets = sorted({detector.train_set for detector in found if not detector.ablation})
    if len(main_sets) > 1:
        raise DfnbError(
            f"{folder} has main detectors of several training sets, {', '.join(main_sets)}; give "
            "each a report of its own"
        )
    return found


def _of_parameters(folder: Path, train_sets: Mapping[StoredRun, str]) -> list[Detector]:
    """The :func:`detectors` of an open report; ``train_sets`` of :func:`pooled_train_sets`."""
    by_parameters = defaultdict(list)
    for run, train_set in train_sets.items():
        # Without ``data``, the identity of the training set: another seed may draw another set.
        options = run.parameters.model_dump(mode="json", exclude={"train_set", "seed", "data"})
        key = (run.record.detector.notebook, train_set, repr(sorted(options.items())))
        by_parameters[key].append(run)
    groups = [
        tuple(sorted(by_parameters[key], key=lambda run: run.seed)) for key in sorted(by_parameters)
    ]
    _check_seeds(folder, groups)
    return [
        Detector(name, runs[0].parameters.paper, "", "", train_sets[runs[0]], runs)
        for name, runs in zip(_names(groups, train_sets), groups)
    ]


def _check_seeds(folder: Path, groups: Iterable[Sequence[StoredRun]]) -> None:
    """Raise :class:`DfnbError` where a detector of an open report has a seed twice.

    ``groups`` are the runs of each detector. The two may differ in the version of their training
    set, for example. Metrics would take the scores of both for those of one training.
    """
    for runs in groups:
        by_seed = {}
        for run in runs:
            other = by_seed.setdefault(run.seed, run)
            if other is not run:
                raise DfnbError(
                    f"{folder} has two runs of one detector and seed, {other.id} and {run.id}, "
                    f"perhaps on two versions of {run.train_set}; move the score file of one away"
                )


def pooled_train_sets(runs: Iterable[StoredRun]) -> dict[StoredRun, str]:
    """The training set of each run, under one name where each seed has its own.

    It is ``bed-{seed}`` for bed-30 of seed 30 if another of the runs has, for example, bed-31 of
    seed 31. A single set that happens to end in its seed is a set like any other.
    """
    own_sets = defaultdict(set)  # name with {seed} -> the training sets that it stands for
    pooled = {run: re.sub(rf"-{run.seed}$", "-{seed}", run.train_set) for run in runs}
    for run, name in pooled.items():
        own_sets[name].add(run.train_set)
    return {run: name if len(own_sets[name]) > 1 else run.train_set for run, name in pooled.items()}


def _names(groups: Sequence[Sequence[StoredRun]], train_sets: Mapping[StoredRun, str]) -> list[str]:
    """The name of each detector: its title, then what differs among the detectors of its paper.

    A setting that an earlier version of the package did not have counts as different.

    Args:
        groups: The runs of each detector.
        train_sets: See :func:`pooled_train_sets`.
    """
    parameters_of_all = []
    for runs in groups:
        parameters = runs[0].parameters
        values = parameters.model_dump(mode="json", exclude={"settings", "seed", "data"})
        values = {**values, "train_set": train_sets[runs[0]], **parameters.settings}
        parameters_of_all.append(values)
    names = []
    for values, runs in zip(parameters_of_all, groups):
        of_paper = [other for other in parameters_of_all if other["paper"] == values["paper"]]
        differing = [
            f"{name} {value}"
            for name, value in values.items()
            if any(name not in other or other[name] != value for other in of_paper)
        ]
        names.append(", ".join([runs[0].record.detector.title, *differing]))
    return names


# ---------------------------------------------------------------- notebooks


def notebook_record(report: str, notebook: str) -> Path:
    """The record that :func:`finish` writes, relative to the home, as the Snakefile needs it."""
    return Path("reports", report, "records", f"{notebook}.json")


def file_name(report: str, name: str, run: StoredRun | None) -> str:
    """The name, without suffix, of a report's table or figure of this run: ``name``.

    In an open report it has the run's id, too, since files of several runs are kept. None: of no
    single run.
    """
    return f"{name}-{run.id}" if run and not is_closed(report) else name


def finish(
    notebook: str,
    p: Any,
    clock: Clock,
    outputs: Iterable[Path] = (),
    run: StoredRun | None = None,
    **entries: Any,
) -> dict[str, Any]:
    """Write the record of an executed notebook as its last step; it proves that the rest ran.

    Nothing is written for a closed report unless ``dfnb run`` executes the notebook.

    Args:
        notebook: Name of the notebook.
        p: Its parameters, of :mod:`dfnb.running.parameters`.
        clock: Started when the notebook began.
        outputs: The files that it wrote; the record has the sha256 of each, by file name.
        run: That of a paper's notebook; None for any other notebook.
        entries: Other entries of the record, such as the ids of the runs shown.

    Returns the entries of the record that say what the notebook cost.
    """
    usage = clock.usage()
    if is_writable(p.report):
        path = home() / notebook_record(p.report, file_name(p.report, notebook, run))
        entries |= {"run": run.id} if run else {}
        write_record(path, p.model_dump(mode="json"), outputs, **entries, **usage)
    return usage
