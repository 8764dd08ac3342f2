"""The manifests in ``data_manifest/``: which datasets there are, and what describes each."""

from functools import cache
from pathlib import Path
from typing import Any

from dfnb.checks import DfnbError, read_yaml
from dfnb.files import find


def manifest(name: str) -> dict[str, Any]:
    """The content of the file in ``data_manifest/`` or its folders that describes a dataset.

    A file with the entry ``kind`` describes the dataset of its own name or, if there are several,
    those that its entry ``names`` lists. Other files, such as claims, describe none. The entry
    ``like`` names another dataset, whose manifest gives the entries that this one lacks and, within
    ``parameters``, the parameters that it lacks. Raises :class:`DfnbError` when no manifest
    describes ``name``.
    """
    folder = find("data_manifest")
    paths = [path for path in folder.rglob("*.yaml") if name in _declared(path)[1]]
    if not paths:
        raise DfnbError(f"no file in {folder} describes a dataset {name!r}")
    content = read_yaml(paths[0])
    if "like" not in content:
        return content
    base = manifest(content.pop("like"))
    if "parameters" in base and "parameters" in content:
        content["parameters"] = {**base["parameters"], **content["parameters"]}
    return {**base, **content}


def domain_of(name: str) -> tuple[str, bool]:
    """The domain of a dataset, and whether means over datasets leave it out (``apart``).

    Datasets of one domain are made alike. The domain is the manifest's entry ``domain``, else the
    domain of the dataset in ``like``, else the name itself. ``apart`` is not inherited.
    """
    return _domain_of(find("data_manifest"), name)


@cache  # a report asks for the same names hundreds of times
def _domain_of(folder: Path, name: str) -> tuple[str, bool]:
    """:func:`domain_of` with the folder of the manifests, so that the cache distinguishes homes."""
    for path in folder.rglob("*.yaml"):
        if name in _declared(path)[1]:
            content = read_yaml(path)
            domain = content.get("domain")
            if not domain:
                domain = _domain_of(folder, content["like"])[0] if "like" in content else name
            return domain, content.get("apart", False)
    return name, False  # a dataset of the reader's own


def dataset_names(kind: str) -> list[str]:
    """Names of the datasets in ``data_manifest/`` that are of a kind, synth or real."""
    names = []
    for path in sorted(find("data_manifest").rglob("*.yaml")):
        declared_kind, declared_names = _declared(path)
        if declared_kind == kind:
            names += declared_names
    return names


@cache  # planning a profile calls it hundreds of times
def _declared(path: Path) -> tuple[str | None, list[str]]:
    """The kind of the datasets that a file describes, synth or real, and their names.

    A file without the entry ``kind`` describes none: None, and no names.
    """
    content = read_yaml(path)
    kind = content.get("kind")
    return kind, content.get("names", [path.stem]) if kind else []
