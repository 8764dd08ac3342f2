"""How well one can guess the masks of a dataset without looking at the pictures.

``python scripts/guessable_masks.py TRAIN TEST`` prints, for each method of TEST and for all, how
well the mean training mask of TRAIN finds the forged pixels. The datasets of the benchmark are
drawn where they are missing. On the test bed, ``python scripts/guessable_masks.py bed-30 bed``
gives a pixel AP of .52 and a pointing game of .59.
"""

import sys

import numpy as np
import pandas as pd

from dfnb.data.frames import load_frames, mean_mask, read_mask, select
from dfnb.running.datasets import ensure_datasets
from dfnb.training.localisation import localisation


def table(train_set: str, test_set: str) -> pd.DataFrame:
    """Means of pixel AP, pointing game and forged share per method, and of all methods.

    The mean mask is that of the training split of ``train_set``, the fakes are those of the test
    split of ``test_set``. All three are in [0, 1], see
    :func:`dfnb.training.localisation.localisation`.
    """
    constant = mean_mask(select(load_frames(train_set), "train"))
    fakes = select(load_frames(test_set), "test").query("label == 1")
    rows = []
    for frame in fakes.itertuples():
        mask = read_mask(frame.mask, constant.shape)
        measures = localisation(constant, mask)
        row = {
            "method": frame.method,
            "pixel AP": measures["pixel_ap"],
            "pointing": measures["pointing"],
            "forged share": np.mean(mask),
        }
        rows.append(row)
    found = pd.DataFrame(rows)
    per_method = found.groupby("method", observed=True).mean()
    per_method.loc["all"] = found.mean(numeric_only=True)
    return per_method


if __name__ == "__main__":
    names = sys.argv[1:]
    ensure_datasets(*names)
    print(table(*names).round(3).to_string())
