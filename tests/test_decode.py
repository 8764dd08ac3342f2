"""Decoding of videos and images into upright RGB frames."""

from fractions import Fraction
from functools import partial

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from clips import moving, without_first, write
from PIL import Image, ImageCms, PngImagePlugin

from facesets.decode import IMAGE, decode, guess_length, read_image
from facesets.pictures import Unusable, plain_rgb
from facesets.seeds import rng

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


def test_an_avi_is_read_whose_header_counts_dropped_frames(tmp_path):
    whole = write(tmp_path / "whole.avi", moving(12), "mpeg4")
    path = tmp_path / "a.avi"
    with av.open(str(whole)) as clip, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(clip.streams.video[0])
        for number, packet in enumerate(clip.demux(video=0)):
            if packet.size and number not in (4, 5, 6):  # an empty chunk is written in their place
                packet.stream = stream
                container.mux(packet)
    with av.open(str(path)) as clip:
        assert clip.streams.video[0].frames == 12
        ends = [packet.pos + packet.size for packet in clip.demux() if packet.size]
    assert len(list(decode(path))) == guess_length(path) == 9
    path.write_bytes(path.read_bytes()[: ends[6]])
    with pytest.raises(Unusable, match="truncated or damaged"):
        list(decode(path))


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = without_first(write(tmp_path / "a.mp4", moving(33)), tmp_path / "b.mp4", 0, hidden=10)
    assert len(list(decode(path))) == guess_length(path) == 23


@pytest.mark.parametrize("name", ["a.txt", "a.mp4", "list.ffconcat", "list.mp4"])
def test_a_text_is_no_video_and_a_playlist_is_not_followed(tmp_path, name):
    video = write(tmp_path / "video.mp4", moving(5))
    (tmp_path / name).write_text("hello\n" * 50)
    if name.startswith("list"):
        (tmp_path / name).write_text(f"ffconcat version 1.0\nfile {video.name}\n")
    with pytest.raises(Unusable, match=r"of another kind|a file \.(txt|ffconcat)"):
        list(decode(tmp_path / name))
    assert guess_length(tmp_path / name) == 0


# ---------------------------------------------------------------- as a viewer shows it


def corners(height=64, width=96):
    """A picture (H, W, 3) with another colour in each quarter: no turn or mirroring leaves it."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (220, 20, 20)
    image[: height // 2, width // 2 :] = (20, 220, 20)
    image[height // 2 :, : width // 2] = (20, 20, 220)
    image[height // 2 :, width // 2 :] = (200, 200, 200)
    return image


def assert_alike(decoded, expected, tolerance=8):
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < tolerance


# EXIF's orientation: how a viewer shows the stored picture.
ORIENTATIONS = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
# ... and the display matrix (a, b, c, d) of a video: a stored pixel (x, y) is shown at (ax + cy,
# bx + dy), up to a shift.
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def with_matrix(path, images, matrix, aspect=None):
    """Write an MP4 whose track has this display matrix."""
    write(path, images, aspect=aspect)
    content = path.read_bytes()

    def bytes_of(a, b, c, d):
        fixed = (round(value * (1 << 16)) for value in (a, b, 0, c, d))
        return b"".join(number.to_bytes(4, "big", signed=True) for number in fixed)

    upright = bytes_of(1, 0, 0, 1)
    assert content.count(upright) == 2  # of the whole file, and of the track
    place = content.rindex(upright)
    path.write_bytes(content[:place] + bytes_of(*matrix) + content[place + len(upright) :])
    return path


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_clip_is_turned_as_its_display_matrix_says_and_a_mirrored_one_unusable(
    tmp_path, orientation
):
    path = with_matrix(tmp_path / "a.mp4", [corners()] * 3, MATRICES[orientation])
    if orientation in (2, 4, 5, 7):
        with pytest.raises(Unusable, match="orientation is"):
            list(decode(path))
        return
    for picture in decode(path):
        assert_alike(picture, ORIENTATIONS[orientation](corners()))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_is_turned_and_mirrored_as_its_exif_says(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corners()).save(path, exif=exif)
    (picture,) = decode(path)
    assert_alike(picture, ORIENTATIONS[orientation](corners()))


def test_further_pictures_of_a_photograph_are_ignored(tmp_path):
    frames = [Image.fromarray(corners()), Image.new("RGB", (96, 64))]
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    (picture,) = decode((tmp_path / "a.mpo").rename(tmp_path / "a.jpg"))  # as cameras call it
    assert_alike(picture, corners())


# ---------------------------------------------------------------- kinds of pixels


def deep(image):
    """A picture (H, W) uint8 in 16 bits: its levels times 257."""
    return image.astype(np.uint16) * 257


GREY = cv2.cvtColor(corners(), cv2.COLOR_RGB2GRAY)
ONE_BIT = Image.fromarray(GREY).point(lambda level: 255 * (level > 100)).convert("1")
KINDS = {
    "grey.png": (Image.fromarray(GREY), GREY),
    "grey.jpg": (Image.fromarray(GREY), GREY),
    "palette.png": (Image.fromarray(corners()).quantize(16), corners()),
    "la.png": (Image.fromarray(GREY).convert("LA"), GREY),
    "rgba.png": (Image.fromarray(corners()).convert("RGBA"), corners()),
    "rgba.webp": (Image.fromarray(corners()).convert("RGBA"), corners()),
    "one.png": (ONE_BIT, np.uint8(GREY > 100) * 255),
}


@pytest.mark.parametrize("name", KINDS)
def test_pixels_of_8_bits_are_shown_right(tmp_path, name):
    image, expected = KINDS[name]
    image.save(tmp_path / name)
    (picture,) = decode(tmp_path / name)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, 2)
    assert_alike(picture, expected, tolerance=4)


TRANSPARENT = np.dstack([corners(), np.full((64, 96), 254, np.uint8)])
OTHERS = {
    "grey16.png": Image.fromarray(deep(GREY)),
    "12 bits in 16.png": Image.fromarray(deep(GREY) // 16),
    "colours16.png": cv2.imencode(".png", deep(corners()))[1],
    "float.tif": Image.fromarray(GREY.astype(np.float32) / 255),
    "colours.tif": Image.fromarray(corners()),
    "a.jp2": Image.fromarray(corners()),
    "cmyk.jpg": Image.fromarray(corners()).convert("CMYK"),
    "transparent.png": Image.fromarray(TRANSPARENT),
    "transparent.webp": Image.fromarray(TRANSPARENT),
    "transparent palette.png": Image.fromarray(TRANSPARENT).quantize(16),
}


@pytest.mark.parametrize("name", OTHERS)
def test_pixels_of_other_kinds_are_named_and_not_read(tmp_path, name):
    if isinstance(OTHERS[name], np.ndarray):
        (tmp_path / name).write_bytes(OTHERS[name].tobytes())
    else:
        OTHERS[name].save(tmp_path / name)
    with pytest.raises(Unusable, match="PNG, JPEG, WebP or BMP of 8 bits, in sRGB, without transp"):
        next(decode(tmp_path / name))


def encoded(path, options=None, **attributes):
    """A clip of one frame by a codec with these attributes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("curve", ["BT709", "SMPTE2084", "ARIB_STD_B67"])
@pytest.mark.parametrize("primaries", ["BT709", "BT2020", "SMPTE432"])
def test_a_clip_in_hdr_or_a_wide_gamut_is_unusable(tmp_path, curve, primaries):
    marks = {"color_trc": ColorTrc[curve], "color_primaries": ColorPrimaries[primaries]}
    path = encoded(tmp_path / "a.mp4", **marks)
    if curve == primaries == "BT709":
        assert len(list(decode(path))) == 1
        return
    with pytest.raises(Unusable, match=f"(curve is {curve}|primaries is {primaries});"):
        list(decode(path))


def animated(path):
    frames = [Image.new("RGB", (64, 48), (20 * i,) * 3) for i in range(1, 9)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        (
            "a.mp4",
            lambda path: with_matrix(path, [corners()], (0.8, 0.6, -0.6, 0.8)),
            "orientation",
        ),
        *(
            ("a.mp4", partial(write, images=[corners()] * 2, aspect=aspect), "pixel aspect is")
            for aspect in (Fraction(64, 45), Fraction(1, 2), Fraction(10))
        ),
        ("a.mp4", partial(encoded, options={"x264-params": "tff=1"}), "scan is interlaced"),
        ("a.png", animated, "number of pictures is"),
        ("a.webp", animated, "number of pictures is"),
        (  # a clip that is called an image
            "a.jpg",
            lambda path: write(path.with_suffix(".mp4"), moving(4)).rename(path),
            "of another kind than its name says",
        ),
        (  # PostScript, which Ghostscript would execute
            "a.png",
            lambda path: Image.fromarray(corners()).save(path, "EPS"),
            "of another kind than its name says",
        ),
    ],
)
def test_what_viewers_show_otherwise_is_named_and_not_read(tmp_path, name, make, sentence):
    make(tmp_path / name)
    with pytest.raises(Unusable, match=sentence):
        list(decode(tmp_path / name))


def test_a_picture_in_another_colour_profile_than_srgb_is_unusable(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"rgXY").replace(b"gXYZ", b"rXYZ").replace(b"rgXY", b"gXYZ")
    path = tmp_path / "a.png"
    for profile in (swapped, b"not a profile"):
        Image.fromarray(corners()).save(path, icc_profile=profile)
        with pytest.raises(Unusable, match="colour profile is"):
            read_image(path)
    Image.fromarray(corners()).save(path, icc_profile=srgb)
    assert_alike(read_image(path), corners())
    linear = PngImagePlugin.PngInfo()
    linear.add(b"gAMA", (100_000).to_bytes(4, "big"))
    Image.fromarray(corners()).save(path, pnginfo=linear)
    with pytest.raises(Unusable, match=r"gamma is 1\.0"):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        ("cHRM", (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), None),
        ("cHRM", (31270, 32900, 63000, 34000, 31000, 59500, 15500, 7000), None),  # of NTSC
        ("cHRM", (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), "primaries is .*0.68"),
        ("cICP", (1, 13, 0, 1), None),
        ("cICP", (9, 16, 0, 1), "primaries is BT2020"),
        ("cICP", (12, 13, 0, 1), "primaries is SMPTE432"),
        ("cICP", (1, 18, 0, 1), "transfer curve is ARIB_STD_B67"),
    ],
)
def test_a_png_in_a_wide_gamut_or_hdr_is_unusable(tmp_path, kind, values, problem):
    width = 4 if kind == "cHRM" else 1
    chunks = PngImagePlugin.PngInfo()
    chunks.add(kind.encode(), b"".join(value.to_bytes(width, "big") for value in values))
    Image.fromarray(corners()).save(tmp_path / "a.png", pnginfo=chunks)
    if problem is None:
        assert_alike(read_image(tmp_path / "a.png"), corners())
        return
    with pytest.raises(Unusable, match=f"{problem}.*; save it as PNG"):
        read_image(tmp_path / "a.png")


def test_what_is_in_memory_passes_the_same_door():
    image = Image.fromarray(corners())
    for plain in (image, image.convert("RGBA"), corners()):
        np.testing.assert_array_equal(plain_rgb(plain), corners())
    grey = image.convert("L")
    others = {
        "mode is CMYK": image.convert("CMYK"),
        "number of bits is 16": Image.fromarray(deep(GREY)),
        "mode is F": Image.fromarray(np.float32(grey)),
        "type is float32": np.float32(image) / 255,
        r"last axis is \(\)": np.asarray(grey),
        r"last axis is \(4,\)": np.asarray(image.convert("RGBA")),
    }
    for sentence, other in others.items():
        with pytest.raises(Unusable, match=f"{sentence}; give a PIL image, or an arr"):
            plain_rgb(other)


# ---------------------------------------------------------------- masks

REGION = np.zeros((64, 96), np.uint8)
REGION[20:50, 30:60] = 255
WHITE = np.full_like(REGION, 255)
MASKS = {
    "plain.png": Image.fromarray(REGION),
    "one.png": Image.fromarray(REGION).convert("1"),
    "opaque.png": Image.fromarray(np.dstack([REGION, REGION, REGION, WHITE])),
    "palette.png": Image.fromarray(REGION).convert("P"),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_white_where_forged(tmp_path, name):
    MASKS[name].save(tmp_path / name)
    (picture,) = decode(tmp_path / name)
    np.testing.assert_array_equal(picture, np.repeat(REGION[..., None], 3, 2))


def test_a_mask_in_the_alpha_channel_is_unusable(tmp_path):
    Image.fromarray(np.dstack([WHITE, WHITE, WHITE, REGION])).save(tmp_path / "a.png")
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "argb"
        frame = av.VideoFrame.from_ndarray(np.dstack([WHITE, WHITE, WHITE, REGION]), "rgba")
        container.mux(stream.encode(frame.reformat(format="argb")))
        container.mux(stream.encode())
    for name in ("a.png", "a.mov"):
        with pytest.raises(Unusable, match="lowest alpha is 0;"):
            next(decode(tmp_path / name))


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("JPE", "JPEG"), ("jfif", "JPEG"), ("bmp", "BMP"), ("jpg", "PNG")],  # whatever it says
)
def test_images_have_many_suffixes(tmp_path, suffix, kind):
    path = tmp_path / f"a.{suffix}"
    assert IMAGE.fullmatch(path.name)
    Image.fromarray(corners()).save(path, kind)
    assert_alike(read_image(path), corners())


def test_a_cover_is_not_taken_for_the_clip(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        clip = container.add_stream("libx264", rate=25)
        cover.disposition = av.stream.Disposition.attached_pic
        parts = ((cover, "yuvj420p", moving(1)), (clip, "yuv420p", moving(9)))
        for stream, pixels, _ in parts:
            stream.height, stream.width, stream.pix_fmt = 120, 160, pixels
        for stream, pixels, images in parts:
            for image in images:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame.reformat(format=pixels)))
            container.mux(stream.encode())
    assert len(list(decode(path))) == 9 == guess_length(path)
