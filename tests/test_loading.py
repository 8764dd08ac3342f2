"""Batches of frames: what is drawn from which seed, and the order of an epoch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from toy import SIZE, Settings

from dfnb.data import augmentation
from dfnb.data.loading import (
    EpochSampler,
    FrameDataset,
    as_batch,
    in_order,
    loader,
    pictures,
    prepared,
)
from facesets.checks import DfnbError
from facesets.frames import keep_masks

LIGHT = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(10, translate=(0.1, 0.1))])


class Painted(Settings):
    """Images that are white where they are forged."""

    def sample(self, stored):
        return stored._replace(image=np.uint8(255) * stored.mask[..., None].repeat(3, 2))


@pytest.fixture
def table(tmp_path):
    return toy.table(tmp_path / "toy")


def epochs_of(table, batch_size, seed=0, always=(), **settings):
    """The sampler of a table; settings that are not named draw evenly from all of it."""
    others = {"images_per_epoch": None, "oversampling": None}
    if len(always):
        rank = np.full(len(table), -1)
        rank[list(always)] = range(len(always))
        table = table.assign(always=rank)
    settings = SimpleNamespace(**{**others, "batch_size": batch_size, **settings})
    return EpochSampler(table, settings, seed)


def images(batches):
    return torch.cat([batch["image"] for batch in batches])


# ---------------------------------------------------------------- batches


def test_batches_in_order_are_the_stored_frames(table):
    first, *others = in_order(table, Settings(), batch_size=8)
    assert [len(batch["label"]) for batch in others] == [8, 2]
    assert first["label"].tolist() == [0] * 6 + [1] * 2
    crops, _ = toy.pixels("a", "real", 3)
    assert (pictures(first, Settings())[:3] == crops).all()
    assert first["image"].abs().max() <= 1


def test_images_masks_and_landmarks_are_resized(table):
    batch = as_batch(table, Settings(image_size=2 * SIZE))
    assert batch["image"].shape == (18, 3, 2 * SIZE, 2 * SIZE)
    assert batch["landmarks"][0, 0].tolist() == [20, 24]
    _, masks = toy.pixels("d", "warp", 8)
    assert (batch["mask"][10, 0, ::2, ::2].numpy() == masks[0]).all()


def test_only_a_fake_without_a_mask_is_not_annotated(table):
    hidden = keep_masks(table, [10, 11])
    batch = as_batch(hidden, Settings())
    assert batch["has_mask"].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 10, 11]
    assert batch["mask"].sum(dim=(1, 2, 3)).nonzero().flatten().tolist() == [10, 11]


@pytest.mark.parametrize("settings", [Settings(transform=LIGHT), Settings(augmentation="light")])
def test_draws_follow_seed_epoch_and_position(table, settings):
    def image(seed, epoch, position):
        data = FrameDataset(table, settings, seed)
        return prepared(data[[(epoch, position, 2)]], settings)["image"]

    first = image(0, 0, 5)
    state = torch.get_rng_state()
    assert torch.equal(first, image(0, 0, 5))
    assert torch.equal(state, torch.get_rng_state())
    for key in ((0, 0, 6), (0, 1, 5), (1, 0, 5)):
        assert not torch.equal(first, image(*key))


def test_any_number_of_workers_makes_the_same_batches(table):
    epochs = {}
    for workers in (0, 2):
        sampler = epochs_of(table, 6)
        data = FrameDataset(table, Settings(transform=LIGHT), seed=0)
        batches = loader(data, sampler, workers)
        first = images(batches)
        sampler.epoch = 1
        epochs[workers] = torch.cat([first, images(batches)])
    assert torch.equal(epochs[0], epochs[2])
    assert len(epochs[0]) == 36


def test_images_travel_as_bytes_and_are_normalised_on_the_device(table):
    settings = Settings(augmentation="light")
    item = FrameDataset(table, settings, seed=0)[[(0, 0, 8)]]
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    settings.augmentation = "none"
    item = FrameDataset(table, settings)[[(0, 0, 8)]]
    pixels = item["image"].double() / 255
    torch.testing.assert_close(prepared(item, settings)["image"].double(), (pixels - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("transform", "dims"),
    [
        (v2.RandomHorizontalFlip(1), [-1]),
        (v2.RandomVerticalFlip(1), [-2]),
        (v2.RandomRotation((180, 180)), [-1, -2]),
    ],
)
def test_mask_and_landmarks_follow_the_image(table, transform, dims):
    indices = [(0, 0, 8)]
    stored = FrameDataset(table, Settings())[indices]
    item = FrameDataset(table, Settings(transform=transform), seed=0)[indices]
    for name in ("image", "mask"):
        assert torch.equal(item[name], stored[name].flip(dims))
    expected = stored["landmarks"][0].clone()
    for dim in dims:
        axis = -dim - 1  # x is the last dimension of an image and the first of a point
        expected[:, axis] = SIZE - 1 - expected[:, axis]
    assert (item["landmarks"][0] - expected).abs().max() <= 1


@pytest.mark.parametrize("options", [{"transform": LIGHT}, {"augmentation": "light"}])
def test_an_image_is_augmented_with_its_mask(table, options):
    settings = Painted(**options)
    data = FrameDataset(table, settings, seed=0)
    batch = prepared(data[[(0, 0, 8), (0, 1, 8)]], settings)
    assert torch.equal(batch["image"][:, :1] > 0, batch["mask"] == 1)
    scored = images(in_order(table, settings, 9))[8]  # nothing is painted where it is scored
    assert not torch.equal(scored[:1] > 0, batch["mask"][0] == 1)


def test_light_augmentation_moves_image_mask_and_landmarks_together():
    """A white square that is forged, around the first landmark, in 200 copies of an image."""
    side = 64
    x = torch.arange(side)
    square = ((x - 20).abs()[:, None] <= 2) & ((x - 40).abs()[None] <= 2)
    points = torch.tensor([[40.0, 20], [10, 20], [32, 32], [torch.nan, 5], [20, 50]])
    batch = {
        "image": (50 + 200 * square.byte()).expand(200, 3, side, side),
        "mask": square.byte().expand(200, 1, side, side),
        "landmarks": points.expand(200, 5, 2),
    }
    draws = torch.from_numpy(np.random.default_rng(0).random((200, augmentation.DRAWS)))
    moved = augmentation.light(batch, draws)
    is_mirrored = draws[:, 0] < 0.5
    assert 60 < is_mirrored.sum() < 140
    marked = moved["landmarks"][:, 0]
    assert ((marked[:, 0] < side / 2) == is_mirrored).all()
    for image, mask, (column, row) in zip(moved["image"], moved["mask"], marked):
        rows, columns = mask[0].nonzero().float().T
        assert rows.mean() == row and columns.mean() == column
        grey = image.mean(0)
        assert grey[mask[0] == 1].min() > grey[mask[0] == 0].max() + 60
    assert set(marked[:, 1].tolist()) == set(range(16, 25))  # 20, and up to 4 pixels more or less
    brightness = moved["image"].amax((1, 2, 3)) / 250
    assert 0.7 < brightness.min() < 0.85 and 1.0 < brightness.max() < 1.03


def test_light_changes_of_colour_are_brightness_contrast_and_saturation_in_this_order():
    draw = torch.Generator().manual_seed(0)
    images = 100 + 50 * torch.rand(2, 3, 8, 8, generator=draw)
    changes = torch.tensor([[1.1, 0.9, 1.2], [0.9, 1.2, 0.8]])
    changed = augmentation.change_colours(images, changes)
    for image, ours, (brightness, contrast, saturation) in zip(images, changed, changes.tolist()):
        theirs = F.adjust_brightness(image / 255, brightness)
        theirs = F.adjust_saturation(F.adjust_contrast(theirs, contrast), saturation)
        assert (255 * theirs - ours).abs().max() < 0.05


# ---------------------------------------------------------------- the order of an epoch


def test_the_order_of_an_epoch_is_that_of_the_first_version(table):
    """A training that is repeated must see the same frames: a change here moves every number."""
    balanced = epochs_of(table, 6, seed=3).order(1)
    shown = table.iloc[balanced]["method"].value_counts()
    assert shown[["real", "swap", "warp"]].tolist() == [9, 4, 5]
    assert set(range(6)) <= set(balanced)  # all real frames before any comes again
    assert str(balanced) == "[ 9  4 15  3  2  7 17  3 16  6  5  4  0 11  1 10  5  8]"
    oversampled = epochs_of(table, 6, 3, oversampling=2, always=[7, 9]).order(0)
    first = oversampled[:18]
    assert str(first) == "[ 9  5  4 13 15  3  7  0  2  3  5 11  7  2  1  0  6 16]"


@pytest.mark.parametrize("times", [1, 4])
def test_oversampling_shows_each_fake_once_and_each_real_frame_so_often(table, times):
    shown = np.bincount(epochs_of(table, 3, seed=2, oversampling=times).order(0))
    assert shown.tolist() == [times] * 6 + [1] * 12
    assert epochs_of(table, 4, images_per_epoch=10, oversampling=times).n == 8


@pytest.mark.parametrize("options", [{}, {"oversampling": 4}, {"always": [7, 9]}])
def test_a_resumed_epoch_is_the_rest_of_it(table, options):
    sampler = epochs_of(table, 4, **options)
    whole = list(sampler)
    positions = [position for batch in whole for _, position, _ in batch]
    assert positions == list(range(sampler.n))
    sampler.skip = 2
    assert list(sampler) == whole[2:]
    assert len(sampler) == len(whole) - 2


@pytest.mark.parametrize("oversampling", [None, 1])
def test_every_batch_shows_some_frames_of_those_always_shown(table, oversampling):
    label = table["label"].to_numpy()
    plain = epochs_of(table, 6, oversampling=oversampling).order(0)
    order = epochs_of(table, 6, oversampling=oversampling, always=[7, 9, 12]).order(0)
    assert set(order[::6]) == {7, 9, 12}  # by turns, in the place of fakes
    fakes = label[order].reshape(-1, 6).sum(axis=1)
    assert (fakes == label[plain].reshape(-1, 6).sum(axis=1)).all()  # of the same batch
    eighth = epochs_of(table, 18, always=[7]).order(0)
    assert (eighth[:2] == 7).all()


def test_what_fills_no_batch_is_refused(table):
    with pytest.raises(DfnbError, match="has 18 frames, fewer than one batch; lower batch_size"):
        epochs_of(table, 64)
