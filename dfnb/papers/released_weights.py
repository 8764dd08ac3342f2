"""The weights that a paper's authors released, loaded into our network.

``<paper>.yaml`` beside the paper's file describes them. ``names`` has regular expressions and their
replacements: applied one after the other to the released name of a tensor, they give our name.
``unused`` matches our names of the tensors that have no effect on the outputs: the released file or
our network may lack them.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from dfnb.papers.contract import Network
from dfnb.papers.weights import Weights, in_file
from facesets.checks import explained, parse_yaml, read_mapping
from facesets.files import named_file


def released_start(file: str, paper: ModuleType) -> Weights:
    """The start of a network with released weights: their name, their file, and its sha256.

    ``file`` is the setting ``released``, of :func:`facesets.files.named_file`. Raises
    :class:`DfnbError` when it is not there, or when the paper's released names are unknown.
    """
    _patterns(paper)  # raises if the paper has no .yaml
    return in_file("the authors' weights", named_file(file), "correct the parameter released")


def load_file(network: Network, file: str, paper: ModuleType) -> None:
    """Load the weights of ``Settings.released``, a file that torch.save wrote, into the network.

    The file contains a state_dict, alone or under any keys. Of several the one that fits is loaded,
    rather the weights themselves than their moving average. The network's ``weights_from`` then
    says that it has the authors' weights. Raises :class:`DfnbError` where :func:`released_start`
    does, when the file is damaged or could execute code, and when tensors are missing, unexpected
    or of another shape.
    """
    initial = released_start(file, paper)
    remedy = "name a file of the released code, of a network of the published size"
    with explained(initial.file, f"as weights of {paper.PAPER.title}", remedy):
        content = initial.load()
        weights = _fitting(content, network, paper)
        missing, unexpected = network.load_state_dict(weights, strict=False)
        unused = _patterns(paper)["unused"]
        # Both lists have our names; tensors without effect on the outputs may be in either.
        wrong = [name for name in missing + unexpected if not re.match(unused, name)]
        if wrong:
            problem = f"{len(wrong)} tensors are missing or unexpected: {wrong[:4]}"
            raise ValueError(f"{problem}; the file has {[*content][:8]}")
    network.weights_from = initial.weights_from


def _fitting(content: Any, network: Network, paper: ModuleType) -> dict[str, Tensor]:
    """The state_dict in the content of a file, with our names, that fits the network best.

    Raises ValueError where there is none, or several fit.
    """
    own = network.state_dict()
    unused = _patterns(paper)["unused"]
    candidates = []  # (number of wrong names, whether it is a moving average, keys, weights)
    for keys, tensors in _state_dicts(content).items():
        for weights in _with_our_names(tensors, paper):
            wrong = [name for name in own.keys() ^ weights.keys() if not re.match(unused, name)]
            # Old files lack these counts, which have no effect, either.
            wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
            candidates.append((len(wrong), "ema" in keys.lower(), keys, weights))
    if not candidates:
        names = [*content][:8] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"it contains no tensors, but {names}")
    candidates.sort(key=lambda candidate: candidate[:2])
    (best, *others) = candidates
    if best[0] == 0 and others and others[0][:2] == best[:2]:
        raise ValueError(f"both {best[2]} and {others[0][2]} in it fit; save one of them alone")
    return best[3]


def _state_dicts(content: Any, keys: str = "") -> dict[str, dict[str, Tensor]]:
    """The dicts of tensors in the content of a file, by their keys, such as ``ema.model``."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    found = {keys: tensors} if tensors else {}
    for name, value in content.items():
        found |= _state_dicts(value, f"{keys}.{name}".removeprefix("."))
    return found


def _with_our_names(tensors: dict[str, Tensor], paper: ModuleType) -> Iterator[dict[str, Tensor]]:
    """Tensors with our names, then again without each prefix that all share, as DDP's module."""
    yield {our_name(name, paper): tensor for name, tensor in tensors.items()}
    if len({name.partition(".")[0] for name in tensors}) == 1:
        shorter = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
        if all(shorter):
            yield from _with_our_names(shorter, paper)


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
