"""A folder with one DICOM series becomes a volume: read through ITK's GDCM, orientation kept.

ITK's own series reader (and MONAI's `ITKReader` over it) averages the distance between slices, so that a missing or
doubled slice gives a volume of a wrong size without a word; and it takes the first of several series. Here the
geometry is made from each slice's ImagePositionPatient and ImageOrientationPatient (DICOM PS3.3, C.7.6.2.1.1), and
what does not form one volume is refused.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import itk
import numpy as np

from crossmoda.data.writing import save_nifti
from crossmoda.errors import InputError

POSITION_TOLERANCE = 0.05  # of the distance between slices: rounding is far below it, a missing slice is 1.0
DIRECTION_TOLERANCE = 1e-3  # of a direction cosine; scanners write six digits
MAX_TILT_DEGREES = 1.0  # between the normal and the line through the positions; also the limit of shear in NIfTI

_MAGIC = b"DICM"
_MAGIC_OFFSET = 128
_EXTENSIONS = (".dcm", ".ima", ".dicom")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SOP_CLASS, _SERIES, _DESCRIPTION = "0008|0016", "0020|000e", "0008|103e"
_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_ROWS, _COLUMNS, _FRAMES = "0028|0010", "0028|0011", "0028|0008"
_SAMPLES, _PHOTOMETRIC = "0028|0002", "0028|0004"


@dataclass(frozen=True)
class _Slice:
    """What one file's header says; directions and position are DICOM's, in LPS mm."""

    path: Path
    series: str
    description: str
    size: tuple[int, int]
    spacing: np.ndarray
    position: np.ndarray
    directions: np.ndarray


def is_series(folder: str | Path) -> bool:
    """True if a folder directly holds a DICOM file; reads a few bytes of its files, up to the first such one."""
    folder = Path(folder)
    try:
        return folder.is_dir() and any(_is_dicom(path) for path in _files(folder))
    except OSError:
        return False


def read_series(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the one DICOM series in a folder.

    Slices are sorted along the normal of their plane, so that the axes (column, row, slice) are right-handed; nothing
    is flipped or resampled. Files that are not DICOM are passed over. Slices that are missing at either end of the
    series leave no gap and can't be noticed.

    Args:
        folder: holds one file a slice, of one series; its subfolders are not looked into.

    Returns:
        Voxels, shape (X, Y, Z) = (columns, rows, slices), rescaled as the files say: of an integer type where GDCM
        gives one, else float32; and the 4 x 4 affine, voxel indices to mm (RAS).

    Raises:
        InputError: if there is no DICOM file or more than one series; a file can't be read, is damaged, in colour,
            multi-frame or no image; there is one slice only; slices are missing, doubled, unevenly spaced or of
            different sizes or orientations; or the gantry was tilted.
    """
    folder = Path(os.path.abspath(folder))
    slices = [_read_slice(path) for path in _dicom_files(folder)]
    slices = _one_series(slices, folder)
    _check_same_plane(slices, folder)
    slices, affine = _arrange(slices, folder)
    array = np.stack([_read_pixels(piece.path) for piece in slices], axis=-1)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    return array, affine


def convert_series(folder: str | Path, path: str | Path) -> None:
    """Write the one DICOM series in a folder as a NIfTI file, whole or not at all.

    Args:
        folder: as in `read_series`.
        path: ends in `.nii.gz` or `.nii`; folders are made.

    Raises:
        InputError: as `read_series`.
    """
    array, affine = read_series(folder)
    save_nifti(array, affine, path)


def _files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.name != "DICOMDIR"]
    return [path for path in files if path.is_file()]


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in _EXTENSIONS:
        return True
    with path.open("rb") as file:
        file.seek(_MAGIC_OFFSET)
        return file.read(len(_MAGIC)) == _MAGIC


def _dicom_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds the files of one DICOM series")
    try:
        files = [path for path in _files(folder) if _is_dicom(path)]
        for path in files:
            path.open("rb").close()
        below = [] if files else [path.name for path in sorted(folder.iterdir()) if is_series(path)]
    except PermissionError as error:
        raise InputError(f"{error.filename} may not be read (permission denied): change its permissions") from None
    if not files:
        hint = f" (its folders {', '.join(below[:5])} do)" if below else ""
        raise InputError(f"{folder} holds no DICOM file{hint}: give the folder that holds the files of one series")
    return files


def _read_slice(path: Path) -> _Slice:
    reader = itk.GDCMImageIO.New()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(
            f"{path} is damaged, or a DICOM object without an image (a report, say): copy it again, or take it out"
        ) from None
    tags = reader.GetMetaDataDictionary()
    tags = {key: str(tags[key]).strip(" \0") for key in tags.GetKeys()}
    if tags.get(_SAMPLES, "1") != "1":
        raise InputError(f"{path} is a colour image (a screenshot?): give the series of the scan itself")
    if tags.get(_PHOTOMETRIC, "MONOCHROME2") != "MONOCHROME2":
        raise InputError(f"{path} holds {tags[_PHOTOMETRIC]} voxels, MONOCHROME2 is needed: export the series again")
    if int(tags.get(_FRAMES) or 1) > 1:
        raise InputError(
            f"{path} is a multi-frame file ({tags[_FRAMES]} frames): export one file a slice, or convert it to .nii.gz"
        )
    directions = _numbers(path, tags, _ORIENTATION, "ImageOrientationPatient", 6).reshape(2, 3)
    spacing = _numbers(path, tags, _SPACING, "PixelSpacing", 2)[::-1]  # DICOM gives that between rows first
    if spacing.min() <= 0 or not np.allclose(directions @ directions.T, np.eye(2), atol=DIRECTION_TOLERANCE):
        raise InputError(f"{path} has an impossible pixel spacing or orientation: export the series again")
    return _Slice(
        path=path,
        series=tags.get(_SERIES, ""),
        description=tags.get(_DESCRIPTION, ""),
        size=(int(tags[_COLUMNS]), int(tags[_ROWS])),
        spacing=spacing,
        position=_numbers(path, tags, _POSITION, "ImagePositionPatient", 3),
        directions=directions,
    )


def _numbers(path: Path, tags: dict[str, str], key: str, name: str, count: int) -> np.ndarray:
    """The numbers of one tag; ITK itself would take defaults where they are missing."""
    try:
        numbers = np.array([float(part) for part in re.split(r"\\", tags.get(key, ""))])
    except ValueError:
        numbers = np.array([])
    if numbers.size != count or not np.isfinite(numbers).all():
        raise InputError(f"{path} has no usable {name}, so its place in space is unknown: give the scan's own series")
    return numbers


def _one_series(slices: Sequence[_Slice], folder: Path) -> list[_Slice]:
    groups = defaultdict(list)
    for piece in slices:
        groups[piece.series].append(piece)
    if len(groups) > 1:
        names = [f"'{group[0].description or uid}' ({len(group)} files)" for uid, group in groups.items()]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise InputError(f"{folder} holds {len(groups)} DICOM series: {shown}: put each in a folder of its own")
    if len(slices) == 1:
        raise InputError(f"{folder} holds one DICOM slice only: a volume is needed, copy the whole series there")
    return list(slices)


def _check_same_plane(slices: Sequence[_Slice], folder: Path) -> None:
    first = slices[0]
    for piece in slices[1:]:
        if not np.allclose(piece.directions, first.directions, atol=DIRECTION_TOLERANCE):
            raise InputError(
                f"{folder} holds slices in different orientations ({first.path.name}, {piece.path.name}; a localiser?):"
                " give the series of one volume"
            )
        if piece.size != first.size or not np.allclose(piece.spacing, first.spacing, rtol=DIRECTION_TOLERANCE):
            raise InputError(
                f"{folder} holds slices of different sizes ({first.path.name}, {piece.path.name}):"
                " give the series of one volume"
            )


def _arrange(slices: Sequence[_Slice], folder: Path) -> tuple[list[_Slice], np.ndarray]:
    """Sort the slices along their normal and make the affine; refuses what is not evenly spaced."""
    along = slices[0].directions
    normal = np.cross(*along)
    slices = sorted(slices, key=lambda piece: piece.position @ normal)
    positions = np.array([piece.position for piece in slices])
    gaps = np.diff(positions @ normal)
    _check_gaps(gaps, slices, folder)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    drift = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(slices)), step), axis=1)
    if drift.max() > POSITION_TOLERANCE * max(gaps.mean(), *slices[0].spacing):
        piece = slices[int(drift.argmax())]
        raise InputError(f"{piece.path} lies off the line of the other slices: give the series of one volume")
    tilt = np.degrees(np.arccos(min(1.0, step @ normal / np.linalg.norm(step))))
    if tilt > MAX_TILT_DEGREES:
        raise InputError(f"{folder} was scanned with a tilt of {tilt:.1f} degrees: resample it to an orthogonal grid")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([along[0] * slices[0].spacing[0], along[1] * slices[0].spacing[1], step])
    affine[:3, 3] = positions[0]
    return slices, _LPS_TO_RAS @ affine


def _check_gaps(gaps: np.ndarray, slices: Sequence[_Slice], folder: Path) -> None:
    # The median of the gaps that are none is the true distance, unless most slices are missing.
    real = gaps[gaps > 1e-3]
    doubled = int((gaps <= 1e-3).sum())
    if doubled:
        index = int((gaps <= 1e-3).argmax())
        raise InputError(
            f"{folder} holds {doubled} slices at the place of another ({slices[index].path.name},"
            f" {slices[index + 1].path.name}; several echoes or copies?): keep one volume"
        )
    distance = float(np.median(real))
    worst = int(np.abs(gaps - distance).argmax())
    if abs(gaps[worst] - distance) > POSITION_TOLERANCE * distance:
        raise InputError(
            f"{folder} has slices missing or unevenly spaced ({gaps[worst]:.3f} mm between"
            f" {slices[worst].path.name} and {slices[worst + 1].path.name}, elsewhere {distance:.3f} mm):"
            " copy the whole series again"
        )


def _read_pixels(path: Path) -> np.ndarray:
    """One slice, shape (columns, rows), rescaled by GDCM."""
    try:
        image = itk.imread(str(path))
    except (RuntimeError, KeyError):
        raise InputError(f"{path} is damaged or compressed in an unknown way: export the series again") from None
    array = itk.array_from_image(image)
    return array.reshape(array.shape[-2:]).T
