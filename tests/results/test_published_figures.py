"""Published figures beside ours: of the same backbone, training and test set alone."""

import shutil

import pandas as pd
import planted
import pytest

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
