"""Kill processes of a smoke run at random moments and resume it: ``python scripts/kill_smoke.py [KILLS] [SEED]``.

Each kill is a SIGKILL of any one process of the run: `dfnb run`, Snakemake, a shell, a training, papermill, a kernel. When
`dfnb run` itself is killed, no process of the run may be left a minute later. In the end every table must be, byte for byte,
that of a run that was left alone. Needs several times the minutes of `make demo PROFILE=smoke`; says what it did, and exits
with 1 where something differs or is left.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

LONGEST_PAUSE_S = 60  # between two kills
MOST_ENDS = 5  # resumed so often after the last kill
LEFT_OVER_S = 60  # in which all processes of a killed run must have ended


def start(home: Path) -> subprocess.Popen:
    """`dfnb run smoke` in a home; all of its processes have this home in their environment."""
    command = [sys.executable, "-m", "dfnb.cli", "run", "smoke"]
    environment = {**os.environ, "DFNB_HOME": str(home)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes(home: Path) -> list[psutil.Process]:
    """The living processes of the runs in a home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DFNB_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return found


def left(home: Path) -> list[str]:
    """The commands of the processes that have not ended in time."""
    last = time.monotonic() + LEFT_OVER_S
    while (alive := processes(home)) and time.monotonic() < last:
        time.sleep(0.5)
    return [" ".join(process.cmdline()[:6]) for process in alive]


def kill_one(home: Path, draw: random.Random) -> int:
    """Kill any process of the run; returns its id, 0 where there was none any more."""
    try:
        victim = draw.choice(processes(home))
        command = " ".join(victim.cmdline()[:6])
        victim.kill()
    except (IndexError, psutil.Error):
        return 0
    print(f"killed: {command}", flush=True)
    return victim.pid


def killed(home: Path, kills: int, draw: random.Random) -> list[str]:
    """Run, kill and resume until all is done; returns the processes that were left where none may be."""
    run, orphans = start(home), []
    for _ in range(kills):
        time.sleep(draw.uniform(0, LONGEST_PAUSE_S))
        if run.poll() is not None:
            orphans += left(home)
            run = start(home)
            time.sleep(draw.uniform(0, LONGEST_PAUSE_S))
        if kill_one(home, draw) == run.pid:
            run.wait()
            orphans += left(home)
    for _ in range(MOST_ENDS):
        if not run.wait():
            break
        orphans += left(home)  # it failed, since a job of it was killed
        run = start(home)
    return orphans + left(home)


def tables(home: Path) -> dict[str, bytes]:
    """The tables of the report, by name."""
    return {path.name: path.read_bytes() for path in home.glob("reports/smoke/tables/*")}


def main(kills: int = 20, seed: int = 0) -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = (Path(folder).resolve() / name for name in ("whole", "broken"))
        if start(whole).wait():
            print("the run that is left alone fails; mend that first")
            return 1
        orphans = killed(broken, kills, random.Random(seed))
        expected, found = tables(whole), tables(broken)
    differ = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    print(f"{kills} kills, seed {seed}: {len(expected)} tables, {len(differ)} differ: {', '.join(differ) or 'none'}")
    print(f"processes left over: {', '.join(orphans) or 'none'}")
    return int(bool(differ or orphans))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
