"""Image classifiers from timm, whole or cut into the seven stages of Locate and Verify."""

import difflib
import logging
from collections import OrderedDict
from typing import Any, NamedTuple

import timm
import torch
from timm.layers import ConvNormAct, create_classifier
from timm.models import ResNet, build_model_with_cfg, generate_default_cfgs, is_model_pretrained, register_model
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

    def __init__(
        self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        self.num_classes, self.drop_rate = num_classes, drop_rate
        self.num_features = self.head_hidden_size = self.channels[-1]
        inputs = (in_chans, *self.channels)
        self.features = nn.Sequential(
            *(ConvNormAct(inputs[i], c, 3, stride=s) for i, (c, s) in enumerate(zip(self.channels, self.strides)))
        )
        with torch.no_grad():  # high-pass filters to start with: from others some seeds stay at chance for long
            first = self.features[0].conv.weight
            first -= first.mean((1, 2, 3), keepdim=True)
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Replace the last linear layer by a new one."""
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the last map (B, 48, H/8, W/8), rounded up."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map to logits (B, classes), or to the pooled features before them."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs({"dfnb_plain7": {"input_size": (3, 96, 96), "classifier": "fc"}})


@register_model
def dfnb_plain7(pretrained: bool = False, **kwargs: Any) -> Plain7:
    """:class:`Plain7` under its timm name; there are no pretrained weights."""
    return build_model_with_cfg(Plain7, "dfnb_plain7", pretrained, **kwargs)


def create(name: str, pretrained: bool, **timm_kwargs: Any) -> nn.Module:
    """A timm model whose attribute ``pretrained_loaded`` says whether it holds pretrained weights.

    Weights that cannot be fetched are replaced by random ones, with one warning; the random numbers are then those that
    ``pretrained=False`` would have drawn, so ``torch.manual_seed`` before the call settles them.

    Raises:
        DfnbError: timm knows no model of this name.
    """
    if not timm.is_model(name):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise DfnbError(f"timm has no backbone {name!r}; {f'close are {close}' if close else 'see timm.list_models()'}")
    random_state = torch.get_rng_state()
    loaded, why = False, "timm has none for it"
    if pretrained and is_model_pretrained(name):
        try:
            model, loaded = timm.create_model(name, pretrained=True, **timm_kwargs), True
        except OSError as error:  # what urllib and huggingface_hub raise when there is neither network nor cached file
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            torch.set_rng_state(random_state)
    if not loaded:
        if pretrained:
            log.warning("No pretrained weights for %s (%s): starting from random weights.", name, why)
        model = timm.create_model(name, pretrained=False, **timm_kwargs)
    model.pretrained_loaded = loaded
    return model


class Stages(NamedTuple):
    """A backbone cut into seven: its parts, and the channels and the stride (in pixels of the image) of each map."""

    stages: nn.ModuleList
    channels: list[int]
    strides: list[int]
    pretrained_loaded: bool


def stages(name: str, pretrained: bool, in_chans: int = 3) -> Stages:
    """Cut a backbone into the seven stages of Locate and Verify (released code; there only Xception).

    ``legacy_xception`` gets padding 1 in its first two convolutions as released, so that 299 pixels give maps of side
    150, 75, 38, 19, 19, 19, 10, and its last map is taken before the ReLU. The stages keep timm's names of the parts.

    Raises:
        DfnbError: no such backbone, or one that is not known to fall into seven stages.
    """
    model = create(name, pretrained, in_chans=in_chans)
    match model:
        case Xception():
            model.conv1.padding = model.conv2.padding = (1, 1)
            middle = [" ".join(f"block{i}" for i in blocks) for blocks in (range(4, 8), range(8, 12))]
            cut = ["conv1 bn1 act1 conv2 bn2 act2", "block1", "block2", "block3", *middle]
            cut.append("block12 conv3 bn3 act3 conv4 bn4")
        case Plain7():
            cut = [f"features.{i}" for i in range(7)]
        case ResNet() if len(model.layer2) > 1 and len(model.layer3) > 1:
            rest2 = " ".join(f"layer2.{i}" for i in range(1, len(model.layer2)))
            rest3 = " ".join(f"layer3.{i}" for i in range(1, len(model.layer3)))
            cut = ["conv1 bn1 act1", "maxpool layer1", "layer2.0", rest2, "layer3.0", rest3, "layer4"]
        case _:
            raise DfnbError(
                f"backbone {name!r} cannot be cut into seven stages; use legacy_xception, dfnb_plain7, or a ResNet of "
                "timm with at least two blocks in its second and third layer, such as resnet18"
            )
    parts = nn.ModuleList(
        nn.Sequential(OrderedDict((part.replace(".", "_"), model.get_submodule(part)) for part in names.split()))
        for names in cut
    )
    with torch.no_grad():
        maps = [torch.zeros(1, in_chans, 64, 64)]
        for part in parts.eval():
            maps.append(part(maps[-1]))
    parts.train()
    return Stages(parts, [m.shape[1] for m in maps[1:]], [64 // m.shape[-1] for m in maps[1:]], model.pretrained_loaded)
