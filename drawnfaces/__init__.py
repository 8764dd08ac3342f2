"""Drawn faces in motion, or photographs set in motion, and forgeries of them with exact masks.

:mod:`~drawnfaces.people` draws people and their motion, :mod:`~drawnfaces.painting` paints them,
:mod:`~drawnfaces.forgeries` captures, forges and delivers their videos, :mod:`~drawnfaces.casts`
pairs the people of a dataset, and :mod:`~drawnfaces.films` makes its videos: rows, frames and
masks. Nothing here reads a setting from a file or writes one. README.md says what it is for.
"""

from drawnfaces.casts import Person, Photographs, cast
from drawnfaces.films import Take, Video, film, takes, videos
from drawnfaces.forgeries import METHODS, Camera, Crop, Delivery, Forgery, forge, to_bytes
from drawnfaces.portraits import landmarks_of_one_face
from drawnfaces.settings import GENERATOR, Settings, SettingsError

__all__ = [
    "GENERATOR",
    "METHODS",
    "Camera",
    "Crop",
    "Delivery",
    "Forgery",
    "Person",
    "Photographs",
    "Settings",
    "SettingsError",
    "Take",
    "Video",
    "cast",
    "film",
    "forge",
    "landmarks_of_one_face",
    "takes",
    "to_bytes",
    "videos",
]
