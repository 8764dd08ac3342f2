"""Notebooks executed in this process, where no kernel starts, and a check of executed ones."""

import ast
import json
import logging
import os
import re
import symtable
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import matplotlib.pyplot as plt
import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown
from IPython.utils.capture import capture_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

CHECKOUT = Path(__file__).resolve().parents[2]
# A bar of tqdm, such as "smoke-a:  50%|█████     | 18/36 [00:02<00:02, 8.91 films/s]".
PROGRESS = re.compile(r"[^|]*\d+%\|[^|]*\| *[\d.]+\w*/[\d.]+\w* \[.*\]")


@contextmanager
def working_in(home):
    """The home, and as in JupyterLab the folder of the notebooks as the current one."""
    before = Path.cwd()
    old = os.environ.get("DFNB_HOME")
    os.environ["DFNB_HOME"] = str(home)
    os.chdir(CHECKOUT / "notebooks")
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("DFNB_HOME")
        if old is not None:
            os.environ["DFNB_HOME"] = old


@contextmanager
def _restored(main):
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _warning_as_in_a_kernel():
    """Warnings and what libraries log go to standard error, and by Python's own filters.

    pytest collects both. Yields a list, which at the end has what was written by no Python code.
    """
    written = []
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    standard_error = os.dup(2)
    try:
        with TemporaryFile() as file, warnings.catch_warnings():
            os.dup2(file.fileno(), 2)
            warnings.resetwarnings()
            for kind in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", kind)
            warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
            warnings.showwarning = lambda *of_warning, **_: sys.stderr.write(
                warnings.formatwarning(*of_warning[:4])
            )
            yield written
            file.seek(0)
            written.append(file.read().decode())
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        root.handlers = handlers


def beside_progress(text):
    """The lines of a text on standard error that are no progress."""
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    return [line for line in lines if line and not PROGRESS.fullmatch(line)]


def cells(name, *ids, **values):
    """Run these cells of the notebook whose name ends so, after all its imports.

    ``values`` are what earlier cells would have left. Returns the namespace at the end.
    """
    (path,) = (CHECKOUT / "notebooks").glob(f"*{name}.ipynb")
    codes = {}
    for cell in load_notebook_node(str(path)).cells:
        if cell.cell_type == "code":
            codes[cell.id] = cell.source
    parts = ast.parse("\n".join(codes.values())).body
    imports = [part for part in parts if isinstance(part, ast.Import | ast.ImportFrom)]
    namespace = {}
    exec(ast.unparse(ast.Module(imports, [])), namespace)
    namespace |= values
    for each in ids:
        exec(codes[each], namespace)
    return namespace


def tags(cell):
    """The tags of a cell."""
    return {*cell.metadata.get("tags", [])}


def literals(path):
    """The values in the cell of the parameters of a notebook."""
    values = {}
    for cell in load_notebook_node(str(path)).cells:
        if "parameters" in tags(cell):
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.AnnAssign):
                    values[statement.target.id] = ast.literal_eval(statement.value)
    return values


def is_prose(cell):
    """Whether a cell is text; that of a study alone is in a code cell with the tag ``text``."""
    return cell.cell_type == "markdown" or "text" in tags(cell)


def names_of(code):
    """The names that a cell reads before it assigns them, and those that it assigns."""
    read, assigned = set(), set()
    for statement in ast.parse(code).body:
        tables = [symtable.symtable(ast.unparse(statement), "", "exec")]
        loads = set()
        for table in tables:  # grows: a function or comprehension has a table of its own
            tables += table.get_children()
            symbols = table.get_symbols()
            is_top = table is tables[0]
            loads |= {
                symbol.get_name()
                for symbol in symbols
                if symbol.is_referenced() and (is_top or symbol.is_global())
            }
        stores = {each.get_name() for each in tables[0].get_symbols() if each.is_assigned()}
        stores |= {each.get_name() for each in tables[0].get_symbols() if each.is_imported()}
        if not isinstance(statement, ast.Assign):  # a loop reads what it assigned before
            loads -= stores
        nodes = [*ast.walk(statement)]
        added = [node.target for node in nodes if isinstance(node, ast.AugAssign)]
        names = [node for node in nodes if isinstance(node, ast.Name) and node not in added]
        anew = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        loads |= {node.id for node in added if isinstance(node, ast.Name)} - anew
        read |= loads - assigned
        assigned |= stores
    return read, assigned


def share_excerpts(home):
    """Give a home the checkout's excerpts of embedded datasets, unless it has its own.

    They are kept by the identity of their dataset; each home would draw the same ones.
    """
    shared = CHECKOUT / "cache"
    shared.mkdir(exist_ok=True)
    if not (home / "cache").exists():
        (home / "cache").symlink_to(shared)


def execute(name, home, folder=CHECKOUT / "notebooks", steps=False, **parameters):
    """Run All of a notebook of a folder with parameters as papermill injects them.

    Cells tagged ``committed`` show other reports than that of the notebook, or it as a whole: no
    parameter but ``report`` changes them. They are run with the defaults and with a report that
    ``parameters`` name; all other parameters would only repeat them.

    Cells tagged ``steps``, which train small copies of the network and show them, are run with the
    defaults and with ``steps``: most parameters change nothing in them. Returns what each cell
    shows as text, and the namespace at the end; the first cell that fails raises its own error.
    Nothing but progress may be on standard error.
    """
    notebook = load_notebook_node(str(folder / f"{name}.ipynb"))
    if parameters:
        notebook = parameterize_notebook(notebook, parameters)
    main = sys.modules["__main__"]  # the shell puts its own there, which starts no process
    history = {"enabled": False}  # else each cell is added to the user's own history of IPython
    config = Config(InteractiveShell={"colors": "nocolor"}, HistoryManager=history)
    shell = InteractiveShell.instance(config=config)
    shell.reset(new_session=True)
    shown, errors = [], []
    left_out = {"committed"} if parameters and "report" not in parameters else set()
    if parameters and not steps:
        left_out |= {"steps"}
    share_excerpts(home)
    with working_in(home), _restored(main), _warning_as_in_a_kernel() as written:
        for cell in nbformat.from_dict(notebook).cells:
            if cell.cell_type == "code" and left_out.isdisjoint(tags(cell)):
                with capture_output() as captured:
                    result = shell.run_cell(cell.source, store_history=True)
                if result.error_before_exec or result.error_in_exec:
                    raise result.error_before_exec or result.error_in_exec
                outputs = [*captured.outputs]
                texts = [output.data.get("text/plain", "") for output in outputs]
                texts += [output.data.get("text/markdown", "") for output in outputs]
                last = result.result
                texts.append(last.data if isinstance(last, Markdown) else str(last))
                shown.append("\n".join([captured.stdout, *texts]))
                errors += [f"{cell.id}: {line}" for line in beside_progress(captured.stderr)]
                plt.close("all")
    errors += beside_progress("".join(written))
    assert not errors, "on standard error: " + "; ".join(errors)
    return shown, dict(shell.user_ns)


def check_executed(path):
    """No error and no warning is shown, no widget (papermill may wait for one), nothing trained.

    On standard error there is progress alone. Every picture has an alternative text.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = []
    for cell in notebook["cells"]:
        outputs += cell.get("outputs", [])
    for output in outputs:
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                assert output["metadata"].get(kind, {}).get("alt"), path
    errors = ["".join(each["text"]) for each in outputs if each.get("name") == "stderr"]
    assert not beside_progress("\r".join(errors)), path
    text = json.dumps(outputs)
    assert not any(output["output_type"] == "error" for output in outputs), path
    assert "vnd.jupyter.widget" not in text and "widgets" not in notebook["metadata"], path
    assert not re.search(r"Warning\b|: starting from |resumed in epoch ", text), path
