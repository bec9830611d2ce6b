"""Dice and average symmetric surface distance of label maps, under the challenge's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from crossmoda.labels import FOREGROUND
from crossmoda.metrics.tables import Row

# crossMoDA's scoring code gives this distance when there is nothing to measure.
EMPTY_ASSD_MM = 350.0


def dice_per_class(prediction: np.ndarray, truth: np.ndarray, labels: Sequence[int] = FOREGROUND) -> dict[int, float]:
    """Dice of each foreground class.

    MONAI's `DiceMetric` gives NaN for an empty truth even if the prediction is not empty, and takes ten times as long.

    Args:
        prediction: label map, any shape, integers from 0 to the highest of `labels`.
        truth: label map of the same shape.
        labels: the foreground classes.

    Returns:
        Class number to Dice in [0, 1]; 1 if the class is in neither, 0 if it is in one of them only.
    """
    size = max(labels) + 1
    pairs = truth.astype(np.intp).ravel() * size + prediction.ravel()
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    return {label: float(2 * counts[label, label] / sizes[label]) if sizes[label] else 1.0 for label in labels}


def assd(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance as in medpy, which crossMoDA's scoring code uses.

    Surface voxels are those with a face neighbour outside the mask; from each surface the mean distance to the other
    one is taken, and then the mean of the two means. MONAI's symmetric distance pools all distances instead, which
    gives the larger surface more weight, and is infinite or NaN where a mask is empty.

    Args:
        prediction: boolean mask, shape (X, Y, Z).
        truth: boolean mask of the same shape.
        spacing: voxel edges in mm.

    Returns:
        Distance in mm; 0 if both masks are empty, `EMPTY_ASSD_MM` if one of them is.
    """
    if not prediction.any() and not truth.any():
        return 0.0
    if not prediction.any() or not truth.any():
        return EMPTY_ASSD_MM
    # Everything beyond the box of both masks is neither surface nor nearest to one.
    box = tuple(slice(a.start, a.stop) for a in ndimage.find_objects((prediction | truth).astype(np.uint8))[0])
    surfaces = [_surface(np.pad(mask[box], 1)) for mask in (prediction, truth)]
    means = []
    for here, other in (surfaces, surfaces[::-1]):
        distance = ndimage.distance_transform_edt(~other, sampling=tuple(spacing))
        means.append(distance[here].mean())
    return float(np.mean(means))


def measure_classes(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], names: Mapping[int, str]
) -> Row:
    """Metrics of one case's classes.

    Args:
        prediction: label map, shape (X, Y, Z), integers from 0 to the highest of `names`.
        truth: label map of the same shape.
        spacing: voxel edges in mm.
        names: the foreground classes' names.

    Returns:
        For each class `dice_<name>`, `assd_<name>` (mm), and the volumes `truth_ml_<name>` and `prediction_ml_<name>`.
    """
    dice = dice_per_class(prediction, truth, tuple(names))
    millilitres = float(np.prod(spacing)) / 1000
    row: Row = {}
    for label, name in names.items():
        masks = prediction == label, truth == label
        row[f"dice_{name}"] = dice[label]
        row[f"assd_{name}"] = assd(*masks, spacing)
        row[f"truth_ml_{name}"] = float(masks[1].sum()) * millilitres
        row[f"prediction_ml_{name}"] = float(masks[0].sum()) * millilitres
    return row


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)
