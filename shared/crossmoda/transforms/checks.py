"""Refusal of images that a preprocessing step can make nothing of."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.utils import ImageMetaKey

from crossmoda.errors import InputError


def file_name(image: Any) -> str:
    """The file that an image came from, as MONAI's reader noted it, or "image"."""
    meta = image.meta if isinstance(image, MetaTensor) else {}
    return str(meta.get(ImageMetaKey.FILENAME_OR_OBJ) or "image")


def require_contrast(image: Any) -> np.ndarray:
    """The image as an array, if it can be preprocessed at all.

    Args:
        image: (C, X, Y, Z).

    Raises:
        InputError: if the image has no voxels, is not finite, or holds one value only.
    """
    array = np.asarray(image)
    if not array.size:
        raise InputError(f"{file_name(image)}: has no voxels, shape {array.shape[1:]}: export the scan anew")
    low, high = array.min(), array.max()  # NaN, if any voxel is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{file_name(image)}: holds values that are not finite: replace them or export the scan anew")
    if low == high:
        raise InputError(f"{file_name(image)}: every voxel is {low:g}, there is no image in it: export the scan anew")
    return array
