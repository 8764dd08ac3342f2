"""Running a profile: Snakemake as a child process, and its progress."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import joblib
from tqdm import tqdm

from dfnb import files
from dfnb.report import page
from dfnb.running import jobs
from dfnb.running.jobs import Job
from dfnb.settings import DfnbError


def run(profile: str, cores: int, ablations: list[str] | None = None) -> None:
    """Run the unfinished jobs of a profile, then print where its report is.

    Raises :class:`DfnbError` when a job failed, after a line for each job that did.

    Args:
        profile: Its name.
        cores: How many jobs run at the same time; 0: as many as there are cores.
        ablations: See :func:`dfnb.running.jobs.plan`.
    """
    plan = jobs.plan(profile, ablations)
    for dataset in jobs.missing_datasets(profile):
        print(f"left out: {dataset} is not prepared; `dfnb data` says how to get it")
    folder = files.home() / ".snakemake"  # Snakemake's own folder
    messages = folder / "messages.txt"
    plan_file = folder / f"{profile}-plan.json"
    # with_gpus.py lets Snakemake end when this process does. Its argument 0 is the number of GPUs:
    # Snakemake needs none itself, and its jobs request their own.
    command = [sys.executable, files.find("workflow/with_gpus.py"), "0", sys.executable]
    command += ["-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    # Relative to the directory, so that no character of the home's name matters to Snakemake.
    plan_in_home = plan_file.relative_to(files.home())
    command += ["--directory", files.home(), "--config", f"plan={plan_in_home}"]
    # cpu_count heeds the limits of this process, such as those of a container.
    command += ["--cores", str(cores or joblib.cpu_count())]
    command.append("--nolock")  # our own lock ends with this process, Snakemake's would not
    with files.locked(folder), messages.open("wb") as file:
        files.write_json(plan_file, plan.model_dump(mode="json"))
        for job in plan.jobs:  # a log that exists from now on means that its job has begun
            job.log.unlink(missing_ok=True)
        # In a process group of its own, which the terminal's Ctrl-C does not reach. So the jobs get
        # one SIGINT, the one below, whether the terminal or a program interrupts this process.
        process = subprocess.Popen(command, stderr=file, start_new_session=True)
        try:
            _print_progress(process, plan.jobs)
        except KeyboardInterrupt:
            print("stopping the jobs; the same command continues from here", flush=True)
            os.killpg(process.pid, signal.SIGINT)
            process.wait()  # a second Ctrl-C ends the wait, so the process is killed below
            raise
        finally:
            process.kill()  # on Linux its jobs end with it; without effect if it has ended
    if process.returncode:
        _print_failures(plan.jobs)
        raise DfnbError(f"profile {profile} did not finish; Snakemake's messages are in {messages}")
    report = files.report_folder(profile)
    for path in report.glob("notebooks/*.ipynb"):
        page.strip_times(path)
    if (report / "notebooks" / f"{page.REPORT}.ipynb").exists():
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")


def _print_progress(process: subprocess.Popen, planned: Sequence[Job]) -> None:
    """Show a line for every job that ends, and the time left, until the process has ended."""
    done = {job.name for job in planned if job.done}
    with tqdm(total=len(planned), initial=len(done), unit="job") as bar:
        is_running = True
        while is_running:  # one last round after the process has ended shows what ended last
            time.sleep(0.5)
            is_running = process.poll() is None
            # While a job is done again it is not done: Snakemake removes its output first.
            before, done = done, {job.name for job in planned if job.done}
            for name in done - before:
                bar.write(name)
            if done != before:  # a file gets a line of the bar per job, not per look
                bar.n = len(done)
                bar.refresh()


def _print_failures(planned: Sequence[Job]) -> None:
    """Print the last line of the log of each job that began and did not finish: its error."""
    for job in planned:
        if job.log.exists() and not job.done:
            text = job.log.read_text(encoding="utf-8", errors="replace")
            last_line = text.strip().rpartition("\n")[-1]
            print(f"{job.name} failed: {last_line}; its log is {job.log}", file=sys.stderr)
