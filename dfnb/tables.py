"""The tables and figures of a report: choices of rows of its results, as ``tables.yaml`` declares.

Nothing here computes a metric, runs a network or reads a dataset, so a table is the same wherever
the report lies.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from pydantic import Field

from dfnb import claims, figures, metrics, results, store
from dfnb.files import find, read_table, report_folder, slug, write_bytes
from dfnb.settings import Closed, read_yaml
from dfnb.statistics import holm
from dfnb.store import Detector, StoredRun

MANIFEST = Path(__file__).with_suffix(".yaml")
DECLARED = read_yaml(MANIFEST)
MEAN_MASK = "mean training mask"  # stands as a detector in tables of localisation


# ---------------------------------------------------------------- what is declared


class Spec(Closed):
    """A table, and its figure if it has one; the head of ``tables.yaml`` explains the fields."""

    notebook: str
    lead: str
    where: dict[str, Any] = Field({})
    index: list[str] = Field(["detector"])
    columns: list[str] = Field(["test_set"])
    beside: list[str] = Field([])
    figure: bool = False


def declared() -> dict[str, Spec]:
    """The tables of ``tables.yaml`` by name, but for those of ablations."""
    specs = {}
    for notebook, tables in DECLARED["tables"].items():
        for name, values in tables.items():
            specs[name] = Spec.check({**values, "notebook": notebook}, MANIFEST)
    return specs


def of_ablations(table: pd.DataFrame, detectors: Sequence[Detector]) -> dict[str, Spec]:
    """The tables ``<paper>_<ablation>…`` of the ablations among the detectors of a report.

    Args:
        table: The :func:`extended` results.
        detectors: Those of the report.
    """
    specs = {}
    for detector in detectors:
        if detector.variant in ("", results.MAIN):
            continue
        ablation = detector.ablation
        name = slug(f"{detector.paper} {ablation}").replace("-", "_")
        # A baseline is trained like the main variant where a paper compares itself with one.
        is_compared = (table["paper"] == detector.paper) | (table["variant"] == results.MAIN)
        rows = table[(table["ablation"] == ablation) & is_compared]
        with_compared = {
            "ablation": ["", ablation],
            "detector": [*rows["detector"].unique(), *rows["minus"].unique(), MEAN_MASK],
            "test_set": list(rows["test_set"].unique()),
        }
        run = detector.runs[0]
        for ending, values in DECLARED["ablations"].items():
            if "by_method" in ending and not run.parameters["seen_methods"]:
                continue
            changes = {
                "notebook": run.detector["notebook"],
                "lead": f"{run.detector['title']}, {ablation}. {values['lead']}",
                "where": {**with_compared, **values.get("where", {})},
            }
            specs[name + ending] = Spec.check({**values, **changes}, MANIFEST)
    return specs


# ---------------------------------------------------------------- the rows


def extended(table: pd.DataFrame) -> pd.DataFrame:
    """The results with what tables need besides.

    - ``within``: whether the test set is the one trained on;
    - ``loss``: the metric, where it is a term of the loss;
    - ``verdict``: of the sanity check of the map;
    - the published AUC, see :func:`dfnb.claims.with_published`;
    - what the mean training mask reaches, in the results a metric such as "constant iou", as rows
      of a detector :data:`MEAN_MASK`.
    """
    is_constant = table["metric"].str.startswith(metrics.CONSTANT)
    of_mask = _of_mean_mask(table[is_constant & ~table["collapsed_included"]])
    table = pd.concat([table[~is_constant], of_mask], ignore_index=True)
    table["within"] = table["test_set"] == table["train_set"]
    table["loss"] = table["metric"].where(table["metric"].str.startswith("loss_"), "")
    table = table.join(_sanity_verdicts(table), on=["detector", "map"])
    table["verdict"] = table["verdict"].fillna("")
    return claims.with_published(table)


def _of_mean_mask(constant: pd.DataFrame) -> pd.DataFrame:
    """One row per number, because detectors trained on the same forgeries share the mask."""
    rows = constant.sort_values("ablation", kind="stable")  # those of main detectors first
    rows = rows.assign(detector=MEAN_MASK, paper="", collapsed="")
    rows["metric"] = rows["metric"].str.removeprefix(metrics.CONSTANT)
    rows["map"] = rows["map"].where(rows["map"] == "", "none")
    # Means over different numbers of seeds differ in their last digits.
    rows["rounded"] = rows["value"].round(9)
    key = ["test_set", "method", "map", "level", "metric", "rounded"]
    return rows.drop_duplicates(key).drop(columns="rounded")


def _sanity_verdicts(table: pd.DataFrame) -> pd.Series:
    """Whether each map, by detector and map, passes or fails its sanity check.

    Only its own measures count: a difference of two detectors is no correlation.
    """
    where = {"ablation": "any", "map": "some", "sanity": True, "level": "frame", "metric": "any"}
    tested = chosen(table, where).dropna(subset="value")
    limits = tested["metric"].map(metrics.SANITY_LIMITS).astype(float)
    fails = tested["value"] >= limits
    any_fails = fails.groupby([tested["detector"], tested["map"]]).any()
    return any_fails.map({True: "fails", False: "passes"}).rename("verdict")


def chosen(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the :func:`extended` results that the head of ``tables.yaml`` describes.

    Means over different test sets are named apart, because they must not be compared.
    """
    keep = np.full(len(table), True)
    for column, wanted in {**DECLARED["everywhere"], **where}.items():
        if wanted == "some":
            keep &= table[column] != ""
        elif isinstance(wanted, list):
            keep &= table[column].isin(wanted)
        elif wanted != "any":
            keep &= table[column] == wanted
    rows = table[keep]
    is_mean = rows["mean_over"] != ""
    if rows.loc[is_mean, "mean_over"].nunique() > 1:
        full_name = rows["test_set"] + ": " + rows["mean_over"]
        rows = rows.assign(test_set=rows["test_set"].mask(is_mean, full_name))
    return rows


# ---------------------------------------------------------------- rows as a table


def cell(row: Mapping[str, Any]) -> str:
    """A row's value with its interval, unbreakable; "refused", or a dash, where it has none."""
    if np.isnan(row["value"]):
        return "refused" if row["refused"] else "–"
    sign = "+" if row["minus"] else ""
    text = metrics.interval_text(row["value"], row["low"], row["high"], sign)
    return text.replace(" ", "\u00a0")


def pivot(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
    """Rows as a table of texts ``value [low, high]``, in the order of the results.

    It is empty where the rows are of the mean training mask alone.
    """
    if (rows["detector"] == MEAN_MASK).all():
        return pd.DataFrame()
    rows = rows.replace({"metric": metrics.LOCALISATION})
    rows["text"] = [cell(row) for row in rows.to_dict("records")]
    if not spec.columns:
        return _differences(rows.set_index(spec.index))
    rows["column"] = rows[spec.columns].agg(", ".join, axis=1)
    table = rows.pivot_table("text", spec.index, "column", aggfunc="last", sort=False)
    beside = rows.groupby(spec.index)[spec.beside].max().convert_dtypes()
    return table.join(beside).rename_axis(columns=None).astype(object).fillna("–")


def _differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences, one per row, with p and a verdict."""
    decided = [rows["low"] > 0, rows["high"] < 0]
    table = pd.DataFrame({"difference": rows["text"], "p": metrics.p_texts(rows["p"])})
    table["p, Holm"] = metrics.p_texts(holm(rows["p"].to_numpy()))
    table["verdict"] = np.select(decided, ["above zero", "below zero"], "undecided")
    counts = rows[["seeds", "collapsed", "n", "clusters"]].convert_dtypes()
    return pd.concat([table, counts], axis=1)


# ---------------------------------------------------------------- sentences


def conclusion(rows: pd.DataFrame) -> str:
    """A sentence: how many differences are decided, or which detector is highest and lowest.

    Detectors are ranked by the first metric (by the gain over the mean training mask, where there
    is one), on one test set that all of them have: the cross-dataset mean, else the first
    cross-dataset set, else the one trained on.
    """
    rows = rows[rows["detector"] != MEAN_MASK]
    if rows["minus"].all():
        above = (rows["low"] > 0).sum()
        below = (rows["high"] < 0).sum()
        undecided = len(rows) - above - below
        return f"Differences: {above} above zero, {below} below, {undecided} undecided."
    metric = rows["metric"].iloc[0]
    if metrics.GAIN in set(rows["metric"]):
        metric = metrics.GAIN
    name = metrics.LOCALISATION.get(metric, metric)
    rows = rows[rows["metric"] == metric]
    within = set(rows.loc[rows["within"], "test_set"])
    rows = rows.assign(is_single=rows["mean_over"] == "", is_within=rows["test_set"].isin(within))
    rows = rows.sort_values(["is_single", "is_within"], kind="stable")
    for _, of_set in rows.groupby("test_set", sort=False):
        if of_set["detector"].nunique() == rows["detector"].nunique():
            ranked = of_set.sort_values("value", kind="stable").to_dict("records")
            return f"{name}: highest for {_named(ranked[-1])}; lowest for {_named(ranked[0])}."
    return f"{name}: these detectors share no test set, so none is highest."


def _named(row: Mapping[str, Any]) -> str:
    names = [row[column] for column in ("detector", "test_set", "method", "corruption", "map")]
    names = [name for name in names if name not in ("", "all")]
    return f"{', '.join(names)} ({cell(row)})"


def conditions(rows: pd.DataFrame, profile: str) -> str:
    """The sentences under a table or figure of these rows: how its numbers were made."""
    sentences = []
    sound = rows[rows["refused"] == ""]
    if len(sound):
        sentences = _circumstances(sound)
    sentences.append(f"Made by `dfnb run {profile}`.")
    for reason in rows["refused"].unique():
        if reason:
            sentences.append(f"Refused: {reason}.")
    return " ".join(sentences)


def _circumstances(rows: pd.DataFrame) -> list[str]:
    """How the detectors were trained and tested, and what is left out."""
    backbone = rows["backbone"] + " from " + rows["weights_from"]
    sentences = [
        f"Trained on {_listing(rows['train_set'])}; seeds {_listing(rows['seeds_list'])}.",
        f"Checkpoint: {_listing(rows['rule'])}.",
        f"Backbone: {_listing(backbone)}.",
    ]
    tests = rows[rows["mean_over"] == ""].dropna(subset="n").sort_values("n", ascending=False)
    for row in tests.drop_duplicates(["test_set", "level"]).itertuples():
        units = f"{row.n_real:.0f} real + {row.n_fake:.0f} fake {row.level}s"
        data = f"{row.clusters:.0f} clusters, {row.compression}, data {row.fingerprint[:8]}"
        sentences.append(f"Test: {row.test_set}, {units} ({data}).")
    if rows["mean_over"].any():
        sentences.append(f"The {results.CROSS_DATASET_MEAN} is over {_listing(rows['mean_over'])}.")
    sentences.append("Intervals: 95 %, over clusters of videos and, of several seeds, over seeds.")
    left_out = rows[rows["collapsed"].str.match("[1-9]") & ~rows["collapsed_included"]]
    if len(left_out):
        names = _listing(left_out["collapsed"] + " of " + left_out["detector"])
        sentences.append(f"Collapsed runs are left out: {names}.")
    auc = rows[(rows["metric"] == "AUC") & (rows["minus"] == "")]
    if len(auc) and auc["low"].max() <= 0.5 <= auc["high"].min():
        sentences.append("Every interval holds chance, so the table shows nothing.")
    return sentences


def _listing(values: pd.Series) -> str:
    return "; ".join(sorted(set(values) - {""}))


# ---------------------------------------------------------------- files


def save(table: pd.DataFrame, profile: str, name: str, caption: str) -> list[Path]:
    """Save a table as CSV, Markdown and LaTeX, and its caption as text; returns the paths.

    The LaTeX needs booktabs, and LuaLaTeX or XeLaTeX for signs such as −.
    """
    table = table.reset_index().astype(object).fillna("–").astype(str)
    markdown = table.to_markdown(index=False, disable_numparse=True)
    texts = {
        "csv": table.to_csv(index=False),
        "md": f"{markdown}\n\n{caption}\n",
        "tex": f"% {caption}\n{table.to_latex(index=False, escape=True)}",
        "txt": f"{caption}\n",
    }
    path = report_folder(profile) / "tables" / name
    return [write_bytes(Path(f"{path}.{suffix}"), texts[suffix].encode()) for suffix in texts]


# ---------------------------------------------------------------- tables of something else


def overview(detectors: Sequence[Detector]) -> pd.DataFrame:
    """One row per run: what it started from, on how much, and which epoch was chosen.

    No times: a training that was interrupted gives the same table.
    """
    rows = {}
    for detector in detectors:
        for run in detector.runs:
            record = run.record
            backbone = run.parameters["settings"]["backbone"]
            rows[detector.name, run.seed] = {
                "start": f"{backbone} from {record['weights_from']}",
                "chosen epoch": f"{record['chosen']['epoch']} of {len(run.log)}",
                "validation AUC": f"{record['chosen']['auc']:.3f}",
                "training frames": record["n"]["train"],
                "images seen": record["images_seen"],
            }
    return pd.DataFrame(rows).T.rename_axis(["detector", "seed"])


def published(detectors: Sequence[Detector]) -> pd.DataFrame:
    """The figures that the papers of these detectors print."""
    runs = [detector.runs[0] for detector in detectors if detector.runs]
    names = dict.fromkeys(run.detector["published"] for run in runs)
    return claims.published(names).set_index("paper")


def deviations(run: StoredRun) -> pd.DataFrame:
    """The settings of a run that differ from the published ones."""
    settings = {"published": run.detector["defaults"], "this run": run.parameters["settings"]}
    table = pd.DataFrame(settings, dtype=object).map(str).rename_axis("setting")
    table.loc["initial weights"] = ["ImageNet", run.record["weights_from"]]
    return table[table["published"] != table["this run"]]


def findings(judged: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on the claims that were tested, from those of :func:`dfnb.claims.judge`."""
    return judged[judged["p"] != "–"].reindex(columns=["ours", "verdict"])


def study_findings(paper: str) -> pd.DataFrame | Markdown:
    """The verdicts of the committed study on a paper's claims."""
    path = find("reports/study") / "results.parquet"
    if path.exists():
        tested = findings(claims.judge(read_table(path)))
        if paper in tested.index:
            return tested.loc[paper]
    return Markdown("*The study tests no claim of this paper, or its results are not here.*")


# ---------------------------------------------------------------- a report


class Report:
    """The tables and figures of a report, made from its files alone.

    Attributes:
        store: The scores.
        detectors: All detectors, in their order in tables.
        results: The :func:`extended` results.
        tables: What is declared, by name.
        saved: The files written so far.
    """

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.store = store.Report(profile)
        self.detectors = self.store.detectors()
        self.results = extended(results.load(profile))
        self.tables = {**declared(), **of_ablations(self.results, self.detectors)}
        self.saved: list[Path] = []

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The claims, each on every dataset it names, with its verdict."""
        return claims.judge(self.results)

    def rows(self, name: str) -> pd.DataFrame:
        """The results in a table; none if the report has nothing for it."""
        if name in MADE or name not in self.tables:
            return self.results.head(0)
        return chosen(self.results, self.tables[name].where)

    def table(self, name: str) -> pd.DataFrame:
        """Make a table and save it; it is empty and not saved if the report has nothing for it."""
        table = pivot(self.rows(name), self.tables.get(name))
        if name in MADE:
            table = MADE[name](self)
        if len(table):
            self.saved += save(table, self.profile, name, self._caption(name))
        return table

    def show(self, name: str) -> None:
        """Display a table and what it comes to, or that the report has nothing for it."""
        table = self.table(name)
        if table.empty:
            display(NOTHING)
            return
        display(table)
        rows = self.rows(name).dropna(subset="value")
        if len(rows):
            display(Markdown(conclusion(rows)))

    def figure(self, name: str) -> Image | Markdown:
        """Draw and save the rows of a table; returns the figure, or that there is none."""
        rows = self.rows(name).dropna(subset="value")
        if rows.empty:
            return NOTHING
        column = self.tables[name].columns[0]
        figure = figures.forest(rows, column, figures.looks(self.detectors))
        paths = figures.save(figure, self.profile, name, self._caption(name))
        self.saved += paths
        return figures.shown(paths)

    def _caption(self, name: str) -> str:
        return f"{self.tables[name].lead} {conditions(self.rows(name), self.profile)}"


NOTHING = Markdown("*This profile trains nothing for this.*")
# Tables that are no choice of rows.
MADE = {
    "overview": lambda report: overview(report.detectors),
    "claims": lambda report: report.judged,
    "findings": lambda report: findings(report.judged),
    "published": lambda report: published(report.detectors),
}
