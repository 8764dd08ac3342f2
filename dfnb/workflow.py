"""Running a profile: Snakemake as a child process, its progress, and the main table at the end."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import joblib

from dfnb import files, jobs
from dfnb.settings import DfnbError

POLL_S = 0.5
WORK = {"training": 5, "notebook": 1}  # a notebook takes about a fifth of a training


def run(profile: str, cores: int) -> None:
    """Do what is due of a profile, then print the main table and the path of the report.

    Raises :class:`DfnbError` when a job failed, after a line for each job that did.

    Args:
        profile: Its name.
        cores: How many jobs run at the same time; 0: as many as there are cores.
    """
    cores = cores or joblib.cpu_count()
    planned = jobs.plan(profile)
    folder = files.home() / ".snakemake"
    messages = folder / "messages.txt"
    with files.locked(folder):
        exit_status = _run_snakemake(profile, cores, planned, messages)
    if exit_status:
        _print_failures(planned)
        raise DfnbError(f"profile {profile} did not end; Snakemake's messages are in {messages}")
    report = files.report_folder(profile)
    main_table = report / "tables" / "cross_dataset.md"
    if main_table.exists():
        print(main_table.read_text(encoding="utf-8"))
    page = report / "index.html"
    print(f"report: {page if page.exists() else report}")


def _run_snakemake(
    profile: str,
    cores: int,
    planned: Sequence[jobs.Job],
    messages: Path,
) -> int:
    """Run Snakemake on this terminal, and print what ends; returns its exit status."""
    for job in planned:  # then a log means that its job has begun
        (files.home() / job.log).unlink(missing_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    command += ["--directory", files.home(), "--config", f"profile={profile}"]
    # The caller holds a lock that no killed process leaves behind.
    command += ["--cores", str(cores), "--nolock"]
    with messages.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stderr=file, preexec_fn=_end_with_parent)
    try:
        _print_progress(process, planned, cores)
    except KeyboardInterrupt:  # the jobs, on the same terminal, have received it, too
        process.wait()  # a second Ctrl-C kills them
        raise DfnbError("stopped; the same command goes on from here") from None
    finally:
        process.kill()
    return process.returncode


def _end_with_parent() -> None:
    """On Linux, let this process be killed when the one that started it ends."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _print_progress(process: subprocess.Popen, planned: Sequence[jobs.Job], cores: int) -> None:
    """Print a line for every job that ends, with its seconds, until the process has ended."""
    begun: dict[str, float] = {}
    ended: set[str] = set()
    seconds_per_work = []
    is_running = True
    while is_running:
        time.sleep(POLL_S)
        is_running = process.poll() is None
        now = time.monotonic()
        for job in planned:
            if job.name in ended or not (files.home() / job.log).exists():
                continue
            begun.setdefault(job.name, now)
            if job.done:  # Snakemake has removed what was there before
                ended.add(job.name)
                seconds = now - begun[job.name]
                seconds_per_work.append(seconds / WORK[job.kind])
                remaining = [WORK[other.kind] for other in planned if not other.done]
                minutes_left = mean(seconds_per_work) * sum(remaining) / cores / 60
                print(
                    f"[{len(planned) - len(remaining)}/{len(planned)}] {job.name}, "
                    f"{seconds:.0f} s, about {minutes_left:.0f} min left",
                    flush=True,
                )


def _print_failures(planned: Sequence[jobs.Job]) -> None:
    """Print the last line of the log of each job that began and did not end: its error."""
    for job in planned:
        log = files.home() / job.log
        if log.exists() and not job.done:
            text = log.read_text(encoding="utf-8", errors="replace")
            last_line = text.strip().rpartition("\n")[-1]
            print(f"{job.name} failed: {last_line}; its log is {log}", file=sys.stderr)
