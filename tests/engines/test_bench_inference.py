"""scripts/bench_inference.py: what it computes and prints (its runs take minutes)."""

import runpy
import time
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, SpatialPad

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_inference.py"


@pytest.fixture(scope="module")
def bench() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_agreement_by_hand(bench):
    first, second = np.array([0, 1, 1, 2, 0]), np.array([0, 1, 0, 2, 2])
    found = bench["agreement"](first, second)
    assert found == pytest.approx({"same voxels": 3 / 5, "Dice of class 1": 2 / 3, "Dice of class 2": 2 / 3})
    assert bench["agreement"](first, first)["Dice of class 1"] == 1


def test_a_watched_transform_is_timed_and_still_inverts(bench):
    watch, pad = bench["Stopwatch"](), SpatialPad((6, 6, 6))
    chain = Compose([pad])
    watch.watch(pad, "pad")
    padded = chain(np.ones((1, 4, 4, 4), np.float32))
    assert padded.shape == (1, 6, 6, 6)
    assert chain.inverse(padded).shape == (1, 4, 4, 4)
    assert 0 < watch.wall["pad"] < 5
    before = watch.wall["sleep"]
    watch.run("sleep", time.sleep, 0.02)
    assert watch.wall["sleep"] - before >= 0.02
    assert watch.cpu["sleep"] < 0.02


def test_table_has_a_line_for_each_step(bench, capsys):
    result = {"cpu": {"network": 20.0, "all": 50.0}, "wall": {"network": 11.0, "all": 31.0}, "gib": 2.1, "gpu_gib": 0.5}
    bench["print_table"]({"ears": result, "whole": result})
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 + len(bench["ORDER"]) + 3
    assert "| network | 11.0 (20.0) | 11.0 (20.0) |" in lines
    assert lines[-2:] == ["| peak GiB | 2.1 | 2.1 |", "| peak GiB on the GPU | 0.5 | 0.5 |"]


def test_labels_are_also_compared_where_the_first_ones_are(bench, capsys):
    ears = np.zeros((60, 60, 20), np.uint8)
    ears[20:24, 20:24, 8:10] = ears[30:34, 20:24, 8:10] = 1
    whole = ears.copy()
    whole[50:54, 50:54, 8:10] = 1  # elsewhere
    whole[26:28, 20:24, 8:10] = 1  # between them
    assert bench["surroundings"](ears) == (slice(20, 34), slice(20, 24), slice(8, 10))
    assert bench["surroundings"](np.zeros_like(ears)) == (slice(None),) * 3
    bench["print_labels"]({"ears": ears, "whole": whole}, None)
    first, near = capsys.readouterr().out.splitlines()
    assert first.endswith(f"Dice of class 1 {2 * 64 / (64 + 112):.4f}")
    assert near.endswith(f"Dice of class 1 {2 * 64 / (64 + 80):.4f}")
