"""Scores of frames by a trained network, and how well it locates what was forged."""

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch.utils.data import DataLoader

from dfnb.data.corrupt import Corrupted
from dfnb.data.loading import Read, loader_in_order, prepared
from dfnb.device import DEVICE, LAYOUT, fixed_threads, precision, to_numpy, workers
from dfnb.papers import contract
from dfnb.store.scores import check_scores
from dfnb.store.units import KEYS
from dfnb.training.localisation import localisation
from dfnb.training.progress import PRINTED_S, bar
from dfnb.training.runs import Run
from facesets import sources
from facesets.frames import first_clusters, read_crop


@fixed_threads()
@torch.inference_mode()
def predict_frames(
    network: contract.Network,
    frames: pd.DataFrame,
    settings: contract.Settings,
    read: Read = read_crop,
    constant: np.ndarray | None = None,
    locate: bool = True,
    loader: DataLoader | None = None,
) -> pd.DataFrame:
    """Scores of frames, on the network's device, in the training's precision.

    The network is put in evaluation mode and stays in it.

    Args:
        network: A paper's network.
        frames: A frames table; it may have any order.
        settings: The settings of the training.
        read: Reads a crop, corrupted for example. Unless it is read_crop, nothing is located,
            because the masks may no longer fit.
        constant: One map (h, w) in [0, 1] for all frames, such as the mean mask of the training.
            Its localisation measures are returned beside the network's, as ``constant <name>``.
        locate: Whether to measure localisation, where the network has ``localise``.
        loader: Reads these frames, see :func:`dfnb.data.loading.loader_in_order`; by default one
            that is made for this call. One that is given keeps its workers for the next call.

    Returns:
        One row per frame, in the order of ``frames``: KEYS, which identify the frame, ``log_odds``
        of being fake, ``score`` = P(fake), and where localisation is measured the columns of
        :func:`localisation`, which are NaN for real frames and for fakes without a mask.
    """
    network = network.eval().to(memory_format=LAYOUT)
    device = next(network.parameters()).device.type
    localises = locate and read is read_crop and hasattr(network, "localise")
    is_mixed = settings.precision == "bf16-mixed"
    log_odds = []  # one value per image, as in measures
    measures = []
    if loader is None:
        loader = loader_in_order(frames, settings, workers=workers(), read=read)
    line = bar(iterable=loader, desc="scored", unit=" batches", delay=PRINTED_S, leave=False)
    with line:
        for item in line:
            batch = prepared(item, settings, device)
            images = batch["image"].contiguous(memory_format=LAYOUT)
            with precision(settings.precision), torch.autocast(device, torch.bfloat16, is_mixed):
                outputs = contract.outputs_of(network, images)
            if localises:
                located = to_numpy(network.localise(outputs))  # (B, h, w) in [0, 1]
                masks = batch["mask"][:, 0].cpu().numpy() > 0.5  # (B, H, W) bool, from 0. and 1.
                measures += [_measured(*pair, constant) for pair in zip(located, masks)]
            log_odds += network.log_odds(outputs).tolist()
    labels = frames["label"].tolist()  # score files have them in 64 bits, and tables of frames in 8
    table = frames[list(KEYS)].reset_index(drop=True)
    table = table.assign(label=labels, log_odds=log_odds, score=expit(log_odds))
    return table.join(pd.DataFrame(measures)) if localises else table


def _measured(
    located: np.ndarray,
    mask: np.ndarray,
    constant: np.ndarray | None,
) -> dict[str, float]:
    """The measures of a map (h, w) by name and, as ``constant <name>``, those of a fixed map."""
    measures = localisation(located, mask)
    if constant is not None:
        of_constant = localisation(constant, mask)
        measures |= {f"constant {name}": value for name, value in of_constant.items()}
    return measures


def score(
    run: Run,
    test_set: str,
    corruption: str = "",
    severity: int = 0,
    videos: int | None = None,
) -> pd.DataFrame:
    """Scores of a test set by the chosen checkpoint of a run, see :func:`predict_frames`.

    At most :data:`facesets.sources.TEST_FRAMES` frames of each video are scored.

    Args:
        run: A finished training.
        test_set: A dataset with a test split.
        corruption: One of ``corrupt.CORRUPTIONS``; empty: the frames as they are.
        severity: Of the corruption, 1 to 5; 0 without one.
        videos: Score about this many videos, half of them real: those of the first clusters
            (videos of the same people) by name, so that every run has the same ones. None: all.

    Raises :class:`DfnbError` for scores that are NaN, and for a test set without real or without
    fake frames.
    """
    frames = first_clusters(sources.frames_to_score(test_set), videos)
    network = run.network().to(DEVICE)
    if corruption:
        read = Corrupted(frames, corruption, severity)
        unmasked = frames.assign(mask="")  # nothing is located, so reading masks is spared
        table = predict_frames(network, unmasked, run.settings, read)
    else:
        # The mean mask is compared with what the network locates. If it locates nothing, the mean
        # is not computed, because that reads all masks of the training.
        constant = run.mean_mask() if hasattr(network, "localise") else None
        table = predict_frames(network, frames, run.settings, constant=constant)
    check_scores(table, f"the scores of {run.id} on {test_set}")
    return table
