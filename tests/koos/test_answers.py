"""Answers of the Koos grading: flags, files, and reading them again."""

from __future__ import annotations

import csv
import json
import math

import pytest

from crossmoda.errors import InputError
from crossmoda.koos import EMPTY_MASK, UNSURE, KoosAnswer, grade_answer, no_answer, read_answers, write_answers


def test_the_most_probable_grade_is_given_and_a_flat_answer_is_flagged() -> None:
    sure = grade_answer("a", [0.1, 0.1, 0.2, 0.6], unsure_below=0.5)
    assert (sure.grade, sure.flags) == (4, ())
    flat = grade_answer("b", [0.2, 0.3, 0.3, 0.2], unsure_below=0.5, flags=["cochlea missing"])
    assert (flat.grade, flat.flags) == (2, (UNSURE, "cochlea missing"))
    assert grade_answer("c", [1, 1, 2, 0], unsure_below=0.5).probabilities == (0.25, 0.25, 0.5, 0.0)
    assert grade_answer("c", [1, 1, 2, 0], unsure_below=0.5).flags == ()  # the threshold itself is sure


@pytest.mark.parametrize("wrong", [[0.5, 0.5], [0, 0, 0, 0], [-1, 1, 1, 0], [math.nan, 1, 0, 0]])
def test_no_probabilities_are_an_error(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="no probabilities"):
        grade_answer("a", wrong, 0.5)


def test_files_hold_what_was_answered(tmp_path) -> None:
    answers = [
        grade_answer("a", [0.1, 0.1, 0.2, 0.6], 0.5, features={"volume_ml": 1.5, "distance_mm": math.nan}),
        no_answer("b"),
        grade_answer("c", [0.3, 0.3, 0.2, 0.2], 0.5, features={"area_mm2": 2.0}, details={"why": "flat"}),
    ]
    path = write_answers(answers, tmp_path / "out")
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["case", "class", "p1", "p2", "p3", "p4", "flags", "volume_ml", "distance_mm", "area_mm2"],
        ["a", "4", "0.1", "0.1", "0.2", "0.6", "", "1.5", "", ""],
        ["b", "", "", "", "", "", EMPTY_MASK, "", "", ""],
        ["c", "1", "0.3", "0.3", "0.2", "0.2", UNSURE, "", "", "2"],
    ]
    content = json.loads((tmp_path / "out" / "a_koos.json").read_text())
    assert content == {
        "case": "a",
        "grade": 4,
        "probabilities": {"1": 0.1, "2": 0.1, "3": 0.2, "4": 0.6},
        "flags": [],
        "features": {"volume_ml": 1.5, "distance_mm": None},
    }
    assert json.loads((tmp_path / "out" / "b_koos.json").read_text())["probabilities"] is None
    assert json.loads((tmp_path / "out" / "c_koos.json").read_text())["why"] == "flat"

    first, second, third = read_answers(path)
    assert (first.case, first.grade, first.probabilities) == ("a", 4, (0.1, 0.1, 0.2, 0.6))
    assert first.features["volume_ml"] == 1.5
    assert math.isnan(first.features["distance_mm"])
    assert (second.grade, second.probabilities, second.flags) == (None, None, (EMPTY_MASK,))
    assert third.flags == (UNSURE,)


def test_the_challenges_table_is_read(tmp_path) -> None:
    (tmp_path / "grades.csv").write_text('"case","class"\n"a",2\n"b",\n')
    assert read_answers(tmp_path / "grades.csv") == [KoosAnswer("a", 2), KoosAnswer("b", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing"),
        ("case,grade\na,1\n", "no column 'class'"),
        ("case,class\n", "no case"),
        ("case,class\na,5\n", "class 5"),
        ("case,class\na,big\n", "correct the row"),
        ("case,class\na,1\na,2\n", "stands 2 times"),
        ("case,class,p1,p2,p3,p4\na,1,0.5,0.2,0.2,0.2\n", "sum to 1"),
    ],
)
def test_faults_in_a_table_are_named(tmp_path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "grades.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_answers(tmp_path / "grades.csv")


def test_no_case_and_double_cases_are_faults(tmp_path) -> None:
    with pytest.raises(InputError, match="no case to grade"):
        write_answers([], tmp_path)
    with pytest.raises(InputError, match="stands 2 times"):
        write_answers([no_answer("a"), no_answer("a")], tmp_path)
    assert not list(tmp_path.iterdir())
