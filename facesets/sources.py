"""A dataset by its name: what identifies it, how it is made where it is needed, its frames.

:mod:`facesets.manifests` knows which datasets there are.
"""

from typing import Any

import pandas as pd

from facesets import embedded
from facesets.checks import DfnbError, suggestion
from facesets.frames import data_identity, dataset_record, load_frames, select, thinned
from facesets.manifests import embedded_names, is_embedded, manifest
from facesets.photographs import GENERATED
from facesets.seeds import rng
from facesets.settings import Settings, preset_identity

TEST_FRAMES = 32  # per test video at most, evenly spaced: as in DeepfakeBench

# ---------------------------------------------------------------- the embedded benchmark


def preset(name: str, **changes: Any) -> Settings:
    """The settings of an embedded dataset, with ``changes`` in place of some of them.

    The manifest states them, or ranges from which they are chosen at random by the dataset's name.
    A change to a group, such as ``camera``, replaces the whole group. Raises :class:`DfnbError`
    when no embedded dataset has that name, or for a setting that is unknown or impossible.
    """
    source = f"dataset {name}"  # in messages
    names = embedded_names()
    if name not in names:
        raise DfnbError(f"no embedded dataset is named {name}{suggestion(name, names)}")
    content = manifest(name)
    parameters = content["parameters"]
    # A value that was chosen at random replaces a written one; a group's other values stay.
    for group, values in _drawn_parameters(name, content.get("drawn", {})).items():
        parameters[group] = {**parameters.get(group, {}), **values}
    settings = Settings.check({**parameters, **changes}, source)
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
        return preset_identity(name, preset(name))
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

    Of a dataset of generated portraits these are the frames of its first people, whether it is
    built or not. So a notebook shows the same frames anywhere, and need not build a dataset to show
    ten. Of any other dataset, such as one of photographs, they are all frames of the split, after
    :func:`ensure_datasets`.
    """
    if shows_generated_faces(name):
        return load_frames(embedded.excerpt(name, preset(name), split))
    ensure_datasets(name)
    return select(load_frames(name), split)


def shows_generated_faces(name: str) -> bool:
    """Whether a dataset is made of the generated portraits, which ship and show nobody."""
    return is_embedded(name) and preset(name).portraits == GENERATED


def frames_to_score(name: str) -> pd.DataFrame:
    """The test split of a dataset as a frames table, thinned to TEST_FRAMES per video.

    Raises :class:`DfnbError` when the dataset is not prepared or has no test split.
    """
    return thinned(select(load_frames(name), "test"), TEST_FRAMES)
