"""Finds the papers: ``dfnb/papers/<name>.py``, and ``papers/<name>.py`` in :func:`files.home`.

To import a file is to execute it, so those of a home count only where ``$DFNB_HOME`` names it, or
where it is the checkout of this package. A folder that somebody else has made is not executed just
because a command was started in it.

A module is a paper when it declares ``PAPER``, ``Settings`` and ``Network`` as
:mod:`dfnb.papers.contract` describes. Nothing else registers it.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dfnb.papers import code, home
from facesets import files
from facesets.checks import DfnbError, suggestion


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    return {paper.PAPER.notebook: name for name, paper in modules().items()}


def of_notebook(notebook: str) -> str | None:
    """Name of the paper whose notebook this is; None for a notebook of no paper.

    Raises :class:`DfnbError` for ``14_frequency`` if ``frequency.py`` is left out; it says why.
    """
    paper = notebooks().get(notebook)
    name = notebook.partition("_")[2]
    left_out = _imported()[1]
    if paper is None and name in left_out:
        raise DfnbError(left_out[name])
    return paper


def modules() -> dict[str, ModuleType]:
    """Import every paper's file; return the modules by name, in the order of the notebooks.

    A file that cannot be imported, or whose name, title or notebook another paper has, is left out,
    and a line on stderr says why.
    """
    return _imported()[0]


def module(paper: str) -> ModuleType:
    """The module of a paper.

    Raises :class:`DfnbError` if there is no paper of this name; it says why its file is left out,
    or suggests a similar name, or else lists all.
    """
    papers, left_out = _imported()
    if paper not in papers:
        no_paper = f"there is no paper {paper!r}{suggestion(paper, papers)}"
        raise DfnbError(left_out.get(paper, no_paper))
    return papers[paper]


def code_of(paper: str) -> str:
    """The digest of a paper's code, see :func:`dfnb.papers.code.digest`."""
    return code.digest(module(paper))


def _imported() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The papers by name, in the order of the notebooks; and why other files are left out, by name.

    Nothing is kept here, because Python keeps what it has imported. So a file that is new, or was
    broken and is corrected, is found without a restart.
    """
    from dfnb.papers import contract  # with torch, which most files here import anyway

    # Where Python looks for the modules of the package dfnb.papers.home; set at every call, because
    # the home may have changed. Python imports a name once in a process: if an earlier home had a
    # file of the same name, the module of that file is returned.
    home.__path__[:] = _home_folders()
    papers = {}
    left_out = {}
    taken = set()  # names, titles and notebooks of the papers
    for package in (sys.modules[__name__], home):
        for file in _files(package):
            try:
                module = import_module(f"{package.__name__}.{file.stem}")
                code.source(module)  # before somebody changes the file
                paper = getattr(module, "PAPER", None)
                if isinstance(paper, contract.Paper):  # else a helper of papers, such as contract
                    names = {file.stem, paper.title, paper.notebook}
                    if clash := sorted(names & taken):
                        raise ValueError(f"another paper is called {' and '.join(clash)}")
                    taken |= names
                    papers[file.stem] = module
            except (Exception, SystemExit) as error:  # whatever a file does that is being written
                fault = code.fault(error, str(file))
                left_out[file.stem] = f"{file} is left out: {fault}; correct it or move it away"
                _say(left_out[file.stem])
    # A notebook's name begins with its number.
    return dict(sorted(papers.items(), key=lambda item: item[1].PAPER.notebook)), left_out


def _home_folders() -> list[str]:
    """The home's folder of papers, in a list that is empty where they are not executed."""
    root = files.home()
    checkout = Path(__file__).resolve().parents[2]
    return [str(root / "papers")] if os.environ.get("DFNB_HOME") or root == checkout else []


def _files(package: ModuleType) -> list[Path]:
    """The Python files of a package, without hidden ones and ``__init__.py``."""
    return [file for folder in package.__path__ for file in sorted(Path(folder).glob("[!._]*.py"))]


@cache
def _say(sentence: str) -> None:
    """Print a sentence on stderr, once in a process."""
    print(sentence, file=sys.stderr)
