"""The baseline of the field: a classifier from timm with two logits, Xception by default.

Rössler et al., FaceForensics++, ICCV 2019, arXiv 1901.08971. The training settings are those of DeepfakeBench's
Xception (released code, commit 8a4a7bf), which publishes cross-dataset figures for it.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from dfnb import papers
from dfnb.papers import backbones

VERSION = 1


class Settings(papers.Settings):
    """Published training; 299 is Xception's own input side (FaceForensics++), DeepfakeBench crops at 256."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=2)
    lr: float = Field(2e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["constant", "step", "onecycle", "cosine"] = "constant"


class Network(nn.Module):
    """Images (B, 3, H, W), normalised, to ``{"cls": (B, 2) logits}``; any timm model works as ``settings.backbone``."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.backbone = backbones.create(settings.backbone, settings.pretrained, num_classes=2)
        self.pretrained_loaded = self.backbone.pretrained_loaded

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits, real first."""
        return {"cls": self.backbone(images)}

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """The cross-entropy ``cls``, which is all of ``total``."""
        cls = papers.cross_entropy(outputs["cls"], batch["label"], batch)
        return {"cls": cls, "total": cls}

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """P(fake), (B,)."""
        return outputs["cls"].float().softmax(1)[:, 1]
