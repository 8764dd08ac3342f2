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
    """The main table, ordered by the cross-dataset mean.

    Detectors without that mean follow, by their highest value on any test set.
    """
    table = report.table("cross_dataset")
    rows = report.rows("cross_dataset")  # one row per detector and test set, or mean over sets
    rows["is_mean"] = rows["mean_over"] != ""
    # True before False, then high before low.
    means_first = rows.sort_values(["is_mean", "value"], ascending=False)
    order = means_first["detector"].unique()  # by the first row of each
    return table.reindex(order)


def answer(report: tables.Report, best: str) -> str:
    """A sentence that says how sure it is that ``best``, the first of the leaderboard, is best.

    It compares the cross-dataset means.
    """
    means = report.rows("differences").query("mean_over != ''")
    pairs = means.query("detector == @best or minus == @best")  # differences of best and another
    if pairs.empty:
        return f"{best} is compared with no other detector on datasets not trained on."
    # A difference that is decided favours ``best``, which has the highest mean.
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

    One row per map and test set. Beside energy and chance: the energy of the mean training mask as
    the map ("constant"), and ``verdict``, that of the map's sanity check. Empty where no map was
    measured.
    """
    table = report.table("attribution")
    is_detector = table.index.isin([detector], level=0)  # the index is detector, map and test set
    return table[is_detector].filter(regex="energy|chance|verdict")


def sections(report: tables.Report) -> dict[str, list[dict[str, str]]]:
    """The tables and figures that were saved in a report, by the notebook that explains them.

    An item has ``name`` and ``caption``; a table also has ``table``, its HTML. Those that no entry
    of ``report.tables`` declares, saved by a notebook itself, are under :data:`OTHERS`.
    """
    items = defaultdict(list)
    folder = report.store.folder
    # Each saved table or figure has a caption file of its name.
    caption_paths = [*folder.glob("tables/*.txt"), *folder.glob("figures/*.txt")]
    for path in sorted(caption_paths):
        item = {"name": path.stem, "caption": path.read_text(encoding="utf-8")}
        if path.parent.name == "tables":
            csv = path.with_suffix(".csv")
            # As text: numbers are shown as they were saved, and "nan" or nothing as such.
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
    judged = report.store.profile.get("judged")  # how `dfnb judge` made it; it tests no claims
    for name, spec in report.tables.items():
        if not (judged and name in tables.MADE):
            report.table(name)
        if spec.figure:
            report.figure(name)
    ranked = leaderboard(report)
    best = next(iter(ranked.index), "")  # the name of the first detector, if there is any
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=templates, autoescape=True)
    page = environment.get_template("page.html.jinja")
    text = page.render(
        report=report,
        leaderboard=ranked,
        best=best,
        judged=judged,
        answer=answer(report, best) if best else "This report has no main detectors.",
        maps=maps(report, best),
        sections=sections(report),
    )
    return write_bytes(report.store.folder / "index.html", text.encode())
