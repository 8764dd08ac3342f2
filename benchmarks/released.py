"""How far our networks, losses, gradients and training steps are from those of the released codes.

``python benchmarks/released.py`` writes ``reports/benchmarks/released.csv``, a row per paper and
quantity with the largest relative difference, and prints it as the README's table.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import goldens  # noqa: E402

FILE = ROOT / "reports" / "benchmarks" / "released.csv"


def rows(kind: str) -> list[dict[str, object]]:
    """A row per quantity of a paper: ``lv``, Locate and Verify, or ``etd``, as in golden files."""
    paper, network, batch = goldens.released(kind)
    outputs, losses = goldens.run(network, batch)
    expected = np.load(goldens.GOLDEN / f"{kind}_0.npz")
    compared = goldens.pairs(kind, batch, outputs, losses, expected)
    gradients = goldens.gradients_off(network, paper, goldens.GOLDEN / f"{kind}_0_gradnorm.json")
    step_losses, updates = {}, {}
    for step, (ours, golden, changes, golden_changes) in enumerate(goldens.released_steps(kind)):
        for term, pair in enumerate(zip(ours, golden)):
            step_losses[step, term] = _relative(*pair)
        for name, norm in golden_changes.items():
            if norm > goldens.NO_UPDATE:  # else the change is rounding
                updates[step, name] = _relative(changes[name], norm)
    quantities = {
        "outputs and losses (released: float32)": {
            name: goldens.off(*pair) for name, pair in compared.items()
        },
        "norms of gradients (float64)": gradients,
        "losses of training steps (float64)": step_losses,
        "norms of the optimiser's updates (float64)": updates,
    }
    title = paper.PAPER.title
    return [
        {"paper": title, "quantity": name, "numbers": len(off), "difference": max(off.values())}
        for name, off in quantities.items()
    ]


def _relative(ours: float, golden: float) -> float:
    """The difference as a share of the golden value."""
    return abs(ours - golden) / abs(golden)


def as_markdown(table: pd.DataFrame) -> str:
    """A row per quantity, a column per paper: the largest difference, and of how many numbers."""
    texts = [f"{row.difference:.0e} of {row.numbers}" for row in table.itertuples()]
    pivoted = table.assign(text=texts).pivot_table(
        "text", "quantity", "paper", aggfunc="first", sort=False
    )
    return pivoted.rename_axis(columns=None, index="largest relative difference").to_markdown()


if __name__ == "__main__":
    found = pd.DataFrame([row for kind in ("lv", "etd") for row in rows(kind)])
    found.to_csv(FILE, index=False)
    print(as_markdown(found))
