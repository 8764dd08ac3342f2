"""Lossy codecs: what becomes of frames that are encoded and decoded again."""

import io

import av
import cv2
import numpy as np

# One thread: there is one process per core. Even so, processors with AVX-512 may encode the same
# frames differently: libx264's code for them is not repeatable where it weighs macroblocks by how
# often others refer to them ("mbtree"). That is rare in small clips, and usual in large ones and in
# those of odd sizes. "x264-params": "asm=SSE4.2" ends it, and changes 2 % of the small clips.
X264_OPTIONS = {"preset": "fast", "threads": "1"}


def h264(frames: np.ndarray, crf: int) -> np.ndarray:
    """Encode a video as H.264 and decode it again.

    Args:
        frames: (n, H, W, 3) uint8 RGB. Odd sides are padded while they are encoded.
        crf: Constant rate factor, 0 (lossless) to 51.

    Returns:
        The decoded frames, of the same shape.
    """
    height, width = frames.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    padded = np.pad(frames, padding, "edge")
    buffer = io.BytesIO()
    options = {"crf": str(crf), **X264_OPTIONS}
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", 3, options)
        stream.height, stream.width = padded.shape[1:3]
        for image in padded:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())
    buffer.seek(0)
    decoded = []
    with av.open(buffer) as container:
        for frame in container.decode(video=0):
            decoded.append(frame.to_ndarray(format="rgb24", threads=1))
    return np.stack(decoded)[:, :height, :width]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """An image (H, W, 3) uint8 RGB after OpenCV's JPEG of a quality from 1 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
