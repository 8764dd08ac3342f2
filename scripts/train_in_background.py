"""Train profiles in the background, at one commit, while the checkout is worked in.

``make hours PROFILES="one another"``: the first call clones the commit at HEAD to ``.hours/clone``,
with ``runs/`` and ``datasets/`` of its own, and runs the profiles there. A later call goes on, at
that commit: delete the clone to begin with another. The score file and record of each training that
has ended are copied to ``reports/``. ``kill -INT -- -PID`` pauses, with the PID in the log.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from facesets import files

CHECKOUT = Path(__file__).resolve().parents[1]
COPIES_S = 60  # seconds between copies
DFNB = (sys.executable, "-m", "dfnb.cli")


def clone_of(checkout: Path, folder: Path) -> Path:
    """The clone of a checkout, at the commit that the checkout had when it was made."""
    clone = folder / "clone"
    if not clone.exists():
        with files.atomic(clone) as temporary:
            subprocess.run(["git", "clone", "-q", checkout, temporary], check=True)
    commit = subprocess.check_output(["git", "-C", clone, "rev-parse", "HEAD"], text=True).strip()
    print(f"PID {os.getpid()}: commit {commit} in {clone}", flush=True)
    return clone


def copy_ended(source: Path, target: Path) -> None:
    """Copy the scores and record of each training of a report that has ended in the clone.

    What was committed with the clone's commit is not: the checkout may have later ones by now.
    """
    listed = ["git", "-C", source, "ls-files", "records"]
    committed = {*subprocess.run(listed, capture_output=True, text=True).stdout.splitlines()}
    for record in sorted((source / "records").glob("*.json")):
        if f"records/{record.name}" in committed:
            continue
        scores = source / "scores" / f"{record.stem}.parquet"
        for path in [scores, record] if scores.exists() else []:
            content = path.read_bytes()
            copy = target / path.relative_to(source)
            if not copy.exists() or copy.read_bytes() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                files.write_bytes(copy, content)


def yield_to_others() -> None:
    """Let this process and its children have what others leave, across sessions, too.

    Linux weighs the processes of one session (an autogroup) together, and a kernel begins its own:
    ``nice`` alone would leave each as much as a shell with all of its processes.
    """
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        autogroup = Path(f"/proc/{process.pid}/autogroup")
        with suppress(OSError):  # it has ended, or the system has no autogroups
            while not autogroup.read_bytes().endswith(b"nice 19\n"):
                with suppress(BlockingIOError):  # Linux takes one change in .1 s, but from root
                    autogroup.write_bytes(b"19")
                time.sleep(0.1)


def run(
    profile: str, clone: Path, checkout: Path, *options: str, command: tuple[str, ...] = DFNB
) -> int:
    """Run a profile in the clone, copy each training that ends; returns the exit status.

    ``options`` are those of ``dfnb run``: ``--main`` leaves the variants out, ``--cores N``.
    """
    # PYTHONPATH, because the installed package is that of the checkout.
    own = {**os.environ, "DFNB_HOME": str(clone), "PYTHONPATH": str(clone)}
    arguments = [*command, "run", profile, *options]
    process = subprocess.Popen(arguments, cwd=clone, env=own)
    while process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(COPIES_S)
        yield_to_others()
        copy_ended(clone / "reports" / profile, checkout / "reports" / profile)
    return process.returncode


def main(
    profiles: Annotated[list[str], typer.Argument(help="In the order to run them.")],
    cores: Annotated[int, typer.Option(min=1, help="Trainings at a time, of one core each.")] = 1,
) -> None:
    """Train PROFILES in the background, in a clone of this commit: main detectors, then variants.

    What has ended is copied to reports/; the same command goes on after an interruption.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    os.nice(19)
    with files.locked(CHECKOUT / ".hours"):  # a second process would train the same
        clone = clone_of(CHECKOUT, CHECKOUT / ".hours")
        at_a_time = ("--cores", str(cores))
        failed = [name for name in profiles if run(name, clone, CHECKOUT, "--main", *at_a_time)]
        failed += [name for name in profiles if run(name, clone, CHECKOUT, *at_a_time)]
    if failed:
        sys.exit(f"not finished: {', '.join(failed)}; the reasons are above")


if __name__ == "__main__":
    typer.run(main)
