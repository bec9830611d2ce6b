"""Masks as a segmenter might have drawn them, so that a model of true masks' features also fits predicted ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from monai.transforms import Randomizable
from scipy import ndimage

from crossmoda.koos.geometry import EXTRA_MEATAL

MARGIN = 30.0  # mm around the tumour; what lies further off changes no feature


class JitterMasks(Randomizable):
    """Moves the surfaces of tumour, brainstem and cerebellum in and out at random.

    The true masks of the training cases are smooth and fit each other to the voxel; predicted ones are a little too
    small or too large, uneven, and leave gaps. MONAI's elastic transforms move all structures together, which leaves
    their contact as it was.

    Args:
        offset_mm: the tumour as a whole grows or shrinks by up to this.
        noise_mm: standard deviation of a smooth random distance by which each surface moves from place to place.
        smooth_mm: standard deviation of the Gaussian that makes it smooth.
    """

    def __init__(self, offset_mm: float = 0.5, noise_mm: float = 0.5, smooth_mm: float = 4.0) -> None:
        self.offset_mm, self.noise_mm, self.smooth_mm = offset_mm, noise_mm, smooth_mm

    def __call__(self, masks: Mapping[str, np.ndarray], affine: np.ndarray) -> dict[str, np.ndarray]:
        """Change a case's masks.

        Args:
            masks: as of `masks_by_name`; the cochlea stays as it is.
            affine: 4 x 4, voxel indices to mm.

        Returns:
            New masks; a tumour that would vanish stays as it was.
        """
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        box = _box_around(masks["VS"], spacing)
        out = {name: mask.copy() for name, mask in masks.items()}
        offset = self.R.uniform(-self.offset_mm, self.offset_mm)
        for name in ("VS", "brainstem", "cerebellum"):
            if name in masks and masks[name][box].any():
                moved = self._moved(masks[name][box], spacing, offset if name == "VS" else 0.0)
                if name != "VS" or moved.any():
                    out[name][box] = moved
                if name != "VS":
                    out[name] &= ~out["VS"]
        if EXTRA_MEATAL in masks:  # a new voxel of the tumour is of the same part as the nearest old one
            nearest = ndimage.distance_transform_edt(
                ~masks["VS"][box], spacing, return_distances=False, return_indices=True
            )
            out[EXTRA_MEATAL][box] = masks[EXTRA_MEATAL][box][tuple(nearest)] & out["VS"][box]
        return out

    def _moved(self, mask: np.ndarray, spacing: np.ndarray, offset: float) -> np.ndarray:
        """A mask with its surface moved outwards by offset and noise."""
        outside = ndimage.distance_transform_edt(~mask, spacing)
        distance = outside - ndimage.distance_transform_edt(mask, spacing)
        distance -= np.sign(distance) * spacing.min() / 2  # the surface is half-way between two voxels
        noise = ndimage.gaussian_filter(self.R.standard_normal(mask.shape), self.smooth_mm / spacing)
        return distance < offset + self.noise_mm * noise / max(noise.std(), 1e-12)


def _box_around(mask: np.ndarray, spacing: np.ndarray) -> tuple[slice, ...]:
    margins = np.ceil(MARGIN / spacing).astype(int)
    ends = [(place.min(), place.max()) for place in np.nonzero(mask)]
    return tuple(
        slice(max(0, low - margin), high + margin + 1) for (low, high), margin in zip(ends, margins, strict=True)
    )
