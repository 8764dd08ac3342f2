"""The tables of a report: calls of :func:`dfnb.report.measure.measure`, and how they are printed.

Numbers stay numbers until :func:`pivot` formats them. Nothing here computes a metric, runs a
network or reads a dataset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from scipy.special import expit, logit

from dfnb.files import read_metadata, report_folder, write_bytes, write_table
from dfnb.report import statistics
from dfnb.report.measure import SUMMARY, measure
from dfnb.report.scores import (
    MAIN,
    StoredRun,
    detectors,
    test_set_path,
)

# What tables print in place of the names of columns.
TITLES = {
    "iou": "IoU",
    "pixel_auc": "pixel AUC",
    "pixel_ap": "pixel AP",
    "pointing": "pointing game",
    "energy": "energy in mask",
}
NOTHING = Markdown("*This report has nothing to show here.*")
# A map fails its sanity check where the mean of one of these columns reaches its limit: "all", the
# rank correlation with the map of a network with random weights; "empty", the share of empty maps.
SANITY_LIMITS = {"all": 0.5, "empty": 0.5}


# ---------------------------------------------------------------- what is measured


def main(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of main detectors and other tools, of the frames as they are.

    Test sets that compare kinds of images are left out.
    """
    is_main = scores["ablation"] == ""
    is_main &= (scores["corruption"] == "") & (scores["place"] != "kinds")
    return scores[is_main]


def averaged(scores: pd.DataFrame, detector: str, size: int = 3) -> pd.DataFrame:
    """The scores of ensembles of one detector's trainings, as the detector ``<name> × <size>``.

    An ensemble has the mean log-odds of ``size`` seeds: of each seed and those that follow it, the
    first ones after the last. With fewer seeds than that there are no rows. As the ensembles share
    trainings, they differ less than independent ones: intervals leave a part of the choice of seeds
    out. Where each seed has training people of its own, an ensemble has seen those of all.
    """
    rows = scores[(scores["detector"] == detector) & ~scores["collapsed"]]
    unit = [name for name in ("test_set", "video", "track", "frame") if name in rows]
    # A score that was rounded to 0 or 1 would have infinite log-odds.
    log_odds = logit(rows["score"].clip(1e-12, 1 - 1e-12))
    rows = rows.assign(detector=f"{detector} × {size}", log_odds=log_odds)
    seeds = list(rows["seed"].unique())
    if len(seeds) < size:
        return rows.head(0)
    parts = []
    for place, seed in enumerate(seeds):
        members = [*seeds, *seeds][place : place + size]
        of_members = rows[rows["seed"].isin(members)]
        mean = of_members.groupby(unit, observed=True)["log_odds"].mean()
        of_seed = rows[rows["seed"] == seed].set_index(unit)
        parts.append(of_seed.assign(score=expit(mean)).reset_index())
    return pd.concat(parts)


def by_place(
    scores: pd.DataFrame,
    metric: str | Sequence[str] = "AUC",
    by: Sequence[str] = ("detector",),
    mean_over: Sequence[str] = (),
    **options: Any,
) -> pd.DataFrame:
    """A metric within the dataset, across the others as a mean, and on each other test set.

    The table is that of :func:`measure` with a column ``place``: "within", "across", or the name of
    a test set that enters no mean. Arguments are those of :func:`measure`; several metrics stand
    one below the other.
    """
    parts = []
    for name in [metric] if isinstance(metric, str) else metric:
        for place, rows in scores.groupby("place", observed=True):
            number = measure(rows, name, by, ["test_set", *mean_over], **options)
            parts.append(number.assign(place=place))
    return joined(parts)


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Several tables of numbers as one; p is corrected by Holm's rule for all of its rows."""
    rows = [part for part in parts if len(part)]
    if not rows:
        return pd.DataFrame(columns=[*SUMMARY, "p_holm", "detector", "metric", "minus", "place"])
    table = pd.concat(rows, ignore_index=True)
    return table.assign(p_holm=statistics.holm(table["p"]))


def pairs(scores: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """The differences in AUC of every two detectors, later minus earlier ones; see by_place."""
    names = list(scores["detector"].unique())
    parts = []
    for place, name in enumerate(names):
        rows = scores[scores["detector"].isin(names[place:])]
        parts.append(by_place(rows, minus=name, **options))
    return joined(parts)


def variants(scores: pd.DataFrame) -> pd.DataFrame:
    """The AUC of each variant of an ablation minus MAIN's, or else the paper's main detector's."""
    parts = []
    groups = scores.groupby(["paper", "ablation"], observed=True, sort=False)
    for (paper, ablation), rows in groups:
        is_main = scores["ablation"] == ""
        of_main = scores[is_main & (scores["paper"] == paper)]
        # The variant MAIN comes first if there is one.
        first = rows[rows["variant"] == MAIN]
        bases = pd.concat([first, of_main])["detector"].unique()
        if ablation and len(bases):
            names = [*rows["detector"].unique(), bases[0]]
            compared = scores[scores["detector"].isin(names)]
            number = by_place(compared, minus=bases[0])
            parts.append(number.assign(paper=paper))
    return joined(parts)


def robustness(
    scores: pd.DataFrame,
    by: Sequence[str] = ("detector",),
    mean_over: Sequence[str] = ("corruption", "severity"),
    minus: Sequence[Mapping[str, Any]] = (),
) -> pd.DataFrame:
    """The mean AUC over corruptions and severities, minus that of the same videos without them.

    ``minus``: what else is subtracted, such as another detector's, see :func:`measure`.
    """
    corrupted = scores[scores["corruption"] != ""]
    is_same = scores["test_set"].isin(corrupted["test_set"].unique())
    is_same &= scores["video"].isin(corrupted["video"].unique())
    subtracted = [{"corruption": "", "severity": 0}, *minus]
    return measure(scores[is_same], "AUC", by, mean_over, subtracted)


def sanity(maps: pd.DataFrame) -> pd.DataFrame:
    """The measures of SANITY_LIMITS of each map, a column each, and whether it ``passes`` both."""
    by = ["detector", "map", "test_set"]
    checked = maps[maps["sanity"]].reindex(columns=[*by, *SANITY_LIMITS])
    by_set = checked.groupby(by, observed=True, sort=False).mean()
    # A map fails if it fails on any test set.
    table = by_set.groupby(["detector", "map"], observed=True, sort=False).max()
    is_below = table < pd.Series(SANITY_LIMITS)
    return table.assign(passes=is_below.all(axis=1))


def unseen(profile: str, scores: pd.DataFrame) -> pd.DataFrame:
    """The AUC of variants MAIN on each manipulation that their training left out."""
    parts = []
    for detector in detectors(profile):
        seen = detector.runs[0].parameters.seen_methods if detector.runs else None
        if detector.variant == MAIN and seen:
            rows = scores[scores["detector"] == detector.name]
            rows = rows[~rows["method"].isin(seen)]
            parts.append(by_place(rows, by=["detector", "method"]))
    return joined(parts)


def explained(maps: pd.DataFrame) -> pd.DataFrame:
    """The share of each map on forged pixels, and that of the mean training mask.

    Only maps that pass their :func:`sanity` check are measured.
    """
    rows = maps[~maps["sanity"]].join(sanity(maps)["passes"], ["detector", "map"])
    rows = rows[rows["passes"].eq(True)]  # not NaN, where a map was not checked
    names = [name for name in ("energy", "constant energy") if name in rows]
    return joined([measure(rows, name, ["detector", "map"], "test_set") for name in names])


# ---------------------------------------------------------------- tables of trainings


def compared(profile: str) -> pd.DataFrame:
    """One row per main detector: images seen and seconds per training, seeds, and the network."""
    rows = {}
    for detector in detectors(profile):
        if detector.ablation or not detector.runs:
            continue
        records = [run.record for run in detector.runs]
        network = "{backbone} {image_size} px".format(**records[0].parameters.settings)
        rows[detector.name] = {
            "images": round(np.mean([record.images_seen for record in records])),
            "seconds": round(np.median([record.wall_s for record in records])),
            "seeds": len(records),
            "network": f"{network}, started from {records[0].weights_from}",
        }
    return pd.DataFrame.from_dict(rows, "index").rename_axis("detector")


def deviations(run: StoredRun) -> pd.DataFrame:
    """The settings of a run that differ from the published ones, one per row, as text.

    Columns: ``published``, the paper's defaults, and ``this run``.
    """
    record = run.record
    # The published trainings are taken to start from ImageNet weights.
    settings = {
        "published": {**record.detector.defaults, "initial weights": "ImageNet"},
        "this run": {**record.parameters.settings, "initial weights": record.weights_from},
    }
    table = pd.DataFrame(settings, dtype=object).map(str)  # a row per setting
    return table[table["published"] != table["this run"]]


# ---------------------------------------------------------------- as text


def cell(
    value: float,
    low: float,
    high: float,
    sign: str = "",
) -> str:
    """A value with its interval, ``0.853 [0.812, 0.889]``, that no line break divides.

    ``sign``: "+" to print the sign of positive values, too. Numbers have three decimals, but two
    where the interval is wider than a tenth. Without a value: a dash.
    """
    if np.isnan(value):
        return "–"
    # A comparison with NaN is False, so a value without an interval has three decimals.
    number = f"{sign}.{2 if high - low > 0.1 else 3}f"
    text = f"{value:{number}}"
    if not np.isnan(low):
        text += f" [{low:{number}}, {high:{number}}]"
    return text.replace(" ", "\u00a0")


def p_text(p: float) -> str:
    """A p value as tables print it: ``0.031``, ``< 0.001``, or a dash for NaN."""
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def verdicts(differences: pd.DataFrame) -> pd.Series:
    """Whether each difference is "above zero" or "below zero"; else "undecided".

    It is decided where p after Holm's correction is below .05; without an interval there is no p.
    """
    sides = np.where(differences["value"] > 0, "above zero", "below zero")
    return pd.Series(sides, differences.index).where(differences["p_holm"] < 0.05, "undecided")


def cells(numbers: pd.DataFrame) -> list[str]:
    """The :func:`cell` of each row; a difference shows its sign."""
    signs = np.where(numbers["minus"] == "", "", "+")
    return list(map(cell, numbers["value"], numbers["low"], numbers["high"], signs))


def pivot(
    numbers: pd.DataFrame,
    index: Sequence[str] = ("detector",),
    columns: str = "place",
) -> pd.DataFrame:
    """The numbers of :func:`measure` as a table of texts ``value [low, high]``, in their order."""
    if numbers.empty:
        return pd.DataFrame()
    texts = numbers.assign(text=cells(numbers)).replace({"metric": TITLES})
    lines = [texts[name].astype(object) for name in index]
    table = texts.pivot_table("text", lines, columns, aggfunc="first", sort=False, observed=True)
    return table.fillna("–").rename_axis(columns=None)


def listed(differences: pd.DataFrame, index: Sequence[str]) -> pd.DataFrame:
    """One difference per row as text, with p after Holm's correction, and a verdict."""
    table = differences.set_index(list(index), drop=False)
    table["difference"] = cells(table)
    table["p, Holm"] = table["p_holm"].map(p_text)
    table["verdict"] = verdicts(table)
    return table[["difference", "p, Holm", "verdict", "seeds"]]


def claims(judged: pd.DataFrame) -> pd.DataFrame:
    """The claims as text."""
    table = judged.set_index(["detector", "claim", "on"])
    table["ours"] = cells(table)
    table["p gain"] = table["p_gain"].map(p_text)
    table["p worse"] = table["p_worse"].map(p_text)
    return table[["ours", "verdict", "p gain", "p worse", "registered"]]


# ---------------------------------------------------------------- captions and files


def conditions(profile: str, scores: pd.DataFrame) -> str:
    """How numbers of these scores were made, in sentences for a caption."""
    names = scores["detector"].unique()
    runs = []
    for detector in detectors(profile):
        if detector.name in names:
            runs += detector.runs
    records = [run.record for run in runs]
    facts = {
        "Trained on": [run.train_set for run in runs],
        "Seeds": [str(seed) for seed in sorted({run.seed for run in runs})],
        "Checkpoint": [
            record.rule.replace(record.parameters.train_set, record.train_set) for record in records
        ],
        "Tested on": [_about(profile, *each) for each in scores.groupby("test_set", observed=True)],
        "Collapsed runs, left out": [run.id for run in runs if run.record.collapsed],
    }
    sentences = []
    for name, texts in facts.items():
        if texts:
            sentences.append(f"{name}: {'; '.join(dict.fromkeys(texts))}.")
    sentences.append(
        "A video's score is the mean over its frames. Intervals: 95 %, over people and seeds; of a "
        "mean over three or more test sets also over test sets. "
        f"Made again by `dfnb report {profile}`."
    )
    return " ".join(sentences)


def _about(profile: str, test_set: str, scores: pd.DataFrame) -> str:
    """A test set in words for a caption: its version, units, people, compression and crop."""
    about = read_metadata(test_set_path(report_folder(profile), test_set))
    unit = "frame" if "frame" in scores else "video"
    keys = [name for name in ("video", "track", "frame") if name in scores]
    units = scores.drop_duplicates(keys)
    parts = [
        f"{test_set} {about['fingerprint'][:8]}",
        f"{(units['label'] == 0).sum()} real and {(units['label'] == 1).sum()} fake {unit}s",
        f"{units['cluster'].nunique()} clusters",
        about.get("compression", ""),
        about.get("crop", ""),
    ]
    return ", ".join(filter(None, parts))


def show(
    table: pd.DataFrame,
    profile: str,
    name: str,
    title: str,
    caption: str = "",
) -> list[Path]:
    """Display a table of texts, and save it as CSV, Markdown and LaTeX; returns the paths.

    Args:
        table: Of :func:`pivot` or :func:`listed`, for example.
        profile: The report, whose folder ``tables`` gets the files.
        name: Of the files.
        title: What the table shows, the first line of the Markdown.
        caption: How its numbers were made, such as :func:`conditions`.
    """
    if table.empty:
        display(NOTHING)
        return []
    display(table)
    table = table.reset_index().astype(object).fillna("–").astype(str)
    markdown = table.to_markdown(index=False, disable_numparse=True)  # numbers as they are written
    texts = {
        "csv": table.to_csv(index=False),
        "md": f"# {title}\n\n{markdown}\n\n{caption}\n",
        "tex": table.to_latex(index=False, escape=True),
    }
    folder = report_folder(profile) / "tables"
    paths = []
    for suffix, text in texts.items():
        paths.append(write_bytes(folder / f"{name}.{suffix}", text.encode()))
    return paths


def write_results(profile: str, tables: dict[str, pd.DataFrame]) -> Path:
    """Write ``results.parquet``: the numbers of several tables, named by the column ``table``."""
    # A table without rows would make objects of the numbers of the others.
    parts = [numbers.assign(table=name) for name, numbers in tables.items() if len(numbers)]
    table = pd.concat(parts, ignore_index=True)
    texts = table.select_dtypes(exclude="number").columns
    table[texts] = table[texts].astype(object).fillna("").astype(str)
    path = report_folder(profile) / "results.parquet"
    write_table(path, table, {})
    return path


def further(profile: str, shown: Sequence[Path]) -> str:
    """A list of links, in Markdown, to the tables of a report that are not in ``shown``."""
    links = []
    for path in sorted(report_folder(profile).glob("tables/*.md")):
        if path not in shown:
            heading = path.read_text(encoding="utf-8").partition("\n")[0]
            title = heading.removeprefix("# ")
            links.append(f"- [{title}](../tables/{path.name})")
    return "\n".join(links) or "There are none."
