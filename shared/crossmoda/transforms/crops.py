"""Crops and pads of the papers whose region depends on the scan; undone by MONAI's own inverse."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Cropd, CropForeground

from crossmoda.errors import InputError
from crossmoda.transforms.checks import file_name, require_contrast

Region = tuple[np.ndarray, np.ndarray]


class RegionCropd(Cropd):
    """Base: finds a region on the first key present, the image, and cuts it from all keys.

    The region may reach beyond the volume and is padded there, with 0 unless a subclass says otherwise. MONAI's
    `CropForeground` cuts, pads, moves the affine, traces and inverts; its dictionary version cannot take a region
    from elsewhere than its own foreground rule. In a lazy `Compose` what is pending is carried out first and the crop
    at once: MONAI's lazy padding forgets the value and takes the border mode of the resampling before it.

    Args:
        keys: items (C, X, Y, Z) of the same grid; the first is the image.
        allow_missing_keys: as in MONAI. Without the image the region is taken from the next key.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, CropForeground(), allow_missing_keys)
        self.fill: tuple[float, ...] = (0.0,) * len(self.keys)

    @property
    def requires_current_data(self) -> bool:
        """MONAI carries out the pending transforms first."""
        return True

    def region(self, image: torch.Tensor) -> Region:
        """First voxel, and the one after the last, of the region: two integer arrays (3,)."""
        raise NotImplementedError

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Cuts the region of the first key present from all keys."""
        d = dict(data)
        first = self.first_key(d)
        if first == ():
            return d
        start, end = self.region(d[first])
        for key, value in self.key_iterator(d, self.fill):
            d[key] = self.cropper.crop_pad(d[key], start, end, value=value)
        return d


class CentreShareCropd(RegionCropd):
    """Cuts a share of both edges of rows and columns, except from small or odd fields of view (Chen 2023, 2.1).

    As in the inference code of chencancan1018/crossMoDA: rows and columns 3/16 to 13/16; nothing is cut if neither
    axis has more than `min_size` voxels; only the longer axis if y/x is outside `aspect_range`. The paper also leaves
    "incomplete MRI images such as missing partial areas and irregular shape" whole; its code has no test for that
    beyond the two above. Here an image counts as incomplete if the box of the voxels above the minimum (0 in MR)
    spans less than `min_filled` of an axis: a head spans about two thirds of the usual 210 mm, so that air which the
    scanner set to zero does not count as missing.

    Args:
        keys: see `RegionCropd`; axes x and y are the slices' plane.
        margin: share cut from each side.
        min_size: voxels.
        aspect_range: lowest and highest y/x, in voxels.
        min_filled: share of an axis; 0 trusts every field of view.
        allow_missing_keys: see `RegionCropd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        margin: float = 3 / 16,
        min_size: int = 350,
        aspect_range: Sequence[float] = (0.7, 1.3),
        min_filled: float = 0.5,  # open: the paper does not say how incomplete images were told
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.margin = margin
        self.min_size = min_size
        self.aspect_range = aspect_range
        self.min_filled = min_filled

    def region(self, image: torch.Tensor) -> Region:
        """The centre of the axes that are cut, the whole of the others."""
        start, end = np.zeros(3, dtype=int), np.array(image.shape[1:])
        for axis in self._cut_axes(image):
            size = image.shape[1 + axis]
            start[axis], end[axis] = int(self.margin * size), int((1 - self.margin) * size)
        return start, end

    def _cut_axes(self, image: torch.Tensor) -> tuple[int, ...]:
        x, y = image.shape[1:3]
        if max(x, y) <= self.min_size or min(filled_shares(image)) < self.min_filled:
            return ()
        low, high = self.aspect_range
        if low <= y / x <= high:
            return 0, 1
        return (0,) if x > y else (1,)


class PadToSquared(RegionCropd):
    """Pads the shorter of rows and columns on both sides until the slices are square (Chen 2023, 2.1).

    MONAI's `SpatialPadd` needs a fixed size, and pads image and label with the same value.

    Args:
        keys: see `RegionCropd`.
        value: fill of the first of `keys`, the image; the others, label maps, are filled with 0.
        allow_missing_keys: see `RegionCropd`.
    """

    def __init__(self, keys: KeysCollection, value: float = -1.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fill = (value, *self.fill[1:])

    def region(self, image: torch.Tensor) -> Region:
        """A square around the slices; an odd voxel goes to the end."""
        size = np.array(image.shape[1:])
        missing = np.array([size[:2].max() - size[0], size[:2].max() - size[1], 0])
        return -(missing // 2), size + missing - missing // 2


class PercentileCentreCropd(RegionCropd):
    """Cuts rows and columns of a fixed size around the centre of the bright voxels (Choi 2021).

    The centre is the mean x and y of the voxels above a percentile of the volume. The window is moved into the volume
    where the volume is large enough (open: Choi does not say), else the volume is centred in it and padded with 0.

    Args:
        keys: see `RegionCropd`.
        size: voxels along x and y; all slices are kept.
        percentile: in [0, 100].
        allow_missing_keys: see `RegionCropd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int] = (256, 256),
        percentile: float = 75.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size
        self.percentile = percentile

    def region(self, image: torch.Tensor) -> Region:
        """The window around the bright voxels.

        Raises:
            InputError: if no voxel is above the percentile.
        """
        volume = require_contrast(image)[0]
        bright = volume > np.percentile(volume, self.percentile)
        if not bright.any():
            raise InputError(f"{file_name(image)}: no voxel is above the {self.percentile:g}th percentile: lower it")
        start, end = np.zeros(3, dtype=int), np.array(volume.shape)
        for axis, size in enumerate(self.size):
            counts = bright.sum(axis=(1 - axis, 2))
            centre = np.average(np.arange(counts.size), weights=counts)
            excess = counts.size - size
            start[axis] = np.clip(round(centre - (size - 1) / 2), 0, excess) if excess >= 0 else excess // 2
            end[axis] = start[axis] + size
        return start, end


class FixedPatchCropd(RegionCropd):
    """Cuts the fixed patch that held the tumours of the registered training set (Han 2022, 3.1).

    As in fiy2W/cmda2022.superpolymerization: y 200 to 456, x 128 to 384; z 0 to 80 if the volume has no more than 80
    slices, else 40 slices to either side of 0.375 of the depth (rounded down, not below 0). The indices are those of
    ITK's LPS order, so orient to "LPS" first. Where the volume ends before the patch, zeros are added: the result is
    always 256x256x80 (theirs is smaller then).

    Args:
        keys: see `RegionCropd`.
        start: first voxel along x and y.
        size: voxels of the patch.
        depth_share: centre of the slices as a share of the depth.
        allow_missing_keys: see `RegionCropd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        start: Sequence[int] = (128, 200),
        size: Sequence[int] = (256, 256, 80),
        depth_share: float = 0.375,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.start = start
        self.size = size
        self.depth_share = depth_share

    def region(self, image: torch.Tensor) -> Region:
        """The patch.

        Raises:
            InputError: if the volume ends before the patch begins.
        """
        start = patch_start(image.shape[1:], self.start, self.size, self.depth_share, file_name(image))
        return start, start + self.size


def patch_start(
    shape: Sequence[int], start: Sequence[int], size: Sequence[int], depth_share: float, name: str
) -> np.ndarray:
    """First voxel of the patch of `FixedPatchCropd` in a volume of some shape, (3,).

    Raises:
        InputError: if the volume, `name`, ends before the patch begins.
    """
    depth = size[2]
    first = 0 if shape[2] <= depth else max(int(shape[2] * depth_share) - depth // 2, 0)
    corner = np.array([*start, first])
    if (corner >= shape).any():
        raise InputError(
            f"{name}: the volume, {tuple(shape)} voxels in LPS order, ends before the patch "
            f"begins at {corner.tolist()}: use a recipe that registers it, or a larger field of view"
        )
    return corner


def fixed_patch_affine(
    affine: np.ndarray, shape: Sequence[int], start: Sequence[int], size: Sequence[int], depth_share: float
) -> np.ndarray:
    """Voxel-to-world matrix of the patch that `FixedPatchCropd` would cut from an atlas, to resample straight into it.

    Args:
        affine: of the atlas, 4x4, in LPS order.
        shape: of the atlas.
        start: see `FixedPatchCropd`.
        size: see `FixedPatchCropd`.
        depth_share: see `FixedPatchCropd`.

    Raises:
        InputError: see `patch_start`.
    """
    out = np.array(affine, float)
    out[:3, 3] += out[:3, :3] @ patch_start(shape, start, size, depth_share, "the atlas")
    return out


def filled_shares(image: torch.Tensor) -> list[float]:
    """Share of x and of y that the box of the voxels above the minimum spans, each in [0, 1]; 0 if constant."""
    volume = np.asarray(image)[0]
    filled = (volume > volume.min()).any(axis=2)
    indices = [np.flatnonzero(filled.any(axis=1 - axis)) for axis in (0, 1)]
    return [(i[-1] - i[0] + 1) / n if i.size else 0.0 for i, n in zip(indices, filled.shape, strict=True)]
