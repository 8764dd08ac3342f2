"""Convert a file of weights that torch.save wrote to one that the setting ``pretrained`` reads.

    python scripts/convert_weights.py theirs.pth resnet18 weights/resnet18.safetensors

The tensors may lie under any key, with a prefix that all share, such as ``module.``. Where none has
a name of timm's, as in another package's file of the same network, they are taken in their order.
"""

import pickle
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import timm
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor


def main(file: Path, network: str, output: Path) -> None:
    """Write the weights of a timm NETWORK in FILE to OUTPUT, a file of safetensors.

    Nothing in FILE is executed. Fails where it has no weights of the network, or several.
    """
    try:
        content = torch.load(file, "cpu", weights_only=True)
    except (EOFError, IndexError, RuntimeError, pickle.UnpicklingError):
        raise SystemExit(
            f"{file} is damaged, or has more than numbers and texts beside its tensors; where it "
            "was made, save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    expected = timm.create_model(network).state_dict()
    fitting = [found for tensors in dicts_of(content) if (found := fitted(tensors, expected))]
    if len(fitting) != 1:
        raise SystemExit(f"{file} has {len(fitting)} sets of tensors that fit {network}, not one")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(fitting[0], output)


def dicts_of(content: Any) -> Iterator[dict[str, Tensor]]:
    """The dicts of tensors in the content of a file, each without prefixes that all names share."""
    if isinstance(content, dict):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        parts = zip(*(name.split(".")[:-1] for name in tensors))  # of all names: first, second, ...
        shared = [each[0] for each in takewhile(lambda part: len({*part}) == 1, parts)]
        length = sum(len(part) + 1 for part in shared)
        yield {name[length:]: value for name, value in tensors.items()}
        for value in content.values():
            yield from dicts_of(value)


def fitted(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of ``expected``; empty where one is missing or does not fit."""
    if not tensors.keys() & expected.keys() and len(tensors) == len(expected):
        tensors = dict(zip(expected, tensors.values()))
    is_complete = all(
        name in tensors and tensors[name].shape == value.shape for name, value in expected.items()
    )
    return {name: tensors[name].contiguous() for name in expected} if is_complete else {}


if __name__ == "__main__":
    typer.run(main)
