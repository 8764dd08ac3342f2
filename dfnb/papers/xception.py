"""The baseline of the field: a classifier from timm with two logits, Xception by default.

Rössler et al., FaceForensics++, ICCV 2019, arXiv 1901.08971. The training settings are those of DeepfakeBench's
Xception (released code, commit 8a4a7bf), which publishes cross-dataset figures for it.
"""

from torch import Tensor
from torchvision.transforms import v2

from dfnb import papers
from dfnb.papers import backbones, released

PAPER = papers.Paper("Baseline", "02_xception_baseline", "DeepfakeBench", "#555555", "o")
VERSION = 1


@papers.published(epochs=10, batch_size=32, lr=2e-4, weight_decay=5e-4, schedule="constant", augmentation="released")
class Settings(papers.Settings):
    """Published training; 299 is Xception's own input side (FaceForensics++), DeepfakeBench crops at 256."""

    def released_transform(self) -> v2.Transform:
        """DeepfakeBench's: mirror (p .5), blur (.5), one change of colour (.5), JPEG of quality 40 to 100 (.5).

        Its configuration also names a rotation by up to 10°, with probability 0.
        """
        blurs = v2.RandomChoice([released.blur(size) for size in (3, 5, 7)])
        steps = (v2.RandomHorizontalFlip(1), blurs, released.one_colour(0.1), v2.JPEG((40, 100)))
        return released.in_turn(*((0.5, step) for step in steps))


class Network(papers.Network):
    """Images (B, 3, H, W), normalised, to ``{"cls": (B, 2) logits}``; any timm model works as ``settings.backbone``."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.backbone = backbones.create(settings.backbone, settings.pretrained, num_classes=2)
        self.weights_from = self.backbone.weights_from

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits, real first."""
        return {"cls": self.backbone(images)}

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """The cross-entropy ``cls``, which is all of ``total``."""
        cls = papers.cross_entropy(outputs["cls"], batch["label"], batch)
        return {"cls": cls, "total": cls}
