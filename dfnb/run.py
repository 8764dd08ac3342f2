"""Notebooks as jobs: closed parameters, profiles, the grid, and the record that proves that a notebook ended.

A notebook has one cell of plain literals tagged ``parameters``; the next cell hands them to :func:`parameters`, which
refuses unknown names, wrong types and impossible values with one sentence. papermill only warns for an unknown name.
"""

import ast
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from dfnb import papers, store, synth
from dfnb.store import DfnbError
from dfnb.train import Run, train


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
    """Of a paper's notebook, together with the paper's own ``Settings``."""

    train_set: str
    test_sets: list[str] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    seen_methods: list[str] | None = None
    epoch_scores: bool = False
    devices: int = Field(1, ge=1)

    def settings(self) -> papers.Settings:
        """The part of the parameters that belongs to the paper."""
        kind = papers.module(TRAINING[type(self).__name__]).Settings
        return kind(**{name: getattr(self, name) for name in kind.model_fields})


TRAINING = {"02_xception_baseline": "xception", "04_locate_and_verify": "locate_and_verify"}
OTHERS: dict[str, type[Parameters]] = {
    "00_start_here": StartParameters,
    "01_data": DataParameters,
    "06_cross_dataset": Parameters,
    "09_report": Parameters,
}


def schema(notebook: str) -> type[Parameters]:
    """The closed schema of a notebook's parameters."""
    if notebook in TRAINING:
        return create_model(notebook, __base__=(TrainingParameters, papers.module(TRAINING[notebook]).Settings))
    if notebook not in OTHERS:
        raise DfnbError(f"there is no notebook {notebook!r}; known are {', '.join(sorted([*TRAINING, *OTHERS]))}")
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
        raise DfnbError(f"{source}: {papers.explain(error)}; it takes {', '.join(kind.model_fields)}") from None


@dataclass(frozen=True)
class Job:
    """One execution of one notebook: an entry of a profile's grid."""

    id: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # ids of the jobs whose files it reads
    profile: str

    @property
    def record(self) -> Path:
        return _jobs_folder(self.profile) / self.id / "record.json"

    def done(self) -> bool:
        """Whether the job's record is there, for these very parameters, with all the files it names."""
        if not (self.record.exists() and self.executed.exists()):
            return False
        record = store.read_json(self.record)
        wanted = checked(schema(self.notebook), self.parameters, self.id).model_dump(mode="json")
        return record["parameters"] == wanted and all((store.home() / name).exists() for name in record["files"])

    @property
    def base64(self) -> str:
        """The parameters as ``papermill -b`` takes them."""
        return base64.b64encode(yaml.safe_dump(self.parameters).encode()).decode()

    @property
    def executed(self) -> Path:
        return store.home() / "reports" / self.profile / "notebooks" / f"{self.id}.ipynb"


def _job_id(notebook: str, p: Parameters) -> str:
    return f"{notebook}-{p.train_set}-s{p.seed}" if isinstance(p, TrainingParameters) else notebook


def _jobs_folder(profile: str) -> Path:
    return store.home() / "runs" / "notebooks" / profile


def profile(name: str) -> dict[str, Any]:
    """A profile as ``notebooks/profiles/<name>.yaml`` has it: ``grid`` and, per notebook, its parameters."""
    path = store.find("notebooks") / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise DfnbError(f"{path} does not exist; profiles here are {known}")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or set(content) != {"description", "grid", "notebooks"}:
        raise DfnbError(f"{path} must have exactly the keys description, grid and notebooks")
    return content


def jobs(name: str) -> list[Job]:
    """The jobs of a profile in the order of its file: data, trainings (train sets × seeds), then what reads from them.

    A training needs the data; every other notebook needs all that stand before it. Every job's parameters are checked
    here, before anything runs.
    """
    content = profile(name)
    grid = content["grid"]
    result: list[Job] = []
    for notebook, own in content["notebooks"].items():
        own = {"profile": name, **(own or {})}
        data = tuple(job.id for job in result if job.notebook == "01_data")
        if notebook in TRAINING:
            for train_set in grid["train_sets"]:
                for seed in grid["seeds"]:
                    values = {"train_set": train_set, "test_sets": grid["test_sets"], "seed": seed, **own}
                    result.append(Job(f"{notebook}-{train_set}-s{seed}", notebook, values, data, name))
        elif notebook == "01_data":
            datasets = list(dict.fromkeys([*grid["train_sets"], *grid["test_sets"]]))
            result.append(Job(notebook, notebook, {"datasets": datasets, **own}, (), name))
        else:
            result.append(Job(notebook, notebook, own, tuple(job.id for job in result), name))
    for job in result:
        checked(schema(job.notebook), job.parameters, f"profile {name}, {job.notebook}")
    return result


def datasets(*names: str) -> None:
    """Make the datasets of the embedded benchmark that are not there; others must have been prepared before."""
    for name in dict.fromkeys(names):
        if name in synth.presets():
            synth.build(name)
        elif store.read_record(store.home() / "datasets" / name) is None:
            raise DfnbError(
                f"dataset {name} is neither prepared nor part of the embedded benchmark; see `dfnb prepare --help`"
            )


def trained(p: TrainingParameters) -> Run:
    """The run of a paper's notebook: trained now, resumed, or loaded."""
    datasets(p.train_set, *p.test_sets)
    return train(
        TRAINING[type(p).__name__],
        p.train_set,
        p.settings(),
        p.seed,
        p.seen_methods,
        p.test_sets if p.epoch_scores else (),
        p.devices,
    )


def all_trained(name: str) -> list[tuple[Run, TrainingParameters]]:
    """The runs of a profile's whole grid with their parameters; what is missing is trained."""
    chosen = [job for job in jobs(name) if job.notebook in TRAINING]
    checked_jobs = [checked(schema(job.notebook), job.parameters, job.id) for job in chosen]
    return [(trained(p), p) for p in checked_jobs]


def resolved(p: Parameters) -> pd.DataFrame:
    """Parameters and environment as the table a notebook shows."""
    environment = store.environment()
    rows = {**p.model_dump(), "commit": environment["commit"], "device": environment["device"]}
    rows |= {name: environment["packages"][name] for name in ("torch", "timm", "numpy")}
    return pd.DataFrame({"value": {name: str(value) for name, value in rows.items()}})


def finish(notebook: str, p: Parameters, clock: store.Clock, outputs: Sequence[Path] = (), **facts: Any) -> dict:
    """Write the record of a notebook's execution, its last act: without it the execution did not happen."""
    folder = _jobs_folder(p.profile) / _job_id(notebook, p)
    relative = [Path(path).resolve().relative_to(store.home()).as_posix() for path in outputs]
    hashes = {path: store.sha256(store.home() / path) for path in relative}
    return store.write_record(
        folder, p.model_dump(mode="json"), [], notebook=notebook, files=hashes, **facts, **clock.facts()
    )
