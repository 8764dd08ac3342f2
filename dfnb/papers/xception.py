"""The field's baseline: an image classifier from timm with two logits, by default Xception.

Rössler et al., FaceForensics++, ICCV 2019, arXiv 1901.08971. The training settings are those of
DeepfakeBench's Xception (released code, commit 8a4a7bf), for which cross-dataset results are
published.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms import v2

from dfnb.papers import backbones, contract, released

PAPER = contract.Paper("Baseline", "02_xception_baseline", "Xception (Xception)")


class Settings(contract.Settings):
    """Published training; 299 is Xception's own input side (FaceForensics++).

    DeepfakeBench crops at 256.
    """

    epochs: contract.Epochs = 10
    batch_size: contract.BatchSize = 32
    lr: contract.LearningRate = 2e-4
    weight_decay: contract.WeightDecay = 5e-4
    schedule: contract.Schedule = "constant"
    augmentation: contract.Augmentation = "released"

    def released_transform(self) -> v2.Transform:
        """DeepfakeBench's: mirror, blur, one change of colour and JPEG (40 to 100), each with p .5.

        Its configuration also names a rotation by up to 10°, with probability 0.
        """
        blurs = [released.blur(size) for size in (3, 5, 7)]
        return released.in_turn(
            (0.5, v2.RandomHorizontalFlip(1)),
            (0.5, v2.RandomChoice(blurs)),
            (0.5, released.one_colour(0.1)),
            (0.5, released.jpeg(40)),
        )


class Network(contract.Network):
    """Normalised images (B, 3, H, W) to ``{"cls": logits (B, 2), real first}``."""

    def __init__(self, settings: contract.Settings) -> None:
        super().__init__()
        self.backbone = backbones.create(settings.backbone, settings.pretrained, num_classes=2)
        self.weights_from = self.backbone.weights_from

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The logits."""
        return {"cls": self.backbone(images)}

    def losses(self, outputs: dict[str, Tensor], batch: contract.Batch) -> dict[str, Tensor]:
        """The cross-entropy ``cls``, which is the ``total``."""
        cls = contract.cross_entropy(outputs["cls"], batch["label"], batch)
        return {"cls": cls, "total": cls}
