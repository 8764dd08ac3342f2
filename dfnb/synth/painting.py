"""The painting of a person's face in a pose.

A head is a unit sphere squeezed into a head's outline. Features are painted on the sphere, so that
they turn with it, and light falls on the normals of the sphere and a relief. The numbers, chosen by
eye, are places and sizes in the coordinates of :class:`Head`, colours, and opacities.
"""

import math

import cv2
import numpy as np

from dfnb.synth.people import Array, Look, Pose, Shot

ANYWHERE = 9  # a width so large that a bump is a stripe
NOSE_DEPTH = 0.16  # how far the tip of the nose stands out

# Colours by which the skin's is multiplied.
EAR = np.float32([1.05, 0.93, 0.92])
NOSTRIL = np.float32([0.3, 0.2, 0.18])
LID_FOLD = np.float32([0.62, 0.5, 0.47])
LOWER_LID = np.float32([0.6, 0.45, 0.42])
BARE_LIP = np.float32([0.88, 0.66, 0.64])
# Of the line between closed lips: it multiplies their colour.
LIP_LINE = np.float32([0.35, 0.28, 0.28])
# Colours as they are.
LIPSTICK = np.float32([0.72, 0.30, 0.30])
MOUTH_HOLE = np.float32([0.22, 0.07, 0.07])
TEETH = np.float32([0.93, 0.91, 0.87])
EYE_WHITE = 0.92
PUPIL = 0.03
GLINT = 1.0
# How much freckles and blush take of each colour.
FRECKLE = np.float32([0.36, 0.6, 0.66])
BLUSH = np.float32([0.0, 1.6, 1.5])
# Exponents of light: shadows of skin are red.
FACE_SHADOW = np.float32([0.85, 1.05, 1.15])
NECK_SHADOW = np.float32([0.9, 1.05, 1.1])


# ---------------------------------------------------------------- brushes


def bump(x: Array, y: Array, at: tuple, size: tuple[float, float]) -> Array:
    """A Gaussian bump of height 1 about the place ``at``.

    It falls to 1/e in the distances ``size`` to the side and up or down.
    """
    centre_x, centre_y = at
    width, height = size
    x = (x - centre_x) / width
    y = (y - centre_y) / height
    return np.exp(-(x**2) - y**2)


def edge(distance: Array) -> Array:
    """Share of a pixel that is covered when its centre lies ``distance`` pixels inside an edge."""
    return np.clip(distance + 0.5, 0, 1)


def power(base: Array, exponent: Array | float) -> Array:
    """``base ** exponent`` for a base >= 0.

    numpy uses the processor's vector unit for exp and log of float32, and not for powers.
    """
    return np.exp(exponent * np.log(np.maximum(base, 1e-6)))


def lay_over(canvas: Array, colour: Array | float, opacity: Array) -> None:
    """Paint a colour on the canvas (H, W, 3), in place, with an opacity (H, W)."""
    canvas += opacity[..., None] * (colour - canvas)


# ---------------------------------------------------------------- the head


class Head:
    """Geometry and light of a person's head in a pose, at every pixel of a canvas (S, S).

    Attributes:
        radius: Half the head's height, in pixels.
        centre: (2,) its pixel.
        x, y: The pixel relative to the centre, in radii.
        across, along: The same, turned so that the head is upright.
        sphere_x, sphere_y, sphere_z: The point of the unit sphere that is seen there.
        inside: Share of the pixel that the head covers.
        u, v: The place in the face, u to the image's right and v down. The upright face seen from
            the front spans -1 to 1 in both.
        side_u: The absolute value of u, for what both sides have.
        nose_u: u on the nose, which stands out and so moves further when the head turns.
        light: Direction (3,) to the light.
        shade: Diffuse light, about 0 to 1.
        gloss: Mirrored light.
    """

    def __init__(self, look: Look, pose: Pose, size: int) -> None:
        self.look = look
        self.pose = pose
        self.radius = 0.345 * size * pose.scale
        centre = [0.5 + pose.shift_x, 0.49 + pose.shift_y]
        self.centre = size * np.float32(centre)
        self.sin_yaw = math.sin(pose.yaw)
        self.cos_yaw = math.cos(pose.yaw)
        self.sin_pitch = math.sin(pose.pitch)
        self.cos_pitch = math.cos(pose.pitch)
        sin_roll = math.sin(pose.roll)
        cos_roll = math.cos(pose.roll)
        self.turn = np.float32([[cos_roll, sin_roll], [-sin_roll, cos_roll]])
        self._project(size)
        self._illuminate()

    def _project(self, size: int) -> None:
        """Find the place in the face that every pixel shows."""
        look = self.look
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        self.x = (x - self.centre[0]) / self.radius
        self.y = (y - self.centre[1]) / self.radius
        first, second = self.turn
        self.across = first[0] * self.x + first[1] * self.y
        self.along = second[0] * self.x + second[1] * self.y
        # The point (a, b, z) of the sphere.
        a = self.across / self._half_width(self.along)
        bent = power(np.abs(self.along), look.chin)
        b = np.sign(self.along) * bent
        z_squared = 1 - a * a - b * b
        self.inside = edge(z_squared * 0.5 * self.radius * look.broad)
        z = np.sqrt(np.maximum(z_squared, 0))
        self.sphere_x = a
        self.sphere_y = b
        self.sphere_z = z
        # Turn the sphere back by yaw and pitch.
        self.u = a * self.cos_yaw - z * self.sin_yaw
        depth = a * self.sin_yaw + z * self.cos_yaw
        self.v = b * self.cos_pitch - depth * self.sin_pitch
        self.side_u = np.abs(self.u)
        down_the_nose = np.clip(self.v / look.nose_v, 0, 1)
        self.nose_u = self.u - NOSE_DEPTH * self.sin_yaw * down_the_nose

    def _half_width(self, along: Array | float) -> Array:
        narrowing = self.look.jaw * power(np.clip(along, 0, 1), 1.5)
        return self.look.broad * (1 - narrowing)

    def _illuminate(self) -> None:
        """Let light fall on the sphere with the face's relief."""
        pose = self.pose
        level = math.cos(pose.elevation)
        x = math.sin(pose.azimuth) * level
        y = -math.sin(pose.elevation)
        z = math.cos(pose.azimuth) * level
        self.light = (x, y, z)
        relief = self._relief()
        scale = self.radius / 8  # Sobel's filter gives eight times the slope per pixel
        slope_x = cv2.Sobel(relief, cv2.CV_32F, 1, 0) * scale
        slope_y = cv2.Sobel(relief, cv2.CV_32F, 0, 1) * scale
        normal_x = 0.9 * self.sphere_x - slope_x
        normal_y = 0.9 * self.sphere_y - slope_y
        normal_z = self.sphere_z + 0.12
        self.shade = self.diffuse(normal_x, normal_y, normal_z)
        # Blinn's model: the normal times the vector halfway between light and viewer.
        halfway = normal_x * x + normal_y * y + normal_z * (z + 1)
        halfway = halfway / math.sqrt(2 + 2 * z)
        squared = normal_x * normal_x + normal_y * normal_y + normal_z * normal_z
        self.gloss = power(halfway / np.sqrt(squared), 24)

    def _relief(self) -> Array:
        """Height (S, S) of the face above the sphere."""
        look = self.look
        nose_v = look.nose_v
        mouth_v = look.mouth_v
        bridge = 0.05 * self.on_nose(0.5 * nose_v, 0.09, 0.28)
        tip = 0.1 * self.on_nose(nose_v, look.nose_width, 0.1)
        relief = look.nose_height * (bridge + tip)
        wing_at = (look.nose_width, nose_v + 0.02)
        wings = bump(np.abs(self.nose_u), self.v, wing_at, (0.06, 0.06))
        relief += 0.035 * wings
        relief -= 0.055 * self.on_sides(look.eye_u, look.eye_v, 0.24, 0.12)
        brows = 0.03 * self.on_sides(look.eye_u, look.eye_v - 0.2, 0.3, 0.08)
        cheeks = 0.05 * self.on_sides(0.5, 0.34, 0.25, 0.2)
        relief += brows + cheeks
        # From the wings of the nose to the corners of the mouth.
        from_fold = self.side_u - 0.24 - 0.35 * (self.v - nose_v)
        folds = bump(from_fold, self.v, (0, 0.52), (0.035, 0.14))
        relief -= 0.02 * (1 + 0.8 * self.pose.smile) * folds
        chin = 0.05 * self.in_middle(0.9, 0.28, 0.12)
        lips = 0.03 * self.in_middle(mouth_v, 0.3, 0.1)
        relief += chin + lips
        below_lips = 0.03 * self.in_middle(mouth_v + 0.15, 0.2, 0.05)
        return relief - below_lips

    def in_middle(self, v: float, width: float, height: float) -> Array:
        """A :func:`bump` (S, S) on the face's middle line."""
        return bump(self.u, self.v, (0, v), (width, height))

    def on_nose(self, v: float, width: float, height: float) -> Array:
        """A bump on the nose's middle line."""
        return bump(self.nose_u, self.v, (0, v), (width, height))

    def on_sides(self, u: float, v: float, width: float, height: float) -> Array:
        """Two bumps, one on either side of the face."""
        return bump(self.side_u, self.v, (u, v), (width, height))

    def diffuse(self, x: Array, y: Array, z: Array | float) -> Array:
        """Diffuse light on a surface with this normal, which need not have length 1."""
        light_x, light_y, light_z = self.light
        length = np.sqrt(x * x + y * y + z * z + 1e-6)
        cosine = (x * light_x + y * light_y + z * light_z) / length
        ambient = self.pose.ambient
        return ambient + (1.05 - ambient) * np.maximum(0.8 * cosine + 0.2, 0)

    def place(self, u: float, v: float) -> Array:
        """Pixel (2,) of a place in the face: the inverse of :meth:`_project`."""
        z = math.sqrt(max(1 - u * u - v * v, 0))
        b = v * self.cos_pitch + z * self.sin_pitch
        z = z * self.cos_pitch - v * self.sin_pitch
        along = math.copysign(abs(b) ** (1 / self.look.chin), b)
        a = u * self.cos_yaw + z * self.sin_yaw
        across = a * float(self._half_width(along))
        turned = np.float32([across, along]) @ self.turn
        return turned * self.radius + self.centre

    def window(
        self, canvas: Array, u: float, v: float, reach: float
    ) -> tuple[Array, Array, Array, Array]:
        """The part of the canvas about a place in the face, and ``u``, ``v``, ``shade`` there."""
        middle = self.place(u, v)
        left, top = np.maximum(middle - reach * self.radius, 0).astype(int)
        right, bottom = (middle + reach * self.radius + 1).astype(int)
        part = (slice(top, bottom), slice(left, right))
        return canvas[part], self.u[part], self.v[part], self.shade[part]


def render(look: Look, pose: Pose, behind: Array, size: int) -> Shot:
    """Paint a person in a pose.

    Args:
        look: The person.
        pose: Their pose, expression and light.
        behind: Backdrop (S, S, 3); S is larger than ``size``, and reducing smooths the edges.
        size: Side of the frame.
    """
    canvas = behind.copy()
    head = Head(look, pose, len(behind))
    hair = Hair(head)
    hair.paint_behind(canvas, head)
    _paint_neck_and_clothes(canvas, head)
    for side in (-1, 1):
        _paint_ear(canvas, head, side)
    _paint_skin(canvas, head)
    for side in (-1, 1):
        _paint_eye(canvas, head, side)
    corner_u, corner_v = _paint_mouth(canvas, head)
    if not look.bald:
        hair.paint_front(canvas, head)
    canvas = np.clip(canvas, 0, 1)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    places = [
        (-look.eye_u, look.eye_v),
        (look.eye_u, look.eye_v),
        (NOSE_DEPTH * head.sin_yaw, look.nose_v),
        (-corner_u, corner_v),
        (corner_u, corner_v),
    ]
    landmarks = np.float32([head.place(u, v) for u, v in places])
    return Shot(image, (landmarks + 0.5) * (size / len(behind)) - 0.5)


# ---------------------------------------------------------------- hair and body


class Hair:
    """The hair of a head.

    Attributes:
        strand: Brightness (S, S) of the strands; its mean is about 0.
        colour: Their lit colour (S, S, 3).
        grown: How far inside the hair's outline a pixel lies: 1 at the middle, 0 on the outline.
    """

    def __init__(self, head: Head) -> None:
        look = head.look
        across = head.across
        along = head.along
        # Strands run down from the crown.
        angle = np.arctan2(across + 0.3 * look.hair_slant, 1.1 + along)
        distance = np.sqrt(across * across + (along + 0.6) ** 2)
        self.strand = _looked_up(look.strands, angle * 55 + 128, distance * 8 + 2)
        height = np.exp(-(((along + 0.72) / 0.16) ** 2))
        sheen = 0.25 * head.light[2] * height * (0.6 + 0.3 * self.strand)
        light = head.diffuse(head.sphere_x, head.sphere_y - 0.3, 0.6)
        light = light * (0.8 + 0.13 * self.strand) + sheen
        light = light[..., None]
        colour = look.hair * light + 0.04 * (light - 0.5)
        self.colour = np.clip(colour, 0, 1)
        x = across / (look.broad + look.hair_volume)
        y = (along + 0.02) / (1 + look.hair_volume)
        self.grown = 1 - x**2 - y**2

    def paint_behind(self, canvas: Array, head: Head) -> None:
        """Long hair falls behind the shoulders."""
        look = head.look
        along = head.along
        if not look.hair_length:
            return
        spread = look.broad + 0.5 * look.hair_volume + 0.1
        spread = spread + 0.1 * np.clip(along, -1, 1)
        above_centre = self.grown * 0.5 * look.broad
        below_centre = spread - np.abs(head.across)
        sides = np.where(along < 0, above_centre, below_centre)
        inside = np.minimum(sides, look.hair_length - along)
        lay_over(canvas, self.colour * 0.75, edge(inside * head.radius))

    def paint_front(self, canvas: Array, head: Head) -> None:
        """The fringe on the forehead with its shadow, and the rim about the head."""
        look = head.look
        u = head.u
        fringe = look.hairline + look.hair_curve * power(head.side_u, 2.2)
        fringe += look.hair_slant * u * np.clip(1 - u * u, 0, 1)
        fringe += 0.012 * self.strand
        end = 0.3 if look.hair_length else 0.05
        on_forehead = edge((fringe - head.v) * head.radius * 0.7)
        above_end = np.clip((end + 0.12 - head.along) * 8, 0, 1)
        front = on_forehead * above_end * head.inside
        outline = edge(self.grown * 0.5 * look.broad * head.radius)
        above_end = np.clip((end - head.along) * 8, 0, 1)
        rim = outline * above_end * (1 - head.inside)
        below_fringe = edge((fringe + 0.06 - head.v) * head.radius * 0.25)
        shadow = np.clip(head.inside * below_fringe - front, 0, 1)
        lay_over(canvas, canvas * 0.75, 0.5 * shadow)
        density = np.clip(0.97 + 0.03 * self.strand, 0, 1)
        lay_over(canvas, self.colour, (front + rim) * density)


def _looked_up(texture: Array, x: Array, y: Array) -> Array:
    """The values (H, W) of a texture at the places x, y (H, W)."""
    return cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _paint_neck_and_clothes(canvas: Array, head: Head) -> None:
    look = head.look
    radius = head.radius
    light_x = head.light[0]
    first_row = max(int(head.centre[1] + 0.3 * radius), 0)
    body = canvas[first_row:]
    x = head.x[first_row:]
    y = head.y[first_row:]
    from_middle = np.abs(x)
    below_chin = np.clip(y - 1.05, 0, 1)
    half_neck = 0.57 * look.broad + 0.5 * below_chin**2
    chin_shadow = np.clip(0.52 + 0.7 * (y - 1.0), 0.52, 0.87)
    light = chin_shadow * (0.85 + 0.3 * light_x * x)
    colour = look.skin * power(light[..., None], NECK_SHADOW)
    lay_over(body, colour, edge((half_neck - from_middle) * radius))
    torso = 1 - (x / 1.75) ** 2 - ((y - 2.15) / 0.95) ** 2
    opening = look.collar - from_middle - 0.75 * (y - 1.22)
    opening = edge(opening * radius * 0.8) * (from_middle < 0.6)
    folds = 0.12 * np.sin(7 * x + 3 * y)
    chin_shadow = 0.25 * bump(x, y, (0, 1.2), (0.6, 0.25))
    light = 0.75 + 0.35 * light_x * x + folds - chin_shadow
    covered = edge(torso * 0.45 * radius) * (1 - opening)
    lay_over(body, look.cloth * light[..., None], covered)


def _paint_ear(canvas: Array, head: Head, side: int) -> None:
    """One ear; side is -1 left in the image, 1 right."""
    look = head.look
    across = head.across
    along = head.along
    middle = side * (look.broad + 0.015) * head.cos_yaw
    x = (across - middle) / 0.13
    y = (along - 0.14) / 0.24
    inside = 1 - x**2 - y**2
    hollow = 0.25 * bump(across, along, (middle, 0.14), (0.06, 0.13))
    light = 0.72 + 0.2 * side * head.light[0] - hollow
    light = np.clip(light, 0, 1)
    visible = min(max(0.9 - 2.5 * side * head.sin_yaw, 0), 1)
    opacity = edge(inside * 0.06 * head.radius) * visible
    lay_over(canvas, look.skin * light[..., None] * EAR, opacity)


# ---------------------------------------------------------------- the face


def _paint_skin(canvas: Array, head: Head) -> None:
    """The face's skin with freckles, blush and beard, and the nostrils."""
    look = head.look
    v = head.v
    mottling = _looked_up(look.skin_texture, head.u * 40 + 48, v * 40 + 48)
    freckles = look.freckles * mottling[..., None] * FRECKLE
    colour = look.skin * (1 + freckles)
    cheeks = head.on_sides(0.5, 0.36, 0.22, 0.18)
    nose = head.on_nose(look.nose_v, 0.15, 0.12)
    red = look.blush * (cheeks + 0.7 * nose)
    colour *= 1 - red[..., None] * BLUSH
    if look.beard:
        _grow_beard(colour, head, mottling)
    eye_sockets = head.on_sides(look.eye_u * 0.9, look.eye_v - 0.05, 0.17, 0.09)
    below_nose = head.on_nose(look.nose_v + 0.09, look.nose_width * 1.2, 0.045)
    open_to_light = 1 - 0.28 * eye_sockets - 0.32 * below_nose
    light = np.clip(head.shade * open_to_light, 0.05, 1.3)
    light = power(light[..., None], FACE_SHADOW)
    gloss = head.gloss * (0.065 + 0.04 * look.nose_height)
    lay_over(canvas, colour * light + gloss[..., None], head.inside)
    nostril_at = (look.nose_width * 0.5, look.nose_v + 0.075)
    nostrils = bump(np.abs(head.nose_u), v, nostril_at, (0.04, 0.022))
    lay_over(canvas, look.skin * NOSTRIL, 0.85 * nostrils)


def _grow_beard(skin: Array, head: Head, mottling: Array) -> None:
    """Lay a beard over the skin's colour (S, S, 3), in place."""
    look = head.look
    sideburns = 0.45 * np.clip(head.side_u - 0.35, 0, 1)
    density = (head.v - 0.5 + sideburns) * 4
    density = np.clip(density, 0, 1)
    density *= 1 - head.in_middle(look.mouth_v + 0.02, 0.2, 0.07)
    opacity = look.beard * density * (0.75 + 0.12 * mottling)
    colour = look.hair * 0.9 + 0.02
    lay_over(skin, colour, np.clip(opacity, 0, 1))


def _paint_eye(canvas: Array, head: Head, side: int) -> None:
    """One eye with its lids and brow; side is -1 left in the image, 1 right."""
    look = head.look
    half_width = look.eye_size * head.radius  # of the eye, in pixels
    view, u, v, shade = head.window(canvas, side * look.eye_u, look.eye_v - 0.1, 0.45)
    # The eye's coordinates: x from -1, inner corner, to 1, outer corner, and y on the same scale.
    x = side * (u - side * look.eye_u) * look.broad / look.eye_size
    y = (v - look.eye_v) / look.eye_size + look.eye_tilt * x
    arch = np.clip(1 - x * x, 0, 1)
    along = edge((1.05 - np.abs(x)) * half_width * 0.6)
    # The edges of the lids. The upper one is highest at blink = 0, and below the middle at 1.
    blink = head.pose.blink
    middle_of_upper = 0.3 * blink - look.eye_open * (1 - blink)
    upper = 1.15 * power(arch, 0.75) * middle_of_upper
    lower = 0.36 * arch
    below_upper = edge((y - upper) * half_width)
    above_lower = edge((lower - y) * half_width)
    white = below_upper * above_lower * (np.abs(x) < 1)
    fold = bump(x, y, (0, upper - 0.3), (ANYWHERE, 0.1))
    lay_over(view, look.skin * LID_FOLD, 0.45 * along * fold)
    lid_shadow = bump(x, y, (0, upper), (ANYWHERE, 0.25))
    lid_shadow = 1 - 0.35 * lid_shadow
    light = EYE_WHITE * (0.55 + 0.45 * float(shade.mean()))
    lay_over(view, light * lid_shadow[..., None], white)
    _paint_iris(view, head, side, x, y, white)
    lashes = bump(x, y, (0, upper - 0.03), (ANYWHERE, 0.11))
    lay_over(view, look.hair * 0.35 + look.skin * 0.08, 0.85 * along * lashes)
    lower_lid = bump(x, y, (0, lower + 0.04), (ANYWHERE, 0.09))
    lay_over(view, look.skin * LOWER_LID, 0.4 * along * lower_lid)
    _paint_brow(view, head, side, u, v)


def _paint_iris(view: Array, head: Head, side: int, x: Array, y: Array, white: Array) -> None:
    """Iris, pupil and glint, in the coordinates x, y of an eye, on its visible ``white``."""
    look = head.look
    half_width = look.eye_size * head.radius
    gaze = side * head.pose.gaze
    distance = np.sqrt((x - gaze) ** 2 + (y + 0.06) ** 2)
    rim = np.exp(-(((distance - 0.46) / 0.1) ** 2))
    light = 0.8 + 0.9 * np.clip(y + 0.1, 0, 0.4) - 0.45 * rim
    iris = edge((0.46 - distance) * half_width)
    lay_over(view, look.iris * light[..., None], white * iris)
    pupil = edge((0.2 - distance) * half_width)
    lay_over(view, PUPIL, white * pupil)
    towards_light = 0.16 * math.copysign(side, head.light[0])
    distance = np.sqrt((x - gaze - towards_light) ** 2 + (y + 0.24) ** 2)
    glint = edge((0.13 - distance) * half_width)
    lay_over(view, GLINT, 0.9 * white * glint)


def _paint_brow(view: Array, head: Head, side: int, u: Array, v: Array) -> None:
    look = head.look
    half_eye = look.eye_size * head.radius
    # x from -1, inner end, to 1, outer end; y from the brow's middle line.
    x = side * (u - side * look.eye_u * 1.02) * look.broad / (look.eye_size * 1.3)
    bend = look.brow_bend * (0.8 - (x - 0.1) ** 2)
    middle = look.eye_v - look.brow_height - head.pose.brow_raise
    y = v - (middle - bend + 0.02 * x)
    thickness = look.brow_width + 0.018 * look.man
    taper = 0.95 - 0.55 * np.clip(x, -1, 1)
    thickness = thickness * np.clip(taper, 0.2, 1)
    hairs = 0.68 + 0.17 * np.sin(28 * x + 60 * y)
    hairs = hairs * np.exp(-((y / thickness) ** 4))
    ends = edge((1 - np.abs(x)) * half_eye * 0.5)
    lay_over(view, look.hair * 0.6 + look.skin * 0.06, hairs * ends)


def _paint_mouth(canvas: Array, head: Head) -> tuple[float, float]:
    """Lips, teeth and the line between the lips; returns u and v of the right corner."""
    look = head.look
    pose = head.pose
    view, u, v, shade = head.window(canvas, 0, look.mouth_v, 0.55)
    half_width = look.mouth_width * (1 + 0.1 * pose.smile - 0.1 * pose.open)
    pixels = half_width * head.radius  # per unit of x and y
    # The mouth's coordinates: x from -1 to 1 between the corners, and y on the same scale.
    x = u * look.broad / half_width
    y = (v - look.mouth_v) / half_width + 0.22 * pose.smile * x * x
    arch = np.clip(1 - x * x, 0, 1)
    between_corners = np.abs(x) < 1
    hole_top = -0.22 * pose.open * arch
    hole_bottom = 0.75 * pose.open * arch
    cupids_bow = 1 - 0.3 * np.exp(-((x / 0.16) ** 2))
    upper = hole_top - look.upper_lip * power(arch, 0.6) * cupids_bow
    lower = hole_bottom + look.lower_lip * power(arch, 0.7)
    lightness = float(look.skin.mean())
    lipstick = LIPSTICK * (0.35 + 0.65 * lightness) / 0.75
    lip = look.skin * BARE_LIP * (1 - look.rouge) + lipstick * look.rouge
    fullest = hole_bottom + 0.5 * look.lower_lip
    swelling = bump(x, y, (0, fullest), (ANYWHERE, 0.1))
    light = shade * (1 + 0.22 * swelling - 0.15 * (y < hole_top))
    below_upper = edge((y - upper) * pixels)
    above_lower = edge((lower - y) * pixels)
    lips = below_upper * above_lower * between_corners
    lay_over(view, lip * light[..., None], lips)
    below_top = edge((y - hole_top) * pixels)
    above_bottom = edge((hole_bottom - y) * pixels)
    hole = below_top * above_bottom * between_corners
    lay_over(view, MOUTH_HOLE, hole)
    upper_teeth = edge((hole_top + 0.28 - y) * pixels)
    teeth = hole * upper_teeth * edge((0.85 - np.abs(x)) * pixels)
    light = 0.6 + 0.4 * float(shade.mean())
    lay_over(view, TEETH * light, teeth)
    middle = (hole_top + hole_bottom) / 2
    line = bump(x, y, (0, middle), (ANYWHERE, 0.05))
    line = (pose.open < 0.25) * (1 - hole) * line
    ends = edge((1.03 - np.abs(x)) * pixels * 0.4)
    lay_over(view, lip * LIP_LINE, 0.75 * line * ends)
    return half_width / look.broad, look.mouth_v - 0.22 * pose.smile * half_width
