"""Make an executed notebook readable, and light: python workflow/sections.py NOTEBOOK takes out what had nothing to show.

A heading tagged ``arms`` begins such a section, which ends at the next heading of its level or above. It goes where all
its code cells showed nothing or an empty table: the profile does not train the lines that it is about. The cell of parameters
that papermill adds is folded. Read as JSON, as Jupyter writes it: to load nbformat takes longer than all else here.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def level(cell: Cell) -> int:
    """How deep the heading is that a cell begins with; 9 where it begins with none."""
    found = re.match("#+ ", "".join(cell["source"])) if cell["cell_type"] == "markdown" else None
    return len(found[0]) - 1 if found else 9


def shows(cell: Cell) -> bool:
    """Whether a cell is code that printed or displayed more than an empty table."""
    texts = ["".join(output.get("data", {}).get("text/plain", "shown")) for output in cell.get("outputs", ())]
    return any(not text.startswith("Empty DataFrame") for text in texts)


def without_empty_sections(cells: list[Cell]) -> list[Cell]:
    """The cells that stay."""
    kept, cells = [], list(cells)
    while cells:
        head = cells.pop(0)
        end = next((i for i, cell in enumerate(cells) if level(cell) <= level(head)), len(cells))
        if "arms" in head["metadata"].get("tags", ()) and not any(map(shows, cells[:end])):
            cells = cells[end:]
        else:
            kept.append(head)
        if "injected-parameters" in head["metadata"].get("tags", ()):
            head["metadata"]["jupyter"] = {"source_hidden": True}
    return kept


def light(cells: list[Cell]) -> list[Cell]:
    """The same cells, changed in place: of a table its HTML alone, and no times."""
    for cell in cells:
        cell["metadata"].pop("papermill", None)
        for output in cell.get("outputs", ()):
            if "text/html" in output.get("data", {}):
                output["data"].pop("text/plain", None)
    return cells


def seconds(cells: list[Cell]) -> float:
    """What the cells took in all, as papermill notes it, without the last one, which writes the record."""
    noted = [cell["metadata"].get("papermill", {}) for cell in cells if cell["cell_type"] == "code"]
    return round(sum(each.get("duration") or 0.0 for each in noted[:-1]), 3)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].setdefault("papermill", {})["cells_s"] = seconds(notebook["cells"])
    notebook["cells"] = light(without_empty_sections(notebook["cells"]))
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
