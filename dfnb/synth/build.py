"""Datasets of the embedded benchmark: their settings, their people, and how they are written.

Random streams are named by the dataset, the person, the video and a purpose, so that any number of workers gives the
same bytes, a build that was stopped goes on, and no two datasets share a person.
"""

import hashlib
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import joblib
import numpy as np
from pydantic import DirectoryPath, Field, NonNegativeInt

from dfnb import core
from dfnb.synth import people
from dfnb.synth.forgeries import METHODS, OWN, Camera, Delivery, Forgery, capture, deliver, forge, mark

GENERATOR = 4  # part of every dataset's parameters: raise it when the same settings give other pixels
WAIT_S = 30  # notebooks that run side by side look at the same dataset at the same time
FACE = 0x1D  # streams of one person, beside those of the videos, whose numbers start at 0
SPLITS = ("train", "val", "test")


class Settings(core.Closed):
    """What a dataset of the embedded benchmark is made from; each YAML says what it changes.

    With ``people_of`` it shows the test people of that dataset in the same films, if both have the same ``identities``, camera
    and so on, and of each film every one of the ``methods``. None does not stand in the record, so that datasets from before
    there was such a setting are still the same.
    """

    identities: dict[Literal[SPLITS], NonNegativeInt] = Field({"train": 200, "val": 50, "test": 100})  # drawn people
    videos: int = Field(2, ge=1, le=26)  # real videos per person, and as many forged ones
    frames: int = Field(4, ge=1, le=10_000)  # frames per video
    size: int = Field(96, ge=64, le=2048)  # height and width of a frame
    seed: int = Field(0, ge=0)
    methods: tuple[Literal[*METHODS], ...] = Field(("swap", "resynthesis", "warp", "mouth"), min_length=1)
    camera: Camera = Camera()
    forgery: Forgery = Forgery()
    delivery: Delivery = Delivery()
    cue: float | None = Field(None, ge=0, le=1)  # how far a mark in the corner tells the label, see forgeries.mark
    portraits: DirectoryPath | None = None  # folder of photographs, used instead of drawn faces
    people_of: str | None = Field(None, exclude_if=lambda name: name is None)


def preset(name: str, **changes: Any) -> Settings:
    """The settings of ``data_manifest/<name>.yaml``, some of them changed.

    Raises :class:`DfnbError` when no dataset has that name, or for a setting that is unknown or impossible.
    """
    path, known = core.find("data_manifest") / f"{name}.yaml", core.described("synth")
    if name not in known:
        raise core.DfnbError(f"{path} does not exist; the embedded datasets are {', '.join(known)}")
    settings = Settings.check({**core.manifest(name).get("parameters", {}), **changes}, path.name)
    if settings.people_of not in (None, *known):
        raise core.DfnbError(f"{path.name}: people_of = {settings.people_of!r} is none of {', '.join(known)}")
    return settings


class Person(NamedTuple):
    """A person of a dataset: their number, split, tone of skin, donor's number, pair, and portrait if not drawn."""

    number: int
    split: str
    tone: float
    donor: int = -1
    pair: str = ""
    portrait: people.Portrait | None = None


def key(name: str, settings: Settings) -> tuple[int, int]:
    """How all random streams of a dataset begin."""
    return settings.seed, int(hashlib.sha256((settings.people_of or name).encode()).hexdigest()[:8], 16)


def cast(name: str, settings: Settings) -> tuple[list[Person], dict[str, Any]]:
    """The people of a dataset with their donors, and the facts of the record: who is which portrait, which were not used.

    The donor is the one next in tone, within the split. Two neighbours give each other their faces for every method (the
    last three in a ring where the number is odd), so that no face is in two pairs: the pair is the ``cluster``, and
    resampling pairs resamples independent things.

    Of portraits all are used, whatever number ``identities`` has. The split of one follows from its file's name alone,
    half train, a quarter val, a quarter test, in every dataset, so that no face is trained on here and tested there.
    Raises :class:`DfnbError` when a split has fewer than two people.
    """
    counts = {split: settings.identities.get(split, 0) for split in SPLITS}
    facts, paired = {}, []
    if settings.portraits is None:
        streams, splits = key(name, settings), [split for split, n in counts.items() for _ in range(n)]
        persons = [Person(i, split, core.rng(*streams, i, FACE, 0).uniform(0, 4)) for i, split in enumerate(splits)]
    else:
        persons, facts = _portraits(settings.portraits, counts, settings.size)
    for split, wanted in counts.items():
        group = sorted((each for each in persons if each.split == split), key=lambda each: (each.tone, each.number))
        if wanted and len(group) < 2:
            where = f"{settings.portraits or f'identities.{split}'} gives {len(group)} people for the split {split}"
            raise core.DfnbError(f"{where}, and forgeries need two; add some")
        while group:
            n = 3 if len(group) == 3 else 2
            ring, group = group[:n], group[n:]
            pair = "_".join(f"{each.number:03d}" for each in sorted(ring))
            paired += [each._replace(donor=donor.number, pair=pair) for each, donor in zip(ring, ring[1:] + ring[:1])]
    return sorted(paired), facts


def _portraits(folder: Path, counts: dict[str, int], size: int) -> tuple[list[Person], dict[str, Any]]:
    from dfnb.data import faces

    reason = "is a folder; put its photographs into the folder above"
    quarantine = [{"file": path.name, "reason": reason, "usable": False} for path in sorted(folder.glob("[!.]*/"))]
    persons: list[Person] = []
    for path in _photographs(folder):
        split = ("train", *SPLITS)[int(hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest(), 16) % 4]
        portrait = f"belongs to the split {split}, which this dataset does not have"
        if counts[split]:
            portrait = people.inspect(path, faces.YuNet(faces.detector_path()), size)
        if isinstance(portrait, str):
            quarantine.append({"file": path.name, "reason": portrait, "usable": not counts[split]})
        else:
            persons.append(Person(len(persons), split, -portrait.tone, portrait=portrait))
    names = {f"{each.number:03d}": Path(each.portrait.path).name for each in persons}
    return persons, {"portraits": names, "quarantine": quarantine}


def _photographs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_file())


def film(person: Person, target: int, video: int, streams: tuple[int, ...], settings: Settings) -> list[people.Shot]:
    """A person captured in the scene of ``target``'s video: its pose and backdrop, with their own expression and light.

    The donor of a forgery is filmed in the target's pose, since face swapping methods render donors so.
    """
    scene = core.rng(*streams, target, video, 0)
    poses = people.motion(scene, core.rng(*streams, person.number, video, 1), settings.frames)
    if person.portrait:
        shots = people.move(person.portrait, poses, settings.size)
    else:
        look = people.person(core.rng(*streams, person.number, FACE), person.tone)
        behind = people.backdrop(scene, settings.size * 4 // 3)
        shots = [people.render(look, pose, behind, settings.size) for pose in poses]
    return capture(shots, settings.camera, core.rng(*streams, target, video, 2, person.number))


def make_videos(folder: Path, name: str, target: Person, donor: Person, settings: Settings) -> list[tuple]:
    """The real and the forged videos of a person that ``folder`` lacks: what ``frames.write_video`` takes of each.

    Every forgery of a film draws from the same streams. Where the person's own face takes the donor's place, there is no source.
    """
    cv2.setNumThreads(1)  # one process per core: threads inside would only wait for each other
    streams, box, made = key(name, settings), [0.0, 0.0, float(settings.size), float(settings.size)], []
    for video in range(settings.videos):
        turn = (target.number * settings.videos + video) % len(settings.methods)
        methods = settings.methods if settings.people_of else settings.methods[turn : turn + 1]
        sources = {"real": ""} | {method: "" if method in OWN else f"{donor.number:03d}" for method in methods}
        take = f"{target.number:03d}{chr(ord('a') + video)}"
        folders = {each: folder / "videos" / each / f"{take}_{sources[each]}".rstrip("_") for each in sources}
        if all((each / "video.json").exists() for each in folders.values()):
            continue
        longer = settings.frames + max(OWN.get(method, 0) for method in methods)
        own = film(target, target.number, video, streams, settings.model_copy(update={"frames": longer}))
        theirs, shots = film(donor, target.number, video, streams, settings), own[: settings.frames]
        for method, source in sources.items():
            label, images = int(method != "real"), [shot.image for shot in shots]
            if label:
                draw = core.rng(*streams, target.number, video, 4)
                pairs = zip(shots, own[OWN[method] :] if method in OWN else theirs)
                images, masks = zip(*(forge(method, *pair, settings.forgery, draw) for pair in pairs))
            if settings.cue is not None:
                draw = core.rng(*streams, target.number, video, 6 + label)
                warm = (draw.random() < (1 + settings.cue) / 2) == bool(label)
                images = mark(images, warm, draw)
            crops = deliver(images, settings.delivery, core.rng(*streams, target.number, video, 3 + 2 * label))
            row = {"dataset": name, "split": target.split, "method": method, "label": label}
            row |= {"cluster": target.pair, "identity": f"{target.number:03d}", "source": source}
            row |= {"track": 0, "crop_box": box, "scale": 1.0}
            points = [shot.landmarks.ravel().tolist() for shot in shots]
            rows = [row | {"frame": i * people.FRAME_STEP, "landmarks": at} for i, at in enumerate(points)]
            made.append((folders[method], rows, crops, np.stack(masks) if label else None))
    return made


def build(name: str, settings: Settings | None = None, workers: int | None = None, progress: bool = True) -> dict:
    """Make ``datasets/<name>`` and return its record; what is there already is not made again.

    ``settings`` are the :func:`preset`'s of that name unless given. Any number of ``workers`` (default: one per core)
    gives the same bytes. Raises :class:`DfnbError` when the folder holds a dataset made from other settings.
    """
    from dfnb.data import frames  # here, since it loads torch, which the worker processes need not

    settings = settings or preset(name)
    folder, clock = frames.dataset_folder(core.Named.check({"name": name}, "dfnb synth").name), core.Clock()
    description = folder / "dataset.json"
    parameters: dict[str, Any] = {"name": name, "generator": GENERATOR, **settings.model_dump(mode="json")}
    if settings.portraits:
        hashes = [(path.name, core.sha256(path)) for path in _photographs(settings.portraits)]
        parameters["portraits_digest"] = core.digest(hashes)
    with core.locked(folder, WAIT_S):
        stored = core.read_json(description) if description.exists() else {}
        changed = ", ".join(sorted(each for each in {*stored, *parameters} if stored.get(each) != parameters.get(each)))
        if changed and (stored or (folder / "videos").exists()):
            raise core.DfnbError(f"{folder} holds a dataset made from other settings ({changed}); delete the folder")
        if record := core.read_record(folder):
            return record
        persons, facts = cast(name, settings)
        core.write_json(description, parameters)
        shown = [each for each in persons if each.split == "test" or not settings.people_of]
        jobs = [joblib.delayed(make_videos)(folder, name, each, persons[each.donor], settings) for each in shown]
        options = {"return_as": "generator_unordered", "verbose": 5 * progress, "initializer": core.end_with_parent}
        for video in chain.from_iterable(joblib.Parallel(workers or -1, **options)(jobs)):
            frames.write_video(*video)
        crf = settings.delivery.h264
        compression = "JPEG {}-{}".format(*settings.delivery.jpeg) if crf is None else f"H.264 crf {crf}"
        return frames.write_dataset(folder, parameters, compression=compression, **facts, **clock.facts())
