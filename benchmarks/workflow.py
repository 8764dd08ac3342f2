"""What running a profile costs beside the work itself: ``python benchmarks/workflow.py [PROFILE]``.

Runs a profile in a new home, with two jobs at the same time, and times it against the shortest time that its jobs allow; what
a notebook costs beside its own cells; a second run, which finds all done; and the help. Rows go to
``reports/benchmarks/workflow-<profile>-<n>cores.csv``.
"""

import base64
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from data import OUT, patched_home, write

from dfnb import core, jobs

LONGER, BESIDE_S, HELP_S, DONE_S = 1.1, 8.0, 0.6, 3.0  # what is required
BESIDE = "papermill, the kernel and the record, s"
IMPORTS = f"{BESIDE}, and a notebook's first cells, which import"
ROUNDS = 5  # of the short commands


def seconds(*arguments: str) -> float:
    """Of a `dfnb` command in the home; what it prints is thrown away."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "dfnb.cli", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def executed(home: Path) -> dict[str, tuple[float, float]]:
    """Start and end of every job by its record, from what Snakemake keeps about its outputs."""
    found = {}
    for path in (home / ".snakemake" / "metadata").iterdir():
        name, facts = base64.urlsafe_b64decode(path.name).decode(), json.loads(path.read_bytes())
        found[name] = facts["starttime"], facts["endtime"]
    return found


def shortest(planned: list[jobs.Job], took: dict[str, float], cores: int) -> float:
    """Seconds below which no order of the jobs gets: an even share of all, or a chain and an even share of what waits for it."""
    chains, before = {}, {}  # seconds of the longest chain that ends with a job; all jobs that must end before it
    for job in planned:  # each after those it needs
        chains[job.id] = took[job.id] + max((chains[need] for need in job.needs), default=0.0)
        before[job.id] = {*job.needs}.union(*(before[need] for need in job.needs))
    waiting = {name: sum(took[other] for other in before if name in before[other]) for name in chains}
    return max(sum(took.values()) / cores, *(chains[name] + waiting[name] / cores for name in chains))


def cells_s(executed: Path) -> float:
    """What the cells of an executed notebook took, without the last one, which writes the record; see workflow/sections.py."""
    return json.loads(executed.read_text(encoding="utf-8"))["metadata"]["papermill"]["cells_s"]


def measured(profile: str, cores: int) -> list[dict[str, Any]]:
    """The rows of a profile, run in the home, which must be new."""
    whole = seconds("run", profile, "--cores", str(cores))
    planned, spans = jobs.jobs(profile), executed(core.home())
    of_jobs = {job.id: spans[job.record.relative_to(core.home()).as_posix()] for job in planned}
    took = {name: end - start for name, (start, end) in of_jobs.items()}
    grid = max(end for _, end in of_jobs.values()) - min(start for start, _ in of_jobs.values())
    bound = shortest(planned, took, cores)
    notebooks = [job for job in planned if not job.trains]
    beside = {job.id: took[job.id] - cells_s(job.log) for job in notebooks}
    imported = [took[job.id] - core.read_json(job.record)["wall_s"] for job in notebooks]
    worst = max(beside, key=beside.__getitem__)
    done = median(seconds("run", profile) for _ in range(ROUNDS))
    helped = median(seconds("--help") for _ in range(ROUNDS))
    facts = {"profile": profile, "jobs": len(planned), "at once": cores}
    return [
        facts | {"what": "the jobs, times the shortest time possible", "value": grid / bound, "below": LONGER},
        facts | {"what": "the jobs, s", "value": grid},
        facts | {"what": "the whole command, s", "value": whole},
        facts | {"what": f"{BESIDE}: most, {worst}", "value": beside[worst], "below": BESIDE_S},
        facts | {"what": f"{BESIDE}: median", "value": median(beside.values()), "below": BESIDE_S},
        facts | {"what": f"{IMPORTS}: most", "value": max(imported), "below": BESIDE_S},
        facts | {"what": f"{IMPORTS}: median", "value": median(imported), "below": BESIDE_S},
        facts | {"what": "dfnb run, all is done, s", "value": done, "below": DONE_S},
        facts | {"what": "dfnb --help, s", "value": helped, "below": HELP_S},
    ]


def main(
    profile: Annotated[str, typer.Argument(help="a file of notebooks/profiles")] = "smoke",
    cores: Annotated[int, typer.Option(min=1, help="jobs at the same time")] = 2,
    out: Annotated[Path, typer.Option(help="folder of the rows")] = OUT,
) -> None:
    """Time a profile; of each requirement it says whether it is met."""
    with tempfile.TemporaryDirectory() as scratch, patched_home(scratch):
        rows = measured(profile, cores)
    write(out, f"workflow-{profile}-{cores}cores", [row | {"value": round(row["value"], 3)} for row in rows])
    for row in rows:
        if "below" in row:
            met = "met" if row["value"] < row["below"] else "not met"
            typer.echo(f"{row['what']}: {row['value']:.2f}, required below {row['below']}, {met}")


if __name__ == "__main__":
    typer.run(main)
