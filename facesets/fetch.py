"""Published datasets by ``dfnb fetch``: what the block ``fetch`` of a manifest names is downloaded.

Every file is checked by its digest. A folder ``.unfinished`` stands in that of the download until
all is there, so that what was stopped is not taken for complete; the next call goes on with the
files that are missing.
"""

import logging
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote
from zipfile import ZipFile

from pydantic import Field, StringConstraints
from tqdm import tqdm

from facesets.checks import Closed, DfnbError
from facesets.files import INSIDE, download, explain_writing, home, locked, read_list, verified

UNFINISHED = ".unfinished"
Inside = Annotated[str, StringConstraints(pattern=f"^{INSIDE}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")]


class File(Closed):
    """One file of a download."""

    url: str  # of a commit or a record that does not change
    to: Inside  # its path below the folder of the download; of an archive: that of its content
    digest: Digest
    unpack: Literal["", "zip"] = ""  # what the file is


class Listed(Closed):
    """Files that a list in ``data_manifest/`` names with their sha256, as ``sha256sum`` does."""

    file: str  # the list
    base: str  # a file's address is this, a slash, and its path


class Hub(Closed):
    """Files of a dataset on the Hugging Face hub, which lists their digests."""

    repo: str  # owner/name
    # The id of a commit, or its first digits.
    revision: Annotated[str, StringConstraints(pattern="^[0-9a-f]{7,40}$")]
    files: tuple[str, ...]  # patterns of paths, in which * also matches a slash


class Fetch(Closed):
    """Where the files of a download are; usually one of the three."""

    bytes: int = Field(gt=0)  # of all files together, about
    files: tuple[File, ...] = ()
    list: Listed | None = None
    hub: Hub | None = None


def download_folder(name: str) -> Path:
    """``downloads/<name>`` in the home, where the files of a published dataset are, or will be."""
    return home() / "downloads" / name


def fetch_dataset(name: str, source: Fetch) -> Path:
    """Download the files of a dataset into :func:`download_folder`, and unpack them; returns it.

    What is there already is kept, and not overwritten. Raises :class:`DfnbError` where a file
    cannot be downloaded, or another one is in its place, where the disk has no room, and while
    another process downloads the same.
    """
    folder = download_folder(name)
    unfinished = folder / UNFINISHED
    with locked(folder):
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if shutil.disk_usage(folder).free + there < source.bytes:
            raise DfnbError(f"{folder} has no room; make room, or choose another home by DFNB_HOME")
        files = _files_of(source)
        unfinished.mkdir(exist_ok=True)
        if source.hub:
            _fetch_from_hub(source.hub, folder)
        for file in tqdm(files, name, disable=None, ncols=80):  # None: a terminal alone shows it
            _fetch_file(file, folder, unfinished)
        shutil.rmtree(unfinished)
    return folder


def refuse_unfinished(name: str) -> None:
    """Raise :class:`DfnbError` where the download of a dataset was begun, but not completed."""
    folder = download_folder(name)
    if (folder / UNFINISHED).exists():
        raise DfnbError(
            f"{folder} is not complete; `dfnb fetch {name}` goes on with the download, --root "
            "prepares what is there"
        )


def _files_of(source: Fetch) -> list[File]:
    """The files of a download, but for those of a hub."""
    files = [*source.files]
    if source.list:
        for path, sha256 in read_list(source.list.file).items():
            url = f"{source.list.base}/{quote(path)}"
            files.append(File(url=url, to=path, digest=f"sha256:{sha256}"))
    return files


def _fetch_file(file: File, folder: Path, unfinished: Path) -> None:
    """Download one file or, by way of the folder ``unfinished``, the content of an archive."""
    place = folder / file.to
    if not file.unpack:
        download(file.url, place, file.digest)
    elif not place.exists():
        path = unfinished / f"{file.to}.{file.unpack}"
        archive = download(file.url, path, file.digest, bar=sys.stderr.isatty())
        _unpack(archive, place)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into a new ``folder``, complete or not at all, and remove the archive.

    Where all of its content is in one folder, this one is left out.
    """
    content = archive.with_suffix("")
    with explain_writing(folder):
        shutil.rmtree(content, ignore_errors=True)  # of a call that was killed here
        with ZipFile(archive) as opened:
            opened.extractall(content)  # a name that leads out of it becomes one inside
        top, *others = content.iterdir()
        folder.parent.mkdir(parents=True, exist_ok=True)
        (content if others or top.is_file() else top).rename(folder)
        archive.unlink()


def _fetch_from_hub(hub: Hub, folder: Path) -> None:
    """Download the files of a hub's dataset that match its patterns, as they were at its revision.

    Raises :class:`DfnbError` as :func:`download` does, and where the hub has no such revision.
    """
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel("ERROR")  # else it prints each attempt twice
    api = HfApi(token=False)
    where = {"repo_id": hub.repo, "repo_type": "dataset"}
    try:
        commits = [commit.commit_id for commit in api.list_repo_commits(**where)]
        where["revision"] = {one[: len(hub.revision)]: one for one in commits}[hub.revision]
        tree = api.list_repo_tree(**where, recursive=True)
        digests = {entry.path: entry.lfs.sha256 for entry in tree if getattr(entry, "lfs", None)}
        _refuse_others(folder, digests)  # the download would replace them
        api.snapshot_download(**where, local_dir=folder, allow_patterns=[*hub.files])
        _refuse_others(folder, digests)  # the download compares sizes alone
    except DfnbError:
        raise
    except Exception as error:  # the classes depend on the version of huggingface_hub
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise DfnbError(
            f"{api.endpoint}/datasets/{hub.repo} could not be downloaded at commit {hub.revision} "
            f"({reason}); start again, or get its files by hand and put them into {folder}"
        ) from None


def _refuse_others(folder: Path, digests: dict[str, str]) -> None:
    """Raise :class:`DfnbError` where a file in ``folder`` has not the sha256 of its path."""
    for path, sha256 in digests.items():
        if (folder / path).exists():
            problem = "is another file than expected; move it away, and start again to download it"
            verified(folder / path, sha256, problem)
