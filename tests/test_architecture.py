"""How the code is organised: imports change nothing and go down the layers."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from dfnb import papers
from dfnb.results import tables

READERS = (
    "results.claims",
    "results.figures",
    "results.metrics",
    "results.own",
    "results.page",
    "results.published",
    "results.reading",
    "results.tables",
    "store.reports",
)
LAYERS = """
extras
device statistics
store
data
results
papers
training
attribution
library
running
cli
"""
# What cuts faces out of a user's files.
PREPARING = {f"facesets.{name}" for name in ("decode", "fetch", "prepare", "published", "videos")}
PAPERS = set(papers.modules())


def trees(checkout):
    """The syntax tree of each Python file of the packages and the workflow, by its path."""
    for folder in ("dfnb", "facesets", "workflow"):
        for path in sorted((checkout / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def run(code, *arguments, **options):
    """What a new process prints that runs this code."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_reads_files_loads_no_library_that_computes():
    code = f"""
import importlib, sys
for name in {READERS}:
    importlib.import_module(f"dfnb.{{name}}")
    loaded = {{"torch", "torchvision", "timm", "captum", "av"}} & set(sys.modules)
    assert not loaded, (name, loaded)
"""
    assert run(code) == ""


def test_importing_changes_nothing(tmp_path):
    """Neither torch's threads and flags nor what a folder of papers in the home has."""
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "surprise.py").write_text("raise SystemExit('imported')")
    code = """
import torch
def state():
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return torch.get_num_threads(), tf32, torch.are_deterministic_algorithms_enabled()
torch.set_num_threads(3)
before = state()
import dfnb.cli, dfnb.running.workflow
import dfnb.attribution.measures, dfnb.attribution.pictures
import dfnb.papers
print(before == state())
"""
    assert run(code, cwd=tmp_path) == "True\n"


def imports(tree, modules):
    """The modules, of all that there are, that a syntax tree imports, wherever it does so."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        yield from {*names} & modules.keys()


@pytest.fixture(scope="module")
def modules(checkout):
    """What each module imports of the packages: {module: {module, ...}}, packages included."""
    by_name = {}
    for path, tree in trees(checkout):
        parts = path.relative_to(checkout).with_suffix("").parts
        by_name[".".join(parts).removesuffix(".__init__")] = tree
    return {name: {*imports(tree, by_name)} for name, tree in by_name.items()}


def importing(modules, importers, imported):
    """What modules of ``importers`` import of ``imported``, which are modules or packages."""
    found = set()
    for name, others in modules.items():
        if name.split(".")[0] in importers:
            below = [other for other in others if {other, other.split(".")[0]} & imported]
            found |= {f"{name} imports {other}" for other in below}
    return found


def test_imports_go_down_the_layers(modules):
    """A module imports those of its own layer and of the layers before it; all modules have one."""
    layers = {}
    for number, line in enumerate(LAYERS.split("\n")):
        layers.update(dict.fromkeys(line.split(), number))
    upwards = []
    for name, others in modules.items():
        for other in others:
            if name.startswith("dfnb.") and other.startswith("dfnb."):
                below, above = (layers[module.split(".")[1]] for module in (name, other))
                if above > below:
                    upwards.append(f"{name} imports {other}")
    assert upwards == []


def test_no_module_imports_itself_by_way_of_others(modules):
    """A circle of files is none of rooms: it is looked for file by file, but for packages."""
    packages = {name.rpartition(".")[0] for name in modules}
    graph = {name: modules[name] - packages for name in modules.keys() - packages}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_a_package_knows_nothing_of_what_uses_it(modules):
    assert importing(modules, {"facesets"}, {"dfnb"}) == set()


def test_preparing_is_entered_by_its_doors_alone(modules):
    """What trains or reports imports nothing that cuts faces."""
    entering = {text.split()[0] for text in importing(modules, {"dfnb"}, PREPARING)}
    assert entering == {"dfnb.cli", "dfnb.library"}


def test_what_makes_datasets_loads_no_torch():
    code = """
import sys
import facesets.prepare, facesets.published, facesets.fetch, facesets.sources, facesets.audit
print(sorted({"torch", "torchvision", "timm", "dfnb"} & set(sys.modules)))
"""
    assert run(code) == "[]\n"


def test_general_code_has_the_name_of_no_paper(checkout):
    """Detectors describe themselves. A backbone of timm may have the name of a paper's module.

    Tables know which paper is the plain classifier that others are compared with.
    """
    knowing = []
    for path, tree in trees(checkout):
        if path.stem in PAPERS:
            continue
        for node in ast.walk(tree):
            names = {getattr(node, field, None) for field in ("id", "attr", "arg", "value", "name")}
            knowing += [f"{path.name} {name}" for name in names & PAPERS]
    assert knowing == [f"tables.py {tables.BASELINE}"]


def test_nothing_is_unpickled_and_only_downloads_are_unpacked(checkout):
    """tests/test_fetch.py has an archive with names that lead elsewhere."""
    for path, tree in trees(checkout):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called.split(".")[0] not in ("pickle", "shelve", "tarfile"), path
                assert called.split(".")[-1] not in ("unpack_archive", "Unzip", "Untar"), path
                if called.split(".")[-1] == "extractall":
                    assert path == checkout / "facesets/fetch.py"
                assert options.get("allow_pickle", "False") == "False", path
                assert called != "torch.load" or options["weights_only"] == "True", path


def test_a_detector_is_trained_and_scored_without_what_windows_lacks(tmp_path, checkout):
    """As by the commands of .github/workflows/ci.yml there, and by a notebook.

    In a home without files of locks: without fcntl, filelock takes one that is there for locked.
    """
    lacking = ["fcntl", "grp", "pwd", "resource", "termios"]
    support = str(checkout / "tests" / "support")
    code = f"""
import sys
import warnings
warnings.simplefilter("ignore")  # filelock says what it lacks
sys.path.append({support!r})
sys.modules.update(dict.fromkeys({lacking}))
from typer.testing import CliRunner
from dfnb import cli
from dfnb.papers import module
from dfnb.training import scoring, train
from networks import small_settings
for command in (["doctor"], ["data"], ["synth", "smoke-a"]):
    result = CliRunner().invoke(cli.commands, command)
    assert result.exit_code == 0, result.output
settings = small_settings(module("xception"), epochs=1, images_per_epoch=16, batch_size=8)
run = train.train(train.make_training("xception", "smoke-a", settings, 0, None, None))
assert len(scoring.score(run, "smoke-a"))
"""
    run(code, env={**os.environ, "DFNB_HOME": str(tmp_path)})


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_is_content(checkout, command):
    ruff = [sys.executable, "-m", "ruff", *command, "."]
    done = subprocess.run(ruff, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
