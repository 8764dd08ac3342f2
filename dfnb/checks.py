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
from safetensors import SafetensorError

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

    Only types that JSON lacks are converted, see :func:`plain`. ``"1e-4"`` is not a number and
    ``True`` is not 1, because YAML makes such values by accident. Raises a :class:`DfnbError` that
    begins with ``source``.
    """
    try:  # as JSON, because only from JSON a strict schema accepts a list for a tuple
        return schema.model_validate_json(json.dumps(values, default=plain))
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
            message = PATTERN_RULES.get(pattern, _uncapitalised(problem["msg"]))
            value = textwrap.shorten(repr(problem["input"]), 80)
            yield f"{field} = {value}: {message}{_remedy(problem['type'], problem['input'])}"


def _uncapitalised(sentence: str) -> str:
    """The sentence with a small first letter, as after a colon; the rest stays as it is."""
    return sentence[:1].lower() + sentence[1:]


def _remedy(problem: str, value: Any) -> str:
    """How to write a value that arrived as a text where another type is expected, or conversely.

    ``problem`` is pydantic's name of the error, such as ``int_type``. YAML and papermill read some
    numbers and lists as texts, and texts such as 001 as numbers. Empty for a value that is of that
    type in no form.
    """
    if problem == "string_type" and isinstance(value, int | float):
        return "; write it in quotes, and for papermill after -r instead of -p"
    if not isinstance(value, str):
        return ""
    if problem in ("int_type", "float_type"):
        match = re.fullmatch(r"([-+]?\d+)(\.\d*)?(?:[eE]([-+]?)(\d+))?", value)
        if not match:  # no number, or none of which YAML is sure to read the digits, such as -.5
            return ""
        whole, decimals, sign, exponent = match.groups()
        if problem == "int_type" and decimals:
            return ""
        if exponent is None:
            return "; write it without quotes"
        if problem == "int_type":  # 1.0e+3 would be read as a float
            return "; write all its digits, without e and without quotes"
        number = f"{whole}{decimals or '.0'}e{sign or '+'}{exponent}"
        return f"; write {number}, as YAML reads numbers, and without quotes"
    if problem in ("list_type", "tuple_type"):
        return "; write a list, as in [a, b]; papermill reads one by -y instead of -p"
    if problem == "bool_type":
        return "; write true or false, without quotes; papermill's -p reads True and False alone"
    return ""


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a sentence on an unknown name: the names perhaps meant, or else the first known.

    Perhaps meant are known names that begin with it, else those spelled alike, else those that
    contain it; three at most. Capitals and punctuation do not count. Without any, the first
    MOST_NAMES of ``known`` are listed.
    """
    typed = _letters(name)
    by_letters = {_letters(other): other for other in known}
    begin = [other for letters, other in by_letters.items() if letters.startswith(typed)]
    alike = [by_letters[letters] for letters in get_close_matches(typed, by_letters)]
    contain = [other for letters, other in by_letters.items() if typed in letters]
    similar = begin or alike or contain
    if similar and typed:
        return f"; did you mean {' or '.join(similar[:3])}?"
    first = [*known][:MOST_NAMES]
    others = f" and {len(known) - len(first)} others" if len(known) > len(first) else ""
    return f"; known are {', '.join(first) or 'none'}{others}"


def _letters(name: str) -> str:
    """The letters and digits of a name, in lower case: by them names are compared."""
    return re.sub(r"[\W_]", "", name.lower())


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
    TypeError,
    RuntimeError,  # of torch: damaged weights, and such as do not fit
    SafetensorError,
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
    """Safe YAML that refuses duplicate keys and reads every key as text, also ``no`` and 0.010."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys, then copy into the mapping what it merges; PyYAML calls it for each."""
        names = set()
        for key, _ in node.value:  # the entries of the mapping as nodes of the syntax
            if key.tag == "tag:yaml.org,2002:merge":  # the key ``<<``, which stays what it is
                continue
            if key.value in names:
                problem = f"{key.value!r} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            names.add(key.value)
            key.tag = "tag:yaml.org,2002:str"  # a text, even where YAML would read a bool or number
        super().flatten_mapping(node)
        # Of an entry that was overridden, the last is left: an alias brings the mapping here again.
        node.value = [*{key.value: (key, value) for key, value in node.value}.values()]


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


def plain(value: Any) -> Any:
    """What to write for a value that JSON lacks: numpy's as Python's own, any other as text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
