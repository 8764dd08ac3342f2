"""Corruptions grow with their severity, come out the same each time, and touch the pixels alone."""

import cv2
import numpy as np
import pytest

from dfnb import corrupt
from dfnb.data import codecs
from dfnb.data.frames import Pixels, load_frames, select
from dfnb.data.loading import as_batch, in_order, pictures
from dfnb.papers import xception
from dfnb.seeds import rng


@pytest.fixture
def frames(home):
    return select(load_frames("smoke-a"), "test")


@pytest.mark.parametrize("name", corrupt.CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_the_same_each_time(frames, name):
    path, row = frames[["path", "row"]].iloc[3]
    plain = Pixels(frames.attrs["folder"]).crop(path, row)
    changes = []
    for severity in range(1, 6):
        crop = corrupt.Corrupted(frames, name, severity).crop(path, row)
        again = corrupt.Corrupted(frames, name, severity).crop(path, row)
        assert np.array_equal(crop, again)
        full_size = cv2.resize(crop, (96, 96))
        changes.append(cv2.absdiff(full_size, plain).mean())
    assert 0 < 1.5 * changes[0] < changes[4]
    if name != "occlusion":  # the block moves
        assert changes == sorted(changes)


def test_h264_is_a_video_codec_and_takes_odd_sides():
    clip = rng(0).integers(0, 255, (3, 31, 45, 3), dtype=np.uint8)
    decoded = codecs.h264(clip, 43)
    assert decoded.shape == clip.shape
    # A frame depends on its neighbours.
    assert not np.array_equal(decoded[1], codecs.h264(clip[1:2], 43)[0])


def test_jpeg_keeps_the_order_of_the_colours():
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert cv2.absdiff(codecs.jpeg(image, 95), image).max() < 5


def test_pictures_are_corrupted_in_the_order_of_the_table(frames):
    settings = xception.Settings(image_size=96, pretrained=False)
    fakes = frames[frames["label"] == 1].assign(mask="")
    pixels = corrupt.Corrupted(fakes, "occlusion", 5)
    batch = next(in_order(fakes, settings, pixels=pixels))
    before = pictures(as_batch(fakes, settings), settings)
    for picture, plain in zip(pictures(batch, settings), before):
        y, x = np.nonzero((picture != plain).any(-1))
        # A grey block of 30 % of 96 × 96 pixels.
        assert np.ptp(y) + 1 == np.ptp(x) + 1 == 53
        assert (picture[y.min() : y.max() + 1, x.min() : x.max() + 1] == 128).all()
