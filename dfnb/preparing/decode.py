"""Decoding of videos and images into the pictures that a viewer shows: upright, with square pixels.

Pillow decodes images, and animations among them; FFmpeg (PyAV) decodes everything else.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Images by their names: these may be frames of a video. Other media are videos by themselves.
IMAGE = re.compile(
    r".*\.(a?png|avifs?|bmp|dib|j2[ck]|jfif|jif|jp2|jpe|jpe?g|jp[fx]|mpo|p[bgpn]m|tiff?|webp)",
    re.IGNORECASE | re.DOTALL,
)
# Videos and images by their names. Formats that cannot be read are among them, so that their files
# are reported. A name that begins with a dot is hidden, and does not match.
MEDIA = re.compile(
    rf"(?!\.)({IMAGE.pattern}|.*\.(3g2|3gpp?|arw|asf|avi|cr[23]|divx|dng|dv|exr|f4v|flv|gif|h?26[45]|"
    r"hdr|hei[cf]s?|hevc|hif|ico|ivf|jxl|jxr|m1v|m2ts|m2v|m4v|mj2|mkv|mov|mp4v?|mpe?g|mpe|mpv|mts|"
    r"mxf|nef|og[gmv]|orf|psd|qt|raf|rmvb?|rw2|tga|ts|vob|webm|wmv|y4m))",
    re.IGNORECASE | re.DOTALL,
)
# Safety: Pillow opens other formats, too, and one of them, EPS, by running Ghostscript.
IMAGE_FORMATS = ["PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "PPM"]
# Safety: without these lists FFmpeg opens text files as ANSI art, and playlists fetch other hosts.
OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,"
    "asf,ogg,mxf,h264,hevc,m4v,dv,ivf,yuv4mpegpipe",
    "protocol_whitelist": "file",
}

# What FFmpeg and Pillow raise about a damaged file.
DAMAGED = (
    av.FFmpegError,
    IndexError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)


class Unusable(Exception):
    """The reason why a video cannot be used; ``dfnb prepare`` lists it in the quarantine."""


class Picture(NamedTuple):
    """A frame as a viewer shows it. Its pixels are made on demand: that takes as long as decoding.

    Both functions raise :class:`Unusable` where the frame cannot be read so.
    """

    shape: tuple[int, ...]  # (H, W, 3)
    rgb: Callable[[], np.ndarray]  # (H, W, 3) uint8; white where the frame is transparent
    mask: Callable[[], np.ndarray]  # the frame as a mask: (H, W) uint8, white where forged


@contextmanager
def explained_as_unusable() -> Iterator[None]:
    """Turn what FFmpeg and Pillow raise about a file into :class:`Unusable`."""
    try:
        yield
    except FileNotFoundError:
        raise Unusable("there is no such file, or a link leads to none") from None
    except IsADirectoryError:
        raise Unusable("a folder, where a file is needed") from None
    except PermissionError:
        raise Unusable("may not be read") from None
    except DAMAGED as error:
        # FFmpeg's reasons, such as "Invalid argument", say nothing about the file.
        reason = "" if isinstance(error, av.FFmpegError) else f" ({error})"
        raise Unusable(
            "not a video or image, or truncated or damaged, or of a kind that is not read"
            f"{reason}; if a viewer shows it, save it as PNG or MP4"
        ) from None


# ---------------------------------------------------------------- files


def decode(file: Path) -> Iterator[Picture]:
    """Yield the frames of a video; an image is a video of one frame, an animation of several.

    Raises :class:`Unusable` where the file is damaged or cut off, has no frame, or is of a kind
    that would give other pictures than a viewer shows. MPEG, WebM and GIF do not state their number
    of frames: if they are cut off between two frames, this goes unnoticed.
    """
    with explained_as_unusable():
        image = _open_image(file)
        if image is None:
            yield from _frames_of_video(file)
            return
        with image:
            for number in _frame_numbers(image):
                image.seek(number)
                yield _picture_of_image(image)


def guess_length(file: Path) -> int:
    """About how many frames :func:`decode` yields, in a ninth of its time: packets are counted.

    For nearly all files the guess is right. It is wrong, for example, for a clip that was cut out
    of a stream, whose first packets need earlier ones. A damaged file raises nothing: its packets
    count up to the damage, which :func:`decode` will report.
    """
    packets = 0
    with suppress(*DAMAGED, Unusable):
        if image := _open_image(file):
            with image:
                return len(_frame_numbers(image))
        with open_video(file) as container:
            # The last packet is empty, and an edit list marks the packets that it hides.
            for packet in container.demux(_video_stream(container)):
                packets += bool(packet.size and not packet.is_discard)
    return packets


def read_picture(file: Path) -> Picture:
    """The picture of an image file; raises :class:`Unusable` as :func:`decode`, and for several."""
    pictures = decode(file)
    picture = next(pictures)
    if next(pictures, None):
        raise Unusable("an animation, where a single picture is needed")
    return picture


def read_image(file: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 RGB; raises :class:`Unusable` as :func:`read_picture`."""
    return read_picture(file).rgb()


# ---------------------------------------------------------------- images


def _open_image(file: Path) -> Image.Image | None:
    """Open an image; None for a video, also where only its suffix says that it is an image."""
    if not IMAGE.fullmatch(file.name):
        return None
    try:
        return Image.open(file, formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        return None  # a phone's HEIC, for example, may be called .jpg


def _frame_numbers(image: Image.Image) -> range:
    """The numbers of the frames that a viewer shows; raises :class:`Unusable` for several pages."""
    frames = range(getattr(image, "n_frames", 1))
    if image.format == "MPO":  # a JPEG; its further pictures are previews, depth or another eye
        return frames[:1]
    if image.format == "TIFF" and len(frames) > 1:
        raise Unusable(f"it has {len(frames)} pages; save each as a file of its own")
    # A PNG may have a first picture that only programs without animations show.
    return frames[bool(getattr(image, "default_image", False)) :]


def _picture_of_image(image: Image.Image) -> Picture:
    """The current frame of an image, turned as its EXIF data say."""
    # Read before exif_transpose loads the image, as tile is empty then.
    is_deep = ";16" in str(image.tile)
    upright = ImageOps.exif_transpose(image)  # a copy
    if upright.mode.startswith(("I", "F")):
        grey = np.asarray(upright)
        if getattr(image, "tag_v2", {}).get(262) == 0 and grey.dtype == np.uint16:
            grey = 65535 - grey  # a TIFF in which 0 is white, which Pillow leaves so in 16 bits
        rgb = partial(_deep_as_rgb, grey)
        mask = partial(_deep_as_mask, grey)
        return Picture((*grey.shape, 3), rgb, mask)
    pixels = np.array(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    # Pillow has already divided colours of 16 bits by 256; see _deep_as_rgb.
    if is_deep and 0 < pixels[..., :3].max() < 64:
        raise Unusable("its colours of 16 bits fill less than a quarter of the range; save 8 bits")
    return _picture_of_pixels(pixels)


def _deep_as_rgb(grey: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) of 16 bits or more, or floats, as (H, W, 3) uint8.

    Floats are from 0 to 1, or to 255. Raises :class:`Unusable` for levels whose range is unclear,
    such as 12 bits in 16.
    """
    lowest, highest = grey.min(), grey.max()
    is_float = np.issubdtype(grey.dtype, np.floating)
    limits = (0, 255) if is_float else (0, 65535)
    if not (limits[0] <= lowest <= highest <= limits[1]):  # NaN: False
        raise Unusable(f"its grey levels are from {lowest} to {highest}; save it with 8 bits")
    if is_float:
        levels = grey * 255 if highest <= 1 else grey
    elif 0 < highest < 2**14:
        raise Unusable(f"its grey levels of 16 bits end at {highest}; save it with 8 bits")
    else:
        levels = grey // 256
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def _deep_as_mask(grey: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) of 16 bits or more, or floats, as a mask (H, W) uint8.

    If there is one level beside 0, it is white, however low it is, such as 1. Errors are those of
    :func:`_deep_as_rgb`.
    """
    if np.isfinite(grey).all() and set(np.unique(grey)) <= {0, grey.max()}:
        return np.uint8(grey > 0) * 255
    return _deep_as_rgb(grey)[..., 0]


# ---------------------------------------------------------------- pixels


def _picture_of_pixels(pixels: np.ndarray) -> Picture:
    """A picture of pixels (H, W, 3 or 4) uint8, RGB or RGBA."""
    shape = (*pixels.shape[:2], 3)
    return Picture(shape, partial(_without_alpha, pixels), partial(_as_mask, pixels))


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    """RGB or RGBA pixels (H, W, 3 or 4) uint8 as RGB (H, W, 3): over white, as viewers show it."""
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    if (alpha == 255).all():  # also where there is none
        return np.ascontiguousarray(rgb)
    opacity = alpha / 255
    return np.uint8((rgb * opacity + 255 * (1 - opacity)).round())


def _as_mask(pixels: np.ndarray) -> np.ndarray:
    """RGB or RGBA pixels (H, W, 3 or 4) uint8 as a mask: grey levels (H, W) uint8.

    Paint programs may write a mask in one colour with the region in the alpha channel: then this
    channel is the mask. Raises :class:`Unusable` where both colours and alpha vary: what is the
    mask is unclear.
    """
    rgb, alpha = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3:]
    if alpha.size and alpha.min() < alpha.max():
        visible = rgb[alpha[..., 0] > 0]
        if np.ptp(visible, axis=0).any():
            raise Unusable("as a mask it has both shades and transparency; save it black and white")
        return np.ascontiguousarray(alpha[..., 0])
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


# ---------------------------------------------------------------- videos


def open_video(file: Path) -> av.container.InputContainer:
    """Open a video, whose format must be one of :data:`OPEN_OPTIONS`; raises what FFmpeg raises."""
    # Absolute, because FFmpeg would take the "a:" of a relative path a:b.mp4 for a protocol.
    return av.open(file.resolve(), options=OPEN_OPTIONS)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The pictures of a file, rather than its cover or preview.

    Raises :class:`Unusable` where there are none, and for a grid of tiles: PyAV would show one.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise Unusable("it has no picture, only sound")
    # Any, because such a file may have a preview, too, which would be taken for the picture.
    tiles = [each.disposition & av.stream.Disposition.dependent for each in container.streams.video]
    if any(tiles):
        raise Unusable("a HEIC of tiles, as phones write them; save it as JPEG or PNG")
    return stream


def _frames_of_video(file: Path) -> Iterator[Picture]:
    """The frames of :func:`decode` of a file that FFmpeg decodes; also raises what FFmpeg does."""
    with open_video(file) as container:
        stream = _video_stream(container)
        stream.codec_context.thread_type = "NONE"  # several videos are decoded in parallel instead
        # Compared below with the number that the file states. Frames cannot be counted instead,
        # because an edit list may hide some.
        packets = 0
        frame = None
        for packet in container.demux(stream):
            if packet.size:  # the last packet is empty: it makes the decoder return what it kept
                packets += 1
            for frame in packet.decode():
                if frame.is_corrupt or packet.is_corrupt:
                    raise Unusable("truncated or damaged")
                yield _picture_of_frame(frame, float(stream.sample_aspect_ratio or 1))
        # stream.frames is 0 where the file does not state them.
        if packets < stream.frames or frame is None:
            raise Unusable("truncated or damaged")


def _picture_of_frame(frame: av.VideoFrame, aspect: float) -> Picture:
    """A frame of a video, turned and mirrored as its metadata say.

    ``aspect`` is the width of its pixels, as their height is 1: the frame is enlarged so that they
    become squares. FFmpeg, too, takes a difference of 1 % for rounding.
    """
    width, height = frame.width, frame.height
    if not 1 / 4 <= aspect <= 4:
        raise Unusable(
            f"its pixels are said to be {aspect:.3g} times as wide as high; correct that"
        )
    if aspect > 1.01:
        width = round(width * aspect)
    if aspect < 0.99:
        height = round(height / aspect)
    transform = _display_transform(frame)
    shape = transform(np.empty((height, width, 0))).shape
    has_alpha = any(component.is_alpha for component in frame.format.components)

    def pixels() -> np.ndarray:
        with explained_as_unusable():
            # One thread: `dfnb prepare` has a process per processor.
            kind = "rgba" if has_alpha else "rgb24"
            image = frame.to_ndarray(format=kind, width=width, height=height, threads=1)
            return transform(image)

    return Picture((*shape[:2], 3), lambda: _without_alpha(pixels()), lambda: _as_mask(pixels()))


def _display_transform(frame: av.VideoFrame) -> Callable[[np.ndarray], np.ndarray]:
    """What turns the stored pixels (H, W, ...) of a frame into those that players show.

    The frame's display matrix ((a, b), (c, d)) says where a stored pixel (x, y) is shown: at
    (ax + cy, bx + dy), up to a shift. PyAV's ``rotation`` leaves mirroring out. Raises
    :class:`Unusable` for any other angle than quarter turns.
    """
    if "DISPLAYMATRIX" not in frame.side_data:
        return np.asarray
    matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32).reshape(3, 3)
    (a, b), (c, d) = matrix[:2, :2].tolist()
    straight, turned = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, turned) > 0.01 * max(straight, turned):
        raise Unusable("it is shown turned by an angle that is no quarter turn; turn its frames")
    is_turned = turned > straight
    right, down = (c, b) if is_turned else (a, d)

    def transform(pixels: np.ndarray) -> np.ndarray:
        if is_turned:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(pixels[:: 1 if down >= 0 else -1, :: 1 if right >= 0 else -1])

    return transform
