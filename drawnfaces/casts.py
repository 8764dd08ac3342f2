"""The people of a dataset, drawn or photographed, and whose face each one's forgeries show.

Two people who are each other's donors are a *pair*; with an odd number of people, the last pair has
three. Each person has random streams of their own, seeded by the dataset's name and their number:
two datasets share a drawn person only by ``people_of``.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from drawnfaces import portraits
from drawnfaces.people import Array
from drawnfaces.portraits import Portrait
from drawnfaces.seeds import LOOKS, rng
from drawnfaces.settings import SPLITS, Settings, SettingsError

# Two photographs whose likenesses correlate more show nearly the same picture. It finds copies that
# are compressed, resized, brighter or grey. Among 879 portraits the highest correlation is .94, and
# among 400 photographs of 40 people .90 between two people.
SAME_PICTURE = 0.97


class Person(NamedTuple):
    """A person of a dataset."""

    number: int
    split: str
    tone: float  # of the skin, 0 light to 4 dark; in a photograph -255 light to 0 dark
    donor: int = -1  # number of the person whose face its forgeries show; -1: not yet paired
    pair: str = ""  # the numbers of its people, such as 003_007: the name of their cluster
    portraits: tuple[Portrait, ...] = ()  # (): drawn
    stratum: str = ""  # a pair is of one stratum, but for people who are alone in theirs

    def shown(self, film: int) -> Portrait | None:
        """The portrait that is set in motion in a film, by its number; None: the person is drawn.

        The portraits take turns.
        """
        return self.portraits[film % len(self.portraits)] if self.portraits else None


class Photographs(NamedTuple):
    """Photographs of which people are made, and what finds the faces in them."""

    folder: Path
    # Image files, relative to the folder: "ada/1.jpg" shows the person ada, and "1.jpg" a person of
    # its own. People are numbered in this order.
    files: Sequence[str]
    # A file and its image (H, W, 3) uint8 BGR to the landmarks (5, 2) of the face, in the order of
    # people.Shot's, or to the reason why the file cannot be used.
    landmarks: Callable[[str, Array], Array | str]
    # A file, its image (H, W, 3) uint8 RGB and the landmarks of its face to its mesh (468, 2), see
    # mesh_forgeries; only needed by the methods that forge along it.
    mesh: Callable[[str, Array, Array], Array]
    # Whether forgeries of a grey photograph are grey, too. False: like others, they get the donor's
    # colours and a cast.
    keep_grey: bool = True
    # The split and the stratum of each person, by name, where a list says it; else the name alone
    # decides the split, and there is one stratum.
    listed: Mapping[str, tuple[str, str]] = MappingProxyType({})

    def split_of(self, person: str) -> str:
        """The split of a person, by the name."""
        return self.listed[person][0] if self.listed else _split_of(person)


def cast(
    name: str, settings: Settings, photographs: Photographs | None = None
) -> tuple[list[Person], dict[str, Any]]:
    """The people of a dataset with their donors, in the order of their numbers.

    People of a split who are next to each other in tone, or look alike (see :func:`_paired`), are
    paired, so that a skin of another tone does not give a swap away. Each is the other's donor for
    every method; an odd number ends in a ring of three. So no face is in two pairs: the pair is the
    ``cluster``, and resampling pairs resamples independent things.

    Each person in photographs belongs to one split. A dataset with that split has all of them who
    have a usable portrait, or the ``train_share`` of those of train; ``identities`` only says which
    splits it has or, of listed people, at most how many of each. The people of the split test have
    the first numbers, so that they are the same people, in the same pairs, in a dataset of this
    split alone.

    Args:
        name: Of the dataset.
        settings: Of the dataset.
        photographs: Those that ``settings.portraits`` names; None: people are drawn.

    Returns:
        The people, and what is to be kept about photographs: ``portraits``, the files of each
        person by number; ``quarantine``, the files that are not used, with the reason; and
        ``repeated``, the pairs of files that :func:`_repeated` finds. Nothing is kept about drawn
        people.

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
        for stratum in _strata(members):
            paired += _paired(stratum)
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
    for name, of_person in _test_first(photographs, settings):
        split = _split_in(photographs.split_of(name), settings)
        left_out = _left_out(name, split, dataset, settings)
        n_there = sum(person.split == split for person in persons)
        if photographs.listed and not left_out and n_there == settings.identities[split]:
            left_out = "is not among the first people of its split, which this dataset has"
        usable = {}
        for file in of_person:
            portrait = left_out or _portrait(photographs, file, settings)
            if isinstance(portrait, str):  # the reason why it is not used
                quarantine.append({"file": file, "reason": portrait, "usable": bool(left_out)})
            else:
                usable[file] = portrait
        if usable:
            number = len(persons)
            # A tone is larger for darker skin, a brightness for lighter.
            tone = -sum(portrait.brightness for portrait in usable.values()) / len(usable)
            _, stratum = photographs.listed.get(name, ("", ""))
            shown = (*usable.values(),)
            persons.append(Person(number, split, tone, portraits=shown, stratum=stratum))
            files[f"{number:03d}"] = [*usable]
    return persons, {
        "portraits": files,
        "quarantine": quarantine,
        "repeated": _repeated(persons, photographs.folder),
    }


def _left_out(name: str, split: str, dataset: str, settings: Settings) -> str | None:
    """Why a dataset does not have a person in photographs, whatever these are; None: it has."""
    if not settings.identities.get(split):
        return "belongs to a split that this dataset does not have"
    if split == "train" and not _is_in_share(name, dataset, settings):
        return "is not among the share of the training people that this dataset has"
    return None


def _portrait(photographs: Photographs, file: str, settings: Settings) -> Portrait | str:
    """The portrait in a file, with all that the methods need, or why it cannot be used."""
    landmarks_of = partial(photographs.landmarks, file)
    portrait = portraits.inspect(photographs.folder / file, landmarks_of, settings.size)
    if not photographs.keep_grey and not isinstance(portrait, str):
        portrait = portrait._replace(is_grey=False)
    if settings.along_mesh and not isinstance(portrait, str):
        image = np.uint8(255 * portraits.pixels(portrait) + 0.5)
        mesh = photographs.mesh(file, image, portrait.landmarks)
        portrait = portrait._replace(mesh=mesh, thumbnail=portraits.thumbnail(portrait))
    return portrait


def _repeated(persons: Sequence[Person], folder: Path) -> list[list[str]]:
    """Pairs of files that show nearly the same picture, though their people are in two splits.

    Two pictures are nearly the same if their ``likeness`` correlates by more than SAME_PICTURE.
    """
    by_split = {}
    for split in SPLITS:
        of_split = [person for person in persons if person.split == split]
        by_split[split] = [portrait for person in of_split for portrait in person.portraits]
    found = []
    for one, other in itertools.combinations(filter(None, by_split.values()), 2):
        correlations = _likenesses(one) @ _likenesses(other).T
        for i, j in np.argwhere(correlations > SAME_PICTURE):
            pair = (Path(one[i].path), Path(other[j].path))
            found.append([path.relative_to(folder).as_posix() for path in pair])
    return found


def _likenesses(of: Sequence[Portrait]) -> Array:
    """The ``likeness`` of portraits, (n, 256)."""
    return np.stack([portrait.likeness for portrait in of])


def _split_of(name: str) -> str:
    """The split of a person in photographs: train for half of all, val and test for a quarter each.

    The name alone decides it, so that no face is trained on in one dataset and tested in another.
    """
    # Some names are not UTF-8; surrogateescape gives their bytes back.
    content = name.encode(errors="surrogateescape")
    quarter = int(hashlib.sha256(content).hexdigest(), 16) % 4
    return ("train", "train", "val", "test")[quarter]


def _split_in(split: str, settings: Settings) -> str:
    """The split of a dataset in which people of a ``split`` of the photographs are; "": in none."""
    if settings.test_people == "test":
        return split
    return "test" if split == settings.test_people else ""


def _test_first(photographs: Photographs, settings: Settings) -> list[tuple[str, list[str]]]:
    """The names of people with their files, those of the split test first, see :func:`cast`.

    People are numbered in this order. Otherwise it is that of the files.
    """
    by_name: dict[str, list[str]] = {}
    for file in photographs.files:
        by_name.setdefault(file.split("/")[0], []).append(file)  # a folder, or the file itself

    def is_other(item: tuple[str, list[str]]) -> bool:
        return photographs.split_of(item[0]) != settings.test_people

    return sorted(by_name.items(), key=is_other)  # False is first


def _is_in_share(person: str, dataset: str, settings: Settings) -> bool:
    """Whether a person in photographs of the split train is in the ``train_share`` of a dataset.

    The names of both seed the draw: each dataset keeps people of its own choice.
    """
    # rng takes no name that is not UTF-8, and JSON writes any in ASCII.
    digest = hashlib.sha256(json.dumps(person).encode()).hexdigest()[:12]
    draw = rng("share", dataset, digest)
    return draw.random() < settings.train_share


def _strata(members: Iterable[Person]) -> list[list[Person]]:
    """The people of a split by stratum; those who are alone in one are together in the last."""
    by_stratum: dict[str, list[Person]] = {}
    for person in members:
        by_stratum.setdefault(person.stratum, []).append(person)
    strata = [people for people in by_stratum.values() if len(people) > 1]
    alone = [people[0] for people in by_stratum.values() if len(people) == 1]
    if len(alone) == 1 and strata:  # in need of a partner
        strata[-1] += alone
    elif alone:
        strata.append(alone)
    return strata


def _paired(members: list[Person]) -> list[Person]:
    """The people of a stratum with their donors and pairs: neighbours in tone, or else in looks.

    Looks count where photographs are forged along the mesh, and so have a ``thumbnail``: that of a
    person's first portrait counts. There each person in turn is paired with whoever of those left
    looks most like them, so that beards and glasses are mostly paired with their like. The lightest
    person has the first turn; each further turn goes to whoever of those left looks most like the
    person who had the turn before. A person's donor is the next in the ring of two or three.
    """
    waiting = sorted(members, key=lambda person: (person.tone, person.number))
    paired = []
    while waiting:
        first = waiting[0].shown(0)
        if first and first.thumbnail is not None:
            # The first itself, at a distance of 0, stays first.
            waiting.sort(key=lambda person: math.dist(person.shown(0).thumbnail, first.thumbnail))
        # An odd number ends in a ring of three, so that nobody is left alone.
        n = 3 if len(waiting) == 3 else 2
        ring = waiting[:n]
        waiting = waiting[n:]
        pair = "_".join(f"{person.number:03d}" for person in sorted(ring))
        donors = [*ring[1:], ring[0]]
        for person, donor in zip(ring, donors):
            paired.append(person._replace(donor=donor.number, pair=pair))
    return paired
