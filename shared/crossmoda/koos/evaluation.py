"""Grades against the truth: the metrics of the challenge, a table of cases, and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmoda.data import write_text
from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.answers import PROBABILITY_COLUMNS, KoosAnswer, read_answers
from crossmoda.koos.items import GRADES, Item, graded_cases
from crossmoda.metrics.grades import constant_guesses, grade_metrics, worst_grade
from crossmoda.metrics.tables import Row, write_rows
from crossmoda.report.grades import draw_calibration, draw_confusion, save_figure


def evaluate_grades(
    grades: str | Path, data_list: str | Path, section: str = "target_validation", output_dir: str | Path | None = None
) -> dict[str, Any]:
    """Compare a table of grades with a data list's; writes metrics.json, metrics.csv, confusion.png, calibration.png.

    A case without a grade counts as wrong by the greatest possible distance, and a line says so. Post-operative cases
    have no Koos grade and are left out.

    Args:
        grades: `grades.csv`, or any table with the columns `case,class`.
        data_list: the truth: its section has `koos`.
        section: e.g. `target_validation`.
        output_dir: None: beside `grades`.

    Returns:
        {"all": `grade_metrics`, "sites": {site: `grade_metrics`}, "constant_guess": {grade: its errors}}.

    Raises:
        InputError: if a file can't be read, a case has no true grade, or the table lacks a case.
    """
    truth = graded_cases(data_list, section)
    answers = {answer.case: answer for answer in read_answers(grades)}
    missing = [item["case"] for item in truth if item["case"] not in answers]
    if missing:
        raise InputError(
            f"{grades} lacks {len(missing)} case(s) of {section}, e.g. {missing[0]}: grade the whole section"
        )
    pairs = [(item, answers[item["case"]]) for item in truth]
    sites = sorted({str(item["site"]) for item in truth})
    summary = {
        "all": _metrics(pairs),
        "sites": {site: _metrics([pair for pair in pairs if str(pair[0]["site"]) == site]) for site in sites},
        "constant_guess": constant_guesses([item["koos"] for item in truth], GRADES),
    }
    folder = Path(output_dir) if output_dir else Path(grades).absolute().parent
    save_figure(draw_confusion(summary["all"], GRADES), folder / "confusion.png")
    if summary["all"]["calibration"]:
        save_figure(draw_calibration(summary["all"]), folder / "calibration.png")
    write_rows([_row(item, answer) for item, answer in pairs], folder / "metrics.csv")
    write_text(json.dumps(summary, indent=1) + "\n", folder / "metrics.json")
    print(describe(summary))
    return summary


def describe(summary: dict[str, Any]) -> str:
    """A summary of `evaluate_grades` in words."""
    found = summary["all"]
    kappa = "-" if found["quadratic_kappa"] is None else f"{found['quadratic_kappa']:.3f}"
    lines = [
        f"{found['n']} cases: MA-MAE {found['ma_mae']:.3f}, MA-MSE {found['ma_mse']:.3f}, balanced accuracy"
        f" {found['balanced_accuracy']:.3f}, quadratic kappa {kappa}"
    ]
    if found["ece"] is not None:
        lines.append(f"calibration: expected error {found['ece']:.3f}, Brier score {found['brier']:.3f} (0 to 2)")
    if found["ungraded"]:
        lines.append(f"{found['ungraded']} case(s) without a grade count as wrong by the greatest possible distance")
    guesses = ", ".join(
        f"{grade}: {errors['ma_mae']:.2f} / {errors['ma_mse']:.2f}"
        for grade, errors in summary["constant_guess"].items()
    )
    lines.append(f"always the same grade has MA-MAE / MA-MSE {guesses}")
    return "\n".join(lines)


def _metrics(pairs: Sequence[tuple[Item, KoosAnswer]]) -> dict[str, Any]:
    return grade_metrics(
        [item["koos"] for item, _ in pairs],
        [answer.grade for _, answer in pairs],
        [answer.probabilities for _, answer in pairs],
        GRADES,
    )


def _row(item: Item, answer: KoosAnswer) -> Row:
    given = answer.grade if answer.grade is not None else worst_grade(item["koos"], GRADES)
    row = {"case": item["case"], "site": item["site"], "koos": item["koos"]}
    row |= {"class": answer.grade if answer.grade is not None else "", "error": abs(given - item["koos"])}
    row |= dict(zip(PROBABILITY_COLUMNS, answer.probabilities or [""] * len(GRADES), strict=True))
    return row | {"flags": "; ".join(answer.flags)}


evaluate_grades_or_exit = exit_on_input_error(evaluate_grades)
