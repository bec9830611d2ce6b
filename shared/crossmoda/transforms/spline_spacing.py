"""Resampling to a spacing by B-splines of order 0, 1 or 3, one axis after the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Spacing, SpatialResample
from monai.utils import TraceKeys, ensure_tuple_rep
from scipy import ndimage


class SplineSpacing(InvertibleTransform):
    """Resample an image to a spacing by interpolating B-splines.

    MONAI's `Spacing(mode=3)` gives the same grid and, within rounding, the same values away from the border, but sums
    64 neighbours a voxel (19 s for 512x512x120 to 180 slices on one core; 2.6 s with "nearest"). A change of spacing
    keeps the axes, so that the interpolation is one small matrix an axis, or for order 0 a choice of planes. At the
    border the image is mirrored, as in ITK's B-splines.

    Args:
        pixdim: mm; an axis whose spacing is within MONAI's tolerance (0.001 mm) of it stays as it is.
        order: 3 cubic, 1 linear, 0 nearest neighbour (for label maps); one, or one an axis, e.g. (3, 3, 0) for images
            with thick slices.
    """

    def __init__(self, pixdim: Sequence[float], order: int | Sequence[int] = 3) -> None:
        self.order = ensure_tuple_rep(order, len(pixdim))
        if not set(self.order) <= {0, 1, 3}:
            raise ValueError(f"order {order}: 0 (nearest), 1 (linear) or 3 (cubic)")
        self.spacing = Spacing(pixdim)

    def __call__(self, image: MetaTensor) -> MetaTensor:
        """Resample an image (C, X, Y, Z); the result is float32."""
        plan = self.spacing(image, lazy=True)  # only where to: nothing is resampled
        affine, shape = plan.peek_pending_affine().double(), plan.peek_pending_shape()
        steps = torch.linalg.inv(image.affine.double()) @ affine
        values = image.as_tensor().float().contiguous()
        for axis, (count, size) in enumerate(zip(image.shape[1:], shape, strict=True)):
            scale, offset = float(steps[axis, axis]), float(steps[axis, 3])
            if size == count and abs(scale - 1) < 1e-6 and abs(offset) < 1e-6:
                continue
            if self.order[axis] == 0:
                index = torch.floor(offset + scale * torch.arange(size, dtype=torch.float64) + 0.5).long()
                values = values.index_select(axis + 1, index.clamp(0, count - 1))
            else:
                values = _along(values, axis + 1, spline_matrix(count, size, scale, offset, self.order[axis]))
        out = MetaTensor(values, meta=dict(image.meta))
        out.affine = affine
        out.applied_operations = list(image.applied_operations)
        info = {"affine": image.affine.double().tolist(), "shape": list(image.shape[1:])}
        return self.push_transform(out, extra_info=info)

    def inverse(self, image: MetaTensor) -> MetaTensor:
        """Resample to the grid before, linearly (so that probabilities stay within their range), or to the nearest."""
        info = self.pop_transform(image)[TraceKeys.EXTRA_INFO]
        mode = "bilinear" if any(self.order) else "nearest"
        resample = SpatialResample(mode=mode, padding_mode="border", dtype=torch.float32)
        with resample.trace_transform(False):
            return resample(image, dst_affine=torch.tensor(info["affine"]), spatial_size=info["shape"])


class SplineSpacingd(MapTransform, InvertibleTransform):
    """Dictionary version of `SplineSpacing`.

    Args:
        keys: items (C, X, Y, Z).
        pixdim: mm.
        order: one, or one a key, of 3 (cubic), 1 (linear), 0 (nearest); a key's may be a list, one an axis.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: Sequence[float],
        order: int | Sequence[int | Sequence[int]] = 3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resample = [SplineSpacing(pixdim, n) for n in ensure_tuple_rep(order, len(self.keys))]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the items."""
        out = dict(data)
        for key, resample in self.key_iterator(out, self.resample):
            out[key] = resample(out[key])
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the items to the grids before."""
        out = dict(data)
        for key, resample in self.key_iterator(out, self.resample):
            out[key] = resample.inverse(out[key])
        return out


def _along(values: torch.Tensor, axis: int, matrix: np.ndarray) -> torch.Tensor:
    """Multiply a matrix onto one axis of contiguous values, without transposed copies of them."""
    weights = torch.from_numpy(matrix).float()
    shape = (*values.shape[:axis], len(matrix), *values.shape[axis + 1 :])
    if axis == values.ndim - 1:
        return values @ weights.T
    return (weights @ values.flatten(axis + 1).flatten(0, axis - 1)).view(shape)


def spline_matrix(count: int, size: int, scale: float, offset: float, order: int = 3) -> np.ndarray:
    """The matrix that interpolates a row of samples at other places by a B-spline.

    Args:
        count: samples.
        size: places.
        scale: distance of the places, in samples.
        offset: the first place, in samples from the first one.
        order: of the spline.

    Returns:
        Array (size, count); each row sums to one.
    """
    if count == 1:
        return np.ones((size, 1))
    # The interpolation of unit rows. `matrix` as a vector is scipy's form for axis-wise scaling.
    return ndimage.affine_transform(
        np.eye(count), matrix=[scale, 1.0], offset=[offset, 0.0], output_shape=(size, count), order=order, mode="mirror"
    )
