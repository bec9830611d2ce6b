"""Evens out the grey levels of translated slices along the volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_data_type, convert_to_dst_type

LEVELS = 8
FEWEST_VOXELS = 50
COUPLING = 0.2


class SmoothSliceIntensityd(MapTransform):
    r"""Lets tissue keep its grey level along a translated volume.

    2D translators map each slice on its own, which shifts intensities from slice to slice (Li 2021, section 5, who
    leave it at that). This is our own remedy; no paper has it, and MONAI has nothing like it. Each slice z gets an
    offset $o_{zk}$ for each grey level k of the source, linear in between. Adjacent slices are compared only where the
    source hardly changes from one to the other, so that the change of anatomy does not count: $d_{zk}$ is the median
    there of translation z + 1 minus translation z. The offsets minimise

    $\sum_{zk} (d_{zk} + o_{z+1,k} - o_{zk})^2 + \lambda \sum_{zk} o_{zk}^2 + \mu \sum_{zk} (o_{zk} - o_{z,k+1})^2$,

    one linear system. The second term keeps slow changes along the volume (a coil's field) and takes fast ones away:
    with $\lambda = 4 \sin^2(\pi / p)$ half is left of an offset that comes and goes with a period of p slices, and the
    faster the change, the less. The third, $\mu = 0.2$, carries the offset to levels that a slice hardly holds.

    Args:
        keys: translations (1, X, Y, Z), slices along the last axis.
        source_key: what was translated, on the same grid.
        period: p, in slices.
        stable_share: share of each grey level's voxels, those whose source changes least, that are compared.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source_key: str,
        period: float = 12.0,
        stable_share: float = 0.3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if period < 2 or not 0 < stable_share <= 1:
            raise ValueError(f"period >= 2 and 0 < stable_share <= 1 are needed, got {period} and {stable_share}")
        self.source_key = source_key
        self.strength = 4 * np.sin(np.pi / period) ** 2
        self.stable_share = stable_share

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Evens out the translations; a volume of one slice stays as it is. Values may leave their range a little."""
        d = dict(data)
        source = _slices(d[self.source_key])
        borders = np.linspace(source.min(), source.max(), LEVELS + 1)
        centres = (borders[1:] + borders[:-1]) / 2
        for key in self.key_iterator(d):
            image = _slices(d[key])
            if image.shape != source.shape:
                raise ValueError(f"{key} has shape {d[key].shape}, its source {d[self.source_key].shape}")
            offsets = self.offsets(image, source, borders)
            even = np.stack([t + np.interp(s, centres, o) for t, s, o in zip(image, source, offsets, strict=True)])
            d[key] = convert_to_dst_type(even.T.reshape(d[key].shape), d[key])[0]
        return d

    def offsets(self, image: np.ndarray, source: np.ndarray, borders: np.ndarray) -> np.ndarray:
        """What to add to each slice at each grey level of the source.

        Args:
            image: (Z, voxels).
            source: (Z, voxels).
            borders: of the source's grey levels, ascending (LEVELS + 1,).

        Returns:
            (Z, LEVELS).
        """
        index = np.arange(len(image) * LEVELS).reshape(len(image), LEVELS)
        normal = np.eye(index.size) * self.strength
        right = np.zeros(index.size)
        _couple(normal, index[:, :-1], index[:, 1:], COUPLING)
        for z in range(len(image) - 1):
            steps = self._steps(image[z : z + 2], source[z : z + 2], borders)
            known = ~np.isnan(steps)
            _couple(normal, index[z, known], index[z + 1, known], 1.0)
            right[index[z, known]] += steps[known]
            right[index[z + 1, known]] -= steps[known]
        return np.linalg.solve(normal, right).reshape(index.shape)

    def _steps(self, image: np.ndarray, source: np.ndarray, borders: np.ndarray) -> np.ndarray:
        """Median change of the image between two slices at each grey level; NaN for levels of few voxels."""
        change = np.abs(source[1] - source[0])
        level = np.digitize((source[0] + source[1]) / 2, borders[1:-1])
        steps = np.full(LEVELS, np.nan)
        for n in range(LEVELS):
            own = np.flatnonzero(level == n)
            if len(own) >= FEWEST_VOXELS:
                even = own[change[own] <= np.quantile(change[own], self.stable_share)]
                steps[n] = np.median(image[1, even] - image[0, even])
        return steps


def _couple(normal: np.ndarray, first: np.ndarray, second: np.ndarray, weight: float) -> None:
    """Add weight * (x[first] - x[second])^2 to the normal equations' matrix."""
    for one, other in ((first, second), (second, first)):
        np.add.at(normal, (one, one), weight)
        np.add.at(normal, (one, other), -weight)


def _slices(volume: Any) -> np.ndarray:
    """(1, X, Y, Z) on any device -> (Z, X * Y), float64."""
    array = convert_data_type(volume, np.ndarray, dtype=np.float64)[0]
    return array.reshape(-1, array.shape[-1]).T
