"""Random changes of the targets' own intensity in translated images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.networks.layers import GaussianFilter
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple


class LabelVolumesd(MapTransform):
    """Notes the volume of each class under `<key>_volumes`, {class: mm3}; goes before any crop.

    A crop cuts structures, so that the size of a tumour can't be told from a patch. MONAI has no such transform.

    Args:
        keys: label maps (1, X, Y, Z), MetaTensors whose affine is in mm.
        labels: class numbers to measure.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, labels: Sequence[int] = (1, 2), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = tuple(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds the volumes."""
        d = dict(data)
        for key in self.key_iterator(d):
            voxel = abs(float(np.linalg.det(np.asarray(d[key].affine, dtype=float)[:3, :3])))
            d[f"{key}_volumes"] = {label: voxel * int((d[key] == label).sum()) for label in self.labels}
        return d


class RandLabelIntensityd(RandomizableTransform, MapTransform):
    """Multiplies the voxels inside a structure by a random factor, or replaces them by a random level.

    Translators tend to give all tumours one look; on real hrT2 they vary from site to site. Choi 2021 halves the
    tumour's signal in a copy of every translated volume (VS Dice 0.72 -> 0.84), LaTIM 2022 and the 2023 winner draw
    from several factors for VS and cochlea. MONAI changes the intensity of whole images only.

    Each label is changed with probability `prob`, independently: y = x * (1 + M (f - 1)), M the label's mask, f
    uniform in its range, times 1 + h n, n smooth noise of unit variance. The result is not clipped. A factor can't
    bring back what a translation has wiped out: with `replace` y = x (1 - M) + M f, where f is the structure's level.
    Here x and y are shares of `value_range`.

    Args:
        keys: images (C, X, Y, Z).
        label_key: label map (1, X, Y, Z) of the same grid.
        labels: class numbers to change, or several that together are one structure (the tumour's parts) and change
            alike. One may come twice with other `volumes`.
        ranges: lowest and highest factor for each of `labels`; equal ends give a fixed factor.
        replace: `ranges` are levels, as shares of `value_range`, which take the voxels' place.
        value_range: the images' values of black and of 1, e.g. (-1, 1): what factors multiply is what lies above black.
        discrete: `ranges` holds for each of `labels` the factors themselves, each as likely as the others.
        volumes: lowest and highest volume in mm3 for each of `labels`, below and above which it stays as it is; an end
            may be None, and so may a pair. Needs `LabelVolumesd` before the crop. None changes all.
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
        labels: Sequence[int | Sequence[int]],
        ranges: Sequence[Sequence[float]],
        replace: bool = False,
        value_range: Sequence[float] = (0.0, 1.0),
        discrete: bool = False,
        volumes: Sequence[Sequence[float | None] | None] | None = None,
        prob: float = 0.1,
        edge_sigma: float = 0.0,
        heterogeneity: float = 0.0,
        heterogeneity_sigma: float = 2.0,
        only_if: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(labels) != len(ranges) or (volumes is not None and len(labels) != len(volumes)):
            raise ValueError(f"{len(labels)} labels: give one entry of ranges (and of volumes) for each label")
        if any(len(factors) == 0 or min(factors) < 0 for factors in ranges):
            raise ValueError(f"factors must be >= 0, got {ranges}")
        if not discrete and any(len(ends) != 2 or ends[0] > ends[1] for ends in ranges):
            raise ValueError(f"ranges must be pairs 0 <= low <= high, got {ranges}")
        if len(value_range) != 2 or value_range[0] >= value_range[1]:
            raise ValueError(f"value_range must be a pair black < white, got {value_range}")
        self.label_key = label_key
        self.black, self.width = float(value_range[0]), float(value_range[1]) - float(value_range[0])
        self.labels = tuple(ensure_tuple(label) for label in labels)
        self.ranges = tuple(tuple(factors) for factors in ranges)
        self.replace = replace
        self.discrete = discrete
        self.volumes = tuple(volumes) if volumes is not None else (None,) * len(self.labels)
        self.edge_sigma = edge_sigma
        self.heterogeneity = heterogeneity
        self.heterogeneity_sigma = heterogeneity_sigma
        self.only_if = only_if
        self.factors: list[float | None] = []

    def randomize(self, data: Any = None) -> None:
        """Draws a factor for each of the labels; None leaves it as it is."""
        self.factors = []
        for factors in self.ranges:
            super().randomize(None)
            factor = float(self.R.choice(factors) if self.discrete else self.R.uniform(*factors))
            self.factors.append(factor if self._do_transform else None)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Changes the images; the label stays.

        Raises:
            ValueError: if a volume matters and `LabelVolumesd` has not measured it.
        """
        d = dict(data)
        self.randomize()
        if self.only_if is not None and not d.get(self.only_if, False):
            return d
        label_map = torch.as_tensor(d[self.label_key])
        for labels, factor, bounds in zip(self.labels, self.factors, self.volumes, strict=True):
            if factor is None or not self._within(d, labels, bounds):
                continue
            mask = torch.isin(label_map, torch.tensor(labels, dtype=label_map.dtype, device=label_map.device))
            if not mask.any():
                continue
            box = padded_box(mask[0], margin=3 * [int(np.ceil(3 * self.edge_sigma))])
            soft, factors = self._soft(mask[box].float()), self._factor_map(factor, mask[box].shape)
            for key in self.key_iterator(d):
                image = d[key].clone()
                before = (image[box] - self.black) / self.width
                changed = factors.to(image) if self.replace else before * factors.to(image)
                image[box] = image[box] + soft.to(image) * (changed - before) * self.width
                d[key] = image
        return d

    def _within(
        self, data: Mapping[Hashable, Any], labels: Sequence[int], bounds: Sequence[float | None] | None
    ) -> bool:
        if bounds is None:
            return True
        measured = data.get(f"{self.label_key}_volumes", {})
        if not all(label in measured for label in labels):
            raise ValueError(f"the volume of labels {labels} is not known: put LabelVolumesd before the crop")
        low, high = bounds
        volume = sum(measured[label] for label in labels)
        return (low is None or volume > low) and (high is None or volume < high)

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


def padded_box(mask: torch.Tensor, margin: Sequence[int]) -> tuple[slice, ...]:
    """Bounding box of a mask (X, Y, Z), grown by a margin on each axis, as slices of (C, X, Y, Z)."""
    box = [slice(None)]
    for axis, size in enumerate(mask.shape):
        others = [other for other in range(mask.ndim) if other != axis]
        inside = torch.nonzero(mask.amax(dim=others)).flatten()
        box.append(slice(max(int(inside[0]) - margin[axis], 0), min(int(inside[-1]) + margin[axis] + 1, size)))
    return tuple(box)


def _smooth(volume: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (1, X, Y, Z)."""
    return torch.as_tensor(GaussianFilter(3, sigma)(torch.as_tensor(volume)[None])[0])
