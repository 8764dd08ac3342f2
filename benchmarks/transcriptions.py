"""Straightforward transcriptions of what two papers describe, without any care for speed.

Their weights are named as those of :mod:`dfnb.papers`, from which they are loaded.
"""

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfnb.papers import backbones
from dfnb.papers import exposing_the_deception as etd
from dfnb.papers import locate_and_verify as lv
from dfnb.papers.contract import Batch


class Attention(nn.Module):
    """LFGA, the attention of Locate and Verify: one map says where another one's values come from.

    Its weights are named as ours, from which they are loaded.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // reduction, 1)
        self.key = nn.Conv2d(channels, channels // reduction, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """ReLU(γ V Aᵀ + y), V of y and A = softmax(QᵀK) of x; x and y are (B, C, h, w)."""
        query = self.query(x).flatten(2)  # (B, c, hw), like the key
        key = self.key(x).flatten(2)
        value = self.value(y).flatten(2)  # (B, C, hw)
        attention = torch.bmm(query.transpose(1, 2), key).softmax(-1)  # (B, hw, hw)
        gathered = torch.bmm(value, attention.transpose(1, 2)).view_as(y)
        return F.relu(self.gamma * gathered + y)


class LocateAndVerify(nn.Module):
    """Locate and Verify as its description reads.

    It saves nothing: it has two whole backbones, though nothing uses the last stage of the
    localising one, writes cosine and attention out, and tiles x5 to the size of every map in MPFF.
    :mod:`dfnb.papers.locate_and_verify` explains the paper and the names of its parts.
    """

    def __init__(self, settings: lv.Settings) -> None:
        super().__init__()
        self.rgb, channels, strides = backbones.stages(settings.backbone, pretrained=False)
        self.srm, _, _ = backbones.stages(settings.backbone, pretrained=False)
        self.register_buffer("kernel", lv.SRM.repeat(1, 3, 1, 1), persistent=False)
        self.lfga = nn.ModuleList(Attention(c, settings.attention_reduction) for c in channels[3:6])
        width = settings.mpff_width
        hidden = settings.fusion_width
        out = settings.fusion_out
        projections = []
        for c in channels[:6]:
            layers = [nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            projections.append(nn.Sequential(*layers))
        self.mpff = nn.ModuleDict({"project": nn.ModuleList(projections)})
        # How many positions of each finer map lie on one position of map 5, per axis.
        self.windows = [strides[5] // stride for stride in strides[:5]]
        # Each finer map gives one channel per position in the window.
        patch = channels[5] + sum(k * k for k in self.windows)
        self.seg_head = nn.Sequential(
            nn.BatchNorm2d(patch), nn.ReLU(), nn.Conv2d(patch, 2, 1, bias=False)
        )
        finer = sum(channels[i] for i in (0, 1, 2, 3, 5))  # not map 4, as in the released code
        self.fusion = nn.ModuleDict(
            {
                "a": nn.Linear(finer, hidden),
                "b": nn.Linear(channels[6], hidden),
                "out": nn.Linear(hidden, out),
            }
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.cls_norm = nn.BatchNorm1d(out)
        self.cls_head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(out, 2))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to the logits ``cls`` (B, 2) and ``seg`` (B, 2, g, g)."""
        localising, deciding = self._streams(images)
        cls = self._decide(deciding)
        return {"cls": cls, "seg": self.seg_head(self._patches(localising))}

    def _streams(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The seven maps of each stream, RGB and SRM, after they have exchanged features."""
        x = images
        y = F.conv2d(images, self.kernel, padding=2).clamp(-3, 3)  # the noise that SRM filters keep
        xs = []
        ys = []
        for i in range(7):
            if i == 3:  # from here on both streams go on from the sum
                x = y = x + y
            x = self.rgb[i](x)
            y = self.srm[i](y)
            if i < 3:
                s = F.cosine_similarity(x, y, dim=1).unsqueeze(1)  # (B, 1, h, w)
                x = x + s * y
                y = y + s * x  # of the new x, as in the released code
                x = F.relu(x)
                y = F.relu(y)
            elif i < 6:
                y = self.lfga[i - 3](x, y)
            xs.append(x)
            ys.append(y)
        return xs, ys

    def _decide(self, maps: list[Tensor]) -> Tensor:
        """HBFusion: logits (B, 2) from the SRM stream, its finer maps fused with the last one."""
        grid = maps[6].shape[-2:]
        pooled = []
        for y in (*maps[:4], maps[5]):  # not map 4, as in the released code
            kernel = [-(-size // n) for size, n in zip(y.shape[2:], grid)]  # rounded up
            padded = self._padded(y, kernel[0] * grid[0], kernel[1] * grid[1])
            pooled.append(F.max_pool2d(padded, kernel))
        a = torch.cat(pooled, 1).flatten(2).transpose(1, 2)  # (B, positions, channels), like b
        b = maps[6].flatten(2).transpose(1, 2)
        product = torch.tanh(self.fusion["a"](a) * self.fusion["b"](b))
        fused = self.fusion["out"](self.dropout(product))
        return self.cls_head(F.relu(self.cls_norm(fused.transpose(1, 2))).mean(2))

    def _patches(self, maps: list[Tensor]) -> Tensor:
        """MPFF: map 5 of the RGB stream, with one channel per position of the finer maps on it."""
        height, width = maps[5].shape[-2:]
        patch = self.mpff["project"][5](maps[5])
        fused = []
        for x, project, k in zip(maps[:5], self.mpff["project"], self.windows):
            x = self._padded(project(x), height * k, width * k)
            tiled = F.interpolate(patch, size=x.shape[-2:], mode="nearest")
            product = torch.tanh(x * tiled).sum(1, keepdim=True)
            fused.append(F.pixel_unshuffle(product, k))  # k × k positions become k² channels
        return torch.cat([*fused, maps[5]], 1)

    @staticmethod
    def _padded(x: Tensor, height: int, width: int) -> Tensor:
        """The map with its border repeated on all sides, up to the given height and width."""
        down = height - x.shape[2]
        right = width - x.shape[3]
        sides = (right // 2, right - right // 2, down // 2, down - down // 2)
        return F.pad(x, sides, mode="replicate")

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropies of images and patches, and their sum."""
        height, width = outputs["seg"].shape[-2:]
        kernel = (batch["mask"].shape[2] // height, batch["mask"].shape[3] // width)
        # A patch is forged if any of its pixels is.
        patches = (F.max_pool2d(batch["mask"], kernel)[:, 0, :height, :width] > 0).long()
        cls = F.cross_entropy(outputs["cls"], batch["label"])
        seg = F.cross_entropy(outputs["seg"], patches)
        return {"cls": cls, "seg": seg, "total": cls + seg}


class ExposingTheDeception(nn.Module):
    """Exposing the Deception as its description reads.

    :mod:`dfnb.papers.exposing_the_deception` explains the paper and the names of its parts.
    """

    def __init__(self, settings: etd.Settings) -> None:
        super().__init__()
        n = settings.branches
        first, second, third = settings.fusion_widths
        p = settings.dropout
        self.branches = nn.ModuleList(
            timm.create_model(settings.backbone, num_classes=0) for _ in range(n)
        )
        width = self.branches[0].num_features
        self.joint_head = nn.Linear(n * width, 2)
        self.left_out_heads = nn.ModuleList(nn.Linear((n - 1) * width, 2) for _ in range(n))
        self.fusion = nn.Sequential(
            *(nn.Linear(n * width, first), nn.BatchNorm1d(first), nn.ReLU(), nn.Dropout(p)),
            *(nn.Linear(first, second), nn.BatchNorm1d(second), nn.ReLU(), nn.Dropout(p)),
            nn.Linear(second, third),
        )
        self.cls_head = nn.Sequential(nn.Dropout(p), nn.Linear(third, 2))
        self.balance = nn.Parameter(torch.ones(3))
        self.temperature = settings.temperature
        for name in ("mean", "std"):
            values = torch.tensor(getattr(settings, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), red first, to the logits of all heads.

        ``cls`` and ``joint`` are (B, 2), ``left_out`` is (n, B, 2): head i sees all branches but i.
        """
        # The released networks get blue first, but mean and deviation are those of red first.
        swapped = (images * self.std + self.mean)[:, [2, 1, 0]]
        images = (swapped - self.mean) / self.std
        local = []
        for branch in self.branches:
            local.append(branch(images))
        left_out = []
        for i, head in enumerate(self.left_out_heads):
            others = local[:i] + local[i + 1 :]
            left_out.append(head(torch.cat(others, 1)))
        joint = self.joint_head(torch.cat(local, 1))
        cls = self.cls_head(self.fusion(torch.cat(local, 1)))
        return {"cls": cls, "joint": joint, "left_out": torch.stack(left_out)}

    def losses(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Cross-entropies of all heads, GIL and LIL, and their total with learned weights."""
        label = batch["label"]
        teacher = F.softmax(outputs["joint"] / self.temperature, dim=1).detach()
        ce = F.cross_entropy(outputs["cls"], label) + F.cross_entropy(outputs["joint"], label)
        gil = self._divergence(outputs["cls"], teacher)
        difference = 0.0  # sum over the heads that leave one branch out; LIL rewards a large one
        for logits in outputs["left_out"]:
            ce = ce + F.cross_entropy(logits, label)
            difference = difference + self._divergence(logits, teacher)
        terms = {"ce": ce, "gil": gil, "lil": torch.exp(-difference)}
        total = 0.0
        # A large s makes a term count less; the logarithm limits how large it gets.
        for s, term in zip(self.balance, terms.values()):
            total = total + (term / (2 * s**2) + torch.log(1 + s**2))
        return {**terms, "total": total}

    def _divergence(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Half the KL divergence of a head from the joint head, both at the set temperature."""
        softened = F.softmax(logits / self.temperature, dim=1)
        # The mean also divides by the two classes, as in the released code: hence half.
        return F.kl_div(teacher.log(), softened, reduction="mean")


TRANSCRIPTIONS = {
    "locate_and_verify": LocateAndVerify,
    "exposing_the_deception": ExposingTheDeception,
}
