"""Image classifiers from timm, whole or cut into the seven stages of Locate and Verify."""

import difflib
import logging
from collections import OrderedDict
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import ConvNormAct, create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model_pretrained, register_model
from timm.models.xception import Xception
from torch import Tensor, nn

from dfnb.core import DfnbError

log = logging.getLogger(__name__)


class Plain7(nn.Module):
    """Seven 3×3 convolutions with BatchNorm and ReLU, the first at full resolution, stride 8 in all: 0.08 M parameters.

    Traces of a manipulation are fine, so nothing is thrown away before the first features are drawn. Up to the sixth
    stage the strides relative to each other are those of Xception.
    """

    channels = (16, 24, 32, 40, 40, 48, 48)
    strides = (1, 2, 2, 2, 1, 1, 1)

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, self.channels[-1]
        shapes = zip((in_chans, *self.channels), self.channels, self.strides)
        self.features = nn.Sequential(*(ConvNormAct(inputs, out, 3, stride=stride) for inputs, out, stride in shapes))
        with torch.no_grad():  # high-pass filters to start with: from others some seeds stay at chance for long
            first = self.features[0].conv.weight
            first -= first.mean((1, 2, 3), keepdim=True)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the last map (B, 48, H/8, W/8), rounded up."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        return self.fc(self.global_pool(self.forward_features(x)))


default_cfgs = generate_default_cfgs({"dfnb_plain7": {"input_size": (3, 96, 96), "classifier": "fc"}})


@register_model
def dfnb_plain7(pretrained: bool = False, **kwargs: Any) -> Plain7:
    """:class:`Plain7` under its timm name; there are no pretrained weights."""
    return build_model_with_cfg(Plain7, "dfnb_plain7", pretrained, **kwargs)


def create(name: str, pretrained: bool, **timm_kwargs: Any) -> nn.Module:
    """A timm model whose attribute ``weights_from`` is "ImageNet" (timm's pretrained weights) or "random weights".

    Pretrained weights that cannot be fetched are replaced by random ones, with one warning; these are the same that
    ``pretrained=False`` would have drawn, so that ``torch.manual_seed`` before the call determines them.

    Raises:
        DfnbError: timm knows no model of this name.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise DfnbError(f"timm has no backbone {name!r}; close are {', '.join(close) or 'none'}")
    reason = "timm has none for it"
    if pretrained and is_model_pretrained(name):
        random_state = torch.get_rng_state()
        try:
            model = timm.create_model(name, pretrained=True, **timm_kwargs)
            model.weights_from = "ImageNet"
            return model
        except OSError as error:  # what urllib and huggingface_hub raise without network and cached file
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            torch.set_rng_state(random_state)
    if pretrained:
        log.warning("No pretrained weights for %s (%s): starting from random weights.", name, reason)
    model = timm.create_model(name, pretrained=False, **timm_kwargs)
    model.weights_from = "random weights"
    return model


class Stages(NamedTuple):
    """A backbone cut into seven: its parts, and the channels and the stride (in pixels of the image) of each map."""

    stages: nn.ModuleList
    channels: list[int]
    strides: list[int]
    weights_from: str


def stages(name: str, pretrained: bool) -> Stages:
    """Cut a backbone into the seven stages of Locate and Verify (released code; there only Xception).

    ``legacy_xception`` gets padding 1 in its first two convolutions as released, so that 299 pixels give maps of side
    150, 75, 38, 19, 19, 19, 10, and its last map is taken before the ReLU. The stages keep timm's names of the parts.

    Raises:
        DfnbError: no such backbone, or one that is not known to fall into seven stages.
    """
    model = create(name, pretrained)
    match model:
        case Xception():
            model.conv1.padding = model.conv2.padding = (1, 1)
            middle = ["block4 block5 block6 block7", "block8 block9 block10 block11"]
            first, last = "conv1 bn1 act1 conv2 bn2 act2", "block12 conv3 bn3 act3 conv4 bn4"
            cut = [first, "block1", "block2", "block3", *middle, last]
        case Plain7():
            cut = [f"features.{i}" for i in range(7)]
        case _:
            raise DfnbError(f"{name} cannot be cut into seven stages; use legacy_xception or dfnb_plain7")
    parts = nn.ModuleList(
        nn.Sequential(OrderedDict((part.replace(".", "_"), model.get_submodule(part)) for part in names.split()))
        for names in cut
    )
    with torch.no_grad():
        maps = [torch.zeros(1, 3, 64, 64)]
        for part in parts.eval():
            maps.append(part(maps[-1]))
    parts.train()
    channels, strides = [m.shape[1] for m in maps[1:]], [64 // m.shape[-1] for m in maps[1:]]
    return Stages(parts, channels, strides, model.weights_from)
