"""The vestibular schwannoma: a cone in the canal, a ball in the cistern, its Koos grade and its inner structure.

Koos grades as geometry: 1 stays inside the internal auditory canal; 2 reaches the cerebello-pontine cistern without
touching the brainstem; 3 touches it without moving it; 4 displaces it. Volumes follow a radiosurgery series of 235
patients (Mindermann and Schlegel 2013), cut to the range of the crossMoDA 2021 source cases (0.04-9.8 mL).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .ear import Ear
from .geometry import Grid, column, ellipsoid, fraction, smooth_min, smooth_noise
from .warp import Push

# grade -> mean, standard deviation, lowest and highest volume in mL
VOLUMES = {
    1: (0.25, 0.30, 0.04, 0.50),
    2: (0.57, 0.54, 0.12, 1.60),
    3: (1.82, 1.88, 0.50, 5.00),
    4: (4.17, 2.75, 1.50, 9.80),
}
CYSTIC = {1: 0.0, 2: 0.10, 3: 0.22, 4: 0.32}  # 16 % over equal numbers of the four grades
GAP = {2: 1.3, 3: 0.0}  # mm kept between tumour and brainstem


def draw_volume(R: np.random.RandomState, grade: int) -> float:
    """Volume in mL from the grade's truncated log-normal distribution."""
    mean, sd, low, high = VOLUMES[grade]
    sigma = np.sqrt(np.log(1 + (sd / mean) ** 2))
    while True:
        volume = float(np.exp(np.log(mean) - sigma**2 / 2 + sigma * R.randn()))
        if low <= volume <= high:
            return volume


def _unit(field: torch.Tensor) -> torch.Tensor:
    """A field scaled to unit standard deviation."""
    return field / field.std().clamp_min(1e-6)


@dataclass
class Site:
    """What the tumour must know of its surroundings, on a local grid in head space.

    Attributes:
        points: (3, X, Y, Z) mm.
        cell: volume of one grid cell, mm3.
        intracranial: signed distance to the intracranial space at the points.
        brainstem: signed distance to the brainstem at the points.
        distance: from the porus to the nearest point of the brainstem, mm.
        direction: unit vector towards that point.
    """

    points: torch.Tensor
    cell: float
    intracranial: torch.Tensor
    brainstem: torch.Tensor
    distance: float
    direction: np.ndarray


class Tumour:
    """One tumour.

    Args:
        R: source of randomness.
        ear: the ear it grows from.
        grade: Koos grade 1-4.
        heterogeneous: scales the spread of its inner structure (about 1; more at Tilburg).
        volume: mL; None draws it.
    """

    def __init__(
        self, R: np.random.RandomState, ear: Ear, grade: int, heterogeneous: float = 1.0, volume: float | None = None
    ):
        self.ear, self.grade = ear, grade
        self.volume = draw_volume(R, grade) if volume is None else volume
        self.free_fundus = float(R.uniform(0.0, 2.5)) if grade > 1 or self.volume < 0.15 else 0.3
        self.shape = np.array([1.0, R.uniform(0.95, 1.35), R.uniform(0.9, 1.2)])
        self.penetration = {1: 0.0, 2: 0.0, 3: R.uniform(0.9, 1.8), 4: R.uniform(3.0, 5.0)}[grade]
        self.lump_size = float(R.uniform(0.10, 0.30))
        self.lumps = Grid((-32, -32, -32), (32, 32, 32), 2.0)
        self.lump_field = _unit(smooth_noise(R, self.lumps, 9.0)) * 0.35
        self.radius, self.widen, self.depth, self.depth_in_brainstem = 0.0, 0.0, 0.0, 0.0
        self.centre, self.axes, self.radii = np.array(ear.origin), np.eye(3), np.ones(3)
        self._draw_inside(R, heterogeneous)

    def _draw_inside(self, R: np.random.RandomState, heterogeneous: float) -> None:
        """Uptake, Antoni A/B mixture and cysts."""
        self.cystic = bool(R.rand() < CYSTIC[self.grade])
        weak = R.rand() < 0.12
        self.uptake = float(R.uniform(0.40, 0.65) if weak else np.clip(1.0 + 0.12 * R.randn(), 0.75, 1.25))
        size = np.clip(self.volume / 3.0, 0.15, 1.2)
        self.mixture = float(heterogeneous * size * R.uniform(0.10, 0.32))
        coarse = smooth_noise(R, self.lumps, R.uniform(5.0, 8.0))
        field = _unit(coarse) + 0.35 * _unit(smooth_noise(R, self.lumps, 3.0))
        self.mixture_field = field
        self.cyst_seeds = [(R.randn(3), R.uniform(0.28, 0.5), R.uniform(0.7, 1.3, 3)) for _ in range(R.randint(1, 4))]

    def _extra(self, points: torch.Tensor) -> torch.Tensor:
        rel = points - column(self.centre, points)
        local = (torch.from_numpy(self.axes).float() @ rel.reshape(3, -1)).reshape(points.shape)
        bumps = self.lumps.sample(self.lump_field, rel)[0]
        return ellipsoid(local, np.zeros(3), self.radii) - bumps * (self.lump_size * self.radius)

    def distance(self, points: torch.Tensor, intracranial: torch.Tensor, brainstem: torch.Tensor) -> torch.Tensor:
        """Signed distance to the tumour, mm.

        Args:
            points: (3, ...) head space.
            intracranial: signed distance to the intracranial space there.
            brainstem: signed distance to the (undisplaced) brainstem there.
        """
        local = self.ear.to_local(points)
        canal = self.ear.canal(local, self.widen)
        cone = torch.maximum(canal, local[0] - (self.ear.length - self.free_fundus))
        outside = self.ear.beyond_porus(points)
        if self.grade == 1:
            ball = ellipsoid(local, np.array([self.depth, 0, 0]), self.radii)
            return torch.maximum(torch.maximum(cone, ball), outside + 0.5)
        cone = torch.maximum(cone, outside - 1.5)
        whole = smooth_min(cone, self._extra(points), 2.0)
        whole = torch.maximum(whole, torch.minimum(canal, intracranial + 0.2))
        # Not over the petrous ridge into the middle fossa.
        ridge = ((points - column(self.ear.origin, points)) * column([self.ear.side, 1.0, 0.0], points)).sum(0)
        whole = torch.maximum(whole, torch.minimum(canal, ridge / np.sqrt(2) - 3.5))
        if self.grade in GAP:
            whole = torch.maximum(whole, GAP[self.grade] - brainstem)
        return whole

    def _set_radius(self, radius: float, site: Site) -> None:
        """Lay the ball so that its medial pole is where the grade wants it."""
        self.radius = radius
        if self.grade == 1:
            # First a bead, then it fills the canal, then it widens it.
            self.radii = np.array([1.6, 1.0, 1.0]) * radius
            self.widen = 0.22 * max(radius - 2.0, 0.0)
            self.depth = self.ear.length * 0.5
            return
        self.radii = self.shape * radius
        self.widen = float(np.clip(0.12 * (radius - 3), 0, 1.3))
        touching = site.distance + self.penetration
        reach = {
            2: min(site.distance - GAP[2] - 0.3, 1.55 * radius),
            3: touching,
            4: max(touching, 1.45 * radius),
        }[self.grade]
        self.depth_in_brainstem = reach - site.distance
        self.centre = self.ear.origin + site.direction * (reach - radius)
        first = site.direction
        second = np.cross([0, 0, 1.0], first)
        second /= np.linalg.norm(second)
        self.axes = np.stack([first, second, np.cross(first, second)])

    def fit(self, site: Site) -> None:
        """Find the size that gives the wanted volume (bisection on the site's grid)."""
        low, high = (0.8, 9.0) if self.grade == 1 else (1.0, 22.0)
        for _ in range(12):
            middle = (low + high) / 2
            self._set_radius(middle, site)
            inside = fraction(self.distance(site.points, site.intracranial, site.brainstem), 0.7)
            if float(inside.sum()) * site.cell > self.volume * 1000:
                high = middle
            else:
                low = middle
        self._set_radius((low + high) / 2, site)

    def in_canal(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance to the intra-meatal part of space: in the (widened) canal and lateral of the porus plane."""
        canal = self.ear.canal(self.ear.to_local(points), self.widen)
        return torch.maximum(canal - 0.6, self.ear.beyond_porus(points))

    def push(self) -> Push | None:
        """How it displaces the brain; None while it is inside the canal."""
        if self.grade == 1:
            return None
        core = 0.55
        if self.grade == 4:
            core = float(np.clip(1 - (self.depth_in_brainstem - 0.6) / self.radius, 0.3, 0.92))
        return Push(self.centre, self.axes, self.radii, core)

    def inside(self, points: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inner structure at points (3, ...).

        Args:
            points: head space.
            depth: signed distance to the tumour there.

        Returns:
            Share of loose (Antoni B) tissue 0..1, and signed distance to its cysts (mm).
        """
        shape = points.shape[1:]
        rel = points - column(self.centre, points)
        loose = (0.12 + self.mixture * self.lumps.sample(self.mixture_field, rel)[0]).clamp(0, 1)
        cyst = torch.full(shape, 10.0)
        if self.cystic:
            for direction, size, form in self.cyst_seeds:
                unit = direction / max(np.linalg.norm(direction), 1e-6)
                centre = self.centre + 0.42 * self.radius * unit
                torch.minimum(cyst, ellipsoid(points, centre, size * self.radius * form), out=cyst)
            cyst = torch.maximum(cyst, depth + 0.9)
        return loose, cyst
