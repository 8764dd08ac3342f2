"""The frames table, its pixels, the epoch's order, and the augmentation."""

import multiprocessing

import numpy as np
import pytest
import torch

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.data.frames import EpochSampler, FrameDataset, Pixels, hide_masks, load_frames, select

SIZE = 37  # not a multiple of 8: masks are packed along the row


def rows(n, video, method, split="train"):
    fake = method != "real"
    return [
        {
            "dataset": "toy", "split": split, "track": 0, "frame": 10 * i, "cluster": video, "identity": video,
            "source": "donor" if fake else "", "method": method, "label": int(fake),
            "landmarks": [10, 12, 26, 12, 18, 18, 13, 26, 24, 26], "crop_box": [0, 0, SIZE, SIZE], "scale": 1.0,
        }
        for i in range(n)
    ]  # fmt: skip


def make(folder, videos, seed=0):
    draw = np.random.default_rng(seed)
    for video, method, n in videos:
        crops = draw.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
        masks = draw.random((n, SIZE, SIZE)) > 0.7 if method != "real" else None
        frames.write_video(folder / "videos" / method / video, rows(n, video, method), crops, masks)
        if masks is not None:
            np.save(folder / f"{video}.expected.npy", masks)
    return frames.write_dataset(folder, {"made": "by a test"})


TOY = [("a", "real", 3), ("b", "real", 3), ("c", "swap", 4), ("d", "warp", 8)]


@pytest.fixture
def toy(tmp_path):
    make(tmp_path / "toy", TOY)
    return load_frames(tmp_path / "toy")


def test_masks_of_any_width_come_back_as_they_were_written(toy):
    pixels = Pixels(toy.attrs["folder"])
    expected = np.load(f"{toy.attrs['folder']}/d.expected.npy")
    own = toy[toy["method"] == "warp"]
    for _, row in own.iterrows():
        assert (pixels.mask(row["mask"], row["row"], (SIZE, SIZE)) == expected[row["row"]]).all()
    real = toy[toy["method"] == "real"].iloc[0]
    assert not pixels.mask(real["mask"], real["row"], (SIZE, SIZE)).any()


def test_fingerprint_follows_pixels_and_rows_and_nothing_else(tmp_path):
    first = make(tmp_path / "one", TOY)["fingerprint"]
    assert make(tmp_path / "two", TOY[::-1], seed=0)["fingerprint"] != first  # other pixels: drawn in another order
    assert make(tmp_path / "three", TOY)["fingerprint"] == first


def test_what_a_killed_writer_left_is_no_video(toy, tmp_path):
    left = tmp_path / "toy" / "videos" / ".x.partial123"
    left.mkdir()
    (left / "video.json").write_text("{}")
    assert frames.write_dataset(tmp_path / "toy", {"made": "by a test"})["fingerprint"] == toy.attrs["fingerprint"]


def test_a_video_that_fails_while_written_leaves_nothing(tmp_path):
    crops = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(TypeError):
        frames.write_video(tmp_path / "videos" / "x", rows(2, "x", "real"), crops, masks="no array")
    assert not list((tmp_path / "videos").iterdir())


def test_a_missing_dataset_says_how_to_make_it(tmp_path):
    with pytest.raises(DfnbError, match="holds no finished dataset"):
        load_frames(tmp_path / "nothing")


def test_missing_columns_are_named(tmp_path, toy):
    path = tmp_path / "toy" / "frames.parquet"
    toy.drop(columns=["cluster", "landmarks", "crop_box"]).to_parquet(path)
    with pytest.raises(DfnbError, match="lacks the columns cluster, landmarks"):
        load_frames(tmp_path / "toy")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 100])
def test_frames_per_video_are_spread_evenly(toy, n):
    chosen = select(toy, "train", frames_per_video=n)
    counts = chosen.groupby("video", observed=True).size()
    assert counts.to_dict() == {f"{m}/{v}": min(n, k) for v, m, k in TOY}
    numbers = chosen[chosen["method"] == "warp"]["frame"].to_numpy()
    if 1 < n < 8:
        assert np.ptp(np.diff(numbers)) <= 10  # at most one stored frame of difference


def test_selected_methods_keep_the_real_frames(toy):
    assert set(select(toy, methods=["swap"])["method"]) == {"real", "swap"}
    with pytest.raises(DfnbError, match="no frame of split 'test'"):
        select(toy, "test")


def test_an_epoch_is_balanced_by_class_and_method(toy):
    sampler = EpochSampler(toy, batch_size=6, seed=3)
    order = sampler.order(0)
    method = toy["method"].astype(str).to_numpy()[order]
    assert len(order) == 18
    assert [np.sum(method == name) for name in ("real", "swap", "warp")] == [9, 4, 5]
    assert len(set(order[method == "real"])) == 6  # all of them before any comes again
    assert (order == sampler.order(0)).all()
    assert (order != sampler.order(1)).any()


def test_a_resumed_epoch_is_the_rest_of_the_epoch(toy):
    sampler = EpochSampler(toy, batch_size=4, seed=0)
    whole = list(sampler)
    sampler.skip = 2
    assert list(sampler) == whole[2:]
    assert len(sampler) == len(whole) - 2


def test_processes_share_the_batch(toy):
    sampler = EpochSampler(toy, batch_size=4, seed=0)
    whole = list(sampler)
    sampler.world, parts = 2, []
    for sampler.rank in (0, 1):
        parts.append(list(sampler))
    assert [sorted(a + b) for a, b in zip(*parts)] == [sorted(batch) for batch in whole]


def test_one_class_or_too_few_frames_are_refused(toy):
    with pytest.raises(DfnbError, match="one class only"):
        EpochSampler(toy[toy["label"] == 0], 2, 0)
    with pytest.raises(DfnbError, match="fewer than one batch of 64"):
        EpochSampler(toy, 64, 0)


@pytest.mark.parametrize("times", [1, 4])
def test_oversampling_shows_each_fake_once_and_each_real_frame_so_often(toy, times):
    label = toy["label"].to_numpy()
    sampler = EpochSampler(toy, batch_size=3, seed=2, oversampling=times)
    shown = np.bincount(sampler.order(0), minlength=len(toy))
    assert len(sampler) * 3 == sampler.n == 12 + 6 * times  # a multiple of three: nothing is dropped
    assert (shown[label == 1] == 1).all() and (shown[label == 0] == times).all()
    assert (sampler.order(0) != sampler.order(1)).any()

    sampler = EpochSampler(toy, batch_size=5, seed=2, oversampling=times)
    whole = list(sampler)
    assert len(whole) == len(sampler) == (12 + 6 * times) // 5 and {len(batch) for batch in whole} == {5}
    shown = np.bincount([row for batch in whole for _, _, row in batch], minlength=len(toy))
    assert (shown[label == 1] <= 1).all() and (shown[label == 0] <= times).all()
    assert [place for batch in whole for _, place, _ in batch] == list(range(5 * len(whole)))
    sampler.skip = 2
    assert list(sampler) == whole[2:] and len(sampler) == len(whole) - 2


def test_oversampling_keeps_to_a_limit(toy):
    sampler = EpochSampler(toy, batch_size=4, seed=0, limit=10, oversampling=4)
    assert len(sampler.order(0)) == sampler.n == 8


def masks_left(table):
    return set(np.flatnonzero(table["mask"].astype(str) != ""))


def test_masks_are_hidden_in_nested_shares(toy):
    fakes = set(np.flatnonzero(toy["label"] == 1))
    kept = {share: masks_left(hide_masks(toy, share, seed=1)) for share in (0, 0.25, 0.5, 0.75, 1)}
    assert [len(rows) for rows in kept.values()] == [0, 3, 6, 9, 12] and kept[1] == fakes
    assert kept[0.25] < kept[0.5] < kept[0.75] < kept[1]
    assert masks_left(hide_masks(toy, 0.5, seed=1)) == kept[0.5]
    assert any(masks_left(hide_masks(toy, 0.5, seed=seed)) != kept[0.5] for seed in range(2, 5))


def test_hiding_masks_changes_nothing_else(toy):
    before = toy.copy(deep=True)
    hidden = hide_masks(toy, 0.5, seed=1)
    assert toy.equals(before) and hidden.attrs == toy.attrs
    assert hidden.drop(columns="mask").equals(toy.drop(columns="mask"))
    known, fake = masks_left(hidden), toy["label"] == 1
    path = hidden["mask"].astype(str)
    assert (path[list(known)] == toy["mask"].astype(str)[list(known)]).all()
    data = dataset(hidden)
    items = [data[(0, 0, i)] for i in range(len(toy))]
    assert [bool(item["has_mask"]) for item in items] == [not fake[i] or i in known for i in range(len(toy))]
    assert [bool(item["mask"].any()) for item in items] == [i in known for i in range(len(toy))]


def test_masks_that_are_not_there_are_asked_for_in_vain(toy, tmp_path):
    with pytest.raises(DfnbError, match=r"has masks for 12 of the chosen fakes, and the share 0\.01 of them is none"):
        hide_masks(toy, 0.01, seed=0)
    crops = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    for method in ("real", "swap"):
        own = tmp_path / "bare" / "videos" / method / "x"
        frames.write_video(own, rows(2, "x", method), crops, None)
    frames.write_dataset(tmp_path / "bare", {})
    bare = load_frames(tmp_path / "bare")
    assert masks_left(hide_masks(bare, 0, seed=0)) == set()
    with pytest.raises(
        DfnbError, match=r"has masks for 0 of the chosen fakes.*prepare the dataset with masks"
    ) as error:
        hide_masks(bare, 1, seed=0)
    assert "\n" not in str(error.value)


def dataset(table, augmentation="none", size=SIZE, seed=0):
    return FrameDataset(table, size, (0.5,) * 3, (0.5,) * 3, augmentation, seed)


@pytest.mark.parametrize("kind", sorted(frames.AUGMENTATIONS))
def test_augmentation_comes_from_seed_epoch_and_position(toy, kind):
    data = dataset(toy, kind)
    one = data[(0, 5, 2)]["image"]
    assert torch.equal(one, data[(0, 5, 2)]["image"])
    others = [data[(0, 6, 2)], data[(1, 5, 2)], dataset(toy, kind, seed=1)[(0, 5, 2)]]
    assert all(not torch.equal(one, other["image"]) for other in others)


@pytest.mark.parametrize("kind", sorted(frames.AUGMENTATIONS))
def test_mask_and_landmarks_follow_the_image(kind):
    """A face of five coloured dots on grey: after augmentation each landmark still lies on its dot, and so does the mask."""
    size = 96
    points = torch.tensor([[36.0, 40.0], [60.0, 40.0], [48.0, 52.0], [40.0, 62.0], [56.0, 62.0]])
    image, region = torch.full((3, size, size), 90, dtype=torch.uint8), torch.zeros(1, size, size, dtype=torch.uint8)
    for x, y in points.int().tolist():
        image[:, y - 3 : y + 4, x - 3 : x + 4] = 220
        region[:, y - 3 : y + 4, x - 3 : x + 4] = 1
    seen = 0
    for position in range(40):
        moved, mask, landmarks = frames.AUGMENTATIONS[kind](image, region, points, core.rng("test", position))
        assert moved.shape == image.shape and mask.shape == region.shape and set(mask.unique().tolist()) <= {0, 1}
        inside = ((landmarks >= 3) & (landmarks < size - 3)).all(1)
        for x, y in landmarks[inside].round().int().tolist():
            assert mask[0, y, x] == 1
            assert moved[:, y, x].float().mean() > moved.float().mean() + 10
            seen += 1
        if inside.all():  # the person's right eye stays the one on the right-mouth-corner's side
            right, left = landmarks[0] - landmarks[3], landmarks[0] - landmarks[4]
            assert right.norm() < left.norm()
    assert seen > 60


def test_augmentation_of_exposing_the_deception_leaves_one_in_many_alone():
    """No part of it is certain, so that a share of (.5 · .9 · .95 · .5 · .3 · .8 · .5) = 2.6 % of the images stays as it is."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8))
    region, points = torch.zeros(1, 32, 32, dtype=torch.uint8), torch.rand(5, 2) * 31
    same = still = grey = 0
    for position in range(400):
        moved, _, landmarks = frames.exposing_the_deception(image, region, points, core.rng("test", position))
        same += torch.equal(moved, image)
        still += torch.equal(landmarks, points)
        grey += bool((moved[0] == moved[1]).all() and (moved[1] == moved[2]).all())
    assert 2 <= same <= 25 and 70 <= still <= 130 and 50 <= grey <= 110  # expected 10, 100 and 80


def test_resizing_scales_the_landmarks(toy):
    item = dataset(toy, size=2 * SIZE)[(0, 0, 0)]
    assert item["image"].shape == (3, 2 * SIZE, 2 * SIZE)
    assert item["landmarks"][0].tolist() == [20, 24]
    assert item["image"].min() >= -1 and item["image"].max() <= 1


def test_has_mask_tells_unknown_from_empty(tmp_path):
    folder = tmp_path / "toy"
    make(folder, TOY)
    crops = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    frames.write_video(folder / "videos" / "swap" / "nomask", rows(2, "nomask", "swap"), crops, None)
    frames.write_dataset(folder, {})
    table = load_frames(folder)
    known = {row.video: bool(dataset(table)[(0, 0, i)]["has_mask"]) for i, row in enumerate(table.itertuples())}
    assert known == {"real/a": True, "real/b": True, "swap/c": True, "warp/d": True, "swap/nomask": False}


def _read(pixels, path, queue):
    queue.put(pixels.crop(path, 0).sum())


def test_arrays_opened_before_a_fork_are_opened_again(toy):
    pixels = Pixels(toy.attrs["folder"])
    expected = pixels.crop(toy["path"].iloc[0], 0).sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read, args=(pixels, toy["path"].iloc[0], queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join()


def test_an_unreadable_image_is_named(toy, tmp_path):
    (tmp_path / "toy" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DfnbError, match=r"broken\.png cannot be read"):
        Pixels(toy.attrs["folder"]).crop("broken.png", 0)
