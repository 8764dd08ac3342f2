import hashlib
import http.server
import json
import multiprocessing
import os
import threading
import time
import weakref
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data import frames, prepare, sources
from dfnb.data.prepare import Settings, Source, Track, Unusable, folder_sources

RED = (200, 30, 30)
SMALL = Settings(size=64, min_face=16)


class Blobs:
    """A detector for drawn videos: what is red is a face. Notes how often it was asked."""

    sha256 = "0" * 64

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        red = ((image[..., 2] > 140) & (image[..., 0] < 100)).astype(np.uint8)
        boxes = cv2.connectedComponentsWithStats(red)[2][1:]
        faces = [
            [x, y, w, h, *np.ravel([[x + a * w, y + b * h] for a, b in LANDMARKS]), 0.9]
            for x, y, w, h, n in boxes
            if n > 60
        ]
        return np.array(faces, float).reshape(-1, 15)


LANDMARKS = [(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.8), (0.7, 0.8)]


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


def run(folder, *paths, settings=SMALL, **more):
    sources = [path if isinstance(path, Source) else source(path) for path in paths]
    return prepare.prepare(folder, sources, settings, Blobs(), **{"workers": 1, "progress": False, **more})


def facts(folder, video):
    return json.loads((folder / "videos" / video / "video.json").read_text())


@pytest.fixture
def data(tmp_path):
    return tmp_path / "datasets" / "set"


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mpg", "mpeg1video", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_frames_come_once_and_in_order_of_presentation(tmp_path, name, codec, pixels):
    levels = [20 + 9 * i for i in range(24)]
    path = write(tmp_path / name, [np.full((64, 96, 3), level, np.uint8) for level in levels], codec, pixels)
    assert prepare.count_frames(path) == 24
    rgb = prepare.Converter("rgb24")
    images = [rgb(frame) for frame in prepare.decode(path)]
    assert {image.shape for image in images} == {(64, 96, 3)}
    seen = np.array([image.mean() for image in images])
    assert len(seen) == 24 and np.abs(seen - levels).max() < 20  # rgb8 has 8 levels a channel
    assert (np.diff(seen) >= 0).all()


def read(path):
    return prepare.count_frames(path), len(list(prepare.decode(path)))


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("fast.mp4", "libx264", "yuv420p"),
        ("slow.mp4", "libx264", "yuv420p"),
        ("a.mpg", "mpeg1video", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_a_truncated_file_is_unusable(tmp_path, name, codec, pixels, share):
    noise = core.rng(1).integers(0, 255, (30, 64, 96, 3), np.uint8)
    noise = np.repeat(noise, 2, axis=0) if name == "a.webm" else noise  # less than half a second may be missing
    options = {"movflags": "faststart"} if name == "fast.mp4" else {}
    path = write(tmp_path / name, list(noise), codec, pixels, **options)
    assert read(path) == (len(noise), len(noise))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(Unusable, match="truncated or damaged"):
        read(path)


def test_an_mp4_cut_exactly_between_two_frames_is_unusable(tmp_path):
    path = write(tmp_path / "a.mp4", moving(30), movflags="faststart")
    with av.open(str(path)) as container:
        end = [packet.pos + packet.size for packet in container.demux() if packet.size][20]
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(Unusable, match="after 21 frames"):
        prepare.count_frames(path)


def test_a_text_is_no_video_and_a_playlist_is_not_followed(tmp_path):
    video = write(tmp_path / "a.mp4", moving(5))
    text, playlist = tmp_path / "a.txt", tmp_path / "list.ffconcat"
    text.write_text("hello\n" * 50)
    playlist.write_text(f"ffconcat version 1.0\nfile {video.name}\n")
    for path in (text, playlist):
        with pytest.raises(Unusable, match="not a video"):
            prepare.count_frames(path)


# ---------------------------------------------------------------- following


def test_association_takes_the_pairing_that_overlaps_most_in_all():
    last = np.array([[0, 0, 10, 10], [6, 0, 10, 10]], float)
    assert prepare.associate(last, last[::-1] + [1, 0, 0, 0]) == [(0, 1), (1, 0)]
    assert prepare.associate(last, np.array([[100.0, 0, 10, 10]])) == []
    assert prepare.associate(last[:0], last) == prepare.associate(last, last[:0]) == []


def face(x, y=50.0, side=20.0):
    return np.array([x, y, side, *([x, y] * 5)])


def test_a_place_is_linear_between_detections_and_ends_half_an_interval_beyond():
    track = Track(0, [2, 7, 12, 40], [face(20), face(70), face(120), face(400)])
    for frame in range(0, 15):
        assert track.place(frame, 5) == pytest.approx([10 * frame, 50, 20] + [10 * frame, 50] * 5)
    assert all(track.place(frame, 5) is None for frame in [*range(15, 38), 43])  # not across 28 frames
    assert track.place(41, 5)[0] == pytest.approx(400)
    missed_one = Track(0, [2, 12], [face(20), face(120)])
    assert missed_one.place(7, 5)[0] == pytest.approx(70)
    assert Track(0, [3], [face(30)]).place(1, 5)[0] == 30 and Track(0, [3], [face(30)]).place(0, 5) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 8, 23, 25])
@pytest.mark.parametrize("every", [1, 2, 5, 8])
def test_every_frame_has_its_face_with_one_detection_in_k_frames(n, every):
    detector = Blobs()
    follower, out = followed(moving(n), detector, detect_every=every, still=0)
    assert [(number, len(places)) for number, places in out] == [(number, 1) for number in range(n)]
    assert detector.calls == follower.detections == sum(follower.shots) == -(-n // every)
    if n > every:
        assert [places[0][1][0] for _, places in out] == pytest.approx([40 + i for i in range(n)], abs=0.51)


def followed(images, detector, **settings):
    """A follower at its end, and each frame's number and places."""
    follower = prepare.Follower(Settings(min_face=16, **settings), detector)
    pairs = ((av.VideoFrame.from_ndarray(image, format="rgb24"), None) for image in images)
    return follower, [(number, places) for number, _, _, places in follower.follow(pairs, range(len(images)))]


def test_a_face_that_keeps_still_is_detected_less_often_and_one_that_moves_is_not():
    rest, step = [draw([(60, 60)])] * 40, [draw([(60 + 4 * i, 60)]) for i in range(10)]
    appears = [draw([(96, 60), (30, 60)])] * 20
    detector = Blobs()
    follower, out = followed(rest, detector)
    assert detector.calls == follower.detections == 3 and sum(follower.shots) == 8  # in frames 2, 22 and 37
    assert all(len(places) == 1 and places[0][1][0] == pytest.approx(60) for _, places in out)

    detector = Blobs()
    follower, out = followed(rest + step + appears, detector)
    assert detector.calls == sum(follower.shots) - 5  # not in 7, 12, 17, 27 and, both faces resting, 57
    assert [len(places) for _, places in out] == [1] * 50 + [2] * 20
    assert [places[0][1][0] for _, places in out[40:50]] == pytest.approx(
        [60 + 4 * i for i in range(10)], abs=8
    )  # the box is smoothed
    assert len(follower.tracks) == 2 and follower.tracks[0].keys == list(range(2, 70, 5))
    hidden = [*rest[:13], *[draw([])] * 10, *rest[:17]]  # gone at 17 and 22
    assert [len(places) for _, places in followed(hidden, Blobs())[1]] == [1] * 15 + [0] * 10 + [1] * 15


def test_frames_held_do_not_grow_with_the_length_of_the_video():
    class Beside:
        pass

    alive, most = weakref.WeakSet(), 0

    def pairs():
        image = draw([(60, 60)])
        for _ in range(300):
            beside = Beside()
            alive.add(beside)
            yield av.VideoFrame.from_ndarray(image, format="rgb24"), beside

    for _ in prepare.Follower(Settings(min_face=16), Blobs()).follow(pairs(), range(300)):
        most = max(most, len(alive))
    assert 10 < most <= 8 * 5 + 2


def test_two_people_who_pass_each_other_keep_their_tracks(tmp_path, data):
    images = [draw([(30 + 2 * i, 35), (130 - 2 * i, 85)]) for i in range(50)]
    run(data, write(tmp_path / "two.mp4", images))
    table = frames.load_frames(data)
    boxes = np.array(table["crop_box"].tolist())
    assert len(table) == 100 and set(table["track"]) == {0, 1}
    for track, y in ((0, 35), (1, 85)):
        own = (table["track"] == track).to_numpy()
        assert table["frame"][own].tolist() == list(range(50))
        assert np.abs(boxes[own][:, [1, 3]].mean(1) - y).max() < 3


def test_a_short_track_is_left_out_and_counted(tmp_path, data):
    images = [draw([(50, 60)] + [(130, 60)] * (20 <= i < 26)) for i in range(40)]
    run(data, write(tmp_path / "a.mp4", images))
    known = facts(data, "a")
    assert (known["tracks"], known["tracks_left_out"], len(known["rows"])) == (1, 1, 40)


def test_a_cut_ends_the_tracks(tmp_path, data):
    images = [draw([(60, 60)], 60) for _ in range(23)] + [draw([(64, 60)], 160) for _ in range(21)]
    run(data, write(tmp_path / "a.mp4", images))
    table = frames.load_frames(data)
    assert [table["frame"][table["track"] == track].tolist() for track in (0, 1)] == [
        list(range(23)),
        list(range(23, 44)),
    ]
    assert facts(data, "a")["shots"] == 2


def test_frames_without_a_face_are_listed_and_the_person_comes_back_to_the_same_track(tmp_path, data):
    images = [draw([(50, 60)] * (not 20 <= i < 40)) for i in range(60)]
    record = run(data, write(tmp_path / "a.mp4", images))
    known, table = facts(data, "a"), frames.load_frames(data)
    assert known["frames_without_face"] == list(range(20, 40)) and set(table["track"]) == {0}
    assert table["frame"].tolist() == [*range(20), *range(40, 60)] and table["row"].tolist() == list(range(40))
    assert record["faces"]["test/real"]["without_face"] == 20 and record["faces"]["test/real"]["frames"] == 60


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
    run(data, source(write(tmp_path / "a.mp4", moving(30)), split="val", cluster="c", identity="i"), settings=settings)
    table, pixels = frames.load_frames(data), frames.Pixels(data)
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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"stride": 7}, [0, 7, 14, 21, 28]),
        ({"frames_per_video": 3}, [5, 15, 25]),
        ({"frames_per_video": 2, "stride": 5}, [5, 20]),
        ({"frames_per_video": 99}, list(range(30))),
    ],
)
def test_chosen_frames_are_evenly_spaced(tmp_path, data, settings, expected):
    run(data, write(tmp_path / "a.mp4", moving(30)), settings=Settings(size=32, min_face=16, **settings))
    assert frames.load_frames(data)["frame"].tolist() == expected


def test_the_face_under_the_mask_is_the_fake_one(tmp_path, data):
    video = write(tmp_path / "a.mp4", [draw([(40 + i, 60), (120, 60)]) for i in range(30)])
    masks = []
    for _ in range(30):
        masks.append(np.zeros((120, 160, 3), np.uint8))
        cv2.rectangle(masks[-1], (110, 50), (129, 69), (255, 255, 255), -1)
    mask = write(tmp_path / "mask.mp4", masks)
    short = source(video, video="short", label=1, method="swap", mask=write(tmp_path / "short.mp4", masks[:20]))
    nowhere = write(tmp_path / "no.mp4", [np.zeros((120, 160, 3), np.uint8)] * 30)
    record = run(
        data,
        source(video, label=1, method="swap", mask=mask),
        short,
        source(video, video="nowhere", label=1, method="swap", mask=nowhere),
    )
    table, pixels = frames.load_frames(data), frames.Pixels(data)
    assert len(table) == 30 and all(abs(sum(box[::2]) / 2 - 120) < 2 for box in table["crop_box"])
    assert facts(data, "a")["mask_threshold"] == 127
    region = pixels.mask(table["mask"][9], table["row"][9], (64, 64))
    where, scale = np.argwhere(region), table["scale"][9]
    assert np.abs(where.mean(0) - 31.5).max() < 2 and abs(region.sum() - (20 * scale) ** 2) < 0.2 * region.sum()
    assert {entry["video"]: entry["reason"] for entry in record["quarantine"]} == {
        "short": "the mask has 20 frames, the video 30",
        "nowhere": "no face under the mask in 30 frames",
    }


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
    record = run(data, *folder_sources(videos, "real"), missing)
    videos.chmod(0o755)
    reasons = {entry["video"]: entry["reason"] for entry in record["quarantine"]}
    assert list(reasons) == ["cut", "empty", "faceless", "missing", "notes"]
    for video, words in {
        "cut": "truncated or damaged after",
        "empty": "the file is empty",
        "faceless": "no face in 12 frames",
        "missing": "there is no such file",
        "notes": "not a video",
    }.items():
        assert words in reasons[video]
    listed = (data / "quarantine.csv").read_text().splitlines()
    assert len(listed) == 6 and listed[1].startswith("cut,cut.mp4,real,truncated")
    table = frames.load_frames(data)
    assert set(table["video"]) == {good.stem} and len(table) == 20
    counts = record["faces"]["test/real"]
    assert (counts["videos"], counts["quarantined"], counts["without_face"]) == (5, 4, 12)
    assert sorted(path.name for path in (data / "videos").iterdir()) == [good.stem]
    assert str(tmp_path) not in (data / "record.json").read_text()


def test_labels_methods_and_masks_come_from_the_folders(tmp_path):
    for name in ("real/a.mp4", "fake/Swap/a.mp4", "fake/b.avi", "mask/Swap/a.gif", "README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {s.video: (s.label, s.method, s.mask) for s in folder_sources(tmp_path)}
    assert found == {
        "real/a": (0, "real", None),
        "fake/Swap/a": (1, "Swap", tmp_path / "mask/Swap/a.gif"),
        "fake/b": (1, "fake", None),
    }


def test_names_are_unique_and_never_inside_each_other(tmp_path):
    for name in ("a.mp4", "a.avi", "b.mp4", "b/x.mp4", "c d.mp4", "ü.mpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [s.video for s in folder_sources(tmp_path, "fake")] == ["a.avi", "a.mp4", "b/x", "b.mp4", "c d", "ü"]
    for names in (["a", "a"], ["a", "a/b"], ["../a"], [".a"], ["/a"], [""]):
        with pytest.raises(DfnbError):
            prepare.prepare(tmp_path / "set", [Source(n, tmp_path / "a.mp4", 0, "real") for n in names], SMALL, Blobs())


def test_a_folder_without_label_or_file_is_refused(tmp_path):
    with pytest.raises(DfnbError, match="is no folder"):
        folder_sources(tmp_path / "none")
    with pytest.raises(DfnbError, match="holds no file"):
        folder_sources(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(DfnbError, match="say label real or fake"):
        folder_sources(tmp_path)
    with pytest.raises(DfnbError, match="not 'Real'"):
        folder_sources(tmp_path, "Real")


def test_other_settings_or_videos_never_mix(tmp_path, data):
    a, b = write(tmp_path / "a.mp4", moving(10)), write(tmp_path / "b.mp4", moving(10))
    record = run(data, a)
    assert record["parameters"] == SMALL.model_dump(exclude={"geometry"}) | {"detector_sha256": "0" * 64}
    assert run(data, a) == record
    with pytest.raises(DfnbError, match=r"another size;.*another name"):
        run(data, a, settings=Settings(size=32, min_face=16))
    with pytest.raises(DfnbError, match=r"holds another video, 'a'.*another name"):
        run(data, b)
    run(data, a, b)
    assert set(frames.load_frames(data)["video"]) == {"a", "b"}
    core.write_record(tmp_path / "other", {"faces": 3}, [])
    with pytest.raises(DfnbError, match=r"made with another size.*another name"):
        run(tmp_path / "other", a)
    with pytest.raises(ValidationError):
        Settings(sise=3)


def test_nothing_usable_is_an_error_with_the_list_kept(tmp_path, data):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DfnbError, match="no video gave a usable face"):
        run(data, tmp_path / "empty.mp4")
    assert "the file is empty" in (data / "quarantine.csv").read_text()
    assert not (data / "record.json").exists()


def test_a_repaired_or_relabelled_video_is_prepared_again(tmp_path, data):
    a, b = write(tmp_path / "a.mp4", moving(10)), write(tmp_path / "b.mp4", moving(20), movflags="faststart")
    whole = b.read_bytes()
    b.write_bytes(whole[: len(whole) // 2])
    assert [entry["video"] for entry in run(data, a, b)["quarantine"]] == ["b"]
    untouched = (data / "videos/a/frames.npy").stat().st_mtime_ns
    b.write_bytes(whole)
    assert run(data, a, b)["quarantine"] == []
    assert (data / "videos/a/frames.npy").stat().st_mtime_ns == untouched
    run(data, source(a, label=1, method="swap"), b)
    table = frames.load_frames(data)
    assert dict(zip(table["video"], table["label"])) == {"a": 1, "b": 0}
    b.write_bytes(whole[: len(whole) // 2])
    run(data, source(a, label=1, method="swap"), b)
    assert set(frames.load_frames(data)["video"]) == {"a"}


def contents(folder):
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("record.json", ".lock")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    paths = [write(folder / f"{i}.mp4", moving(20 + 5 * i, 40 + 5 * i)) for i in range(6)]
    (folder / "empty.mp4").touch()
    return [*paths, folder / "empty.mp4"]


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "set"
    start = time.monotonic()
    record = run(folder, *clips)
    return record, contents(folder), time.monotonic() - start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to start a process that can be killed at once")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(clips, undisturbed, data, seed):
    record, expected, seconds = undisturbed
    for moment in core.rng(7, seed).uniform(0.05, 0.9, 4):
        process = multiprocessing.get_context("fork").Process(target=run, args=(data, *clips))
        process.start()
        time.sleep(moment * seconds)
        process.kill()
        process.join()
    again = run(data, *clips)
    assert again["fingerprint"] == record["fingerprint"] and again["quarantine"] == record["quarantine"]
    assert contents(data) == expected
    assert not [path for path in data.rglob(".*") if path.name != ".lock"]


def test_the_number_of_workers_changes_nothing(clips, undisturbed, data):
    record, expected, _ = undisturbed
    assert run(data, *clips, workers=2)["fingerprint"] == record["fingerprint"]
    assert contents(data) == expected


def test_a_dataset_being_prepared_elsewhere_is_left_alone(tmp_path, data):
    with core.locked(data), pytest.raises(DfnbError, match="another process"):
        run(data, write(tmp_path / "a.mp4", moving(5)))


# ---------------------------------------------------------------- fetching


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/weights" else 404)
            self.end_headers()
            self.wfile.write(b"weights" if self.path == "/weights" else b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_fetch_verifies_what_it_brings(tmp_path, server):
    good = hashlib.sha256(b"weights").hexdigest()
    path = tmp_path / "models" / "weights"
    with pytest.raises(DfnbError, match=f"put it at {path}"):
        sources.fetch(f"{server}/weights", path, "0" * 64, progress=False)
    with pytest.raises(DfnbError, match=r"404.*put it at"):
        sources.fetch(f"{server}/none", path, good, progress=False)
    assert list(path.parent.iterdir()) == []
    assert sources.fetch(f"{server}/weights", path, good, progress=False).read_bytes() == b"weights"
    assert sources.fetch("http://127.0.0.1:9/offline", path, good, progress=False) == path
    path.write_bytes(b"other")
    with pytest.raises(DfnbError, match="delete it"):
        sources.fetch(f"{server}/weights", path, good, progress=False)


def test_without_a_network_the_mend_names_the_file_and_its_place(tmp_path):
    path = tmp_path / "weights.onnx"
    with pytest.raises(DfnbError, match=r"weights\.onnx could not be downloaded.*put it at"):
        sources.fetch("http://127.0.0.1:9/weights.onnx", path, "0" * 64, progress=False)


def test_a_wrong_detector_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_DETECTOR", str(tmp_path / "none.onnx"))
    with pytest.raises(DfnbError, match="DFNB_DETECTOR names"):
        prepare.detector_path()
    (tmp_path / "none.onnx").write_bytes(b"other")
    with pytest.raises(DfnbError, match="has sha256"):
        prepare.detector_path()


# ---------------------------------------------------------------- real clips


def test_all_real_clips(data):
    real, weights = os.environ.get("DFNB_REAL_DATA"), os.environ.get("DFNB_DETECTOR")
    if not real or not weights:
        pytest.skip("needs DFNB_REAL_DATA (a folder with videos/) and DFNB_DETECTOR (YuNet's .onnx)")
    sources = folder_sources(Path(real) / "videos", "real")
    record = prepare.prepare(data, sources, Settings(size=128), workers=1, progress=False)
    assert record["quarantine"] == [] and record["faces"]["test/real"]["videos"] == len(sources)
    table = frames.load_frames(data)
    marks = frames.landmarks_array(table)
    assert (np.abs(marks[:, 2] - 64) < 32).all(), "a nose tip lies outside the middle of its crop"
    assert (marks > 0).all() and (marks < 128).all()
    for video, rows in table.groupby("video", observed=True):
        known = facts(data, video)
        assert known["decoded"] / 20 <= known["detections"] <= -(-known["decoded"] // 5)
        assert known["frames_without_face"] == [] and known["tracks_left_out"] == 0
        assert rows["track"].nunique() == (2 if "female-and-male" in video else 1)
        for _, own in rows.groupby("track"):
            assert own["frame"].tolist() == list(range(known["decoded"]))
            boxes = np.array(own["crop_box"].tolist())
            centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
            assert np.abs(np.diff(centres, axis=0)).max() < 0.15 * sides.min()  # no jump from one person to another
            assert np.abs(np.diff(np.log(sides))).max() < 0.1
