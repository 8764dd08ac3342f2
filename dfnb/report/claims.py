"""What the papers claim, and whether the scores of a report support it.

The claims are in ``data_manifest/claims/``, whose README explains the fields and the rule of each
verdict. Published figures are in :mod:`dfnb.report.published`.
"""

import fnmatch
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy.special import stdtrit

from dfnb import statistics
from dfnb.report.detectors import detectors
from dfnb.report.metrics import FEWEST_SEEDS, FEWEST_SETS, METRICS, NUMBER, Thresholds, measure
from dfnb.report.reading import Level, maps, scores, thresholds
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
Metric = Literal[
    "AUC",
    "accuracy",
    "accuracy at 5% validation FPR",
    "robustness kept",
    "iou",
    "pixel_auc",
    "pixel_ap",
    "pointing",
    "energy",
    "gain in pixel AP",
    "lost under deletion",
]
REPLICATES = 10_000  # where p decides: with 1,000, a p of .045 is .020 to .064 over redraws
# Files registered until this day name no seeds: their claims were judged with those trained.
LAST_WITHOUT_SEEDS = "2026-11-29"
# Names in ``sets`` that are of no test set.
PLACES = {"within": "in-dataset", "cross": "cross-dataset"}


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
    map: str = ""
    only_if: str = ""
    family: bool = True

    @property
    def detectors(self) -> list[str]:
        """The detectors that it compares: one or two."""
        return [name for name in (self.detector, self.against) if name]


Share = Annotated[float, Field(gt=0, lt=1)]


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
    registered: str
    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        """Refuse an id that occurs twice, and a premise that is not listed above its claim."""
        above = []
        for claim in self.claims:
            if claim.id in above:
                raise ValueError(f"claim {claim.id}: this id occurs twice; give it another one")
            if claim.only_if and claim.only_if not in above:
                known = suggestion(claim.only_if, above)
                raise ValueError(f"claim {claim.id}: only_if: no {claim.only_if!r} above it{known}")
            above.append(claim.id)
        return self


def content(name: str) -> Content:
    """The content of a file of claims; raises :class:`DfnbError` that names the field at fault."""
    path = find(f"data_manifest/claims/{name}.yaml")
    return Content.check(read_yaml(path), path)


def check_plan(
    name: str,
    trainings: Mapping[str, Collection[int]],
    test_sets: Collection[str],
) -> None:
    """Raise :class:`DfnbError` for claims that a profile could never judge.

    Args:
        name: Of the file of claims.
        trainings: Name of each detector that the profile trains, as tables have it, and its seeds.
        test_sets: All that the profile scores.
    """
    registry = content(name)
    for claim in registry.claims:
        place = f"{name}, claim {claim.id}"
        for detector in claim.detectors:
            if detector not in trainings:
                known = suggestion(detector, trainings)
                raise DfnbError(f"{place}: the profile trains no {detector!r}{known}")
            if missing := sorted({*claim.seeds} - {*trainings[detector]}):
                raise DfnbError(f"{place}: the profile does not train {detector} with {missing}")
        if not claim.seeds and registry.registered > LAST_WITHOUT_SEEDS:
            raise DfnbError(f"{place}: write its seeds, without which nothing ends the study")
        _check_sets(claim, test_sets, place)


def _check_sets(claim: Claim, test_sets: Collection[str], place: str) -> None:
    """Raise :class:`DfnbError` for a set that is none of ``test_sets``, and no kind of place."""
    for name in claim.sets:
        if name not in PLACES and not fnmatch.filter(test_sets, name):
            known = suggestion(name, [*PLACES, *test_sets])
            raise DfnbError(f"{place}: sets: there is no {name!r}{known}")


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
        **read: Tables that the caller has read already, see :mod:`dfnb.report.reading`: ``video``
            and ``frame``, the scores of that level, and ``maps``. Others are read if needed.

    Returns:
        A row per claim and place (a test set, "in-dataset" or "cross-dataset"): the fields of
        :class:`Claim` but ``sets``, with ``says`` as ``claim``; ``on``, the place; ``registered``,
        the day when they were written down; the number, as of
        :func:`dfnb.report.metrics.measure`, NaN where a premise is not shown; ``p_gain``,
        ``p_worse`` and ``p_small_gain``, corrected by Holm's rule for the claims of the family;
        ``detectable``, the least difference that would have been shown with the probability POWER
        at the first step of this rule; and the ``verdict``. Perhaps no row.
    """
    profile = profile_of(report)
    if "claims" not in profile:
        return pd.DataFrame(columns=COLUMNS)
    registry = content(profile["claims"])
    present = [detector.name for detector in detectors(report)]
    limits = thresholds(report)
    judged = []
    shown = set()  # id and place of claims that may be premises, before Holm's correction
    for claim in registry.claims:
        where = f"{profile['claims']}, claim {claim.id}"
        row = {**WITHOUT_NUMBER, **claim.model_dump(exclude=LISTS)}
        row |= {"claim": claim.says, "registered": registry.registered}
        if lacking := [name for name in claim.detectors if name not in present]:
            print(f"{where}: {report} has no {lacking[0]!r}{suggestion(lacking[0], present)}.")
            verdict = f"not judged: {lacking[0]} was not trained"
            places = [PLACES.get(name, name) for name in claim.sets]
            judged += [{**row, "on": place, "verdict": verdict} for place in places]
            continue
        table = "maps" if claim.map else claim.level
        if table not in read:
            read[table] = maps(report) if claim.map else scores(report, level=claim.level)
        test_sets = {*read[table]["test_set"], *profile.get("test_sets", ())}
        _check_sets(claim, test_sets, where)
        for place, of_place in _places(claim, _rows(claim, read[table], where)):
            # The file lists a premise before the claims that depend on it.
            if claim.only_if and (claim.only_if, place) not in shown:
                outcome = {"verdict": f"not judged: {claim.only_if} is not shown"}
            else:
                outcome = _judged(claim, of_place, limits, place == "in-dataset", registry.delta)
            judged.append({**row, "on": place, **outcome})
            if judged[-1]["p_gain"] < LEVEL:
                shown.add((claim.id, place))
    judged = _decided(pd.DataFrame(judged))
    return judged[judged["paper"] == paper] if paper else judged


def _rows(claim: Claim, table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The scores, or measures of maps, that a claim is about, on all test sets.

    Raises :class:`DfnbError`, which begins with ``where``, for a map or method that was never
    measured.
    """
    for name, value, every in (("map", claim.map, ""), ("method", claim.method, "all")):
        known = table[name].unique()
        if len(table) and value not in (every, *known):
            raise DfnbError(f"{where}: there is no {name} {value!r}{suggestion(value, known)}")
    keep = table["map"] == claim.map
    keep &= table["detector"].isin(claim.detectors)
    if claim.method != "all":
        keep &= table["method"].isin([claim.method, "real"])
    if claim.metric != ROBUSTNESS_KEPT:
        # Rows with sanity compare a map with those of random networks, and do not measure it.
        keep &= (table["corruption"] == "") & ~table["sanity"]
    if claim.seeds:
        keep &= table["seed"].isin(claim.seeds)
    return table[keep]


def _places(claim: Claim, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The places of ``Claim.sets``, each with its rows: none where nothing was scored there.

    A set is a key of PLACES (``cross`` is the mean over all other datasets), or the name of a test
    set, in which * may replace a part.
    """
    for name in claim.sets:
        if name in PLACES:
            yield PLACES[name], rows[rows["place"] == PLACES[name]]
        else:
            for test_set in fnmatch.filter(rows["test_set"].unique(), name) or [name]:
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
        rows: Those of :func:`_places`.
        limits: The thresholds of the report.
        within: Whether the place is the dataset trained on.
        delta: The least material differences.
    """
    by_detector = rows.groupby("detector", observed=True)["seed"].unique()
    common = set.intersection(*({*by_detector.get(name, ())} for name in claim.detectors))
    if len(common) < len(claim.seeds):  # its number would show whether to stop the study here
        return {"verdict": f"not judged: {len(common)} of {len(claim.seeds)} seeds"}
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
    kind_of_metric = "localisation"  # measures of maps and of located regions
    if "accuracy" in claim.metric:
        kind_of_metric = "accuracy"
    elif claim.metric in ("AUC", ROBUSTNESS_KEPT):
        kind_of_metric = "within" if within else "cross"  # "cross" for a named test set, too
    material = getattr(delta, kind_of_metric)
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

    Each column of p values is adjusted by itself, over the claims whose ``family`` is true; the
    others stay as they are.
    """
    n_tested = (judged["family"] & judged["p_gain"].notna()).sum()
    # If the true value is this far above the limit, p_gain is below LEVEL with probability POWER.
    level = np.where(judged["family"], LEVEL / max(n_tested, 1), LEVEL)
    quantiles = stdtrit(judged["degrees"], 1 - level) + stdtrit(judged["degrees"], POWER)
    judged["detectable"] = judged["limit"] + judged["error"] * quantiles
    for column in VERDICT_OF_P:
        # holm counts NaN, too, but claims that were not tested must not count.
        is_adjusted = judged["family"] & judged[column].notna()
        judged.loc[is_adjusted, column] = holm(judged.loc[is_adjusted, column])
    is_shown = [judged[column] < LEVEL for column in VERDICT_OF_P]
    verdict = np.select(is_shown, [*VERDICT_OF_P.values()], "undecided")
    verdict[(verdict == "better") & (judged["kind"] == "no worse")] = "not worse"
    is_tested = judged["p_gain"].notna()
    judged.loc[is_tested, "verdict"] = verdict[is_tested]
    return judged.drop(columns="limit")
