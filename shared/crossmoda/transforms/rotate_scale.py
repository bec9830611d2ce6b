"""nnU-Net's rotation and scaling of patches."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Affine, MapTransform, RandomizableTransform, ResizeWithPadOrCrop
from monai.utils import convert_to_dst_type, ensure_tuple_rep


class RandRotateScaled(RandomizableTransform, MapTransform):
    """Turns and scales a patch around its centre, each with a probability of its own (nnU-Net, Isensee 2021).

    The scale is one number for all scaled axes: half the time it lies below 1 (objects grow), half the time above.
    Lengths are voxels, as in nnU-Net. MONAI's `RandAffined` has one probability for all its parts and draws a scale an
    axis. "Dummy 2D" augmentation of anisotropic patches is `rotation: [0, 0, angle]` with `scale_axes: [0, 1]`.

    The keys' centre of `spatial_size` is what remains, also without rotation and scaling; give it larger ones (see
    `rotation_margin`), or corners turn black. It keeps the affine and cannot be inverted.

    Args:
        keys: items (C, X, Y, Z) of the same shape.
        spatial_size: voxels (X, Y, Z) of the result.
        rotation: largest angle about each axis, rad; uniform to both sides.
        rotation_prob: probability of a rotation.
        scale: lowest and highest scale, with 1 between them; of the distances in the result to those in the item.
        scale_prob: probability of a scaling.
        scale_axes: spatial axes that are scaled.
        mode: interpolation, one or one a key: "bilinear" or "nearest", or for labels also "labels": each label's mask
            is interpolated linearly, and the largest wins, as in nnU-Net.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        rotation: Sequence[float] = (np.pi / 6, np.pi / 6, np.pi / 6),
        rotation_prob: float = 0.2,
        scale: Sequence[float] = (0.7, 1.4),
        scale_prob: float = 0.2,
        scale_axes: Sequence[int] = (0, 1, 2),
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        if not scale[0] <= 1 <= scale[1]:
            raise ValueError(f"the scale's range must include 1, got {tuple(scale)}")
        self.spatial_size = tuple(spatial_size)
        self.rotation = tuple(rotation)
        self.rotation_prob = rotation_prob
        self.scale = tuple(scale)
        self.scale_prob = scale_prob
        self.scale_axes = tuple(scale_axes)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.resize = ResizeWithPadOrCrop(self.spatial_size)
        self.angles = [0.0, 0.0, 0.0]
        self.scales = [1.0, 1.0, 1.0]

    def randomize(self, data: Any = None) -> None:
        """Draws angles and scale."""
        self.angles, self.scales = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
        if self.R.random_sample() < self.rotation_prob:
            self.angles = [self.R.uniform(-angle, angle) for angle in self.rotation]
        if self.R.random_sample() < self.scale_prob:
            smaller = self.R.random_sample() < 0.5
            scale = self.R.uniform(self.scale[0], 1) if smaller else self.R.uniform(1, self.scale[1])
            self.scales = [scale if axis in self.scale_axes else 1.0 for axis in range(3)]
        self._do_transform = any(self.angles) or self.scales != [1.0, 1.0, 1.0]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turns and scales the items."""
        d = dict(data)
        self.randomize()
        affine = Affine(
            rotate_params=self.angles,
            scale_params=self.scales,
            spatial_size=self.spatial_size,
            padding_mode="zeros",
            dtype=torch.float32,
            image_only=True,
        )
        for key, mode in self.key_iterator(d, self.mode):
            if not self._do_transform:
                d[key] = self.resize(d[key])
            elif mode == "labels":
                d[key] = linear_labels(d[key], affine)
            else:
                d[key] = affine(d[key], mode=mode)
        return d


def linear_labels(labels: torch.Tensor, affine: Affine) -> torch.Tensor:
    """Moves labels (1, X, Y, Z): their masks are interpolated linearly, and the largest wins. Beyond the item is 0."""
    values = torch.cat([labels.new_zeros(1), labels.flatten()]).unique()
    masks = affine(torch.cat([labels == value for value in values]).float(), mode="bilinear")
    masks[values == 0] += 1 - masks.sum(0)
    return convert_to_dst_type(values[masks.argmax(0)[None]], labels)[0]


def rotation_margin(
    spatial_size: Sequence[int], rotation: Sequence[float], smallest_scale: float, axes: Sequence[int] = (0, 1, 2)
) -> list[int]:
    """Voxels around a patch to cut out with it, for `RandRotateScaled` to turn into the patch's corners.

    After nnU-Net: the extent of the patch turned by the largest angle (90 degrees at most) about one axis or another,
    divided by the smallest scale.

    Args:
        spatial_size: voxels (X, Y, Z) of the patch.
        rotation: largest angle about each axis, rad.
        smallest_scale: lower end of the scale.
        axes: that are scaled or turned; the others have no margin.

    Returns:
        Voxels (X, Y, Z) at each end.

    Example:
        >>> rotation_margin([192, 256, 40], [0, 0, 3.1416], 0.7, [0, 1])
        [87, 55, 0]
    """
    size = np.array(spatial_size, dtype=float)
    largest = size.copy()
    for axis, angle in enumerate(rotation):
        angle = min(angle, np.pi / 2)
        a, b = (n for n in range(3) if n != axis)
        turned = size.copy()
        turned[a] = abs(np.cos(angle) * size[a] + np.sin(angle) * size[b])
        turned[b] = abs(np.sin(angle) * size[a] + np.cos(angle) * size[b])
        largest = np.maximum(largest, turned)
    margin = np.ceil((np.floor(largest / smallest_scale) - size) / 2).astype(int)
    return [int(n) if axis in axes else 0 for axis, n in enumerate(margin)]
