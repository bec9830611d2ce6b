"""Validation of scans and labels on disk: one clear line for each fault, naming the file and the mend."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.data.utils import correct_nifti_header_if_necessary
from tqdm import tqdm

from crossmoda.data.dicom import read_series
from crossmoda.data.nifti import check_affine, open_nifti, read_voxels
from crossmoda.errors import InputError
from crossmoda.labels import CLASS_NAMES

Check = Literal["full", "header", "none"]

# Two grids are the same if no corner of the volume moves by more than this share of the smallest voxel edge.
# Rounding in qform quaternions moves corners of a 512 x 512 x 160 volume by some thousandths of a voxel.
GRID_TOLERANCE = 0.1

LARGEST_VALUE = float(np.finfo(np.float32).max)  # all stages compute in float32


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
        InputError: if the file is missing, may not be read, is not a NIfTI file, damaged, not 3D, not of plain
            numbers, without a usable affine (see `crossmoda.data.nifti.check_affine`), or with a contradictory one.
    """
    path = Path(os.path.abspath(path))
    image = open_nifti(path)
    shape = tuple(int(size) for size in image.shape)
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path} has shape {shape}, a 3D volume is needed: {_dimension_mend(shape)}")
    affine = np.array(image.affine, dtype=float)
    check_affine(path, affine)
    header = Header(path, shape, affine)
    # Where spacing and sform differ MONAI's reader takes the qform in silence, even one that is marked as unknown.
    as_monai_reads = np.asarray(correct_nifti_header_if_necessary(image).affine, dtype=float)
    if not same_grid(header, Header(path, shape, as_monai_reads)):
        raise InputError(
            f"{path} has a header that contradicts itself (pixdim, qform and sform give different grids):"
            " convert it again from DICOM, or copy the right one over the others"
        )
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
    array = read_voxels(header.path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise InputError(f"{header.path} has {count} voxels that are NaN or infinite: replace them or leave it out")
    largest = max(abs(float(array.min())), abs(float(array.max())))
    if largest > LARGEST_VALUE:
        raise InputError(f"{header.path} has voxels as large as {largest:.3g}: correct the scaling in its header")
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
    _check_same_grid(read_header(path), read_header(reference))


def _check_same_grid(first: Header, second: Header) -> None:
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
    allow_dicom: bool = False,
) -> list[str]:
    """Validate the files of one datalist item.

    Args:
        item: with absolute paths under `image` and, as far as present, `label` and `parcellation`.
        require_label: whether a missing `label`, or one of background alone, is a fault.
        check: `full` reads every voxel, `header` reads headers only, `none` does nothing.
        allowed_labels: class numbers that the label may hold.
        allow_dicom: whether the image may be a folder with a DICOM series; it is read whole, to be sure of its grid.

    Returns:
        One line for each fault.
    """
    faults = []

    def attempt(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except InputError as error:
            faults.append(str(error))
            return None

    if require_label and not item.get("label"):
        faults.append(f"{item['image']} has no label: put its label map beside it, or take another section")
    if check == "none":
        return faults
    series = allow_dicom and Path(item["image"]).is_dir()
    header = attempt(_read_series_header if series else read_header, item["image"])
    if header and check == "full" and not series:
        attempt(_read_image, item["image"])
    for key in ("label", "parcellation"):
        own = attempt(read_header, item[key]) if item.get(key) else None
        if not own:
            continue
        if header:
            attempt(_check_same_grid, own, header)
        if check == "full" and key == "label":
            attempt(_read_item_label, item[key], allowed_labels, require_label)
        elif check == "full":
            attempt(read_volume, item[key])
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
    allow_dicom: bool = False,
) -> list[list[str]]:
    """Validate many items at a time, in threads (unpacking gzip leaves Python's lock free).

    Args:
        items: datalist items with absolute paths.
        require_label: as in `check_item`.
        check: as in `check_item`.
        allowed_labels: as in `check_item`.
        progress: whether to show a bar (only on a terminal).
        threads: readers at a time; None takes the number of cores, at most 8.
        allow_dicom: as in `item_faults`.

    Returns:
        For each item its faults, see `item_faults`.
    """

    def faults(item: dict[str, Any]) -> list[str]:
        return item_faults(item, require_label, check, allowed_labels, allow_dicom)

    # disable=None: no bar in a log file or a pipe
    bar = {"desc": "Checking scans", "unit": "case", "total": len(items), "leave": False}
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        return list(tqdm(pool.map(faults, items), disable=None if progress else True, **bar))


def raise_first(faults: Sequence[Sequence[str]]) -> None:
    """Raise `InputError` with the first of what `find_faults` found and the number of the others."""
    lines = [line for lines in faults for line in lines]
    if lines:
        raise InputError(lines[0] + (f" (and {len(lines) - 1} more such faults)" if len(lines) > 1 else ""))


def _read_image(path: str | Path) -> None:
    array, _ = read_volume(path)
    _check_signal(path, array)


def _read_series_header(folder: str | Path) -> Header:
    array, affine = read_series(folder)
    _check_signal(folder, array)
    return Header(Path(folder), array.shape, affine)


def _check_signal(path: str | Path, array: np.ndarray) -> None:
    if array.min() == array.max():
        raise InputError(f"{path} has no signal (all voxels are {array.flat[0]:g}): export it again, or leave it out")


def _read_item_label(path: str | Path, allowed: Collection[int], required: bool) -> None:
    label, _ = read_label(path, allowed)
    if required and not label.any():
        raise InputError(f"{path} is an empty label (background alone): draw the structures, or leave the case out")


def _dimension_mend(shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return "it is empty, convert it again"
    if len(shape) < 3 or (len(shape) == 3 and min(shape) < 2):
        return "join the slices of the series into one volume"
    return "split the series and give one volume of it"
