"""Every experiment of the papers: what is reported, how it is run, our result, and its status.

The rows are in ``data_manifest/experiments.yaml``, whose head explains the fields. Numbers are
measured from the scores of committed reports when a table is made, and so is what was run.
"""

from functools import cache
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
from pydantic import Field

from dfnb import files
from dfnb.checks import Closed, Name, read_yaml
from dfnb.report.metrics import measure
from dfnb.report.reading import Level, scores
from dfnb.report.tables import cells
from dfnb.store.reports import detectors

Kind = Literal[
    "within dataset",
    "cross-dataset",
    "cross-manipulation",
    "unseen task",
    "robustness",
    "localisation",
    "ablation",
    "attribution",
]
REPORT = "study-papers"  # where most of them were trained on drawn faces
NOT_RUN = "not run"
RUN = "run"  # on drawn faces
NO_EXPERIMENT = "–"  # none of this kind is known of the paper


class Number(Closed):
    """A number of a committed report: a mean over the test sets of a place."""

    report: Name
    metric: str  # see measure; none WITH_THRESHOLD, because no thresholds are read
    detector: str
    minus: str = ""  # the detector that is subtracted; empty: none
    place: str
    method: str = ""  # the manipulation method; empty: all
    level: Level = "video"


class Experiment(Closed):
    """A row of ``experiments.yaml``."""

    id: Name
    paper: str
    kind: Kind
    what: str
    reported: str
    profile: Name
    detectors: list[str] = Field(min_length=1)
    ours: dict[str, Number]
    figure: str = ""
    method: Literal["equal to the released code", "interpretation"]

    @property
    def command(self) -> str:
        """What trains its detectors on the published data."""
        is_main = not any(":" in name for name in self.detectors)  # "LAE, masks: 0 %" is a variant
        return f"dfnb run {self.profile}{' --main' if is_main else ''}"

    def results(self) -> dict[str, str]:
        """Our numbers as text, by name; NOT_RUN for one that is not in its report."""
        return {name: _text(number) for name, number in self.ours.items()}

    def status(self) -> str:
        """How much was run on drawn faces: RUN, a text such as "2 of 4 run", or NOT_RUN.

        Counted are the numbers whose detectors are in their report, and the figure, if there is
        one. The numbers themselves are not computed.
        """
        done = [is_run(number) for number in self.ours.values()]
        if self.figure:
            done.append(_is_there(self.figure))
        if not any(done):
            return NOT_RUN
        return RUN if all(done) else f"{sum(done)} of {len(done)} {RUN}"


class Content(Closed):
    """The file ``experiments.yaml``."""

    experiments: list[Experiment]


def experiments() -> list[Experiment]:
    """All experiments, paper after paper; raises :class:`DfnbError` that names a wrong entry."""
    path = files.find("data_manifest/experiments.yaml")
    return Content.check(read_yaml(path), path).experiments


@cache  # several experiments have numbers of one report; another home has another one of that name
def _scores(folder: Path, level: Level) -> pd.DataFrame:
    """The scores of a report, by its folder, on frames without corruption, see :func:`scores`."""
    table = scores(folder.name, level=level)
    return table[table["corruption"] == ""]


def is_run(number: Number) -> bool:
    """Whether the detectors of a number are in its report."""
    names = {number.detector, number.minus or number.detector}
    return names <= _detector_names(files.report_folder(number.report))


@cache  # by folder: another home may have another report of that name
def _detector_names(folder: Path) -> set[str]:
    """The names of the detectors of a report, by its folder."""
    return {each.name for each in detectors(folder.name)}


def measured(number: Number) -> pd.DataFrame:
    """The row of :func:`dfnb.report.metrics.measure` for a number; no row if it was not run."""
    if not is_run(number):
        return pd.DataFrame()
    rows = _scores(files.report_folder(number.report), number.level)
    names = [number.detector, number.minus or number.detector]
    rows = rows[(rows["place"] == number.place) & rows["detector"].isin(names)]
    if number.method:
        rows = rows[rows["method"].isin([number.method, "real"])]
    return measure(rows, number.metric, "detector", "test_set", minus=number.minus or ())


def _text(number: Number) -> str:
    """A number with its interval and the count of seeds, or NOT_RUN."""
    row = measured(number)
    if row.empty:
        return NOT_RUN
    [text] = cells(row)
    seeds = row["seeds"].iloc[0]
    return f"{text} ({seeds} seed{'s' if seeds > 1 else ''})"


def _is_there(figure: str) -> bool:
    """Whether the file of a figure exists; its path is relative to the home."""
    return (files.home() / figure).exists()


def matrix(paper: str = "") -> pd.DataFrame:
    """All experiments, or those of a paper by its title, as a table of texts for a page of docs/.

    Brackets are 95 % intervals over people and seeds; of a mean over the test sets of other domains
    ("across") also over test sets.
    """
    rows = []
    for each in experiments():
        if paper in ("", each.paper):
            ours = [f"{name}: {text}" for name, text in each.results().items()]
            if each.figure and _is_there(each.figure):
                ours.append(f"[figure](../{each.figure})")
            rows.append(
                {
                    "paper": each.paper,
                    "experiment": f"{each.kind}: {each.what}",
                    "reported": each.reported,
                    "ours, drawn faces": "; ".join(ours) or NOT_RUN,
                    "status": f"{each.status()} on drawn faces; never on the published data",
                    "on the published data": f"`{each.command}`",
                }
            )
    return pd.DataFrame(rows).set_index(["paper", "experiment"])


def overview() -> pd.DataFrame:
    """How much was run, a row per kind and a column per paper; each cell is a :func:`_summary`."""
    statuses = {}  # (kind, paper) -> those of its experiments
    for each in experiments():
        statuses.setdefault((each.kind, each.paper), []).append(each.status())
    kinds = get_args(Kind)
    table = pd.DataFrame(index=pd.Index(kinds, name="experiment"))
    for paper in dict.fromkeys(paper for _, paper in statuses):
        table[paper] = [_summary(statuses.get((kind, paper), [])) for kind in kinds]
    return table


def _summary(statuses: list[str]) -> str:
    """One text for the statuses of experiments of a kind; NO_EXPERIMENT if there are none.

    It is RUN or NOT_RUN if all are, else a text such as "1 of 3 run completely". The status of a
    single experiment, see :meth:`Experiment.status`, stays as it is.
    """
    if not statuses:
        return NO_EXPERIMENT
    done = sum(status == RUN for status in statuses)
    if len(statuses) == 1 or done == len(statuses) or set(statuses) == {NOT_RUN}:
        return statuses[0]
    return f"{done} of {len(statuses)} {RUN} completely"
