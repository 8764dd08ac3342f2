"""The people of an embedded dataset, and whose face each one's forgeries show.

Two people who are each other's donors are a *pair*; with an odd number of people, the last pair has
three.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facesets import photographs, portraits
from facesets.camera import Array
from facesets.checks import DfnbError
from facesets.frames import SPLITS
from facesets.photographs import Photographs
from facesets.portraits import Portrait
from facesets.seeds import rng
from facesets.settings import Settings

# Two photographs whose likenesses correlate more show nearly the same picture. It finds copies that
# are compressed, resized, brighter or grey. Among 879 portraits the highest correlation is .94, and
# among 400 photographs of 40 people .90 between two people.
SAME_PICTURE = 0.97


class Person(NamedTuple):
    """A person of a dataset."""

    number: int
    split: str
    darkness: float  # mean of the portraits', from -255 light to 0 dark
    portraits: tuple[Portrait, ...]
    stratum: str = ""  # a pair is of one stratum, but for people who are alone in theirs
    donor: int = -1  # number of the person whose face its forgeries show; -1: not yet paired
    pair: str = ""  # the numbers of its people, such as 003_007: the name of their cluster

    def shown(self, film: int) -> Portrait:
        """The portrait that is set in motion in a film, by its number: they take turns."""
        return self.portraits[film % len(self.portraits)]


def cast(name: str, settings: Settings) -> tuple[list[Person], dict[str, Any]]:
    """The people of a dataset with their donors, in the order of their numbers.

    People of a split who look alike (see :func:`_paired`) are paired, so that a skin of another
    tone does not give a swap away. Each is the other's donor for every method; an odd number ends
    in a ring of three. So no face is in two pairs: the pair is the ``cluster``, and resampling
    pairs resamples independent things.

    Each person belongs to one split. A dataset with that split has all of them who have a usable
    portrait, or the ``train_share`` of those of train; ``identities`` only says which splits it has
    or, of the portraits that ship, at most how many people of each. The people of the split test
    have the first numbers, so that they are the same people, in the same pairs, in a dataset of
    this split alone.

    Returns:
        The people, and what the dataset's record keeps about photographs: ``portraits``, the files
        of each person by number; ``quarantine``, the files that are not used, with the reason;
        ``repeated``, the pairs of files that :func:`_repeated` finds; and ``shown``, whom the
        files of each number show, see :func:`_shown`.

    Raises:
        DfnbError: A split of the dataset has fewer than two people; or photographs are missing, or
            the networks that find their faces and place a mesh on them.
    """
    persons, record_entries = _people(name, settings, photographs.with_faces(settings.portraits))
    paired = []
    for split in SPLITS:
        members = [person for person in persons if person.split == split]
        if settings.identities.get(split) and len(members) < 2:
            people_there = f"{settings.portraits} gives {len(members)} people for the split {split}"
            raise DfnbError(f"{people_there}, and forgeries need two; add some")
        for stratum in _strata(members):
            paired += _paired(stratum)
    are_named = photographs.are_named(settings.portraits)
    record_entries["shown"] = _shown(
        record_entries["portraits"], record_entries["repeated"], are_named
    )
    # Sorted by number, the first field: person n of the list has the number n.
    return sorted(paired), record_entries


def _people(
    dataset: str, settings: Settings, source: Photographs
) -> tuple[list[Person], dict[str, Any]]:
    """The people in photographs, not yet paired, and what is to be kept about these.

    ``dataset`` is the dataset's name. An entry of ``quarantine`` has the ``file``, the ``reason``
    why it is not used, and ``usable``: True if nothing is wrong with the file itself.
    """
    quarantine = []
    persons: list[Person] = []
    files = {}
    for name, of_person in _test_first(source, settings):
        split = _split_in(source.split_of(name), settings)
        left_out = _left_out(name, split, dataset, settings)
        n_there = sum(person.split == split for person in persons)
        if source.listed and not left_out and n_there == settings.identities[split]:
            left_out = "is not among the first people of its split, which this dataset has"
        usable = {}
        for file in of_person:
            portrait = left_out or _portrait(source, file, settings)
            if isinstance(portrait, str):  # the reason why it is not used
                quarantine.append({"file": file, "reason": portrait, "usable": bool(left_out)})
            else:
                usable[file] = portrait
        if usable:
            number = len(persons)
            darkness = -sum(portrait.brightness for portrait in usable.values()) / len(usable)
            _, stratum = source.listed.get(name, ("", ""))
            persons.append(Person(number, split, darkness, (*usable.values(),), stratum))
            files[f"{number:03d}"] = [*usable]
    return persons, {
        "portraits": files,
        "quarantine": quarantine,
        "repeated": _repeated(persons, source.folder),
    }


def _left_out(name: str, split: str, dataset: str, settings: Settings) -> str | None:
    """Why a dataset does not have a person in photographs, whatever these are; None: it has."""
    if not settings.identities.get(split):
        return "belongs to a split that this dataset does not have"
    if split == "train" and not _is_in_share(name, dataset, settings):
        return "is not among the share of the training people that this dataset has"
    return None


def _portrait(source: Photographs, file: str, settings: Settings) -> Portrait | str:
    """The portrait in a file, or why it cannot be used."""
    landmarks_of, mesh_of = partial(source.landmarks, file), partial(source.mesh, file)
    portrait = portraits.inspect(source.folder / file, landmarks_of, mesh_of, settings.size)
    if not source.keep_grey and not isinstance(portrait, str):
        portrait = portrait._replace(is_grey=False)
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


def _shown(
    files_of: Mapping[str, list[str]], repeated: Iterable[list[str]], are_named: bool
) -> dict[str, str]:
    """Whom the photographs of each number show, as far as it is known; "": it is not.

    If people ``are_named``, a number is a person. Otherwise each file has a number, and two may
    show one person. Files that show nearly the same picture show the same person in any case.
    """
    numbers = {file: number for number, files in files_of.items() for file in files}
    people = {number: number for number in files_of}
    for one, other in repeated:  # the people of both are one from now on
        kept, joined = people[numbers[one]], people[numbers[other]]
        people = {number: kept if who == joined else who for number, who in people.items()}
    known = {*files_of} if are_named else {numbers[file] for pair in repeated for file in pair}
    return {number: who if number in known else "" for number, who in people.items()}


def _split_in(split: str, settings: Settings) -> str:
    """The split of a dataset in which people of a ``split`` of the photographs are; "": in none."""
    if settings.test_people == "test":
        return split
    return "test" if split == settings.test_people else ""


def _test_first(source: Photographs, settings: Settings) -> list[tuple[str, list[str]]]:
    """The names of people with their files, those of the split test first, see :func:`cast`.

    People are numbered in this order. Otherwise it is that of the files.
    """
    by_name: dict[str, list[str]] = {}
    for file in source.files:
        by_name.setdefault(file.split("/")[0], []).append(file)  # a folder, or the file itself

    def is_other(item: tuple[str, list[str]]) -> bool:
        return source.split_of(item[0]) != settings.test_people

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
    """The people of a stratum with their donors and pairs: those who look alike.

    Each person in turn is paired with whoever of those left looks most like them, by the
    ``thumbnail`` of the first portrait, so that beards and glasses are mostly paired with their
    like. The lightest person has the first turn; each further turn goes to whoever of those left
    looks most like the person who had the turn before. A person's donor is the next in the ring of
    two or three.
    """
    waiting = sorted(members, key=lambda person: (person.darkness, person.number))
    paired = []
    while waiting:
        first = waiting[0].shown(0)
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
