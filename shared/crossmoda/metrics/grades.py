"""Metrics of ordered grades: the challenge's macro-averaged errors, agreement, and whether probabilities hold true.

A case without a grade counts as wrong by the greatest possible distance: declining to answer never pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    recall_score,
)

NUM_BINS = 10  # of the calibration error; open: Guo 2017 has 15, for thousands of cases


def worst_grade(truth: int, grades: Sequence[int]) -> int:
    """The grade farthest from the true one."""
    return max(grades, key=lambda grade: (abs(grade - truth), grade))


def macro_error(truth: Sequence[int], predicted: Sequence[int], squared: bool = False) -> float:
    """Mean over the true grades of the mean absolute (or squared) error within each, so that each grade weighs alike.

    `MA-MAE`, what crossMoDA 2022 ranks Koos grades by; imbalanced-learn has it as
    `macro_averaged_mean_absolute_error`, scikit-learn does not.

    Args:
        truth: (N,), not empty.
        predicted: (N,).
        squared: True gives `MA-MSE`.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    error = mean_squared_error if squared else mean_absolute_error
    return float(np.mean([error(truth[truth == grade], predicted[truth == grade]) for grade in np.unique(truth)]))


def calibration_bins(correct: Sequence[bool], confidence: Sequence[float], num_bins: int = NUM_BINS) -> np.ndarray:
    """How often answers of about one confidence are right.

    Args:
        correct: whether the most probable grade is the true one, (N,).
        confidence: its probability, (N,).
        num_bins: bins of equal width over [0, 1].

    Returns:
        For each bin with cases, in order, (cases, mean confidence, share of right answers): (bins, 3).
    """
    correct, confidence = np.asarray(correct, dtype=float), np.asarray(confidence, dtype=float)
    places = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return np.array(
        [
            [(places == place).sum(), confidence[places == place].mean(), correct[places == place].mean()]
            for place in np.unique(places)
        ]
    )


def calibration_error(bins: np.ndarray) -> float:
    """Expected calibration error: mean difference of confidence and share of right answers, weighted by cases.

    Args:
        bins: of `calibration_bins`.
    """
    return float(np.average(np.abs(bins[:, 1] - bins[:, 2]), weights=bins[:, 0]))


def grade_metrics(
    truth: Sequence[int],
    predicted: Sequence[int | None],
    probabilities: Sequence[Sequence[float] | None],
    grades: Sequence[int],
) -> dict[str, Any]:
    """All metrics of a set of graded cases.

    Args:
        truth: true grades, (N,), not empty.
        predicted: grades, (N,); None where none was given, which counts as `worst_grade`.
        probabilities: for each case those of `grades`, or None.
        grades: all grades there are, in order.

    Returns:
        `n`, `ungraded` (cases without a grade), `ma_mae`, `ma_mse`, `accuracy`, `balanced_accuracy`,
        `quadratic_kappa` (None where it is not defined), `confusion` (a row per true grade, a column per answered
        grade and a last one for no grade), and of the cases with probabilities `ece`, `brier` (the sum over the grades
        of squared differences, 0 to 2) and `calibration` (`calibration_bins`), None if there are none.
    """
    filled = [worst_grade(y, grades) if p is None else p for y, p in zip(truth, predicted, strict=True)]
    kappa = cohen_kappa_score(truth, filled, labels=list(grades), weights="quadratic") if len(set(truth)) > 1 else None
    none = max(grades) + 1
    table = confusion_matrix(truth, [none if p is None else p for p in predicted], labels=[*grades, none])
    metrics = {
        "n": len(truth),
        "ungraded": sum(p is None for p in predicted),
        "ma_mae": macro_error(truth, filled),
        "ma_mse": macro_error(truth, filled, squared=True),
        "accuracy": float(np.mean(np.equal(truth, filled))),
        "balanced_accuracy": float(recall_score(truth, filled, labels=sorted(set(truth)), average="macro")),
        "quadratic_kappa": None if kappa is None or np.isnan(kappa) else float(kappa),
        "confusion": table[: len(grades)].tolist(),
    }
    return metrics | _calibration(truth, probabilities, grades)


def constant_guesses(truth: Sequence[int], grades: Sequence[int]) -> dict[int, dict[str, float]]:
    """`ma_mae` and `ma_mse` of answering the same grade always, for each grade: what any method must beat."""
    guesses = {grade: [grade] * len(truth) for grade in grades}
    return {
        grade: {"ma_mae": macro_error(truth, guess), "ma_mse": macro_error(truth, guess, squared=True)}
        for grade, guess in guesses.items()
    }


def _calibration(
    truth: Sequence[int], probabilities: Sequence[Sequence[float] | None], grades: Sequence[int]
) -> dict[str, Any]:
    known = [(y, p) for y, p in zip(truth, probabilities, strict=True) if p is not None]
    if not known:
        return {"ece": None, "brier": None, "calibration": None}
    true, shares = [y for y, _ in known], np.array([p for _, p in known], dtype=float)
    shares /= shares.sum(axis=1, keepdims=True)  # scikit-learn warns of what rounding left
    best = np.array(grades)[shares.argmax(axis=1)]
    bins = calibration_bins(best == true, shares.max(axis=1))
    brier = brier_score_loss(true, shares, labels=list(grades), scale_by_half=False)
    return {"ece": calibration_error(bins), "brier": float(brier), "calibration": bins.tolist()}
