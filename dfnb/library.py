"""Four functions for a notebook of your own; ``import dfnb`` offers them as ``dfnb.predict`` etc.

They read the datasets and trained detectors of :func:`dfnb.files.home`, and leave torch's settings
and your model as they are.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import expit
from torch import nn

from dfnb import device
from dfnb.attribution import maps
from dfnb.checks import DfnbError
from dfnb.data.frames import load_frames, select
from dfnb.data.loading import StoredFrames, frames_in_memory
from dfnb.data.sources import check_known, ensure_datasets, frames_to_score
from dfnb.report.metrics import measure
from dfnb.report.reading import UNITS
from dfnb.store.scores import KEY_TYPES, KEYS, check_scores
from dfnb.training import scoring
from dfnb.training.runs import Run

log = logging.getLogger(__name__)

AT_ONCE = 64  # crops that a module or function gets in one call, at most


def load_dataset(name: str, split: str = "test") -> StoredFrames:
    """The frames of a prepared dataset as a torch ``Dataset``; its ``table`` has a row per frame.

    Item i is a :class:`dfnb.data.loading.Sample` with ``image`` (H, W, 3) uint8 RGB, ``mask``
    (H, W) bool (True where forged), ``landmarks`` (5, 2) in pixels (NaN where unknown), ``label``
    (0 real, 1 fake) and ``has_mask`` (False where it is unknown what was forged). Of a test video
    the dataset has at most 32 frames, evenly spaced, as in the reports; train and val are complete.

    Args:
        name: A dataset that ``dfnb prepare`` made, or the path of its folder; or one that ``dfnb
            synth`` makes, which is made now if it is missing.
        split: train, val or test.

    Raises :class:`DfnbError` where there is no such dataset or split.

    Example::

        dataset = dfnb.load_dataset("smoke-b", "test")
        dataset[0].image.shape, dataset.table["method"].value_counts()
    """
    if "/" not in name:
        check_known([name], "dfnb.load_dataset")
        ensure_datasets(name)
    if split == "test":
        return StoredFrames(frames_to_score(name))
    return StoredFrames(select(load_frames(name), split))


def create_model(name: str) -> Run:
    """A trained detector: the run with this id, from ``runs/`` or from a report's scores.

    Its ``network()`` is a torch module; it raises :class:`DfnbError` where the weights are not on
    this machine. ``settings`` are those of the training, and ``log`` has one row per epoch.

    Raises :class:`DfnbError`, which names the nearest ids, if there is no such run.

    Example::

        detector = dfnb.create_model("xception-bed-30-s30-65b205e7")
        detector.network(), detector.settings.image_size
    """
    return Run.open(name)


# ---------------------------------------------------------------- scores


# The caller's random state stays: reading the frames for a Run draws from torch's generator.
@torch.random.fork_rng(devices=[])
def predict(
    model: Run | str | nn.Module | Callable,
    dataset: StoredFrames | Sequence[np.ndarray],
    transform: Callable | None = None,
) -> pd.DataFrame:
    """P(fake) of each frame, by any detector.

    Args:
        model: A :class:`Run` or its id: it resizes and normalises crops as in its training. Or a
            torch module in evaluation mode: it takes images (B, 3, H, W) and returns logits of
            being fake, (B,) or (B, 1), or two per image, real first, (B, 2); or a dict or an object
            with such ``logits`` or ``cls``. Or a function: it takes crops (B, H, W, 3) uint8 RGB,
            or a batch of what ``transform`` returns, and returns P(fake) in [0, 1], (B,) or (B, 1),
            or P(real) and P(fake), (B, 2).
        dataset: Of :func:`load_dataset`, or a slice of it; or crops (H, W, 3) uint8 RGB, whose
            labels are not known.
        transform: Turns a PIL image in RGB into what the model takes, for a module (3, H, W), as
            the transforms of torchvision and timm do. A module needs one, a function only where
            crops differ in size. Tensors are stacked to a tensor, anything else to an array. Runs
            ignore ``transform``.

    Returns:
        One row per frame, in the order of ``dataset``: ``video``, ``track``, ``frame``,
        ``cluster``, ``label``, ``method`` and ``score`` = P(fake); for a run also ``log_odds``, the
        ``train_set``, since elsewhere a score says less, and, if the run locates forged regions,
        how well, see :func:`dfnb.training.scoring.predict`.

    Logs a warning where all outputs of a module are in [0, 1], as if they were probabilities.
    Raises :class:`DfnbError` for outputs that are not finite, of another shape or, of a function,
    outside [0, 1].

    Example::

        scores = dfnb.predict(network.eval(), dataset, transform=to_tensor)
    """
    if not isinstance(dataset, StoredFrames):
        dataset = frames_in_memory(_checked_crops(dataset))
    model = Run.open(model) if isinstance(model, str) else model
    if isinstance(model, Run):
        network = model.network().to(device.DEVICE)
        scores = scoring.predict(network, dataset.table, model.settings, dataset.read)
        return scores.assign(train_set=model.train_set)
    batches = []
    for start in range(0, len(dataset), AT_ONCE):
        crops = [sample.image for sample in dataset[start : start + AT_ONCE]]
        batches.append(_outputs(model, crops, transform))
    outputs = np.concatenate(batches)
    scores = outputs[:, -1]
    if isinstance(model, nn.Module):
        if outputs.min() >= 0 and outputs.max() <= 1:
            log.warning("All outputs are in [0, 1]: are they probabilities instead of logits?")
        # The logit of being fake minus that of being real, which is 0 where there is none.
        scores = expit(np.diff(outputs, prepend=0)[:, -1])
    return dataset.table[[*KEYS]].reset_index(drop=True).assign(score=scores)


def _checked_crops(dataset: Any) -> list[np.ndarray]:
    """The crops, if all are (H, W, 3) uint8; else :class:`DfnbError`."""
    is_sequence = isinstance(dataset, (Sequence, np.ndarray)) and not isinstance(dataset, str)
    crops = list(dataset) if is_sequence else [dataset]
    for crop in crops:
        if not (isinstance(crop, np.ndarray) and crop.dtype == np.uint8 and crop.shape[2:] == (3,)):
            kind = type(dataset).__name__
            raise DfnbError(
                f"a {kind} is no dataset; give one of load_dataset, a slice of it, or a list of "
                "crops: arrays (H, W, 3) of uint8, RGB"
            )
    return crops


def _outputs(
    model: Callable,
    crops: Sequence[np.ndarray],
    transform: Callable | None,
) -> np.ndarray:
    """What a module or function returns for crops (H, W, 3) uint8: (B, 1), or (B, 2), real first.

    They are logits of a module and probabilities of a function, see :func:`predict`.
    """
    is_module = isinstance(model, nn.Module)
    if is_module and model.training:
        raise DfnbError("the module is in training mode, which gives other scores; call its eval()")
    if is_module or transform:
        items = [transform(Image.fromarray(crop)) for crop in crops]
    else:
        items = crops
    is_tensor = is_module or isinstance(items[0], torch.Tensor)
    batch = torch.stack(items) if is_tensor else np.stack(items)
    with torch.inference_mode():
        if is_module:
            if not batch.is_floating_point():
                raise DfnbError(f"transform leaves {batch.dtype}; let it scale images to floats")
            # Of the type and on the device of the module's first parameter, if it has one.
            batch = batch.to(next(model.parameters(), batch))
            outputs = maps.logits(model, batch)
        else:
            outputs = model(batch)
    if isinstance(outputs, torch.Tensor):
        outputs = outputs.cpu()  # first: Apple's GPUs have no float64
    values = torch.as_tensor(outputs, dtype=torch.float64).numpy(force=True)
    if len(crops) == 1:  # squeeze() at the end of a detector leaves no batch
        values = values.reshape(1, -1)
    lowest, highest = values.min(), values.max()
    is_valid = np.isfinite(values) if is_module else (values >= 0) & (values <= 1)  # NaN: False
    count = len(crops)
    if values.shape not in {(count,), (count, 1), (count, 2)} or not is_valid.all():
        raise DfnbError(
            f"the detector returns shape {values.shape}, {lowest:.2f} to {highest:.2f}, for "
            f"{count} images; return one number per image: a function P(fake) in [0, 1], a module "
            "finite logits"
        )
    return values.reshape(count, -1)


# ---------------------------------------------------------------- numbers


def auc(table: pd.DataFrame, minus: pd.DataFrame | None = None) -> pd.Series:
    """The AUC of videos with its 95 % interval over clusters, or the difference of two AUCs.

    Args:
        table: Of :func:`predict`, or any other with the columns ``video``, ``label`` (0 real, 1
            fake) and ``score``. The score of a video is the mean over its frames. Videos that share
            people must have the same value of ``cluster``, by which the interval is made. Without
            this column, each video is its own cluster, and a warning says so.
        minus: The scores of another detector for the same videos, in such a table: its AUC is
            subtracted. What is hard for both cancels, so that the interval is narrower than from
            two AUCs.

    Returns:
        ``value`` in [0, 1], of a difference in [-1, 1]; ``low`` and ``high``, the ends of the
        interval, NaN where a class has a single cluster and, of a difference, where one of the
        AUCs is exactly 0 or 1 (it is so in every resample, too, as if it had no error: the interval
        would be too narrow); ``p``, two-sided, of the test for no difference, NaN without an
        interval or without ``minus``; and the number of ``clusters``.

    Raises :class:`DfnbError` for missing labels, for scores that are NaN or outside [0, 1], and
    when the videos, labels or clusters of the two tables differ.

    Example::

        dfnb.auc(dfnb.predict(mine, dataset), minus=dfnb.predict(detector, dataset)).p
    """
    videos = _videos(table, "a")
    if minus is not None:
        videos = pd.concat([videos, _videos(minus, "b")], ignore_index=True)
        # A video of both tables has two rows with the same name, cluster and label; the method
        # follows from the label.
        unmatched = videos[~videos.duplicated(UNITS["video"], keep=False)]
        if len(unmatched):
            raise DfnbError(
                f"the two tables cannot be compared: {len(unmatched)} videos with their label and "
                f"cluster are in only one of them (first: {unmatched['video'].iloc[0]}); score "
                "both on one test set"
            )
    # One row: the detector "a" or, where there is a second table, "a" minus "b".
    numbers = measure(videos, "AUC", "detector", minus=() if minus is None else "b")
    return numbers[["value", "low", "high", "p", "clusters"]].astype(float).iloc[0]


def _videos(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row per video of a user's score table, with the columns that :func:`measure` reads.

    ``score`` is the mean over the video's frames; ``name`` stands in the column ``detector``.
    Raises :class:`DfnbError` for a table with errors.
    """
    frames = pd.DataFrame(table)
    if {*frames.index.names} & {*KEYS}:  # as after set_index or groupby
        frames = frames.reset_index()
    frames = frames.reindex(columns=[*KEYS, "score"]).reset_index(drop=True)
    frames = frames.astype({"score": float, "label": float})
    if frames["cluster"].isna().all():
        log.warning("The table has no clusters: each video counts as independent of all others.")
        frames["cluster"] = frames["video"]
    if frames["frame"].isna().all():
        frames["frame"] = frames.groupby("video").cumcount()
    frames = frames.fillna({"track": 0})
    # The check demands methods that agree with the labels, which the user may have assigned later.
    # AUC needs no finer methods than these two.
    frames["method"] = frames["label"].map({0: "real", 1: "fake"})
    check_scores(frames, "the table, which needs labels, 0 real and 1 fake,")
    frames = frames.astype(KEY_TYPES)
    # Rounded, because the noise of float64 must not rank videos whose means are equal.
    videos = frames.groupby(UNITS["video"], as_index=False)["score"].mean().round(12)
    # measure groups by these columns; here each has a single value per table.
    return videos.assign(detector=name, seed=0, collapsed=False, test_set="the table")
