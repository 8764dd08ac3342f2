"""Films of portraits, and the videos that are made of them.

A *film* is the frames of one person in one scene, as the camera records them. Delivered as it is,
it makes a real video; of the forged portrait, by many methods with the face of the person's
*donor*, a forged one.

Each random stream is seeded by the dataset, the person, the video and its purpose. So videos may be
made in any order, in any number of processes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from facesets import camera, forge, portraits
from facesets.casts import Person
from facesets.forge import VISIBLE, MeshedFace
from facesets.seeds import rng
from facesets.settings import Settings

# The last parts of the keys of random streams: a key is (seed, dataset, person, video, purpose).
SCENE = 0  # head motion
LIGHT = 1
CAMERA = 2
FORGERY = 4  # the same for all methods
DELIVERY = (3, 5)  # of the real video, and of the forged ones
MARK = (6, 7)  # likewise
CROP = 8
PLACE = 9  # of the forged part of the face, the same for all methods


class Video(NamedTuple):
    """A video, real or forged."""

    name: str  # the method, the film and, if forged, the donor, such as FaceSwap-like/012a_007
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
    """All films of a dataset; ``persons`` are those of :func:`facesets.casts.cast`.

    With ``people_of`` only people of the split test are filmed.
    """
    for person in persons:
        if person.split == "test" or not settings.people_of:
            donor = persons[person.donor]  # the numbers are the places in the list
            for number in range(settings.videos * len(person.portraits)):
                yield Take(name, person, donor, number, settings)


class _Filmed:
    """A film, captured; all its forgeries draw from the same streams.

    Attributes:
        take: The film's people and settings.
        key: How the keys of the film's random streams begin.
        portrait: The one that is filmed.
        poses: One per frame.
        shots: The frames of the film.
    """

    def __init__(self, take: Take) -> None:
        """Film the target."""
        settings = take.settings
        self.take = take
        self.key = (*settings.streams(take.dataset), take.target.number, take.number)
        self.portrait = take.target.shown(take.number)
        scene, light = rng(*self.key, SCENE), rng(*self.key, LIGHT)
        poses = camera.motion(scene, light, n=settings.frames)
        self.poses = camera.cropped(poses, settings.crop, rng(*self.key, CROP))
        self.shots = self._filmed(portraits.pixels(self.portrait.path))

    def _filmed(self, image: np.ndarray) -> list[camera.Shot]:
        """The portrait's pixels (H, W, 3), perhaps forged, as the camera records them."""
        settings = self.take.settings
        shots = portraits.move(self.portrait.landmarks, image, self.poses, settings.size)
        # Always the same stream, so that a film and its forgeries have the same grain. The number
        # stands twice since others were once filmed in a person's scenes, with grain of their own.
        draw = rng(*self.key, CAMERA, self.take.target.number)
        return camera.capture(shots, settings.camera, draw)

    def delivered(self, method: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames (n, S, S, 3) uint8 of the film, forged by a method, and masks (n, S, S) bool.

        With the method "real" nothing is forged and the masks are None.
        """
        settings = self.take.settings
        label = int(method != "real")  # also the index in MARK and DELIVERY
        shots, masks = self._forged(method) if label else (self.shots, None)
        images = [shot.image for shot in shots]
        # Real and forged videos go the same way from here on, but draw from streams of their own:
        # nothing about mark, colours and compression is shared by the two.
        if settings.cue is not None:
            draw = rng(*self.key, MARK[label])
            as_the_cue_says = draw.random() < (1 + settings.cue) / 2
            # The cue says that forged videos are warm and real ones cold. So a video is warm if it
            # is forged and follows the cue, or is real and does not.
            is_warm = as_the_cue_says == bool(label)
            images = camera.mark(images, is_warm, draw)
        draw = rng(*self.key, DELIVERY[label])
        return camera.deliver(images, settings.delivery, draw), masks

    def _forged(self, method: str) -> tuple[list[camera.Shot], np.ndarray]:
        """The film of the forged portrait, and its masks (n, S, S) bool.

        The portrait is forged once, and then filmed as the original is.
        """
        settings = self.take.settings
        faces = []
        for portrait in (self.portrait, self.take.donor.shown(self.take.number)):
            image = portraits.pixels(portrait.path)
            faces.append(MeshedFace(image, portrait.mesh, portrait.is_grey))
        place = rng(*self.key, PLACE)
        is_part = place.random() < settings.parts
        part = forge.drawn_part(place) if is_part else None
        draw = rng(*self.key, FORGERY)
        forged, opacity = forge.forge(method, *faces, settings.forgery, draw, part)
        masks = []
        for pose in self.poses:
            in_frame = portraits.placed(self.portrait.landmarks, opacity, pose, settings.size)
            masks.append(in_frame > VISIBLE)
        return self._filmed(forged), np.stack(masks)

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
                "frame": number * camera.FRAME_STEP,
                "landmarks": shot.landmarks.ravel().tolist(),
            }
            rows.append(row)
        return rows
