"""A profile as a list of jobs: trainings with their scores, and notebooks.

A profile, ``notebooks/profiles/<name>.yaml``, names the detectors, the datasets and the seeds.
:func:`plan` makes a list of jobs of it, which the Snakefile turns into rules. A training is a job
of its own: it trains, scores, and writes ``reports/<profile>/scores/<run id>.parquet``. Notebooks
read these files, or train by :func:`trained` what is missing when they are opened by hand.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from dfnb import corrupt, files, papers, parameters, records, scoring, store, synth, train
from dfnb.attribution import measures
from dfnb.parameters import Names, Parameters, Seeds, TrainingParameters
from dfnb.runs import Run
from dfnb.settings import Closed, DfnbError, Name, Title, read_yaml
from dfnb.store import Condition

MAIN = ("", "")  # the role of a paper's training in the grid, beside its ablations' variants
LOCK_S = 30  # how long a job waits for another that trains the same run
RENAMED = {
    "arms": "ablations",
    "06_cross_dataset": "07_cross_dataset",
    "07_attribution": "08_attribution, its parameters grid: maps",
    "08_robustness": "09_robustness, its parameters grid: corruptions",
    "09_report": "11_report",
    "10_self_blended_images": "06_self_blended_images",
    "11_what_detectors_detect": "10_what_detectors_detect",
}


# ---------------------------------------------------------------- profiles


class Corruptions(Closed):
    """On which corrupted frames the main detectors are scored, beside the frames as they are."""

    test_set: Name
    names: Annotated[list[Literal[*corrupt.CORRUPTIONS]], Field(min_length=1)]
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)]
    videos: int | None = Field(None, ge=4)  # about so many videos; None: all


class Maps(Closed):
    """Which attribution maps are measured, and on how many frames."""

    test_sets: Names
    frames: int = Field(ge=1)  # forged frames of each test set
    names: list[str] = Field(min_length=1)  # of the first seeds, beside the detectors' own maps
    sanity_frames: int = Field(ge=2)
    shuffled_labels: bool  # whether there is a training on shuffled labels to compare with
    variants: bool  # whether the maps of the ablations' variants are measured, too


class Grid(Closed):
    """What every paper is trained and tested on, and with which seeds."""

    train_sets: Names
    test_sets: Names
    seeds: Seeds
    corruptions: Corruptions | None = None
    maps: Maps | None = None


class Variant(Closed, extra="allow"):
    """What a variant of an ablation changes: parameters of its notebook, and its own ``seeds``."""

    seeds: Seeds = Field([])  # empty: the grid's first


class Profile(Closed):
    """A file of ``notebooks/profiles``.

    Attributes:
        notebooks: their parameters, in reading order.
        ablations: notebook → ablation → variant → what it changes. The variants of an ablation are
            compared with its variant ``main``, or with the paper's own training where it has none.
        allow_random: whether random weights may replace pretrained ones that cannot be fetched.
    """

    description: str
    grid: Grid
    notebooks: dict[str, dict[str, Any] | None] = Field(min_length=1)
    ablations: dict[str, dict[Title, dict[Title, Variant]]] = Field({})
    allow_random: bool = True


def profile_path(name: str) -> Path:
    """Where the profile is; raises :class:`DfnbError` that lists the profiles there are."""
    folder = files.find("notebooks") / "profiles"
    available = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in available:
        raise DfnbError(f"there is no profile {name!r} in {folder}: {', '.join(available)}")
    return folder / f"{name}.yaml"


def profile(name: str) -> Profile:
    """The checked content of a profile; raises :class:`DfnbError` that names file and remedy."""
    path = profile_path(name)
    content = read_yaml(path)
    _refuse_old_names(content, path)
    checked = Profile.check(content, path)
    unknown = sorted(set(checked.ablations) - set(papers.notebooks()))
    if unknown:
        raise DfnbError(f"{path} has ablations of {', '.join(unknown)}, which trains nothing")
    for notebook, values in checked.notebooks.items():
        if values and ("profile" in values or "seed" in values):
            raise DfnbError(
                f"{path}, {notebook}: the file's name is the profile, the grid has the seeds"
            )
    return checked


def _refuse_old_names(content: Mapping[str, Any], path: Path) -> None:
    notebooks = content.get("notebooks")
    names = [*content, *(notebooks if isinstance(notebooks, dict) else ())]
    for name in names:
        if name in RENAMED:
            raise DfnbError(f"{path}: {name} is called {RENAMED[name]} now")


# ---------------------------------------------------------------- the plan


class Job(NamedTuple):
    """One step of a profile.

    Attributes:
        name: in messages, and for ``dfnb train``; unique in the profile.
        parameters: those of the notebook; for a training, those of its paper's notebook.
        output: the file that proves that the job ended, relative to the home.
        needs: the outputs of other jobs that it waits for, relative to the home.
        devices: how many GPUs it uses, where there are any.
        roles: the pairs of ablation and variant that a training stands for in the report.
    """

    name: str
    kind: Literal["training", "notebook"]
    notebook: str
    parameters: Parameters
    output: Path
    needs: tuple[Path, ...]
    devices: int = 1
    roles: tuple[tuple[str, str], ...] = ()
    run_id: str = ""
    shuffled_labels: bool = False

    @property
    def done(self) -> bool:
        """Whether the output is there."""
        return (files.home() / self.output).exists()

    @property
    def log(self) -> Path:
        """What the job prints, relative to the home."""
        return Path("reports", self.parameters.profile, "logs", f"{self.name}.txt")

    @property
    def executed(self) -> Path:
        """The executed notebook, relative to the home."""
        return Path("reports", self.parameters.profile, "notebooks", f"{self.notebook}.ipynb")


def plan(name: str) -> list[Job]:
    """The jobs of a profile, each after those that it needs.

    All parameters are checked here, before anything runs. Trainings that are the same are one job,
    with several roles. Raises :class:`DfnbError` for wrong parameters, and for real datasets that
    are not prepared.
    """
    content = profile(name)
    schemas = {notebook: parameters.schema(notebook) for notebook in content.notebooks}
    first = [notebook for notebook, schema in schemas.items() if schema.reads == "nothing"]
    datasets_made = tuple(_record_path(name, notebook) for notebook in first)
    trainings = _trainings(name, content, schemas, datasets_made)
    notebooks = _notebooks(name, content, schemas, trainings)
    makes_datasets = [job for job in notebooks if job.notebook in first]
    others = [job for job in notebooks if job.notebook not in first]
    return [*makes_datasets, *trainings, *others]


def _trainings(
    name: str,
    content: Profile,
    schemas: Mapping[str, type[Parameters]],
    needs: tuple[Path, ...],
) -> list[Job]:
    """The trainings of a profile, by paper those of the grid before those of the ablations."""
    planned: dict[str, Job] = {}
    for notebook, schema in schemas.items():
        if not issubclass(schema, TrainingParameters):
            continue
        for role, requested in _requested(name, content, notebook, schema):
            job = _training(requested, role, needs, content.allow_random)
            if job.run_id in planned:
                job = _with_role(planned[job.run_id], role, requested)
            planned[job.run_id] = job
    trainings = list(planned.values())
    if trainings and content.grid.maps and content.grid.maps.shuffled_labels:
        control = trainings[0].parameters
        trainings.append(
            _training(control, MAIN, needs, content.allow_random, shuffled_labels=True)
        )
    names = [job.name for job in trainings]
    for job in trainings:
        if names.count(job.name) > 1:
            raise DfnbError(f"profile {name} has two trainings {job.name}; rename a variant")
    return trainings


def _requested(
    name: str, content: Profile, notebook: str, schema: type[TrainingParameters]
) -> Iterator[tuple[tuple[str, str], TrainingParameters]]:
    """Role and parameters of every training of a paper: the grid's, then the ablations'."""
    grid = content.grid
    shared = {"profile": name, "test_sets": grid.test_sets, **(content.notebooks[notebook] or {})}
    changes_by_role = {MAIN: {"seeds": grid.seeds}}
    for ablation, variants in content.ablations.get(notebook, {}).items():
        for variant, changes in variants.items():
            # A variant is compared by its chosen checkpoint alone.
            defaults = {"seeds": grid.seeds[:1], "epoch_scores": False}
            changes = changes.model_dump(exclude_unset=True)
            changes_by_role[ablation, variant] = {**defaults, **changes}
    for (role, changes), train_set in product(changes_by_role.items(), grid.train_sets):
        values = {**shared, "train_set": train_set, **changes}
        source = f"profile {name}, {notebook}, {': '.join(role)}".rstrip(", :")
        for seed in values.pop("seeds"):
            yield role, schema.check({**values, "seed": seed}, source)


def _training(
    requested: TrainingParameters,
    role: tuple[str, str],
    needs: tuple[Path, ...],
    allow_random: bool,
    shuffled_labels: bool = False,
) -> Job:
    arguments = _arguments(requested, allow_random, shuffled_labels)
    run_id = train.run_id(train.run_parameters(**arguments))
    words = [requested.paper, requested.train_set, *map(files.slug, role), f"s{requested.seed}"]
    roles = (role,)
    if shuffled_labels:
        words.append("shuffled-labels")
        roles = ()
    job = Job(
        name="-".join(word for word in words if word),
        kind="training",
        notebook=papers.module(requested.paper).PAPER.notebook,
        parameters=requested,
        output=store.score_path(Path("reports", requested.profile), run_id),
        needs=needs,
        devices=requested.devices,
        roles=roles,
        run_id=run_id,
        shuffled_labels=shuffled_labels,
    )
    if job.done:  # also where the scores were copied here and the datasets not made yet
        job = job._replace(needs=tuple(path for path in needs if (files.home() / path).exists()))
    return job


def _arguments(p: TrainingParameters, allow_random: bool, shuffled_labels: bool) -> dict[str, Any]:
    """The arguments of :func:`dfnb.train.train` for these parameters."""
    epoch_tests = []
    if p.epoch_scores and not shuffled_labels:
        epoch_tests = p.test_sets
    return {
        "paper": p.paper,
        "train_set": p.train_set,
        "settings": p.settings(),
        "seed": p.seed,
        "seen_methods": p.seen_methods,
        "epoch_tests": epoch_tests,
        "devices": p.devices,
        "shuffled_labels": shuffled_labels,
        "allow_random": allow_random,
        "frames_per_video": p.frames_per_video,
    }


def _with_role(job: Job, role: tuple[str, str], requested: TrainingParameters) -> Job:
    """A training that stands for ``role``, too, and is tested on all that it is requested for."""
    test_sets = list(dict.fromkeys([*job.parameters.test_sets, *requested.test_sets]))
    roles = tuple(dict.fromkeys([*job.roles, role]))
    merged = job.parameters.model_copy(update={"test_sets": test_sets})
    return job._replace(parameters=merged, roles=roles)


def _notebooks(
    name: str,
    content: Profile,
    schemas: Mapping[str, type[Parameters]],
    trainings: Sequence[Job],
) -> list[Job]:
    """The notebooks of a profile; that of a paper has the parameters of its first training."""
    first_trainings: dict[str, Parameters] = {}
    named_datasets = []
    for job in trainings:
        first_trainings.setdefault(job.notebook, job.parameters)
        named_datasets += [job.parameters.train_set, *job.parameters.test_sets]
    score_files = tuple(job.output for job in trainings)
    records_of_others = []
    for notebook, schema in schemas.items():
        if schema.reads == "trainings":
            records_of_others.append(_record_path(name, notebook))
    waits_for = {
        "nothing": (),
        "trainings": score_files,
        "other notebooks": (*score_files, *records_of_others),
    }
    notebooks = []
    for notebook, schema in schemas.items():
        checked = first_trainings.get(notebook)
        if checked is None:
            values = {"profile": name, **(content.notebooks[notebook] or {})}
            if "datasets" in schema.model_fields:
                values.setdefault("datasets", list(dict.fromkeys(named_datasets)))
            checked = schema.check(values, f"profile {name}, {notebook}")
        output = _record_path(name, notebook)
        needs = waits_for[schema.reads]
        notebooks.append(Job(notebook, "notebook", notebook, checked, output, needs))
    return notebooks


def _record_path(name: str, notebook: str) -> Path:
    return Path("reports", name, "records", f"{notebook}.json")


# ---------------------------------------------------------------- what jobs and notebooks call


def datasets(*names: str) -> None:
    """Build the drawn datasets that are missing; raises DfnbError where a real one is missing."""
    for name in dict.fromkeys(names):
        if name in files.described("synth"):
            synth.build(name)
        elif records.read_record(files.dataset_folder(name)) is None:
            raise DfnbError(
                f"dataset {name} is neither prepared nor part of the benchmark; use `dfnb prepare`"
            )


def trained(p: TrainingParameters, shuffled_labels: bool = False) -> Run:
    """The training of a paper's notebook, with its scores in the report.

    It is loaded where the report has it, else loaded from ``runs/``, resumed or trained. A training
    that the profile does not plan appears in no table of its report.

    Args:
        p: The checked parameters of the notebook.
        shuffled_labels: The same training on labels exchanged between videos, which is not scored.
    """
    allow_random = profile(p.profile).allow_random
    job = _training(p, MAIN, (), allow_random, shuffled_labels)
    if job.done:
        return Run.open(job.run_id)
    for planned in plan(p.profile):
        if planned.run_id == job.run_id:
            return train_and_score(planned)
    return train_and_score(job._replace(roles=()))


def ensure_trained(name: str) -> None:
    """Train the main detectors that the report of a profile lacks, for notebooks opened by hand."""
    for job in plan(name):
        if MAIN in job.roles and not job.done:
            train_and_score(job)


def train_job(name: str, job_name: str) -> Run:
    """Do the training of that name; raises :class:`DfnbError` that lists those of the profile."""
    trainings = {job.name: job for job in plan(name) if job.kind == "training"}
    if job_name not in trainings:
        available = ", ".join(trainings) or "none"
        raise DfnbError(f"profile {name} has no training {job_name}; it has {available}")
    return train_and_score(trainings[job_name])


def train_and_score(job: Job) -> Run:
    """Train, score the test sets, and where the grid says so corrupted frames and maps.

    The score file is written last, and proves that the job ended.
    """
    p = job.parameters
    content = profile(p.profile)
    datasets(p.train_set, *p.test_sets)
    run = train.train(**_arguments(p, content.allow_random, job.shuffled_labels), wait_s=LOCK_S)
    tables = {}
    if not job.shuffled_labels:
        tables = _scores(job, run, content.grid)
    report = files.report_folder(p.profile)
    files.write_bytes(report / "profile.yaml", profile_path(p.profile).read_bytes())
    if MAIN in job.roles and p.seed == content.grid.seeds[0]:
        weights = files.run_folder(run.id) / "best.safetensors"
        files.write_bytes(store.weights_path(report, run.id), weights.read_bytes())
    store.write_scores(p.profile, run.record, run.id, job.roles, tables)
    return run


def _scores(job: Job, run: Run, grid: Grid) -> dict[Condition, pd.DataFrame]:
    """The tables of scores and measures of a training, by condition."""
    tables = run.epoch_scores()
    for test_set in job.parameters.test_sets:
        tables[Condition(test_set)] = scoring.score(run, test_set)
    if MAIN in job.roles and grid.corruptions:
        tables.update(_corrupted(run, grid.corruptions))
    if grid.maps and (MAIN in job.roles or (job.roles and grid.maps.variants)):
        tables.update(_maps(run, grid.maps))
    return tables


def _corrupted(run: Run, corruptions: Corruptions) -> dict[Condition, pd.DataFrame]:
    test_set = corruptions.test_set
    datasets(test_set)
    tables = {}
    for corruption, severity in product(corruptions.names, corruptions.severities):
        table = scoring.score(run, test_set, corruption, severity, corruptions.videos)
        tables[Condition(test_set, corruption, severity)] = table
    return tables


def _maps(run: Run, maps: Maps) -> dict[Condition, pd.DataFrame]:
    """Measures of the network's own maps and of Grad-CAM."""
    train_set = run.parameters["train_set"]
    test_sets = maps.test_sets
    if train_set not in test_sets:  # the methods that the network knows are in no other dataset
        test_sets = [train_set]
    tables = {}
    for test_set in test_sets:
        datasets(test_set)
        frames = measures.sample(test_set, maps.frames, run.parameters["seen_methods"])
        for name in [*run.network().maps(), "Grad-CAM"]:
            tables[Condition(test_set, map=name)] = measures.measure(run, frames, name)
    return tables


def finish(
    notebook: str,
    p: Parameters,
    clock: records.Clock,
    outputs: Iterable[Path] = (),
    **facts: Any,
) -> dict[str, Any]:
    """Write the record of an executed notebook, its last act: without it, it did not end.

    Args:
        notebook: Name of the notebook.
        p: Its parameters.
        clock: Started at the notebook's begin.
        outputs: The files that it wrote, whose sha256 are recorded.
        facts: Whatever else is worth recording.
    """
    hashes = {}
    for path in outputs:
        name = path.resolve().relative_to(files.home()).as_posix()
        hashes[name] = files.sha256(path)
    record = {
        "parameters": p.model_dump(mode="json"),
        **facts,
        **clock.facts(),
        "environment": records.environment(),
        "outputs": hashes,
    }
    files.write_json(files.home() / _record_path(p.profile, notebook), record)
    return record
