"""Executing a notebook by papermill.

Snakemake starts this once for each call of a profile, so it imports neither torch nor pandas.
"""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from dfnb.extras import sentence_of
from facesets import files
from facesets.checks import DfnbError

# How papermill's own remarks begin, and what it makes of the things that a cell has shown.
PAPERMILLS = ("Input Notebook", "Output Notebook", "Executing ", "Ending ", "Passed unknown", "<")


STATUS_EVERY = 30  # seconds


class Log(logging.FileHandler):
    """The file of what a training prints; now and then its last line goes to standard error."""

    printed_at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        last = record.getMessage().strip().splitlines()[-1:]
        if last and time.monotonic() - self.printed_at > STATUS_EVERY:
            self.printed_at = time.monotonic()
            print(f"running: {Path(self.baseFilename).stem}", *last, file=sys.stderr, flush=True)


def injected(profile: str, variant: str, seed: int, fold: int) -> dict[str, Any]:
    """The parameters that papermill sets for a call, a :class:`dfnb.running.profiles.Call`."""
    if not variant:  # it trains nothing
        return {"report": profile, "save": True}
    of_fold = {"fold": fold} if fold else {}
    return {"profile": profile, "variant": variant, "seed": seed, **of_fold, "save": True}


def execute(
    notebook: str,
    output: Path,
    log: Path,
    changes: Mapping[str, Any],
    whole: bool,
) -> None:
    """Execute a notebook by papermill up to its cell tagged ``run`` or, if it is ``whole``, all.

    Raises :class:`DfnbError` as :func:`execute_notebook`.

    Args:
        notebook: Its name.
        output: Where the executed notebook is written.
        log: Where what it prints is written, and why it failed.
        changes: The parameters that papermill sets.
        whole: Whether cells after the one tagged ``run`` are executed, too.
    """
    content = nbformat.read(files.find(f"notebooks/{notebook}.ipynb"), as_version=4)
    if not whole:
        is_run = ["run" in cell.metadata.get("tags", []) for cell in content.cells]
        if True not in is_run:
            raise DfnbError(
                f"no cell of {notebook} has the tag run; tag the one that calls open_or_train, as "
                "in 02_xception_baseline"
            )
        content.cells = content.cells[: is_run.index(True) + 1]
    listener = logging.FileHandler if whole else Log  # of tables, nobody wants the last line
    execute_notebook(content, output, changes, listener(log, "w", "utf-8"))
    if whole:
        print(f"executed: {output.absolute()}", file=sys.stderr, flush=True)


def execute_notebook(
    notebook: nbformat.NotebookNode,
    output: Path,
    changes: Mapping[str, Any],
    listener: logging.Handler | None = None,
) -> None:
    """Execute a notebook by papermill; ``output`` is the executed notebook, also after an error.

    It runs by the kernel of this environment. ``listener`` gets what it prints, and why it failed.

    Raises :class:`DfnbError`: with the sentence of a cell that refused something or that lacked an
    extra, or else with the error of a cell that failed or whose process was killed.
    """
    import papermill  # takes a second to import
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("papermill")
    listener = listener or logging.NullHandler()
    listener.addFilter(lambda record: not record.getMessage().startswith(PAPERMILLS))
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        papermill.execute_notebook(
            notebook,
            output,
            changes,
            # This environment's: a notebook names that of the one where it was saved, or none.
            kernel_name="python3",
            language="python",
            progress_bar=False,
            log_output=True,
            # Else the kernel's log may end with the interrupt by which each kernel is stopped.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        explained = _explained(error, output)
        log.error("%s", explained)
        raise explained from None
    finally:
        log.removeHandler(listener)


def _explained(error: Exception, output: Path) -> DfnbError:
    """Why a notebook failed, in a sentence."""
    name, value = getattr(error, "ename", ""), getattr(error, "evalue", "")
    if name == DfnbError.__name__:
        return DfnbError(value)
    if name == ModuleNotFoundError.__name__:
        module = value.partition("'")[2].partition("'")[0]  # No module named 'torch'
        if sentence := sentence_of(module):
            return DfnbError(sentence)
    if name:
        return DfnbError(f"{output} shows where it failed: {name}: {value}")
    return DfnbError(f"{output} shows how far it came: {str(error).splitlines()[0]}")


def rebuild(report: str, paper: bool = False) -> Path:
    """Execute the notebook of a report, as ``dfnb run`` does, and export it; returns its page.

    ``paper`` first executes the other notebook that needs nothing but scores, for its figures and
    tables. Raises :class:`DfnbError` as :func:`execute_notebook`.
    """
    from dfnb.results import page  # it imports pandas

    folder = files.report_folder(report) / "notebooks"
    for name in [page.COMPARISON, page.REPORT] if paper else [page.REPORT]:
        notebook = nbformat.read(files.find(f"notebooks/{name}.ipynb"), as_version=4)
        changes = {"report": report, "save": True}
        execute_notebook(notebook, folder / f"{name}.ipynb", changes)
        page.sign(folder / f"{name}.ipynb")
    return page.export(report, page.REPORT)
