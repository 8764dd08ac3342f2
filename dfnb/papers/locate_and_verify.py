"""Locate and Verify: two streams, one of which locates the forged patches and shows the other where to look.

Shuai, Zhong, Wu, Lin, Wang, Ba, Liu, Cavallaro, Ren: "Locate and Verify: A Two-Stream Network for Improved Deepfake
Detection", ACM MM 2023, arXiv 2309.11131. Written from the arithmetic of the released code (sccsok/Locate-and-Verify,
commit bb13f08) and equal to it: tests/test_golden.py compares outputs and gradients.

Below, x is the RGB stream, which localises, and y the SRM stream, which classifies; x0 to x5 and y0 to y6 are their
maps after each of the backbone's seven stages (:func:`dfnb.papers.backbones.stages`), and g × g is the patch grid: the size of x5.
"""

from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import torch
import torch.nn.functional as F
from numpy.random import Generator
from pydantic import Field, model_validator
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchvision.transforms import v2

from dfnb import core, papers
from dfnb.data.frames import Sample, keep_masks, masked
from dfnb.papers import backbones, released

PAPER = papers.Paper("Locate and Verify", "04_locate_and_verify", "Locate and Verify", "#029e73", "D")
VERSION = 2
Module = Literal["second_stream", "srm", "cmce", "lfga", "mpff"]


@papers.published(mixup_probability=0.5, augmentation="released", oversampling=4)
class Settings(papers.Settings):
    """Published training (released code, config/FF++.yml and train.py) and the widths of the network.

    Attributes:
        modules: the parts of the paper that are built, for ablations. Without ``srm`` the second stream sees RGB,
            without ``cmce`` or ``lfga`` no features cross there, without ``mpff`` patches are classified from x5, and
            without ``second_stream`` (and so without the first three) the RGB stream classifies as well.
        mpff_width: channels in which MPFF compares maps.
        fusion_width: channels of the Hadamard product.
        fusion_out: channels after it, from which the image is classified.
        attention_reduction: channels of a map divided by those of its queries and keys in LFGA.
        cmce_update: released: the second stream takes up the first one *after* its update, y + s(x + s·y); corrected:
            before it, y + s·x, so that neither stream goes first.
        real_label: released: the loader compares the method with a name that no folder has, so real frames enter
            ``cls`` as fake, which then sees one class only, while their patches stay real; corrected: real is real.
        annotated: share of the forged training frames whose mask may be read, drawn by the seed; the rest are hidden
            before any is opened, and a larger share holds the frames of a smaller one.
        sspsl: teach the patches of forged frames without a mask by pseudo-labels (semi-supervised patch similarity
            learning); otherwise they teach nothing. Without either, ``annotated = 0``, only patches of real frames teach.
        reference: the part of the face that is taken to be forged in every fake, from which the fake anchor comes.
        warmup_epochs: epochs in which the patches of real frames count once more (SSPSL).
        projection_width: channels in which SSPSL compares patches.
    """

    modules: tuple[Module, ...] = get_args(Module)
    mpff_width: int = Field(512, ge=1)
    fusion_width: int = Field(2048, ge=1)
    fusion_out: int = Field(4096, ge=1)
    attention_reduction: int = Field(4, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    cmce_update: Literal["released", "corrected"] = "released"
    real_label: Literal["released", "corrected"] = "corrected"
    annotated: float = Field(1.0, ge=0, le=1)
    sspsl: bool = False
    reference: Literal["mouth", "nose", "eyes"] = "mouth"
    warmup_epochs: int = Field(2, ge=0)
    projection_width: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "Settings":
        if self.sspsl and self.mixup_probability:
            raise ValueError("SSPSL has no meaning for mixed images; set mixup_probability = 0")
        if "second_stream" not in self.modules and {"srm", "cmce", "lfga"} & set(self.modules):
            raise ValueError("srm, cmce and lfga need the second_stream; name it in modules, or leave all four out")
        return self

    def visible(self, frames: pd.DataFrame, seed: int, start: papers.Run | None) -> pd.DataFrame:
        """The training frames with the masks of all but the share ``annotated`` of the fakes hidden.

        Raises :class:`DfnbError` when that leaves none although some are asked for, or when SSPSL, whose reference
        region comes from the landmarks, has no fake with landmarks.
        """
        if self.sspsl and frames.loc[frames["label"] == 1, "landmarks"].isna().all():
            problem = f"{frames.attrs['folder']} has no landmarks, by which SSPSL finds its reference region"
            raise core.DfnbError(f"{problem}; prepare the dataset with the face detector, or set sspsl = false")
        if not (frames["split"] == "train").any():
            return frames
        known = masked(frames)
        rows = core.rng("annotated", seed).permutation(known)[: round(self.annotated * len(known))]
        return keep_masks(frames, rows, self.annotated)

    def samples(self, sample: Sample, draw: Generator) -> list[Sample]:
        """As released, a crop one pixel larger than the input (300 of 299) loses its last row and column, unresized."""
        size = self.image_size
        if self.augmentation == "released" and sample.image.shape[:2] == (size + 1, size + 1):
            sample = sample._replace(image=sample.image[:size, :size], mask=sample.mask[:size, :size])
        return [sample]

    def released_transform(self) -> v2.Transform:
        """Mirror in x, y or both (p .5), quarter turns (.5), a resized square of 30 to 100 % of the area (.4), then colours.

        Shift by up to 1/16, scale by up to 20 % and turn by up to 45° (.5), filled with black; grey (.1), JPEG of quality 60
        to 100 (.3), blur (.05), noise (.1), one change of colour (.5).
        """
        mirror = v2.RandomChoice([v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1), v2.RandomRotation((180, 180))])
        turn = v2.RandomChoice([v2.RandomRotation((degrees, degrees)) for degrees in (0, 90, 180, 270)])
        square = v2.RandomResizedCrop(self.image_size, scale=(0.3, 1), ratio=(1, 1))
        geometry = (0.5, mirror), (0.5, turn), (0.4, square), (0.5, released.affine(degrees=45, shift=1 / 16))
        quality = (0.3, v2.JPEG((60, 100))), (0.05, released.blur(3)), (0.1, released.recolour(released.noise))
        return released.in_turn(*geometry, (0.1, v2.Grayscale(3)), *quality, (0.5, released.one_colour()))


TABLES = core.read_yaml(Path(__file__).with_suffix(".yaml"))
SRM = torch.tensor(TABLES["filters"]) / torch.tensor(TABLES["divisors"]).view(3, 1, 1)


def srm_residual(images: Tensor) -> Tensor:
    """Noise residuals: three fixed high-pass filters of the Spatial Rich Model on the sum of R, G and B, cut at ±3.

    Images (B, 3, H, W) to residuals (B, 3, H, W) in [-3, 3]. Filters: Fridrich and Kodovský, IEEE TIFS 2012.
    """
    return F.conv2d(images.sum(1, keepdim=True), SRM[:, None].to(images), padding=2).clamp(-3, 3)


def cmce(x: Tensor, y: Tensor, update: str) -> tuple[Tensor, Tensor]:
    """Cross-modality consistency enhancement: where the streams agree, each takes up the other. No parameters.

    x and y (B, C, H, W), s = cos(x, y) over the channels (B, 1, H, W):
    x* = x + s·y and y* = y + s·x* (y + s·x if ``update`` is "corrected"); returns ReLU(x*) and ReLU(y*).
    """
    s = cosine(x, y)
    enhanced = x + s * y
    return F.relu(enhanced), F.relu(y + s * (enhanced if update == "released" else x))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine over the channels, (B, 1, H, W): F.cosine_similarity in a form several times faster on large maps."""
    squares = x.square().sum(1, keepdim=True).clamp_min(1e-16) * y.square().sum(1, keepdim=True).clamp_min(1e-16)
    return ((x * y).sum(1, keepdim=True) * squares.rsqrt()).to(x.dtype)  # autocast on CUDA makes sums float32


class LFGA(nn.Module):
    """Local forgery guided attention: y gathers from the positions that x holds to belong together.

    Q, K from x and V from y by 1×1 convolutions; A = softmax(QᵀK) over all positions, not divided by √d;
    returns ReLU(y + γ·V·Aᵀ), with γ = 0 at the start.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query, key, value = (m.flatten(2).transpose(1, 2) for m in (self.query(x), self.key(x), self.value(y)))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (B, H·W, C)
        return F.relu(y + self.gamma * attended.transpose(1, 2).view_as(y))


class MPFF(nn.Module):
    """Multi-scale patch feature fusion: how much each finer map resembles x5 at the patch it lies in.

    Every map is projected to ``width`` = D channels: p_i = ReLU(BN(W_i·x_i)). For i < 5 each position u of p_i is compared
    with the patch of p_5 that covers it:

        t_i(u) = Σ_d tanh(p_i(u, d) · p_5(patch of u, d))

    Where x_i is k times as fine as x5, the k×k values of t_i in a patch become k² channels; x5 itself follows them.
    Maps x0 to x5, (B, C_i, H_i, W_i), to (B, ``out_channels``, g, g).

    p_0 would be the largest map of the network by far. So one row of patches is projected and compared at a time, and
    once more in the backward pass; the statistics of BN are folded into the projection beforehand.
    """

    def __init__(self, channels: list[int], strides: list[int], width: int) -> None:
        super().__init__()
        layers = [[nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()] for c in channels]
        self.project = nn.ModuleList(nn.Sequential(*three) for three in layers)
        self.sides = [strides[5] // stride for stride in strides[:5]]  # k of each map
        self.out_channels = channels[5] + sum(k * k for k in self.sides)

    def forward(self, maps: list[Tensor]) -> Tensor:
        patches = self.project[5](maps[5]).permute(2, 0, 3, 1).flatten(1, 2)[:, :, None]  # g rows of (B·g, 1, D)
        fused = []
        for x, (conv, norm, _), k in zip(maps[:5], self.project, self.sides):
            weight, bias = folded(x, conv, norm)
            rows = zip(windows(x, k, maps[5].shape[-2:]), patches.unbind())
            t = [backbones.not_kept(likeness, row, weight, bias, patch) for row, patch in rows]
            fused.append(torch.stack(t).unflatten(1, (len(x), -1)).permute(1, 3, 0, 2))  # (B, k², g, g)
        return torch.cat([*fused, maps[5]], 1)


def likeness(x: Tensor, weight: Tensor, bias: Tensor, patch: Tensor) -> Tensor:
    """Σ_d tanh(ReLU(W·x + b)_d · patch_d), (N, k²), of N patches: x (N, k², C), W (D, C), b (D,), patch (N, 1, D)."""
    projected = F.relu(F.linear(x, weight, bias))
    return torch.tanh(projected * patch).sum(-1, dtype=projected.dtype)


def windows(x: Tensor, k: int, grid: tuple[int, int]) -> tuple[Tensor, ...]:
    """The k×k windows of x (B, C, H, W) in each row of patches: g_h tensors (B·g_w, k², C).

    Where x does not fill the grid (g_h, g_w), its border is repeated, the odd row and column at the end.
    """
    down, right = grid[0] * k - x.shape[2], grid[1] * k - x.shape[3]
    x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
    x = x.unflatten(3, (-1, k)).unflatten(2, (-1, k))  # (B, C, g_h, k, g_w, k)
    return x.permute(2, 0, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2).unbind()


def folded(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (D, C) and bias (D,) of a 1×1 convolution without bias and the batch norm that follows it, as one.

    In training, mean and variance of W·x follow from mean μ (C,) and covariance Σ (C, C) of x (B, C, H, W): W·μ and
    diag(W·Σ·Wᵀ). They carry gradients and update the running statistics, as those of the norm do.
    """
    weight = conv.weight.flatten(1)
    mean, variance = norm.running_mean, norm.running_var
    with torch.autocast(x.device.type, enabled=False):
        if norm.training:
            points = x.permute(0, 2, 3, 1).flatten(0, 2).to(weight.dtype)
            centred = points - points.mean(0)
            covariance = centred.T @ centred / len(points)
            mean, variance = weight @ points.mean(0), (weight @ covariance * weight).sum(1).clamp_min(0)
            with torch.no_grad():
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(variance * (len(points) / (len(points) - 1)), norm.momentum)
                norm.num_batches_tracked += 1
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        return weight * scale[:, None], norm.bias - mean * scale


class HBFusion(nn.Module):
    """Hadamard bilinear fusion, position by position: W_o·Dropout(tanh(W_1·a ⊙ W_2·b)).

    a (B, N, ``a_channels``) and b (B, N, ``b_channels``) to (B, N, ``out``).
    """

    def __init__(self, a_channels: int, b_channels: int, width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.a = nn.Linear(a_channels, width)
        self.b = nn.Linear(b_channels, width)
        self.out = nn.Linear(width, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(self.dropout(torch.tanh(self.a(a) * self.b(b))))


class Network(papers.Network):
    """The network: images (B, 3, H, W), normalised, to the logits ``cls`` (B, 2) and ``seg`` (B, 2, g, g).

    With SSPSL also ``projection`` (B, C, g, g), of length 1 at each patch. Nothing teaches it: pseudo-labels compare
    projections but pass no gradient, so that in the released code, too, its convolution keeps its random weights.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        modules, width = settings.modules, settings.projection_width
        rgb, channels, strides = backbones.stages(settings.backbone, settings.pretrained)
        self.weights_from = rgb.weights_from
        self.rgb = rgb[:6]  # nothing uses x6
        self.second = "second_stream" in modules
        second, _, _ = backbones.stages(settings.backbone, rgb.weights_from != "random weights")
        self.srm = second if self.second else second[6:]
        self.residual = srm_residual if "srm" in modules else nn.Identity()
        self.lfga = nn.ModuleList(LFGA(c, settings.attention_reduction) for c in channels[3:6] if "lfga" in modules)
        self.mpff = MPFF(channels[:6], strides[:6], settings.mpff_width) if "mpff" in modules else None
        self.seg_head = _head(self.mpff.out_channels if self.mpff else channels[5], 2)
        finer = sum(channels[i] for i in (0, 1, 2, 3, 5))
        self.fusion = HBFusion(finer, channels[6], settings.fusion_width, settings.fusion_out, settings.dropout)
        self.projection = _head(channels[5], width).requires_grad_(False) if settings.sspsl else None
        self.cls_norm = nn.BatchNorm1d(settings.fusion_out)
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.fusion_out, 2))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of the image and of each patch, real first."""
        x, y = images, self.residual(images)
        xs, ys = [], []
        for i in range(6):
            if i == 3 and self.second:
                x = y = x + y
            x = self.rgb[i](x)
            y = self.srm[i](y) if self.second else x
            if i < 3 and "cmce" in self.settings.modules:
                x, y = cmce(x, y, self.settings.cmce_update)
            elif i >= 3 and self.lfga:
                y = self.lfga[i - 3](x, y)
            xs.append(x)
            ys.append(y)
        last = self.srm[-1](y)
        # y0 to y3 and y5 (released code: not y4) are max-pooled to the grid of y6 and fused with it
        finer = torch.cat([_pool(y, last.shape[-2:]) for y in (*ys[:4], ys[5])], 1)
        fused = self.fusion(finer.flatten(2).transpose(1, 2), last.flatten(2).transpose(1, 2))
        outputs = {"cls": self.cls_head(F.relu(self.cls_norm(fused.transpose(1, 2))).mean(2))}
        outputs["seg"] = self.seg_head(self.mpff(xs) if self.mpff else x)
        if self.projection:
            outputs["projection"] = F.normalize(self.projection(x.detach()), dim=1)
        return outputs

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """Mean cross-entropies ``cls`` of images and ``seg`` of patches, and their sum ``total``.

        A patch is taught by the mask where that is known, else by its pseudo-label, else not at all. With SSPSL the
        first epochs add ``warm``, the cross-entropy of the patches of real images alone.
        """
        label = torch.ones_like(batch["label"]) if self.settings.real_label == "released" else batch["label"]
        patches = patch_labels(batch["mask"], outputs["seg"].shape[-2:])
        unknown = ~batch["has_mask"]
        patches[unknown] = self.pseudo(outputs, batch)[unknown] if self.settings.sspsl else papers.IGNORED
        terms = {"cls": papers.cross_entropy(outputs["cls"], label, batch)}
        terms["seg"] = papers.cross_entropy(outputs["seg"], patches, batch)
        if self.settings.sspsl and batch["epoch"] < self.settings.warmup_epochs:
            real = patches.masked_fill((batch["label"] == 1)[:, None, None], papers.IGNORED)
            terms["warm"] = papers.cross_entropy(outputs["seg"], real, batch)
        return {**terms, "total": sum(terms.values())}

    def pseudo(self, outputs: dict[str, Tensor], batch: papers.Batch) -> Tensor:
        """The pseudo-labels of a batch, (B, g, g), from its labels and landmarks; see :func:`pseudo_labels`."""
        grid = outputs["projection"].shape[-2:]
        region = reference_region(batch["landmarks"], batch["image"].shape[-2:], grid, self.settings.reference)
        return pseudo_labels(outputs["projection"], batch["label"], region, self.training)

    def monitor(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, float]:
        """Of SSPSL: how well the pseudo-labels of the batch's fakes fit their true patches (IoU, precision, recall).

        NaN where there is nothing to compare: without masks, or without a patch that is called forged.
        """
        if not self.settings.sspsl:
            return {}
        fakes = (batch["label"] == 1) & batch["has_mask"]
        true = patch_labels(batch["mask"], outputs["seg"].shape[-2:])[fakes] == 1
        pseudo = self.pseudo(outputs, batch)[fakes] == 1
        compared = {"iou": pseudo | true, "precision": pseudo, "recall": true}
        return {f"pseudo_{name}": ((pseudo & true).sum() / patches.sum()).item() for name, patches in compared.items()}

    def localise(self, outputs: dict[str, Tensor]) -> Tensor:
        """P(forged) of each patch, (B, g, g)."""
        return outputs["seg"].float().softmax(1)[:, 1]

    def maps(self) -> dict[str, str]:
        """The located patches, and Grad-CAM of the streams."""
        streams = {"RGB stream": "rgb", "SRM stream": "srm"} if self.second else {"RGB stream": "rgb"}
        return {"located patches": "localise", **streams}

    def panel(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """What the second stream sees, and with SSPSL the pseudo-labels of this batch (NaN where there is none)."""
        pictures = {}
        if "srm" in self.settings.modules:
            pictures["SRM residual"] = srm_residual(batch["image"]).abs().mean(1)
        if self.settings.sspsl:
            pseudo = self.pseudo(outputs, batch)
            pictures["pseudo-labels"] = pseudo.float().masked_fill(pseudo == papers.IGNORED, torch.nan)
        return pictures

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """As released, no decay on norms, biases and γ."""
        return param_groups_weight_decay(self, weight_decay)


def patch_labels(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks (B, 1, H, W) to labels of patches (B, *grid), int64: 1 where any pixel of the patch is forged.

    As released, a patch has H // g pixels: with H = 299 and g = 19 that is 15, and the last 14 rows count nowhere.
    """
    height, width = grid
    return (F.max_pool2d(mask, (mask.shape[2] // height, mask.shape[3] // width))[:, 0, :height, :width] > 0).long()


def reference_region(landmarks: Tensor, size: tuple[int, int], grid: tuple[int, int], part: str) -> Tensor:
    """The patches (B, *grid), bool, whose centre lies in the mouth, the nose or the eyes of each face.

    ``landmarks`` (B, 5, 2) in pixels of the image of ``size`` (H, W); a face without landmarks has no patch. The box
    turns with the face. It is centred between the mouth corners, between nose tip and eyes, or between the eyes.
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    centre = {"mouth": mouth, "nose": (landmarks[:, 2] + eyes) / 2, "eyes": eyes}[part]
    across = landmarks[:, 1] - landmarks[:, 0]
    down = torch.stack([-across[:, 1], across[:, 0]], 1)
    rows, columns = ((torch.arange(n, device=landmarks.device) + 0.5) * side / n - 0.5 for n, side in zip(grid, size))
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) - centre[:, None, None]  # (B, h, w, 2)
    distance = across.square().sum(1)[:, None, None].clamp_min(1e-6)
    x, y = ((place * axis[:, None, None]).sum(-1).abs() / distance for axis in (across, down))
    half_width, half_height = TABLES["reference"][part]
    return (x <= half_width) & (y <= half_height)


@torch.no_grad()
def pseudo_labels(projection: Tensor, label: Tensor, region: Tensor, together: bool = False) -> Tensor:
    """Labels (B, h, w), int64, of patches from their projections (B, C, h, w), each of length 1 (SSPSL, released code).

    A patch of a fake is forged where it resembles the fake anchor, the mean of the fakes' patches in ``region``
    (B, h, w), more than the real one, the mean of all patches of the real images; patches of real images are real.
    Without either anchor the fakes' patches are ``IGNORED``. ``together``: anchors of the batches of all processes,
    each of which must call this.
    """
    patches = projection.float().permute(0, 2, 3, 1)
    real = (label == 0)[:, None, None].expand_as(region)
    fake = region & ~real
    anchors = torch.stack([patches[real].sum(0), patches[fake].sum(0)])
    counts = torch.stack([real.sum(), fake.sum()])
    if together and torch.distributed.is_initialized():
        torch.distributed.all_reduce(anchors)
        torch.distributed.all_reduce(counts)
    toward_real, toward_fake = (patches @ F.normalize(anchors, dim=1).T).unbind(-1)
    return torch.where(counts.all(), (toward_fake > toward_real).long(), papers.IGNORED).masked_fill(real, 0)


def _head(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 1, bias=False))


def _pool(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Max-pool a map to a grid; as padding it by replication first (released code), since a copy is no new maximum."""
    kernel = [-(-size // n) for size, n in zip(x.shape[2:], grid)]
    before = [(k * n - size) // 2 for k, n, size in zip(kernel, grid, x.shape[2:])]
    return F.max_pool2d(x, kernel, padding=before, ceil_mode=True)
