"""The features of a face: skin, eyes and mouth, painted on the sphere of a :class:`Head`.

The coordinates ``u`` and ``v`` of the head are places in the face, from -1 to 1: u to the image's
right, in half widths of the head, and v down, in *radii*, half its height. Colours are red, green
and blue in [0, 1]. All numbers below were chosen by eye.

Layers are painted one over another, from back to front. Each is a colour with an *opacity* (H, W)
from 0 to 1, see :func:`~drawnfaces.brushes.lay_over`.
"""

import math

import cv2
import numpy as np

from drawnfaces.brushes import bell, edge, lay_over, power, stripe
from drawnfaces.head import Head
from drawnfaces.people import Array

# Factors (red, green, blue) by which the skin's colour is multiplied.
NOSTRIL = np.float32([0.3, 0.2, 0.18])
LID_FOLD = np.float32([0.62, 0.5, 0.47])
LOWER_LID = np.float32([0.6, 0.45, 0.42])
BARE_LIP = np.float32([0.88, 0.66, 0.64])
# Factor by which the lips' colour is multiplied for the line between closed lips.
LIP_LINE = np.float32([0.35, 0.28, 0.28])
# Colours themselves; a single number is a grey.
LIPSTICK = np.float32([0.72, 0.30, 0.30])
MOUTH_HOLE = np.float32([0.22, 0.07, 0.07])
TEETH = np.float32([0.93, 0.91, 0.87])
EYE_WHITE = 0.92
PUPIL = 0.03
GLINT = 1.0
# How strongly freckles and blush change red, green and blue: where they darken the skin, green and
# blue lose more than red, so it is redder there.
FRECKLE = np.float32([0.36, 0.6, 0.66])
BLUSH = np.float32([0.0, 1.6, 1.5])
# Exponents of the light on skin: red has the lowest, so shadows, where light < 1, are reddish.
FACE_SHADOW = np.float32([0.85, 1.05, 1.15])

# Radii in half widths of the eye, see Eye.
IRIS_RADIUS = 0.46
PUPIL_RADIUS = 0.2
GLINT_RADIUS = 0.13
LIFT = 0.22  # of the corners of the mouth by a full smile, in half widths of the mouth


def looked_up(texture: Array, x: Array, y: Array) -> Array:
    """The values (H, W) of a texture (h, w) at its columns x and rows y (H, W).

    x and y are float32: they may be fractions, and may lie outside the texture, which is mirrored.
    """
    return cv2.remap(
        texture,
        x,
        y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


# ---------------------------------------------------------------- skin


def paint_skin(canvas: Array, head: Head) -> None:
    """Paint the skin with freckles, blush and beard, and the nostrils, on the canvas (S, S, 3)."""
    look = head.look
    # The middle of the face shows the middle, pixel 48, of the texture (96, 96). The face's rim, at
    # u or v = 1, is 40 pixels from there: the face shows nearly all of the texture.
    mottling = looked_up(look.skin_texture, head.u * 40 + 48, head.v * 40 + 48)
    colour = _skin_colour(head, mottling)
    if look.beard:  # its density; 0: none
        _grow_beard(colour, head, mottling)
    light = _light_on_skin(head)
    gloss = head.gloss * (0.065 + 0.04 * look.nose_height)  # a bolder relief shines more
    lay_over(
        canvas,
        colour=colour * light + gloss[..., None],  # a highlight has the light's colour, white
        opacity=head.inside,
    )
    nostrils = head.beside_nose(
        u=look.nose_width * 0.5,
        v=look.nose_v + 0.075,
        width=0.04,
        height=0.022,
    )
    lay_over(
        canvas,
        colour=look.skin * NOSTRIL,
        opacity=0.85 * nostrils,
    )


def _skin_colour(head: Head, mottling: Array) -> Array:
    """The colour (S, S, 3) of the skin with freckles, and blush on the cheeks and the nose.

    ``mottling`` (S, S) is noise with mean about 0 and deviation about 0.7: freckles darken the skin
    where it is negative, and lighten it elsewhere.
    """
    look = head.look
    freckles = look.freckles * mottling[..., None] * FRECKLE  # relative change of each channel
    colour = look.skin * (1 + freckles)
    cheeks = head.on_sides(
        u=0.5,
        v=0.36,
        width=0.22,
        height=0.18,
    )
    nose = head.on_nose(
        look.nose_v,
        width=0.15,
        height=0.12,
    )
    blush = look.blush * (cheeks + 0.7 * nose)  # (S, S), its strength
    colour *= 1 - blush[..., None] * BLUSH
    return colour


def _light_on_skin(head: Head) -> Array:
    """The light (S, S, 3) on the face, with shadows in the eye sockets and below the nose.

    It is the factor by which red, green and blue of the skin are multiplied.
    """
    look = head.look
    eye_sockets = head.on_sides(
        u=look.eye_u * 0.9,
        v=look.eye_v - 0.05,
        width=0.17,
        height=0.09,
    )
    below_nose = head.on_nose(
        v=look.nose_v + 0.09,
        width=look.nose_width * 1.2,
        height=0.045,
    )
    open_to_light = 1 - 0.28 * eye_sockets - 0.32 * below_nose  # share of the light that arrives
    light = np.clip(head.shade * open_to_light, 0.05, 1.3)  # about 0.2 to 1.05: hardly ever cut
    return power(light[..., None], FACE_SHADOW)  # shadows are reddish, see FACE_SHADOW


def _grow_beard(skin: Array, head: Head, mottling: Array) -> None:
    """Lay a beard over the skin's colour (S, S, 3), in place.

    ``mottling`` (S, S) is noise with mean about 0 and deviation about 0.7. It makes the beard
    uneven.
    """
    look = head.look
    # In the middle of the face the beard begins at v = 0.5, above the mouth; towards the sides it
    # begins higher. It is full a quarter of a radius further down.
    sideburn_rise = 0.45 * np.clip(head.side_u - 0.35, 0, 1)  # in radii
    density = (head.v - 0.5 + sideburn_rise) * 4
    density = np.clip(density, 0, 1)
    mouth = head.in_middle(
        v=look.mouth_v + 0.02,
        width=0.2,
        height=0.07,
    )
    density *= 1 - mouth  # no beard on the lips
    opacity = look.beard * density * (0.75 + 0.12 * mottling)
    colour = look.hair * 0.9 + 0.02  # about the hair's, but never quite black
    lay_over(
        skin,
        colour=colour,
        opacity=np.clip(opacity, 0, 1),
    )


# ---------------------------------------------------------------- eyes


class Eye:
    """One eye of a head with its lids and brow.

    Attributes:
        side: -1 for the eye that is left in the image, 1 for the right one.
        view: The part (H, W, 3) of the canvas about the eye, on which it is painted.
        u, v: (H, W), the view's places in the face.
        mean_shade: Mean diffuse light on the view, about 0.4 to 1.
        pixels_per_unit: Pixels per unit of x, half the eye's width.
        x, y: (H, W), the eye's coordinates: x from -1, inner corner, to 1, outer corner, and y down
            on the same scale. The line y = 0 joins the corners, also those of a tilted eye.
        upper, lower: (H, W), y of the lids' edges, at every pixel's x; 0 at the corners and beyond.
    """

    def __init__(
        self,
        canvas: Array,
        head: Head,
        side: int,
    ) -> None:
        """Place the eye on the canvas (S, S, 3); nothing is painted yet."""
        look = head.look
        self.head = head
        self.look = look
        self.side = side
        self.pixels_per_unit = look.eye_size * head.radius
        middle_u = side * look.eye_u
        window = head.window(middle_u, look.eye_v - 0.1, reach=0.45)  # with the brow above it
        self.view = canvas[window]  # no copy: what is painted on it is on the canvas
        self.u = head.u[window]
        self.v = head.v[window]
        self.mean_shade = float(head.shade[window].mean())
        outwards = side * (self.u - middle_u)  # from the eye's middle, in u
        # u is in half widths of the head; times `broad` it is in radii, as eye_size is.
        self.x = outwards * look.broad / look.eye_size
        self.y = (self.v - look.eye_v) / look.eye_size + look.eye_tilt * self.x
        # y of the upper lid in the middle of the eye, before the factor 1.15 below: -eye_open while
        # the eye is open (blink = 0), and 0.3, near the lower lid, while it is closed (blink = 1).
        blink = head.pose.blink
        middle_of_upper = 0.3 * blink - look.eye_open * (1 - blink)
        # Both edges are arches: full height in the middle, 0 at the corners.
        arch = np.clip(1 - self.x * self.x, 0, 1)
        self.upper = 1.15 * power(arch, 0.75) * middle_of_upper
        self.lower = 0.36 * arch

    def paint(self) -> None:
        """Paint the upper lid's fold, the eye, the lashes, the lower lid and the brow.

        Fold, lashes and lower lid are soft lines along the lids' edges, ``stripe(..., y of the
        line, half its thickness)`` in the eye's coordinates.
        """
        # 1 between the corners, 0 beyond: the lines fade out about |x| = 1.05, just outside them.
        between_corners = self._edge(1.05 - np.abs(self.x), sharpness=0.6)
        fold = stripe(self.x, self.y, self.upper - 0.3, 0.1)
        lay_over(
            self.view,
            colour=self.look.skin * LID_FOLD,
            opacity=0.45 * between_corners * fold,
        )
        white = self._paint_white()
        self._paint_iris(white)
        self._paint_glint(white)
        lashes = stripe(self.x, self.y, self.upper - 0.03, 0.11)
        lash_colour = self.look.hair * 0.35 + self.look.skin * 0.08
        lay_over(
            self.view,
            colour=lash_colour,
            opacity=0.85 * between_corners * lashes,
        )
        lower_lid = stripe(self.x, self.y, self.lower + 0.04, 0.09)
        lay_over(
            self.view,
            colour=self.look.skin * LOWER_LID,
            opacity=0.4 * between_corners * lower_lid,
        )
        self._paint_brow()

    def _edge(self, distance: Array, sharpness: float = 1) -> Array:
        """Share of each pixel inside an edge: it rises from 0 to 1 over 1 / ``sharpness`` pixels.

        ``distance`` (H, W) is from the edge, in the eye's coordinates, positive inside.
        """
        return edge(distance * self.pixels_per_unit * sharpness)

    def _paint_white(self) -> Array:
        """Paint the white between the lids; returns its opacity (H, W).

        That is 0 on the lids, so iris, pupil and glint are multiplied by it.
        """
        below_upper = self._edge(self.y - self.upper)
        above_lower = self._edge(self.lower - self.y)
        # Beyond the corners both edges are y = 0, where two factors alone would leave a quarter.
        white = below_upper * above_lower * (np.abs(self.x) < 1)
        lid_shadow = 1 - 0.35 * stripe(self.x, self.y, self.upper, 0.25)
        # The eye is moist and reflects: in the shade it darkens less than the skin around it.
        light = EYE_WHITE * (0.55 + 0.45 * self.mean_shade)
        lay_over(
            self.view,
            colour=light * lid_shadow[..., None],
            opacity=white,
        )
        return white

    def _paint_iris(self, white: Array) -> None:
        """Paint iris and pupil, as far as the ``white`` (H, W), an opacity, is visible."""
        gaze = self.side * self.head.pose.gaze  # x points outwards, gaze to the image's right
        # From the iris's middle, which is a little above the eye's.
        distance = np.sqrt((self.x - gaze) ** 2 + (self.y + 0.06) ** 2)
        rim = bell(distance - IRIS_RADIUS, 0.1)
        # Light from above shines through the cornea onto the lower part; the rim is dark.
        depth = np.clip(self.y + 0.1, 0, 0.4)
        light = 0.8 + 0.9 * depth - 0.45 * rim
        colour = self.look.iris * light[..., None]
        lay_over(self.view, colour=colour, opacity=white * self._edge(IRIS_RADIUS - distance))
        lay_over(self.view, colour=PUPIL, opacity=white * self._edge(PUPIL_RADIUS - distance))

    def _paint_glint(self, white: Array) -> None:
        """Paint the light's reflection over the ``white``, on the pupil's upper rim, to one side.

        The eye on the image's right has it on the side towards the light. The other eye has it on
        the side away from the light, which is not physical: the same shift is applied to x, which
        points outwards in both eyes. Correcting it would change the pixels of every dataset.
        """
        gaze = self.side * self.head.pose.gaze  # x points outwards, gaze to the image's right
        x = self.x - gaze - math.copysign(0.16, self.head.light[0])
        distance = np.sqrt(x**2 + (self.y + 0.24) ** 2)  # from the glint's middle
        glint = self._edge(GLINT_RADIUS - distance)
        lay_over(
            self.view,
            colour=GLINT,
            opacity=0.9 * white * glint,
        )

    def _paint_brow(self) -> None:
        """Paint the brow: a bent line of hairs that tapers towards its outer end."""
        look = self.look
        # x from -1, inner end, to 1, outer end: the brow is 1.3 times as long as the eye, and its
        # middle is a little further out, by the factor 1.02.
        outwards = self.side * (self.u - self.side * look.eye_u * 1.02)
        x = outwards * look.broad / (look.eye_size * 1.3)
        bend = look.brow_bend * (0.8 - (x - 0.1) ** 2)  # the line's rise, highest near its middle
        brow_v = look.eye_v - look.brow_height - self.head.pose.brow_raise
        # How far the pixel is below the brow's middle line, in radii. v points down, so 0.02 * x
        # lowers the line's outer end and raises its inner one.
        y = self.v - (brow_v - bend + 0.02 * x)
        half_thickness = look.brow_width + 0.018 * look.man  # in radii; True counts as 1
        taper = 0.95 - 0.55 * np.clip(x, -1, 1)
        half_thickness = half_thickness * np.clip(taper, 0.2, 1)  # taper is at least 0.4
        hairs = 0.68 + 0.17 * np.sin(28 * x + 60 * y)  # slanting strands, as an opacity
        from_middle = y / half_thickness
        hairs = hairs * np.exp(-(from_middle**4))  # falls faster than a Gaussian: a clear outline
        # x counts 1.3 of the eye's units, so the ends fade over 2.6 pixels instead of 2.
        ends = self._edge(1 - np.abs(x), sharpness=0.5)
        colour = look.hair * 0.6 + look.skin * 0.06
        lay_over(
            self.view,
            colour=colour,
            opacity=hairs * ends,
        )


# ---------------------------------------------------------------- mouth


class Mouth:
    """The mouth of a head.

    Attributes:
        view: The part (H, W, 3) of the canvas about the mouth, on which it is painted.
        shade: Diffuse light (H, W) on the view.
        half_width: Half the mouth's width, in radii of the head.
        pixels_per_unit: Pixels per unit of x, half the mouth's width.
        x, y: (H, W), the mouth's coordinates: x from -1 to 1 between the corners, and y down on the
            same scale. A smile bends the line y = 0, which ends in the corners.
        between_corners: (H, W) bool, whether -1 < x < 1.
        arch: (H, W), 1 in the middle, 0 at the corners and beyond.
        hole_top, hole_bottom: (H, W), y of the edges of the open mouth, at every pixel's x. Both
            are 0 if it is closed.
    """

    def __init__(self, canvas: Array, head: Head) -> None:
        """Place the mouth on the canvas (S, S, 3); nothing is painted yet."""
        look = head.look
        pose = head.pose
        self.look = look
        self.pose = pose
        window = head.window(0, look.mouth_v, reach=0.55)
        self.view = canvas[window]  # no copy: what is painted on it is on the canvas
        self.shade = head.shade[window]
        # A smile widens the mouth, and opening narrows it.
        self.half_width = look.mouth_width * (1 + 0.1 * pose.smile - 0.1 * pose.open)
        self.pixels_per_unit = self.half_width * head.radius
        # u is in half widths of the head; times `broad` it is in radii, as half_width is.
        self.x = head.u[window] * look.broad / self.half_width
        lifted = LIFT * pose.smile * self.x * self.x  # a smile lifts the corners most
        self.y = (head.v[window] - look.mouth_v) / self.half_width + lifted
        self.between_corners = np.abs(self.x) < 1
        self.arch = np.clip(1 - self.x * self.x, 0, 1)
        # The lower lip moves further than the upper, as the jaw moves.
        self.hole_top = -0.22 * pose.open * self.arch
        self.hole_bottom = 0.75 * pose.open * self.arch

    @property
    def right_corner(self) -> tuple[float, float]:
        """Place (u, v) in the face of the corner on the image's right."""
        lifted = LIFT * self.pose.smile * self.half_width
        return self.half_width / self.look.broad, self.look.mouth_v - lifted

    def paint(self) -> None:
        """Paint the lips, the hole and the teeth between them, and the line where they meet."""
        lip_colour = self._lip_colour()
        self._paint_lips(lip_colour)
        # If the mouth is closed, both edges are y = 0, where the opacity still reaches a quarter:
        # this is under the line, which is painted last.
        hole = self._between(self.hole_top, self.hole_bottom)
        lay_over(
            self.view,
            colour=MOUTH_HOLE,
            opacity=hole,
        )
        # The upper teeth hang 0.28 below the upper lip, and end before the corners.
        upper_teeth = self._edge(self.hole_top + 0.28 - self.y)
        sides = self._edge(0.85 - np.abs(self.x))
        light = 0.6 + 0.4 * float(self.shade.mean())  # they shine: they darken less than skin
        lay_over(
            self.view,
            colour=TEETH * light,
            opacity=hole * upper_teeth * sides,
        )
        middle = (self.hole_top + self.hole_bottom) / 2
        line = stripe(self.x, self.y, middle, 0.05)
        # Lips that part a little still show it near the corners. False counts as 0: no line.
        is_nearly_closed = self.pose.open < 0.25  # 0: closed, 1: wide open
        line = is_nearly_closed * (1 - hole) * line
        ends = self._edge(1.03 - np.abs(self.x), sharpness=0.4)
        lay_over(
            self.view,
            colour=lip_colour * LIP_LINE,
            opacity=0.75 * line * ends,
        )

    def _edge(self, distance: Array, sharpness: float = 1) -> Array:
        """Share of each pixel inside an edge: it rises from 0 to 1 over 1 / ``sharpness`` pixels.

        ``distance`` (H, W) is from the edge, in the mouth's coordinates, positive inside.
        """
        return edge(distance * self.pixels_per_unit * sharpness)

    def _between(self, top: Array, bottom: Array) -> Array:
        """Opacity (H, W) between the corners and two lines, y = ``top`` and ``bottom``."""
        below_top = self._edge(self.y - top)
        above_bottom = self._edge(bottom - self.y)
        return below_top * above_bottom * self.between_corners

    def _lip_colour(self) -> Array:
        """The colour (3,) of the lips: between bare lips and lipstick, by ``look.rouge``."""
        look = self.look
        lightness = float(look.skin.mean())
        # LIPSTICK is its colour on skin of lightness 0.62, where the factor below is 1; on darker
        # skin it is darker.
        lipstick = LIPSTICK * (0.35 + 0.65 * lightness) / 0.75
        bare_lip = look.skin * BARE_LIP
        return bare_lip * (1 - look.rouge) + lipstick * look.rouge

    def _paint_lips(self, colour: Array) -> None:
        """Paint both lips, and all between them, in a colour (3,); the hole is painted over it."""
        look = self.look
        cupids_bow = 1 - 0.3 * bell(self.x, 0.16)  # the upper lip is lower in its middle
        # y of the lips' outer edges
        upper = self.hole_top - look.upper_lip * power(self.arch, 0.6) * cupids_bow
        lower = self.hole_bottom + look.lower_lip * power(self.arch, 0.7)
        # The lower lip is brightest along its middle line, where it swells, and fades up and down.
        fullest = self.hole_bottom + 0.5 * look.lower_lip
        swelling = stripe(self.x, self.y, fullest, height=0.1)
        is_upper_lip = self.y < self.hole_top  # it faces down, so it is darker
        light = self.shade * (1 + 0.22 * swelling - 0.15 * is_upper_lip)
        lay_over(
            self.view,
            colour=colour * light[..., None],
            opacity=self._between(upper, lower),
        )
