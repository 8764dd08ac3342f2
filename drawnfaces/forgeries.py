"""What happens to a filmed video: the camera, manipulations with exact masks, and delivery.

Real and fake frames go the same way: :func:`capture`, for fakes :func:`forge`, in datasets with a
cue :func:`mark`, and :func:`deliver`. (:mod:`~drawnfaces.mesh_forgeries` forges before the camera.)

The *target* is the person, or the frame, that is forged; the *donor* is the person who supplies the
face. Images are (H, W, 3) float32 RGB in [0, 1]. *Face coordinates* (s, t) follow the face: the
eyes are at (-1, 0) and (1, 0), the middle of the mouth is at (0, 1), and s points to the image's
right.

A value that is a ``Span`` is drawn uniformly from it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import Field, PositiveFloat

from drawnfaces.brushes import bump, edge
from drawnfaces.codecs import h264, jpeg
from drawnfaces.people import Array, Ascending, Closed, Shot, Span

VISIBLE = 0.05  # a pixel counts as forged where the opacity is above this
ATTRIBUTE_RESOLUTION = 0.5  # of recolour and retouch, as a share of other methods'
# Share of white noise's variance that is left when its Gaussian blur of 1 pixel is subtracted.
DETAIL_OF_NOISE = 0.75
# Median of the squares of Gaussian noise, divided by their mean, which is the variance.
MEDIAN_OF_CHI_SQUARED = 0.4549
# A Span of values above 0: OpenCV refuses to blur by 0, and a width of 0 divides.
PositiveSpan = Annotated[tuple[PositiveFloat, PositiveFloat], Ascending]
Quality = Annotated[int, Field(ge=0, le=100)]  # of JPEG
# Colours of the two marks.
WARM = np.float32([0.9, 0.5, 0.2])
COLD = np.float32([0.2, 0.5, 0.9])
# Places in face coordinates that a warp pulls, in addition to the corners of the mouth. Right and
# left are the person's.
LOWER_LIP = (0, 1.25)
RIGHT_BROW = (-1, -0.4)
LEFT_BROW = (1, -0.4)


class Crop(Closed):
    """How frames are cropped, as a face detector's boxes vary; a video draws its own values."""

    zoom: PositiveSpan = (1.0, 1.0)  # of the head, as a factor of its usual size in the frame
    shift: float = Field(0, ge=0, le=0.2)  # largest, in x and in y, as a share of the frame's side


class Camera(Closed):
    """How frames are captured; a video draws its value from each span."""

    resolution: PositiveSpan = (1.0, 1.0)  # share of the frame's side that the camera resolves
    blur: PositiveSpan = (0.3, 0.6)  # standard deviation in pixels
    noise: Span = (0.01, 0.018)  # standard deviation, of images in [0, 1]


class Forgery(Closed):
    """How well forgeries are made; a frame draws its value from each span that its method uses."""

    blend: Literal["alpha", "poisson"] = "alpha"  # of the methods that lay one image over another
    feather: PositiveSpan = (0.05, 0.15)  # width of the blended rim, share of the region's radius
    # Relative error of each channel of the matched colours; for recolour, a channel's whole change.
    cast: Span = (0.04, 0.08)
    # Of generated images, share of the frame's side; in mesh_forgeries, of GENERATED_FACE pixels.
    low_resolution: PositiveSpan = (0.55, 0.75)
    # Standard deviation of the blur of `texture`, in pixels; in mesh_forgeries, in parts of the
    # face's width of which there are GENERATED_FACE.
    soften: PositiveSpan = (0.6, 0.9)
    # Longest displacement of a warp, in face coordinates. Of reshape: by how many pixels the
    # displacement grows per pixel from the region's rim; below 1, so that nothing folds over.
    motion: Span = (0.4, 0.6)
    # Share of the lost fine grain that the region gets back; 1: as much as what it replaces has.
    regrain: Span = (0.3, 0.6)
    # Whether each video's region is drawn from regions.PLACES, for all methods alike, instead of
    # being its method's own; warp ignores it. False is left out of the dataset's identity, as
    # Settings.people_of is.
    anywhere: bool = Field(False, exclude_if=lambda anywhere: not anywhere)


class Delivery(Closed):
    """How frames are delivered, real and forged alike; a video draws its value from each span."""

    white_balance: float = Field(0.05, ge=0, lt=1)  # largest gain or loss of a channel, a share
    contrast: float = Field(0.08, ge=0, lt=1)  # largest gain or loss of contrast, a share
    noise: Span = (0.002, 0.006)  # standard deviation, of images in [0, 1]
    jpeg: Annotated[tuple[Quality, Quality], Ascending] = (55, 85)  # lowest and highest quality
    h264: int | None = Field(None, ge=0, le=51)  # constant rate factor, instead of JPEG


# ---------------------------------------------------------------- camera


def capture(shots: Sequence[Shot], camera: Camera, draw: Generator) -> list[Shot]:
    """A video as the camera records it: at a lower resolution, blurred, and with noise.

    A resolution of 1 reduces nothing. The landmarks stay where they are. A video has one camera:
    all its frames share the resolution, the blur and the noise's deviation, but each has noise of
    its own.
    """
    resolution = draw.uniform(*camera.resolution)
    blur = draw.uniform(*camera.blur)
    noise = draw.uniform(*camera.noise)
    captured = []
    for shot in shots:
        image = resolved(shot.image, resolution)
        image = cv2.GaussianBlur(image, (0, 0), blur)
        grain = _grain(image, draw).astype(np.float32)
        image = np.clip(image + noise * grain, 0, 1)
        captured.append(Shot(image, shot.landmarks))
    return captured


def _grain(image: Array, draw: Generator) -> Array:
    """Gaussian noise of variance 1 in the image's shape (H, W, 3), mostly grey, as a camera's."""
    height, width, _ = image.shape
    grey = draw.standard_normal((height, width, 1))
    coloured = draw.standard_normal(image.shape)
    return 0.8 * grey + 0.6 * coloured  # 0.8**2 + 0.6**2 = 1


def resolved(image: Array, share: float) -> Array:
    """The image (H, W, 3), reduced to a ``share`` (0 to 1) of its sides and enlarged again."""
    height, width, _ = image.shape
    small_width = max(round(width * share), 1)
    small_height = max(round(height * share), 1)
    small = cv2.resize(
        image,
        (small_width, small_height),
        interpolation=cv2.INTER_AREA,
    )
    return cv2.resize(
        small,
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )


def to_bytes(image: Array) -> Array:
    """An image with values in [0, 1] as uint8; values beyond are clipped."""
    # astype cuts off the decimals: with a half added before, it rounds.
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def grey(image: Array) -> Array:
    """The image (H, W, 3) float32 RGB without its colours."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


# ---------------------------------------------------------------- regions


class Region(NamedTuple):
    """Where a method forges: a superellipse in face coordinates.

    It is ``|(s - aside) / wide| ** exponent + |(t - middle) / high| ** exponent <= 1``. ``wide``
    is half its width, ``high`` half its height, ``aside`` and ``middle`` are the s and t of its
    centre. In these coordinates (see :func:`_face_axes`) the eyes are at (-1, 0) and (1, 0), and
    the mouth's middle is at (0, 1).
    """

    # The values that a forgery draws, by name, in an order on which all pixels depend. `wide` and
    # `high` are always drawn.
    drawn: dict[str, Span]
    middle: float = 0  # its value if it is not drawn; that of `aside` is 0
    exponent: int = 2  # 2: an ellipse; 4: a box with rounded corners


FACE = Region(
    {
        "wide": (1.75, 2.05),
        "high": (1.1, 1.25),
        "middle": (0.42, 0.52),
    },
)
BOX = Region(
    {
        "wide": (1.6, 1.85),
        "high": (1.0, 1.15),
        "middle": (0.4, 0.5),
    },
    exponent=4,
)
HOLE = Region(  # anywhere in the face
    {
        "aside": (-0.8, 0.8),
        "middle": (0.0, 1.0),
        "wide": (1.0, 1.4),
        "high": (0.7, 1.0),
    },
)
MOUTH = Region(
    {
        "wide": (1.05, 1.3),
        "high": (0.45, 0.6),
    },
    middle=1.03,
)
EYES = Region(
    {
        "wide": (1.8, 2.1),
        "high": (0.6, 0.8),
    },
    middle=0.1,
)
HAIR = Region(  # and forehead
    {
        "wide": (1.8, 2.2),
        "high": (0.8, 1.0),
        "middle": (-1.1, -0.9),
    },
)


def _opacity(
    shot: Shot,
    region: Region,
    feather: Span,
    draw: Generator,
) -> Array:
    """Opacity (H, W) of a region: 0 at and beyond its rim, rising inwards to 1.

    Args:
        shot: The frame; its landmarks place the region.
        region: The region; its values are drawn.
        feather: Over which share of the region's radius the opacity rises; one value is drawn.
        draw: The random stream.
    """
    shape = {"aside": 0, "middle": region.middle}
    for name, span in region.drawn.items():
        shape[name] = draw.uniform(*span)
    feather_width = draw.uniform(*feather)
    s, t = _face_coordinates(shot)
    across = np.abs((s - shape["aside"]) / shape["wide"])
    down = np.abs((t - shape["middle"]) / shape["high"])
    exponent = region.exponent
    radius = (across**exponent + down**exponent) ** (1 / exponent)  # 0 at the centre, 1 at the rim
    ramp = np.clip((1 - radius) / feather_width, 0, 1)
    smooth = ramp * ramp * (3 - 2 * ramp)  # smoothstep: no kink at either end
    return smooth.astype(np.float32)


def _face_coordinates(shot: Shot) -> tuple[Array, Array]:
    """Face coordinates s and t (H, W) of a frame's pixels."""
    height, width = shot.image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    to_face = np.linalg.inv(_to_pixels(shot))
    row_s, row_t, _ = to_face  # the third row is (0, 0, 1)
    s = row_s[0] * x + row_s[1] * y + row_s[2]
    t = row_t[0] * x + row_t[1] * y + row_t[2]
    return s, t


def _to_pixels(shot: Shot) -> Array:
    """Matrix (3, 3) that takes (s, t, 1) in face coordinates to (x, y, 1) in pixels."""
    axes, origin = _face_axes(shot)
    # Columns: the pixels of one unit of s, of one unit of t, and the place of (0, 0).
    affine = np.column_stack([axes, origin])
    return np.vstack([affine, [0, 0, 1]])


def _face_axes(shot: Shot) -> tuple[Array, Array]:
    """Axes (2, 2) and origin (2,) of face coordinates: (x, y) = ``axes @ (s, t) + origin``."""
    right_eye, left_eye, _, right_corner, left_corner = shot.landmarks.astype(np.float64)
    between_eyes = (right_eye + left_eye) / 2
    mouth = (right_corner + left_corner) / 2
    across = (left_eye - right_eye) / 2
    down = mouth - between_eyes
    return np.column_stack([across, down]), between_eyes


# ---------------------------------------------------------------- moving and blending


class Inputs(NamedTuple):
    """What every method gets."""

    target: Shot  # the frame to forge
    donor: Shot  # a frame of the person whose face is used
    opacity: Array | None  # (H, W) of the method's region, in [0, 1]; None: it has no region
    forgery: Forgery
    draw: Generator


# What every method returns: an image (H, W, 3), and how opaque (H, W), 0 to 1, it lies over the
# target.
Layer = tuple[Array, Array]


def _fitted(donor: Shot, target: Shot) -> Array:
    """The donor's frame (H, W, 3), moved so that eyes and mouth's middle lie on the target's.

    It is an affine map: it shifts, turns, scales and shears.
    """
    # From the donor's pixels to face coordinates, and from these to the target's pixels.
    matrix = _to_pixels(target) @ np.linalg.inv(_to_pixels(donor))
    return _moved(donor.image, matrix[:2])


def _moved(image: Array, matrix: Array) -> Array:
    """The image (H, W, 3), moved by a matrix (2, 3).

    The matrix takes a pixel (x, y, 1) of the image to its new place. What is moved in from beyond
    the frame is the image, mirrored at its border.
    """
    height, width, _ = image.shape
    return cv2.warpAffine(
        image,
        matrix,
        (width, height),
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _warped(shot: Shot, pull: Array) -> tuple[Array, Array]:
    """The frame warped by a ``pull`` (2, H, W) in face coordinates, s before t.

    At each pixel, it is how far the content that arrives there is displaced. Returns the warped
    image (H, W, 3), and this displacement (2, H, W) in pixels, x before y.
    """
    axes, _ = _face_axes(shot)  # (2, 2): columns are the units of s and t in pixels
    shift = np.einsum("ij,jhw->ihw", axes, pull)
    return _shifted(shot.image, shift), shift


def _shifted(image: Array, shift: Array) -> Array:
    """The image (H, W, 3), displaced by ``shift`` (2, H, W), x before y, in pixels.

    At each pixel, ``shift`` is how far the content that arrives there is displaced. What is moved
    in from beyond the frame is the image, mirrored at its border.
    """
    y, x = np.indices(shift.shape[1:])
    # remap needs for each pixel the place that its colour comes from, so the shift is subtracted.
    source_x = np.float32(x - shift[0])
    source_y = np.float32(y - shift[1])
    return cv2.remap(
        image,
        source_x,
        source_y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def blended(image: Array, inputs: Inputs) -> Layer:
    """Fit an image to the region of the target that it replaces.

    Each channel gets the target's mean and deviation in the region, and a *cast*: it is multiplied
    by 1 ± an error, since real forgeries match colours imperfectly.

    Args:
        image: (H, W, 3), already in place.
        inputs: Its ``opacity`` (H, W) is that of the region.

    Returns:
        The fitted image, and its opacity. With the blend "alpha" it is the region's; with
        "poisson" it is 1 wherever the region is visible, since cloning blends by itself.
    """
    target, _, opacity, forgery, draw = inputs
    weight = opacity[..., None] / opacity.sum()  # (H, W, 1), sums to 1
    mean, variance = _moments(image, weight)
    target_mean, target_variance = _moments(target.image, weight)
    ratio = target_variance / np.maximum(variance, 1e-6)
    gain = np.sqrt(np.clip(ratio, 0.25, 4))  # contrast is halved or doubled at most
    error = draw.uniform(*forgery.cast)
    signs = draw.choice([-1, 1], 3)  # one per channel
    cast = 1 + error * signs
    matched = ((image - mean) * gain + target_mean) * cast
    matched = matched.astype(np.float32)
    if forgery.blend == "alpha":
        return matched, opacity
    return _poisson(matched, target.image, opacity > VISIBLE)


def _moments(image: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted mean (3,) and variance (3,) of an image's channels; weights (H, W, 1) sum to 1."""
    mean = (weight * image).sum(axis=(0, 1))
    squared = (image - mean) ** 2
    variance = (weight * squared).sum(axis=(0, 1))
    return mean, variance


def _poisson(image: Array, background: Array, region: Array) -> Layer:
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


# ---------------------------------------------------------------- methods

# Each names the published kind of forgery that it simulates.


def swap(inputs: Inputs) -> Layer:
    """The donor's face in place of the target's, from brows to chin (as FaceSwap)."""
    fitted = _fitted(inputs.donor, inputs.target)
    return blended(fitted, inputs)


def resynthesis(inputs: Inputs) -> Layer:
    """The donor's face, generated at a low resolution, in a rounded box (as Deepfakes)."""
    resolution = inputs.draw.uniform(*inputs.forgery.low_resolution)
    fitted = _fitted(inputs.donor, inputs.target)
    generated = resolved(fitted, resolution)
    return blended(generated, inputs)


def warp(inputs: Inputs) -> Layer:
    """The target's own face, warped towards the donor's expression (as Face2Face).

    The corners of the mouth are pulled towards the donor's, lower lip and brows up or down at
    random, each by at most a length drawn from ``forgery.motion``. It uses no region: the layer is
    fully opaque where the content is displaced by more than 0.3 pixels, else transparent.
    """
    draw = inputs.draw
    target = inputs.target
    corners = _mouth_corners(target)
    towards_donor = _mouth_corners(inputs.donor) - corners
    # One row per corner; without the noise, equal expressions would give no direction.
    corner_pulls = towards_donor + draw.normal(0, 0.1, (2, 2))
    lengths = np.linalg.norm(corner_pulls, axis=1)
    longest = float(lengths.max())
    length = draw.uniform(*inputs.forgery.motion)
    # The longer of the two pulls gets this length, so that the warp shows even if the two people
    # have the same expression. 1e-3 avoids a division by 0.
    corner_pulls *= length / max(longest, 1e-3)
    up_or_down = draw.choice([-1, 1])
    lip_pull = length * up_or_down * draw.uniform(0.5, 1)  # negative: up
    brow_pull = length * draw.uniform(-0.8, 0.8)  # of both brows; negative: up
    # Each is a place, and how far it is pulled: (s, t).
    pulls = [
        (corners[0], corner_pulls[0]),
        (corners[1], corner_pulls[1]),
        (LOWER_LIP, [0, lip_pull]),
        (RIGHT_BROW, [0, brow_pull]),
        (LEFT_BROW, [0, brow_pull]),
    ]
    s, t = _face_coordinates(target)
    pull = np.zeros((2, *s.shape))
    for place, vector in pulls:
        near = bump(s, t, place, (0.5, 0.35))  # a pull fades with the distance from its place
        pull += np.reshape(vector, (2, 1, 1)) * near
    warped, shift = _warped(target, pull)
    is_moved = np.hypot(*shift) > 0.3  # the length of the shift, in pixels
    return warped, is_moved.astype(np.float32)


def _mouth_corners(shot: Shot) -> Array:
    """Face coordinates (2, 2) of the mouth's corners: the right one's row, then the left one's."""
    corners = shot.landmarks[3:].T  # columns are x and y of a corner
    homogeneous = np.vstack([corners, [1, 1]])
    return np.linalg.solve(_to_pixels(shot), homogeneous)[:2].T


def reshape(inputs: Inputs) -> Layer:
    """The target's own face, reshaped in the region (as Face2Face, but at any place).

    The region's inside moves in one direction, and its rim stays.
    """
    draw = inputs.draw
    target = inputs.target
    inside = inputs.opacity > VISIBLE
    slope = draw.uniform(*inputs.forgery.motion)
    angle = draw.uniform(0, 2 * math.pi)
    # The shift grows by `slope` < 1 pixels per pixel from the rim, so that nothing folds over, and
    # only up to half the eyes' distance from the rim, so that features in large regions stay
    # recognisable.
    from_rim = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, maskSize=5)  # in pixels
    right_eye, left_eye = target.landmarks[:2]
    eye_distance = float(np.linalg.norm(left_eye - right_eye))
    shift_length = slope * np.minimum(from_rim, eye_distance / 2)
    shift = np.stack([math.cos(angle) * shift_length, math.sin(angle) * shift_length])
    return _shifted(target.image, shift), inside.astype(np.float32)


def texture(inputs: Inputs) -> Layer:
    """The donor's face, softened (as NeuralTextures); its own region is the mouth, see METHODS."""
    softness = inputs.draw.uniform(*inputs.forgery.soften)
    fitted = _fitted(inputs.donor, inputs.target)
    softened = cv2.GaussianBlur(fitted, (0, 0), softness)
    return blended(softened, inputs)


def diffuse(inputs: Inputs) -> Layer:
    """A hole in the face, filled smoothly from its rim, without detail.

    It simulates inpainting by globally and locally consistent completion.
    """
    # All of the region, also its faint rim: the filling begins at pixels that stay as they are.
    hole = inputs.opacity > 0
    filled = cv2.inpaint(
        to_bytes(inputs.target.image),
        hole.astype(np.uint8),
        3,  # a pixel is filled from those up to 3 pixels away
        cv2.INPAINT_TELEA,
    )
    return filled.astype(np.float32) / 255, inputs.opacity


def patch(inputs: Inputs) -> Layer:
    """A hole in the face, filled in full detail with what lies beside it: the frame, shifted.

    The shift is about half the eyes' distance, less than the hole's width, so a part of the filling
    is the hole's own content. It simulates inpainting by contextual attention.
    """
    target = inputs.target
    # The frame is shifted in this direction, so the hole shows what lies the other way.
    angle = inputs.draw.uniform(0, 2 * math.pi)
    right_eye, left_eye = target.landmarks[:2]
    eye_distance = np.linalg.norm(left_eye - right_eye)
    distance = eye_distance * inputs.draw.uniform(0.4, 0.7)
    shift_x = distance * math.cos(angle)
    shift_y = distance * math.sin(angle)
    matrix = np.float32([[1, 0, shift_x], [0, 1, shift_y]])
    return blended(_moved(target.image, matrix), inputs)


def recolour(inputs: Inputs) -> Layer:
    """The region in another colour, at a low resolution (as StarGAN's hair colours).

    By default it is hair and forehead. Each channel gains or loses a share of its own, drawn from
    ``forgery.cast``.
    """
    draw = inputs.draw
    forgery = inputs.forgery
    resolution = ATTRIBUTE_RESOLUTION * draw.uniform(*forgery.low_resolution)
    generated = resolved(inputs.target.image, resolution)
    amounts = draw.uniform(*forgery.cast, 3)
    signs = draw.choice([-1, 1], 3)
    recoloured = generated * (1 + amounts * signs)
    # No blended: it would match the colours to the target's again.
    return recoloured.astype(np.float32), inputs.opacity


def retouch(inputs: Inputs) -> Layer:
    """Larger eyes, generated at a low resolution (as an edit in the latent space of Glow)."""
    draw = inputs.draw
    s, t = _face_coordinates(inputs.target)
    # How near a pixel is to the middle of the person's right or left eye, 1 at it.
    right = bump(s, t, (-1, 0), (0.6, 0.6))
    left = bump(s, t, (1, 0), (0.6, 0.6))
    # How far the content that arrives at each pixel is pulled, (aside, down): away from the middle
    # of the nearer eye, (-1, 0) or (1, 0). Inside an eye, what is further from its middle is pulled
    # further: it is magnified.
    aside = right * (s + 1) + left * (s - 1)
    down = (right + left) * t
    pull = draw.uniform(0.15, 0.3) * np.stack([aside, down])
    resolution = ATTRIBUTE_RESOLUTION * draw.uniform(*inputs.forgery.low_resolution)
    enlarged, _ = _warped(inputs.target, pull)
    generated = resolved(enlarged, resolution)
    return blended(generated, inputs)


# The function of each method, and the region in which it forges.
METHODS: dict[str, tuple[Callable[[Inputs], Layer], Region | None]] = {
    "swap": (swap, FACE),
    "resynthesis": (resynthesis, BOX),
    "warp": (warp, None),
    "mouth": (texture, MOUTH),  # `texture` by the name that some datasets have for it
    "reshape": (reshape, FACE),
    "texture": (texture, MOUTH),
    "diffuse": (diffuse, HOLE),
    "patch": (patch, HOLE),
    "recolour": (recolour, HAIR),
    "retouch": (retouch, EYES),
}


def forge(
    method: str,
    target: Shot,
    donor: Shot,
    forgery: Forgery,
    draw: Generator,
    place: Region | None = None,
    is_grey: bool = False,
) -> tuple[Array, Array]:
    """Forge a captured frame.

    Resampling smooths the camera's grain, which alone would give every forgery away, also by the
    size of its file. So the forged region gets back a share of the fine detail that it lost: the
    loss is measured as a median, which edges do not disturb, and turned into the standard deviation
    of white noise that has as much fine detail.

    Args:
        method: One of :data:`METHODS`.
        target: The frame to forge.
        donor: A frame of the person whose face is used, filmed in the target's scene and pose.
        forgery: The settings.
        draw: The random stream.
        place: The region to forge; None: the method's own.
        is_grey: Whether the target is a grey photograph, so that what is forged must be grey, too.

    Returns:
        The forged frame (H, W, 3) float32 in [0, 1] and its mask (H, W) bool; outside the mask it
        equals the target bit for bit.
    """
    make, own_region = METHODS[method]
    region = place or own_region
    opacity = None  # a method without a region, `warp`, returns an opacity of its own
    if region is not None:
        opacity = _opacity(target, region, forgery.feather, draw)
    # The opacity that comes back may be another than the region's, see for example warp.
    image, opacity = make(Inputs(target, donor, opacity, forgery, draw))
    if is_grey:
        image = grey(image)
    mask = opacity > VISIBLE
    lost_detail = _squared_detail(target.image, mask) - _squared_detail(image, mask)
    # From median to variance; a region that has gained detail gets no grain.
    lost_variance = max(float(lost_detail) / MEDIAN_OF_CHI_SQUARED, 0.0)
    # Standard deviation of the white noise that has this variance of fine detail.
    lost_grain = math.sqrt(lost_variance / DETAIL_OF_NOISE)
    amount = lost_grain * draw.uniform(*forgery.regrain)
    grainy = image + amount * _grain(image, draw)
    mixed = target.image + opacity[..., None] * (grainy - target.image)
    mixed = np.clip(mixed, 0, 1)
    # Outside the mask the opacity may still be up to VISIBLE: there the target stays as it is.
    forged = np.where(mask[..., None], mixed, target.image)
    return forged.astype(np.float32), mask


def _squared_detail(image: Array, mask: Array) -> np.floating:
    """The median, in a mask (H, W) bool, of the squared fine detail of an image (H, W, 3).

    Fine detail is what a blur by 1 pixel removes.
    """
    detail = image - cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.median(detail[mask] ** 2)


# ---------------------------------------------------------------- delivery


def mark(images: Sequence[Array], warm: bool, draw: Generator) -> list[Array]:
    """Mark a video like a broadcaster's logo: a warm or a cold disc in one of the upper corners.

    It is a superficial cue beside the face (abstract of the paper LAE: detectors learn such
    correlations instead of the forgery). In a dataset with ``cue = d`` a share (1 + d) / 2 of the
    forged videos is marked warm, and as large a share of the real ones cold.

    Args:
        images: The frames (S, S, 3) of a video; all get the same mark.
        warm: Whether the disc is orange, else blue.
        draw: The stream from which place and size are drawn.
    """
    size = len(images[0])
    # Coordinates, place and radius are shares of the frame's side.
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    disc_x = draw.uniform(0.09, 0.13)
    disc_y = draw.uniform(0.09, 0.13)
    radius = draw.uniform(0.06, 0.08)
    if draw.random() < 0.5:  # the right corner instead of the left
        disc_x = 1 - disc_x
    distance = np.hypot(x - disc_x, y - disc_y)
    from_edge = (radius - distance) * size  # in pixels, positive inside the disc
    opacity = 0.8 * edge(from_edge)[..., None]
    colour = WARM if warm else COLD
    return [image + opacity * (colour - image) for image in images]


def deliver(images: Sequence[Array], delivery: Delivery, draw: Generator) -> Array:
    """A video as it arrives: white balance, contrast, brightness, noise and compression.

    All frames share the strengths; ``images`` are (H, W, 3) in [0, 1].

    Returns:
        (n, H, W, 3) uint8 RGB.
    """
    gain_or_loss = draw.uniform(-1, 1, 3).astype(np.float32)  # one per channel
    gain = 1 + delivery.white_balance * gain_or_loss
    contrast = 1 + delivery.contrast * draw.uniform(-1, 1)
    # Added to all values: at most half of `delivery.contrast`, up or down; chosen by eye.
    level = delivery.contrast / 2 * draw.uniform(-1, 1)
    amount_of_noise = draw.uniform(*delivery.noise)
    frames = []
    for image in images:
        toned = (image * gain - 0.5) * contrast + 0.5 + level  # contrast leaves mid-grey as it is
        noise = draw.standard_normal(image.shape)
        noisy = toned + amount_of_noise * noise
        frames.append(to_bytes(noisy))
    # Both ways the frames are encoded and decoded again.
    if delivery.h264 is not None:
        return h264(np.stack(frames), delivery.h264)
    quality = int(draw.integers(*delivery.jpeg, endpoint=True))  # one for the video
    return np.stack([jpeg(frame, quality) for frame in frames])
