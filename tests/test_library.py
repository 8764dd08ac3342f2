"""The four functions for a notebook of one's own: any detector, any data, the report's numbers."""

import re
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import planted
import pytest
import torch
from networks import recipe
from PIL import Image
from safetensors.torch import save_file
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import dfnb
from dfnb import files, library, papers, report
from dfnb.checks import DfnbError
from dfnb.data.frames import faces_of, load_frames, select
from dfnb.data.loading import StoredFrames
from dfnb.store import reports
from dfnb.store.scores import KEYS, Condition, write
from dfnb.training import scoring

TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


class Redness(nn.Module):
    """Logits that tell red crops from others; ``output`` makes what it returns of them."""

    def __init__(self, output):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(9.0))
        self.output = output
        self.eval()

    def forward(self, images):
        return self.output(self.weight * images[:, 0].mean((1, 2)) - 3)


def redness(images):
    return expit(9 * images[..., 0].mean((1, 2)) / 255 - 3)


@pytest.fixture
def run(own_home):
    """A run whose weights are random."""
    settings = recipe("xception")
    folder = own_home / "runs" / "untrained-s0"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(papers.module("xception").Network(settings).state_dict(), folder / "best.safetensors")
    values = settings.model_dump(mode="json")
    digest = files.sha256(folder / "best.safetensors")
    facts = {"weights_sha256": digest, "faces": faces_of("smoke-b")}
    record = planted.record("xception", 0, values, **facts)
    files.write_json(folder / "record.json", record.model_dump())
    return dfnb.create_model("untrained-s0")


@pytest.fixture
def dataset(own_home):
    return dfnb.load_dataset("smoke-b", "test")


def test_a_dataset_is_torch_s_and_has_its_table(dataset):
    assert len(dataset) == len(dataset.table) == len(select(load_frames("smoke-b"), "test"))
    batch = next(iter(DataLoader(dataset, 8)))
    assert batch.image.shape == (8, 96, 96, 3) and batch.image.dtype == torch.uint8
    assert batch.label.tolist() == dataset.table["label"].tolist()[:8]
    assert (batch.mask.sum((1, 2)) > 0).tolist() == (batch.label == 1).tolist()


def test_a_run_scores_as_in_a_report(run, dataset):
    table = dfnb.predict(run, dataset)
    reported = scoring.score(run, "smoke-b")
    for name in [*KEYS, "log_odds", "score"]:
        assert table[name].tolist() == reported[name].tolist()
    assert {*table["train_set"]} == {run.train_set}


@pytest.mark.parametrize(
    "model",
    [
        Redness(lambda red: red),
        Redness(lambda red: red[:, None]),
        Redness(lambda red: torch.stack([red * 0 + 1, red + 1], dim=1)),
        Redness(lambda red: {"logits": red}),
        Redness(lambda red: SimpleNamespace(cls=red, features=None)),
        Redness(lambda red: red).double(),
        redness,
        lambda images: redness(images)[:, None],
        lambda images: np.stack([1 - redness(images), redness(images)], axis=1),
    ],
)
def test_modules_and_functions_give_one_score_per_frame(dataset, model):
    transform = TO_TENSOR if isinstance(model, nn.Module) else None
    table = dfnb.predict(model, dataset, transform=transform)
    expected = [redness(sample.image[None])[0] for sample in dataset]
    np.testing.assert_allclose(table["score"], expected, atol=1e-6)
    assert table["video"].tolist() == dataset.table["video"].tolist()


@pytest.mark.parametrize("is_module", [False, True])
@pytest.mark.parametrize("makes_tensors", [False, True])
def test_a_function_gets_crops_of_several_sizes_as_a_module_does(dataset, is_module, makes_tensors):
    draw = np.random.default_rng(0)
    crops = [draw.integers(0, 255, (side, side, 3), np.uint8) for side in (40, 60, 80)]
    by_path = dict(zip("abc", crops))
    table = dataset.table.head(3).assign(path=[*by_path], mask="")
    frames = StoredFrames(table, by_path.__getitem__)

    def smaller(image):
        image = image.resize((32, 32))
        return TO_TENSOR(image) if makes_tensors or is_module else np.asarray(image)

    def red(images):
        if makes_tensors:
            return expit(9 * images[:, 0].mean((1, 2)) - 3)
        return redness(images)

    model = Redness(lambda red: red) if is_module else red
    table = dfnb.predict(model, frames, transform=smaller)
    resized = np.stack([np.asarray(Image.fromarray(crop).resize((32, 32))) for crop in crops])
    np.testing.assert_allclose(table["score"], redness(resized), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("logits", [1, 2])
def test_the_number_of_frames_may_leave_a_last_batch_of_one(dataset, monkeypatch, count, logits):
    """Many heads end in squeeze(), which drops the dimension of a batch of one, too."""
    monkeypatch.setattr(library, "AT_ONCE", 2)

    def columns(red):
        return np.stack([1 - red, red], axis=1) if logits == 2 else red

    def function(images):
        return columns(redness(images)).squeeze()

    module = Redness(
        lambda red: (torch.stack([-red, red], 1) / 2 if logits == 2 else red).squeeze()
    )
    expected = dfnb.predict(redness, dataset)["score"].head(count)
    scores = dfnb.predict(function, dataset[:count])["score"]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    scores = dfnb.predict(module, dataset[:count], transform=TO_TENSOR)["score"]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_module_in_half_precision_gives_its_own_outputs(dataset):
    module = Redness(lambda red: red).half()
    table = dfnb.predict(module, dataset, transform=TO_TENSOR)
    images = torch.stack([TO_TENSOR(sample.image) for sample in dataset])
    np.testing.assert_allclose(table["score"], expit(module(images.half()).tolist()), atol=1e-6)


def test_a_slice_of_a_dataset_and_the_id_of_a_run_are_scored_alike(run, dataset):
    whole = dfnb.predict(run, dataset)
    part = dfnb.predict("untrained-s0", dataset[:3])
    pd.testing.assert_frame_equal(part, whole.head(3))


def test_nothing_global_changes(run, dataset, monkeypatch):
    """Also by a run that reads frames in another process."""
    monkeypatch.setattr(scoring, "workers", lambda: 1)
    module = Redness(lambda red: red)
    cv2.setNumThreads(2)
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    for model in (run, module, redness):
        dfnb.predict(model, dataset, transform=None if model is redness else TO_TENSOR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == cv2.getNumThreads() == 2
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled() and not module.training


def constant(value):
    return lambda images: np.full(len(images), value)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (constant(2.0), "2.00 to 2.00.*return one number per image"),
        (lambda images: images, r"shape \(48, 96, 96, 3\)"),
        (Redness(lambda red: red / 0), "inf"),
        (Redness(lambda red: red).train(), "training mode"),
        ("xception", "there is no finished run 'xception'"),
    ],
)
def test_outputs_that_are_no_scores_are_refused(dataset, model, sentence):
    transform = TO_TENSOR if isinstance(model, nn.Module) else None
    with pytest.raises(DfnbError, match=sentence):
        dfnb.predict(model, dataset, transform=transform)


@pytest.mark.parametrize("data", [None, "smoke-b", np.zeros((2, 8, 8, 3)), [[0]], Dataset()])
def test_what_is_no_dataset_of_ours_is_refused(data):
    with pytest.raises(DfnbError, match=r"is no dataset; give one of load_dataset"):
        dfnb.predict(redness, data)


def test_crops_in_memory_are_scored_as_those_of_a_dataset(dataset, run):
    crops = [dataset[row].image for row in range(3)]
    for model in (redness, run):
        table = dfnb.predict(model, crops)
        assert np.allclose(table["score"], dfnb.predict(model, dataset[:3])["score"])
        assert table["label"].isna().all()
    assert dfnb.predict(redness, np.stack(crops))["score"].equals(
        dfnb.predict(redness, crops)["score"]
    )


def test_a_transform_makes_floats(dataset):
    with pytest.raises(DfnbError, match=r"leaves torch\.uint8"):
        dfnb.predict(Redness(lambda red: red), dataset, transform=v2.ToImage())


@pytest.mark.parametrize(
    ("output", "warns"),
    [
        (torch.sigmoid, True),
        (lambda red: torch.stack([-red, red], dim=1).softmax(1), True),
        (lambda red: red / 100, False),
        (lambda red: torch.stack([red / 100 + 0.1, red / 100], dim=1), False),
    ],
)
def test_probabilities_of_a_module_are_noticed_and_small_logits_are_none(
    dataset, caplog, output, warns
):
    dfnb.predict(Redness(output), dataset, transform=TO_TENSOR)
    assert ("are they probabilities" in caplog.text) == warns


def test_unknown_names_are_answered_by_the_nearest(run):
    with pytest.raises(DfnbError, match=r"did you mean untrained-s0\?"):
        dfnb.create_model("untraned")
    with pytest.raises(DfnbError, match="did you mean smoke-"):
        dfnb.load_dataset("smok-b")
    with pytest.raises(DfnbError, match="did you mean celeb-df-v2 or "):
        dfnb.load_dataset("celeb-df")
    with pytest.raises(AttributeError, match="no attribute 'predcit'"):
        dfnb.predcit  # noqa: B018


# ---------------------------------------------------------------- numbers


def test_numbers_are_those_of_the_report(run, dataset):
    table = scoring.score(run, "smoke-b")
    noise = np.random.default_rng(1).normal(size=len(table)) / 10
    log_odds = np.float32(table["log_odds"] + noise)  # as it is stored
    noisy = table.assign(log_odds=log_odds, score=expit(log_odds.astype(float)))
    tables = {Condition("smoke-b"): noisy}
    about = planted.about(run.record, tables)
    write(reports.score_path(files.report_folder("mine"), run.id), planted.rows(tables), about)
    scores = report.scores("mine")
    expected = report.measure(scores, "AUC", "test_set").iloc[0]
    number = dfnb.auc(noisy)
    assert number["value"] == expected["value"] < 1
    assert number[["low", "high"]].tolist() == expected[["low", "high"]].tolist()
    assert dfnb.auc(table, minus=noisy)["value"] == dfnb.auc(table)["value"] - number["value"]


def table_of(labels, scores):
    names = [str(i) for i in range(len(scores))]
    keys = {"video": names, "cluster": names, "track": 0, "frame": 0, "label": labels}
    return pd.DataFrame({**keys, "method": "", "score": scores})


def test_an_auc_of_labels_that_are_assigned_later_needs_three_columns_alone(caplog):
    labels = [0, 0, 0, 1, 1, 1]
    scores = [0.1, 0.4, 0.7, 0.3, 0.8, 0.9]
    table = table_of(labels, scores)
    number = dfnb.auc(table)
    assert number.value == pytest.approx(roc_auc_score(labels, scores))
    assert number.low < number.value < number.high and number.clusters == 6
    few = table[["video", "label", "score"]].astype({"score": str, "label": bool})
    assert dfnb.auc(few).equals(number)
    assert "no clusters: each video" in caplog.text


def test_a_table_without_labels_gives_no_auc():
    with pytest.raises(DfnbError, match=r"needs labels.*4 rows"):
        dfnb.auc(table_of(np.nan, [0.1, 0.2, 0.3, 0.4]))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"video": [None, None]}, "0 real and 1 fake"),
        ({"score": [0.1, None]}, "0 real and 1 fake"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(columns, sentence):
    table = {"video": ["a", "b"], "label": [0, 1], "score": [0.1, 0.9], **columns}
    with pytest.raises(DfnbError, match=sentence):
        dfnb.auc(table)


def test_a_difference_needs_the_same_videos():
    first = table_of([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(DfnbError, match="cannot be compared"):
        dfnb.auc(first, minus=first.assign(label=[0, 1, 0, 1]))


# ---------------------------------------------------------------- as it is typed


def test_importing_the_package_imports_neither_torch_nor_pandas():
    code = "import sys, dfnb; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def python_of(path):
    """The Python blocks of a document, but for those on lists of videos: test_videos tries them."""
    page = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "my-videos.csv" not in block]


@pytest.fixture
def study_home(empty_home, monkeypatch):
    """A home that has ``mine.csv`` alone, a tool's scores: the committed reports are read as well.

    Returns the table of the CSV: a video of the study's test set in each row.
    """
    monkeypatch.chdir(empty_home)
    frames = report.scores("study-bed", test_sets=["bed"])
    table = frames[["video", "label"]].drop_duplicates(ignore_index=True)
    noise = np.random.default_rng(0).normal(size=len(table))
    table["score"] = expit(table["label"] + noise)
    table.to_csv("mine.csv", index=False)
    return table


@pytest.mark.parametrize("name", ["README.md", "docs/own.md", "docs/numbers.md"])
def test_the_python_of_the_documents_works_as_it_is_typed(
    checkout, study_home, name, capsys, monkeypatch
):
    """Where no dataset was made before."""
    if name == "docs/numbers.md":  # it opens a score file of the repository's folder
        monkeypatch.chdir(checkout)
    exec("\n".join(python_of(checkout / name)), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if name == "docs/numbers.md":  # pandas alone gives the AUC of the report
        scores = report.scores("study-bed", test_sets=["bed"])
        scores = scores.query("detector == 'Baseline' and seed == 30 and corruption == ''")
        expected = report.measure(scores, "AUC", "test_set")["value"]
        assert float(printed) == pytest.approx(expected.item(), abs=1e-9)
    else:
        assert "clusters" in printed and "value" in printed


@pytest.fixture
def scores_beside(checkout):
    """Executes the lines of ``docs/own.md`` that put ``mine.csv`` beside a report; its names."""
    [lines] = [block for block in python_of(checkout / "docs" / "own.md") if "mine.csv" in block]

    def execute():
        names = {}
        exec(lines, names)
        return names

    return execute


def test_scores_of_another_tool_stand_beside_those_of_a_report(study_home, scores_beside):
    names = scores_beside()
    both = pd.concat([names["scores"], names["mine"]])
    minus = report.measure(both, "AUC", "detector", minus="mine").set_index("detector")
    own = roc_auc_score(study_home["label"], study_home["score"])
    baseline = both[both["detector"] == "Baseline"]
    theirs = [roc_auc_score(rows["label"], rows["score"]) for _, rows in baseline.groupby("seed")]
    assert len(theirs) == 5 and minus.loc["Baseline", "seeds"] == 5
    assert minus.loc["Baseline", "value"] == pytest.approx(np.mean(theirs) - own)
    alone = report.measure(both, "AUC", "detector").set_index("detector")
    assert alone.loc["mine", "value"] == pytest.approx(own)
    errors = alone.loc[["Baseline", "mine"], "error"]
    assert 0 < minus.loc["Baseline", "error"] < 1.1 * (errors**2).sum() ** 0.5  # paired


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows.assign(label=1 - rows["label"]), "a label that does not fit the method"),
        (lambda rows: rows.assign(score=rows["score"].where(rows.index != 3)), "5 rows with a sco"),
        (lambda rows: rows.assign(score="high"), "a score that is NaN or outside"),
        (lambda rows: rows.assign(score=100 * rows["score"]), "a score that is NaN or outside"),
        (lambda rows: rows.drop(index=3), "5 rows with a score that is NaN or outside"),
        (lambda rows: pd.concat([rows, rows.head(1)]), "5 rows with a video that occurs twice"),
        (lambda rows: rows.drop(columns="score"), "no column score"),
    ],
)
def test_a_mistake_in_the_scores_of_another_tool_is_one_sentence(
    study_home, scores_beside, change, sentence
):
    change(study_home).to_csv("mine.csv", index=False)
    with pytest.raises(DfnbError, match=f"^mine has .*{sentence}") as error:
        scores_beside()
    assert "\n" not in str(error.value)


def test_scores_of_one_class_are_refused(study_home, scores_beside):
    mine = scores_beside()["mine"]
    with pytest.raises(DfnbError, match=r"^mine lacks real or fake frames"):
        report.check_scores(mine[mine["label"] == 1], "mine")
