"""What notebooks 08 and 09 show of a report, measured first where the report is open.

A closed report is only read: ``dfnb run`` has measured what its profile names. An open report has
no profile: there the first run of each main detector is measured as :data:`FEW` says, in seconds to
minutes. What was measured before is read.
"""

from collections.abc import Callable, Iterable

from dfnb.checks import TITLE, DfnbError, check_name
from dfnb.data import test_sets
from dfnb.files import report_folder
from dfnb.library import load_dataset, predict
from dfnb.manifests import domain_of
from dfnb.running.datasets import ensure_datasets
from dfnb.running.measuring import Corruptions, Maps, measured
from dfnb.running.this_run import MAP_FRAMES
from dfnb.store import reports
from dfnb.store.scores import Condition
from dfnb.store.thresholds import threshold_of
from dfnb.training.runs import Run, with_weights

# What is measured in an open report, on one test set.
FEW = {
    "maps": {
        "names": ["Grad-CAM", "edges", "random"],
        "frames": MAP_FRAMES,
        "sanity_frames": 10,
    },
    "corruptions": {"names": ["JPEG", "blur", "noise"], "severities": [1, 5], "videos": 100},
}


def first_runs(report: str) -> dict[str, Run]:
    """The first run of each main detector that has its weights on this machine, by detector."""
    firsts = {}
    for detector in reports.detectors(report):
        if not detector.ablation:
            for run in with_weights(detector.runs)[:1]:
                firsts[detector.name] = run
    return firsts


def measure_maps(report: str) -> dict[str, Run]:
    """Measure and check the maps of :func:`first_runs`, unless the report is closed.

    Returns these runs by detector. Raises :class:`DfnbError` where there is none, for a closed
    report without maps, and for an open one where they have scores of no test set.
    """
    firsts = first_runs(report)
    if not firsts:
        raise DfnbError(
            f"no detector of report {report} has its weights on this machine: {_remedy(report)}"
        )
    if not _is_closed_with(report, "maps"):
        test_set = _test_set(report, firsts.values())
        of_maps = Maps(test_sets=[test_set], **FEW["maps"])
        for run in firsts.values():
            tables, about = measured(run, report, [test_set], of_maps=of_maps, is_first=True)
            reports.add_run(report, run, tables, about)
    return firsts


def score_corrupted(report: str) -> None:
    """Score :func:`first_runs` on corrupted frames, unless the report is closed or has none.

    Raises :class:`DfnbError` for a closed report without corruptions, and for an open one where
    these runs have scores of no test set.
    """
    firsts = first_runs(report)
    if not _is_closed_with(report, "corruptions") and firsts:
        test_set = _test_set(report, firsts.values())
        corruptions = Corruptions(test_set=test_set, **FEW["corruptions"])
        for run in firsts.values():
            tables, about = measured(run, report, [test_set], corruptions)
            reports.add_run(report, run, tables, about)


def add_tool(report: str, name: str, detector: Callable, test_set: str) -> None:
    """Score a detector of the reader's own on a test set, and add it to the report by its name.

    Its threshold is set on the real frames of this test set. A closed report stays as it is unless
    ``dfnb run`` executes the notebook, and so does a tool of that name that is there already.
    :func:`dfnb.library.predict` says what a ``detector`` takes and returns. Raises
    :class:`DfnbError` for a name that tables or files cannot have.
    """
    check_name(name, "add_tool", TITLE)
    if "/" in name:  # else the file would be in a folder where no report looks
        raise DfnbError(f"add_tool: {name!r} becomes the name of a file; choose one without /")
    is_there = reports.score_path(report_folder(report), name).exists()
    if reports.is_writable(report) and not is_there:
        ensure_datasets(test_set)
        scores = predict(detector, load_dataset(test_set))
        about = {test_set: test_sets.metadata(test_set)}
        threshold = threshold_of(scores).model_dump()
        reports.write_scores(
            report, name, {Condition(test_set): scores}, about, threshold=threshold
        )


def _is_closed_with(report: str, entry: str) -> bool:
    """Whether a report is closed.

    Raises :class:`DfnbError` for a closed one where the grid of its profile lacks ``entry``, which
    is "maps" or "corruptions".
    """
    if not reports.is_closed(report):
        return False
    profile = reports.profile_of(report)  # empty before the first `dfnb run`
    if profile and not profile["grid"].get(entry):
        raise DfnbError(f"the profile of {report} has no `{entry}` in its grid: {_remedy(report)}")
    return True


def _remedy(report: str) -> str:
    """The end of a sentence: how to make an open report that has what ``report`` lacks."""
    own = "mine" if reports.is_closed(report) else report
    return f"execute notebooks of papers with `-p report {own}` first, then this one with it"


def _test_set(report: str, runs: Iterable[Run]) -> str:
    """The test set on which most of these runs were scored.

    Of several such, it is the one that shares its domain with the training sets of most of them.
    Raises :class:`DfnbError` where there is none.
    """
    votes = {}  # test set -> (runs that were scored on it, those of them trained on its domain)
    for run in runs:
        tables, _ = reports.read_run(report, run.id)
        for name in dict.fromkeys(condition.test_set for condition in tables):
            scored, at_home = votes.get(name, (0, 0))
            is_home = domain_of(name)[0] == domain_of(run.train_set)[0]
            votes[name] = (scored + 1, at_home + is_home)
    if not votes:
        raise DfnbError(f"no run of {report} has scores of a test set: {_remedy(report)}")
    return max(votes, key=votes.get)
