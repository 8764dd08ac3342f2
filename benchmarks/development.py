"""What the settings of portraits-default were chosen by: the scores of the profile development.

    dfnb run development && python benchmarks/development.py

writes reports/benchmarks/development.csv. Seeds, people and worlds are those of development, of
which no result is reported; benchmarks/README.md has the columns.
"""

from pathlib import Path

import pandas as pd

from dfnb.results import maps, measure, scores
from dfnb.results.detectors import detectors
from dfnb.results.reading import GAIN
from facesets.files import atomic
from facesets.records import environment

OUT = Path("reports/benchmarks/development.csv")
REPORT = "development"
NAMES = ["detector", "map", "dataset", "metric", "minus"]
NUMBERS = ["value", "low", "high", "seeds", "clusters"]


def costs() -> pd.DataFrame:
    """Images that a training of each detector saw, and its core seconds: means over seeds."""
    rows = []
    for detector in detectors(REPORT):
        for run in detector.runs:
            record = run.record
            seconds = record.wall_s * (record.environment.get("threads") or 1)
            images = record.images_seen
            rows.append({"detector": detector.name, "images": images, "core_s": seconds})
    return pd.DataFrame(rows).groupby("detector").mean().round()


def table() -> pd.DataFrame:
    """AUC and gain in pixel AP of each detector, and both minus those of the Baseline."""
    by_video, by_frame = scores(REPORT), maps(REPORT)
    own = by_frame[~by_frame["sanity"]].assign(dataset=by_frame["test_set"])
    # One word for the four worlds, whose mean is shown.
    place = by_video["place"].astype(str).replace("cross-dataset", "four worlds")
    by_video = by_video.assign(dataset=place)
    parts = []
    for minus in ("", "Baseline"):
        options = {"mean_over": "test_set", "minus": minus or ()}
        for _, rows in by_video.groupby("dataset"):  # apart: a mean is over equally many sets
            parts.append(measure(rows, "AUC", by=["detector", "dataset"], **options))
        parts.append(measure(own, GAIN, by=["detector", "dataset", "map"], **options))
    return pd.concat(parts, ignore_index=True)[[*NAMES, *NUMBERS]]


def main() -> None:
    """Write the table."""
    where = environment()
    rows = table().merge(costs(), left_on="detector", right_index=True)
    rows = rows.assign(device=where["device"], commit=where["commit"])
    with atomic(OUT) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
