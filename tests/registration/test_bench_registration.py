"""The issue's criterion on a small sample: scripts/bench_registration.py, undeformed heads of all sites."""

import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_registration.py"


@pytest.fixture(scope="module")
def bench() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_offsets_stay_within_their_limits_and_fill_them(bench):
    R = np.random.RandomState(0)
    offsets = [bench["draw_offset"](R, 20, 15) for _ in range(200)]
    shifts = np.array([np.linalg.norm(m[:3, 3]) for m in offsets])
    angles = np.array([np.rad2deg(np.arccos((np.trace(m[:3, :3]) - 1) / 2)) for m in offsets])
    assert shifts.max() <= 20
    assert angles.max() <= 15
    assert shifts.mean() == pytest.approx(10, abs=1.5)
    assert angles.mean() == pytest.approx(7.5, abs=1.2)


def test_best_rigid_fit_recovers_a_rigid_map(bench):
    R = np.random.RandomState(1)
    true, points = bench["draw_offset"](R, 20, 15), 50 * R.randn(3, 40)
    moved = true[:3, :3] @ points + true[:3, 3:]
    np.testing.assert_allclose(bench["best_rigid"](points, moved), true, atol=1e-10)
    mirrored = bench["best_rigid"](points, -points)
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1)


def test_table_counts(bench):
    def trial(error: float, failure: str = "") -> object:
        return bench["Trial"](0, "ldn", "ceT1", False, 0, error, error, [], failure, 4.0)

    text = bench["table"]([trial(0.5), trial(0.7), trial(8.0), trial(30.0, "flagged")], 5.0)
    assert "| all | 4 | 9.80 | 4.35 | 30.00 | 50.0 % | 1 | 1 | 4.0 |" in text


@pytest.mark.slow
def test_known_poses_are_recovered_within_a_millimetre(bench):
    trials = [t for n in range(8) for t in bench["run_case"](n, False, 100, 20.0, 15.0, "elastix")]
    assert all(t.failure == "" for t in trials)
    assert max(t.error for t in trials) <= 1.0  # mm at the cochleae
    assert np.median([t.error for t in trials]) <= 0.4


@pytest.mark.slow
def test_deformed_heads_come_back_alike_from_two_offsets(bench):
    trials = [t for n in (1, 2) for t in bench["run_case"](n, True, 100, 20.0, 15.0, "elastix")]
    assert all(t.failure == "" for t in trials)
    assert bench["repeatability"](trials).max() <= 0.7  # mm
    assert max(t.error for t in trials) <= 5.0
