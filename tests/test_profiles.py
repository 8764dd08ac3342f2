"""Profiles as calls of papermill: parameters, calls, and what a training leaves in the report."""

import ast
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import paper_check
import planted
import psutil
import pytest
import torch
import yaml
from conftest import CHECKOUT
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from profiles import BASELINE, LOCATE, SETTINGS, SHARED, planned, trained, write_profile

import notebooks
from dfnb import papers
from dfnb.papers import backbones, contract
from dfnb.report import detectors, figures, maps, scores, tables, thresholds
from dfnb.running import measuring, parameters, profiles, workflow
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from dfnb.store.scores import Condition, read_about, write
from facesets import files, records, sources
from facesets.checks import DfnbError

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def trainings(name="mine"):
    return profiles.calls(name).trainings


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


def test_a_value_of_papermill_that_the_defaults_overwrite_is_refused():
    """As papermill injects it above a cell that has lost its tag."""
    notebook = load_notebook_node(str(CHECKOUT / "notebooks" / f"{LOCATE}.ipynb"))
    for cell in notebook.cells:
        cell.metadata.tags = []
    cells = parameterize_notebook(notebook, {"seed": 5}).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    with pytest.raises(DfnbError, match=r"seed = 30 has replaced papermill's seed = 5: give"):
        parameters.check(LOCATE, {**NAMESPACE, "In": sources})
    assert parameters.check(LOCATE, {**NAMESPACE, "seed": 5, "In": sources}).seed == 5


def test_a_name_in_the_cell_of_the_parameters_is_checked_until_it_is_mended():
    mistyped = 'report: str = "mine"\nepocs: int = 1\n'
    values = {**NAMESPACE, "epocs": 1}  # which stays in the kernel
    with pytest.raises(DfnbError, match="no parameter 'epocs'"):
        parameters.check(LOCATE, {**values, "In": ["%time 1", mistyped]})
    mended = mistyped.replace("epocs", "epochs")
    cells = [mistyped, mended, "epocs: int = 2"]
    p = parameters.check(LOCATE, {**values, "epochs": 1, "In": cells})
    assert p.epochs == 1


def test_masks_that_only_some_methods_have_are_said_before_anything_runs(
    own_home, smoke_home, monkeypatch, capfd
):
    """Hours later, Locate and Verify would have learned from the masks of the others alone."""

    def stop(*arguments):
        raise KeyboardInterrupt

    (own_home / "datasets").unlink()
    shutil.copytree(smoke_home / "datasets", own_home / "datasets")
    write_profile(own_home, notebooks={BASELINE: SETTINGS, LOCATE: SETTINGS})
    assert profiles.missing_masks(profiles.calls("mine")) == []
    path = own_home / "datasets" / "smoke-a" / "frames.parquet"
    table = pd.read_parquet(path)
    method = table.loc[table["label"] == 1, "method"].iloc[0]
    table.assign(mask=table["mask"].where(table["method"] != method, "")).to_parquet(path)
    (sentence,) = profiles.missing_masks(profiles.calls("mine"))
    assert sentence.startswith("smoke-a has masks of ") and f"none of {method}:" in sentence
    workflow.run("mine", cores=1, dry_run=True)
    assert sentence in capfd.readouterr().err
    monkeypatch.setattr(workflow.measuring, "scored", stop)  # the first that may compute
    with pytest.raises(KeyboardInterrupt):
        workflow.run("mine", cores=1)
    assert sentence in capfd.readouterr().err
    unmasked = {**SETTINGS, "annotated": 0.0}
    write_profile(own_home, notebooks={BASELINE: SETTINGS, LOCATE: unmasked})
    assert profiles.missing_masks(profiles.calls("mine")) == []


def write_own_notebook(home):
    """That of ``docs/reference.md``."""
    text = (CHECKOUT / "docs" / "reference.md").read_text(encoding="utf-8")
    text = text.partition("\n## A notebook of your own\n")[2]
    first, second = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    cells = [nbformat.v4.new_code_cell(first), nbformat.v4.new_code_cell(second)]
    cells[0].metadata["tags"] = ["parameters"]
    path = home / "notebooks" / "11_strength.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def test_a_notebook_of_the_home_is_called_with_the_parameters_of_its_own_cell(own_home):
    write_own_notebook(own_home)
    both = {BASELINE: SETTINGS, "10_report": {}, "11_strength": {"strength": 0.7}}
    write_profile(own_home, notebooks=both)
    calls = profiles.calls("mine")
    assert [call.name for call in calls.shown] == [BASELINE, "11_strength", "10_report"]
    assert calls.shown[1].changes == {"report": "mine", "save": True, "strength": 0.7}
    for wrong in ({"strength": "much"}, {"strenght": 0.7}):
        write_profile(own_home, notebooks={**both, "11_strength": wrong})
        with pytest.raises(DfnbError, match="11_strength"):
            profiles.calls("mine")


@pytest.mark.parametrize(
    "annotation", ['__import__("os").mkdir("run")', "int.foo", "(1 / 0)", "print"]
)
def test_reading_a_notebook_of_the_home_runs_nothing(own_home, annotation, monkeypatch):
    monkeypatch.chdir(own_home)
    write_own_notebook(own_home)
    path = own_home / "notebooks" / "11_strength.ipynb"
    notebook = nbformat.read(path, 4)
    lines = notebook.cells[0].source
    assert "strength: float" in lines
    notebook.cells[0].source = lines.replace("strength: float", f"strength: {annotation}")
    nbformat.write(notebook, path)
    write_profile(own_home, notebooks={BASELINE: SETTINGS, "11_strength": {}})
    with pytest.raises(DfnbError, match="11_strength"):
        profiles.calls("mine")
    assert not (own_home / "run").exists()


def test_a_notebook_of_the_home_leaves_its_table_and_record(own_home):
    write_own_notebook(own_home)
    planted.write("own", "xception")
    folder = own_home / "notebooks"
    notebooks.execute("11_strength", own_home, folder, report="own", save=True)
    report = own_home / "reports" / "own"
    assert (report / "tables" / "strength.md").exists()
    assert files.read_json(report / "records" / "11_strength.json")["parameters"]["strength"] == 0.5


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize("name", ["smoke", "demo", "study-bed", "study-ff-like"])
def test_calls_survive_their_file_and_papermill(name, empty_home):
    """What papermill passes, laid over the notebook's own cell, gives the call's parameters.

    No dataset has to be there.
    """
    calls = profiles.calls(name)
    path = files.report_folder(name) / "calls.json"
    files.write_json(path, calls.model_dump(mode="json"))
    again = profiles.Calls.check(files.read_json(path), path)
    assert again == calls
    for call in (again.trainings[0], again.trainings[-1]):
        assert measuring.training_of(call.check()).id == call.name
    for call in [*calls.trainings, *calls.shown]:
        passed = yaml.safe_load(yaml.safe_dump(call.changes))
        own = parameters.stated(call.notebook)
        checked = parameters.schema(call.notebook).check({**own, **passed}, call.name)
        assert checked.model_dump(mode="json") == call.parameters
        if name == parameters.DESCRIBED and call in calls.shown:  # as a reader opens them
            assert {*passed} <= {"save", "variant"}


PLANNED = files.read_json(CHECKOUT / "tests" / "golden" / "planned.json")


@pytest.fixture
def as_committed(empty_home, monkeypatch):
    """A home with what the committed runs of real swaps were trained from, by their records."""
    identities, weights = {}, {}
    for path in (CHECKOUT / "reports/study-hidf/scores").glob("*.parquet"):
        known = read_about(path).record.parameters
        identities[known.train_set] = known.data
        weights[Path(str(known.settings["pretrained"])).name] = known.start_weights
    splits = ("train", "val", "test")
    methods = [f"{split}/{method}" for split in splits for method in ("real", "x")]
    facts = {"n": dict.fromkeys(methods, 1), "fingerprints": dict.fromkeys(splits, "")}
    for name in identities:
        if not sources.is_embedded(name):
            folder = empty_home / "datasets" / name
            folder.mkdir(parents=True)
            records.write_record(folder / "record.json", {}, [], **facts)
    for name in filter(re.compile(r"\.pth$").search, weights):
        (empty_home / "weights").mkdir()
        (empty_home / "weights" / name).touch()
    identity, sha256 = sources.identity, backbones.sha256
    monkeypatch.setattr(
        sources, "identity", lambda name, *splits: identities.get(name) or identity(name, *splits)
    )
    monkeypatch.setattr(backbones, "sha256", lambda path: weights.get(path.name) or sha256(path))


@pytest.mark.usefixtures("as_committed")
@pytest.mark.parametrize("name", PLANNED["ids"])
def test_a_profile_trains_what_it_always_did(name):
    """By an edit of `small`, too, the trainings of other profiles become others."""
    planned = profiles.calls(name).trainings
    assert sorted(call.name for call in planned) == PLANNED["ids"][name]


@pytest.mark.parametrize("name", PLANNED["parameters"])
def test_a_profile_of_real_datasets_states_what_it_always_did(name, empty_home):
    profile = profiles.read(name)
    of_papers = [each for each in profile.notebooks if each in papers.notebooks()]
    stated = [p for each in of_papers for p in profiles._stated(name, profile, each)]
    values = [p.model_dump(mode="json") for p in stated]
    assert files.digest(values) == PLANNED["parameters"][name]


@pytest.mark.parametrize(
    ("notebook", "cells"),
    [(BASELINE, None), ("03_lae", 8), (LOCATE, 8), ("05_exposing_the_deception", None)],
)
def test_the_detectors_of_portraits_default_take_a_step(notebook, cells, empty_home):
    """From weights of the package, in float16 at the end; located at stride 16, if at all."""
    (p,) = profiles._stated("portraits-default", profiles.read("portraits-default"), notebook)
    paper, settings = papers.module(p.paper), p.settings()
    paper_check.check(paper, settings)
    assert settings.half_weights and backbones.start(p.backbone, p.pretrained).sha256
    network = paper.Network(settings).eval()
    assert network.weights_from == "ImageNet"
    if cells:
        outputs = contract.outputs_of(network, torch.zeros(1, 3, 128, 128))
        assert network.localise(outputs).shape == (1, cells, cells)
    else:
        assert not hasattr(network, "localise")


def edit_cell(home, notebook, old, new):
    """Change a line of the parameters' cell of the home's copy of a notebook."""
    path = home / "notebooks" / f"{notebook}.ipynb"
    if not path.exists():
        shutil.copy(CHECKOUT / "notebooks" / path.name, path)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_a_profile_may_start_from_the_cells_or_from_what_is_published(own_home):
    of_cell = parameters.stated(LOCATE)
    published = papers.module("locate_and_verify").Settings()
    assert of_cell["fusion_width"] != published.fusion_width
    variants = {LOCATE: {"modules: one": {"modules": ["mpff"]}}}
    for start, width in (("notebooks", of_cell["fusion_width"]), ("published", None)):
        write_profile(own_home, notebooks={LOCATE: {"epochs": 1}}, variants=variants, start=start)
        for p in profiles._stated("mine", profiles.read("mine"), LOCATE):
            assert (p.fusion_width, p.epochs) == (width or published.fusion_width, 1)
            assert (p.report, p.train_set, p.test_sets) == ("mine", "smoke-a", ["smoke-b"])
            assert p.seed == 0 and p.save


def test_an_edited_cell_is_named_before_the_profile_trains_by_it(own_home, capfd):
    """Until a run has begun with it: a dry run says it as often as it is asked."""
    write_profile(own_home, notebooks={BASELINE: {"epochs": 1}}, start="notebooks")
    edit_cell(own_home, BASELINE, "lr: float = 2e-3", "lr: float = 1e-3")
    profiles.keep_copy("mine")
    edit_cell(own_home, BASELINE, "lr: float = 1e-3", "lr: float = 4e-3")
    edit_cell(own_home, BASELINE, "epochs: int = 32", "epochs: int = 33")  # stated: without effect
    sentence = f"{BASELINE}: its cell has lr = 0.004 now, and mine ran with 0.001 before"
    for _ in range(2):
        workflow.run("mine", cores=1, dry_run=True)
        assert [line for line in capfd.readouterr().err.splitlines() if "cell" in line] == [
            sentence
        ]
    profiles.keep_copy("mine")
    assert profiles.changed_cells("mine") == []
    write_profile(own_home, notebooks={BASELINE: {"epochs": 1}})  # published: no cell matters
    edit_cell(own_home, BASELINE, "lr: float = 4e-3", "lr: float = 3e-3")
    assert profiles.changed_cells("mine") == []


def test_a_cell_is_compared_with_a_value_that_stood_in_the_profile_last_time(own_home):
    """As the committed copies have them, which are older than ``start``."""
    write_profile(own_home, notebooks={BASELINE: {"lr": 0.001, "epochs": 32}})
    profiles.keep_copy("mine")
    write_profile(own_home, notebooks={BASELINE: {}}, start="notebooks")
    (sentence,) = profiles.changed_cells("mine")
    assert sentence == f"{BASELINE}: its cell has lr = 0.002 now, and mine ran with 0.001 before"
    assert profiles.changed_cells("study-bed") == []


def variants_of(calls):
    return [(call.parameters["seed"], call.parameters["variant"]) for call in calls.trainings]


def test_a_profile_trains_its_papers_and_their_variants(own_home):
    slow = {"lr": 0.001, "seeds": [1, 2]}
    variants = {"learning: main": {}, "learning: slow": slow, "learning: 0 %": {"epochs": 2}}
    write_profile(own_home, {**SHARED, "seeds": [1, 2]}, variants={BASELINE: variants})
    calls = profiles.calls("mine")
    assert variants_of(calls) == [
        (1, "main; learning: main"),
        (2, "main"),
        (1, "learning: 0 %"),
        (1, "learning: slow"),
        (2, "learning: slow"),
    ]
    main, slow = calls.trainings[0].parameters, calls.trainings[3].parameters
    assert {name for name in main if main[name] != slow[name]} == {"lr", "variant"}
    assert len({call.record for call in calls.trainings}) == 5
    # The main detectors alone keep all names, which are in their score files.
    alone = profiles.calls("mine", main=True)
    assert alone.trainings == calls.trainings[:2] and alone.shown == calls.shown
    assert alone.left_out == [(BASELINE, name, seed) for seed, name in variants_of(calls)[2:]]


def test_what_main_leaves_out_needs_nothing(own_home):
    """Of a variant that needs the weights of another network, none is looked for."""
    variants = {BASELINE: {"ResNet-50": {"backbone": "no_such_network"}}}
    write_profile(own_home, variants=variants)
    assert len(profiles.calls("mine", main=True).trainings) == 1
    with pytest.raises(DfnbError, match="no_such_network"):
        profiles.calls("mine")


def test_a_detector_without_a_test_set_is_refused(own_home):
    write_profile(own_home, {**SHARED, "test_sets": ["celeb-df-v2"]})
    with pytest.raises(DfnbError, match="no test set is left; celeb-df-v2"):
        profiles.calls("mine")


def test_the_name_of_a_training_set_may_have_the_seed(own_home):
    shared = {"train_set": "bed-{seed}", "test_sets": ["bed"], "seeds": [30, 31]}
    slow = {"lr": 0.001, "seeds": [31]}
    variants = {"learning: slow": slow, "learning: all of 30": {"train_set": "bed-30"}}
    write_profile(own_home, shared, variants={BASELINE: variants})
    calls = profiles.calls("mine").trainings
    found = [(call.parameters["seed"], call.parameters["train_set"]) for call in calls]
    assert found == [(30, "bed-30"), (31, "bed-31"), (31, "bed-31")]
    write_profile(own_home, {**SHARED, "train_set": "bed-{run}"})
    with pytest.raises(DfnbError, match=r"train_set = 'bed-\{run\}'"):
        profiles.calls("mine")


def test_a_setting_that_is_recorded_only_where_it_differs_is_a_change(own_home):
    write_profile(own_home, notebooks={LOCATE: {**SETTINGS, "antialias": False}})
    (call,) = profiles.calls("mine").trainings
    assert call.changes["antialias"] is False and call.parameters["antialias"] is False


def test_each_fold_has_its_training_set_and_its_test_set(own_home):
    shared = {"train_set": "world-0{fold}", "test_sets": ["world-0{fold}"], "seeds": [30, 31]}
    one = {"train_set": "world-01", "test_sets": ["bed"]}
    variants = {"learning: slow": {"lr": 0.001}, "one: fold": one}
    write_profile(own_home, {**shared, "folds": [1, 2]}, variants={BASELINE: variants})
    trainings = profiles.calls("mine").trainings
    found = [(call.parameters["seed"], call.parameters["train_set"]) for call in trainings]
    by_fold = [*product((30, 31), ("world-01", "world-02"))]
    assert found == [*by_fold, *by_fold[:2]]
    assert [call.parameters["test_sets"] for call in trainings[:2]] == [
        ["world-01", "bed"],
        ["world-02"],
    ]
    write_profile(own_home, {**shared, "folds": [1, 2], "test_sets": ["bed"]})
    with pytest.raises(DfnbError, match=r"write \{fold\} in each test set"):
        profiles.calls("mine")


def test_a_training_of_two_variants_is_made_once_with_all_that_they_name(own_home):
    more = {"test_sets": ["smoke-a"], "map_frames": 2}
    write_profile(own_home, variants={BASELINE: {"more: tests": more}})
    (call,) = profiles.calls("mine").trainings
    assert call.parameters["test_sets"] == ["smoke-b", "smoke-a"]
    assert call.parameters["variant"] == "main; more: tests"
    assert call.parameters["map_frames"] == 2


def test_what_is_not_prepared_is_left_out(own_home):
    variants = {
        "Pretrained": {"backbone": "resnet18", "pretrained": "weights/resnet18.safetensors"},
        "more: elsewhere": {"train_set": "celeb-df-v2"},
    }
    write_profile(
        own_home, {**SHARED, "test_sets": ["dfdc", "smoke-b"]}, variants={BASELINE: variants}
    )
    calls = profiles.calls("mine")
    (call,) = calls.trainings
    assert call.parameters["test_sets"] == ["smoke-b"] and call.parameters["variant"] == "main"
    assert calls.left_out == [(BASELINE, name, 0) for name in variants]
    (own_home / "weights").mkdir()
    (own_home / "weights" / "resnet18.safetensors").write_bytes(b"weights")
    assert [call.parameters["variant"] for call in profiles.calls("mine").trainings] == [
        "main",
        "Pretrained",
    ]


def test_a_dataset_without_the_splits_that_are_needed_is_not_used(own_home):
    (own_home / "datasets").unlink()  # the link to them
    for name, split in (("tested", "test"), ("trained", "train")):
        counts = {f"{split}/real": 3, f"{split}/fake": 3}
        record = {"parameters": {}, "fingerprints": {split: "x"}, "n": counts, "outputs": {}}
        files.write_json(own_home / "datasets" / name / "record.json", record)
    write_profile(own_home, {**SHARED, "train_set": "smoke-a", "test_sets": ["tested", "trained"]})
    assert trainings()[0].parameters["test_sets"] == ["tested"]
    write_profile(own_home, {**SHARED, "train_set": "tested"})
    with pytest.raises(DfnbError, match="tested has no split train and no split val; prepare it"):
        trainings()


WRONG = [
    ({"notebooks": {"99_nothing": {}}}, "there is no notebook '99_nothing'"),
    ({"notebooks": {BASELINE: None}}, "02_xception_baseline: null removes a notebook of `like`"),
    ({"sedes": [1]}, "there is no parameter 'sedes'; did you mean seeds"),
    ({"train_set": "celeb-df-v2"}, "celeb-df-v2"),
    ({"train_set": "$(touch x)"}, "use letters"),
    ({"variants": {"07_cross_dataset": {}}}, "variants of 07_cross_dataset"),
    ({"variants": {"03_lae": {}}}, "variants of 03_lae; add it below `notebooks:`, too"),
    ({"variants": {BASELINE: {"g: v": {"epocs": 3}}}}, "there is no parameter 'epocs'"),
    ({"variants": {BASELINE: {"g'; touch x": {}}}}, "use letters"),
    ({"variants": {BASELINE: {"g: v": {"seed": 3}}}}, "seed has no effect; write seeds: [...]"),
    ({"seeds": [0, 0]}, "seeds = [0, 0]: write each seed once"),
    ({"test_sets": ["smoke-bb"]}, "did you mean smoke-b or"),
    ({"notebooks": {"08_attribution": {"measured_on": "x"}}}, "there is no dataset 'x'"),
    ({"notebooks": {"08_attribution": {"other_maps": ["edgs"]}}}, "no 'edgs'; did you mean edges"),
    ({"notebooks": {"09_robustness": {"measured_on": "dfdc"}}}, "dfdc is not prepared"),
    ({"notebooks": {BASELINE: {**SETTINGS, "save": False}}}, "save has no effect; a profile saves"),
    ({"faces": "photographs"}, "faces = 'photographs'"),
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
        profiles.calls("mine")
    assert "\n" not in str(error.value)


def test_a_profile_like_another_states_what_differs(own_home):
    """Notebooks are merged per parameter, other entries replaced; null removes."""
    write_profile(own_home, {**SHARED, "claims": "x"}, {BASELINE: SETTINGS, "10_report": {}})
    path = own_home / "notebooks" / "profiles" / "longer.yaml"
    text = "description: x\nlike: mine\nseeds: [3]\nclaims: null\nnotebooks: {10_report: null, "
    path.write_text(f"{text}{BASELINE}: {{epochs: 2}}, 00_start_here: {{}}}}\n", encoding="utf-8")
    profile = profiles.read("longer")
    assert profile.test_sets == SHARED["test_sets"] and profile.seeds == [3] and not profile.claims
    assert profile.notebooks == {"00_start_here": {}, BASELINE: {**SETTINGS, "epochs": 2}}
    profiles.keep_copy("longer")
    assert reports.profile_of("longer")["seeds"] == [3]


def test_released_files_of_one_name_are_refused(own_home):
    write_profile(own_home, notebooks={BASELINE: {**SETTINGS, "released": "weights/*"}})
    for name in ("first.pth", "first.tar"):
        files.write_bytes(own_home / "weights" / name, b"")
    with pytest.raises(DfnbError, match=r"weights/first\.tar: .* like weights/first\.pth;"):
        profiles.calls("mine")


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
        profiles.calls("mine")


def test_a_profile_that_is_no_yaml_is_named(own_home):
    write_profile(own_home)
    path = own_home / "notebooks" / "profiles" / "mine.yaml"
    path.write_text("seeds:\n\t- x", encoding="utf-8")
    with pytest.raises(DfnbError, match=re.escape(str(path))) as error:
        profiles.calls("mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shared", "notebook", "sentence"),
    [
        (SHARED, {"03_lae": {**SETTINGS, "perceptual_weight": 1.0}}, "perceptual_weight = 0"),
        ({**SHARED, "test_sets": ["photographs"]}, None, "jpg could not"),
        (
            SHARED,
            {BASELINE: SETTINGS, "09_robustness": {"measured_on": "photographs"}},
            "jpg could not",
        ),
    ],
    ids=["training", "test set", "corruptions"],
)
def test_what_a_call_needs_is_fetched_before_the_first_one_starts(
    own_home, monkeypatch, shared, notebook, sentence
):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", offline)
    monkeypatch.setattr(backbones, "get_hf_file_metadata", offline)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(workflow, "_run_snakemake", None)  # it is not started
    monkeypatch.setenv("DFNB_DETECTOR", str(own_home / "detector.onnx"))
    write_profile(own_home, shared, notebook)
    with pytest.raises(DfnbError, match=sentence):
        workflow.run("mine", cores=1)


def test_commands_of_a_dry_run_are_those_of_the_calls(own_home, capfd):
    """Each makes papermill of the notebook what the call has, on any shell."""
    variants = {
        BASELINE: {"learning: 0.00001 %": {"lr": 1e-05, "seen_methods": ["NeuralTextures-like"]}}
    }
    write_profile(own_home, notebooks={BASELINE: SETTINGS, "10_report": {}}, variants=variants)
    workflow.run("mine", cores=1, dry_run=True)
    out, about = capfd.readouterr()
    first, *commands = out.splitlines()
    assert "4 calls, 0 done" in about
    assert shlex.split(first) == ["cd", str(own_home)]
    calls = profiles.Calls.check(files.read_json(own_home / "reports/mine/calls.json"), "calls")
    planned = [*calls.trainings, *calls.shown]
    assert len(commands) == len(planned) == 4
    for command, call in zip(commands, planned):
        program, notebook, output, option, changes = shlex.split(command)
        assert (program, option) == ("papermill", "-y")
        assert notebook.endswith(f"/{call.notebook}.ipynb")
        assert (own_home / output).parent.is_dir()
        passed = {**parameters.stated(call.notebook), **yaml.safe_load(changes)}
        checked = parameters.schema(call.notebook).check(passed, "a command")
        assert checked.model_dump(mode="json") == call.parameters


def test_hours_are_those_of_similar_trainings_in_reports(empty_home, monkeypatch):
    """Also where the report has no training itself; of smoke's sizes there is none."""
    monkeypatch.setattr(workflow.device, "DEVICE", "cpu")
    calls = profiles.calls("demo")
    (call,) = [call for call in calls.trainings if call.notebook == BASELINE][:1]
    rows = []
    for path in (CHECKOUT / "reports").glob("*/scores/xception-*.parquet"):
        record = read_about(path).record
        of_run = record.parameters.settings
        if of_run["backbone"] == call.parameters["backbone"]:
            images = of_run["images_per_epoch"] or record.n["train"]
            rows.append(record.wall_s / len(record.log) / images)
    images = call.parameters["epochs"] * call.parameters["images_per_epoch"]
    expected = pd.Series(rows).median() * images / 3600
    assert workflow._hours(call) == pytest.approx(expected)
    hours = sum(map(workflow._hours, calls.trainings))
    found = re.fullmatch(r"(\d+) calls, 0 done, about (\S+) core hours .*", workflow._plan(calls))
    assert int(found[1]) == len(calls.trainings) + len(calls.shown)
    assert float(found[2]) == pytest.approx(hours, rel=0.05)
    unknown = profiles.calls("smoke")
    assert workflow._plan(unknown).endswith(f"a similar one: {len(unknown.trainings)}")


def test_what_no_call_makes_any_more_is_set_aside(own_home, capsys):
    """What is only left out, as its dataset is not prepared, stays, and so do runs of no paper."""
    variants = {BASELINE: {"more: elsewhere": {"train_set": "celeb-df-v2"}}}
    write_profile(own_home, variants=variants)
    calls = planned()
    notebook = {**planted.record("xception").detector.model_dump(), "notebook": BASELINE}
    kept = planted.write(
        "mine", "xception", 0, "main", name=calls.trainings[0].name, detector=notebook
    )
    left_out = planted.write("mine", "xception", 0, "more: elsewhere", detector=notebook)
    others = [
        planted.write("mine", "xception", 0, name="old", detector=notebook),
        planted.write("mine", "xception", 5, detector=notebook),
        planted.write("mine", "xception", 0, "gone: variant", detector=notebook),
    ]
    of_no_paper = planted.write("mine", "left", 0)
    folder = files.report_folder("mine")
    weights = files.write_bytes(reports.weights_path(folder, "old"), b"weights")
    profiles.set_replaced_aside(calls)
    assert {path.stem for path in reports.score_files(folder)} == {kept, left_out, of_no_paper}
    assert {path.stem for path in folder.glob("replaced/scores/*")} == {*others}
    assert not weights.exists() and (folder / "replaced/weights" / weights.name).exists()
    assert capsys.readouterr().out.count("its files are now in") == 3


def test_faces_of_people_are_saved_where_git_ignores_them(own_home, monkeypatch):
    subprocess.run(["git", "init", "-q", own_home], check=True)
    write_profile(own_home, {**SHARED, "faces": "real"}, {"10_report": {}, BASELINE: SETTINGS})
    calls = planned()
    p = calls.shown[0].check()
    p._is_shown = reports.is_shown(p.report, BASELINE, p.model_dump(mode="json"))
    figure = plt.figure()
    saved = figures.show(figure, p.folder, "people", "People.")
    saved += figures.show(plt.figure(), p.folder, "points", "Points.", has_frames=False)
    saved += tables.save(pd.DataFrame({"n": [1]}), "Counted.", p.folder, "numbers", "Numbers")
    assert len(saved) == 3 and all(path.exists() for path in saved)
    for call in calls.shown:
        files.write_bytes(own_home / call.executed, b"{}")
    words = ["git", "-C", str(own_home), "add", "-n", "reports"]
    added = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    seen = re.findall(r"\w+/\w+\.(?:png|pdf|svg|ipynb|html|md)", added)
    assert {*seen} == {"tables/numbers.md", "figures/points.png", "notebooks/10_report.ipynb"}


def test_silence_ends_a_call_and_its_kernel(tmp_path):
    """In a process of its own, which ends."""
    kernel = {"name": "conda-env-mine-py", "display_name": "mine", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    source = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(notebook, tmp_path / "hangs.ipynb")
    program = "import nbformat; from dfnb.running import execution; execution.LONGEST_SILENCE = 15;"
    program += f"nb = nbformat.read({str(tmp_path / 'hangs.ipynb')!r}, 4);"
    output = str(tmp_path / "out.ipynb")
    program += f"execution.execute_notebook(nb, execution.Path({output!r}), {{}})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    *_, kernel, sentence = filter(None, done.stdout.splitlines())
    assert sentence.startswith("dfnb: ") and "nothing was printed" in sentence
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(kernel)).wait(10)


def test_a_report_without_the_scores_that_a_notebook_shows_is_refused():
    p = parameters.check("09_robustness", {"report": "mine"})
    measuring.refuse_unmeasured(pd.DataFrame({"severity": [5]}), p)
    with pytest.raises(DfnbError, match="report mine has no scores that"):
        measuring.refuse_unmeasured(pd.DataFrame({"severity": []}), p)


# ---------------------------------------------------------------- trainings


MAPS = {"other_maps": [], "frames": 2, "sanity_frames": 2, "measured_on": "smoke-a"}
JPEG = {"corruptions": ["JPEG"], "severities": [5], "videos": 4, "measured_on": "smoke-b"}
OF_MOUTH = {**SETTINGS, "seen_methods": ["NeuralTextures-like"], "map_frames": 2}


@pytest.fixture(scope="module")
def done(smoke_home, tmp_path_factory):
    """A home in which the calls of ``mine`` are done, but for the tutorial cells."""
    home = tmp_path_factory.mktemp("done")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    notebooks = {BASELINE: OF_MOUTH, "08_attribution": MAPS, "09_robustness": JPEG}
    write_profile(home, {**SHARED, "test_sets": ["smoke-a", "smoke-b"]}, notebooks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        _, of_maps, of_corruptions = trained().shown
        measuring.measure_maps(of_maps.check())
        measuring.score_corrupted(of_corruptions.check())
    return home


def added(call):
    """Add a training to its report if nothing of it is missing, and say whether it was."""
    run = measuring.scored(call.check())
    if run:
        measuring.add(call.check(), run)
    return run is not None


def copied(done, own_home, *names):
    for name in names:
        shutil.copytree(done / name, own_home / name)
    return planned().trainings[0]


def test_a_training_leaves_its_scores_and_record_in_the_report(done, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(done))
    (call,) = trainings()
    (detector,) = detectors("mine")
    assert call.done and [run.id for run in detector.runs] == [call.name]
    table = scores("mine")
    conditions = {*zip(table["test_set"], table["corruption"], table["severity"])}
    assert conditions == {("smoke-a", "", 0), ("smoke-b", "", 0), ("smoke-b", "JPEG", 5)}
    assert {*maps("mine")["map"]} == {"Grad-CAM", *tables.CONTROLS}
    assert {*maps("mine").query("sanity")["map"]} == {"Grad-CAM", *tables.CONTROLS}
    profile = (done / "notebooks" / "profiles" / "mine.yaml").read_text("utf-8")
    kept, written = reports.profile_of("mine"), yaml.safe_load(profile)
    for notebook, stated in written.pop("notebooks").items():
        assert stated.items() <= kept["notebooks"][notebook].items()
    assert kept.pop("notebooks") and kept == written


def test_the_report_keeps_the_weights_of_the_notebook_that_is_shown(done, own_home):
    call = copied(done, own_home, "notebooks", "runs")
    run = measuring.open_or_train(call.check())
    shown = planned().shown[0].check()
    for p, keeps in ((call.check(), False), (shown, True)):
        p._is_shown = keeps
        reports.finish(BASELINE, p, records.Clock(), run=run)
        folder = files.report_folder("mine")
        assert reports.weights_path(folder, run.id).exists() == keeps
        assert reports.mean_mask_path(folder, run.id).exists() == keeps
        assert (own_home / reports.record_path("mine", BASELINE)).exists() == keeps


def test_a_profile_may_keep_the_weights_of_all_trainings(done, own_home):
    call = copied(done, own_home, "notebooks", "runs")
    weights = reports.weights_path(files.report_folder("mine"), call.name)
    measuring.open_or_train(call.check())
    assert not weights.exists()
    profile = own_home / "notebooks" / "profiles" / "mine.yaml"
    profile.write_text(profile.read_text("utf-8") + "weights: all\n", "utf-8")
    profiles.keep_copy("mine")
    run = measuring.open_or_train(call.check())
    assert files.sha256(weights) == run.record.weights_sha256


def test_an_unreadable_crop_fails_the_call_instead_of_losing_its_maps(done, own_home, monkeypatch):
    def unreadable(*_):
        raise DfnbError("a crop is damaged")

    call = copied(done, own_home, "notebooks", "runs")
    shutil.rmtree(own_home / "runs" / call.name / "scores")
    monkeypatch.setattr(measuring.measures, "as_batch", unreadable)
    with pytest.raises(DfnbError, match="a crop is damaged"):
        measuring.open_or_train(call.check())
    assert not call.done


def test_a_training_that_is_there_is_not_repeated(done, own_home):
    """Nor scored again: what the run was scored on is in its own folder. No kernel starts."""
    call = copied(done, own_home, "reports", "notebooks", "runs")
    (own_home / call.record).unlink()
    folder = own_home / "runs" / call.name
    times = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))]
    assert added(call)
    assert call.done
    assert times == [path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))]


def test_a_training_that_is_there_gets_the_variants_of_a_changed_profile(done, own_home):
    copied(done, own_home, "reports", "notebooks")
    before = scores("mine").query("corruption == ''")
    shared = {**SHARED, "test_sets": ["smoke-a", "smoke-b"]}
    write_profile(own_home, shared, {BASELINE: OF_MOUTH}, variants={BASELINE: {"masks: main": {}}})
    (call,) = trainings()
    assert not call.done  # its parameters are others now
    assert added(call) and call.done
    assert [each.name for each in detectors("mine")] == ["Baseline", "Baseline, masks: main"]
    again = scores("mine").query("corruption == ''")
    assert [len(rows) for _, rows in again.groupby("ablation", observed=True)] == [len(before)] * 2


def test_scores_of_another_report_are_copied_where_nobody_has_the_weights(done, own_home):
    shutil.copytree(done / "reports" / "mine", own_home / "reports" / "earlier")
    shared = {**SHARED, "test_sets": ["smoke-b"]}
    write_profile(own_home, shared, {BASELINE: OF_MOUTH})
    (call,) = trainings()
    assert added(call) and call.done
    assert not list(own_home.glob("runs/*/best.safetensors"))
    copied, original = scores("mine"), scores("earlier", test_sets=["smoke-b"])
    original = original[original["corruption"] == ""]
    assert copied["score"].tolist() == original["score"].tolist() and len(copied)
    # A further test set needs the weights.
    write_profile(own_home, {**shared, "test_sets": ["smoke-tasks"]}, {BASELINE: OF_MOUTH})
    (call,) = trainings()
    assert not call.done and not added(call)


@pytest.fixture
def scored(empty_home, monkeypatch):
    """The conditions that are scored of runs that are not there, in place of scoring."""
    made = []

    def table(run, *condition):
        made.append(Condition(*condition[:3]))
        return planted.table(condition[0])

    monkeypatch.setattr(measuring.scoring, "score", table)
    monkeypatch.setattr(sources, "ensure_datasets", lambda name: None)
    monkeypatch.setattr(sources, "identity", lambda name, *_: name)
    monkeypatch.setattr(
        measuring,
        "describe",
        lambda name, shared: planted.about(
            planted.record("xception"), [Condition(name)], {name: shared}
        ).test_sets[name],
    )
    monkeypatch.setattr(measuring, "_shared_crops", lambda *_: None)
    return made


def test_a_test_set_that_is_named_twice_is_scored_once(scored):
    run = StoredRun("x", planted.record("xception"))
    measuring.ensure_scores(run, "mine", [*map(Condition, ("smoke-b", "smoke-a", "smoke-b"))])
    assert [condition.test_set for condition in scored] == ["smoke-b", "smoke-a"]
    measuring.ensure_scores(run, "mine", [Condition("smoke-a")])
    assert len(scored) == 2  # what is there is not scored again


def test_a_known_leak_stays_known_without_the_training_set(scored):
    run = StoredRun("x", planted.record("xception"))
    planted.add(run, {Condition("smoke-b"): planted.table("smoke-b")}, {"smoke-b": 3})
    jpeg = Condition("smoke-b", "JPEG", 3)
    measuring.ensure_scores(run, "mine", [Condition("smoke-b"), jpeg])
    assert scored == [jpeg]
    about = read_about(reports.keep("mine", run, [Condition("smoke-b"), jpeg]))
    assert about.test_sets["smoke-b"].shared_crops == 3


CONDITIONS = {  # of three notebooks
    "02": [Condition("smoke-a"), Condition("smoke-b")],
    "08": [Condition("smoke-a", map="edges"), Condition("smoke-a", map="Grad-CAM")],
    "09": [Condition("smoke-a", "JPEG", 5), Condition("smoke-a", "H.264", 1)],
}


@pytest.fixture
def made(scored, monkeypatch):
    """The conditions that are made of such runs, scores and measures of maps."""

    def make(run, conditions, counts):
        for condition in conditions:
            scored.append(condition)
            table = planted.table(condition.test_set)
            if condition.map:
                table = planted.measured(condition.test_set, energy=0.5)
            yield condition, table

    monkeypatch.setattr(measuring, "_make", make)
    return scored


def make_all(home, *notebooks):
    """What these notebooks do with a run and its report, in this home."""
    os.environ["DFNB_HOME"] = str(home)
    for notebook in notebooks:
        run = StoredRun("x", planted.record("xception"))
        for condition in CONDITIONS[notebook]:
            measuring.ensure_scores(run, "mine", [condition])
            reports.keep("mine", run, [condition])


def left_in(home):
    """The bytes of the score files in a home."""
    paths = [path for path in home.rglob("*.parquet") if not path.name.startswith(".")]
    return {path.relative_to(home): path.read_bytes() for path in paths}


def in_process(work, *arguments):
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize(
    ("profile", "apart"),
    [("", {"photographs"}), ("apart: []", set()), ("apart: [bed]", {"bed"})],
)
def test_a_report_decides_what_its_means_leave_out(made, empty_home, profile, apart):
    """Without a profile that says so the manifests do; ``runs/`` and other reports stay."""
    run = StoredRun("x", planted.record("xception", train_set="other"))
    conditions = [Condition("photographs"), Condition("bed")]
    measuring.ensure_scores(run, "mine", conditions)
    elsewhere = reports.keep("elsewhere", run, conditions, [], lambda name: True)
    content = f"description: mine\n{profile}\n"
    files.write_bytes(empty_home / "reports/mine/profile.yaml", content.encode())
    path = reports.keep("mine", run, conditions, [], measuring._is_apart("mine"))
    for file, names in ((path, apart), (elsewhere, {"photographs", "bed"})):
        test_sets = read_about(file).test_sets
        assert {name for name, kept in test_sets.items() if kept.apart} == names
    table = scores("mine", run, ["photographs", "bed"])
    this = table[table["detector"] == "this run"]
    assert {*this["test_set"]} - {*this.loc[this["place"] == "cross-dataset", "test_set"]} == apart


def test_what_was_asked_for_is_there_although_the_test_set_has_fewer_frames(made):
    """Of a copy whose file does not say it, the rows are counted."""
    run, edges = StoredRun("x", planted.record("xception")), Condition("smoke-a", map="edges")
    planted.add(run, {edges: planted.measured("smoke-a", energy=0.5)})
    for frames, times in ((60, 0), (100, 1), (90, 1), (100, 1), (101, 2)):
        measuring.ensure_scores(run, "mine", [edges], measuring.Counts(frames=frames))
        path = reports.keep("mine", run, [edges])
        assert len(made) == times
    assert read_about(path).test_sets["smoke-a"].asked == {"edges": 101}


@pytest.mark.parametrize("n", range(4))  # 0: at the first temporary file; 1: at the report's file
def test_a_kill_at_any_file_leaves_the_bytes_of_a_quiet_run(made, empty_home, n):
    def killed(home):
        places, replace = iter(range(9)), Path.replace

        def replace_or_die(path, target):
            if next(places) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(path, target)

        Path.replace = replace_or_die
        make_all(home, "02")

    process = in_process(killed, empty_home / "killed")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(left_in(empty_home / "killed")) == n
    make_all(empty_home / "killed", "02")
    assert len(made) == 2 - (n + 1) // 2  # what was there is not scored again
    make_all(empty_home / "quiet", "02")
    assert left_in(empty_home / "killed") == left_in(empty_home / "quiet")


def test_notebooks_that_add_to_one_run_at_once_leave_the_bytes_of_one_after_the_other(
    made, empty_home
):
    make_all(empty_home / "quiet", "02", "08", "09")
    make_all(empty_home / "busy", "02")
    processes = [
        in_process(make_all, empty_home / "busy", notebook) for notebook in ("08", "09", "02") * 2
    ]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert left_in(empty_home / "busy") == left_in(empty_home / "quiet")


# ---------------------------------------------------------------- the run of a notebook


def test_a_committed_detector_gets_one_file_for_each_further_test_set(done, own_home):
    """As of a checkout, which stays as it is: its weights and scores are read from the report."""
    call = copied(done, own_home, "reports", "notebooks", "runs")
    weights = reports.weights_path(files.report_folder("mine"), call.name)
    files.write_bytes(weights, (own_home / f"runs/{call.name}/best.safetensors").read_bytes())
    shutil.rmtree(own_home / "runs")
    before = left_in(own_home)
    of_own = {"save": False, "test_sets": ["smoke-b", "smoke-tasks"], "map_frames": 0}
    p = parameters.check(BASELINE, {**call.parameters, **of_own})
    run = measuring.open_or_train(p)
    after = left_in(own_home)
    (new,) = after.keys() - before.keys()
    assert new.parts[:3] == ("runs", run.id, "scores") and new.name.startswith("smoke-tasks.")
    assert before.items() <= after.items()
    table = scores("mine", run, p.test_sets)
    assert {*table[table["detector"] == "this run"]["test_set"]} == {*p.test_sets}


def test_a_committed_training_that_is_trained_again_stands_beside_the_committed_one(
    done, own_home, capsys
):
    """To other weights, as on another machine: the report stays as it is."""
    call = copied(done, own_home, "reports", "notebooks", "runs")
    path = reports.score_path(files.report_folder("mine"), call.name)
    about, rows = read_about(path), files.read_table(path)
    record = about.record.model_copy(update={"weights_sha256": 64 * "0"})
    rows["log_odds"] += 1
    write(path, rows, about.model_copy(update={"record": record}))
    before = path.read_bytes()
    p = parameters.check(BASELINE, {**call.parameters, "save": False})
    run = measuring.open_or_train(p)
    line = f"report mine has {run.id} with other weights: the report stays as it is"
    assert capsys.readouterr().out.count(line) == 1
    assert path.read_bytes() == before
    table = scores("mine", run, p.test_sets).query("corruption == ''")
    of_both = table.groupby("detector", observed=True)["score"].mean()
    assert [*of_both.index] == ["this run", "Baseline"] and of_both.iloc[0] < of_both.iloc[1]


def test_without_save_a_report_stays_as_it_is_and_its_run_is_opened(done, own_home, capsys):
    call = copied(done, own_home, "reports", "notebooks", "runs")
    before = {path: path.stat().st_mtime_ns for path in (own_home / "reports").rglob("*")}
    by_hand = {**call.parameters, "save": False}
    run = measuring.open_or_train(parameters.check(BASELINE, by_hand))
    assert "Nothing is kept in a report: save = True" in capsys.readouterr().out
    assert run.id == call.name
    other = parameters.check(BASELINE, {**by_hand, "seed": 7, "test_sets": ["smoke-a"]})
    trained = measuring.open_or_train(other)
    assert trained.seed == 7 and trained.id != run.id
    p = parameters.check(BASELINE, {**by_hand, "seed": 7})
    assert measuring.open_or_train(p).id == trained.id  # its other test set is scored now
    table = scores("mine", trained, ["smoke-a", "smoke-b"])
    own = table[table["detector"] == "this run"]
    assert {*own["test_set"]} == {"smoke-a", "smoke-b"} and {*own["seed"]} == {7}
    measured = maps("mine", trained, ["smoke-a"]).query("detector == 'this run'")
    assert {*measured["map"]} == {"Grad-CAM"}
    assert ("this run", 7) in thresholds("mine", trained)
    assert before == {path: path.stat().st_mtime_ns for path in (own_home / "reports").rglob("*")}
    with pytest.raises(DfnbError, match="none of the calls that `dfnb run mine --dry-run`"):
        parameters.check(BASELINE, {**by_hand, "save": True, "seed": 7})


def test_a_loop_makes_the_rows_of_a_profile(own_home):
    """Two seeds and a variant, by a profile and by a loop over notebooks."""
    slow = {"learning: slow": {"lr": 0.001}}
    write_profile(own_home, {**SHARED, "seeds": [0, 1]}, variants={BASELINE: slow})
    for call in trained().trainings:
        by_hand = {**call.parameters, "report": "loop"}
        measuring.open_or_train(parameters.check(BASELINE, by_hand))
    ours, theirs = scores("mine"), scores("loop")
    pd.testing.assert_frame_equal(ours, theirs)
    assert [run.seed for run in detectors("loop")[0].runs] == [0, 1]
    assert [each.name for each in detectors("loop")] == ["Baseline", "Baseline, learning: slow"]


def test_what_differs_from_the_defaults_is_said_in_one_line(home, capsys):
    defaults = parameters.defaults(BASELINE)
    assert dict(parameters.check(BASELINE, defaults)) == defaults
    (how_to_keep,) = capsys.readouterr().out.splitlines()
    assert how_to_keep.startswith("Nothing is kept")
    changed = {**defaults, "seed": 1, "test_sets": ["smoke-b", "celeb-df-v2"], "report": "mine"}
    p = parameters.check(BASELINE, {**changed, "save": True})
    said, left_out = capsys.readouterr().out.splitlines()
    assert said.startswith("Changed: report = 'mine', train_set") is False
    assert "seed = 1" in said and "test_sets = ['smoke-b', 'celeb-df-v2']" in said
    assert said.startswith("Changed: ") and "save" not in said
    assert (
        left_out
        == "left out: celeb-df-v2: no split test is prepared, `dfnb data` says how to get it"
    )
    assert p.test_sets == ["smoke-b"]
    for name in ("train_set", "test_sets"):
        wrong = "smoke-bb" if name == "train_set" else ["smoke-a", "smoke-bb"]
        with pytest.raises(DfnbError, match=r"no dataset 'smoke-bb', .* did you mean smoke-b"):
            parameters.check(BASELINE, {**defaults, name: wrong})


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("", []),
        ("modules: without CMCE", ["modules: without CMCE"]),
        ("masks: main; modules: main ;", ["masks: main", "modules: main"]),
    ],
)
def test_a_run_may_have_several_names(variant, names):
    assert parameters.check(LOCATE, {**NAMESPACE, "variant": variant}).variants == names


def cells_of(notebook, **changes):
    """The namespace of a notebook that papermill executes with these changes."""
    node = load_notebook_node(str(CHECKOUT / "notebooks" / f"{notebook}.ipynb"))
    cells = parameterize_notebook(node, changes).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return {**literals(CHECKOUT / "notebooks" / f"{notebook}.ipynb"), **changes, "In": sources}


def test_a_run_without_a_name_is_called_by_what_its_reader_changed(home, capsys):
    """In the order of the command, without what follows from it, or is the report's."""
    of_report = {"train_set": "smoke-a", "seed": 3, "map_frames": 0, "test_sets": ["smoke-b"]}
    changes = {"schedule": "step", "lr": 0.0005, "backbone": "legacy_xception", **of_report}
    p = parameters.check(BASELINE, cells_of(BASELINE, **changes))
    assert p.variants == ["main, schedule step, lr 0.0005, backbone legacy_xception"]
    said = capsys.readouterr().out
    assert said.startswith("Changed: schedule = 'step', lr = 0.0005, backbone = 'legacy_xception',")
    assert "mean" not in said
    assert parameters.check(BASELINE, cells_of(BASELINE, **of_report)).variants == []
    assert parameters.check(BASELINE, cells_of(BASELINE, variant="A", lr=0.5)).variants == ["A"]
    modules = {"modules": ["second_stream", "srm"], "dropout": 0.4, "accumulate": 2, "epochs": 1}
    (name,) = parameters.check(LOCATE, cells_of(LOCATE, **modules, mpff_width=16)).variants
    assert name == "main, modules [second_stream, srm], dropout 0.4, accumulate 2, …"


def test_a_name_that_another_run_has_is_refused_before_anything_trains(own_home, capsys):
    """A run may be executed again, also under another name, which a line says."""
    asked = {"report": "mine", "save": True, "train_set": "smoke-a", "test_sets": ["smoke-b"]}
    asked |= {"seed": 0}
    first = parameters.check(BASELINE, cells_of(BASELINE, **asked, lr=0.001))
    training = measuring.training_of(first)
    settings = training.settings.model_dump(mode="json")

    def plant(*names):
        path = reports.score_path(files.report_folder("mine"), training.id)
        record = planted.record("xception", train_set="smoke-a", settings=settings)
        about = planted.about(record, {}).model_copy(update={"variants": [*names]})
        write(path, pd.DataFrame(), about)

    plant("main", "loss: CE")
    capsys.readouterr()
    for variant in ("main", "loss: CE", "b; main", ""):
        values = cells_of(BASELINE, **asked, variant=variant)
        with pytest.raises(DfnbError, match=f"^report mine has Baseline.*, {training.id}") as error:
            parameters.check(BASELINE, values)
        unsaved = parameters.check(BASELINE, cells_of(BASELINE, **{**asked, "save": False}))
        other = measuring.training_of(unsaved)
        assert f"{other.id} has another lr (0.002, there 0.001): give" in str(error.value)
    free = [{"variant": "slow"}, {"seed": 1}, {"train_set": "smoke-b"}, {"report": "other"}]
    for change in [*free, {"epochs": 3}, {"save": False}]:
        parameters.check(BASELINE, cells_of(BASELINE, **{**asked, "variant": "", **change}))
    capsys.readouterr()
    parameters.check(BASELINE, cells_of(BASELINE, **asked, lr=0.001, variant="main; loss: CE"))
    assert "renamed" not in capsys.readouterr().out
    parameters.check(BASELINE, cells_of(BASELINE, **asked, lr=0.001))
    assert "mine has this run as main; loss: CE: it is renamed" in capsys.readouterr().out


def test_a_name_that_no_table_can_show_is_refused():
    with pytest.raises(DfnbError, match="variant = '<b>': use letters"):
        parameters.check(LOCATE, {**NAMESPACE, "variant": "main; <b>"})


@pytest.fixture(scope="module")
def study_bed(checkout):
    """The calls of study-bed, planned once: that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(checkout))
        return profiles.calls("study-bed")


@pytest.mark.parametrize("notebook", [path.stem for path in NOTEBOOKS])
def test_the_defaults_open_the_committed_detector(notebook, checkout, monkeypatch, study_bed):
    """The cell has the values of the study's profile; so its run has an id of the study."""
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    p = parameters.check(notebook, literals(checkout / "notebooks" / f"{notebook}.ipynb"))
    assert dict(p) == parameters.defaults(notebook)
    if notebook in papers.notebooks():
        run_id = measuring.training_of(p).id
        (call,) = [call for call in study_bed.trainings if call.name == run_id]
        assert call.done and call.parameters["variant"].split("; ")[0] == "main"
        assert reports.weights_path(checkout / "reports/study-bed", run_id).exists()


def test_a_missing_dataset_is_built_or_named(own_home):
    (own_home / "datasets").unlink()
    with pytest.raises(DfnbError, match="datasets/mine contains no finished dataset; make it with"):
        sources.ensure_datasets("mine")
    sources.ensure_datasets("smoke-b", "smoke-b")
    assert records.read_record(own_home / "datasets" / "smoke-b")


def test_the_record_of_a_notebook_holds_what_it_wrote(own_home):
    figure = files.write_bytes(own_home / "reports" / "mine" / "figures" / "a.png", b"png")
    for save in (False, True):
        p = parameters.check("07_cross_dataset", {"report": "mine", "save": save})
        cost = reports.finish("07_cross_dataset", p, records.Clock(), [figure], runs=["a"])
        assert cost["wall_s"] >= 0
        path = own_home / "reports" / "mine" / "records" / "07_cross_dataset.json"
        assert path.exists() == save
    record = files.read_json(path)
    assert record["parameters"] == {"report": "mine", "save": True} and record["runs"] == ["a"]
    assert record["outputs"] == {"a.png": files.sha256(figure)} and record["wall_s"] >= 0


@pytest.mark.parametrize("notebook", papers.notebooks())
def test_parameters_of_a_profile_give_the_runs_of_the_profile(notebook, home):
    """`papermill -f` lays them over the values of the notebook's own cell."""
    cell = literals(CHECKOUT / "notebooks" / f"{notebook}.ipynb")
    file = yaml.safe_load(yaml.safe_dump(profiles.notebook_parameters("smoke", notebook)))
    p = parameters.check(notebook, {**cell, **file})
    run_id = measuring.training_of(p).id
    assert run_id in {call.name for call in profiles.calls("smoke").trainings}
    published = profiles.notebook_parameters("paper", notebook)  # no dataset need be prepared
    assert published["train_set"] == "faceforensics-c23" and "report" not in published


def test_a_notebook_that_a_profile_does_not_have_is_named(home):
    with pytest.raises(DfnbError, match=r"has no notebook '04'; known are .*04_locate"):
        profiles.notebook_parameters("smoke", "04")


# ---------------------------------------------------------------- GPUs


WITH_GPU = CHECKOUT / "workflow" / "with_gpu.py"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends with its parent")
def test_a_command_whose_parent_has_ended_already_does_not_begin():
    command = [sys.executable, WITH_GPU, "1", "-1", sys.executable, "-c", "print('begun')"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and "has ended" in done.stderr


def test_each_call_has_a_gpu_of_its_own(tmp_path):
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


def test_snakemake_reads_calls_whose_names_have_braces(own_home, checkout, study_bed):
    """Such as bed-{seed}, which Snakemake would take for a wildcard."""
    calls = study_bed.model_dump(mode="json")
    files.write_json(own_home / "calls.json", calls)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--quiet"]
    command += ["--snakefile", checkout / "workflow" / "Snakefile", "--directory", own_home]
    done = subprocess.run(
        [*command, "--config", "calls=calls.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
