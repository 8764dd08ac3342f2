"""Deepfake detection papers, reproduced in notebooks that run.

For a notebook of your own there are four functions, see :mod:`dfnb.library`. They are imported when
they are first used, because torch and pandas take seconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfnb.library import auc, create_model, load_dataset, predict

__all__ = ["auc", "create_model", "load_dataset", "predict"]


# Python calls this for a name that the module lacks (PEP 562).
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dfnb import library

    return getattr(library, name)
