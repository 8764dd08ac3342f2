"""The page of a report: four answers, the leaderboard and the claims at its head, all else folded by section.

Every sentence is made from ``results.parquet`` and the verdicts. The page is one HTML file that needs no network.
"""

import csv
import io
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, FileSystemLoader

from dfnb import compare, core, figures, papers, scores, tables
from dfnb.attribution import maps


def ranked(book: tables.Book, test_set: str) -> list[dict]:
    """The rows of the main lines on a test set or ``away``, best first.

    ``against``: the row of the difference between the best line and this one, either way round, None if there is none;
    ``tied``: whether its interval holds zero. Means over other sets than those of most lines are left out.
    """
    found = (book.tables[name].rows(book.results).dropna(subset="value") for name in ("cross_dataset", "differences"))
    rows, pairs = (table[table["test_set"] == test_set] for table in found)
    rows = rows[rows["mean_over"].isin(rows["mean_over"].mode()[:1])]
    of_lines = {frozenset((pair["line"], pair["minus"])): pair for pair in pairs.to_dict("records")}
    result = rows.sort_values("value", ascending=False, kind="stable").to_dict("records")
    for row in result:
        pair = of_lines.get(frozenset((result[0]["line"], row["line"])))
        row |= {"against": pair, "tied": pair is None or pair["low"] <= 0 <= pair["high"]}
    return result


def looks_at(book: tables.Book, line: str) -> dict:
    """Of a detector's maps that passed their sanity test the one with most of its weight on the forgery at home.

    Its energy, that by chance, that of the mean training mask (NaN where it is not known), and a picture; and the
    ``verdicts`` of all maps of the detector that were tested. Placebos are no maps of it. ``map`` is empty where none passed;
    all is where none was measured.
    """
    rows = book.tables["attribution"].rows(book.results).dropna(subset="value").query("home == 'yes'")
    constant = rows[(rows["line"] == tables.MEAN_MASK) & (rows["metric"] == "energy")]
    rows = rows[(rows["line"] == line) & ~rows["map"].isin(maps.CONTROLS)]
    energy, chance = (rows[rows["metric"] == metric].set_index("map") for metric in ("energy", "chance"))
    if energy.empty:
        return {}
    found = {"line": line, "map": "", "verdicts": energy.loc[energy["verdict"] != "", "verdict"].to_dict()}
    passed = energy[energy["verdict"] == "passes"]
    if passed.empty:
        return found
    best, picture = passed["value"].idxmax(), f"figures/attribution_{core.slug(line)}.png"
    constant = constant.loc[constant["test_set"] == passed.loc[best, "test_set"], "value"]
    found |= {"map": best, "energy": passed.loc[best].to_dict(), "chance": chance.loc[best, "value"]}
    found["mean_mask"] = constant.iloc[0] if len(constant) else float("nan")
    return found | {"picture": picture if (scores.report_folder(book.profile) / picture).exists() else ""}


def picture(rows: Sequence[Mapping], book: tables.Book) -> str:
    """A small picture of these rows, for the page itself."""
    content, figure = io.BytesIO(), figures.strip(pd.DataFrame(rows), figures.looks(book.results))
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def verdicts(book: tables.Book) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Per paper and claim that could be tested the rows of the table of claims, one per dataset."""
    judged = book.judged[~book.judged["verdict"].str.startswith("not ")].reset_index()  # testable, judged
    titles = {name: papers.module(name).PAPER.title for name in papers.names()}
    groups = judged.replace({"paper": titles}).groupby(["paper", "claim"], sort=False)
    return {claim: rows.to_dict("records") for claim, rows in groups}


def corrected(book: tables.Book) -> str:
    """What Holm's correction leaves of the verdicts ``supported`` on claims of papers; empty where there is none."""
    family = book.judged[book.judged["verdict"].str.startswith("supported") & (book.judged["p, Holm"] != "–")]
    kept = (family["p, Holm"].str.strip("< ").astype(float) < 0.05).sum()
    return (
        f"Of {len(family)} supported claims of papers {kept} keep p < .05 after Holm's correction."
        if len(family)
        else ""
    )


def sections(profile: str, order: Sequence[str]) -> dict[str, dict]:
    """The tables and figures in the report's folders, with their captions, by the sections of ``tables.yaml``.

    Those named in ``order`` come first.
    """
    paths, found = sorted(scores.report_folder(profile).glob("[tf]*/*.txt"), key=lambda path: path.stem), []
    for path in sorted(paths, key=lambda path: [*order, path.stem].index(path.stem)):
        cells = path.with_suffix(".csv").read_text(encoding="utf-8") if path.parent.name == "tables" else ""
        item = {"folder": path.parent.name, "name": path.stem, "caption": path.read_text(encoding="utf-8")}
        found.append(item | {"rows": list(csv.reader(io.StringIO(cells, newline="")))})
    result = core.read_yaml(tables.MANIFEST)["sections"]
    for section in result.values():
        section["items"] = [item for item in found if re.fullmatch(section["names"], item["name"])]
        found = [item for item in found if item not in section["items"]]
    return result


def rebuild(profile: str) -> Path:
    """Make every table and figure of a report and its page again from its store, with the same bytes; returns the page."""
    figures.style()
    book, report = tables.Book(profile), scores.report_folder(profile)
    for make, names in ((book.table, book.tables), (book.figure, book.figures)):
        for name in names:
            make(name)
    rows = book.tables["cross_dataset"].rows(book.results).dropna(subset="value")
    test_sets = sorted(rows["test_set"].unique(), key=lambda name: name != compare.AWAY)
    board, caption = {name: ranked(book, name) for name in test_sets}, report / "tables" / "cross_dataset.txt"
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters |= {"number": tables.cell, "picture": lambda rows: picture(rows, book)}
    facts = {"profile": profile, "lines": rows["line"].unique(), "board": board, "claims": verdicts(book)}
    facts["corrected"] = corrected(book)
    facts["looks"] = looks_at(book, board[compare.AWAY][0]["line"]) if compare.AWAY in board else {}
    facts["caption"] = caption.read_text(encoding="utf-8") if caption.exists() else ""
    facts["sections"] = sections(profile, [*book.tables, *book.figures])
    facts["notebooks"] = [path.stem for path in sorted((report / "notebooks").glob("*.ipynb"))]
    return core.write_bytes(report / "index.html", environment.get_template("page.html.jinja").render(facts).encode())
