"""The detection of faces, and the file of the detector."""

import hashlib

import numpy as np
import pytest
from clips import LANDMARKS, RED, Blobs
from server import serving

from facesets import faces
from facesets.checks import DfnbError
from facesets.faces import detect

# ---------------------------------------------------------------- detecting


def test_a_face_is_in_pixels_of_the_image_and_not_of_the_smaller_one_that_the_detector_sees():
    image = np.full((1200, 1600, 3), 90, np.uint8)
    image[300:700, 500:900] = RED
    (face,) = detect(image, 390, Blobs())
    box = [face.left, face.top, face.width, face.height]
    np.testing.assert_allclose(box, [500, 300, 400, 400], atol=5)
    np.testing.assert_allclose(face.landmarks, [500, 300] + 400 * LANDMARKS, atol=5)
    assert detect(image, 410, Blobs()) == []


def test_only_an_image_without_a_face_is_looked_at_again_at_full_size():
    class Counted(Blobs):
        def __init__(self):
            self.sizes = []

        def __call__(self, image):
            self.sizes.append(image.shape[1])
            return super().__call__(image)

    image = np.full((1200, 1600, 3), 90, np.uint8)
    image[300:312, 500:512] = RED  # 5 pixels when smaller: Blobs overlooks them
    detector = Counted()
    (face,) = detect(image, 10, detector)
    np.testing.assert_allclose(face[:4], [500, 300, 12, 12])
    assert detector.sizes == [640, 1600]
    image[600:900, 500:800] = RED
    assert len(detect(image, 10, detector)) == 1 and detector.sizes == [640, 1600, 640]
    assert detect(image[:300, :400], 10, detector) == []
    assert detector.sizes == [640, 1600, 640, 400]


# ---------------------------------------------------------------- the detector's file


def test_the_detector_is_fetched_or_its_place_is_named(tmp_path, monkeypatch):
    path = tmp_path / "models" / "weights.onnx"
    monkeypatch.setenv("DFNB_DETECTOR", str(path))
    with serving() as server:
        monkeypatch.setattr(faces, "YUNET_URL", f"{server.url}/weights.onnx")
        with pytest.raises(DfnbError, match=rf"404 .* get it by hand and put it at {path}"):
            faces.detector_path()
        server.files["/weights.onnx"] = b"weights"
        with pytest.raises(DfnbError, match="does not match the known hash"):
            faces.detector_path()
        assert not list(path.parent.iterdir())
        monkeypatch.setattr(faces, "YUNET_SHA256", hashlib.sha256(b"weights").hexdigest())
        assert faces.detector_path().read_bytes() == b"weights"
    path.write_bytes(b"other")
    with pytest.raises(DfnbError, match=r"another file than expected .* move it away"):
        faces.detector_path()
