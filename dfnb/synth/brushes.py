"""The brushes that paint and forge faces; each works on arrays with one value per pixel."""

import numpy as np

from dfnb.synth.people import Array

ANYWHERE = 9  # a width so large that a bump is a stripe


def bell(distance: Array, width: float) -> Array:
    """A Gaussian of height 1 at distance 0 that falls to 1/e at ``width``."""
    ratio = distance / width
    return np.exp(-(ratio**2))


def bump(
    x: Array,
    y: Array,
    at: tuple,
    size: tuple[float, float],
) -> Array:
    """A Gaussian bump of height 1 about the place ``at``.

    It falls to 1/e at the distance ``size[0]`` sideways and ``size[1]`` up or down.
    """
    centre_x, centre_y = at
    width, height = size
    x = (x - centre_x) / width
    y = (y - centre_y) / height
    return np.exp(-(x**2) - y**2)


def stripe(
    x: Array,
    y: Array,
    middle: Array | float,
    height: float,
) -> Array:
    """A :func:`bump` along the whole line y = ``middle``."""
    return bump(x, y, (0, middle), (ANYWHERE, height))


def edge(distance: Array) -> Array:
    """Covered share of a pixel with its centre ``distance`` pixels inside an edge; at it, half."""
    return np.clip(distance + 0.5, 0, 1)


def power(base: Array, exponent: Array | float) -> Array:
    """``base ** exponent`` for a base >= 0.

    It is exp(exponent * log(base)), since numpy computes exp and log of float32 with vector
    instructions, but not powers.
    """
    logarithm = np.log(np.maximum(base, 1e-6))
    return np.exp(exponent * logarithm)


def lay_over(canvas: Array, colour: Array | float, opacity: Array) -> None:
    """Paint a colour on the canvas (H, W, 3), in place, with an opacity (H, W)."""
    change = opacity[..., None] * (colour - canvas)
    canvas += change
