"""Deepfake detection papers, re-implemented in notebooks that run.

For a notebook of your own there are the functions of :mod:`dfnb.library`, which score, and those of
:mod:`dfnb.results.own`, which measure scores. They are imported when they are first used, because
torch and pandas take seconds.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfnb.library import create_model, list_datasets, list_models, load_dataset, predict
    from dfnb.results.own import auc, measure

    __version__: str

__all__ = [
    "__version__",
    "auc",
    "create_model",
    "list_datasets",
    "list_models",
    "load_dataset",
    "measure",
    "predict",
]


# Python calls this for a name that the module lacks (PEP 562).
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"dfnb has no {name!r}; it has {', '.join(__all__[1:])}")
    if name == "__version__":
        return version("dfnb")
    from dfnb.extras import explain_missing

    needs_torch = name not in ("auc", "measure")
    with explain_missing():
        return getattr(import_module("dfnb.library" if needs_torch else "dfnb.results.own"), name)


def __dir__() -> list[str]:
    return __all__
