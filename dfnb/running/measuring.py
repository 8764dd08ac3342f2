"""Runs as notebooks use them: trained or opened, scored, measured, and added to a report.

What a run was scored on before is read, not made again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import pandas as pd

from dfnb.attribution import maps, measures
from dfnb.results.detectors import detectors
from dfnb.results.tables import CONTROLS
from dfnb.running.parameters import (
    AttributionParameters,
    MeasuringParameters,
    RobustnessParameters,
    TrainingParameters,
)
from dfnb.store import reports, scores
from dfnb.store.runs import Training
from dfnb.store.scores import Condition, Found, StoredSet
from dfnb.training import scoring, train
from dfnb.training.runs import Run, frames_of, with_weights
from facesets import audit, files, manifests, records, sources
from facesets.checks import DfnbError
from facesets.frames import data_identity, dataset_record

# ---------------------------------------------------------------- the run of a paper's notebook


def open_or_train(p: TrainingParameters) -> Run:
    """The run with these parameters, which has the scores of its test sets.

    A finished run is opened if its weights are on this machine, in ``runs/`` or in a report; any
    other is trained, which may take hours and is announced. Released weights are adopted. What has
    no scores or measures yet is scored and measured, and kept in ``runs/``; with ``save``, the
    report gets a copy.

    Raises as :func:`dfnb.training.train.train` and :func:`ensure_scores`.
    """
    training = training_of(p)
    run = Run.find(training)
    if run is None or not run.has_weights:
        if not p.released:  # such weights need no training set
            print("No finished run has these parameters: it is trained now.")
            sources.ensure_datasets(p.train_set)
        run = train.train(training)
    ensure_scores(run, p.report, _conditions(p, run), Counts(frames=p.map_frames))
    _say_other_weights(p, run)
    if p.save:
        add(p, run)
    return run


def scored(p: TrainingParameters) -> Run | None:
    """The run that :func:`open_or_train` would give, if it has all scores that this would make.

    They may be copies in another report: then the weights need not be on this machine. Without
    them no map can be measured, and none is missed. None: something is missing.
    """
    run = Run.find(training_of(p))
    if run is None:
        return None
    lacks = missing(run, p.report, _conditions(p, run), Counts(frames=p.map_frames))
    return None if lacks else run


def add(p: TrainingParameters, run: Run) -> None:
    """Add a run to the report of its notebook, with the scores that this shows."""
    reports.keep(p.report, run, _conditions(p, run), p.variants)
    if reports.has_profile(p.report):
        _record_addition(p, run)


def training_of(p: TrainingParameters) -> Training:
    """The training with the parameters of a paper's notebook."""
    return train.make_training(
        p.paper, p.train_set, p.settings(), p.seed, p.seen_methods, p.frames_per_video
    )


def _conditions(p: TrainingParameters, run: Run) -> list[Condition]:
    """The conditions under which the run of a paper's notebook is scored and measured."""
    wanted = [Condition(name) for name in p.test_sets]
    if p.map_frames and run.has_weights:
        wanted += [
            Condition(p.test_sets[0], map=name) for name in maps.measured_names(run.network())
        ]
    return wanted


def _say_other_weights(p: TrainingParameters, run: Run) -> None:
    """Say which is which where the report has the run by other weights, as of another machine."""
    path = reports.score_path(files.stored_report(p.report), run.id)
    if path.exists() and scores.read_about(path).record.weights_sha256 != run.record.weights_sha256:
        then = "it is replaced there" if p.save else "the report stays as it is"
        print(
            f"`this run` has the weights in {run.weights().parent}; report {p.report} has "
            f"{run.id} with other weights: {then}"
        )


def _record_addition(p: TrainingParameters, run: Run) -> None:
    """Write the record that says that a run was added to the report of its notebook."""
    path = files.home() / reports.record_path(p.report, run.id)
    parameters = p.model_dump(mode="json")
    # An equal record stays as it is: Snakemake would take a newer one for a changed input of the
    # notebooks that are shown.
    if not path.exists() or files.read_json(path)["parameters"] != parameters:
        # Without the sha256 of the scores, to which 08 and 09 add rows.
        records.write_record(path, parameters, [], run=run.id)


# ---------------------------------------------------------------- the first runs of a report


def first_runs(report: str) -> dict[str, Run]:
    """The first run of each main detector that has its weights on this machine, by detector.

    Detectors that stand beside the papers, such as ResNet-50, are left out.
    """
    firsts = {}
    for detector in detectors(report):
        if not detector.ablation and not detector.is_beside:
            for run in with_weights(detector.runs)[:1]:
                firsts[detector.name] = run
    return firsts


def grows(p: MeasuringParameters) -> bool:
    """Whether what a notebook measures is kept with the scores of its report.

    That of a reader's own does always, one with a profile for the calls of ``dfnb run`` alone.
    """
    return p.save or not reports.has_profile(p.report)


def measure_maps(p: AttributionParameters) -> dict[str, Run]:
    """The :func:`first_runs` of a report by detector; their maps are measured, if it :func:`grows`.

    These are each detector's own maps, the controls, and those that ``p`` names; all are also
    compared with maps of random networks. Raises :class:`DfnbError` where there is no such run.
    """
    firsts = first_runs(p.report)
    if not firsts:
        raise DfnbError(
            f"no detector of report {p.report} has its weights on this machine: execute notebooks "
            "of papers with `-p report my-report -p save True` first, then this one with the same "
            "report"
        )
    if grows(p):
        test_set = p.measured_on or _test_set(p.report, firsts)
        counts = Counts(frames=p.frames, sanity_frames=p.sanity_frames)
        for run in firsts.values():
            names = dict.fromkeys([*maps.measured_names(run.network()), *p.other_maps, *CONTROLS])
            pairs = product((False, True), names)
            wanted = [Condition(test_set, map=name, sanity=sanity) for sanity, name in pairs]
            ensure_scores(run, p.report, wanted, counts)
            reports.keep(p.report, run, wanted)
    return firsts


def score_corrupted(p: RobustnessParameters) -> None:
    """Score the :func:`first_runs` of a report on corrupted frames, if it :func:`grows`."""
    firsts = first_runs(p.report)
    if grows(p) and firsts:
        test_set = p.measured_on or _test_set(p.report, firsts)
        pairs = product(p.corruptions, p.severities)
        wanted = [Condition(test_set, name, severity) for name, severity in pairs]
        for run in firsts.values():
            ensure_scores(run, p.report, wanted, Counts(videos=p.videos))
            reports.keep(p.report, run, wanted)


def refuse_unmeasured(rows: pd.DataFrame, p: AttributionParameters | RobustnessParameters) -> None:
    """Raise :class:`DfnbError` where ``rows``, what the notebook shows of its report, are none."""
    if rows.empty:
        raise DfnbError(
            f"report {p.report} has no scores that this notebook shows: of a profile `dfnb run` "
            "makes them; of a report of your own this notebook, where its detectors have their "
            "weights on this machine"
        )


def _test_set(report: str, firsts: Mapping[str, Run]) -> str:
    """The test set on which most of these runs were scored.

    Of several such, it is the one that shares its domain with the training sets of most of them.
    """
    votes = {}  # test set -> (runs that were scored on it, those of them trained on its domain)
    for run in firsts.values():
        about = scores.read_about(reports.score_path(files.stored_report(report), run.id))
        for name, kept in about.test_sets.items():
            scored, at_home = votes.get(name, (0, 0))
            votes[name] = (scored + 1, at_home + (kept.domain == about.train_domain))
    return max(votes, key=votes.get)


# ---------------------------------------------------------------- scores and measures


STATISTICS_FRAMES = 48  # about so many forged frames give random networks their BatchNorm


class Counts(NamedTuple):
    """On how much of a test set a run is measured.

    Attributes:
        frames: About so many forged frames, on which maps are measured.
        sanity_frames: About so many, on which they are compared with maps of random networks.
        videos: About so many, whose corrupted frames are scored; None: all.
    """

    frames: int = 0
    sanity_frames: int = 0
    videos: int | None = None

    def of(self, condition: Condition) -> int:
        """How many frames (of a map) or videos are asked for under a condition; 0: all."""
        if condition.map:
            return self.sanity_frames if condition.sanity else self.frames
        return (self.videos or 0) if condition.corruption else 0


def ensure_scores(
    run: Run,
    report: str,
    wanted: Sequence[Condition],
    counts: Counts | None = None,
) -> None:
    """Score and measure a run under the conditions of which it lacks scores.

    Each is written at once, see :func:`dfnb.store.scores.own_path`. Datasets are built if needed.
    Rows are of frames: scores of :func:`dfnb.training.scoring.predict_frames`; or, of a map, what
    :func:`dfnb.attribution.measures.measure_map` or ``sanity`` gives; a condition without rows
    leaves no file. Raises :class:`DfnbError` for a test set that cannot be had.

    Args:
        run: A finished training.
        report: Its copies of the run's scores come before those of other reports.
        wanted: The conditions.
        counts: On how much of each test set; None: no map, and all videos. What was made on less
            is made again.
    """
    counts = counts or Counts()
    domain, _ = manifests.domain_of(run.train_set)
    lacking = missing(run, report, wanted, counts)
    for name in _test_sets(lacking):
        sources.ensure_datasets(name)
        kept = describe(name, _shared_crops(run, name))
        of_set = [condition for condition in lacking if condition.test_set == name]
        for condition, rows in _make(run, of_set, counts):
            rows = rows.assign(**condition._asdict())
            asked = {condition.kind: counts.of(condition)} if counts.of(condition) else {}
            test_sets = {name: kept.model_copy(update={"asked": asked})}
            about = scores.About(record=run.record, train_domain=domain, test_sets=test_sets)
            scores.write(scores.own_path(run.id, condition, kept.fingerprint), rows, about)


def missing(
    run: Run,
    report: str,
    wanted: Sequence[Condition],
    counts: Counts,
) -> list[Condition]:
    """The conditions, each once, of which a run has too few scores of the test sets of today."""
    run.versions.update({name: sources.identity(name, "test") for name in _test_sets(wanted)})
    there = scores.find_scores(run, report)
    return [
        condition
        for condition in dict.fromkeys(wanted)
        if condition not in there or not _is_enough(there[condition], condition, counts)
    ]


def _is_enough(there: Found, condition: Condition, counts: Counts) -> bool:
    """Whether scores were made on as much of a test set as is asked for, or on the whole."""
    if not (condition.map or condition.corruption):
        return True
    kept = scores.read_about(there.path).test_sets[condition.test_set]
    return there.frames == kept.n or there.asked >= counts.of(condition) > 0


def describe(name: str, shared_crops: int | None = None) -> StoredSet:
    """What score files keep about a test set; ``shared_crops`` is of the run that was scored.

    Raises :class:`DfnbError` when the dataset is not prepared or has no test split.
    """
    record = dataset_record(name)
    made_with = record["parameters"]
    # How the frames were cut, for captions. ``scale`` is side of a crop / side of the face box.
    # Embedded datasets have no such parameter: a face fills the frames that they draw.
    cut = f"face box × {made_with['scale']}" if "scale" in made_with else "uncut"
    crop = f"{cut}, {made_with['size']} pixels"
    if "crops" in record:  # others have cut them
        crop = f"crops {record['crops']}"
    domain, is_apart = manifests.domain_of(name)
    return StoredSet(
        fingerprint=data_identity(record, ["test"]),
        domain=domain,
        apart=is_apart,
        compression=record.get("compression", "as delivered"),  # as far as it is known
        crop=crop,
        n=len(sources.frames_to_score(name)),
        shared_crops=shared_crops,
    )


def _test_sets(conditions: Iterable[Condition]) -> list[str]:
    """The test sets of these conditions, each once, in their order."""
    return list(dict.fromkeys(condition.test_set for condition in conditions))


def _shared_crops(run: Run, test_set: str) -> int | None:
    """How many frames of a test set have a crop of the run's train or val split.

    None where it is not known: the weights are released ones, the training set is not on this
    machine in the run's version, or crops have no hashes, see :func:`facesets.audit.shared_crops`.
    """
    if not run.parameters.data or not run.has_training_frames:
        return None
    trained_on = pd.concat([frames_of(run.parameters, split) for split in ("train", "val")])
    return audit.shared_crops(trained_on, sources.frames_to_score(test_set))


def _make(
    run: Run,
    conditions: Sequence[Condition],
    counts: Counts,
) -> Iterator[tuple[Condition, pd.DataFrame]]:
    """The scores or measures of a run under conditions of one test set, a row per frame.

    Measures of a map have one per forged frame of a sample, of methods that the run has seen; a
    condition without such frames is left out.
    """
    methods = run.parameters.seen_methods
    for condition in conditions:
        if not condition.map:
            videos = counts.videos if condition.corruption else None
            yield condition, scoring.score(run, *condition[:3], videos)
        elif not condition.sanity:
            frames = measures.sample(condition.test_set, counts.frames, methods)
            if len(frames):
                yield condition, measures.measure_map(run, frames, condition.map)
    checked = {condition.map: condition for condition in conditions if condition.sanity}
    test_set = conditions[0].test_set
    if checked and len(frames := measures.sample(test_set, counts.sanity_frames, methods)):
        for_statistics = measures.sample(test_set, STATISTICS_FRAMES, methods)
        # All at once, because they share their random networks.
        rows = measures.compare_with_random(run, frames, [*checked], for_statistics)
        yield from ((checked[name], of_map) for name, of_map in rows.groupby("map", sort=False))
