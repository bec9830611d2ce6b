"""Pictures of graded cases: confusion matrix, and whether the probabilities hold true. Drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossmoda.data import replacing


def draw_confusion(metrics: Mapping[str, Any], grades: Sequence[int], title: str = "") -> Figure:
    """Confusion matrix: true grades down, answers across, with the cases' numbers; shaded by share of the true grade.

    Args:
        metrics: of `crossmoda.metrics.grade_metrics`.
        grades: all grades, in order.
        title: above the picture.
    """
    table = np.array(metrics["confusion"])
    names = [str(grade) for grade in grades]
    answers = [*names, "none"]
    if not table[:, -1].any():
        table, answers = table[:, :-1], names
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.6, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=12)
    axes.set_xticks(range(len(answers)), answers)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("grade given")
    axes.set_ylabel("true Koos grade")
    caption = f"{metrics['n']} cases, MA-MAE {metrics['ma_mae']:.2f}, MA-MSE {metrics['ma_mse']:.2f}"
    axes.set_title(f"{title}\n{caption}" if title else caption, fontsize=10)
    return figure


def draw_calibration(metrics: Mapping[str, Any], title: str = "") -> Figure:
    """Reliability plot: share of right answers over their confidence, and how many cases there are.

    Args:
        metrics: of `crossmoda.metrics.grade_metrics`, with probabilities.
        title: above the picture.
    """
    count, confidence, right = np.array(metrics["calibration"]).T
    figure = Figure(figsize=(4.6, 4.8), dpi=150, layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
    axes.plot(confidence, right, color="#1f6fb2", marker="o", label="these grades")
    axes.set_ylabel("share of right grades")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    caption = f"expected calibration error {metrics['ece']:.2f}, Brier score {metrics['brier']:.2f}"
    axes.set_title(f"{title}\n{caption}" if title else caption, fontsize=10)
    below.bar(confidence, count, width=0.03, color="#1f6fb2")
    below.set_xlim(0, 1.02)
    below.set_xlabel("probability of the grade given")
    below.set_ylabel("cases")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a picture whole or not at all; the format is that of the ending."""
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary)
