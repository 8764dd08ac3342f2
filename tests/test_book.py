"""The source of the site, for which Sphinx is not needed; ``make book`` builds the site."""

import re
import sys

import nbformat
import pytest

from dfnb.checks import DfnbError


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory):
    """The folder of the source."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(checkout / "docs" / "site")
        import stage

        folder = tmp_path_factory.mktemp("site")
        stage.stage(folder)
    assert "sphinx" not in sys.modules
    return folder


def texts(site):
    """The Markdown of every page, by its path in the site."""
    for path in [*site.rglob("*.md"), *site.rglob("*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        yield path, text


def test_every_link_of_the_site_leads_somewhere(checkout, site):
    for path, text in texts(site):
        prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)", prose):
            linked = path.parent / target
            if linked.parent.name == "api":  # made by Sphinx, a page per module
                linked = checkout / linked.stem.replace(".", "/")
                linked = linked / "__init__.py" if linked.is_dir() else linked.with_suffix(".py")
            outside = "://" in target or target == "api/modules.rst"
            assert outside or linked.is_file(), f"{path} links to {target}"


def test_every_page_is_in_the_contents(site):
    listed = {site / "index.md"}
    for path, text in texts(site):
        for contents in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            names = re.findall(r"^(?!:)(?:.*<)?([^<>\n]+)>?$", contents, re.MULTILINE)
            for name in names:
                pages = {*path.parent.glob(f"{name}.md"), *path.parent.glob(f"{name}.ipynb")}
                assert pages or name.startswith("api/"), f"{path.name} lists {name}"
                listed |= pages
    assert listed == {path for path, _ in texts(site)}


def test_notebooks_are_executed_and_show_their_parameters_once(checkout, site):
    for executed in (checkout / "reports").glob("study*/notebooks/*.ipynb"):
        cells = nbformat.read(site / "notebooks" / executed.name, as_version=4).cells
        assert any(cell.get("outputs") for cell in cells)
        prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
        assert [text.startswith("# ") for text in prose] == [True] + [False] * (len(prose) - 1)
        tags = [set(cell.metadata.get("tags", [])) for cell in cells]
        assert tags.count({"parameters", "hide-input"}) == 1
        assert {"injected-parameters"} not in tags


def test_words_link_to_the_glossary_once_per_page(site):
    glossary = (site / "glossary.md").read_text(encoding="utf-8")
    words = set(glossary.splitlines())
    for path, text in texts(site):
        linked = re.findall(r"\{term\}`[^`<]* <([^`]+)>`", text)
        assert len(linked) == len(set(linked)) and set(linked) <= words, path.name


def test_papers_show_a_picture_cost_numbers_and_bibtex(site):
    text = (site / "papers.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        picture = re.search(r"!\[[^\]]*\]\(([^)]+)\)", section)[1]
        assert (site / picture).is_file() and "*not reproduced*" in section
        assert re.search(r"Cost:\*\* [\d,]+ images per training", section)
        assert re.search(r"video AUC 0\.\d{3}\s\[0\.\d{3},\s0\.\d{3}\]", section)
        assert "```bibtex\n@" in section


def test_a_paper_that_is_in_no_list_is_named(site, monkeypatch):
    import pages

    monkeypatch.delitem(pages.REPRODUCED, "xception")
    with pytest.raises(DfnbError, match=r"pages\.py, REPRODUCED has no entry 'xception'; add one"):
        pages.paper_pages()


def test_functions_lead_to_the_notebooks_that_use_them(site):
    text = (site / "functions.md").read_text(encoding="utf-8")
    assert re.search(r"`measure`.*\(notebooks/07_cross_dataset.ipynb\)", text)


def test_the_first_page_has_the_finding_and_a_picture_of_each_notebook(checkout, site):
    text = (site / "index.md").read_text(encoding="utf-8")
    assert "Not for casework" in text and "](reports/finding.png)" in text
    _, _, rest = text.partition("## The notebooks\n")
    rows = re.findall(
        r"^\| (?:!\[\]\(([^)]+)\))? *\| \[[^\]]+\]\(notebooks/(\w+).ipynb\)", rest, re.M
    )
    assert [name for _, name in rows] == sorted(p.stem for p in checkout.glob("notebooks/*.ipynb"))
    for picture, name in rows:
        assert (site / picture).is_file(), name
    assert "Colab" not in text  # nothing is promised that is not there
