"""Load the authors' weights of Locate and Verify and Exposing the Deception into our networks.

With ``scripts/`` on the path::

    checkpoint = torch.load(FILE, weights_only=True)
    released_weights.load(network, checkpoint, papers.module(PAPER))
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from dfnb.settings import DfnbError, read_yaml


def load(network: nn.Module, checkpoint: Mapping[str, Any], paper: ModuleType) -> None:
    """Load the authors' weights: their state_dict, or a checkpoint that holds it.

    The checkpoint holds it as ``model`` or ``state_dict``. ``released_weights.yaml`` says how our
    names become theirs (:func:`released_name`), and which tensors have no effect on the outputs;
    these may be missing on either side.

    Raises:
        DfnbError: Tensors are missing, unexpected or of another shape; nothing has been loaded.
    """
    state_dict = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    released = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    ours = network.state_dict()
    our_names = {released_name(name, paper): name for name in ours}
    unused = re.compile("|".join(_patterns(paper)["unused"]))
    problems: dict[str, list[str]] = {"missing": [], "unexpected": [], "of another shape": []}
    weights = {}
    for name in sorted(our_names.keys() | released.keys()):
        if name in our_names and name in released:
            weights[our_names[name]] = released[name]
            if released[name].shape != ours[our_names[name]].shape:
                problems["of another shape"].append(name)
        elif not unused.search(name):
            problem = "missing" if name in our_names else "unexpected"
            problems[problem].append(name)
    counts = []
    for problem, names in problems.items():
        if names:
            counts.append(f"{len(names)} {problem} ({', '.join(names[:3])})")
    if counts:
        raise DfnbError(
            f"these are not the weights of the released {paper.PAPER.title}: {'; '.join(counts)}; "
            "load one of its checkpoints, and into a Network of the published Settings"
        )
    network.load_state_dict(weights, strict=False)


def released_name(name: str, paper: ModuleType) -> str:
    """What the released code of a paper calls the tensor that is ``name`` in our state_dict."""
    for pattern, replacement in _patterns(paper)["names"].items():
        name = re.sub(pattern, replacement, name)
    return name


@cache
def _patterns(paper: ModuleType) -> dict[str, Any]:
    paper_name = paper.__name__.rpartition(".")[2]
    return read_yaml(Path(__file__).with_suffix(".yaml"))[paper_name]
