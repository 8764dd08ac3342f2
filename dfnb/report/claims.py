"""What the papers claim, and whether the scores of a report support it.

The claims are in ``data_manifest/claims/``, whose README explains the fields and the rule of each
verdict. Published figures are in :mod:`dfnb.report.published`.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy.special import stdtrit

from dfnb.checks import Closed, Name, read_yaml
from dfnb.files import find
from dfnb.report.detectors import detectors
from dfnb.report.metrics import FEWEST_SETS, LESS_IS_BETTER, METRICS, Thresholds, measure
from dfnb.report.reading import Level, maps, scores, thresholds
from dfnb.statistics import NAN, holm, p_above
from dfnb.store.reports import profile_of

FEWEST_SEEDS = 5  # for a verdict
LEVEL = 0.025  # of one-sided tests; unadjusted, they decide like a two-sided 95 % interval
# What is tested of a claim's value: the column of its p values, and the verdict if it is shown. The
# first that is shown counts.
VERDICT_OF_P = {"p_gain": "supported", "p_worse": "worse", "p_small_gain": "no material gain"}
WITHOUT_NUMBER = {
    **dict.fromkeys(["value", "low", "high", *VERDICT_OF_P, "detectable"], NAN),
    "minus": "",
}
POWER = 0.8  # with which a detectable difference would have been shown, before Holm's correction
MOST_COLLAPSED = 2  # runs that may be left out for a verdict; with more, the rest is a selection
ROBUSTNESS_KEPT = "robustness kept"  # AUC under corruptions minus that of the same videos clean


class Claim(Closed):
    """An entry of a file of claims; the README of their folder explains the fields."""

    id: Name
    paper: Name
    says: str
    source: str
    kind: Literal["gain", "no worse", "shown"]
    metric: str
    detector: str
    against: str = ""
    sets: list[str] = Field(min_length=1)
    level: Level = "video"
    method: str = "all"
    map: str = ""
    only_if: str = ""
    family: bool = True

    @model_validator(mode="after")
    def _check_metric(self) -> Self:
        """Refuse metrics LESS_IS_BETTER: a verdict counts a higher value as a gain."""
        if self.metric in LESS_IS_BETTER:
            raise ValueError(
                f"claim {self.id}: metric = {self.metric}: write one of which more is better, such "
                "as AUC"
            )
        return self


class Content(Closed):
    """The content of a file of claims.

    Attributes:
        delta: The least difference that is material, by kind of metric, on the metric's own scale.
        registered: The day on which the claims were written down.
    """

    delta: dict[Literal["within", "cross", "accuracy", "localisation"], float]
    registered: str
    claims: list[Claim] = Field(min_length=1)


def content(name: str) -> Content:
    """The content of a file of claims; raises :class:`DfnbError` that names the field at fault."""
    path = find(f"data_manifest/claims/{name}.yaml")
    return Content.check(read_yaml(path), path)


# ---------------------------------------------------------------- verdicts


def judge(
    report: str,
    paper: str = "",
    **read: pd.DataFrame,
) -> pd.DataFrame:
    """The claims on detectors of a report, each on every dataset that it names, with its verdict.

    Args:
        report: Its name. Its profile names the file of claims; without one there is no row.
        paper: Only the claims of this module; the correction for their number is over all.
        **read: Tables that the caller has read already, see :mod:`dfnb.report.reading`: ``video``
            and ``frame``, the scores of that level, and ``maps``. Others are read if needed.

    Returns:
        A row per claim and place (a test set, "within" or "across"): the fields of :class:`Claim`
        but ``sets``, with ``says`` as ``claim``; ``on``, the place; ``registered``, the day when
        they were written down; the number, as of :func:`dfnb.report.metrics.measure`, NaN where a
        premise is not supported; ``p_gain``, ``p_worse`` and ``p_small_gain``, corrected by Holm's
        rule for the claims of the family; ``detectable``, the least difference that would have been
        shown with the probability POWER; and the ``verdict``. Perhaps no row.
    """
    name = profile_of(report).get("claims")
    registry = content(name) if name else None
    present = {detector.name for detector in detectors(report)}
    limits = thresholds(report)
    judged = []
    supported = set()  # id and place of claims that may be premises, before Holm's correction
    for claim in registry.claims if registry else ():
        if not {claim.detector, claim.against or claim.detector} <= present:
            continue  # a claim about a detector that this report does not have
        table = "maps" if claim.map else claim.level
        if table not in read:
            read[table] = maps(report) if claim.map else scores(report, level=claim.level)
        rows = _rows(claim, read[table])
        for place, of_place in _places(claim, rows):
            row = {**WITHOUT_NUMBER, **claim.model_dump(exclude={"sets", "says"})}
            row |= {"claim": claim.says, "on": place, "registered": registry.registered}
            number = _number(claim, of_place, limits)
            if not number:
                continue  # nothing of it was measured there
            # The file lists a premise before the claims that depend on it.
            if claim.only_if and (claim.only_if, place) not in supported:
                row["verdict"] = f"not judged: {claim.only_if} is not supported"
            else:
                row |= _judged(claim, number, place == "within", registry.delta)
            if row["p_gain"] < LEVEL:
                supported.add((claim.id, place))
            judged.append(row)
    if not judged:
        fields = [name for name in Claim.model_fields if name not in ("sets", "says")]
        columns = [*WITHOUT_NUMBER, *fields, "claim", "on", "registered", "verdict"]
        return pd.DataFrame(columns=columns)
    judged = _decided(pd.DataFrame(judged))
    return judged[judged["paper"] == paper] if paper else judged


def _rows(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """The scores, or measures of maps, that a claim is about, on all test sets."""
    keep = table["map"] == claim.map
    keep &= table["detector"].isin([claim.detector, claim.against])
    if claim.method != "all":
        keep &= table["method"].isin([claim.method, "real"])
    if claim.metric != ROBUSTNESS_KEPT:
        # Rows with sanity compare a map with those of random networks, and do not measure it.
        keep &= (table["corruption"] == "") & ~table["sanity"]
    return table[keep]


def _places(claim: Claim, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The places of ``Claim.sets``, each with its rows: none where the report has none.

    A set is ``within``, ``cross`` (the mean over all other datasets), or the name of a test set, in
    which * may replace a part.
    """
    for name in claim.sets:
        if name in ("within", "cross"):
            place = "across" if name == "cross" else name
            yield place, rows[rows["place"] == place]
        else:
            for test_set in fnmatch.filter(rows["test_set"].unique(), name):
                yield test_set, rows[rows["test_set"] == test_set]


def _number(claim: Claim, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
    """The row of :func:`measure` that a claim is about, from the rows of one of :func:`_places`.

    Empty if there is none.
    """
    metric = claim.metric
    averaged = ["test_set"]
    minus = [{"detector": claim.against}] if claim.against else []
    if metric == ROBUSTNESS_KEPT:
        metric = "AUC"
        averaged += ["corruption", "severity"]
        minus = [{"corruption": "", "severity": 0}, *minus]
        # Of the clean videos, only those that were also corrupted.
        corrupted = rows.loc[rows["corruption"] != "", ["test_set", "video"]]
        rows = rows.merge(corrupted.drop_duplicates())
    if metric not in [*rows, *METRICS]:  # it has not been measured
        return {}
    numbers = measure(rows, metric, "detector", averaged, minus, limits)
    numbers = numbers[numbers["detector"] == claim.detector]
    return numbers.iloc[0].to_dict() if len(numbers) else {}


def _judged(
    claim: Claim,
    number: Mapping[str, Any],
    within: bool,
    deltas: Mapping[str, float],
) -> dict[str, Any]:
    """The number and the verdict of a claim in one place: a part of a row of :func:`judge`.

    A claim that is tested gets one-sided p values, from which :func:`_decided` sets the verdict.
    Its limit is 0 or, for "no worse", minus the least material difference. A small ``p_gain`` shows
    that the true value is above the limit, ``p_worse`` that it is below, and ``p_small_gain`` that
    it is below the least material difference.

    Args:
        claim: The claim.
        number: Of :func:`_number`.
        within: Whether the place is the dataset trained on.
        deltas: The least material differences, see :class:`Content`.
    """
    row = {**number, "verdict": _without_verdict(number)}
    if claim.kind == "shown":
        row["verdict"] = "not judged"
    if row["verdict"]:
        return row
    kind_of_metric = "localisation"  # measures of maps and of located regions
    if "accuracy" in claim.metric:
        kind_of_metric = "accuracy"
    elif claim.metric in ("AUC", ROBUSTNESS_KEPT):
        kind_of_metric = "within" if within else "cross"  # "cross" for a named test set, too
    delta = deltas[kind_of_metric]
    limit = -delta if claim.kind == "no worse" else 0.0
    spread = number["error"], number["degrees"]
    # If the true value is this far above the limit, p_gain is below LEVEL with probability POWER.
    quantiles = stdtrit(number["degrees"], [1 - LEVEL, POWER])
    row["detectable"] = limit + number["error"] * quantiles.sum()
    row["p_gain"] = p_above(number["value"] - limit, *spread)
    row["p_worse"] = p_above(limit - number["value"], *spread)
    if claim.kind == "gain":
        row["p_small_gain"] = p_above(delta - number["value"], *spread)
    return row


def _without_verdict(number: Mapping[str, Any]) -> str:
    """The text in place of a verdict, with the reason; empty where a verdict can be given.

    ``number`` is that of :func:`_number`.
    """
    # "seeds" counts the runs of the mean: the collapsed ones if all collapsed, else the others. So
    # the two are equal where all or half collapsed, and half of the runs are too few, too.
    if number["collapsed"] > MOST_COLLAPSED or number["collapsed"] == number["seeds"]:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    if 1 < number["sets"] < FEWEST_SETS:
        return f"exploratory: a mean over fewer than {FEWEST_SETS} test sets"
    if np.isnan(number["low"]):
        return "undecided: no interval"
    return ""


def _decided(judged: pd.DataFrame) -> pd.DataFrame:
    """Adjust the p values of ``judged`` in place, and set the verdicts of the tested claims.

    Each column of p values is adjusted by itself, over the claims whose ``family`` is true; the
    others stay as they are.
    """
    for column in VERDICT_OF_P:
        # holm counts NaN, too, but claims that were not tested must not count.
        is_adjusted = judged["family"] & judged[column].notna()
        judged.loc[is_adjusted, column] = holm(judged.loc[is_adjusted, column])
    is_shown = [judged[column] < LEVEL for column in VERDICT_OF_P]
    verdict = np.select(is_shown, [*VERDICT_OF_P.values()], "undecided")
    is_tested = judged["p_gain"].notna()
    judged.loc[is_tested, "verdict"] = verdict[is_tested]
    return judged
