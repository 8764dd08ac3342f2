import hashlib
import json
import multiprocessing
import os
import time
import weakref
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data import faces, frames, prepare
from dfnb.data.faces import Follower, Unusable, decode
from dfnb.data.prepare import Settings, Source, folder_sources

RED = (200, 30, 30)
SMALL = Settings(size=64, min_face=16)
LANDMARKS = [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.8), (0.7, 0.8)]


class Blobs:
    """A detector for drawn videos: what is red is a face. Notes how often it was asked."""

    sha256 = "0" * 64

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        red = ((image[..., 2] > 140) & (image[..., 0] < 100)).astype(np.uint8)
        boxes = cv2.connectedComponentsWithStats(red)[2][1:]
        found = [
            [x, y, w, h, *np.ravel([[x + a * w, y + b * h] for a, b in LANDMARKS]), 0.9]
            for x, y, w, h, n in boxes
            if n > 60
        ]
        return np.array(found, float).reshape(-1, 15)


def draw(centres, background=90, size=(160, 120), half=(16, 20)):
    """One frame: a grey ramp and a red rectangle (a face to Blobs) at each centre."""
    width, height = size
    ramp = np.linspace(-20, 20, width)[None, :] + background
    image = np.repeat(np.broadcast_to(ramp, (height, width))[..., None], 3, 2).clip(0, 255).astype(np.uint8).copy()
    for x, y in centres:
        cv2.rectangle(image, (x - half[0], y - half[1]), (x + half[0] - 1, y + half[1] - 1), RED, -1)
    return image


def write(path, images, codec="libx264", pixels="yuv420p", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.bit_rate = 2_000_000
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def moving(n, y=60, start=40, step=1):
    return [draw([(start + step * i, y)]) for i in range(n)]


def source(path, **more):
    return Source(**{"video": path.stem, "file": path, "label": 0, "method": "real", **more})


def run(*paths, name="set", settings=SMALL, **more):
    sources = [path if isinstance(path, Source) else source(path) for path in paths]
    return prepare.prepare(name, sources, settings, Blobs(), **{"workers": 1, "progress": False, **more})


def facts(folder, video):
    return json.loads((folder / "videos" / video / "video.json").read_text())


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of the dataset "set" in a home of its own."""
    monkeypatch.setenv("DFNB_HOME", str(tmp_path))
    return tmp_path / "datasets" / "set"


# ---------------------------------------------------------------- decoding

CODECS = [
    ("a.mp4", "libx264", "yuv420p"),
    ("a.mpg", "mpeg1video", "yuv420p"),
    ("a.avi", "mpeg4", "yuv420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
    ("a.gif", "gif", "rgb8"),
]


@pytest.mark.parametrize(("name", "codec", "pixels"), CODECS)
def test_frames_come_once_and_in_order_of_presentation(tmp_path, name, codec, pixels):
    levels = [20 + 9 * i for i in range(24)]
    path = write(tmp_path / name, [np.full((64, 96, 3), level, np.uint8) for level in levels], codec, pixels)
    images = list(decode(path))
    assert {image.shape for image in images} == {(64, 96, 3)}
    seen = np.array([image.mean() for image in images])
    assert len(seen) == 24 and np.abs(seen - levels).max() < 20  # rgb8 has 8 levels per channel
    assert (np.diff(seen) >= 0).all()


@pytest.mark.parametrize(("name", "codec", "pixels"), CODECS[:3])
def test_a_truncated_file_is_unusable(tmp_path, name, codec, pixels):
    noise = core.rng(1).integers(0, 255, (30, 64, 96, 3), np.uint8)
    path = write(tmp_path / name, list(noise), codec, pixels, **({"movflags": "faststart"} if name == "a.mp4" else {}))
    assert len(list(decode(path))) == len(noise)
    for share in (0.7, 0.3):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(Unusable, match="truncated or damaged"):
            list(decode(path))


def test_an_mp4_cut_exactly_between_two_frames_is_unusable(tmp_path):
    path = write(tmp_path / "a.mp4", moving(30), movflags="faststart")
    with av.open(str(path)) as container:
        end = [packet.pos + packet.size for packet in container.demux() if packet.size][20]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(Unusable, match="truncated or damaged"):
        list(decode(path))


def test_a_text_is_no_video_and_a_playlist_is_not_followed(tmp_path):
    video = write(tmp_path / "a.mp4", moving(5))
    text, playlist = tmp_path / "a.txt", tmp_path / "list.ffconcat"
    text.write_text("hello\n" * 50)
    playlist.write_text(f"ffconcat version 1.0\nfile {video.name}\n")
    for path in (text, playlist):
        with pytest.raises(Unusable, match="not a video"):
            list(decode(path))


# ---------------------------------------------------------------- following


def test_a_place_is_linear_between_detections_and_belongs_to_the_nearest_look():
    looked, found = (
        np.array([0, 5, 10, 15, 35, 55]),
        [np.array([x, 40, 20, 20, *[x, 50] * 5, 1.0]) for x in (10, 110, 360)],
    )
    # missed at 5, between two that saw the face, and at 15, and again at the end
    shown, places = faces.interpolate(dict(zip([0, 2, 4], found)), np.arange(56), looked)
    assert shown.tolist() == list(range(46))  # 55 is nearer than 35 from 46 on; one missed look is bridged
    assert places[:11, 0] == pytest.approx([20 + 10 * i for i in range(11)])
    assert places[:, 0] == pytest.approx(np.interp(shown, [0, 10, 35], [20, 120, 370]))
    assert (places[:, 1] == 50).all() and (places[:, 2] == 20).all() and (places[:, 4] == 50).all()
    assert faces.interpolate(dict(zip([0, 3, 4], found)), np.arange(56), looked)[0].tolist() == [
        0,
        1,
        2,
        *range(13, 46),
    ]


def followed(images, **settings):
    """A follower at its end, its detector, and the number of faces in each frame."""
    detector = Blobs()
    follower = Follower(Settings(min_face=16, **settings), detector)
    assert follower.follow(iter(images)) == len(images)
    counts = np.zeros(len(images), int)
    for shown, _ in follower.places(np.arange(len(images))):
        counts[shown] += 1
    return follower, detector, counts.tolist()


@pytest.mark.parametrize("n", [1, 2, 5, 6, 8, 23])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_every_frame_has_its_face_with_one_detection_in_k_frames(n, every):
    follower, detector, counts = followed([draw([(40 + 3 * i, 60)]) for i in range(n)], detect_every=every)
    assert counts == [1] * n
    assert follower.looked == sorted({*range(0, n, every), n - 1}) and detector.calls == len(follower.looked)
    ((_, places),) = follower.places(np.arange(n))
    assert places[:, 0] == pytest.approx([40 + 3 * i for i in range(n)], abs=0.51)


def test_a_face_that_was_hidden_is_not_in_the_frames_between():
    images = [*[draw([(60, 60)])] * 16, *[draw([])] * 15, *[draw([(60, 60)])] * 17]
    counts = followed(images)[2]
    assert counts[:16] == [1] * 16 and sum(counts[18:29]) == 0 and counts[33:] == [1] * 15


def test_frames_held_do_not_grow_with_the_length_of_the_video():
    alive, most = [], 0

    def images():
        nonlocal most
        for _ in range(100):
            image = draw([(60, 60)])
            alive.append(weakref.ref(image))
            yield image
            most = max(most, sum(reference() is not None for reference in alive))

    Follower(SMALL, Blobs()).follow(images())
    assert 0 < most <= 3


def tracks_of(images):
    """Frames and heights of each person who was followed, seen longest first."""
    follower = Follower(SMALL, Blobs())
    wanted = np.arange(follower.follow(images))
    return [(shown.tolist(), places[:, 1]) for shown, places in follower.places(wanted)]


def test_two_people_who_pass_each_other_keep_their_tracks(tmp_path, data):
    images = [draw([(30 + 2 * i, 35), (130 - 2 * i, 85)]) for i in range(50)]
    found = tracks_of(images)
    assert [shown for shown, _ in found] == [list(range(50))] * 2
    assert all(np.ptp(heights) < 3 for _, heights in found)
    assert sorted(heights.mean() for _, heights in found) == pytest.approx([35, 85], abs=2)
    run(write(tmp_path / "two.mp4", images))
    table = frames.load_frames("set")
    heights = np.array(table["crop_box"].tolist())[:, [1, 3]].mean(1)
    assert table["frame"].tolist() == list(range(50)) and np.ptp(heights) < 3  # one of them


def test_a_cut_ends_the_tracks_and_a_video_keeps_all_its_shots(tmp_path, data):
    images = [draw([(60, 60)], 60) for _ in range(23)] + [draw([(64, 60)], 160) for _ in range(21)]
    assert [shown for shown, _ in tracks_of(images)] == [list(range(23)), list(range(23, 44))]
    run(write(tmp_path / "a.mp4", images))
    table = frames.load_frames("set")
    assert table["frame"].tolist() == list(range(44)) and set(table["track"]) == {0}


def test_of_several_people_a_video_shows_one_in_every_shot(tmp_path, data):
    """A fake the one under its mask, without a mask the largest; a real video the one seen longest. Nobody else instead."""
    images = [draw([(40, 60)] + [(120, 60)] * (i > 20), 60) for i in range(60)]
    large = [draw([(40, 60)], 160, half=(24, 30)) for _ in range(20)]
    images += [cv2.rectangle(image, (112, 50), (128, 70), RED, -1) for image in large]
    images += [draw([(40, 60)], 60) for _ in range(10)]  # without whom the mask was drawn for
    masks = np.zeros((90, 120, 160, 3), np.uint8)
    masks[21:60, 44:76, 108:132] = masks[60:80, 52:68, 114:126] = 255
    masks[80:, 60:62, 40:42] = 255  # a blemish
    video, mask = write(tmp_path / "a.mp4", images), write(tmp_path / "mask.mp4", list(masks))
    fake = {"label": 1, "method": "swap"}
    run(source(video), source(video, video="fake", **fake), source(video, video="masked", mask=mask, **fake))
    table = frames.load_frames("set")
    centres = np.array(table["crop_box"].tolist())[:, ::2].mean(1)
    shown = {video: rows.index for video, rows in table.groupby(table["video"].astype(str))}
    masked = table["frame"][shown["masked"]].tolist()  # from the first look that found them
    assert 21 <= masked[0] < 21 + SMALL.detect_every and masked == list(range(masked[0], 80))
    assert np.abs(centres[shown["masked"]] - 120).max() < 3
    for video in ("a", "fake"):
        assert table["frame"][shown[video]].tolist() == list(range(90)) and np.abs(centres[shown[video]] - 40).max() < 3


def test_short_tracks_are_left_out_and_people_who_come_back_keep_theirs(tmp_path, data):
    short = [draw([(50, 60)] + [(130, 60)] * (20 <= i < 26)) for i in range(40)]
    away = [draw([(50, 60)] * (not 20 <= i < 40)) for i in range(60)]
    record = run(write(tmp_path / "short.mp4", short), write(tmp_path / "away.mp4", away))
    table = frames.load_frames("set")
    assert (table["video"] == "short").sum() == 40 and set(table["track"]) == {0}
    missing = sorted(set(range(60)) - set(table["frame"][table["video"] == "away"]))
    assert len(missing) == facts(data, "away")["without_face"] and set(missing) >= set(range(23, 38))
    assert missing == list(range(missing[0], missing[-1] + 1)) and 17 <= missing[0] <= missing[-1] <= 42
    assert (
        record["faces"]["test/real"]["without_face"] == len(missing) and record["faces"]["test/real"]["frames"] == 100
    )


# ---------------------------------------------------------------- crops


def test_crop_copies_where_sizes_agree_and_repeats_the_edge():
    image = core.rng(2).integers(0, 255, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(prepare.crop(image, (10, 5, 42, 37), 32), image[5:37, 10:42])
    outside = prepare.crop(image, (-8, 20, 24, 52), 32)
    np.testing.assert_array_equal(outside[:20, 8:], image[20:40, :24])
    np.testing.assert_array_equal(outside[:20, :8], np.repeat(image[20:40, :1], 8, 1))
    np.testing.assert_array_equal(outside[20:], np.repeat(outside[19:20], 12, 0))


def test_rows_say_where_a_crop_comes_from(tmp_path, data):
    settings = Settings(size=96, scale=1.5, min_face=16)
    run(source(write(tmp_path / "a.mp4", moving(30)), split="val", cluster="c", identity="i"), settings=settings)
    table, pixels = frames.load_frames("set"), frames.Pixels(data)
    marks = frames.landmarks_array(table)
    assert (table["scale"] == np.float32(96 / 60)).all()  # the box is 40 high, the crop 1.5 times that
    for i in (0, 12, 29):
        left, top, right, bottom = table["crop_box"][i]
        assert right - left == bottom - top == 60 and abs((left + right) / 2 - (40 + i)) <= 1.5
        crop = pixels.crop(table["path"][i], table["row"][i]).astype(int)
        red = np.argwhere((crop[..., 0] > 140) & (crop[..., 2] < 100))
        assert np.abs(red.mean(0) - 47.5).max() < 2.5
        assert np.abs(red.min(0) - [16, 22.4]).max() < 3 and np.abs(red.max(0) - [79, 73.6]).max() < 3
        nose = np.array([40 + i, 60])
        assert np.abs(marks[i, 2] - (nose - [left, top]) * 96 / 60).max() < 2.5
    assert set(table["split"]) == {"val"} and set(table["cluster"]) == {"c"} and set(table["identity"]) == {"i"}


@pytest.mark.parametrize(("n", "expected"), [(3, [5, 15, 25]), (99, list(range(30)))])
def test_chosen_frames_are_evenly_spaced(tmp_path, data, n, expected):
    run(write(tmp_path / "a.mp4", moving(30)), settings=Settings(size=32, min_face=16, frames_per_video=n))
    assert frames.load_frames("set")["frame"].tolist() == expected


@pytest.mark.parametrize(
    ("stride", "n", "expected"),
    [(5, None, [0, 5, 10, 15, 20, 25, 30]), (5, 3, [5, 15, 25]), (5, 32, [0, 5, 10, 15, 20, 25, 30]), (40, None, [0])],
)
def test_a_stride_takes_every_kth_frame_and_changes_no_crop(tmp_path, data, stride, n, expected):
    video, small = write(tmp_path / "a.mp4", moving(33)), {"size": 32, "min_face": 16}
    run(video, name="all", settings=Settings(**small))
    run(video, settings=Settings(**small, stride=stride, frames_per_video=n))
    table, whole = frames.load_frames("set"), frames.load_frames("all").set_index("frame")
    assert table["frame"].tolist() == expected
    crops, all_crops = (frames.Pixels(each.attrs["folder"]).crop("videos/a/frames.npy") for each in (table, whole))
    assert (crops == all_crops[expected]).all()
    assert table["crop_box"].tolist() == whole["crop_box"][expected].tolist()


def test_the_face_under_the_mask_is_the_fake_one(tmp_path, data):
    video = write(tmp_path / "a.mp4", [draw([(40 + i, 60), (120, 60)]) for i in range(30)])
    masks = np.zeros((30, 120, 160, 3), np.uint8)
    masks[:, 50:70, 110:130] = 255
    mask, nowhere = write(tmp_path / "mask.mp4", list(masks)), write(tmp_path / "no.mp4", list(masks * 0))
    known = {"label": 1, "method": "swap"}
    record = run(source(video, mask=mask, **known), source(video, video="nowhere", mask=nowhere, **known))
    table, pixels = frames.load_frames("set"), frames.Pixels(data)
    assert len(table) == 30 and all(abs(sum(box[::2]) / 2 - 120) < 2 for box in table["crop_box"])
    assert set(table["track"]) == {0}
    region = pixels.mask(table["mask"][9], table["row"][9], (64, 64))
    where, scale = np.argwhere(region), table["scale"][9]
    assert np.abs(where.mean(0) - 31.5).max() < 2 and abs(region.sum() - (20 * scale) ** 2) < 0.2 * region.sum()
    crop = pixels.crop(table["path"][9], table["row"][9]).astype(int)
    assert (crop[31, 31, 0] > 140) and (crop[31, 31, 2] < 100)
    reasons = {entry["video"]: entry["reason"] for entry in record["quarantine"]}
    assert reasons == {"nowhere": "no face under the mask in 30 frames"}


# ---------------------------------------------------------------- a dataset


def test_what_cannot_be_used_is_listed_and_the_rest_goes_on(tmp_path, data):
    videos = tmp_path / "videos"
    good = write(videos / "good one é.mp4", moving(20))
    write(videos / "faceless.mp4", [draw([])] * 12)
    cut = write(videos / "cut.mp4", moving(40), movflags="faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])
    (videos / "empty.mp4").touch()
    (videos / "notes.txt").write_text("no video\n" * 20)
    (videos / ".hidden").write_text("")
    videos.chmod(0o555)
    missing = Source("missing", videos / "missing.mp4", 1, "swap")
    record = run(*folder_sources(videos, "real")[0], missing)
    videos.chmod(0o755)
    reasons = {entry["video"]: entry["reason"] for entry in record["quarantine"]}
    assert list(reasons) == ["cut", "empty", "faceless", "missing", "notes"]
    for video, words in {
        "cut": "truncated or damaged",
        "empty": "not a video, or truncated",
        "faceless": "no face in 12 frames",
        "missing": "not a video, or truncated or damaged (No such file",
        "notes": "not a video",
    }.items():
        assert words in reasons[video]
    listed = (data / "quarantine.csv").read_text().splitlines()
    assert len(listed) == 6 and listed[1].startswith("cut,cut.mp4,real,")
    table = frames.load_frames("set")
    assert set(table["video"]) == {good.stem} and len(table) == 20
    counts = record["faces"]["test/real"]
    assert (counts["videos"], counts["quarantined"], counts["without_face"]) == (5, 4, 0)
    assert sorted(path.name for path in (data / "videos").iterdir()) == [good.stem]
    assert str(tmp_path) not in (data / "record.json").read_text()


def test_labels_methods_and_masks_come_from_the_folders(tmp_path):
    root = tmp_path / "in"
    with pytest.raises(DfnbError, match="in is no folder; say where the files are"):
        folder_sources(root)
    root.mkdir()
    with pytest.raises(DfnbError, match="holds no file to prepare"):
        folder_sources(root)
    for name in ("real/a.mp4", "fake/Swap/a.mp4", "fake/b.avi", "mask/Swap/a.gif", "README", "val/real/.hidden"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert {s.video: (s.label, s.method, s.mask) for s in folder_sources(root)[0]} == {
        "real/a": (0, "real", None),
        "fake/Swap/a": (1, "Swap", root / "mask/Swap/a.gif"),
        "fake/b": (1, "fake", None),
    }
    with pytest.raises(DfnbError, match=r"holds no file to prepare.*say label real or fake"):
        folder_sources(root, "Real")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_what_lies_in_a_folder_of_another_name_is_counted(tmp_path):
    wrong = [
        "Real/a.mp4",
        "Real/b/c.mp4",
        "fakes/a.mp4",
        "loose.mp4",
        "train/x.mp4",
        "train/Original/a.mp4",
        "Val/real/a.mp4",
    ]
    unused = ["mask/swap/a.gif", "original/swap/a.mp4", "original/a.mp4"]
    right = [
        "real/a.mp4",
        "train/fake/Swap/a.mp4",
        "fake/Swap/a.mp4",
        "mask/Swap/a.gif",
        "fake/b.mp4",
        "original/b.avi",
    ]
    touch(tmp_path, *wrong, *unused, *right, "README.md", "train/list.csv", "licence", ".DS_Store", ".git/a.mp4")
    found, left_out = folder_sources(tmp_path)
    assert {s.file.relative_to(tmp_path).as_posix(): s.compared for s in found} == {
        "real/a.mp4": False, "train/fake/Swap/a.mp4": False, "fake/Swap/a.mp4": False, "fake/b.mp4": True
    }  # fmt: skip
    counts = {sentence.split(": ")[0]: sentence.split("left out: ")[1] for sentence in left_out}
    assert counts == {
        "Real/": "2 (Real/a.mp4, Real/b/c.mp4)", "Val/": "1 (Val/real/a.mp4)", "fakes/": "1 (fakes/a.mp4)",
        "./": "1 (loose.mp4)", "mask/": "1 (mask/swap/a.gif)", "train/": "1 (train/x.mp4)",
        "original/": "2 (original/a.mp4, original/swap/a.mp4)", "train/Original/": "1 (train/Original/a.mp4)",
    }  # fmt: skip
    assert folder_sources(tmp_path, "real")[1] == []
    touch(tmp_path, "real/clip/1.png", "fake/Swap/b.png", "original/Swap/b.png")
    found, left_out = folder_sources(tmp_path, crops=True)
    assert [s.video for s in found] == ["fake/Swap/b", "real/clip"] and found[0].crops[0][1] is None
    assert any("real/: " in sentence and "1 (real/a.mp4)" in sentence for sentence in left_out)


def test_links_to_folders_are_followed_where_wanted_and_never_for_ever(tmp_path):
    touch(tmp_path, "disk/swap/a.mp4", "disk/real/b.mp4", "in/fake/c.mp4")
    for link, target in {
        "in/fake/swap": "disk/swap",
        "in/real": "disk/real",
        "disk/real/up": "in",
        "in/here": "in",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    found, left_out = folder_sources(tmp_path / "in")
    assert [s.video for s in found] == ["fake/c"]
    assert left_out == ["links to folders without --links, or no files; left out: 3 (fake/swap, here, real)"]
    found, left_out = folder_sources(tmp_path / "in", links=True)
    assert [(s.video, s.method) for s in found] == [("fake/c", "fake"), ("fake/swap/a", "swap"), ("real/b", "real")]
    assert left_out == []


def test_names_are_unique_and_never_inside_each_other(tmp_path, data):
    for name in ("a.mp4", "b/x.mp4", "c d.mp4", "ü.mpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [s.video for s in folder_sources(tmp_path, "fake")[0]] == ["a", "b/x", "c d", "ü"]
    (tmp_path / "a.avi").touch()
    with pytest.raises(DfnbError, match=r"a\.avi and .*a\.mp4 are both named 'a'"):
        folder_sources(tmp_path, "fake")
    for names in (["a", "a"], ["a", "a/b"], ["../a"], [".a"], ["/a"], [""]):
        with pytest.raises(DfnbError, match="cannot name a video"):
            run(*[Source(name, tmp_path / "a.mp4", 0, "real") for name in names])


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "../../x", "/x", "x/y", "x y", ".x", "x;y"])
def test_a_dataset_has_a_plain_name(tmp_path, data, name):
    with pytest.raises(DfnbError, match=r"dfnb prepare: name = .*match pattern"):
        run(Source("a", tmp_path / "a.mp4", 0, "real"), name=name)
    assert list(tmp_path.rglob("*")) == []


def test_other_settings_or_videos_never_mix(tmp_path, data):
    a, b = write(tmp_path / "a.mp4", moving(10)), write(tmp_path / "b.mp4", moving(10))
    record = run(a)
    assert record["parameters"] == SMALL.model_dump() | {"detector_sha256": "0" * 64}
    assert run(a) == record
    with pytest.raises(DfnbError, match=r"made with .*'size': 64.*another name"):
        run(a, settings=Settings(size=32, min_face=16))
    with pytest.raises(DfnbError, match=r"holds another video, 'a'.*another name"):
        run(b)
    run(a, b)
    assert set(frames.load_frames("set")["video"]) == {"a", "b"}
    core.write_record(tmp_path / "datasets/other", {"faces": [3]}, [])
    with pytest.raises(DfnbError, match=r"made with .*faces.*another name"):
        run(a, name="other")
    with pytest.raises(DfnbError, match="no parameter 'sise'"):
        Settings.check({"sise": 3}, "the settings")


def test_a_dataset_from_before_there_was_a_stride_is_still_the_same(tmp_path, data):
    a = write(tmp_path / "a.mp4", moving(10))
    record = run(a)
    assert "stride" not in record["parameters"]
    assert run(a, settings=SMALL.model_copy(update={"stride": None})) == record
    every_fifth = SMALL.model_copy(update={"stride": 5})
    with pytest.raises(DfnbError, match=r"made with \{'stride': None\}; --set these, or give .* another name"):
        run(a, settings=every_fifth)
    assert run(a, name="other", settings=every_fifth)["parameters"]["stride"] == 5


def test_nothing_usable_is_an_error_with_the_list_kept(tmp_path, data):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DfnbError, match="no video gave a usable face"):
        run(tmp_path / "empty.mp4")
    assert "not a video" in (data / "quarantine.csv").read_text()
    assert not (data / "record.json").exists()


def test_a_repaired_or_relabelled_video_is_prepared_again(tmp_path, data):
    a, b = write(tmp_path / "a.mp4", moving(10)), write(tmp_path / "b.mp4", moving(20), movflags="faststart")
    whole = b.read_bytes()
    b.write_bytes(whole[: len(whole) // 2])
    assert [entry["video"] for entry in run(a, b)["quarantine"]] == ["b"]
    untouched = (data / "videos/a/frames.npy").stat().st_mtime_ns
    b.write_bytes(whole)
    assert run(a, b)["quarantine"] == []
    assert (data / "videos/a/frames.npy").stat().st_mtime_ns == untouched
    run(source(a, label=1, method="swap"), b)
    table = frames.load_frames("set")
    assert dict(zip(table["video"], table["label"])) == {"a": 1, "b": 0}
    b.write_bytes(whole[: len(whole) // 2])
    run(source(a, label=1, method="swap"), b)
    assert set(frames.load_frames("set")["video"]) == {"a"}


def contents(folder):
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("record.json", ".lock")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    paths = [write(folder / f"{i}.mp4", moving(20 + 5 * i, 40 + 5 * i)) for i in range(4)]
    (folder / "empty.mp4").touch()
    return [*paths, folder / "empty.mp4"]


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFNB_HOME", str(home))
        start = time.monotonic()
        record = run(*clips)
    return record, contents(home / "datasets/set"), time.monotonic() - start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to start a process that can be killed at once")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(clips, undisturbed, data, seed):
    record, expected, seconds = undisturbed
    for moment in core.rng(7, seed).uniform(0.05, 0.9, 4):
        process = multiprocessing.get_context("fork").Process(target=run, args=clips)
        process.start()
        time.sleep(moment * seconds)
        process.kill()
        process.join()
    again = run(*clips)
    assert again["fingerprint"] == record["fingerprint"] and again["quarantine"] == record["quarantine"]
    assert contents(data) == expected
    assert not [path for path in data.rglob(".*") if path.name != ".lock"]


def test_the_number_of_workers_changes_nothing(clips, undisturbed, data):
    record, expected, _ = undisturbed
    assert run(*clips, workers=2)["fingerprint"] == record["fingerprint"]
    assert contents(data) == expected


def test_a_dataset_being_prepared_elsewhere_is_left_alone(tmp_path, data):
    with core.locked(data), pytest.raises(DfnbError, match="another process"):
        run(write(tmp_path / "a.mp4", moving(5)))


# ---------------------------------------------------------------- the detector's file


def test_the_detector_is_fetched_or_its_place_is_named(tmp_path, monkeypatch):
    path = tmp_path / "models" / "weights.onnx"
    monkeypatch.setenv("DFNB_DETECTOR", str(path))
    monkeypatch.setattr(faces, "YUNET_URL", "http://127.0.0.1:9/weights.onnx")
    with pytest.raises(DfnbError, match=f"get http://127.0.0.1:9/weights.onnx and put it at {path}"):
        faces.detector_path()
    (tmp_path / "weights.onnx").write_bytes(b"weights")
    monkeypatch.setattr(faces, "YUNET_URL", (tmp_path / "weights.onnx").as_uri())
    with pytest.raises(DfnbError, match="put it at"):
        faces.detector_path()
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(faces, "YUNET_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert faces.detector_path().read_bytes() == b"weights"
    path.write_bytes(b"other")
    with pytest.raises(DfnbError, match="delete it"):
        faces.detector_path()


# ---------------------------------------------------------------- real clips


def test_all_real_clips(data):
    real, weights = os.environ.get("DFNB_REAL_DATA"), os.environ.get("DFNB_DETECTOR")
    if not real or not weights:
        pytest.skip("needs DFNB_REAL_DATA (a folder with videos/) and DFNB_DETECTOR (YuNet's .onnx)")
    sources, _ = folder_sources(Path(real) / "videos", "real")
    record = prepare.prepare("set", sources, Settings(size=128), workers=1, progress=False)
    assert record["quarantine"] == [] and record["faces"]["test/real"]["videos"] == len(sources)
    table = frames.load_frames("set")
    marks = frames.landmarks_array(table)
    assert (np.abs(marks[:, 2] - 64) < 32).all(), "a nose tip lies outside the middle of its crop"
    assert (marks > 0).all() and (marks < 128).all()
    for video, rows in table.groupby("video", observed=True):
        known = facts(data, video)
        assert known["without_face"] == 0
        assert rows["track"].nunique() == 1  # of two people, too
        for _, own in rows.groupby("track"):
            assert own["frame"].tolist() == list(range(known["frames"]))
            boxes = np.array(own["crop_box"].tolist())
            centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
            assert np.abs(np.diff(centres, axis=0)).max() < 0.15 * sides.min()  # no jump from one person to another
            assert np.abs(np.diff(np.log(sides))).max() < 0.1


@pytest.mark.parametrize("length", [8, 15, 25])
def test_a_dissolve_does_not_merge_two_people(length):
    """Two faces at the same place, one shown after the other; the second shot moves a little, as real ones do."""
    first, second = [draw([(60, 60)], 60)] * 30, [draw([(60 + i % 2, 60)], 160) for i in range(60)]
    shares = np.linspace(0, 1, length + 2)[1:-1]
    mixed = [np.uint8(np.round((1 - share) * first[0] + share * image)) for share, image in zip(shares, second)]
    found = tracks_of([*first, *mixed, *second[length : length + 30]])
    assert not any(shown[0] < 30 and shown[-1] >= 30 + length for shown, _ in found)
    assert {*range(30), *range(30 + length, 60 + length)} <= {number for shown, _ in found for number in shown}
