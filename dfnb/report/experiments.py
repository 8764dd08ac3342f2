"""Every experiment of the papers: what is reported, how it is run, our result, and its status.

The rows are in ``data_manifest/experiments.yaml``, whose head explains the fields. Numbers are
measured from the scores of committed reports when the table is made.
"""

from functools import cache
from typing import Literal

import pandas as pd
from pydantic import Field

from dfnb.files import find
from dfnb.report.measure import measure
from dfnb.report.scores import Level, scores
from dfnb.report.tables import cells
from dfnb.settings import Closed, Name, read_yaml

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
Status = Literal[
    "equal to the released code",
    "interpretation",
    "run on embedded data",
    "never run on the published data",
    "not run",
]


class Number(Closed):
    """A number of a committed report: a mean over the test sets of a place."""

    report: Name
    metric: str
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
    status: list[Status] = Field(min_length=1)

    @property
    def command(self) -> str:
        """What trains its detectors on the published data."""
        is_main = not any(":" in name for name in self.detectors)
        return f"dfnb run {self.profile}{' --main' if is_main else ''}"


class Content(Closed):
    """The file ``experiments.yaml``."""

    experiments: list[Experiment]


def experiments() -> list[Experiment]:
    """All experiments, by paper; raises :class:`DfnbError` that names a wrong entry."""
    path = find("data_manifest/experiments.yaml")
    return Content.check(read_yaml(path), path).experiments


@cache  # several experiments have numbers of one report
def _scores(report: str, level: Level) -> pd.DataFrame:
    table = scores(report, level=level)
    return table[(table["corruption"] == "") & (table["map"] == "")]


def measured(number: Number) -> pd.DataFrame:
    """The row of :func:`dfnb.report.measure.measure` for a number."""
    rows = _scores(number.report, number.level)
    detectors = [number.detector, number.minus or number.detector]
    rows = rows[(rows["place"] == number.place) & rows["detector"].isin(detectors)]
    if number.method:
        rows = rows[rows["method"].isin([number.method, "real"])]
    table = measure(rows, number.metric, "detector", "test_set", minus=number.minus or ())
    return table[table["detector"] == number.detector]


def matrix(paper: str = "") -> pd.DataFrame:
    """All experiments, or those of a paper by its title, as a table of texts."""
    rows = []
    for each in experiments():
        if paper in ("", each.paper):
            ours = [f"{name}: {cells(measured(number))[0]}" for name, number in each.ours.items()]
            rows.append(
                {
                    "paper": each.paper,
                    "experiment": f"{each.kind}: {each.what}",
                    "reported": each.reported,
                    "ours, drawn faces": "; ".join(ours) or each.figure or "–",
                    "on the published data": each.command,
                    "status": ", ".join(each.status),
                }
            )
    return pd.DataFrame(rows).set_index(["paper", "experiment"])
