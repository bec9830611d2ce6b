"""Volumes with their place in the world, smaller copies of them, and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Volume:
    """A scalar image in the world.

    Attributes:
        values: float32 (X, Y, Z).
        affine: voxel index to RAS mm, 4x4.
        mask: bool (X, Y, Z) where the image counts, or None for everywhere.
    """

    values: np.ndarray
    affine: np.ndarray
    mask: np.ndarray | None = None

    @property
    def spacing(self) -> np.ndarray:
        """Voxel edges in mm, shape (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def shrink(self, spacing: float) -> Volume:
        """Mean over blocks of whole voxels, as large as fit into `spacing` mm (finer axes stay as they are).

        Block means are the anti-aliasing; voxels beyond the last whole block are left out. A block belongs to the mask
        if at least half of its voxels do.
        """
        factors = np.maximum((spacing / self.spacing + 1e-3).astype(int), 1)
        factors = np.minimum(factors, self.values.shape)
        if (factors == 1).all():
            return self
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ ((factors - 1) / 2)
        affine[:3, :3] = self.affine[:3, :3] * factors
        mask = None if self.mask is None else _block_mean(self.mask, factors) >= 0.5
        return Volume(_block_mean(self.values, factors), affine, mask)

    def moved(self, matrix: np.ndarray) -> Volume:
        """The same voxels after the world map `matrix` (4x4)."""
        return Volume(self.values, matrix @ self.affine, self.mask)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """World points (3, N) and values (N,) of the voxels in the mask."""
        index = np.indices(self.values.shape).reshape(3, -1)
        values = self.values.reshape(-1)
        if self.mask is not None:
            inside = self.mask.reshape(-1)
            index, values = index[:, inside], values[inside]
        return self.affine[:3, :3] @ index + self.affine[:3, 3:], values


def _block_mean(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Means of blocks of `factors` voxels, float32."""
    out = values
    for axis, factor in enumerate(int(f) for f in factors):
        if factor == 1:
            continue
        whole = out.shape[axis] // factor
        # Strided sums are several times faster than the mean of a reshaped array, and keep memory low.
        parts = [slice(None)] * 3
        total = 0.0
        for start in range(factor):
            parts[axis] = slice(start, whole * factor, factor)
            total = total + out[tuple(parts)].astype(np.float32, copy=False)
        out = total / factor
    return np.asarray(out, dtype=np.float32)


def foreground(values: np.ndarray) -> np.ndarray:
    """Rough mask of the head: voxels above a tenth of the bright tissue's level, holes and specks closed.

    Args:
        values: (X, Y, Z), magnitude image (air dark).

    Returns:
        bool, same shape; empty where the image is flat.
    """
    low, high = np.percentile(values, (1, 98))
    mask = values > low + 0.1 * (high - low)
    return ndimage.binary_closing(ndimage.binary_opening(mask), iterations=2) | (mask & ndimage.binary_opening(mask))
