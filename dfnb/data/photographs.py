"""Photographs to make datasets of: a folder of the user's own, or a list of those that are fetched.

A list, such as ``data_manifest/portraits.sha256``, has a line per photograph, as ``sha256sum``
prints it. What it names is fetched into ``photographs/`` below :func:`dfnb.files.home`. No report
shows a photograph or its name, which may identify the person.
"""

from pathlib import Path
from urllib.parse import quote

from dfnb.checks import DfnbError, explained
from dfnb.files import find, home, sha256, verified

SUFFIX = ".sha256"  # of a list
# Where the files of a list are: public-domain portraits of unitedstates/images, 225 x 275 pixels,
# one per person.
URL = "https://github.com/Hainish/congress-images-225x275/raw/20531e9/images"


def hashes(source: str) -> dict[str, str]:
    """The sha256 of each photograph, by its file's name; nothing is fetched.

    ``source`` is a folder, in which all files but hidden ones count, or the name of a list in
    ``data_manifest/``, which ends in ``.sha256``. Raises :class:`DfnbError` where there is neither,
    or where a line of the list is not two words, a hash and a name, which may contain spaces.
    """
    if not source.endswith(SUFFIX):
        folder = Path(source)
        if not folder.is_dir():
            raise DfnbError(f"there is no folder {source}; name the folder of the photographs")
        files = sorted(path for path in folder.glob("[!.]*") if path.is_file())
        return {path.name: sha256(path) for path in files}
    path = find(f"data_manifest/{source}")
    listed = {}
    # explained() turns an error, such as that of a line with one word, into a DfnbError with this
    # advice.
    with explained(path, "as a list of photographs", "write each line as sha256sum does"):
        for line in path.read_text(encoding="utf-8").splitlines():
            hash_of_file, name = line.strip().split(maxsplit=1)
            listed[name.removeprefix("*")] = hash_of_file  # * is of sha256sum --binary
    return listed


def folder_of(source: str) -> Path:
    """The folder with the photographs that ``source`` names; those of a list are fetched.

    ``source`` is a folder, or the name of a list, as for :func:`hashes`. A file that is there
    already, with the right sha256, is not fetched again, and another one is not overwritten. Raises
    :class:`DfnbError` where a photograph cannot be fetched, or is not the listed one.
    """
    if not source.endswith(SUFFIX):
        return Path(source)
    from torch import hub  # takes seconds to import

    folder = home() / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, expected in hashes(source).items():
        path = folder / name
        if path.exists():
            verified(path, expected, "is not the listed photograph; move it away")
            continue
        url = f"{URL}/{quote(name)}"
        remedy = f"put it into {folder}, or name a folder: dfnb synth DATASET --portraits FOLDER"
        with explained(url, "as a listed photograph", remedy):
            # It raises if the sha256 of what it fetched does not begin with ``expected``.
            hub.download_url_to_file(url, str(path), expected, progress=False)
    return folder
