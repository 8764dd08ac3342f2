"""Exposing the Deception: several local representations, each of which must add information.

Ba, Liu, Liu, Wu, Lin, Lu, Ren: "Exposing the Deception: Uncovering More Forgery Clues for Deepfake
Detection", AAAI 2024, arXiv 2403.01786. Written from the arithmetic of the released code
(QingyuLiu/Exposing-the-Deception, commit c361f1c) and equal to it but for its data path:
tests/test_golden.py compares outputs, both estimators, both weightings, gradients and training
steps. docs/methods.md lists what differs.

The names are those of the paper's framework figure. *Local disentanglement*: n Local Information
Blocks, the branches, each make a local representation z_i (B, C) of the whole image. *Global
aggregation*: Z = (z_1, ..., z_n), their concatenation, is fused to the global representation G
(B, D). The released code calls them f_i, f and z. The detector's output is a head on G. Other heads
serve the training alone: the joint head sees Z, and each left-out head Z without one z_i. The
teacher P is the softmax, at temperature T, of the joint head. No gradient passes through P.

Two losses compare other heads with P. GIL (global information loss) is small if G keeps what Z
knows of the label: the figure's min I(Z; y) - I(G; y). LIL (local information loss) is small if the
branches without z_i know less of it than all together, that is, if each branch adds information:
the figure's max Σ_i I(z_i; y | Z without z_i).
"""

import operator
from collections.abc import Sequence
from functools import partial
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

from dfnb.device import to_numpy
from dfnb.papers import backbones, contract, released
from dfnb.papers.contract import Batch, cross_entropy

PAPER = contract.Paper(
    title="Exposing the Deception",
    notebook="05_exposing_the_deception",
    published="Exposing the Deception",
    version=1,
    small={"branches": 3, "fusion_widths": (16, 16, 12)},
)
Outputs = dict[str, Tensor]  # of the network, by name


class Settings(contract.Settings):
    """Published training (released code, parameters.py and training.py) and sizes of the network.

    The README of the released code sets 20 epochs, parameters.py 10. The batch of 256 is per
    process there, and four GPUs share it: each normalises its 64 images by themselves. Here
    BatchNorm sees the whole batch; with ``accumulate = 4`` it sees 64 images, too, but mixup and
    L_LIL also see 64 alone.

    Attributes:
        branches: n, the number of local representations (Local Information Blocks).
        fusion_widths: Widths of the three layers that fuse them to G.
        dropout: After the first two of these layers, and before the layer that classifies G.
        information_losses: ``lil``, ``gil``, both or none, for ablations.
        cross_entropy: released: the sum over all heads. figure: that of the output alone, as the
            authors' framework figure has it; then the joint head stays as it was initialised, and
            LIL alone trains the left-out heads.
        estimator: D, how two predictions are compared: ``kl``, or ``sinkhorn``, an optimal
            transport over the batch.
        temperature: T, of the softmax of all predictions that D compares.
        weighting: ``auto`` learns the weights of the terms, ``fixed`` multiplies [CE, GIL, LIL] by
            ``weights``. That is the order in the released code; its README names LIL first, by
            which the same weights would be [1, 10, 2] here.
        kl_reduction: released: the mean over the batch *and* the two classes, which is half of the
            divergence. corrected: the mean over the batch.
        kl_direction: released: KL(student ‖ P). corrected: KL(P ‖ student), as the mutual
            information requires.
        sinkhorn_points: released: transports log P to the student's probabilities. corrected:
            transports P to them.
        teacher_loss: released: the joint head has a cross-entropy only with GIL, so LIL alone
            compares with an untrained head. corrected: the joint head always has one.
        optimiser_restarts: released: optimiser and schedule start again in each epoch. corrected:
            they run through.
        channel_order: released: blue first, although ImageNet's weights expect red first.
            corrected: red first.
    """

    # The released code resizes as OpenCV does by default.
    antialias: bool = Field(False, exclude_if=operator.not_)

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
    cross_entropy: Literal["released", "figure"] = "released"
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

        JPEG has a quality of 60 to 100, the blur 3×3 pixels. ``one_colour`` is one of several
        changes of colour. Grey weighs red and blue as if they were exchanged. The affine map turns
        by up to 10°, shifts by up to 10 % and scales by up to 20 %. ``of_pixels`` changes pixels
        alone, no masks.
        """
        return released.in_turn(
            (0.5, released.jpeg(60)),
            (0.1, released.of_pixels(released.noise)),
            (0.05, released.blur(3)),
            (0.5, v2.RandomHorizontalFlip(1)),  # 1: whenever the step is taken
            (0.7, released.one_colour()),
            (0.2, released.of_pixels(grey_of_blue_first)),
            (0.5, released.affine(degrees=10, shift=0.1)),
        )


def grey_of_blue_first(pixels: Tensor) -> Tensor:
    """Make pixels (3, H, W), red first, grey, with the weights of red and blue exchanged.

    The released code reads images blue first, but computes grey as if they were red first, with
    the weights .299, .587, .114 of red, green and blue (ITU-R 601).
    """
    weights = torch.tensor([0.114, 0.587, 0.299])[:, None, None]  # of our red, green and blue
    grey = (weights * pixels).sum(0, keepdim=True)
    return grey.expand(3, -1, -1)


def fusion(inputs: int, widths: tuple[int, int, int], dropout: float) -> nn.Sequential:
    """Global aggregation: three layers from Z (B, n·C) to G (B, D).

    The first two have BatchNorm, ReLU and dropout. torchvision's MLP ends with another dropout,
    which is left out: the output head has its own.
    """
    layers = list(MLP(inputs, widths, nn.BatchNorm1d, dropout=dropout))
    return nn.Sequential(*layers[:-1])


class Network(contract.Network):
    """The network: normalised images (B, 3, H, W), red first, to logits, real first.

    - ``cls`` (B, 2): from G, the output of the detector;
    - ``joint`` (B, 2): from Z; absent if there is no information loss and ``teacher_loss`` is
      ``released``;
    - ``left_out`` (n, B, 2): the i-th logits from Z without z_i; absent without LIL;
    - ``local`` (n, B, C): z_1 to z_n;
    - ``balance`` (K,): s_k² of the K terms of the loss, see :meth:`weighted_sum`; absent if
      ``weighting`` is fixed.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        n = settings.branches
        information_losses = settings.information_losses
        self.branches = nn.ModuleList()
        # Pretrained branches start equal; they part because the heads' random weights differ.
        for _ in range(n):
            # num_classes=0: without a classifier, the pooled features (B, C)
            branch = backbones.create(
                settings.backbone, settings.pretrained, settings.image_size, num_classes=0
            )
            self.branches.append(branch)
        self.weights_from = self.branches[0].weights_from
        # C; not num_features, because some of timm's networks widen the pooled features once more.
        width = self.branches[0].head_hidden_size
        self.joint_head = None
        if information_losses or settings.teacher_loss == "corrected":
            self.joint_head = nn.Linear(n * width, 2)
        self.left_out_heads = nn.ModuleList()
        if "lil" in information_losses:
            for _ in range(n):
                head = nn.Linear((n - 1) * width, 2)
                self.left_out_heads.append(head)
        self.fusion = fusion(n * width, settings.fusion_widths, settings.dropout)
        width_of_g = settings.fusion_widths[2]  # D
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(width_of_g, 2))
        self.balance = None
        if settings.weighting == "auto":
            # s_k, of CE and of each information loss
            self.balance = nn.Parameter(torch.ones(1 + len(information_losses)))
        # Images come red first and normalised: x = (pixel - mean) / std. The released code is blue
        # first, but normalises blue by the mean and deviation of red, and red by those of blue:
        # (pixel' - mean) / std = x' · std' / std + (mean' - mean) / std,
        # where ' reverses the order of the channels. Scale and shift follow from the settings, so
        # no checkpoint contains them.
        mean = torch.tensor(settings.mean).view(3, 1, 1)
        std = torch.tensor(settings.std).view(3, 1, 1)
        self.register_buffer("swapped_scale", std.flip(0) / std, persistent=False)
        self.register_buffer("swapped_shift", (mean.flip(0) - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """The outputs that the class lists, by name."""
        if self.settings.channel_order == "released":
            # To blue first; from our normalisation to the released one, derived in __init__.
            images = images.flip(1) * self.swapped_scale + self.swapped_shift
        local = [branch(images) for branch in self.branches]  # z_i (B, C)
        together = torch.cat(local, 1)  # Z (B, n·C)
        aggregated = self.fusion(together)  # G (B, D)
        outputs = {
            "cls": self.cls_head(aggregated),
            "local": torch.stack(local),
        }
        if self.joint_head:
            outputs["joint"] = self.joint_head(together)
        if self.left_out_heads:
            left_out = []
            for i, head in enumerate(self.left_out_heads):
                others = local[:i] + local[i + 1 :]  # Z without z_i
                left_out.append(head(torch.cat(others, 1)))
            outputs["left_out"] = torch.stack(left_out)
        if self.balance is not None:
            outputs["balance"] = self.balance.square()
        return outputs

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The terms of the paper, and ``total``, their weighted sum.

        - ``ce``: the sum of the heads' cross-entropies, or that of the detector's output alone if
          the setting ``cross_entropy`` is ``figure``. The joint head does not count where
          ``teacher_loss`` is ``released`` and there is no L_GIL;
        - ``gil``: L_GIL = D(σ_T(detector's output), P), if among the ``information_losses``;
        - ``lil``: L_LIL = exp(-Σ_i D(σ_T(i-th left-out head), P)), if among them; it falls as each
          branch adds more to what the others know together;
        - ``cls``: the cross-entropy of the detector's output, which is part of ``ce`` and here
          only logged.

        σ_T is the softmax at temperature T, and P = σ_T(joint head).
        """
        settings = self.settings
        information_losses = settings.information_losses
        label = batch["label"]
        left_out = outputs.get("left_out", ())  # (n, B, 2), or nothing without LIL
        other_logits = list(left_out)  # (B, 2) of each head that has a cross-entropy beside cls
        if settings.teacher_loss == "corrected" or "gil" in information_losses:
            other_logits.append(outputs["joint"])
        if settings.cross_entropy == "figure":
            other_logits = []
        # L_CE = CE(output from G) + Σ_i CE(i-th left-out head) + CE(joint head), the last two only
        # if in other_logits
        cls = cross_entropy(outputs["cls"], label, batch)
        others = sum(cross_entropy(logits, label, batch) for logits in other_logits)  # or 0
        terms = {"ce": cls + others}
        distance_to_teacher = partial(  # D
            distance,
            estimator=settings.estimator,
            kl_reduction=settings.kl_reduction,
            kl_direction=settings.kl_direction,
            sinkhorn_points=settings.sinkhorn_points,
        )
        if information_losses:
            teacher = probabilities(outputs["joint"], settings.temperature).detach()  # P
        if "gil" in information_losses:
            student = probabilities(outputs["cls"], settings.temperature)
            terms["gil"] = distance_to_teacher(student, teacher)  # L_GIL
        if "lil" in information_losses:
            distances = 0
            for logits in left_out:
                student = probabilities(logits, settings.temperature)
                distances = distances + distance_to_teacher(student, teacher)
            terms["lil"] = torch.exp(-distances)  # L_LIL = exp(-Σ_i D(Q_i, P)), Q_i the students
        total = self.weighted_sum(terms, outputs.get("balance"))
        return {**terms, "cls": cls.detach(), "total": total}

    def weighted_sum(self, terms: dict[str, Tensor], s_squared: Tensor | None) -> Tensor:
        """Σ_k [L_k / (2 s_k²) + log(1 + s_k²)] of the scalar terms L_k, with learned s_k.

        Learned weights: Liebel and Körner, arXiv 1805.06334. The README of the released code says
        that they realise α and β of the paper's Eq. (13). ``s_squared`` (K,) has the s_k² in the
        order of the terms: ``ce``, ``gil``, ``lil``. If it is None, the terms have the fixed
        ``weights`` of the settings.
        """
        if s_squared is not None:
            # (K,), and one summand L_k / (2 s_k²) + log(1 + s_k²) for each
            losses = torch.stack(list(terms.values()))
            weighted = losses / (2 * s_squared) + torch.log1p(s_squared)
            return weighted.sum()
        weights = dict(zip(("ce", "gil", "lil"), self.settings.weights))
        return sum(weights[name] * term for name, term in terms.items())

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """The maps by name: Grad-CAM in each branch, and ``union``, their maximum at each position.

        A value is a branch's place in the network, or the names of the maps to unite.
        """
        branches = {f"branch {i + 1}": f"branches.{i}" for i in range(len(self.branches))}
        return {**branches, "union": tuple(branches)}

    def compare(
        self, part_maps: Sequence[np.ndarray], images: Tensor
    ) -> dict[str, np.ndarray | float]:
        """How much the branches differ on normalised images, by their maps and their features.

        ``part_maps`` has the Grad-CAM map (B, h, w) of each branch, for ``images`` (B, 3, H, W).
        ``apart`` (B,) is one minus the mean :func:`overlap` of the pairs of maps. ``CKA`` is the
        mean :func:`branch_likeness` of the pairs of branches, one number for all images. Empty if
        there is only one branch.
        """
        if len(part_maps) < 2:
            return {}
        overlaps = [overlap(a, b) for a, b in combinations(part_maps, 2)]
        likeness = branch_likeness(self, images).to_numpy()
        pairs = np.triu_indices(len(likeness), 1)  # above the diagonal, so each pair counts once
        # (B,), over the pairs; pandas leaves out NaN, the overlap with an empty map
        mean_overlap = pd.DataFrame(overlaps).mean().to_numpy()
        return {"apart": 1 - mean_overlap, "CKA": likeness[pairs].mean()}


# ---------------------------------------------------------------- how much two predictions differ


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Softmax of logits (B, 2) at a temperature, clamped: its log and gradient stay finite."""
    return (logits / temperature).softmax(1).clamp_min(1e-38)


def distance(
    student: Tensor,
    teacher: Tensor,
    estimator: Literal["kl", "sinkhorn"] = "kl",
    kl_reduction: contract.Variant = "released",
    kl_direction: contract.Variant = "released",
    sinkhorn_points: contract.Variant = "released",
) -> Tensor:
    """D(student, teacher): how much two sets of probabilities (B, 2) differ, a scalar.

    :class:`Settings` describes the choices: the released code's, or the corrected one.
    """
    if estimator == "sinkhorn":
        points = teacher.log() if sinkhorn_points == "released" else teacher
        return sinkhorn(points, student)
    # F.kl_div(log q, p) is KL(p ‖ q).
    if kl_direction == "released":
        divergence = F.kl_div(teacher.log(), student, reduction="batchmean")
    else:
        divergence = F.kl_div(student.log(), teacher, reduction="batchmean")
    # released: the mean over B × 2 elements instead of over B images
    return divergence / 2 if kl_reduction == "released" else divergence


def sinkhorn(
    x: Tensor,
    y: Tensor,
    epsilon: float = 0.01,
    iterations: int = 100,
    tolerance: float = 0.1,
) -> Tensor:
    """Cost ``Σ_ij π_ij |x_i - y_j|²`` of the optimal transport plan π between points x, y (B, d).

    All points have the weight 1/B. A larger ``epsilon`` = ε makes π smoother (entropic
    regularisation). Sinkhorn's iterations (Cuturi, NeurIPS 2013) change the dual potentials u and v
    in turn, which brings the row sums and the column sums of π (:func:`transport_plan`) towards the
    weights:

        u_i ← u_i + ε (log(1/B) - log Σ_j π_ij), and v_j likewise with Σ_i π_ij

    They stop when the absolute changes of all u_i add up to less than ``tolerance``, or after
    ``iterations`` rounds.

    The 1e-6 that is added to the sums is that of the released code. It keeps the logarithm of a sum
    of zero finite, but also limits the rise of a potential in a round to 14 ε (-log 1e-6 is 13.8):
    where costs are large, the rounds end short of the optimum.
    """
    difference = x[:, None] - y[None]
    cost = difference.square().sum(-1)  # |x_i - y_j|², (B, B)
    log_weight = torch.full_like(cost[0], 1 / len(x)).log()  # log(1/B), (B,)
    u = torch.zeros_like(log_weight)
    v = torch.zeros_like(log_weight)
    for _ in range(iterations):
        previous_u = u
        # u_i ← u_i + ε (log(1/B) - log Σ_j π_ij), and then v_j in the same way with Σ_i π_ij
        log_row_sums = (transport_plan(cost, u, v, epsilon).sum(1) + 1e-6).log()
        u = epsilon * (log_weight - log_row_sums) + u
        log_column_sums = (transport_plan(cost, u, v, epsilon).sum(0) + 1e-6).log()
        v = epsilon * (log_weight - log_column_sums) + v
        if (u - previous_u).abs().sum() < tolerance:
            break
    transport = transport_plan(cost, u, v, epsilon)  # π
    return (transport * cost).sum()  # Σ_ij π_ij cost_ij


def transport_plan(
    cost: Tensor,
    u: Tensor,
    v: Tensor,
    epsilon: float,
) -> Tensor:
    """The transport plan π_ij = exp((u_i + v_j - cost_ij) / ε), (B, B), of potentials u, v (B,).

    All are those of :func:`sinkhorn`; cost_ij is that between x_i and y_j.
    """
    exponent = -cost + u[:, None] + v[None]
    return (exponent / epsilon).exp()


# ---------------------------------------------------------------- how much the branches differ


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ min(a, b) / Σ max(a, b) over the pixels of maps a and b (n, h, w): (n,) in [0, 1].

    NaN where ``a`` or ``b`` is all zero: a map that marks nothing has no overlap to measure.
    """
    intersection = np.minimum(a, b).sum((1, 2))
    union = np.maximum(a, b).sum((1, 2))
    is_defined = a.any((1, 2)) & b.any((1, 2))
    # At least 1e-12, because 0 / 0 would warn.
    return np.where(is_defined, intersection / np.maximum(union, 1e-12), np.nan)


def branch_likeness(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """Linear CKA in [0, 1] of the features of each pair of a network's branches, a square table.

    It is 1 for features that are the same up to rotation and scale (Kornblith et al., ICML 2019,
    sec. 3). The features are the output ``local`` (branches, n, C) for normalised images
    (n, 3, H, W). The network must be in evaluation mode: then an image's features do not depend on
    its chunk.
    """
    features = []
    with torch.no_grad():
        for chunk in images.split(32):  # bounds the memory of the activations
            features.append(network(chunk)["local"].double())
    local = torch.cat(features, 1)  # (branches, n, C)
    local -= local.mean(1, keepdim=True)
    # CKA(X, Y) = ⟨XXᵀ, YYᵀ⟩ / (|XXᵀ| |YYᵀ|) of centred features X and Y (n, C), each Gram matrix
    # taken as one vector of n² numbers
    normalised_grams = F.normalize((local @ local.mT).flatten(1))  # (branches, n²)
    likeness = normalised_grams @ normalised_grams.T
    names = [f"branch {i + 1}" for i in range(len(local))]
    return pd.DataFrame(to_numpy(likeness), names, names)
