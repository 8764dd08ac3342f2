"""How well a map finds the forged pixels of a frame."""

import math

import cv2
import numpy as np

from facesets.checks import DfnbError

LOCALISATION = ("iou", "pixel_auc", "pixel_ap", "pointing", "energy")


def localisation(probability: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """How well a map finds the forged pixels of a frame: LOCALISATION, in [0, 1].

    - IoU of the pixels above .5; pixel AUC and AP, see :func:`auc_and_ap`;
    - pointing game: whether the highest pixel is forged (Zhang et al., ECCV 2016); if several
      pixels are the highest, the share of them that is forged;
    - energy: the sum of the map over forged pixels, divided by its sum over all pixels (Wang et
      al., CVPR-W 2020, sec. 4.2); for a map of zeros, the forged share of the frame.

    So a constant map gets the AUC, AP, pointing and energy of chance. A mask without forged pixels
    gives NaN throughout; a full mask gives NaN for pixel AUC, and 1 for AP, pointing and energy.

    Args:
        probability: (h, w) in [0, 1]; resized to the mask bilinearly.
        mask: (H, W), non-zero where forged.

    Raises :class:`DfnbError` for a map with NaN or values outside [0, 1].
    """
    # Negated, because every comparison with NaN is False.
    if not (np.min(probability) >= 0 and np.max(probability) <= 1):
        raise DfnbError("a map has NaN or values outside [0, 1]; use a sigmoid or a softmax")
    forged = np.asarray(mask, bool)
    if not forged.any():
        return dict.fromkeys(LOCALISATION, math.nan)
    height, width = forged.shape
    resized = cv2.resize(np.float32(probability), (width, height))  # bilinearly
    # Rounded, because float32 interpolation breaks ties, differently on every machine.
    resized = resized.round(6)
    above = resized > 0.5
    intersection = (above & forged).sum()
    union = (above | forged).sum()
    pixel_auc, pixel_ap = auc_and_ap(resized.ravel(), forged.ravel())
    is_highest = resized == resized.max()
    energy = forged.mean()  # for a map of zeros, which prefers no pixel
    total = float(resized.sum(dtype=float))
    if total > 0:
        energy = resized[forged].sum(dtype=float) / total
    return {
        "iou": float(intersection / union),
        "pixel_auc": pixel_auc,
        "pixel_ap": pixel_ap,
        "pointing": float(forged[is_highest].mean()),
        "energy": float(energy),
    }


def auc_and_ap(values: np.ndarray, forged: np.ndarray) -> tuple[float, float]:
    """The AUC and the average precision (AP) of ranking pixels by ``values``, by a single sort.

    AUC is the area under the ROC curve. AP is the mean of the precisions at each value of the map,
    weighted by how much recall rises there. Pixels of equal value count together. scikit-learn
    gives the same numbers, but sorts for each of them and takes about seven times as long.

    Args:
        values: (n,) of the pixels.
        forged: (n,) bool, at least one of them True. Where all are, the AUC is NaN.
    """
    order = np.argsort(values)[::-1]  # the highest first
    is_last = np.append(np.diff(values[order]) != 0, True)  # of pixels of equal value
    # One entry per distinct value, taken as the threshold; positives are the pixels at or above it.
    positives = np.flatnonzero(is_last) + 1
    true_positives = np.cumsum(forged[order])[is_last]
    false_positives = positives - true_positives
    n_forged = true_positives[-1]
    n_genuine = false_positives[-1]
    new_true_positives = np.diff(true_positives, prepend=0)
    ap = (new_true_positives * true_positives / positives).sum() / n_forged
    if n_genuine == 0:
        return math.nan, float(ap)
    # The ROC curve begins at (0, 0): a threshold above all values has no positives.
    area = np.trapezoid(np.append(0, true_positives), np.append(0, false_positives))
    return float(area / (n_forged * n_genuine)), float(ap)
