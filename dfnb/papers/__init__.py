"""What a paper and a finished training of it (:class:`Run`) are to the rest of the package, and where papers are found.

A paper is one module: ``dfnb/papers/<name>.py``, or ``papers/<name>.py`` in the home. It is found by being there, and
declares:

- ``PAPER``: its :class:`Paper`;
- ``VERSION``: raised when the same settings give other numbers;
- ``Settings(papers.Settings)``: its published settings as defaults (:func:`published`), and where it has them its phases,
  its augmentation, its own samples and what it may see of the data;
- ``Network(papers.Network)``: images to named outputs, its losses, and where it has them its maps, panels and monitor.

The training loop, the scores, the tables and the figures know nothing of a paper beyond this.
"""

import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import v2

from dfnb import core
from dfnb.data import frames

__path__.append(str(core.home() / "papers"))  # a reader's own papers

IGNORED = -100  # the class of what has no known class


class Paper(NamedTuple):
    """How a paper appears: its name in tables, its notebook, its name in ``published.csv``, and its look in figures."""

    title: str
    notebook: str
    published: str
    colour: str
    marker: str


# What the loop hands to ``losses``, by name; an unknown mask is all zero and ``has_mask`` is False:
#   image      Tensor (B, 3, H, W) float32, normalised
#   label      Tensor (B,) int64, 0 real, 1 fake
#   mask       Tensor (B, 1, H, W) float32 in {0, 1}, 1 where forged
#   has_mask   Tensor (B,) bool; real images have one: all zero
#   landmarks  Tensor (B, 5, 2) float32, x and y in pixels: eyes, nose tip, mouth corners; NaN if unknown
#   epoch      int
#   partner    Tensor (B,) int64: mixup partner of each image; None where the batch is not mixed
#   weight     float, share of the image itself in the mixture; 1.0 where the batch is not mixed
Batch = dict[str, Any]


class RunParameters(core.Closed, extra="allow"):
    """What identifies a training, as far as anything but the training reads it."""

    paper: core.Name
    train_set: core.Name
    seed: int
    seen_methods: list[str] | None
    settings: dict[str, Any]


class Epoch(core.Closed, extra="allow", allow_inf_nan=True):
    """A row of a run's log; what a paper follows may have no value."""

    __pydantic_extra__: dict[str, float]
    epoch: int
    validation_auc: float


class RunRecord(core.Record, extra="allow"):
    """What the record of a training says."""

    parameters: RunParameters
    rule: str
    weights_from: str
    weights_sha256: str
    start: core.Name | None
    collapsed: bool
    images_seen: int
    n: dict[Literal["train", "val"], int] = Field(min_length=2)
    chosen: dict[Literal["epoch", "auc"], float] = Field(min_length=2)
    validation_threshold: dict[Literal["threshold", "threshold_clusters"], float] = Field(min_length=2)
    log: list[Epoch] = Field(min_length=1)
    environment: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, which need not exist where the record comes from a report, and its record."""

    folder: Path
    record: dict = field(compare=False, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder, or with an id under ``runs/``; raises :class:`DfnbError` when it is not finished."""
        folder = Path(folder) if Path(folder).is_dir() else core.home() / "runs" / folder
        record = core.read_record(folder)
        if "weights_sha256" not in (record or {}):  # nothing, a dataset, or a job
            raise core.DfnbError(f"{folder} holds no finished run: record.json or an output is gone; train it again")
        RunRecord.check(record, f"{folder / 'record.json'} (delete the folder and train it again)")
        return cls(folder, record)

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def parameters(self) -> dict[str, Any]:
        """All that identifies it: paper, versions, training set, seed, settings and so on."""
        return self.record["parameters"]

    @property
    def settings(self) -> "Settings":
        """The settings of its training."""
        return module(self.parameters["paper"]).Settings.check(self.parameters["settings"], self.folder)

    @property
    def log(self) -> pd.DataFrame:
        """One row per epoch: mean loss terms, learning rate, validation AUC, what the paper follows, seconds."""
        return pd.DataFrame(self.record["log"])

    def mean_mask(self) -> np.ndarray | None:
        """The mean mask (H, W) in [0, 1] of the fakes it was trained on, whether it saw their masks or not; made once.

        None where no mask is known, or the training set is not here any more.
        """
        path, train_set = self.folder / "mean_mask.parquet", self.parameters["train_set"]
        if not path.exists() and core.read_record(frames.dataset_folder(train_set)):
            known = frames.select(frames.load_frames(train_set), "train", self.parameters["seen_methods"])
            known = frames.thinned(known, self.parameters.get("frames_per_video"))
            if len(frames.masked(known)):
                core.write_table(path, pd.DataFrame(frames.mean_mask(known)).rename(columns=str), {})
        return core.read_table(path).to_numpy() if path.exists() else None

    def network(self, path: Path | None = None) -> "Network":
        """The network with the chosen checkpoint, in evaluation mode, on the CPU; ``path`` is another copy of it.

        Raises :class:`DfnbError` when the file is missing or is not what the record describes.
        """
        path, known = path or self.folder / "best.safetensors", self.record["weights_sha256"]
        core.verified(path, known, "is not what the record describes; delete its folder and train again")
        network = module(self.parameters["paper"]).Network(self.settings.model_copy(update={"pretrained": False}))
        network.load_state_dict(load_file(path))
        return network.eval()


class Settings(core.Closed):
    """What every paper's training has; the defaults of the subclasses are the published values.

    Attributes:
        cosine_steps: steps from the highest learning rate to zero (then up again); None: those of the whole training.
        optimiser_restarts: released: optimiser and schedule begin anew each epoch (the released Exposing the Deception);
            corrected: they run through.
        oversampling: None: real and fake equally often, fakes equally by method; a factor: an epoch is every fake once and
            every real frame so many times, as released codes balance their lists.
        augmentation: none; light: mirror, shift and colours; released: that of the paper's released code.
        chosen: the epoch whose weights are kept: the best on the validation split, or the last.
        samples_per_frame: how many images :meth:`samples` makes of a frame.
    """

    chosen: ClassVar[Literal["validation", "last"]] = "validation"
    samples_per_frame: ClassVar[int] = 1

    backbone: str = "legacy_xception.tf_in1k"  # with timm's tag of the weights
    pretrained: bool = True
    image_size: int = Field(299, ge=32, le=2048)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    epochs: int = Field(30, ge=1, le=1_000_000)
    batch_size: int = Field(16, ge=2)
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"  # sgd with momentum 0.9
    lr: float = Field(5e-4, gt=0, le=10)
    weight_decay: float = Field(1e-5, ge=0, le=10)
    schedule: Literal["constant", "step", "onecycle", "cosine"] = "step"
    step_epochs: int = Field(5, ge=1)
    step_factor: float = Field(0.5, gt=0, le=1)
    mixup_probability: float = Field(0.0, ge=0, le=1)
    mixup_alpha: float = Field(1.0, gt=0, le=100)
    cosine_steps: int | None = Field(None, ge=1)
    optimiser_restarts: Literal["released", "corrected"] = "corrected"
    oversampling: int | None = Field(None, ge=1)
    augmentation: Literal["none", "light", "released"] = "light"
    images_per_epoch: int | None = Field(None, ge=2)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def before(self) -> "Settings | None":
        """The settings of the phase whose weights this one starts from; None where there is none."""
        return None

    def visible(self, frames: pd.DataFrame, seed: int, start: Run | None) -> pd.DataFrame:
        """The frames of the train or val split as this paper may see them: all masks, where it does not say otherwise.

        ``start`` is the run of the phase before. Called once a training, after that phase has ended. One class may be left
        out where :meth:`samples` makes it; of a val split with one class the made samples choose the checkpoint.
        """
        return frames

    def always(self, frames: pd.DataFrame, seed: int, start: Run | None) -> Sequence[int]:
        """Positions in the train split, before :meth:`visible`, of frames of which every batch shows some; none by default."""
        return ()

    def samples(self, sample: frames.Sample, draw: np.random.Generator) -> list[frames.Sample]:
        """The ``samples_per_frame`` images of a stored frame, called in the loader's workers before resize and augmentation.

        They stay together in a batch and on a device, and one draw of the augmentation changes them all.
        """
        return [sample]

    def transform(self) -> v2.Transform | None:
        """The augmentation of (image, ``tv_tensors.Mask``, ``tv_tensors.KeyPoints``), uint8; None for none."""
        return {"none": lambda: None, "light": light, "released": self.released_transform}[self.augmentation]()

    def released_transform(self) -> v2.Transform:
        """The augmentation of the paper's released code."""
        raise core.DfnbError(f"{type(self).__module__} has no released augmentation; set augmentation = light or none")


def published(**defaults: Any) -> Callable[[type[Settings]], type[Settings]]:
    """A decorator that changes defaults of a paper's ``Settings`` and keeps the types and the limits of the settings."""

    def changed(settings: type[Settings]) -> type[Settings]:
        for name, value in defaults.items():
            settings.model_fields[name].default = value
        settings.model_rebuild(force=True)
        return settings

    return changed


def light() -> v2.Transform:
    """Mirror (p .5), shift by up to 1/16, brightness, contrast and saturation by up to 20 %."""
    shift = v2.RandomAffine(degrees=0, translate=(1 / 16, 1 / 16), interpolation=v2.InterpolationMode.NEAREST)
    return v2.Compose([v2.RandomHorizontalFlip(), shift, v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)])


class Network(nn.Module):
    """Base of the papers' networks: images (B, 3, H, W), normalised, to named outputs with ``cls`` (B, 2), real first.

    A paper adds ``losses``, and where it has them ``localise``, ``maps``, ``panel``, ``monitor``, ``parameter_groups`` and
    ``adversary``: a part that is trained in turn by its own Adam (``settings.adversary_lr``) on the term of that name.
    ``weights_from`` says what the training starts from.
    """

    weights_from = "random weights"

    def __init__(self) -> None:
        super().__init__()
        # The one place: whatever trains, scores or explains makes a network first. With several threads a sum's order, and
        # so its rounding, depends on their number, and a training would give other weights on another machine.
        torch.set_num_threads(1)

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The paper's terms by name, and their sum ``total``; what carries no gradient is logged and in no sum.

        ``cls`` is the cross-entropy of the output head alone, by which :func:`dfnb.train.collapsed` knows a run that learned
        nothing.
        """
        raise NotImplementedError

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """P(fake), (B,)."""
        return outputs["cls"].float().softmax(1)[:, 1]

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """The paper's own maps by name: ``localise``, a layer for Grad-CAM there, or names of others for their maximum.

        A network with such a maximum has ``local`` (branches, B, D) among its outputs, whose likeness is measured.
        """
        return {}

    def panel(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """What a panel of frames shows of this network between the frame and its map: pictures (B, h, w) by name."""
        return {}

    def monitor(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, float]:
        """What is followed on validation batches from epoch to epoch, by name."""
        return {}

    def moved(self) -> AbstractContextManager | None:
        """A context that moves the weights for a second pass over a batch, of which alone the gradient is used; None: one pass.

        Called after the first pass, while its gradients are there.
        """
        return None

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """The optimiser's parameter groups, without ``adversary``: all with decay where the paper does not say otherwise."""
        own = [value for name, value in self.named_parameters() if not name.startswith("adversary.")]
        return [{"params": own, "weight_decay": weight_decay}]


def cross_entropy(logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of logits (B, C, ...) against classes (B, ...); mixed as the batch's images were mixed.

    Targets that are ``IGNORED`` count neither in the sum nor in the mean; with none left the loss is zero.
    """

    def mean(target: Tensor) -> Tensor:
        total = nn.functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)

    if batch["partner"] is None:
        return mean(target)
    return batch["weight"] * mean(target) + (1 - batch["weight"]) * mean(target[batch["partner"]])


def names() -> list[str]:
    """The papers there are, by module name, in the order of their notebooks."""
    found = {entry.name: _notebook(entry) for entry in pkgutil.iter_modules(__path__)}
    return sorted(filter(found.get, found), key=found.get)


def _notebook(entry: pkgutil.ModuleInfo) -> str:
    """The notebook of the paper that a module is, if it declares what it must; empty where it is none."""
    with core.reading(f"{entry.module_finder.path}/{entry.name}.py", "as a paper", "correct it"):
        found = import_module(f"{__name__}.{entry.name}")
        declared = hasattr(found, "PAPER") and (Paper(*found.PAPER), found.VERSION, found.Settings, found.Network)
        return declared[0].notebook if declared else ""


def module(paper: str) -> ModuleType:
    """The module of a paper by its name; raises :class:`DfnbError` that lists the names there are."""
    if paper not in names():
        raise core.DfnbError(f"there is no paper {paper!r}; known are {', '.join(names())}")
    return import_module(f"{__name__}.{paper}")


def notebooks() -> dict[str, str]:
    """The papers' names by their notebooks."""
    return {import_module(f"{__name__}.{name}").PAPER.notebook: name for name in names()}


@torch.inference_mode()
def outputs_of(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The outputs of a network for images (B, 3, H, W), in float32 and without gradients."""
    return {name: value.float() for name, value in network(images).items()}


@torch.inference_mode()
def shapes(network: Network, images: Tensor) -> dict[str, str]:
    """Shapes of one forward pass, without the batch (``32×12×12``): of each module's output and each of the network's, by name."""
    names, found = {module: name for name, module in network.named_modules()}, {}
    register = nn.modules.module.register_module_forward_hook
    hook = register(lambda module, _inputs, output: found.update({names[module]: output}))
    found |= network(images)
    hook.remove()
    return {name: "×".join(map(str, each.shape[1:])) for name, each in found.items() if isinstance(each, Tensor)}
