"""Patches as nnU-Net draws them: anywhere, or around a voxel of one of the classes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable


class RandForegroundCropd(Randomizable, MapTransform):
    """Draws a patch anywhere in the volume, or, with probability `foreground_share`, one around a foreground voxel.

    nnU-Net (Isensee 2021) picks one of the case's foreground classes, each as likely, and one of its voxels as the
    patch's centre; patches stay within the volume. Around the patch a margin is cut out too, for what turns and scales
    the patch afterwards; where it leaves the volume it is zero. MONAI's `RandCropByLabelClassesd` keeps the margin
    within the volume, so that patches never come near its border, and `RandCropByPosNegLabeld` picks voxels of large
    classes more often than those of small ones.

    nnU-Net forces exactly the last n of a batch's samples; here each sample is forced with the same probability, so
    that samples do not depend on each other.

    Args:
        keys: image and label (C, X, Y, Z) of one grid.
        spatial_size: voxels (X, Y, Z) of the patch; volumes are at least as large.
        indices_key: one list of flat voxel indices a class, as `ClassesToIndicesd` writes them.
        foreground_share: probability that the patch is forced to contain foreground; cases without any have none.
        margin: voxels (X, Y, Z) more at each end.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        indices_key: str = "label_cls_indices",
        foreground_share: float = 0.5,
        margin: Sequence[int] = (0, 0, 0),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.spatial_size = tuple(spatial_size)
        self.indices_key = indices_key
        self.foreground_share = foreground_share
        self.margin = tuple(margin)
        self.start = (0,) * len(self.spatial_size)

    def randomize(self, shape: Sequence[int], indices: Sequence[Any]) -> None:
        """Draws the patch's first corner.

        Args:
            shape: of the volume (X, Y, Z).
            indices: flat voxel indices of each class, background first.

        Raises:
            ValueError: if the volume is smaller than the patch.
        """
        room = np.array(shape) - self.spatial_size
        if (room < 0).any():
            raise ValueError(f"a volume of {tuple(shape)} voxels has no patch of {self.spatial_size}: pad it first")
        classes = [voxels for voxels in indices[1:] if len(voxels)]
        if self.R.random_sample() < self.foreground_share and classes:
            voxels = classes[self.R.randint(len(classes))]
            centre = np.unravel_index(int(voxels[self.R.randint(len(voxels))]), shape)
            start = np.clip(np.array(centre) - np.array(self.spatial_size) // 2, 0, room)
        else:
            start = np.array([self.R.randint(n + 1) for n in room])
        self.start = tuple(int(n) for n in start)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cuts the patch out of the items."""
        d = dict(data)
        first = self.first_key(d)
        if first == ():
            return d
        # The indices go: they differ in length from case to case, and batches of them can't be made.
        self.randomize(d[first].shape[1:], d.pop(self.indices_key))
        for key in self.key_iterator(d):
            d[key] = self._cut(d[key])
        return d

    def _cut(self, image: torch.Tensor) -> torch.Tensor:
        inside, outside = [slice(None)], []
        axes = zip(self.start, self.spatial_size, self.margin, image.shape[1:], strict=True)
        for start, size, margin, count in axes:
            low, high = start - margin, start + size + margin
            inside.append(slice(max(low, 0), min(high, count)))
            outside.append((max(-low, 0), max(high - count, 0)))
        return F.pad(image[tuple(inside)], [n for ends in reversed(outside) for n in ends])
