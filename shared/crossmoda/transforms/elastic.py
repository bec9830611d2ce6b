"""Random elastic deformation from a coarse B-spline control grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform, Resample, create_grid
from monai.utils import ensure_tuple_rep


class RandControlPointElasticd(RandomizableTransform, MapTransform):
    """Moves the points of a coarse control grid at random; cubic B-splines carry the motion to the voxels.

    Li 2021, 3.5: 7 control points, maximum displacement 6, the parameters of TorchIO's `RandomElasticDeformation`,
    whose rules are taken over: displacements are uniform in mm on each axis, and the outer `locked_borders` layers of
    control points stay where they are, so that the image's border hardly moves. MONAI's `Rand3DElasticd` smooths
    dense noise with a Gaussian instead: its displacements have no control grid and no stated maximum. The weights of
    cubic B-splines are positive and sum to one, so no voxel moves farther than `max_displacement` along any axis.

    All keys get the same deformation. Like MONAI's, it keeps the affine and cannot be inverted.

    Args:
        keys: items (C, X, Y, Z), of the same shape.
        num_control_points: control points along each axis, >= 4 and > 2 * locked_borders.
        max_displacement: largest displacement along each axis, mm (voxels if an item has no affine).
        locked_borders: layers of control points that do not move.
        prob: probability of a deformation.
        mode: interpolation, one or one a key; "nearest" for labels.
        padding_mode: what stands outside the image, as in `monai.transforms.Resample`.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_control_points: int = 7,
        max_displacement: float = 6.0,
        locked_borders: int = 2,
        prob: float = 0.1,
        mode: str | Sequence[str] = "bilinear",
        padding_mode: str = "border",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if num_control_points < 4 or num_control_points <= 2 * locked_borders:
            raise ValueError(
                f"num_control_points {num_control_points} must be >= 4 and > 2 * locked_borders ({locked_borders})"
            )
        self.num_control_points = num_control_points
        self.max_displacement = max_displacement
        self.locked_borders = locked_borders
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.resample = Resample(padding_mode=padding_mode, dtype=torch.float32)
        self.control_displacements = np.zeros(0)

    def randomize(self, data: Any = None) -> None:
        """Draws the displacements of the control points, (3, n, n, n) in mm."""
        super().randomize(None)
        if not self._do_transform:
            return
        n, free = self.num_control_points, slice(self.locked_borders, self.num_control_points - self.locked_borders)
        drawn = self.R.uniform(-self.max_displacement, self.max_displacement, size=(3, n, n, n))
        self.control_displacements = np.zeros_like(drawn)
        self.control_displacements[:, free, free, free] = drawn[:, free, free, free]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Deforms the items."""
        d = dict(data)
        self.randomize()
        first = self.first_key(d)
        if not self._do_transform or self.max_displacement == 0 or first == ():
            return d
        shape = d[first].shape[1:]
        spacing = d[first].pixdim if isinstance(d[first], MetaTensor) else torch.ones(3)
        field = bspline_field(self.control_displacements, shape) / spacing.to(torch.float32)[:, None, None, None]
        grid = create_grid(shape, dtype=torch.float32, backend="torch")
        grid[:3] += field
        for key, mode in self.key_iterator(d, self.mode):
            d[key] = self.resample(d[key], grid.to(d[key].device), mode=mode)
        return d


def bspline_field(control: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    """Cubic B-spline field with uniform knots; the grid's inner part spans the image from first to last voxel.

    Args:
        control: coefficients (C, n_x, n_y, n_z), n >= 4.
        shape: voxels (X, Y, Z) of the field.

    Returns:
        float32 field (C, X, Y, Z).
    """
    field = torch.as_tensor(control, dtype=torch.float32)
    weights = [_bspline_matrix(size, n) for size, n in zip(shape, control.shape[1:], strict=True)]
    return torch.einsum("cijk,xi,yj,zk->cxyz", field, *weights)


def _bspline_matrix(size: int, num_control_points: int) -> torch.Tensor:
    """Weight of each control point at each voxel of one axis, (size, num_control_points); rows sum to 1."""
    intervals = num_control_points - 3
    u = np.linspace(0, intervals, size) if size > 1 else np.array([intervals / 2])
    first = np.minimum(u.astype(int), intervals - 1)
    t = u - first
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    matrix = np.zeros((size, num_control_points), dtype=np.float32)
    for offset in range(4):
        matrix[np.arange(size), first + offset] = basis[offset]
    return torch.from_numpy(matrix)
