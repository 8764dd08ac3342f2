"""The frames table: what is written, what is refused, and how rows are chosen."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import toy
from toy import SIZE

from dfnb.data.loading import as_batch
from facesets import frames
from facesets.checks import DfnbError
from facesets.frames import load_frames, read_crop, read_mask


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "toy"


@pytest.fixture
def table(folder):
    return toy.table(folder)


# ---------------------------------------------------------------- writing and reading


def test_pixels_are_read_as_they_were_written(folder, table):
    crops, masks = toy.pixels("d", "warp", 8)
    last = table.iloc[-1]
    assert last["path"] == str(folder / "videos/warp/d/007.png")
    assert (read_crop(last["path"]) == crops[7]).all()
    assert (read_mask(last["mask"], (SIZE, SIZE)) == masks[7]).all()
    assert not read_mask("", (SIZE, SIZE)).any()


def test_the_fingerprint_and_the_table_are_what_they_were(folder):
    """A fingerprint identifies data for ever: a change here makes every dataset another one."""
    record = toy.write(folder)
    assert record["fingerprint"] == "8f7b22ddd7db6663"
    assert record["n"]["train/real"] == {"frames": 6, "videos": 2}
    assert list(record["n"]) == ["train/real", "train/swap", "train/warp"]
    text = load_frames(folder).drop(columns=["path", "mask", "crop_hash"]).to_csv()
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6746530b7956580f"
    originals = {"swap/c": "real/b"}
    assert toy.write(folder, originals=originals)["fingerprint"] == "c28744139410e71c"


def test_the_fingerprint_follows_pixels_and_rows(tmp_path):
    first = toy.write(tmp_path / "first")["fingerprint"]
    assert toy.write(tmp_path / "other pixels", seed=1)["fingerprint"] != first
    crops, _ = toy.pixels("a", "real", 3)
    place = tmp_path / "first/videos/real/a"
    frames.write_video(place, toy.rows(3, "a", "real", split="val"), crops, None)
    assert frames.write_dataset(tmp_path / "first", {"made": "by a test"})["fingerprint"] != first


def test_a_split_that_is_added_changes_no_other(tmp_path):
    """So a dataset may be prepared split by split, and earlier results stay those of its data."""
    before = toy.write(tmp_path)
    crops, _ = toy.pixels("a", "real", 3)
    frames.write_video(tmp_path / "videos/real/z", toy.rows(3, "z", "real", split="test"), crops)
    after = frames.write_dataset(tmp_path, {"made": "by a test"})
    assert after["fingerprints"].keys() == {"train", "test"}
    assert after["fingerprints"]["train"] == before["fingerprints"]["train"]
    fitted = ["train", "val"]
    assert frames.data_identity(after, fitted) == frames.data_identity(before, fitted)
    assert frames.data_identity(after, ["test"]) != frames.data_identity(before, ["test"])


def test_a_killed_or_failed_writer_leaves_no_video(folder, table):
    killed = folder / "videos/.x.partial123"
    killed.mkdir()
    (killed / "video.json").write_text("{}")
    record = frames.write_dataset(folder, {"made": "by a test"})
    assert record["fingerprint"] == "8f7b22ddd7db6663"
    crops = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 7), np.uint8)]
    with pytest.raises(cv2.error):  # at the second
        frames.write_video(folder / "new/x", toy.rows(2, "x", "swap"), crops)
    assert not list((folder / "new").iterdir())


def test_a_dataset_that_was_not_made_is_refused(folder):
    with pytest.raises(DfnbError, match="contains no finished dataset; make it with"):
        load_frames(folder)


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_a_record_that_is_none_is_explained(folder, table, content):
    (folder / "record.json").write_text(content)
    with pytest.raises(DfnbError, match=r"record\.json is not valid .*; delete it and run"):
        load_frames(folder)


def test_files_of_others_become_files_of_a_video(folder, tmp_path):
    crop, mask = tmp_path / "theirs.jpg", tmp_path / "white.bmp"
    image = np.full((SIZE, SIZE, 3), 20, np.uint8)
    grey = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    grey[: 2 * 20] = 255
    cv2.imwrite(str(crop), image)
    cv2.imwrite(str(mask), grey)
    (tmp_path / "link.jpg").symlink_to(crop)
    (row,) = toy.rows(1, "a", "swap")
    row = {name: value for name, value in row.items() if name not in ("landmarks", "scale")}

    def fingerprint(*files):
        hashes = [frames.crop_hash(image)]
        frames.write_video(folder / "videos/a", [row], files=[files], crop_hashes=hashes)
        return frames.write_dataset(folder, {})["fingerprint"]

    first = fingerprint(tmp_path / "link.jpg", mask)
    table = load_frames(folder)
    assert table["path"].tolist() == [str(folder / "videos/a/000.jpg")]
    assert table["mask"].tolist() == [str(folder / "videos/a/mask-000.bmp")]
    for ours, theirs in ((table["path"][0], crop), (table["mask"][0], mask)):
        assert Path(ours).read_bytes() == theirs.read_bytes()
        assert not Path(ours).samefile(theirs) and not Path(ours).is_symlink()
    batch = as_batch(table, toy.Settings())
    assert batch["landmarks"].isnan().all()
    assert batch["mask"][0, 0, :20].all()
    assert not batch["mask"][0, 0, 20:].any()
    assert fingerprint(crop, None) != first and load_frames(folder)["mask"].tolist() == [""]
    cv2.imwrite(str(mask), 255 - grey)
    assert fingerprint(crop, mask) != first
    frames.remove_video(folder / "videos/a")
    assert crop.exists() and mask.exists() and not (folder / "videos/a").exists()


# ---------------------------------------------------------------- refused


def test_a_table_without_a_column_is_refused(folder, table):
    table.drop(columns="cluster").to_parquet(folder / "frames.parquet")
    with pytest.raises(DfnbError, match=r"not valid as a table of frames .*cluster.*; delete"):
        load_frames(folder)


@pytest.mark.parametrize("name", ["broken.png", "missing.png"])
def test_a_file_that_cannot_be_read_is_named(folder, name):
    (folder / "broken.png").parent.mkdir()
    (folder / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DfnbError, match=rf"{name} cannot be read as an image; restore it"):
        read_crop(str(folder / name))
    with pytest.raises(DfnbError, match=rf"{name} cannot be read"):
        read_mask(str(folder / name), (SIZE, SIZE))


# ---------------------------------------------------------------- choosing


def test_selected_methods_keep_the_real_frames(table):
    assert set(frames.select(table, "train", ["swap"])["method"]) == {"real", "swap"}
    with pytest.raises(DfnbError, match=r"no frame of split 'test' .* but train/real, train/swap"):
        frames.select(table, "test")
    with pytest.raises(DfnbError, match=r"methods .*'blend'.*, but train/real"):
        frames.select(table, "train", ["swap", "blend"])


def test_a_split_of_one_class_or_cluster_is_refused(table):
    real = table[table["label"] == 0]
    frames.check_clusters(table, "train")
    with pytest.raises(DfnbError, match="2 clusters of real frames and 0 of fake ones"):
        frames.check_clusters(real, "train")
    with pytest.raises(DfnbError, match="1 clusters of real frames and 1 of fake ones"):
        frames.check_clusters(table.assign(cluster="one"), "train")


def test_a_video_is_thinned_evenly():
    table = pd.DataFrame({"video": ["a"] * 10 + ["b"] * 2, "row": [*range(10), *range(2)]})
    assert frames.thinned(table, 1)["row"].tolist() == [9, 1]
    assert frames.thinned(table, 3)["row"].tolist() == [3, 6, 9, 0, 1]
    assert frames.thinned(table, 100).equals(table)
    assert frames.thinned(table, None).equals(table)


def test_the_first_clusters_hold_half_of_the_videos_of_each_class(folder):
    videos = []
    for number, name in enumerate("abcdefgh"):
        videos.append((name, ["real", "swap"][number % 2], 2))
    table = toy.table(folder, videos)
    first = frames.first_clusters(table, 4)
    assert sorted(first["cluster"].unique()) == ["a", "b", "c", "d"]
    assert frames.first_clusters(table, None).equals(table)


# ---------------------------------------------------------------- masks


def test_masks_are_kept_of_some_rows_and_nothing_else_changes(table):
    before = table.copy(deep=True)
    kept = frames.masked_positions(table)[[1, 5]]
    hidden = frames.keep_masks(table, kept)
    assert list(frames.masked_positions(hidden)) == list(kept)
    assert hidden.drop(columns="mask").equals(table.drop(columns="mask"))
    assert table.equals(before)
    with pytest.raises(DfnbError, match=r"has 12 masks for 18 frames.* annotated = 0\.01 is none"):
        frames.keep_masks(table, [], share=0.01)


def test_the_mean_mask_is_that_of_the_fake_frames(table):
    _, swap = toy.pixels("c", "swap", 4)
    _, warp = toy.pixels("d", "warp", 8)
    both = np.concatenate([swap, warp])
    np.testing.assert_allclose(frames.mean_mask(table), both.mean(axis=0))
    assert frames.mean_mask(table[table["label"] == 0]) is None


@pytest.mark.parametrize(
    ("levels", "threshold"),
    [
        ([0] * 9 + [107], 53),
        ([0] * 9 + [1], 0),
        ([0] * 9 + [120, 250, 255], 127),
        ([0] * 9 + [1, 1, 2, 3], 127),  # specks of compression
        (range(108), 127),
        ([0] * 9, 0),
    ],
)
def test_a_mask_of_two_levels_is_divided_between_them(tmp_path, levels, threshold):
    grey = np.uint8([levels])
    path = str(tmp_path / "mask.png")
    cv2.imwrite(path, grey)
    np.testing.assert_array_equal(read_mask(path, grey.shape), grey > threshold)


def test_drawn_data_are_identified_by_their_parameters_and_others_by_their_bytes():
    one = {"parameters": {"generator": 2, "noise": 0.1}, "fingerprints": {"test": "x"}}
    other = {**one, "parameters": {"generator": 2, "noise": 0.2}}
    assert frames.data_identity(one) == frames.data_identity({**one, "fingerprints": {"test": "y"}})
    assert frames.data_identity(one) != frames.data_identity(other)
    prepared = {"parameters": {}, "fingerprints": {"test": "x"}}
    changed = {**prepared, "fingerprints": {"test": "y"}}
    assert frames.data_identity(prepared, ["test"]) != frames.data_identity(changed, ["test"])
