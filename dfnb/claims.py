"""What the papers claim, and whether the results of a report support it.

The claims are in ``data_manifest/claims/``, where the head of ``claims.yaml`` explains the fields
and the rule of each verdict. Published figures are in ``data_manifest/published.csv``. A *number*
is a row of the results, see :class:`dfnb.results.ResultRow`: a value with its interval, standard
error and seeds.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.files import find
from dfnb.metrics import CROSS_DATASET_MEAN, Level, interval_text, p_texts
from dfnb.settings import Closed, Name, explained, read_yaml
from dfnb.statistics import FEWEST_SETS, NAN, Spread, holm, p_above

FEWEST_SEEDS = 5  # for a verdict
LEVEL = 0.025  # of one-sided tests; unadjusted, they decide like a two-sided 95 % interval
# What is tested of a claim's value; each hypothesis is adjusted in a family of its own.
HYPOTHESES = ("gain", "worse", "small gain", "small loss")
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

    ``name``: a file of ``data_manifest/claims/`` without its suffix, as a profile's ``claims``.
    """
    path = find(f"data_manifest/claims/{name}.yaml")
    return Content.check(read_yaml(path), path)


# ---------------------------------------------------------------- verdicts


def judge(results: pd.DataFrame, name: str = "claims") -> pd.DataFrame:
    """Every claim on every dataset that it names: published, ours and verdict, as text.

    ``results`` is the table of :func:`dfnb.results.load`; ``name`` is as in :func:`content`. The
    column ``p`` tests the hypothesis "gain", see :func:`_p_values`, and is not adjusted. The
    columns with "Holm" are adjusted for the number of rows that are tested and whose claim belongs
    to the family (``family: true``). A verdict other than "undecided" is fragile if it changes when
    one of the seeds is left out. The index is paper, claim and ``on``, the test set. Raises
    :class:`DfnbError` for a file of claims with errors.
    """
    registry = content(name)
    results = _in_both_directions(results)  # a claim may subtract either detector
    rows = {}  # by claim and test set; a premise comes before the claims that need it
    for claim in registry.claims:
        numbers = _numbers(claim, results)
        for test_set in _test_sets(claim, numbers):
            on_test_set = numbers[numbers["test_set"] == test_set]
            row = _judged(claim, on_test_set, registry.delta)
            # The verdict of a premise counts as it is before Holm's correction.
            premise = rows.get((claim.only_if, test_set))
            if claim.only_if and not (premise and premise["verdict"].startswith("supported")):
                row.update(verdict=f"not judged: {claim.only_if} is not supported", p=NAN, tests=[])
            rows[claim.id, test_set] = {
                "paper": claim.paper,
                "claim": claim.says,
                "on": test_set,
                "source": claim.source,
                "registered": claim.registered or registry.registered,
                "kind": claim.kind,
                "published": f"{claim.published:.3f}".replace("nan", "–"),
                "family": claim.family,
                # The next three are replaced by those of ``row`` if the claim is tested.
                "p": NAN,
                "tests": [],
                "fails_with_all": False,
                **row,
            }
    judged = _decided(pd.DataFrame(rows.values()))
    # NaN: a claim that is not testable has no "ours" or "seeds", for example.
    return judged.set_index(["paper", "claim", "on"]).fillna("–")


def _decided(judged: pd.DataFrame) -> pd.DataFrame:
    """The claims with their adjusted p values as text, and the verdicts that follow from these.

    ``judged`` has the columns that :func:`judge` gives it; ``tests``, ``family`` and
    ``fails_with_all`` are removed. A claim without ``tests`` keeps its verdict, which says why it
    is not tested.
    """
    # A list per claim. Place 0: the _p_values with all seeds; place k: without the k-th seed.
    tests = judged.pop("tests")
    family = judged.pop("family")
    fails_with_all = judged.pop("fails_with_all")
    verdicts = defaultdict(list)  # by the row of the claim: a verdict per place
    for place in range(tests.map(len).max()):  # claims with fewer seeds have fewer tests
        for row, p in _adjusted(tests, family, place).iterrows():
            verdicts[row].append(verdict(p, fails_with_all[row]))
    # A verdict is fragile if any of those without one seed differs from it. "Undecided" claims
    # nothing that could be fragile.
    for row, (with_all, *without_one) in verdicts.items():
        if with_all != "undecided" and set(without_one) - {with_all}:
            with_all += ", fragile"
        judged.loc[row, "verdict"] = with_all
    adjusted = _adjusted(tests, family, 0).reindex(judged.index)  # NaN without tests
    adjusted = adjusted.where(family, axis=0)  # NaN outside the family
    judged["p"] = p_texts(judged["p"])  # not adjusted
    judged["p, Holm"] = p_texts(adjusted["gain"])
    judged["p worse, Holm"] = p_texts(adjusted["worse"])
    judged["p small, Holm"] = p_texts(adjusted["small gain"])
    return judged


def _adjusted(
    tests: pd.Series,
    family: pd.Series,
    place: int,
) -> pd.DataFrame:
    """The p values (claims, HYPOTHESES) at one place of the lists of tests, by the claim's row.

    Each hypothesis is adjusted for the claims of the family; the other claims keep their p. Place 0
    has all seeds. Place k leaves out the k-th seed of every claim at once, and lacks the claims
    that have fewer seeds.
    """
    at_place = {}
    for row, of_claim in tests.items():
        if place < len(of_claim):
            at_place[row] = of_claim[place]
    p = pd.DataFrame(at_place, HYPOTHESES, dtype=float).T
    for name in p:
        in_family = p[name].where(family).dropna()  # NaN also if the claim lacks the hypothesis
        p.loc[in_family.index, name] = holm(in_family)
    return p


def _in_both_directions(results: pd.DataFrame) -> pd.DataFrame:
    """The results, and every difference a second time with its two detectors exchanged.

    The table has each pair of detectors once. A detector minus itself, on two manipulation methods,
    is exchanged, too, but no claim reads such rows, see :func:`_numbers`. The standard error and
    other columns without a sign are the same in both directions. Columns such as ``by_seed`` keep
    their sign, because no claim reads them.
    """
    differences = results[results["minus"] != ""]
    exchanged = differences.assign(
        detector=differences["minus"],
        minus=differences["detector"],
        value=-differences["value"],
        low=-differences["high"],
        high=-differences["low"],
        without_seed=differences["without_seed"].map(_negated),
    )
    return pd.concat([results, exchanged])


def _negated(without_seed: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The entries (value, error, degrees) of ``without_seed`` with the other sign of the value."""
    return [(-value, error, degrees) for value, error, degrees in without_seed]


def _numbers(claim: Claim, results: pd.DataFrame) -> pd.DataFrame:
    """The rows of the results that a claim is about, one number each.

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
        # No field of a claim chooses these three.
        "paired_methods": False,
        "severity": 0,
        "sanity": False,
    }
    is_equal = results[list(wanted)] == pd.Series(wanted)  # (rows, wanted columns) bool
    # A refused detector has one row for all metrics and methods.
    is_equal.loc[results["refused"] != "", ["metric", "method"]] = True
    return results[is_equal.all(axis=1)]


def _test_sets(claim: Claim, numbers: pd.DataFrame) -> list[str]:
    """The test sets that a claim names; ``numbers`` are its results, see :func:`_numbers`.

    A name is ``cross`` (the cross-dataset mean), ``within`` (each test set like the one trained
    on), or that of a test set, in which * may replace a part.

    A name without a test set is kept: the claim gets a row there, "not testable".
    """
    test_sets = []
    for name in claim.sets:
        if name == "within":
            named = [*numbers.loc[numbers["within"], "test_set"].unique()]
        else:
            pattern = CROSS_DATASET_MEAN if name == "cross" else name
            named = fnmatch.filter(numbers["test_set"].unique(), pattern)
        test_sets += named or [name]
    return test_sets


def _judged(claim: Claim, numbers: pd.DataFrame, deltas: Mapping[str, float]) -> dict[str, Any]:
    """Our number and the verdict of a claim on one test set: a part of a row of :func:`judge`.

    A claim that is tested also gets ``p``, that of a gain; ``tests``, the :func:`_p_values` with
    all seeds, then without each seed; and ``fails_with_all``, whether the value with the collapsed
    runs included does not support it. Its verdict follows from p values that are not adjusted yet,
    see :func:`_decided`.

    Args:
        claim: The claim.
        numbers: Its results on the test set, see :func:`_numbers`.
        deltas: The least material differences, by the kinds of :func:`_kind_of_delta`.
    """
    kept = numbers[~numbers["collapsed_included"]].dropna(subset="value")  # one row, or none
    if kept.empty:
        names = " minus ".join(filter(None, [claim.detector, claim.against]))
        reason = "".join(numbers["refused"].unique())  # why the scores are unusable; or empty
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
    if row["verdict"]:  # a reason not to test the claim; an empty text where there is none
        return row
    if claim.kind == "figure":
        where = "inside" if low <= claim.published <= high else "outside"
        row["verdict"] = f"published figure {where} our interval"
        return row
    delta = deltas[_kind_of_delta(claim, number)]
    # For a gain: the value must be above 0, and is material from delta on; see _p_values.
    limit = 0.0
    size = delta
    if claim.kind == "no worse":  # above -delta is enough, and no size is claimed
        limit = -delta
        size = NAN
    p = _p_values(limit, size, *number[["value", "error", "degrees"]])
    row["p"] = p["gain"]
    row["tests"] = [p]
    for value, error, degrees in number["without_seed"]:
        without_seed = _p_values(limit, size, value, error, degrees)
        row["tests"].append(without_seed)
    # One value, or none if no run collapsed; any() of none is False.
    value_of_all_runs = numbers.loc[numbers["collapsed_included"], "value"]
    row["fails_with_all"] = (value_of_all_runs <= limit).any()
    row["verdict"] = verdict(p, row["fails_with_all"])
    return row


def _p_values(
    limit: float,
    size: float,
    value: float,
    error: float,
    degrees: float,
) -> dict[str, float]:
    """One-sided p of each of HYPOTHESES on the true value of a claim.

    - gain: it is above ``limit``, 0 or, for "no worse", minus the least material difference;
    - worse: it is below ``limit``;
    - small gain: it is below ``size``, the least material difference;
    - small loss: it is above ``-size``. Both are NaN for "no worse", where ``size`` is NaN.

    A p value is NaN without a standard error, too.
    """
    spread = Spread(error**2, degrees)
    return {
        "gain": p_above(value - limit, spread),
        "worse": p_above(limit - value, spread),
        "small gain": p_above(size - value, spread),
        "small loss": p_above(size + value, spread),
    }


def _without_verdict(number: pd.Series) -> str:
    """The text in place of a verdict, with the reason; empty where a verdict can be given."""
    left_out, runs = map(int, number["collapsed"].split(" of "))  # such as "1 of 5"
    # If all runs collapsed, none was left out: the number is of runs that learned nothing.
    if left_out == runs or left_out > MOST_COLLAPSED:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    sets = number["mean_over"].count(", ") + 1  # a mean lists its sets as "a, b, c"
    if number["mean_over"] and sets < FEWEST_SETS:
        return f"exploratory: a mean over fewer than {FEWEST_SETS} test sets"
    if np.isnan(number["low"]):
        return "undecided: no interval"
    return ""


def _kind_of_delta(claim: Claim, number: pd.Series) -> str:
    """Which of the least material differences applies to a claim; a key of ``Content.delta``."""
    if "accuracy" in claim.metric:
        return "accuracy"
    if claim.metric == "AUC" or claim.metric.startswith("robustness"):
        return "within" if number["within"] else "cross"
    return "localisation"  # measures of maps and of located regions


def verdict(
    p: Mapping[str, float],
    fails_with_all: bool = False,
) -> str:
    """The verdict of the p values of HYPOTHESES; the rule is in the head of ``claims.yaml``.

    ``fails_with_all``: whether the value with collapsed runs included does not support the claim.
    """
    if p["gain"] < LEVEL:
        if fails_with_all:
            return "not supported: the sign turns with the collapsed runs included"
        if p["small gain"] < LEVEL:
            return "supported, below material size"
        return "supported"
    if p["worse"] < LEVEL:
        if p["small loss"] < LEVEL:
            return "worse, below material size"
        return "worse"
    if p["small gain"] < LEVEL:
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
        is_named = table["paper"].str.startswith(name) | (table["method"] == name)
        of_paper = table[is_named].assign(paper=name)
        parts.append(of_paper)
    return pd.concat(parts, ignore_index=True)


def with_published(results: pd.DataFrame) -> pd.DataFrame:
    """The results with the published AUC of the same paper, backbone, datasets and level.

    Adds ``published`` as text, ``source``, ``confidence`` (how the figure is known) and ``assumed``
    (what the source leaves open); where no figure is known, ``published`` is empty and the others
    are NaN. Where several figures match a result, the first in the file counts. Results with
    another backbone than the published one have an empty ``published_as``, which matches none.
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
    # The note on a test set also covers its training set, see claims.yaml, so that on the training
    # set counts only where the test set has none.
    figures["assumed"] = by_set["test_set"].fillna(by_set["train_set"])
    figures = figures.replace({"train_set": names, "test_set": names})
    figures = figures.rename(columns={"paper": "published_as", "value": "published"})
    keys = ["published_as", "train_set", "test_set", "level"]
    figures = figures[[*keys, "published", "assumed", "source", "confidence"]]
    figures = figures.drop_duplicates(keys)
    results = results.merge(figures, on=keys, how="left")
    texts = results["published"].map("{:.3f}".format)  # "nan" where no figure is known
    return results.assign(published=texts.replace("nan", ""))
