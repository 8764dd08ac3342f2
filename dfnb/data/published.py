"""Which published datasets exist, how they lie on disk as downloaded, and what of them is there.

``data_manifest/<name>.yaml`` of kind ``real`` describes a published dataset. Its rules are
templates of paths below the folder that the user names: ``{name}`` stands for anything without a
slash, ``{name:regex}`` for what the regular expression matches. The values that a path and the
dataset's own list give fill the other templates of the rule.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from dfnb.data.videos import LABELS, Files, Problems, Video, files_below, sentences
from dfnb.files import dataset_folder, described, find, manifest, read_json, verified
from dfnb.records import read_record
from dfnb.settings import Closed, DfnbError, explained

PLACEHOLDER = re.compile(r"\{(\w+):?([^{}]*)\}")

Texts = dict[str, str]  # the values of placeholders by their names


class Listing(Closed):
    """A list that describes files.

    CSV with a header, JSON with one object per key, or a text with one {name} per line.
    """

    file: str  # template of the path below the root; with a sha256 it ships with the manifest
    sha256: str = ""
    keys: tuple[str, ...]  # templates over a row, compared with a rule's key; {key} is JSON's key
    fields: Texts = Field({})  # added to every row


class Rule(Closed):
    """Which files are videos (or crops) of the dataset, and what is known of them.

    All but ``expected`` are templates or texts. See :class:`dfnb.data.videos.Video` for the fields.
    """

    files: str  # template of the path below the root
    list: str = ""  # the list that describes the files
    key: str = "{path}"  # where a file's row is in that list
    otherwise: Texts | None = None  # row of a file that is not in it; None: left out
    label: str
    method: str = ""
    split: str = "{split}"
    video: str = "{method}/{stem}"
    identity: str = ""
    source: str = ""
    cluster: str = "{video}"
    mask: str = ""
    original: str = ""
    crops: bool = False  # images of faces, used as they are; those of one video are its frames
    expected: int = Field(0, ge=0)  # number of files, where it is known


class Manifest(Closed):
    """A published dataset: what a user must know about it, and the rules of its files."""

    kind: Literal["real"]
    title: str = ""
    paper: str = ""
    licence: str = ""
    labels: str = ""  # as the dataset's own lists have them; here 0 is real
    splits: str = ""
    masks: str = ""
    defects: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()  # what nobody has checked against the data
    published: tuple[str, ...] = ()  # its names among the test sets of published.csv
    access: str = "say where it is with --root"  # how to ask for it
    space: str = "not known"  # as downloaded
    layout: str = ""  # what the rules cannot say
    prepare: dict[str, Any] = Field({})  # settings that differ from the defaults
    fields: Texts = Field({})  # values for the templates of all rules
    lists: dict[str, Listing] = Field({})
    rules: tuple[Rule, ...] = Field(min_length=1)


class Location(NamedTuple):
    """Where a dataset is, its videos, and one sentence per thing that is missing or wrong."""

    root: Path
    videos: list[Video]
    problems: list[str]


def load(name: str) -> Manifest:
    """The manifest of a published dataset; raises :class:`DfnbError` for an impossible entry."""
    return Manifest.check(manifest(name), f"data_manifest/{name}.yaml")


def overview(roots: Sequence[Path] = ()) -> pd.DataFrame:
    """What is there of each described dataset.

    Columns: ``state`` (prepared, present, partly, absent), and ``what``, one fact per line.
    """
    rows = {name: _state(name, roots) for name in described("real")}
    table = pd.DataFrame(rows, index=["state", "what"])
    return table.T.rename_axis("dataset")


def _state(name: str, roots: Sequence[Path]) -> tuple[str, str]:
    """The row of the overview of one dataset."""
    record = read_record(dataset_folder(name))
    if record:
        videos = sum(counts["videos"] for counts in record["n"].values())
        return "prepared", f"{videos} videos"
    description = load(name)
    location = located(description, roots)
    if not location:
        return "absent", f"{description.access}\nspace: {description.space}"
    lines = [
        f"{len(location.videos)} videos",
        f"in {location.root}",
        *location.problems,
    ]
    state = "partly" if location.problems else "present"
    return state, "\n".join(lines)


def located(description: Manifest, roots: Sequence[Path]) -> Location | None:
    """Find a dataset in one of the user's folders, or in a folder that lies in one of them.

    Of several that hold some of its videos, the one counts in which their number is nearest to the
    published one, or largest where that is unknown. (Celeb-DF-v2 has all that the rules of v1 ask
    for, and more.)
    """
    published = sum(rule.expected for rule in description.rules) or 10**9
    locations = []
    for root in roots:
        below = sorted(root.glob("[!.]*/"))
        for folder in (root, *below):
            location = scan(description, folder)
            if location.videos:
                locations.append(location)

    def distance(location: Location) -> int:
        return abs(len(location.videos) - published)

    return min(locations, key=distance, default=None)


def scan(description: Manifest, root: Path) -> Location:
    """Find the videos of a dataset whose layout begins in the folder ``root``.

    Raises :class:`DfnbError` for a list that cannot be read, or that ships with the manifest and
    was changed.
    """
    files, _ = files_below(root.resolve())
    problems = defaultdict(list)
    videos = {}
    for rule in description.rules:
        source = f"the rule {rule.files!r}"
        with explained(source, "here", "correct it, or the list that it uses"):
            for video in _videos(rule, description, files, problems):
                key = (video.name, video.path)  # that is the same for all crops of a video
                if key in videos:
                    crops = videos[key].crops + video.crops
                    video = replace(video, crops=crops)
                videos[key] = video
    return Location(
        root,
        list(videos.values()),
        sentences(problems),
    )


def _videos(
    rule: Rule,
    description: Manifest,
    files: Files,
    problems: Problems,
) -> Iterator[Video]:
    """Yield the videos that a rule finds; adds to ``problems`` what is missing or left out."""
    fixed = dict(description.fields)
    if rule.method:
        fixed["method"] = rule.method
    # The template with the fixed values filled in; only what differs between files stays open.
    where = PLACEHOLDER.sub(lambda match: fixed.get(match[1], match[0]), rule.files)
    matches = _matches(where, files)
    if len(matches) < rule.expected:
        problems[f"{where}: fewer than the {rule.expected} published files"] += matches
    rows = {}
    if rule.list:
        listing = description.lists[rule.list]
        rows = read_list(listing, files)
    for path, values in matches.items():
        facts = {**fixed, **values, "path": path}
        facts["stem"] = PurePosixPath(path).stem
        if rule.list:
            key = rule.key.format_map(facts)
            row = rows.get(key, rule.otherwise)
            if row is None:
                problems[f"{where}: not in the list {listing.file}; left out"].append(path)
                continue
            facts.update(row)
        yield _video(rule, facts, files, problems)


def _video(
    rule: Rule,
    facts: Texts,
    files: Files,
    problems: Problems,
) -> Video:
    """The video that a rule makes of ``facts``, the values for its templates."""
    path = facts["path"]
    label = rule.label.format_map(facts)
    label = LABELS.get(label.lower())
    if label is None:
        raise DfnbError(f"{path} is neither real nor fake in its list; download the list again")
    if label == 0:
        facts["method"] = "real"
    facts["video"] = rule.video.format_map(facts)
    texts = {}
    for field in ("split", "cluster", "identity", "source"):
        template = getattr(rule, field)
        texts[field] = template.format_map(facts)
    video = Video(
        name=facts["video"],
        path=files[path],
        label=label,
        method=facts["method"],
        **texts,
    )
    mask = rule.mask.format_map(facts)
    original = rule.original.format_map(facts)
    if rule.crops:
        root = video.path.parents[path.count("/")]
        image = (path, mask if mask in files else "")
        return replace(video, path=root, crops=(image,))
    # Where a fake is forged is known from its mask or, without one, from its original.
    forged_by = mask or original
    if forged_by and forged_by not in files:
        problems[f"{video.method}: no masks, because files are missing"].append(forged_by)
    return replace(
        video,
        mask=files.get(mask),
        original=files.get(original),
    )


def _matches(template: str, paths: Iterable[str]) -> dict[str, Texts]:
    """The paths that a template fits, each with the values of its placeholders."""
    expression = PLACEHOLDER.sub(_group, template)
    pattern = re.compile(expression)
    matches = {}
    for path in paths:
        match = pattern.fullmatch(path)
        if match:
            matches[path] = match.groupdict()
    return matches


def _group(placeholder: re.Match) -> str:
    """The group of a regular expression that stands for a placeholder."""
    name, expression = placeholder.groups()
    return f"(?P<{name}>{expression or '[^/]+'})"


def read_list(listing: Listing, files: Files) -> dict[str, Texts]:
    """The rows of a list by their keys, from all files that its template fits."""
    if listing.sha256:
        shipped = find("data_manifest") / listing.file
        verified(shipped, listing.sha256, "is missing or was changed; install the package again")
        files = {listing.file: shipped}
    matches = _matches(listing.file, files)
    rows = {}
    for path, values in matches.items():
        for entry in _entries(files[path]):
            row = {**entry, **listing.fields, **values}
            for key in listing.keys:
                rows[key.format_map(row)] = row
    return rows


def _entries(file: Path) -> list[dict]:
    """The rows of a list as its file has them."""
    if file.suffix == ".json":
        content = read_json(file)
        return [{"key": key, **row} for key, row in content.items()]
    header = ["name"] if file.suffix == ".txt" else None
    table = pd.read_csv(file, dtype=str, keep_default_na=False, names=header)
    return table.to_dict("records")
