"""What a run is scored and measured on; what it was scored on before is read, not made again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from dfnb import device, manifests, synth
from dfnb.attribution import maps, measures
from dfnb.checks import Closed, Name
from dfnb.data import audit, corrupt, test_sets
from dfnb.data.frames import data_identity, dataset_record
from dfnb.running.datasets import ensure_datasets, is_available
from dfnb.running.parameters import Names
from dfnb.store import reports
from dfnb.store.scores import VALIDATION, Condition, add_scores
from dfnb.training import scoring
from dfnb.training.runs import Run, frames_of

Measured = tuple[dict[Condition, pd.DataFrame], dict[str, Any]]  # tables, and about test sets


class Corruptions(Closed):
    """The corrupted frames on which runs are scored, besides the frames as they are.

    In a profile, these are the papers' trainings in the grid, not the variants of ablations.
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

    In a profile, these are the papers' trainings in the grid and, with ``variants``, all others.
    """

    test_sets: Names
    frames: int = Field(ge=1)  # forged frames of each test set, about so many
    # Maps besides the detector's own that are measured, and checked for sanity, where ``is_first``
    # (see measured). Of other runs the own maps and Grad-CAM are measured, and none is checked.
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
    """Whether ``runs/`` or a report has all scores that :func:`measured` would make.

    They must be of the present versions of the test sets. The arguments are those of
    :func:`measured`.
    """
    wanted = _score_conditions(of_sets, corruptions)
    tables, about = reports.read_tables(run, _test_sets(wanted), report)
    return all(condition in tables for condition in wanted) and not _changed(run, about)


def measured(
    run: Run,
    report: str,
    of_sets: Sequence[str],
    corruptions: Corruptions | None = None,
    of_maps: Maps | None = None,
    is_first: bool = False,
) -> Measured:
    """The scores and measures of a run, and what is kept about their test sets.

    Those of the present versions of the test sets are read where ``runs/`` or a report has them.
    The others are made and added to ``runs/``; datasets are built if needed. Corruptions and maps
    of a test set that is not prepared are left out. There is a table per condition, of frames:
    scores, see :func:`dfnb.training.scoring.predict`; or, of a map, what
    :func:`dfnb.attribution.measures.measure` or ``sanity`` gives. What is kept is described at
    :data:`dfnb.store.scores.About`. Raises :class:`DfnbError` for a test set that cannot be had.

    Args:
        run: A finished training.
        report: Name of a report; its copies take precedence over those of other reports.
        of_sets: Names of test sets, and perhaps :func:`validation_of` the run.
        corruptions: On which corrupted frames it is scored, too; None: on none.
        of_maps: Which maps are measured; None: none. Without weights on this machine, none is.
        is_first: Whether all maps are measured and checked, see :class:`Maps`.
    """
    wanted = _score_conditions(of_sets, corruptions)
    if of_maps and run.has_weights:
        wanted += _map_conditions(run, of_maps, is_first)
    tables, about = reports.read_tables(run, _test_sets(wanted), report)
    changed = _changed(run, about)
    tables = {key: table for key, table in tables.items() if key.test_set not in changed}
    missing = [key for key in wanted if key not in tables]
    made, about_made = _make(run, missing, corruptions, of_maps)
    for name, new in about_made.items():
        known = about.get(name, {}).get("shared_crops") if name not in changed else None
        # shared_crops, see About, cannot be counted where the training set is not here any more.
        if known and new["shared_crops"] is None:
            new["shared_crops"] = known
    if made:
        add_scores(run.id, made, about_made)
    tables = {key: table for key, table in (tables | made).items() if key in wanted}
    about |= about_made
    return tables, {key.test_set: about[key.test_set] for key in tables}


def validation_of(run: Run) -> str:
    """The name under which scores of a run's validation split are stored, as of a test set.

    All its frames are scored, also those that ``Settings.visible`` hides from the training.
    """
    return VALIDATION.format(run.train_set)


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


def _changed(run: Run, about: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The test sets in ``about`` that have another version today than when they were scored.

    ``about`` is what is kept about each test set of stored scores.
    """
    changed = []
    for name, kept in about.items():
        is_validation = name == validation_of(run)
        dataset, split = (run.train_set, "val") if is_validation else (name, "test")
        if kept["fingerprint"] != _fingerprint(dataset, split):
            changed.append(name)
    return changed


def _fingerprint(dataset: str, split: str) -> str:
    """The fingerprint of a split's present version; an embedded dataset need not be built."""
    if dataset in manifests.dataset_names("synth"):
        return synth.preset_identity(dataset)
    return data_identity(dataset_record(dataset), [split])


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
    missing: Sequence[Condition],
    corruptions: Corruptions | None,
    of_maps: Maps | None,
) -> Measured:
    """Score and measure a run under the conditions that are ``missing`` among the stored ones."""
    tables = {}
    about = {}
    for condition in missing:
        name = condition.test_set
        if name == validation_of(run):
            ensure_datasets(run.train_set)
            about[name] = test_sets.metadata(run.train_set, "val")
            network = run.network().to(device.DEVICE)
            frames = frames_of(run.parameters, "val")
            tables[condition] = scoring.predict(network, frames, run.settings, locate=False)
            continue
        ensure_datasets(name)
        if name not in about:
            about[name] = test_sets.metadata(name) | {"shared_crops": _shared_crops(run, name)}
        if condition.map:
            table = _measure_map(run, condition, of_maps)
            if len(table):  # empty where the test set has no fake of a method that it has seen
                tables[condition] = table
        else:
            corruption, severity = condition.corruption, condition.severity
            videos = corruptions.videos if corruption else None
            tables[condition] = scoring.score(run, name, corruption, severity, videos)
    return tables, about


def _shared_crops(run: Run, test_set: str) -> list[int] | None:
    """How many frames of a test set have a crop of the run's train or val split; then, of how many.

    None where it is not known: the weights are released ones, the training set is not on this
    machine in the run's version, or crops have no hashes, see :func:`dfnb.data.audit.shared_crops`.
    """
    if not run.parameters.data or not run.has_training_frames:
        return None
    trained_on = pd.concat([frames_of(run.parameters, split) for split in ("train", "val")])
    tested = test_sets.load(test_set)
    shared = audit.shared_crops(trained_on, tested)
    return None if shared is None else [shared, len(tested)]


def _measure_map(run: Run, condition: Condition, of_maps: Maps) -> pd.DataFrame:
    """The table of :func:`measures.measure`, or of :func:`measures.sanity` for a sanity check.

    One row per forged frame of a sample, of methods that the run has seen; without such frames it
    is empty.
    """
    count = of_maps.sanity_frames if condition.sanity else of_maps.frames
    frames = measures.sample(condition.test_set, count, run.parameters.seen_methods)
    measure = measures.sanity if condition.sanity else measures.measure
    return measure(run, frames, condition.map) if len(frames) else frames
