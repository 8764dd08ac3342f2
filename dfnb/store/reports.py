"""A report is a set of runs: copies of their scores, and everything needed to tabulate them.

::

    reports/<name>/profile.yaml                 copy of the profile; only of a closed report
                   test_sets/<name>.parquet     one row per frame: KEYS
                   scores/<run id>.parquet      of a run
                   weights/<run id>.safetensors of the main detectors' first seeds
                   weights/<run id>-mean-mask.png  their mean masks, see mean_mask_path
                   records/<notebook>.json      says that a notebook was executed, see finish

The rows of a score file name their :class:`~dfnb.store.scores.Condition` and, in ``frame_row``,
their place in the table of the test set. The metadata are the ``record`` of the run; the
``fingerprints`` of the test sets; and the ``shared_crops`` of those of which it is known, see
:data:`dfnb.store.scores.About`.

A report is *closed* if there is a profile of its name. Then only ``dfnb run`` and ``dfnb report``
write there, its runs have ``roles`` (main detector, or variant of an ablation), and a notebook by
hand only reads it. Any other report is *open*: each notebook adds its run.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dfnb.checks import DfnbError, read_yaml
from dfnb.files import find, home, locked, read_metadata, read_table, report_folder, write_table
from dfnb.records import Clock, write_record
from dfnb.store.runs import StoredRun, TrainingRecord
from dfnb.store.scores import (
    CONDITION,
    KEY_TYPES,
    KEYS,
    About,
    Condition,
    Tables,
    by_condition,
    is_same,
    read_scores,
    slim,
)

STANDING_ALONE = "baselines"  # the ablation whose variants stand beside the papers' main detectors
THIS_RUN = "this run"  # the name of the detector whose notebook is open
WRITER = "DFNB_WRITES"  # environment variable: the closed report that this process may write to
Role = tuple[str, str]  # ablation and variant; ("", "") is the main detector


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


def test_set_path(folder: Path, name: str) -> Path:
    """The frames of a test set in a report's ``folder``."""
    return folder / "test_sets" / f"{name}.parquet"


def profile_of(report: str) -> dict[str, Any]:
    """The profile as the last ``dfnb run`` copied it; empty for a report that has none."""
    path = report_folder(report) / "profile.yaml"
    return read_yaml(path) if path.exists() else {}


def test_sets(report: str) -> dict[str, dict[str, Any]]:
    """By test set of a report: the metadata of its file, :func:`dfnb.data.test_sets.metadata`."""
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    paths = sorted(report_folder(report).glob("test_sets/[!.]*.parquet"))
    return {path.stem: read_metadata(path) for path in paths}


def score_files(folder: Path) -> list[Path]:
    """The score files of the runs in a report or in a folder of reports."""
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    return sorted(folder.rglob("scores/[!.]*.parquet"))


# ---------------------------------------------------------------- writing


def write_scores(report: str, name: str, tables: Tables, about: About, **metadata: Any) -> Path:
    """Write a score file into a report; returns its path.

    The frames of a test set are written once, as ``test_sets/<name>.parquet``.

    Args:
        report: Name of the report.
        name: Of the file: the id of the run.
        tables: For each condition a table with KEYS and ``log_odds``, measures, or both.
        about: What is kept about each test set; its ``fingerprint`` changes with its frames.
        metadata: The ``record`` of the run, in a closed report also its ``roles``.

    Raises :class:`DfnbError` when the report has another version of a test set.
    """
    folder = report_folder(report)
    path = score_path(folder, name)
    parts = []
    with locked(folder / "test_sets", wait_s=600):  # trainings in parallel append to one file
        for condition, table in tables.items():
            frames = _with_frames(folder, condition.test_set, table, about[condition.test_set])
            # The place of each row's frame in the stored test set, which has each frame once.
            frame_row = table[list(KEYS)].astype(KEY_TYPES).merge(frames, how="left")["frame_row"]
            rows = slim(table).drop(columns=list(KEYS))
            parts.append(rows.assign(**condition._asdict(), frame_row=frame_row.to_numpy()))
        # Without any test set the file has no rows, but proves that the training ended.
        rows = pd.concat(parts) if parts else pd.DataFrame(columns=CONDITION)
        metadata["fingerprints"] = {key: kept["fingerprint"] for key, kept in about.items()}
        shared = {key: kept.get("shared_crops") for key, kept in about.items()}
        if any(shared.values()):
            metadata["shared_crops"] = {key: counts for key, counts in shared.items() if counts}
        write_table(path, rows, metadata)
    return path


def write_roles(path: Path, roles: Sequence[Role]) -> None:
    """Replace the roles in a score file's metadata, where a change of its profile changed them.

    A file from an open report, to which a profile was added, has none yet.
    """
    metadata = read_metadata(path)
    wanted = [list(role) for role in roles]  # as JSON has them
    if metadata.get("roles") != wanted:
        write_table(path, read_table(path), {**metadata, "roles": wanted})


def _with_frames(
    folder: Path,
    test_set: str,
    table: pd.DataFrame,
    about: Mapping[str, Any],
) -> pd.DataFrame:
    """Add the frames of ``table`` to the stored test set, and return all that it then has.

    The result has each frame once: its KEYS, and as ``frame_row`` its place in the test set.
    Raises :class:`DfnbError` where the stored test set has another fingerprint than ``about``.
    """
    keys = table[list(KEYS)].astype(KEY_TYPES)
    path = test_set_path(folder, test_set)
    stored = keys.head(0)  # none yet, with the same types
    if path.exists():
        if read_metadata(path)["fingerprint"] != about["fingerprint"]:
            raise DfnbError(
                f"{path} is of another version of {test_set}; move the folders scores "
                f"and test_sets of {folder} away, then run what made it again"
            )
        stored = read_table(path)
    frames = pd.concat([stored, keys]).drop_duplicates(ignore_index=True)
    if len(frames) > len(stored):
        # shared_crops is of one run, and is in its score file.
        metadata = {name: value for name, value in about.items() if name != "shared_crops"}
        write_table(path, frames, metadata)
    return frames.assign(frame_row=np.arange(len(frames), dtype="int32"))


def add_run(report: str, run: StoredRun, tables: Tables, about: About) -> None:
    """Add a run, or further tables of it, to an open report.

    Tables that are there stay as they are; with a new one, what is said about its test sets is
    replaced.
    """
    with locked(report_folder(report), wait_s=600):
        known, known_about = read_run(report, run.id)
        if all(condition in known for condition in tables):
            return
        record = run.record.model_dump(mode="json")
        write_scores(report, run.id, {**tables, **known}, {**known_about, **about}, record=record)


def remove_replaced(report: str, run_id: str) -> None:
    """Remove scores, weights, mean masks and logs of the runs that a new training replaces.

    In a closed report, those are of the same detector and seed, but had other settings or data.
    Raises :class:`DfnbError` where :func:`detectors` does.
    """
    for detector in detectors(report):
        new_seed = [run.seed for run in detector.runs if run.id == run_id]  # one, or none
        for run in detector.runs:
            if run.seed in new_seed and run.id != run_id:
                folder = report_folder(report)
                for path in [*folder.glob(f"*/{run.id}.*"), mean_mask_path(folder, run.id)]:
                    path.unlink(missing_ok=True)


# ---------------------------------------------------------------- one run of a report


def read_run(
    report: str,
    run_id: str,
    test_sets: Collection[str] | None = None,
) -> tuple[dict[Condition, pd.DataFrame], dict[str, Any]]:
    """The tables of a run in a report by condition, and their test sets' metadata, see ``About``.

    Both are empty where the report has none. ``test_sets`` restricts them to these; None: all.
    Where the report has since got another version of a test set, its tables are left out.
    """
    folder = report_folder(report)
    path = score_path(folder, run_id)
    if not path.exists():
        return {}, {}
    rows = read_table(path)
    metadata = read_metadata(path)
    shared = metadata.get("shared_crops", {})
    about = {}
    parts = []
    for name, fingerprint in metadata["fingerprints"].items():
        if test_sets is None or name in test_sets:
            kept = read_metadata(test_set_path(folder, name))
            if kept["fingerprint"] != fingerprint:  # frame_row would point at other frames
                continue
            about[name] = kept
            if name in shared:
                about[name]["shared_crops"] = shared[name]
            frames = read_table(test_set_path(folder, name))
            scores = rows[rows["test_set"] == name].reset_index(drop=True)
            keys = frames.iloc[scores["frame_row"]].reset_index(drop=True)
            parts.append(scores.join(keys))
    if not parts:
        return {}, {}
    rows = pd.concat(parts, ignore_index=True).drop(columns="frame_row")
    return by_condition(rows, about), about


def read_tables(
    run: StoredRun,
    test_sets: Collection[str],
    report: str,
) -> tuple[dict[Condition, pd.DataFrame], dict[str, Any]]:
    """The tables of a run on these test sets by condition, and the sets' metadata, see ``About``.

    Tables in ``runs/`` take precedence over copies in ``report``, and these over copies in other
    reports. Where these have different versions of a test set, only tables of the version that
    takes precedence are returned. Copies of scores by other weights, from a training of the same id
    on another machine, are left out.
    """
    tables, about = {}, {}  # about: test set -> metadata of its file, such as its fingerprint
    sources = [read_scores(run.id, test_sets)]
    paths = home().glob(f"reports/*/scores/{run.id}.parquet")
    by_report = {path.parent.parent.name: path for path in paths}
    for name in sorted(by_report, key=lambda name: (name != report, name)):  # ``report`` first
        record = read_metadata(by_report[name])["record"]
        if record.get("weights_sha256") == run.record.weights_sha256:
            sources.append(read_run(name, run.id, test_sets))
    for new_tables, new_about in reversed(sources):  # lowest precedence first: later ones replace
        # Test sets of which this source has another version; not those that it lacks.
        replaced = {name for name in about if not is_same(name, about, new_about)}
        tables = {key: table for key, table in tables.items() if key.test_set not in replaced}
        tables |= new_tables
        about |= new_about
    return tables, about


# ---------------------------------------------------------------- which detectors there are


class Detector(NamedTuple):
    """Trainings that differ in their seed alone."""

    name: str  # in tables, unique in a report
    paper: str = ""
    ablation: str = ""  # both are empty for main detectors
    variant: str = ""
    train_set: str = ""  # that of the runs; bed-{seed} where each seed has its own
    runs: tuple[StoredRun, ...] = ()  # in the order of their seeds


def detectors(report: str) -> list[Detector]:
    """The detectors of a report: main ones in the order of their notebooks, then variants.

    In a closed report, the roles of the runs name the detectors, and variants are ordered by
    notebook and name. In an open report, runs that differ in the seed alone form a detector. All
    are main ones; where a paper has several, their names state the parameters in which they differ.

    Raises :class:`DfnbError` when main detectors of a closed report have different training sets,
    and when a detector of an open report has a seed twice.
    """
    folder = report_folder(report)
    roles = {}  # run -> its ablations and variants; None in an open report
    for path in score_files(folder):
        metadata = read_metadata(path)
        run = StoredRun(path.stem, TrainingRecord.check(metadata.get("record"), path))
        roles[run] = metadata.get("roles")
    train_sets = pooled_train_sets(roles)
    # Runs by a key that identifies their detector, and by which the detectors are sorted.
    by_role = defaultdict(list)  # of a closed report
    by_parameters = defaultdict(list)  # of an open one
    for run, its_roles in roles.items():
        notebook = run.record.detector.notebook
        if its_roles is None:
            # Without ``data``, the identity of the training set: another seed may draw another
            # set. Which sets count as one is in train_sets.
            options = run.parameters.model_dump(mode="json", exclude={"train_set", "seed", "data"})
            key = (notebook, train_sets[run], repr(sorted(options.items())))
            by_parameters[key].append(run)
            continue
        for ablation, variant in its_roles:
            # The variants of STANDING_ALONE are main detectors, too, named by the variant.
            is_variant = ablation not in ("", STANDING_ALONE)
            key = (is_variant, notebook, ablation, variant, train_sets[run])
            by_role[key].append(run)
    trained = []
    for key in sorted(by_role):
        is_variant, _, ablation, variant, train_set = key
        title = by_role[key][0].record.detector.title
        role = (ablation, variant) if is_variant else ("", "")
        name = f"{title}, {ablation}: {variant}" if is_variant else variant or title
        trained.append(_detector(name, *role, train_set, by_role[key]))
    # Before those of an open report are added, which may have several training sets.
    main_sets = sorted({detector.train_set for detector in trained if not detector.ablation})
    if len(main_sets) > 1:
        raise DfnbError(
            f"{folder} has main detectors of several training sets, {', '.join(main_sets)}; give "
            "each a report of its own"
        )
    groups = [by_parameters[key] for key in sorted(by_parameters)]
    _check_seeds(folder, groups)
    for name, runs in zip(_names(groups, train_sets), groups):
        trained.append(_detector(name, "", "", train_sets[runs[0]], runs))
    return trained


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


def _detector(
    name: str,
    ablation: str,
    variant: str,
    train_set: str,
    runs: Iterable[StoredRun],
) -> Detector:
    """The detector of runs that differ in their seed, in the order of their seeds."""
    runs = tuple(sorted(runs, key=lambda run: run.seed))
    return Detector(name, runs[0].parameters.paper, ablation, variant, train_set, runs)


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
