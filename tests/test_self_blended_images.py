"""Self-Blended Images: what the blends are, that their draws decide them, and SAM."""

import cv2
import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from networks import recipe
from PIL import Image

from dfnb.data.loading import FrameDataset, Sample
from dfnb.papers import self_blended_images as sbi
from dfnb.training import train
from facesets import faces
from facesets.checks import DfnbError
from facesets.decode import read_image
from facesets.frames import load_frames, rounded, select
from facesets.seeds import rng

SIDE = 96
FACE = np.float32([[38, 44], [58, 45], [48, 56], [41, 66], [56, 66]])
DRAWS = range(40)


@pytest.fixture(scope="module")
def image():
    """A noisy picture with structure of all sizes."""
    noise = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE, 3)).astype(np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), 1)
    coarse = cv2.GaussianBlur(noise, (0, 0), 4)
    return rounded(128 + 40 * fine + 160 * coarse)


def blended(image, draw, **changes):
    return sbi.self_blended(image, FACE, sbi.Settings(**changes), rng("test", draw))


def pair(image, draw, **changes):
    sample = Sample(image, np.zeros((SIDE, SIDE), bool), FACE, label=0, has_mask=True)
    return sbi.Settings(**changes).samples(sample, rng("test", draw))


def difference(one, other):
    return np.abs(one.astype(float) - other).max(axis=2)


# ---------------------------------------------------------------- source, target and blend


def test_a_blend_differs_from_its_target_inside_the_mask_alone(image):
    largest = []
    for draw in DRAWS:
        target, blend, opacity = blended(image[:60, :83], draw)
        changed = difference(target, blend) > 0
        assert target.shape == blend.shape == (60, 83, 3) and opacity.shape == (60, 83)
        assert opacity.min() == 0 and changed.any() and not changed[opacity == 0].any()
        largest.append(opacity.max())
    assert {round(opacity, 2) for opacity in largest} >= {0.25, 0.5, 0.75, 1.0}


def test_a_blend_is_the_weighted_sum_of_source_and_target(image):
    for draw in range(5):
        # With the geometry alone, the target is the frame and the source the frame moved.
        target, blend, opacity = blended(image, draw, transforms=("geometry",), ratios=(0.5,))
        assert (target == image).all() and opacity.max() <= 0.5
        stream = rng("test", draw)
        stream.random()  # which of the two is transformed
        mask = sbi.soft_mask(FACE, image, sbi.Settings(), stream)
        moved, mask = sbi.displaced(image.astype(np.float32), mask, stream)
        assert (opacity == 0.5 * mask).all()
        weight = opacity[..., None]
        assert difference(blend, weight * moved + (1 - weight) * image).max() <= 0.5 + 1e-3


def test_either_source_or_target_is_the_transformed_one(image):
    frame_is_target = 0
    for draw in DRAWS:
        target, blend, opacity = blended(
            image, draw, transforms=("colour", "frequency"), ratios=(1.0,)
        )
        is_frame = (target == image).all()
        frame_is_target += is_frame
        if not is_frame:  # then the source is the frame
            assert difference(blend, image)[opacity > 0.999].max() <= 1
    assert 8 < frame_is_target < 32


@pytest.mark.parametrize("transform", ["colour", "frequency", "geometry"])
def test_each_transform_makes_a_difference(image, transform):
    changes = []
    for draw in DRAWS:
        target, blend, _ = blended(image, draw, transforms=(transform,))
        changes.append(difference(target, blend).max())
    assert np.mean(np.greater(changes, 0)) > 0.9 and np.median(changes) < 128


@pytest.mark.parametrize("jpeg_probability", [0.0, 1.0])
def test_a_pair_is_a_real_and_a_fake_sample_that_the_draws_decide(image, jpeg_probability):
    for draw in range(8):
        real, fake = pair(image, draw, jpeg_probability=jpeg_probability)
        height, width = real.mask.shape
        assert min(height, width) >= 0.8 * SIDE and real.image.shape == fake.image.shape
        assert (real.landmarks[1] - real.landmarks[0] == FACE[1] - FACE[0]).all()
        assert (real.label, fake.label) == (0, 1) and real.has_mask and fake.has_mask
        assert not real.mask.any() and fake.mask.any() and not fake.mask.all()
        # JPEG stores colours in blocks of 16 pixels.
        is_far = cv2.dilate(fake.mask.astype(np.uint8), np.ones((33, 33))) == 0
        assert (real.image[is_far] == fake.image[is_far]).all()
        _, again = pair(image, draw, jpeg_probability=jpeg_probability)
        _, other = pair(image, draw + 100, jpeg_probability=jpeg_probability)
        assert (fake.image == again.image).all() and not np.array_equal(fake.image, other.image)


@pytest.fixture(scope="module")
def photograph():
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as picture:
        return np.float32(picture.convert("RGB"))[20:400, 60:440]


def test_colours_and_sharpening_have_the_strength_of_the_released_ones(photograph):
    """Measured on images that the released code made: brightness 16.2, sharpening 2 to 3."""
    shifts = []
    for draw in range(100):
        colours = sbi.drawn_colours(rng("colours", draw), 1.0)
        shifts.append((sbi.recoloured(photograph, colours) - photograph).mean())
    assert 14 < np.std(shifts) < 19

    def detail(picture):
        return cv2.Laplacian(picture, cv2.CV_32F).std()

    gains = []
    for draw in range(60):
        if rng("focus", draw).random() < 0.5:  # it is sharpened
            sharp = sbi.sharpened_or_reduced(photograph, (2.0,), rng("focus", draw))
            gains.append(detail(sharp) / detail(photograph))
    assert 2 <= np.median(gains) < 3 and len(gains) > 20


# ---------------------------------------------------------------- the mask


def mask_of(landmarks, draw, deformation=1.2):
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    settings = sbi.Settings(deformation=deformation)
    return sbi.soft_mask(np.float32(landmarks), blank, settings, rng("mask", draw))


def test_masks_cover_the_face_most_with_the_forehead_and_leave_the_rest():
    masks = np.stack([mask_of(FACE, draw) for draw in DRAWS])
    assert masks.min() == 0 and masks.max() <= 1
    assert (masks[:, 56, 48] > 0.9).all() and (masks[:, 66, 48] > 0.9).all()  # nose and mouth
    assert ((masks > 0) & (masks < 0.9)).any(axis=(1, 2)).all()  # soft
    rows, columns = np.nonzero(masks.mean(0) > 0.5)
    assert 8 < rows.min() < 20 and 74 < rows.max() < 90  # the eyes lie at 44, the mouth at 66
    assert 0.6 < (masks[:, 30, 48] > 0.5).mean() < 0.9  # the forehead
    assert columns.min() > 20 and columns.max() < 76
    sizes = (masks > 0.5).mean(axis=(1, 2))
    assert sizes.min() > 0.05 and 1.2 * sizes.min() < sizes.max() < 0.5


def test_a_mask_turns_with_the_face():
    middle = (SIDE - 1) / 2
    quarter_turn = np.float32([[0, 1], [-1, 0]])
    upright = mask_of(FACE, 1, deformation=0)
    lying = mask_of(middle + (FACE - middle) @ quarter_turn, 1, deformation=0)
    np.testing.assert_allclose(np.rot90(upright, -1), lying, atol=0.05)
    assert np.abs(upright - lying).max() > 0.9


UNUSABLE = {
    "unknown": np.full((5, 2), np.nan),
    "one unknown": np.where(np.arange(5)[:, None] == 1, np.nan, FACE),
    "all at one place": np.full((5, 2), 40.0),
    "on a line": np.stack([np.arange(5) * 20.0, np.arange(5) * 20.0], axis=1),
    "outside the image": FACE + 1000,
}


@pytest.mark.usefixtures("detector")
def test_the_hull_of_the_mesh_holds_the_face_however_it_is_turned(samples):
    path = min(samples.glob("portraits/*.jpg"))
    portrait = read_image(path)
    landmarks = faces.detect(portrait, 32, faces.YuNet())[0].landmarks
    for angle in (0, 90, -30):
        height, width = portrait.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 0.8)
        turned = cv2.warpAffine(portrait, matrix, (width, height))
        points = cv2.transform(landmarks[None], matrix)[0]
        inside = sbi.hull(turned, points)
        columns, rows = points.round().astype(int).T
        assert inside[rows, columns].all() and 0.1 < inside.mean() < 0.4


def test_a_mask_covers_the_hull_where_the_settings_say_so(image, monkeypatch):
    corners = np.float32([[30, 30], [66, 30], [66, 80], [30, 80], [48, 50]])
    monkeypatch.setattr(faces, "face_mesh", lambda image, landmarks: corners)
    settings = sbi.Settings(region="hull", deformation=0.0)
    mask = sbi.soft_mask(FACE, image, settings, rng("mask", 0)) > 0.5
    rows, columns = np.nonzero(mask)
    edges = [columns.min(), columns.max(), rows.min(), rows.max()]
    np.testing.assert_allclose(edges, [30, 66, 30, 80], atol=4)


def test_a_mesh_that_cannot_be_had_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_DETECTOR", str(tmp_path / "detector.onnx"))
    monkeypatch.setattr(faces, "MESH_URL", "http://127.0.0.1:9/mesh")  # where nothing listens
    with pytest.raises(DfnbError, match=r"mesh could not be downloaded .* put it at"):
        sbi.Settings(region="hull").fetch()


@pytest.mark.parametrize("landmarks", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_landmarks_are_replaced_by_those_of_an_average_crop(landmarks):
    for draw in range(10):
        mask = mask_of(landmarks, draw)
        assert mask.any() and (mask == mask_of(SIDE * sbi.AVERAGE_FACE, draw)).all()


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_loader_gets_pairs_of_real_frames_alone(home, split):
    settings = sbi.Settings(image_size=64, jpeg_probability=0.0)
    real = settings.visible(select(load_frames("smoke-a"), split), 0, None)
    assert set(real["method"]) == {"real"}
    batch = FrameDataset(real, settings, seed=0, split=split)[[(0, 0, 0)]]
    assert batch["label"].tolist() == [0, 1] and batch["mask"][1].any()
    target, blend = batch["image"]
    assert target.shape == (3, 64, 64) and not torch.equal(target, blend)
    assert torch.equal(*batch["landmarks"])
    is_far = cv2.dilate(batch["mask"][1, 0].numpy(), np.ones((5, 5))) == 0
    assert is_far.any() and torch.equal(target[:, is_far], blend[:, is_far])


def test_a_training_with_sharpness_ends_a_little_elsewhere(home):
    weights = []
    for sharpness in (0.0, 0.05):
        settings = recipe("self_blended_images", images_per_epoch=64, epochs=1, sharpness=sharpness)
        run = train.train(train.make_training("self_blended_images", "smoke-a", settings))
        weights.append(run.network().backbone.fc.weight)
    assert 0 < (weights[0] - weights[1]).abs().max() < 0.01 * weights[0].abs().max()
