"""From videos to a dataset of crops: find the faces, cut them out alike, list what failed.

A video is read twice: first to find and follow its faces, then to cut them out, real and fake
through the same geometry. A video without a usable face ends in a quarantine list with its reason.
Crops that others have made are used where they lie.
"""

import atexit
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath

import cv2
import joblib
import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from dfnb.data.faces import Unusable, YuNet, decode, detector_path, follow, read_image, search
from dfnb.data.frames import UNKNOWN, images_hash, load_frames, write_dataset, write_video
from dfnb.data.videos import Video
from dfnb.files import dataset_folder, digest, end_with_parent, locked, read_json, write_bytes
from dfnb.records import Clock, read_record
from dfnb.settings import Closed, DfnbError, check_name, check_title

TREE = "tree"  # in a dataset's folder: a link to the folder of the crops that are used in place
DIFFERENT = 25  # grey levels between a fake and its original from which a pixel is forged
MASKED = 127  # grey level of a mask above which a pixel is forged
SAME = ("split", "cluster", "identity", "source", "method", "label")  # in all rows of a video
COUNTS = ("frames", "without_face")  # of a video: wanted frames, and those of them without a face
VIDEO_NAME = re.compile(r"[^/.][^/]{0,200}(/[^/.][^/]{0,200})*")

Parts = dict  # what dfnb.data.frames.write_video takes, beside the folder


class Settings(Closed):
    """What the crops of a dataset depend on, beside the videos and the detector.

    Faces are followed through every frame of a video, so that the crop of a face does not depend
    on which frames are kept. A ``stride`` of None does not stand in the record, so that datasets
    from before there was one are still the same.
    """

    size: int = Field(256, ge=32, le=1024)  # side of a crop in pixels
    scale: float = Field(1.3, ge=1, le=4)  # side of a crop / longer side of the face
    stride: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)  # every k-th
    frames_per_video: int | None = Field(None, ge=1)  # at most, evenly spaced; None: all
    detect_every: int = Field(5, ge=1, le=30)  # faces are detected on every k-th frame
    min_score: float = Field(0.7, ge=0.3, le=1)  # confidence of a face at least
    min_face: int = Field(32, ge=8)  # longer side of a face in source pixels at least


# ---------------------------------------------------------------- geometry


def square_box(place: np.ndarray, scale: float, shape: tuple[int, ...]) -> list[int]:
    """Left, top, right, bottom of a square about a face.

    Args:
        place: Where the face is (13,), see :func:`dfnb.data.faces.interpolate`.
        scale: The side of the square in longer sides of the face.
        shape: Height and width of the frame. The centre of the square lies in it.
    """
    side = max(1, round(place[2] * scale))
    height, width = shape[:2]
    x, y = np.clip(place[:2], 0, [width - 1, height - 1])
    left = round(float(x) - side / 2)
    top = round(float(y) - side / 2)
    return [left, top, left + side, top + side]


def crop(image: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """Cut a box (left, top, right, bottom) out of an image (H, W[, 3]) uint8: (size, size[, 3]).

    Beyond the image its edges are repeated.
    """
    left, top, right, bottom = box
    rows = np.arange(top, bottom).clip(0, len(image) - 1)
    columns = np.arange(left, right).clip(0, image.shape[1] - 1)
    patch = image[rows][:, columns]
    method = cv2.INTER_CUBIC
    if bottom - top > size:
        method = cv2.INTER_AREA
    return cv2.resize(patch, (size, size), interpolation=method)


def difference(fake: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Where a fake differs from its original, both (H, W, 3) uint8: a mask (H, W) of 0 and 255.

    A pixel is forged where the largest difference of the channels, its median over 5 by 5 pixels,
    is above :data:`DIFFERENT`; small gaps are closed.
    """
    distance = cv2.absdiff(fake, original).max(axis=2)
    forged = cv2.medianBlur(distance, 5) > DIFFERENT
    mask = forged.astype(np.uint8) * 255
    neighbours = np.ones((9, 9), np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, neighbours)


# ---------------------------------------------------------------- one video


@dataclass
class Face:
    """The face of a person in one frame.

    All faces of a video lie in memory at once: 0.2 MB per face at 256 pixels.
    """

    frame: int
    place: np.ndarray  # (13,), see dfnb.data.faces.interpolate
    box: Sequence[int] = ()  # left, top, right, bottom of the crop in the frame
    crop: np.ndarray | None = None  # (size, size, 3) uint8
    mask: np.ndarray | None = None  # (size, size) bool
    covered: float = 0.0  # share of the crop that the mask covers


Person = list[Face]  # in all frames that show it, in their order


def cut_faces(video: Video, settings: Settings, detector: YuNet) -> Parts:
    """Find and follow the faces of a video, and cut out one per frame."""
    searches = search(decode(video.path), settings, detector)
    length = searches[-1].frame + 1
    wanted = wanted_frames(length, settings)
    people = []
    for frames, places in follow(searches, wanted):
        pairs = zip(frames.tolist(), places)
        people.append([Face(frame, place) for frame, place in pairs])
    if not people:
        raise Unusable(f"no face in {len(wanted)} frames")
    read_faces(video, people, settings)
    chosen = choose(people, video)
    if not chosen:
        raise Unusable(f"no face under the mask in {len(wanted)} frames")
    rows = []
    crops = []
    masks = []
    for face in chosen:
        left, top, right, _ = face.box
        scale = settings.size / (right - left)
        origin = np.tile([left, top], 5)
        landmarks = (face.place[3:] - origin) * scale
        row = {
            "track": 0,
            "frame": face.frame,
            "scale": scale,
            "crop_box": face.box,
            "landmarks": landmarks.round(3),
        }
        rows.append(row)
        crops.append(face.crop)
        masks.append(face.mask)
    return {
        "rows": rows,
        "crops": np.stack(crops),
        "masks": np.stack(masks) if video.mask_file else None,
        "frames": len(wanted),
        "without_face": len(wanted) - len(chosen),
    }


def wanted_frames(length: int, settings: Settings) -> np.ndarray:
    """The numbers of the frames of a video of this length that are kept where they show a face."""
    kept = np.arange(0, length, settings.stride or 1)
    most = settings.frames_per_video or length
    n = min(most, len(kept))
    middles = (2 * np.arange(n) + 1) * len(kept) // (2 * n)  # of n equal parts
    return kept[middles]


def read_faces(video: Video, people: list[Person], settings: Settings) -> None:
    """Read a video with its mask, and give each face its box, its crop and its mask."""
    faces = defaultdict(list)
    for face in chain(*people):
        faces[face.frame].append(face)
    has_mask = video.mask_file is not None
    masks = decode(video.mask_file) if has_mask else ()
    pairs = zip_longest(decode(video.path), masks)
    for number, (image, beside) in enumerate(pairs):
        if has_mask and (image is None or beside is None):
            raise Unusable("the mask and the video have different numbers of frames")
        for face in faces[number]:
            face.box = square_box(face.place, settings.scale, image.shape)
            face.crop = crop(image, face.box, settings.size)
            if has_mask:
                mask = mask_of(video, image, beside)
                grey = crop(mask, face.box, settings.size)
                face.mask = grey > MASKED
                face.covered = face.mask.mean()


def mask_of(video: Video, image: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """The mask (H, W) uint8 of a frame, from the frame of the mask video or of the original."""
    if image.shape != beside.shape:
        raise Unusable(f"the mask has the shape {beside.shape[:2]}, the video {image.shape[:2]}")
    if video.mask:
        return cv2.cvtColor(beside, cv2.COLOR_RGB2GRAY)
    return difference(image, beside)


def choose(people: list[Person], video: Video) -> list[Face]:
    """Choose one face per frame, in the order of the frames.

    Each frame shows the person in it who is the most important of the video: in a fake with masks
    whom the mask covers most, in another fake the largest, in a real video who is seen longest.
    That holds across cuts, too, so that real and forged videos differ by nothing else. None is
    chosen where no face is under the mask.
    """

    def importance(faces: Person) -> tuple:
        covered = np.mean([face.covered for face in faces])
        side = np.mean([face.box[2] - face.box[0] for face in faces])
        seen = len(faces) if video.label == 0 else 0
        return covered, seen, side

    ranked = sorted(people, key=importance, reverse=True)
    if video.mask_file:
        # Nobody whom the mask only touches while the forged face is not seen.
        most_covered, _, _ = importance(ranked[0])
        least = most_covered / 2
        ranked = [faces for faces in ranked if importance(faces)[0] > least]
    chosen = {}
    for face in chain(*ranked):
        chosen.setdefault(face.frame, face)
    return [chosen[frame] for frame in sorted(chosen)]


def use_crops(video: Video, folder: Path) -> Parts:
    """Use crops where they lie, below the link in a dataset's ``folder``.

    Frames are numbered by the last number in their names. An image that cannot be read counts as a
    frame without a face.
    """
    images = sorted(video.crops)
    numbers = []
    for image, _ in images:
        digits = re.findall(r"\d+", Path(image).stem)
        numbers.append(int(digits[-1]) if digits else 0)
    if len(set(numbers)) < len(numbers):  # the names number nothing
        numbers = range(len(images))
    rows = []
    in_order = sorted(zip(numbers, images))
    for number, (image, mask) in in_order:
        row = {
            "track": 0,
            "frame": number,
            "path": f"{TREE}/{image}",
            "mask": f"{TREE}/{mask}" if mask else "",
            **dict.fromkeys(UNKNOWN),
        }
        with suppress(Unusable):
            read_image(video.path / image)
            rows.append(row)
    if not rows:
        raise Unusable(f"none of {len(images)} images can be read")
    return {
        "rows": rows,
        "crops_hash": images_hash(folder, rows),
        "frames": len(images),
        "without_face": len(images) - len(rows),
    }


def prepare_video(
    video: Video,
    inputs: str,
    folder: Path,
    settings: Settings,
    detector: YuNet,
) -> dict:
    """Prepare one video into ``folder/videos/<name>``.

    Returns its :data:`COUNTS`, or the ``reason`` why it goes to quarantine. A video that is there
    already is kept if it was made of the same ``inputs``, and removed otherwise. A fake that cannot
    be compared with its original, frame by frame, has no mask.
    """
    place = folder / "videos" / video.name
    if (place / "video.json").exists():
        facts = read_json(place / "video.json")
        if facts["inputs"] == inputs:
            return {name: facts[name] for name in COUNTS}
        shutil.rmtree(place)
    try:
        parts = use_crops(video, folder) if video.crops else cut_faces(video, settings, detector)
    except (Unusable, cv2.error) as error:
        if video.mask or not video.original:
            return {"reason": str(error)}
        video = replace(video, original=None)
        return prepare_video(video, inputs, folder, settings, detector)
    for row in parts["rows"]:
        row["dataset"] = folder.name
        for column in SAME:
            row[column] = getattr(video, column)
    write_video(place, inputs=inputs, **parts)
    return {name: parts[name] for name in COUNTS}


# ---------------------------------------------------------------- a dataset


def prepare(
    name: str,
    videos: Sequence[Video],
    settings: Settings | None = None,
    detector: YuNet | None = None,
    workers: int | None = None,
) -> dict:
    """Prepare videos into ``datasets/<name>``.

    The folder of a video appears complete or not at all: a killed run goes on where it was, and the
    result has the same bytes for any number of workers.

    Args:
        name: The name of the dataset.
        videos: The table of videos.
        settings: How to cut; default: ``Settings()``.
        detector: The face detector; default: YuNet.
        workers: Number of processes; default: one per processor.

    Returns:
        The record. Its ``quarantine`` lists the videos that could not be used, as the file
        ``quarantine.csv`` does, and ``faces`` counts these and the frames without a face.

    Raises :class:`DfnbError` for impossible names, when the folder holds other settings or other
    videos, and when no video has a face.
    """
    folder = dataset_folder(check_name(name, "dfnb prepare"))
    settings = settings or Settings()
    detector = detector or YuNet(detector_path())
    clock = Clock()
    videos = sorted(videos, key=lambda video: video.name)
    check_names(videos)
    parameters = settings.model_dump()
    parameters["detector_sha256"] = detector.sha256
    with locked(folder, wait_s=1):  # a process that a killed run started may still be ending
        link_crops(folder, videos)
        record = read_record(folder)
        if record and record["parameters"] != parameters:
            raise DfnbError(
                f"{folder} was made with {record['parameters']}; --set them so, or give the new "
                "dataset another name"
            )
        clean(folder, videos)
        job = joblib.delayed(prepare_video)
        jobs = []
        for video in videos:
            inputs = inputs_digest(video, parameters)
            jobs.append(job(video, inputs, folder, settings, detector))
        results = run_jobs(jobs, name, workers)
        faces, quarantine = count_losses(videos, results)
        text = quarantine.to_csv(index=False)
        write_bytes(folder / "quarantine.csv", text.encode())
        return write_dataset(
            folder,
            parameters,
            faces=faces.T.to_dict(),
            quarantine=quarantine.to_dict("records"),
            **clock.facts(),
        )


def run_jobs(jobs: Sequence, name: str, workers: int | None) -> list[dict]:
    """The results of joblib's ``jobs`` in their order, with a bar of progress."""
    pool = joblib.Parallel(
        workers or -1,
        return_as="generator",
        initializer=start_worker,
    )
    progress = tqdm(pool(jobs), name, len(jobs), unit="video", disable=None)
    return list(progress)


def check_names(videos: Sequence[Video]) -> None:
    """Raise :class:`DfnbError` for names that cannot be in one dataset."""
    taken = Counter()  # each name is a folder, and so are its parents
    for video in videos:
        path = PurePosixPath(video.name)
        taken.update([path, *path.parents])
    for video in videos:
        check_title(video.method, f"{video.path}, its method")
        is_taken = taken[PurePosixPath(video.name)] > 1
        if is_taken or not VIDEO_NAME.fullmatch(video.name):
            raise DfnbError(
                f"{video.name!r} cannot name {video.path}: another video is in its way, or a part "
                "of the name is empty, hidden or too long; rename it"
            )


def inputs_digest(video: Video, parameters: Mapping) -> str:
    """What a prepared video depends on; files count by their names, sizes and times of change."""
    crops = [video.path / name for name in chain(*video.crops) if name]
    files = [video.path, video.mask_file, *crops]
    stamps = []
    for file in files:
        if file and file.is_file():
            stat = file.stat()
            stamps.append([file.name, stat.st_size, stat.st_mtime_ns])
    values = [getattr(video, column) for column in SAME]
    return digest([parameters, video.name, values, stamps])


def link_crops(folder: Path, videos: Sequence[Video]) -> None:
    """Link the folder of the crops that are used where they lie; it may have moved."""
    roots = [video.path for video in videos if video.crops]
    if roots:
        link = folder / TREE
        link.unlink(missing_ok=True)
        link.symlink_to(roots[0].resolve(), target_is_directory=True)


def clean(folder: Path, videos: Sequence[Video]) -> None:
    """Remove the record, and what a killed run has left; refuse a folder with other videos."""
    leftovers = list(folder.rglob(".*"))
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink(missing_ok=True)
    names = {video.name for video in videos}
    root = folder / "videos"
    for file in root.rglob("video.json"):
        stored = file.parent.relative_to(root).as_posix()
        if stored not in names:
            raise DfnbError(
                f"{folder} holds another video, {stored!r}; give the new dataset another name"
            )
    (folder / "record.json").unlink(missing_ok=True)


def start_worker() -> None:
    """Prepare a process for its videos: it uses one thread, and ends with its parent."""
    end_with_parent()
    cv2.setNumThreads(1)


def count_losses(
    videos: Sequence[Video], results: Sequence[Mapping]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts of what was lost, by split and method, and the videos that were not used."""
    rows = []
    for video, result in zip(videos, results):
        row = {
            "kind": f"{video.split}/{video.method}",
            "video": video.name,
            "file": video.path.name,
            "method": video.method,
            "videos": 1,
            "quarantined": "reason" in result,
            **result,
        }
        rows.append(row)
    numbers = ["videos", "quarantined", *COUNTS]
    texts = ["video", "file", "method", "reason"]
    table = pd.DataFrame(rows, columns=["kind", *numbers, *texts])
    counts = table.groupby("kind")[numbers].sum()
    quarantine = table[table["quarantined"]]
    return counts.astype(int), quarantine[texts]


def dropouts(record: Mapping) -> pd.DataFrame:
    """The losses of a dataset by split and method, from its record.

    Columns: videos, quarantined videos, wanted frames of the others, those without a face, and
    their share. A detector that fails on fakes more than on real videos is a bias: what is left
    are the easier fakes.
    """
    table = pd.DataFrame(record["faces"]).T.rename_axis("split/method")
    share = table["without_face"] / table["frames"].clip(lower=1)
    return table.assign(share=share.round(4))


# ---------------------------------------------------------------- a single picture


def prepare_picture(path: str | Path, crop: Mapping, frames: int = 1) -> pd.DataFrame:
    """The face in a reader's own picture or clip, as a frames table.

    It is prepared as ``dfnb prepare`` does. Of several faces the one that is seen longest is taken,
    then the largest. The crops lie in a temporary folder until the process ends.

    Args:
        path: An image or a video.
        crop: The parameters of the training set, whose ``size`` and ``scale`` hold, if it has them.
        frames: How many evenly spaced frames of a video.

    Raises :class:`DfnbError` where there is no file, no picture or no face.
    """
    values = {"frames_per_video": frames}
    for name in ("size", "scale"):
        if name in crop:
            values[name] = crop[name]
    settings = Settings(**values)
    path = Path(path).expanduser()
    folder = Path(tempfile.mkdtemp(prefix="dfnb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    video = Video("picture", path, label=0, method="real")
    facts = prepare_video(video, "", folder, settings, YuNet(detector_path()))
    if "reason" in facts:
        raise DfnbError(
            f"{path}: {facts['reason']}; only faces of {settings.min_face} pixels or more are used"
        )
    write_dataset(folder, settings.model_dump())
    return load_frames(folder.as_posix()).assign(method=path.name)
