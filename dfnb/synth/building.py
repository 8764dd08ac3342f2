"""Datasets of the embedded benchmark: their people, their films, and how they are written.

A *film* is the frames of one person in one scene, as the camera records them. Delivered as it is,
it makes a real video; forged, by many methods with the face of the person's *donor*, a forged one.
The methods of :mod:`~dfnb.synth.mesh_forgeries` forge the photograph, which is filmed once more.
Two people who are each other's donors are a *pair*; with an odd number of people, the last pair has
three.

Each random stream is seeded by the dataset, the person, the video and its purpose. So any number of
workers gives the same bytes, a stopped build can be resumed, and two datasets share a drawn person
only by ``people_of``.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import joblib
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from dfnb.checks import DfnbError, check_name
from dfnb.data.frames import (
    OWN_MARK,
    SPLITS,
    refuse_foreign_dataset,
    refuse_overlap,
    write_dataset,
    write_video,
)
from dfnb.data.workers import start_worker
from dfnb.files import dataset_folder, digest, home, locked, read_json, sha256, write_json
from dfnb.records import Clock, read_record
from dfnb.seeds import rng
from dfnb.synth import mesh_forgeries, people, photographs, portraits
from dfnb.synth.forgeries import VISIBLE, Crop, Delivery, capture, deliver, forge, mark
from dfnb.synth.painting import render
from dfnb.synth.presets import Settings, parameters_of, preset, preset_identity
from dfnb.synth.regions import drawn_place

EXCERPT = 6  # people; each method forges some of their films
# The last parts of the keys of random streams. Most keys are (seed, dataset, person, video,
# purpose), with one of the purposes below. The key of a person's looks is (seed, dataset, person,
# LOOKS). In the place of LOOKS the other keys have the number of a video, which is at most 25, so
# none of them begins like a key of looks.
LOOKS = 29
# The purposes:
SCENE = 0  # head motion and backdrop
EXPRESSION = 1  # with the light
CAMERA = 2
FORGERY = 4  # the same for all methods; so those that forge films can be compared
DELIVERY = (3, 5)  # of the real video, and of the forged ones
MARK = (6, 7)  # likewise
CROP = 8
PLACE = 9  # of the forged region, the same for all methods


# ---------------------------------------------------------------- people


class Person(NamedTuple):
    """A person of a dataset."""

    number: int
    split: str
    tone: float  # of the skin, 0 light to 4 dark; in a photograph -255 light to 0 dark
    donor: int = -1  # number of the person whose face its forgeries show; -1: not yet paired
    pair: str = ""  # the numbers of its people, such as 003_007: the name of their cluster
    portrait: portraits.Portrait | None = None  # None: drawn


def stream_key(name: str, settings: Settings) -> tuple[int, int]:
    """How the stream keys of a dataset's people and films begin: its seed, a hash of its name."""
    dataset = settings.people_of or name  # the same key draws the same people and scenes
    # Eight hexadecimal digits are 32 bits: numpy's seeds consist of such words.
    return settings.seed, int(hashlib.sha256(dataset.encode()).hexdigest()[:8], 16)


def cast(name: str, settings: Settings) -> tuple[list[Person], dict[str, Any]]:
    """The people of a dataset with their donors, in the order of their numbers.

    People of a split who are next to each other in tone, or look alike (see :func:`_paired`), are
    paired, so that a skin of another tone does not give a swap away. Each is the other's donor for
    every method; an odd number ends in a ring of three. So no face is in two pairs: the pair is the
    ``cluster``, and resampling pairs resamples independent things.

    Each portrait belongs to one split, which gets all of its usable ones, train the ``train_share``
    of its own; ``identities`` only says whether the dataset has the split. The portraits of the
    split test have the first numbers, so that they are the same people, in the same pairs, in a
    dataset of this split alone.

    Returns:
        The people, and entries for the dataset's record. With portraits, these are ``portraits``,
        the file of each person by number, and ``quarantine``, the files that are not used, with the
        reason. With drawn people there are none.

    Raises:
        DfnbError: A split of the dataset has fewer than two people, or photographs are missing, or
            the networks that find their faces and place a mesh on them.
    """
    record_entries = {}
    if settings.portraits is None:
        persons = _drawn_people(name, settings)
    else:
        persons, record_entries = _portraits(name, settings.portraits, settings)
    paired = []
    for split in SPLITS:
        members = [person for person in persons if person.split == split]
        if settings.identities.get(split) and len(members) < 2:
            source = settings.portraits or f"identities.{split}"
            people_there = f"{source} gives {len(members)} people for the split {split}"
            raise DfnbError(f"{people_there}, and forgeries need two; add some")
        paired += _paired(members)
    # Sorted by number, the first field: person n of the list has the number n.
    return sorted(paired), record_entries


def _drawn_people(name: str, settings: Settings) -> list[Person]:
    """The people of a dataset, not yet paired, numbered from 0 through all splits."""
    persons = []
    for split in SPLITS:
        for _ in range(settings.identities.get(split, 0)):
            number = len(persons)
            # The looks are drawn later, in another process, from (..., number, LOOKS). Pairing
            # needs the tone before that, so the tone has a stream of its own, with a 0 at the end
            # of the key. It is from 0, the lightest of people.SKIN_TONES, to 4, the darkest.
            draw = rng(*stream_key(name, settings), number, LOOKS, 0)
            persons.append(Person(number, split, tone=draw.uniform(0, 4)))
    return persons


def _portraits(
    dataset: str,
    source: str,
    settings: Settings,
) -> tuple[list[Person], dict[str, Any]]:
    """The people in the portraits of a source, not yet paired, and the entries for the record.

    ``dataset`` is the dataset's name. ``source`` is a folder or a list, see ``photographs.hashes``.

    An entry of ``quarantine`` has the ``file``, the ``reason`` why it is not used, and ``usable``:
    True if nothing is wrong with the file itself.
    """
    from dfnb.data import faces  # its detector is loaded only where there are photographs

    folder = photographs.folder_of(source)
    quarantine = []
    for path in sorted(folder.glob("[!.]*/")):  # all folders but hidden ones
        reason = "is a folder; put its photographs into the folder above"
        quarantine.append({"file": path.name, "reason": reason, "usable": False})
    persons: list[Person] = []
    files = {}
    names = list(photographs.hashes(source))
    detect = faces.YuNet() if names else None  # it may have to be downloaded
    for name in _test_first(names):
        path = folder / name
        split = _split_of(name)
        if not settings.identities.get(split):
            reason = f"belongs to the split {split}, which this dataset does not have"
            quarantine.append({"file": path.name, "reason": reason, "usable": True})
            continue
        if split == "train" and not _is_in_share(name, dataset, settings):
            reason = "is not among the share of the training people that this dataset has"
            quarantine.append({"file": path.name, "reason": reason, "usable": True})
            continue
        portrait = portraits.inspect(path, detect, settings.size)
        if isinstance(portrait, str):  # the reason why it cannot be used
            quarantine.append({"file": path.name, "reason": portrait, "usable": False})
            continue
        if any(method in mesh_forgeries.METHODS for method in settings.methods):
            image = np.uint8(255 * portraits.pixels(portrait) + 0.5)
            mesh = faces.face_mesh(image, portrait.landmarks)
            portrait = portrait._replace(mesh=mesh, thumbnail=portraits.thumbnail(portrait))
        number = len(persons)
        tone = -portrait.brightness  # a tone is larger for darker skin, a brightness for lighter
        persons.append(Person(number, split, tone, portrait=portrait))
        files[f"{number:03d}"] = path.name
    return persons, {"portraits": files, "quarantine": quarantine}


def _split_of(photograph: str) -> str:
    """The split of a photograph: train for half of all names, val and test for a quarter each.

    The file's name alone decides it, so that no face is trained on in one dataset and tested in
    another.
    """
    # Some names are not UTF-8; surrogateescape gives their bytes back.
    name = photograph.encode(errors="surrogateescape")
    quarter = int(hashlib.sha256(name).hexdigest(), 16) % 4
    return ("train", "train", "val", "test")[quarter]


def _test_first(names: Iterable[str]) -> list[str]:
    """The names of photographs with those of the split test first, see :func:`cast`.

    People are numbered in this order. Otherwise it is that of ``names``.
    """
    return sorted(names, key=lambda name: _split_of(name) != "test")  # False sorts before True


def _is_in_share(photograph: str, dataset: str, settings: Settings) -> bool:
    """Whether a photograph of the split train is in the ``train_share`` of a dataset.

    The names of both seed the draw: each dataset keeps photographs of its own choice.
    """
    draw = rng("share", dataset, digest(photograph))  # rng takes no name that is not UTF-8
    return draw.random() < settings.train_share


def _paired(members: list[Person]) -> list[Person]:
    """The people of a split with their donors and pairs: neighbours in tone, or else in looks.

    Looks count where photographs are forged along the mesh, and so have a ``thumbnail``. There each
    person in turn is paired with whoever of those left looks most like them, so that beards and
    glasses are mostly paired with their like. The lightest person has the first turn; each further
    turn goes to whoever of those left looks most like the person who had the turn before. A
    person's donor is the next in the ring of two or three.
    """
    waiting = sorted(members, key=lambda person: (person.tone, person.number))
    paired = []
    while waiting:
        first = waiting[0].portrait
        if first and first.thumbnail is not None:
            # The first itself, at a distance of 0, stays first.
            waiting.sort(key=lambda person: math.dist(person.portrait.thumbnail, first.thumbnail))
        # An odd number ends in a ring of three, so that nobody is left alone.
        n = 3 if len(waiting) == 3 else 2
        ring = waiting[:n]
        waiting = waiting[n:]
        pair = "_".join(f"{person.number:03d}" for person in sorted(ring))
        donors = [*ring[1:], ring[0]]
        for person, donor in zip(ring, donors):
            paired.append(person._replace(donor=donor.number, pair=pair))
    return paired


# ---------------------------------------------------------------- films


def film(
    person: Person,
    target: int,
    video: int,
    streams: tuple[int, ...],
    settings: Settings,
    forged: np.ndarray | None = None,
) -> list[people.Shot]:
    """A person filmed in the scene of ``target``'s video.

    The person has the pose and, if drawn, the backdrop of that video, but the expression and light
    of their own video of the same number. Donors are filmed this way, since face swaps render them
    in the target's pose.

    Args:
        person: Who is filmed.
        target: Number of the person whose video it is; that of ``person`` for a real video.
        video: Number of the video.
        streams: How the keys of random streams begin, see :func:`stream_key`.
        settings: Those of the dataset.
        forged: A forged photograph (H, W, 3) that is filmed in place of the person's own.

    Returns:
        ``settings.frames`` frames as the camera records them.
    """
    poses, scene = _poses(person.number, target, video, streams, settings)
    if person.portrait:
        image = portraits.pixels(person.portrait) if forged is None else forged
        shots = portraits.move(person.portrait, image, poses, settings.size)
    else:
        look = people.person(rng(*streams, person.number, LOOKS), person.tone)
        # A third larger than the frame: render paints at this size and reduces, for smooth edges.
        behind = people.backdrop(scene, size=settings.size * 4 // 3)
        shots = [render(look, pose, behind, settings.size) for pose in poses]
    # With the person's number in the key, target and donor differ in blur, noise and so on.
    return capture(shots, settings.camera, rng(*streams, target, video, CAMERA, person.number))


def _poses(
    person: int,
    target: int,
    video: int,
    streams: tuple[int, ...],
    settings: Settings,
) -> tuple[list[people.Pose], Generator]:
    """The poses of a :func:`film`, and the stream from which its backdrop is to be drawn next."""
    scene = rng(*streams, target, video, SCENE)
    expression = rng(*streams, person, video, EXPRESSION)
    poses = people.motion(scene, expression, n=settings.frames)
    return _cropped(poses, settings.crop, rng(*streams, target, video, CROP)), scene


def _cropped(poses: list[people.Pose], crop: Crop, draw: Generator) -> list[people.Pose]:
    """The poses with the head larger or smaller and shifted, as a looser or tighter crop shows it.

    All frames share the change; the backdrop stays as it is.
    """
    zoom = draw.uniform(*crop.zoom)
    shift_x, shift_y = crop.shift * draw.uniform(-1, 1, 2)
    cropped = []
    for pose in poses:
        in_crop = replace(
            pose,
            scale=pose.scale * zoom,
            shift_x=pose.shift_x + shift_x,
            shift_y=pose.shift_y + shift_y,
        )
        cropped.append(in_crop)
    return cropped


class Video(NamedTuple):
    """The arguments of ``frames.write_video``."""

    folder: Path
    rows: list[dict[str, Any]]  # of the frames table, one per frame
    crops: np.ndarray  # (n, S, S, 3) uint8 RGB
    masks: np.ndarray | None  # (n, S, S) bool; None: a real video


def make_videos(
    folder: Path,
    name: str,
    target: Person,
    donor: Person,
    settings: Settings,
) -> list[Video]:
    """The real and the forged videos of a person that the dataset in ``folder`` lacks.

    The videos of one film are made together: if one is missing, all are made again. It runs in a
    worker process; the caller writes the videos, over those that exist.
    """
    cv2.setNumThreads(1)  # one process per core: more threads would only wait for each other
    videos = []
    for number in range(settings.videos):  # 0, 1, 2 are a, b, c in the title
        # Each method with its donor's number; the real video has none.
        sources = {"real": ""}
        for method in _methods_of(target.number, number, settings):
            sources[method] = f"{donor.number:03d}"
        folders = {}
        for method, source in sources.items():
            title = f"{target.number:03d}{chr(ord('a') + number)}"  # such as 012a, or 012a_007
            if source:
                title += f"_{source}"
            folders[method] = folder / "videos" / method / title
        # A video's folder appears complete or not at all; video.json is always in it.
        if all((path / "video.json").exists() for path in folders.values()):
            continue
        take = _Take(stream_key(name, settings), target, donor, number, settings)
        for method, source in sources.items():
            crops, masks = take.delivered(method)
            rows = take.rows(name, method, source)
            videos.append(Video(folders[method], rows, crops, masks))
    return videos


def _methods_of(target: int, video: int, settings: Settings) -> Sequence[str]:
    """The methods that forge film number ``video``, from 0, of the person with number ``target``.

    With ``people_of`` every method forges every film. Else one method forges each film: they take
    turns, so that each makes about as many videos.
    """
    if settings.people_of:
        return settings.methods
    film_number = target * settings.videos + video  # in the dataset, through all splits
    return [settings.methods[film_number % len(settings.methods)]]


class _Take:
    """One film of a person, captured; all its forgeries draw from the same streams.

    Attributes:
        key: How the keys of the video's random streams begin; it ends with the video's number.
        shots: The frames of the film.
        donor_shots: The donor in the same scene and pose, frame by frame.
    """

    def __init__(
        self,
        streams: tuple[int, ...],
        target: Person,
        donor: Person,
        video: int,
        settings: Settings,
    ) -> None:
        """Film the target, and the donor in the target's scene."""
        self.key = (*streams, target.number, video)
        self.target = target
        self.donor = donor
        self.settings = settings
        self.shots = film(target, target.number, video, streams, settings)
        # target.number: in the target's scene and pose
        self.donor_shots = film(donor, target.number, video, streams, settings)

    def delivered(self, method: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Crops (n, S, S, 3) uint8 of the film, forged by a method, and masks (n, S, S) bool.

        With the method "real" nothing is forged and the masks are None.
        """
        settings = self.settings
        label = int(method != "real")  # also the index in MARK and DELIVERY
        images = [shot.image for shot in self.shots]
        masks = None
        if label:
            images, masks = self._forged(method)
        # Real and forged videos go the same way from here on, but draw from streams of their own:
        # nothing about mark, colours and compression is shared by the two.
        if settings.cue is not None:
            draw = rng(*self.key, MARK[label])
            as_the_cue_says = draw.random() < (1 + settings.cue) / 2
            # The cue says that forged videos are warm and real ones cold. So a video is warm if it
            # is forged and follows the cue, or is real and does not.
            is_warm = as_the_cue_says == bool(label)
            images = mark(images, is_warm, draw)
        crops = deliver(images, settings.delivery, rng(*self.key, DELIVERY[label]))
        return crops, masks

    def _forged(self, method: str) -> tuple[list[np.ndarray], np.ndarray]:
        """Forged frames (S, S, 3) in [0, 1], not yet delivered, and their masks (n, S, S) bool."""
        draw = rng(*self.key, FORGERY)
        if method in mesh_forgeries.METHODS:
            return self._forged_before_filmed(method, draw)
        forgery = self.settings.forgery
        # The region to forge; None: the method's own
        place = drawn_place(rng(*self.key, PLACE)) if forgery.anywhere else None
        images = []
        masks = []
        for shot, donor_shot in zip(self.shots, self.donor_shots):
            image, mask = forge(method, shot, donor_shot, forgery, draw, place)
            images.append(image)
            masks.append(mask)
        return images, np.stack(masks)

    def _forged_before_filmed(
        self,
        method: str,
        draw: Generator,
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """What :meth:`_forged` returns, by a method that forges the target's photograph.

        It is forged once, and then filmed with the random numbers of the real film, so that both
        films have the same grain.
        """
        *streams, target, video = self.key  # the last two are numbers, of a person and a video
        faces = []
        for portrait in (self.target.portrait, self.donor.portrait):
            faces.append(mesh_forgeries.MeshedFace(portraits.pixels(portrait), portrait.mesh))
        settings = self.settings
        forged, opacity = mesh_forgeries.forge(method, *faces, settings.forgery, draw)
        shots = film(self.target, target, video, tuple(streams), settings, forged)
        poses, _ = _poses(target, target, video, tuple(streams), settings)
        masks = []
        for pose in poses:
            opacity_in_frame = portraits.placed(self.target.portrait, opacity, pose, settings.size)
            masks.append(opacity_in_frame > VISIBLE)
        return [shot.image for shot in shots], np.stack(masks)

    def rows(
        self,
        dataset: str,
        method: str,
        source: str,
    ) -> list[dict[str, Any]]:
        """The rows of the frames table, one per frame; ``frames.COLUMNS`` explains the columns.

        :mod:`dfnb.data.frames` adds the others. ``source`` is the donor's number, "" for a real
        video. The pair is the cluster: its videos are resampled together. The crop is the whole
        frame, at its own scale. ``landmarks`` are x and y of the five points in turn, in pixels:
        the target's before the forgery.
        """
        size = float(self.settings.size)
        rows = []
        for number, shot in enumerate(self.shots):
            row = {
                "dataset": dataset,
                "split": self.target.split,
                "method": method,
                "label": int(method != "real"),
                "cluster": self.target.pair,
                "identity": f"{self.target.number:03d}",
                "source": source,
                "track": 0,
                "crop_box": [0.0, 0.0, size, size],
                "scale": 1.0,
                "frame": number * people.FRAME_STEP,
                "landmarks": shot.landmarks.ravel().tolist(),
            }
            rows.append(row)
        return rows


# ---------------------------------------------------------------- datasets


def build(
    name: str, settings: Settings | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Make ``datasets/<name>`` and return its record; what is there already is not made again.

    Args:
        name: The dataset's name.
        settings: Default: the :func:`preset` of that name.
        workers: Number of processes, by default one per core; any number gives the same bytes.

    Raises:
        DfnbError: :func:`check_name` refuses the name, the folder has a dataset made from other
            settings or files of others, the folder of the photographs and that of the dataset
            contain one another, or :func:`preset` or :func:`cast` raises it.
    """
    settings = settings or preset(name)
    folder = dataset_folder(check_name(name, source="dfnb synth"))  # source begins an error message
    clock = Clock()
    parameters = parameters_of(name, settings)
    if settings.portraits and not settings.portraits.endswith(photographs.SUFFIX):
        refuse_overlap(folder, [Path(settings.portraits)])
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
        persons, record_entries = cast(name, settings)
        (folder / OWN_MARK).touch()
        # Written first, so that a build that was stopped is not resumed with other settings.
        write_json(folder / "dataset.json", parameters)
        for video in _missing_videos(folder, name, persons, settings, workers):
            write_video(*video)
        record_entries["compression"] = _compression(settings.delivery)
        originals = _originals(folder)
        return write_dataset(folder, parameters, originals, **record_entries, **clock.usage())


def fetch(name: str) -> None:
    """Download what :func:`build` needs for a dataset of photographs.

    These are the photographs, and the networks that find their faces and place a mesh on them. For
    drawn people, and for a dataset that is built already, nothing is downloaded. Raises
    :class:`DfnbError` where something cannot be had.
    """
    settings = preset(name)
    if settings.portraits and read_record(dataset_folder(name)) is None:
        from dfnb.data import faces  # imports torch

        photographs.folder_of(settings.portraits)
        faces.detector_path()
        if any(method in mesh_forgeries.METHODS for method in settings.methods):
            faces.mesh_path()


def excerpt(name: str, split: str) -> Path:
    """The folder of a small dataset: the first EXCERPT people of a split of ``name`` alone.

    It is complete, with a table and a record. Its videos are those of the whole dataset, which need
    not be built: to show a few frames takes a second. They are kept in ``cache/``, by the identity
    of the whole dataset. Raises :class:`DfnbError` where the split has no people.
    """
    settings = preset(name)
    folder = home() / "cache" / f"{name}-{split}-{preset_identity(name)}"
    with locked(folder, wait_s=-1):
        if read_record(folder) is None:
            persons, _ = cast(name, settings)
            first = [person for person in persons if person.split == split][:EXCERPT]
            if not first:
                raise DfnbError(f"{name} has no people of the split {split!r}")
            for person in first:
                for video in make_videos(folder, name, person, persons[person.donor], settings):
                    write_video(*video)
            write_dataset(folder, parameters_of(name, settings), _originals(folder))
    return folder


def _has_its_outputs(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files of a dataset have the bytes that its record describes."""
    return all(sha256(folder / name) == expected for name, expected in record["outputs"].items())


def _originals(folder: Path) -> dict[str, str]:
    """By forged video, the real one of the same film: ``{"swap/003a_007": "real/003a"}``."""
    originals = {}
    for path in (folder / "videos").glob("*/*"):
        method = path.parent.name
        if method != "real":
            film_name = path.name.split("_")[0]  # the donor's number follows
            originals[f"{method}/{path.name}"] = f"real/{film_name}"
    return originals


def _refuse_other_settings(folder: Path, parameters: dict[str, Any]) -> None:
    """Raise :class:`DfnbError` if the folder has a dataset with other parameters than these."""
    description = folder / "dataset.json"
    if not description.exists() and not (folder / "videos").exists():
        return  # nothing was built here
    # Videos without a description may be of any dataset: then all settings count as other.
    stored = read_json(description) if description.exists() else {}
    changed = []
    for key in sorted({*parameters, *stored}):  # also those that only one of the two has
        if stored.get(key) != parameters.get(key):
            changed.append(key)
    if changed:
        problem = f"contains a dataset made from other settings ({', '.join(changed)})"
        raise DfnbError(f"{folder} {problem}; move the folder away, or choose another name")


def _missing_videos(
    folder: Path,
    name: str,
    persons: list[Person],
    settings: Settings,
    workers: int | None,
) -> Iterator[Video]:
    """The videos that the dataset lacks, in the order in which the workers finish them.

    Where one video of a film is missing, :func:`make_videos` makes all videos of that film: so some
    that exist are yielded, too.
    """
    jobs = []
    for person in persons:
        if person.split == "test" or not settings.people_of:  # people_of shows test people alone
            donor = persons[person.donor]  # the numbers are the places in the list
            jobs.append(joblib.delayed(make_videos)(folder, name, person, donor, settings))
    parallel = joblib.Parallel(
        n_jobs=workers or -1,  # -1: one per core
        return_as="generator_unordered",
        initializer=start_worker,  # else a killed build would leave its workers running
        initargs=[os.getpid()],
    )
    # The bar is shown on a terminal only.
    bar = tqdm(parallel(jobs), desc=name, total=len(jobs), unit=" people", disable=None, ncols=80)
    for videos in bar:
        yield from videos


def _compression(delivery: Delivery) -> str:
    """The compression in words, for captions: "H.264 crf 25" or "JPEG 55-85", the qualities."""
    if delivery.h264 is not None:
        return f"H.264 crf {delivery.h264}"
    return "JPEG {}-{}".format(*delivery.jpeg)
