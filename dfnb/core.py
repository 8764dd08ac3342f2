"""Where files live, how they are written, and what proves that a step happened.

Every step reads files and writes files. A file appears complete or not at all (:func:`atomic`), a folder is written by
one process at a time (:func:`locked`), a table that was made before is read again (:func:`cached`), and the last thing a
step writes is its ``record.json`` (:func:`write_record`): without it the step did not happen. JSON files and tables hold
a *seal*, the sha256 of their own bytes, so that no altered one is used. Every random number comes from :func:`rng`. All
that is given from outside (parameters, profiles, manifests) passes one closed schema (:class:`Closed`) and fails with one
sentence (:class:`DfnbError`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import filelock
import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

if TYPE_CHECKING:
    import pandas as pd

# Names of datasets, profiles, papers, runs and jobs become names of files and words of command lines.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
# Arms, methods and other tools are named in tables, in which no format may take a part of the name for its own markup.
Title = Annotated[str, StringConstraints(pattern=r"^\w[\w .,:()%+=/-]*$", max_length=200)]
# A path that stays in its folder.
Inside = Annotated[str, StringConstraints(pattern=r"^\w[^/]{0,199}(/\w[^/]{0,199})*$")]
SEAL = re.compile(rb'("#?seal": ?")[0-9a-f]{64}')  # of a file of ours: the sha256 of its bytes with zeros in this place
LARGEST = 100_000  # values in a YAML file, aliases written out
SOURCES = {".py", ".yaml", ".csv", ".json", ".safetensors", ".lock"}  # the kinds of files that numbers come from
PACKAGES = ("dfnb", "torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "opencv-python-headless", "av")


class DfnbError(Exception):
    """Bad input, said in one sentence that names the file and the mend. Notebooks and the command line show no more."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class Closed(BaseModel):
    """Base of every schema: unknown names, wrong types and impossible values are refused, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: Any, source: object) -> Self:
        """An instance from plain values as YAML and JSON give them; raises :class:`DfnbError` that names ``source``.

        Strict: ``"1e-4"`` is no number and ``True`` no 1, because YAML makes such values by accident. A value that JSON
        does not have, such as YAML's dates, counts as text.
        """
        try:
            return cls.model_validate_json(json.dumps(values, default=_plain))
        except ValidationError as error:
            raise DfnbError(f"{source}: {'; '.join(_problems(error, cls))}") from None


def _problems(error: ValidationError, schema: type[Closed]) -> Iterator[str]:
    """The problems of a pydantic error, each in a part of a sentence."""
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"])) or "value"
        if problem["type"] == "extra_forbidden":
            yield f"there is no parameter {name!r}; it takes {', '.join(schema.model_fields)}"
        elif problem["type"] == "value_error":
            yield str(problem["ctx"]["error"])
        else:
            given = "" if problem["type"] == "missing" else f" = {textwrap.shorten(repr(problem['input']), 80)}"
            yield f"{name}{given}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


class Named(Closed):
    """How something is named: the name of its file or folder, or the title in tables."""

    name: Name = "none"
    title: Title = "none"


class Record(Closed, extra="allow"):
    """What every ``record.json`` says: the parameters of the step, and the files that it left."""

    parameters: dict[str, Any]
    outputs: dict[Inside, str]  # sha256 by the path in the record's folder
    files: dict[Inside, str] = Field({})  # of a job, by the path in the home
    run: Name = "none"  # of a job that trained it


def home() -> Path:
    """The root of all locations: ``$DFNB_HOME``, else the nearest parent folder with ``data_manifest/``, else here."""
    if os.environ.get("DFNB_HOME"):
        return Path(os.environ["DFNB_HOME"]).expanduser().resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "data_manifest").is_dir()), here)


def find(relative: str) -> Path:
    """A folder or file that ships with the project: in the home, else in the checkout, else in the installed package.

    The code in ``workflow`` fits this package alone: one in the home is of another version, or somebody else's.
    """
    package = Path(__file__).resolve().parent
    shipped = [package.parent / relative, package / "share" / relative]
    places = shipped if relative == "workflow" else [home() / relative, *shipped]
    return next((place for place in places if place.exists()), places[0])


@contextmanager
def reading(source: object, kind: str, mend: str) -> Iterator[None]:
    """Turn whatever a library raises at a damaged or foreign source of this ``kind`` into a :class:`DfnbError`."""
    try:
        yield
    except DfnbError:
        raise
    except Exception as error:
        problem = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise DfnbError(f"{source} is not valid {kind} ({problem}); {mend}") from None


def described(kind: str) -> list[str]:
    """Names of the datasets that ``data_manifest/`` describes, in alphabetical order: of ``kind`` synth or real.

    One that cannot be read is of both kinds and one of another kind is of kind real, so that who needs it is told why not.
    """
    return [path.stem for path in sorted(find("data_manifest").glob("*.yaml")) if _may_be(kind, path)]


def _may_be(kind: str, path: Path) -> bool:
    with suppress(DfnbError):
        found = read_yaml(path).get("kind") if path.is_file() else None  # None: no dataset, such as claims.yaml
        return found == kind or (kind == "real" and found not in (None, "synth"))
    return True


class Loader(yaml.composer.Composer, yaml.CSafeLoader):
    """YAML, parsed in C, without a key twice in a mapping, and without aliases that multiply or contain themselves.

    Keys are the text that is written there, also ``no``, 0.010 and dates. Values may be nested some hundred times.
    """

    def __init__(self, text: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        yaml.composer.Composer.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        known = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if known:
            return node
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            for key in [key for key, _ in inner if key.tag != "tag:yaml.org,2002:merge"]:
                key.tag = "tag:yaml.org,2002:str"
            if len({str(key.value) for key, _ in inner}) < len(inner):
                raise yaml.composer.ComposerError("a name stands twice in one mapping", node.start_mark)
            inner = [each for pair in inner for each in pair]
        node.size = 1 + sum(getattr(each, "size", LARGEST) for each in inner)  # of the node itself not known yet
        if node.size > LARGEST:
            raise yaml.composer.ComposerError("its aliases have no end or too many values", node.start_mark)
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Read names and values as YAML; raises :class:`DfnbError` that names the file when it is something else."""
    with reading(path, "YAML", "correct it"):
        return _mapping(yaml.load(path.read_text(encoding="utf-8"), Loader))


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TypeError(f"it holds {type(content).__name__} instead of names and values")
    return content


def manifest(name: str) -> dict[str, Any]:
    """``data_manifest/<name>.yaml`` laid over the one that it is ``like``, whose ``parameters`` it changes one by one."""
    path = find("data_manifest") / f"{Named.check({'name': name}, 'data_manifest').name}.yaml"
    with reading(path, "as a manifest", "correct it"):
        content = read_yaml(path)
        base = manifest(content.pop("like")) if "like" in content else {}
        parameters = base.get("parameters", {}) | content.get("parameters", {})
        return base | content | ({"parameters": parameters} if parameters else {})


def rng(*key: int | str) -> np.random.Generator:
    """The random stream of a purpose and a place, e.g. ``rng("augment", seed, epoch, position)``.

    Keys (names or non-negative integers) are hashed together, never summed, so that no two places share a stream.
    """
    # the length goes first because SeedSequence does not tell (1, 2) from (1, 2, 0)
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.default_rng([len(words), *words])


def torch_seed(*key: int | str) -> int:
    """A 63-bit seed for ``torch.manual_seed`` from the same hashing as :func:`rng`."""
    return int(rng(*key).bit_generator.seed_seq.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes ``path``: what the system refuses, as where the disk is full, is a :class:`DfnbError`."""
    try:
        yield
    except FileNotFoundError:  # a source is not there
        raise
    except filelock.Timeout:
        raise DfnbError(f"another process is writing {path}; wait for it or stop it, then start again") from None
    except OSError as error:
        mend = "make room, or make the folder writable, then start again; what was there before is whole"
        raise DfnbError(f"{path} cannot be written ({error}): {mend}") from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file or folder made there takes its place when the block succeeds.

    A file is synced first. A folder that exists already is replaced; one process at a time writes a folder. Raises
    :class:`DfnbError` where the disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if temporary.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with temporary.open("rb+") as written:
                    os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True)


def end_with_parent() -> None:
    """End this process, a worker of a pool, as soon as the one that started it has ended, however it did."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, args=[os.getppid()], daemon=True).start()


@contextmanager
def locked(folder: Path, wait_s: float = 0) -> Iterator[Path]:
    """Hold ``folder`` for this process, by the lock file that it yields, which the system frees when the process ends.

    Raises :class:`DfnbError` when another one holds it longer than ``wait_s``, or where the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(folder / ".lock", timeout=wait_s).acquire()
    with held:
        yield folder / ".lock"


def write_bytes(path: Path, content: bytes | memoryview) -> Path:
    """Write bytes, complete or not at all; returns the path."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def _sealed(content: bytes) -> bytes:
    """The bytes of a file, in the place of the first :data:`SEAL` their sha256, and in that of others zeros."""
    blank = SEAL.sub(rb"\g<1>" + b"0" * 64, content)
    return SEAL.sub(rb"\g<1>" + hashlib.sha256(blank).hexdigest().encode(), blank, count=1)


def _unaltered(path: Path) -> bytes:
    """The bytes of a file; an error where they are not those of its seal. A file that has none is not checked."""
    if (content := path.read_bytes()) != _sealed(content):
        raise ValueError("it was altered after it was written")
    return content


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write JSON atomically, with a seal, keys in their order, numpy scalars and paths as plain values; without indent if large."""
    sealed = {**content, "#seal": "0" * 64}
    text = json.dumps(sealed, indent=indent, separators=None if indent else (",", ":"), default=_plain)
    write_bytes(path, _sealed(f"{text}\n".encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, without its seal; raises :class:`DfnbError` that names the file when it is none, or was altered."""
    with reading(path, "JSON", "delete it and run the step that wrote it again"):
        return {name: value for name, value in _mapping(json.loads(_unaltered(path))).items() if name != "#seal"}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(path: Path, expected: str, problem: str = "is missing or has another sha256; delete it") -> Path:
    """``path`` when its bytes have the ``expected`` sha256; else raises :class:`DfnbError`: the path and the ``problem``."""
    if not path.is_file() or sha256(path) != expected:
        raise DfnbError(f"{path} {problem}")
    return path


def digest(content: Any, digits: int = 12) -> str:
    """A short fingerprint of anything JSON can hold, independent of the order of keys."""
    canonical = json.dumps(content, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:digits]


def slug(text: str) -> str:
    """A text as part of a file's name: small letters, digits and points, everything else as hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def environment() -> dict[str, Any]:
    """What a number may depend on beside data and settings: versions, commit, device. No path, no host name."""
    import torch

    facts = {"python": platform.python_version(), "packages": {name: version(name) for name in PACKAGES}}
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"cpu ({platform.machine()})"
    # the checkout's, ending in -dirty where tracked files differ from it
    describe = ["git", "-C", Path(__file__).parent, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return facts | {"commit": commit or "unknown", "code": code(), "device": device, "threads": torch.get_num_threads()}


@cache
def code() -> str:
    """A fingerprint of what numbers come from: the package, its profiles and manifests, and the lock file of its packages.

    Taken once a process, before anything is trained: what is edited meanwhile is not what runs.
    """
    package, profiles, manifests = Path(__file__).parent, find("notebooks") / "profiles", find("data_manifest")
    found = [*package.rglob("*"), *profiles.glob("*"), *manifests.glob("*"), *manifests.glob("splits/*")]
    files = [path for path in [*found, find("requirements.lock")] if path.suffix in SOURCES and path.is_file()]
    return digest(sorted((path.name, sha256(path)) for path in files))


class Clock:
    """Wall time and peak memory of a step, from its construction on."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def facts(self) -> dict[str, float]:
        """Seconds since the start, and the peak resident memory of this process in MB: 0 on Windows, which has no count."""
        peak = 0
        with suppress(ImportError):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"wall_s": round(time.monotonic() - self.start, 2), "peak_memory_mb": round(peak / 2**20)}


def write_record(folder: Path, parameters: Mapping[str, Any], outputs: Sequence[str | Path], **facts: Any) -> dict:
    """Write ``folder/record.json``: the proof that a step ended, with the sha256 of each of its outputs.

    ``outputs`` are file paths relative to ``folder``. ``facts`` is whatever else the step knows (n, seed, rule, ...).
    """
    hashes = {str(name): sha256(folder / name) for name in outputs}
    record = {"parameters": dict(parameters), **facts, "environment": environment(), "outputs": hashes}
    write_json(folder / "record.json", record)
    return read_json(folder / "record.json")


def read_record(folder: Path) -> dict | None:
    """The record of a step, or None when the step did not finish (no record, or an output it names is gone).

    Raises :class:`DfnbError` for what is no :class:`Record`.
    """
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = read_json(path)
    Record.check(record, path)
    return record if all((folder / name).exists() for name in record["outputs"]) else None


def cached(path: Path, facts: Mapping[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table at ``path`` if it was made from these ``facts``, else made now and kept there, the facts in its metadata.

    The one place where anything is looked up instead of made again. ``facts`` is what the table depends on, as JSON can
    hold it; read back they are the table's ``attrs``.
    """
    if not path.exists() or facts_of(path) != json.loads(json.dumps(facts, default=_plain)):
        write_table(path, make(), facts)
    return read_table(path)


def write_table(path: Path, table: pd.DataFrame, facts: Mapping[str, Any], **options: Any) -> None:
    """Write a table as parquet, complete or not at all, with ``facts`` in its metadata; the same table gives the same bytes.

    ``options``: for pyarrow.
    """
    table = table.copy(deep=False)
    # pandas keeps them in the metadata
    table.attrs = {"seal": "0" * 64, "dfnb": json.loads(json.dumps(facts, default=_plain))}
    # a study's are committed: columns in one page pack best
    options |= {"compression_level": 19, "data_page_size": 2**30, "max_rows_per_page": 2**30}
    write_bytes(path, _sealed(table.to_parquet(index=False, compression="zstd", write_statistics=False, **options)))


def facts_of(path: Path) -> dict[str, Any]:
    """The facts of a table of :func:`write_table`, from its metadata alone; raises :class:`DfnbError` where it is damaged."""
    from pyarrow import parquet

    with reading(path, "as a table of ours", "delete it and make it again"):
        return _mapping(json.loads(parquet.read_schema(path).metadata[b"PANDAS_ATTRS"])["dfnb"])


def read_table(path: Path) -> pd.DataFrame:
    """A table of :func:`write_table`, its facts as ``attrs``; raises :class:`DfnbError` where it is missing or damaged."""
    import pandas as pd

    if not path.exists():
        raise DfnbError(f"there is no {path}; run the step that makes it")
    with reading(path, "as a table of ours", "delete it and make it again"):
        table = pd.read_parquet(io.BytesIO(_unaltered(path)), page_checksum_verification=True)
        table.attrs = _mapping(table.attrs["dfnb"])
    return table


def csv(table: pd.DataFrame) -> str:
    """Texts as CSV, in which what a spreadsheet would take for a formula begins with an apostrophe."""
    return table.replace(r"^(?=[=@\t\r]|[+-](?![\d.]))", "'", regex=True).to_csv(index=False)
