"""Surroundings of a mask in mm, whatever the voxels' shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]


def box_around(mask: np.ndarray, margin: Sequence[int]) -> Box:
    """The smallest box that holds a mask, widened and cut at the volume's ends.

    Args:
        mask: boolean, shape (X, Y, Z), not empty.
        margin: voxels to add at both ends of each axis.

    Returns:
        One slice an axis.
    """
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(
        slice(max(0, side.start - extra), min(size, side.stop + extra))
        for side, extra, size in zip(box, margin, mask.shape, strict=True)
    )


def distances_around(mask: np.ndarray, spacing: Sequence[float], reach_mm: float) -> tuple[Box, np.ndarray]:
    """Distance to a mask in its neighbourhood; MONAI's and scipy's transforms take the whole volume, which is slow.

    Args:
        mask: boolean, shape (X, Y, Z), not empty.
        spacing: voxel edges in mm.
        reach_mm: the box reaches at least so far beyond the mask, or to the volume's end.

    Returns:
        A box, and the distances within it in mm, from voxel centre to the nearest voxel centre of the mask; 0 inside.
    """
    box = box_around(mask, [int(np.ceil(reach_mm / edge)) for edge in spacing])
    return box, ndimage.distance_transform_edt(~mask[box], sampling=tuple(spacing))
