"""The inner ear and the internal auditory canal (IAC) of one side, in a frame of their own.

Frame: origin at the porus (the canal's medial opening), u along the canal's axis laterally, v anteriorly, w upwards,
all in mm; left and right ear are mirror images with their own random shape. Sizes follow the anatomical literature:
canal 9.8 mm (5.5-11) long, about 7 mm wide at its opening and 4.5 mm high; cochlea 8.75 x 6.5 x 3.3 mm with 2.5
turns, antero-lateral of the fundus.
"""

from __future__ import annotations

import numpy as np
import torch

from .geometry import capsule, column, ellipsoid, smooth_min, torus, tube

FUNDUS_MNI = (35.5, -26.0, -40.5)  # lateral end of the canal on the right side, read off the MNI152 skull base


class Ear:
    """One ear's shapes.

    Args:
        R: source of randomness.
        side: +1 right (x > 0), -1 left.
        length: length of the canal, mm; None draws it.

    Attributes:
        length: length of the canal, mm.
        origin: the porus in head space, mm (set by `place`).
        frame: rows u, v, w in head space.
        plane: unit normal of the porus plane in head space, pointing out of the canal (medially).
    """

    def __init__(self, R: np.random.RandomState, side: int):
        self.side = side
        self.length = float(np.clip(9.8 + 1.1 * R.randn(), 7.5, 11.0))
        self.widths = np.clip([3.5, 2.2, 1.9] * (1 + 0.07 * R.randn(3)), [3.0, 1.9, 1.6], [4.0, 2.6, 2.2])
        self.height = float(np.clip(2.25 + 0.2 * R.randn(), 1.9, 2.7))
        yaw, tilt, roll = np.deg2rad([13 + 4 * R.randn(), 3 * R.randn(), 3 * R.randn()])
        u = np.array([np.cos(yaw) * np.cos(tilt), np.sin(yaw) * np.cos(tilt), np.sin(tilt)])
        up = np.array([np.sin(roll), 0, np.cos(roll)])
        v = np.cross(up, u)
        v /= np.linalg.norm(v)
        self.frame = np.stack([u, v, np.cross(u, v)]) * np.array([side, 1, 1])
        self.origin = np.zeros(3)
        self.plane = -self.frame[0]
        self.entry = np.array([-12.0, -6.0, -5.0])
        self._draw_labyrinth(R)

    def _draw_labyrinth(self, R: np.random.RandomState) -> None:
        L = self.length
        self.cochlea_volume = float(np.clip(86 + 9 * R.randn(), 70, 108))
        self.cochlea_centre = np.array([L + 2.8, 2.6, -0.8]) + 0.35 * R.randn(3)
        axis = np.array([0.62, 0.76, -0.22]) + 0.06 * R.randn(3)
        self.cochlea_axis = axis / np.linalg.norm(axis)
        self.cochlea_size = float(1 + 0.04 * R.randn())
        self.cochlea_line = self._spiral()
        self.vestibule = np.array([L + 3.6, -2.0, 0.6]) + 0.3 * R.randn(3)
        self.canals = [  # centre relative to the vestibule, normal of the ring's plane, ring radius, tube radius
            (np.array([3.2, -2.3, -0.3]), np.array([0.15, 0.0, 1.0]), 3.0, 0.55),  # lateral
            (np.array([1.2, 0.6, 4.0]), np.array([0.70, 0.70, 0.0]), 3.1, 0.5),  # superior
            (np.array([2.2, -4.6, 0.2]), np.array([0.70, -0.72, 0.1]), 3.0, 0.5),  # posterior
        ]
        self.cochlea_threshold = self._fit_cochlea()

    def _spiral(self) -> np.ndarray:
        """Centre line of the cochlear duct: 2.5 turns, shape (n, 3), plus the tube's radius as fourth column."""
        turns = np.linspace(0, 2.55, 90)
        angle = 2 * np.pi * turns
        share = turns / turns[-1]
        radius = (3.0 * np.exp(-1.45 * share)) * self.cochlea_size
        rise = 2.9 * share**1.1 * self.cochlea_size
        thick = (1.0 - 0.42 * share) * self.cochlea_size
        d = self.cochlea_axis
        side = np.cross(d, [0, 0, 1.0])
        side /= np.linalg.norm(side)
        other = np.cross(side, d)
        start = 2.4  # the basal turn begins below and behind, at the vestibule
        line = (
            self.cochlea_centre
            + np.outer(radius * np.cos(angle + start), side)
            + np.outer(radius * np.sin(angle + start), other)
            + np.outer(rise, d)
        )
        return np.concatenate([line, thick[:, None]], axis=1)

    def cochlea(self, local: torch.Tensor) -> torch.Tensor:
        """Signed distance to the cochlear duct (its fluid)."""
        line = torch.from_numpy(self.cochlea_line).float()
        shape = local.shape[1:]
        flat = local.reshape(3, -1)
        out = torch.full((flat.shape[1],), 1e3)
        for piece in range(0, flat.shape[1], 1 << 18):
            part = flat[:, piece : piece + (1 << 18)].T
            out[piece : piece + (1 << 18)] = (torch.cdist(part, line[:, :3]) - line[:, 3]).amin(1)
        return out.reshape(shape)

    def _fit_cochlea(self) -> float:
        """Distance from the duct up to which the label reaches, so that it encloses `cochlea_volume`.

        Raters outline the cochlea as a whole: duct, thin septa and modiolus, about 85 mm3 a side.
        """
        axes = [torch.arange(-6, 6, 0.2) + float(c) for c in self.cochlea_centre + 1.2 * self.cochlea_axis]
        distance = self.cochlea(torch.stack(torch.meshgrid(*axes, indexing="ij"))).flatten()
        count = round(self.cochlea_volume / 0.2**3)
        return float(distance.kthvalue(count).values)

    def labyrinth(self, local: torch.Tensor) -> torch.Tensor:
        """Signed distance to vestibule and semicircular canals (fluid that no label covers)."""
        out = ellipsoid(local, self.vestibule, np.array([2.4, 1.6, 2.2]))
        for centre, normal, radius, thick in self.canals:
            torch.minimum(out, torus(local, self.vestibule + centre, normal, radius, thick), out=out)
        return out

    def canal(self, local: torch.Tensor, widen: float = 0.0) -> torch.Tensor:
        """Signed distance to the internal auditory canal; `widen` moves its wall outwards (mm), most at the porus."""
        u, v, w = local
        opening, middle, end = self.widths
        share = (u / self.length).clamp(0, 1)
        width = middle + (end - middle) * share + (opening - middle) * torch.exp(-(u.clamp_min(0) / 2.2))
        grow = widen * (1 - 0.5 * share)
        width, height = width + grow, self.height * (1 - 0.12 * share) + grow
        round_off = ((u - (self.length - 1.5)) / 1.5).clamp(0, 1).square()
        radial = ((v / width).square() + (w / height).square() + round_off).sqrt()
        distance = (radial - 1) * torch.minimum(width, height)
        return torch.maximum(distance, torch.maximum(u - self.length, -u - 4.0))

    def nerves(self, local: torch.Tensor) -> torch.Tensor:
        """Signed distance to the facial, cochlear and vestibular nerves, from the brainstem to the fundus."""
        L = self.length
        facial = np.array([self.entry + np.array([0, 1.2, 0.6]), [-1, 0.9, 0.8], [L, 0.9, 1.0]])
        eighth = np.array([self.entry, [-1, -0.4, -0.4], [2.5, -0.2, -0.4]])
        out = tube(local, facial, np.array([0.6, 0.42]))
        torch.minimum(out, tube(local, eighth, np.array([0.95, 0.8])), out=out)
        for v, w, radius in ((0.9, -0.9, 0.45), (-0.8, 0.8, 0.42), (-0.8, -0.8, 0.42)):
            torch.minimum(out, capsule(local, np.array([2.5, -0.2, -0.4]), np.array([L, v, w]), radius), out=out)
        return out

    def to_local(self, points: torch.Tensor) -> torch.Tensor:
        """Head points (3, ...) in the ear's frame, mm."""
        rel = points - column(self.origin, points)
        return (torch.from_numpy(self.frame).float() @ rel.reshape(3, -1)).reshape(points.shape)

    def to_head(self, local: np.ndarray) -> np.ndarray:
        """One point (3,) of the ear's frame in head space, mm."""
        return self.origin + np.asarray(local, float) @ self.frame

    def beyond_porus(self, points: torch.Tensor) -> torch.Tensor:
        """Signed distance to the porus plane: positive outside the canal (extra-meatal), mm."""
        rel = points - column(self.origin, points)
        return (torch.from_numpy(self.plane).float() @ rel.reshape(3, -1)).reshape(points.shape[1:])

    def place(self, origin: np.ndarray, outwards: np.ndarray, entry: np.ndarray) -> None:
        """Put the ear into the head.

        Args:
            origin: porus centre, mm.
            outwards: unit normal of the petrous bone's posterior face there, towards the cistern.
            entry: where nerve VIII leaves the brainstem, mm, head space.
        """
        self.origin = np.asarray(origin, float)
        plane = outwards - self.frame[0]
        self.plane = plane / np.linalg.norm(plane)
        self.entry = self.frame @ (np.asarray(entry, float) - self.origin)


def capsule_of_dense_bone(canal: torch.Tensor, cochlea: torch.Tensor, labyrinth: torch.Tensor) -> torch.Tensor:
    """Signed distance to the otic capsule: compact bone around canal and labyrinth, without marrow or air cells."""
    return smooth_min(torch.minimum(canal, labyrinth) - 1.8, cochlea - 1.8, 1.0)
