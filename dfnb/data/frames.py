"""The frames of a dataset: how they are stored, read, sampled and augmented.

``datasets/<name>/frames.parquet`` has one row a frame (:data:`COLUMNS`). Pixels lie in one folder a video, as
memory-mapped arrays: crops (n, H, W, 3) uint8 RGB in ``frames.npy``, masks packed to one bit a pixel
along the row in ``masks.npy``.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from dfnb import core
from dfnb.core import DfnbError

_text = pa.dictionary(pa.int32(), pa.string())
COLUMNS: dict[str, pa.DataType] = {
    "dataset": _text,
    "split": _text,  # train, val, test
    "video": _text,  # unique within the dataset: method and name, FaceSwap/000_003
    "track": pa.int16(),  # tells two people of a video apart
    "frame": pa.int32(),  # the number in the source video
    "row": pa.int32(),  # the place in the stored array: drop-outs make the two differ
    "cluster": _text,  # what repeats and must be resampled together: identity, or pair of FaceForensics++
    "identity": _text,  # target of the manipulation
    "source": _text,  # donor, empty where there is none
    "method": _text,  # real, or the manipulation's name
    "label": pa.int8(),  # 0 real, 1 fake
    "path": _text,  # .npy of crops or an image file, relative to the dataset's folder
    "mask": _text,  # .npy of packed masks; empty: none known (fake) or all zero (real)
    "landmarks": pa.list_(pa.float32(), 10),  # x, y in crop pixels: right eye, left eye, nose tip, mouth corners
    "crop_box": pa.list_(pa.float32(), 4),  # left, top, right, bottom in source pixels
    "scale": pa.float32(),  # crop pixels a source pixel
}
SCHEMA = pa.schema(COLUMNS)
SPLITS = ("train", "val", "test")


def dataset_folder(name: str | Path) -> Path:
    """``datasets/<name>`` under the home, or the folder itself when ``name`` is a path."""
    return Path(name) if os.sep in str(name) else core.home() / "datasets" / str(name)


def write_video(
    folder: Path, rows: list[dict], crops: np.ndarray | Path, masks: np.ndarray | Path | None, **facts: Any
) -> None:
    """Write one video of a dataset: crops (n, H, W, 3) uint8 RGB, masks (n, H, W) bool or None, and its rows.

    For a video larger than memory crops and masks are paths of .npy files (the masks packed) that are moved here.

    ``folder`` is ``<dataset>/videos/<video>``; it appears complete or not at all. ``rows`` need what the array cannot
    tell: all of :data:`COLUMNS` but ``video``, ``row``, ``path`` and ``mask``. ``facts`` (drop-outs) are kept beside.
    """
    pixels = np.load(crops, mmap_mode="r") if isinstance(crops, Path) else crops
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(rows):
        raise ValueError(f"crops must be (n, H, W, 3) uint8 with one row each, not {pixels.dtype} {pixels.shape}")
    with core.atomic_folder(folder) as temporary:
        facts["crops_hash"] = _put(temporary / "frames.npy", crops)
        if masks is not None:
            packed = masks if isinstance(masks, Path) else np.packbits(masks, axis=-1)
            facts |= {"masks_hash": _put(temporary / "masks.npy", packed), "mask_width": pixels.shape[2]}
        core.write_json(temporary / "video.json", {**facts, "rows": rows}, indent=None)


def _put(path: Path, array: np.ndarray | Path) -> str:
    """Write or move an array to a file; returns a hash of its bytes."""
    if not isinstance(array, Path):
        np.save(path, array)
        return core.sha256(path)
    array.rename(path)
    with path.open("rb") as file:  # sha256 would be a quarter of preparing on a processor without instructions for it
        return hashlib.file_digest(file, "blake2b").hexdigest()


def write_dataset(folder: Path, parameters: dict, **facts: Any) -> dict:
    """Gather the videos of a dataset into ``frames.parquet`` and write its record; returns the record.

    The fingerprint hashes the parameters, the canonical rows and each video's crop and mask bytes, so that it does not
    depend on the version of any library; ``facts`` (quarantine list, drop-outs, ...) are kept in the record.
    """
    rows: list[dict] = []
    pixels: dict[str, tuple] = {}
    videos = folder / "videos"
    for described in sorted(videos.rglob("video.json")):
        video = described.parent.relative_to(videos).as_posix()
        if any(part.startswith(".") for part in Path(video).parts):
            continue  # what a killed writer left behind
        content = core.read_json(described)
        pixels[video] = (content["crops_hash"], content.get("masks_hash"))
        path = f"videos/{video}/frames.npy"
        mask = f"videos/{video}/masks.npy" if "masks_hash" in content else ""
        rows += [
            {"video": video, "row": place, "path": path, "mask": mask, **row}
            for place, row in enumerate(content["rows"])
        ]
    if not rows:
        raise DfnbError(f"{folder} has no frame to write: no video gave a usable face")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    fingerprint = core.digest([parameters, pixels, [[row[name] for name in COLUMNS] for row in rows]], digits=16)
    with core.atomic(folder / "frames.parquet") as temporary:
        pq.write_table(table, temporary)
    groups = table.to_pandas().groupby(["split", "method"], observed=True)
    counts = groups.agg(frames=("row", "size"), videos=("video", "nunique"))
    n = {f"{split}/{method}": dict(values) for (split, method), values in counts.to_dict("index").items()}
    return core.write_record(folder, parameters, ["frames.parquet"], fingerprint=fingerprint, n=n, **facts)


def load_frames(name: str | Path) -> pd.DataFrame:
    """The frames table of a prepared dataset; ``.attrs`` has its ``folder``, ``fingerprint`` and ``record``.

    Raises :class:`DfnbError` when the dataset is not there, was not finished, or has other columns.
    """
    folder = dataset_folder(name)
    record = core.read_record(folder)
    if record is None:
        raise DfnbError(
            f"{folder} holds no finished dataset (no record.json); make it with `dfnb synth` or `dfnb prepare`, "
            "or run notebook 01_data"
        )
    table = pq.read_table(folder / "frames.parquet", memory_map=True)
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise DfnbError(
            f"{folder / 'frames.parquet'} lacks the columns {', '.join(missing)}; prepare the dataset again"
        )
    lists = {kind: pd.ArrowDtype(kind) for kind in table.schema.types if pa.types.is_fixed_size_list(kind)}
    # column by column, each given back at once: two million rows must not lie in memory twice
    frames = table.to_pandas(types_mapper=lists.get, split_blocks=True, self_destruct=True)
    del table
    pa.default_memory_pool().release_unused()
    frames.attrs = {"folder": str(folder), "fingerprint": record["fingerprint"], "record": record}
    return frames


def select(
    frames: pd.DataFrame,
    split: str | None = None,
    methods: Sequence[str] | None = None,
    frames_per_video: int | None = None,
) -> pd.DataFrame:
    """Rows of a split, of some methods (real frames always stay), and at most n frames a video, evenly spaced.

    Raises :class:`DfnbError` when nothing is left.
    """
    chosen = np.ones(len(frames), bool)
    if split is not None:
        chosen &= (frames["split"] == split).to_numpy()
    if methods is not None:
        if unknown := sorted(set(methods) - set(frames["method"])):
            raise DfnbError(
                f"{frames.attrs.get('folder', 'the frames table')} has no method {', '.join(unknown)}; "
                f"it has {', '.join(sorted(set(frames['method'])))}"
            )
        chosen &= frames["method"].isin([*methods, "real"]).to_numpy()
    result = frames[chosen]
    if frames_per_video is not None and len(result):
        order = result.groupby(["video", "track"], observed=True)["frame"].rank(method="first").to_numpy() - 1
        n = result.groupby(["video", "track"], observed=True)["frame"].transform("size").to_numpy()
        # rank r is kept where floor(r * k / n) steps: k evenly spaced frames of n, all of them when n <= k
        k = np.minimum(frames_per_video, n)
        result = result[np.floor(order * k / n) != np.floor((order - 1) * k / n)]
    if result.empty:
        raise DfnbError(
            f"{frames.attrs.get('folder', 'the frames table')} has no frame of split {split!r} and methods {methods}; "
            f"it has {sorted(frames['split'].unique())} and {sorted(frames['method'].unique())}"
        )
    return result


def masked(frames: pd.DataFrame) -> np.ndarray:
    """Positions in the table of the fakes that have a mask."""
    return np.flatnonzero((frames["label"] == 1) & (frames["mask"].astype(str) != ""))


def keep_masks(frames: pd.DataFrame, rows: Sequence[int]) -> pd.DataFrame:
    """The frames with all masks taken out of the table but those of ``rows``, which are positions in it."""
    mask = np.full(len(frames), "", dtype=object)
    mask[rows] = frames["mask"].astype(str).to_numpy(dtype=object)[rows]
    return frames.assign(mask=mask)


def hide_masks(frames: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """The frames with the masks of all but a share in [0, 1] of the fakes taken out of the table, drawn by the seed.

    Raises :class:`DfnbError` when masks are asked for and none is left.
    """
    known = masked(frames)
    kept = round(share * len(known))
    if share and not kept:
        raise DfnbError(
            f"{frames.attrs.get('folder', 'the frames table')} has masks for {len(known)} of the chosen fakes, and "
            f"the share {share:g} of them is none; raise the share, or prepare the dataset with masks"
        )
    return keep_masks(frames, core.rng("annotated", seed).permutation(known)[:kept])


class Pixels:
    """Reads crops and masks of a dataset; keeps a bounded number of arrays memory-mapped, per process."""

    def __init__(self, folder: str | Path, keep: int = 4096) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self._open: OrderedDict[str, np.ndarray] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}

    def _array(self, path: str) -> np.ndarray:
        if self._process != os.getpid():  # an array mapped before a fork is garbage in the child
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = np.load(self.folder / path, mmap_mode="r")
            if len(self._open) > self.keep:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]

    def crop(self, path: str, row: int) -> np.ndarray:
        """One crop (H, W, 3) uint8 RGB; raises :class:`DfnbError` when an image file cannot be read."""
        if path.endswith(".npy"):
            return np.array(self._array(path)[row])
        image = cv2.imread(str(self.folder / path), cv2.IMREAD_COLOR)
        if image is None:
            raise DfnbError(f"{self.folder / path} cannot be read as an image; remove its row or restore the file")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def mask(self, path: str, row: int, shape: tuple[int, int]) -> np.ndarray:
        """One mask (H, W) bool of the given shape; all False where ``path`` is empty."""
        if not path:
            return np.zeros(shape, bool)
        if path.endswith(".npy"):
            return np.unpackbits(self._array(path)[row], axis=-1, count=shape[1]).astype(bool)
        mask = cv2.imread(str(self.folder / path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise DfnbError(
                f"{self.folder / path} cannot be read as a mask; remove it from its row or restore the file"
            )
        return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST) > 127


def landmarks_array(frames: pd.DataFrame) -> np.ndarray:
    """The landmarks of a frames table as (n, 5, 2) float32, NaN where unknown."""
    column = pa.array(frames["landmarks"])
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    known = column.fill_null(pa.scalar([np.nan] * 10, COLUMNS["landmarks"]))
    return known.flatten().to_numpy().reshape(-1, 5, 2).copy()


class FrameDataset(Dataset):
    """Images, labels, masks and landmarks of a frames table, normalised, augmented from (seed, epoch, position).

    An index is the triple (epoch, position in the epoch's order, row of the table); see :class:`EpochSampler`. The
    position, not the row, seeds the augmentation: an oversampled real frame must not get the same one four times.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: str = "none",
        seed: int = 0,
    ) -> None:
        self.pixels = Pixels(frames.attrs["folder"])
        self.path, self.mask_path = frames["path"].astype(str).to_numpy(), frames["mask"].astype(str).to_numpy()
        self.row, self.label = frames["row"].to_numpy(), frames["label"].to_numpy().astype(np.int64)
        self.landmarks = landmarks_array(frames)
        self.image_size, self.mean, self.std = image_size, list(mean), list(std)
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: tuple[int, int, int]) -> dict[str, Tensor]:
        epoch, position, i = index
        crop = self.pixels.crop(self.path[i], self.row[i])
        height, width = crop.shape[:2]
        mask = self.pixels.mask(self.mask_path[i], self.row[i], (height, width))
        landmarks = torch.from_numpy(self.landmarks[i])
        image = torch.from_numpy(crop).permute(2, 0, 1)
        region = torch.from_numpy(mask)[None].to(torch.uint8)
        if (height, width) != (self.image_size, self.image_size):
            size = [self.image_size, self.image_size]
            image = TF.resize(image, size, antialias=True)
            region = TF.resize(region, size, interpolation=v2.InterpolationMode.NEAREST)
            landmarks = landmarks * torch.tensor([self.image_size / width, self.image_size / height])
        if self.augmentation != "none":
            generator = core.rng("augment", self.seed, epoch, position)
            image, region, landmarks = AUGMENTATIONS[self.augmentation](image, region, landmarks, generator)
        return {
            "image": TF.normalize(image.float().div_(255), self.mean, self.std, inplace=True),
            "label": torch.tensor(self.label[i]),
            "mask": region.float(),
            "has_mask": torch.tensor(bool(self.mask_path[i]) or self.label[i] == 0),
            "landmarks": landmarks,
        }


class EpochSampler(Sampler[list[tuple[int, int, int]]]):
    """Batches of one epoch: real and fake equally often, fakes equally by method, in an order drawn from (seed, epoch).

    An epoch has as many images as the table has rows, or ``limit``. With ``oversampling`` it is instead every fake
    once and every real frame so many times. ``skip`` leaves out the batches a resumed run
    has seen. Of several processes each takes every ``world``-th item of a batch.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        batch_size: int,
        seed: int,
        limit: int | None = None,
        oversampling: int | None = None,
    ) -> None:
        method = frames["method"].astype(str).to_numpy()
        label = frames["label"].to_numpy()
        if len(set(label.tolist())) < 2:
            raise DfnbError(
                f"{frames.attrs.get('folder', 'the frames table')} has one class only; training needs real and fake"
            )
        fakes = sorted(set(method[label == 1]))
        self.groups = [np.flatnonzero(label == 0)] + [np.flatnonzero((label == 1) & (method == name)) for name in fakes]
        most = len(frames) + len(self.groups[0]) * ((oversampling or 1) - 1)
        self.oversampling = oversampling
        self.n = min(most, limit or most) // batch_size * batch_size
        if self.n == 0:
            raise DfnbError(
                f"{frames.attrs.get('folder', 'the frames table')} has {len(frames)} frames to train on, fewer than "
                f"one batch of {batch_size}; lower batch_size"
            )
        self.batch_size, self.seed = batch_size, seed
        self.epoch, self.skip, self.rank, self.world = 0, 0, 0, 1

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers (n,) in the epoch's order; each group is used up before any of its rows comes again."""
        generator = core.rng("order", self.seed, epoch)
        if self.oversampling:
            rows = np.concatenate([np.tile(self.groups[0], self.oversampling), *self.groups[1:]])
            return generator.permutation(rows)[: self.n]
        fakes = len(self.groups) - 1
        shares = [self.n - self.n // 2] + [(self.n // 2 + i) // fakes for i in range(fakes)]
        rows = []
        for group, share in zip(self.groups, shares):
            rounds = [generator.permutation(group) for _ in range(-(-share // len(group)))]
            rows.append(np.concatenate(rounds)[:share])
        return generator.permutation(np.concatenate(rows))

    def __len__(self) -> int:
        return self.n // self.batch_size - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = self.order(self.epoch)
        for start in range(self.skip * self.batch_size, self.n, self.batch_size):
            places = range(start + self.rank, start + self.batch_size, self.world)
            yield [(self.epoch, place, int(order[place])) for place in places]


Augmented = tuple[Tensor, Tensor, Tensor]


def _flip(image: Tensor, region: Tensor, landmarks: Tensor) -> Augmented:
    """Mirror left and right; the two eyes and the two mouth corners change places."""
    mirrored = landmarks[[1, 0, 2, 4, 3]].clone()
    mirrored[:, 0] = image.shape[-1] - 1 - mirrored[:, 0]
    return TF.horizontal_flip(image), TF.horizontal_flip(region), mirrored


def _affine(
    image: Tensor, region: Tensor, landmarks: Tensor, angle: float, shift: tuple[float, float], scale: float
) -> Augmented:
    """Rotate by ``angle`` degrees and scale about the centre, then shift by a share of the size; edges are mirrored."""
    size = image.shape[-1]
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), angle, scale)
    matrix[:, 2] += np.multiply(shift, size)

    def warp(tensor: Tensor, how: int) -> Tensor:
        pixels = tensor.permute(1, 2, 0).numpy()
        moved = cv2.warpAffine(pixels, matrix, (size, size), flags=how, borderMode=cv2.BORDER_REFLECT_101)
        return torch.from_numpy(moved.reshape(pixels.shape)).permute(2, 0, 1)

    points = landmarks @ torch.tensor(matrix[:, :2].T, dtype=torch.float32) + torch.tensor(matrix[:, 2]).float()
    return warp(image, cv2.INTER_LINEAR), warp(region, cv2.INTER_NEAREST), points


def _colour(image: Tensor, generator: np.random.Generator, strength: float) -> Tensor:
    brightness, contrast, saturation = generator.uniform(1 - strength, 1 + strength, 3)
    image = TF.adjust_brightness(image, brightness)
    image = TF.adjust_contrast(image, contrast)
    return TF.adjust_saturation(image, saturation)


def light(image: Tensor, region: Tensor, landmarks: Tensor, generator: np.random.Generator) -> Augmented:
    """Mirror (p .5), shift by up to 6 %, brightness, contrast and saturation by up to 20 %."""
    if generator.random() < 0.5:
        image, region, landmarks = _flip(image, region, landmarks)
    margin = image.shape[-1] // 16
    dx, dy = generator.integers(-margin, margin + 1, 2).tolist()
    top, left = margin - dy, margin - dx
    image = TF.crop(TF.pad(image, [margin] * 4, padding_mode="reflect"), top, left, *image.shape[-2:])
    region = TF.crop(TF.pad(region, [margin] * 4), top, left, *region.shape[-2:])
    landmarks = landmarks + torch.tensor([dx, dy])
    return _colour(image, generator, 0.2), region, landmarks


def locate_and_verify(image: Tensor, region: Tensor, landmarks: Tensor, generator: np.random.Generator) -> Augmented:
    """The augmentation of Locate and Verify's released code, in its order, drawn here from ``generator``.

    Geometric: mirror in x, y or both (.5), quarter turns (.5), a square crop of 30 to 100 % of the area (.4), shift by
    6 %, scale by 20 %, turn by 45° (.5). Photometric: grey (.1), JPEG 60 to 100 (.3), blur 3 (.05), Gaussian noise of
    variance 10 to 50 (.1), one of brightness and contrast, PCA lighting, and hue, saturation and value (.5).
    """
    draw, size = generator, image.shape[-1]
    if draw.random() < 0.5:
        axes = draw.integers(1, 4)
        if axes & 1:
            image, region, landmarks = _flip(image, region, landmarks)
        if axes & 2:
            image, region, landmarks = _turn(*_turn(*_flip(image, region, landmarks)))
    if draw.random() < 0.5:
        for _ in range(draw.integers(0, 4)):
            image, region, landmarks = _turn(image, region, landmarks)
    if draw.random() < 0.4:
        side = round(size * np.sqrt(draw.uniform(0.3, 1.0)))
        top, left = draw.integers(0, size - side + 1, 2).tolist()
        image = TF.resized_crop(image, top, left, side, side, [size, size])
        region = TF.resized_crop(region, top, left, side, side, [size, size], v2.InterpolationMode.NEAREST)
        landmarks = (landmarks - torch.tensor([left, top])) * (size / side)
    if draw.random() < 0.5:
        shift, scale, angle = draw.uniform(-0.0625, 0.0625, 2), draw.uniform(0.8, 1.2), draw.uniform(-45, 45)
        image, region, landmarks = _affine(image, region, landmarks, angle, shift, scale)
    if draw.random() < 0.1:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if draw.random() < 0.3:
        image = TF.jpeg(image, int(draw.integers(60, 101)))
    if draw.random() < 0.05:
        image = TF.gaussian_blur(image, [3, 3])
    if draw.random() < 0.1:
        image = _noise(image, draw)
    if draw.random() < 0.5:
        image = COLOURS[draw.integers(0, 3)](image, draw)
    return image, region, landmarks


def exposing_the_deception(
    image: Tensor, region: Tensor, landmarks: Tensor, generator: np.random.Generator
) -> Augmented:
    """The augmentation of Exposing the Deception's released code, in its order, drawn here from ``generator``.

    JPEG 60 to 100 (.5), Gaussian noise (.1), blur 3 (.05), mirror (.5), one of brightness and contrast, PCA lighting, and
    hue, saturation and value (.7), grey (.2), shift by 10 %, scale by 20 %, turn by 10° (.5).
    """
    draw = generator
    if draw.random() < 0.5:
        image = TF.jpeg(image, int(draw.integers(60, 101)))
    if draw.random() < 0.1:
        image = _noise(image, draw)
    if draw.random() < 0.05:
        image = TF.gaussian_blur(image, [3, 3])
    if draw.random() < 0.5:
        image, region, landmarks = _flip(image, region, landmarks)
    if draw.random() < 0.7:
        image = COLOURS[draw.integers(0, 3)](image, draw)
    if draw.random() < 0.2:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if draw.random() < 0.5:
        shift, scale, angle = draw.uniform(-0.1, 0.1, 2), draw.uniform(0.8, 1.2), draw.uniform(-10, 10)
        image, region, landmarks = _affine(image, region, landmarks, angle, shift, scale)
    return image, region, landmarks


def _noise(image: Tensor, draw: np.random.Generator) -> Tensor:
    noise = draw.normal(0, np.sqrt(draw.uniform(10, 50)), image.shape)
    return (image + torch.from_numpy(noise)).round().clamp(0, 255).byte()


def _turn(image: Tensor, region: Tensor, landmarks: Tensor) -> Augmented:
    """A quarter turn counter-clockwise."""
    x, y = landmarks.T
    return image.rot90(1, (1, 2)), region.rot90(1, (1, 2)), torch.stack([y, image.shape[-1] - 1 - x], 1)


def _brightness_contrast(image: Tensor, draw: np.random.Generator) -> Tensor:
    brightness, contrast = draw.uniform(0.8, 1.2, 2)
    return TF.adjust_contrast(TF.adjust_brightness(image, brightness), contrast)


def _pca_lighting(image: Tensor, draw: np.random.Generator) -> Tensor:
    """Shift along the principal axes of the image's own colours (Krizhevsky et al., NeurIPS 2012), deviation 0.1."""
    values, axes = torch.linalg.eigh(torch.cov(image.flatten(1).float() / 255))
    shift = axes @ (values * torch.from_numpy(draw.normal(0, 0.1, 3)).float())
    return (image + 255 * shift[:, None, None]).round().clamp(0, 255).byte()


def _hue_saturation_value(image: Tensor, draw: np.random.Generator) -> Tensor:
    hue, saturation, value = draw.uniform([-1 / 9, 0.88, 0.92], [1 / 9, 1.12, 1.08])
    return TF.adjust_brightness(TF.adjust_saturation(TF.adjust_hue(image, hue), saturation), value)


COLOURS = (_brightness_contrast, _pca_lighting, _hue_saturation_value)
AUGMENTATIONS = {f.__name__: f for f in (light, locate_and_verify, exposing_the_deception)}
