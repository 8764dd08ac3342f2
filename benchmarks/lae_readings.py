"""Which reading of LAE does LAE's two jobs: a map that finds the mask, a z that reconstructs.

    python benchmarks/lae_readings.py                # about an hour of one core
    python benchmarks/lae_readings.py development    # those that a report has trained: a minute

LAE's abstract leaves open how the attention is compared with the mask. Each reading is trained on
development people of the paper's own task, face swap, with masks for all fakes: phase one, which
readings share where they can, and three short epochs of phase two. Those whose map finds the masks
of validation people best, and the two readings that are committed, are trained to the end and
measured on test people. No score of a detector is computed.

With the name of a report, every LAE of it that was trained with all masks, and has its weights on
this machine, is measured on the validation people of its own training set.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import t
from torch import Tensor

from dfnb import device
from dfnb.data.loading import in_order
from dfnb.device import DEVICE
from dfnb.papers import lae
from dfnb.papers.contract import Batch, outputs_of
from dfnb.results.detectors import detectors
from dfnb.running.parameters import of_call
from dfnb.running.profiles import Call, read
from dfnb.training.progress import bar
from dfnb.training.runs import with_weights
from dfnb.training.scoring import predict_frames
from dfnb.training.train import make_training
from dfnb.training.trainer import Trainer
from facesets import sources
from facesets.files import atomic
from facesets.frames import load_frames, mean_mask, select
from facesets.records import environment

OUT = Path("reports/benchmarks")
DATASET = "tasks"  # its people are in no dataset that is reported
SWAP = ["resynthesis"]
SEED = 20  # of development
SHORT = {"epochs": 3, "images_per_epoch": 1600}  # 150 steps
CHOSEN = 2  # readings that are trained to the end, beside the committed ones


def squares(located: Tensor, masks: Tensor) -> Tensor:
    """The mean squared difference of maps and masks, both (n, h, w) in [0, 1]."""
    return lae.mean_square(located - masks)


def differences(located: Tensor, masks: Tensor) -> Tensor:
    """The mean absolute difference, of maps as :func:`squares`."""
    return (located - masks).abs().sum() / max(located.numel(), 1)


def cross_entropy(located: Tensor, masks: Tensor) -> Tensor:
    """The mean cross-entropy of the positions, of maps as :func:`squares`."""
    inside = located.clamp(lae.EPSILON, 1 - lae.EPSILON)  # beyond it there is no gradient
    return F.binary_cross_entropy(inside, masks, reduction="sum") / max(located.numel(), 1)


class Reading(NamedTuple):
    """What a reading changes; the rest is as in the package, with all masks."""

    error: Callable[[Tensor, Tensor], Tensor] = squares  # of the map and the mask
    is_scaled: bool = True  # by its maximum, to a map in [0, 1]; otherwise it is cut off there
    is_fine: bool = False  # the encoder's last stride is left out: its map has 24 × 24 positions
    settings: tuple[tuple[str, Any], ...] = ()  # those that are changed


class Network(lae.Network):
    """The package's network with the changes of a reading."""

    def __init__(self, settings: lae.Settings, reading: Reading) -> None:
        super().__init__(settings)
        self.reading = reading
        if reading.is_fine:
            self.encoder.features[3].conv.stride = (1, 1)  # of dfnb_plain7, the third and last one

    def localise(self, outputs: lae.Outputs) -> Tensor:
        if self.reading.is_scaled:
            return super().localise(outputs)
        return outputs["attention"][:, 1].clamp(0, 1)

    def attention_loss(self, outputs: lae.Outputs, batch: Batch) -> Tensor:
        if self.settings.attention_map == "sigmoid":
            return super().attention_loss(outputs, batch)
        is_annotated = (batch["label"] == 1) & batch["has_mask"]
        located = self.localise(outputs)
        masks = F.adaptive_avg_pool2d(batch["mask"], located.shape[1:])[:, 0]
        fake_loss = self.reading.error(located[is_annotated], masks[is_annotated])
        real_half, fake_half = outputs["attention"][batch["label"] == 0].unbind(1)
        real_loss = (lae.mean_square(real_half - 1) + lae.mean_square(fake_half)) / 2
        return 0.5 * fake_loss + 0.5 * real_loss


LARGE = (
    ("decoder_widths", (96, 48, 24)),
    ("pixel_weight", 10.0),
    ("perceptual_weight", 10.0),
)
COMMITTED = {
    "squares, weights of study-papers": Reading(),
    "squares, weights of study-bed": Reading(
        settings=(("pixel_weight", 0.1), ("perceptual_weight", 0.0))
    ),
}
READINGS = {
    **COMMITTED,
    "cross-entropy": Reading(cross_entropy),
    "cross-entropy of a sigmoid": Reading(settings=(("attention_map", "sigmoid"),)),
    "absolute differences": Reading(differences),
    "squares, not divided by the maximum": Reading(is_scaled=False),
    "squares, 24 × 24": Reading(is_fine=True),
    "cross-entropy, 24 × 24": Reading(cross_entropy, is_fine=True),
    "squares, large decoder": Reading(settings=LARGE),
    "cross-entropy, 24 × 24, large decoder": Reading(cross_entropy, is_fine=True, settings=LARGE),
}


def settings_of(reading: Reading, **changes: Any) -> lae.Settings:
    """Those of study-papers for a face swap with all masks, with a reading's changes, and these."""
    call = Call(profile="study-papers", notebook="03_lae", variant="face swap: 100 %", seed=30)
    p = of_call(call, read("study-papers"), {})
    values = p.settings().model_dump(mode="json") | dict(reading.settings) | changes
    return lae.Settings.check(values, "the settings of a reading")


def trained(reading: Reading, settings: lae.Settings, start: lae.Network | None) -> lae.Network:
    """The network after a phase of training by the package's loop.

    ``start`` is the network of phase one; None: this is phase one. The last epoch counts, as in the
    package.
    """
    frames = settings.visible(select(load_frames(DATASET), "train", SWAP), SEED, start)
    training = make_training("lae", DATASET, settings, SEED, SWAP)
    with (
        mock.patch.object(lae, "Network", partial(Network, reading=reading)),
        tempfile.TemporaryDirectory() as folder,
        device.fixed_threads(),
        device.precision(settings.precision),
        device.reproducible(),
    ):
        trainer = Trainer(Path(folder), training, {"train": frames, "val": frames}, None)
        if start:
            trainer.network.load_state_dict(start.state_dict())
        total = settings.epochs * trainer.steps * settings.batch_size
        with bar(total=total, unit=" images") as line:
            for epoch in range(settings.epochs):
                trainer.progress.epoch, trainer.progress.step, trainer.progress.sums = epoch, 0, {}
                trainer.train_epoch(line)
    return trainer.network.eval()


def measured(
    network: lae.Network, split: str, dataset: str, methods: Sequence[str]
) -> dict[str, Any]:
    """How well map and z do, on the people of a split; benchmarks/README.md has the columns."""
    frames = select(load_frames(dataset), split, methods)
    training_frames = select(load_frames(dataset), "train", methods)
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


@cache
def phase_one(is_fine: bool, settings: lae.Settings) -> lae.Network:
    """The network after phase one, which readings share that differ in phase two alone."""
    return trained(Reading(is_fine=is_fine), settings, None)


def row_of(name: str, people: str, **changes: Any) -> dict[str, Any]:
    """Train a reading, with these changes of the settings, and measure it on the split ``people``.

    Returns a row of the table.
    """
    print(f"{name}, measured on {people}", flush=True)
    reading = READINGS[name]
    settings = settings_of(reading, **changes)
    network = trained(reading, settings, phase_one(reading.is_fine, settings.before()))
    row = {"reading": name, "epochs": settings.epochs, "people": people}
    return {**row, **measured(network, people, DATASET, SWAP)}


def rows_of(report: str) -> list[dict[str, Any]]:
    """A row for each LAE of a report that was trained with all masks, on validation people."""
    rows = []
    for detector in detectors(report):
        for run in with_weights(detector.runs):
            known = run.parameters
            if known.paper == "lae" and known.settings["annotated"] == 1:
                row = {"reading": detector.name, "epochs": known.settings["epochs"]}
                row |= {"people": "val", "dataset": known.train_set, "seed": known.seed}
                methods = known.seen_methods
                rows.append({**row, **measured(run.network(), "val", known.train_set, methods)})
    return rows


def write(rows: Sequence[dict[str, Any]], name: str) -> None:
    """Write rows as a table in reports/benchmarks, with the machine and the commit."""
    where = environment()
    table = pd.DataFrame(rows).assign(device=where["device"], commit=where["commit"])
    with atomic(OUT / f"{name}.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


def main(report: str | None = None) -> None:
    """Train and measure all readings, or measure those of a report, and write the table."""
    if report:
        write(rows_of(report), f"lae-readings-{report}")
        return
    sources.ensure_datasets(DATASET)
    rows = [row_of(name, "val", **SHORT) for name in READINGS]
    others = [row for row in rows if row["reading"] not in COMMITTED]
    best = sorted(others, key=lambda row: -row["gain"])[:CHOSEN]
    rows += [row_of(name, "test") for name in (*COMMITTED, *(row["reading"] for row in best))]
    write([{**row, "dataset": DATASET, "seed": SEED} for row in rows], "lae-readings")


if __name__ == "__main__":
    main(*sys.argv[1:])
