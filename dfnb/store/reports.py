"""The folder of a report: the scores of its runs, and what the notebooks that show them leave.

::

    reports/<name>/profile.yaml                 the profile's entries, if it comes with a profile
                   scores/<run id>.parquet      of a run, see dfnb.store.scores
                   records/<run id>.json        says that the run was added
                   records/<notebook>.json      says that a notebook was executed, see finish
                   logs/                        of calls, and the executed notebooks of trainings
                   weights/<run id>.safetensors of the runs whose notebooks were executed whole
                   weights/<run id>-mean-mask.png  their mean masks, see mean_mask_path
                   weights/<run id>.json        the record of a phase before, which has no scores
                   notebooks/, figures/, tables/, index.html
                   paper/                       figures and tables for LaTeX; git ignores it
                   faces/                       of these, what shows real people: git ignores it
                   replaced/                    what no call of the profile makes any more

Where a profile has the report's name, the report has what the calls of this profile make, and
nothing else is saved in it. Any other report is a reader's own.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfnb.store import scores
from dfnb.store.runs import StoredRun
from dfnb.store.scores import Condition
from facesets.checks import read_yaml
from facesets.files import (
    digest,
    find,
    home,
    locked,
    read_json,
    report_folder,
    stored_report,
    write_bytes,
    write_json,
)
from facesets.records import Clock, write_record

# ---------------------------------------------------------------- places


def score_path(folder: Path, name: str) -> Path:
    """The score file of a run in a report's ``folder``."""
    return folder / "scores" / f"{name}.parquet"


def score_files(folder: Path) -> list[Path]:
    """The score files in a report or in a folder of reports, without replaced ones."""
    # [!.] leaves out the temporary file of another process, whose name begins with a dot.
    paths = folder.rglob("scores/[!.]*.parquet")
    return sorted(path for path in paths if path.parent.parent.name != "replaced")


def weights_path(folder: Path, run_id: str) -> Path:
    """The weights file of a run in a report's ``folder``; not every run has one."""
    return folder / "weights" / f"{run_id}.safetensors"


def mean_mask_path(folder: Path, run_id: str) -> Path:
    """The mean mask of a run's training fakes, beside its weights: 16-bit grey, PNG."""
    return folder / "weights" / f"{run_id}-mean-mask.png"


def record_path(report: str, name: str) -> Path:
    """The record of a call, relative to the home, as the Snakefile needs it."""
    return Path("reports", report, "records", f"{name}.json")


def has_profile(report: str) -> bool:
    """Whether there is a profile of this name."""
    return find(f"notebooks/profiles/{report}.yaml").is_file()


def profile_of(report: str) -> dict[str, Any]:
    """The profile as the last ``dfnb run`` copied it; empty for a report that has none."""
    path = find(f"reports/{report}/profile.yaml")  # a shipped report may show real faces, too
    return read_yaml(path) if path.exists() else {}


def pictures_folder(report: str) -> Path:
    """The folder with a report's pictures of frames, and the notebooks that show them.

    It is the report's own or, where its profile says ``faces: real``, ``faces/`` in it, which no
    git adds: nobody asked the people in it. Figures of numbers, the page and notebooks of
    numbers alone show nobody, and are in the report's own folder.
    """
    folder = report_folder(report)
    if profile_of(report).get("faces") != "real":
        return folder
    write_bytes(folder / "faces" / ".gitignore", b"*\n")
    return folder / "faces"


def paper_folder(report: str) -> Path:
    """The folder with the figures and tables of a report in the forms that a paper needs."""
    return pictures_folder(report) / "paper"


def file_name(report: str, name: str, run: StoredRun | None) -> str:
    """The name, without suffix, of a report's table, figure or record of this run: ``name``.

    In a reader's own report it has the run's id, too, since files of several runs are kept. None:
    of no single run.
    """
    return f"{name}-{run.id}" if run and not has_profile(report) else name


# ---------------------------------------------------------------- writing


def keep(
    report: str,
    run: StoredRun,
    shown: Iterable[Condition],
    variants: Sequence[str] | None = None,
) -> Path:
    """Show a run in a report under the conditions ``shown``, too; returns its score file there.

    The file is made anew of what :func:`dfnb.store.scores.find_scores` finds, also under the
    conditions that it had, unless they are of another version of a test set. Its bytes do not
    depend on which of two notebooks was first. One that has all of this already is not written
    again.

    Args:
        report: Name of the report.
        run: A finished training. A file by other weights is replaced.
        shown: The conditions; those without scores are left out.
        variants: The names under which the report shows the run; None: those that it has.
    """
    path = score_path(report_folder(report), run.id)
    with locked(path.parent.parent, wait_s=600):  # 08 and 09 may add to it at the same time
        old, before = scores.read_sizes(path) if path.exists() else (None, {})
        if old and old.record.weights_sha256 != run.record.weights_sha256:
            before = {}
        there = scores.find_scores(run, report)
        # Frames as they are, then maps, then corrupted frames; among these as they were added.
        wanted = sorted(
            dict.fromkeys([*before, *shown]),
            key=lambda each: (bool(each.corruption), bool(each.map), each.sanity),
        )
        found = {each: there[each] for each in wanted if each in there}
        if variants is None:
            variants = old.variants if old else []
        about = scores.about_of(found).model_copy(update={"variants": [*variants]})
        is_there = {each.path for each in found.values()} == {path} and len(found) == len(before)
        if about != old or not is_there:
            scores.write(path, scores.rows_of(found), about)
    return path


def keep_weights(report: str, run: Any) -> None:
    """Put the weights and the mean mask of a :class:`dfnb.training.runs.Run` into a report.

    Notebooks need them to draw maps on a machine without ``runs/``, and those of the phase before.
    """
    folder = report_folder(report)
    write_bytes(weights_path(folder, run.id), run.weights().read_bytes())
    if before := run.phase_before:
        write_bytes(weights_path(folder, before.id), before.weights().read_bytes())
        path = weights_path(folder, before.id).with_suffix(".json")
        write_json(path, before.record.model_dump(mode="json"))
    mask = run.mean_mask()
    if mask is not None:
        import cv2  # of the extra train, as the weights

        _, png = cv2.imencode(".png", np.uint16(65535 * mask + 0.5))  # 16 bits, rounded
        write_bytes(mean_mask_path(folder, run.id), png.tobytes())


def finish(
    notebook: str,
    p: Any,
    clock: Clock,
    outputs: Iterable[Path] = (),
    run: Any = None,
    **entries: Any,
) -> dict[str, Any]:
    """Write the record of an executed notebook as its last step; it proves that the rest ran.

    Only where the notebook saves its figures and tables (``p.folder``), that is.

    Args:
        notebook: Name of the notebook.
        p: Its parameters, of :mod:`dfnb.running.parameters`.
        clock: Started when the notebook began.
        outputs: The figures and tables that it saved for the report's page; the record has the
            sha256 of each, by file name.
        run: The :class:`dfnb.training.runs.Run` of a paper's notebook, whose weights are kept, too;
            None for any other notebook.
        entries: Other entries of the record, such as what had scores, see :func:`scores_id`.

    Returns the entries of the record that say what the notebook cost.
    """
    usage = clock.usage()
    if p.folder:
        if run:
            keep_weights(p.report, run)
            entries["run"] = run.id
        path = home() / record_path(p.report, file_name(p.report, notebook, run))
        write_record(path, p.model_dump(mode="json"), outputs, **entries, **usage)
    return usage


# ---------------------------------------------------------------- what is replaced


def scores_id(report: str) -> str:
    """Identifies what a report has scores of: its runs, their names and their test sets.

    A notebook that shows all of them keeps it in its record, see :func:`outdated`.
    """
    runs = []
    for path in score_files(stored_report(report)):
        about = scores.read_about(path)
        versions = {name: kept.fingerprint for name, kept in about.test_sets.items()}
        runs.append([path.stem, about.variants, sorted(versions.items())])
    return digest(runs)


def outdated(report: str) -> dict[str, str]:
    """The figures and tables of a report that other scores were shown in than it has now.

    By file name, the notebook that makes each of them anew. A record that does not say what had
    scores, as of a notebook of a single run, is not outdated.
    """
    now = scores_id(report)
    names = {}
    for path in sorted(report_folder(report).glob("records/*.json")):
        record = read_json(path)
        if record.get("scored", now) != now:
            names |= dict.fromkeys(record["outputs"], path.stem)
    return names


def set_aside(report: str, run_id: str) -> None:
    """Move the files of a run to the report's folder ``replaced``, and say so."""
    folder = report_folder(report)
    aside = folder / "replaced"
    for path in sorted(folder.glob(f"*/{run_id}[.-]*")):  # scores, weights, record, log
        (aside / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.replace(aside / path.parent.name / path.name)
    print(f"{run_id}: no call of the profile makes it any more; its files are now in {aside}")
