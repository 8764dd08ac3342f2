"""The page of a report: which detector is best, where it looks, the claims; all tables and figures.

The page is one HTML file in the report's folder, made from ``page.html.jinja``. It needs no
internet: its figures and the Markdown of its tables are files of the report.
"""

from collections import defaultdict
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from dfnb import figures, tables
from dfnb.files import write_bytes

# The heading of tables and figures that tables.yaml does not declare.
OTHERS = "other_notebooks"


def leaderboard(report: tables.Report) -> pd.DataFrame:
    """The main table, ordered by the cross-dataset mean."""
    table = report.table("cross_dataset")
    rows = report.rows("cross_dataset")  # one row per detector and test set, or mean over sets
    rows["is_mean"] = rows["mean_over"] != ""
    means_first = rows.sort_values(["is_mean", "value"], ascending=False)
    order = means_first["detector"].unique()
    return table.reindex(order)


def answer(report: tables.Report, best: str) -> str:
    """A sentence that says how sure it is that ``best``, the first of the leaderboard, is best.

    It compares the cross-dataset means.
    """
    means = report.rows("differences").query("mean_over != ''")
    pairs = means.query("detector == @best or minus == @best")  # differences of best and another
    if pairs.empty:
        return f"{best} is compared with no other detector on datasets not trained on."
    undecided = pairs[tables.verdicts(pairs) == "undecided"]
    tied = {*undecided["detector"], *undecided["minus"]} - {best}
    if tied:
        names = ", ".join(sorted(tied))
        return f"{best} is first, but cannot be told apart from {names}."
    if pairs["seeds"].min() == 1:
        return f"{best} is first; with one seed each, another training may turn that round."
    return f"{best} is first; the intervals of its differences from all others exclude zero."


def maps(report: tables.Report, detector: str) -> pd.DataFrame:
    """How much of each map of a detector is on forged pixels, and how much would be by chance.

    ``verdict`` is that of the map's sanity check.
    """
    table = report.table("attribution")
    is_detector = table.index.isin([detector], level=0)
    return table[is_detector].filter(regex="energy|chance|verdict")


def sections(report: tables.Report) -> dict[str, list[dict[str, str]]]:
    """The tables and figures that were saved in a report, by the notebook that explains them.

    An item has ``name`` and ``caption``; a table also has ``table``, its HTML.
    """
    items = defaultdict(list)
    folder = report.store.folder
    caption_paths = [*folder.glob("tables/*.txt"), *folder.glob("figures/*.txt")]
    for path in sorted(caption_paths):
        item = {"name": path.stem, "caption": path.read_text(encoding="utf-8")}
        if path.parent.name == "tables":
            csv = path.with_suffix(".csv")
            # As text: numbers are shown as they were saved.
            table = pd.read_csv(csv, dtype=str, keep_default_na=False)
            item["table"] = table.to_html(index=False)
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
    ranked = leaderboard(report)
    best = ranked.index[0]
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=templates, autoescape=True)
    page = environment.get_template("page.html.jinja")
    text = page.render(
        report=report,
        leaderboard=ranked,
        best=best,
        answer=answer(report, best),
        maps=maps(report, best),
        sections=sections(report),
    )
    return write_bytes(report.store.folder / "index.html", text.encode())
