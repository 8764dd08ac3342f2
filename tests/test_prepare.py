"""From videos to crops: which face, where it is cut, what is lost, and what a kill leaves."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import trees
from clips import SMALL, Blobs, draw, moving, without_first, write
from PIL import Image

from facesets import codecs, frames, prepare
from facesets.checks import DfnbError
from facesets.decode import decode, guess_length
from facesets.frames import (
    OWN_MARK,
    landmarks_array,
    load_frames,
    masked_positions,
    mean_mask,
    read_crop,
    read_mask,
)
from facesets.prepare import Settings, prepare_picture
from facesets.seeds import rng
from facesets.videos import Video, read_folder


@pytest.fixture
def data(empty_home):
    """The folder of the dataset "set" in a home of its own."""
    return empty_home / "datasets" / "set"


def real(path, **more):
    return Video(**{"name": path.stem, "path": path, "label": 0, "method": "real", **more})


def fake(path, **more):
    return real(path, label=1, method="swap", **more)


def run(*videos, name="set", settings=SMALL, workers=1, one_class=True, splits=()):
    return prepare.prepare(name, videos, settings, Blobs(), workers, one_class, splits)


def reasons(record):
    return {entry["video"]: entry["reason"] for entry in record["quarantine"]}


# ---------------------------------------------------------------- crops


def test_crop_copies_where_sizes_agree_and_repeats_the_edge():
    image = rng(2).integers(0, 255, (40, 50, 3), np.uint8)
    crop = prepare.crop(image, (-8, 20, 24, 52), 32)
    padded = np.pad(image[20:, :24], [(0, 12), (8, 0), (0, 0)], mode="edge")
    np.testing.assert_array_equal(crop, padded)


def test_rows_say_where_a_crop_comes_from(tmp_path, data):
    video = real(write(tmp_path / "a.mp4", moving(30)), split="val", cluster="c", identity="i")
    run(video, settings=Settings(size=96, scale=1.5, min_face=16))
    table = load_frames("set")
    landmarks = landmarks_array(table)
    assert table["scale"].tolist() == pytest.approx([96 / 60] * 30)  # the face is 40 pixels high
    for i in (0, 12, 29):
        left, top, right, bottom = table["crop_box"][i]
        assert right - left == bottom - top == 60 and abs((left + right) / 2 - (40 + i)) <= 1.5
        crop = read_crop(table["path"][i]).astype(int)
        red = np.argwhere((crop[..., 0] > 140) & (crop[..., 2] < 100))
        assert np.abs(red.mean(axis=0) - 47.5).max() < 2.5
        nose = (np.array([40 + i, 60]) - [left, top]) * 96 / 60
        assert np.abs(landmarks[i, 2] - nose).max() < 2.5
    assert {*table["split"]} == {"val"} and {*table["cluster"]} == {"c"}


@pytest.mark.parametrize(
    ("stride", "n", "expected"),
    [(1, 3, [5, 16, 27]), (5, None, [0, 5, 10, 15, 20, 25, 30]), (5, 3, [5, 15, 25])],
)
def test_chosen_frames_are_evenly_spaced_and_their_crops_are_the_same(
    tmp_path, data, stride, n, expected
):
    video = real(write(tmp_path / "a.mp4", moving(33)))
    run(video, name="all")
    run(video, settings=SMALL.model_copy(update={"stride": stride, "frames_per_video": n}))
    assert load_frames("set")["frame"].tolist() == expected
    every = load_frames("all")["path"]
    for path, frame in zip(load_frames("set")["path"], expected):
        np.testing.assert_array_equal(read_crop(path), read_crop(every[frame]))


@pytest.mark.parametrize("frames_per_video", [None, 4])
def test_a_wrong_guess_of_the_length_changes_no_crop(tmp_path, data, monkeypatch, frames_per_video):
    settings = SMALL.model_copy(update={"frames_per_video": frames_per_video})
    whole = write(tmp_path / "whole.ts", moving(40), keyframes=10)
    # Of its 27 packets the first 7 need earlier ones, and give no frame.
    clip = without_first(whole, tmp_path / "a.ts", 13)
    assert (guess_length(clip), len(list(decode(clip)))) == (27, 20)
    mask = write(tmp_path / "mask.ts", [np.full((120, 160, 3), 255, np.uint8)] * 30)
    videos = [real(clip), fake(clip, name="fake", mask=mask)]
    record = run(*videos, settings=settings)
    expected = [2, 7, 12, 17] if frames_per_video else [*range(20)]
    table = load_frames("set").groupby("video", observed=True)["frame"].agg(list)
    assert table["a"] == table["fake"] == expected
    assert record["faces"]["test/swap"]["frames"] == len(expected)
    for guess in (0, 20, 100):
        monkeypatch.setattr(prepare, "guess_length", lambda file, guess=guess: guess)
        data.rename(data.with_name(f"before {guess}"))
        assert run(*videos, settings=settings)["fingerprint"] == record["fingerprint"]


def test_only_wanted_frames_become_rgb(tmp_path, data, monkeypatch):
    converted = []

    def counted(file, wanted):
        for number, image in enumerate(decode(file, wanted)):
            converted.extend([number] * (image is not None))
            yield image

    monkeypatch.setattr(prepare, "decode", counted)
    settings = SMALL.model_copy(update={"frames_per_video": 3})
    run(real(write(tmp_path / "a.mp4", moving(33))), settings=settings)
    assert converted == [5, 16, 27]


def test_the_face_under_the_mask_is_the_fake_one(tmp_path, data):
    video = write(tmp_path / "a.mp4", [draw([(40 + i, 60), (120, 60)]) for i in range(30)])
    masks = np.zeros((30, 120, 160, 3), np.uint8)
    nowhere = write(tmp_path / "nowhere.mp4", list(masks))
    masks[:, 50:70, 110:130] = 255
    mask = write(tmp_path / "mask.mp4", list(masks))
    record = run(fake(video, mask=mask), fake(video, name="nowhere", mask=nowhere))
    assert "no face under the mask" in reasons(record)["nowhere"]
    table = load_frames("set")
    assert len(table) == 30 and all(abs(box[0] + box[2] - 240) < 4 for box in table["crop_box"])
    region = read_mask(table["mask"][9], (64, 64))
    assert np.abs(np.argwhere(region).mean(axis=0) - 31.5).max() < 2
    assert region.sum() == pytest.approx((20 * table["scale"][9]) ** 2, rel=0.2)


def test_frames_are_used_that_the_mask_has_too(tmp_path, data):
    video = write(tmp_path / "a.mp4", [draw([(40 + i, 60), (120, 60)]) for i in range(30)])
    masks = np.zeros((10, 120, 160, 3), np.uint8)
    masks[:, 50:70, 110:130] = (0, 0, 255)  # a blue of the grey level 29
    short = write(tmp_path / "short.mp4", list(masks))
    long = write(tmp_path / "long.mp4", [*masks] * 4)
    small = write(tmp_path / "small.mp4", list(masks[:, :60, :60]))
    fakes = [fake(video, name=mask.stem, mask=mask) for mask in (short, long, small)]
    problem = "the pictures of its mask or original have another size"
    assert reasons(run(*fakes)) == {"small": problem}
    table = load_frames("set")
    assert table["video"].value_counts().to_dict() == {"long": 30, "short": 10}
    assert all(abs(box[0] + box[2] - 240) < 4 for box in table["crop_box"])
    assert len(masked_positions(table)) == 40 and mean_mask(table).mean() > 0.1


@pytest.mark.parametrize("kind", ["alpha", "16 bits"])
def test_a_mask_that_is_no_picture_of_8_opaque_bits_is_listed(tmp_path, data, kind):
    region = np.zeros((120, 160), np.uint8)
    region[50:70, 30:50] = 255
    white = np.full_like(region, 255)
    kinds = {
        "alpha": np.dstack([white, white, white, region]),
        "16 bits": region.astype(np.uint16) * 257,
    }
    image = trees.image(tmp_path / "a.png", draw([(40, 60)]))
    masks = [
        trees.image(tmp_path / "plain.png", region),
        trees.image(tmp_path / "b.png", kinds[kind]),
    ]
    record = run(*(fake(image, name=mask.stem, mask=mask) for mask in masks))
    assert reasons(record)["b"].startswith("its mask or original b.png: a ")
    (mask,) = map(read_crop, load_frames("set")["mask"])
    assert 0.1 < (mask > 127).mean() < 0.4


@pytest.mark.parametrize(
    ("original", "cause"),
    [("folder", "a file"), ("a.png", "missing, truncated or damaged")],
)
def test_a_fake_without_its_mask_is_listed(tmp_path, data, original, cause):
    image = trees.image(tmp_path / "fake.png", draw([(40, 60)]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").write_bytes(b"no image")
    record = run(fake(image, original=tmp_path / original))
    (entry,) = record["quarantine"]
    assert entry["crops"] == len(load_frames("set")) == 1
    assert entry["reason"].startswith(f"without a mask: its mask or original {original}: {cause}")
    assert prepare.reasons_of([entry])[0].startswith("used in part: without a mask")


def test_a_fake_that_equals_its_original_is_listed(tmp_path, data):
    image = trees.image(tmp_path / "fake.png", draw([(40, 60)]))
    record = run(fake(image, original=trees.image(tmp_path / "real.png", draw([(40, 60)]))))
    assert reasons(record) == {"fake": "without a mask: no face differs from the original"}


def test_an_animated_picture_is_listed(tmp_path, data):
    first, *others = (Image.fromarray(image) for image in moving(5))
    path = tmp_path / "a.png"
    first.save(path, save_all=True, append_images=others)
    still = trees.image(tmp_path / "b.png", draw([(40, 60)]))
    record = run(real(path), real(path, name="clip", frames=((path, None),)), real(still))
    problems = reasons(record)
    sentence = "a picture whose number of pictures is 5; "
    assert problems["a"].startswith(sentence)
    assert problems["clip"].startswith(f"its frame a.png: {sentence}")


def test_of_several_people_the_one_under_the_mask_is_shown_else_the_largest(tmp_path, data):
    image = np.hstack([draw([(40, 60)])[:, :80], draw([(120, 60)], half=(20, 25))[:, 80:]])
    video = write(tmp_path / "a.mp4", [image] * 9 + [draw([(40, 60)])] * 3)
    masks = np.zeros((12, 120, 160, 3), np.uint8)
    masks[2:6, 44:76, 28:52] = 255
    masks[6:, 60:62, 40:42] = 255  # a blemish, where the forged face is not seen
    mask = write(tmp_path / "mask.mp4", list(masks))
    record = run(real(video), fake(video, name="fake"), fake(video, name="masked", mask=mask))
    table = load_frames("set")
    table["is_left"] = [box[0] + box[2] < 160 for box in table["crop_box"]]
    sides = table.groupby("video", observed=True)["is_left"].agg(list)
    assert sides["a"] == sides["fake"] == [False] * 9
    assert sides["masked"] == [True] * 4
    losses = prepare.dropouts(record)
    assert losses.loc["test/real", ["without_face", "several_faces"]].tolist() == [3, 9]
    assert losses.loc["test/swap", ["without_face", "several_faces"]].tolist() == [3 + 8, 9 + 4]


def test_one_person_is_shown_throughout_whoever_is_larger_at_the_time(tmp_path, data):
    def frame(left, right):
        faces = [draw([(40 + left, 60)], half=(15 + left, 20))[:, :80]]
        return np.hstack([*faces, draw([(120, 60)], half=(15 + right, 20 + right))[:, 80:]])

    pair = [frame(1 + i % 2, 4 - 3 * (i % 2)) for i in range(12)]
    alone = [draw([(x, 60)]) for x in (120, 40, 40, 120)]  # 40: somebody else
    record = run(real(write(tmp_path / "a.mp4", pair + alone, bf="0")))
    table = load_frames("set")
    assert all(box[0] + box[2] > 160 for box in table["crop_box"])
    assert table["frame"].tolist() == [*range(13), 15]
    assert prepare.dropouts(record)["several_faces"].tolist() == [12]


def test_a_second_face_in_few_frames_moves_no_crop_of_the_others(tmp_path, data):
    alone, crowd = draw([(40, 60)]), draw([(40, 60), (120, 60)])
    clips = {"one": [alone] * 12, "few": [alone] * 10 + [crowd] * 2}
    record = run(*(real(write(tmp_path / f"{name}.mp4", clips[name])) for name in clips))
    boxes = load_frames("set").groupby("video", observed=True)["crop_box"]
    assert [len(each) for _, each in boxes] == [12, 12]
    assert prepare.dropouts(record)["several_faces"].tolist() == [2]


def test_a_face_that_is_alone_in_every_frame_is_kept_wherever_it_jumps(tmp_path, data):
    places = [20, 140, 20, 80, 140, 20]
    record = run(real(write(tmp_path / "a.mp4", [draw([(x, 60)]) for x in places])))
    boxes = load_frames("set")["crop_box"]
    assert [round((box[0] + box[2]) / 2, -1) for box in boxes] == places
    assert prepare.dropouts(record)["several_faces"].tolist() == [0]


def test_frames_without_a_face_are_counted(tmp_path, data):
    away = [draw([(50, 60)] * (not 20 <= i < 40)) for i in range(60)]
    record = run(real(write(tmp_path / "away.mp4", away)))
    assert load_frames("set")["frame"].tolist() == [*range(20), *range(40, 60)]
    counts = record["faces"]["test/real"]
    assert (counts["frames"], counts["without_face"]) == (60, 20)
    assert prepare.dropouts(record)["share"].tolist() == [1 / 3]


# ---------------------------------------------------------------- encoded again


@pytest.fixture
def pair(tmp_path):
    """A real video and a fake of it, with a spot in the face that a low quality wipes out."""
    images = moving(12)
    forged = [image.copy() for image in images]
    for i, image in enumerate(forged):
        image[50:62, 34 + i : 46 + i, 0] -= 40
    original = real(write(tmp_path / "a.mp4", images))
    swap = fake(write(tmp_path / "b.mp4", forged, codec="mpeg4"), original=original.path)
    return original, swap


REENCODED = SMALL.model_copy(update={"reencode": 30})


def test_real_and_fake_videos_are_encoded_again_alike(pair, data):
    record = run(*pair, settings=REENCODED)
    assert record["parameters"]["reencode"] == 30 and "H.264 crf 30" in record["compression"]
    table = load_frames("set")
    for video in pair:
        decoded = list(decode(video.path))
        rows = table[table["video"] == video.name]
        assert rows["frame"].tolist() == [*range(12)]
        again = codecs.h264_frames(decoded, 30, 25, repeatable=True)
        for row, image, before in zip(rows.itertuples(), again, decoded):
            ours = read_crop(row.path)
            box = [int(x) for x in row.crop_box]
            np.testing.assert_array_equal(ours, prepare.crop(image, box, 64))
            assert (ours != prepare.crop(before, box, 64)).mean() > 0.1


def test_masks_are_those_of_the_files_before_they_are_encoded_again(pair, data):
    run(*pair, settings=SMALL.model_copy(update={"reencode": 45}))
    table = load_frames("set").query("label == 1")
    assert len(table) == 12
    images, forged = (list(decode(video.path)) for video in pair)
    coarse = [codecs.h264_frames(each, 45, 25, repeatable=True) for each in (images, forged)]
    files = zip(images, forged)
    for row, compared, afterwards in zip(table.itertuples(), files, zip(*coarse)):
        box = [int(x) for x in row.crop_box]
        ours = read_mask(row.mask, (64, 64))
        masks = []
        for one, other in (compared, afterwards):
            region = prepare.without_gaps(prepare.difference_of(one, other) > 25)
            masks.append(prepare.crop(region, box, 64) > 127)
        np.testing.assert_array_equal(ours, masks[0])
        assert (ours != masks[1]).sum() > 0.1 * ours.sum()


def test_another_compression_is_another_dataset_and_images_have_none(pair, data, tmp_path):
    plain = run(*pair)
    assert "reencode" not in plain["parameters"] and "compression" not in plain
    with pytest.raises(DfnbError, match=r"made with reencode = None, not 30; .*another name"):
        run(*pair, settings=REENCODED)
    again = run(*pair, settings=REENCODED, name="again")
    assert again["fingerprint"] != plain["fingerprint"]
    with pytest.raises(DfnbError, match=r"made with reencode = 30, not None"):
        run(*pair, name="again")
    image = real(trees.image(tmp_path / "c.png", draw([(40, 60)])))
    clip = real(image.path, name="clip", frames=((image.path, None),))
    crops = real(image.path, name="crops", crops=True, frames=clip.frames)
    for video in (image, clip, crops):
        with pytest.raises(DfnbError, match=r"has images, such as c\.png, and only videos can be"):
            run(*pair, video, settings=REENCODED, name="images")


# ---------------------------------------------------------------- the table of videos


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_sorted_folder_is_read_with_masks_and_originals(tmp_path):
    root = tmp_path / "in"
    used = ["real/a,b.mp4", "fake/Swap/a.mp4", "fake/Swap/x/a.mp4", "fake/DF/b.mp4"]
    touch(root, *used, "mask/Swap/x/a.gif", "original/DF/b.avi")
    touch(root, "README.md", "train/list.csv", ".git/real/a.mp4", "real/.hidden")
    videos = {video.name: video for video in read_folder(root)}
    assert {*videos} == {name[:-4] for name in used}
    assert videos["fake/Swap/a"].split == "test" and videos["real/a,b"].label == 0
    assert videos["fake/Swap/x/a"].mask == root / "mask/Swap/x/a.gif"
    assert videos["fake/Swap/x/a"].method == "Swap"
    assert videos["fake/DF/b"].original == root / "original/DF/b.avi"
    for empty in (root / "train" / "fake", tmp_path / "nowhere"):
        with pytest.raises(DfnbError, match="is no folder"):
            read_folder(empty)


def test_links_are_followed_and_never_for_ever(tmp_path):
    """A link to a file that is not there is a video, which prepare lists as unusable."""
    touch(tmp_path, "disk/swap/a.mp4", "disk/real/b.mp4", "in/fake/DF/c.mp4")
    links = {"in/fake/swap": "disk/swap", "in/real": "disk/real", "in/fake/DF/gone.mp4": "gone"}
    links |= {"disk/real/up": "in", "in/here": "in"}
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    os.mkfifo(tmp_path / "in/fake/DF/pipe.mp4")  # it would be read for ever
    names = [video.name for video in read_folder(tmp_path / "in")]
    assert names == ["fake/DF/c", "fake/DF/gone", "fake/swap/a", "real/b"]


# ---------------------------------------------------------------- a dataset


def test_what_cannot_be_used_is_listed_and_the_rest_goes_on(tmp_path, data):
    root = tmp_path / "videos" / "real"
    write(root / "good one é.mp4", moving(20))
    write(root / "faceless.mp4", [draw([])] * 12)
    cut = write(root / "cut.mp4", moving(40), movflags="faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])
    (root / "empty.mp4").touch()
    record = run(*read_folder(root.parent), real(root / "missing.mp4"))
    problems = reasons(record)
    assert "truncated or damaged" in problems["real/cut"]
    assert "damaged" in problems["real/empty"]
    assert problems["missing"].startswith("missing, truncated or damaged")
    assert problems["real/faceless"] == "no face of 16 pixels or more in 12 frames"
    assert len(problems) == 4
    listed = (data / "quarantine.csv").read_text().splitlines()
    assert len(listed) == 5 and any(line.startswith("real/cut,") for line in listed)
    assert {*load_frames("set")["video"]} == {"real/good one é"}
    assert record["faces"]["test/real"]["quarantined"] == 4
    assert str(tmp_path) not in (data / "record.json").read_text()


def test_impossible_names_are_refused_before_anything_is_written(tmp_path, data):
    path = tmp_path / "a.mp4"
    with pytest.raises(DfnbError, match=r"caf\\xe9 is a name that is not UTF-8; rename the file"):
        run(real(path, name=os.fsdecode(b"caf\xe9")))
    for name in ("../a", "/a"):
        with pytest.raises(DfnbError, match="a part of the name is empty"):
            run(real(path, name=name))
    other = tmp_path / "a.mov"
    for name in ("a", "a/b"):
        with pytest.raises(DfnbError, match=r"a\.m.* and .*a\.m.* cannot both be used.* 'a'"):
            run(real(path), real(other, name=name))
    with pytest.raises(DfnbError, match="its method: '=cmd': use letters"):
        run(fake(path), real(path, name="b", method="=cmd"))
    with pytest.raises(DfnbError, match=r"dfnb prepare: .*use letters"):
        run(real(path), name="../x")
    assert list(tmp_path.iterdir()) == []


def test_other_settings_or_videos_never_mix(tmp_path, data):
    a = real(write(tmp_path / "a.mp4", moving(10)))
    b = real(write(tmp_path / "b.mp4", moving(10)))
    record = run(a)
    assert run(a)["fingerprint"] == record["fingerprint"]
    with pytest.raises(DfnbError, match=r"made with size = 64, not 32; use that again, or give"):
        run(a, settings=SMALL.model_copy(update={"size": 32}))
    with pytest.raises(DfnbError, match=r"contains another video, 'a'.*another name"):
        run(b)
    run(a, b)
    assert {*load_frames("set")["video"]} == {"a", "b"}


def test_a_split_can_be_prepared_alone_and_the_others_later(tmp_path, data, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    clips = [write(tmp_path / f"{i}.mp4", moving(10 + i)) for i in range(3)]
    test = [real(clips[0]), fake(clips[1], original=clips[2])]
    train = [real(clips[2], split="train")]
    whole = run(*test, *train)
    shutil.move(data, tmp_path / "whole")
    # A preparation of all splits that was stopped leaves some of their videos.
    shutil.copytree(tmp_path / "whole/videos/2", data / "videos/2")
    alone = run(*test, *train, splits=["test"])
    assert {*load_frames("set")["split"]} == {"test"} and "train/real" not in alone["faces"]
    assert alone["fingerprints"] == {"test": whole["fingerprints"]["test"]}
    written = (data / "videos/0/000.png").stat().st_mtime_ns
    completed = run(*test, *train)
    assert completed["fingerprint"] == whole["fingerprint"] and completed["n"] == whole["n"]
    assert (data / "videos/0/000.png").stat().st_mtime_ns == written
    for failing in ("prepare_video", "write_dataset"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(prepare, failing, stop)
            run(*test, *train)
        with pytest.raises(DfnbError, match="contains no finished dataset"):
            load_frames("set")
        with pytest.raises(DfnbError, match="was made with"):
            run(*test, *train, settings=SMALL.model_copy(update={"size": 48}))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frames, "write_record", stop)
        run(*test, *train)
    with pytest.raises(DfnbError, match="contains no finished dataset"):
        load_frames("set")
    # Whatever was there before, a call gives the splits that it names, and detects no face twice.
    assert run(*test, *train, splits=["test"])["fingerprint"] == alone["fingerprint"]
    assert {*load_frames("set")["split"]} == {"test"}
    both = run(*test, *train, splits=["test", "train"])
    assert both["fingerprint"] == whole["fingerprint"]
    assert (data / "videos/0/000.png").stat().st_mtime_ns == written
    with pytest.raises(DfnbError, match="set has no video of the split tset, but of test, train"):
        run(*test, *train, splits=["tset"])


def test_a_dataset_of_one_class_is_refused_unless_it_is_asked_for(tmp_path, data):
    a = real(write(tmp_path / "a.mp4", moving(10)))
    with pytest.raises(DfnbError, match=r"set can use real videos alone; .* by --one-class"):
        run(a, one_class=False)
    assert not data.exists()
    (tmp_path / "empty.mp4").touch()
    empty = fake(tmp_path / "empty.mp4")
    reason = r"can use real videos alone; not used: missing, truncated .*: 1 \(empty\)"
    with pytest.raises(DfnbError, match=reason):
        run(a, empty, one_class=False)
    assert "damaged" in (data / "quarantine.csv").read_text()
    assert not (data / "record.json").exists()
    assert run(a, empty)["n"] == {"test/real": {"frames": 10, "videos": 1}}
    with pytest.raises(DfnbError, match=r"no video at all; .*; add others$"):
        run(empty, name="other")
    with pytest.raises(DfnbError, match=r"none of the 1 files is there, such as .*gone\.mp4"):
        prepare.prepare("gone", [real(tmp_path / "gone.mp4")], one_class=True)


def test_a_repaired_or_relabelled_video_is_prepared_again(tmp_path, data):
    a = write(tmp_path / "a.mp4", moving(10))
    b = write(tmp_path / "b.mp4", moving(20), movflags="faststart")
    whole = b.read_bytes()
    b.write_bytes(whole[: len(whole) // 2])
    assert {*reasons(run(real(a), real(b)))} == {"b"}
    untouched = (data / "videos/a/000.png").stat().st_mtime_ns
    b.write_bytes(whole)
    assert reasons(run(real(a), real(b))) == {}
    assert (data / "videos/a/000.png").stat().st_mtime_ns == untouched
    run(fake(a), real(b))
    table = load_frames("set")
    assert dict(zip(table["video"], table["label"])) == {"a": 1, "b": 0}
    b.write_bytes(whole[: len(whole) // 2])
    run(fake(a), real(b))
    assert {*load_frames("set")["video"]} == {"a"}


def test_crops_are_prepared_again_when_they_get_other_masks_or_pixels(tmp_path):
    names = ("1.png", "2.png", "mask 1.png", "mask 2.png", "c40/1.png")
    for number, name in enumerate(names):
        trees.image(tmp_path / name, np.full((8 + number, 8, 3), number, np.uint8))
    one, two, first, second, other = (tmp_path / name for name in names)
    digests = set()
    for pairs in (
        ((one, first), (two, second)),
        ((one, second), (two, first)),
        ((one, None), (two, second)),
        ((other, first), (two, second)),
    ):
        video = Video("v", pairs[0][0], 1, "swap", crops=True, frames=pairs)
        digests |= {prepare.inputs_digest(video, {})}
        digests |= {prepare.inputs_digest(replace(video, crops=False), {})}
    assert len(digests) == 8


def contents(folder):
    files = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("record.json", ".lock"):
            files[path.relative_to(folder)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return files


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "empty.mp4").touch()
    paths = [write(tmp_path / f"{i}.mp4", moving(20 + 5 * i)) for i in range(4)]
    return [real(path) for path in (*paths, tmp_path / "empty.mp4")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts a process that can be killed at once")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(clips, data, monkeypatch):
    start = time.monotonic()
    record = run(*clips)
    seconds = time.monotonic() - start
    expected = contents(data)
    data.rename(data.with_name("undisturbed"))
    for moment in rng(7).uniform(0.05, 0.9, 5):
        process = multiprocessing.get_context("fork").Process(target=run, args=clips)
        process.start()
        time.sleep(moment * seconds)
        process.kill()
        process.join()
    assert run(*clips)["fingerprint"] == record["fingerprint"]
    assert contents(data) == expected
    assert sorted(path.name for path in data.rglob(".*")) == [OWN_MARK, ".lock"]


def test_the_number_of_workers_changes_nothing(clips, data):
    run(*clips)
    expected = contents(data)
    data.rename(data.with_name("one"))
    run(*clips, workers=2)
    assert contents(data) == expected


def test_ctrl_c_is_answered_at_once_and_ends_the_workers(tmp_path, data):
    command = [sys.executable, "-m", "dfnb.cli", "synth", "smoke-a"]
    process = psutil.Popen(command, stderr=subprocess.PIPE)
    while len(workers := process.children()) < 2 and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=3) == 130
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert workers and not alive
    assert process.stderr.read().endswith(b"\nstopping; the same command continues\n")


# ---------------------------------------------------------------- real videos


def test_in_real_clips_one_face_is_followed_without_a_jump(samples, data):
    paths = [path for path in (samples / "videos").iterdir() if path.is_file()]
    record = prepare.prepare("set", [*map(real, paths)], workers=1, one_class=True)
    assert record["quarantine"] == [] and record["faces"]["test/real"]["without_face"] == 0
    table = load_frames("set")
    nose = landmarks_array(table)[:, 2]
    assert (np.abs(nose - 128) < 64).all()
    for _, rows in table.groupby("video", observed=True):
        boxes = np.array(rows["crop_box"].tolist())
        sides = boxes[:, 2] - boxes[:, 0]
        assert np.abs(np.diff(boxes, axis=0)).max() < 0.2 * sides.min()


def test_a_picture_is_prepared_as_a_dataset_is_but_in_memory(samples, tmp_path, data):
    path = min((samples / "portraits").glob("*.jpg"))
    table, read = prepare_picture(path, {"size": 96, "scale": 1.5})
    assert table["method"].tolist() == [path.name]
    settings = Settings(size=96, scale=1.5)
    prepare.prepare("set", [real(path)], settings, workers=1, one_class=True)
    same = load_frames("set")["path"][0]
    np.testing.assert_array_equal(read(table["path"][0]), read_crop(same))
    with pytest.raises(DfnbError, match=r"nowhere.png: missing, .*No such file"):
        prepare_picture(tmp_path / "nowhere.png", {})


def test_a_clip_gives_one_frame_and_a_file_without_a_picture_is_named(samples, tmp_path):
    content = min((samples / "portraits").glob("*.jpg")).read_bytes()
    table, _ = prepare_picture(min((samples / "videos").glob("*.mpg")), {"size": 96})
    assert len(table) == 1
    for name, part in {"cut.jpg": content[:3000], "empty.mp4": b"", "text.mp4": b"none"}.items():
        path = tmp_path / name
        path.write_bytes(part)
        with pytest.raises(DfnbError, match=name):
            prepare_picture(path, {"size": 96})
    assert len(list(tmp_path.iterdir())) == 3
