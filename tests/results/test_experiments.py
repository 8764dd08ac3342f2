"""The list of the papers' experiments: every command, detector and number in it is true."""

import re
import sys

import pandas as pd
import pytest

from dfnb import papers
from dfnb.results import measure, scores
from dfnb.running import profiles
from facesets.checks import read_yaml


@pytest.fixture(autouse=True)
def committed(checkout, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(checkout))


@pytest.fixture
def script(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout / "scripts")
    sys.modules.pop("experiments", None)
    return __import__("experiments")


@pytest.fixture
def entries(checkout):
    return read_yaml(checkout / "data_manifest" / "experiments.yaml")["experiments"]


def test_documents_are_what_the_script_writes(checkout, script):
    document = (checkout / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert document == script.document()


def test_the_overview_has_every_experiment(script, entries):
    """A kind that the script does not know would be in no row."""
    assert {each["kind"] for each in entries} == {*script.KINDS}
    assert len({each["id"] for each in entries}) == len(entries)


def detectors_of(profile):
    """The detectors that `dfnb run PROFILE` trains, where all datasets are prepared."""
    content = profiles.read(profile)
    titles = {
        notebook: papers.module(name).PAPER.title for notebook, name in papers.notebooks().items()
    }
    found = {titles[notebook] for notebook in content.notebooks if notebook in titles}
    for notebook, variants in content.variants.items():
        found |= {f"{titles[notebook]}, {variant}" for variant in variants}
    return found


def test_the_commands_train_the_detectors_that_are_named(entries):
    for each in entries:
        assert {*each["detectors"]} <= detectors_of(each["profile"]), each["id"]
        for number in each["ours"].values():
            named = {number["detector"], number.get("minus") or number["detector"]}
            assert named <= detectors_of(number["report"])


def test_reported_figures_are_published_figures(checkout, entries):
    """A number in what a paper reports stands in published.csv, as a share or in percent."""
    published = pd.read_csv(checkout / "data_manifest" / "published.csv")["value"]
    known = {f"{value:g}" for value in [*published, *(100 * published), *(published / 100)]}
    for each in entries:
        for text in re.findall(r"(?<![\w.-])\d*\.\d+", each["reported"]):
            assert f"{float(text):g}" in known, (each["id"], text)


def test_a_number_is_a_mean_over_the_test_sets_of_its_place(script, entries):
    """By hand for Locate and Verify across, and NOT_RUN for a detector that no report has."""
    [across] = [each for each in entries if each["id"] == "lv-cross"]
    number = {**across["ours"]["photographs"], "report": "study-ff-like", "place": "cross-dataset"}
    table = scores("study-ff-like")
    table = table[(table["detector"] == "Locate and Verify") & (table["place"] == "cross-dataset")]
    by_set = measure(table[table["corruption"] == ""], "AUC", "test_set")
    assert len(by_set) == 12
    named = {key: value for key, value in number.items() if key != "registered"}
    value = script.number(**named)["value"].item()
    assert value == pytest.approx(by_set["value"].mean(), abs=1e-9)
    half = {**number, "registered": 10}
    assert script.text(half) == "not judged: 5 of 10 registered seeds"
    assert script.text({**half, "registered": 5}).endswith("] (5 seeds)")
    missing = {**number, "detector": "Locate and Verify, x: y"}
    for ours, status in (
        ({"AUC": missing}, script.NOT_RUN),
        ({}, script.NOT_RUN),
        ({"AUC": number}, script.RUN),
        ({"AUC": number, "x": missing}, f"1 of 2 {script.RUN}"),
    ):
        row = script.row_of({**across, "ours": ours})
        assert script.status(row["done"], row["planned"]) == status
        is_shown = "] (5 seeds)" in row["ours, generated portraits"]
        assert is_shown == (status != script.NOT_RUN)
