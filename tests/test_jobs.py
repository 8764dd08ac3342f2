"""Notebooks as jobs: their form, their closed parameters, the grid, the whole smoke profile, and what a kill leaves."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import papermill
import pytest
import timm
import torch
import yaml
from records import SAID
from typer.testing import CliRunner

from dfnb import compare, core, corrupt, jobs, papers, scores, train
from dfnb.attribution import maps
from dfnb.cli import app
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
    assert statistics.median(lines) <= 8 and max(lines) <= 25 and sum(n <= 20 for n in lines) >= 0.9 * len(lines)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code)
    assert not any(isinstance(node, ast.ClassDef) for cell in code for node in ast.walk(ast.parse(cell.source)))
    assert notebook.cells[0].source.startswith("# ")


@each_notebook
def test_a_table_that_a_notebook_formats_shows_markup_as_text(path):
    """Names of files and datasets stand in it; pandas' own display escapes them."""
    source = "".join(cell.source for cell in code_cells(path))
    assert source.count(".style.") == source.count('.style.format(escape="html")') and "HTML(" not in source


@each_notebook
def test_the_parameters_cell_is_accepted_by_the_notebooks_schema(path):
    values = literals(path)
    checked = jobs.parameters(path.stem, values)
    assert values == {name: checked.model_dump(mode="json")[name] for name in values}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_passes_the_schemas_in_an_order_in_which_it_can_run(path):
    before = set()
    for job in jobs.jobs(path.stem):
        assert job.notebook in {notebook.stem for notebook in NOTEBOOKS}
        assert set(job.needs) <= before
        before.add(job.id)
        given = yaml.safe_load(yaml.safe_dump(job.parameters.model_dump(mode="json")))  # as papermill gets them
        assert jobs.schema(job.notebook).check(given, "given") == job.parameters


def test_the_grid_is_papers_times_seeds_and_the_notebook_comes_after_its_trainings():
    of_paper = [job for job in jobs.jobs("study") if job.notebook == "04_locate_and_verify"]
    grid = [job for job in of_paper if job.trains and not job.group]
    assert [job.id for job in grid] == [f"locate_and_verify-synth-a-study-s{job.parameters.seed}" for job in grid]
    assert [job.parameters.seed for job in grid] == jobs.profile("study").grid.seeds
    notebook = of_paper[-1]
    assert not notebook.trains and {job.id for job in of_paper[:-1]} <= set(notebook.needs)
    assert notebook.parameters == grid[0].parameters  # so the notebook loads what the job trained


def test_notebooks_wait_for_the_trainings_alone_and_the_last_two_for_all_others():
    planned = {job.id: job for job in jobs.jobs("demo")}
    trained = {name for name, job in planned.items() if job.trains}
    others = {*planned} - trained - {*jobs.LAST}
    assert planned["01_data"].needs == () and trained
    assert all({*planned[name].needs} == trained for name in others - {"01_data"})
    assert all({*planned[name].needs} == trained | others for name in jobs.LAST if name in planned)


def test_no_setting_of_a_paper_has_the_name_of_a_parameter():
    for name in papers.names():
        assert not {*papers.module(name).Settings.model_fields} & {*jobs.TrainingParameters.model_fields}


@pytest.mark.parametrize(
    ("profile", "place", "seed", "besides"),
    [("study", "synth-a-study", 10, set()), ("smoke", "smoke-a", 0, {"epoch_scores"})],
)
def test_arms_change_what_they_name_and_nothing_else(profile, place, seed, besides):
    """But for the scores of each epoch, which no arm has."""
    known = {job.id: job for job in jobs.jobs(profile)}
    main = known[f"exposing_the_deception-{place}-s{seed}"].parameters.model_dump()
    arm = known[f"exposing_the_deception-{place}-losses-ce-gil-s{seed}"]
    changed = {name for name, value in arm.parameters.model_dump().items() if value != main[name]}
    assert (arm.group, arm.arm) == ("losses", "CE + GIL") and changed == {"information_losses", *besides}
    assert main["epoch_scores"] is bool(besides) and not arm.parameters.epoch_scores


def write_profile(home, **changes):
    """A profile of its own in a home that has no others."""
    smoke = next(path for path in PROFILES if path.stem == "smoke")
    content = core.read_yaml(smoke) | changes
    path = home / "notebooks" / "profiles" / "mine.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ({"06_cross_dataset": {}}, "has arms of 06_cross_dataset, which trains nothing"),
        (
            {"04_locate_and_verify": {"g": {"a": {"epocs": 3}}}},
            "mine, 04_locate_and_verify, g a: there is no parameter 'epocs'",
        ),
        (
            {"05_exposing_the_deception": {"g": {"a": {"branches": 1}}}},
            "LIL leaves one branch out and needs at least two; raise branches or drop lil",
        ),
        (
            {"04_locate_and_verify": {"g": {"a": {"sspsl": True, "mixup_probability": 0.5}}}},
            "SSPSL has no meaning for mixed images; set mixup_probability = 0",
        ),
    ],
)
def test_wrong_arms_are_refused_before_anything_runs(tmp_path, monkeypatch, arms, sentence):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    write_profile(tmp_path, arms=arms)
    with pytest.raises(DfnbError, match=sentence):
        jobs.jobs("mine")


@pytest.mark.parametrize("name", ["x'; touch PWNED; echo '", "$(touch PWNED)", "a b", "../x", "`id`", "-rf", ""])
@pytest.mark.parametrize("place", ["train_sets", "test_sets", "arm"])
def test_a_name_that_a_shell_would_run_is_refused(tmp_path, monkeypatch, name, place):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    grid = {"train_sets": ["smoke-a"], "test_sets": ["smoke-a"], "seeds": [0]}
    if place == "arm":
        write_profile(tmp_path, arms={"04_locate_and_verify": {"g": {"a": {"train_set": name}}}})
    else:
        write_profile(tmp_path, grid=grid | {place: [name]}, arms={})
    with pytest.raises(DfnbError, match="string should match pattern"):
        jobs.jobs("mine")


def test_names_of_arms_reach_the_shell_as_plain_words_only(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    write_profile(tmp_path, arms={"04_locate_and_verify": {"face (swap)": {"n = 3 %, random": {"epochs": 2}}}})
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", job.id) for job in jobs.jobs("mine"))
    for arms in ({"g'; touch P": {"a": {}}}, {"g": {"$(touch P) 3 %": {}}}):
        write_profile(tmp_path, arms={"04_locate_and_verify": arms})
        with pytest.raises(DfnbError, match="string should match pattern"):
            jobs.jobs("mine")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "mine.yaml"),
        ("grid:\n\t- x", "is not valid YAML"),
        ("description: x\nsedes: [1]", "there is no parameter 'sedes'"),
        ("description: x\ngrid:\nnotebooks: {01_data: }", "grid"),
    ],
)
def test_a_malformed_profile_is_told_in_one_sentence(tmp_path, monkeypatch, text, sentence):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    path = tmp_path / "notebooks" / "profiles" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DfnbError, match=sentence) as error:
        jobs.jobs("mine")
    assert "\n" not in str(error.value)


def test_a_collapsed_seed_is_replaced_in_every_line_that_has_it(tmp_path, monkeypatch):
    """At most by the reserve; lines of another training set or without the seed stay, and a reserve is not replaced."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    grid = {"train_sets": ["smoke-a"], "test_sets": ["smoke-a"], "seeds": [1, 2, 3], "reserve": [20, 21]}
    other = {"train_set": "smoke-tasks", "seeds": [1, 2]}
    arms = {"02_xception_baseline": {"g": {"both": {"seeds": [1, 2]}, "one": {"seeds": [3]}, "other": other}}}
    write_profile(tmp_path, grid=grid, arms=arms)

    def seeds():
        found = {}
        for job in jobs.trainings("mine"):
            if job.parameters.paper == "xception" or not job.arm:
                found.setdefault((job.parameters.paper, job.arm), []).append(job.parameters.seed)
        return found

    def collapse(name, *of):
        for job in jobs.trainings("mine"):
            if job.parameters.paper == "xception" and job.arm == name and job.parameters.seed in of:
                jobs.finish(job.id, job.parameters, core.Clock(), collapsed=True)

    before = seeds()
    assert before["lae", ""] == before["xception", ""] == [1, 2, 3]
    collapse("one", 3)  # an arm of one seed is exploratory: nothing is trained again because of it
    assert seeds() == before
    collapse("both", 1)
    assert seeds() == before | {(paper, ""): [1, 2, 3, 20] for paper in papers.names()} | {
        ("xception", "both"): [1, 2, 20]
    }
    collapse("", 2, 3, 20)
    after = seeds()
    assert after["lae", ""] == [1, 2, 3, 20, 21] and after["xception", "both"] == [1, 2, 20, 21]
    assert after["xception", "one"] == [3] and after["xception", "other"] == [1, 2]  # 20 is seed 1's, 21 seed 2's


@pytest.fixture
def trained_elsewhere(smoke_home, tmp_path, monkeypatch):
    """A home whose profile "mine" was trained with two seeds, and then lost its runs: what is left is the report."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    (tmp_path / "datasets").symlink_to(smoke_home / "datasets")
    write_mine(tmp_path, seeds=[1, 2])
    pack = scores.pack

    def packed(*given):
        """No other job may end between the listing of a line's runs and their packing."""
        with pytest.raises(DfnbError, match="another process is writing"), core.locked(scores.job_folder("mine", "")):
            pass
        pack(*given)

    monkeypatch.setattr(scores, "pack", packed)
    for job in jobs.trainings("mine"):
        jobs.train_job("mine", job.id)
    monkeypatch.setattr(scores, "pack", pack)
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    return tmp_path


def write_mine(home, seeds, **changes):
    baseline = core.read_yaml(next(path for path in PROFILES if path.stem == "smoke"))["notebooks"][
        "02_xception_baseline"
    ]
    corrupted = {"test_set": "smoke-b", "corruptions": ["JPEG"], "severities": [5], "videos": 4}
    notebooks = {"02_xception_baseline": baseline | {"epoch_scores": False}, "08_robustness": corrupted}
    notebooks |= changes.pop("notebooks", {})
    grid = {"train_sets": ["smoke-a"], "test_sets": ["smoke-b"], "seeds": seeds}
    write_profile(home, grid=grid, notebooks=notebooks, **{"arms": {}, "one_code": True, **changes})


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file() and path.suffix
    }


def test_what_a_report_holds_counts_as_done_on_another_machine(trained_elsewhere):
    home, (first, second) = trained_elsewhere, jobs.trainings("mine")
    held, shards = contents(home / "reports/mine/scores"), sorted((home / "elsewhere").glob("*/scores/*"))
    runs = scores.Report("mine").lines()[0].runs
    assert {path.stem for path in shards} == {"smoke-b", "smoke-b@jpeg-5"} and not first.done() and not second.done()
    jobs.train_job("mine", second.id)  # by hand, on a machine that has nothing yet
    assert first.done() and second.done() and contents(home / "reports/mine/scores") == held
    for path in shards:
        texts = dict.fromkeys(["video", "cluster", "method"], str)
        table, again = core.read_table(path), core.read_table(home / "runs" / path.relative_to(home / "elsewhere"))
        pd.testing.assert_frame_equal(again.astype(texts), table.astype(texts), check_exact=True)
        assert again.attrs == table.attrs
    few, whole = (
        core.read_table(next(path for path in shards if ("jpeg" in path.stem) == wanted)) for wanted in (True, False)
    )
    assert 4 <= few["video"].nunique() < whole["video"].nunique() and set(few["label"]) == {0, 1}
    (line,) = jobs.lines("mine")
    assert line.runs == runs and line.here == [runs[0]]  # the report has the first seed's weights
    held = contents(home / "reports/mine")
    jobs.publish("mine")
    assert contents(home / "reports/mine") == held


def test_a_report_of_one_code_is_not_gone_on_with_by_other_code(trained_elsewhere, monkeypatch):
    home = trained_elsewhere
    monkeypatch.setattr(core, "code", lambda: "changed")
    jobs.restore("mine")  # nothing is left to train
    write_mine(home, seeds=[1, 2], notebooks={"10_self_blended_images": {"image_size": 96}})
    assert not jobs.trainings("mine")[-1].done()
    jobs.restore("mine")  # a paper that joins
    write_mine(home, seeds=[1, 2, 3])
    third = jobs.trainings("mine")[-1]
    with pytest.raises(
        DfnbError, match=r"a part of .*reports/mine was made by other code than this: check out the commit"
    ):
        jobs.train_job("mine", third.id)
    shutil.rmtree(home / "reports")  # what was restored is still at home
    with pytest.raises(DfnbError, match="move it and its runs away"):
        jobs.train_job("mine", third.id)
    write_mine(home, seeds=[1, 2, 3], one_code=False)
    jobs.restore("mine")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
@pytest.mark.parametrize("kind", ["scores", "weights"])
def test_a_damaged_report_restores_nothing_and_says_which_file(trained_elsewhere, kind, damage):
    path = next((trained_elsewhere / "reports/mine" / kind).iterdir())
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DfnbError, match=path.stem) as error:
        jobs.restore("mine")
    assert "\n" not in str(error.value) and not any(job.done() for job in jobs.trainings("mine"))
    path.write_bytes(content)
    jobs.restore("mine")
    assert all(job.done() for job in jobs.trainings("mine"))


def test_a_job_that_was_cut_off_here_is_not_done_because_a_report_says_so(trained_elsewhere):
    """The run was trained at home, but the job ended before it had measured what its record in the report vouches for."""
    home, (first, _) = trained_elsewhere, jobs.trainings("mine")
    run = core.read_json(home / "elsewhere/notebooks/mine" / first.id / "record.json")["run"]
    shutil.copytree(home / "elsewhere" / run, home / "runs" / run, ignore=shutil.ignore_patterns("*jpeg*"))
    jobs.restore("mine")
    assert not first.done()
    jobs.train_job("mine", first.id)
    assert first.done() and (home / "runs" / run / "scores/smoke-b@jpeg-5.parquet").exists()


def test_the_code_is_that_of_sources_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    path = tmp_path / "data_manifest" / "x.yaml"
    path.parent.mkdir()
    path.write_text("a: 1\n")

    def code():
        core.code.cache_clear()
        return core.code()

    before = code()
    for name in ("x.yaml~", "#x.yaml#", ".ipynb_checkpoints/x.yaml", "x.pyc.14023"):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text("a: 3\n")
    assert code() == before
    path.write_text("a: 2\n")
    assert core.code() == before != code()  # what is edited while it runs is not what runs
    core.code.cache_clear()


def test_every_pretrained_backbone_of_the_published_recipes_names_the_tag_of_its_weights():
    """Of timm's several weights under one name the default may change."""
    named = {job.parameters.settings().backbone for job in jobs.trainings("paper")}
    named |= {papers.module(paper).Settings().backbone for paper in papers.names()}
    assert len(named) == 6 and all(timm.is_model_pretrained(name) and "." in name for name in named)


def test_a_main_line_that_is_also_an_arm_is_measured_as_a_main_line(trained_elsewhere):
    home = trained_elsewhere
    shutil.rmtree(home / "reports")
    write_mine(home, seeds=[5], arms={"02_xception_baseline": {"controls": {"main": {}, "other": {"lr": 0.001}}}})
    main, same, other = jobs.trainings("mine")
    assert main.id == same.id and (main.group, same.group) == ("", "controls")
    for job in (main, other):
        jobs.train_job("mine", job.id)
    report = scores.Report("mine")
    conditions = [[table.attrs["condition"] for table in report.tables(line, "smoke-b")] for line in report.lines()]
    assert [line.group for line in report.lines()] == ["", "controls", "controls"]
    assert ["JPEG 5" in found for found in conditions] == [True, True, False]


def test_parameters_are_equal_to_stored_ones_that_know_fewer_fields():
    job = jobs.trainings("smoke")[0].parameters
    stored = job.model_dump(mode="json")
    older = {name: value for name, value in stored.items() if name != "frames_per_video"}
    assert job.equal(stored) and job.equal(older)
    assert not job.equal(stored | {"seed": 7}) and not job.equal(older | {"frames_per_video": 3})


def test_the_first_training_of_a_profile_makes_the_control_that_07_loads(tmp_path, monkeypatch):
    """The same training but for its labels, whose identity has no test sets; in `demo`, whose 07 asks for none, there is none."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    made, run = [], SimpleNamespace(id="run", folder=tmp_path, record={"collapsed": False})
    monkeypatch.setattr(jobs, "train", lambda *given, **options: made.append((given, options)) or run)
    monkeypatch.setattr(jobs, "lines", lambda *given, **options: [])
    for owner, names in (
        (jobs, ["restore", "datasets", "explained", "corrupted", "finish"]),
        (scores, ["score", "pack"]),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, lambda *given, **options: None)
    for job in jobs.trainings("smoke")[:2]:
        jobs.train_job("smoke", job.id)
    (given, options), (again, control), (_, other) = made
    assert given == again and options["epoch_tests"] and not options["shuffled_labels"] and not other["shuffled_labels"]
    assert control == options | {"epoch_tests": (), "shuffled_labels": True}
    jobs.train_job("demo", jobs.trainings("demo")[0].id)
    assert len(made) == 4


def test_the_maps_of_a_line_are_measured_on_frames_that_are_chosen_once(monkeypatch):
    p = next(job.parameters for job in jobs.jobs("study") if job.notebook == "07_attribution")
    facts = {"paper": "exposing_the_deception", "train_set": "tasks-study", "seen_methods": ["diffuse"]}
    runs = [papers.Run(Path(name), {"parameters": facts}) for name in ("first", "second")]
    arm, other = (scores.Line("", facts["paper"], group, "CE", ()) for group in ("losses", "no claim"))
    chosen, measured = [], []
    monkeypatch.setattr(jobs, "datasets", lambda name: None)
    monkeypatch.setattr(jobs.measures, "sample", lambda *given: chosen.append(given) or "frames")
    monkeypatch.setattr(jobs.measures, "measure", lambda run, frames, name: measured.append((run.id, frames, name)))
    jobs.explained(p, arm, *runs)
    names = compare.mapped("exposing_the_deception", "losses")
    assert chosen == [("tasks-study", p.forged_frames, ["diffuse"])] and names
    assert measured == [(run.id, "frames", name) for run in runs for name in names]
    jobs.explained(p, other, *runs)
    jobs.explained(p.model_copy(update={"arms": False}), arm, *runs)
    assert len(chosen) == 1


def test_missing_main_lines_are_trained_and_missing_arms_are_left_out(trained_elsewhere, monkeypatch):
    home = trained_elsewhere
    write_mine(home, seeds=[1, 2, 3], one_code=False, arms={"02_xception_baseline": {"g": {"a": {"lr": 0.001}}}})
    new = []
    monkeypatch.setattr(jobs, "trained", lambda p: new.append((p.seed, p.lr)) or "run")
    jobs.restore("mine")
    (line,) = jobs.lines("mine")
    assert new == [(3, 0.002)] and len(line[-1]) == 3  # two are in the report, and the arm is not asked for


def test_each_job_has_gpus_of_its_own(checkout, tmp_path):
    (tmp_path / "shows.py").write_text("import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); input()")

    def started(n, environment):
        wrapped = [sys.executable, checkout / "workflow/job.py", tmp_path / "runs", str(n), "shows"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), **environment}
        return subprocess.Popen(wrapped, env=environment, **pipes)

    three = {"DFNB_GPUS": "0,1,5"}
    one = started(1, three)
    assert one.stdout.readline() == "0\n"
    two = started(2, three)
    assert two.stdout.readline() == "1,5\n"
    waiting, cluster = started(2, three), started(1, {"CUDA_VISIBLE_DEVICES": "0"})
    assert cluster.stdout.readline() == "0\n"  # what a cluster hands out is left alone
    one.communicate("\n")
    assert waiting.poll() is None  # one is free, and two are asked for
    two.communicate("\n")
    assert waiting.stdout.readline() == "0,1\n"
    for process in (waiting, cluster):
        process.communicate("\n")
    many = started(4, three)
    assert many.wait() == 1 and many.stderr.read() == "4 GPUs are asked for and there are 3; lower devices\n"


@pytest.mark.parametrize(
    ("visible", "gpus", "handed_out"), [(None, 2, "0,1"), ("3,5", 2, "3,5"), ("-1", 0, ""), (None, 0, "")]
)
def test_a_profile_hands_out_the_gpus_that_torch_sees(tmp_path, monkeypatch, visible, gpus, handed_out):
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    started = []
    job = SimpleNamespace(record=tmp_path / "record.json", done=lambda: bool(started), files=lambda: [])
    monkeypatch.setattr(jobs, "restore", lambda name: None)
    monkeypatch.setattr(jobs, "jobs", lambda name: [job])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **given: started.append((command, given)) or subprocess.CompletedProcess([], 0),
    )
    assert CliRunner().invoke(app, ["run", "smoke"]).exit_code == 0
    [(command, given)] = started
    assert given["env"]["DFNB_LOCK"] == str(tmp_path / "runs" / ".lock")
    assert given["env"]["DFNB_GPUS"] == handed_out and f"gpu={gpus or 999}" in command


def test_an_unknown_training_job_lists_those_there_are():
    with pytest.raises(DfnbError, match=r"profile smoke has no training x; it has xception-smoke-a-s0, .*lae-smoke"):
        jobs.train_job("smoke", "x")


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
        jobs.parameters("04_locate_and_verify", {**NAMESPACE, **change})
    assert "\n" not in str(error.value)


def test_unknown_injected_names_are_refused_and_the_cell_can_run_twice():
    source = "\n".join(f"{name} = {value!r}" for name, value in NAMESPACE.items())
    cells = ["", source, "my_own_variable = 3", "# Parameters\nseed = 3\n"]
    namespace = {**NAMESPACE, "my_own_variable": 3, "In": cells, "seed": 3}
    assert jobs.parameters("04_locate_and_verify", namespace).seed == 3
    namespace["In"].append("# Parameters\nno_such_name = 1\n")
    with pytest.raises(DfnbError, match="there is no parameter 'no_such_name'"):
        jobs.parameters("04_locate_and_verify", {**namespace, "no_such_name": 1})


def test_integers_are_numbers_and_lists_are_tuples():
    p = jobs.parameters("04_locate_and_verify", {**NAMESPACE, "lr": 1, "modules": ["mpff"]})
    assert p.settings().lr == 1.0 and p.settings().modules == ("mpff",)


def test_unknown_profiles_and_notebooks_are_named(tmp_path, monkeypatch):
    with pytest.raises(DfnbError, match="there are demo, development, paper, smoke, study"):
        jobs.jobs("dmeo")
    with pytest.raises(DfnbError, match="there is no notebook '07_nothing'"):
        jobs.schema("07_nothing")
    with pytest.raises(DfnbError, match="dataset celeb-df-v2 is neither prepared nor part"):
        monkeypatch.setenv("DFNB_HOME", str(tmp_path))
        jobs.datasets("celeb-df-v2")


def test_a_record_of_other_parameters_is_no_proof_and_checking_parameters_leaves_it(home):
    job = next(job for job in jobs.jobs("smoke") if job.notebook == "06_cross_dataset")
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.touch()
    jobs.finish("06_cross_dataset", jobs.parameters("06_cross_dataset", {"profile": "smoke"}), core.Clock())
    assert job.done()
    jobs.parameters("06_cross_dataset", {"profile": "smoke"})
    assert job.done()
    other = core.read_json(job.record) | {"parameters": {"profile": "demo"}}
    core.write_json(job.record, other)
    assert not job.done()
    job.record.unlink()


@pytest.mark.parametrize("older", [False, True])
def test_a_job_is_due_when_a_version_the_generator_or_the_data_changed(tmp_path, monkeypatch, older):
    """An older record says nothing of it, but that of its run says which versions and data it was trained by and on."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    own = {"train_sets": ["own"], "test_sets": ["own", "smoke-b"], "seeds": [0]}
    arm = {"train_set": "smoke-a", "test_sets": ["smoke-a"]}
    write_profile(tmp_path, grid=own, arms={"02_xception_baseline": {"g": {"drawn": arm}}})
    dataset = tmp_path / "datasets" / "own"
    core.write_record(dataset, {}, [], fingerprint="bytes")
    main, drawn = (job for job in jobs.trainings("mine") if job.notebook == "02_xception_baseline")
    for job in (main, drawn):
        jobs.finish(job.id, job.parameters, core.Clock(), run=job.id)
        if older:
            record = core.read_json(job.record)
            made = record.pop("made_from")
            core.write_json(job.record, record)
            name = job.parameters.train_set
            run = {"version": made["training"], "train_set": name, "data": made[f"data of {name}"]}
            core.write_record(tmp_path / "runs" / job.id, run, [])

    def done():
        return main.done(), drawn.done()

    assert done() == (True, True)
    for module in (train, papers.module("xception")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", 99)
            assert done() == (False, False)
    for module in (maps, corrupt):  # of scores and maps that only the job's record can name
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", 99)
            assert done() == (older, older)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "GENERATOR", 99)
        assert done() == (older, False)
    core.write_record(dataset, {}, [], fingerprint="other bytes")
    assert done() == (False, True)
    shutil.rmtree(dataset)  # restored from a report, where the data is not
    monkeypatch.setattr(core, "code", lambda: "an edited docstring")
    assert done() == (True, True)


def test_only_cells_of_literals_are_read_for_parameters():
    cells = ["", "seed = 3\nepochs = 2\n", "dropout = compute()\nmean = 3", "# Parameters\nseed = 4\n"]
    namespace = {**NAMESPACE, "In": cells, "seed": 4, "epochs": 2, "dropout": 0.9, "mean": 3, "train_set": "smoke-a"}
    namespace["In"].append("train_set = 'smoke-a'\ntest_sets = ['smoke-a']")
    p = jobs.parameters("04_locate_and_verify", namespace)
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
    record = next(job for job in jobs.jobs("smoke") if job.notebook == path.stem and not job.trains).record
    record.unlink(missing_ok=True)
    with pytest.raises(Exception, match=r"died|Kernel"):
        papermill.execute_notebook(str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), progress_bar=False)
    assert not record.exists()


def test_an_edited_docstring_is_looked_at_and_makes_nothing_due(tmp_path, monkeypatch, checkout):
    """In an edited copy of the package all is looked at again, and found done; after another VERSION the training and its notebook are due."""
    home, copy = tmp_path / "home", tmp_path / "copy"
    monkeypatch.setenv("DFNB_HOME", str(home))
    write_profile(home, grid={"train_sets": ["smoke-a"], "test_sets": ["smoke-b"], "seeds": [0]}, one_code=True)
    for job in jobs.jobs("mine"):
        jobs.finish(job.id, job.parameters, core.Clock(), run=job.id)
        core.write_bytes(job.log, b"")
        if job.trains:
            known = {
                "paper": job.parameters.paper,
                "train_set": "smoke-a",
                "seed": 0,
                "seen_methods": None,
                "settings": {},
            }
            core.write_record(home / "runs" / job.id, known, [], **SAID, weights_sha256="")
    for folder in ("dfnb", "workflow", "data_manifest"):
        shutil.copytree(checkout / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def edited(name, old, new):
        text = (copy / "dfnb" / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (copy / "dfnb" / name).write_text(text.replace(old, new), encoding="utf-8")

    def run():
        code = "import subprocess, sys; from dfnb import cli; subprocess.run = lambda *given, **of: sys.exit('due')\n"
        code += "sys.argv = ['dfnb', 'run', 'mine']; cli.app()"
        options = {
            "env": {**os.environ, "PYTHONPATH": str(copy)},
            "cwd": tmp_path,
            "capture_output": True,
            "text": True,
        }
        return subprocess.run([sys.executable, "-c", code], **options)

    edited("train.py", '"""One training loop for all papers.', '"""A loop for all papers.')
    after, seen = run(), home / "runs/notebooks/mine.json"
    assert after.stdout.startswith("profile mine: all is done\n") and not after.returncode, after.stderr
    looked_at = core.read_json(seen)["code"]
    assert looked_at != core.code()
    edited("papers/xception.py", "\nVERSION = 1\n", "\nVERSION = 99\n")
    due = run()
    assert due.stdout == "profile mine: 2 jobs to do\n" and due.stderr.endswith("due\n"), due.stderr
    assert core.read_json(seen)["code"] == looked_at
