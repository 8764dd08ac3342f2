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
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import paper_check
import planted
import pytest
import torch
import yaml
from conftest import CHECKOUT
from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from profiles import (
    BASELINE,
    LOCATE,
    SETTINGS,
    SHARED,
    injected,
    namespace,
    planned,
    trained,
    write_profile,
)

import notebooks
from dfnb import papers
from dfnb.papers import backbones, contract
from dfnb.results import detectors, figures, maps, scores, tables, thresholds
from dfnb.running import measuring, parameters, planning, profiles, workflow
from dfnb.store import reports
from dfnb.store.runs import StoredRun
from dfnb.store.scores import Condition, read_about, write
from facesets import files, manifests, records, sources
from facesets.checks import DfnbError

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def trainings(name="mine"):
    return planning.plan(name).trainings


# ---------------------------------------------------------------- parameters


def code_cells(path):
    notebook = nbformat.read(path, 4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_leaves_all_to_its_profile(path):
    values = notebooks.literals(path)
    about_call = {*parameters.DESCRIBED, "report", "save"}
    assert {values[name] for name in values.keys() - about_call} <= {None}
    default = parameters.schema(path.stem).model_fields["report"].default
    assert not values["save"] and values["report"] in (None, default)
    of_call = values.items() & parameters.DESCRIBED.items()
    assert dict(of_call) == (parameters.DESCRIBED if "profile" in values else {})
    known = {*parameters.schema(path.stem).model_fields} - {"paper"}
    assert values.keys() == (known | {*parameters.DESCRIBED} if "profile" in values else known)
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None


def load(notebook, **changes):
    """The parameters of a notebook whose cell was run with these changes."""
    return parameters.load(notebook, namespace(notebook, **changes))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": True}, "epochs = True"),
        ({"report": "../x"}, "report = '../x'"),
        ({"report": 1}, "report = 1.* for papermill after -r"),
        ({"lr": float("nan")}, "lr = nan: Input should be a finite number"),
        ({"images_per_epoch": "all"}, "images_per_epoch = 'all'"),
        ({"seed": -1}, "seed = -1"),
        ({"profile": "study-recipe", "seed": 1}, "no dataset 'ff-like-1'.* you mean ff-like-31"),
        ({"variant": "heads: two"}, "study-portraits has no variant 'heads: two'.* known"),
        ({"profile": "smok"}, "there is no profile 'smok'.* did you mean smoke"),
        ({"profile": "study-ff-like", "variant": "x"}, "study-ff-like has no variant"),
        ({"notebook": "03_lae", "profile": "study-recipe"}, "recipe has no notebook '03_lae'"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(change, sentence):
    with pytest.raises(DfnbError, match=sentence) as error:
        load(**{"notebook": LOCATE, **change})
    assert "\n" not in str(error.value)


def test_the_settings_of_the_paper_are_a_part_of_the_parameters():
    p = load(LOCATE, lr=1, modules=["mpff"])
    assert p.paper == "locate_and_verify" and p.settings().modules == ("mpff",)
    for name in papers.modules():
        settings = set(papers.module(name).Settings.model_fields)
        assert not settings & set(parameters.TrainingParameters.model_fields)


def test_none_as_a_word_is_none_where_a_parameter_may_be():
    """None itself stands for what the profile says; ``augmentation`` has a value of this name."""
    p = load(BASELINE, images_per_epoch="none", augmentation="none", lr=None)
    assert (p.images_per_epoch, p.augmentation, p.lr) == (None, "none", 0.001)
    assert load("09_robustness", videos="none").videos is None
    assert load("09_robustness").videos == 200


def test_every_plain_value_of_a_new_kernel_is_a_parameter():
    """Papermill's own names are none, nor IPython's, nor what a reader has imported."""
    others = {"In": [""], "Out": {}, "_i1": "seed = 3", "__name__": "__main__", "Path": Path}
    others |= {"PAPERMILL_INPUT_PATH": "a", "PAPERMILL_OUTPUT_PATH": "b", "exit": print}
    values = namespace(LOCATE, epochs=3) | others
    assert parameters.load(LOCATE, values).epochs == 3
    assert values == others
    for name, known in (("epocs", "did you mean epochs"), ("LR", "known are"), ("SEED", "known")):
        with pytest.raises(DfnbError, match=f"^{LOCATE}: there is no parameter '{name}'.*{known}"):
            load(LOCATE, **{name: 1})


def test_a_mistyped_name_is_gone_when_it_was_mended_and_a_deleted_line_has_no_effect():
    """As in JupyterLab, whose kernel keeps what a cell once assigned."""
    kernel = namespace(LOCATE, epocs=1)
    with pytest.raises(DfnbError, match="no parameter 'epocs'"):
        parameters.load(LOCATE, kernel)
    kernel |= namespace(LOCATE, epochs=1)
    kernel["p"] = parameters.load(LOCATE, kernel)
    kernel["limit"] = 0.5  # of a later cell
    with pytest.raises(DfnbError, match="first run the cell above, which has the parameters"):
        parameters.load(LOCATE, kernel)
    cell = namespace(LOCATE)
    del cell["epochs"]
    assert kernel["p"].epochs == 1 and parameters.load(LOCATE, kernel | cell).epochs == 10


@pytest.mark.parametrize("heading", ["", "# Parameters\n"])
def test_values_of_papermill_are_taken_unless_the_defaults_overwrite_them(heading):
    """As where an editor has lost the tag: papermill injects its cell above the defaults then."""
    notebook = load_notebook_node(str(CHECKOUT / "notebooks" / f"{LOCATE}.ipynb"))
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = heading + cell.source

    def kernel():
        cells = parameterize_notebook(deepcopy(notebook), {"seed": 31, "epochs": 3}).cells
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        values = {"In": ["", *sources[:2]]}
        for source in sources[:2]:
            exec(source, values)
        return {name: value for name, value in values.items() if name != "__builtins__"}

    p = parameters.load(LOCATE, kernel())
    assert (p.seed, p.train_set, p.epochs) == (31, "portraits", 3)
    cell.metadata.tags = []
    with pytest.raises(DfnbError, match="give it its tag `parameters`"):
        parameters.load(LOCATE, kernel())


def write_own_notebook(home):
    """That of ``docs/reference.md``."""
    text = (CHECKOUT / "docs" / "reference.md").read_text(encoding="utf-8")
    text = text.partition("\n## A notebook of your own\n")[2]
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    cells = [nbformat.v4.new_code_cell(block) for block in blocks]
    cells[0].metadata["tags"] = ["parameters"]
    path = home / "notebooks" / "11_strength.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def test_a_notebook_of_the_home_is_called_with_the_parameters_of_its_own_cell(own_home):
    write_own_notebook(own_home)
    both = {BASELINE: SETTINGS, "10_report": {}, "11_strength": {"strength": 0.7}}
    write_profile(own_home, notebooks=both)
    calls = planning.plan("mine")
    assert [call.name for call in calls.shown] == [BASELINE, "11_strength", "10_report"]
    own = calls.shown[1].parameters
    assert dict(own) == {"report": "mine", "save": True, "strength": 0.7}
    cell = {"report": "study-ff-like", "save": False, "strength": 0.5}
    called = parameters.load("11_strength", {**cell, **injected(calls.shown[1])})
    assert dict(called) == dict(own)  # as the profile says
    assert parameters.load("11_strength", {**cell, "strength": 0.6}).strength == 0.6
    for wrong in ({"strength": "much"}, {"strenght": 0.7}):
        write_profile(own_home, notebooks={**both, "11_strength": wrong})
        with pytest.raises(DfnbError, match="11_strength"):
            planning.plan("mine")


def test_reading_a_notebook_of_the_home_runs_nothing(own_home, monkeypatch):
    monkeypatch.chdir(own_home)
    write_own_notebook(own_home)
    path = own_home / "notebooks" / "11_strength.ipynb"
    notebook = nbformat.read(path, 4)
    value = '__import__("os").mkdir("run")'
    notebook.cells[0].source = notebook.cells[0].source.replace("0.5", value)
    nbformat.write(notebook, path)
    write_profile(own_home, notebooks={BASELINE: SETTINGS, "11_strength": {}})
    with pytest.raises(DfnbError, match=r"11_strength.*its cell of literals `parameters`"):
        planning.plan("mine")
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


@pytest.mark.parametrize(
    "name", ["smoke", "demo", "study-portraits", "study-hidf", "study-ff-like"]
)
def test_a_notebook_has_the_parameters_of_its_call(name, empty_home, capsys):
    """With what papermill injects, over its own cell. No embedded dataset is there."""
    if name == "study-hidf":  # with folds, of real data
        make_empty_datasets(
            empty_home, [f"hidf-sample{c}-fold-{n}" for c in ("", "-23") for n in range(6)]
        )
    plan = planning.plan(name)
    assert len({training.name for training in plan.trainings}) == len(plan.trainings)
    first = {call.name: call for call in plan.shown}
    some = [*plan.trainings[:5], *plan.trainings[-5:], *plan.shown]
    for call in some:
        notebook = call.call.notebook
        p = load(notebook, **injected(call))
        assert dict(p) == dict(call.parameters) and p.report == name and p.save
        # Figures and tables are saved by one call of a notebook.
        assert bool(p.folder) == (call.call == first[notebook].call)
    assert measuring.training_of(some[0].parameters).id == some[0].name


def make_empty_datasets(home, names):
    """Records of prepared datasets, which have nothing else."""
    splits = ("train", "val", "test")
    methods = [f"{split}/{method}" for split in splits for method in ("real", "x")]
    facts = {"n": dict.fromkeys(methods, 1), "fingerprints": dict.fromkeys(splits, "")}
    for name in names:
        folder = home / "datasets" / name
        folder.mkdir(parents=True)
        records.write_record(folder / "record.json", {}, [], **facts)


PLANNED = files.read_json(CHECKOUT / "tests" / "golden" / "planned.json")


@pytest.fixture
def as_committed(empty_home, monkeypatch):
    """A home with what the committed runs of real swaps were trained from, by their records."""
    identities, weights = {}, {}
    for path in (CHECKOUT / "reports/study-hidf/scores").glob("*.parquet"):
        known = read_about(path).record.parameters
        identities[known.train_set] = known.data
        weights[Path(str(known.settings["pretrained"])).name] = known.start_weights
    make_empty_datasets(empty_home, [n for n in identities if not manifests.is_embedded(n)])
    for name in filter(re.compile(r"\.pth$").search, weights):
        (empty_home / "weights").mkdir()
        (empty_home / "weights" / name).touch()
    identity, sha256 = sources.identity, files.sha256
    monkeypatch.setattr(
        sources, "identity", lambda name, *splits: identities.get(name) or identity(name, *splits)
    )
    monkeypatch.setattr(
        "dfnb.papers.weights.sha256", lambda path: weights.get(path.name) or sha256(path)
    )


@pytest.mark.usefixtures("as_committed")
@pytest.mark.parametrize("name", PLANNED["ids"])
def test_a_profile_trains_what_it_always_did(name):
    """By an edit of `small`, too, the trainings of other profiles become others."""
    planned = planning.plan(name).trainings
    assert sorted(call.name for call in planned) == PLANNED["ids"][name]


@pytest.mark.parametrize("name", PLANNED["parameters"])
def test_a_profile_of_real_datasets_states_what_it_always_did(name, empty_home):
    profile = profiles.read(name)
    of_papers = [each for each in profile.notebooks if each in papers.notebooks()]
    calls = [call for each in of_papers for call in profiles.training_calls(name, profile, each)]
    saved = {"report": name, "save": True}
    values = [parameters.of_call(call, profile, saved).model_dump(mode="json") for call in calls]
    assert files.digest(values) == PLANNED["parameters"][name]


@pytest.mark.parametrize(
    ("notebook", "cells"),
    [(BASELINE, None), ("03_lae", 8), (LOCATE, 8), ("05_exposing_the_deception", None)],
)
def test_the_detectors_of_portraits_default_take_a_step(notebook, cells, empty_home):
    """From weights of the package, in float16 at the end; located at stride 16, if at all."""
    profile = profiles.read("portraits-default")
    (call,) = profiles.training_calls("portraits-default", profile, notebook)
    p = parameters.of_call(call, profile, {})
    paper, settings = papers.module(p.paper), p.settings()
    paper_check.check(paper, settings)
    assert settings.half_weights and backbones.find_start(p.backbone, p.pretrained).sha256
    network = paper.Network(settings).eval()
    assert network.weights_from == "ImageNet"
    if cells:
        outputs = contract.outputs_of(network, torch.zeros(1, 3, 128, 128))
        assert network.localise(outputs).shape == (1, cells, cells)
    else:
        assert not hasattr(network, "localise")


def test_a_profile_starts_from_the_defaults_of_the_paper_or_from_another_profile(own_home):
    published = papers.module("locate_and_verify").Settings()
    small = profiles.read("small").notebooks[LOCATE]
    assert small["fusion_width"] != published.fusion_width
    variants = {LOCATE: {"modules: one": {"modules": ["mpff"]}}}
    for like, width in (({}, published.fusion_width), ({"like": "small"}, small["fusion_width"])):
        write_profile(own_home, notebooks={LOCATE: {"epochs": 1}}, variants=variants, **like)
        profile = profiles.read("mine")
        for call in profiles.training_calls("mine", profile, LOCATE):
            p = parameters.of_call(call, profile, {"report": "mine"})
            assert (p.fusion_width, p.epochs, p.seed) == (width, 1, 0)
            assert (p.report, p.train_set, p.test_sets) == ("mine", "smoke-a", ["smoke-b"])


def variants_of(calls):
    return [(call.parameters.seed, call.parameters.variant) for call in calls.trainings]


def test_a_profile_trains_its_papers_and_their_variants(own_home):
    slow = {"lr": 0.001, "seeds": [1, 2]}
    variants = {"learning: main": {}, "learning: slow": slow, "learning: 0 %": {"epochs": 2}}
    write_profile(own_home, {**SHARED, "seeds": [1, 2]}, variants={BASELINE: variants})
    calls = planning.plan("mine")
    assert variants_of(calls) == [
        (1, "main; learning: main"),
        (2, "main"),
        (1, "learning: 0 %"),
        (1, "learning: slow"),
        (2, "learning: slow"),
    ]
    main, slow = (dict(calls.trainings[number].parameters) for number in (0, 3))
    assert {name for name in main if main[name] != slow[name]} == {"lr", "variant"}
    assert len({call.record for call in calls.trainings}) == 5
    # The main detectors alone keep all names, which are in their score files.
    alone = planning.plan("mine", main=True)
    assert alone.trainings == calls.trainings[:2] and alone.shown == calls.shown
    left_out = [(call.seed, call.variant) for call in alone.left_out]
    assert left_out == variants_of(calls)[2:]


def test_what_main_leaves_out_needs_nothing(own_home):
    """Of a variant that needs the weights of another network, none is looked for."""
    variants = {BASELINE: {"ResNet-50": {"backbone": "no_such_network"}}}
    write_profile(own_home, variants=variants)
    assert len(planning.plan("mine", main=True).trainings) == 1
    with pytest.raises(DfnbError, match="no_such_network"):
        planning.plan("mine")


def test_a_detector_without_a_test_set_is_refused(own_home):
    write_profile(own_home, {**SHARED, "test_sets": ["celeb-df-v2"]})
    with pytest.raises(DfnbError, match="no test set is left; celeb-df-v2"):
        planning.plan("mine")


def test_the_name_of_a_training_set_may_have_the_seed(own_home):
    shared = {"train_set": "ff-like-{seed}", "test_sets": ["ff-like"], "seeds": [30, 31]}
    slow = {"lr": 0.001, "seeds": [31]}
    variants = {"learning: slow": slow, "learning: all of 30": {"train_set": "ff-like-30"}}
    write_profile(own_home, shared, variants={BASELINE: variants})
    calls = planning.plan("mine").trainings
    found = [(call.parameters.seed, call.parameters.train_set) for call in calls]
    assert found == [(30, "ff-like-30"), (31, "ff-like-31"), (31, "ff-like-31")]
    write_profile(own_home, {**SHARED, "train_set": "ff-like-{run}"})
    with pytest.raises(DfnbError, match=r"train_set = 'ff-like-\{run\}'"):
        planning.plan("mine")


def test_a_setting_that_is_recorded_only_where_it_differs_is_a_change(own_home):
    write_profile(own_home, notebooks={LOCATE: {**SETTINGS, "antialias": False}})
    (call,) = planning.plan("mine").trainings
    assert call.parameters.antialias is False


def test_each_fold_has_its_training_set_and_its_test_set(own_home):
    world = "portraits-world-0{fold}"
    shared = {"train_set": world, "test_sets": [world], "seeds": [30, 31]}
    one = {"train_set": "portraits-world-01", "test_sets": ["portraits"]}
    variants = {"learning: slow": {"lr": 0.001}, "one: fold": one}
    write_profile(own_home, {**shared, "folds": [1, 2]}, variants={BASELINE: variants})
    trainings = planning.plan("mine").trainings
    found = [(call.parameters.seed, call.parameters.train_set) for call in trainings]
    by_fold = [*product((30, 31), ("portraits-world-01", "portraits-world-02"))]
    assert found == [*by_fold, *by_fold[:2]]
    assert [call.parameters.test_sets for call in trainings[:2]] == [
        ["portraits-world-01", "portraits"],
        ["portraits-world-02"],
    ]
    write_profile(own_home, {**shared, "folds": [1, 2], "test_sets": ["portraits"]})
    with pytest.raises(DfnbError, match=r"write \{fold\} in each test set"):
        planning.plan("mine")


def test_a_training_of_two_variants_is_made_once_with_all_that_they_name(own_home):
    more = {"test_sets": ["smoke-a"], "map_frames": 2}
    write_profile(own_home, variants={BASELINE: {"more: tests": more}})
    (call,) = planning.plan("mine").trainings
    assert call.parameters.test_sets == ["smoke-b", "smoke-a"]
    assert call.parameters.variant == "main; more: tests"
    assert call.parameters.map_frames == 2


def test_what_is_not_prepared_is_left_out(own_home):
    variants = {
        "Pretrained": {"backbone": "resnet18", "pretrained": "weights/resnet18.safetensors"},
        "more: elsewhere": {"train_set": "celeb-df-v2"},
    }
    write_profile(
        own_home, {**SHARED, "test_sets": ["dfdc", "smoke-b"]}, variants={BASELINE: variants}
    )
    calls = planning.plan("mine")
    (call,) = calls.trainings
    assert call.parameters.test_sets == ["smoke-b"] and call.parameters.variant == "main"
    assert [(call.variant, call.seed) for call in calls.left_out] == [
        (name, 0) for name in variants
    ]
    (own_home / "weights").mkdir()
    (own_home / "weights" / "resnet18.safetensors").write_bytes(b"weights")
    assert [call.parameters.variant for call in planning.plan("mine").trainings] == [
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
    assert trainings()[0].parameters.test_sets == ["tested"]
    write_profile(own_home, {**SHARED, "train_set": "tested"})
    with pytest.raises(DfnbError, match="tested has no split train and no split val; prepare it"):
        trainings()


WRONG = [
    ({"notebooks": {"99_nothing": {}}}, "there is no notebook '99_nothing'"),
    ({"notebooks": {BASELINE: None}}, "should have at least 1 item"),
    ({"sedes": [1]}, "there is no parameter 'sedes'; did you mean seeds"),
    ({"train_set": "celeb-df-v2"}, "celeb-df-v2"),
    ({"train_set": "$(touch x)"}, "use letters"),
    ({"variants": {"07_cross_dataset": {}}}, "variants of 07_cross_dataset"),
    ({"variants": {"03_lae": {}}}, "variants of 03_lae, which is no paper's notebook below"),
    ({"variants": {BASELINE: {"g: v": {"epocs": 3}}}}, "there is no parameter 'epocs'"),
    ({"variants": {BASELINE: {"g'; touch x": {}}}}, "use letters"),
    ({"variants": {BASELINE: {"g: v": {"seed": 3}}}}, "seed has no effect, because"),
    ({"seeds": [0, 0]}, "seeds = [0, 0]: write each seed once"),
    ({"test_sets": ["smoke-bb"]}, "did you mean smoke-b or"),
    ({"notebooks": {"08_attribution": {"measured_on": "x"}}}, "there is no dataset 'x'"),
    ({"notebooks": {"08_attribution": {"other_maps": ["edgs"]}}}, "no 'edgs'; did you mean edges"),
    ({"notebooks": {"09_robustness": {"measured_on": "dfdc"}}}, "dfdc is not prepared"),
    (
        {"notebooks": {BASELINE: {**SETTINGS, "save": False}}},
        "save has no effect, because",
    ),
    ({"faces": "photographs"}, "faces = 'photographs'"),
    ({"notebooks": [BASELINE]}, "write notebooks as NAME: {} or with their parameters"),
    ({"like": ["smoke"]}, "like: \"['smoke']\": use letters"),
    ({"like": "smok"}, "there is no profile 'smok'"),
    ({"like": "mine"}, "like: mine leads back here"),
    ({"claims": "x"}, "claims/x.yaml"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_a_wrong_profile_is_refused_before_anything_runs(own_home, changes, sentence):
    write_profile(own_home, **changes)
    with pytest.raises(DfnbError, match=re.escape(sentence)) as error:
        planning.plan("mine")
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
        planning.plan("mine")


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
        load(BASELINE, test_sets=["my-set"])
    write_profile(empty_home, {**SHARED, "test_sets": ["my-set"]})
    with pytest.raises(DfnbError, match=sentence):
        planning.plan("mine")


def test_a_profile_that_is_no_yaml_is_named(own_home):
    write_profile(own_home)
    path = own_home / "notebooks" / "profiles" / "mine.yaml"
    path.write_text("seeds:\n\t- x", encoding="utf-8")
    with pytest.raises(DfnbError, match=re.escape(str(path))) as error:
        planning.plan("mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shared", "notebook", "sentence"),
    [
        (SHARED, {"03_lae": {**SETTINGS, "perceptual_weight": 1.0}}, "perceptual_weight = 0"),
        ({**SHARED, "test_sets": ["ff-like"]}, None, "jpg could not"),
        (
            SHARED,
            {BASELINE: SETTINGS, "09_robustness": {"measured_on": "ff-like"}},
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
    printed = "".join(capfd.readouterr())
    assert "4 calls, 0 done" in printed
    commands = re.findall(r"^(?:Job \d+: )?(DFNB_THREADS=1 papermill .*)", printed, re.MULTILINE)
    plan = planning.plan("mine")
    planned = [*plan.trainings, *plan.shown]
    assert sorted(commands) == sorted(call.command for call in planned) and len(planned) == 4
    for call in planned:
        threads, program, notebook, output, *options = shlex.split(call.command)
        assert threads == "DFNB_THREADS=1" and program == "papermill"
        assert options[::3] == ["-p"] * (len(options) // 3)
        assert notebook.endswith(f"/{call.call.notebook}.ipynb")
        assert (own_home / output).parent.is_dir()
        passed = {name: _resolve_type(value) for name, value in zip(options[1::3], options[2::3])}
        assert dict(load(call.call.notebook, **passed)) == dict(call.parameters)


def test_what_no_call_makes_any_more_is_set_aside(own_home, capsys):
    """What is only left out stays, and so do runs of a paper or a training set that has left."""
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
    of_no_dataset = planted.write("mine", "xception", 0, detector=notebook, train_set="left")
    folder = files.report_folder("mine")
    weights = files.write_bytes(reports.weights_path(folder, "old"), b"weights")
    planning.set_replaced_aside(calls)
    stay = {kept, left_out, of_no_paper, of_no_dataset}
    assert {path.stem for path in reports.score_files(folder)} == stay
    assert {path.stem for path in folder.glob("replaced/scores/*")} == {*others}
    assert not weights.exists() and (folder / "replaced/weights" / weights.name).exists()
    assert capsys.readouterr().out.count("its files are now in") == 3


def test_faces_of_people_are_saved_where_git_ignores_them(own_home, monkeypatch):
    subprocess.run(["git", "init", "-q", own_home], check=True)
    write_profile(own_home, {**SHARED, "faces": "real"}, {"10_report": {}, BASELINE: SETTINGS})
    calls = planned()
    p = load(BASELINE, **injected(calls.shown[0]))
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


def test_a_report_without_the_scores_that_a_notebook_shows_is_refused():
    p = load("09_robustness", report="mine")
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
        measuring.measure_maps(of_maps.parameters)
        measuring.score_corrupted(of_corruptions.parameters)
    return home


def added(call):
    """Add a training to its report if nothing of it is missing, and say whether it was."""
    run = measuring.scored(call.parameters)
    if run:
        measuring.add(call.parameters, run)
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
    assert reports.profile_of("mine") == yaml.safe_load(profile)


def test_the_report_keeps_the_weights_of_the_notebook_that_is_shown(done, own_home):
    call = copied(done, own_home, "notebooks", "runs")
    run = measuring.open_or_train(call.parameters)
    shown = planned().shown[0].parameters
    for p, keeps in ((call.parameters, False), (shown, True)):
        p._is_shown = keeps
        reports.finish(BASELINE, p, records.Clock(), run=run)
        folder = files.report_folder("mine")
        assert reports.weights_path(folder, run.id).exists() == keeps
        assert reports.mean_mask_path(folder, run.id).exists() == keeps
        assert (own_home / reports.record_path("mine", BASELINE)).exists() == keeps


def test_an_unreadable_crop_fails_the_call_instead_of_losing_its_maps(done, own_home, monkeypatch):
    def unreadable(*_):
        raise DfnbError("a crop is damaged")

    call = copied(done, own_home, "notebooks", "runs")
    shutil.rmtree(own_home / "runs" / call.name / "scores")
    monkeypatch.setattr(measuring.measures, "as_batch", unreadable)
    with pytest.raises(DfnbError, match="a crop is damaged"):
        measuring.open_or_train(call.parameters)
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
    [("", {"portraits-val"}), ("apart: []", set()), ("apart: [portraits]", {"portraits"})],
)
def test_a_report_decides_what_its_means_leave_out(made, empty_home, profile, apart):
    """Without a profile that says so the manifests do."""
    run = StoredRun("x", planted.record("xception", train_set="other"))
    conditions = [Condition("portraits-val"), Condition("portraits")]
    measuring.ensure_scores(run, "mine", conditions)
    reports.keep("mine", run, conditions, [])
    content = f"description: mine\n{profile}\n"
    files.write_bytes(empty_home / "reports/mine/profile.yaml", content.encode())
    table = scores("mine", run, ["portraits-val", "portraits"])
    for _, rows in table.groupby("detector", observed=True):  # this run, and the report's
        is_averaged = rows["place"] == "cross-dataset"
        assert {*rows["test_set"]} - {*rows.loc[is_averaged, "test_set"]} == apart
    assert table["detector"].nunique() == 2


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
    p = load(BASELINE, **{**injected(call), **of_own})
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
    about, rows = read_about(path), files.read_table(path)[1]
    record = about.record.model_copy(update={"weights_sha256": 64 * "0"})
    rows["log_odds"] += 1
    write(path, rows, about.model_copy(update={"record": record}))
    before = path.read_bytes()
    p = load(BASELINE, **{**injected(call), "save": False})
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
    by_hand = {**injected(call), "save": False}
    run = measuring.open_or_train(load(BASELINE, **by_hand))
    assert "Nothing is kept in a report: save = True" in capsys.readouterr().out
    assert run.id == call.name
    other = load(BASELINE, **{**by_hand, "seed": 7, "test_sets": ["smoke-a"]})
    trained = measuring.open_or_train(other)
    assert trained.seed == 7 and trained.id != run.id
    p = load(BASELINE, **{**by_hand, "seed": 7})
    assert measuring.open_or_train(p).id == trained.id  # its other test set is scored now
    table = scores("mine", trained, ["smoke-a", "smoke-b"])
    own = table[table["detector"] == "this run"]
    assert {*own["test_set"]} == {"smoke-a", "smoke-b"} and {*own["seed"]} == {7}
    measured = maps("mine", trained, ["smoke-a"]).query("detector == 'this run'")
    assert {*measured["map"]} == {"Grad-CAM"}
    assert ("this run", 7) in thresholds("mine", trained)
    assert before == {path: path.stat().st_mtime_ns for path in (own_home / "reports").rglob("*")}
    refused = [{"seed": 7}, {"lr": 0.5}, {"test_sets": ["smoke-a"]}, {"report": "smoke"}]
    for change in refused:  # what the profile does not make
        with pytest.raises(DfnbError, match=r"none of the calls.*of your own, such as my-report"):
            load(BASELINE, **{**by_hand, "save": True, **change})


def test_a_report_with_a_profile_has_what_the_calls_of_the_profile_make(home):
    """Any other report is a reader's own; what only shows a report may be saved by anyone."""
    main = {"profile": "smoke", "seed": 0, "save": True}
    assert load(BASELINE, **main).folder == load(BASELINE, **main, report="smoke").folder
    assert load(BASELINE, **main, report="mine", lr=0.5).folder == home / "reports" / "mine"
    measured = {"report": "smoke", "save": True}
    assert load("08_attribution", **measured).frames == 4
    for notebook, change in (("08_attribution", {"frames": 3}), (BASELINE, {**main, "seed": 1})):
        with pytest.raises(DfnbError, match="comes with a profile, and this is none of the calls"):
            load(notebook, **{**measured, **change})
    not_in_profile = {"report": "study-ff-like", "save": True}
    assert load("07_cross_dataset", **not_in_profile).folder
    with pytest.raises(DfnbError, match="none of the calls that `dfnb run study-ff-like"):
        load("09_robustness", **not_in_profile)


def test_a_loop_makes_the_rows_of_a_profile(own_home):
    """Two seeds and a variant, by a profile and by a loop over notebooks."""
    slow = {"learning: slow": {"lr": 0.001}}
    write_profile(own_home, {**SHARED, "seeds": [0, 1]}, variants={BASELINE: slow})
    for call in trained().trainings:
        measuring.open_or_train(load(BASELINE, **{**injected(call), "report": "loop"}))
    ours, theirs = scores("mine"), scores("loop")
    pd.testing.assert_frame_equal(ours, theirs)
    assert [run.seed for run in detectors("loop")[0].runs] == [0, 1]
    assert [each.name for each in detectors("loop")] == ["Baseline", "Baseline, learning: slow"]


def test_the_values_and_what_was_changed_of_them_are_said(home, capsys):
    p = load(BASELINE, profile="study-ff-like")
    values, how_to_keep = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert how_to_keep.startswith("Nothing is kept")
    assert values.startswith("study-ff-like, main, seed 30: train_set ff-like-30, ")
    text = " ".join(values.split())
    assert "test_sets ['ff-like', 'ff-like-world-01', " in text and "], map_frames 0, " in text
    for name in papers.module(p.paper).Settings.model_fields.keys() & p.model_dump().keys():
        assert f" {name} {p.model_dump(mode='json')[name]}" in text
    own = {"test_sets": ["smoke-b", "celeb-df-v2"], "report": "mine", "save": True}
    p = load(BASELINE, profile="study-ff-like", seed=31, **own)
    left_out, *values, changed, about = capsys.readouterr().out.splitlines()
    assert values[0].startswith("study-ff-like, main, seed 31: train_set ff-like-31, ")
    assert "test_sets ['smoke-b'], map_frames 0" in " ".join(values)
    assert changed == "Changed: test_sets = ['smoke-b', 'celeb-df-v2']"
    assert about == "The texts describe the defaults."
    assert (
        left_out
        == "left out: celeb-df-v2: no split test is prepared, `dfnb data` says how to get it"
    )
    assert p.test_sets == ["smoke-b"]
    for name in ("train_set", "test_sets"):
        wrong = "smoke-bb" if name == "train_set" else ["smoke-a", "smoke-bb"]
        with pytest.raises(DfnbError, match=r"no dataset 'smoke-bb', .* did you mean smoke-b"):
            load(BASELINE, **{name: wrong})


def test_a_run_of_ones_own_has_the_name_of_its_variant(home):
    assert load(BASELINE, lr=0.0005).variants == []
    inpainting = {"profile": "study-tasks", "variant": "inpainting: main"}
    assert load(BASELINE, **inpainting, lr=0.5).variants == ["inpainting: main"]


plan_of = cache(planning.plan)  # that of a committed profile takes seconds


@pytest.mark.parametrize("notebook", papers.notebooks())
def test_the_defaults_open_the_committed_detector(notebook, checkout, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    cell = notebooks.literals(checkout / "notebooks" / f"{notebook}.ipynb")
    p = parameters.load(notebook, dict(cell))
    run_id = measuring.training_of(p).id
    (call,) = [call for call in plan_of(cell["profile"]).trainings if call.name == run_id]
    # Not call.done: its record has test sets that must be downloaded, too.
    assert (checkout / call.record).exists() and call.call.variant == "main"
    assert p.test_sets == ["portraits", "portraits-world-01", "portraits-world-02"]
    assert reports.weights_path(checkout / "reports" / cell["profile"], run_id).exists()


def test_a_missing_dataset_is_built_or_named(own_home):
    (own_home / "datasets").unlink()
    with pytest.raises(DfnbError, match="datasets/mine contains no finished dataset; make it with"):
        sources.ensure_datasets("mine")
    sources.ensure_datasets("smoke-b", "smoke-b")
    assert records.read_record(own_home / "datasets" / "smoke-b")


def test_the_record_of_a_notebook_holds_what_it_wrote(own_home):
    figure = files.write_bytes(own_home / "reports" / "mine" / "figures" / "a.png", b"png")
    for save in (False, True):
        p = load("07_cross_dataset", report="mine", save=save)
        cost = reports.finish("07_cross_dataset", p, records.Clock(), [figure], runs=["a"])
        assert cost["wall_s"] >= 0
        path = own_home / "reports" / "mine" / "records" / "07_cross_dataset.json"
        assert path.exists() == save
    record = files.read_json(path)
    assert record["parameters"] == {"report": "mine", "save": True} and record["runs"] == ["a"]
    assert record["outputs"] == {"a.png": files.sha256(figure)} and record["wall_s"] >= 0


# ---------------------------------------------------------------- GPUs


WITH_GPU = CHECKOUT / "workflow" / "with_gpu.py"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends with its parent")
def test_a_command_whose_parent_has_ended_already_does_not_begin():
    command = [sys.executable, WITH_GPU, "-1", sys.executable, "-c", "print('begun')"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and "has ended" in done.stderr


def test_each_call_has_a_gpu_of_its_own(tmp_path):
    shown = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); input();"
    shown += "print(os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set())"

    def start(**environment):
        command = [sys.executable, WITH_GPU, str(os.getpid())]
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
    in_slurm = start(SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0")
    assert in_slurm.stdout.readline() == "0\n"  # what a cluster hands out is left alone
    waiting = start()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    two.kill()
    assert waiting.stdout.readline() == "5\n"
    cpus = []
    for process in (one, waiting, in_slurm):
        output, _ = process.communicate("\n")
        cpus.append(ast.literal_eval(output.replace("set()", "()")))
    two.wait()
    of_one, of_waiting, in_cluster = map(set, cpus)
    assert in_cluster == of_one | of_waiting
    assert len(in_cluster) == 1 or not of_one & of_waiting  # each loads its images by its own share


def test_snakemake_reads_calls_whose_names_have_braces(own_home, capfd):
    """Such as ff-like-{seed}, which Snakemake would take for a wildcard."""
    workflow.run("study-ff-like", cores=1, dry_run=True)
    assert "DFNB_THREADS=1 papermill" in "".join(capfd.readouterr())
