"""When a registration is not to be trusted: the rules, and the numbers they look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Limits:
    """Bounds of a plausible registration.

    Attributes:
        rotation: largest rotation away from the header's orientation, degrees.
        overlap: smallest share of the fixed mask, or of the scan if that is smaller, that the two have in common.
        information: smallest mutual information in nats (`SampledMutualInformation`); unrelated images have about 0.
        peak: smallest ratio of the mutual information to the best one at poses 10 mm or 8 degrees away: a pose that
            follows from the anatomy is far better than its neighbours, one that fits an outline is not.
        scale: largest factor along an axis of an affine map, or one over the smallest.
        shear: largest deviation from a right angle of an affine map's axes, degrees.
        drop: share of the metric before that may get lost; the search and the backend measure it in other ways.
    """

    rotation: float = 30.0
    overlap: float = 0.1
    information: float = 0.1
    peak: float = 1.15
    scale: float = 1.3
    shear: float = 15.0
    drop: float = 0.02


@dataclass(frozen=True)
class Evidence:
    """What is known of a registration.

    Attributes:
        matrix: scan world to fixed world, 4x4.
        before: mutual information in the header's pose, nats.
        after: the same in the pose found.
        around: the best of the poses 10 mm or 8 degrees away from it.
        overlap: see `Limits`.
    """

    matrix: np.ndarray
    before: float
    after: float
    around: float
    overlap: float

    @property
    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and stretch of the map's linear part (polar decomposition, linear part = rotation @ stretch)."""
        u, s, vt = np.linalg.svd(self.matrix[:3, :3])
        return u @ vt, vt.T @ np.diag(s) @ vt

    @property
    def rotation_degrees(self) -> float:
        """Angle of the rotation."""
        rotation = self._factors[0]
        if np.linalg.det(rotation) < 0:
            return 180.0
        return float(np.rad2deg(Rotation.from_matrix(rotation).magnitude()))

    @property
    def scales(self) -> np.ndarray:
        """Principal stretches, ascending; 1 for a rigid map."""
        return np.linalg.svd(self.matrix[:3, :3], compute_uv=False)[::-1]

    @property
    def shear_degrees(self) -> float:
        """Largest deviation from 90 degrees between the images of the axes."""
        axes = self.matrix[:3, :3] / np.linalg.norm(self.matrix[:3, :3], axis=0)
        cosines = np.abs((axes.T @ axes)[np.triu_indices(3, 1)])
        return float(np.rad2deg(np.arcsin(np.clip(cosines, 0, 1))).max())


def find_failure(evidence: Evidence, limits: Limits) -> str:
    """Apply the rules.

    Args:
        evidence: of the registration.
        limits: bounds.

    Returns:
        What is wrong, all of it in one line, or "".
    """
    faults = []
    if (
        not np.isfinite(evidence.matrix).all()
        or not np.isfinite([evidence.before, evidence.after, evidence.around]).all()
    ):
        return "the registration gave no finite numbers"
    if evidence.overlap < limits.overlap:
        faults.append(f"little overlap ({evidence.overlap:.2f}, at least {limits.overlap:g} wanted)")
    if evidence.after < limits.information:
        faults.append(f"too little in common ({evidence.after:.3f} nats, at least {limits.information:g} wanted)")
    elif evidence.after < limits.peak * evidence.around:
        faults.append(f"no clear optimum ({evidence.after:.3f} nats, {evidence.around:.3f} some 10 mm away)")
    if evidence.after < evidence.before * (1 - limits.drop):
        faults.append(f"metric worse than before ({evidence.after:.3f} after, {evidence.before:.3f} nats before)")
    if evidence.rotation_degrees > limits.rotation:
        faults.append(f"rotation of {evidence.rotation_degrees:.0f} degrees (at most {limits.rotation:g})")
    low, high = evidence.scales[[0, -1]]
    if high > limits.scale or low < 1 / limits.scale:
        faults.append(f"implausible scale ({low:.2f} to {high:.2f}, at most a factor of {limits.scale:g})")
    if evidence.shear_degrees > limits.shear:
        faults.append(f"implausible shear ({evidence.shear_degrees:.0f} degrees, at most {limits.shear:g})")
    return "; ".join(faults)
