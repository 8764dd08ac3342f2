"""What every paper declares, and what the rest of the package calls: the contract of a paper.

A paper is one module with

- ``PAPER``, a :class:`Paper`: how it appears in tables and figures;
- ``Settings``, a subclass of :class:`Settings`: its published settings as defaults, and where it
  needs them the hooks for its phases, its augmentation, its own samples and the data it may see;
- ``Network``, a subclass of :class:`Network`: images to named outputs, outputs to named losses, and
  where it has them its maps and its panels.

Training, scores, maps and tables know nothing else about a paper.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, TypedDict

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR
from torchvision.transforms import v2

from dfnb.settings import Closed, DfnbError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd

    from dfnb.data.loading import Sample
    from dfnb.runs import Run

IGNORED = -100  # the class of an image or a position whose class is unknown
OPTIMISERS = {"adam": Adam, "adamw": AdamW, "sgd": partial(SGD, momentum=0.9)}

# The limits of the settings. A paper that publishes another default repeats the type:
# ``lr: LearningRate = 2e-4``.
ImageSize = Annotated[int, Field(ge=32, le=2048)]
Colour = tuple[float, float, float]  # red, green, blue
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
BatchSize = Annotated[int, Field(ge=2)]
Count = Annotated[int, Field(ge=1)]
Optimiser = Literal["adam", "adamw", "sgd"]
LearningRate = Annotated[float, Field(gt=0, le=10)]
WeightDecay = Annotated[float, Field(ge=0, le=10)]
Schedule = Literal["constant", "step", "onecycle", "cosine"]
Probability = Annotated[float, Field(ge=0, le=1)]
MixupAlpha = Annotated[float, Field(gt=0, le=100)]
Augmentation = Literal["none", "light", "released"]
Variant = Literal["released", "corrected"]


class Paper(NamedTuple):
    """How a paper appears."""

    title: str  # in tables and figures
    notebook: str  # its notebook, without .ipynb
    published: str  # its name in published.csv, see dfnb.claims.published


class Batch(TypedDict):
    """What the training loop hands to ``losses``."""

    image: Tensor  # (B, 3, H, W) float32, normalised
    label: Tensor  # (B,) int64, 0 real, 1 fake
    mask: Tensor  # (B, 1, H, W) float32 in {0, 1}, 1 where forged; all zero where unknown
    has_mask: Tensor  # (B,) bool; True for real images, whose mask is all zero
    landmarks: Tensor  # (B, 5, 2) float32, x and y in pixels: eyes, nose tip, mouth corners, or NaN
    epoch: int  # from 0
    partner: Tensor | None  # (B,) int64, the image mixed into each image; None without mixup
    weight: float  # the share of each image itself in the mixture; 1.0 without mixup


class Settings(Closed):
    """The settings of every training; a paper overrides the defaults with its published values.

    Attributes:
        backbone: timm's name of the network, with the tag of its weights.
        optimiser: one of :data:`OPTIMISERS`.
        step_epochs, step_factor: of the schedule ``step``: every so many epochs the learning rate
            is multiplied by the factor.
        cosine_steps: of the schedule ``cosine``: steps from the highest learning rate to zero, and
            as many up again; None: the steps of the whole training.
        optimiser_restarts: ``released``: optimiser and schedule start again in each epoch, as in
            the released code of Exposing the Deception; ``corrected``: they run through.
        oversampling: None: real and fake frames equally often, all methods equally often; a factor:
            an epoch shows every fake frame once and every real frame this many times.
        augmentation: ``light``: mirror (p .5), shift by up to 1/16 of the side, brightness,
            contrast and saturation by up to 20 %; ``released``: that of the paper's released code.
        images_per_epoch: None: as many as there are.
        chosen: which epoch's weights are kept: the best on the validation split, or the last.
        samples_per_frame: how many images :meth:`samples` makes of a frame.
    """

    chosen: ClassVar[Literal["validation", "last"]] = "validation"
    samples_per_frame: ClassVar[int] = 1

    backbone: str = "legacy_xception.tf_in1k"
    pretrained: bool = True
    image_size: ImageSize = 299
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    epochs: Epochs = 30
    batch_size: BatchSize = 16
    optimiser: Optimiser = "adam"
    lr: LearningRate = 5e-4
    weight_decay: WeightDecay = 1e-5
    schedule: Schedule = "step"
    step_epochs: Count = 5
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    mixup_probability: Probability = 0.0
    mixup_alpha: MixupAlpha = 1.0
    cosine_steps: Count | None = None
    optimiser_restarts: Variant = "corrected"
    oversampling: Count | None = None
    augmentation: Augmentation = "light"
    images_per_epoch: Annotated[int, Field(ge=2)] | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def before(self) -> Settings | None:
        """The settings of the phase whose weights this one starts from; None: there is none."""
        return None

    def visible(self, frames: pd.DataFrame, seed: int, start: Run | None) -> pd.DataFrame:
        """The frames of the train or val split that this paper may see; by default all, with masks.

        Called once per training and split, after the phase before has ended; ``start`` is the run
        of that phase. The paper may leave out a class that :meth:`samples` makes. Where the val
        split is left with one class, these samples choose the checkpoint. ``attrs["always"]`` of
        the train split may hold positions of frames of which every batch shows some.
        """
        return frames

    def samples(self, sample: Sample, draw: np.random.Generator) -> list[Sample]:
        """The ``samples_per_frame`` images made of one stored frame; by default the frame itself.

        Called in the loader's workers before resizing and augmentation. The images of a frame stay
        together in a batch and on a device, and are augmented alike.
        """
        return [sample]

    def transform(self) -> v2.Transform | None:
        """The augmentation of (image, ``tv_tensors.Mask``, ``tv_tensors.KeyPoints``), all uint8."""
        if self.augmentation == "none":
            return None
        if self.augmentation == "light":
            mirror = v2.RandomHorizontalFlip()
            shift = v2.RandomAffine(degrees=0, translate=(1 / 16, 1 / 16))
            colours = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)
            return v2.Compose([mirror, shift, colours])
        return self.released_transform()

    def optimisation(self, network: Network, steps: int) -> tuple[list[Optimizer], LRScheduler]:
        """The optimisers, by default one, and the schedule of the first; ``steps`` per epoch.

        The optimisers and the schedule are stepped after every batch.
        """
        groups = network.parameter_groups(self.weight_decay)
        optimiser = OPTIMISERS[self.optimiser](groups, self.lr)
        total_steps = steps * self.epochs
        if self.schedule == "onecycle":
            schedule = OneCycleLR(optimiser, self.lr, total_steps)
        elif self.schedule == "cosine":
            schedule = CosineAnnealingLR(optimiser, self.cosine_steps or total_steps)
        else:
            factor = self.step_factor if self.schedule == "step" else 1.0
            schedule = StepLR(optimiser, steps * self.step_epochs, factor)
        return [optimiser], schedule

    def released_transform(self) -> v2.Transform:
        """The augmentation of the paper's released code."""
        module = type(self).__module__
        raise DfnbError(f"{module} has no released augmentation; set augmentation = light or none")


class Network(nn.Module):
    """Base of the papers' networks: normalised images (B, 3, H, W) to outputs by name.

    One output is ``cls``, logits (B, 2), real first. A network may also have ``localise(outputs)``,
    a map (B, h, w) in [0, 1] of where the image was forged.

    Attributes:
        weights_from: what the training starts from: "random weights", "ImageNet" or another name.
    """

    weights_from = "random weights"

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The paper's loss terms by name, and ``total``, the one that is minimised.

        The term ``adversary``, if there is one, is minimised, too; its gradient and that of
        ``total`` reach different weights. The other terms are there for the log.
        """
        raise NotImplementedError

    def log_odds(self, outputs: dict[str, Tensor]) -> Tensor:
        """log(P(fake) / P(real)), (B,) float64."""
        logits = outputs["cls"].double()
        return logits[:, 1] - logits[:, 0]

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """P(fake), (B,) float64 in [0, 1]."""
        return self.log_odds(outputs).sigmoid()

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """The paper's own maps by name.

        The value is ``"localise"``, the name of a layer for Grad-CAM at that layer, or a tuple of
        names of other maps for their maximum.
        """
        return {}

    def compare(self, part_maps: Sequence[np.ndarray], images: Tensor) -> dict[str, np.ndarray]:
        """Measures of how much the maps differ of which a maximum is made, by name.

        ``part_maps`` are (B, h, w) in [0, 1], of the images (B, 3, H, W). A measure has a value
        (B,) per image, or one for all.
        """
        return {}

    def panel(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Pictures (B, h, w) by name, shown between a frame and its map in a panel of frames."""
        return {}

    def moved(self) -> AbstractContextManager | None:
        """A context that moves the weights for a second pass over the batch; None: one pass.

        It is entered after the first backward pass. Only the gradient of the second pass is used.
        """
        return None

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """The parameter groups of the first optimiser; by default all weights with decay."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]


def cross_entropy(logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of logits (B, C, ...) and classes (B, ...), mixed as the images were.

    Targets that are ``IGNORED`` do not count; if all are, the loss is zero.
    """
    loss = _mean_cross_entropy(logits, target)
    partner = batch["partner"]
    if partner is None:
        return loss
    partner_loss = _mean_cross_entropy(logits, target[partner])
    weight = batch["weight"]
    return weight * loss + (1 - weight) * partner_loss


def _mean_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    total = nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)


@torch.inference_mode()
def outputs_of(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The outputs of a network for images (B, 3, H, W), in float32 and without gradients."""
    return {name: value.float() for name, value in network(images).items()}
