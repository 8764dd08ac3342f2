"""The scores of other tools alone, judged in a report of their own. Nothing here imports torch."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dfnb import page, store, test_sets
from dfnb.files import report_folder, slug, write_json
from dfnb.settings import DfnbError, check_title
from dfnb.store import KEYS, Condition


def judge(paths: Sequence[Path], names: Sequence[str], source: str = "") -> Path:
    """Make the report ``judged-<first file>``, in place of an earlier one; returns its page.

    Args:
        paths: One CSV per detector, see :func:`dfnb.store.tool_scores`, with ``test_set``.
        names: The test sets; the threshold of 5 % false alarms is chosen on the first. They are
            read from the ``source``, or must be prepared if there is none.
        source: A report whose main detectors are judged, too; empty: none.

    Raises :class:`DfnbError` for files and test sets that cannot be used; nothing is written then.
    """
    if len({path.stem for path in paths}) < len(paths):
        raise DfnbError("two files have the same name, which is that of their detector; rename one")
    compared = store.Report(source) if source else None
    taken = [slug(detector.name) for detector in compared.detectors()] if compared else []
    for path in paths:
        if slug(check_title(path.stem, path)) in taken:
            raise DfnbError(f"{path} has the name of a detector of report {source}; rename it")
    tables = {}
    for name in names:
        frames = compared.test_set(name) if compared else test_sets.load(name)
        for path in paths:
            tables[path, name] = store.tool_scores(path, frames, name)
    report = f"judged-{slug(paths[0].stem)}"
    shutil.rmtree(report_folder(report), ignore_errors=True)
    # Sentences for the head of the page.
    facts = [f"Made by `dfnb judge`; the first test set, {names[0]}, sets the threshold."]
    for (path, name), table in tables.items():
        store.write_tool_scores(report, path.stem, name, table)
        missing = table["score"].isna().sum()
        if missing:
            facts.append(
                f"{path.name} has no score of {missing} of {len(table)} frames of {name}: they "
                "count with the median of the others."
            )
    grid = {"test_sets": names}
    if compared:  # which of the test sets are within, and which enter no mean
        for key in ("within", "not_averaged"):
            grid[key] = compared.grid.get(key, [])
    content = {"judged": " ".join(facts), "grid": grid}
    write_json(report_folder(report) / "profile.yaml", content)  # JSON is YAML, too
    if compared:
        _copy_main_detectors(compared, names, report)
    return page.rebuild(report)


def _copy_main_detectors(source: store.Report, names: Sequence[str], report: str) -> None:
    """Copy the scores of a report's main detectors on these test sets into another report."""
    for detector in source.detectors():
        if detector.ablation or not detector.runs:  # a variant, or another tool
            continue
        test_sets_read = {name: source.test_set(name).attrs for name in names}
        tables = defaultdict(dict)  # seed -> condition -> table
        for condition in map(Condition, names):  # frames as they are: no corruption, no map
            if condition in source.conditions(detector):
                for table in source.read(detector, condition):
                    # Scores follow from log_odds; measures of localisation are left out.
                    tables[table.attrs["seed"]][condition] = table[[*KEYS, "log_odds"]]
        for run in detector.runs:
            # A role is (ablation, variant). A variant of STANDING_ALONE is listed as a main
            # detector, by the variant's name: so each keeps the name that it has in the source.
            roles = [(store.STANDING_ALONE, detector.name)]
            store.write_scores(report, run.record, run.id, roles, tables[run.seed], test_sets_read)
