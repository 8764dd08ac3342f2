"""Write ``docs/experiments.md`` from ``data_manifest/experiments.yaml``.

``python scripts/experiments.py`` measures every number again from the scores of the committed
reports. The head of the YAML file explains its entries.
"""

from functools import cache
from pathlib import Path

import pandas as pd
import typer

from dfnb.results import detectors, measure, scores, tables
from facesets.checks import read_yaml

CHECKOUT = Path(__file__).resolve().parent.parent
KINDS = (
    "in-dataset",
    "cross-dataset",
    "cross-manipulation",
    "unseen task",
    "robustness",
    "localisation",
    "ablation",
    "attribution",
)
NOT_RUN = "not run"
NOT_JUDGED = "not judged: {} of {} registered seeds"
RUN = "run"  # on generated portraits
NO_EXPERIMENT = "–"  # none of this kind is known of the paper
HEAD = """# Each paper's experiments

What each paper reports, as far as it is known; what we ran; and the command that runs it on the
published data, once [they are prepared](published-data.md). **None was run on the
published data**, so no published number is reproduced, and ours are not to be compared with them.
What we found stands in [results](results.md), [words](methods.md#glossary) in methods.

Numbers have their 95 % interval and seeds; those of fewer than five seeds are exploratory. Of fewer
seeds than are registered no number is shown, and none of a study that is in training.
`python scripts/experiments.py` writes this page from
[experiments.yaml](../data_manifest/experiments.yaml) and the scores of the studies
[study-portraits](../notebooks/profiles/study-portraits.yaml) and
[study-tasks](../notebooks/profiles/study-tasks.yaml). What was run on drawn faces is
[withdrawn](../reports/README.md#withdrawn-studies). Corruptions and maps of one training per
detector are in notebooks [08](../notebooks/08_attribution.ipynb) and
[09](../notebooks/09_robustness.ipynb).

Which kinds of experiments were run (–: none of this kind is known in that paper):
"""


@cache
def trained(report: str) -> set[str]:
    """The names of the detectors of a report; none before it is judged."""
    if not (CHECKOUT / "reports" / report / "results.parquet").exists():
        return set()
    return {each.name for each in detectors(report)}


@cache  # several experiments have numbers of one report
def clean_scores(report: str, level: str) -> pd.DataFrame:
    """The scores of a report on frames without corruption, see :func:`dfnb.results.scores`."""
    table = scores(report, level=level)
    return table[table["corruption"] == ""]


def number(
    report: str,
    metric: str,
    detector: str,
    place: str,
    minus: str = "",
    method: str = "",
    level: str = "video",
) -> pd.DataFrame:
    """The row of :func:`dfnb.results.measure` for a number; no row if it was not run.

    It is a mean over the test sets of a ``place``, such as "cross-dataset". ``minus`` is the
    detector that is subtracted, ``method`` a manipulation method; both are empty where there is
    none.
    """
    names = [detector, minus or detector]
    if not trained(report).issuperset(names):
        return pd.DataFrame()
    rows = clean_scores(report, level)
    rows = rows[(rows["place"] == place) & rows["detector"].isin(names)]
    if method:
        rows = rows[rows["method"].isin([method, "real"])]
    return measure(rows, metric, "detector", "test_set", minus=minus or ())


def text(entry: dict) -> str:
    """A number of the YAML file as text, with its interval and its seeds; NOT_RUN without any.

    NOT_JUDGED where fewer seeds were trained than the entry says were ``registered``.
    """
    row = number(**{name: value for name, value in entry.items() if name != "registered"})
    if row.empty:
        return NOT_RUN
    seeds = row["seeds"].iloc[0]
    if seeds < entry.get("registered", 1):
        return NOT_JUDGED.format(seeds, entry["registered"])
    [value] = tables.cells(row)
    return f"{value} ({seeds} seed{'s' if seeds > 1 else ''})"


def status(done: int, planned: int) -> str:
    """How many of the planned numbers there are: RUN, "2 of 4 run" or NOT_RUN."""
    if done == planned:
        return RUN
    return f"{done} of {planned} {RUN}" if done else NOT_RUN


def row_of(experiment: dict) -> dict:
    """An entry of the YAML file as a row of :func:`experiments`."""
    results = {name: text(each) for name, each in experiment["ours"].items()}
    ours = [f"{name}: {result}" for name, result in results.items()]
    done = sum(result != NOT_RUN for result in results.values())
    is_main = not any(":" in name for name in experiment["detectors"])  # else it is a variant
    return {
        "paper": experiment["paper"],
        "method": experiment["method"],
        "kind": experiment["kind"],
        "done": done,
        "planned": len(results) or 1,
        "experiment": f"{experiment['kind']}: {experiment['what']}",
        "reported": experiment["reported"],
        "ours, generated portraits": "; ".join(ours) or NOT_RUN,
        "on the published data": f"`dfnb run {experiment['profile']}{' --main' * is_main}`",
    }


@cache
def experiments() -> pd.DataFrame:
    """All experiments, paper after paper.

    Columns: ``paper``, its ``method``, ``kind``, how many numbers are ``done`` and ``planned`` (one
    where an experiment names none), and the columns of the tables of ``docs/experiments.md``.
    """
    content = read_yaml(CHECKOUT / "data_manifest" / "experiments.yaml")
    return pd.DataFrame([row_of(experiment) for experiment in content["experiments"]])


def document() -> str:
    """The text of ``docs/experiments.md``: how much was run, and a table per paper."""
    parts = [HEAD, f"{overview()}\n"]
    for (paper, method), rows in experiments().groupby(["paper", "method"], sort=False):
        table = rows.loc[:, "experiment":].to_markdown(index=False)
        parts.append(f"## {paper}\n\nThe network and its losses: {method}.\n\n{table}\n")
    return "\n".join(parts)


def overview() -> str:
    """How much was run, a row per kind of experiment and a column per paper."""
    counts = experiments().groupby(["kind", "paper"], sort=False)[["done", "planned"]].sum()
    statuses = pd.Series([status(*each) for each in counts.to_numpy()], index=counts.index)
    papers = experiments()["paper"].unique()
    table = statuses.unstack("paper").reindex(index=KINDS, columns=papers).fillna(NO_EXPERIMENT)
    return table.rename_axis("experiment").to_markdown()


def main() -> None:
    """Write docs/experiments.md from data_manifest/experiments.yaml and the committed scores."""
    (CHECKOUT / "docs" / "experiments.md").write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
