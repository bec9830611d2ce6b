"""Random changes of the targets' own intensity in translated images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.networks.layers import GaussianFilter
from monai.transforms import MapTransform, RandomizableTransform


class RandLabelIntensityd(RandomizableTransform, MapTransform):
    """Multiplies the voxels inside a structure by a random factor.

    Translators tend to give all tumours one look; on real hrT2 they vary from site to site. Choi 2021 halves the
    tumour's signal in a copy of every translated volume (VS Dice 0.72 -> 0.84), LaTIM 2022 and the 2023 winner draw
    from several factors for VS and cochlea. MONAI changes the intensity of whole images only.

    Each label is changed with probability `prob`, independently: y = x * (1 + M (f - 1)), M the label's mask, f
    uniform in its range, times 1 + h n, n smooth noise of unit variance. The result is not clipped.

    Args:
        keys: images (C, X, Y, Z) with values >= 0 (a factor has no meaning on other scales).
        label_key: label map (1, X, Y, Z) of the same grid.
        labels: class numbers to change.
        ranges: lowest and highest factor for each of `labels`; equal ends give a fixed factor.
        prob: probability for each label.
        edge_sigma: sigma in voxels by which the mask's edge is softened; 0 keeps it sharp.
        heterogeneity: standard deviation h of the factor inside the structure; 0 gives one factor for all of it.
        heterogeneity_sigma: sigma in voxels of the noise's smoothness.
        only_if: change only items whose value under this key is true, e.g. where translated and real images are
            mixed; None changes all.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        labels: Sequence[int],
        ranges: Sequence[Sequence[float]],
        prob: float = 0.1,
        edge_sigma: float = 0.0,
        heterogeneity: float = 0.0,
        heterogeneity_sigma: float = 2.0,
        only_if: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(labels) != len(ranges):
            raise ValueError(f"{len(labels)} labels but {len(ranges)} ranges: give one range for each label")
        if any(len(ends) != 2 or not 0 <= ends[0] <= ends[1] for ends in ranges):
            raise ValueError(f"ranges must be pairs 0 <= low <= high, got {ranges}")
        self.label_key = label_key
        self.labels = tuple(labels)
        self.ranges = tuple(tuple(ends) for ends in ranges)
        self.edge_sigma = edge_sigma
        self.heterogeneity = heterogeneity
        self.heterogeneity_sigma = heterogeneity_sigma
        self.only_if = only_if
        self.factors: dict[int, float] = {}

    def randomize(self, data: Any = None) -> None:
        """Draws which labels change and by which factor."""
        self.factors = {}
        for label, (low, high) in zip(self.labels, self.ranges, strict=True):
            super().randomize(None)
            factor = float(self.R.uniform(low, high))
            if self._do_transform:
                self.factors[label] = factor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Changes the images; the label stays."""
        d = dict(data)
        self.randomize()
        if self.only_if is not None and not d.get(self.only_if, False):
            return d
        for label, factor in self.factors.items():
            mask = torch.as_tensor(d[self.label_key]) == label
            if not mask.any():
                continue
            box = _padded_box(mask[0], margin=int(np.ceil(3 * self.edge_sigma)))
            gain = 1 + self._soft(mask[box].float()) * (self._factor_map(factor, mask[box].shape) - 1)
            for key in self.key_iterator(d):
                image = d[key].clone()
                image[box] = image[box] * gain.to(image)
                d[key] = image
        return d

    def _soft(self, mask: torch.Tensor) -> torch.Tensor:
        return _smooth(mask, self.edge_sigma) if self.edge_sigma > 0 else mask

    def _factor_map(self, factor: float, shape: Sequence[int]) -> torch.Tensor:
        if self.heterogeneity == 0:
            return torch.tensor(factor)
        noise = _smooth(
            torch.as_tensor(self.R.standard_normal(tuple(shape)), dtype=torch.float32), self.heterogeneity_sigma
        )
        noise = noise / noise.std().clamp_min(1e-6)
        return (factor * (1 + self.heterogeneity * noise)).clamp_min(0)


def _padded_box(mask: torch.Tensor, margin: int) -> tuple[slice, ...]:
    """Bounding box of a mask (X, Y, Z), grown by a margin, as slices of (C, X, Y, Z)."""
    box = [slice(None)]
    for axis, size in enumerate(mask.shape):
        others = [other for other in range(mask.ndim) if other != axis]
        inside = torch.nonzero(mask.amax(dim=others)).flatten()
        box.append(slice(max(int(inside[0]) - margin, 0), min(int(inside[-1]) + margin + 1, size)))
    return tuple(box)


def _smooth(volume: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (1, X, Y, Z)."""
    return torch.as_tensor(GaussianFilter(3, sigma)(torch.as_tensor(volume)[None])[0])
