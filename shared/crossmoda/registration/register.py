"""Rigid and affine registration of a scan to a template or an atlas scan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from .metric import SampledMutualInformation
from .quality import Evidence, Limits, find_failure
from .search import rigid, search_pose
from .volumes import Volume, foreground

FIXED_SPACING, MOVING_SPACING = 2.0, 1.75  # mm of the copies that are registered
JUDGE_SPACING = 4.0  # mm between the samples on which the result is judged
# Poses to compare the result with: rotated by 8 degrees or shifted by 10 mm along each axis, both ways.
NEIGHBOURS = np.diag([8.0, 8.0, 8.0, 10.0, 10.0, 10.0])[[*range(6), *range(6)]] * np.repeat([1, -1], 6)[:, None]
KINDS, METRICS = ("rigid", "affine"), ("mi", "ncc")
SEARCH = "search"  # no backend: the search's pose as it is


@dataclass(frozen=True)
class Registration:
    """Result of a registration, JSON-ready by `to_dict`.

    Attributes:
        matrix: scan world to fixed world (RAS mm), 4x4 nested lists; the identity after a failure.
        kind: "rigid" or "affine".
        metric: "mi" or "ncc", what was optimised.
        backend: "elastix", "itk" or "search".
        information_before: mutual information with the fixed image in the header's pose, nats, on samples 4 mm apart.
        information_after: the same with the map found.
        information_around: the best at the poses that are 10 mm or 8 degrees away from it.
        rotation_degrees: rotation of the map found, away from the header's orientation.
        overlap: volume common to the fixed mask and the scan, as a share of the smaller of the two.
        failure: why the map found is not used; "" if it is used. (Not None: PyTorch cannot collate it.)
        rejected: the map found, if it is not used; else empty.
    """

    matrix: list[list[float]]
    kind: str
    metric: str
    backend: str
    information_before: float
    information_after: float
    information_around: float
    rotation_degrees: float
    overlap: float
    failure: str = ""
    rejected: list[list[float]] = field(default_factory=list)

    @classmethod
    def unused(cls, kind: str, metric: str, backend: str, failure: str = "") -> Registration:
        """The identity, with or without a reason."""
        return cls(np.eye(4).tolist(), kind, metric, backend, 0.0, 0.0, 0.0, 0.0, 0.0, failure)

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)


def register(
    moving: np.ndarray,
    moving_affine: np.ndarray,
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    fixed_mask: np.ndarray | None = None,
    kind: str = "rigid",
    metric: str = "mi",
    backend: str = "elastix",
    bins: int = 32,
    seed: int = 0,
    limits: Limits | None = None,
) -> Registration:
    """Register a scan.

    A search over thousands of poses on coarse samples gives the start (`search_pose`, always by mutual information),
    the backend refines it on copies of about 2 mm. A result that breaks a rule of `find_failure` is replaced by the
    identity and says why.

    Args:
        moving: scan, (X, Y, Z).
        moving_affine: its voxel-to-world matrix (RAS mm), 4x4.
        fixed: template or atlas scan, (X, Y, Z).
        fixed_affine: its voxel-to-world matrix.
        fixed_mask: bool, where the fixed image counts; None takes its foreground (`foreground`).
        kind: "rigid" (Li 2021) or "affine" (Han 2022).
        metric: "mi" for different contrasts, "ncc" for the same. (Han 2022's code takes ANTs' cross-correlation in
            neighbourhoods of radius 2 for the latter; elastix' and this one is over the whole mask.)
        backend: "elastix" or "itk"; "search" refines nothing: good to some mm, rigid, in half the time and without
            loading ITK.
        bins: histogram bins of "mi" (Han 2022: 128).
        seed: of the backend's random samples.
        limits: bounds of a plausible result.

    Returns:
        The map from scan to fixed world and how good it is.

    Raises:
        ValueError: unknown kind, metric or backend.
    """
    backends = _load_backends(backend)
    if kind not in KINDS or metric not in METRICS or (backend != SEARCH and backend not in backends):
        known = (KINDS, METRICS, (*backends, SEARCH))
        raise ValueError(f"kind {kind!r}, metric {metric!r}, backend {backend!r}: one of each of {known}")
    if backend == SEARCH and kind != "rigid":
        raise ValueError(f"the search alone is rigid, not {kind!r}")
    target = _fixed_volume(fixed, fixed_affine, fixed_mask)
    scan = Volume(np.asarray(moving, dtype=np.float32), np.asarray(moving_affine, float)).shrink(MOVING_SPACING)
    labels = {"kind": kind, "metric": metric, "backend": backend}
    if not np.isfinite(scan.values).all():
        return Registration.unused(**labels, failure="the scan holds NaN or infinite values")
    if np.ptp(np.percentile(scan.values, (1, 99))) <= 0:
        return Registration.unused(**labels, failure="the scan is blank")
    if target.mask is None or not target.mask.any():
        return Registration.unused(**labels, failure="the fixed image is blank")
    pose = search_pose(target, scan)
    if backend == SEARCH:
        return _judge(target, scan, np.linalg.inv(pose), labels, limits or Limits())
    copy = target.shrink(FIXED_SPACING)
    try:
        # Lay the scan on the fixed image as far as it is known, then let the backend find the rest. (For an affine map
        # a rigid stage in between would take a second and change 0.3 mm at most.)
        pose = pose @ backends[backend](copy, scan.moved(np.linalg.inv(pose)), kind, metric, bins, seed)
    except RuntimeError as error:
        return Registration.unused(**labels, failure=f"{backend} gave up: {_last_line(error)}")
    return _judge(target, scan, np.linalg.inv(pose), labels, limits or Limits())


def _load_backends(backend: str) -> dict:
    """The functions that refine, by name; none for the search alone, because ITK takes seconds to load."""
    if backend == SEARCH:
        return {}
    from .backends import BACKENDS

    return BACKENDS


def _fixed_volume(values: np.ndarray, affine: np.ndarray, mask: np.ndarray | None) -> Volume:
    volume = Volume(np.asarray(values, dtype=np.float32), np.asarray(affine, float), mask)
    if mask is not None:
        return volume
    small = volume.shrink(FIXED_SPACING)
    return Volume(small.values, small.affine, foreground(small.values))


def _judge(target: Volume, scan: Volume, matrix: np.ndarray, labels: dict, limits: Limits) -> Registration:
    metric = SampledMutualInformation(target.shrink(JUDGE_SPACING), scan.shrink(JUDGE_SPACING))
    found = np.linalg.inv(matrix)
    neighbours = rigid(NEIGHBOURS, target.points()[0].mean(1))
    (before, after, *around), (_, share, *_) = metric(np.stack([np.eye(4), found, *(found @ neighbours)]))
    voxels = target.values.size if target.mask is None else target.mask.sum()
    volume = voxels * np.prod(target.spacing)
    overlap = share * volume / min(volume, scan.values.size * np.prod(scan.spacing) * np.linalg.det(matrix[:3, :3]))
    evidence = Evidence(matrix, float(before), float(after), float(max(around)), float(overlap))
    failure = find_failure(evidence, limits)
    return Registration(
        **labels,
        matrix=(np.eye(4) if failure else matrix).tolist(),
        information_before=round(evidence.before, 5),
        information_after=round(evidence.after, 5),
        information_around=round(evidence.around, 5),
        rotation_degrees=round(evidence.rotation_degrees, 4),
        overlap=round(evidence.overlap, 4),
        failure=failure,
        rejected=matrix.tolist() if failure else [],
    )


def _last_line(error: Exception) -> str:
    """The last line that says something; itk's messages begin with file names and blank lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
