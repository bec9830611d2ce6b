"""Cross-validation with every grade in every fold."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.model_selection import StratifiedKFold

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.answers import GRADES
from crossmoda.koos.items import Item


def grade_folds(items: Sequence[Item], num_folds: int = 5, seed: int = 0) -> list[list[str]]:
    """Divide the cases into folds that hold the grades in about the same proportions.

    Items of one case (a subject) stay together. The same cases, grades and seed give the same folds, whatever the order
    of the items. Scikit-learn's `StratifiedKFold` on the sorted cases; a grade with fewer cases than folds is missing
    from some of them.

    Args:
        items: with `case` and `koos`.
        num_folds: at least two.
        seed: of the choice.

    Returns:
        For each fold its cases, sorted.

    Raises:
        InputError: if a case has two grades, or no grade has as many cases as there are folds.
    """
    grades: dict[str, int] = {}
    for item in items:
        if grades.setdefault(item["case"], item["koos"]) != item["koos"]:
            raise InputError(f"case {item['case']} has two Koos grades, {grades[item['case']]} and {item['koos']}")
    cases = sorted(grades)
    classes = [grades[case] for case in cases]
    most = max((classes.count(grade) for grade in GRADES), default=0)
    if num_folds < 2 or most < num_folds:
        raise InputError(f"num_folds is {num_folds}, and no Koos grade has more than {most} cases: give 2 to {most}")
    split = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(cases, classes)
    return [[cases[index] for index in held_out] for _, held_out in split]


def split_fold(items: Sequence[Item], fold: int, num_folds: int = 5, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Training items and held-out items of one fold of `grade_folds`, each in the order given.

    Raises:
        InputError: if the fold is out of range, and as `grade_folds`.
    """
    if not 0 <= fold < num_folds:
        raise InputError(f"fold is {fold} of {num_folds}: give 0 to num_folds - 1")
    held_out = set(grade_folds(items, num_folds, seed)[fold])
    return (
        [item for item in items if item["case"] not in held_out],
        [item for item in items if item["case"] in held_out],
    )


split_fold_or_exit = exit_on_input_error(split_fold)
