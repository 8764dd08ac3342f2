"""What a plain picture is, stated once; files, clips, PIL images and arrays all pass through here.

A picture is plain where its stored numbers, shown as RGB of 8 bits, are what every viewer shows.
Anything else is refused in one sentence, so that nothing is read otherwise than it is shown.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from facesets.checks import DfnbError

# A clip's display matrix ((a, b), (c, d)) says where a stored pixel (x, y) is shown: at (ax + cy,
# bx + dy), up to a shift. By (a, b, c, d): the quarter turns of numpy.rot90 that show it upright.
# Others mirror or slant.
QUARTER_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}
# By attribute, the values of a plain picture. A file need not state all of them.
PLAIN = {
    "number of pictures": {1},  # of an animation there are more
    "mode": {"1", "L", "LA", "P", "RGB", "RGBA"},  # of Pillow
    "number of bits": {8},
    "lowest alpha": {255},  # what is beneath transparency, or whether it is a mask, is not guessed
    "colour profile": {"", "sRGB"},
    "gamma": {None, 0.45455},
    # Of frames of clips and of PNGs, in FFmpeg's names. Left out are the curves of HDR and linear
    # light, and the wide gamuts, BT.2020 and P3.
    "transfer curve": {
        "UNSPECIFIED",
        "BT709",
        "GAMMA22",
        "GAMMA28",
        "SMPTE170M",
        "SMPTE240M",
        "IEC61966_2_1",
        "BT2020_10",
        "BT2020_12",
    },
    "primaries": {"UNSPECIFIED", "BT709", "BT470M", "BT470BG", "SMPTE170M", "SMPTE240M", "EBU3213"},
    "scan": {"progressive"},
    "pixel aspect": {"square"},
    "orientation": QUARTER_TURNS.keys(),
    # Of arrays in memory.
    "type": {"uint8"},
    "last axis": {(3,)},
}
# What to do with a file, and with what is in memory.
SAVE = (
    "save it as PNG, JPEG, WebP or BMP of 8 bits, in sRGB, without transparency, or as an upright "
    "clip of whole frames with square pixels"
)
GIVE = (
    "give a PIL image, or an array (H, W, 3) of uint8: RGB or grey of 8 bits, in sRGB, without "
    "transparency"
)
# x and y of white, red, green and blue in sRGB. Those of PAL and NTSC are less than this apart.
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
APART = 0.02
PALETTE = np.stack(np.meshgrid(*[range(0, 256, 51)] * 3), -1).reshape(1, -1, 3).astype(np.uint8)


class Unusable(DfnbError):
    """The reason why a picture or video cannot be used; ``dfnb prepare`` lists it."""


def check_plain(what: str, attributes: dict[str, Any], remedy: str = SAVE) -> None:
    """Raise :class:`Unusable` with the first attribute that :data:`PLAIN` does not allow.

    ``remedy`` is SAVE or GIVE.
    """
    for name, value in attributes.items():
        if value not in PLAIN[name]:
            raise Unusable(f"{what} whose {name} is {value}; {remedy}")


def plain_rgb(image: Image.Image | np.ndarray, remedy: str = GIVE) -> np.ndarray:
    """A picture in memory as (H, W, 3) uint8 RGB, upright; raises :class:`Unusable`.

    It is a PIL image, also of a file that Pillow has opened, or such an array already.
    """
    if isinstance(image, Image.Image):
        return _rgb_of_pil(image, remedy)
    attributes = {
        "type": str(getattr(image, "dtype", "not uint8")),
        "last axis": tuple(getattr(image, "shape", ()))[2:],
    }
    check_plain(f"a {type(image).__name__}", attributes, remedy)
    return image


def _rgb_of_pil(image: Image.Image, remedy: str) -> np.ndarray:
    """:func:`plain_rgb` of a PIL image, turned as its EXIF data say."""
    # An MPO is a JPEG; its further pictures are previews, depth or another eye.
    is_animated = image.format != "MPO" and getattr(image, "n_frames", 1) > 1
    icc = image.info.get("icc_profile") or b""
    white_and_primaries = image.info.get("chromaticity", SRGB)  # of a PNG's chunk cHRM
    is_near = np.abs(np.subtract(white_and_primaries, SRGB)).max() < APART
    attributes = {
        "number of pictures": image.n_frames if is_animated else 1,
        # Of 16 bits Pillow would show the upper 8, also where a camera fills the lower 12.
        "number of bits": 16 if ";16" in f"{image.mode} {getattr(image, 'tile', '')}" else 8,
        "mode": image.mode,
        "colour profile": _colour_profile(icc, image.mode),
        "gamma": None if "srgb" in image.info else image.info.get("gamma"),
        "primaries": "BT709" if is_near or icc or "srgb" in image.info else white_and_primaries,
    }
    check_plain("a picture", attributes, remedy)
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        return opaque(np.array(upright.convert("RGBA")), remedy)
    return np.array(upright.convert("RGB"))


def opaque(pixels: np.ndarray, remedy: str = SAVE) -> np.ndarray:
    """RGBA pixels (H, W, 4) uint8 as RGB (H, W, 3); raises :class:`Unusable` for others."""
    check_plain("a picture", {"lowest alpha": int(pixels[..., 3].min())}, remedy)
    return np.ascontiguousarray(pixels[..., :3])


@lru_cache(maxsize=64)  # pictures of one camera have one profile
def _colour_profile(icc: bytes, mode: str) -> str:
    """The name of an ICC profile, sRGB where it shows a palette as sRGB does; empty: there is none.

    Names are no use: those of sRGB are many.
    """
    if not icc:
        return ""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = ImageCms.getProfileDescription(profile).strip()
        colours = Image.fromarray(PALETTE).convert("L" if mode in ("1", "L", "LA") else "RGB")
        srgb = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(colours, profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one of another colour space
        return "not readable"
    apart = np.abs(np.subtract(shown, colours.convert("RGB"), dtype=float)).mean()
    return "sRGB" if apart < 1 else name  # grey levels, of which rounding makes up to .5
