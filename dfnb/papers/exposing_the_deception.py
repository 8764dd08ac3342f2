"""Exposing the Deception: several local representations, each forced to know what the others do not.

Ba, Liu, Liu, Wu, Lin, Lu, Ren: "Exposing the Deception: Uncovering More Forgery Clues for Deepfake Detection", AAAI 2024,
arXiv 2403.01786. Written from the arithmetic of the released code (QingyuLiu/Exposing-the-Deception, commit c361f1c) and
equal to it: tests/test_golden.py compares outputs, both estimators, both weightings and gradients.

Below, f_1 to f_n are the local representations (B, C), one a branch; z (B, D) is the global one, fused from all of them;
P is the teacher: the softmax, at temperature T, of the head that sees f_1 to f_n together. No gradient passes through P.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import MLP
from torchvision.transforms import v2

from dfnb import papers
from dfnb.papers import backbones, released

PAPER = papers.Paper("Exposing the Deception", "05_exposing_the_deception", "Exposing the Deception", "#de8f05", "^")
VERSION = 1
KEPT = 643  # bytes per pixel that a ResNet-34 keeps for its backward pass, in float32


@papers.published(backbone="resnet34.tv_in1k", image_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
@papers.published(lr=1e-3, schedule="cosine", cosine_steps=150, mixup_probability=1.0, mixup_alpha=0.5, oversampling=4)
@papers.published(epochs=20, batch_size=256, weight_decay=1e-6, augmentation="released", optimiser_restarts="released")
class Settings(papers.Settings):
    """Published training (released code, parameters.py and training.py) and the sizes of the network.

    The README asks for 20 epochs, parameters.py for 10; its batch of 256 is of one process.

    Attributes:
        branches: n, the number of local representations (Local Information Blocks).
        fusion_widths: widths of the three layers that fuse them to z.
        information_losses: ``lil``, ``gil``, both or none, for ablations.
        estimator: how two predictions are compared: ``kl``, or ``sinkhorn``, an optimal transport over the batch.
        temperature: T.
        weighting: ``auto`` learns the weights of the terms, ``fixed`` multiplies [CE, GIL, LIL] by ``weights``.
        kl_reduction: released: the mean over batch *and* classes, half of the divergence; corrected: over the batch.
        kl_direction: released: KL(student ‖ P); corrected: KL(P ‖ student), which the mutual information asks for.
        sinkhorn_points: released: moves log P onto the student's probabilities; corrected: P onto them.
        teacher_loss: released: the head behind P has its cross-entropy only where GIL is on, so that LIL alone compares
            with an untrained head; corrected: always.
        optimiser_restarts: released: optimiser and schedule begin anew each epoch; corrected: they run through.
        channel_order: released: blue first, although ImageNet's weights expect red first; corrected: red first.
    """

    branches: int = Field(4, ge=1)
    fusion_widths: tuple[int, int, int] = (1000, 500, 512)
    dropout: float = Field(0.5, ge=0, lt=1)
    information_losses: tuple[Literal["lil", "gil"], ...] = ("lil", "gil")
    estimator: Literal["kl", "sinkhorn"] = "kl"
    temperature: float = Field(1.5, gt=0)
    weighting: Literal["auto", "fixed"] = "auto"
    weights: tuple[float, float, float] = (1.0, 2.0, 10.0)
    kl_reduction: Literal["released", "corrected"] = "released"
    kl_direction: Literal["released", "corrected"] = "released"
    sinkhorn_points: Literal["released", "corrected"] = "released"
    teacher_loss: Literal["released", "corrected"] = "corrected"
    channel_order: Literal["released", "corrected"] = "released"

    @model_validator(mode="after")
    def _enough_branches(self) -> "Settings":
        if len(set(self.information_losses)) < len(self.information_losses):
            raise ValueError("information_losses names a term twice; name lil and gil once at most")
        if "lil" in self.information_losses and self.branches < 2:
            raise ValueError("LIL leaves one branch out and needs at least two; raise branches or drop lil")
        return self

    def released_transform(self) -> v2.Transform:
        """JPEG of quality 60 to 100 (p .5), noise (.1), blur (.05), mirror (.5), one change of colour (.7), grey (.2).

        At the end shift by up to 10 %, scale by up to 20 % and turn by up to 10° (.5), filled with black.
        """
        quality = (0.5, v2.JPEG((60, 100))), (0.1, released.recolour(released.noise)), (0.05, released.blur(3))
        colour = (0.7, released.one_colour()), (0.2, v2.Grayscale(3))
        shift = released.affine(degrees=10, shift=0.1)
        return released.in_turn(*quality, (0.5, v2.RandomHorizontalFlip(1)), *colour, (0.5, shift))


def fusion(inputs: int, widths: tuple[int, int, int], dropout: float) -> nn.Sequential:
    """The local representations, concatenated (B, n·C), to the global one z (B, D): three layers, two of them normed."""
    *layers, _ = MLP(inputs, widths, nn.BatchNorm1d, dropout=dropout)  # the dropout at its end is that of the head
    return nn.Sequential(*layers)


class Network(papers.Network):
    """Images (B, 3, H, W), normalised, red first, to logits (real first) and local representations.

    ``cls`` (B, 2) from z, the output; ``joint`` (B, 2) from f_1 to f_n; ``left_out`` (n, B, 2), the i-th from all
    but f_i (absent for n = 1); ``local`` (n, B, C).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        n, kinds = settings.branches, settings.information_losses
        branches = [backbones.create(settings.backbone, settings.pretrained, num_classes=0) for _ in range(n)]
        self.branches = nn.ModuleList(branches)
        self.weights_from = self.branches[0].weights_from
        width = self.branches[0].num_features
        self.joint_head = nn.Linear(n * width, 2) if kinds or settings.teacher_loss == "corrected" else None
        self.left_out_heads = nn.ModuleList(nn.Linear((n - 1) * width, 2) for _ in range(n) if "lil" in kinds)
        self.fusion = fusion(n * width, settings.fusion_widths, settings.dropout)
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.fusion_widths[2], 2))
        self.balance = nn.Parameter(torch.ones(1 + len(kinds))) if settings.weighting == "auto" else None
        # The released code takes the mean and deviation of red for its first channel, which is blue.
        mean, std = torch.tensor(settings.mean).view(3, 1, 1), torch.tensor(settings.std).view(3, 1, 1)
        self.register_buffer("swapped_scale", std.flip(0) / std, persistent=False)
        self.register_buffer("swapped_shift", (mean.flip(0) - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of all heads, and the local representations."""
        if self.settings.channel_order == "released":
            images = images.flip(1) * self.swapped_scale + self.swapped_shift
        run = backbones.recomputed if self._short_of_memory(images) else nn.Module.__call__
        local = [run(branch, images) for branch in self.branches]
        together = torch.cat(local, 1)
        outputs = {"cls": self.cls_head(self.fusion(together)), "local": torch.stack(local)}
        if self.joint_head:
            outputs["joint"] = self.joint_head(together)
        if self.left_out_heads:
            heads = enumerate(self.left_out_heads)
            outputs["left_out"] = torch.stack([head(torch.cat(local[:i] + local[i + 1 :], 1)) for i, head in heads])
        if self.balance is not None:
            outputs["balance"] = self.balance.square()  # through the forward pass, where several processes look for it
        return outputs

    def _short_of_memory(self, images: Tensor) -> bool:
        """Whether what the branches keep for their backward pass fills more than half of a GPU: 30 GiB at the published size."""
        kept = KEPT * len(self.branches) * images.shape.numel() / 3
        needed = self.training and images.is_cuda
        return needed and kept > torch.cuda.get_device_properties(images.device).total_memory / 2

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """``ce``, the sum of all heads' cross-entropies; ``gil`` and ``lil`` where asked for; ``total``.

        Beside them ``cls``, the output's own cross-entropy, which is in ``ce`` already and is only logged.

        ``gil`` compares the output with P; ``lil`` is exp(-Σ_i) of the comparisons of the i-th left-out head with P: it
        falls as each branch adds more to what the others know together.
        """
        kinds = self.settings.information_losses
        cls = papers.cross_entropy(outputs["cls"], batch["label"], batch)
        heads = outputs.get("left_out", ())
        if self.settings.teacher_loss == "corrected" or "gil" in kinds:
            heads = [*heads, outputs["joint"]]
        terms = {"ce": cls + sum(papers.cross_entropy(head, batch["label"], batch) for head in heads)}
        teacher = self._soft(outputs["joint"]).detach() if kinds else None
        if "gil" in kinds:
            terms["gil"] = self._distance(self._soft(outputs["cls"]), teacher)
        if "lil" in kinds:
            terms["lil"] = torch.exp(-sum(self._distance(self._soft(head), teacher) for head in outputs["left_out"]))
        return {**terms, "cls": cls.detach(), "total": self._weighted(terms, outputs.get("balance"))}

    def _soft(self, logits: Tensor) -> Tensor:
        # clamped, so that of certainty, too, the logarithm and its gradient are finite
        return (logits / self.settings.temperature).softmax(1).clamp_min(1e-38)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far a student's probabilities (B, 2) are from the teacher's."""
        settings = self.settings
        if settings.estimator == "sinkhorn":
            return sinkhorn(teacher.log() if settings.sinkhorn_points == "released" else teacher, student)
        first, second = (student, teacher) if settings.kl_direction == "released" else (teacher, student)
        divergence = F.kl_div(second.log(), first, reduction="batchmean")
        return divergence / 2 if settings.kl_reduction == "released" else divergence

    def _weighted(self, terms: dict[str, Tensor], square: Tensor | None) -> Tensor:
        """Σ_k L_k / (2 s_k²) + log(1 + s_k²) with learned s (Liebel and Körner, arXiv 1805.06334), or fixed weights."""
        if square is not None:
            return (torch.stack(list(terms.values())) / (2 * square) + torch.log1p(square)).sum()
        weights = zip(("ce", "gil", "lil"), self.settings.weights)
        return sum(weight * terms[name] for name, weight in weights if name in terms)

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """Grad-CAM of each branch, and their union."""
        branches = {f"branch {i + 1}": f"branches.{i}" for i in range(len(self.branches))}
        return {**branches, "union": tuple(branches)}


def sinkhorn(x: Tensor, y: Tensor, epsilon: float = 0.01, iterations: int = 100, enough: float = 0.1) -> Tensor:
    """Optimal transport between the points x (B, d) and y (B, d), equally weighted, with entropic regularisation.

    Cost |x_i - y_j|²; Sinkhorn's iterations on the dual potentials (Cuturi, NeurIPS 2013) until the first changes by
    less than ``enough`` in sum. With the 1e-6 of the released code, which keeps the logarithm of an empty sum finite
    and lets the potentials climb in small steps, so that early batches end short of the optimum.
    """
    cost = (x[:, None] - y[None]).square().sum(-1)
    share = torch.full_like(cost[0], 1 / len(x)).log()
    u, v = torch.zeros_like(share), torch.zeros_like(share)

    def plan() -> Tensor:
        return ((-cost + u[:, None] + v[None]) / epsilon).exp()

    for _ in range(iterations):
        before = u
        u = epsilon * (share - (plan().sum(1) + 1e-6).log()) + u
        v = epsilon * (share - (plan().sum(0) + 1e-6).log()) + v
        if (u - before).abs().sum() < enough:
            break
    return (plan() * cost).sum()
