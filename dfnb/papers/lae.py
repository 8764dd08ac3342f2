"""Towards Generalizable Deepfake Detection with Locality-aware AutoEncoder (LAE).

Du, Pentyala, Li, Hu, CIKM 2020, arXiv 1909.05999v2. There is no released code, and of the text only
the abstract and secondary sources were available. So this is a documented interpretation: it
implements what the abstract claims, and :class:`Settings` says how it fills the gaps.

An encoder from timm gives the last map f (B, K, h, w). The mean of f over positions and a linear
layer give the latent vector z = [z_T, z_F], one half for real and one for fake. Phase one,
*representation*, trains the encoder and an autoencoder. Phase two, *regularisation*, starts from
its weights and pulls the attention towards the masks of a few annotated frames, which active
learning chooses. With ``attention_weight = 0``, phase two trains an autoencoder without locality,
like ForensicTransfer (Cozzolino et al., arXiv 1812.02510).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.transforms import v2

from dfnb.data.frames import keep_masks, masked_positions
from dfnb.data.loading import in_order
from dfnb.papers import backbones, contract
from dfnb.scoring import DEVICE, single_thread
from dfnb.seeds import rng, torch_seed
from dfnb.settings import DfnbError

if TYPE_CHECKING:
    from dfnb.runs import Run

log = logging.getLogger(__name__)

PAPER = contract.Paper("LAE", "03_lae", "LAE")
EPSILON = 1e-6  # keeps logarithms and divisions finite
Outputs = dict[str, Tensor]  # of the network, by name

Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Widths = Annotated[tuple[int, ...], Field(min_length=1)]


class Settings(contract.Settings):
    """The values of this interpretation; the abstract states only ``annotated`` (below 3 %).

    Fixed without a setting: the decoder sees all of z. Pixels and features are compared by L1. The
    attention is that of the fake half, its units weighted by sign(z), negative values cut off, and
    divided by its maximum before it is compared with the mask. The attention loss is L2; annotated
    fakes and real frames have a weight of one half each. The abstract does not say where attention
    should lie on real frames: here the fake half's attention should be zero and the real half's one
    everywhere, because no single region makes a real face real.

    Attributes:
        phase: representation: all terms but the attention loss; regularisation: from the weights
            of phase one.
        representation_epochs, representation_lr: of phase one; ``epochs`` and ``lr`` belong to the
            phase itself.
        latent: length of z; each half has half of it.
        decoder_widths, adversary_widths: channels of the layers of decoder and discriminator.
        latent_weight, pixel_weight, perceptual_weight, adversarial_weight, attention_weight: the
            weights of the terms in ``total``.
        comparator: the timm network whose features the perceptual term compares. If its pretrained
            weights are not available, the term is off, and the log says so.
        adversary_lr: the learning rate of the discriminator's own Adam.
        annotated: share of the training frames whose mask may be read, at most all fakes. Every
            batch of phase two shows some of them; if ``attention_weight`` is zero, without masks.
        selection: active: the frames that :func:`candidates` puts first; random: drawn by the seed.
        clusters: number of clusters of the channel-concept vectors.
    """

    # The validation AUC soon reaches 1, because validation has the methods of training. It does not
    # measure locality.
    chosen: ClassVar[Literal["validation", "last"]] = "last"

    backbone: str = "resnet18.tv_in1k"
    image_size: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    epochs: contract.Epochs = 5
    batch_size: contract.BatchSize = 32
    lr: contract.LearningRate = 1e-4
    schedule: contract.Schedule = "constant"
    phase: Literal["representation", "regularisation"] = "regularisation"
    representation_epochs: contract.Epochs = 15
    representation_lr: Rate = 1e-3
    latent: Annotated[int, Field(ge=2, multiple_of=2)] = 128
    decoder_widths: Widths = (128, 64, 32, 16, 8)
    latent_weight: Weight = 1.0
    pixel_weight: Weight = 0.1
    perceptual_weight: Weight = 0.1
    comparator: str = "vgg16.tv_in1k"
    adversarial_weight: Weight = 0.01
    adversary_lr: Rate = 2e-4
    adversary_widths: Widths = (32, 64, 128, 256)
    attention_weight: Weight = 1.0
    annotated: contract.Probability = 0.03
    selection: Literal["active", "random"] = "active"
    clusters: contract.Count = 20

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.mixup_probability:
            raise ValueError(
                "mixup_probability must be 0: the activations of a mixed image have no target"
            )
        enlargement = 2 ** len(self.decoder_widths)
        if self.image_size % enlargement:
            raise ValueError(
                f"image_size must be a multiple of {enlargement}; or cut decoder_widths"
            )
        return self

    def before(self) -> Settings | None:
        """The settings of phase one, whatever those of phase two alone are."""
        if self.phase == "representation":
            return None
        phase_two_alone = {"attention_weight", "annotated", "selection", "clusters"}
        values = self.model_dump(exclude=phase_two_alone)
        values["phase"] = "representation"
        values["epochs"] = self.representation_epochs
        values["lr"] = self.representation_lr
        return type(self)(**values)

    def visible(self, frames: pd.DataFrame, seed: int, start: Run | None) -> pd.DataFrame:
        """All frames, with the masks of the annotated fakes of the train split alone.

        Without an attention loss their masks are hidden, too, but every batch shows some of the
        same frames. So a comparison with and without it shows the effect of the masks alone.

        Raises :class:`DfnbError` when the budget or the number of masks leaves no annotated fake.
        """
        is_train_split = (frames["split"] == "train").any()
        if start is None or not is_train_split:
            return keep_masks(frames, [])
        annotated = self._annotated_fakes(frames, seed, start)
        if self.attention_weight:
            visible = keep_masks(frames, annotated, self.annotated)
        else:
            visible = keep_masks(frames, [])
        visible.attrs["always"] = annotated.tolist()
        return visible

    def _annotated_fakes(self, frames: pd.DataFrame, seed: int, start: Run) -> np.ndarray:
        """Their positions in the train split."""
        with_mask = masked_positions(frames)
        budget = round(self.annotated * len(frames))
        if self.selection == "random" or not 0 < budget < len(with_mask):
            return rng("annotated", seed).permutation(with_mask)[:budget]
        order = candidates(start, frames, self.clusters)["row"].to_numpy()
        with_mask_in_order = order[np.isin(order, with_mask)]
        return with_mask_in_order[:budget]

    def optimisation(
        self, network: contract.Network, steps: int
    ) -> tuple[list[Optimizer], LRScheduler]:
        """The discriminator has an Adam of its own, at a constant learning rate."""
        optimisers, schedule = super().optimisation(network, steps)
        if network.adversary is not None:
            adam = Adam(network.adversary.parameters(), self.adversary_lr)
            optimisers.append(adam)
        return optimisers, schedule


# ---------------------------------------------------------------- the network


class Network(contract.Network):
    """Encoder, latent vector, decoder, and the discriminator as ``adversary``."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = backbones.create(
            settings.backbone, settings.pretrained, num_classes=0, global_pool=""
        )
        self.weights_from = self.encoder.weights_from
        self.normalise = v2.Normalize(settings.mean, settings.std)
        mean = _per_channel(settings.mean)
        std = _per_channel(settings.std)
        encoder_mean = mean
        encoder_std = std
        if self.weights_from == "ImageNet":  # the encoder expects images as ImageNet's were
            encoder_mean = _per_channel(self.encoder.pretrained_cfg["mean"])
            encoder_std = _per_channel(self.encoder.pretrained_cfg["std"])
        # From our normalisation to the encoder's. As buffers they are part of the checkpoint: a
        # finished run is opened without pretrained weights.
        self.register_buffer("scale", std / encoder_std)
        self.register_buffer("shift", (mean - encoder_mean) / encoder_std)
        self.to_latent = nn.Linear(self.encoder.num_features, settings.latent)
        self.decoder = decoder(settings.latent, settings.decoder_widths, settings.image_size)
        self.adversary = None
        if settings.adversarial_weight:
            self.adversary = discriminator(settings.adversary_widths)

    def forward(self, images: Tensor) -> Outputs:
        """Outputs by name.

        - ``latent`` (B, latent): z, its first half for real;
        - ``activation`` (B, 2): a = [a_T, a_F], the mean of |z| in each half;
        - ``cls`` (B, 2): log a, so that the log-odds are log a_F − log a_T, and the score, their
          sigmoid, is a_F / (a_F + a_T);
        - ``channels`` (B, K): what each channel of f adds to a_T + a_F;
        - ``attention`` (B, 2, h, w): of the real and of the fake half, signed;
        - ``reconstruction`` (B, 3, H, W): normalised as the images are; only in training.
        """
        maps = self.encoder.forward_features(images * self.scale + self.shift)  # f (B, K, h, w)
        pooled = maps.mean((2, 3))
        latent = self.to_latent(pooled)  # z = W mean(f) + b
        halves = latent.unflatten(1, (2, -1))
        activation = halves.abs().mean(2)  # a_c = |z_c|_1 / K_c
        weights = self.channel_weights(latent)
        outputs = {
            "latent": latent,
            "activation": activation,
            "cls": (activation + EPSILON).log(),
            "channels": weights.sum(1) * pooled,
            "attention": torch.einsum("bck,bkhw->bchw", weights, maps),
        }
        if self.training:
            outputs["reconstruction"] = self.normalise(self.decoder(latent))
        return outputs

    def channel_weights(self, latent: Tensor) -> Tensor:
        """Weights (B, 2, K) of the channels of f in the attention of each half, from z (B, latent).

        The map of unit u is M_u = Σ_k W_uk f_k; its mean over positions is z_u without the bias
        (CAM, Zhou et al., CVPR 2016). The attention of a half is the mean over its units of
        sign(z_u) M_u. Since sign(z_u) is the gradient of |z_u|, this is Grad-CAM of the half's
        activation, and without biases its mean over positions is the activation.
        """
        signs = latent.sign().unflatten(1, (2, -1))
        unit_weights = self.to_latent.weight.unflatten(0, (2, -1))
        return torch.einsum("bcu,cuk->bck", signs, unit_weights) / signs.shape[2]

    def losses(self, outputs: Outputs, batch: contract.Batch) -> dict[str, Tensor]:
        """The terms, their weighted sum ``total``, and the discriminator's loss ``adversary``."""
        terms = {"latent": latent_loss(outputs, batch["label"]).mean()}
        terms.update(self.reconstruction_losses(outputs, batch))
        if self.settings.phase == "regularisation" and self.settings.attention_weight:
            terms["attention"] = self.attention_loss(outputs, batch)
        total = 0
        for name, term in terms.items():
            total = total + getattr(self.settings, f"{name}_weight") * term
        if self.adversary is not None:
            logits = self.adversary(batch["image"])
            restored_logits = self.adversary(outputs["reconstruction"].detach())
            image_loss = F.softplus(-logits).mean()  # −log D(x)
            restored_loss = F.softplus(restored_logits).mean()  # −log(1 − D(x'))
            terms["adversary"] = image_loss + restored_loss
        terms["total"] = total
        return terms

    def reconstruction_losses(self, outputs: Outputs, batch: contract.Batch) -> dict[str, Tensor]:
        """How far reconstructions x' are from images x: ``pixel``, ``perceptual``, ``adversarial``.

        A term whose weight is zero is left out.
        """
        settings = self.settings
        images = batch["image"]
        restored = outputs["reconstruction"]
        terms = {}
        if settings.pixel_weight:
            terms["pixel"] = F.l1_loss(restored, images)  # |x − x'|_1
        if settings.perceptual_weight:
            compared = comparator(settings.comparator, images.device)
            if compared is not None:
                of_restored = compared(self.pixels(restored))
                of_images = compared(self.pixels(images))
                distances = [
                    F.l1_loss(ours, theirs) for ours, theirs in zip(of_restored, of_images)
                ]
                terms["perceptual"] = torch.stack(distances).mean()  # |C(x) − C(x')|_1
        if self.adversary is not None:
            # The discriminator's own weights get no gradient from this term.
            weights = dict(self.adversary.named_parameters())
            frozen = {name: weight.detach() for name, weight in weights.items()}
            logits = torch.func.functional_call(self.adversary, frozen, (restored,))
            terms["adversarial"] = F.logsigmoid(-logits).mean()  # log(1 − D(x'))
        return terms

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images as values in [0, 1]."""
        mean = images.new_tensor(self.settings.mean)[:, None, None]
        std = images.new_tensor(self.settings.std)[:, None, None]
        return images * std + mean

    def attention_loss(self, outputs: Outputs, batch: contract.Batch) -> Tensor:
        """The mean of two squared errors: on annotated fakes, and on real frames.

        On annotated fakes, the located region is compared with the mask, which is reduced to the
        grid of the map: the forged share of each cell. On real frames, the attention of the real
        half is compared with one and that of the fake half with zero, both as they are, not divided
        by their maximum. An error is zero where the batch has no such frames.
        """
        is_annotated = (batch["label"] == 1) & batch["has_mask"]
        located = self.localise(outputs)[is_annotated]
        masks = F.adaptive_avg_pool2d(batch["mask"], located.shape[1:])
        masks = masks[is_annotated, 0]
        fake_loss = mean_square(located - masks)  # |A_F / max A_F − m|²
        real_attention = outputs["attention"][batch["label"] == 0]
        target = real_attention.new_tensor([1, 0])[:, None, None]
        real_loss = mean_square(real_attention - target)  # |A_T − 1|² and |A_F|²
        return 0.5 * fake_loss + 0.5 * real_loss

    def localise(self, outputs: Outputs) -> Tensor:
        """The positive attention of the fake half (B, h, w), each map divided by its maximum."""
        attention = outputs["attention"][:, 1].clamp(min=0)
        largest = attention.amax((1, 2), keepdim=True)
        return attention / largest.clamp(min=EPSILON)

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """The attention of the fake half."""
        return {"attention": "localise"}

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """All weights but those of the discriminator, with decay."""
        parameters = []
        for name, parameter in self.named_parameters():
            if not name.startswith("adversary."):
                parameters.append(parameter)
        return [{"params": parameters, "weight_decay": weight_decay}]


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def latent_loss(outputs: Outputs, label: Tensor) -> Tensor:
    """|a_T − (1 − y)| + |a_F − y| of each image (B,), where y is its label.

    The half of the image's class should have activation one, the other half zero.
    """
    target = F.one_hot(label, 2)
    return (outputs["activation"] - target).abs().sum(1)


def mean_square(difference: Tensor) -> Tensor:
    """The mean of the squares; zero if there are no elements."""
    return difference.square().sum() / max(difference.numel(), 1)


@cache
def comparator(name: str, device: torch.device) -> nn.Module | None:
    """A frozen timm network C from images in [0, 1] to its feature maps.

    None if its pretrained weights are not available. It is not a part of :class:`Network`, because
    its weights belong neither into a checkpoint nor to an optimiser.
    """
    with torch.random.fork_rng():
        features = backbones.create(name, pretrained=True, features_only=True)
    if features.weights_from == "random weights":
        log.warning("The perceptual term is off: it needs the pretrained weights of %s.", name)
        return None
    trained_with = features.pretrained_cfg
    normalise = v2.Normalize(trained_with["mean"], trained_with["std"])
    network = nn.Sequential(normalise, features)
    return network.eval().requires_grad_(False).to(device)


def decoder(latent: int, widths: tuple[int, ...], side: int) -> nn.Module:
    """From z (B, latent) to an image (B, 3, side, side) in [0, 1].

    For each width, the map is enlarged by two (nearest neighbour) and convolved by 3×3.
    """
    small_side = side // 2 ** len(widths)
    shape = (widths[0], small_side, small_side)
    start = nn.Linear(latent, widths[0] * small_side * small_side)
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(nn.Conv2d(width, next_width, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(next_width))
        layers.append(nn.ReLU())
    layers.append(nn.Upsample(scale_factor=2))
    layers.append(nn.Conv2d(widths[-1], 3, 3, padding=1))
    layers.append(nn.Sigmoid())
    parts = {
        "start": start,
        "shape": nn.Unflatten(1, shape),
        "layers": nn.Sequential(*layers),
    }
    return nn.Sequential(OrderedDict(parts))


def discriminator(widths: tuple[int, ...]) -> nn.Module:
    """Images (B, 3, H, W) to logits (B, 1) of being an image and no reconstruction.

    Strided convolutions as in DCGAN (Radford et al., ICLR 2016).
    """
    layers: list[nn.Module] = []
    inputs = 3
    for width in widths:
        layers.append(nn.Conv2d(inputs, width, 4, stride=2, padding=1))
        layers.append(nn.LeakyReLU(0.2))
        inputs = width
    layers.append(nn.AdaptiveAvgPool2d(1))
    layers.append(nn.Flatten())
    layers.append(nn.Linear(inputs, 1))
    return nn.Sequential(*layers)


# ---------------------------------------------------------------- active learning


def candidates(start: Run, table: pd.DataFrame, clusters: int) -> pd.DataFrame:
    """All fakes of a training table, in the order in which a person should paint their masks.

    All frames are clustered by their concept vectors (:func:`concepts`). A cluster is challenging
    if the mean latent loss of its frames is above that of all frames. The order takes one fake from
    each challenging cluster in turn, first from the cluster with the highest loss, and from a
    cluster first the fake nearest to its centre. The other clusters follow in the same way.

    Args:
        start: The run of phase one; its seed seeds the clustering.
        table: The train split.
        clusters: The number of clusters.

    Returns:
        One row per fake with the columns ``row`` (position in the table), ``video``, ``frame``,
        ``cluster``, ``challenge`` (mean latent loss of the cluster) and ``distance`` to its centre.

    Raises:
        DfnbError: there are more clusters than frames.
    """
    if clusters > len(table):
        raise DfnbError(
            f"clusters = {clusters} is more than the {len(table)} training frames; lower it"
        )
    vectors, losses = concepts(start.network(), table)
    cluster, distance = clustered(vectors, clusters, start.parameters["seed"])
    challenge = pd.Series(losses).groupby(cluster).transform("mean")
    frames = pd.DataFrame(
        {
            "row": np.arange(len(table)),
            "video": table["video"].astype(str).to_numpy(),
            "frame": table["frame"].to_numpy(),
            "cluster": cluster,
            "challenge": challenge,
            "distance": distance,
        }
    )
    frames["is_easy"] = challenge <= losses.mean()
    frames["hardest_first"] = -challenge
    fakes = frames[table["label"].to_numpy() == 1]
    fakes = fakes.sort_values(["cluster", "distance", "row"])
    fakes["turn"] = fakes.groupby("cluster").cumcount()
    fakes = fakes.sort_values(["is_easy", "turn", "hardest_first", "row"], ignore_index=True)
    return fakes.drop(columns=["is_easy", "turn", "hardest_first"])


@single_thread()
def concepts(network: Network, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Channel-concept vectors (n, K) of all frames, and the latent loss (n,) of each.

    The vector of a frame is the output ``channels``. No mask is read.
    """
    network = network.to(DEVICE)
    vectors = []
    losses = []
    without_masks = keep_masks(table, [])
    for batch in in_order(without_masks, network.settings):
        images = batch["image"].to(DEVICE)
        label = batch["label"].to(DEVICE)
        outputs = contract.outputs_of(network, images)
        vectors.append(outputs["channels"].cpu())
        losses.append(latent_loss(outputs, label).cpu())
    return torch.cat(vectors).numpy(), torch.cat(losses).numpy()


def clustered(vectors: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cluster (n,) of vectors (n, K) by K-means, and their distance (n,) to its centre."""
    # In float32 the order in which the threads of K-means add would show.
    vectors = vectors.astype(float)
    random_state = torch_seed("clusters", seed) % 2**32
    means = KMeans(clusters, n_init=4, random_state=random_state).fit(vectors)
    centres = means.cluster_centers_[means.labels_]
    distances = np.linalg.norm(vectors - centres, axis=1)
    return means.labels_, distances
