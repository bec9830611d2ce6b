"""Search for a starting pose: many candidates on coarse samples, the best improved step by step.

A registration that follows the metric's slope needs a start within some 10 mm and 10 degrees. Scanner coordinates are
not MNI coordinates, a slab's centre is not the head's, and a patient may lie with the chin down; hence the start is
searched for from everywhere. No random numbers are used.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from .metric import SampledMutualInformation
from .volumes import Volume, foreground

COARSE, FINE = 8.0, 4.0  # mm between sample points
PITCH, TURN = (-18.0, 0.0, 18.0), (-14.0, 0.0, 14.0)  # degrees
HEADER_STEPS = (-24.0, -12.0, 0.0, 12.0, 24.0)  # mm around the pose that the header gives
LATTICE = 12.0  # mm between the places where the moving image's centre is tried
KEEP_COARSE, KEEP_FINE = 20, 4
# Few bins at first: the fewer, the less a thin slab's score far from the right pose is noise, and the farther one sees.
BINS_COARSE, BINS_FINE = 10, 24

Score = Callable[[np.ndarray], np.ndarray]


def rigid(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rigid maps from rotations about a centre and shifts.

    Args:
        parameters: (K, 6): rotation vectors in degrees, shifts in mm.
        centre: point about which to rotate, (3,).

    Returns:
        (K, 4, 4).
    """
    vectors = np.deg2rad(parameters[:, :3])
    angles = np.linalg.norm(vectors, axis=1)
    axes = vectors / np.maximum(angles, 1e-12)[:, None]
    zero = np.zeros(len(axes))
    cross = np.array(
        [[zero, -axes[:, 2], axes[:, 1]], [axes[:, 2], zero, -axes[:, 0]], [-axes[:, 1], axes[:, 0], zero]]
    ).transpose(2, 0, 1)
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    out = np.tile(np.eye(4), (len(parameters), 1, 1))
    out[:, :3, :3] += sine * cross + (1 - cosine) * (cross @ cross)
    out[:, :3, 3] = centre + parameters[:, 3:] - out[:, :3, :3] @ centre
    return out


def search_pose(fixed: Volume, moving: Volume) -> np.ndarray:
    """Find the rigid pose (fixed world to moving world) of largest overlap-weighted mutual information.

    Args:
        fixed: with its mask.
        moving: scan.

    Returns:
        4x4; the identity if nothing overlaps.
    """
    low = SampledMutualInformation(fixed.shrink(COARSE), moving.shrink(FINE), BINS_COARSE)
    centre = fixed.points()[0].mean(1)
    starts = np.concatenate([header_candidates(), centre_candidates(fixed, moving, centre)])
    score = _scorer(low, centre)
    best = _distinct(starts, score(starts), KEEP_COARSE)
    best = _climb(best, score, step=8.0, halvings=3)
    high = _scorer(SampledMutualInformation(fixed.shrink(FINE), moving.shrink(FINE), BINS_FINE), centre)
    best = _distinct(best, high(best), KEEP_FINE)
    best = _climb(best, high, step=2.0, halvings=2)
    return rigid(best[high(best).argmax()][None], centre)[0]


def header_candidates() -> np.ndarray:
    """Poses around the header's own, (K, 6)."""
    shifts = product(HEADER_STEPS, repeat=3)
    return np.array([(pitch, 0, 0, *shift) for shift in shifts for pitch in PITCH])


def centre_candidates(fixed: Volume, moving: Volume, centre: np.ndarray) -> np.ndarray:
    """Poses that bring the middle of the moving image's tissue to each point of a lattice in the fixed mask, (K, 6)."""
    small = moving.shrink(FINE)
    tissue = foreground(small.values)
    if not tissue.any():
        return np.empty((0, 6))
    middle = Volume(small.values, small.affine, tissue).points()[0].mean(1)
    points = fixed.shrink(COARSE).points()[0]
    low, high = points.min(1), points.max(1)
    inner = 0.2 * (high - low)  # the middle of a head or slab is not at the brain's rim
    axes = [np.arange(a, b + 1e-6, LATTICE) for a, b in zip(low + inner, high - inner, strict=True)]
    mid = (low[0] + high[0]) / 2
    axes[0] = np.array([mid - LATTICE, mid, mid + LATTICE])  # heads lie near the middle from left to right
    places = np.array(list(product(*axes)))
    out = []
    for pitch, turn in product(PITCH, TURN):
        turned = np.array([[pitch, 0, turn, 0, 0, 0]], dtype=float)
        maps = rigid(turned, centre)[0]
        moved = places @ maps[:3, :3].T + maps[:3, 3]
        out.append(np.column_stack([np.repeat(turned[:, :3], len(places), 0), middle - moved]))
    return np.concatenate(out)


def _scorer(metric: SampledMutualInformation, centre: np.ndarray) -> Score:
    """Mutual information times the square root of the overlap: a slab's edge must not win by a few samples."""

    def score(parameters: np.ndarray) -> np.ndarray:
        information, overlap = metric(rigid(parameters, centre))
        return information * np.sqrt(overlap)

    return score


def _distinct(poses: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """The best poses that differ by more than 6 mm or degrees in some parameter."""
    chosen: list[np.ndarray] = []
    for pose in poses[np.argsort(-scores, kind="stable")]:
        if all(np.abs(pose - other).max() > 6 for other in chosen):
            chosen.append(pose)
        if len(chosen) == count:
            break
    return np.array(chosen)


def _climb(poses: np.ndarray, score: Score, step: float, halvings: int) -> np.ndarray:
    """Pattern search of all poses at once; `step` is in mm and degrees (1 degree is about 1.5 mm at 80 mm)."""
    directions = np.concatenate([np.eye(6), -np.eye(6)])
    poses, values = poses.copy(), score(poses)
    for _ in range(halvings + 1):
        active = np.arange(len(poses))  # a pose that no step has improved stays where it is until the steps are halved
        for _ in range(6):
            trial = poses[active, None] + step * directions
            trials = score(trial.reshape(-1, 6)).reshape(len(active), -1)
            better = trials.max(1) > values[active]
            poses[active[better]] = trial[better, trials[better].argmax(1)]
            values[active[better]] = trials[better].max(1)
            active = active[better]
            if not len(active):
                break
        step /= 2
    return poses
