"""The source of a paper: whether it has changed since a run, and which line raised an error."""

import ast
import sys
import textwrap
import traceback
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

from dfnb.papers import home
from facesets import files


def is_of_home(module: ModuleType) -> bool:
    """Whether a paper is a file of the reader's home, and not of the collection."""
    return module.__name__.startswith(f"{home.__name__}.")


def source(module: ModuleType) -> bytes:
    """The source of a module as it was at the first call, which belongs right after its import.

    A file that is changed afterwards does not change the code of the process.
    """
    spec = module.__spec__  # a module that is imported again, or reloaded, has another
    if not hasattr(spec, "dfnb_source"):
        spec.dfnb_source = Path(module.__file__).read_bytes()
    return spec.dfnb_source


def digest(module: ModuleType) -> str:
    """16 hex digits of a paper's code, and of the papers and files of the home that it imports.

    Comments, docstrings, layout and ``PAPER`` do not count. Nor do the collection's modules that
    are no papers: :data:`dfnb.training.train.NUMBERS` stands for them.
    """
    texts = {}  # name of a module → its code
    waiting = [module]
    while waiting:
        module = waiting.pop()
        if module.__name__ not in texts:
            texts[module.__name__], names = _read(source(module), module.__package__)
            waiting += [sys.modules[name] for name in names if _counts(sys.modules.get(name))]
    # By file names: a file that moves from the home into the collection stays what it is.
    return files.digest({name.rpartition(".")[2]: text for name, text in texts.items()}, 16)


def _counts(module: ModuleType | None) -> bool:
    """Whether a module that a paper imports is another paper, or a file of the home."""
    if getattr(module, "__file__", None) is None:  # not imported, or a folder
        return False
    is_paper = module.__name__.startswith("dfnb.papers.") and hasattr(module, "PAPER")
    return is_paper or is_of_home(module)


@cache
def _read(source: bytes, package: str) -> tuple[str, list[str]]:
    """The code in the source of a module, in one layout, and the names that it imports."""
    tree = ast.parse(source)
    imported = [name for node in ast.walk(tree) for name in _imported(node, package)]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a lambda has an expression
            node.body = [part for part in body if not _is_text(part) and not _is_paper(part)]
    return ast.unparse(tree), imported


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a text that nothing uses, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_paper(node: ast.AST) -> bool:
    """Whether a statement assigns ``PAPER``: names, and a version that a training has anyway."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAPER"


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The names that an import in a module of ``package`` may be of modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = resolve_name("." * node.level + (node.module or ""), package)
        yield origin
        yield from (f"{origin}.{alias.name}" for alias in node.names)


def fault(error: BaseException, file: str) -> str:
    """An error that a paper's file has raised, in one line, with the line of the file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, text = [error.lineno], f"SyntaxError: {error.msg}"
    text = textwrap.shorten(text.split("For further information")[0], 240).rstrip(".")
    return f"line {lines[-1]}: {text}" if lines else text
