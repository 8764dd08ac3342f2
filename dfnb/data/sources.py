"""What datasets exist, how they lie on disk, and what of them is here; :func:`fetch` brings one file.

``data_manifest/<name>.yaml`` of kind ``real`` describes a published dataset as it is downloaded. Its rules are templates
of paths below the folder that the user names: ``{name}`` stands for anything without a slash, ``{name:regex}`` for what
the regular expression matches. What a path matched, and what a list of the dataset says of it, fills the other templates.
"""

import http.client
import itertools
import os
import re
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data import frames

LABELS = {"0": 0, "real": 0, "1": 1, "fake": 1}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Listing(_Closed):
    """A list that says something of files: CSV with a header, JSON (an object a key), or columns of a text."""

    file: str  # template below the root; with a sha256 it ships with the manifest
    sha256: str = ""
    columns: list[str] = []  # of a text without a header
    keys: list[str]  # templates over a row: what a rule's key is compared with; {key} is the key of a JSON object
    values: dict[str, dict[str, str]] = {}  # of a column, where the list means something else by it
    fields: dict[str, str] = {}  # what holds for every row


class Rule(_Closed):
    """Which files are videos (or crops) of the dataset, and what is known of each."""

    files: str  # template below the root
    each: dict[str, list[str]] = {}  # the rule once for each of these values
    lists: list[str] = []  # the first that is there counts; a further one must say the same
    key: str = "{path}"
    otherwise: dict[str, str] | None = None  # of a file that the list does not name; None: it is left out
    label: str
    method: str
    split: str = "{split}"
    video: str = "{method}/{stem}"
    identity: str = ""
    source: str = ""
    cluster: str = "{video}"
    mask: str = ""
    original: str = ""  # the real video a fake was made from, frame by frame: the mask is where they differ
    crops: bool = False  # images of faces, used as they are; those of one video template are its frames
    optional: bool = False
    expected: int | None = None  # files, where the number is known


class Manifest(_Closed):
    """A published dataset: what one must know of it, and its rules."""

    kind: Literal["real"]
    title: str
    paper: str
    licence: str
    access: str  # how to ask for it
    space: str  # as downloaded
    labels: str  # the convention of its own lists; here 0 is real
    splits: str
    masks: str
    layout: str = ""  # what the rules cannot say
    defects: list[str] = []
    unverified: list[str] = []  # what of this file nobody has checked against the data
    published: list[str] = []  # its names among the test sets of published.csv
    seen: list[str] = []  # of a task: the methods trained on
    unseen: list[str] = []
    prepare: dict[str, Any] = {}  # settings that differ from the defaults
    fields: dict[str, str] = {}
    lists: dict[str, Listing] = {}
    rules: list[Rule] = Field(min_length=1)


@dataclass(frozen=True)
class Source:
    """One video: its name in the dataset, its file, what is known of it, and its mask video (same frame numbering).

    An image is a video of one frame. With ``crops`` the file is a folder: these images in it are used as they are,
    each with its mask or None.
    """

    video: str
    file: Path
    label: int  # 0 real, 1 fake
    method: str  # real, or the manipulation's name
    split: str = "test"
    cluster: str = ""
    identity: str = ""
    source: str = ""
    mask: Path | None = None
    original: Path | None = None
    crops: tuple[tuple[Path, Path | None], ...] = ()


def load(name: str) -> Manifest:
    """The manifest of a published dataset; raises :class:`DfnbError` for an unknown name or an impossible entry."""
    path = core.find("data_manifest") / f"{name}.yaml"
    if name not in (known := core.described("real")):
        raise DfnbError(f"{path} describes no published dataset; known are {', '.join(known)}")
    content = yaml.safe_load(path.read_text())
    if like := content.pop("like", None):
        content = yaml.safe_load(path.with_stem(like).read_text()) | content
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        where, why = (error.errors()[0][part] for part in ("loc", "msg"))
        raise DfnbError(f"{path}: {'.'.join(map(str, where))}: {why}; correct it") from None


def pairs() -> dict[str, str]:
    """The pair of FaceForensics++ that an id, or the ids of a fake, belong to."""
    lists = load("faceforensics-c23").lists
    rows = _rows(lists["originals"], {}, []) | _rows(lists["fakes"], {}, [])
    return {key: f"{row['a']}_{row['b']}" for key, row in rows.items()}


# ---------------------------------------------------------------- what is here


def scan(manifest: Manifest, roots: Sequence[Path]) -> tuple[list[Source], list[str]]:
    """The videos of a dataset below the user's folders, and a sentence for each thing that is missing or wrong.

    Raises :class:`DfnbError` when two files would be the same video, or a list has another sha256 than the published.
    """
    roots, sources, said, met = [Path(root).resolve() for root in roots], {}, [], set()
    for rule in sources.rules:
        for chosen in itertools.product(*rule.each.values()):
            fields = sources.fields | dict(zip(rule.each, chosen))
            for source in _apply(rule, fields, sources.lists, roots, said, met):
                old = sources.get(source.video)
                if old and not source.crops:
                    raise DfnbError(f"{old.file} and {source.file} are both named {source.video!r}; keep one of them")
                sources[source.video] = replace(old, crops=old.crops + source.crops) if old else source
    beside = (file for folder in sorted({file.parent for file in met}) for file in sorted(folder.glob("[!.]*")))
    suffixes = {file.suffix for file in met}
    if stray := [file.name for file in beside if file.suffix in suffixes and not file.is_symlink() and file not in met]:
        said.append(f"{_some(stray)} lie among the videos under names that the layout does not have; left out")
    if packed := [file.name for file, _ in _archives(roots)]:
        said.append(f"not unpacked: {_some(packed)}; `dfnb data --root FOLDER --unpack` does it safely")
    return list(sources.values()), list(dict.fromkeys(said))


def _apply(
    rule: Rule, fields: dict, lists: dict[str, Listing], roots: list[Path], said: list[str], met: set[Path]
) -> Iterator[Source]:
    """The sources of a rule; adds to ``said`` what is missing or wrong, and to ``met`` the files that fit its template."""
    known = {lists[name].file: rows for name in rule.lists if (rows := _rows(lists[name], fields, roots))}
    (title, listed), *others = known.items() or [("", {})]
    for other, rows in others:
        if wrong := [key for key in sorted(listed.keys() | rows.keys()) if listed.get(key) != rows.get(key)]:
            said.append(f"{other} differs from the published {title}, which is used: {_some(wrong)}")
    where = re.sub(r"\{(\w+):?[^{}]*\}", lambda match: fields.get(match[1], f"{{{match[1]}}}"), rule.files)
    found = list(_walk(rule.files, fields, roots, said))
    met |= {root / path for root, path, _ in found}
    if not found and rule.optional:
        return
    if rule.lists and not listed:
        said.append(f"the list {lists[rule.lists[0]].file} is missing, which says what {where} is")
        return
    seen, wrong = set(), {"are not in the list": [], "lie where the list's label contradicts": []}
    absent: dict[str, list[str]] = {"mask": [], "original": []}
    for root, path, match in found:
        facts = fields | match | {"path": path, "stem": PurePosixPath(path).stem}
        key = rule.key.format_map(facts)
        row = listed.get(key, rule.otherwise) if rule.lists else {}
        seen.add(key)
        if row is None:
            wrong["are not in the list"].append(path)
            continue
        try:
            facts |= row
            label = LABELS[rule.label.format_map(facts).lower()]
            if LABELS[row.get("label", str(label)).lower()] != label:
                wrong["lie where the list's label contradicts"].append(path)
                continue
            for name in ("method", "video", "split", "cluster", "identity", "source", "mask", "original"):
                facts[name] = getattr(rule, name).format_map(facts) if label or name != "method" else "real"
        except KeyError as error:
            raise DfnbError(f"{title or where} does not say {error} of {path}; correct it") from None
        beside = {name: next((there for r in roots if (there := below(r, facts[name]))), None) for name in absent}
        for name in absent:
            absent[name] += [facts[name]] * bool(facts[name] and not beside[name])
        video = {name: facts[name] for name in ("video", "method", "split", "cluster", "identity", "source")}
        crops = {"file": root, "crops": ((root / path, beside["mask"]),)}
        yield Source(label=label, **video, **(crops if rule.crops else {"file": root / path, **beside}))
    expected = {key for key in listed if rule.key != "{path}" or _pattern(rule.files, fields).fullmatch(key)}
    if missing := sorted(expected - seen):
        said.append(f"{where}: {_some(missing)} of the {len(expected)} that {title} names are missing")
    elif rule.expected and len(found) < rule.expected:
        said.append(f"{where}: {len(found)} of {rule.expected} files are there")
    said += [f"{where}: {_some(paths)} {what} {title}; left out" for what, paths in wrong.items() if paths]
    lost = {what: _some(paths) for what, paths in absent.items() if paths}
    said += [f"{where}: {what} files missing: {some}; prepared without them" for what, some in lost.items()]


def _archives(roots: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Archives in folders and their sub-folders, each with the folder that it makes, where that is not there yet."""
    files = sorted(file for root in roots for deep in ("*", "*/*") for file in root.glob(deep))
    found = [file for file in files if file.suffix in ARCHIVES]
    both = [(file, file.with_name(file.name.removesuffix(file.suffix).removesuffix(".tar"))) for file in found]
    return [(file, folder) for file, folder in both if not folder.exists()]


def below(root: Path, path: str) -> Path | None:
    """A file that is named by its path below a root, if it is there, and not by a link that leads out."""
    there = root / path
    return there if path and there.is_file() and there.resolve().is_relative_to(root) else None


def _pattern(template: str, fields: dict) -> re.Pattern:
    pattern, names = "", set()
    for text, name, regex in re.findall(r"([^{}]*)(?:\{(\w+):?([^{}]*)\})?", template):
        pattern += re.escape(text)
        if name in fields and not regex:
            pattern += re.escape(fields[name])
        elif name:
            pattern += f"(?P={name})" if name in names else f"(?P<{name}>{regex or '[^/]+'})"
            names.add(name)
    return re.compile(pattern)


def _walk(template: str, fields: dict, roots: list[Path], said: list[str]) -> Iterator[tuple[Path, str, dict]]:
    """Root, path below it and what the path matched, of all files of a template, in order; says which links lead out."""
    pattern, parts = _pattern(template, fields), template.split("/")
    heads = [_pattern(part, fields) for part in itertools.takewhile(lambda x: x.count("{") == x.count("}"), parts)]
    ends = len(heads) == len(parts)  # no regular expression goes on over a slash: nothing lies deeper
    for root in roots:
        for place, folders, files in os.walk(root):
            here = Path(place).relative_to(root)
            depth = len(here.parts)
            fits = heads[depth].fullmatch if depth < len(heads) - ends else lambda name: not ends and name[0] != "."
            folders[:] = sorted(filter(fits, folders))
            for path in [(here / name).as_posix() for name in [*folders, *sorted(files)]]:
                match = pattern.fullmatch(path)
                folder = Path(path).name in folders
                if (match or folder) and (root / path).is_symlink() and not below(root, path):
                    said.append(f"{path} is a link, which is not followed; name what it leads to as a further root")
                elif match and not folder:
                    yield root, path, match.groupdict()


def _rows(listing: Listing, fields: dict, roots: list[Path]) -> dict[str, dict[str, str]]:
    """The rows of a list by their keys; of all files that its template matches. Empty where there is none."""
    files, found = [(root / path, match) for root, path, match in _walk(listing.file, fields, roots, [])], {}
    if listing.sha256:
        files = [(verified(core.find("data_manifest") / listing.file, listing.sha256), {})]
    for file, match in files:
        for row in _table(file, listing.columns):
            row |= listing.fields | match
            row |= {name: values.get(row[name], row[name]) for name, values in listing.values.items()}
            found |= {key.format_map(row): row for key in listing.keys}
    return found


def _table(file: Path, columns: list[str]) -> list[dict[str, str]]:
    try:
        if file.suffix == ".json":
            content = core.read_json(file)
            return [{"key": key, **{k: str(v) for k, v in row.items()}} for key, row in content.items()]
        if columns:
            lines = [line.split(None, len(columns) - 1) for line in file.read_text().splitlines() if line.strip()]
            return [dict(zip(columns, (part.strip() for part in line), strict=True)) for line in lines]
        return pd.read_csv(file, dtype=str).to_dict("records")
    except (ValueError, AttributeError, UnicodeDecodeError) as error:
        raise DfnbError(f"{file} is not the list it should be ({error}); download it again") from None


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def overview(roots: Sequence[Path] = ()) -> pd.DataFrame:
    """All published datasets: prepared, present, partly there or absent, with what is known or missing of each.

    A dataset is looked for in each of the folders and in their immediate sub-folders. ``what`` has a line for each thing.
    """
    near = [folder for root in map(Path, roots) for folder in (root, *sorted(p for p in root.glob("*") if p.is_dir()))]
    rows = {}
    for name in core.described("real"):
        manifest, record = load(name), core.read_record(frames.dataset_folder(name))
        if record:
            n, videos = (sum(part[what] for part in record["n"].values()) for what in ("frames", "videos"))
            settings = {"frames_per_video": None, "size": "?", "scale": "?"} | record["parameters"]
            how = "{frames_per_video} frames a video, {size} px, scale {scale}".format_map(settings)
            rows[name] = "prepared", "\n".join([f"{n} frames of {videos} videos ({how})", *record["missing"]])
            continue
        found = (scan(manifest, [folder]) for folder in near)
        sources, said = max(found, key=lambda both: len(both[0]), default=([], []))
        state = "absent" if not sources else "partly" if said else "present"
        what = [f"{len(sources)} videos", *said] if sources else [sources.access, f"space: {sources.space}"]
        rows[name] = state, "\n".join(what)
    return pd.DataFrame(rows, index=["state", "what"]).T.rename_axis("dataset")


# ---------------------------------------------------------------- fetching and unpacking


def unpack(roots: Sequence[Path]) -> list[Path]:
    """Unpack the archives below folders, each beside itself into a folder of its name; what is there stays.

    Raises :class:`DfnbError` for an archive that is damaged, leads out of its folder, or would fill the disk; its folder
    appears whole or not at all.
    """
    made = []
    for archive, folder in _archives(roots):
        try:
            with core.atomic_folder(folder) as temporary:
                zipped = zipfile.is_zipfile(archive)
                with zipfile.ZipFile(archive) if zipped else tarfile.open(archive) as opened:
                    size = sum(x.file_size for x in opened.infolist()) if zipped else sum(x.size for x in opened)
                if size > shutil.disk_usage(temporary).free:
                    raise OSError(f"its {size / 1e9:.2g} GB do not fit on the disk")
                # of a zip, members that lead out are skipped and links are written as texts
                shutil.unpack_archive(archive, temporary, **({} if zipped else {"filter": "data"}))
        except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
            raise DfnbError(f"{archive} cannot be unpacked safely ({error}); download it again") from None
        made.append(folder)
    return made


def fetch(url: str, path: Path, sha256: str, progress: bool = True) -> Path:
    """The file at ``path``, downloaded from ``url`` when it is not there: complete and verified, or not at all.

    Raises :class:`DfnbError` when the file, old or new, has another sha256, or when the download fails.
    """
    path = Path(path)
    if path.exists():
        return verified(path, sha256)
    by_hand = f"download it by hand and put it at {path}"
    try:
        with core.atomic(path) as temporary, urllib.request.urlopen(url, timeout=30) as answer:
            size = int(answer.headers.get("Content-Length") or 0) or None
            bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, mininterval=10, disable=not progress)
            with bar, temporary.open("wb") as file:
                while block := answer.read(1 << 18):
                    file.write(block)
                    bar.update(len(block))
            if (found := core.sha256(temporary)) != sha256:
                raise DfnbError(f"{url} gave a file of sha256 {found}, not {sha256}; {by_hand}")
    except (OSError, http.client.HTTPException) as error:
        raise DfnbError(f"{path.name} could not be downloaded from {url} ({error}); {by_hand}") from None
    return path


def verified(path: Path, sha256: str) -> Path:
    """``path`` when its bytes have this sha256; raises :class:`DfnbError` when they have not."""
    if (found := core.sha256(path)) != sha256:
        raise DfnbError(f"{path} has sha256 {found}, not {sha256}; delete it or put the right file in its place")
    return path
