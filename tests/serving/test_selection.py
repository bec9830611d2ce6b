"""How unsure a case is, and which one is next."""

import pytest

from crossmoda.serving import case_uncertainty, next_case


@pytest.mark.parametrize(
    ("entropy", "agreement", "expected"),
    [
        (0.25, None, 0.25),
        (0.25, {"VS": 0.9, "cochlea": 0.5}, 0.5),
        (0.75, {"VS": 0.9, "cochlea": 0.5}, 0.75),
        (0.0, {"VS": 1.0, "cochlea": 1.0}, 0.0),
        (None, {"VS": 1.0, "cochlea": 1.0}, 1.0),  # nothing was found
    ],
)
def test_the_greater_of_entropy_and_disagreement(entropy, agreement, expected):
    assert case_uncertainty({"entropy": entropy, "agreement": agreement}) == expected


def test_the_most_uncertain_case_is_next_and_ties_go_by_name():
    assert next_case({"a": 0.1, "b": 0.9, "c": 0.5}, {}) == "b"
    assert next_case({"b": 0.5, "a": 0.5}, {}) == "a"


def test_asking_again_goes_through_all_cases_and_starts_anew_with_the_one_shown_longest_ago():
    uncertainties, shown, order = {"a": 0.1, "b": 0.9, "c": 0.5}, {}, []
    for time in range(1, 6):
        order.append(next_case(uncertainties, shown))
        shown[order[-1]] = time
    assert order == ["b", "c", "a", "b", "c"]
