"""Finds the papers: files of ``dfnb/papers/``, and entry points of the group ``dfnb.papers``.

A file belongs in an editable checkout, an entry point in the ``pyproject.toml`` of a package of the
reader's own, ``frequency = "my_papers.frequency"``. A module is a paper when it declares ``PAPER``,
``Settings`` and ``Network`` as :mod:`dfnb.papers.contract` describes.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from facesets.checks import DfnbError, suggestion
from facesets.files import sha256

if TYPE_CHECKING:
    from types import ModuleType


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    return {paper.PAPER.notebook: name for name, paper in modules().items()}


def of_notebook(notebook: str) -> str | None:
    """Name of the paper whose notebook this is; None for a notebook of no paper."""
    return notebooks().get(notebook)


@cache  # a file that is new or changed is imported by the next process
def modules() -> dict[str, ModuleType]:
    """Import all papers; return the modules by name, in the order of their notebooks.

    Raises what a file raises, and :class:`DfnbError` where two papers share a name, title or
    notebook: tables would take the runs of both for those of one.
    """
    from dfnb.papers import contract  # with torch, which most files here import anyway

    files = sorted(Path(__file__).parent.glob("[!._]*.py"))
    found = [(file.stem, import_module(f"{__name__}.{file.stem}")) for file in files]
    found += [(point.name, point.load()) for point in entry_points(group=__name__)]
    papers: dict[str, ModuleType] = {}
    taken: set[str] = set()  # names, titles and notebooks of the papers
    for name, module in found:
        paper = getattr(module, "PAPER", None)
        if isinstance(paper, contract.Paper):  # else a helper of papers, such as contract
            names = {name, paper.title, paper.notebook}
            if names & taken:
                clash = " and ".join(sorted(names & taken))
                raise DfnbError(f"{module.__file__}: another paper is called {clash}; rename one")
            taken |= names
            papers[name] = module
            _digest(module.__file__)  # now: what is changed later is not what was imported
    # A notebook's name begins with its number.
    return dict(sorted(papers.items(), key=lambda item: item[1].PAPER.notebook))


def module(paper: str) -> ModuleType:
    """The module of a paper.

    Raises :class:`DfnbError` if there is no paper of this name; it suggests a similar name, or else
    lists all.
    """
    papers = modules()
    if paper not in papers:
        raise DfnbError(f"there is no paper {paper!r}{suggestion(paper, papers)}")
    return papers[paper]


def version(paper: str) -> int | str:
    """What stands for a paper's code in the id of its runs.

    That is ``version`` of its ``PAPER`` or, of a paper without one, the sha256 of its file, of
    which 16 digits.
    """
    return module(paper).PAPER.version or _digest(module(paper).__file__)


@cache
def _digest(file: str) -> str:
    """16 hex digits of the sha256 of a file, as it was at the first call."""
    return sha256(Path(file))[:16]
