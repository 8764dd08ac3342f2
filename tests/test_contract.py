"""CONTRIBUTING's example as it is written: a paper, its notebook, a profile, a claim, a table."""

import re
import shutil
import subprocess
import sys

import profiles
import pytest

import notebooks
from dfnb import papers
from dfnb.checks import DfnbError
from dfnb.data import frames
from dfnb.papers import contract
from dfnb.report import claims, scores, tables


@pytest.fixture(scope="module")
def blocks(checkout):
    """The code blocks of CONTRIBUTING, by the place in their first line or by their first word."""
    text = (checkout / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pattern = r"^```\w+\n(?:# (\S+\.\w+[^\n]*)\n)?(.*?)^```"
    result = {}
    for place, code in re.findall(pattern, text, re.DOTALL | re.MULTILINE):
        result[place or code.split()[0]] = code
    return result


@pytest.fixture(scope="module")
def home(smoke_home, tmp_path_factory, checkout, blocks):
    """A home with what the examples add, and nothing else but data."""
    home = tmp_path_factory.mktemp("contract")
    (home / "datasets").symlink_to(smoke_home / "datasets")
    shutil.copytree(checkout / "data_manifest", home / "data_manifest")
    for name in ("papers", "notebooks/profiles"):
        (home / name).mkdir(parents=True)
    for name, code in blocks.items():
        if name.startswith(("papers/", "notebooks/", "data_manifest/claims/")):
            (home / name).write_text(code, encoding="utf-8")
    shutil.copy(checkout / "notebooks" / "02_xception_baseline.ipynb", home / "notebooks")
    subprocess.run(["bash", "-c", blocks["sed"]], cwd=home, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def report(home):
    """The scores of the profile's report, with all trainings done."""
    profiles.trained("mine")
    return scores("mine")


def test_the_paper_is_short_and_needs_no_registration(home, blocks):
    assert len(blocks["papers/frequency.py"].splitlines()) <= 40
    assert papers.notebooks()["14_frequency"] == "frequency"
    calls = profiles.planned("mine")
    names = [call.parameters["variant"] for call in calls.trainings]
    assert names == ["main", "main", "widths: narrow"]
    assert [call.name for call in calls.shown] == ["14_frequency"]


def test_a_file_of_the_home_hides_and_replaces_nothing(blocks, empty_home):
    (empty_home / "papers").mkdir()
    collection = papers.modules()
    for name in ("contract", "frames", "core"):  # two are modules of the package, too
        code = blocks["papers/frequency.py"].replace("Frequency", name).replace("14_", f"15_{name}")
        (empty_home / "papers" / f"{name}.py").write_text(code, encoding="utf-8")
    found = papers.modules()
    assert set(found) - set(collection) == {"contract", "frames", "core"}
    assert found["frames"].PAPER.title == "frames" and hasattr(frames, "load_frames")
    assert found["contract"].Settings.__mro__[1] is contract.Settings
    copy = empty_home / "papers" / "core_2.py"
    for text in (code, code.replace("15_core", "16_core"), code.replace('"core"', '"another"')):
        copy.write_text(text, encoding="utf-8")
        forget("core_2")
        assert "core_2" not in papers.modules()
        with pytest.raises(DfnbError, match=r"core_2.py .*name, title or notebook of .*core.py"):
            papers.module("core_2")


def forget(name):
    """Let Python import a file of the home again, as in a new process."""
    sys.modules.pop(f"dfnb.papers.home.{name}", None)


def test_it_stands_in_the_tables(report):
    main = tables.pivot(tables.by_place(tables.main(report)))
    assert main.index.tolist() == ["Frequency"] and {"within", "across"} <= {*main}
    assert main.loc["Frequency", "within"].endswith("]")
    assert {*tables.variants(report)["detector"]} == {"Frequency, widths: narrow"}


def test_its_claim_is_judged(report):
    judged = claims.judge("mine", "frequency")
    assert judged["id"].tolist() == ["frequency-width"] and judged["value"].notna().all()
    assert judged["verdict"].str.match("not judged|exploratory: fewer than 5 seeds").all()


def test_its_notebook_is_a_copy_of_the_baseline_s(report, home):
    call = profiles.planned("mine").shown[-1]
    shown, _ = notebooks.execute("14_frequency", home, home / "notebooks", **call.changes)
    assert call.done and "class Network(contract.Network)" in "".join(shown)
