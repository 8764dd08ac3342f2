"""Downloads: published datasets by ``dfnb fetch``, and the few files that the package needs.

Every file is checked by its digest or, where none is known, by its number of bytes. A stopped
download leaves a hidden file ``.NAME.part``, with which the next call goes on. The transfer itself
is that of huggingface_hub, from any server: it resumes, and tries again when a connection breaks.
"""

import hashlib
import logging
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http import HTTPStatus
from http.client import responses
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import Field, StringConstraints, model_validator
from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from dfnb.checks import Closed, DfnbError, Name, explained, suggestion
from dfnb.files import TEMPORARY, atomic, explain_writing, find, home, locked, size_in_words

# A folder in that of a download, until all files are there that were begun. It has an empty file
# for each part that was begun, with the part's name, or with WHOLE.
UNFINISHED = ".unfinished"
WHOLE = "the whole"  # no name of a part, as these have no blanks
EMPTY = f"sha256:{hashlib.sha256(b'').hexdigest()}"  # of an empty file
Digest = Annotated[str, StringConstraints(pattern=r"^((sha256:)[0-9a-f]{64}|(md5:)[0-9a-f]{32})?$")]


class File(Closed):
    """One file of a download. Without a ``digest``, its number of ``bytes`` is checked alone."""

    url: str  # of a commit or a record that does not change
    to: str  # its path below the folder of the download; of an archive: the folder of its content
    bytes: int = Field(0, ge=0)  # 0: unknown
    digest: Digest = ""  # sha256:… or md5:…
    unpack: Literal["", "zip", "tar"] = ""  # what the file is; tar: of any compression

    @model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        if not self.bytes and not self.digest:
            raise ValueError(f"{self.to}: give its digest, or at least its bytes")
        return self


class Listed(Closed):
    """Files that a list in ``data_manifest/`` names with their sha256, as ``sha256sum`` does."""

    file: str  # the list
    base: str  # a file's address is this, a slash, and its path


class Hub(Closed):
    """Files of a dataset on the Hugging Face hub, which lists their sizes and sha256."""

    repo: str  # owner/name
    # The id of a commit, or its first digits.
    revision: Annotated[str, StringConstraints(pattern="^[0-9a-f]{7,40}$")]
    files: tuple[str, ...]  # patterns of paths, as of fnmatchcase


class Source(Closed):
    """Where the files of a download, or of a part of one, are; usually one of the three."""

    bytes: int = Field(gt=0)  # of all files together; of those of a hub, about
    files: tuple[File, ...] = ()
    list: Listed | None = None
    hub: Hub | None = None


class Fetch(Source):
    """The whole download, and its parts by name."""

    parts: dict[Name, Source] = Field({})


# ---------------------------------------------------------------- one file


def download(
    url: str,
    path: Path,
    digest: str = "",
    size: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Return ``path``, with the file that is at ``url``: downloaded if missing, and checked.

    Args:
        url: The address.
        path: Where the file is, or will be.
        digest: As ``File.digest``. This or ``size`` must be given.
        size: The number of bytes; 0: unknown.
        progress: Is called with the number of new bytes, again and again.

    Raises :class:`DfnbError` where the file cannot be downloaded or written, and where the file at
    the address or at ``path`` is another one. Of another one, and on a full disk, nothing is kept.
    """
    if not path.exists():
        part = _part_of(path)
        with locked(path.parent, wait_s=-1), explain_writing(path):
            if not path.exists():  # else another process has downloaded it meanwhile
                if not part.exists() or _mismatch(part, digest, size):
                    expected = (digest, size)
                    _transfer(url, part, path, expected, progress or (lambda _: None))
                if problem := _mismatch(part, digest, size):
                    part.unlink()
                    raise DfnbError(
                        f"{url} is another file than expected ({problem}), and was not kept; start "
                        "again, and if that does not help, the file has changed at its source"
                    )
                part.replace(path)
                return path
    if problem := _mismatch(path, digest, size):
        raise DfnbError(
            f"{path} is another file than expected ({problem}); move it away, and start again to "
            f"download {url}"
        )
    return path


def _part_of(path: Path) -> Path:
    """Where a file is while it is downloaded to ``path``."""
    return path.with_name(f".{path.name}.part")


def _mismatch(path: Path, digest: str, size: int) -> str:
    """How a file differs from the expected one; empty where it does not."""
    there = path.stat().st_size
    if size and there != size:
        return f"{there:,} bytes instead of {size:,}"
    if digest:
        kind, expected = digest.split(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != expected:
            return f"{kind} {found} instead of {expected}"
    return ""


def _transfer(
    url: str,
    part: Path,
    path: Path,
    expected: tuple[str, int],
    progress: Callable[[int], object],
) -> None:
    """Download ``url`` into ``part``, from where this ends; goes on as long as it gets further.

    ``expected`` is the digest and the size, as in :func:`download`: an error counts for nothing
    where the file is complete. Raises :class:`DfnbError`, which says what to put at ``path`` by
    hand, and OSError of the disk.
    """
    reached = part.stat().st_size if part.exists() else 0
    with _quiet_hub() as http_get:
        while True:
            try:
                with part.open("ab") as file:
                    output = CallbackIOWrapper(progress, file, "write")
                    return http_get(url, output, resume_size=file.tell())
            except Exception as error:  # the classes depend on the version of huggingface_hub
                if _is_of_disk(error):
                    part.unlink(missing_ok=True)
                    raise
                if not _mismatch(part, *expected):
                    return None
                end = part.stat().st_size
                if _status(error) is None and end > reached:
                    reached = end
                    continue
                # 416: the server's file is shorter than the part, which is of another file.
                if end == 0 or _status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    part.unlink()
                raise DfnbError(
                    f"{url} could not be downloaded ({_reason(error)}); start again, or get it by "
                    f"hand and put it at {path}"
                ) from None


@contextmanager
def _quiet_hub() -> Iterator[Callable[..., None]]:
    """The transfer of huggingface_hub, without its bars and its remarks on new attempts."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    bars = "huggingface_hub.http_get"  # those of other downloads stay
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    disable_progress_bars(bars)
    try:
        yield http_get
    finally:
        enable_progress_bars(bars)
        logger.setLevel(level)


def _is_of_disk(error: Exception) -> bool:
    """Whether an error is one of the file system, such as a full disk, and not of a network."""
    is_of_system = isinstance(error, OSError) and error.errno is not None
    return is_of_system and not isinstance(error, ConnectionError)


def _status(error: Exception) -> int | None:
    """The status of the server's answer that an error is about, such as 404; None without one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    """The reason in an error of a download or an archive, in one line."""
    if status := _status(error):
        return f"the server answers {status} {responses.get(status, '')}".rstrip()
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- archives


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar into a new ``folder``, complete or not at all, and remove the archive.

    Where all of its content is in one folder, this one is left out. Raises :class:`DfnbError` for a
    damaged archive and for names that lead out of the folder, and then removes the archive; and
    where the disk is full.
    """
    with atomic(folder) as temporary:
        temporary.mkdir()
        try:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as content:
                    for name in content.namelist():
                        _refuse_unsafe(name)  # extractall would write it under another name
                    content.extractall(temporary)
            else:
                with tarfile.open(archive) as content:
                    content.extractall(temporary, filter="data")  # refuses what leads outside
        except Exception as error:  # zipfile, tarfile and the compressions have many classes
            if _is_of_disk(error):
                raise
            archive.unlink()
            raise DfnbError(
                f"{archive} cannot be unpacked ({_reason(error)}), and was removed; start "
                "again, and if that does not help, the file has changed at its source"
            ) from None
        entries = list(temporary.iterdir())
        if len(entries) == 1 and entries[0].is_dir():
            top = entries[0].rename(temporary / ".top")  # it may contain one of its own name
            for entry in list(top.iterdir()):
                entry.rename(temporary / entry.name)
            top.rmdir()
    archive.unlink()


def _refuse_unsafe(name: str) -> None:
    """Raise :class:`DfnbError` for a path that leads out of the folder to which it is relative."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0] or not path.parts:
        raise DfnbError(f"the name {name!r} leads out of the folder")


# ---------------------------------------------------------------- a dataset


def folder_of(name: str) -> Path:
    """``downloads/<name>`` in the home, where the files of a published dataset are, or will be."""
    return home() / "downloads" / name


def source_of(fetch: Fetch, part: str | None, name: str) -> Source:
    """The whole download or, where ``part`` is given, this part of it; ``name`` is the dataset's.

    Raises :class:`DfnbError` for an unknown part.
    """
    if part is None:
        return fetch
    if part not in fetch.parts:
        raise DfnbError(f"{name} has no part {part!r}{suggestion(part, fetch.parts)}")
    return fetch.parts[part]


def fetch(name: str, source: Source, part: str | None = None) -> Path:
    """Download the files of a dataset into :func:`folder_of`, which is returned, and unpack them.

    ``source`` is that of ``part``, see :func:`source_of`. What is there already is kept, so a call
    after a stopped one goes on. Raises :class:`DfnbError` as :func:`download` and :func:`unpack`
    do, where the disk has no room, while another process downloads the same, and at the end where
    another part, or the whole, has begun before and is not complete.
    """
    folder = folder_of(name)
    unfinished = folder / UNFINISHED
    with locked(unfinished):
        for path in folder.rglob(".*.dfnb-*"):  # of a process that was killed while it unpacked
            if TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path)
        files = list(_files_of(source, folder))
        _check_room(folder, source, files)
        begun = unfinished / (part or WHOLE)
        with explain_writing(begun):
            begun.touch()
        # Only a terminal shows the bar; ncols, because some terminals do not state their width.
        look = {"unit": "B", "unit_scale": True, "disable": None, "ncols": 80}
        with tqdm(total=source.bytes, desc=name, **look) as bar:
            for file in files:
                _fetch_file(file, folder / file.to, bar.update)
        begun.unlink()
        if part is None or not _begun(name):  # the whole has the files of all parts
            shutil.rmtree(unfinished)
    refuse_unfinished(name)
    return folder


def _fetch_file(file: File, place: Path, progress: Callable[[int], object]) -> None:
    """Download one file of a dataset to ``place`` or, of an archive, its content."""
    if not file.unpack:
        download(file.url, place, file.digest, file.bytes, progress)
    elif not place.exists():
        archive = _archive(file, place)
        download(file.url, archive, file.digest, file.bytes, progress)
        unpack(archive, place)


def _archive(file: File, place: Path) -> Path:
    """Where an archive is until it is unpacked to ``place``."""
    return place.with_name(f"{place.name}.{file.unpack}")


def refuse_unfinished(name: str) -> None:
    """Raise :class:`DfnbError` where a dataset, or a part of it, was begun, but not completed."""
    if (folder_of(name) / UNFINISHED).exists():
        parts = _begun(name)
        option = f" --part {parts[0]}" if parts and WHOLE not in parts else ""
        raise DfnbError(
            f"{folder_of(name)} is not complete; `dfnb fetch {name}{option}` goes on with the "
            "download, and --root prepares what is there"
        )


def _begun(name: str) -> list[str]:
    """The parts of a dataset that were begun and are not complete; of the whole: WHOLE."""
    return sorted(path.name for path in (folder_of(name) / UNFINISHED).glob("[!.]*"))


def _check_room(folder: Path, source: Source, files: list[File]) -> None:
    """Raise :class:`DfnbError` where the disk has less room than what is missing will take."""
    there = sum(_size_there(file, folder / file.to) for file in files)
    archives = [file.bytes for file in files if file.unpack]  # one is there beside its content
    need = source.bytes + max(archives, default=0) - there
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DfnbError(
            f"{folder} has no room: the download takes {size_in_words(need)}, "
            f"{size_in_words(free)} are free; make room, or choose another home by DFNB_HOME"
        )


def _size_there(file: File, place: Path) -> int:
    """The bytes that a file of a dataset, or an archive's content, takes at ``place`` by now."""
    downloaded = _archive(file, place) if file.unpack else place
    content = place.rglob("*") if file.unpack else ()
    paths = [downloaded, _part_of(downloaded), *content]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _files_of(source: Source, folder: Path) -> Iterator[File]:
    """The files of a download into ``folder``.

    Raises :class:`DfnbError` for a path that leads elsewhere, as :func:`read_list` does, and where
    a hub does not answer or has no such files.
    """
    files = [*source.files]
    if source.list:
        for path, sha256 in read_list(source.list.file).items():
            url = f"{source.list.base}/{quote(path)}"
            files.append(File(url=url, to=path, digest=f"sha256:{sha256}"))
    if source.hub:
        files += _files_of_hub(source.hub, folder)
    for file in files:
        _refuse_unsafe(file.to)
        yield file


def read_list(name: str) -> dict[str, str]:
    """The sha256 of each file of a list in ``data_manifest/``, by its path.

    Raises :class:`DfnbError` where a line is not a sha256, a blank and a path, which may have
    blanks.
    """
    path = find(f"data_manifest/{name}")
    listed = {}
    with explained(path, "as a list of files", "write each line as sha256sum does"):
        for line in path.read_text(encoding="utf-8").splitlines():
            sha256, file = line.strip().split(maxsplit=1)
            if not re.fullmatch("[0-9a-f]{64}", sha256):
                raise ValueError(f"{sha256} is no sha256")
            listed[file.removeprefix("*")] = sha256  # * is of sha256sum --binary
    return listed


def _files_of_hub(hub: Hub, folder: Path) -> list[File]:
    """The files of a hub's dataset that match its patterns, as they were at its revision.

    ``folder`` is that of the download, for messages. Raises :class:`DfnbError` where the hub does
    not answer, has no such revision, or no file there that matches.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=False)
    page = f"{api.endpoint}/datasets/{hub.repo}"
    where = {"repo_id": hub.repo, "repo_type": "dataset"}
    try:
        with _quiet_hub():
            commits = [commit.commit_id for commit in api.list_repo_commits(**where)]
            revision = next((one for one in commits if one.startswith(hub.revision)), None)
            tree = (
                api.list_repo_tree(**where, recursive=True, revision=revision) if revision else ()
            )
            tree = [entry for entry in tree if hasattr(entry, "size")]  # folders have none
    except Exception as error:  # the classes depend on the version of huggingface_hub
        raise DfnbError(
            f"{page} could not be listed ({_reason(error)}); start again, or get its files by hand "
            f"and put them into {folder}"
        ) from None
    if not revision:
        raise DfnbError(
            f"{page} has no commit {hub.revision}, which its authors may have replaced; look there "
            "what has changed, and correct the manifest"
        )
    files = []
    for entry in tree:
        if any(fnmatchcase(entry.path, pattern) for pattern in hub.files):
            url = f"{page}/resolve/{revision}/{quote(entry.path)}"
            # The hub states no sha256 of small files; that of empty ones is known.
            digest = "" if entry.size else EMPTY
            if entry.lfs:
                digest = f"sha256:{entry.lfs.sha256}"
            files.append(File(url=url, to=entry.path, bytes=entry.size, digest=digest))
    if not files:
        raise DfnbError(
            f"{page} has no file that matches {' or '.join(hub.files)}; look there at commit "
            f"{hub.revision}, and correct the manifest"
        )
    return files
