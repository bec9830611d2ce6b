"""The overlay in the bundle: its entries are the bundle's, and the network is the planned one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from planning_cases import to_fingerprint

from crossmoda.bundle import bundle_root
from crossmoda.errors import InputError
from crossmoda.planning import feature_map_voxels, plan_experiment, plan_overlay, topology_v2

ROOT = Path(__file__).parents[2]
CONFIGS = Path(bundle_root("segmentation-3d")) / "configs"


def write(plan, folder):
    path = folder / "plan.yaml"
    path.write_text(plan_overlay(plan, "a test"), encoding="utf-8")
    return path


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("name", ["phantom_cropped", "crossmoda_2021_cropped"])
def test_entries_are_the_bundles(tmp_path, name, configuration):
    plan = plan_experiment(to_fingerprint(name), configuration)
    path = write(plan, tmp_path)
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))

    assert set(entries) - set(yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))) == set()
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(path)])
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)]
    assert {tuple(module.stride) for module in convolutions} == {*plan.strides}
    assert {tuple(module.kernel_size) for module in convolutions} == {*plan.kernel_sizes, (1, 1, 1)}
    assert max(module.out_channels for module in convolutions) == max(plan.features)
    patch = parser.get_parsed_content("patch_size")
    assert tuple(patch) == plan.patch_size
    assert all(edge % by == 0 for edge, by in zip(patch, parser.get_parsed_content("patch_divisor"), strict=True))
    assert parser.get_parsed_content("batch_dice") is plan.batch_dice
    assert (parser.get_parsed_content("spacing")[2] == -1) is (configuration == "2d")


def test_one_training_step_and_the_loss_weights(tmp_path):
    plan = plan_experiment(to_fingerprint("phantom_cropped"), "3d_fullres")
    plan = replace(plan, features=(2, 4, 4, 4, 4))
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(write(plan, tmp_path))])
    outputs = parser.get_parsed_content("network_def")(torch.rand(1, 1, *plan.patch_size))
    loss = parser.get_parsed_content("loss")(outputs, torch.randint(3, (1, 1, *plan.patch_size)).to(torch.uint8))

    assert torch.isfinite(loss)
    weights = parser.get_parsed_content("output_weights")
    assert weights == pytest.approx(plan.deep_supervision_weights[:-1])  # the last is 0, and its head is left out


def test_other_slice_axes_are_told():
    plan = plan_experiment(to_fingerprint("crossmoda_2021_cropped"))
    with pytest.raises(InputError, match="across x"):
        plan_overlay(replace(plan, slice_axis=0))


def test_memory_measure_by_hand():
    # 16 x 8, two poolings to 4 x 4 (8 < 2 x 4 is too short to halve again along y alone after 16 -> 8 -> 4)
    topology = topology_v2([1.0, 1.0], [16, 8])
    assert topology.strides == ((1, 1), (2, 2))
    # (2 + 2 + 1) x 32 x 128 at full size, 2 x 64 x 32 below, 3 classes x 128
    assert feature_map_voxels(topology, [32, 64], 3) == 5 * 32 * 128 + 2 * 64 * 32 + 3 * 128


def run_script(*arguments):
    command = [sys.executable, ROOT / "scripts" / "plan_nnunet.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_command_writes_the_plan(tmp_path):
    voxels = np.random.RandomState(0).rand(48, 40, 16).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 1.5, 1])), tmp_path / "a.nii.gz")
    items = [{"case": f"c{index}", "site": "", "image": "a.nii.gz"} for index in range(3)]
    (tmp_path / "list.json").write_text(json.dumps({"source_training": items}), encoding="utf-8")
    done = run_script("--data_list", tmp_path / "list.json", "--output", tmp_path / "out" / "plan.yaml")

    assert done.returncode == 0, done.stderr
    assert "3 scans: patch 48 x 40 x 16 at 0.8 x 0.8 x 1.5 mm" in done.stdout
    entries = yaml.safe_load((tmp_path / "out" / "plan.yaml").read_text(encoding="utf-8"))
    assert entries["patch_size"] == [48, 40, 16]
    assert entries["spacing"] == [0.8, 0.8, 1.5]
    assert entries["features"][0] == 32

    wrong = run_script("--data_list", tmp_path / "none.json", "--output", tmp_path / "plan.yaml")
    assert wrong.returncode == 2
    assert "none.json is missing" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    assert not (tmp_path / "plan.yaml").exists()
