"""From videos and images to a dataset of crops: find the faces, cut them out at a fixed scale, list what failed.

A video is read twice: first to find and follow its faces, then to cut them out, real and fake through the same geometry.
What gives no usable face ends in a quarantine list, with its reason. Crops that others have made are used where they lie.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, pairwise, zip_longest
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
from pydantic import Field

from dfnb import core
from dfnb.core import DfnbError
from dfnb.data import frames
from dfnb.data.faces import IMAGES, Follower, Unusable, YuNet, decode, detector_path, read_image
from dfnb.data.sources import Found, Source, files_below, merged, printable, sentences

TREE = "tree"  # in a dataset's folder: a link to the folder whose crops are used where they lie
DIFFERENT = 25  # grey levels between a fake and its original from which a pixel is forged
MASKED = 127  # grey level of a mask above which a pixel is forged
LEFT_OUT = "no video or image of real/ or fake/, and no mask or original of one; left out"
TEXTS = ("", ".csv", ".json", ".md", ".pdf", ".txt")  # files that may lie beside the folders of videos: a README
KNOWN = ("split", "cluster", "identity", "source", "method", "label")  # columns that hold for all frames of a source


class Settings(core.Closed):
    """What the crops of a dataset depend on beside the videos and the detector; another setting is another dataset.

    Faces are followed through every frame, so which frames are kept changes nothing in the crop of a face (but whose face
    it is, of several people, is decided over the kept frames). A ``stride`` of None does not stand in the record, so that
    datasets from before there was one are still the same.
    """

    size: int = Field(256, ge=32, le=1024, description="side of a crop in pixels")
    scale: float = Field(1.3, ge=1, le=4, description="side of a crop, by the longer side of the face's box")
    stride: int | None = Field(None, ge=1, le=10**6, description="every k-th frame", exclude_if=lambda k: k is None)
    frames_per_video: int | None = Field(None, ge=1, description="at most so many of these, evenly spaced; None: all")
    detect_every: int = Field(5, ge=1, le=30, description="k: faces are detected on every k-th frame")
    min_score: float = Field(0.7, ge=0.3, le=1, description="confidence from which a detection is a face")
    min_face: int = Field(32, ge=8, description="longer side of the smallest face in source pixels")


# ---------------------------------------------------------------- what to prepare


def folder_sources(root: Path, label: str | None = None, crops: bool = False, links: bool = False) -> Found:
    """All files of a folder ``[train|val|test/]{real,fake,mask,original}[/<method>]/`` as sources, and what is left out.

    A video is named by its path without the suffix; the mask of one in ``fake/`` has the same path below ``mask/``, or the
    video that it was made from, frame by frame, the same path below ``original/``: then the mask is where they differ. Files
    outside a folder of a split are of the test split. With a ``label`` the folder is taken for ``real/`` or ``fake/`` itself.
    With ``crops`` the images are faces, to be used where they lie: those of a folder are the frames of one video, but each
    right below ``real/`` or ``fake/<method>/`` is one by itself. For ``links`` see :func:`dfnb.data.sources.files_below`.

    What lies in a folder of another name, or is a mask or an original of no fake, is counted in a sentence for each folder.
    Raises :class:`DfnbError` when no file is there, or two have the same name.
    """
    files, linked = files_below(root, links)
    beside = {Path(name).with_suffix(""): file for name, file in files.items()}
    sources, problems = [], defaultdict(list, {"links to folders without --links, or no files; left out": linked})
    for name, file in files.items():
        path = Path(name)
        inner = path.parts[0] in frames.SPLITS and len(path.parts) > 1
        part, *parts = path.parts if inner else ("test", *path.parts)
        kind, *below = [label, *parts] if label else parts
        if kind not in ("real", "fake") or not below or (crops and path.suffix.lower() not in IMAGES):
            continue
        method = below[0] if kind == "fake" and len(below) > 1 and not label else kind
        places = [Path(*path.parts[:inner], each, *below).with_suffix("") for each in ("mask", "original")]
        mask, original = (beside.get(place) if kind == "fake" else None for place in places)
        known = {"mask": mask} if mask or crops else {"mask": original, "compared": original is not None}
        grouped = crops and len(below) > 1 + (method != kind)
        video = (path.parent if grouped else path.with_suffix("")).as_posix()
        sources.append(Source(video, file, int(kind == "fake"), method, part, cluster=video, **known))
    used = {file for source in sources for file in (source.file, source.mask)}
    for path in [Path(name) for name, file in files.items() if file not in used]:
        if path.suffix.lower() not in TEXTS:
            folder = Path(*path.parent.parts[: 1 + (path.parts[0] in frames.SPLITS)]).as_posix()
            problems[f"{folder}/: {LEFT_OUT}"].append(path.as_posix())
    if not sources:
        ways = "sort files into real/ and fake/, say label real or fake, or follow links to folders with --links"
        raise DfnbError(f"{root} holds no file to prepare; {ways}")
    root = Path(root).absolute()
    return merged([source.in_place(root) if crops else source for source in sources]), sentences(problems)


# ---------------------------------------------------------------- one video


def crop(image: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """A box (left, top, right, bottom) of an image (H, W[, 3]) uint8 as (size, size[, 3]); edges are repeated beyond."""
    left, top, right, bottom = box
    patch = image.take(range(top, bottom), axis=0, mode="clip").take(range(left, right), axis=1, mode="clip")
    return cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA if bottom - top > size else cv2.INTER_CUBIC)


def square_box(place: np.ndarray, scale: float, shape: tuple[int, ...]) -> list[int]:
    """Left, top, right, bottom of a square about the place of a face (13,) in a frame of this shape (H, W, ...)."""
    side, centre = max(1, round(place[2] * scale)), np.clip(place[:2], 0, [shape[1] - 1, shape[0] - 1])
    left, top = (round(float(middle) - side / 2) for middle in centre)
    return [left, top, left + side, top + side]


def difference(fake: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Where a fake differs from its original, both (H, W, 3) uint8: a mask (H, W) of 0 and 255.

    The largest difference of the channels, its median over 5 by 5 pixels above :data:`DIFFERENT`, small gaps closed.
    """
    apart = cv2.medianBlur(cv2.absdiff(fake, original).max(axis=2), 5) > DIFFERENT
    return cv2.morphologyEx(apart.astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))


def _one(source: Source, given: str, folder: Path, settings: Settings, detector: YuNet) -> dict:
    """Prepare one video into ``folder/videos/<video>``; returns its facts, with a ``reason`` if it goes to quarantine.

    A video that is there is kept when it was made of what is ``given``, and removed otherwise. A fake that cannot be
    compared with its original, frame by frame, has no mask.
    """
    place = folder / "videos" / source.video
    known = {"dataset": folder.name} | {name: getattr(source, name) for name in KNOWN}
    try:
        _check_name(source.video)
        if (place / "video.json").exists():
            facts = core.read_json(place / "video.json")
            if facts.get("given") == given:
                return facts | {"rows": None}
            shutil.rmtree(place)
        rows, crops, masks, facts = _in_place(source, folder) if source.crops else _cut(source, settings, detector)
        frames.write_video(place, [known | row for row in rows], crops, masks, **facts, given=given)
        return facts
    except (Unusable, cv2.error) as error:
        if source.compared:
            return _one(replace(source, mask=None, compared=False), given, folder, settings, detector)
        return {"quarantined": 1, "reason": str(error)}


def _check_name(path: str) -> None:
    """Raise :class:`Unusable` for a path that names no folder on some systems, or is not UTF-8."""
    if not path.isprintable() or "\\" in path or max(len(part.encode()) for part in path.split("/")) > 200:
        raise Unusable("its name has more than 200 bytes, a backslash or what is no character; rename it")


def _cut(source: Source, settings: Settings, detector: YuNet) -> tuple:
    """The rows of a video, its crops (n, size, size, 3), its masks (n, size, size) bool or None, and its facts.

    One face a frame, also across cuts, so that real and forged videos differ by nothing else: of a fake with masks the face
    under them, of another fake the largest, of a real video the one that is seen longest. All faces are held in memory: 0.2 MB
    per face at 256 pixels, 2 GB for 10,000 frames; twice that for a masked fake.
    """
    follower, size = Follower(settings, detector), settings.size
    kept = np.arange(0, follower.follow(decode(source.file)), settings.stride or 1)
    n = min(settings.frames_per_video or len(kept), len(kept))
    wanted = kept[(2 * np.arange(n) + 1) * len(kept) // (2 * n)]  # the middles of n equal parts
    tracks = follower.places(wanted)
    if not tracks:
        raise Unusable(f"no face in {n} frames")
    number, places = (np.concatenate(parts) for parts in zip(*tracks))
    track = np.repeat(np.arange(len(tracks)), [len(shown) for shown, _ in tracks])
    crops = np.empty((len(track), size, size, 3), np.uint8)
    masks = np.zeros((len(track), size, size), bool)
    boxes = np.zeros((len(track), 4), int)
    others = decode(source.mask) if source.mask else ()
    for frame, (image, other) in enumerate(zip_longest(decode(source.file), others)):
        if source.mask and (image is None or other is None):
            raise Unusable("the mask and the video have different numbers of frames")
        for i in np.flatnonzero(number == frame):
            boxes[i] = square_box(places[i], settings.scale, image.shape)
            crops[i] = crop(image, boxes[i], size)
            if source.mask:
                masks[i] = crop(_region(image, other, source.compared), boxes[i], size) > MASKED
    lengths = np.bincount(track)
    sides, covered = (np.bincount(track, of) / lengths for of in (boxes[:, 2] - boxes[:, 0], masks.mean(axis=(1, 2))))
    if source.mask and not covered.any():
        raise Unusable(f"no face under the mask in {n} frames")
    most = covered if source.mask else (lengths, sides)[source.label]
    seen = pd.DataFrame({"frame": number, "most": most[track], "side": sides[track]})
    if source.mask:  # not whom the mask touches while the forged face is not seen
        seen = seen[seen["most"] > most.max() / 2]
    chosen = seen.sort_values(["most", "side"], ascending=False).drop_duplicates("frame").sort_values("frame").index
    facts = {"frames": n, "without_face": n - len(set(number[chosen]))}
    scale = size / (boxes[:, 2] - boxes[:, 0])
    marks = np.round((places[:, 3:] - np.tile(boxes[:, :2], 5)) * scale[:, None], 3)
    table = {"track": 0 * track, "frame": number, "scale": scale, "crop_box": boxes, "landmarks": marks}
    rows = pd.DataFrame({name: values[chosen].tolist() for name, values in table.items()}).to_dict("records")
    return rows, crops[chosen], masks[chosen] if source.mask else None, facts


def _region(image: np.ndarray, other: np.ndarray, compared: bool) -> np.ndarray:
    """The mask (H, W) uint8 of a frame that a frame of the mask video shows, or, ``compared``, one of the original."""
    if image.shape != other.shape:
        raise Unusable(f"the mask has the shape {other.shape[:2]}, the video {image.shape[:2]}")
    return difference(image, other) if compared else cv2.cvtColor(other, cv2.COLOR_RGB2GRAY)


def _in_place(source: Source, folder: Path) -> tuple:
    """What :func:`_cut` returns, without crops and masks: these are used where they lie, below ``source.file``.

    The dataset's ``folder`` has a link to it. Frames are numbered by the last number in their names. An image that cannot be
    read counts as a frame without a face.
    """
    numbered = {int(re.findall(r"\d+", f"0{image.stem}")[-1]): (image, mask) for image, mask in source.crops}
    if len(numbered) < len(source.crops):  # names that number nothing
        numbered = dict(enumerate(sorted(source.crops)))
    rows = []
    for number, files in sorted(numbered.items()):
        with suppress(Unusable):
            _check_name(f"{files[0]}{files[1] or ''}")
            read_image(files[0])
            path, mask = (f"{TREE}/{file.relative_to(source.file).as_posix()}" if file else "" for file in files)
            rows.append({"track": 0, "frame": number, "path": path, "mask": mask, **dict.fromkeys(frames.UNKNOWN)})
    facts = {"frames": len(numbered), "without_face": len(numbered) - len(rows)}
    if not rows:
        raise Unusable(f"none of {len(numbered)} images can be read")
    return rows, None, None, facts | {"crops_hash": frames.images_hash(folder, rows)}


# ---------------------------------------------------------------- a dataset


def prepare(
    name: str,
    sources: Sequence[Source],
    settings: Settings | None = None,
    detector: YuNet | None = None,
    workers: int | None = None,
    progress: bool = True,
    missing: Sequence[str] = (),
    people: str = "",
) -> dict:
    """Prepare videos into ``datasets/<name>``; returns its record, whose ``quarantine`` lists what could not be used.

    The folder of a video appears complete or not at all: a killed run goes on where it was, and the result has the same
    bytes for any number of ``workers`` (None: one per processor). A dataset that is done returns at once. Drop-outs and
    quarantined videos are counted by split and method in ``faces``; ``quarantine.csv`` has the list to read. What is
    known to be ``missing`` of the dataset is kept in the record, and so is the numbering of ``people`` that it follows. Raises
    :class:`DfnbError` for an impossible name, when the folder holds other settings or other videos, or when no video has a
    face.
    """
    folder = core.home() / "datasets" / core.Named.check({"name": name}, "dfnb prepare").name
    settings, detector, clock = settings or Settings(), detector or YuNet(detector_path()), core.Clock()
    for source in sources:
        core.Named.check({"title": source.method}, f"{source.file}, its method")
    for before, video in pairwise(["/", *sorted(f"{source.video}/" for source in sources)]):
        if video.startswith(before) or not re.fullmatch(r"([^/.][^/]*/)+", video):
            raise DfnbError(f"{video[:-1]!r} cannot name a video: another is in its way, or a part is empty or hidden")
    roots = {source.file.resolve() for source in sources if source.crops}
    if len(roots) > 1:
        raise DfnbError(f"{name} would use crops of {', '.join(map(str, roots))}; give one folder above all")
    parameters = settings.model_dump() | {"detector_sha256": detector.sha256}
    given = {source.video: _given(source, parameters) for source in sources}
    fingerprint = core.digest([given, missing], digits=16)
    with core.locked(folder):
        for root in roots:
            (folder / TREE).unlink(missing_ok=True)
            (folder / TREE).symlink_to(root, target_is_directory=True)
        record = core.read_record(folder)
        if record and record["parameters"] != parameters:
            before = record["parameters"]
            changed = {key: before.get(key) for key in before | parameters if before.get(key) != parameters.get(key)}
            raise DfnbError(f"{folder} was made with {changed}; --set these, or give the new dataset another name")
        if record and record["sources"] == fingerprint:
            return record
        (folder / "record.json").unlink(missing_ok=True)
        for left_over in [path for path in folder.rglob(".*") if path.name != ".lock"]:  # of a killed run
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink(missing_ok=True)
        done = {file.parent.relative_to(folder / "videos").as_posix() for file in folder.rglob("video.json")}
        for video in done - given.keys():
            raise DfnbError(f"{folder} holds another video, {video!r}; give the new dataset another name")
        jobs = [joblib.delayed(_one)(source, given[source.video], folder, settings, detector) for source in sources]
        facts = joblib.Parallel(workers or -1, verbose=5 * progress, initializer=core.end_with_parent)(jobs)
        empty = {"videos": 1, "quarantined": 0, "frames": 0, "without_face": 0}
        rows = [empty | vars(source) | found for source, found in zip(sources, facts)]
        table = pd.DataFrame(rows, columns=[*empty, *KNOWN, "video", "file", "reason"]).sort_values("video")
        table["file"] = [printable(Path(file.name)) for file in table["file"]]
        unused = table.loc[table["quarantined"] == 1, ["video", "file", "method", "reason"]]
        core.write_bytes(folder / "quarantine.csv", core.csv(unused).encode())
        counts = table.groupby(table["split"] + "/" + table["method"])[[*empty]].sum().to_dict("index")
        facts = {"sources": fingerprint, "people": people, "missing": list(missing), "faces": counts}
        return frames.write_dataset(folder, parameters, **facts, quarantine=unused.to_dict("records"), **clock.facts())


def dropouts(record: dict) -> pd.DataFrame:
    """By split and method: videos, those not used, of the others the wanted frames, and the share without a face.

    A detector that fails on fakes more than on real videos is a bias: what is left are the easier fakes.
    """
    n = pd.DataFrame(record["faces"]).T
    return n.assign(share=(n["without_face"] / n["frames"].clip(lower=1)).round(4)).rename_axis("split/method")


def _given(source: Source, parameters: dict) -> str:
    """A digest of what a prepared video depends on; files are known by name, size and time of change."""
    files = [file for file in (source.file, source.mask, *chain(*source.crops)) if file]
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
    return core.digest([parameters, source.video, [getattr(source, name) for name in KNOWN], stamps])
