"""Koos grades: items and folds, geometric features and their models, answers."""

from crossmoda.koos.answers import (
    EMPTY_MASK,
    GRADES,
    GRADES_FILE,
    UNSURE,
    KoosAnswer,
    grade_answer,
    no_answer,
    read_answers,
    write_answers,
)

__all__ = [
    "EMPTY_MASK",
    "GRADES",
    "GRADES_FILE",
    "UNSURE",
    "KoosAnswer",
    "grade_answer",
    "no_answer",
    "read_answers",
    "write_answers",
]
