"""Datasets of the embedded benchmark: how forged films become ``datasets/<name>``.

:mod:`facesets.settings` says what a dataset is made from, :mod:`facesets.casts` who is in it, and
:mod:`facesets.films` makes its videos.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import joblib
from tqdm import tqdm

from facesets import faces, photographs
from facesets.casts import cast
from facesets.checks import DfnbError, check_name
from facesets.files import dataset_folder, home, locked, read_json, sha256, write_json
from facesets.films import Take, Video, takes
from facesets.frames import (
    OWN_MARK,
    refuse_foreign_dataset,
    refuse_overlap,
    write_dataset,
    write_video,
)
from facesets.records import Clock, read_record
from facesets.settings import Settings, parameters, preset_identity
from facesets.workers import in_parallel

EXCERPT = 10  # people, so that each column of a picture shows another one


def build(name: str, settings: Settings, workers: int | None = None) -> dict[str, Any]:
    """Make ``datasets/<name>`` and return its record; what is there already is not made again.

    Args:
        name: The dataset's name.
        settings: What it is made from.
        workers: Number of processes, by default one per core; any number gives the same bytes.

    Raises:
        DfnbError: :func:`check_name` refuses the name, the folder has a dataset made from other
            settings or files of others, the folder of the photographs and that of the dataset
            contain one another, or :func:`~facesets.casts.cast` raises it.
    """
    folder = dataset_folder(check_name(name, source="dfnb synth"))  # source begins an error message
    clock = Clock()
    if photographs.is_folder(settings.portraits):
        refuse_overlap(folder, [Path(settings.portraits)])
    values = parameters(name, settings)
    # Jobs that run side by side need the same dataset: one builds it, the others wait for it.
    with locked(folder, wait_s=-1):
        _refuse_other_settings(folder, values)
        record = read_record(folder)  # None: the dataset is not complete
        # If the table is damaged, all videos are there: the steps below then only write table and
        # record anew.
        if record and _has_its_outputs(folder, record):
            return record
        if not (folder / "dataset.json").exists():  # it has our settings, so it is ours
            refuse_foreign_dataset(folder)
        people, record_entries = cast(name, settings)
        (folder / OWN_MARK).touch()
        # Written first, so that a build that was stopped is not resumed with other settings.
        write_json(folder / "dataset.json", values)
        films = [*takes(name, people, settings)]
        missing = [take for take in films if not _is_written(folder, take)]
        for video in _filmed(missing, name, workers):
            _write(folder, video)
        record_entries["compression"] = settings.compression
        originals = _originals(films)
        return write_dataset(folder, values, originals, **record_entries, **clock.usage())


def fetch_pictures(name: str, settings: Settings) -> None:
    """Download what :func:`build` needs for a dataset of photographs.

    These are the photographs, and the networks that find their faces and place a mesh on them. For
    portraits that ship, and for a dataset that is built already, nothing is downloaded. Raises
    :class:`DfnbError` where something cannot be had.
    """
    ships = settings.portraits == photographs.GENERATED
    if not ships and read_record(dataset_folder(name)) is None:
        photographs.photograph_folder(settings.portraits)
        faces.detector_path()
        faces.mesh_path()


def excerpt(name: str, settings: Settings, split: str) -> Path:
    """The folder of a small dataset: the first EXCERPT people of a split of ``name`` alone.

    It is complete, with a table and a record. Its videos are those of the whole dataset, which need
    not be built: to show a few frames takes a second. They are kept in ``cache/``, by the identity
    of the whole dataset.
    """
    folder = home() / "cache" / f"{name}-{split}-{EXCERPT}-{preset_identity(name, settings)}"
    with locked(folder, wait_s=-1):
        if read_record(folder) is None:
            people, _ = cast(name, settings)
            first = [person.number for person in people if person.split == split][:EXCERPT]
            shown = [take for take in takes(name, people, settings) if take.target.number in first]
            for take in shown:
                for video in take.videos():
                    _write(folder, video)
            write_dataset(folder, parameters(name, settings), _originals(shown))
    return folder


def _has_its_outputs(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files of a dataset have the bytes that its record describes."""
    return all(sha256(folder / name) == expected for name, expected in record["outputs"].items())


def _originals(films: Iterable[Take]) -> dict[str, str]:
    """By forged video, the real one of the same film: ``{"aged/003a_007": "real/003a"}``."""
    originals = {}
    for take in films:
        for method, name in take.names.items():
            if method != "real":
                originals[name] = take.names["real"]
    return originals


def move_outdated(name: str, settings: Settings) -> None:
    """Move ``datasets/<name>`` aside if it was made from other settings; a printed line says so.

    Nothing is deleted: the folder may have files of others, too.
    """
    folder = dataset_folder(name)
    stored = folder / "dataset.json"
    if not stored.exists():
        return
    with locked(folder, wait_s=-1):
        changed = _changed(folder, parameters(name, settings))
        if changed:
            aside = folder.with_name(f"{name}-{sha256(stored)[:8]}")
            folder.rename(aside)
            print(
                f"{name} was made from other settings ({', '.join(changed)}) and is made again; "
                f"the old one is now {aside.name}."
            )


def _refuse_other_settings(folder: Path, values: dict[str, Any]) -> None:
    """Raise :class:`DfnbError` if the folder has a dataset with other parameters than these."""
    if changed := _changed(folder, values):
        problem = f"contains a dataset made from other settings ({', '.join(changed)})"
        raise DfnbError(f"{folder} {problem}; move the folder away, or choose another name")


def _changed(folder: Path, values: dict[str, Any]) -> list[str]:
    """The parameters in which a dataset in the folder differs; none where there is no dataset."""
    description = folder / "dataset.json"
    if not description.exists() and not (folder / "videos").exists():
        return []  # nothing was built here
    # Videos without a description may be of any dataset: then all settings count as other.
    stored = read_json(description) if description.exists() else {}
    either = sorted({*values, *stored})  # also those that only one of the two has
    return [key for key in either if stored.get(key) != values.get(key)]


def _is_written(folder: Path, take: Take) -> bool:
    """Whether a dataset has all videos of a film; if one is missing, all are made again."""
    # A video's folder appears complete or not at all; video.json is always in it.
    return all((folder / "videos" / name / "video.json").exists() for name in take.names.values())


def _write(folder: Path, video: Video) -> None:
    """Write a video into a dataset's folder, over one that exists."""
    write_video(folder / "videos" / video.name, video.rows, video.frames, video.masks)


def _filmed(films: list[Take], dataset: str, workers: int | None) -> Iterator[Video]:
    """The videos of films, in the order in which the workers finish these."""
    jobs = (joblib.delayed(_videos)(take) for take in films)
    results = in_parallel(jobs, workers, in_order=False)
    pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds; a log keeps each form of the bar
    looks = {"desc": dataset, "total": len(films), "unit": " films", "ncols": 80}
    # Its first form comes at once: by it a reader knows what the next minutes are for.
    for videos in tqdm(results, mininterval=pause, **looks):
        yield from videos


def _videos(take: Take) -> list[Video]:
    """The videos of a film; it runs in a worker process."""
    cv2.setNumThreads(1)  # one process per core: more threads would only wait for each other
    return take.videos()
