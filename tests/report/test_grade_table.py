import json
import subprocess
import sys
from pathlib import Path

import pytest

from crossmoda.errors import InputError
from crossmoda.report.grade_table import grade_table, read_judgement

SCRIPT = Path(__file__).parents[2] / "scripts" / "tabulate_grades.py"


def judgement(ma_mae, n=24, ece=0.1):
    found = {"n": n, "ma_mae": ma_mae, "ma_mse": 2 * ma_mae, "balanced_accuracy": 0.5, "quadratic_kappa": None}
    guesses = {"1": {"ma_mae": 1.5, "ma_mse": 3.5}, "2": {"ma_mae": 1.0, "ma_mse": 1.5}}
    return {"all": {**found, "ece": ece, "ungraded": 1}, "constant_guess": guesses}


def test_rows_by_hand():
    table = grade_table({"geometry": [judgement(0.2), judgement(0.4)], "one": [judgement(0.25, ece=None)]})
    measured = ["0.300 ± 0.100", "0.600 ± 0.200", "0.500 ± 0.000", "", "0.100 ± 0.000", "1.0 ± 0.0"]
    assert table.rows[0] == ["geometry", "2", *measured]
    assert table.rows[1] == ["one", "1", "0.250", "0.500", "0.500", "", "", "1.0"]
    assert table.rows[3] == ["always 2", "", "1.000", "1.500", "", "", "", ""]
    assert table.title.startswith("Koos grades of 24 cases")
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_methods_on_other_cases_are_refused():
    with pytest.raises(InputError, match=r"judged on \[23, 24\] cases"):
        grade_table({"a": [judgement(0.2)], "b": [judgement(0.2, n=23)]})


def test_command(tmp_path):
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "metrics.json").write_text(json.dumps(judgement(0.1 * (seed + 1))))
    words = [sys.executable, str(SCRIPT), f"--method=net={tmp_path}/seed0,{tmp_path}/seed1", "--output"]
    done = subprocess.run([*words, str(tmp_path / "table.md")], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "| net | 2 | 0.150 ± 0.050 |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "0.150 ± 0.050" in done.stdout
    with pytest.raises(InputError, match=r"run evaluate\.yaml first"):
        read_judgement(tmp_path / "seed2")
