"""Notebooks as jobs: their form, their closed parameters, the grid, the whole smoke profile, and what a kill leaves."""

import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from dfnb import core
from dfnb import jobs as run
from dfnb.core import DfnbError

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
PROFILES = sorted((Path(__file__).resolve().parent.parent / "notebooks" / "profiles").glob("*.yaml"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
BIN = Path(sys.executable).parent


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def literals(path):
    cell = next(cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", []))
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}


@each_notebook
def test_a_notebook_is_committed_without_outputs_and_stays_readable(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = code_cells(path)
    assert not any(cell.outputs or cell.execution_count for cell in code)
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    assert statistics.median(lines) <= 8 and max(lines) <= 25
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code) - 1
    assert not any(isinstance(node, ast.ClassDef) for cell in code for node in ast.walk(ast.parse(cell.source)))
    assert notebook.cells[0].source.startswith("# ")


@each_notebook
def test_the_parameters_cell_has_the_values_of_the_smoke_profile(path):
    job = next(job for job in run.jobs("smoke") if job.notebook == path.stem and not job.trains)
    expected = job.parameters | ({"report_of": "demo"} if path.stem == "00_start_here" else {})
    assert literals(path) == expected


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_what_a_profile_leaves_out_is_the_same_in_the_notebook_and_in_its_jobs(path):
    """papermill falls back on the notebook's cell, a training job on the schema: the two must not differ."""
    for job in (job for job in run.jobs(path.stem) if not job.trains):
        cell = literals(next(notebook for notebook in NOTEBOOKS if notebook.stem == job.notebook))
        checked = job.checked().model_dump(mode="json")
        left_out = {name: value for name, value in cell.items() if name not in job.parameters}
        assert left_out == {name: checked[name] for name in left_out}, job.id


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_passes_the_schemas(path):
    jobs = run.jobs(path.stem)
    assert {job.notebook for job in jobs} <= {notebook.stem for notebook in NOTEBOOKS}
    before = set()
    for job in jobs:  # in an order in which they can run
        assert set(job.needs) <= before
        before.add(job.id)
        assert yaml.safe_load(__import__("base64").b64decode(job.base64)) == job.parameters


def test_the_grid_is_train_sets_times_seeds():
    """The first seed in the notebook, after all others, which it may read."""
    jobs = [job for job in run.jobs("study") if job.notebook == "04_locate_and_verify"]
    grid = [job for job in jobs if not job.arm]
    assert [job.id for job in grid] == [f"04_locate_and_verify-synth-a-s{s}" for s in (1, 2, 3, 4, 0)]
    assert [job.trains for job in grid] == [True] * 4 + [False]
    assert jobs[-1] == grid[-1] and set(grid[-1].needs) >= {job.id for job in jobs[:-1]}


def test_arms_change_what_they_name_and_nothing_else():
    jobs = {job.id: job for job in run.jobs("study")}
    main = jobs["05_exposing_the_deception-synth-a-s0"].parameters
    arm = jobs["05_exposing_the_deception-synth-a-losses-ce-gil-s3"]
    changed = {name for name in {*main, *arm.parameters} if main.get(name) != arm.parameters.get(name)}
    assert arm.arm == "losses/CE + GIL" and changed == {"information_losses", "epoch_scores", "seed"}
    seeds = [job.parameters["seed"] for job in jobs.values() if job.arm == "losses/CE + GIL"]
    assert seeds == [0, 1, 2, 3, 4]
    assert [job.parameters["seed"] for job in jobs.values() if job.arm == "branches/n = 3"] == [0]


def write_profile(home, **changes):
    """A profile of its own in a home that has no others."""
    content = run.profile("smoke") | changes
    path = home / "notebooks" / "profiles" / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ({"06_cross_dataset": {}}, "has arms of 06_cross_dataset, which trains nothing"),
        ({"04_locate_and_verify": {"g": {"a": {"epocs": 3}}}}, "mine, 04.*-g-a-s0: there is no parameter 'epocs'"),
        (
            {"05_exposing_the_deception": {"g": {"a": {"branches": 1}}}},
            "LIL leaves one branch out and needs at least two; raise branches or drop lil",
        ),
        (
            {"04_locate_and_verify": {"g": {"a": {"annotated": 0.0, "mixup_probability": 0.0}}}},
            "annotated = 0 leaves no patch to learn from; set sspsl = true",
        ),
    ],
)
def test_wrong_arms_are_refused_before_anything_runs(tmp_path, monkeypatch, arms, sentence):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    write_profile(tmp_path, arms=arms)
    with pytest.raises(DfnbError, match=sentence):
        run.jobs("mine")


def test_an_unknown_training_job_lists_those_there_are():
    with pytest.raises(DfnbError, match=r"profile smoke has no training job x; it has 03_.*04_.*annotation-0-s0, 05_"):
        run.train_job("smoke", "x")


NAMESPACE = literals(next(path for path in NOTEBOOKS if path.stem == "04_locate_and_verify"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": "many"}, "epochs = 'many': input should be a valid integer"),
        ({"epochs": 0}, "epochs = 0: input should be greater than or equal to 1"),
        ({"lr": "1e-4"}, "lr = '1e-4': input should be a valid number"),
        ({"pretrained": "on"}, "pretrained = 'on': input should be a valid boolean"),
        ({"epochs": True}, "epochs = True"),
        ({"schedule": "linear"}, "schedule = 'linear': input should be 'constant', 'step', 'onecycle' or 'cosine'"),
        ({"profile": "../x"}, "profile = '../x'"),
        ({"test_sets": []}, r"test_sets = \[\]: list should have at least 1 item"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(change, sentence):
    with pytest.raises(DfnbError, match=sentence) as error:
        run.parameters("04_locate_and_verify", {**NAMESPACE, **change})
    assert "\n" not in str(error.value)


def test_unknown_injected_names_are_refused_and_the_cell_can_run_twice():
    source = "\n".join(f"{name} = {value!r}" for name, value in NAMESPACE.items())
    cells = ["", source, "my_own_variable = 3", "# Parameters\nseed = 3\n"]
    namespace = {**NAMESPACE, "my_own_variable": 3, "In": cells, "seed": 3}
    assert run.parameters("04_locate_and_verify", namespace).seed == 3
    namespace["In"].append("# Parameters\nno_such_name = 1\n")
    with pytest.raises(DfnbError, match="there is no parameter 'no_such_name'"):
        run.parameters("04_locate_and_verify", {**namespace, "no_such_name": 1})


def test_integers_are_numbers_and_lists_are_tuples():
    p = run.parameters("04_locate_and_verify", {**NAMESPACE, "lr": 1, "modules": ["mpff"]})
    assert p.settings().lr == 1.0 and p.settings().modules == ("mpff",)


def test_unknown_profiles_and_notebooks_are_named(tmp_path, monkeypatch):
    with pytest.raises(DfnbError, match="profiles here are demo, paper, smoke, study"):
        run.jobs("dmeo")
    with pytest.raises(DfnbError, match="there is no notebook '07_nothing'"):
        run.schema("07_nothing")
    with pytest.raises(DfnbError, match="dataset celeb-df-v2 is neither prepared nor part"):
        monkeypatch.setenv("DFNB_HOME", str(tmp_path))
        run.datasets("celeb-df-v2")


def test_an_execution_that_began_is_not_done_until_it_ended(home):
    job = next(job for job in run.jobs("smoke") if job.notebook == "06_cross_dataset")
    p = run.parameters("06_cross_dataset", {"profile": "smoke"})
    run.finish("06_cross_dataset", p, core.Clock())
    assert job.record.exists()
    run.parameters("06_cross_dataset", {"profile": "smoke"})
    assert not job.record.exists()


def test_a_record_of_other_parameters_is_no_proof(home):
    job = next(job for job in run.jobs("smoke") if job.notebook == "04_locate_and_verify" and not job.trains)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.touch()
    for changed, done in (({"epochs": 7}, False), ({}, True)):
        p = run.parameters("04_locate_and_verify", {**NAMESPACE, **changed})
        run.finish("04_locate_and_verify", p, core.Clock())
        assert job.done() is done
    job.record.unlink()


def test_only_cells_of_literals_are_read_for_parameters():
    cells = ["", "seed = 3\nepochs = 2\n", "dropout = compute()\nmean = 3", "# Parameters\nseed = 4\n"]
    namespace = {**NAMESPACE, "In": cells, "seed": 4, "epochs": 2, "dropout": 0.9, "mean": 3, "train_set": "smoke-a"}
    namespace["In"].append("train_set = 'smoke-a'\ntest_sets = ['smoke-a']")
    p = run.parameters("04_locate_and_verify", namespace)
    assert (p.seed, p.epochs, p.dropout) == (4, 2, 0.5)


def execute(notebook, folder, *options):
    """Plain papermill from another working directory."""
    path = next(path for path in NOTEBOOKS if path.stem == notebook)
    command = [str(BIN / "papermill"), str(path), str(folder / "out.ipynb"), "--no-progress-bar", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "value"), [("no_such_name", "1"), ("epochs", "many")])
def test_papermill_stops_with_the_sentence_as_its_last_line(home, tmp_path, name, value):
    done = execute("02_xception_baseline", tmp_path, "-p", name, value)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("DfnbError: 02_xception_baseline: ") and name in last


def test_a_killed_kernel_leaves_no_record(home, tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem == "02_xception_baseline")
    notebook = nbformat.read(path, 4)
    kill = nbformat.v4.new_code_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    notebook.cells.insert(len(notebook.cells) - 2, kill)
    nbformat.write(notebook, tmp_path / "in.ipynb")
    record = next(job for job in run.jobs("smoke") if job.notebook == path.stem and not job.trains).record
    record.unlink(missing_ok=True)
    with pytest.raises(Exception, match=r"died|Kernel"):
        papermill.execute_notebook(str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), progress_bar=False)
    assert not record.exists()


def test_the_smoke_profile_runs_whole_and_only_once(smoke_home, tmp_path_factory, monkeypatch):
    """Every notebook through Snakemake and papermill in a fresh home, from a folder that is not the project's."""
    home, elsewhere = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(smoke_home / "datasets", home / "datasets")
    monkeypatch.setenv("DFNB_HOME", str(home))
    command = [str(BIN / "dfnb"), "run", "smoke", "--cores", "2"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "video AUC" in done.stdout and "index.html" in done.stdout.strip().splitlines()[-1]
    assert not list(elsewhere.iterdir())
    for job in run.jobs("smoke"):
        record = core.read_json(job.record)
        assert record["parameters"].items() >= job.parameters.items()
        assert all(core.sha256(home / name) == digest for name, digest in record["files"].items()), job.id
        if job.trains:
            assert "done: loss" in job.log.read_text()
            continue
        executed = json.loads(job.log.read_text())
        assert not any(o.get("output_type") == "error" for c in executed["cells"] for o in c.get("outputs", []))
    report = home / "reports" / "smoke"
    page = (report / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (report / name).exists(), name
    assert all(job.done() for job in run.jobs("smoke"))
    times = {job.id: job.record.stat().st_mtime_ns for job in run.jobs("smoke")}
    again = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert again.returncode == 0 and "video AUC" in again.stdout and "all is done" in again.stdout
    assert times == {job.id: job.record.stat().st_mtime_ns for job in run.jobs("smoke")}
    lost = next(job for job in run.jobs("smoke") if job.notebook == "09_report")
    (report / "index.html").unlink()
    assert not lost.done()
    assert subprocess.run(command, cwd=elsewhere, capture_output=True).returncode == 0
    assert lost.done() and (report / "index.html").exists()
