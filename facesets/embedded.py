"""Datasets of the embedded benchmark: how what a *maker* films becomes ``datasets/<name>``.

A maker is a package that knows nothing of dfnb. It offers:

- ``Settings``: a strict pydantic model of what a dataset is made from. Its ``portraits`` names the
  photographs that are used (None: none), ``along_mesh`` is true if these also need a mesh of the
  face, ``people_of`` names the dataset that it shares people with (None: none), ``compression`` is
  the compression in words.
- ``GENERATOR``: the version of its pixels, part of every dataset's identity.
- ``SettingsError``: the class of what ``cast`` raises; its text is one sentence.
- ``cast(name, settings, photographs)``: the people of a dataset, each with its ``number`` and
  ``split``, and a dict of what the record keeps about photographs. Where settings have
  ``portraits``, its entry ``quarantine`` lists the files that are not used, each with ``file``,
  ``reason`` and ``usable``; ``portraits`` has the files of each person, by number as in the rows;
  ``repeated`` has pairs of files of two splits that show nearly the same picture.
- ``takes(name, people, settings)``: films that can be pickled, because workers make them. Each has
  its ``target``, one of the people, the ``names`` of its videos by method, "real" first, and
  ``videos()``, which makes them: ``name``, ``rows`` of the frames table, ``frames`` and ``masks``,
  which are None if the video is real.
- ``drawnfaces.Photographs``: what ``cast`` is passed where settings have ``portraits``.

:mod:`drawnfaces` is one. Another is a package and a line in :data:`MAKERS`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import joblib
from pydantic import BaseModel
from tqdm import tqdm

import drawnfaces
from facesets import faces, generated, photographs
from facesets.checks import DfnbError, check_name
from facesets.files import dataset_folder, digest, home, locked, read_json, sha256, write_json
from facesets.frames import (
    OWN_MARK,
    refuse_foreign_dataset,
    refuse_overlap,
    write_dataset,
    write_video,
)
from facesets.records import Clock, read_record
from facesets.workers import in_parallel

MAKERS: dict[str, ModuleType] = {"drawnfaces": drawnfaces}
EXCERPT = 10  # people, so that each column of a picture shows another one


def _maker(settings: BaseModel) -> ModuleType:
    """The maker whose settings these are."""
    return next(maker for maker in MAKERS.values() if isinstance(settings, maker.Settings))


def preset_identity(name: str, settings: BaseModel) -> str:
    """The identifier of a dataset's data; the dataset need not be built.

    It is the digest, 16 hexadecimal digits, of the generator's version and the parameters. Pixels
    are not hashed, because they differ between machines by rounding.
    ``frames.data_identity`` gives the same for the record of the built dataset.
    """
    return digest(_parameters(name, settings), digits=16)


def _parameters(name: str, settings: BaseModel) -> dict[str, Any]:
    """All that a dataset's pixels depend on.

    ``dataset.json`` has these values, and :func:`preset_identity` is their hash.
    """
    generator = _maker(settings).GENERATOR
    parameters = {"name": name, "generator": generator, **settings.model_dump(mode="json")}
    if settings.portraits:
        # In place of the folder's path: the same photographs elsewhere give the same pixels.
        hashes = photographs.hashes(settings.portraits)
        # A list, because digest ignores the order of keys: people are numbered in this order.
        parameters["portraits"] = digest(list(hashes.items()))
    return parameters


def cast(name: str, settings: BaseModel) -> tuple[list, dict[str, Any]]:
    """The people of a dataset, and what its record keeps about photographs.

    Raises :class:`DfnbError` where the maker cannot use the settings, and where photographs are
    missing, or the networks that find their faces and place a mesh on them.
    """
    passed = _photographs(settings.portraits) if settings.portraits else None
    try:
        people, kept = _maker(settings).cast(name, settings, passed)
    except _maker(settings).SettingsError as error:
        raise DfnbError(str(error)) from None
    if settings.portraits:
        are_named = photographs.are_named(settings.portraits)
        kept["shown"] = _shown(kept["portraits"], kept["repeated"], are_named)
    return people, kept


def _photographs(source: str) -> drawnfaces.Photographs:
    """The photographs of a ``source``, with what finds the faces in them.

    In the portraits that ship, the points of the faces are stored: no network looks for them.
    """
    folder, files = photographs.photograph_folder(source), photographs.names(source)
    if source == photographs.GENERATED:
        people = generated.people().itertuples()
        return drawnfaces.Photographs(
            folder,
            files,
            landmarks=lambda file, _: generated.landmarks(Path(file).stem),
            mesh=lambda file, *_: generated.mesh(Path(file).stem),
            listed={f"{person.Index}.webp": (person.split, person.stratum) for person in people},
        )
    detect = faces.YuNet() if files else None  # it may have to be downloaded
    return drawnfaces.Photographs(
        folder,
        files,
        landmarks=lambda _, image: drawnfaces.landmarks_of_one_face(image, detect),
        mesh=lambda _, image, landmarks: faces.face_mesh(image, landmarks),
        # Committed results rest on datasets of lists, in which a forgery of a grey one has colours.
        keep_grey=not photographs.is_list(source),
    )


def _shown(
    portraits: Mapping[str, list[str]], repeated: Iterable[list[str]], are_named: bool
) -> dict[str, str]:
    """Whom the photographs of each number show, as far as it is known; "": it is not.

    If people ``are_named``, a number is a person. Otherwise each file has a number, and two may
    show one person. Files that show nearly the same picture show the same person in any case.
    """
    numbers = {file: number for number, files in portraits.items() for file in files}
    people = {number: number for number in portraits}
    for one, other in repeated:  # the people of both are one from now on
        kept, joined = people[numbers[one]], people[numbers[other]]
        people = {number: kept if who == joined else who for number, who in people.items()}
    known = {*portraits} if are_named else {numbers[file] for pair in repeated for file in pair}
    return {number: who if number in known else "" for number, who in people.items()}


def build(name: str, settings: BaseModel, workers: int | None = None) -> dict[str, Any]:
    """Make ``datasets/<name>`` and return its record; what is there already is not made again.

    Args:
        name: The dataset's name.
        settings: Of a maker.
        workers: Number of processes, by default one per core; any number gives the same bytes.

    Raises:
        DfnbError: :func:`check_name` refuses the name, the folder has a dataset made from other
            settings or files of others, the folder of the photographs and that of the dataset
            contain one another, or :func:`cast` raises it.
    """
    folder = dataset_folder(check_name(name, source="dfnb synth"))  # source begins an error message
    clock = Clock()
    if settings.portraits and photographs.is_folder(settings.portraits):
        refuse_overlap(folder, [Path(settings.portraits)])
    parameters = _parameters(name, settings)
    # Jobs that run side by side need the same dataset: one builds it, the others wait for it.
    with locked(folder, wait_s=-1):
        _refuse_other_settings(folder, parameters)
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
        write_json(folder / "dataset.json", parameters)
        takes = [*_maker(settings).takes(name, people, settings)]
        missing = [take for take in takes if not _is_written(folder, take)]
        for video in _filmed(missing, name, workers):
            _write(folder, video)
        record_entries["compression"] = settings.compression
        originals = _originals(takes)
        return write_dataset(folder, parameters, originals, **record_entries, **clock.usage())


def fetch_pictures(name: str, settings: BaseModel) -> None:
    """Download what :func:`build` needs for a dataset of photographs.

    These are the photographs, and the networks that find their faces and place a mesh on them. For
    portraits that ship, and for a dataset that is built already, nothing is downloaded. Raises
    :class:`DfnbError` where something cannot be had.
    """
    ships = settings.portraits in (None, photographs.GENERATED)
    if not ships and read_record(dataset_folder(name)) is None:
        photographs.photograph_folder(settings.portraits)
        faces.detector_path()
        if settings.along_mesh:
            faces.mesh_path()


def excerpt(name: str, settings: BaseModel, split: str) -> Path:
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
            takes = _maker(settings).takes(name, people, settings)
            shown = [take for take in takes if take.target.number in first]
            for take in shown:
                for video in take.videos():
                    _write(folder, video)
            write_dataset(folder, _parameters(name, settings), _originals(shown))
    return folder


def _has_its_outputs(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files of a dataset have the bytes that its record describes."""
    return all(sha256(folder / name) == expected for name, expected in record["outputs"].items())


def _originals(takes: Iterable[Any]) -> dict[str, str]:
    """By forged video, the real one of the same film: ``{"swap/003a_007": "real/003a"}``."""
    originals = {}
    for take in takes:
        for method, name in take.names.items():
            if method != "real":
                originals[name] = take.names["real"]
    return originals


def move_outdated(name: str, settings: BaseModel) -> None:
    """Move ``datasets/<name>`` aside if it was made from other settings; a printed line says so.

    Nothing is deleted: the folder may have files of others, too.
    """
    folder = dataset_folder(name)
    stored = folder / "dataset.json"
    if not stored.exists():
        return
    with locked(folder, wait_s=-1):
        changed = _changed(folder, _parameters(name, settings))
        if changed:
            aside = folder.with_name(f"{name}-{sha256(stored)[:8]}")
            folder.rename(aside)
            print(
                f"{name} was made from other settings ({', '.join(changed)}) and is made again; "
                f"the old one is now {aside.name}."
            )


def _refuse_other_settings(folder: Path, parameters: dict[str, Any]) -> None:
    """Raise :class:`DfnbError` if the folder has a dataset with other parameters than these."""
    if changed := _changed(folder, parameters):
        problem = f"contains a dataset made from other settings ({', '.join(changed)})"
        raise DfnbError(f"{folder} {problem}; move the folder away, or choose another name")


def _changed(folder: Path, parameters: dict[str, Any]) -> list[str]:
    """The parameters in which a dataset in the folder differs; none where there is no dataset."""
    description = folder / "dataset.json"
    if not description.exists() and not (folder / "videos").exists():
        return []  # nothing was built here
    # Videos without a description may be of any dataset: then all settings count as other.
    stored = read_json(description) if description.exists() else {}
    either = sorted({*parameters, *stored})  # also those that only one of the two has
    return [key for key in either if stored.get(key) != parameters.get(key)]


def _is_written(folder: Path, take: Any) -> bool:
    """Whether a dataset has all videos of a film; if one is missing, all are made again."""
    # A video's folder appears complete or not at all; video.json is always in it.
    return all((folder / "videos" / name / "video.json").exists() for name in take.names.values())


def _write(folder: Path, video: Any) -> None:
    """Write a maker's video into a dataset's folder, over one that exists."""
    write_video(folder / "videos" / video.name, video.rows, video.frames, video.masks)


def _filmed(takes: list, dataset: str, workers: int | None) -> Iterator[Any]:
    """The videos of films, in the order in which the workers finish these."""
    jobs = (joblib.delayed(_drawn_videos)(take) for take in takes)
    films = in_parallel(jobs, workers, in_order=False)
    pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds; a log keeps each form of the bar
    looks = {"desc": dataset, "total": len(takes), "unit": " films", "ncols": 80}
    # Its first form comes at once: by it a reader knows what the next minutes are for.
    for videos in tqdm(films, mininterval=pause, **looks):
        yield from videos


def _drawn_videos(take: Any) -> list:
    """The videos of a film; it runs in a worker process."""
    cv2.setNumThreads(1)  # one process per core: more threads would only wait for each other
    return [*take.videos()]
