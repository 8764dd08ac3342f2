"""Towards Generalizable Deepfake Detection with Locality-aware AutoEncoder (LAE).

Du, Pentyala, Li, Hu, CIKM 2020, arXiv 1909.05999v2. There is no released code, and of the text only the abstract and
secondary sources were at hand: this is a documented interpretation. What the abstract claims is here whole; what it
leaves open is a setting, marked "open" below, whose effect notebook 03 measures.

An encoder from timm gives the last map f (B, K, h, w); its mean over positions and a linear layer give the latent
vector z = [z_T, z_F], one half for real and one for fake. Phase one learns the representation; phase two goes on from
its weights and pulls the attention towards the masks of the annotated frames, which active learning chooses. With
``attention_weight = 0`` phase two is that of an autoencoder without locality, in the manner of ForensicTransfer
(Cozzolino et al., arXiv 1812.02510).
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dfnb import core, papers
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.papers import backbones

if TYPE_CHECKING:
    from dfnb.train import Run

VERSION = 1
SMALL = 1e-6

log = logging.getLogger(__name__)


class Settings(papers.Settings):
    """The interpretation's values: every field here but ``annotated`` (below 3 %, abstract) is open.

    Attributes:
        phase: representation: all terms but the attention loss; regularisation: from the weights of phase one.
        representation_epochs, representation_lr: of phase one; ``epochs`` and ``lr`` are those of the phase itself.
        latent: length of z; each half has half of it.
        losing_half: kept: all of z is decoded; zeroed: without the half that loses, as in ForensicTransfer.
        pixel_norm: of the difference of image and reconstruction.
        comparator: the timm network whose features the perceptual term compares; without its pretrained weights the
            term is off, and the log says so.
        attention_units: which units' maps make the attention: those of both halves, or of the fake half, which a real
            face should not excite.
        unit_weights: sign: by sign(z), which agrees with the gradient of the activation; magnitude: by abs(z), which
            has the wrong sign for units below zero.
        normalisation: of the attention before it meets the mask: none, by its maximum (of what is above zero), or from
            minimum to maximum.
        attention_norm: of the difference of attention and mask; outside: only what lies outside the mask counts.
        real_target: nothing: real frames have no target; zero: they are not to excite the fake half anywhere; even: nor
            the real half here more than there, since nowhere in particular is a real face real.
        annotated: share of the training frames whose mask may be read, at most all fakes.
        selection: active: the challenging candidates (:func:`candidates`); random: drawn by the seed.
        clusters: of the channel-concept vectors.
        annotations: name of a folder of ``annotations/`` with masks that a person painted (``dfnb annotate``), which
            then are the only ones read.
        adversary_lr, adversary_widths: of the discriminator, which has an Adam of its own.
    """

    chosen: ClassVar[Literal["validation", "last"]] = "last"  # AUC on seen methods is soon 1, and says little

    backbone: str = "resnet18"
    image_size: int = Field(256, ge=32, multiple_of=32)
    epochs: int = Field(5, ge=1)
    lr: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=2)
    schedule: Literal["constant", "step", "onecycle", "cosine"] = "constant"
    phase: Literal["representation", "regularisation"] = "regularisation"
    representation_epochs: int = Field(15, ge=1)
    representation_lr: float = Field(1e-3, gt=0)
    latent: int = Field(128, ge=2, multiple_of=2)
    decoder_widths: tuple[int, ...] = Field((128, 64, 32, 16, 8), min_length=1)
    losing_half: Literal["kept", "zeroed"] = "kept"
    latent_weight: float = Field(1.0, ge=0)
    pixel_weight: float = Field(0.1, ge=0)
    pixel_norm: Literal["l1", "l2"] = "l1"
    perceptual_weight: float = Field(0.1, ge=0)
    comparator: str = "vgg16"
    adversarial_weight: float = Field(0.01, ge=0)
    adversary_lr: float = Field(2e-4, gt=0)
    adversary_widths: tuple[int, ...] = Field((32, 64, 128, 256), min_length=1)
    attention_weight: float = Field(3.0, ge=0)
    attention_units: Literal["all", "fake"] = "fake"
    unit_weights: Literal["sign", "magnitude"] = "sign"
    normalisation: Literal["none", "maximum", "range"] = "maximum"
    attention_norm: Literal["l1", "l2", "outside"] = "l2"
    real_target: Literal["nothing", "zero", "even"] = "even"
    annotated: float = Field(0.03, ge=0, le=1)
    selection: Literal["active", "random"] = "active"
    clusters: int = Field(20, ge=1)
    annotations: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.mixup_probability:
            raise ValueError("mixup_probability must be 0: the activations of a mixed image have no target")
        if self.image_size % 2 ** len(self.decoder_widths):
            least = 2 ** len(self.decoder_widths)
            raise ValueError(f"image_size must be a multiple of {least}, or decoder_widths fewer")
        return self

    def before(self) -> Settings | None:
        """The settings of phase one, the same for all settings of phase two."""
        if self.phase == "representation":
            return None
        second = ("attention", "unit_weights", "normalisation", "real_target", "annot", "selection", "clusters")
        defaults = {name: field.default for name, field in type(self).model_fields.items() if name.startswith(second)}
        first = {"phase": "representation", "epochs": self.representation_epochs, "lr": self.representation_lr}
        return self.model_copy(update=defaults | first)

    def visible(self, table: pd.DataFrame, seed: int, start: Run | None) -> pd.DataFrame:
        """The frames with the masks of all but the annotated fakes taken out of the table."""
        masked = frames.masked(table)
        validation = (table["split"] != "train").all()
        if validation or start is None or not (self.attention_weight and (self.annotated or self.annotations)):
            return frames.keep_masks(table, [])
        if self.annotations:
            return painted(self.annotations, table)
        budget = round(self.annotated * len(table))
        if not budget or not len(masked):
            raise DfnbError(
                f"{table.attrs.get('folder', 'the frames table')} has masks for {len(masked)} of {len(table)} frames, and "
                f"the share annotated = {self.annotated:g} of them is none; raise it, or prepare the dataset with masks"
            )
        if self.selection == "active" and budget < len(masked):
            order = candidates(start, table, self.clusters)["row"].to_numpy()
            order = order[np.isin(order, masked)]
        else:
            order = core.rng("annotated", seed).permutation(masked)
        return frames.keep_masks(table, order[:budget])


class Network(nn.Module):
    """Images (B, 3, H, W) to the outputs of :meth:`forward`; ``adversary`` is the discriminator, trained in turn."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = backbones.create(settings.backbone, settings.pretrained, num_classes=0, global_pool="")
        self.pretrained_loaded = self.encoder.pretrained_loaded
        self.to_latent = nn.Linear(self.encoder.num_features, settings.latent)
        self.decoder = Decoder(settings.latent, settings.decoder_widths, settings.image_size)
        self.adversary = discriminator(settings.adversary_widths) if settings.adversarial_weight else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs by name:

        - ``latent`` z (B, latent), its first half for real, and ``activation`` (B, 2) = [a_T, a_F], a half's mean of |z|;
        - ``cls`` (B, 2): log of the activation, so that its softmax is the score a_F / (a_F + a_T);
        - ``channels`` (B, K): how much each channel of the last map adds to the activation of both halves;
        - ``attention`` (B, 2, h, w), signed, of the real and the fake half: see :meth:`attend`;
        - ``reconstruction`` (B, 3, H, W), only in training.
        """
        maps = self.encoder.forward_features(images)
        pooled = maps.mean((2, 3))
        latent = self.to_latent(pooled)
        activation = latent.unflatten(1, (2, -1)).abs().mean(2)
        weights = self.attend(latent)
        outputs = {
            "latent": latent,
            "activation": activation,
            "cls": (activation + SMALL).log(),
            "channels": weights.sum(1) * pooled,
            "attention": torch.einsum("bck,bkhw->bchw", weights, maps),
        }
        if self.training:
            outputs["reconstruction"] = self.decode(latent)
        return outputs

    def attend(self, latent: Tensor) -> Tensor:
        """Weights (B, 2, K) of the channels in each half's attention, from z (B, latent).

        The map of unit c is M_c = sum_k w_ck f_k, whose mean over positions is z_c minus its bias (CAM, Zhou et al., CVPR
        2016); a half's attention is the mean over its units of s(z_c) M_c, so that with signs as weights its mean over
        positions is the half's activation, but for the biases.
        """
        signs = latent.sign() if self.settings.unit_weights == "sign" else latent.abs()
        halves, weight = signs.unflatten(1, (2, -1)), self.to_latent.weight.unflatten(0, (2, -1))
        return torch.einsum("bcu,cuk->bck", halves, weight) / halves.shape[2]

    def look(self, outputs: dict[str, Tensor]) -> Tensor:
        """The attention (B, h, w) that is compared with masks: of the chosen units."""
        attention = outputs["attention"]
        return attention[:, 1] if self.settings.attention_units == "fake" else attention.sum(1)

    def decode(self, latent: Tensor) -> Tensor:
        """The reconstruction (B, 3, H, W) in [-1, 1] of z (B, latent)."""
        if self.settings.losing_half == "zeroed":
            halves = latent.unflatten(1, (2, -1))
            activation = halves.abs().mean(2)
            wins = activation >= activation.flip(1)
            latent = (halves * wins[..., None]).flatten(1)
        return self.decoder(latent)

    @cached_property
    def _comparator(self) -> nn.Module | None:
        """Not a submodule: it is frozen, and its weights belong into no checkpoint."""
        with torch.random.fork_rng():
            network = backbones.create(self.settings.comparator, True, features_only=True)
        if not network.pretrained_loaded:
            log.warning("The perceptual term is off: it needs the pretrained weights of %s.", self.settings.comparator)
            return None
        return network.eval().requires_grad_(False)

    def losses(self, outputs: dict[str, Tensor], batch: papers.Batch) -> dict[str, Tensor]:
        """The weighted terms' sum ``total``, the terms by name, and the discriminator's own loss ``adversary``.

        ``attention`` is left out of a batch that has nothing to compare, and zero there.
        """
        settings, fake = self.settings, batch["label"].float()
        images, restored = batch["image"], outputs["reconstruction"]
        real_half, fake_half = outputs["activation"].unbind(1)
        terms = {"latent": ((real_half - (1 - fake)).abs() + (fake_half - fake).abs()).mean()}
        weights = {"latent": settings.latent_weight}
        if settings.pixel_weight:
            terms["pixel"] = NORMS[settings.pixel_norm](restored, images)
            weights["pixel"] = settings.pixel_weight
        if settings.perceptual_weight and self._comparator:
            compare = self.__dict__["_comparator"] = self._comparator.to(images.device)
            pairs = zip(compare(restored), compare(images))
            terms["perceptual"] = torch.stack([F.l1_loss(a, b) for a, b in pairs]).mean()
            weights["perceptual"] = settings.perceptual_weight
        if self.adversary is not None:
            frozen = {name: value.detach() for name, value in self.adversary.state_dict(keep_vars=True).items()}
            judged = torch.func.functional_call(self.adversary, frozen, (restored,))
            terms["adversarial"] = F.logsigmoid(-judged).mean()  # log(1 - D(restored)), to be made small
            weights["adversarial"] = settings.adversarial_weight
            true, false = self.adversary(images), self.adversary(restored.detach())
            terms["adversary"] = F.softplus(-true).mean() + F.softplus(false).mean()
        if settings.phase == "regularisation" and settings.attention_weight:
            terms["attention"] = self.attention_loss(outputs, batch)
            weights["attention"] = settings.attention_weight
        return terms | {"total": sum(weight * terms[name] for name, weight in weights.items())}

    def attention_loss(self, outputs: dict[str, Tensor], batch: papers.Batch) -> Tensor:
        """How far the attention of annotated fakes is from their masks, and that of real frames from their target.

        The mean over the two kinds, where the batch has them, each the mean over its frames. A mask is reduced to the
        map's grid: the forged share of each position. Real frames are compared as they are, without normalisation.
        """
        settings, found = self.settings, []
        if (annotated := (batch["label"] == 1) & batch["has_mask"]).any():
            attention = self.look(outputs)[annotated]
            if settings.normalisation == "maximum":
                attention = attention.clamp(min=0)
            elif settings.normalisation == "range":
                attention = attention - attention.amin((1, 2), keepdim=True)
            if settings.normalisation != "none":
                attention = attention / attention.amax((1, 2), keepdim=True).clamp(min=SMALL)
            masks = F.adaptive_avg_pool2d(batch["mask"][annotated], attention.shape[-2:])[:, 0]
            found.append(NORMS[settings.attention_norm](attention, masks))
        if settings.real_target != "nothing" and (real := batch["label"] == 0).any():
            halves = outputs["attention"][real]
            target = torch.zeros_like(halves)
            if settings.real_target == "even":
                target[:, 0] = 1
            else:
                halves, target = halves[:, 1], target[:, 1]
            found.append(
                NORMS["l2" if settings.attention_norm == "outside" else settings.attention_norm](halves, target)
            )
        return torch.stack(found).mean() if found else outputs["attention"].sum() * 0

    def score(self, outputs: dict[str, Tensor]) -> Tensor:
        """P(fake) (B,) = a_F / (a_F + a_T): above 1/2 where the fake half is the more active one, the paper's decision."""
        return outputs["cls"].float().softmax(1)[:, 1]

    def localise(self, outputs: dict[str, Tensor]) -> Tensor:
        """The attention above zero (B, h, w), each map divided by its maximum."""
        attention = self.look(outputs).clamp(min=0)
        return attention / attention.amax((1, 2), keepdim=True).clamp(min=SMALL)


def _outside(attention: Tensor, masks: Tensor) -> Tensor:
    return (attention.abs() * (1 - masks)).mean()


NORMS = {"l1": F.l1_loss, "l2": F.mse_loss, "outside": _outside}


class Decoder(nn.Module):
    """z (B, latent) to an image (B, 3, side, side) in [-1, 1]: nearest ×2 and a 3×3 convolution, once for each width."""

    def __init__(self, latent: int, widths: tuple[int, ...], side: int) -> None:
        super().__init__()
        self.shape = (widths[0], *[side // 2 ** len(widths)] * 2)
        self.start = nn.Linear(latent, int(np.prod(self.shape)))
        layers: list[nn.Module] = []
        for width, following in zip(widths, (*widths[1:], 0)):
            last = not following
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, following or 3, 3, padding=1, bias=last)]
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(following), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """The image."""
        return self.layers(self.start(latent).unflatten(1, self.shape))


def discriminator(widths: tuple[int, ...]) -> nn.Module:
    """Images (B, 3, H, W) to logits (B, 1) of being no reconstruction; strided convolutions as in DCGAN (Radford et al.)."""
    layers: list[nn.Module] = []
    for width, following in zip((3, *widths), widths):
        layers += [nn.Conv2d(width, following, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))


# ------------------------------------------------------------------------------------------------------ active learning


@torch.inference_mode()
def concepts(start: Run, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Channel-concept vectors (n, K) of frames by phase one's network, and its latent loss (n,) on them.

    The vector of a frame is ``channels``: what each channel of the last map adds to the activation. No mask is read.
    """
    settings = start.settings
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = start.network().to(device, memory_format=torch.channels_last)
    data = frames.FrameDataset(frames.keep_masks(table, []), settings.image_size, settings.mean, settings.std)
    vectors, losses = [], []
    for batch in DataLoader(data, sampler=[(0, i, i) for i in range(len(data))], batch_size=64):
        outputs = network(batch["image"].to(device, memory_format=torch.channels_last))
        wanted = F.one_hot(batch["label"], 2).to(device)
        vectors.append(outputs["channels"].float().cpu())
        losses.append((outputs["activation"] - wanted).abs().sum(1).float().cpu())
    return torch.cat(vectors).numpy(), torch.cat(losses).numpy()


def candidates(start: Run, table: pd.DataFrame, clusters: int) -> pd.DataFrame:
    """All fakes of a training table in the order in which their masks are asked for; computed once, kept in the run.

    All frames are clustered by their concept vectors (K-means, Euclidean, k-means++ by the run's seed). A cluster is
    challenging where phase one's mean latent loss is above that of all frames. The candidates come from the challenging
    clusters in turn, the hardest cluster first, from each the frame nearest to its centre; the other clusters follow in
    the same way. Columns: ``row`` (position in the table), ``video``, ``frame``, ``cluster``, ``challenge`` (the
    cluster's mean loss), ``distance``.
    """
    chosen = {"table": core.digest([table.attrs["fingerprint"], table["video"].astype(str).tolist()]), "k": clusters}
    path = start.folder / f"candidates-{core.digest(chosen, 8)}.csv"
    if path.exists():
        return pd.read_csv(path)
    vectors, losses = concepts(start, table)
    if clusters > len(vectors):
        raise DfnbError(f"clusters = {clusters} is more than the {len(vectors)} training frames; lower it")
    seed = core.torch_seed("clusters", start.record["parameters"]["seed"]) % 2**32
    means = KMeans(clusters, n_init=4, random_state=seed).fit(vectors)
    result = table[["video", "frame"]].astype({"video": str}).reset_index(drop=True)
    result = result.assign(row=np.arange(len(result)), cluster=means.labels_)
    result["challenge"] = pd.Series(losses).groupby(means.labels_).transform("mean")
    result["distance"] = np.linalg.norm(vectors - means.cluster_centers_[means.labels_], axis=1)
    result = result[table["label"].to_numpy() == 1].sort_values(["cluster", "distance", "row"])
    result["easy"] = result["challenge"] <= losses.mean()
    result["turn"] = result.groupby("cluster").cumcount()
    result = result.sort_values(["easy", "turn", "challenge", "row"], ascending=[True, True, False, True])
    result = result[["row", "video", "frame", "cluster", "challenge", "distance"]]
    with core.atomic(path) as temporary:
        result.to_csv(temporary, index=False)
    return result


def painted(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The table with the masks of ``annotations/<name>``, imported by ``dfnb annotate``, and no others.

    Raises :class:`DfnbError` when the annotations are not there, or not of these frames.
    """
    folder = core.home() / "annotations" / name
    record = core.read_record(folder)
    if record is None:
        raise DfnbError(f"{folder} holds no imported annotations; import them with `dfnb annotate import`")
    if record["fingerprint"] != table.attrs["fingerprint"]:
        raise DfnbError(f"{folder} was painted on other data than {table.attrs['folder']}; export its candidates again")
    index = pd.read_csv(folder / "index.csv", dtype={"video": str})
    paths = {(row.video, row.track, row.frame): str(folder / row.mask) for row in index.itertuples()}
    keys = list(zip(table["video"].astype(str), table["track"], table["frame"]))
    if not paths.keys() & set(keys):
        raise DfnbError(f"{folder} has no mask of the chosen training frames; choose its split and methods")
    return table.assign(mask=[paths.get(key, "") for key in keys])
