"""Simulation of scans whose field of view lacks a part."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep


class RandIncompleteImaged(RandomizableTransform, MapTransform):
    """Blanks the same random number of rows at both ends of an axis, in image and label (Chen 2023, 2.2; their code).

    Sites' scans differ in their field of view. With probability `prob` all rows outside [s, n - s) of an axis of n rows
    get the key's fill value, s uniform among 0, 1, ..., int(n * max_share). MONAI's dropouts blank boxes at random
    places, and leave the label.

    Args:
        keys: images and labels (C, X, Y, Z) of one grid.
        fill: value of blanked voxels, one for all keys or one a key, e.g. [-1, 0].
        max_share: largest share of the axis that is blanked at each end, 0 to 0.5.
        axes: spatial axes, one of which is drawn; the code has (1,), the paper "x/y", which is (0, 1).
        prob: probability.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fill: float | Sequence[float],
        max_share: float = 1 / 3,
        axes: Sequence[int] = (1,),
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if not 0 <= max_share <= 0.5:
            raise ValueError(f"max_share must lie between 0 and 0.5, got {max_share}")
        self.fill = ensure_tuple_rep(fill, len(self.keys))
        self.max_share = max_share
        self.axes = tuple(axes)
        self.axis = self.axes[0]
        self.start = 0

    def randomize(self, data: Sequence[int]) -> None:
        """Draws the axis and the number of rows.

        Args:
            data: the image's spatial shape.
        """
        super().randomize(None)
        self.axis = self.axes[self.R.randint(len(self.axes))]
        self.start = int(self.R.randint(int(data[self.axis] * self.max_share) + 1))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Blanks the rows."""
        d = dict(data)
        first = self.first_key(d)
        if first == ():
            return d
        self.randomize(d[first].shape[1:])
        if not self._do_transform or self.start == 0:
            return d
        for key, fill in self.key_iterator(d, self.fill):
            image = torch.as_tensor(d[key]).clone()
            size = image.shape[self.axis + 1]
            image.narrow(self.axis + 1, 0, self.start).fill_(fill)
            image.narrow(self.axis + 1, size - self.start, self.start).fill_(fill)
            d[key] = image
        return d
