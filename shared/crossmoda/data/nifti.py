"""NIfTI files read with suspicion: whatever bytes a file holds, a sound image or one clear `InputError` comes out.

nibabel sets a negative or zero spacing and an unknown sform code right by itself and says so in a log only, allocates
what the header claims, and does not check the checksum that ends a gzip file.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from crossmoda.data.dicom import MAX_TILT_DEGREES, is_series
from crossmoda.errors import InputError

MIN_SPACING, MAX_SPACING = 0.05, 20.0  # mm; beyond these it is another unit, or a broken header
MAX_ORIGIN = 10_000.0  # mm from the scanner's centre; computing with places beyond loses digits, and no scan lies there
MAX_VOXELS = 10**9  # 30 times a crossMoDA scan; a header that claims more is broken

# What nibabel, gzip and numpy raise on damaged bytes (found by changing headers at random, see the tests).
READ_ERRORS = (
    ArithmeticError,
    EOFError,
    HeaderDataError,
    ImageFileError,
    LookupError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
    zlib.error,
)
_DAMAGED = "is damaged or truncated: copy it again"
_NOT_NIFTI = "is not a NIfTI file: convert it to .nii.gz"
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032  # times that gzip can shrink data at most (RFC 1951: 258 bytes in two bits)
_CHUNK = 1 << 24

# What nibabel says of headers that it mends by itself; what matters of it is checked here, in the user's words.
nib.imageglobals.logger.addFilter(lambda record: False)


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a file and check its header; the voxels are not read, but the file has room for them.

    Args:
        path: a `.nii` or `.nii.gz` file.

    Raises:
        InputError: if the file is missing, may not be read, is not a NIfTI file, is damaged, claims an impossible
            size or spacing, or holds anything but plain numbers. Dimensions and affine are not checked here.
    """
    _check_path(path)
    header = _read_header_bytes(path)
    _check_header(path, header)
    try:
        image = nib.load(path)
        image.header.get_qform()  # read later by MONAI, even where the sform counts; raises if it is no rotation
    except ImageFileError:
        raise InputError(_unreadable(path)) from None
    except READ_ERRORS as error:
        raise InputError(_header_fault(path, error)) from None
    return image


def read_voxels(path: Path, scaled: bool = True) -> np.ndarray:
    """Read the voxels of a file that `open_nifti` accepts, and check that it holds as many as its header says.

    Args:
        path: a `.nii` or `.nii.gz` file.
        scaled: False gives the numbers as stored, whatever slope the header has.

    Returns:
        The voxels, scaled if the header says so, shape (X, Y, Z).

    Raises:
        InputError: if the file is damaged or truncated; unlike nibabel alone this checks a gzip file's checksum.
    """
    try:
        image = nib.load(path)
        if path.name.endswith(".gz"):
            image = type(image).from_bytes(_unpack(path, image.dataobj))
        with np.errstate(all="ignore"):  # a scaling that overflows gives infinite voxels, which are refused
            return np.asanyarray(image.dataobj) if scaled else np.asanyarray(image.dataobj.get_unscaled())
    except PermissionError:
        raise InputError(_forbidden(path)) from None
    except InputError:
        raise
    except READ_ERRORS:
        raise InputError(f"{path} {_DAMAGED}") from None


def check_affine(path: Path, affine: np.ndarray) -> None:
    """Refuse an affine that is not one of a scan: not finite, flat, sheared, far away, or of impossible voxel size.

    Args:
        path: for the message.
        affine: 4 x 4, voxel indices to mm.

    Raises:
        InputError: see above.
    """
    axes = affine[:3, :3]
    if not np.isfinite(affine).all():
        raise InputError(f"{path} has no usable affine (NaN or infinite numbers): convert it again from DICOM")
    spacing = np.sqrt((axes**2).sum(axis=0))
    shown = " x ".join(f"{edge:.3g}" for edge in spacing)
    if spacing.min() <= 0:
        raise InputError(f"{path} has no usable affine (voxel size {shown} mm): convert it again from DICOM")
    if spacing.min() < MIN_SPACING or spacing.max() > MAX_SPACING:
        raise InputError(
            f"{path} has a voxel size of {shown} mm, {MIN_SPACING:g} to {MAX_SPACING:g} mm is plausible: correct its"
            " unit or spacing, or convert it again from DICOM"
        )
    if np.abs(affine[:3, 3]).max() > MAX_ORIGIN:
        shown = ", ".join(f"{place:.3g}" for place in affine[:3, 3])
        raise InputError(f"{path} has its origin at {shown} mm, far from any scanner: convert it again from DICOM")
    cosines = (axes / spacing).T @ (axes / spacing)
    shear = np.degrees(np.arcsin(np.abs(np.triu(cosines, 1)).max().clip(max=1.0)))
    if abs(np.linalg.det(axes / spacing)) < 0.1:
        raise InputError(f"{path} has no usable affine (its axes lie in one plane): convert it again from DICOM")
    if shear > MAX_TILT_DEGREES:
        raise InputError(f"{path} has axes sheared by {shear:.1f} degrees: resample it to an orthogonal grid")


def _check_path(path: Path) -> None:
    try:
        status = path.stat()
    except PermissionError:
        raise InputError(_forbidden(path)) from None
    except (OSError, ValueError):  # ValueError: a null byte in the name
        raise InputError(f"{path} is missing: correct the path, or copy the file there") from None
    if stat.S_ISDIR(status.st_mode):
        if is_series(path):
            raise InputError(f"{path} is a folder of DICOM slices: convert it with scripts/convert_dicom.py")
        raise InputError(f"{path} is a folder: a .nii.gz file is needed")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise InputError(f"{path} is not a regular file: a .nii.gz file is needed")
    if status.st_size == 0:
        raise InputError(f"{path} {_DAMAGED} (it is empty)")


def _read_header_bytes(path: Path) -> nib.Nifti1Header:
    """The header as it stands in the file, before nibabel mends it."""
    try:
        with path.open("rb") as file:
            start = file.read(nib.Nifti2Header.sizeof_hdr)
        packed = start.startswith(_GZIP_MAGIC)
        if packed and path.name.endswith(".gz"):
            with gzip.open(path) as file:
                start = file.read(nib.Nifti2Header.sizeof_hdr)
    except PermissionError:
        raise InputError(_forbidden(path)) from None
    except READ_ERRORS:
        raise InputError(_unreadable(path)) from None
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if len(start) >= kind.sizeof_hdr:
            header = kind(start[: kind.sizeof_hdr], check=False)
            if header["magic"].item() == kind.single_magic:
                break
    else:
        raise InputError(_unreadable(path))
    if path.name.endswith(".gz") and not packed:
        raise InputError(f"{path} is not compressed although its name ends in .gz: rename it to .nii")
    return header


def _check_header(path: Path, header: nib.Nifti1Header) -> None:
    """Check what nibabel would mend in silence, or believe."""
    spacing = np.asarray(header["pixdim"][1:4], dtype=float)
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        shown = " x ".join(f"{edge:.3g}" for edge in spacing)
        raise InputError(f"{path} has a spacing of {shown} mm in its header: convert it again from DICOM")
    codes = [int(header[name]) for name in ("sform_code", "qform_code")]
    known = set(nib.nifti1.xform_codes.value_set())
    offset = float(header["vox_offset"])
    starts_well = offset == 0 or (offset.is_integer() and offset >= header.single_vox_offset)
    if header["sizeof_hdr"] != header.sizeof_hdr or not known.issuperset(codes) or not starts_well:
        raise InputError(_header_fault(path, "unknown sizes or codes"))
    if np.isinf([header["scl_slope"], header["scl_inter"]]).any():
        raise InputError(_header_fault(path, "infinite scaling"))
    try:
        dtype, shape = header.get_data_dtype(), [int(size) for size in header.get_data_shape()]
        end = int(header["vox_offset"]) + max(0, prod(shape)) * dtype.itemsize
    except READ_ERRORS as error:
        raise InputError(_header_fault(path, error)) from None
    if dtype.fields:
        raise InputError(f"{path} is a colour image (RGB): give the scan itself, in grey levels")
    if dtype.kind == "c":
        raise InputError(f"{path} has complex voxels: give the magnitude image")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path} has voxels of type {dtype}: a volume of plain numbers is needed")
    if prod(shape) > MAX_VOXELS:
        raise InputError(_header_fault(path, f"it claims {' x '.join(map(str, shape))} voxels"))
    limit = path.stat().st_size * (_DEFLATE_LIMIT if path.name.endswith(".gz") else 1)
    if not 0 <= end <= limit:
        raise InputError(f"{path} {_DAMAGED}")


def _unpack(path: Path, stored: nib.arrayproxy.ArrayProxy) -> bytearray:
    """Unpack a gzip file to its end, where the checksum is, keeping what the header speaks of."""
    end = stored.offset + prod(stored.shape) * stored.dtype.itemsize
    content, surplus = bytearray(), 0
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            kept = chunk[: max(0, end - len(content))]
            content += kept
            surplus += len(chunk) - len(kept)
    slice_bytes = prod(stored.shape[:2]) * stored.dtype.itemsize
    if len(content) < end or surplus >= slice_bytes:  # some programs pad files, but not by whole slices
        raise InputError(f"{path} does not hold as many voxels as its header says: it {_DAMAGED}")
    return content


def _forbidden(path: Path) -> str:
    return f"{path} may not be read (permission denied): change its permissions"


def _header_fault(path: Path, reason: object) -> str:
    reason = " ".join(str(reason).split()) or type(reason).__name__
    return f"{path} has a damaged header ({reason}): copy it again, or convert it again from DICOM"


def _unreadable(path: Path) -> str:
    """Tell a file cut off within its header from one that never was NIfTI, as far as its name lets one."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return f"{path} {_NOT_NIFTI}"
    return f"{path} {_DAMAGED} (or it is no NIfTI file: convert it to .nii.gz)"
