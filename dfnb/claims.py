"""What the papers claim, and whether the results of a report support it.

The claims, and the rule of each verdict, are in ``data_manifest/claims.yaml``; its head explains
the fields. Published figures are in ``data_manifest/published.csv``. Nothing here imports torch.
"""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from dfnb.files import find
from dfnb.metrics import Level, interval_text, p_texts
from dfnb.settings import Closed, Name, explained, read_yaml
from dfnb.statistics import Spread, holm, p_value

FEWEST_SEEDS = 5  # of a verdict
MOST_COLLAPSED = 2  # runs that may be left out of a verdict
CROSS_DATASET_MEAN = "cross-dataset mean"  # as a test set
ALL_CORRUPTIONS = "all corruptions"
CONTROL = "control"  # in the place of the paper: a claim that shows whether the rules work

Identity = tuple[str, str, str]  # of a detector: paper, ablation and variant


class Claim(Closed):
    """An entry of ``claims.yaml``, whose head explains the fields."""

    id: Name
    paper: Name
    says: str
    source: str
    kind: Literal["gain", "no worse", "figure", "shown"]
    metric: str
    sets: list[str] = Field(min_length=1)
    registered: str
    delta: float | None = Field(None, gt=0)
    level: Level = "video"
    detector: str = "main"
    against: str = ""
    method: str = "all"
    map: str = ""
    published: float | None = Field(None, ge=0, le=1)
    where: list[str] = Field([], max_length=2)
    control: bool = False


class MaterialSizes(Closed):
    """What counts as material, where a claim does not say."""

    within: float
    cross: float
    accuracy: float
    localisation: float


class PublishedPaper(Closed):
    """How ``published.csv`` names a paper, and the backbone of its published figures."""

    name: str
    backbone: str


class Manifest(Closed):
    """``data_manifest/claims.yaml``."""

    delta: MaterialSizes
    registered: str
    papers: dict[Name, PublishedPaper]
    datasets: dict[Name, list[str]]
    claims: list[dict[str, Any]]


def manifest() -> Manifest:
    """The content of ``claims.yaml``; raises :class:`DfnbError` that names the file."""
    path = find("data_manifest") / "claims.yaml"
    return Manifest.check(read_yaml(path), path)


def registered() -> list[Claim]:
    """All claims; raises :class:`DfnbError` that names the one that is wrong."""
    content = manifest()
    claims = []
    for entry in content.claims:
        source = f"claims.yaml, {entry.get('id')}"
        claims.append(Claim.check({"registered": content.registered, **entry}, source))
    return claims


def identity(name: str, paper: str) -> Identity:
    """The detector that a claim about ``paper`` names, see the head of ``claims.yaml``.

    It is ``main``, ``ablation/variant``, another paper, or ``paper:ablation/variant``.
    """
    other, _, rest = name.rpartition(":")
    ablation, _, variant = rest.rpartition("/")
    if ablation:
        return other or paper, ablation, variant
    if rest == "main":
        return paper, "", ""
    return rest, "", ""


def compared() -> list[tuple[Identity, Identity]]:
    """The detectors that claims compare, first minus second."""
    pairs = []
    for claim in registered():
        for names in ((claim.detector, claim.against), claim.where):
            if all(names) and names:
                first, second = (identity(name, claim.paper) for name in names)
                pairs.append((first, second))
    return pairs


# ---------------------------------------------------------------- verdicts


def judge(results: pd.DataFrame) -> pd.DataFrame:
    """Every claim on every dataset that it names: published, ours and verdict, as text.

    ``p`` is against no difference; for "no worse", against a difference of -delta. "p, Holm" is
    adjusted for all claims of papers that are judged. The index is paper, claim and dataset.
    """
    rows = {}
    for claim in registered():
        paper = CONTROL if claim.control else claim.paper
        for test_set, is_judged in _test_sets(claim, _measured(claim, results)):
            row = _judged(claim, results[results["test_set"] == test_set], is_judged)
            rows[paper, claim.says, test_set] = row
    judged = pd.DataFrame(rows).T.rename_axis(["paper", "claim", "on"])
    p = judged["p"].astype(float)
    of_papers = p.notna() & (p.index.get_level_values("paper") != CONTROL)
    adjusted = p.where(of_papers)
    adjusted[of_papers] = holm(p[of_papers].to_numpy())
    judged["p"] = p_texts(p)
    judged["p, Holm"] = p_texts(adjusted)
    return judged.fillna("–")


def _measured(
    claim: Claim, results: pd.DataFrame, collapsed_included: bool = False
) -> pd.DataFrame:
    """The results that a claim is about, one row per test set."""
    is_robustness = claim.metric.startswith("robustness")
    is_of_frames = claim.map or claim.metric.startswith("loss_")
    paper, ablation, variant = identity(claim.detector, claim.paper)
    wanted = {
        "paper": paper,
        "ablation": ablation,
        "variant": variant,
        "minus": _name(claim.against, claim.paper, results),
        "method": claim.method,
        "corruption": ALL_CORRUPTIONS if is_robustness else "",
        "severity": 0,
        "map": claim.map,
        "sanity": False,
        "selection": "validation",
        "collapsed_included": collapsed_included,
        "level": "frame" if is_of_frames else claim.level,
        "metric": claim.metric,
    }
    matches = (results[list(wanted)] == pd.Series(wanted)).all(axis=1)
    return results[matches]


def _name(detector: str, paper: str, results: pd.DataFrame) -> str:
    """The name in the results of a detector that a claim names; as written if there is none."""
    if not detector:
        return ""
    paper, ablation, variant = identity(detector, paper)
    is_it = (results["paper"] == paper) & (results["ablation"] == ablation)
    names = results.loc[is_it & (results["variant"] == variant), "detector"]
    return names.iloc[0] if len(names) else detector


def _test_sets(claim: Claim, rows: pd.DataFrame) -> Iterator[tuple[str, bool]]:
    """The test sets that the claim names, and whether it is judged there.

    Beside the cross-dataset mean are its single test sets, on which nothing is judged. A name that
    no test set has stays, as not testable.
    """
    is_within = rows["test_set"] == rows["train_set"]
    for name in claim.sets:
        if name == "within":
            names = list(rows.loc[is_within, "test_set"])
        elif name == "cross":
            names = [CROSS_DATASET_MEAN]
        else:
            names = [test_set for test_set in rows["test_set"] if fnmatch(test_set, name)]
        for test_set in dict.fromkeys(names or [name]):
            yield test_set, True
        if name == "cross":
            for test_set in rows.loc[~is_within, "test_set"]:
                if test_set != CROSS_DATASET_MEAN:
                    yield test_set, False


def _judged(claim: Claim, results: pd.DataFrame, is_judged: bool) -> dict[str, Any]:
    """One row of :func:`judge`; ``p`` is NaN where nothing is judged."""
    row = {
        "source": claim.source,
        "registered": claim.registered,
        "kind": claim.kind if is_judged else "shown",
        "published": "–" if claim.published is None else f"{claim.published:.3f}",
        "p": np.nan,
    }
    measured = _measured(claim, results)
    if measured["value"].isna().all():
        compared_with = f" minus {claim.against}" if claim.against else ""
        reason = "".join(measured["refused"]) or f"no {claim.metric} of {claim.detector}"
        return {**row, "verdict": f"not testable: {reason}{compared_with}"}
    number = measured.iloc[0]
    row["ours"] = interval_text(number["value"], number["low"], number["high"])
    row["seeds"] = str(number["seeds"])
    row["clusters"] = f"{number['clusters']:.0f}"
    row["collapsed"] = number["collapsed"]
    reason = _not_judged(claim, number, results, is_judged)
    if reason:
        return {**row, "verdict": reason}
    row["verdict"] = verdict(claim, number)
    if claim.kind != "figure":
        limit = _limit(claim, number)
        row["p"] = p_value(number["value"] - limit, Spread(number["error"] ** 2, number["degrees"]))
        with_all = _measured(claim, results, collapsed_included=True)["value"]
        if row["verdict"].startswith("supported") and (with_all <= limit).any():
            row["verdict"] = "not supported: the sign turns with the collapsed runs included"
    return row


def _not_judged(claim: Claim, number: pd.Series, results: pd.DataFrame, is_judged: bool) -> str:
    """Why there is no verdict on a number; empty where there is one."""
    if claim.kind == "shown" or not is_judged:
        return "not judged"
    left_out, runs = map(int, number["collapsed"].split(" of "))
    if left_out == runs or left_out > MOST_COLLAPSED:
        return f"not judged: {number['collapsed']} runs collapsed"
    if number["seeds"] < FEWEST_SEEDS:
        return f"exploratory: fewer than {FEWEST_SEEDS} seeds"
    if np.isnan(number["low"]):
        return "undecided: no interval, too few clusters"
    if claim.where:
        detector, against = claim.where
        update = {"kind": "gain", "detector": detector, "against": against}
        gain = claim.model_copy(update=update)
        shown = _measured(gain, results)
        if shown.empty or not verdict(gain, shown.iloc[0]).startswith("supported"):
            return f"not judged: {detector} was not shown to beat {against}"
    return ""


def verdict(claim: Claim, number: pd.Series) -> str:
    """What the 95 % interval of a number says of a claim."""
    low, high = number["low"], number["high"]
    if claim.kind == "figure":
        where = "inside" if low <= claim.published <= high else "outside"
        return f"published figure {where} our interval (± {(high - low) / 2:.3f})"
    if claim.kind == "no worse":
        limit = _limit(claim, number)
        if low > limit:
            return "supported"
        return "worse" if high < limit else "undecided"
    delta = _material_size(claim, number)
    if high < 0:
        return "worse, below material size" if low > -delta else "worse"
    if low > 0:
        return "supported, below material size" if high < delta else "supported"
    return "no material gain" if high < delta else "undecided"


def _limit(claim: Claim, number: pd.Series) -> float:
    """The difference above which a claim is supported."""
    return -_material_size(claim, number) if claim.kind == "no worse" else 0.0


def _material_size(claim: Claim, number: pd.Series) -> float:
    if claim.delta is not None:
        return claim.delta
    sizes = manifest().delta
    if claim.metric == "AUC" or claim.metric.startswith("robustness"):
        return sizes.within if number["test_set"] == number["train_set"] else sizes.cross
    return sizes.accuracy if "accuracy" in claim.metric else sizes.localisation


# ---------------------------------------------------------------- published figures


def published() -> pd.DataFrame:
    """What ``published.csv`` has of the papers here; ``paper`` is the name of their module."""
    modules = {known.name: module for module, known in manifest().papers.items()}
    path = find("data_manifest") / "published.csv"
    with explained(path, "as a table of figures", "correct it"):
        table = pd.read_csv(path, dtype={"value": float})
        names = table["paper"].str.extract(f"^({'|'.join(modules)})", expand=False)
    table["paper"] = names.map(modules)
    # DeepfakeBench published figures of many detectors; the baseline here is its Xception.
    is_other = (table["paper"] == "xception") & (table["method"] != "Xception (Xception)")
    table = table[table["paper"].notna() & ~is_other]
    return table.rename(columns={"level(frame/video/image)": "level"})


def with_published(results: pd.DataFrame) -> pd.DataFrame:
    """The results with the published AUC of the same paper, backbone, datasets and level.

    Adds ``published`` and ``Δ``, ours minus published, as texts, ``source`` and ``confidence``; all
    are empty where no figure is known.
    """
    content = manifest()
    names = {}
    for name, theirs in content.datasets.items():
        names.update(dict.fromkeys(theirs, name))
    figures = published().query("metric == 'AUC' and not method.str.startswith('previous best')")
    figures = figures.replace({"train_set": names, "test_set": names})
    figures["backbone"] = [content.papers[paper].backbone for paper in figures["paper"]]
    keys = ["paper", "backbone", "train_set", "test_set", "level"]
    figures = figures.rename(columns={"value": "published"}).drop_duplicates(keys)
    results = results.merge(
        figures[[*keys, "published", "source", "confidence"]], on=keys, how="left"
    )
    differences = results[["value", "low", "high"]].sub(results["published"], axis=0)
    results["Δ"] = ""
    is_known = results["published"].notna()
    for place in results.index[is_known]:
        results.loc[place, "Δ"] = interval_text(*differences.loc[place], sign="+")
    results["published"] = [
        f"{figure:.3f}" if figure == figure else "" for figure in results["published"]
    ]
    return results
