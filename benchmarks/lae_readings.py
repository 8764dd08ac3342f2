"""Whether a reading of LAE does LAE's two jobs: a map that finds the mask, a z that reconstructs.

    python benchmarks/lae_readings.py development    # a minute

LAE's abstract leaves open how the attention is compared with the mask. Every LAE of a report that
was trained with masks for all fakes, and has its weights on this machine, is measured on the
validation people of its own training set. No score of a detector is computed.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t

from dfnb import device
from dfnb.data.loading import in_order
from dfnb.device import DEVICE
from dfnb.papers import lae
from dfnb.papers.contract import outputs_of
from dfnb.results.detectors import detectors
from dfnb.training.runs import Run, with_weights
from dfnb.training.scoring import predict_frames
from facesets.files import atomic
from facesets.frames import load_frames, mean_mask, select
from facesets.records import environment

OUT = Path("reports/benchmarks")
PEOPLE = "val"  # the split measured: no test set decides on a reading


def measured(run: Run) -> dict[str, Any]:
    """How well map and z of a training do; benchmarks/README.md has the columns."""
    known, network = run.parameters, run.network()
    frames = select(load_frames(known.train_set), PEOPLE, known.seen_methods)
    training_frames = select(load_frames(known.train_set), "train", known.seen_methods)
    constant = mean_mask(training_frames)
    table = predict_frames(network, frames, network.settings, constant=constant)
    table = table.dropna(subset="pixel_ap")  # forged frames
    gains = (table["pixel_ap"] - table["constant pixel_ap"]).groupby(table["cluster"]).mean()
    half = t.ppf(0.975, len(gains) - 1) * gains.sem()
    to_drawn, to_face = distances(network, frames, training_frames)
    means = table[["pixel_ap", "constant pixel_ap", "energy", "constant energy"]].mean()
    low = gains.mean() - half
    return {
        "clusters": len(gains),
        "forged_frames": len(table),
        **means,
        "gain": gains.mean(),
        "gain_low": low,
        "gain_high": gains.mean() + half,
        "to_reconstruction": to_drawn,
        "to_average_face": to_face,
        "passes": bool(low > 0 and to_drawn < to_face),
    }


@device.fixed_threads()
@torch.inference_mode()
def distances(
    network: lae.Network, frames: pd.DataFrame, training_frames: pd.DataFrame
) -> tuple[float, float]:
    """How far frames, real and forged, are from what is drawn from z, and from the average face.

    Both are mean absolute differences in normalised colours; the average is of the training frames.
    """
    face = sum(batch["image"].sum(0) for batch in in_order(training_frames, network.settings))
    face = (face / len(training_frames)).to(DEVICE)
    to_drawn, to_face = [], []  # of each frame
    for batch in in_order(frames, network.settings, device=DEVICE):
        outputs = outputs_of(network, batch["image"])
        drawn = network.normalise(network.decoder(outputs["latent"]))
        to_drawn += (drawn - batch["image"]).abs().mean((1, 2, 3)).tolist()
        to_face += (face - batch["image"]).abs().mean((1, 2, 3)).tolist()
    return float(np.mean(to_drawn)), float(np.mean(to_face))


def rows_of(report: str) -> list[dict[str, Any]]:
    """A row for each LAE of a report that was trained with all masks."""
    rows = []
    for detector in detectors(report):
        for run in with_weights(detector.runs):
            known = run.parameters
            if known.paper == "lae" and known.settings["annotated"] == 1:
                row = {"reading": detector.name, "epochs": known.settings["epochs"]}
                row |= {"people": PEOPLE, "dataset": known.train_set, "seed": known.seed}
                rows.append({**row, **measured(run)})
    return rows


def main(report: str) -> None:
    """Measure the readings of a report, and write the table with the machine and the commit."""
    where = environment()
    table = pd.DataFrame(rows_of(report)).assign(device=where["device"], commit=where["commit"])
    with atomic(OUT / f"lae-readings-{report}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main(*sys.argv[1:])
