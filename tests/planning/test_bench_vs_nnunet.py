"""The benchmark's own arithmetic; nnunetv2 itself is not needed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from planning_cases import to_fingerprint

from crossmoda.errors import InputError
from crossmoda.planning import plan_experiment

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_vs_nnunet.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_vs_nnunet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 1.5, 1]) if affine is None else affine), path)
    return str(path)


def test_crops_keep_their_place(bench, tmp_path):
    array = np.arange(10 * 8 * 6, dtype=np.int16).reshape(10, 8, 6)
    item = {"case": "a", "site": "s", "image": save(tmp_path / "i.nii.gz", array)}
    item["label"] = save(tmp_path / "l.nii.gz", (array % 3).astype(np.uint8))
    (copy,) = bench.cropped([item], [4, 20, 4], tmp_path / "cut")

    image = nib.load(copy["image"])
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array[3:7, :, 1:5])
    np.testing.assert_allclose(image.affine[:3, 3], [3 * 0.8, 0, 1.5])
    np.testing.assert_array_equal(np.asanyarray(nib.load(copy["label"]).dataobj), array[3:7, :, 1:5] % 3)


def test_plan_in_nnunets_axes(bench):
    plan = plan_experiment(to_fingerprint("crossmoda_2021_cropped"))
    numbers = bench.nnunet_plan(plan)

    assert numbers["patch_size"] == [40, 256, 192]
    assert numbers["spacing"] == [1.5, 0.41015625, 0.41015625]
    assert numbers["strides"][1] == [1, 2, 2]
    assert numbers["kernel_sizes"][0] == [1, 3, 3]
    assert numbers["mirror_axes"] == [0, 1, 2]


def test_dice_by_hand(bench, tmp_path):
    truth, found = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    truth[0, 0] = 1  # 4 voxels, 2 of them found and one more elsewhere: 2 x 2 / (4 + 3)
    found[0, 0, :2] = found[3, 3, 3] = 1
    truth[2, 2] = found[2, 2] = 2
    for folder, name in (("ours_predictions", "a_seg.nii.gz"), ("nnunet_predictions", "a.nii.gz")):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / name, found)
    scores = bench.dice(tmp_path, [{"case": "a", "label": save(tmp_path / "t.nii.gz", truth)}])

    np.testing.assert_allclose(scores["ours"], [[4 / 7, 1]])
    np.testing.assert_allclose(scores["nnunetv2"], [[4 / 7, 1]])


def test_table_by_hand(bench):
    def reports(*seconds):
        return [{"seconds": value, "cpu": value / 2, "gib": 1.5} for value in seconds]

    # the first epoch is left out; ratios of the turns are 2, 3 and 4
    training = {"ours": reports(99, 10, 20, 10), "nnunetv2": reports(1, 20, 60, 40)}
    inference = {"ours": reports(4, 5), "nnunetv2": reports(8, 15)}
    scores = {"ours": np.array([[0.6, 0.8], [0.8, 1.0]]), "nnunetv2": np.array([[0.5, 0.9], [0.5, 0.9]])}
    lines = bench.table(training, inference, scores, iterations=10).splitlines()

    assert lines[2] == "| seconds an iteration | 1.000 | 4.000 | 3.00 |"
    assert lines[3] == "| CPU seconds an iteration | 0.500 | 2.000 | 3.00 |"
    assert lines[4] == "| seconds a scan | 4.500 | 11.500 | 2.50 |"
    assert lines[6] == "| peak GiB, training | 1.50 | 1.50 | 1.00 |"
    assert lines[8] == "| Dice VS | 0.700 | 0.500 | -0.200 (difference) |"


def test_turns_are_taken_alternately(bench, monkeypatch):
    order = []

    class Side:
        def __init__(self, name):
            self.name = name

        def turn(self):
            order.append(self.name)
            return {"seconds": 1.0}

    bench.in_turns({side: Side(side) for side in bench.SIDES}, 3, "epoch")
    assert order == ["ours", "nnunetv2", "nnunetv2", "ours", "ours", "nnunetv2"]


def test_failed_side_names_its_log(bench, tmp_path):
    with (tmp_path / "side.log").open("w") as log:
        worker = bench.Worker([sys.executable, "-c", "import sys; sys.exit('no')"], log)
        with pytest.raises(InputError, match=r"side\.log"):
            worker.report()
        worker.process.stdin.close()
        worker.process.wait()


def test_environment_without_nnunetv2_is_told(tmp_path):
    command = [sys.executable, SCRIPT, "--data_list", "x.json", "--nnunet_python", "/bin/false"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == "error: --nnunet_python /bin/false: nnunetv2 can't be imported with it\n"
