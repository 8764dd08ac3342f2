"""Draw the picture of README: in each dataset of the embedded benchmark, real frames beside forgeries, the masks outlined."""

import os
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from dfnb import core, figures, synth
from dfnb.data.frames import Pixels, load_frames

COLUMNS = 5  # pairs of a real frame and its forgery


def row(name: str) -> tuple:
    """One row of :func:`figures.panel`: the first frames of the first people, real and forged in turn."""
    people = {"train": 0, "val": 0, "test": 2 * COLUMNS}
    synth.build(name, synth.preset(name, identities=people, videos=1, frames=1), workers=1, progress=False)
    frames = load_frames(name).sort_values(["identity", "label"], kind="stable").head(2 * COLUMNS)
    pixels = Pixels(frames.attrs["folder"])
    crops = [pixels.crop(*place) for place in zip(frames["path"], frames["row"])]
    places = zip(frames["mask"], frames["row"], (crop.shape[:2] for crop in crops))
    return name, crops, [pixels.mask(*place) for place in places], {}


def main(target: Path) -> None:
    """Make small versions of the four datasets in a temporary home, and save the picture as ``target``."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["DFNB_HOME"] = home
        figures.style()
        figure = figures.panel([row(f"synth-{letter}") for letter in "abcd"], ["real", "forged"] * COLUMNS)
        with core.atomic(target) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/benchmark.png"))
