"""Non-local means denoising."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from dipy.denoise.nlmeans import nlmeans
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage
from skimage.filters import threshold_otsu

from crossmoda.errors import InputError
from crossmoda.transforms.checks import file_name, require_contrast

# Standard deviation of the magnitude of pure complex noise with unit standard deviation (Rayleigh): sqrt(2 - pi/2).
RAYLEIGH_SD = np.sqrt(2 - np.pi / 2)
MAD_TO_SD = 1.4826  # of a normal distribution


class NonLocalMeansd(MapTransform):
    """Averages each voxel with those nearby whose surroundings look alike (Li 2021, 3.3; parameters open there).

    dipy's classic, voxel-wise non-local means (Coupe 2008), which can correct the Rician noise of magnitude images.
    MONAI has Gaussian, median and Savitzky-Golay smoothing only.

    Args:
        keys: images (C, X, Y, Z), of any type; the result is float32.
        patch_radius: of the surroundings that are compared, voxels.
        block_radius: of the window that is searched, voxels; the time grows with its cube.
        sigma: noise in the image's units; None estimates it for each image, see `noise_sigma`.
        rician: whether to correct for Rician instead of Gaussian noise; for images that are not negative.
        num_threads: dipy's threads; None takes all cores.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_radius: int = 1,
        block_radius: int = 1,
        sigma: float | None = None,
        rician: bool = True,
        num_threads: int | None = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.patch_radius = patch_radius
        self.block_radius = block_radius
        self.sigma = sigma
        self.rician = rician
        self.num_threads = num_threads

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Denoises the images, channel by channel.

        Raises:
            InputError: if an image is constant or not finite, or no noise level can be found.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            image = require_contrast(d[key]).astype(np.float32)
            denoised = np.stack([self._denoise(channel, file_name(d[key])) for channel in image])
            d[key] = convert_to_dst_type(denoised, d[key], dtype=np.float32)[0]
        return d

    def _denoise(self, volume: np.ndarray, name: str) -> np.ndarray:
        sigma = noise_sigma(volume) if self.sigma is None else self.sigma
        if sigma == 0:
            raise InputError(f"{name}: no noise found to estimate; give sigma, or a recipe without denoising")
        return nlmeans(
            volume,
            sigma=sigma,
            patch_radius=self.patch_radius,
            block_radius=self.block_radius,
            rician=self.rician,
            num_threads=self.num_threads,
            method="classic",
        )


def noise_sigma(volume: np.ndarray, slices: int = 32) -> float:
    """Noise of a magnitude image: standard deviation of each of the two channels behind the magnitude.

    Median absolute pseudo-residual (a voxel less the mean of its six neighbours, scaled to keep the noise's variance;
    Coupe 2008) over the air, where noise is Rayleigh distributed and anatomy cannot be taken for noise. If there is
    hardly any air, because the scanner set it to 0 or the field of view is within the head, over all else.
    dipy's `estimate_sigma` takes the root mean square over everything, which edges between thick slices double.

    Args:
        volume: (X, Y, Z).
        slices: so many middle slices are looked at.

    Returns:
        The noise in the volume's units; 0 if there is none.
    """
    first = max((volume.shape[2] - slices) // 2, 0)
    slab = volume[..., first : first + slices]
    neighbours = ndimage.generate_binary_structure(3, 1).astype(np.float32) / 6
    neighbours[1, 1, 1] = 0
    residual = np.sqrt(6 / 7) * (slab - ndimage.convolve(slab, neighbours))
    air = (slab > 0) & (slab < threshold_otsu(slab) / 2)  # half, for fluid and bone on ceT1 are dark too
    sigma = _deviation(residual[air]) / RAYLEIGH_SD if air.mean() > 0.1 else 0.0
    return sigma or _deviation(residual[slab > 0])


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of normally distributed values around 0, from their median size."""
    return MAD_TO_SD * float(np.median(np.abs(values))) if values.size else 0.0
