"""Multi-dimensional contrast limited adaptive histogram equalization."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type
from skimage.exposure import equalize_adapthist


class RandMultiDimensionalCLAHEd(RandomizableTransform, MapTransform):
    """Equalizes the histogram around each voxel, with limited contrast, in three dimensions (mCLAHE; Li 2021, 3.5).

    Stimper 2019's mCLAHE extends CLAHE from two to n dimensions; scikit-image's `equalize_adapthist` does the same
    (kernels along every axis, linear interpolation between the kernels' mappings). MONAI has no CLAHE.

    Args:
        keys: items (C, X, Y, Z) in [0, 1]; values outside are clipped. The result is in [0, 1].
        prob: probability of the change.
        kernel_fraction: kernel edge as a share of each axis.
        num_bins: bins of the histograms.
        clip_limit: largest share of a histogram that one bin may hold, in (0, 1]; larger gives more contrast.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        kernel_fraction: float = 1 / 8,
        num_bins: int = 128,
        clip_limit: float = 0.01,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.kernel_fraction = kernel_fraction
        self.num_bins = num_bins
        self.clip_limit = clip_limit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Equalizes the items, channel by channel."""
        d = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(d):
                channels = [self._equalize(np.asarray(channel)) for channel in d[key]]
                d[key] = convert_to_dst_type(np.stack(channels), d[key])[0]
        return d

    def _equalize(self, volume: np.ndarray) -> np.ndarray:
        volume = np.clip(volume, 0, 1)
        if volume.min() == volume.max():  # scikit-image divides by the range
            return volume
        return equalize_adapthist(
            volume, kernel_size(volume.shape, self.kernel_fraction), self.clip_limit, self.num_bins
        )


def kernel_size(shape: Sequence[int], fraction: float) -> list[int]:
    """Kernel edge for each axis in voxels, at least 1."""
    return [max(round(size * fraction), 1) for size in shape]
