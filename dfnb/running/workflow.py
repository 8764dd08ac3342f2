"""Running a profile: Snakemake executes its calls, and a line is printed for each that ends.

:mod:`dfnb.running.execution` is what Snakemake starts for one call.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import yaml

from dfnb import device
from dfnb.report import page
from dfnb.running import measuring, profiles
from dfnb.running.profiles import Call, Calls
from dfnb.store import reports, scores
from facesets import files, records
from facesets.checks import DfnbError
from facesets.sources import is_available

STATUS_EVERY = 30  # seconds
STOPPING_S = 30  # that calls have to end after Ctrl-C
MOST_LINES = 100  # of Snakemake's log that are printed when a call failed


def run(profile: str, cores: int, main: bool = False, dry_run: bool = False) -> None:
    """Execute the unfinished calls of a profile, then print where its report is.

    Raises :class:`DfnbError` when a call failed, after its log was printed.

    Args:
        profile: Its name.
        cores: How many calls run at the same time; 0: as many as there are cores, within the limits
            of this process, such as those of a container.
        main: Whether to leave out the trainings of all variants.
        dry_run: Whether to print the unfinished calls as commands instead. What their notebooks
            read, ``calls.json`` and ``profile.yaml``, is written all the same.
    """
    if records.commit().endswith("-dirty"):
        _say("uncommitted changes: the records will say -dirty, and nobody can make them again")
    with files.locked(files.home() / ".snakemake"):  # Snakemake's own lock would not end with us
        _run(profile, cores, main, dry_run)


def _run(profile: str, cores: int, main: bool, dry_run: bool) -> None:
    """:func:`run`, while no other process runs a profile in this home."""
    calls = profiles.calls(profile, main)
    for dataset in profiles.read(profile).test_sets:
        if "{fold}" not in dataset and not is_available(dataset, "test"):
            _say(
                f"left out: {dataset} is not prepared; `dfnb data` says how to get it, and `dfnb "
                f"prepare {dataset} --root FOLDER --splits test` prepares what this profile needs"
            )
    for notebook, variant, seed in () if main else calls.left_out:
        _say(f"left out: {notebook}, {variant}, seed {seed}: its datasets or weights are not here")
    _say(*profiles.missing_masks(calls), *profiles.changed_cells(profile))
    path = files.report_folder(profile) / "calls.json"
    files.write_json(path, calls.model_dump(mode="json"))
    profiles.keep_copy(profile, dry_run)  # the report's notebooks read it
    reports.pictures_folder(profile)  # with its .gitignore
    if dry_run:
        _say(_plan(calls))
        print(_commands(calls))
        return
    profiles.set_replaced_aside(calls)
    for call in calls.trainings:  # no kernel need start for what is scored already
        if not call.done and (run := measuring.scored(call.check())):
            measuring.add(call.check(), run)
    _say(_plan(calls))
    profiles.fetch(calls)
    for call in [*calls.trainings, *calls.shown]:
        if not call.done:  # Snakemake asks for no more than a file of this name
            (files.home() / call.record).unlink(missing_ok=True)
    log = files.report_folder(profile) / "logs" / "snakemake.txt"
    status = _run_snakemake(calls, path, cores or joblib.cpu_count(), log)
    report = files.report_folder(profile)
    if status:
        # With --show-failed-logs it ends with the logs of the calls that failed.
        _say("\n".join(log.read_text("utf-8", "replace").splitlines()[-MOST_LINES:]))
        raise DfnbError(
            f"profile {profile} did not finish; the logs above and in {report / 'logs'} end with "
            "the reasons, and the same command continues"
        )
    for call in calls.shown:  # and no others, which may be a reader's own
        page.sign(files.home() / call.executed)
    if page.REPORT in [call.notebook for call in calls.shown]:
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")


def _plan(calls: Calls) -> str:
    """How many calls there are and are done, and what the trainings of the others cost, if known.

    Such as: 80 calls, 3 done, about 14 core hours of training (by records).
    """
    planned = [*calls.trainings, *calls.shown]
    text = f"{len(planned)} calls, {sum(call.done for call in planned)} done"
    hours = [_hours(call) for call in calls.trainings if not call.done]
    known = [each for each in hours if each is not None]
    if known:
        text += f", about {float(f'{sum(known):.2g}'):g} core hours of training (by records)"
    if unknown := len(hours) - len(known):
        text += f", trainings without a record of a similar one: {unknown}"
    return text


def _hours(call: Call) -> float | None:
    """Core hours of a training; None without a record of a similar one, see :func:`_seconds`."""
    p = call.check()
    settings = p.settings()
    seconds = _seconds(p.paper, settings.backbone, settings.image_size)
    if seconds is None or settings.images_per_epoch is None:
        return None
    return seconds * settings.epochs * settings.images_per_epoch / 3600


@cache
def _seconds(paper: str, backbone: str, image_size: int) -> float | None:
    """Core seconds per image of a training, the median of those in reports on a device as this."""
    found = []
    for path in files.in_reports(f"scores/{paper}-*.parquet"):
        record = scores.read_about(path).record
        of_run = record.parameters.settings
        images = len(record.log) * (of_run.get("images_per_epoch") or record.n.get("train", 0))
        is_here = record.environment["device"].startswith("cpu") == (device.DEVICE == "cpu")
        is_similar = (of_run["backbone"], of_run["image_size"]) == (backbone, image_size)
        if images and is_here and is_similar:
            cores = record.environment.get("threads") or 1
            found.append(record.wall_s * cores / images)
    return float(np.median(found)) if found else None


def _commands(calls: Calls) -> str:
    """The unfinished calls as commands of papermill, to be pasted in the home.

    They execute trainings whole, too. What comes out is the same: only the notebooks that are shown
    save figures and tables.
    """
    lines = [f"cd {shlex.quote(str(files.home()))}"]
    for call in [*calls.trainings, *calls.shown]:
        if not call.done:
            notebook = files.find(f"notebooks/{call.notebook}.ipynb")
            output = files.home() / call.executed
            output.parent.mkdir(parents=True, exist_ok=True)
            changes = yaml.safe_dump(call.changes, default_flow_style=True, width=float("inf"))
            parts = [*map(_from_home, (notebook, output)), "-y", changes.strip()]
            lines.append(f"papermill {shlex.join(parts)}")
    return "\n".join(lines)


def _from_home(path: Path) -> str:
    """A path relative to the home where it is in it, which other machines understand, too."""
    home = files.home()
    return str(path.relative_to(home) if path.is_relative_to(home) else path)


# ---------------------------------------------------------------- all calls


def _run_snakemake(calls: Calls, path: Path, cores: int, log: Path) -> int:
    """Execute calls by Snakemake, whose own output goes to ``log``; returns its status.

    ``path`` is the file of the calls.
    """
    # with_gpu.py ends Snakemake when this process ends. 0: Snakemake itself waits for no GPU.
    command = [sys.executable, files.find("workflow/with_gpu.py"), "0", str(os.getpid())]
    command += [sys.executable, "-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    # Relative to the home, so that no character of the home's name matters to Snakemake.
    command += ["--directory", files.home()]
    command += ["--config", f"calls={path.relative_to(files.home())}"]
    command += ["--cores", str(cores), "--nolock", "--show-failed-logs"]
    _check_snakemake_profile(os.environ.get("SNAKEMAKE_PROFILE", ""))
    # In a process group of its own, which the terminal's Ctrl-C does not reach. So the calls
    # get one SIGINT, the one below, whether the terminal or a program interrupts this process.
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        streams = {"stdout": output, "stderr": output}
        process = subprocess.Popen(command, start_new_session=True, **streams)
    try:
        _follow(process, calls)
    except KeyboardInterrupt:
        print("stopping; the same command continues from here", flush=True)
        os.killpg(process.pid, signal.SIGINT)
        # One that is still importing may miss the signal: it is killed below.
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPING_S)
        raise
    finally:
        process.kill()  # on Linux its calls end with it; without effect if it has ended
    return process.returncode


def _check_snakemake_profile(name: str) -> None:
    """Raise :class:`DfnbError` where SNAKEMAKE_PROFILE names no profile that Snakemake can find.

    It would print its usage, a hundred lines. The variable may be another workflow's.
    """
    folders = ["", Path.home() / ".config/snakemake", "/etc/xdg/snakemake"]
    if name and not any(Path(folder, name).exists() for folder in folders):
        raise DfnbError(
            f"SNAKEMAKE_PROFILE is {name}, and there is no such folder: unset it, or set it to the "
            "folder of a profile, as workflow/README.md says for Slurm"
        )


def _follow(process: subprocess.Popen, calls: Calls) -> None:
    """Print each call that ends, and sometimes what the others do, until the process ends.

    Snakemake repeats a call if its notebook has changed, so done calls are watched, too. It removes
    their records first; they still count as done, so that the printed count never falls.
    """
    began = printed_at = time.time()
    planned = [*calls.trainings, *calls.shown]
    waiting = list(planned)
    done = {call.name for call in planned if call.done}
    has_result = any(call.name in done for call in calls.shown)
    while True:
        is_over = process.poll() is not None  # asked first: records are then looked for once more
        for call in [call for call in waiting if _ended_since(call, began)]:
            waiting.remove(call)
            done.add(call.name)
            count = f"{len(done)} of {len(planned)}"
            _say(f"{_minutes(began)} {count}: {call.name} {_how_far(call, 'epoch ')}".rstrip())
            if call in calls.shown and not has_result:
                has_result = True
                _say(f"first result: {files.home() / call.executed}")
            printed_at = time.time()
        if is_over:
            break
        if time.time() - printed_at > STATUS_EVERY:
            printed_at = time.time()
            for call in waiting:  # one whose log was written since then is running, or has failed
                if _log(call).exists() and _log(call).stat().st_mtime >= began:
                    _say(f"{_minutes(began)} running: {call.name} {_how_far(call)}".rstrip())
        time.sleep(0.5)


def _ended_since(call: Call, moment: float) -> bool:
    """Whether a call's record was written at or after ``moment``, as of ``time.time()``."""
    path = files.home() / call.record
    return path.exists() and path.stat().st_mtime >= moment


def _say(*texts: str) -> None:
    """Print each text to standard error, apart from the results of the command."""
    for text in texts:
        print(text, file=sys.stderr, flush=True)


def _minutes(began: float) -> str:
    """The time since ``began``, such as 3:05 for three minutes and five seconds."""
    minutes, seconds = divmod(int(time.time() - began), 60)
    return f"{minutes}:{seconds:02}"


def _log(call: Call) -> Path:
    return files.report_folder(call.parameters["report"]) / "logs" / f"{call.name}.txt"


def _how_far(call: Call, start: str = "") -> str:
    """The last line of a training's log that begins with ``start``; empty if there is none.

    It is also empty for a notebook that is shown: its lines are those of its tables.
    """
    if call.name == call.notebook or not _log(call).exists():
        return ""
    lines = _log(call).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip() and line.startswith(start)), "")
