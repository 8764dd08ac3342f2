"""What notebooks 08 and 09 show of a report, measured first where the report is open.

A closed report is only read: ``dfnb run`` has measured what its profile names. An open report has
no profile: there the first run of each main detector is measured as :data:`FEW` says, in seconds to
minutes. What was measured before is read.
"""

from collections.abc import Iterable

from dfnb.checks import DfnbError
from dfnb.files import report_folder
from dfnb.running.measuring import Corruptions, Maps, ensure_scores
from dfnb.running.this_run import MAP_FRAMES
from dfnb.store import reports, scores
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
            shown = ensure_scores(run, report, [test_set], of_maps=of_maps, is_first=True)
            reports.keep(report, run, shown)
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
            reports.keep(report, run, ensure_scores(run, report, [test_set], corruptions))


def _is_closed_with(report: str, entry: str) -> bool:
    """Whether a report is closed.

    Raises :class:`DfnbError` for a closed one where its profile lacks ``entry``, which
    is "maps" or "corruptions".
    """
    if not reports.is_closed(report):
        return False
    profile = reports.profile_of(report)  # empty before the first `dfnb run`
    if profile and not profile.get(entry):
        raise DfnbError(f"the profile of {report} has no `{entry}`: {_remedy(report)}")
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
        about = scores.read_about(reports.score_path(report_folder(report), run.id))
        for name, kept in about.test_sets.items():
            scored, at_home = votes.get(name, (0, 0))
            votes[name] = (scored + 1, at_home + (kept.domain == about.train_domain))
    if not votes:
        raise DfnbError(f"no run of {report} has scores of a test set: {_remedy(report)}")
    return max(votes, key=votes.get)
