"""The rules of the house: imports go down one list, what reads results computes none, and the code stays small and plain."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "dfnb"

# A module imports only from those above it. Names on one line may import one another, but in no circle.
ORDER = """
core
data.frames
data.sources
data.faces
data.prepare
data.audit
data
synth.people
synth.forgeries
synth.build
synth
papers
papers.backbones
papers.released
PAPERS
metrics
corrupt
train
scores
attribution.maps
attribution.measures
attribution
compare
tables figures
page
jobs
cli
"""
RANK = {name: rank for rank, line in enumerate(ORDER.split("\n")) for name in line.split()}
READERS = ("compare", "tables", "page")  # they only read the files of a report
LIBRARIES = {"torch", "torchvision", "lightning_fabric", "timm", "captum"}
COMPUTING = ("dfnb.train", "dfnb.corrupt", "dfnb.attribution", "dfnb.synth")
STARTING = {"score", "corrupted", "keep", "pack", "predict", "network"}

# Never raised: what does not fit is taken out.
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 60
DRAWING = "synth.people"  # the drawing of faces may be longer


def name_of(path):
    """``data.frames`` for dfnb/data/frames.py, ``papers`` for dfnb/papers/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree):
    """The full names of all modules that a module imports, wherever it does so, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("dfnb.") in TREES
                yield (full if is_module else node.module), node.lineno


def within(tree):
    """The modules of the package that a module imports, as in ``ORDER``."""
    found = [
        (name.removeprefix("dfnb").removeprefix("."), line)
        for name, line in imported(tree)
        if name.split(".")[0] == "dfnb"
    ]
    return [(name, line) for name, line in found if name]


def rank(name):
    is_paper = name.startswith("papers.") and name not in RANK
    return RANK.get("PAPERS" if is_paper else name)


def code_lines(node, text):
    """Lines of code of a node: no blank lines, comments or docstrings."""
    documented = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
            documented |= set(range(part.lineno, part.end_lineno + 1))
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(text))
    lines = ((number, text[number - 1].strip()) for number in range(first, last + 1))
    return sum(bool(line) and not line.startswith("#") and number not in documented for number, line in lines)


def source(name):
    path = PACKAGE / f"{name.replace('.', '/')}.py"
    path = path if path.exists() else PACKAGE / name.replace(".", "/") / "__init__.py"
    return path.read_text(encoding="utf-8").splitlines()


def test_imports_go_down_the_list():
    wrong = []
    for name, tree in TREES.items():
        if name:  # dfnb/__init__.py imports nothing
            assert rank(name) is not None, f"{name} has no place in the house"
        for other, line in within(tree):
            if not name or rank(other) > rank(name) or (rank(other) == rank(name) == RANK["PAPERS"]):
                wrong.append(f"{name or '__init__'}:{line} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_imports_make_no_circle():
    graph = {name: {other for other, _ in within(tree)} - {name} for name, tree in TREES.items()}
    TopologicalSorter(graph).prepare()


def test_nothing_but_the_command_imports_the_jobs():
    importers = {name for name, tree in TREES.items() for other, _ in within(tree) if other == "jobs"}
    assert importers <= {"cli"}


@pytest.mark.parametrize("reader", READERS)
def test_what_reads_results_computes_none(reader):
    """From modules that compute, only classes and constants; and none of the functions that start a computation."""
    tree = TREES[reader]
    assert not LIBRARIES & {name.split(".")[0] for name, _ in imported(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            full = {node.module, *(f"{node.module}.{name}" for name in names)}
            computing = any(name.startswith(COMPUTING) for name in full)
            assert not computing or all(name[0].isupper() for name in names), f"{reader}:{node.lineno} imports {names}"
            assert node.module != "dfnb.scores" or not STARTING & names, f"{reader}:{node.lineno} imports {names}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in STARTING, f"{reader}:{node.lineno} calls {node.func.attr}"


@pytest.mark.parametrize(
    "code", ["import dfnb", "import sys; sys.argv = ['dfnb', '--help']; from dfnb.cli import app; app()"]
)
def test_the_start_loads_neither_torch_nor_pandas(code):
    check = (
        f"import atexit, sys; atexit.register(lambda: print(sorted({{'torch', 'pandas'}} & set(sys.modules)))); {code}"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_starts_without_what_windows_lacks():
    lacking = {"fcntl", "grp", "pwd", "resource", "termios"}
    for name, tree in TREES.items():
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not lacking & {found for node in at_once for found, _ in imported(node)}, name
    code = (
        f"import sys; sys.modules |= dict.fromkeys({lacking}); from dfnb import cli, core; print(core.Clock().facts())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "'peak_memory_mb': 0}" in done.stdout, done.stderr


def test_nothing_is_unpacked_and_no_pickle_is_run():
    for name, tree in TREES.items():
        assert not {"pickle", "tarfile"} & {found for found, _ in imported(tree)}, name
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called, options = ast.unparse(call.func), {key.arg: ast.unparse(key.value) for key in call.keywords}
            assert called.rpartition(".")[2] not in {"unpack_archive", "extractall"}, f"{name}: {called}"
            assert options.get("allow_pickle", "False") == "False", f"{name}: {called}"
            assert called not in {"torch.load", "fabric.load"} or options["weights_only"] == "True", f"{name}: {called}"


def test_files_stay_small():
    lines = {name: code_lines(tree, source(name)) for name, tree in TREES.items()}
    assert not {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FILE and name != DRAWING}


def functions():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


def test_functions_stay_short():
    long = {
        f"{name}.{node.name}": code_lines(node, source(name))
        for name, node in functions()
        if name != DRAWING and code_lines(node, source(name)) > MOST_LINES_OF_A_FUNCTION
    }
    assert not long


COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def depth(node, kind):
    """How many nodes of a kind lie in one another, at most."""
    deepest = max((depth(child, kind) for child in ast.iter_child_nodes(node)), default=0)
    return deepest + isinstance(node, kind)


def in_calls(tree):
    """Assignments by := within the arguments of a call."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        arguments = [*call.args, *call.keywords]
        yield from (node for part in arguments for node in ast.walk(part) if isinstance(node, ast.NamedExpr))


@pytest.mark.parametrize("name", TREES)
def test_nothing_is_packed(name):
    nodes = list(ast.walk(TREES[name]))
    conditional = [node for node in nodes if isinstance(node, ast.IfExp) and depth(node, ast.IfExp) > 1]
    packed = [f"{name}:{node.lineno} nests conditional expressions" for node in conditional]
    comprehensions = [node for node in nodes if isinstance(node, COMPREHENSIONS) and depth(node, COMPREHENSIONS) > 2]
    packed += [f"{name}:{node.lineno} nests three comprehensions" for node in comprehensions]
    packed += [f"{name}:{node.lineno} assigns within a call" for node in in_calls(TREES[name])]
    assert not packed, "\n".join(packed)
