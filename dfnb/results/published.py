"""Published figures, ``data_manifest/published.csv``, and ours beside them.

The manifests of the published datasets say under which names the sources know them
(``published_as``). Figures of drawn faces are never compared with published ones.
"""

from functools import cache
from typing import Any

import pandas as pd

from dfnb.results.detectors import MAIN, Detector, detectors
from dfnb.results.metrics import measure
from dfnb.results.reading import Level, scores
from dfnb.results.tables import cells
from facesets.files import find
from facesets.manifests import manifest, published_names

NOT_RUN = "not run"
# The level at which ours are measured, by that of the figure. Of "not stated" those of frames.
LEVELS: dict[str, Level] = {"video": "video", "frame": "frame", "not stated": "frame"}
METRICS = {"AUC": "AUC", "accuracy (%)": "accuracy"}  # in the source, and ours
WORDS = ["trained on", "tested on", "metric", "level", "published", "ours"]
ORIGIN = ["checkpoint", "source", "confidence"]


@cache
def datasets_by_source() -> dict[str, tuple[str, str]]:
    """Name of a dataset in the sources -> our name, and the manipulation method or "all"."""
    by_source = {}
    for name in published_names():
        for name_in_source, method in manifest(name).get("published_as", {}).items():
            by_source[name_in_source] = (name, method)
    return by_source


def numbers(paper: str) -> pd.DataFrame:
    """The published figures of a paper, a row each, as the sources give them.

    Args:
        paper: Its name in ``published.csv``, see ``dfnb.papers.contract.Paper``. Either ``paper``
            and ``method`` of a row both begin with it; or ``method`` equals it, as for the
            baseline, which has its figures in other papers.

    Columns: WORDS without ours, ``source`` and ``confidence``.
    """
    path = find("data_manifest/published.csv")
    table = pd.read_csv(path)
    table = table.rename(columns={"train_set": "trained on", "test_set": "tested on"})
    table = table.rename(columns={"value": "published"})
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
