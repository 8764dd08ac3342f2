"""The page: an executed notebook without its code, which loads nothing from elsewhere."""

import re
from types import SimpleNamespace

import nbformat
import pandas as pd
import papermill
import planted
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat import v4
from papermill.exceptions import PapermillExecutionError
from sklearn.metrics import roc_auc_score

import notebooks
from dfnb import results
from dfnb.results import page, tables
from dfnb.running import execution
from dfnb.store import reports
from facesets.checks import DfnbError
from facesets.files import report_folder

A, _ = planted.SETS
# What makes a browser load something; links to click on are none of it.
LOADS = re.compile(
    r"<(?:script|img|iframe|link)[^>]*(?:src|href)=[\"'](?!data:)|@import|url\((?![\"']?(?:data:|#))"
)


pytestmark = pytest.mark.usefixtures("empty_home")


def executed(started):
    """An executed notebook as papermill leaves it, but for its times."""
    times = {"start_time": started, "end_time": started, "duration": 1.5, "status": "completed"}
    shown = v4.new_output("execute_result", {"text/html": "<td>0.85 [0.8, 0.9]</td>"})
    made = {**times, "output_path": "/private/x.ipynb", "parameters": {"seed": 3}}
    notebook = v4.new_notebook(metadata={"papermill": made})
    notebook.cells = [
        v4.new_markdown_cell("# 10 · The report\n\n[data](01_data.ipynb), [words](../docs/a.md)"),
        v4.new_code_cell("secret = 1", outputs=[shown], metadata={"papermill": times}),
    ]
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": started}
    path = report_folder("demo") / "notebooks" / "n.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def test_the_page_has_outputs_without_code_and_loads_nothing():
    executed("2030-01-01T00:00:00")
    text = page.export("demo", "n").read_text(encoding="utf-8")
    assert "<title>demo</title>" in text and "0.85 [0.8, 0.9]" in text and "secret" not in text
    # Links are those of the notebook, from its folder.
    assert '<base href="notebooks/"/>' in text and 'href="01_data.ipynb"' in text
    assert 'href="../../../docs/a.md"' in text
    assert not LOADS.search(text) and len(text) < 5_000  # a few rules of CSS alone


def test_an_executed_notebook_begins_with_how_it_was_made():
    """Parameters and durations stay; but for that line, the same results give the same bytes."""
    texts = set()
    for day in ("2030-01-01", "2031-12-31"):
        path = executed(f"{day}T00:00:00")
        page.export("demo", "n")
        signed = nbformat.read(path, 4)
        line = signed.cells[0].source
        assert line.startswith("*Executed in 0.1 min on ") and f", {day}, commit " in line
        assert signed.metadata["papermill"] == {"duration": 1.5, "parameters": {"seed": 3}}
        assert signed.cells[2].metadata["papermill"] == {"duration": 1.5}
        again = page.export("demo", "n").read_text(encoding="utf-8")
        assert nbformat.read(path, 4) == signed  # signed once
        content = path.read_text(encoding="utf-8")
        assert f"{day}T" not in content and "/private" not in content
        texts.add((content + again).replace(day, "DAY"))
    assert len(texts) == 1


def test_a_section_that_shows_nothing_is_left_out_with_its_texts():
    path = executed("2030-01-01T00:00:00")
    notebook = nbformat.read(path, 4)
    empty = v4.new_output("execute_result", {"text/markdown": ""})
    notebook.cells += [
        v4.new_markdown_cell("## Claims\n\nHolm's correction"),
        v4.new_code_cell("claims", outputs=[empty]),
        v4.new_markdown_cell("and its family"),
        v4.new_markdown_cell("## Costs\n\nSeconds"),
        v4.new_code_cell("seconds", outputs=[v4.new_output("stream", text="12 s")]),
        v4.new_code_cell("done"),
    ]
    nbformat.write(notebook, path)
    text = page.export("demo", "n").read_text(encoding="utf-8")
    assert "Seconds" in text and "12 s" in text and "0.85 [0.8, 0.9]" in text
    assert "Claims" not in text and "Holm" not in text and "and its family" not in text
    assert len(nbformat.read(path, 4).cells) == 9  # the executed notebook has all


def test_a_heading_of_a_section_may_be_what_a_cell_displays():
    """What is for readers of the notebook alone is not on the page."""
    path = executed("2030-01-01T00:00:00")
    notebook = nbformat.read(path, 4)
    heading = v4.new_output("display_data", {"text/markdown": "## Two of three are found"})
    tagged = {"tags": ["section"]}
    notebook.cells[0].metadata["tags"] = ["notebook"]
    notebook.cells += [
        v4.new_code_cell("found", outputs=[heading], metadata=tagged),
        v4.new_markdown_cell("How to read it"),
        v4.new_code_cell("none", metadata=tagged),
        v4.new_markdown_cell("How to read nothing"),
    ]
    nbformat.write(notebook, path)
    text = page.export("demo", "n").read_text(encoding="utf-8")
    assert "<h2>Two of three are found" in text and "How to read it" in text
    assert "The report" not in text and "How to read nothing" not in text


def test_a_table_of_other_scores_than_the_page_is_left_out():
    """07 was executed with one detector; then a second one was added."""
    planted.write("grown", "xception")
    p = SimpleNamespace(report="grown", folder=report_folder("grown"), model_dump=lambda mode: {})
    clock = SimpleNamespace(usage=dict)
    table = pd.DataFrame({"AUC": ["0.8"]}, index=pd.Index(["A"], name="detector"))
    older = tables.save(table, "", p.folder, "metrics", "Metrics")
    reports.finish("07_cross_dataset", p, clock, older, scored=reports.scores_id("grown"))
    of_run = tables.save(table, "", p.folder, "lae", "LAE")
    reports.finish("03_lae", p, clock, of_run)
    assert reports.outdated("grown") == {}
    planted.write("grown", "lae")
    old = reports.outdated("grown")
    assert old == {"metrics.md": "07_cross_dataset"}
    newer = tables.save(table, "", p.folder, "cross_dataset", "AUC")
    links = notebooks.cells("_report", "links", p=p, old=old, saved=newer)
    assert [text.partition("]")[0] for text in links["links"]] == ["[cross_dataset", "[lae"]
    assert "Left out, since runs were added later: tables of 07_cross_dataset." in links["text"]
    links = notebooks.cells("_report", "links", p=p, old=old, saved=[*newer, *older])
    assert len(links["links"]) == 3  # a table that was made again just now


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("DfnbError", r"^there are no scores$"),  # the sentence of a cell that refuses something
        (
            "ValueError",
            r"_report\.ipynb shows where it failed: ValueError: there are no scores$",
        ),
    ],
)
def test_a_cell_that_fails_is_one_sentence(monkeypatch, kind, sentence):
    def fail(*_, **__):
        raise PapermillExecutionError(0, 1, "source", kind, "there are no scores", ["..."])

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    with pytest.raises(DfnbError, match=sentence):
        execution.rebuild("demo")
    assert not (report_folder("demo") / "index.html").exists()


def test_a_notebook_whose_kernel_is_killed_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    with pytest.raises(DfnbError, match=r"_report\.ipynb shows how far it came: Kernel died"):
        execution.rebuild("demo")


def test_for_a_paper_the_comparison_is_executed_before_the_report(monkeypatch):
    executed = []

    def execute(notebook, output, changes):
        assert any("figures.show(" in cell.source for cell in notebook.cells)
        executed.append((output.name, changes))

    monkeypatch.setattr(execution, "execute_notebook", execute)
    monkeypatch.setattr(page, "sign", lambda path: None)
    monkeypatch.setattr(page, "export", lambda report, name: name)
    changes = {"report": "demo", "save": True}
    execution.rebuild("demo")
    assert executed == [("10_report.ipynb", changes)]
    execution.rebuild("demo", paper=True)
    assert executed[1:] == [("07_cross_dataset.ipynb", changes), ("10_report.ipynb", changes)]


def test_a_report_is_made_from_its_scores_to_the_page(empty_home):
    """The one test that runs a kernel, on a small notebook in place of that of the reports."""
    planted.write("hand", "xception")
    cells = [
        v4.new_markdown_cell("# A report"),
        v4.new_code_cell('report = ""\nsave = False', metadata={"tags": ["parameters"]}),
        v4.new_code_cell("from dfnb import results"),
        v4.new_code_cell('results.measure(results.scores(report), "AUC", "test_set")'),
    ]
    small = empty_home / "notebooks" / f"{page.REPORT}.ipynb"
    small.parent.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), small)
    text = execution.rebuild("hand").read_text(encoding="utf-8")
    assert not LOADS.search(text) and "measure(" not in text
    executed = report_folder("hand") / "notebooks" / small.name
    assert str(empty_home) not in text + executed.read_text(encoding="utf-8")
    videos = results.scores("hand").query("test_set == @A")
    auc = roc_auc_score(videos["label"], videos["score"])
    assert f"<td>{auc:.6f}</td>" in text
