"""Executed notebooks lose the sections that had nothing to show, and no other."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
from IPython.core.formatters import DisplayFormatter
from nbformat import v4

SCRIPT = Path(__file__).resolve().parent.parent / "workflow" / "sections.py"


def code(source, *tables):
    """A cell that displayed these tables, as Jupyter formats them."""
    formatted = [DisplayFormatter().format(table) for table in tables]
    outputs = [v4.new_output("display_data", data=data, metadata=metadata) for data, metadata in formatted]
    return v4.new_code_cell(source, outputs=outputs)


def heading(text, *tags):
    return v4.new_markdown_cell(text, metadata={"tags": list(tags)} if tags else {})


def test_sections_without_trained_lines_are_left_out(tmp_path):
    empty, table = pd.DataFrame(), pd.DataFrame({"AUC": [0.5]})
    notebook = v4.new_notebook(
        cells=[
            heading("# Title"),
            heading("## Gone", "arms"),
            code("a", empty),
            heading("text between"),
            code("silent"),
            heading("### Gone with it"),
            code("b", empty),
            heading("## Kept, by one table", "arms"),
            code("c", empty),
            code("d", table),
            heading("### Gone alone", "arms"),
            code("e", empty),
            heading("## Not marked"),
            code("f", empty),
            heading("## Last, gone", "arms"),
            code("g", empty),
        ]
    )
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    subprocess.run([sys.executable, SCRIPT, tmp_path / "executed.ipynb"], check=True)
    left = [cell.source for cell in nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells]
    assert left == ["# Title", "## Kept, by one table", "c", "d", "## Not marked", "f"]


def test_what_was_printed_keeps_a_section(tmp_path):
    printed = v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", text="1\n")])
    notebook = v4.new_notebook(cells=[heading("## Printed", "arms"), printed])
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    subprocess.run([sys.executable, SCRIPT, tmp_path / "executed.ipynb"], check=True)
    assert len(nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells) == 2


def test_of_a_table_its_html_stays_and_of_a_cell_no_time(tmp_path):
    table = code("table", pd.DataFrame({"AUC": [0.5]}))
    plain, never, record = code("3", 3), code("4"), code("5")
    for cell, took in zip((table, plain, never, record), (1.0, 2.0, None, 4.0)):
        cell.metadata["papermill"] = {"duration": took}
    nbformat.write(v4.new_notebook(cells=[heading("text"), table, plain, never, record]), tmp_path / "executed.ipynb")
    subprocess.run([sys.executable, SCRIPT, tmp_path / "executed.ipynb"], check=True)
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert executed.metadata["papermill"]["cells_s"] == 3  # the last one writes the record
    _, html, number, _, _ = executed.cells
    assert list(html.outputs[0].data) == ["text/html"] and not html.metadata
    assert number.outputs[0].data == {"text/plain": "3"}
