"""Running a profile: Snakemake as a child process, and a line for each job that ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import joblib

from dfnb import files
from dfnb.checks import DfnbError
from dfnb.report import page
from dfnb.running import jobs, profiles
from dfnb.running.datasets import is_available

STATUS_EVERY = 30  # seconds
STOPPING_S = 30  # that jobs have to end after Ctrl-C
MOST_LINES = 100  # of Snakemake's log that are printed when a job failed


def run(
    profile: str,
    cores: int,
    main: bool = False,
) -> None:
    """Run the unfinished jobs of a profile, then print where its report is.

    Raises :class:`DfnbError` when a job failed, after its log was printed.

    Args:
        profile: Its name.
        cores: How many jobs run at the same time; 0: as many as there are cores, within the limits
            of this process, such as those of a container.
        main: Whether to leave out the trainings of all variants.
    """
    plan = jobs.plan(profile, main)
    jobs.fetch(plan)
    for dataset in profiles.read(profile).test_sets:
        if not is_available(dataset, "test"):
            print(
                f"left out: {dataset} is not prepared; `dfnb data` says how to get it, and `dfnb "
                f"prepare {dataset} --root FOLDER --splits test` prepares what this profile needs"
            )
    log = files.report_folder(profile) / "logs" / "snakemake.txt"
    status = _run_snakemake(plan, cores or joblib.cpu_count(), log)
    report = files.report_folder(profile)
    if status:
        # With --show-failed-logs it ends with the logs of the jobs that failed.
        _say("\n".join(log.read_text("utf-8", "replace").splitlines()[-MOST_LINES:]))
        raise DfnbError(
            f"profile {profile} did not finish; the logs above and in {report / 'logs'} end with "
            "the reasons, and the same command continues"
        )
    for job in plan.notebooks:  # and no others, which may be a reader's own
        path = report / "notebooks" / f"{job.name}.ipynb"
        if path.exists():
            page.sign(path)
    if (report / "notebooks" / f"{page.REPORT}.ipynb").exists():
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")


def _run_snakemake(plan: jobs.Plan, cores: int, log: Path) -> int:
    """Do the jobs of a plan by Snakemake, whose own output goes to ``log``; returns its status."""
    # In Snakemake's own folder. Relative to the home, so that no character of the home's name
    # matters to Snakemake.
    plan_file = Path(".snakemake", f"{plan.profile}-plan.json")
    # with_gpu.py ends Snakemake when this process ends. 0: Snakemake itself waits for no GPU.
    command = [sys.executable, files.find("workflow/with_gpu.py"), "0", str(os.getpid())]
    command += [sys.executable, "-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    command += ["--directory", files.home(), "--config", f"plan={plan_file}"]
    # Our own lock ends with this process, Snakemake's would not.
    command += ["--cores", str(cores), "--nolock", "--show-failed-logs"]
    with files.locked(files.home() / plan_file.parent):
        files.write_json(files.home() / plan_file, plan.model_dump(mode="json"))
        # Trainings copy it, too, but a profile may have changed without a new training.
        profiles.keep_copy(plan.profile)
        # In a process group of its own, which the terminal's Ctrl-C does not reach. So the jobs get
        # one SIGINT, the one below, whether the terminal or a program interrupts this process.
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            streams = {"stdout": output, "stderr": output}
            process = subprocess.Popen(command, start_new_session=True, **streams)
        try:
            _follow(process, plan)
        except KeyboardInterrupt:
            print("stopping the jobs; the same command continues from here", flush=True)
            os.killpg(process.pid, signal.SIGINT)
            # A job that is still importing may miss the signal: it is killed below.
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING_S)
            raise
        finally:
            process.kill()  # on Linux its jobs end with it; without effect if it has ended
    return process.returncode


def _follow(process: subprocess.Popen, plan: jobs.Plan) -> None:
    """Print each job that ends, and sometimes what the others do, until the process ends.

    Snakemake repeats a job if its notebook has changed, so done jobs are watched, too. It removes
    their outputs first; they still count as done, so that the printed count never falls.
    """
    began = printed_at = time.time()
    planned = [*plan.trainings, *plan.notebooks]
    waiting = list(planned)
    done = {job.name for job in planned if job.done}
    _say(f"{len(done)} of {len(planned)} jobs are there")
    while True:
        is_over = process.poll() is not None  # asked first: outputs are then looked for once more
        for job in [job for job in waiting if _ended_since(job, began)]:
            waiting.remove(job)
            done.add(job.name)
            count = f"{len(done)} of {len(planned)}"
            _say(f"{_minutes(began)} {count}: {job.name} {_last_line(job, 'epoch')}")
            printed_at = time.time()
        if is_over:
            break
        if time.time() - printed_at > STATUS_EVERY:
            printed_at = time.time()
            for job in waiting:  # one whose log was written since then is running, or has failed
                if line := _last_line(job, since=began):
                    _say(f"{_minutes(began)} running: {job.name} {line}")
        time.sleep(0.5)


def _ended_since(job: jobs.Job, moment: float) -> bool:
    """Whether a job's output was written at or after ``moment``, as of ``time.time()``."""
    path = files.home() / job.output
    return path.exists() and path.stat().st_mtime >= moment


def _say(text: str) -> None:
    """Print to standard error, apart from the results of the command."""
    print(text, file=sys.stderr, flush=True)


def _minutes(began: float) -> str:
    """The time since ``began``, such as 3:05 for three minutes and five seconds."""
    minutes, seconds = divmod(int(time.time() - began), 60)
    return f"{minutes}:{seconds:02}"


def _last_line(job: jobs.Job, start: str = "", since: float = 0.0) -> str:
    """The last line of a job's log that begins with ``start``; empty if there is none.

    It is also empty if the log was last written before ``since``, as of ``time.time()``.
    """
    log = files.report_folder(job.profile) / "logs" / f"{job.name}.txt"
    if not log.exists() or log.stat().st_mtime < since:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip() and line.startswith(start)), "")
