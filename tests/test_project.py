"""What a stranger meets: two files that list the same packages, a small package, no traces of a machine, no dead links."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from urllib.parse import unquote

import cv2
import pytest
import yaml

from dfnb import cli, core, jobs, papers, synth


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
    python = f"python{project['requires-python']},<3.14"  # of newer ones not every package has a build
    assert {*by_conda, *by_pip} - {python, "pip", "-e ."} == wanted
    assert python in by_conda and "-e ." in by_pip  # the package itself


def test_the_lock_satisfies_pyproject_and_names_no_host(checkout):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lock = (checkout / "requirements.lock").read_text()
    locked = {line.split("==")[0].lower() for line in lock.splitlines() if "==" in line and not line.startswith(" ")}
    names = {re.split(r"[<>=]", entry)[0] for entry in project["dependencies"]}
    assert names <= locked
    assert "://" not in lock


def test_ruff_is_content(checkout):
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=checkout, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_no_tracked_file_names_a_machine_and_the_tree_is_small(checkout):
    home = re.compile(r"/(root|home/\w+|Users/\w+)/")
    sizes = {}
    for path in tracked(checkout):
        sizes[path] = path.stat().st_size
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".json", ".csv", ".html", ".txt", ".cff"}:
            text = path.read_text(encoding="utf-8")
            assert not home.search(text), f"{path} names a path of a machine"
            assert str(checkout) not in text, f"{path} names this checkout"
    study = {path: size for path, size in sizes.items() if (checkout / "reports" / "study") in path.parents}
    assert sum(sizes.values()) < 40 * 2**20
    assert sum(study.values()) < 24 * 2**20 and len(study) <= 200


def test_links_in_the_documents_lead_somewhere(checkout):
    import nbformat

    documents = {path: path.read_text() for path in [*checkout.glob("*.md"), *checkout.glob("*/README.md")]}
    for path in (checkout / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        documents[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in documents.items():
        for target in re.findall(r"\]\(([^)#]+)\)|<img src=\"([^\"]+)\"", text):
            name = target[0] or target[1]
            if "://" not in name:
                assert (path.parent / name).exists(), f"{path.name} links to {name}"
        for name, heading in re.findall(r"\]\(([^)#]*\.md)?#([^)]+)\)", text) if path.suffix == ".md" else ():
            headings = re.findall(r"^#+ (.*)", (path.parent / name).read_text() if name else text, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert heading in anchors, f"{path.name} links to {name}#{heading}"


def test_the_readme_links_the_executed_notebooks_that_are_committed(checkout):
    readme = (checkout / "README.md").read_text()
    for path in (checkout / "reports" / "study" / "notebooks").glob("*.ipynb"):
        if path in tracked(checkout):
            assert f"(reports/study/notebooks/{path.name})" in readme, path.name


def test_links_of_the_committed_page_lead_to_what_is_committed(checkout):
    page = checkout / "reports" / "study" / "index.html"
    links = re.findall(r'(?:href|src)="([^"#][^"]*)"', page.read_text(encoding="utf-8"))
    files, known = [page.parent / unquote(link) for link in links if not link.startswith("data:")], tracked(checkout)
    assert files and {*files} <= {*known}


def test_the_picture_of_the_readme_can_be_drawn_again(tmp_path, monkeypatch):
    import readme_figure

    monkeypatch.setenv("DFNB_HOME", str(tmp_path))  # and put back afterwards
    monkeypatch.setattr(readme_figure, "COLUMNS", 1)
    readme_figure.main(tmp_path / "picture.png")
    assert min(cv2.imread(str(tmp_path / "picture.png")).shape[:2]) > 300


def test_one_version_stands_in_pyproject_and_all_others_follow(checkout):
    version = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((checkout / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## \[([^\]]+)\]", (checkout / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version


def test_the_documents_name_commands_that_exist(checkout):
    readme = (checkout / "README.md").read_text() + (checkout / "CONTRIBUTING.md").read_text()
    makefile = (checkout / "Makefile").read_text()
    for target in set(re.findall(r"^make ([\w-]+)", readme, re.MULTILINE)):
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
    for paper in papers.names():
        module = papers.module(paper)
        assert module.__doc__ and module.Settings and module.Network and module.VERSION
        assert re.fullmatch(r"#[0-9a-f]{6}", module.PAPER.colour) and len(module.PAPER.marker) == 1
    for notebook in [*papers.notebooks(), *jobs.NOTEBOOKS]:
        assert (checkout / "notebooks" / f"{notebook}.ipynb").exists()
    for name in core.described("synth"):
        synth.preset(name)


@pytest.fixture(scope="module")
def installed(checkout, tmp_path_factory):
    """The wheel, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_works_in_an_empty_folder(installed, tmp_path):
    """Manifests, notebooks and workflow come with it."""

    def dfnb(*arguments):
        environment = {name: value for name, value in os.environ.items() if name != "DFNB_HOME"}
        environment |= {"PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", "dfnb.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    code = "import dfnb; print(dfnb.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
    )
    assert str(installed) in where.stdout.decode()
    data = dfnb("data")
    assert data.returncode == 0 and "faceforensics-c23" in data.stdout
    wrong = dfnb("run", "dmeo")
    assert wrong.returncode == 1 and "there are demo, development, paper, smoke, study" in wrong.stderr
    made = dfnb("synth", "smoke-b", "--workers", "2")
    assert made.returncode == 0 and (tmp_path / "datasets" / "smoke-b" / "record.json").exists()
    assert (installed / "dfnb" / "share" / "workflow" / "Snakefile").exists()


def test_a_demo_leaves_the_checkout_clean(checkout):
    """What the demo writes is ignored, but for the evidence that is committed on purpose."""
    if not (checkout / ".git").exists():
        pytest.skip("git alone knows what it ignores")
    written = ["reports/demo/index.html", "reports/smoke/results.parquet", "runs/x/record.json", "datasets/x/a.npy"]
    written += [
        "reports/development/scores/x.parquet",
        "reports/development/tables/x.csv",
        "reports/study/tables/x.csv",
    ]
    for path in [*written, "reports/study/figures/x.pdf", "models/x.onnx", ".snakemake/log/x", ".venv/bin/python"]:
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=checkout).returncode == 0, path
    evidence = ["study/results.parquet", "study/scores/x.parquet", "study/tables/x.md", "study/figures/x.png"]
    for path in [*evidence, "benchmarks/x.csv", "development/results.parquet", "development/tables/x.md"]:
        assert subprocess.run(["git", "check-ignore", "-q", f"reports/{path}"], cwd=checkout).returncode == 1, path


def test_the_runs_of_a_paper_in_the_committed_study_are_of_one_code(checkout):
    path = checkout / "reports" / "study" / "runs.json"
    entries = core.read_json(path) if path.exists() else {}
    codes = {
        (entry["paper"], run["environment"]["code"]) for entry in entries.values() for run in entry["runs"].values()
    }
    assert len(codes) == len({paper for paper, _ in codes})
    for name, sha256 in (item for entry in entries.values() for item in entry["files"].items()):
        assert core.sha256(path.parent / name) == sha256, name


def test_contributing_names_every_parameter_and_hook_of_a_paper(checkout):
    text = (checkout / "CONTRIBUTING.md").read_text()
    section = text.partition("\n## A new paper")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:Settings\.|Network\.)?([a-z_0-9]+)", section))
    hooks = {name for kind in (papers.Settings, papers.Network) for name in vars(kind) if not name.startswith("_")}
    hooks -= {"model_config", "transform"}  # of pydantic; with a default that holds for all
    assert {*jobs.TrainingParameters.model_fields, *papers.Settings.model_fields, *hooks} - {
        "paper",
        "settings",
    } <= named


def test_the_workflow_of_the_code_host_fits_its_schema_and_calls_what_exists(checkout, tmp_path):
    file = checkout / ".github/workflows/ci.yml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    assert subprocess.run([*command, file], capture_output=True).returncode == 0
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(file.read_text().replace("runs-on", "runs_on"))
    assert subprocess.run([*command, wrong], capture_output=True).returncode == 1
    commands = set(re.findall(r"^ +dfnb (\w+)", file.read_text(), re.MULTILINE))
    assert commands and commands <= {
        command.name or command.callback.__name__ for command in cli.app.registered_commands
    }
    systems = yaml.safe_load(file.read_text())["jobs"]["wheel"]["strategy"]["matrix"]["os"]
    assert {name.partition("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}
    targets = re.findall(r"make (\w+)", file.read_text())
    assert targets and set(targets) <= set(re.findall(r"^(\w+):", (checkout / "Makefile").read_text(), re.MULTILINE))
    lowest = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["requires-python"]
    matrix = yaml.safe_load(file.read_text())["jobs"]["tests"]["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == lowest
