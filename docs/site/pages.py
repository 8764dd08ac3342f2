"""The parts of the site's pages that are made from committed files.

Each function returns Markdown. Links in it are relative to the root of the site.
"""

import ast
import json
import os
import re
import statistics
import tomllib
from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import nbformat

from dfnb import manifests, papers
from dfnb.checks import DfnbError
from dfnb.report import detectors
from dfnb.store.runs import StoredRun

SITE = Path(__file__).resolve().parent
CHECKOUT = SITE.parents[1]
STUDY = CHECKOUT / "reports" / "study-bed"
PHOTOGRAPHS = CHECKOUT / "reports" / "study-ff-like"
EXPERIMENTS = CHECKOUT / "reports" / "study-papers"
PICTURE = "pictures/{}.png"  # of a notebook, whichever format the file has


# What a reader learns from each notebook.
LEARNED = {
    "00_start_here": "What a detector does, how it fails, and what of the papers is reproduced.",
    "01_data": "How frames are cut, what leaks between splits, and what a benchmark gives away.",
    "02_xception_baseline": "The plain classifier: training, AUC, threshold, and a first table.",
    "03_lae": "When a few masks move a network off a misleading mark, and when not.",
    "04_locate_and_verify": "Two streams and three modules, taken apart on one frame.",
    "05_exposing_the_deception": "Information losses by hand: three witnesses at three windows.",
    "06_self_blended_images": "Training without a forgery: real frames blended with themselves.",
    "07_cross_dataset": "Intervals, paired differences, and training on one manipulation.",
    "08_attribution": "Whether a heat map can be believed: sanity checks, deletion, your picture.",
    "09_robustness": "What compression, blur and occlusion cost.",
    "10_report": "All tables of a report, and the verdicts on the papers' claims.",
}


def front() -> str:
    """A gallery of the notebooks, what README says was found, and how to open Colab."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    _, _, section = readme.partition("## What we found\n")
    text, _, _ = section.partition("\n## ")
    text = text.replace("](#", "](README.md#")
    return f"{gallery()}\n## What we found\n{text}\n{colab()}"


def gallery() -> str:
    """A row per notebook: its first picture, what one learns, and how long it took where."""
    lines = ["## The notebooks", "", "| | notebook | you learn | took |", "|---|---|---|---|"]
    for path in sorted((CHECKOUT / "notebooks").glob("*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source.partition("\n")[0].lstrip("# ")
        record = STUDY / "records" / path.name.replace(".ipynb", ".json")
        picture = took = ""
        if record.exists():  # the study executed it
            content = json.loads(record.read_text(encoding="utf-8"))
            took = f"{content['wall_s']:.0f} s, {content['environment']['device']}"
            picture = f"![]({PICTURE.format(path.stem)})"
        link = f"[{title}](notebooks/{path.name})"
        learned = LEARNED.get(path.stem, "")  # a notebook of one's own is not in the list
        lines.append(f"| {picture} | {link} | {learned} | {took} |")
    return "\n".join(lines) + "\n"


def colab() -> str:
    """How to open a notebook in Colab; empty without a repository in ``pyproject.toml``."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    if not repository:
        return ""
    return (
        "## In Colab\n\nThe rocket on the page of a notebook opens it in Colab. Begin each with a "
        f"cell that installs the package:\n\n```\n%pip install -q git+{repository}\n```\n"
    )


@cache
def trainings() -> dict[str, tuple[StoredRun, ...]]:
    """The trainings of the study's detectors, by the name of the detector."""
    os.environ["DFNB_HOME"] = str(CHECKOUT)  # whatever it is: the site is of committed files
    return {detector.name: detector.runs for detector in detectors(STUDY.name)}


def expected(title: str) -> str:
    """Cost and number to expect of a detector, from the records of its trainings and a table.

    Args:
        title: The detector's name in the tables.
    """
    runs = trainings().get(title)
    if not runs:
        return badge("The study has no numbers of this detector.")
    records = [run.record for run in runs]
    images = records[0].images_seen
    seconds = statistics.median(record.wall_s for record in records)
    # `start`, the run of the phase before; the time is that of the last phase alone.
    part = "its second phase took" if records[0].start else "it took"
    text = (STUDY / "tables" / "cross_dataset.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = map(cells_of, lines)
    measured = next(dict(zip(header, row)) for row in rows if row[0] == title)
    return badge(
        f"**Cost:** {images:,} images per training; {part} {seconds:.0f} s on one thread of a CPU "
        f"(median of {len(runs)}). **To expect:** video AUC {measured['within']} on the dataset "
        f"of training, {measured['across']} across datasets."
    )


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def badge(text: str) -> str:
    """A paragraph that ``site.css`` draws as a badge."""
    return f"{{.expected}}\n{text}"


def bibliography() -> dict[str, str]:
    """The BibTeX entries of ``papers.bib``, by their keys, which are the names of the papers."""
    text = (SITE / "papers.bib").read_text(encoding="utf-8")
    # Both patterns match the same entries, in their order.
    keys = re.findall(r"^@\w+\{(\w+),.*?^\}", text, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^@\w+\{.*?^\}", text, re.MULTILINE | re.DOTALL)
    return dict(zip(keys, entries))


# How far the method of each paper is reproduced, in the words of ReScience C.
REPRODUCED = {
    "xception": "*partial*: the network and DeepfakeBench's settings",
    "lae": "*partial*: an interpretation of the abstract",
    "locate_and_verify": "*full*: equal to the released code",
    "exposing_the_deception": "*full*: equal to the released code",
    "self_blended_images": "*partial*: an interpretation",
}


def paper_pages() -> str:
    """A section per paper: picture, notebook, cost, number to expect and BibTeX entry."""
    bibtex = bibliography()
    sections = []
    for notebook, paper in papers.notebooks().items():
        for file, papers_in_file in (("papers.bib", bibtex), ("pages.py, REPRODUCED", REPRODUCED)):
            if paper not in papers_in_file:
                raise DfnbError(f"docs/site/{file} has no entry {paper!r}; add one")
        title = papers.module(paper).PAPER.title
        sections.append(
            f"## {title}\n\n**[Re]** Published numbers: *not reproduced*. Method: "
            f"{REPRODUCED[paper]}. [The notebook](notebooks/{notebook}.ipynb)\n\n"
            f"![The first picture of the notebook]({PICTURE.format(notebook)})\n\n"
            f"{expected(title)}\n\n```bibtex\n{bibtex[paper]}\n```\n"
        )
    return "\n".join(sections)


def dataset_pages() -> str:
    """A section per published dataset: what its manifest says about it, and how to ask for it."""
    sections = []
    first_with = {}  # text about a dataset -> the first one that it describes
    for name in manifests.dataset_names("real"):
        manifest = manifests.manifest(name)
        about = manifest["about"]
        first = first_with.setdefault(about, name)
        text = facts(about) if first == name else f"As [{first}](#{first}).\n"
        space = manifest.get("space", "not known")
        access = f"- **Access:** {manifest['access']}\n- **Space:** {space}\n"
        sections.append(f"## {name}\n\n{text}\n{access}")
    return "\n".join(sections)


def facts(about: str) -> str:
    """The text ``about`` of a manifest as Markdown: a sentence, then a list of its keys.

    A line of the text begins a key (``Licence: ...``), an item of a list (``- ...``), or, where it
    is indented, goes on with the line before.
    """
    sentence, *lines = about.splitlines()
    shown = [sentence, ""]
    for line in lines:
        key, _, rest = line.partition(":")
        if line.startswith("- "):
            shown.append(f"  {line}")
        elif line.startswith(" "):
            shown.append(f"    {line.strip()}")
        else:
            shown.append(f"- **{key}:**{rest}")
    return "\n".join(shown) + "\n"


def glossary() -> dict[str, list[str]]:
    """Meaning → its words, from the tables of words in ``docs/glossary.md``."""
    text = (CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words_of = {}
    for table in re.findall(r"\| word \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", text):
        for line in table.splitlines():
            _, words, meaning, *_ = line.split("|")
            words_of[meaning.strip()] = re.findall(r"\*([^*]+)\*", words)
    return words_of


def glossary_page() -> str:
    """The glossary as Sphinx's directive, which makes every word a target of links."""
    entries = []
    for meaning, words in glossary().items():
        entries.append("\n".join(words) + f"\n  {meaning}\n")
    return "```{glossary}\n:sorted:\n\n" + "\n".join(entries) + "```\n"


def report_page(study: Path) -> str:
    """Every figure of a study, and a link to every table."""
    tables = f"reports/{study.name}/tables/*"
    parts = [f"```{{toctree}}\n:maxdepth: 1\n:glob:\n\n{tables}\n```\n"]
    for path in sorted((study / "figures").glob("*.png")):
        title = path.stem.replace("_", " ")
        source = path.relative_to(CHECKOUT).as_posix()
        parts.append(f"## Figure: {title}\n\n![{title}]({source})\n")
    return "\n".join(parts)


def table_page(path: Path) -> str:
    """The page of one table, which begins with its title."""
    return path.read_text(encoding="utf-8")


def function_pages() -> str:
    """A line per function or class of the package that notebooks name, with their links."""
    notebooks_of = defaultdict(list)
    for path in sorted((CHECKOUT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for module, name in sorted(used(ast.parse(code))):
            notebooks_of[module, name].append(f"[{path.stem[:2]}](notebooks/{path.name})")
    lines = ["| module | function or class | notebooks |", "|---|---|---|"]
    for (module, name), links in sorted(notebooks_of.items()):
        lines.append(f"| [{module}](api/{module}.rst) | `{name}` | {' '.join(links)} |")
    return "\n".join(lines) + "\n"


def used(tree: ast.Module) -> set[tuple[str, str]]:
    """Module and name of each function or class of the package that the code names.

    Of the code, only the imports at the top level are executed.
    """
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {}
    exec(compile(ast.Module(imports, []), "imports", "exec"), imported)
    named = [value for value in imported.values() if not isinstance(value, ModuleType)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named.append(getattr(imported.get(node.value.id), node.attr, None))
    found = {(getattr(each, "__module__", ""), getattr(each, "__name__", "")) for each in named}
    return {(module, name) for module, name in found if f"{module}".startswith("dfnb") and name}


# What is added at the end of docs/site/<name>.md.
ADDED = {
    "index": front,
    "papers": paper_pages,
    "datasets": dataset_pages,
    "functions": function_pages,
    "glossary": glossary_page,
    "report": partial(report_page, STUDY),
    "photographs": partial(report_page, PHOTOGRAPHS),
    "experiments": partial(report_page, EXPERIMENTS),
}
