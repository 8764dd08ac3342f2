"""Make an executed notebook readable, and light: python workflow/sections.py NOTEBOOK takes out what had nothing to show.

A heading tagged ``arms`` begins such a section, which ends at the next heading of its level or above. It goes where all
its code cells showed nothing or an empty table: the profile does not train the lines that it is about. The cell of parameters
that papermill adds is folded.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode


def level(cell: NotebookNode) -> int:
    """How deep the heading is that a cell begins with; 9 where it begins with none."""
    found = re.match("#+ ", cell.source) if cell.cell_type == "markdown" else None
    return len(found[0]) - 1 if found else 9


def shows(cell: NotebookNode) -> bool:
    """Whether a cell is code that printed or displayed more than an empty table."""
    texts = [str(output.get("data", {}).get("text/plain", "shown")) for output in cell.get("outputs", ())]
    return any(not text.startswith("Empty DataFrame") for text in texts)


def without_empty_sections(notebook: NotebookNode) -> NotebookNode:
    """The same notebook, changed in place."""
    kept, cells = [], list(notebook.cells)
    while cells:
        head = cells.pop(0)
        end = next((i for i, cell in enumerate(cells) if level(cell) <= level(head)), len(cells))
        if "arms" in head.metadata.get("tags", ()) and not any(map(shows, cells[:end])):
            cells = cells[end:]
        else:
            kept.append(head)
        if "injected-parameters" in head.metadata.get("tags", ()):
            head.metadata["jupyter"] = {"source_hidden": True}
    notebook.cells = kept
    return notebook


def light(notebook: NotebookNode) -> NotebookNode:
    """The same notebook, changed in place: of a table its HTML alone, and no times of cells."""
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", ()):
            if "text/html" in output.get("data", {}):
                output.data.pop("text/plain", None)
    return notebook


if __name__ == "__main__":
    path = Path(sys.argv[1])
    nbformat.write(light(without_empty_sections(nbformat.read(path, as_version=4))), path)
