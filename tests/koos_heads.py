"""Heads made of boxes whose tumour reaches as far as its Koos grade says, for tests of the geometric baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossmoda.data import save_nifti

AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
REACH = {1: (14, 22), 2: (14, 32), 3: (14, 38), 4: (14, 44)}  # voxels in x of a tumour of that grade


def head(grade: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and parcellation; the brainstem begins at voxel 38, or behind a tumour of grade 4."""
    random = np.random.RandomState(seed)
    label, parcels = np.zeros((90, 40, 24), np.uint8), np.zeros((90, 40, 24), np.uint8)
    parcels[38:57, 12:32, :] = random.randint(1, 4)
    parcels[15:80, :8, :] = 4
    low, high = REACH[grade]
    wide = 2 + (grade > 1) + (grade > 3) + random.randint(0, 2)
    label[low + random.randint(0, 3) : high, 20 - wide : 20 + wide, 12 - wide : 12 + wide] = 1
    label[8:12, 18:22, 11:13] = 2
    label[81:85, 18:22, 11:13] = 2
    return label, parcels


def write_heads(folder: Path, count: int = 12) -> list[dict]:
    """Items {case, site, koos, mask, parcellation}; `<case>_seg.nii.gz` has all structures as a segmenter's classes."""
    items = []
    for number in range(count):
        grade, case = number % 4 + 1, f"case_{number}"
        label, parcels = head(grade, number)
        merged = label.copy()
        merged[(label == 0) & np.isin(parcels, (1, 2, 3))] = 3
        merged[(label == 0) & (parcels == 4)] = 4
        for name, array in (("Label", label), ("parcels", parcels), ("seg", merged)):
            save_nifti(array, AFFINE, folder / f"{case}_{name}.nii.gz")
        files = {"mask": str(folder / f"{case}_Label.nii.gz"), "parcellation": str(folder / f"{case}_parcels.nii.gz")}
        items.append({"case": case, "site": "ldn", "koos": grade, **files})
    return items
