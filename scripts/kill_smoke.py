"""Kill processes of smoke runs at random moments and resume them: ``python scripts/kill_smoke.py [KILLS] [SEED]``.

Each kill is a SIGKILL of any one process of a run: `dfnb run`, Snakemake, a shell, a training, papermill, a kernel. Before it
passes at most a fourth of the time that a run takes which is left alone, so that kills fall on all that a run does. When `dfnb
run` itself is killed, no process of the run may be left a minute later. In the end every table must be, byte for byte, that of
the run that was left alone; where all is done before the last kill, a run in a new home takes the others. Needs several times
the minutes of `make demo PROFILE=smoke`; says what it did, and exits with 1 where something differs or is left.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PAUSE = 1 / 4  # at most of the whole run's time, between two kills
MOST_ENDS = 5  # resumed so often after the last kill
LEFT_OVER_S = 60  # in which all processes of a killed run must have ended


def start(home: Path) -> subprocess.Popen:
    """`dfnb run smoke` in a home; all of its processes have this home in their environment. What it complains of is shown."""
    command = [sys.executable, "-m", "dfnb.cli", "run", "smoke"]
    environment = {**os.environ, "DFNB_HOME": str(home)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


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
    last, commands = time.monotonic() + LEFT_OVER_S, []
    while (alive := processes(home)) and time.monotonic() < last:
        time.sleep(0.5)
    for process in alive:
        with contextlib.suppress(psutil.Error):  # it has just ended
            commands.append(" ".join(process.cmdline()[:6]))
    return commands


def kill_one(home: Path, draw: random.Random) -> int:
    """Kill any process of the run; returns its id, 0 where there was none any more."""
    try:
        victim = draw.choice(processes(home))
        command = " ".join(victim.cmdline()[:6])[:150]
        victim.kill()
    except (IndexError, psutil.Error):
        return 0
    done = sum(1 for _ in home.glob("runs/notebooks/smoke/*/record.json"))
    print(f"killed after {done} jobs: {command}", flush=True)
    return victim.pid


def killed(home: Path, kills: int, draw: random.Random, pause_s: float) -> tuple[int, list[str]]:
    """Run, kill after at most so long, and resume until all is done; how many were killed, and what was left where nothing may be."""
    run, hits, orphans = start(home), 0, []
    try:
        while hits < kills:
            time.sleep(draw.uniform(0, pause_s))
            if run.poll() == 0:
                break
            if run.poll() is None:
                victim = kill_one(home, draw)
                hits += victim > 0
                if victim != run.pid:
                    continue
            run.wait()
            orphans += left(home)
            run = start(home)
        ends = 0
        while run.wait() and ends < MOST_ENDS:  # it failed, since a job of it was killed
            ends += 1
            orphans += left(home)
            run = start(home)
        return hits, orphans + left(home)
    finally:
        for process in processes(home):
            with contextlib.suppress(psutil.Error):
                process.kill()


def tables(home: Path) -> dict[str, bytes]:
    """The tables of the report, by name."""
    return {path.name: path.read_bytes() for path in home.glob("reports/smoke/tables/*")}


def main(kills: int = 20, seed: int = 0) -> int:
    """Returns the exit status."""
    done, orphans, differ, draw = 0, [], set(), random.Random(seed)
    folder = Path(tempfile.mkdtemp()).resolve()
    whole, *broken = (folder / f"home-{number}" for number in range(kills + 1))
    began = time.monotonic()
    expected = tables(whole) if not start(whole).wait() else {}
    pause_s = PAUSE * (time.monotonic() - began)
    if not expected:
        print(f"the run that is left alone fails or makes no table; mend that first; its home, {whole}, is kept")
        return 1
    for home in broken:  # in each at least one is killed, so that there are enough
        hits, alive = killed(home, kills - done, draw, pause_s)
        done, orphans, found = done + hits, orphans + alive, tables(home)
        differ |= {name for name in {*expected, *found} if expected.get(name) != found.get(name)}
        if done >= kills or not hits:
            break
    print(f"{done} of {kills} kills, seed {seed}: {len(expected)} tables, {len(differ)} differ: {sorted(differ)}")
    print(f"processes left over: {', '.join(orphans) or 'none'}")
    if differ or orphans or done < kills:
        print(f"the homes are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
