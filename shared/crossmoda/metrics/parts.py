"""Metrics of the tumour's parts (crossMoDA 2023): extra-meatal, intra-meatal, and the boundary between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from crossmoda.labels import EXTRA, INTRA, PART_NAMES
from crossmoda.metrics.measures import assd, measure_classes
from crossmoda.metrics.tables import Row

BOUNDARY = "boundary"


def has_parts(row: Row) -> bool:
    """Whether a case's row has what `evaluate_parts` gives."""
    return f"assd_{BOUNDARY}" in row


def part_boundary(parts: np.ndarray) -> np.ndarray:
    """Where the tumour leaves the internal auditory canal: intra-meatal voxels with an extra-meatal face neighbour.

    Args:
        parts: label map (X, Y, Z), integers of `LABELS_2023`.

    Returns:
        Boolean mask of the same shape.
    """
    return (parts == INTRA) & ndimage.binary_dilation(parts == EXTRA)


def evaluate_parts(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> Row:
    """Metrics of one case whose tumour has parts.

    The challenge's code for the boundary is not public; this is our reading of crossMoDA 2023: the ASSD in mm between
    the predicted and the true set of voxels of `part_boundary`. Each of these voxels has a neighbour outside the set,
    so that all of them are surface. By the rule of `assd` the distance is 0 if both sets are empty (no tumour in both
    parts, in prediction and truth alike) and 350 mm if one of them is.

    Args:
        prediction: label map, shape (X, Y, Z), integers of `LABELS_2023`.
        truth: label map of the same shape.
        spacing: voxel edges in mm.

    Returns:
        For `extra` and `intra` `dice_<name>`, `assd_<name>` (mm), `truth_ml_<name>` and `prediction_ml_<name>`, and
        `assd_boundary` (mm).
    """
    row = measure_classes(_tumour(prediction), _tumour(truth), spacing, PART_NAMES)
    row[f"assd_{BOUNDARY}"] = assd(part_boundary(prediction), part_boundary(truth), spacing)
    return row


def _tumour(parts: np.ndarray) -> np.ndarray:
    return np.where(np.isin(parts, list(PART_NAMES)), parts, 0)
