"""Which reading of LAE does LAE's two jobs: a map that finds the mask, a z that reconstructs.

    python benchmarks/lae_readings.py    # about an hour of one core

LAE's abstract leaves open how the attention is compared with the mask. Each reading is trained on
development people of the paper's own task, face swap, with masks for all fakes: phase one, which
readings share where they can, and three short epochs of phase two. Those whose map finds the masks
of validation people best, and the two readings that are committed, are trained to the end and
measured on test people. No score of a detector is computed.
"""

import tempfile
from collections.abc import Callable
from functools import cache
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
from dfnb.data import sources
from dfnb.data.frames import load_frames, mean_mask, select
from dfnb.data.loading import in_order
from dfnb.device import DEVICE
from dfnb.files import atomic
from dfnb.papers import lae
from dfnb.papers.contract import Batch, outputs_of
from dfnb.records import environment
from dfnb.running.profiles import calls
from dfnb.training.localisation import localisation
from dfnb.training.progress import bar
from dfnb.training.train import make_training
from dfnb.training.trainer import Trainer

OUT = Path("reports/benchmarks/lae-readings.csv")
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
    inside = located.clamp(lae.EPSILON, 1 - lae.EPSILON)  # its gradient is finite there
    return F.binary_cross_entropy(inside, masks, reduction="sum") / max(located.numel(), 1)


class Reading(NamedTuple):
    """What a reading changes; the rest is as in the package, with all masks."""

    error: Callable[[Tensor, Tensor], Tensor] = squares  # of the map and the mask
    scale: str = "maximum"  # makes a map in [0, 1] of M_F: maximum, none (cut off) or sigmoid
    is_fine: bool = False  # the encoder's last stride is left out: its map has 24 × 24 positions
    settings: tuple[tuple[str, Any], ...] = ()  # those that are changed

    @property
    def network(self) -> type[lae.Network]:
        """The package's network with these changes."""
        return type("Network", (_Network,), {"reading": self})


class _Network(lae.Network):
    reading: Reading

    def __init__(self, settings: lae.Settings) -> None:
        super().__init__(settings)
        if self.reading.is_fine:
            self.encoder.features[3].conv.stride = (1, 1)  # of dfnb_plain7, the third and last one

    def localise(self, outputs: lae.Outputs) -> Tensor:
        if self.reading.scale == "maximum":
            return super().localise(outputs)
        attention = outputs["attention"][:, 1]
        return attention.sigmoid() if self.reading.scale == "sigmoid" else attention.clamp(0, 1)

    def attention_loss(self, outputs: lae.Outputs, batch: Batch) -> Tensor:
        is_annotated = (batch["label"] == 1) & batch["has_mask"]
        is_real = batch["label"] == 0
        located = self.localise(outputs)
        masks = F.adaptive_avg_pool2d(batch["mask"], located.shape[1:])[:, 0]
        fake_loss = self.reading.error(located[is_annotated], masks[is_annotated])
        real_half, fake_half = outputs["attention"][is_real].unbind(1)
        real_loss = lae.mean_square(real_half - 1) / 2
        if self.reading.scale == "sigmoid":  # of which zero is no value
            zeros = torch.zeros_like(fake_half)
            real_loss = real_loss + self.reading.error(located[is_real], zeros) / 2
        else:
            real_loss = real_loss + lae.mean_square(fake_half) / 2
        return 0.5 * fake_loss + 0.5 * real_loss


LARGE = (
    ("decoder_widths", (96, 48, 24)),
    ("pixel_weight", 10.0),
    ("perceptual_weight", 10.0),
)
COMMITTED = {
    "squares (study-papers)": Reading(),
    "squares (study-bed)": Reading(settings=(("pixel_weight", 0.1), ("perceptual_weight", 0.0))),
}
READINGS = {
    **COMMITTED,
    "cross-entropy": Reading(cross_entropy),
    "cross-entropy of a sigmoid": Reading(cross_entropy, "sigmoid"),
    "absolute differences": Reading(differences),
    "squares, not divided by the maximum": Reading(scale="none"),
    "squares, 24 × 24": Reading(is_fine=True),
    "cross-entropy, 24 × 24": Reading(cross_entropy, is_fine=True),
    "squares, large decoder": Reading(settings=LARGE),
    "cross-entropy, 24 × 24, large decoder": Reading(cross_entropy, is_fine=True, settings=LARGE),
}


def settings_of(reading: Reading, **changes: Any) -> lae.Settings:
    """Those of study-papers for a face swap with all masks, with a reading's changes, and these."""
    for call in calls("study-papers").trainings:
        if call.notebook == "03_lae" and call.parameters["variant"] == "face swap: 100 %":
            values = {**call.parameters, **dict(reading.settings), **changes}
            known = {name: values[name] for name in lae.Settings.model_fields if name in values}
            return lae.Settings.check(known, "the settings of a reading")
    raise LookupError("study-papers has no training of LAE with all masks")


def trained(reading: Reading, settings: lae.Settings, start: lae.Network | None) -> lae.Network:
    """The network after a phase of training by the package's loop; ``start`` is that of the other.

    No checkpoint is chosen: the last one counts, as in the package.
    """
    frames = settings.visible(select(load_frames(DATASET), "train", SWAP), SEED, start)
    training = make_training("lae", DATASET, settings, SEED, SWAP)
    with (
        mock.patch.object(lae, "Network", reading.network),
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


@device.fixed_threads()
def measured(network: lae.Network, split: str) -> dict[str, float]:
    """How well map and z do, on the people of a split; benchmarks/README.md has the columns."""
    settings = network.settings
    frames = select(load_frames(DATASET), split, SWAP)
    training_frames = select(load_frames(DATASET), "train", SWAP)
    constant = mean_mask(training_frames)
    face = sum(batch["image"].sum(0) for batch in in_order(training_frames, settings))
    face = (face / len(training_frames)).to(DEVICE)
    rows = []  # of all frames; those of real ones have no measure of a map
    for batch in in_order(frames, settings, device=DEVICE):
        outputs = outputs_of(network, batch["image"])
        with torch.no_grad():
            drawn = network.normalise(network.decoder(outputs["latent"]))
        to_drawn = (drawn - batch["image"]).abs().mean((1, 2, 3)).tolist()
        to_face = (face - batch["image"]).abs().mean((1, 2, 3)).tolist()
        located = network.localise(outputs).cpu().numpy()
        masks = batch["mask"][:, 0].cpu().numpy() > 0
        for row in zip(located, masks, to_drawn, to_face):
            rows.append(_measures(*row, constant))
    table = pd.DataFrame(rows)
    gains = (table["pixel_ap"] - table["mean_mask_pixel_ap"]).groupby(frames["cluster"].to_numpy())
    gains = gains.mean()  # of each cluster, over its forged frames
    half = t.ppf(0.975, len(gains) - 1) * gains.sem()
    return {
        "clusters": len(gains),
        "forged_frames": int(table["pixel_ap"].count()),
        **table.mean().to_dict(),
        "gain": gains.mean(),
        "gain_low": gains.mean() - half,
        "gain_high": gains.mean() + half,
    }


def _measures(
    located: np.ndarray, mask: np.ndarray, to_drawn: float, to_face: float, constant: np.ndarray
) -> dict[str, float]:
    of_map = localisation(located, mask)
    of_constant = localisation(constant, mask)
    return {
        "pixel_ap": of_map["pixel_ap"],
        "mean_mask_pixel_ap": of_constant["pixel_ap"],
        "energy": of_map["energy"],
        "mean_mask_energy": of_constant["energy"],
        "to_reconstruction": to_drawn,
        "to_average_face": to_face,
    }


@cache
def phase_one(is_fine: bool, changed: tuple[tuple[str, Any], ...]) -> lae.Network:
    """The network after phase one, which readings share that differ in phase two alone."""
    reading = Reading(is_fine=is_fine, settings=changed)
    return trained(reading, settings_of(reading).before(), None)


def row_of(name: str, people: str, **changes: Any) -> dict[str, Any]:
    """Train a reading, with these changes of the settings, and measure it on the split ``people``.

    Returns a row of the table.
    """
    print(f"{name}, measured on {people}", flush=True)
    reading = READINGS[name]
    settings = settings_of(reading, **changes)
    network = trained(reading, settings, phase_one(reading.is_fine, reading.settings))
    row = {"reading": name, "epochs": settings.epochs, "people": people}
    return {**row, **measured(network, people)}


def main() -> None:
    """Train and measure all readings, and write the table."""
    sources.ensure_datasets(DATASET)
    rows = [row_of(name, "val", **SHORT) for name in READINGS]
    others = [row for row in rows if row["reading"] not in COMMITTED]
    best = sorted(others, key=lambda row: -row["gain"])[:CHOSEN]
    rows += [row_of(name, "test") for name in (*COMMITTED, *(row["reading"] for row in best))]
    where = environment()
    conditions = {"dataset": DATASET, "seed": SEED, "device": where["device"]}
    table = pd.DataFrame(rows).assign(**conditions, commit=where["commit"])
    with atomic(OUT) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
