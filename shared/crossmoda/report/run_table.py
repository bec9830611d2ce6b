"""Finished runs of recipes side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crossmoda.errors import InputError
from crossmoda.metrics import read_metrics
from crossmoda.pipeline import Pipeline
from crossmoda.report.tables import NONE, Table

HEADER = [
    "recipe",
    "VS Dice",
    "cochlea Dice",
    "VS ASSD (mm)",
    "cochlea ASSD (mm)",
    "gap closed, VS",
    "gap closed, cochlea",
    "before self-training, VS / cochlea Dice",
    "Koos MA-MAE",
    "CPU min",
]
CLASSES = ("VS", "cochlea")


def run_table(folders: Sequence[str | Path]) -> Table:
    """A row a run: its final system on the hidden scans, before self-training, the grades, and the time.

    CPU minutes are those of all jobs that the run's `logs/*.tsv` measured, both bounds included; what a killed job had
    done before it was taken up again is not in them.

    Args:
        folders: of `run_recipe.py`, each with a truth.

    Raises:
        InputError: if a run is not finished or was not judged, or the runs were judged on different cases.
    """
    runs = [_read_run(Path(folder)) for folder in folders]
    cases = runs[0]["cases"]
    for folder, run in zip(folders, runs, strict=True):
        if run["cases"] != cases:
            raise InputError(f"{folder} was judged on other cases than {folders[0]}: give runs on the same data")
    return Table(f"{len(cases)} hidden scans", HEADER, [run["cells"] for run in runs])


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        results = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))
        pipeline, final = Pipeline({**config, "output_dir": str(folder)}), config["final"]
        found = results["systems"][final]
        measures, gap = found["all"], found["gap_closed"]["dice"]
        cells = [config["name"]]
        cells += [f"{measures['dice'][name]['mean']:.3f}" for name in CLASSES]
        cells += [f"{measures['assd'][name]['mean']:.2f}" for name in CLASSES]
        cells += [NONE if gap[name] is None else f"{gap[name]:.0%}" for name in CLASSES]
        cells += [_before(pipeline, final), _koos(pipeline), f"{_cpu_minutes(folder):.0f}"]
        cases = {row["case"] for row in read_metrics(pipeline.result(final))}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise InputError(f"{folder} is no finished run with a truth: finish scripts/run_recipe.py first") from None
    return {"cases": cases, "cells": cells}


def _before(pipeline: Pipeline, final: str) -> str:
    """Round 0 of the self-training that makes the final system."""
    path = pipeline.rounds(final) if final in pipeline.self_trainings else None
    if path is None or not path.is_file():
        return NONE
    first = json.loads(path.read_text(encoding="utf-8"))["rounds"][0]
    return " / ".join(f"{first['dice'][name]:.3f}" for name in CLASSES)


def _koos(pipeline: Pipeline) -> str:
    if not pipeline.koos:
        return NONE
    path = pipeline.koos_folder() / "judged" / "metrics.json"
    return f"{json.loads(path.read_text(encoding='utf-8'))['all']['ma_mae']:.3f}" if path.is_file() else NONE


def _cpu_minutes(folder: Path) -> float:
    seconds = 0.0
    for path in (folder / "logs").glob("*.tsv"):
        with path.open(newline="", encoding="utf-8") as file:
            seconds += sum(
                float(row["cpu_time"]) for row in csv.DictReader(file, delimiter="\t") if row["cpu_time"] != "NA"
            )
    return seconds / 60
