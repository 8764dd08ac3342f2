"""The tables and figures of a report. Each shows some rows of the results, see ``tables.yaml``.

Nothing here computes a metric, runs a network or reads a dataset: a report's own files are enough
to make its tables again on any machine.
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
from dfnb.runs import Run
from dfnb.settings import Closed, read_yaml
from dfnb.statistics import holm
from dfnb.store import Detector

# Columns of dfnb.claims.judge: a verdict follows from one p, such as "worse" from "p worse, Holm".
FINDINGS = ["ours", "verdict", "p, Holm", "p worse, Holm", "p small, Holm"]
MANIFEST = Path(__file__).with_suffix(".yaml")
DECLARED = read_yaml(MANIFEST)  # its head explains the keys


# ---------------------------------------------------------------- what is declared


class Spec(Closed):
    """A table, and its figure if it has one; the head of ``tables.yaml`` explains the fields."""

    notebook: str
    lead: str
    where: dict[str, Any] = Field({})
    index: list[str] = Field(["detector"])
    columns: list[str] = Field(["test_set"])
    beside: list[str] = Field([])
    csv_only: list[str] = Field([])
    draw: list[str] = Field([])


def declared(table: pd.DataFrame, detectors: Sequence[Detector]) -> dict[str, Spec]:
    """All tables by name: those of ``tables.yaml``, and those of its templates.

    The tables of an ablation are named ``<paper>_<ablation><ending>``, that of all variants of a
    paper ``<paper>_variants``.

    Args:
        table: The :func:`extended` results.
        detectors: All detectors of the report.

    Raises :class:`DfnbError` for a declaration with wrong fields.
    """
    entries = {}  # by the table's name: the fields of its Spec, which are checked at the end
    for notebook, tables in DECLARED["tables"].items():
        for name, values in tables.items():
            entries[name] = {**values, "notebook": notebook}
    for detector in detectors:
        # "": a main detector or another tool. MAIN is the variant with which the others of its
        # ablation are compared: their entries show it, too.
        if detector.variant in ("", results.MAIN):
            continue
        # All variants of an ablation write the same entries, under the same names.
        rows = table.query("paper == @detector.paper and ablation == @detector.ablation")
        where = {
            # "" adds the main detector, with which variants are compared if there is no MAIN.
            "ablation": ["", detector.ablation],
            # Only the variants, the detectors that are subtracted, and the variants' test sets.
            "detector": [*rows["detector"], *rows["minus"]],
            "test_set": list(rows["test_set"]),
        }
        run = detector.runs[0]
        variants = DECLARED["variants"]
        entries[f"{detector.paper}_variants"] = {
            **variants,
            "notebook": run.record.detector.notebook,
            "where": {**variants["where"], "paper": detector.paper},
        }
        prefix = slug(f"{detector.paper} {detector.ablation}").replace("-", "_")
        for ending, values in DECLARED["ablations"].items():  # ending of the table's name -> fields
            if "by_method" in ending and not run.parameters.seen_methods:
                continue  # the training saw all methods: none of them is unseen
            entries[prefix + ending] = {
                **values,
                "notebook": run.record.detector.notebook,
                "lead": f"{run.record.detector.title}, {detector.ablation}. {values['lead']}",
                "where": {**where, **values.get("where", {})},
            }
    return {name: Spec.check(entry, MANIFEST) for name, entry in entries.items()}


# ---------------------------------------------------------------- the rows


def extended(table: pd.DataFrame) -> pd.DataFrame:
    """The results with further columns for the tables.

    - ``verdict``: whether the map of the row "passes" or "fails" its sanity check, which tests
      whether the map changes with the network's weights; empty if there was no check;
    - ``place``: what a table across datasets calls the test set. It is "across" for a cross-dataset
      mean; "within" for a test set like the one trained on; empty for a test set that enters the
      mean, because the mean stands for it; else the name of the test set. Other tools have no mean,
      so their rows have the name;
    - ``contrast``: the detector, without its paper, and what is subtracted;
    - the columns of the published AUC, see :func:`dfnb.claims.with_published`.
    """
    verdict_by_map = _sanity_verdicts(table)
    table = table.join(verdict_by_map, on=["detector", "map"])
    table = table.fillna({"verdict": ""})
    # mean_over lists test sets as "a, b": joined and divided again, the test sets of all means.
    averaged = ", ".join(table["mean_over"].unique()).split(", ")
    kinds = [  # np.select takes the first that is true
        table["mean_over"] != "",
        table["within"],
        table["test_set"].isin(averaged) & (table["train_set"] != ""),
    ]
    table["place"] = np.select(kinds, ["across", "within", ""], table["test_set"])
    # "LAE, face swap: 0 %" without "LAE, ", because a table of variants has one paper.
    variant = table["detector"].str.replace("^[^,]+, ", "", regex=True)
    table["contrast"] = variant + " − " + table["minus"]
    return claims.with_published(table)


def _sanity_verdicts(table: pd.DataFrame) -> pd.Series:
    """Whether a map "passes" or "fails" its sanity check, indexed by detector and map.

    A map fails if a measure reaches its limit on any test set. The limits are for the measures of
    one detector; differences of two detectors are left out.
    """
    tested = table.query("sanity and minus == '' and not collapsed_included")
    tested = tested.dropna(subset="value")
    # Older reports have further measures. These have no limit: NaN, which no value reaches.
    limits = tested["metric"].map(metrics.SANITY_LIMITS).astype(float)
    tested["verdict"] = np.where(tested["value"] >= limits, "fails", "passes")
    # One "fails" decides, because it sorts before "passes".
    return tested.groupby(["detector", "map"])["verdict"].min()


def chosen(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the :func:`extended` results with the values that ``where`` allows.

    The head of ``tables.yaml`` explains ``where``.
    """
    keep = np.full(len(table), True)  # (rows,) bool
    where = {**DECLARED["everywhere"], **where}  # column -> value, values, "some" or "any"
    for column, allowed in where.items():
        if allowed == "some":
            keep &= table[column] != ""
        elif allowed != "any":
            values = np.atleast_1d(allowed)  # one value, or a list, as a list
            keep &= table[column].isin(values)
    return table[keep].copy()


# ---------------------------------------------------------------- rows as a table


def cell(row: Mapping[str, Any]) -> str:
    """A row's value with its interval, as text that no line break divides; "–" without a value."""
    if np.isnan(row["value"]):
        return "–"
    text = metrics.interval_text(
        row["value"],
        row["low"],
        row["high"],
        sign="+" if row["minus"] else "",  # a difference shows its sign
    )
    return text.replace(" ", "\u00a0")


def pivot(rows: pd.DataFrame, spec: Spec) -> pd.DataFrame:
    """Rows of the :func:`extended` results as a table of texts ``value [low, high]``.

    ``spec.index`` names the lines and ``spec.columns`` the columns; both are in the order of the
    results. Without ``spec.columns`` the rows are differences, and the table is a list of them.
    """
    if rows.empty:  # then ``spec`` may be None, see Report.table
        return pd.DataFrame()
    # Measures get their titles, by regex: a name is also part of a longer one, as "constant iou".
    rows = rows.replace({"metric": metrics.LOCALISATION}, regex=True)
    rows["text"] = rows.apply(cell, axis=1)
    if not spec.columns:
        return _list_of_differences(rows.set_index(spec.index))
    rows["column"] = rows[spec.columns].agg(", ".join, axis=1)
    # Rows of one cell are equal, so "last" changes nothing. DataFrame.pivot would sort the names.
    table = rows.pivot_table("text", spec.index, "column", aggfunc="last", sort=False)
    # The rows of a line may differ in these columns, such as ``collapsed``; the largest is shown,
    # of texts the last by alphabet.
    beside = rows.groupby(spec.index)[spec.beside].max()
    table = table.join(beside.convert_dtypes())  # whole numbers as such, not as 3.0
    table = table.astype(object).fillna("–")
    return table.rename_axis(columns=None)


def _list_of_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """One difference per row as text, with its p value, p after Holm's correction, and a verdict.

    ``rows`` have the lines' names as the index, and ``text``, the value with its interval. Holm's
    correction is for the number of rows. The last column is ``seeds``, the number of seeds.
    """
    p = rows["p"].to_numpy()
    columns = {
        "difference": rows["text"],
        "p": metrics.p_texts(p),
        "p, Holm": metrics.p_texts(holm(p)),
        "verdict": verdicts(rows),
    }
    return rows.assign(**columns)[[*columns, "seeds"]].convert_dtypes()


def verdicts(differences: pd.DataFrame) -> pd.Series:
    """Whether the interval of each difference is "above zero" or "below zero"; else "undecided".

    Differences without an interval (NaN) are undecided, too.
    """
    is_decided = [differences["low"] > 0, differences["high"] < 0]
    verdict = np.select(is_decided, ["above zero", "below zero"], "undecided")
    return pd.Series(verdict, differences.index)


# ---------------------------------------------------------------- captions


def provenance(rows: pd.DataFrame, profile: str) -> str:
    """How the numbers of these rows were made, in sentences for a caption."""
    has_collapsed = rows["collapsed"].str.match("[1-9]")  # as "1 of 5", not "0 of 5"
    # As "5 of 5": \1 is the first number again.
    all_collapsed = has_collapsed & rows["collapsed"].str.fullmatch(r"(\d+) of \1")
    collapsed = rows["collapsed"] + " of " + rows["detector"]
    texts_by_name = {
        "Trained on": rows["train_set"],
        "Seeds": rows["seeds_list"],
        "Checkpoint": rows["rule"],
        "Backbone and input": (rows["backbone"] + " " + rows["image_size"]).str.strip(),
        "Started from": rows["weights_from"],
        "Tested on": _test_sets(rows),
        "Cross-dataset mean": rows["mean_over"],
        "Collapsed runs, left out": collapsed[has_collapsed & ~all_collapsed],
        "All runs collapsed, and are shown": rows["detector"][all_collapsed],
        "Refused": rows["refused"],
    }
    sentences = []
    for name, texts in texts_by_name.items():
        distinct = sorted(set(texts) - {""})
        if distinct:
            sentences.append(f"{name}: {'; '.join(distinct)}.")
    sentences.append("A video's score is the mean over its frames.")
    sentences.append(
        "Intervals: 95 %, over clusters of videos and, of several seeds, over seeds; those of a "
        "mean over three or more test sets also over test sets."
    )
    sentences.append(f"Made again by `dfnb report {profile}`.")
    return " ".join(sentences)


def _test_sets(rows: pd.DataFrame) -> Iterator[str]:
    """Each test set of the rows, at each level, in words for a caption.

    A row of one manipulation method covers a part of a test set only. So the numbers are those of
    the row with most units.
    """
    of_one_set = rows[rows["mean_over"] == ""].dropna(subset="n")  # no n: no number
    most_units_first = of_one_set.sort_values("n", ascending=False)
    largest = most_units_first.drop_duplicates(["test_set", "level"])
    for row in largest.itertuples():
        units = f"{row.n_real:.0f} real and {row.n_fake:.0f} fake {row.level}s"
        clusters = f"{row.clusters:.0f} clusters"
        name = f"{row.test_set} {row.fingerprint[:8]}"
        parts = [name, units, clusters, row.compression]
        if row.frames_per_video > 0:  # not NaN, as of maps
            parts.append(f"{row.frames_per_video:.0f} frames per video on average")
        parts.append(row.crop)
        yield ", ".join(parts)


# ---------------------------------------------------------------- files


def save(
    table: pd.DataFrame,
    profile: str,
    name: str,
    caption: str,
    csv_only: Sequence[str] = (),
) -> list[Path]:
    """Save a table as CSV, Markdown, LaTeX and HTML, and its caption as text; returns the paths.

    ``csv_only`` names columns that only the CSV gets, so that the others fit on a page. The LaTeX
    needs the package booktabs, and LuaLaTeX or XeLaTeX for signs such as −.
    """
    table = table.reset_index().astype(object).fillna("–").astype(str)
    narrow = table.drop(columns=csv_only, errors="ignore")
    markdown = narrow.to_markdown(index=False, disable_numparse=True)  # numbers as they are written
    texts = {
        "csv": table.to_csv(index=False),
        "md": f"{markdown}\n\n{caption}\n",
        "tex": narrow.to_latex(index=False, escape=True),
        "html": narrow.to_html(index=False, border=0),
        "txt": f"{caption}\n",
    }
    folder = report_folder(profile) / "tables"
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        paths.append(write_bytes(path, text.encode()))
    return paths


# ---------------------------------------------------------------- tables of runs and claims


def overview(detectors: Sequence[Detector]) -> pd.DataFrame:
    """One row per run: its initial weights, the version of its paper's file, the chosen epoch, and
    how many images it saw. Other tools have no run, and so no row.

    There are no times, so that a training that was interrupted gives the same table.
    """
    rows = {}
    for detector in detectors:
        for run in detector.runs:
            backbone = run.parameters.settings["backbone"]
            chosen = run.record.chosen
            rows[detector.name, run.seed] = {
                "start": f"{backbone} from {run.record.weights_from}",
                "code": run.parameters.paper_source[:8],
                "chosen epoch": f"{chosen.epoch} of {len(run.log)}",  # a row per epoch
                "validation AUC": f"{chosen.auc:.3f}",
                "images seen": run.record.images_seen,
            }
    table = pd.DataFrame(rows).T
    return table.rename_axis(["detector", "seed"]) if rows else table


def deviations(run: Run) -> pd.DataFrame:
    """The settings of a run that differ from the published ones, one per row, as text.

    Columns: ``published``, the paper's defaults, and ``this run``.
    """
    # The published trainings are taken to start from ImageNet weights.
    settings = {
        "published": {**run.record.detector.defaults, "initial weights": "ImageNet"},
        "this run": {**run.parameters.settings, "initial weights": run.record.weights_from},
    }
    table = pd.DataFrame(settings, dtype=object).map(str)  # a row per setting
    return table[table["published"] != table["this run"]]


def findings(judged: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`dfnb.claims.judge` for the claims that were tested."""
    tested = judged[judged["p"] != "–"]  # without a test there is no p value
    return tested.reindex(columns=FINDINGS)


def study_findings(paper: str) -> pd.DataFrame | Markdown:
    """The verdicts on a paper's claims in the committed report ``study-bed``.

    ``paper`` is the name of its module. Without the report: a sentence that says so.
    """
    path = find("reports/study-bed/results.parquet")
    if not path.exists():
        return Markdown("*The results of the study are not here.*")
    judged = claims.judge(read_table(path), "claims-bed")
    tested = findings(judged)
    return tested.query("paper == @paper").droplevel("paper")


# ---------------------------------------------------------------- a report


class Report:
    """The tables and figures of a report, made from its files alone.

    Attributes:
        profile: The name of its folder in ``reports``.
        store: Its files: scores, test sets and profile.
        detectors: All detectors, in the order in which tables list them.
        results: The :func:`extended` results.
        tables: The declarations of all tables, by name.
        saved: The paths of the tables and figures that this object has saved.
    """

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.store = store.Report(profile)
        self.detectors = self.store.detectors()
        self.results = extended(results.load(profile))
        self.tables = declared(self.results, self.detectors)
        self.saved = []

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The claims, each on every dataset it names, with its verdict.

        A paper has its title, if the report has a detector of it, else the name of its module.
        """
        titles = {}
        for detector in self.detectors:
            for run in detector.runs:
                titles[detector.paper] = run.record.detector.title
        # rename replaces the modules, which are a level of the index.
        return claims.judge(self.results, self.store.claims).rename(titles)

    def rows(self, name: str) -> pd.DataFrame:
        """The results that a table shows; none for one of :data:`MADE` or that is not declared."""
        if name in MADE or name not in self.tables:
            return self.results.head(0)
        where = self.tables[name].where
        return chosen(self.results, where)

    def table(self, name: str) -> pd.DataFrame:
        """Make a table and save it; it is empty and not saved if the report has nothing for it."""
        if name in MADE:
            table = MADE[name](self)
        else:
            # None for a table of an ablation that the report does not have; then it has no rows.
            spec = self.tables.get(name)
            table = pivot(self.rows(name), spec)
        if len(table):
            csv_only = self.tables[name].csv_only
            self.saved += save(table, self.profile, name, self.caption(name), csv_only)
        return table

    def show(self, name: str) -> None:
        """Display a table without what only its CSV has, or :data:`NOTHING` if it is empty."""
        table = self.table(name)
        if len(table):
            table = table.drop(columns=self.tables[name].csv_only, errors="ignore")
        display(NOTHING if table.empty else table)

    def figure(self, name: str) -> Image | Markdown:
        """Draw the values of a table and save the figure; returns it, or :data:`NOTHING`.

        The table must declare ``draw``. Detectors that learned nothing are in the table alone.
        """
        rows = self.rows(name).dropna(subset="value")
        rows = rows[~rows["collapsed"].str.fullmatch(r"(\d+) of \1")]  # not "5 of 5"
        if rows.empty:
            return NOTHING
        rows = rows.query("metric == metric.iloc[0]")  # the table may have several
        # The name of a function of dfnb.figures, and two columns of the results.
        draw, across, down = self.tables[name].draw
        figure = getattr(figures, draw)(rows, across, down)
        paths = figures.save(figure, self.profile, name, self.caption(name))
        self.saved += paths
        return figures.shown(paths)

    def caption(self, name: str) -> str:
        """The text under a table or figure: what it shows, and how its numbers were made."""
        lead = self.tables[name].lead
        return f"{lead} {provenance(self.rows(name), self.profile)}"


NOTHING = Markdown("*This report has nothing to show here.*")
# Tables that are not made by choosing rows of the results: name -> what makes it.
MADE = {
    "overview": lambda report: overview(report.detectors),
    "claims": lambda report: report.judged,
    "findings": lambda report: findings(report.judged),
}
