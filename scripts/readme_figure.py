"""Draw the picture of README: faces of the study on drawn faces, their forgeries, and the masks.

Each column shows one manipulation, in another dataset of the study.
``python scripts/readme_figure.py [TARGET.png]``
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

# Dataset of the study -> the manipulation that is shown of it.
SHOWN = {"bed": "swap", "world-02": "resynthesis", "world-04": "texture", "world-08": "reshape"}
PEOPLE = 20  # with fewer, the skin tones of a pair differ more


def pair(name: str, method: str) -> list:
    """A real and a forged frame of one test person, as :class:`dfnb.data.loading.Sample`.

    The dataset is built in ``DFNB_HOME``, with one real and one forged video per person.
    """
    identities = {"train": 0, "val": 0, "test": PEOPLE}
    preset = synth.preset(name, identities=identities, videos=1, frames=1)
    synth.build(name, preset, workers=1)
    frames = load_frames(name)
    person = frames.loc[frames["method"] == method, "identity"].iloc[0]
    of_person = frames[frames["identity"] == person].sort_values("label")
    return list(StoredFrames(of_person))


def main(target: Path) -> None:
    """Make small versions of the datasets in a temporary home, and save the picture as PNG."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["DFNB_HOME"] = home
        figures.style()
        pairs = [pair(name, method) for name, method in SHOWN.items()]
    reals = [real.image for real, _ in pairs]
    fakes = [fake.image for _, fake in pairs]
    masks = [fake.mask for _, fake in pairs]
    none = [0 * mask for mask in masks]
    # A row of a panel: its title, pictures, masks that are outlined, and options of imshow.
    rows = [("a face", reals, none, {}), ("forged", fakes, none, {}), ("where", fakes, masks, {})]
    titles = [f"{name}: {method}" for name, method in SHOWN.items()]
    figure = pictures.panel(rows, titles)
    figure.set_size_inches(figures.width(), 5.1)
    with atomic(target) as temporary:
        # Without the name of matplotlib's version, the same picture has the same bytes.
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/benchmark.png"))
