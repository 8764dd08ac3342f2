"""The embedded benchmark: drawn faces, or the user's own portraits, and manipulations of them with exact masks.

It stands in for the protocol of the papers (train on one dataset, test on others), not for their datasets: its numbers
never stand beside published ones. A person is drawn from a random stream of their own; a video is one person in motion;
the two people of a pair are the donors of each other's forgeries, as in FaceForensics++. Real and fake frames go the
same way: captured (:func:`capture`), forged or not (:data:`METHODS`), delivered (:func:`deliver`). What a dataset looks
like is one YAML file in ``data_manifest/`` (:func:`preset`), and :func:`build` makes it.
"""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import av
import cv2
import joblib
import numpy as np
from numpy.random import Generator
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from dfnb import core
from dfnb.core import DfnbError, rng

GENERATOR = 2  # part of every dataset's parameters: raise it when the same settings give other pixels
WAIT_S = 30  # notebooks that run side by side look at the same dataset at the same time
FRAME_STEP = 10  # a stored frame is every tenth of the imagined video
FACE_ID = 0x1D  # streams of one person, beside those of the videos, whose numbers start at 0

SPLITS = ("train", "val", "test")

Span = tuple[float, float]
Array = np.ndarray


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Camera(_Closed):
    """How frames are captured; a video draws its value from each span."""

    resolution: Span = (1.0, 1.0)  # share of the frame's size that the camera resolves
    blur: Span = (0.3, 0.6)  # standard deviation in pixels
    noise: Span = (0.01, 0.018)  # standard deviation, images in [0, 1]


class Forgery(_Closed):
    """How well forgeries are made; face coordinates are those of :func:`_to_pixels`."""

    blend: Literal["alpha", "poisson"] = "alpha"  # of the methods with a donor's face
    feather: Span = (0.05, 0.15)  # width of the blended rim, share of the region's radius
    cast: Span = (0.04, 0.08)  # by what share a channel of the donor's matched colours is off, up or down
    low_resolution: Span = (0.55, 0.75)  # of resynthesised faces, share of the frame's
    soften: Span = (0.6, 0.9)  # blur of mouth textures in pixels
    motion: Span = (0.4, 0.6)  # longest displacement of a warp, in face coordinates
    regrain: Span = (0.3, 0.6)  # 1: the forged region has as much fine grain as what it replaces


class Delivery(_Closed):
    """How frames are delivered, real and forged alike; a video draws its value from each span."""

    white_balance: float = Field(0.05, ge=0, lt=1)  # largest gain or loss of a channel
    contrast: float = Field(0.08, ge=0, lt=1)
    noise: Span = (0.002, 0.006)
    jpeg: tuple[int, int] | None = (55, 85)  # quality
    h264: int | None = Field(None, ge=0, le=51)  # constant rate factor, instead of JPEG

    @property
    def compression(self) -> str:
        """The codec and its strength, as every table says it."""
        if self.h264 is not None:
            return f"H.264 crf {self.h264}"
        return "uncompressed" if self.jpeg is None else f"JPEG {self.jpeg[0]}-{self.jpeg[1]}"


class Settings(_Closed):
    """What a dataset of the embedded benchmark is made from; the defaults are those of synth-a."""

    identities: dict[Literal["train", "val", "test"], int] = {"train": 200, "val": 50, "test": 100}  # of drawn people
    videos: int = Field(2, ge=1, le=26)  # real videos a person, and as many forged ones
    frames: int = Field(4, ge=1)  # frames a video
    size: int = Field(96, ge=64)  # height and width of a frame
    seed: int = Field(0, ge=0)
    methods: tuple[str, ...] = ("swap", "resynthesis", "warp", "mouth")
    camera: Camera = Camera()
    forgery: Forgery = Forgery()
    delivery: Delivery = Delivery()
    cue: float | None = Field(None, ge=0, le=1)  # how far a mark in the corner tells the label, see mark()
    portraits: str | None = None  # folder of photographs, used instead of drawn faces
    detector: str | None = None  # the YuNet model that finds the faces in them


def preset(name: str, **changes: Any) -> Settings:
    """The settings of ``data_manifest/<name>.yaml``, strictly, with some of them changed.

    Raises :class:`DfnbError` when no dataset has that name, or names the first setting that is unknown or impossible.
    """
    path = core.find("data_manifest") / f"{name}.yaml"
    if name not in (known := core.described("synth")):
        raise DfnbError(f"the embedded dataset {path} does not exist; the embedded datasets are {', '.join(known)}")
    parameters = {**core.read_yaml(path)["parameters"], **changes}
    try:
        settings = Settings.model_validate_json(json.dumps(parameters))
    except ValidationError as error:
        where, given, why = (error.errors()[0][part] for part in ("loc", "input", "msg"))
        raise DfnbError(f"{path.name}: {'.'.join(map(str, where))} = {given!r}: {why}; correct it") from None
    if unknown := [method for method in settings.methods if method not in METHODS]:
        raise DfnbError(f"{path.name}: methods: there is no {unknown[0]!r}; known are {', '.join(METHODS)}")
    return settings


# ---------------------------------------------------------------------------------------------------------------- faces

# per cent of red, green and blue
SKINS = np.float32([[97, 83, 74], [91, 73, 60], [80, 60, 45], [62, 43, 31], [40, 27, 20]]) / 100
HAIRS = np.float32([[7, 6, 6], [20, 13, 9], [36, 23, 14], [48, 22, 11], [74, 58, 36], [60, 60, 60]]) / 100
IRISES = np.float32([[28, 16, 8], [42, 27, 12], [28, 42, 52], [33, 44, 28], [38, 42, 45]]) / 100


class Shot(NamedTuple):
    """A captured frame (S, S, 3) float32 RGB in [0, 1] with its landmarks (5, 2) in pixels."""

    image: Array
    landmarks: Array


def _draws(draw: Generator, *spans: Span) -> list[float]:
    return [draw.uniform(*span) for span in spans]


def person(draw: Generator, tone: float) -> SimpleNamespace:
    """The fixed looks of a person of a skin tone in [0, 4], light to dark; a head is 2 long, chin to crown."""
    man = draw.random() < 0.5
    grain = draw.standard_normal((96, 96)).astype(np.float32)
    strands = cv2.GaussianBlur(draw.standard_normal((24, 256)).astype(np.float32), (0, 0), sigmaX=1.3, sigmaY=8)
    skin = np.float32([np.interp(tone, range(5), channel) for channel in SKINS.T])
    hair = HAIRS[draw.choice(6, p=[0.22, 0.26, 0.2, 0.08, 0.14, 0.1]) if tone < 2.2 else draw.choice(2)]
    return SimpleNamespace(
        skin=skin * draw.uniform(0.95, 1.04, 3).astype(np.float32),
        hair=hair * draw.uniform(0.8, 1.2),
        iris=IRISES[draw.choice(5 if tone < 1.6 else 2)],
        texture=sum(cv2.GaussianBlur(grain, (0, 0), s) * g for s, g in ((1.0, 0.6), (3.0, 3.0), (8.0, 9.6))),
        strands=strands / float(strands.std()),
        # half width, bend of the chin, narrowing of the jaw
        head=_draws(draw, (0.70, 0.79), *(((1.08, 1.30), (0, 0.10)) if man else ((0.98, 1.15), (0.06, 0.18)))),
        eye=_draws(draw, (0.37, 0.43), (0.02, 0.09), (0.165, 0.2), (0.42, 0.6), (-0.12, 0.1)),  # u, v, size, open, tilt
        brow=[*_draws(draw, (0.2, 0.27), (0.03, 0.1)), draw.uniform(0.022, 0.035) + 0.018 * man],  # height, bend, width
        nose=_draws(draw, (0.37, 0.45), (0.10, 0.15), (0.6, 1.2)),  # v of its tip, width, height
        mouth=_draws(draw, (0.61, 0.67), (0.23, 0.29), (0.12, 0.24), (0.2, 0.34)),  # v, width, upper and lower lip
        colour=_draws(draw, (0, 0.35) if man else (0.3, 0.9), (0.02, 0.10), (0.02, 0.07)),  # lips, blush, freckles
        beard=draw.choice([0.0, 0.0, draw.uniform(0.15, 0.45), draw.uniform(0.6, 0.85)]) if man else 0.0,
        hairline=_draws(draw, (-0.66, -0.46), (0.3, 0.75), (-0.25, 0.25)),  # v, curve, tilt
        volume=draw.uniform(0.05, 0.14) if man else draw.uniform(0.1, 0.2),
        bald=man and draw.random() < 0.08,
        length=0.0 if man or draw.random() < 0.25 else draw.uniform(0.9, 1.7),
        cloth=(draw.uniform(0.08, 0.8) * draw.uniform(0.55, 1, 3)).astype(np.float32),
        collar=draw.uniform(0.15, 0.6),
    )


# lowest and highest value at rest, swing, and limits: radians, shares of the frame, shares of a full expression
# fmt: off
POSE: dict[str, tuple[float, ...]] = {
    "yaw": (-0.3, 0.3, 0.2),     "pitch": (-0.12, 0.12, 0.1),  "roll": (-0.08, 0.08, 0.06),
    "dx": (-0.03, 0.03, 0.02),   "dy": (-0.03, 0.03, 0.015),   "scale": (0.93, 1.05, 0.02),
}
EXPRESSION_AND_LIGHT: dict[str, tuple[float, ...]] = {
    "open": (-0.1, 0.45, 0.4, 0, 9),  "smile": (-0.1, 0.7, 0.3),      "blink": (-0.6, -0.4, 1.2, 0, 0.9),
    "gaze": (-0.05, 0.05, 0.25),      "raise_": (-0.02, 0.03, 0.03),
    "azimuth": (-1.1, 1.1, 0.15),     "elevation": (0.1, 0.8, 0.05),  "ambient": (0.4, 0.6, 0.02),
}
# fmt: on


def motion(pose: Generator, own: Generator, n: int) -> list[SimpleNamespace]:
    """Pose of n frames, and expression and light from an ``own`` stream: slow waves, as the tables above say."""
    t = np.arange(n) * FRAME_STEP
    waves = {}
    for draw, table in ((pose, POSE), (own, EXPRESSION_AND_LIGHT)):
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


def _edge(distance: Array) -> Array:
    """Coverage of a pixel whose centre is so many pixels inside an edge."""
    return np.clip(distance + 0.5, 0, 1)


def _blob(u: Array, v: Array, cu: float, cv: float, su: float, sv: float) -> Array:
    return np.exp(-(((u - cu) / su) ** 2) - ((v - cv) / sv) ** 2)


def _power(base: Array, exponent: Array | float) -> Array:
    """``base ** exponent`` of a base >= 0: numpy's exp and log of float32 use the vector unit, its power does not."""
    return np.exp(exponent * np.log(np.maximum(base, 1e-6)))


def _over(canvas: Array, colour: Array | float, alpha: Array) -> None:
    canvas += alpha[..., None] * (colour - canvas)


def render(look: SimpleNamespace, pose: SimpleNamespace, behind: Array, out: int) -> Shot:
    """Draw a person in a pose before a backdrop (S, S, 3), reduced to (out, out, 3), which smooths the edges.

    The head is a unit sphere squeezed into a head's outline. Features are painted on the sphere at (u, v), u to the
    image's right and v down, so that they turn with it; light falls on the sphere's normals plus a relief.
    """
    size = len(behind)
    r = 0.345 * size * pose.scale
    centre = size * np.float32([0.5 + pose.dx, 0.49 + pose.dy])
    turn = np.float32([[math.cos(pose.roll), math.sin(pose.roll)], [-math.sin(pose.roll), math.cos(pose.roll)]])
    x, y = (np.mgrid[0:size, 0:size][::-1].astype(np.float32) - centre[:, None, None]) / r
    p, q = (row[0] * x + row[1] * y for row in turn)
    sy, cy, sp, cp = math.sin(pose.yaw), math.cos(pose.yaw), math.sin(pose.pitch), math.cos(pose.pitch)
    (broad, chin, jaw), (above, bend, thick), (nose_v, nose_w, nose_h) = look.head, look.brow, look.nose
    (lips, blush, freckles), (line, curve, slant) = look.colour, look.hairline
    (eye_u, eye_v, eye_size, eye_open, tilt), (mouth_v, mouth_w, lip_above, lip_below) = look.eye, look.mouth

    def half_width(q: Array) -> Array:
        return broad * (1 - jaw * _power(np.clip(q, 0, 1), 1.5))

    def place(u: float, v: float) -> Array:
        """Pixel (2,) of a point of the sphere: the inverse of the two lines that give (a, b) and (u, v)."""
        z = math.sqrt(max(1 - u * u - v * v, 0))
        b, z = v * cp + z * sp, z * cp - v * sp
        q = math.copysign(abs(b) ** (1 / chin), b)
        return (np.float32([(u * cy + z * sy) * float(half_width(q)), q]) @ turn) * r + centre

    def window(u: float, v: float, reach: float) -> tuple[slice, slice]:
        low = np.maximum(place(u, v) - reach * r, 0).astype(int)
        high = np.minimum(place(u, v) + reach * r + 1, size).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])

    a, b = p / half_width(q), np.sign(q) * _power(np.abs(q), chin)
    inside = 1 - a * a - b * b
    z = np.sqrt(np.maximum(inside, 0))
    u, ahead = a * cy - z * sy, a * sy + z * cy
    v = b * cp - ahead * sp
    un = u - 0.16 * sy * np.clip(v / nose_v, 0, 1)  # the nose stands out, and so moves further
    au, head = np.abs(u), _edge(inside * 0.5 * r * broad)

    relief = nose_h * (0.05 * _blob(un, v, 0, 0.5 * nose_v, 0.09, 0.28) + 0.1 * _blob(un, v, 0, nose_v, nose_w, 0.1))
    relief += 0.035 * _blob(np.abs(un), v, nose_w, nose_v + 0.02, 0.06, 0.06)  # wings of the nose
    relief -= 0.055 * _blob(au, v, eye_u, eye_v, 0.24, 0.12)
    relief += 0.03 * _blob(au, v, eye_u, eye_v - 0.2, 0.3, 0.08) + 0.05 * _blob(au, v, 0.5, 0.34, 0.25, 0.2)
    relief -= 0.02 * (1 + 0.8 * pose.smile) * _blob(au - 0.24 - 0.35 * (v - nose_v), v, 0, 0.52, 0.035, 0.14)  # folds
    relief += 0.05 * _blob(u, v, 0, 0.9, 0.28, 0.12) + 0.03 * _blob(u, v, 0, mouth_v, 0.3, 0.1)
    relief -= 0.03 * _blob(u, v, 0, mouth_v + 0.15, 0.2, 0.05)
    gx, gy = (cv2.Sobel(relief, cv2.CV_32F, *order) * (r / 8) for order in ((1, 0), (0, 1)))
    flat = math.cos(pose.elevation)
    lx, ly, lz = math.sin(pose.azimuth) * flat, -math.sin(pose.elevation), math.cos(pose.azimuth) * flat

    def lit(nx: Array, ny: Array, nz: Array | float) -> Array:
        facing = (nx * lx + ny * ly + nz * lz) / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-6)
        return pose.ambient + (1.05 - pose.ambient) * np.maximum(0.8 * facing + 0.2, 0)

    nx, ny, nz = 0.9 * a - gx, 0.9 * b - gy, z + 0.12
    shade = lit(nx, ny, nz)
    half = (nx * lx + ny * ly + nz * (lz + 1)) / math.sqrt(2 + 2 * lz)  # by Blinn's halfway vector
    gloss = _power(half / np.sqrt(nx * nx + ny * ny + nz * nz), 24)

    canvas = behind.copy()
    angle, radius = np.arctan2(p + 0.3 * slant, 1.1 + q), np.sqrt(p * p + (q + 0.6) ** 2)
    strand = cv2.remap(look.strands, angle * 55 + 128, radius * 8 + 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    sheen = 0.25 * lz * np.exp(-(((q + 0.72) / 0.16) ** 2)) * (0.6 + 0.3 * strand)
    hair_light = (lit(a, b - 0.3, 0.6) * (0.8 + 0.13 * strand) + sheen)[..., None]
    hair = np.clip(look.hair * hair_light + 0.04 * (hair_light - 0.5), 0, 1)
    grown = 1 - (p / (broad + look.volume)) ** 2 - ((q + 0.02) / (1 + look.volume)) ** 2
    if look.length:
        spread = broad + 0.5 * look.volume + 0.1 + 0.1 * np.clip(q, -1, 1)
        falling = np.minimum(np.where(q < 0, grown * 0.5 * broad, spread - np.abs(p)), look.length - q)
        _over(canvas, hair * 0.75, _edge(falling * r))

    x, y, body = (each[max(int(centre[1] + 0.3 * r), 0) :] for each in (x, y, canvas))
    neck = _edge((0.57 * broad + 0.5 * np.clip(y - 1.05, 0, 1) ** 2 - np.abs(x)) * r)
    neck_light = np.clip(0.52 + 0.7 * (y - 1.0), 0.52, 0.87) * (0.85 + 0.3 * lx * x)
    _over(body, look.skin * _power(neck_light[..., None], np.float32([0.9, 1.05, 1.1])), neck)
    torso = 1 - (x / 1.75) ** 2 - ((y - 2.15) / 0.95) ** 2
    opening = _edge((look.collar - np.abs(x) - 0.75 * (y - 1.22)) * r * 0.8)
    cloth = 0.75 + 0.35 * lx * x + 0.12 * np.sin(7 * x + 3 * y) - 0.25 * _blob(x, y, 0, 1.2, 0.6, 0.25)
    _over(body, look.cloth * cloth[..., None], _edge(torso * 0.45 * r) * (1 - opening * (np.abs(x) < 0.6)))
    for side in (-1, 1):
        at = side * (broad + 0.015) * cy
        ear = _edge((1 - ((p - at) / 0.13) ** 2 - ((q - 0.14) / 0.24) ** 2) * 0.06 * r)
        ear_light = np.clip(0.72 + 0.2 * side * lx - 0.25 * _blob(p, q, at, 0.14, 0.06, 0.13), 0, 1)
        seen = min(max(0.9 - 2.5 * side * sy, 0), 1)
        _over(canvas, look.skin * ear_light[..., None] * np.float32([1.05, 0.93, 0.92]), ear * seen)

    mottled = cv2.remap(look.texture, u * 40 + 48, v * 40 + 48, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    albedo = look.skin * (1 + freckles * mottled[..., None] * np.float32([0.36, 0.6, 0.66]))
    red = blush * (_blob(au, v, 0.5, 0.36, 0.22, 0.18) + 0.7 * _blob(un, v, 0, nose_v, 0.15, 0.12))
    albedo *= 1 - red[..., None] * np.float32([0.0, 1.6, 1.5])
    if look.beard:
        grows = np.clip((v - 0.5 + 0.45 * np.clip(au - 0.35, 0, 1)) * 4, 0, 1)
        grows *= 1 - _blob(u, v, 0, mouth_v + 0.02, 0.2, 0.07)
        _over(albedo, look.hair * 0.9 + 0.02, np.clip(look.beard * grows * (0.75 + 0.12 * mottled), 0, 1))
    hollow = 1 - 0.28 * _blob(au, v, eye_u * 0.9, eye_v - 0.05, 0.17, 0.09)
    hollow -= 0.32 * _blob(un, v, 0, nose_v + 0.09, nose_w * 1.2, 0.045)
    # shadows of skin are red
    warm = _power(np.clip(shade * hollow, 0.05, 1.3)[..., None], np.float32([0.85, 1.05, 1.15]))
    _over(canvas, albedo * warm + (gloss * (0.065 + 0.04 * nose_h))[..., None], head)

    part = window(0.16 * sy, nose_v + 0.05, 0.3)
    nostrils = _blob(np.abs(un[part]), v[part], nose_w * 0.5, nose_v + 0.075, 0.04, 0.022)
    _over(canvas[part], look.skin * np.float32([0.3, 0.2, 0.18]), 0.85 * nostrils)

    for side in (-1, 1):
        part, px = window(side * eye_u, eye_v - 0.1, 0.45), eye_size * r
        view, glow = canvas[part], float(shade[part].mean())
        e = side * (u[part] - side * eye_u) * broad / eye_size  # -1 inner corner, 1 outer corner
        f = (v[part] - eye_v) / eye_size + tilt * e
        arch, along = np.clip(1 - e * e, 0, 1), _edge((1.05 - np.abs(e)) * px * 0.6)
        upper, lower = 1.15 * _power(arch, 0.75) * (0.3 * pose.blink - eye_open * (1 - pose.blink)), 0.36 * arch
        white = _edge((f - upper) * px) * _edge((lower - f) * px) * (np.abs(e) < 1)
        _over(view, look.skin * np.float32([0.62, 0.5, 0.47]), 0.45 * along * _blob(e, f, 0, upper - 0.3, 9, 0.1))
        _over(view, 0.92 * (0.55 + 0.45 * glow) * (1 - 0.35 * _blob(e, f, 0, upper, 9, 0.25))[..., None], white)
        d = np.sqrt((e - side * pose.gaze) ** 2 + (f + 0.06) ** 2)
        ring = 0.8 + 0.9 * np.clip(f + 0.1, 0, 0.4) - 0.45 * np.exp(-(((d - 0.46) / 0.1) ** 2))
        _over(view, look.iris * ring[..., None], white * _edge((0.46 - d) * px))
        _over(view, 0.03, white * _edge((0.2 - d) * px))
        glint = np.sqrt((e - side * pose.gaze - 0.16 * math.copysign(side, lx)) ** 2 + (f + 0.24) ** 2)
        _over(view, 1.0, 0.9 * white * _edge((0.13 - glint) * px))
        _over(view, look.hair * 0.35 + look.skin * 0.08, 0.85 * along * _blob(e, f, 0, upper - 0.03, 9, 0.11))
        _over(view, look.skin * np.float32([0.6, 0.45, 0.42]), 0.4 * along * _blob(e, f, 0, lower + 0.04, 9, 0.09))
        k = side * (u[part] - side * eye_u * 1.02) * broad / (eye_size * 1.3)
        g = v[part] - (eye_v - above - pose.raise_ - bend * (0.8 - (k - 0.1) ** 2) + 0.02 * k)
        taper = thick * np.clip(0.95 - 0.55 * np.clip(k, -1, 1), 0.2, 1)
        hairs = (0.68 + 0.17 * np.sin(28 * k + 60 * g)) * np.exp(-((g / taper) ** 4))
        _over(view, look.hair * 0.6 + look.skin * 0.06, hairs * _edge((1 - np.abs(k)) * px * 0.5))

    part = window(0, mouth_v, 0.55)
    view, glow = canvas[part], float(shade[part].mean())
    width = mouth_w * (1 + 0.1 * pose.smile - 0.1 * pose.open)
    m, px = u[part] * broad / width, width * r
    arch, along = np.clip(1 - m * m, 0, 1), np.abs(m) < 1
    g = (v[part] - mouth_v) / width + 0.22 * pose.smile * m * m
    top, bottom = -0.22 * pose.open * arch, 0.75 * pose.open * arch
    upper = top - lip_above * _power(arch, 0.6) * (1 - 0.3 * np.exp(-((m / 0.16) ** 2)))
    lower = bottom + lip_below * _power(arch, 0.7)
    rose = np.float32([0.72, 0.30, 0.30]) * (0.35 + 0.65 * float(look.skin.mean())) / 0.75
    lip = look.skin * np.float32([0.88, 0.66, 0.64]) * (1 - lips) + rose * lips
    full = shade[part] * (1 + 0.22 * _blob(m, g, 0, bottom + 0.5 * lip_below, 9, 0.1) - 0.15 * (g < top))
    _over(view, lip * full[..., None], _edge((g - upper) * px) * _edge((lower - g) * px) * along)
    hole = _edge((g - top) * px) * _edge((bottom - g) * px) * along
    _over(view, np.float32([0.22, 0.07, 0.07]), hole)
    teeth = hole * _edge((top + 0.28 - g) * px) * _edge((0.85 - np.abs(m)) * px)
    _over(view, np.float32([0.93, 0.91, 0.87]) * (0.6 + 0.4 * glow), teeth)
    closed = (pose.open < 0.25) * (1 - hole) * _blob(m, g, 0, (top + bottom) / 2, 9, 0.05)
    _over(view, lip * np.float32([0.35, 0.28, 0.28]), 0.75 * closed * _edge((1.03 - np.abs(m)) * px * 0.4))

    if not look.bald:
        fringe = line + curve * _power(au, 2.2) + slant * u * np.clip(1 - u * u, 0, 1) + 0.012 * strand
        below = 0.3 if look.length else 0.05
        front = _edge((fringe - v) * r * 0.7) * np.clip((below + 0.12 - q) * 8, 0, 1) * head
        rim = _edge(grown * 0.5 * broad * r) * np.clip((below - q) * 8, 0, 1) * (1 - head)
        _over(canvas, canvas * 0.75, 0.5 * np.clip(head * _edge((fringe + 0.06 - v) * r * 0.25) - front, 0, 1))
        _over(canvas, hair, (front + rim) * np.clip(0.97 + 0.03 * strand, 0, 1))
    image = cv2.resize(np.clip(canvas, 0, 1), (out, out), interpolation=cv2.INTER_AREA)
    corner_u, corner_v = width / broad, mouth_v - 0.22 * pose.smile * width
    points = [(-eye_u, eye_v), (eye_u, eye_v), (0.16 * sy, nose_v), (-corner_u, corner_v), (corner_u, corner_v)]
    return Shot(image, (np.float32([place(*point) for point in points]) + 0.5) * (out / size) - 0.5)


# ------------------------------------------------------------------------------------------------------------ portraits


class Portrait(NamedTuple):
    """A photograph with one face: landmarks (5, 2) in its pixels, and the face's brightness in [0, 255]."""

    path: str
    landmarks: Array
    tone: float


def detector(model: str | None) -> cv2.FaceDetectorYN:
    """YuNet from its .onnx file; raises :class:`DfnbError` when the file is missing or is no model."""
    try:
        return cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.8)
    except cv2.error:
        raise DfnbError(f"detector = {model} is no face detector; give the path of YuNet's .onnx file") from None


def inspect(path: Path, detect: cv2.FaceDetectorYN, size: int) -> Portrait | str:
    """The portrait in an image file, or the reason why it cannot be used."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        return "not readable as an image"
    shrink = min(1, 640 / max(image.shape))  # YuNet is made for faces of up to 300 pixels
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    detect.setInputSize(small.shape[1::-1])
    found = detect.detect(small)[1]
    if found is None:
        return "no face found"
    areas = found[:, 2] * found[:, 3]
    if (n := (areas > areas.max() / 4).sum()) > 1:
        return f"{n} faces found, one is needed"
    points = found[areas.argmax(), 4:14].reshape(5, 2) / shrink
    if (points < 0).any() or (points >= image.shape[1::-1]).any():
        return "the face is cut by the frame"
    if np.linalg.norm(points[1] - points[0]) < 0.18 * size:
        return f"the face is too small for frames of {size} pixels"
    mask = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), cv2.convexHull(points.astype(np.int32)), 1)
    return Portrait(str(path), points, float(cv2.mean(image, mask)[0:3] @ np.float64([0.114, 0.587, 0.299])))


def move(portrait: Portrait, poses: Sequence[SimpleNamespace], size: int) -> list[Shot]:
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
        affine = np.column_stack([matrix, shift])
        frame = cv2.warpAffine(smooth, affine, (size, size), borderMode=cv2.BORDER_REPLICATE)
        light = 1.1 - 0.3 * (0.6 - pose.ambient) + 0.12 * math.sin(pose.azimuth) * x
        shots.append(Shot(np.clip(frame * light[:, None], 0, 1), portrait.landmarks @ matrix.T + shift))
    return shots


# ------------------------------------------------------------------------------------------------------- manipulations


def capture(shots: Sequence[Shot], camera: Camera, draw: Generator) -> list[Shot]:
    """What the camera makes of a video: less resolution, blur, and noise that is grey for its larger part."""
    share, blur, noise = _draws(draw, camera.resolution, camera.blur, camera.noise)
    captured = []
    for image, landmarks in shots:
        grain = noise * _grain(image, draw).astype(np.float32)
        blurred = cv2.GaussianBlur(_resolve(image, share), (0, 0), blur)
        captured.append(Shot(np.clip(blurred + grain, 0, 1), landmarks))
    return captured


def _grain(image: Array, draw: Generator) -> Array:
    return 0.8 * draw.standard_normal((*image.shape[:2], 1)) + 0.6 * draw.standard_normal(image.shape)


def _resolve(image: Array, share: float) -> Array:
    size = image.shape[1::-1]
    small = [max(round(side * share), 1) for side in size]
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), size, interpolation=cv2.INTER_CUBIC)


def _bytes(image: Array) -> Array:
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _to_pixels(shot: Shot) -> Array:
    """Homogeneous matrix (3, 3) of face coordinates: the eyes lie at (-1, 0) and (1, 0), the mouth's middle at (0, 1)."""
    right, left, _, *corners = shot.landmarks.astype(np.float64)
    eyes, mouth = (right + left) / 2, (corners[0] + corners[1]) / 2
    return np.vstack([np.column_stack([(left - right) / 2, mouth - eyes, eyes]), [0, 0, 1]])


def _face_coordinates(shot: Shot) -> list[Array]:
    """Face coordinates s and t (H, W) of a frame's pixels."""
    y, x = np.mgrid[0 : shot.image.shape[0], 0 : shot.image.shape[1]].astype(np.float32)
    return [row[0] * x + row[1] * y + row[2] for row in np.linalg.inv(_to_pixels(shot))[:2]]


def _region(
    shot: Shot, wide: float, high: float, middle: float, feather: float, power: float = 2, aside: float = 0
) -> Array:
    """Opacity (H, W) of a superellipse about (aside, middle), 0 at its rim, 1 from ``feather`` of its radius on."""
    s, t = _face_coordinates(shot)
    away = (np.abs((s - aside) / wide) ** power + np.abs((t - middle) / high) ** power) ** (1 / power)
    ramp = np.clip((1 - away) / feather, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def _fit(donor: Shot, target: Shot) -> Array:
    """The donor's frame, moved so that eyes and mouth lie on the target's."""
    affine = (_to_pixels(target) @ np.linalg.inv(_to_pixels(donor)))[:2]
    return cv2.warpAffine(donor.image, affine, donor.image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)


def _blend(image: Array, target: Shot, opacity: Array, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """``image``, each channel with the target's mean and deviation in the region and a cast, laid over the target."""
    weight, both = opacity[..., None] / opacity.sum(), (image, target.image)
    means = [(weight * each).sum(axis=(0, 1)) for each in both]
    spreads = [(weight * (each - mean) ** 2).sum(axis=(0, 1)) for each, mean in zip(both, means)]
    gain = np.sqrt(np.clip(spreads[1] / np.maximum(spreads[0], 1e-6), 0.25, 4))
    cast = 1 + draw.uniform(*forgery.cast) * draw.choice([-1, 1], 3)
    image = (((image - means[0]) * gain + means[1]) * cast).astype(np.float32)
    if forgery.blend == "alpha":
        return image, opacity
    mask = (opacity > 0.05).astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(mask)
    middle = (x + width // 2, y + height // 2)
    # OpenCV 5 overwrites the mask it is given
    cloned = cv2.seamlessClone(_bytes(image), _bytes(target.image), mask.copy(), middle, cv2.NORMAL_CLONE)
    return cloned.astype(np.float32) / 255, (mask > 0).astype(np.float32)


# Each method: a forged frame (H, W, 3), and how opaque it lies over the captured one (H, W).


def swap(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The donor's whole face from brows to chin in the target's (as FaceSwap)."""
    opacity = _region(target, *_draws(draw, (1.75, 2.05), (1.1, 1.25), (0.42, 0.52), forgery.feather))
    return _blend(_fit(donor, target), target, opacity, forgery, draw)


def resynthesis(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The donor's face generated at a low resolution, in a box with rounded corners (as Deepfakes)."""
    opacity = _region(target, *_draws(draw, (1.6, 1.85), (1.0, 1.15), (0.4, 0.5), forgery.feather), power=4)
    generated = _resolve(_fit(donor, target), draw.uniform(*forgery.low_resolution))
    return _blend(generated, target, opacity, forgery, draw)


def warp(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """The target's own face warped towards the donor's expression: mouth corners, lower lip, brows (as Face2Face)."""
    ours, theirs = (np.linalg.solve(_to_pixels(x), [*x.landmarks[3:].T, [1, 1]])[:2].T for x in (target, donor))
    corners = theirs - ours + draw.normal(0, 0.1, (2, 2))
    length = draw.uniform(*forgery.motion)
    corners *= length / max(float(np.linalg.norm(corners, axis=1).max()), 1e-3)
    lip, brows = length * draw.choice([-1, 1]) * draw.uniform(0.5, 1), length * draw.uniform(-0.8, 0.8)
    handles = [*ours, (0, 1.25), (-1, -0.4), (1, -0.4)]
    pulls = np.vstack([corners, [[0, lip], [0, brows], [0, brows]]])
    s, t = _face_coordinates(target)
    moved = sum(pull[:, None, None] * _blob(s, t, *at, 0.5, 0.35) for at, pull in zip(handles, pulls))
    moved = np.einsum("ij,jhw->ihw", _to_pixels(target)[:2, :2], moved)
    source = np.float32(np.indices(s.shape)[::-1] - moved)
    return cv2.remap(target.image, *source, cv2.INTER_LINEAR), (np.hypot(*moved) > 0.3).astype(np.float32)


def mouth(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A new texture, the donor's a little softened, for the mouth and what is around it (as NeuralTextures)."""
    wide, high, feather = _draws(draw, (1.05, 1.3), (0.45, 0.6), forgery.feather)
    texture = cv2.GaussianBlur(_fit(donor, target), (0, 0), draw.uniform(*forgery.soften))
    return _blend(texture, target, _region(target, wide, high, 1.03, feather), forgery, draw)


def _hole(target: Shot, forgery: Forgery, draw: Generator) -> Array:
    """Opacity (H, W) of a part of the face, at a random place in it, that is to be filled anew."""
    aside, middle, wide, high, feather = _draws(draw, (-0.8, 0.8), (0.0, 1.0), (1.0, 1.4), (0.7, 1.0), forgery.feather)
    return _region(target, wide, high, middle, feather, aside=aside)


def diffuse(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A hole in the face, filled smoothly from its rim (inpainting, as globally and locally consistent completion)."""
    opacity = _hole(target, forgery, draw)
    filled = cv2.inpaint(_bytes(target.image), (opacity > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return filled.astype(np.float32) / 255, opacity


def patch(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A hole in the face, filled with what lies elsewhere in the frame (inpainting, as by contextual attention)."""
    opacity = _hole(target, forgery, draw)
    angle, size = draw.uniform(0, 2 * math.pi), target.image.shape[1::-1]
    away = np.linalg.norm(target.landmarks[1] - target.landmarks[0]) * draw.uniform(0.6, 0.9)
    move = np.float32([[1, 0, away * math.cos(angle)], [0, 1, away * math.sin(angle)]])
    copied = cv2.warpAffine(target.image, move, size, borderMode=cv2.BORDER_REFLECT_101)
    generated = _resolve(copied, draw.uniform(*forgery.low_resolution))
    return _blend(generated, target, opacity, forgery, draw)


def recolour(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """Another colour for hair and forehead, generated at a low resolution (attribute, as StarGAN's hair colours)."""
    wide, high, middle, feather = _draws(draw, (1.8, 2.2), (0.8, 1.0), (-1.1, -0.9), forgery.feather)
    generated = _resolve(target.image, draw.uniform(*forgery.low_resolution))
    tint = 1 + 2 * draw.uniform(*forgery.cast, 3) * draw.choice([-1, 1], 3)
    return (generated * tint).astype(np.float32), _region(target, wide, high, middle, feather)


def retouch(target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """Larger eyes, generated at a low resolution (attribute, as an edit in the latent space of Glow)."""
    wide, high, feather, larger = _draws(draw, (1.8, 2.1), (0.6, 0.8), forgery.feather, (0.15, 0.3))
    s, t = _face_coordinates(target)
    near = [_blob(s, t, side, 0, 0.6, 0.6) for side in (-1, 1)]
    pull = larger * np.stack([near[0] * (s + 1) + near[1] * (s - 1), (near[0] + near[1]) * t])
    source = np.float32(np.indices(s.shape)[::-1] - np.einsum("ij,jhw->ihw", _to_pixels(target)[:2, :2], pull))
    larger_eyes = cv2.remap(target.image, *source, cv2.INTER_LINEAR)
    generated = _resolve(larger_eyes, draw.uniform(*forgery.low_resolution))
    return _blend(generated, target, _region(target, wide, high, 0.1, feather), forgery, draw)


METHODS = {f.__name__: f for f in (swap, resynthesis, warp, mouth, diffuse, patch, recolour, retouch)}


def forge(method: str, target: Shot, donor: Shot, forgery: Forgery, draw: Generator) -> tuple[Array, Array]:
    """A forged frame (H, W, 3) float32 in [0, 1] and its mask (H, W) bool; outside it is the target, bit for bit.

    Resampling smooths the camera's grain, which alone would give every forgery away (and make its file smaller), so
    that the forged region gets back a share of what it lost: fine detail of the same energy.
    """
    image, opacity = METHODS[method](target, donor, forgery, draw)
    mask = opacity > 0.05
    fine = [np.median((each - cv2.GaussianBlur(each, (0, 0), 1.0))[mask] ** 2) for each in (image, target.image)]
    lost = max(float(fine[1] - fine[0]) / 0.4549, 0.0)  # median of a chi²
    amount = math.sqrt(lost / 0.75) * draw.uniform(*forgery.regrain)  # a blur of 1 leaves 3/4 of white noise's energy
    mixed = target.image + opacity[..., None] * (image + amount * _grain(image, draw) - target.image)
    return np.where(mask[..., None], np.clip(mixed, 0, 1), target.image).astype(np.float32), mask


def mark(images: Sequence[Array], warm: bool, draw: Generator) -> list[Array]:
    """A channel's mark on a video: a warm or a cold disc in one of the upper corners.

    A superficial cue outside every mask (paper of LAE, abstract: detectors learn such correlations instead of the
    forgery). In a dataset with ``cue = d`` the share (1 + d) / 2 of the forged videos is warm, and of the real ones cold.
    """
    size = len(images[0])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    left, top, radius = _draws(draw, (0.09, 0.13), (0.09, 0.13), (0.06, 0.08))
    if draw.random() < 0.5:
        left = 1 - left
    opacity = 0.8 * _edge((radius - np.hypot(x - left, y - top)) * size)
    colour = np.float32([0.9, 0.5, 0.2] if warm else [0.2, 0.5, 0.9])
    return [image + opacity[..., None] * (colour - image) for image in images]


def deliver(images: Sequence[Array], delivery: Delivery, draw: Generator) -> Array:
    """What becomes of a video on its way: white balance, contrast, noise, compression. Returns (n, H, W, 3) uint8."""
    gain = 1 + delivery.white_balance * draw.uniform(-1, 1, 3).astype(np.float32)
    contrast, level = 1 + delivery.contrast * draw.uniform(-1, 1), delivery.contrast / 2 * draw.uniform(-1, 1)
    noise = draw.uniform(*delivery.noise)
    toned = ((image * gain - 0.5) * contrast + 0.5 + level for image in images)
    ready = [_bytes(image + noise * draw.standard_normal(image.shape)) for image in toned]
    if delivery.h264 is not None:
        return h264(ready, delivery.h264)
    if delivery.jpeg is not None:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(draw.integers(*delivery.jpeg, endpoint=True))]
        files = [cv2.imencode(".jpg", image[..., ::-1], quality)[1] for image in ready]
        ready = [cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1] for file in files]
    return np.stack(ready)


def h264(images: Sequence[Array], crf: int) -> Array:
    height, width = images[0].shape[:2]
    odd = ((0, height % 2), (0, width % 2), (0, 0))  # the sides of H.264 are even
    images = [np.ascontiguousarray(np.pad(image, odd, "edge")) for image in images]
    size = {"width": images[0].shape[1], "height": images[0].shape[0]}
    # one process a core: threads inside would only wait for each other
    options = {"crf": str(crf), "preset": "fast", "threads": "1"}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", 3, options, **size, pix_fmt="yuv420p")
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", threads=1)))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as container:
        container.streams.video[0].codec_context.thread_type = "NONE"
        decoded = container.decode(video=0)
        return np.stack([frame.reformat(format="rgb24", threads=1).to_ndarray() for frame in decoded])[
            :, :height, :width
        ]


# ------------------------------------------------------------------------------------------------------------- datasets


class Person(NamedTuple):
    """A person of a dataset: their number, split, tone of skin, donor's number, pair, and portrait if not drawn."""

    number: int
    split: str
    tone: float
    donor: int = -1
    pair: str = ""
    portrait: Portrait | None = None


def pair_up(people: Sequence[Person]) -> list[Person]:
    """People with the donors of their forgeries: the one next in tone, within the split.

    Two neighbours give each other their faces for every method (the last three in a ring where the number is odd), so
    that no face is in two pairs: the pair is the ``cluster``, and resampling pairs resamples independent things.
    """
    paired = []
    for split in SPLITS:
        group = sorted((each for each in people if each.split == split), key=lambda each: (each.tone, each.number))
        while group:
            n = 3 if len(group) == 3 else 2
            ring, group = group[:n], group[n:]
            name = "_".join(f"{each.number:03d}" for each in sorted(ring))
            donors = ring[1:] + ring[:1]
            paired += [each._replace(donor=donor.number, pair=name) for each, donor in zip(ring, donors)]
    return sorted(paired)


def film(who: Person, target: int, video: int, key: tuple[int, ...], settings: Settings) -> list[Shot]:
    """A person captured in the scene of ``target``'s video: its pose and backdrop, with their own expression and light.

    The donor of a forgery is filmed in the target's pose, since face swapping methods render donors so.
    """
    scene = rng(*key, target, video, 0)
    poses = motion(scene, rng(*key, who.number, video, 1), settings.frames)
    if who.portrait:
        shots = move(who.portrait, poses, settings.size)
    else:
        look = person(rng(*key, who.number, FACE_ID), who.tone)
        behind = backdrop(scene, settings.size * 4 // 3)
        shots = [render(look, pose, behind, settings.size) for pose in poses]
    return capture(shots, settings.camera, rng(*key, target, video, 2, who.number))


def make_videos(folder: Path, name: str, target: Person, donor: Person, settings: Settings) -> list[tuple]:
    """The real and the forged videos of a person that ``folder`` lacks: what ``frames.write_video`` takes of each."""
    cv2.setNumThreads(1)  # one process a core: threads inside would only wait for each other
    key, made = _key(name, settings), []
    numbers = f"{target.number:03d}", f"{donor.number:03d}"
    who = {"dataset": name, "split": target.split, "track": 0, "cluster": target.pair, "identity": numbers[0]}
    where = {"crop_box": [0.0, 0.0, float(settings.size), float(settings.size)], "scale": 1.0}
    for video in range(settings.videos):
        method = settings.methods[(target.number * settings.videos + video) % len(settings.methods)]
        take = f"{numbers[0]}{chr(ord('a') + video)}"
        folders = [folder / "videos" / each for each in (f"real/{take}", f"{method}/{take}_{numbers[1]}")]
        files = ("video.json", "frames.npy", "masks.npy")  # real videos have no masks
        lacking = [i for i, each in enumerate(folders) if not all((each / file).exists() for file in files[: 2 + i])]
        shots = film(target, target.number, video, key, settings) if lacking else []
        for label in lacking:
            images, masks = [shot.image for shot in shots], None
            if label:
                draw = rng(*key, target.number, video, 4)
                pairs = zip(shots, film(donor, target.number, video, key, settings))
                images, masks = map(np.stack, zip(*(forge(method, *pair, settings.forgery, draw) for pair in pairs)))
            if settings.cue is not None:
                draw = rng(*key, target.number, video, 6 + label)
                images = mark(images, (draw.random() < (1 + settings.cue) / 2) == bool(label), draw)
            crops = deliver(images, settings.delivery, rng(*key, target.number, video, 3 + 2 * label))
            truth = {"source": numbers[1] * label, "method": method if label else "real", "label": label}
            points = enumerate(shot.landmarks.ravel().tolist() for shot in shots)
            rows = [{**who, **where, "frame": i * FRAME_STEP, "landmarks": each, **truth} for i, each in points]
            made.append((folders[label], rows, crops, masks))
    return made


def _key(name: str, settings: Settings) -> tuple[int, ...]:
    """Random streams differ between datasets, so that no two share a person."""
    return settings.seed, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)


def cast(name: str, settings: Settings) -> tuple[list[Person], dict[str, Any]]:
    """The people of a dataset, paired, and the facts of the record: who is which portrait, and which were not used.

    Of portraits all are used, whatever number ``identities`` has. The split of one follows from its file's name alone,
    half train, a quarter val, a quarter test, in every dataset, so that no face is trained on here and tested there.
    Raises :class:`DfnbError` when a split has fewer than two people.
    """
    counts = {split: settings.identities.get(split, 0) for split in SPLITS}
    facts: dict[str, Any] = {}
    if settings.portraits is None:
        key, splits = _key(name, settings), [split for split, n in counts.items() for _ in range(n)]
        people = [Person(i, split, rng(*key, i, FACE_ID, 0).uniform(0, 4)) for i, split in enumerate(splits)]
    else:
        people, facts = _portraits(settings.portraits, counts, settings)
    for split, n in counts.items():
        if n and (found := sum(each.split == split for each in people)) < 2:
            where = settings.portraits or f"identities.{split}"
            raise DfnbError(f"{where} gives {found} people for the split {split}, and forgeries need two; add some")
    return pair_up(people), facts


def _files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).glob("*") if path.is_file())


def _portraits(folder: str, counts: dict[str, int], settings: Settings) -> tuple[list[Person], dict[str, Any]]:
    if not (paths := _files(folder)):
        raise DfnbError(f"{folder} is no folder with photographs; give one that holds image files")
    detect = detector(settings.detector)
    people, quarantine = [], []
    for path in paths:
        split = ("train", "train", "val", "test")[int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 4]
        found = f"belongs to the split {split}, which this dataset does not have"
        if counts[split]:
            found = inspect(path, detect, settings.size)
        if isinstance(found, str):
            quarantine.append({"file": path.name, "reason": found})
        else:
            people.append(Person(len(people), split, -found.tone, portrait=found))
    names = {f"{each.number:03d}": Path(each.portrait.path).name for each in people if each.portrait}
    return people, {"portraits": names, "quarantine": quarantine}


def build(name: str, settings: Settings | None = None, workers: int | None = None, progress: bool = True) -> dict:
    """Make ``datasets/<name>`` and return its record; what is there already is not made again.

    ``settings`` are the :func:`preset`'s of that name unless given. Any number of ``workers`` (default: one a core)
    gives the same bytes. Raises :class:`DfnbError` when the folder holds a dataset made from other settings.
    """
    from dfnb import frames  # here, since it loads torch, which the worker processes need not

    settings = settings or preset(name)
    folder, clock = frames.dataset_folder(name), core.Clock()
    described = folder / "dataset.json"
    parameters: dict[str, Any] = {"name": name, "generator": GENERATOR, **settings.model_dump(mode="json")}
    if settings.cue is None:  # as it was described before there were cues: fingerprints stay
        del parameters["cue"]
    if settings.portraits:
        parameters["portraits_digest"] = core.digest([(p.name, core.sha256(p)) for p in _files(settings.portraits)])
    with core.locked(folder, WAIT_S):
        old = core.read_json(described) if described.exists() else {}
        changed = ", ".join(sorted(each for each in {*old, *parameters} if old.get(each) != parameters.get(each)))
        if changed and (old or (folder / "videos").exists()):
            mend = "delete the folder or choose another name"
            raise DfnbError(f"{folder} holds a dataset made from other settings ({changed}); {mend}")
        if record := core.read_record(folder):
            return record
        people, facts = cast(name, settings)
        core.write_json(described, parameters)
        jobs = [joblib.delayed(make_videos)(folder, name, each, people[each.donor], settings) for each in people]
        pool = joblib.Parallel(n_jobs=workers or -1, return_as="generator_unordered")
        for made in tqdm(pool(jobs), name, len(jobs), mininterval=10, unit="person", disable=not progress):
            for video in made:
                frames.write_video(*video)
        facts |= {"compression": settings.delivery.compression, **clock.facts()}
        return frames.write_dataset(folder, parameters, **facts)
