"""Does anything transfer from drawn to real faces? A report's detectors, tested on forgeries of photographs.

``python benchmarks/portraits.py PHOTOS``: makes test sets from a folder of photographs, which are not distributed, with the
camera, forgeries and delivery of two of the report's own test sets, and scores both on the main lines' runs whose weights are
here (a clone has the first seed's, the home of `dfnb run study` all). Nothing is trained, and no report is changed. The rows go to
``reports/benchmarks/portraits-<profile>.csv``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from dfnb import compare, core, jobs, metrics, papers, scores, synth
from dfnb.core import DfnbError
from dfnb.data.frames import load_frames, select
from dfnb.train import DEVICE, predict

LEVELS: dict[str, metrics.Level] = {"AUC": "video", "gain in pixel AP": "frame"}
DRAWN = "drawn"
NOT_DISTRIBUTED = "made with portraits that are not distributed"


def rows(line: scores.Line, runs: list[papers.Run], test_set: str, people: str) -> Iterator[dict[str, Any]]:
    """Each metric that a line has on a test set, the mean over these runs, with its interval over videos and seeds."""
    frames, tables = select(load_frames(test_set), "test"), []
    for run in runs:
        if people == DRAWN:  # the report's own scores
            table = scores.score(run, test_set)
        else:  # not kept: a table in the store would join the report
            table = predict(run.network().to(DEVICE), frames, run.settings, constant=run.mean_mask())
        table.attrs = {"seed": run.parameters["seed"]}
        tables.append(table)
    for metric, level in LEVELS.items():
        estimates = compare.estimates([metrics.align(tables, level)], metric)
        if estimates:
            yield {"line": line.name, "metric": metric, "level": level} | compare.summary(compare.outcome(estimates))


def main(
    photos: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="a folder of photographs")],
    profile: Annotated[str, typer.Option(help="the report whose detectors are tested")] = "study",
    test_sets: Annotated[int, typer.Option(help="how many of its test sets are made anew, the first ones")] = 2,
    out: Annotated[Path, typer.Option(help="folder of the rows")] = Path("reports/benchmarks"),
) -> None:
    """Score the main lines of a report on forgeries of photographs, and on the drawn ones that differ in the people alone."""
    jobs.restore(profile)
    main_lines = [line for line in scores.Report(profile).lines() if line.here and not line.group]
    if not main_lines:
        raise DfnbError(f"no weights of the profile {profile} are here; run it first: dfnb run {profile}")
    found = []
    for drawn in jobs.profile(profile).grid.test_sets[:test_sets]:
        jobs.datasets(drawn)
        portraits = f"{drawn}-portraits"
        changes = {"identities": {"test": 1}, "portraits": str(photos.expanduser().resolve())}  # all that are usable
        synth.build(portraits, synth.preset(drawn, **changes))
        for test_set, people in {drawn: DRAWN, portraits: NOT_DISTRIBUTED}.items():
            facts = {"test_set": test_set, "people": people, "fingerprint": load_frames(test_set).attrs["fingerprint"]}
            for line in main_lines:
                typer.echo(f"{line.name} on {test_set}")
                runs = [run for run in line.here if not run.record["collapsed"]]
                found += [facts | row for row in rows(line, runs, test_set, people)]
    table = pd.DataFrame(found).assign(commit=core.environment()["commit"])
    path = core.write_text(out / f"portraits-{profile}.csv", table.to_csv(index=False))
    shown = table.assign(ours=[metrics.interval(row.value, row.low, row.high) for row in table.itertuples()])
    typer.echo(shown[["line", "test_set", "metric", "ours", "seeds", "n", "clusters"]].to_string(index=False))
    typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
