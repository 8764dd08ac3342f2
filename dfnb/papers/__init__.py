"""The papers, one module each, and the contract between a paper and everything else.

A paper is a module with three names: ``VERSION``, raised when the same settings give other weights; ``Settings``, a
subclass of :class:`Settings` whose defaults are the published ones; and ``Network``, a ``torch.nn.Module`` built by ``Network(settings)`` with

- ``forward(images) -> dict[str, Tensor]``: named outputs for images (B, 3, H, W), already normalised, among them the
  logits ``cls`` (B, 2), real first;
- ``losses(outputs, batch) -> dict[str, Tensor]``: the paper's terms by name, and their weighted sum as ``total``;
- ``score(outputs) -> Tensor``: P(fake), shape (B,), in [0, 1];
- ``localise(outputs) -> Tensor``, only where the paper has one: P(forged) a patch, shape (B, h, w), in [0, 1];
- ``monitor(outputs, batch) -> dict[str, float]``, only where the paper has more to follow than its losses: numbers
  that the log keeps of each epoch, from batches of the validation split, whose masks may be seen;
- ``adversary``, only where the paper trains a module of the network in turn with the rest: that module. ``losses`` then has
  its loss as ``adversary``, which must not reach the rest, as ``total`` must not reach it; it has an Adam of its own,
  whose step follows the other one's, with ``Settings.adversary_lr``;
- ``load_released(state_dict)``, only where the authors' code is published: takes their checkpoint's names.

``Settings.before()`` are the settings of the phase that comes before this one, whose weights it starts from: a run of its
own, shared by all that start there. ``Settings.visible(frames, seed, start)`` is what the paper may see of its training and
validation frames: which masks, for instance. It is asked before any pixel is read, with the run of the phase before. The
training loop, the scores and the tables know nothing of a paper beyond this.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypedDict

import pandas as pd
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from dfnb.core import DfnbError

if TYPE_CHECKING:
    from dfnb.train import Run


class Paper(NamedTuple):
    """An entry of the registry: its name in tables, its notebook, and how ``published.csv`` names it."""

    title: str
    notebook: str
    published: str


PAPERS = {
    "xception": Paper("Baseline", "02_xception_baseline", "DeepfakeBench"),
    "lae": Paper("LAE", "03_lae", "LAE"),
    "locate_and_verify": Paper("Locate and Verify", "04_locate_and_verify", "Locate and Verify"),
    "exposing_the_deception": Paper("Exposing the Deception", "05_exposing_the_deception", "Exposing the Deception"),
}
NOTEBOOKS = {entry.notebook: paper for paper, entry in PAPERS.items()}
Augmentation = Literal["none", "light", "locate_and_verify", "exposing_the_deception"]


class Batch(TypedDict):
    """What the loop hands to ``losses``; an unknown mask is all zero and ``has_mask`` is False."""

    image: Tensor  # (B, 3, H, W) float32, normalised
    label: Tensor  # (B,) int64, 0 real, 1 fake
    mask: Tensor  # (B, 1, H, W) float32 in {0, 1}, 1 where forged
    has_mask: Tensor  # (B,) bool; real images have one: all zero
    landmarks: Tensor  # (B, 5, 2) float32, x and y in pixels: eyes, nose tip, mouth corners; NaN if unknown
    epoch: int
    partner: Tensor | None  # (B,) int64: mixup partner of each image, None where the batch is not mixed
    weight: float  # share of the image itself in the mixture; 1.0 where the batch is not mixed


class Settings(BaseModel):
    """What every paper's training has; the defaults of the subclasses are the published values.

    Attributes:
        cosine_steps: steps from the highest learning rate to zero (then up again); None: those of the whole training.
        optimiser_restarts: released: optimiser and schedule begin anew each epoch (the released Exposing the Deception);
            corrected: they run through.
        oversampling: None: real and fake equally often in each batch's draw, fakes equally by method; a factor: an epoch is every
            fake once and every real frame so many times, as released codes balance their lists.
        chosen: the epoch whose weights are kept: the best on the validation split, or the last.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    chosen: ClassVar[Literal["validation", "last"]] = "validation"

    backbone: str = "legacy_xception"
    pretrained: bool = True
    image_size: int = Field(299, ge=32)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(16, ge=2)
    optimiser: Literal["adam", "adamw"] = "adam"
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Literal["constant", "step", "onecycle", "cosine"] = "step"
    step_epochs: int = Field(5, ge=1)
    step_factor: float = Field(0.5, gt=0, le=1)
    mixup_probability: float = Field(0.0, ge=0, le=1)
    mixup_alpha: float = Field(1.0, gt=0)
    cosine_steps: int | None = Field(None, ge=1)
    optimiser_restarts: Literal["released", "corrected"] = "corrected"
    oversampling: int | None = Field(None, ge=1)
    augmentation: Augmentation = "light"
    images_per_epoch: int | None = Field(None, ge=2)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def before(self) -> "Settings | None":
        """The settings of the phase whose weights this one starts from; None where there is none."""
        return None

    def visible(self, frames: pd.DataFrame, seed: int, start: "Run | None") -> pd.DataFrame:
        """The frames of the train or val split as this paper may see them: all masks, where it does not say otherwise.

        ``start`` is the run of the phase before.
        """
        return frames

    @classmethod
    def check(cls, values: dict[str, Any], source: object) -> Self:
        """Settings from plain values as YAML and JSON give them; raises :class:`DfnbError` that names ``source``.

        Strict: ``"1e-4"`` is no number and ``True`` no 1, because YAML makes such values by accident.
        """
        try:
            return cls.model_validate_json(json.dumps(values))
        except ValidationError as error:
            raise DfnbError(f"{source}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The problems of a pydantic error, in one sentence."""
    parts = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"])) or "value"
        if problem["type"] == "extra_forbidden":
            parts.append(f"there is no parameter {name!r}")
        elif problem["type"] == "value_error":
            parts.append(str(problem["ctx"]["error"]))
        else:
            parts.append(f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return "; ".join(parts)


def module(paper: str) -> ModuleType:
    """The module of a paper by its name; raises :class:`DfnbError` that lists the names there are."""
    if paper not in PAPERS:
        raise DfnbError(f"there is no paper {paper!r}; known are {', '.join(PAPERS)}")
    return import_module(f"dfnb.papers.{paper}")


IGNORED = -100  # the class of what has no known class


def cross_entropy(logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of logits (B, C, ...) against classes (B, ...); mixed as the batch's images were mixed.

    Targets that are ``IGNORED`` count neither in the sum nor in the mean; with none left the loss is zero.
    """

    def mean(target: Tensor) -> Tensor:
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)

    if batch["partner"] is None:
        return mean(target)
    weight = batch["weight"]
    return weight * mean(target) + (1 - weight) * mean(target[batch["partner"]])


def load_released(
    network: nn.Module,
    checkpoint: Mapping[str, Any],
    names: Sequence[tuple[str, str | Callable[[re.Match], str]]],
    optional: re.Pattern,
    title: str,
) -> None:
    """Load the authors' weights: their state_dict, or a checkpoint that holds it as ``model`` or ``state_dict``.

    ``names`` are the patterns by which ours become theirs (:func:`released_name`); released names that match
    ``optional`` may be missing on either side.

    Raises:
        DfnbError: tensors are missing, unexpected or of another shape; nothing has been loaded then.
    """
    released = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    released = {name.removeprefix("module."): tensor for name, tensor in released.items()}
    ours = {released_name(name, names): (name, tensor) for name, tensor in network.state_dict().items()}
    both = ours.keys() & released.keys()
    wrong = {
        "missing": {name for name in ours.keys() - both if not optional.search(name)},
        "unexpected": {name for name in released.keys() - both if not optional.search(name)},
        "of another shape": {name for name in both if released[name].shape != ours[name][1].shape},
    }
    if wrong := {what: sorted(n) for what, n in wrong.items() if n}:
        found = [f"{len(n)} {what} ({', '.join(n[:3])}{', …' * (len(n) > 3)})" for what, n in wrong.items()]
        raise DfnbError(
            f"these are not the weights of the released {title}: {'; '.join(found)}; load one of its checkpoints, "
            "and into a Network of the published Settings"
        )
    network.load_state_dict({ours[name][0]: released[name] for name in both}, strict=False)


def released_name(name: str, names: Sequence[tuple[str, str | Callable[[re.Match], str]]]) -> str:
    """What the released code calls the tensor that is ``name`` in our state_dict."""
    for pattern, replacement in names:
        renamed, found = re.subn(pattern, replacement, name)
        if found:
            return renamed
    return name
