"""The scores of another tool: imported once, as a score file without a training."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dfnb.data import test_sets
from dfnb.files import read_metadata, read_table, report_folder, slug, write_json
from dfnb.report.scores import (
    KEY_TYPES,
    KEYS,
    Condition,
    detectors,
    profile_of,
    test_set_path,
    threshold_of,
    write_scores,
)
from dfnb.settings import DfnbError, check_title, explained

MOST_MISSING = 0.01  # the share of a test set's frames that may lack a score


def judged(paths: Sequence[Path], names: Sequence[str], source: str = "") -> str:
    """Make the report ``judged-<first file>`` of other tools' scores, in place of an earlier one.

    Args:
        paths: One CSV per detector, see :func:`read`, with a column ``test_set``.
        names: The test sets; the threshold of 5 % false alarms is chosen on the first. They are
            read from the ``source``, or must be prepared if there is none.
        source: A report with which the detectors are compared; empty: none.

    Returns the name of the report. Raises :class:`DfnbError` for files and test sets that cannot be
    used; nothing is written then.
    """
    taken = [slug(each.name) for each in detectors(source)] if source else []
    for path in paths:
        if slug(check_title(path.stem, path)) in taken:
            raise DfnbError(f"{path} has the name of another detector; rename it")
        taken.append(slug(path.stem))
    about = {name: _test_set(name, source) for name in names}
    tables = {}
    for path in paths:
        tables[path] = {
            Condition(name): read(path, frames, name) for name, (frames, _) in about.items()
        }
    report = f"judged-{slug(paths[0].stem)}"
    shutil.rmtree(report_folder(report), ignore_errors=True)
    for path, of_tool in tables.items():
        metadata = {name: about[name][1] for name in names}
        threshold = threshold_of(of_tool[Condition(names[0])])
        write_scores(report, path.stem, of_tool, metadata, threshold=threshold)
    grid = profile_of(source).get("grid", {}) if source else {}
    content = {"grid": {**grid, "test_sets": list(names)}, "compared": source}
    write_json(report_folder(report) / "profile.yaml", content)  # JSON is YAML, too
    return report


def _test_set(name: str, source: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The frames of a test set, and what reports keep about it; see :func:`judged`."""
    if not source:
        return test_sets.load(name), test_sets.metadata(name)
    path = test_set_path(report_folder(source), name)
    return read_table(path), read_metadata(path)


def read(
    path: Path,
    frames: pd.DataFrame,
    test_set: str,
) -> pd.DataFrame:
    """The frames of a test set with another tool's ``score``; a missing one is their median.

    Args:
        path: A CSV with the columns ``test_set``, ``video``, by our name, and ``score``, any
            number, high for fakes. It may have ``frame``; else the score of a video counts for
            each of its frames. A ``label`` or ``track`` must agree with ours.
        frames: :data:`KEYS`.
        test_set: Its name in the CSV.

    Raises :class:`DfnbError` for a file that cannot be used, and where more than MOST_MISSING of
    the frames have no score.
    """
    remedy = "it needs the columns test_set, video and score, and each video, or frame, once"
    with explained(path, "as a table of scores", remedy):
        table = pd.read_csv(path, dtype={"video": str, "score": float})  # "007" is no number
        table = table[table["test_set"] == test_set]
        # A row of the CSV is the score of the frames with which it agrees in these columns.
        shared = [name for name in ("video", "track", "frame", "label") if name in table]
        keys = frames[list(KEYS)].astype(KEY_TYPES)
        scored = keys.merge(
            table[[*shared, "score"]],
            how="left",
            on=shared,
            validate="many_to_one",  # raises an error if the CSV has a video or frame twice
        )
    unscored = scored[scored["score"].isna()]
    if len(unscored) > MOST_MISSING * len(scored):
        first = unscored.iloc[0]
        raise DfnbError(
            f"{path} has no score of {len(unscored)} of {len(scored)} frames of {test_set}, such "
            f"as of video {first.video} with label {first.label}, and 1 % may be missing; score "
            "all of `dfnb.load_dataset`"
        )
    return scored.fillna({"score": scored["score"].median()})
