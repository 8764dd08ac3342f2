"""A file of weights: opened where it has its sha256, else refused in one sentence."""

import argparse
import pickle
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from facesets.checks import explained
from facesets.files import sha256

# What training scripts save beside weights, and what executes nothing: numbers and arrays of numpy,
# by their places in numpy 1 and 2, and options of the command line.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
HARMLESS = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


class Weights(NamedTuple):
    """The weights of a network in a file, or random ones; a part of a run's identity.

    Attributes:
        weights_from: "random weights", "ImageNet", "drawn faces" (ours), "the authors' weights", or
            the name of the reader's own file.
        file: the file of weights; None for random weights.
        sha256: of that file; empty for random weights.
    """

    weights_from: str = "random weights"
    file: Path | None = None
    sha256: str = ""

    def intact(self) -> Path:
        """The file; raises ValueError where it is another than it was, else as ``open``."""
        if sha256(self.file) != self.sha256:
            raise ValueError("it has another sha256 than was written down")
        return self.file

    def load(self) -> Any:
        """What is in the file: of safetensors the tensors by name, of torch.save what was saved.

        Raises as :meth:`intact`, and ValueError, in our words, where it is damaged or could execute
        code: torch's own advise to let it.
        """
        content = self.intact().read_bytes()
        try:
            if content[8:9] == b"{":  # where safetensors has the list of its tensors
                return safetensors.torch.load(content)
            with torch.serialization.safe_globals(HARMLESS):
                return torch.load(BytesIO(content), "cpu", weights_only=True)
        except (SafetensorError, EOFError, IndexError, RuntimeError, pickle.UnpicklingError):
            others = []
            with suppress(Exception):  # of a file that is damaged, or in an old format
                others = torch.serialization.get_unsafe_globals_in_checkpoint(self.file)
        if others:
            raise ValueError(
                f"it contains {', '.join(sorted(others)[:4])}, by which reading it could execute "
                "code; where it was made, save the weights alone: "
                "torch.save(model.state_dict(), FILE)"
            )
        raise ValueError("it is damaged, or no file of weights")


def in_file(weights_from: str, file: Path, remedy: str) -> Weights:
    """The weights in a file as it is now; raises :class:`DfnbError` where it is not there."""
    with explained(file, "as a file of weights", remedy):
        return Weights(weights_from, file, sha256(file))
