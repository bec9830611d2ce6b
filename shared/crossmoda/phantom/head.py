"""One subject's head: deformation, two ears, one tumour, and the maps from head space into the atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .anatomy import GRID, load_atlas
from .ear import FUNDUS_MNI, Ear
from .geometry import Grid
from .tumour import Site, Tumour
from .warp import Growth, Warp

NERVE_ENTRY_MNI = (13.0, -33.0, -46.0)
PETROUS_MNI = (39.5, -25.0, -41.0)
CISTERN_MNI = (21.0, -26.0, -41.0)


@dataclass
class Places:
    """Head points seen from the atlas.

    Attributes:
        shell: MNI points for everything that the tumour does not move (3, ...).
        brain: MNI points for the brain, which it moves.
    """

    shell: torch.Tensor
    brain: torch.Tensor


class Head:
    """A subject.

    Args:
        R: source of randomness.
        grade: Koos grade of the tumour.
        side: +1 right, -1 left.
        heterogeneous: see `Tumour`.
        volume: tumour volume in mL; None draws it.
        tumour: False leaves the tumour out (same subject otherwise), for tests of displacement.
        deform: False leaves the subject's smooth deformation out: away from ears and tumour the head is the atlas's.
    """

    def __init__(
        self,
        R: np.random.RandomState,
        grade: int,
        side: int,
        heterogeneous: float = 1.0,
        volume: float | None = None,
        tumour: bool = True,
        deform: bool = True,
    ):
        self.atlas = load_atlas()
        self.warp = Warp(R) if deform else Warp(R, amplitude=0.0, resize=False)
        self.ears = {s: Ear(R, s) for s in (1, -1)}
        self.side = side
        self.growths, self.openings = [], {}
        for s in (1, -1):
            mirror = np.array([s, 1, 1])
            self.growths.append(Growth(self.warp.inverse(PETROUS_MNI * mirror), R.uniform(0.22, 0.34), 11.0))
            centre = self.warp.inverse(CISTERN_MNI * mirror)
            self.openings[s] = Growth(centre, R.uniform(0.25, 0.45), R.uniform(8.0, 10.0))
        for s in (1, -1):
            self._place(self.ears[s])
        self.tumour = Tumour(R, self.ears[side], grade, heterogeneous, volume)
        self._fit_tumour()
        self._push = self.tumour.push() if tumour else None
        self.has_tumour = tumour

    def shell(self, points: torch.Tensor) -> torch.Tensor:
        """MNI points of what the tumour does not move."""
        for growth in self.growths:
            points = growth(points)
        return self.warp(points)

    def still_brain(self, points: torch.Tensor) -> torch.Tensor:
        """MNI points of the brain before the tumour pushed it."""
        for opening in self.openings.values():
            points = opening(points)
        return self.shell(points)

    def brain(self, points: torch.Tensor) -> torch.Tensor:
        """MNI points of the brain as the tumour has pushed it."""
        if self._push is None:
            return self.still_brain(points)
        weight = 1.0
        if self.tumour.grade < 4:
            weight = (self.brainstem(points) / 4).clamp(0, 1)
        return self.still_brain(self._push(points, weight))

    def brainstem(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance to the brainstem before any push, mm (up to the deformation's local scale)."""
        return GRID.sample(self.atlas.brainstem[None], self.still_brain(points))[0]

    def intracranial(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance to the intracranial space, mm (up to the deformation's local scale)."""
        return GRID.sample(self.atlas.intracranial[None], self.shell(points))[0]

    def _place(self, ear: Ear) -> None:
        """Find where the canal's axis leaves the petrous bone; that is the porus."""
        mirror = np.array([ear.side, 1, 1])
        fundus = self.warp.inverse(FUNDUS_MNI * mirror)
        steps = torch.arange(0, 22, 0.1)
        axis = torch.from_numpy(ear.frame[0]).float()
        line = torch.from_numpy(fundus).float()[:, None] - axis[:, None] * steps
        distance = self.intracranial(line)
        hits = torch.nonzero(distance < 0)
        step = float(steps[hits[0, 0]]) if len(hits) else 10.0
        porus = fundus - ear.frame[0] * step
        eps = 0.8
        around = torch.from_numpy(porus).float()[:, None] + eps * torch.cat([torch.eye(3), -torch.eye(3)], 1)
        values = self.intracranial(around).numpy()
        gradient = values[:3] - values[3:]
        outwards = -gradient / max(np.linalg.norm(gradient), 1e-6)
        ear.place(porus, outwards, self.warp.inverse(NERVE_ENTRY_MNI * mirror))

    def _site(self) -> Site:
        ear = self.ears[self.side]
        cell = 0.7
        middle = ear.to_head([-4, 0, 0])
        grid = Grid(tuple(middle - 20), tuple(middle + 20), cell)
        points = grid.points()
        brainstem = self.brainstem(points)
        inside = points[:, brainstem < 0.3].numpy().T
        away = np.linalg.norm(inside - ear.origin, axis=1)
        nearest = inside[away.argmin()]
        distance = float(away.min())
        direction = (nearest - ear.origin) / distance
        return Site(points, cell**3, self.intracranial(points), brainstem, distance, direction)

    def _fit_tumour(self) -> None:
        """Open the cistern as far as the tumour needs it (up to a limit), then fit the tumour's size."""
        tumour = self.tumour
        if tumour.grade in (2, 3):
            radius = (tumour.volume * 1000 * 0.8 / 4.19) ** (1 / 3)
            wanted = {2: 1.6 * radius + 2.0, 3: 1.5 * radius}[tumour.grade]
            opening = self.openings[self.side]
            away = np.array([-self.side, -1.0, 0.0]) / np.sqrt(2)
            for amount, reach, shift in (
                (0.3, 8, 0),
                (0.36, 9, 1),
                (0.42, 10, 2),
                (0.46, 11, 3),
                (0.5, 12, 4.5),
                (0.5, 13, 6),
            ):
                opening.amount, opening.reach, opening.shift = amount, float(reach), shift * away
                if self._site().distance >= wanted:
                    break
        tumour.fit(self._site())
