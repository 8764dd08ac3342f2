"""The contract of a paper: what it declares, and what the rest of the package calls.

A paper is one module with

- ``PAPER``, a :class:`Paper`: how it appears in tables and figures;
- ``Settings``, a subclass of :class:`Settings`: its published settings as defaults. It may also
  override the methods for its phases, its augmentation, its own samples and the data it may see;
- ``Network``, a subclass of :class:`Network`: images to named outputs, outputs to named losses. It
  may also have maps of where an image is forged.

Training, scores, maps and tables know nothing else about a paper.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypedDict

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR
from torchvision import tv_tensors
from torchvision.transforms import v2

from dfnb.checks import Closed, DfnbError, suggestion
from dfnb.data.loading import Sample
from dfnb.papers import backbones, code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

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


class Paper(NamedTuple):
    """The names of a paper."""

    title: str  # in tables and figures
    notebook: str  # file name of its notebook, without .ipynb
    published: str  # its name in published.csv, see dfnb.report.published.numbers
    # Part of the id of its runs: raise it when a change of its file changes the numbers of a
    # training. tests/test_golden.py finds out who forgets.
    version: int = 1
    small: Mapping[str, Any] = MappingProxyType({})  # settings of :func:`small`


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
        pretrained: whether the backbone starts from the weights that timm names; or a file of its
            weights, relative to the home or absolute, for a machine without a network.
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
        precision: ``32-true``: IEEE float32; ``tf32``: float32 whose products have the mantissa of
            TF32 on a GPU that has it, as torch does by default in convolutions; ``bf16-mixed``: the
            forward pass in bfloat16 where autocast allows it, the rest as with ``tf32``. On a CPU
            the first two are the same.
        deterministic: whether torch uses deterministic algorithms in training. Without, a training
            may be faster on a GPU, and the same seed gives other weights each time.
        released: a file of weights of the paper's authors, see :mod:`dfnb.papers.released_weights`;
            the network has them as they are and is not trained.
        chosen: which epoch's weights are kept: the best on the validation split, or the last.
        makes_other_class: whether :meth:`samples` makes two images of a frame, one of them of the
            other class, which follows it in the batch.
        antialias: whether a crop that is made smaller is smoothed first.
    """

    chosen: ClassVar[Literal["validation", "last"]] = "validation"
    makes_other_class: ClassVar[bool] = False
    antialias: ClassVar[bool] = True

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
    precision: Precision = "32-true"
    deterministic: bool = True

    @model_validator(mode="after")
    def _take_input_of_another_backbone(self) -> Self:
        """Take mean, std and interpolation from the weights of another backbone than the paper's.

        If the user states one of the three, all three stay as they are.
        """
        default = type(self).model_fields["backbone"].default
        if self.backbone == default or self.model_fields_set & set(INPUT):
            return self
        # RuntimeError: timm has no such backbone; backbones.start raises an explanation later.
        with suppress(RuntimeError):
            weights = get_pretrained_cfg(self.backbone, allow_unregistered=False)
            # The instance is frozen: ordinary assignments to its attributes would raise.
            self.__dict__.update({name: getattr(weights, name) for name in INPUT})
        return self

    @model_validator(mode="after")
    def _check_batch_size(self) -> Self:
        """Refuse a batch size that does not divide, or puts a frame's images in two parts."""
        multiple = self.images_per_frame * self.accumulate
        if self.batch_size % multiple:
            raise ValueError(f"batch_size must be a multiple of {multiple}")
        if self.batch_size < 2 * self.accumulate:
            raise ValueError("accumulate must leave two images in each part of a batch")
        return self

    @property
    def images_per_frame(self) -> int:
        """How many images are made of one frame; ``batch_size`` counts these images."""
        return 2 if self.makes_other_class else 1

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

        A paper that ``makes_other_class`` may leave out a class; its checkpoint is chosen on what
        :meth:`samples` makes of the val split. A paper may add a column ``always``: numbers 0, 1,
        ... for frames of which every batch must show some, -1 for all others, see
        :class:`dfnb.data.loading.EpochSampler`. The numbers order these frames, so that draws do
        not depend on the order of the table; a low one is not preferred.
        """
        return frames

    def samples(self, sample: Sample, draw: np.random.Generator) -> list[Sample]:
        """What is made of a stored frame: one image or, with ``makes_other_class``, two.

        By default the frame itself. Called in training and, with ``makes_other_class``, in
        validation; test frames are scored as they are stored. It runs in the loader's workers,
        before resizing and augmentation. All random numbers must come from ``draw`` or from torch,
        which is seeded for the frame. The samples of one frame are in the same batch, and are
        augmented alike.
        """
        return [sample]

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
        optimiser = OPTIMISERS[self.optimiser](groups, self.lr)
        total_steps = steps * self.epochs
        if self.schedule == "onecycle":
            schedule = OneCycleLR(optimiser, self.lr, total_steps)  # lr is the highest rate
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
        """P(fake), (B,) float64 in [0, 1]."""
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

    def moved(self) -> AbstractContextManager | None:
        """A context that moves the weights for a second pass over the batch; None: one pass only.

        It is entered after the first backward pass, of all parts of a batch, and must then clear
        the gradient; on leaving it must put the weights back. The optimiser changes these weights
        by the gradient of the second pass alone.
        """
        return None

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


# ---------------------------------------------------------------- the check of a paper

# Eyes, nose tip and mouth corners in shares of the image's side.
FACE = torch.tensor([[0.35, 0.35], [0.65, 0.35], [0.5, 0.5], [0.4, 0.7], [0.6, 0.7]])


def small(module: ModuleType, **changes: Any) -> Settings:
    """Settings of a paper for a small network with random weights; ``changes`` go before others."""
    values = {"backbone": backbones.SMALL, "pretrained": False, "image_size": 96}
    return module.Settings(**{**values, **module.PAPER.small, **changes})


def check(module: ModuleType, settings: Settings | None = None) -> None:
    """Raise :class:`DfnbError` where a paper does not do what this module says.

    A network with random weights gets a batch of two images of noise: a real one and a fake. Names,
    types and shapes of outputs, losses, scores and maps are checked, and that no method has a name
    that is almost that of a hook. Random numbers that are drawn do not count for what follows.

    Args:
        module: The paper.
        settings: Of the training that is to start; None: :func:`small` ones.
    """
    file = module.__file__
    _check_names(module)
    with blamed(module, "the defaults of its Settings are refused"):
        defaults = module.Settings().model_dump(mode="json", warnings=False)
    module.Settings.check(defaults, f"{file}, defaults of Settings")
    with torch.random.fork_rng(devices=[]):
        with blamed(module, "its Network cannot be built"):
            settings = settings or small(module)
            network = module.Network(settings.model_copy(update={"pretrained": False}))
        _check_hooks(module, settings)
        batch = _noise(settings.image_size)
        _check_training(module, network, batch, settings)
        network.eval()
        with blamed(module, "forward fails in evaluation mode"):
            outputs = outputs_of(network, batch["image"])
        _check_scores(module, network, outputs)
        _check_maps(module, network, outputs, batch["image"])


def _noise(side: int) -> Batch:
    """A batch of two: a real image, and a fake one whose upper half is forged."""
    mask = torch.zeros(2, 1, side, side)
    mask[1, :, : side // 2] = 1
    return {
        "image": torch.randn(2, 3, side, side),
        "label": torch.tensor([0, 1]),
        "mask": mask,
        "has_mask": torch.tensor([True, True]),
        "landmarks": (FACE * side).expand(2, 5, 2),
        "epoch": 0,
        "partner": None,
        "weight": 1.0,
    }


@contextmanager
def blamed(module: ModuleType, what: str) -> Iterator[None]:
    """Turn any error of a paper into a :class:`DfnbError` with the line of its file."""
    try:
        yield
    except DfnbError:
        raise
    except Exception as error:
        fault = code.fault(error, module.__file__)
        raise DfnbError(f"{module.__file__}: {what} ({fault}); correct it, then train") from error


def _expect(module: ModuleType, is_so: bool, sentence: str) -> None:
    """Raise :class:`DfnbError` with the paper's file and the sentence unless something is so."""
    if not is_so:
        raise DfnbError(f"{module.__file__}: {sentence}")


def _check_names(module: ModuleType) -> None:
    """Refuse a name that is almost that of a hook, and that nothing in the paper's file uses."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    for name, base in (("Settings", Settings), ("Network", Network)):
        declared = vars(module)[name]
        hooks = {hook for hook in (*vars(base), *base.__annotations__) if not hook.startswith("_")}
        hooks |= {"forward", "localise"} if base is Network else set()
        own = {*vars(declared), *declared.__annotations__}
        for member in sorted(own):
            is_known = member.startswith("_") or hasattr(base, member) or member in hooks
            if is_known or re.search(rf"\.{member}\b", source):
                continue
            if near := get_close_matches(member, hooks - own, 1, 0.75):
                raise DfnbError(
                    f"{module.__file__}: nothing uses {name}.{member}; did you mean {near[0]}?"
                )


def _check_hooks(module: ModuleType, settings: Settings) -> None:
    """Check the phase before, and what is made of a frame: its samples and their augmentation."""
    with blamed(module, "before fails"):
        before = settings.before()
    is_so = before is None or isinstance(before, Settings)
    _expect(module, is_so, f"before returns {type(before).__name__}; return Settings or None")
    side = settings.image_size
    pixels = np.full((side, side, 3), 128, np.uint8)
    landmarks = (FACE * side).numpy()
    sample = Sample(pixels, np.zeros((side, side), bool), landmarks, 0, True)
    with blamed(module, "samples fails"):
        samples = settings.samples(sample, np.random.default_rng(0))
    count = settings.images_per_frame
    is_so = isinstance(samples, list) and [type(each) for each in samples] == [Sample] * count
    _expect(module, is_so, f"samples must return a list of {count} Sample")
    with blamed(module, "transform fails"):
        transform = settings.transform()
        if transform is not None:
            points = tv_tensors.KeyPoints(FACE * side, canvas_size=(side, side))
            mask = torch.zeros(1, side, side, dtype=torch.uint8)
            image = torch.full((3, side, side), 128, dtype=torch.uint8)
            made = transform(tv_tensors.Image(image), tv_tensors.Mask(mask), points)
            shapes = [tuple(each.shape) for each in made]
            is_so = shapes == [(3, side, side), (1, side, side), (5, 2)]
            _expect(module, is_so, "transform must keep the shapes of image, mask, points")


def _check_training(
    module: ModuleType,
    network: Network,
    batch: Batch,
    settings: Settings,
) -> None:
    """Check what a step of the training needs: outputs, losses, a gradient and optimisers."""
    with blamed(module, "forward fails"):
        outputs = network.train()(batch["image"])
    is_dict = isinstance(outputs, dict) and all(
        isinstance(value, Tensor) for value in outputs.values()
    )
    found = type(outputs).__name__
    if isinstance(outputs, dict):
        found = f"a dict of {', '.join(type(value).__name__ for value in outputs.values())}"
    _expect(module, is_dict, f"forward returns {found}; return a dict of tensors by name")
    outputs = {name: value.float() for name, value in outputs.items()}
    if type(network).log_odds is Network.log_odds:
        is_there = "cls" in outputs
        sentence = f"forward returns no output cls, but {', '.join(outputs) or 'nothing'}"
        _expect(module, is_there, f"{sentence}; return the logits (B, 2), real first, as cls")
        shape = tuple(outputs["cls"].shape)
        sentence = f"the output cls has shape {shape} for 2 images"
        _expect(module, shape == (2, 2), f"{sentence}; return logits (B, 2), real first")
    mixed = {**batch, "partner": torch.tensor([1, 0]), "weight": 0.3}
    for each in [batch, mixed] if settings.mixup_probability else [batch]:
        with blamed(module, "losses fails"):
            losses = network.losses(outputs, each)
        _check_losses(module, losses)
    with blamed(module, "the gradient of total cannot be computed"):
        (losses["total"] + losses.get("adversary", 0)).backward()
    with blamed(module, "optimisation fails"):
        optimisers, schedule = settings.optimisation(network, 10)
    is_so = isinstance(schedule, LRScheduler) and isinstance(optimisers, list)
    _expect(module, is_so, "optimisation must return a list of optimisers and a schedule")


def _check_losses(module: ModuleType, losses: dict[str, Tensor]) -> None:
    """Check the losses' names, shapes and values."""
    found = type(losses).__name__
    _expect(module, isinstance(losses, dict), f"losses returns {found}; return a dict by name")
    sentence = f"losses returns no total, the loss that is minimised, but {', '.join(losses)}"
    _expect(module, "total" in losses, f"{sentence}; add it")
    for name, value in losses.items():
        is_scalar = isinstance(value, Tensor) and value.ndim == 0
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        _expect(module, is_scalar, f"the loss {name} is {found}; return a scalar tensor, as a mean")
        is_finite = bool(value.isfinite())
        _expect(module, is_finite, f"the loss {name} is {value.item()} for noise; make it finite")
    sentence = "no gradient passes from the loss total to the weights; do not detach it"
    _expect(module, losses["total"].requires_grad, sentence)


def _check_scores(module: ModuleType, network: Network, outputs: dict[str, Tensor]) -> None:
    """Check the log-odds and P(fake) of two images."""
    for name in ("log_odds", "score"):
        with blamed(module, f"{name} fails"):
            values = getattr(network, name)(outputs)
        is_so = isinstance(values, Tensor) and tuple(values.shape) == (2,)
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        _expect(module, is_so, f"{name} returns {found} for 2 images; return (B,)")
        _expect(
            module, bool(values.isfinite().all()), f"{name} is not finite for noise; correct it"
        )
    is_share = bool(((values >= 0) & (values <= 1)).all())
    _expect(module, is_share, "score is P(fake) and must be in [0, 1]")


def _check_maps(
    module: ModuleType,
    network: Network,
    outputs: dict[str, Tensor],
    images: Tensor,
) -> None:
    """Check that each map of a network can be made."""
    with blamed(module, "maps fails"):
        declared = network.maps()
    _expect(module, isinstance(declared, dict), "maps returns no dict; return how each map is made")
    for name, origin in declared.items():
        sentence = f"its map {name!r} is of {origin!r}"
        if origin == "localise":
            is_there = hasattr(network, "localise")
            _expect(module, is_there, f"{sentence}, and Network has no method localise; add it")
        elif isinstance(origin, tuple):
            wrong = [part for part in origin if part not in declared or part == name]
            _expect(module, not wrong, f"{sentence}{suggestion(str(wrong and wrong[0]), declared)}")
        elif isinstance(origin, str):
            parts = dict(network.named_modules())
            known = suggestion(origin, [*parts][1:])
            _expect(module, origin in parts, f"{sentence}, a part that it does not have{known}")
            part = parts[origin]
            _check_part(module, network, backbones.last_map(part) or part, sentence, images)
        else:
            _expect(module, callable(origin), f"{sentence}; name a part, other maps or localise")
    if hasattr(network, "localise"):
        with blamed(module, "localise fails"):
            located = network.localise(outputs)
        is_map = isinstance(located, Tensor) and located.ndim == 3 and len(located) == 2
        found = tuple(located.shape) if isinstance(located, Tensor) else type(located).__name__
        _expect(module, is_map, f"localise returns {found} for 2 images; return maps (B, h, w)")
        is_share = bool(((located >= 0) & (located <= 1)).all())
        _expect(
            module, is_share, "localise returns values outside [0, 1]; scale them, as by sigmoid"
        )


def _check_part(
    module: ModuleType,
    network: Network,
    part: nn.Module,
    sentence: str,
    images: Tensor,
) -> None:
    """Check that a part is called in forward, and returns a map or tokens."""
    returned = []
    with part.register_forward_hook(lambda *call: returned.append(call[-1])):
        outputs_of(network, images)
    _expect(module, bool(returned), f"{sentence}, which forward does not call; name another part")
    is_map = isinstance(returned[-1], Tensor) and returned[-1].ndim in (3, 4)
    _expect(module, is_map, f"{sentence}, which returns no feature map; name another part")
