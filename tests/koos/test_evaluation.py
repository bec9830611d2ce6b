"""Grades against the truth of a data list: files, sums by hand, and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from crossmoda.errors import InputError
from crossmoda.koos import evaluate_grades, grade_answer, no_answer, write_answers


def truth(tmp_path: Path) -> Path:
    grades = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 4, "p": "post-operative-london"}
    items = [
        {"case": case, "site": "ldn" if case < "d" else "etz", "image": f"{case}.nii.gz", "koos": grade}
        for case, grade in grades.items()
    ]
    (tmp_path / "oracle.json").write_text(json.dumps({"target_validation": items}))
    return tmp_path / "oracle.json"


def test_a_table_of_grades_is_judged(tmp_path, capsys) -> None:
    answers = [
        grade_answer("a", [0.9, 0.1, 0, 0], 0.4),
        grade_answer("b", [0, 0.2, 0.7, 0.1], 0.4),  # off by one
        grade_answer("c", [0, 0.1, 0.8, 0.1], 0.4),
        no_answer("d"),  # off by three
        grade_answer("e", [0, 0.1, 0.3, 0.6], 0.4),
        grade_answer("p", [1, 0, 0, 0], 0.4),
    ]
    path = write_answers(answers, tmp_path / "out")
    summary = evaluate_grades(path, truth(tmp_path))
    assert summary["all"]["ma_mae"] == pytest.approx((0 + 1 + 0 + (3 + 0) / 2) / 4)
    assert summary["all"]["ma_mse"] == pytest.approx((0 + 1 + 0 + (9 + 0) / 2) / 4)
    assert summary["sites"]["etz"]["ma_mae"] == pytest.approx(1.5)
    assert summary["sites"]["ldn"]["n"] == 3
    out = capsys.readouterr().out
    assert "1 case(s) without a grade count as wrong by the greatest possible distance" in out
    assert "2: 1.00 / 1.50, 3: 1.00 / 1.50" in out
    assert "1 post-operative" in out

    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["all"] == summary["all"]
    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["koos"], row["class"], row["error"]) for row in rows] == [
        ("a", "1", "1", "0"),
        ("b", "2", "3", "1"),
        ("c", "3", "3", "0"),
        ("d", "4", "", "3"),
        ("e", "4", "4", "0"),
    ]
    assert (rows[3]["flags"], rows[3]["p1"]) == ("empty mask", "")
    for name in ("confusion.png", "calibration.png"):
        picture = imread(tmp_path / "out" / name)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.05


def test_the_challenges_table_has_no_calibration(tmp_path) -> None:
    (tmp_path / "grades.csv").write_text('"case","class"\n' + "".join(f'"{case}",2\n' for case in "abcde"))
    summary = evaluate_grades(tmp_path / "grades.csv", truth(tmp_path), output_dir=tmp_path / "out")
    assert (summary["all"]["ma_mae"], summary["all"]["ma_mse"]) == (1.0, 1.5)
    assert summary["all"]["ece"] is None
    assert (tmp_path / "out" / "confusion.png").is_file()
    assert not (tmp_path / "out" / "calibration.png").exists()


def test_faults_are_named(tmp_path) -> None:
    (tmp_path / "grades.csv").write_text("case,class\na,1\n")
    with pytest.raises(InputError, match="lacks 4 case"):
        evaluate_grades(tmp_path / "grades.csv", truth(tmp_path))
    (tmp_path / "list.json").write_text('{"target_validation": [{"case": "a", "image": "a.nii.gz"}]}')
    with pytest.raises(InputError, match="'koos'"):
        evaluate_grades(tmp_path / "grades.csv", tmp_path / "list.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.csv", "list.json", "oracle.json"]
