"""Our planner against nnunetv2's: recorded plans, and live ones where an environment has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from planning_cases import ours_as_nnunet, to_fingerprint

from crossmoda.errors import InputError
from crossmoda.planning import Fingerprint, plan_experiment, target_spacing

HERE = Path(__file__).parent
RECORDS = json.loads((HERE / "data" / "nnunet_plans.json").read_text(encoding="utf-8"))["records"]
NAMES = [
    "-".join([record["name"], *(f"{key}{value}" for key, value in record["setting"].items())]) for record in RECORDS
]


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_plans_are_those_of_nnunetv2(record, configuration):
    setting = dict(record["setting"])
    fingerprint = to_fingerprint(record["name"], setting.pop("relative_size", 1.0))
    plan = plan_experiment(fingerprint, configuration, **setting)

    expected = record["plans"][configuration]
    assert expected.pop("normalization") == "ZScoreNormalization"
    found = ours_as_nnunet(plan, record["plans"]["transpose"])
    assert found.pop("spacing") == pytest.approx(expected.pop("spacing"), rel=1e-12)
    assert found == expected


@pytest.mark.slow
def test_live_planner_says_what_was_recorded():
    python = os.environ.get("NNUNET_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import nnunetv2"], capture_output=True)
    if probe.returncode:
        pytest.skip("nnunetv2 is not installed; set NNUNET_PYTHON to the python of an environment that has it")
    run = subprocess.run(
        [python, HERE / "record_nnunet_plans.py"], capture_output=True, text=True, check=True, timeout=600
    )
    live = json.loads(run.stdout)["records"]
    recorded = json.loads((HERE / "data" / "nnunet_plans.json").read_text(encoding="utf-8"))["records"]
    assert live == recorded


# In nnU-Net's order (z, y, x): a rectangular head in 80 slices, as crops and half-empty matrices give it.
SHIN = Fingerprint(np.tile([0.41015625, 0.41015625, 1.5], (105, 1)), np.tile([400, 512, 80], (105, 1)), 1.0)


def test_shin_2021_patch_comes_out():
    plan = plan_experiment(SHIN, "3d_fullres")

    # Shin 2021, 2.3: 40 x 256 x 192, 32 kernels at first; strides and kernels as methods of nnU-Net give them for it
    assert plan.patch_size[::-1] == (40, 256, 192)
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert [stage[::-1] for stage in plan.strides] == strides
    assert [stage[::-1] for stage in plan.kernel_sizes] == [(1, 3, 3)] + 5 * [(3, 3, 3)]
    assert plan.features == (32, 64, 128, 256, 320, 320)
    assert (plan.batch_size, plan.dummy_2d, plan.separate_slices) == (2, True, True)
    assert plan.rotation == pytest.approx(np.pi)


def test_shin_2021_six_downsamplings_are_version_1s():
    plan = plan_experiment(SHIN, "3d_fullres", rules="v1")

    # Shin 2021, 2.3: "a total of 6 downsampling operations"; v1 halves 256 once more, down to 4
    assert plan.patch_size[::-1] == (40, 256, 192)
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 1)]
    assert [stage[::-1] for stage in plan.strides] == strides
    assert [stage[::-1] for stage in plan.kernel_sizes] == [(1, 3, 3)] + 6 * [(3, 3, 3)]
    assert plan.batch_size == 2


def test_target_spacing_by_hand():
    shapes = np.tile([200, 200, 12], (10, 1))
    spacings = np.tile([1.0, 1.0, 5.0], (10, 1))
    spacings[:2, 2] = 2.0, 3.0
    # 5 > 3 x 1 and 3 x 12 < 200: the 10th percentile of {2, 3, 5 ...}, at place 0.9 of the sorted ten
    assert target_spacing(Fingerprint(spacings, shapes, 1.0)) == pytest.approx([1, 1, 2.9])
    shapes[:, 2] = 70  # 3 x 70 > 200: many slices, so the median
    assert target_spacing(Fingerprint(spacings, shapes, 1.0)) == pytest.approx([1, 1, 5.0])
    shapes[:, 2], spacings[:2, 2] = 12, 0.5  # never finer than the other axes
    assert target_spacing(Fingerprint(spacings, shapes, 1.0)) == pytest.approx([1, 1, 1.00001])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slice_axis_goes_with_the_data(axis):
    def turned(values):
        return np.roll(values, axis - 2)

    upright = Fingerprint(np.tile([0.5, 0.5, 2.0], (9, 1)), np.tile([300, 280, 40], (9, 1)), 1.0)
    lying = Fingerprint(np.tile(turned([0.5, 0.5, 2.0]), (9, 1)), np.tile(turned([300, 280, 40]), (9, 1)), 1.0)
    expected, plan = (plan_experiment(fingerprint, "2d") for fingerprint in (upright, lying))

    assert plan.slice_axis == axis
    assert plan.patch_size[axis] == 1
    assert sorted(plan.patch_size) == sorted(expected.patch_size)
    assert all(strides[axis] == 1 for strides in plan.strides)
    assert all(kernel[axis] == 1 for kernel in plan.kernel_sizes)
    assert plan.mirror_axes == tuple(other for other in range(3) if other != axis)


def test_deep_supervision_weights():
    plan = plan_experiment(SHIN)
    # five outputs: 1, 1/2, 1/4, 1/8 and 0 (the coarsest), of sum 1.875
    assert plan.deep_supervision_weights == pytest.approx(np.array([1, 0.5, 0.25, 0.125, 0]) / 1.875)


def test_more_memory_never_gives_a_smaller_step():
    fingerprint = to_fingerprint("crossmoda_2022_hrt2")
    sizes = []
    for memory in (1, 2, 4, 8, 16, 32):
        plan = plan_experiment(fingerprint, memory_gb=memory)
        assert plan.feature_voxels <= 560e6 * memory / 8
        sizes.append(np.prod(plan.patch_size) * plan.batch_size)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_gb": 0}, "memory_gb"),
        ({"memory_gb": 1e-6}, "more memory"),
        ({"configuration": "3d_lowres"}, "3d_lowres"),
        ({"rules": "v3"}, "v3"),
        ({"rules": "v1", "configuration": "2d"}, "v2"),
        ({"classes": 1}, "classes"),
    ],
)
def test_impossible_wishes_are_told(change, message):
    with pytest.raises(InputError, match=message):
        plan_experiment(SHIN, **change)


def test_flat_and_tiny_scans():
    flat = Fingerprint(np.ones((3, 3)), np.tile([64, 64, 1], (3, 1)), 1.0)
    with pytest.raises(InputError, match="2d"):
        plan_experiment(flat)
    tiny = Fingerprint(np.ones((3, 3)), np.tile([6, 6, 6], (3, 1)), 1.0)
    with pytest.raises(InputError, match="too small"):
        plan_experiment(tiny)
