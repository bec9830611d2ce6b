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
from tqdm import tqdm

from crossmoda.data import (
    check_same_grid,
    label_map,
    load_datalist,
    merges_parts,
    read_header,
    read_label,
    refuse_doubles,
    write_text,
)
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.labels import CLASS_NAMES, FOREGROUND, MERGE_2023, PART_NAMES
from crossmoda.metrics.measures import measure_classes
from crossmoda.metrics.parts import BOUNDARY, evaluate_parts, has_parts
from crossmoda.metrics.tables import Row, statistics, write_rows

logger = logging.getLogger(__name__)

METRICS = ("dice", "assd")


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
    return measure_classes(prediction, truth, spacing, {label: CLASS_NAMES[label] for label in FOREGROUND})


def evaluate_cases(
    items: Sequence[Mapping[str, Any]],
    label_maps: tuple[Mapping[int, int], Mapping[int, int]] | None = None,
    progress: bool = True,
    threads: int | None = None,
    part_map: Mapping[int, int] | None = None,
) -> list[Row]:
    """Metrics of many cases.

    Args:
        items: each {case, site, prediction, label, koos?}, the files' absolute paths under `prediction` and `label`.
        label_maps: classes in the prediction files and in the truth files to those of `crossmoda.labels`; None if
            they are the same.
        progress: whether to show a bar (only on a terminal).
        threads: cases at a time; None takes the number of cores, at most 8.
        part_map: classes in the truth files to extra-meatal, intra-meatal and cochlea (`LABELS_2023`), which the
            predictions hold; None if either knows no parts of the tumour.

    Returns:
        One row a case, in order: case, site, koos (if known), then what `evaluate_pair` gives, and with a `part_map`
        what `evaluate_parts` gives. Distances are in mm,
        by the voxel edges of the truth's affine (the challenge reads its diagonal, which is shorter if it is oblique).

    Raises:
        InputError: if a file is missing, damaged or has unknown labels, or a prediction lies on another grid than its
            truth.
    """
    identity = {label: label for label in CLASS_NAMES}
    prediction_map, truth_map = label_maps or (identity, identity)

    def evaluate(item: Mapping[str, Any]) -> Row:
        check_same_grid(item["prediction"], item["label"])
        prediction, _ = read_label(item["prediction"], tuple(prediction_map))
        truth, _ = read_label(item["label"], tuple(truth_map))
        spacing = read_header(item["label"]).spacing
        row = {key: item.get(key, "") for key in ("case", "site", "koos")}
        row |= evaluate_pair(_mapped(prediction, prediction_map), _mapped(truth, truth_map), spacing)
        return row | (evaluate_parts(prediction, _mapped(truth, part_map), spacing) if part_map else {})

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
        has not}}; "mean" is of each case's mean over VS and cochlea. sd is None for a single case. If all rows have
        the tumour's parts (`evaluate_parts`), classes are also "extra" and "intra", and for "assd" "boundary".

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
    part_map: Mapping[int, int] | None = None,
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
        part_map: for networks of three classes, whose predictions hold those of `LABELS_2023`: from the truth's
            classes to these. VS is then their union, and `prediction_map` isn't needed; the parts are measured if the
            datalist's `label_map` says that the truth has them.

    Returns:
        The summary, see `summarise`.

    Raises:
        InputError: as `load_datalist` and `evaluate_cases`, if a prediction is missing, or two items are of one case.
    """
    items = load_datalist(data_list, section, require_label=True, check="header", progress=False, extra_keys=("koos",))
    refuse_doubles(items, "give a list of one view, or each scan a case of its own")
    for item in items:
        prediction = Path(predictions_dir).absolute() / f"{item['case']}_{suffix}.nii.gz"
        if not prediction.is_file():
            raise InputError(f"{prediction} is missing: run the inference on section {section} of {data_list}")
        item["prediction"] = str(prediction)
    truth_map = label_map(data_list)
    default_map = MERGE_2023 if part_map else {label: label for label in CLASS_NAMES}
    if part_map and not merges_parts(truth_map, part_map):
        logger.info(f"the labels of {data_list} are not divided into parts: measuring VS and cochlea alone")
        part_map = None
    rows = evaluate_cases(items, (prediction_map or default_map, truth_map), progress, part_map=part_map)
    summary = write_metrics(rows, output_dir or predictions_dir)
    _log_summary(summary["all"])
    return summary


evaluate_or_exit = exit_on_input_error(evaluate)


def _log_summary(group: Mapping[str, Any]) -> None:
    for name, distance in group["assd"].items():
        if name == "mean":
            continue
        dice = group["dice"].get(name)
        overlap = f"Dice {dice['mean']:.4f} (median {dice['median']:.4f}), " if dice else ""
        text = f"ASSD {distance['mean']:.3f} mm (median {distance['median']:.3f} mm), {group['n']} cases"
        logger.info(f"{name}: {overlap}{text}")


def _mapped(labels: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(mapping)] = list(mapping.values())
    return table[labels]


def _summarise_group(rows: Sequence[Row]) -> dict[str, Any]:
    classes = [CLASS_NAMES[label] for label in FOREGROUND]
    parts = list(PART_NAMES.values()) if all(map(has_parts, rows)) else []
    group: dict[str, Any] = {"n": len(rows)}
    for metric in METRICS:
        columns = [*classes, *parts, *([BOUNDARY] if parts and metric == "assd" else [])]
        values = {name: [row[f"{metric}_{name}"] for row in rows] for name in columns}
        values["mean"] = list(np.mean([values[name] for name in classes], axis=0))
        group[metric] = {name: statistics(numbers) for name, numbers in values.items()}
    group["empty_predictions"] = {
        name: sum(row[f"truth_ml_{name}"] > 0 and row[f"prediction_ml_{name}"] == 0 for row in rows)
        for name in (*classes, *parts)
    }
    return group
