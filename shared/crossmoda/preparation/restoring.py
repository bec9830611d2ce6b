"""From the prepared grid back to the scan's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from crossmoda.data import Header, read_header, read_volume, same_grid, save_nifti
from crossmoda.errors import InputError


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """Read the JSON that `prepare.py` wrote beside a prepared volume.

    Raises:
        InputError: if it is missing or not such a file.
    """
    path = Path(path).absolute()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if {"scan", "prepared", "scan_from_prepared"} <= content.keys():
            return content
    except FileNotFoundError:
        raise InputError(f"{path} is missing: name the .json beside the prepared volume") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        pass
    raise InputError(f"{path} is not a sidecar of scripts/prepare.py: name the .json beside the prepared volume")


def restore(volume: str | Path, sidecar: str | Path, output: str | Path, label: bool | None = None) -> None:
    """Write a volume that lies on a prepared grid on the grid of the raw scan.

    Args:
        volume: a label map or an image, e.g. a segmentation of the prepared scan.
        sidecar: the prepared scan's JSON.
        output: `.nii.gz` to write; outside the prepared volume it is 0.
        label: True for classes, which go back by the recipe's `back_mode`: by nearest neighbours, or each linearly
            and then the greatest. False for intensities, linearly. None decides by the data type: integers are classes.

    Raises:
        InputError: if a file can't be read, or the volume is not on the prepared grid.
    """
    facts = read_sidecar(sidecar)
    header = read_header(volume)
    prepared = Header(Path(sidecar), tuple(facts["prepared"]["shape"]), np.asarray(facts["prepared"]["affine"]))
    if not same_grid(header, prepared):
        raise InputError(f"{header.path} does not lie on the grid that {sidecar} describes: name the right sidecar")
    array, affine = read_volume(volume)
    label = array.dtype.kind in "iub" if label is None else label
    raw_header = None
    scan = Path(facts["scan"]["file"])
    if scan.is_file() and same_grid(read_header(scan), _scan_header(facts)):
        raw_header = nib.load(scan).header
    result = to_scan_grid(array, affine, facts, label)
    save_nifti(result, np.asarray(facts["scan"]["affine"]), output, header=raw_header)


def to_scan_grid(array: np.ndarray, affine: np.ndarray, sidecar: dict[str, Any], label: bool) -> np.ndarray:
    """Resample an array from the prepared grid to the scan's.

    Args:
        array: shape (X, Y, Z) of the prepared volume.
        affine: its voxels to mm of the prepared file (RAS).
        sidecar: content of the prepared scan's JSON.
        label: see `restore`.

    Returns:
        Array of the scan's shape; labels in the type given, images float32.
    """
    source = MetaTensor(torch.from_numpy(array.astype(np.float32))[None])
    source.affine = torch.as_tensor(np.asarray(sidecar["scan_from_prepared"]) @ affine)
    by_class = label and sidecar["settings"].get("back_mode", "linear") == "linear"
    values = np.unique(array) if by_class else None
    if by_class:
        places = torch.from_numpy(np.searchsorted(values, array))
        source = MetaTensor(F.one_hot(places, len(values)).movedim(-1, 0).float(), affine=source.affine)
    mode = "nearest" if label and not by_class else "bilinear"
    resample = SpatialResample(mode=mode, padding_mode="zeros", dtype=torch.float32)
    moved = resample(
        source,
        dst_affine=torch.as_tensor(np.asarray(sidecar["scan"]["affine"])),
        spatial_size=sidecar["scan"]["shape"],
    ).numpy()
    if by_class:
        # Outside the prepared volume all classes are 0; the first of equals is the least value, the background.
        return values[moved.argmax(0)].astype(array.dtype)
    return np.rint(moved[0]).astype(array.dtype) if label else moved[0]


def _scan_header(facts: dict[str, Any]) -> Header:
    scan = facts["scan"]
    return Header(Path(scan["file"]), tuple(scan["shape"]), np.asarray(scan["affine"]))
