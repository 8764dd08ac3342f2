"""From published datasets as they are downloaded to the table of published figures and ours.

What `dfnb run paper` does is done in this process, with small networks but for the baseline;
tests/gpu does it with the published networks, sizes and commands.
"""

import miniature
import profiles
import pytest
from typer.testing import CliRunner

import notebooks
from dfnb import cli, papers
from dfnb.running import measuring
from facesets.files import read_json

SIDE = 96
SHOWN = ("07_cross_dataset", "10_report")  # tests/test_notebooks.py executes all others


@pytest.mark.usefixtures("detector", "figures_without_a_screen")
def test_downloads_become_the_table_of_published_figures_and_ours(empty_home, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # in this process
    root = empty_home / "downloads"
    videos = miniature.download(root, SIDE, frames=5)
    for words in miniature.commands(root):
        done = CliRunner().invoke(cli.commands, words)
        assert done.exit_code == 0, done.output
        assert "of the" in done.output and "published files" in done.output
    miniature.check_prepared(videos, SIDE)

    small = {"image_size": 64, "batch_size": 4, "images_per_epoch": 4}
    of_paper = {}
    for paper in {*papers.modules()} - {"xception"}:
        of_paper[paper] = {"backbone": "dfnb_plain7", **papers.module(paper).PAPER.small}
    miniature.write_profile(empty_home, of_paper, **small)
    for call in profiles.trained("paper").shown:
        if call.name not in SHOWN:
            continue
        notebooks.execute(call.call.notebook, empty_home, **profiles.injected(call))
        assert read_json(empty_home / call.record)["parameters"] == call.parameters.model_dump(
            mode="json"
        )
    firsts = measuring.first_runs("paper")  # of which 08 measures maps: not of the further baseline
    assert "Baseline" in firsts and "Small" not in firsts
    # A figure belongs to the published backbone.
    miniature.check_published(empty_home, ["Baseline"])
