"""The frames of a dataset: how they are stored, and the table that lists them.

``datasets/<name>/frames.parquet`` has one row per frame, with the :data:`COLUMNS`. The pixels of
each video are stored as arrays in a folder of its own: crops (n, H, W, 3) uint8 RGB in
``frames.npy``; and masks in ``masks.npy``, eight pixels of an image row packed into one byte. A
dataset may instead use image files of crops in place: the table names them, and none is copied.
:mod:`dfnb.data.loading` makes batches.
"""

import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from dfnb.files import atomic, dataset_folder, digest, read_json, sha256, write_json
from dfnb.records import read_record, write_record
from dfnb.settings import DfnbError, check_title, explained, suggestion

Rows = Sequence[Mapping]  # the frames of one video as rows of the table: column -> value

TEXT = pa.dictionary(pa.int32(), pa.string())
POINTS = pa.list_(pa.float32(), 10)
BOX = pa.list_(pa.float32(), 4)
COLUMNS = {
    "dataset": TEXT,
    "split": TEXT,  # train, val or test
    "video": TEXT,  # unique within the dataset, such as FaceSwap/000_003
    "track": pa.int16(),  # distinguishes two people of one video
    "frame": pa.int32(),  # the number in the source video
    "row": pa.int32(),  # the place in the stored array; not ``frame``, as some frames have no face
    "cluster": TEXT,  # name of a group of videos that confidence intervals resample together
    "identity": TEXT,  # the person shown; in a fake, the target of the manipulation
    "source": TEXT,  # donor; empty where there is none
    "original": TEXT,  # the video of this dataset that a fake was made from; empty: unknown or real
    "method": TEXT,  # real, or the name of the manipulation
    "label": pa.int8(),  # 0 real, 1 fake
    "path": TEXT,  # file of the array of crops, or image file, relative to the dataset's folder
    "mask": TEXT,  # file of packed masks, or image file; empty: unknown (fake) or all zero (real)
    "landmarks": POINTS,  # x, y in crop pixels: eyes, nose tip, mouth corners
    "crop_box": BOX,  # left, top, right, bottom in source pixels
    "scale": pa.float32(),  # crop pixels per source pixel
}
SPLITS = ("train", "val", "test")
UNKNOWN = ("landmarks", "crop_box", "scale")  # columns that are null for images used in place
ROW_GROUP = 50_000  # the table is written in parts of at least so many rows
REMEDY = "delete frames.parquet and prepare the dataset again"


# ---------------------------------------------------------------- writing


def write_video(
    folder: Path,
    rows: Rows,
    crops: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    **more: Any,
) -> None:
    """Write one video of a dataset; its folder appears complete or not at all.

    Args:
        folder: ``<dataset>/videos/<video>``.
        rows: One per frame: all of :data:`COLUMNS` but ``video``, ``original``, ``row``, ``path``
            and ``mask``. But where only some frames of a fake have a mask, the rows of the others
            have an empty ``mask``.
        crops: (n, H, W, 3) uint8 RGB. None where images are used in place: then the rows name them
            in ``path`` and ``mask``, and ``more`` has their :func:`images_hash` as ``crops_hash``.
        masks: (n, H, W) bool, or None where the forged region is unknown or the video is real.
        more: Other values for ``video.json``, such as the number of wanted frames.
    """
    content = dict(more)
    with atomic(folder) as temporary:  # a path that is renamed to ``folder`` at the end
        temporary.mkdir()
        if crops is not None:
            np.save(temporary / "frames.npy", crops)
            content["crops_hash"] = _bytes_hash(temporary / "frames.npy")
        if masks is not None:
            packed = np.packbits(masks, axis=-1)  # (n, H, W / 8 rounded up) uint8
            np.save(temporary / "masks.npy", packed)
            content["masks_hash"] = _bytes_hash(temporary / "masks.npy")
        content["rows"] = rows
        write_json(temporary / "video.json", content, indent=None)  # compact


def _bytes_hash(path: Path) -> str:
    """A hash of a file's bytes, 128 hexadecimal digits."""
    # BLAKE2, because sha256 would take a quarter of the time of preparing a dataset, on processors
    # that have no instructions for it.
    return hashlib.blake2b(path.read_bytes()).hexdigest()


def images_hash(folder: Path, rows: Rows) -> str:
    """One hash of all images and masks in ``folder`` that the rows of a video use in place.

    It has 64 hexadecimal digits. A missing mask counts, too: adding it changes the hash.
    """
    hashes_of_frames = []
    for row in rows:
        files = [row.get(column) for column in ("path", "mask")]
        hashes = [sha256(folder / file) if file else "" for file in files]
        hashes_of_frames.append(hashes)
    return digest(hashes_of_frames, 64)


def write_dataset(
    folder: Path,
    parameters: Mapping,
    originals: Mapping[str, str] | None = None,
    **more: Any,
) -> dict:
    """Gather the videos of a dataset into ``frames.parquet``, and write and return its record.

    The videos are those that :func:`write_video` wrote into ``folder/videos``. ``parameters`` are
    the settings that they were made with. ``originals`` maps the name of a fake to the name of the
    video that it was made from; "" or missing: none.

    The ``fingerprint`` in the record hashes the parameters, the rows, and the bytes of the crops
    and masks of each video. It does not hash the parquet file, so it does not depend on the version
    of the library that writes it. ``n`` counts the ``frames`` and ``videos`` of each
    "split/method". ``more`` (such as the quarantine) is added to the record.

    Raises :class:`DfnbError` when there is no video.
    """
    # [!.] leaves out the temporary folder of a killed writer, whose name begins with a dot.
    files = sorted((folder / "videos").rglob("[!.]*/video.json"))
    if not files:
        raise DfnbError(f"{folder} has no frame to write: no video gave a usable face")
    path = folder / "frames.parquet"
    schema = pa.schema(COLUMNS)
    originals = originals or {}
    video_digests = []
    counts = defaultdict(Counter)  # "split/method" -> frames=..., videos=...
    unwritten = []  # rows are written in parts, because five million would not fit in memory
    with atomic(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for file in files:
            video = file.parent.relative_to(folder / "videos").as_posix()
            content = read_json(file)
            rows = _complete_rows(video, content, originals.get(video, ""))
            video_digests.append([video, _video_digest(content, rows)])
            kinds = Counter(f"{row['split']}/{row['method']}" for row in rows)
            for kind, n_frames in kinds.items():  # update adds to a Counter's numbers
                counts[kind].update(frames=n_frames, videos=1)
            unwritten += rows
            if len(unwritten) >= ROW_GROUP or file == files[-1]:
                writer.write_table(pa.Table.from_pylist(unwritten, schema))
                unwritten = []
    return write_record(
        folder / "record.json",
        parameters,
        [path],
        fingerprint=digest([parameters, video_digests], 16),
        n=dict(sorted(counts.items())),
        **more,
    )


def _complete_rows(video: str, content: Mapping, original: str) -> list[dict]:
    """The rows of a video, completed by the columns that the rows of :func:`write_video` lack.

    ``content`` is that of the video's ``video.json``; ``original`` is the name of its original, or
    "".
    """
    # A row may have values of its own, which win below: path and mask where images are used in
    # place, and the empty mask of a fake's frame that has none.
    files = {"path": f"videos/{video}/frames.npy", "mask": ""}
    if "masks_hash" in content:
        files["mask"] = f"videos/{video}/masks.npy"
    rows = []
    for number, row in enumerate(content["rows"]):
        rows.append({"video": video, "original": original, "row": number, **files, **row})
    return rows


def _video_digest(content: Mapping, rows: Rows) -> str:
    """A digest of the pixels and rows of a video, 64 hexadecimal digits.

    ``content`` is that of its ``video.json``, and ``rows`` are the :func:`_complete_rows` of it.
    """
    hashes = [content["crops_hash"], content.get("masks_hash")]
    values = []
    for row in rows:
        # An empty original is left out, so that datasets that were made before this column existed
        # keep their fingerprint.
        values.append([row[name] for name in COLUMNS if name != "original" or row[name]])
    return digest([hashes, values], 64)


# ---------------------------------------------------------------- reading


def dataset_record(name: str | Path) -> dict:
    """The record of a dataset; raises :class:`DfnbError` when it is missing or unfinished."""
    folder = dataset_folder(name)
    record = read_record(folder)
    if record is None:
        prepared = [path.parent.name for path in folder.parent.glob("*/record.json")]
        raise DfnbError(
            f"{folder} contains no finished dataset; make it with `dfnb synth` or `dfnb prepare`"
            f"{suggestion(folder.name, prepared)}"
        )
    return record


def faces_of(name: str | Path) -> dict[str, Any]:
    """How a dataset's faces were cut: ``size`` and ``scale``, as far as known; and ``drawn``.

    ``size`` is the side of a crop in pixels, or "native", see ``prepare.Settings``; ``scale`` is
    side of a crop / longer side of the face; ``drawn`` is True where the faces are no photographs.
    Raises :class:`DfnbError` when the dataset is missing.
    """
    made_with = dataset_record(name)["parameters"]
    cut = {key: made_with[key] for key in ("size", "scale") if key in made_with}
    # Only a synthetic dataset has a generator; one that is made of portraits shows photographs.
    return {**cut, "drawn": "generator" in made_with and not made_with.get("portraits")}


def load_frames(name: str | Path) -> pd.DataFrame:
    """The frames table of a dataset; its ``attrs`` are ``folder``, ``fingerprint`` and ``record``.

    Raises :class:`DfnbError` when the dataset is missing or unfinished, when the table lacks
    columns, or when :func:`_check` refuses it.
    """
    folder = dataset_folder(name)
    record = dataset_record(name)
    path = folder / "frames.parquet"
    # "frames.parquet is not valid as a table of frames (why); delete it and ...", as a DfnbError
    with explained(path, "as a table of frames", REMEDY):
        table = parquet.read_table(path)
        table = table.select([*COLUMNS]).cast(pa.schema(COLUMNS))
    # pandas has no type of its own for lists of numbers.
    list_types = {POINTS: pd.ArrowDtype(POINTS), BOX: pd.ArrowDtype(BOX)}
    # Each column is freed once it is converted: two million rows must not be in memory twice.
    frames = table.to_pandas(
        types_mapper=list_types.get,  # None for the other types: pandas' default, TEXT categories
        split_blocks=True,
        self_destruct=True,
    )
    _check(frames, path)
    frames.attrs = {
        "folder": str(folder),
        "fingerprint": record["fingerprint"],
        "record": record,
    }
    return frames


def _check(frames: pd.DataFrame, table: Path) -> None:
    """Refuse methods that cannot be printed in every table, and files outside the table's folder.

    Images that are used in place are inside, too: through the link ``tree`` in this folder.
    """
    files = {*frames["path"].unique(), *frames["mask"].unique()}
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise DfnbError(f"{table}: {file} is outside the dataset's folder; {REMEDY}")
    for method in frames["method"].unique():
        check_title(method, f"{table}, a method")  # raises when a format of tables cannot show it


def identity(record: Mapping) -> str:
    """A digest that identifies the data of the dataset with this record, equal on every machine.

    A synthetic dataset is identified by its parameters, because rounding makes its bytes differ
    between machines. Any other dataset is identified by the fingerprint of its bytes.
    """
    if "generator" in record["parameters"]:  # only a synthetic dataset has one
        return digest(record["parameters"], 16)
    return record["fingerprint"]


# ---------------------------------------------------------------- choosing rows


def select(
    frames: pd.DataFrame,
    split: str,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The real frames of a split, and its fakes of the given ``methods``; None: of all methods.

    Raises :class:`DfnbError` when no row is left, or when one of the methods is in no split.
    """
    selected = frames[frames["split"] == split]
    missing = set()
    if methods is not None:
        selected = selected[selected["method"].isin([*methods, "real"])]
        missing = set(methods) - set(frames["method"])
    if selected.empty or missing:
        kinds = frames["split"].astype(str) + "/" + frames["method"].astype(str)
        names = ", ".join(sorted(kinds.unique()))
        raise DfnbError(
            f"{frames.attrs['folder']} has no frame of split {split!r} or methods {methods}, "
            f"but {names}"
        )
    return selected


def first_clusters(frames: pd.DataFrame, videos: int | None) -> pd.DataFrame:
    """The frames of the first clusters by name, with ``videos`` / 2 videos of each class or more.

    Each class takes clusters until it has that many of its videos, or all. A cluster that one class
    takes is kept with the videos of both. Where ``videos`` is None, all clusters are kept.
    """
    if videos is None:
        return frames
    cluster = frames["cluster"].astype(str)
    # The number of videos per (label, cluster); the clusters of a label are sorted by name.
    counts = frames["video"].groupby([frames["label"], cluster]).nunique()
    # How many videos the clusters before this one have. A class needs a cluster only if those
    # before it do not yet have half of ``videos``.
    videos_before = counts.groupby("label").cumsum() - counts
    needed = counts.index[videos_before < videos / 2].get_level_values("cluster")
    return frames[cluster.isin(needed)]


def thinned(frames: pd.DataFrame, per_video: int | None) -> pd.DataFrame:
    """At most ``per_video`` frames of each video, evenly spaced; all where it is None."""
    if per_video is None:
        return frames
    rows = frames.groupby("video", observed=True)["row"]
    place = rows.cumcount()  # 0, 1, ..., total - 1 in each video
    total = rows.transform("size")
    n = total.clip(upper=per_video)  # the number of frames to keep
    # From the first place to behind the last, place * n // total rises from 0 to n in n steps of 1.
    # The frame at each step is kept.
    before = place * n // total
    after = (place + 1) * n // total
    return frames[after > before]


def check_classes(frames: pd.DataFrame, split: str, makes_other_class: bool = False) -> None:
    """Raise :class:`DfnbError` unless ``frames`` have two clusters or more of each class.

    Where ``makes_other_class`` is True, one class is enough: training makes the other from it.
    ``frames`` are those of one split, ``split``, which is only named in the message.
    """
    clusters = frames.groupby("label")["cluster"].nunique()
    n_real = clusters.get(0, 0)
    n_fake = clusters.get(1, 0)
    fewest = max(n_real, n_fake) if makes_other_class else min(n_real, n_fake)
    if fewest < 2:
        raise DfnbError(
            f"{frames.attrs['folder']}: split {split!r} has {n_real} clusters of real frames and "
            f"{n_fake} of fake ones, and training needs two of each; choose other methods or "
            "data, or add videos of other people"
        )


# ---------------------------------------------------------------- masks and landmarks


def masked_positions(frames: pd.DataFrame) -> np.ndarray:
    """The positions in the table (as ``iloc`` counts) of the fake frames that have a mask."""
    has_mask = frames["mask"].astype(str) != ""
    return np.flatnonzero((frames["label"] == 1) & has_mask)


def keep_masks(
    frames: pd.DataFrame,
    rows: Sequence[int],
    share: float = 0,
) -> pd.DataFrame:
    """The table with the masks of some frames only: ``rows`` are their positions in the table.

    The masks of all others become unknown. ``share`` is a paper's setting ``annotated``, from which
    the paper computed how many ``rows`` there are; it serves only the check. Raises
    :class:`DfnbError` when it is above 0 and ``rows`` is empty.
    """
    if share and not len(rows):
        raise DfnbError(
            f"{frames.attrs['folder']} has {len(masked_positions(frames))} masks for "
            f"{len(frames)} frames, and the share annotated = {share:g} is none; raise it, prepare "
            "the dataset with masks, or learn without masks: annotated = 0"
        )
    is_kept = np.isin(np.arange(len(frames)), rows)  # by position: the index need not begin at 0
    masks = frames["mask"].astype(str).where(is_kept, "")
    return frames.assign(mask=masks)


def mean_mask(frames: pd.DataFrame) -> np.ndarray | None:
    """The mean mask (H, W) in [0, 1] of the fake frames; None where no mask is known.

    All masks are resized to the crop size of the first of these frames, as crops may differ.
    """
    fakes = frames.iloc[masked_positions(frames)]
    if fakes.empty:
        return None
    pixels = Pixels(frames.attrs["folder"])
    first = fakes.iloc[0]
    shape = pixels.crop(first["path"], first["row"]).shape[:2]
    total = np.zeros(shape)
    for path, row in zip(fakes["mask"], fakes["row"]):
        total += pixels.mask(path, row, shape)
    return total / len(fakes)


def landmarks_array(frames: pd.DataFrame) -> np.ndarray:
    """The landmarks of the frames as (n, 5, 2) float32, NaN where they are unknown."""
    # pa.array gives a chunked array or a plain one, depending on the frames' column. A column of a
    # table is always chunked, so combine_chunks works for both.
    table = pa.table({"landmarks": pa.array(frames["landmarks"], POINTS)})
    unknown = pa.scalar([np.nan] * 10, POINTS)
    column = table["landmarks"].combine_chunks().fill_null(unknown)  # flatten leaves out nulls
    # A copy, because the array of the table is read-only.
    return column.flatten().to_numpy().reshape(-1, 5, 2).copy()


def face_axes(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (2, 2) and origin (2,) of face coordinates, in pixels.

    Face coordinates (s, t) are those of the pixel (x, y) = ``axes @ (s, t) + origin``. In them the
    eyes are at (-1, 0) and (1, 0), and the middle of the mouth is at (0, 1).

    Args:
        landmarks: (5, 2) x and y in pixels: right eye, left eye, nose tip, right and left corner
            of the mouth, named from the person's view. NaN gives NaN.
    """
    right_eye, left_eye, _, right_corner, left_corner = landmarks.astype(np.float64)
    between_eyes = (right_eye + left_eye) / 2
    mouth = (right_corner + left_corner) / 2
    across = (left_eye - right_eye) / 2
    down = mouth - between_eyes
    return np.column_stack([across, down]), between_eyes


# ---------------------------------------------------------------- pixels


def rounded(image: np.ndarray) -> np.ndarray:
    """An image of floats, rounded to uint8 and clipped to [0, 255]."""
    # astype cuts off the decimals: with a half added before, it rounds.
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _row_of_array(path: Path, row: int) -> np.ndarray:
    """The element ``row`` of an array (n, ...) in a .npy file, without the first axis.

    Only its bytes are read. A memory map would need ten times as long. A negative ``row`` counts
    from the end.
    """
    with path.open("rb") as file:
        # The header ends where the elements begin. np.save writes version 1.0 of it.
        np.lib.format.read_magic(file)  # moves behind the version
        # The second value says whether the order is Fortran's; write_video's arrays have C's.
        (n, *shape), _, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape)
        # range(n)[row] is ``row``, from the end if negative; it raises IndexError where the array
        # has no such row. SEEK_CUR: counted from the header's end.
        file.seek(range(n)[row] * size * dtype.itemsize, os.SEEK_CUR)
        return np.fromfile(file, dtype, size).reshape(shape)


class Pixels:
    """Reads the crops and masks of a dataset; no file stays open between two reads.

    ``folder`` is that of the dataset. The methods get paths that are relative to it, or absolute.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def crop(self, path: str, row: int | None = None) -> np.ndarray:
        """One crop (H, W, 3) uint8 RGB: an image file, or a row of a stored video.

        Without a ``row``, all crops (n, H, W, 3) of a stored video. An image file ignores ``row``.
        :meth:`mask` reads masks in the same way, those of a stored video still packed. Raises
        :class:`DfnbError` when the file cannot be read.
        """
        try:
            if not path.endswith(".npy"):
                # imread gives None for what it cannot read, at which cvtColor raises cv2.error.
                image = cv2.imread(str(self.folder / path))
                return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            if row is None:
                return np.load(self.folder / path)
            return _row_of_array(self.folder / path, row)
        except (OSError, ValueError, IndexError, cv2.error):
            raise DfnbError(
                f"{self.folder / path} cannot be read; restore it or prepare its video again"
            ) from None

    def mask(self, path: str, row: int, shape: tuple[int, int]) -> np.ndarray:
        """One mask (H, W) bool; all False where ``path`` is empty.

        ``shape`` is (H, W) of the crop. A mask of another size, from an image file or from another
        video, is resized to it. In an image file, a pixel is forged where its grey level is above
        127.
        """
        if not path:
            return np.zeros(shape, bool)
        height, width = shape
        stored = self.crop(path, row)
        if path.endswith(".npy"):
            # ``stored`` is packed, (H, W / 8 rounded up), so W must come from elsewhere. A mask as
            # high as the crop is also as wide. Any other belongs to a crop of another size
            # (mean_mask resizes all masks to one). Crops differ in size within a dataset only if
            # they are square: then W is H.
            columns = width if len(stored) == height else len(stored)
            grey = np.unpackbits(stored, axis=-1, count=columns) * 255
        else:
            grey = cv2.cvtColor(stored, cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, (width, height), interpolation=cv2.INTER_NEAREST) > 127


class Arrays(Pixels):
    """Takes crops from memory: a frame's ``row`` is its position in ``images``.

    There are no masks, so the column ``mask`` of the frames table must be empty.
    """

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = images

    def crop(self, path: str, row: int) -> np.ndarray:
        """One crop (H, W, 3) uint8 RGB; raises :class:`DfnbError` for anything else."""
        image = np.asarray(self.images[row])
        if image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise DfnbError(
                f"image {row} is {image.dtype} {image.shape}; images must be uint8 (H, W, 3) in RGB"
            )
        return image


def unlabelled(names: Sequence[object]) -> pd.DataFrame:
    """A frames table of images without labels; each is a video of its own, with this name and path.

    It has the columns that scores need; ``row`` is the position, ``label`` NaN, ``method`` empty.
    """
    texts = list(map(str, names))
    unknown = {"label": math.nan, "method": "", "mask": "", "landmarks": None}
    columns = {"video": texts, "cluster": texts, "path": texts, "row": range(len(texts))}
    return pd.DataFrame({**columns, **unknown, "track": 0, "frame": 0})
