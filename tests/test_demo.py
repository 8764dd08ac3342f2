"""The committed report: its tables follow from its score files, and the embedded benchmark is as hard as it claims."""

import json

import pandas as pd
import pytest

from dfnb import evaluate, report, run, store
from dfnb.train import Run

TESTS = run.profile("demo")["grid"]["test_sets"]


@pytest.fixture(scope="module")
def committed(checkout):
    folders = sorted((checkout / "reports" / "demo" / "runs").iterdir())
    return {store.read_json(folder / "record.json")["parameters"]["paper"]: folder for folder in folders}


def scores(folder, test_set):
    return evaluate.read_scores(folder / "scores" / f"{test_set}.parquet")


def test_the_main_table_follows_from_the_score_files(checkout, committed):
    table = pd.read_csv(checkout / "reports" / "demo" / "tables" / "cross_dataset.csv", index_col=0)
    assert list(table.columns) == TESTS
    for folder in committed.values():
        for test_set in TESTS:
            row = evaluate.auc(scores(folder, test_set))
            assert table.loc[report.label(Run.open(folder)), test_set] == report.interval(
                row["value"], row["low"], row["high"]
            )


def test_the_baseline_is_neither_at_chance_nor_at_the_ceiling_and_lower_abroad(committed):
    home, *abroad = (evaluate.auc(scores(committed["xception"], name)) for name in TESTS)
    assert home["low"] > 0.7 and home["high"] < 0.98
    for row in abroad:
        assert row["low"] > 0.5 and row["value"] < home["value"]
    assert sum(row["high"] < home["low"] for row in abroad) >= 2  # a shift beyond the intervals, not beside them


def test_the_small_networks_give_the_committed_scores(committed, home):
    """Whoever opens the report's network gets a working detector of the record's size."""
    for paper, folder in committed.items():
        opened = Run.open(folder)
        assert opened.paper == paper and opened.network().training is False
        assert store.sha256(folder / "best.safetensors") == opened.record["outputs"]["best.safetensors"]
        for test_set in TESTS:
            facts = store.read_json(folder / "scores" / f"{test_set}.json")
            assert facts["weights"] == opened.record["outputs"]["best.safetensors"]
            assert store.sha256(folder / "scores" / f"{test_set}.parquet") == facts["sha256"]


def test_executed_notebooks_ended_without_error_and_name_no_folder_of_a_machine(checkout):
    paths = sorted((checkout / "reports" / "demo" / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in paths] == sorted(job.id for job in run.jobs("demo") if not job.trains)
    for path in paths:
        text = path.read_text()
        cells = json.loads(text)["cells"]
        assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code"), path.name
        assert not any(o["output_type"] == "error" for cell in cells for o in cell.get("outputs", []))
        assert "/tmp/" not in text and "site-packages" not in text, path.name


def test_the_readme_shows_the_committed_table(checkout):
    readme = (checkout / "README.md").read_text()
    table = (checkout / "reports" / "demo" / "tables" / "cross_dataset.md").read_text().strip()
    assert table in readme
