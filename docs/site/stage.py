"""Write the source of the site from committed files: ``python docs/site/stage.py FOLDER``.

A file has the same path in the source as in the checkout, so that most links lead where they did.
Exceptions: the pages of ``docs/site/`` are at the root, and ``notebooks/`` has the notebooks as the
study executed them. Nothing is executed, and Sphinx is not needed.
"""

import json
import posixpath
import re
import shutil
import sys
from base64 import b64decode
from pathlib import Path

import nbformat
import pages
from nbformat import NotebookNode
from pages import CHECKOUT, EXPERIMENTS, PHOTOGRAPHS, SITE, STUDY

from dfnb import papers

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data_manifest/README.md",
    "data_manifest/claims/README.md",
    "docs/experiments.md",
    "docs/extending.md",
    "docs/findings.md",
    "docs/numbers.md",
    "docs/own.md",
    "tests/golden/README.md",
    "workflow/README.md",
)
# Pages that are elsewhere in the site, by their path in the checkout.
MOVED = {
    "docs/glossary.md": "glossary.md",
    "reports/study-bed": "report.md",
    "reports/study-bed/index.html": "report.md",
    "reports/study-ff-like": "photographs.md",
    "reports/study-papers": "experiments.md",
    "reports/study-papers/index.html": "experiments.md",
    "reports/study-ff-like/index.html": "photographs.md",
}
PAGES = (".md", ".ipynb", ".rst")
# Words in code, equations, headings and HTML are no links to the glossary.
LITERAL = r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|^#.*?$|<[^>\n]*>"
LINK = r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)"
EVERYDAY = {"run"}  # the glossary has the noun, sentences mostly the verb


class Site:
    """The source of the site in a folder, and the words of the glossary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = [word for words in pages.glossary().values() for word in words]
        self.words = {word.lower(): word for word in words if word not in EVERYDAY}
        longest_first = sorted(map(re.escape, self.words), key=len, reverse=True)
        # A match of LITERAL or LINK includes the words in it, so these are not matched as words.
        word = rf"\b(?P<word>{'|'.join(longest_first)})s?\b"
        flags = re.DOTALL | re.MULTILINE | re.IGNORECASE
        self.pattern = re.compile(f"{LITERAL}|{LINK}|{word}", flags)

    def write(self, name: str, text: str) -> None:
        """Write a file of the source."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def prose(self, text: str, name: str, linked: set[str]) -> str:
        """Markdown with links that lead to the site's own pages and, at first use, the glossary.

        Args:
            text: The Markdown.
            name: The path of the file that it is part of.
            linked: The words of this file that have a link already; gets those of this text.
        """

        def replacement(match: re.Match) -> str:
            if match["target"]:  # a link or a picture; without a page its text alone is kept
                target = self.target(match["target"], name)
                return f"{match['text']}({target})" if target else match["text"].strip("![]")
            if match["word"] and match["word"].lower() not in linked:
                linked.add(match["word"].lower())
                return f"{{term}}`{match[0]} <{self.words[match['word'].lower()]}>`"
            return match[0]  # a literal, or a word that is linked already: unchanged

        return self.pattern.sub(replacement, text)

    def target(self, target: str, name: str) -> str:
        """Where a link of the file ``name`` leads in the site; empty where the site has no page.

        A file that is no page is copied, and becomes a download.
        """
        if "://" in target:
            return target
        relative, mark, heading = target.partition("#")
        heading = re.sub(r"[^\w-]", "", heading.lower())  # Jupyter keeps capitals, Sphinx does not
        if not relative:
            return mark + heading
        folder = posixpath.dirname(name)
        path = posixpath.normpath(posixpath.join(folder, relative))
        path = MOVED.get(path, re.sub("^reports/study-bed/notebooks/", "notebooks/", path))
        if path.startswith("dfnb/") and path.endswith(".py"):
            path = "api/" + path.removesuffix(".py").replace("/", ".") + ".rst"
        elif (CHECKOUT / path).is_dir():
            return ""
        elif not path.endswith(PAGES) and not path.startswith("pictures/"):
            copy = self.folder / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / path, copy)
        return posixpath.relpath(path, folder or ".") + mark + heading


def stage(folder: Path) -> None:
    """Write the whole source of the site into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    site = Site(folder)
    for stem, added in pages.ADDED.items():
        path = SITE / f"{stem}.md"
        text = path.read_text(encoding="utf-8") + added()
        shown = text if path.stem == "glossary" else site.prose(text, path.name, set())
        site.write(path.name, shown)
    for name in DOCUMENTS:
        text = (CHECKOUT / name).read_text(encoding="utf-8")
        site.write(name, site.prose(text, name, set()))
    for study in (STUDY, PHOTOGRAPHS, EXPERIMENTS):
        for path in study.glob("tables/*.md"):
            site.write(path.relative_to(CHECKOUT).as_posix(), pages.table_page(path))
    titles = {}
    for notebook, paper in papers.notebooks().items():
        titles[notebook] = papers.module(paper).PAPER.title
    for path in (CHECKOUT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        executed = STUDY / "notebooks" / path.name
        if executed.exists():
            notebook = nbformat.read(executed, as_version=4)
            del notebook.cells[0]  # when and where it was executed
            for cell in notebook.cells:  # links as from notebooks/, where the site has them
                cell.source = cell.source.replace("](../../../", "](../")
            write_picture(notebook, folder / pages.PICTURE.format(path.stem))
        prepare(notebook, site, f"notebooks/{path.name}")
        add_expectation(notebook, path.stem, titles.get(path.stem))
        site.write(f"notebooks/{path.name}", nbformat.writes(notebook))


def write_picture(notebook: NotebookNode, path: Path) -> None:
    """Write the first picture among the outputs of a notebook; nothing without one."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}) and not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(b64decode(output["data"][kind]))


def prepare(notebook: NotebookNode, site: Site, name: str) -> None:
    """Fold what a reader skips, give pictures their alternative text, and mend links; in place."""
    linked = set()
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown":
            cell.source = site.prose(cell.source, name, linked)
            if "solution" in tags:
                cell.source = folded(cell.source)
            continue
        cell.metadata["tags"] = sorted(tags | folds(cell, tags))
        texts = []  # of all pictures of the cell: myst-nb gives them one alternative text
        for output in cell.outputs:
            metadata = output.get("metadata", {}).values()
            texts += [details["alt"] for details in metadata if "alt" in details]
        if texts:
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(dict.fromkeys(texts))}}


def folds(cell: NotebookNode, tags: set[str]) -> set[str]:
    """The tags by which myst-nb removes or folds a code cell."""
    jupyter = cell.metadata.get("jupyter", {})
    hides_source = jupyter.get("source_hidden")
    hides_outputs = jupyter.get("outputs_hidden")
    if "solution" in tags or (hides_source and hides_outputs):
        return {"hide-cell"}
    if hides_outputs:
        return {"hide-output"}
    if hides_source or "parameters" in tags:
        return {"hide-input"}
    return set()


def folded(text: str) -> str:
    """A solution in Markdown, folded; its heading stays visible."""
    heading, body = "", text
    if text.startswith("#"):
        heading, _, body = text.partition("\n")
    return f"{heading}\n\n<details><summary>Solution</summary>\n\n{body.strip()}\n\n</details>"


def add_expectation(notebook: NotebookNode, name: str, title: str | None) -> None:
    """Put below the first cell what the notebook costs, and for a paper what to expect of it.

    Args:
        notebook: The staged notebook, which is changed.
        name: Of its file.
        title: The name of the notebook's paper in the tables; None without a paper.
    """
    text = pages.badge("**Cost:** not measured, because the study did not run this notebook.")
    record = STUDY / "records" / f"{name}.json"
    if record.exists():
        seconds = json.loads(record.read_text(encoding="utf-8"))["wall_s"]
        text = pages.badge(f"**Cost:** {seconds:.0f} s after the trainings, on a CPU.")
    if title:
        anchor = re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))
        text = f"{pages.expected(title)}\n[Cite the paper](../papers.md#{anchor})"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(text, id="to-expect"))


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
