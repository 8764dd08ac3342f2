"""The tables and figures of a report: choices of rows of its results, as ``tables.yaml`` declares.

Nothing here computes a metric, runs a network or reads a dataset, so a table is the same wherever
the report lies.
"""

from collections.abc import Iterator, Mapping, Sequence
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
RANKED = ("AUC", metrics.GAIN)  # metrics by which detectors are ranked


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
            values = {**values, "notebook": notebook}
            specs[name] = Spec.check(values, MANIFEST)
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
        # A baseline is trained like the main variant where a paper compares itself with one.
        is_main = table["variant"] == results.MAIN
        is_compared = (table["paper"] == detector.paper) | is_main
        rows = table[(table["ablation"] == ablation) & is_compared]
        where = {
            "ablation": ["", ablation],
            "detector": [*rows["detector"].unique(), *rows["minus"].unique()],
            "test_set": list(rows["test_set"].unique()),
        }
        run = detector.runs[0]
        title = f"{run.detector['title']}, {ablation}."
        name = slug(f"{detector.paper} {ablation}").replace("-", "_")
        for ending, values in DECLARED["ablations"].items():
            if "by_method" in ending and not run.parameters["seen_methods"]:
                continue
            values = {
                **values,
                "notebook": run.detector["notebook"],
                "lead": f"{title} {values['lead']}",
                "where": {**where, **values.get("where", {})},
            }
            specs[name + ending] = Spec.check(values, MANIFEST)
    return specs


# ---------------------------------------------------------------- the rows


def extended(table: pd.DataFrame) -> pd.DataFrame:
    """The results with what tables need besides.

    - ``within``: whether the test set is the one trained on;
    - ``verdict``: of the sanity check of the map;
    - the published AUC, see :func:`dfnb.claims.with_published`.
    """
    is_within = table["test_set"] == table["train_set"]
    table = table.assign(within=is_within)
    by_map = _sanity_verdicts(table)
    table = table.join(by_map, on=["detector", "map"])
    table["verdict"] = table["verdict"].fillna("")
    return claims.with_published(table)


def _sanity_verdicts(table: pd.DataFrame) -> pd.Series:
    """Whether each map, by detector and map, passes or fails its sanity check.

    Differences of two detectors do not count, because they are no correlations.
    """
    is_difference = table["minus"] != ""
    is_tested = table["sanity"] & ~is_difference & ~table["collapsed_included"]
    tested = table[is_tested].dropna(subset="value")
    limits = tested["metric"].map(metrics.SANITY_LIMITS)
    fails = tested["value"] >= limits.astype(float)
    tested = tested.assign(fails=fails)
    by_map = tested.groupby(["detector", "map"])["fails"].any()
    verdicts = by_map.map({True: "fails", False: "passes"})
    return verdicts.rename("verdict")


def chosen(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the :func:`extended` results that the head of ``tables.yaml`` describes.

    Means over different test sets are named apart, because they must not be compared.
    """
    keep = np.full(len(table), True)
    where = {**DECLARED["everywhere"], **where}
    for column, wanted in where.items():
        if wanted == "some":
            keep &= table[column] != ""
        elif wanted == "itself":
            keep &= table[column] == table["detector"]
        elif isinstance(wanted, list):
            keep &= table[column].isin(wanted)
        elif wanted != "any":
            keep &= table[column] == wanted
    rows = table[keep].copy()
    means = rows.loc[rows["mean_over"] != "", "mean_over"]
    if means.nunique() > 1:
        rows.loc[means.index, "test_set"] += ": " + means
    return rows


# ---------------------------------------------------------------- rows as a table


def cell(row: Mapping[str, Any]) -> str:
    """A row's value with its interval, unbreakable; a dash where it has none."""
    if np.isnan(row["value"]):
        return "–"
    text = metrics.interval_text(
        row["value"],
        row["low"],
        row["high"],
        sign="+" if row["minus"] else "",
    )
    return text.replace(" ", "\u00a0")


def pivot(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
    """Rows as a table of texts ``value [low, high]``, in the order of the results."""
    if rows.empty:
        return pd.DataFrame()
    rows = rows.replace({"metric": metrics.LOCALISATION}, regex=True)
    rows["text"] = [cell(row) for row in rows.to_dict("records")]
    if not spec.columns:
        return _differences(rows.set_index(spec.index))
    rows["column"] = rows[spec.columns].agg(", ".join, axis=1)
    table = rows.pivot_table(
        "text",
        spec.index,
        "column",
        aggfunc="last",
        sort=False,
    )
    beside = rows.groupby(spec.index)[spec.beside].max()
    table = table.join(beside.convert_dtypes())
    table = table.astype(object).fillna("–")
    return table.rename_axis(columns=None)


def _differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences, one per row, with p and a verdict."""
    p = rows["p"].to_numpy()
    corrected_p = holm(p)
    columns = {
        "difference": rows["text"],
        "p": metrics.p_texts(p),
        "p, Holm": metrics.p_texts(corrected_p),
        "verdict": verdicts(rows),
    }
    counts = rows[["seeds", "collapsed", "n", "clusters"]].convert_dtypes()
    table = pd.DataFrame(columns)
    return pd.concat([table, counts], axis=1)


def verdicts(differences: pd.DataFrame) -> pd.Series:
    """Whether each difference is above zero, below zero or undecided, by its interval."""
    texts = pd.Series("undecided", differences.index)
    texts[differences["low"] > 0] = "above zero"
    texts[differences["high"] < 0] = "below zero"
    return texts


# ---------------------------------------------------------------- sentences


def conclusion(rows: pd.DataFrame) -> str:
    """A sentence: how many differences are decided, or which detector is highest.

    Detectors are ranked by a metric of :data:`RANKED` on the last test set, which is the
    cross-dataset mean where there is one. The sentence is empty unless all detectors have one such
    value.
    """
    rows = rows.dropna(subset="value")
    if rows["minus"].any():
        counts = verdicts(rows).value_counts()
        texts = [f"{count} {verdict}" for verdict, count in counts.items()]
        return f"Differences: {', '.join(texts)}."
    rows = rows[rows["metric"].isin(RANKED)]
    last_test_set = rows["test_set"].tail(1)
    last = rows[rows["test_set"].isin(last_test_set)]
    detectors = rows["detector"].unique()
    if len(detectors) < 2 or sorted(last["detector"]) != sorted(detectors):
        return ""
    best = last.loc[last["value"].idxmax()]
    return f"Highest {best['metric']} on {best['test_set']}: {best['detector']}, {cell(best)}."


def conditions(rows: pd.DataFrame, profile: str) -> str:
    """The sentences under a table or figure of these rows: how its numbers were made."""
    collapsed = rows["collapsed"] + " of " + rows["detector"]
    has_collapsed = rows["collapsed"].str.match("[1-9]")
    is_left_out = has_collapsed & ~rows["collapsed_included"]
    facts = {
        "Trained on": rows["train_set"],
        "Seeds": rows["seeds_list"],
        "Checkpoint": rows["rule"],
        "Backbone": rows["backbone"],
        "Started from": rows["weights_from"],
        "Tested on": _test_sets(rows),
        "Cross-dataset mean": rows["mean_over"],
        "Collapsed runs, left out unless all are": collapsed[is_left_out],
        "Refused": rows["refused"],
    }
    sentences = []
    for name, texts in facts.items():
        texts = sorted(set(texts) - {""})
        if texts:
            sentences.append(f"{name}: {'; '.join(texts)}.")
    sentences.append("Intervals: 95 %, over clusters of videos and, of several seeds, over seeds.")
    sentences.append(f"Made by `dfnb run {profile}`.")
    return " ".join(sentences)


def _test_sets(rows: pd.DataFrame) -> Iterator[str]:
    """The test sets with what is in them; a table by method names the most that it has of each."""
    single = rows[rows["mean_over"] == ""].dropna(subset="n")
    most_first = single.sort_values("n", ascending=False)
    largest = most_first.drop_duplicates(["test_set", "level"])
    for row in largest.itertuples():
        units = f"{row.n_real:.0f} real and {row.n_fake:.0f} fake {row.level}s"
        clusters = f"{row.clusters:.0f} clusters"
        yield f"{row.test_set} {row.fingerprint[:8]}, {units}, {clusters}, {row.compression}"


# ---------------------------------------------------------------- files


def save(
    table: pd.DataFrame,
    profile: str,
    name: str,
    caption: str,
) -> list[Path]:
    """Save a table as CSV, Markdown and LaTeX, and its caption as text; returns the paths.

    The LaTeX needs booktabs, and LuaLaTeX or XeLaTeX for signs such as −.
    """
    table = table.reset_index().astype(object).fillna("–").astype(str)
    markdown = table.to_markdown(index=False, disable_numparse=True)
    latex = table.to_latex(index=False, escape=True)
    texts = {
        "csv": table.to_csv(index=False),
        "md": f"{markdown}\n\n{caption}\n",
        "tex": f"% {caption}\n{latex}",
        "txt": f"{caption}\n",
    }
    folder = report_folder(profile) / "tables"
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        paths.append(write_bytes(path, text.encode()))
    return paths


# ---------------------------------------------------------------- tables of something else


def overview(detectors: Sequence[Detector]) -> pd.DataFrame:
    """One row per run: what it started from, on how much, and which epoch was chosen.

    No times: a training that was interrupted gives the same table.
    """
    rows = {}
    for detector in detectors:
        for run in detector.runs:
            backbone = run.parameters["settings"]["backbone"]
            weights_from = run.record["weights_from"]
            chosen = run.record["chosen"]
            rows[detector.name, run.seed] = {
                "start": f"{backbone} from {weights_from}",
                "chosen epoch": f"{chosen['epoch']} of {len(run.log)}",
                "validation AUC": f"{chosen['auc']:.3f}",
                "images seen": run.record["images_seen"],
            }
    table = pd.DataFrame(rows).T
    return table.rename_axis(["detector", "seed"])


def published(detectors: Sequence[Detector]) -> pd.DataFrame:
    """The figures that the papers of these detectors print."""
    runs = [detector.runs[0] for detector in detectors if detector.runs]
    names = dict.fromkeys(run.detector["published"] for run in runs)
    table = claims.published(names)
    return table.set_index("paper")


def deviations(run: StoredRun) -> pd.DataFrame:
    """The settings of a run that differ from the published ones."""
    settings = {
        "published": run.detector["defaults"],
        "this run": run.parameters["settings"],
    }
    table = pd.DataFrame(settings, dtype=object).map(str)
    table = table.rename_axis("setting")
    table.loc["initial weights"] = ["ImageNet", run.record["weights_from"]]
    return table[table["published"] != table["this run"]]


def findings(judged: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on the claims that were tested, from those of :func:`dfnb.claims.judge`."""
    tested = judged[judged["p"] != "–"]
    return tested.reindex(columns=["ours", "verdict", "p, Holm"])


def study_findings(paper: str) -> pd.DataFrame | Markdown:
    """The verdicts of the committed study on a paper's claims."""
    path = find("reports/study") / "results.parquet"
    if not path.exists():
        return Markdown("*The results of the study are not here.*")
    judged = claims.judge(read_table(path))
    tested = findings(judged)
    papers = tested.index.get_level_values("paper")
    return tested[papers == paper]


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
        self.tables = declared()
        self.tables.update(of_ablations(self.results, self.detectors))
        self.saved: list[Path] = []

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The claims, each on every dataset it names, with its verdict."""
        return claims.judge(self.results)

    def rows(self, name: str) -> pd.DataFrame:
        """The results in a table; none if the report has nothing for it."""
        if name in MADE or name not in self.tables:
            return self.results.head(0)
        where = self.tables[name].where
        return chosen(self.results, where)

    def table(self, name: str) -> pd.DataFrame:
        """Make a table and save it; it is empty and not saved if the report has nothing for it."""
        if name in MADE:
            table = MADE[name](self)
        else:
            rows = self.rows(name)
            table = pivot(rows, self.tables.get(name))
        if len(table):
            caption = self._caption(name)
            self.saved += save(table, self.profile, name, caption)
        return table

    def show(self, name: str) -> None:
        """Display a table and what it comes to, or that the report has nothing for it."""
        table = self.table(name)
        if table.empty:
            display(NOTHING)
            return
        display(table)
        sentence = conclusion(self.rows(name))
        display(Markdown(sentence))

    def figure(self, name: str) -> Image | Markdown:
        """Draw and save the rows of a table; returns the figure, or that there is none."""
        rows = self.rows(name).dropna(subset="value")
        if rows.empty:
            return NOTHING
        column = self.tables[name].columns[0]
        looks = figures.looks(self.detectors)
        figure = figures.forest(rows, column, looks)
        caption = self._caption(name)
        paths = figures.save(figure, self.profile, name, caption)
        self.saved += paths
        return figures.shown(paths)

    def _caption(self, name: str) -> str:
        lead = self.tables[name].lead
        details = conditions(self.rows(name), self.profile)
        return f"{lead} {details}"


NOTHING = Markdown("*This profile trains nothing for this.*")
# Tables that are no choice of rows.
MADE = {
    "overview": lambda report: overview(report.detectors),
    "claims": lambda report: report.judged,
    "findings": lambda report: findings(report.judged),
    "published": lambda report: published(report.detectors),
}
