"""Published figures, ``data_manifest/published.csv``: as related work, and ours beside them.

The manifests of the published datasets say under which names the sources know them
(``published_as``). Figures of drawn faces are never compared with published ones.
"""

from functools import cache
from typing import Any

import pandas as pd

from dfnb.results.detectors import MAIN, Detector, detectors
from dfnb.results.metrics import measure
from dfnb.results.reading import Level, scores
from dfnb.results.tables import cells, latex
from facesets.files import find
from facesets.manifests import manifest, published_names

NOT_RUN = "not run"
# The level at which ours are measured, by that of the figure. Of "not stated" those of frames.
LEVELS: dict[str, Level] = {"video": "video", "frame": "frame", "not stated": "frame"}
METRICS = {"AUC": "AUC", "accuracy (%)": "accuracy"}  # in the source, and ours
WORDS = ["trained on", "tested on", "metric", "level", "published", "ours"]
ORIGIN = ["checkpoint", "source", "confidence"]
# Columns of the table of related work: what the sources call their test sets.
TEST_SETS = {
    "FF++": ["FF++", "FF++_c23"],
    "F2F": ["FF++ Face2Face HQ", "FF-F2F"],
    "FS": ["FF++ FaceSwap HQ (unseen)", "FF-FS"],
    "CDF-v1": ["Celeb-DF-v1"],
    "CDF-v2": ["Celeb-DF-v2"],
    "CDF-?": ["Celeb-DF (version not stated; config default is v2)"],
    "DFD": ["DFD"],
    "DFDC-P": ["DFDC-P"],
    "DFDC": ["DFDC"],
    "FFIW": ["FFIW"],
}
SECOND_HAND = "†"


@cache
def datasets_by_source() -> dict[str, tuple[str, str]]:
    """Name of a dataset in the sources -> our name, and the manipulation method or "all"."""
    by_source = {}
    for name in published_names():
        for name_in_source, method in manifest(name).get("published_as", {}).items():
            by_source[name_in_source] = (name, method)
    return by_source


def _read() -> pd.DataFrame:
    """The file of figures, under our names of columns."""
    ours = {"train_set": "trained on", "test_set": "tested on", "value": "published"}
    return pd.read_csv(find("data_manifest/published.csv")).rename(columns=ours)


def numbers(paper: str) -> pd.DataFrame:
    """The published figures of a paper, a row each, as the sources give them.

    Args:
        paper: Its name in ``published.csv``, see ``dfnb.papers.contract.Paper``. Either ``paper``
            and ``method`` of a row both begin with it; or ``method`` equals it, as for the
            baseline, which has its figures in other papers.

    Columns: WORDS without ours, ``source`` and ``confidence``.
    """
    table = _read()
    of_paper = table["paper"].str.startswith(paper) & table["method"].str.startswith(paper)
    table = table[of_paper | (table["method"] == paper)]
    # One figure may be in the abstract and in a README.
    table = table.drop_duplicates(WORDS[:-1], ignore_index=True)
    return table[[*WORDS[:-1], *ORIGIN[1:]]]


def compared(report: str, paper: str = "") -> pd.DataFrame:
    """Published figures merged with ours: the table of :func:`numbers` with three more columns.

    ``ours`` is the number of the paper's first main detector in the report that has the published
    backbone, was trained on the same dataset and methods, and was tested on the same dataset: text,
    on the scale of the source, AUC in [0, 1] or percent, with its 95 % interval. ``checkpoint`` is
    the rule by which the epoch of our training was chosen, and ``paper`` the title of the paper.

    Args:
        report: Its name.
        paper: As of :func:`numbers`: all of its figures, with NOT_RUN where there is none of ours.
            Without it the figures of all papers of the report, those that were run alone.
    """
    rows = []
    for detector in detectors(report):
        of_paper = detector.runs[0].record.detector
        if detector.variant not in ("", MAIN):  # main ones, and the main variants of ablations
            continue
        about = {"paper": of_paper.title, "checkpoint": detector.runs[0].record.rule}
        for figure in numbers(of_paper.published).to_dict("records"):
            if ours := _our_number(detector, figure, report):
                rows.append({**about, **figure, "ours": ours})
    table = pd.DataFrame(rows, columns=["paper", *WORDS, *ORIGIN])
    table = table.drop_duplicates(["paper", *WORDS[:-1]], ignore_index=True)
    if not paper:
        return table
    table = numbers(paper).merge(table.drop(columns="paper"), "left")[[*WORDS, *ORIGIN]]
    return table.fillna({"ours": NOT_RUN, "checkpoint": ""})


def _our_number(detector: Detector, figure: dict[str, Any], report: str) -> str:
    """Our number for a published figure as text, ``value [low, high]`` on the source's scale.

    Empty where the detector has another backbone or was trained on other data, where we do not know
    the figure's dataset or level, or have no scores for it. A level that is not stated is measured
    on frames, and the text says so.
    """
    first = detector.runs[0]
    trained_on, tested_on = (
        datasets_by_source().get(figure[name], ("", "")) for name in ("trained on", "tested on")
    )
    seen = None if trained_on[1] == "all" else [trained_on[1]]  # as in the parameter seen_methods
    backbone = first.record.detector.defaults["backbone"]
    is_trained_alike = (first.train_set, first.parameters.seen_methods) == (trained_on[0], seen)
    is_trained_alike &= first.parameters.settings["backbone"] == backbone
    level = LEVELS.get(figure["level"])
    if not (is_trained_alike and tested_on[0] and level and figure["metric"] in METRICS):
        return ""
    dataset, method = tested_on
    rows = scores(report, level=level)
    rows = rows[(rows["detector"] == detector.name) & (rows["test_set"] == dataset)]
    rows = rows[rows["corruption"] == ""]
    if method != "all":
        rows = rows[rows["method"].isin([method, "real"])]
    number = measure(rows, METRICS[figure["metric"]], ["detector", "test_set"])
    if number.empty:  # no scores, or none of this method
        return ""
    if "%" in figure["metric"]:
        number[["value", "low", "high"]] *= 100
    [text] = cells(number)
    return f"{text}, {level}s" if figure["level"] != level else text


# ---------------------------------------------------------------- related work


def related_work() -> pd.DataFrame:
    """The figures of methods with a key of papers.bib, as text in per cent; "" where there is none.

    One row per method, training set and metric, which are the first columns; then a column per one
    of TEST_SETS. A figure that was read in a secondary source has the mark SECOND_HAND.
    """
    rows = _figures().dropna(subset="column")
    rows["metric"] = rows["metric"].str.replace(r"metric| \(%\)", "", regex=True).str.strip()
    is_known = rows["level"].isin(["frame", "video"])
    rows["metric"] = (rows["level"] + " " + rows["metric"]).where(is_known, rows["metric"])
    of_row = ["method", "trained on", "metric"]
    is_fine = (10 * rows["percent"]).round(1) % 1 > 0  # it has a second decimal
    is_fine = is_fine.groupby([rows[name] for name in of_row]).transform("any")
    digits = is_fine.map({True: 2, False: 1})
    marks = rows["confidence"].str.contains("secondary").map({True: SECOND_HAND, False: ""})
    figures = zip(rows["percent"], digits, marks)
    rows["text"] = [f"{value:.{count}f}{mark}" for value, count, mark in figures]
    table = rows.pivot(index=of_row, columns="column", values="text")
    table = table.loc[[*rows[of_row].drop_duplicates().itertuples(index=False, name=None)]]
    table = table[[*TEST_SETS]].fillna("")
    return table.rename_axis(columns=None).reset_index()


def _figures() -> pd.DataFrame:
    """The rows that have a ``key`` of papers.bib: those of a method itself.

    ``method`` is its name alone; ``column`` is that of TEST_SETS, or NaN; and there is ``percent``.
    """
    figures = _read().dropna(subset="key")
    # One figure may be in the abstract and in a README.
    figures = figures.drop_duplicates(["key", *WORDS[:-1]], ignore_index=True)
    names = figures["method"].str.replace(r" minus.*| \(.*|, .*", "", regex=True)
    columns = {theirs: ours for ours, names in TEST_SETS.items() for theirs in names}
    column = figures["tested on"].map(columns)
    is_percent = figures["metric"].str.contains("%")
    percent = figures["published"].where(is_percent, 100 * figures["published"])
    return figures.assign(method=names, column=column, percent=percent)


def as_markdown() -> str:
    """:func:`related_work` as Markdown; below it where it is from, and gains without a test set."""
    figures = _figures()
    of_gains = figures["metric"].str.contains("gain")
    lines = []
    for (name, metric), rows in figures[of_gains].groupby(["method", "metric"], sort=False):
        values = ", ".join(map("{:.2f}".format, rows["published"]))
        lines.append(f"- {name}, {metric}: {values}.")
    shown = figures[of_gains | figures["column"].notna()]
    lines += ["", "Sources:", ""]
    for name, texts in shown.groupby("method", sort=False)["source"]:
        parts = dict.fromkeys("; ".join(texts).split("; "))  # two may be named together
        lines.append(f"- {name}: {'; '.join(parts)}.")
    table = related_work().to_markdown(index=False, disable_numparse=True)
    return "\n".join([table, "", *lines, ""])


def as_latex() -> str:
    """:func:`related_work` for the package booktabs; each method cites its key of papers.bib."""
    text = latex(related_work())
    for name, key in _figures()[["method", "key"]].drop_duplicates().itertuples(index=False):
        text = text.replace(f"\n{name} &", f"\n{name}~\\cite{{{key}}} &")
    return text
