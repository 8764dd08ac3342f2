"""Forgeries of portraits along the mesh of a face, with exact masks.

Four methods work in the manner of FaceForensics++. Rössler et al. (FaceForensics++, ICCV 2019,
section 3) forge videos by two swaps of the face (FaceSwap, Deepfakes) and two transfers of an
expression (Face2Face, NeuralTextures). The methods here imitate these on one photograph at its own
resolution, hence "-like" in their names. A photograph has no neutral face beside it: what is
transferred as an expression is in part the shape of another person's features.

Four more, with the swaps, make up the three tasks of the paper LAE: face swap, inpainting
(``inpainted``, ``mirrored``) and attribute (``recoloured``, ``aged``).

What a method makes is filmed like the original photograph, with the same camera's noise, and
delivered alike. As it is one still that is moved, nothing flickers from frame to frame.

Each method has a region of its own: most of the face, or a feature. It can forge a :class:`Part` of
the face instead. A constant map finds regions that all lie in the middle of the frame; it does not
find parts, so that a network must look at the pixels to locate these.

Images are (H, W, 3) float32 RGB in [0, 1]. A mesh (468, 2) has the points of
MediaPipe's face mesh, x and y in pixels. Right and left are the person's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import scipy  # loads scipy.interpolate where it is used first: the few forgeries from photographs
from numpy.random import Generator

from facesets.camera import Array, PositiveSpan, Span, resolved, to_bytes
from facesets.checks import Closed

VISIBLE = 0.05  # a pixel counts as forged where the opacity is above this
# Points of MediaPipe's mesh.
OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377]
OVAL += [152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
BELOW_BROWS = OVAL[7:30]  # of the oval, from the left ear over the chin to the right ear
BELOW_NOSE = OVAL[10:27]  # a shorter part, which begins and ends below the ears
# Of the lips the outer rim only. The spline moves what is inside: in a closed mouth these points
# nearly coincide, and displacements of their own would tear it. So a closed mouth stays closed.
LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
RIGHT_EYE = [33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246]
LEFT_EYE = [263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466]
RIGHT_BROW = [46, 53, 52, 65, 55, 70, 63, 105, 66, 107]
LEFT_BROW = [276, 283, 282, 295, 285, 300, 293, 334, 296, 336]
NOSE = [1, 2, 98, 327, 168, 6, 197, 195, 5, 4]  # first its lower end: tip, base, wings
FEATURES = [LIPS, RIGHT_EYE, LEFT_EYE, RIGHT_BROW, LEFT_BROW]
EYE_CORNERS = [33, 133, 362, 263]
# The inner rim of the lips, around teeth and tongue.
MOUTH = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
# The mesh is symmetric. 28 points lie on the midline. The points of the right half have the other
# numbers below 248; in the same order, their mates on the left have the numbers from 248 on. On the
# mean of 182 aligned meshes, reflecting them gives the same pairs, but for two pairs of points near
# the ears that all but coincide.
MIDLINE = [0, 1, 2, *range(4, 7), *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200]
RIGHT_HALF = np.setdiff1d(np.arange(248), MIDLINE)
MIRROR = np.arange(468)  # by a point's number that of its mate; a point of the midline is its own
MIRROR[RIGHT_HALF] = np.arange(248, 468)
MIRROR[248:] = RIGHT_HALF
RING = 1.75  # size of a ring of points that ties the face to what is around it; 1: the oval
KEPT_SHIFT = 0.3  # the share of a feature's mean displacement that an expression keeps
ENLARGED = (1.15, 1.5)  # range of Part.enlarged
# Colours in L*a*b* that are added: to lips, and to a complexion (or subtracted from it).
LIPSTICK = np.float32([-6, 22, 4])
TAN = np.float32([-10, 1, 4])
SKIN_CONTRAST = 0.12  # differences of colour up to about this count as skin texture, not as an edge
GENERATED_FACE = 64  # a generated face is this many pixels wide, times Forgery.low_resolution


class Forgery(Closed):
    """How well forgeries are made; each draws its value from each span that its method uses."""

    blend: Literal["alpha", "poisson"] = "alpha"  # of PASTED; mirrored always is "poisson"
    feather: PositiveSpan = (0.05, 0.15)  # width of the blended rim, share of the region's radius
    cast: Span = (0.04, 0.08)  # relative error of each channel of the matched colours, of PASTED
    low_resolution: PositiveSpan = (0.55, 0.75)  # of generated images, as a share of GENERATED_FACE
    # Standard deviation of a blur, in parts of the face's width: there are GENERATED_FACE of these.
    soften: PositiveSpan = (0.6, 0.9)
    motion: Span = (0.4, 0.6)  # of the point that moves most, in halves of the eyes' distance


class MeshedFace(NamedTuple):
    """A photograph with the mesh of its face."""

    image: Array
    mesh: Array
    is_grey: bool = False  # if so, its forgeries are grey, too

    @property
    def width(self) -> float:
        """The width of the face's oval in pixels."""
        return float(np.ptp(self.mesh[OVAL], axis=0)[0])


# Parts of a face. Those beside the midline are on the right here, see Part.
PARTS = {
    "lips": LIPS,
    "brow": RIGHT_BROW,
    "eye": RIGHT_EYE + RIGHT_BROW,
    "both eyes": RIGHT_EYE + RIGHT_BROW + LEFT_EYE + LEFT_BROW,
    "nose": [168, 2, 48, 64, 278, 294],  # bridge, base, wings
    "cheek": [117, 118, 101, 36, 205, 207, 187],
    "chin": [149, 176, 148, 152, 377, 400, 378, 201, 200, 421],
    "forehead": [103, 67, 109, 10, 338, 297, 332, 104, 69, 108, 151, 337, 299, 333],
    "lower half": BELOW_NOSE + NOSE[:4],
    "half": [10, *OVAL[18:], 168, 1],
}
HOLES = ("brow", "cheek", "chin", "forehead")  # a face without one of these is still a face


class Part(NamedTuple):
    """A part of a face, whatever the method that forges it: the hull of some points, enlarged."""

    name: str  # one of PARTS
    on_left: bool  # whether it is the mirror image of that
    enlarged: float  # a factor of its size; what lies beyond the face's oval is cut off

    @property
    def points(self) -> list[int]:
        """Its points in the mesh."""
        points = PARTS[self.name]
        return MIRROR[points].tolist() if self.on_left else points


def drawn_part(draw: Generator, names: Sequence[str] = tuple(PARTS)) -> Part:
    """One of some PARTS, on either side of the face with equal chances."""
    name = names[draw.integers(len(names))]
    return Part(name, bool(draw.random() < 0.5), draw.uniform(*ENLARGED))


# What a method returns: an image in place of the target's, and the forged region (H, W) uint8, 1
# inside.
Forged = tuple[Array, Array]


def forge(
    method: str,
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None = None,
) -> tuple[Array, Array]:
    """Forge a photograph.

    Args:
        method: One of :data:`METHODS`.
        target: The photograph to forge.
        donor: Whose face or expression is used.
        forgery: The settings.
        draw: The random stream.
        part: The part of the face to forge; None: the method's own region. ``inpainted`` only
            forges HOLES: it takes another part for None.

    Returns:
        The forged photograph, and the opacity (H, W) of the forgery, 0 to 1. Where the opacity is
        0, the photograph equals the target bit for bit.
    """
    if part and method == "inpainted" and part.name not in HOLES:
        part = None
    image, region = METHODS[method](target, donor, forgery, draw, part)
    if part is not None:
        region = _region(target, part)
    inside = _off_edge(region, target.width)
    if not inside.any():  # the photograph ends above the chin, say: the rest of the face is forged
        inside = _off_edge(_filled(target, _hull(target, OVAL)), target.width)
    feather = draw.uniform(*forgery.feather)
    opacity = _opacity(inside, feather)
    if method == "mirrored":  # the light comes from the other side: other blends leave a seam
        forgery = forgery.model_copy(update={"blend": "poisson"})
    if method in PASTED:  # the others are not matched in colour
        image, opacity = _blended(image, target.image, opacity, forgery, draw)
        if target.is_grey:
            image = _grey(image)
    opacity = np.where(opacity > VISIBLE, opacity, 0)[..., None]
    forged = np.clip(target.image + opacity * (image - target.image), 0, 1)
    return forged.astype(np.float32), opacity[..., 0]


# ---------------------------------------------------------------- methods


def face_swap(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """The donor's texture on the target's mesh, from the brows to the chin (as FaceSwap)."""
    hull = _hull(target, BELOW_BROWS + RIGHT_BROW + LEFT_BROW)
    scale = 1 - draw.uniform(0, 0.06)  # our choice: outlines of forgeries differ by a few pixels
    middle = hull.mean(axis=0)
    outline = middle + scale * (hull - middle)
    return _rendered(donor, target), _filled(target, outline)


def deepfakes(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """The donor's face, generated at a low resolution, in a rectangle (as Deepfakes).

    The rectangle is rolled like the head, give or take 8 degrees. It is cut at the face's oval:
    beyond it the donor's hair would give the swap away.
    """
    generated = _generated(_rendered(donor, target), target, forgery, draw)
    width = target.width * draw.uniform(0.72, 0.84)
    height = target.width * draw.uniform(0.84, 1.0)
    eyes = target.mesh[EYE_CORNERS]
    middle = (eyes.mean(axis=0) + target.mesh[LIPS].mean(axis=0)) / 2
    right, down = eyes[3] - eyes[0]  # from the right eye's outer corner to the left one's
    angle = math.degrees(math.atan2(down, right)) + draw.uniform(-8, 8)
    rectangle = cv2.boxPoints((middle.tolist(), (width, height), angle))
    oval = _hull(target, OVAL)
    _, outline = cv2.intersectConvexConvex(rectangle, oval)  # (n, 1, 2)
    return generated, _filled(target, outline)


def face_to_face(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """The target's whole face with the donor's expression (as Face2Face).

    Like a rendered face, it is less sharp than the photograph: generated at a low resolution.
    """
    mesh = _with_expression(target, donor, forgery, FEATURES)
    generated = _generated(_moved_to(target, mesh), target, forgery, draw)
    return generated, _filled(target, _hull(target, OVAL))


def neural_textures(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """The target's lower face with the donor's mouth, generated (as NeuralTextures).

    In a part of the face with other features, these are the donor's instead of the mouth.
    """
    in_part = [feature for feature in FEATURES if part and {*feature} <= {*part.points}]
    mesh = _with_expression(target, donor, forgery, in_part or [LIPS])
    generated = _generated(_moved_to(target, mesh), target, forgery, draw)
    return generated, _filled(target, _hull(target, BELOW_NOSE + NOSE[:4]))


def inpainted(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """A feature's hull, filled from its rim at a low resolution, so that the feature is gone.

    It is filled by Telea's method (2004), in place of a network for inpainting.
    """
    hole = _region(target, part or drawn_part(draw, names=HOLES))
    filled = cv2.inpaint(to_bytes(target.image), hole, 3, cv2.INPAINT_TELEA)  # from 3 pixels away
    return _generated(np.float32(filled / 255), target, forgery, draw), hole


def mirrored(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """A feature's hull, filled with the other half of the face, mirrored along the mesh.

    It shows a face in full detail, as the best networks for inpainting do: light and asymmetries
    alone give it away.
    """
    hole = _region(target, part or drawn_part(draw, names=HOLES))
    shape = target.image.shape[:2]
    return _warped(target.image, target.mesh[MIRROR], target.mesh, shape), hole


def recoloured(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """The lips, or the whole oval, in another colour, generated (as an edit of an attribute)."""
    if part is None and draw.random() < 0.5:
        mouth = _filled(target, target.mesh[MOUTH])
        region = _filled(target, target.mesh[LIPS]) & (1 - mouth)
        change = draw.uniform(0.7, 1.2) * LIPSTICK
    else:
        region = _filled(target, _hull(target, OVAL))
        change = draw.choice([-1, 1]) * draw.uniform(0.7, 1.2) * TAN
    generated = _generated(target.image, target, forgery, draw)
    lab = cv2.cvtColor(generated, cv2.COLOR_RGB2LAB) + np.float32(change)
    image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).clip(0, 1)
    return _grey(image) if target.is_grey else image, region


def aged(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    draw: Generator,
    part: Part | None,
) -> Forged:
    """The face older or younger: fine wrinkles and pores are raised, or smoothed.

    A bilateral filter finds them: it leaves the edges of eyes and lips as they are.
    """
    smooth = cv2.bilateralFilter(target.image, 0, SKIN_CONTRAST, target.width / 40)
    strength = draw.uniform(0.8, 1.4) * draw.choice([-0.7, 1])
    image = target.image + np.float32(strength) * (target.image - smooth)
    return image.clip(0, 1), _filled(target, _hull(target, OVAL))


PASTED = ("FaceSwap-like", "Deepfakes-like", "mirrored")  # in other light than what they replace
Method = Callable[[MeshedFace, MeshedFace, Forgery, Generator, Part | None], Forged]
METHODS: dict[str, Method] = {
    "FaceSwap-like": face_swap,
    "Deepfakes-like": deepfakes,
    "Face2Face-like": face_to_face,
    "NeuralTextures-like": neural_textures,
    "inpainted": inpainted,
    "mirrored": mirrored,
    "recoloured": recoloured,
    "aged": aged,
}


# ---------------------------------------------------------------- meshes and images


def _hull(face: MeshedFace, points: list[int]) -> Array:
    """The convex hull (n, 2) of some points of the mesh."""
    return cv2.convexHull(face.mesh[points])[:, 0]


def _filled(face: MeshedFace, outline: Array) -> Array:
    """A polygon (n, 2) or (n, 1, 2) in a photograph as (H, W) uint8, 1 inside and 0 outside."""
    polygon = np.zeros(face.image.shape[:2], np.uint8)
    return cv2.fillPoly(polygon, [outline.round().astype(np.int32)], 1)


def _region(face: MeshedFace, part: Part) -> Array:
    """A part of a face as (H, W) uint8, 1 inside and 0 outside."""
    hull = _hull(face, part.points)
    middle = hull.mean(axis=0)
    enlarged = _filled(face, middle + part.enlarged * (hull - middle))
    return enlarged & _filled(face, _hull(face, OVAL))


def _rendered(source: MeshedFace, target: MeshedFace) -> Array:
    """The source's texture on the target's mesh, in an image of the target's size."""
    return _warped(source.image, source.mesh, target.mesh, target.image.shape[:2])


def _moved_to(face: MeshedFace, new_mesh: Array) -> Array:
    """The face's image, warped so that its mesh becomes ``new_mesh``."""
    return _warped(face.image, face.mesh, new_mesh, face.image.shape[:2])


def _warped(
    image: Array,
    mesh: Array,
    new_mesh: Array,
    shape: tuple[int, int],
) -> Array:
    """The image, warped from its mesh to a new one, in an image of ``shape`` (H, W).

    The map is affine in each triangle of a Delaunay triangulation of the new mesh and its ring.
    Beyond the ring nothing moves.
    """
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    to_source = scipy.interpolate.LinearNDInterpolator(_with_ring(new_mesh), _with_ring(mesh))
    places = to_source(x, y)  # (H, W, 2); NaN beyond the ring
    places = np.where(np.isnan(places), np.stack([x, y], axis=-1), places).astype(np.float32)
    moved = cv2.remap(
        image,
        places,
        None,
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return moved.clip(0, 1)  # a cubic overshoots


def _with_ring(mesh: Array) -> Array:
    """The points (n, 2) of the mesh and of a ring, its oval enlarged :data:`RING` times."""
    oval = mesh[OVAL]
    middle = oval.mean(axis=0)
    return np.vstack([mesh, middle + RING * (oval - middle)])


def _generated(
    image: Array,
    target: MeshedFace,
    forgery: Forgery,
    draw: Generator,
) -> Array:
    """The image as if generated by a network of a low resolution, and blurred.

    The image has the target's size, and its face the target's width.
    """
    # With GENERATED_FACE pixels across the face, the side of one in pixels of the photograph.
    pixel_side = target.width / GENERATED_FACE
    share = min(draw.uniform(*forgery.low_resolution) / pixel_side, 1)  # 1: nothing is reduced
    softness = draw.uniform(*forgery.soften) * pixel_side
    return cv2.GaussianBlur(resolved(image, share), (0, 0), softness)


def _with_expression(
    target: MeshedFace,
    donor: MeshedFace,
    forgery: Forgery,
    features: list[list[int]],
) -> Array:
    """The target's mesh (468, 2) with the donor's expression in ``features``, lists of its points.

    The donor's mesh is aligned with the target's at the eyes' corners and the nose. The points of a
    feature then move towards the donor's. Most of their mean displacement is subtracted, since it
    comes from where the feature lies, not from the expression. The displacements are scaled so that
    the longest lies within ``forgery.motion``, in halves of the distance between the eyes. The oval
    and the nose stay. A thin-plate spline moves the other points.
    """
    stable = EYE_CORNERS + NOSE
    aligned = _aligned(donor.mesh, donor.mesh[stable], target.mesh[stable])
    right = target.mesh[RIGHT_EYE].mean(axis=0)
    left = target.mesh[LEFT_EYE].mean(axis=0)
    half_eye_distance = math.dist(right, left) / 2
    low, high = np.multiply(forgery.motion, half_eye_distance)  # in pixels
    points = [target.mesh[OVAL + NOSE]]
    shifts = [np.zeros((len(OVAL + NOSE), 2))]
    for feature in features:
        shift = aligned[feature] - target.mesh[feature]
        shift -= (1 - KEPT_SHIFT) * shift.mean(axis=0)
        # 1e-6 avoids a division by 0 if both photographs are the same.
        longest = max(np.linalg.norm(shift, axis=1).max(), 1e-6)
        shifts.append(shift * np.clip(longest, low, high) / longest)
        points.append(target.mesh[feature])
    spline = scipy.interpolate.RBFInterpolator(
        np.vstack(points),
        np.vstack(shifts),
        kernel="thin_plate_spline",
    )
    return target.mesh + spline(target.mesh)


def _aligned(
    points: Array,
    here: Array,
    there: Array,
) -> Array:
    """The points (n, 2), moved by the similarity that takes ``here`` (m, 2) nearest to ``there``.

    For points as complex numbers z = x + iy, a similarity is a * z + b; least squares fit a and b.
    """
    z = here @ [1, 1j]
    design = np.column_stack([z, np.ones_like(z)])
    (a, b), *_ = np.linalg.lstsq(design, there @ [1, 1j], rcond=None)
    moved = a * (points @ [1, 1j]) + b
    return np.column_stack([moved.real, moved.imag])


def _opacity(region: Array, feather: float) -> Array:
    """Opacity (H, W) of a region (H, W) uint8: 0 outside, rising from its rim to 1.

    It rises over a share ``feather`` of the radius of a disc with the region's area.
    """
    radius = math.sqrt(region.sum() / math.pi)
    from_rim = cv2.distanceTransform(region, cv2.DIST_L2, maskSize=5)
    ramp = np.clip(from_rim / (feather * radius), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)  # smoothstep: no kink at either end


def _off_edge(region: Array, face_width: float) -> Array:
    """A region (H, W) uint8, cut off before the photograph's edge.

    A film repeats the outermost pixels beside the photograph, so these must be the original's. The
    margin is wider than the blur with which a film reduces the photograph.
    """
    margin = math.ceil(face_width / 16)
    inside = np.zeros_like(region)
    inside[margin:-margin, margin:-margin] = region[margin:-margin, margin:-margin]
    return inside


# ---------------------------------------------------------------- blending


def _blended(
    image: Array,
    target: Array,
    opacity: Array,
    forgery: Forgery,
    draw: Generator,
) -> tuple[Array, Array]:
    """Fit an image to the region of the target that it replaces.

    Each channel gets the target's mean and deviation in the region, and a *cast*: it is multiplied
    by 1 ± an error, since real forgeries match colours imperfectly.

    Args:
        image: (H, W, 3), already in place.
        target: (H, W, 3), the photograph that is forged.
        opacity: (H, W) of the region.
        forgery: The settings.
        draw: The random stream.

    Returns:
        The fitted image, and its opacity. With the blend "alpha" it is the region's; with
        "poisson" it is 1 wherever the region is visible, since cloning blends by itself.
    """
    weight = opacity[..., None] / opacity.sum()  # (H, W, 1), sums to 1
    mean, variance = _moments(image, weight)
    target_mean, target_variance = _moments(target, weight)
    ratio = target_variance / np.maximum(variance, 1e-6)
    gain = np.sqrt(np.clip(ratio, 0.25, 4))  # contrast is halved or doubled at most
    error = draw.uniform(*forgery.cast)
    signs = draw.choice([-1, 1], 3)  # one per channel
    cast = 1 + error * signs
    matched = ((image - mean) * gain + target_mean) * cast
    matched = matched.astype(np.float32)
    if forgery.blend == "alpha":
        return matched, opacity
    return _poisson(matched, target, opacity > VISIBLE)


def _moments(image: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted mean (3,) and variance (3,) of an image's channels; weights (H, W, 1) sum to 1."""
    mean = (weight * image).sum(axis=(0, 1))
    squared = (image - mean) ** 2
    variance = (weight * squared).sum(axis=(0, 1))
    return mean, variance


def _poisson(image: Array, background: Array, region: Array) -> tuple[Array, Array]:
    """The image cloned into a region (H, W) bool of the background by Poisson's equation.

    That keeps the image's gradients and takes the background's colours at the region's rim, so the
    seam has no step. Both images are (H, W, 3) in [0, 1]; OpenCV needs them rounded to bytes.
    """
    mask = region.astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(mask)
    # OpenCV puts the middle of the mask's bounding box at this pixel: the image stays in place. It
    # ignores the frame's outermost pixels, so a region that reaches one edge may move by a pixel;
    # correcting that would change the pixels of datasets.
    middle = (x + width // 2, y + height // 2)
    cloned = cv2.seamlessClone(
        to_bytes(image),
        to_bytes(background),
        mask,
        middle,
        cv2.NORMAL_CLONE,
    )
    cloned = cloned.astype(np.float32) / 255
    return cloned, region.astype(np.float32)


def _grey(image: Array) -> Array:
    """The image (H, W, 3) float32 RGB without its colours."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
