"""Combination of the network's grades with the baseline's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crossmoda.errors import InputError
from crossmoda.koos import KoosAnswer, best_weight, combine_grades, grade_answer, network_weight, no_answer
from crossmoda.koos.answers import read_answers, write_answers


def tables(tmp_path: Path, first: list[KoosAnswer], second: list[KoosAnswer]) -> tuple[Path, Path]:
    return write_answers(first, tmp_path / "network"), write_answers(second, tmp_path / "geometry")


def test_probabilities_are_averaged_and_features_go_along(tmp_path) -> None:
    paths = tables(
        tmp_path,
        [grade_answer("b", [0.6, 0.4, 0, 0], 0.4), grade_answer("a", [0.3, 0.3, 0.2, 0.2], 0.4)],
        [
            grade_answer("a", [0, 0, 0.2, 0.8], 0.4, ["no cerebellum"], {"volume_ml": 2.0}),
            grade_answer("b", [0, 0.7, 0.3, 0], 0.4, [], {"volume_ml": 1.0}),
        ],
    )
    combine_grades(*paths, tmp_path / "out", weight=0.25)
    first, second = read_answers(tmp_path / "out" / "grades.csv")
    assert (first.case, first.grade, first.flags) == ("a", 4, ("no cerebellum",))  # the network's `unsure` is gone
    assert first.probabilities == pytest.approx([0.075, 0.075, 0.2, 0.65])
    assert (second.case, second.grade) == ("b", 2)
    assert second.probabilities == pytest.approx([0.15, 0.625, 0.225, 0])
    assert second.features == {"volume_ml": 1.0}
    assert json.loads((tmp_path / "out" / "a_koos.json").read_text())["grade"] == 4


def test_a_case_that_one_did_not_grade_has_the_others_grade(tmp_path) -> None:
    paths = tables(
        tmp_path,
        [no_answer("a"), no_answer("b"), grade_answer("c", [0, 0, 1, 0], 0.4)],
        [grade_answer("a", [1, 0, 0, 0], 0.4), no_answer("b"), no_answer("c")],
    )
    a, b, c = combine_grades(*paths, tmp_path / "out")
    assert (a.grade, a.flags) == (1, ("empty mask", "graded by geometry alone"))
    assert (b.grade, b.flags) == (None, ("empty mask",))
    assert (c.grade, c.flags) == (3, ("empty mask", "graded by the network alone"))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_all_the_weight_is_one_side_alone(tmp_path, weight: float) -> None:
    sides = [grade_answer("a", [0.1, 0.2, 0.3, 0.4], 0.4), grade_answer("a", [0.7, 0.1, 0.1, 0.1], 0.4)]
    paths = tables(tmp_path, sides[:1], sides[1:])
    (found,) = combine_grades(*paths, tmp_path / "out", weight)
    assert found.probabilities == pytest.approx(sides[0 if weight else 1].probabilities)


def source_list(tmp_path: Path, grades: dict[str, int | str]) -> Path:
    items = [{"case": case, "image": f"{case}.nii.gz", "koos": grade} for case, grade in grades.items()]
    (tmp_path / "datalist.json").write_text(json.dumps({"source_training": items}))
    return tmp_path / "datalist.json"


def test_the_best_weight_has_the_lowest_log_loss(tmp_path) -> None:
    random = np.random.RandomState(0)
    grades = {f"c{n}": int(n % 4 + 1) for n in range(24)}
    sides = []
    for noise in (1.5, 0.8):  # the second is the better one
        shares = [np.exp(-np.abs(np.arange(1, 5) - grade) + noise * random.randn(4)) for grade in grades.values()]
        sides.append([grade_answer(case, share, 0.4) for case, share in zip(grades, shares, strict=True)])
    found = best_weight(*tables(tmp_path, *sides), source_list(tmp_path, grades | {"post": "post-operative-london"}))

    def loss(weight: float) -> float:
        terms = []
        for one, other in zip(*sides, strict=True):
            place = grades[one.case] - 1
            terms.append(-np.log(weight * one.probabilities[place] + (1 - weight) * other.probabilities[place]))
        return float(np.mean(terms))

    assert loss(found) == pytest.approx(min(loss(weight) for weight in np.linspace(0, 1, 21)), abs=1e-6)
    assert found < 0.5
    assert network_weight(0.3) == 0.3


def test_equally_good_weights_give_equal_weights(tmp_path) -> None:
    same = [grade_answer("a", [0.1, 0.2, 0.3, 0.4], 0.4), grade_answer("b", [0.7, 0.1, 0.1, 0.1], 0.4)]
    assert best_weight(*tables(tmp_path, same, same), source_list(tmp_path, {"a": 4, "b": 1})) == 0.5


def test_faults_are_named(tmp_path) -> None:
    one, two = tables(tmp_path, [no_answer("a")], [no_answer("b")])
    with pytest.raises(InputError, match=r"geometry.*has no case a"):
        combine_grades(one, two, tmp_path / "out")
    with pytest.raises(InputError, match="weight is 2"):
        combine_grades(one, one, tmp_path / "out", weight=2)
    with pytest.raises(InputError, match="give --network and --geometry"):
        combine_grades(None, one, tmp_path / "out")
    (tmp_path / "bare.csv").write_text("case,class\na,2\n")
    with pytest.raises(InputError, match="no probabilities of a"):
        combine_grades(one, tmp_path / "bare.csv", tmp_path / "out")
    with pytest.raises(InputError, match="needs --network_source"):
        network_weight("best", [one, None], tmp_path / "datalist.json")
    with pytest.raises(InputError, match="weight is 'good'"):
        network_weight("good")
    with pytest.raises(InputError, match="both graded"):
        best_weight(one, one, source_list(tmp_path, {"a": 4}))
    assert not (tmp_path / "out").exists()
