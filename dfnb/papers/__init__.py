"""Finds the papers: ``dfnb/papers/<name>.py``, and ``papers/<name>.py`` in :func:`files.home`.

A module is a paper when it declares ``PAPER``, ``Settings`` and ``Network`` as
:mod:`dfnb.papers.contract` describes. Nothing else registers it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

from dfnb import files
from dfnb.papers import home
from dfnb.settings import DfnbError, suggestion


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    return {paper.PAPER.notebook: name for name, paper in modules().items()}


def modules() -> dict[str, ModuleType]:
    """The module of each paper by its name, in the order of the notebooks.

    Raises :class:`DfnbError` where two have the same name, title or notebook.
    """
    # Where Python looks for the modules of the package dfnb.papers.home. It is set at every call,
    # because the home may have changed; a module that was imported from the home before is kept.
    home.__path__[:] = [str(files.home() / "papers")]
    papers = {}
    taken = {}  # the file of the paper that has a name, title or notebook
    for package in (__name__, home.__name__):
        for entry in pkgutil.iter_modules(import_module(package).__path__):
            candidate = import_module(f"{package}.{entry.name}")
            if not hasattr(candidate, "PAPER"):
                continue
            for text in {entry.name, candidate.PAPER.title, candidate.PAPER.notebook}:
                if text in taken:
                    raise DfnbError(
                        f"{candidate.__file__} has the name, title or notebook of {taken[text]}; "
                        "give it its own"
                    )
                taken[text] = candidate.__file__
            papers[entry.name] = candidate
    # A notebook's name begins with its number.
    return dict(sorted(papers.items(), key=lambda item: item[1].PAPER.notebook))


def module(paper: str) -> ModuleType:
    """The module of a paper.

    Raises :class:`DfnbError`, which suggests a similar name, if there is no paper of this name.
    """
    available = modules()
    if paper not in available:
        raise DfnbError(f"there is no paper {paper!r}{suggestion(paper, available)}")
    return available[paper]
