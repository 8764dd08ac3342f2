"""Datasets of the embedded benchmark: what each is made from, and how it is identified."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from dfnb.checks import Closed, DfnbError
from dfnb.data.frames import SPLITS
from dfnb.files import digest
from dfnb.manifests import dataset_names, manifest
from dfnb.seeds import rng
from dfnb.synth import mesh_forgeries, photographs
from dfnb.synth.forgeries import METHODS, Camera, Crop, Delivery, Forgery

GENERATOR = 4  # part of every dataset's identity: raise it when the same settings give other pixels


class Settings(Closed):
    """What a dataset of the embedded benchmark is made from; each YAML says what it changes."""

    # The number of drawn people per split; 0 or missing: the dataset does not have this split. With
    # portraits, any positive number takes all people of the split.
    identities: dict[Literal[SPLITS], NonNegativeInt] = Field(
        {"train": 200, "val": 50, "test": 100}
    )
    videos: int = Field(2, ge=1, le=26)  # real videos per person, a to z, and as many forged ones
    frames: int = Field(4, ge=1, le=10_000)  # frames per video
    size: int = Field(96, ge=64, le=2048)  # height and width of a frame, in pixels
    seed: int = Field(0, ge=0)
    # Those of mesh_forgeries forge photographs alone.
    methods: tuple[Literal[*METHODS, *mesh_forgeries.METHODS], ...] = Field(
        ("swap", "resynthesis", "warp", "mouth"), min_length=1
    )
    # The default, no variation, is left out of the dataset's identity, as None is for people_of.
    crop: Crop = Field(Crop(), exclude_if=lambda crop: crop == Crop())
    camera: Camera = Camera()
    forgery: Forgery = Forgery()
    delivery: Delivery = Delivery()
    # How much a mark in the corner reveals about the label: 0 nothing, 1 all; None: no mark. See
    # forgeries.mark.
    cue: float | None = Field(None, ge=0, le=1)
    # Photographs that are used instead of drawn faces: their folder, or the name of a list in
    # data_manifest/ of those that are fetched, see synth.photographs.
    portraits: str | None = None
    # About this share of the photographs of the split train is kept; which ones depends on the
    # dataset's name. 1 is left out of the identity, as None is for people_of.
    train_share: float = Field(1, gt=0, le=1, exclude_if=lambda share: share == 1)
    # Another dataset; seed, identities, size, crop and camera must be the same here, which nothing
    # checks. Its test people are shown in the same films, and each film is forged by every method.
    # exclude_if leaves None out of the dataset's identity, which is therefore as before this
    # setting existed.
    people_of: str | None = Field(None, exclude_if=lambda name: name is None)


def preset(name: str, **changes: Any) -> Settings:
    """The settings of an embedded dataset, with ``changes`` in place of some of them.

    Its manifest states them, or ranges from which they are chosen at random by the dataset's name.
    A change to a group, such as ``camera``, replaces the whole group.
    Raises :class:`DfnbError` when no dataset has that name, or for a setting that is unknown or
    impossible.
    """
    source = f"dataset {name}"  # in messages
    names = dataset_names("synth")
    if name not in names:
        raise DfnbError(f"no embedded dataset is named {name}; they are {', '.join(names)}")
    content = manifest(name)
    parameters = content.get("parameters", {})
    # A value that was chosen at random replaces a written one; a group's other values stay.
    for group, values in _drawn_parameters(name, content.get("drawn", {})).items():
        parameters[group] = {**parameters.get(group, {}), **values}
    settings = Settings.check({**parameters, **changes}, source)
    if settings.people_of not in (None, *names):
        choice = f"people_of = {settings.people_of!r} is none of {', '.join(names)}"
        raise DfnbError(f"{source}: {choice}; correct its manifest in data_manifest")
    shown = ("test",) if settings.people_of else SPLITS
    if not any(settings.identities.get(split) for split in shown):
        raise DfnbError(f"{source}: identities has no people for {' or '.join(shown)}; add some")
    along_mesh = sorted({*settings.methods} & {*mesh_forgeries.METHODS})
    if along_mesh and not settings.portraits:
        raise DfnbError(f"{source}: {', '.join(along_mesh)} forge photographs; set portraits")
    if settings.train_share < 1 and not settings.portraits:
        raise DfnbError(f"{source}: train_share is a share of photographs; set portraits")
    if settings.delivery.h264 is not None and settings.size % 2:  # else crops would lack a row
        raise DfnbError(f"{source}: H.264 needs an even size, not {settings.size}")
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


def preset_identity(name: str) -> str:
    """The identifier of an embedded dataset's data; the dataset need not be built.

    It is the digest, 16 hexadecimal digits, of the generator's version and the parameters. Pixels
    are not hashed, because they differ between machines by rounding.
    ``frames.data_identity`` gives the same for the record of the built dataset.
    """
    return digest(parameters_of(name, preset(name)), digits=16)


def parameters_of(name: str, settings: Settings) -> dict[str, Any]:
    """All that a dataset's pixels depend on.

    ``dataset.json`` has these values, and :func:`preset_identity` is their hash.
    """
    parameters = {"name": name, "generator": GENERATOR, **settings.model_dump(mode="json")}
    if settings.portraits:
        # In place of the folder's path: the same photographs elsewhere give the same pixels.
        hashes = photographs.hashes(settings.portraits)
        # A list, because digest ignores the order of keys: people are numbered in this order.
        parameters["portraits"] = digest(list(hashes.items()))
    return parameters
