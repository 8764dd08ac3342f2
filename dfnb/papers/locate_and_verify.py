"""Locate and Verify: one stream locates the forged patches and shows the other where to look.

Shuai, Zhong, Wu, Lin, Wang, Ba, Liu, Cavallaro, Ren: "Locate and Verify: A Two-Stream Network for
Improved Deepfake Detection", ACM MM 2023, arXiv 2309.11131. Written from the arithmetic of the
released code (sccsok/Locate-and-Verify, commit bb13f08) and equal to it but for its data path and
the last stage of the RGB stream, which has no effect: tests/test_golden.py compares outputs,
gradients and training steps. docs/methods.md lists what differs.

Below, x is the RGB stream, which localises, and y the SRM stream, which sees noise residuals and
classifies. x0 to x5 and y0 to y6 are their maps after the seven stages of the backbone
(:func:`backbones.stages`). The size of x5, g × g, is the grid of patches: each position of x5
represents one patch of the image. The parts, in the order of the code: CMCE (after the stages 0 to
2) and LFGA (after 3 to 5) exchange features between the streams, MPFF describes patches, HBFusion
fuses the maps of the SRM stream, and SSPSL labels the patches of fakes whose mask is unknown.
"""

from __future__ import annotations

import math
from typing import Literal, Self, get_args

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchvision.transforms import v2

from dfnb.data.loading import Sample
from dfnb.papers import backbones, contract, released
from dfnb.papers.contract import IGNORED, Batch, cross_entropy
from facesets.checks import DfnbError
from facesets.frames import keep_masks, masked_positions
from facesets.seeds import rng

PAPER = contract.Paper(
    title="Locate and Verify",
    notebook="04_locate_and_verify",
    published="Locate and Verify",
    version=1,
    small={"mpff_width": 8, "fusion_width": 16, "fusion_out": 16},
)
Module = Literal["second_stream", "srm", "cmce", "lfga", "mpff"]
Outputs = dict[str, Tensor]  # of the network, by name


class Settings(contract.Settings):
    """Published training (released code, config/FF++.yml and train.py) and widths of the network.

    Attributes:
        augmentation_of: The state of the released augmentation: that of November 2023, which is the
            released code's last, or that of July 2023, when the first results were known. Which of
            them made the published tables is not known.
        modules: The parts of the paper that are built, for ablations. Without ``srm`` the second
            stream sees RGB. Without ``cmce`` or ``lfga`` the streams exchange no features there.
            Without ``mpff`` patches are classified from x5. Without ``second_stream``, which
            ``srm``, ``cmce`` and ``lfga`` need, the RGB stream classifies as well.
        mpff_width: Channels in which MPFF compares maps.
        fusion_width: Channels of the Hadamard product in HBFusion.
        fusion_out: Channels after HBFusion, from which the image is classified.
        attention_reduction: Channels of a map divided by those of its queries and keys in LFGA.
        dropout: Within HBFusion, and before the layer that classifies the image.
        cmce_update: released: the second stream takes up the first one *after* its update,
            y + s(x + s·y). corrected: before it, y + s·x, so that neither stream goes first.
        real_label: released: the loader finds real frames by a folder name that no folder has, so
            the loss ``cls`` takes them for fakes and sees one class only; their patches stay real.
            corrected: real is real, as in the released loader of SSPSL, which looks for another
            folder.
        random_start: How backbones start without pretrained weights. released: as torch draws
            convolutions, because the rule in the released code is commented out. corrected: as timm
            does; weights of Xception then differ in width by up to 16 times. Recorded where it is
            released.
        annotated: Of the forged training frames that have a mask, the share whose mask may be read,
            drawn by the seed. The other masks are hidden before any is opened. A larger share
            includes the frames of a smaller one.
        sspsl: Label the patches of forged frames without a mask by pseudo-labels (semi-supervised
            patch similarity learning). If false, no loss counts such patches.
        reference: The part of the face that is assumed to be forged in every fake. The mean of its
            patches is the fake anchor of SSPSL, see :func:`pseudo_labels`.
        warmup_epochs: Epochs in which SSPSL adds a second loss term, over the patches of real
            frames alone. So in a balanced batch a real patch weighs three times as much as a fake
            one.
        projection_width: Channels in which SSPSL compares patches.
    """

    mixup_probability: contract.Probability = 0.5
    augmentation: contract.Augmentation = "released"
    oversampling: contract.Count | None = 4

    augmentation_of: Literal["2023-07", "2023-11"] = "2023-11"
    modules: tuple[Module, ...] = get_args(Module)
    mpff_width: int = Field(512, ge=1)
    fusion_width: int = Field(2048, ge=1)
    fusion_out: int = Field(4096, ge=1)
    attention_reduction: int = Field(4, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    cmce_update: contract.Variant = "released"
    real_label: contract.Variant = "corrected"
    random_start: contract.Variant = Field("corrected", exclude_if=lambda v: v == "corrected")
    annotated: contract.Probability = 1.0
    sspsl: bool = False
    reference: Literal["mouth", "nose", "eyes"] = "mouth"
    warmup_epochs: int = Field(2, ge=0)
    projection_width: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _resize_as_released(self) -> Self:
        """Resize for the authors' weights as their code does: without ``antialias``."""
        if self.released:
            # The instance is frozen: an ordinary assignment would raise.
            self.__dict__["antialias"] = False
        return self

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.sspsl and self.mixup_probability:
            raise ValueError("SSPSL has no meaning for mixed images; set mixup_probability = 0")
        if self.sspsl and self.real_label == "released":
            raise ValueError("the released SSPSL labels real frames right; leave real_label out")
        parts_of_second_stream = {"srm", "cmce", "lfga"}.intersection(self.modules)
        if parts_of_second_stream and "second_stream" not in self.modules:
            raise ValueError(
                "srm, cmce and lfga need the second_stream; name it in modules, or leave all four "
                "out"
            )
        return self

    def visible(
        self,
        frames: pd.DataFrame,
        seed: int,
        start: contract.Network | None,
    ) -> pd.DataFrame:
        """Hide the masks of the train split's fakes, all but a share of ``annotated``.

        ``frames`` are of one split. Those of the val split are returned as they are. ``start`` is
        None, because there is one phase only.

        Raises:
            DfnbError: No mask is left although ``annotated`` is not zero; or ``sspsl`` is on and no
                fake has landmarks, by which SSPSL finds its reference region.
        """
        fakes = frames[frames["label"] == 1]
        if self.sspsl and len(fakes) and fakes["landmarks"].isna().all():
            raise DfnbError(
                f"{frames['dataset'].iloc[0]} has no landmarks, by which SSPSL finds its reference "
                "region; prepare the dataset with the face detector, or set sspsl = false"
            )
        if not (frames["split"] == "train").any():
            return frames  # masks of the val split train nothing, so they need not be hidden
        masked_rows = masked_positions(frames)
        shuffled_rows = rng("annotated", seed).permutation(masked_rows)
        visible_rows = shuffled_rows[: round(self.annotated * len(masked_rows))]
        # The third argument makes it raise if no row is left although the share is not zero.
        return keep_masks(frames, visible_rows, self.annotated)

    def sample(self, stored: Sample) -> Sample:
        """Cut the last row and column off a crop that is one pixel larger than the input.

        The released code does so with its crops of 300 pixels for an input of 299, and here it is
        part of the released augmentation. Landmarks stay as they are, because they are counted from
        the upper left corner.
        """
        size = self.image_size
        height, width, _ = stored.image.shape
        if self.augmentation == "released" and height == width == size + 1:
            image = stored.image[:size, :size]
            mask = stored.mask[:size, :size]
            return stored._replace(image=image, mask=mask)
        return stored

    def released_transform(self) -> v2.Transform:
        """The augmentation of the released code, each step with its probability.

        The square crop covers 30 to 100 % of the area and is enlarged to ``image_size``; the affine
        map turns by up to 45°, shifts by up to 1/16 of the side and scales by up to 20 %. JPEG has
        a quality of 60 to 100, the blur 3×3 pixels. In July 2023 (commit 910d5d7) the crop and the
        affine map were applied to every image, and the map turned by up to 15°.
        """
        probability_of_crop, probability_of_affine, largest_turn = 0.4, 0.5, 45
        if self.augmentation_of == "2023-07":
            probability_of_crop, probability_of_affine, largest_turn = 1, 1, 15
        # Between equal limits, the angle of a random rotation is fixed.
        turns = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
        quarter_turns = v2.RandomChoice(turns)
        both_flips = turns[2]  # the same as a turn by 180°
        # Flip of albumentations: left and right, top and bottom, or both. p = 1: one that is drawn
        # is always applied.
        mirror = v2.RandomChoice([v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1), both_flips])
        square_crop = v2.RandomResizedCrop(self.image_size, scale=(0.3, 1), ratio=(1, 1))
        return released.in_turn(
            (0.5, mirror),
            (0.5, quarter_turns),
            (probability_of_crop, square_crop),
            (probability_of_affine, released.affine(degrees=largest_turn, shift=1 / 16)),
            (0.1, v2.Grayscale(3)),
            (0.3, released.jpeg(60)),
            (0.05, released.blur(3)),
            (0.1, released.of_pixels(released.noise)),
            (0.5, released.one_colour()),
        )


# ---------------------------------------------------------------- the parts of the network

# Three high-pass filters of the Spatial Rich Model (SRM; Fridrich and Kodovský, IEEE TIFS 2012):
# second differences along x and y multiplied (KB / 4), a filter of 5×5 (KV / 12), and a second
# difference along x (/ 2).
SECOND_DIFFERENCE = torch.tensor([1.0, -2.0, 1.0])
SRM = torch.zeros(3, 1, 5, 5)
SRM[0, 0, 1:4, 1:4] = -torch.outer(SECOND_DIFFERENCE, SECOND_DIFFERENCE) / 4
SRM[1, 0] = torch.tensor(
    [
        [-1, 2, -2, 2, -1],
        [2, -6, 8, -6, 2],
        [-2, 8, -12, 8, -2],
        [2, -6, 8, -6, 2],
        [-1, 2, -2, 2, -1],
    ]
)
SRM[1, 0] /= 12
SRM[2, 0, 2, 1:4] = SECOND_DIFFERENCE / 2


def srm_residual(images: Tensor) -> Tensor:
    """Noise residuals (B, 3, H, W) in [-3, 3] of images (B, 3, H, W): one channel per SRM filter.

    The images are normalised. Each filter is applied to the sum of R, G and B. The released code
    repeats it over the three channels, which is the same. The output is clipped at ±3.
    """
    summed = images.sum(1, keepdim=True)
    residual = F.conv2d(summed, SRM.to(images), padding=2)
    return residual.clamp(-3, 3)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """``x·y / (|x| |y|)`` over the channels of x and y (B, C, H, W), per position: (B, 1, H, W).

    On large maps this form is several times as fast as ``F.cosine_similarity``.
    """
    # At least 1e-16, the square of F.cosine_similarity's eps: the cosine of a vector of zeros is 0.
    x_squared = x.square().sum(1, keepdim=True).clamp_min(1e-16)
    y_squared = y.square().sum(1, keepdim=True).clamp_min(1e-16)
    product = (x * y).sum(1, keepdim=True)
    similarity = product * (x_squared * y_squared).rsqrt()
    return similarity.to(x.dtype)  # autocast on CUDA makes sums float32


def cmce(x: Tensor, y: Tensor, update: str) -> tuple[Tensor, Tensor]:
    """Cross-modality consistency enhancement: where the streams agree, each adds the other's map.

    For x and y (B, C, H, W) and s = cosine(x, y): x* = x + s·y, and y* = y + s·x* if ``update`` is
    "released", y + s·x if it is "corrected". Returns ReLU(x*) and ReLU(y*). It has no parameters.
    """
    s = cosine(x, y)
    enhanced_x = x + s * y  # x*
    source = enhanced_x if update == "released" else x
    enhanced_y = y + s * source  # y*
    return F.relu(enhanced_x), F.relu(enhanced_y)


class LFGA(nn.Module):
    """Local forgery guided attention: y gathers features from positions that x finds related.

    x and y are (B, C, H, W), and so is the result. 1×1 convolutions make queries Q and keys K (both
    of C / ``reduction`` channels) from x, and values V (C channels) from y, with one column per
    position. A = softmax(QᵀK) over the keys, without the usual division by √d. The result is
    ReLU(y + γ·V·Aᵀ), with γ = 0 at the start.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query = positions(self.query(x))  # Qᵀ (B, H·W, C / reduction)
        key = positions(self.key(x))  # Kᵀ
        value = positions(self.value(y))  # Vᵀ (B, H·W, C)
        # A·Vᵀ with A = softmax(QᵀK); scale 1.0 leaves out the division by √d
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        attended = attended.transpose(1, 2).view_as(y)  # V·Aᵀ, back from positions to a map
        return F.relu(y + self.gamma * attended)  # ReLU(y + γ·V·Aᵀ)


def positions(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as one vector per position, (B, H·W, C)."""
    return x.flatten(2).transpose(1, 2)


class MPFF(nn.Module):
    """Multi-scale patch feature fusion: how much each finer map resembles x5 within each patch.

    Every map is projected to ``width`` = D channels: p_i = ReLU(BN(W_i·x_i)). For i < 5 each
    position u of p_i is compared with the patch of p_5 that covers it:

        t_i(u) = Σ_d tanh(p_i(u, d) · p_5(patch of u, d))

    If x_i is k times as fine as x5, a patch has k×k values of t_i, which become k² channels. From
    the maps x0 to x5 (B, C_i, H_i, W_i) the result is t_0 to t_4 and x5 itself, concatenated:
    (B, ``out_channels``, g, g). ``channels`` and ``strides`` are those of x0 to x5, see
    :func:`backbones.stages`.

    p_0 (B, D, H_0, W_0) is by far the largest map of the network: at the published size 46 MB per
    image in float32, and four maps of its size are kept for the backward pass.
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        width: int,
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList()  # x_i to p_i
        for in_channels in channels:
            convolution = nn.Conv2d(in_channels, width, 1, bias=False)
            projection = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
            self.project.append(projection)
        self.sides = [strides[5] // stride for stride in strides[:5]]  # k of x0 to x4
        self.out_channels = channels[5] + sum(k * k for k in self.sides)

    def forward(self, maps: list[Tensor]) -> Tensor:
        p5 = self.project[5](maps[5])  # (B, D, g, g)
        fused = []
        for x, projection, k in zip(maps[:5], self.project, self.sides):  # not the sixth projection
            t = likeness(projection(x), p5, k)  # (B, 1, k·g, k·g)
            fused.append(F.pixel_unshuffle(t, k))  # (B, k², g, g)
        return torch.cat([*fused, maps[5]], 1)


def likeness(fine: Tensor, last: Tensor, k: int) -> Tensor:
    """How much each position of a finer map resembles the patch that covers it: t of MPFF.

    Args:
        fine: p_i (B, D, H, W), k times as fine as ``last``. It may have up to k - 1 rows or columns
            less than k times those of ``last``, since stages round sizes up.
        last: p_5 (B, D, g_h, g_w).
        k: The side of a patch in positions of the finer map.

    Returns:
        (B, 1, k·g_h, k·g_w). Missing positions get the value at the border. Half of them lie before
        the map and half behind it, where an odd one goes, too.
    """
    height, width = fine.shape[2:]
    missing_rows = k * last.shape[2] - height
    missing_columns = k * last.shape[3] - width
    top = missing_rows // 2
    left = missing_columns // 2
    covering = F.interpolate(last, scale_factor=k)  # each patch k×k times
    covering = covering[:, :, top : top + height, left : left + width]
    # With a dtype, because autocast on CUDA would make the sum float32.
    t = torch.tanh(fine * covering).sum(1, keepdim=True, dtype=fine.dtype)
    borders = (left, missing_columns - left, top, missing_rows - top)  # F.pad takes columns first
    return F.pad(t, borders, mode="replicate")


class HBFusion(nn.Module):
    """Hadamard bilinear fusion at each position: W_o·Dropout(tanh(W_1·a ⊙ W_2·b)), with biases.

    a (B, N, ``a_channels``) and b (B, N, ``b_channels``) of N positions give (B, N, ``out``).
    W_1 maps a, and W_2 maps b, to ``width`` channels.
    """

    def __init__(
        self,
        a_channels: int,
        b_channels: int,
        width: int,
        out: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.a = nn.Linear(a_channels, width)
        self.b = nn.Linear(b_channels, width)
        self.out = nn.Linear(width, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        product = self.a(a) * self.b(b)  # W_1·a ⊙ W_2·b
        return self.out(self.dropout(torch.tanh(product)))


def patch_head(channels: int, out: int) -> nn.Sequential:
    """BN, ReLU and a 1×1 convolution: a map (B, channels, g, g) to (B, out, g, g)."""
    convolution = nn.Conv2d(channels, out, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), convolution)


def pooled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Max-pool a map (B, C, H, W) to a grid of cells (rows, columns): (B, C, rows, columns).

    A cell has ceil(H / rows) × ceil(W / columns) pixels. If the cells cover more than the map, the
    released code repeats the map's border: half of the missing pixels before the map and half
    behind it, where an odd one goes, too. max_pool2d's own padding gives the same, because a
    repeated value changes no maximum. A last cell that would be padding alone is left out;
    padding of more than half a cell raises a RuntimeError.
    """
    kernel = []
    padding = []
    for size, cells in zip(x.shape[2:], grid):
        side = math.ceil(size / cells)
        kernel.append(side)
        padding.append((side * cells - size) // 2)  # at each end; ceil_mode adds an odd one
    return F.max_pool2d(x, kernel, padding=padding, ceil_mode=True)


# ---------------------------------------------------------------- the network


class Network(contract.Network):
    """The network: normalised images (B, 3, H, W) to logits, real first, of images and patches.

    - ``cls`` (B, 2) and ``seg`` (B, 2, g, g);
    - ``projection`` (B, C, g, g), only with SSPSL: a vector of length 1 per patch, by which pseudo-
      labels compare patches. It is never trained, because pseudo-labels pass no gradient: as in
      the released code, its convolution keeps its random weights.
    """

    untrained = ("projection",)

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        modules = settings.modules
        rgb, channels, strides = backbones.stages(settings.backbone, settings.pretrained)
        self.weights_from = rgb.weights_from
        self.rgb = rgb[:6]  # nothing uses x6
        self.has_second_stream = "second_stream" in modules
        second, _, _ = backbones.stages(settings.backbone, settings.pretrained)
        if settings.random_start == "released" and not settings.pretrained:
            for part in (*rgb.modules(), *second.modules()):
                if isinstance(part, nn.Conv2d):
                    part.reset_parameters()
        # Without a second stream only its last stage is kept, which then computes y6 from x5.
        self.srm = second if self.has_second_stream else second[6:]
        # CMCE is computed in forward: it has no weights.
        self.residual = srm_residual if "srm" in modules else nn.Identity()
        self.lfga = nn.ModuleList()
        if "lfga" in modules:
            for map_channels in channels[3:6]:
                self.lfga.append(LFGA(map_channels, settings.attention_reduction))
        self.mpff = None
        patch_channels = channels[5]
        if "mpff" in modules:
            self.mpff = MPFF(channels[:6], strides[:6], settings.mpff_width)
            patch_channels = self.mpff.out_channels
        self.seg_head = patch_head(patch_channels, 2)
        finer_channels = sum(channels[:4]) + channels[5]  # y0 to y3 and y5, as released
        out = settings.fusion_out
        self.fusion = HBFusion(
            finer_channels, channels[6], settings.fusion_width, out, settings.dropout
        )
        self.projection = None
        if settings.sspsl:
            self.projection = patch_head(channels[5], settings.projection_width)
            self.projection.requires_grad_(False)  # see the class
        self.cls_norm = nn.BatchNorm1d(out)
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(out, 2))

    def forward(self, images: Tensor) -> Outputs:
        """The outputs: the image is classified from the maps y, the patches from the maps x."""
        xs, ys = self.streams(images)
        last = self.srm[-1](ys[5])  # y6
        # y0 to y3 and y5, pooled to the grid of y6; the released code does not use y4 either
        finer = [pooled(y, last.shape[-2:]) for y in (*ys[:4], ys[5])]
        fused = self.fusion(positions(torch.cat(finer, 1)), positions(last))
        # BatchNorm, ReLU and the mean over positions, before the linear layer of cls_head
        normed = self.cls_norm(fused.transpose(1, 2))  # (B, C, positions of y6)
        image_features = F.relu(normed).mean(2)
        patch_features = self.mpff(xs) if self.mpff else xs[5]
        outputs = {
            "cls": self.cls_head(image_features),
            "seg": self.seg_head(patch_features),
        }
        if self.projection:
            projected = self.projection(xs[5].detach())  # pseudo-labels pass no gradient
            outputs["projection"] = F.normalize(projected, dim=1)
        return outputs

    def streams(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps x0 to x5 of the RGB stream and y0 to y5 of the SRM stream, (B, C_i, H_i, W_i).

        After each of the first three stages the streams exchange features by CMCE. Then both go on
        from their sum, and after each of the other stages the RGB stream guides the other by LFGA.
        Without a second stream, the maps y are the maps x.
        """
        x = images
        y = self.residual(images)
        xs = []
        ys = []
        for i in range(6):  # all stages but the last, which forward applies to y5
            if i == 3 and self.has_second_stream:  # both go on from the sum
                x = x + y
                y = x
            x = self.rgb[i](x)
            y = self.srm[i](y) if self.has_second_stream else x
            if i < 3 and "cmce" in self.settings.modules:
                x, y = cmce(x, y, self.settings.cmce_update)
            elif i >= 3 and self.lfga:
                y = self.lfga[i - 3](x, y)
            xs.append(x)
            ys.append(y)
        return xs, ys

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropies ``cls`` of images and ``seg`` of patches, and their sum ``total``.

        So L = L_cls + L_seg, without further weights; ``warm`` is added to it where there is one.

        Where the mask is known, as for all real images, it gives the labels of the patches. Where
        it is unknown, SSPSL does; without SSPSL these patches are ignored. In the first
        ``warmup_epochs`` SSPSL adds ``warm``, the cross-entropy of real images' patches alone.
        """
        label = batch["label"]
        cls_label = label
        if self.settings.real_label == "released":
            cls_label = torch.ones_like(label)  # all fake, see Settings
        patches = patch_labels(batch["mask"], outputs["seg"].shape[-2:])  # (B, g, g)
        without_mask = ~batch["has_mask"]
        if self.settings.sspsl:
            patches[without_mask] = self.pseudo(outputs, batch)[without_mask]
        else:
            patches[without_mask] = IGNORED
        terms = {
            "cls": cross_entropy(outputs["cls"], cls_label, batch),
            "seg": cross_entropy(outputs["seg"], patches, batch),
        }
        if self.settings.sspsl and batch["epoch"] < self.settings.warmup_epochs:
            fake = (label == 1)[:, None, None]
            real_patches = patches.masked_fill(fake, IGNORED)
            terms["warm"] = cross_entropy(outputs["seg"], real_patches, batch)
        return {**terms, "total": sum(terms.values())}

    def pseudo(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The pseudo-labels (B, g, g) of a batch, from ``projection``, labels and landmarks."""
        projection = outputs["projection"]
        image_size = batch["image"].shape[-2:]
        grid = projection.shape[-2:]
        part = self.settings.reference
        region = reference_region(batch["landmarks"], image_size, grid, part)
        return pseudo_labels(projection, batch["label"], region)

    def localise(self, outputs: Outputs) -> Tensor:
        """P(forged) of each patch, (B, g, g)."""
        return outputs["seg"].float().softmax(1)[:, 1]

    def maps(self) -> dict[str, str]:
        """P(forged) of the patches, by :meth:`localise`, and Grad-CAM at each stream's last map.

        The values are the names of the method, and of the attributes with the streams.
        """
        maps = {"located patches": "localise", "RGB stream": "rgb"}
        if self.has_second_stream:
            maps["SRM stream"] = "srm"
        return maps

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """No decay on norms, biases and the γ of :class:`LFGA`, as in the released code."""
        # timm recognises them by their single axis, or by a name that ends with .bias.
        return param_groups_weight_decay(self, weight_decay)


# ---------------------------------------------------------------- labels of patches


def patch_labels(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks (B, 1, H, W) to labels ``(B, *grid)``, int64: 1 where any pixel of the patch is forged.

    As in the released code, the side of a patch is H // g pixels: 15 with H = 299 and g = 19. So
    the last 14 rows and columns belong to no patch.
    """
    height, width = grid
    kernel = (mask.shape[2] // height, mask.shape[3] // width)
    largest = F.max_pool2d(mask, kernel)  # it may have more cells than the grid
    is_forged = largest[:, 0, :height, :width] > 0
    return is_forged.long()


# Half width and half height of the reference region, in eye distances. The released code boxes some
# of dlib's 68 landmarks, with a margin. Here only five landmarks are known, and the numbers give
# about the same boxes.
REFERENCE = {"mouth": (0.5, 0.3), "nose": (0.32, 0.4), "eyes": (0.8, 0.2)}


def reference_region(
    landmarks: Tensor, size: tuple[int, int], grid: tuple[int, int], part: str
) -> Tensor:
    """Which patches have their centre in the box around a part of the face: ``(B, *grid)`` bool.

    The box turns with the face. Its centre is between the mouth corners, between nose tip and eyes,
    or between the eyes. A face without landmarks (NaN) has no such patch.

    Args:
        landmarks: Eyes, nose tip and mouth corners (B, 5, 2), x and y in pixels of the image; the
            person's right eye and right corner come before the left ones.
        size: Height and width of the image.
        grid: Rows and columns of patches.
        part: ``mouth``, ``nose`` or ``eyes``.
    """
    eyes = landmarks[:, :2].mean(1)
    nose = landmarks[:, 2]
    mouth = landmarks[:, 3:].mean(1)
    centre = {"mouth": mouth, "nose": (nose + eyes) / 2, "eyes": eyes}[part]
    half_width, half_height = REFERENCE[part]
    centres = patch_centres(size, grid).to(landmarks.device)
    across, down = face_coordinates(centres, landmarks, centre).abs().unbind(-1)
    return (across <= half_width) & (down <= half_height)


def patch_centres(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """x and y of each patch's middle, ``(*grid, 2)``, in pixels of an image (height, width).

    The middle of the first pixel has the coordinates 0, so the image begins at -0.5.
    """
    y, x = [(torch.arange(cells) + 0.5) * side / cells - 0.5 for side, cells in zip(size, grid)]
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def face_coordinates(points: Tensor, landmarks: Tensor, origin: Tensor) -> Tensor:
    """Points (h, w, 2) seen from each of B faces, in its eye distances: (B, h, w, 2).

    The first coordinate grows from the person's right eye to the left one, the second at right
    angles to it, down the face. ``landmarks`` (B, 5, 2) are those of :func:`reference_region`;
    ``origin`` (B, 2) is the point with the coordinates 0. All are x and y in pixels.
    """
    across = landmarks[:, 1] - landmarks[:, 0]
    down = torch.stack([-across[:, 1], across[:, 0]], 1)  # across, turned by 90°
    axes = torch.stack([across, down], 1)  # (B, 2, 2), both as long as the eye distance
    offset = points - origin[:, None, None]  # (B, h, w, 2)
    along_axes = (offset[..., None, :] * axes[:, None, None]).sum(-1)  # offset · axis
    squared_eye_distance = across.square().sum(1).clamp_min(1e-6)  # to divide by, so not zero
    return along_axes / squared_eye_distance[:, None, None, None]


@torch.no_grad()
def pseudo_labels(projection: Tensor, label: Tensor, region: Tensor) -> Tensor:
    """SSPSL's labels (B, h, w), int64, of patches: 0 real, 1 forged.

    The fake anchor f̄ is the mean of the fakes' patches in ``region``, the real anchor r̄ the mean
    of all patches of real images. A patch p of a fake is forged if cos(p, f̄) > cos(p, r̄). Patches
    of real images are real. So far it is the released code. If the batch has no patch for one of
    the anchors, the fakes' patches are ``IGNORED``; there the missing anchor has the cosine 0 with
    every patch, or without real images NaN.

    Args:
        projection: (B, C, h, w), of length 1 at each patch.
        label: (B,), 1 where fake.
        region: The reference region (B, h, w), bool, also of real images, where it has no effect.
    """
    patches = projection.float().permute(0, 2, 3, 1)
    is_real = (label == 0)[:, None, None].expand_as(region)
    is_reference = region & ~is_real
    real_sum = patches[is_real].sum(0)
    fake_sum = patches[is_reference].sum(0)
    counts = torch.stack([is_real.sum(), is_reference.sum()])
    # The anchors r̄ and f̄ are means, but a sum has the same cosine as its mean.
    directions = F.normalize(torch.stack([real_sum, fake_sum]), dim=1)  # (2, C)
    # cos(p, r̄) and cos(p, f̄), (B, h, w): scalar products, as patches and directions have length 1
    toward_real, toward_fake = (patches @ directions.T).unbind(-1)
    labels = (toward_fake > toward_real).long()  # [cos(p, f̄) > cos(p, r̄)]
    labels = torch.where(counts.all(), labels, IGNORED)
    return labels.masked_fill(is_real, 0)
