"""A profile as a list of jobs: trainings with their scores, and notebooks.

A profile, ``notebooks/profiles/<name>.yaml``, names the detectors, the datasets and the seeds.
:func:`plan` makes a list of jobs of it, once: the Snakefile and the trainings read it from a file.
A training is a job of its own: it builds those datasets of the embedded benchmark that are missing,
trains, scores, and writes ``reports/<profile>/scores/<run id>.parquet``. Notebooks read these
files, or train by :func:`trained` what is missing when they are opened by hand.
"""

from collections.abc import Iterator, Mapping
from glob import glob
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from dfnb import files, papers, records, synth
from dfnb.attribution import maps, measures
from dfnb.data import corrupt, test_sets
from dfnb.data.frames import dataset_record
from dfnb.records import RunParameters, TrainingOptions
from dfnb.report.scores import (
    STANDING_ALONE,
    VALIDATION,
    Condition,
    Role,
    remove_replaced,
    score_path,
    weights_path,
    write_scores,
)
from dfnb.running import parameters
from dfnb.running.parameters import Names, Seeds, TrainingParameters
from dfnb.settings import TITLE, Closed, DfnbError, Name, Title, check_name, read_yaml, suggestion
from dfnb.training import scoring, train
from dfnb.training.runs import Run, frames_of

MAIN: Role = ("", "")  # no ablation, no variant: a paper's training as the grid describes it


# ---------------------------------------------------------------- profiles


class Corruptions(Closed):
    """The corrupted frames on which main detectors are scored, besides the frames as they are."""

    test_set: Name
    names: list[Literal[*corrupt.CORRUPTIONS]]
    severities: list[Literal[1, 2, 3, 4, 5]]
    videos: int | None = Field(None, ge=4)  # about so many videos; None: all


class Maps(Closed):
    """Which attribution maps of main detectors are measured, and on how many frames."""

    test_sets: Names
    frames: int = Field(ge=1)  # forged frames of each test set, about so many
    # Maps besides the detectors' own that notebook 08 measures and checks, for each main detector's
    # first seed. Trainings measure Grad-CAM, named here or not: the notebook only checks it.
    names: list[str] = Field(min_length=1)
    sanity_frames: int = Field(ge=2)  # forged frames for the sanity check


class Grid(Closed):
    """The datasets on which every paper is trained and tested, and the seeds.

    ``{seed}`` in the name of a training set, also in that of a notebook or a variant, is replaced
    by the seed: each seed has its own training set. Then ``within`` names the test sets that count
    as within-dataset; the training set always does. No mean over test sets includes those of
    ``not_averaged``.
    """

    train_set: str
    test_sets: Names
    seeds: Seeds
    within: list[Name] = Field([])
    not_averaged: list[Name] = Field([])
    corruptions: Corruptions | None = None
    maps: Maps | None = None


class Variant(Closed, extra="allow"):
    """What a variant of an ablation changes: parameters of its notebook, and its own ``seeds``.

    The parameters are extra fields here; the schema of the notebook checks them.
    """

    seeds: Seeds = Field([])  # empty: the grid's first


class Profile(Closed):
    """A file of ``notebooks/profiles``.

    Attributes:
        notebooks: notebook → what it changes of the grid's and its default parameters, in reading
            order.
        ablations: notebook → ablation → variant → what it changes. The variants of an ablation are
            compared with its variant ``main``, or with the paper's own training where it has none.
        claims: file in ``data_manifest/claims/``, without suffix, that the report judges.
    """

    description: str
    grid: Grid
    notebooks: dict[str, dict[str, Any] | None] = Field(min_length=1)
    ablations: dict[str, dict[Title, dict[Title, Variant]]] = Field({})
    claims: Name = "claims"


def profile(name: str) -> Profile:
    """The checked content of a profile; raises :class:`DfnbError` that names file and remedy."""
    path = files.profile_path(name)
    checked = Profile.check(read_yaml(path), path)
    for notebook in checked.ablations:
        if notebook not in papers.notebooks():  # those of the papers; no other notebook trains
            raise DfnbError(f"{path} has ablations of {notebook}, which trains nothing")
    return checked


# ---------------------------------------------------------------- the plan


class Job(Closed):
    """One step of a profile: a notebook that papermill executes, or a :class:`Training`.

    Attributes:
        name: of the notebook; of a training, the id of its run.
        profile: the name of the profile.
        output: the file that proves that the job ended, relative to the home.
        parameters: of the notebook; of a training, those with which its paper's notebook shows it.
    """

    name: str
    profile: Name
    output: Path
    parameters: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the output exists."""
        return (files.home() / self.output).exists()


class Training(Job):
    """A training, and all that is scored and measured with it.

    Attributes:
        run: what identifies the training.
        roles: the pairs of ablation and variant under which the report shows it.
        train_set: as the profile names it, with ``{seed}`` where each seed has its own.
        test_sets: the datasets that it is scored on.
        corruptions: the corrupted frames that it is scored on, too.
        maps: where its attribution maps are measured.
    """

    run: RunParameters
    roles: list[Role]
    train_set: str
    test_sets: list[str]
    corruptions: Corruptions | None
    maps: Maps | None


class Plan(Closed):
    """The jobs of a profile; notebooks wait for all trainings, and the last for all notebooks.

    ``workflow/Snakefile`` reads a file of it.
    """

    profile: Name
    trainings: list[Training]
    notebooks: list[Job]

    def training(self, name: str) -> Training:
        """The training of that name; raises :class:`DfnbError` with the nearest for another."""
        by_name = {job.name: job for job in self.trainings}
        if name not in by_name:
            raise DfnbError(
                f"profile {self.profile} has no training {name!r}{suggestion(name, by_name)}"
            )
        return by_name[name]


def plan(
    name: str,
    main: bool = False,
    **changes: Any,
) -> Plan:
    """The jobs of a profile, whether done or not.

    All parameters are checked here, before anything runs. Test sets and variants whose real
    datasets are not prepared are left out. Pretrained weights may be fetched, because the run ids
    have their sha256.

    Args:
        name: The name of the profile.
        main: Whether to leave out the trainings of all ablations.
        **changes: Parameters that all trainings have in place of the profile's.

    Raises :class:`DfnbError` for wrong parameters, and where the main training set or pretrained
    weights are not there.
    """
    content = profile(name)
    by_id: dict[str, Training] = {}
    shown = {}  # notebook -> its parameters; that of a paper shows the paper's first training
    for notebook in content.notebooks:
        for job in _trainings(name, content, notebook, changes):
            shown.setdefault(notebook, job.parameters)
            same = by_id.setdefault(job.name, job)
            # An equal training in another role: its test sets count, too. Corruptions and maps are
            # those of MAIN, which comes first.
            if same is not job:
                same.roles.extend(job.roles)
                more = [dataset for dataset in job.test_sets if dataset not in same.test_sets]
                same.test_sets.extend(more)
    trainings = list(by_id.values())
    if main:  # released weights are not trained, and stay
        trainings = [job for job in trainings if MAIN in job.roles or not job.run.data]
    notebooks = []
    for notebook, own in content.notebooks.items():
        own = own or {}  # None where the profile changes nothing
        # Released weights are only scored: no training that the notebook could show. In the plan,
        # their scoring is among the trainings.
        if own.get("released"):
            if not trainings:
                raise DfnbError(
                    f"profile {name} has nothing to score: put weights into {own['released']} "
                    "or the folders of other papers, and prepare one of its test sets (`dfnb data`)"
                )
            continue
        if notebook not in shown:
            values = {"profile": name, **own}
            checked = parameters.schema(notebook).check(values, f"profile {name}, {notebook}")
            shown[notebook] = checked.model_dump(mode="json")
        output = records.notebook_record(name, notebook)  # written last
        job = Job(name=notebook, profile=name, output=output, parameters=shown[notebook])
        notebooks.append(job)
    return Plan(profile=name, trainings=trainings, notebooks=notebooks)


def is_available(dataset: str) -> bool:
    """Whether a dataset is prepared, or of the embedded benchmark, which is built when needed."""
    if dataset in files.dataset_names("synth"):
        return True
    return records.read_record(files.dataset_folder(dataset)) is not None


def _trainings(
    name: str,
    content: Profile,
    notebook: str,
    changes: Mapping[str, Any],
) -> Iterator[Training]:
    """Every training of a paper's notebook, first those of the grid, then those of the ablations.

    Ablations take the grid's first seed unless they name others, and are left out where their
    datasets are missing. The grid's trainings stay, so that a missing training set is an error.
    """
    if notebook not in papers.notebooks():
        return
    grid = content.grid
    schema = parameters.schema(notebook)
    shared = {"profile": name, "train_set": grid.train_set, "test_sets": grid.test_sets}
    shared.update(content.notebooks[notebook] or {})  # None where the profile changes nothing
    for role, variant in _variants(content, notebook, shared.get("released")).items():
        values = {**shared, **variant.model_extra, **changes}
        train_set = str(values["train_set"])  # perhaps with {seed}
        for seed in variant.seeds or grid.seeds[:1]:
            values.update(train_set=train_set.replace("{seed}", str(seed)), seed=seed)
            p = schema.check(values, f"profile {name}, {notebook}, {' '.join(role)}")
            present = [dataset for dataset in p.test_sets if is_available(dataset)]
            can_start = p.released or is_available(p.train_set)
            if role != MAIN and not (present and can_start):
                continue
            p = p.model_copy(update={"test_sets": present})
            run = _run_parameters(p)
            run_id = train.run_id(run)
            yield Training(
                name=run_id,
                profile=name,
                output=score_path(Path("reports", name), run_id),
                parameters=p.model_dump(mode="json"),
                run=run,
                roles=[role],
                train_set=train_set,
                test_sets=present,
                corruptions=grid.corruptions if role == MAIN else None,
                maps=grid.maps if role == MAIN else None,
            )


def _variants(content: Profile, notebook: str, released: str | None) -> dict[Role, Variant]:
    """The variants of a paper by role: its training in the grid, then those of its ablations.

    Each file that the pattern ``released`` matches is a variant with the authors' weights. They
    take the place of the training in the grid.
    """
    variants = {MAIN: Variant(seeds=content.grid.seeds)}
    if released:
        variants.clear()
        paper = papers.module(papers.notebooks()[notebook]).PAPER.title
        for file in sorted(glob(released, root_dir=files.home())):  # noqa: PTH207, may be absolute
            title = check_name(f"{paper}, {Path(file).stem}", file, TITLE)
            variants[STANDING_ALONE, title] = Variant(released=file)
    for ablation, by_title in content.ablations.get(notebook, {}).items():
        variants.update({(ablation, title): variant for title, variant in by_title.items()})
    return variants


def _run_parameters(p: TrainingParameters) -> RunParameters:
    """What identifies the training with the parameters of a paper's notebook."""
    options = p.model_dump(include=set(TrainingOptions.model_fields))
    return train.run_parameters(settings=p.settings(), **options)


# ---------------------------------------------------------------- what jobs and notebooks call


def ensure_datasets(*names: str) -> None:
    """Build the missing datasets of the embedded benchmark.

    Raises :class:`DfnbError` for any other dataset that is not prepared.
    """
    for name in names:
        if name in files.dataset_names("synth"):
            synth.build(name)  # returns at once where the dataset is there
        else:
            dataset_record(name)  # raises where it is not prepared


def trained(p: TrainingParameters) -> Run:
    """The training of a paper's notebook, see :func:`train_and_score`.

    One that the profile does not plan, because a reader has changed the parameters, is only
    trained, on datasets that are there: no table of the report has it.
    """
    run = _run_parameters(p)
    for job in plan(p.profile).trainings:
        if job.run == run:
            return train_and_score(job)
    return train.train(run)


def ensure_trained(name: str) -> None:
    """Train the main detectors that the report of a profile lacks, for notebooks opened by hand."""
    for job in plan(name, main=True).trainings:
        train_and_score(job)


def train_and_score(job: Training) -> Run:
    """Train, and score the test sets; where the job says so, also corrupted frames and maps.

    If the report already has the scores, the run is only opened, by its id.

    The validation split is scored as one more test set, also what ``Settings.visible`` hides. No
    table reads these scores: a report's threshold is that of the record.

    The report also gets a copy of the profile and, for the first seed of each main detector, the
    weights: notebooks need them to draw maps on a machine without ``runs/``. The score file proves
    that the job ended. Then scores of the same detector and seed with other settings are removed.
    """
    if job.done:
        return Run.open(job.name)
    report = files.report_folder(job.profile)
    ensure_datasets(*job.test_sets)
    if job.run.data:  # empty for released weights, which need no training set
        ensure_datasets(job.run.train_set)
    run = train.train(job.run)  # a finished training is only loaded
    files.write_bytes(report / "profile.yaml", files.profile_path(job.profile).read_bytes())
    if MAIN in job.roles and run.seed == profile(job.profile).grid.seeds[0]:
        weights = (run.folder / "best.safetensors").read_bytes()
        files.write_bytes(weights_path(report, run.id), weights)
    tables = dict(_tables(run, job))
    metadata = {name: test_sets.metadata(name) for name, *_ in tables}  # of each Condition
    if job.run.data:
        validation = VALIDATION.format(job.run.train_set)
        network = run.network().to(scoring.DEVICE)
        frames = frames_of(job.run, "val")
        scores = scoring.predict(network, frames, run.settings, locate=False)
        tables[Condition(validation)] = scores
        metadata[validation] = test_sets.metadata(job.run.train_set)
    # As the profile names it, bed-{seed}: then all seeds have the same.
    record = run.record.model_copy(update={"train_set": job.train_set})
    about = record.model_dump(mode="json")
    write_scores(job.profile, run.id, tables, metadata, record=about, roles=job.roles)
    remove_replaced(job.profile, run.id)
    return run


def _tables(run: Run, job: Training) -> Iterator[tuple[Condition, pd.DataFrame]]:
    """The scores of each test set, those of corrupted frames, and the measures of maps.

    The maps are the network's own and Grad-CAM; notebook 08 measures the others of ``Maps.names``.
    A test set without a fake of a seen method has none.
    """
    for name in job.test_sets:
        yield Condition(name), scoring.score(run, name)
    if job.corruptions and is_available(job.corruptions.test_set):
        name = job.corruptions.test_set
        videos = job.corruptions.videos
        ensure_datasets(name)
        for corruption, severity in product(job.corruptions.names, job.corruptions.severities):
            table = scoring.score(run, name, corruption, severity, videos)
            yield Condition(name, corruption, severity), table
    if not job.maps:
        return
    for name in filter(is_available, job.maps.test_sets):
        ensure_datasets(name)
        frames = measures.sample(name, job.maps.frames, run.parameters.seen_methods)
        if frames.empty:  # no fake of a method that it has seen
            continue
        for map_name in maps.names(run.network()):
            yield Condition(name, map=map_name), measures.measure(run, frames, map_name)
