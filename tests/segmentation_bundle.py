"""What the tests of the segmentation-2.5d bundle share: tiny synthetic scans, and the bundle run as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import run

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles/segmentation-2.5d/configs"
SPACING = (0.5, 0.6, 1.7)
SHAPE = (44, 40, 14)


def oblique_affine(degrees=8.0, spacing=SPACING, shape=SHAPE):
    """LPS axes (as scanners write them), tilted about x, centred on the origin."""
    angle = np.deg2rad(degrees)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.diag([-1, -1, 1]) @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def ellipsoid(affine, shape, centre, radii):
    """Mask of the voxels whose centres (mm) lie in an ellipsoid."""
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1)
    position = index @ affine[:3, :3].T + affine[:3, 3]
    return (((position - np.array(centre)) / np.array(radii)) ** 2).sum(-1) <= 1


def scan_and_label(seed, affine, shape):
    random = np.random.RandomState(seed)
    label = np.zeros(shape, dtype=np.uint8)
    label[ellipsoid(affine, shape, (4 + seed % 3, 1, 0), (4, 3, 4))] = 1
    for side in (-1, 1):
        label[ellipsoid(affine, shape, (8.5 * side, -3, 0), (1.6, 1.6, 2.5))] = 2
    image = 300 + 200 * (label == 1) + 500 * (label == 2) + 30 * random.randn(*shape)
    return image.astype(np.int16), label


def write_case(folder: Path, case: str, seed: int, affine=None, shape=SHAPE) -> dict[str, str]:
    affine = oblique_affine(shape=shape) if affine is None else affine
    image, label = scan_and_label(seed, affine, shape)
    item = {"case": case, "site": "ldn" if seed % 2 else "etz"}
    for key, array, name in (("image", image, f"{case}_hrT2"), ("label", label, f"{case}_Label")):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
        item[key] = f"{name}.nii.gz"
    return item


def write_dataset(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sections = {
        "source_training": [write_case(folder, f"case_{n}", n) for n in range(4)],
        "target_validation": [write_case(folder, f"case_{n}", n) for n in (10, 11)],
    }
    path = folder / "datalist.json"
    path.write_text(json.dumps(sections))
    return path


def divide_tumours(data_list: Path, folder: Path) -> Path:
    """The same scans with the labels of crossMoDA 2023 (extra-meatal, intra-meatal, cochlea), which the list merges."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(data_list.read_text())
    for item in [item for section in content.values() for item in section]:
        label = nib.load(data_list.parent / item["label"])
        merged = np.asarray(label.dataobj)
        parts = np.where(merged == 2, 3, merged)
        inner = np.nonzero((merged == 1).any(axis=(1, 2)))[0].min() + 6  # LPS: x falls along the first axis
        parts[:inner][parts[:inner] == 1] = 2
        nib.save(nib.Nifti1Image(parts.astype(np.uint8), label.affine), folder / item["label"])
        item["image"] = str(data_list.parent / item["image"])
    path = folder / "datalist_2023.json"
    path.write_text(json.dumps(content | {"label_map": {"1": 1, "2": 1, "3": 2}}))
    return path


def bundle_config(name: str) -> str:
    return str(CONFIGS / f"{name}.yaml")


def overrides(data_list, output: Path, **more):
    """The bundle on a few thousand voxels, quietly."""
    return {
        "data_list": data_list and str(data_list),
        "output_dir": str(output),
        "ckpt_dir": str(output / "model"),
        "spacing": [0.8, 0.8, 1.7],
        "roi_size": [-1, -1, -1],
        "patch_size": [32, 32, 8],
        "window_size": [32, 32, 8],
        "network_def::channels": [4, 4, 4, 4, 4],
        "threads": 1,
        "amp": False,  # see AutocastInferer for so small patches
        "progress": False,
        "localise": False,  # nothing of a head in these scans
        **more,
    }


def train_overrides(data_list, output: Path, **more):
    return overrides(data_list, output, **{"max_epochs": 1, "num_workers": 0, "val_interval": 1, **more})


def command(config_files, values, *, module=("-m", "monai.bundle", "run"), executable=(sys.executable,)):
    words = [*executable, *module, "--config_file", repr([bundle_config(name) for name in config_files])]
    for key, value in values.items():
        words += [f"--{key}", str(value)]
    return words


def run_in_process(config_files, values):
    run(config_file=[bundle_config(name) for name in config_files], logging_file=False, **values)


def load(path):
    return torch.load(path, weights_only=True)


def same_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
