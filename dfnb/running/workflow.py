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
from pathlib import Path

import joblib

from dfnb.results import page
from dfnb.running import measuring, planning, profiles
from dfnb.running.execution import injected
from dfnb.running.parameters import DataParameters
from dfnb.running.planning import Plan, Planned
from dfnb.store import reports
from facesets import files, records
from facesets.checks import DfnbError
from facesets.manifests import is_available

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
        dry_run: Whether to print the unfinished calls as commands instead.
    """
    if records.commit().endswith("-dirty"):
        _say("uncommitted changes: the records will say -dirty, and nobody can make them again")
    with files.locked(files.home() / ".snakemake"):  # Snakemake's own lock would not end with us
        _run(profile, cores, main, dry_run)


def _run(profile: str, cores: int, main: bool, dry_run: bool) -> None:
    """:func:`run`, while no other process runs a profile in this home."""
    plan = planning.plan(profile, main)
    for dataset in profiles.read(profile).test_sets:
        if "{fold}" not in dataset and not is_available(dataset, "test"):
            _say(
                f"left out: {dataset} is not prepared; `dfnb data` says how to get it, and `dfnb "
                f"prepare {dataset} --root FOLDER --splits test` prepares what this profile needs"
            )
    for call in () if main else plan.left_out:
        _say(f"left out: {call.notebook}, {call}: its datasets or weights are not here")
    planned = [*plan.trainings, *plan.shown]
    if dry_run:
        _say(_count(planned))
        print(_commands(plan))
        return
    profiles.keep_copy(profile)  # the report's notebooks read it
    reports.pictures_folder(profile)  # with its .gitignore
    planning.set_replaced_aside(plan)
    for training in plan.trainings:  # no kernel need start for what is scored already
        if not training.done and (run := measuring.scored(training.parameters)):
            measuring.add(training.parameters, run)
    _say(_count(planned))
    planning.fetch_needed(plan)
    for each in planned:
        if not each.done:  # Snakemake asks for no more than a file of this name
            (files.home() / each.record).unlink(missing_ok=True)
    report = files.report_folder(profile)
    log = report / "logs" / "snakemake.txt"
    status = _run_snakemake(plan, cores or joblib.cpu_count(), log)
    if status:
        # With --show-failed-logs it ends with the logs of the calls that failed.
        _say("\n".join(log.read_text("utf-8", "replace").splitlines()[-MOST_LINES:]))
        raise DfnbError(
            f"profile {profile} did not finish; the logs above and in {report / 'logs'} end with "
            "the reasons, and the same command continues"
        )
    for each in plan.shown:  # and no others, which may be a reader's own
        page.sign(files.home() / each.executed)
    if page.REPORT in [each.name for each in plan.shown]:
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")


def _count(planned: list[Planned]) -> str:
    """How many calls there are and are done."""
    return f"{len(planned)} calls, {sum(each.done for each in planned)} done"


def _commands(plan: Plan) -> str:
    """The unfinished calls as commands of papermill, to be pasted in the home.

    They execute trainings whole, too. What comes out is the same: only the notebooks that are shown
    save figures and tables. Their trainings are part of them, so no command trains these alone.
    """
    whole = [each.call for each in plan.shown if not each.done]
    trainings = [training for training in plan.trainings if training.call not in whole]
    lines = [f"cd {shlex.quote(str(files.home()))}"]
    for each in [*trainings, *plan.shown]:
        if not each.done:
            notebook = files.find(f"notebooks/{each.call.notebook}.ipynb")
            output = files.home() / each.executed
            output.parent.mkdir(parents=True, exist_ok=True)
            # With as many threads as the Snakefile gives: else the bits would be others.
            words = ["DFNB_THREADS=1", "papermill", *map(_from_home, (notebook, output))]
            call = each.call
            changes = injected(call.profile, call.variant, call.seed, call.fold)
            for name, value in changes.items():
                words += ["-p", name, str(value)]
            lines.append(shlex.join(words))
    return "\n".join(lines)


def _from_home(path: Path) -> str:
    """A path relative to the home where it is in it, which other machines understand, too."""
    home = files.home()
    return str(path.relative_to(home) if path.is_relative_to(home) else path)


# ---------------------------------------------------------------- all calls


def _run_snakemake(plan: Plan, cores: int, log: Path) -> int:
    """Execute calls by Snakemake, whose own output goes to ``log``; returns its status."""
    # with_gpu.py ends Snakemake when this process ends. 0: Snakemake itself waits for no GPU.
    command = [sys.executable, files.find("workflow/with_gpu.py"), "0", str(os.getpid())]
    command += [sys.executable, "-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    # Relative to the home, so that no character of the home's name matters to Snakemake.
    command += ["--directory", files.home(), "--config", f"calls={_write_calls(plan)}"]
    command += ["--cores", str(cores), "--nolock", "--show-failed-logs"]
    _check_snakemake_profile(os.environ.get("SNAKEMAKE_PROFILE", ""))
    # In a process group of its own, which the terminal's Ctrl-C does not reach. So the calls
    # get one SIGINT, the one below, whether the terminal or a program interrupts this process.
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        streams = {"stdout": output, "stderr": output}
        process = subprocess.Popen(command, start_new_session=True, **streams)
    try:
        _follow(process, plan)
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


def _write_calls(plan: Plan) -> Path:
    """Write what the Snakefile reads of a plan, and each of its processes; returns the path.

    It is relative to the home.
    """
    path = Path(".snakemake", "calls.json")
    content = [
        {
            **each.call.model_dump(),
            "name": each.name,
            "executed": str(each.executed),
            "is_shown": each.is_shown,
            "needs_runs": each.is_shown and not isinstance(each.parameters, DataParameters),
        }
        for each in [*plan.trainings, *plan.shown]
    ]
    files.write_json(files.home() / path, {"calls": content})
    return path


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


def _follow(process: subprocess.Popen, plan: Plan) -> None:
    """Print each call that ends, and sometimes what the others do, until the process ends.

    Snakemake repeats a call if its notebook has changed, so done calls are watched, too. It removes
    their records first; they still count as done, so that the printed count never falls.
    """
    began = printed_at = time.time()
    planned = [*plan.trainings, *plan.shown]
    waiting = list(planned)
    done = {call.name for call in planned if call.done}
    has_result = any(call.name in done for call in plan.shown)
    while True:
        is_over = process.poll() is not None  # asked first: records are then looked for once more
        for call in [call for call in waiting if _ended_since(call, began)]:
            waiting.remove(call)
            done.add(call.name)
            count = f"{len(done)} of {len(planned)}"
            _say(f"{_minutes(began)} {count}: {call.name} {_how_far(call, 'epoch ')}".rstrip())
            if call.is_shown and not has_result:
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


def _ended_since(call: Planned, moment: float) -> bool:
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


def _log(call: Planned) -> Path:
    return files.report_folder(call.call.profile) / "logs" / f"{call.name}.txt"


def _how_far(call: Planned, start: str = "") -> str:
    """The last line of a training's log that begins with ``start``; empty if there is none.

    It is also empty for a notebook that is shown: its lines are those of its tables.
    """
    if call.is_shown or not _log(call).exists():
        return ""
    lines = _log(call).read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip() and line.startswith(start)), "")
