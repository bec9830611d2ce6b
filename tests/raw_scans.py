"""Small raw scans for tests, in odd orientations and spacings, and a data list of them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (44, 40, 14)
SPACINGS = {"one": (1.6, 1.6, 3.0), "two": (2.0, 1.8, 2.5)}
FLIPS = {"one": (-1, -1, 1), "two": (1, -1, 1)}


def affine_of(kind: str) -> np.ndarray:
    """Voxels to mm: turned by 8 degrees, with its own spacing and directions of axes, the middle at the origin."""
    angle = np.deg2rad(8)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.multiply(SPACINGS[kind], FLIPS[kind]))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def write_scan(folder: Path, kind: str, name: str, with_label: bool) -> dict[str, str]:
    """A bright ball (label 1) beside a small one (label 2) in a textured ellipsoid; returns the datalist item."""
    R = np.random.RandomState(len(name))
    x, y, z = np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij")
    middle = (np.array(SHAPE) - 1) / 2
    body = sum(((axis - m) / (0.42 * size)) ** 2 for axis, m, size in zip((x, y, z), middle, SHAPE, strict=True)) < 1
    label = np.zeros(SHAPE, np.uint8)
    label[(x - middle[0] - 5) ** 2 + (y - middle[1]) ** 2 + 2 * (z - middle[2]) ** 2 < 20] = 1
    label[(x - middle[0] + 6) ** 2 + (y - middle[1]) ** 2 + 2 * (z - middle[2]) ** 2 < 6] = 2
    image = body * (300 + 60 * R.rand(*SHAPE)) + 500 * (label == 1) + 300 * (label == 2)
    item = {"case": name, "site": "ldn", "image": f"{name}_image.nii.gz"}
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine_of(kind)), folder / item["image"])
    if with_label:
        item["label"] = f"{name}_Label.nii.gz"
        nib.save(nib.Nifti1Image(label, affine_of(kind)), folder / item["label"])
    return item


def write_list(folder: Path) -> Path:
    """A data list of two labelled ceT1 scans (a, b), two hrT2 scans (c, e) and one for validation (d)."""
    content = {
        "source_training": [write_scan(folder, "one", "a", True), write_scan(folder, "two", "b", True)],
        "target_training": [write_scan(folder, "one", "c", False), write_scan(folder, "two", "e", False)],
        "target_validation": [write_scan(folder, "two", "d", False)],
    }
    path = folder / "datalist.json"
    path.write_text(json.dumps(content))
    return path
