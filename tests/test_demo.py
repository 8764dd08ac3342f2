"""The committed reports: their tables follow from their score files, and the benchmark is as hard as it claims."""

import json

import numpy as np
import pandas as pd
import pytest

from dfnb import core, figures, metrics, papers
from dfnb import jobs as run
from dfnb.train import Run

TESTS = run.profile("demo")["grid"]["test_sets"]
REPORTS = ("demo", "study")
# Which table of the report is made from which arms of which notebook.
ARM_TABLES = {
    "lv_annotation": ("04_locate_and_verify", "annotation"),
    "etd_losses": ("05_exposing_the_deception", "losses"),
    "etd_number_of_branches": ("05_exposing_the_deception", "branches"),
}


def folder_of(checkout, profile, job):
    """The committed run of a job: the one with its paper, seed, training set, methods and settings."""
    p = job.checked()
    wanted = [papers.NOTEBOOKS[job.notebook], p.seed, p.train_set, p.seen_methods, p.settings().model_dump(mode="json")]
    for folder in (checkout / "reports" / profile / "runs").iterdir():
        found = core.read_json(folder / "record.json")["parameters"]
        if [found[name] for name in ("paper", "seed", "train_set", "seen_methods", "settings")] == wanted:
            return folder
    raise AssertionError(f"{profile} has no run of {job.id}")


@pytest.fixture(scope="module")
def committed(checkout):
    """The runs of the demo's grid, by paper."""
    jobs = [job for job in run.jobs("demo") if job.notebook in papers.NOTEBOOKS and not job.arm]
    return {papers.NOTEBOOKS[job.notebook]: folder_of(checkout, "demo", job) for job in jobs}


def scores(folder, test_set):
    return metrics.read_scores(folder / "scores" / f"{test_set}.parquet")


def cell(folders, test_set):
    """What the tables print for the runs of a line, recomputed from their score files."""
    tables = [scores(folder, test_set) for folder in folders]
    row = metrics.auc(tables)
    text = figures.interval(row["value"], row["low"], row["high"])
    if len(tables) == 1:
        return text
    return f"{text} sd {np.std([metrics.auc(table)['value'] for table in tables], ddof=1):.3f}"


@pytest.mark.parametrize("profile", REPORTS)
def test_the_main_table_follows_from_the_score_files(checkout, profile):
    table = pd.read_csv(checkout / "reports" / profile / "tables" / "cross_dataset.csv", index_col=0)
    assert list(table.columns) == [*TESTS, "seeds", "left chance"]
    jobs = [job for job in run.jobs(profile) if job.notebook in papers.NOTEBOOKS and not job.arm]
    titles = {job.notebook: papers.PAPERS[papers.NOTEBOOKS[job.notebook]].title for job in jobs}
    further = {job.arm: job.parameters["backbone"] for job in run.jobs(profile) if job.arm.startswith("baselines/")}
    expected = [f"{title} (dfnb_plain7)" for title in titles.values()]
    assert sorted(table.index) == sorted([*expected, *(f"Baseline ({backbone})" for backbone in further.values())])
    for notebook, title in titles.items():
        own = [folder_of(checkout, profile, job) for job in jobs if job.notebook == notebook]
        for test_set in TESTS:
            assert table.loc[f"{title} (dfnb_plain7)", test_set] == cell(own, test_set)


@pytest.mark.parametrize("profile", REPORTS)
@pytest.mark.parametrize("name", ARM_TABLES)
def test_the_tables_of_the_arms_follow_from_the_score_files(checkout, profile, name):
    notebook, group = ARM_TABLES[name]
    table = pd.read_csv(checkout / "reports" / profile / "tables" / f"{name}.csv", index_col=0)
    jobs = [job for job in run.jobs(profile) if job.notebook == notebook]
    arms = dict.fromkeys(job.arm for job in jobs if job.arm.startswith(f"{group}/"))
    assert list(table.index) == ["main", *(arm.split("/", 1)[1] for arm in arms)]
    for line, arm in zip(table.index, ["", *arms]):
        own = [folder_of(checkout, profile, job) for job in jobs if job.arm == arm]
        assert [table.loc[line, test_set] for test_set in TESTS] == [cell(own, test_set) for test_set in TESTS]


def test_the_baseline_is_neither_at_chance_nor_at_the_ceiling_and_lower_abroad(committed):
    home, *abroad = (metrics.auc(scores(committed["xception"], name)) for name in TESTS)
    assert home["low"] > 0.7 and home["high"] < 0.98
    for row in abroad:
        assert row["low"] > 0.5 and row["value"] < home["value"]
    assert sum(row["high"] < home["low"] for row in abroad) >= 2  # a shift beyond the intervals, not beside them


def test_the_small_networks_give_the_committed_scores(committed, home):
    """Whoever opens the report's network gets a working detector of the record's size."""
    for paper, folder in committed.items():
        opened = Run.open(folder)
        assert opened.paper == paper and opened.network().training is False
        assert core.sha256(folder / "best.safetensors") == opened.record["outputs"]["best.safetensors"]
        for test_set in TESTS:
            facts = core.read_json(folder / "scores" / f"{test_set}.json")
            assert facts["weights"] == opened.record["outputs"]["best.safetensors"]
            assert core.sha256(folder / "scores" / f"{test_set}.parquet") == facts["sha256"]


@pytest.mark.parametrize("profile", REPORTS)
def test_executed_notebooks_ended_without_error_and_name_no_folder_of_a_machine(checkout, profile):
    paths = sorted((checkout / "reports" / profile / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in paths] == sorted(job.id for job in run.jobs(profile) if not job.trains)
    for path in paths:
        text = path.read_text()
        cells = json.loads(text)["cells"]
        assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code"), path.name
        assert not any(o["output_type"] == "error" for cell in cells for o in cell.get("outputs", []))
        assert "/tmp/" not in text and "site-packages" not in text, path.name


@pytest.mark.parametrize("profile", ["demo", "study"])
def test_score_files_keep_nothing_of_the_tables_that_they_were_made_from(checkout, profile):
    for path in (checkout / "reports" / profile / "runs").rglob("*.parquet"):
        assert not pd.read_parquet(path).attrs, path


def test_the_readme_shows_the_committed_table(checkout):
    readme = (checkout / "README.md").read_text()
    table = (checkout / "reports" / "demo" / "tables" / "cross_dataset.md").read_text().strip()
    assert table in readme
