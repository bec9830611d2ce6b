"""What the tests of the segmentation-3d bundle share: the bundle on tiny scans, run as a user runs it."""

from __future__ import annotations

import sys
from pathlib import Path

from monai.bundle import ConfigParser, run
from segmentation_bundle import ROOT

CONFIGS = ROOT / "bundles/segmentation-3d/configs"
STRIDES = [[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]]
KERNELS = [[3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
SMALL = {"patch_size": [32, 32, 8], "strides": STRIDES, "kernel_sizes": KERNELS, "features": [4, 4, 4, 4]}
SLICES = {
    "spacing": [0.8, 0.8, -1],
    "patch_size": [32, 32, 1],
    "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1]],
    "kernel_sizes": [[3, 3, 1]] * 4,
    "batch_size": 4,
}


def bundle_config(name: str) -> str:
    return str(CONFIGS / f"{name}.yaml")


def parsed(*files: str, **values) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([bundle_config(name) for name in files])
    parser.update(values)
    parser.parse()
    return parser


def overrides(data_list, output: Path, **more):
    """The bundle on a few thousand voxels, quietly."""
    return {
        "data_list": data_list and str(data_list),
        "output_dir": str(output),
        "ckpt_dir": str(output / "model"),
        "spacing": [0.8, 0.8, 1.7],
        "roi_size": [-1, -1, -1],
        **SMALL,
        "threads": 1,
        "amp": False,  # see AutocastInferer for so small patches
        "progress": False,
        "localise": False,  # nothing of a head in these scans
        **more,
    }


def train_overrides(data_list, output: Path, **more):
    small = {"max_epochs": 1, "iterations_per_epoch": 2, "num_workers": 0, "val_interval": 1}
    return overrides(data_list, output, **{**small, **more})


def command(config_files, values, *, module=("-m", "monai.bundle", "run"), executable=(sys.executable,)):
    words = [*executable, *module, "--config_file", repr([bundle_config(name) for name in config_files])]
    for key, value in values.items():
        words += [f"--{key}", str(value)]
    return words


def run_in_process(config_files, values):
    run(config_file=[bundle_config(name) for name in config_files], logging_file=False, **values)
