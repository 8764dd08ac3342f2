"""The page of a report: four answers, the leaderboard and the claims, then every table and figure.

Every sentence is made from the results and the verdicts. The page is one HTML file that needs no
network; it links to the report's notebooks, its tables as Markdown, and its figures.
"""

import io
from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, FileSystemLoader

from dfnb import figures, tables
from dfnb.files import slug, write_bytes
from dfnb.metrics import PLACEBOS

QUESTIONS = ("Which detector generalises best?", "Where does it look?")
OTHERS = "other_notebooks"  # whose tables and figures tables.yaml does not declare
Row = dict[str, Any]  # of the results


class Card(NamedTuple):
    """An answer at the head of the page."""

    question: str
    verdict: str = "undecided"  # or decided
    number: str = "not measured"
    sentences: Sequence[str] = ("This report has nothing that answers it.",)
    picture: str = ""  # its address


# ---------------------------------------------------------------- the leaderboard


def leaderboard(results: pd.DataFrame) -> dict[str, list[Row]]:
    """By test set the rows of the main detectors, best first; a mean comes before single sets.

    A row has two further values: ``against``, the row of the difference between the best detector
    and this one, either way round, or None; and ``tied``, whether nothing shows this one to be
    worse.
    """
    rows = tables.chosen(results, {}).dropna(subset="value")
    differences = tables.chosen(results, {"minus": "some"}).dropna(subset="value")
    of_pairs = {}
    for row in differences.to_dict("records"):
        of_pairs[row["test_set"], frozenset([row["detector"], row["minus"]])] = row
    means_first = rows.sort_values("mean_over", ascending=False, kind="stable")
    board = {test_set: [] for test_set in means_first["test_set"].unique()}
    rows = rows.sort_values("value", ascending=False, kind="stable")
    for row in rows.to_dict("records"):
        ranked = board[row["test_set"]]
        ranked.append(row)
        pair = frozenset([ranked[0]["detector"], row["detector"]])
        against = of_pairs.get((row["test_set"], pair))
        row["against"] = against
        row["tied"] = against is None or against["low"] <= 0 <= against["high"]
    return board


# ---------------------------------------------------------------- the answers


def best_detector(ranked: Sequence[Row], looks: figures.Looks) -> Card:
    """Which detector is best, and how sure that is, by rows of the leaderboard."""
    best = ranked[0]
    tied = [row["detector"] for row in ranked[1:] if row["tied"]]
    verdict = "undecided"
    sentences = [f"{best['detector']} has the highest mean video AUC on datasets not trained on."]
    if tied:
        sentences.append(f"{' and '.join(tied)} cannot be told apart from it.")
    elif len(ranked) > 1 and best["seeds"] > 1:
        sentences.append("All others are worse.")
        verdict = "decided"
    if len(ranked) > 1 and ranked[1]["against"]:
        pair = ranked[1]["against"]
        compared = f"{pair['detector']} minus {pair['minus']} on the same videos"
        sentences.append(f"{compared}: {tables.cell(pair)}, seeds: {pair['seeds']}.")
    return Card(QUESTIONS[0], verdict, tables.cell(best), sentences, picture(ranked, looks))


def best_map(maps: pd.DataFrame, detector: str, folder: Path) -> Card:
    """Where a detector looks: its map with most energy on forgeries of those that passed.

    Args:
        maps: Rows of energy and chance, also of the mean training mask.
        detector: Its name.
        folder: That of the report, with the picture if a notebook drew it.
    """
    tested = maps[(maps["detector"] == detector) & (maps["metric"] == "energy")]
    tested = tested[(tested["verdict"] != "") & ~tested["map"].isin(PLACEBOS)]
    if tested.empty:
        return Card(QUESTIONS[1])
    passed = tested[tested["verdict"] == "passes"].sort_values("value")
    sentences = [f"{len(passed)} of {len(tested)} maps of {detector} passed their sanity check."]
    if passed.empty:
        return Card(QUESTIONS[1], number="no map to trust", sentences=sentences)
    best = passed.iloc[-1]
    values = maps.set_index(["test_set", "detector", "map", "metric"])["value"]
    limit = values[best["test_set"], detector, best["map"], "chance"]
    sentences.append(f"This is the share of {best['map']} that lies on forged pixels.")
    sentences.append(f"By chance it would be {limit:.3f}.")
    of_mask = values.get((best["test_set"], tables.MEAN_MASK, "none", "energy"))
    if of_mask:
        sentences.append(f"The mean training mask, which looks at no picture, has {of_mask:.3f}.")
        limit = max(limit, of_mask)
    verdict = "decided" if best["low"] > limit else "undecided"
    image = f"figures/attribution_{slug(detector)}.png"
    if not (folder / image).exists():
        image = ""
    return Card(QUESTIONS[1], verdict, tables.cell(best), sentences, image)


def answers(report: tables.Report, board: Mapping[str, Sequence[Row]]) -> list[Card]:
    """The answers, if the leaderboard begins with a cross-dataset mean."""
    ranked = next(iter(board.values()), [])
    if not ranked or not ranked[0]["mean_over"]:
        return [Card(question) for question in QUESTIONS]
    where = {"within": True, "map": "some", "level": "frame", "metric": ["energy", "chance"]}
    maps = tables.chosen(report.results, where).dropna(subset="value")
    return [
        best_detector(ranked, figures.looks(report.detectors)),
        best_map(maps, ranked[0]["detector"], report.store.folder),
    ]


def picture(rows: Sequence[Row], looks: figures.Looks) -> str:
    """A small picture of these rows, as the address of an image in the page itself."""
    content = io.BytesIO()
    figure = figures.strip(rows, looks)
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


# ---------------------------------------------------------------- the page


def corrected(judged: pd.DataFrame) -> str:
    """What Holm's correction leaves of the supported claims; empty where there is none."""
    p = judged.loc[judged["verdict"].str.startswith("supported"), "p, Holm"]
    p = p[p != "–"].str.strip("< ").astype(float)
    if p.empty:
        return ""
    kept = (p < 0.05).sum()
    return f"{kept} of {len(p)} supported claims of papers keep p < .05 after Holm's correction."


def sections(report: tables.Report) -> dict[str, list[dict[str, str]]]:
    """The tables and figures in the folder of a report, with captions, by notebook."""
    items = defaultdict(list)
    folder = report.store.folder
    captions = [*folder.glob("tables/*.txt"), *folder.glob("figures/*.txt")]
    for path in sorted(captions, key=attrgetter("stem")):
        item = {"name": path.stem, "caption": path.read_text(encoding="utf-8"), "table": ""}
        if path.parent.name == "tables":
            table = pd.read_csv(path.with_suffix(".csv"), dtype=str, keep_default_na=False)
            item["table"] = table.to_html(index=False, border=0)
        notebook = OTHERS
        if path.stem in report.tables:
            notebook = report.tables[path.stem].notebook
        items[notebook].append(item)
    return dict(sorted(items.items()))


def rebuild(profile: str) -> Path:
    """Make every table and figure of a report, and its page; returns the path of the page.

    The same scores give the same bytes.
    """
    figures.style()
    report = tables.Report(profile)
    for name, spec in report.tables.items():
        report.table(name)
        if spec.figure:
            report.figure(name)
    folder = report.store.folder
    board = leaderboard(report.results)
    main = tables.chosen(report.results, {})
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["cell"] = tables.cell
    text = environment.get_template("page.html.jinja").render(
        profile=profile,
        cards=answers(report, board),
        board=board,
        detectors=main["detector"].unique(),
        conditions=tables.conditions(main, profile),
        claims=tables.findings(report.judged).to_html(border=0),
        corrected=corrected(report.judged),
        sections=sections(report),
        notebooks=[path.stem for path in folder.glob("notebooks/*.ipynb")],
    )
    return write_bytes(folder / "index.html", text.encode())
