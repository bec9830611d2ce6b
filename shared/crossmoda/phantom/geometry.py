"""Geometry helpers: sampling of volumes, signed distances of simple bodies, smooth random fields.

Points are float32 torch tensors of shape (3, ...) in mm, first axis (x, y, z) = (right, anterior, superior) as in RAS.
Signed distances are in mm, negative inside.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


class Grid:
    """A regular grid along the axes of head space.

    Args:
        low: coordinates of the first voxel, mm.
        high: upper limit of the coordinates, mm.
        spacing: isotropic voxel size, mm.
    """

    def __init__(self, low: tuple[float, float, float], high: tuple[float, float, float], spacing: float):
        self.low = np.asarray(low, dtype=np.float64)
        self.spacing = float(spacing)
        self.shape = tuple(int(n) for n in np.floor((np.asarray(high) - self.low) / spacing + 1e-6) + 1)

    def axis(self, n: int) -> np.ndarray:
        """Coordinates along axis `n`, mm."""
        return self.low[n] + self.spacing * np.arange(self.shape[n])

    def points(self) -> torch.Tensor:
        """All voxel centres, shape (3, X, Y, Z)."""
        axes = [torch.from_numpy(self.axis(n)).float() for n in range(3)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def sample(self, volume: torch.Tensor, points: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """Interpolate `volume` (C, X, Y, Z) on this grid at `points` (3, ...); beyond the border the border's value.

        Args:
            volume: float32 channels on this grid.
            points: coordinates in mm.
            mode: "bilinear" (which is trilinear in 3D) or "nearest".

        Returns:
            Tensor of shape (C, ...).
        """
        size = torch.tensor(self.shape, dtype=torch.float32) - 1
        flat = points.reshape(3, -1)
        scale = (2 / (self.spacing * size))[:, None]
        unit = (flat - torch.from_numpy(self.low).float()[:, None]) * scale - 1
        grid = unit.flip(0).T.reshape(1, 1, 1, -1, 3)
        out = F.grid_sample(volume[None], grid, mode=mode, padding_mode="border", align_corners=True)
        return out.reshape(volume.shape[0], *points.shape[1:])


def smooth_noise(R: np.random.RandomState, grid: Grid, scale: float, channels: int = 1) -> torch.Tensor:
    """Smooth random field of about unit variance: cubic interpolation of a coarse random lattice.

    Args:
        R: source of randomness.
        grid: where the field is wanted.
        scale: distance of the random lattice's nodes, mm.
        channels: number of independent fields.

    Returns:
        Tensor (channels, X, Y, Z).
    """
    nodes = [int(np.ceil(n * grid.spacing / scale)) + 3 for n in grid.shape]
    fields = []
    for _ in range(channels):
        lattice = R.randn(*nodes)
        indices = [1 + np.arange(n) * grid.spacing / scale for n in grid.shape]
        for axis, index in enumerate(indices):
            lattice = _cubic(lattice, index, axis)
        fields.append(lattice)
    return torch.from_numpy(np.stack(fields)).float()


def _cubic(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Uniform cubic B-spline through control points `values` along one axis, at fractional `index` (>= 1)."""
    base = np.floor(index).astype(int)
    t = index - base
    weights = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    out = 0.0
    shape = [1] * values.ndim
    shape[axis] = len(index)
    for k, weight in enumerate(weights):
        node = np.clip(base - 1 + k, 0, values.shape[axis] - 1)
        out = out + np.take(values, node, axis) * weight.reshape(shape)
    return out


def ellipsoid(points: torch.Tensor, centre: np.ndarray, radii: np.ndarray) -> torch.Tensor:
    """Approximate signed distance to an ellipsoid along the axes (exact for a sphere)."""
    c, r = column(centre, points), column(radii, points)
    q = (points - c) / r
    k0 = q.square().sum(0).sqrt()
    k1 = (q / r).square().sum(0).sqrt()
    return k0 * (k0 - 1) / k1.clamp_min(1e-6)


def capsule(points: torch.Tensor, start: np.ndarray, end: np.ndarray, radius: float) -> torch.Tensor:
    """Signed distance to a segment of the given radius."""
    a, axis = column(start, points), column(np.asarray(end, float) - np.asarray(start, float), points)
    rel = points - a
    t = ((rel * axis).sum(0) / axis.square().sum(0).clamp_min(1e-9)).clamp(0, 1)
    return (rel - t * axis).square().sum(0).sqrt() - radius


def tube(points: torch.Tensor, line: np.ndarray, radius: float | np.ndarray) -> torch.Tensor:
    """Signed distance to a polyline (n, 3); `radius` may be given per segment."""
    radii = np.broadcast_to(radius, (len(line) - 1,))
    out = capsule(points, line[0], line[1], float(radii[0]))
    for n in range(1, len(line) - 1):
        torch.minimum(out, capsule(points, line[n], line[n + 1], float(radii[n])), out=out)
    return out


def torus(points: torch.Tensor, centre: np.ndarray, normal: np.ndarray, radius: float, thick: float) -> torch.Tensor:
    """Signed distance to a torus of ring radius `radius` and tube radius `thick`."""
    n = np.asarray(normal, float) / np.linalg.norm(normal)
    rel = points - column(centre, points)
    height = (rel * column(n, points)).sum(0)
    planar = (rel.square().sum(0) - height.square()).clamp_min(0).sqrt()
    return ((planar - radius).square() + height.square()).sqrt() - thick


def fraction(distance: torch.Tensor, width: float) -> torch.Tensor:
    """Share of a sample of size `width` (mm) inside a body, from its signed distance: a linear ramp."""
    return (0.5 - distance / width).clamp(0, 1)


def smooth_min(a: torch.Tensor, b: torch.Tensor, k: float) -> torch.Tensor:
    """Union of two signed distances with a fillet of about `k` mm (polynomial smooth minimum)."""
    h = (k - (a - b).abs()).clamp_min(0) / k
    return torch.minimum(a, b) - h.square() * (k / 4)


def rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix from angles about x (pitch), y (roll) and z (yaw), applied in this order, degrees."""
    x, y, z = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return rz @ ry @ rx


def apply(matrix: np.ndarray, points: torch.Tensor, shift: np.ndarray | None = None) -> torch.Tensor:
    """`matrix @ points + shift` for points of shape (3, ...)."""
    m = torch.from_numpy(np.asarray(matrix)).float()
    out = (m @ points.reshape(3, -1)).reshape(points.shape)
    return out if shift is None else out + column(shift, points)


def column(vector: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """A vector (3,) as a float32 tensor that broadcasts against points `like` (3, ...)."""
    values = torch.from_numpy(np.asarray(vector, dtype=np.float64)).float()
    return values.reshape(3, *[1] * (like.ndim - 1))
