"""From a subject's head space to the atlas: a smooth random deformation, and bodies that push tissue aside.

Images are made by pulling: for each sample point in head space the point of the atlas that lies there is looked up.
A body that has grown (petrous bone, cistern, tumour) makes that look-up reach towards its centre.
"""

from __future__ import annotations

import numpy as np
import torch

from .geometry import Grid, column, smooth_noise


class Warp:
    """Smooth random map from head space to MNI space: scaling and a cubic B-spline displacement.

    Args:
        R: source of randomness.
        amplitude: standard deviation of the displacement's nodes, mm.
        scale: distance of the nodes, mm.
        resize: False leaves the scaling out; with amplitude 0 the map is then the identity (the draws stay the same).
    """

    def __init__(self, R: np.random.RandomState, amplitude: float = 2.6, scale: float = 42.0, resize: bool = True):
        self.grid = Grid((-116, -156, -146), (116, 136, 116), 4.0)
        self.size = np.clip(1 + 0.03 * R.randn(3), 0.94, 1.06) * np.clip(1 + 0.02 * R.randn(), 0.96, 1.04)
        if not resize:
            self.size = np.ones(3)
        field = amplitude * smooth_noise(R, self.grid, scale, channels=3)
        axes = self.grid.points()
        self.field = field + axes * torch.from_numpy(1 / self.size - 1).float().reshape(3, 1, 1, 1)

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Map head points (3, ...) to MNI points, mm."""
        return points + self.grid.sample(self.field, points)

    def inverse(self, landmark: tuple[float, float, float] | np.ndarray) -> np.ndarray:
        """Head position of one MNI landmark, by fixed-point iteration; shape (3,), mm."""
        target = torch.tensor(np.asarray(landmark), dtype=torch.float32).reshape(3, 1)
        point = target.clone()
        for _ in range(12):
            point = target - self.grid.sample(self.field, point)
        return point.reshape(3).numpy().astype(np.float64)


class Growth:
    """A ball-shaped region that has grown: tissue around it is moved outwards, most near the centre.

    Args:
        centre: mm, head space.
        amount: relative growth at the centre, 0 to 0.6 (the map stays one-to-one).
        reach: standard deviation of the Gaussian that lets it fade, mm.
        shift: by how much the tissue at the centre is moved besides, mm (x, y, z); well below `reach`.
    """

    def __init__(self, centre: np.ndarray, amount: float, reach: float, shift: np.ndarray | None = None):
        if not 0 <= amount <= 0.6:
            raise ValueError(f"growth {amount} outside 0..0.6 folds space")
        self.centre, self.amount, self.reach = np.asarray(centre, float), amount, reach
        self.shift = np.zeros(3) if shift is None else np.asarray(shift, float)

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Where the tissue now at `points` (3, ...) was before the growth."""
        centre = column(self.centre, points)
        rel = points - centre
        fade = torch.exp(-rel.square().sum(0) / (2 * self.reach**2))
        shift = column(self.shift, points)
        wide = torch.exp(-rel.square().sum(0) / (2 * (2 * self.reach) ** 2))
        return points - rel * (self.amount * fade) - shift * wide


class Push:
    """An ellipsoid that displaces the brain: what lay between `core` and its surface is pressed into a shell.

    Args:
        centre: mm, head space.
        axes: rows are the ellipsoid's unit axes, shape (3, 3).
        radii: its semi-axes, mm.
        core: share of the radius inside which nothing is kept (cistern and pressed-out CSF), 0..1.
        outer: where the displacement has faded, in radii.
    """

    def __init__(self, centre: np.ndarray, axes: np.ndarray, radii: np.ndarray, core: float, outer: float = 2.3):
        self.centre, self.axes, self.radii = (np.asarray(v, float) for v in (centre, axes, radii))
        self.core, self.outer = core, outer

    def __call__(self, points: torch.Tensor, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Where the tissue now at `points` (3, ...) was before; `weight` 0..1 scales the displacement."""
        rel = points - column(self.centre, points)
        unit = torch.from_numpy(self.axes / self.radii[:, None]).float() @ rel.reshape(3, -1)
        rho = unit.square().sum(0).sqrt().reshape(rel.shape[1:]).clamp_min(1e-3)
        slope = (self.outer - self.core) / (self.outer - 1)
        source = torch.where(rho < 1, self.core * rho, self.core + (rho - 1) * slope)
        source = torch.where(rho < self.outer, source, rho)
        return points + rel * ((source / rho - 1) * weight)
