"""Pictures of graded cases: what stands in them."""

from __future__ import annotations

import numpy as np
import pytest

from crossmoda.metrics.grades import grade_metrics
from crossmoda.report.grades import draw_calibration, draw_confusion, save_figure

GRADES = (1, 2, 3, 4)
SURE = [[0.9, 0.1, 0, 0], [0, 0.9, 0.1, 0], [0.1, 0.6, 0.3, 0]]


def test_confusion_matrix_shows_the_numbers_and_the_errors() -> None:
    axes = draw_confusion(grade_metrics([1, 2, 3], [1, 2, 2], SURE, GRADES), GRADES, "geometry").axes[0]
    assert [text.get_text() for text in axes.texts] == list("1000010001000000")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3", "4"]
    assert axes.get_title() == "geometry\n3 cases, MA-MAE 0.33, MA-MSE 0.33"


def test_cases_without_a_grade_have_a_column_of_their_own() -> None:
    axes = draw_confusion(grade_metrics([1, 2], [1, None], [None, None], GRADES), GRADES).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3", "4", "none"]
    assert axes.texts[9].get_text() == "1"


def test_reliability_plot_has_a_point_a_bin(tmp_path) -> None:
    figure = draw_calibration(grade_metrics([1, 2, 3], [1, 2, 2], SURE, GRADES))
    points = figure.axes[0].lines[1].get_xydata()
    assert points == pytest.approx(np.array([[0.6, 0.0], [0.9, 1.0]]))
    save_figure(figure, tmp_path / "calibration.png")
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.png"]
