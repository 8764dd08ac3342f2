"""The geometry and the light of a head.

A head is a unit sphere squeezed into a head's outline. A place in the face is a point of the
sphere, so features turn with it. The light on the skin depends on the normals of the sphere and of
a relief of nose, brows and so on.

The unit of length is the *radius*, half the head's height. Places in the face are (u, v), with u in
half widths of the head and v in radii: the middle is (0, 0), the eyes are near (-0.4, 0) and (0.4,
0), the nose's tip is near v = 0.4, the mouth near 0.64 and the chin at 1. All places, sizes and
heights below were chosen by eye.
"""

import math

import cv2
import numpy as np

from drawnfaces.brushes import bump, edge, power
from drawnfaces.people import Array, Look, Pose

RADIUS = 0.345  # half the head's height, as a share of the canvas's side, at Pose.scale = 1
NOSE_DEPTH = 0.16  # height of the tip of the nose above the sphere, whose radius is 1
FULL_LIGHT = 1.05  # diffuse light on a surface that faces the light
GLOSS_EXPONENT = 24  # of Blinn's model; a larger one makes smaller highlights


class Head:
    """Geometry and light of a person's head in a pose, at every pixel of a canvas (S, S).

    Attributes without a shape are arrays (S, S), but ``radius``, sines and cosines are numbers.

    Attributes:
        radius: Half the head's height, in pixels.
        centre: (2,) x and y, in pixels, of the head's middle.
        sin_yaw, cos_yaw, sin_pitch, cos_pitch: Sines and cosines of the pose's angles.
        unroll: Rotation (2, 2) that turns the image's axes into those of the upright head.
        x, y: The pixel relative to the centre, in radii.
        across, along: The same, turned so that the head is upright.
        sphere_x, sphere_y, sphere_z: The point of the unit sphere that the pixel shows. x is to the
            right and y down along the axes of the upright head, z is towards the viewer. Beside the
            head, z is 0.
        inside: Share of the pixel that the head covers, 0 to 1.
        u, v: The place in the face, u to the image's right and v down. The upright face seen from
            the front spans -1 to 1 in both.
        side_u: The absolute value of u, for features on both sides of the face.
        nose_u: u relative to the nose's middle line. The nose protrudes, so it moves further than
            the face when the head turns.
        light: Direction (3,) to the light, of length 1: x to the image's right, y down, z towards
            the viewer.
        shade: Diffuse light, by which colours are multiplied: from ``pose.ambient``, about 0.4, to
            ``FULL_LIGHT``.
        gloss: Mirrored light, 0 to 1, which is added to colours.
    """

    def __init__(
        self,
        look: Look,
        pose: Pose,
        size: int,
    ) -> None:
        """Compute all attributes for a canvas of ``size`` × ``size`` pixels."""
        self.look = look
        self.pose = pose
        self.radius = RADIUS * size * pose.scale
        centre = [0.5 + pose.shift_x, 0.49 + pose.shift_y]  # as shares of the canvas's side
        self.centre = size * np.float32(centre)
        self.sin_yaw = math.sin(pose.yaw)
        self.cos_yaw = math.cos(pose.yaw)
        self.sin_pitch = math.sin(pose.pitch)
        self.cos_pitch = math.cos(pose.pitch)
        sin_roll = math.sin(pose.roll)
        cos_roll = math.cos(pose.roll)
        # Turns by -roll: it undoes the roll of the head.
        first_row = [cos_roll, sin_roll]
        second_row = [-sin_roll, cos_roll]
        self.unroll = np.float32([first_row, second_row])
        self._turn_upright(size)
        self._project()
        self._illuminate()

    # ------------------------------------------------------------ geometry

    def _turn_upright(self, size: int) -> None:
        """Compute the place of every pixel relative to the head's middle, in radii.

        ``x`` and ``y`` are along the image's axes, ``across`` and ``along`` those of the upright
        head.
        """
        y, x = np.mgrid[0:size, 0:size].astype(np.float32)
        self.x = (x - self.centre[0]) / self.radius
        self.y = (y - self.centre[1]) / self.radius
        first_row, second_row = self.unroll  # (across, along) is the matrix times (x, y)
        self.across = first_row[0] * self.x + first_row[1] * self.y
        self.along = second_row[0] * self.x + second_row[1] * self.y

    def _project(self) -> None:
        """Find the point of the sphere, and the place in the face, that every pixel shows."""
        look = self.look
        # Map the head's outline to the unit circle: divide x by the half width at its height, and
        # raise y to the power of look.chin, about 1 (the larger, the more angular is the outline).
        # The height z above the circle then gives the point (x, y, z) of the sphere.
        x = self.across / self._half_width(self.along)
        y = np.sign(self.along) * power(np.abs(self.along), look.chin)
        z_squared = 1 - x * x - y * y
        # Near the rim, half of 1 - r**2 is about 1 - r, the distance from it in half widths of the
        # head; one of these is radius * broad pixels.
        self.inside = edge(z_squared * 0.5 * self.radius * look.broad)
        z = np.sqrt(np.maximum(z_squared, 0))
        self.sphere_x = x
        self.sphere_y = y
        self.sphere_z = z
        # Turn the sphere back by yaw, about the vertical axis, and then by pitch, about the
        # horizontal one: the place in the face is where the point was before the head turned.
        self.u = x * self.cos_yaw - z * self.sin_yaw
        depth = x * self.sin_yaw + z * self.cos_yaw
        self.v = y * self.cos_pitch - depth * self.sin_pitch
        self.side_u = np.abs(self.u)
        # 0 at the bridge, where v = 0, and 1 from the tip down: the tip is nearest to the viewer,
        # so it moves furthest when the head turns.
        down_the_nose = np.clip(self.v / look.nose_v, 0, 1)
        self.nose_u = self.u - NOSE_DEPTH * self.sin_yaw * down_the_nose

    def _half_width(self, along: Array | float) -> Array:
        """Half the head's width, in radii, at the height ``along``, in radii below its middle.

        Above the middle it is ``look.broad``; below, it shrinks, by the share ``look.jaw`` at the
        chin. The rounding of the head is not part of it: that comes from the sphere.
        """
        to_the_chin = np.clip(along, 0, 1)
        narrowing = self.look.jaw * power(to_the_chin, 1.5)
        return self.look.broad * (1 - narrowing)

    def pixel(self, u: float, v: float) -> Array:
        """x and y (2,), in pixels, of a place in the face.

        This undoes the steps of :meth:`_project` from the last to the first: the pitch, the
        exponent of the outline, the yaw, the half width of the head, and the roll.
        """
        z = math.sqrt(max(1 - u * u - v * v, 0))  # depth: (u, v, z) is on the unit sphere
        # Turn the point by the pitch. The exponent of the outline then gives its height `along`.
        y = v * self.cos_pitch + z * self.sin_pitch
        z = z * self.cos_pitch - v * self.sin_pitch
        along = math.copysign(abs(y) ** (1 / self.look.chin), y)
        # Turn it by the yaw. The head's half width at that height then gives `across`.
        x = u * self.cos_yaw + z * self.sin_yaw
        across = x * float(self._half_width(along))
        # (row vector) @ matrix turns by the transpose, which is the inverse rotation.
        turned = np.float32([across, along]) @ self.unroll
        return turned * self.radius + self.centre

    def window(
        self,
        u: float,
        v: float,
        reach: float,
    ) -> tuple[slice, slice]:
        """The rows and columns about a place in the face, up to ``reach`` radii away.

        A small feature is painted on this part of the canvas alone, which saves most of the time.
        """
        middle = self.pixel(u, v)
        half_side = reach * self.radius  # in pixels
        # A negative start of a slice would count from the end; an end beyond the canvas is cut.
        left, top = np.maximum(middle - half_side, 0).astype(int)
        right, bottom = (middle + half_side + 1).astype(int)  # + 1: a slice excludes its end
        return slice(top, bottom), slice(left, right)

    # ------------------------------------------------------------ places on the face

    # Bumps (S, S) of height 1, see brushes.bump. u and v are the place of the top, in a pair that
    # of the right one; the bump falls to 1/e at `width` in u and at `height` in v, in their units.

    def in_middle(
        self,
        v: float,
        width: float,
        height: float,
    ) -> Array:
        """A bump on the face's middle line."""
        return bump(self.u, self.v, (0, v), (width, height))

    def on_nose(
        self,
        v: float,
        width: float,
        height: float,
    ) -> Array:
        """A bump on the nose's middle line, which moves further than the face when it turns."""
        return bump(self.nose_u, self.v, (0, v), (width, height))

    def beside_nose(
        self,
        u: float,
        v: float,
        width: float,
        height: float,
    ) -> Array:
        """Two bumps, one on either side of the nose."""
        return bump(np.abs(self.nose_u), self.v, (u, v), (width, height))

    def on_sides(
        self,
        u: float,
        v: float,
        width: float,
        height: float,
    ) -> Array:
        """Two bumps, at (u, v) and (-u, v), one on either side of the face."""
        return bump(self.side_u, self.v, (u, v), (width, height))

    # ------------------------------------------------------------ light

    def _illuminate(self) -> None:
        """Compute ``light``, ``shade`` and ``gloss`` from the normals of sphere and relief."""
        pose = self.pose
        horizontal = math.cos(pose.elevation)  # length of the light's horizontal part
        light_x = math.sin(pose.azimuth) * horizontal
        light_y = -math.sin(pose.elevation)  # y points down, and the light comes from above
        light_z = math.cos(pose.azimuth) * horizontal
        self.light = (light_x, light_y, light_z)
        relief = self._upper_relief()
        self._add_lower_relief(relief)
        # Sobel's filter gives eight times the slope per pixel. The relief is in radii, so the slope
        # is multiplied by the pixels of a radius to be a ratio of lengths.
        scale = self.radius / 8
        slope_x = cv2.Sobel(relief, cv2.CV_32F, 1, 0) * scale
        slope_y = cv2.Sobel(relief, cv2.CV_32F, 0, 1) * scale
        # The normal, not yet of length 1. That of the sphere is the point of the sphere itself.
        # Where the relief rises to the right, the surface faces further to the left: so slopes are
        # subtracted. With 0.9 and 0.12 the face is a little flatter than the sphere. The sphere's
        # axes are those of the upright head, those of slopes and light the image's: the roll, about
        # 8 degrees at most, is neglected. Correcting it would change the pixels of every dataset.
        x = 0.9 * self.sphere_x - slope_x
        y = 0.9 * self.sphere_y - slope_y
        z = self.sphere_z + 0.12
        self.shade = self.diffuse(x, y, z)
        # Blinn's model: a power of the cosine between the normal and the direction halfway between
        # light and viewer. That direction is light + (0, 0, 1), of length sqrt(2 + 2 * light_z).
        dot = x * light_x + y * light_y + z * (light_z + 1)
        dot = dot / math.sqrt(2 + 2 * light_z)
        length = np.sqrt(x * x + y * y + z * z)
        cosine = dot / length
        self.gloss = power(cosine, GLOSS_EXPONENT)  # about 0 where the cosine is negative

    def _upper_relief(self) -> Array:
        """Height (S, S) of nose, eye sockets, brows and cheeks above the sphere, in radii.

        Each feature is a bump, whose ``width`` and ``height`` are its extent on the face, times its
        elevation: the factors at the end.
        """
        look = self.look
        bridge = self.on_nose(
            v=0.5 * look.nose_v,
            width=0.09,
            height=0.28,
        )
        tip = self.on_nose(
            v=look.nose_v,
            width=look.nose_width,
            height=0.1,
        )
        wings = self.beside_nose(
            u=look.nose_width,
            v=look.nose_v + 0.02,
            width=0.06,
            height=0.06,
        )
        eye_sockets = self.on_sides(
            look.eye_u,
            look.eye_v,
            width=0.24,
            height=0.12,
        )
        brows = self.on_sides(
            look.eye_u,
            look.eye_v - 0.2,
            width=0.3,
            height=0.08,
        )
        relief = look.nose_height * (0.05 * bridge + 0.1 * tip)
        relief += 0.035 * wings
        relief -= 0.055 * eye_sockets
        relief += 0.03 * brows + 0.05 * self._cheeks()
        return relief

    def _cheeks(self) -> Array:
        """A bump on each cheek bone, beside the nose."""
        return self.on_sides(
            u=0.5,
            v=0.34,
            width=0.25,
            height=0.2,
        )

    def _add_lower_relief(self, relief: Array) -> None:
        """Add the folds beside the mouth, chin and lips to the relief (S, S), in place.

        Each is a bump times its height above the sphere, in radii; below 0 it is a hollow.
        """
        look = self.look
        # The folds run from the wings of the nose, at side_u = 0.24, down and outwards to the
        # corners of the mouth: for each unit of v, 0.35 of u.
        below_nose = self.v - look.nose_v
        from_fold = self.side_u - 0.24 - 0.35 * below_nose
        folds = bump(from_fold, self.v, (0, 0.52), (0.035, 0.14))  # narrow, from v = 0.38 to 0.66
        chin = self.in_middle(
            v=0.9,
            width=0.28,
            height=0.12,
        )
        lips = self.in_middle(
            look.mouth_v,
            width=0.3,
            height=0.1,
        )
        below_lips = self.in_middle(
            look.mouth_v + 0.15,
            width=0.2,
            height=0.05,
        )
        relief -= 0.02 * (1 + 0.8 * self.pose.smile) * folds  # a smile deepens them
        relief += 0.05 * chin + 0.03 * lips
        relief -= 0.03 * below_lips

    def diffuse(
        self,
        x: Array,
        y: Array,
        z: Array | float,
    ) -> Array:
        """Diffuse light (S, S) on a surface with this normal, which need not have length 1.

        The normal's axes are those of ``light``. The light is ``pose.ambient`` on what faces away
        from it, and ``FULL_LIGHT`` on what faces it.
        """
        light_x, light_y, light_z = self.light
        length = np.sqrt(x * x + y * y + z * z + 1e-6)  # 1e-6: never 0, since it divides
        cosine = (x * light_x + y * light_y + z * light_z) / length
        # Lambert's law is the cosine alone. This is softer: light reaches a little beyond the edge
        # of the lit half. 1 where the surface faces the light, 0 where it faces away.
        lit = np.maximum(0.8 * cosine + 0.2, 0)
        ambient = self.pose.ambient
        return ambient + (FULL_LIGHT - ambient) * lit
