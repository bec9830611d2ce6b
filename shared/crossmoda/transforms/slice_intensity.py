"""Intensity scaling of each slice on its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from crossmoda.errors import InputError
from crossmoda.transforms.checks import file_name, require_contrast


class ScaleSliceIntensityd(MapTransform):
    """Clips each slice to two of its percentiles and scales it to a range (Chen 2023; numbers from their code).

    Slices lie along the last axis. One whose values differ by `min_range` or less, or whose two percentiles are equal,
    holds no anatomy and becomes `b_min` wholly. MONAI's `ScaleIntensityRangePercentilesd` scales whole volumes or
    channels, and lets slices of noise fill the range.

    Args:
        keys: items (C, X, Y, Z), in the scanner's units.
        lower: lower percentile.
        upper: upper percentile.
        b_min: value of the lower percentile.
        b_max: value of the upper percentile.
        min_range: in the scanner's units.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 5.0,
        upper: float = 95.0,
        b_min: float = -1.0,
        b_max: float = 1.0,
        min_range: float = 10.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.percentiles = (lower, upper)
        self.b_min = b_min
        self.b_max = b_max
        self.min_range = min_range

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scales the items to float32.

        Raises:
            InputError: if an item is constant or not finite, or no slice has a range above `min_range`.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            image = np.moveaxis(require_contrast(d[key]), -1, 1)
            scaled = np.stack([[self._scale(plane) for plane in channel] for channel in image])
            if scaled.min() == scaled.max():
                raise InputError(
                    f"{file_name(d[key])}: no slice's values differ by more than {self.min_range:g}: "
                    "give the scan in the scanner's units, not scaled to [0, 1]"
                )
            d[key] = convert_to_dst_type(np.moveaxis(scaled, 1, -1), d[key], dtype=np.float32)[0]
        return d

    def _scale(self, plane: np.ndarray) -> np.ndarray:
        plane = plane.astype(np.float32)
        low, high = np.percentile(plane, self.percentiles)
        if plane.max() - plane.min() <= self.min_range or low == high:
            return np.full_like(plane, self.b_min)
        return ((np.clip(plane, low, high) - low) / (high - low) * (self.b_max - self.b_min) + self.b_min).astype(
            np.float32
        )
