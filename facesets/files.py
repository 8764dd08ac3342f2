"""Where files are, and how they are written.

A file or folder appears complete or not at all (:func:`atomic`), and one process at a time writes a
folder (:func:`locked`). Records, which prove that a step ended, are in :mod:`facesets.records`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from facesets.checks import (
    DfnbError,
    as_json,
    check_name,
    explained,
    read_mapping,
    suggestion,
)

if TYPE_CHECKING:
    import pandas as pd


# ---------------------------------------------------------------- places


def home() -> Path:
    """The folder with datasets, models, runs and reports.

    It is ``$DFNB_HOME``; else the current folder or its nearest parent that has ``data_manifest/``;
    else the current folder, which is then said once on stderr.
    """
    chosen = os.environ.get("DFNB_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "data_manifest").is_dir():
            return folder
    _say_home(here)
    return here


@cache
def _say_home(folder: Path) -> None:
    """Say once that a folder is the home that nobody named, so that what is made there is found."""
    print(f"The home is the current folder, {folder}: DFNB_HOME names another.", file=sys.stderr)


def named_file(path: str) -> Path:
    """The file or folder that a user names by a path: absolute, from ``~``, or from the home."""
    return home() / Path(path).expanduser()  # an absolute path replaces the home


def find(relative: str) -> Path:
    """A file or folder that ships with the project: in the home, the checkout, or the package.

    ``relative`` is its path in a checkout; an installed package has it in ``facesets/share``. The
    first of the three that has it counts. Where none has it, the path that it would have in the
    home.
    """
    package = Path(__file__).resolve().parent
    for root in (home(), package.parent, package / "share"):  # package.parent is the checkout
        if (root / relative).exists():
            return root / relative
    return home() / relative


def profile_path(name: str) -> Path:
    """``notebooks/profiles/<name>.yaml``; raises :class:`DfnbError` if there is none."""
    path = find(f"notebooks/profiles/{name}.yaml")
    if not path.is_file():
        folder = find("notebooks/profiles")
        known = sorted(other.stem for other in folder.glob("*.yaml"))
        raise DfnbError(f"there is no profile {name!r} in {folder}{suggestion(name, known)}")
    return path


def report_folder(report: str) -> Path:
    """``reports/<report>`` in the home; a report of a profile has the profile's name."""
    return home() / "reports" / check_name(report, "reports")


def stored_report(report: str) -> Path:
    """The folder of a report to read: in the home, or else one that ships with the project.

    One without scores in the home, such as one with figures of a shipped report, does not count.
    """
    return find(f"reports/{check_name(report, 'reports')}/scores").parent


def in_reports(pattern: str) -> list[Path]:
    """The files in reports, of the home, then of those that ship with the project.

    ``pattern`` is relative to a report's folder, as in ``scores/*.parquet``; it may have wildcards.
    """
    package = Path(__file__).resolve().parent
    # The parent of the package is the checkout, which may be the home, too.
    roots = dict.fromkeys([home(), package.parent, package / "share"])
    return [path for root in roots for path in sorted(root.glob(f"reports/*/{pattern}"))]


def dataset_folder(name: str | Path) -> Path:
    """``datasets/<name>`` in the home, or the path ``name`` itself where it has a slash."""
    if "/" in str(name):
        return Path(name).expanduser()
    return home() / "datasets" / name


def run_folder(run_id: str) -> Path:
    """``runs/<run_id>`` in the home."""
    return home() / "runs" / run_id


# ---------------------------------------------------------------- writing

# The names that :func:`atomic` gives to temporary files and folders.
TEMPORARY = re.compile(r"\..+\.dfnb-[0-9a-f]{8}(\.[^.]+)?(\.old)?")


@contextmanager
def explain_writing(path: Path) -> Iterator[None]:
    """Turn errors while ``path`` is written, as on a full disk or by a lock, into a DfnbError."""
    try:
        yield
    except (FileNotFoundError, BrokenPipeError):  # a file to read is missing, a pipe's reader ended
        raise
    except filelock.Timeout:  # a subclass of OSError, so it must be caught before that
        raise DfnbError(
            f"another process is writing {path}; wait for it or stop it, then start again"
        ) from None
    except OSError as error:
        raise DfnbError(
            f"{path} cannot be written ({error}): make room, or make the folder writable, then "
            "start again; what was there before is unchanged"
        ) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is made there replaces ``path`` on success.

    It may be a file or a folder. A file is synced to disk first. An existing folder is set aside
    just before the replacement, because the system replaces only an empty one, and is then removed:
    the caller has made sure that all in it was made by dfnb. Raises :class:`DfnbError` where the
    system cannot write.
    """
    # The name keeps the suffix, by which matplotlib for example chooses the format of a file. It is
    # random, so that two processes do not write to the same one.
    temporary = path.with_name(f".{path.name}.dfnb-{os.urandom(4).hex()}{path.suffix}")
    aside = temporary.with_name(f"{temporary.name}.old")
    with explain_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if temporary.is_dir():
                if path.exists():
                    path.replace(aside)
            else:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:  # after an error all is as before
            if aside.exists() and not path.exists():
                aside.replace(path)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, wait_s: float = 0) -> Iterator[None]:
    """Lock ``folder`` for this process; the system frees the lock when the process ends.

    Raises :class:`DfnbError` when another process locks it longer than ``wait_s`` seconds; a
    negative ``wait_s`` waits without end.
    """
    with explain_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=wait_s).acquire()
    with lock:  # released at the end; not in explain_writing, which is about the lock file alone
        yield


def write_bytes(path: Path, content: bytes | memoryview) -> Path:
    """Write bytes, complete or not at all; returns the path."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    text = json.dumps(content, indent=1, default=as_json)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises :class:`DfnbError`, which names the file, for anything else."""
    remedy = "delete it and run the step that wrote it again"
    return read_mapping(path, json.loads, "JSON", remedy)


def write_table(
    path: Path,
    table: pd.DataFrame,
    metadata: Mapping[str, Any],
) -> None:
    """Write a table as parquet, atomically. ``metadata`` is kept in the file as JSON.

    The index of the table is not written. The same table gives the same bytes.
    """
    import pyarrow as pa
    from pyarrow import parquet

    # Without pandas' own metadata: the schema has all that it says.
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    encoding = {
        "compression": "zstd",
        "compression_level": 19,
        # Dictionaries of what hardly repeats would make a table larger.
        "use_dictionary": [name for name in table if table[name].nunique() < 100],
    }
    with (
        atomic(path) as temporary,
        parquet.ParquetWriter(temporary, arrow.schema, **encoding) as writer,
    ):
        writer.write_table(arrow)
        # Not in the schema's metadata, which parquet would store twice.
        writer.add_key_value_metadata({"dfnb": json.dumps(metadata, default=as_json)})


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a table of :func:`write_table`, without its rows.

    Raises :class:`DfnbError` when the file is missing or damaged.
    """
    from pyarrow import parquet

    # A table of another program has no entry b"dfnb", and so is refused.
    with explained(path, "as a table of dfnb", "delete it and make it again"):
        return json.loads(parquet.read_metadata(path).metadata[b"dfnb"])


def read_table(
    path: Path,
    categories: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The metadata and rows of a table of :func:`write_table`.

    The columns ``categories`` become categories, which pandas compares faster than texts. Without
    ``columns``, all are read. Raises :class:`DfnbError` when the file is missing or damaged.
    """
    from pyarrow import parquet

    # Opened once: another process may replace the file between two openings by its path.
    with (
        explained(path, "as a table of dfnb", "delete it and make it again"),
        path.open("rb") as opened,
    ):
        table = parquet.ParquetFile(opened, read_dictionary=list(categories))
        return json.loads(table.metadata.metadata[b"dfnb"]), table.read(columns).to_pandas()


# ---------------------------------------------------------------- names, hashes and downloads

# A relative path, on any system, that does not lead out of the folder to which it is relative.
INSIDE = r"[^./\\:][^/\\:]*(?:/[^./\\:][^/\\:]*)*"


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(
    path: Path,
    expected: str,
    problem: str,
) -> Path:
    """Return ``path`` when its bytes have the ``expected`` sha256, else raise DfnbError.

    The message is "<path> <problem>".
    """
    if not path.is_file() or sha256(path) != expected:
        raise DfnbError(f"{path} {problem}")
    return path


def read_list(name: str) -> dict[str, str]:
    """The sha256 of each file of a list in ``data_manifest/``, by its path.

    Raises :class:`DfnbError` where a line is not as ``sha256sum`` prints it: a sha256, and a path,
    which may have blanks, but does not lead out of its folder.
    """
    path = find(f"data_manifest/{name}")
    listed = {}
    with explained(path, "as a list of files", "write each line as sha256sum does"):
        for line in path.read_text(encoding="utf-8").splitlines():
            match = re.fullmatch(rf"([0-9a-f]{{64}}) [ *]({INSIDE})", line)
            if not match:
                raise ValueError(f"{line!r} is no sha256 and a path")
            listed[match[2]] = match[1]
    return listed


def download(url: str, path: Path, digest: str, bar: bool = False) -> Path:
    """Return ``path``, with the file that is at ``url``: downloaded if missing, and checked.

    Args:
        url: The address.
        path: Where the file is, or will be. A download that is stopped leaves nothing there, and
            begins again with the next call.
        digest: Its hash: ``sha256:`` or ``md5:``, and the hexadecimal digits.
        bar: Whether to show the progress.

    Raises :class:`DfnbError` where the file cannot be downloaded or written, and where the file at
    the address or at ``path`` is another one. What was at ``path`` is left as it is.
    """
    if path.exists():
        algorithm, expected = digest.split(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected:
            remedy = f"move it away, and start again to download {url}"
            raise DfnbError(f"{path} is another file than expected ({algorithm} {found}); {remedy}")
        return path
    import pooch

    pooch.get_logger().setLevel("WARNING")  # else it prints each address
    try:
        return Path(pooch.retrieve(url, digest, path.name, path.parent, progressbar=bar))
    except (OSError, ValueError) as error:  # of the network and the disk; another digest
        remedy = f"start again, or get it by hand and put it at {path}"
        raise DfnbError(f"{url} could not be downloaded ({error}); {remedy}") from None


def digest(content: Any, digits: int = 12) -> str:
    """The first ``digits`` hexadecimal digits of the sha256 of a value, written as JSON.

    The order of keys does not change it. ``plain`` gives what to write for values that JSON lacks,
    such as numpy's numbers and paths.
    """
    canonical = json.dumps(content, sort_keys=True, default=as_json, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:digits]


def size_in_words(number_of_bytes: float) -> str:
    """A number of bytes for messages, such as 84 GB or 2.1 MB."""
    unit, name = (1e9, "GB") if number_of_bytes >= 1e9 else (1e6, "MB")
    number = number_of_bytes / unit
    return f"{number:,.{0 if number >= 10 else 1}f} {name}"
