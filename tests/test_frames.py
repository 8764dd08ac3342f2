"""The frames table, its pixels, the loader's batches and the order of an epoch."""

import hashlib
import os
import re
import resource
from typing import ClassVar

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import trees
from torchvision.transforms import v2

from dfnb import core, papers
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.data.frames import EpochSampler, FrameDataset, Pixels, in_order, load_frames, loader, select
from dfnb.papers import locate_and_verify

SIZE = 37  # not a multiple of 8: masks are packed along the row


class Settings:
    """What a dataset needs of a paper's settings."""

    mean = std = (0.5, 0.5, 0.5)
    samples_per_frame = 1

    def __init__(self, image_size=SIZE, transform=None):
        self.image_size, self.transform = image_size, lambda: transform

    def samples(self, sample, draw):
        return [sample]


class Twice(Settings):
    """Two images of a frame: as it is, and a fake of a random brightness."""

    samples_per_frame = 2

    def samples(self, sample, draw):
        return [sample, sample._replace(image=np.full_like(sample.image, draw.integers(256)), label=1)]


LIGHT = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(10, translate=(0.1, 0.1))])


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


TOY = [("a", "real", 3), ("b", "real", 3), ("c", "swap", 4), ("d", "warp", 8)]


def make(folder, videos=TOY, seed=0):
    draw = np.random.default_rng(seed)
    for video, method, n in videos:
        crops = draw.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
        masks = draw.random((n, SIZE, SIZE)) > 0.7 if method != "real" else None
        frames.write_video(folder / "videos" / method / video, rows(n, video, method), crops, masks)
        np.savez(folder / f"{video}.expected.npz", crops=crops, masks=masks if method != "real" else np.zeros(0))
    return frames.write_dataset(folder, {"made": "by a test"})


@pytest.fixture
def toy(tmp_path):
    make(tmp_path / "toy")
    return load_frames(tmp_path / "toy")


def flip(path):
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---------------------------------------------------------------- writing and reading


def test_pixels_of_any_width_come_back_as_they_were_written(toy):
    pixels = Pixels(toy.attrs["folder"])
    expected = np.load(f"{toy.attrs['folder']}/d.expected.npz")
    for row in toy[toy["method"] == "warp"].itertuples():
        assert (pixels.crop(row.path, row.row) == expected["crops"][row.row]).all()
        assert (pixels.mask(row.mask, row.row, (SIZE, SIZE)) == expected["masks"][row.row]).all()
    assert (pixels.crop(row.path) == expected["crops"]).all()
    real = toy[toy["method"] == "real"].iloc[0]
    assert not pixels.mask(real["mask"], real["row"], (SIZE, SIZE)).any()


def test_the_record_counts_and_its_fingerprint_follows_pixels_and_rows(tmp_path, monkeypatch):
    first = make(tmp_path / "one")
    assert first["n"]["train/real"] == {"frames": 6, "videos": 2} and len(first["n"]) == 3
    monkeypatch.setattr(frames, "ROW_GROUP", 4)  # written in parts
    assert make(tmp_path / "parts")["fingerprint"] == first["fingerprint"]
    pd.testing.assert_frame_equal(load_frames(tmp_path / "parts"), load_frames(tmp_path / "one"))
    assert make(tmp_path / "two", seed=1)["fingerprint"] != first["fingerprint"]
    other = rows(3, "a", "real", split="val")
    crops = np.load(tmp_path / "one" / "a.expected.npz")["crops"]
    frames.write_video(tmp_path / "one" / "videos" / "real" / "a", other, crops, None)
    assert frames.write_dataset(tmp_path / "one", {"made": "by a test"})["fingerprint"] != first["fingerprint"]


def test_the_fingerprint_and_the_table_are_those_of_the_first_version(tmp_path):
    """A fingerprint identifies data for ever: a change here makes every prepared dataset another one."""
    assert make(tmp_path / "toy")["fingerprint"] == "61dd7ddfce2958a7"
    table = load_frames(tmp_path / "toy")
    assert hashlib.sha256(table.to_csv().encode()).hexdigest()[:16] == "771a8bcaac4ba8de"
    assert [*table["video"].cat.categories] == ["real/a", "real/b", "swap/c", "warp/d"]
    assert [*table["mask"].cat.categories] == ["", "videos/swap/c/masks.npy", "videos/warp/d/masks.npy"]


def test_rows_are_written_as_the_videos_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "ROW_GROUP", 100)
    for i in range(120):
        video = f"{i:03d}"
        crops = np.zeros((50, 1, 1, 3), np.uint8)
        frames.write_video(tmp_path / "long/videos" / video, rows(50, video, "real"), crops, None)
    held, read, before = [], frames.core.read_json, pa.total_allocated_bytes()
    monkeypatch.setattr(
        frames.core, "read_json", lambda path: held.append(pa.total_allocated_bytes() - before) or read(path)
    )
    frames.write_dataset(tmp_path / "long", {})
    assert max(held[60:120]) < 3 * max(held[:10])  # of the last videos no more is held than of the first
    assert frames.pq.ParquetFile(tmp_path / "long/frames.parquet").num_row_groups == 60
    table = load_frames(tmp_path / "long")
    assert len(table) == 6000 and table["video"].is_monotonic_increasing


def test_a_killed_or_failed_writer_leaves_no_video(toy, tmp_path):
    left = tmp_path / "toy" / "videos" / ".x.partial123"
    left.mkdir()
    (left / "video.json").write_text("{}")
    assert frames.write_dataset(tmp_path / "toy", {"made": "by a test"})["fingerprint"] == toy.attrs["fingerprint"]
    with pytest.raises(TypeError):
        frames.write_video(tmp_path / "new" / "x", rows(2, "x", "real"), np.zeros((2, 8, 8, 3), np.uint8), masks="none")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("column", ["path", "mask"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "..", "../other/videos/a.npy", "videos/../../a.npy"])
def test_files_outside_the_dataset_are_refused(tmp_path, toy, column, path):
    escaping = toy[column].astype(str).where(toy.index != len(toy) - 1, path)  # one row of many
    toy.assign(**{column: escaping}).to_parquet(tmp_path / "toy" / "frames.parquet")
    trees.recorded(tmp_path / "toy")
    with pytest.raises(DfnbError, match=f"{re.escape(path)} lies outside the dataset's folder; delete frames"):
        load_frames(tmp_path / "toy")


@pytest.mark.parametrize("name", ["videos/real/a/frames.npy", "videos/swap/c/masks.npy"])
def test_a_flipped_byte_in_crops_or_masks_is_found_before_use(tmp_path, toy, name):
    flip(tmp_path / "toy" / name)
    with pytest.raises(DfnbError) as error:
        load_frames(tmp_path / "toy")
    folder = (tmp_path / "toy" / name).parent
    assert str(error.value) == (
        f"{tmp_path / 'toy'} is not valid as a dataset (ValueError: a crop or mask of {folder} is not the one that was prepared); "
        "restore it, or delete the folder of that video, delete frames.parquet and prepare the dataset again"
    )
    flip(tmp_path / "toy" / name)
    assert len(load_frames(tmp_path / "toy")) == len(toy)


@pytest.mark.parametrize("image", ["a.png", "a-mask.png"])
def test_a_flipped_byte_in_an_image_that_is_used_in_place_is_found_before_use(tmp_path, image):
    folder, there = tmp_path / "toy", tmp_path / "toy/tree"
    there.mkdir(parents=True)
    for name in ("a.png", "a-mask.png"):
        (there / name).write_bytes(f"bytes of {name}".encode())
    listed = [{"path": "tree/a.png", "mask": "tree/a-mask.png"}, {"path": "tree/a.png", "mask": ""}]
    described = [row | where for row, where in zip(rows(2, "a", "swap"), listed)]
    hashed = frames.images_hash(folder, described)
    frames.write_video(folder / "videos/a", described, None, None, crops_hash=hashed)
    frames.write_dataset(folder, {})
    assert len(load_frames(folder)) == 2
    flip(there / image)
    with pytest.raises(DfnbError, match=r"a crop or mask of .*/toy/videos/a is not the one that was prepared"):
        load_frames(folder)


@pytest.mark.parametrize("shape", [(2, 2), (40, 30), (8, 64)])
def test_an_image_of_a_mask_has_the_shape_of_its_frame_at_any_size(tmp_path, shape):
    cv2.imwrite(str(tmp_path / "mask.png"), np.full(shape, 255, np.uint8))
    if shape[0] == shape[1]:
        assert Pixels(tmp_path).mask("mask.png", 0, (SIZE, SIZE)).all()
    else:
        with pytest.raises(DfnbError, match=r"mask\.png is no mask of 37 × 37 pixels; prepare its video again"):
            Pixels(tmp_path).mask("mask.png", 0, (SIZE, SIZE))


def test_crops_are_hashed_again_only_when_a_file_has_changed(tmp_path, toy, monkeypatch):
    hashed, really = [], frames._array_hashes
    monkeypatch.setattr(frames, "_array_hashes", lambda video: hashed.append(video.name) or really(video))
    load_frames(tmp_path / "toy")
    assert not hashed
    path = tmp_path / "toy/videos/real/a/frames.npy"
    path.touch()
    for _ in range(2):
        load_frames(tmp_path / "toy")
    assert sorted(hashed) == ["a", "b", "c", "d"]
    with monkeypatch.context() as patch:  # shared data that others may only read: nothing is kept there
        patch.setattr(os, "access", lambda *given: False)
        patch.setattr(core, "cached", lambda *given: pytest.fail("written"))
        load_frames(tmp_path / "toy")
    assert sorted(hashed) == [*"aabbccdd"]
    other = path.with_name("copy.npy")
    other.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(other, ns=(0, path.stat().st_mtime_ns - 10**9))
    other.replace(path)  # older, as a copy that keeps its time
    with pytest.raises(DfnbError, match="is not the one that was prepared"):
        load_frames(tmp_path / "toy")


def test_what_cannot_be_read_is_named(toy, tmp_path):
    with pytest.raises(DfnbError, match="holds no finished dataset"):
        load_frames(tmp_path / "nothing")
    (tmp_path / "toy" / "broken.png").write_bytes(b"not an image")
    (tmp_path / "toy" / "short.npy").write_bytes((tmp_path / "toy" / toy["path"].iloc[0]).read_bytes()[:500])
    for name in ("broken.png", "short.npy", "gone.npy", "gone.png"):
        with pytest.raises(DfnbError, match=rf"{name} cannot be read"):
            Pixels(toy.attrs["folder"]).crop(name, 0)
        with pytest.raises(DfnbError, match=rf"{name} cannot be read"):
            Pixels(toy.attrs["folder"]).mask(name, 0, (SIZE, SIZE))
    toy.drop(columns=["cluster", "landmarks"]).to_parquet(tmp_path / "toy" / "frames.parquet")
    trees.recorded(tmp_path / "toy")
    with pytest.raises(
        DfnbError, match=r"frames.parquet is not valid as frames of a dataset .*cluster.*; delete frames"
    ):
        load_frames(tmp_path / "toy")


def test_more_videos_than_descriptors_can_be_read_by_workers_too(toy):
    many = pd.concat([toy] * 60, ignore_index=True).assign(row=0)
    many.attrs = toy.attrs
    for column, entry in (("path", np.zeros((1, 8, 8, 3), np.uint8)), ("mask", np.zeros((1, 8, 1), np.uint8))):
        many[column] = [f"{column}{i}.npy" for i in range(len(many))]
        for name in many[column]:
            np.save(f"{toy.attrs['folder']}/{name}", entry)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        for workers in (0, 2):
            batches = list(in_order(many, Settings(8), 64, workers))
            assert sum(len(batch["label"]) for batch in batches) == len(many) == 1080
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---------------------------------------------------------------- choosing


def test_selected_methods_keep_the_real_frames(toy):
    assert set(select(toy, methods=["swap"])["method"]) == {"real", "swap"}
    with pytest.raises(DfnbError, match="no frame of split 'test' or methods None, but train/real, train/"):
        select(toy, "test")
    with pytest.raises(DfnbError, match=r"methods .*'blend'.*, but train/real, train/swap, train/warp$"):
        select(toy, methods=["swap", "blend"])


def test_a_split_of_one_class_is_refused_before_it_is_used(toy):
    frames.both_classes(toy, "train")
    with pytest.raises(DfnbError, match="split 'val' has 0 real frames of 0 clusters and 0 fake frames of 0"):
        frames.both_classes(toy[toy["split"] == "val"], "val")
    with pytest.raises(
        DfnbError, match="split 'train' has 6 real frames of 2 clusters and 0 fake frames of 0, and training needs two"
    ):
        frames.both_classes(toy[toy["label"] == 0], "train")
    with pytest.raises(
        DfnbError, match=r"real frames of 1 clusters and .* fake frames of 1, and training needs two clusters"
    ):
        frames.both_classes(toy.assign(cluster="one"), "train")
    frames.both_classes(toy[toy["label"] == 0], "train", made=True)
    with pytest.raises(DfnbError, match="real frames of 1 clusters and 0 fake frames of 0, and training needs two"):
        frames.both_classes(toy[toy["label"] == 0].assign(cluster="one"), "train", made=True)


@pytest.mark.parametrize("per_video", [1, 3, 4, 7, 100])
def test_a_video_is_thinned_evenly_and_to_what_is_asked(per_video):
    sizes = {"a": 10, "b": 4, "c": 1}
    rows = [{"video": video, "row": row} for row in range(10) for video, size in sizes.items() if row < size]
    table = pd.DataFrame(rows).astype({"video": "category"})
    assert frames.thinned(table, None).equals(table)
    kept = frames.thinned(table, per_video).groupby("video", observed=True)["row"].agg(list)
    for video, size in sizes.items():
        gaps = np.diff([-1, *kept[video]])
        assert len(kept[video]) == min(size, per_video) and kept[video][-1] == size - 1
        assert gaps.max() - gaps.min() <= 1


def masks_left(table):
    return set(np.flatnonzero(table["mask"].astype(str) != ""))


def test_masks_are_hidden_in_nested_shares_and_nothing_else_changes(toy):
    def hide_masks(share, seed):
        return locate_and_verify.Settings(annotated=share).visible(toy, seed, None)

    before, fakes = toy.copy(deep=True), set(np.flatnonzero(toy["label"] == 1))
    kept = {share: masks_left(hide_masks(share, seed=1)) for share in (0, 0.25, 0.5, 0.75, 1)}
    assert [len(rows) for rows in kept.values()] == [0, 3, 6, 9, 12] and kept[1] == fakes
    assert kept[0.25] < kept[0.5] < kept[0.75] < kept[1]
    assert any(masks_left(hide_masks(0.5, seed=seed)) != kept[0.5] for seed in range(2, 5))
    hidden = hide_masks(0.5, seed=1)
    assert toy.equals(before) and hidden.attrs == toy.attrs
    assert hidden.drop(columns="mask").equals(toy.drop(columns="mask"))
    batch = frames.as_batch(hidden, Settings())
    assert batch["has_mask"].tolist() == [i not in fakes or i in kept[0.5] for i in range(len(toy))]
    assert batch["mask"].any(dim=(1, 2, 3)).tolist() == [i in kept[0.5] for i in range(len(toy))]
    with pytest.raises(DfnbError, match=r"has 12 masks .* annotated = 0\.01 is none; raise it, .*sspsl = true"):
        hide_masks(0.01, seed=0)


def test_the_mean_mask_is_that_of_the_forged_frames_of_a_table(toy, tmp_path):
    folder = tmp_path / "split"
    for video, method, split in (
        ("a", "real", "train"),
        ("b", "swap", "train"),
        ("c", "warp", "train"),
        ("d", "swap", "val"),
    ):
        masks = (
            np.random.default_rng(len(split) + ord(video)).random((3, SIZE, SIZE)) > 0.5 if method != "real" else None
        )
        crops = np.zeros((3, SIZE, SIZE, 3), np.uint8)
        frames.write_video(folder / "videos" / video, rows(3, video, method, split), crops, masks)
    frames.write_dataset(folder, {"made": "by a test"})
    stored = [np.load(folder / "videos" / video / "masks.npy") for video in "bc"]
    expected = np.unpackbits(np.concatenate(stored), axis=-1, count=SIZE).mean(axis=0)
    table = frames.load_frames(folder)
    np.testing.assert_array_equal(frames.mean_mask(frames.select(table, "train")), expected)
    only = np.unpackbits(stored[0], axis=-1, count=SIZE).mean(axis=0)
    np.testing.assert_array_equal(frames.mean_mask(frames.select(table, "train", ["swap"])), only)
    make(tmp_path / "real", TOY[:2])
    assert frames.mean_mask(frames.load_frames(tmp_path / "real")) is None


def test_drawn_data_are_identified_by_what_they_are_drawn_from_others_by_their_bytes():
    def identity(fingerprint, **parameters):
        return frames.identity({"parameters": parameters, "fingerprint": fingerprint})

    assert identity("x", generator=2, noise=0.1) == identity("y", generator=2, noise=0.1)
    assert len({identity("x", generator=g, noise=n) for g in (2, 3) for n in (0.1, 0.2)}) == 4
    assert identity("x", root="/a") == "x" and identity("y", root="/a") == "y"


# ---------------------------------------------------------------- batches


def test_batches_in_order_are_the_stored_frames(toy):
    batches = list(in_order(toy, Settings(), size=4))
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4, 4, 2]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == toy["label"].tolist()
    expected = np.load(f"{toy.attrs['folder']}/a.expected.npz")["crops"]
    assert (frames.pictures(batches[0], Settings())[:3] == expected).all()
    resized = frames.as_batch(toy.head(2), Settings(image_size=2 * SIZE))
    assert resized["image"].shape == (2, 3, 2 * SIZE, 2 * SIZE) and resized["mask"].shape == (2, 1, 2 * SIZE, 2 * SIZE)
    assert resized["landmarks"][0, 0].tolist() == [20, 24]
    assert resized["image"].min() >= -1 and resized["image"].max() <= 1


def test_draws_come_from_seed_epoch_and_position_in_any_process(toy):
    settings = Settings(transform=LIGHT)
    image = FrameDataset(toy, settings, seed=0)[(0, 5, 2)][0]["image"]
    state = torch.get_rng_state()
    assert torch.equal(image, FrameDataset(toy, settings, seed=0)[(0, 5, 2)][0]["image"])
    assert torch.equal(state, torch.get_rng_state())
    for seed, index in ((0, (0, 6, 2)), (0, (1, 5, 2)), (1, (0, 5, 2))):
        assert not torch.equal(image, FrameDataset(toy, settings, seed)[index][0]["image"])
    sampler, epochs = EpochSampler(toy, 6, seed=0), {}
    for workers in (0, 2):
        batches, epochs[workers] = loader(FrameDataset(toy, settings, seed=0), sampler, workers), []
        for sampler.epoch in (0, 1):
            epochs[workers] += [batch["image"] for batch in batches]
    assert torch.equal(torch.cat(epochs[0]), torch.cat(epochs[2])) and len(epochs[0]) == 6


@pytest.mark.parametrize(
    ("transform", "dims", "names"),
    [
        (v2.RandomHorizontalFlip(1), [-1], [1, 0, 2, 4, 3]),
        (v2.RandomVerticalFlip(1), [-2], [1, 0, 2, 4, 3]),
        (v2.RandomRotation((180, 180)), [-1, -2], [0, 1, 2, 3, 4]),
    ],
)
def test_mask_and_landmarks_follow_the_image(toy, transform, dims, names):
    """Landmarks keep their names in a mirrored face: right eye, left eye, nose tip, right and left corner of the mouth."""
    item = FrameDataset(toy, Settings(transform=transform), seed=0)[(0, 0, 8)][0]
    stored = FrameDataset(toy, Settings())[(0, 0, 8)][0]
    assert all(torch.equal(item[name], stored[name].flip(dims)) for name in ("image", "mask"))
    expected = stored["landmarks"].clone()
    for dim in dims:
        expected[:, -dim - 1] = SIZE - 1 - expected[:, -dim - 1]
    assert (item["landmarks"] - expected[names]).abs().max() <= 1


def test_an_augmentation_that_changes_the_size_is_refused(toy):
    with pytest.raises(DfnbError, match="its side must stay 37"):
        FrameDataset(toy, Settings(transform=v2.Resize([20, 20])), seed=0)[(0, 0, 0)]


def test_a_paper_makes_its_own_samples(toy):
    real = toy[toy["label"] == 0]
    sampler = EpochSampler(real, batch_size=4, seed=0, samples_per_frame=2)
    assert sampler.n == 6 and len(sampler) == 3
    train, val = (FrameDataset(real, Twice(32), seed=3, split=split) for split in ("train", "val"))
    batches = list(loader(train, sampler, workers=1))
    assert all(batch["label"].tolist() == [0, 1, 0, 1] and batch["image"].shape == (4, 3, 32, 32) for batch in batches)
    assert len(torch.cat([batch["image"][1::2, 0, 0, 0] for batch in batches]).unique()) > 3  # each draws anew
    assert not torch.equal(train[(0, 0, 0)][1]["image"], val[(0, 0, 0)][1]["image"])
    assert len(FrameDataset(real, Twice(32))[(0, 0, 0)]) == 1  # judged as stored
    whole, again = (list(in_order(real, Twice(32), 4, seed=3, split="val")) for _ in range(2))
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(whole, again))
    assert [batch["label"].tolist() for batch in whole] == [[0, 1] * 4, [0, 1] * 2]
    part = next(in_order(real.iloc[1::2], Twice(32), 4, seed=3, split="val"))  # what a second process judges
    assert torch.equal(part["image"], torch.cat([batch["image"] for batch in whole])[[2, 3, 6, 7, 10, 11]])


def test_the_samples_of_a_frame_are_augmented_alike_and_stay_on_one_device(toy):
    class Copies(Twice):
        def samples(self, sample, draw):
            return [sample, sample]

    data, seen = FrameDataset(toy, Copies(SIZE, LIGHT), seed=0), set()
    for position in range(6):
        one, other = data[(0, position, 0)]
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["landmarks"], other["landmarks"])
        seen.add(one["image"].mean().item())
    assert len(seen) > 3
    sampler = EpochSampler(toy[toy["label"] == 0], 4, 0, samples_per_frame=2)
    sampler.world, sampler.rank = 2, 1
    assert all(len(batch) == 1 for batch in sampler)  # a batch of four images is two frames, one for each process


def test_a_landmark_that_is_unknown_stays_unknown(toy):
    toy["landmarks"] = pd.array([None] * len(toy), dtype=toy["landmarks"].dtype)
    item = FrameDataset(toy, Settings(transform=LIGHT), seed=0)[(0, 0, 0)][0]
    assert item["landmarks"].shape == (5, 2) and item["landmarks"].isnan().all()


# ---------------------------------------------------------------- the order of an epoch


def test_an_epoch_is_balanced_by_class_and_method(toy):
    sampler = EpochSampler(toy, batch_size=6, seed=3)
    order = sampler.order(0)
    method = toy["method"].astype(str).to_numpy()[order]
    assert [np.sum(method == name) for name in ("real", "swap", "warp")] == [9, 4, 5]
    assert len(set(order[method == "real"])) == 6  # all of them before any comes again
    assert (order == sampler.order(0)).all() and (order != sampler.order(1)).any()


@pytest.mark.parametrize("times", [1, 4])
def test_oversampling_shows_each_fake_once_and_each_real_frame_so_often(toy, times):
    label = toy["label"].to_numpy()
    sampler = EpochSampler(toy, batch_size=3, seed=2, oversampling=times)
    shown = np.bincount(sampler.order(0), minlength=len(toy))
    assert len(sampler) * 3 == sampler.n == 12 + 6 * times  # a multiple of three: nothing is dropped
    assert (shown[label == 1] == 1).all() and (shown[label == 0] == times).all()
    assert (sampler.order(0) != sampler.order(1)).any()
    assert EpochSampler(toy, batch_size=4, seed=0, limit=10, oversampling=times).n == 8


@pytest.mark.parametrize("oversampling", [None, 4])
def test_a_resumed_epoch_is_the_rest_of_it_and_processes_share_each_batch(toy, oversampling):
    sampler = EpochSampler(toy, batch_size=4, seed=0, oversampling=oversampling)
    whole = list(sampler)
    assert [place for batch in whole for _, place, _ in batch] == list(range(sampler.n))
    sampler.skip = 2
    assert list(sampler) == whole[2:] and len(sampler) == len(whole) - 2
    sampler.skip, sampler.world, parts = 0, 2, []
    for sampler.rank in (0, 1):
        parts.append(list(sampler))
    assert [sorted(a + b) for a, b in zip(*parts)] == [sorted(batch) for batch in whole]


@pytest.mark.parametrize("oversampling", [None, 1])
def test_every_batch_shows_some_of_the_frames_that_are_always_shown(toy, oversampling):
    """In the place of fakes, by turns; which they are is the same again in a resumed epoch and for every epoch another."""
    label, always = toy["label"].to_numpy(), np.array([7, 9, 12])
    plain = EpochSampler(toy, 6, 0, oversampling=oversampling)
    sampler = EpochSampler(toy, 6, 0, oversampling=oversampling, always=always)
    whole = list(sampler)
    assert [place for batch in whole for _, place, _ in batch] == list(range(sampler.n)) and sampler.n == plain.n
    assert {batch[0][2] for batch in whole} == set(
        always
    )  # three batches, each of one that the others do not begin with
    assert label[sampler.order(0)].sum() == label[plain.order(0)].sum()
    assert (sampler.order(0) == sampler.order(0)).all() and (sampler.order(0) != sampler.order(1)).any()
    sampler.skip = 2
    assert list(sampler) == whole[2:]
    sampler = EpochSampler(toy, 18, 0, always=always[:1])
    assert (sampler.order(0)[:2] == 7).all()  # an eighth of 18
    assert (EpochSampler(toy, 6, 0, always=()).order(3) == EpochSampler(toy, 6, 0).order(3)).all()


def test_what_gives_no_batch_is_refused(toy):
    with pytest.raises(DfnbError, match="has 18 frames, fewer than one batch; lower batch_size"):
        EpochSampler(toy, 64, 0)


def test_a_wrong_number_of_samples_is_refused(toy):
    class Pairs(papers.Settings):
        samples_per_frame: ClassVar[int] = 2

    with pytest.raises(DfnbError, match="made 1 images, not samples_per_frame"):
        FrameDataset(toy, Pairs(image_size=32), seed=0)[0, 0, 0]
