"""Random contrast, brightness and gamma of an image, or of one structure in it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import AdjustContrast, MapTransform, RandomizableTransform

from crossmoda.transforms.label_intensity import padded_box


class RandRegionIntensityd(RandomizableTransform, MapTransform):
    """Draws contrast w, brightness b and gamma for an image or for one structure (Chen 2023, 3.2; form from the code).

    x -> ((x - m) w + m) b + o, then gamma of the range, with mean and standard deviation kept. For a whole image m is
    its mean, and mean, deviation and range of the gamma step are the image's. For a structure m is the mean inside it,
    and the gamma step looks at the box around it, so that a structure of one grey level changes too; only the
    structure's voxels take the new values. The code's m there is the sum inside the structure divided by the box's
    size, which depends on the box: ours is the mean. Values are not clipped.

    MONAI's `RandScaleIntensityFixedMeand`, `RandScaleIntensityd` and `RandAdjustContrastd` in turn do the same to a
    whole image, but for o, which is normally distributed; they know no structures. `RandLabelIntensityd` is for
    images >= 0.

    Args:
        keys: images (C, X, Y, Z), of any range.
        contrast: lowest and highest w.
        brightness: lowest and highest b, a factor.
        gamma: lowest and highest gamma, > 0.
        offset_std: standard deviation of o, one number for the whole image.
        label_key: label map (1, X, Y, Z); None for the whole image.
        labels: classes that together are the structure.
        margin: voxels around the structure that its box has more.
        prob: probability.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        contrast: Sequence[float] = (1.0, 1.0),
        brightness: Sequence[float] = (1.0, 1.0),
        gamma: Sequence[float] = (1.0, 1.0),
        offset_std: float = 0.0,
        label_key: str | None = None,
        labels: Sequence[int] = (),
        margin: int = 2,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        for name, ends in (("contrast", contrast), ("brightness", brightness), ("gamma", gamma)):
            if len(ends) != 2 or not 0 <= ends[0] <= ends[1] or (name == "gamma" and ends[0] == 0):
                raise ValueError(f"{name} must be a pair 0 <= low <= high (gamma > 0), got {ends}")
        self.ranges = tuple(tuple(ends) for ends in (contrast, brightness, gamma))
        self.offset_std = offset_std
        self.label_key = label_key
        self.labels = tuple(labels)
        self.margin = margin
        self.contrast, self.brightness, self.gamma, self.offset = 1.0, 1.0, 1.0, 0.0

    def randomize(self, data: Any = None) -> None:
        """Draws the four numbers."""
        super().randomize(None)
        self.contrast, self.brightness, self.gamma = (float(self.R.uniform(*ends)) for ends in self.ranges)
        self.offset = float(self.R.normal(0, self.offset_std))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Changes the images; the label stays."""
        d = dict(data)
        self.randomize()
        if not self._do_transform:
            return d
        if self.label_key is None:
            for key in self.key_iterator(d):
                d[key] = self._vary(torch.as_tensor(d[key]), None)
            return d
        label = torch.as_tensor(d[self.label_key])
        mask = torch.isin(label, torch.tensor(self.labels, dtype=label.dtype, device=label.device))
        if not mask.any():
            return d
        box = padded_box(mask[0], self.margin)
        for key in self.key_iterator(d):
            image = torch.as_tensor(d[key]).clone()
            image[box] = torch.where(mask[box], self._vary(image[box], mask[box]), image[box])
            d[key] = image
        return d

    def _vary(self, image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        mean = image.mean() if mask is None else image[mask.expand_as(image)].mean()
        image = ((image - mean) * self.contrast + mean) * self.brightness + self.offset
        if image.numel() < 2:
            return image  # no standard deviation to keep
        return torch.as_tensor(AdjustContrast(self.gamma, retain_stats=True)(image))
