"""Finds the papers: ``dfnb/papers/<name>.py``, and ``papers/<name>.py`` in :func:`files.home`.

To import a file is to execute it, so those of a home count only where ``$DFNB_HOME`` names it, or
where it is the checkout of this package. A folder that somebody else has made is not executed just
because a command was started in it.

A module is a paper when it declares ``PAPER``, ``Settings`` and ``Network`` as
:mod:`dfnb.papers.contract` describes. Nothing else registers it.
"""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dfnb import files
from dfnb.checks import DfnbError, suggestion
from dfnb.papers import home


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    return {paper.PAPER.notebook: name for name, paper in modules().items()}


def modules() -> dict[str, ModuleType]:
    """Import every paper's file; return the modules by name, in the order of the notebooks.

    Raises :class:`DfnbError` where the name, title or notebook of one is also one of another.
    """
    # Where Python looks for the modules of the package dfnb.papers.home; set at every call, because
    # the home may have changed. Python imports a name once in a process: if an earlier home had a
    # file of the same name, the module of that file is returned.
    home.__path__[:] = _home_folders()
    papers = {}
    taken = {}  # name, title or notebook -> the file of the paper that has it
    for package in (__name__, home.__name__):  # dfnb.papers, dfnb.papers.home
        for entry in pkgutil.iter_modules(import_module(package).__path__):
            candidate = import_module(f"{package}.{entry.name}")
            if not hasattr(candidate, "PAPER"):  # a helper of the papers, such as contract
                continue
            # A set: a paper's title may equal its name, and must not count as taken by itself.
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


def _home_folders() -> list[str]:
    """The home's folder of papers, in a list that is empty where they are not executed."""
    root = files.home()
    checkout = Path(__file__).resolve().parents[2]
    return [str(root / "papers")] if os.environ.get("DFNB_HOME") or root == checkout else []


def module(paper: str) -> ModuleType:
    """The module of a paper.

    Raises as :func:`modules`, and :class:`DfnbError` if there is no paper of this name; it suggests
    a similar name, or else lists all.
    """
    available = modules()
    if paper not in available:
        raise DfnbError(f"there is no paper {paper!r}{suggestion(paper, available)}")
    return available[paper]
