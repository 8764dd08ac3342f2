"""What is given from outside (parameters, profiles, manifests), checked at the door.

YAML files are read by :func:`read_yaml`, and their values pass a closed schema (:class:`Closed`).
Whatever is wrong ends in one sentence (:class:`DfnbError`) that names the file and what to do.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

# Names of datasets, profiles, papers, runs and jobs become file names and words of command lines.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
# Variants, methods and other tools are named in tables: no table format may read markup in them.
Title = Annotated[str, StringConstraints(pattern=r"^\w[\w .,:()%+=/-]*$", max_length=200)]


class DfnbError(Exception):
    """Bad input, explained in one sentence that names the file and the remedy.

    Notebooks and the command line show this sentence without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class Closed(BaseModel):
    """Base of every schema: refuses unknown names, wrong types and impossible values; immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: Any, source: object) -> Self:
        """An instance from plain values such as YAML and JSON give.

        Strict: ``"1e-4"`` is not a number and ``True`` is not 1, because YAML makes such values by
        accident. Raises :class:`DfnbError` that names ``source``.
        """
        try:
            return cls.model_validate_json(json.dumps(values, default=plain))
        except ValidationError as error:
            problems = "; ".join(_sentences(error, cls))
            raise DfnbError(f"{source}: {problems}") from None


def _sentences(error: ValidationError, schema: type[Closed]) -> Iterator[str]:
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"])) or "value"
        message = problem["msg"][0].lower() + problem["msg"][1:]
        if problem["type"] == "extra_forbidden":
            yield f"there is no parameter {field!r}; known are {', '.join(schema.model_fields)}"
        elif problem["type"] == "value_error":  # of a validator of ours, which names the field
            yield str(problem["ctx"]["error"])
        elif problem["type"] == "missing":
            yield f"{field}: {message}"
        else:
            value = textwrap.shorten(repr(problem["input"]), 80)
            yield f"{field} = {value}: {message}"


class _Text(Closed):
    name: Name = "name"
    title: Title = "title"


def check_name(name: str, source: object) -> str:
    """Return ``name`` if it can be the name of a file and of a folder, else raise DfnbError."""
    return _Text.check({"name": name}, source).name


def check_title(title: str, source: object) -> str:
    """Return ``title`` if it can stand in every table, else raise :class:`DfnbError`."""
    return _Text.check({"title": title}, source).title


@contextmanager
def explained(source: object, kind: str, remedy: str) -> Iterator[None]:
    """Turn what a library raises about a damaged or foreign ``source`` into a DfnbError.

    The sentence reads: "<source> is not valid <kind> (<problem>); <remedy>".
    """
    try:
        yield
    except DfnbError:
        raise
    except Exception as error:
        problem = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise DfnbError(f"{source} is not valid {kind} ({problem}); {remedy}") from None


class _Loader(yaml.CSafeLoader):
    """Safe YAML without duplicate keys; keys are the text as written, also ``no`` and 0.010."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        names = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # the key ``<<``
                continue
            if key.value in names:
                problem = f"{key.value!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            names.add(key.value)
            key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises ``yaml.YAMLError``."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises :class:`DfnbError` for anything else."""
    return read_mapping(path, parse_yaml, "YAML", "correct it")


def read_mapping(
    path: Path,
    parse: Callable[[str], Any],
    kind: str,
    remedy: str,
) -> dict[str, Any]:
    """The names and values in a file; ``kind`` and ``remedy`` stand in :func:`explained`."""
    with explained(path, kind, remedy):
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"it holds {type(content).__name__} instead of names and values")
    return content


def plain(value: Any) -> Any:
    """A value that JSON can hold: numpy's as Python's, everything else as text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
