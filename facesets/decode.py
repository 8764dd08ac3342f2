"""Decodes videos and images into the pictures that a viewer shows: upright, with square pixels.

What is read is a short list: pictures that are PNG, JPEG, WebP or BMP of 8 bits without
transparency, which Pillow decodes, and clips of upright frames with square pixels, which FFmpeg
(PyAV) decodes. Anything else is refused in one sentence, so that nothing is read otherwise than it
is shown.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from PIL import Image, ImageOps

# By their names: pictures, which may also be frames of a video, and clips.
IMAGE = re.compile(r"(?!\.).+\.(bmp|jfif|jpe|jpe?g|png|webp)", re.IGNORECASE | re.DOTALL)
CLIP = re.compile(
    r"(?!\.).+\.(3gpp?|asf|avi|flv|gif|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogg|ogv|ts|webm|wmv)",
    re.IGNORECASE | re.DOTALL,
)
# These and others that people have: files of such names are listed as unusable, not passed over.
MEDIA = re.compile(
    rf"{IMAGE.pattern}|{CLIP.pattern}|(?!\.).+\.(avif|hei[cf]|jp2|tiff?)", re.IGNORECASE | re.DOTALL
)
# Safety: Pillow opens other formats, too, and one of them, EPS, by running Ghostscript.
IMAGE_FORMATS = ["PNG", "JPEG", "WEBP", "BMP"]
IMAGE_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}  # of Pillow; with transparency, if it is opaque
# Safety: without these lists FFmpeg opens text files as ANSI art, and playlists fetch other hosts.
OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,"
    "asf,ogg,mxf,h264,hevc,m4v,dv,ivf,yuv4mpegpipe",
    "protocol_whitelist": "file",
}
# A clip's display matrix ((a, b), (c, d)) says where a stored pixel (x, y) is shown: at (ax + cy,
# bx + dy), up to a shift. By (a, b, c, d): the quarter turns of numpy.rot90 that show it upright.
QUARTER_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}


class Unusable(Exception):
    """The reason why a video cannot be used; ``dfnb prepare`` lists it in the quarantine."""


def not_read(what: str) -> Unusable:
    """The sentence on everything that is not on the list of what is read; ``what`` it is."""
    return Unusable(
        f"{what}; save it as PNG, JPEG, WebP or BMP of 8 bits without transparency, or as an "
        "upright clip with square pixels"
    )


class Picture(NamedTuple):
    """A frame as a viewer shows it. Its pixels are made on demand: that takes as long as decoding.

    ``rgb`` raises :class:`Unusable` where the frame is transparent.
    """

    shape: tuple[int, ...]  # (H, W, 3)
    rgb: Callable[[], np.ndarray]  # (H, W, 3) uint8

    def mask(self) -> np.ndarray:
        """The frame as a mask: grey levels (H, W) uint8, white where forged."""
        return cv2.cvtColor(self.rgb(), cv2.COLOR_RGB2GRAY)


@contextmanager
def explained_as_unusable() -> Iterator[None]:
    """Turn what FFmpeg and Pillow raise about a file into :class:`Unusable`."""
    try:
        yield
    except (
        av.FFmpegError,
        IndexError,
        OSError,  # Pillow's UnidentifiedImageError is one
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unusable(
            f"missing, truncated or damaged, or of another kind than its name says ({reason})"
        ) from None


# ---------------------------------------------------------------- files


def decode(file: Path) -> Iterator[Picture]:
    """Yield the frames of a clip; an image is a clip of one frame.

    Raises :class:`Unusable` where the file is damaged or cut off, has no frame, or is not on the
    list of what is read. MPEG, WebM and GIF do not state their number of frames: if they are cut
    off between two frames, this goes unnoticed.
    """
    if IMAGE.fullmatch(file.name):
        yield read_picture(file)
    elif CLIP.fullmatch(file.name):
        with explained_as_unusable():
            yield from _frames_of_clip(file)
    else:
        raise not_read(f"a file {file.suffix}")


def guess_length(file: Path) -> int:
    """About how many frames :func:`decode` yields, in a ninth of its time: packets are counted.

    For nearly all files the guess is right. It is wrong, for example, for a clip that was cut out
    of a stream, whose first packets need earlier ones. A damaged file raises nothing: its packets
    count up to the damage, which :func:`decode` will report.
    """
    if IMAGE.fullmatch(file.name):
        return 1
    packets = 0
    with suppress(av.FFmpegError, Unusable), open_video(file) as container:
        # The last packet is empty, and an edit list marks the packets that it hides.
        for packet in container.demux(_video_stream(container)):
            packets += bool(packet.size and not packet.is_discard)
    return packets


def read_picture(file: Path) -> Picture:
    """The picture of an image file, turned as its EXIF data say; raises as :func:`decode`."""
    with explained_as_unusable(), Image.open(file, formats=IMAGE_FORMATS) as image:
        # An MPO is a JPEG; its further pictures are previews, depth or another eye.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise not_read("an animation")
        # Of 16 bits Pillow would show the upper 8, also where a camera fills the lower 12.
        if image.mode not in IMAGE_MODES or ";16" in str(image.tile):
            raise not_read(f"a picture whose pixels are {image.tile[0].args}")
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            rgb = opaque(np.array(upright.convert("RGBA")))
        else:
            rgb = np.array(upright.convert("RGB"))
    return Picture(rgb.shape, lambda: rgb)


def read_image(file: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 RGB; raises :class:`Unusable` as :func:`decode`."""
    return read_picture(file).rgb()


def opaque(pixels: np.ndarray) -> np.ndarray:
    """RGBA pixels (H, W, 4) uint8 as RGB (H, W, 3); raises :class:`Unusable` for transparent ones.

    What is beneath transparency, or whether it is a mask, is not guessed.
    """
    if pixels[..., 3].min() < 255:
        raise not_read("a transparent picture")
    return np.ascontiguousarray(pixels[..., :3])


# ---------------------------------------------------------------- clips


def open_video(file: Path) -> av.container.InputContainer:
    """Open a video, whose format must be one of :data:`OPEN_OPTIONS`; raises what FFmpeg raises."""
    # Absolute, because FFmpeg would take the "a:" of a relative path a:b.mp4 for a protocol.
    return av.open(file.resolve(), options=OPEN_OPTIONS)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The pictures of a file, rather than its cover; raises :class:`Unusable` where it has none."""
    stream = container.streams.best("video")
    if stream is None:
        raise not_read("it has no picture, only sound")
    return stream


def _frames_of_clip(file: Path) -> Iterator[Picture]:
    """The frames of :func:`decode` of a file that FFmpeg decodes; also raises what FFmpeg does."""
    with open_video(file) as container:
        stream = _video_stream(container)
        stream.codec_context.thread_type = "NONE"  # several videos are decoded in parallel instead
        if not 0.99 <= float(stream.sample_aspect_ratio or 1) <= 1.01:  # FFmpeg, too, rounds so
            raise not_read(f"a clip whose pixels are {stream.sample_aspect_ratio} and not square")
        # Compared below with the number that the file states. Frames cannot be counted instead,
        # because an edit list may hide some. AVI also states frames that were dropped, which have
        # no packet: there the place in time of the last packet counts.
        packets = place = 0
        frame = None
        for packet in container.demux(stream):
            if packet.size:  # the last packet is empty: it makes the decoder return what it kept
                packets += 1
                if container.format.name == "avi":
                    place = packet.dts + 1  # the unit of time is a frame
            for frame in packet.decode():
                if frame.is_corrupt or packet.is_corrupt:
                    raise Unusable("truncated or damaged")
                yield _picture_of_frame(frame)
        # stream.frames is 0 where the file does not state them.
        if max(packets, place) < stream.frames or frame is None:
            raise Unusable("truncated or damaged")


def _picture_of_frame(frame: av.VideoFrame) -> Picture:
    """A frame of a clip, turned as its metadata say; raises :class:`Unusable` for mirrored ones."""
    matrix = np.eye(3)
    if "DISPLAYMATRIX" in frame.side_data:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32).reshape(3, 3) / 2**16
    turns = QUARTER_TURNS.get(tuple(matrix[:2, :2].ravel().round(2)))
    if turns is None:
        raise not_read("a clip that is shown mirrored, or turned by less than a quarter")
    has_alpha = any(component.is_alpha for component in frame.format.components)

    def rgb() -> np.ndarray:
        with explained_as_unusable():
            # One thread: `dfnb prepare` has a process per processor.
            pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", threads=1)
            pixels = opaque(pixels) if has_alpha else pixels
            return np.ascontiguousarray(np.rot90(pixels, turns))

    sides = (frame.height, frame.width) if turns % 2 == 0 else (frame.width, frame.height)
    return Picture((*sides, 3), rgb)
