"""What nnU-Net's planner wants to know of a data set: spacings, sizes, and how much of each scan is not empty."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from tqdm import tqdm

from crossmoda.data import read_volume
from crossmoda.errors import InputError


@dataclass(frozen=True)
class Fingerprint:
    """Geometry of a data set; axes are (x, y, z) after `Orientation("RAS")`, as in the bundles.

    Attributes:
        spacings: mm, one row a scan, shape (N, 3).
        shapes: voxels of the box around all that is not 0, one row a scan, shape (N, 3).
        relative_size: median over the scans of that box's share of the scan, in (0, 1].
    """

    spacings: np.ndarray
    shapes: np.ndarray
    relative_size: float

    def __post_init__(self) -> None:
        spacings, shapes = np.asarray(self.spacings, dtype=float), np.asarray(self.shapes, dtype=int)
        if spacings.ndim != 2 or spacings.shape[1] != 3 or spacings.shape != shapes.shape or not len(spacings):
            raise ValueError(f"spacings {spacings.shape} and shapes {shapes.shape} must both be (N, 3), N at least 1")
        if spacings.min() <= 0 or shapes.min() < 1 or not 0 < self.relative_size <= 1:
            raise ValueError("spacings and shapes must be positive, relative_size in (0, 1]")
        object.__setattr__(self, "spacings", spacings)
        object.__setattr__(self, "shapes", shapes)


def extract_fingerprint(
    items: Sequence[Mapping[str, Any]], threads: int | None = None, progress: bool = True
) -> Fingerprint:
    """Measure the scans of a data list's section.

    nnU-Net also gathers foreground intensities; they serve CT only.

    Args:
        items: items of `crossmoda.data.load_datalist`.
        threads: scans read at a time; None takes one a core, at most 8.
        progress: whether to show a bar (only on a terminal).

    Returns:
        The fingerprint, rows in the order of the items.

    Raises:
        InputError: if a scan can't be read, or is 0 everywhere.
    """
    if not items:
        raise InputError("there is no scan to plan from: give a section that has some")
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:  # unpacking gzip lets threads run
        measured = pool.map(measure_scan, [item["image"] for item in items])
        bar = tqdm(measured, total=len(items), desc="Measuring scans", unit="case", disable=None if progress else True)
        spacings, shapes, shares = zip(*bar, strict=True)
    return Fingerprint(np.array(spacings), np.array(shapes), float(np.median(shares)))


def measure_scan(path: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Spacing in mm, shape of the box around all that is not 0, and its share of the scan; axes as RAS.

    nnU-Net fills holes in the mask first, which leaves its box as it is.

    Args:
        path: a NIfTI file.

    Raises:
        InputError: if the file can't be read or is 0 everywhere.
    """
    voxels, affine = read_volume(path)
    box = []
    for axis in range(3):
        filled = np.flatnonzero(voxels.any(axis=tuple(other for other in range(3) if other != axis)))
        if not filled.size:
            raise InputError(f"{path} is 0 everywhere: take it out of the data list")
        box.append(filled[-1] - filled[0] + 1)
    order = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))[:, 0].astype(int)
    place = np.argsort(order)  # place[i] is the axis of the file that becomes axis i
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).round(6)  # float32 headers: 1.5 must not be above 3 x 0.5
    return spacing[place], np.array(box)[place], float(np.prod(box) / voxels.size)
