"""Films, and the videos that are made of them.

A *film* is the frames of one person in one scene, as the camera records them. Delivered as it is,
it makes a real video; forged, by many methods with the face of the person's *donor*, a forged one.
The methods of :mod:`~drawnfaces.mesh_forgeries` forge the photograph, which is filmed once more.

Each random stream is seeded by the dataset, the person, the video and its purpose. So videos may be
made in any order, in any number of processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from drawnfaces import mesh_forgeries, people, portraits
from drawnfaces.casts import Person, Photographs, cast
from drawnfaces.forgeries import VISIBLE, Crop, capture, deliver, forge, mark
from drawnfaces.painting import render
from drawnfaces.regions import drawn_place
from drawnfaces.seeds import (
    CAMERA,
    CROP,
    DELIVERY,
    EXPRESSION,
    FORGERY,
    LOOKS,
    MARK,
    PLACE,
    SCENE,
    rng,
)
from drawnfaces.settings import Settings


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
        streams: How the keys of random streams begin, see ``Settings.streams``.
        settings: Those of the dataset.
        forged: A forged photograph (H, W, 3) that is filmed in place of the person's own.

    Returns:
        ``settings.frames`` frames as the camera records them.
    """
    poses, scene = _poses(person.number, target, video, streams, settings)
    portrait = person.shown(video)
    if portrait:
        image = portraits.pixels(portrait) if forged is None else forged
        shots = portraits.move(portrait, image, poses, settings.size)
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
    """A video, real or forged."""

    name: str  # the method, the film and, if forged, the donor, such as swap/012a_007
    rows: list[dict[str, Any]]  # what is known of each frame, see _Filmed.rows
    frames: np.ndarray  # (n, S, S, 3) uint8 RGB
    masks: np.ndarray | None  # (n, S, S) bool, True where forged; None: a real video


class Take(NamedTuple):
    """A film that is to be made, with the videos that are made of it."""

    dataset: str  # its name
    target: Person
    donor: Person
    number: int  # of the film among those of the person
    settings: Settings

    @property
    def film(self) -> str:
        """The name of the film, such as 012a: the first of person 12. After z come a1 to z1."""
        letter = chr(ord("a") + self.number % 26)
        return f"{self.target.number:03d}{letter}{self.number // 26 or ''}"

    @property
    def names(self) -> dict[str, str]:
        """The name of each video by its method, "real" first."""
        names = {"real": f"real/{self.film}"}
        for method in self._methods():
            names[method] = f"{method}/{self.film}_{self.donor.number:03d}"
        return names

    def _methods(self) -> Sequence[str]:
        """The methods that forge the film.

        With ``people_of`` every method forges every film. Else one method forges each film: they
        take turns, so that each makes about as many videos.
        """
        methods = self.settings.methods
        if self.settings.people_of:
            return methods
        film_number = self.target.number * self.settings.videos + self.number  # in all splits
        return [methods[film_number % len(methods)]]

    def videos(self) -> list[Video]:
        """The real and the forged videos of the film, which is made now."""
        filmed = _Filmed(self)
        videos = []
        for method, name in self.names.items():
            frames, masks = filmed.delivered(method)
            videos.append(Video(name, filmed.rows(method), frames, masks))
        return videos


def takes(name: str, persons: Sequence[Person], settings: Settings) -> Iterator[Take]:
    """All films of a dataset; ``persons`` are those of :func:`~drawnfaces.casts.cast`.

    With ``people_of`` only people of the split test are filmed.
    """
    for person in persons:
        if person.split == "test" or not settings.people_of:
            donor = persons[person.donor]  # the numbers are the places in the list
            for number in range(settings.videos * max(len(person.portraits), 1)):
                yield Take(name, person, donor, number, settings)


def videos(
    name: str, settings: Settings, photographs: Photographs | None = None
) -> Iterator[Video]:
    """All videos of a dataset, in the order of its people; each film is made when its turn comes.

    The arguments are those of :func:`~drawnfaces.casts.cast`.
    """
    persons, _ = cast(name, settings, photographs)
    for take in takes(name, persons, settings):
        yield from take.videos()


class _Filmed:
    """A film, captured; all its forgeries draw from the same streams.

    Attributes:
        take: The film's people and settings.
        key: How the keys of the film's random streams begin; it ends with the film's number.
        shots: The frames of the film.
    """

    def __init__(self, take: Take) -> None:
        """Film the target."""
        streams = take.settings.streams(take.dataset)
        target = take.target.number
        self.take = take
        self.key = (*streams, target, take.number)
        self.shots = film(take.target, target, take.number, streams, take.settings)

    @cached_property
    def donor_shots(self) -> list[people.Shot]:
        """The donor in the same scene and pose, frame by frame.

        They are filmed when first needed: the methods that forge the photograph do without.
        """
        take = self.take
        streams = take.settings.streams(take.dataset)
        return film(take.donor, take.target.number, take.number, streams, take.settings)

    def delivered(self, method: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames (n, S, S, 3) uint8 of the film, forged by a method, and masks (n, S, S) bool.

        With the method "real" nothing is forged and the masks are None.
        """
        settings = self.take.settings
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
        return deliver(images, settings.delivery, rng(*self.key, DELIVERY[label])), masks

    def _forged(self, method: str) -> tuple[list[np.ndarray], np.ndarray]:
        """Forged frames (S, S, 3) in [0, 1], not yet delivered, and their masks (n, S, S) bool."""
        draw = rng(*self.key, FORGERY)
        if method in mesh_forgeries.METHODS:
            return self._forged_before_filmed(method, draw)
        forgery = self.take.settings.forgery
        # The region to forge; None: the method's own
        place = drawn_place(rng(*self.key, PLACE)) if forgery.anywhere else None
        portrait = self.take.target.shown(self.take.number)
        is_grey = portrait is not None and portrait.is_grey
        images = []
        masks = []
        for shot, donor_shot in zip(self.shots, self.donor_shots):
            image, mask = forge(method, shot, donor_shot, forgery, draw, place, is_grey)
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
        *streams, target, video = self.key  # the last two are numbers, of a person and a film
        person = self.take.target
        shown = person.shown(video)
        faces = []
        for portrait in (shown, self.take.donor.shown(video)):
            image = portraits.pixels(portrait)
            faces.append(mesh_forgeries.MeshedFace(image, portrait.mesh, portrait.is_grey))
        settings = self.take.settings
        place = rng(*self.key, PLACE)
        is_part = place.random() < settings.parts
        part = mesh_forgeries.drawn_part(place) if is_part else None
        forged, opacity = mesh_forgeries.forge(method, *faces, settings.forgery, draw, part)
        shots = film(person, target, video, tuple(streams), settings, forged)
        poses, _ = _poses(target, target, video, tuple(streams), settings)
        masks = []
        for pose in poses:
            opacity_in_frame = portraits.placed(shown, opacity, pose, settings.size)
            masks.append(opacity_in_frame > VISIBLE)
        return [shot.image for shot in shots], np.stack(masks)

    def rows(self, method: str) -> list[dict[str, Any]]:
        """What is known of the frames of a video, one dict per frame.

        Texts: ``dataset``, ``split``, ``method`` ("real" or the forgery's), ``cluster`` (the pair,
        whose videos are resampled together), ``identity`` and ``source``, the numbers of target and
        donor ("" in a real video). Numbers: ``label`` (0 real, 1 forged), ``frame`` (in the
        imagined video), ``track`` (0, as a video shows one person), ``scale`` (1.0) and
        ``crop_box`` (left, top, right, bottom): the crop is the whole frame. ``landmarks`` are x
        and y of the five points of a Shot in turn, in pixels: the target's before the forgery.
        """
        take = self.take
        size = float(take.settings.size)
        rows = []
        for number, shot in enumerate(self.shots):
            row = {
                "dataset": take.dataset,
                "split": take.target.split,
                "method": method,
                "label": int(method != "real"),
                "cluster": take.target.pair,
                "identity": f"{take.target.number:03d}",
                "source": "" if method == "real" else f"{take.donor.number:03d}",
                "track": 0,
                "crop_box": [0.0, 0.0, size, size],
                "scale": 1.0,
                "frame": number * people.FRAME_STEP,
                "landmarks": shot.landmarks.ravel().tolist(),
            }
            rows.append(row)
        return rows
