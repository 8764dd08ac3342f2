"""Drawing helpers of the forgeries of :mod:`dfnb.synth` and of Self-Blended Images."""

import numpy as np


def face_axes(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (2, 2) and origin (2,) of face coordinates, in pixels.

    The place (s, t) of a face is the pixel ``axes @ (s, t) + origin``. The eyes lie at (-1, 0) and
    (1, 0), and the middle of the mouth lies at (0, 1).

    Args:
        landmarks: (5, 2) x and y in pixels: right eye, left eye, nose tip, right and left corner
            of the mouth. NaN gives NaN.
    """
    right_eye, left_eye, _, right_corner, left_corner = landmarks.astype(np.float64)
    between_eyes = (right_eye + left_eye) / 2
    mouth = (right_corner + left_corner) / 2
    axes = np.column_stack([(left_eye - right_eye) / 2, mouth - between_eyes])
    return axes, between_eyes


def rounded(image: np.ndarray) -> np.ndarray:
    """An image with values in [0, 255], rounded to uint8."""
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)
