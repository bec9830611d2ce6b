"""Correction of the slow intensity drift across an MR image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import itk
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from scipy.interpolate import make_interp_spline
from skimage.filters import threshold_otsu

from crossmoda.errors import InputError
from crossmoda.transforms.checks import file_name, require_contrast

MIN_VOXELS = 8  # that an axis keeps, if it has them


class N4BiasFieldCorrectiond(MapTransform):
    """Divides an image by its bias field, found by N4 on a shrunk copy (Tustison 2010; Li 2021, 3.3, without numbers).

    As usual N4 sees every few voxels only (not block means: mixed tissues were taken for bias), and here no more than
    `max_points` of the foreground (Otsu's threshold). The field's logarithm is taken from there to all voxels by cubic
    splines, so that it is smooth, finite and positive in the air, too. MONAI has no bias correction; ITK's on the full
    image takes many minutes, and its Python wheels lack the filter that evaluates N4's splines on another grid.

    Args:
        keys: images (C, X, Y, Z), not negative, of any type; the result is float32.
        shrink_factor: one voxel in so many is used, along all axes or given for each; more on axes with few voxels.
        iterations: most iterations of each level; every level halves the distance of the splines' knots.
        max_points: voxels that are fitted, drawn from the shrunk copy's foreground; the time is proportional to them.
        convergence: a level ends when the field changes by less than this share.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        shrink_factor: int | Sequence[int] = 4,
        iterations: Sequence[int] = (50, 50, 50, 50),
        max_points: int = 30_000,
        convergence: float = 1e-3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.shrink_factor = ensure_tuple_rep(shrink_factor, 3)
        self.iterations = tuple(iterations)
        self.max_points = max_points
        self.convergence = convergence

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Corrects the images, channel by channel.

        Raises:
            InputError: if an image is constant, not finite or nowhere positive, or has a single slice.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            image = require_contrast(d[key]).astype(np.float32)
            if image.max() <= 0 or min(image.shape[1:]) < 2:
                raise InputError(
                    f"{file_name(d[key])}: bias correction needs positive values and two voxels along each axis, but "
                    f"the maximum is {image.max():g} and the shape {image.shape[1:]}: use a recipe without it"
                )
            spacing = d[key].pixdim.tolist() if isinstance(d[key], MetaTensor) else [1.0] * 3
            corrected = np.stack([channel / self.field(channel, spacing) for channel in image])
            d[key] = convert_to_dst_type(corrected, d[key], dtype=np.float32)[0]
        return d

    def field(self, volume: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """The bias field.

        Args:
            volume: (X, Y, Z).
            spacing: mm.

        Returns:
            float32 (X, Y, Z), positive; N4 chooses its scale so that about the image's own range of values is kept.
        """
        factors = [max(min(f, n // MIN_VOXELS), 1) for f, n in zip(self.shrink_factor, volume.shape, strict=True)]
        coarse = volume[tuple(slice(factor // 2, None, factor) for factor in factors)]
        log_field = self._log_field(coarse, np.multiply(spacing, factors))
        weights = [_spline_weights(np.arange(f // 2, n, f), n) for f, n in zip(factors, volume.shape, strict=True)]
        return np.exp(np.einsum("ijk,xi,yj,zk->xyz", log_field, *weights, optimize=True))

    def _log_field(self, coarse: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        foreground = coarse > max(threshold_otsu(coarse), 0)
        # N4 looks at the mask only; with a positive value elsewhere its quotient tells the field there, too.
        coarse = np.where(foreground, coarse, coarse[foreground].mean())
        points = np.flatnonzero(foreground)
        if points.size > self.max_points:
            points = np.random.RandomState(0).choice(points, self.max_points, replace=False)
        mask = np.zeros(coarse.shape, dtype=np.uint8)
        mask.flat[points] = 1
        volume, label = itk.Image[itk.F, 3], itk.Image[itk.UC, 3]
        n4 = itk.N4BiasFieldCorrectionImageFilter[volume, label, volume].New()
        n4.SetInput(_itk_image(coarse, spacing))
        n4.SetMaskImage(_itk_image(mask, spacing))
        n4.SetNumberOfFittingLevels(len(self.iterations))
        n4.SetMaximumNumberOfIterations(self.iterations)
        n4.SetConvergenceThreshold(self.convergence)
        n4.Update()
        return np.log(coarse / itk.array_view_from_image(n4.GetOutput()).T)


def _itk_image(array: np.ndarray, spacing: Sequence[float]) -> itk.Image:
    image = itk.image_from_array(np.ascontiguousarray(array.T))  # ITK's arrays are (Z, Y, X)
    image.SetSpacing([float(step) for step in spacing])
    return image


def _spline_weights(places: np.ndarray, size: int) -> np.ndarray:
    """Weight of each given voxel at every voxel of one axis, float32 (size, places); constant beyond the outer ones."""
    spline = make_interp_spline(places, np.eye(len(places)), k=min(3, len(places) - 1))
    return spline(np.clip(np.arange(size), places[0], places[-1])).astype(np.float32)
