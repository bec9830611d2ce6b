"""The region that nnU-Net crops a scan to."""

from __future__ import annotations

import torch


def nonzero_region(image: torch.Tensor) -> torch.Tensor:
    """Voxels that are not zero, or all of them in an image that is zero everywhere.

    `select_fn` of MONAI's `CropForeground`, whose default leaves out negative values and fails on a blank image.

    Args:
        image: (C, X, Y, Z).

    Returns:
        Mask of the image's shape.
    """
    mask = image != 0
    return mask if mask.any() else torch.ones_like(mask)
