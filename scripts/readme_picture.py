"""Draw README's picture: where the three papers' detectors look on forged portraits.

    python scripts/readme_picture.py [TARGET.jpg]

It needs the weights of seed 30 of study-portraits, in ``runs/`` or in the report. Which frames are
shown was fixed before any was seen: the first test video of each method.
"""

from pathlib import Path
from typing import Annotated

import typer

from dfnb.attribution import maps
from dfnb.attribution.pictures import MAP, Row, crops_and_masks, panel, titles_of, visible
from dfnb.device import DEVICE
from dfnb.results import figures
from dfnb.training.runs import Run
from facesets.checks import DfnbError
from facesets.files import atomic
from facesets.sources import frames_to_show

DATASET = "portraits"
# Run -> the map of its paper.
MAPS = {
    "lae-portraits-s30-187d2735": "attention",
    "locate_and_verify-portraits-s30-e5958aec": "located patches",
    "exposing_the_deception-portraits-s30-65f5d444": "union",
}


def main(target: Annotated[Path, typer.Argument()] = Path("docs/maps.jpg")) -> None:
    """Draw frames of each method, and below them the map of each paper, into TARGET."""
    frames = frames_to_show(DATASET)
    chosen = frames.groupby("method", observed=True, sort=False).head(1)
    crops, masks = crops_and_masks(chosen)
    rows = [Row("portrait", crops, [0 * mask for mask in masks])]
    for run_id, name in MAPS.items():
        run = Run.find(run_id)
        if run is None or not run.has_weights:
            raise DfnbError(
                f"no weights of {run_id} are here; `dfnb run study-portraits` trains it"
            )
        network = run.network().to(DEVICE)
        views = visible(maps.of(run, chosen, name, network), name)
        title = run.record.detector.title.replace(" ", "\n", 1)
        rows.append(Row(title, views, masks, MAP, crops))
    figures.style()
    figure = panel(rows, titles_of(chosen), chosen["dataset"])
    with atomic(target) as temporary:
        figure.savefig(temporary, format="jpeg", dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    typer.run(main)
