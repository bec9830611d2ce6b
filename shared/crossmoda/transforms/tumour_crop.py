"""Crops of a fixed size around the tumour."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Randomizable

from crossmoda.errors import InputError
from crossmoda.transforms.checks import file_name
from crossmoda.transforms.crops import Region, RegionCropd


class TumourCropd(RegionCropd):
    """Cuts a region of fixed size around the middle of a mask's bounding box.

    Han 2022 takes the slices around the tumour and, in plane, the whole region of interest. Here all three axes follow
    the tumour, but the region stays inside the volume where the volume is large enough; elsewhere the volume is centred
    in it and padded. MONAI's `CropForegroundd` cuts the box itself, of any size.

    Args:
        keys: items (1, X, Y, Z) of one grid; the first is the mask, 0 outside the tumour.
        size: voxels along the three axes.
        value: fill of all items but the mask, which is filled with 0.
        allow_missing_keys: of items other than the mask.
    """

    def __init__(
        self, keys: KeysCollection, size: Sequence[int], value: float = 0.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = np.array(size)
        self.offset = np.zeros(3, dtype=int)
        self.fill = (0.0, *[value] * (len(self.keys) - 1))

    def region(self, image: torch.Tensor) -> Region:
        """The region around the mask `image`.

        Raises:
            InputError: if the mask is empty.
        """
        places = torch.nonzero(image[0]).cpu().numpy()
        if not len(places):
            raise InputError(f"{file_name(image)}: no tumour in the region of interest: enlarge roi_size")
        centre = (places.min(0) + places.max(0)) / 2
        excess = np.array(image.shape[1:]) - self.size
        start = np.floor(centre - (self.size - 1) / 2 + 0.5).astype(int) + self.offset
        start = np.where(excess >= 0, np.clip(start, 0, np.maximum(excess, 0)), excess // 2)
        return start, start + self.size


class RandTumourCropd(Randomizable, TumourCropd):
    """`TumourCropd`, moved by a random number of voxels along each axis.

    Args:
        keys: see `TumourCropd`.
        size: see `TumourCropd`.
        shift: greatest move along the three axes, in voxels to either side; all moves are as likely.
        value: see `TumourCropd`.
        allow_missing_keys: see `TumourCropd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        shift: Sequence[int],
        value: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, size, value, allow_missing_keys)
        self.shift = np.array(shift)

    def randomize(self, data: Any = None) -> None:
        """Draws the move."""
        self.offset = self.R.randint(-self.shift, self.shift + 1)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Cuts the region of the mask, moved, from all items."""
        self.randomize()
        return super().__call__(data, lazy)
