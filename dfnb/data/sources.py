"""What published datasets exist, how they lie on disk as downloaded, and what of them is here.

``data_manifest/<name>.yaml`` of kind ``real`` describes a published dataset. Its rules are templates of paths below the
folder that the user names: ``{name}`` stands for anything without a slash, ``{name:regex}`` for what the regular
expression matches. The values that a path and the dataset's own list give fill the other templates of the rule.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import pandas as pd
from pydantic import Field

from dfnb import core
from dfnb.data import frames

# What a manifest says to its reader: "labels" as the dataset's own lists have them (here 0 is real), "unverified" what
# nobody has checked against the data, "published" its names among the test sets of published.csv.
ABOUT = ("title", "paper", "licence", "labels", "splits", "masks", "defects", "unverified", "published")
LABELS = {"0": 0, "real": 0, "1": 1, "fake": 1}
PLACEHOLDER = re.compile(r"\{(\w+):?([^{}]*)\}")


class Listing(core.Closed):
    """A list that describes files: CSV with a header, JSON (one object per key), or a text with one {name} per line."""

    file: str  # template below the root; with a sha256 it ships with the manifest
    sha256: str = ""
    keys: tuple[str, ...]  # templates over a row, compared with a rule's key; {key} is the key of a JSON object
    fields: dict[str, str] = Field({})  # added to every row


class Rule(core.Closed):
    """Which files are videos (or crops) of the dataset, and what is known of each."""

    files: str  # template below the root
    methods: tuple[str, ...] = ()  # the rule is applied once for each of these values of {method}
    list: str = ""  # the list that describes the files
    key: str = "{path}"
    otherwise: dict[str, str] | None = None  # row of a file that the list does not name; None: it is left out
    label: str
    method: str = ""
    split: str = "{split}"
    video: str = "{method}/{stem}"
    identity: str = ""
    source: str = ""
    cluster: str = "{video}"
    mask: str = ""
    original: str = ""  # the real video a fake was made from, frame by frame: the mask is where they differ
    crops: bool = False  # images of faces, used as they are; those of one video template are its frames
    expected: int = Field(0, ge=0)  # number of files, where it is known


class Manifest(core.Closed):
    """A dataset, published or the user's own: what a user must know about it, and its rules."""

    kind: Literal["real"]
    about: dict[str, str | tuple[str, ...]]  # by the names of ``ABOUT``
    access: str = "say where it is with --root"  # how to ask for it
    space: str = "not known"  # as downloaded
    layout: str = ""  # what the rules cannot say
    people: str = ""  # the numbering of its people: in all datasets of one numbering a name means the same person
    prepare: dict[str, Any] = Field({})  # settings that differ from the defaults
    videos: dict[str, tuple[int, int]] = Field({})  # real and fake ones of each published split, where known
    frames: int = Field(32, ge=1)  # of a video that are kept, on average
    fields: dict[str, str] = Field({})
    lists: dict[str, Listing] = Field({})
    rules: tuple[Rule, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Source:
    """One video: its name in the dataset, its file, what is known of it, and its mask video (same frame numbering).

    An image is a video of one frame. Where ``compared``, the mask video is the original of a fake: the mask is where they
    differ. With ``crops`` the file is a folder, and these images in it are used as they are, each with its mask or None.
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
    compared: bool = False
    crops: tuple[tuple[Path, Path | None], ...] = ()

    def in_place(self, root: Path) -> Self:
        """The image of this source as a crop that is used where it lies below ``root``."""
        return replace(self, file=root, mask=None, crops=((self.file, self.mask),))


Found = tuple[list[Source], list[str]]  # the videos of a dataset, and one sentence for each thing missing or wrong


def load(name: str) -> Manifest:
    """The manifest of one of the datasets ``core.described("real")``; raises :class:`DfnbError` for an impossible entry."""
    content = core.manifest(name)
    about = {key: content.pop(key) for key in ABOUT if key in content}
    return Manifest.check(content | {"about": about}, f"data_manifest/{name}.yaml")


def files_below(root: Path, links: bool = False) -> tuple[dict[str, Path], list[str]]:
    """The files below a folder by their paths in it, in alphabetical order, and what was left out.

    What is hidden does not count. Left out are links to folders, and what is no file, such as a pipe, which could be read for
    ever. With ``links`` the links to folders are followed, but for one that leads to a folder in which it lies itself: there
    the way would never end, and everything is found anyway. Bytes that are not UTF-8 are written out (``\\udce9``). Raises
    :class:`DfnbError` where there is no such folder.
    """
    if not Path(root).is_dir():
        raise core.DfnbError(f"{root} is no folder; say where the files are")
    root, files, left_out = Path(root).absolute(), {}, []
    for place, folders, names in os.walk(root, followlinks=links):
        here, inner = Path(place), Path(place).relative_to(root)
        if here.is_symlink() and here.resolve() in [above.resolve() for above in here.parents]:
            folders.clear()
            continue
        # Path.is_file would raise for a link into a folder that may not be looked into
        files |= {printable(inner / name): here / name for name in names if os.path.isfile(here / name)}  # noqa: PTH113
        left_out += [printable(inner / name) for name in names if printable(inner / name) not in files]
        left_out += [printable(inner / name) for name in folders if not links and (here / name).is_symlink()]
    return {name: files[name] for name in sorted(files, key=PurePosixPath) if "/." not in f"/{name}"}, sorted(left_out)


def printable(path: Path) -> str:
    """A path as text that can be written and shown, whatever bytes it has."""
    return path.as_posix().encode(errors="backslashreplace").decode()


def overview(roots: Sequence[Path] = (), links: bool = False) -> pd.DataFrame:
    """All described datasets: ``state`` (prepared, present, partly, absent; wrong: its manifest) and ``what``, one fact per line."""
    rows = {}
    for name in core.described("real"):
        try:
            manifest, record = load(name), core.read_record(frames.dataset_folder(name))
        except core.DfnbError as error:
            rows[name] = "wrong", str(error)
            continue
        places, found, problems = located(manifest, () if record else roots, links)
        state, n = "partly" if problems else "present", len(found)
        if record:
            state, n, problems = "prepared", sum(part["videos"] for part in record["n"].values()), record["missing"]
        facts = "\n".join([f"{n} videos", *(f"in {place}" for place in places), *problems])
        rows[name] = (state, facts) if n else ("absent", f"{manifest.access}\nspace: {manifest.space}")
    return pd.DataFrame(rows, index=["state", "what"]).T.rename_axis("dataset")


def located(manifest: Manifest, roots: Sequence[Path], links: bool = False) -> tuple[list[Path], *Found]:
    """Where a dataset is, and what :func:`scan` finds there.

    For each of the user's folders that is the folder itself or one of its immediate sub-folders: the one that makes the
    number of videos come nearest to the published one, or largest where none is known. (Celeb-DF-v2 has all that the
    rules of v1 ask for, and more.)
    """
    places, videos, problems = [], [], []
    published = sum(rule.expected * max(len(rule.methods), 1) for rule in manifest.rules) or 10**9
    for root in map(Path, roots):
        candidates = [[*places, place] for place in (root, *sorted(root.glob("[!.]*/")))]
        finds = [(candidate, *scan(manifest, candidate, links)) for candidate in candidates]
        places, videos, problems = max(finds, key=lambda find: (len(find[1]) > 0, -abs(len(find[1]) - published)))
    return places, videos, problems


def scan(manifest: Manifest, roots: Sequence[Path], links: bool = False) -> Found:
    """The videos of a dataset below the user's folders, and one sentence for each thing that is missing or wrong.

    Where two folders hold the same path, the first counts; for links see :func:`files_below`. Raises
    :class:`DfnbError` when two files would be the same video, or when a list that ships with the manifest was changed.
    """
    problems, sources, files = defaultdict(list), [], {}  # files by their paths below a root
    for root in reversed([Path(root).resolve() for root in roots]):
        files |= files_below(root, links)[0]
    for rule in manifest.rules:
        for method in rule.methods or [rule.method]:
            fields = manifest.fields | ({"method": method} if method else {})
            with core.reading(f"the rule {rule.files!r} of a manifest", "here", "correct it, or the list that it uses"):
                sources += _apply(rule, manifest.lists, fields, files, problems)
    return merged(sources), sentences(problems)


def sentences(problems: Mapping[str, Sequence[str]]) -> list[str]:
    """One sentence for each problem, with the number of files that have it and the names of the first three."""
    shown = {problem: ", ".join(names[:3]) + ", …" * (len(names) > 3) for problem, names in problems.items() if names}
    return [f"{problem}: {len(problems[problem])} ({names})" for problem, names in shown.items()]


def merged(found: Sequence[Source]) -> list[Source]:
    """Sources in which the crops of one video are one; raises :class:`DfnbError` when two files have the same name."""
    sources: dict[str, Source] = {}
    for source in found:
        known = sources.get(source.video)
        if known and not source.crops:
            raise core.DfnbError(f"{known.file} and {source.file} are both named {source.video!r}; keep one of them")
        sources[source.video] = replace(known, crops=known.crops + source.crops) if known else source
    return list(sources.values())


def _apply(rule: Rule, lists: dict, fields: dict, files: dict[str, Path], problems: dict) -> Iterator[Source]:
    """The sources that one rule finds among the files; what is missing or left out is added to ``problems``."""
    where = PLACEHOLDER.sub(lambda match: fields.get(match[1], match[0]), rule.files)
    pattern, listed, title = _pattern(where), {}, ""
    matches = {path: match.groupdict() for path in files if (match := pattern.fullmatch(path))}
    if rule.list:
        listed, title = read_list(lists[rule.list], files), lists[rule.list].file
    elif len(matches) < rule.expected:
        problems[f"{where}: fewer than the {rule.expected} published files"] += matches
    missing = {key for key in listed if rule.key != "{path}" or pattern.fullmatch(key)}
    for path, values in matches.items():
        facts = fields | values | {"path": path, "stem": PurePosixPath(path).stem}
        key = rule.key.format_map(facts)
        row = listed.get(key, rule.otherwise) if rule.list else {}
        missing.discard(key)
        if row is None:
            problems[f"{where}: not in the list {title}; left out"].append(path)
            continue
        facts |= row
        file, label = files[path], LABELS.get(rule.label.format_map(facts).lower())
        if label is None:
            raise core.DfnbError(f"{file} has a label neither real nor fake in its list; download the list again")
        known = {"method": facts["method"] if label else "real"}
        for name in ("video", "split", "cluster", "identity", "source"):
            known[name] = getattr(rule, name).format_map(facts | known)
        mask = (rule.mask or rule.original).format_map(facts)
        if mask and mask not in files:
            problems[f"{known['method']}: files of masks or originals missing, prepared without masks"].append(mask)
        source = Source(file=file, label=label, mask=files.get(mask), compared=bool(rule.original), **known)
        yield source.in_place(file.parents[path.count("/")]) if rule.crops else source
    problems[f"{where}: named in {title}, but missing"] += sorted(missing)


def _pattern(template: str) -> re.Pattern:
    """The regular expression of a template."""
    return re.compile(PLACEHOLDER.sub(lambda match: f"(?P<{match[1]}>{match[2] or '[^/]+'})", template))


def read_list(listing: Listing, files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """The rows of a list by their keys, of all files that its template matches; empty where there is none."""
    pattern, rows = _pattern(listing.file), {}
    found = {file: match.groupdict() for path, file in files.items() if (match := pattern.fullmatch(path))}
    if listing.sha256:
        found = {core.verified(core.find("data_manifest") / listing.file, listing.sha256): {}}
    for file, values in found.items():
        if file.suffix == ".json":
            entries = [{"key": key, **row} for key, row in core.read_json(file).items()]
        else:
            header = ["name"] if file.suffix == ".txt" else None
            entries = pd.read_csv(file, dtype=str, keep_default_na=False, names=header).to_dict("records")
        for entry in entries:
            row = entry | listing.fields | values
            rows |= {key.format_map(row): row for key in listing.keys}
    return rows
