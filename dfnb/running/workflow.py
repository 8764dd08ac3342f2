"""Running a profile: Snakemake as a child process, which prints the progress."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import joblib

from dfnb import files
from dfnb.report import page
from dfnb.running import jobs
from dfnb.running.datasets import is_available
from dfnb.settings import DfnbError


def run(
    profile: str,
    cores: int,
    main: bool = False,
) -> None:
    """Run the unfinished jobs of a profile, then print where its report is.

    Raises :class:`DfnbError` when a job failed, after Snakemake has named its log.

    Args:
        profile: Its name.
        cores: How many jobs run at the same time; 0: as many as there are cores.
        main: Whether to leave out the trainings of all ablations.
    """
    plan = jobs.plan(profile, main)
    jobs.fetch(plan)
    for dataset in jobs.profile(profile).grid.test_sets:
        if not is_available(dataset, "test"):
            print(
                f"left out: {dataset} is not prepared; `dfnb data` says how to get it, and `dfnb "
                f"prepare {dataset} --root FOLDER --splits test` prepares what this profile needs"
            )
    # In Snakemake's own folder. Relative to the home, so that no character of the home's name
    # matters to Snakemake.
    plan_file = Path(".snakemake", f"{profile}-plan.json")
    # with_gpu.py lets Snakemake end when this process does. 0: Snakemake waits for no GPU itself.
    command = [sys.executable, files.find("workflow/with_gpu.py"), "0", sys.executable]
    command += ["-m", "snakemake", "--snakefile", files.find("workflow/Snakefile")]
    command += ["--directory", files.home(), "--config", f"plan={plan_file}"]
    # cpu_count heeds the limits of this process, such as those of a container.
    command += ["--cores", str(cores or joblib.cpu_count())]
    # Our own lock ends with this process, Snakemake's would not.
    command += ["--nolock", "--show-failed-logs"]
    with files.locked(files.home() / plan_file.parent):
        files.write_json(files.home() / plan_file, plan.model_dump(mode="json"))
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
    report = files.report_folder(profile)
    if process.returncode:  # Snakemake has named the log of each job that failed
        raise DfnbError(
            f"profile {profile} did not finish; the logs above and in {report / 'logs'} end with "
            "the reasons, and the same command continues"
        )
    for path in report.glob("notebooks/*.ipynb"):
        page.sign(path)
    if (report / "notebooks" / f"{page.REPORT}.ipynb").exists():
        report = page.export(profile, page.REPORT)
    print(f"report: {report}")
