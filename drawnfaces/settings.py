"""What the videos of a dataset are made from."""

import hashlib
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from drawnfaces import mesh_forgeries
from drawnfaces.forgeries import METHODS, Camera, Crop, Delivery, Forgery
from drawnfaces.people import Closed

GENERATOR = 4  # the version of the pixels: raise it when the same settings give other ones
SPLITS = ("train", "val", "test")


class SettingsError(ValueError):
    """Settings, or photographs, of which nothing can be made; the sentence says what to change."""


class Settings(Closed):
    """What the videos of a dataset are made from; its name is part of every random stream."""

    # The number of drawn people per split; 0 or missing: the dataset does not have this split. With
    # portraits, any positive number takes all people of the split.
    identities: dict[Literal[SPLITS], NonNegativeInt] = Field(
        {"train": 200, "val": 50, "test": 100}
    )
    # Real videos per person, a to z, and as many forged ones; of people in photographs, as many per
    # photograph.
    videos: int = Field(2, ge=1, le=26)
    frames: int = Field(4, ge=1, le=10_000)  # frames per video
    size: int = Field(96, ge=64, le=2048)  # height and width of a frame, in pixels
    seed: int = Field(0, ge=0)
    # Those of mesh_forgeries forge photographs alone.
    methods: tuple[Literal[*METHODS, *mesh_forgeries.METHODS], ...] = Field(
        ("swap", "resynthesis", "warp", "mouth"), min_length=1
    )
    # Some defaults are left out where settings are written, so that settings which do not state
    # them are written as they were before there were such settings.
    crop: Crop = Field(Crop(), exclude_if=lambda crop: crop == Crop())
    camera: Camera = Camera()
    forgery: Forgery = Forgery()
    # In this share of the films, the methods of mesh_forgeries forge a part of the face, the same
    # for all, instead of their own regions. Without parts a constant map finds what is forged.
    parts: float = Field(0, ge=0, le=1, exclude_if=lambda share: share == 0)
    delivery: Delivery = Delivery()
    # How much a mark in the corner reveals about the label: 0 nothing, 1 all; None: no mark. See
    # forgeries.mark.
    cue: float | None = Field(None, ge=0, le=1)
    # Where the photographs are from that are used instead of drawn faces: a text of the caller's,
    # who passes the photographs themselves. None: drawn faces.
    portraits: str | None = None
    # About this share of the people in photographs of the split train is kept; which ones depends
    # on the dataset's name.
    train_share: float = Field(1, gt=0, le=1, exclude_if=lambda share: share == 1)
    # Of which people the split test is: another split of the photographs than test makes a dataset
    # to develop on, which has no other split.
    test_people: Literal[SPLITS] = Field("test", exclude_if=lambda split: split == "test")
    # Another dataset whose random draws are used: the same people, scenes and forgeries, in frames
    # of another size.
    draws_of: str | None = Field(None, exclude_if=lambda name: name is None)
    # Another dataset; seed, identities, size, crop and camera must be the same here, which nothing
    # checks. Its test people are shown in the same films, and each film is forged by every method.
    people_of: str | None = Field(None, exclude_if=lambda name: name is None)

    @property
    def along_mesh(self) -> list[str]:
        """The methods that forge photographs along the mesh of a face."""
        return sorted({*self.methods} & {*mesh_forgeries.METHODS})

    def streams(self, name: str) -> tuple[int, int]:
        """How the keys of random streams begin in a dataset: its seed, a hash of its name."""
        dataset = self.people_of or self.draws_of or name  # the same key draws the same
        # Eight hexadecimal digits are 32 bits: numpy's seeds consist of such words.
        return self.seed, int(hashlib.sha256(dataset.encode()).hexdigest()[:8], 16)

    @property
    def compression(self) -> str:
        """The compression in words, for captions: "H.264 crf 25" or "JPEG 55-85", the qualities."""
        if self.delivery.h264 is not None:
            return f"H.264 crf {self.delivery.h264}"
        return "JPEG {}-{}".format(*self.delivery.jpeg)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse values that are possible alone, but not together."""
        shown = ("test",) if self.people_of else SPLITS
        if not any(self.identities.get(split) for split in shown):
            raise SettingsError(f"identities has no people for {' or '.join(shown)}; add some")
        if self.along_mesh and not self.portraits:
            methods = ", ".join(self.along_mesh)
            raise SettingsError(f"{methods} forge photographs; set portraits")
        if self.train_share < 1 and not self.portraits:
            raise SettingsError("train_share is a share of photographs; set portraits")
        others = [split for split in SPLITS[:2] if self.identities.get(split)]
        if self.test_people != "test" and (others or not self.portraits):
            raise SettingsError("test_people needs portraits, and identities of test alone")
        if self.delivery.h264 is not None and self.size % 2:  # else frames would lack a row
            raise SettingsError(f"H.264 needs an even size, not {self.size}")
        return self
