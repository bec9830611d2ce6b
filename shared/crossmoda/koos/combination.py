"""One grade from two: the network's and the baseline's probabilities, averaged with a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss

from crossmoda.errors import InputError, exit_on_input_error
from crossmoda.koos.answers import UNSURE, KoosAnswer, grade_answer, no_answer, read_answers, write_answers
from crossmoda.koos.items import GRADES, graded_cases

BEST = "best"  # in place of a weight
WEIGHTS = np.linspace(0, 1, 21)  # steps of 0.05 are finer than some dozens of cases can tell apart
SMALLEST = 1e-3  # a probability of 0 for what did happen is not infinitely wrong: the forest has 300 trees


def combine_grades(
    network: str | Path,
    geometry: str | Path,
    output_dir: str | Path,
    weight: float = 0.5,
    unsure_below: float = 0.4,
) -> list[KoosAnswer]:
    """Average the probabilities of two tables of the same cases; writes `grades.csv` and `<case>_koos.json`.

    Args:
        network: `grades.csv` of inference.yaml.
        geometry: `grades.csv` of geometry.yaml, whose features and flags go along.
        output_dir: of the results.
        weight: of the network, in [0, 1]; the baseline has the rest.
        unsure_below: of `grade_answer`.

    Returns:
        The answers in the order of the baseline's table. A case that one of the two did not grade has the other's
        grade, with a flag that says so; without either it has none.

    Raises:
        InputError: if a table is not given or can't be read, they have different cases, one has grades without
            probabilities, or the weight is out of range.
    """
    if not network or not geometry:
        raise InputError("give --network and --geometry, grades.csv of inference.yaml and of geometry.yaml")
    if not 0 <= weight <= 1:
        raise InputError(f"weight is {weight}: give the network's share, 0 to 1")
    first, second = _matched(network, geometry)
    answers = [_combined(one, other, weight, unsure_below) for one, other in zip(first, second, strict=True)]
    write_answers(answers, output_dir)
    print(f"{len(answers)} case(s), the network's weight {weight:g}, {1 - weight:g} the baseline's: {output_dir}")
    return answers


def best_weight(network: str | Path, geometry: str | Path, data_list: str | Path) -> float:
    """The network's weight with the best log loss on the source's cases, graded out of fold by both.

    Target grades are not read. Of equally good weights the one nearest to equal weights is taken.

    Args:
        network: `grades.csv` of the source's cases by networks that did not see them.
        geometry: `out_of_fold/grades.csv` of geometry_train.yaml.
        data_list: with the true grades of `source_training`.

    Raises:
        InputError: if a table can't be read, they have different cases, or no case was graded by both.
    """
    truth = {item["case"]: item["koos"] for item in graded_cases(data_list, "source_training")}
    first, second = _matched(network, geometry)
    known = [
        (one.probabilities, other.probabilities, truth[one.case])
        for one, other in zip(first, second, strict=True)
        if one.probabilities and other.probabilities and one.case in truth
    ]
    if not known:
        raise InputError(f"{network} and {geometry} have no case of {data_list}'s source_training that both graded")
    shares, others, grades = (np.array(column) for column in zip(*known, strict=True))
    losses = {}
    for weight in WEIGHTS:
        mixed = np.maximum(weight * shares + (1 - weight) * others, SMALLEST)
        losses[float(weight)] = log_loss(grades, mixed / mixed.sum(axis=1, keepdims=True), labels=list(GRADES))
    lowest = min(losses.values())
    good = [weight for weight, loss in losses.items() if math.isclose(loss, lowest, rel_tol=1e-9)]
    chosen = min(good, key=lambda weight: abs(weight - 0.5))
    print(f"weight of the network {chosen:g}, by the log loss on {len(known)} source cases ({lowest:.3f})")
    return chosen


def network_weight(
    weight: float | str, sources: Sequence[str | Path | None] = (None, None), data_list: str | Path | None = None
) -> float:
    """The weight that was given, or the best one.

    Args:
        weight: a number, or `best`, which finds it with `best_weight`.
        sources: for that the network's and the baseline's grades of the source's cases.
        data_list: for that the source's true grades.

    Raises:
        InputError: if the weight is neither, if something to find it is missing, and as `best_weight`.
    """
    if weight != BEST:
        if isinstance(weight, str):
            raise InputError(f"weight is '{weight}': give the network's share, 0 to 1, or {BEST}")
        return weight
    if not all(sources) or not data_list:
        raise InputError("weight best needs --network_source, --geometry_source and --data_list: give them")
    return best_weight(*sources, data_list)


def _matched(network: str | Path, geometry: str | Path) -> tuple[list[KoosAnswer], list[KoosAnswer]]:
    """Answers of both tables, in the order of the second one."""
    tables = []
    for path in (network, geometry):
        answers = {answer.case: answer for answer in read_answers(path)}
        bare = [case for case, answer in answers.items() if answer.grade is not None and not answer.probabilities]
        if bare:
            raise InputError(f"{path} has no probabilities of {bare[0]}: give a table with p1 to p4")
        tables.append(answers)
    first, second = tables
    alone = sorted(set(first) ^ set(second))
    if alone:
        path = geometry if alone[0] in first else network
        raise InputError(f"{path} has no case {alone[0]}: grade the same cases by both")
    return [first[case] for case in second], list(second.values())


def _combined(network: KoosAnswer, geometry: KoosAnswer, weight: float, unsure_below: float) -> KoosAnswer:
    graded = [answer for answer in (network, geometry) if answer.probabilities]
    flags = list(dict.fromkeys(flag for answer in (network, geometry) for flag in answer.flags if flag != UNSURE))
    if not graded:
        return no_answer(geometry.case, *flags[:1], features=geometry.features)
    shares = np.mean([answer.probabilities for answer in graded], axis=0)
    if len(graded) == 2:
        shares = weight * np.array(network.probabilities) + (1 - weight) * np.array(geometry.probabilities)
    else:
        flags.append("graded by the network alone" if network.probabilities else "graded by geometry alone")
    return grade_answer(geometry.case, shares.tolist(), unsure_below, flags, geometry.features)


combine_grades_or_exit = exit_on_input_error(combine_grades)
network_weight_or_exit = exit_on_input_error(network_weight)
