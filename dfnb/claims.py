"""What the papers claim, and whether the results of a report support it.

The claims are in ``data_manifest/claims.yaml``, whose head explains the fields and the rule of each
verdict; published figures are in ``data_manifest/published.csv``.
"""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.files import find
from dfnb.metrics import Level, interval_text, p_texts
from dfnb.settings import Closed, Name, explained, read_yaml
from dfnb.statistics import NAN, Spread, holm, p_value

FEWEST_SEEDS = 5  # of a verdict
MOST_COLLAPSED = 2  # runs that may be left out of a verdict


class Claim(Closed):
    """An entry of ``claims.yaml``."""

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
    delta: float | None = None
    registered: str = ""


class Content(Closed):
    """The content of ``claims.yaml``."""

    delta: dict[Literal["within", "cross", "accuracy", "localisation"], float]
    registered: str
    datasets: dict[Name, list[str]]
    claims: list[Claim]


def content() -> Content:
    """The content of ``claims.yaml``; raises :class:`DfnbError` that names what is wrong in it."""
    path = find("data_manifest") / "claims.yaml"
    return Content.check(read_yaml(path), path)


def compared() -> list[tuple[str, str]]:
    """The names of the detectors that claims compare; the second is subtracted from the first."""
    return [(claim.detector, claim.against) for claim in content().claims]


# ---------------------------------------------------------------- verdicts


def judge(results: pd.DataFrame) -> pd.DataFrame:
    """Every claim on every dataset that it names: published, ours and verdict, as text.

    ``p`` is against no difference; for "no worse", against a difference of -delta. "p, Holm" is
    adjusted for all claims of the family. The index is paper, claim and dataset.
    """
    registry = content()
    rows = {}
    for claim in registry.claims:
        numbers = _numbers(claim, results)
        for test_set, is_judged in _test_sets(claim, numbers):
            row = {
                "paper": claim.paper,
                "claim": claim.says,
                "on": test_set,
                "source": claim.source,
                "registered": claim.registered or registry.registered,
                "kind": claim.kind if is_judged else "shown",
                "published": f"{claim.published:.3f}".replace("nan", "–"),
                "p": NAN,
                "family": claim.family,
            }
            row.update(_judged(claim, numbers[numbers["test_set"] == test_set], registry.delta))
            premise = rows.get((claim.only_if, test_set), {"verdict": ""})["verdict"]
            if not is_judged:
                row.update(verdict="not judged", p=NAN)
            elif claim.only_if and not premise.startswith("supported"):
                row.update(verdict=f"not judged: {claim.only_if} is not supported", p=NAN)
            rows[claim.id, test_set] = row
    judged = pd.DataFrame(rows.values()).set_index(["paper", "claim", "on"])
    is_adjusted = judged.pop("family") & judged["p"].notna()
    adjusted = judged["p"].where(is_adjusted)
    adjusted[is_adjusted] = holm(adjusted[is_adjusted])
    return judged.assign(**{"p": p_texts(judged["p"]), "p, Holm": p_texts(adjusted)}).fillna("–")


def _numbers(claim: Claim, results: pd.DataFrame) -> pd.DataFrame:
    """The results that a claim is about: with and without collapsed runs, one per test set.

    A difference that is there the other way round is turned.
    """
    wanted = {
        "detector": claim.detector,
        "minus": claim.against,
        "method": claim.method,
        "paired_methods": False,
        "corruption": claim.corruption,
        "severity": 0,
        "map": claim.map,
        "sanity": False,
        "selection": "validation",
        "level": claim.level,
        "metric": claim.metric,
    }
    numbers = results[(results[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if len(numbers) or not claim.against:
        return numbers
    wanted.update(detector=claim.against, minus=claim.detector)
    turned = results[(results[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return turned.assign(value=-turned["value"], low=-turned["high"], high=-turned["low"])


def _test_sets(claim: Claim, numbers: pd.DataFrame) -> Iterator[tuple[str, bool]]:
    """The test sets that a claim names, and whether it is judged there.

    Beside the cross-dataset mean are its single test sets, on which nothing is judged. A name that
    no test set has stays, as not testable.
    """
    numbers = numbers.drop_duplicates("test_set")
    is_within = numbers["test_set"] == numbers["train_set"]
    is_mean = numbers["mean_over"] != ""
    for name in claim.sets:
        fits = [fnmatch(test_set, name) for test_set in numbers["test_set"]]
        if name == "within":
            fits = is_within
        elif name == "cross":
            fits = is_mean
        for test_set in list(numbers.loc[fits, "test_set"]) or [name]:
            yield test_set, True
        if name == "cross":
            for test_set in numbers.loc[~is_within & ~is_mean, "test_set"]:
                yield test_set, False


def _judged(claim: Claim, numbers: pd.DataFrame, sizes: Mapping[str, float]) -> dict[str, Any]:
    """What a claim's numbers on one test set come to; ``p`` where an interval decides."""
    kept = numbers[~numbers["collapsed_included"]].dropna(subset="value")
    if kept.empty:
        missing = f"no {claim.metric} of {claim.detector}"
        if claim.against:
            missing += f" minus {claim.against}"
        return {"verdict": f"not testable: {''.join(numbers['refused'].unique()) or missing}"}
    number = kept.iloc[0]
    row = {
        "ours": interval_text(number["value"], number["low"], number["high"]),
        "seeds": str(number["seeds"]),
        "clusters": f"{number['clusters']:.0f}".replace("nan", "–"),
        "collapsed": number["collapsed"],
    }
    if claim.kind == "shown":
        return {**row, "verdict": "not judged"}
    row["verdict"] = _without_verdict(number)
    if row["verdict"]:
        return row
    if claim.kind == "figure":
        where = "inside" if number["low"] <= claim.published <= number["high"] else "outside"
        half = (number["high"] - number["low"]) / 2
        return {**row, "verdict": f"published figure {where} our interval (± {half:.3f})"}
    delta = claim.delta or sizes[_kind_of_size(claim, number)]
    limit = -delta if claim.kind == "no worse" else 0.0
    row["verdict"] = verdict(claim.kind, number["low"], number["high"], delta)
    row["p"] = p_value(number["value"] - limit, Spread(number["error"] ** 2, number["degrees"]))
    with_all = numbers.loc[numbers["collapsed_included"], "value"]
    if row["verdict"].startswith("supported") and (with_all <= limit).any():
        row["verdict"] = "not supported: the sign turns with the collapsed runs included"
    return row


def _without_verdict(number: pd.Series) -> str:
    """Why a number gets no verdict; empty where it does."""
    left_out, runs = map(int, number["collapsed"].split(" of "))
    if left_out == runs or left_out > MOST_COLLAPSED:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    if np.isnan(number["low"]):
        return "undecided: no interval, too few clusters"
    return ""


def _kind_of_size(claim: Claim, number: pd.Series) -> str:
    """Which of the material sizes holds for a claim."""
    if claim.metric == "AUC" or claim.metric.startswith("robustness"):
        return "within" if number["test_set"] == number["train_set"] else "cross"
    return "accuracy" if "accuracy" in claim.metric else "localisation"


def verdict(kind: str, low: float, high: float, delta: float) -> str:
    """What a 95 % interval says of a gain, or of a detector that should be no worse.

    ``delta`` is the least difference that counts as material.
    """
    if kind == "no worse":
        if low > -delta:
            return "supported"
        return "worse" if high < -delta else "undecided"
    if high < 0:
        return "worse, below material size" if low > -delta else "worse"
    if low > 0:
        return "supported, below material size" if high < delta else "supported"
    return "no material gain" if high < delta else "undecided"


# ---------------------------------------------------------------- published figures


def published(names: Iterable[str]) -> pd.DataFrame:
    """The rows of ``published.csv`` of the papers with these names; ``paper`` is the name.

    A name is what the column ``paper`` begins with, or all of the column ``method``.
    """
    path = find("data_manifest") / "published.csv"
    with explained(path, "as a table of figures", "correct it"):
        table = pd.read_csv(path, dtype={"value": float})
        table = table.rename(columns={"level(frame/video/image)": "level"})
    parts = [table.head(0)]
    for name in names:
        is_of_paper = table["paper"].str.startswith(name) | (table["method"] == name)
        parts.append(table[is_of_paper].assign(paper=name))
    return pd.concat(parts, ignore_index=True)


def with_published(results: pd.DataFrame) -> pd.DataFrame:
    """The results with the published AUC of the same paper, backbone, datasets and level.

    Adds ``published`` and ``Δ``, ours minus published, as texts, ``source`` and ``confidence``; all
    are empty where no figure is known.
    """
    names = {}
    for ours, theirs in content().datasets.items():
        names.update(dict.fromkeys(theirs, ours))
    figures = published(set(results["published_as"]) - {""})
    is_own = (figures["metric"] == "AUC") & ~figures["method"].str.startswith("previous best")
    figures = figures[is_own].replace({"train_set": names, "test_set": names})
    figures = figures.rename(columns={"paper": "published_as", "value": "published"})
    keys = ["published_as", "train_set", "test_set", "level"]
    figures = figures[[*keys, "published", "source", "confidence"]].drop_duplicates(keys)
    results = results.merge(figures, on=keys, how="left")
    texts = []
    differences = []
    for figure, *numbers in results[["published", "value", "low", "high"]].to_numpy():
        is_known = not np.isnan(figure)
        texts.append(f"{figure:.3f}" if is_known else "")
        differences.append(
            interval_text(*(np.array(numbers) - figure), sign="+") if is_known else ""
        )
    return results.assign(published=texts, Δ=differences)
