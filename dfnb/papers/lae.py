"""Towards Generalizable Deepfake Detection with Locality-aware AutoEncoder (LAE).

Du, Pentyala, Li, Hu, CIKM 2020, arXiv 1909.05999v2. There is no released code, and the full
text was not available, only its abstract and secondary sources. So this is a documented
interpretation: it implements what the abstract claims, and :class:`Settings` says how it fills the
gaps.

An encoder from timm gives its last map f (B, K, h, w). A linear layer maps the mean of f over
positions to the latent vector z = [z_T, z_F], one half for real (T, true) and one for fake (F). The
*activation* of a half, a_T or a_F, is the mean of its absolute values.
Phase one, *representation*, trains encoder and decoder as an autoencoder, and z as a classifier.
Phase two, *regularisation*, starts from the weights of phase one and pulls the *attention*, the map
of where z_F finds its evidence, towards the masks of a few annotated frames, which active learning
chooses. With ``attention_weight = 0``, phase two trains an autoencoder without locality,
like ForensicTransfer (Cozzolino et al., arXiv 1812.02510).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision.transforms import v2

from dfnb.data.loading import in_order
from dfnb.device import DEVICE, fixed_threads, to_numpy
from dfnb.papers import backbones, contract
from facesets.checks import DfnbError
from facesets.frames import keep_masks, masked_positions
from facesets.seeds import rng, torch_seed

PAPER = contract.Paper(
    title="LAE",
    notebook="03_lae",
    published="LAE",
    version=1,
    small={"decoder_widths": (16, 8, 8), "adversary_widths": (8, 8), "perceptual_weight": 0.0},
)
EPSILON = 1e-6  # keeps logarithms and divisions finite
WITHOUT_COMPARATOR = "set perceptual_weight = 0 to train without the perceptual term"
Outputs = dict[str, Tensor]  # of the network, by name, see Network.forward

Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Widths = Annotated[tuple[int, ...], Field(min_length=1)]


class Settings(contract.Settings):
    """The values of this interpretation; the abstract gives only ``annotated``: below 3 %.

    Fixed without a setting: the decoder sees all of z. Pixels and features are compared by L1. The
    attention is that of the fake half, with its units weighted by sign(z). In its loss annotated
    fakes and real frames have a weight of one half each. The abstract does not say where the
    attention should be on real frames: here the fake half's should be zero and the real half's one
    everywhere, because no single region makes a real face real.

    Attributes:
        phase: representation: all terms but the attention loss; regularisation: all terms, from
            the weights of phase one.
        representation_epochs, representation_lr: of phase one, when this is phase two; ``epochs``
            and ``lr`` are those of the phase that ``phase`` names.
        latent: length of z; each half has half of it.
        decoder_widths, adversary_widths: channels of the layers of the decoder, and of the
            discriminator of images and reconstructions.
        latent_weight, pixel_weight, perceptual_weight, adversarial_weight, attention_weight: the
            weights of the terms in ``total``.
        comparator: the timm network whose features the perceptual term compares, always with its
            pretrained weights; perceptual_weight = 0 does without it.
        adversary_lr: the learning rate of the discriminator's own Adam.
        attention_map: how the map A is made of M_F, and compared with the masks. scaled: its
            positive part, divided by its maximum, by squares. sigmoid: its sigmoid, by
            cross-entropy, and on real frames with zero. Of ten readings sigmoid alone passes the
            test of benchmarks/lae_readings.py. Recorded where it is not scaled, so that runs which
            are older than this setting keep their ids.
        annotated: number of fakes whose mask may be read, as a share of all training frames (the
            abstract: below 3 %). Every batch of phase two shows some of them; if
            ``attention_weight`` is zero, without masks.
        masks: the same as a number of fakes, in place of the share; None: the share counts.
        selection: which fakes are annotated. active: those that :func:`candidates` puts first;
            random: drawn by the seed.
        clusters: number of clusters of frames in the active selection.
    """

    # The validation AUC cannot choose: it soon reaches 1, because validation has the manipulation
    # methods of training, and it does not measure locality.
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
    attention_map: Literal["scaled", "sigmoid"] = Field(
        "scaled", exclude_if=lambda v: v == "scaled"
    )
    annotated: contract.Probability = 0.03
    masks: contract.Count | None = None
    selection: Literal["active", "random"] = "active"
    clusters: contract.Count = 20

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        # The latent loss wants one half of z active, and the other silent, by the image's class.
        if self.mixup_probability:
            raise ValueError(
                "mixup_probability must be 0: the activations of a mixed image have no target"
            )
        enlargement = 2 ** len(self.decoder_widths)  # each layer of the decoder doubles the side
        if self.image_size % enlargement:
            raise ValueError(
                f"image_size must be a multiple of {enlargement}; or cut decoder_widths"
            )
        return self

    def before(self) -> Settings | None:
        """The settings of phase one; None if this is phase one.

        What only phase two uses has its default there, so all variants of phase two start from the
        same run of phase one.
        """
        if self.phase == "representation":
            return None
        phase_two_alone = {
            "attention_weight",
            "attention_map",
            "annotated",
            "masks",
            "selection",
            "clusters",
        }
        values = self.model_dump(exclude=phase_two_alone)
        values["phase"] = "representation"
        values["epochs"] = self.representation_epochs
        values["lr"] = self.representation_lr
        return type(self)(**values)

    def fetch(self) -> None:
        """Download the weights of the comparator, if there is a perceptual term."""
        if self.perceptual_weight:
            backbones.find_start(self.comparator, pretrained=True, remedy=WITHOUT_COMPARATOR)

    def visible(
        self,
        frames: pd.DataFrame,
        seed: int,
        start: Network | None,
    ) -> pd.DataFrame:
        """All frames of a split; the annotated fakes keep their masks, other masks are hidden.

        Fakes are annotated in the train split of phase two alone; ``start``, the network of phase
        one, is None in phase one. The column ``always``, which only this split gets, ranks them
        from 0 (-1: other frames), so that every batch shows some of them. They are shown without an
        attention loss, too, but then their masks are hidden: a comparison with and without this
        loss shows the effect of the masks alone.

        Raises :class:`DfnbError` if there is an attention loss and ``annotated`` is above zero, but
        no fake is annotated: none has a mask, or the share is rounded to no frame.
        """
        is_train_split = (frames["split"] == "train").any()
        if start is None or not is_train_split:
            return keep_masks(frames, [])
        annotated_rows = self._annotated_fakes(frames, seed, start)
        if self.attention_weight:
            # The third argument makes it raise if none is annotated although the share is not zero.
            visible = keep_masks(frames, annotated_rows, self.annotated)
        else:
            visible = keep_masks(frames, [])
        rank = np.full(len(visible), -1)
        rank[annotated_rows] = np.arange(len(annotated_rows))
        return visible.assign(always=rank)  # read by the sampler, see contract.Settings.visible

    def _annotated_fakes(
        self,
        frames: pd.DataFrame,
        seed: int,
        start: Network,
    ) -> np.ndarray:
        """The positions of the annotated fakes in ``frames``, which is the train split."""
        masked_rows = masked_positions(frames)
        # The share is of all frames, real ones included.
        budget = self.masks or round(self.annotated * len(frames))
        # With a budget for none or for all of them, active learning has nothing to choose.
        if self.selection == "random" or not 0 < budget < len(masked_rows):
            return rng("annotated", seed).permutation(masked_rows)[:budget]
        # Positions of all fakes, in the order in which they should be annotated
        candidate_rows = candidates(start, frames, self.clusters, seed)["row"].to_numpy()
        # Candidates are ordered without looking at masks, so some may have none.
        has_mask = np.isin(candidate_rows, masked_rows)
        return candidate_rows[has_mask][:budget]

    def optimisation(
        self, network: contract.Network, steps: int
    ) -> tuple[list[Optimizer], LRScheduler]:
        """The usual optimiser, and of the discriminator's weights an Adam with a constant rate.

        See :meth:`Network.parameter_groups`.
        """
        optimisers, schedule = super().optimisation(network, steps)
        if network.adversary is not None:
            adam = Adam(network.adversary.parameters(), self.adversary_lr)
            optimisers.append(adam)
        return optimisers, schedule


# ---------------------------------------------------------------- the network


class Network(contract.Network):
    """Encoder, latent vector and decoder; and ``adversary``, the discriminator.

    The network maps normalised images (B, 3, H, W) to the outputs that :meth:`forward` lists. The
    discriminator learns to distinguish images from reconstructions, which encoder and decoder learn
    to prevent. It is None without an adversarial term.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = backbones.encoder(
            settings.backbone, settings.pretrained, settings.image_size
        )
        self.weights_from = self.encoder.weights_from
        self.normalise = v2.Normalize(settings.mean, settings.std)  # decoded images are in [0, 1]
        mean = _per_channel(settings.mean)
        std = _per_channel(settings.std)
        # ImageNet's weights need images normalised as in their training; others take ours as it is.
        encoder_mean = mean
        encoder_std = std
        if self.weights_from == "ImageNet":
            encoder_mean = _per_channel(self.encoder.pretrained_cfg["mean"])
            encoder_std = _per_channel(self.encoder.pretrained_cfg["std"])
        # From our normalisation to the encoder's: (std·x + mean - encoder_mean) / encoder_std.
        # As buffers both are part of the checkpoint: a network that is built to load a checkpoint
        # starts from random weights, which do not say with which normalisation it was trained.
        self.register_buffer("scale", std / encoder_std)
        self.register_buffer("shift", (mean - encoder_mean) / encoder_std)
        # Not head_hidden_size: some of timm's networks widen the features behind this map.
        self.to_latent = nn.Linear(self.encoder.num_features, settings.latent)
        self.decoder = decoder(settings.latent, settings.decoder_widths, settings.image_size)
        # The frozen networks with whose features the perceptual loss compares, one per device, made
        # at first use in reconstruction_losses. A dict hides them from torch: as parts of the
        # network they would get into checkpoints and optimisers.
        self.comparators: dict[torch.device, nn.Module] = {}
        self.adversary = None
        if settings.adversarial_weight:
            self.adversary = discriminator(settings.adversary_widths)

    def forward(self, images: Tensor) -> Outputs:
        """The outputs, where a_T and a_F say how active the real and the fake half of z are.

        - ``latent`` (B, latent): z, its first half for real;
        - ``activation`` (B, 2): a = [a_T, a_F], the mean of ``|z|`` in each half;
        - ``cls`` (B, 2): log (a + EPSILON), so that, but for EPSILON, the log-odds are
          log a_F − log a_T, and the score, their sigmoid, is a_F / (a_F + a_T);
        - ``channels`` (B, K): how much each channel of f adds to a_T + a_F, without the part that
          the bias b adds;
        - ``attention`` (B, 2, h, w): M_T and M_F, with positive and negative values;
        - ``reconstruction`` (B, 3, H, W): normalised as the images are; only in training.

        Raises :class:`DfnbError` if the encoder gives no map (B, K, h, w).
        """
        normalised = images * self.scale + self.shift  # as the encoder's weights need it
        maps = self.encoder.forward_features(normalised)  # f (B, K, h, w)
        self._check_map(maps)
        pooled = maps.mean((2, 3))
        latent = self.to_latent(pooled)  # z = W mean(f) + b
        halves = latent.unflatten(1, (2, -1))  # (B, 2, latent / 2)
        activation = halves.abs().mean(2)  # a_c = |z_c|_1 / length of z_c
        weights = self.channel_weights(latent)  # w (B, 2, K)
        outputs = {
            "latent": latent,
            "activation": activation,
            "cls": (activation + EPSILON).log(),
            "channels": weights.sum(1) * pooled,  # (w_Tk + w_Fk) · mean(f_k)
            "attention": torch.einsum("bck,bkhw->bchw", weights, maps),  # M_c = Σ_k w_ck f_k
        }
        if self.training:  # only the losses need it
            outputs["reconstruction"] = self.normalise(self.decoder(latent))
        return outputs

    def _check_map(self, maps: Tensor) -> None:
        """Raise :class:`DfnbError` unless f is (B, K, h, w); most transformers give tokens."""
        if maps.ndim != 4 or maps.shape[1] != self.to_latent.in_features:
            raise DfnbError(
                f"the backbone {self.settings.backbone} gives no feature map with the channels "
                "first, from which LAE makes its attention; choose a convolutional network"
            )

    def channel_weights(self, latent: Tensor) -> Tensor:
        """Weights w (B, 2, K) of the channels of f in the attention of each half of z (B, latent).

        The map of unit u of z is M_u = Σ_k W_uk f_k; its mean over positions is z_u without the
        bias (CAM, Zhou et al., CVPR 2016). The attention of half c is the mean over its units of
        sign(z_u) M_u. So w_ck is the mean of sign(z_u) W_uk. Since sign(z_u) is the gradient of
        ``|z_u|``, this is Grad-CAM of the half's activation a_c, the mean of its ``|z_u|``, but for
        a constant factor and Grad-CAM's ReLU; and without biases the attention's mean over
        positions is a_c. The sign is our choice: the paper's formula, as it is recalled and not
        verified, weights the maps by ``|z_u|``, see notebook 03.
        """
        # w_ck = (1 / units of a half) · Σ_u sign(z_u) W_uk, over the units u of half c
        signs = latent.sign().unflatten(1, (2, -1))  # (B, 2, units of a half)
        unit_weights = self.to_latent.weight.unflatten(0, (2, -1))  # W as (2, units of a half, K)
        return torch.einsum("bcu,cuk->bck", signs, unit_weights) / signs.shape[2]

    def losses(self, outputs: Outputs, batch: contract.Batch) -> dict[str, Tensor]:
        """The terms, their weighted sum ``total``, and the discriminator's loss ``adversary``.

        Each is a scalar, the mean over the batch. The terms are L_lat (``latent``), L_rec (see
        :meth:`reconstruction_losses`) and, in phase two, L_att (``attention``); they are returned
        without their weights. ``adversary`` trains the discriminator alone, so ``total`` leaves it
        out.
        """
        terms = {"latent": latent_loss(outputs, batch["label"]).mean()}
        terms.update(self.reconstruction_losses(outputs, batch))
        if self.settings.phase == "regularisation" and self.settings.attention_weight:
            terms["attention"] = self.attention_loss(outputs, batch)
        total = 0
        for name, term in terms.items():  # weighted by latent_weight, pixel_weight and so on
            total = total + getattr(self.settings, f"{name}_weight") * term
        if self.adversary is not None:
            # D = sigmoid(logits); detach() keeps this loss from training encoder and decoder.
            image_logits = self.adversary(batch["image"])
            restored_logits = self.adversary(outputs["reconstruction"].detach())
            image_loss = F.softplus(-image_logits).mean()  # −log D(x)
            restored_loss = F.softplus(restored_logits).mean()  # −log(1 − D(x̂))
            terms["adversary"] = image_loss + restored_loss
        terms["total"] = total
        return terms

    def reconstruction_losses(
        self,
        outputs: Outputs,
        batch: contract.Batch,
    ) -> dict[str, Tensor]:
        """The terms ``pixel``, ``perceptual`` and ``adversarial`` of L_rec, the loss of x̂.

        x and its reconstruction x̂ are (B, 3, H, W), normalised.

        ``L_rec = β_1 |x − x̂|_1 + β_2 |C(x) − C(x̂)|_1 + β_3 log(1 − D(x̂))``, where C are the
        feature maps of the comparator, D is the discriminator's probability that an image is no
        reconstruction, and β_1 to β_3 are ``pixel_weight``, ``perceptual_weight`` and
        ``adversarial_weight``.

        The terms are returned without their β, by which :meth:`losses` multiplies them. A term
        whose weight is zero is left out.
        """
        settings = self.settings
        images = batch["image"]
        restored = outputs["reconstruction"]
        terms = {}
        if settings.pixel_weight:
            terms["pixel"] = F.l1_loss(restored, images)  # |x − x̂|_1, the mean of all elements
        if settings.perceptual_weight:
            if images.device not in self.comparators:
                self.comparators[images.device] = comparator(settings.comparator, images.device)
            extractor = self.comparators[images.device]  # C: images to a list of maps
            restored_maps = extractor(self.pixels(restored))
            image_maps = extractor(self.pixels(images))
            distances = [F.l1_loss(a, b) for a, b in zip(restored_maps, image_maps)]
            terms["perceptual"] = torch.stack(distances).mean()  # |C(x) − C(x̂)|_1
        if self.adversary is not None:  # None if adversarial_weight is zero
            # This term trains encoder and decoder to deceive the discriminator. The weights of the
            # discriminator are detached: they learn from the term ``adversary`` of losses() alone.
            weights = dict(self.adversary.named_parameters())
            frozen = {name: weight.detach() for name, weight in weights.items()}
            logits = torch.func.functional_call(self.adversary, frozen, (restored,))
            terms["adversarial"] = F.logsigmoid(-logits).mean()  # log(1 − D(x̂))
        return terms

    def pixels(self, images: Tensor) -> Tensor:
        """Undo the normalisation of images (B, 3, H, W): their values are then in [0, 1]."""
        mean = images.new_tensor(self.settings.mean)[:, None, None]
        std = images.new_tensor(self.settings.std)[:, None, None]
        return images * std + mean

    def attention_loss(self, outputs: Outputs, batch: contract.Batch) -> Tensor:
        """The mean of two errors of the attention: on annotated fakes, and on real frames.

        On annotated fakes, :meth:`localise` is compared with the mask, which is reduced to the grid
        of the map: the forged share of each cell. On real frames, the attention of the real half is
        compared with one and that of the fake half with zero. With ``attention_map = "scaled"`` the
        errors are squares, and on real frames the attention is taken as it is, not divided by its
        maximum; with "sigmoid" those of the fake half are cross-entropies. An error is zero if the
        batch has no such frames.
        """
        is_annotated = (batch["label"] == 1) & batch["has_mask"]
        masks = F.adaptive_avg_pool2d(batch["mask"], outputs["attention"].shape[2:])[:, 0]
        masks = masks[is_annotated]  # G, forged shares (n, h, w)
        of_real = outputs["attention"][batch["label"] == 0]  # M_T and M_F (n, 2, h, w)
        if self.settings.attention_map == "sigmoid":
            fake_loss = mean_cross_entropy(outputs["attention"][is_annotated, 1], masks)
            real_half, fake_half = of_real.unbind(1)
            silence = mean_cross_entropy(fake_half, torch.zeros_like(fake_half))
            real_loss = 0.5 * mean_square(real_half - 1) + 0.5 * silence
        else:
            fake_loss = mean_square(self.localise(outputs)[is_annotated] - masks)  # |A − G|²
            target = of_real.new_tensor([1, 0])[:, None, None]  # of M_T and M_F, at any position
            real_loss = mean_square(of_real - target)  # |M_T − 1|² and |M_F|²
        return 0.5 * fake_loss + 0.5 * real_loss  # L_att

    def localise(self, outputs: Outputs) -> Tensor:
        """Where the image is forged: A (B, h, w) in [0, 1], made of M_F by ``attention_map``."""
        attention = outputs["attention"][:, 1]  # M_F
        if self.settings.attention_map == "sigmoid":
            return attention.sigmoid()
        positive = attention.clamp(min=0)
        return positive / positive.amax((1, 2), keepdim=True).clamp(min=EPSILON)

    def maps(self) -> dict[str, str | tuple[str, ...]]:
        """The attention of the fake half, by :meth:`localise`."""
        return {"attention": "localise"}

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """All weights except the discriminator's, which have their own optimiser; with decay."""
        parameters = []
        for name, parameter in self.named_parameters():
            if not name.startswith("adversary."):
                parameters.append(parameter)
        return [{"params": parameters, "weight_decay": weight_decay}]


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)  # broadcasts over images (B, 3, H, W)


def latent_loss(outputs: Outputs, label: Tensor) -> Tensor:
    """L_lat = ``|a_T − (1 − l)| + |a_F − l|`` of each image (B,), where l is its label, 0 or 1.

    The half of the image's class should have activation one, the other half zero. ``outputs`` has
    the ``activation`` (B, 2), that is [a_T, a_F].
    """
    target = F.one_hot(label, 2)  # (B, 2): [1 − l, l]
    return (outputs["activation"] - target).abs().sum(1)


def mean_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """The mean cross-entropy of logits with shares in [0, 1]; zero if there are no elements."""
    total = F.binary_cross_entropy_with_logits(logits, shares, reduction="sum")
    return total / max(logits.numel(), 1)


def mean_square(difference: Tensor) -> Tensor:
    """The mean of the squares; zero if there are no elements."""
    return difference.square().sum() / max(difference.numel(), 1)


def comparator(name: str, device: torch.device) -> nn.Module:
    """A frozen timm network C: images (B, 3, H, W) in [0, 1] to its maps, one per resolution.

    Raises :class:`DfnbError` where its pretrained weights cannot be had.
    """
    # Called for its error alone, which names another remedy than that of create.
    backbones.find_start(name, pretrained=True, remedy=WITHOUT_COMPARATOR)
    with torch.random.fork_rng():  # building it must not change the random numbers of training
        features = backbones.create(name, pretrained=True, features_only=True)
    trained_with = features.pretrained_cfg
    normalise = v2.Normalize(trained_with["mean"], trained_with["std"])
    network = nn.Sequential(normalise, features)
    return network.eval().requires_grad_(False).to(device)


def decoder(latent: int, widths: tuple[int, ...], side: int) -> nn.Module:
    """Layers from z (B, latent) to an image (B, 3, side, side) in [0, 1].

    A linear layer makes a small map, with as many channels as the first width. Then, once per
    width, the map is enlarged by two (nearest neighbour) and convolved by 3×3, to the next width
    (with BatchNorm and ReLU) or at last to three colours (with a sigmoid). So ``side`` is a
    multiple of 2 ** len(widths), as Settings checks.
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
    """Layers from images (B, 3, H, W) to logits (B, 1): high for images, low for reconstructions.

    Strided convolutions as in DCGAN (Radford et al., ICLR 2016), one per width; the logit comes
    from the mean of their last map.
    """
    layers: list[nn.Module] = []
    in_channels = 3
    for width in widths:
        layers.append(nn.Conv2d(in_channels, width, 4, stride=2, padding=1))
        layers.append(nn.LeakyReLU(0.2))
        in_channels = width
    layers.append(nn.AdaptiveAvgPool2d(1))
    layers.append(nn.Flatten())
    layers.append(nn.Linear(in_channels, 1))
    return nn.Sequential(*layers)


# ---------------------------------------------------------------- active learning


def candidates(
    network: Network,
    table: pd.DataFrame,
    clusters: int,
    seed: int,
) -> pd.DataFrame:
    """All fakes of a training table, in the order in which a person should paint their masks.

    All frames are clustered by their concept vectors (:func:`concepts`). A cluster is challenging
    if the mean latent loss of its frames is above that of all frames. The order goes round the
    challenging clusters, from the highest loss to the lowest, and takes one fake from each per
    turn, always the next nearest to the cluster's centre. The other clusters follow in the same
    way.

    Args:
        network: That of phase one, in evaluation mode.
        table: The train split.
        clusters: The number of clusters.
        seed: Of the training; it seeds the clustering.

    Returns:
        One row per fake with the columns ``row`` (position in the table), ``video``, ``frame``,
        ``cluster`` (its number here, not the ``cluster`` of a frames table), ``challenge`` (mean
        latent loss of the cluster) and ``distance`` to its centre.

    Raises:
        DfnbError: there are more clusters than frames.
    """
    if clusters > len(table):
        raise DfnbError(
            f"clusters = {clusters} is more than the {len(table)} training frames; lower it"
        )
    vectors, losses = concepts(network, table)  # (n, K) and (n,) of all n frames
    cluster, distance = clustered(vectors, clusters, seed)
    challenge = pd.Series(losses).groupby(cluster).transform("mean")  # per frame, of its cluster
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
    fakes = frames[table["label"].to_numpy() == 1]  # real ones serve the clustering alone
    fakes = fakes.sort_values(["cluster", "distance", "row"])
    fakes["turn"] = fakes.groupby("cluster").cumcount()  # 0 for the fake nearest to the centre
    # Challenging clusters come first, because False sorts before True; ``row`` breaks ties.
    fakes = fakes.sort_values(["is_easy", "turn", "hardest_first", "row"], ignore_index=True)
    return fakes.drop(columns=["is_easy", "turn", "hardest_first"])


@fixed_threads()  # the number of threads changes the rounding, and so could change what is chosen
def concepts(network: Network, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Concept vectors (n, K) of all frames, and the :func:`latent_loss` (n,) of each.

    The concept vector of a frame is the output ``channels``: how much each of the K channels of f
    adds to the activations of both halves of z, a_T + a_F. No gradient is kept. The network must
    be in evaluation mode.
    """
    network = network.to(DEVICE)
    vectors = []
    losses = []
    without_masks = keep_masks(table, [])  # so no mask is opened
    for batch in in_order(without_masks, network.settings, device=DEVICE):
        outputs = contract.outputs_of(network, batch["image"])
        vectors.append(outputs["channels"].cpu())
        losses.append(latent_loss(outputs, batch["label"]).cpu())
    return to_numpy(torch.cat(vectors)), to_numpy(torch.cat(losses))


def clustered(
    vectors: np.ndarray,
    clusters: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each vector by K-means (best of 4 starts), and its distance to the centre.

    ``vectors`` are (n, K), both results (n,). A cluster is a number from 0.
    """
    from sklearn.cluster import KMeans  # takes a second to import, and most processes need none

    # In float64, because the threads of K-means add in any order, which float32 would show.
    vectors = vectors.astype(float)
    random_state = torch_seed("clusters", seed) % 2**32  # scikit-learn takes 32 bits
    kmeans = KMeans(clusters, n_init=4, random_state=random_state).fit(vectors)
    nearest_centres = kmeans.cluster_centers_[kmeans.labels_]
    distances = np.linalg.norm(vectors - nearest_centres, axis=1)
    return kmeans.labels_, distances
