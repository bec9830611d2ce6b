"""Models of ordered grades, against an independent formulation and easy data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from crossmoda.errors import InputError
from crossmoda.koos.ordinal import MODELS, OrdinalLogistic, grade_model, grade_probabilities


def easy_data(seed: int = 0, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Grades in order along the first feature; the second is noise."""
    random = np.random.RandomState(seed)
    grades = np.tile([1, 2, 3, 4], n // 4)
    return np.stack([grades + 0.3 * random.randn(n), random.randn(n)], axis=1), grades


def test_ordinal_probabilities_are_differences_of_cumulative_ones() -> None:
    features, grades = easy_data()
    model = OrdinalLogistic(C=2.0).fit(features, grades)
    found = model.predict_proba(features)
    above = np.stack(
        [
            LogisticRegression(C=2.0, class_weight="balanced", max_iter=1000)
            .fit(features, grades > k)
            .predict_proba(features)[:, 1]
            for k in (1, 2, 3)
        ]
    )
    for row, (over1, over2, over3) in zip(found, above.T, strict=True):
        over2 = min(over1, over2)
        over3 = min(over2, over3)
        assert row == pytest.approx([1 - over1, over1 - over2, over2 - over3, over3])
    assert found.sum(axis=1) == pytest.approx(np.ones(len(found)))
    assert found.min() >= 0
    assert (model.predict(features) == grades).mean() > 0.8


def test_crossing_models_still_give_probabilities() -> None:
    model = OrdinalLogistic().fit(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1, 2, 3, 4]))
    model.models_[1].intercept_ += 10.0  # "above 2" is now more probable than "above 1"
    found = model.predict_proba(np.linspace(-1, 4, 11)[:, None])
    assert found.min() >= 0
    assert found.sum(axis=1) == pytest.approx(np.ones(11))


@pytest.mark.parametrize("name", MODELS)
def test_models_learn_order_and_repeat(name: str) -> None:
    features, grades = easy_data()
    test, truth = easy_data(seed=1)
    first = grade_probabilities(grade_model(name, seed=3).fit(features, grades), test, (1, 2, 3, 4))
    again = grade_probabilities(grade_model(name, seed=3).fit(features, grades), test, (1, 2, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first.argmax(1) + 1 - truth).mean() < 0.25


def test_both_is_the_mean() -> None:
    features, grades = easy_data()
    parts = [grade_model(name, 0).fit(features, grades).predict_proba(features) for name in MODELS]
    assert parts[2] == pytest.approx((parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("name", MODELS)
def test_missing_values_become_the_training_median(name: str) -> None:
    features, grades = easy_data()
    model = grade_model(name, 0).fit(features, grades)
    gap = model.predict_proba([[np.nan, 0.0]])
    assert gap == pytest.approx(model.predict_proba([[np.median(features[:, 0]), 0.0]]))
    # Missing in the training too: a further feature says so, and it tells something here.
    features[grades == 4, 1] = np.nan
    model = grade_model(name, 0).fit(features, grades)
    assert model.named_steps["simpleimputer"].transform(features).shape[1] == 3
    assert model.predict_proba([[3.5, np.nan]])[0, 3] > model.predict_proba([[3.5, 0.0]])[0, 3]


def test_a_grade_without_cases_has_probability_zero() -> None:
    features, grades = easy_data()
    model = grade_model("both", 0).fit(features[grades != 2], grades[grades != 2])
    found = grade_probabilities(model, features, (1, 2, 3, 4))
    assert (found[:, 1] == 0).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(len(found)))


def test_an_unknown_model_is_a_fault() -> None:
    with pytest.raises(InputError, match="forest, ordinal or both"):
        grade_model("tree", 0)
