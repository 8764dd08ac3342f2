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
import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dfnb import files
from dfnb.checks import DfnbError, suggestion
from dfnb.papers import code, home

_left_out: dict[str, tuple[Path, str]] = {}  # name of a file that is no paper → file, and why
_said: set[str] = set()  # of these sentences


def notebooks() -> dict[str, str]:
    """Name of the notebook → name of the paper, for all papers, in the order of the notebooks."""
    return {paper.PAPER.notebook: name for name, paper in modules().items()}


def of_notebook(notebook: str) -> str | None:
    """Name of the paper whose notebook this is; None for a notebook of no paper.

    Raises :class:`DfnbError` if a file that names the notebook is left out; it says why.
    """
    paper = notebooks().get(notebook)
    for file, sentence in () if paper else _left_out.values():
        with suppress(OSError):  # of a file that cannot be read
            text = file.read_text("utf-8", "replace")  # one with a syntax error declares nothing
            if re.search(rf"""["']{re.escape(notebook)}["']""", text):
                raise DfnbError(sentence)
    return paper


def modules() -> dict[str, ModuleType]:
    """Import every paper's file; return the modules by name, in the order of the notebooks.

    A file that cannot be imported, that declares no paper, or whose name, title or notebook
    another one has, is left out, and a line on stderr says why.
    """
    # Where Python looks for the modules of the package dfnb.papers.home; set at every call, because
    # the home may have changed. Python imports a name once in a process: if an earlier home had a
    # file of the same name, the module of that file is returned.
    home.__path__[:] = _home_folders()
    _left_out.clear()
    papers = {}
    taken = {}  # name, title or notebook -> the file of the paper that has it
    for package in (__name__, home.__name__):  # dfnb.papers, dfnb.papers.home
        for entry in pkgutil.iter_modules(import_module(package).__path__):
            candidate = _imported(package, entry)
            if candidate is None or not _is_paper(entry.name, candidate):
                continue
            # A set: a paper's title may equal its name, and must not count as taken by itself.
            texts = {entry.name, candidate.PAPER.title, candidate.PAPER.notebook}
            if clash := sorted(texts & taken.keys()):
                problem = f"it has the name, title or notebook of {taken[clash[0]]}"
                _leave_out(entry.name, candidate.__file__, problem, "give it its own")
                continue
            taken |= dict.fromkeys(texts, candidate.__file__)
            papers[entry.name] = candidate
    code.remember()
    # A notebook's name begins with its number.
    return dict(sorted(papers.items(), key=lambda item: item[1].PAPER.notebook))


def _imported(package: str, entry: pkgutil.ModuleInfo) -> ModuleType | None:
    """The module of a file in a package; None where importing it raises an error."""
    name = f"{package}.{entry.name}"
    mend = "correct it or move it away"
    spec = entry.module_finder.find_spec(name)
    if spec is None:
        link = str(Path(entry.module_finder.path, f"{entry.name}.py"))
        _leave_out(entry.name, link, "Python finds no file there, as behind a broken link", mend)
        return None
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:  # whatever a file does that somebody is writing
        _leave_out(entry.name, spec.origin, code.fault(error, spec.origin), mend)
        return None


def _is_paper(name: str, candidate: ModuleType) -> bool:
    """Whether a module declares a paper; if it declares a part of one, it is left out."""
    from dfnb.papers import contract  # with torch, which most files here import anyway

    classes = {"Settings": contract.Settings, "Network": contract.Network}
    own = {
        name: declared
        for name in classes
        if isinstance(declared := getattr(candidate, name, None), type)
        and issubclass(declared, classes[name])
        and declared not in classes.values()
    }
    paper = getattr(candidate, "PAPER", None)
    if paper is None and len(own) < 2:  # a helper of the papers, such as contract
        return False
    problem = None
    if not isinstance(paper, contract.Paper):
        problem = "it declares no PAPER = contract.Paper(title, notebook, published)"
    elif not all(isinstance(text, str) and text for text in paper[:3]):
        problem = "title, notebook and published of its PAPER must be texts"
    elif missing := [name for name in classes if name not in own]:
        problem = f"it declares no class {missing[0]}(contract.{missing[0]})"
    if problem:
        _leave_out(name, candidate.__file__, problem, "add it, or move the file away")
    return problem is None


def _leave_out(name: str, file: str, problem: str, mend: str) -> None:
    """Keep, and print once in a process, why a file is no paper."""
    sentence = f"{file} is left out: {problem}; {mend}"
    _left_out[name] = Path(file), sentence
    if sentence not in _said:
        _said.add(sentence)
        print(sentence, file=sys.stderr)


def _home_folders() -> list[str]:
    """The home's folder of papers, in a list that is empty where they are not executed."""
    root = files.home()
    checkout = Path(__file__).resolve().parents[2]
    return [str(root / "papers")] if os.environ.get("DFNB_HOME") or root == checkout else []


def module(paper: str) -> ModuleType:
    """The module of a paper.

    Raises :class:`DfnbError` if there is no paper of this name; it says why its file is left out,
    or suggests a similar name, or else lists all.
    """
    available = modules()
    if paper not in available:
        if paper in _left_out:
            raise DfnbError(_left_out[paper][1])
        raise DfnbError(f"there is no paper {paper!r}{suggestion(paper, available)}")
    return available[paper]


def code_of(paper: str) -> str:
    """The digest of a paper's code, see :func:`dfnb.papers.code.digest`."""
    return code.digest(module(paper), modules())
