"""Running a profile: Snakemake as a child process, which prints the progress."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import joblib

from dfnb import files
from dfnb.report import page
from dfnb.running import jobs
from dfnb.running.jobs import Job
from dfnb.settings import DfnbError


def run(
    profile: str,
    cores: int,
    main: bool = False,
) -> None:
    """Run the unfinished jobs of a profile, then print where its report is.

    Raises :class:`DfnbError` when a job failed, after a line for each job that did.

    Args:
        profile: Its name.
        cores: How many jobs run at the same time; 0: as many as there are cores.
        main: Whether to leave out the trainings of all ablations.
    """
    plan = jobs.plan(profile, main)
    for dataset in jobs.missing_datasets(profile):
        print(f"left out: {dataset} is not prepared; `dfnb data` says how to get it")
    # In Snakemake's own folder. Relative to the home, so that no character of the home's name
    # matters to Snakemake.
    plan_file = Path(".snakemake", f"{profile}-plan.json")
    # with_gpu.py lets Snakemake end when this process does. 0: Snakemake waits for no GPU itself.
    command = [sys.executable, files.find("workflow/with_gpu.py"), "0", sys.executable]
    command += ["-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    command += ["--directory", files.home(), "--config", f"plan={plan_file}"]
    # cpu_count heeds the limits of this process, such as those of a container.
    command += ["--cores", str(cores or joblib.cpu_count())]
    command.append("--nolock")  # our own lock ends with this process, Snakemake's would not
    with files.locked(files.home() / plan_file.parent):
        files.write_json(files.home() / plan_file, plan.model_dump(mode="json"))
        for job in plan.jobs:  # a log that exists from now on means that its job has begun
            job.log.unlink(missing_ok=True)
        # In a process group of its own, which the terminal's Ctrl-C does not reach. So the jobs get
        # one SIGINT, the one below, whether the terminal or a program interrupts this process.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait()
        except KeyboardInterrupt:
            print("stopping the jobs; the same command continues from here", flush=True)
            os.killpg(process.pid, signal.SIGINT)
            process.wait()  # a second Ctrl-C ends the wait, so the process is killed below
            raise
        finally:
            process.kill()  # on Linux its jobs end with it; without effect if it has ended
    if process.returncode:
        _print_failures(plan.jobs)
        raise DfnbError(f"profile {profile} did not finish; the same command continues")
    report = files.report_folder(profile)
    for path in report.glob("notebooks/*.ipynb"):
        page.strip_times(path)
    if (report / "notebooks" / f"{page.REPORT}.ipynb").exists():
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")


def _print_failures(planned: Sequence[Job]) -> None:
    """Print the last line of the log of each job that began and did not finish: its error."""
    for job in planned:
        if job.log.exists() and not job.done:
            text = job.log.read_text(encoding="utf-8", errors="replace")
            last_line = text.strip().rpartition("\n")[-1]
            print(f"{job.name} failed: {last_line}; its log is {job.log}", file=sys.stderr)
