"""How far our networks, losses, gradients and training steps are from those of the released codes.

``python benchmarks/released.py`` writes ``reports/benchmarks/released.csv``, a row per paper, size
and quantity with the largest relative difference, and prints it as the table of docs/methods.md.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import goldens  # noqa: E402

FILE = ROOT / "reports" / "benchmarks" / "released.csv"
TITLES = {
    "lv": "Locate and Verify",
    "lv_semi": "Locate and Verify, SSPSL",
    "etd": "Exposing the Deception",
}
SEED = 0


def of_outputs(kind: str, images: Sequence[int]) -> list[dict[str, object]]:
    """Rows of outputs with losses and of gradients, for noise of the published size."""
    outputs, gradients, _ = goldens.network_off(kind, SEED)
    return [
        row(kind, images, "outputs and losses", outputs["elements"], outputs["difference"]),
        row(kind, images, "gradients", gradients["elements"], gradients[["norm", "products"]]),
    ]


def of_steps(kind: str, size: int) -> list[dict[str, object]]:
    """Rows of the losses of training steps, and of all that the steps change."""
    images, losses, updates = zip(*goldens.released_steps(kind, SEED, size))
    of_losses = [difference for step in losses for difference in step.values()]
    off = pd.concat(updates)[["norm", "products"]]
    return [
        row(kind, images[0], "losses of steps", [1] * len(of_losses), of_losses),
        row(kind, images[0], "updates", updates[0]["elements"], off),
    ]


def row(
    kind: str,
    images: Sequence[int],
    quantity: str,
    elements: Sequence[int],
    off: Sequence[float] | pd.DataFrame,
) -> dict[str, object]:
    """A row of the file: a quantity, of what it is, and the largest relative difference.

    ``images`` is their shape; ``elements`` are those of each tensor, 1 of a loss.
    """
    n, _, pixels, _ = images
    return {
        "paper": TITLES[kind],
        "images": f"{n} of {pixels} pixels",
        "quantity": quantity,
        "tensors": len(elements),
        "elements": int(sum(elements)),
        "difference": np.max(off),
    }


def rows() -> list[dict[str, object]]:
    """All rows; of Exposing the Deception two sizes of steps."""
    found = []
    for kind, n, size in (("lv", 2, 299), ("lv_semi", 2, 299), ("etd", 4, 224)):
        found += of_outputs(kind, (n, 3, size, size)) + of_steps(kind, size)
    return found + of_steps("etd", 96)


def as_markdown(table: pd.DataFrame) -> str:
    """A row per paper and size, a column per quantity: the largest difference, and of what."""
    texts = [f"{each.difference:.0e} of {each.elements:,}" for each in table.itertuples()]
    rows = table["paper"] + ": " + table["images"]
    pivoted = table.assign(text=texts, row=rows).pivot_table(
        "text", "row", "quantity", aggfunc="first", sort=False
    )
    return pivoted.rename_axis(columns=None, index="images").fillna("").to_markdown()


if __name__ == "__main__":
    differences = pd.DataFrame(rows())
    differences.to_csv(FILE, index=False)
    print(as_markdown(differences))
