"""What the base installation and each extra can do without the modules of the others.

In processes in which these cannot be imported, as if they were not installed.
"""

import re
import subprocess
import sys
import tomllib

import nbformat
import pytest

from dfnb.extras import EXTRAS
from dfnb.running import execution
from facesets.checks import DfnbError

# Modules that do not have the name of their package.
MODULES = {"opencv-python-headless": "cv2", "scikit-learn": "sklearn"}
# Of another extra, but a package of this one needs them.
BROUGHT = {"lab": {"joblib", "tqdm"}}
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(code, cwd, *installed):
    """A process in which the base and these extras are installed, and no other."""
    blocked = {module for modules in EXTRAS.values() for module in modules}
    for extra in installed:
        blocked -= {*EXTRAS[extra], *BROUGHT.get(extra, ())}
    command = [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def printed(code, cwd, *installed):
    """What such a process prints, if it ends well."""
    done = run(code, cwd, *installed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_extras_are_those_of_the_project(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    for extra, modules in EXTRAS.items():
        listed = project["optional-dependencies"][extra]
        packages = {re.split("[<>=]", each)[0] for each in listed if not each.startswith("dfnb[")}
        assert {MODULES.get(each, each.replace("-", "_")) for each in packages} == {*modules}


def test_the_base_measures_scores_and_reads_a_report(checkout, empty_home):
    """The numbers and the table of a committed report, and a figure of them."""
    code = """
import dfnb
table = {"label": [0, 0, 1, 1], "score": [0.2, 0.6, 0.4, 0.9]}
assert dfnb.measure(table)["value"].item() == dfnb.auc(table)["value"] == 0.75
from pathlib import Path
from dfnb import results
from dfnb.results import claims, figures, metrics, published, tables
rows = tables.by_place(tables.main(results.scores("study-ff-like", test_sets=["ff-like"])))
tables.save(tables.pivot(rows), rows, Path("reports/mine"), "numbers", "Video AUC")
figures.style()
figures.show(figures.forest(rows), Path("reports/mine"), "forest", "Video AUC", has_frames=False)
"""
    printed(code, empty_home)
    mine = empty_home / "reports" / "mine"
    assert (mine / "figures" / "forest.png").stat().st_size > 10_000
    made = rows_of(mine / "tables" / "numbers.md")
    committed = rows_of(checkout / "reports/study-ff-like/tables/cross_dataset.md")
    assert [*made] == [name for name in committed if "×" not in name]
    for detector, cells in made.items():
        assert committed[detector][:1] == cells[:1]


def rows_of(path):
    """The cells of a table in Markdown, by its first column."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "|" in line][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}


@pytest.mark.parametrize(
    ("installed", "command", "extra"),
    [
        ([], ["data"], "prepare"),
        ([], ["synth", "smoke-a"], "prepare"),
        (["prepare"], ["run", "smoke"], "lab"),
        (["prepare", "lab"], ["run", "smoke"], "train"),
        (["prepare", "train"], ["run", "smoke"], "lab"),
        (["prepare", "train"], ["report", "study-ff-like"], "lab"),
    ],
)
def test_a_command_names_the_extra_that_is_missing(checkout, installed, command, extra):
    code = f"import sys; sys.argv = ['dfnb', *{command}]; from dfnb import cli; cli.app()"
    done = run(code, checkout, *installed)
    (sentence,) = done.stderr.splitlines()
    assert done.returncode == 1 and f"pip install '.[{extra}]'" in sentence


def test_a_function_names_the_extra_that_is_missing(checkout):
    done = run("import dfnb; dfnb.predict", checkout)
    assert "DfnbError: this needs " in done.stderr and "[train]" in done.stderr


@pytest.mark.parametrize(
    ("module", "sentence"), [("cv2", r"\.\[prepare\]"), ("mine", "shows where it failed: Module")]
)
def test_a_notebook_names_the_extra_that_is_missing(module, sentence, tmp_path):
    code = f"""raise ModuleNotFoundError("No module named '{module}'")"""
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with pytest.raises(DfnbError, match=sentence):
        execution.execute_notebook(content, tmp_path / "executed.ipynb", {})


def test_what_prepares_lists_the_published_datasets(checkout):
    code = "from dfnb import cli; cli.commands(['data'])"
    assert "faceforensics-c23" in printed(code, checkout, "prepare")


def test_what_trains_opens_a_detector(checkout):
    code = """
import dfnb, torch
model = dfnb.create_model("baseline.portraits")
print(model(torch.zeros(1, 3, 128, 128)).shape)
"""
    assert "torch.Size([1, 2])" in printed(code, checkout, "prepare", "train")


def test_a_lab_compares_detectors_without_torch(checkout):
    """The first cells of notebook 07, which import all that it needs."""
    cells = nbformat.read(checkout / "notebooks" / "07_cross_dataset.ipynb", 4).cells
    codes = [cell.source for cell in cells if cell.cell_type == "code"]
    code = "\n".join([*codes[:3], "print(p.report)"])
    assert printed(code, checkout / "notebooks", "lab").endswith("study-portraits\n")
