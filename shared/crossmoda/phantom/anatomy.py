"""The head atlas in MNI space: brain from the MNI152 tissue maps, everything around it modelled.

The MNI152 (2009a, symmetric, 1 mm) maps of grey and white matter and the T1 template ship with nilearn. They hold the
brain only; skull, marrow, fat, muscle, orbits, sinuses, mastoid air cells, vessels and dura are modelled here from
distances to the brain and from simple bodies placed at their textbook positions. The ears are not in the atlas (see
ear.py): they need a finer grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import nilearn.datasets
import numpy as np
import torch
from scipy import ndimage

from . import tissues as T
from .geometry import Grid, ellipsoid, smooth_noise, tube

GRID = Grid((-100, -140, -130), (100, 122, 100), 1.0)

# Parcellation ids of the phantom (our own numbering; the crossMoDA releases carry GIF's 209 classes instead).
PARCELS = {
    1: "pons",
    2: "medulla oblongata",
    3: "midbrain",
    4: "left cerebellar hemisphere",
    5: "right cerebellar hemisphere",
    6: "vermis",
    7: "fourth ventricle",
    8: "left temporal lobe",
    9: "right temporal lobe",
    10: "rest of the cerebrum",
    11: "subarachnoid CSF",
}
BRAINSTEM = (1, 2, 3)
PETROUS_FACE = -1.0  # |x| + y on the petrous bone's posterior face at the height of the canals, mm


@dataclass(frozen=True)
class Atlas:
    """The head in MNI space on `GRID`.

    Attributes:
        wm: share of white matter, float32 (X, Y, Z).
        gm: share of grey matter.
        intracranial: signed distance (mm) to the space inside the dura; negative inside.
        inside: tissue ids valid inside that space where there is no brain (CSF, vessels, cranial nerve V).
        outside: tissue ids valid outside it (bone, marrow, air, fat, muscle...).
        brainstem: signed distance (mm) to midbrain, pons and medulla; negative inside.
        parcels: parcellation ids (`PARCELS`).
        texture: noise of unit variance and 3 mm scale, for the unevenness of real tissue.
    """

    wm: torch.Tensor
    gm: torch.Tensor
    intracranial: torch.Tensor
    inside: np.ndarray
    outside: np.ndarray
    brainstem: torch.Tensor
    parcels: np.ndarray
    texture: torch.Tensor


def _load_maps() -> dict[str, np.ndarray]:
    """MNI152 T1, GM and WM on `GRID`, each 0..1; outside the template 0."""
    folder = Path(nilearn.datasets.__file__).parent / "data"
    maps = {}
    for name in ("t1", "gm", "wm"):
        image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        start = np.round(image.affine[:3, 3] - GRID.low).astype(int)
        out = np.zeros(GRID.shape, np.float32)
        data = np.asanyarray(image.dataobj).astype(np.float32) / 255
        target = tuple(slice(max(s, 0), s + n) for s, n in zip(start, data.shape, strict=True))
        part = out[target]
        crop = tuple(slice(-min(s, 0), -min(s, 0) + n) for s, n in zip(start, part.shape, strict=True))
        out[target] = data[crop]
        maps[name] = out
    return maps


def _distance(mask: np.ndarray) -> np.ndarray:
    """Signed distance to a mask in voxels (= mm), negative inside, smooth to about half a voxel."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    distance = outside - inside
    return ndimage.gaussian_filter((distance - 0.5 * np.sign(distance)).astype(np.float32), 0.7)


def _sharpened_brain(maps: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """WM and GM shares of one person's brain from an average one: unsharp masking brings sulci and folia back."""
    t1, brain = maps["t1"], maps["gm"] + maps["wm"]
    smooth = ndimage.gaussian_filter(t1 * brain, 2.5) / np.maximum(ndimage.gaussian_filter(brain, 2.5), 0.05)
    sharp = t1 + 1.6 * (t1 - smooth) * (brain > 0.3)
    share = np.clip((brain - 0.15) / 0.7, 0, 1)
    wm = np.clip((sharp - 0.68) / 0.16, 0, 1) * share
    csf = np.clip((0.57 - sharp) / 0.14, 0, 1)
    gm = np.clip(share - wm, 0, 1) * (1 - csf)
    return wm.astype(np.float32), gm.astype(np.float32)


def _brainstem_mask(brain: np.ndarray) -> np.ndarray:
    """Midbrain, pons and medulla of the MNI brain, cut from the cerebellum by hand-read planes (mm)."""
    x, y, z = (GRID.axis(n).reshape([-1 if m == n else 1 for m in range(3)]) for n in range(3))
    width = np.interp(GRID.axis(2), [-75, -52, -48, -44, -40, -30, -22, -12], [12, 12, 13, 18, 20, 19, 17, 17])
    back = np.interp(GRID.axis(2), [-75, -60, -50, -44, -38, -26, -12], [-60, -58, -44.5, -42.5, -41, -38, -37])
    front = np.interp(GRID.axis(2), [-75, -20, -12], [0, 0, -12])
    mask = (np.abs(x) <= width) & (y >= back) & (y < front) & (z < -8)
    return mask & (brain > 0.5) & (z > -100)


def _parcels(brain: np.ndarray, brainstem: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Parcellation from simple planes; the tentorium is a plane that rises towards the midline and the back."""
    x, y, z = (GRID.axis(n).reshape([-1 if m == n else 1 for m in range(3)]) for n in range(3))
    out = np.zeros(GRID.shape, np.uint8)
    out[inside] = 11
    tissue = brain > 0.5
    tentorium = -22 - 0.45 * (np.abs(x) - 25) - 0.10 * (y + 55)
    tent = np.where(np.abs(x) < 25, -22 + 0.9 * (25 - np.abs(x)) - 0.10 * (y + 55), tentorium)
    cerebellum = tissue & (y < -22 - 0.25 * np.abs(x)) & (z < tent) & ~brainstem
    out[tissue] = 10
    temporal = tissue & (z < 2) & (np.abs(x) > 14) & (y > -60) & (y < 28) & ~cerebellum
    out[temporal & (x < 0)] = 8
    out[temporal & (x >= 0)] = 9
    out[cerebellum & (x < 0)] = 4
    out[cerebellum & (x >= 0)] = 5
    out[cerebellum & (np.abs(x) < 7) & (y < -46)] = 6
    out[brainstem & (z > -22)] = 3
    out[brainstem & (z <= -22) & (z > -46)] = 1
    out[brainstem & (z <= -46)] = 2
    ventricle = inside & ~tissue & (np.abs(x) < 12) & (y < -36) & (y > -56) & (z < -20) & (z > -52)
    out[ventricle] = 7
    return out


def _vessel_lines() -> list[tuple[np.ndarray, float]]:
    """Centre lines (mm, MNI) and radii of arteries and sinuses; mirrored ones are given for both sides."""
    both = [
        (np.array([(8, -102, -12), (36, -94, -22), (56, -72, -27), (60, -54, -31)]), 3.6),  # transverse sinus
        (np.array([(60, -54, -31), (55, -46, -42), (47, -42, -52), (36, -36, -58), (31, -30, -64)]), 3.8),  # sigmoid
        (np.array([(31, -28, -64), (31, -24, -90), (32, -20, -128)]), 4.2),  # jugular vein
        (np.array([(29, -8, -128), (29, -10, -80), (28, -12, -52), (27, -11, -46)]), 2.5),  # ICA, neck and rise
        (np.array([(27, -11, -46), (20, -5, -44), (14, 0, -38), (13, 6, -30), (14, 12, -24)]), 2.3),  # ICA, petrous
        (np.array([(2, -24, -64), (0, -20, -52), (0, -16, -47)]) + np.array([3, 0, 0]), 1.5),  # vertebral
    ]
    lines = [(line * np.array([s, 1, 1]), radius) for line, radius in both for s in (1, -1)]
    lines.append((np.array([(0, -16, -48), (1.5, -12, -42), (0.5, -10, -34), (-0.5, -9, -26), (0, -9, -20)]), 1.7))
    return lines


def _paint(labels: np.ndarray, points: torch.Tensor, distance_of, box: tuple, value: int) -> None:
    """Set `value` where `distance_of(points) < 0`, looking only inside `box` ((x0, x1), (y0, y1), (z0, z1)) mm."""
    window = tuple(
        slice(max(int(np.floor(lo - GRID.low[n])), 0), max(int(np.ceil(hi - GRID.low[n])) + 1, 0))
        for n, (lo, hi) in enumerate(box)
    )
    view = labels[window]
    if view.size:
        view[(distance_of(points[(slice(None), *window)]) < 0).numpy()] = value


def _paint_tube(labels: np.ndarray, points: torch.Tensor, line: np.ndarray, radius: float, value: int) -> None:
    margin = radius + 2
    box = tuple((line[:, n].min() - margin, line[:, n].max() + margin) for n in range(3))
    _paint(labels, points, lambda p: tube(p, line, radius), box, value)


def _paint_ball(labels: np.ndarray, points: torch.Tensor, centre: tuple, radii: tuple, value: int) -> None:
    box = tuple((c - r - 2, c + r + 2) for c, r in zip(centre, radii, strict=True))
    _paint(labels, points, lambda p: ellipsoid(p, np.array(centre), np.array(radii)), box, value)


def _intracranial(brain: np.ndarray, points: torch.Tensor) -> np.ndarray:
    """Signed distance to the intradural space: the brain with its sulci closed, a rim of CSF, and the cisterns."""
    near = ndimage.gaussian_filter((brain > 0.4).astype(np.float32), 2.0) > 0.42
    near = ndimage.binary_closing(near, iterations=4, structure=ndimage.generate_binary_structure(3, 1))
    away = ndimage.distance_transform_edt(~near)
    mask = away < 1.7
    # Cerebello-pontine cistern: up to the posterior face of the petrous bone, which runs at 45 degrees.
    x, y = (GRID.axis(n).reshape([-1 if m == n else 1 for m in range(3)]) for n in range(2))
    behind = (np.abs(x) + y < PETROUS_FACE) & (y < -12) & (y > -44) & (np.abs(x) > 5)
    depth = np.interp(GRID.axis(2), [-62, -56, -50, -44, -32, -26], [0, 3.5, 7.5, 9.5, 9.5, 2])
    mask |= behind & (away < depth)
    _paint_ball(mask, points, (0, -13, -40), (13, 7, 14), 1)  # prepontine cistern
    _paint_ball(mask, points, (0, -24, -54), (12, 8, 12), 1)  # premedullary
    _paint_ball(mask, points, (0, 2, -17), (14, 11, 8), 1)  # suprasellar
    _paint_ball(mask, points, (0, -58, -60), (14, 12, 9), 1)  # cisterna magna
    for side in (1, -1):  # the petrous bone bulges into the middle fossa over the labyrinth
        _paint_ball(mask, points, (side * 38, -19, -40), (11, 6.5, 8), 0)
    _paint_tube(mask, points, np.array([(0, -40, -56), (0, -44, -80), (0, -46, -130)]), 10.5, 1)  # spinal canal
    return _distance(mask)


def _head_distance(hull: np.ndarray, points: torch.Tensor) -> np.ndarray:
    """Signed distance-like field of the head's skin: scalp over the vault, face, nose, ears, neck."""
    head = hull < 13.5
    _paint_ball(head, points, (0, 22, -62), (70, 74, 70), 1)
    _paint_ball(head, points, (0, 40, -95), (52, 52, 60), 1)
    _paint_tube(head, points, np.array([(0, -22, -60), (0, -30, -160)]), 62, 1)
    _paint_tube(head, points, np.array([(0, 90, -28), (0, 105, -52)]), 9, 1)
    smooth = ndimage.gaussian_filter(head.astype(np.float32), 4.0)
    head = smooth > 0.5
    for side in (1, -1):
        _paint_ball(head, points, (side * 82, -30, -38), (7, 13, 26), 1)  # pinna
    return _distance(head)


def _face_and_base(labels: np.ndarray, points: torch.Tensor, R: np.random.RandomState) -> None:
    """Orbits, nose, paranasal sinuses, pharynx, jaw, mastoid and ear canals, painted over the soft tissue."""
    ball = lambda c, r, v: _paint_ball(labels, points, c, r, v)  # noqa: E731
    ball((0, 52, -62), (40, 34, 30), T.BONE)  # maxilla and ethmoid: thin bone, mostly air and mucosa
    ball((0, 20, -38), (26, 18, 16), T.MARROW)  # sphenoid body
    ball((0, 0, -46), (13, 14, 11), T.MARROW)  # clivus
    for s in (1, -1):
        ball((s * 33, 52, -34), (21, 28, 19), T.BONE)
        ball((s * 33, 54, -34), (19, 28, 17), T.FAT)  # orbit
        _paint_tube(labels, points, np.array([(s * 34, 50, -34), (s * 22, 26, -32)]), 3.0, T.NERVE)
        for dx, dz in ((9, 0), (-9, 0), (0, 9), (0, -9)):
            line = np.array([(s * (33 + dx), 55, -34 + dz), (s * 22, 27, -32)])
            _paint_tube(labels, points, line, 2.0, T.MUSCLE)
        ball((s * 34, 62, -34), (12.5, 12.5, 12.5), T.MUSCLE)  # sclera
        ball((s * 34, 62, -34), (11.3, 11.3, 11.3), T.CSF)  # vitreous body
        ball((s * 34, 72, -34), (4.5, 2, 4.5), T.MUSCLE)  # lens
        ball((s * 28, 46, -66), (15, 19, 17), T.MUCOSA)
        ball((s * 28, 46, -66), (13.5, 17.5, 15.5), T.AIR)  # maxillary sinus
        for k in range(5):
            y = 30 + 9 * k
            ball((s * 8, y, -36), (5.5, 4.5, 9), T.MUCOSA)
            ball((s * 8, y, -36), (4.5, 3.7, 8), T.AIR)  # ethmoid cells
        ball((s * 9, 20, -40), (9, 12, 9.5), T.MUCOSA)
        ball((s * 9, 20, -40), (8, 11, 8.5), T.AIR)  # sphenoid sinus
        ball((s * 7, 55, -62), (5.5, 34, 16), T.MUCOSA)
        ball((s * 9, 55, -62), (2.4, 32, 14), T.AIR)  # nasal passages
        _paint_tube(labels, points, np.array([(s * 50, 4, -52), (s * 54, 2, -80), (s * 44, 20, -110)]), 7, T.BONE)
        _paint_tube(labels, points, np.array([(s * 50, 4, -56), (s * 54, 2, -80), (s * 44, 20, -110)]), 3.5, T.MARROW)
        _paint_tube(labels, points, np.array([(s * 66, 36, -44), (s * 70, 8, -46)]), 3.5, T.BONE)  # zygomatic arch
        ball((s * 40, 16, -74), (12, 20, 16), T.MUSCLE)  # pterygoid
        ball((s * 60, -6, -78), (9, 12, 18), T.FAT)  # parotid
        _mastoid(labels, points, s, R)
        _paint_tube(labels, points, np.array([(s * 52, -22, -44), (s * 66, -22, -45), (s * 92, -26, -46)]), 3.2, T.AIR)
        _paint_tube(labels, points, np.array([(s * 78, -44, -50), (s * 88, -44, -20)]), 2.0, T.AIR)
    ball((0, 4, -76), (14, 8, 20), T.MUCOSA)
    ball((0, 4, -78), (12, 5, 22), T.AIR)  # pharynx
    _paint_tube(labels, points, np.array([(0, -2, -98), (0, -6, -130)]), 9, T.AIR)
    ball((0, 34, -96), (24, 34, 16), T.MUSCLE)  # tongue
    for z in (-72, -92, -112):
        ball((0, -28, z), (14, 9, 8), T.BONE)
        ball((0, -28, z), (12.5, 7.5, 6.5), T.MARROW)  # vertebral bodies


def _mastoid(labels: np.ndarray, points: torch.Tensor, s: int, R: np.random.RandomState) -> None:
    """Mastoid: bone with many air cells, a little marrow and mucosa between them; the tympanic cavity before it."""
    _paint_ball(labels, points, (s * 57, -40, -48), (12, 16, 20), T.BONE)
    for _ in range(60):
        d = R.randn(3)
        d *= R.uniform(0.2, 0.95) / np.linalg.norm(d)
        centre = np.array([57, -40, -48]) + d * np.array([10, 14, 17])
        radius = R.uniform(1.2, 3.2)
        _paint_ball(labels, points, (s * centre[0], centre[1], centre[2]), (radius,) * 3, T.AIR)
    for _ in range(25):
        d = R.randn(3)
        d *= R.uniform(0.5, 1.0) / np.linalg.norm(d)
        centre = np.array([57, -40, -48]) + d * np.array([11, 15, 19])
        _paint_ball(labels, points, (s * centre[0], centre[1], centre[2]), (R.uniform(0.8, 1.6),) * 3, T.MARROW)
    _paint_ball(labels, points, (s * 49.5, -23, -42), (3, 5, 6.5), T.AIR)  # tympanic cavity


def _outside(intracranial: np.ndarray, hull: np.ndarray, points: torch.Tensor) -> np.ndarray:
    """Tissue ids outside the dura: layers of skull and scalp, then face and skull base."""
    R = np.random.RandomState(152)
    skin = _head_distance(hull, points)
    x, y, z = (GRID.axis(n).reshape([-1 if m == n else 1 for m in range(3)]) for n in range(3))
    labels = np.full(GRID.shape, T.AIR, np.uint8)
    labels[skin < 0] = T.MUSCLE
    labels[skin < -2] = T.FAT
    patches = ndimage.gaussian_filter(R.randn(*GRID.shape).astype(np.float32), 5)
    deep = skin < -6 + 40 * patches
    labels[deep & (z < -30)] = T.MUSCLE
    strand = ndimage.gaussian_filter(R.randn(*GRID.shape).astype(np.float32), (4, 4, 7))
    labels[deep & (z < -30) & (strand > 0.014)] = T.FAT
    temporalis = (np.abs(x) > 48) & (y > -14) & (y < 46) & (z > -48) & (z < 22) & (skin < -4)
    labels[temporalis] = T.MUSCLE
    nuchal = (y < -60) & (z < -44) & (skin < -7)
    labels[nuchal] = T.MUSCLE
    _face_and_base(labels, points, R)
    vault = (hull > -3) | (intracranial < 12)
    bone = vault & (hull < 8.0 + 2.0 * (y < -80) + 1.0 * (y > 40)) & (intracranial < 9) & (z > -62)
    petrous = (hull < 3) & (z > -64) & (y < 0) & (y > -60)
    keep = np.isin(labels, (T.AIR,)) & (skin < -3) | np.isin(labels, (T.MARROW,))
    labels[(bone | petrous) & ~keep] = T.BONE
    diploe = (hull > 3.0) & (hull < 6.4) & (intracranial > 1.6) & (intracranial < 7) & (z > -40)
    spots = patches + 0.02 > 0
    labels[diploe & spots & (labels == T.BONE)] = T.MARROW
    apex = (np.abs(x) < 27) & (np.abs(x) > 9) & (y > -22) & (y < -2) & (z < -34) & (intracranial > 2.2)
    labels[apex & (labels == T.BONE) & (strand > -0.005)] = T.MARROW
    clivus = (np.abs(x) < 11) & (y > -14) & (y < 12) & (z < -34) & (z > -62) & (intracranial > 2)
    labels[clivus & (labels != T.AIR)] = T.MARROW
    labels[(intracranial < 0.9) & (labels != T.AIR)] = T.DURA
    return labels


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Build the atlas (about 15 s, then cached in the process); it is the same for every subject and seed."""
    maps = _load_maps()
    points = GRID.points()
    wm, gm = _sharpened_brain(maps)
    brain = maps["gm"] + maps["wm"]
    intracranial = _intracranial(brain, points)
    coarse = (brain > 0.4)[::2, ::2, ::2]
    big = np.pad(coarse, 12)
    hull = ndimage.distance_transform_edt(~big) < 11
    hull = ndimage.distance_transform_edt(hull) - 11
    outer = ndimage.distance_transform_edt(hull <= 0)
    hull = (np.where(hull > 0, -hull, outer) * 2)[12:-12, 12:-12, 12:-12]
    hull = ndimage.gaussian_filter(hull, 1.0)
    hull = _upsample(hull)
    brainstem = _brainstem_mask(brain)
    outside = _outside(intracranial, hull, points)
    inside = np.full(GRID.shape, T.CSF, np.uint8)
    for line, radius in _vessel_lines():
        for labels in (inside, outside):
            _paint_tube(labels, points, line, radius, T.VESSEL)
    for s in (1, -1):
        line = np.array([(s * 14, -24, -33), (s * 20, -8, -35), (s * 22, 0, -36)])
        _paint_tube(inside, points, line, 2.0, T.NERVE)  # trigeminal nerve
    return Atlas(
        wm=torch.from_numpy(wm),
        gm=torch.from_numpy(gm),
        intracranial=torch.from_numpy(intracranial),
        inside=inside,
        outside=outside,
        brainstem=torch.from_numpy(_distance(brainstem)),
        parcels=_parcels(brain, brainstem, intracranial < 0),
        texture=_texture(),
    )


def _texture() -> torch.Tensor:
    """Smooth noise on `GRID`; cubic B-splines have about a third of their nodes' standard deviation in 3D."""
    noise = smooth_noise(np.random.RandomState(9), GRID, 3.0)[0]
    return noise / noise.std()


def _upsample(half: np.ndarray) -> np.ndarray:
    """Linear interpolation from every second voxel to `GRID`."""
    volume = torch.from_numpy(half.astype(np.float32))[None, None]
    even = [2 * n - 1 for n in half.shape]
    out = torch.nn.functional.interpolate(volume, size=even, mode="trilinear", align_corners=True)[0, 0].numpy()
    return np.pad(out, [(0, n - m) for n, m in zip(GRID.shape, even, strict=True)], mode="edge")
