"""Decoding of videos and images into upright RGB frames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# Safety: without these lists FFmpeg opens text files as ANSI art, and playlists fetch other hosts.
OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,"
    "asf,ogg,mxf,h264,hevc,m4v",
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
    """An upright frame of a video. It becomes RGB on demand: that takes as long as decoding."""

    shape: tuple[int, ...]  # (H, W, 3)
    rgb: Callable[[], np.ndarray]  # (H, W, 3) uint8; raises Unusable where it cannot be converted


def decode(file: Path) -> Iterator[Picture]:
    """Yield the frames of a video, upright; an image is a video of one frame.

    Raises :class:`Unusable` where the file is damaged or cut off, or has no frame. MPEG, WebM and
    GIF do not state their number of frames: if they are cut off between two frames, this goes
    unnoticed.
    """
    if file.suffix.lower() in IMAGES:
        image = read_image(file)
        yield Picture(image.shape, lambda: image)
        return
    with explained_as_unusable(), open_video(file) as container:
        if not container.streams.video:
            raise Unusable("it has no picture, only sound")
        stream = container.streams.video[0]
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
                yield picture(frame)
        # stream.frames is 0 where the file does not state them.
        if packets < stream.frames or frame is None:
            raise Unusable("truncated or damaged")


def open_video(file: Path) -> av.container.InputContainer:
    """Open a video, whose format must be one of :data:`OPEN_OPTIONS`; raises what FFmpeg raises."""
    # Absolute, because FFmpeg would take the "a:" of a relative path a:b.mp4 for a protocol.
    return av.open(file.resolve(), options=OPEN_OPTIONS)


def picture(frame: av.VideoFrame) -> Picture:
    """A frame as a :class:`Picture`, turned counter-clockwise as its metadata say."""
    quarter_turns = frame.rotation // 90
    height, width = frame.height, frame.width
    if quarter_turns % 2:
        height, width = width, height

    def rgb() -> np.ndarray:
        with explained_as_unusable():
            # One thread: `dfnb prepare` has a process per processor.
            return np.rot90(frame.to_ndarray(format="rgb24", threads=1), quarter_turns)

    return Picture((height, width, 3), rgb)


def guess_length(file: Path) -> int:
    """About how many frames :func:`decode` yields, in a ninth of its time: packets are counted.

    For nearly all files the guess is right. It is wrong, for example, for a clip that was cut out
    of a stream, whose first packets need earlier ones. A damaged file raises nothing: its packets
    count up to the damage, which :func:`decode` will report.
    """
    if file.suffix.lower() in IMAGES:
        return 1
    packets = 0
    with suppress(*DAMAGED), open_video(file) as container:
        # The last packet is empty, and an edit list marks the packets that it hides.
        for packet in container.demux(container.streams.video[0]):
            packets += bool(packet.size and not packet.is_discard)
    return packets


def read_image(file: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 RGB, turned upright as its EXIF data say.

    Raises :class:`Unusable` where the file is no image, or truncated, or a decompression bomb.
    """
    with explained_as_unusable(), Image.open(file) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@contextmanager
def explained_as_unusable() -> Iterator[None]:
    """Turn what FFmpeg and Pillow raise about a file into :class:`Unusable`."""
    try:
        yield
    except FileNotFoundError:
        raise Unusable("there is no such file") from None
    except PermissionError:
        raise Unusable("may not be read") from None
    except DAMAGED:
        raise Unusable("not a video or image, or truncated or damaged") from None
