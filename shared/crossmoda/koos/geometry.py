"""What a Koos grade is about, measured on label maps: how large the tumour is, and how it lies to the brainstem.

The grades as geometry (methods of crossMoDA 2022): 1 lies in the canal alone; 2 reaches the cerebello-pontine cistern;
3 touches the brainstem; 4 displaces it. The 2022 task's winner graded by such features and a random forest (volume,
distances to parts of brainstem and cerebellum, contact surface); here each is a number that one can check on the scan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from monai.transforms.utils import get_largest_connected_component_mask
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

FEATURES = {
    "volume_ml": "volume of the tumour, mL",
    "extra_meatal_share": "share of the tumour outside the canal, 0 to 1",
    "extra_meatal_extent_mm": "how far the tumour reaches out of the canal, mm",
    "brainstem_distance_mm": "from tumour to brainstem, mm",
    "brainstem_contact_mm2": "surface of the tumour at the brainstem, mm2",
    "cerebellum_distance_mm": "from tumour to cerebellum, mm",
    "cerebellum_contact_mm2": "surface of the tumour at the cerebellum, mm2",
    "brainstem_dent_mm": "how far the surface at the brainstem is from flat (root mean square), mm",
    "brainstem_shift_mm": "brainstem at the tumour's level, from the midplane away from the tumour, mm",
}
STRUCTURES = ("VS", "cochlea", "brainstem", "cerebellum")
EXTRA_MEATAL = "extra_meatal"

MIN_EAR_GAP = 30.0  # mm between the cochleae of both sides at least; they lie 70 to 80 mm apart (methods A.3)


@dataclass(frozen=True)
class GeometrySettings:
    """How the features are measured.

    Attributes:
        canal_mm: length from the cochlea's centre to where the canal opens.
        contact_mm: surface of the tumour this near to a structure touches it.
        nearest_mm2: a distance is that within which so much of the tumour's surface lies; a single stray voxel of a
            predicted mask then does not make contact.
        min_structure_ml: less of a brainstem or cerebellum than this counts as missing.
    """

    canal_mm: float = 14.0
    contact_mm: float = 2.0
    nearest_mm2: float = 10.0
    min_structure_ml: float = 0.5


@dataclass(frozen=True)
class Surface:
    """Triangles of a mask's surface.

    Attributes:
        centres: (N, 3), mm.
        areas: (N,), mm2.
        vertices: (M, 3), mm.
    """

    centres: np.ndarray
    areas: np.ndarray
    vertices: np.ndarray


def masks_by_name(
    volumes: Mapping[str, np.ndarray], classes: Mapping[str, tuple[str, Collection[int]]]
) -> dict[str, np.ndarray]:
    """Masks of named structures from label maps.

    Args:
        volumes: label maps (X, Y, Z) by a name of their own, e.g. `mask` and `parcellation`.
        classes: for each structure the label map and its classes there. Where the tumour is, no other structure is: a
            parcellation made without knowledge of the tumour overlaps it.

    Returns:
        Masks (X, Y, Z) of the structures whose label map is there.
    """
    masks = {name: np.isin(volumes[volume], list(ids)) for name, (volume, ids) in classes.items() if volume in volumes}
    for name, mask in masks.items():
        if name not in ("VS", EXTRA_MEATAL):
            mask &= ~masks["VS"]
    for name in ("VS", "brainstem", "cerebellum"):
        if name in masks and masks[name].any():
            masks[name] = get_largest_connected_component_mask(masks[name])
    return masks


def geometric_features(
    masks: Mapping[str, np.ndarray], affine: np.ndarray, settings: GeometrySettings | None = None
) -> dict[str, float]:
    """Measure `FEATURES` of one case.

    Args:
        masks: (X, Y, Z) by name: `VS`, not empty, and as far as they are there `cochlea`, `brainstem`, `cerebellum`,
            and `extra_meatal`, the part of the tumour outside the canal where the label has parts; without that the
            canal ends `canal_mm` from the cochlea's centre in the direction of the brainstem.
        affine: 4 x 4, voxel indices to mm (RAS).
        settings: None takes the defaults.

    Returns:
        A number for each of `FEATURES`, NaN for what needs a structure that is missing.

    Raises:
        ValueError: if there is no tumour.
    """
    settings = settings or GeometrySettings()
    if not masks["VS"].any():
        raise ValueError("there is no tumour to measure")
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    points = {name: _points(mask, affine) for name, mask in masks.items()}
    for name in ("brainstem", "cerebellum"):
        if len(points.get(name, ())) * voxel_ml < settings.min_structure_ml:
            points.pop(name, None)
    tumour = points["VS"]
    same_side, other_side = ear_centres(points.get("cochlea", np.empty((0, 3))), tumour)
    features = dict.fromkeys(FEATURES, np.nan) | {"volume_ml": len(tumour) * voxel_ml}
    features |= _outside_canal(points, same_side, other_side, settings.canal_mm)
    surface = mask_surface(masks["VS"], affine)
    for name in ("brainstem", "cerebellum"):
        if name in points:
            distances = surface_distances(surface, mask_surface(masks[name], affine))
            contact = distances <= settings.contact_mm
            features[f"{name}_distance_mm"] = nearest_distance(distances, surface.areas, settings.nearest_mm2)
            features[f"{name}_contact_mm2"] = surface.areas[contact].sum()
            if name == "brainstem":
                features["brainstem_dent_mm"] = _dent(surface.centres[contact], surface.areas[contact])
    if "brainstem" in points and same_side is not None and other_side is not None:
        features["brainstem_shift_mm"] = _shift(points["brainstem"], tumour, same_side, other_side)
    return {name: float(value) for name, value in features.items()}


def ear_centres(cochlea: np.ndarray, tumour: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Centres of the cochlea on the tumour's side and on the other one.

    Args:
        cochlea: points (N, 3) of both cochleae, RAS, mm.
        tumour: points (M, 3).

    Returns:
        The median point of either side; None for a side without any. If there is one cochlea only, it is of the
        tumour's side if it lies within `MIN_EAR_GAP` of the tumour in left-right direction.
    """
    if not len(cochlea):
        return None, None
    x = np.sort(cochlea[:, 0])
    gaps = np.diff(x, append=x[-1])
    border = x[gaps.argmax()] + gaps.max() / 2 if gaps.max() >= MIN_EAR_GAP else np.inf
    sides = [cochlea[cochlea[:, 0] <= border], cochlea[cochlea[:, 0] > border]]
    centres = [np.median(side, axis=0) for side in sides if len(side)]
    away = [abs(centre[0] - np.median(tumour[:, 0])) for centre in centres]
    if len(centres) == 1:
        return (centres[0], None) if away[0] < MIN_EAR_GAP else (None, centres[0])
    return (centres[0], centres[1]) if away[0] <= away[1] else (centres[1], centres[0])


def mask_surface(mask: np.ndarray, affine: np.ndarray) -> Surface:
    """Surface of a mask by marching cubes, half-way between voxels inside and outside.

    Its area is exact for planes along the grid and up to about a tenth too large for oblique and round ones.

    Args:
        mask: (X, Y, Z), not empty; its surface is closed at the volume's faces.
        affine: 4 x 4, voxel indices to mm.
    """
    low = [indices.min() for indices in np.nonzero(mask)]
    high = [indices.max() + 1 for indices in np.nonzero(mask)]
    box = np.pad(mask[tuple(slice(*ends) for ends in zip(low, high, strict=True))], 1)
    vertices, faces, _, _ = marching_cubes(box.astype(np.float32), 0.5)
    vertices = (vertices + np.array(low) - 1) @ affine[:3, :3].T + affine[:3, 3]
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    return Surface(corners.mean(axis=1), areas, vertices)


def surface_distances(surface: Surface, other: Surface) -> np.ndarray:
    """Distance of each triangle of a surface to another surface, (N,), mm, to within a part of a voxel."""
    return KDTree(np.concatenate([other.centres, other.vertices])).query(surface.centres)[0]


def nearest_distance(distances: np.ndarray, areas: np.ndarray, nearest_mm2: float) -> float:
    """Distance within which `nearest_mm2` of the surface lie, or all of a smaller one.

    Args:
        distances: of the triangles, mm.
        areas: of the triangles, mm2.
        nearest_mm2: see `GeometrySettings`.
    """
    order = distances.argsort()
    reached = np.searchsorted(areas[order].cumsum(), nearest_mm2)
    return float(distances[order[min(reached, len(order) - 1)]])


def _points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Centres of a mask's voxels, (N, 3), mm."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


def _outside_canal(
    points: Mapping[str, np.ndarray], same_side: np.ndarray | None, other_side: np.ndarray | None, canal_mm: float
) -> dict[str, float]:
    """Share and reach of the tumour outside the canal; NaN where the canal's place is not known."""
    tumour = points["VS"]
    share = len(points[EXTRA_MEATAL]) / len(tumour) if EXTRA_MEATAL in points else np.nan
    towards = _way_from_ear(points, same_side, other_side)
    if towards is None:
        return {"extra_meatal_share": share}
    depth = (tumour - same_side) @ towards - canal_mm
    if EXTRA_MEATAL not in points:
        share = (depth > 0).mean()
    # A twentieth of the tumour may lie beyond: its last voxels are the least certain ones.
    return {"extra_meatal_share": share, "extra_meatal_extent_mm": max(0.0, np.percentile(depth, 95))}


def _way_from_ear(
    points: Mapping[str, np.ndarray], same_side: np.ndarray | None, other_side: np.ndarray | None
) -> np.ndarray | None:
    """Unit vector from the cochlea to the brainstem at its level, or to the other ear if there is no brainstem."""
    if same_side is None:
        return None
    brainstem = points.get("brainstem", np.empty((0, 3)))
    level = brainstem[np.abs(brainstem[:, 2] - same_side[2]) < 10.0]  # mm; the pons is about 25 mm high
    goal = level.mean(axis=0) if len(level) else other_side
    if goal is None:
        return None
    return (goal - same_side) / np.linalg.norm(goal - same_side)


def _shift(brainstem: np.ndarray, tumour: np.ndarray, same_side: np.ndarray, other_side: np.ndarray) -> float:
    """Mean distance of the brainstem at the tumour's level from the plane half-way between the ears."""
    low, high = np.percentile(tumour[:, 2], [10, 90])
    level = brainstem[(brainstem[:, 2] >= low) & (brainstem[:, 2] <= high)]
    if not len(level):
        return np.nan
    away = (other_side - same_side) / np.linalg.norm(other_side - same_side)
    return float(((level - (same_side + other_side) / 2) @ away).mean())


def _dent(centres: np.ndarray, areas: np.ndarray) -> float:
    """Root mean square distance of a surface from the plane that fits it best; 0 if there is none."""
    if not len(centres):
        return 0.0
    away = centres - np.average(centres, axis=0, weights=areas)
    spread = np.linalg.eigvalsh(away.T @ (away * areas[:, None]) / areas.sum())
    return float(np.sqrt(max(spread[0], 0.0)))
