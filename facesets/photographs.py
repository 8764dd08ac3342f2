"""Portraits to make datasets of: those that ship, a list of those that are fetched, or a folder.

Those that ship are :mod:`facesets.generated`; their name is GENERATED.

A folder of the user's own has a folder per person, or files alone, each of which then counts as a
person.

A list, such as ``data_manifest/portraits.sha256``, has a line per photograph, as ``sha256sum``
prints it. What it names is fetched into ``photographs/`` below :func:`facesets.files.home`. No
report shows one of these, or of a user's own, or its name, which may identify the person.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from tqdm import tqdm

from facesets import faces, generated
from facesets.camera import Array
from facesets.checks import DfnbError
from facesets.files import download, home, read_list, sha256
from facesets.portraits import landmarks_of_one_face

GENERATED = "generated"  # the portraits that ship
SUFFIX = ".sha256"  # of a list
# Where the files of a list are: public-domain portraits of unitedstates/images, 225 x 275 pixels,
# one per person.
URL = "https://github.com/Hainish/congress-images-225x275/raw/20531e9/images"


def hashes(source: str) -> dict[str, str]:
    """The sha256 of each photograph, by its file's path in the folder; nothing is fetched.

    Of the portraits that ship it is a hash of pixels, points, split and stratum. Raises
    :class:`DfnbError` as :func:`names` does, and where a line of a list is not two words, a hash
    and a name, which may contain spaces.
    """
    if source == GENERATED:
        return generated.hashes()
    if is_list(source):
        return read_list(source)
    return {name: sha256(Path(source, name)) for name in names(source)}


def names(source: str) -> list[str]:
    """The path of each photograph in its folder; nothing is read or fetched.

    ``source`` is GENERATED; or a folder, in which all files but hidden ones count; or the name of a
    list in ``data_manifest/``, which ends in ``.sha256``. In a folder with a folder per person, the
    paths are such as ``ada/1.jpg``. Raises :class:`DfnbError` where there is neither a folder nor a
    list, and where a folder has files beside folders, or a person's folder has folders.
    """
    if not is_folder(source):
        return [*hashes(source)]
    folder = Path(source)
    if not folder.is_dir():
        raise DfnbError(f"there is no folder {source}; name the folder of the photographs")
    files, people = _visible(folder)
    if files and people:
        both = f"both files and folders, such as {files[0].name} and {people[0].name}"
        raise DfnbError(f"{source} has {both}; give each person a folder, or have no folders")
    for person in people:
        of_person, below = _visible(person)
        if below:
            raise DfnbError(f"{below[0]} is a folder; put its photographs into {person} itself")
        files += of_person
    return [path.relative_to(folder).as_posix() for path in files]


def is_list(source: str) -> bool:
    """Whether this is the name of a list."""
    return source.endswith(SUFFIX)


def is_folder(source: str) -> bool:
    """Whether this is a folder of the user's own."""
    return source != GENERATED and not is_list(source)


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders in a folder, but hidden ones, in order."""
    paths = sorted(folder.glob("[!.]*"))
    return [path for path in paths if path.is_file()], [path for path in paths if path.is_dir()]


def are_named(source: str) -> bool:
    """Whether it is known who is shown: a list has one photograph per person, or folders say it."""
    return not is_folder(source) or any("/" in name for name in names(source))


def count(source: str) -> str:
    """How many photographs and people a folder has, as a sentence."""
    files = names(source)
    if are_named(source):
        n_people = len({file.split("/")[0] for file in files})
        return f"{source}: {len(files)} photographs of {n_people} people, a folder per person"
    return (
        f"{source}: each of {len(files)} files counts as a person; where people have several "
        "photographs, give each person a folder"
    )


def photograph_folder(source: str) -> Path:
    """The folder with the photographs that ``source`` names; those of a list are fetched.

    ``source`` is as for :func:`names`. A file that is there
    already, with the right sha256, is not fetched again, and another one is not overwritten. Raises
    :class:`DfnbError` where a photograph cannot be fetched, or is not the listed one.
    """
    if source == GENERATED:
        return generated.crops()
    if is_folder(source):
        return Path(source)
    folder = home() / "photographs"
    listed = tqdm(hashes(source).items(), "photographs", disable=None, ncols=80, leave=False)
    for name, expected in listed:
        download(f"{URL}/{quote(name)}", folder / name, f"sha256:{expected}")
    return folder


# ---------------------------------------------------------------- faces


class Photographs(NamedTuple):
    """Photographs of which people are made, and what finds the faces in them."""

    folder: Path
    # Image files, relative to the folder: "ada/1.jpg" shows the person ada, and "1.jpg" a person of
    # its own. People are numbered in this order.
    files: Sequence[str]
    # A file and its image (H, W, 3) uint8 BGR to the landmarks (5, 2) of the face, or to the reason
    # why the file cannot be used, see portraits.inspect.
    landmarks: Callable[[str, Array], Array | str]
    # A file, its image (H, W, 3) uint8 RGB and these landmarks to the mesh (468, 2) of the face.
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


def _split_of(name: str) -> str:
    """The split of a person in photographs: train for half of all, val and test for a quarter each.

    The name alone decides it, so that no face is trained on in one dataset and tested in another.
    """
    # Some names are not UTF-8; surrogateescape gives their bytes back.
    content = name.encode(errors="surrogateescape")
    quarter = int(hashlib.sha256(content).hexdigest(), 16) % 4
    return ("train", "train", "val", "test")[quarter]


def with_faces(source: str) -> Photographs:
    """The photographs of a ``source``, with what finds the faces in them.

    In the portraits that ship, the points of the faces are stored: no network looks for them.
    Raises :class:`DfnbError` as :func:`photograph_folder` does, and where the face detector cannot
    be had.
    """
    folder, files = photograph_folder(source), names(source)
    if source == GENERATED:
        people = generated.people().itertuples()
        return Photographs(
            folder,
            files,
            landmarks=lambda file, _: generated.landmarks(Path(file).stem),
            mesh=lambda file, *_: generated.mesh(Path(file).stem),
            listed={f"{person.Index}.webp": (person.split, person.stratum) for person in people},
        )
    detect = faces.YuNet() if files else None  # it may have to be downloaded
    return Photographs(
        folder,
        files,
        landmarks=lambda _, image: landmarks_of_one_face(image, detect),
        mesh=lambda _, image, landmarks: faces.face_mesh(image, landmarks),
        # Committed results rest on datasets of lists, in which a forgery of a grey one has colours.
        keep_grey=not is_list(source),
    )
