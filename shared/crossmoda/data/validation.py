"""Validation of scans and labels on disk: one clear line for each fault, naming the file and the mend."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from tqdm import tqdm

from crossmoda.errors import InputError
from crossmoda.labels import CLASS_NAMES

Check = Literal["full", "header", "none"]

# Two grids are the same if no corner of the volume moves by more than this share of the smallest voxel edge.
# Rounding in qform quaternions moves corners of a 512 x 512 x 160 volume by some thousandths of a voxel.
GRID_TOLERANCE = 0.1

_DAMAGED = "is damaged or truncated: copy it again"
_READ_ERRORS = (EOFError, OSError, zlib.error, ValueError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Header:
    """What the header of a NIfTI file says.

    Attributes:
        path: absolute path of the file.
        shape: voxels along the three axes of the file.
        affine: 4 x 4, voxel indices to millimetres (RAS).
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges in mm, along the axes of the file."""
        return tuple(float(edge) for edge in np.linalg.norm(self.affine[:3, :3], axis=0))


def read_header(path: str | Path) -> Header:
    """Read and check the header of one volume, without its voxels.

    Args:
        path: a `.nii` or `.nii.gz` file.

    Raises:
        InputError: if the file is missing, not a NIfTI file, damaged, not 3D, or without a usable affine.
    """
    path = Path(os.path.abspath(path))
    image = _open(path)
    shape = tuple(int(size) for size in image.shape)
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path} has shape {shape}, a 3D volume is needed: {_dimension_mend(shape)}")
    header = Header(path, shape, np.asarray(image.affine, dtype=float))
    if not np.isfinite(header.affine).all() or min(header.spacing) <= 0 or _is_singular(header.affine):
        raise InputError(f"{path} has no usable affine (voxel size {header.spacing}): convert it again from DICOM")
    return header


def read_volume(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one volume whole.

    Args:
        path: a `.nii` or `.nii.gz` file.

    Returns:
        The voxels as stored (scaled if the header says so), shape (X, Y, Z), and the 4 x 4 affine.

    Raises:
        InputError: as `read_header`, and if the voxels can't be read or are not all finite.
    """
    header = read_header(path)
    try:
        array = _read_voxels(header.path)
    except _READ_ERRORS:
        raise InputError(f"{header.path} {_DAMAGED}") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise InputError(f"{header.path} has {count} voxels that are NaN or infinite: replace them or leave it out")
    if array.dtype.kind not in "iufb":
        raise InputError(f"{header.path} has voxels of type {array.dtype}: a volume of plain numbers is needed")
    return array, header.affine


def read_label(path: str | Path, allowed: Collection[int] = tuple(CLASS_NAMES)) -> tuple[np.ndarray, np.ndarray]:
    """Read one label map whole.

    Args:
        path: a `.nii` or `.nii.gz` file with whole numbers (stored as integers or floats).
        allowed: the class numbers that may occur.

    Returns:
        The label map as uint8, shape (X, Y, Z), and the 4 x 4 affine.

    Raises:
        InputError: as `read_volume`, and if another value than `allowed` occurs.
    """
    array, affine = read_volume(path)
    unknown = array[~np.isin(array, list(allowed))]
    if unknown.size:
        values = np.unique(unknown)
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if values.size > 5 else "")
        known = ", ".join(map(str, sorted(allowed)))
        raise InputError(
            f"{Path(path).absolute()} has label values {shown} but only {known} are known:"
            " correct the label, or give the data list a label_map"
        )
    return array.astype(np.uint8), affine


def same_grid(first: Header, second: Header) -> bool:
    """True if two volumes have the same shape and, within `GRID_TOLERANCE`, the same affine."""
    if first.shape != second.shape:
        return False
    corners = np.array([[*corner, 1] for corner in product(*[(0, size - 1) for size in first.shape])])
    shift = np.linalg.norm((corners @ (first.affine - second.affine).T)[:, :3], axis=1)
    return bool(shift.max() <= GRID_TOLERANCE * min(first.spacing))


def check_same_grid(path: str | Path, reference: str | Path) -> None:
    """Raise `InputError` if the volume at `path` does not lie on the grid of the one at `reference`."""
    first, second = read_header(path), read_header(reference)
    if same_grid(first, second):
        return
    if first.shape != second.shape:
        difference = f"shape {first.shape} against {second.shape}"
    else:
        difference = "same shape, other affine"
    raise InputError(f"{first.path} lies on another grid than {second.path} ({difference}): resample it to that grid")


def item_faults(
    item: dict[str, Any],
    require_label: bool = False,
    check: Check = "full",
    allowed_labels: Collection[int] = tuple(CLASS_NAMES),
) -> list[str]:
    """Validate the files of one datalist item.

    Args:
        item: with absolute paths under `image` and, as far as present, `label` and `parcellation`.
        require_label: whether a missing `label` is a fault.
        check: `full` reads every voxel, `header` reads headers only, `none` does nothing.
        allowed_labels: class numbers that the label may hold.

    Returns:
        One line for each fault.
    """
    faults = []

    def passes(function: Callable[..., Any], *args: Any) -> bool:
        try:
            function(*args)
        except InputError as error:
            faults.append(str(error))
            return False
        return True

    if require_label and not item.get("label"):
        faults.append(f"{item['image']} has no label: put its label map beside it, or take another section")
    if check == "none":
        return faults
    image_is_good = passes(read_header, item["image"])
    if image_is_good and check == "full":
        passes(read_volume, item["image"])
    for key in ("label", "parcellation"):
        if not item.get(key) or not passes(read_header, item[key]):
            continue
        if image_is_good:
            passes(check_same_grid, item[key], item["image"])
        if check == "full":
            passes(*((read_label, item[key], allowed_labels) if key == "label" else (read_volume, item[key])))
    return faults


def check_item(
    item: dict[str, Any],
    require_label: bool = False,
    check: Check = "full",
    allowed_labels: Collection[int] = tuple(CLASS_NAMES),
) -> None:
    """Raise `InputError` with the first of `item_faults`, if any; the same arguments."""
    for fault in item_faults(item, require_label, check, allowed_labels):
        raise InputError(fault)


def find_faults(
    items: Sequence[dict[str, Any]],
    require_label: bool = False,
    check: Check = "full",
    allowed_labels: Collection[int] = tuple(CLASS_NAMES),
    progress: bool = True,
    threads: int | None = None,
) -> list[list[str]]:
    """Validate many items at a time, in threads (unpacking gzip leaves Python's lock free).

    Args:
        items: datalist items with absolute paths.
        require_label: as in `check_item`.
        check: as in `check_item`.
        allowed_labels: as in `check_item`.
        progress: whether to show a bar (only on a terminal).
        threads: readers at a time; None takes the number of cores, at most 8.

    Returns:
        For each item its faults, see `item_faults`.
    """

    def faults(item: dict[str, Any]) -> list[str]:
        return item_faults(item, require_label, check, allowed_labels)

    # disable=None: no bar in a log file or a pipe
    bar = {"desc": "Checking scans", "unit": "case", "total": len(items), "leave": False}
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(faults, items), disable=None if progress else True, **bar))


def raise_first(faults: Sequence[Sequence[str]]) -> None:
    """Raise `InputError` with the first of what `find_faults` found and the number of the others."""
    lines = [line for lines in faults for line in lines]
    if lines:
        raise InputError(lines[0] + (f" (and {len(lines) - 1} more such faults)" if len(lines) > 1 else ""))


def _open(path: Path) -> nib.Nifti1Image:
    if not path.exists():
        raise InputError(f"{path} is missing: correct the path, or copy the file there")
    if path.is_dir():
        raise InputError(f"{path} is a folder: a .nii.gz file is needed")
    try:
        image = nib.load(path)
    except (ImageFileError, nib.spatialimages.HeaderDataError):
        raise InputError(_unreadable(path)) from None
    except _READ_ERRORS:
        raise InputError(f"{path} {_DAMAGED}") from None
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is a subclass
        raise InputError(f"{path} is not a NIfTI file: convert it to .nii.gz")
    return image


def _read_voxels(path: Path) -> np.ndarray:
    """Read the voxels and, unlike nibabel alone, the checksum that ends a gzip file: it tells damage in the middle."""
    image = nib.load(path)
    if path.name.endswith(".gz"):
        image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
    return np.asanyarray(image.dataobj)


def _unreadable(path: Path) -> str:
    """Tell a file cut off within its header from one that never was NIfTI (nibabel raises the same error)."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return f"{path} is not a NIfTI file: convert it to .nii.gz"
    return f"{path} {_DAMAGED} (or it is no NIfTI file: convert it to .nii.gz)"


def _dimension_mend(shape: tuple[int, ...]) -> str:
    if len(shape) < 3 or (len(shape) == 3 and min(shape) < 2):
        return "join the slices of the series into one volume"
    return "split the series and give one volume of it"


def _is_singular(affine: np.ndarray) -> bool:
    return abs(np.linalg.det(affine[:3, :3])) < 1e-9
