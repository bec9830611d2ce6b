"""Histogram matching with a reference scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.config import KeysCollection
from monai.transforms import LoadImage, MapTransform
from monai.utils import convert_to_dst_type

from crossmoda.errors import InputError
from crossmoda.transforms.checks import require_contrast


class HistogramMatchingd(MapTransform):
    """Bends intensities so that some of their quantiles become those of a reference (Nyul 2000; Han 2022, 3.1).

    ITK's filter: of the values above the mean, the quantiles 1/8 to 7/8 (for 7 points) and the two ends are mapped
    onto the reference's, linearly in between; values below the mean by one line from the minimum on. MONAI's
    `HistogramNormalized` flattens a histogram and `RandHistogramShiftd` is random; neither takes a reference.

    Args:
        keys: images (C, X, Y, Z), of any type; the result is float32.
        reference: path of a NIfTI file, or an array of any shape: a scan of the same modality.
        levels: bins of the histograms.
        points: matched quantiles.
        threshold_at_mean: whether the mean, instead of the minimum, is the lower end, so that the air hardly counts.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference: str | Path | Any,
        levels: int = 1024,  # Han 2022, code
        points: int = 7,  # Han 2022, code
        threshold_at_mean: bool = True,  # Han 2022, code
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference = reference
        self.levels = levels
        self.points = points
        self.threshold_at_mean = threshold_at_mean

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Matches the images, channel by channel.

        Raises:
            InputError: if an image or the reference is constant or not finite, or the reference is not there.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            image = require_contrast(d[key]).astype(np.float32)
            matched = np.stack([self._match(channel) for channel in image])
            d[key] = convert_to_dst_type(matched, d[key], dtype=np.float32)[0]
        return d

    def _match(self, volume: np.ndarray) -> np.ndarray:
        image_type = itk.Image[itk.F, 3]
        matching = itk.HistogramMatchingImageFilter[image_type, image_type].New()
        # ITK looks at the arrays' own memory: the names keep it until the filter has run.
        source, reference = np.ascontiguousarray(volume), self._reference_values()
        matching.SetSourceImage(itk.image_view_from_array(source))
        matching.SetReferenceImage(itk.image_view_from_array(reference))
        matching.SetNumberOfHistogramLevels(self.levels)
        matching.SetNumberOfMatchPoints(self.points)
        matching.SetThresholdAtMeanIntensity(self.threshold_at_mean)
        matching.Update()
        return itk.array_from_image(matching.GetOutput())

    def _reference_values(self) -> np.ndarray:
        """float32 (1, 1, N): places do not matter."""
        if isinstance(self.reference, str | Path):
            path = Path(self.reference).absolute()
            if not path.is_file():
                raise InputError(f"{path}: no such file; it is to be the reference of histogram matching")
            return _load_reference(path, path.stat().st_mtime_ns)
        return require_contrast(self.reference).astype(np.float32).reshape(1, 1, -1)


@lru_cache(maxsize=2)  # a process meets one reference of each modality over and over
def _load_reference(path: Path, changed: int) -> np.ndarray:
    return require_contrast(LoadImage(image_only=True)(path)).astype(np.float32).reshape(1, 1, -1)
