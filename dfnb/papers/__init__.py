"""Finds the papers: ``dfnb/papers/<name>.py``, and ``papers/<name>.py`` in :func:`files.home`.

A module is a paper when it declares ``PAPER``, ``Settings`` and ``Network`` as
:mod:`dfnb.papers.contract` describes. Nothing else registers it.
"""

from __future__ import annotations

import ast
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dfnb import files
from dfnb.settings import DfnbError

MAY_HAVE_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def names() -> list[str]:
    """The names of all papers, in the order of their notebooks."""
    return list(notebooks().values())


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    # With the second folder in this package's path, its modules, too, are dfnb.papers.<name>. It is
    # set at every call, because the home may have changed.
    __path__[1:] = [str(files.home() / "papers")]
    papers = {}
    for entry in pkgutil.iter_modules(__path__):  # also modules that are no papers
        candidate = import_module(f"{__name__}.{entry.name}")
        if hasattr(candidate, "PAPER"):
            papers[candidate.PAPER.notebook] = entry.name
    return dict(sorted(papers.items()))  # a notebook's name begins with its number


def module(paper: str) -> ModuleType:
    """The module of a paper; raises a :class:`DfnbError` that lists the papers if it is none."""
    available = names()
    if paper not in available:
        raise DfnbError(f"there is no paper {paper!r}; available are {', '.join(available)}")
    return import_module(f"{__name__}.{paper}")


def source_digest(paper: str) -> str:
    """A fingerprint of a paper's own file; it ignores comments, texts of docstrings and layout."""
    path = Path(module(paper).__file__)
    return _code_digest(path.read_text(encoding="utf-8"))


@cache
def _code_digest(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, MAY_HAVE_DOCSTRING) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()  # not removed: the body may be the docstring alone
    return files.digest(ast.unparse(tree))
