"""Image classifiers from timm, whole or cut into the seven stages of Locate and Verify."""

import logging
from collections import OrderedDict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import ConvNormAct, create_classifier
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, is_model_pretrained, register_model
from timm.models._hub import download_cached_file, download_from_hf
from timm.models.xception import Xception
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfnb.core import DfnbError, read_yaml, sha256

SMALL = "dfnb_plain7"
STARTS = Path(__file__).with_name("starts")
TABLE = Path(__file__).with_suffix(".yaml")

not_kept = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # computed again in the backward pass

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
        first = self.features[0].conv.weight.data  # high-pass filters: from others some seeds stay at chance for long
        first -= first.mean((1, 2, 3), keepdim=True)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the last map (B, 48, H/8, W/8), rounded up."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        return self.fc(self.global_pool(self.forward_features(x)))


# What `scripts/pretrain.py` made, by timm's tags; without a tag the first is meant.
TAGS = dict.fromkeys(["drawn_faces", *sorted(path.stem for path in STARTS.glob("*.safetensors"))])
PARTS = {"input_size": (3, 96, 96), "num_classes": 0, "classifier": "fc"}
FILES = {f"{SMALL}.{tag}": {**PARTS, "file": str(STARTS / f"{tag}.safetensors")} for tag in TAGS}
default_cfgs = generate_default_cfgs(FILES)


@register_model
def dfnb_plain7(pretrained: bool = False, **kwargs: Any) -> Plain7:
    """:class:`Plain7` under its timm name; its pretrained weights are the starts of :mod:`dfnb.pretrain`, by their tags."""
    return build_model_with_cfg(Plain7, SMALL, pretrained, **kwargs)


def start(name: str, pretrained: bool) -> dict[str, str]:
    """What a model starts from: ``from`` "random weights", "ImageNet" or the name of a start, and its file's ``sha256``.

    With timm's ``tag`` where the weights are timm's. Part of a run's identity, so it is what there is: where ImageNet's
    weights cannot be fetched, random weights. Raises :class:`DfnbError` as :func:`create`.
    """
    with torch.random.fork_rng():
        return create(name, pretrained).start


def create(name: str, pretrained: bool, **timm_kwargs: Any) -> nn.Module:
    """A timm model whose attribute ``weights_from`` says what it starts from, and ``start`` all that :func:`start` says.

    Pretrained weights that cannot be fetched are replaced by random ones, with one warning; these are the same that
    ``pretrained=False`` would have drawn, so that ``torch.manual_seed`` before the call determines them.

    Raises:
        DfnbError: timm knows no model of this name, a start is missing, or a file is not the one that is pinned.
    """
    if not timm.is_model(name):
        raise DfnbError(f"timm has no backbone {name!r}; timm.list_models() lists those it has")
    facts, source, reason = {"from": "random weights"}, {}, "timm has none for it"
    if pretrained and is_model_pretrained(name):
        known = timm.get_pretrained_cfg(name)
        origin = known.tag.replace("_", " ") if known.file else "ImageNet"
        facts |= {} if known.file else {"tag": f"{known.architecture}.{known.tag}"}
        try:
            source = {"file": weights_file(known), "custom_load": False}
            facts |= {"from": origin, "sha256": sha256(source["file"])}
        except OSError as error:  # what urllib and huggingface_hub raise without network and cached file
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
    model = timm.create_model(name, pretrained=bool(source), pretrained_cfg_overlay=source, **timm_kwargs)
    if pretrained and not source:
        log.warning("No pretrained weights for %s (%s): starting from random weights.", name, reason)
    model.start, model.weights_from = facts, facts["from"]
    return model


def weights_file(known: PretrainedCfg) -> Path:
    """The file of pretrained weights, fetched where it is not here yet; raises :class:`OSError` where that fails.

    Raises :class:`DfnbError` where a start is not made yet, or ``backbones.yaml`` pins another file.
    """
    if known.file and not Path(known.file).exists():
        raise DfnbError(f"there is no {known.file}; make it with `python scripts/pretrain.py {known.tag}`")
    if known.hf_hub_id:
        file = Path(download_from_hf(known.hf_hub_id, "model.safetensors"))
    else:
        file = Path(known.file or download_cached_file(known.url, check_hash=False))
    if not sha256(file).startswith(read_yaml(TABLE)["sha256"].get(f"{known.architecture}.{known.tag}", "")):
        raise DfnbError(f"{file.resolve()} is damaged or not timm's {known.tag}; delete it, and it is fetched again")
    return file


def stages(name: str, pretrained: bool) -> tuple[nn.ModuleList, list[int], list[int]]:
    """Cut a backbone into the seven stages of Locate and Verify (released code; there only Xception).

    Returns the stages, with the attribute ``weights_from`` of :func:`create`, and the channels and the stride (in pixels of
    the image) of the map after each.

    ``legacy_xception`` gets padding 1 in its first two convolutions as released, so that 299 pixels give maps of side
    150, 75, 38, 19, 19, 19, 10, and its last map is taken before the ReLU. The stages keep timm's names of the parts.

    Raises:
        DfnbError: no such backbone, or one that is not known to fall into seven stages.
    """
    model = create(name, pretrained)
    cut = read_yaml(TABLE).get(type(model).__name__)
    if cut is None:
        raise DfnbError(f"{name} cannot be cut into seven stages; use legacy_xception or dfnb_plain7")
    if isinstance(model, Xception):
        model.conv1.padding = model.conv2.padding = (1, 1)
    named = [[(part.replace(".", "_"), model.get_submodule(part)) for part in names] for names in cut]
    parts = nn.ModuleList(nn.Sequential(OrderedDict(stage)) for stage in named)
    with torch.no_grad():
        _, *maps = accumulate(parts.eval(), lambda x, part: part(x), initial=torch.zeros(1, 3, 64, 64))
    parts.weights_from = model.weights_from
    return parts.train(), [x.shape[1] for x in maps], [64 // x.shape[-1] for x in maps]


def recomputed(part: nn.Module, x: Tensor) -> Tensor:
    """``part(x)``, of which the backward pass needs no activations: it computes them again.

    The same numbers as without, to the last bit: running statistics are updated in the first pass alone, copies in the second.
    """
    buffers: dict[str, Tensor] = {}

    def once_more(x: Tensor) -> Tensor:
        found = torch.func.functional_call(part, buffers, (x,))
        buffers.update({name: value.clone() for name, value in part.named_buffers()})
        return found

    return not_kept(once_more, x)
