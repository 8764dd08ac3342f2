"""A profile as a list of jobs: trainings with their scores, and notebooks.

A profile, ``notebooks/profiles/<name>.yaml``, names the detectors, the datasets and the seeds.
:func:`plan` makes a list of jobs of it, which the Snakefile turns into rules. A training is a job
of its own: it builds those datasets of the embedded benchmark that are missing, trains, scores, and
writes ``reports/<profile>/scores/<run id>.parquet``. Notebooks read these files, or train by
:func:`trained` what is missing when they are opened by hand.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from dfnb import corrupt, files, papers, parameters, records, scoring, store, synth, train
from dfnb.attribution import maps as attribution_maps
from dfnb.attribution import measures
from dfnb.parameters import DataParameters, Names, Parameters, Seeds, TrainingParameters
from dfnb.runs import Run
from dfnb.settings import Closed, DfnbError, Name, Title, read_yaml, suggestion
from dfnb.store import Condition, Role
from dfnb.test_sets import metadata

MAIN: Role = ("", "")  # no ablation, no variant: a paper's training as the grid describes it


# ---------------------------------------------------------------- profiles


class Corruptions(Closed):
    """The corrupted frames on which main detectors are scored, besides the frames as they are."""

    test_set: Name
    names: list[Literal[*corrupt.CORRUPTIONS]]
    severities: list[Literal[1, 2, 3, 4, 5]]
    videos: int | None = Field(None, ge=4)  # about so many videos; None: all


class Maps(Closed):
    """Which attribution maps are measured, and on how many frames."""

    test_sets: Names
    frames: int = Field(ge=1)  # forged frames of each test set, about so many
    # Maps besides the detectors' own that notebook 08 measures and checks, for each main detector's
    # first seed. Trainings measure Grad-CAM, named here or not: the notebook only checks it.
    names: list[str] = Field(min_length=1)
    sanity_frames: int = Field(ge=2)  # forged frames for the sanity check
    variants: bool  # whether the maps of the ablations' variants are measured, too


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
        allow_random: whether random weights may replace pretrained ones that cannot be fetched.
        claims: name of the file in ``data_manifest/`` with the claims that the report judges.
    """

    description: str
    grid: Grid
    notebooks: dict[str, dict[str, Any] | None] = Field(min_length=1)
    ablations: dict[str, dict[Title, dict[Title, Variant]]] = Field({})
    allow_random: bool = True
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


class Job(NamedTuple):
    """One step of a profile.

    Attributes:
        name: of the notebook; of a training, as in messages and for ``dfnb train``.
        parameters: those of the notebook; for a training, those of its paper's notebook.
        output: the file that proves that the job ended, relative to the home.
        needs: the outputs of other jobs that it waits for, relative to the home.
        run_id: of a training; a notebook has neither this nor what follows.
        roles: of a training; the pairs of ablation and variant under which the report shows it.
        train_set: as the profile names it, with ``{seed}`` where each seed has its own.
        arguments: those of :func:`dfnb.train.train`.
    """

    name: str
    kind: Literal["training", "notebook"]
    parameters: Parameters
    output: Path
    needs: tuple[Path, ...] = ()
    run_id: str = ""
    roles: tuple[Role, ...] = ()
    train_set: str = ""
    arguments: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Whether the output exists."""
        return (files.home() / self.output).exists()

    @property
    def log(self) -> Path:
        """The file for the output of the job, relative to the home."""
        return Path("reports", self.parameters.profile, "logs", f"{self.name}.txt")


def plan(name: str, ablations: Sequence[str] | None = None) -> list[Job]:
    """The jobs of a profile, each after those that it needs.

    All parameters are checked here, before anything runs. Notebooks wait for the trainings, and the
    last one, which shows the report, for the other notebooks, too. Test sets and variants whose
    real datasets are not prepared are left out.

    Args:
        name: The name of the profile.
        ablations: The ablations that are trained beside the main detectors; None: all.

    Raises :class:`DfnbError` for wrong parameters, and where the main training set is not there.
    """
    content = profile(name)
    if ablations is not None:
        content = _with_ablations(content, ablations, files.profile_path(name))
    trainings = _trainings(name, content)
    score_files = tuple(job.output for job in trainings)
    notebooks = []
    for notebook in content.notebooks:
        checked = _notebook_parameters(name, content, notebook, trainings)
        output = _record_path(name, notebook)  # written last by :func:`finish`
        notebooks.append(Job(notebook, "notebook", checked, output, score_files))
    others = [job.output for job in notebooks[:-1]]
    notebooks[-1] = notebooks[-1]._replace(needs=(*score_files, *others))
    return [*trainings, *notebooks]


def _with_ablations(content: Profile, ablations: Sequence[str], path: Path) -> Profile:
    """The profile with no other ablations than these; ``path`` is its file, for the message.

    Raises :class:`DfnbError` for an ablation that the profile lacks.
    """
    kept = {}
    known = set()  # the titles of all ablations of the profile
    for notebook, of_notebook in content.ablations.items():  # of_notebook: title -> variants
        known.update(of_notebook)
        kept[notebook] = {title: of_notebook[title] for title in ablations if title in of_notebook}
    for title in ablations:
        if title not in known:
            raise DfnbError(f"{path} has no ablation {title!r}{suggestion(title, sorted(known))}")
    return content.model_copy(update={"ablations": kept})


def _is_available(dataset: str) -> bool:
    """Whether a dataset is prepared, or of the embedded benchmark, which is built when needed."""
    folder = files.dataset_folder(dataset)
    return dataset in files.dataset_names("synth") or records.read_record(folder) is not None


def missing_datasets(name: str) -> list[str]:
    """The datasets of a profile's grid that are left out, because they are not prepared."""
    return [dataset for dataset in profile(name).grid.test_sets if not _is_available(dataset)]


def _trainings(name: str, content: Profile) -> list[Job]:
    """The trainings of a profile, paper by paper; trainings that are the same are one job."""
    trainings: dict[str, Job] = {}  # by run id
    for notebook in content.notebooks:
        if notebook not in papers.notebooks():
            continue
        for role, train_set, requested in _requested(name, content, notebook):
            job = _training(requested, role, train_set, content.allow_random)
            same = trainings.get(job.run_id)
            if same:  # an equal training is planned: it gets this role and these test sets, too
                test_sets = dict.fromkeys([*same.parameters.test_sets, *requested.test_sets])
                changes = {"test_sets": list(test_sets)}
                job = same._replace(
                    parameters=same.parameters.model_copy(update=changes),
                    roles=(*same.roles, role),
                )
            trainings[job.run_id] = job
    return list(trainings.values())


def _requested(
    name: str,
    content: Profile,
    notebook: str,
) -> Iterator[tuple[Role, str, TrainingParameters]]:
    """Role, training set as the profile names it, and parameters of every training of a paper.

    ``name``: of the profile; ``notebook``: of the paper. The grid's trainings come first, then
    those of the ablations.

    Ablations take the grid's first seed unless they name others, and are left out where their
    datasets are missing. The grid's trainings stay, so that a missing training set is an error.
    """
    grid = content.grid
    schema = parameters.schema(notebook)
    shared = {"profile": name, "train_set": grid.train_set, "test_sets": grid.test_sets}
    shared.update(content.notebooks[notebook] or {})  # None where the profile changes nothing
    changes_by_role = {MAIN: {"seeds": grid.seeds}}  # what each role has beside ``shared``
    for ablation, variants in content.ablations.get(notebook, {}).items():
        for variant, changes in variants.items():
            changes = changes.model_dump(exclude_unset=True)  # seeds only where the file has them
            changes_by_role[ablation, variant] = {"seeds": grid.seeds[:1], **changes}
    for role, changes in changes_by_role.items():
        seeds = changes.pop("seeds")  # not a parameter: a training has one seed
        values = {**shared, **changes}
        source = f"profile {name}, {notebook}, {' '.join(role)}"  # begins the messages of errors
        name_in_profile = str(values["train_set"])  # perhaps with {seed}
        for seed in seeds:
            of_seed = {
                **values,
                "train_set": name_in_profile.replace("{seed}", str(seed)),
                "seed": seed,
            }
            requested = schema.check(of_seed, source)
            # Test sets that are missing are not scored. A variant is left out where all of them are
            # missing, or its training set is.
            present = [dataset for dataset in requested.test_sets if _is_available(dataset)]
            if role == MAIN or (present and _is_available(requested.train_set)):
                yield role, name_in_profile, requested.model_copy(update={"test_sets": present})


def _training(
    p: TrainingParameters,
    role: Role,
    train_set: str,
    allow_random: bool,
) -> Job:
    """The job of the training with these parameters, in one role, whether done or not.

    ``train_set``: as the profile names it. ``allow_random``: whether random weights may replace
    pretrained ones that cannot be fetched. These may be fetched here, because the run id has their
    sha256.
    """
    # The parameters that are arguments of train.train by the same name. Of the others it gets those
    # of the paper as ``settings``.
    same_names = {"paper", "train_set", "seed", "seen_methods", "devices", "frames_per_video"}
    arguments = p.model_dump(include=same_names)
    arguments.update(settings=p.settings(), allow_random=allow_random)
    run_id = train.run_id(train.run_parameters(**arguments))
    words = [p.paper, p.train_set, *map(files.slug, role), f"s{p.seed}"]  # MAIN is two empty ones
    return Job(
        name="-".join(word for word in words if word),
        kind="training",
        parameters=p,
        output=store.score_path(Path("reports", p.profile), run_id),
        run_id=run_id,
        roles=(role,),
        train_set=train_set,
        arguments=arguments,
    )


def _notebook_parameters(
    name: str,
    content: Profile,
    notebook: str,
    trainings: Sequence[Job],
) -> Parameters:
    """The parameters of a notebook; a paper's are those of its first training, which it shows.

    The notebook on data shows all datasets of the trainings unless the profile names some.
    """
    paper = papers.notebooks().get(notebook)  # None if it trains nothing: no job has this paper
    for job in trainings:
        if job.parameters.paper == paper:
            return job.parameters
    schema = parameters.schema(notebook)
    values = {"profile": name, **(content.notebooks[notebook] or {})}
    if schema is DataParameters:
        names = []  # of the datasets, with repetitions
        for job in trainings:
            names += [job.parameters.train_set, *job.parameters.test_sets]
        values.setdefault("datasets", list(dict.fromkeys(names)))
    return schema.check(values, f"profile {name}, {notebook}")


# ---------------------------------------------------------------- what jobs and notebooks call


def ensure_datasets(*names: str) -> None:
    """Build the missing datasets of the embedded benchmark.

    Raises :class:`DfnbError` for any other dataset that is not prepared.
    """
    for name in dict.fromkeys(names):
        if name in files.dataset_names("synth"):
            synth.build(name)  # returns at once where the dataset is there
        elif records.read_record(files.dataset_folder(name)) is None:
            raise DfnbError(
                f"dataset {name} is neither prepared nor part of the benchmark; use `dfnb prepare`"
            )


def trained(p: TrainingParameters) -> Run:
    """The training of a paper's notebook, with its scores in the report.

    If the report already has its scores, the run is only opened, by its id. Else it is loaded from
    ``runs/``, resumed or trained, and then scored: one that the profile plans on the profile's test
    sets, any other on those of ``p``. A training that the profile does not plan is in no table of
    its report.
    """
    allow_random = profile(p.profile).allow_random
    # MAIN only makes the job's name. It has no role in the report, because the parameters may be a
    # reader's own.
    job = _training(p, MAIN, p.train_set, allow_random)._replace(roles=())
    for planned in plan(p.profile):
        if planned.run_id == job.run_id:  # the profile plans this training: it has roles there
            job = planned
    if job.done:  # the report has its scores
        return Run.open(job.run_id)
    return train_and_score(job)


def ensure_trained(name: str) -> None:
    """Train the main detectors that the report of a profile lacks, for notebooks opened by hand."""
    for job in plan(name):
        if MAIN in job.roles and not job.done:
            train_and_score(job)


def train_job(name: str, job_name: str) -> Run:
    """Do the training of that name; raises :class:`DfnbError` with the nearest if there is none."""
    trainings = {job.name: job for job in plan(name) if job.kind == "training"}
    if job_name not in trainings:
        nearest = suggestion(job_name, trainings)
        raise DfnbError(f"profile {name} has no training {job_name!r}{nearest}")
    return train_and_score(trainings[job_name])


def train_and_score(job: Job) -> Run:
    """Train, and score the test sets; where the grid says so, also corrupted frames and maps.

    The report also gets a copy of the profile and, for the first seed of each main detector, the
    weights: notebooks need them to draw maps on a machine without ``runs/``. The score file is
    written last, and proves that the job ended.
    """
    profile_name = job.parameters.profile
    grid = profile(profile_name).grid
    report = files.report_folder(profile_name)
    ensure_datasets(job.parameters.train_set, *job.parameters.test_sets)
    run = train.train(**job.arguments)  # a finished training is only loaded
    files.write_bytes(report / "profile.yaml", files.profile_path(profile_name).read_bytes())
    if MAIN in job.roles and run.seed == grid.seeds[0]:
        weights = (files.run_folder(run.id) / "best.safetensors").read_bytes()
        files.write_bytes(store.weights_path(report, run.id), weights)
    tables = _scores(job, run, grid)
    record = {
        **run.record,
        "train_set": job.train_set,  # perhaps with {seed}: a detector's seeds share it
    }
    store.write_scores(profile_name, record, run.id, job.roles, tables)
    return run


def _scores(job: Job, run: Run, grid: Grid) -> dict[Condition, pd.DataFrame]:
    """The tables of scores and measures of a training, by condition."""
    tables = {}
    for test_set in job.parameters.test_sets:
        tables[Condition(test_set)] = scoring.score(run, test_set)
    is_main = MAIN in job.roles
    corruptions = grid.corruptions
    if is_main and corruptions and _is_available(corruptions.test_set):
        test_set = corruptions.test_set
        ensure_datasets(test_set)
        for name, severity in product(corruptions.names, corruptions.severities):
            table = scoring.score(run, test_set, name, severity, corruptions.videos)
            tables[Condition(test_set, name, severity)] = table
    maps = grid.maps
    # The other jobs with a role are variants; one without any is not planned by the profile.
    if maps and (is_main or (job.roles and maps.variants)):
        test_sets = maps.test_sets
        # A variant with a training set of its own is measured there: the methods that it was
        # trained on need not be in the other datasets.
        if job.train_set != grid.train_set:
            test_sets = [job.parameters.train_set]
        tables.update(_maps(run, test_sets, maps.frames))
    return tables


def _maps(run: Run, test_sets: Sequence[str], forged: int) -> dict[Condition, pd.DataFrame]:
    """Measures of the network's own maps and of Grad-CAM, by condition; see ``maps.names``.

    ``forged``: about how many fake frames of each test set they are measured on. Notebook 08
    measures the other maps of ``Maps.names``.
    """
    tables = {}
    for test_set in filter(_is_available, test_sets):
        ensure_datasets(test_set)
        frames = measures.sample(test_set, forged, run.parameters["seen_methods"])
        if frames.empty:
            print(f"{run.id}: no maps on {test_set}, which has no fake of a method it has seen")
            continue
        for name in attribution_maps.names(run.network()):
            measured = measures.measure(run, frames, name)
            measured.attrs = metadata(frames)  # which dataset these are frames of, for the store
            tables[Condition(test_set, map=name)] = measured
    return tables


def finish(
    notebook: str,
    p: Parameters,
    clock: records.Clock,
    outputs: Iterable[Path] = (),
    **entries: Any,
) -> dict[str, Any]:
    """Write the record of an executed notebook as its last step; it proves that the rest ran.

    Args:
        notebook: Name of the notebook.
        p: Its parameters.
        clock: Started at its beginning.
        outputs: The files that it wrote; the record has the sha256 of each, by file name.
        entries: Other entries of the record, such as the ids of the runs shown.

    Returns the record.
    """
    path = files.home() / _record_path(p.profile, notebook)
    values = p.model_dump(mode="json")
    return records.write_record(path, values, outputs, **entries, **clock.usage())


def _record_path(name: str, notebook: str) -> Path:
    """The record of a notebook in the report of the profile ``name``, relative to the home."""
    return Path("reports", name, "records", f"{notebook}.json")
