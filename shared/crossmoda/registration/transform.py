"""Registration and resampling as invertible MONAI transforms."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, SpatialResample
from monai.utils import TraceKeys, ensure_tuple_rep

from crossmoda.data.writing import write_text
from crossmoda.errors import InputError

from .register import Registration, register
from .template import TEMPLATE_SHAPE, TEMPLATE_SPACING, mni152, template_affine
from .volumes import Volume

MNI = "mni"
VERSION = 2  # of the method: raise it when the same scan would get another matrix, so that caches are not reused


class MoveAffine(InvertibleTransform):
    """Moves an image in the world by changing its affine; voxels stay. Its inverse restores the old affine exactly."""

    def __call__(self, image: MetaTensor, matrix: np.ndarray) -> MetaTensor:
        """Move.

        Args:
            image: (C, X, Y, Z) with its affine.
            matrix: old world to new world, 4x4.

        Returns:
            The image with the affine `matrix @ affine`; it shares the voxels.
        """
        out = _with_affine(image, torch.from_numpy(np.asarray(matrix, np.float64)) @ image.affine.double())
        return self.push_transform(out, extra_info={"affine": image.affine.double().tolist()})

    def inverse(self, image: MetaTensor) -> MetaTensor:
        """Restore the affine."""
        info = self.pop_transform(image)
        return _with_affine(image, torch.tensor(info[TraceKeys.EXTRA_INFO]["affine"], dtype=torch.float64))


class Registerd(MapTransform, InvertibleTransform):
    """Registers the first item to the MNI template or an atlas scan and moves all items along.

    The registration enters as a changed affine (registration @ affine); nothing is resampled, so one `ResampleToGridd`
    afterwards is the only interpolation, and `Compose.inverse` or `Invertd` bring results back to the scan's own grid
    with its affine restored exactly. MONAI has no registration (`monai.networks` holds learned ones only). A failed
    registration leaves the affine as it is and says so in the record.

    Args:
        keys: items (1, X, Y, Z), MetaTensors on the same grid; the first one present is registered.
        fixed: "mni" (nilearn's skull-stripped MNI152 T1) or the path of an atlas scan.
        kind: "rigid" (Li 2021) or "affine" (Han 2022).
        metric: "mi" or "ncc", see `register`.
        backend: "elastix" or "itk".
        bins: histogram bins of "mi".
        seed: of the backend's random samples.
        enabled: False only records that nothing was done.
        cache: folder, or one JSON file, of earlier records; one with the same voxels, affine and settings is reused.
        record_key: where the record (`Registration.to_dict`) is put.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: if the atlas scan cannot be read.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fixed: str = MNI,
        kind: str = "rigid",
        metric: str = "mi",
        backend: str = "elastix",
        bins: int = 32,
        seed: int = 0,
        enabled: bool = True,
        cache: str | Path | None = None,
        record_key: str = "registration",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.fixed = str(fixed)
        self.settings = {"kind": kind, "metric": metric, "backend": backend, "bins": bins, "seed": seed}
        self.enabled = enabled
        self.cache = None if cache is None else Path(cache)
        self.record_key = record_key
        self.move = MoveAffine()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Register the first item, move all."""
        d = dict(data)
        first = self.first_key(d)
        if first == ():
            return d
        record = self._find(d[first])
        d[self.record_key] = record.to_dict() | {"fixed": self.fixed, "enabled": self.enabled}
        for key in self.key_iterator(d):
            d[key] = self.move(d[key], np.array(record.matrix))
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore the items' affines."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.move.inverse(d[key])
        return d

    def _find(self, image: MetaTensor) -> Registration:
        if not self.enabled:
            return Registration.unused(**{k: self.settings[k] for k in ("kind", "metric", "backend")})
        values = image.detach().cpu().numpy()[0]
        affine = image.affine.cpu().double().numpy()
        key = _hash(values, affine, {"fixed": _identity(self.fixed), "version": VERSION, **self.settings})
        path = self.cache if self.cache is None or self.cache.suffix == ".json" else self.cache / f"{key}.json"
        earlier = _read_record(path, key)
        if earlier is not None:
            return earlier
        target = _load_fixed(self.fixed)
        record = register(values, affine, target.values, target.affine, target.mask, **self.settings)
        if path is not None:
            write_text(json.dumps({"input": key, "registration": record.to_dict()}, indent=1) + "\n", path)
        return record


class ResampleToGridd(MapTransform, InvertibleTransform):
    """Resamples items to a given grid in the world; the inverse returns them to their own grids.

    MONAI's `Spacingd` and `ResampleToMatchd` take the grid from the item or from another item; this one takes it from
    the config. The work is done by MONAI's `SpatialResample`, in float32 (its default of float64 needs 2.5 GB more for
    a volume of 512x512x128; voxel positions are good to 1e-4 voxels in either).

    Args:
        keys: items (C, X, Y, Z).
        affine: voxel-to-world matrix (4x4, RAS mm), or "mni" for the grid of Li 2021.
        spatial_size: voxels (X, Y, Z); not needed with "mni".
        mode: interpolation, one or one a key; "nearest" for labels.
        padding_mode: what stands outside the image, one or one a key.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        affine: str | Sequence[Sequence[float]] | np.ndarray = MNI,
        spatial_size: Sequence[int] | None = None,
        mode: str | int | Sequence[str | int] = "bilinear",
        padding_mode: str | Sequence[str] = "zeros",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if isinstance(affine, str):
            if affine != MNI:
                raise ValueError(f"affine {affine!r}: a 4x4 matrix or {MNI!r}")
            affine = template_affine(TEMPLATE_SHAPE, TEMPLATE_SPACING)
            spatial_size = TEMPLATE_SHAPE if spatial_size is None else spatial_size
        if spatial_size is None:
            raise ValueError("spatial_size is needed with an affine")
        self.affine = torch.as_tensor(np.asarray(affine, np.float64))
        self.spatial_size = tuple(int(n) for n in spatial_size)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.padding_mode = ensure_tuple_rep(padding_mode, len(self.keys))
        self.resample = SpatialResample(dtype=torch.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the items."""
        d = dict(data)
        for key, mode, padding_mode in self.key_iterator(d, self.mode, self.padding_mode):
            d[key] = self.resample(d[key], self.affine, self.spatial_size, mode, padding_mode)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring the items back to their own grids."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.resample.inverse(d[key])
        return d


def _with_affine(image: MetaTensor, affine: torch.Tensor) -> MetaTensor:
    out = MetaTensor(
        image.as_tensor(), meta=deepcopy(image.meta), applied_operations=deepcopy(image.applied_operations)
    )
    out.affine = affine
    return out


@lru_cache(maxsize=2)
def _load_fixed(fixed: str) -> Volume:
    if fixed == MNI:
        return mni152()
    try:
        image = nib.load(fixed)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"{fixed}: atlas scan cannot be read ({error}): give another file as `fixed`") from error
    if values.ndim != 3 or not np.isfinite(values).all():
        raise InputError(f"{fixed}: atlas scan of shape {values.shape}: a 3D image of finite values is needed")
    return Volume(values, image.affine)


@lru_cache(maxsize=8)
def _identity(fixed: str) -> str:
    """What the fixed image is, wherever it lies: its file's hash."""
    try:
        return MNI if fixed == MNI else hashlib.sha256(Path(fixed).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{fixed}: atlas scan cannot be read ({error}): give another file as `fixed`") from error


def _hash(values: np.ndarray, affine: np.ndarray, settings: dict) -> str:
    digest = hashlib.sha256(json.dumps([settings, values.shape, str(values.dtype)], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(affine))
    digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def _read_record(path: Path | None, key: str) -> Registration | None:
    """The record of the same input and settings, if there is one that can be read."""
    try:
        record = json.loads(path.read_bytes()) if path is not None else {}
        return Registration(**record["registration"]) if record.get("input") == key else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
