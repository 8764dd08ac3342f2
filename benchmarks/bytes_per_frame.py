"""How large the test files of HiDF's sample are, which may tell real from fake without a look.

    python benchmarks/bytes_per_frame.py    # needs `dfnb fetch hidf-sample`, takes seconds

The folds are those of the profile study-hidf, so that notebook 07 can put this control beside the
detectors, by the same comparisons.
"""

from pathlib import Path

from facesets.files import atomic
from facesets.published import bytes_per_frame, default_root

OUT = Path("reports/benchmarks/bytes-hidf-sample.csv")
FOLDS = [f"hidf-sample-fold-{fold}" for fold in range(1, 6)]

if __name__ == "__main__":
    table = bytes_per_frame(FOLDS, default_root("hidf-sample"))
    with atomic(OUT) as temporary:
        table.round(1).to_csv(temporary, index=False)
