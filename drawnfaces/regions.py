"""Places of the face that a forgery may change, whatever its method.

If each method had its own place, a detector could locate a forgery without looking at the pixels,
and leaving a method out of training would leave out its place, too.
"""

from numpy.random import Generator

from drawnfaces.forgeries import BOX, EYES, FACE, HAIR, HOLE, MOUTH, Region

# Ranges in face coordinates, see forgeries.Region: of the centre (aside, middle), of half the width
# (wide) and of half the height (high). Regions beside the midline are on the image's right here;
# drawn_place mirrors half of them.
HALF = Region(
    {
        "aside": (0.95, 1.1),
        "middle": (0.35, 0.5),
        "wide": (0.85, 1.0),
        "high": (0.95, 1.2),
    },
    exponent=4,
)
UPPER_HALF = Region(
    {
        "middle": (-0.25, 0.1),
        "wide": (1.7, 2.1),
        "high": (0.5, 0.7),
    },
    exponent=4,
)
LOWER_HALF = Region(
    {
        "middle": (0.9, 1.05),
        "wide": (1.4, 1.7),
        "high": (0.5, 0.65),
    },
    exponent=4,
)
EYE = Region(
    {
        "aside": (0.9, 1.15),
        "middle": (-0.1, 0.05),
        "wide": (0.7, 0.95),
        "high": (0.3, 0.45),
    },
)
CHEEK = Region(
    {
        "aside": (1.0, 1.4),
        "middle": (0.5, 0.85),
        "wide": (0.55, 0.85),
        "high": (0.3, 0.5),
    },
)
NOSE = Region(
    {
        "middle": (0.4, 0.6),
        "wide": (0.5, 0.75),
        "high": (0.35, 0.55),
    },
)
CHIN = Region(
    {
        "middle": (1.35, 1.5),
        "wide": (0.8, 1.2),
        "high": (0.25, 0.4),
    },
)
FOREHEAD = Region(
    {
        "aside": (-0.5, 0.5),
        "middle": (-0.75, -0.5),
        "wide": (0.9, 1.5),
        "high": (0.3, 0.45),
    },
)
HAIRLINE = Region(
    {
        "aside": (0.4, 1.2),
        "middle": (-1.1, -0.8),
        "wide": (0.9, 1.3),
        "high": (0.35, 0.55),
    },
)
# Factor by which a place is wider and higher than its feature: most forgeries as small as an eye
# were not found after compression. Chosen on people who are in no dataset of the test bed (bed,
# worlds and so on). The methods' own regions, but for MOUTH, are large already: if enlarged, too,
# they would overlap so much that a constant map finds them.
ENLARGED = 1.7


def _enlarged(region: Region) -> Region:
    """The region, :data:`ENLARGED` times as wide and as high."""
    drawn = dict(region.drawn)
    for name in ("wide", "high"):
        low, high = drawn[name]
        drawn[name] = (ENLARGED * low, ENLARGED * high)
    return region._replace(drawn=drawn)


# All are equally likely. The larger ones overlap in the middle of the face, where a constant map
# would find many of them: so there are few large ones.
PLACES = (
    FACE,
    BOX,
    _enlarged(HALF),
    _enlarged(UPPER_HALF),
    _enlarged(LOWER_HALF),
    EYES,
    _enlarged(EYE),
    _enlarged(CHEEK),
    _enlarged(NOSE),
    _enlarged(MOUTH),
    _enlarged(CHIN),
    _enlarged(FOREHEAD),
    HAIR,
    _enlarged(HAIRLINE),
    HOLE,
)


def drawn_place(draw: Generator) -> Region:
    """One of :data:`PLACES`, on either side of the face with equal chances."""
    place = PLACES[draw.integers(len(PLACES))]
    # Also drawn for a place on the midline, which has no "aside" to mirror. That does no harm: this
    # stream gives nothing else, and the values of the region are drawn from another one.
    mirrored = draw.random() < 0.5
    if "aside" not in place.drawn or not mirrored:
        return place
    low, high = place.drawn["aside"]
    # The other side; the dict keeps its order, in which forgeries._opacity draws the values.
    return place._replace(drawn={**place.drawn, "aside": (-high, -low)})
