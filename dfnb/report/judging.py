"""Detectors judged by their scores alone: what ``dfnb judge`` prints and notebook 12 shows.

:func:`load` reads the scores. Each function of :data:`SECTIONS` makes one table of them.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from dfnb.files import report_folder
from dfnb.report import other_tools, reading, tables
from dfnb.report.metrics import CALLED, Thresholds, measure
from dfnb.report.other_tools import Missing
from dfnb.report.reading import UNITS
from dfnb.statistics import Array
from dfnb.store.reports import NO_SEED
from dfnb.store.thresholds import threshold_of

NOTEBOOK = "12_judge"
OverFrames = Literal["mean", "median", "max"]  # makes the score of a video of those of its frames
GROUP = ["detector", "test_set"]  # the columns that name a row of a table
FIFTHS = {  # of [0, 1], each by its upper end
    0.2: "0 to 0.2",
    0.4: "0.2 to 0.4",
    0.6: "0.4 to 0.6",
    0.8: "0.6 to 0.8",
    1: "0.8 to 1",
}
LINE_WIDTH = 200  # characters of a printed table


class Scores(NamedTuple):
    """Scores of several detectors on the same frames."""

    names: list[str]  # the detectors of the files; the others are those of a report
    frames: pd.DataFrame  # a row per detector, seed and frame, see reading.scores
    videos: pd.DataFrame  # a row per detector, seed and video
    thresholds: Thresholds  # above which a detector calls a frame fake
    remarks: list[str]  # on what was read
    caption: str  # of all tables


class Section(NamedTuple):
    """What one section of a judgement shows; without rows, the table is left out."""

    name: str  # of the table's files
    title: str
    table: pd.DataFrame  # of texts
    sentences: list[str]  # below the table


# ---------------------------------------------------------------- scores


def load(
    files: Sequence[str | Path],
    test_sets: Sequence[str] = (),
    compared: str = "",
    missing: Missing = "refuse",
    over_frames: OverFrames = "mean",
) -> Scores:
    """The scores of the files and, on the same frames, of a report's main detectors and tools.

    Args:
        files: One CSV per detector, see :func:`dfnb.report.other_tools.read`.
        test_sets: Their names; without names, the test sets and labels are those of the first file.
        compared: Name of the report, or empty.
        missing: What becomes of frames without a score, see
            :func:`dfnb.report.other_tools.scored_frames`.
        over_frames: How the scores of a video's frames become its score.

    Raises :class:`DfnbError` for files and test sets that cannot be used.
    """
    paths = list(map(Path, files))
    frames, remarks = other_tools.scored_frames(paths, test_sets, compared, missing)
    names = list(frames["detector"].unique())
    thresholds = _thresholds(frames)
    if compared:
        frames = pd.concat([_frames_of_report(compared, frames), frames], ignore_index=True)
        thresholds |= reading.thresholds(compared)
    rule = f"A video's score is the {over_frames} of its frames. Intervals: 95 %, over clusters."
    return Scores(
        names=names,
        frames=frames,
        videos=_videos(frames, over_frames),
        thresholds=thresholds,
        remarks=remarks,
        caption=" ".join([rule, *remarks]),
    )


def _thresholds(frames: pd.DataFrame) -> dict[tuple[str, int], Array]:
    """By detector and NO_SEED: the threshold and replicates, see ``Threshold.with_replicates``.

    At most 5 % of the real frames of the first test set have a higher score: that set stands in for
    a validation split, which other tools lack.
    """
    first = frames[frames["test_set"] == frames["test_set"].iloc[0]]
    return {
        (name, NO_SEED): threshold_of(rows).with_replicates()
        for name, rows in first.groupby("detector")
    }


def _frames_of_report(report: str, frames: pd.DataFrame) -> pd.DataFrame:
    """The scores that the main detectors and other tools of a report have of these frames."""
    others = reading.scores(report, level="frame")
    others = others[(others["ablation"] == "") & (others["corruption"] == "")]
    others = others.merge(frames[other_tools.FRAME].drop_duplicates())
    return others.assign(is_probability=True)  # check_scores let only P(fake) into the report


def _videos(frames: pd.DataFrame, over_frames: OverFrames) -> pd.DataFrame:
    """The scores of videos, made of those of their frames, see :class:`Scores`."""
    # "collapsed" (whether the training learned nothing) and "is_probability" are equal in all
    # frames of a detector and seed: they are here only so that they stay columns.
    by = ["test_set", "detector", "seed", "collapsed", "is_probability", *UNITS["video"]]
    videos = frames.groupby(by, observed=True, sort=False)["score"].agg(over_frames)
    # Rounded, because the noise of float64 must not rank videos whose scores are equal.
    return videos.map("{:.12g}".format).astype(float).reset_index()


def _probabilities(videos: pd.DataFrame) -> pd.DataFrame:
    """The videos of those detectors that give probabilities.

    The column says so, because scores of videos do not show it: means of logits may all be in
    [0, 1].
    """
    return videos[videos["is_probability"]].copy()


# ---------------------------------------------------------------- sections


def metrics(scores: Scores) -> Section:
    """The AUC and EER of videos, and the Brier score of detectors that give probabilities."""
    aucs = measure(scores.videos, "AUC", GROUP)
    eers = measure(scores.videos, "EER", GROUP)
    known = _probabilities(scores.videos)
    known["Brier"] = (known["score"] - known["label"]) ** 2
    briers = measure(known, "Brier", GROUP)
    sentences = []
    for row in aucs[aucs["detector"].isin(scores.names)].itertuples():
        text = tables.cell(row.value, row.low, row.high)
        sentences.append(f"On {row.test_set}, {row.detector} has an AUC of {text}.")
        if row.value < 0.5:
            sentences.append("That is below one half: the sign of the scores may be inverted.")
    table = tables.pivot(pd.concat([aucs, eers, briers]), GROUP, "metric")
    return Section("judged", "Metrics of videos", table, sentences)


def differences(scores: Scores) -> Section:
    """The paired differences in video AUC of every two detectors, unless both are of the report."""
    # Each test set is a place of its own, so that no mean is taken over test sets.
    pairs = tables.pairs(scores.videos.assign(place=scores.videos["test_set"]))
    # A report's detectors come first, so a pair with one of the files has it in ``detector``.
    # Holm's rule again: it now corrects for the remaining rows alone.
    pairs = tables.joined([pairs[pairs["detector"].isin(scores.names)]])
    pairs = pairs.rename(columns={"place": "test_set"})
    table = tables.listed(pairs, ["detector", "minus", "test_set"])
    sentences = [] if len(table) else ["There is one detector alone."]
    return Section("differences", "Differences in video AUC", table, sentences)


def false_alarms(scores: Scores) -> Section:
    """The share of real frames, and of those of each method, above the detector's own threshold."""
    by = [*GROUP, "method"]
    called = measure(scores.frames, CALLED, by, thresholds=scores.thresholds)
    table = tables.pivot(called, GROUP, "method")
    sentences = []
    for name in scores.names:
        threshold = scores.thresholds[name, NO_SEED][0]  # without the replicates
        sentences.append(f"The threshold of {name} is {threshold:.3g}.")
    return Section("called_fake", "Share of frames called fake", table, sentences)


def methods(scores: Scores) -> Section:
    """The video AUC of each manipulation method against the same real videos."""
    by_method = measure(scores.videos, "AUC", [*GROUP, "method"])
    table = tables.pivot(by_method, GROUP, "method")
    return Section("methods", "Video AUC by manipulation method", table, [])


def calibration(scores: Scores) -> Section:
    """The share of fakes among the videos with P(fake) in each fifth of [0, 1].

    A video of a report's detector counts once per seed.
    """
    name, title = "calibration", "Share of fakes by P(fake)"
    known = _probabilities(scores.videos)
    if known.empty:
        sentence = "No detector has scores that are probabilities."
        return Section(name, title, pd.DataFrame(), [sentence])
    fifths = pd.cut(known["score"], [0, *FIFTHS], labels=[*FIFTHS.values()], include_lowest=True)
    by_fifth = known.assign(fifth=fifths).groupby([*GROUP, "fifth"], observed=True)["label"]
    shares = by_fifth.agg(["mean", "size"])
    texts = [f"{row.mean:.2f} of {row.size}" for row in shares.itertuples(name="Share")]
    table = shares.assign(text=texts)["text"].unstack().rename_axis(columns=None)
    # The detectors without probabilities get rows of dashes; the order is that of other tables.
    rows = scores.videos.sort_values("test_set", kind="stable")[GROUP].drop_duplicates()
    table = table.reindex(pd.MultiIndex.from_frame(rows)).fillna("–")
    return Section(name, title, table, [])


# The headings of notebook 12, and what stands below each.
SECTIONS = {
    "How well do they rank?": metrics,
    "Is one better than the other?": differences,
    "How many false alarms?": false_alarms,
    "Which manipulations are found?": methods,
    "Is P(fake) a probability?": calibration,
}


# ---------------------------------------------------------------- output


def remove_earlier(report: str) -> None:
    """Remove the tables and the page that an earlier judgement left in this report."""
    shutil.rmtree(report_folder(report) / "tables", ignore_errors=True)
    (report_folder(report) / "index.html").unlink(missing_ok=True)


def show(section: Section, report: str, caption: str) -> None:
    """Show a section in a notebook, and save its table in the report."""
    if len(section.table):
        with pd.option_context("display.max_columns", None, "display.max_rows", None):
            tables.show(section.table, report, section.name, section.title, caption)
    for sentence in section.sentences:
        print(sentence)


def print_all(scores: Scores, report: str) -> None:
    """Print the remarks and all sections as text, and save the tables in the report.

    The notebook shows the same. Its kernel takes longer to start than the tables take.
    """
    print("\n".join(scores.remarks))
    for heading, make_section in SECTIONS.items():
        section = make_section(scores)
        print(f"\n## {heading}")
        if len(section.table):
            print(section.title)
            print(section.table.to_string(line_width=LINE_WIDTH))
            tables.save(section.table, report, section.name, section.title, scores.caption)
        for sentence in section.sentences:
            print(sentence)
