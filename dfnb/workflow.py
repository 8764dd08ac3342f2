"""Running a profile: Snakemake as a child process, its progress, and the main table at the end."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch

from dfnb import files, jobs
from dfnb.settings import DfnbError

POLL_S = 1
GRACE_S = 60  # after Ctrl-C, for trainings to save their state
NO_GPU = 999  # how many jobs may "use a GPU" at the same time where there is none


def run(profile: str, cores: int) -> None:
    """Do what is due of a profile, then print the main table and the path of the report.

    Raises :class:`DfnbError` when a job failed, after its log has been printed.

    Args:
        profile: Its name.
        cores: How many jobs run at the same time; 0: as many as there are cores.
    """
    planned = jobs.plan(profile)
    folder = files.home() / ".snakemake"
    with files.locked(folder), (folder / "messages.txt").open("w+") as messages:
        progress = _Progress(planned)
        process = _start_snakemake(profile, cores, messages)
        try:
            progress.follow(process)
        except KeyboardInterrupt:  # the jobs, on the same terminal, have received it, too
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            raise DfnbError("stopped; the same command goes on from here") from None
        finally:
            process.kill()
        if process.returncode:
            if not progress.print_failed_logs():  # it did not come to the jobs
                messages.seek(0)
                print(messages.read(), file=sys.stderr)
            raise DfnbError(f"profile {profile} did not end: see above, then run it again")
    report = files.report_folder(profile)
    main_table = report / "tables" / "cross_dataset.md"
    if main_table.exists():
        print(main_table.read_text(encoding="utf-8"))
    print(f"report: {report / 'index.html'}")


def _start_snakemake(profile: str, cores: int, messages: TextIO) -> subprocess.Popen:
    """Start Snakemake on this terminal; on Linux it is killed when this process ends."""
    gpus = torch.cuda.device_count()
    environment = dict(os.environ)
    if gpus and "SNAKEMAKE_PROFILE" not in environment:  # a cluster hands out GPUs itself
        all_gpus = ",".join(str(number) for number in range(gpus))
        environment["DFNB_GPUS"] = environment.get("CUDA_VISIBLE_DEVICES", all_gpus)
    command = [sys.executable, "-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    command += ["--directory", files.home(), "--config", f"profile={profile}"]
    command += ["--cores", str(cores or "all"), "--resources", f"gpu={gpus or NO_GPU}"]
    command += ["--nolock"]  # instead there is a lock that no killed process leaves behind
    return subprocess.Popen(command, env=environment, stderr=messages, preexec_fn=_end_with_parent)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class _Progress:
    """Which jobs have begun and ended, as their files tell, which Snakemake's processes write."""

    def __init__(self, planned: Sequence[jobs.Job]) -> None:
        self.planned = planned
        self.start = time.monotonic()
        self.done = {job.name for job in planned if job.done}
        self.began: dict[str, float] = {}  # by job, in seconds after the start
        self.ended: set[str] = set()
        self.written_before: dict[Path, float] = {}
        for job in planned:
            for path in (job.log, job.output):
                self.written_before[path] = _time_written(path)

    def follow(self, process: subprocess.Popen) -> None:
        """Print a line for every job that ends, until the process does."""
        while process.poll() is None:
            self.print_ended()
            time.sleep(POLL_S)
        self.print_ended()

    def print_ended(self) -> None:
        """Print a line for every job that has ended since the last call."""
        seconds = time.monotonic() - self.start
        for job in self.planned:
            if self.is_written(job.log):
                self.began.setdefault(job.name, seconds)
            if job.name not in self.ended and self.is_written(job.output):
                self.ended.add(job.name)
                self.done.add(job.name)
                job_seconds = seconds - self.began.get(job.name, 0)
                line = (
                    f"[{len(self.done)}/{len(self.planned)}] {job.name}, {_duration(job_seconds)}"
                )
                jobs_left = len(self.planned) - len(self.done)
                if jobs_left:
                    line += f", about {_duration(seconds / len(self.ended) * jobs_left)} left"
                print(line, flush=True)

    def is_written(self, path: Path) -> bool:
        """Whether a file was written since the start."""
        return _time_written(path) not in (0, self.written_before[path])

    def print_failed_logs(self) -> bool:
        """Print what the jobs wrote that began and have no output; returns whether any did."""
        failed = [job for job in self.planned if job.name in self.began and not job.done]
        for job in failed:
            log = files.home() / job.log
            text = log.read_text(encoding="utf-8", errors="replace")
            print(f"{job.name} failed, {log}:\n{text}", file=sys.stderr)
        return bool(failed)


def _time_written(path: Path) -> float:
    """When a file of the home was written last; 0: there is none."""
    path = files.home() / path
    return path.stat().st_mtime if path.exists() else 0


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
