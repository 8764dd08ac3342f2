"""What a run is scored and measured on; what it was scored on before is read, not made again."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from dfnb import manifests, synth
from dfnb.attribution import maps, measures
from dfnb.checks import Closed, Name
from dfnb.data import audit, corrupt, test_sets
from dfnb.data.frames import data_identity, dataset_record
from dfnb.running.datasets import ensure_datasets, is_available
from dfnb.running.parameters import Names
from dfnb.store import scores
from dfnb.store.scores import Condition
from dfnb.training import scoring
from dfnb.training.runs import Run, frames_of


class Corruptions(Closed):
    """The corrupted frames on which runs are scored, besides the frames as they are.

    In a profile, these are the papers' own trainings, not variants.
    """

    test_set: Name
    names: list[Literal[*corrupt.CORRUPTIONS]]
    severities: list[Literal[1, 2, 3, 4, 5]]
    videos: int | None = Field(None, ge=4)  # about so many videos; None: all

    def conditions(self) -> list[Condition]:
        """One condition per corruption and severity."""
        pairs = product(self.names, self.severities)
        return [Condition(self.test_set, name, severity) for name, severity in pairs]


class Maps(Closed):
    """Which attribution maps of runs are measured, and on how many frames.

    In a profile, these are the papers' own trainings and, with ``variants``, all others.
    """

    test_sets: Names
    frames: int = Field(ge=1)  # forged frames of each test set, about so many
    # Maps besides the detector's own that are measured, and checked for sanity, where ``is_first``
    # (see ensure_scores). Of other runs only the own maps and Grad-CAM are measured.
    names: list[Literal[*maps.EXPLAINERS, "random"]] = Field(min_length=1)
    sanity_frames: int = Field(ge=2)  # forged frames for the sanity check
    # Whether the own maps and Grad-CAM of an ablation's variants are measured, too: each on the
    # first of its own test sets.
    variants: bool = False


def is_scored(
    run: Run,
    report: str,
    of_sets: Sequence[str],
    corruptions: Corruptions | None,
) -> bool:
    """Whether ``runs/`` or a report has all scores that :func:`ensure_scores` would make.

    They must be of the present versions of the test sets.
    """
    return not _missing(scores.collect(run, report), _score_conditions(of_sets, corruptions))


def ensure_scores(
    run: Run,
    report: str,
    of_sets: Sequence[str],
    corruptions: Corruptions | None = None,
    of_maps: Maps | None = None,
    is_first: bool = False,
) -> list[Condition]:
    """Score and measure a run where its score file lacks something; returns all its conditions.

    What the file has of the present versions of the test sets stays. Datasets are built if needed.
    Corruptions and maps of a test set that is not prepared are left out. Rows are of frames: scores
    of :func:`dfnb.training.scoring.predict`; or, of a map, what
    :func:`dfnb.attribution.measures.measure` or ``sanity`` gives. Raises :class:`DfnbError` for a
    test set that cannot be had.

    Args:
        run: A finished training.
        report: Its copies of the run's scores come before those of other reports.
        of_sets: Names of test sets.
        corruptions: On which corrupted frames it is scored, too; None: on none.
        of_maps: Which maps are measured; None: none. Without weights on this machine, none is.
        is_first: Whether all maps are measured and checked, see :class:`Maps`.
    """
    wanted = _score_conditions(of_sets, corruptions)
    if of_maps and run.has_weights:
        wanted += _map_conditions(run, of_maps, is_first)
    path = scores.collect(run, report)
    missing = _missing(path, wanted)
    about = scores.About(
        record=run.record, train_domain=manifests.domain_of(run.train_set)[0], test_sets={}
    )
    for name in _test_sets(missing):  # each is written at once, and not lost if the next one fails
        rows = []
        for condition in missing:
            if condition.test_set == name:
                table = _make(run, condition, corruptions, of_maps)
                rows.append(table.assign(**condition._asdict()))
        if any(map(len, rows)):
            rows = pd.concat([table for table in rows if len(table)])
            kept = test_sets.describe(name, _shared_crops(run, name))
            scores.add(path, rows, about.model_copy(update={"test_sets": {name: kept}}))
    if not path.exists():  # a run without test sets gets a file without rows
        scores.add(path, pd.DataFrame(columns=scores.CONDITION), about)
    there = {*scores.conditions_of(path)}
    return [condition for condition in wanted if condition in there]


def _score_conditions(of_sets: Sequence[str], corruptions: Corruptions | None) -> list[Condition]:
    """The conditions under which a run is scored, each once: a profile may repeat a test set.

    Corruptions are left out where their test set is not prepared.
    """
    conditions = [Condition(name) for name in of_sets]
    if corruptions and is_available(corruptions.test_set, "test"):
        conditions += corruptions.conditions()
    return list(dict.fromkeys(conditions))


def _test_sets(conditions: Iterable[Condition]) -> list[str]:
    """The test sets of these conditions, each once, in their order."""
    return list(dict.fromkeys(condition.test_set for condition in conditions))


def _missing(path: Path, wanted: Sequence[Condition]) -> list[Condition]:
    """The conditions of which a score file has no rows, or rows of another version of the set."""
    there = {*scores.conditions_of(path)}
    kept = scores.read_about(path).test_sets if path.exists() else {}
    changed = [
        name
        for name in _test_sets(wanted)
        if name in kept and kept[name].fingerprint != _fingerprint(name)
    ]
    return [each for each in wanted if each not in there or each.test_set in changed]


def _fingerprint(dataset: str) -> str:
    """The fingerprint of a test set's present version; an embedded dataset need not be built."""
    if dataset in manifests.dataset_names("synth"):
        return synth.preset_identity(dataset)
    return data_identity(dataset_record(dataset), ["test"])


def _map_conditions(run: Run, of_maps: Maps, is_first: bool) -> Iterator[Condition]:
    """The conditions under which maps of a run are measured and, if ``is_first``, checked.

    Only a first seed is measured with all maps; its sanity check is on the first test set alone.
    """
    own = maps.names(run.network())  # with Grad-CAM
    names = list(dict.fromkeys([*own, *of_maps.names])) if is_first else own
    present = [name for name in of_maps.test_sets if is_available(name, "test")]
    for name in present:
        yield from (Condition(name, map=map_name) for map_name in names)
    if is_first and present:
        yield from (Condition(present[0], map=map_name, sanity=True) for map_name in names)


def _make(
    run: Run,
    condition: Condition,
    corruptions: Corruptions | None,
    of_maps: Maps | None,
) -> pd.DataFrame:
    """The scores or measures of a run under one condition, a row per frame.

    Without a row where a test set has no fake of a method that the run has seen.
    """
    ensure_datasets(condition.test_set)
    if condition.map:
        return _measure_map(run, condition, of_maps)
    corruption, severity = condition.corruption, condition.severity
    videos = corruptions.videos if corruption else None
    return scoring.score(run, condition.test_set, corruption, severity, videos)


def _shared_crops(run: Run, test_set: str) -> int | None:
    """How many frames of a test set have a crop of the run's train or val split.

    None where it is not known: the weights are released ones, the training set is not on this
    machine in the run's version, or crops have no hashes, see :func:`dfnb.data.audit.shared_crops`.
    """
    if not run.parameters.data or not run.has_training_frames:
        return None
    trained_on = pd.concat([frames_of(run.parameters, split) for split in ("train", "val")])
    return audit.shared_crops(trained_on, test_sets.load(test_set))


def _measure_map(run: Run, condition: Condition, of_maps: Maps) -> pd.DataFrame:
    """The table of :func:`measures.measure`, or of :func:`measures.sanity` for a sanity check.

    One row per forged frame of a sample, of methods that the run has seen; without such frames it
    is empty.
    """
    count = of_maps.sanity_frames if condition.sanity else of_maps.frames
    frames = measures.sample(condition.test_set, count, run.parameters.seen_methods)
    measure = measures.sanity if condition.sanity else measures.measure
    return measure(run, frames, condition.map) if len(frames) else frames
