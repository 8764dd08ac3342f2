"""The weights that a paper's authors released, loaded into our network.

``<paper>.yaml`` beside the paper's file describes them. ``names`` has regular expressions and their
replacements: applied one after the other to the released name of a tensor, they give our name.
``unused`` matches our names of the tensors that have no effect on the outputs: the released file or
our network may lack them.
"""

import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from timm.models import load_state_dict

from dfnb.checks import explained, parse_yaml, read_mapping
from dfnb.files import home, sha256
from dfnb.papers.backbones import Start
from dfnb.papers.contract import Network


def start(file: str, paper: ModuleType) -> Start:
    """The start of a network with released weights: their name, their file, and its sha256.

    ``file`` is the setting ``released``: a path relative to the home, or absolute. Raises
    :class:`DfnbError` when it is not there, or when the paper's released names are unknown.
    """
    _patterns(paper)  # raises if the paper has no .yaml
    path = home() / file  # an absolute path replaces the home
    with explained(path, "as a file of weights", "correct the parameter released"):
        return Start("the authors' weights", path, sha256(path))


def load(network: Network, file: str, paper: ModuleType) -> None:
    """Load the weights of ``Settings.released``, a file that torch.save wrote, into the network.

    The file contains a state_dict, or a dict in which ``model`` or ``state_dict`` is one. The
    network's ``weights_from`` then says that it has the authors' weights. Raises
    :class:`DfnbError` where :func:`start` does, when the file is damaged, and when tensors are
    missing, unexpected or of another shape.
    """
    initial = start(file, paper)
    remedy = "name a file of the released code, of a network of the published size"
    with explained(initial.file, f"as weights of {paper.PAPER.title}", remedy):
        # timm's function also removes the prefix that DDP puts before every name.
        released = load_state_dict(initial.file, use_ema=False, weights_only=True)
        weights = {our_name(name, paper): tensor for name, tensor in released.items()}
        missing, unexpected = network.load_state_dict(weights, strict=False)
        unused = _patterns(paper)["unused"]
        # Both lists have our names; tensors without effect on the outputs may be in either.
        wrong = [name for name in missing + unexpected if not re.match(unused, name)]
        if wrong:
            raise ValueError(f"{len(wrong)} tensors are missing or unexpected: {wrong[:4]}")
    network.weights_from = initial.weights_from


def our_name(name: str, paper: ModuleType) -> str:
    """The name in our state_dict of the tensor that a paper's released code calls ``name``."""
    for pattern, replacement in _patterns(paper)["names"].items():
        name = re.sub(pattern, replacement, name)
    return name


@cache  # called for each tensor
def _patterns(paper: ModuleType) -> dict[str, Any]:
    """``names`` and ``unused`` of the ``.yaml`` beside the paper's file, see the module."""
    path = Path(paper.__file__).with_suffix(".yaml")
    return read_mapping(path, parse_yaml, "as names of tensors", "leave the parameter released out")
