"""Decoding, and following faces through drawn clips."""

import hashlib
import weakref

import av
import numpy as np
import pytest
from clips import SMALL, Blobs, draw, moving, write
from PIL import Image

from dfnb.data import faces
from dfnb.data.faces import Unusable, decode, follow, search
from dfnb.data.prepare import Settings
from dfnb.seeds import rng
from dfnb.settings import DfnbError

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
    images = [np.full((64, 96, 3), level, np.uint8) for level in levels]
    decoded = list(decode(write(tmp_path / name, images, codec, pixels)))
    assert {image.shape for image in decoded} == {(64, 96, 3)}
    means = np.array([image.mean() for image in decoded])
    assert len(means) == 24 and (np.diff(means) >= 0).all()
    assert np.abs(means - levels).max() < 20  # rgb8 has 8 levels per channel


@pytest.mark.parametrize(("name", "codec", "pixels"), CODECS[:3])
def test_a_truncated_file_is_unusable(tmp_path, name, codec, pixels):
    noise = rng(1).integers(0, 255, (30, 64, 96, 3), np.uint8)
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = write(tmp_path / name, list(noise), codec, pixels, **options)
    assert len(list(decode(path))) == 30
    for share in (0.7, 0.3):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(Unusable, match="truncated or damaged"):
            list(decode(path))


def test_an_mp4_cut_exactly_between_two_frames_is_unusable(tmp_path):
    path = write(tmp_path / "a.mp4", moving(30), movflags="faststart")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.size]
    path.write_bytes(path.read_bytes()[: ends[20]])
    with pytest.raises(Unusable, match="truncated or damaged"):
        list(decode(path))


def test_a_text_is_no_video_and_a_playlist_is_not_followed(tmp_path):
    video = write(tmp_path / "a.mp4", moving(5))
    text = tmp_path / "a.txt"
    text.write_text("hello\n" * 50)
    playlist = tmp_path / "list.ffconcat"
    playlist.write_text(f"ffconcat version 1.0\nfile {video.name}\n")
    for path in (text, playlist):
        with pytest.raises(Unusable, match="not a video"):
            list(decode(path))


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.fromarray(draw([(40, 60)]))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was turned by 90 degrees
    image.save(tmp_path / "a.png", exif=orientation)
    (decoded,) = decode(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded, np.rot90(np.array(image), -1))


# ---------------------------------------------------------------- following


def test_a_place_is_linear_between_detections_and_belongs_to_the_nearest_search():
    searched = np.array([0, 5, 10, 15, 35, 55])
    detections = [np.array([x, 40, 20, 20, *[x, 50] * 5, 1.0]) for x in (10, 110, 360)]
    # Missed at 5, between two that found the face; at 15, between two more; and at the end.
    track = dict(zip([0, 2, 4], detections))
    shown, places = faces.interpolate(track, np.arange(56), searched)
    assert shown.tolist() == list(range(46))  # from 46 on, 55 is nearer than 35
    assert places[:, 0] == pytest.approx(np.interp(shown, [0, 10, 35], [20, 120, 370]))
    assert (places[:, 1] == 50).all() and (places[:, 2] == 20).all()
    track = dict(zip([0, 3, 4], detections))  # two missed searches in a row are not bridged
    shown, _ = faces.interpolate(track, np.arange(56), searched)
    assert shown.tolist() == [0, 1, 2, *range(13, 46)]


def followed(images, **settings):
    """The people of a clip, seen longest first: numbers of the frames, and places."""
    searches = search(iter(images), Settings(min_face=16, **settings), Blobs())
    assert searches[-1].frame == len(images) - 1
    return searches, follow(searches, np.arange(len(images)))


@pytest.mark.parametrize("n", [1, 2, 6, 23])
@pytest.mark.parametrize("every", [1, 5])
def test_every_frame_has_its_face_with_one_detection_in_k_frames(n, every):
    images = [draw([(40 + 3 * i, 60)]) for i in range(n)]
    searches, people = followed(images, detect_every=every)
    ((shown, places),) = people
    assert shown.tolist() == list(range(n))
    assert places[:, 0] == pytest.approx([40 + 3 * i for i in range(n)], abs=0.51)
    assert len(searches) == len({*range(0, n, every), n - 1})


def test_memory_does_not_grow_with_the_length_of_a_video():
    alive = []
    counts = []

    def images():
        for _ in range(100):
            image = draw([(60, 60)])
            alive.append(weakref.ref(image))
            yield image
            counts.append(sum(reference() is not None for reference in alive))

    search(images(), SMALL, Blobs())
    assert 0 < max(counts) <= 3


def test_two_people_who_pass_each_other_keep_their_tracks():
    _, people = followed([draw([(30 + 2 * i, 35), (130 - 2 * i, 85)]) for i in range(50)])
    assert [len(shown) for shown, _ in people] == [50, 50]
    heights = [places[:, 1] for _, places in people]
    assert all(np.ptp(height) < 3 for height in heights)
    assert sorted(height.mean() for height in heights) == pytest.approx([35, 85], abs=2)


def test_a_cut_ends_all_tracks():
    images = [draw([(60, 60)], 60)] * 23 + [draw([(64, 60)], 160)] * 21
    _, people = followed(images)
    assert [shown.tolist() for shown, _ in people] == [list(range(23)), list(range(23, 44))]


@pytest.mark.parametrize("length", [8, 15, 25])
def test_a_dissolve_ends_all_tracks(length):
    """Two faces at the same place; the second shot moves a little, as real ones do."""
    first = [draw([(60, 60)], 60)] * 30
    second = [draw([(60 + i % 2, 60)], 160) for i in range(30 + length)]
    shares = np.linspace(0, 1, length + 2)[1:-1]
    mixed = []
    for share, image in zip(shares, second):
        mixed.append(np.uint8(np.round((1 - share) * first[0] + share * image)))
    _, people = followed([*first, *mixed, *second[length:]])
    assert not any(shown[0] < 30 and shown[-1] >= 30 + length for shown, _ in people)
    shown = set(np.concatenate([numbers for numbers, _ in people]))
    assert shown >= {*range(30), *range(30 + length, 60 + length)}


# ---------------------------------------------------------------- the detector's file


def test_the_detector_is_fetched_or_its_place_is_named(tmp_path, monkeypatch):
    path = tmp_path / "models" / "weights.onnx"
    monkeypatch.setenv("DFNB_DETECTOR", str(path))
    source = tmp_path / "weights.onnx"
    source.write_bytes(b"weights")
    monkeypatch.setattr(faces, "YUNET_URL", source.as_uri())
    with pytest.raises(DfnbError, match=f"get {source.as_uri()} and put it at {path}"):
        faces.detector_path()  # it has another sha256
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(faces, "YUNET_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert faces.detector_path().read_bytes() == b"weights"
    path.write_bytes(b"other")
    with pytest.raises(DfnbError, match="delete it"):
        faces.detector_path()
