"""What is measured of one scan and its label before training: geometry, intensities, label volumes, a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from crossmoda.data import read_label, read_volume
from crossmoda.labels import COCHLEA, VS
from crossmoda.report.pictures import Volume

Item = dict[str, Any]
Record = dict[str, Any]

AXES = ("x", "y", "z")  # to the right-left, front-back and feet-head axis, whatever the order in the file
QUANTILES = (0, 1, 25, 50, 75, 99, 100)
# Porus and cochlea lie about 22 and 38 mm beside the midline (methods: anatomy of the ear), so both cochleae together
# span some 75 mm and one alone less than 12 mm.
BOTH_SIDES_MM = 40.0
SNR_SLICES = 9

COLUMNS = (
    *("section", "case", "site", "koos", "outlier", "image", "label", "dtype", "orientation", "oblique_degrees"),
    *(f"{name}_{axis}" for name in ("size", "spacing", "fov") for axis in AXES),
    *(f"q{quantile}" for quantile in QUANTILES),
    *("zero_share", "saturated_share", "empty_slices", "snr"),
    *(f"{name}_{what}" for name in ("vs", "cochlea") for what in ("ml", "parts", "at_border", "from_centre_mm")),
    *("cochlea_right_ml", "cochlea_left_ml", "voxels_hash", "reasons"),
)


def measure(item: Item, label_map: Mapping[int, int]) -> tuple[Record, Volume, Volume | None]:
    """Read one scan and measure it.

    Args:
        item: datalist item with absolute paths and, where the list has them, `label` and `koos`.
        label_map: classes in the label file to those of `crossmoda.labels`, see `crossmoda.data.label_map`.

    Returns:
        The measures (keys of `COLUMNS`; those of labels only for a labelled scan; lengths in mm, volumes in mL), the
        scan and the mapped label map, both turned to the nearest RAS orientation for the pictures.

    Raises:
        InputError: if a file can't be read.
    """
    array, affine = read_volume(item["image"])
    record: Record = {
        "case": item["case"],
        "site": item.get("site", ""),
        "koos": item.get("koos", ""),
        "image": item["image"],
        "label": item.get("label", ""),
        "dtype": str(nib.load(item["image"]).get_data_dtype()),
        "orientation": "".join(nib.aff2axcodes(affine)),
        "oblique_degrees": float(np.rad2deg(nib.affines.obliquity(affine)).max()),
    }
    array, affine = to_ras(array, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for index, axis in enumerate(AXES):
        record[f"size_{axis}"] = array.shape[index]
        record[f"spacing_{axis}"] = float(spacing[index])
        record[f"fov_{axis}"] = float(array.shape[index] * spacing[index])
    record |= intensities(array)
    record["voxels_hash"] = fingerprint(array)
    scan, label = Volume(array, tuple(map(float, spacing))), None
    if item.get("label"):
        classes, label_affine = read_label(item["label"], tuple(label_map))
        classes, label_affine = to_ras(classes, label_affine)
        lookup = np.zeros(max(label_map) + 1, np.uint8)
        lookup[list(label_map)] = list(label_map.values())
        label = Volume(lookup[classes], scan.spacing)
        record |= {f"vs_{key}": value for key, value in structure(label.array == VS, label_affine).items()}
        record |= {f"cochlea_{key}": value for key, value in structure(label.array == COCHLEA, label_affine).items()}
        record |= cochlea_sides(label.array == COCHLEA, label_affine)
    return record, scan, label


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip the axes of a volume (X, Y, Z) to the nearest RAS orientation; the affine follows."""
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(array, orientation)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, array.shape)


def intensities(array: np.ndarray) -> Record:
    """Quantiles and what tells clipped, padded or noisy scans.

    Args:
        array: finite voxels, shape (X, Y, Z), axial slices along the last axis.

    Returns:
        `q0` to `q100` (percentiles), `zero_share` and `saturated_share` (voxels at 0 and at the maximum, 0-1),
        `empty_slices` (of one value), `snr`, see `signal_to_noise`.
    """
    values = np.percentile(array, QUANTILES)
    flat = [bool((slice_ == slice_.flat[0]).all()) for slice_ in np.moveaxis(array, -1, 0)]
    return {
        **{f"q{quantile}": float(value) for quantile, value in zip(QUANTILES, values, strict=True)},
        "zero_share": float(1 - np.count_nonzero(array) / array.size),
        "saturated_share": float(np.count_nonzero(array == array.max()) / array.size),
        "empty_slices": sum(flat),
        "snr": signal_to_noise(array),
    }


def signal_to_noise(array: np.ndarray) -> float | None:
    """Robust signal-to-noise ratio in plane, within the brighter half of the scan.

    The noise is taken from the Laplacian difference of Immerkaer (Fast noise variance estimation, CVIU 1996), whose
    response to white noise of deviation s has the deviation 6 s, but by the median rather than the mean, which edges
    would raise. Scans that the scanner interpolated to a finer matrix have smooth noise and look better than they are:
    compare within a site.

    Args:
        array: shape (X, Y, Z); up to nine axial slices of the middle half are used.

    Returns:
        Median of the voxels above their mean, over the noise; None if either is not to be had.
    """
    depth = array.shape[2]
    steps = np.unique(np.linspace(depth // 4, depth - 1 - depth // 4, SNR_SLICES).round().astype(int))
    slices = array[:, :, steps].astype(np.float32)
    bright = slices > slices.mean()
    if not bright.any() or min(array.shape[:2]) < 3:
        return None
    response = np.diff(np.diff(slices, 2, axis=0), 2, axis=1)[bright[1:-1, 1:-1]]
    noise = float(np.median(np.abs(response))) / 0.6745 / 6 if response.size else 0.0
    signal = float(np.median(slices[bright]))
    return signal / noise if noise > 0 and signal > 0 else None


def fingerprint(array: np.ndarray) -> str:
    """Hash of the voxels in RAS: the same for a copy of a scan that was flipped, renamed or stored in another dtype."""
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    for index in range(array.shape[2]):  # a slice at a time, so that no float copy of the volume is needed
        digest.update(np.ascontiguousarray(array[:, :, index], dtype=np.float32))
    return digest.hexdigest()


def structure(mask: np.ndarray, affine: np.ndarray) -> Record:
    """Size and place of one labelled structure.

    Args:
        mask: boolean, shape (X, Y, Z).
        affine: voxel indices to mm.

    Returns:
        `ml` (volume), `parts` (components that don't even touch at corners), `at_border` (whether it touches the
        volume's edge) and `from_centre_mm` (from its centroid to the centre of the volume; None if it is empty).
    """
    box = _bounding_box(mask)
    if box is None:
        return {"ml": 0.0, "parts": 0, "at_border": False, "from_centre_mm": None}
    inside = mask[box]
    count = int(np.count_nonzero(inside))
    _, parts = ndimage.label(inside, np.ones((3, 3, 3)))
    centroid = [axis.mean() + edge.start for axis, edge in zip(np.nonzero(inside), box, strict=True)]
    shift = np.array(centroid) - (np.array(mask.shape) - 1) / 2
    return {
        "ml": float(count * abs(np.linalg.det(affine[:3, :3])) / 1000),
        "parts": int(parts),
        "at_border": any(edge.start == 0 or edge.stop == size for edge, size in zip(box, mask.shape, strict=True)),
        "from_centre_mm": float(np.linalg.norm(affine[:3, :3] @ shift)),
    }


def cochlea_sides(mask: np.ndarray, affine: np.ndarray) -> Record:
    """Volume of the cochlea on the patient's right and left, in mL.

    The sides are told by the label's own extent across the head, because a scan need not be centred: a span of
    `BOTH_SIDES_MM` or more is cut in the middle; a lesser one is a single cochlea, on the side of the volume's centre
    that it lies on.

    Args:
        mask: boolean, shape (X, Y, Z).
        affine: voxel indices to mm (RAS).
    """
    sides = {"cochlea_right_ml": 0.0, "cochlea_left_ml": 0.0}
    box = _bounding_box(mask)
    if box is None:
        return sides
    voxels = np.argwhere(mask[box]) + [edge.start for edge in box]
    across = voxels @ affine[0, :3] + affine[0, 3]
    if np.ptp(across) >= BOTH_SIDES_MM:
        right = int(np.count_nonzero(across > (across.min() + across.max()) / 2))
    else:
        centre = (np.array(mask.shape) - 1) / 2 @ affine[0, :3] + affine[0, 3]
        right = across.size if across.mean() > centre else 0
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    return {"cochlea_right_ml": right * voxel_ml, "cochlea_left_ml": (across.size - right) * voxel_ml}


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    box = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)
