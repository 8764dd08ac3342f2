"""Forgeries along the mesh of a face: their masks are exact, and parts of the face are forged too.

The mesh is that of a generated portrait which looks straight ahead, ``female-86`` of
faker-js/assets-person-portrait (CC0), as :func:`facesets.faces.face_mesh` finds it in a crop of 384
pixels around the face. Its points and the five landmarks are stored in 16ths of a pixel. The
photograph is painted along the mesh, so no network is needed.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesets import forge as forging
from facesets.casts import Person
from facesets.films import Take
from facesets.forge import HOLES, METHODS, MIRROR, PARTS, Forgery, MeshedFace, Part, forge
from facesets.portraits import Portrait
from facesets.seeds import rng
from facesets.settings import Settings

STORED = np.load(Path(__file__).parent / "support/mesh.npz")
MESH, LANDMARKS = (np.float32(STORED[name] / 16) for name in ("mesh", "landmarks"))
FORGERY = Forgery(feather=(0.1, 0.1))  # fixed: the masks of two methods can be compared
FRECKLE = 425  # a point of the mesh on the left cheek
SKIN = (0.8, 0.6, 0.5)


def photograph(mesh=MESH, seed="photograph"):
    """A photograph (384, 384, 3) of a face that is lit from one side, with a fine texture."""
    image = np.full((384, 384, 3), (0.3, 0.5, 0.3), np.float32)
    features = [(forging.OVAL, SKIN), (forging.LIPS, (0.6, 0.3, 0.3))]
    for eye in (forging.RIGHT_EYE, forging.LEFT_EYE):
        features.append((eye, (0.9, 0.9, 0.9)))
    for brow in (forging.RIGHT_BROW, forging.LEFT_BROW):
        features.append((brow, (0.2, 0.15, 0.1)))
    for points, colour in features:
        cv2.fillConvexPoly(image, cv2.convexHull(np.int32(mesh[points])), colour)
    cv2.circle(image, np.int32(mesh[FRECKLE]).tolist(), 6, (0.3, 0.2, 0.2), -1)
    light = np.linspace(0.8, 1.1, 384, dtype=np.float32)[:, None]
    texture = rng(seed).normal(0, 0.02, (384, 384, 1)).astype(np.float32)
    return (cv2.GaussianBlur(image, (0, 0), 2) * light + texture).clip(0, 1)


TARGET = MeshedFace(photograph(), MESH)
# A larger, tilted face with a wider mouth.
ROTATION = cv2.getRotationMatrix2D((192, 192), 8, 1.15)
DONOR_MESH = cv2.transform(MESH[None], ROTATION)[0]
DONOR_MESH[forging.LIPS] += 0.2 * (DONOR_MESH[forging.LIPS] - DONOR_MESH[13])
DONOR = MeshedFace(photograph(DONOR_MESH, "donor"), DONOR_MESH)


def forged(method, part=None, target=TARGET):
    """The forged photograph, and the opacity of the forgery."""
    return forge(method, target, DONOR, FORGERY, rng("forged"), part)


def hull_of(points):
    """The convex hull of some points, filled, and a pixel wider, (384, 384) bool."""
    filled = np.zeros((384, 384), np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(np.int32(np.round(points))), 1)
    return cv2.dilate(filled, np.ones((3, 3))) > 0


# ---------------------------------------------------------------- the mesh


def test_each_point_of_one_half_has_its_mate_in_the_other():
    assert (MIRROR[MIRROR] == np.arange(468)).all()
    assert np.flatnonzero(np.arange(468) == MIRROR).tolist() == forging.MIDLINE
    assert MIRROR[forging.RIGHT_EYE].tolist() == forging.LEFT_EYE
    assert MIRROR[forging.RIGHT_BROW].tolist() == forging.LEFT_BROW
    assert {*MIRROR[forging.MOUTH]} == {*forging.MOUTH}
    # A face that looks straight ahead, and its reflection: the mates coincide.
    reflected = MESH[MIRROR] * (-1, 1)
    fitted = forging._aligned(reflected, reflected, MESH)
    eye_distance = np.linalg.norm(LANDMARKS[1] - LANDMARKS[0])
    assert np.linalg.norm(fitted - MESH, axis=1).max() < 0.02 * eye_distance


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("method", METHODS)
def test_a_photograph_is_forged_inside_the_mask_alone(method):
    for part in (None, *(Part(name, False, 1.3) for name in PARTS)):
        image, opacity = forged(method, part)
        differs = (image != TARGET.image).any(axis=-1)
        assert not differs[opacity == 0].any()
        assert (
            differs[opacity > 0.5].mean() > 0.9
        )  # pasted or filled colours may be equal by chance
        assert not differs[~hull_of(MESH[forging.OVAL])].any()


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("on_left", [False, True])
def test_all_methods_forge_the_same_part(name, on_left):
    part = Part(name, on_left, 1.2)
    hull = cv2.convexHull(MESH[part.points])[:, 0]
    expected = hull_of(hull.mean(axis=0) + 1.2 * (hull - hull.mean(axis=0)))
    masks = []
    for method in METHODS:
        if method != "inpainted" or name in HOLES:
            mask = forged(method, part)[1] > 0
            assert mask.any() and not (mask & ~expected).any()
            masks.append(mask)
    assert all((mask == masks[0]).all() for mask in masks)


def test_parts_beside_the_midline_lie_on_the_side_that_was_drawn():
    for name in ("brow", "eye", "cheek", "half"):
        right, left = (forged("aged", Part(name, on_left, 1.15))[1] > 0 for on_left in (0, 1))
        middle_of = [np.argwhere(mask)[:, 1].mean() for mask in (right, left)]
        assert middle_of[0] < MESH[168, 0] < middle_of[1]  # 168: between the eyes


@pytest.mark.parametrize("method", METHODS)
def test_where_the_photograph_ends_above_the_part_the_rest_of_the_face_is_forged(method):
    height = int(MESH[17, 1])  # the lower lip
    cut = MeshedFace(TARGET.image[:height], MESH)
    image, opacity = forged(method, Part("chin", False, 1.2), cut)
    assert np.isfinite(image).all() and opacity.any()
    assert (image[-1] == cut.image[-1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_grey_photograph_stays_grey(method):
    grey = np.repeat(TARGET.image.mean(axis=-1, keepdims=True), 3, axis=-1)
    for part in (None, Part("forehead", False, 1.3)):
        image, opacity = forged(method, part, MeshedFace(grey, MESH, is_grey=True))
        assert opacity.any() and np.ptp(image, axis=-1).max() < 1e-4


# ---------------------------------------------------------------- methods


def test_a_brow_that_is_filled_is_gone():
    image, opacity = forged("inpainted", Part("brow", False, 1.5))
    brow = hull_of(MESH[forging.RIGHT_BROW]) & (opacity > 0.9)
    assert TARGET.image[brow].mean() < 0.45 and image[brow].mean() > 0.5


def test_a_freckle_is_mirrored_to_the_other_cheek():
    image, _ = forged("mirrored", Part("cheek", False, 1.3))

    def darkness(picture, point):
        """How much darker a point of the mesh is than its surroundings."""
        x, y = np.int32(MESH[point])
        return picture[y - 12 : y + 13, x - 12 : x + 13].mean() - picture[y, x].mean()

    here, there = MIRROR[FRECKLE], FRECKLE
    assert darkness(TARGET.image, here) < 0.1 * darkness(TARGET.image, there)
    # Its contrast is matched to that of a cheek without a freckle, and at most halved.
    assert darkness(image, here) > 0.25 * darkness(image, there)


def test_lips_are_recoloured_without_the_mouth():
    for seed in range(20):
        image, opacity = forge("recoloured", TARGET, DONOR, FORGERY, rng("lips", seed))
        if not (opacity > 0)[~hull_of(MESH[forging.LIPS])].any():  # else it is the skin
            break
    change = (image - TARGET.image)[opacity > 0.5].mean(axis=0)
    assert change[0] > 0.02 > change[1]  # redder, not greener
    mouth = np.zeros((384, 384), np.uint8)
    cv2.fillPoly(mouth, [np.int32(np.round(MESH[forging.MOUTH]))], 1)
    assert mouth.any() and not opacity[mouth > 0].any()


def test_wrinkles_are_raised_or_smoothed():
    ratios = []
    for seed in range(8):
        image, opacity = forge("aged", TARGET, DONOR, FORGERY, rng("aged", seed))
        of = [picture - cv2.GaussianBlur(picture, (0, 0), 2) for picture in (image, TARGET.image)]
        skin = (opacity > 0.9) & hull_of(MESH[PARTS["forehead"]])
        ratios.append(of[0][skin].std() / of[1][skin].std())
    assert min(ratios) < 0.7 and max(ratios) > 1.4


# ---------------------------------------------------------------- videos


@pytest.fixture
def take(tmp_path):
    """A function: film ``number`` of the first of two people, forged in turn or by all methods."""
    persons = []
    for number, face in enumerate((TARGET, DONOR)):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), cv2.cvtColor(np.uint8(255 * face.image), cv2.COLOR_RGB2BGR))
        landmarks = LANDMARKS if face is TARGET else cv2.transform(LANDMARKS[None], ROTATION)[0]
        looks = np.zeros(256), np.zeros(768)
        portrait = Portrait(str(path), landmarks, face.mesh, 128.0, *looks)
        persons.append(Person(number, "test", -128.0, (portrait,), "", 1 - number, "0_1"))

    def of(number, **changes):
        fixed = {"portraits": "painted", "identities": {"test": 2}, "frames": 1, "forgery": FORGERY}
        settings = Settings(**{**fixed, "methods": ("Face2Face-like",), **changes})
        return Take("mine", *persons, number, settings)

    return of


def test_a_part_is_drawn_per_video_for_all_methods_alike(take):
    # What is cloned, by "mirrored", is opaque up to its rim, and so its mask a little larger.
    methods = tuple(method for method in METHODS if method not in ("inpainted", "mirrored"))
    masks = []
    for number in range(8):
        _, *fakes = take(number, parts=1, methods=methods, people_of="another").videos()
        assert len(fakes) == 6
        for fake in fakes:
            assert fake.masks.any() and (fake.masks == fakes[0].masks).all()
        masks.append(fakes[0].masks.tobytes())
    assert len({*masks}) == 8


def test_without_parts_nothing_changes(take):
    """A part has a random stream of its own: a film whose whole face is forged keeps its bytes.

    So datasets whose settings do not state ``parts`` keep theirs, and are written as before.
    """
    assert "parts" not in json.loads(take(0).settings.model_dump_json())
    kept = 0
    for number in range(16):
        whole = take(number).videos()[1]
        either = take(number, parts=0.5).videos()[1]
        if (whole.masks == either.masks).all():
            assert (whole.frames == either.frames).all()
            kept += 1
        else:
            assert either.masks.sum() < whole.masks.sum()
    assert 4 <= kept <= 12
