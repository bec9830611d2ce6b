"""What the training data looked like, and how far a scan lies from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import write_text
from crossmoda.errors import InputError, exit_on_input_error

QUANTILES = (1, 25, 50, 75, 99)  # percent
MAX_SAMPLES = 1_000_000  # voxels that the quantiles and the noise are taken of
MIN_CASES = 5  # fewer say nothing of a spread
SPREAD_FLOOR = 0.05  # of the median: sites share protocols, so that many features do not spread at all
VOLUME_FLOOR_ML = 0.01  # about ten voxels; empty predictions have a logarithm too

Features = dict[str, float]

logger = logging.getLogger(__name__)


def scan_features(image: np.ndarray, spacing: Sequence[float], shape: Sequence[int]) -> Features:
    """Simple features of one scan.

    Args:
        image: the scan as the network sees it, shape (X, Y, Z); voxels at its least value (empty background) or at
            that of its last corner (padding, which is 0 amid z-scores) are left out.
        spacing: voxel edges of the raw scan in mm, along x, y and z (RAS).
        shape: voxels of the raw scan along these.

    Returns:
        spacing and extent in mm, quantiles of the intensity, and the noise: the standard deviation that white noise
        would have, from the median absolute second difference along x.
    """
    features = {f"spacing_{axis}_mm": float(edge) for axis, edge in zip("xyz", spacing, strict=True)}
    for axis, edge, size in zip("xyz", spacing, shape, strict=True):
        features[f"extent_{axis}_mm"] = float(edge) * int(size)
    inside = (image > image.min()) & (image != image[-1, -1, -1])
    values = image[inside] if inside.any() else image.ravel()
    for percent, value in zip(QUANTILES, np.percentile(_sample(values), QUANTILES), strict=True):
        features[f"intensity_p{percent:02d}"] = float(value)
    second = image[2:] - 2 * image[1:-1] + image[:-2]
    within = _sample(second[inside[2:] & inside[1:-1] & inside[:-2]])
    features["noise"] = float(1.4826 * np.median(np.abs(within)) / np.sqrt(6)) if within.size else 0.0
    return features


def summarise_features(cases: Sequence[Features]) -> dict[str, Any]:
    """Median, spread and range of each feature over the training data.

    Args:
        cases: features of each case, at least one, the same names in each; None leaves a case out of that feature's
            numbers.

    Returns:
        {"cases": n, "features": {name: {"median", "spread", "low", "high"}}}: the spread is 1.4826 times the median
        absolute deviation (the standard deviation, for a normal distribution), low and high the 1st and 99th
        percentiles; volumes as logarithms. A feature that fewer than `MIN_CASES` cases have is left out.
    """
    features = {}
    for name in cases[0]:
        values = [_scaled(name, case[name]) for case in cases if case.get(name) is not None]
        if len(values) < MIN_CASES:
            continue
        median = float(np.median(values))
        low, high = np.percentile(values, (1, 99))
        spread = float(1.4826 * np.median(np.abs(np.array(values) - median)))
        features[name] = {"median": median, "spread": spread, "low": float(low), "high": float(high)}
    return {"cases": len(cases), "features": features}


def unlike_training(features: Features, reference: Mapping[str, Any], distance: float) -> dict[str, float]:
    """The features in which a scan sticks out.

    Args:
        features: of the scan.
        reference: of `summarise_features`.
        distance: how many spreads away from the median is far. The spread is at least 5 % of the median.

    Returns:
        Feature to its distance from the median in spreads, signed, for those that are far and also beyond the 1st or
        99th percentile (sites differ, so that a common value may lie far from the median).
    """
    far = {}
    for name, row in reference["features"].items():
        if features.get(name) is None:
            continue
        value = _scaled(name, features[name])
        spread = max(row["spread"], SPREAD_FLOOR * abs(row["median"]), 1e-6)
        spreads = (value - row["median"]) / spread
        if abs(spreads) > distance and not row["low"] <= value <= row["high"]:
            far[name] = round(float(spreads), 2)
    return far


def read_reference(path: str | Path | None) -> dict[str, Any] | None:
    """The reference at `path`, or None if there is no such file or it was made of too few cases.

    Raises:
        InputError: if the file is not one of `write_reference`.
    """
    if path is None or not Path(path).is_file():
        return None
    path = Path(path).absolute()
    try:
        reference = json.loads(path.read_text(encoding="utf-8"))
        for row in reference["features"].values():
            float(row["median"]), float(row["spread"]), float(row["low"]), float(row["high"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not a reference of training data: make it again with reference.yaml") from None
    return reference if reference["features"] else None


def write_reference(reports_dir: str | Path, cases: Sequence[str], path: str | Path) -> dict[str, Any]:
    """Gather the features in `<reports_dir>/<case>_seg.json` and write their summary.

    Of fewer than `MIN_CASES` cases it has no features: it says nothing of any scan, and a line in the log says so.

    Args:
        reports_dir: output folder of an inference on the training data's target scans.
        cases: names of the cases.
        path: the JSON to write.

    Returns:
        The reference, see `summarise_features`.

    Raises:
        InputError: if a report is missing or not one.
    """
    features = []
    for case in cases:
        report = Path(reports_dir).absolute() / f"{case}_seg.json"
        try:
            features.append(dict(json.loads(report.read_text(encoding="utf-8"))["features"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{report} is missing or no report of a case: run the inference on it first") from None
    if len(features) < MIN_CASES:
        few = f"{len(features)} case(s) can't say what the training data looks like, {MIN_CASES} could"
        logger.warning(f"{few}: no scan will be flagged as unlike it")
    reference = summarise_features(features)
    write_text(json.dumps(reference, indent=1) + "\n", path)
    return reference


def _sample(values: np.ndarray) -> np.ndarray:
    """At most about `MAX_SAMPLES` values, evenly spread."""
    return values[:: max(1, values.size // MAX_SAMPLES)]


def _scaled(name: str, value: float) -> float:
    """Volumes as logarithms: they spread over two orders of magnitude."""
    return float(np.log(max(value, VOLUME_FLOOR_ML))) if name.endswith("_ml") else float(value)


write_reference_or_exit = exit_on_input_error(write_reference)
read_reference_or_exit = exit_on_input_error(read_reference)
