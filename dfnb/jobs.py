"""Notebooks as jobs: closed parameters, profiles, the grid, and the record that proves that a notebook ended.

A notebook has one cell of plain literals tagged ``parameters``; the next cell hands them to :func:`parameters`, which
refuses unknown names, wrong types and impossible values with one sentence. papermill only warns for an unknown name.
"""

import ast
import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dfnb import core, papers, synth
from dfnb.core import DfnbError
from dfnb.train import Run, score, train


class Parameters(BaseModel):
    """What every notebook takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    profile: str = Field("smoke", pattern=r"^[a-z0-9_-]+$")


class DataParameters(Parameters):
    """Of ``01_data``: the datasets to make or to look at."""

    datasets: list[str] = Field(min_length=1)


class StartParameters(Parameters):
    """Of ``00_start_here``: the profile whose report is shown."""

    report_of: str = "demo"


class TrainingParameters(Parameters):
    """Of a paper's notebook, together with the paper's own ``Settings``.

    ``tasks`` name a seen and an unseen method each, looked for in the two ``task_sets``; the arms of a group of that name are
    trained on the seen one.
    """

    train_set: str
    test_sets: list[str] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    seen_methods: list[str] | None = None
    epoch_scores: bool = False
    devices: int = Field(1, ge=1)
    tasks: dict[str, tuple[str, str]] = {}
    task_sets: tuple[str, str] | None = None

    def settings(self) -> papers.Settings:
        """The part of the parameters that belongs to the paper."""
        kind = papers.module(papers.NOTEBOOKS[type(self).__name__]).Settings
        return kind(**{name: getattr(self, name) for name in kind.model_fields})


class RobustnessParameters(Parameters):
    """Of ``08_robustness``: the corruptions of :mod:`dfnb.corrupt`, their severities, and on which test set."""

    test_set: str
    corruptions: list[str] = Field(min_length=1)
    severities: list[int] = Field(min_length=1)


class AttributionParameters(Parameters):
    """Of ``07_attribution``: which maps of :mod:`dfnb.attribution` of how many frames; ``picture`` is a reader's own file.

    The first of the ``test_sets`` is the home dataset. ``arms``: whether what the papers claim of their maps is measured.
    """

    test_sets: list[str] = Field(min_length=1)
    frames_per_method: int = Field(ge=1)
    methods: list[str] = Field(min_length=1)
    sanity_frames: int = Field(ge=2)
    shuffled_labels: bool
    arms: bool
    picture: str | None = None


OTHERS: dict[str, type[Parameters]] = {
    "00_start_here": StartParameters,
    "01_data": DataParameters,
    "06_cross_dataset": Parameters,
    "07_attribution": AttributionParameters,
    "08_robustness": RobustnessParameters,
    "09_report": Parameters,
}


@cache
def schema(notebook: str) -> type[Parameters]:
    """The closed schema of a notebook's parameters."""
    if notebook in papers.NOTEBOOKS:
        settings = papers.module(papers.NOTEBOOKS[notebook]).Settings
        return create_model(notebook, __base__=(TrainingParameters, settings))
    if notebook not in OTHERS:
        known = ", ".join(sorted([*papers.NOTEBOOKS, *OTHERS]))
        raise DfnbError(f"there is no notebook {notebook!r}; known are {known}")
    return OTHERS[notebook]


def parameters(notebook: str, namespace: Mapping[str, Any]) -> Parameters:
    """Check a notebook's parameters, found in its namespace (``globals()``), against its schema.

    Names that papermill injected are all checked, so that a mistyped one cannot pass; running the cell again by hand is
    no error. The record of an earlier execution is removed: from here on the job is not done. Raises
    :class:`DfnbError` with one sentence.
    """
    kind = schema(notebook)
    cells = namespace.get("In", ())
    injected = {name for cell in cells if cell.startswith("# Parameters") for name in _literals(cell)}
    own = {name for cell in cells for name in _literals(cell)} if cells else set(namespace)
    values = {name: namespace[name] for name in sorted(own & set(kind.model_fields) | injected) if name in namespace}
    p = checked(kind, values, notebook)
    (_jobs_folder(p.profile) / _job_id(notebook, p) / "record.json").unlink(missing_ok=True)
    return p


def _literals(cell: str) -> list[str]:
    """The names that a cell assigns, if it does nothing but assign literals, as a parameters cell does."""
    try:
        body = ast.parse(cell).body
        names = [node.targets[0].id for node in body if ast.literal_eval(node.value) is not Ellipsis]
    except (SyntaxError, ValueError, AttributeError):
        return []
    return names


def checked(kind: type[Parameters], values: Mapping[str, Any], source: str) -> Parameters:
    """Values as a schema's instance; strict, but 3 is a float and a list a tuple, as in JSON."""
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        unknown = any(problem["type"] == "extra_forbidden" for problem in error.errors())
        known = f"; it takes {', '.join(kind.model_fields)}" if unknown else ""
        raise DfnbError(f"{source}: {papers.explain(error)}{known}") from None


@dataclass(frozen=True)
class Job:
    """One step of a profile: a notebook to execute or, where ``trains``, one further training that notebooks read.

    ``arm`` is the variation that is trained, ``group/name``; empty for a training of the grid itself.
    """

    id: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # ids of the jobs whose files it reads
    profile: str
    trains: bool = False
    arm: str = ""

    @property
    def record(self) -> Path:
        return _jobs_folder(self.profile) / self.id / "record.json"

    def done(self) -> bool:
        """Whether the job's record is there, for these very parameters, with all the files it names."""
        if not self.record.exists() or not (self.trains or self.log.exists()):
            return False
        record = core.read_json(self.record)
        return record["parameters"] == self.checked().model_dump(mode="json") and all(
            (core.home() / name).exists() for name in record["files"]
        )

    def checked(self) -> Parameters:
        """The parameters by the notebook's schema."""
        return checked(schema(self.notebook), self.parameters, f"profile {self.profile}, {self.id}")

    @property
    def base64(self) -> str:
        """The parameters as ``papermill -b`` takes them."""
        return base64.b64encode(yaml.safe_dump(self.parameters).encode()).decode()

    @property
    def log(self) -> Path:
        """The executed notebook, or what the training said."""
        if self.trains:
            return self.record.with_name("log.txt")
        return core.home() / "reports" / self.profile / "notebooks" / f"{self.id}.ipynb"


def _job_id(notebook: str, p: Parameters) -> str:
    return f"{notebook}-{p.train_set}-s{p.seed}" if isinstance(p, TrainingParameters) else notebook


def _jobs_folder(profile: str) -> Path:
    return core.home() / "runs" / "notebooks" / profile


def profile(name: str) -> dict[str, Any]:
    """A profile as ``notebooks/profiles/<name>.yaml`` has it: ``grid``, per notebook its parameters, and ``arms``."""
    path = core.find("notebooks") / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise DfnbError(f"{path} does not exist; profiles here are {known}")
    content = core.read_yaml(path)
    if not isinstance(content, dict) or not {"description", "grid", "notebooks"} <= set(content) <= set(PROFILE):
        raise DfnbError(f"{path} must have the keys {', '.join(PROFILE)} (arms may be left out) and no others")
    if unknown := set(content.get("arms") or {}) - set(papers.NOTEBOOKS):
        raise DfnbError(f"{path} has arms of {', '.join(sorted(unknown))}, which trains nothing")
    return content


PROFILE = ("description", "grid", "notebooks", "arms")


def _arms(content: dict[str, Any], notebook: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Group -> arm -> what it changes, and its ``seeds``; without those it runs with the grid's first seed alone."""
    groups = (content.get("arms") or {}).get(notebook) or {}
    first = {"seeds": content["grid"]["seeds"][:1]}
    return {group: {arm: {**first, **changes} for arm, changes in arms.items()} for group, arms in groups.items()}


def jobs(name: str) -> list[Job]:
    """The jobs of a profile in the order of its file: data, trainings (train sets × seeds and arms), then the rest.

    A paper's notebook is executed for the first seed of the grid and trains it; the other seeds, the arms and the phases that
    they start from are jobs of their own, which the notebook may read, as it may those of the papers before it. All other
    notebooks need whatever stands before them. Every job's parameters are checked here, before anything runs.
    """
    content = profile(name)
    grid = content["grid"]
    first, *others = grid["seeds"]
    result: list[Job] = []
    for notebook, own in content["notebooks"].items():
        own = {"profile": name, **(own or {})}
        data = tuple(job.id for job in result if job.notebook == "01_data")
        if notebook in papers.NOTEBOOKS:
            for train_set in grid["train_sets"]:
                values = {"train_set": train_set, "test_sets": grid["test_sets"], **own}
                further = [("", {**values, "seed": seed}) for seed in others]
                for group, arms in _arms(content, notebook).items():
                    for arm, changes in arms.items():
                        for seed in changes["seeds"]:
                            given = {**values, **changes, "seed": seed}
                            further.append((f"{group}/{arm}", {k: v for k, v in given.items() if k != "seeds"}))
                trainings = []
                for arm, given in further:
                    job_id = f"{notebook}-{given['train_set']}{_slug(arm)}-s{given['seed']}"
                    if all(given != job.parameters for job in trainings):  # one run may be an arm of two groups
                        trainings.append(Job(job_id, notebook, given, data, name, True, arm))
                main = Job(f"{notebook}-{train_set}-s{first}", notebook, {**values, "seed": first}, data, name)
                *trainings, main = _with_phases([*trainings, main])
                needs = [job.id for job in [*result, *trainings] if job.trains]
                result += [*trainings, replace(main, needs=tuple(dict.fromkeys([*main.needs, *needs])))]
        elif notebook == "01_data":
            every = [grid, *_changes(content)]
            trained_on = [*grid["train_sets"], *(each["train_set"] for each in every if "train_set" in each)]
            tested_on = [each_set for each in every for each_set in each.get("test_sets", ())]
            datasets = list(dict.fromkeys([*trained_on, *tested_on]))
            result.append(Job(notebook, notebook, {"datasets": datasets, **own}, (), name))
        else:
            result.append(Job(notebook, notebook, own, tuple(job.id for job in result), name))
    for job in result:
        job.checked()
    ids = [job.id for job in result]
    if twice := sorted({job_id for job_id in ids if ids.count(job_id) > 1}):
        raise DfnbError(f"profile {name} has two jobs {twice[0]}: its arms differ in signs only; name one otherwise")
    return result


def asked(name: str, notebook: str) -> Any:
    """The parameters with which a profile executes a notebook; None where it does not."""
    return next((job.checked() for job in jobs(name) if job.notebook == notebook and not job.trains), None)


def _with_phases(chosen: list[Job]) -> list[Job]:
    """Jobs with those of the phases before them (:meth:`dfnb.papers.Settings.before`), each once, which they need."""
    phases: dict[str, Job] = {}
    result = []
    for job in chosen:
        p, needs = job.checked(), job.needs
        before = p.settings().before()
        if before:
            values = p.model_dump(mode="json") | before.model_dump(mode="json") | {"epoch_scores": False}
            job_id = f"{job.notebook}-{p.train_set}{_slug('/'.join(['before', *(p.seen_methods or ())]))}-s{p.seed}"
            key = core.digest(values)
            if key not in phases and job_id in {phase.id for phase in phases.values()}:
                job_id = f"{job_id}-{key[:6]}"
            phases.setdefault(key, Job(job_id, job.notebook, values, job.needs, job.profile, True, "before"))
            needs = (*needs, phases[key].id)
        result.append(replace(job, needs=needs))
    return [*(_with_phases(list(phases.values())) if phases else ()), *result]


def _changes(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What notebooks of papers and their arms set by themselves."""
    own = [values or {} for notebook, values in content["notebooks"].items() if notebook in papers.NOTEBOOKS]
    groups = [group for of_notebook in (content.get("arms") or {}).values() for group in of_notebook.values()]
    return [*own, *(changes for group in groups for changes in group.values())]


def _slug(arm: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"/{arm}".lower()).rstrip("-")


def train_job(name: str, job_id: str) -> None:
    """Do a training job of a profile: train, score all test sets, write the job's record."""
    job = next((job for job in jobs(name) if job.id == job_id and job.trains), None)
    if job is None:
        known = ", ".join(job.id for job in jobs(name) if job.trains) or "none"
        raise DfnbError(f"profile {name} has no training job {job_id}; it has {known}")
    clock, p = core.Clock(), job.checked()
    job.record.unlink(missing_ok=True)
    trained_now = trained(p)
    # of a phase before no table tells
    files = [score(trained_now, test_set) for test_set in p.test_sets if job.arm != "before"]
    finish(job.notebook, p, clock, files, job_id, run=trained_now.folder.name)


def datasets(*names: str) -> None:
    """Make the datasets of the embedded benchmark that are not there; others must have been prepared before."""
    for name in dict.fromkeys(names):
        if name in core.described("synth"):
            synth.build(name)
        elif core.read_record(core.home() / "datasets" / name) is None:
            what = f"dataset {name} is neither prepared nor part of the embedded benchmark"
            raise DfnbError(f"{what}; see `dfnb prepare --help`")


def trained(p: TrainingParameters) -> Run:
    """The run of a paper's notebook: trained now, resumed, or loaded."""
    datasets(p.train_set, *p.test_sets)
    return train(
        papers.NOTEBOOKS[type(p).__name__],
        p.train_set,
        p.settings(),
        p.seed,
        p.seen_methods,
        p.test_sets if p.epoch_scores else (),
        p.devices,
    )


Find = Callable[[TrainingParameters], Run]


def all_trained(
    name: str, arms: bool = False, find: Find = trained, notebook: str = ""
) -> list[tuple[Run, TrainingParameters]]:
    """The runs of a profile's grid, or those of its arms, with their parameters; what is missing is trained.

    Of one paper's ``notebook`` or of all papers.
    """
    of_papers = [job for job in jobs(name) if job.notebook in papers.NOTEBOOKS and job.notebook.startswith(notebook)]
    chosen = [job for job in of_papers if bool(job.arm) == arms]
    return [(find(p), p) for p in (job.checked() for job in chosen)]


def arms(p: TrainingParameters, group: str, find: Find = trained) -> dict[str, list[Run]]:
    """The runs of a group of arms by their names, ``main`` first, each at its seeds; what is missing is trained.

    The profile says what each arm changes of ``p``, and with which seeds; ``main`` is ``p`` itself at the grid's. Where
    the profile has no such group there is ``main`` alone.
    """
    notebook, content = type(p).__name__, profile(p.profile)
    wanted = {"main": {"seeds": content["grid"]["seeds"]}, **_arms(content, notebook).get(group, {})}
    found: dict[str, list[Run]] = {}
    for arm, changes in wanted.items():
        changes = dict(changes)
        for seed in changes.pop("seeds"):
            values = p.model_dump(mode="json") | changes | {"seed": seed}
            found.setdefault(arm, []).append(find(checked(type(p), values, f"{notebook}, {arm}")))
    return found


def all_arms(name: str, group: str, find: Find = trained, notebook: str = "") -> dict[str, dict[str, list[Run]]]:
    """:func:`arms` of every paper of a profile that has groups whose name begins so, by paper, train set and group.

    Or of one paper's ``notebook``.
    """
    content, found = profile(name), {}
    several = len(content["grid"]["train_sets"]) > 1
    main = [job for job in jobs(name) if job.notebook in papers.NOTEBOOKS and not job.trains]
    for job in (job for job in main if job.notebook.startswith(notebook)):
        title = papers.PAPERS[papers.NOTEBOOKS[job.notebook]].title
        title += f", {job.parameters['train_set']}" if several else ""
        for own in (own for own in _arms(content, job.notebook) if own.startswith(group)):
            found[title + own.removeprefix(group)] = arms(job.checked(), own, find)
    return found


def resolved(p: Parameters) -> pd.DataFrame:
    """Parameters and environment as the table a notebook shows."""
    environment = core.environment()
    rows = {**p.model_dump(), "commit": environment["commit"], "device": environment["device"]}
    rows |= {name: environment["packages"][name] for name in ("torch", "timm", "numpy")}
    return pd.DataFrame({"value": {name: str(value) for name, value in rows.items()}})


def finish(
    notebook: str,
    p: Parameters,
    clock: core.Clock,
    outputs: Sequence[Path] = (),
    job_id: str | None = None,
    **facts: Any,
) -> dict:
    """Write the record of a notebook's execution, its last act: without it the execution did not happen."""
    folder = _jobs_folder(p.profile) / (job_id or _job_id(notebook, p))
    relative = [Path(path).resolve().relative_to(core.home()).as_posix() for path in outputs]
    hashes = {path: core.sha256(core.home() / path) for path in relative}
    return core.write_record(
        folder, p.model_dump(mode="json"), [], notebook=notebook, files=hashes, **facts, **clock.facts()
    )
