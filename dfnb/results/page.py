"""The page of a report: an executed notebook as one HTML file, without its code."""

import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from facesets.files import home, report_folder, write_bytes
from facesets.records import environment

REPORT = "10_report"  # the notebook that is the report
COMPARISON = "07_cross_dataset"  # the notebook that compares detectors, from scores alone
STYLE = Path(__file__).with_suffix(".css")


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

    The page has the outputs without the code, a small style sheet of its own, and links nothing
    that must be loaded from elsewhere. A section that shows nothing is left out with its texts.
    """
    folder = report_folder(report)
    path = folder / "notebooks" / f"{notebook}.ipynb"
    executed = sign(path)
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    shown = nbformat.from_dict({**executed, "cells": _sections_that_show(executed.cells)})
    body, _ = exporter.from_notebook_node(shown)
    # The notebook's links are relative to its own folder, except those to headings and websites.
    body = re.sub(r'href="(?!#|[a-z]+:|\.\./)', 'href="notebooks/', body)
    body = body.replace('href="../', 'href="')
    texts = (cell.source for cell in executed.cells if cell.cell_type == "markdown")
    heading = next(text for text in texts if text.startswith("# "))
    title = heading.splitlines()[0].lstrip("# ")
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · {report}</title>\n"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style>\n<main>{body}</main>\n</html>\n"
    )
    return write_bytes(folder / "index.html", page.encode())


def _sections_that_show(cells: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The cells before the first heading of level two, and those of sections with an output."""
    sections = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    first, *others = sections
    return sum(filter(lambda section: any(map(_shows, section)), others), first)


def _shows(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell has an output; an empty text is none."""
    outputs = cell.get("outputs", ())
    return any(output.get("data", {}).get("text/markdown", "printed") for output in outputs)
