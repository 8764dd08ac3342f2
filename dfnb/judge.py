"""The scores of other tools alone, judged in a report of their own. Nothing here imports torch."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dfnb import page, store, test_sets
from dfnb.files import report_folder, slug, write_json
from dfnb.settings import DfnbError, explained
from dfnb.store import KEY_TYPES, KEYS, Condition

MOST_MISSING = 0.01  # of the frames of a test set


def judge(paths: Sequence[Path], names: Sequence[str], profile: str = "") -> Path:
    """Make the report ``judged-<first file>`` anew of scores; returns the path of its page.

    Args:
        paths: One CSV per detector, see :func:`dfnb.store.read_tool_scores`, with a column
            ``test_set``. A score of a video, without ``frame``, counts for each of its frames.
        names: The test sets; the threshold of 5 % false alarms is chosen on the first. They are
            read from the report, or must be prepared if there is none.
        profile: A report whose main detectors are judged, too; empty: none.

    Raises :class:`DfnbError` for files and test sets that cannot be used.
    """
    if len({path.stem for path in paths}) < len(paths):
        raise DfnbError("two files have the same name, which is that of their detector; rename one")
    source = store.Report(profile) if profile else None
    facts = []
    tables = []
    for name in names:
        frames = source.test_set(name) if source else test_sets.load(name)
        for path in paths:
            table = _scored(path, frames, name)
            missing = table["score"].isna().sum()
            if missing:
                facts.append(
                    f"{path.name} has no score of {missing} of {len(table)} frames of {name}: they "
                    "count with the median of the others."
                )
            tables.append((path.stem, name, table.fillna({"score": table["score"].median()})))
    report = f"judged-{slug(paths[0].stem)}"
    shutil.rmtree(report_folder(report), ignore_errors=True)
    content = {
        "judged": " ".join(facts),
        "grid": {"test_sets": names},
        "command": f"dfnb judge {' '.join(map(str, paths))} --on {' --on '.join(names)}",
    }
    write_json(report_folder(report) / "profile.yaml", content)
    for tool, name, table in tables:
        store.write_tool_scores(report, tool, name, table)
    if source:
        _copy_main_detectors(source, names, report)
    return page.rebuild(report)


def _scored(path: Path, frames: pd.DataFrame, name: str) -> pd.DataFrame:
    """The frames of a test set with the ``score`` in a file, NaN where it is missing.

    Raises :class:`DfnbError` for more than MOST_MISSING.
    """
    table = store.read_tool_scores(path, frames, name)
    unit = ["video", "label"]  # a wrong label is a missing score
    if (table["frame"] >= 0).any():
        unit += ["track", "frame"]
    keys = frames[[*KEYS]].astype(KEY_TYPES)
    with explained(path, "as a table of scores", "score each frame, or each video, once"):
        scored = keys.merge(table[[*unit, "score"]], "left", unit, validate="many_to_one")
    is_missing = scored["score"].isna()
    if is_missing.mean() > MOST_MISSING:
        raise DfnbError(
            f"{path} has no score, or another label, of {is_missing.sum()} of {len(scored)} frames "
            f"of {name}, and 1 % may be missing; score all that `dfnb export {name}` lists"
        )
    scored.attrs = frames.attrs
    return scored


def _copy_main_detectors(source: store.Report, names: Sequence[str], report: str) -> None:
    """Copy the scores of a report's main detectors on these test sets into another report."""
    ours = [detector for detector in source.detectors() if detector.runs]
    for detector in [detector for detector in ours if not detector.ablation]:
        tables = defaultdict(dict)  # seed -> condition -> table
        for condition in map(Condition, names):
            if condition in source.conditions(detector, condition.test_set):
                for table in source.read(detector, condition):
                    tables[table.attrs["seed"]][condition] = table[[*KEYS, "log_odds"]]
        for run in detector.runs:
            roles = [(store.STANDING_ALONE, detector.name)]  # a main detector of this name
            store.write_scores(report, run.record, run.id, roles, tables[run.seed])
