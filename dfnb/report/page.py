"""The page of a report: an executed notebook as one HTML file, without its code."""

import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from dfnb.files import find, report_folder, write_bytes
from dfnb.settings import DfnbError

REPORT = "11_report"  # the notebook that is the report
STYLE = Path(__file__).with_suffix(".css")


def strip_times(path: Path) -> nbformat.NotebookNode:
    """Remove the times and paths that papermill adds to an executed notebook; returns it.

    Equal runs then give equal bytes.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # else random
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
    nbformat.write(notebook, path)
    return notebook


def export(profile: str, notebook: str) -> Path:
    """Write ``reports/<profile>/index.html`` from an executed notebook; returns its path.

    The page has the outputs without the code, a small style sheet of its own, and links nothing
    that must be loaded from elsewhere.
    """
    folder = report_folder(profile)
    path = folder / "notebooks" / f"{notebook}.ipynb"
    executed = strip_times(path)
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(executed)
    # The notebook's links are relative to its own folder, except those to headings and websites.
    body = re.sub(r'href="(?!#|[a-z]+:|\.\./)', 'href="notebooks/', body)
    body = body.replace('href="../', 'href="')
    title = executed.cells[0].source.splitlines()[0].lstrip("# ")
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · {profile}</title>\n"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style>\n<main>{body}</main>\n</html>\n"
    )
    return write_bytes(folder / "index.html", page.encode())


def rebuild(profile: str, notebook: str = REPORT, **parameters: object) -> Path:
    """Execute a notebook on a report, as ``dfnb run`` does, and export it; returns the page's path.

    Raises :class:`DfnbError` with the error of the cell that failed.
    """
    import papermill  # takes a second to import
    from papermill.exceptions import PapermillExecutionError

    path = report_folder(profile) / "notebooks" / f"{notebook}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            find(f"notebooks/{notebook}.ipynb"),
            path,
            {"profile": profile, **parameters},
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        raise DfnbError(f"{path}: {error.evalue or error.ename}") from None
    return export(profile, notebook)
