"""nonzero_region, by itself and in MONAI's CropForeground."""

from __future__ import annotations

import torch
from monai.transforms import CropForeground

from crossmoda.transforms import nonzero_region


def test_negative_values_count_and_zeros_around_go():
    image = torch.zeros(1, 6, 5, 4)
    image[0, 1, 2, 1], image[0, 4, 3, 1] = -3, 5
    assert nonzero_region(image).sum() == 2
    cropped = CropForeground(select_fn=nonzero_region, allow_smaller=True)(image)
    assert torch.equal(cropped.as_tensor(), image[:, 1:5, 2:4, 1:2])


def test_blank_image_stays_whole():
    image = torch.zeros(1, 6, 5, 4)
    assert nonzero_region(image).all()
    assert CropForeground(select_fn=nonzero_region, allow_smaller=True)(image).shape == image.shape
