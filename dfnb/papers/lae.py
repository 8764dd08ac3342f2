"""Towards Generalizable Deepfake Detection with Locality-aware AutoEncoder (LAE).

Du, Pentyala, Li, Hu, CIKM 2020, arXiv 1909.05999v2. There is no released code, and of the text only the abstract and
secondary sources were available, so this is a documented interpretation: it implements what the abstract claims, and
:class:`Settings` says how it fills what the abstract leaves open.

An encoder from timm gives the last map f (B, K, h, w). Its mean over positions and a linear layer give the latent vector
z = [z_T, z_F], one half for real and one for fake. Phase one learns the representation. Phase two goes on from its weights
and pulls the attention towards the masks of the annotated frames, which active learning chooses. With
``attention_weight = 0`` phase two is that of an autoencoder without locality, in the manner of ForensicTransfer
(Cozzolino et al., arXiv 1812.02510).
"""

from collections import OrderedDict
from functools import cache
from itertools import pairwise
from typing import ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torchvision.transforms import v2

from dfnb import core, papers
from dfnb.data import frames
from dfnb.papers import backbones

PAPER = papers.Paper("LAE", "03_lae", "LAE", "#0173b2", "s")
VERSION = 3
SMALL = 1e-6


@papers.published(backbone="resnet18.tv_in1k", epochs=5, lr=1e-4, batch_size=32, schedule="constant")
class Settings(papers.Settings):
    """The interpretation's values; the abstract states none of them but ``annotated`` (below 3 %).

    Fixed without a setting: all of z is decoded; pixels and features are compared by L1; the attention is that of the fake
    half, its units weighted by sign(z), divided by its maximum (of what is above zero) before it is compared with the mask;
    the attention loss is L2, and weighs annotated fakes and real frames by one half each. Where the attention of real frames
    should lie is open: here the fake half's should be zero and the real half's one everywhere, since no region makes a real
    face real.

    Attributes:
        phase: representation: all terms but the attention loss; regularisation: from the weights of phase one.
        representation_epochs, representation_lr: of phase one; ``epochs`` and ``lr`` are those of the phase itself.
        latent: length of z; each half has half of it.
        decoder_widths, adversary_widths: channels of the decoder's and of the discriminator's layers.
        latent_weight, pixel_weight, perceptual_weight, adversarial_weight, attention_weight: of the terms in ``total``.
        comparator: the timm network whose features the perceptual term compares. Without its pretrained weights the
            term is off, and the log says so.
        adversary_lr: of the discriminator's own Adam.
        annotated: share of the training frames whose mask may be read, at most all fakes. Every batch of phase two shows
            some of them, their masks hidden where ``attention_weight`` is zero.
        selection: active: the challenging candidates (:func:`candidates`); random: drawn by the seed.
        clusters: number of clusters of the channel-concept vectors.
    """

    # on the methods of training the validation AUC soon reaches 1, and does not measure locality
    chosen: ClassVar[Literal["validation", "last"]] = "last"

    image_size: int = Field(256, ge=32, multiple_of=32)
    phase: Literal["representation", "regularisation"] = "regularisation"
    representation_epochs: int = Field(15, ge=1, le=1_000_000)
    representation_lr: float = Field(1e-3, gt=0)
    latent: int = Field(128, ge=2, multiple_of=2)
    decoder_widths: tuple[int, ...] = Field((128, 64, 32, 16, 8), min_length=1)
    latent_weight: float = Field(1.0, ge=0)
    pixel_weight: float = Field(0.1, ge=0)
    perceptual_weight: float = Field(0.1, ge=0)
    comparator: str = "vgg16.tv_in1k"
    adversarial_weight: float = Field(0.01, ge=0)
    adversary_lr: float = Field(2e-4, gt=0)
    adversary_widths: tuple[int, ...] = Field((32, 64, 128, 256), min_length=1)
    attention_weight: float = Field(1.0, ge=0)
    annotated: float = Field(0.03, ge=0, le=1)
    selection: Literal["active", "random"] = "active"
    clusters: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.mixup_probability:
            raise ValueError("mixup_probability must be 0: the activations of a mixed image have no target")
        if self.image_size % 2 ** len(self.decoder_widths):
            raise ValueError(f"image_size must be a multiple of {2 ** len(self.decoder_widths)}; or cut decoder_widths")
        return self

    def before(self) -> "Settings | None":
        """The settings of phase one, the same for all settings of phase two."""
        if self.phase == "representation":
            return None
        first = {"phase": "representation", "epochs": self.representation_epochs, "lr": self.representation_lr}
        return type(self)(**self.model_dump(exclude={"attention_weight", "annotated", "selection", "clusters"}) | first)

    def visible(self, table: pd.DataFrame, seed: int, start: papers.Run | None) -> pd.DataFrame:
        """The frames with the masks of all but the annotated fakes of the training split taken out of the table.

        Raises :class:`DfnbError` when the budget or the number of masks leaves none.
        """
        reads_masks = start is not None and self.attention_weight > 0 and (table["split"] == "train").any()
        rows = self.always(table, seed, start) if reads_masks else []
        return frames.keep_masks(table, rows, self.annotated * reads_masks)

    def always(self, table: pd.DataFrame, seed: int, start: papers.Run | None) -> np.ndarray:
        """Positions in the table of the fakes whose masks phase two reads, or would read with an attention loss."""
        if start is None:
            return np.array([], int)
        masked = frames.masked(table)
        budget = round(self.annotated * len(table))
        if self.selection == "random" or not 0 < budget < len(masked):
            return core.rng("annotated", seed).permutation(masked)[:budget]
        order = candidates(start, table, self.clusters)["row"].to_numpy()
        return order[np.isin(order, masked)][:budget]


class Network(papers.Network):
    """Encoder, latent halves, decoder, and the discriminator as ``adversary``."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = backbones.create(settings.backbone, settings.pretrained, num_classes=0, global_pool="")
        self.weights_from = self.encoder.weights_from
        self.normalise = v2.Normalize(settings.mean, settings.std)
        # ImageNet's weights see images normalised as they were trained on; the buffers are saved with the weights.
        given, known = (settings.mean, settings.std), self.encoder.pretrained_cfg
        trained = (known["mean"], known["std"]) if self.weights_from == "ImageNet" else given
        mean, std, trained_mean, trained_std = torch.tensor([*given, *trained]).view(4, 3, 1, 1)
        self.register_buffer("scale", std / trained_std)
        self.register_buffer("shift", (mean - trained_mean) / trained_std)
        self.to_latent = nn.Linear(self.encoder.num_features, settings.latent)
        self.decoder = decoder(settings.latent, settings.decoder_widths, settings.image_size)
        self.adversary = discriminator(settings.adversary_widths) if settings.adversarial_weight else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs by name:

        - ``latent`` z (B, latent), its first half for real, and ``activation`` (B, 2) = [a_T, a_F], a half's mean of |z|;
        - ``cls`` (B, 2): log of the activation, so that its softmax is the score a_F / (a_F + a_T);
        - ``channels`` (B, K): how much each channel of the last map adds to the activation of both halves;
        - ``attention`` (B, 2, h, w), signed, of the real and the fake half: see :meth:`channel_weights`;
        - ``reconstruction`` (B, 3, H, W), normalised as the images are, only in training.
        """
        maps = self.encoder.forward_features(images * self.scale + self.shift)  # f (B, K, h, w)
        pooled = maps.mean((2, 3))
        latent = self.to_latent(pooled)  # z = W mean(f) + b
        activation = latent.unflatten(1, (2, -1)).abs().mean(2)  # a_c = |z_c|_1 / K_c
        weights = self.channel_weights(latent)
        outputs = {"latent": latent, "activation": activation, "cls": (activation + SMALL).log()}
        outputs["channels"] = weights.sum(1) * pooled
        outputs["attention"] = torch.einsum("bck,bkhw->bchw", weights, maps)
        if self.training:
            outputs["reconstruction"] = self.normalise(self.decoder(latent))
        return outputs

    def channel_weights(self, latent: Tensor) -> Tensor:
        """Weights (B, 2, K) of the channels in each half's attention, from z (B, latent).

        The map of unit c is M_c = sum_k w_ck f_k, whose mean over positions is z_c minus its bias (CAM, Zhou et al., CVPR
        2016). A half's attention is the mean over its units of sign(z_c) M_c: the sign is the gradient of |z_c|, and the
        attention's mean over positions is the half's activation, but for the biases.
        """
        signs = latent.sign().unflatten(1, (2, -1))
        return torch.einsum("bcu,cuk->bck", signs, self.to_latent.weight.unflatten(0, (2, -1))) / signs.shape[2]

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """The terms by name, their weighted sum ``total``, and the discriminator's own loss ``adversary``.

        ``total`` and ``adversary`` have disjoint gradients, so that one backward pass serves both optimisers.
        """
        settings = self.settings
        terms = {"latent": latent_loss(outputs, batch["label"]).mean(), **self.reconstruction_losses(outputs, batch)}
        if settings.phase == "regularisation" and settings.attention_weight:
            terms["attention"] = self.attention_loss(outputs, batch)
        total = sum(getattr(settings, f"{name}_weight") * term for name, term in terms.items())
        if self.adversary is not None:
            true, false = self.adversary(batch["image"]), self.adversary(outputs["reconstruction"].detach())
            terms["adversary"] = F.softplus(-true).mean() + F.softplus(false).mean()  # -log D(x) - log(1 - D(x'))
        return terms | {"total": total}

    def reconstruction_losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """How the reconstruction x' differs from the image x: ``pixel``, ``perceptual`` and ``adversarial``, where on."""
        settings, images, restored, terms = self.settings, batch["image"], outputs["reconstruction"], {}
        if settings.pixel_weight:
            terms["pixel"] = F.l1_loss(restored, images)  # |x - x'|_1
        compared = comparator(settings.comparator, images.device) if settings.perceptual_weight else None
        if compared is not None:
            pairs = zip(compared(self.pixels(restored)), compared(self.pixels(images)))
            terms["perceptual"] = torch.stack([F.l1_loss(a, b) for a, b in pairs]).mean()  # |C(x) - C(x')|_1
        if self.adversary is not None:
            frozen = {name: value.detach() for name, value in self.adversary.named_parameters()}
            logits = torch.func.functional_call(self.adversary, frozen, (restored,))
            terms["adversarial"] = F.logsigmoid(-logits).mean()  # log(1 - D(x'))
        return terms

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images as values in [0, 1]."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.settings.mean, self.settings.std))
        return images * std + mean

    def attention_loss(self, outputs: dict[str, Tensor], batch: papers.Batch) -> Tensor:
        """Half of it how far the attention of annotated fakes is from their masks, half that of real frames from their target.

        Each half is the mean over its frames, and zero in a batch without any. A mask is reduced to the map's grid: the
        forged share of each position. Real frames are compared as they are, not divided by their maximum; their target is
        one everywhere for the real half and zero for the fake half.
        """
        annotated = (batch["label"] == 1) & batch["has_mask"]
        located = self.localise(outputs)
        masks = F.adaptive_avg_pool2d(batch["mask"], located.shape[1:])[:, 0]
        fake_loss = mean_square(located[annotated] - masks[annotated])
        real = outputs["attention"][batch["label"] == 0]
        return 0.5 * fake_loss + 0.5 * mean_square(real - real.new_tensor([1, 0])[:, None, None])

    def localise(self, outputs: dict[str, Tensor]) -> Tensor:
        """The fake half's attention above zero (B, h, w), each map divided by its maximum."""
        attention = outputs["attention"][:, 1].clamp(min=0)
        return attention / attention.amax((1, 2), keepdim=True).clamp(min=SMALL)

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """The attention of the fake half."""
        return {"attention": "localise"}

    def monitor(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, float]:
        """The latent loss: whether phase two still tells real from fake while the attention loss falls."""
        return {"latent": latent_loss(outputs, batch["label"]).mean().item()}


def latent_loss(outputs: dict[str, Tensor], label: Tensor) -> Tensor:
    """Each image's |a_T - (1 - l)| + |a_F - l| (B,): the half of its class should be active, the other one not."""
    return (outputs["activation"] - F.one_hot(label, 2)).abs().sum(1)


def mean_square(difference: Tensor) -> Tensor:
    """The mean of the squares; zero for no elements."""
    return difference.square().sum() / max(difference.numel(), 1)


@cache
def comparator(name: str, device: torch.device) -> nn.Module | None:
    """A frozen timm network from images in [0, 1] to its feature maps; None where its pretrained weights are missing.

    It is no part of :class:`Network`, because its weights belong neither into a checkpoint nor to an optimiser.
    """
    with torch.random.fork_rng():
        features = backbones.create(name, True, features_only=True)
    if features.weights_from == "random weights":
        backbones.log.warning("The perceptual term is off: it needs the pretrained weights of %s.", name)
        return None
    normalise = v2.Normalize(features.pretrained_cfg["mean"], features.pretrained_cfg["std"])
    return nn.Sequential(normalise, features).eval().requires_grad_(False).to(device)


def decoder(latent: int, widths: tuple[int, ...], side: int) -> nn.Module:
    """z (B, latent) to an image (B, 3, side, side) in [0, 1]: nearest ×2 and a 3×3 convolution, once for each width."""
    shape = (widths[0], *[side // 2 ** len(widths)] * 2)
    start = nn.Linear(latent, int(np.prod(shape)))
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, following, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(following), nn.ReLU()]
    layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(OrderedDict(start=start, shape=nn.Unflatten(1, shape), layers=nn.Sequential(*layers)))


def discriminator(widths: tuple[int, ...]) -> nn.Module:
    """Images (B, 3, H, W) to logits (B, 1) of being no reconstruction; strided convolutions as in DCGAN (Radford et al.)."""
    layers: list[nn.Module] = []
    for width, following in zip((3, *widths), widths):
        layers += [nn.Conv2d(width, following, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))


# ------------------------------------------------------------- active learning: which masks a person should paint


def candidates(start: papers.Run, table: pd.DataFrame, clusters: int) -> pd.DataFrame:
    """All fakes of a training table in the order in which their masks are asked for; computed once, kept beside phase one.

    All frames are clustered by their concept vectors (K-means, Euclidean, k-means++ by the run's seed). A cluster is
    challenging where phase one's mean latent loss is above that of all frames. The candidates come from the challenging
    clusters in turn, the hardest cluster first, from each the frame nearest to its centre; the other clusters follow in
    the same way. Columns: ``row`` (position in the table), ``video``, ``frame``, ``cluster``, ``challenge`` (the
    cluster's mean loss), ``distance``. Raises :class:`DfnbError` for more clusters than frames.
    """
    if clusters > len(table):
        raise core.DfnbError(f"clusters = {clusters} is more than the {len(table)} training frames; lower it")
    videos, seed = core.digest(table["video"].astype(str).tolist()), start.parameters["seed"]
    facts = {"data": frames.identity(table.attrs["record"]), "videos": videos, "seed": seed, "clusters": clusters}

    def order() -> pd.DataFrame:
        vectors, losses = concepts(start.network(), table)
        vectors = vectors.astype(float)  # the threads of K-means add in any order, which float32 would show
        means = KMeans(clusters, n_init=4, random_state=core.torch_seed("clusters", seed) % 2**32).fit(vectors)
        result = table[["video", "frame"]].astype({"video": str}).reset_index(drop=True)
        result = result.assign(row=np.arange(len(table)), cluster=means.labels_)
        result["challenge"] = pd.Series(losses).groupby(means.labels_).transform("mean")
        result["distance"] = np.linalg.norm(vectors - means.cluster_centers_[means.labels_], axis=1)
        result["easy"] = result["challenge"] <= losses.mean()
        fakes = result[table["label"].to_numpy() == 1].sort_values(["cluster", "distance", "row"])
        fakes["turn"] = fakes.groupby("cluster").cumcount()
        fakes = fakes.sort_values(["easy", "turn", "challenge", "row"], ascending=[True, True, False, True])
        return fakes[["row", "video", "frame", "cluster", "challenge", "distance"]]

    return core.cached(start.folder / f"candidates-{clusters}.parquet", facts, order)


def concepts(network: Network, table: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Channel-concept vectors (n, K) of frames by phase one's network, and its latent loss (n,) on them.

    The vector of a frame is ``channels``: what each channel of the last map adds to the activation. No mask is read.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, parts = network.to(device), []
    for batch in frames.in_order(frames.keep_masks(table, []), network.settings):
        outputs = papers.outputs_of(network, batch["image"].to(device))
        parts.append((outputs["channels"].cpu(), latent_loss(outputs, batch["label"].to(device)).cpu()))
    return tuple(torch.cat(part).numpy() for part in zip(*parts))
