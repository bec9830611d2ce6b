"""Each rule finds its fault, alone, and a good registration passes."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from crossmoda.registration.quality import Evidence, Limits, find_failure


def evidence(matrix: np.ndarray | None = None, **changes: float) -> Evidence:
    """A good registration, but for the changes."""
    matrix = np.eye(4) if matrix is None else matrix
    return Evidence(matrix, **{"before": 0.1, "after": 0.6, "around": 0.2, "overlap": 0.5, **changes})


def turned(degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.array([1, 2, -2]) / 3 * degrees, degrees=True).as_matrix()
    matrix[:3, 3] = [100, -50, 3]
    return matrix


def stretched(*factors: float) -> np.ndarray:
    return turned(12) @ np.diag([*factors, 1.0])


def sheared(degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 1], matrix[1, 1] = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return turned(-5) @ matrix


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ({"overlap": 0.11}, {"overlap": 0.09}, "little overlap (0.09"),
        ({"after": 0.11, "around": 0}, {"after": 0.09, "around": 0, "before": 0}, "too little in common (0.090"),
        ({"around": 0.51}, {"around": 0.53}, "no clear optimum (0.600 nats, 0.530"),
        ({"before": 0.61}, {"before": 0.65}, "metric worse than before (0.600 after, 0.650"),
        ({"matrix": turned(29.9)}, {"matrix": turned(30.2)}, "rotation of 30 degrees"),
        ({"matrix": stretched(1.25, 1, 0.8)}, {"matrix": stretched(1.35, 1, 1)}, "implausible scale (1.00 to 1.35"),
        ({"matrix": stretched(1.25, 1, 0.8)}, {"matrix": stretched(1, 0.7, 1)}, "implausible scale (0.70 to 1.00"),
        ({"matrix": sheared(14)}, {"matrix": sheared(16)}, "implausible shear (16 degrees"),
    ],
)
def test_rule(good, bad, words):
    assert find_failure(evidence(**good), Limits()) == ""
    failure = find_failure(evidence(**bad), Limits())
    assert words in failure
    assert ";" not in failure


def test_a_mirrored_map_is_a_rotation_too_far():
    assert "rotation of 180" in find_failure(evidence(np.diag([-1.0, 1, 1, 1])), Limits())


def test_all_faults_are_named_in_one_line():
    failure = find_failure(evidence(turned(50), overlap=0.01, before=0.9), Limits())
    assert failure.count(";") == 2
    assert "\n" not in failure


@pytest.mark.parametrize("changes", [{"after": np.nan}, {"before": np.inf}, {"matrix": np.full((4, 4), np.nan)}])
def test_numbers_that_are_none(changes):
    assert find_failure(evidence(**changes), Limits()) == "the registration gave no finite numbers"


def test_rotation_and_scales_of_a_known_map():
    found = evidence(stretched(1.2, 1.0, 0.9))
    assert found.rotation_degrees == pytest.approx(12)
    np.testing.assert_allclose(found.scales, [0.9, 1.0, 1.2])
    assert evidence(sheared(7)).shear_degrees == pytest.approx(7)


def test_limits_are_the_users():
    assert find_failure(evidence(turned(20)), Limits(rotation=15)) != ""
    assert find_failure(evidence(turned(40)), Limits(rotation=45)) == ""
