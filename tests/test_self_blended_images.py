"""Self-Blended Images: what the blends are, that they follow their draws alone, and that no fake is shown in training."""

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dfnb import core, papers, train
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.data.frames import Sample
from dfnb.papers import self_blended_images as sbi

SIDE = 96
FACE = np.float32([[38, 44], [58, 45], [48, 56], [41, 66], [56, 66]])
DRAWS = range(40)


@pytest.fixture(scope="module")
def image():
    """A noisy picture with structure of all sizes."""
    noise = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE, 3)).astype(np.float32)
    layers = [40 * cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1, 4)]
    return sbi.to_bytes(128 + sum(layers))


def settings(**changes):
    return sbi.Settings(pretrained=False, jpeg_probability=0.0, **changes)


def blended(image, draw, points=FACE, **changes):
    return sbi.self_blended(image, points, settings(**changes), core.rng("test", draw))


def pair(image, draw, points=FACE, label=0, **changes):
    stored = Sample(image, np.zeros(image.shape[:2], bool), np.float32(points), label, has_mask=True)
    values = sbi.Settings(pretrained=False, **changes)
    return stored, values.samples(stored, core.rng("test", draw))


@pytest.mark.parametrize("shape", [(96, 96), (60, 83)])
def test_a_blend_differs_from_its_target_inside_the_mask_alone(image, shape):
    seen = []
    for draw in DRAWS:
        target, blend, opacity = blended(image[: shape[0], : shape[1]], draw)
        changed = (target != blend).any(axis=2)
        assert target.dtype == blend.dtype == np.uint8 and target.shape == blend.shape == (*shape, 3)
        assert opacity.shape == shape and opacity.min() == 0 and not changed[opacity == 0].any() and changed.any()
        seen.append(opacity.max())
    assert {round(peak, 2) for peak in seen} >= {0.25, 0.5, 0.75, 1.0}
    assert np.mean(np.isclose(seen, 1, atol=0.02)) == pytest.approx(0.5, abs=0.25)  # three of the six ratios


def test_a_blend_is_the_weighted_sum_of_source_and_target(image):
    """With the geometry alone, so that the source is the frame moved."""
    for draw in range(5):
        target, blend, opacity = blended(image, draw, transforms=("geometry",), ratios=(0.5,))
        assert (target == image).all() and opacity.max() <= 0.5
        stream = core.rng("test", draw)
        stream.random()  # which of the two is transformed
        moved, weight = sbi.displaced(image.astype(np.float32), stream), opacity[..., None]
        assert np.abs(blend - (weight * moved + (1 - weight) * image)).max() <= 0.5 + 1e-3


def test_either_source_or_target_is_the_transformed_one(image):
    sources, targets = 0, 0
    for draw in DRAWS:
        target, blend, opacity = blended(image, draw, transforms=("colour", "frequency"), ratios=(1.0,))
        inside, same = opacity > 0.999, (target == image).all()
        targets += not same
        sources += same
        assert same != (np.abs(blend.astype(int) - image)[inside].max() <= 1)  # of the two one is the frame itself
    assert min(sources, targets) > 8


@pytest.mark.parametrize("transform", ["colour", "frequency", "geometry"])
def test_each_transform_makes_a_difference(image, transform):
    changes = [np.abs(np.subtract(*map(np.int64, blended(image, d, transforms=(transform,))[:2]))).max() for d in DRAWS]
    assert np.mean(np.greater(changes, 0)) > 0.9 and np.median(changes) < 128


def test_a_mask_covers_the_face_from_brows_to_chin_and_leaves_the_rest():
    """In the frame, not empty, soft, another one for each draw, and about the face that the landmarks give."""
    masks = np.stack([sbi.soft_mask(FACE, (SIDE, SIDE), 0.15, core.rng("mask", draw)) for draw in DRAWS])
    assert masks.min() == 0 and masks.max() <= 1 and len({mask.tobytes() for mask in masks}) == len(DRAWS)
    assert all(((mask > 0) & (mask < 0.9)).any() for mask in masks)
    nose, mouth = (48, 56), (48, 66)
    assert all(mask[y, x] > 0.9 for mask in masks for x, y in (nose, mouth))
    rows, columns = np.nonzero(masks.mean(0) > 0.5)
    assert 30 < rows.min() < 42 and 74 < rows.max() < 90  # the eyes lie at 44, the mouth at 66
    assert columns.min() > 20 and columns.max() < 76
    sizes = [(mask > 0.5).mean() for mask in masks]
    assert 0.05 < min(sizes) < max(sizes) < 0.4 and max(sizes) > 1.2 * min(sizes)


def test_a_mask_turns_with_the_face():
    middle = (SIDE - 1) / 2
    turned = middle + (FACE - middle) @ np.float32([[0, 1], [-1, 0]])  # a quarter turn: eyes one above the other
    upright, lying = (sbi.soft_mask(points, (SIDE, SIDE), 0, core.rng("mask", 1)) for points in (FACE, turned))
    np.testing.assert_allclose(np.rot90(upright, -1), lying, atol=0.05)
    assert np.abs(upright - lying).max() > 0.9


def test_a_wider_first_blur_makes_a_smaller_mask():
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[20:76, 20:76] = 1
    sizes = [(sbi.softened(mask, np.array(blurs)) > 0).sum() for blurs in ((6, 1), (3, 3), (1, 6))]
    assert sizes[0] < sizes[1] < sizes[2] and sizes[1] == pytest.approx(mask.sum(), rel=0.1)


NOWHERE = {
    "unknown": np.full((5, 2), np.nan),
    "one unknown": np.where(np.arange(5)[:, None] == 1, np.nan, FACE),
    "all at one place": np.full((5, 2), 40.0),
    "on a line": np.stack([np.arange(5) * 20.0, np.arange(5) * 20.0], axis=1),
    "outside the image": FACE + 1000,
}


@pytest.mark.parametrize("points", NOWHERE.values(), ids=NOWHERE)
def test_landmarks_that_give_no_face_are_replaced_by_those_of_an_average_crop(points):
    for draw in range(10):
        found = sbi.soft_mask(np.float32(points), (SIDE, SIDE), 0.15, core.rng("mask", draw))
        average = sbi.soft_mask(SIDE * sbi.AVERAGE_FACE, (SIDE, SIDE), 0.15, core.rng("mask", draw))
        assert found.any() and (found == average).all()


def test_the_draws_decide_everything(image):
    for draw in range(8):
        (_, once), (_, again), (_, other) = (pair(image, each) for each in (draw, draw, draw + 100))
        for one, two in zip(once, again):
            assert (one.image == two.image).all() and (one.mask == two.mask).all()
        assert (once[1].image != other[1].image).any()


@pytest.mark.parametrize("jpeg", [0.0, 1.0])
def test_a_pair_is_a_real_frame_and_a_fake_one_with_its_mask(image, jpeg):
    for draw in range(8):
        stored, (real, fake) = pair(image, draw, jpeg_probability=jpeg)
        assert (real.label, fake.label) == (0, 1) and real.has_mask and fake.has_mask
        assert not real.mask.any() and fake.mask.dtype == bool and fake.mask.any() and not fake.mask.all()
        assert all((each.landmarks == stored.landmarks).all() for each in (real, fake))
        assert all(each.image.dtype == np.uint8 and each.image.flags.c_contiguous for each in (real, fake))
        far = cv2.dilate(fake.mask.astype(np.uint8), np.ones((33, 33))) == 0  # a block of JPEG's colours has 16 pixels
        assert (real.image[far] == fake.image[far]).all()


def test_what_the_loader_makes_of_a_frame(home):
    """The pair of a drawn frame, through resize and augmentation; no fake is shown in training or in validation."""
    values = sbi.Settings(pretrained=False, image_size=64)
    for split in ("train", "val"):
        whole = frames.select(frames.load_frames("smoke-a"), split)
        real = values.visible(whole, 0, None)
        assert set(real["method"]) == {"real"} and len(real) == (whole["label"] == 0).sum()
        one, other = frames.FrameDataset(real, values, seed=0, split=split)[0, 0, 0]
        assert (one["label"], other["label"]) == (0, 1) and one["image"].shape == other["image"].shape == (3, 64, 64)
        changed = (one["image"] != other["image"]).any(0)
        assert changed.any() and torch.equal(one["landmarks"], other["landmarks"]) and other["mask"].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 15}, "batch_size = 15"),
        ({"reduction": (4.0, 2.0)}, "reduction must be two numbers from 1 to 16"),
        ({"transforms": ()}, "transforms"),
        ({"transforms": ("color",)}, "transforms.0 = 'color'"),
        ({"ratios": (0.0,)}, "ratios.0"),
    ],
)
def test_settings_without_a_meaning_are_refused(values, message):
    with pytest.raises(DfnbError) as error:
        sbi.Settings.check(values, "mine")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_it_has_nothing_of_the_benchmarks_forgeries():
    tree = ast.parse(Path(sbi.__file__).read_text(encoding="utf-8"))
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not any("synth" in name for name in names)
    assert papers.module("self_blended_images") is sbi


def test_the_weights_are_moved_up_their_gradient_and_put_back():
    """Of |w|² / 2, whose gradient is w: at w (1 + d / |w|) it is that much longer."""
    network = nn.Linear(3, 1, bias=False)
    weight = network.weight.detach().clone()
    (network.weight**2 / 2).sum().backward()
    with sbi.climbed(network, 0.05):
        assert network.weight.grad is None
        moved = network.weight.detach() - weight
        assert moved.norm().item() == pytest.approx(0.05, rel=1e-5)
        (network.weight**2 / 2).sum().backward()
    assert torch.equal(network.weight, weight)
    torch.testing.assert_close(network.weight.grad, weight * (1 + 0.05 / weight.norm()))


def test_a_training_with_sharpness_takes_another_way(home):
    small = {"backbone": "dfnb_plain7", "pretrained": False, "image_size": 96, "epochs": 1, "images_per_epoch": 64}
    given = [sbi.Settings(**small, sharpness=sharpness) for sharpness in (0.0, 0.05)]
    runs = [train.train("self_blended_images", "smoke-a", each, 0) for each in given]
    plain, sharp = (run.network().state_dict()["backbone.fc.weight"] for run in runs)
    far, near = (plain - sharp).abs().max(), 0.01 * plain.abs().max()
    assert 0 < far < near
