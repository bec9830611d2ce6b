"""Dice and average symmetric surface distance under the challenge's rules, per case and per class."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from crossmoda.data import check_same_grid, label_map, load_datalist, read_header, read_label, write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import CLASS_NAMES, FOREGROUND
from crossmoda.metrics.tables import Row, statistics, write_rows

logger = logging.getLogger(__name__)

# crossMoDA's scoring code gives this distance when there is nothing to measure.
EMPTY_ASSD_MM = 350.0
METRICS = ("dice", "assd")


def dice_per_class(prediction: np.ndarray, truth: np.ndarray) -> dict[int, float]:
    """Dice of each foreground class.

    MONAI's `DiceMetric` gives NaN for an empty truth even if the prediction is not empty, and takes ten times as long.

    Args:
        prediction: label map, any shape, integers of `crossmoda.labels`.
        truth: label map of the same shape.

    Returns:
        Class number to Dice in [0, 1]; 1 if the class is in neither, 0 if it is in one of them only.
    """
    size = max(CLASS_NAMES) + 1
    pairs = truth.astype(np.intp).ravel() * size + prediction.ravel()
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    return {label: float(2 * counts[label, label] / sizes[label]) if sizes[label] else 1.0 for label in FOREGROUND}


def assd(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Average symmetric surface distance as in medpy, which crossMoDA's scoring code uses.

    Surface voxels are those with a face neighbour outside the mask; from each surface the mean distance to the other
    one is taken, and then the mean of the two means. MONAI's symmetric distance pools all distances instead, which
    gives the larger surface more weight, and is infinite or NaN where a mask is empty.

    Args:
        prediction: boolean mask, shape (X, Y, Z).
        truth: boolean mask of the same shape.
        spacing: voxel edges in mm.

    Returns:
        Distance in mm; 0 if both masks are empty, `EMPTY_ASSD_MM` if one of them is.
    """
    if not prediction.any() and not truth.any():
        return 0.0
    if not prediction.any() or not truth.any():
        return EMPTY_ASSD_MM
    # Everything beyond the box of both masks is neither surface nor nearest to one.
    box = tuple(slice(a.start, a.stop) for a in ndimage.find_objects((prediction | truth).astype(np.uint8))[0])
    surfaces = [_surface(np.pad(mask[box], 1)) for mask in (prediction, truth)]
    means = []
    for here, other in (surfaces, surfaces[::-1]):
        distance = ndimage.distance_transform_edt(~other, sampling=tuple(spacing))
        means.append(distance[here].mean())
    return float(np.mean(means))


def evaluate_pair(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> Row:
    """Metrics of one case.

    Args:
        prediction: label map, shape (X, Y, Z), integers of `crossmoda.labels`.
        truth: label map of the same shape.
        spacing: voxel edges in mm.

    Returns:
        For each foreground class `dice_<name>`, `assd_<name>` (mm), and the volumes `truth_ml_<name>` and
        `prediction_ml_<name>`.
    """
    dice = dice_per_class(prediction, truth)
    millilitres = float(np.prod(spacing)) / 1000
    row: Row = {}
    for label in FOREGROUND:
        name = CLASS_NAMES[label]
        masks = prediction == label, truth == label
        row[f"dice_{name}"] = dice[label]
        row[f"assd_{name}"] = assd(*masks, spacing)
        row[f"truth_ml_{name}"] = float(masks[1].sum()) * millilitres
        row[f"prediction_ml_{name}"] = float(masks[0].sum()) * millilitres
    return row


def evaluate_cases(
    items: Sequence[Mapping[str, Any]],
    label_maps: tuple[Mapping[int, int], Mapping[int, int]] | None = None,
    progress: bool = True,
    threads: int | None = None,
) -> list[Row]:
    """Metrics of many cases.

    Args:
        items: each {case, site, prediction, label, koos?}, the files' absolute paths under `prediction` and `label`.
        label_maps: classes in the prediction files and in the truth files to those of `crossmoda.labels`; None if
            they are the same.
        progress: whether to show a bar (only on a terminal).
        threads: cases at a time; None takes the number of cores, at most 8.

    Returns:
        One row a case, in order: case, site, koos (if known), then what `evaluate_pair` gives. Distances are in mm,
        by the voxel edges of the truth's affine (the challenge reads its diagonal, which is shorter if it is oblique).

    Raises:
        InputError: if a file is missing, damaged or has unknown labels, or a prediction lies on another grid than its
            truth.
    """
    identity = {label: label for label in CLASS_NAMES}
    prediction_map, truth_map = label_maps or (identity, identity)

    def evaluate(item: Mapping[str, Any]) -> Row:
        check_same_grid(item["prediction"], item["label"])
        prediction = _read_mapped(item["prediction"], prediction_map)
        truth = _read_mapped(item["label"], truth_map)
        row = {key: item.get(key, "") for key in ("case", "site", "koos")}
        return row | evaluate_pair(prediction, truth, read_header(item["label"]).spacing)

    # disable=None: no bar in a log file or a pipe
    bar = {"desc": "Measuring", "unit": "case", "total": len(items), "leave": False}
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(evaluate, items), disable=None if progress else True, **bar))


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample) and median of every metric, over all cases and per site.

    Args:
        rows: of `evaluate_cases`.

    Returns:
        {"all": group, "sites": {site: group}} with group = {"n": cases, "dice" and "assd": {class or "mean":
        {"mean", "sd", "median"}}, "empty_predictions": {class: cases whose truth has the class and whose prediction
        has not}}; "mean" is of each case's mean over the classes. sd is None for a single case.

    Raises:
        InputError: if there are no rows.
    """
    if not rows:
        raise InputError("there are no cases to summarise: name a section that has some")
    sites = sorted({str(row["site"]) for row in rows})
    groups = {site: _summarise_group([row for row in rows if str(row["site"]) == site]) for site in sites}
    return {"all": _summarise_group(rows), "sites": groups}


def write_metrics(rows: Sequence[Row], output_dir: str | Path) -> dict[str, Any]:
    """Write `metrics.csv` (a row per case) and `summary.json`; returns the summary."""
    summary = summarise(rows)
    write_text(json.dumps(summary, indent=1) + "\n", Path(output_dir) / "summary.json")
    # Last, because the pipeline takes this file as the sign that the evaluation is done.
    write_rows(rows, Path(output_dir) / "metrics.csv")
    return summary


def read_metrics(path: str | Path) -> list[Row]:
    """Rows of a `metrics.csv`, numbers as float, case, site and koos as text.

    Raises:
        InputError: if the file is missing or not one of `write_metrics`.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(f"{path} is missing: run the evaluation first")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [{key: float(text) if "_" in key else text for key, text in row.items()} for row in rows]
    except (TypeError, ValueError):
        raise InputError(f"{path} is not a table of metrics: run the evaluation again") from None


def evaluate(
    predictions_dir: str | Path,
    data_list: str | Path,
    section: str,
    output_dir: str | Path | None = None,
    suffix: str = "seg",
    progress: bool = True,
    prediction_map: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Compare `<predictions_dir>/<case>_<suffix>.nii.gz` with the labels of a datalist section.

    Args:
        predictions_dir: folder of the predictions, in the classes of `crossmoda.labels` or those of `prediction_map`.
        data_list: datalist whose section has labels (the truth); its `label_map` is applied to them.
        section: e.g. `target_validation`.
        output_dir: where `metrics.csv` and `summary.json` go; None: into `predictions_dir`.
        suffix: of the predictions' names.
        progress: whether to show a bar.
        prediction_map: from the predictions' classes to those of `crossmoda.labels`; None if they are the same.

    Returns:
        The summary, see `summarise`.

    Raises:
        InputError: as `load_datalist` and `evaluate_cases`, and if a prediction is missing.
    """
    items = load_datalist(data_list, section, require_label=True, check="header", progress=False, extra_keys=("koos",))
    for item in items:
        prediction = Path(predictions_dir).absolute() / f"{item['case']}_{suffix}.nii.gz"
        if not prediction.is_file():
            raise InputError(f"{prediction} is missing: run the inference on section {section} of {data_list}")
        item["prediction"] = str(prediction)
    maps = prediction_map or {label: label for label in CLASS_NAMES}, label_map(data_list)
    summary = write_metrics(evaluate_cases(items, maps, progress), output_dir or predictions_dir)
    for label in FOREGROUND:
        dice, distance = (summary["all"][metric][CLASS_NAMES[label]] for metric in METRICS)
        logger.info(
            f"{CLASS_NAMES[label]}: Dice {dice['mean']:.4f} (median {dice['median']:.4f}), "
            f"ASSD {distance['mean']:.3f} mm (median {distance['median']:.3f} mm), {summary['all']['n']} cases"
        )
    return summary


evaluate_or_exit = exit_on_input_error(evaluate)


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def _read_mapped(path: str, mapping: Mapping[int, int]) -> np.ndarray:
    labels, _ = read_label(path, tuple(mapping))
    table = np.zeros(256, np.uint8)
    table[list(mapping)] = list(mapping.values())
    return table[labels]


def _summarise_group(rows: Sequence[Row]) -> dict[str, Any]:
    names = [CLASS_NAMES[label] for label in FOREGROUND]
    group: dict[str, Any] = {"n": len(rows)}
    for metric in METRICS:
        values = {name: [row[f"{metric}_{name}"] for row in rows] for name in names}
        values["mean"] = list(np.mean([values[name] for name in names], axis=0))
        group[metric] = {name: statistics(numbers) for name, numbers in values.items()}
    group["empty_predictions"] = {
        name: sum(row[f"truth_ml_{name}"] > 0 and row[f"prediction_ml_{name}"] == 0 for row in rows) for name in names
    }
    return group
