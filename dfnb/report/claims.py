"""What the papers claim, and whether the scores of a report support it.

The claims are in ``data_manifest/claims/claims.yaml``; its head explains the fields and the rule of
each verdict. Published figures are in ``data_manifest/published.csv``.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.files import find, read_metadata, read_table, report_folder
from dfnb.report.measure import FEWEST_SETS, columns_of, measure
from dfnb.report.scores import (
    Level,
    detectors,
    maps,
    profile_of,
    scores,
    test_set_path,
    thresholds,
)
from dfnb.report.statistics import NAN, holm, p_above
from dfnb.report.tables import cells, main, robustness
from dfnb.settings import Closed, Name, explained, read_yaml

FEWEST_SEEDS = 5  # for a verdict
LEVEL = 0.025  # of one-sided tests; unadjusted, they decide like a two-sided 95 % interval
# What is tested of a claim's value; each hypothesis is adjusted in a family of its own.
P_VALUES = ("p_gain", "p_worse", "p_small_gain")
MOST_COLLAPSED = 2  # runs that may be left out for a verdict; with more, the rest is a selection
ROBUSTNESS_KEPT = "robustness kept"  # AUC under corruptions minus that of the same videos clean


class Claim(Closed):
    """An entry of ``claims.yaml``; the head of that file explains the fields."""

    id: Name
    paper: Name
    says: str
    source: str
    kind: Literal["gain", "no worse", "figure", "shown"]
    metric: str
    detector: str
    against: str = ""
    sets: list[str] = Field(min_length=1)
    level: Level = "video"
    method: str = "all"
    map: str = ""
    corruption: str = ""
    published: float = NAN
    only_if: str = ""
    family: bool = True
    registered: str = ""


class Content(Closed):
    """The content of ``claims.yaml``.

    Attributes:
        delta: The least difference that is material, by kind of metric, on the metric's own scale.
        registered: The day on which the claims without a ``registered`` of their own were written
            down.
        datasets: Our name of a dataset -> its names in published.csv.
        assumed: A dataset's name in published.csv -> what it leaves open, and what is assumed.
    """

    delta: dict[Literal["within", "cross", "accuracy", "localisation"], float]
    registered: str
    datasets: dict[Name, list[str]] = Field({})
    assumed: dict[str, str] = Field({})
    claims: list[Claim] = Field(min_length=1)


def content(name: str = "claims") -> Content:
    """The content of ``<name>.yaml``; raises :class:`DfnbError` that names the field at fault.

    ``name``: a file of ``data_manifest/claims/`` without its suffix, which a profile chooses.
    """
    path = find(f"data_manifest/claims/{name}.yaml")
    return Content.check(read_yaml(path), path)


def file_of(profile: str) -> str:
    """The file of claims that a report judges, as a path in the checkout."""
    return f"data_manifest/claims/{profile_of(profile).get('claims', 'claims')}.yaml"


# ---------------------------------------------------------------- verdicts


def judge(profile: str, paper: str = "") -> pd.DataFrame:
    """The claims of a report, each on every dataset that it names, with its verdict.

    Args:
        profile: Name of the report; its profile names the file of claims.
        paper: Only the claims of this module; the correction for their number is over all.

    Returns:
        A row per claim and place (a test set, "within" or "across"): ``paper``, ``claim``, ``on``,
        ``source``, ``registered``, ``kind``, ``published``; the number, as of
        :func:`dfnb.report.measure.measure`; ``p_gain``, ``p_worse`` and ``p_small_gain``, corrected
        by Holm's rule for the claims of the family; and the ``verdict``.
    """
    registry = content(Path(file_of(profile)).stem)
    read = cache(lambda what: maps(profile) if what == "maps" else scores(profile, what))
    limits = thresholds(profile)
    rows = []
    supported = set()  # id and place of premises; these count before Holm's correction
    for claim in registry.claims:
        of_claim = _rows(claim, read("maps" if claim.map else claim.level))
        for name in claim.sets:
            for place, number in _numbers(claim, name, of_claim, limits).items():
                row = _judged(claim, number, place == "within", registry.delta)
                if claim.only_if and (claim.only_if, place) not in supported:
                    row = {"verdict": f"not judged: {claim.only_if} is not supported"}
                if row.get("p_gain", 1) < LEVEL:
                    supported.add((claim.id, place))
                about = claim.model_dump(exclude={"sets", "says"})
                about["registered"] = claim.registered or registry.registered
                rows.append({**about, "claim": claim.says, "on": place, **row})
    judged = _decided(pd.DataFrame(rows))
    return judged[judged["paper"] == paper] if paper else judged


def _rows(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """The scores, or measures of maps, that a claim is about, on all test sets."""
    keep = table["map"] == claim.map
    keep &= table["detector"].isin([claim.detector, claim.against])
    if claim.method != "all":
        keep &= table["method"].isin([claim.method, "real"])
    if claim.metric != ROBUSTNESS_KEPT:
        keep &= table["corruption"] == ""
        keep &= ~table["sanity"]
    return table[keep]


def _numbers(
    claim: Claim,
    name: str,
    rows: pd.DataFrame,
    limits: Mapping[tuple[str, int], np.ndarray],
) -> dict[str, dict[str, Any]]:
    """The numbers that a claim is about, by place; an empty one where the report has none.

    ``name``: of ``Claim.sets``: ``within``, ``cross`` (the mean over all other datasets), or that
    of a test set, in which * may replace a part.
    """
    place = {"cross": "across"}.get(name, name)
    if place in ("within", "across"):
        rows = rows[rows["place"] == place]
        by, mean_over = ["detector"], ["test_set"]
    else:
        names = fnmatch.filter(rows["test_set"].unique(), name)
        rows = rows[rows["test_set"].isin(names)]
        by, mean_over = ["detector", "test_set"], []
    if claim.metric == ROBUSTNESS_KEPT:
        averaged = [*mean_over, "corruption", "severity"]
        numbers = robustness(rows, by, averaged, kept=True, minus=claim.against)
    elif {*columns_of(claim.metric)} <= {*rows}:
        numbers = measure(rows, claim.metric, by, mean_over, claim.against or (), limits)
    else:  # nothing has been measured for this metric
        numbers = pd.DataFrame(columns=by)
    numbers = numbers[numbers["detector"] == claim.detector]
    places = numbers["test_set"] if "test_set" in numbers else [place] * len(numbers)
    return dict(zip(places, numbers.to_dict("records"))) or {name: {}}


def _judged(
    claim: Claim,
    number: Mapping[str, Any],
    within: bool,
    deltas: Mapping[str, float],
) -> dict[str, Any]:
    """The number and the verdict of a claim in one place: a part of a row of :func:`judge`.

    A claim that is tested also gets one-sided p values of P_VALUES on its true value: gain, it is
    above 0 (or, for "no worse", above minus the least material difference); worse, it is below;
    small gain, it is below the least material difference. Its verdict follows from them, see
    :func:`_decided`.
    """
    if not number:
        names = " minus ".join(filter(None, [claim.detector, claim.against]))
        return {"verdict": f"not testable: no {claim.metric} of {names}"}
    row = {**number, "verdict": _without_verdict(number)}
    for name in ("detector", "minus"):  # the claim itself has these
        row.pop(name, None)
    if claim.kind == "shown":
        row["verdict"] = "not judged"
    if row["verdict"]:
        return row
    if claim.kind == "figure":
        where = "inside" if number["low"] <= claim.published <= number["high"] else "outside"
        return {**row, "verdict": f"published figure {where} our interval"}
    delta = deltas[_kind_of_delta(claim.metric, within)]
    limit = -delta if claim.kind == "no worse" else 0.0
    spread = number["error"], number["degrees"]
    row["p_gain"] = p_above(number["value"] - limit, *spread)
    row["p_worse"] = p_above(limit - number["value"], *spread)
    if claim.kind == "gain":
        row["p_small_gain"] = p_above(delta - number["value"], *spread)
    return row


def _without_verdict(number: Mapping[str, Any]) -> str:
    """The text in place of a verdict, with the reason; empty where a verdict can be given."""
    if number["collapsed"] > MOST_COLLAPSED or number["collapsed"] == number["seeds"]:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    if 1 < number["sets"] < FEWEST_SETS:
        return f"exploratory: a mean over fewer than {FEWEST_SETS} test sets"
    if np.isnan(number["low"]):
        return "undecided: no interval"
    return ""


def _kind_of_delta(metric: str, within: bool) -> str:
    """Which of the least material differences applies to a metric; a key of ``Content.delta``."""
    if "accuracy" in metric:
        return "accuracy"
    if metric in ("AUC", ROBUSTNESS_KEPT):
        return "within" if within else "cross"
    return "localisation"  # measures of maps and of located regions


def _decided(judged: pd.DataFrame) -> pd.DataFrame:
    """The claims with adjusted p values, and the verdicts of those that are tested.

    Each hypothesis is adjusted for the claims of the family; the others keep their p.
    """
    # Where no claim has a number, these columns are missing.
    missing = {"value", "low", "high", *P_VALUES} - {*judged}
    judged = judged.reindex(columns=[*judged, *missing])
    for name in P_VALUES:
        tested = judged["family"] & judged[name].notna()
        judged.loc[tested, name] = holm(judged.loc[tested, name])
    is_tested = judged["p_gain"].notna()
    judged.loc[is_tested, "verdict"] = judged[is_tested].apply(verdict, axis="columns")
    return judged


def verdict(p: Mapping[str, float]) -> str:
    """The verdict of the p values of P_VALUES; the rule is in the head of ``claims.yaml``."""
    if p["p_gain"] < LEVEL:
        return "supported"
    if p["p_worse"] < LEVEL:
        return "worse"
    if p["p_small_gain"] < LEVEL:
        return "no material gain"
    return "undecided"


# ---------------------------------------------------------------- published figures


def published(names: Iterable[str]) -> pd.DataFrame:
    """The rows of ``published.csv`` of the papers with these names; ``paper`` becomes the name.

    A row belongs to a name if its column ``paper``, such as "LAE (1909.05999v2, CIKM20)", begins
    with it, or if its column ``method`` equals it. The latter is for the baseline, which has no
    paper of its own there: its figures are in the tables of others, by the name of the detector.
    Raises :class:`DfnbError` for a file that cannot be read.
    """
    path = find("data_manifest") / "published.csv"
    with explained(path, "as a table of figures", "correct it"):
        table = pd.read_csv(path, dtype={"value": float})
    parts = [table.head(0)]  # the columns, where no name is given
    for name in names:
        is_named = table["paper"].str.startswith(name)
        is_named |= table["method"] == name
        of_paper = table[is_named].assign(paper=name)
        parts.append(of_paper)
    return pd.concat(parts, ignore_index=True)


def published_and_ours(profile: str) -> pd.DataFrame:
    """Every published AUC that a detector of a report can be compared with, beside ours, as text.

    Each row says what the figure is of, and how ours was made: ``level``, ``frames`` that were
    scored, their ``crop``, and ``checkpoint``, the rule by which it was chosen.
    """
    by = ["detector", "test_set"]
    parts = {}
    for level, aggregation in (("video", "video, the mean of its frames"), ("frame", "frame")):
        figures = published_for(profile, level)
        rows = main(scores(profile, level)).merge(figures[by])
        parts[aggregation] = measure(rows, "AUC", by).merge(figures)
    table = pd.concat(parts, names=["level"]).droplevel(1)
    table["ours"] = cells(table)
    folder = report_folder(profile)
    paths = [test_set_path(folder, name) for name in table["test_set"]]
    table["frames"] = [len(read_table(path)) for path in paths]
    table["crop"] = [read_metadata(path)["crop"] for path in paths]
    columns = [*by, "published", "ours", "frames", "crop", "checkpoint", "source", "confidence"]
    return table.reindex(columns=[*columns, "assumed"])


def published_for(profile: str, level: Level) -> pd.DataFrame:
    """The published AUC of each detector of a report on each dataset: of its paper and level.

    Columns: ``detector``, ``test_set``, ``published``, ``source``, ``confidence`` (how the figure
    is known), ``assumed`` (what the source leaves open) and ``checkpoint``, the rule by which ours
    was chosen. A figure belongs to the published backbone alone. Where several figures match, the
    first in the file counts.
    """
    registry = content()
    ours = {}  # from the names of datasets in published.csv to ours
    for name, theirs in registry.datasets.items():
        ours.update(dict.fromkeys(theirs, name))
    trained = []
    for detector in detectors(profile):
        for run in detector.runs[:1]:  # none of another tool
            record = run.record
            about = [detector.name, record.detector.published, detector.train_set, record.rule]
            if record.parameters.settings["backbone"] == record.detector.defaults["backbone"]:
                trained.append(about)
    names = ["detector", "paper", "train_set", "checkpoint"]
    known = pd.DataFrame(trained, columns=names, dtype=str)  # as text also where there is no row
    figures = published(known["paper"].unique())
    # A paper's table also quotes the best of earlier papers.
    is_of_others = figures["method"].str.startswith("previous best")
    is_comparable = figures["metric"] == "AUC"
    is_comparable &= figures["level"] == level
    figures = figures[is_comparable & ~is_of_others]
    # The note on a test set also covers its training set, see claims.yaml, so that on the training
    # set counts only where the test set has none.
    notes = figures[["test_set", "train_set"]].map(registry.assumed.get)
    figures = figures.assign(assumed=notes["test_set"].fillna(notes["train_set"]))
    figures = figures.replace({"train_set": ours, "test_set": ours})
    figures = figures.rename(columns={"value": "published"})
    figures = figures.drop_duplicates(["paper", "train_set", "test_set"])
    columns = ["paper", "train_set", "test_set", "published", "assumed", "source", "confidence"]
    return known.merge(figures[columns], on=["paper", "train_set"])
