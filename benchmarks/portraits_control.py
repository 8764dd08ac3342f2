"""Whether detectors of forged portraits look for traces of the generator that forging removes.

    python benchmarks/portraits_control.py    # needs the runs of `make demo`, takes minutes

An original carries the traces of the network that generated it, and a forgery has fewer. Here both
are reduced and compressed once more, which removes such traces from both, and the detectors of the
demo are tested on them before and after.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

import dfnb
from dfnb.running.measuring import first_runs
from dfnb.training.scoring import predict_frames
from drawnfaces import codecs
from facesets.files import atomic
from facesets.frames import read_crop
from facesets.sources import frames_to_score

OUT = Path("reports/benchmarks/portraits-control.csv")
DATASET = "synth-a"
SHARE = 0.6  # of a frame's side; it is enlarged again, as all frames of a training have one size
QUALITY = 60  # of JPEG
ALIKE = f"reduced to {SHARE:.0%}, JPEG {QUALITY}"


def handled_alike(path: str) -> np.ndarray:
    """A frame (H, W, 3) uint8 RGB, reduced, compressed and enlarged again."""
    crop = read_crop(path)
    small = cv2.resize(crop, None, fx=SHARE, fy=SHARE, interpolation=cv2.INTER_AREA)
    compressed = codecs.jpeg(small, QUALITY)
    return cv2.resize(compressed, crop.shape[1::-1], interpolation=cv2.INTER_CUBIC)


if __name__ == "__main__":
    frames = frames_to_score(DATASET)
    tables = []
    for name, run in first_runs("demo").items():
        for treatment, read in {"as made": read_crop, ALIKE: handled_alike}.items():
            scores = predict_frames(run.network(), frames, run.settings, read, locate=False)
            about = {"detector": name, "treatment": treatment, "seed": run.seed}
            tables.append(scores.assign(test_set=DATASET, **about))
    scores = pd.concat(tables, ignore_index=True)
    before_after = dfnb.measure(scores, "AUC", ["detector", "treatment"])
    change = dfnb.measure(
        scores, "AUC", ["detector", "treatment"], minus=[{"treatment": "as made"}]
    )
    shown = ["detector", "treatment", "minus", "value", "low", "high", "clusters", "seeds"]
    with atomic(OUT) as temporary:
        pd.concat([before_after, change])[shown].round(3).to_csv(temporary, index=False)
