"""Drawn clips, in which a red rectangle is a face, and a detector that finds it."""

import av
import cv2
import numpy as np

from facesets.faces import Detection
from facesets.prepare import Settings

RED = (200, 30, 30)
SMALL = Settings(size=64, min_face=16)
LANDMARKS = np.array([(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.8), (0.7, 0.8)])


class Blobs:
    """A detector for drawn clips: what is red is a face."""

    sha256 = "0" * 64

    def __call__(self, image):
        red = (image[..., 2] > 140) & (image[..., 0] < 100)
        boxes = cv2.connectedComponentsWithStats(red.astype(np.uint8))[2][1:]
        faces = []
        for x, y, width, height, area in boxes:
            if area > 60:
                landmarks = LANDMARKS * [width, height] + [x, y]
                faces.append(Detection(x, y, width, height, landmarks, 0.9))
        return faces


def draw(centres, background=90, half=(16, 20)):
    """One frame (120, 160, 3): a grey ramp, and a red rectangle at each centre."""
    ramp = np.linspace(-20, 20, 160) + background
    image = np.broadcast_to(ramp[None, :, None], (120, 160, 3)).astype(np.uint8)
    for x, y in centres:
        corner = (x + half[0] - 1, y + half[1] - 1)
        image = cv2.rectangle(image.copy(), (x - half[0], y - half[1]), corner, RED, -1)
    return image


def moving(n, start=40):
    return [draw([(start + i, 60)]) for i in range(n)]


def write(path, images, codec="libx264", pixels="yuv420p", keyframes=None, aspect=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.bit_rate = 2_000_000
        if aspect:  # the width of a pixel, as its height is 1
            stream.sample_aspect_ratio = aspect
        if keyframes:  # every how many frames, instead of the codec's own choice
            stream.gop_size = keyframes
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def without_first(source, path, dropped, hidden=0):
    """Copy a clip without its first packets; an edit list hides the ``hidden`` next ones."""
    with av.open(str(source)) as clip, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(clip.streams.video[0])
        packets = [packet for packet in clip.demux(video=0) if packet.size]
        for packet in packets[dropped:]:
            # What is shown before time 0 is hidden.
            packet.pts -= hidden * packet.duration
            packet.dts -= hidden * packet.duration
            packet.stream = stream
            container.mux(packet)
    return path
