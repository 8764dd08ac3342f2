"""The parts of the site's pages that are made from committed files.

Each function returns Markdown. Links in it are relative to the root of the site.
"""

import html
import re
from pathlib import Path

import nbformat

from dfnb import files, papers
from dfnb.settings import DfnbError

DOCS = Path(__file__).resolve().parent
CHECKOUT = DOCS.parent
STUDY = CHECKOUT / "reports" / "study"


def table_of(name: str) -> tuple[list[str], str]:
    """The lines of a table of the study, and its caption."""
    text = (STUDY / "tables" / f"{name}.md").read_text(encoding="utf-8")
    table, _, caption = text.partition("\n\n")
    return table.splitlines(), caption.strip()


def first_cell(line: str) -> str:
    """The first cell of a line of a Markdown table."""
    return line.split("|")[1].strip()


def leaderboard() -> str:
    """The study's main table."""
    lines, _ = table_of("cross_dataset")
    return "\n".join(lines)


def expected(title: str) -> str:
    """Cost and number to expect of a detector: the images that a training sees, and its AUCs.

    Args:
        title: The detector's name in the tables.
    """
    overview, _ = table_of("overview")
    seen = {line.split("|")[-2].strip() for line in overview if first_cell(line) == title}
    header, rule, *rows = table_of("cross_dataset")[0]
    measured = [row for row in rows if first_cell(row) == title]
    if not measured:
        return "*The study has no numbers of this detector.*"
    images = ", ".join(f"{int(count):,}" for count in sorted(seen))
    return (
        f"Cost: {images} images per training. To expect: video AUC with its 95 % interval.\n\n"
        + "\n".join([header, rule, *measured])
    )


def bibliography() -> dict[str, str]:
    """The BibTeX entries of ``papers.bib``, by their keys, which are the names of the papers."""
    text = (DOCS / "papers.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),.*?^\}", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^@\w+\{.*?^\}", text, re.MULTILINE | re.DOTALL)
    return dict(zip(entries, blocks))


def paper_pages() -> str:
    """A section per paper: its notebook, cost, number to expect and BibTeX entry."""
    bibtex = bibliography()
    sections = []
    for notebook, paper in papers.notebooks().items():
        if paper not in bibtex:
            raise DfnbError(f"docs/papers.bib has no entry {paper!r}; add one")
        title = papers.module(paper).PAPER.title
        sections.append(
            f"## {title}\n\n[The notebook](notebooks/{notebook}.ipynb)\n\n"
            f"{expected(title)}\n\n```bibtex\n{bibtex[paper]}\n```\n"
        )
    return "\n".join(sections)


def dataset_pages() -> str:
    """A section per published dataset: what its manifest says about it, and how to ask for it."""
    sections = []
    first_with = {}  # text about a dataset -> the first one that it describes
    for name in files.dataset_names("real"):
        manifest = files.manifest(name)
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
    """Meaning → its words, from the tables of words in notebook 00."""
    notebook = nbformat.read(CHECKOUT / "notebooks" / "00_start_here.ipynb", as_version=4)
    words_of = {}
    for cell in notebook.cells:
        if "| word | meaning |" in cell.source:
            _, _, table = cell.source.partition("| word | meaning |\n|---|---|\n")
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


def report_page() -> str:
    """Every figure of the study with its caption, and a link to every table."""
    page = (STUDY / "index.html").read_text(encoding="utf-8")
    captions = dict(re.findall(r'src="figures/([\w-]+)\.png" alt="([^"]*)"', page))
    parts = ["```{toctree}\n:maxdepth: 1\n:glob:\n\nreports/study/tables/*\n```\n"]
    for path in sorted((STUDY / "figures").glob("*.png")):
        title = path.stem.replace("_", " ")
        caption = html.unescape(captions.get(path.stem, ""))
        source = path.relative_to(CHECKOUT).as_posix()
        parts.append(f"## Figure: {title}\n\n![{title}]({source})\n\n{caption}\n")
    return "\n".join(parts)


def table_page(path: Path) -> str:
    """The page of one table."""
    return f"# Table: {path.stem.replace('_', ' ')}\n\n{path.read_text(encoding='utf-8')}"


# What is added at the end of docs/<name>.md.
ADDED = {
    "index": leaderboard,
    "papers": paper_pages,
    "datasets": dataset_pages,
    "glossary": glossary_page,
    "report": report_page,
}
