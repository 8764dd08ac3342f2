"""Decodes videos and images into the pictures that a viewer shows: upright, with square pixels.

Pillow decodes pictures, and FFmpeg (PyAV) clips. What is not plain is refused, see
:mod:`facesets.pictures`.
"""

import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from PIL import Image

from facesets.pictures import (
    QUARTER_TURNS,
    SAVE,
    Unusable,
    check_plain,
    opaque,
    plain_rgb,
)

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
# Safety: without these lists FFmpeg opens text files as ANSI art, and playlists fetch other hosts.
OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,gif,flv,"
    "asf,ogg,mxf,h264,hevc,m4v,dv,ivf,yuv4mpegpipe",
    "protocol_whitelist": "file",
}


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


def decode(file: Path, wanted: Container[int] | None = None) -> Iterator[np.ndarray | None]:
    """Yield the frames (H, W, 3) uint8 RGB of a clip; an image is a clip of one frame.

    In place of a frame whose number is not among the ``wanted``, None is yielded: to make its
    pixels takes as long as to decode it. Without ``wanted``, all are.

    Raises :class:`Unusable` where the file is damaged or cut off, has no frame, is transparent, or
    is not on the list of what is read. MPEG, WebM and GIF do not state their number of frames: if
    they are cut off between two frames, this goes unnoticed.
    """
    if IMAGE.fullmatch(file.name):
        yield read_image(file)
    elif CLIP.fullmatch(file.name):
        with explained_as_unusable():
            for number, frame in enumerate(_frames_of_clip(file)):
                turns = _quarter_turns(frame)
                is_wanted = wanted is None or number in wanted
                yield _rgb_of_frame(frame, turns) if is_wanted else None
    else:
        raise Unusable(f"a file {file.suffix}; {SAVE}")


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


def read_image(file: Path) -> np.ndarray:
    """Read an image (H, W, 3) uint8 RGB, turned as its EXIF data say; raises as :func:`decode`."""
    with explained_as_unusable(), Image.open(file, formats=IMAGE_FORMATS) as image:
        if image.format == "PNG":
            check_plain("a picture", _colours_of_png(file))
        return plain_rgb(image, SAVE)


def _colours_of_png(file: Path) -> dict[str, str]:
    """The primaries and the curve of a PNG's chunk cICP, which Pillow does not read; or nothing.

    FFmpeg writes it into the frames of an HDR clip, of which 8 bits may be left.
    """
    with file.open("rb") as stream:
        stream.seek(8)  # the signature
        while len(header := stream.read(8)) == 8 and header[4:] != b"IDAT":
            content = stream.read(int.from_bytes(header[:4]))
            if header[4:] == b"cICP":
                primaries, curve = ColorPrimaries(content[0]), ColorTrc(content[1])
                return {"primaries": primaries.name, "transfer curve": curve.name}
            stream.seek(4, os.SEEK_CUR)  # its checksum
    return {}


# ---------------------------------------------------------------- clips


def open_video(file: Path) -> av.container.InputContainer:
    """Open a video, whose format must be one of :data:`OPEN_OPTIONS`; raises what FFmpeg raises."""
    # Absolute, because FFmpeg would take the "a:" of a relative path a:b.mp4 for a protocol.
    return av.open(file.resolve(), options=OPEN_OPTIONS)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The pictures of a file, rather than its cover; raises :class:`Unusable` where it has none."""
    stream = container.streams.best("video")
    if stream is None:
        raise Unusable(f"it has no picture, only sound; {SAVE}")
    return stream


def _frames_of_clip(file: Path) -> Iterator[av.VideoFrame]:
    """The frames of a file that FFmpeg decodes; raises :class:`Unusable`, and what FFmpeg does."""
    with open_video(file) as container:
        stream = _video_stream(container)
        stream.codec_context.thread_type = "NONE"  # several videos are decoded in parallel instead
        aspect = stream.sample_aspect_ratio or 1
        is_square = 0.99 <= float(aspect) <= 1.01  # FFmpeg, too, rounds so
        check_plain("a clip", {"pixel aspect": "square" if is_square else str(aspect)})
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
                yield frame
        # stream.frames is 0 where the file does not state them.
        if max(packets, place) < stream.frames or frame is None:
            raise Unusable("truncated or damaged")


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How often numpy.rot90 turns a frame to show it as its metadata say.

    Raises :class:`Unusable` where it is not plain.
    """
    matrix = np.eye(3)
    if "DISPLAYMATRIX" in frame.side_data:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32).reshape(3, 3) / 2**16
    orientation = tuple(matrix[:2, :2].ravel().round(2).tolist())
    attributes = {
        "orientation": orientation,
        "transfer curve": ColorTrc(frame.color_trc).name,
        "primaries": ColorPrimaries(frame.color_primaries).name,
        "scan": "interlaced" if frame.interlaced_frame else "progressive",
    }
    check_plain("a clip", attributes)
    return QUARTER_TURNS[orientation]


def _rgb_of_frame(frame: av.VideoFrame, turns: int) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of a frame, turned; raises :class:`Unusable` for transparency."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    # One thread: `dfnb prepare` has a process per processor.
    pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", threads=1)
    pixels = opaque(pixels) if has_alpha else pixels
    return np.ascontiguousarray(np.rot90(pixels, turns))
