"""Draw the folds of HiDF's sample: whole clusters, nearly the same number of clips in each fold.

    python scripts/folds.py

It writes the column ``fold`` of ``data_manifest/splits/hidf_sample_folds.csv`` again. The columns
before it are by eye: the person of each clip, and the cluster of those clips that share a person, a
scene or a donor of faces.
"""

from pathlib import Path

import pandas as pd
import typer

from facesets.seeds import rng

PATH = Path(__file__).parents[1] / "data_manifest/splits/hidf_sample_folds.csv"
FOLDS = 5


def draw(cluster: pd.Series) -> pd.Series:
    """The fold, 1 to FOLDS, of each clip, from its cluster.

    The largest clusters are dealt first, those of one size in random order, each to the fold that
    has the fewest clips so far.
    """
    sizes = cluster.value_counts().sort_index()
    sizes = sizes.iloc[rng("folds", "hidf-sample").permutation(len(sizes))]
    clips = pd.Series(0, index=range(1, FOLDS + 1))
    fold_of = {}
    for name, size in sizes.sort_values(ascending=False, kind="stable").items():
        fold_of[name] = clips.idxmin()  # of equal ones, the first
        clips[fold_of[name]] += size
    return cluster.map(fold_of)


def main() -> None:
    """Write the column fold of data_manifest/splits/hidf_sample_folds.csv again."""
    table = pd.read_csv(PATH)
    table.assign(fold=draw(table["cluster"])).to_csv(PATH, index=False)


if __name__ == "__main__":
    typer.run(main)
