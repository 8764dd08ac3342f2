"""Published figures, ``data_manifest/published.csv``, and ours beside them.

The manifests of the published datasets say under which names the sources know them
(``published_as``). Figures of drawn faces are never compared with published ones.
"""

from collections.abc import Iterator
from functools import cache

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


def beside(paper: str, report: str) -> pd.DataFrame:
    """The table of :func:`numbers` with the columns ``ours``, as text, and ``checkpoint``.

    Ours are of the paper's first detector in the report that has the published backbone, was
    trained on the same dataset and methods, and was tested on the same dataset. They are on the
    scale of the source, AUC in [0, 1] or percent, with their 95 % interval. Where there is none,
    the text is NOT_RUN. ``checkpoint`` is the rule by which the epoch of our training was chosen;
    empty where there is none.
    """
    table = numbers(paper).assign(ours=NOT_RUN, checkpoint="")
    candidates = [*_main_of(report, paper)]
    for row, figure in table.iterrows():
        for detector in candidates:
            if figure["metric"] in METRICS and _is_trained_alike(detector, figure["trained on"]):
                ours = _our_number(detector, figure, report)
                if ours:
                    table.loc[row, "ours"] = ours
                    table.loc[row, "checkpoint"] = detector.runs[0].record.rule
                    break
    return table[[*WORDS, *ORIGIN]]


def shown(paper: str, report: str) -> pd.DataFrame:
    """The table of :func:`beside` by test set; without our columns where nothing was run."""
    table = beside(paper, report).set_index("tested on")
    is_run = (table["ours"] != NOT_RUN).any()
    return table if is_run else table.drop(columns=["ours", "checkpoint"])


def compared(report: str) -> pd.DataFrame:
    """Every published figure that a detector of a report can be compared with, beside ours.

    The table is that of :func:`beside` for all papers of the report, with a column ``paper``, its
    title, and without the figures that were not run; perhaps without a row.
    """
    names = {}  # title -> name in published.csv
    for detector in detectors(report):
        for run in detector.runs[:1]:  # one is enough
            names[run.record.detector.title] = run.record.detector.published
    parts = [pd.DataFrame(columns=["paper", *WORDS, *ORIGIN])]
    for title, name in names.items():
        parts.append(beside(name, report).assign(paper=title))
    table = pd.concat(parts, ignore_index=True)
    return table[table["ours"] != NOT_RUN]


def _main_of(report: str, paper: str) -> Iterator[Detector]:
    """The detectors of a paper in a report: main ones, and the main variants of ablations.

    ``paper`` is its name in ``published.csv``.
    """
    for detector in detectors(report):
        is_main = detector.variant in ("", MAIN)
        if is_main and detector.runs[0].record.detector.published == paper:
            yield detector


def _is_trained_alike(detector: Detector, trained_on: str) -> bool:
    """Whether a detector has the published backbone, and was trained on the same data.

    ``trained_on`` is the name of a dataset in the sources.
    """
    first = detector.runs[0]
    dataset, method = datasets_by_source().get(trained_on, ("", ""))
    methods = None if method == "all" else [method]  # as in the parameter seen_methods
    backbone = first.record.detector.defaults["backbone"]
    return (
        first.parameters.settings["backbone"] == backbone
        and first.train_set == dataset
        and first.parameters.seen_methods == methods
    )


def _our_number(detector: Detector, figure: pd.Series, report: str) -> str:
    """Our number for a published figure as text, ``value [low, high]`` on the source's scale.

    Empty where we do not know its dataset or level, or have no scores for it. A level that is not
    stated is measured on frames, and the text says so.
    """
    dataset, method = datasets_by_source().get(figure["tested on"], ("", ""))
    level = LEVELS.get(figure["level"])
    if not dataset or not level:
        return ""
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
