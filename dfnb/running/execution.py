"""Executing a notebook by papermill, with a limit on silence.

Snakemake starts this once for each call of a profile, so it imports neither torch nor pandas.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from facesets import files
from facesets.checks import DfnbError

LONGEST_SILENCE = 3 * 3600  # seconds without any output, after which a kernel counts as hanging


def execute(calls: Path, name: str) -> None:
    """Execute a call by papermill: a training up to the cell tagged ``run``, else the whole.

    What the notebook prints goes to standard output, where a log of it shows how far it is. Raises
    :class:`DfnbError` as :func:`execute_notebook`.

    Args:
        calls: A file of :class:`dfnb.running.profiles.Calls`.
        name: Of the call.
    """
    content = files.read_json(calls)
    call = next(each for each in [*content["shown"], *content["trainings"]] if each["name"] == name)
    notebook = nbformat.read(files.find(f"notebooks/{call['notebook']}.ipynb"), as_version=4)
    if call not in content["shown"]:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        is_run = ["run" in of_cell for of_cell in tags]
        if True not in is_run:
            raise DfnbError(
                f"no cell of {call['notebook']} has the tag run; tag the one that calls "
                "open_or_train, as in 02_xception_baseline"
            )
        notebook.cells = notebook.cells[: is_run.index(True) + 1]
    execute_notebook(notebook, files.home() / call["executed"], call["changes"])


def execute_notebook(
    notebook: nbformat.NotebookNode,
    output: Path,
    changes: Mapping[str, Any],
    is_printed: bool = True,
) -> None:
    """Execute a notebook by papermill; ``output`` is the executed notebook, also after an error.

    It runs by the kernel of this environment. What it prints is printed, if ``is_printed``.

    Raises :class:`DfnbError`: with the sentence of a cell that refused something, or else with the
    error of a cell that failed or whose process was killed. After LONGEST_SILENCE this process
    ends, and its kernel with it.
    """
    import papermill  # takes a second to import
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("papermill")
    listener = _Listener(output, is_printed)
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
    except PapermillExecutionError as error:
        if error.ename == DfnbError.__name__:
            raise DfnbError(error.evalue) from None
        raise DfnbError(f"{output} shows where it failed: {error.ename}: {error.evalue}") from None
    except DeadKernelError as error:
        reason = str(error).splitlines()[0]
        raise DfnbError(f"{output} shows how far it came: {reason}") from None
    finally:
        log.removeHandler(listener)
        listener.close()


class _Listener(logging.StreamHandler):
    """Prints what a notebook prints, and ends this process after LONGEST_SILENCE.

    nbclient's own limit is on a cell: the longest trainings would need one of days.
    """

    def __init__(self, output: Path, is_printed: bool) -> None:
        super().__init__(sys.stdout)
        self.output = output
        self.is_printed = is_printed
        self.heard_at = time.monotonic()
        self.is_closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """End the watch."""
        self.is_closed.set()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record of papermill, which has what a cell has printed or shown."""
        self.heard_at = time.monotonic()
        # Neither papermill's own remarks, nor the classes of what a cell has shown.
        own = ("Input Notebook", "Output Notebook", "Executing ", "Ending ", "Passed unknown", "<")
        if self.is_printed and not record.getMessage().startswith(own):
            super().emit(record)

    def _watch(self) -> None:
        while time.monotonic() - self.heard_at < LONGEST_SILENCE:
            if self.is_closed.wait(min(10, LONGEST_SILENCE / 10)):
                return
        hours = LONGEST_SILENCE / 3600
        print(
            f"dfnb: {self.output} shows how far it came: nothing was printed for {hours:g} hours",
            flush=True,
        )
        os._exit(1)  # the kernel ends by itself when this process has ended


def rebuild(report: str, paper: bool = False) -> Path:
    """Execute the notebook of a report, as ``dfnb run`` does, and export it; returns its page.

    ``paper`` first executes the other notebook that needs nothing but scores, for its figures and
    tables. Raises :class:`DfnbError` as :func:`execute_notebook`.
    """
    from dfnb.report import page  # it imports pandas

    folder = files.report_folder(report) / "notebooks"
    for name in [page.COMPARISON, page.REPORT] if paper else [page.REPORT]:
        notebook = nbformat.read(files.find(f"notebooks/{name}.ipynb"), as_version=4)
        changes = {"report": report, "save": True}
        execute_notebook(notebook, folder / f"{name}.ipynb", changes, is_printed=False)
        page.sign(folder / f"{name}.ipynb")
    return page.export(report, page.REPORT)
