"""Load the weights that the authors of Locate and Verify and of Exposing the Deception published, under our names.

``released_weights.load(network, torch.load(FILE, weights_only=True), papers.module(PAPER))``, with ``scripts/`` on the path.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dfnb import core


def load(network: nn.Module, checkpoint: Mapping[str, Any], paper: ModuleType) -> None:
    """Load the authors' weights: their state_dict, or a checkpoint that holds it as ``model`` or ``state_dict``.

    Our names become theirs by the patterns of ``released_weights.yaml`` (:func:`released_name`); those that it calls
    unused may be missing on either side.

    Raises:
        DfnbError: tensors are missing, unexpected or of another shape; nothing has been loaded then.
    """
    released = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    released = {name.removeprefix("module."): tensor for name, tensor in released.items()}
    ours = {released_name(name, paper): (name, tensor) for name, tensor in network.state_dict().items()}
    both = ours.keys() & released.keys()
    unused = re.compile("|".join(_patterns(paper)["unused"]))
    alone = {name for name in ours.keys() ^ released.keys() if not unused.search(name)}
    reshaped = {name for name in both if released[name].shape != ours[name][1].shape}
    problems = {"missing": alone & ours.keys(), "unexpected": alone & released.keys(), "of another shape": reshaped}
    counts = [f"{len(keys)} {problem} ({', '.join(sorted(keys)[:3])})" for problem, keys in problems.items() if keys]
    if counts:
        problem = f"these are not the weights of the released {paper.PAPER.title}: {'; '.join(counts)}"
        raise core.DfnbError(f"{problem}; load one of its checkpoints, and into a Network of the published Settings")
    network.load_state_dict({ours[name][0]: released[name] for name in both}, strict=False)


def released_name(name: str, paper: ModuleType) -> str:
    """What the released code of a paper calls the tensor that is ``name`` in our state_dict."""
    for pattern, replacement in _patterns(paper)["names"].items():
        name = re.sub(pattern, replacement, name)
    return name


@cache
def _patterns(paper: ModuleType) -> dict[str, Any]:
    return core.read_yaml(Path(__file__).with_suffix(".yaml"))[paper.__name__.rpartition(".")[2]]
