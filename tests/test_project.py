"""What a stranger meets: two files that list the same packages, a small package, no traces of a machine, no dead links."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter

import yaml

from dfnb import core, papers, synth
from dfnb import jobs as run


def tracked(checkout):
    listed = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True)
    if listed.returncode:
        return [path for path in checkout.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [checkout / name for name in listed.stdout.splitlines() if (checkout / name).exists()]


def test_environment_yml_lists_what_pyproject_lists(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    listed = yaml.safe_load((checkout / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    by_conda = {entry for entry in listed if isinstance(entry, str)}
    python = f"python{project['requires-python']}"
    assert {*by_conda, *by_pip} - {python, "pip"} == wanted
    assert python in by_conda


def test_the_lock_satisfies_pyproject_and_names_no_host(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lock = (checkout / "requirements.lock").read_text()
    locked = {line.split("==")[0].lower() for line in lock.splitlines() if "==" in line and not line.startswith(" ")}
    names = {re.split(r"[<>=]", entry)[0] for entry in project["dependencies"]}
    assert names <= locked
    assert "://" not in lock


def test_the_package_stays_thin(checkout):
    """Lines of code: no blank lines, comments or docstrings."""
    total = 0
    for path in (checkout / "dfnb").rglob("*.py"):
        text = path.read_text()
        documented = set()
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                documented |= set(range(node.lineno, node.end_lineno + 1))
        lines = enumerate(map(str.strip, text.splitlines()), 1)
        total += sum(bool(line) and not line.startswith("#") and number not in documented for number, line in lines)
    assert total < 6200


def test_ruff_is_content(checkout):
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=checkout, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_no_tracked_file_names_a_machine_or_is_large(checkout):
    home = re.compile(r"/(root|home/\w+|Users/\w+)/")
    totals = Counter()
    for path in tracked(checkout):
        size = path.stat().st_size
        assert size < 3 * 2**20, path
        totals["/".join(path.relative_to(checkout).parts[:2])] += size
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".json", ".csv", ".html", ".txt", ".cff"}:
            text = path.read_text()
            assert not home.search(text), f"{path} names a path of a machine"
            assert str(checkout) not in text, f"{path} names this checkout"
    assert totals["reports/demo"] < 25 * 2**20 and totals["reports/study"] < 48 * 2**20


def test_links_in_the_documents_lead_somewhere(checkout):
    import nbformat

    documents = {path: path.read_text() for path in [checkout / "README.md", *checkout.glob("*/README.md")]}
    for path in (checkout / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        documents[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in documents.items():
        for target in re.findall(r"\]\(([^)#]+)\)|<img src=\"([^\"]+)\"", text):
            name = target[0] or target[1]
            if "://" not in name:
                assert (path.parent / name).exists(), f"{path.name} links to {name}"


def test_readme_names_commands_that_exist(checkout):
    readme, makefile = (checkout / "README.md").read_text(), (checkout / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", readme, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = {
        name
        for line in subprocess.run(
            [sys.executable, "-m", "dfnb.cli", "--help"], capture_output=True, text=True
        ).stdout.splitlines()
        for name in line.split()
    }
    for command in set(re.findall(r"^dfnb (\w+)", readme, re.MULTILINE)):
        assert command in commands, command


def test_what_the_registries_name_is_there(checkout):
    for paper in papers.PAPERS:
        module = papers.module(paper)
        assert module.__doc__ and module.Settings and module.Network
    for notebook in [*papers.NOTEBOOKS, *run.OTHERS]:
        assert (checkout / "notebooks" / f"{notebook}.ipynb").exists()
    for name in core.described("synth"):
        synth.preset(name)
