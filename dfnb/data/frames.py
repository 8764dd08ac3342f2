"""The frames of a dataset: how they are stored, read, sampled and batched.

``datasets/<name>/frames.parquet`` has one row per frame (columns: ``frames.yaml``). Pixels lie in one folder per video, as
arrays: crops (n, H, W, 3) uint8 RGB in ``frames.npy``, masks packed to one bit per pixel along the row in ``masks.npy``.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, default_collate
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from dfnb import core
from dfnb.core import DfnbError


def _arrow(kind: Any) -> pa.DataType:
    """Arrow's type by what ``frames.yaml`` calls it."""
    if isinstance(kind, list):
        return pa.list_(pa.type_for_alias(kind[0]), kind[1])
    return pa.dictionary(pa.int32(), pa.string()) if kind == "text" else pa.type_for_alias(kind)


COLUMNS = {name: _arrow(kind) for name, kind in core.read_yaml(Path(__file__).with_suffix(".yaml")).items()}
SPLITS = ("train", "val", "test")
UNKNOWN = ("landmarks", "crop_box", "scale")  # of crops that are used where they lie
FULL = pa.schema([pa.field(name, kind, nullable=name in UNKNOWN) for name, kind in COLUMNS.items()])
AGAIN = "delete frames.parquet and prepare the dataset again"
ROW_GROUP = 50_000  # rows that a writer of the table holds, and that a reader may take at a time


class Sample(NamedTuple):
    """One image as it is stored, before resizing and augmentation."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (H, W) bool, True where forged
    landmarks: np.ndarray  # (5, 2) float32, x and y in pixels of the image; NaN where unknown
    label: int  # 0 real, 1 fake
    has_mask: bool  # False: nobody knows where the image was forged, and ``mask`` is all False


def dataset_folder(name: str | Path) -> Path:
    """``datasets/<name>`` under the home, or the folder itself when ``name`` is a path."""
    return Path(name) if "/" in str(name) else core.home() / "datasets" / name


# ---------------------------------------------------------------- writing


def write_video(folder: Path, rows: list, crops: np.ndarray | None, masks: np.ndarray | None, **facts: Any) -> None:
    """Write one video of a dataset: crops (n, H, W, 3) uint8 RGB, masks (n, H, W) bool or None, and its rows.

    ``folder`` is ``<dataset>/videos/<video>``; it appears complete or not at all. ``rows`` need what the array cannot
    tell: all of :data:`COLUMNS` but ``video``, ``row``, ``path`` and ``mask``. ``facts`` (drop-outs) are kept beside.
    Without crops the rows say in ``path`` and ``mask`` which images are used where they lie, and ``facts`` have a
    ``crops_hash`` of these.
    """
    with core.atomic(folder) as temporary:
        temporary.mkdir()
        if crops is not None:
            np.save(temporary / "frames.npy", crops)
        if masks is not None:
            np.save(temporary / "masks.npy", np.packbits(masks, axis=-1))
        core.write_json(temporary / "video.json", {**facts, **_array_hashes(temporary), "rows": rows}, indent=None)


def _array_hashes(video: Path) -> dict[str, str]:
    """Hashes of the arrays in a video's folder."""
    arrays = {"crops_hash": video / "frames.npy", "masks_hash": video / "masks.npy"}
    # sha256 takes a quarter of the preparation on processors without instructions for it
    return {name: hashlib.blake2b(path.read_bytes()).hexdigest() for name, path in arrays.items() if path.exists()}


def images_hash(folder: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """A hash of the crops and masks that the rows of a video name in ``folder``, where they are used in place."""
    images = [[core.sha256(folder / row[name]) if row.get(name) else "" for name in ("path", "mask")] for row in rows]
    return core.digest(images, 64)


def write_dataset(folder: Path, parameters: dict, **facts: Any) -> dict:
    """Gather the videos of a dataset into ``frames.parquet`` and write its record; returns the record.

    Rows are written as the videos are read, :data:`ROW_GROUP` or a few more at a time, so that five million fit in memory.
    The fingerprint hashes the parameters, the canonical rows and each video's crop and mask bytes, so that it does not
    depend on the version of any library. ``facts`` (quarantine list, drop-outs, ...) are kept in the record, and ``n``
    counts frames and videos per split and method. Raises :class:`DfnbError` when there is no frame.
    """
    files = sorted((folder / "videos").rglob("[!.]*/video.json"))  # a killed writer's folder begins with a dot
    if not files:
        raise DfnbError(f"{folder} has no frame to write: no video gave a usable face")
    schema, digests, n, waiting = pa.schema(COLUMNS), [], {}, []
    path = folder / "frames.parquet"
    with core.atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for file in files:
            video, content = file.parent.relative_to(folder / "videos").as_posix(), core.read_json(file)
            hashes = [content["crops_hash"], content.get("masks_hash")]
            mask = f"videos/{video}/masks.npy" if hashes[1] else ""
            known = {"video": video, "path": f"videos/{video}/frames.npy", "mask": mask}
            rows = [known | {"row": i} | row for i, row in enumerate(content["rows"])]
            digests.append([video, core.digest([hashes, [[row[name] for name in COLUMNS] for row in rows]], digits=64)])
            for kind, frames in Counter(f"{row['split']}/{row['method']}" for row in rows).items():
                n.setdefault(kind, Counter()).update(frames=frames, videos=1)
            waiting += rows
            if len(waiting) >= ROW_GROUP or file == files[-1]:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting = []
    known = {"fingerprint": core.digest([parameters, digests], digits=16), "n": dict(sorted(n.items()))}
    return core.write_record(folder, parameters, [path.name], **known, **facts)


# ---------------------------------------------------------------- the table


def dataset_record(name: str | Path) -> dict:
    """The record of a prepared dataset; raises :class:`DfnbError` when the dataset is not there or was not finished."""
    folder = dataset_folder(name)
    record = core.read_record(folder) or {}
    if "fingerprint" not in record:
        raise DfnbError(f"{folder} holds no finished dataset; make it with `dfnb synth` or `dfnb prepare`")
    return record


def load_frames(name: str | Path) -> pd.DataFrame:
    """The frames table of a prepared dataset; ``.attrs`` has its ``folder``, ``fingerprint`` and ``record``.

    Raises :class:`DfnbError` when the dataset is not there, was not finished or altered, lacks columns or values, has
    impossible ones, or names files outside its folder.
    """
    folder, record = dataset_folder(name), dataset_record(name)
    path = folder / "frames.parquet"
    core.verified(path, record["outputs"].get(path.name, ""), f"is not the file that its record describes; {AGAIN}")
    with core.reading(path, "as frames of a dataset", AGAIN):
        table = pq.read_table(path, memory_map=True).select([*COLUMNS]).cast(FULL)
    lists = {kind: pd.ArrowDtype(kind) for kind in table.schema.types if pa.types.is_fixed_size_list(kind)}
    # column by column, each freed at once: two million rows must not lie in memory twice
    frames = table.to_pandas(types_mapper=lists.get, split_blocks=True, self_destruct=True)
    pa.default_memory_pool().release_unused()
    files = sorted({*frames["path"].unique(), *frames["mask"].unique()} - {""})
    for file in map(Path, files):
        if file.is_absolute() or ".." in file.parts:  # crops used in place lie below the dataset's own link `tree`
            raise DfnbError(f"{folder}: {file} lies outside the dataset's folder; {AGAIN}")
    for method in frames["method"].unique():
        core.Named.check({"title": method}, f"{path}, a method")
    label, fake = frames["label"], frames["method"] != "real"
    sound = label.isin([0, 1]) & (label == fake) & frames["split"].isin(SPLITS) & (frames["row"] >= 0)
    if not sound.all():
        wrong = frames.loc[sound.idxmin(), ["video", "split", "method", "label", "row"]].to_dict()
        raise DfnbError(f"{path} has {wrong}, which cannot be (label: 0 real, 1 fake); {AGAIN}")
    _check_pixels(folder, files, frames["video"].unique())
    frames.attrs = {"folder": str(folder), "fingerprint": record["fingerprint"], "record": record}
    return frames


def kept_beside(path: Path, facts: Mapping[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """:func:`core.cached` in a dataset's folder; made each time where others own the folder, and it can only be read."""
    return core.cached(path, facts, make) if os.access(path.parent, os.W_OK) else make()


def _check_pixels(folder: Path, files: Iterable[str], videos: Iterable[str]) -> None:
    """Raise :class:`DfnbError` where the crops or masks of a dataset are not those that were prepared.

    All are hashed once, and again only when one of the ``files`` has another size or time of change than then, or where the
    folder can only be read. A file that is gone is named by who reads it: nobody reads a mask that training may not see.
    """
    with core.reading(folder, "as a dataset", f"restore it, or delete the folder of that video, {AGAIN}"):
        stats = [(folder / file).stat() for file in files if (folder / file).exists()]
        facts = {"files": core.digest([[stat.st_size, stat.st_mtime_ns] for stat in stats])}
        kept_beside(folder / "checked.parquet", facts, lambda: _checked(folder, videos))


def _checked(folder: Path, videos: Iterable[str]) -> pd.DataFrame:
    """The names of the videos, whose crops and masks have the hashes that were noted at preparation; an error where not."""
    for video in [folder / "videos" / name for name in videos]:
        content = core.read_json(video / "video.json")
        hashes = _array_hashes(video) or {"crops_hash": images_hash(folder, content["rows"])}
        if content | hashes != content:
            raise ValueError(f"a crop or mask of {video} is not the one that was prepared")
    return pd.DataFrame({"video": videos})


def identity(record: Mapping[str, Any]) -> str:
    """What identifies the data of a dataset with this record, the same on every machine.

    Of a drawn dataset a digest of its generator's version and parameters, since its bytes differ between machines by
    rounding; of any other the fingerprint of its bytes.
    """
    return core.digest(record["parameters"], 16) if "generator" in record["parameters"] else record["fingerprint"]


def select(frames: pd.DataFrame, split: str | None = None, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows of a split, and of some methods; real frames always stay.

    Raises :class:`DfnbError` when nothing is left, or for a method that the table does not have.
    """
    chosen = frames if split is None else frames[frames["split"] == split]
    if methods is not None:
        chosen = chosen[chosen["method"].isin([*methods, "real"])]
    if chosen.empty or not {*(methods or ())} <= {*frames["method"]}:
        known = ", ".join(sorted({*(frames["split"].astype(str) + "/" + frames["method"].astype(str))}))
        raise DfnbError(f"{frames.attrs['folder']} has no frame of split {split!r} or methods {methods}, but {known}")
    return chosen


def first_clusters(frames: pd.DataFrame, videos: int | None) -> pd.DataFrame:
    """The frames of the first clusters by name, as few as hold half so many videos of each class; all where None."""
    counts = frames.astype({"cluster": str}).groupby(["label", "cluster"])["video"].nunique()
    before = counts.groupby("label").cumsum() - counts
    return frames[frames["cluster"].isin(counts.index[before < (videos or np.inf) / 2].get_level_values("cluster"))]


def thinned(frames: pd.DataFrame, per_video: int | None) -> pd.DataFrame:
    """At most ``per_video`` frames of each video, evenly spaced; all where None."""
    rows = frames.groupby("video", observed=True)["row"]
    place, total = rows.cumcount(), rows.transform("size")
    n = total.clip(upper=per_video)
    return frames[(place + 1) * n // total > place * n // total]


def both_classes(frames: pd.DataFrame, split: str, made: bool = False) -> None:
    """Raise :class:`DfnbError` unless the frames of a split are real and fake, each of two clusters or more.

    One class is enough where the other is ``made`` of it.
    """
    real, fake = (frames.loc[frames["label"] == label, "cluster"] for label in (0, 1))
    if (max if made else min)(real.nunique(), fake.nunique()) < 2:
        found = f"{len(real)} real frames of {real.nunique()} clusters and {len(fake)} fake frames of {fake.nunique()}"
        need = "training needs two clusters of each; choose other methods or data, or add videos of other people"
        raise DfnbError(f"{frames.attrs['folder']}: split {split!r} has {found}, and {need}")


def masked(frames: pd.DataFrame) -> np.ndarray:
    """Positions in the table of the fakes that have a mask."""
    return np.flatnonzero((frames["label"] == 1) & (frames["mask"].astype(str) != ""))


def keep_masks(frames: pd.DataFrame, rows: Sequence[int], share: float = 0) -> pd.DataFrame:
    """The frames with all masks taken out of the table but those of ``rows``, which are positions in it.

    Raises :class:`DfnbError` when there are no rows although they should be a ``share`` of something.
    """
    if share and not len(rows):
        found = f"{len(masked(frames))} masks for {len(frames)} frames, and the share annotated = {share:g} is none"
        mend = "raise it, prepare the dataset with masks, or learn without: annotated = 0, and for SSPSL sspsl = true"
        raise DfnbError(f"{frames.attrs['folder']} has {found}; {mend}")
    return frames.assign(mask=frames["mask"].astype(str).where(np.isin(np.arange(len(frames)), rows), ""))


def mean_mask(frames: pd.DataFrame) -> np.ndarray | None:
    """The mean mask (H, W) in [0, 1] of the forged frames of a table; None where no mask is known."""
    known, pixels = frames.iloc[masked(frames)], Pixels(frames.attrs["folder"])
    if known.empty:
        return None
    shape = pixels.crop(str(known["path"].iloc[0]), known["row"].iloc[0]).shape[:2]
    masks = (pixels.mask(str(mask), row, shape) for mask, row in zip(known["mask"], known["row"]))
    return sum(masks, np.zeros(shape)) / len(known)


def landmarks_array(frames: pd.DataFrame) -> np.ndarray:
    """The landmarks of a frames table as (n, 5, 2) float32, NaN where unknown."""
    column = pa.table({"landmarks": pa.array(frames["landmarks"])})["landmarks"].combine_chunks()
    known = column.fill_null(pa.scalar([np.nan] * 10, COLUMNS["landmarks"]))
    return known.flatten().to_numpy().reshape(-1, 5, 2).copy()


# ---------------------------------------------------------------- pixels


class Pixels:
    """Reads crops and masks of a dataset at their place in the files, none of which stays open."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def crop(self, path: str, row: int | None = None) -> np.ndarray:
        """One crop (H, W, 3) uint8 RGB: an image, or a row of a stored video; without a row all its crops (n, H, W, 3).

        Raises :class:`DfnbError` when the file cannot be read.
        """
        try:
            if not path.endswith(".npy"):
                return cv2.cvtColor(cv2.imread(str(self.folder / path)), cv2.COLOR_BGR2RGB)
            stored = np.lib.format.open_memmap(self.folder / path, mode="r")
            return np.array(stored if row is None else stored[row])
        except (OSError, ValueError, IndexError, cv2.error):
            raise DfnbError(f"{self.folder / path} cannot be read; restore it or prepare its video again") from None

    def mask(self, path: str, row: int, shape: tuple[int, int]) -> np.ndarray:
        """One mask (H, W) bool of the given shape; all False where ``path`` is empty.

        The image of a mask may be larger or smaller than its frame. Raises :class:`DfnbError` for another shape.
        """
        if not path:
            return np.zeros(shape, bool)
        stored, (height, width) = self.crop(path, row), shape
        if path.endswith(".npy"):
            return np.unpackbits(stored, axis=-1, count=width).astype(bool)
        mask = cv2.cvtColor(stored, cv2.COLOR_RGB2GRAY)
        if mask.shape[0] * width != mask.shape[1] * height:
            raise DfnbError(f"{self.folder / path} is no mask of {width} × {height} pixels; prepare its video again")
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 127


# ---------------------------------------------------------------- batches


@dataclass(eq=False)
class FrameDataset(Dataset):
    """Images, labels, masks and landmarks of a frames table, normalised; an item is the list of a frame's samples.

    ``settings`` are a paper's (``papers.Settings``: image_size, mean, std, samples_per_frame, samples, transform). With a
    ``seed`` they make their samples of each stored frame, and those of split train are augmented; without one the frames
    are as they are stored. An index is (epoch, position in the epoch's order, row of the table), see
    :class:`EpochSampler`. The position, not the row, seeds what is drawn: an oversampled frame gets other draws each time.
    """

    frames: InitVar[pd.DataFrame]
    settings: Any
    seed: int | None = None
    split: str = "train"
    pixels: Pixels | None = None

    def __post_init__(self, frames: pd.DataFrame) -> None:
        self.pixels = self.pixels or Pixels(frames.attrs["folder"])
        self.path, self.mask_path = frames["path"].astype(str).to_numpy(), frames["mask"].astype(str).to_numpy()
        self.row, self.label = frames["row"].to_numpy(), frames["label"].to_numpy().astype(np.int64)
        self.landmarks = landmarks_array(frames)
        self.transform = self.settings.transform() if self.seed is not None and self.split == "train" else None

    def __getitem__(self, index: tuple[int, int, int]) -> list[dict[str, Tensor]]:
        epoch, position, row = index
        crop, label, items = self.pixels.crop(self.path[row], self.row[row]), int(self.label[row]), []
        mask = self.pixels.mask(self.mask_path[row], self.row[row], crop.shape[:2])
        sample = Sample(crop, mask, self.landmarks[row], label, has_mask=bool(self.mask_path[row]) or label == 0)
        if self.seed is None:
            return [self._item(sample)]
        samples = self.settings.samples(sample, core.rng("samples", self.split, self.seed, epoch, position))
        if len(samples) != self.settings.samples_per_frame:
            raise DfnbError(f"samples() made {len(samples)} images, not samples_per_frame; mend the paper's Settings")
        for each in samples:  # augmented alike: they differ by what the paper made of the frame, and by nothing else
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(core.torch_seed("augment", self.seed, epoch, position, 0))
                items.append(self._item(each))
        return items

    def _item(self, sample: Sample) -> dict[str, Tensor]:
        side = self.settings.image_size
        image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1))
        mask = tv_tensors.Mask(torch.from_numpy(sample.mask)[None].to(torch.uint8))
        points = tv_tensors.KeyPoints(torch.from_numpy(sample.landmarks), canvas_size=sample.image.shape[:2])
        image, mask, points = (TF.resize(each, [side, side], antialias=True) for each in (image, mask, points))
        if self.transform is not None:
            before = _handedness(points)
            image, mask, points = self.transform(image, mask, points)
            if _handedness(points) * before < 0:
                points = points[[1, 0, 2, 4, 3]]  # of a mirrored face: eyes and mouth corners change places
            if image.shape[-2:] != (side, side):
                raise DfnbError(f"the augmentation made an image of {list(image.shape)}; its side must stay {side}")
        pixels = image.as_subclass(Tensor).float().div_(255)
        pixels = TF.normalize(pixels, self.settings.mean, self.settings.std, inplace=True)
        rest = {"mask": mask.as_subclass(Tensor).float(), "landmarks": points.as_subclass(Tensor).float()}
        return {"image": pixels, "label": torch.tensor(sample.label), "has_mask": torch.tensor(sample.has_mask), **rest}


def _handedness(points: Tensor) -> Tensor:
    """Sign of the area that eyes and mouth (5, 2) span: another one after a transform means that the face was mirrored."""
    across, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    return torch.sign(across[0] * down[1] - across[1] * down[0])


def _collate(items: list[list[dict[str, Tensor]]]) -> dict[str, Tensor]:
    return default_collate([sample for samples in items for sample in samples])


def loader(data: FrameDataset, batches: Iterable[list], workers: int = 0, pin: bool = False) -> DataLoader:
    """Batches (a dict of tensors, see ``papers.Batch``) for lists of indices such as those of :class:`EpochSampler`."""
    if workers:  # one process per core; set here, since a forked process hangs that stops the threads of its parent
        cv2.setNumThreads(1)
    options = {"collate_fn": _collate, "persistent_workers": workers > 0, "pin_memory": pin}
    return DataLoader(data, batch_sampler=batches, num_workers=workers, **options)


def in_order(frames: pd.DataFrame, settings: Any, size: int = 64, workers: int = 0, **options: Any) -> Iterator[dict]:
    """Batches of all frames in the order of the table, as they are stored; ``options`` are those of :class:`FrameDataset`.

    With its ``seed`` the paper's own samples, the same ones each time: a frame's place in the table's index seeds them.
    """
    batches = BatchSampler([(0, place, row) for row, place in enumerate(frames.index)], size, drop_last=False)
    yield from loader(FrameDataset(frames, settings, **options), batches, workers)


def as_batch(frames: pd.DataFrame, settings: Any) -> dict[str, Tensor]:
    """All frames of a (small) table as one batch, as they are stored."""
    return next(in_order(frames, settings, size=len(frames)))


def pictures(batch: dict[str, Tensor], settings: Any) -> np.ndarray:
    """The images of a batch without their normalisation: (B, H, W, 3) uint8 RGB."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    return ((batch["image"].float().cpu() * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _in_turns(rows: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """n of the rows in an order that is drawn; each is used up before any of them comes again."""
    return np.concatenate([rows[:0], *(generator.permutation(rows) for _ in range(0, n, len(rows)))])[:n]


@dataclass(eq=False)
class EpochSampler(Sampler[list[tuple[int, int, int]]]):
    """Batches of one epoch: real and fake equally often, fakes equally by method, in an order drawn from (seed, epoch).

    An epoch makes as many images as the table has rows times ``samples_per_frame``, or at most ``limit``; a batch of
    ``batch_size`` images is made of ``batch_size // samples_per_frame`` frames. With ``oversampling`` an epoch is instead
    every fake once and every real frame so many times. ``n`` counts the frames of an epoch. ``skip`` leaves out the
    batches that a resumed run has seen. An eighth of every batch, at least one frame, is drawn from the positions
    ``always``; these frames take the place of as many fakes. Of several processes (``rank``, ``world``) each takes every
    ``world``-th frame.

    Raises :class:`DfnbError` for less than one batch.
    """

    frames: InitVar[pd.DataFrame]
    batch_size: int
    seed: int
    limit: int | None = None
    oversampling: int | None = None
    samples_per_frame: int = 1
    always: Sequence[int] = ()
    epoch, skip, rank, world = 0, 0, 0, 1

    def __post_init__(self, frames: pd.DataFrame) -> None:
        method, self.label = frames["method"].astype(str).to_numpy(), frames["label"].to_numpy()
        fakes = [np.flatnonzero((self.label == 1) & (method == name)) for name in sorted(set(method[self.label == 1]))]
        self.classes = [groups for groups in ([np.flatnonzero(self.label == 0)], fakes) if sum(map(len, groups))]
        self.once = np.repeat(np.arange(len(self.label)), np.where(self.label == 0, self.oversampling or 1, 1))
        self.size = self.batch_size // self.samples_per_frame
        most = min(len(self.once), self.limit // self.samples_per_frame if self.limit else len(self.once))
        self.n = most // self.size * self.size
        if self.n == 0:
            raise DfnbError(f"{frames.attrs['folder']} has {most} frames, fewer than one batch; lower batch_size")

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers (n,) in the epoch's order; each group is used up before any of its rows comes again."""
        generator = core.rng("order", self.seed, epoch)
        order = generator.permutation(self.once)[: self.n] if self.oversampling else self._balanced(generator)
        return self._with_always(order, generator) if len(self.always) else order

    def _balanced(self, generator: np.random.Generator) -> np.ndarray:
        rows = []
        for i, groups in enumerate(self.classes):
            of_class = (self.n + len(self.classes) - 1 - i) // len(self.classes)
            rows += [_in_turns(group, (of_class + j) // len(groups), generator) for j, group in enumerate(groups)]
        return generator.permutation(np.concatenate(rows))

    def _with_always(self, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The order with the first frames of every batch drawn from ``always`` by turns, and as many fakes left out."""
        batches = self.n // self.size
        drawn = batches * max(1, self.size // 8)
        fakes_first = np.argsort(self.label[order] == 0, kind="stable")
        others = np.delete(order, fakes_first[:drawn])
        chosen = _in_turns(np.asarray(self.always), drawn, generator)
        return np.hstack([chosen.reshape(batches, -1), others.reshape(batches, -1)]).ravel()

    def __len__(self) -> int:
        return self.n // self.size - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = self.order(self.epoch)
        for start in range(self.skip * self.size, self.n, self.size):
            places = range(start + self.rank, start + self.size, self.world)
            yield [(self.epoch, place, int(order[place])) for place in places]
