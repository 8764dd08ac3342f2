"""The brushes that paint and forge faces; each works on arrays (H, W) with one value per pixel.

An *opacity* or a *bump* has values from 0 to 1. A length has the unit of the coordinates that the
caller passes: pixels, or those of a face, an eye or a mouth, which go from -1 to 1 across it.
"""

import numpy as np

from drawnfaces.people import Array

ANYWHERE = 9  # width of a bump that is a stripe: far wider than faces, which span -1 to 1


def bell(distance: Array, width: float) -> Array:
    """A Gaussian (H, W): 1 where ``distance`` (H, W) is 0, and 1/e where it is ``width``."""
    ratio = distance / width
    return np.exp(-(ratio**2))


def bump(
    x: Array,
    y: Array,
    at: tuple[Array | float, Array | float],
    size: tuple[float, float],
) -> Array:
    """A Gaussian bump (H, W) of height 1 about the place ``at``.

    Args:
        x: (H, W), the horizontal coordinate of every pixel, in any unit.
        y: (H, W), its vertical coordinate.
        at: x and y of the top; each may be an array (H, W), for a top that depends on the pixel.
        size: The distances, sideways and up or down, at which the bump has fallen to 1/e.
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
    """A soft horizontal line (H, W): about 1 at y = ``middle``, 1/e at ``height`` above and below.

    The line is bent if ``middle`` is an array (H, W), its y at every pixel.
    """
    return bump(x, y, (0, middle), (ANYWHERE, height))


def edge(distance: Array) -> Array:
    """How much of each pixel an area with a sharp edge covers, from 0 to 1: anti-aliasing.

    Args:
        distance: From the pixel's centre to the edge, in pixels, positive inside the area. A pixel
            has width 1: at distance 0 half of it is covered, from 0.5 on all of it.
    """
    return np.clip(distance + 0.5, 0, 1)


def power(base: Array, exponent: Array | float) -> Array:
    """``base ** exponent`` for a base >= 0.

    It is exp(exponent * log(base)), since numpy computes exp and log of float32 with vector
    instructions, but not powers. A base below 1e-6 counts as 1e-6. Shapes broadcast, as in ``**``.
    """
    logarithm = np.log(np.maximum(base, 1e-6))  # 0 has no logarithm
    return np.exp(exponent * logarithm)


def lay_over(canvas: Array, colour: Array | float, opacity: Array) -> None:
    """Paint on the canvas, in place: canvas = (1 - opacity) * canvas + opacity * colour.

    Args:
        canvas: (H, W, 3) red, green, blue in [0, 1].
        colour: (3,) for all pixels, (H, W, 3) for each its own. A grey is one number or (H, W, 1).
        opacity: (H, W), 0 where nothing is painted, 1 where the colour hides what was there.
    """
    change = opacity[..., None] * (colour - canvas)
    canvas += change
