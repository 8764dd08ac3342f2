"""What the papers claim, and whether the results of a report support it.

The claims are in ``data_manifest/claims.yaml``, whose head explains the fields and the rule of each
verdict; published figures are in ``data_manifest/published.csv``.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.files import find
from dfnb.metrics import CROSS_DATASET_MEAN, Level, interval_text, p_texts
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
    adjusted for all claims of the family. The index is paper, claim and dataset. Detectors that
    were trained on different datasets are judged apart.
    """
    train_sets = sorted(set(results["train_set"]) - {""})
    parts = []
    for train_set in train_sets:
        part = _judged_in(_of_train_set(results, train_set), train_set)
        if len(train_sets) > 1:
            part["on"] += f", trained on {train_set}"
        parts.append(part)
    judged = pd.concat(parts).set_index(["paper", "claim", "on"])
    is_adjusted = judged.pop("family") & judged["p"].notna()
    adjusted = judged["p"].where(is_adjusted)
    adjusted[is_adjusted] = holm(adjusted[is_adjusted])
    judged["p"] = p_texts(judged["p"])
    judged["p, Holm"] = p_texts(adjusted)
    return judged.fillna("–")


def _of_train_set(results: pd.DataFrame, train_set: str) -> pd.DataFrame:
    """The results of the detectors that were trained on one dataset, under plain names.

    Every difference is there in both directions.
    """
    results = results[results["train_set"] == train_set].copy()
    for column in ("detector", "minus"):
        results[column] = results[column].str.removesuffix(f", {train_set}")
    differences = results[results["minus"] != ""]
    turned = differences.assign(
        detector=differences["minus"],
        minus=differences["detector"],
        value=-differences["value"],
        low=-differences["high"],
        high=-differences["low"],
    )
    return pd.concat([results, turned])


def _judged_in(results: pd.DataFrame, train_set: str) -> pd.DataFrame:
    """The claims judged by the results of :func:`_of_train_set`, one row per claim and dataset."""
    registry = content()
    rows = {}
    for claim in registry.claims:
        numbers = _numbers(claim, results)
        for test_set, is_judged in _test_sets(claim, numbers, train_set):
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
            on_test_set = numbers[numbers["test_set"] == test_set]
            row.update(_judged(claim, on_test_set, registry.delta))
            premise = rows.get((claim.only_if, test_set))
            if not is_judged:
                row.update(verdict="not judged", p=NAN)
            elif claim.only_if and not (premise and premise["verdict"].startswith("supported")):
                reason = f"{claim.only_if} is not supported"
                row.update(verdict=f"not judged: {reason}", p=NAN)
            rows[claim.id, test_set] = row
    return pd.DataFrame(rows.values())


def _numbers(claim: Claim, results: pd.DataFrame) -> pd.DataFrame:
    """The results that a claim is about: with and without collapsed runs, one per test set."""
    wanted = {
        "detector": claim.detector,
        "minus": claim.against,
        "method": claim.method,
        "corruption": claim.corruption,
        "map": claim.map,
        "level": claim.level,
        "metric": claim.metric,
        "paired_methods": False,
        "severity": 0,
        "sanity": False,
    }
    is_equal = results[list(wanted)] == pd.Series(wanted)
    return results[is_equal.all(axis=1)]


def _test_sets(claim: Claim, numbers: pd.DataFrame, train_set: str) -> Iterator[tuple[str, bool]]:
    """The test sets that a claim names, and whether it is judged there.

    Beside the cross-dataset mean are its single test sets, on which nothing is judged. A name that
    no test set has stays, as not testable.
    """
    test_sets = numbers["test_set"].unique()
    named = {"within": train_set, "cross": CROSS_DATASET_MEAN}
    for name in claim.sets:
        pattern = named.get(name, name)
        matching = fnmatch.filter(test_sets, pattern)
        for test_set in matching or [name]:
            yield test_set, True
        if name == "cross":
            for test_set in test_sets:
                if test_set not in named.values():
                    yield test_set, False


def _judged(claim: Claim, numbers: pd.DataFrame, sizes: Mapping[str, float]) -> dict[str, Any]:
    """What a claim's numbers on one test set come to; ``p`` where an interval decides."""
    kept = numbers[~numbers["collapsed_included"]].dropna(subset="value")
    if kept.empty:
        missing = f"no {claim.metric} of {claim.detector}"
        if claim.against:
            missing += f" minus {claim.against}"
        reason = "".join(numbers["refused"].unique())
        return {"verdict": f"not testable: {reason or missing}"}
    number = kept.iloc[0]
    value = number["value"]
    low = number["low"]
    high = number["high"]
    row = {
        "ours": interval_text(value, low, high),
        "seeds": str(number["seeds"]),
        "clusters": f"{number['clusters']:.0f}".replace("nan", "–"),
        "collapsed": number["collapsed"],
    }
    row["verdict"] = "not judged" if claim.kind == "shown" else _without_verdict(number)
    if row["verdict"]:
        return row
    if claim.kind == "figure":
        where = "inside" if low <= claim.published <= high else "outside"
        half = (high - low) / 2
        row["verdict"] = f"published figure {where} our interval (± {half:.3f})"
        return row
    delta = sizes[_kind_of_size(claim, number)]
    limit = -delta if claim.kind == "no worse" else 0.0
    row["verdict"] = verdict(claim.kind, low, high, delta)
    spread = Spread(number["error"] ** 2, number["degrees"])
    row["p"] = p_value(value - limit, spread)
    with_all = numbers.loc[numbers["collapsed_included"], "value"]
    sign_turns = (with_all <= limit).any()
    if row["verdict"].startswith("supported") and sign_turns:
        row["verdict"] = "not supported: the sign turns with the collapsed runs included"
    return row


def _without_verdict(number: pd.Series) -> str:
    """Why a number gets no verdict; empty where it does."""
    left_out, runs = map(int, number["collapsed"].split(" of "))
    too_many_collapsed = left_out == runs or left_out > MOST_COLLAPSED
    if too_many_collapsed:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    if np.isnan(number["low"]):
        return "undecided: no interval, too few clusters"
    return ""


def _kind_of_size(claim: Claim, number: pd.Series) -> str:
    """Which of the material sizes holds for a claim."""
    if claim.metric == "AUC" or claim.metric.startswith("robustness"):
        is_within = number["test_set"] == number["train_set"]
        return "within" if is_within else "cross"
    if "accuracy" in claim.metric:
        return "accuracy"
    return "localisation"


def verdict(
    kind: str,
    low: float,
    high: float,
    delta: float,
) -> str:
    """What a 95 % interval says of a gain, or of a detector that should be no worse.

    ``delta`` is the least difference that counts as material.
    """
    if kind == "no worse":
        if low > -delta:
            return "supported"
        return "worse" if high < -delta else "undecided"
    is_small = -delta < low and high < delta
    if high < 0:
        return "worse, below material size" if is_small else "worse"
    if low > 0:
        return "supported, below material size" if is_small else "supported"
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
        is_named = table["paper"].str.startswith(name) | (table["method"] == name)
        of_paper = table[is_named].assign(paper=name)
        parts.append(of_paper)
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
    is_auc = figures["metric"] == "AUC"
    is_of_others = figures["method"].str.startswith("previous best")
    figures = figures[is_auc & ~is_of_others]
    figures = figures.replace({"train_set": names, "test_set": names})
    figures = figures.rename(columns={"paper": "published_as", "value": "published"})
    keys = ["published_as", "train_set", "test_set", "level"]
    figures = figures[[*keys, "published", "source", "confidence"]].drop_duplicates(keys)
    results = results.merge(figures, on=keys, how="left")
    results["Δ"] = ""
    for place, row in results[results["published"].notna()].iterrows():
        shifted = row[["value", "low", "high"]] - row["published"]
        results.loc[place, "Δ"] = interval_text(*shifted, sign="+")
    texts = results["published"].map("{:.3f}".format)
    return results.assign(published=texts.replace("nan", ""))
