"""Corruptions: they grow with severity, are the same each time, and read no mask."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from dfnb import corrupt
from dfnb.core import DfnbError, rng
from dfnb.data.frames import Pixels, as_batch, in_order, load_frames, pictures, select
from dfnb.papers import xception


@pytest.fixture
def frames(home):
    return select(load_frames("smoke-a"), "test")


@pytest.mark.parametrize("name", corrupt.CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_the_same_each_time(frames, name):
    row = frames.iloc[3]
    plain = Pixels(frames.attrs["folder"]).crop(row["path"], row["row"])
    lost = []
    for severity in range(1, 6):
        crops = [corrupt.Corrupted(frames, name, severity).crop(row["path"], row["row"]) for _ in range(2)]
        assert np.array_equal(*crops) and crops[0].dtype == np.uint8
        back = TF.resize(torch.from_numpy(crops[0]).permute(2, 0, 1), list(plain.shape[:2])).permute(1, 2, 0).numpy()
        lost.append(np.abs(back.astype(float) - plain).mean())
    assert lost[0] > 0 and lost[4] > 1.5 * lost[0]
    if name != "occlusion":  # the block moves
        assert lost == sorted(lost)


def test_h264_is_a_video_codec_and_takes_odd_sides():
    clip = torch.from_numpy(rng(0).integers(0, 255, (3, 3, 31, 45), dtype=np.uint8))
    apply = corrupt.CORRUPTIONS["H.264"][2]
    assert apply(clip, 23, rng(0)).shape == clip.shape
    assert not torch.equal(apply(clip, 43, rng(0))[1], apply(clip[1:2], 43, rng(0))[0])  # it depends on its neighbours
    assert (apply(clip, 43, rng(0)).float() - clip).abs().mean() > (apply(clip, 23, rng(0)).float() - clip).abs().mean()


def test_no_mask_is_read_and_pictures_are_corrupted_in_the_order_of_the_table(frames, monkeypatch):
    settings = xception.Settings(image_size=96, pretrained=False)
    fakes = frames[frames["label"] == 1]
    before = pictures(as_batch(fakes, settings), settings)
    monkeypatch.setattr(Pixels, "mask", lambda *_: pytest.fail("a mask was read"))

    def corrupted(name):
        return next(in_order(fakes, settings, len(fakes), pixels=corrupt.Corrupted(fakes, name, 5)))

    batch = corrupted("occlusion")
    after = pictures(batch, settings)
    assert not batch["mask"].any()
    for picture, plain in zip(after, before):  # a grey block of 30 % of 96 × 96 pixels, and the frame of the same row
        y, x = np.nonzero((picture != plain).any(-1))
        assert np.ptp(y) + 1 == np.ptp(x) + 1 == 53
        assert (picture[y.min() : y.max() + 1, x.min() : x.max() + 1] == 128).all()
    small = corrupt.Corrupted(fakes, "resize", 5)
    assert small.crop(fakes["path"].iloc[0], 0).shape == (14, 14, 3) and not small.mask("", 0, (14, 14)).any()


@pytest.mark.parametrize(("name", "severity"), [("fog", 1), ("blur", 0), ("blur", 6)])
def test_an_unknown_corruption_is_refused(frames, name, severity):
    with pytest.raises(DfnbError, match=f"there is no corruption {name} {severity}"):
        corrupt.Corrupted(frames, name, severity)
