"""Simulation of scans of lower resolution."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform


class RandLowResolutiond(RandomizableTransform, MapTransform):
    """Shrinks an image to the nearest voxels and enlarges it again linearly (nnU-Net, Isensee 2021).

    One factor is drawn for all `axes`. With "dummy 2D" augmentation nnU-Net leaves out the axis across the slices,
    which MONAI's `RandSimulateLowResolutiond` cannot.

    Args:
        keys: images (C, X, Y, Z).
        zoom_range: lowest and highest factor, in (0, 1].
        axes: spatial axes that lose resolution.
        prob: probability.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        zoom_range: Sequence[float] = (0.5, 1.0),
        axes: Sequence[int] = (0, 1, 2),
        prob: float = 0.25,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if not 0 < zoom_range[0] <= zoom_range[1] <= 1:
            raise ValueError(f"zoom_range must be a range in (0, 1], got {tuple(zoom_range)}")
        self.zoom_range = tuple(zoom_range)
        self.axes = tuple(axes)
        self.zoom = 1.0

    def randomize(self, data: Any = None) -> None:
        """Draws the factor."""
        super().randomize(None)
        if self._do_transform:
            self.zoom = self.R.uniform(*self.zoom_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Takes resolution away from the images."""
        d = dict(data)
        self.randomize()
        if not self._do_transform:
            return d
        for key in self.key_iterator(d):
            image = torch.as_tensor(d[key])
            full = image.shape[1:]
            low = [max(round(n * self.zoom), 1) if axis in self.axes else n for axis, n in enumerate(full)]
            if list(full) != low:
                coarse = F.interpolate(image[None].float(), size=low, mode="nearest-exact")
                d[key] = F.interpolate(coarse, size=full, mode="trilinear", align_corners=False)[0]
        return d
