"""Answers of the Koos grading: `grades.csv` as the challenge wants it, and `<case>_koos.json` with the reasons."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data import write_text
from crossmoda.errors import InputError
from crossmoda.metrics.tables import write_rows

GRADES = (1, 2, 3, 4)
UNSURE = "unsure"
EMPTY_MASK = "empty mask"

PROBABILITY_COLUMNS = tuple(f"p{grade}" for grade in GRADES)
GRADES_FILE = "grades.csv"


@dataclass(frozen=True)
class KoosAnswer:
    """The grade of one case, or the reason why there is none.

    Attributes:
        case: its name.
        grade: 1 to 4; None if no grade is given.
        probabilities: of the grades 1 to 4, sum 1; None if they are not known.
        flags: what a reader should know before relying on the grade: `unsure`, `empty mask`, or a stage's own.
        features: what the grade was derived from, by name, numbers with NaN for what could not be measured.
        details: more for the JSON file alone.
    """

    case: str
    grade: int | None
    probabilities: tuple[float, ...] | None = None
    flags: tuple[str, ...] = ()
    features: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def grade_answer(
    case: str,
    probabilities: Sequence[float],
    unsure_below: float,
    flags: Iterable[str] = (),
    features: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
) -> KoosAnswer:
    """Answer with the most probable grade; `unsure` among the flags if no grade stands out.

    Args:
        case: its name.
        probabilities: of the grades 1 to 4, shape (4,), not negative; divided by their sum.
        unsure_below: the largest probability below which the answer is `unsure`, in [0.25, 1].
        flags: further flags.
        features: see `KoosAnswer`.
        details: see `KoosAnswer`.

    Raises:
        ValueError: if these are no probabilities of four grades.
    """
    values = np.asarray(probabilities, dtype=float)
    if values.shape != (len(GRADES),) or not np.isfinite(values).all() or values.min() < 0 or values.sum() <= 0:
        raise ValueError(f"{case}: {probabilities} are no probabilities of the grades {GRADES}")
    values = values / values.sum()
    unsure = (UNSURE,) if values.max() < unsure_below else ()
    shares = tuple(values.tolist())
    return KoosAnswer(case, GRADES[values.argmax()], shares, (*unsure, *flags), features or {}, details or {})


def no_answer(case: str, flag: str = EMPTY_MASK, features: Mapping[str, float] | None = None) -> KoosAnswer:
    """Answer without a grade, e.g. where the tumour's mask is empty: nothing is guessed."""
    return KoosAnswer(case, None, None, (flag,), features or {})


def write_answers(answers: Sequence[KoosAnswer], output_dir: str | Path) -> Path:
    """Write `<case>_koos.json` of each case and then `grades.csv` of all.

    The table's columns are `case,class` as in the challenge, `p1` to `p4`, `flags` (joined by "; ") and the features;
    what is not known is empty.

    Args:
        answers: at least one, one a case.
        output_dir: made if it is not there.

    Returns:
        The path of `grades.csv`.

    Raises:
        InputError: if there is no case, or two have one name.
    """
    if not answers:
        raise InputError(f"{output_dir}: there is no case to grade: give at least one")
    name, count = Counter(answer.case for answer in answers).most_common(1)[0]
    if count > 1:
        raise InputError(f"{name} stands {count} times among the cases to grade: take it in once")
    features = list(dict.fromkeys(name for answer in answers for name in answer.features))
    for answer in answers:
        content = {
            "case": answer.case,
            "grade": answer.grade,
            "probabilities": dict(zip(GRADES, answer.probabilities, strict=True)) if answer.probabilities else None,
            "flags": list(answer.flags),
            "features": {key: _known(value) for key, value in answer.features.items()},
            **answer.details,
        }
        write_text(json.dumps(content, indent=1) + "\n", Path(output_dir) / f"{answer.case}_koos.json")
    path = Path(output_dir) / GRADES_FILE
    write_rows([_row(answer, features) for answer in answers], path)
    return path


def read_answers(path: str | Path) -> list[KoosAnswer]:
    """Read a `grades.csv`, or any table with the columns `case,class`, as the challenge's.

    Args:
        path: the table. An empty class is no grade; without `p1` to `p4` there are no probabilities; every column
            after `flags` is a feature.

    Raises:
        InputError: if the file is missing or no such table, a class is none of 1 to 4, a number is none, or a case
            stands twice.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restkey="surplus", restval="")
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error):
        raise InputError(f"{path} is missing or no CSV file: give a {GRADES_FILE}") from None
    missing = [name for name in ("case", "class") if name not in columns]
    if missing or not rows:
        wanting = f"has no column '{missing[0]}'" if missing else "has no case"
        raise InputError(f"{path} {wanting}: give a table with the columns case,class")
    cases = Counter(row["case"] for row in rows)
    double = next((case for case, count in cases.items() if count > 1), None)
    if double is not None:
        raise InputError(f"{path}: {double} stands {cases[double]} times: keep one row")
    features = columns[columns.index("flags") + 1 :] if "flags" in columns else []
    return [_parse(row, features, path) for row in rows]


def _row(answer: KoosAnswer, features: Sequence[str]) -> dict[str, Any]:
    probabilities = answer.probabilities or ("",) * len(GRADES)
    values = {name: answer.features.get(name, math.nan) for name in features}
    return {
        "case": answer.case,
        "class": answer.grade if answer.grade is not None else "",
        **dict(zip(PROBABILITY_COLUMNS, probabilities, strict=True)),
        "flags": "; ".join(answer.flags),
        **{name: "" if _known(value) is None else float(value) for name, value in values.items()},
    }


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _parse(row: Mapping[str, str], features: Sequence[str], path: Path) -> KoosAnswer:
    try:
        grade = int(row["class"]) if row["class"] else None
        texts = [row.get(name, "") for name in PROBABILITY_COLUMNS]
        probabilities = tuple(float(text) for text in texts) if all(texts) else None
        values = {name: float(row[name]) if row[name] else math.nan for name in features}
    except ValueError as error:
        raise InputError(f"{path}, {row['case']}: {error}: correct the row") from None
    if grade not in (None, *GRADES):
        raise InputError(f"{path}, {row['case']}: class {grade} is none of {GRADES}: correct it")
    if probabilities and not (min(probabilities) >= 0 and abs(sum(probabilities) - 1) < 1e-3):
        raise InputError(f"{path}, {row['case']}: p1 to p4 are {probabilities}: correct them to sum to 1")
    flags = tuple(flag for flag in row.get("flags", "").split("; ") if flag)
    return KoosAnswer(row["case"], grade, probabilities, flags, values)
