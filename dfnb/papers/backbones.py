"""Image classifiers from timm, whole or cut into the seven stages of Locate and Verify."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import ConvNormAct, create_classifier
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models._hub import download_cached_file, download_from_hf
from timm.models.xception import Xception
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfnb.files import sha256
from dfnb.settings import DfnbError

log = logging.getLogger(__name__)

SMALL = "dfnb_plain7"
STARTS = Path(__file__).with_name("starts")
# Pretrained weights of SMALL, made by scripts/pretrain.py; a name without a tag means the first.
START_TAGS = ("drawn_faces", "home_faces")

# The sha256 of timm's files of weights, or as many of its first digits as are published, by model
# and tag. Weights that are not named here are taken as they come.
PINNED = {
    "legacy_xception.tf_in1k": "43020ad28",  # in the name of the file
    "resnet18.tv_in1k": "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
}


# ---------------------------------------------------------------- the small network


class Plain7(nn.Module):
    """Seven 3×3 convolutions with BatchNorm and ReLU, stride 8 in all: 0.08 M parameters.

    The first convolution has full resolution, because the traces of a manipulation are fine. The
    strides of the first six stages relative to each other are those of Xception.
    """

    channels = (16, 24, 32, 40, 40, 48, 48)
    strides = (1, 2, 2, 2, 1, 1, 1)

    def __init__(
        self, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.channels[-1]
        layers = []
        inputs = in_chans
        for outputs, stride in zip(self.channels, self.strides):
            layers.append(ConvNormAct(inputs, outputs, 3, stride=stride))
            inputs = outputs
        self.features = nn.Sequential(*layers)
        # The first filters begin without a mean: otherwise some seeds stay at chance for long.
        first = self.features[0].conv.weight.data
        first -= first.mean((1, 2, 3), keepdim=True)
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the last map (B, 48, H/8, W/8), rounded up."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        return self.fc(self.global_pool(self.forward_features(x)))


_configs = {}
for _tag in START_TAGS:
    _file = str(STARTS / f"{_tag}.safetensors")
    _configs[f"{SMALL}.{_tag}"] = {"file": _file, "num_classes": 0, "classifier": "fc"}
# timm looks for the configurations of a module's models under this name.
default_cfgs = generate_default_cfgs(_configs)


@register_model
def dfnb_plain7(pretrained: bool = False, **kwargs: Any) -> Plain7:
    """:class:`Plain7` under its timm name; the tags of its weights are :data:`START_TAGS`."""
    return build_model_with_cfg(Plain7, SMALL, pretrained, **kwargs)


# ---------------------------------------------------------------- pretrained weights


class Start(NamedTuple):
    """What a model starts from: part of a run's identity.

    Attributes:
        weights_from: "random weights", "ImageNet", or the name of one of our own starts.
        file: the file of weights; None for random weights.
        sha256: of that file; empty for random weights.
    """

    weights_from: str = "random weights"
    file: Path | None = None
    sha256: str = ""


def start(name: str, pretrained: bool) -> Start:
    """What a timm model starts from; weights that are not in the cache are fetched.

    Pretrained weights that cannot be fetched are replaced by random ones, with a warning.

    Raises:
        DfnbError: timm has no model of this name, or the file is not the one that is pinned.
    """
    if not timm.is_model(name):
        raise DfnbError(f"timm has no backbone {name!r}; timm.list_models() lists those it has")
    if not pretrained:
        return Start()
    config = timm.get_pretrained_cfg(name)
    try:
        file = _fetched(config)
    except OSError as error:  # what urllib and huggingface_hub raise without a network
        log.warning("No pretrained weights for %s: starting from random weights (%s).", name, error)
        return Start()
    digest = sha256(file)
    if not digest.startswith(PINNED.get(f"{config.architecture}.{config.tag}", "")):
        raise DfnbError(
            f"{file.resolve()} is damaged or not timm's {config.tag}; delete it, and it is "
            "fetched again"
        )
    weights_from = config.tag.replace("_", " ") if config.file else "ImageNet"
    return Start(weights_from, file, digest)


def _fetched(config: PretrainedCfg) -> Path:
    if config.file:  # one of our own, see default_cfgs above
        return Path(config.file)
    if config.hf_hub_id:
        return Path(download_from_hf(config.hf_hub_id, "model.safetensors"))
    if config.url:
        return Path(download_cached_file(config.url, check_hash=False))
    raise FileNotFoundError("timm has none for it")


def create(name: str, pretrained: bool, **timm_kwargs: Any) -> nn.Module:
    """A timm model; its attribute ``weights_from`` is that of :func:`start`.

    Random weights are the same whether they were asked for or replace pretrained ones:
    ``torch.manual_seed`` before the call determines them. Raises as :func:`start`.
    """
    begin = start(name, pretrained)
    if begin.file:
        timm_kwargs["pretrained"] = True
        timm_kwargs["pretrained_cfg_overlay"] = {"file": str(begin.file), "custom_load": False}
    model = timm.create_model(name, **timm_kwargs)
    model.weights_from = begin.weights_from
    return model


# ---------------------------------------------------------------- seven stages

# The parts of each stage, by timm's names; Xception's are those of the released code.
STAGES = {
    Xception: (
        ("conv1", "bn1", "act1", "conv2", "bn2", "act2"),
        ("block1",),
        ("block2",),
        ("block3",),
        ("block4", "block5", "block6", "block7"),
        ("block8", "block9", "block10", "block11"),
        ("block12", "conv3", "bn3", "act3", "conv4", "bn4"),
    ),
    Plain7: tuple((f"features.{index}",) for index in range(7)),
}


@torch.no_grad()
def stages(name: str, pretrained: bool) -> tuple[nn.ModuleList, list[int], list[int]]:
    """A backbone cut into the seven stages of Locate and Verify (released code; there Xception).

    Returns the stages, and for the map after each stage its channels and its stride in pixels of
    the image. The stages have the attribute ``weights_from`` of :func:`create`.

    As in the released code, the first two convolutions of ``legacy_xception`` get padding 1, so
    that an image of 299 pixels gives maps of side 150, 75, 38, 19, 19, 19, 10, and its last map is
    taken before the ReLU. The stages keep timm's names of their parts.

    Raises:
        DfnbError: timm has no such backbone, or it is not known how to cut it.
    """
    model = create(name, pretrained).eval()  # the probe must not enter the running statistics
    if type(model) not in STAGES:
        raise DfnbError(f"{name} cannot be cut into seven stages; use legacy_xception or {SMALL}")
    if isinstance(model, Xception):
        model.conv1.padding = (1, 1)
        model.conv2.padding = (1, 1)
    result = nn.ModuleList()
    channels = []
    strides = []
    side = 64
    probe = torch.zeros(1, 3, side, side)
    for part_names in STAGES[type(model)]:
        stage = nn.Sequential()
        for part_name in part_names:
            stage.add_module(part_name.replace(".", "_"), model.get_submodule(part_name))
        probe = stage(probe)
        result.append(stage)
        channels.append(probe.shape[1])
        strides.append(side // probe.shape[-1])
    result.weights_from = model.weights_from
    return result.train(), channels, strides


# ---------------------------------------------------------------- memory

# checkpointed(function, *inputs): the function's value without its activations, which the backward
# pass computes again.
checkpointed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
