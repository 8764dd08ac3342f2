"""What a stranger meets: lists of packages that agree, links that lead somewhere, a small tree."""

import ast
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from urllib.parse import unquote
from urllib.request import urlopen

import clips
import nbformat
import pandas as pd
import pytest
import yaml
from lab import served
from typer.main import get_command

import notebooks
from dfnb import cli, papers
from dfnb.extras import EXTRAS
from dfnb.papers import contract
from dfnb.results import tables
from dfnb.running import parameters, profiles
from facesets import files, manifests

TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".json", ".csv", ".html", ".txt", ".cff"}
COMMANDS = set(get_command(cli.commands).commands)
# The tables of texts whose every cell is compared with the reports: where, and how many columns.
TABLES = [
    ("README.md", "## What was found", 4),
    ("docs/results.md", "## Video AUC", 2),
    ("docs/results.md", "## Size, time", 3),
]
# What the rows of a report's table are called in documents; empty: as the place.
WHAT = {"cross_dataset": "", "differences": "", "false_positive_rate": "false positive rate"}

# What the columns of README's table are called, by place.
COLUMNS = {
    "in-dataset": "portraits",
    "cross-dataset": "12 simulated cameras",
    "ff-like-160": "photographs of real people",
    "hidf-sample": "real swaps",
}


@pytest.fixture(scope="module")
def project(checkout):
    return tomllib.loads((checkout / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def tracked(checkout):
    """The files of the project; of an unpacked archive without git, all."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    names = listed.stdout.split("\0")
    if listed.returncode:
        names = [path for path in checkout.rglob("*") if ".venv" not in path.parts]
    return {checkout / name for name in names if name and (checkout / name).is_file()}


def test_the_lists_of_packages_agree(checkout, project):
    environment = yaml.safe_load((checkout / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    by_conda = [entry for entry in environment if isinstance(entry, str)]
    extras = [project["optional-dependencies"][name] for name in (*EXTRAS, "test")]
    named = {*project["dependencies"], *itertools.chain(*extras)}
    listed = {each for each in named if not each.startswith("dfnb[")}
    beside = {f"python{project['requires-python']},<3.14", "pip", "-e ."}
    assert {*by_conda, *by_pip} == listed | beside
    assert named - listed == {"dfnb[prepare]", "dfnb[train,lab]"}
    lock = (checkout / "requirements.lock").read_text()
    locked = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    assert {re.split("[<>=]", name)[0] for name in listed} <= set(locked)
    assert "://" not in lock


def test_no_file_names_a_machine_and_the_tree_is_small(checkout, tracked):
    home = re.compile(r"/(root|home/\w+|Users/\w+)/")
    for path in tracked:
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            assert not home.search(text) and str(checkout) not in text, path
    # Of it in MB the weights of four detectors: 42.
    assert sum(path.stat().st_size for path in tracked) < 100e6


def text_of(path):
    """A document, or the text of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = nbformat.reads(text, 4).cells
    return "\n".join(cell.source for cell in cells if notebooks.is_prose(cell))


def test_links_lead_somewhere(checkout):
    """In the documents and in the text of the notebooks; headings, too."""
    kinds = ["*.md", "*/README.md", "docs/*.md", "docs/site/*.md"]
    kinds += ["reports/study*/README.md", "notebooks/*.ipynb"]
    for path in [path for kind in kinds for path in checkout.glob(kind)]:
        for target in re.findall(r"\]\((?!https?:)([^)\s\\]+)\)", text_of(path)):
            name, _, heading = target.partition("#")
            linked = path.parent / name if name else path
            assert linked.exists(), f"{path} links to {target}"
            if heading:  # Jupyter's anchors keep capitals and punctuation, those of Markdown do not
                heading = re.sub(r"[^\w-]", "", heading.lower())
                headings = re.findall(r"^#+ (.*)", text_of(linked), re.MULTILINE)
                plain = [
                    re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings
                ]
                assert heading in plain, f"{path} links to {target}"


def test_every_committed_record_is_of_a_commit(checkout):
    commits = {}
    for path in (checkout / "reports").glob("*/records/*.json"):
        commits[path] = json.loads(path.read_text("utf-8"))["environment"]["commit"]
    assert len(commits) > 200
    assert not [path for path, commit in commits.items() if commit.endswith("-dirty")]


def test_the_committed_report_is_linked_and_whole(checkout, tracked):
    for page in sorted((checkout / "reports").glob("study*/index.html")):
        folder = page.parent / "notebooks"  # the base of its links
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:<a [^>]*href|src)="([^"#][^"]*)"', text):
            target = (folder / unquote(link.partition("#")[0])).resolve()
            assert link.startswith("data:") or target in tracked, link


def table_of(text):
    """The cells of the first Markdown table of a text, by column and detector."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return pd.DataFrame(rows, columns=header).set_index("detector")


def cells_of(checkout):
    """What a text's table may show: (detector, column) -> cell, from the committed reports."""
    cells = {}
    results = pd.read_parquet(checkout / "reports/study-portraits/results.parquet")
    for row in results.query("table in ('cross_dataset', 'apart')").itertuples():
        cell = tables.cell(row.value, row.low, row.high).replace("\u00a0", " ")
        cells[row.detector, COLUMNS[row.place]] = cell
    report = checkout / "reports/study-ff-like"
    cells |= table_of((report / "tables/compared.md").read_text()).stack().to_dict()
    results = pd.read_parquet(report / "results.parquet").query("minus == '' and table in @WHAT")
    for row in results.itertuples():
        what = WHAT[row.table] or row.place
        if what == "in-dataset" or row.place == "cross-dataset":
            cell = tables.cell(row.value, row.low, row.high).replace("\u00a0", " ")
            cells[row.detector, f"forged photographs: {what}"] = cell
    return cells


@pytest.mark.parametrize(("name", "heading", "columns"), TABLES)
def test_tables_in_texts_have_the_numbers_of_the_committed_reports(
    checkout, name, heading, columns
):
    text = (checkout / name).read_text(encoding="utf-8")
    shown = table_of(re.split(r"\n##+ ", text.partition(heading)[2])[0]).drop(
        columns="fidelity", errors="ignore"
    )
    cells = cells_of(checkout)
    assert shown.shape[1] == columns and len(shown) >= 5
    for (detector, column), cell in shown.stack().items():
        missing = "–" if name == "docs/results.md" else "not trained"
        assert cell == cells.get((detector, column), missing), (detector, column)


def numbers_in(text):
    """The decimal numbers of a text with their signs, and those with an interval as one."""
    bare = re.sub(r"(?<![\d.])0\.", ".", text.replace("−", "-").replace("\u00a0", " "))
    number = r"[+-]?\d*\.\d+"
    return set(re.findall(rf"(?<![\w.]){number}(?: \[{number}, {number}\])?(?![\w.+])", bare))


def numbers_of(path):
    """Those of a file that a text links to; of a CSV as its table would print them."""
    rows = pd.read_csv(path) if path.suffix == ".csv" else pd.DataFrame()
    if "value" not in rows:
        return numbers_in(path.read_text(encoding="utf-8"))
    found = set()
    for row in rows.itertuples():
        shown = tables.cell(row.value, row.low, row.high, str(row.minus).replace("nan", ""))
        found |= numbers_in(shown)
    return found


@pytest.mark.parametrize(
    "name", ["README.md", "docs/results.md", "docs/methods.md", "reports/README.md"]
)
def test_every_number_of_a_text_is_in_a_table_that_it_links_to(checkout, name):
    """In its paragraph, its item or its row, but for the TABLES."""
    path = checkout / name
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = text.partition("\n## Withdrawn studies\n")[0]  # whose tables are in the history alone
    for _, heading, _ in [table for table in TABLES if table[0] == name]:
        before, section = text.split(heading)
        table = re.search(r"(^\|.*\n)+", section, re.MULTILINE)[0]
        text = before + section.replace(table, "")
    for block in re.split(r"\n(?=[|-]|\s*\n)", text):
        linked = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", block)
        files = [path.parent / each for each in linked if each.endswith((".md", ".yaml", ".csv"))]
        known = {number for each in files for number in numbers_of(each)}
        assert numbers_in(re.sub(r"\]\([^)]*\)", "]", block)) <= known, block


def judged_claims(checkout):
    """Every claim that was tested: of the committed studies, and of those that were withdrawn."""
    paths = checkout.glob("reports/study-*/tables/claims.csv")
    tested = [pd.read_csv(path).query("p_gain.notna()") for path in paths]
    return pd.concat([*tested, pd.read_csv(checkout / "reports/withdrawn.csv")])


def test_texts_count_the_verdicts_of_all_judged_claims(checkout):
    """README counts all; results apart those on interpretations that pass no test."""
    claims = judged_claims(checkout)
    readme = " ".join((checkout / "README.md").read_text(encoding="utf-8").split())
    said = re.search(r"Of \d+ claims, [^.]*\*undecided\*", readme)[0]
    results = (checkout / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*" + r"\| (\d+) " * 5 + r"\|$", results, re.MULTILINE)
    assert len(rows) == 2
    # Of LAE, what the first two studies trained.
    is_apart = claims["paper"].isin(["lae", "self_blended_images"])
    is_apart &= claims["study"].isin(["study-bed", "study-papers"])
    verdicts = ["better", "worse", "no material gain", "undecided"]
    for of_kind, row in zip((claims[~is_apart], claims[is_apart]), rows):
        counts = of_kind["verdict"].value_counts().reindex(verdicts, fill_value=0)
        assert counts.sum() == len(of_kind)
        assert row == (str(len(of_kind)), *counts.astype(str))
    total = [len(claims), *claims["verdict"].value_counts().reindex(verdicts, fill_value=0)]
    assert [int(number) for number in re.findall(r"\d+", said)] == total


def test_every_withdrawn_claim_has_its_row(checkout):
    claims = pd.read_csv(checkout / "reports/withdrawn.csv").fillna({"minus": ""})
    shown = claims[["study", "detector", "minus", "claim"]].assign(
        difference=[cell.replace("\u00a0", " ") for cell in tables.cells(claims)],
        **{name: claims[name].map(tables.p_text) for name in ("p_gain", "p_worse", "p_small_gain")},
        verdict=claims["verdict"],
        detectable=claims["detectable"].map("{:.3f}".format),
        seeds=claims["of_seeds"].map(ast.literal_eval).map(tables.ranges),
    )
    text = (checkout / "reports" / "README.md").read_text(encoding="utf-8")
    withdrawn = text.partition("\n## Withdrawn studies\n")[2]
    lines = [line for line in withdrawn.splitlines() if line.startswith("| study-")]
    assert lines == [f"| {' | '.join(row)} |" for row in shown.to_numpy()]


def test_the_table_of_studies_counts_their_trainings(checkout):
    text = (checkout / "reports" / "README.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.partition("\n## Withdrawn studies\n")[0].splitlines():
        if line.startswith("| study-"):
            study, _, _, trainings, *_ = (cell.strip() for cell in line.strip("|").split("|"))
            rows[study] = trainings.partition(",")[0]
    studies = {path.parent for path in checkout.glob("reports/study-*/results.parquet")}
    assert {study.name for study in studies} == rows.keys()  # without those that still train
    for study in studies:
        assert rows[study.name] == str(len([*study.glob("scores/*.parquet")]))


def test_open_questions_name_settings_and_their_values(checkout):
    """The numbers of what is taken are defaults of these settings or values of the profile."""
    text = (checkout / "docs" / "open-questions.md").read_text(encoding="utf-8")
    sections = re.findall(r"^File: \[(\w+)\.py\].*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(sections) == 3
    for section in re.split(r"^File: \[", text, flags=re.MULTILINE)[1:]:
        paper = section.partition(".py")[0]
        notebook = papers.module(paper).PAPER.notebook
        known = papers.module(paper).Settings().model_dump()
        known |= dict.fromkeys(parameters.TrainingParameters.model_fields)
        known |= profiles.read("paper").notebooks[notebook]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert rows
        for row in rows:
            _, taken, settings = row.strip("|").split("|")
            named = set(re.findall(r"`([a-z_]+)`", settings)) - {"prepare"}
            assert named <= known.keys(), row
            values = [value for name in named for value in numbers_under(known[name])]
            for number in re.findall(r"(?<![\w.-])\d*\.?\d+(?:e-\d)?(?! %)", taken):
                assert float(number) in values, (row, number)


def numbers_under(value):
    """The numbers of a setting: itself, its parts or those in a name, such as resnet18."""
    if isinstance(value, str):
        return [float(number) for number in re.findall(r"\d+", value)]
    if isinstance(value, tuple | list):
        return [float(each) for each in value if isinstance(each, int | float)]
    return [float(value)] if isinstance(value, int | float) else []


def test_what_is_not_as_released_in_study_recipe_is_in_its_table(checkout):
    departing = set()
    for notebook, stated in profiles.read("study-recipe").notebooks.items():
        if paper := papers.of_notebook(notebook):
            Settings = papers.module(paper).Settings
            changes = {name: stated[name] for name in stated.keys() & Settings.model_fields.keys()}
            here = Settings.check(changes, notebook).model_dump()
            released = Settings().model_dump()
            departing |= {name for name in released if here[name] != released[name]}
    text = (checkout / "reports/study-recipe/README.md").read_text(encoding="utf-8")
    rows = text.partition("\n## ")[0].splitlines()
    settings = [row.split("|")[1] for row in rows if row.startswith("|")]
    assert {*re.findall(r"`(\w+)`", " ".join(settings))} == departing


def test_the_methods_have_the_committed_differences_from_the_released_codes(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout / "benchmarks")
    import released

    table = released.as_markdown(pd.read_csv(released.FILE))
    assert len(table.splitlines()) == 6
    assert table in (checkout / "docs" / "methods.md").read_text(encoding="utf-8")


def test_texts_have_the_committed_coverage_of_intervals(checkout):
    (file,) = (checkout / "reports" / "benchmarks").glob("coverage-*.csv")
    shares = pd.read_csv(file).set_index("case")["coverage"]
    texts = {}
    for name in ("benchmarks/README.md", "docs/methods.md"):
        texts[name] = (checkout / name).read_text(encoding="utf-8")
        assert f"/reports/benchmarks/{file.name})" in texts[name]
    for case, share in shares.items():
        row = f"| {case} | {f'{share:.3f}'.removeprefix('0')} |"
        assert row in texts["benchmarks/README.md"]
    ends = f"{100 * shares.min():.0f} to {100 * shares.max():.0f} %"
    assert f"the true value in {ends} of studies" in texts["docs/methods.md"]


def test_one_version_stands_everywhere(checkout, project):
    changes = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([^\]]+)\]", changes, re.MULTILINE)[1]
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest == citation["version"] == project["version"]


def test_documents_and_the_code_host_name_commands_that_exist(checkout, project):
    workflows = sorted((checkout / ".github" / "workflows").glob("*.yml"))
    documents = [*checkout.glob("*.md"), *checkout.glob("docs/*.md")]
    texts = [path.read_text(encoding="utf-8") for path in (*documents, *workflows)]
    targets = re.findall(r"^([\w-]+):", (checkout / "Makefile").read_text(), re.MULTILINE)
    for text in texts:
        assert set(re.findall(r"^\s*(?:- run: )?make ([\w-]+)", text, re.MULTILINE)) <= {*targets}
        assert set(re.findall(r"^\s*dfnb ([a-z]+)", text, re.MULTILINE)) <= COMMANDS
    schema = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    subprocess.run([sys.executable, "-m", *schema, *workflows], check=True, capture_output=True)
    tested = yaml.safe_load(texts[-1])["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert f">={tested[0]}" == project["requires-python"]


def printed_commands(checkout):
    """The dfnb commands of documents and notebooks that stand on a line of their own."""
    for path in [
        *checkout.glob("*.md"),
        *checkout.glob("*/*.md"),
        *checkout.glob("notebooks/*.ipynb"),
    ]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, 4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            yield from re.findall(r"(?:^|&& )dfnb (.*?)(?: &&| *#|$)", block, re.MULTILINE)


def test_every_printed_dfnb_command_has_arguments_that_exist(checkout, monkeypatch):
    """Profiles, notebooks and datasets are known; what a command does has tests of its own."""
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    group = get_command(cli.commands)
    lines = sorted(set(printed_commands(checkout)))
    assert len(lines) > 20
    texts = [path.read_text(encoding="utf-8") for path in checkout.glob("docs/*.md")]
    own = {*re.findall(r"^# notebooks/profiles/(\S+)\.yaml$", "\n".join(texts), re.MULTILINE)}
    for line in lines:
        name, *words = shlex.split(line.split(" > ")[0])
        context = group.commands[name].make_context(name, words)  # raises for a wrong option
        profile = context.params.get("profile")
        if profile in own and name != "report":
            continue
        if profile and name != "report":
            files.profile_path(profile)
        if name == "synth":
            assert context.params["preset"] in manifests.embedded_names(), line


def test_the_documents_name_every_parameter_and_hook_of_a_paper(checkout):
    names = ("reference.md", "add-a-paper.md")
    text = "".join((checkout / "docs" / name).read_text(encoding="utf-8") for name in names)
    named = set(re.findall(r"`(?:Settings\.|Network\.)?([a-z_0-9]+)", text))
    expected = {*parameters.TrainingParameters.model_fields, *contract.Settings.model_fields}
    for kind in (contract.Settings, contract.Network):
        expected |= {name for name in vars(kind) if not name.startswith("_")}
    hold_for_all = {"paper", "settings", "model_config", "transform", "score"}
    assert expected - named - hold_for_all == set()


def test_every_paper_and_notebook_of_the_schemas_is_there(checkout):
    notebooks = {path.stem for path in checkout.glob("notebooks/*.ipynb")}
    assert notebooks == {*papers.notebooks(), *parameters.NOTEBOOKS}


def test_the_wheel_works_in_an_empty_folder(checkout, tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=checkout, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    (licences,) = (tmp_path / "site").glob("dfnb-*.dist-info/licenses")
    for name in ("LICENSE", "NOTICE", "LICENSES/Apache-2.0.txt", "data_manifest/portraits/LICENSE"):
        assert (licences / name).read_bytes() == (checkout / name).read_bytes()
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    environment.pop("DFNB_HOME", None)

    def dfnb(*words):
        command = [sys.executable, "-m", "dfnb.cli", *words]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    assert "faceforensics-c23" in dfnb("data").stdout
    assert "did you mean demo?" in dfnb("run", "dmeo").stderr
    made = dfnb("synth", "smoke-b")
    assert (empty / "datasets" / "smoke-b" / "record.json").exists(), made.stderr
    assert (tmp_path / "site" / "facesets" / "share" / "workflow" / "Snakefile").exists()
    # The detectors that come with it open and score a clip; the study's report is in a clone alone.
    clips.write(empty / "clip.mp4", clips.moving(12))
    own = (checkout / "docs" / "your-detector.md").read_text(encoding="utf-8")
    block = re.search(r"^import dfnb\n.*?^```", own, re.DOTALL | re.MULTILINE)[0][:-3]
    code = "import clips, dfnb, facesets.prepare as prepare; prepare.YuNet = clips.Blobs\n"
    code += "assert dfnb.list_models()['weights'].sum() == 1\n" + block
    code += "from dfnb import results; results.scores('study-ff-like')"
    environment["PYTHONPATH"] += os.pathsep + str(checkout / "tests" / "support")
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.stdout.endswith("xception-portraits-s30-cd89efaf 0.1.0\n"), done.stderr
    assert done.stderr.endswith(
        "a clone of the repository has those of the studies, no installed package\n"
    )


def test_a_run_leaves_the_checkout_clean(checkout):
    """What it writes is ignored by git, but for the evidence that is committed."""
    if not (checkout / ".git").exists():
        pytest.skip("git alone knows what it ignores")
    written = ["reports/demo/index.html", "reports/smoke/results.parquet", "runs/x/record.json"]
    written += ["datasets/x/a.npy", "reports/study/tables/x.tex", "reports/study/logs/x.txt"]
    evidence = ["scores/x.parquet", "tables/x.md", "figures/x.png"]
    evidence += ["profile.yaml", "records/x.json", "weights/x.safetensors", "results.parquet"]
    for path in [*written, "dfnb/papers/core.py", *(f"reports/study/{name}" for name in evidence)]:
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=checkout).returncode == 0
        assert ignored == (path in written), path


@pytest.fixture
def clone(checkout, tmp_path):
    """A folder in which ``make`` finds the checkout, and which has no copies of notebooks."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for path in checkout.iterdir():
        if path.name not in ("lab", "datasets", "runs") and not path.name.startswith("."):
            (clone / path.name).symlink_to(path)
    return clone


def test_jupyterlab_opens_copies_which_stay_as_a_reader_saved_them(checkout, clone):
    jupyter = clone / "venv" / "bin" / "jupyter"
    jupyter.parent.mkdir(parents=True)
    jupyter.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    jupyter.chmod(0o755)
    (clone / "venv" / ".installed").touch()
    first = clone / "lab" / "00_start_here.ipynb"
    for text in (None, "saved"):
        done = subprocess.run(
            ["make", "--no-print-directory", "lab", "VENV=venv"],
            cwd=clone,
            capture_output=True,
            text=True,
        )
        # Also in a container, where everybody is root.
        opened = "lab --allow-root --ServerApp.root_dir=. lab/00_start_here.ipynb\n"
        assert done.stdout == opened, done.stderr
        assert text is None or first.read_text(encoding="utf-8") == text
        first.write_text("saved", encoding="utf-8")
    ignored = ["git", "check-ignore", "-q", "lab/00_start_here.ipynb"]
    assert subprocess.run(ignored, cwd=checkout).returncode == 0


def test_links_of_notebooks_lead_somewhere_in_jupyterlab(clone, tmp_path):
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path) for name in ("CONFIG", "DATA", "RUNTIME")}
    with served(clone, tmp_path, os.environ | folders) as (address, token):
        linked = {
            os.path.normpath(clone / "lab" / target.partition("#")[0])
            for path in clone.glob("lab/*.ipynb")
            for target in re.findall(r"\]\((?!https?:)([^)\s#][^)\s]*)\)", text_of(path))
        }
        assert len(linked) > 10
        for path in sorted(linked):
            url = f"{address}/api/contents/{os.path.relpath(path, clone)}"
            with urlopen(f"{url}?content=0&token={token}") as answer:
                assert answer.status == 200  # else urlopen raises
