"""The page of a report: an executed notebook as one HTML file, without its code."""

import re
from itertools import accumulate
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from facesets.files import home, report_folder, write_bytes
from facesets.records import environment

REPORT = "10_report"  # the notebook that is the report
COMPARISON = "07_cross_dataset"  # the notebook that compares detectors, from scores alone
TEMPLATE = Path(__file__).with_suffix(".html.j2")


def sign(path: Path) -> nbformat.NotebookNode:
    """Insert a first line that says how an executed notebook was made; returns the notebook.

    The file is rewritten: links are adapted from ``notebooks/`` to its own folder, and papermill's
    notes are reduced to the parameters and durations, because times of day and paths say nothing
    about the run. A notebook that is signed already stays as it is.
    """
    notebook = nbformat.read(path, as_version=4)
    made = notebook.metadata.get("papermill", {})
    if "start_time" not in made:  # signing removes it
        return notebook
    here = environment()
    commit = re.sub(r"^(.{8})[0-9a-f]*", r"\1", here["commit"]) or "none"  # keeps -dirty
    text = (
        f"*Executed in {max(made['duration'] / 60, 0.1):.2g} min on {here['device']}, "
        f"{made['end_time'][:10]}, commit {commit}.*"
    )
    # Tools, such as our tests, know by the tag that this cell is none of the notebook's own.
    cell = nbformat.v4.new_markdown_cell(text, metadata={"tags": ["executed"]})
    notebook.cells.insert(0, cell)
    notebook.metadata["papermill"] = {name: made[name] for name in ("duration", "parameters")}
    root = "../" * len(path.parent.relative_to(home()).parts)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # else random
        cell.metadata.pop("execution", None)
        if cell.cell_type == "markdown":  # the notebook is now in a folder of its report
            cell.source = cell.source.replace("](../", f"]({root}")
        if "papermill" in cell.metadata:
            duration = cell.metadata["papermill"].get("duration")
            cell.metadata["papermill"] = {"duration": duration}
    nbformat.write(notebook, path)
    return notebook


def export(report: str, notebook: str) -> Path:
    """Write ``index.html`` of a report from an executed notebook; returns its path.

    As ``jupyter nbconvert --no-input`` does; what else differs is in :data:`TEMPLATE`. Cells with
    the tag ``notebook`` are left out, and with its texts each section that shows nothing. A section
    begins with a heading in Markdown, or with a cell tagged ``section`` that displays its own.
    """
    folder = report_folder(report)
    exporter = HTMLExporter(
        template_name="classic",
        template_file=str(TEMPLATE),
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,  # the template's links are relative to the notebook
    )
    executed = sign(folder / "notebooks" / f"{notebook}.ipynb")
    cells = [each for each in executed.cells if "notebook" not in _tags(each)]
    headings = (each.source.startswith("## ") or "section" in _tags(each) for each in cells)
    sections = [*zip(accumulate(headings), cells)]
    shown = {0} | {section for section, cell in sections if _shows(cell)}
    executed.cells = [cell for section, cell in sections if section in shown]
    page, _ = exporter.from_notebook_node(executed, {"metadata": {"name": report}})  # its title
    return write_bytes(folder / "index.html", page.encode())


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def _shows(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell has an output; an empty text is none."""
    outputs = cell.get("outputs", ())
    return any(output.get("data", {}).get("text/markdown", "printed") for output in outputs)
