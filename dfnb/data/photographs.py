"""Photographs to make datasets of: a folder of the user's own, or a list of those that are fetched.

A list, such as ``data_manifest/portraits.sha256``, has a line per photograph, as ``sha256sum``
prints it. What it names is fetched into ``photographs/`` below :func:`dfnb.files.home`. No report
shows a photograph or its name, which may identify the person.
"""

from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from dfnb.checks import DfnbError
from dfnb.data.fetch import download, read_list
from dfnb.files import home, sha256

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
    return read_list(source)


def folder_of(source: str) -> Path:
    """The folder with the photographs that ``source`` names; those of a list are fetched.

    ``source`` is a folder, or the name of a list, as for :func:`hashes`. A file that is there
    already, with the right sha256, is not fetched again, and another one is not overwritten. Raises
    :class:`DfnbError` where a photograph cannot be fetched, or is not the listed one.
    """
    if not source.endswith(SUFFIX):
        return Path(source)
    folder = home() / "photographs"
    listed = tqdm(hashes(source).items(), "photographs", disable=None, ncols=80, leave=False)
    for name, expected in listed:
        try:
            download(f"{URL}/{quote(name)}", folder / name, f"sha256:{expected}")
        except DfnbError as error:
            remedy = "or name a folder: dfnb synth DATASET --portraits FOLDER"
            raise DfnbError(f"{error}; {remedy}") from None
    return folder
