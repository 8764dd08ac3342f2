"""Maps: each method must find a planted mark, the measures must say so, and what ignores the network must be caught."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import captum.attr
import cv2
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from dfnb import attribution, claims, core, figures, metrics, train
from dfnb.core import DfnbError
from dfnb.data import frames, prepare
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import xception

SIDE, MARK = 48, 12
EXPLAIN = [name for name in attribution.METHODS if name not in attribution.CONTROLS]


class Planted(nn.Module):
    """Fake is what has something red in it: one convolution that sees red, and nothing else."""

    def __init__(self):
        super().__init__()
        self.red, self.relu, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Linear(2, 2)
        with torch.no_grad():
            self.red.weight.zero_()
            self.red.weight[0, :, 1, 1] = torch.tensor([1.0, -0.5, -0.5])
            self.red.bias.copy_(torch.tensor([-1.0, -1.0]))
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [80.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -2.0]))

    def forward(self, images):
        return {"cls": self.head(self.relu(self.red(images)).mean((2, 3)))}

    def score(self, outputs):
        return outputs["cls"].softmax(1)[:, 1]


@dataclasses.dataclass(frozen=True)
class PlantedRun(train.Run):
    """A run whose network is the planted one."""

    def network(self):
        return Planted().eval()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A dataset whose fakes have a red mark in one corner, which is their mask, and the run that knows it."""
    patch, home = pytest.MonkeyPatch(), tmp_path_factory.mktemp("planted")
    patch.setenv("DFNB_HOME", str(home))
    figures.style()
    for i in range(16):
        label, draw = i % 2, core.rng("planted", i)
        crops = draw.integers(90, 160, (2, SIDE, SIDE, 1), dtype=np.uint8).repeat(3, 3)
        masks = np.zeros((2, SIDE, SIDE), bool)
        if label:
            corner = tuple(slice(0, MARK) if draw.random() < 0.5 else slice(SIDE - MARK, SIDE) for _ in range(2))
            crops[(slice(None), *corner)], masks[(slice(None), *corner)] = (255, 0, 0), True
        points = [12, 16, 36, 16, 24, 26, 16, 36, 32, 36]
        row = {
            "dataset": "planted",
            "split": "test" if i > 3 else "train",
            "track": 0,
            "cluster": str(i),
            "label": label,
        }
        row |= {"identity": "", "source": "", "method": "mark" if label else "real", "landmarks": points}
        row |= {"crop_box": [0, 0, SIDE, SIDE], "scale": 1.0}
        frames.write_video(
            home / "datasets" / "planted" / "videos" / f"v{i}", [row | {"frame": k} for k in range(2)], crops, masks
        )
    record = frames.write_dataset(home / "datasets" / "planted", {})
    settings = xception.Settings(backbone="dfnb_plain7", pretrained=False, image_size=SIDE)
    parameters = {"paper": "xception", "train_set": "planted", "seed": 0, "seen_methods": None}
    parameters |= {"settings": settings.model_dump(mode="json"), "fingerprint": record["fingerprint"]}
    folder = home / "reports" / "unit" / "runs" / "xception-planted"
    run = PlantedRun(folder, {"parameters": parameters, "outputs": {"best.safetensors": "planted"}})
    path, test = folder / "scores" / "planted.parquet", frames.select(frames.load_frames("planted"), "test")
    metrics.write_scores(path, train.predict(run.network(), test, run.settings))
    facts = {"fingerprint": record["fingerprint"], "n": len(test), "sha256": core.sha256(path)}
    core.write_json(path.with_suffix(".json"), facts)
    yield run, attribution.sample("planted", 6)
    patch.undo()


def test_the_sample_is_balanced_and_of_the_test_split(planted):
    _, chosen = planted
    assert chosen["method"].value_counts().to_dict() == {"mark": 6, "real": 6} and set(chosen["split"]) == {"test"}
    assert chosen["video"].nunique() == 12


@pytest.mark.parametrize("method", EXPLAIN)
def test_each_method_finds_the_planted_mark_and_the_measures_say_so(planted, method):
    run, chosen = planted
    attribution.measure(run, chosen, method)
    table = attribution.read(run, "planted", method)
    fakes = table[table["label"] == 1]
    assert table.loc[table["label"] == 0, "energy"].isna().all() and fakes["seen"].all()
    assert (fakes["chance"] == MARK**2 / SIDE**2).all()
    assert fakes["pointing"].mean() > 0.9 and fakes["energy"].mean() > 0.55 and fakes["pixel_ap"].mean() > 0.8
    assert fakes["best_iou"].mean() > 0.6 and fakes["pixel_auc"].mean() > 0.97
    attribution.measure(run, chosen, "random")
    chance = attribution.read(run, "planted", "random").dropna()
    assert chance["energy"].mean() < 0.2 and chance["pixel_ap"].mean() < 0.3
    assert (
        fakes["deletion"].mean() < chance["deletion"].mean() and fakes["insertion"].mean() > chance["insertion"].mean()
    )


def test_deletion_and_insertion_end_where_they_must(planted):
    run, chosen = planted
    images = figures.as_batch(run, chosen)[0]["image"]
    network = run.network()
    marks = (images[:, 0] - images[:, 1] > 1).float().numpy()
    deleted, inserted = attribution.faithfulness(network, images, marks)
    whole, empty = (network.score(network(each)).detach().numpy() for each in (images, images * 0))
    for curve, ends in ((deleted, (whole, empty)), (inserted, (empty, whole))):
        np.testing.assert_allclose(curve[:, 0], ends[0], atol=1e-6)
        np.testing.assert_allclose(curve[:, -1], ends[1], atol=1e-6)
    fake = chosen["label"].to_numpy() == 1
    assert (deleted[fake, 1] < 0.2).all() and (inserted[fake, 1] > 0.9).all()  # the mark is 6 % of the pixels


def test_grad_cam_is_its_formula(planted):
    run, chosen = planted
    network, images = run.network(), figures.as_batch(run, chosen)[0]["image"]
    activation = network.relu(network.red(images)).detach().requires_grad_()
    (network.head(activation.mean((2, 3))).diff(dim=1)).sum().backward()
    expected = (activation.grad.mean((2, 3), keepdim=True) * activation).sum(1).relu().detach()
    found = attribution.grad_cam(network, images)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", EXPLAIN)
def test_maps_are_those_of_captum_by_hand(planted, method):
    run, chosen = planted
    network, images = run.network(), figures.as_batch(run, chosen)[0]["image"]

    def logit(batch):
        cls = network(batch)["cls"]
        return cls[:, 1] - cls[:, 0]

    by_hand = {
        "Grad-CAM": lambda: captum.attr.LayerGradCam(logit, network.relu).attribute(images).relu(),
        "Integrated Gradients": lambda: captum.attr.IntegratedGradients(logit).attribute(
            images, 0 * images, n_steps=24
        ),
        "occlusion": lambda: captum.attr.Occlusion(logit).attribute(images, (3, 6, 6), (3, 3, 3), 0),
        "superpixels": lambda: captum.attr.FeatureAblation(logit).attribute(
            images, 0, feature_mask=attribution.segments(images)
        ),
    }[method]()
    expected = by_hand.sum(1).clamp(min=0).detach().numpy()
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-12)
    np.testing.assert_allclose(attribution.compute(network, images, method), expected, atol=2e-3)


def test_superpixels_are_connected_to_place_and_colour(planted):
    run, chosen = planted
    images = figures.as_batch(run, chosen)[0]["image"]
    found = attribution.segments(images)
    assert found.shape == (len(images), 1, SIDE, SIDE) and found.max() == 63
    fake = int(np.flatnonzero(chosen["label"])[0])
    red = images[fake, 0] - images[fake, 1] > 1
    inside, outside = (set(found[fake, 0][part].tolist()) for part in (red, ~red))
    assert not inside & outside


def test_what_ignores_the_network_fails_the_sanity_test_and_is_marked(planted):
    run, chosen = planted
    names = [*EXPLAIN, *attribution.CONTROLS]
    attribution.sanity(run, chosen, names, {"another seed": run})
    assert attribution.fails(run) == set(attribution.CONTROLS)
    table = attribution.sane({"line": [run]})
    assert table.loc[("line", "edges"), "all"] == "1.00" and table.loc[("line", "edges"), "verdict"] == "fails"
    assert (
        table.loc[("line", "Grad-CAM"), "another seed"] == "1.00"
        and table.loc[("line", "Grad-CAM"), "verdict"] == "passes"
    )
    agreed = attribution.agreement({"line": [run]})
    assert agreed.loc[("line", "edges (fails sanity)"), "edges"] == "1.00"
    drawn = attribution.figure(run, chosen, ["Grad-CAM", "edges"])
    labels = [axis.get_ylabel() for axis in drawn.axes]
    assert "edges\n(fails sanity)" in labels and "Grad-CAM" in labels
    plt.close("all")
    for name in names:
        attribution.measure(run, chosen, name)
    masks = attribution.against_masks({"line": [run]})
    assert ("line", "edges (fails sanity)", "planted") in masks.index and (
        "line",
        "occlusion",
        "planted",
    ) in masks.index
    assert masks.loc[("line", "occlusion", "planted"), "pointing game"].startswith("1.000 [")
    groups = attribution.by_group({"line": [run]})
    assert set(groups.index.get_level_values(2)) == {"seen", "right"}  # nothing here is unseen, and nothing missed
    assert attribution.curves({"line": [run]}) is not None and attribution.average(run, chosen, "Grad-CAM") is not None
    plt.close("all")


def test_an_empty_map_fails(planted, monkeypatch):
    run, chosen = planted
    monkeypatch.setitem(attribution.METHODS, "zeros", lambda network, images: 0 * images[:, 0])
    attribution.sanity(run, chosen, ["zeros", "occlusion"], {})
    assert attribution.fails(run) == {"zeros"}


def test_maps_are_kept_by_their_record(planted, monkeypatch):
    run, chosen = planted
    first = attribution.maps(run, chosen, "edges")
    monkeypatch.setattr(attribution, "compute", lambda *_: pytest.fail("made twice"))
    np.testing.assert_array_equal(attribution.maps(run, chosen, "edges"), first)
    other = PlantedRun(run.folder, run.record | {"outputs": {"best.safetensors": "other weights"}})
    with pytest.raises(pytest.fail.Exception):
        attribution.maps(other, chosen, "edges")
    for path in (run.folder / "attribution").glob("*edges*.json"):
        path.unlink()
    with pytest.raises(pytest.fail.Exception):
        attribution.maps(run, chosen, "edges")


def test_slow_methods_say_their_cost_first(planted):
    run, chosen = planted
    said = []
    for path in (run.folder / "attribution").glob("*superpixels*"):
        path.unlink()
    attribution.maps(run, chosen, "superpixels", said.append)
    assert said[0].startswith("superpixels, xception-planted: 12 frames, 65 passes each, about")


def test_layers_and_methods_that_are_not_there_are_named(planted, tmp_path):
    run, chosen = planted
    np.testing.assert_array_equal(
        attribution.maps(run, chosen, "Grad-CAM@relu"), attribution.maps(run, chosen, "Grad-CAM")
    )
    with pytest.raises(DfnbError, match="no layer 'blue'; it has red, relu, head"):
        attribution.maps(run, chosen, "Grad-CAM@blue")
    with pytest.raises(DfnbError, match="no map with an effect on the decision"):
        attribution.maps(run, chosen, "Grad-CAM@head")
    with pytest.raises(DfnbError, match="no map 'DeepLift'; it has Grad-CAM, Integrated Gradients"):
        attribution.maps(run, chosen, "DeepLift")
    with pytest.raises(DfnbError, match="holds no finished run"):
        train.Run.open(tmp_path)
    with pytest.raises(DfnbError, match="run notebook 07 again"):
        attribution.read(run, "planted", "located patches")


class Red:
    """A detector: what is red is a face."""

    sha256 = "0" * 64

    def __call__(self, image):
        red = ((image[..., 2] > 140) & (image[..., 0] < 100)).astype(np.uint8)
        boxes = cv2.connectedComponentsWithStats(red)[2][1:]
        return np.array([[x, y, w, h, *[x, y] * 5, 0.9] for x, y, w, h, n in boxes if n > 60], float).reshape(-1, 15)


@pytest.fixture
def red(planted, monkeypatch):
    monkeypatch.setattr(prepare, "detector_path", lambda: None)
    monkeypatch.setattr(prepare, "YuNet", lambda path: Red())


def faces(*boxes, size=(300, 200)):
    image = np.full((size[1], size[0], 3), 100, np.uint8)
    for x, y, side in boxes:
        image[y : y + side, x : x + side] = (200, 30, 30)
    return image


def test_a_readers_picture_goes_through_the_preparation(red, planted, tmp_path):
    said, path = [], tmp_path / "two.png"
    Image.fromarray(faces((20, 20, 40), (150, 60, 80))).save(path)
    face = attribution.picture(path, said.append)
    assert len(face) == 1 and said == ["two.png has 2 faces; the largest is taken, at x 138 to 242, y 48 to 152"]
    drawn = attribution.judge({"planted": planted[0]}, face)
    assert any("P(fake)" in axis.get_title() for axis in drawn.axes) and "no proof" in drawn.get_supxlabel()
    plt.close("all")


def test_a_picture_without_a_face_or_file_is_one_sentence(red, tmp_path):
    Image.fromarray(faces()).save(tmp_path / "none.png")
    with pytest.raises(DfnbError, match=r"none\.png: no face in 1 frames; give a picture with a face"):
        attribution.picture(tmp_path / "none.png")
    with pytest.raises(DfnbError, match="there is no file"):
        attribution.picture(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DfnbError, match=r"text\.png: not an image, or truncated"):
        attribution.picture(tmp_path / "text.png")


def test_odd_pictures_are_read_as_they_look(tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(48, 0)
    wanted = np.repeat(ramp[..., None], 3, 2)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([wanted, np.full_like(ramp, 128)])).save(tmp_path / "alpha.png")
    turned = Image.fromarray(wanted).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("grey", "deep", "alpha", "turned"):
        np.testing.assert_array_equal(prepare.read_image(tmp_path / f"{name}.png"), wanted, err_msg=name)


def test_twelve_megapixels_are_no_obstacle(red, tmp_path):
    Image.fromarray(faces((1000, 800, 900), size=(4000, 3000))).save(tmp_path / "large.png")
    face = attribution.picture(tmp_path / "large.png")
    assert face["scale"].item() == pytest.approx(256 / (900 * 1.3), rel=0.05)


def test_a_real_portrait_is_found(planted, tmp_path, monkeypatch):
    real, weights = os.environ.get("DFNB_REAL_DATA"), os.environ.get("DFNB_DETECTOR")
    if not (real and weights):
        pytest.skip("needs DFNB_REAL_DATA (a folder with portraits/) and DFNB_DETECTOR (YuNet's .onnx)")
    face = attribution.picture(sorted(Path(real, "portraits").glob("*.jpg"))[0])
    points = frames.landmarks_array(face)[0]
    assert (points[0, 0] < points[1, 0]) and (points[:2, 1] < points[3:, 1]).all()  # eyes side by side, above the mouth


def test_shuffled_labels_are_the_same_pictures_with_others_labels(home):
    name = attribution.shuffled("smoke-a")
    before, after = frames.load_frames("smoke-a"), frames.load_frames(name)
    train_rows = (before["split"] == "train").to_numpy()
    assert (before["label"] == after["label"])[~train_rows].all()
    changed = before["label"][train_rows] != after["label"][train_rows]
    assert 0.1 < changed.mean() < 0.9
    methods = [
        table[train_rows].drop_duplicates("video")["method"].astype(str).value_counts() for table in (before, after)
    ]
    assert methods[0].to_dict() == methods[1].to_dict()
    assert (after["mask"].astype(str)[train_rows & (after["label"] == 0)] == "").all()
    pixels = [frames.Pixels(table.attrs["folder"]) for table in (before, after)]
    crops = [each.crop(table["path"].iloc[5], table["row"].iloc[5]) for each, table in zip(pixels, (before, after))]
    np.testing.assert_array_equal(*crops)


@pytest.fixture(scope="module")
def small(smoke_home):
    patch = pytest.MonkeyPatch()
    patch.setenv("DFNB_HOME", str(smoke_home))
    small = {
        "backbone": "dfnb_plain7",
        "pretrained": False,
        "image_size": 96,
        "epochs": 1,
        "batch_size": 16,
        "lr": 2e-3,
    }
    small |= {"augmentation": "light", "branches": 2, "fusion_widths": (8, 8, 8), "channel_order": "corrected"}
    whole, without = etd.Settings(**small), etd.Settings(**small, information_losses=("gil",))
    paper = "exposing_the_deception"
    yield {
        "main": [train.train(paper, "smoke-a", whole, seed) for seed in (21, 22)],
        "CE + GIL": [train.train(paper, "smoke-a", without, 22)],
    }
    patch.undo()


def test_branches_are_compared_pair_by_pair_and_over_seeds(small):
    table = attribution.branch_table(small, "smoke-a", n=12)
    assert list(table.index) == ["main", "CE + GIL"] and list(table["seeds"]) == [2, 1]
    assert "[" in table.loc["main", "CKA"] and "[" not in table.loc["CE + GIL", "map overlap"]


def test_branches_that_are_the_same_have_likeness_one():
    torch.manual_seed(0)
    settings = {"backbone": "dfnb_plain7", "pretrained": False, "branches": 2, "fusion_widths": (8, 8, 8)}
    network = etd.Network(etd.Settings(**settings, channel_order="corrected")).eval()
    images = torch.randn(8, 3, 48, 48)
    apart = attribution.branch_likeness(network, images)
    assert list(apart.index) == [(1, 2)] and apart["CKA"].item() < 0.999
    network.branches[1].load_state_dict(network.branches[0].state_dict())
    width = network.branches[0].num_features
    with torch.no_grad():  # the fusion, too, must treat the two alike for their maps to be the same
        network.fusion[0].weight[:, width:] = network.fusion[0].weight[:, :width]
    same = attribution.branch_likeness(network, images)
    assert same["CKA"].item() == pytest.approx(1) and same["map overlap"].item() == pytest.approx(1, abs=1e-5)


def test_grad_cam_sees_what_moves_the_score_also_where_it_is_sure(small):
    run = small["main"][0]
    network, images = run.network(), figures.as_batch(run, figures.panel_frames("smoke-a"))[0]["image"]
    with torch.no_grad():  # every feature speaks for fake, so that the maps cannot be empty by chance
        head = network.cls_head[1]
        head.weight.copy_(head.weight.abs() * torch.tensor([[-1.0], [1.0]]))
    maps = attribution.compute(network, images, "branch 1")
    assert maps.shape == images[:, 0].shape and maps.min() >= 0 and maps.max() == 1
    with torch.no_grad():
        head.bias[1] += 100  # P(fake) is exactly 1 in float32: the gradient of the score is gone
    assert (network.score(network(images)) == 1).all()
    np.testing.assert_allclose(attribution.compute(network, images, "branch 1"), maps, atol=1e-3)


def fake_maps(shift):
    """Maps of two branches that look at squares of 24 pixels, one of them moved to the right."""
    branches = {name: np.zeros((48, 48), np.float32) for name in ("branch 1", "branch 2")}
    branches["branch 1"][:24, :24] = branches["branch 2"][:24, shift : 24 + shift] = 1
    branches["union"] = np.maximum(*branches.values())
    return lambda run, table, name, *_: np.stack([branches[name]] * len(table))


def test_the_union_holds_every_branch_and_its_table_says_how_far_apart_they_are(small, monkeypatch):
    run, chosen = small["main"][0], attribution.sample("smoke-a", 2)
    branches = [attribution.maps(run, chosen, name) for name in attribution.own(run)[:-1]]
    np.testing.assert_array_equal(attribution.maps(run, chosen, "union"), np.maximum(*branches))
    monkeypatch.setattr(attribution, "maps", fake_maps(12))
    attribution.measure(run, chosen, "union", curves=False)
    table = attribution.read(run, "smoke-a", "union")
    assert table["apart"][table["label"] == 1].to_numpy() == pytest.approx(1 - 12 / 36) and "deletion" not in table
    keys = metrics.KEY["frame"]
    scores = table[keys].merge(figures.read(run, "smoke-a").astype({"video": str}), on=keys)["score"]
    assert table["score"].equals(scores)


def test_a_claim_about_maps_is_judged_from_their_files(small, monkeypatch):
    chosen = attribution.sample("smoke-a", 3)
    runs = [small["main"][1], *small["CE + GIL"]]
    for run, shift in zip(runs, (12, 0)):
        monkeypatch.setattr(attribution, "maps", fake_maps(shift))
        attribution.measure(run, chosen, "union", curves=False)
    claim = claims.OPTIONAL | {"paper": "exposing_the_deception", "metric": "apart", "map": "union", "source": "test"}
    claim |= {
        "line": "losses/main",
        "against": "losses/CE + GIL",
        "says": "",
        "sets": ["home", "away"],  # notebook 07 does not look at "elsewhere"
        "reproduced": 0.1,
        "partly": 0,
    }
    book = SimpleNamespace(
        profile="any",
        lines={"ETD": small["main"]},
        arms=lambda source: {"ETD": small},
        runs=runs,
        test_sets=["smoke-a", "elsewhere"],
    )
    monkeypatch.setattr(claims, "manifest", lambda: ({}, [claim]))
    monkeypatch.setattr(claims.grid, "asked", lambda *_: SimpleNamespace(test_sets=["smoke-a"]))
    judged = claims.judged(book)
    row = judged.iloc[0]
    assert list(judged.index.get_level_values("on")) == ["smoke-a"]
    assert row["ours"].startswith("0.667 [") and row["verdict"] == "reproduced"
