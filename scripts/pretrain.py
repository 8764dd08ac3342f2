"""Learn a *start*: first weights of a small network, as the papers' networks have ImageNet's.

From random weights, rounding errors decide whether a small network learns anything. So it first
learns a pretext task on drawn real faces: what a picture shows beside its label, such as how it was
captured and compressed, how the head is turned, and what colours it has. No forgery is drawn, and
the people are those of no dataset.

``python scripts/pretrain.py NAME`` learns the start NAME of ``data_manifest/starts.yaml`` and
writes it to ``dfnb/papers/starts``, from where :mod:`dfnb.papers.backbones` loads it.
"""

import sys
from pathlib import Path

import joblib
import numpy as np
import timm
import torch
import typer
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from dfnb.device import fixed_threads
from dfnb.papers import backbones
from drawnfaces import people
from drawnfaces.forgeries import Camera, Delivery, capture, deliver
from drawnfaces.painting import render
from facesets.checks import Closed, DfnbError, read_yaml
from facesets.files import atomic, find, sha256, write_json
from facesets.records import Clock, environment
from facesets.seeds import rng, torch_seed

TESTED = 1000  # further faces, on which the record says how much of each target is explained
# The targets, all numbers: three of the camera and the compression, the pose with expression and
# light, the colours (R, G, B), and where the landmarks are.
CAPTURE = ("blur", "noise", "quality")
POSE = ("yaw", "pitch", "roll", "open", "smile", "azimuth", "elevation", "ambient")
COLOURS = ("skin red", "skin green", "skin blue", "hair red", "hair green", "hair blue")
POINTS = ("right eye", "left eye", "nose tip", "right mouth corner", "left mouth corner")
PLACES = tuple(f"{point} {axis}" for point in POINTS for axis in "xy")
TARGETS = (*CAPTURE, *POSE, *COLOURS, *PLACES)


class Settings(Closed):
    """What a start is learned from; every face draws its value from each span.

    Blur is a standard deviation in pixels, noise and grain are ones of images in [0, 1].
    """

    seed: int = Field(ge=0)
    faces: int = Field(16000, ge=64)
    size: int = Field(96, ge=64)  # side of a face's image, in pixels
    resolution: people.Span = (0.65, 1.0)  # this and the next six: see Camera and Delivery
    blur: people.Span = (0.2, 0.9)
    noise: people.Span = (0.005, 0.03)
    white_balance: float = 0.15
    contrast: float = 0.15
    grain: people.Span = (0.001, 0.01)  # noise on delivery
    jpeg: tuple[int, int] = (30, 95)
    epochs: int = Field(8, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = 3e-3


def settings_of(name: str) -> Settings:
    """The settings of a start; raises :class:`DfnbError` when there is none of this name."""
    path = find("data_manifest") / "starts.yaml"
    starts = read_yaml(path)
    if name not in starts:
        raise DfnbError(f"{path} has no start {name!r}; it has {', '.join(starts)}")
    return Settings.check(starts[name]["parameters"], f"{path}, {name}")


# ---------------------------------------------------------------- faces


def face(settings: Settings, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face (S, S, 3) uint8, and its targets (len(TARGETS),) float32, in their order."""
    draw = rng("pretext", settings.seed, number)
    look = people.person(draw, draw.uniform(0, 4))  # skin tone: 0 light, 4 dark
    [pose] = people.motion(draw, draw, 1)
    # The face is painted at the backdrop's size and then reduced, which smooths its edges.
    behind = people.backdrop(draw, settings.size * 4 // 3)
    # Values are drawn here, because the targets need them; spans of one value hand them on.
    resolution = draw.uniform(*settings.resolution)
    blur = draw.uniform(*settings.blur)
    noise = draw.uniform(*settings.noise)
    grain = draw.uniform(*settings.grain)
    quality = int(draw.integers(*settings.jpeg, endpoint=True))
    camera = Camera(
        resolution=(resolution, resolution),
        blur=(blur, blur),
        noise=(noise, noise),
    )
    delivery = Delivery(
        white_balance=settings.white_balance,
        contrast=settings.contrast,
        noise=(grain, grain),
        jpeg=(quality, quality),
    )
    [shot] = capture([render(look, pose, behind, settings.size)], camera, draw)
    [image] = deliver([shot.image], delivery, draw)
    pose_values = [getattr(pose, name) for name in POSE]
    places = shot.landmarks.ravel() / settings.size  # x and y in shares of the side
    targets = [blur, noise, quality, *pose_values, *look.skin, *look.hair, *places]
    return image, np.float32(targets)


def faces(settings: Settings, numbers: range) -> tuple[Tensor, Tensor]:
    """Draw the faces of these numbers: images (n, 3, S, S) uint8, targets (n, len(TARGETS))."""
    jobs = [joblib.delayed(face)(settings, number) for number in numbers]
    images, targets = zip(*joblib.Parallel(-1)(jobs))  # -1: on all cores
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2), torch.from_numpy(np.stack(targets))


def normalised(images: Tensor) -> Tensor:
    """Images (n, 3, S, S) uint8 in [-1, 1], as the detectors' networks get them."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------- learning


@fixed_threads()
def pretrain(
    name: str,
    folder: Path,
    settings: Settings | None = None,
    network_name: str = backbones.SMALL,
) -> Path:
    """Learn a start; write ``<folder>/<name>.safetensors`` and its record ``<name>.json``.

    The loss is smooth L1 on standardised targets, the optimiser AdamW with one cycle of the
    learning rate. The same machine and number of threads give the same bytes; the starts that
    ship are of one thread. The record has the settings and, for each target, R² on
    :data:`TESTED` other faces.

    Returns:
        The path of the weights, which are those of the convolutions.
    """
    settings = settings or settings_of(name)
    clock = Clock()
    print(f"{name}: drawing {settings.faces} faces", flush=True)
    images, targets = faces(settings, range(settings.faces))
    mean = targets.mean(0)
    deviation = targets.std(0)
    torch.manual_seed(torch_seed("pretext", settings.seed))
    network = timm.create_model(network_name, num_classes=len(TARGETS))
    network = network.to(memory_format=torch.channels_last)
    _learn(network, images, (targets - mean) / deviation, settings, name)
    explained = _explained(network, settings, mean, deviation)
    path = folder / f"{name}.safetensors"
    weights = {}  # without those of the last layer, which knows the pretext task alone
    for key, value in network.features.state_dict().items():
        weights[f"features.{key}"] = value.contiguous()
    with atomic(path) as temporary:
        save_file(weights, temporary)
    record = {
        "network": network_name,
        "parameters": settings.model_dump(mode="json"),
        "r2": explained,
        "sha256": sha256(path),
        "environment": environment(),
        **clock.usage(),
    }
    write_json(path.with_suffix(".json"), record)
    return path


def _learn(
    network: nn.Module, images: Tensor, targets: Tensor, settings: Settings, name: str
) -> None:
    """Train on images (n, 3, S, S) and standardised targets; ``name`` is only printed."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr)
    steps = settings.faces // settings.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=steps * settings.epochs
    )
    for epoch in range(settings.epochs):
        order = rng("pretext order", settings.seed, epoch).permutation(settings.faces)
        total = 0.0
        # The last images of the order, too few for a batch, are left out.
        for rows in order[: steps * settings.batch_size].reshape(steps, settings.batch_size):
            loss = nn.functional.smooth_l1_loss(network(normalised(images[rows])), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        progress = f"epoch {epoch + 1} of {settings.epochs}, loss {total / steps:.4f}"
        print(f"{name}: {progress}", flush=True)


@torch.inference_mode()
def _explained(
    network: nn.Module, settings: Settings, mean: Tensor, deviation: Tensor
) -> dict[str, float]:
    """R² of each target on faces that were not learned: 1 - mean squared error / variance.

    ``mean`` and ``deviation`` (len(TARGETS),) are those by which the targets were standardised.
    """
    images, targets = faces(settings, range(settings.faces, settings.faces + TESTED))
    network.eval()
    # In parts, because the maps of all faces would not fit in memory.
    outputs = torch.cat([network(normalised(part)) for part in images.split(250)])
    predicted = outputs * deviation + mean
    unexplained = (predicted - targets).square().mean(0) / targets.var(0)
    return dict(zip(TARGETS, (1 - unexplained).double().round(decimals=3).tolist()))


def main(name: str, network: str = backbones.SMALL, folder: Path = backbones.STARTS) -> None:
    """Learn a start of data_manifest/starts.yaml, its weights and their record (ten minutes)."""
    try:
        typer.echo(f"weights: {pretrain(name, folder, network_name=network)}")
    except DfnbError as error:
        sys.exit(f"dfnb: {error}")


if __name__ == "__main__":
    typer.run(main)
