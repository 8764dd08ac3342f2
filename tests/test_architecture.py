"""How the code is organised: imports change nothing and go down the layers; files are small."""

import ast
import subprocess
import sys
from pathlib import Path

import count_tokens
import pytest

READERS = ("claims", "figures", "measure", "page", "scores", "statistics", "tables", "tools")
LAYERS = """
settings
seeds
files
records
data
synth
report
papers training
attribution
library
running
cli
"""
MOST_GENERAL = 47_600  # tokens and words
MOST_OF_TESTS = 78_780  # tokens
PER_LINE = 9  # tokens, on average


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
    importlib.import_module(f"dfnb.report.{{name}}")
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
import dfnb.cli, dfnb.running.jobs, dfnb.running.cost, dfnb.running.workflow
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
    for code in count_tokens.package(checkout):
        part = Path(*code.path.relative_to(checkout).parts[1:2]).stem
        if code.path.is_relative_to(checkout / "dfnb") and part != "__init__":
            for name in imports(code.tree):
                if layers[name.split(".")[0]] > layers[part]:
                    upwards.append(f"{part} imports {name}")
    assert upwards == []


def test_general_code_has_the_name_of_no_paper(checkout):
    """Detectors describe themselves."""
    knowing = []
    for code in count_tokens.package(checkout):
        if count_tokens.is_general(code.path):
            for token in code.tokens:
                is_library = "timm" in token.line  # whose network has the same name
                if token.string.strip("'\"") in count_tokens.PAPERS and not is_library:
                    knowing.append(f"{code.path.name}:{token.start[0]} {token.string}")
    assert knowing == []


def test_nothing_is_unpickled_or_unpacked(checkout):
    for code in count_tokens.package(checkout):
        for node in ast.walk(code.tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called.split(".")[0] not in ("pickle", "tarfile", "shelve"), code.path
                assert called.split(".")[-1] not in ("unpack_archive", "extractall"), code.path
                assert options.get("allow_pickle", "False") == "False", code.path
                assert called != "torch.load" or options["weights_only"] == "True", code.path


def test_the_package_starts_without_what_windows_lacks():
    lacking = ["fcntl", "grp", "pwd", "resource", "termios"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({lacking}))
import dfnb.cli, dfnb.records
"""
    assert run(code) == ""


with_its_tokenize = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="its tokenize splits f-strings"
)


@with_its_tokenize
def test_general_code_is_small(checkout):
    files = count_tokens.package(checkout)
    assert count_tokens.general(files, checkout) <= MOST_GENERAL


@with_its_tokenize
def test_a_line_of_code_is_short(checkout):
    files = count_tokens.package(checkout)
    tokens = sum(len(code.tokens) for code in files)
    assert tokens / sum(code.lines for code in files) <= PER_LINE


@with_its_tokenize
def test_files_functions_and_tests_are_small(checkout):
    files = count_tokens.package(checkout)
    assert sum(len(code.tokens) for code in count_tokens.tests(checkout)) <= MOST_OF_TESTS
    long_files = {code.path.name: code.lines for code in files if code.lines > 400}
    assert long_files == {}
    long_functions = {}
    for code in files:
        for name, lines in code.function_lines().items():
            if lines > 40:
                long_functions[f"{code.path.name}, {name}"] = lines
    assert long_functions == {}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_is_content(checkout, command):
    ruff = [sys.executable, "-m", "ruff", *command, "."]
    done = subprocess.run(ruff, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
