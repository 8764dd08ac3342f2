"""Checks of what users write: parameters, profiles and manifests.

YAML files are read by :func:`read_yaml`, and their values are checked against a closed schema
(:class:`Closed`). Every mistake is reported in one sentence (:class:`DfnbError`) that names the
file and the remedy.
"""

from __future__ import annotations

import json
import pickle
import re
import textwrap
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

# Names of datasets, profiles, papers, runs and jobs become file names and words of command lines.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
# Names of variants and methods are printed in tables: no character may be markup in Markdown
# or HTML.
TITLE = r"^\w[\w .,:()%+=/-]{0,199}$"
Title = Annotated[str, StringConstraints(pattern=TITLE)]
# What error messages say instead of these patterns.
PATTERN_RULES = {
    NAME: "use letters (A-Z, a-z), digits and . _ - only, a letter or digit first, 200 at most",
    TITLE: "use letters, digits, spaces and . , : ( ) % + = / _ - only, no sign first, 200 at most",
}
MOST_NAMES = 12  # in a message
# What YAML and papermill make of a value by accident, by the name of pydantic's error.
REMEDIES = {
    "string_type": "; write it in quotes, and for papermill after -r instead of -p",
    "float_type": "; write it without quotes, as 0.0001 or 1.0e-4: YAML reads 1e-4 as a text",
    "int_type": "; write its digits without quotes: YAML reads 1e3 as a text",
}


class DfnbError(Exception):
    """Bad input, explained in one sentence that names the file and the remedy.

    Notebooks and the command line show this sentence without a traceback.
    """

    def _render_traceback_(self) -> list[str]:  # called by IPython
        return [f"{type(self).__name__}: {self}"]


Schema = TypeVar("Schema", bound=BaseModel)


class Closed(BaseModel):
    """Base of every schema: immutable; refuses unknown names, wrong types and impossible values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: Any, source: object) -> Self:
        """An instance with these values, as read from YAML or JSON.

        Raises a :class:`DfnbError` as :func:`checked` does.
        """
        return checked(cls, values, source)


def checked(schema: type[Schema], values: Any, source: object) -> Schema:
    """An instance of a strict schema with these values, as read from YAML or JSON.

    Only types that JSON lacks are converted, see :func:`as_json`. ``"1e-4"`` is not a number and
    ``True`` is not 1, because YAML makes such values by accident. Raises a :class:`DfnbError` that
    begins with ``source``.
    """
    try:  # as JSON, because only from JSON a strict schema accepts a list for a tuple
        return schema.model_validate_json(json.dumps(values, default=as_json))
    except ValidationError as error:
        problems = "; ".join(_sentences(error, schema))
        raise DfnbError(f"{source}: {problems}") from None


def _sentences(error: ValidationError, schema: type[BaseModel]) -> Iterator[str]:
    """One sentence per problem that pydantic found in values for ``schema``."""
    for problem in error.errors():
        # ``loc`` is the path of a value, such as ("maps", "names", 0); empty: all values together.
        field = ".".join(map(str, problem["loc"])) or "value"
        if problem["type"] == "extra_forbidden":
            # Inside an entry, such as ``maps``, other names are allowed than those of ``schema``.
            is_at_top = len(problem["loc"]) == 1
            hint = suggestion(field, schema.model_fields) if is_at_top else ""
            yield f"there is no parameter {field!r}{hint}"
        elif problem["type"] == "value_error":  # the sentence of a validator of this package
            yield str(problem["ctx"]["error"])
        elif problem["type"] == "missing":
            yield f"{field} is missing"
        else:
            # ``ctx`` has a pattern only where a text does not match it.
            pattern = problem.get("ctx", {}).get("pattern")
            message = PATTERN_RULES.get(pattern, problem["msg"])
            value = textwrap.shorten(repr(problem["input"]), 80)
            yield f"{field} = {value}: {message}{REMEDIES.get(problem['type'], '')}"


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a sentence on an unknown name: names spelled alike, or else the first known."""
    if alike := get_close_matches(name, known):
        return f"; did you mean {' or '.join(alike)}?"
    first = ", ".join([*known][:MOST_NAMES]) or "none"
    return f"; known are {first}{' …' if len(known) > MOST_NAMES else ''}"


def check_name(name: str, source: object, pattern: str = NAME) -> str:
    """Return ``name`` if files and folders may be named so, else raise :class:`DfnbError`.

    With the ``pattern`` TITLE, if every format of tables can show it.
    """
    if not re.fullmatch(pattern, name):
        raise DfnbError(f"{source}: {name!r}: {PATTERN_RULES[pattern]}")
    return name


# What reading a user's file, or using a user's values, can raise. Errors of pandas, JSON and Arrow
# are among them. Any other, such as an AttributeError, is a fault of this package.
READING_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,  # of pyarrow: a damaged table
    TypeError,
    RuntimeError,  # of torch: damaged weights, and such as do not fit
    yaml.YAMLError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@contextmanager
def explained(
    source: object,
    kind: str,
    remedy: str,
) -> Iterator[None]:
    """Turn an error while ``source`` is read or used, such as a damaged file, into a DfnbError.

    Its text is "<source> is not valid <kind> (<problem>); <remedy>". A DfnbError stays as it is, as
    does any error that is not among READING_ERRORS.
    """
    try:
        yield
    except READING_ERRORS as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        problem = textwrap.shorten(problem or repr(error), 300)
        raise DfnbError(f"{source} is not valid {kind} ({problem}); {remedy}") from None


class _Loader(yaml.CSafeLoader):
    """Safe YAML that refuses a key that is written twice: PyYAML would silently take the last."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys, then copy into the mapping what it merges; PyYAML calls it for each."""
        names = set()
        for key, _ in node.value:  # the entries of the mapping as nodes of the syntax
            if key.value in names and key.value != "<<":
                problem = f"{key.value!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            names.add(key.value)
        super().flatten_mapping(node)
        # Of an entry that was overridden, the last is left: an alias brings the mapping here again.
        node.value = [*{key.value: (key, value) for key, value in node.value}.values()]


def _word(loader: _Loader, node: yaml.ScalarNode) -> bool | float | str:
    """True, false or a finite number; of any other plain word the text, as it is written."""
    text = node.value.lower()
    if text in ("true", "false"):
        return text == "true"
    if node.tag.endswith(":float") and not text.endswith((".inf", ".nan")):
        return loader.construct_yaml_float(node)
    return node.value


# YAML makes false of no, a date of 2026-11-30, and a number of .nan: JSON has none of these.
for _kind in ("bool", "timestamp", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _word)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises ``yaml.YAMLError``, or ``TypeError`` for a list as a key."""
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
    """The mapping of names to values in a file; ``parse`` turns the file's text into a value.

    Raises :class:`DfnbError` with ``kind`` and ``remedy``, see :func:`explained`, also where the
    value is no mapping.
    """
    with explained(path, kind, remedy):
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"it has {type(content).__name__} instead of names and values")
    return content


def as_json(value: Any) -> Any:
    """What to write for a value that JSON lacks: numpy's as Python's own, any other as text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
