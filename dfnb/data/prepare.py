"""From videos to a dataset of crops: find the faces, cut them out alike, list what failed.

A video is read twice: first to count its frames, then to find the faces in evenly spaced ones and
to cut them out, real and fake through the same geometry. A video without a usable face ends in a
quarantine list with its reason. Crops that others have made are used where they lie.
"""

import atexit
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath

import cv2
import joblib
import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou
from tqdm import tqdm

from dfnb.data.faces import Unusable, YuNet, decode, detect, read_image
from dfnb.data.frames import UNKNOWN, images_hash, load_frames, write_dataset, write_video
from dfnb.data.videos import Video
from dfnb.files import dataset_folder, digest, end_with_parent, locked, read_json, write_bytes
from dfnb.records import read_record
from dfnb.settings import Closed, DfnbError, check_name, check_title

TREE = "tree"  # in a dataset's folder: a link to the folder of the crops that are used in place
DIFFERENT = 25  # grey levels between a fake and its original from which a pixel is forged
MASKED = 127  # grey level of a mask above which a pixel is forged
OVERLAP = 0.2  # intersection over union from which the boxes of two frames may be of one person
SAME = ("split", "cluster", "identity", "source", "method", "label")  # in all rows of a video
VIDEO_NAME = re.compile(r"[^/.][^/]{0,200}(/[^/.][^/]{0,200})*")


class Settings(Closed):
    """What the crops of a dataset depend on, beside the videos and the detector."""

    size: int = Field(256, ge=32, le=1024)  # side of a crop in pixels
    scale: float = Field(1.3, ge=1, le=4)  # side of a crop / longer side of the face
    stride: int = Field(1, ge=1)  # every k-th frame
    frames_per_video: int | None = Field(None, ge=1)  # at most, evenly spaced; None: all
    min_face: int = Field(32, ge=8)  # longer side of a face in source pixels at least


# ---------------------------------------------------------------- geometry


def crop(image: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """Cut a box (left, top, right, bottom) out of an image (H, W[, 3]) uint8: (size, size[, 3]).

    Beyond the image its edges are repeated.
    """
    left, top, right, bottom = box
    rows = image.take(range(top, bottom), 0, mode="clip")
    patch = rows.take(range(left, right), 1, mode="clip")
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


def cut_faces(video: Video, settings: Settings, detector: YuNet) -> dict:
    """Cut one face out of each wanted frame of a video, where the detector finds any.

    Returns what :func:`dfnb.data.frames.write_video` takes, and the number of wanted ``frames``.
    """
    length = sum(1 for _ in decode(video.path))
    wanted = wanted_frames(length, settings)
    faces = find_faces(video, wanted, settings, detector)
    if not faces:
        raise Unusable(f"no face in {len(wanted)} frames")
    chosen = choose(pd.DataFrame(faces), video)
    if chosen.empty:
        raise Unusable(f"no face under the mask in {len(wanted)} frames")
    rows = chosen[["frame", "scale", "crop_box", "landmarks"]]
    return {
        "rows": rows.to_dict("records"),
        "crops": np.stack(chosen["crop"]),
        "masks": np.stack(chosen["mask"]) if video.mask_file else None,
        "frames": len(wanted),
    }


def wanted_frames(length: int, settings: Settings) -> list[int]:
    """The numbers of the frames of a video of this length that are kept where they show a face."""
    kept = np.arange(0, length, settings.stride)
    n = min(settings.frames_per_video or length, len(kept))
    middles = (2 * np.arange(n) + 1) * len(kept) // (2 * n)  # of n equal parts
    return kept[middles].tolist()


def find_faces(
    video: Video,
    wanted: Sequence[int],
    settings: Settings,
    detector: YuNet,
) -> list[dict]:
    """Read a video with its mask, and cut all faces out of the ``wanted`` frames.

    All lie in memory at once: 0.3 MB per face at 256 pixels. Returns the faces as
    :func:`cut_face` does, each with the number of its ``person``.
    """
    masks = decode(video.mask_file) if video.mask_file else ()
    pairs = zip_longest(decode(video.path), masks)
    found = []
    last = []  # the faces in the last wanted frame
    for number, (image, beside) in enumerate(pairs):
        # Where one of them has ended there is None, of shape ().
        if video.mask_file and np.shape(image) != np.shape(beside):
            raise Unusable("the mask and the video differ in their size or number of frames")
        if number in wanted:
            mask = np.zeros(image.shape[:2], np.uint8)
            if video.mask:
                mask = cv2.cvtColor(beside, cv2.COLOR_RGB2GRAY)
            elif video.original:
                mask = difference(image, beside)
            faces = []
            for detection in detect(image, settings.min_face, detector):
                face = cut_face(image, mask, detection, settings)
                new_person = len(found) + len(faces)
                face.update(frame=number, person=new_person)
                faces.append(face)
            if last and faces:
                link(last, faces)
            found += faces
            last = faces
    return found


def cut_face(
    image: np.ndarray,
    mask: np.ndarray,
    detection: np.ndarray,
    settings: Settings,
) -> dict:
    """Cut a ``detection`` (15,) out of an image (H, W, 3) and its mask (H, W), both uint8.

    Returns ``scale``, ``crop_box`` and ``landmarks`` as in the frames table, ``crop``
    (size, size, 3) uint8, ``mask`` (size, size) bool, the share of it that is ``covered``, and
    ``side``, that of the square in pixels of the image.
    """
    x, y, width, height = detection[:4]
    side = round(max(width, height) * settings.scale)
    left = round(x + width / 2 - side / 2)
    top = round(y + height / 2 - side / 2)
    box = [left, top, left + side, top + side]
    scale = settings.size / side
    landmarks = (detection[4:14].reshape(5, 2) - [left, top]) * scale
    forged = crop(mask, box, settings.size) > MASKED
    return {
        "scale": scale,
        "crop_box": box,
        "landmarks": landmarks.ravel().round(3),
        "crop": crop(image, box, settings.size),
        "mask": forged,
        "covered": forged.mean(),
        "side": side,
    }


def link(last: Sequence[Mapping], faces: Sequence[dict]) -> None:
    """Find the persons of ``last``, the faces in a frame, again among the ``faces`` in the next.

    The pairs are those whose boxes overlap most in total; a face in no pair stays a new person.
    """
    last_boxes = torch.tensor([face["crop_box"] for face in last])
    boxes = torch.tensor([face["crop_box"] for face in faces])
    overlap = box_iou(last_boxes, boxes)
    for i, j in zip(*linear_sum_assignment(overlap, maximize=True)):
        if overlap[i, j] >= OVERLAP:
            faces[j]["person"] = last[i]["person"]


def choose(faces: pd.DataFrame, video: Video) -> pd.DataFrame:
    """Choose one of the ``faces`` per frame, in the order of the frames.

    Each frame shows the person in it who is the most important of the video: in a fake with masks
    whom the mask covers most, in another fake the largest, in a real video who is seen longest.
    None is chosen where no face is under the mask.
    """
    people = faces.groupby("person")
    ranked = faces.assign(
        covered=people["covered"].transform("mean"),
        seen=people["frame"].transform("size") if video.label == 0 else 0,
        side=people["side"].transform("mean"),
    )
    ranked = ranked.sort_values(["covered", "seen", "side"], ascending=False)
    if video.mask_file:
        # Nobody whom the mask only touches while the forged face is not seen.
        least = ranked["covered"].max() / 2
        ranked = ranked[ranked["covered"] > least]
    return ranked.drop_duplicates("frame").sort_values("frame")


def use_crops(video: Video, folder: Path) -> dict:
    """Use crops where they lie, below the link in a dataset's ``folder``.

    Frames are numbered by the last number in their names. An image that cannot be read counts as a
    frame without a face. Returns the same as :func:`cut_faces`.
    """
    images = sorted(video.crops)
    numbers = []
    for image, _ in images:
        digits = re.findall(r"\d+", f"0{Path(image).stem}")  # 0 where the name has no number
        numbers.append(int(digits[-1]))
    if len(set(numbers)) < len(numbers):  # the names number nothing
        numbers = range(len(images))
    rows = []
    for number, (image, mask) in sorted(zip(numbers, images)):
        row = {
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
    }


def prepare_video(
    video: Video,
    inputs: str,
    folder: Path,
    settings: Settings,
    detector: YuNet,
) -> dict:
    """Prepare one video into ``folder/videos/<name>``.

    Returns the number of wanted ``frames`` and of those ``without_face``, or the ``reason`` why
    the video goes to quarantine. A video that is there already is kept if it was made of the same
    ``inputs``, and removed otherwise. A fake that cannot be compared with its original, frame by
    frame, has no mask.
    """
    place = folder / "videos" / video.name
    file = place / "video.json"
    parts = read_json(file) if file.exists() else {}
    if parts.get("inputs") != inputs:
        shutil.rmtree(place, ignore_errors=True)
        try:
            if video.crops:
                parts = use_crops(video, folder)
            else:
                parts = cut_faces(video, settings, detector)
        except (Unusable, cv2.error) as error:
            if video.mask or not video.original:
                return {"reason": str(error)}
            video = replace(video, original=None)
            return prepare_video(video, inputs, folder, settings, detector)
        for row in parts["rows"]:
            row.update(dataset=folder.name, track=0)
            for column in SAME:
                row[column] = getattr(video, column)
        write_video(place, inputs=inputs, **parts)
    wanted = parts["frames"]
    return {"frames": wanted, "without_face": wanted - len(parts["rows"])}


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
    detector = detector or YuNet()
    check_names(videos)
    parameters = {**settings.model_dump(), "detector_sha256": detector.sha256}
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
        pool = joblib.Parallel(workers or -1, return_as="generator", initializer=start_worker)
        results = tqdm(pool(jobs), name, len(jobs), unit="video", disable=None)
        faces, quarantine = count_losses(videos, list(results))
        text = quarantine.to_csv(index=False)
        write_bytes(folder / "quarantine.csv", text.encode())
        return write_dataset(
            folder,
            parameters,
            faces=faces.to_dict("index"),
            quarantine=quarantine.to_dict("records"),
        )


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
    crops = [video.path / name for name in chain(*video.crops)]
    files = [video.path, video.mask_file, *crops]
    stamps = []
    for file in files:
        if file and file.is_file():
            stat = file.stat()
            stamps.append([file.name, stat.st_size, stat.st_mtime_ns])
    values = [getattr(video, column) for column in SAME]
    return digest([parameters, values, stamps])


def link_crops(folder: Path, videos: Sequence[Video]) -> None:
    """Link the folder of the crops that are used where they lie; it may have moved."""
    roots = [video.path for video in videos if video.crops]
    if roots:
        link = folder / TREE
        link.unlink(missing_ok=True)
        link.symlink_to(roots[0].resolve(), target_is_directory=True)


def clean(folder: Path, videos: Sequence[Video]) -> None:
    """Remove the record, and what a killed run has left; refuse a folder with other videos."""
    temporary = list(folder.rglob(".*.*"))  # of dfnb.files.atomic
    for path in temporary:
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
    root = folder / "videos"
    places = {root / video.name for video in videos}
    for file in root.rglob("video.json"):
        if file.parent not in places:
            raise DfnbError(
                f"{folder} holds another video, {file.parent.name!r}; give the new dataset "
                "another name"
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
    table = pd.DataFrame(results, columns=["frames", "without_face", "reason"])
    table["video"] = [video.name for video in videos]
    table["kind"] = [f"{video.split}/{video.method}" for video in videos]
    counts = table.groupby("kind").agg(
        videos=("video", "size"),
        quarantined=("reason", "count"),
        frames=("frames", "sum"),
        without_face=("without_face", "sum"),
    )
    quarantine = table.dropna(subset="reason")
    return counts.astype(int), quarantine[["video", "reason"]]


def dropouts(record: Mapping) -> pd.DataFrame:
    """The losses of a dataset by split and method, from its record.

    Columns: videos, quarantined videos, wanted frames of the others, those without a face, and
    their share. A detector that fails on fakes more than on real videos is a bias: what is left
    are the easier fakes.
    """
    table = pd.DataFrame(record["faces"]).T
    return table.assign(share=table["without_face"] / table["frames"])


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
    geometry = {name: crop[name] for name in ("size", "scale") if name in crop}
    settings = Settings(frames_per_video=frames, **geometry)
    path = Path(path).expanduser()
    folder = Path(tempfile.mkdtemp(prefix="dfnb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    video = Video("picture", path, label=0, method="real")
    facts = prepare_video(video, "", folder, settings, YuNet())
    if "reason" in facts:
        raise DfnbError(
            f"{path}: {facts['reason']}; only faces of {settings.min_face} pixels or more are used"
        )
    write_dataset(folder, settings.model_dump())
    return load_frames(folder.as_posix()).assign(method=path.name)
