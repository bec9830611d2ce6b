"""Koos methods side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.errors import InputError
from crossmoda.report.tables import Table

COLUMNS = {
    "ma_mae": "MA-MAE",
    "ma_mse": "MA-MSE",
    "balanced_accuracy": "balanced accuracy",
    "quadratic_kappa": "quadratic kappa",
    "ece": "calibration error",
}


def read_judgement(folder: str | Path) -> dict[str, Any]:
    """Read the `metrics.json` of a folder that the koos-classifier's evaluate.yaml wrote.

    Raises:
        InputError: if it is missing or none.
    """
    path = Path(folder) / "metrics.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["all"]["ma_mae"], content["constant_guess"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is missing or no judgement of grades: run evaluate.yaml first") from None
    return content


def grade_table(judgements: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """A row a method, mean and standard deviation over its runs, and what constant guesses have.

    Args:
        judgements: for each method the `metrics.json` of its runs, e.g. one a seed.

    Raises:
        InputError: if the runs were not judged on equally many cases.
    """
    counts = {run["all"]["n"] for runs in judgements.values() for run in runs}
    if len(counts) != 1:
        raise InputError(f"the methods were judged on {sorted(counts)} cases: judge all on the same")
    rows = []
    for name, runs in judgements.items():
        cells = [_cell([run["all"][key] for run in runs]) for key in COLUMNS]
        ungraded = _cell([run["all"]["ungraded"] for run in runs], "{:.1f}")
        rows.append([name, str(len(runs)), *cells, ungraded])
    guesses = next(iter(judgements.values()))[0]["constant_guess"]
    for grade, errors in guesses.items():
        shown = [f"{errors[key]:.3f}" if key in errors else "" for key in COLUMNS]
        rows.append([f"always {grade}", "", *shown, ""])
    title = f"Koos grades of {counts.pop()} cases; mean ± standard deviation over the runs"
    return Table(title, ["method", "runs", *COLUMNS.values(), "ungraded"], rows)


def _cell(values: Sequence[float | None], form: str = "{:.3f}") -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = form.format(np.mean(known))
    return f"{mean} ± {form.format(np.std(known))}" if len(known) > 1 else mean
