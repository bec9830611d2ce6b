"""Systems against their bounds and against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from crossmoda.errors import InputError


def gap_closed(system: float, source_only: float, oracle: float) -> float | None:
    """Share of the gap between the bounds that a system closes: (system - source-only) / (oracle - source-only).

    It is 0 at the source-only model, 1 at the oracle, and may lie outside of [0, 1]. It holds for Dice, where higher is
    better, and for distances alike.

    Args:
        system: the system's mean, e.g. Dice.
        source_only: mean of the model trained on the source modality alone.
        oracle: mean of the model trained on labelled target scans.

    Returns:
        The share; None if the bounds are equal or a value is not finite.
    """
    gap = oracle - source_only
    if not all(map(math.isfinite, (system, source_only, oracle))) or math.isclose(gap, 0, abs_tol=1e-9):
        return None
    return (system - source_only) / gap


def paired_test(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], column: str
) -> dict[str, float | int]:
    """Two-sided Wilcoxon signed-rank test between two systems over the same cases.

    Args:
        first: rows of `evaluate_cases` of one system.
        second: rows of the other one; the same cases in any order.
        column: e.g. `dice_VS`.

    Returns:
        n (cases), median_difference (first - second) and p_value; 1 if all pairs are equal.

    Raises:
        InputError: if the systems were measured on other cases.
    """
    values = {row["case"]: row[column] for row in second}
    if {row["case"] for row in first} != set(values):
        raise InputError("two systems were measured on different cases: evaluate both on the same section")
    differences = np.array([row[column] - values[row["case"]] for row in first])
    p_value = float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0
    return {"n": len(differences), "median_difference": float(np.median(differences)), "p_value": p_value}
