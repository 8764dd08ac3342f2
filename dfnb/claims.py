"""What the papers claim, and whether the results of a report support it.

The claims are in ``data_manifest/claims.yaml``; its head explains the fields and the rule of each
verdict. Published figures are in ``data_manifest/published.csv``.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.files import find
from dfnb.metrics import CROSS_DATASET_MEAN, Level, interval_text, p_texts
from dfnb.settings import Closed, Name, explained, read_yaml
from dfnb.statistics import NAN, Spread, holm, p_value

FEWEST_SEEDS = 5  # for a verdict
MOST_COLLAPSED = 2  # runs that may be left out for a verdict; with more, the rest is a selection


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

    ``delta``: the least differences that are material. ``assumed``: by a dataset's name in
    published.csv, what that name leaves open and what is assumed.
    """

    delta: dict[Literal["within", "cross", "accuracy", "localisation"], float]
    registered: str
    datasets: dict[Name, list[str]]
    assumed: dict[str, str]
    claims: list[Claim]


def content() -> Content:
    """The content of ``claims.yaml``; raises :class:`DfnbError` that names the field at fault."""
    path = find("data_manifest") / "claims.yaml"
    return Content.check(read_yaml(path), path)


# ---------------------------------------------------------------- verdicts


def judge(results: pd.DataFrame) -> pd.DataFrame:
    """Every claim on every dataset that it names: published, ours and verdict, as text.

    ``results`` is the table of :func:`dfnb.results.load`.
    The null hypothesis of ``p`` is no difference; for "no worse", a difference of minus the least
    material one (``delta`` of the registry). "p, Holm" is adjusted for all rows with a ``p`` whose
    claim belongs to the family (``family: true``). The index is paper, claim and dataset.
    """
    registry = content()
    results = _in_both_directions(results)  # a claim may subtract either detector
    rows = {}  # by claim and test set; a premise stands before the claims that need it
    for claim in registry.claims:
        numbers = _numbers(claim, results)
        for test_set in _test_sets(claim, numbers):
            on_test_set = numbers[numbers["test_set"] == test_set]
            row = _judged(claim, on_test_set, registry.delta)
            premise = rows.get((claim.only_if, test_set))
            if claim.only_if and not (premise and premise["verdict"].startswith("supported")):
                row.update(verdict=f"not judged: {claim.only_if} is not supported", p=NAN)
            rows[claim.id, test_set] = {
                "paper": claim.paper,
                "claim": claim.says,
                "on": test_set,
                "source": claim.source,
                "registered": claim.registered or registry.registered,
                "kind": claim.kind,
                "published": f"{claim.published:.3f}".replace("nan", "–"),
                "family": claim.family,
                "p": NAN,  # where ``row`` has none
                **row,
            }
    judged = pd.DataFrame(rows.values()).set_index(["paper", "claim", "on"])
    in_family = judged["p"].where(judged.pop("family"))  # NaN outside the family
    is_adjusted = in_family.notna()
    in_family[is_adjusted] = holm(in_family[is_adjusted])
    judged["p"] = p_texts(judged["p"])
    judged["p, Holm"] = p_texts(in_family)
    return judged.fillna("–")


def _in_both_directions(results: pd.DataFrame) -> pd.DataFrame:
    """The results, and every difference a second time with its two detectors exchanged.

    The table has each pair of detectors once. The standard error and other columns without a sign
    are the same in both directions. Columns such as ``by_seed`` are not turned, because no claim
    reads them.
    """
    differences = results[results["minus"] != ""]
    turned = differences.assign(
        detector=differences["minus"],
        minus=differences["detector"],
        value=-differences["value"],
        low=-differences["high"],
        high=-differences["low"],
    )
    return pd.concat([results, turned])


def _numbers(claim: Claim, results: pd.DataFrame) -> pd.DataFrame:
    """The results that a claim is about.

    A test set has one row; if a run collapsed it has two, without the collapsed runs and with all.
    """
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


def _test_sets(claim: Claim, numbers: pd.DataFrame) -> list[str]:
    """The test sets that a claim names; ``numbers`` are the results of its detector.

    A name without a test set is kept: the claim gets a row there, "not testable".
    """
    train_set = "".join(numbers["train_set"].unique())  # a detector has one; "" without numbers
    patterns = {"within": train_set, "cross": CROSS_DATASET_MEAN}
    test_sets = []
    for name in claim.sets:
        pattern = patterns.get(name, name)
        matching = fnmatch.filter(numbers["test_set"].unique(), pattern)
        test_sets += matching or [name]
    return test_sets


def _judged(claim: Claim, numbers: pd.DataFrame, deltas: Mapping[str, float]) -> dict[str, Any]:
    """Our number and the verdict of a claim on one test set; ``p`` where an interval decides.

    ``deltas``: the least material differences, by the kinds of :func:`_kind_of_delta`.
    """
    kept = numbers[~numbers["collapsed_included"]].dropna(subset="value")  # one row, or none
    if kept.empty:
        names = " minus ".join(filter(None, [claim.detector, claim.against]))
        reason = "".join(numbers["refused"].unique())
        return {"verdict": f"not testable: {reason or f'no {claim.metric} of {names}'}"}
    number = kept.iloc[0]
    low = number["low"]
    high = number["high"]
    row = {
        "ours": interval_text(number["value"], low, high),
        "seeds": str(number["seeds"]),
        "clusters": f"{number['clusters']:.0f}",
        "collapsed": number["collapsed"],
        "verdict": "not judged" if claim.kind == "shown" else _without_verdict(number),
    }
    if row["verdict"]:
        return row
    if claim.kind == "figure":
        where = "inside" if low <= claim.published <= high else "outside"
        row["verdict"] = f"published figure {where} our interval"
        return row
    delta = deltas[_kind_of_delta(claim, number)]
    limit = -delta if claim.kind == "no worse" else 0.0
    row["verdict"] = verdict(claim.kind, low, high, delta)
    # The null hypothesis: the value is ``limit``, 0 for a gain and -delta for "no worse".
    spread = Spread(number["error"] ** 2, number["degrees"])
    row["p"] = p_value(number["value"] - limit, spread)
    value_of_all_runs = numbers.loc[numbers["collapsed_included"], "value"]  # empty: none collapsed
    sign_turns = (value_of_all_runs <= limit).any()
    if row["verdict"].startswith("supported") and sign_turns:
        row["verdict"] = "not supported: the sign turns with the collapsed runs included"
    return row


def _without_verdict(number: pd.Series) -> str:
    """The text in place of a verdict, with the reason; empty where a verdict can be given."""
    left_out, runs = map(int, number["collapsed"].split(" of "))  # such as "1 of 5"
    # If all runs collapsed, none was left out: the number is of runs that learned nothing.
    if left_out == runs or left_out > MOST_COLLAPSED:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    if np.isnan(number["low"]):
        return "undecided: no interval, too few clusters"
    return ""


def _kind_of_delta(claim: Claim, number: pd.Series) -> str:
    """Which of the least material differences applies to a claim; a key of ``Content.delta``."""
    if "accuracy" in claim.metric:
        return "accuracy"
    if claim.metric == "AUC" or claim.metric.startswith("robustness"):
        is_within = number["test_set"] == number["train_set"]
        return "within" if is_within else "cross"
    return "localisation"  # measures of maps and of located regions


def verdict(kind: str, low: float, high: float, delta: float) -> str:
    """The verdict on a gain, or on a detector that should be no worse, from its 95 % interval.

    The rule is in the head of ``claims.yaml``. ``delta`` is the least difference that is material.
    """
    if kind == "no worse":
        if low > -delta:
            return "supported"
        return "worse" if high < -delta else "undecided"
    is_small = -delta < low and high < delta  # no value in the interval would be material
    if high < 0:
        return "worse, below material size" if is_small else "worse"
    if low > 0:
        return "supported, below material size" if is_small else "supported"
    return "no material gain" if high < delta else "undecided"


# ---------------------------------------------------------------- published figures


def published(names: Iterable[str]) -> pd.DataFrame:
    """The rows of ``published.csv`` of the papers with these names; ``paper`` becomes the name.

    A row is of a paper if its column ``paper`` begins with the name, or ``method`` equals it.
    """
    path = find("data_manifest") / "published.csv"
    with explained(path, "as a table of figures", "correct it"):
        table = pd.read_csv(path, dtype={"value": float})
        table = table.rename(columns={"level(frame/video/image)": "level"})
    parts = [table.head(0)]  # the columns, where no name is given
    for name in names:
        is_named = table["paper"].str.startswith(name) | (table["method"] == name)
        of_paper = table[is_named].assign(paper=name)
        parts.append(of_paper)
    return pd.concat(parts, ignore_index=True)


def with_published(results: pd.DataFrame) -> pd.DataFrame:
    """The results with the published AUC of the same paper, backbone, datasets and level.

    Adds ``published`` as text, ``source``, ``confidence`` (how the figure is known) and ``assumed``
    (what the source leaves open); where no figure is known, ``published`` is empty and the others
    are NaN. Of several figures of one number the first in the file counts.
    """
    registry = content()
    names = {}  # from the names of datasets in published.csv to ours
    for ours, theirs in registry.datasets.items():
        names.update(dict.fromkeys(theirs, ours))  # one of ours may have several there
    figures = published(set(results["published_as"]) - {""})
    is_auc = figures["metric"] == "AUC"
    # A paper's table also quotes the best of earlier papers.
    is_of_others = figures["method"].str.startswith("previous best")
    figures = figures[is_auc & ~is_of_others]
    # By the names in published.csv, which are replaced below; None where nothing is assumed.
    by_set = figures[["test_set", "train_set"]].map(registry.assumed.get)
    figures["assumed"] = by_set["test_set"].fillna(by_set["train_set"])
    figures = figures.replace({"train_set": names, "test_set": names})
    figures = figures.rename(columns={"paper": "published_as", "value": "published"})
    keys = ["published_as", "train_set", "test_set", "level"]
    figures = figures[[*keys, "published", "assumed", "source", "confidence"]]
    figures = figures.drop_duplicates(keys)
    results = results.merge(figures, on=keys, how="left")
    texts = results["published"].map("{:.3f}".format)  # "nan" where no figure is known
    return results.assign(published=texts.replace("nan", ""))
