"""Exposing the Deception: several local representations, each of which must add information.

Ba, Liu, Liu, Wu, Lin, Lu, Ren: "Exposing the Deception: Uncovering More Forgery Clues for Deepfake
Detection", AAAI 2024, arXiv 2403.01786. Written from the arithmetic of the released code
(QingyuLiu/Exposing-the-Deception, commit c361f1c) and equal to it: tests/test_golden.py compares
outputs, both estimators, both weightings, gradients and training steps.

Below, f_1 to f_n are the local representations (B, C), one per branch, and z (B, D) is the global
one, fused from all of them. P, the teacher, is the softmax at temperature T of the head that sees
f_1 to f_n together. No gradient passes through P.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import MLP
from torchvision.transforms import v2

from dfnb.papers import backbones, contract, released
from dfnb.papers.contract import Batch, cross_entropy

PAPER = contract.Paper(
    title="Exposing the Deception",
    notebook="05_exposing_the_deception",
    published="Exposing the Deception",
)
Outputs = dict[str, Tensor]  # of the network, by name


class Settings(contract.Settings):
    """Published training (released code, parameters.py and training.py) and sizes of the network.

    The README asks for 20 epochs, parameters.py for 10; its batch of 256 is that of one process.

    Attributes:
        branches: n, the number of local representations (Local Information Blocks).
        fusion_widths: Widths of the three layers that fuse them to z.
        information_losses: ``lil``, ``gil``, both or none, for ablations.
        estimator: How two predictions are compared: ``kl``, or ``sinkhorn``, an optimal transport
            over the batch.
        temperature: T.
        weighting: ``auto`` learns the weights of the terms, ``fixed`` multiplies [CE, GIL, LIL] by
            ``weights``.
        kl_reduction: released: the mean over batch *and* classes, half of the divergence.
            corrected: the mean over the batch.
        kl_direction: released: KL(student ‖ P). corrected: KL(P ‖ student), as the mutual
            information requires.
        sinkhorn_points: released: moves log P onto the student's probabilities. corrected: P onto
            them.
        teacher_loss: released: the head behind P has its cross-entropy only with GIL, so that LIL
            alone compares with an untrained head. corrected: always.
        optimiser_restarts: released: optimiser and schedule start again in each epoch. corrected:
            they run through.
        channel_order: released: blue first, although ImageNet's weights expect red first.
            corrected: red first.
    """

    backbone: str = "resnet34.tv_in1k"
    image_size: contract.ImageSize = 224
    mean: contract.Colour = (0.485, 0.456, 0.406)
    std: contract.Colour = (0.229, 0.224, 0.225)
    epochs: contract.Epochs = 20
    batch_size: contract.BatchSize = 256
    lr: contract.LearningRate = 1e-3
    weight_decay: contract.WeightDecay = 1e-6
    schedule: contract.Schedule = "cosine"
    cosine_steps: contract.Count | None = 150
    optimiser_restarts: contract.Variant = "released"
    mixup_probability: contract.Probability = 1.0
    mixup_alpha: contract.MixupAlpha = 0.5
    oversampling: contract.Count | None = 4
    augmentation: contract.Augmentation = "released"

    branches: int = Field(4, ge=1)
    fusion_widths: tuple[int, int, int] = (1000, 500, 512)
    dropout: float = Field(0.5, ge=0, lt=1)
    information_losses: tuple[Literal["lil", "gil"], ...] = ("lil", "gil")
    estimator: Literal["kl", "sinkhorn"] = "kl"
    temperature: float = Field(1.5, gt=0)
    weighting: Literal["auto", "fixed"] = "auto"
    weights: tuple[float, float, float] = (1.0, 2.0, 10.0)
    kl_reduction: contract.Variant = "released"
    kl_direction: contract.Variant = "released"
    sinkhorn_points: contract.Variant = "released"
    teacher_loss: contract.Variant = "corrected"
    channel_order: contract.Variant = "released"

    @model_validator(mode="after")
    def _check_information_losses(self) -> Self:
        if len(set(self.information_losses)) < len(self.information_losses):
            raise ValueError("information_losses names a term twice; name lil and gil once at most")
        if "lil" in self.information_losses and self.branches < 2:
            raise ValueError(
                "LIL leaves one branch out and needs at least two; raise branches or drop lil"
            )
        return self

    def released_transform(self) -> v2.Transform:
        """The augmentation of the released code, each step with its probability.

        The affine map turns by up to 10°, shifts by up to 10 % and scales by up to 20 %.
        """
        return released.in_turn(
            (0.5, released.jpeg(60)),
            (0.1, released.recolour(released.noise)),
            (0.05, released.blur(3)),
            (0.5, v2.RandomHorizontalFlip(1)),
            (0.7, released.one_colour()),
            (0.2, released.recolour(grey_of_blue_first)),
            (0.5, released.affine(degrees=10, shift=0.1)),
        )


def grey_of_blue_first(pixels: Tensor) -> Tensor:
    """Grey pixels (3, H, W), as of an image whose channels were taken for blue, green and red.

    The released code reads blue first and takes grey as if red came first, which exchanges the
    weights of the two (ITU-R 601).
    """
    weights = torch.tensor([0.114, 0.587, 0.299])[:, None, None]
    grey = (weights * pixels).sum(0, keepdim=True)
    return grey.expand(3, -1, -1)


def fusion(inputs: int, widths: tuple[int, int, int], dropout: float) -> nn.Sequential:
    """The layers from f_1 to f_n, concatenated (B, n·C), to z (B, D): three, the first two normed.

    torchvision's MLP ends with a dropout, which is left out: the output head has its own.
    """
    layers = list(MLP(inputs, widths, nn.BatchNorm1d, dropout=dropout))
    return nn.Sequential(*layers[:-1])


class Network(contract.Network):
    """The network: normalised images (B, 3, H, W), red first, to logits, real first.

    - ``cls`` (B, 2): from z, the output of the detector;
    - ``joint`` (B, 2): from f_1 to f_n;
    - ``left_out`` (n, B, 2): the i-th from all but f_i; absent without LIL;
    - ``local`` (n, B, C): f_1 to f_n;
    - ``balance``: s_k² of the learned weights of the losses, see :meth:`weighted_sum`.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        n = settings.branches
        kinds = settings.information_losses
        self.branches = nn.ModuleList()
        for _ in range(n):
            branch = backbones.create(settings.backbone, settings.pretrained, num_classes=0)
            self.branches.append(branch)
        self.weights_from = self.branches[0].weights_from
        width = self.branches[0].num_features
        self.joint_head = None
        if kinds or settings.teacher_loss == "corrected":
            self.joint_head = nn.Linear(n * width, 2)
        self.left_out_heads = nn.ModuleList()
        if "lil" in kinds:
            for _ in range(n):
                head = nn.Linear((n - 1) * width, 2)
                self.left_out_heads.append(head)
        self.fusion = fusion(n * width, settings.fusion_widths, settings.dropout)
        z_width = settings.fusion_widths[2]
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(z_width, 2))
        self.balance = None
        if settings.weighting == "auto":
            self.balance = nn.Parameter(torch.ones(1 + len(kinds)))
        # The released code normalises its first channel, blue, by the mean and deviation of red.
        mean = torch.tensor(settings.mean).view(3, 1, 1)
        std = torch.tensor(settings.std).view(3, 1, 1)
        self.register_buffer("swapped_scale", std.flip(0) / std, persistent=False)
        self.register_buffer("swapped_shift", (mean.flip(0) - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """Logits of all heads, and the local representations."""
        if self.settings.channel_order == "released":
            images = images.flip(1) * self.swapped_scale + self.swapped_shift
        local = [branch(images) for branch in self.branches]
        together = torch.cat(local, 1)
        z = self.fusion(together)
        outputs = {
            "cls": self.cls_head(z),
            "local": torch.stack(local),
        }
        if self.joint_head:
            outputs["joint"] = self.joint_head(together)
        if self.left_out_heads:
            left_out = []
            for i, head in enumerate(self.left_out_heads):
                others = local[:i] + local[i + 1 :]
                left_out.append(head(torch.cat(others, 1)))
            outputs["left_out"] = torch.stack(left_out)
        if self.balance is not None:
            # An output, because DDP finds the parameters in use through the forward pass.
            outputs["balance"] = self.balance.square()
        return outputs

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms of the paper, those of ``information_losses`` included, and ``total``.

        - ``ce``: the sum of all heads' cross-entropies;
        - ``gil``: D(output, P);
        - ``lil``: exp(-Σ_i D(i-th left-out head, P)), which falls as each branch adds more to what
          the others know together;
        - ``cls``: the output's own cross-entropy, which is part of ``ce`` and here only logged.
        """
        kinds = self.settings.information_losses
        label = batch["label"]
        left_out = outputs.get("left_out", ())
        heads = list(left_out)
        if self.settings.teacher_loss == "corrected" or "gil" in kinds:
            heads.append(outputs["joint"])
        cls = cross_entropy(outputs["cls"], label, batch)
        other_heads = sum(cross_entropy(logits, label, batch) for logits in heads)
        terms = {"ce": cls + other_heads}
        if kinds:
            teacher = self.probabilities(outputs["joint"]).detach()  # P
        if "gil" in kinds:
            student = self.probabilities(outputs["cls"])
            terms["gil"] = self.distance(student, teacher)
        if "lil" in kinds:
            distances = 0
            for logits in left_out:
                student = self.probabilities(logits)
                distances = distances + self.distance(student, teacher)
            terms["lil"] = torch.exp(-distances)
        total = self.weighted_sum(terms, outputs.get("balance"))
        return {**terms, "cls": cls.detach(), "total": total}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax at temperature T.

        It is clamped, so that the logarithm of certainty, and its gradient, are finite.
        """
        probabilities = (logits / self.settings.temperature).softmax(1)
        return probabilities.clamp_min(1e-38)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """D(student, teacher): how far probabilities (B, 2) are from those of the teacher."""
        settings = self.settings
        if settings.estimator == "sinkhorn":
            points = teacher.log() if settings.sinkhorn_points == "released" else teacher
            return sinkhorn(points, student)
        # F.kl_div(log q, p) is KL(p ‖ q).
        if settings.kl_direction == "released":
            divergence = F.kl_div(teacher.log(), student, reduction="batchmean")
        else:
            divergence = F.kl_div(student.log(), teacher, reduction="batchmean")
        return divergence / 2 if settings.kl_reduction == "released" else divergence

    def weighted_sum(self, terms: dict[str, Tensor], s_squared: Tensor | None) -> Tensor:
        """Σ_k L_k / (2 s_k²) + log(1 + s_k²) with learned s_k, or fixed weights without s.

        ``s_squared`` (K,) is in the order of the terms. Learned weights: Liebel and Körner, arXiv
        1805.06334.
        """
        if s_squared is not None:
            losses = torch.stack(list(terms.values()))
            weighted = losses / (2 * s_squared) + torch.log1p(s_squared)
            return weighted.sum()
        weights = dict(zip(("ce", "gil", "lil"), self.settings.weights))
        return sum(weights[name] * term for name, term in terms.items())

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """Grad-CAM of each branch, and their union."""
        branches = {f"branch {i + 1}": f"branches.{i}" for i in range(len(self.branches))}
        return {**branches, "union": tuple(branches)}

    def compare(
        self, part_maps: Sequence[np.ndarray], images: Tensor
    ) -> dict[str, np.ndarray | float]:
        """How much the branches differ, by their maps (B, h, w) and by their features.

        ``apart`` (B,) is one minus the mean :func:`overlap` of the pairs of maps, and ``CKA`` the
        mean :func:`branch_likeness` of the pairs of branches, one number for all images.
        """
        overlaps = [overlap(a, b) for a, b in combinations(part_maps, 2)]
        likeness = branch_likeness(self, images).to_numpy()
        pairs = np.triu_indices(len(likeness), 1)
        return {"apart": 1 - pd.DataFrame(overlaps).mean(), "CKA": likeness[pairs].mean()}


def sinkhorn(
    x: Tensor,
    y: Tensor,
    epsilon: float = 0.01,
    iterations: int = 100,
    enough: float = 0.1,
) -> Tensor:
    """Optimal transport with entropic regularisation between points x (B, d) and y (B, d).

    The points weigh equally and the cost is |x_i - y_j|². Sinkhorn's iterations on the dual
    potentials u and v (Cuturi, NeurIPS 2013) run until u changes by less than ``enough`` in sum.

    The 1e-6 is that of the released code. It keeps the logarithm of an empty sum finite, and lets
    the potentials climb in small steps, so that early batches end short of the optimum.
    """
    difference = x[:, None] - y[None]
    cost = difference.square().sum(-1)
    log_share = torch.full_like(cost[0], 1 / len(x)).log()
    u = torch.zeros_like(log_share)
    v = torch.zeros_like(log_share)
    for _ in range(iterations):
        previous_u = u
        log_row_sums = (plan(cost, u, v, epsilon).sum(1) + 1e-6).log()
        u = epsilon * (log_share - log_row_sums) + u
        log_column_sums = (plan(cost, u, v, epsilon).sum(0) + 1e-6).log()
        v = epsilon * (log_share - log_column_sums) + v
        if (u - previous_u).abs().sum() < enough:
            break
    transport = plan(cost, u, v, epsilon)
    return (transport * cost).sum()


def plan(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    epsilon: float,
) -> Tensor:
    """The transport plan π_ij = exp((u_i + v_j - cost_ij) / ε) of potentials u and v."""
    gain = -cost + u[:, None] + v[None]
    return (gain / epsilon).exp()


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ min / Σ max over the pixels of maps (n, h, w) and (n, h, w): (n,) in [0, 1].

    NaN where one of the two is empty.
    """
    shared = np.minimum(a, b).sum((1, 2))
    whole = np.maximum(a, b).sum((1, 2))
    both = a.any((1, 2)) & b.any((1, 2))
    return np.where(both, shared / np.maximum(whole, 1e-12), np.nan)


def branch_likeness(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """Linear CKA in [0, 1] of the features of a network's branches, branches by branches.

    1 for features that are the same up to rotation and scale (Kornblith et al., ICML 2019, sec. 3).
    The features are the output ``local`` (branches, n, D) of images (n, 3, H, W).
    """
    features = []
    with torch.no_grad():
        for part in images.split(32):  # bounds the memory of the activations
            features.append(network(part)["local"].double())
    local = torch.cat(features, 1)
    local -= local.mean(1, keepdim=True)
    # CKA(X, Y) = ⟨XXᵀ, YYᵀ⟩ / (|XXᵀ| |YYᵀ|)
    gram = F.normalize((local @ local.mT).flatten(1))
    likeness = gram @ gram.T
    names = [f"branch {i + 1}" for i in range(len(local))]
    return pd.DataFrame(likeness.cpu().numpy(), names, names)
