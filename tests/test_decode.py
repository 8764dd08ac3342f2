"""Decoding of videos and images into upright RGB frames."""

import av
import numpy as np
import pytest
from clips import draw, moving, without_first, write
from PIL import Image

from dfnb.data.decode import Unusable, decode, guess_length
from dfnb.seeds import rng

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
    decoded = [picture.rgb() for picture in decode(write(tmp_path / name, images, codec, pixels))]
    assert {image.shape for image in decoded} == {(64, 96, 3)}
    means = np.array([image.mean() for image in decoded])
    assert len(means) == 24 == guess_length(tmp_path / name) and (np.diff(means) >= 0).all()
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


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = without_first(write(tmp_path / "a.mp4", moving(33)), tmp_path / "b.mp4", 0, hidden=10)
    assert len(list(decode(path))) == guess_length(path) == 23


def test_a_video_that_a_camera_turned_is_upright(tmp_path):
    path = write(tmp_path / "a.mp4", moving(3))
    content = path.read_bytes()
    # The matrix of the track, by which a player turns the picture: (1, 0; 0, 1), then (0, 1; -1, 0)
    # for a quarter turn.
    one, zero, minus = (number.to_bytes(4, "big", signed=True) for number in (1 << 16, 0, -1 << 16))
    upright = one + zero * 3 + one
    turned = zero + one + zero + minus + zero
    assert content.count(upright) == 2  # of the whole file, and of the track
    place = content.rindex(upright)
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])
    for picture in decode(path):
        assert picture.shape == picture.rgb().shape == (160, 120, 3)


def test_a_text_is_no_video_and_a_playlist_is_not_followed(tmp_path):
    video = write(tmp_path / "a.mp4", moving(5))
    text = tmp_path / "a.txt"
    text.write_text("hello\n" * 50)
    playlist = tmp_path / "list.ffconcat"
    playlist.write_text(f"ffconcat version 1.0\nfile {video.name}\n")
    for path in (text, playlist):
        with pytest.raises(Unusable, match="not a video"):
            list(decode(path))
        assert guess_length(path) == 0


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.fromarray(draw([(40, 60)]))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was turned by 90 degrees
    image.save(tmp_path / "a.png", exif=orientation)
    (decoded,) = decode(tmp_path / "a.png")
    expected = np.rot90(np.array(image), -1)
    np.testing.assert_array_equal(decoded.rgb(), expected)
    assert decoded.shape == expected.shape and guess_length(tmp_path / "a.png") == 1
