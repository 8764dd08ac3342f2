"""Run a profile: what is due of its jobs, by Snakemake, then its main table. `dfnb run` calls :func:`run_profile`."""

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from dfnb import core
from dfnb.core import DfnbError

LEFT_OVER_S = 10  # what a killed workflow leaves behind needs a moment to save its state


def run_profile(profile: str, cores: int) -> None:
    """Do what is due, ``cores`` jobs at the same time (0: as many as there are cores), and print the main table.

    When all was done, a file says what then was there. As long as nothing has changed torch need not be loaded.
    """
    name = core.Named.check({"name": profile}, "dfnb run").name
    seen = core.home() / "runs" / "notebooks" / f"{name}.json"
    if unchanged(seen):
        typer.echo(f"profile {profile}: all is done")
    else:
        # whatever this process starts ends when the lock is free, see job.py
        with core.locked(core.home() / "runs", LEFT_OVER_S) as lock:
            do_jobs(profile, cores, lock, seen)
    report = core.home() / "reports" / profile
    main_table = report / "tables" / "cross_dataset.md"
    typer.echo(main_table.read_text(encoding="utf-8") if main_table.exists() else "")
    typer.echo(f"report: {report / 'index.html'}")


def unchanged(seen: Path) -> bool:
    """Whether all is still as a run noted in ``seen``; a note that is missing or damaged says nothing, and is made again."""
    with suppress(core.DfnbError, AttributeError, KeyError, OSError, TypeError, ValueError):
        return seen.is_file() and as_seen(core.read_json(seen)["files"]) == core.read_json(seen)
    return False


def as_seen(names: Iterable[str | Path]) -> dict[str, Any]:
    """What jobs depend on as it is now: the code, and size and time of files in the home, all datasets and own papers."""
    patterns = ("datasets/*/record.json", "papers/*.py", "reports/*/runs.json")
    paths = {core.home() / name for name in names}.union(*map(core.home().glob, patterns))
    stats = {path.relative_to(core.home()).as_posix(): path.stat() for path in paths if path.exists()}
    return {
        "code": core.code(),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())},
    }


def do_jobs(profile: str, cores: int, lock: Path, seen: Path) -> None:
    """Do the jobs of a profile that are due, by Snakemake, and note in ``seen`` what then is there."""
    import torch

    from dfnb import jobs

    jobs.restore(profile)
    planned = jobs.jobs(profile)
    todo = [job for job in planned if not job.done()]
    typer.echo(f"profile {profile}: {f'{len(todo)} jobs to do' if todo else 'all is done'}")
    for job in todo:
        job.record.unlink(missing_ok=True)
    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    environment = {**os.environ, "DFNB_LOCK": str(lock), "DFNB_GPUS": visible if gpus else ""}
    command = [sys.executable, "-m", "snakemake", "-s", core.find("workflow") / "Snakefile", "-d", core.home()]
    command += ["--cores", str(cores or "all"), "--resources", f"gpu={gpus or 999}", "--config", f"profile={profile}"]
    command += ["--nolock"]  # instead there is that of `run_profile`
    # a session of its own: Ctrl-C reaches only this process
    options = {"env": environment, "start_new_session": True, "stderr": subprocess.PIPE, "text": True, "check": False}
    if todo and (done := subprocess.run(command, **options)).returncode:
        if done.returncode < 0:
            ended = f"Snakemake was ended by signal {-done.returncode}; start again, it goes on where it was"
            raise DfnbError(f"profile {profile} did not end; {ended}")
        logs = [str(job.log.relative_to(core.home())) for job in todo if not job.done() and job.log.exists()]
        said = done.stderr.replace("Error:\n", "Error: ").splitlines()  # a name, and in the next line the reason
        failed = [line.rstrip(":") for line in said if line.startswith("Error in rule")]
        cause = failed or [line for line in said if "Error" in line][-1:] or ["Snakemake does not say why"]
        where = f"the last output of what is missing is in {', '.join(logs)}" if logs else ", ".join(cause)
        raise DfnbError(f"profile {profile} did not end; {where}")
    if len(jobs.jobs(profile)) > len(planned):  # a run collapsed, and seeds of the reserve have joined
        do_jobs(profile, cores, lock, seen)
    elif all(job.done() for job in planned):
        core.write_json(seen, as_seen(path for job in planned for path in job.files()))
