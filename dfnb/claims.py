"""The papers' claims, judged from score files alone by the rules of ``data_manifest/claims.yaml``; and published beside ours."""

from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dfnb import attribution, core, corrupt, figures, metrics, papers
from dfnb import jobs as grid
from dfnb.core import DfnbError
from dfnb.metrics import interval
from dfnb.train import Run

BESIDE = "Published AUC, ours by both rules for the checkpoint, and Δ, ours by source validation minus published."
JUDGED = "The papers' claims, judged by the rules of data_manifest/claims.yaml; intervals over videos and seeds."


Claim = dict[str, Any]  # an entry of claims.yaml, whose head says what each field means
OPTIONAL = {"level": "video", "line": "main", "against": None, "method": None, "map": None, "published": None}
FIELDS = {"id", "paper", "says", "source", "metric", "sets", "reproduced", "partly", *OPTIONAL}


def manifest() -> tuple[dict[str, list[str]], list[Claim]]:
    """How ``published.csv`` names the datasets, and the claims, all fields filled in."""
    path = core.find("data_manifest") / "claims.yaml"
    content = core.read_yaml(path)
    claims = [OPTIONAL | entry for entry in content["claims"]]
    if wrong := [entry for entry in claims if set(entry) != FIELDS or entry["partly"] >= entry["reproduced"]]:
        raise DfnbError(
            f"{path}: claim {wrong[0].get('id')} must have partly below reproduced and the fields {', '.join(sorted(FIELDS))}"
        )
    return content["datasets"], claims


def verdict(claim: Claim, value: float) -> str:
    """What a claim's rule says of one value."""
    return "reproduced" if value >= claim["reproduced"] else "partly" if value >= claim["partly"] else "not reproduced"


def judged(book: Any, paper: str = "") -> pd.DataFrame:
    """Every claim, or those of one paper, on every dataset it names, of a :class:`dfnb.tables.Book`: published, ours, the difference, the verdict.

    The interval is that over videos, widened where there are several seeds by that over seeds; ``videos to decide`` is
    the n at which it would lie within one verdict if the estimate stayed. With one seed it is of these trainings.
    """
    rows = {}
    for claim in (claim for claim in manifest()[1] if claim["paper"].startswith(paper)):
        for test_set in _where(claim, book):
            row = {
                "source": claim["source"],
                "published": "–" if claim["published"] is None else "{published:.3f}".format(**claim),
            }
            row |= {"ours": "–", "ours − published": "–"}
            row["rule"] = "≥ {reproduced:g}, partly ≥ {partly:g}".format(**claim)
            try:
                row |= _judged(claim, book, test_set)
            except (LookupError, DfnbError) as error:
                row["verdict"] = f"not testable {error.args[0]}".replace(f"{core.home()}/", "")
            rows[claim["paper"], claim["says"], test_set] = row
    return pd.DataFrame(rows).T.rename_axis(["paper", "claim", "on"]).fillna("–")


def _where(claim: Claim, book: Any) -> list[str]:
    """The test sets of a claim, of one about maps those that notebook 07 looks at; a name that the profile has not stays."""
    home = book.runs[0].record["parameters"]["train_set"]
    of = {"home": [home], "away": [name for name in book.test_sets if name != home]}
    found = [
        of.get(name) or [each for each in book.test_sets if fnmatch(each, name)] or [name] for name in claim["sets"]
    ]
    asked = dict.fromkeys(name for names in found for name in names)
    mapped = grid.asked(book.profile, "07_attribution") if claim["map"] else None
    return [name for name in asked if not mapped or name in mapped.test_sets or name not in book.test_sets]


def _side(name: str, claim: Claim, book: Any) -> list[Run]:
    """The runs of ``main``, of a paper, of an arm ``group/arm``, or of another paper's, ``paper:group/arm``."""
    paper, _, arm = name.rpartition(":")
    paper = paper or (claim["paper"] if arm == "main" or "/" in arm else arm)
    found = [group for group in book.lines.values() if group[0].paper == paper]
    if "/" in arm and paper in papers.PAPERS:
        group, arm = arm.split("/", 1)
        found = [lines[arm] for lines in book.arms(f"{papers.PAPERS[paper].notebook}/{group}").values() if arm in lines]
    if not found:
        raise LookupError(f"here: no line {name if '/' in name else paper}")
    return found[0]


def _judged(claim: Claim, book: Any, test_set: str) -> dict:
    sides = figures.shared_seeds(*(_side(name, claim, book) for name in (claim["line"], claim["against"]) if name))
    if test_set not in book.test_sets and not (sides[0][0].folder / "scores" / f"{test_set}.parquet").exists():
        raise LookupError(f"without {test_set}")
    if claim["metric"] == "robustness":
        read = [corrupt.read(book.profile, side[0], test_set).values() for side in sides]
        tables = [[[table for of in corruptions for table in of.values()]] for corruptions in read]
    else:
        read, where = (attribution.read, [claim["map"]]) if claim["map"] else (figures.read, [])
        tables = [[[read(run, test_set, *where)] for run in side] for side in sides]
    if claim["method"]:
        tables = [[[t[t["method"].isin(["real", claim["method"]])] for t in of] for of in side] for side in tables]
    metric = "AUC" if claim["metric"] == "robustness" else claim["metric"]
    how = {"level": "frame" if metric not in metrics.RATES else claim["level"], "metric": metric}
    measure = metrics.auc if len(sides) == 1 else metrics.paired_difference
    found = measure(*([table for seed in side for table in seed] for side in tables), **how)
    seeds = metrics.over_seeds([measure(*of_seed, **how)["value"] for of_seed in zip(*tables)])
    value, n, spread = found["value"], tables[0][0][0]["video"].nunique(), np.nan_to_num(seeds["high"] - seeds["mean"])
    low, high = value - np.hypot(value - found["low"], spread), value + np.hypot(found["high"] - value, spread)
    low, high = (max(low, 0), min(high, 1)) if len(sides) == 1 else (low, high)
    worst, best = verdict(claim, low), verdict(claim, high)
    row = {"ours": interval(value, low, high), "verdict": worst, "seeds": str(seeds["n"]), "videos": str(n)}
    if claim["published"] is not None:
        row["ours − published"] = interval(*(each - claim["published"] for each in (value, low, high)))
    if np.isnan(low):
        row["verdict"] = "undecided at this n (no interval)"
    elif worst != best:
        row["verdict"] = f"undecided at this n ({worst} to {best})"
        gap = min(abs(value - limit) for limit in (claim["reproduced"], claim["partly"]) if low < limit <= high)
        half = (found["high"] - found["low"]) / 2
        row["videos to decide"] = f"{n * half**2 / (gap**2 - spread**2):.0f}" if gap > spread else "more seeds"
    return row


def published_and_ours(lines: dict[str, list[Run]], test_sets: Sequence[str]) -> pd.DataFrame:
    """Published AUC, ours by both rules for the checkpoint, and Δ, of each line, real test set and level.

    No rows for datasets that ``published.csv`` does not know, such as those of the embedded benchmark; "not known" where
    there is no figure, as for another backbone than the paper's.
    """
    names, known, rows = manifest()[0], figures.published().reset_index(), {}
    known = known[(known["metric"] == "AUC") & ~known["method"].str.startswith("previous best")]
    real = [test_set for test_set in test_sets if test_set in names]
    for (line, group), test_set, level in product(lines.items(), real, metrics.KEY):
        paper, parameters = group[0].paper, group[0].record["parameters"]
        if paper not in papers.PAPERS or parameters["train_set"] not in names:
            continue
        same = parameters["settings"]["backbone"] == papers.module(paper).Settings().backbone
        own = known[known["paper"].str.startswith(papers.PAPERS[paper].published) & (known["level"] == level) & same]
        own = own[own["train_set"].isin(names[parameters["train_set"]]) & own["test_set"].isin(names[test_set])]
        row = {
            "published": "not known",
            "ours, source validation": figures.REFUSED,
            "ours, chosen on test": "–",
            "Δ": "–",
        }
        if all(figures.held(run, test_set) is not None for run in group):
            auc = metrics.auc(figures.tables(group, test_set), level)
            ours = np.array([auc[key] for key in ("value", "low", "high")])
            row["ours, source validation"] = interval(*ours)
            row |= {"Δ": interval(*(ours - own["value"].iloc[0]))} if len(own) else {}
        if all(best := [figures.chosen_on_test(run, test_set, level) for run in group]):
            auc = metrics.auc([found[1] for found in best], level)
            row["ours, chosen on test"] = interval(auc["value"], auc["low"], auc["high"])
        if len(own):
            row |= {"published": f"{own['value'].iloc[0]:.3f}", "confidence": own["confidence"].iloc[0]}
            row["source"] = "; ".join(own["source"])
        rows[line, test_set, level] = row
    return pd.DataFrame(rows).T.rename_axis(["line", "test set", "level"]).fillna("–") if rows else pd.DataFrame()
