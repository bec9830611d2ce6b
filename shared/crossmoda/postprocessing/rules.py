"""Rules that clean a label map by what is known of the anatomy: which connected components can be VS or cochlea."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from monai.transforms import KeepLargestConnectedComponent
from scipy import ndimage

from crossmoda.errors import InputError
from crossmoda.labels import COCHLEA, VS

# Han 2022, code: 20 slices of 1 mm.
NEAR_COCHLEA_MM = 20.0
# MedICL 2021: 15 slices; open: taken to be those of Li 2021, 3.3, 1.508 mm.
ABOVE_COCHLEA_MM = 15 * 1.508

_FULL = np.ones((3, 3, 3), dtype=bool)  # corners touch, as in MONAI's components and in Han's code


@dataclass(frozen=True)
class Classes:
    """Which class numbers of a label map are tumour (its parts together) and which is cochlea."""

    tumour: tuple[int, ...] = (VS,)
    cochlea: int = COCHLEA


Rule = Callable[[np.ndarray, np.ndarray, Classes], np.ndarray]


def largest_vs(labels: np.ndarray, affine: np.ndarray, classes: Classes) -> np.ndarray:
    """Keep the largest tumour component (Li 2021, 3.3); MONAI's `KeepLargestConnectedComponent`.

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        classes: tumour and cochlea.

    Returns:
        The cleaned label map.
    """
    keep = KeepLargestConnectedComponent(classes.tumour, is_onehot=False, independent=False)
    return np.asarray(keep(labels[None])[0])


def vs_near_cochlea(labels: np.ndarray, affine: np.ndarray, classes: Classes) -> np.ndarray:
    """Of several tumour components keep the largest that lies level with a cochlea (Han 2022, code).

    A component is level if its mean slice is less than max(20 mm, distance between the lowest and the highest cochlea
    component) from the lowest or the highest cochlea component. If none is, no tumour is left. A single component
    stays, and without a cochlea (open; their code fails) the largest does. Their slices are 1 mm thick, so that
    distances are in mm here.

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        classes: tumour and cochlea.

    Returns:
        The cleaned label map.
    """
    components, count = _components(np.isin(labels, classes.tumour))
    if count < 2:
        return labels.copy()
    height = _heights(components, count, affine)
    cochleae, cochlea_count = _components(labels == classes.cochlea)
    level = np.ones(count, dtype=bool)
    if cochlea_count:
        cochlea_height = _heights(cochleae, cochlea_count, affine)
        low, high = cochlea_height.min(), cochlea_height.max()
        reach = max(high - low, NEAR_COCHLEA_MM)
        level = (np.abs(height - low) < reach) | (np.abs(height - high) < reach)
    sizes = np.where(level, _sizes(components, count), 0)
    kept = [int(sizes.argmax()) + 1] if level.any() else []
    return _keep(labels, components, kept)


def vs_not_above_cochlea(labels: np.ndarray, affine: np.ndarray, classes: Classes) -> np.ndarray:
    """Drop tumour components far above the cochlea, and keep the largest of the others on each side (MedICL 2021).

    Far is a centre more than 15 slices above the centre of the cochlea label. Without a cochlea nothing is too high.

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        classes: tumour and cochlea.

    Returns:
        The cleaned label map.
    """
    components, count = _components(np.isin(labels, classes.tumour))
    if count == 0:
        return labels.copy()
    candidates = np.ones(count, dtype=bool)
    cochlea = labels == classes.cochlea
    if cochlea.any():
        cochlea_height = _heights(cochlea.astype(np.int32), 1, affine)[0]
        candidates = _heights(components, count, affine) - cochlea_height <= ABOVE_COCHLEA_MM
    return _keep(labels, components, _largest_per_side(components, count, affine, candidates))


def largest_cochlea_per_side(labels: np.ndarray, affine: np.ndarray, classes: Classes) -> np.ndarray:
    """Keep the largest cochlea component on each side of the scan's middle (ours; open).

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        classes: tumour and cochlea.

    Returns:
        The cleaned label map.
    """
    components, count = _components(labels == classes.cochlea)
    kept = _largest_per_side(components, count, affine, np.ones(count, dtype=bool))
    return _keep(labels, components, kept)


RULES: dict[str, Rule] = {
    "largest_vs": largest_vs,
    "vs_near_cochlea": vs_near_cochlea,
    "vs_not_above_cochlea": vs_not_above_cochlea,
    "largest_cochlea_per_side": largest_cochlea_per_side,
}


def apply_rules(labels: np.ndarray, affine: np.ndarray, rules: Sequence[str], classes: Classes) -> np.ndarray:
    """Apply rules one after the other.

    Args:
        labels: label map, shape (X, Y, Z).
        affine: 4 x 4, voxel indices to mm (RAS).
        rules: names in `RULES`.
        classes: tumour and cochlea.

    Returns:
        The cleaned label map, of the same dtype.

    Raises:
        InputError: if a rule is not known.
    """
    check_rules(rules)
    cleaned = labels
    for name in rules:
        cleaned = RULES[name](cleaned, affine, classes)
    return cleaned.astype(labels.dtype)


def check_rules(rules: Sequence[str]) -> None:
    """Raise `InputError` if one of the names is not in `RULES`."""
    unknown = [name for name in rules if name not in RULES]
    if unknown:
        raise InputError(f"there is no post-processing rule '{unknown[0]}': name some of {', '.join(RULES)}")


def world_axis(affine: np.ndarray, axis: int) -> tuple[int, float]:
    """The array axis that runs most along a world axis (0 left-right, 1 posterior-anterior, 2 inferior-superior).

    Args:
        affine: 4 x 4, voxel indices to mm (RAS).
        axis: world axis.

    Returns:
        The array axis, and mm per voxel along it: negative if it runs against the world axis.
    """
    orientation = nib.io_orientation(affine)
    array_axis = int(np.flatnonzero(orientation[:, 0] == axis)[0])
    step = float(np.linalg.norm(affine[:3, array_axis]))
    return array_axis, step * float(orientation[array_axis, 1])


def side_of_middle(centres: np.ndarray, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """On which side of the scan's middle plane points lie (open: the scan's middle stands for the head's).

    Args:
        centres: array coordinates, shape (N, 3).
        affine: 4 x 4, voxel indices to mm (RAS).
        shape: of the volume.

    Returns:
        bool, shape (N,): True on the right.
    """
    axis, step = world_axis(affine, 0)
    return (np.asarray(centres).reshape(-1, 3)[:, axis] - (shape[axis] - 1) / 2) * step > 0


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, structure=_FULL)


def _sizes(components: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(components.ravel(), minlength=count + 1)[1:]


def _centres(components: np.ndarray, count: int) -> np.ndarray:
    return np.array(ndimage.center_of_mass(components > 0, components, range(1, count + 1))).reshape(-1, 3)


def _heights(components: np.ndarray, count: int, affine: np.ndarray) -> np.ndarray:
    """Mean slice of each component, in mm upwards."""
    axis, step = world_axis(affine, 2)
    return _centres(components, count)[:, axis] * step


def _largest_per_side(components: np.ndarray, count: int, affine: np.ndarray, candidates: np.ndarray) -> list[int]:
    if count == 0:
        return []
    right = side_of_middle(_centres(components, count), affine, components.shape)
    sizes = _sizes(components, count)
    groups = [np.flatnonzero(candidates & (right == side)) for side in (False, True)]
    return [int(group[sizes[group].argmax()]) + 1 for group in groups if group.size]


def _keep(labels: np.ndarray, components: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """Everything but the components that are not in `kept`."""
    cleaned = labels.copy()
    cleaned[(components > 0) & ~np.isin(components, kept)] = 0
    return cleaned
