"""What a dataset's name means: which datasets there are, and what describes and identifies each.

A name is one of the embedded benchmark, which a maker films when it is needed (``maker`` in its
manifest), one of a published dataset (``kind: real``), which must be prepared from a download, or
that of a dataset that was prepared from the reader's own files.
"""

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel

from facesets import embedded
from facesets.checks import DfnbError, checked, read_yaml, suggestion
from facesets.files import dataset_folder, find, home
from facesets.frames import data_identity, dataset_record, load_frames, select, thinned
from facesets.photographs import GENERATED
from facesets.records import read_record
from facesets.seeds import rng

TEST_FRAMES = 32  # per test video at most, evenly spaced: as in DeepfakeBench
# Of a file in data_manifest/. Embedded: a maker makes its datasets. Broken: it cannot be read.
Kind = Literal["embedded", "published", "broken"]

# ---------------------------------------------------------------- manifests


def manifest(name: str) -> dict[str, Any]:
    """The content of the file in ``data_manifest/`` or its folders that describes a dataset.

    A file with the entry ``maker`` or ``kind`` describes the dataset of its own name or, if there
    are several, those that its entry ``names`` lists. Other files, such as claims, describe none.
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
    if "maker" in content:
        return "embedded", names
    return "published", names if content.get("kind") == "real" else []


# ---------------------------------------------------------------- the embedded benchmark


def preset(name: str, **changes: Any) -> BaseModel:
    """The settings of an embedded dataset, with ``changes`` in place of some of them.

    They are the ``Settings`` of its maker, see :mod:`facesets.embedded`. The manifest states them,
    or ranges from which they are chosen at random by the dataset's name. A change to a group, such
    as ``camera``, replaces the whole group. Raises :class:`DfnbError` when no embedded dataset has
    that name, or for a setting that is unknown or impossible.
    """
    source = f"dataset {name}"  # in messages
    names = embedded_names()
    if name not in names:
        raise DfnbError(f"no embedded dataset is named {name}{suggestion(name, names)}")
    content = manifest(name)
    maker = embedded.MAKERS[content["maker"]]
    parameters = content.get("parameters", {})
    # A value that was chosen at random replaces a written one; a group's other values stay.
    for group, values in _drawn_parameters(name, content.get("drawn", {})).items():
        parameters[group] = {**parameters.get(group, {}), **values}
    settings = checked(maker.Settings, {**parameters, **changes}, source)
    if settings.people_of not in (None, *names):
        choice = f"people_of = {settings.people_of!r} is none of {', '.join(names)}"
        raise DfnbError(f"{source}: {choice}; correct its manifest in data_manifest")
    return settings


def _drawn_parameters(name: str, ranges: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of a dataset that are drawn from ranges; each has its own random stream.

    Args:
        name: The dataset's name: with another name the same ranges give other values.
        ranges: Under ``spans`` a range per parameter, in its group, such as
            ``{"camera": {"blur": (0.2, 1.0)}}``: the drawn value is a narrower span within it,
            rounded to four decimals. Under ``choices`` likewise a list per parameter: the drawn
            value is one of its items.

    Returns:
        The drawn values, in the same groups, such as ``{"camera": {"blur": [0.3127, 0.7051]}}``.
    """
    drawn: dict[str, dict[str, Any]] = {}
    for group, spans in ranges.get("spans", {}).items():
        values = drawn.setdefault(group, {})
        for key, (low, high) in spans.items():
            ends = rng("drawn parameters", name, group, key).uniform(low, high, 2)
            values[key] = sorted(ends.round(4).tolist())
    for group, choices in ranges.get("choices", {}).items():
        values = drawn.setdefault(group, {})
        for key, options in choices.items():
            draw = rng("drawn parameters", name, group, key)
            values[key] = options[draw.integers(len(options))]
    return drawn


# ---------------------------------------------------------------- using a dataset


def identity(name: str, *splits: str) -> str:
    """A digest that identifies these splits of a dataset, equal on every machine.

    A dataset of the embedded benchmark need not be built, and is identified as a whole. Raises
    :class:`DfnbError` for any other one that is not prepared.
    """
    if is_embedded(name):
        return embedded.preset_identity(name, preset(name))
    return data_identity(dataset_record(name, *splits), splits)


def fetch(name: str) -> None:
    """Download what :func:`ensure_datasets` needs for a dataset that shows photographs.

    For any other dataset, nothing is downloaded. Raises :class:`DfnbError` where something cannot
    be had.
    """
    if is_embedded(name):
        embedded.fetch_pictures(name, preset(name))


def ensure_datasets(*names: str) -> None:
    """Build the missing datasets of the embedded benchmark, and those with other content now.

    A dataset that was made from an earlier version of its manifest is moved aside, never mixed with
    the present one. Raises :class:`DfnbError` for any other dataset that is not prepared.
    """
    for name in names:
        if is_embedded(name):
            embedded.move_outdated(name, preset(name))
            embedded.build(name, preset(name))  # returns at once where the dataset is there
        else:
            dataset_record(name)  # raises where it is not prepared


def frames_to_show(name: str, split: str = "test") -> pd.DataFrame:
    """Frames of a split of a dataset, for pictures and examples.

    Of a dataset that is made of what ships these are the frames of its first people, whether it is
    built or not. So a notebook shows the same frames anywhere, and need not build a dataset to show
    ten. Of any other dataset, such as one of photographs, they are all frames of the split, after
    :func:`ensure_datasets`.
    """
    if ships(name):
        return load_frames(embedded.excerpt(name, preset(name), split))
    ensure_datasets(name)
    return select(load_frames(name), split)


def ships(name: str) -> bool:
    """Whether a dataset is made of what ships: without a download, and of nobody who exists."""
    return is_embedded(name) and preset(name).portraits in (None, GENERATED)


def shows_generated_faces(name: str) -> bool:
    """Whether a dataset is made of the generated portraits: its originals are no photographs."""
    return is_embedded(name) and preset(name).portraits == GENERATED


def frames_to_score(name: str) -> pd.DataFrame:
    """The test split of a dataset as a frames table, thinned to TEST_FRAMES per video.

    Raises :class:`DfnbError` when the dataset is not prepared or has no test split.
    """
    return thinned(select(load_frames(name), "test"), TEST_FRAMES)


def is_available(dataset: str, *splits: str) -> bool:
    """Whether these splits are prepared, or of the embedded benchmark, which is built when needed.

    Without ``splits``, whether anything of the dataset is prepared.
    """
    if is_embedded(dataset):
        return True
    record = read_record(dataset_folder(dataset))
    return record is not None and {*splits} <= {*record["fingerprints"]}


def check_known(datasets: Iterable[str], source: str) -> None:
    """Raise :class:`DfnbError` for a name that is neither prepared nor in ``data_manifest``.

    A published dataset that is not prepared is known: the caller leaves it out, or fails later.
    """
    known = [*embedded_names(), *published_names()]
    for dataset in datasets:
        if dataset not in known and not is_available(dataset):
            paths = sorted(home().glob("datasets/*/record.json"))
            prepared = [path.parent.name for path in paths]  # suggested first: the reader's own
            raise DfnbError(
                f"{source}: there is no dataset {dataset!r}, and `dfnb prepare` makes one of your "
                f"own files{suggestion(dataset, dict.fromkeys([*prepared, *known]))}"
            )


def refuse_taken(name: str, source: str) -> None:
    """Raise :class:`DfnbError` where what ``source`` makes would bear the name of another dataset.

    Tables show figures of that one beside it: those of a paper, or of other drawn faces.
    """
    if name != source and name in [*embedded_names(), *published_names()]:
        raise DfnbError(
            f"{name} is another dataset, which data_manifest describes; give what is made from "
            f"{source} a name of its own"
        )


def check_tested(datasets: Iterable[str], source: str) -> None:
    """Raise :class:`DfnbError` for a prepared dataset whose test split lacks real or fake frames.

    Those of the embedded benchmark have both. All ``datasets`` must be there.
    """
    for dataset in datasets:
        if not is_embedded(dataset):
            kinds = (kind.split("/", 1) for kind in dataset_record(dataset)["n"])  # split/method
            methods = {method for split, method in kinds if split == "test"}
            lacking = [] if "real" in methods else ["no real frames"]
            lacking += [] if methods - {"real"} else ["no fake frames"]
            if lacking:
                raise DfnbError(
                    f"{source}: the test split of {dataset} has {' and '.join(lacking)}, so that "
                    "nothing can be measured; add videos, or choose another test set"
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
