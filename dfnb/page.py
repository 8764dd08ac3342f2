"""The page of a report: four answers, the leaderboard and the claims at its head, all else folded by section.

Every sentence is made from ``results.parquet`` and the verdicts. The page is one HTML file that needs no network.
"""

import csv
import io
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, FileSystemLoader

from dfnb import compare, core, figures, metrics, papers
from dfnb.scores import report_folder
from dfnb.tables import MANIFEST, Book

Card = dict[str, str]  # verdict (a class of the page's style), sentence, number, picture (the source of an image)


def ranked(book: Book, test_set: str) -> pd.DataFrame:
    """The main lines on a test set or ``away``, best first.

    ``against``: the row of the difference between the best line and this one, either way round, None if there is none;
    ``tied``: whether its interval holds zero.
    """
    rows, pairs = (
        book.tables[name].rows(book.results).dropna(subset="value") for name in ("cross_dataset", "differences")
    )
    rows = rows[rows["test_set"] == test_set].sort_values("value", ascending=False, kind="stable")
    of_lines = {
        frozenset((row["line"], row["minus"])): row for _, row in pairs[pairs["test_set"] == test_set].iterrows()
    }
    against = [of_lines.get(frozenset((rows["line"].iloc[0], line))) for line in rows["line"]]
    tied = [row is None or row["low"] <= 0 <= row["high"] for row in against]
    return rows.assign(against=pd.Series(against, rows.index, dtype=object), tied=tied)


def cards(book: Book) -> dict[str, Card]:
    """What this report answers to the four questions of the page's head; a question that it does not answer is missing."""
    lines, found = ranked(book, compare.AWAY), {}
    if lines.empty:
        return found
    best, tied = lines.iloc[0], list(lines["line"][1:][lines["tied"][1:]])
    rest = f", but {' and '.join(tied)} cannot be told apart from it" if tied else "; all others are worse"
    sentence = f"{best['line']} has the highest mean video AUC on datasets it was not trained on{rest}."
    found["best"] = _card(best, best["seeds"] > 1 and not tied, sentence, _picture(lines, book))
    if len(lines) > 1 and (pair := lines["against"].iloc[1]) is not None:
        several = pair["seeds"] > 1
        over = f"videos and {pair['seeds']} seeds" if several else "videos alone: another seed may reverse it"
        sentence = (
            f"{pair['line']} minus {pair['minus']}, the two best, on the same videos. The interval is over {over}."
        )
        found["sure"] = _card(pair, several and not lines["tied"].iloc[1], sentence, _picture(pair.to_frame().T, book))
    return found | _of_maps(book, best["line"])


def _of_maps(book: Book, line: str) -> dict[str, Card]:
    """Where a detector looks at home, by the map that has most of its weight on the forgery; which maps are to be believed."""
    rows, found = book.tables["attribution"].rows(book.results).dropna(subset="value"), {}
    rows = rows[(rows["line"] == line) & (rows["home"] == "yes")]
    energy, chance = (rows[rows["metric"] == metric].set_index("map") for metric in ("energy", "chance"))
    if energy.empty:
        return found
    top = energy.loc[energy["value"].idxmax()]
    blind = chance.loc[top.name, "value"]
    sentence = (
        f"So much of the weight of {line}'s map ({top.name}) lies on forged pixels; by chance it would be {blind:.3f}."
    )
    path = report_folder(book.profile) / "figures" / f"attribution_{core.slug(line)}.png"
    found["looks"] = _card(top, top["low"] > blind, sentence, f"figures/{path.name}" if path.exists() else "")
    tested = energy[energy["verdict"] != ""]
    passing = list(tested.index[tested["verdict"] == "passes"])
    if len(tested):
        sentence = f"Maps of {line} that change when its layers are made random: {', '.join(passing) or 'none'}."
        verdict = {0: "worse", len(tested): "supported"}.get(len(passing), "undecided")
        found["believed"] = {
            "verdict": verdict,
            "sentence": sentence,
            "number": f"{len(passing)} of {len(tested)} maps",
        }
    return found


def _card(row: pd.Series, decided: bool, sentence: str, picture: str) -> Card:
    return {
        "verdict": "supported" if decided else "undecided",
        "sentence": sentence,
        "number": _number(row),
        "picture": picture,
    }


def _number(row: Any) -> str:
    return metrics.interval(row["value"], row["low"], row["high"], "+" if row["minus"] else "")


def _picture(rows: pd.DataFrame, book: Book) -> str:
    """A small picture of these rows, within the page."""
    content = io.BytesIO()
    figures.strip(rows, figures.looks(book.results)).savefig(
        content, format="png", dpi=110, metadata={"Software": None}
    )
    plt.close("all")
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def leaderboard(book: Book) -> dict[str, dict[str, dict[str, Any]]]:
    """Per main line and test set, ``away`` first: text, value to sort by, and whether it is the best or tied with it."""
    rows = book.tables["cross_dataset"].rows(book.results).dropna(subset="value")
    found: dict[str, dict[str, dict[str, Any]]] = {line: {} for line in rows["line"].unique()}
    for test_set in sorted(rows["test_set"].unique(), key=lambda name: name != compare.AWAY):
        for row in ranked(book, test_set).to_dict("records"):
            found[row["line"]][test_set] = {"text": _number(row), "value": row["value"], "best": row["tied"]}
    return found


def grid(book: Book) -> dict[tuple[str, str], list[Card]]:
    """Per paper and claim that could be tested: on which dataset, with which verdict, and the numbers behind it."""
    found: dict[tuple[str, str], list[Card]] = {}
    for (paper, claim, test_set), row in book.judged.iterrows():
        if not row["verdict"].startswith("not "):  # not testable here, or a number that is only shown
            title = papers.module(paper).PAPER.title if paper in papers.names() else paper
            numbers = "; ".join(f"{name}: {value}" for name, value in row.drop("verdict").items() if value != "–")
            cell = {"on": test_set, "verdict": row["verdict"], "numbers": numbers}
            found.setdefault((title, claim), []).append(cell)
    return found


def sections(profile: str, order: Sequence[str]) -> list[dict[str, Any]]:
    """The tables and figures in the report's folders, with their captions, by the sections of ``tables.yaml``."""
    report, places, found = report_folder(profile), {name: place for place, name in enumerate(dict.fromkeys(order))}, []
    for path in sorted(
        [*(report / "tables").glob("*.txt"), *(report / "figures").glob("*.txt")], key=lambda path: path.stem
    ):
        cells = path.with_suffix(".csv").read_text(encoding="utf-8") if path.parent.name == "tables" else ""
        item = {"folder": path.parent.name, "name": path.stem, "caption": path.read_text(encoding="utf-8")}
        found.append(item | {"rows": list(csv.reader(io.StringIO(cells, newline="")))})
    found.sort(key=lambda item: places.get(item["name"], len(places)))
    result = []
    for title, section in core.read_yaml(MANIFEST)["sections"].items():
        inside = [item for item in found if re.fullmatch(section["names"], item["name"])]
        found = [item for item in found if item not in inside]
        result.append({"title": title, "notebook": section["notebook"], "items": inside})
    return result


def rebuild(profile: str) -> Path:
    """Make every table and figure of a report and its page again from its store, with the same bytes; returns the page."""
    figures.style()
    book, report = Book(profile), report_folder(profile)
    for name in book.tables:
        book.table(name)
    for name in book.figures:
        book.figure(name)
    caption = report / "tables" / "cross_dataset.txt"
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    content = environment.get_template("page.html.jinja").render(
        profile=profile,
        cards=cards(book),
        board=leaderboard(book),
        caption=caption.read_text(encoding="utf-8") if caption.exists() else "",
        claims=grid(book),
        sections=sections(profile, [*book.tables, *book.figures]),
        notebooks=[path.stem for path in sorted((report / "notebooks").glob("*.ipynb"))],
    )
    return core.write_text(report / "index.html", content)
