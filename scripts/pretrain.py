"""The start of the small network: a pretext task on drawn real faces, in the place that ImageNet has for the papers.

From random weights the small network leaves chance or does not, as rounding decides. So it first learns what a picture of a
face tells besides its label: how it was captured and compressed, how the head is turned, who it shows. No forgery is
drawn, no label exists, and the people are those of no dataset. ``python scripts/pretrain.py NAME`` makes the weights
that lie in ``dfnb/papers/starts``; :mod:`dfnb.papers.backbones` registers each as pretrained weights of ``dfnb_plain7``.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import timm
import torch
import typer
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from dfnb import core
from dfnb.papers import backbones
from dfnb.synth import people
from dfnb.synth.forgeries import Camera, Delivery, capture, deliver

TESTED = 1000  # further faces, on which the record says how much of each target is explained
VALUES = ("blur", "noise", "quality", "yaw", "pitch", "roll", "open", "smile", "azimuth", "elevation", "ambient")
COLOURS = tuple(f"{what} {colour}" for what in ("skin", "hair") for colour in ("red", "green", "blue"))
POINTS = ("right eye", "left eye", "nose tip", "right mouth corner", "left mouth corner")
TARGETS = (*VALUES, *COLOURS, *(f"{point} {axis}" for point in POINTS for axis in "xy"))


class Settings(core.Closed):
    """What a start is learned from: a value is drawn from each range for every face; sizes as in the datasets."""

    seed: int = Field(ge=0)
    faces: int = Field(16000, ge=64)
    size: int = Field(96, ge=64)
    resolution: people.Span = (0.65, 1.0)
    blur: people.Span = (0.2, 0.9)
    noise: people.Span = (0.005, 0.03)
    white_balance: float = 0.15
    contrast: float = 0.15
    grain: people.Span = (0.001, 0.01)  # noise on delivery
    jpeg: tuple[int, int] = (30, 95)
    epochs: int = Field(8, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = 3e-3


def settings(name: str) -> Settings:
    """The settings of ``data_manifest/starts.yaml``; raises :class:`DfnbError` when it has no start of this name."""
    path = core.find("data_manifest") / "starts.yaml"
    content = core.read_yaml(path)
    if name not in content:
        raise core.DfnbError(f"{path} has no start {name!r}; it has {', '.join(content)}")
    return Settings.check(content[name]["parameters"], f"{path}, {name}")


def face(chosen: Settings, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face (S, S, 3) uint8 and what there is to know of it, (len(TARGETS),) float32."""
    draw = core.rng("pretext", chosen.seed, number)
    look = people.person(draw, draw.uniform(0, 4))
    [pose] = people.motion(draw, draw, 1)
    behind = people.backdrop(draw, chosen.size * 4 // 3)
    spans = chosen.resolution, chosen.blur, chosen.noise, chosen.grain
    resolution, blur, noise, grain = (draw.uniform(*span) for span in spans)
    quality = int(draw.integers(*chosen.jpeg, endpoint=True))
    camera = Camera(resolution=(resolution, resolution), blur=(blur, blur), noise=(noise, noise))
    tones = {"white_balance": chosen.white_balance, "contrast": chosen.contrast}
    delivery = Delivery(noise=(grain, grain), jpeg=(quality, quality), **tones)
    [shot] = capture([people.render(look, pose, behind, chosen.size)], camera, draw)
    [image] = deliver([shot.image], delivery, draw)
    known = {"blur": blur, "noise": noise, "quality": quality} | vars(pose)
    colours, places = np.concatenate([look.skin, look.hair]), shot.landmarks.ravel() / chosen.size
    return image, np.float32([*(known[name] for name in VALUES), *colours, *places])


def faces(chosen: Settings, numbers: range, workers: int = -1) -> tuple[Tensor, Tensor]:
    """The faces of these numbers as images (n, 3, S, S) uint8 and targets (n, len(TARGETS)) float32."""
    drawn = joblib.Parallel(workers)(joblib.delayed(face)(chosen, number) for number in numbers)
    images, targets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn))
    return images.permute(0, 3, 1, 2), targets


def normalised(images: Tensor) -> Tensor:
    """Images (n, 3, S, S) uint8 as the papers' networks get them, in [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def pretrain(name: str, folder: Path, chosen: Settings | None = None, echo: Callable[[str], None] = print) -> Path:
    """Learn a start and write ``<folder>/<name>.safetensors`` (its convolutions) and its record ``<name>.json``.

    Smooth L1 on standardised targets, AdamW, one cycle of the learning rate, one thread: the same machine gives the same
    bytes. The record has the ranges, and of each target R² on :data:`TESTED` other faces. Returns the weights' path.
    """
    chosen, clock = chosen or settings(name), core.Clock()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    echo(f"{name}: drawing {chosen.faces} faces")
    images, targets = faces(chosen, range(chosen.faces))
    mean, deviation = targets.mean(0), targets.std(0)
    torch.manual_seed(core.torch_seed("pretext", chosen.seed))
    network = timm.create_model(backbones.SMALL, num_classes=len(TARGETS)).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=chosen.lr)
    steps = chosen.faces // chosen.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, chosen.lr, total_steps=steps * chosen.epochs)
    for epoch in range(chosen.epochs):
        order = core.rng("pretext order", chosen.seed, epoch).permutation(chosen.faces)[: steps * chosen.batch_size]
        total = 0.0
        for rows in order.reshape(steps, chosen.batch_size):
            loss = nn.functional.smooth_l1_loss(network(normalised(images[rows])), (targets[rows] - mean) / deviation)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        echo(f"{name}: epoch {epoch + 1} of {chosen.epochs}, loss {total / steps:.4f}")
    explained = _explained(network, chosen, mean, deviation)
    path = folder / f"{name}.safetensors"
    with core.atomic(path) as temporary:
        weights = network.features.state_dict()
        save_file({f"features.{key}": value.contiguous() for key, value in weights.items()}, temporary)
    record = {"parameters": chosen.model_dump(mode="json"), "r2": explained, "sha256": core.sha256(path)}
    core.write_json(path.with_suffix(".json"), {**record, "environment": core.environment(), **clock.facts()})
    return path


@torch.inference_mode()
def _explained(network: nn.Module, chosen: Settings, mean: Tensor, deviation: Tensor) -> dict[str, float]:
    """R² of each target on other faces."""
    images, targets = faces(chosen, range(chosen.faces, chosen.faces + TESTED))
    predicted = torch.cat([network.eval()(normalised(part)) for part in images.split(250)]) * deviation + mean
    left = (predicted - targets).square().mean(0) / targets.var(0)
    return {target: round(float(1 - share), 3) for target, share in zip(TARGETS, left)}


def main(name: str, folder: Path = backbones.STARTS) -> None:
    """Learn a start of data_manifest/starts.yaml: its weights and their record, in about ten minutes."""
    try:
        typer.echo(f"weights: {pretrain(name, folder)}")
    except core.DfnbError as error:
        sys.exit(f"dfnb: {error}")


if __name__ == "__main__":
    typer.run(main)
