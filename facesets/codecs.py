"""Lossy codecs: frames are encoded and decoded again, so that they show the codec's artefacts."""

import io
import platform
from collections.abc import Iterable, Iterator
from itertools import chain

import cv2
import numpy as np


def h264(frames: np.ndarray, crf: int, repeatable: bool = False) -> np.ndarray:
    """Encode a short clip (n, H, W, 3) uint8 RGB as H.264 and decode it, see :func:`h264_frames`.

    The rate is 3 frames per second, about that of stored frames (every 10th of a synthetic video).
    """
    return np.stack([*h264_frames(frames, crf, 3, repeatable)])


def h264_frames(
    frames: Iterable[np.ndarray], crf: int, rate: int, repeatable: bool = False
) -> Iterator[np.ndarray]:
    """Encode a video as H.264 and decode it again; only its encoded form is in memory as a whole.

    Args:
        frames: At least one frame (H, W, 3) uint8 RGB, all of one size.
        crf: Constant rate factor, 0 (no loss but that of colours at half the resolution) to 51.
        rate: Frames per second. It changes how the encoder spends its bits, and so the pixels.
        repeatable: Whether equal frames are decoded to equal bytes on processors with AVX-512, too.
            The synthetic datasets are encoded without it: it would change their bytes.

    Yields:
        The decoded frames. H.264 needs even sides: of odd ones the last pixel is left out.
    """
    import av  # loads FFmpeg, which only videos need

    frames = iter(frames)
    first = next(frames)
    height, width = (side // 2 * 2 for side in first.shape[:2])
    options = {
        "crf": str(crf),
        "preset": "fast",
        "threads": "1",  # there is one process per core
    }
    if repeatable and platform.machine() in ("x86_64", "AMD64"):
        # libx264's code for AVX-512 gives varying results where it weighs macroblocks by how often
        # others refer to them ("mbtree"). Its code for SSE4.2 does not, but it encodes 2 % of small
        # clips differently.
        options["x264-params"] = "asm=SSE4.2"
    file = io.BytesIO()
    with av.open(file, "w", "matroska") as container:
        stream = container.add_stream("libx264", rate, options)
        stream.height, stream.width = height, width
        for image in chain([first], frames):
            # from_ndarray takes it for RGB by default.
            rgb = av.VideoFrame.from_ndarray(image[:height, :width])
            yuv = rgb.reformat(format="yuv420p", threads=1)
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())  # the frames that the encoder has kept back
    file.seek(0)
    with av.open(file) as container:
        for frame in container.decode():
            yield frame.to_ndarray(format="rgb24", threads=1)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode an image (H, W, 3) uint8 RGB as JPEG and decode it again; quality 1 to 100."""
    file = jpeg_file(image, quality)
    bgr = cv2.imdecode(file, cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def jpeg_file(image: np.ndarray, quality: int) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB as the n bytes of a JPEG file, (n,) uint8; quality 1 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, file = cv2.imencode(".jpg", bgr, options)  # the first value: whether it succeeded
    return file
