"""Maps find a planted mark, the measures say so, and what ignores the network is caught."""

from functools import partial

import captum.attr
import numpy as np
import pandas as pd
import pytest
import torch
from planted import record
from torch import nn

from dfnb import metrics
from dfnb.attribution import maps, measures
from dfnb.data.frames import write_dataset, write_video
from dfnb.data.loading import as_batch
from dfnb.papers import backbones, xception
from dfnb.papers.contract import Network
from dfnb.runs import Run
from dfnb.seeds import rng
from dfnb.settings import DfnbError
from dfnb.store import KEYS

SIDE, MARK = 48, 12  # of frames and of the mark, in pixels
EXPLAIN = [name for name in maps.EXPLAINERS if name not in metrics.PLACEBOS]


class Planted(Network):
    """Fake is what has something red in it: one convolution that sees red, and nothing else.

    The first channel is red minus the mean of green and blue, minus 1, where that is positive, and
    the second is 0. The log-odds of fake are 80 times its mean over the image, minus 2.
    """

    def __init__(self):
        super().__init__()
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
    parameters = {"train_set": "planted", "settings": settings.model_dump(mode="json")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        yield PlantedRun(home / "runs" / "planted", record("xception", 0, parameters))


@pytest.fixture
def frames(planted):
    return measures.sample("planted", 6)


@pytest.fixture
def images(planted, frames):
    return as_batch(frames, planted.settings)["image"]


def test_a_sample_needs_a_fake(frames, monkeypatch):
    real = frames[frames["label"] == 0]
    monkeypatch.setattr(measures, "load_frames", lambda name: real)
    with pytest.raises(DfnbError, match="has no fake"):
        measures.sample("planted", 6)


def test_the_sample_is_balanced_and_of_the_test_split(frames):
    assert frames["method"].value_counts().to_dict() == {"mark": 6, "real": 6}
    assert set(frames["split"]) == {"test"}
    assert frames["video"].nunique() == 12


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("name", [*EXPLAIN, "red stream"])
def test_each_method_finds_the_planted_mark_and_the_measures_say_so(planted, frames, name):
    table = measures.measure(planted, frames, name)
    # One row per forged frame, in their order.
    forged = frames[frames["label"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[list(KEYS)], forged[list(KEYS)])
    masked = table.dropna(subset="energy")
    assert len(masked) == 5  # one of the six forged videos has no mask
    assert masked["pointing"].mean() > 0.9
    assert masked["energy"].mean() > 0.55
    assert masked["pixel_ap"].mean() > 0.8
    assert masked["pixel_auc"].mean() > 0.97
    chance = measures.measure(planted, frames, "random")
    assert chance["energy"].mean() < 0.2
    assert chance["pixel_ap"].mean() < 0.3
    assert table["deletion"].mean() < chance["deletion"].mean()  # without masks, too


def test_grad_cam_is_that_of_captum(planted, images):
    network = planted.network()
    method = captum.attr.LayerGradCam(partial(maps.evidence, network), network.relu)
    expected = method.attribute(images).relu()[:, 0].detach()
    torch.testing.assert_close(maps.grad_cam(network, images), expected, rtol=1e-4, atol=1e-7)


def test_integrated_gradients_sum_to_the_log_odds_against_grey(planted, images):
    log_odds = partial(maps.evidence, planted.network())
    expected = (log_odds(images) - log_odds(0 * images)).detach()
    values = maps.integrated_gradients(planted.network(), images)
    torch.testing.assert_close(values.sum((1, 2)), expected, rtol=0.05, atol=0.05)


def test_grad_cam_sees_what_moves_the_score_also_where_it_is_sure(planted, images):
    network = planted.network()
    before = maps.compute(network, images, "Grad-CAM")
    with torch.no_grad():
        network.head.bias[1] += 2000  # P(fake) is exactly 1: the gradient of the score is gone
    assert (network.score(network(images)) == 1).all()
    after = maps.compute(network, images, "Grad-CAM")
    np.testing.assert_allclose(after, before, atol=1e-3)


class Sideways(Network):
    """An in-place activation, and a map beside the decision."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.aside = nn.Conv2d(4, 1, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        seen = self.body(images)
        return {"cls": self.head(seen.mean((2, 3))), "aside": self.aside(seen)}


def test_grad_cam_is_of_the_last_map_that_the_decision_uses():
    torch.manual_seed(0)
    network = Sideways()
    images = torch.randn(2, 3, 8, 8)
    weights = network.head.weight[1] - network.head.weight[0]
    gradient = weights[:, None, None] / 64  # of the mean over 8 × 8 positions
    expected = (gradient * network.body(images)).sum(1).relu()
    torch.testing.assert_close(maps.grad_cam(network, images), expected.detach())
    with pytest.raises(DfnbError, match="no map with an effect on the decision"):
        maps.grad_cam(network, images, network.aside)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_tokens_and_channels_that_come_last_are_put_on_their_grid(name):
    model = backbones.create(name, False, 96)
    model.patch_embed.norm = nn.Identity()  # which would make all patches equally strong
    image = torch.zeros(1, 3, 96, 96)
    image[:, :, 16:32, 64:80] = 1  # of patches of 16 pixels: row 1, column 4
    with torch.no_grad():
        features = model.patch_embed(image) - model.patch_embed(0 * image)
    if features.ndim == 3:
        tokens = torch.full((1, 5, features.shape[2]), 100.0)  # a class token and registers
        features = torch.cat([tokens, features], 1)
    grid = maps.as_feature_map(features, image.shape, backbones.patch_side(model))
    strength = nn.functional.adaptive_avg_pool2d(grid.square().sum(1), 6)[0]
    assert strength.argmax() == 1 * 6 + 4 and strength.count_nonzero() == 1


def test_grad_cam_of_a_vision_transformer_is_of_its_patch_tokens():
    torch.manual_seed(0)
    settings = xception.Settings(backbone="test_vit", pretrained=False, image_size=96)
    network = xception.Network(settings).eval()
    images = torch.randn(2, 3, 96, 96)
    kept = []
    network.backbone.blocks[-1].norm1.register_forward_hook(lambda *call: kept.append(call[2]))
    log_odds = maps.evidence(network, images).sum()
    (gradient,) = torch.autograd.grad(log_odds, kept[0])
    channels = gradient[:, 1:].mean(1)  # without the class token
    values = torch.einsum("nc,npc->np", channels, kept[0][:, 1:]).relu().detach()
    grid = values.reshape(2, 1, 6, 6)
    expected = nn.functional.interpolate(grid, (96, 96), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps.grad_cam(network, images), expected)
    assert expected.amax((1, 2)).min() > 0


def test_tokens_on_no_known_grid_are_refused():
    settings = xception.Settings(backbone="hiera_tiny_224", pretrained=False, image_size=224)
    with pytest.raises(DfnbError, match="no map with an effect on the decision"):
        maps.compute(xception.Network(settings).eval(), torch.randn(1, 3, 224, 224), "Grad-CAM")


def test_random_blocks_depend_on_the_frame_alone(planted, frames):
    whole = maps.of(planted, frames, "random")
    assert len(np.unique(whole.reshape(len(whole), -1), axis=0)) == len(frames)
    np.testing.assert_array_equal(maps.of(planted, frames.iloc[[7]], "random")[0], whole[7])


def test_maps_are_made_in_inference_mode_too(planted, frames):
    with torch.inference_mode():
        assert maps.of(planted, frames.head(2), "Grad-CAM").shape == (2, SIDE, SIDE)


def test_maps_that_are_not_there_are_named(planted, images):
    for name in ("DeepLift", "relu"):
        with pytest.raises(DfnbError, match=f"no map '{name}'; it has marks.*, random"):
            maps.compute(planted.network(), images, name)


# ---------------------------------------------------------------- measures


def test_deletion_begins_with_the_frame_and_ends_with_grey(planted, images, frames):
    network = planted.network()
    is_red = (images[:, 0] - images[:, 1] > 1).float().numpy()
    pairs = zip(images, is_red)
    curves = pd.DataFrame([measures.deletion(network, image, red) for image, red in pairs])
    whole = network.score(network(images)).detach().numpy()
    empty = network.score(network(images * 0)).detach().numpy()
    np.testing.assert_allclose(curves[["deletion 0", "deletion 100"]].T, [whole, empty], atol=1e-6)
    fake = frames["label"].to_numpy() == 1  # the mark is 6 % of their pixels: hidden at 10 %
    assert curves["deletion 10"][fake].max() < 0.2
    steps = curves.drop(columns="deletion")
    np.testing.assert_allclose(curves["deletion"], np.trapezoid(steps, dx=0.1))


def test_the_union_is_the_maximum_and_says_how_far_apart_its_parts_are(planted, images, frames):
    network = planted.network()
    marks, stream = [maps.compute(network, images, name) for name in ("marks", "red stream")]
    union = maps.compute(network, images, "union")
    np.testing.assert_array_equal(union, np.maximum(marks, stream))
    table = measures.measure(planted, frames, "union")
    fake = frames["label"].to_numpy() == 1
    expected = np.abs(marks - stream)[fake].mean((1, 2))
    np.testing.assert_allclose(table["apart"], expected, atol=1e-3)


# ---------------------------------------------------------------- sanity


def test_all_weights_are_made_random_and_the_same_each_time(planted):
    before = dict(planted.network().named_parameters())
    networks = [planted.network(), planted.network()]
    for network in networks:
        measures.randomise(network)
    after, again = (dict(network.named_parameters()) for network in networks)
    torch.testing.assert_close(after, again, rtol=0, atol=0)
    for name, weights in after.items():
        assert not torch.isclose(weights, before[name]).any()


def test_similarity_is_a_rank_correlation():
    draw = rng("similarity")
    a = draw.random((3, 24, 24)).astype(np.float32)
    np.testing.assert_allclose(measures.similarity(a, np.sqrt(a)), 1)  # the same order
    np.testing.assert_allclose(measures.similarity(a, 1 - a), -1)
    np.testing.assert_array_equal(measures.similarity(a, np.ones_like(a)), 0)
    other = draw.random((3, 24, 24)).astype(np.float32)
    assert abs(measures.similarity(a, other)).max() < 0.2


def test_the_sanity_test_finds_what_ignores_the_network(planted, frames, monkeypatch):
    monkeypatch.setitem(maps.EXPLAINERS, "zeros", lambda network, images: 0 * images[:, 0])
    names = ["Grad-CAM", "edges", "random", "zeros"]
    tables = {name: measures.sanity(planted, frames, name) for name in names}
    means = {name: table.drop(columns=list(KEYS)).mean() for name, table in tables.items()}
    assert all((table["label"] == 1).all() for table in tables.values())
    for name in ("edges", "random"):
        assert means[name]["all"] == pytest.approx(1)
        assert means[name]["empty"] == 0
    assert means["Grad-CAM"]["all"] < 0.5
    assert means["zeros"]["empty"] == 1
