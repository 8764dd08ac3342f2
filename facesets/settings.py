"""What an embedded dataset is made from, and what identifies it before it is built."""

import hashlib
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from facesets import photographs
from facesets.camera import Camera, Crop, Delivery
from facesets.checks import Closed
from facesets.files import digest
from facesets.forge import METHODS, Forgery
from facesets.frames import SPLITS

GENERATOR = 4  # the version of the pixels: raise it when the same settings give other ones


class Settings(Closed):
    """What the videos of a dataset are made from; its name is part of every random stream."""

    # Where the faces are from, see facesets.photographs: the portraits that ship, a list, a folder.
    portraits: str
    # The number of people per split; 0 or missing: the dataset does not have this split. Only of
    # the portraits that ship it is an upper limit: of others, any positive number takes all.
    identities: dict[Literal[SPLITS], NonNegativeInt]
    # Real videos per portrait, and as many forged ones.
    videos: int = Field(2, ge=1, le=26)
    frames: int = Field(4, ge=1, le=10_000)  # frames per video
    size: int = Field(96, ge=64, le=2048)  # height and width of a frame, in pixels
    seed: int = Field(0, ge=0)
    methods: tuple[Literal[*METHODS], ...] = Field(min_length=1)
    crop: Crop = Crop()
    camera: Camera = Camera()
    forgery: Forgery = Forgery()
    delivery: Delivery = Delivery()
    # How much a mark in the corner reveals about the label: 0 nothing, 1 all; None: no mark. See
    # camera.mark.
    cue: float | None = Field(None, ge=0, le=1)
    # The defaults below are left out where settings are written, so that settings which do not
    # state them are written as they were before there were such settings.
    #
    # In this share of the films, the methods forge a part of the face, the same for all, instead of
    # their own regions. Without parts a constant map finds what is forged.
    parts: float = Field(0, ge=0, le=1, exclude_if=lambda share: share == 0)
    # About this share of the people of the split train is kept; which ones depends on the dataset's
    # name.
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
            raise ValueError(f"identities has no people for {' or '.join(shown)}; add some")
        others = [split for split in SPLITS[:2] if self.identities.get(split)]
        if self.test_people != "test" and others:
            raise ValueError("test_people needs identities of test alone")
        if self.delivery.h264 is not None and self.size % 2:  # else frames would lack a row
            raise ValueError(f"H.264 needs an even size, not {self.size}")
        return self


def preset_identity(name: str, settings: Settings) -> str:
    """The identifier of a dataset's data; the dataset need not be built.

    It is the digest, 16 hexadecimal digits, of the generator's version and the parameters. Pixels
    are not hashed, because they differ between machines by rounding.
    ``frames.data_identity`` gives the same for the record of the built dataset.
    """
    return digest(parameters(name, settings), digits=16)


def parameters(name: str, settings: Settings) -> dict[str, Any]:
    """All that a dataset's pixels depend on.

    ``dataset.json`` has these values, and :func:`preset_identity` is their hash.
    """
    values = {"name": name, "generator": GENERATOR, **settings.model_dump(mode="json")}
    # In place of the folder's path: the same photographs elsewhere give the same pixels. A list,
    # because digest ignores the order of keys: people are numbered in this order.
    values["portraits"] = digest([*photographs.hashes(settings.portraits).items()])
    # Of a setting that left and changed no dataset; without it each would have another identity.
    values["forgery"]["regrain"] = [0.3, 0.6]
    return values
