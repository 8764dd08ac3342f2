"""The contract of a paper: what it declares, and what the rest of the package calls.

A paper is one module with

- ``PAPER``, a :class:`Paper`: how it appears in tables and figures;
- ``Settings``, a subclass of :class:`Settings`: its published settings as defaults. It may also
  override the methods for its phases, its augmentation, its samples and the data it may see;
- ``Network``, a subclass of :class:`Network`: images to named outputs, outputs to named losses. It
  may also have maps of where an image is forged.

Training, scores, maps and tables know nothing else about a paper.
"""

from __future__ import annotations

import operator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypedDict

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR
from torchvision.transforms import v2

from dfnb.data.loading import Sample
from dfnb.papers import backbones
from facesets.checks import Closed, DfnbError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd


IGNORED = -100  # the label of an image or a patch that no loss counts, because it is unknown
INPUT = ("mean", "std", "interpolation")  # what a backbone's weights were trained with
OPTIMISERS = {"adam": Adam, "adamw": AdamW, "sgd": partial(SGD, momentum=0.9)}

# The limits of the settings. A paper that publishes another default repeats the type:
# ``lr: LearningRate = 2e-4``.
ImageSize = Annotated[int, Field(ge=32, le=2048)]
Colour = tuple[float, float, float]  # red, green, blue
Count = Epochs = PositiveInt
BatchSize = Annotated[int, Field(ge=2)]
Optimiser = Literal["adam", "adamw", "sgd"]
LearningRate = MixupAlpha = PositiveFloat
WeightDecay = NonNegativeFloat
Schedule = Literal["constant", "step", "onecycle", "cosine"]
Probability = Annotated[float, Field(ge=0, le=1)]
Augmentation = Literal["none", "light", "released"]
Precision = Literal["32-true", "tf32", "bf16-mixed"]
# Where the released code departs from its paper: as that code does it, or as the paper means it.
Variant = Literal["released", "corrected"]


@dataclass(frozen=True, config={"strict": True})
class Paper:
    """The names of a paper."""

    title: str  # in tables and figures
    notebook: str  # file name of its notebook, without .ipynb
    published: str  # its name in published.csv, see dfnb.results.published.numbers
    # Part of the id of its runs: raise it when a change of its file changes the numbers of a
    # training. None: any change of the file does. tests/test_golden.py finds out who forgets.
    version: PositiveInt | None = None
    # Settings with which its network is small, for tests, with the backbone backbones.SMALL.
    small: dict[str, Any] = Field(default_factory=dict)


class Batch(TypedDict):
    """The batch that the training loop passes to ``losses``."""

    image: Tensor  # (B, 3, H, W) float32, normalised
    label: Tensor  # (B,) int64, 0 real, 1 fake
    mask: Tensor  # (B, 1, H, W) float32 in {0, 1}, 1 where forged; all zero where unknown
    has_mask: Tensor  # (B,) bool; True for real images, whose mask is all zero
    # (B, 5, 2) float32, x and y in pixels: eyes, nose tip, mouth corners, or NaN. The person's
    # right eye and corner come first. A mirrored image keeps this order on purpose: no loss tells
    # left from right.
    landmarks: Tensor
    epoch: int  # from 0
    # (B,) int64, index of the image mixed into each; None without mixup. Label, mask and landmarks
    # remain those of the image itself.
    partner: Tensor | None
    weight: float  # λ, the share of each image itself in the mixture; 1.0 without mixup


class Settings(Closed):
    """The settings of every training; a paper overrides the defaults with its published values.

    Attributes:
        backbone: timm's name of the network, with the tag of its weights.
        pretrained: whether the backbone starts from the weights that timm names; or, for a machine
            without a network, a package of its weights, one of :data:`backbones.PACKAGES`, or a
            file of safetensors with them, relative to the home or absolute.
        mean, std: of the pixels in [0, 1], which are normalised by them.
        interpolation: how a crop is brought to ``image_size``. Where another backbone than the
            paper's is chosen and none of mean, std and this is stated, all three are those that
            timm states for its weights.
        batch_size: images of a batch.
        accumulate: parts in which a batch passes through the network, one after the other, to need
            less memory; the optimisers make one step for all. Gradients are the means of those of
            the parts, so a loss that is a mean over images is that of the whole batch. What
            combines images is of a part alone: the statistics of batch normalisation, mixup, losses
            that compare images (as in Exposing the Deception) or count some only (masked ones).
            Dropout draws other units. So the trained weights differ from those of whole batches.
        optimiser: one of :data:`OPTIMISERS`.
        step_epochs, step_factor: the schedule ``step`` multiplies the learning rate by
            ``step_factor`` every ``step_epochs`` epochs.
        cosine_steps: the schedule ``cosine`` takes so many steps from the highest learning rate to
            zero, and as many up again; None: one fall over the whole training.
        optimiser_restarts: ``released``: optimiser and schedule start again in each epoch, as in
            the released code of Exposing the Deception; ``corrected``: they run through.
        mixup_probability, mixup_alpha: with this probability a batch is mixed, with a share λ drawn
            from Beta(mixup_alpha, mixup_alpha), see :class:`Batch`.
        oversampling: None: real and fake frames equally often, all methods equally often; a factor:
            an epoch shows every fake frame once and every real frame this many times.
        augmentation: ``light``: mirror (p .5), shift by up to 1/16 of the side, brightness,
            contrast and saturation by up to 20 %; ``released``: that of the paper's released code.
        images_per_epoch: the largest number of images that an epoch shows; None: no limit.
        trunk_lr: the highest learning rate of the weights that backbones bring, without those of
            classifiers; None: ``lr``; 0: they stay as they are (a linear probe).
        freeze_batchnorm: whether the BatchNorm of backbones keeps the means and variances that it
            starts with.
        half_weights: whether the weights are rounded to float16 before they are judged, scored and
            saved, which halves their file; training goes on with those of float32. This, trunk_lr
            and freeze_batchnorm are recorded where they differ from their defaults.
        precision: ``32-true``: IEEE float32; ``tf32``: float32 whose products have the mantissa of
            TF32 on a GPU that has it, as torch does by default in convolutions; ``bf16-mixed``: the
            forward pass in bfloat16 where autocast allows it, the rest as with ``tf32``. On a CPU
            the first two are the same.
        deterministic: whether torch uses deterministic algorithms in training. Without, a training
            may be faster on a GPU, and the same seed gives other weights each time.
        antialias: whether a crop that is made smaller is smoothed first. Recorded where it differs
            from the paper's default, so that runs of before keep their ids.
        released: a file of weights of the paper's authors, see :mod:`dfnb.papers.released_weights`;
            the network has them as they are and is not trained.
        chosen: which epoch's weights are kept: the best on the validation split, or the last.
    """

    chosen: ClassVar[Literal["validation", "last"]] = "validation"

    backbone: str = "legacy_xception.tf_in1k"
    pretrained: bool | Annotated[str, Field(min_length=1)] = True
    image_size: ImageSize = 299
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    epochs: Epochs = 30
    batch_size: BatchSize = 16
    accumulate: Count = 1
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
    released: str | None = None
    trunk_lr: NonNegativeFloat | None = Field(None, exclude_if=lambda value: value is None)
    freeze_batchnorm: bool = Field(False, exclude_if=operator.not_)
    half_weights: bool = Field(False, exclude_if=operator.not_)
    precision: Precision = "32-true"
    deterministic: bool = True
    antialias: bool = Field(True, exclude_if=bool)

    @model_validator(mode="after")
    def _take_input_of_another_backbone(self) -> Self:
        """Take mean, std and interpolation from the weights of another backbone than the paper's.

        If the user states one of the three, all three stay as they are.
        """
        default = type(self).model_fields["backbone"].default
        if self.backbone == default or self.model_fields_set & set(INPUT):
            return self
        # RuntimeError: timm has no such backbone; backbones.find_start raises an explanation later.
        with suppress(RuntimeError):
            weights = get_pretrained_cfg(self.backbone, allow_unregistered=False)
            # The instance is frozen: ordinary assignments to its attributes would raise.
            self.__dict__.update({name: getattr(weights, name) for name in INPUT})
        return self

    @model_validator(mode="after")
    def _check_batch_size(self) -> Self:
        """Refuse a batch size that does not divide."""
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size must be a multiple of {self.accumulate}")
        if self.batch_size < 2 * self.accumulate:
            raise ValueError("accumulate must leave two images in each part of a batch")
        return self

    def before(self) -> Settings | None:
        """The settings of the phase that trains the initial weights; None without such a phase."""
        return None

    def fetch(self) -> None:
        """Download what a training needs besides the backbone's weights; by default nothing.

        Called before a training starts, and by ``dfnb run`` for all trainings of its plan before
        the first of them starts. Raises :class:`DfnbError`, which names the remedy, where something
        cannot be had.
        """

    def visible(
        self,
        frames: pd.DataFrame,
        seed: int,
        start: Network | None,
    ) -> pd.DataFrame:
        """The frames of the train or val split that this paper may see; by default all, with masks.

        Called once per training and split, after the previous phase has ended. ``seed`` is that of
        the training and of that phase, ``start`` the network that the phase has trained; None if
        there is none.

        A paper may add a column ``always``: numbers 0, 1, ... for frames of which every batch must
        show some, -1 for all others, see :class:`dfnb.data.loading.EpochSampler`. The numbers order
        these frames, so that draws do not depend on the order of the table; a low one is not
        preferred.
        """
        return frames

    def sample(self, stored: Sample) -> Sample:
        """What training shows of a stored frame; by default the frame itself.

        It runs in the loader's workers, before resizing and augmentation. Its random numbers must
        come from torch, which is seeded for the frame. Validation and test frames are scored as
        they are stored.
        """
        return stored

    def transform(self) -> v2.Transform | None:
        """The augmentation of training images, which is called for one image at a time.

        It gets and returns an ``Image`` and a ``Mask`` in uint8 and ``KeyPoints`` in float32, all
        of ``tv_tensors`` and already resized to ``image_size``; its random numbers must come from
        torch. None: no augmentation, or the light one, which the training makes later, for a whole
        batch at once.
        """
        return self.released_transform() if self.augmentation == "released" else None

    def optimisation(
        self,
        network: Network,
        steps: int,
    ) -> tuple[list[Optimizer], LRScheduler]:
        """The optimisers, by default one, and the schedule of the first one's learning rate.

        ``steps`` is the number of batches per epoch. After every batch, all optimisers and the
        schedule make a step.
        """
        groups = network.parameter_groups(self.weight_decay)  # dicts of weights and their decay
        if self.trunk_lr is not None:
            groups = backbones.with_rate(groups, self.trunk_lr)
        optimiser = OPTIMISERS[self.optimiser](groups, self.lr)
        total_steps = steps * self.epochs
        if self.schedule == "onecycle":
            highest = [group["lr"] for group in optimiser.param_groups]
            schedule = OneCycleLR(optimiser, highest, total_steps)
        elif self.schedule == "cosine":
            schedule = CosineAnnealingLR(optimiser, self.cosine_steps or total_steps)
        else:
            factor = self.step_factor if self.schedule == "step" else 1.0  # 1: constant
            schedule = StepLR(optimiser, steps * self.step_epochs, factor)  # counts batches
        return [optimiser], schedule

    def released_transform(self) -> v2.Transform:
        """The augmentation of the paper's released code, called as that of :meth:`transform`.

        A paper without one raises :class:`DfnbError`.
        """
        module = type(self).__module__
        raise DfnbError(f"{module} has no released augmentation; set augmentation = light or none")


class Network(nn.Module):
    """Base of the papers' networks: normalised images (B, 3, H, W) to outputs by name.

    One output is ``cls``, logits (B, 2), real first. A network may also have a method
    ``localise(outputs)``: maps (B, h, w) in [0, 1] of where each image is forged.

    Attributes:
        weights_from: what the training starts from: "random weights", "ImageNet" or another name.
        untrained: names of parts that no loss reaches, where the released code leaves them as they
            were initialised.
    """

    weights_from = "random weights"
    untrained: ClassVar[tuple[str, ...]] = ()

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The paper's loss terms by name, and ``total``, the one that is minimised.

        The term ``adversary``, if there is one, is minimised, too; its gradient and that of
        ``total`` must reach different weights. The other terms are only logged.
        """
        raise NotImplementedError

    def log_odds(self, outputs: dict[str, Tensor]) -> Tensor:
        """log(P(fake) / P(real)), (B,) float64."""
        logits = outputs["cls"].double()  # (B, 2), real first
        return logits[:, 1] - logits[:, 0]

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """P(fake), (B,) float64 in [0, 1]: the sigmoid of :meth:`log_odds`, which counts."""
        return self.log_odds(outputs).sigmoid()

    def maps(self) -> dict[str, str | tuple[str, ...] | Callable[[Network, Tensor], Tensor]]:
        """How each of the paper's own maps is made, by the map's name.

        - ``"localise"``: by the network's method of this name;
        - the name of a part of the network: by Grad-CAM at the part's last feature map
          (:func:`dfnb.papers.backbones.last_map`);
        - a tuple of names of other maps: as their maximum at each position;
        - a function of the network and images (n, 3, H, W): what it returns, (n, h, w), of which
          positive values speak for fake, divided by the maximum of each map.

        Grad-CAM of the whole network needs no entry.
        """
        return {}

    def compare(
        self,
        part_maps: Sequence[np.ndarray],
        images: Tensor,
    ) -> dict[str, np.ndarray | float]:
        """How much the parts of a combined map differ: measures by name, by default none.

        A combined map is the maximum of others, see :meth:`maps`; ``part_maps`` are these others,
        each (B, h, w) in [0, 1], of ``images`` (B, 3, H, W), normalised. A measure has one value
        per image, (B,), or one for all images.
        """
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """The first optimiser's parameter groups; by default one: all weights, with this decay."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]


def cross_entropy(logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy CE of logits (B, C, ...) and classes (B, ...), mixed as the images were.

    If an image is λ times itself plus 1 - λ times its partner (mixup), the loss is λ·CE(its class)
    + (1 - λ)·CE(its partner's class). Targets that are ``IGNORED`` do not count in these two means.
    A mean without any target is zero.
    """
    loss = _mean_cross_entropy(logits, target)
    partner = batch["partner"]
    if partner is None:
        return loss
    partner_loss = _mean_cross_entropy(logits, target[partner])
    weight = batch["weight"]
    return weight * loss + (1 - weight) * partner_loss


def _mean_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over the targets that are not ``IGNORED``; 0 where all are."""
    # reduction="mean" would be NaN where all targets are ignored.
    total = nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)


@torch.inference_mode()
def outputs_of(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The outputs of a network for images (B, 3, H, W), in float32 and without gradients."""
    return {name: value.float() for name, value in network(images).items()}
