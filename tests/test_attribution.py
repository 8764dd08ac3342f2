"""Maps find a planted mark, the measures say so, and what ignores the network is caught."""

import doctest
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from networks import small
from PIL import Image
from torch import nn

from dfnb.attribution import maps, measures, pictures
from dfnb.data.loading import as_batch
from dfnb.papers import backbones, xception
from dfnb.papers.contract import Network
from dfnb.running import parameters
from dfnb.store.runs import Training
from dfnb.store.units import KEYS
from dfnb.training.runs import Run
from facesets.checks import DfnbError
from facesets.frames import write_dataset, write_video
from facesets.seeds import rng

SIDE, MARK = 48, 12  # of frames and of the mark, in pixels
EXPLAIN = [name for name in maps.EXPLAINERS if name != "edges"]


class Planted(Network):
    """Fake is what has something red in it: one convolution that sees red, and nothing else.

    The first channel is red minus the mean of green and blue, minus 1, where that is positive, and
    the second is 0. The log-odds of fake are 80 times its mean over the image, minus 2.
    """

    def __init__(self):
        super().__init__()
        self.feature_info = [{"module": "relu"}]
        self.red = nn.Conv2d(3, 2, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.red.weight.zero_()
            self.red.weight[0, :, 1, 1] = torch.tensor([1.0, -0.5, -0.5])
            self.red.bias.fill_(-1)
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [80.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -2.0]))

    def forward(self, images):
        seen = self.relu(self.red(images))
        return {"cls": self.head(seen.mean((2, 3))), "seen": seen}

    def localise(self, outputs):
        return (outputs["seen"][:, 0] > 0).float()

    def maps(self):
        return {"marks": "localise", "red stream": "red", "union": ("marks", "red stream")}

    def compare(self, part_maps, images):
        first, second = part_maps
        return {"apart": np.abs(first - second).mean((1, 2))}


class PlantedRun(Run):
    """A run with the planted network."""

    def network(self):
        return Planted().eval()


def write_planted_video(folder, number):
    """Two frames of grey noise; in every second video, a fake, one corner is red.

    Videos 0 to 3 are for training. The masks of videos 14 and 15 are unknown.
    """
    draw = rng("planted", number)
    crops = draw.integers(90, 160, (2, SIDE, SIDE, 1), dtype=np.uint8).repeat(3, 3)
    masks = np.zeros((2, SIDE, SIDE), bool)
    label = number % 2
    if label:
        row, column = draw.choice([0, SIDE - MARK], 2)
        mark = (slice(None), slice(row, row + MARK), slice(column, column + MARK))
        crops[mark] = (255, 0, 0)
        masks[mark] = True
    frame = {
        "dataset": "planted",
        "split": "test" if number > 3 else "train",
        "track": 0,
        "cluster": str(number),
        "identity": "",
        "source": "",
        "method": "mark" if label else "real",
        "label": label,
        "landmarks": [12, 16, 36, 16, 24, 26, 16, 36, 32, 36],
        "crop_box": [0, 0, SIDE, SIDE],
        "scale": 1.0,
    }
    rows = [{**frame, "frame": 0}, {**frame, "frame": 1}]
    known_masks = None if number > 13 else masks
    write_video(folder / "videos" / f"v{number}", rows, crops, known_masks)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Test frames of a dataset whose fakes have a red mark, and a run that knows the mark."""
    home = tmp_path_factory.mktemp("planted")
    folder = home / "datasets" / "planted"
    for number in range(16):
        write_planted_video(folder, number)
    write_dataset(folder, {"size": SIDE, "scale": 2.0})
    settings = xception.Settings(backbone="dfnb_plain7", pretrained=False, image_size=SIDE)
    training = Training(
        paper="xception",
        train_set="planted",
        seed=0,
        seen_methods=None,
        frames_per_video=None,
        data="",
        settings=settings.model_dump(mode="json"),
        start_weights="",
        version=1,
        numbers=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        yield PlantedRun("planted", SimpleNamespace(parameters=training))


@pytest.fixture
def frames(planted):
    return measures.sample("planted", 6)


@pytest.fixture
def images(planted, frames):
    return as_batch(frames, planted.settings)["image"]


def test_the_sample_is_balanced_and_of_the_test_split(frames):
    assert frames["method"].value_counts().to_dict() == {"mark": 6, "real": 6}
    assert set(frames["split"]) == {"test"} and frames["video"].nunique() == 12
    assert measures.sample("planted", 6, ["mark"]).equals(frames)
    assert measures.sample("planted", 6, ["another"]).empty  # no fake of this method


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("name", [*EXPLAIN, "red stream"])
def test_each_method_finds_the_planted_mark_and_the_measures_say_so(planted, frames, name):
    table = measures.measure_map(planted, frames, name)
    # One row per forged frame, in their order.
    forged = frames[frames["label"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[list(KEYS)], forged[list(KEYS)])
    masked = table.dropna(subset="energy")
    assert len(masked) == 5  # one of the six forged videos has no mask
    assert masked["pointing"].mean() > 0.9
    assert masked["energy"].mean() > 0.55
    assert masked["pixel_ap"].mean() > 0.8
    assert masked["pixel_auc"].mean() > 0.97
    chance = measures.measure_map(planted, frames, "random")
    assert chance["energy"].mean() < 0.2
    assert table["deletion"].mean() < chance["deletion"].mean()  # without masks, too


def toy():
    """Channels A_1 = x and A_2 = 2x - 1 of the first colour x, and s, the mean of 8 A_1 - 4 A_2."""
    convolution, head = nn.Conv2d(3, 2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        convolution.weight.zero_()[:, 0, 0, 0] = torch.tensor([1.0, 2.0])
        convolution.bias.copy_(torch.tensor([0.0, -1.0]))
        head.weight.copy_(torch.tensor([[8.0, -4.0]]))
    pooling = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(convolution, nn.ReLU(inplace=True), pooling, nn.Flatten(), head)


def test_grad_cam_by_hand():
    network = toy()
    images = torch.tensor([[0.0, 0.25], [1.0, 3.0]]).expand(1, 3, 2, 2)
    # After the ReLU, A_2 = 0, 0, 1, 5, and the gradients of the mean over 4 positions: α = 2, -1.
    after_relu = torch.tensor([[[0.0, 0.5], [1.0, 1.0]]])
    torch.testing.assert_close(maps.grad_cam(network, images, network[1]), after_relu)
    # Before the ReLU, which works in place, A_2 = -1, -0.5, 1, 5. The gradient is zero where a
    # channel is not positive, so α = 2 · 3/4, -1 · 2/4.
    before_relu = torch.tensor([[[0.5, 0.625], [1.0, 2.0]]])
    torch.testing.assert_close(maps.grad_cam(network, images, network[0]), before_relu)
    np.testing.assert_allclose(maps.compute(network, images, layer="0"), before_relu / 2)


def test_grad_cam_is_zero_at_a_layer_without_effect_on_the_decision():
    torch.manual_seed(1)  # with some random weights the map of the SRM stream is empty, too
    network = small("locate_and_verify", modules=("second_stream", "mpff")).eval()
    images = torch.randn(1, 3, 96, 96)
    assert (maps.compute(network, images, "RGB stream") == 0).all()  # it locates alone
    assert (maps.compute(network, images, "SRM stream") > 0).any()


def test_one_or_two_logits_give_the_log_odds():
    for outputs in ([[1.0, 4.0]], [[3.0]], [3.0]):
        assert maps.evidence(nn.Identity(), torch.tensor(outputs)).tolist() == [3]
    with pytest.raises(DfnbError, match=r"shape \(2, 5\) for 2 images; return logits"):
        maps.evidence(nn.Identity(), torch.zeros(2, 5))


def test_the_example_of_compute_runs():
    assert doctest.testmod(maps) == (0, 3)


def test_a_layer_without_a_map_is_refused():
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(DfnbError, match=r"a layer that returns a map, not Tensor \(1, 1\)"):
        maps.compute(toy(), images, layer="4")
    with pytest.raises(DfnbError, match=r"Sequential does not say which layer .* as layer="):
        maps.compute(toy(), images)
    with pytest.raises(DfnbError, match=r"layer='0' is for Grad-CAM alone, and .* 'edges'"):
        maps.compute(toy(), images, "edges", layer="0")
    with pytest.raises(DfnbError, match=r"square images, not 4 × 2;"):
        maps.compute(Planted(), images[..., :2], layer="red")


def test_integrated_gradients_sum_to_the_log_odds_against_grey(planted, images):
    log_odds = partial(maps.evidence, planted.network())
    expected = (log_odds(images) - log_odds(0 * images)).detach()
    values = maps.integrated_gradients(planted.network(), images)
    torch.testing.assert_close(values.sum((1, 2)), expected, rtol=0.05, atol=0.05)


FAMILIES = [
    ("test_resnet", 96, 3, "layer4"),
    ("test_convnext", 96, 3, "stages.3"),
    ("hiera_tiny_224", 224, 7, "blocks.11.norm1"),
    ("swin_tiny_patch4_window7_224", 96, 3, "layers.3"),
    ("test_vit", 96, 6, "blocks.5.norm1"),
]


@pytest.mark.parametrize(("model", "side", "cells", "layer"), FAMILIES)
def test_the_last_map_of_a_backbone_is_in_the_order_of_the_image(model, side, cells, layer):
    network = backbones.create(model, False, side).eval().requires_grad_(False)
    image = torch.zeros(1, 3, side, side)
    changed = image.clone()
    changed[:, :, 32:48, 64:80] = 1  # a patch of 16 pixels
    expected = network(changed)
    seen = []
    last = backbones.last_map(network)
    assert last is network.get_submodule(layer)
    grid = nn.Identity()  # passed by the maps alone: tokens without a position are left out
    grid.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    last.register_forward_hook(lambda layer, inputs, output: maps.pass_through(grid, output))
    network(image)
    assert torch.equal(network(changed), expected)  # what passes is not changed
    cell = side // cells
    difference = (seen[1] - seen[0]).abs().sum(1)
    assert difference.argmax() == 32 // cell * cells + 64 // cell


def test_a_paper_without_a_backbone_has_no_grad_cam():
    network = Planted()
    assert maps.measured_names(network) == ["marks", "red stream", "union", "Grad-CAM"]
    del network.feature_info
    assert maps.measured_names(network) == ["marks", "red stream", "union"]


def test_random_blocks_depend_on_the_frame_alone(planted, frames):
    whole = maps.of(planted, frames, "random")
    assert len(np.unique(whole.reshape(len(whole), -1), axis=0)) == len(frames)
    np.testing.assert_array_equal(maps.of(planted, frames.iloc[[7]], "random")[0], whole[7])


def test_maps_are_made_in_inference_mode_too(planted, frames):
    with torch.inference_mode():
        assert maps.of(planted, frames.head(2), "Grad-CAM").shape == (2, SIDE, SIDE)


class Small(nn.Module):
    """Two logits without a batch for one image; it changes its input in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.layer(images.mul_(2)).relu().mean((2, 3))).squeeze()


@pytest.mark.parametrize(("name", "layer"), [("Grad-CAM", "layer"), ("Integrated Gradients", None)])
def test_maps_of_any_module_are_the_same_in_inference_mode_frozen_and_one_by_one(name, layer):
    torch.manual_seed(0)
    network = Small().eval()
    images = torch.randn(3, 3, 32, 32)
    expected = maps.compute(network, images, name, layer)
    assert expected.any()
    with torch.inference_mode():
        inside = images.clone()
        found = [maps.compute(network, images, name, layer)]
    found.append(maps.compute(network, inside, name, layer))
    with torch.no_grad():
        found.append(maps.compute(network, images, name, layer))
    found.append(np.concatenate([maps.compute(network, one[None], name, layer) for one in images]))
    found.append(maps.compute(network.requires_grad_(False), images, name, layer))
    for each in found:
        np.testing.assert_allclose(each, expected, atol=1e-5)


def test_frames_have_the_outlines_of_their_masks_where_no_map_has_them(planted, frames):
    for run, names in [(None, ["Grad-CAM"]), (None, []), (planted, ["Grad-CAM"])]:
        figure = pictures.frames_panel(frames.head(2), run, names)
        labels = [axis.get_ylabel() for axis in figure.axes[0:4:2]]  # two pictures per row
        assert labels == ["frame", "Grad-CAM" if run else "true mask"]


def a_face_with_maps(views):
    """A figure of two rows of maps on a grey face."""
    faces = np.full((len(views), SIDE, SIDE, 3), 128, np.uint8)
    none = np.zeros(faces.shape[:3])
    row = ("a long name of a map", views, none, pictures.MAP, faces, "value of the map")
    return pictures.panel([row, row])


def test_a_colour_bar_gets_darker_from_end_to_end(tmp_path):
    figure = a_face_with_maps(np.zeros((1, SIDE, SIDE)))
    bar = figure.axes[-1].get_window_extent()  # in points of the screen, from below
    figure.savefig(tmp_path / "a.png", dpi=figure.dpi, bbox_inches=figure.bbox_inches)
    with Image.open(tmp_path / "a.png") as picture:
        grey = np.asarray(picture.convert("L"), float)
    column = grey[::-1][int(bar.y0) + 3 : int(bar.y1) - 3, int((bar.x0 + bar.x1) / 2)]
    assert column[0] - column[-1] > 120
    assert np.diff(column).max() <= 2  # rounding to whole levels; stripes are brighter by tens


def test_a_line_at_half_surrounds_no_single_pixels():
    view = np.zeros((SIDE, SIDE))
    view[5, 5] = 1
    assert not a_face_with_maps([view]).axes[0].collections  # nothing but the speck
    view[20:40, 20:40] = 1
    view[30, 30] = 0
    (line,) = a_face_with_maps([view]).axes[0].collections
    (outline,) = line.get_paths()[0].to_polygons()
    assert outline.min() > 19 and outline.max() < 41
    assert view[5, 5] == 1  # the map itself is as it was


def test_rows_are_close_and_their_labels_are_horizontal_and_inside():
    figure = a_face_with_maps(np.zeros((3, SIDE, SIDE)))
    figure.draw_without_rendering()
    upper, lower = figure.axes[0].get_window_extent(), figure.axes[3].get_window_extent()
    assert 0 < upper.y0 - lower.y1 < 0.1 * upper.height
    label = figure.axes[0].yaxis.label
    box = label.get_window_extent()
    assert label.get_rotation() == 0 and figure.bbox.x0 <= box.x0 and box.x1 < upper.x0


# ---------------------------------------------------------------- measures


def test_deletion_begins_with_the_frame_and_ends_with_grey(planted, images, frames):
    network = planted.network()
    is_red = (images[:, 0] - images[:, 1] > 1).float().numpy()
    curves = pd.DataFrame(map(partial(measures.deletion, network), images, is_red))
    fake = curves[frames["label"].to_numpy() == 1]
    # The mark is 1/16 of the pixels, so the log-odds are 80/16 - 2 = 3, and -2 once it is hidden.
    np.testing.assert_allclose(fake["deletion 0"], 0.9526, atol=1e-4)
    np.testing.assert_allclose(fake[["deletion 10", "deletion 100"]], 0.1192, atol=1e-4)
    # The trapezoids: 0.1 (0.9526 + 0.1192) / 2 + 0.9 · 0.1192
    np.testing.assert_allclose(fake["deletion"], 0.1609, atol=1e-4)


def test_the_union_is_the_maximum_and_says_how_far_apart_its_parts_are(planted, images, frames):
    network = planted.network()
    marks, stream = [maps.compute(network, images, name) for name in ("marks", "red stream")]
    union = maps.compute(network, images, "union")
    np.testing.assert_array_equal(union, np.maximum(marks, stream))
    table = measures.measure_map(planted, frames, "union")
    fake = frames["label"].to_numpy() == 1
    expected = np.abs(marks - stream)[fake].mean((1, 2))
    np.testing.assert_allclose(table["apart"], expected, atol=1e-3)


# ---------------------------------------------------------------- sanity


class Gated(nn.Module):
    """A convolution, a BatchNorm, and a learned gate that PyTorch cannot initialise."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.gate = nn.Parameter(torch.full((100,), 3.0))

    def forward(self, images):
        return self.norm(self.convolution(images))


def test_layers_are_initialised_anew_and_a_draw_is_the_same_each_time():
    images = 5 + torch.randn(8, 3, 16, 16)
    trained, *networks = (Gated().eval() for _ in range(4))
    for network, draw in zip(networks, (1, 1, 2)):
        network.load_state_dict(trained.state_dict())
        measures.randomise(network, images, draw)
    first, again, other = (network.cpu().state_dict() for network in networks)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    for name in ("convolution.weight", "convolution.bias", "gate"):
        for random in (trained.state_dict(), other):
            assert not torch.isclose(first[name], random[name]).any()
    assert first["gate"].square().mean().sqrt() == pytest.approx(3, rel=0.3)
    # The statistics are those of these images, so that the layer's output is normalised.
    outputs = networks[0](images)
    assert not networks[0].training
    torch.testing.assert_close(outputs.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)


def test_only_the_chosen_layers_become_random():
    network = Gated().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measures.randomise(network, torch.randn(8, 3, 16, 16), layers=[network.norm])
    after = network.cpu().state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_similarity_is_a_rank_correlation():
    draw = rng("similarity")
    a = draw.random((3, 24, 24)).astype(np.float32)
    np.testing.assert_allclose(measures.similarity(a, np.sqrt(a)), 1)  # the same order
    np.testing.assert_allclose(measures.similarity(a, 1 - a), -1)
    assert np.isnan(measures.similarity(a, np.ones_like(a))).all()


def red(network, images):
    """A map with positive and negative values that ignores the network."""
    return images[:, 0]


def test_the_sanity_check_finds_what_ignores_the_network_or_the_image(planted, frames, monkeypatch):
    def zeros(network, images):
        return 0 * images[:, 0]

    def no_image(network, images):  # a pattern of the weights alone
        return network.red.weight[0].detach().abs().expand(len(images), 3, 3, 3).mean(1)

    more = {"zeros": zeros, "no image": no_image, "red": red}
    monkeypatch.setattr(maps, "EXPLAINERS", maps.EXPLAINERS | more)
    names = ["edges", "random", *more]
    table = measures.compare_with_random(planted, frames, names, frames)
    assert (table["label"] == 1).all()
    assert table["map"].value_counts().to_dict() == dict.fromkeys(names, frames["label"].sum())
    means = table.drop(columns=list(KEYS)).groupby("map").mean()
    random = means[[f"random {draw}" for draw in range(1, 1 + measures.DRAWS)]]
    signed = means[[f"signed {draw}" for draw in range(1, 1 + measures.DRAWS)]]
    np.testing.assert_allclose(random.loc[["edges", "random", "red"]], 1)
    assert random.loc["no image"].mean() < 0.5
    assert random.loc["zeros"].isna().all()
    assert means["blank"].to_dict() == {**dict.fromkeys(names, 0), "zeros": 1}
    np.testing.assert_allclose(signed.loc["red"], 1)
    assert signed.drop(index="red").isna().all(axis=None)
    assert means.loc[["random", "no image"], "grey"].tolist() == pytest.approx([1, 1])
    assert np.isnan(means.loc["edges", "grey"])  # of a grey image, it is blank


def test_maps_keep_their_sign_where_it_is_asked_for(planted, images, monkeypatch):
    monkeypatch.setattr(maps, "EXPLAINERS", {"red": red})
    network = planted.network()
    signed = maps.compute(network, images, "red", signed=True)
    shown = maps.compute(network, images, "red")
    np.testing.assert_allclose(np.abs(signed).max((1, 2)), 1)
    assert signed.min() < 0
    positive = signed.clip(min=0)
    highest = positive.max((1, 2), keepdims=True)
    np.testing.assert_allclose(shown, positive / highest.clip(min=1e-9), atol=1e-6)


def test_a_registered_method_is_a_map_like_the_others(planted, frames, monkeypatch):
    monkeypatch.setattr(maps, "EXPLAINERS", dict(maps.EXPLAINERS))

    def brightness(network, images):
        return images.mean(1)

    for _ in range(2):  # a cell is executed twice
        maps.register("brightness", brightness)
    crops = torch.rand(2, 3, 8, 8)
    views = maps.compute(nn.Flatten().eval(), crops, "brightness")
    np.testing.assert_allclose(views, crops.mean(1) / crops.mean(1).amax((1, 2), keepdim=True))
    assert maps.of(planted, frames.head(2), "brightness").shape[0] == 2
    namespace = {"report": "study-ff-like", "other_maps": ["brightness"]}
    assert parameters.load("08_attribution", namespace).other_maps == ["brightness"]
    for name in ("Grad-CAM", "random"):
        with pytest.raises(DfnbError, match="choose another name"):
            maps.register(name, brightness)


def test_a_map_of_a_paper_may_be_a_function(planted, monkeypatch):
    network = planted.network()
    monkeypatch.setattr(network, "maps", lambda: {"own": lambda network, images: images[:, 0]})
    images = torch.rand(2, 3, 32, 32)
    views = maps.compute(network, images, "own")
    np.testing.assert_allclose(views, images[:, 0] / images[:, 0].amax((1, 2), keepdim=True))
