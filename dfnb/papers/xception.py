"""The field's baseline: an image classifier from timm with two logits, by default Xception.

Rössler et al., FaceForensics++, ICCV 2019, arXiv 1901.08971. The training settings are those of
Xception in the benchmark DeepfakeBench (SCLBD/DeepfakeBench, commit 8a4a7bf), which publishes
cross-dataset results for it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torchvision.transforms import v2

from dfnb.papers import backbones, contract, released

PAPER = contract.Paper("Baseline", "02_xception_baseline", "Xception (Xception)", version=1)


class Settings(contract.Settings):
    """DeepfakeBench's training: 256 pixels, every frame once in an epoch.

    DeepfakeBench tests after every half epoch and keeps the weights of the best test. Here the
    validation split chooses among the weights after each epoch. DeepfakeBench's initial weights
    (``xception-b5690688.pth``) may differ from timm's (``xception-43020ad28.pth``): nobody has
    compared them.

    Attributes:
        head_start: how the classifier of two classes is drawn at the start. timm: as timm draws it,
            of an EfficientNet uniformly from ±.71; torch: as torch draws a linear layer, from ±.03
            where it has 1280 inputs. Recorded where it is not timm.
    """

    image_size: contract.ImageSize = 256
    oversampling: contract.Count | None = 1  # not balanced: FaceForensics++ has 4 fakes per real
    epochs: contract.Epochs = 11  # DeepfakeBench sets 10 and counts from 0 to 10
    batch_size: contract.BatchSize = 32
    lr: contract.LearningRate = 2e-4
    weight_decay: contract.WeightDecay = 5e-4
    schedule: contract.Schedule = "constant"
    augmentation: contract.Augmentation = "released"
    head_start: Literal["timm", "torch"] = Field("timm", exclude_if=lambda value: value == "timm")

    def released_transform(self) -> v2.Transform:
        """DeepfakeBench's: mirror, blur, a change of colour, JPEG (quality 40 to 100), each p = .5.

        Its configuration also names a rotation by up to 10°, with probability 0.
        """
        # albumentations draws a side of 3 to 7 pixels and adds 1 to an even one: so 3 comes from
        # one of five numbers, 5 and 7 from two each.
        blurs = v2.RandomChoice([released.blur(size) for size in (3, 5, 7)], p=[0.2, 0.4, 0.4])
        return released.in_turn(
            (0.5, v2.RandomHorizontalFlip(1)),  # 1: whenever the step is taken
            (0.5, blurs),
            (0.5, released.one_colour(0.1)),
            (0.5, released.jpeg(40)),
        )


class Network(contract.Network):
    """Normalised images (B, 3, H, W) to ``{"cls": logits (B, 2), real first}``."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.backbone = backbones.create(
            settings.backbone, settings.pretrained, settings.image_size, num_classes=2
        )
        if settings.head_start == "torch":
            self.backbone.get_classifier().reset_parameters()
        self.weights_from = self.backbone.weights_from

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images to logits, see the class."""
        return {"cls": self.backbone(images)}

    def losses(
        self,
        outputs: dict[str, Tensor],
        batch: contract.Batch,
    ) -> dict[str, Tensor]:
        """The cross-entropy ``cls``, which is also the ``total``."""
        cls = contract.cross_entropy(outputs["cls"], batch["label"], batch)
        return {"cls": cls, "total": cls}
