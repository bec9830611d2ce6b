"""Numbers that tell a plausible label map from another: its anatomy in mm, and how it fits the scan's contrast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage, stats
from scipy.spatial import KDTree

from crossmoda.labels import CLASS_NAMES, COCHLEA, VS
from crossmoda.postprocessing import Classes
from crossmoda.selftraining.evidence import merge_parts
from crossmoda.selftraining.regions import distances_around

# open: smaller components than this share of the class's largest are specks that cleaning removes, not anatomy.
SPECK_SHARE = 0.1
# open: the ring with which the cochlea is compared: the otic capsule's bone is 2-3 mm thick.
RING_MM = 2.0
# open: neighbourhood of the tumour: reaches from the canal (4.5 mm high, methods A.3) into bone, CSF and brain.
VICINITY_MM = 6.0

_FULL = np.ones((3, 3, 3), dtype=bool)  # corners touch, as in crossmoda.postprocessing

Numbers = dict[str, float | None]


def measure_anatomy(labels: np.ndarray, affine: np.ndarray, classes: Classes) -> Numbers:
    """Volumes, components and distances of a label map.

    Args:
        labels: label map, shape (X, Y, Z), uint8.
        affine: 4 x 4, voxel indices to mm.
        classes: which classes are tumour (measured as one) and cochlea.

    Returns:
        `volume_VS`, `volume_cochlea` (mm3, both sides together), `components_VS`, `components_cochlea` (without
        specks), `distance_VS_cochlea` (mm between the nearest voxels), `distance_cochleae` (mm between the centres of
        the two largest cochlea components). A distance is None if one of its ends is missing.
    """
    merged = merge_parts(labels, classes)
    voxel_mm3 = float(np.prod(voxel_sizes(affine)))
    numbers: Numbers = {}
    components = {}
    for label in (VS, COCHLEA):
        name = CLASS_NAMES[label]
        components[label] = _components(merged == label)
        numbers[f"volume_{name}"] = float(np.count_nonzero(merged == label)) * voxel_mm3
        numbers[f"components_{name}"] = len(components[label])
    points = {label: [apply_affine(affine, part) for part in parts] for label, parts in components.items()}
    numbers["distance_VS_cochlea"] = _nearest(points[VS], points[COCHLEA])
    centres = [part.mean(axis=0) for part in points[COCHLEA][:2]]
    numbers["distance_cochleae"] = float(np.linalg.norm(centres[0] - centres[1])) if len(centres) == 2 else None
    return numbers


def measure_contrast(image: np.ndarray, labels: np.ndarray, spacing: Sequence[float], classes: Classes) -> Numbers:
    """How well a label map fits an hrT2 scan (ours); the numbers are free of the scan's scale.

    - `contrast_cochlea`: Cliff's delta between cochlea and the ring of 2 mm around it (other labels left out):
      P(in > out) - P(in < out), in [-1, 1]. The cochlea's fluid is brighter than the bone around it.
    - `heterogeneity_VS`: standard deviation in the tumour divided by the one in the tumour and 6 mm around it. A tumour
      is more uniform than fluid, bone and brain together.
    - `brightness_VS`: Cliff's delta between tumour and cochlea. A tumour is darker than fluid (unless it is cystic);
      CSF taken for a tumour is uniform too, but as bright as the cochlea.

    The tumour's brightness against its ring tells nothing: CSF on one side of it is brighter, bone on another darker.
    On phantom truth, labels mirrored at the volume's or the head's middle differ clearly from right ones in the first
    two.

    Args:
        image: shape (X, Y, Z); voxels that are not finite are left out.
        labels: label map of the same shape.
        spacing: voxel edges in mm.
        classes: which classes are tumour (taken as one) and cochlea.

    Returns:
        The numbers; None if there is no such class, no surroundings, or no contrast at all in them.
    """
    merged = merge_parts(labels, classes)
    cochlea, vs = merged == COCHLEA, merged == VS
    numbers: Numbers = {"contrast_cochlea": None, "heterogeneity_VS": None, "brightness_VS": None}
    if cochlea.any():
        box, distance = distances_around(cochlea, spacing, RING_MM)
        values = image[box]
        ring = (merged[box] == 0) & (distance <= RING_MM)
        numbers["contrast_cochlea"] = cliffs_delta(_finite(values[cochlea[box]]), _finite(values[ring]))
    if vs.any():
        box, distance = distances_around(vs, spacing, VICINITY_MM)
        values = image[box]
        inside, around = _finite(values[vs[box]]), _finite(values[distance <= VICINITY_MM])
        if inside.size and around.std() > 0:
            numbers["heterogeneity_VS"] = float(inside.std() / around.std())
        numbers["brightness_VS"] = cliffs_delta(inside, _finite(image[cochlea]))
    return numbers


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> float | None:
    """P(first > second) - P(first < second) over all pairs (Cliff 1993), by ranks.

    Args:
        first: values, shape (N,).
        second: values, shape (M,).

    Returns:
        In [-1, 1], 0 if they are alike; None if one of them is empty.
    """
    if not first.size or not second.size:
        return None
    ranks = stats.rankdata(np.concatenate([first, second]))
    greater = ranks[: first.size].sum() - first.size * (first.size + 1) / 2
    return float(2 * greater / (first.size * second.size) - 1)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)].astype(np.float64)


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """Voxel indices of each component that is not a speck, the largest first."""
    components, count = ndimage.label(mask, structure=_FULL)
    if count == 0:
        return []
    indices = np.argwhere(mask)
    numbers = components[mask]
    sizes = np.bincount(numbers, minlength=count + 1)[1:]
    largest_first = np.argsort(-sizes, kind="stable")
    return [indices[numbers == one + 1] for one in largest_first if sizes[one] >= SPECK_SHARE * sizes.max()]


def _nearest(first: list[np.ndarray], second: list[np.ndarray]) -> float | None:
    if not first or not second:
        return None
    distances, _ = KDTree(np.concatenate(second)).query(np.concatenate(first))
    return float(distances.min())
