"""What the site is made of, for which Sphinx is not needed; ``make book`` builds the site."""

import json
import re

import pytest

from dfnb import papers


@pytest.fixture
def prepare(checkout, monkeypatch):
    """What the site does with the source of a page."""
    monkeypatch.syspath_prepend(checkout / "docs" / "site")
    import executed

    return executed.prepare


def code(outputs=(), **metadata):
    """A code cell."""
    return {"cell_type": "code", "source": "1", "outputs": list(outputs), "metadata": metadata}


def picture(alt):
    """An output with a picture."""
    return {"data": {"image/png": ""}, "metadata": {"image/png": {"alt": alt}}}


def prepared(prepare, *cells):
    """The metadata of the cells of a notebook on the site."""
    source = [json.dumps({"cells": cells})]
    prepare(None, "notebooks/01_data", source)
    return [cell["metadata"] for cell in json.loads(source[0])["cells"]]


def test_what_jupyter_folds_is_folded(prepare):
    hidden = {"source_hidden": True, "outputs_hidden": True}
    cells = prepared(
        prepare,
        code(tags=["parameters"], jupyter={"source_hidden": True}),
        code(jupyter={"outputs_hidden": True}),
        code(jupyter=hidden),
        code(tags=["solution"]),
        code(),
    )
    tags = [["parameters", "hide-input"], ["hide-output"], ["hide-cell"]]
    assert [cell["tags"] for cell in cells] == [*tags, ["solution", "hide-cell"], []]


def test_pictures_have_the_texts_of_all_pictures_of_their_cell(prepare):
    outputs = [picture("A"), {"data": {}, "metadata": {}}, picture("B"), picture("A")]
    several, none = prepared(prepare, code(outputs), code([{"output_type": "stream"}]))
    assert several["mystnb"] == {"image": {"alt": "A B"}} and "mystnb" not in none


def test_other_pages_stay_as_they_are(prepare):
    source = ["# Results"]
    prepare(None, "docs/results", source)
    assert source == ["# Results"]


def test_the_contents_list_every_page_and_nothing_else(checkout):
    site = checkout / "docs" / "site"
    listed = set()
    for page in site.glob("*.md"):
        for contents in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for name in re.findall(r"^(?!:)(?:.*<)?([^<>\n]+)>?$", contents, re.MULTILINE):
                folder = checkout if name.startswith("/") else site
                found = {*folder.glob(f"{name.lstrip('/')}.md"), *folder.glob(f"{name[1:]}.ipynb")}
                assert found or name.startswith("/docs/api/"), f"{page.name} lists {name}"
                listed |= found
    pages = [*checkout.glob("*.md"), *site.glob("*.md"), *checkout.glob("docs/*.md")]
    pages += checkout.glob("notebooks/*.ipynb")
    pages += checkout.glob("reports/study*/tables/*.md")
    assert set(pages) - listed == {site / "index.md"}


def test_every_paper_can_be_cited(checkout):
    text = (checkout / "docs" / "site" / "papers.bib").read_text(encoding="utf-8")
    assert set(papers.modules()) <= set(re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE))


def test_every_published_dataset_is_linked(checkout):
    text = (checkout / "docs" / "published-data.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"data_manifest/published/([\w-]+\.yaml)\)", text))
    assert linked == {path.name for path in checkout.glob("data_manifest/published/*.yaml")}
