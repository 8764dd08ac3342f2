"""The painting of a person in a pose: the whole picture, with hair, neck, clothes and ears.

Hair, neck, clothes and ears do not turn with the face, so they are placed by other coordinates of
:class:`Head`: hair and ears by ``across`` and ``along``, which roll with the head, neck and clothes
by ``x`` and ``y``, which do not. The fringe alone turns with the face, by ``u`` and ``v``. All are
in *radii*, half the head's height, from its middle, to the image's right and down. The numbers,
chosen by eye, are places and sizes in these coordinates, colours in [0, 1] and opacities.
"""

import cv2
import numpy as np

from drawnfaces.brushes import bell, bump, edge, lay_over, power
from drawnfaces.features import Eye, Mouth, looked_up, paint_skin
from drawnfaces.head import NOSE_DEPTH, Head
from drawnfaces.people import Array, Look, Pose, Shot

# Factors (red, green, blue) by which the skin's colour is multiplied.
EAR = np.float32([1.05, 0.93, 0.92])
# Where the hair beside the face ends, in radii below the head's middle.
LONG_HAIR_END = 0.3
SHORT_HAIR_END = 0.05
# Exponents of the light on skin: red has the lowest, so shadows, where light < 1, are reddish.
NECK_SHADOW = np.float32([0.9, 1.05, 1.1])


def render(
    look: Look,
    pose: Pose,
    behind: Array,
    size: int,
) -> Shot:
    """Paint a person in a pose: layer over layer, from the backdrop to the hair in front.

    Args:
        look: The person.
        pose: Their pose, expression and light.
        behind: Backdrop (S, S, 3), S > ``size``. The picture is painted at its size and then
            reduced, which smooths the edges.
        size: Side of the frame, in pixels.

    Returns:
        The frame (size, size, 3) with its landmarks (5, 2), x and y in its pixels: right eye, left
        eye, nose tip, right and left corner of the mouth. Right is the person's, which is the
        image's left.
    """
    canvas = behind.copy()
    head = Head(look, pose, len(behind))
    hair = Hair(head)
    if look.hair_length:  # 0: short or bald, nothing hangs down behind
        hair.paint_behind(canvas)
    _paint_neck(canvas, head)
    _paint_clothes(canvas, head)
    for side in (-1, 1):  # left and right in the image
        _paint_ear(canvas, head, side)
    paint_skin(canvas, head)
    for side in (-1, 1):
        Eye(canvas, head, side).paint()
    mouth = Mouth(canvas, head)
    mouth.paint()
    if not look.bald:
        hair.paint_front(canvas)
    canvas = np.clip(canvas, 0, 1)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    # The landmarks' places (u, v) in the face. The nose protrudes, so its tip moves further than
    # the face when the head turns, by as much as Head.nose_u; that it does so when the head nods is
    # left out.
    corner_u, corner_v = mouth.right_corner  # on the image's right, so corner_u > 0
    places = [
        (-look.eye_u, look.eye_v),
        (look.eye_u, look.eye_v),
        (NOSE_DEPTH * head.sin_yaw, look.nose_v),
        (-corner_u, corner_v),
        (corner_u, corner_v),
    ]
    landmarks = np.float32([head.pixel(u, v) for u, v in places])
    scale = size / len(behind)
    from_corner = (landmarks + 0.5) * scale  # a pixel's centre is half a pixel from its corner
    return Shot(image, from_corner - 0.5)


# ---------------------------------------------------------------- hair


class Hair:
    """The hair of a head.

    Attributes:
        strand: Brightness (S, S) of the strands, with mean about 0 and deviation about 1.
        colour: Their lit colour (S, S, 3).
        depth: Rough distance (S, S) of a pixel from the hair's outline, in radii, positive inside.
    """

    def __init__(self, head: Head) -> None:
        """Compute strands, colour and outline at every pixel of the head's canvas."""
        look = head.look
        self.head = head
        # Strands fan out from the parting, a point above the head: 1.1 above its middle and 0.3 *
        # hair_slant to the image's left. `angle` is the direction of the pixel's strand in radians,
        # 0 straight down and positive to the image's right.
        from_parting = head.across + 0.3 * look.hair_slant
        angle = np.arctan2(from_parting, 1.1 + head.along)
        from_crown = head.along + 0.6  # downwards: the crown is 0.6 above the head's middle
        distance = np.sqrt(head.across * head.across + from_crown**2)
        # In the texture (24, 256), columns are angles, 55 per radian, with 128 for angle 0. Rows
        # are distances, 8 per radius, with 2 for distance 0. The angle is that about the parting,
        # the distance that from the crown, by eye.
        self.strand = looked_up(
            look.strands,
            angle * 55 + 128,
            distance * 8 + 2,
        )
        light = self._light()[..., None]  # uses self.strand, so it comes after that
        colour = look.hair * light + 0.04 * (light - 0.5)  # black hair, too, shows the light
        self.colour = np.clip(colour, 0, 1)
        # The outline is the ellipse x² + y² = 1, larger than the head by the hair's volume.
        x = head.across / (look.broad + look.hair_volume)
        y = (head.along + 0.02) / (1 + look.hair_volume)
        inside_ellipse = 1 - x**2 - y**2
        # With r² = x² + y²: near the rim, half of 1 - r² is about 1 - r, a share of the ellipse's
        # half width. Times look.broad it is roughly in radii; the hair's volume is left out.
        self.depth = inside_ellipse * 0.5 * look.broad

    def _light(self) -> Array:
        """Light (S, S) on the hair, with a band of sheen about the top of the head.

        It is a factor of the hair's colour, about 0.3 to 1.3.
        """
        head = self.head
        band = bell(head.along + 0.72, 0.16)
        light_z = head.light[2]  # largest for light from the front, which is mirrored to the viewer
        sheen_on_strands = 0.6 + 0.3 * self.strand
        sheen = 0.25 * light_z * band * sheen_on_strands
        # The normal, of any length because diffuse divides by it, points further up than the
        # head's own. Its z is a constant, since sphere_z is 0 where hair is beside the face.
        light = head.diffuse(
            head.sphere_x,
            head.sphere_y - 0.3,
            0.6,
        )
        return light * (0.8 + 0.13 * self.strand) + sheen

    def paint_behind(self, canvas: Array) -> None:
        """Paint long hair on the canvas, before neck and body, which hide a part of it."""
        head = self.head
        look = head.look
        # Half the curtain's width at every height; it is wider further down.
        spread = look.broad + 0.5 * look.hair_volume + 0.1
        spread = spread + 0.1 * np.clip(head.along, -1, 1)
        inside_curtain = spread - np.abs(head.across)
        # The outline follows the head above its middle, and hangs down like a curtain below.
        inside_outline = np.where(head.along < 0, self.depth, inside_curtain)
        above_end = look.hair_length - head.along
        inside = np.minimum(inside_outline, above_end)  # distance from the nearer of the two edges
        lay_over(
            canvas,
            colour=self.colour * 0.75,  # in the shadow of the head
            opacity=edge(inside * head.radius),
        )

    def _fringe(self) -> Array:
        """v (S, S) of the fringe's lower edge, at every pixel's u."""
        look = self.head.look
        u = self.head.u
        # v points down, so the fringe hangs lower towards the sides.
        fringe = look.hairline + look.hair_curve * power(self.head.side_u, 2.2)
        # Lower on one side of the forehead, higher on the other; at the sides it fades out.
        fade = np.clip(1 - u * u, 0, 1)
        fringe += look.hair_slant * u * fade
        fringe += 0.012 * self.strand  # an uneven edge
        return fringe

    def paint_front(self, canvas: Array) -> None:
        """Paint the hair before and about the face: the fringe with its shadow, and the rim.

        Names with ``above_`` are distances (S, S) above a line, in radii. ``edge`` takes pixels, so
        they are multiplied by ``head.radius``; a further factor below 1 makes an edge softer.
        """
        head = self.head
        look = head.look
        fringe = self._fringe()
        end = LONG_HAIR_END if look.hair_length else SHORT_HAIR_END
        # 1. The opacity of the hair on the head: all above the edge of the fringe, which curves
        # down beside the face. There the hair fades out at `end`, over an eighth of a radius.
        above_fringe = fringe - head.v
        hair_area = edge(above_fringe * head.radius * 0.7)
        above_front_end = end + 0.12 - head.along
        front = hair_area * np.clip(above_front_end * 8, 0, 1) * head.inside
        # 2. The opacity of the rim: the hair beyond the head's outline.
        in_outline = edge(self.depth * head.radius)
        above_rim_end = end - head.along  # the rim fades out just above `end`
        outside = 1 - head.inside
        rim = in_outline * np.clip(above_rim_end * 8, 0, 1) * outside
        # 3. The opacity of the shadow, on the skin just below the fringe and where the hair has
        # ended. It is painted first, because the hair lies over it.
        above_shadow_end = fringe + 0.06 - head.v
        in_shadow = edge(above_shadow_end * head.radius * 0.25)
        shadow = head.inside * in_shadow - front  # not on the hair itself
        shadow = np.clip(shadow, 0, 1)
        lay_over(
            canvas,
            colour=canvas * 0.75,  # what is there already, darkened
            opacity=0.5 * shadow,
        )
        density = np.clip(0.97 + 0.03 * self.strand, 0, 1)
        lay_over(
            canvas,
            colour=self.colour,
            opacity=(front + rim) * density,
        )


# ---------------------------------------------------------------- body


def _paint_neck(canvas: Array, head: Head) -> None:
    """Paint the neck, in the chin's shadow, and the shoulders into which it widens."""
    look = head.look
    body = _rows_of_body(head)
    x = head.x[body]
    y = head.y[body]
    below_chin = np.clip(y - 1.05, 0, 1)  # in radii; the chin is at y = 1
    half_width = 0.57 * look.broad + 0.5 * below_chin**2  # the square: widening to the shoulders
    light_x = head.light[0]
    from_the_side = 0.85 + 0.3 * light_x * x  # brighter on the side towards the light
    # Share of the light: 0.52 right below the chin, at y = 1, and up to 0.87 further down.
    chin_shadow = 0.52 + 0.7 * (y - 1.0)
    chin_shadow = np.clip(chin_shadow, 0.52, 0.87)
    light = chin_shadow * from_the_side
    colour = look.skin * power(light[..., None], NECK_SHADOW)
    inside = half_width - np.abs(x)
    lay_over(
        canvas[body],
        colour=colour,
        opacity=edge(inside * head.radius),
    )


def _paint_clothes(canvas: Array, head: Head) -> None:
    """Paint a shirt over neck and shoulders, but for the collar's opening."""
    look = head.look
    body = _rows_of_body(head)
    x = head.x[body]
    y = head.y[body]
    from_middle = np.abs(x)
    # The torso is an ellipse whose middle is 2.15 radii below the head's. `torso` is positive
    # inside and 0 on the rim.
    ellipse_x = x / 1.75
    ellipse_y = (y - 2.15) / 0.95
    torso = 1 - ellipse_x**2 - ellipse_y**2
    # The opening is a V: at y = 1.22 it reaches look.collar to each side, and 0.75 less per radius
    # further down. `inside_opening` is positive in it and 0 on its edge. It changes by 1.25 per
    # radius (1.25² = 1 + 0.75²), so times 0.8 it is the distance from the edge in radii.
    inside_opening = look.collar - from_middle - 0.75 * (y - 1.22)
    opening = edge(inside_opening * head.radius * 0.8)
    # A safeguard: the V is wider further up, and must not uncover the shoulders.
    opening = opening * (from_middle < 0.6)
    folds = 0.12 * np.sin(7 * x + 3 * y)  # slanting bands, lighter and darker
    chin_shadow = 0.25 * bump(
        x,
        y,
        at=(0, 1.2),
        size=(0.6, 0.25),
    )
    light_x = head.light[0]
    light = 0.75 + 0.35 * light_x * x + folds - chin_shadow
    # From its upper rim `torso` rises by about 2 per radius: times 0.45 it is about the distance.
    covered = edge(torso * 0.45 * head.radius)
    covered = covered * (1 - opening)
    lay_over(
        canvas[body],
        colour=look.cloth * light[..., None],
        opacity=covered,
    )


def _rows_of_body(head: Head) -> slice:
    """The canvas's rows that can show neck and clothes: from below the head's middle.

    Only these are computed. ``canvas[rows]`` is no copy: painting on it paints on the canvas.
    """
    first_row = int(head.centre[1] + 0.3 * head.radius)
    return slice(max(first_row, 0), None)


def _paint_ear(canvas: Array, head: Head, side: int) -> None:
    """Paint one ear, an ellipse with a hollow; ``side`` is -1 left in the image, 1 right."""
    look = head.look
    # cos(yaw) brings the ears of a turned head nearer to its middle.
    middle = side * (look.broad + 0.015) * head.cos_yaw
    # Half the ear's width is 0.13, half its height 0.24; its middle is 0.14 below the head's.
    x = (head.across - middle) / 0.13
    y = (head.along - 0.14) / 0.24
    inside = 1 - x**2 - y**2
    hollow = bump(
        head.across,
        head.along,
        at=(middle, 0.14),
        size=(0.06, 0.13),
    )
    light_x = head.light[0]
    light = 0.72 + 0.2 * side * light_x - 0.25 * hollow  # brighter on the side towards the light
    light = np.clip(light, 0, 1)
    # A turned head hides the ear on the side to which it turns.
    visible = 0.9 - 2.5 * side * head.sin_yaw
    visible = min(max(visible, 0), 1)
    # Near the rim, the distance from it is about inside / 2 half widths of the ear, which are 0.13
    # radii: inside * 0.06 radii.
    opacity = edge(inside * 0.06 * head.radius) * visible
    lay_over(
        canvas,
        colour=look.skin * light[..., None] * EAR,
        opacity=opacity,
    )
