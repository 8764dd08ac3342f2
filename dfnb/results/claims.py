"""What the papers claim, and whether the scores of a report support it.

The claims are in ``data_manifest/claims/``, whose README explains the fields and the rule of each
verdict. Published figures are in :mod:`dfnb.results.published`.
"""

import sys
from collections.abc import Collection, Mapping
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy.special import stdtrit

from dfnb import statistics
from dfnb.results.metrics import FEWEST_SEEDS, FEWEST_SETS, METRICS, NUMBER, Thresholds, measure
from dfnb.results.reading import Level, scores, thresholds
from dfnb.statistics import NAN, holm, p_above
from dfnb.store.reports import profile_of
from facesets.checks import Closed, DfnbError, Name, read_yaml, suggestion
from facesets.files import find

LEVEL = 0.025  # of one-sided tests; unadjusted, they decide like a two-sided 95 % interval
# What is tested of a claim's value: the column of its p values, and the verdict if it is shown; the
# first of the kind "no worse" is "not worse". The first that is shown counts.
VERDICT_OF_P = {"p_gain": "better", "p_worse": "worse", "p_small_gain": "no material gain"}
WITHOUT_NUMBER = {
    **dict.fromkeys([*NUMBER, *VERDICT_OF_P, "limit", "detectable"], NAN),
    "minus": "",
}
POWER = 0.8  # with which a detectable difference is shown at the first step of Holm's correction
MOST_COLLAPSED = 2  # runs that may be left out for a verdict; with more, the rest is a selection
ROBUSTNESS_KEPT = "robustness kept"  # AUC under corruptions minus that of the same videos clean
# Of each, more is better: a verdict counts a higher value as a gain.
OfMap = Literal["iou", "pixel_auc", "pixel_ap", "pointing", "energy", "gain in pixel AP"]
Metric = Literal["AUC", "accuracy", "accuracy at 5% validation FPR", "robustness kept", OfMap]
REPLICATES = 10_000  # where p decides: with 1,000, a p of .045 is .020 to .064 over redraws
# Files registered until this day name no seeds: their claims were judged with those trained.
LAST_WITHOUT_SEEDS = date(2026, 11, 29)
# Names in ``sets`` that are of no test set.
PLACES = {"within": "in-dataset", "cross": "cross-dataset"}
CONTROL = "control"  # in place of a paper


class Claim(Closed):
    """An entry of a file of claims; the README of their folder explains the fields."""

    id: Name
    paper: Name
    says: str
    source: str
    kind: Literal["gain", "no worse", "shown"]
    metric: Metric
    detector: str
    against: str = ""
    sets: list[str] = Field(min_length=1)
    seeds: list[int] = Field([])
    level: Level = "video"
    method: str = "all"
    only_if: str = ""
    family: bool = True

    @property
    def detectors(self) -> list[str]:
        """The detectors that it compares: one or two."""
        return [name for name in (self.detector, self.against) if name]

    @property
    def is_primary(self) -> bool:
        """Whether it is one of the claims that Holm's correction is for, judged or not."""
        return self.family and self.kind != "shown"

    @model_validator(mode="after")
    def _check_repetition(self) -> Self:
        """Refuse a set, a seed or a detector that occurs twice."""
        for field, values in (("sets", self.sets), ("seeds", self.seeds)):
            if len({*values}) < len(values):
                raise ValueError(f"claim {self.id}: {field}: {values} has one of them twice")
        if self.against == self.detector:
            raise ValueError(f"claim {self.id}: against is the detector itself")
        return self


Share = Annotated[float, Field(gt=0, le=0.1)]


class Delta(Closed):
    """The least difference that is material, by kind of metric, on the metric's own scale."""

    within: Share
    cross: Share
    accuracy: Share
    localisation: Share


class Content(Closed):
    """The content of a file of claims.

    Attributes:
        delta: The least material differences.
        registered: The day on which the claims were written down.
    """

    delta: Delta
    registered: date
    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_claims(self) -> Self:
        """Refuse an id that occurs twice, a premise that is not above its claim, missing seeds."""
        above = []
        for claim in self.claims:
            if claim.id in above:
                raise ValueError(f"claim {claim.id}: this id occurs twice; give it another one")
            if claim.only_if and claim.only_if not in above:
                known = suggestion(claim.only_if, above)
                raise ValueError(f"claim {claim.id}: only_if: no {claim.only_if!r} above it{known}")
            if not claim.seeds and self.registered > LAST_WITHOUT_SEEDS:
                raise ValueError(f"claim {claim.id}: write its seeds, else nothing ends the study")
            above.append(claim.id)
        return self


def read_claims(name: str) -> Content:
    """The content of a file of claims; raises :class:`DfnbError` that names the field at fault."""
    path = find(f"data_manifest/claims/{name}.yaml")
    return Content.check(read_yaml(path), path)


# ---------------------------------------------------------------- the words of a claim


class Known(NamedTuple):
    """What claims may name: all that a profile makes or, of a report, all that it holds."""

    paper_of: Mapping[str, str]  # by the name of a detector in tables
    seeds_of: Mapping[str, Collection[int]]  # by the same
    locating: Collection[str]  # the detectors whose maps are compared with masks
    methods_of: Mapping[str, Collection[str]]  # by test set; none: they are not known


def problem(claim: Claim, known: Known) -> str:
    """What a claim names and is not known, as a sentence; empty where it can be judged."""
    for detector in claim.detectors:
        if detector not in known.paper_of:
            return f"there is no detector {detector!r}{suggestion(detector, known.paper_of)}"
        if missing := sorted({*claim.seeds} - {*known.seeds_of[detector]}):
            there = len(claim.seeds) - len(missing)
            return f"{there} of {len(claim.seeds)} seeds of {detector}, without {missing}"
        if claim.metric in get_args(OfMap) and detector not in known.locating:
            return f"{detector} has no {claim.metric}: its maps are not compared with masks"
    if claim.paper not in (known.paper_of[claim.detector], CONTROL):
        return f"{claim.detector} is of {known.paper_of[claim.detector]}, not of {claim.paper!r}"
    for name in claim.sets:
        if name not in PLACES and name not in known.methods_of:
            return f"there is no test set {name!r}{suggestion(name, [*PLACES, *known.methods_of])}"
    tested = [known.methods_of.get(name) for name in claim.sets]
    tested = [*known.methods_of.values()] if None in tested else tested
    methods = [method for of_set in tested for method in of_set]
    if claim.method not in ("all", *methods) and all(tested):
        return f"there is no method {claim.method!r}{suggestion(claim.method, {*methods})}"
    return ""


def check_plan(name: str, known: Known, papers: Collection[str]) -> None:
    """Raise :class:`DfnbError` for claims of a file that a profile could never judge.

    ``known`` is what the profile makes. Of a paper that is none of ``papers`` it makes nothing: a
    line says that its claim is judged by what is stored.
    """
    for claim in read_claims(name).claims:
        if claim.detector not in known.paper_of and claim.paper not in {CONTROL, *papers}:
            text = f"the paper {claim.paper} is not here, so its stored runs alone are judged"
            print(f"{name}, claim {claim.id}: {text}", file=sys.stderr)
        elif text := problem(claim, known):
            raise DfnbError(f"{name}, claim {claim.id}, by what the profile makes: {text}")


def complete(report: str, table: pd.DataFrame) -> pd.DataFrame:
    """The scores of a report without detectors that lack seeds of a claim; a line names them.

    So no table shows a claim's number before all that was registered for it is in.
    """
    profile = profile_of(report)
    listed = read_claims(profile["claims"]).claims if "claims" in profile else []
    seeds_of = _held(table).seeds_of
    unfinished = {
        name: None  # in the order of the claims
        for claim in listed
        for name in claim.detectors
        if name in seeds_of and {*claim.seeds} - {*seeds_of[name]}
    }
    for name in unfinished:
        print(f"{name} is left out until all seeds of its claims are in.")
    return table[~table["detector"].isin([*unfinished])]


def _held(table: pd.DataFrame) -> Known:
    """What a report holds, from its scores."""
    by_detector = table.groupby("detector", observed=True)
    located = table.dropna(subset="energy") if "energy" in table else table.head(0)
    return Known(
        by_detector["paper"].first().to_dict(),
        by_detector["seed"].unique().to_dict(),
        {*located["detector"]},
        table.groupby("test_set", observed=True)["method"].unique().map(list).to_dict(),
    )


# ---------------------------------------------------------------- verdicts

LISTS = {"sets", "seeds", "says"}  # the fields of Claim that a row has as a number, or in words
COLUMNS = [
    *WITHOUT_NUMBER,
    *(name for name in Claim.model_fields if name not in LISTS),
    *("claim", "on", "registered", "verdict"),
]


def judge(
    report: str,
    paper: str = "",
    **read: pd.DataFrame,
) -> pd.DataFrame:
    """The claims on detectors of a report, each on every dataset that it names, with its verdict.

    Args:
        report: Its name. Its profile names the file of claims; without one there is no row.
        paper: Only the claims of this module; the correction for their number is over all.
        **read: The scores of a level, ``video`` or ``frame``, that the caller has read already.

    Returns:
        A row per claim and place (a test set, "in-dataset" or "cross-dataset"): the fields of
        :class:`Claim` but ``sets``, with ``says`` as ``claim``; ``on``, the place; ``registered``,
        the day when they were written down; the number, as of
        :func:`dfnb.results.metrics.measure`, NaN where the claim is not judged; ``p_gain``,
        ``p_worse`` and ``p_small_gain``, corrected by Holm's rule for all registered claims;
        ``detectable``, the least difference that would have been shown with the probability POWER
        at the first step of this rule; and the ``verdict``. Perhaps no row.
    """
    profile = profile_of(report)
    if "claims" not in profile:
        return pd.DataFrame(columns=COLUMNS)
    registry = read_claims(profile["claims"])
    limits = thresholds(report)
    if "video" not in read:
        read["video"] = scores(report)
    known = _held(read["video"])  # which has the same runs at each level
    judged = []
    shown = set()  # id and place of claims that may be premises, before Holm's correction
    for claim in registry.claims:
        if claim.level not in read:
            read[claim.level] = scores(report, level=claim.level)
        # The profile makes all of them, see check_plan.
        absent = [name for name in claim.detectors if name not in known.paper_of]
        unknown = f"{absent[0]} has no scores yet" if absent else problem(claim, known)
        rows = _rows(claim, read[claim.level])
        row = {**WITHOUT_NUMBER, **claim.model_dump(exclude=LISTS)}
        row |= {"claim": claim.says, "registered": str(registry.registered)}
        for name in claim.sets:
            place = PLACES.get(name, name)
            # The file lists a premise before the claims that depend on it.
            if unknown:
                outcome = {"verdict": f"not judged: {unknown}"}
            elif claim.only_if and (claim.only_if, place) not in shown:
                outcome = {"verdict": f"not judged: {claim.only_if} is not shown"}
            else:
                here = rows[rows["place" if name in PLACES else "test_set"] == place]
                outcome = _judged(claim, here, limits, name == "within", registry.delta)
            judged.append({**row, "on": place, **outcome})
            if judged[-1]["p_gain"] < LEVEL:
                shown.add((claim.id, place))
    judged = _decided(pd.DataFrame(judged))
    return judged[judged["paper"] == paper] if paper else judged


def _rows(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """The scores that a claim is about, on all test sets."""
    keep = table["detector"].isin(claim.detectors)
    if claim.method != "all":
        keep &= table["method"].isin([claim.method, "real"])
    if claim.metric != ROBUSTNESS_KEPT:
        keep &= table["corruption"] == ""
    if claim.seeds:
        keep &= table["seed"].isin(claim.seeds)
    return table[keep]


def _number(claim: Claim, rows: pd.DataFrame, limits: Thresholds) -> dict[str, Any]:
    """The row of :func:`measure` that a claim is about, from its rows at one place.

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
    if rows.empty or metric not in [*rows, *METRICS]:  # it has not been measured
        return {}
    replicates = statistics.REPLICATES if claim.kind == "shown" else REPLICATES
    numbers = measure(rows, metric, "detector", averaged, minus, limits, replicates)
    numbers = numbers[numbers["detector"] == claim.detector]
    return numbers.iloc[0].to_dict() if len(numbers) else {}


def _judged(
    claim: Claim,
    rows: pd.DataFrame,
    limits: Thresholds,
    within: bool,
    delta: Delta,
) -> dict[str, Any]:
    """The number and the verdict of a claim in one place: a part of a row of :func:`judge`.

    Args:
        claim: The claim.
        rows: Those of :func:`_rows` at the place.
        limits: The thresholds of the report.
        within: Whether the place is the dataset trained on.
        delta: The least material differences.
    """
    seeds_of = [{*rows.loc[rows["detector"] == name, "seed"]} for name in claim.detectors]
    there = len(set.intersection(*seeds_of))
    registered = len(claim.seeds) or (FEWEST_SEEDS if claim.is_primary else 1)
    if there < registered:  # its number would show whether to stop the study here
        return {"verdict": f"not judged: {there} of {registered} seeds"}
    number = _number(claim, rows, limits)
    if not number:
        return {"verdict": "not judged: not measured"}
    return _of_number(claim, number, within, delta)


def _of_number(
    claim: Claim,
    number: Mapping[str, Any],
    within: bool,
    delta: Delta,
) -> dict[str, Any]:
    """The number of a claim, and its verdict or its one-sided p values.

    From these :func:`_decided` sets the verdict. The claim's limit is 0 or, for "no worse", minus
    the least material difference. A small ``p_gain`` shows that the true value is above the limit,
    ``p_worse`` that it is below, and ``p_small_gain`` that it is below the least material
    difference. ``number`` is that of :func:`_number`; for the others see :func:`_judged`.
    """
    verdict = "not judged" if claim.kind == "shown" else _without_verdict(number)
    if verdict:
        return {**number, "verdict": verdict}
    material = delta.within if within else delta.cross  # "cross" for a named test set, too
    if claim.metric in get_args(OfMap):
        material = delta.localisation
    elif "accuracy" in claim.metric:
        material = delta.accuracy
    limit = -material if claim.kind == "no worse" else 0.0
    spread = number["error"], number["degrees"]
    tested = {"limit": limit, "p_gain": p_above(number["value"] - limit, *spread)}
    tested["p_worse"] = p_above(limit - number["value"], *spread)
    if claim.kind == "gain":
        tested["p_small_gain"] = p_above(material - number["value"], *spread)
    return {**number, **tested}


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

    Each column of p values is adjusted by itself, over all primary claims of the file: one that is
    not judged has no p, and counts.
    """
    is_primary = judged["family"] & (judged["kind"] != "shown")
    # If the true value is this far above the limit, p_gain is below LEVEL with probability POWER.
    level = np.where(is_primary, LEVEL / max(is_primary.sum(), 1), LEVEL)
    quantiles = stdtrit(judged["degrees"], 1 - level) + stdtrit(judged["degrees"], POWER)
    judged["detectable"] = judged["limit"] + judged["error"] * quantiles
    for column in VERDICT_OF_P:
        judged.loc[is_primary, column] = holm(judged.loc[is_primary, column])
    is_shown = [judged[column] < LEVEL for column in VERDICT_OF_P]
    verdict = np.select(is_shown, [*VERDICT_OF_P.values()], "undecided")
    verdict[(verdict == "better") & (judged["kind"] == "no worse")] = "not worse"
    is_tested = judged["p_gain"].notna()
    judged.loc[is_tested, "verdict"] = verdict[is_tested]
    return judged.drop(columns="limit")
