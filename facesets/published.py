"""Which published datasets exist, how to get them, and which of their files are videos.

``data_manifest/published/<name>.yaml`` describes a published dataset. Each of its rules finds files
by a template of their paths below the folder that the user names. In it, the placeholder
``{name}`` matches anything without a slash, and ``{name:regex}`` matches a regular expression. For
example, ``fake/{method}/{stem}.mp4`` finds ``fake/swap/7.mp4``, with the values
``method`` = swap and ``stem`` = 7. These values, and those of a list that comes with the dataset,
fill the placeholders in the other templates of the rule, such as ``masks/{stem}.mp4``.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import pandas as pd
from pydantic import Field

from facesets.checks import Closed, DfnbError, Name, explained
from facesets.fetch import Fetch, download_folder, refuse_unfinished
from facesets.files import find, read_json, verified
from facesets.manifests import broken_names, manifest, published_names
from facesets.videos import (
    Files,
    Problems,
    Video,
    files_below,
    read_folder,
    refuse_unread,
    sentences,
)

LABELS = {"real": 0, "0": 0, "fake": 1, "1": 1}  # in published lists, in any case

# How the files of a dataset come to the user, the shortest way first.
WAYS = (
    "one command: dfnb fetch NAME",
    "by hand, without a form",
    "by request: a form, an agreement or an account",
    "files of your own",
    "its manifest is wrong",
)
Texts = dict[str, str]  # name of a placeholder -> its value
Split = Literal["train", "val", "test"]


class Listing(Closed):
    """A list that describes files: one row per file or person, with values for placeholders.

    It is a CSV with a header, JSON with one object per {key}, or a text with one {name} per line.
    """

    file: str  # template of the path below the root; with a sha256 it ships with the manifest
    sha256: str = ""
    # Templates, filled from a row by str.format: {name:.3} is the first three characters of name. A
    # row describes the files whose Rule.key equals one of them.
    keys: tuple[str, ...]


class Rule(Closed):
    """Which files are videos (or crops) of the dataset, and what is known about them.

    All texts are templates. From ``label`` on, they give the fields of the same name of
    :class:`~facesets.videos.Video`; ``video`` gives its name. Besides the values of a path
    and of its row in the list, they may use {path} and {stem} (the file's name without suffix).
    ``method`` is filled first, then ``video``: the later templates may use {method} and {video}.
    """

    files: str  # the path below the root
    expected: int = Field(0, ge=0)  # the published number of files; 0: unknown
    list: Listing | None = None  # describes the files
    key: str = "{path}"  # a file is described by the row of the list that has this key
    otherwise: Texts | None = None  # the row of files that the list lacks; None: leave them out
    label: str
    method: str = "{method}"  # of a fake
    split: str = "{split}"
    video: str = "{method}/{stem}"
    identity: str = ""
    source: str = ""
    cluster: str = "{video}"
    mask: str = ""
    original: str = ""
    # Files are faces that are cut out already. Those with the same ``video`` are its frames.
    crops: bool = False


class Manifest(Closed):
    """A published dataset: what a user must know about it, and the rules of its files."""

    kind: str  # always real: people recorded these videos
    names: tuple[Name, ...] = ()  # of the datasets that it describes; none: that of the file
    about: str = ""  # paper, licence, labels, splits, masks, defects, and what nobody has checked
    access: str  # how to get it, and which of its folders is the root
    space: str  # of the download: bytes, or at least the number of files
    terms: str = ""  # licence, who is in it, and whether they were asked; `dfnb fetch` shows it
    fetch: Fetch | None = None  # the files that `dfnb fetch` downloads; None: users do it by hand
    form: bool = True  # without ``fetch``: whether the authors want a form or an agreement
    prepare: dict[str, Any] = Field({})  # values of prepare.Settings that differ from its defaults
    # method -> Video.mask_threshold of its fakes; other methods have the default, as have all crops
    mask_threshold: dict[str, Annotated[int, Field(ge=0, le=127)]] = Field({})
    # Of fakes without a mask: Video.difference. Use hull for face swaps alone.
    difference: Literal["pixels", "hull"] = "pixels"
    # Regular expression of the clusters whose training videos are for validation: our choice where
    # the authors published no validation split. The empty one matches no cluster.
    validation: str = ""
    domain: str = ""  # what the dataset counts as, see manifests.domain_of; empty: ``like``
    splits: dict[str, Split] = Field({})  # name of a split in the dataset's lists -> ours
    # Its videos are in so many folds instead, see _split_of: the names end in -fold-1, -fold-2, ...
    folds: int | None = Field(None, ge=3)
    # name in published.csv -> the manipulation method that it is about, or all
    published_as: dict[str, str] = Field({})
    apart: bool = False  # whether it is set apart from means over datasets
    own: bool = False  # users sort these files themselves: one that no rule reads is refused
    # Without rules, these are crops of one's own, in the folders of `dfnb prepare FOLDER`.
    rules: tuple[Rule, ...]


def load_manifest(name: str) -> Manifest:
    """The manifest of a published dataset.

    Raises :class:`DfnbError` for a name without a manifest, and for an impossible entry.
    """
    return Manifest.check(manifest(name), f"data_manifest/published/{name}.yaml")


def overview() -> pd.DataFrame:
    """The published datasets that have a manifest, one per row, in the order of :data:`WAYS`.

    Columns of texts: ``how`` the files come, which is one of the ways; ``access``, how to get
    them; ``space``, the size of the download, in bytes or, where that is unknown, in files; and
    ``terms``. Of a manifest that is wrong, ``access`` says what is.
    """
    rows = {}
    for name in [*published_names(), *broken_names()]:
        try:
            description = load_manifest(name)
            rows[name] = {"how": _way(description), **vars(description)}
        except DfnbError as error:
            rows[name] = {"how": WAYS[-1], "access": str(error), "space": "", "terms": ""}
    table = pd.DataFrame(rows, ["how", "access", "space", "terms"]).T.rename_axis("dataset")
    return table.sort_values("how", key=lambda how: how.map(WAYS.index), kind="stable")


def _way(description: Manifest) -> str:
    """How the files of a dataset come to the user, as one of :data:`WAYS`."""
    command, by_hand, by_request, own, _ = WAYS
    if description.fetch:
        return command
    if description.own or not description.rules:
        return own
    return by_request if description.form else by_hand


def default_root(name: str) -> Path:
    """Where `dfnb fetch` downloads the dataset ``name`` to.

    Raises :class:`DfnbError` where nothing is there, or a download that is not complete.
    """
    root = download_folder(name)
    refuse_unfinished(name)
    if not root.is_dir():
        description = load_manifest(name)
        fetched = f"`dfnb fetch {name}` before, or " if description.fetch else ""
        raise DfnbError(
            f"{name} needs {fetched}--root, the folder of its download; access: "
            f"{description.access}"
        )
    return root


def scan(name: str, root: Path) -> tuple[list[Video], list[str]]:
    """Find the videos of the dataset ``name``, which was downloaded into the folder ``root``.

    Returns them, and one sentence per kind of problem, such as files that no list names. Raises
    :class:`DfnbError` for a ``root`` without any of the videos, for a list that cannot be read, or
    that ships with the manifest and was changed, for another split than train, val and test, for
    more files than were published, and for files of one's own that no rule reads.
    """
    description = load_manifest(name)
    if not description.rules:
        return [_as_crops(video) for video in read_folder(root)], []
    files = files_below(root)
    problems = defaultdict(list)
    videos = {}  # name and path, or the name alone of crops -> video
    for rule in description.rules:
        # Errors of reading become a DfnbError: "the rule ... is not valid here (why); correct ...".
        with explained(f"the rule {rule.files!r}", "here", "correct it, or the list that it uses"):
            for video in _rule_videos(rule, files, problems):
                threshold = description.mask_threshold.get(video.method, video.mask_threshold)
                split = _split_of(video, description, name)
                way = description.difference
                video = replace(video, mask_threshold=threshold, split=split, difference=way)
                if video.split == "train" and re.fullmatch(description.validation, video.cluster):
                    video = replace(video, split="val")
                # Two rules may find one file: the later rule's video is kept. Each crop comes as a
                # video of one frame: those of one name are joined.
                key = video.name if video.crops else (video.name, video.path)
                if video.crops and key in videos:
                    frames = videos[key].frames + video.frames
                    video = replace(video, path=videos[key].path, frames=frames)
                videos[key] = video
    if description.own:
        read = {image for video in videos.values() for image in chain(*video.frames)}
        names = [name for name, path in files.items() if path in read]
        refuse_unread(root, files, names, description.access)
    if not videos:
        there = ", ".join(sorted({path.split("/")[0] for path in files})[:9]) or "no file"
        looked_for = " or ".join(_readable(rule.files) for rule in description.rules)
        access = f"access: {description.access}"
        facts = [f"looked for {looked_for}", *sentences(problems), access]
        raise DfnbError(f"{root} contains {there}, and nothing of {name}; {'; '.join(facts)}")
    return list(videos.values()), sentences(problems)


def _as_crops(video: Video) -> Video:
    """A video of a sorted folder whose images are faces that are cut out already."""
    frames = video.frames or ((video.path, video.mask),)
    if not video.mask:  # what an image was made from is no mask
        frames = tuple((image, None) for image, _ in frames)
    return replace(video, crops=True, frames=frames, mask=None, original=None)


def _split_of(video: Video, description: Manifest, name: str) -> str:
    """The split of a video of the dataset ``name`` in our words; raises DfnbError for another.

    Of a dataset in folds, fold i is the test split of NAME-fold-i, and the next one validation.
    """
    split = description.splits.get(video.split, video.split)
    if description.folds:
        distance = (int(video.split) - int(name.rpartition("-")[2])) % description.folds
        split = {0: "test", 1: "val"}.get(distance, "train")
    if split not in get_args(Split):
        raise DfnbError(
            f"{video.path} is of the split {split!r}, and not of train, val or test; say which of "
            f"these it is in the manifest of {name}, as in splits: {{{split}: train}}"
        )
    return split


def _rule_videos(rule: Rule, files: Files, problems: Problems) -> Iterator[Video]:
    """Yield the videos that a rule finds; problems are added to ``problems``.

    The names of missing files are unknown: their problem has an empty list of files. Raises
    :class:`DfnbError` at the end where there are more files than were published.
    """
    shown = _readable(rule.files)  # the template in messages
    matches = _matches(rule.files, files)
    if len(matches) < rule.expected:
        problems[f"{shown}: {len(matches)} of the {rule.expected} published files"] = []
    # Where the template lists its methods, {method:a|b}, those without any file are reported.
    alternatives = re.search(r"\{method:(\w+(?:\|\w+)+)\}", rule.files)
    if alternatives:
        missing = {*alternatives[1].split("|")} - {values["method"] for values in matches.values()}
        problems.update({f"no file of the method {method}": [] for method in sorted(missing)})
    rows = read_listing(rule.list, files) if rule.list else {}
    used = 0
    for path, placeholders in matches.items():
        values = {**placeholders, "path": path, "stem": PurePosixPath(path).stem}
        if rule.list:
            key = rule.key.format_map(values)
            row = rows.get(key, rule.otherwise)
            if row is None:
                problems[f"{shown}: not in the list {rule.list.file}; left out"].append(path)
                continue
            values.update(row)  # the list wins over the path
        used += 1
        yield _rule_video(rule, values, files, problems)
    if used > rule.expected > 0:
        raise DfnbError(
            f"{shown}: {used} files, where {rule.expected} were published; move away those that "
            "are not of this dataset"
        )


def _rule_video(
    rule: Rule,
    values: Texts,
    files: Files,
    problems: Problems,
) -> Video:
    """The video that a rule makes of the file ``values["path"]``; ``values`` fill its templates.

    Adds ``method`` and ``video`` to ``values``, and missing masks or originals to ``problems``; but
    not those of crops, which need no masks.
    """

    def filled(template: str) -> str:
        return template.format_map(values)

    path = values["path"]
    text = filled(rule.label)
    label = LABELS.get(text.lower())
    if label is None:
        raise ValueError(f"label = {text!r}, and not one of {', '.join(LABELS)}")
    # In this order, because templates filled later may use {method}, and then {video}.
    values["method"] = filled(rule.method) if label else "real"
    values["video"] = filled(rule.video)
    mask_path = filled(rule.mask)
    original_path = filled(rule.original)
    mask = files.get(mask_path)  # None where the rule names no mask, or the file is missing
    original = files.get(original_path)
    if mask_path and not mask:
        # Else prepare would compute the missing mask from the original: wrong in compressed videos,
        # which differ from it everywhere, and unlike the masks of the other fakes.
        original = None
    video = Video(
        name=values["video"],
        path=files[path],
        label=label,
        method=values["method"],
        split=filled(rule.split),
        cluster=filled(rule.cluster),
        identity=filled(rule.identity),
        source=filled(rule.source),
        mask=mask,
        original=original,
    )
    if rule.crops:  # one frame of the video; an original would be no mask
        return replace(video, mask=None, original=None, crops=True, frames=((video.path, mask),))
    # The forged region is known from the mask or, without one, from the original.
    region_path = mask_path or original_path
    if region_path and region_path not in files:
        problems[f"{video.method}: no masks, because files are missing"].append(region_path)
    return video


def _readable(template: str) -> str:
    """A template for messages: ``fake/{method:a|b}/{stem}.mp4`` gives ``fake/<a|b>/*.mp4``."""
    alternatives = re.sub(r"\{\w+:(\w+(\|\w+)+)\}", r"<\1>", template)
    return re.sub(r"(\{[^{}]*\})+", "*", alternatives)


def _matches(template: str, paths: Iterable[str]) -> dict[str, Texts]:
    """The paths that match a template, each with the values of its placeholders.

    The template becomes a regular expression with a named group per placeholder. The text between
    placeholders is not escaped: a dot in it matches any character, which does no harm here, and no
    template has another special character there.
    """
    # {name} becomes {name:[^/]+}, and then {name:regex} becomes (?P<name>regex).
    template = re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", template)
    pattern = re.compile(re.sub(r"\{(\w+):([^{}]*)\}", r"(?P<\1>\2)", template))
    matches = filter(None, map(pattern.fullmatch, paths))
    return {match.string: match.groupdict() for match in matches}


def read_listing(listing: Listing, files: Files) -> dict[str, Texts]:
    """The rows of a list by their keys, from all files that match its template.

    ``files`` maps paths below the root to full paths; a list with a sha256 is not among them. A row
    maps names to texts: its columns, and the placeholders in the path of its file. It appears under
    each of its keys. Where two rows have one key, the later one stays. Raises :class:`DfnbError`
    for a list with a sha256 that is missing or was changed, and for damaged JSON.
    """
    if listing.sha256:  # ships with the manifest; its template is a plain file name
        shipped = find("data_manifest") / listing.file
        # Raises a DfnbError, "<path> is missing ...", unless the sha256 is right.
        verified(shipped, listing.sha256, "is missing or was changed; install the package again")
        files = {listing.file: shipped}
    rows = {}
    for path, placeholders in _matches(listing.file, files).items():
        file = files[path]
        if file.suffix == ".json":  # one object per key becomes one row, with the column ``key``
            entries = [{**entry, "key": key} for key, entry in read_json(file).items()]
        else:
            columns = ["name"] if file.suffix == ".txt" else None  # None: the first line names them
            table = pd.read_csv(file, dtype=str, keep_default_na=False, names=columns)
            entries = table.to_dict("records")
        for entry in entries:
            row = {**entry, **placeholders}
            for template in listing.keys:
                rows[template.format_map(row)] = row
    return rows
