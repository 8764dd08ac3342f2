"""Which datasets there are, by their names, and what describes each: the files of data_manifest.

A name is one of the embedded benchmark, which is made when it is needed (``parameters`` in its
manifest), one of a published dataset (``kind: real``), which must be prepared from a download, or
that of a dataset that was prepared from the reader's own files. :mod:`facesets.sources` makes and
reads them; nothing here needs a library for pictures.
"""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from facesets.checks import DfnbError, read_yaml, suggestion
from facesets.files import dataset_folder, find, home
from facesets.records import read_record

# Of a file in data_manifest/. Embedded: made when needed. Broken: it cannot be read.
Kind = Literal["embedded", "published", "broken"]

# ---------------------------------------------------------------- manifests


def manifest(name: str) -> dict[str, Any]:
    """The content of the file in ``data_manifest/`` or its folders that describes a dataset.

    A file with the entry ``parameters`` or ``kind`` describes the dataset of its own name or, if
    there are several, those that its entry ``names`` lists. Others, such as claims, describe none.
    The entry ``like`` names another dataset, whose manifest gives the entries that this one lacks
    and, within ``parameters``, the parameters that it lacks. Raises :class:`DfnbError` when no
    manifest describes ``name``, or several do.
    """
    folder = find("data_manifest")
    paths = [Path(file) for file in _manifests(folder) if name in _declared(file)[1]]
    if not paths:
        hint = suggestion(name, [*embedded_names(), *published_names()])
        raise DfnbError(f"no file in {folder} describes a dataset {name!r}{hint}")
    if len(paths) > 1:
        first, second, *_ = paths
        raise DfnbError(f"{first} and {second} both describe a dataset {name!r}; rename one")
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
    for file in _manifests(folder):
        if name in _declared(file)[1]:
            content = read_yaml(Path(file))
            domain = content.get("domain") or name
            if "like" in content and not content.get("domain"):
                domain, _ = _domain_of(folder, content["like"])
            return domain, content.get("apart", False)
    return name, False  # a dataset of the reader's own


def embedded_names() -> list[str]:
    """Names of the datasets of the embedded benchmark, in the order of their manifests."""
    return _names("embedded")


def published_names() -> list[str]:
    """Names of the published datasets that have a manifest, in the order of these."""
    return _names("published")


def broken_names() -> list[str]:
    """Names of the files there that cannot be read: what needs one reads it again, and says why."""
    return _names("broken")


def is_embedded(name: str) -> bool:
    """Whether a dataset is of the embedded benchmark, and so built when it is needed."""
    return name in embedded_names()


def _names(kind: Kind) -> list[str]:
    """Names of the datasets of a kind in ``data_manifest/``, or of its broken files."""
    names = []
    for file in _manifests(find("data_manifest")):
        declared_kind, declared_names = _declared(file)
        if declared_kind == kind:
            names += declared_names
    return names


def _manifests(folder: Path) -> list[str]:
    """The files of the folder ``data_manifest`` and of its folders, sorted.

    As texts: planning a profile asks a thousand times, and ``rglob`` takes five times as long.
    """
    walked = [f"{root}/{name}" for root, _, names in os.walk(folder) for name in names]
    return sorted(path for path in walked if path.endswith(".yaml"))


@cache  # planning a profile calls it hundreds of times
def _declared(file: str) -> tuple[Kind, list[str]]:
    """The kind of the datasets that a file describes, and their names, of a broken file its own.

    There are no names where the file describes no dataset.
    """
    path = Path(file)
    try:
        content = read_yaml(path)
    except DfnbError:
        return "broken", [path.stem]
    names = content.get("names", [path.stem])
    if "parameters" in content:
        return "embedded", names
    return "published", names if content.get("kind") == "real" else []


# ---------------------------------------------------------------- names that can be used


def is_available(dataset: str, *splits: str) -> bool:
    """Whether these splits are prepared, or of the embedded benchmark, which is built when needed.

    Without ``splits``, whether anything of the dataset is prepared.
    """
    if is_embedded(dataset):
        return True
    record = read_record(dataset_folder(dataset))
    return record is not None and {*splits} <= {*record["fingerprints"]}


def is_known(dataset: str) -> bool:
    """Whether a dataset is prepared or in ``data_manifest``."""
    return dataset in [*embedded_names(), *published_names()] or is_available(dataset)


def check_known(datasets: Iterable[str], source: str) -> None:
    """Raise :class:`DfnbError` for a name that is neither prepared nor in ``data_manifest``.

    A published dataset that is not prepared is known: the caller leaves it out, or fails later.
    """
    for dataset in datasets:
        if not is_known(dataset):
            known = [*embedded_names(), *published_names()]
            paths = sorted(home().glob("datasets/*/record.json"))
            prepared = [path.parent.name for path in paths]  # suggested first: the reader's own
            raise DfnbError(
                f"{source}: there is no dataset {dataset!r}, and `dfnb prepare` makes one of your "
                f"own files{suggestion(dataset, dict.fromkeys([*prepared, *known]))}"
            )


def refuse_taken(name: str, source: str) -> None:
    """Raise :class:`DfnbError` where what ``source`` makes would bear the name of another dataset.

    Tables show figures of that one beside it: those of a paper, or of other portraits.
    """
    if name != source and name in [*embedded_names(), *published_names()]:
        raise DfnbError(
            f"{name} is another dataset, which data_manifest describes; give what is made from "
            f"{source} a name of its own"
        )


def present(datasets: Iterable[str], source: str) -> list[str]:
    """The test sets that can be used; a printed line names those that are not prepared.

    Raises :class:`DfnbError` for an unknown name, and where no test set is left.
    """
    datasets = list(datasets)
    check_known(datasets, source)
    usable = [dataset for dataset in datasets if is_available(dataset, "test")]
    missing = [dataset for dataset in datasets if dataset not in usable]
    hint = f"{', '.join(missing)}: no split test is prepared, `dfnb data` says how to get it"
    if not usable:
        raise DfnbError(f"{source}: no test set is left; {hint}")
    if missing:
        print(f"left out: {hint}")
    return usable


def check_tested(datasets: Iterable[str], source: str) -> None:
    """Raise :class:`DfnbError` for a prepared dataset whose test split lacks real or fake frames.

    Those of the embedded benchmark have both. All ``datasets`` must be there.
    """
    for dataset in datasets:
        if not is_embedded(dataset):
            record = read_record(dataset_folder(dataset))
            kinds = (kind.split("/", 1) for kind in record["n"])  # split/method
            methods = {method for split, method in kinds if split == "test"}
            lacking = [] if "real" in methods else ["no real frames"]
            lacking += [] if methods - {"real"} else ["no fake frames"]
            if lacking:
                raise DfnbError(
                    f"{source}: the test split of {dataset} has {' and '.join(lacking)}, so that "
                    "nothing can be measured; add videos, or choose another test set"
                )
