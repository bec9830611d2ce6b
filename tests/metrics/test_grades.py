"""Metrics of grades against hand-computed values and independent formulations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from crossmoda.metrics.grades import (
    calibration_bins,
    calibration_error,
    constant_guesses,
    grade_metrics,
    macro_error,
    worst_grade,
)

GRADES = (1, 2, 3, 4)


def random_grades(seed: int, n: int = 60) -> tuple[list[int], list[int], np.ndarray]:
    random = np.random.RandomState(seed)
    truth = random.randint(1, 5, n).tolist()
    probabilities = random.dirichlet(np.ones(4), n)
    return truth, (probabilities.argmax(1) + 1).tolist(), probabilities


def test_macro_errors_by_hand() -> None:
    truth, predicted = [1, 1, 1, 2, 4, 4], [1, 2, 3, 2, 1, 4]
    assert macro_error(truth, predicted) == pytest.approx(((0 + 1 + 2) / 3 + 0 + 3 / 2) / 3)
    assert macro_error(truth, predicted, squared=True) == pytest.approx(((0 + 1 + 4) / 3 + 0 + 9 / 2) / 3)


@pytest.mark.parametrize("guess", [2, 3])
def test_a_constant_guess_in_the_middle_has_the_known_errors(guess: int) -> None:
    balanced = [1, 2, 3, 4] * 3
    assert constant_guesses(balanced, GRADES)[guess] == {"ma_mae": 1.0, "ma_mse": 1.5}
    # Weighing every grade alike, it has them on an unbalanced set too.
    assert constant_guesses([1] * 7 + [2, 3, 4], GRADES)[guess] == {"ma_mae": 1.0, "ma_mse": 1.5}
    assert constant_guesses(balanced, GRADES)[1] == {"ma_mae": 1.5, "ma_mse": 3.5}


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_independent_formulas(seed: int) -> None:
    truth, predicted, probabilities = random_grades(seed)
    found = grade_metrics(truth, predicted, list(probabilities), GRADES)
    assert found["n"] == 60
    assert found["ungraded"] == 0
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    # Quadratic kappa: 1 - observed over expected squared disagreement.
    table = np.zeros((4, 4))
    for y, p in zip(truth, predicted, strict=True):
        table[y - 1, p - 1] += 1
    assert np.array_equal(np.array(found["confusion"])[:, :4], table)
    weights = np.subtract.outer(np.arange(4), np.arange(4)) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / 60
    assert found["quadratic_kappa"] == pytest.approx(1 - (weights * table).sum() / (weights * expected).sum())
    one_hot = np.eye(4)[np.array(truth) - 1]
    assert found["brier"] == pytest.approx(((probabilities - one_hot) ** 2).sum(1).mean())
    ece = 0.0
    for low in np.arange(10) / 10:
        inside = [i for i in range(60) if low <= probabilities[i].max() < low + 0.1]
        if inside:
            confidence = np.mean([probabilities[i].max() for i in inside])
            ece += len(inside) / 60 * abs(confidence - np.mean([predicted[i] == truth[i] for i in inside]))
    assert found["ece"] == pytest.approx(ece)


def test_no_grade_is_as_wrong_as_can_be() -> None:
    assert [worst_grade(grade, GRADES) for grade in GRADES] == [4, 4, 1, 1]
    found = grade_metrics([1, 2, 3, 4], [1, None, 3, None], [None] * 4, GRADES)
    assert found["ungraded"] == 2
    assert found["ma_mae"] == pytest.approx((0 + 2 + 0 + 3) / 4)
    assert found["ma_mse"] == pytest.approx((0 + 4 + 0 + 9) / 4)
    assert found["accuracy"] == found["balanced_accuracy"] == 0.5
    assert found["confusion"] == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    assert found["ece"] is found["brier"] is found["calibration"] is None


def test_calibration_by_hand() -> None:
    bins = calibration_bins([True, False, True, True], [0.95, 0.85, 0.85, 1.0])
    assert bins == pytest.approx(np.array([[2, 0.85, 0.5], [2, 0.975, 1.0]]))
    assert calibration_error(bins) == pytest.approx((0.35 + 0.025) / 2)


def test_one_true_grade_has_no_kappa() -> None:
    assert grade_metrics([2, 2], [2, 2], [None, None], GRADES)["quadratic_kappa"] is None
    perfect = grade_metrics([1, 4], [1, 4], [[1, 0, 0, 0], [0, 0, 0, 1]], GRADES)
    assert (perfect["quadratic_kappa"], perfect["ece"], perfect["brier"]) == (1.0, 0.0, 0.0)
