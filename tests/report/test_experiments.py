"""The list of the papers' experiments: every command, detector, figure and number in it is true."""

import re
import sys

import pandas as pd
import pytest

from dfnb import papers
from dfnb.report import experiments, measure, scores
from dfnb.running import jobs


@pytest.fixture(autouse=True)
def committed(checkout, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(checkout))


@pytest.fixture
def script(checkout, monkeypatch):
    monkeypatch.syspath_prepend(checkout / "scripts")
    sys.modules.pop("experiments", None)
    return __import__("experiments")


def test_documents_are_what_the_script_writes(checkout, script):
    document = (checkout / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert document == script.document()
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert readme == script.readme(readme) and "| experiment " in readme
    for line in document.splitlines():  # a status is of what was trained: its numbers are there
        if f"| {experiments.RUN} on drawn faces;" in line:
            assert f": {experiments.NOT_RUN}" not in line, line


def detectors_of(profile):
    """The detectors that `dfnb run PROFILE` trains, where all datasets are prepared."""
    content = jobs.profile(profile)
    titles = {
        notebook: papers.module(name).PAPER.title for notebook, name in papers.notebooks().items()
    }
    found = {titles[notebook] for notebook in content.notebooks if notebook in titles}
    for notebook, ablations in content.ablations.items():
        for ablation, variants in ablations.items():
            found |= {f"{titles[notebook]}, {ablation}: {variant}" for variant in variants}
    return found


def test_the_commands_train_the_detectors_that_are_named():
    for each in experiments.experiments():
        assert {*each.detectors} <= detectors_of(each.profile), each.id
        for number in each.ours.values():
            assert {number.detector, number.minus or number.detector} <= detectors_of(number.report)


def test_reported_figures_are_published_figures(checkout):
    """A number in what a paper reports stands in published.csv, as a share or in percent."""
    published = pd.read_csv(checkout / "data_manifest" / "published.csv")["value"]
    known = {f"{value:g}" for value in [*published, *(100 * published), *(published / 100)]}
    for each in experiments.experiments():
        for text in re.findall(r"(?<![\w.-])\d*\.\d+", each.reported):
            assert f"{float(text):g}" in known, (each.id, text)


def test_a_number_is_a_mean_over_the_test_sets_of_its_place():
    """By hand for Locate and Verify across, and NOT_RUN for a detector that no report has."""
    [across] = [each for each in experiments.experiments() if each.id == "lv-cross"]
    table = scores("study-bed")
    table = table[(table["detector"] == "Locate and Verify") & (table["place"] == "across")]
    by_set = measure(table[table["corruption"] == ""], "AUC", "test_set")
    assert len(by_set) == 24
    value = experiments.measured(across.ours["AUC"])["value"].item()
    assert value == pytest.approx(by_set["value"].mean(), abs=1e-9)
    missing = across.ours["AUC"].model_copy(update={"detector": "Locate and Verify, x: y"})
    copy = across.model_copy(update={"ours": {"AUC": missing}})
    assert copy.results() == {"AUC": experiments.NOT_RUN} and copy.status() == experiments.NOT_RUN


def test_a_status_counts_what_is_there():
    by_id = {each.id: each for each in experiments.experiments()}
    within = by_id["lv-within"]
    assert within.status() == experiments.RUN
    with_picture = within.model_copy(update={"figure": "reports/study-bed/figures/nope.png"})
    assert with_picture.status() == f"2 of 3 {experiments.RUN}"
