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
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dfnb import files
from dfnb.checks import DfnbError, suggestion
from dfnb.papers import code, home


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    return {paper.PAPER.notebook: name for name, paper in modules().items()}


def of_notebook(notebook: str) -> str | None:
    """Name of the paper whose notebook this is; None for a notebook of no paper.

    Raises :class:`DfnbError` if a file that names the notebook is left out; it says why.
    """
    paper = notebooks().get(notebook)
    for file, sentence in {} if paper else _imported()[1].items():
        with suppress(OSError):  # of a file that cannot be read
            if f'"{notebook}"' in file.read_text("utf-8", "replace"):
                raise DfnbError(sentence)
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
        for file, sentence in left_out.items():
            if file.stem == paper:
                raise DfnbError(sentence)
        raise DfnbError(f"there is no paper {paper!r}{suggestion(paper, papers)}")
    return papers[paper]


def code_of(paper: str) -> str:
    """The digest of a paper's code, see :func:`dfnb.papers.code.digest`."""
    return code.digest(module(paper))


def _imported() -> tuple[dict[str, ModuleType], dict[Path, str]]:
    """The papers by name, in the order of the notebooks; and why other files are left out.

    Nothing is kept here, because Python keeps what it has imported. So a file that is new, or was
    broken and is corrected, is found without a restart.
    """
    # Where Python looks for the modules of the package dfnb.papers.home; set at every call, because
    # the home may have changed. Python imports a name once in a process: if an earlier home had a
    # file of the same name, the module of that file is returned.
    home.__path__[:] = _home_folders()
    papers = {}
    left_out = {}
    owners = {}  # name, title or notebook → the file of the paper that has it
    for package in (sys.modules[__name__], home):
        for file in _files(package):
            try:
                module = import_module(f"{package.__name__}.{file.stem}")
                code.source(module)  # before somebody changes the file
                if hasattr(module, "PAPER"):  # others are helpers of the papers, such as contract
                    _register(module, file, owners)
                    papers[file.stem] = module
            except (Exception, SystemExit) as error:  # whatever a file does that is being written
                fault = code.fault(error, str(file))
                left_out[file] = f"{file} is left out: {fault}; correct it or move it away"
                _say(left_out[file])
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


def _register(module: ModuleType, file: Path, owners: dict[str, Path]) -> None:
    """Note a paper's name, title and notebook in ``owners``; an error where another has them."""
    from dfnb.papers import contract  # with torch, which most files here import anyway

    if not isinstance(module.PAPER, contract.Paper):
        raise TypeError("PAPER is no contract.Paper(title, notebook, published)")
    # A set: a paper's title may equal its name, and must not count as taken by itself.
    names = {file.stem, module.PAPER.title, module.PAPER.notebook}
    for name in names & owners.keys():
        raise ValueError(f"it has the name, title or notebook of {owners[name]}")
    owners |= dict.fromkeys(names, file)


@cache
def _say(sentence: str) -> None:
    """Print a sentence on stderr, once in a process."""
    print(sentence, file=sys.stderr)
