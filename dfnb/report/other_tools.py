"""Scores of other tools, from CSV files to a table, which :mod:`dfnb.report.judging` judges.

Which videos are fake, a test set of ours says, or the first file itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from dfnb.checks import DfnbError, suggestion
from dfnb.data import test_sets
from dfnb.data.listings import label_of, read_listing
from dfnb.files import read_table, report_folder
from dfnb.store.reports import NO_SEED, detectors, test_set_path
from dfnb.store.scores import KEYS, check_scores

Missing = Literal["refuse", "drop", "real", "fake"]
MOST_MISSING = 0.01  # the share of a test set's frames that may lack a score
REPLACEMENTS = {"real": "min", "fake": "max"}  # of missing scores, as pandas calls them
FRAME = ["test_set", "video", "track", "frame"]  # the columns that identify a frame
COLUMNS = ["score", *FRAME, "label", "method", "cluster"]
OWN_LABELS = "own labels"  # the test set of rows that name none
NO_NUMBER = ("", "na", "n/a", "nan", "none", "null")  # how tools write that a number is missing
# 4,321 may be 4.321 or 4321; 0,321 and 4,32 have a decimal comma.
THOUSANDS = r"[-+]?[1-9]\d{0,2}(,\d{3})+"
ROUNDING = 1e-6  # of float32: so far a probability may be outside of [0, 1]
# What the scores of a file are taken for, by whether all of them are in [0, 1].
SCALES = {
    True: "probabilities",
    False: (
        "numbers of an unknown scale and only ranked; convert percent or logits to P(fake) for "
        "thresholds, the Brier score and calibration"
    ),
}
REVERSED_AUC = 0.3  # a lower one says that scores may be of the other class
MOST_CLUSTERS = 1000  # where videos have no cluster; more would cost memory


def scored_frames(
    paths: Sequence[Path],
    names: Sequence[str] = (),
    source: str = "",
    missing: Missing = "refuse",
) -> tuple[pd.DataFrame, list[str]]:
    """The scores of frames, like those of :func:`dfnb.report.reading.scores`, and remarks on them.

    The column ``is_probability`` says whether all scores of a detector's file are in [0, 1].

    Args:
        paths: One CSV per detector, which is named like the file; see :func:`read`.
        names: The test sets. They are read from the report ``source``, or must be prepared if that
            is empty. Without names, the test sets and labels are those of the first file.
        source: Name of a report.
        missing: What becomes of frames without a score. "drop": they are left out, for all
            detectors. "refuse": like "drop", but more than MOST_MISSING of a test set are an error.
            "real" and "fake": they get the lowest or the highest score of their test set.

    Raises :class:`DfnbError` for files and test sets that cannot be used.
    """
    if source and not names:
        raise DfnbError(f"say by --on which test sets of the report {source} were scored")
    taken_names = [each.name for each in detectors(source)] if source else []
    names = list(dict.fromkeys(names))
    sets = []
    for name in names:
        if source:
            of_set = read_table(test_set_path(report_folder(source), name))
        else:
            of_set = test_sets.load(name)
        sets.append(of_set[list(KEYS)].assign(test_set=name))
    remarks = []
    parts = []
    for path in paths:
        if path.stem in taken_names:
            raise DfnbError(f"{path} has the name of another detector; rename it")
        taken_names.append(path.stem)
        rows = read(path, names)
        sets = sets or [_labelled(path, rows, remarks)]  # without names: those of the first file
        frames = pd.concat(sets, ignore_index=True)
        is_probability = _are_probabilities(path, rows["score"])
        if is_probability:
            rows["score"] = rows["score"].clip(0, 1)  # rounded ones may be beyond by ROUNDING
        remarks.append(f"The scores of {path.stem} are taken for {SCALES[is_probability]}.")
        frames["score"] = _scores_of(path, rows, frames, missing, remarks)
        about = {"detector": path.stem, "seed": NO_SEED, "is_probability": is_probability}
        parts.append(frames.assign(**about, collapsed=False))
    table = pd.concat(parts)
    # The index repeats per detector: a frame that one did not score is dropped for all.
    incomplete = table.index[table["score"].isna()]
    # The frames of the last file are checked, because their keys are the same for all files. The
    # check also demands scores in [0, 1], which not every file has; so 0 stands in.
    complete = frames.drop(index=incomplete).assign(score=0)
    for name in frames["test_set"].unique():
        check_scores(complete[complete["test_set"] == name], f"{paths[0]}, test set {name},")
    table = table.drop(index=incomplete).reset_index(drop=True)
    remarks += _reversed(table)
    return table, remarks


def _reversed(frames: pd.DataFrame) -> list[str]:
    """A remark on each detector that calls the real videos of a test set fake, and the fakes real.

    ``frames`` are those of :func:`scored_frames`; every test set has both classes.
    """
    remarks = []
    for (name, test_set), rows in frames.groupby(["detector", "test_set"], sort=False):
        auc = roc_auc_score(rows["label"], rows["score"])
        if auc < REVERSED_AUC:
            remarks.append(
                f"{name} has an AUC of {auc:.2f} over the frames of {test_set}, far below one "
                "half: its scores may be P(real); then write 1 - score in their place."
            )
    return remarks


# ---------------------------------------------------------------- files


def read(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """The rows of a CSV with the scores of a detector; COLUMNS that it lacks are NaN.

    It is text in UTF-8, separated by commas, semicolons or tabs; decimals may have a comma. The
    columns, in any order, are ``video``, which may be called ``id``, ``path``, ``filename`` or
    ``file``; ``score``, high for fakes; and where there are such, ``label`` (0 or real, 1 or fake),
    ``test_set``, ``method``, ``cluster``, ``track`` and ``frame``. The method of real rows becomes
    real. Without ``test_set``, which is never NaN, all rows are of the one test set in ``names``;
    where these are none, or several and so refused later, of OWN_LABELS. A blank ``track`` or
    ``frame`` is 0 if another row has a number. For which frames a row counts, see
    :func:`_scores_of`.

    Args:
        path: The CSV.
        names: The test sets that are judged; none where the file itself has the labels.

    Raises :class:`DfnbError` for files that cannot be used.
    """
    aliases = {"video": ("id", "path", "filename", "file"), "score": ()}
    table = read_listing(path, aliases, "video,label,score")  # its index: the line in the file
    table = pd.DataFrame({name: table.get(name) for name in COLUMNS})
    table = table.apply(lambda column: column.str.strip()).replace("", np.nan)
    labels = {}  # text -> 0 or 1
    for line, text in table["label"].dropna().drop_duplicates().items():
        try:
            labels[text] = label_of(text)
        except ValueError as error:
            raise DfnbError(f"{path}, line {line}: {error}, or nothing if unknown") from None
    table["label"] = table["label"].map(labels).astype(float)
    for name in ("score", "track", "frame"):
        table[name] = _numbers(path, table[name])
    is_contrary = (table["label"] == 1) & (table["method"].str.lower() == "real")
    if is_contrary.any():
        raise DfnbError(
            f"{path}, line {is_contrary.idxmax()}: a fake of the method real; give the method "
            "another name, or correct the label"
        )
    table.loc[table["label"] == 0, "method"] = "real"
    is_blank = table["test_set"].isna()
    if is_blank.any() and not is_blank.all():
        raise DfnbError(
            f"{path}, line {is_blank.idxmax()}: the test_set is missing, which other rows "
            "have; fill it in, or leave the column out"
        )
    table["test_set"] = table["test_set"].fillna(names[0] if len(names) == 1 else OWN_LABELS)
    # A blank track or frame is number 0 where other rows have a number.
    numbered = table[["track", "frame"]].dropna(axis=1, how="all")
    table = table.fillna(dict.fromkeys(numbered, 0))
    table = table.drop_duplicates()  # equal rows do no harm
    repeated = table.loc[table.duplicated(FRAME), "video"]
    if len(repeated):
        raise DfnbError(
            f"{path} has {len(repeated)} videos or frames twice, with another score or label, such "
            f"as {repeated.iloc[0]} in line {repeated.index[0]}; keep one row of each, number "
            "frames in a column frame, where a blank is 0, and name a fake by its method, too, as "
            "in swap/000_003"
        )
    return table


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    """The numbers of a column of texts, which may have a decimal comma; NaN where there is none.

    The index is the line in the file. Raises :class:`DfnbError` for what is no finite number, and
    for what can be read in two ways: 4,321 where no other number shows that the comma is the
    decimal one, and a number with a point where another does.
    """
    text = column.mask(column.str.lower().isin(NO_NUMBER))
    has_comma = text.str.contains(",", na=False)
    is_ambiguous = text.str.fullmatch(THOUSANDS, na=False)
    is_decimal = has_comma & ~is_ambiguous
    # Then the comma is the decimal one in the whole column, and a point, as in 1.234, may divide
    # thousands.
    if is_decimal.any():
        is_ambiguous = text.str.contains(".", regex=False, na=False)
    if is_ambiguous.any():
        line = is_ambiguous.idxmax()
        raise DfnbError(
            f"{path}, line {line}: {column.name} = {text[line]!r} can be read in two ways; write "
            "numbers with a decimal point, and without a sign between thousands"
        )
    numbers = pd.to_numeric(text.str.replace(",", "."), errors="coerce")
    is_wrong = text.notna() & ~np.isfinite(numbers.astype(float))
    if is_wrong.any():
        line = is_wrong.idxmax()
        raise DfnbError(
            f"{path}, line {line}: {column.name} = {text[line]!r} is no finite number; write one, "
            "or nothing where it is unknown"
        )
    return numbers.astype(float)


def _are_probabilities(path: Path, score: pd.Series) -> bool:
    """Whether all scores of a file are in [0, 1], give or take ROUNDING.

    Raises :class:`DfnbError` where -1 stands among probabilities: many tools write it where they
    found no face.
    """
    score = score.dropna()
    is_inside = score.between(-ROUNDING, 1 + ROUNDING)
    is_minus_one = score == -1
    if is_minus_one.any() and is_inside[~is_minus_one].all():
        raise DfnbError(
            f"{path} has {is_minus_one.sum()} scores of -1 among probabilities; leave a field "
            "empty where there is no score"
        )
    return bool(is_inside.all())


# ---------------------------------------------------------------- frames


def _labelled(path: Path, rows: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """The frames of a file with labels: its rows without scores, the blank keys filled in.

    Raises :class:`DfnbError` where a label is missing. A remark says that each video is a cluster,
    where clusters are missing.
    """
    unlabelled = rows["label"].isna().sum()
    if unlabelled:
        raise DfnbError(
            f"{path} has no label in {unlabelled} of {len(rows)} rows; fill in its column label, 0 "
            "real or 1 fake, or name a prepared test set by --on"
        )
    if rows["cluster"].isna().any():
        remarks.append(
            "Without the column cluster, each video is a cluster of its own, or, of more than "
            f"{MOST_CLUSTERS}, with every {MOST_CLUSTERS}th after it: intervals are too narrow if "
            "people appear in several videos."
        )
    video_number = rows.groupby(["test_set", "video"]).ngroup() % MOST_CLUSTERS
    # read has given real rows the method real, so that only fakes may lack one.
    rows = rows.fillna({"cluster": "of video " + video_number.astype(str), "method": "fake"})
    return rows.drop(columns="score").fillna({"track": 0, "frame": 0})


def _scores_of(
    path: Path,
    rows: pd.DataFrame,
    frames: pd.DataFrame,
    missing: Missing,
    remarks: list[str],
) -> pd.Series:
    """The score of each of ``frames`` in the ``rows`` of a file; of missing ones, see _completed.

    The frames are those of the file's own rows, or of test sets of ours. A row counts for all
    frames of its video, or only for its track and its frame where the file has numbers of them.
    Where ``frames`` are one per video, the mean of the video's rows counts. Rows that match none of
    ``frames`` are left out, and a remark counts them.
    """
    test_sets_of_file = rows["test_set"].unique()
    for name in frames["test_set"].unique():
        if name not in test_sets_of_file:
            nearest = suggestion(name, test_sets_of_file)
            raise DfnbError(f"{path} has no row of the test set {name}{nearest}")
    video = ["test_set", "video"]  # the columns that identify one
    is_one_per_video = not frames.duplicated(video).any()
    # The columns by which rows are matched; those that the file lacks are blank.
    shared = video if is_one_per_video else list(rows[FRAME].dropna(axis=1, how="all"))
    unmatched = ~rows.set_index(shared).index.isin(frames.set_index(shared).index)
    if unmatched.any():
        remarks.append(
            f"{path.stem} has {unmatched.sum()} rows of other videos or frames, which are left out."
        )
    if is_one_per_video:
        # dropna=False keeps rows without a video: they match frames of the file's own, which
        # scored_frames refuses. Labels that disagree have a mean that is neither 0 nor 1, and are
        # refused below.
        rows = rows.groupby(video, as_index=False, dropna=False)[["label", "score"]].mean()
    rows = rows[[*shared, "label", "score"]]
    # read has refused repeated frames, so that no frame gets two rows.
    scored = frames.merge(rows, "left", on=shared, suffixes=("", "_of_file"), validate="m:1")
    wrong = scored[scored["label_of_file"].notna() & (scored["label"] != scored["label_of_file"])]
    if len(wrong):
        first = wrong.iloc[0]
        raise DfnbError(
            f"{path} has another label than the test set for {len(wrong)} of {len(scored)} frames, "
            f"such as of video {first['video']}, which has {first['label']}; correct the labels, "
            "or leave the column out"
        )
    return _completed(path, scored, missing, remarks)


def _completed(
    path: Path,
    frames: pd.DataFrame,
    missing: Missing,
    remarks: list[str],
) -> pd.Series:
    """The scores of these frames, filled in by the rule ``missing`` of :func:`scored_frames`.

    Frames to be left out keep NaN. A remark says how many lack a score, and what they count as.
    """
    score = frames["score"]
    unscored = frames[score.isna()]
    if unscored.empty:
        return score
    largest_share = score.isna().groupby(frames["test_set"]).mean().max()
    counted = f"no score of {len(unscored)} of {len(frames)} frames"
    if missing == "refuse" and largest_share > MOST_MISSING:
        first = unscored.iloc[0]
        raise DfnbError(
            f"{path} has {counted}, such as of video {first['video']} of {first['test_set']}, and "
            "1 % of a test set may be missing; score them, or say by --missing what becomes of them"
        )
    if missing not in REPLACEMENTS:  # "drop", or "refuse" with few missing
        remarks.append(f"{path.stem} has {counted}, which are left out for all detectors.")
        return score
    if largest_share == 1:
        raise DfnbError(
            f"{path} has no score at all of one of its test sets ({counted}), so that nothing says "
            f"what would count as {missing}; write its scores, or leave the test set out"
        )
    remarks.append(f"{path.stem} has {counted}, which count as {missing}.")
    return score.fillna(score.groupby(frames["test_set"]).transform(REPLACEMENTS[missing]))
