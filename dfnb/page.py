"""The page of a report: its finding, the leaderboard, maps, claims; all tables and figures.

The page is one HTML file in the report's folder, made from ``page.html.jinja``. It needs no
internet: its figures and the Markdown of its tables are files of the report.
"""

from collections import defaultdict
from pathlib import Path

import pandas as pd
from jinja2 import Template

from dfnb import figures, tables
from dfnb.files import write_bytes
from dfnb.results import MAIN

# How the claims begin that the title answers.
GENERALISES = "Generalises better than a plain classifier"
# The heading of tables and figures that tables.yaml does not declare.
OTHERS = "other_notebooks"


def finding(report: tables.Report) -> str:
    """The title of the page: the verdicts on the claims to generalise, in one sentence."""
    verdicts = report.judged.query(f"claim.str.startswith('{GENERALISES}')")["verdict"]
    supported = verdicts[verdicts.str.startswith("supported")]
    if supported.empty:
        return "No detector is shown to generalise better than a plain classifier"
    # Several detectors have one paper. In reverse order the main detector, which is listed before
    # its variants, comes last, so the paper gets its name.
    titles = {detector.paper: detector.name for detector in reversed(report.detectors)}
    papers = supported.rename(titles).index.unique("paper")
    return f"Shown to generalise better than a plain classifier: {', '.join(papers)}"


def leaderboard(report: tables.Report) -> pd.DataFrame:
    """The main detectors, ordered by the cross-dataset mean; those without it are last.

    The columns have the video AUC, where the report has it: within; across; across on each unseen
    method, see :func:`_unseen`; and on each test set that enters no mean.
    """
    rows = report.rows("cross_dataset")
    within = rows.query("place == 'within'")
    across = rows.query("place == 'across'").sort_values("value", ascending=False)
    # Columns have the order in which the rows first name them. The last part has the other columns,
    # and the rows of the first two again, which give the same cells.
    ordered = pd.concat([within, across, *_unseen(report), rows])
    table = tables.pivot(ordered, report.tables["cross_dataset"])
    return table.reindex(dict.fromkeys([*across["detector"], *rows["detector"]]))


def _unseen(report: tables.Report) -> list[pd.DataFrame]:
    """The cross-dataset AUC on the method that an ablation left out of its training.

    Each part is one row, of the variant MAIN of such an ablation. It has the name of the paper as
    ``detector``, and "unseen: " with the method as ``place``.
    """
    parts = []
    for detector in report.detectors:
        if detector.variant != MAIN:
            continue
        run = detector.runs[0]
        seen = run.parameters["seen_methods"]
        if seen:  # None: it saw all
            where = {
                "detector": detector.name,
                "ablation": "any",
                "method": "any",
                "place": "across",
            }
            rows = tables.chosen(report.results, where)
            unseen = rows.query(f"method not in {['all', *seen]}")
            if len(unseen) == 1:
                place = "unseen: " + unseen["method"]
                parts.append(unseen.assign(detector=run.detector["title"], place=place))
    return parts


def sections(report: tables.Report) -> dict[str, list[dict[str, str]]]:
    """The tables and figures that were saved in a report, by the notebook that explains them.

    An item has ``name`` and ``caption``; a table also has ``table``, its HTML. Those that no entry
    of ``report.tables`` declares, saved by a notebook itself, are under :data:`OTHERS`.
    """
    items = defaultdict(list)
    folder = report.store.folder
    captions = [*folder.glob("tables/*.txt"), *folder.glob("figures/*.txt")]
    for path in sorted(captions):
        spec = report.tables.get(path.stem)
        item = {"name": path.stem, "caption": spec.lead if spec else path.read_text("utf-8")}
        table = path.with_suffix(".html")
        if table.exists():
            item["table"] = table.read_text("utf-8")
        items[spec.notebook if spec else OTHERS].append(item)
    return dict(sorted(items.items()))


def rebuild(profile: str) -> Path:
    """Make every table and figure of a report, and its page; returns the path of the page.

    The same scores give the same bytes.
    """
    figures.style()
    report = tables.Report(profile)
    judged = report.store.profile.get("judged")  # how `dfnb judge` made it
    made = {}
    for name, spec in report.tables.items():
        # A judged report tests no claims, and its matrix has all that is in the main table.
        if not (judged and name in [*tables.MADE, "cross_dataset"]):
            made[name] = report.table(name)
        if spec.draw:
            report.figure(name)
    template = Path(__file__).with_suffix(".html.jinja").read_text(encoding="utf-8")
    page = Template(template, autoescape=True).render(
        report=report,
        tables=made,
        judged=judged,
        title="Scores of other tools, judged" if judged else finding(report),
        leaderboard=leaderboard(report),
        sections=sections(report),
    )
    return write_bytes(report.store.folder / "index.html", page.encode())
