"""How well one can guess the masks of a dataset without looking at the pictures.

``python scripts/guessable_masks.py TRAIN TEST`` prints, for each method of TEST and for all, how
well the mean training mask of TRAIN finds the forged pixels. The datasets of the benchmark are
drawn where they are missing. On the test bed, ``python scripts/guessable_masks.py bed-30 bed``
gives a pixel AP of .52 and a pointing game of .59.
"""

import sys

import numpy as np
import pandas as pd
import typer

from dfnb.checks import DfnbError
from dfnb.data.frames import load_frames, masked_positions, mean_mask, read_mask, select
from dfnb.running.datasets import ensure_datasets
from dfnb.training.localisation import localisation


def table(train_set: str, test_set: str) -> pd.DataFrame:
    """Means of pixel AP, pointing game and forged share per method, and in the row "all" of all.

    The mean mask is that of the training split of ``train_set``, the fakes are those of the test
    split of ``test_set`` that have a mask; "all" is the mean over these frames. All three are in
    [0, 1], see :func:`dfnb.training.localisation.localisation`. Raises :class:`DfnbError` where no
    mask is known.
    """
    constant = mean_mask(select(load_frames(train_set), "train"))
    test = select(load_frames(test_set), "test")
    fakes = test.iloc[masked_positions(test)]
    if constant is None or fakes.empty:
        raise DfnbError(f"{train_set} or {test_set} has no masks; give datasets that have them")
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
    per_frame = pd.DataFrame(rows)
    per_method = per_frame.groupby("method", observed=True).mean()
    per_method.loc["all"] = per_frame.mean(numeric_only=True)
    return per_method


def main(train_set: str, test_set: str) -> None:
    """Print how well the mean training mask of TRAIN_SET finds the forged pixels of TEST_SET."""
    try:
        ensure_datasets(train_set, test_set)
        print(table(train_set, test_set).round(3).to_string())
    except DfnbError as error:
        sys.exit(f"guessable_masks.py: {error}")


if __name__ == "__main__":
    typer.run(main)
