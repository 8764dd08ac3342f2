"""People: their looks and their motion, the drawing of their faces, and the user's portraits set in motion.

A person is drawn from an own random stream. A head is a unit sphere squeezed into a head's outline; features are painted
on the sphere, so that they turn with it, and light falls on the sphere's normals plus a relief.
"""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from dfnb import core

FRAME_STEP = 10  # a stored frame is every tenth of the imagined video
CONFIDENT = 0.8  # confidence from which a detection in a portrait is a face

Span = tuple[float, float]
Array = np.ndarray

TABLES = core.read_yaml(Path(__file__).with_suffix(".yaml"))
SKINS, HAIRS, IRISES = (np.float32(TABLES[name]) / 100 for name in ("skins", "hairs", "irises"))


class Shot(NamedTuple):
    """A frame (S, S, 3) float32 RGB in [0, 1] with its landmarks (5, 2) in pixels."""

    image: Array
    landmarks: Array


class Portrait(NamedTuple):
    """A photograph with one face: landmarks (5, 2) in its pixels, and the face's brightness in [0, 255]."""

    path: str
    landmarks: Array
    tone: float


def blob(u: Array, v: Array, cu: float | Array, cv: float | Array, su: float, sv: float) -> Array:
    """A bump of height 1 at (cu, cv) with widths su and sv."""
    return np.exp(-(((u - cu) / su) ** 2) - ((v - cv) / sv) ** 2)


def edge(distance: Array) -> Array:
    """Coverage of a pixel whose centre is so many pixels inside an edge."""
    return np.clip(distance + 0.5, 0, 1)


def _power(base: Array, exponent: Array | float) -> Array:
    """``base ** exponent`` of a base >= 0: numpy's exp and log of float32 use the vector unit, its power does not."""
    return np.exp(exponent * np.log(np.maximum(base, 1e-6)))


def _over(canvas: Array, colour: Array | float, alpha: Array) -> None:
    canvas += alpha[..., None] * (colour - canvas)


# ------------------------------------------------------------------------------------------------- looks and motion


def person(draw: Generator, tone: float) -> SimpleNamespace:
    """The fixed looks of a person of a skin tone in [0, 4], light to dark; ``people.yaml`` says what each value is."""
    man = draw.random() < 0.5
    grain = draw.standard_normal((96, 96)).astype(np.float32)
    strands = cv2.GaussianBlur(draw.standard_normal((24, 256)).astype(np.float32), (0, 0), sigmaX=1.3, sigmaY=8)
    skin = np.float32([np.interp(tone, range(5), channel) for channel in SKINS.T])
    hair = HAIRS[draw.choice(6, p=[0.22, 0.26, 0.2, 0.08, 0.14, 0.1]) if tone < 2.2 else draw.choice(2)]
    spans = TABLES["man" if man else "woman"]
    return SimpleNamespace(
        man=man,
        skin=skin * draw.uniform(0.95, 1.04, 3).astype(np.float32),
        hair=hair * draw.uniform(0.8, 1.2),
        iris=IRISES[draw.choice(5 if tone < 1.6 else 2)],
        texture=sum(cv2.GaussianBlur(grain, (0, 0), s) * g for s, g in ((1.0, 0.6), (3.0, 3.0), (8.0, 9.6))),
        strands=strands / float(strands.std()),
        **{name: draw.uniform(*span) for name, span in spans["face"].items()},
        beard=draw.choice([0.0, 0.0, draw.uniform(0.15, 0.45), draw.uniform(0.6, 0.85)]) if man else 0.0,
        **{name: draw.uniform(*span) for name, span in spans["hair"].items()},
        bald=man and draw.random() < 0.08,
        length=0.0 if man or draw.random() < 0.25 else draw.uniform(0.9, 1.7),
        cloth=(draw.uniform(0.08, 0.8) * draw.uniform(0.55, 1, 3)).astype(np.float32),
        collar=draw.uniform(0.15, 0.6),
    )


def motion(pose: Generator, expression: Generator, n: int) -> list[SimpleNamespace]:
    """Pose of n frames, and expression and light from a second stream: slow waves, as ``people.yaml`` says."""
    t = np.arange(n) * FRAME_STEP
    waves = {}
    for draw, table in ((pose, TABLES["pose"]), (expression, TABLES["expression_and_light"])):
        for name, (low, high, swing, *limits) in table.items():
            slow, fast = (np.sin(2 * np.pi * (t / draw.uniform(*s) + draw.random())) for s in ((70, 160), (25, 60)))
            wave = draw.uniform(low, high) + swing * (0.6 * slow + 0.4 * fast)
            waves[name] = np.clip(wave, *limits or (-9, 9)).tolist()
    return [SimpleNamespace(**dict(zip(waves, values))) for values in zip(*waves.values())]


def backdrop(draw: Generator, size: int) -> Array:
    """What is behind the person: two colours, a few shapes, out of focus."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    ends = draw.uniform([[0.25], [0.15]], [[0.9], [0.75]], (2, 3)).astype(np.float32)
    ends = 0.4 * ends + 0.6 * ends.mean(axis=1, keepdims=True)
    angle = draw.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle), 0, 1)[..., None]
    canvas = ends[0] * ramp + ends[1] * (1 - ramp)
    mean = canvas.mean(axis=(0, 1))
    for _ in range(draw.integers(2, 9)):
        colour = (mean * draw.uniform(0.5, 1.5) * draw.uniform(0.85, 1.15, 3)).clip(0, 1).tolist()
        at, extent = draw.uniform(0, size, 2).astype(int), (draw.uniform(0.05, 0.4, 2) * size).astype(int)
        if draw.random() < 0.5:
            cv2.ellipse(canvas, at.tolist(), extent.tolist(), 0, 0, 360, colour, -1)
        else:
            cv2.rectangle(canvas, at.tolist(), (at + extent).tolist(), colour, -1)
    return cv2.GaussianBlur(canvas, (0, 0), draw.uniform(1.5, 8))


# ------------------------------------------------------------------------------------------------- drawing


class _Head:
    """Geometry and light of a person's head in a pose, at every pixel (S, S).

    Attributes:
        r, x, y: its radius in pixels; the pixel about its centre, by that radius.
        p, q: the same, turned upright.
        a, b, z: the point of the unit sphere that is seen there; ``inside``: how much of the pixel the head covers.
        u, v: the place in the face, u to the image's right and v down; ``au`` is abs(u), and ``un`` is u on the nose.
        shade, gloss: diffuse light in about [0, 1], and mirrored light.
    """

    def __init__(self, look: SimpleNamespace, pose: SimpleNamespace, size: int) -> None:
        self.look, self.pose = look, pose
        self.r = 0.345 * size * pose.scale
        self.centre = size * np.float32([0.5 + pose.dx, 0.49 + pose.dy])
        c, s = math.cos(pose.roll), math.sin(pose.roll)
        self.turn = np.float32([[c, s], [-s, c]])
        self.x, self.y = (np.mgrid[0:size, 0:size][::-1].astype(np.float32) - self.centre[:, None, None]) / self.r
        self.p, self.q = (row[0] * self.x + row[1] * self.y for row in self.turn)
        self.sy, self.cy, self.sp, self.cp = (f(t) for t in (pose.yaw, pose.pitch) for f in (math.sin, math.cos))
        self.a, self.b = self.p / self._half_width(self.q), np.sign(self.q) * _power(np.abs(self.q), look.chin)
        inside = 1 - self.a * self.a - self.b * self.b
        self.inside, self.z = edge(inside * 0.5 * self.r * look.broad), np.sqrt(np.maximum(inside, 0))
        self.u = self.a * self.cy - self.z * self.sy
        self.v = self.b * self.cp - (self.a * self.sy + self.z * self.cy) * self.sp
        self.au = np.abs(self.u)
        self.un = self.u - 0.16 * self.sy * np.clip(self.v / look.nose_v, 0, 1)  # it stands out, and so moves further
        flat = math.cos(pose.elevation)
        self.light = math.sin(pose.azimuth) * flat, -math.sin(pose.elevation), math.cos(pose.azimuth) * flat
        gx, gy = (cv2.Sobel(self._relief(), cv2.CV_32F, *order) * (self.r / 8) for order in ((1, 0), (0, 1)))
        nx, ny, nz = 0.9 * self.a - gx, 0.9 * self.b - gy, self.z + 0.12
        self.shade = self.lit(nx, ny, nz)
        lx, ly, lz = self.light
        half = (nx * lx + ny * ly + nz * (lz + 1)) / math.sqrt(2 + 2 * lz)  # by Blinn's halfway vector
        self.gloss = _power(half / np.sqrt(nx * nx + ny * ny + nz * nz), 24)

    def _half_width(self, q: Array) -> Array:
        return self.look.broad * (1 - self.look.jaw * _power(np.clip(q, 0, 1), 1.5))

    def _relief(self) -> Array:
        """Height of the face above the sphere."""
        look, u, v, un, au = self.look, self.u, self.v, self.un, self.au
        bridge = 0.05 * blob(un, v, 0, 0.5 * look.nose_v, 0.09, 0.28)
        relief = look.nose_height * (bridge + 0.1 * blob(un, v, 0, look.nose_v, look.nose_width, 0.1))
        relief += 0.035 * blob(np.abs(un), v, look.nose_width, look.nose_v + 0.02, 0.06, 0.06)  # wings of the nose
        relief -= 0.055 * blob(au, v, look.eye_u, look.eye_v, 0.24, 0.12)
        relief += 0.03 * blob(au, v, look.eye_u, look.eye_v - 0.2, 0.3, 0.08) + 0.05 * blob(au, v, 0.5, 0.34, 0.25, 0.2)
        folds = blob(au - 0.24 - 0.35 * (v - look.nose_v), v, 0, 0.52, 0.035, 0.14)
        relief -= 0.02 * (1 + 0.8 * self.pose.smile) * folds
        relief += 0.05 * blob(u, v, 0, 0.9, 0.28, 0.12) + 0.03 * blob(u, v, 0, look.mouth_v, 0.3, 0.1)
        return relief - 0.03 * blob(u, v, 0, look.mouth_v + 0.15, 0.2, 0.05)

    def lit(self, nx: Array, ny: Array, nz: Array | float) -> Array:
        """Diffuse light on a surface of this normal, which need not have length 1."""
        lx, ly, lz = self.light
        facing = (nx * lx + ny * ly + nz * lz) / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-6)
        return self.pose.ambient + (1.05 - self.pose.ambient) * np.maximum(0.8 * facing + 0.2, 0)

    def place(self, u: float, v: float) -> Array:
        """Pixel (2,) of a place in the face: the inverse of how ``a``, ``b``, ``u`` and ``v`` are made."""
        z = math.sqrt(max(1 - u * u - v * v, 0))
        b, z = v * self.cp + z * self.sp, z * self.cp - v * self.sp
        q = math.copysign(abs(b) ** (1 / self.look.chin), b)
        p = (u * self.cy + z * self.sy) * float(self._half_width(q))
        return (np.float32([p, q]) @ self.turn) * self.r + self.centre

    def window(self, canvas: Array, u: float, v: float, reach: float) -> tuple[Array, Array, Array, Array]:
        """The part of the canvas about a place in the face, with ``u``, ``v`` and ``shade`` there."""
        low = np.maximum(self.place(u, v) - reach * self.r, 0).astype(int)
        high = (self.place(u, v) + reach * self.r + 1).astype(int)
        part = slice(low[1], high[1]), slice(low[0], high[0])
        return canvas[part], self.u[part], self.v[part], self.shade[part]


def render(look: SimpleNamespace, pose: SimpleNamespace, behind: Array, out: int) -> Shot:
    """Draw a person in a pose before a backdrop (S, S, 3), reduced to (out, out, 3), which smooths the edges."""
    size, canvas = len(behind), behind.copy()
    head = _Head(look, pose, size)
    hair = _Hair(head)
    hair.paint_behind(canvas, head)
    _paint_body(canvas, head)
    _paint_skin(canvas, head)
    for side in (-1, 1):
        _paint_eye(canvas, head, side)
    corner_u, corner_v = _paint_mouth(canvas, head)
    if not look.bald:
        hair.paint_front(canvas, head)
    image = cv2.resize(np.clip(canvas, 0, 1), (out, out), interpolation=cv2.INTER_AREA)
    eyes, nose = [(-look.eye_u, look.eye_v), (look.eye_u, look.eye_v)], (0.16 * head.sy, look.nose_v)
    points = [*eyes, nose, (-corner_u, corner_v), (corner_u, corner_v)]
    return Shot(image, (np.float32([head.place(*point) for point in points]) + 0.5) * (out / size) - 0.5)


class _Hair:
    """The hair's colour (S, S, 3), its strands (S, S), and how far inside its outline a pixel is (S, S)."""

    def __init__(self, head: _Head) -> None:
        look, p, q = head.look, head.p, head.q
        angle, radius = np.arctan2(p + 0.3 * look.slant, 1.1 + q), np.sqrt(p * p + (q + 0.6) ** 2)
        x, y = angle * 55 + 128, radius * 8 + 2
        self.strand = cv2.remap(look.strands, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        sheen = 0.25 * head.light[2] * np.exp(-(((q + 0.72) / 0.16) ** 2)) * (0.6 + 0.3 * self.strand)
        light = (head.lit(head.a, head.b - 0.3, 0.6) * (0.8 + 0.13 * self.strand) + sheen)[..., None]
        self.colour = np.clip(look.hair * light + 0.04 * (light - 0.5), 0, 1)
        self.grown = 1 - (p / (look.broad + look.volume)) ** 2 - ((q + 0.02) / (1 + look.volume)) ** 2

    def paint_behind(self, canvas: Array, head: _Head) -> None:
        """Long hair falls behind the shoulders."""
        look, q = head.look, head.q
        if look.length:
            spread = look.broad + 0.5 * look.volume + 0.1 + 0.1 * np.clip(q, -1, 1)
            sides = np.where(q < 0, self.grown * 0.5 * look.broad, spread - np.abs(head.p))
            _over(canvas, self.colour * 0.75, edge(np.minimum(sides, look.length - q) * head.r))

    def paint_front(self, canvas: Array, head: _Head) -> None:
        """The fringe on the forehead with its shadow, and the rim about the head."""
        look, u, v, q = head.look, head.u, head.v, head.q
        fringe = look.hairline + look.curve * _power(head.au, 2.2) + look.slant * u * np.clip(1 - u * u, 0, 1)
        fringe += 0.012 * self.strand
        below = 0.3 if look.length else 0.05
        front = edge((fringe - v) * head.r * 0.7) * np.clip((below + 0.12 - q) * 8, 0, 1) * head.inside
        rim = edge(self.grown * 0.5 * look.broad * head.r) * np.clip((below - q) * 8, 0, 1) * (1 - head.inside)
        shadow = head.inside * edge((fringe + 0.06 - v) * head.r * 0.25) - front
        _over(canvas, canvas * 0.75, 0.5 * np.clip(shadow, 0, 1))
        _over(canvas, self.colour, (front + rim) * np.clip(0.97 + 0.03 * self.strand, 0, 1))


def _paint_body(canvas: Array, head: _Head) -> None:
    """Neck, clothes and ears."""
    look, r, lx = head.look, head.r, head.light[0]
    x, y, body = (each[max(int(head.centre[1] + 0.3 * r), 0) :] for each in (head.x, head.y, canvas))
    neck = edge((0.57 * look.broad + 0.5 * np.clip(y - 1.05, 0, 1) ** 2 - np.abs(x)) * r)
    neck_light = np.clip(0.52 + 0.7 * (y - 1.0), 0.52, 0.87) * (0.85 + 0.3 * lx * x)
    _over(body, look.skin * _power(neck_light[..., None], np.float32([0.9, 1.05, 1.1])), neck)
    torso = 1 - (x / 1.75) ** 2 - ((y - 2.15) / 0.95) ** 2
    opening = edge((look.collar - np.abs(x) - 0.75 * (y - 1.22)) * r * 0.8)
    cloth = 0.75 + 0.35 * lx * x + 0.12 * np.sin(7 * x + 3 * y) - 0.25 * blob(x, y, 0, 1.2, 0.6, 0.25)
    _over(body, look.cloth * cloth[..., None], edge(torso * 0.45 * r) * (1 - opening * (np.abs(x) < 0.6)))
    for side in (-1, 1):
        at = side * (look.broad + 0.015) * head.cy
        ear = edge((1 - ((head.p - at) / 0.13) ** 2 - ((head.q - 0.14) / 0.24) ** 2) * 0.06 * r)
        ear_light = np.clip(0.72 + 0.2 * side * lx - 0.25 * blob(head.p, head.q, at, 0.14, 0.06, 0.13), 0, 1)
        seen = min(max(0.9 - 2.5 * side * head.sy, 0), 1)
        _over(canvas, look.skin * ear_light[..., None] * np.float32([1.05, 0.93, 0.92]), ear * seen)


def _paint_skin(canvas: Array, head: _Head) -> None:
    """The face's skin with freckles, blush and beard, and the nostrils."""
    look, u, v, un, au = head.look, head.u, head.v, head.un, head.au
    mottled = cv2.remap(look.texture, u * 40 + 48, v * 40 + 48, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    albedo = look.skin * (1 + look.freckles * mottled[..., None] * np.float32([0.36, 0.6, 0.66]))
    red = look.blush * (blob(au, v, 0.5, 0.36, 0.22, 0.18) + 0.7 * blob(un, v, 0, look.nose_v, 0.15, 0.12))
    albedo *= 1 - red[..., None] * np.float32([0.0, 1.6, 1.5])
    if look.beard:
        grows = np.clip((v - 0.5 + 0.45 * np.clip(au - 0.35, 0, 1)) * 4, 0, 1)
        grows *= 1 - blob(u, v, 0, look.mouth_v + 0.02, 0.2, 0.07)
        _over(albedo, look.hair * 0.9 + 0.02, np.clip(look.beard * grows * (0.75 + 0.12 * mottled), 0, 1))
    hollow = 1 - 0.28 * blob(au, v, look.eye_u * 0.9, look.eye_v - 0.05, 0.17, 0.09)
    hollow -= 0.32 * blob(un, v, 0, look.nose_v + 0.09, look.nose_width * 1.2, 0.045)
    # shadows of skin are red
    warm = _power(np.clip(head.shade * hollow, 0.05, 1.3)[..., None], np.float32([0.85, 1.05, 1.15]))
    _over(canvas, albedo * warm + (head.gloss * (0.065 + 0.04 * look.nose_height))[..., None], head.inside)
    nostrils = blob(np.abs(un), v, look.nose_width * 0.5, look.nose_v + 0.075, 0.04, 0.022)
    _over(canvas, look.skin * np.float32([0.3, 0.2, 0.18]), 0.85 * nostrils)


def _paint_eye(canvas: Array, head: _Head, side: int) -> None:
    """One eye with its lids and brow; side is -1 left in the image, 1 right."""
    look, pose, px = head.look, head.pose, head.look.eye_size * head.r
    view, u, v, shade = head.window(canvas, side * look.eye_u, look.eye_v - 0.1, 0.45)
    e = side * (u - side * look.eye_u) * look.broad / look.eye_size  # -1 inner corner, 1 outer corner
    f = (v - look.eye_v) / look.eye_size + look.eye_tilt * e
    arch, along = np.clip(1 - e * e, 0, 1), edge((1.05 - np.abs(e)) * px * 0.6)
    upper, lower = 1.15 * _power(arch, 0.75) * (0.3 * pose.blink - look.eye_open * (1 - pose.blink)), 0.36 * arch
    white = edge((f - upper) * px) * edge((lower - f) * px) * (np.abs(e) < 1)
    _over(view, look.skin * np.float32([0.62, 0.5, 0.47]), 0.45 * along * blob(e, f, 0, upper - 0.3, 9, 0.1))
    under_lid = 1 - 0.35 * blob(e, f, 0, upper, 9, 0.25)
    _over(view, 0.92 * (0.55 + 0.45 * float(shade.mean())) * under_lid[..., None], white)
    d = np.sqrt((e - side * pose.gaze) ** 2 + (f + 0.06) ** 2)
    ring = 0.8 + 0.9 * np.clip(f + 0.1, 0, 0.4) - 0.45 * np.exp(-(((d - 0.46) / 0.1) ** 2))
    _over(view, look.iris * ring[..., None], white * edge((0.46 - d) * px))
    _over(view, 0.03, white * edge((0.2 - d) * px))
    glint = np.sqrt((e - side * pose.gaze - 0.16 * math.copysign(side, head.light[0])) ** 2 + (f + 0.24) ** 2)
    _over(view, 1.0, 0.9 * white * edge((0.13 - glint) * px))
    _over(view, look.hair * 0.35 + look.skin * 0.08, 0.85 * along * blob(e, f, 0, upper - 0.03, 9, 0.11))
    _over(view, look.skin * np.float32([0.6, 0.45, 0.42]), 0.4 * along * blob(e, f, 0, lower + 0.04, 9, 0.09))
    k = side * (u - side * look.eye_u * 1.02) * look.broad / (look.eye_size * 1.3)  # along the brow
    g = v - (look.eye_v - look.brow_height - pose.raise_ - look.brow_bend * (0.8 - (k - 0.1) ** 2) + 0.02 * k)
    taper = (look.brow_width + 0.018 * look.man) * np.clip(0.95 - 0.55 * np.clip(k, -1, 1), 0.2, 1)
    hairs = (0.68 + 0.17 * np.sin(28 * k + 60 * g)) * np.exp(-((g / taper) ** 4))
    _over(view, look.hair * 0.6 + look.skin * 0.06, hairs * edge((1 - np.abs(k)) * px * 0.5))


def _paint_mouth(canvas: Array, head: _Head) -> tuple[float, float]:
    """Lips, teeth and the line between the lips; returns u and v of the right corner."""
    look, pose = head.look, head.pose
    view, u, v, shade = head.window(canvas, 0, look.mouth_v, 0.55)
    width = look.mouth_width * (1 + 0.1 * pose.smile - 0.1 * pose.open)
    m, px = u * look.broad / width, width * head.r
    arch, along = np.clip(1 - m * m, 0, 1), np.abs(m) < 1
    g = (v - look.mouth_v) / width + 0.22 * pose.smile * m * m
    top, bottom = -0.22 * pose.open * arch, 0.75 * pose.open * arch
    upper = top - look.lip_above * _power(arch, 0.6) * (1 - 0.3 * np.exp(-((m / 0.16) ** 2)))
    lower = bottom + look.lip_below * _power(arch, 0.7)
    rose = np.float32([0.72, 0.30, 0.30]) * (0.35 + 0.65 * float(look.skin.mean())) / 0.75
    lip = look.skin * np.float32([0.88, 0.66, 0.64]) * (1 - look.rouge) + rose * look.rouge
    full = shade * (1 + 0.22 * blob(m, g, 0, bottom + 0.5 * look.lip_below, 9, 0.1) - 0.15 * (g < top))
    _over(view, lip * full[..., None], edge((g - upper) * px) * edge((lower - g) * px) * along)
    hole = edge((g - top) * px) * edge((bottom - g) * px) * along
    _over(view, np.float32([0.22, 0.07, 0.07]), hole)
    teeth = hole * edge((top + 0.28 - g) * px) * edge((0.85 - np.abs(m)) * px)
    _over(view, np.float32([0.93, 0.91, 0.87]) * (0.6 + 0.4 * float(shade.mean())), teeth)
    closed = (pose.open < 0.25) * (1 - hole) * blob(m, g, 0, (top + bottom) / 2, 9, 0.05)
    _over(view, lip * np.float32([0.35, 0.28, 0.28]), 0.75 * closed * edge((1.03 - np.abs(m)) * px * 0.4))
    return width / look.broad, look.mouth_v - 0.22 * pose.smile * width


# ------------------------------------------------------------------------------------------------- portraits


def inspect(path: Path, detect: Any, size: int) -> Portrait | str:
    """The portrait in an image file, or the reason why it cannot be used; ``detect`` is a ``faces.YuNet``."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        return "not readable as an image"
    shrink = min(1, 640 / max(image.shape))  # YuNet is made for faces of up to 300 pixels
    found = np.float32(detect(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)))
    found = found[found[:, 14] >= CONFIDENT]
    if not len(found):
        return "no face found"
    areas = found[:, 2] * found[:, 3]
    n = (areas > areas.max() / 4).sum()
    if n > 1:
        return f"{n} faces found, one is needed"
    points = found[areas.argmax(), 4:14].reshape(5, 2) / shrink
    if (points < 0).any() or (points >= image.shape[1::-1]).any():
        return "the face is cut by the frame"
    if np.linalg.norm(points[1] - points[0]) < 0.18 * size:
        return f"the face is too small for frames of {size} pixels"
    mask = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), cv2.convexHull(points.astype(np.int32)), 1)
    return Portrait(str(path), points, float(cv2.mean(image, mask)[0:3] @ np.float64([0.114, 0.587, 0.299])))


def move(portrait: Portrait, poses: list[SimpleNamespace], size: int) -> list[Shot]:
    """A portrait in motion: shifted, turned, scaled, narrowed as by a yaw, under changing light."""
    image = cv2.cvtColor(cv2.imread(portrait.path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    eyes, mouth = portrait.landmarks[:2].mean(axis=0), portrait.landmarks[3:].mean(axis=0)
    down = mouth - eyes
    turn = np.float32([[down[1], -down[0]], [down[0], down[1]]]) / np.linalg.norm(down)
    x = np.linspace(-1, 1, size, dtype=np.float32)
    shots = []
    for pose in poses:
        zoom = 0.22 * size * pose.scale / np.linalg.norm(down)
        roll = np.float32([[math.cos(pose.roll), -math.sin(pose.roll)], [math.sin(pose.roll), math.cos(pose.roll)]])
        matrix = zoom * np.diag([math.cos(pose.yaw), math.cos(pose.pitch)]).astype(np.float32) @ roll @ turn
        shift = size * np.float32([0.5 + pose.dx, 0.52 + pose.dy]) - matrix @ (eyes + down / 2)
        # a large photograph is smoothed first, since warping alone would alias
        smooth = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom) if zoom < 0.5 else image
        frame = cv2.warpAffine(smooth, np.column_stack([matrix, shift]), (size, size), borderMode=cv2.BORDER_REPLICATE)
        light = 1.1 - 0.3 * (0.6 - pose.ambient) + 0.12 * math.sin(pose.azimuth) * x
        shots.append(Shot(np.clip(frame * light[:, None], 0, 1), portrait.landmarks @ matrix.T + shift))
    return shots
