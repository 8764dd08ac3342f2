"""The tables of a report: each is a choice of rows of ``results.parquet`` and a pivot of them, as ``tables.yaml`` says.

With the figures they make the page, one HTML file that needs no network. Nothing here computes a metric, runs a network
or reads a dataset, so a table is the same wherever the report lies.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from jinja2 import Template
from pydantic import Field

from dfnb import compare, core, figures, metrics, papers, scores
from dfnb.attribution.measures import FAILS

MANIFEST = Path(__file__).with_suffix(".yaml")
MEAN_MASK = "mean training mask"
SIGNS, TEX = map(str.maketrans, core.read_yaml(MANIFEST)["latex"].values())


class Spec(core.Closed):
    """A table or figure: which rows of the results it holds, and whose values name its rows and columns (``tables.yaml``)."""

    lead: str
    where: dict[str, str] = Field({})  # column to the pattern that its values must match
    index: tuple[str, ...] = ("line",)
    columns: tuple[str, ...] = ("test_set",)
    beside: tuple[str, ...] = ()
    draw: Literal["forest", "roc", "robustness_curves", "deletion_curves"] = "forest"

    def rows(self, results: pd.DataFrame) -> pd.DataFrame:
        """The rows of the :func:`extended` results that the table holds."""
        patterns = core.read_yaml(MANIFEST)["everywhere"] | self.where
        matching = [results[column].str.fullmatch(pattern) for column, pattern in patterns.items()]
        return results[np.logical_and.reduce(matching)]

    def table(self, results: pd.DataFrame) -> pd.DataFrame:
        """The table as texts ``value [low, high]``, its rows and columns in the order of the results."""
        rows = self.rows(results)
        if rows.empty:
            return pd.DataFrame()
        shown = rows.replace({"metric": metrics.LOCALISATION, "condition": {"": "our rule"}})
        shown["test_set"] = compare.named_sets(rows)
        index = shown.set_index(list(self.index)).index
        if not self.columns:
            return _listed(rows).set_index(index)
        shown = shown.assign(column=shown[[*self.columns]].agg(", ".join, axis=1), text=rows.apply(cell, axis=1))
        table = shown.pivot_table("text", list(self.index), "column", aggfunc="last", sort=False)
        beside = shown.groupby(list(self.index))[list(self.beside)].max()
        return table.rename_axis(columns=None).reindex(index.unique()).join(beside).astype(object).fillna("–")


def specs(kind: str) -> dict[str, Spec]:
    """The ``tables``, the tables of ``groups`` by their endings, or the ``figures`` of ``tables.yaml``."""
    return {name: Spec.check(values, f"tables.yaml, {name}") for name, values in core.read_yaml(MANIFEST)[kind].items()}


def cell(row: Mapping[str, Any]) -> str:
    """A row's value with its interval; that it was refused, or a dash, where it has none."""
    if np.isnan(row["value"]):
        return "refused" if row["refused"] else "–"
    return metrics.interval(row["value"], row["low"], row["high"], "+" if row["minus"] else "")


def _listed(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences, one per row, with p and a verdict."""
    table = pd.DataFrame({"difference": rows.apply(cell, axis=1).to_numpy()})
    table["over videos"] = [f"[{low:+.3f}, {high:+.3f}]" for low, high in zip(rows["low_videos"], rows["high_videos"])]
    table["p"], table["p, Holm"] = metrics.p_texts(rows["p"]), metrics.p_texts(metrics.holm(rows["p"].to_numpy()))
    table["verdict"] = np.select([rows["low"] > 0, rows["high"] < 0], ["above zero", "below zero"], "undecided")
    return table.join(rows[["seeds", "collapsed", "n", "clusters"]].convert_dtypes().reset_index(drop=True))


def extended(results: pd.DataFrame) -> pd.DataFrame:
    """The results with what tables need besides: ``home``, ``map``, the ``verdict`` of its sanity test, published AUC.

    A map's verdict is of its own rank correlations alone: a difference of two lines is none.

    The columns ``constant iou``, ... become rows of the line MEAN_MASK, which all lines share that were trained on the same
    forgeries, and their maps.
    """
    constant = results[results["metric"].str.startswith("constant ")]
    renamed = {"metric": {"^constant ": ""}, "condition": {"^map .*": "map none"}}
    constant = constant.replace(renamed, regex=True).assign(line=MEAN_MASK, collapsed="")
    same = ["value", *(name for name in compare.KEYS if name not in ("paper", "group", "arm"))]
    constant = constant.sort_values("group", kind="stable").drop_duplicates(same)
    results = pd.concat([results[~results["metric"].str.startswith("constant ")], constant], ignore_index=True)
    further = {"map": results["condition"].str.partition(" ")[2], "left chance": results["left_chance"].astype("Int64")}
    further["seeds"] = results["seeds"].astype("Int64")  # refused rows have none
    results = results.assign(home=np.where(results["test_set"] == results["train_set"], "yes", "no"), **further)
    tested = results[
        results["condition"].str.startswith("sanity ") & (results["method"] == "all") & (results["minus"] == "")
    ]
    tested = tested.assign(fails=tested["value"] >= tested["metric"].map(FAILS).astype(float))
    verdicts = tested.groupby(["line", "map"])["fails"].any().map({True: "fails", False: "passes"}).rename("verdict")
    return compare.with_published(results.join(verdicts, on=["line", "map"]).fillna({"verdict": ""}))


def groups(results: pd.DataFrame, lines: Iterable[scores.Line]) -> dict[str, Spec]:
    """The tables of all groups of arms in the results, ``<paper>_<group>…``, of the paper that has most arms in the group.

    Groups that ``tables.yaml`` names have none. Tables by method are of groups whose arms saw some methods only.
    """
    found, named = {}, {spec.where.get("group", ".*") for spec in specs("tables").values()} - {".*"}
    partial = {line.group for line in lines if line.runs and line.runs[0].parameters["seen_methods"]}
    for group, rows in results.groupby("group", sort=False):
        if not group or any(re.fullmatch(pattern, group) for pattern in named):
            continue
        paper = rows.drop_duplicates("line")["paper"].mode()[0]
        shown = {"group": {"", group}, "test_set": {*rows["test_set"]}, "train_set": {*rows["train_set"]}}
        shown["line"] = {*rows["line"], *rows["minus"], MEAN_MASK} - {""}
        alone = {column: "|".join(map(re.escape, sorted(names))) for column, names in shown.items()}
        for ending, spec in specs("groups").items():
            if group in partial or not ending.startswith("_by_method"):
                lead = f"{papers.module(paper).PAPER.title}, {group}. {spec.lead}"
                where = ({"group": re.escape(group)} if "minus" in spec.where else alone) | spec.where
                name = re.sub("[^a-z0-9]+", "_", f"{paper}_{group}".lower()).strip("_") + ending
                found[name] = spec.model_copy(update={"lead": lead, "where": where})
    return found


def _overview(book: "Book") -> pd.DataFrame:
    """One row per run: what it started from, on how much, and which epoch was chosen."""
    rows = {}
    for line in book.report.lines():
        for run in line.runs:
            record, chosen = run.record, run.record["chosen"]
            row = {"start": f"{run.settings.backbone} from {record['weights_from']}"}
            row |= {"chosen epoch": f"{chosen['epoch']} of {len(run.log)}", "validation AUC": f"{chosen['auc']:.3f}"}
            row |= {"frames of the split": record["n"]["train"], "images seen": record["images_seen"]}
            rows[line.name, run.parameters["seed"]] = row  # no times: a run that was interrupted gives the same table
    return pd.DataFrame(rows).T.rename_axis(["line", "seed"])


def findings(judged: pd.DataFrame) -> pd.DataFrame:
    """What a paper's claims came to, from the table of claims: how many were tested and decided, and a sentence per verdict."""
    tested = judged.assign(more=judged.get("to decide", "–"))[judged["p"] != "–"].reset_index()
    if tested.empty:
        return pd.DataFrame()
    more = tested["more"].str.replace("^(?!–$)", "; would take ", regex=True).str.strip("–")
    tested["text"] = tested["claim"].str.rstrip(".") + " (" + tested["on"] + ": " + tested["ours"] + more + ")"
    tested["decided"] = ~tested["verdict"].str.startswith("undecided")
    counts = tested.groupby("paper", sort=False)["decided"].agg(tested="size", decided="sum")
    alike = tested.groupby(["paper", "verdict"], sort=False)["text"].agg("; ".join).reset_index("verdict")
    sentences = alike["verdict"].str.capitalize() + ": " + alike["text"] + "."
    return counts.assign(findings=sentences.groupby("paper").agg("\n".join))


def found(paper: str) -> Markdown:
    """What the committed study says of a paper's claims, a paragraph per verdict, from its ``results.parquet`` alone."""
    path = core.find("reports/study") / "results.parquet"
    told = findings(compare.judge(extended(core.read_table(path)))) if path.exists() else pd.DataFrame()
    if paper not in told.index:
        return Markdown("*This checkout does not hold the study's results; `dfnb run study` makes them.*")
    row = told.loc[paper]
    head = f"*From the study (`dfnb run study`): {row['decided']} of {row['tested']} tested claims are decided.*"
    return Markdown("\n\n".join([head, *row["findings"].split("\n")]))


# Tables of ``tables.yaml`` that are no pivot of the results.
MADE: dict[str, Callable[["Book"], pd.DataFrame]] = {"overview": _overview, "claims": lambda book: book.judged}
MADE |= {"findings": lambda book: findings(book.judged), "published": lambda _: compare.published().set_index("paper")}


def conclusion(rows: pd.DataFrame) -> str:
    """What these results come to: how many differences are decided, or which line is highest and lowest, of their first metric.

    Lines are ranked on one test set, on which all have a value: the mean ``away``, if it is over the same sets for all, else
    the first that they were not trained on.
    """
    if rows["minus"].all():
        above, below = (rows["low"] > 0).sum(), (rows["high"] < 0).sum()
        return f"Differences: {above} above zero, {below} below, {len(rows) - above - below} undecided."
    gain = "gain in pixel AP"  # over the mean training mask: of localisation the number that says something
    metric = gain if gain in set(rows["metric"]) else rows["metric"].iloc[0]
    rows, named = rows[rows["metric"] == metric].sort_values("value", kind="stable"), []
    columns, sets = rows["line"].nunique(), rows.groupby("test_set", sort=False)[["line", "mean_over"]].nunique()
    common = sets.index[(sets["line"] == columns) & (sets["mean_over"] == 1)]
    home = rows.loc[rows["test_set"] == rows["train_set"], "test_set"]
    common = sorted(common, key=lambda name: (name != compare.AWAY, name in {*home}))
    if not common:
        return f"{metrics.LOCALISATION.get(metric, metric)}: these lines share no test set, so none is highest."
    ranked = rows[rows["test_set"] == common[0]]
    for word, row in (("highest", ranked.iloc[-1]), ("lowest", ranked.iloc[0])):
        where = row[["line", "test_set", "method", "condition"]].replace("all", "")
        named.append(f"{word} for {', '.join(filter(None, where))} ({cell(row)})")
    return f"{metrics.LOCALISATION.get(metric, metric)}: {'; '.join(named)}."


def conditions(rows: pd.DataFrame, profile: str) -> str:
    """The sentences under a table or figure of these results: training, n, intervals, data, rule, weights and command."""
    sound = rows[rows["refused"] == ""]
    facts = {"rows": sound, "refused": rows["refused"].unique(), "profile": profile, "metrics": metrics}
    of_sets = sound[sound["test_set"] != compare.AWAY].groupby(["test_set", "level"], sort=False)
    facts["tests"] = [found.sort_values("n", na_position="first").iloc[-1].to_dict() for _, found in of_sets]
    facts["away"] = sorted(set(sound.loc[sound["test_set"] == compare.AWAY, "mean_over"]))
    facts["seeds"] = sorted({int(seed) for text in sound["seeds_list"] for seed in text.split(", ") if seed})
    auc = sound[(sound["metric"] == "AUC") & (sound["minus"] == "")]
    facts["chance"] = len(auc) and ((auc["low"] <= 0.5) & (auc["high"] >= 0.5)).all()
    collapsed = sound[sound["collapsed"].str.match("[1-9]")].drop_duplicates(["line", "minus", "collapsed"])
    facts["collapsed"] = collapsed.to_dict("records")
    return Template(core.read_yaml(MANIFEST)["conditions"]).render(facts)


def save(table: pd.DataFrame, profile: str, name: str, caption: str) -> list[Path]:
    """Save a table as CSV (plain), Markdown and LaTeX (booktabs; needs graphicx) with the caption, and the caption alone."""
    plain = table.reset_index() if any(table.index.names) else table.rename_axis("").reset_index()
    plain.columns = [", ".join(column) if isinstance(column, tuple) else str(column) for column in plain]
    plain = plain.astype(object).where(plain.notna(), "–").astype(str)
    marked = plain.rename(columns=_markdown).map(_markdown).to_markdown(index=False, disable_numparse=True)
    tex = plain.to_latex(index=False, escape=True, caption=caption.translate(SIGNS), label=f"tab:{name}").translate(TEX)
    tex = re.sub(r"\\begin{tabular}.*\\end{tabular}", r"\\resizebox{\\linewidth}{!}{\g<0>}", tex, flags=re.DOTALL)
    texts = {"csv": core.csv(plain), "md": f"{marked}\n\n{caption}\n", "tex": tex, "txt": f"{caption}\n"}
    folder = scores.report_folder(profile) / "tables"
    return [core.write_bytes(folder / f"{name}.{suffix}", text.encode()) for suffix, text in texts.items()]


def _markdown(text: str) -> str:
    return re.sub(r"(\||<(?=[\w/!?]))", r"\\\1", text).replace("\n", " ")


def deviations(run: papers.Run) -> pd.DataFrame:
    """The settings of a run that differ from the published ones, which are the defaults of the paper's ``Settings``."""
    used, defaults = run.settings.model_dump(), papers.module(run.parameters["paper"]).Settings().model_dump()
    table = pd.DataFrame({"published": defaults, "this run": used}, dtype=object).map(str).rename_axis("setting")
    table.loc["initial weights"] = ["ImageNet", run.record["weights_from"]]
    return table[table["published"] != table["this run"]]


class Book:
    """The tables and figures of a report, made from its store alone.

    Attributes:
        judged: the claims, each on every dataset it names, with its verdict.
        saved: the files written so far.
    """

    judged = cached_property(lambda self: compare.judge(self.results))  # seconds, and most notebooks show no claim

    def __init__(self, profile: str) -> None:
        self.profile, self.saved = profile, []
        self.report = scores.Report(profile)
        self.results = extended(compare.results(self.report))
        of_groups = groups(self.results, self.report.lines())
        self.tables = specs("tables") | of_groups
        self.figures = specs("figures") | {name: of_groups[name] for name in of_groups if f"{name}_maps" in of_groups}

    def table(self, name: str) -> pd.DataFrame:
        """Make a table and save it; where the report holds nothing for it, it is empty and not saved."""
        spec = _known(name, self.tables)
        table = MADE[name](self) if name in MADE else spec.table(self.results)
        if len(table):
            self.saved += save(table, self.profile, name, self._caption(spec))
        return table

    def show(self, name: str) -> None:
        """Display a table and, under it, what it comes to; nothing where the report holds nothing for it."""
        table, lines = self.table(name), self.results[self.results["line"] != MEAN_MASK]
        if len(table):
            rows = _known(name, self.tables).rows(lines).dropna(subset="value")
            unbroken = table.replace(r" (?=[\[+\-\d])", "\u00a0", regex=True)  # an interval stays on one line
            display(unbroken, *[Markdown(conclusion(rows))] if len(rows) else [])

    def figure(self, name: str) -> Image | None:
        """Draw and save a figure: the picture with its caption as alternative text; None where there is nothing to draw."""
        spec = _known(name, self.figures)
        rows = spec.rows(self.results).dropna(subset="value")
        figure = getattr(figures, spec.draw)(rows, figures.looks(self.results), self.report) if len(rows) else None
        if figure is None:
            return None
        self.saved += figures.save(figure, self.profile, name, self._caption(spec))
        return figures.described(self.saved[-3:])

    def _caption(self, spec: Spec) -> str:
        return f"{spec.lead} {conditions(spec.rows(self.results), self.profile)}"


def _known(name: str, known: dict[str, Spec]) -> Spec:
    """A specification by name; one that nothing fits for a group of arms that this report does not hold."""
    if name not in known and not name.startswith(tuple(papers.names())):
        raise core.DfnbError(f"there is no table or figure {name!r}; there are {', '.join(known)}")
    return known.get(name, Spec(lead="", where={"line": ""}))
