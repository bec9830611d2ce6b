"""Writing of volumes: whole files or none, in the grid of the raw scan."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary file name beside `path` to write to, and renames it at the end: a kill leaves no half file.

    Args:
        path: the file to make or replace; folders are made. Its ending stays that of the temporary name, because
            nibabel takes the format from it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def save_nifti(
    array: np.ndarray,
    affine: np.ndarray,
    path: str | Path,
    header: nib.Nifti1Header | None = None,
    slope: float | None = None,
) -> None:
    """Write one NIfTI file whole or not at all.

    Args:
        array: voxels, shape (X, Y, Z) or (X, Y, Z, C); stored in its own dtype, unscaled. bool becomes uint8.
        affine: 4 x 4, voxel indices to mm (RAS).
        path: ends in `.nii.gz` or `.nii`; folders are made.
        header: header of the raw scan, whose sform, qform, their codes and units are kept; with it `affine` is not
            used, so that the output's grid is the input's to the last bit.
        slope: what one step of `array` is worth (`scl_slope`); None leaves the file unscaled.
    """
    array = np.asarray(array)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    image = nib.Nifti1Image(array, None if header is not None else np.asarray(affine, dtype=float), dtype=array.dtype)
    if header is None:
        image.header.set_xyzt_units("mm")
    else:
        _copy_geometry(header, image.header)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    with replacing(path) as temporary:
        nib.save(image, temporary)


class SaveNiftid(MapTransform):
    """Write `<output_dir>/<case>_<suffix>.nii.gz` in the grid of the raw scan.

    MONAI's `SaveImaged` names files by the input file and not by the case, writes them in place, and writes an affine
    that went through float32 and its own orientation changes; here the file is written atomically with the raw
    file's own sform and qform.

    Args:
        keys: items to write: MetaTensors of shape (1, X, Y, Z), inverted to the grid of the raw scan, whose
            `meta["filename_or_obj"]` is the raw file.
        output_dir: folder of the results.
        suffix: e.g. `seg` or `hrT2`.
        dtype: numpy dtype name of the file; a float item is rounded before it becomes an integer.
        case_key: item with the case's name.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        suffix: str,
        dtype: str = "float32",
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.suffix = suffix
        self.dtype = np.dtype(dtype)
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the items and hand the data on unchanged.

        Raises:
            ValueError: if an item does not have the shape of the raw scan (an inverse transform is missing).
        """
        for key in self.key_iterator(data):
            self._save(data[key], self.output_dir / f"{data[self.case_key]}_{self.suffix}.nii.gz")
        return dict(data)

    def _save(self, tensor: MetaTensor, path: Path) -> None:
        raw = nib.load(str(tensor.meta["filename_or_obj"]))
        array = tensor.detach().cpu().numpy()
        if array.shape != (1, *raw.shape):
            raise ValueError(f"{path.name}: shape {array.shape} is not that of the raw scan, (1, {raw.shape})")
        if self.dtype.kind in "iu" and array.dtype.kind == "f":
            array = np.rint(array)
        save_nifti(array[0].astype(self.dtype), raw.affine, path, header=raw.header)


def _copy_geometry(source: nib.Nifti1Header, target: nib.Nifti1Header) -> None:
    """Copy the fields that place the voxels in space, bit for bit."""
    for field in ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"):
        target[field] = source[field]
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        target[field] = source[field]
