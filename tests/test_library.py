"""The four functions for a notebook of one's own: any detector, any data, the report's numbers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import clips
import cv2
import numpy as np
import pandas as pd
import planted
import pytest
import timm
import torch
from captum.attr import IntegratedGradients
from conftest import CHECKOUT
from networks import recipe
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import dfnb
from dfnb import library, papers, results
from dfnb.results import tables
from dfnb.store import reports
from dfnb.store.scores import Condition, write
from dfnb.store.units import KEYS
from dfnb.training import scoring
from dfnb.training.runs import Run
from facesets import files, prepare
from facesets.checks import DfnbError, read_yaml
from facesets.frames import faces_of, load_frames, select

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
    return Run.find("untrained-s0")


@pytest.fixture
def model(run):
    return library.Detector(run)


@pytest.fixture
def dataset(own_home):
    return dfnb.load_dataset("smoke-b", "test")


@pytest.fixture
def images(own_home):
    """The same frames as images for a module that is not ours."""
    return dfnb.load_dataset("smoke-b", "test", transform=TO_TENSOR)


def p_fake(image):
    """That of the module Redness, of a crop (H, W, 3) uint8."""
    return expit(9 * image[..., 0].mean() / 255 - 3)


def test_a_dataset_is_torch_s_and_has_its_table(dataset):
    assert len(dataset) == len(dataset.table) == len(select(load_frames("smoke-b"), "test"))
    for images, labels in DataLoader(dataset[:8], 8):
        assert images.shape == (8, 96, 96, 3) and images.dtype == torch.uint8
        assert labels.tolist() == dataset.table["label"].tolist()[:8]
    for row in range(8):
        sample = dataset.sample(row)
        assert sample.has_mask and sample.mask.any() == sample.label
        np.testing.assert_array_equal(sample.image, images[row])


def test_a_transform_makes_images_for_a_loop_and_a_detector_reads_the_crops(model, dataset):
    made = dfnb.load_dataset("smoke-b", "test", transform=model.transform)
    images, _ = next(iter(DataLoader(made[:4], 4)))
    torch.testing.assert_close(images[1], model.transform(dataset[1][0]))
    assert made.sample(1).image.dtype == np.uint8  # as it is stored
    assert dfnb.predict(model, made).equals(dfnb.predict(model, dataset))


def test_a_run_scores_as_in_a_report(run, model, dataset):
    table = dfnb.predict(model, dataset)
    reported = scoring.score(run, "smoke-b")
    for name in [*KEYS, "log_odds", "score"]:
        assert table[name].tolist() == reported[name].tolist()
    assert {*table["train_set"]} == {run.train_set}


@pytest.mark.parametrize(
    "output",
    [
        lambda red: red,
        lambda red: red[:, None],
        lambda red: torch.stack([red * 0 + 1, red + 1], dim=1),
        lambda red: {"logits": red},
        lambda red: SimpleNamespace(cls=red, features=None),
    ],
)
def test_a_module_gives_one_score_per_frame(dataset, images, output):
    table = dfnb.predict(Redness(output), images)
    expected = [p_fake(image) for image, _ in dataset]
    np.testing.assert_allclose(table["score"], expected, atol=1e-6)
    assert table["video"].tolist() == dataset.table["video"].tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("logits", [1, 2])
def test_the_number_of_frames_may_leave_a_last_batch_of_one(images, monkeypatch, count, logits):
    """Many heads end in squeeze(), which drops the dimension of a batch of one, too."""
    monkeypatch.setattr(library, "AT_ONCE", 2)
    module = Redness(
        lambda red: (torch.stack([-red, red], 1) / 2 if logits == 2 else red).squeeze()
    )
    scores = dfnb.predict(module, images[:count])["score"]
    expected = [p_fake(image.permute(1, 2, 0).numpy() * 255) for image, _ in images[:count]]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_batch_of_the_model_s_transform_is_scored_as_a_dataset(model, dataset):
    batch = torch.stack([model.transform(Image.fromarray(dataset[row][0])) for row in range(3)])
    table = dfnb.predict(model, batch)
    assert [*table] == ["score"]
    np.testing.assert_allclose(table["score"], dfnb.predict(model, dataset[:3])["score"], atol=1e-6)


def by_hand(model, frames):
    """P(fake) as a reader computes it: one image at a time."""
    inputs = [model.transform(Image.fromarray(image))[None] for image, _ in frames]
    with torch.inference_mode():
        return [model(image).softmax(1)[0, 1].item() for image in inputs]


@pytest.mark.parametrize("name", read_yaml(CHECKOUT / "data_manifest" / "models.yaml"))
def test_scores_by_hand_by_predict_and_of_a_notebook_are_equal(dataset, name):
    """Of the detectors that come with the package, all trained in bf16-mixed."""
    model = dfnb.create_model(name)
    scores = dfnb.predict(model, dataset)["score"]
    np.testing.assert_allclose(by_hand(model, dataset), scores, atol=1e-5)
    run = Run.find(model.info["id"])
    assert scores.tolist() == scoring.score(run, "smoke-b")["score"].tolist()
    assert model.info["faces"] == run.record.faces and not model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_a_call_gives_logits_as_timm_s_models_do(run):
    model = library.Detector(run)
    images = torch.rand(2, 3, 96, 96)
    assert model(images).shape == (2, 2)
    maps = IntegratedGradients(model).attribute(images, target=1, n_steps=2)
    assert maps.shape == images.shape
    with pytest.warns(UserWarning, match="trained on 96×96 pixels, not 128×96"):
        model(torch.rand(2, 3, 128, 96))


@pytest.mark.parametrize("shape", [(96, 96, 3), (150, 100, 3), (40, 40, 3)])
def test_timm_makes_the_same_input(run, shape):
    model = library.Detector(run)
    image = Image.fromarray(
        cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, shape, np.uint8), (9, 9), 2)
    )
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model))(image)
    # Half a grey level in each of two directions, in units of the standard deviation.
    assert (theirs - model.transform(image)).abs().max() <= 2 / 255 / min(model.settings.std)
    assert torch.equal(model.transform(image), model.transform(np.array(image)))


def test_a_model_is_saved_and_opened(run, dataset, tmp_path):
    model = library.Detector(run)
    model.save_pretrained(tmp_path / "same")
    same = dfnb.create_model(tmp_path / "same")
    assert same.info == model.info
    scores = dfnb.predict("untrained-s0", dataset)
    assert dfnb.predict(same, dataset).equals(scores)
    with torch.no_grad():
        next(same.parameters()).add_(0.1)
    same.save_pretrained(tmp_path / "changed")
    changed = dfnb.create_model(str(tmp_path / "changed"))
    assert changed.info["id"] == f"{run.id}-changed"
    assert changed.info["weights_sha256"] == files.sha256(tmp_path / "changed/model.safetensors")
    assert not dfnb.predict(changed, dataset).equals(scores)
    shutil.copy(tmp_path / "same/model.safetensors", tmp_path / "changed")
    with pytest.raises(DfnbError, match=r"model\.safetensors is not valid .* another sha256"):
        dfnb.create_model(tmp_path / "changed")


def test_weights_that_the_trainer_rounded_are_saved_as_it_keeps_them(run, tmp_path):
    """In float32 their sha256 would be another, and the id would say that they have changed."""
    model = library.Detector(run)
    model.settings = model.settings.model_copy(update={"half_weights": True})
    model.network.half().float()
    weight = next(model.parameters())
    for change, precision in ((0, torch.float16), (1e-6, torch.float32)):
        weight.data += change
        model.save_pretrained(tmp_path)
        saved = load_file(tmp_path / "model.safetensors").values()
        assert {each.dtype for each in saved if each.is_floating_point()} == {precision}


def test_the_table_of_models_has_the_numbers_of_the_report(own_home, run):
    table = dfnb.list_models()
    is_shipped = table["name"].str.endswith(".portraits").tolist()
    assert is_shipped == [True] * 4 + [False] * (len(table) - 4)
    assert run.id in {*table["name"]}
    shipped = dfnb.list_models("*.portraits").set_index("name")
    assert len(shipped) == 4 and shipped["weights"].all() and {*shipped["image_size"]} == {128}
    scores = results.scores("study-portraits").query("corruption == ''")
    for name, row in shipped.iterrows():
        seed_30 = scores[(scores["seed"] == 30) & (scores["detector"] == row["paper"])]
        for place in ("in-dataset", "cross-dataset"):
            rows = seed_30[seed_30["place"] == place]
            numbers = results.measure(rows, "AUC", "detector", mean_over="test_set")
            assert row[place].startswith(tables.cells(numbers)[0])
            real = rows[rows["label"] == 0]["score"]
            share = (real > Run.find(library._ids()[name]).limit).mean()
            assert row[place].endswith(f"; {share:.0%} of real called fake")
    assert "chance" not in shipped.loc["baseline.portraits", "in-dataset"]
    assert dfnb.list_models("nobody").empty


def test_predict_says_once_what_a_detector_is_and_on_what_it_was_trained(dataset, caplog):
    """A name such as xception must not stand for a small network."""
    library._say_once.cache_clear()
    model = dfnb.create_model("baseline.portraits")
    for data in (dataset[:1], dataset[1:2]):
        dfnb.predict(model, data)
    said = [record.getMessage() for record in caplog.records]
    what = "Baseline, 3,373,570 weights for 128 × 128 pixels, trained on portraits"
    assert said == [f"{what}, generated portraits: it is no judge of real faces."]
    assert dfnb.list_models("xception.*").empty
    with pytest.raises(DfnbError, match="there is no trained detector 'xception'"):
        dfnb.create_model("xception")


def test_the_table_of_datasets_begins_with_the_prepared_ones(own_home):
    table = dfnb.list_datasets().set_index("name")
    assert [*table.index[:2]] == ["smoke-a", "smoke-b"]
    assert table.loc["smoke-b", ["kind", "splits", "frames"]].tolist() == ["embedded", "test", 48]
    assert table.loc["celeb-df-v2", ["kind", "splits", "frames"]].tolist() == ["published", "", 0]
    assert {*dfnb.list_datasets("smoke-?").index} == {0, 1}


# ---------------------------------------------------------------- what is scored


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two clips in which a red face moves, one without a face, and a text."""
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    clips.write(tmp_path / "clips" / "a.mp4", clips.moving(40))
    clips.write(tmp_path / "clips" / "b" / "c.mp4", clips.moving(3))
    clips.write(tmp_path / "clips" / "nobody.mp4", [clips.draw([])] * 3)
    (tmp_path / "clips" / "notes.txt").write_text("none")
    return tmp_path / "clips"


def test_a_clip_is_scored_as_it_is_prepared(run, folder):
    model = library.Detector(run)
    table = dfnb.predict(model, folder / "a.mp4")
    settings = prepare.Settings(size=96, frames_per_video=32)
    video = prepare.Video("a", folder / "a.mp4", label=0, method="real")
    prepare.prepare("my-videos", [video], settings, clips.Blobs(), 1, one_class=True)
    prepared = dfnb.predict(model, "my-videos")
    assert table["frame"].tolist() == prepared["frame"].tolist() and len(table) == 32
    assert table["score"].tolist() == prepared["score"].tolist()
    assert {*table["video"]} == {str(folder / "a.mp4")} and table["label"].isna().all()
    picture = folder / "a.png"
    Image.fromarray(clips.moving(1)[0]).save(picture)
    assert len(dfnb.predict("untrained-s0", str(picture))) == 1


def test_of_a_folder_every_clip_is_scored_and_what_is_not_is_said(model, folder, caplog):
    table = dfnb.predict(model, folder)
    assert table.groupby("video").size().to_dict() == {
        str(folder / "a.mp4"): 32,
        str(folder / "b" / "c.mp4"): 3,
    }
    assert "not scored: " in caplog.text and "nobody.mp4" in caplog.text
    for path in [folder / "a.mp4", folder / "b" / "c.mp4"]:
        path.unlink()
    with pytest.raises(DfnbError, match="no video or picture with a face"):
        dfnb.predict(model, folder)
    with pytest.raises(DfnbError, match=r"nowhere\.mp4: missing"):
        dfnb.predict(model, "nowhere.mp4")
    with pytest.raises(DfnbError, match="there is no dataset 'nowhere'"):
        dfnb.predict(model, "nowhere")


def test_a_module_of_others_needs_images(dataset, folder):
    for data in (dataset, folder):
        with pytest.raises(DfnbError, match=r"load_dataset\(NAME, transform=...\)"):
            dfnb.predict(Redness(lambda red: red), data)


def test_a_slice_of_a_dataset_and_the_id_of_a_run_are_scored_alike(model, dataset):
    whole = dfnb.predict(model, dataset)
    part = dfnb.predict("untrained-s0", dataset[:3])
    pd.testing.assert_frame_equal(part, whole.head(3))


def test_nothing_global_changes(model, images, monkeypatch):
    """Also by a run that reads frames in another process."""
    monkeypatch.setattr(scoring, "workers", lambda: 1)
    module = Redness(lambda red: red)
    cv2.setNumThreads(2)
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    for each in (model, module):
        dfnb.predict(each, images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == cv2.getNumThreads() == 2
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled() and not module.training


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Redness(lambda red: red[:, None].repeat(1, 3)), "3 numbers per image"),
        (Redness(lambda red: red / 0), "inf"),
        (Redness(lambda red: red).train(), "training mode"),
        ("lae.portrait", "there is no trained detector 'lae.portrait'; did you mean lae.portraits"),
    ],
)
def test_outputs_that_are_no_scores_are_refused(images, model, sentence):
    with pytest.raises(DfnbError, match=sentence):
        dfnb.predict(model, images)


@pytest.mark.parametrize(
    ("output", "warns"),
    [
        (torch.sigmoid, True),
        (lambda red: torch.stack([-red, red], dim=1).softmax(1), True),
        (lambda red: (red - red.mean()) / 100, False),
        (lambda red: torch.stack([red.mean() - red, red - red.mean()], dim=1) / 100, False),
    ],
)
def test_probabilities_of_a_module_are_noticed_and_small_logits_are_none(
    images, caplog, output, warns
):
    dfnb.predict(Redness(output), images)
    assert ("are they probabilities" in caplog.text) == warns


def test_unknown_names_are_answered_by_the_nearest(run):
    with pytest.raises(DfnbError, match=r"did you mean untrained-s0\?"):
        dfnb.create_model("untraned")
    with pytest.raises(DfnbError, match="did you mean smoke-"):
        dfnb.load_dataset("smok-b")
    with pytest.raises(DfnbError, match="did you mean celeb-df-v2 or "):
        dfnb.load_dataset("celeb-df")
    with pytest.raises(AttributeError, match="dfnb has no 'predcit'; it has auc, create_model,"):
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
    scores = results.scores("mine")
    expected = results.measure(scores, "AUC", "test_set").iloc[0]
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
    with pytest.raises(DfnbError, match=r"4 rows with no label .*label: 0 real, 1 fake"):
        dfnb.auc(table_of(np.nan, [0.1, 0.2, 0.3, 0.4]))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"video": [None, None]}, r"2 rows with no video .*label: 0 real, 1 fake"),
        (
            {"score": [0.1, None]},
            r"1 rows with a score that is NaN .*\(first: score nan, .*video b",
        ),
        ({"label": ["REAL", "FAKE"]}, "could not convert string to float: 'REAL'"),
        ({"score": ["10%", 0.9]}, "could not convert string to float: '10%'"),
        ({"score": np.array([[0.9, 0.1], [0.1, 0.9]])}, r"1-dimensional, got .* of shape \(2, 2\)"),
        ({"label": [0, 1, 1]}, "1 rows with no video"),
        ({"video": ["a", "a"], "label": [1, 1]}, "a video that occurs twice .* video a"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(columns, sentence):
    table = {"video": ["a", "b"], "label": [0, 1], "score": [0.1, 0.9], **columns}
    with pytest.raises((DfnbError, ValueError), match=sentence):
        dfnb.auc(table)


def test_pandas_pairs_nothing_by_its_index():
    labels, scores = pd.Series(LABELS, index=[*"abcdef"]), pd.Series(SCORES, index=[*"fedcba"])
    expected = dfnb.auc({"label": LABELS, "score": SCORES})
    assert dfnb.auc({"label": labels, "score": scores}).equals(expected)
    tensor = torch.tensor(SCORES, requires_grad=True)
    assert dfnb.auc({"label": torch.tensor(LABELS), "score": tensor}).value == expected.value


def test_videos_of_one_name_by_several_methods_are_several():
    names, methods = ["000", "001"] * 3, ["real", "real", "swap", "swap", "warp", "warp"]
    table = {"video": names, "method": methods, "label": [0, 0, 1, 1, 1, 1]}
    scores = [0.1, 0.6, 0.2, 0.7, 0.9, 0.8]
    numbers = dfnb.measure({**table, "score": scores})
    assert numbers["value"].item() == roc_auc_score(table["label"], scores)
    assert numbers[["n_real", "n_fake", "clusters"]].values.tolist() == [[2, 4, 2]]


def test_a_difference_of_other_videos_is_of_the_common_ones_and_says_so():
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"label": [0, 1] * 20, "score": draw.uniform(size=40)})
    table = table.assign(video=range(40), detector="a")
    other = table.assign(detector="b", score=draw.uniform(size=40)).iloc[6:]
    numbers = dfnb.measure(pd.concat([table, other]), minus="b")
    aucs = [roc_auc_score(rows["label"], rows["score"]) for rows in (table.iloc[6:], other)]
    assert numbers["value"].item() == pytest.approx(aucs[0] - aucs[1])
    assert numbers[["n_real", "n_fake", "unpaired"]].values.tolist() == [[17, 17, 6]]
    with pytest.raises(DfnbError, match="cannot be compared: 6 videos"):
        dfnb.auc(table, minus=other)


def test_a_difference_needs_the_same_videos():
    first = table_of([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(DfnbError, match="cannot be compared"):
        dfnb.auc(first, minus=first.assign(label=[0, 1, 0, 1]))


LABELS, SCORES = [0, 0, 0, 1, 1, 1], [0.1, 0.4, 0.7, 0.3, 0.8, 0.9]


@pytest.mark.parametrize(
    "columns",
    [
        {"label": LABELS, "score": SCORES},
        {"label": LABELS, "log_odds": logit(SCORES)},
        {
            "label": LABELS * 2,
            "score": SCORES * 2,
            "video": [*"abcdef"] * 2,
            "frame": [0] * 6 + [9] * 6,
        },
    ],
)
def test_a_table_of_labels_and_scores_is_measured(columns):
    numbers = dfnb.measure(columns)
    assert numbers["value"].item() == pytest.approx(roc_auc_score(LABELS, SCORES))
    assert numbers["n_real"].item() == 3 and numbers["unit"].item() == "videos"
    assert dfnb.auc(columns)["low"] == numbers["low"].item()


def test_a_table_is_measured_by_any_column_of_its_own():
    """The method of real videos does not matter; another column has both classes in each group."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"label": [0, 1, 1] * 30, "score": draw.uniform(size=90)})
    table["method"] = ["youtube", "swap", "warp"] * 30
    table["camera"] = ["phone", "phone", "phone", "web", "web", "web"] * 15
    is_used = table["method"] != "warp"
    by_method = dfnb.measure(table, "AUC", by="method").set_index("method")
    swap = table[is_used]
    assert [*by_method.index] == ["swap", "warp"]
    assert by_method.loc["swap", "value"] == roc_auc_score(swap["label"], swap["score"])
    by_camera = dfnb.measure(table, "AUC", by=["camera"]).set_index("camera")
    phone = table[table["camera"] == "phone"]
    assert by_camera.loc["phone", "value"] == roc_auc_score(phone["label"], phone["score"])
    means = dfnb.measure(table.assign(size=range(90)), "size", by="method").set_index("method")
    assert means.loc["swap", "value"] == np.mean(range(1, 90, 3))
    both = pd.concat([table.assign(detector="a"), table.assign(detector="b", score=0.5)])
    with pytest.raises(DfnbError, match="no column video; it has label"):
        dfnb.measure(both, minus="b")
    names = table.index.astype(str)
    both = both.assign(video=[*names, *names])
    difference = dfnb.measure(both, minus="b")["value"].item()
    assert difference == pytest.approx(roc_auc_score(table["label"], table["score"]) - 0.5)


def test_all_columns_that_are_missing_are_named_with_those_that_are_there():
    with pytest.raises(DfnbError, match="no column label and no score and no method; it has y, p:"):
        dfnb.measure({"y": [0, 1], "p": [0.2, 0.8]}, by="method")
    with pytest.raises(DfnbError, match="no column label; it has score, a"):
        results.measure(pd.DataFrame({"score": [0.2, 0.8], "a": 1}), "AUC", "a")


# ---------------------------------------------------------------- as it is typed


def test_measuring_needs_no_torch():
    code = """
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "timm", "captum", "av"]))
import dfnb
table = {"label": [0, 0, 1, 1], "score": [0.1, 0.6, 0.4, 0.9]}
print(dfnb.measure(table, "AUC")["value"].item(), dfnb.auc(table)["value"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0.75 0.75\n", done.stderr


def test_the_package_shows_what_is_public():
    assert dir(dfnb) == sorted(dfnb.__all__) and callable(dfnb.list_models)
    assert re.fullmatch(r"\d+\.\d+\.\d+", dfnb.__version__)
    assert Path(dfnb.__file__).with_name("py.typed").exists()


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
    """A home with ``my-scores.csv``, a tool's scores, and ``clip.mp4``, in which a red face moves.

    The committed reports are read as well.

    Returns the table of the CSV: a video of the study's test set in each row.
    """
    monkeypatch.chdir(empty_home)
    frames = results.scores("study-ff-like", test_sets=["ff-like"])
    table = frames[["video", "label"]].drop_duplicates(ignore_index=True)
    noise = np.random.default_rng(0).normal(size=len(table))
    table["score"] = expit(table["label"] + noise)
    table.to_csv("my-scores.csv", index=False)
    clips.write(empty_home / "clip.mp4", clips.moving(12))
    monkeypatch.setattr(prepare, "YuNet", clips.Blobs)
    return table


@pytest.mark.parametrize("name", ["docs/your-detector.md", "docs/methods.md"])
def test_the_python_of_the_documents_works_as_it_is_typed(
    checkout, study_home, name, capsys, monkeypatch
):
    """Where no dataset was made before."""
    if name == "docs/methods.md":  # it opens a score file of the repository's folder
        monkeypatch.chdir(checkout)
    exec("\n".join(python_of(checkout / name)), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if name == "docs/methods.md":  # pandas alone gives the AUC of the report
        scores = results.scores("study-ff-like", test_sets=["ff-like"])
        scores = scores.query("detector == 'Baseline' and seed == 30 and corruption == ''")
        expected = results.measure(scores, "AUC", "test_set")["value"]
        assert float(printed) == pytest.approx(expected.item(), abs=1e-9)
    else:
        assert "clusters" in printed and "value" in printed


def test_the_measures_of_the_reference_work_as_they_are_typed(checkout, study_home):
    text = (checkout / "docs" / "reference.md").read_text(encoding="utf-8")
    section = text.partition("\n## Measures\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    exec("\n".join(blocks), {})
    lines = Path("reports/my-report/tables/errors.md").read_text("utf-8").splitlines()
    assert lines[0] == "# Equal error rate of videos"
    assert any(line.startswith("| Baseline") for line in lines)


@pytest.fixture
def scores_beside(checkout):
    """Executes the lines of the document that put ``my-scores.csv`` beside a report; its names."""
    blocks = python_of(checkout / "docs" / "your-detector.md")
    [lines] = [block for block in blocks if "my-scores.csv" in block]

    def execute():
        names = {}
        exec(lines, names)
        return names

    return execute


def test_scores_of_another_tool_stand_beside_those_of_a_report(study_home, scores_beside):
    names = scores_beside()
    both = pd.concat([names["scores"], names["my_scores"]])
    minus = results.measure(both, "AUC", "detector", minus="my tool").set_index("detector")
    own = roc_auc_score(study_home["label"], study_home["score"])
    baseline = both[both["detector"] == "Baseline"]
    theirs = [roc_auc_score(rows["label"], rows["score"]) for _, rows in baseline.groupby("seed")]
    assert len(theirs) == 5 and minus.loc["Baseline", "seeds"] == 5
    assert minus.loc["Baseline", "value"] == pytest.approx(np.mean(theirs) - own)
    alone = results.measure(both, "AUC", "detector").set_index("detector")
    assert alone.loc["my tool", "value"] == pytest.approx(own)
    errors = alone.loc[["Baseline", "my tool"], "error"]
    assert 0 < minus.loc["Baseline", "error"] < 1.1 * (errors**2).sum() ** 0.5  # paired


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows.assign(label=1 - rows["label"]), "a label that does not fit the method"),
        (lambda rows: rows.assign(score=rows["score"].where(rows.index != 3)), "5 rows with a sco"),
        (lambda rows: rows.assign(score=100 * rows["score"]), "a score that is NaN or outside"),
        (lambda rows: rows.drop(index=3), "5 rows with no label"),
        (lambda rows: pd.concat([rows, rows.head(1)]), "5 rows with a video that occurs twice"),
        (lambda rows: rows.drop(columns="score"), "no column score"),
    ],
)
def test_a_mistake_in_the_scores_of_another_tool_is_one_sentence(
    study_home, scores_beside, change, sentence
):
    change(study_home).to_csv("my-scores.csv", index=False)
    with pytest.raises(DfnbError, match=f"^my-scores.csv.*{sentence}") as error:
        scores_beside()
    assert "\n" not in str(error.value)


def test_scores_of_one_class_are_refused(study_home, scores_beside):
    my_scores = scores_beside()["my_scores"]
    with pytest.raises(DfnbError, match=r"^my-scores.csv lacks real or fake frames"):
        results.check_scores(my_scores[my_scores["label"] == 1], "my-scores.csv")
