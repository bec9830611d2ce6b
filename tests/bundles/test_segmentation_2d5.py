"""The segmentation-2.5d bundle, run as a user runs it, on tiny synthetic scans."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

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
