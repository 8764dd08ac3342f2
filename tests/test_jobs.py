"""Profiles as jobs: parameters, the plan, and what a training leaves in the report."""

import ast
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import planted
import pytest
import yaml
from conftest import CHECKOUT
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from profiles import BASELINE, LOCATE, SETTINGS, SHARED, write_profile

from dfnb import files, papers, records
from dfnb.checks import DfnbError
from dfnb.files import run_folder
from dfnb.report import detectors, maps, scores, thresholds
from dfnb.running import (
    datasets,
    jobs,
    measuring,
    open_reports,
    parameters,
    profiles,
    this_run,
    workflow,
)
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from dfnb.store.scores import Condition, read_about
from dfnb.store.scores import add as add_scores
from dfnb.training import train

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
                if isinstance(statement, ast.AnnAssign):
                    values[statement.target.id] = ast.literal_eval(statement.value)
    return values


NAMESPACE = literals(CHECKOUT / "notebooks" / f"{LOCATE}.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_with_valid_parameters(path):
    values = literals(path)
    checked = parameters.check(path.stem, values).model_dump(mode="json")
    assert values == {name: checked[name] for name in values}
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": True}, "epochs = True"),
        ({"report": "../x"}, "report = '../x'"),
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
    again = jobs.Plan.check(files.read_json(path), path)
    assert again == plan
    for job in (again.trainings[0], again.trainings[-1]):
        assert job.training.id == job.name
    for job in plan.notebooks:
        passed = yaml.safe_load(yaml.safe_dump(job.parameters))  # as papermill gets them
        if name == parameters.DESCRIBED:  # its notebooks have their defaults
            assert passed == {}
        else:
            checked = parameters.check(job.name, passed)
            assert checked.model_dump(mode="json") == job.parameters


def test_a_profile_trains_its_papers_and_their_variants(own_home):
    slow = {"lr": 0.001, "seeds": [1, 2]}
    variants = {"learning: main": {}, "learning: slow": slow, "learning: 0 %": {"epochs": 2}}
    write_profile(own_home, {**SHARED, "seeds": [1, 2]}, variants={BASELINE: variants})
    planned = trainings()
    assert [(job.parameters["seed"], job.roles) for job in planned] == [
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


def test_a_detector_is_trained_although_no_test_set_is_there(own_home):
    write_profile(own_home, {**SHARED, "test_sets": ["celeb-df-v2"]})
    (job,) = trainings()
    assert job.test_sets == [] and job.training.id == job.name
    with pytest.raises(DfnbError, match="no test set is left; celeb-df-v2"):
        parameters.check(BASELINE, job.parameters)


def test_the_name_of_a_training_set_may_have_the_seed(own_home):
    shared = {"train_set": "bed-{seed}", "test_sets": ["bed"], "seeds": [30, 31]}
    slow = {"lr": 0.001, "seeds": [31]}
    variants = {"learning: slow": slow, "learning: all of 30": {"train_set": "bed-30"}}
    write_profile(own_home, shared, variants={BASELINE: variants})
    planned = [(job.parameters["seed"], job.parameters["train_set"]) for job in trainings()]
    assert planned == [(30, "bed-30"), (31, "bed-31"), (31, "bed-31")]
    write_profile(own_home, {**SHARED, "train_set": "bed-{run}"})
    with pytest.raises(DfnbError, match=r"train_set = 'bed-\{run\}'"):
        jobs.plan("mine")


def test_a_training_with_two_roles_is_tested_on_all_that_they_name(own_home):
    write_profile(own_home, variants={BASELINE: {"more: tests": {"test_sets": ["smoke-a"]}}})
    (job,) = trainings()
    assert job.test_sets == ["smoke-b", "smoke-a"] and len(job.roles) == 2


def test_what_is_not_prepared_is_left_out(own_home):
    variants = {BASELINE: {"more: elsewhere": {"train_set": "celeb-df-v2"}}}
    write_profile(own_home, {**SHARED, "test_sets": ["dfdc", "smoke-b"]}, variants=variants)
    (job,) = trainings()
    assert job.test_sets == ["smoke-b"] and job.roles == [jobs.MAIN]


def test_a_dataset_without_the_splits_that_are_needed_is_not_used(own_home):
    (own_home / "datasets").unlink()  # the link to them
    for name, split in (("tested", "test"), ("trained", "train")):
        counts = {f"{split}/real": 3, f"{split}/fake": 3}
        record = {"parameters": {}, "fingerprints": {split: "x"}, "n": counts, "outputs": {}}
        files.write_json(own_home / "datasets" / name / "record.json", record)
    write_profile(own_home, {**SHARED, "train_set": "smoke-a", "test_sets": ["tested", "trained"]})
    assert trainings()[0].test_sets == ["tested"]
    write_profile(own_home, {**SHARED, "train_set": "tested"})
    with pytest.raises(DfnbError, match="tested has no split train and no split val; prepare it"):
        trainings()


MAPS = {"test_sets": ["smoke-b"], "frames": 2, "names": ["edges"], "sanity_frames": 2}
JPEG = {"test_set": "smoke-b", "names": ["JPEG"], "severities": [5]}
WRONG = [
    ({"notebooks": {"12_nothing": {}}}, "there is no notebook '12_nothing'"),
    ({"notebooks": {BASELINE: None}}, "02_xception_baseline: null removes a notebook of `like`"),
    ({"sedes": [1]}, "there is no parameter 'sedes'; did you mean seeds"),
    ({"train_set": "celeb-df-v2"}, "celeb-df-v2"),
    ({"train_set": "$(touch x)"}, "use letters"),
    ({"variants": {"07_cross_dataset": {}}}, "variants of 07_cross_dataset"),
    ({"variants": {BASELINE: {"g: v": {"epocs": 3}}}}, "there is no parameter 'epocs'"),
    ({"variants": {BASELINE: {"g'; touch x": {}}}}, "use letters"),
    ({"variants": {BASELINE: {"g: v": {"seed": 3}}}}, "seed has no effect; write seeds: [...]"),
    ({"seeds": [0, 0]}, "seeds = [0, 0]: write each seed once"),
    ({"test_sets": ["smoke-bb"]}, "did you mean smoke-b or"),
    ({"maps": {**MAPS, "test_sets": ["x"]}}, "maps: there is no dataset 'x'"),
    ({"notebooks": {BASELINE: SETTINGS, "08_attribution": {}}}, "needs `maps` in the profile"),
    ({"notebooks": [BASELINE]}, "write below `notebooks:` each notebook with its parameters"),
    ({"like": ["smoke"]}, "like: \"['smoke']\": use letters"),
    ({"like": "smok"}, "there is no profile 'smok'"),
    ({"like": "mine"}, "like: mine leads back to this profile"),
    ({"claims": "x"}, "claims/x.yaml"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_a_wrong_profile_is_refused_before_anything_runs(own_home, changes, sentence):
    write_profile(own_home, **changes)
    with pytest.raises(DfnbError, match=re.escape(sentence)) as error:
        jobs.plan("mine")
    assert "\n" not in str(error.value)


def test_a_profile_like_another_states_what_differs(own_home):
    """Notebooks are merged per parameter, other entries replaced; null removes."""
    write_profile(own_home, {**SHARED, "maps": MAPS}, {BASELINE: SETTINGS, "10_report": {}})
    path = own_home / "notebooks" / "profiles" / "longer.yaml"
    text = "description: x\nlike: mine\nseeds: [3]\nmaps: null\nnotebooks: {10_report: null, "
    path.write_text(f"{text}{BASELINE}: {{epochs: 2}}, 00_start_here: {{}}}}\n", encoding="utf-8")
    profile = profiles.read("longer")
    assert profile.test_sets == SHARED["test_sets"] and profile.seeds == [3] and not profile.maps
    assert profile.notebooks == {"00_start_here": {}, BASELINE: {**SETTINGS, "epochs": 2}}
    profiles.keep_copy("longer")
    assert reports.profile_of("longer")["seeds"] == [3]


def test_released_files_of_one_name_are_refused(own_home):
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "released": "weights/*"}})
    for name in ("first.pth", "first.tar"):
        files.write_bytes(own_home / "weights" / name, b"")
    with pytest.raises(DfnbError, match=r"weights/first\.tar: .* like weights/first\.pth;"):
        jobs.plan("mine")


@pytest.mark.parametrize(
    ("counts", "lacking"),
    [
        ({"test/real": 3, "train/fake": 3}, "no fake frames"),
        ({"test/swap": 3, "test/warp": 3}, "no real frames"),
    ],
)
def test_a_test_set_that_lacks_a_class_is_refused_before_training(empty_home, counts, lacking):
    """Its own record says so; a notebook and a plan are refused alike."""
    folder = empty_home / "datasets" / "my-set"
    records.write_record(folder / "record.json", {}, [], n=counts, fingerprints={"test": "x"})
    sentence = f"the test split of my-set has {lacking},"
    with pytest.raises(DfnbError, match=sentence):
        parameters.check(BASELINE, {**parameters.defaults(BASELINE), "test_sets": ["my-set"]})
    write_profile(empty_home, {**SHARED, "test_sets": ["my-set"]})
    with pytest.raises(DfnbError, match=sentence):
        jobs.plan("mine")


def test_a_profile_that_is_no_yaml_is_named(own_home):
    write_profile(own_home)
    path = own_home / "notebooks" / "profiles" / "mine.yaml"
    path.write_text("seeds:\n\t- x", encoding="utf-8")
    with pytest.raises(DfnbError, match=re.escape(str(path))) as error:
        jobs.plan("mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shared", "notebook", "sentence"),
    [
        (SHARED, {"06_self_blended_images": {**SETTINGS, "region": "hull"}}, "the face mesh could"),
        ({**SHARED, "test_sets": ["photographs"]}, None, "as a listed photograph"),
        (
            {**SHARED, "maps": {**MAPS, "test_sets": ["photographs"]}},
            None,
            "as a listed photograph",
        ),
        (
            {**SHARED, "corruptions": {**JPEG, "test_set": "photographs"}},
            None,
            "as a listed photograph",
        ),
    ],
    ids=["training", "test set", "maps", "corruptions"],
)
def test_what_a_job_needs_is_fetched_before_the_first_one_starts(
    own_home, monkeypatch, shared, notebook, sentence
):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr(workflow.subprocess, "Popen", None)  # Snakemake is not started
    monkeypatch.setenv("DFNB_DETECTOR", str(own_home / "detector.onnx"))
    write_profile(own_home, shared, notebook)
    with pytest.raises(DfnbError, match=sentence):
        workflow.run("mine", cores=1)


def test_a_report_without_a_test_set_has_no_maps_to_measure(empty_home, monkeypatch):
    run = StoredRun("x", planted.record("xception"))
    planted.add(run, {})
    reports.keep("loop", run, [])
    monkeypatch.setattr(open_reports, "first_runs", lambda report: {"Baseline": run})
    with pytest.raises(DfnbError, match="no run of loop has scores of a test set"):
        open_reports.measure_maps("loop")


# ---------------------------------------------------------------- trainings


@pytest.fixture(scope="module")
def done(smoke_home, tmp_path_factory):
    """A home in which the training of ``mine`` is done, with all that a profile may ask for."""
    home = tmp_path_factory.mktemp("done")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    grid = {
        **SHARED,
        "corruptions": {"test_set": "smoke-b", "names": ["JPEG"], "severities": [5], "videos": 4},
        "maps": {
            # smoke-tasks has no fake of the method that is trained on: no map is measured there.
            "test_sets": ["smoke-a", "smoke-tasks"],
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
    assert {*maps("mine")["map"]} == {"Grad-CAM", "edges"}
    assert {*maps("mine").query("sanity")["map"]} == {"Grad-CAM", "edges"}
    report = done / "reports" / "mine"
    profile = (done / "notebooks" / "profiles" / "mine.yaml").read_text("utf-8")
    assert reports.profile_of("mine") == yaml.safe_load(profile)
    assert reports.mean_mask_path(report, job.name).exists()


@pytest.fixture
def trained_again(done, own_home):
    """A home in which the training of ``mine`` has ended, and nothing is scored yet."""
    for name in ("notebooks", "runs"):
        shutil.copytree(done / name, own_home / name)
    (job,) = trainings()
    (own_home / "runs" / job.name / "scores.parquet").unlink()
    return job


def test_an_unreadable_crop_fails_the_job_instead_of_losing_its_maps(trained_again, monkeypatch):
    def unreadable(*_):
        raise DfnbError("a crop is damaged")

    monkeypatch.setattr(measuring.measures, "as_batch", unreadable)
    with pytest.raises(DfnbError, match="a crop is damaged"):
        jobs.train_and_score(trained_again)
    assert not trained_again.done


def test_a_training_that_is_there_is_not_repeated(done, own_home):
    """Nor scored again: what the run was scored on is in its own folder."""
    for name in ("reports", "notebooks", "runs"):
        shutil.copytree(done / name, own_home / name)
    (job,) = trainings()
    (own_home / job.output).unlink()
    times = [path.stat().st_mtime_ns for path in sorted((own_home / "runs" / job.name).iterdir())]
    jobs.train_and_score(job)
    again = [path.stat().st_mtime_ns for path in sorted((own_home / "runs" / job.name).iterdir())]
    assert job.done and times == again


def test_a_training_that_is_there_gets_the_roles_of_a_changed_profile(done, own_home):
    shutil.copytree(done / "reports", own_home / "reports")
    settings = {**SETTINGS, "seen_methods": ["mouth"]}
    same = {"variants": {BASELINE: {"masks: main": {}}}}
    write_profile(own_home, SHARED, {BASELINE: settings}, **same)
    (job,) = trainings()
    before = scores("mine")
    jobs.train_and_score(job)
    assert [each.name for each in detectors("mine")] == ["Baseline", "Baseline, masks: main"]
    again = scores("mine")
    assert [len(rows) for _, rows in again.groupby("ablation", observed=True)] == [len(before)] * 2


def test_scores_of_another_report_are_copied_where_nobody_has_the_weights(
    done, own_home, monkeypatch
):
    shutil.copytree(done / "reports" / "mine", own_home / "reports" / "earlier")
    shutil.rmtree(own_home / "reports" / "earlier" / "weights")
    maps_of_variants = {"test_sets": ["smoke-a"], "frames": 2, "names": ["edges"]}
    grid = {**SHARED, "seeds": [1, 0], "maps": {**maps_of_variants, "sanity_frames": 2}}
    settings = {**SETTINGS, "seen_methods": ["mouth"]}
    write_profile(own_home, grid, {BASELINE: settings})
    _, job = trainings()
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", lambda *_: pytest.fail("it is trained"))
        jobs.train_and_score(job)
    assert job.done and not list(own_home.glob("runs/*/best.safetensors"))
    copied, original = scores("mine"), scores("earlier")
    original = original[original["corruption"] == ""]
    assert copied["score"].tolist() == original["score"].tolist() and len(copied)
    # A further test set needs the weights, and so does a further corruption.
    (own_home / job.output).unlink()
    for change in ({"test_sets": ["smoke-a"]}, {"corruptions": {**JPEG, "names": ["blur"]}}):
        write_profile(own_home, {**grid, **change}, {BASELINE: settings})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train, "train", interrupted)
            jobs.train_and_score(trainings()[1])


@pytest.fixture
def scored(empty_home, monkeypatch):
    """The conditions that are scored of runs that are not there, in place of scoring."""
    made = []

    def table(run, condition, *_):
        made.append(condition)
        return planted.table(condition.test_set)

    monkeypatch.setattr(measuring, "_make", table)
    monkeypatch.setattr(measuring, "_fingerprint", lambda name: name)
    monkeypatch.setattr(
        measuring.test_sets,
        "describe",
        lambda name, shared: planted.about(
            planted.record("xception"), [Condition(name)], {name: shared}
        ).test_sets[name],
    )
    monkeypatch.setattr(measuring, "_shared_crops", lambda *_: None)
    return made


def test_a_test_set_that_is_named_twice_is_scored_once(scored):
    run = StoredRun("x", planted.record("xception"))
    measuring.ensure_scores(run, "mine", ["smoke-b", "smoke-a", "smoke-b"])
    assert [condition.test_set for condition in scored] == ["smoke-b", "smoke-a"]
    measuring.ensure_scores(run, "mine", ["smoke-a"])
    assert len(scored) == 2  # what is there is not scored again


def test_a_known_leak_stays_known_without_the_training_set(scored):
    run = StoredRun("x", planted.record("xception"))
    tables = {Condition("smoke-b"): planted.table("smoke-b")}
    path = run_folder("x") / "scores.parquet"
    add_scores(path, planted.rows(tables), planted.about(run.record, tables, {"smoke-b": 3}))
    jpeg = measuring.Corruptions(test_set="smoke-b", names=["JPEG"], severities=[3])
    measuring.ensure_scores(run, "mine", ["smoke-b"], jpeg)
    assert scored == [Condition("smoke-b", "JPEG", 3)]
    assert read_about(path).test_sets["smoke-b"].shared_crops == 3


def interrupted(*_):
    raise KeyboardInterrupt


def test_the_maps_of_variants_are_measured_on_their_own_test_sets(own_home):
    maps_ = {"test_sets": ["smoke-a"], "frames": 2, "names": ["edges"], "sanity_frames": 2}
    variants = {"methods: mouth": {"seen_methods": ["mouth"], "test_sets": ["smoke-b"]}}
    for asked, expected in ((True, ["smoke-b"]), (False, None)):
        shared = {**SHARED, "maps": {**maps_, "variants": asked}}
        write_profile(own_home, shared, variants={BASELINE: variants})
        main, variant = trainings()
        assert main.maps.test_sets == ["smoke-a"]
        assert (variant.maps and variant.maps.test_sets) == expected


# ---------------------------------------------------------------- the run of a notebook


def test_a_closed_report_stays_as_it_is_and_its_run_is_opened(done, own_home):
    for name in ("reports", "notebooks"):
        shutil.copytree(done / name, own_home / name)
    (job,) = trainings()
    before = {path: path.stat().st_mtime_ns for path in (own_home / "reports").rglob("*")}
    run = this_run.open_or_train(parameters.check(BASELINE, job.parameters))
    assert run.id == job.name and not list(own_home.glob("runs/*/best.safetensors"))
    other = parameters.check(BASELINE, {**job.parameters, "seed": 7, "test_sets": ["smoke-a"]})
    trained = this_run.open_or_train(other, with_maps=True)
    assert trained.seed == 7 and trained.id != run.id
    p = parameters.check(BASELINE, {**job.parameters, "seed": 7})
    assert this_run.open_or_train(p).id == trained.id  # its other test set is scored now
    table = scores("mine", trained, ["smoke-a", "smoke-b"])
    own = table[table["detector"] == "this run"]
    assert {*own["test_set"]} == {"smoke-a", "smoke-b"} and {*own["seed"]} == {7}
    measured = maps("mine", trained, ["smoke-a"]).query("detector == 'this run'")
    assert {*measured["map"]} == {"Grad-CAM"}
    assert ("this run", 7) in thresholds("mine", trained)
    assert before == {path: path.stat().st_mtime_ns for path in (own_home / "reports").rglob("*")}


def test_an_open_report_collects_runs_whose_table_is_that_of_a_profile(done, own_home):
    """A loop over seeds makes the scores that a profile with these seeds makes."""
    write_profile(own_home, {**SHARED, "seeds": [0, 1]})
    for job in trainings():
        jobs.train_and_score(job)
        this_run.open_or_train(parameters.check(BASELINE, {**job.parameters, "report": "loop"}))
    ours, theirs = scores("mine"), scores("loop")
    columns = ["detector", "seed", "test_set", "video", "score", "place"]
    assert ours[columns].astype(str).equals(theirs[columns].astype(str)) and len(ours)
    assert [run.seed for run in detectors("loop")[0].runs] == [0, 1]


def test_what_differs_from_the_defaults_is_said_in_one_line(home, capsys):
    defaults = parameters.defaults(BASELINE)
    assert parameters.check(BASELINE, defaults).model_dump() == defaults
    assert capsys.readouterr().out == ""
    changed = {**defaults, "seed": 1, "test_sets": ["smoke-b", "celeb-df-v2"]}
    p = parameters.check(BASELINE, changed)
    said, left_out = capsys.readouterr().out.splitlines()
    assert said.startswith("Changed: seed = 1, test_sets = ['smoke-b', 'celeb-df-v2']. The texts")
    assert (
        left_out
        == "left out: celeb-df-v2: no split test is prepared, `dfnb data` says how to get it"
    )
    assert p.test_sets == ["smoke-b"]
    for name in ("train_set", "test_sets"):
        wrong = "smoke-bb" if name == "train_set" else ["smoke-a", "smoke-bb"]
        with pytest.raises(DfnbError, match=r"no dataset 'smoke-bb', .* did you mean smoke-b"):
            parameters.check(BASELINE, {**defaults, name: wrong})


@pytest.mark.parametrize("notebook", [path.stem for path in NOTEBOOKS])
def test_the_defaults_open_the_committed_detector(notebook, checkout, monkeypatch):
    """The cell has the values of the study's profile; so its run has an id of the study."""
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    p = parameters.check(notebook, literals(checkout / "notebooks" / f"{notebook}.ipynb"))
    assert p.model_dump() == parameters.defaults(notebook)
    if notebook in papers.notebooks():
        run_id = this_run.training_of(p).id
        planned = {job.name: job for job in jobs.plan("study-bed").trainings}
        assert planned[run_id].is_first and planned[run_id].done


def test_a_missing_dataset_is_built_or_named(own_home):
    (own_home / "datasets").unlink()
    with pytest.raises(DfnbError, match="datasets/mine contains no finished dataset; make it with"):
        datasets.ensure_datasets("mine")
    datasets.ensure_datasets("smoke-b", "smoke-b")
    assert records.read_record(own_home / "datasets" / "smoke-b")


def test_released_weights_are_not_for_a_notebook(empty_home):
    p = SimpleNamespace(released="weights/base.pth")
    with pytest.raises(DfnbError, match=r"'weights/base\.pth' has no training that this notebook"):
        this_run.open_or_train(p)


def test_the_record_of_a_notebook_holds_what_it_wrote(own_home, done):
    figure = files.write_bytes(own_home / "reports" / "mine" / "figures" / "a.png", b"png")
    p = parameters.check("07_cross_dataset", {"report": "mine"})
    reports.finish("07_cross_dataset", p, records.Clock(), [figure], runs=["a"])
    record = files.read_json(own_home / "reports" / "mine" / "records" / "07_cross_dataset.json")
    assert record["parameters"] == {"report": "mine"} and record["runs"] == ["a"]
    assert record["outputs"] == {"a.png": files.sha256(figure)} and record["wall_s"] >= 0
    write_profile(own_home)  # now the report is closed
    p = parameters.check("10_report", {"report": "mine"})
    assert reports.finish("10_report", p, records.Clock())["wall_s"] >= 0
    assert not (own_home / "reports" / "mine" / "records" / "10_report.json").exists()


@pytest.mark.parametrize("notebook", papers.notebooks())
def test_parameters_of_a_profile_give_the_runs_of_the_profile(notebook, home):
    """`papermill -f` lays them over the values of the notebook's own cell."""
    cell = literals(CHECKOUT / "notebooks" / f"{notebook}.ipynb")
    file = yaml.safe_load(yaml.safe_dump(jobs.notebook_parameters("smoke", notebook)))
    p = parameters.check(notebook, {**cell, **file})
    run_id = this_run.training_of(p).id
    assert run_id in {job.name for job in jobs.plan("smoke").trainings}
    published = jobs.notebook_parameters("paper", notebook)  # no dataset need be prepared
    assert published["train_set"] == "faceforensics-c23"


def test_a_notebook_that_a_profile_does_not_have_is_named(home):
    with pytest.raises(DfnbError, match="has no notebook '04'; did you mean 04_locate"):
        jobs.notebook_parameters("smoke", "04")


# ---------------------------------------------------------------- GPUs


WITH_GPU = CHECKOUT / "workflow" / "with_gpu.py"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends with its parent")
def test_a_command_whose_parent_has_ended_already_does_not_begin():
    command = [sys.executable, WITH_GPU, "1", "-1", sys.executable, "-c", "print('begun')"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and "has ended" in done.stderr


def test_each_job_has_a_gpu_of_its_own(tmp_path):
    shown = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); input();"
    shown += "print(os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set())"

    def start(needs_gpu="1", **environment):
        command = [sys.executable, WITH_GPU, needs_gpu, str(os.getpid())]
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
    cpus = []
    for process in (one, needing_none, waiting, in_slurm):
        output, _ = process.communicate("\n")
        cpus.append(ast.literal_eval(output.replace("set()", "()")))
    two.wait()
    of_one, of_none, of_waiting, in_cluster = map(set, cpus)
    assert of_none == in_cluster == of_one | of_waiting
    assert len(of_none) == 1 or not of_one & of_waiting  # each loads its images by its own share


def test_snakemake_reads_a_plan_whose_names_have_braces(own_home, checkout):
    """Such as bed-{seed}, which Snakemake would take for a wildcard."""
    files.write_json(own_home / "plan.json", jobs.plan("study-bed").model_dump(mode="json"))
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--quiet"]
    command += ["--snakefile", checkout / "workflow" / "Snakefile", "--directory", own_home]
    done = subprocess.run([*command, "--config", "plan=plan.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
