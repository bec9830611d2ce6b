"""From a head to a noise-free image and its labels on a scan's grid.

The whole head is rendered from the atlas with two subsamples through each slice. Around the ears, where the structures
are finer than a voxel, the image is rendered on a subdivided grid from signed distances and averaged back into voxels:
partial volume comes from there, and so do the labels (a voxel belongs to what fills at least half of it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from . import tissues as T
from .anatomy import BRAINSTEM, GRID
from .ear import Ear, capsule_of_dense_bone
from .geometry import Grid, apply, fraction
from .head import Head
from .scanner import Scan
from .tissues import Tissue

EAR_BOX = ((-14.0, 13.0), (-12.0, 12.0), (-9.0, 11.0))  # in the ear's frame, mm; the first end beyond the fundus
CSF_PARCEL = 11
LOOSE = Tissue(0.92, 1500, 190)  # Antoni B: watery, more T2, less uptake


@dataclass
class Labels:
    """Label maps on the scan's grid.

    Attributes:
        parts: uint8: 0 background, 1 extra-meatal VS, 2 intra-meatal VS, 3 cochlea (the 2023 schema).
        parcels: uint8: see `anatomy.PARCELS`; 0 where there is VS.
    """

    parts: np.ndarray
    parcels: np.ndarray


@dataclass
class Signals:
    """What the subject's tissues give under one protocol.

    Attributes:
        table: signal per tissue id.
        tumour: signal of the tumour for a share of loose tissue of 0, 1/16, ... 1.
        roll: voxels by which the atlas's texture is rolled, so that it differs between subjects.
    """

    table: np.ndarray
    tumour: torch.Tensor
    roll: tuple[int, int, int] = (0, 0, 0)


def tumour_signals(scan: Scan, uptake: float, tissue_spread: float = 1.0) -> torch.Tensor:
    """Signals of tumour tissue from solid to loose; loose (Antoni B) parts take up half as much contrast."""
    out = []
    for loose in np.linspace(0, 1, 17):
        solid = T.between(T.VS_NATIVE, LOOSE, loose)
        enhanced = T.between(solid, T.VS_ENHANCED, uptake * (1 - 0.5 * loose)) if uptake > 0 else solid
        out.append(scan.protocol.signal(enhanced) * tissue_spread)
    return torch.tensor(out, dtype=torch.float32)


class Renderer:
    """Renders one head on one scan's grid.

    Args:
        head: the subject.
        scan: the grid.
        pose: rotation from head space to scanner space; the head's position is `shift`.
        shift: mm.
        signals: what the tissues give.
    """

    def __init__(self, head: Head, scan: Scan, pose: np.ndarray, shift: np.ndarray, signals: Signals):
        self.head, self.scan, self.signals = head, scan, signals
        # voxel index -> head space
        self.matrix = pose.T @ scan.affine[:3, :3]
        self.offset = pose.T @ (scan.affine[:3, 3] - shift)
        self._load_channels()

    def _load_channels(self) -> None:
        """Signals of the atlas, cut to the slices the scan needs: trilinear interpolation commutes with the tables."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.scan.shape], indexing="ij")).reshape(3, -1)
        z = (self.matrix @ corners)[2] + self.offset[2]
        low = int(np.clip(z.min() - 18 - GRID.low[2], 0, GRID.shape[2] - 2))
        high = int(np.clip(z.max() + 18 - GRID.low[2], low + 2, GRID.shape[2]))
        window = slice(low, high)
        atlas, table = self.head.atlas, torch.from_numpy(self.signals.table)
        size = np.array([GRID.shape[0], GRID.shape[1], high - low])
        start = GRID.low + np.array([0, 0, low])
        self.grid = Grid(tuple(start), tuple(start + size - 1), GRID.spacing)
        inside, outside = (table[torch.from_numpy(v[..., window]).int()] for v in (atlas.inside, atlas.outside))
        wm, gm = atlas.wm[..., window], atlas.gm[..., window]
        texture = atlas.texture[..., window].roll(self.signals.roll, (0, 1, 2))
        inside, outside = _soften(inside), _soften(outside) * (1 + 0.09 * texture)
        self.shell = torch.stack([inside, outside, atlas.intracranial[..., window]])
        tissue = (wm * table[T.WM] + gm * table[T.GM]) * (1 + 0.02 * texture)
        self.brain = torch.stack([tissue, wm + gm])
        self.parcels = torch.from_numpy(atlas.parcels[..., window]).float()[None]

    def points(self, low: np.ndarray, high: np.ndarray, plane: int, through: int) -> torch.Tensor:
        """Head points of the subsamples of voxels low..high (exclusive), shape (3, X*plane, Y*plane, Z*through)."""
        axes = []
        for n, parts in enumerate((plane, plane, through)):
            count = (high[n] - low[n]) * parts
            axes.append(torch.from_numpy(low[n] + (np.arange(count) + 0.5) / parts - 0.5).float())
        return apply(self.matrix, torch.stack(torch.meshgrid(*axes, indexing="ij")), self.offset)

    def render(self) -> tuple[torch.Tensor, Labels]:
        """The noise-free image, float32 on the scan's grid, and its labels."""
        image = torch.empty(self.scan.shape)
        parcels = torch.empty(self.scan.shape, dtype=torch.uint8)
        step = max(1, int(4e6 / (self.scan.shape[0] * self.scan.shape[1])))
        for z in range(0, self.scan.shape[2], step):
            stop = min(z + step, self.scan.shape[2])
            image[:, :, z:stop], parcels[:, :, z:stop] = self._slab(z, stop)
        parts = torch.zeros(self.scan.shape, dtype=torch.uint8)
        for side in (-self.head.side, self.head.side):
            self._render_ear(side, image, parts, parcels)
        parcels[(parts == 1) | (parts == 2)] = 0
        return image, Labels(parts.numpy(), parcels.numpy())

    def _maps(self, low: np.ndarray, high: np.ndarray, plane: int, through: int, node: float) -> torch.Tensor:
        """Atlas points of shell and brain at the subsamples of voxels low..high, shape (6, ...).

        The deformation is smooth, so it is computed on a lattice of `node` mm and interpolated.
        """
        size, axes = [], []
        for n, parts in enumerate((plane, plane, through)):
            ends = low[n] + 0.5 / parts - 0.5, high[n] - 0.5 / parts - 0.5
            nodes = max(2, int(np.ceil((ends[1] - ends[0]) * self.scan.spacing[n] / node)) + 1)
            axes.append(torch.linspace(*map(float, ends), nodes))
            size.append(int(high[n] - low[n]) * parts)
        index = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        coarse = apply(self.matrix, index, self.offset)
        maps = torch.cat([self.head.shell(coarse), self.head.brain(coarse)])
        return F.interpolate(maps[None], size=size, mode="trilinear", align_corners=True)[0]

    def _slab(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and parcels of slices start..stop from the atlas."""
        plane, through = self.scan.fine
        low, high = np.array([0, 0, start]), np.array([*self.scan.shape[:2], stop])
        maps = self._maps(low, high, plane, through, 3.0)
        inside, outside, distance = self.grid.sample(self.shell, maps[:3])
        signal, share = self.grid.sample(self.brain, maps[3:])
        room = fraction(distance, 0.8)
        image = (inside * (1 - share) + signal) * room + outside * (1 - room)
        middle = maps[3:, plane // 2 :: plane, plane // 2 :: plane, through // 2 :: through]
        return _average(image, plane, through), self._look_up_parcels(middle, _average(share * room, plane, through))

    def _look_up_parcels(self, points: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Parcels at atlas points (3, ...); brainstem voxels that are mostly CSF become CSF."""
        found = self.grid.sample(self.parcels, points, mode="nearest")[0].to(torch.uint8)
        stem = torch.isin(found, torch.tensor(BRAINSTEM, dtype=torch.uint8))
        found[stem & (brain < 0.5)] = CSF_PARCEL
        return found

    def _ear_box(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Voxels low..high (exclusive) that hold the ear's fine structures and the tumour, clipped to the grid."""
        ear = self.head.ears[side]
        ends = np.array(np.meshgrid(*EAR_BOX, indexing="ij")).reshape(3, -1)
        corners = np.stack([ear.to_head(end + np.array([ear.length * (end[0] > 0), 0, 0])) for end in ends.T], axis=1)
        if side == self.head.side and self.head.has_tumour:
            reach = float(self.head.tumour.radii.max()) * 1.2 + 2
            ball = self.head.tumour.centre[:, None] + reach * np.concatenate([np.eye(3), -np.eye(3)], axis=1)
            cube = np.array(np.meshgrid(*np.stack([ball.min(1), ball.max(1)], axis=1), indexing="ij")).reshape(3, -1)
            corners = np.concatenate([corners, cube], axis=1)
        index = np.linalg.solve(self.matrix, corners - self.offset[:, None])
        low = np.clip(np.floor(index.min(1)).astype(int), 0, self.scan.shape)
        high = np.clip(np.ceil(index.max(1)).astype(int) + 1, 0, self.scan.shape)
        return low, high

    def _render_ear(self, side: int, image: torch.Tensor, parts: torch.Tensor, parcels: torch.Tensor) -> None:
        low, high = self._ear_box(side)
        if np.any(high <= low):
            return
        plane, through = self.scan.ear_fine
        per_slice = (high[0] - low[0]) * (high[1] - low[1]) * plane**2 * through
        step = max(1, int(2.5e6 / per_slice))
        cochlea = torch.zeros(tuple(high - low))
        for z in range(low[2], high[2], step):
            a, b = np.array([*low[:2], z]), np.array([*high[:2], min(z + step, high[2])])
            window = tuple(slice(i, j) for i, j in zip(a, b, strict=True))
            points = self.points(a, b, plane, through)
            signal, shares, brain = self._fine(points, self._maps(a, b, plane, through, 1.5), side)
            image[window] = _average(signal, plane, through)
            centres = self._maps(a, b, 1, 1, 1.5)[3:]
            parcels[window] = self._look_up_parcels(centres, _average(brain, plane, through))
            if shares:
                extra, intra = (_average(shares[name], plane, through) for name in ("extra", "intra"))
                part = torch.where(extra > intra, 1, 2).to(torch.uint8)
                parts[window] = torch.where(extra + intra >= 0.5, part, parts[window])
            cochlea[:, :, z - low[2] : b[2] - low[2]] = _average(self._cochlea(points, side), plane, through)
        self._label_cochlea(cochlea, parts[tuple(slice(i, j) for i, j in zip(low, high, strict=True))], side)

    def _cochlea(self, points: torch.Tensor, side: int) -> torch.Tensor:
        ear = self.head.ears[side]
        distance = _near(ear, points, lambda local: ear.cochlea(local) - ear.cochlea_threshold)
        return fraction(distance, 0.25)

    def _label_cochlea(self, share: torch.Tensor, parts: torch.Tensor, side: int) -> None:
        """Give the label to the fullest voxels, as many as make up the cochlea's volume (what a rater paints)."""
        count = round(self.head.ears[side].cochlea_volume / float(np.prod(self.scan.spacing)))
        fullest = share.flatten().topk(count)
        chosen = torch.zeros(share.numel(), dtype=torch.bool)
        chosen[fullest.indices[fullest.values > 0.05]] = True
        parts[chosen.reshape(share.shape) & (parts == 0)] = 3

    def _fine(
        self, points: torch.Tensor, maps: torch.Tensor, side: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Signal, tumour shares (empty on the healthy side) and brain share at fine points."""
        head, table = self.head, self.signals.table
        ear = head.ears[side]
        inside, outside, cranial = self.grid.sample(self.shell, maps[:3])
        tissue, share = self.grid.sample(self.brain, maps[3:])
        room = fraction(cranial, 0.4)
        local = ear.to_local(points)
        canal, cochlea, labyrinth = ear.canal(local), _near(ear, points, ear.cochlea), ear.labyrinth(local)
        dense = fraction(capsule_of_dense_bone(canal, cochlea, labyrinth), 0.5)
        outside = outside + dense * (float(table[T.BONE]) - outside)
        share = share * room
        image = (inside * (room - share) + tissue * room) + outside * (1 - room)
        for distance, kind in ((canal, T.CSF), (labyrinth, T.FLUID), (cochlea, T.FLUID)):
            cover = fraction(distance, 0.3) * (1 - room)
            image = image + cover * (float(table[kind]) - image)
        free = torch.maximum(fraction(canal, 0.3), room) * (1 - share)
        nerve = fraction(ear.nerves(local), 0.3) * free
        image = image + nerve * (float(table[T.NERVE]) - image)
        if side != head.side or not head.has_tumour:
            return image, {}, share
        return self._add_tumour(points, cranial, image, share)

    def _add_tumour(
        self, points: torch.Tensor, cranial: torch.Tensor, image: torch.Tensor, share: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        tumour = self.head.tumour
        depth = tumour.distance(points, cranial, self.head.brainstem(points))
        cover = fraction(depth, 0.3)
        loose, cyst = tumour.inside(points, depth)
        position = loose * 16
        lower = position.floor().clamp(0, 15)
        values = self.signals.tumour
        index = lower.long()
        signal = values[index] + (values[index + 1] - values[index]) * (position - lower)
        signal = signal + fraction(cyst, 0.5) * (float(self.signals.table[T.CYST]) - signal)
        image = image + cover * (signal - image)
        meatal = fraction(tumour.in_canal(points), 0.3)
        return image, {"extra": cover * (1 - meatal), "intra": cover * meatal}, share * (1 - cover)


def _soften(values: torch.Tensor) -> torch.Tensor:
    """Smooth a volume by (1, 2, 1)/4 along each axis, so that the atlas's labels show no 1 mm steps."""
    for axis in range(3):
        n = values.shape[axis]
        out = values.clone()
        inner, left, right = (out.narrow(axis, 1, n - 2), values.narrow(axis, 0, n - 2), values.narrow(axis, 2, n - 2))
        inner.mul_(2).add_(left).add_(right).div_(4)
        values = out
    return values


def _near(ear: Ear, points: torch.Tensor, function) -> torch.Tensor:
    """Evaluate a costly distance only within 8 mm of the cochlea; 8 elsewhere."""
    local = ear.to_local(points)
    centre = torch.from_numpy(ear.cochlea_centre + 1.2 * ear.cochlea_axis).float().reshape(3, 1, 1, 1)
    close = (local - centre).square().sum(0) < 64
    out = torch.full(points.shape[1:], 8.0)
    if close.any():
        out[close] = function(local[:, close])
    return out


def _average(values: torch.Tensor, plane: int, through: int) -> torch.Tensor:
    """Mean over the subsamples of each voxel."""
    x, y, z = values.shape
    blocks = values.reshape(x // plane, plane, y // plane, plane, z // through, through)
    return blocks.mean((1, 3, 5))
