"""Batches of frames for training and scoring: reading, augmenting, and the order of an epoch.

Every random draw depends on (seed, epoch, position in the epoch), never on the process that makes
it. So a resumed training, and any number of workers, sees the same images.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from dfnb.data import augmentation
from facesets.checks import DfnbError
from facesets.frames import datasets_of, landmarks_array, read_crop, read_mask
from facesets.pictures import plain_rgb
from facesets.seeds import rng, torch_seed

Index = tuple[int, int, int]  # epoch, position in the epoch's order, row of the frames table
Read = Callable[[str], np.ndarray]  # from a frame's ``path`` to its crop (H, W, 3) uint8 RGB
# image, mask, landmarks, label and has_mask of a batch; before prepared() perhaps also draws, the
# random numbers of the light augmentation.
Tensors = dict[str, Tensor]


class Sample(NamedTuple):
    """A frame before resizing and augmentation."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (H, W) bool, True where forged
    landmarks: np.ndarray  # (5, 2) float32, x and y in pixels, see contract.Batch; NaN: unknown
    label: int  # 0 real, 1 fake
    has_mask: bool  # False: the forged region is unknown, and ``mask`` is all False


class StoredFrames(Dataset):
    """The frames of a table: item i is image and label of row i, as in torchvision's datasets.

    Torch's ``DataLoader`` makes batches of them, where all images have one size. :meth:`sample` has
    what else is known of a frame.

    Attributes:
        table: The frames table, one row per frame, see :mod:`facesets.frames`.
        read: Reads a crop.
        transform: Makes the image of an item from a PIL image of the crop, as transforms of
            torchvision do; without, it is the crop (H, W, 3) uint8 RGB.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        read: Read = read_crop,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        self.table = frames
        self.read = read
        self.transform = transform
        self.paths = frames["path"].tolist()
        self.mask_paths = frames["mask"].tolist()  # empty: a real frame, or an unknown region
        self.labels = frames["label"].tolist()
        self.landmarks = landmarks_array(frames)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int | slice) -> "tuple[Any, int] | StoredFrames":
        """Image and label (0 real, 1 fake) of this row; of a slice, a dataset of its frames."""
        if isinstance(row, slice):
            return StoredFrames(self.table.iloc[row], self.read, self.transform)
        image = self.read(self.paths[row])
        if self.transform:
            image = self.transform(Image.fromarray(image))
        return image, self.labels[row]

    def sample(self, row: int) -> Sample:
        """The frame in this row of the table as it is stored, read from disk."""
        image = self.read(self.paths[row])
        mask_path = self.mask_paths[row]
        mask = read_mask(mask_path, image.shape[:2])
        label = self.labels[row]
        has_mask = bool(mask_path) or label == 0  # of a real frame it is known: nothing is forged
        return Sample(image, mask, self.landmarks[row], label, has_mask)


class FrameDataset(Dataset):
    """Images, labels, masks and landmarks of frames; an item is a batch, given a list of indices.

    Images and masks of an item are uint8: on the way from the workers to the device, float32 would
    take four times the memory. On the device, :func:`prepared` makes the batch for a network.

    With a ``seed``, frames are shown as training shows them: as the paper's settings change and
    augment them. Without, they are as they are stored.

    An index is (epoch, position in the epoch's order, row of the table), see :class:`EpochSampler`.
    The position, not the row, seeds the augmentation: a frame that an epoch shows twice gets new
    draws.

    Args:
        frames: A frames table.
        settings: A paper's ``Settings``; image_size, interpolation, antialias, mean, std, sample,
            augmentation and transform are used.
        seed: The seed of the training, or None.
        read: Reads a crop.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        settings: Any,
        seed: int | None = None,
        read: Read = read_crop,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.stored = StoredFrames(frames, read)
        self.resize = _resize(settings)
        # Augments one image. None: no augmentation, or the light one, which is for whole batches.
        self.transform = None if seed is None else settings.transform()
        self.is_light = seed is not None and settings.augmentation == "light"

    def __getitem__(self, indices: Sequence[Index]) -> Tensors:
        """These frames as one batch, which :func:`prepared` goes on with.

        Besides the entries of the batch it has ``draws`` (B, 6), the random numbers in [0, 1) of
        the light augmentation, where that is still to be done.
        """
        return default_collate([self._item(index) for index in indices])

    def _item(self, index: Index) -> dict[str, Any]:
        """A frame as :meth:`_resized` gives it, perhaps also with ``draws``."""
        epoch, position, row = index
        stored = self.stored.sample(row)
        if self.seed is None:
            return self._resized(stored)
        key = ("augment", self.seed, epoch, position)
        draws = {"draws": rng(*key).random(augmentation.DRAWS)} if self.is_light else {}
        with torch.random.fork_rng(devices=[]):  # only the CPU's state is restored afterwards
            # torch.manual_seed would need a millisecond, because it seeds GPUs, too. The 0 has no
            # meaning any more: without it, all seeds would change.
            torch.default_generator.manual_seed(torch_seed(*key, 0))
            return {**self._resized(self.settings.sample(stored)), **draws}

    def _resized(self, sample: Sample) -> dict[str, Any]:
        """A sample resized and transformed: the values of one image in a batch.

        Image (3, S, S) and mask (1, S, S) are still uint8; S is ``image_size``. The landmarks
        (5, 2) are in pixels of this image.
        """
        shape = sample.image.shape[:2]
        image = torch.from_numpy(sample.image).permute(2, 0, 1)
        mask = torch.from_numpy(sample.mask)[None].byte()
        points = torch.from_numpy(sample.landmarks)
        if shape != (self.settings.image_size,) * 2 or self.transform is not None:
            # As tv_tensors, one transform moves image, mask and points together.
            image, mask = tv_tensors.Image(image), tv_tensors.Mask(mask)
            points = tv_tensors.KeyPoints(points, canvas_size=shape)
            image, mask, points = self.resize(image, mask, points)
            if self.transform is not None:
                image, mask, points = self.transform(image, mask, points)
        return {
            "image": image.as_subclass(Tensor),  # a plain tensor, as for mask and landmarks
            "label": sample.label,
            "has_mask": sample.has_mask,
            "mask": mask.as_subclass(Tensor),
            "landmarks": points.as_subclass(Tensor).float(),
        }


def _resize(settings: Any) -> v2.Resize:
    """What brings a crop to ``image_size``, as settings of a paper say."""
    return v2.Resize(
        (settings.image_size,) * 2,
        v2.InterpolationMode(settings.interpolation),
        antialias=settings.antialias,
    )


# ---------------------------------------------------------------- batches


def to_input(settings: Any) -> v2.Compose:
    """A transform of one image to (3, S, S) float32, as :func:`prepared` gives it, unaugmented.

    It takes what :func:`facesets.pictures.plain_rgb` does, a PIL image or a crop (H, W, 3) uint8
    RGB, and raises as it; S is the ``image_size`` of the settings.
    """
    return v2.Compose(
        [
            plain_rgb,
            v2.ToImage(),
            _resize(settings),
            v2.ToPureTensor(),
            v2.Lambda(in_unit_range),
            v2.Normalize(settings.mean, settings.std),
        ]
    )


def in_unit_range(images: Tensor) -> Tensor:
    """Images of uint8 as float32 in [0, 1]; v2.ToDtype would round some values otherwise."""
    return images.float() / 255


def prepared(item: Tensors, settings: Any, device: str = "cpu") -> Tensors:
    """Turn a dataset's item into the batch that a paper's network takes, on the device.

    It is a ``papers.contract.Batch`` without ``epoch``, ``partner`` and ``weight``, which the
    training adds.

    Args:
        item: Of a :class:`FrameDataset`, on the CPU.
        settings: A paper's ``Settings``; mean and std are used.
        device: Where the batch is made; the item is copied there.
    """
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in item.items()}
    draws = batch.pop("draws", None)
    if draws is not None:
        batch = augmentation.light(batch, draws)
    images = in_unit_range(batch["image"])  # (B, 3, S, S), as mean and std expect
    images = v2.functional.normalize(images, settings.mean, settings.std)
    return {**batch, "image": images, "mask": batch["mask"].float()}


def loader(
    data: FrameDataset,
    batches: Iterable[list[Index]],
    workers: int = 0,
) -> DataLoader:
    """A loader that makes one item of ``data``, a whole batch, of each list of indices.

    ``batches`` gives these lists, as an :class:`EpochSampler` does. ``workers`` are processes that
    make items. With them and a GPU, items are in pinned memory, from which the GPU copies faster.
    """
    # Callers run in device.fixed_threads, which stops OpenCV's threads before workers are forked: a
    # forked worker that stopped them itself would hang.
    return DataLoader(
        data,
        sampler=batches,
        batch_size=None,  # a list of indices already gives a whole batch
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=workers > 0 and torch.cuda.is_available(),
    )


def in_order(
    frames: pd.DataFrame,
    settings: Any,
    batch_size: int = 64,
    read: Read = read_crop,
    device: str = "cpu",
) -> Iterator[Tensors]:
    """Batches of all frames on the ``device``, of :func:`loader_in_order` without workers."""
    for item in loader_in_order(frames, settings, batch_size, read=read):
        yield prepared(item, settings, device)


def loader_in_order(
    frames: pd.DataFrame,
    settings: Any,
    batch_size: int = 64,
    workers: int = 0,
    read: Read = read_crop,
) -> DataLoader:
    """A loader of all frames as they are stored, in the order of the table.

    Its items still have to be :func:`prepared`. It may be read several times; its workers stay.
    ``read`` reads a crop.
    """
    # An Index is (epoch, position, row); the first two matter in training alone.
    indices = [(0, row, row) for row in range(len(frames))]
    batches = BatchSampler(indices, batch_size, drop_last=False)
    return loader(FrameDataset(frames, settings, read=read), batches, workers)


def as_batch(frames: pd.DataFrame, settings: Any, read: Read = read_crop) -> Tensors:
    """All frames of a small table as one batch, as :func:`in_order` gives them."""
    return next(in_order(frames, settings, len(frames), read=read))


def pictures(batch: Tensors, settings: Any) -> np.ndarray:
    """The images of a batch without their normalisation: (B, H, W, 3) uint8 RGB."""
    images = batch["image"].float().cpu().permute(0, 2, 3, 1)
    values = images * torch.tensor(settings.std) + torch.tensor(settings.mean)
    return (values * 255).round().clamp(0, 255).byte().numpy()


# ---------------------------------------------------------------- the order of an epoch


class EpochSampler(Sampler[list[Index]]):
    """Batches of one epoch, in an order that is drawn from (seed, epoch).

    Without ``oversampling``, an epoch has as many frames as the table, half of them real, and of
    each method equally many fakes. With it, an epoch shows each fake once and each real frame
    ``oversampling`` times. ``images_per_epoch`` may shorten an epoch. Frames that do not fill a
    batch are left out.

    Set ``epoch`` before each epoch, and ``skip`` to the number of batches that a resumed run has
    seen. ``n`` is the number of frames in an epoch.

    Args:
        frames: A frames table. A paper may add a column ``always``: 0, 1, ... for frames of which
            every batch must show some, such as annotated fakes, and -1 for the others. An eighth
            of a batch, at least one frame, is then drawn from them, in place of as many fakes.
        settings: A paper's ``Settings``; batch_size, images_per_epoch and oversampling are used.
        seed: The seed of the training.

    Raises :class:`DfnbError` when the frames do not fill one batch.
    """

    def __init__(
        self,
        frames: pd.DataFrame,
        settings: Any,
        seed: int,
    ) -> None:
        self.seed = seed
        self.oversampling = settings.oversampling
        rank = frames.get("always", pd.Series(-1, frames.index)).to_numpy()
        # The rows of the frames with a rank (0 or more), sorted by it: draws depend on the order,
        # but prefer none.
        self.always = np.argsort(rank, kind="stable")[(rank < 0).sum() :]
        self.batch_size = settings.batch_size
        self.epoch = 0
        self.skip = 0
        self.is_real = (frames["label"] == 0).to_numpy()
        self.rows_by_class = _rows_by_class_and_method(frames)
        # With oversampling, an epoch draws from a list in which each real frame is repeated.
        # Without it each row appears once, and only the length of the list is used.
        times = np.where(self.is_real, self.oversampling or 1, 1)
        self.repeated_rows = np.arange(len(frames)).repeat(times)
        n = len(self.repeated_rows)
        if settings.images_per_epoch:
            n = min(n, settings.images_per_epoch)
        self.n = n - n % self.batch_size
        if self.n == 0:
            raise DfnbError(
                f"{datasets_of(frames)}: an epoch has {n} frames, fewer than one batch; lower "
                "batch_size, or raise images_per_epoch"
            )

    def order(self, epoch: int) -> np.ndarray:
        """The rows of the table (n,), whole numbers, in the order in which an epoch shows them."""
        draw = rng("order", self.seed, epoch)
        if self.oversampling:
            order = draw.permutation(self.repeated_rows)[: self.n]
        else:
            order = self._balanced(draw)
        if len(self.always):
            order = self._with_always(order, draw)
        return order

    def _balanced(self, draw: Generator) -> np.ndarray:
        """An order with equally many frames per class, and per method in a class."""
        parts = []
        # The numbers of frames must add up to n_left. Where they cannot be equal, the first class
        # has one more, and within a class each of the last methods.
        n_left = self.n
        classes_left = len(self.rows_by_class)
        for rows_by_method in self.rows_by_class:
            n_class = math.ceil(n_left / classes_left)
            n_left -= n_class
            classes_left -= 1
            for j, rows in enumerate(rows_by_method):
                n_method = (n_class + j) // len(rows_by_method)  # these add up to n_class
                parts.append(_draw_evenly(rows, n_method, draw))
        return draw.permutation(np.concatenate(parts))

    def _with_always(self, order: np.ndarray, draw: Generator) -> np.ndarray:
        """The order with frames of ``always`` at the start of each batch, in place of fakes."""
        batches = order.reshape(-1, self.batch_size)  # one row per batch
        n_always = max(1, self.batch_size // 8)
        # Places in each batch (batches, batch_size), those of fakes first. The frames at the
        # first n_always of these places are dropped: real ones only where fakes are too few.
        fakes_first = np.argsort(self.is_real[batches], axis=1, kind="stable")
        kept_places = np.sort(fakes_first[:, n_always:], axis=1)  # in the order of the epoch
        others = np.take_along_axis(batches, kept_places, axis=1)
        chosen = _draw_evenly(self.always, len(batches) * n_always, draw)
        return np.hstack([chosen.reshape(-1, n_always), others]).ravel()

    def __len__(self) -> int:
        return self.n // self.batch_size - self.skip  # batches that are left

    def __iter__(self) -> Iterator[list[Index]]:
        order = self.order(self.epoch).tolist()
        size = self.batch_size
        for start in range(self.skip * size, self.n, size):
            positions = range(start, start + size)
            yield [(self.epoch, position, order[position]) for position in positions]


def _rows_by_class_and_method(frames: pd.DataFrame) -> list[list[np.ndarray]]:
    """A list per class (real, fake; empty ones left out) of the rows of each of its methods.

    Rows are positions in the table, as ``iloc`` counts. Real frames have one method, "real".
    """
    # As text: grouped as a category, it would also give methods without rows.
    methods = frames["method"].astype(str)
    rows_by_group = frames.groupby(["label", methods]).indices
    classes = defaultdict(list)
    for label, method in sorted(rows_by_group):  # a fixed order of the draws
        classes[label].append(rows_by_group[label, method])
    return list(classes.values())


def _draw_evenly(rows: np.ndarray, n: int, draw: Generator) -> np.ndarray:
    """Draw n of the ``rows`` without replacement; when all are drawn, start again with all."""
    orders = [draw.permutation(rows) for _ in range(math.ceil(n / len(rows)))]
    # rows[:0] is empty: concatenate needs an array also when n is 0.
    return np.concatenate([rows[:0], *orders])[:n]
