"""The frames of a dataset: how they are stored, and the table that lists them.

``datasets/<name>/frames.parquet`` has one row per frame, with the :data:`COLUMNS`. Each video has a
folder of its own with an image file per crop, ``000.png`` and so on, and per mask,
``mask-000.png``, white where forged. Crops that others have cut keep their format, such as
``000.jpg``, and their size. :mod:`dfnb.data.loading` makes batches.
"""

import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from facesets.checks import DfnbError, explained, suggestion
from facesets.files import atomic, dataset_folder, digest, read_json, sha256, write_json
from facesets.records import read_record, write_record

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
    "row": pa.int32(),  # the place among the video's rows; not ``frame``: some have no face
    "cluster": TEXT,  # name of a group of videos that confidence intervals resample together
    "identity": TEXT,  # the person shown; in a fake, the target of the manipulation
    "source": TEXT,  # donor; empty where there is none
    "original": TEXT,  # the video of this dataset that a fake was made from; empty: unknown or real
    "method": TEXT,  # real, or the name of the manipulation
    "label": pa.int8(),  # 0 real, 1 fake
    "path": pa.string(),  # image file of the crop, relative to the dataset's folder
    "mask": pa.string(),  # that of its mask; empty: unknown (fake) or nothing is forged (real)
    # These say where a crop was cut out; null: unknown, as of crops that others have cut.
    "landmarks": POINTS,  # x, y in crop pixels: eyes, nose tip, mouth corners; person's right first
    "crop_box": BOX,  # left, top, right, bottom in source pixels
    "scale": pa.float32(),  # crop pixels per source pixel
    "crop_hash": pa.string(),  # see crop_hash; empty: unknown, prepared by an earlier version
}
SPLITS = ("train", "val", "test")
CROP_FILE = "{:03d}.png"  # in the folder of a video, with the ``row`` of the frame
MASK_FILE = "mask-{:03d}.png"
OWN_MARK = ".dfnb"  # an empty file in a dataset's folder that says: dfnb made what is here
# The files of a dataset besides its videos.
OWN_FILES = ("frames.parquet", "record.json", "quarantine.csv", "dataset.json")
REMEDY = "delete frames.parquet and prepare the dataset again"


# ---------------------------------------------------------------- writing


def write_video(
    folder: Path,
    rows: Rows,
    crops: Iterable[np.ndarray] = (),
    masks: Iterable[np.ndarray] | None = None,
    files: Sequence[tuple[Path, Path | None]] = (),
    **more: Any,
) -> None:
    """Write one video of a dataset; its folder appears complete or not at all.

    A folder that an earlier call wrote is replaced; any other one is refused by
    :func:`refuse_foreign_files`.

    Args:
        folder: ``<dataset>/videos/<video>``.
        rows: One per frame: all of :data:`COLUMNS` but ``video``, ``original``, ``row``, ``path``,
            ``mask`` and ``crop_hash``. A ``mask`` of "" says that it is unknown in this frame.
        crops: One (H, W, 3) uint8 RGB per row, all of one size; none where there are ``files``.
            They are written one by one, and need not all be in memory.
        masks: Likewise (H, W) bool, or None where the forged region is unknown or the video real.
        files: In place of crops and masks that are written: per row an image and its mask, or None,
            that others made. They are copied, and ``more`` has a :func:`crop_hash` of each as
            ``crop_hashes``.
        more: Other values for ``video.json``, such as the number of wanted frames.
    """
    refuse_foreign_files(folder)
    content = dict(more)
    with atomic(folder) as temporary:  # a path that is renamed to ``folder`` at the end
        temporary.mkdir()
        if not files:
            whole, each = _write_images(temporary, CROP_FILE, crops, len(rows))
            content |= {"crops_hash": whole, "crop_hashes": each}
        if masks is not None:
            content["masks_hash"], _ = _write_images(temporary, MASK_FILE, masks, len(rows))
        if files:
            hashes = [[sha256(file) if file else "" for file in pair] for pair in files]
            content["crops_hash"] = digest(hashes, 64)
            rows = [
                {**row, **_copy(pair, temporary, number)}
                for number, (row, pair) in enumerate(zip(rows, files))
            ]
        content["rows"] = rows
        write_json(temporary / "video.json", content)


def _copy(pair: tuple[Path, Path | None], folder: Path, number: int) -> dict[str, str]:
    """Copy an image and its mask; returns the columns ``path`` and ``mask`` of their frame."""
    columns = {"path": "", "mask": ""}
    for column, name, source in zip(columns, (CROP_FILE, MASK_FILE), pair):
        if source:
            place = folder / Path(name.format(number)).with_suffix(source.suffix)
            columns[column] = shutil.copyfile(source, place).name
    return columns


def refuse_foreign_files(folder: Path) -> None:
    """Raise :class:`DfnbError` where the folder of a video has a file that dfnb did not make.

    dfnb made what ``video.json`` describes, and nothing in a folder without it.
    """
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    foreign = {path.name for path in folder.iterdir()} - _made_files(folder) if is_folder else {""}
    if foreign:
        raise DfnbError(
            f"{folder / min(foreign)} was not made by dfnb, which would remove it; move it away, "
            "or give the new dataset another name"
        )


def _made_files(folder: Path) -> set[str]:
    """The names of the files that :func:`write_video` made in the folder of a video."""
    path = folder / "video.json"
    content = read_json(path) if path.is_file() else {}
    if "crops_hash" not in content:
        return set()
    made = {path.name}
    for number, row in enumerate(content["rows"]):
        made.add(row.get("path", CROP_FILE.format(number)))
        made.add(row.get("mask") or MASK_FILE.format(number))
    return made


def remove_video(folder: Path) -> None:
    """Remove what :func:`write_video` wrote into a folder, and the folder.

    Raises :class:`DfnbError` as :func:`refuse_foreign_files`, before anything is removed.
    """
    refuse_foreign_files(folder)
    if folder.exists():
        # video.json last, because the other files are known to be ours by it.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "video.json"):
            path.unlink()
        folder.rmdir()


def refuse_foreign_dataset(folder: Path) -> None:
    """Raise :class:`DfnbError` where dfnb would overwrite what others made in a dataset's folder.

    Its :data:`OWN_FILES` are dfnb's where it has the :data:`OWN_MARK`.
    """
    if (folder / OWN_MARK).exists():
        return
    for name in OWN_FILES:
        if os.path.lexists(folder / name):
            raise DfnbError(
                f"{folder / name} was not made by dfnb, which would overwrite it; move it away, or "
                "give the new dataset another name"
            )


def refuse_overlap(folder: Path, sources: Iterable[Path], videos: Iterable[str] = ()) -> None:
    """Raise :class:`DfnbError` where a source and a dataset's ``folder`` contain one another.

    ``sources`` are files and folders that the dataset is made from; links in them, and in the
    folders of ``videos``, the names of the dataset's videos, are followed.
    """
    real_folder = cache(Path.resolve)  # files share folders, and to resolve each path is slow

    def real(path: Path) -> Path:
        path = path.absolute()
        return path.resolve() if path.is_symlink() else real_folder(path.parent) / path.name

    root = folder / "videos"
    written = {folder.resolve(), root.resolve(), *(real(root / name) for name in videos)}
    above = {parent for path in written for parent in path.parents}

    @cache
    def is_below(path: Path) -> bool:
        return path in written or (path != path.parent and is_below(path.parent))

    for source in sources:
        place = real(source)
        if place in above or is_below(place):
            raise DfnbError(
                f"{source} and {folder}, where the dataset is written, contain one another; move "
                "the source elsewhere, or give the dataset another name"
            )


def _write_images(
    folder: Path, name: str, images: Iterable[np.ndarray], n: int
) -> tuple[str, list[str]]:
    """Write ``n`` crops (H, W, 3) uint8 RGB, or masks (H, W) bool, as PNG.

    ``name`` is a pattern such as :data:`CROP_FILE`; each image's number fills it. PNG is lossless.
    JPEG would change what is measured. Returns a hash of all images, 32 hexadecimal digits, as of
    one array (n, ...), and the :func:`crop_hash` of each; masks are hashed as bits.
    """
    each = []
    for number, image in enumerate(images):
        if image.ndim == 3:
            stored, hashed = image[..., ::-1], image  # OpenCV's order is BGR
        else:
            stored, hashed = image * np.uint8(255), np.packbits(image, axis=-1)
        _, file = cv2.imencode(".png", stored)
        # cv2.imwrite hides that a disk is full.
        (folder / name.format(number)).write_bytes(file)
        if not each:
            whole = _array_hash((n, *hashed.shape))
        whole.update(hashed.tobytes())
        each.append(crop_hash(hashed))
    return whole.hexdigest(), each


def _array_hash(shape: tuple[int, ...]) -> hashlib.blake2b:
    """The beginning of the hash of an array of this shape, which its bytes go on.

    It is BLAKE2: on processors without instructions for sha256, sha256 would take a quarter of the
    time in which a dataset is prepared.
    """
    return hashlib.blake2b(str(shape).encode(), digest_size=16)


def crop_hash(crop: np.ndarray) -> str:
    """A hash of the pixels of a crop (H, W, 3) uint8 RGB, 16 hexadecimal digits.

    Crops of different splits and datasets are compared by it, see :mod:`facesets.audit`.
    """
    whole = _array_hash(crop.shape)
    whole.update(crop.tobytes())
    return whole.hexdigest()[:16]


def write_dataset(
    folder: Path,
    parameters: Mapping,
    originals: Mapping[str, str] | None = None,
    videos: Collection[str] | None = None,
    **more: Any,
) -> dict:
    """Gather the videos of a dataset into ``frames.parquet``, and write and return its record.

    The videos are those that :func:`write_video` wrote into ``folder/videos``. ``videos`` names
    those to gather (None: all), because others may be of splits that are not asked for.
    ``parameters`` are the settings that they were made with. ``originals`` maps the name of a fake
    to the name of the video that it was made from; "" or missing: none.

    The ``fingerprints`` in the record hash, per split, the parameters, the rows, and the bytes of
    the crops and masks of each video: a split that is prepared later changes none of the others.
    They do not hash the parquet file, so they do not depend on the version of the library that
    writes it. The ``fingerprint`` is that of all splits. ``n`` counts the ``frames`` and ``videos``
    of each "split/method". ``more``, such as a list of unusable videos, is added to the record.
    """
    root = folder / "videos"
    path = folder / "frames.parquet"
    video_digests = defaultdict(list)  # split -> [video, digest] of each
    counts = defaultdict(Counter)  # "split/method" -> frames=..., videos=...
    tables = []
    # [!.] leaves out the temporary folder of a killed writer, whose name begins with a dot.
    for file in sorted(root.rglob("[!.]*/video.json")):
        video = file.parent.relative_to(root).as_posix()
        if videos is not None and video not in videos:
            continue
        original = (originals or {}).get(video, "")
        rows, video_digest = _complete_rows(read_json(file), video, original)
        video_digests[rows[0]["split"]].append([video, video_digest])
        kind = "{split}/{method}".format_map(rows[0])  # that of all frames of a video
        counts[kind].update(frames=len(rows), videos=1)  # adds to a Counter's numbers
        # In pyarrow's form, five million rows fit in memory.
        tables.append(pa.Table.from_pylist(rows, pa.schema(COLUMNS)))
    # No moment has this table and the record of an earlier one.
    (folder / "record.json").unlink(missing_ok=True)
    with atomic(path) as temporary:
        parquet.write_table(pa.concat_tables(tables), temporary)
    fingerprints = {}
    for split, digests in video_digests.items():
        fingerprints[split] = digest([parameters, digests], 16)
    return write_record(
        folder / "record.json",
        parameters,
        [path],
        fingerprint=digest(fingerprints, 16),
        fingerprints=fingerprints,
        n=dict(sorted(counts.items())),
        **more,
    )


def _complete_rows(content: Mapping, video: str, original: str) -> tuple[list[dict], str]:
    """The rows of a video with all :data:`COLUMNS`, and a digest of its pixels and rows.

    ``content`` is that of the video's ``video.json``; ``original`` is the name of its original, or
    "". The digest has 64 hexadecimal digits.
    """
    folder = f"videos/{video}"
    rows = []
    for i, stored in enumerate(content["rows"]):
        path = stored.get("path", CROP_FILE.format(i))
        mask = stored.get("mask", MASK_FILE.format(i) if "masks_hash" in content else "")
        row = {**stored, "video": video, "original": original, "row": i}
        row |= {"path": f"{folder}/{path}", "mask": mask and f"{folder}/{mask}"}
        rows.append({**row, "crop_hash": content["crop_hashes"][i]})
    hashes = [content["crops_hash"], content.get("masks_hash")]
    values = [[row.get(name) for name in COLUMNS] for row in rows]  # None: where it was cut
    return rows, digest([hashes, values], 64)


# ---------------------------------------------------------------- reading


def dataset_record(name: str | Path, *splits: str) -> dict:
    """The record of a dataset.

    Raises :class:`DfnbError` when it is missing or unfinished, or lacks one of these ``splits``.
    """
    folder = dataset_folder(name)
    record = read_record(folder)
    if record is None:
        prepared = [path.parent.name for path in folder.parent.glob("*/record.json")]
        raise DfnbError(
            f"{folder} contains no finished dataset; make it with `dfnb synth` or, if `dfnb data` "
            "has it, `dfnb fetch` and `dfnb prepare`"
            f"{suggestion(folder.name, prepared)}"
        )
    if missing := {*splits} - {*record["fingerprints"]}:
        raise DfnbError(
            f"{folder} has no split {' and no split '.join(sorted(missing))}; prepare it, without "
            "--splits or with these, or choose another dataset"
        )
    return record


def faces_of(name: str | Path) -> dict[str, Any]:
    """How a dataset's faces were cut: ``size`` and ``scale``, as far as known.

    ``size`` is the side of a crop in pixels; ``scale`` is side of a crop / longer side of the face.
    Raises :class:`DfnbError` when the dataset is missing.
    """
    made_with = dataset_record(name)["parameters"]
    return {key: made_with[key] for key in ("size", "scale") if key in made_with}


def load_frames(name: str | Path) -> pd.DataFrame:
    """The frames table of a dataset; here ``path`` and ``mask`` are absolute.

    In a dataset of photographs, ``identity`` and ``source`` are whom these show as far as the
    record says it; "": nobody knows whether two of them show one person. Raises
    :class:`DfnbError` when the dataset is missing or unfinished, and when the table lacks columns.
    """
    record = dataset_record(name)  # raises where there is none
    folder = dataset_folder(name).absolute()
    path = folder / "frames.parquet"
    # "frames.parquet is not valid as a table of frames (why); delete it and ...", as a DfnbError
    with explained(path, "as a table of frames", REMEDY):
        table = parquet.read_table(path)
        table = table.select([*COLUMNS]).cast(pa.schema(COLUMNS))
    # pandas has no type of its own for lists of numbers. The other columns get its default types,
    # which for TEXT are categories.
    list_types = {POINTS: pd.ArrowDtype(POINTS), BOX: pd.ArrowDtype(BOX)}
    frames = table.to_pandas(types_mapper=list_types.get)
    for column in ("path", "mask"):
        files = frames[column]
        frames[column] = (f"{folder}/" + files).where(files != "", "")
    if shown := record.get("shown"):  # by number, see casts.cast
        for column in ("identity", "source"):
            people = [shown.get(number, "") for number in frames[column]]
            frames[column] = pd.Categorical(people)
    return frames


def datasets_of(frames: pd.DataFrame) -> str:
    """The names of the datasets in a frames table, for messages."""
    return " and ".join(frames["dataset"].unique())


def data_identity(record: Mapping, splits: Sequence[str] = SPLITS) -> str:
    """A digest that identifies splits of the dataset with this record, equal on every machine.

    A synthetic dataset is identified by its parameters, because rounding makes its bytes differ
    between machines. Any other dataset is identified by the fingerprints of these splits, which
    :func:`write_dataset` made of their crops and rows; a split that it lacks counts as "".
    """
    if "generator" in record["parameters"]:  # only a synthetic dataset has one
        return digest(record["parameters"], 16)
    return digest([record["fingerprints"].get(split, "") for split in splits], 16)


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
        raise DfnbError(
            f"{datasets_of(frames)} has no frame of split {split!r} or methods {methods}, "
            f"but {', '.join(sorted({*kinds}))}"
        )
    return selected


def first_clusters(frames: pd.DataFrame, videos: int | None) -> pd.DataFrame:
    """The frames of the first clusters that give each class ``videos`` / 2 videos or more.

    Each class takes clusters in the order of their names, until it has so many videos or no cluster
    is left. A cluster that one class takes is kept with the videos of both. None: all are kept.
    """
    if videos is None:
        return frames
    cluster = frames["cluster"].astype(str)
    # The number of videos per (label, cluster); the clusters of a label are sorted by name.
    counts = frames["video"].groupby([frames["label"], cluster]).nunique()
    # Videos of the label in all earlier clusters. A class needs a cluster only if those are fewer
    # than half of ``videos``.
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
    # As place goes from 0 to total, place * n // total goes from 0 to n in n steps of 1. The frame
    # just before each step is kept.
    before = place * n // total
    after = (place + 1) * n // total
    return frames[after > before]


def check_clusters(frames: pd.DataFrame, split: str) -> None:
    """Raise :class:`DfnbError` unless ``frames`` have two clusters or more of each class.

    A class of one cluster could be told by its one person. ``frames`` are those of one split,
    ``split``, which is only named in the message.
    """
    clusters = frames.groupby("label")["cluster"].nunique()
    n_real = clusters.get(0, 0)
    n_fake = clusters.get(1, 0)
    if min(n_real, n_fake) < 2:
        raise DfnbError(
            f"{datasets_of(frames)}: split {split!r} has {n_real} clusters of real frames and "
            f"{n_fake} of fake ones, and training needs two of each; choose other methods or "
            "data, or add videos of other people"
        )


# ---------------------------------------------------------------- masks and landmarks


def masked_positions(frames: pd.DataFrame) -> np.ndarray:
    """The positions in the table (as ``iloc`` counts) of the fake frames that have a mask."""
    return np.flatnonzero((frames["label"] == 1) & (frames["mask"] != ""))


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
            f"{datasets_of(frames)} has {len(masked_positions(frames))} masks for "
            f"{len(frames)} frames, and the share annotated = {share:g} is none; raise it, prepare "
            "the dataset with masks, or learn without masks: annotated = 0"
        )
    is_kept = np.isin(np.arange(len(frames)), rows)  # by position: the index need not begin at 0
    return frames.assign(mask=frames["mask"].where(is_kept, ""))


def mean_mask(frames: pd.DataFrame) -> np.ndarray | None:
    """The mean mask (H, W) in [0, 1] of the fake frames that have one; None where none has.

    All masks are resized to the crop size of the first of these frames, as crops may differ.
    """
    fakes = frames.iloc[masked_positions(frames)]
    if fakes.empty:
        return None
    shape = read_crop(fakes["path"].iloc[0]).shape[:2]
    total = np.zeros(shape)
    for path in fakes["mask"]:
        total += read_mask(path, shape)
    return total / len(fakes)


def landmarks_array(frames: pd.DataFrame) -> np.ndarray:
    """The landmarks of the frames as (n, 5, 2) float32, NaN where they are unknown."""
    unknown = [np.nan] * 10
    is_known = frames["landmarks"].notna()
    points = [row if known else unknown for row, known in zip(frames["landmarks"], is_known)]
    return np.array(points, np.float32).reshape(-1, 5, 2)


# ---------------------------------------------------------------- pixels


def read_crop(path: str) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB; raises :class:`DfnbError` when it cannot be read."""
    try:
        # Not cv2.imread, which crashes at a name that is not UTF-8.
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # fails at None: the file is no image
    except (OSError, cv2.error):
        raise DfnbError(
            f"{path} cannot be read as an image; restore it, or, if a dataset has it, delete the "
            "dataset's folder and make it again"
        ) from None


def read_mask(path: str, shape: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool, resized to ``shape`` = (H, W); all False where ``path`` is empty.

    A pixel is forged where its grey level is above 127, or above half of the largest level where
    the mask has two levels. Errors are those of :func:`read_crop`.
    """
    if not path:
        return np.zeros(shape, bool)
    grey = cv2.cvtColor(read_crop(path), cv2.COLOR_RGB2GRAY)
    threshold = half_of_two_levels(grey)
    return cv2.resize(grey, shape[::-1], interpolation=cv2.INTER_NEAREST) > threshold


def half_of_two_levels(mask: np.ndarray) -> int:
    """The threshold of a mask (H, W) uint8: pixels with a higher grey level are forged.

    With two levels it is half of the larger one, which separates black from a grey such as 107, a
    colour, or 1. Otherwise it is 127. A mask has two levels unless more pixels lie in the two
    middle quarters of the range from 0 to the largest level than in its upper quarter.
    """
    # Pixels per grey level. calcHist is ten times as fast as numpy.bincount, and training reads a
    # mask per fake frame.
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    largest = counts.nonzero()[0].max(initial=0)
    quarter = largest // 4
    in_middle = counts[quarter + 1 : largest - quarter].sum()
    in_upper_quarter = counts[largest - quarter :].sum()
    return largest // 2 if in_upper_quarter >= in_middle else 127
