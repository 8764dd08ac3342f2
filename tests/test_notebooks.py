"""Notebooks as functions of their parameters, executed in this process.

Every notebook with its defaults, in the checkout: it opens the committed detectors, trains nothing
and changes no tracked file. Papers' notebooks with the parameters that their own texts print, in a
home of their own: *this run* comes first, with its own numbers.
"""

import ast
import itertools
import re
import shlex
import shutil
import subprocess
from collections import Counter

import clips
import nbformat
import numpy as np
import profiles
import pytest
import yaml
from conftest import CHECKOUT
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import notebooks
from dfnb import cli, papers, results
from dfnb.running import measuring, parameters
from dfnb.training import train
from facesets import manifests, prepare
from facesets.frames import load_frames

pytestmark = pytest.mark.usefixtures("figures_without_a_screen")
NAMES = [path.stem for path in sorted((CHECKOUT / "notebooks").glob("*.ipynb"))]
TABULATING = ("07_cross_dataset", "08_attribution", "09_robustness", "10_report")
LOOP_OF_SHELL = re.compile(r"^for (\w+) in (\S+)[^\n]*; do\n(.*?)^done", re.MULTILINE | re.DOTALL)
PROFILE = re.compile(r"(?ms)^```yaml\n# notebooks/profiles/(\S+)\.yaml\n(.*?)^```")
COMMAND = re.compile(r"^ *papermill notebooks/(\w+)\.ipynb \S+(.*?)(?:#.*)?$", re.MULTILINE)
# In place of the sizes of the committed detectors, which train for minutes, and of their bfloat16,
# which a processor may have to emulate.
TINY = {
    "epochs": 1,
    "images_per_epoch": 64,
    "precision": "32-true",
    "map_frames": 4,
    "train_set": "smoke-a",
    "test_sets": ["smoke-b"],
}


# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize("name", NAMES)
def test_run_all_opens_what_is_committed(name, checkout, monkeypatch):
    def refuse(*_):
        raise AssertionError("a default notebook trains")

    monkeypatch.setattr(train, "fit", refuse)
    status = ["git", "status", "--porcelain", "--untracked-files=no", "--", "reports"]
    before = subprocess.run(status, cwd=checkout, capture_output=True, text=True).stdout
    shown, _ = notebooks.execute(name, checkout)
    assert "The texts describe" not in "".join(shown)
    check_numbers(name, shown)
    after = subprocess.run(status, cwd=checkout, capture_output=True, text=True).stdout
    assert after == before


@pytest.mark.parametrize("name", NAMES)
def test_papermill_explains_each_parameter(name):
    from papermill.inspection import inspect_notebook

    path = CHECKOUT / "notebooks" / f"{name}.ipynb"
    explained = inspect_notebook(path)
    assert explained.keys() == notebooks.literals(path).keys()  # it skips other annotations
    for parameter in explained.values():
        assert parameter["inferred_type_name"] not in (None, "None"), parameter
        assert parameter["help"], parameter


@pytest.mark.parametrize("name", NAMES)
def test_cells_can_be_run_again_in_any_order(name):
    """No cell assigns a parameter, and none reads a name that two others assign anew."""
    read, assigned = {}, {}
    for cell in nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            read[cell.id], assigned[cell.id] = notebooks.names_of(cell.source)
            if "parameters" in notebooks.tags(cell):
                assigned[cell.id] = set()
    fields = {*parameters.schema(name).model_fields, *parameters.DESCRIBED}
    assert not {each: names & fields for each, names in assigned.items() if names & fields}
    anew = Counter(itertools.chain(*(assigned[each] - read[each] for each in assigned)))
    twofold = {key for key, count in anew.items() if count > 1}
    assert not {each: names & twofold for each, names in read.items() if names & twofold}


@pytest.mark.parametrize("name", papers.notebooks())
def test_committed_cells_are_the_same_for_every_run(name):
    """So tests with other parameters leave them out: they need no other cell, and none needs them.

    They may read the name of the report, and where its figures are saved.
    """
    of_others, of_committed = set(), set()
    for cell in nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            read, assigned = (names - {"saved"} for names in notebooks.names_of(cell.source))
            if "committed" in notebooks.tags(cell):
                assert not read & of_others - {"p"}, cell.id
                used = re.findall(r"\bp\b(?:\.(\w+))?", cell.source)
                assert {*used} <= {"report", "paper", "folder", "folder_of"}, cell.id
                of_committed |= assigned
            else:
                assert not read & of_committed, cell.id
                of_others |= assigned - imported(cell.source)


# Texts below outputs that are true of every run, by the id of their cell.
OF_EVERY_RUN = {
    "02_xception_baseline": {"step-loop", "step-question", "step-order"},
    "03_lae": {"cell-23", "bfec547a"},
    "04_locate_and_verify": {"cell-17"},
    "05_exposing_the_deception": {"cell-6"},
}
WHOSE = re.compile("default|committed|`study-|published|by hand|one training", re.I)


@pytest.mark.parametrize("name", papers.notebooks())
def test_what_is_said_below_an_output_says_of_which_run_it_is(name):
    """A reader may have another one before them: its numbers stand above texts about ours."""
    before, unsaid = None, set()
    for cell in nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", 4).cells:
        follows = (
            before and before.cell_type == "code" and "committed" not in notebooks.tags(before)
        )
        first = cell.source.partition("\n\n")[0]
        if cell.cell_type == "markdown" and follows and not first.startswith("#"):
            unsaid |= set() if WHOSE.search(first) else {cell.id}
        before = cell
    assert unsaid == OF_EVERY_RUN[name]


@pytest.mark.parametrize("name", papers.notebooks())
def test_no_other_cell_needs_what_a_few_steps_leave(name):
    """So tests may leave these cells out."""
    of_others, of_steps = set(), set()
    for cell in nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            read, assigned = notebooks.names_of(cell.source)
            if "steps" in notebooks.tags(cell):
                of_steps |= assigned
            else:
                of_others |= read
    assert not of_steps & of_others


def imported(code):
    """The names that a cell imports."""
    parts = [
        part for part in ast.walk(ast.parse(code)) if isinstance(part, ast.Import | ast.ImportFrom)
    ]
    return {alias.asname or alias.name for part in parts for alias in part.names}


# ---------------------------------------------------------------- standard error


def execute_cell(code, folder):
    """A notebook with this cell alone, executed as all others here."""
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(content, folder / "one_cell.ipynb")
    return notebooks.execute("one_cell", folder, folder)


@pytest.mark.parametrize(
    "code",
    [
        "import warnings; warnings.warn('remark')",
        "import warnings; warnings.warn('remark', DeprecationWarning)",
        "import logging; logging.getLogger('a library').warning('remark')",
        "import sys; print('remark', file=sys.stderr)",
        "import os; _ = os.write(2, b'remark')",  # as FFmpeg and OpenCV do
    ],
)
def test_a_remark_on_standard_error_fails_a_notebook(code, tmp_path):
    with pytest.raises(AssertionError, match="remark"):
        execute_cell(code, tmp_path)


def test_progress_on_standard_error_fails_none(tmp_path):
    code = "import sys; from tqdm import tqdm\n"
    code += "for _ in tqdm(range(2), 'smoke-a', file=sys.stderr, unit=' films', ncols=80): pass"
    assert execute_cell(code, tmp_path)


# ---------------------------------------------------------------- other parameters


def small(name):
    """Parameters that train in seconds, besides those of the notebook's own cell."""
    return {**TINY, **({"representation_epochs": 1} if name == "03_lae" else {})}


def printed_commands():
    """The papermill commands in notebooks and documents: (notebook, parameters).

    Of those that are the same at the sizes of a test, but for seed and report, the first.
    """
    documents = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")]
    texts = [path.read_text("utf-8") for path in sorted(documents)]
    for path in sorted(CHECKOUT.glob("notebooks/*.ipynb")):
        cells = nbformat.read(path, 4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    found = {}
    # Of a loop, the first pass.
    once = LOOP_OF_SHELL.sub(lambda loop: loop[3].replace(f"${loop[1]}", loop[2]), "\n".join(texts))
    for notebook, options in COMMAND.findall(once):
        changes = parameters_of(options)
        same = {*TINY, "representation_epochs", "seed", "report", "save"}
        key = {name: value for name, value in changes.items() if name not in same}
        found.setdefault(f"{notebook}-{key}", (notebook, changes))
    return found


def parameters_of(options):
    """What papermill makes of ``-p name value``, ``-r name value`` and ``-y yaml``."""
    words = shlex.split(options)
    values = {}
    while words:
        option = words.pop(0)
        if option == "-y":
            values |= yaml.safe_load(words.pop(0))
        elif option in ("-p", "-r"):
            key, text = words.pop(0), words.pop(0)
            values[key] = yaml.safe_load(text) if option == "-p" else text
    return values


COMMANDS = printed_commands()


@pytest.fixture(scope="module")
def own(tmp_path_factory, smoke_home):
    """A home without a report, where the small datasets and the documents' profiles are there."""
    home = tmp_path_factory.mktemp("own")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    (home / "notebooks" / "profiles").mkdir(parents=True)
    for path in CHECKOUT.glob("docs/*.md"):
        for name, text in PROFILE.findall(path.read_text("utf-8")):
            (home / "notebooks" / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return home


@pytest.mark.parametrize(("name", "changes"), COMMANDS.values(), ids=[*COMMANDS])
def test_every_printed_papermill_command_works_in_an_empty_home(name, changes, own):
    if name not in papers.notebooks():
        pytest.skip("executed with its defaults, and on a report")
    # Sizes and datasets are small ones; smoke-tasks has more frames, of which a share is annotated.
    parameters = {**small(name), **changes, **small(name)}
    if changes.get("profile") == "paper":  # whose networks need a GPU and their weights
        parameters["profile"] = "smoke"
    if changes.get("train_set") in manifests.published_names():
        parameters.pop("seen_methods", None)  # those of another dataset
    elif "seen_methods" in changes:
        parameters["seen_methods"] = ["FaceSwap-like"]
    if "annotated" in changes:
        parameters["train_set"] = "smoke-tasks"
    check_this_run(name, own, parameters)


def test_the_committed_reading_opens_with_its_phase_one_and_trains_nothing(own):
    _, names = notebooks.execute("03_lae", own)
    run = names["trained"]
    assert run.settings.attention_map == "sigmoid" and names["first"].id == run.record.start
    assert run.has_training_frames and not run.folder.exists()


def check_this_run(name, home, parameters, steps=False):
    """The run that the notebook shows has its parameters; its table and its scores agree."""
    shown, names = notebooks.execute(name, home, steps=steps, **parameters)
    assert "The texts describe the defaults." in "".join(shown)
    assert "Empty DataFrame" not in "".join(shown)
    run = names["trained"]
    for key in {"seed", "train_set"} & parameters.keys():
        assert getattr(run.parameters, key) == parameters[key]
    table = names["main"]
    assert table["detector"].cat.categories[0] == "this run"
    of_set = table[(table["detector"] == "this run") & (table["test_set"] == "smoke-b")]
    assert {*of_set["seed"]} == {run.seed}
    (measured,) = results.measure(of_set, "AUC", "detector", "test_set")["value"]
    assert np.isclose(measured, roc_auc_score(of_set["label"], of_set["score"]))
    return run


@pytest.mark.parametrize("name", [name for name in papers.notebooks() if name[:2] != "04"])
def test_another_backbone_is_another_run(name, own):
    parameters = {**small(name), "backbone": "test_resnet", "pretrained": False}
    run = check_this_run(name, own, parameters, steps=True)
    assert run.parameters.settings["backbone"] == "test_resnet"


LOOP = {"report": "loop", "save": True}
FEW = {
    "08_attribution": {"other_maps": [], "frames": 4, "sanity_frames": 4},
    "09_robustness": {"corruptions": ["JPEG"], "videos": 8},
}


def test_a_loop_of_papermill_is_a_study(own, monkeypatch):
    """Three seeds of one paper and another one of another in a report, which 07 and 10 tabulate."""
    for name, seeds in (("02_xception_baseline", (0, 1, 2)), ("05_exposing_the_deception", (3,))):
        for seed in seeds:
            notebooks.execute(name, own, **{**small(name), "seed": seed, **LOOP})
    monkeypatch.setenv("DFNB_HOME", str(own))
    found = [(each.name, len(each.runs)) for each in results.detectors("loop")]
    assert found == [("Baseline", 3), ("Exposing the Deception", 1)]
    for name in ("07_cross_dataset", "10_report"):
        shown, _ = notebooks.execute(name, own, **LOOP)
        text = "\n".join(shown)
        assert "Baseline" in text and "this run" not in text and "Empty DataFrame" not in text
        assert "Not compared with Baseline: Exposing the Deception (no shared seed)." in text
    assert not list((own / "reports").glob("study*"))
    record = own / "reports" / "loop" / "records" / "10_report.json"
    assert record.exists()


def test_a_report_of_two_detectors_is_measured_and_shown_without_save(own, monkeypatch):
    """Texts about a study stay away, and differences subtract one of them."""
    report = {"report": "two"}
    for changes in ({"augmentation": "released"}, {}):
        parameters = {**changes, **small("02_xception_baseline"), **report, "save": True}
        notebooks.execute("02_xception_baseline", own, **parameters)
    monkeypatch.setenv("DFNB_HOME", str(own))
    plain = "Baseline, augmentation light"
    found = [each.name for each in results.detectors("two")]
    assert found == [plain, "Baseline, augmentation released"]
    few = {**FEW, "08_attribution": {**FEW["08_attribution"], "other_maps": ["edges"]}}
    for name in TABULATING:
        shown, names = notebooks.execute(name, own, **few.get(name, {}), **report)
        text = "\n".join(shown)
        assert "In `study-" not in text and "The texts describe" not in text
        assert names.get("plain", plain) == plain
    assert {*results.maps("two")["map"]} == {"Grad-CAM", "edges", "random"}
    assert not (own / "reports" / "two" / "figures").exists()


def check_numbers(name, shown):
    """Each number such as .918 or [−.044, .004] in the prose is shown, or stands in the code."""
    texts = [*shown]
    prose = []
    for cell in nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", 4).cells:
        (prose if notebooks.is_prose(cell) else texts).append(cell.source)
    printed = numbers_in("\n".join(texts))
    known = {round(value, 3) for value in printed}
    known |= {round(value, digits) for value in printed for digits in (1, 2)}
    missing = set()
    for text in prose:
        for number in re.findall(r"(?<![\d.\w])[−-]?\.\d{2,3}(?!\d)", NO_PROSE.sub(" ", text)):
            value = float(number.replace("−", "-"))
            if abs(value) not in known and value not in known:
                missing.add(number)
    assert missing <= CONSTANTS, (name, missing)


NO_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", re.DOTALL)
# Levels of significance, limits and rules that the texts explain.
CONSTANTS = {".05", ".025", ".02", ".01"}


def numbers_in(text):
    """All decimal numbers of a text, without their sign."""
    return [float(number) for number in re.findall(r"\d*\.\d+", text)]


# ---------------------------------------------------------------- own data at its poorest


@pytest.fixture(scope="module")
def poorest(tmp_path_factory, smoke_home):
    """A home with crops of the reader's own: no masks, one method, few clips, no identities.

    One clip is in two splits.
    """
    home = tmp_path_factory.mktemp("poorest")
    with notebooks.working_in(smoke_home):
        frames = load_frames("smoke-a")
    for row in frames.itertuples():
        kind = "fake/mine" if row.label else "real"
        clip = home / "crops" / row.split / kind / row.video.replace("/", "-")
        clip.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row.path, clip / f"{row.frame:03d}.png")
    leaked = next((home / "crops" / "train" / "real").iterdir())
    shutil.copytree(leaked, home / "crops" / "test" / "real" / "leaked")
    with notebooks.working_in(home):
        words = ["prepare", "face-crops", "my-videos", "--root", str(home / "crops")]
        done = CliRunner().invoke(cli.commands, words)
        assert done.exit_code == 0, done.output
    return home


OWN = {"report": "own", "save": True}


def test_own_data_at_its_poorest_runs_from_the_folder_to_the_page(poorest, monkeypatch, capfd):
    """One detector, one seed, one test set, without masks: all notebooks, none stops."""
    own = {"train_set": "my-videos", "test_sets": ["my-videos"], **OWN}
    parameters = {**small("02_xception_baseline"), **own}
    shown, names = notebooks.execute("02_xception_baseline", poorest, **parameters)
    assert {*names["main"]["test_set"]} == {"my-videos"} and "energy" not in names["main"]
    count = len(list(poorest.glob("crops/test/real/leaked/*")))
    total = len(list((poorest / "crops" / "test").rglob("*.png")))
    leak = f"Leak: {count} of {total} frames of my-videos are also in the training set my-videos"
    assert leak in "\n".join(shown)
    for name in ("00_start_here", *TABULATING[:-1]):
        notebooks.execute(name, poorest, **{**FEW.get(name, {}), **OWN})
    shown, _ = notebooks.execute("01_data", poorest, **OWN, datasets=["my-videos"])
    assert "not known" in "\n".join(shown)
    _, names = notebooks.execute("06_real_faces", poorest, **OWN, clips="my-videos")
    counts = names["by_clip"].groupby("label").size()
    first = next(iter(names["at_hand"]))
    assert names["at_hand"][first]["real called fake"].endswith(f" of {counts[0]}")
    assert len(names["scored"][first]) == counts.sum()
    monkeypatch.setenv("DFNB_HOME", str(poorest))
    (detector,) = results.detectors("own")
    assert detector.name == "Baseline"
    pictures = poorest / "reports" / "own" / "figures"
    assert (pictures / f"attribution_{detector.runs[0].id}.png").exists()
    capfd.readouterr()
    done = CliRunner().invoke(cli.commands, ["report", "own"])
    page = poorest / "reports" / "own" / "index.html"
    shown = page.read_text("utf-8")
    assert done.output == f"report: {page}\n" and leak in shown
    assert "intervals over videos" in shown and "over people." not in shown
    assert "eavesdropping" not in capfd.readouterr().err


def test_four_lines_lead_from_a_folder_of_clips_to_a_page(empty_home, monkeypatch):
    """Those of ``docs/your-data.md`` as they are written, but for the length of the training."""
    text = (CHECKOUT / "docs" / "your-data.md").read_text("utf-8")
    (lines,) = re.findall(r"^```bash\n(dfnb prepare CLIPS .*?)^```", text, re.DOTALL | re.MULTILINE)
    for number, split in enumerate(("train", "val", "test")):
        for kind in ("real", "fake/swap"):
            for each in range(2):
                path = empty_home / "CLIPS" / split / kind / f"{each}.mp4"
                clips.write(path, clips.moving(12, 40 + 20 * number + 9 * each + len(kind)))
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    monkeypatch.chdir(empty_home)
    short = {name: TINY[name] for name in ("epochs", "images_per_epoch", "precision")}
    printed = ""
    for line in lines.splitlines():
        program, *words = shlex.split(line)
        if program == "dfnb":
            done = CliRunner().invoke(cli.commands, words)
            assert done.exit_code == 0, done.output
            printed += done.output
        else:
            name, changes = COMMAND.match(line).groups()
            of_run = short if name in papers.notebooks() else {}
            notebooks.execute(name, empty_home, **of_run, **parameters_of(changes))
    page = empty_home / "reports" / "my-report" / "index.html"
    assert printed.endswith(f"report: {page}\n") and "test/swap: 24 frames of 2 videos" in printed
    shown = page.read_text("utf-8")
    assert "Baseline" in shown
    for name in ("real/0", "real/1", "fake/swap/0", "fake/swap/1"):
        assert f"test/{name}</" in shown  # a clip, beside its P(fake)
    assert (
        shown.count("<img") == 2 and "ROC of videos" in shown and "P(fake) of the frames" in shown
    )
    for absent in ("Holm", "ensemble", "mean-mask", "Variants", "There is no", "no numbers"):
        assert absent not in shown
    (table,) = page.parent.glob("tables/cross_dataset.md")
    assert "original/forged videos 2/2" in table.read_text("utf-8")


@pytest.mark.parametrize("name", ["03_lae", "04_locate_and_verify"])
def test_papers_that_learn_from_masks_run_without(poorest, name):
    own = {"train_set": "my-videos", "test_sets": ["my-videos"], "report": "without-masks"}
    notebooks.execute(name, poorest, steps=True, **{**small(name), **own, "annotated": 0.0})


def test_the_profile_of_the_documents_trains_on_own_data(poorest, monkeypatch):
    """As it is written, but for fewer images."""
    text = (CHECKOUT / "docs" / "your-data.md").read_text("utf-8")
    profile = dict(PROFILE.findall(text))["three-detectors"]
    monkeypatch.setenv("DFNB_HOME", str(poorest))
    path = poorest / "notebooks" / "profiles" / "three-detectors.yaml"
    path.parent.mkdir(parents=True)
    short = profile.replace("epochs: 8", "epochs: 1").replace("2400", "32")
    path.write_text(short, encoding="utf-8")
    calls = profiles.planned("three-detectors")
    assert len(calls.trainings) == 9 and {*TABULATING} < {call.name for call in calls.shown}
    for call in calls.trainings:
        p = call.parameters
        if p.seed == 0 and "main" in p.variants:
            measuring.open_or_train(p)
            assert call.done
