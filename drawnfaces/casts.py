"""The people of a dataset, drawn or photographed, and whose face each one's forgeries show.

Two people who are each other's donors are a *pair*; with an odd number of people, the last pair has
three. Each person has random streams of their own, seeded by the dataset's name and their number:
two datasets share a drawn person only by ``people_of``.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drawnfaces import portraits
from drawnfaces.people import Array
from drawnfaces.seeds import LOOKS, rng
from drawnfaces.settings import SPLITS, Settings, SettingsError


class Person(NamedTuple):
    """A person of a dataset."""

    number: int
    split: str
    tone: float  # of the skin, 0 light to 4 dark; in a photograph -255 light to 0 dark
    donor: int = -1  # number of the person whose face its forgeries show; -1: not yet paired
    pair: str = ""  # the numbers of its people, such as 003_007: the name of their cluster
    portrait: portraits.Portrait | None = None  # None: drawn


class Photographs(NamedTuple):
    """Photographs of which people are made, and what finds the faces in them."""

    paths: Sequence[Path]  # image files, one person each; people are numbered in this order
    # An image (H, W, 3) uint8 BGR to its faces, each with width and height of its box, landmarks
    # (5, 2) as in people.Shot, and a score, 0 to 1.
    detect: Callable[[Array], list[Any]]
    # An image (H, W, 3) uint8 RGB and the landmarks of its face to its mesh (468, 2), see
    # mesh_forgeries; only needed by the methods that forge along it.
    mesh: Callable[[Array, Array], Array]


def cast(
    name: str, settings: Settings, photographs: Photographs | None = None
) -> tuple[list[Person], dict[str, Any]]:
    """The people of a dataset with their donors, in the order of their numbers.

    People of a split who are next to each other in tone, or look alike (see :func:`_paired`), are
    paired, so that a skin of another tone does not give a swap away. Each is the other's donor for
    every method; an odd number ends in a ring of three. So no face is in two pairs: the pair is the
    ``cluster``, and resampling pairs resamples independent things.

    Each portrait belongs to one split. A dataset with that split has all of its usable portraits,
    or the ``train_share`` of those of train; ``identities`` only says which splits it has. The
    portraits of the split test have the first numbers, so that they are the same people, in the
    same pairs, in a dataset of this split alone.

    Args:
        name: Of the dataset.
        settings: Of the dataset.
        photographs: Those that ``settings.portraits`` names; None: people are drawn.

    Returns:
        The people, and what is to be kept about photographs: ``portraits``, the file of each person
        by number, and ``quarantine``, the files that are not used, with the reason. Nothing is kept
        about drawn people.

    Raises:
        SettingsError: A split of the dataset has fewer than two people, or the settings name
            photographs, and none are passed.
    """
    record_entries = {}
    if photographs is not None:
        persons, record_entries = _portraits(name, settings, photographs)
    elif settings.portraits is None:
        persons = _drawn_people(name, settings)
    else:
        raise SettingsError(f"people are made of {settings.portraits}; pass the photographs")
    paired = []
    for split in SPLITS:
        members = [person for person in persons if person.split == split]
        if settings.identities.get(split) and len(members) < 2:
            source = settings.portraits or f"identities.{split}"
            people_there = f"{source} gives {len(members)} people for the split {split}"
            raise SettingsError(f"{people_there}, and forgeries need two; add some")
        paired += _paired(members)
    # Sorted by number, the first field: person n of the list has the number n.
    return sorted(paired), record_entries


def _drawn_people(name: str, settings: Settings) -> list[Person]:
    """The people of a dataset, not yet paired, numbered from 0 through all splits."""
    persons = []
    streams = settings.streams(name)
    for split in SPLITS:
        for _ in range(settings.identities.get(split, 0)):
            number = len(persons)
            # The looks are drawn later, in another process, from (..., number, LOOKS). Pairing
            # needs the tone before that, so the tone has a stream of its own, with a 0 at the end
            # of the key. It is from 0, the lightest of people.SKIN_TONES, to 4, the darkest.
            draw = rng(*streams, number, LOOKS, 0)
            persons.append(Person(number, split, tone=draw.uniform(0, 4)))
    return persons


def _portraits(
    dataset: str, settings: Settings, photographs: Photographs
) -> tuple[list[Person], dict[str, Any]]:
    """The people in photographs, not yet paired, and what is to be kept about these.

    ``dataset`` is the dataset's name. An entry of ``quarantine`` has the ``file``, the ``reason``
    why it is not used, and ``usable``: True if nothing is wrong with the file itself.
    """
    quarantine = []
    persons: list[Person] = []
    files = {}
    for path in _test_first(photographs.paths):
        split = _split_of(path.name)
        if not settings.identities.get(split):
            reason = f"belongs to the split {split}, which this dataset does not have"
            quarantine.append({"file": path.name, "reason": reason, "usable": True})
            continue
        if split == "train" and not _is_in_share(path.name, dataset, settings):
            reason = "is not among the share of the training people that this dataset has"
            quarantine.append({"file": path.name, "reason": reason, "usable": True})
            continue
        portrait = portraits.inspect(path, photographs.detect, settings.size)
        if isinstance(portrait, str):  # the reason why it cannot be used
            quarantine.append({"file": path.name, "reason": portrait, "usable": False})
            continue
        if settings.along_mesh:
            image = np.uint8(255 * portraits.pixels(portrait) + 0.5)
            mesh = photographs.mesh(image, portrait.landmarks)
            portrait = portrait._replace(mesh=mesh, thumbnail=portraits.thumbnail(portrait))
        number = len(persons)
        tone = -portrait.brightness  # a tone is larger for darker skin, a brightness for lighter
        persons.append(Person(number, split, tone, portrait=portrait))
        files[f"{number:03d}"] = path.name
    return persons, {"portraits": files, "quarantine": quarantine}


def _split_of(photograph: str) -> str:
    """The split of a photograph: train for half of all names, val and test for a quarter each.

    The file's name alone decides it, so that no face is trained on in one dataset and tested in
    another.
    """
    # Some names are not UTF-8; surrogateescape gives their bytes back.
    name = photograph.encode(errors="surrogateescape")
    quarter = int(hashlib.sha256(name).hexdigest(), 16) % 4
    return ("train", "train", "val", "test")[quarter]


def _test_first(paths: Iterable[Path]) -> list[Path]:
    """The files of photographs with those of the split test first, see :func:`cast`.

    People are numbered in this order. Otherwise it is that of ``paths``.
    """
    return sorted(paths, key=lambda path: _split_of(path.name) != "test")  # False is before True


def _is_in_share(photograph: str, dataset: str, settings: Settings) -> bool:
    """Whether a photograph of the split train is in the ``train_share`` of a dataset.

    The names of both seed the draw: each dataset keeps photographs of its own choice.
    """
    # rng takes no name that is not UTF-8, and JSON writes any in ASCII.
    digest = hashlib.sha256(json.dumps(photograph).encode()).hexdigest()[:12]
    draw = rng("share", dataset, digest)
    return draw.random() < settings.train_share


def _paired(members: list[Person]) -> list[Person]:
    """The people of a split with their donors and pairs: neighbours in tone, or else in looks.

    Looks count where photographs are forged along the mesh, and so have a ``thumbnail``. There each
    person in turn is paired with whoever of those left looks most like them, so that beards and
    glasses are mostly paired with their like. The lightest person has the first turn; each further
    turn goes to whoever of those left looks most like the person who had the turn before. A
    person's donor is the next in the ring of two or three.
    """
    waiting = sorted(members, key=lambda person: (person.tone, person.number))
    paired = []
    while waiting:
        first = waiting[0].portrait
        if first and first.thumbnail is not None:
            # The first itself, at a distance of 0, stays first.
            waiting.sort(key=lambda person: math.dist(person.portrait.thumbnail, first.thumbnail))
        # An odd number ends in a ring of three, so that nobody is left alone.
        n = 3 if len(waiting) == 3 else 2
        ring = waiting[:n]
        waiting = waiting[n:]
        pair = "_".join(f"{person.number:03d}" for person in sorted(ring))
        donors = [*ring[1:], ring[0]]
        for person, donor in zip(ring, donors):
            paired.append(person._replace(donor=donor.number, pair=pair))
    return paired
