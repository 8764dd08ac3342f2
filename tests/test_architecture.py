"""How the code is organised: imports change nothing and go down the layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dfnb import papers
from dfnb.report import tables

READERS = (
    "report.claims",
    "report.figures",
    "report.metrics",
    "report.own",
    "report.page",
    "report.published",
    "report.reading",
    "report.tables",
    "store.reports",
)
LAYERS = """
checks
device seeds
files
records statistics
store
data
report
papers
training
attribution
preparing
library
running
cli
"""
PAPERS = set(papers.modules())


def trees(checkout):
    """The syntax tree of each Python file of the packages and the workflow, by its path."""
    for folder in ("dfnb", "drawnfaces", "workflow"):
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
    """Neither torch's threads and flags nor where modules are found."""
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
print(before == state(), len(list(dfnb.papers.__path__)))
"""
    assert run(code, cwd=tmp_path) == "True 1\n"


def imports(tree):
    """The modules of the package that a module imports, wherever it does so, without ``dfnb.``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("dfnb."):
                    yield alias.name.removeprefix("dfnb.")
        if isinstance(node, ast.ImportFrom) and node.module == "dfnb":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("dfnb."):
            yield node.module.removeprefix("dfnb.")


def test_imports_go_down_the_layers(checkout):
    """A module imports those of its own layer and of the layers before it; all modules have one."""
    layers = {}
    for number, line in enumerate(LAYERS.split("\n")):
        layers.update(dict.fromkeys(line.split(), number))
    upwards = []
    for path, tree in trees(checkout):
        part = Path(*path.relative_to(checkout).parts[1:2]).stem
        if path.is_relative_to(checkout / "dfnb") and part != "__init__":
            for name in imports(tree):
                if layers[name.split(".")[0]] > layers[part]:
                    upwards.append(f"{part} imports {name}")
    assert upwards == []


def test_preparing_is_entered_by_its_door_alone(checkout):
    """What trains or reports imports nothing of ``dfnb.preparing``."""
    entering = set()
    for path, tree in trees(checkout):
        part = path.relative_to(checkout).parts[1]
        if path.is_relative_to(checkout / "dfnb") and part != "preparing":
            entering |= {path.name for name in imports(tree) if name.startswith("preparing")}
    assert entering == {"cli.py", "library.py"}


def test_the_drawn_faces_know_nothing_of_what_uses_them(checkout):
    """``drawnfaces`` imports nothing of ``dfnb``, also inside functions."""
    knowing = []
    for path, tree in trees(checkout):
        if path.is_relative_to(checkout / "drawnfaces"):
            for node in ast.walk(tree):
                names = [alias.name for alias in getattr(node, "names", [])]
                names.append(getattr(node, "module", None) or "")
                knowing += [path.name for name in names if name.split(".")[0] == "dfnb"]
    assert knowing == []


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
                    assert path == checkout / "dfnb/preparing/fetch.py"
                assert options.get("allow_pickle", "False") == "False", path
                assert called != "torch.load" or options["weights_only"] == "True", path


def test_the_package_starts_without_what_windows_lacks():
    lacking = ["fcntl", "grp", "pwd", "resource", "termios"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({lacking}))
import dfnb.cli, dfnb.records
"""
    assert run(code) == ""


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_is_content(checkout, command):
    ruff = [sys.executable, "-m", "ruff", *command, "."]
    done = subprocess.run(ruff, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
