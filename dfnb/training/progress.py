"""How far a training or a scoring is: a bar of tqdm that an executed notebook can keep."""

import sys
from typing import Any

from tqdm import tqdm

RENEWED_S = 0.5  # seconds between two forms of a bar on a terminal
PRINTED_S = 30.0  # elsewhere: a notebook keeps every form


def bar(**options: Any) -> tqdm:
    """A bar of tqdm with these options; its speed is the mean of this process."""
    return tqdm(
        **options,
        file=sys.stdout,
        mininterval=RENEWED_S if sys.stdout.isatty() else PRINTED_S,
        miniters=1,  # else tqdm renews a bar every ten seconds, whatever mininterval says
        smoothing=0,
        dynamic_ncols=True,
        position=0,  # a validation takes the line of its training
    )
