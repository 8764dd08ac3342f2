"""Corruptions have the values that their formulas say, on whole videos, and the same each time."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from dfnb.data import corrupt
from dfnb.data.corrupt import CORRUPTIONS, Corrupted
from dfnb.data.loading import StoredFrames
from facesets import codecs
from facesets.seeds import rng


@pytest.fixture
def video(tmp_path):
    """A frames table of two videos with one crop each of noise, and its crops (n, 40, 40, 3)."""
    crops = rng("corrupt").integers(0, 256, (6, 40, 40, 3), np.uint8)
    return written(tmp_path, crops), crops


def written(folder, crops):
    """Crops as a frames table: the first four are video a, the others b, in a random order."""
    paths = [str(folder / f"{number}.png") for number in range(len(crops))]
    for path, crop in zip(paths, crops):
        cv2.imwrite(path, crop[..., ::-1])
    table = pd.DataFrame({"path": paths, "mask": "", "label": 1, "landmarks": None})
    table = table.assign(video=[*"aaaabb"], row=[0, 1, 2, 3, 0, 1])
    return table.iloc[[3, 5, 0, 4, 1, 2]]


def corrupted(table, name, severity):
    """The corrupted crops in the order in which they were written."""
    stored = StoredFrames(table, Corrupted(table, name, severity))
    images = {path: image for path, (image, _) in zip(table["path"], stored)}
    return [images[path] for path in sorted(images)]


def of_one_colour(*rgb):
    """A clip (1, 3, 40, 40) of this colour."""
    return torch.tensor(rgb, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 40, 40)


# ---------------------------------------------------------------- values


def test_jpeg_is_that_of_each_frame_and_keeps_the_order_of_the_colours(video):
    table, crops = video
    for ours, crop in zip(corrupted(table, "JPEG", 5), crops):
        file = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
        np.testing.assert_array_equal(ours, cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1])
    red = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert cv2.absdiff(codecs.jpeg(red, 95), red).max() < 5


def test_h264_compresses_all_frames_of_a_video_together_in_their_order(video):
    table, crops = video
    ours = np.stack(corrupted(table, "H.264", 3))
    for frames in (slice(4), slice(4, 6)):
        encoded = codecs.h264(crops[frames], 33, repeatable=True)
        np.testing.assert_array_equal(ours[frames], encoded)
    alone = codecs.h264(crops[1:2], 33, repeatable=True)[0]
    assert not np.array_equal(ours[1], alone)  # a frame depends on its neighbours
    assert codecs.h264(crops[:, :31, :25], 43).shape == (6, 30, 24, 3)  # H.264 needs even sides


def test_blur_makes_a_gaussian_of_a_point():
    point = torch.zeros(1, 3, 101, 101, dtype=torch.uint8)
    point[..., 50, 50] = 255
    blurred = corrupt.blur(point, 2.0)[0, 0].double()  # 2 per cent of 101 pixels
    distance = torch.arange(101) - 50
    one = torch.exp(-(distance**2) / (2 * 2.02**2))
    expected = 255 * torch.outer(one, one) / one.sum() ** 2
    assert (blurred - expected).abs().max() <= 0.6  # rounded to whole numbers


def test_noise_has_the_deviation_and_no_other_mean():
    grey = of_one_colour(128, 128, 128).expand(30, 3, 40, 40)
    for severity, deviation in enumerate((4, 8, 16, 24, 32)):
        added = corrupt.noise(grey, deviation, rng(severity)).double() - 128
        assert added.std() == pytest.approx(deviation, rel=0.02)
        assert added.mean().abs() < deviation / 50
        channels = added.transpose(0, 1).flatten(1)
        assert torch.corrcoef(channels).tril(-1).abs().max() < 0.03  # each pixel, each channel


def test_resize_makes_the_sides_so_long():
    clip = torch.zeros(1, 3, 96, 120, dtype=torch.uint8)
    shapes = [corrupt.resize(clip, percent).shape[2:] for percent in (75, 50, 15)]
    assert shapes == [(72, 90), (48, 60), (14, 17)]
    halves = of_one_colour(10, 10, 10).clone()
    halves[..., 20:] = 90
    assert corrupt.resize(halves, 50)[0, 0, 0, [0, 8, 11, 19]].tolist() == [10, 10, 90, 90]


def test_contrast_moves_colours_towards_the_mean_grey_and_saturation_to_their_own():
    contrast, _ = CORRUPTIONS["contrast"]
    saturation, _ = CORRUPTIONS["saturation"]
    halves = of_one_colour(50, 50, 50).clone()
    halves[..., 20:] = 150  # the mean is 100
    left, right = contrast(halves, 0.4)[0, :, 0, [0, 39]].T.tolist()
    # One level less is allowed, because torchvision cuts decimals off.
    assert left == pytest.approx([80] * 3, abs=1) and right == pytest.approx([120] * 3, abs=1)
    red = of_one_colour(200, 100, 50)  # its grey is .2989 R + .587 G + .114 B = 124.18
    assert saturation(red, 0)[0, :, 0, 0].tolist() == [124] * 3
    half = saturation(red, 0.5)[0, :, 0, 0].tolist()
    assert half == pytest.approx([162, 112, 87], abs=1)


def test_occlusion_is_a_grey_block_at_one_place_in_all_frames_of_a_video(video):
    table, crops = video
    blocks = []
    for ours, crop in zip(corrupted(table, "occlusion", 5), crops):
        y, x = np.nonzero((ours != crop).any(-1))
        assert np.ptp(y) + 1 == np.ptp(x) + 1 == 22  # 30 % of 40 x 40 pixels
        assert (ours[y.min() : y.max() + 1, x.min() : x.max() + 1] == 128).all()
        blocks.append((y.min(), x.min()))
    assert len({*blocks[:4]}) == len({*blocks[4:]}) == 1 and blocks[0] != blocks[4]


# ---------------------------------------------------------------- videos


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_is_the_same_each_time_and_wherever_the_dataset_is(video, tmp_path, name):
    table, crops = video
    (tmp_path / "moved").mkdir()
    moved = written(tmp_path / "moved", crops)
    for ours, again in zip(corrupted(table, name, 4), corrupted(moved, name, 4)):
        assert np.array_equal(ours, again)


def test_random_numbers_are_those_of_the_committed_scores(video):
    table, crops = video
    draw = rng("corruption", "noise", 2, "videos/b/frames.npy")
    clip = torch.from_numpy(crops[4:]).permute(0, 3, 1, 2)
    expected = corrupt.noise(clip, 8, draw).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(corrupted(table, "noise", 2)[4:], expected)


def test_crops_of_several_sizes_get_that_of_the_first(tmp_path):
    crops = [np.full((side, side, 3), 90, np.uint8) for side in (40, 40, 50, 40, 60, 60)]
    sides = [len(crop) for crop in corrupted(written(tmp_path, crops), "H.264", 1)]
    assert sides == [40] * 4 + [60] * 2
