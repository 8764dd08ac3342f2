"""Profiles as jobs: parameters, the plan, and what a training leaves in the report."""

import ast
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from conftest import CHECKOUT
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from profiles import BASELINE, GRID, LOCATE, SETTINGS, write_profile

from dfnb import files, papers, records
from dfnb.report import detectors, maps, scores, tools
from dfnb.running import jobs, parameters
from dfnb.settings import DfnbError
from dfnb.training.runs import Run

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def trainings(name="mine"):
    return jobs.plan(name).trainings


# ---------------------------------------------------------------- parameters


def code_cells(path):
    notebook = nbformat.read(path, 4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def literals(path):
    """The values of a notebook's parameters cell."""
    values = {}
    for cell in code_cells(path):
        if "parameters" in cell.metadata.get("tags", []):
            for statement in ast.parse(cell.source).body:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


NAMESPACE = literals(CHECKOUT / "notebooks" / f"{LOCATE}.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_with_valid_parameters(path):
    values = literals(path)
    if path.stem != tools.NOTEBOOK:  # `dfnb judge` checks its parameters
        checked = parameters.check(path.stem, values).model_dump(mode="json")
        assert values == {name: checked[name] for name in values}
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 15


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": "many"}, "epochs = 'many': input should be a valid integer"),
        ({"epochs": True}, "epochs = True"),
        ({"lr": "1e-4"}, "lr = '1e-4': input should be a valid number"),
        ({"profile": "../x"}, "profile = '../x'"),
        ({"test_sets": []}, r"test_sets = \[\]: list should have at least 1 item"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(change, sentence):
    with pytest.raises(DfnbError, match=f"^{LOCATE}: .*{sentence}") as error:
        parameters.check(LOCATE, {**NAMESPACE, **change})
    assert "\n" not in str(error.value)


def test_the_settings_of_the_paper_are_a_part_of_the_parameters():
    p = parameters.check(LOCATE, {**NAMESPACE, "lr": 1, "modules": ["mpff"]})
    assert p.paper == "locate_and_verify" and p.settings().modules == ("mpff",)
    for name in papers.modules():
        settings = set(papers.module(name).Settings.model_fields)
        assert not settings & set(parameters.TrainingParameters.model_fields)


def test_a_name_that_papermill_injects_is_checked():
    notebook = load_notebook_node(str(CHECKOUT / "notebooks" / f"{LOCATE}.ipynb"))
    injected = parameterize_notebook(notebook, {"epocs": 1}).cells
    sources = [cell.source for cell in injected if cell.cell_type == "code"]
    with pytest.raises(DfnbError, match="no parameter 'epocs'"):
        parameters.check(LOCATE, {"In": sources, "epocs": 1})


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize("name", ["smoke", "demo", "study-bed", "study-ff-like"])
def test_a_plan_survives_its_file_and_papermill(name, empty_home):
    """No dataset has to be there."""
    plan = jobs.plan(name)
    path = empty_home / "plan.json"
    files.write_json(path, plan.model_dump(mode="json"))
    assert jobs.Plan.check(files.read_json(path), path) == plan
    for job in plan.notebooks:
        passed = yaml.safe_load(yaml.safe_dump(job.parameters))  # as papermill gets them
        checked = parameters.check(job.name, passed)
        assert checked.model_dump(mode="json") == job.parameters


def test_a_profile_trains_its_grid_and_its_ablations(own_home):
    variants = {"main": {}, "slow": {"lr": 0.001, "seeds": [1, 2]}, "0 %": {"epochs": 2}}
    write_profile(own_home, {**GRID, "seeds": [1, 2]}, ablations={BASELINE: {"learning": variants}})
    planned = trainings()
    assert [(job.run.seed, job.roles) for job in planned] == [
        (1, [jobs.MAIN, ("learning", "main")]),
        (2, [jobs.MAIN]),
        (1, [("learning", "0 %")]),
        (1, [("learning", "slow")]),
        (2, [("learning", "slow")]),
    ]
    main, slow = planned[0].parameters, planned[3].parameters
    assert {name for name in main if main[name] != slow[name]} == {"lr"}
    assert len({job.output for job in planned}) == len({job.name for job in planned}) == 5
    # The main detectors alone keep all roles, which are in their score files.
    assert jobs.plan("mine", main=True).trainings == planned[:2]


def test_the_name_of_a_training_set_may_have_the_seed(own_home):
    grid = {"train_set": "bed-{seed}", "test_sets": ["bed"], "seeds": [30, 31], "within": ["bed"]}
    variants = {"slow": {"lr": 0.001, "seeds": [31]}, "all of 30": {"train_set": "bed-30"}}
    write_profile(own_home, grid, ablations={BASELINE: {"learning": variants}})
    planned = [(job.run.seed, job.run.train_set, job.train_set) for job in trainings()]
    own = "bed-{seed}"
    assert planned == [(30, "bed-30", own), (31, "bed-31", own), (31, "bed-31", own)]
    write_profile(own_home, {**GRID, "train_set": "bed-{run}"})
    with pytest.raises(DfnbError, match=r"train_set = 'bed-\{run\}'"):
        jobs.plan("mine")


def test_a_training_with_two_roles_is_tested_on_all_that_they_name(own_home):
    ablations = {BASELINE: {"more": {"tests": {"test_sets": ["smoke-a"]}}}}
    write_profile(own_home, ablations=ablations)
    (job,) = trainings()
    assert job.test_sets == ["smoke-b", "smoke-a"] and len(job.roles) == 2


def test_what_is_not_prepared_is_left_out(own_home):
    ablations = {BASELINE: {"more": {"elsewhere": {"train_set": "celeb-df-v2"}}}}
    grid = {**GRID, "test_sets": ["dfdc", "smoke-b"]}
    write_profile(own_home, grid, ablations=ablations)
    (job,) = trainings()
    assert job.test_sets == ["smoke-b"] and job.roles == [jobs.MAIN]


WRONG = [
    ({"notebooks": {"12_nothing": None}}, "there is no notebook '12_nothing'"),
    ({"sedes": [1]}, "there is no parameter 'sedes'; known are description, grid,"),
    ({"grid": {**GRID, "sedes": [1]}}, "there is no parameter 'grid.sedes'"),
    ({"notebooks": {BASELINE: {**SETTINGS, "seeds": [3]}}}, "there is no parameter 'seeds'"),
    ({"grid": {**GRID, "train_set": "celeb-df-v2"}}, "celeb-df-v2"),
    ({"grid": {**GRID, "train_set": "$(touch x)"}}, "use letters"),
    ({"ablations": {"07_cross_dataset": {}}}, "ablations of 07_cross_dataset"),
    ({"ablations": {BASELINE: {"g": {"v": {"epocs": 3}}}}}, "there is no parameter 'epocs'"),
    ({"ablations": {BASELINE: {"g'; touch x": {"v": {}}}}}, "use letters"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_a_wrong_profile_is_refused_before_anything_runs(own_home, changes, sentence):
    write_profile(own_home, **changes)
    with pytest.raises(DfnbError, match=re.escape(sentence)) as error:
        jobs.plan("mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["grid:\n\t- x", "grid: {}\ngrid: {}"])
def test_a_profile_that_is_no_yaml_is_named(own_home, text):
    write_profile(own_home)
    path = own_home / "notebooks" / "profiles" / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DfnbError, match=re.escape(str(path))) as error:
        jobs.plan("mine")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- trainings


@pytest.fixture(scope="module")
def done(smoke_home, tmp_path_factory):
    """A home in which the training of ``mine`` is done, with all that a grid may ask for."""
    home = tmp_path_factory.mktemp("done")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    grid = {
        **GRID,
        "corruptions": {"test_set": "smoke-b", "names": ["JPEG"], "severities": [5], "videos": 4},
        "maps": {
            # seams-smoke has no fake of the method that is trained on: no map is measured there.
            "test_sets": ["smoke-a", "seams-smoke"],
            "frames": 2,
            "names": ["edges"],
            "sanity_frames": 2,
        },
    }
    write_profile(home, grid, {BASELINE: {**SETTINGS, "seen_methods": ["mouth"]}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        jobs.train_and_score(trainings()[0])
    return home


def test_a_training_leaves_its_scores_weights_and_profile_in_the_report(done, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(done))
    (job,) = trainings()
    (detector,) = detectors("mine")
    assert job.done and [run.id for run in detector.runs] == [job.name]
    table = scores("mine")
    conditions = {*zip(table["test_set"], table["corruption"], table["severity"])}
    assert conditions == {("smoke-b", "", 0), ("smoke-b", "JPEG", 5)}
    assert {*maps("mine")["map"]} == {"Grad-CAM"}
    report = done / "reports" / "mine"
    assert (report / "test_sets" / "validation of smoke-a.parquet").exists()
    profile = (done / "notebooks" / "profiles" / "mine.yaml").read_bytes()
    assert (report / "profile.yaml").read_bytes() == profile


@pytest.fixture
def trained_again(done, own_home):
    """A home in which the training of ``mine`` has ended, and nothing is scored yet."""
    for name in ("notebooks", "runs"):
        shutil.copytree(done / name, own_home / name)
    return trainings()[0]


def test_an_unreadable_crop_fails_the_job_instead_of_losing_its_maps(trained_again, monkeypatch):
    def unreadable(*_):
        raise DfnbError("a crop is damaged")

    monkeypatch.setattr(jobs.measures, "as_batch", unreadable)
    with pytest.raises(DfnbError, match="a crop is damaged"):
        jobs.train_and_score(trained_again)
    assert not trained_again.done


def test_a_report_is_gone_on_with_from_what_is_there(done, own_home):
    """Nothing is trained again, and a reader's own training is in no table."""
    for name in ("reports", "notebooks"):
        shutil.copytree(done / name, own_home / name)
    (job,) = trainings()
    run = jobs.trained(parameters.check(BASELINE, job.parameters))
    jobs.ensure_trained("mine")
    assert run.network().state_dict().keys() and not (own_home / "runs").exists()
    shutil.copytree(done / "runs", own_home / "runs")
    (own_home / job.output).unlink()
    record = own_home / "runs" / job.name / "record.json"
    before = record.stat().st_mtime_ns
    jobs.ensure_trained("mine")
    assert job.done and record.stat().st_mtime_ns == before
    other = jobs.trained(parameters.check(BASELINE, {**job.parameters, "seed": 7}))
    assert other.id != job.name and Run.open(other.id).seed == 7
    (detector,) = detectors("mine")
    assert [run.seed for run in detector.runs] == [0]


def test_a_missing_dataset_is_built_or_named(own_home):
    (own_home / "datasets").unlink()
    with pytest.raises(DfnbError, match="datasets/mine contains no finished dataset; make it with"):
        jobs.ensure_datasets("mine")
    jobs.ensure_datasets("smoke-b", "smoke-b")
    assert records.read_record(own_home / "datasets" / "smoke-b")


def test_the_record_of_a_notebook_holds_what_it_wrote(own_home):
    figure = files.write_bytes(own_home / "reports" / "mine" / "figures" / "a.png", b"png")
    p = parameters.check("07_cross_dataset", {"profile": "mine"})
    records.finish("07_cross_dataset", p, records.Clock(), [figure], runs=["a"])
    record = files.read_json(own_home / "reports" / "mine" / "records" / "07_cross_dataset.json")
    assert record["parameters"] == {"profile": "mine"} and record["runs"] == ["a"]
    assert record["outputs"] == {"a.png": files.sha256(figure)} and record["wall_s"] >= 0


# ---------------------------------------------------------------- GPUs


def test_each_job_has_a_gpu_of_its_own(tmp_path):
    shown = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); input()"

    def start(needs_gpu="1", **environment):
        command = [sys.executable, CHECKOUT / "workflow" / "with_gpu.py", needs_gpu]
        environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "1,5", **environment}
        return subprocess.Popen(
            [*command, sys.executable, "-c", shown],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    one = start()
    assert one.stdout.readline() == "1\n"
    two = start()
    assert two.stdout.readline() == "5\n"
    needing_none = start("0")
    assert needing_none.stdout.readline() == "1,5\n"
    in_slurm = start(SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0")
    assert in_slurm.stdout.readline() == "0\n"  # what a cluster hands out is left alone
    waiting = start()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    two.kill()
    assert waiting.stdout.readline() == "5\n"
    for process in (one, needing_none, waiting, in_slurm):
        process.communicate("\n")
    two.wait()


def test_snakemake_reads_a_plan_whose_names_have_braces(own_home, checkout):
    """Such as bed-{seed}, which Snakemake would take for a wildcard."""
    files.write_json(own_home / "plan.json", jobs.plan("study-bed").model_dump(mode="json"))
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--quiet"]
    command += ["--snakefile", checkout / "workflow" / "Snakefile", "--directory", own_home]
    done = subprocess.run([*command, "--config", "plan=plan.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
