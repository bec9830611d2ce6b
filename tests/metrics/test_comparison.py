import pytest

from crossmoda.errors import InputError
from crossmoda.metrics import gap_closed, paired_test


def rows(values):
    return [{"case": f"c{number}", "dice_VS": value} for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("system", "source_only", "oracle", "share"),
    [
        (0.2, 0.2, 0.8, 0.0),
        (0.8, 0.2, 0.8, 1.0),
        (0.5, 0.2, 0.8, 0.5),
        (0.1, 0.2, 0.8, -1 / 6),
        (0.9, 0.2, 0.8, 7 / 6),
        (6.0, 10.0, 2.0, 0.5),  # a distance: lower is better
    ],
)
def test_gap_closed(system, source_only, oracle, share):
    assert gap_closed(system, source_only, oracle) == pytest.approx(share)


def test_no_gap():
    assert gap_closed(0.5, 0.7, 0.7) is None
    assert gap_closed(float("nan"), 0.2, 0.7) is None


def test_paired_test_by_hand():
    # Five differences of one sign: the smallest two-sided p-value of the exact test is 2 / 2**5.
    first, second = rows([0.1, 0.2, 0.3, 0.4, 0.5]), rows([0.2, 0.4, 0.6, 0.8, 1.0])
    result = paired_test(first, second[::-1], "dice_VS")
    assert result["n"] == 5
    assert result["median_difference"] == pytest.approx(-0.3)
    assert result["p_value"] == pytest.approx(2 / 2**5)
    assert paired_test(first, first, "dice_VS")["p_value"] == 1


def test_other_cases():
    with pytest.raises(InputError, match="different cases"):
        paired_test(rows([0.1]), rows([0.1, 0.2]), "dice_VS")
