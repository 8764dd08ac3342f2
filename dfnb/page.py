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

# The title of the page sums up the claims that begin with these words.
GENERALISES = "Generalises better than a plain classifier"
# The heading of tables and figures that tables.yaml does not declare.
OTHERS = "other_notebooks"


def finding(report: tables.Report) -> str:
    """The title of the page: which papers' claims to generalise are supported, in one sentence.

    Every verdict that begins with "supported" counts, also "supported, fragile".
    """
    verdicts = report.judged.query(f"claim.str.startswith('{GENERALISES}')")["verdict"]
    supported = verdicts[verdicts.str.startswith("supported")]
    if supported.empty:
        return "No detector is shown to generalise better than a plain classifier"
    papers = supported.index.unique("paper")
    return f"Shown to generalise better than a plain classifier: {', '.join(papers)}"


def leaderboard(report: tables.Report) -> pd.DataFrame:
    """The main detectors, one per line, best cross-dataset mean first; those without it are last.

    The cells are video AUCs as text. Columns, as far as the report has them: ``within``, on a
    test set like the one trained on; ``across``, the cross-dataset mean; the cross-dataset mean on
    each unseen method, see :func:`_rows_on_unseen`; each test set that enters no mean; and what the
    table ``cross_dataset`` has ``beside``: the range of the averaged sets, and the collapsed runs.
    """
    rows = report.rows("cross_dataset")
    within = rows.query("place == 'within'")
    across = rows.query("place == 'across'").sort_values("value", ascending=False)
    # pivot orders the columns as the rows first name them. ``rows`` at the end adds the other
    # columns; it repeats the rows of ``within`` and ``across``, which give the same cells.
    ordered = pd.concat([within, across, *_rows_on_unseen(report), rows])
    table = tables.pivot(ordered, report.tables["cross_dataset"])
    # Each detector once: those with a cross-dataset mean in the order of ``across``, then the rest.
    return table.reindex(dict.fromkeys([*across["detector"], *rows["detector"]]))


def _rows_on_unseen(report: tables.Report) -> list[pd.DataFrame]:
    """The cross-dataset AUC on the method that an ablation left out of its training.

    There is one table of one row per ablation that left out a method: the row of its variant MAIN.
    As ``detector`` it has the name of the paper, so that :func:`leaderboard` shows it in the line
    of the main detector; as ``place``, which gives the column, "unseen: " and the method.
    """
    parts = []
    for detector in report.detectors:
        if detector.variant != MAIN:  # the reference of an ablation; main detectors have no variant
            continue
        run = detector.runs[0]
        seen = run.parameters.seen_methods
        if seen:  # None: it was trained on all methods
            # Other columns, such as the metric, have the values of "everywhere" in tables.yaml. Its
            # empty ablation would leave out this variant. So any ablation is allowed: the
            # detector's name is unique.
            where = {
                "detector": detector.name,
                "ablation": "any",
                "method": "any",
                "place": "across",
            }
            rows = tables.chosen(report.results, where)
            unseen = rows.query(f"method not in {['all', *seen]}")
            # No row: a test set of the mean lacks the method. Several rows: several methods were
            # left out, and none of them alone stands for what the training lacked.
            if len(unseen) == 1:
                place = "unseen: " + unseen["method"]
                title = run.record.detector.title
                # Empty: a line shows the range and the collapsed runs of the main detector.
                parts.append(unseen.assign(detector=title, place=place, range="", collapsed=""))
    return parts


def sections(report: tables.Report) -> dict[str, list[dict[str, str]]]:
    """The tables and figures that were saved in a report, by the notebook that explains them.

    An item has ``name`` and ``caption``; a table also has ``table``, its HTML. A notebook may also
    save a table or figure that ``report.tables`` does not declare: these are under :data:`OTHERS`.
    """
    items = defaultdict(list)
    folder = report.store.folder
    # Whatever is saved has a caption file, by which it is found here.
    caption_files = [*folder.glob("tables/*.txt"), *folder.glob("figures/*.txt")]
    for path in sorted(caption_files):
        spec = report.tables.get(path.stem)
        # A declared table shows its lead alone: the rest of its caption is the conditions, which
        # the page has once. Other captions are shown as they are.
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
    # How `dfnb judge` made this report, in sentences; None if it did not.
    judged = report.store.profile.get("judged")
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
