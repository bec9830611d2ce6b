"""MONAI's RandGaussianSharpend with the bundle's arguments is Li 2021's sharpening."""

import torch
from monai.networks.layers import GaussianFilter
from monai.transforms import RandGaussianSharpend


def test_sharpening_is_the_papers_formula():
    x = torch.rand(1, 20, 16, 12, generator=torch.Generator().manual_seed(0))
    s, alpha = (1.5, 1.5), (10.0, 10.0)
    sharpen = RandGaussianSharpend(
        "image", sigma1_x=s, sigma1_y=s, sigma1_z=s, sigma2_x=s, sigma2_y=s, sigma2_z=s, alpha=alpha, prob=1.0
    )
    blur = GaussianFilter(3, 1.5)
    blurred = blur(x[None])[0]
    expected = blurred + 10 * (blurred - blur(blurred[None])[0])  # I_s = I_b + (I_b - I_bb) alpha
    assert torch.allclose(sharpen({"image": x})["image"], expected, atol=1e-5)
