"""Published figures beside ours: of the same backbone, training and test set alone."""

import re
import shutil

import pandas as pd
import planted
import pytest
from typer.testing import CliRunner

from dfnb import cli
from dfnb.results import published
from dfnb.store.scores import Condition
from facesets.files import find

NAMES = {
    "xception": "Xception (Xception)",
    "locate_and_verify": "Locate and Verify",
    "lae": "LAE",
}
FACE2FACE = {"seen_methods": ["Face2Face"]}


@pytest.fixture
def write(checkout, empty_home):
    """Writes a report with a run of a paper that has the published backbone, or another."""
    shutil.copytree(checkout / "data_manifest", empty_home / "data_manifest")

    def write(paper, test_sets, more=None, backbone="small", **facts):
        of_paper = {"title": paper, "notebook": paper, "published": NAMES[paper]}
        tables = {Condition(name): planted.table(name, key=paper) for name in test_sets}
        facts = {"train_set": "faceforensics-c23", **facts}
        detector = {**of_paper, "defaults": {"backbone": backbone}}
        planted.write("demo", paper, more=tables | (more or {}), detector=detector, **facts)

    return write


def test_ours_stands_beside_what_was_published_for_the_backbone(write):
    for paper in ("xception", "locate_and_verify"):
        write(paper, ["celeb-df-v1", "dfd"])
    table = published.compared("demo")
    # Of videos its own, not the best of earlier papers; the baseline is in the tables of others.
    figures = table.set_index(["paper", "tested on", "level"])["published"]
    assert figures.to_dict() == {
        ("locate_and_verify", "Celeb-DF-v1", "video"): 0.847,
        ("xception", "Celeb-DF-v1", "frame"): 0.7794,
        ("xception", "DFD", "frame"): 0.8163,
        ("locate_and_verify", "DFD", "frame"): 0.955,
    }
    trained_on = table.groupby("paper")["trained on"].unique().str.join(", ")
    assert trained_on["xception"] == "FF++ c23"  # in the words of the source
    assert table["ours"].str.match(r"0\.\d+.\[").all()
    assert set(table["checkpoint"]) == {"best epoch"}
    write("xception", ["celeb-df-v1", "dfd"], backbone="large")
    assert {*published.compared("demo")["paper"]} == {"locate_and_verify"}


def test_a_single_method_is_measured_at_the_scale_of_the_source(write):
    """LAE's figures are accuracies in percent, of one method; none states whether of frames."""
    name = "faceforensics-c23"
    parameters = planted.record("lae", train_set=name).parameters.model_dump(mode="json")
    tested = planted.table(name).replace({"method": {"swap": "Face2Face", "warp": "FaceSwap"}})
    write("lae", [], {Condition(name): tested}, parameters=parameters)
    table = published.compared("demo", "LAE")
    assert (table["ours"] == published.NOT_RUN).all()  # it was trained on another method
    write("lae", [], {Condition(name): tested}, parameters={**parameters, **FACE2FACE})
    table = published.compared("demo", "LAE").set_index("published")
    text_of_seen = table.loc[90.9, "ours"]
    for figure, method in ((90.9, "Face2Face"), (63.2, "FaceSwap")):
        of_method = tested[tested["method"].isin([method, "real"])]
        right = (of_method["log_odds"] > 0) == (of_method["label"] == 1)
        accuracy = 100 * right.groupby(of_method["label"]).mean().mean()
        text = table.loc[figure, "ours"]
        assert float(text.partition("\u00a0")[0]) == pytest.approx(accuracy, abs=0.01)
        assert text.endswith(", frames")
    assert (table.loc[[6.52, 12.03, 3.08], "ours"] == published.NOT_RUN).all()
    without = tested[tested["method"] != "FaceSwap"]  # such as a download of one method
    write("lae", [], {Condition(name): without}, parameters={**parameters, **FACE2FACE})
    table = published.compared("demo", "LAE").set_index("published")
    assert table.loc[90.9, "ours"] == text_of_seen
    assert table.loc[63.2, "ours"] == published.NOT_RUN


def test_figures_whose_level_is_not_stated_are_listed(checkout, monkeypatch):
    monkeypatch.setenv("DFNB_HOME", str(checkout))
    table = published.compared("none", "Exposing the Deception").set_index("published")
    assert {0.983, 0.999, 0.818, 0.721} <= {*table.index}
    assert (table["ours"] == published.NOT_RUN).all()


def test_each_name_of_a_dataset_in_a_manifest_is_in_the_list_of_figures():
    table = pd.read_csv(find("data_manifest/published.csv"))
    known = {*table["train_set"], *table["test_set"]}
    assert {*published.datasets_by_source()} <= known


def rows_of(lines, separator):
    """The cells of lines of a table, without the marks around them."""
    return [[cell.strip(" \\") for cell in line.strip("|").split(separator)] for line in lines]


def test_the_committed_table_of_related_work_has_the_published_figures(checkout):
    """Each cell, in Markdown and in LaTeX, is a row of the CSV; second-hand ones are marked."""
    text = (checkout / "docs" / "published-numbers.md").read_text(encoding="utf-8")
    parts = published.as_markdown(), published.as_latex()
    assert CliRunner().invoke(cli.commands, ["published"]).stdout == "\n".join(parts)
    assert all(part in text for part in parts)
    header, _, *rows = rows_of(re.findall(r"^\|.*", text, re.MULTILINE), "|")
    rows_of_tex = rows_of(re.findall(r"^.* & .*\\\\$", text, re.MULTILINE), "&")
    assert rows_of_tex[0] == header and len(rows_of_tex) == len(rows) + 1
    source = pd.read_csv(checkout / "data_manifest/published.csv", dtype=str)
    source["value"] = source["value"].astype(float)
    shown = 0
    for row, in_tex in zip(rows, rows_of_tex[1:]):
        key = re.fullmatch(re.escape(row[0]) + r"~\\cite\{(\w+)\}", in_tex[0])[1]
        assert f"{{{key}," in (checkout / "docs/site/papers.bib").read_text(encoding="utf-8")
        for name, cell, tex_cell in zip(header[3:], row[3:], in_tex[3:]):
            assert tex_cell == cell.replace("†", r"$^\dagger$")
            if cell:
                tested = source["test_set"].isin(published.TEST_SETS[name])
                found = source[tested & (source["train_set"] == row[1])]
                found = found[found["method"].str.startswith(row[0])]
                values = found["value"].where(found["value"] > 1, 100 * found["value"])
                is_same = (values - float(cell.strip("†"))).abs() < 0.006
                of_cell = found[is_same]["confidence"].str.contains("secondary")
                assert {*of_cell} == {cell.endswith("†")}
                shown += 1
    assert shown == 31 and {"84.52", "90.9†", "86.0"} <= {cell for row in rows for cell in row}
    # None of the papers' own figures on these sets is missing.
    of_papers = source[source["paper"].str.match("LAE|Locate and Verify|Exposing the Deception")]
    of_papers = of_papers[
        [a.startswith(b[:3]) for a, b in zip(of_papers["method"], of_papers["paper"])]
    ]
    kept = of_papers["test_set"].isin(
        [name for each in published.TEST_SETS.values() for name in each]
    )
    left_out = {*of_papers.loc[~kept, "test_set"]}
    assert all("task" in name or "DFFD" in name or "Seq" in name for name in left_out)
