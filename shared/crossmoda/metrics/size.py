"""Size of a tumour as radiologists state it, and its growth between two scans."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from skimage.measure import find_contours, marching_cubes

DAYS_A_YEAR = 365.25


@dataclass(frozen=True)
class TumourSize:
    """How large a structure is.

    Attributes:
        volume_mm3: number of voxels times their volume.
        axial_diameter_mm: greatest distance of two points of the outline in one axial slice.
        diameter_mm: greatest distance of two points of the surface.
    """

    volume_mm3: float
    axial_diameter_mm: float
    diameter_mm: float

    @property
    def volume_ml(self) -> float:
        """The volume in mL."""
        return self.volume_mm3 / 1000


def tumour_size(mask: np.ndarray, spacing: tuple[float, ...]) -> TumourSize:
    """Measure a structure.

    Outline and surface run midway between the voxels inside and those outside (marching squares and cubes), as in
    PyRadiomics' `Maximum2DDiameterSlice` and `Maximum3DDiameter`.

    Args:
        mask: boolean, shape (X, Y, Z) in RAS, so that the last axis runs through the axial slices.
        spacing: mm.

    Returns:
        Its size; zeros for an empty mask.
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return TumourSize(0.0, 0.0, 0.0)
    voxels = float(mask.sum()) * math.prod(float(step) for step in spacing)
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(mask))
    padded = np.pad(mask[box], 1).astype(np.float32)
    surface = marching_cubes(padded, 0.5, spacing=spacing)[0]
    axial = 0.0
    for index in range(1, padded.shape[2] - 1):
        lines = find_contours(padded[:, :, index], 0.5)
        if lines:
            axial = max(axial, _extent(np.concatenate(lines) * np.asarray(spacing[:2])))
    return TumourSize(voxels, axial, _extent(surface))


@dataclass(frozen=True)
class Growth:
    """Change between two scans of one patient.

    Attributes:
        years: between them.
        mm_a_year: change of the largest axial diameter.
        volume_percent: change of the volume, in per cent of the first.
        doubling_years: time in which the volume would double at a constant rate; negative: halve; infinite without
            a change.
    """

    years: float
    mm_a_year: float
    volume_percent: float
    doubling_years: float


def growth(first: TumourSize, second: TumourSize, days: float) -> Growth:
    """Growth from the first to the second of two sizes.

    Args:
        first: at the earlier date.
        second: at the later date.
        days: between them, > 0.

    Raises:
        ValueError: if the dates are not in order, or one of the sizes is zero.
    """
    if days <= 0:
        raise ValueError(f"{days} days lie between the scans: the second must be the later one")
    if min(first.volume_mm3, second.volume_mm3) <= 0:
        raise ValueError("there is no growth from or to an empty mask")
    years = days / DAYS_A_YEAR
    rate = math.log(second.volume_mm3 / first.volume_mm3) / years
    return Growth(
        years,
        (second.axial_diameter_mm - first.axial_diameter_mm) / years,
        100 * (second.volume_mm3 / first.volume_mm3 - 1),
        math.log(2) / rate if rate else math.inf,
    )


def _extent(points: np.ndarray) -> float:
    """Greatest distance of two points."""
    with contextlib.suppress(QhullError):  # too few, or all on a line or plane
        points = points[ConvexHull(points).vertices]
    return float(pdist(points).max()) if len(points) > 1 else 0.0
