"""People: their looks, their motion, and what is behind them.

Each person is drawn from a random stream of their own; :mod:`drawnfaces.painting` paints them.
Every call of a generator, here always named ``draw``, moves its stream on. So values are drawn in a
fixed order, that of the tables and of the code, on which the pixels of all datasets depend.
"""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from pydantic import AfterValidator, BaseModel, ConfigDict


def _ascending(span: tuple[float, float]) -> tuple[float, float]:
    """Return a setting's span (lowest, highest) unchanged; refuse one in descending order."""
    if span[0] > span[1]:
        raise ValueError(f"{list(span)}: write the lowest value first")
    return span


Ascending = AfterValidator(_ascending)
Span = Annotated[tuple[float, float], Ascending]  # the ends of a uniform distribution
Array = np.ndarray


class Closed(BaseModel):
    """Base of all settings: immutable; refuses unknown names, wrong types and impossible values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# A person moves through an imagined video, in which waves move the head and the light. Only every
# tenth of its frames is drawn and stored.
FRAME_STEP = 10

# Per cent of red, green and blue.
SKIN_TONES = [  # from light to dark
    [97, 83, 74],
    [91, 73, 60],
    [80, 60, 45],
    [62, 43, 31],
    [40, 27, 20],
]
DARK_HAIR = [
    [7, 6, 6],
    [20, 13, 9],
]
OTHER_HAIR = [
    [36, 23, 14],  # chestnut
    [48, 22, 11],  # red
    [74, 58, 36],  # blond
    [60, 60, 60],  # grey
]
# Probabilities of the colours of DARK_HAIR and then OTHER_HAIR, for people with light skin.
HAIR_SHARES = [
    0.22,
    0.26,
    0.2,
    0.08,
    0.14,
    0.1,
]
BROWN_EYES = [
    [28, 16, 8],
    [42, 27, 12],
]
OTHER_EYES = [
    [28, 42, 52],  # blue
    [33, 44, 28],  # green
    [38, 42, 45],  # grey
]
# Skin tones (0 light, 4 dark) below which other hair and other eyes occur.
LIGHT_HAIR_BELOW = 2.2
LIGHT_EYES_BELOW = 1.6

# The shape of a face; Look says what each value is.
FACE: dict[str, Span] = {
    "broad": (0.70, 0.79),
    "chin": (0.98, 1.15),
    "jaw": (0.06, 0.18),
    "eye_u": (0.37, 0.43),
    "eye_v": (0.02, 0.09),
    "eye_size": (0.165, 0.2),
    "eye_open": (0.42, 0.6),
    "eye_tilt": (-0.12, 0.1),
    "brow_height": (0.2, 0.27),
    "brow_bend": (0.03, 0.1),
    "brow_width": (0.022, 0.035),
    "nose_v": (0.37, 0.45),
    "nose_width": (0.10, 0.15),
    "nose_height": (0.6, 1.2),
    "mouth_v": (0.61, 0.67),
    "mouth_width": (0.23, 0.29),
    "upper_lip": (0.12, 0.24),
    "lower_lip": (0.2, 0.34),
    "rouge": (0.3, 0.9),
    "blush": (0.02, 0.10),
    "freckles": (0.02, 0.07),
}
HAIR: dict[str, Span] = {
    "hairline": (-0.66, -0.46),
    "hair_curve": (0.3, 0.75),
    "hair_slant": (-0.25, 0.25),
    "hair_volume": (0.1, 0.2),
}
# Men's spans, where they differ; a man's value is drawn in the turn of the one that it replaces.
MEN: dict[str, Span] = {
    "chin": (1.08, 1.30),
    "jaw": (0, 0.10),
    "rouge": (0, 0.35),
    "hair_volume": (0.05, 0.14),
}


class Wave(NamedTuple):
    """How a value of :class:`Pose` moves in a video, in the unit that it has there.

    It is mean + ``swing`` * (a sum of sines, -1 to 1), clipped to ``limits``. The mean is drawn
    between ``low`` and ``high`` for each video. The default limits never clip.
    """

    low: float
    high: float
    swing: float
    limits: Span = (-9, 9)


POSE_WAVES = {
    "yaw": Wave(-0.3, 0.3, 0.2),
    "pitch": Wave(-0.12, 0.12, 0.1),
    "roll": Wave(-0.08, 0.08, 0.06),
    "shift_x": Wave(-0.03, 0.03, 0.02),
    "shift_y": Wave(-0.03, 0.03, 0.015),
    "scale": Wave(0.93, 1.05, 0.02),
}
EXPRESSION_AND_LIGHT_WAVES = {
    "open": Wave(-0.1, 0.45, 0.4, (0, 9)),
    "smile": Wave(-0.1, 0.7, 0.3),
    "blink": Wave(-0.6, -0.4, 1.2, (0, 0.9)),  # 0 but for the peaks of the wave
    "gaze": Wave(-0.05, 0.05, 0.25),
    "brow_raise": Wave(-0.02, 0.03, 0.03),
    "azimuth": Wave(-1.1, 1.1, 0.15),
    "elevation": Wave(0.1, 0.8, 0.05),
    "ambient": Wave(0.4, 0.6, 0.02),
}
SLOW_PERIODS = (70, 160)  # in frames of the imagined video, see FRAME_STEP
FAST_PERIODS = (25, 60)


@dataclass
class Look:
    """The fixed looks of a person.

    Lengths are in radii, half the height of the head, and positions are relative to its middle. The
    names in ``_u`` and ``_v`` are places in the face: u in half widths of the head, v in radii,
    down (see head.Head). :data:`FACE`, :data:`HAIR` and :data:`MEN` have the ranges of the values
    of face and hair that are drawn uniformly.
    """

    man: bool
    skin: Array  # (3,) red, green, blue in [0, 1], like all colours
    hair: Array
    iris: Array
    cloth: Array
    skin_texture: Array  # (96, 96) mottling of freckles and beard: mean about 0, deviation 0.7
    strands: Array  # (24, 256) brightness of the hair's strands, mean about 0 and deviation 1
    broad: float  # half the head's width
    chin: float  # exponent of the outline: 1 is an ellipse, above it chin and forehead are broader
    jaw: float  # share by which the head narrows at the chin
    eye_u: float  # of the middle of the eye that is right in the image, and -eye_u of the other
    eye_v: float
    eye_size: float  # half its width
    eye_open: float  # height of its upper half, divided by eye_size
    eye_tilt: float  # rise of the outer corner, divided by eye_size
    brow_height: float  # how far it is above the eye
    brow_bend: float  # rise of its middle above its ends
    brow_width: float  # half its thickness
    nose_v: float  # of its tip
    nose_width: float  # half its width, in u
    nose_height: float  # factor of its relief
    mouth_v: float
    mouth_width: float  # half its width
    upper_lip: float  # height, divided by half the width of the mouth, like the next
    lower_lip: float
    rouge: float  # share of a lipstick's colour in that of the lips
    blush: float  # strength, like freckles: 0 is none
    freckles: float
    beard: float  # density, 0 to 1
    hairline: float  # v of its middle
    hair_curve: float  # how much lower it is at the sides
    hair_slant: float  # how much lower it is on the image's right than on the left
    hair_volume: float  # how far it extends beyond the head
    bald: bool
    hair_length: float  # how far below the head's middle it falls; 0: short
    collar: float  # half the width of its opening


@dataclass
class Pose:
    """Pose, expression and light of one frame. Angles are in radians; at 0 the face is frontal."""

    yaw: float  # turned to the image's right
    pitch: float  # down
    roll: float  # clockwise in the image
    shift_x: float  # of the head's centre to the image's right, as a share of the frame's side
    shift_y: float  # down
    scale: float  # of the head; 1 is the usual size
    open: float  # how far the mouth is open; 0: closed, 1: wide open
    smile: float  # 0: none, 1: broad, negative: corners down
    blink: float  # 0: eyes open, 1: closed
    gaze: float  # to the image's right, in half widths of the eye
    brow_raise: float  # by how much the brows are lifted, in v
    azimuth: float  # of the light; 0: in front, positive: from the image's right
    elevation: float  # of the light above the camera
    ambient: float  # light that reaches every surface, whatever its direction; about 0.4 to 0.6


class Shot(NamedTuple):
    """A frame (S, S, 3) float32 RGB in [0, 1] with its landmarks (5, 2) in pixels.

    Landmarks are x and y of right eye, left eye, nose tip, right and left corner of the mouth.
    Right is the person's, which is the image's left.
    """

    image: Array
    landmarks: Array


# ---------------------------------------------------------------- looks and motion


def person(draw: Generator, tone: float) -> Look:
    """Draw the looks of a person with a skin tone from 0, light, to 4, dark.

    The order of the draws is the order in which the generator's numbers are used up: another order
    would give other people.
    """
    man = draw.random() < 0.5
    skin_texture = _mottling(draw)
    strands = _strands(draw)
    skin = _skin(tone)
    hair = _hair_colour(tone, draw)
    skin = skin * draw.uniform(0.95, 1.04, 3).astype(np.float32)
    hair = hair * draw.uniform(0.8, 1.2)
    eye_colours = BROWN_EYES
    if tone < LIGHT_EYES_BELOW:
        eye_colours = BROWN_EYES + OTHER_EYES
    iris = draw.choice(_colours(eye_colours))  # one row: a colour (3,)
    face = _values(FACE, man, draw)
    beard = _beard(draw) if man else 0.0
    hair_shape = _values(HAIR, man, draw)
    bald = man and draw.random() < 0.08
    has_short_hair = man or draw.random() < 0.25
    hair_length = 0.0  # short
    if not has_short_hair:
        hair_length = draw.uniform(0.9, 1.7)
    brightness = draw.uniform(0.08, 0.8)  # of the clothes
    cloth = brightness * draw.uniform(0.55, 1, 3)
    return Look(
        man=man,
        skin=skin,
        hair=hair,
        iris=iris,
        skin_texture=skin_texture,
        strands=strands,
        **face,
        beard=beard,
        **hair_shape,
        bald=bald,
        hair_length=hair_length,
        cloth=cloth.astype(np.float32),
        collar=draw.uniform(0.15, 0.6),
    )


def _colours(percent: list[list[int]]) -> Array:
    """Colours (n, 3) in [0, 1] of a table in per cent."""
    return np.float32(percent) / 100


def _mottling(draw: Generator) -> Array:
    """Noise (96, 96) with mean about 0, deviation about 0.7: pores, spots and patches."""
    # White noise, blurred by s pixels, keeps a deviation of about 0.28 / s, for which the factors
    # make up: the three have deviations of about 0.17, 0.28 and 0.34. They blur the same noise, so
    # their sum has about 0.66, more than the 0.47 of independent noises.
    grain = draw.standard_normal((96, 96)).astype(np.float32)
    fine = cv2.GaussianBlur(grain, (0, 0), 1.0) * 0.6
    middle = cv2.GaussianBlur(grain, (0, 0), 3.0) * 3.0
    coarse = cv2.GaussianBlur(grain, (0, 0), 8.0) * 9.6
    return fine + middle + coarse


def _strands(draw: Generator) -> Array:
    """Vertical stripes (24, 256) of random brightness, with mean about 0 and deviation 1.

    They are white noise that is blurred much further down than sideways.
    """
    grain = draw.standard_normal((24, 256)).astype(np.float32)
    stripes = cv2.GaussianBlur(grain, (0, 0), sigmaX=1.3, sigmaY=8)
    return stripes / float(stripes.std())


def _skin(tone: float) -> Array:
    """The RGB colour (3,) in [0, 1] of a tone from 0 to 4, interpolated in SKIN_TONES."""
    channels = _colours(SKIN_TONES).T
    tones = range(len(SKIN_TONES))
    return np.float32([np.interp(tone, tones, channel) for channel in channels])


def _hair_colour(tone: float, draw: Generator) -> Array:
    """A colour (3,) of hair; people with dark skin have dark hair."""
    if tone < LIGHT_HAIR_BELOW:
        return draw.choice(_colours(DARK_HAIR + OTHER_HAIR), p=HAIR_SHARES)
    return draw.choice(_colours(DARK_HAIR))


def _beard(draw: Generator) -> float:
    """How dense a man's beard is, 0 to 1: half of them have none, a quarter stubble."""
    # Both are drawn for every man, so that every man uses up equally many of the stream's numbers.
    stubble = draw.uniform(0.15, 0.45)
    full = draw.uniform(0.6, 0.85)
    return draw.choice([0.0, 0.0, stubble, full])


def _values(spans: dict[str, Span], man: bool, draw: Generator) -> dict[str, float]:
    """Draw a value from each span, by name; a man's from the span in :data:`MEN`, if any."""
    values = {}
    for name, span in spans.items():
        if man and name in MEN:
            span = MEN[name]
        values[name] = draw.uniform(*span)
    return values


def motion(pose_draw: Generator, expression_draw: Generator, n: int) -> list[Pose]:
    """Poses of n stored frames; each of their values is a smooth curve over time.

    Head pose is drawn from the first stream, expression and light from the second: a donor who is
    filmed for a face swap moves the head as the target does, but has their own expression.
    """
    times = np.arange(n) * FRAME_STEP
    curves = {}
    for name, wave in POSE_WAVES.items():
        curves[name] = _curve(wave, times, pose_draw)
    for name, wave in EXPRESSION_AND_LIGHT_WAVES.items():
        curves[name] = _curve(wave, times, expression_draw)
    poses = []
    for frame in range(n):
        values = {name: curve[frame] for name, curve in curves.items()}
        poses.append(Pose(**values))  # the waves have the names of Pose's fields
    return poses


def _curve(wave: Wave, times: Array, draw: Generator) -> list[float]:
    """The values (n,) of a wave at times (n,), which are in frames of the imagined video."""
    slow = _sine(times, SLOW_PERIODS, draw)
    fast = _sine(times, FAST_PERIODS, draw)
    mean = draw.uniform(wave.low, wave.high)
    swing = 0.6 * slow + 0.4 * fast  # -1 to 1
    values = mean + wave.swing * swing
    return np.clip(values, *wave.limits).tolist()


def _sine(times: Array, periods: Span, draw: Generator) -> Array:
    """A sine (n,), -1 to 1, of times (n,) with a random phase.

    Its period is drawn from ``periods``, in the unit of the times.
    """
    period = draw.uniform(*periods)
    phase = draw.random()
    turns = times / period + phase  # in whole periods
    return np.sin(2 * np.pi * turns)


def backdrop(draw: Generator, size: int) -> Array:
    """What is behind a person (S, S, 3) in [0, 1]: a ramp of two colours, 2 to 8 shapes, blurred.

    ``size`` is S, in pixels.
    """
    canvas = _ramp(draw, size)
    mean = canvas.mean(axis=(0, 1))
    for _ in range(draw.integers(2, 9)):
        # The shapes have about the ramp's mean hue, as things in one room and one light have.
        brightness = draw.uniform(0.5, 1.5)
        colour = mean * brightness * draw.uniform(0.85, 1.15, 3)
        _draw_shape(canvas, colour.clip(0, 1).tolist(), draw)
    blur = draw.uniform(1.5, 8)  # in pixels: the camera is focused on the person
    return cv2.GaussianBlur(canvas, (0, 0), blur)


def _ramp(draw: Generator, size: int) -> Array:
    """A picture (S, S, 3) that goes from one colour to another in a random direction.

    ``size`` is S. The first colour's channels are drawn from 0.25 to 0.9, the second's from 0.15 to
    0.75.
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    # (2, 1): one row per colour; its three channels have the same limits.
    lowest = [[0.25], [0.15]]
    highest = [[0.9], [0.75]]
    colours = draw.uniform(lowest, highest, (2, 3)).astype(np.float32)
    greys = colours.mean(axis=1, keepdims=True)
    # Each colour is muted: mixed with a grey of its own brightness.
    first, second = 0.4 * colours + 0.6 * greys  # (3,) each
    angle = draw.uniform(0, 2 * np.pi)
    # The first colour's share: a half in the middle, rising along the direction of `angle`.
    share = 0.5 + (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)
    share = np.clip(share, 0, 1)[..., None]
    return first * share + second * (1 - share)


def _draw_shape(canvas: Array, colour: list[float], draw: Generator) -> None:
    """Draw a filled ellipse or rectangle on the canvas (S, S, 3), in place.

    ``colour`` is red, green and blue in [0, 1]. The half axes of an ellipse, and the sides of a
    rectangle, are 0.05 to 0.4 of the canvas's side.
    """
    size = len(canvas)
    place = draw.uniform(0, size, 2).astype(int)  # the ellipse's middle, the rectangle's corner
    extent = draw.uniform(0.05, 0.4, 2) * size
    extent = extent.astype(int)
    if draw.random() < 0.5:
        cv2.ellipse(
            canvas,
            place.tolist(),
            extent.tolist(),
            angle=0,
            startAngle=0,
            endAngle=360,
            color=colour,
            thickness=cv2.FILLED,
        )
    else:
        cv2.rectangle(
            canvas,
            place.tolist(),
            (place + extent).tolist(),
            colour,
            thickness=cv2.FILLED,
        )
