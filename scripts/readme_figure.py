"""Draw the picture of README: of each dataset of the embedded benchmark, real and forged frames.

The masks of the forged frames are outlined. ``python scripts/readme_figure.py [TARGET.png]``
"""

import os
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from dfnb import synth
from dfnb.attribution import pictures
from dfnb.data.frames import load_frames
from dfnb.data.loading import StoredFrames
from dfnb.files import atomic
from dfnb.report import figures

COLUMNS = 5  # pairs of a real frame and its forgery


def row(name: str) -> pictures.Row:
    """The row of a dataset: frames of its first test people, real and forged in turn.

    A row of a panel is a title, crops (H, W, 3), masks (H, W) whose outlines are drawn, and options
    of ``imshow``. The dataset is built in ``DFNB_HOME``.
    """
    # Each person has one real and one forged video of one frame. Only the first COLUMNS people are
    # shown; with the others, donors have a more similar skin tone.
    identities = {"train": 0, "val": 0, "test": 2 * COLUMNS}
    preset = synth.preset(name, identities=identities, videos=1, frames=1)
    synth.build(name, preset, workers=1)
    frames = load_frames(name).sort_values(["identity", "label"], kind="stable").head(2 * COLUMNS)
    crops, masks, *_ = zip(*StoredFrames(frames))
    return name, crops, masks, {}


def main(target: Path) -> None:
    """Make small versions of the four datasets in a temporary home, and save the picture as PNG."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["DFNB_HOME"] = home
        figures.style()
        rows = [row(f"synth-{letter}") for letter in "abcd"]
        figure = pictures.panel(rows, ["real", "forged"] * COLUMNS)
        with atomic(target) as temporary:
            # Without the name of matplotlib's version, the same picture has the same bytes.
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/benchmark.png"))
