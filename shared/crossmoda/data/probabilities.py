"""Class probabilities on disk: what members of an ensemble hand to their fusion."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from crossmoda.data.nifti import check_affine, open_nifti, read_voxels
from crossmoda.data.validation import Header
from crossmoda.data.writing import save_nifti
from crossmoda.errors import InputError

PROBABILITY_SUFFIX = "prob"
LEVELS = 255  # a probability p is stored as the nearest of 0, 1/255, ..., 1, in one byte


def save_probabilities(
    probabilities: np.ndarray, affine: np.ndarray, path: str | Path, header: nib.Nifti1Header | None = None
) -> None:
    """Write class probabilities whole or not at all: uint8 of shape (X, Y, Z, C) with a slope of 1/255.

    Any NIfTI reader gives the probabilities back, within 1/510. The file is a quarter of float32's and packs well.

    Args:
        probabilities: shape (C, X, Y, Z), in [0, 1].
        affine: 4 x 4, voxel indices to mm (RAS).
        path: ends in `.nii.gz` or `.nii`; folders are made.
        header: header of the raw scan, as in `save_nifti`.
    """
    levels = np.rint(np.clip(probabilities, 0, 1) * np.float32(LEVELS)).astype(np.uint8)
    save_nifti(np.moveaxis(levels, 0, -1), affine, path, header=header, slope=1 / LEVELS)


def read_probabilities(path: str | Path) -> tuple[np.ndarray, Header]:
    """Read what `save_probabilities` wrote.

    Args:
        path: a `<case>_prob.nii.gz`.

    Returns:
        float32 of shape (C, X, Y, Z) that sums to 1 over the classes; where the file has zeros alone (beyond what the
        network saw) class 0, the background, is 1. And the header, with the volume's shape (X, Y, Z).

    Raises:
        InputError: if the file is missing, damaged, or not one of class probabilities.
    """
    path = Path(path).absolute()
    image = open_nifti(path)
    slope = float(image.dataobj.slope)
    is_4d = len(image.shape) == 4 and image.shape[3] > 1
    if not is_4d or image.get_data_dtype() != np.uint8 or not np.isclose(slope, 1 / LEVELS):
        raise InputError(f"{path} does not hold class probabilities: write it with save_probabilities: true")
    check_affine(path, np.asarray(image.affine, dtype=float))
    levels = np.moveaxis(read_voxels(path, scaled=False), -1, 0)
    total = levels.sum(axis=0, dtype=np.uint16)
    probabilities = levels.astype(np.float32)
    probabilities /= np.maximum(total, 1)
    probabilities[0][total == 0] = 1
    shape = tuple(int(size) for size in image.shape[:3])
    return probabilities, Header(path, shape, np.array(image.affine, dtype=float))


class SaveProbabilitiesd(MapTransform):
    """Write `<output_dir>/<case>_prob.nii.gz` in the grid of the raw scan; MONAI's `SaveImaged` stores no scaled bytes.

    Args:
        keys: items to write: MetaTensors of shape (C, X, Y, Z), inverted to the grid of the raw scan, whose
            `meta["filename_or_obj"]` is the raw file.
        output_dir: folder of the results.
        case_key: item with the case's name.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: str | Path, case_key: str = "case", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the items and hand the data on unchanged.

        Raises:
            ValueError: if an item does not have the shape of the raw scan (an inverse transform is missing).
        """
        for key in self.key_iterator(data):
            tensor: MetaTensor = data[key]
            raw = nib.load(str(tensor.meta["filename_or_obj"]))
            path = self.output_dir / f"{data[self.case_key]}_{PROBABILITY_SUFFIX}.nii.gz"
            if tuple(tensor.shape[1:]) != raw.shape:
                raise ValueError(f"{path.name}: shape {tuple(tensor.shape)} is not (C, *{raw.shape}) of the raw scan")
            save_probabilities(tensor.detach().cpu().numpy(), raw.affine, path, header=raw.header)
        return dict(data)
